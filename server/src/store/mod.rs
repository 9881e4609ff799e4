//! The truth: the only SQL, one writer, and the last committed World for all to read.
//!
//! Batches are committed in the order in which they were submitted, several in one transaction when they wait together.
//! A batch is *written* when a restarted process sees it, and *durable* when it survives a loss of power
//! (`docs/decisions/0001-durability.md`). Readers take the [`Snapshot`]; only the log is read with SQL.
//!
//! The controller computes a World on top of the last one that it submitted, not of the last one that was committed.
//! When a batch fails, those on top of it are void: the failure begins a new *epoch*, batches of an older one are
//! refused with [`StoreError::Superseded`], and the controller starts again from the snapshot.

mod backup;
mod error;
mod group;
mod load;
mod log;
mod open;
mod sync;
mod writer;

use std::{
    future::Future,
    net::IpAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
};

use netloom_api::{Cidr, Event, EventPage, EventType, Kind, Name, RequestId, Timestamp, Uid};
use sqlx::SqlitePool;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    config::EventRetention,
    world::{AnyStored, World},
};

pub use backup::{BackupError, backup, is_there};
pub use error::{OpenError, StoreError};

/// How many events a follower may lag behind before it has to read the log again.
const FOLLOW_EVENTS: usize = 1024;
/// How many batches may wait.
const QUEUE_BATCHES: usize = 1024;

/// Where the truth is, and how much of the log is kept.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory of the database; made if it is missing.
    pub state_dir: PathBuf,
    /// How much of the log is kept.
    pub events: EventRetention,
}

/// The database. A clone is another handle to it.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: mpsc::Sender<writer::Message>,
    published: Arc<Published>,
    readers: SqlitePool,
    path: PathBuf,
}

/// What the writer tells.
#[derive(Debug)]
struct Published {
    snapshot: watch::Sender<Snapshot>,
    followers: broadcast::Sender<Arc<Event>>,
    /// The last event that is no longer kept.
    pruned: AtomicI64,
}

/// What was committed last.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All objects.
    pub world: Arc<World>,
    /// The last event.
    pub seq: i64,
    /// What a batch on top of this World has to bear.
    pub epoch: u64,
}

/// What is written at once or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// The epoch of the snapshot that `world` goes back to; of no account without one.
    pub epoch: u64,
    /// Objects that are new or changed, with what they hold.
    pub puts: Vec<AnyStored>,
    /// Objects that are gone.
    pub removes: Vec<(Kind, Uid)>,
    /// What happened; `seq` is given when it is written.
    pub events: Vec<Event>,
    /// Where next-fit allocation goes on, as in `world`.
    pub cursors: Vec<(Name, Cidr, IpAddr)>,
    /// The request that asked for it, if a retry shall be known again.
    pub request: Option<RequestRecord>,
    /// The request, by actor and key, whose work this undoes: a retry shall do it again.
    pub undone: Option<(String, RequestId)>,
    /// The World with all this in it. None: only events, the intent is as it was.
    pub world: Option<Arc<World>>,
}

/// What a caller's request did, so that a retry gets the same object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Who asked.
    pub actor: String,
    /// The caller's key.
    pub key: RequestId,
    /// What tells the request from another one with the same key.
    pub hash: String,
    /// The object's noun.
    pub kind: Kind,
    /// The object's name.
    pub name: Name,
    /// The object's identity.
    pub uid: Uid,
    /// When; a day later it is forgotten.
    pub time: Timestamp,
}

/// What becomes of a submitted batch.
#[derive(Debug)]
pub struct Receipt {
    /// A restarted process sees it.
    pub written: Pending<Written>,
    /// It survives a loss of power.
    pub durable: Pending<()>,
}

/// A batch was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The log's last event then, the batch's own included.
    pub seq: i64,
}

/// An answer that comes later. It need not be awaited.
#[derive(Debug)]
pub struct Pending<T>(oneshot::Receiver<Result<T, StoreError>>);

/// Which events to read.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// After this one. None: from the oldest that is kept.
    pub after: Option<i64>,
    /// Up to this one. None: to the end of the log.
    pub until: Option<i64>,
    /// Of these nouns; empty for all.
    pub kinds: Vec<Kind>,
    /// Of these types; empty for all.
    pub types: Vec<EventType>,
    /// Of objects of this name.
    pub name: Option<Name>,
    /// What this caller asked for.
    pub actor: Option<String>,
    /// At most so many; 1 000 is the most.
    pub limit: u32,
}

impl Store {
    /// Opens the truth below the state directory, makes it if there is none, and brings an old schema up to date. The
    /// lock of the directory is held until [`Store::close`], or until the last handle is gone.
    pub async fn open(options: StoreOptions) -> Result<Self, OpenError> {
        open::open(options, &open::MIGRATIONS).await
    }

    /// The last committed state.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.published.snapshot.borrow().clone()
    }

    /// The current epoch, to see cheaply that a batch on top of an older one would be refused.
    pub fn epoch(&self) -> u64 {
        self.shared.published.snapshot.borrow().epoch
    }

    /// Hands a batch to the writer, behind all that were submitted before. Does not wait: a full queue is an error.
    pub fn submit(&self, batch: Batch) -> Result<Receipt, StoreError> {
        let changes = !(batch.puts.is_empty() && batch.removes.is_empty() && batch.cursors.is_empty());
        if changes && batch.world.is_none() {
            return Err(StoreError::Guard("a batch that changes objects has no World".into()));
        }
        if batch.world.is_some() && batch.epoch != self.epoch() {
            return Err(StoreError::Superseded);
        }
        let (written, when_written) = oneshot::channel();
        let (durable, when_durable) = oneshot::channel();
        let job = Box::new(writer::Job { batch, written, durable });
        self.shared.queue.try_send(writer::Message::Write(job)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                StoreError::Unavailable("too many writes are waiting".into())
            }
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        Ok(Receipt { written: Pending(when_written), durable: Pending(when_durable) })
    }

    /// Every event from now on, after it was committed, in the order of `seq`. To miss none, follow first, then take the
    /// snapshot, read the log up to its `seq`, and skip what comes again. A follower that lags by more than 1 024 events
    /// is told so and has to read the log again.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Event>> {
        self.shared.published.followers.subscribe()
    }

    /// A page of the log. `seq` of the page is where the next one begins, also when filters left everything out.
    pub async fn events(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        let seq = self.shared.published.snapshot.borrow().seq;
        let page = log::events(&self.shared.readers, &query, seq).await;
        // What was pruned meanwhile may be missing from the page.
        let pruned = self.shared.published.pruned();
        match query.after {
            Some(after) if after < pruned => Err(StoreError::Expired { pruned }),
            Some(_) | None => page,
        }
    }

    /// What an earlier request with this key did. A request is found once it is written, so the caller keeps requests of
    /// the same key apart from this question until then.
    pub async fn request(&self, actor: &str, key: &RequestId) -> Result<Option<RequestRecord>, StoreError> {
        log::request(&self.shared.readers, actor, key).await
    }

    /// Writes a copy of the database, consistent and compact, to a file that does not exist yet.
    pub async fn backup(&self, to: &Path) -> Result<(), BackupError> {
        backup::copy(&self.shared.path, to).await
    }

    /// Writes all that was submitted, then closes; what is submitted afterwards is refused with [`StoreError::Closed`].
    pub async fn close(self) {
        self.shared.readers.close().await;
        let (done, closed) = oneshot::channel();
        if self.shared.queue.send(writer::Message::Close(done)).await.is_ok() {
            // An error means that the writer is gone, which is what was wanted.
            let _ = closed.await;
        }
    }
}

impl Published {
    fn pruned(&self) -> i64 {
        self.pruned.load(Ordering::Acquire)
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}

#[cfg(test)]
mod tests;
