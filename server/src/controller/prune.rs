//! Owners: who holds what, and what goes when an owner's set no longer names it.

use std::collections::{BTreeMap, BTreeSet};

use netloom_api::{Action, ErrorReason, KIND_NAMES, Kind, Name, Owner};

use super::{
    edit::{Context, Edit, Fate, Terms, dependents},
    policies::namers,
};
use crate::{
    error::{Error, Result},
    world::{AnyStored, World},
};

impl Edit {
    /// Deletes what the owner has and the set does not name.
    pub(super) fn prune(
        &mut self,
        before: &World,
        named: &BTreeMap<(Kind, Name), usize>,
        context: &Context,
    ) -> Result<Vec<Fate>> {
        let pruned = pruned(before, &context.terms, |kind, name| named.contains_key(&(kind, name.clone())));
        let goes: BTreeSet<(Kind, Name)> =
            pruned.iter().map(|object| (object.kind(), object.meta().name.clone())).collect();
        for object in &pruned {
            if object.kind() == Kind::Namespace {
                context.inside.check_unused(&object.meta().name)?;
            }
            let (kind, name) = (object.kind(), &object.meta().name);
            let needed = dependents(before, kind, name).into_iter().chain(namers(before, kind, name));
            let stays = needed.filter_map(|(kind, name)| {
                let child = before.get_any(kind, &name)?;
                // What a Policy names can change: the set says whether it still does.
                let told = kind == Kind::Policy && named.contains_key(&(kind, name.clone()));
                let goes = told || goes.contains(&(kind, name));
                (child.meta().delete_time.is_none() && !goes).then_some(child)
            });
            let stays: Vec<AnyStored> = stays.collect();
            if !stays.is_empty() {
                return Err(still_needed(object, &stays));
            }
        }
        for object in &pruned {
            self.mark_deleted(object.kind(), &object.meta().name, before.revision + 1, context.now);
        }
        let fate = |object: &AnyStored| {
            Fate::new(Action::Deleted, object.kind(), object.meta().name.clone(), Some(object.meta().uid))
        };
        Ok(pruned.iter().map(fate).collect())
    }
}

/// What a set of these terms prunes: all that its owner has and it does not name.
pub(super) fn pruned(world: &World, terms: &Terms, named: impl Fn(Kind, &Name) -> bool) -> Vec<AnyStored> {
    let Some(owner) = terms.owner.as_ref().filter(|_| terms.prune) else { return Vec::new() };
    let all = KIND_NAMES.iter().flat_map(|(kind, _)| world.all_of(*kind));
    let goes = |object: &AnyStored| {
        let meta = object.meta();
        meta.owner.as_ref() == Some(owner) && meta.delete_time.is_none() && !named(object.kind(), &meta.name)
    };
    all.filter(goes).collect()
}

/// An apply may not touch what somebody else holds.
pub(super) fn owned_by_other(kind: Kind, name: &Name, holder: &Owner) -> Error {
    let detail = format!("{kind} {name} is held by {holder}; leave it to them, or take ownership");
    let error = Error::new(ErrorReason::OwnedByOther, detail).with("kind", kind).with("name", name);
    error.with("owner", holder).at("owner")
}

fn still_needed(object: &AnyStored, by: &[AnyStored]) -> Error {
    let (kind, name) = (object.kind(), &object.meta().name);
    let told = |child: &AnyStored| {
        let whose = child.meta().owner.as_ref().map_or("nobody".to_owned(), Owner::to_string);
        format!("{} {} of {whose}", child.kind(), child.meta().name)
    };
    let names: Vec<String> =
        by.iter().map(|child| format!("{}/{}", child.kind(), child.meta().name)).collect();
    let whom: Vec<String> = by.iter().map(told).collect();
    let detail = format!(
        "{kind} {name} would be pruned, but is needed by {}; name it in the apply, or delete them first",
        whom.join(", ")
    );
    let error = Error::new(ErrorReason::HasDependents, detail).with("kind", kind).with("name", name);
    error.with("dependents", names.join(","))
}
