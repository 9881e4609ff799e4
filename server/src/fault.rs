//! Where a test lets the daemon die or has an effect fail.
//!
//! An effect is what outlives the process: a batch to the kernel, a system call that changes the host, a transaction.
//! Every one passes its points here: before, in its middle if it has one, and after; the process can die there. Every
//! request, of an effect or only for an answer, can also be refused, or lose its answer. Without the feature `faults`
//! all this is nothing and costs nothing; only the programs of the tests have it. A tidy test sees to it that no effect
//! is made without its points.

use std::fmt;

/// What is done to the world outside, or asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// A batch of route messages: links, addresses, routes. Each message is a request.
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
    /// A database file comes into being, is copied, or gets its name.
    File,
    /// The kernel is asked for something; nothing changes.
    Question,
    /// The database is read; nothing changes.
    Read,
}

impl Effect {
    /// All of them.
    pub const ALL: [Effect; 12] = [
        Effect::Route,
        Effect::Firewall,
        Effect::Flows,
        Effect::Sysctl,
        Effect::Pin,
        Effect::Unpin,
        Effect::Claim,
        Effect::Transaction,
        Effect::Sync,
        Effect::File,
        Effect::Question,
        Effect::Read,
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
            Effect::File => "file",
            Effect::Question => "question",
            Effect::Read => "read",
        }
    }

    /// Whether anything is there afterwards that was not before, so that a death can leave it half done.
    pub fn changes(self) -> bool {
        !matches!(self, Effect::Question | Effect::Read)
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

/// What becomes of a request that is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done, and answered with this errno; of the database, with this result code of SQLite.
    Refused(i32),
    /// It is done, and the answer never comes.
    Lost,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refused(code) => write!(f, "refused with {code} by a test"),
            Fault::Lost => f.write_str("a test lost the answer"),
        }
    }
}

/// Before an effect that is one request: what is to become of it, if not what it is for.
#[inline]
pub fn before(effect: Effect) -> Option<Fault> {
    begin(effect);
    request(effect)
}

/// Before an effect of several requests.
#[inline]
pub fn begin(effect: Effect) {
    armed::pass(effect, Phase::Before);
}

/// One request: what is to become of it, if not what it is for.
#[inline]
pub fn request(effect: Effect) -> Option<Fault> {
    armed::request(effect)
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

/// Whether the kernel is to be taken for one that knows no owners of tables.
#[inline]
pub fn without_owners() -> bool {
    armed::without_owners()
}

#[cfg(not(feature = "faults"))]
mod armed {
    use super::{Effect, Fault, Phase};

    #[inline(always)]
    pub(super) fn without_owners() -> bool {
        false
    }

    #[inline(always)]
    pub(super) fn pass(_: Effect, _: Phase) {}

    #[inline(always)]
    pub(super) fn request(_: Effect) -> Option<Fault> {
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
pub use armed::{Script, Told, arm, die, told};

#[cfg(feature = "faults")]
mod armed {
    use std::{
        collections::BTreeMap,
        fs::{File, OpenOptions},
        io::Write as _,
        path::PathBuf,
        sync::{Mutex, MutexGuard, PoisonError},
        time::Duration,
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use super::{Effect, Fault, Phase};

    /// What happens at the points, and to which request.
    #[derive(Clone, Debug, Default)]
    pub struct Script {
        /// A line for each point that is passed: `NUMBER EFFECT PHASE`.
        pub record: Option<PathBuf>,
        /// The process dies at this point (SIGKILL); the first is number 1.
        pub die_at: Option<u64>,
        /// Of the requests of this effect the one of this number, from 1, fails in this way.
        pub fail: Option<(Effect, u64, Fault)>,
        /// So long every effect takes at least.
        pub slow: Duration,
        /// The kernel is taken for one that knows no owners of tables.
        pub without_owners: bool,
    }

    /// What has happened since the points were armed.
    #[derive(Clone, Debug, Default)]
    pub struct Told {
        /// How many requests of each effect there were.
        pub requests: BTreeMap<Effect, u64>,
        /// Whether one of them failed as the script says.
        pub failed: bool,
    }

    #[derive(Default)]
    struct Armed {
        record: Option<File>,
        script: Script,
        passed: u64,
        told: Told,
    }

    static ARMED: Mutex<Option<Armed>> = Mutex::new(None);

    /// Arms the points of this process; counts begin anew.
    pub fn arm(script: Script) -> std::io::Result<()> {
        let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
        let record = script.record.as_ref().map(open).transpose()?;
        *lock() = Some(Armed { record, script, ..Armed::default() });
        Ok(())
    }

    /// What has happened since.
    pub fn told() -> Told {
        lock().as_ref().map(|armed| armed.told.clone()).unwrap_or_default()
    }

    fn lock() -> MutexGuard<'static, Option<Armed>> {
        ARMED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn without_owners() -> bool {
        lock().as_ref().is_some_and(|armed| armed.script.without_owners)
    }

    pub(super) fn pass(effect: Effect, phase: Phase) {
        if reached(effect, phase) {
            die();
        }
        let slow = lock().as_ref().map(|armed| armed.script.slow).unwrap_or_default();
        if phase == Phase::Before {
            std::thread::sleep(slow);
        }
    }

    pub(super) fn dies(effect: Effect) -> bool {
        reached(effect, Phase::Between)
    }

    pub(super) fn request(effect: Effect) -> Option<Fault> {
        let mut armed = lock();
        let Armed { script, told, .. } = armed.as_mut()?;
        let number = told.requests.entry(effect).or_default();
        *number += 1;
        let (_, _, fault) = script.fail.filter(|(of, at, _)| (*of, *at) == (effect, *number))?;
        told.failed = true;
        tracing::info!(effect = effect.as_str(), number = *number, %fault, "a request fails");
        Some(fault)
    }

    /// Counts a point, and records it before anything happens there. Whether it is the one to die at.
    fn reached(effect: Effect, phase: Phase) -> bool {
        let mut armed = lock();
        let Some(Armed { record, script, passed, .. }) = armed.as_mut() else { return false };
        *passed += 1;
        if let Some(file) = record {
            let line = format!("{passed} {} {phase:?}\n", effect.as_str());
            if let Err(error) = file.write_all(line.as_bytes()) {
                tracing::error!(%error, "a point was not recorded");
            }
        }
        script.die_at == Some(*passed)
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
