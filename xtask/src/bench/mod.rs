//! What netloom costs beside what the kernel costs, in one run on a private host.
//!
//! Absolute times drift from run to run, so the two are interleaved, in rounds whose order turns, and read as ratios.
//! The floor (`floor.rs`) makes a namespace, a cable, an address, a route and one firewall element with the fewest netlink
//! messages; it stores nothing and guards nothing. The other side makes a Namespace, an Attachment and a PortForward over
//! REST on the unix socket, and waits until each is Ready and durable.

mod floor;
mod rest;
mod starts;
mod stats;
mod wire;

use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use netloom_server::kernel::private;

use crate::cargo::{cargo, program, release};
use floor::Floor;
use rest::Rest;
use stats::Times;

/// How much to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How often the candidates take turns
    #[arg(long, default_value_t = 8)]
    rounds: u16,
    /// Attachments of each candidate in a round
    #[arg(long, default_value_t = 25)]
    batch: u16,
    /// Attachments held at once to measure growth; 0: none
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(0..=1000))]
    held: u16,
    /// Attachments with which the daemon is started again; 0: none
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(0..=1000))]
    starts: u16,
    /// Only the floor: no daemon
    #[arg(long)]
    floor: bool,
    /// Measure with what is built already beside this program, whatever the profile: to try the benchmark itself
    #[arg(long)]
    as_is: bool,
}

/// Builds with the release profile and measures there.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if cfg!(debug_assertions) && !options.as_is {
        let mut build = vec!["build", "--release", "--package", "xtask"];
        if !options.floor {
            build.extend(["--package", "netloom-server"]);
        }
        cargo(&build, &[])?;
        let error = program(release("xtask")).args(std::env::args_os().skip(1)).exec();
        return Err(error).context("the release build does not start");
    }
    // Before any thread starts: the process goes on as another one, inside.
    private::enter()?;
    measure(options)
}

fn measure(options: &Options) -> anyhow::Result<()> {
    print_surroundings()?;
    let mut bench = Bench { floor: Floor::new()?, rest: None };
    if !options.floor {
        bench.rest = Some(Rest::start()?);
    }
    let candidates: &[Candidate] = if options.floor {
        &[Candidate::Floor]
    } else {
        &[Candidate::Floor, Candidate::Calls, Candidate::Apply]
    };
    // What is slow the first time only is not what is asked here.
    for candidate in candidates {
        bench.turn(*candidate, 3)?;
    }
    let mut results: Vec<Measured> = candidates.iter().map(|_| Measured::default()).collect();
    for round in 0..options.rounds {
        let forwards = (0..candidates.len()).collect::<Vec<_>>();
        let order = if round % 2 == 0 { forwards } else { forwards.into_iter().rev().collect() };
        for index in order {
            let turn = bench.turn(candidates[index], options.batch)?;
            results[index].join(turn);
        }
    }
    print_main(candidates, &results);
    if options.held > 0 {
        println!("\n{} held at once, then all removed; ms, medians\n", options.held);
        println!("| | first 50 | last 50 | growth | p99 | detach | detach p99 |");
        println!("|---|---|---|---|---|---|---|");
        for candidate in candidates {
            print_held(*candidate, &bench.hold(*candidate, options.held)?);
        }
    }
    if let Some(rest) = &mut bench.rest {
        print_diagnoses(rest, options.held.max(2))?;
        starts::print(rest, options.starts)?;
    }
    Ok(())
}

/// How often each question is asked.
const ASKED: usize = 40;

/// What `diagnose` costs without a probe, with so many attachments there.
fn print_diagnoses(rest: &mut Rest, held: u16) -> anyhow::Result<()> {
    for number in 0..held {
        rest.apply(number)?;
    }
    println!("\nDiagnose, without a probe, with {held} attachments; ms\n");
    println!("| | n | median | p99 |");
    println!("|---|---|---|---|");
    for question in rest::questions() {
        let mut times = Times::default();
        for _ in 0..ASKED {
            times.push(rest.diagnose(&question)?);
        }
        let (count, median, p99) = (times.count(), times.median(), times.p99());
        println!("| {} | {count} | {median:.2} | {p99:.2} |", question.name);
    }
    for number in 0..held {
        rest.delete(number)?;
    }
    Ok(())
}

/// Whose work is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Candidate {
    Floor,
    Calls,
    Apply,
}

impl Candidate {
    fn name(self) -> &'static str {
        match self {
            Candidate::Floor => "raw netlink",
            Candidate::Calls => "REST, three calls",
            Candidate::Apply => "REST, one apply",
        }
    }

    /// The parts of an attach and of a detach.
    fn steps(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Candidate::Floor => (&floor::ATTACH, &floor::DETACH),
            Candidate::Calls => (&rest::CALLS, &rest::DELETES),
            Candidate::Apply => (&[], &rest::DELETES),
        }
    }
}

/// The times of one candidate.
#[derive(Default)]
struct Measured {
    attach: Times,
    detach: Times,
    attach_steps: Vec<Times>,
    detach_steps: Vec<Times>,
}

impl Measured {
    fn attached(&mut self, steps: &[Duration]) {
        record(&mut self.attach, &mut self.attach_steps, steps);
    }

    fn detached(&mut self, steps: &[Duration]) {
        record(&mut self.detach, &mut self.detach_steps, steps);
    }

    fn join(&mut self, other: Measured) {
        self.attach.extend(other.attach);
        self.detach.extend(other.detach);
        for (ours, theirs) in
            [(&mut self.attach_steps, other.attach_steps), (&mut self.detach_steps, other.detach_steps)]
        {
            ours.resize(theirs.len().max(ours.len()), Times::default());
            ours.iter_mut().zip(theirs).for_each(|(ours, theirs)| ours.extend(theirs));
        }
    }
}

fn record(total: &mut Times, parts: &mut Vec<Times>, steps: &[Duration]) {
    total.push(steps.iter().sum());
    parts.resize(steps.len(), Times::default());
    parts.iter_mut().zip(steps).for_each(|(times, step)| times.push(*step));
}

struct Bench {
    floor: Floor,
    rest: Option<Rest>,
}

impl Bench {
    /// Attaches and detaches one after the other.
    fn turn(&mut self, candidate: Candidate, count: u16) -> anyhow::Result<Measured> {
        let mut result = Measured::default();
        for number in 0..count {
            self.attach(candidate, number, &mut result)?;
            self.detach(candidate, number, &mut result)?;
        }
        Ok(result)
    }

    /// Attaches all, then detaches all.
    fn hold(&mut self, candidate: Candidate, count: u16) -> anyhow::Result<Measured> {
        let mut result = Measured::default();
        for number in 0..count {
            self.attach(candidate, number, &mut result)?;
        }
        for number in 0..count {
            self.detach(candidate, number, &mut result)?;
        }
        Ok(result)
    }

    fn attach(&mut self, candidate: Candidate, number: u16, result: &mut Measured) -> anyhow::Result<()> {
        match (candidate, &mut self.rest) {
            (Candidate::Floor, _) => result.attached(&self.floor.attach(number)?),
            (Candidate::Calls, Some(rest)) => result.attached(&rest.create(number)?),
            (Candidate::Apply, Some(rest)) => result.attached(&[rest.apply(number)?]),
            (Candidate::Calls | Candidate::Apply, None) => bail!("there is no daemon"),
        }
        Ok(())
    }

    fn detach(&mut self, candidate: Candidate, number: u16, result: &mut Measured) -> anyhow::Result<()> {
        match (candidate, &mut self.rest) {
            (Candidate::Floor, _) => result.detached(&self.floor.detach(number)?),
            (Candidate::Calls | Candidate::Apply, Some(rest)) => result.detached(&rest.delete(number)?),
            (Candidate::Calls | Candidate::Apply, None) => bail!("there is no daemon"),
        }
        Ok(())
    }
}

/// What the numbers depend on beside the code.
fn print_surroundings() -> anyhow::Result<()> {
    let system = nix::sys::utsname::uname()?;
    let cores = std::thread::available_parallelism()?;
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let disk = nix::sys::statfs::statfs(&std::env::temp_dir())?.filesystem_type();
    println!("Linux {}, {cores} cores, {profile} profile\n", system.release().to_string_lossy());
    if disk == nix::sys::statfs::TMPFS_MAGIC {
        println!(
            "The database is on a tmpfs, where durability costs nothing: set TMPDIR to a directory on a disk.\n"
        );
    }
    Ok(())
}

fn print_main(candidates: &[Candidate], results: &[Measured]) {
    println!("One at a time, interleaved; ms\n");
    println!("| | n | attach | p99 | / floor | detach | p99 | / floor |");
    println!("|---|---|---|---|---|---|---|---|");
    let floor = &results[0];
    for (candidate, result) in candidates.iter().zip(results) {
        let Measured { attach, detach, .. } = result;
        println!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            candidate.name(),
            attach.count(),
            attach.median(),
            attach.p99(),
            attach.median() / floor.attach.median(),
            detach.median(),
            detach.p99(),
            detach.median() / floor.detach.median(),
        );
    }
    println!("\nThe parts; ms\n");
    println!("| | part | median | p99 |");
    println!("|---|---|---|---|");
    for (candidate, result) in candidates.iter().zip(results) {
        let (attach, detach) = candidate.steps();
        let parts = attach.iter().zip(&result.attach_steps).map(|part| ("attach", part));
        for (verb, (step, times)) in
            parts.chain(detach.iter().zip(&result.detach_steps).map(|part| ("detach", part)))
        {
            println!(
                "| {}, {verb} | {step} | {:.3} | {:.3} |",
                candidate.name(),
                times.median(),
                times.p99()
            );
        }
    }
}

fn print_held(candidate: Candidate, result: &Measured) {
    let Measured { attach, detach, .. } = result;
    let (first, last) = (attach.first(50), attach.last(50));
    println!(
        "| {} | {first:.2} | {last:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
        candidate.name(),
        last / first,
        attach.p99(),
        detach.median(),
        detach.p99(),
    );
}
