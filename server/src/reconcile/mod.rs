//! The loop: wake, want, plan, apply, status.
//!
//! One task decides, short-lived threads do. Changes of one object follow each other; changes that touch different
//! objects run side by side. A round plans from what was last applied to what is wanted now, so its cost does not grow
//! with what exists; when the kernel answers with a surprise, the host is observed and the round planned again. A full
//! pass, at boot and every few minutes, compares everything with what the kernel really has. What failed, though trying again may help, is tried again by itself.
//!
//! Only this room writes status; it asks the controller to drop the rows of what is gone.

mod applied;
pub mod board;
mod drift;
#[cfg(test)]
pub(crate) mod lockstep;
mod notice;
mod pass;
mod retry;
mod round;

use std::{sync::Arc, time::Duration};

use netloom_api::{Kind, Name};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    config::{Drift, Unknown},
    controller::Intent,
    hostnet::{HostNet, Loss, Outcome, Part, Scope, Step, rules::Rules},
    want::{HostFacts, Surroundings},
};
use applied::Applied;
use board::Board;
use drift::{Turns, Who};
use notice::Due;
pub use pass::Unlooked;
use retry::Retries;
use round::Finished;

/// Rounds at once; more only wait for each other in the kernel.
const ROUNDS_AT_ONCE: usize = 16;
/// Waking changes that may queue up; the controller waits when there are more.
const QUEUE: usize = 1024;

/// The host that is reconciled: the kernel, or a model of it. Calls block; they are made on threads that may.
pub trait Host: Send + Sync + 'static {
    /// Takes the steps in order and says what came of each.
    fn apply(&self, steps: &[Step]) -> Vec<Outcome>;

    /// All of the host that bears our marks, and what is in our way. An error means unknown, never absent.
    fn observe(&self) -> Result<HostNet, String>;

    /// The same, of a part; it may be more.
    fn observe_part(&self, part: &Part) -> Result<HostNet, String>;

    /// The firewall alone.
    fn rules(&self) -> Result<Rules, String>;

    /// The host's own links and switches.
    fn facts(&self) -> Result<HostFacts, String>;
}

/// How to wake the reconciler.
#[derive(Clone, Debug)]
pub struct Waker(mpsc::Sender<Vec<(Kind, Name)>>);

impl Waker {
    /// Tells that these objects' intent has changed; waits while too many changes queue up.
    pub async fn wake(&self, changed: Vec<(Kind, Name)>) {
        // When the reconciler is gone the process is about to end; the next one starts with a full pass.
        if self.0.send(changed).await.is_err() {
            tracing::debug!("the reconciler has stopped");
        }
    }
}

/// The two ends of the queue.
pub fn queue() -> (Waker, mpsc::Receiver<Vec<(Kind, Name)>>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Waker(sender), receiver)
}

/// The reconciler's state between rounds.
pub struct Reconciler<H> {
    host: Arc<H>,
    intent: Arc<Intent>,
    board: Arc<Board>,
    around: Arc<std::sync::RwLock<Surroundings>>,
    applied: Applied,
    pending: Vec<Task>,
    running: Vec<(u64, Scope)>,
    rounds: u64,
    interval: Duration,
    drift: Drift,
    unknown: Unknown,
    turns: Turns,
    retries: Retries,
    /// Full passes in a row that could not see the host.
    blind: u32,
    /// What all rounds have to make way for.
    due: Due,
    /// What is due at that time.
    again: Option<(Instant, Due)>,
    /// Everything was looked at once.
    looked: bool,
    /// When everything was looked at last because events were lost.
    overran: Option<Instant>,
}

/// What a round is to be about.
#[derive(Default)]
struct Task {
    objects: Vec<(Kind, Name)>,
    /// What belongs to the host as a whole.
    host: bool,
    /// Somebody else has taken something of theirs away: what the kernel has of them is not known.
    repairs: bool,
}

impl<H: Host> Reconciler<H> {
    /// A reconciler that has applied nothing yet.
    pub fn new(
        host: Arc<H>,
        intent: Arc<Intent>,
        board: Arc<Board>,
        around: Arc<std::sync::RwLock<Surroundings>>,
        interval: Duration,
        (drift, unknown): (Drift, Unknown),
    ) -> Self {
        Self {
            host,
            intent,
            board,
            around,
            interval,
            drift,
            unknown,
            applied: Applied::default(),
            pending: Vec::new(),
            running: Vec::new(),
            rounds: 0,
            turns: Turns::default(),
            retries: Retries::default(),
            blind: 0,
            due: Due::Nothing,
            again: None,
            looked: false,
            overran: None,
        }
    }

    /// Runs until `stop` resolves, and until the rounds that have begun then are done.
    pub async fn run(
        mut self,
        mut changes: mpsc::Receiver<Vec<(Kind, Name)>>,
        mut losses: mpsc::Receiver<Vec<Loss>>,
        mut booted: impl FnMut(Result<(), Unlooked>),
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let looked = self.full_pass(Drift::Repair).await;
            booted(looked.clone());
            match looked {
                Ok(()) => break,
                Err(Unlooked::Unknown(_)) => return,
                Err(Unlooked::Blind(_)) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(self.blind_for()) => {}
                () = &mut stop => return,
            }
        }
        let mut rounds: JoinSet<Finished> = JoinSet::new();
        let mut clock = tokio::time::interval_at(Instant::now() + self.interval, self.interval);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start_rounds(&mut rounds);
            if self.due != Due::Nothing && rounds.is_empty() {
                self.pass().await;
            }
            let (again, next_retry) = (self.again.map(|(at, _)| at), self.retries.next());
            tokio::select! {
                // All arms are cancel-safe: a message or a finished round is taken whole or not at all.
                Some(finished) = rounds.join_next(), if !rounds.is_empty() => self.finish(finished).await,
                changed = changes.recv(), if self.due == Due::Nothing => match changed {
                    Some(objects) => self.pending.push(Task { objects, ..Task::default() }),
                    None => break,
                },
                // Nobody may be listening to the kernel; then only the clock tells.
                Some(losses) = losses.recv(), if self.due == Due::Nothing => self.notice(losses),
                () = until(next_retry) => {
                    let objects = self.retries.take(Instant::now());
                    self.pending.push(Task { objects, ..Task::default() });
                }
                () = until(again) => self.again_due(),
                _ = clock.tick() => self.due = Due::Everything,
                () = &mut stop => break,
            }
        }
        while let Some(finished) = rounds.join_next().await {
            self.finish(finished).await;
        }
    }

    /// How long to wait after a full pass that could not see the host.
    fn blind_for(&self) -> Duration {
        retry::pause(self.blind).unwrap_or(self.interval)
    }

    /// Starts a round for each pending change whose part of the host nobody works on.
    fn start_rounds(&mut self, rounds: &mut JoinSet<Finished>) {
        let world = self.intent.committed();
        let mut waiting = Vec::new();
        let mut claimed: Vec<Scope> = self.running.iter().map(|(_, scope)| scope.clone()).collect();
        for task in std::mem::take(&mut self.pending) {
            let mut scope = self.applied.scope(&world, &task.objects);
            scope.host |= task.host;
            let busy = claimed.iter().any(|other| other.meets(&scope));
            claimed.push(scope.clone());
            if busy || self.running.len() >= ROUNDS_AT_ONCE {
                waiting.push(task);
                continue;
            }
            self.rounds += 1;
            self.running.push((self.rounds, scope.clone()));
            let Task { objects: changed, host: _, repairs } = task;
            let (id, about) = (self.rounds, (changed, scope));
            let (world, around) = (world.clone(), self.around.clone());
            let round = match repairs {
                true => self.applied.repair(id, about, world, around, self.drift),
                false => self.applied.round(id, about, world, around),
            };
            let host = self.host.clone();
            rounds.spawn_blocking(move || round.run(&*host));
        }
        self.pending = waiting;
    }

    /// Takes in what a round did.
    async fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        let mut finished = match finished {
            Ok(finished) => finished,
            Err(error) => {
                // A panic in a round is a defect; which one it was is unknown. Its part of the host stays taken until the
                // full pass, which waits for the other rounds and then frees all.
                tracing::error!(%error, "a round died");
                self.due = Due::Everything;
                return;
            }
        };
        self.running.retain(|(id, _)| *id != finished.id);
        if self.applied.take(&finished) {
            self.due = Due::Everything;
        }
        let repaired = std::mem::take(&mut finished.repaired);
        for name in std::mem::take(&mut finished.missed) {
            let objects = vec![(Kind::Namespace, name)];
            self.pending.push(Task { objects, repairs: true, ..Task::default() });
        }
        let now = Instant::now();
        for object in finished.objects() {
            if finished.may_help_to_retry(&object) {
                self.retries.failed(object, now);
            } else {
                self.retries.settled(&object);
            }
        }
        for object in finished.tell(&self.board, &self.intent).await {
            self.retries.failed(object, now);
        }
        for uid in repaired.keys() {
            self.turns.repaired(uid.map_or(Who::Host, Who::Object), Instant::now());
        }
        self.intent.tell_repairs(&self.board, repaired);
    }
}

/// Resolves at that time; without one, never.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
