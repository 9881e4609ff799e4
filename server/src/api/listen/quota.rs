//! How much of one caller goes on at once: so many requests, and apart from them so many streams.
//!
//! A request beyond the limit stands in line for as long as it may wait, in the order of coming, its body unread; a
//! stream does not, since those before it may never end. Each caller has a line of its own: nobody waits for another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::refusal::Refusal;
use crate::config::Limits;

/// The shares of all callers.
#[derive(Debug)]
pub(super) struct Quotas {
    limits: Limits,
    callers: Mutex<HashMap<String, Arc<Quota>>>,
}

/// What is left to one caller.
#[derive(Debug)]
struct Quota {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// Held by a request until its answer is sent or given up.
#[derive(Debug)]
pub(super) struct Share {
    permit: Option<OwnedSemaphorePermit>,
    line: Line,
}

/// Being known as a caller who is here; the last one out takes the quota away.
#[derive(Debug)]
struct Line {
    quotas: Arc<Quotas>,
    actor: String,
    quota: Option<Arc<Quota>>,
}

impl Quotas {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Quotas { limits, callers: Mutex::default() })
    }

    /// Waits for a share for at most so long.
    pub(super) async fn take(
        self: &Arc<Self>,
        actor: &str,
        stream: bool,
        wait: Duration,
    ) -> Result<Share, Refusal> {
        let quota = self.lock().entry(actor.to_owned()).or_insert_with(|| self.quota()).clone();
        let of = if stream { quota.streams.clone() } else { quota.requests.clone() };
        let line = Line { quotas: self.clone(), actor: actor.to_owned(), quota: Some(quota) };
        let limit = if stream { self.limits.caller_streams } else { self.limits.caller_requests };
        let wait = if stream { Duration::ZERO } else { wait };
        let permit = match of.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match timeout(wait, of.acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => return Err(Refusal::TooMany { limit, stream }),
            },
        };
        Ok(Share { permit: Some(permit), line })
    }

    fn quota(&self) -> Arc<Quota> {
        let Limits { caller_requests, caller_streams, .. } = self.limits;
        let room = |count| Arc::new(Semaphore::new(count));
        Arc::new(Quota { requests: room(caller_requests), streams: room(caller_streams) })
    }

    /// A panic while the lock is held leaves a plain map.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Quota>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.permit = None;
        // The line goes after it.
        let _ = &self.line;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut callers = self.quotas.lock();
        self.quota = None;
        if callers.get(&self.actor).is_some_and(|quota| Arc::strong_count(quota) == 1) {
            callers.remove(&self.actor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_beyond_its_share_waits_in_line_and_nobody_waits_for_another() {
        let quotas = Quotas::new(Limits { caller_requests: 2, caller_streams: 1, ..Limits::default() });
        let wait = Duration::from_secs(20);
        let first = quotas.take("a", false, wait).await.unwrap();
        let _second = quotas.take("a", false, wait).await.unwrap();
        let refused = quotas.take("a", false, Duration::ZERO).await.unwrap_err();
        assert_eq!(refused, Refusal::TooMany { limit: 2, stream: false });
        let _other = quotas.take("b", false, Duration::ZERO).await.unwrap();
        let mut third = Box::pin(quotas.take("a", false, wait));
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        drop(first);
        third.await.unwrap();
    }

    #[tokio::test]
    async fn streams_are_counted_apart_and_do_not_wait() {
        let quotas = Quotas::new(Limits { caller_requests: 1, caller_streams: 1, ..Limits::default() });
        let wait = Duration::from_secs(20);
        let _stream = quotas.take("a", true, wait).await.unwrap();
        let _request = quotas.take("a", false, wait).await.unwrap();
        let refused = quotas.take("a", true, wait).await.unwrap_err();
        assert_eq!(refused, Refusal::TooMany { limit: 1, stream: true });
    }

    #[tokio::test]
    async fn of_a_caller_who_is_gone_nothing_is_left() {
        let quotas = Quotas::new(Limits { caller_requests: 1, ..Limits::default() });
        let share = quotas.take("a", false, Duration::ZERO).await.unwrap();
        quotas.take("a", false, Duration::ZERO).await.unwrap_err();
        assert_eq!(quotas.lock().len(), 1);
        drop(share);
        assert_eq!(quotas.lock().len(), 0);
    }
}
