//! The one writer: takes what waits, commits it as a group, publishes it, and then answers.

use std::{fs::File, sync::Arc, time::Duration};

use netloom_api::Timestamp;
use nix::fcntl::Flock;
use sqlx::{Connection, SqliteConnection};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Batch, Published, StoreError, Written, group, log, sync};
use crate::config::EventRetention;

/// A group has at most so many batches,
const GROUP_BATCHES: usize = 64;
/// and takes no more of them once it has so many rows.
const GROUP_ROWS: usize = 5_000;
/// How often events are pruned while there are more than are to be kept,
const PRUNE_EVERY: Duration = Duration::from_millis(100);
/// and how often it is looked for what has become too old.
const AGE_EVERY: Duration = Duration::from_secs(60);

/// What the writer is asked to do, in this order.
#[derive(Debug)]
pub(super) enum Message {
    /// Commit a batch.
    Write(Box<Job>),
    /// Close the database and end.
    Close(oneshot::Sender<()>),
    /// Run any SQL, so that tests can break the database.
    #[cfg(test)]
    Run(&'static str, oneshot::Sender<Result<(), sqlx::Error>>),
    /// Prune a chunk now.
    #[cfg(test)]
    Prune(oneshot::Sender<()>),
}

/// A batch and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: Batch,
    pub(super) written: oneshot::Sender<Result<Written, StoreError>>,
    pub(super) durable: oneshot::Sender<Result<(), StoreError>>,
}

/// The writer's own things.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connection: SqliteConnection,
    pub(super) published: Arc<Published>,
    pub(super) queue: mpsc::Receiver<Message>,
    pub(super) sync: mpsc::Sender<sync::Waiters>,
    pub(super) sync_ended: oneshot::Receiver<()>,
    pub(super) retention: EventRetention,
    /// The state directory's lock.
    pub(super) lock: Flock<File>,
}

impl Writer {
    /// Works until it is told to close, or nobody is left to tell it.
    pub(super) async fn run(mut self) {
        let mut tick = interval(PRUNE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look_at = Instant::now();
        let mut next = None;
        let closed = loop {
            let message = match next.take() {
                Some(message) => Some(message),
                None => tokio::select! {
                    message = self.queue.recv() => message,
                    now = tick.tick() => {
                        if now >= look_at || self.too_many_events() {
                            let more = self.prune().await;
                            look_at = if more { now } else { now + AGE_EVERY };
                        }
                        continue;
                    }
                },
            };
            match message {
                None => break None,
                Some(Message::Close(done)) => break Some(done),
                Some(Message::Write(job)) => {
                    let (jobs, rest) = self.gather(*job);
                    next = rest;
                    self.commit(jobs).await;
                }
                #[cfg(test)]
                Some(Message::Run(sql, done)) => {
                    let _ = done.send(sqlx::query(sql).execute(&mut self.connection).await.map(|_| ()));
                }
                #[cfg(test)]
                Some(Message::Prune(done)) => {
                    self.prune().await;
                    let _ = done.send(());
                }
            }
        };
        self.close().await;
        if let Some(done) = closed {
            // Who asked may have gone away; the store is closed all the same.
            let _ = done.send(());
        }
    }

    /// What waits together with the first, and the message after it that is no batch.
    fn gather(&mut self, first: Job) -> (Vec<Job>, Option<Message>) {
        let mut rows = first.batch.rows();
        let mut jobs = vec![first];
        while jobs.len() < GROUP_BATCHES && rows < GROUP_ROWS {
            match self.queue.try_recv() {
                Ok(Message::Write(job)) => {
                    rows += job.batch.rows();
                    jobs.push(*job);
                }
                Ok(other) => return (jobs, Some(other)),
                Err(_) => break,
            }
        }
        (jobs, None)
    }

    /// Commits the group; if that fails, each batch alone, so that only the faulty one fails and what is built on it.
    async fn commit(&mut self, jobs: Vec<Job>) {
        let mut jobs = self.refuse_superseded(jobs);
        if jobs.is_empty() {
            return;
        }
        match self.write(&mut jobs).await {
            Ok(seq) => self.publish(jobs, seq).await,
            Err(error) if jobs.len() == 1 => jobs.into_iter().for_each(|job| self.fail(job, &error)),
            Err(error) => {
                tracing::debug!(%error, batches = jobs.len(), "a group failed; its batches are tried one by one");
                for job in jobs {
                    let mut alone = self.refuse_superseded(vec![job]);
                    match self.write(&mut alone).await {
                        Ok(seq) => self.publish(alone, seq).await,
                        Err(error) => alone.into_iter().for_each(|job| self.fail(job, &error)),
                    }
                }
            }
        }
    }

    fn refuse_superseded(&self, jobs: Vec<Job>) -> Vec<Job> {
        let epoch = self.published.snapshot.borrow().epoch;
        let (valid, void): (Vec<Job>, Vec<Job>) =
            jobs.into_iter().partition(|job| job.batch.world.is_none() || job.batch.epoch == epoch);
        void.into_iter().for_each(|job| job.answer(StoreError::Superseded));
        valid
    }

    /// Numbers the events and writes the group; the last event's number.
    async fn write(&mut self, jobs: &mut [Job]) -> Result<i64, StoreError> {
        let mut seq = self.published.snapshot.borrow().seq;
        for event in jobs.iter_mut().flat_map(|job| &mut job.batch.events) {
            seq += 1;
            event.seq = seq;
        }
        if jobs.is_empty() {
            return Ok(seq);
        }
        let batches: Vec<&Batch> = jobs.iter().map(|job| &job.batch).collect();
        group::write(&mut self.connection, &batches, seq).await.map(|()| seq)
    }

    /// Tells all who want to know, the snapshot first, so that who sees an event also sees what it speaks of.
    async fn publish(&mut self, jobs: Vec<Job>, seq: i64) {
        let world = jobs.iter().rev().find_map(|job| job.batch.world.clone());
        self.published.snapshot.send_modify(|snapshot| {
            snapshot.seq = seq;
            if let Some(world) = world {
                snapshot.world = world;
            }
        });
        let mut waiters = Vec::with_capacity(jobs.len());
        for Job { batch, written, durable } in jobs {
            for event in batch.events {
                // Without followers there is nobody to tell.
                let _ = self.published.followers.send(Arc::new(event));
            }
            // A caller that went away does not need the answer; its batch stays.
            let _ = written.send(Ok(Written { seq }));
            if !durable.is_closed() {
                waiters.push(durable);
            }
        }
        if !waiters.is_empty() {
            // The thread only ends after the writer.
            let _ = self.sync.send(waiters).await;
        }
    }

    fn fail(&self, job: Job, error: &StoreError) {
        if job.batch.world.is_some() {
            self.published.snapshot.send_modify(|snapshot| snapshot.epoch += 1);
        }
        tracing::error!(%error, "a write failed");
        job.answer(error.clone());
    }

    fn too_many_events(&self) -> bool {
        let kept = self.published.snapshot.borrow().seq - self.published.pruned();
        u64::try_from(kept).is_ok_and(|kept| kept > self.retention.count)
    }

    /// Prunes one chunk of what is not to be kept; whether there may be more.
    async fn prune(&mut self) -> bool {
        let seq = self.published.snapshot.borrow().seq;
        let now = Timestamp::now();
        match log::prune(&mut self.connection, &self.published.pruned, self.retention, seq, now).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "old events cannot be pruned");
                group::roll_back(&mut self.connection).await;
                false
            }
        }
    }

    async fn close(self) {
        let Writer { connection, queue, sync, sync_ended, lock, .. } = self;
        drop(queue);
        drop(sync);
        // An error means that the thread has ended already.
        let _ = sync_ended.await;
        if let Err(error) = connection.close().await {
            tracing::warn!(%error, "the database was not closed cleanly; it will be recovered at the next start");
        }
        drop(lock);
    }
}

impl Job {
    fn answer(self, error: StoreError) {
        // A caller that went away does not need the answer.
        let _ = self.written.send(Err(error.clone()));
        let _ = self.durable.send(Err(error));
    }
}

impl Batch {
    fn rows(&self) -> usize {
        self.puts.len() + self.removes.len() + self.events.len()
    }
}
