//! The daemon, as `netloomd` is.

fn main() -> std::process::ExitCode {
    netloom_server::command::main()
}
