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
mod retry;
mod round;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use netloom_api::{ConditionReason, ConditionStatus, Kind, Name};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    config::Drift,
    controller::Intent,
    hostnet::{HostNet, Loss, Outcome, Scope, Step},
    want::{HostFacts, Surroundings},
    world::World,
};
use applied::Applied;
use board::{Board, Entry};
use drift::{Turns, Verdict, victim};
use retry::Retries;
use round::{Finished, Round};

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
    turns: Turns,
    retries: Retries,
    /// Full passes in a row that could not see the host.
    blind: u32,
}

/// What a round is to be about.
struct Task {
    objects: Vec<(Kind, Name)>,
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
        drift: Drift,
    ) -> Self {
        Self {
            host,
            intent,
            board,
            around,
            interval,
            drift,
            applied: Applied::default(),
            pending: Vec::new(),
            running: Vec::new(),
            rounds: 0,
            turns: Turns::default(),
            retries: Retries::default(),
            blind: 0,
        }
    }

    /// Runs until `stop` resolves, and until the rounds that have begun then are done.
    pub async fn run(
        mut self,
        mut changes: mpsc::Receiver<Vec<(Kind, Name)>>,
        mut losses: mpsc::Receiver<Vec<Loss>>,
        mut booted: impl FnMut(Result<(), String>),
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let looked = self.full_pass(Drift::Repair).await;
            let is_blind = looked.is_err();
            booted(looked);
            if !is_blind {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(self.blind_for()) => {}
                () = &mut stop => return,
            }
        }
        let mut rounds: JoinSet<Finished> = JoinSet::new();
        let mut clock = tokio::time::interval_at(Instant::now() + self.interval, self.interval);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut full_due = false;
        loop {
            self.start_rounds(&mut rounds);
            if full_due && rounds.is_empty() {
                full_due = false;
                // What is left of a round that died must be made right, whatever is done about drift.
                let drift = if self.running.is_empty() { self.drift } else { Drift::Repair };
                if let Err(why) = self.full_pass(drift).await {
                    tracing::warn!(%why, "the host could not be observed; the next full pass tries again");
                    clock.reset_after(self.blind_for().min(self.interval));
                }
            }
            let next_retry = self.retries.next();
            tokio::select! {
                // All arms are cancel-safe: a message or a finished round is taken whole or not at all.
                Some(finished) = rounds.join_next(), if !rounds.is_empty() => full_due |= self.finish(finished).await,
                changed = changes.recv(), if !full_due => match changed {
                    Some(objects) => self.pending.push(Task { objects, repairs: false }),
                    None => break,
                },
                // Nobody may be listening to the kernel; then only the clock tells.
                Some(losses) = losses.recv(), if !full_due => full_due |= self.notice(losses),
                () = tokio::time::sleep_until(next_retry.unwrap_or_else(Instant::now)), if next_retry.is_some() => {
                    let objects = self.retries.take(Instant::now());
                    self.pending.push(Task { objects, repairs: false });
                }
                _ = clock.tick() => full_due = true,
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
            let scope = self.applied.scope(&world, &task.objects);
            let busy = claimed.iter().any(|other| overlap(other, &scope));
            claimed.push(scope.clone());
            if busy || self.running.len() >= ROUNDS_AT_ONCE {
                waiting.push(task);
                continue;
            }
            self.rounds += 1;
            self.running.push((self.rounds, scope.clone()));
            let Task { objects: changed, repairs } = task;
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

    /// Takes in what a round did; true when a full pass has to look at what it left.
    async fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) -> bool {
        let mut finished = match finished {
            Ok(finished) => finished,
            Err(error) => {
                // A panic in a round is a defect; which one it was is unknown. Its part of the host stays taken until the
                // full pass, which waits for the other rounds and then frees all.
                tracing::error!(%error, "a round died");
                return true;
            }
        };
        self.running.retain(|(id, _)| *id != finished.id);
        let full_due = self.applied.take(&finished);
        let repaired = std::mem::take(&mut finished.repaired);
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
            self.turns.repaired(*uid, Instant::now());
        }
        self.intent.tell_repairs(&self.board, repaired);
        full_due
    }

    /// Looks after what was lost, unless it was to go; true when everything must be looked at.
    fn notice(&mut self, losses: Vec<Loss>) -> bool {
        if losses.contains(&Loss::Unknown) {
            return true;
        }
        let world = self.intent.committed();
        let around = self.around.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let victims = losses.iter().filter_map(|loss| victim(&world, self.applied.world(), loss, &around));
        for (kind, name, uid) in victims.collect::<BTreeSet<_>>() {
            match self.turns.judge(uid, Instant::now()) {
                Verdict::Repair => {
                    self.pending.push(Task { objects: vec![(kind, name)], repairs: true });
                }
                Verdict::GiveUp => self.give_up(&world, kind, name),
                Verdict::Ignore => {}
            }
        }
        false
    }

    /// Somebody wants the object otherwise than the World: that is for people to settle.
    fn give_up(&mut self, world: &World, kind: Kind, name: Name) {
        let Some(object) = world.get_any(kind, &name) else { return };
        let message = format!(
            "somebody keeps taking away what netloom made for it: put back {} times within a minute, and now left \
             until the next full pass",
            drift::REPAIRS
        );
        tracing::warn!(%kind, %name, message);
        let meta = object.meta();
        let status = ConditionStatus::False;
        let entry = Entry::new(status, ConditionReason::Conflict, meta.generation, message);
        let facts = self.board.get(&meta.uid).map(|entry| entry.facts).unwrap_or_default();
        self.board.set(meta.uid, Entry { facts, ..entry });
        self.applied.doubt(kind, name.clone());
        self.intent.tell_status(&self.board, vec![(kind, name)]);
    }

    /// Compares everything with what the kernel has, and puts it right, or tells. Nothing else runs meanwhile.
    async fn full_pass(&mut self, drift: Drift) -> Result<(), String> {
        // A port that another process had may be free again.
        self.intent.reclaim_ports();
        let world = match drift {
            Drift::Repair => self.intent.committed(),
            // What no round has been about yet is no drift.
            Drift::Report => Arc::new(self.applied.world().clone()),
        };
        let host = self.host.clone();
        let around = self.around.clone();
        let observed = tokio::task::spawn_blocking(move || {
            let facts = host.facts()?;
            let mut around = around.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            around.facts = facts;
            host.observe()
        });
        let observed = observed.await.map_err(|error| error.to_string()).flatten();
        self.blind = if observed.is_err() { self.blind.saturating_add(1) } else { 0 };
        let have = observed?;
        let round = Round::whole(world, self.around.clone(), drift);
        let host = self.host.clone();
        let finished = tokio::task::spawn_blocking(move || round.run_from(&*host, have));
        let finished = finished.await.map_err(|error| error.to_string())?;
        self.applied = Applied::default();
        self.running.clear();
        self.finish(Ok(finished)).await;
        Ok(())
    }
}

/// Whether two rounds would touch the same objects.
fn overlap(one: &Scope, other: &Scope) -> bool {
    let Scope { namespaces, networks, attachments, port_forwards, loopbacks, routes, links, host } = one;
    !namespaces.is_disjoint(&other.namespaces)
        || !networks.is_disjoint(&other.networks)
        || !attachments.is_disjoint(&other.attachments)
        || !port_forwards.is_disjoint(&other.port_forwards)
        || !loopbacks.is_disjoint(&other.loopbacks)
        // A network's own part has that switch, too.
        || !loopbacks.is_disjoint(&other.networks)
        || !networks.is_disjoint(&other.loopbacks)
        || !routes.is_disjoint(&other.routes)
        || !links.is_disjoint(&other.links)
        || (*host && other.host)
}
