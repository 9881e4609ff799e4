//! The command, as `netloom` is.

fn main() -> std::process::ExitCode {
    netloom_client::command::main()
}
