//! The event log's followers: they are told only what was committed, in order, without gaps.
//!
//! A follower that does not keep up is cut with `SLOW_READER` and begins anew after the last event that it has seen; one
//! that asks for what is no longer kept gets `EXPIRED` and has to list again.

use std::collections::VecDeque;
use std::sync::Arc;

use netloom_api::{AnyObject, ErrorReason, Event, EventPage, EventType, Timestamp};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::controller::{Controller, EventFilter, PAGE_MAX};
use crate::error::{Error, Result};
use crate::store::EventQuery;

/// Where a follower begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what happens from now on.
    Now,
    /// After this position.
    After(i64),
    /// With one `created` event per object that exists, then with what happens afterwards.
    Listing,
}

/// One event for a follower.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What happened.
    pub event: Arc<Event>,
    /// Whether nothing is missed by going on after this one. It is in the middle of a listing.
    pub resumes: bool,
}

/// A follower of the log.
pub struct Follower {
    controller: Arc<Controller>,
    filter: EventFilter,
    live: broadcast::Receiver<Arc<Event>>,
    ready: VecDeque<Told>,
    /// All up to here was told or filtered out.
    position: i64,
    /// Up to here the log is read; what comes later is heard.
    until: i64,
    over: bool,
}

impl Follower {
    /// Begins to follow. That the position is no longer kept is said here, not by the first event.
    pub async fn begin(controller: Arc<Controller>, filter: EventFilter, start: Start) -> Result<Self> {
        // In this order no event is missed; those that come twice are skipped by their position.
        let live = controller.store().follow();
        let (ready, until) = match start {
            Start::Now | Start::After(_) => (VecDeque::new(), controller.store().snapshot().seq),
            Start::Listing => {
                let (objects, seq) = controller.everything();
                (listing(objects, seq, &filter), seq)
            }
        };
        let position = match start {
            Start::Now | Start::Listing => until,
            Start::After(seq) => within(seq, until)?,
        };
        let mut follower = Self { controller, filter, live, ready, position, until, over: false };
        if follower.position < follower.until {
            follower.read_on().await?;
        }
        Ok(follower)
    }

    /// The next event; none when the daemon stops, or after an error.
    pub async fn next(&mut self) -> Option<Result<Told>> {
        while !self.over {
            if let Some(told) = self.ready.pop_front() {
                return Some(Ok(told));
            }
            let read = if self.position < self.until { self.read_on().await } else { self.hear().await };
            if let Err(error) = read {
                self.over = true;
                return Some(Err(error));
            }
        }
        None
    }

    /// Reads the next page of the log.
    async fn read_on(&mut self) -> Result<()> {
        let EventFilter { kinds, types, name, actor } = self.filter.clone();
        let limit = u32::try_from(PAGE_MAX).unwrap_or(u32::MAX);
        let (after, until) = (Some(self.position), Some(self.until));
        let page =
            self.controller.events(EventQuery { after, until, kinds, types, name, actor, limit }).await?;
        self.position = page.seq;
        self.ready.extend(page.items.into_iter().map(|event| Told { event: Arc::new(event), resumes: true }));
        Ok(())
    }

    /// Waits for the next event.
    async fn hear(&mut self) -> Result<()> {
        match self.live.recv().await {
            Ok(event) if event.seq <= self.position => {}
            Ok(event) => {
                self.position = event.seq;
                if self.filter.admits(&event) {
                    self.ready.push_back(Told { event, resumes: true });
                }
            }
            Err(RecvError::Lagged(missed)) => {
                let detail =
                    format!("{missed} events were missed; begin again after the last one that was read");
                return Err(Error::new(ErrorReason::SlowReader, detail));
            }
            Err(RecvError::Closed) => self.over = true,
        }
        Ok(())
    }
}

/// A page of the log.
pub async fn page(controller: &Controller, query: EventQuery) -> Result<EventPage> {
    if let Some(after) = query.after {
        within(after, controller.store().snapshot().seq)?;
    }
    controller.events(query).await
}

/// A position beyond the end is of another log, e.g. of before a backup was restored: waiting there would miss events.
fn within(after: i64, end: i64) -> Result<i64> {
    if after <= end {
        return Ok(after);
    }
    let detail = format!("the log ends at {end}, so {after} is not a position of it; list again");
    Err(Error::new(ErrorReason::Expired, detail))
}

/// What exists, as if it had just been made.
fn listing(objects: Vec<AnyObject>, seq: i64, filter: &EventFilter) -> VecDeque<Told> {
    let events = objects.into_iter().map(|object| created(object, seq)).filter(|event| filter.admits(event));
    let mut told: VecDeque<Told> =
        events.map(|event| Told { event: Arc::new(event), resumes: false }).collect();
    if let Some(last) = told.back_mut() {
        last.resumes = true;
    }
    told
}

fn created(object: AnyObject, seq: i64) -> Event {
    let ready = object.ready().cloned();
    let meta = object.meta();
    Event {
        seq,
        time: Timestamp::now(),
        type_: EventType::Created,
        kind: object.kind(),
        name: meta.name.clone(),
        uid: meta.uid,
        generation: meta.generation,
        actor: None,
        request_id: None,
        reason: ready.as_ref().map(|ready| ready.reason.as_str().to_owned()),
        message: ready.map(|ready| ready.message).filter(|message| !message.is_empty()),
        object: Some(object),
    }
}
