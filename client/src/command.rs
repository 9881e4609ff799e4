//! The command `netloom`: the API for people.
//!
//! It parses, calls, prints and exits with a documented code; whatever it can do, the library can. `ns exec` alone
//! does something that no daemon is asked for: it enters the namespace in this process and becomes the command.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::{
    cmd::{self, Cli, Outcome},
    fault::{self, Exit},
};

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        // The runtime ends before anything else happens: a process that becomes another has one thread.
        Ok(runtime) => runtime.block_on(cmd::run(cli)),
        Err(error) => Err(error.into()),
    };
    let outcome = outcome.and_then(|outcome| match outcome {
        Outcome::Done => Ok(Exit::Done),
        Outcome::NotReady => Ok(Exit::NotReady),
        Outcome::NotReached => Ok(Exit::NotReached),
        Outcome::Partly => Ok(Exit::Refused),
        Outcome::Become(command) => match command.run()? {},
    });
    let exit = outcome.unwrap_or_else(|error| fault::report(&error));
    ExitCode::from(exit.code())
}

/// All words of the command line, with their help.
pub fn tree() -> clap::Command {
    Cli::command()
}
