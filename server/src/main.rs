//! The network daemon.

fn main() -> std::process::ExitCode {
    netloom_server::command::main()
}
