//! What the kernel was last made to follow, object by object, and of which objects that is not known.

use std::{
    collections::BTreeSet,
    sync::{Arc, RwLock},
};

use netloom_api::{Kind, Name};

use super::round::{Finished, Round, names};
use crate::{
    config::Drift,
    hostnet::Scope,
    want::{Surroundings, scope_of},
    world::World,
};

/// What rounds plan from.
#[derive(Default)]
pub(super) struct Applied {
    world: World,
    /// Objects whose last round failed: what the kernel has of them is not known.
    unsure: BTreeSet<(Kind, Name)>,
}

impl Applied {
    /// The objects as the kernel was made to follow them.
    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// The part of the host that a change of these objects is about.
    pub(super) fn scope(&self, world: &World, changed: &[(Kind, Name)]) -> Scope {
        let mut scope = Scope::default();
        for (kind, name) in changed {
            scope.join(scope_of(&self.world, *kind, name));
            scope.join(scope_of(world, *kind, name));
        }
        let need = crate::want::needs_forwarding;
        let shapes = |(kind, _): &&(Kind, Name)| matches!(kind, Kind::Network | Kind::PortForward);
        if changed.iter().find(shapes).is_some() && need(&self.world) != need(world) {
            scope.host = true;
        }
        // Whether the host has the address that a network leaves behind is a fact of the host.
        let leaves_behind = |name: &Name| {
            world.get::<netloom_api::Network>(name).is_some_and(|network| !network.alloc.nat.is_empty())
        };
        scope.host |= changed.iter().any(|(kind, name)| *kind == Kind::Network && leaves_behind(name));
        scope
    }

    /// A round for what has changed.
    pub(super) fn round(
        &self,
        id: u64,
        (changed, scope): (Vec<(Kind, Name)>, Scope),
        world: Arc<World>,
        around: Arc<RwLock<Surroundings>>,
    ) -> Round {
        let unsure = self.is_unsure(&changed, &scope);
        let (before, drift) = (self.world.clone(), Drift::Repair);
        Round { id, unsure, changed, scope, before, after: world, around, drift, repairs: false }
    }

    /// A round for what somebody else has broken.
    pub(super) fn repair(
        &self,
        id: u64,
        task: (Vec<(Kind, Name)>, Scope),
        world: Arc<World>,
        around: Arc<RwLock<Surroundings>>,
        drift: Drift,
    ) -> Round {
        Round { unsure: true, repairs: true, drift, ..self.round(id, task, world, around) }
    }

    /// Whether what the kernel has of any of these is not known.
    fn is_unsure(&self, changed: &[(Kind, Name)], scope: &Scope) -> bool {
        let unsure = |key: &(Kind, Name)| self.unsure.contains(key);
        !self.unsure.is_empty() && (changed.iter().any(unsure) || names(scope).iter().any(unsure))
    }

    /// Takes in what a round did.
    pub(super) fn take(&mut self, finished: &Finished) {
        for (kind, name) in finished.objects() {
            match finished.after.get_any(kind, &name).filter(|object| object.meta().delete_time.is_none()) {
                Some(object) => self.world.put(object),
                None => {
                    self.world.remove(kind, &name);
                }
            }
            if finished.failed(kind, &name) {
                self.unsure.insert((kind, name));
            } else {
                self.unsure.remove(&(kind, name));
            }
        }
    }

    /// What the kernel has of this object is not known any more.
    pub(super) fn doubt(&mut self, kind: Kind, name: Name) {
        self.unsure.insert((kind, name));
    }
}
