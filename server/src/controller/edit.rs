//! What a set of changes makes of the World: checks, and choices where the caller left them open.
//!
//! Pure: identities and the time are given. All checks are of the World *after* the whole set: what is released is
//! released before anything is claimed, so two attachments may swap addresses, and drafts may come in any order.
//! Explicit wishes are served before open choices.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
    sync::Arc,
};

use netloom_api::{
    Action, AnyDraft, Attachment, Cidr, Draft, ErrorReason, Etag, IfName, Kind, Link, Meta, Name, Namespace,
    Network, Owner, Policy, PortForward, Protocol, Reservation, Route, Timestamp, Uid,
};
use serde_json::Value;

use super::{
    claims,
    inside::Inside,
    patch::{differences, patched},
    policies::{check_guarded, namers},
    prune::owned_by_other,
};
use crate::{
    config::Pool,
    error::{Error, Result},
    want::HostLinks,
    world::{AnyStored, Stored, World, WorldNoun},
};

/// One change of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A new object.
    Create(AnyDraft),
    /// The object as given, new or not.
    Put(AnyDraft),
    /// Some fields of an object.
    Patch(Patch),
    /// No object.
    Delete(Delete),
}

/// JSON merge patches (RFC 7396) of labels, annotations, owner and spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// Which noun.
    pub kind: Kind,
    /// Which object.
    pub name: Name,
    /// The patches, made one after the other: one that removes and one that sets replace a value whole.
    pub patches: Vec<Value>,
    /// Refuse another version.
    pub etag: Option<Etag>,
    /// Create the object when there is none.
    pub allow_missing: bool,
}

/// A removal.
#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    /// Which noun.
    pub kind: Kind,
    /// Which object.
    pub name: Name,
    /// Refuse another version.
    pub etag: Option<Etag>,
    /// Remove what depends on it too.
    pub force: bool,
    /// Succeed when there is none.
    pub allow_missing: bool,
}

/// What holds for a whole set of changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Whose the set is: with `prune`, what else is theirs goes.
    pub owner: Option<Owner>,
    /// Delete what the owner has beside the set.
    pub prune: bool,
    /// Objects that another owner holds may be taken over.
    pub take_ownership: bool,
    /// All or none; else what can be done is done.
    pub atomic: bool,
    /// Refuse another count of intent.
    pub expect_revision: Option<i64>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { owner: None, prune: false, take_ownership: false, atomic: true, expect_revision: None }
    }
}

/// What choices depend on beside the World.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// The moment of the change.
    pub now: Timestamp,
    /// Of the set.
    pub terms: Terms,
    /// Changes of the set that are known to fail, by their index.
    pub faulty: Faults,
    /// Where subnets are chosen from.
    pub pools: Arc<[Pool]>,
    /// The host's own links.
    pub host: HostLinks,
    /// Where listen ports are chosen from.
    pub forward_ports: RangeInclusive<u16>,
    /// Ports that other processes were found to have, just now.
    pub busy: BTreeSet<(Protocol, u16)>,
    /// Whether SCTP can be forwarded.
    pub sctp: bool,
    /// What is in namespaces.
    pub inside: Inside,
    /// Addresses that the API listens on.
    pub api: Vec<IpAddr>,
    /// The caller means it, even if it may cut the host off.
    pub force: bool,
}

/// What the changes make.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    /// The World before them.
    pub before: World,
    /// The World after them.
    pub world: World,
    /// What to do with each object, in the order of the changes.
    pub fates: Vec<Fate>,
    /// Objects whose rows are new or different.
    pub puts: Vec<AnyStored>,
    /// Objects that go at once, since the kernel has no part in them.
    pub removes: Vec<AnyStored>,
    /// Where next-fit allocation goes on.
    pub cursors: Vec<(Name, Cidr, IpAddr)>,
    /// Metrics of default routes that drafts of this set ask for, by Namespace: none of them is chosen for another.
    pub wished_metrics: BTreeSet<(Name, u32)>,
}

/// Why changes of a set fail, by their index.
pub(super) type Faults = BTreeMap<usize, Error>;

/// The fate of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Fate {
    /// What happens.
    pub action: Action,
    /// Which noun.
    pub kind: Kind,
    /// Which object.
    pub name: Name,
    /// Its identity; none when there was nothing to delete.
    pub uid: Option<Uid>,
    /// What an update changes.
    pub fields: Vec<String>,
    /// Why it failed.
    pub error: Option<Error>,
}

impl Fate {
    pub(super) fn new(action: Action, kind: Kind, name: Name, uid: Option<Uid>) -> Self {
        Self { action, kind, name, uid, fields: Vec::new(), error: None }
    }
}

/// Applies the changes to a World.
pub(super) fn edit(before: &World, changes: Vec<Change>, context: &Context) -> Result<Edit> {
    if let Some(expected) = context.terms.expect_revision.filter(|expected| *expected != before.revision) {
        let detail = format!("intent is at revision {}, not {expected}; look again", before.revision);
        return Err(Error::new(ErrorReason::RevisionMismatch, detail).with("revision", before.revision));
    }
    let mut faulty = context.faulty.clone();
    loop {
        let mut found = Faults::new();
        let edit = once(before, changes.clone(), context, &faulty, &mut found)?;
        if found.is_empty() {
            return Ok(edit);
        }
        // Without these the others may fare differently: what they would have released is not.
        faulty.extend(found);
    }
}

/// One try, without the changes that are known to fail. Where not all must succeed, more that fail are `found`.
fn once(
    before: &World,
    changes: Vec<Change>,
    context: &Context,
    faulty: &Faults,
    found: &mut Faults,
) -> Result<Edit> {
    let mut edit = Edit {
        before: before.clone(),
        world: before.clone(),
        fates: Vec::new(),
        puts: Vec::new(),
        removes: Vec::new(),
        cursors: Vec::new(),
        wished_metrics: BTreeSet::new(),
    };
    let mut drafts = Vec::new();
    let mut seen: BTreeMap<(Kind, Name), usize> = BTreeMap::new();
    let many = changes.len() > 1;
    for (index, change) in changes.into_iter().enumerate() {
        let (kind, name) = change.target();
        if let Some(first) = seen.insert((kind, name.clone()), index) {
            let detail = format!("{kind} {name} is changed twice, by entries {first} and {index}");
            return Err(Error::new(ErrorReason::InvalidArgument, detail).at(format!("objects[{index}].name")));
        }
        if let Some(error) = faulty.get(&index) {
            let uid = before.get_any(kind, &name).map(|object| object.meta().uid);
            edit.fates
                .push(Fate { error: Some(error.clone()), ..Fate::new(Action::Failed, kind, name, uid) });
            continue;
        }
        match edit.begin(before, change, context) {
            Ok(draft) => drafts.extend(draft.map(|draft| (index, draft))),
            Err(error) if context.terms.atomic => {
                return Err(if many { of_many(error, index) } else { error });
            }
            Err(error) => {
                edit.fates.push(Fate::new(Action::Failed, kind, name, None));
                found.insert(index, error);
            }
        }
    }
    let pruned = edit.prune(before, &seen, context)?;
    edit.put_all(before, drafts, context, many, found)?;
    edit.fates.extend(pruned);
    if edit.puts.is_empty() && edit.removes.is_empty() {
        return Ok(edit);
    }
    edit.world.revision = before.revision + 1;
    Ok(edit)
}

impl Change {
    /// Which object.
    pub fn target(&self) -> (Kind, Name) {
        match self {
            Change::Create(draft) | Change::Put(draft) => (draft.kind(), draft.name().clone()),
            Change::Patch(patch) => (patch.kind, patch.name.clone()),
            Change::Delete(delete) => (delete.kind, delete.name.clone()),
        }
    }
}

pub(super) fn exists(old: &AnyStored) -> Error {
    let (kind, name) = (old.kind(), &old.meta().name);
    let (reason, detail) = match old.meta().delete_time {
        None => (ErrorReason::AlreadyExists, format!("{kind} {name} exists already")),
        Some(_) => (ErrorReason::BeingDeleted, format!("{kind} {name} is being deleted; try again")),
    };
    Error::new(reason, detail).with("kind", kind).with("name", name).with("uid", old.meta().uid)
}

pub(super) fn check_etag(object: &AnyStored, etag: Option<Etag>) -> Result<()> {
    let current = object.meta().etag();
    match etag {
        Some(etag) if etag != current => {
            let detail =
                format!("{} {} has changed; its etag is {current} now", object.kind(), object.meta().name);
            Err(Error::new(ErrorReason::EtagMismatch, detail).with("etag", current))
        }
        Some(_) | None => Ok(()),
    }
}

/// The object that a change would make, if it makes one and can be read.
pub(super) fn draft_of<'c>(world: &World, change: &'c Change) -> Option<Cow<'c, AnyDraft>> {
    match change {
        Change::Create(draft) | Change::Put(draft) => Some(Cow::Borrowed(draft)),
        Change::Patch(patch) => patched(world, patch.clone()).ok().map(Cow::Owned),
        Change::Delete(_) => None,
    }
}

impl Edit {
    /// What a change does before drafts are put in, and the draft that it puts in.
    fn begin(&mut self, before: &World, change: Change, context: &Context) -> Result<Option<AnyDraft>> {
        let (kind, name) = change.target();
        let old = before.get_any(kind, &name);
        let (action, draft) = match change {
            Change::Delete(delete) => return self.delete(before, delete, context).map(|()| None),
            Change::Create(draft) => match old {
                Some(old) => return Err(exists(&old)),
                None => (Action::Created, draft),
            },
            Change::Put(mut draft) => {
                if let Some(holder) = old.and_then(|old| old.meta().owner.clone()) {
                    // Who applies without a word about the owner takes nothing away from it.
                    let wanted = draft.owner_mut().get_or_insert_with(|| holder.clone());
                    if *wanted != holder && !context.terms.take_ownership {
                        return Err(owned_by_other(kind, &name, &holder));
                    }
                }
                (Action::Unchanged, draft)
            }
            Change::Patch(patch) => (Action::Unchanged, patched(before, patch)?),
        };
        self.fates.push(Fate::new(action, kind, name, None));
        Ok(Some(draft))
    }

    fn put_all(
        &mut self,
        before: &World,
        drafts: Vec<(usize, AnyDraft)>,
        context: &Context,
        many: bool,
        found: &mut Faults,
    ) -> Result<()> {
        // Releases first.
        for (_, draft) in &drafts {
            self.world.lift(draft.kind(), draft.name());
            if let AnyDraft::Attachment(Draft { spec, .. }) = draft {
                self.wished_metrics.extend(spec.metric.map(|metric| (spec.namespace.clone(), metric)));
            }
        }
        let mut drafts = drafts;
        // What is there keeps what it has before anything new may choose it.
        let is_new = |draft: &AnyDraft| before.get_any(draft.kind(), draft.name()).is_none();
        drafts.sort_by_key(|(index, draft)| {
            let (rank, chooses) = order(draft);
            (rank, is_new(draft), chooses, *index)
        });
        let mut placed_now = Vec::new();
        for (index, draft) in drafts {
            let (kind, name) = (draft.kind(), draft.name().clone());
            let placed = match draft {
                AnyDraft::Namespace(draft) => self.put_one(before, index, draft, context),
                AnyDraft::Network(draft) => self.put_one(before, index, draft, context),
                AnyDraft::Attachment(draft) => self.put_one(before, index, draft, context),
                AnyDraft::PortForward(draft) => self.put_one(before, index, draft, context),
                AnyDraft::Reservation(draft) => self.put_one(before, index, draft, context),
                AnyDraft::Route(draft) => self.put_one(before, index, draft, context),
                AnyDraft::Link(draft) => self.put_one(before, index, draft, context),
                AnyDraft::Policy(draft) => self.put_one(before, index, draft, context),
            };
            match placed {
                Ok(()) => placed_now.push((index, kind, name)),
                Err(error) if context.terms.atomic => {
                    return Err(if many { of_many(error, index) } else { error });
                }
                Err(error) => {
                    // As it was, so that what refers to it is judged by what will be.
                    before.get_any(kind, &name).into_iter().for_each(|old| self.world.put(old));
                    found.insert(index, error);
                }
            }
        }
        // Of all together: what one of them guards, another may select. What has not changed is not to blame.
        placed_now.retain(|(index, ..)| self.fates[*index].action != Action::Unchanged);
        for (index, kind, name) in placed_now {
            match check_guarded(&self.world, kind, &name) {
                Ok(()) => {}
                Err(error) if context.terms.atomic => {
                    return Err(if many { of_many(error, index) } else { error });
                }
                Err(error) => {
                    before.get_any(kind, &name).into_iter().for_each(|old| self.world.put(old));
                    found.insert(index, error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn put_one<N: claims::Claims>(
        &mut self,
        before: &World,
        index: usize,
        draft: Draft<N>,
        context: &Context,
    ) -> Result<()> {
        let old = before.get::<N>(&draft.name);
        if let Some(old) = old.filter(|old| old.meta.delete_time.is_some()) {
            return Err(exists(&N::any(old.clone())));
        }
        if let Some(old) = old {
            N::check_immutable(&old.spec, &draft.spec)?;
        }
        let Draft { name, labels, annotations, owner, spec } = draft;
        let uid = old.map_or_else(Uid::generate, |old| old.meta.uid);
        let alloc = N::claim(self, &name, uid, &spec, old.map(|old| &old.alloc), context)?;
        let fate = &mut self.fates[index];
        fate.uid = Some(uid);
        let Some(old) = old else {
            fate.action = Action::Created;
            let meta = Meta {
                name,
                labels,
                annotations,
                owner,
                uid,
                generation: 1,
                revision: before.revision + 1,
                create_time: context.now,
                update_time: context.now,
                delete_time: None,
            };
            self.keep::<N>(Stored { meta, spec, alloc });
            return Ok(());
        };
        let same_spec = old.spec == spec && old.alloc == alloc;
        if same_spec
            && old.meta.labels == labels
            && old.meta.annotations == annotations
            && old.meta.owner == owner
        {
            fate.action = Action::Unchanged;
            self.world.put(N::any(old.clone()));
            return Ok(());
        }
        fate.action = Action::Updated;
        let meta = Meta {
            name,
            labels,
            annotations,
            owner,
            uid,
            generation: old.meta.generation + i64::from(!same_spec),
            revision: before.revision + 1,
            create_time: old.meta.create_time,
            update_time: context.now,
            delete_time: None,
        };
        let stored = Stored::<N> { meta, spec, alloc };
        let new = N::any(Arc::new(stored.clone()));
        fate.fields = differences(&N::any(old.clone()).to_draft_json(), &new.to_draft_json());
        self.keep::<N>(stored);
        Ok(())
    }

    fn keep<N: WorldNoun>(&mut self, object: Stored<N>) {
        let object = N::any(Arc::new(object));
        self.world.put(object.clone());
        self.puts.push(object);
    }

    fn delete(&mut self, before: &World, delete: Delete, context: &Context) -> Result<()> {
        let Delete { kind, name, etag, force, allow_missing } = delete;
        let Some(object) = before.get_any(kind, &name) else {
            if allow_missing {
                self.fates.push(Fate::new(Action::Unchanged, kind, name, None));
                return Ok(());
            }
            return Err(Error::not_found(kind, name));
        };
        check_etag(&object, etag)?;
        let (children, namers) = (dependents(before, kind, &name), namers(before, kind, &name));
        let alive = |(kind, name): &&(Kind, Name)| {
            self.world.get_any(*kind, name).is_some_and(|child| child.meta().delete_time.is_none())
        };
        // These stay, and what they name is nobody then: taken away with it, they would open what they select.
        let needed = || children.iter().chain(&namers).filter(alive);
        if !force && needed().next().is_some() {
            let names: Vec<String> = needed().map(|(kind, name)| format!("{kind}/{name}")).collect();
            let detail =
                format!("{kind} {name} is needed by {}; delete them first, or force", names.join(", "));
            return Err(Error::new(ErrorReason::HasDependents, detail).with("dependents", names.join(",")));
        }
        if kind == Kind::Namespace && object.meta().delete_time.is_none() {
            context.inside.check_unused(&name)?;
        }
        self.fates.push(Fate::new(Action::Deleted, kind, name.clone(), Some(object.meta().uid)));
        for (kind, name) in children.iter().chain([&(kind, name)]) {
            self.mark_deleted(*kind, name, before.revision + 1, context.now);
        }
        Ok(())
    }

    /// Whether a PortForward leaves its ports in this very edit: then they are there to be taken, since one round takes the
    /// one out and puts the other in.
    pub(super) fn leaves(&self, forward: &Name) -> bool {
        let living = |world: &World| {
            world.get::<PortForward>(forward).is_some_and(|one| one.meta.delete_time.is_none())
        };
        living(&self.before) && !living(&self.world)
    }

    /// What the kernel has a part in stays until the kernel is rid of it.
    pub(super) fn mark_deleted(&mut self, kind: Kind, name: &Name, revision: i64, now: Timestamp) {
        let Some(object) = self.world.get_any(kind, name) else { return };
        if object.meta().delete_time.is_some() {
            return;
        }
        if kind == Kind::Reservation {
            self.world.remove(kind, name);
            self.removes.push(object);
            return;
        }
        let meta = Meta { delete_time: Some(now), update_time: now, revision, ..object.meta().clone() };
        let object = object.with_meta(meta);
        self.world.put(object.clone());
        self.puts.push(object);
    }
}

/// References before what refers to them; explicit wishes before open choices.
fn order(draft: &AnyDraft) -> (u8, bool) {
    match draft {
        AnyDraft::Namespace(_) => (0, false),
        AnyDraft::Network(draft) => {
            (1, draft.spec.subnets.is_empty() || draft.spec.subnets.iter().any(|s| s.cidr.is_none()))
        }
        AnyDraft::Reservation(draft) => (2, draft.spec.address.is_none()),
        // Its interfaces and addresses are all wishes.
        AnyDraft::Link(_) => (1, false),
        // An explicit address is claimed before a reservation chooses one.
        AnyDraft::Attachment(draft) => (2, draft.spec.addresses.is_empty()),
        AnyDraft::PortForward(_) => (4, false),
        AnyDraft::Route(_) => (5, false),
        AnyDraft::Policy(_) => (6, false),
    }
}

/// What cannot be without this object, innermost first.
pub fn dependents(world: &World, kind: Kind, name: &Name) -> Vec<(Kind, Name)> {
    let of = |kind: Kind, names: Vec<&Name>| {
        names.into_iter().map(move |name| (kind, name.clone())).collect::<Vec<_>>()
    };
    match kind {
        Kind::Namespace => {
            let mut all = of(Kind::Route, world.routes_in(name).collect());
            all.extend(of(Kind::Attachment, world.attachments_in(name).collect()));
            all.extend(of(Kind::Link, world.links_in(name).collect()));
            all
        }
        Kind::Network => {
            let mut all = of(Kind::Attachment, world.attachments_on(name).collect());
            all.extend(of(Kind::Reservation, world.reservations_on(name).collect()));
            all.extend(of(Kind::Policy, world.policies_on(name).collect()));
            all
        }
        // A forward may wait for its attachment to come back, and so may a route.
        Kind::Attachment
        | Kind::PortForward
        | Kind::Reservation
        | Kind::Route
        | Kind::Link
        | Kind::Policy => Vec::new(),
    }
}

/// The error of one object of many.
fn of_many(mut error: Error, index: usize) -> Error {
    for violation in &mut error.violations {
        violation.field = format!("objects[{index}].{}", violation.field);
    }
    error.with("index", index)
}

impl AnyStored {
    /// The object as a caller would send it.
    pub fn to_draft_json(&self) -> Value {
        let export = self.to_draft().to_export();
        serde_json::to_value(export).unwrap_or_default()
    }

    /// The object as a caller would send it.
    pub fn to_draft(&self) -> AnyDraft {
        fn draft<N: WorldNoun>(object: &Stored<N>) -> Draft<N> {
            let Meta { name, labels, annotations, owner, .. } = object.meta.clone();
            Draft { name, labels, annotations, owner, spec: object.spec.clone() }
        }
        match self {
            AnyStored::Namespace(object) => draft::<Namespace>(object).into(),
            AnyStored::Network(object) => draft::<Network>(object).into(),
            AnyStored::Attachment(object) => draft::<Attachment>(object).into(),
            AnyStored::PortForward(object) => draft::<PortForward>(object).into(),
            AnyStored::Reservation(object) => draft::<Reservation>(object).into(),
            AnyStored::Route(object) => draft::<Route>(object).into(),
            AnyStored::Link(object) => draft::<Link>(object).into(),
            AnyStored::Policy(object) => draft::<Policy>(object).into(),
        }
    }
}

/// A device name made from an identity.
pub(super) fn device_of(uid: Uid) -> Result<IfName> {
    format!("{}{}", crate::hostnet::DEVICE_PREFIX, uid.tail()).parse().map_err(Error::internal)
}
