//! Where a test lets the daemon die or has an effect fail.
//!
//! An effect is what outlives the process: a batch to the kernel, a system call that changes the host, a transaction.
//! Every one passes its points here: before, in its middle if it has one, and after. Without the feature `faults` the
//! points are nothing and cost nothing; only the programs of the tests have them. A tidy test sees to it that no effect
//! is made without them.

use std::fmt;

/// What is about to be done to the world outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// A batch of route messages: links, addresses, routes.
    Route,
    /// A batch for the firewall; the kernel does all of it or nothing.
    Firewall,
    /// Flows are forgotten.
    Flows,
    /// A kernel switch is written.
    Sysctl,
    /// A namespace gets its name: the file, then the mount.
    Pin,
    /// A namespace loses its name: the mount, then the file.
    Unpin,
    /// A host port is claimed.
    Claim,
    /// A transaction of the database.
    Transaction,
    /// The log of the database reaches the disk.
    Sync,
}

impl Effect {
    /// All of them.
    pub const ALL: [Effect; 9] = [
        Effect::Route,
        Effect::Firewall,
        Effect::Flows,
        Effect::Sysctl,
        Effect::Pin,
        Effect::Unpin,
        Effect::Claim,
        Effect::Transaction,
        Effect::Sync,
    ];

    /// As records name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::Route => "route",
            Effect::Firewall => "firewall",
            Effect::Flows => "flows",
            Effect::Sysctl => "sysctl",
            Effect::Pin => "pin",
            Effect::Unpin => "unpin",
            Effect::Claim => "claim",
            Effect::Transaction => "transaction",
            Effect::Sync => "sync",
        }
    }
}

/// Where in an effect a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is done yet.
    Before,
    /// Some of it is done.
    Between,
    /// All of it is done, and nobody knows.
    After,
}

/// What becomes of an effect that is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done, and answered with this errno.
    Refused(i32),
    /// It is done, and the answer never comes.
    Lost,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refused(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            Fault::Lost => f.write_str("the answer was lost"),
        }
    }
}

/// Before an effect: what is to become of it, if not what it is for.
#[inline]
pub fn before(effect: Effect) -> Option<Fault> {
    armed::pass(effect, Phase::Before)
}

/// Whether the process is to die in the middle of an effect: the caller does the first part and calls [`die`].
#[inline]
pub fn dies_between(effect: Effect) -> bool {
    armed::dies(effect)
}

/// After an effect.
#[inline]
pub fn after(effect: Effect) {
    armed::pass(effect, Phase::After);
}

/// Does an effect that is one system call, with its points around it.
#[inline]
pub fn around<T>(
    effect: Effect,
    call: impl FnOnce() -> Result<T, nix::errno::Errno>,
) -> Result<T, nix::errno::Errno> {
    match before(effect) {
        Some(Fault::Refused(errno)) => return Err(nix::errno::Errno::from_raw(errno)),
        // A system call cannot lose its answer.
        Some(Fault::Lost) | None => {}
    }
    let done = call();
    after(effect);
    done
}

#[cfg(not(feature = "faults"))]
mod armed {
    use super::{Effect, Fault, Phase};

    #[inline(always)]
    pub(super) fn pass(_: Effect, _: Phase) -> Option<Fault> {
        None
    }

    #[inline(always)]
    pub(super) fn dies(_: Effect) -> bool {
        false
    }
}

#[cfg(not(feature = "faults"))]
#[inline(always)]
/// Ends the process at once.
pub fn die() {}

#[cfg(feature = "faults")]
pub use armed::{Script, arm, die};

#[cfg(feature = "faults")]
mod armed {
    use std::{
        fs::{File, OpenOptions},
        io::Write as _,
        path::PathBuf,
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::{Effect, Fault, Phase};

    /// What happens at the points; the first is number 1.
    #[derive(Debug)]
    pub struct Script {
        /// A line for each point that is passed: `NUMBER EFFECT PHASE`.
        pub record: Option<PathBuf>,
        /// The process dies here (SIGKILL).
        pub die_at: Option<u64>,
        /// The effect fails here; of a point that is not before an effect nothing comes.
        pub fail_at: Option<(u64, Fault)>,
        /// So long every effect takes at least.
        pub slow: Duration,
    }

    struct Armed {
        record: Option<File>,
        script: Script,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    /// Arms the points of this process, once.
    pub fn arm(script: Script) -> std::io::Result<()> {
        let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
        let record = script.record.as_ref().map(open).transpose()?;
        // A second script would count wrong.
        ARMED.set(Armed { record, script }).map_err(|_| std::io::Error::other("the points are armed already"))
    }

    pub(super) fn pass(effect: Effect, phase: Phase) -> Option<Fault> {
        let Armed { script, .. } = ARMED.get()?;
        let number = reached(effect, phase);
        if script.die_at == Some(number) {
            die();
        }
        if phase == Phase::Before {
            std::thread::sleep(script.slow);
        }
        script.fail_at.filter(|(at, _)| *at == number && phase == Phase::Before).map(|(_, fault)| fault)
    }

    pub(super) fn dies(effect: Effect) -> bool {
        let Some(Armed { script, .. }) = ARMED.get() else { return false };
        script.die_at == Some(reached(effect, Phase::Between))
    }

    /// Counts a point, and records it before anything happens there.
    fn reached(effect: Effect, phase: Phase) -> u64 {
        let number = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(mut file) = ARMED.get().and_then(|armed| armed.record.as_ref()) {
            let line = format!("{number} {} {phase:?}\n", effect.as_str());
            // One write, so that lines of several threads do not mix.
            if let Err(error) = file.write_all(line.as_bytes()) {
                tracing::error!(%error, "a point was not recorded");
            }
        }
        number
    }

    /// Ends the process at once, as `kill -9` does.
    pub fn die() {
        // Nothing can be said any more.
        let _ = kill(Pid::this(), Signal::SIGKILL);
        loop {
            std::thread::park();
        }
    }
}
