//! How soon the daemon is ready with many attachments: beside a kernel that is in step, and after a reboot, when the
//! kernel has nothing.

use std::time::{Duration, Instant};

use anyhow::ensure;
use netloom_server::kernel::Kernel;

use super::{rest::Rest, stats::Times};

/// Attachments of one apply; each is three objects.
const AT_ONCE: u16 = 250;
const TIMES: usize = 5;

/// Measures and prints.
pub(super) fn print(rest: &mut Rest, held: u16) -> anyhow::Result<()> {
    if held == 0 {
        return Ok(());
    }
    println!("\nStarts with {held} attachments, each with a published port; ms\n");
    println!("| | n | median | most |");
    println!("|---|---|---|---|");
    let begin = Instant::now();
    for first in (0..held).step_by(AT_ONCE.into()) {
        rest.apply_all(first..held.min(first + AT_ONCE))?;
    }
    let made = begin.elapsed();
    let (rss, fresh) = (rest.resident_kib()?, usize::from(held));
    line("made by applies", &[made]);
    line("restart in step", &several(rest, fresh, || Ok(()))?);
    line("after a reboot", &several(rest, fresh, empty)?);
    println!("\nMemory: {rss} KiB when they were made, {} KiB after the last start.", rest.resident_kib()?);
    for number in 0..held {
        rest.delete(number)?;
    }
    Ok(())
}

fn several(
    rest: &mut Rest,
    wanted: usize,
    meanwhile: impl Fn() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Duration>> {
    let mut all = Vec::new();
    for _ in 0..TIMES {
        all.push(rest.restart(&meanwhile)?);
        let ready = rest.ready()?;
        ensure!(ready == wanted, "{ready} of {wanted} attachments are ready after a start");
    }
    Ok(all)
}

/// What a reboot leaves of it.
fn empty() -> anyhow::Result<()> {
    Kernel::open()?.purge(false).map_err(anyhow::Error::msg)?;
    Ok(())
}

fn line(name: &str, all: &[Duration]) {
    let mut times = Times::default();
    all.iter().for_each(|time| times.push(*time));
    println!("| {name} | {} | {:.0} | {:.0} |", times.count(), times.median(), times.p99());
}
