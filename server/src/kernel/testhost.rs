//! For tests only: runs a test on a private host of its own, in its own process.
//!
//! The test binary starts itself again, inside fresh namespaces, with this one test selected. So tests run in
//! parallel, every one as the root of an empty host, and none of them can touch the machine.
//!
//! ```ignore
//! #[test]
//! fn a_bridge_can_be_made() {
//!     on_private_host(|| { /* … */ });
//! }
//! ```
//!
//! A test that cannot run on a machine says why and passes; with `CI=true` it fails.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_dumpable;
use nix::unistd::{Gid, Uid, alarm};

use super::private::{FailedStep, Preparation, go_on_in_child};

/// Set inside of a private host.
const MARK: &str = "NETLOOM_TEST_HOST";
/// Printed when the test came to its end, so that a filter that selects nothing is not taken for success.
const DONE: &str = "netloom test host: done";
/// The exit code of a process that could not enter its private host.
const NOT_ENTERED: i32 = 77;
/// Tests that last longer hang, unless this says that they may.
const SECONDS: libc::c_uint = 180;
const MORE_SECONDS: &str = "NETLOOM_TEST_SECONDS";
/// `nobody`, everywhere.
const NOBODY: u32 = 65534;

/// Runs the test on a private host.
pub fn on_private_host(test: impl FnOnce()) {
    on_host_of(Uid::effective(), Gid::effective(), test);
}

/// Runs the test on a private host that an ordinary user made, also when we are root.
pub fn on_private_host_of_ordinary_user(test: impl FnOnce()) {
    if Uid::effective().is_root() && std::env::var_os(MARK).is_none() {
        on_host_of(Uid::from_raw(NOBODY), Gid::from_raw(NOBODY), test);
    } else {
        on_private_host(test);
    }
}

/// For a test that finds out on its private host that it cannot run: says so; fails with `CI=true`.
#[allow(clippy::panic, reason = "this is how a test fails")]
pub fn cannot_run(why: &str) {
    let strict = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!strict, "cannot run, and CI=true leaves nothing out: {why}");
    println!("NOT RUN: {why}");
}

/// A process in a network namespace, as a container would be. It ends when this is dropped.
#[derive(Debug)]
pub struct Workload(Child);

impl Workload {
    /// In a network namespace and a pid namespace of its own: the process is a child of the one that is returned, and
    /// calls itself 1.
    pub fn start() -> io::Result<Self> {
        Self::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID)?;
            // SAFETY: this child of a fork execs next.
            unsafe { go_on_in_child() }
        })
    }

    /// In this network namespace.
    pub fn start_in(namespace: OwnedFd) -> io::Result<Self> {
        Self::spawn(move || setns(&namespace, CloneFlags::CLONE_NEWNET))
    }

    /// Of the first process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    #[allow(clippy::disallowed_methods, reason = "tests start processes; the daemon does not")]
    fn spawn(mut enter: impl FnMut() -> Result<(), Errno> + Send + Sync + 'static) -> io::Result<Self> {
        let mut command = Command::new("sleep");
        command.arg(SECONDS.to_string());
        // SAFETY: the closures make system calls only; they neither allocate nor lock.
        unsafe { command.pre_exec(move || Ok(enter()?)) };
        command.spawn().map(Self)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // It may have ended already; the private host takes the rest with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[allow(clippy::panic, reason = "this is how a test fails")]
fn on_host_of(uid: Uid, gid: Gid, test: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        test();
        println!("{DONE}");
        return;
    }
    let thread = std::thread::current();
    let name = match thread.name() {
        Some(name) if name != "main" => name,
        _ => panic!("call this on the thread of the test: its name is the name of the test"),
    };
    let output = match start(name, uid, gid) {
        Ok(output) => output,
        Err(error) => return cannot_run(&format!("{name}: this test binary does not start again: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) if text.contains(DONE) => println!("{text}"),
        Some(0) => panic!("{name} did not run on its private host:\n{text}"),
        Some(NOT_ENTERED) => cannot_run(&format!("{name}: {text}")),
        _ if output.status.signal() == Some(libc::SIGALRM) => {
            panic!("{name} took longer than {} s:\n{text}", seconds())
        }
        _ => panic!("{name} failed on its private host, {}:\n{text}", output.status),
    }
}

fn seconds() -> libc::c_uint {
    std::env::var(MORE_SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS)
}

#[allow(clippy::disallowed_methods, reason = "tests start themselves again; the daemon does not")]
fn start(name: &str, uid: Uid, gid: Gid) -> io::Result<Output> {
    let preparation = Preparation::now(uid, gid);
    // The child cannot format.
    let hint = format!("; {}\n", preparation.hint());
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", name, "--nocapture", "--include-ignored"]).env(MARK, name);
    if uid != Uid::effective() {
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    let seconds = seconds();
    let before_exec = move || {
        // A process that changed its user may not write its own maps otherwise.
        set_dumpable(true)?;
        alarm::set(seconds);
        // SAFETY: this child of a fork execs next.
        match unsafe { preparation.enter() } {
            Ok(_) => Ok(()),
            Err(FailedStep { step, errno }) => {
                for text in ["no private host: ", step, ": ", errno.desc(), hint.as_str()] {
                    // SAFETY: pointer and length belong to one string. Descriptor 2 is the pipe to the parent.
                    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
                }
                // SAFETY: takes a number and does not return.
                unsafe { libc::_exit(NOT_ENTERED) }
            }
        }
    };
    // SAFETY: the closure makes system calls only; it neither allocates nor locks.
    unsafe { command.pre_exec(before_exec) };
    command.output()
}
