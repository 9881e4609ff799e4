//! The command `netloom`.

fn main() -> std::process::ExitCode {
    netloom_client::command::main()
}
