//! Nothing leaks: lifecycles by many clients for minutes, while the daemon is killed, callers hang up, and somebody takes
//! links and addresses away. After each round everything that was made is deleted again, and what is left is counted.
//!
//! The kernel must be as before after every round. What the daemon itself holds is judged by its slope over the second half,
//! in which it is not killed any more.

mod churn;
mod drift;
mod gauge;

use std::os::unix::process::CommandExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use netloom_server::kernel::private;

use crate::cargo::{cargo, program, release};
use crate::daemon::Daemon;
use churn::Churn;
use drift::Drift;
use gauge::{Gauge, Sample};

/// How long, and how much at once.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How long
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Lifecycles at once
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: u16,
    /// What the daemon logs
    #[arg(long, default_value = "error")]
    log: String,
    /// With what is built already beside this program, whatever the profile: to try the soak itself
    #[arg(long)]
    as_is: bool,
}

/// Between two counts.
const ROUND: Duration = Duration::from_secs(10);
/// What the event log keeps: its table must reach its size soon.
const CONFIG: &str = "[events]\ncount = 2000\n";

/// Builds with the release profile and runs there.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if cfg!(debug_assertions) && !options.as_is {
        cargo(&["build", "--release", "--package", "xtask", "--package", "netloom-server"], &[])?;
        let error = program(release("xtask")).args(std::env::args_os().skip(1)).exec();
        return Err(error).context("the release build does not start");
    }
    // Before any thread starts: the process goes on as another one, inside.
    private::enter()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(soak(options))
}

async fn soak(options: &Options) -> anyhow::Result<()> {
    let state = tempfile::tempdir()?;
    let config = state.path().join("netloomd.toml");
    std::fs::write(&config, CONFIG)?;
    let config = config.to_str().context("the directory for temporary files has a strange name")?;
    let mut daemon = Daemon::start(state.path(), &["--config", config, "--log", &options.log])?;
    let churn = Arc::new(Churn::new(options.clients));
    churn.prepare().await?;
    let drift = Arc::new(Drift::new().await?);
    let gauge = Gauge::new(state.path())?;
    let before = gauge.kernel()?;

    let end = Instant::now() + Duration::from_secs_f64(options.minutes * 60.0);
    let half = Instant::now() + Duration::from_secs_f64(options.minutes * 30.0);
    let mut away = Vec::new();
    let (mut samples, mut from) = (Vec::<Sample>::new(), 0);
    println!("{}", Sample::HEAD);
    while Instant::now() < end {
        let until = Instant::now() + ROUND;
        let clients: Vec<_> =
            (0..options.clients).map(|client| tokio::spawn(churn.clone().run(client, until))).collect();
        let drifting = tokio::spawn(drift.clone().run(until));
        if Instant::now() < half {
            tokio::time::sleep(ROUND / 2).await;
            away.push(daemon.crash_and_restart(|| Ok(()))?);
            from = samples.len() + 1;
        }
        for client in clients {
            client.await??;
        }
        drifting.await??;
        let lifecycles = churn.lifecycles.load(Ordering::Relaxed);
        let sample = gauge.sample(&daemon, lifecycles).await?;
        println!("{sample}");
        samples.push(sample);
        let after = gauge.settled(&before).await?;
        ensure!(after == before, "the kernel is not as before:\n{}", gauge::difference(&before, &after));
    }
    churn.report();
    println!("daemon killed {} times, ready again within {:?}", away.len(), away.iter().max());
    drift.report();
    gauge::judge(&samples[from.min(samples.len())..])
}
