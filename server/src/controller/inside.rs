//! What a set of changes has to know of the kernel before it is written: which namespace is meant, which interfaces
//! others have in it, whether settings are possible, and who is still inside of what is to be deleted.

use std::collections::{BTreeMap, BTreeSet};

use netloom_api::{
    AdoptedSource, AnyDraft, Attachment, ErrorReason, Kind, Link, Name, Namespace, NamespaceSpec, Noun as _,
    ProcessState, SysctlKey, Sysctls,
};

use super::{
    edit::{Change, Terms, draft_of},
    prune::pruned,
};
use crate::{
    error::{Error, Result},
    hostnet::HostView,
    kernel::{Kernel, Place, SettingsError, adopt::AdoptError},
    reconcile::board::Board,
    world::{Adoption, AnyStored, Stored, World},
};

/// So many processes are named in an error.
const MOST_NAMED: usize = 16;

/// What was asked, and the answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Inside {
    /// For each new adopted Namespace, the namespace that is meant.
    pub(super) adopted: BTreeMap<Name, Result<Adoption>>,
    /// What interfaces others have in adopted namespaces.
    pub(super) interfaces: BTreeMap<Name, BTreeSet<String>>,
    /// What settings are, before they are set.
    pub(super) settings: BTreeMap<Name, Result<BTreeMap<SysctlKey, String>>>,
    /// Who is in a managed namespace that is to be deleted, and how many they are.
    pub(super) processes: BTreeMap<Name, Result<(Vec<ProcessState>, usize)>>,
    /// What routes are judged by on `host` and in adopted namespaces.
    pub(super) views: BTreeMap<Name, Result<HostView>>,
}

/// The questions.
#[derive(Debug, Default)]
pub(super) struct Questions {
    adopt: BTreeMap<Name, AdoptedSource>,
    interfaces: BTreeSet<Name>,
    settings: BTreeMap<Name, (Place, Sysctls)>,
    processes: BTreeSet<Name>,
    views: BTreeSet<Name>,
}

impl Questions {
    /// What has to be asked for these changes.
    pub(super) fn of(world: &World, changes: &[Change], terms: &Terms) -> Self {
        let mut all = Self::default();
        let named: BTreeSet<(Kind, Name)> = match terms.prune {
            true => changes.iter().map(Change::target).collect(),
            false => BTreeSet::new(),
        };
        for object in pruned(world, terms, |kind, name| named.contains(&(kind, name.clone()))) {
            if let AnyStored::Namespace(namespace) = object
                && namespace.alloc.adopted.is_none()
            {
                all.processes.insert(namespace.meta.name.clone());
            }
        }
        let (mut attached, mut linked, mut routed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for change in changes {
            match change {
                Change::Delete(delete) if delete.kind == Namespace::KIND && !delete.force => {
                    let known = world.get::<Namespace>(&delete.name);
                    if known.is_some_and(|known| known.alloc.adopted.is_none()) {
                        all.processes.insert(delete.name.clone());
                    }
                }
                Change::Delete(_) => {}
                Change::Create(_) | Change::Put(_) | Change::Patch(_) => {
                    match draft_of(world, change).as_deref() {
                        Some(AnyDraft::Namespace(draft)) => all.of_namespace(world, &draft.name, &draft.spec),
                        Some(AnyDraft::Attachment(draft)) => {
                            attached.insert(draft.spec.namespace.clone());
                        }
                        Some(AnyDraft::Route(draft)) => {
                            routed.insert(draft.spec.namespace.clone());
                        }
                        Some(AnyDraft::Link(draft)) => {
                            linked.extend(draft.spec.ends.iter().map(|end| end.namespace.clone()));
                        }
                        Some(
                            AnyDraft::Network(_)
                            | AnyDraft::PortForward(_)
                            | AnyDraft::Reservation(_)
                            | AnyDraft::Policy(_),
                        )
                        | None => {}
                    }
                }
            }
        }
        let is_adopted =
            |name: &Name| world.get::<Namespace>(name).is_some_and(|known| known.alloc.adopted.is_some());
        linked.retain(is_adopted);
        all.views.extend(linked.iter().cloned());
        all.interfaces.extend(attached.into_iter().filter(is_adopted).chain(linked));
        let is_host = |name: &Name| name.as_str() == "host";
        all.views.extend(routed.into_iter().filter(|name| is_host(name) || is_adopted(name)));
        all
    }

    fn of_namespace(&mut self, world: &World, name: &Name, spec: &NamespaceSpec) {
        let old = world.get::<Namespace>(name).filter(|old| old.meta.delete_time.is_none());
        let place = match (old, spec.adopted()) {
            (Some(_), _) => Place::In(name.clone()),
            (None, Some(source)) => {
                self.adopt.insert(name.clone(), source.clone());
                Place::Adopted(source.clone())
            }
            (None, None) => Place::New,
        };
        let had = old.map(|old| old.spec.sysctls.clone()).unwrap_or_default();
        if !spec.sysctls.is_empty() && had != spec.sysctls {
            self.settings.insert(name.clone(), (place, spec.sysctls.clone()));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { adopt, interfaces, settings, processes, views } = self;
        adopt.is_empty()
            && interfaces.is_empty()
            && settings.is_empty()
            && processes.is_empty()
            && views.is_empty()
    }

    /// Asks the kernel; blocks.
    pub(super) fn ask(self, kernel: &Kernel, world: &World, board: &Board) -> Inside {
        let Self { adopt, interfaces, settings, processes, views } = self;
        let mut inside = Inside::default();
        for (name, source) in adopt {
            let field = field_of(&source);
            let found = kernel.adoptable(&source).map_err(|error| refusal(&error, field));
            let found = found.and_then(|found| {
                let manager = found.managed_by.map(|uid| match world.find(&uid) {
                    Some((_, name)) => format!("is managed by netloom, as Namespace {name}"),
                    None => "bears netloom's mark".to_owned(),
                });
                match manager.or_else(|| managed_with(world, board, found.adoption.cookie)) {
                    Some(why) => Err(taken(format!("the network namespace {why}"), field)),
                    None => Ok(found),
                }
            });
            if let Ok(found) = &found {
                inside.interfaces.insert(name.clone(), found.interfaces.iter().cloned().collect());
                inside.views.insert(name.clone(), Ok(found.view.clone()));
            }
            inside.adopted.insert(name, found.map(|found| found.adoption));
        }
        for name in interfaces {
            // What cannot be read now is told by the kernel when it is used.
            let found = kernel.interfaces(&name).unwrap_or_default();
            let ours: BTreeSet<String> = ours_in(world, &name);
            inside.interfaces.insert(name, found.into_iter().filter(|one| !ours.contains(one)).collect());
        }
        for (name, (place, sysctls)) in settings {
            let tried = kernel.try_settings(&place, &sysctls).map_err(|error| match error {
                SettingsError::Unfit { key, why } => {
                    Error::new(ErrorReason::InvalidArgument, format!("{key} {why}"))
                        .at(format!("spec.sysctls.{key}"))
                }
                SettingsError::Unknown(why) => {
                    Error::new(ErrorReason::Unavailable, format!("settings cannot be tried: {why}"))
                }
            });
            inside.settings.insert(name, tried);
        }
        for name in views {
            let found = kernel.view(&name).map_err(|why| {
                Error::new(ErrorReason::Unavailable, format!("the routes of {name} are not known: {why}"))
            });
            inside.views.insert(name, found);
        }
        for name in processes {
            let found = kernel.processes(&name, MOST_NAMED);
            let found = found.map_err(|why| {
                Error::new(ErrorReason::Unavailable, format!("{why}; force deletes all the same"))
            });
            inside.processes.insert(name, found);
        }
        inside
    }
}

impl Inside {
    /// Refuses to delete a namespace that somebody uses.
    pub(super) fn check_unused(&self, name: &Name) -> Result<()> {
        let Some(found) = self.processes.get(name) else { return Ok(()) };
        let (processes, count) = found.clone()?;
        if count == 0 {
            return Ok(());
        }
        let named: Vec<String> = processes.iter().map(|one| format!("{} {}", one.pid, one.command)).collect();
        let more =
            if count > named.len() { format!(" and {} more", count - named.len()) } else { String::new() };
        let named = named.join(", ");
        let detail = format!(
            "in Namespace {name} are processes: {named}{more}; end them first, or force, and the namespace goes when they do"
        );
        Err(Error::new(ErrorReason::NamespaceInUse, detail).with("processes", named).with("count", count))
    }
}

/// The field that says which namespace is meant.
pub(super) fn field_of(source: &AdoptedSource) -> &'static str {
    match source {
        AdoptedSource::Path(_) => "spec.source.adopted.path",
        AdoptedSource::Pid(_) => "spec.source.adopted.pid",
    }
}

/// A namespace that is somebody else's already.
pub(super) fn taken(detail: String, field: &str) -> Error {
    Error::new(ErrorReason::NamespaceTaken, detail).at(field)
}

fn refusal(error: &AdoptError, field: &str) -> Error {
    let reason = match error {
        AdoptError::Elsewhere { .. } | AdoptError::Unfit(_) => ErrorReason::InvalidArgument,
        AdoptError::NoPath(_) | AdoptError::NoProcess(_) => ErrorReason::ReferenceNotFound,
        AdoptError::Own => ErrorReason::NamespaceTaken,
        AdoptError::Unknown(_) => ErrorReason::Unavailable,
    };
    Error::new(reason, error.to_string()).at(field)
}

/// A namespace of ours whose mark somebody inside has taken away is still known by its cookie.
fn managed_with(world: &World, board: &Board, cookie: u64) -> Option<String> {
    let managed = world.all::<Namespace>().filter(|one| one.alloc.adopted.is_none());
    let has = |one: &&std::sync::Arc<Stored<Namespace>>| {
        board.get(&one.meta.uid).is_some_and(|entry| entry.facts.cookie == Some(cookie))
    };
    managed.into_iter().find(has).map(|one| format!("is managed by netloom, as Namespace {}", one.meta.name))
}

/// The interfaces that netloom has made in a Namespace, or is about to.
fn ours_in(world: &World, namespace: &Name) -> BTreeSet<String> {
    let inside = world.attachments_in(namespace).filter_map(|name| world.get::<Attachment>(name));
    let links = world.links_in(namespace).filter_map(|name| world.get::<Link>(name));
    let ends = links.flat_map(|link| &link.spec.ends).filter(|end| end.namespace == *namespace);
    let attached = inside.map(|one| one.alloc.interface.to_string());
    attached.chain(ends.map(|end| end.interface.to_string())).collect()
}
