//! Status: what the reconciler last learned of each object, and who waits for it.
//!
//! A cache of the kernel: written by the reconciler alone, empty at boot, filled by the first pass.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use netloom_api::{Condition, ConditionReason, ConditionStatus, Timestamp, Uid};
use tokio::{sync::oneshot, time::Instant};

use crate::hostnet::{Facts, Failure};

/// What is known of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Whether the kernel is as the spec wants, and why.
    pub ready: Condition,
    /// What the kernel chose.
    pub facts: Facts,
    /// What the kernel said when it refused.
    pub failure: Option<Failure>,
    /// The revision of the object that this is about. Labels count here, and not in the generation.
    pub revision: i64,
}

/// All statuses.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Uid, Entry>,
    waiters: HashMap<Uid, Vec<oneshot::Sender<()>>>,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Waited {
    /// The kernel is as this revision, or a later one, wants it.
    Ready,
    /// It is not, and why.
    Failed(Entry),
    /// The object is gone.
    Gone,
    /// Nothing was said in time.
    TimedOut,
}

impl Board {
    /// What is known of an object.
    pub fn get(&self, uid: &Uid) -> Option<Entry> {
        self.lock().entries.get(uid).cloned()
    }

    /// Whether an object is ready, as far as it is known.
    pub fn status(&self, uid: &Uid) -> Option<ConditionStatus> {
        self.lock().entries.get(uid).map(|entry| entry.ready.status)
    }

    /// Writes what is known; keeps the time of the last transition when the status is the same. Tells whether the
    /// condition changed.
    pub(super) fn set(&self, uid: Uid, mut entry: Entry) -> bool {
        let mut inner = self.lock();
        let old = inner.entries.get(&uid);
        let same_status = old.is_some_and(|old| old.ready.status == entry.ready.status);
        if let Some(old) = old.filter(|_| same_status) {
            entry.ready.last_transition_time = old.ready.last_transition_time;
        }
        let changed = old.is_none_or(|old| {
            (old.ready.status, old.ready.reason) != (entry.ready.status, entry.ready.reason)
        });
        inner.entries.insert(uid, entry);
        wake(&mut inner, &uid);
        changed
    }

    /// Forgets an object that is gone.
    pub(super) fn remove(&self, uid: &Uid) {
        let mut inner = self.lock();
        inner.entries.remove(uid);
        wake(&mut inner, uid);
    }

    /// How many objects are Ready, and how many are not.
    pub fn tally(&self) -> (usize, usize) {
        let inner = self.lock();
        let ready =
            inner.entries.values().filter(|entry| entry.ready.status == ConditionStatus::True).count();
        (ready, inner.entries.len() - ready)
    }

    /// Waits until an object of at least this revision is Ready or has failed. `exists` tells whether it is still in
    /// the World; it is asked after each change.
    pub async fn settled(
        &self,
        uid: Uid,
        revision: i64,
        within: Duration,
        exists: impl Fn() -> bool,
    ) -> Waited {
        let deadline = Instant::now() + within;
        loop {
            // First in line, then the look: no change can be missed in between.
            let mut place = self.enlist(uid);
            if !exists() {
                return Waited::Gone;
            }
            match self.get(&uid) {
                Some(entry) if entry.revision >= revision => match entry.ready.status {
                    ConditionStatus::True => return Waited::Ready,
                    ConditionStatus::False => return Waited::Failed(entry),
                    ConditionStatus::Unknown => {}
                },
                Some(_) | None => {}
            }
            if tokio::time::timeout_at(deadline, &mut place.changed).await.is_err() {
                return Waited::TimedOut;
            }
        }
    }

    /// Waits until an object is gone; false when it is not in time.
    pub async fn gone(&self, uid: Uid, within: Duration, exists: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let mut place = self.enlist(uid);
            if !exists() {
                return true;
            }
            if tokio::time::timeout_at(deadline, &mut place.changed).await.is_err() {
                return false;
            }
        }
    }

    fn enlist(&self, uid: Uid) -> InLine<'_> {
        let (sender, changed) = oneshot::channel();
        self.lock().waiters.entry(uid).or_default().push(sender);
        InLine { board: self, uid, changed }
    }

    /// A panic while the lock is held leaves plain maps, whole at every step.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line of those who wait for an object. Whoever leaves takes it along: nobody comes by any more for an
/// object that is gone.
struct InLine<'b> {
    board: &'b Board,
    uid: Uid,
    changed: oneshot::Receiver<()>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.changed.close();
        let mut inner = self.board.lock();
        let Some(waiters) = inner.waiters.get_mut(&self.uid) else { return };
        waiters.retain(|waiter| !waiter.is_closed());
        if waiters.is_empty() {
            inner.waiters.remove(&self.uid);
        }
    }
}

fn wake(inner: &mut Inner, uid: &Uid) {
    for waiter in inner.waiters.remove(uid).into_iter().flatten() {
        // Whoever gave up waiting is not there to hear it.
        let _ = waiter.send(());
    }
}

impl Entry {
    /// Nothing has been done yet.
    pub fn pending() -> Self {
        Self::new(ConditionStatus::Unknown, ConditionReason::Pending, (0, 0), String::new())
    }

    /// A condition of now, without facts; of an object's generation and revision.
    pub fn new(
        status: ConditionStatus,
        reason: ConditionReason,
        (generation, revision): (i64, i64),
        message: String,
    ) -> Self {
        let ready = Condition {
            type_: "Ready".into(),
            status,
            reason,
            message,
            observed_generation: generation,
            last_transition_time: Timestamp::now(),
        };
        Self { ready, facts: Facts::default(), failure: None, revision }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_kept_of_those_who_waited() {
        let (board, uid, moment) = (Board::default(), Uid::generate(), Duration::from_millis(5));
        assert!(board.gone(uid, moment, || false).await);
        assert_eq!(board.settled(uid, 1, moment, || false).await, Waited::Gone);
        assert!(!board.gone(uid, moment, || true).await);
        let (first, second) =
            tokio::join!(board.settled(uid, 1, moment, || true), board.settled(uid, 1, moment, || true));
        assert_eq!((first, second), (Waited::TimedOut, Waited::TimedOut));
        assert!(board.lock().waiters.is_empty());
    }

    #[tokio::test]
    async fn one_who_gives_up_leaves_the_others_in_line() {
        let (board, uid) = (Board::default(), Uid::generate());
        let patient = board.settled(uid, 1, Duration::from_secs(60), || true);
        let hasty = async {
            let waited = board.settled(uid, 1, Duration::from_millis(5), || true).await;
            board.set(
                uid,
                Entry::new(ConditionStatus::True, ConditionReason::Programmed, (1, 1), String::new()),
            );
            waited
        };
        assert_eq!(tokio::join!(patient, hasty), (Waited::Ready, Waited::TimedOut));
        assert!(board.lock().waiters.is_empty());
    }
}
