//! For tests: the loop without a clock. One round at a time, each done before the next begins.

use std::sync::{Arc, PoisonError, RwLock};

use netloom_api::{Kind, Name, Uid};

use super::{
    Host,
    applied::Applied,
    drift::{Victim, victims},
    round::Finished,
};
use crate::{config::Drift, hostnet::Loss, want::Surroundings, world::World};

/// The reconciler's memory, and the host that it works on.
pub(crate) struct LockStep<H> {
    pub(crate) host: H,
    pub(crate) around: Arc<RwLock<Surroundings>>,
    applied: Applied,
    rounds: u64,
}

/// The objects that were to go, and that the kernel is rid of.
pub(crate) type Gone = Vec<(Kind, Name, Uid)>;

impl<H: Host> LockStep<H> {
    pub(crate) fn new(host: H, around: Surroundings) -> Self {
        Self { host, around: Arc::new(RwLock::new(around)), applied: Applied::default(), rounds: 0 }
    }

    /// A round for these objects.
    pub(crate) fn changed(&mut self, world: &World, objects: Vec<(Kind, Name)>) -> Gone {
        self.rounds += 1;
        let scope = self.applied.scope(world, &objects);
        let (world, around) = (Arc::new(world.clone()), self.around.clone());
        let finished = self.applied.round(self.rounds, (objects, scope), world, around).run(&self.host);
        self.take(&finished)
    }

    /// What was lost is put back, if it was to stay.
    pub(crate) fn lost(&mut self, world: &World, loss: &Loss) {
        let around = self.around.read().unwrap_or_else(PoisonError::into_inner).clone();
        let victims = victims(world, self.applied.world(), loss, &around).into_iter();
        let objects: Vec<_> = victims
            .filter_map(|victim| match victim {
                Victim::Object(_, kind, name) => Some((kind, name)),
                Victim::Host | Victim::Rules => None,
            })
            .collect();
        if objects.is_empty() {
            return;
        }
        self.rounds += 1;
        let scope = self.applied.scope(world, &objects);
        let (world, around) = (Arc::new(world.clone()), self.around.clone());
        let round = self.applied.repair(self.rounds, (objects, scope), world.clone(), around, Drift::Repair);
        let finished = round.run(&self.host);
        self.take(&finished);
        for name in finished.missed {
            self.lost(&world, &Loss::Namespace(name));
        }
    }

    /// Everything is compared.
    pub(crate) fn full_pass(&mut self, world: &World) -> Gone {
        self.look();
        let round = super::round::Round::whole(Arc::new(world.clone()), self.around.clone(), Drift::Repair);
        let have = self.host.observe().unwrap();
        let finished = round.run_from(&self.host, have);
        self.applied = Applied::default();
        self.take(&finished)
    }

    /// The daemon has died, or ended: nothing is remembered.
    pub(crate) fn forget(&mut self) {
        self.applied = Applied::default();
    }

    /// Looks at the host's own links.
    pub(crate) fn look(&self) {
        let facts = self.host.facts().unwrap();
        self.around.write().unwrap_or_else(PoisonError::into_inner).facts = facts;
    }

    fn take(&mut self, finished: &Finished) -> Gone {
        let _ = self.applied.take(finished);
        finished.gone()
    }
}
