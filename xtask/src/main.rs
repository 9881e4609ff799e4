//! The habits of this repository as commands: `cargo xtask --help`.

mod bench;
mod cargo;
mod daemon;
mod nightly;
mod openapi;
mod soak;

use clap::{Parser, Subcommand};

/// The habits of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the golden files anew: OpenAPI, wire descriptor, schema, and whatever else a golden test compares
    Openapi,
    /// Measure raw netlink and the same work over REST, interleaved, on a private host
    Bench(bench::Options),
    /// Attach, change and detach for a while under crashes and drift, and judge what grows
    Soak(soak::Options),
    /// Run the long forms of the tests: sweeps, model, races, decoders, soak
    Nightly(nightly::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Openapi => openapi::update(),
        Command::Bench(options) => bench::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Nightly(options) => nightly::run(&options),
    }
}
