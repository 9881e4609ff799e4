//! What the kernel was last made to follow, object by object, and of which objects that is not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, RwLock},
};

use netloom_api::{Kind, Name};

use super::round::{Changing, Finished, Round, names};
use crate::{
    config::Drift,
    hostnet::{HostNet, Scope},
    want::{Surroundings, scope_of},
    world::World,
};

/// Intents of one object that may have been followed in part.
const DOUBTS: usize = 8;

/// What rounds plan from.
#[derive(Default)]
pub(super) struct Applied {
    world: World,
    /// Objects whose last rounds failed: what the kernel has of them is not known, but among these.
    unsure: BTreeMap<(Kind, Name), Vec<Arc<HostNet>>>,
}

impl Applied {
    /// The objects as the kernel was made to follow them.
    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// The part of the host that a change of these objects is about.
    ///
    /// What it depends on and was not made yet as the World has it now is part of it. Else the kernel would follow an object
    /// of which this memory knows nothing, and nobody would know what to take away again.
    pub(super) fn scope(&self, world: &World, changed: &[(Kind, Name)]) -> Scope {
        let mut scope = Scope::default();
        let mut todo: Vec<(Kind, Name)> = changed.to_vec();
        let mut seen: BTreeSet<(Kind, Name)> = todo.iter().cloned().collect();
        while let Some((kind, name)) = todo.pop() {
            let both = [scope_of(&self.world, kind, &name), scope_of(world, kind, &name)];
            for one in both {
                let late = one.leans_on.iter().filter(|(kind, name)| self.is_behind(world, *kind, name));
                todo.extend(late.filter(|base| seen.insert((*base).clone())).cloned());
                scope.join(one);
            }
        }
        crate::want::close(&mut scope, &self.world, world);
        let need = crate::want::needs_forwarding;
        let shapes =
            |(kind, _): &(Kind, Name)| matches!(kind, Kind::Network | Kind::PortForward | Kind::Policy);
        if seen.iter().any(shapes) && need(&self.world) != need(world) {
            scope.host = true;
        }
        // Whether the host has the address that a network leaves behind is a fact of the host.
        let leaves_behind = |name: &Name| {
            world.get::<netloom_api::Network>(name).is_some_and(|network| !network.alloc.nat.is_empty())
        };
        scope.host |= seen.iter().any(|(kind, name)| *kind == Kind::Network && leaves_behind(name));
        scope
    }

    /// Whether the kernel was not made to follow this object as it is now.
    fn is_behind(&self, world: &World, kind: Kind, name: &Name) -> bool {
        let version = |world: &World| world.get_any(kind, name).map(|object| object.meta().etag());
        version(&self.world) != version(world)
    }

    /// A round for what has changed.
    pub(super) fn round(
        &self,
        id: u64,
        (changed, scope): (Vec<(Kind, Name)>, Scope),
        world: Arc<World>,
        around: Arc<RwLock<Surroundings>>,
    ) -> Round {
        let doubts = self.doubts(&changed, &scope);
        let unsure = doubts.is_some();
        let doubts = doubts.unwrap_or_default();
        let (before, drift) = (self.world.clone(), Drift::Repair);
        let (changing, repairs) = (Changing::default(), false);
        Round { id, unsure, doubts, changed, scope, before, after: world, around, drift, repairs, changing }
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
        // Of the host as a whole it is known how it stands: it is asked every time.
        let unsure = !task.0.is_empty();
        let round = self.round(id, task, world, around);
        Round { unsure: unsure || round.unsure, repairs: true, drift, ..round }
    }

    /// What the kernel may have of these that nobody would look for; none when all is known.
    fn doubts(&self, changed: &[(Kind, Name)], scope: &Scope) -> Option<Vec<Arc<HostNet>>> {
        if self.unsure.is_empty() {
            return None;
        }
        let mut about = names(scope);
        about.extend(changed.iter().cloned());
        let doubts: Vec<_> = about.iter().filter_map(|object| self.unsure.get(object)).collect();
        (!doubts.is_empty()).then(|| doubts.into_iter().flatten().cloned().collect())
    }

    /// Takes in what a round did; true when a full pass has to look at what it left.
    pub(super) fn take(&mut self, finished: &Finished) -> bool {
        let mut full_due = false;
        for (kind, name) in finished.objects() {
            match finished.after.get_any(kind, &name).filter(|object| object.meta().delete_time.is_none()) {
                Some(object) => self.world.put(object),
                None => {
                    self.world.remove(kind, &name);
                }
            }
            if finished.failed(kind, &name) {
                let doubts = self.unsure.entry((kind, name)).or_default();
                if let Some(doubt) = finished.doubt.as_ref().filter(|doubt| doubts.last() != Some(doubt)) {
                    doubts.push(doubt.clone());
                }
                // Who fails in so many ways is looked at together with everything else.
                full_due |= doubts.len() > DOUBTS;
            } else {
                self.unsure.remove(&(kind, name));
            }
        }
        full_due
    }

    /// What the kernel has of this object is not known any more.
    pub(super) fn doubt(&mut self, kind: Kind, name: Name) {
        self.unsure.entry((kind, name)).or_default();
    }
}
