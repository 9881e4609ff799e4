//! Requests that can be known again by their key. Those of one key take turns: a retry that overtakes its first try waits
//! for it, and repeats its answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use netloom_api::RequestId;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;

use super::{Caller, Change, Terms, WriteOptions, edit::Edit, intent::now};
use crate::store::RequestRecord;

/// A request that can be known again.
pub(super) struct Request {
    pub(super) actor: String,
    pub(super) key: RequestId,
    pub(super) hash: String,
}

impl Request {
    pub(super) fn of(changes: &[Change], options: &WriteOptions, caller: &Caller) -> Option<Self> {
        let key = options.request_id.clone()?;
        let hash = match options.terms == Terms::default() {
            true => Sha256::digest(format!("{changes:?}")),
            false => Sha256::digest(format!("{changes:?} {:?}", options.terms)),
        };
        let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { actor: caller.actor.clone(), key, hash })
    }

    /// The record names the first object of the set; what a replay answers is looked up by the changes.
    pub(super) fn record(&self, edit: &Edit) -> Option<RequestRecord> {
        let (fate, uid) = edit.fates.iter().find_map(|fate| Some((fate, fate.uid?)))?;
        Some(RequestRecord {
            actor: self.actor.clone(),
            key: self.key.clone(),
            hash: self.hash.clone(),
            kind: fate.kind,
            name: fate.name.clone(),
            uid,
            time: now(),
        })
    }
}

/// Who asks, and by which key.
type Key = (String, RequestId);
type Line = Arc<tokio::sync::Mutex<()>>;

/// The keys that somebody is at, or waits for.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Key, Line>>);

/// Having the turn, or standing in line for it.
pub(super) struct Turn {
    turns: Arc<Turns>,
    key: Key,
    line: Option<Line>,
    turn: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn, in the order of coming.
    pub(super) async fn take(self: &Arc<Self>, request: &Request) -> Turn {
        let key = (request.actor.clone(), request.key.clone());
        let line = self.lock().entry(key.clone()).or_default().clone();
        let mut turn = Turn { turns: self.clone(), key, line: Some(line.clone()), turn: None };
        turn.turn = Some(line.lock_owned().await);
        turn
    }

    /// A panic while the lock is held leaves a plain map.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lines = self.turns.lock();
        (self.turn, self.line) = (None, None);
        // The last one out takes the line away, also one who left without a turn.
        if lines.get(&self.key).is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(key: &str) -> Request {
        Request { actor: "uid:0".into(), key: key.parse().unwrap(), hash: String::new() }
    }

    #[tokio::test]
    async fn one_key_is_one_s_at_a_time_and_nothing_is_left_of_it() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(&request("a")).await;
        let other = turns.take(&request("b")).await;
        let moment = Duration::from_millis(5);
        assert!(
            tokio::time::timeout(moment, turns.take(&request("a"))).await.is_err(),
            "it waits, and leaves"
        );
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { drop(turns.take(&request("a")).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop((first, other));
        waiting.await.unwrap();
        assert_eq!(turns.lock().len(), 0);
    }
}
