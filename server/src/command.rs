//! `netloomd`: what the command line asks for.

use std::{io::Read as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use netloom_api::Timestamp;

use crate::{
    api::auth,
    config::{Cli, Command, Config, TokenAccess},
    controller::Rights,
    daemon, kernel, lab, telemetry,
};

/// Bad usage, as in sysexits.h.
const EX_USAGE: u8 = 64;

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.clone().unwrap_or(Command::Run) {
        // The private host must be entered before any thread exists.
        Command::Lab(options) => lab::main(&options, &cli.settings),
        Command::HashToken { name, access, scope, expires } => {
            report(rights(access, &scope).and_then(|rights| hash_token(&name, &rights, expires)))
        }
        Command::Run => with_config(&cli, |config| {
            telemetry::init(&config.log, config.log_format)?;
            daemon::raise_file_limit();
            // Before there is a second thread, so that all of them have given up the same.
            kernel::confine::confine().context("what is not needed cannot be given up")?;
            runtime()?.block_on(daemon::run(config))
        }),
        Command::Purge { dry_run } => with_config(&cli, |config| purge(config, dry_run)),
        Command::Backup { file } => {
            with_config(&cli, |config| runtime()?.block_on(daemon::backup(config, &file)))
        }
        Command::CheckConfig => with_config(&cli, |_| {
            println!("the configuration is good");
            Ok(())
        }),
    }
}

fn with_config(cli: &Cli, work: impl FnOnce(&Config) -> anyhow::Result<()>) -> ExitCode {
    match Config::load(&cli.settings) {
        Ok(config) => report(work(&config)),
        Err(error) => {
            eprintln!("netloomd: {error}");
            ExitCode::from(EX_USAGE)
        }
    }
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netloomd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The runtime of the daemon.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime can be started")
}

fn rights(access: TokenAccess, scopes: &[String]) -> anyhow::Result<Rights> {
    match access {
        _ if !scopes.is_empty() => {
            Rights::parse(scopes.iter().map(String::as_str)).map_err(|why| anyhow::anyhow!("--scope: {why}"))
        }
        TokenAccess::Read => Ok(Rights::read()),
        TokenAccess::Full => Ok(Rights::Full),
    }
}

fn hash_token(name: &str, rights: &Rights, expires: Option<Timestamp>) -> anyhow::Result<()> {
    let mut token = String::new();
    std::io::stdin().take(64 * 1024).read_to_string(&mut token).context("no token on standard input")?;
    println!("{}", auth::token_line(name, token.trim_end_matches(['\r', '\n']), rights, expires)?);
    Ok(())
}

/// Removes what bears our marks. With a running daemon it would only come back, so that is refused.
fn purge(config: &Config, dry_run: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        std::os::unix::net::UnixStream::connect(&config.socket.path).is_err(),
        "netloomd is running on {}; stop it first",
        config.socket.path.display()
    );
    let lines = runtime()?.block_on(daemon::purge(config, dry_run))?;
    for line in &lines {
        println!("{line}");
    }
    let word = if dry_run { "would be removed" } else { "removed" };
    println!("{} things {word}", lines.len());
    Ok(())
}
