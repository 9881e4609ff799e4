//! What is done about what was heard: a round for whom something was taken away, or a look at everything.

use std::{collections::BTreeSet, sync::PoisonError, time::Duration};

use netloom_api::{ConditionReason, ConditionStatus, Kind, Name, Network, PortForward};
use tokio::time::Instant;

use super::{
    Host, Reconciler, Task,
    board::Entry,
    drift::{self, Verdict, Victim, Who, victims},
};
use crate::{hostnet::Loss, world::World};

/// Between two looks at everything because events were lost: a look costs, and in a storm the next ones are lost, too.
/// Tests of several rooms ask for full passes this way, as often as they like.
const LOOKS_APART: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(5) };
/// Who takes our firewall away again and again finds it back after so long: without it nothing is guarded.
const RULES_AGAIN: Duration = Duration::from_secs(10);

/// What has to be looked at while nothing else is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// The firewall.
    Rules,
    /// Everything.
    Everything,
}

impl<H: Host> Reconciler<H> {
    /// Looks after what was lost, unless it was to go.
    pub(super) fn notice(&mut self, losses: Vec<Loss>) {
        let now = Instant::now();
        if losses.contains(&Loss::Unknown) {
            tracing::warn!("events of the kernel were lost; everything is looked at");
            let earliest = self.overran.map_or(now, |overran| overran + LOOKS_APART);
            if earliest <= now {
                self.overran = Some(now);
                self.due = Due::Everything;
                return;
            }
            self.later(earliest, Due::Everything);
        }
        let world = self.intent.committed();
        let around = self.around.read().unwrap_or_else(PoisonError::into_inner).clone();
        let all = losses.iter().flat_map(|loss| victims(&world, self.applied.world(), loss, &around));
        let all: BTreeSet<Victim> = all.collect();
        // Together, so that it is looked once.
        let mut task = Task { repairs: true, ..Task::default() };
        for victim in all {
            match (self.turns.judge(victim.who(), now), victim) {
                (Verdict::Repair, Victim::Object(_, kind, name)) => task.objects.push((kind, name)),
                (Verdict::Repair, Victim::Host) => {
                    self.pending.push(Task { host: true, repairs: true, objects: Vec::new() });
                }
                (Verdict::Repair, Victim::Rules) => self.due = self.due.max(Due::Rules),
                (Verdict::GiveUp, Victim::Object(_, kind, name)) => self.give_up(&world, vec![(kind, name)]),
                (Verdict::GiveUp, victim) => {
                    self.give_up(&world, guarded(&world));
                    self.postpone(&victim, now);
                }
                (Verdict::Ignore, victim) => self.postpone(&victim, now),
            }
        }
        if !task.objects.is_empty() {
            self.pending.push(task);
        }
    }

    /// What was put off is due now.
    pub(super) fn again_due(&mut self) {
        if let Some((_, due)) = self.again.take() {
            self.due = self.due.max(due);
        }
    }

    fn postpone(&mut self, victim: &Victim, now: Instant) {
        if victim.who() == Who::Rules {
            self.later(now + RULES_AGAIN, Due::Rules);
        }
    }

    pub(super) fn later(&mut self, at: Instant, due: Due) {
        let again = self.again.get_or_insert((at, due));
        *again = (again.0.min(at), again.1.max(due));
    }

    /// Somebody wants the objects otherwise than the World: that is for people to settle.
    fn give_up(&mut self, world: &World, objects: Vec<(Kind, Name)>) {
        let message = format!(
            "somebody keeps taking away what netloom made for it: put back {} times within a minute, and now left \
             until the next full pass",
            drift::REPAIRS
        );
        for (kind, name) in &objects {
            let Some(object) = world.get_any(*kind, name) else { continue };
            tracing::warn!(%kind, %name, message);
            let meta = object.meta();
            let status = ConditionStatus::False;
            let entry = Entry::new(
                status,
                ConditionReason::Conflict,
                (meta.generation, meta.revision),
                message.clone(),
            );
            let facts = self.board.get(&meta.uid).map(|entry| entry.facts).unwrap_or_default();
            self.board.set(meta.uid, Entry { facts, ..entry });
            self.applied.doubt(*kind, name.clone());
        }
        self.intent.tell_status(&self.board, objects);
    }
}

/// Whatever does not work, or is open, without the firewall and forwarding.
fn guarded(world: &World) -> Vec<(Kind, Name)> {
    let networks = world.all::<Network>().map(|one| (Kind::Network, one.meta.name.clone()));
    let forwards = world.all::<PortForward>().map(|one| (Kind::PortForward, one.meta.name.clone()));
    networks.chain(forwards).collect()
}
