//! What there is after a round: in the kernel, in the daemon, in the database.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use netloom_client::AllocationQuery;
use netloom_server::kernel::Kernel;
use netloom_server::reconcile::Host as _;

use super::churn::connect;
use crate::daemon::Daemon;

/// One count.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    lifecycles: u64,
    rss_kib: u64,
    descriptors: u64,
    threads: u64,
    links: u64,
    elements: u64,
    allocations: u64,
    database_kib: u64,
}

/// Counts.
pub(super) struct Gauge {
    kernel: Kernel,
    state: PathBuf,
}

/// Until the last reaper is done.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
/// What memory may grow by in the second half, as a share.
const RSS_MAY_GROW: f64 = 0.05;
/// More than sockets that happen to be open.
const HANDLES_MAY_GROW: f64 = 2.0;

impl Sample {
    pub(super) const HEAD: &str =
        "lifecycles  rss KiB  descriptors  threads  links  elements  allocations  database KiB";
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lifecycles, rss_kib, descriptors, threads, links, elements, allocations, database_kib } =
            self;
        write!(
            f,
            "{lifecycles:>10} {rss_kib:>8} {descriptors:>12} {threads:>8} {links:>6} {elements:>9} \
             {allocations:>12} {database_kib:>13}"
        )
    }
}

impl Gauge {
    pub(super) fn new(state: &Path) -> anyhow::Result<Self> {
        Ok(Self { kernel: Kernel::open()?, state: state.to_owned() })
    }

    /// All of the kernel that is ours, as text.
    pub(super) fn kernel(&self) -> anyhow::Result<String> {
        self.kernel.observe().map(|net| net.to_string()).map_err(anyhow::Error::msg)
    }

    /// The same once it is as it was, or after a while.
    pub(super) async fn settled(&self, before: &str) -> anyhow::Result<String> {
        let began = Instant::now();
        loop {
            let now = self.kernel()?;
            if now == before || began.elapsed() > SETTLES_WITHIN {
                return Ok(now);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn sample(&self, daemon: &Daemon, lifecycles: u64) -> anyhow::Result<Sample> {
        let process = PathBuf::from(format!("/proc/{}", daemon.pid()));
        let status = std::fs::read_to_string(process.join("status"))?;
        let number = |key: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
            Ok(line.split_whitespace().next().context("an empty line")?.parse()?)
        };
        let net = self.kernel.observe().map_err(anyhow::Error::msg)?;
        let query = AllocationQuery { page_size: Some(1000), ..AllocationQuery::default() };
        Ok(Sample {
            lifecycles,
            rss_kib: number("VmRSS:")?,
            descriptors: std::fs::read_dir(process.join("fd"))?.count() as u64,
            threads: number("Threads:")?,
            links: net.links.len() as u64,
            elements: net.rules.elements.len() as u64,
            allocations: connect().await?.allocations(query).await?.items.len() as u64,
            database_kib: std::fs::metadata(self.state.join("netloom.db"))?.len() / 1024,
        })
    }
}

/// The lines that only one of them has.
pub(super) fn difference(before: &str, after: &str) -> String {
    let only = |one: &str, other: &str, sign: &str| -> String {
        let lines = one.lines().filter(|line| !other.lines().any(|another| another == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    only(before, after, "-") + &only(after, before, "+")
}

/// Whether nothing grows: by the slope over the later half of the samples, which the first ones do not disturb.
pub(super) fn judge(samples: &[Sample]) -> anyhow::Result<()> {
    let later = &samples[samples.len() / 2..];
    if later.len() < 3 {
        println!("too short to judge by slope; the kernel was as before after every round");
        return Ok(());
    }
    let mut grows = Vec::new();
    let mut judge = |what: &str, of: fn(&Sample) -> u64, may: f64| {
        let growth = growth(later, of);
        println!("{what}: {growth:+.1} over {} rounds, at most {may:.1} allowed", later.len());
        if growth > may {
            grows.push(what.to_owned());
        }
    };
    let rss = later[0].rss_kib as f64;
    judge("rss KiB", |sample| sample.rss_kib, rss * RSS_MAY_GROW);
    judge("descriptors", |sample| sample.descriptors, HANDLES_MAY_GROW);
    judge("threads", |sample| sample.threads, HANDLES_MAY_GROW);
    judge("links", |sample| sample.links, 0.5);
    judge("elements", |sample| sample.elements, 0.5);
    judge("allocations", |sample| sample.allocations, 0.5);
    judge("database KiB", |sample| sample.database_kib, later[0].database_kib as f64 * RSS_MAY_GROW);
    if !grows.is_empty() {
        bail!("grows: {}", grows.join(", "));
    }
    println!("nothing grows");
    Ok(())
}

/// By how much it grows from the first to the last sample: least squares over lifecycles.
fn growth(samples: &[Sample], of: fn(&Sample) -> u64) -> f64 {
    let count = samples.len() as f64;
    let mean = |value: &dyn Fn(&Sample) -> f64| samples.iter().map(value).sum::<f64>() / count;
    let at = |sample: &Sample| sample.lifecycles as f64;
    let (mean_at, mean_of) = (mean(&at), mean(&|sample| of(sample) as f64));
    let spread = mean(&|sample| (at(sample) - mean_at).powi(2));
    if spread == 0.0 {
        return 0.0;
    }
    let slope = mean(&|sample| (at(sample) - mean_at) * (of(sample) as f64 - mean_of)) / spread;
    let width = samples.last().map_or(0.0, at) - samples.first().map_or(0.0, at);
    slope * width
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rss: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |n: u64| Sample {
            lifecycles: n * 100,
            rss_kib: rss(n),
            descriptors: 40 + n % 2,
            threads: 9,
            links: 20,
            elements: 90,
            allocations: 17,
            database_kib: 500,
        };
        (0..20).map(sample).collect()
    }

    #[test]
    fn what_grows_in_the_second_half_is_found_and_what_wobbles_is_not() {
        assert!(judge(&samples(|n| 30_000 + n % 3 * 100)).is_ok());
        assert!(judge(&samples(|n| 30_000 + n.min(5) * 2_000)).is_ok(), "it grows in the beginning only");
        let error = judge(&samples(|n| 30_000 + n * 400)).unwrap_err();
        assert_eq!(error.to_string(), "grows: rss KiB");
    }
}
