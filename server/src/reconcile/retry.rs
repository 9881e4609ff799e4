//! What failed is tried again by itself: soon, then ever more rarely, and in the end it is left to the full pass.

use std::{collections::BTreeMap, time::Duration};

use netloom_api::{Kind, Name};
use tokio::time::Instant;

/// After the first failure; each further one doubles it.
const FIRST: Duration = Duration::from_millis(100);
/// What would take longer is left to the full pass, which is about as rare.
const LONGEST: Duration = Duration::from_secs(60);

/// How long to wait after so many failures in a row.
pub(super) fn pause(failures: u32) -> Option<Duration> {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1))?;
    FIRST.checked_mul(factor).filter(|pause| *pause <= LONGEST)
}

/// The objects whose last round failed, and when they are tried again.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<(Kind, Name), Retry>);

#[derive(Debug, Default)]
struct Retry {
    failures: u32,
    /// None while it is being tried, or when it is left to the full pass.
    due: Option<Instant>,
}

impl Retries {
    /// The object's round failed.
    pub(super) fn failed(&mut self, object: (Kind, Name), now: Instant) {
        let retry = self.0.entry(object).or_default();
        retry.failures += 1;
        retry.due = pause(retry.failures).map(|pause| now + pause);
    }

    /// The object is right, or gone, or nothing that can be tried.
    pub(super) fn settled(&mut self, object: &(Kind, Name)) {
        self.0.remove(object);
    }

    /// When the next one is to be tried.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|retry| retry.due).min()
    }

    /// Those that are to be tried now, once.
    pub(super) fn take(&mut self, now: Instant) -> Vec<(Kind, Name)> {
        let is_due = |retry: &Retry| retry.due.is_some_and(|due| due <= now);
        let due = self.0.iter_mut().filter(|(_, retry)| is_due(retry));
        due.map(|(object, retry)| {
            retry.due = None;
            object.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_ever_more_rarely_and_then_left_to_the_full_pass() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        let object = (Kind::Network, "v-net-0".parse::<Name>().unwrap());
        let mut now = start;
        let mut tries = 0;
        retries.failed(object.clone(), now);
        while let Some(due) = retries.next() {
            assert!(retries.take(now).is_empty(), "not before its time");
            now = due;
            assert_eq!(retries.take(now), std::slice::from_ref(&object));
            assert_eq!(retries.next(), None, "once");
            tries += 1;
            retries.failed(object.clone(), now);
        }
        assert_eq!((tries, now - start), (10, Duration::from_millis(102_300)));
        retries.settled(&object);
        retries.failed(object, now);
        assert_eq!(retries.next(), Some(now + FIRST), "after a success it begins anew");
    }
}
