//! The audit of writes that were refused. What was done is in the log as it is: each event has its actor and request.
//!
//! A refusal is an event of type `audit`, about the object that it was about, or about the host where that is not known.
//! There are only so many: who is refused again and again shall not push out of the log what happened. Those of strangers
//! have less room, so that they cannot hide those of callers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use netloom_api::{Event, EventType, Kind, Name, Uid};

use super::{Caller, Change, Committed, Controller, WriteOptions, render};
use crate::{
    error::{Error, Result},
    store::Batch,
};

/// A write that was refused before it was read.
#[derive(Clone, Debug)]
pub struct Denied {
    /// Whether it is known who called.
    pub known: bool,
    /// Who called, or from where.
    pub actor: String,
    /// The request's id.
    pub request_id: String,
    /// What was called.
    pub what: String,
    /// Why not.
    pub error: Error,
}

/// How much room refusals have in the log.
#[derive(Debug)]
pub(super) struct Ledger {
    callers: Mutex<Bucket>,
    strangers: Mutex<Bucket>,
}

/// So many at once, and one more per period.
#[derive(Debug)]
struct Bucket {
    left: u32,
    size: u32,
    period: Duration,
    filled: Option<Instant>,
    /// Of which nothing was written.
    dropped: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            callers: Mutex::new(Bucket::new(100, Duration::from_millis(200))),
            strangers: Mutex::new(Bucket::new(10, Duration::from_secs(6))),
        }
    }
}

impl Controller {
    /// Makes the changes, all or none, and waits for the kernel as long as the options say. A refusal is in the audit.
    pub async fn commit(
        self: &Arc<Self>,
        changes: Vec<Change>,
        options: &WriteOptions,
        caller: &Caller,
    ) -> Result<Committed> {
        let asked = changes.clone();
        let done = self.commit_or_plan(changes, options, caller).await;
        if let Err(error) = &done
            && !options.dry_run
        {
            self.audit_changes(&asked, caller, error);
        }
        done
    }

    /// Writes down that a write was refused.
    pub fn denied(&self, denied: Denied) {
        let Denied { known, actor, request_id, what, error } = denied;
        self.audit(known, actor, request_id, &what, &error, None);
    }

    /// Writes down that changes were refused.
    pub(super) fn audit_changes(&self, changes: &[Change], caller: &Caller, error: &Error) {
        let what = match changes {
            [Change::Create(_)] => "create".to_owned(),
            [Change::Put(_)] => "apply".to_owned(),
            [Change::Patch(_)] => "update".to_owned(),
            [Change::Delete(_)] => "delete".to_owned(),
            many => format!("apply of {}", many.len()),
        };
        let target = match changes {
            [one] => Some(one.target()),
            _ => None,
        };
        self.audit(true, caller.actor.clone(), caller.trace.clone(), &what, error, target);
    }

    fn audit(
        &self,
        known: bool,
        actor: String,
        request_id: String,
        what: &str,
        error: &Error,
        target: Option<(Kind, Name)>,
    ) {
        let bucket = if known { &self.ledger.callers } else { &self.ledger.strangers };
        let Some(dropped) = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) else {
            return;
        };
        let Ok(mut event) = render::event_of_host(EventType::Audit) else { return };
        if let Some((kind, name)) = target {
            event.uid = self.intent.committed().get_any(kind, &name).map_or(Uid::HOST, |old| old.meta().uid);
            (event.kind, event.name) = (kind, name);
        }
        let more = if dropped > 0 { format!("; {dropped} more before this one") } else { String::new() };
        let message = format!("{what} refused: {}{more}", error.detail);
        let event = Event {
            actor: Some(actor),
            request_id: Some(request_id),
            reason: Some(error.reason.as_str().to_owned()),
            message: Some(message),
            ..event
        };
        if let Err(error) = self.intent.store().submit(Batch { events: vec![event], ..Batch::default() }) {
            tracing::warn!(%error, "a refused write is not in the audit");
        }
    }
}

impl Bucket {
    fn new(size: u32, period: Duration) -> Self {
        Bucket { left: size, size, period, filled: None, dropped: 0 }
    }

    /// Room for one, and how many had none since the last; none if there is no room.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let filled = *self.filled.get_or_insert(now);
        let periods = now.saturating_duration_since(filled).as_nanos() / self.period.as_nanos().max(1);
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(periods).min(self.size);
        self.filled =
            if self.left == self.size { Some(now) } else { filled.checked_add(self.period * periods) };
        if self.left == 0 {
            self.dropped += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_written_at_once_and_those_that_are_not_are_counted() {
        let second = Duration::from_secs(1);
        let mut bucket = Bucket::new(3, second);
        let start = Instant::now();
        let taken: Vec<_> = (0..6).map(|_| bucket.take(start)).collect();
        assert_eq!(taken, [Some(0), Some(0), Some(0), None, None, None]);
        assert_eq!(bucket.take(start + second), Some(3));
        assert_eq!(bucket.take(start + second), None);
        assert_eq!(bucket.take(start + second * 3 / 2), None, "the half is not lost");
        assert_eq!(bucket.take(start + second * 2), Some(2));
        let later: Vec<_> = (0..4).map(|_| bucket.take(start + second * 100)).collect();
        assert_eq!(later, [Some(0), Some(0), Some(0), None]);
    }
}
