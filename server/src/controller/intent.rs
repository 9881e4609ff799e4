//! The one place where intent is written: every commit is computed on top of the last one, in order.
//!
//! Writers compute under a lock, on the World as last *submitted*, and wait for the database outside of it; so commits
//! pipeline into the store's groups. When a group fails, what was built on it is refused and computed anew.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use netloom_api::{Event, EventType, Kind, Name, Timestamp, Uid};

use super::{edit::dependents, ports::Ports, render};
use crate::{
    error::{Error, Result},
    reconcile::board::Board,
    store::{Batch, Receipt, RequestRecord, Snapshot, Store, StoreError},
    telemetry::EFFORT,
    world::{AnyStored, World},
};

/// How often a write is computed anew after another one failed under it.
const TRIES: usize = 5;
/// So many steps of a repair are named in its event.
const STEPS_TOLD: usize = 8;

/// The writer of intent.
pub struct Intent {
    store: Store,
    head: tokio::sync::Mutex<Head>,
    /// Host ports that are held by a bound socket.
    pub(super) ports: Ports,
}

/// The World as last submitted.
struct Head {
    world: Arc<World>,
    epoch: u64,
}

/// What a write wants to keep.
pub(super) struct Write {
    /// The World after it.
    pub world: World,
    /// Objects that are new or changed.
    pub puts: Vec<AnyStored>,
    /// Objects that are gone.
    pub removes: Vec<AnyStored>,
    /// Cursors that have moved.
    pub cursors: Vec<(Name, netloom_api::Cidr, std::net::IpAddr)>,
    /// What happened.
    pub events: Vec<Event>,
    /// The request that asked for it.
    pub request: Option<RequestRecord>,
    /// The request that it undoes.
    pub undone: Option<(String, netloom_api::RequestId)>,
}

impl Intent {
    /// A writer on top of what the store has.
    pub fn new(store: Store) -> Self {
        let Snapshot { world, epoch, .. } = store.snapshot();
        Self { store, head: tokio::sync::Mutex::new(Head { world, epoch }), ports: Ports::default() }
    }

    /// The World as last committed.
    pub fn committed(&self) -> Arc<World> {
        self.store.snapshot().world
    }

    /// The store, to read from.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Computes a write on top of the last one and submits it. `build` may be called again when an earlier write fails.
    /// Answers once a restarted process would see it; the receipt tells when it survives a loss of power.
    pub(super) async fn write<T>(
        &self,
        mut build: impl FnMut(&World) -> Result<(T, Option<Write>)>,
    ) -> Result<(T, Option<crate::store::Pending<()>>)> {
        for _ in 0..TRIES {
            let mut head = self.head.lock().await;
            if head.epoch != self.store.epoch() {
                let Snapshot { world, epoch, .. } = self.store.snapshot();
                *head = Head { world, epoch };
            }
            let (told, write) = build(&head.world)?;
            let Some(Write { world, puts, removes, cursors, events, request, undone }) = write else {
                return Ok((told, None));
            };
            let world = Arc::new(world);
            let removes = removes.iter().map(|object| (object.kind(), object.meta().uid)).collect();
            let batch = Batch {
                epoch: head.epoch,
                puts,
                removes,
                events,
                cursors,
                request,
                undone,
                world: Some(world.clone()),
            };
            let receipt = match self.store.submit(batch) {
                Ok(receipt) => receipt,
                Err(StoreError::Superseded) => continue,
                Err(error) => return Err(error.into()),
            };
            head.world = world;
            drop(head);
            let Receipt { written, durable } = receipt;
            match written.await {
                Ok(_) => return Ok((told, Some(durable))),
                Err(StoreError::Superseded) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::new(netloom_api::ErrorReason::Unavailable, "the database refuses writes; try again later"))
    }

    /// Drops the rows of objects that are marked as deleted and that the kernel is rid of. Tells which stay because others
    /// still need them.
    pub async fn retire(
        &self,
        board: &Board,
        gone: Vec<(Kind, Name, Uid)>,
    ) -> Result<Vec<(Kind, Name, Uid)>> {
        let mut dropped = Vec::new();
        let mut kept = Vec::new();
        let built = self.write(|before| {
            let (mut world, removes) = without(before, &gone);
            let stays = |(kind, _, uid): &&(Kind, Name, Uid)| {
                world.find(uid).is_some_and(|(now, name)| {
                    now == kind
                        && world.get_any(*kind, name).is_some_and(|it| it.meta().delete_time.is_some())
                })
            };
            kept = gone.iter().filter(stays).cloned().collect();
            dropped.clone_from(&removes);
            if removes.is_empty() {
                return Ok(((), None));
            }
            world.revision += 1;
            let events = removes
                .iter()
                .map(|object| render::event(EventType::Deleted, object, before, board, None))
                .collect();
            let (puts, cursors) = (Vec::new(), Vec::new());
            let write = Write { world, puts, removes, cursors, events, request: None, undone: None };
            Ok(((), Some(write)))
        });
        built.await?;
        for object in &dropped {
            if let AnyStored::PortForward(forward) = object {
                self.ports.drop_all(forward);
            }
        }
        Ok(kept)
    }

    /// Writes an event for each object that was put right after somebody else had broken it, with the steps taken.
    /// The steps of no object are the host's as a whole.
    pub fn tell_repairs(&self, board: &Board, repaired: BTreeMap<Option<Uid>, Vec<String>>) {
        if repaired.is_empty() {
            return;
        }
        let world = self.committed();
        let mut events = Vec::new();
        for (uid, steps) in repaired {
            let object = uid.and_then(|uid| world.find(&uid));
            let object = object.and_then(|(kind, name)| world.get_any(*kind, name));
            let event = match (&object, uid) {
                (Some(object), _) => render::event(EventType::DriftRepaired, object, &world, board, None),
                (None, None) => match render::event_of_host(EventType::DriftRepaired) {
                    Ok(event) => event,
                    Err(error) => return tracing::warn!(%error, "repairs were not logged"),
                },
                (None, Some(_)) => continue,
            };
            tracing::warn!(kind = %event.kind, name = %event.name, ?steps, "drift repaired");
            EFFORT.repairs.fetch_add(1, Ordering::Relaxed);
            let left = steps.len().saturating_sub(STEPS_TOLD);
            let mut told: Vec<String> = steps.into_iter().take(STEPS_TOLD).collect();
            told.extend((left > 0).then(|| format!("and {left} more")));
            events.push(Event { message: Some(told.join("; ")), ..event });
        }
        if let Err(error) = self.store.submit(Batch { events, ..Batch::default() }) {
            tracing::warn!(%error, "repairs were not logged");
        }
    }

    /// Writes events that nobody waits for.
    pub(super) fn tell(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        if let Err(error) = self.store.submit(Batch { events, ..Batch::default() }) {
            tracing::warn!(%error, "events were not logged");
        }
    }

    /// Writes a status event for each object whose condition has changed. Losing one to a full disk is no harm: status is
    /// a cache, and a follower resyncs from a list.
    pub fn tell_status(&self, board: &Board, changed: Vec<(Kind, Name)>) {
        if changed.is_empty() {
            return;
        }
        let world = self.committed();
        let objects = changed.iter().filter_map(|(kind, name)| world.get_any(*kind, name));
        let events =
            objects.map(|object| render::event(EventType::Status, &object, &world, board, None)).collect();
        if let Err(error) = self.store.submit(Batch { events, ..Batch::default() }) {
            tracing::warn!(%error, "status events were not logged");
        }
    }
}

/// The World without those of these objects that are marked as deleted, and which those are.
pub(crate) fn without(before: &World, gone: &[(Kind, Name, Uid)]) -> (World, Vec<AnyStored>) {
    let mut world = before.clone();
    let mut removes = Vec::new();
    let mut left: Vec<_> = gone.iter().collect();
    // A parent's row may not go before its children's.
    while !left.is_empty() {
        let (now, later): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|(kind, name, _)| dependents(&world, *kind, name).is_empty());
        if now.is_empty() {
            break;
        }
        for (kind, name, uid) in now {
            let same = world.get_any(*kind, name).filter(|object| object.meta().uid == *uid);
            if let Some(object) = same.filter(|object| object.meta().delete_time.is_some()) {
                world.remove(*kind, name);
                removes.push(object);
            }
        }
        left = later;
    }
    (world, removes)
}

/// The moment of a change.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}
