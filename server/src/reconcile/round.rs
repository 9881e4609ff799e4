//! One round: from what was applied to what is wanted now, for a part of the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use netloom_api::{Attachment, ConditionReason, ConditionStatus, IfName, Kind, Name, Uid};

use nix::errno::Errno;

use super::{
    Host,
    board::{Board, Entry},
};
use crate::{
    config::Drift,
    controller::Intent,
    hostnet::{Facts, Failure, FailureSort, HostNet, Outcome, Part, Route, Scope, Step},
    plan::{Plan, plan},
    want::{NoWay, Surroundings, have_host, want},
    world::{AnyStored, World},
};

/// How often a round looks again after a surprise.
const LOOKS: usize = 2;

pub(super) struct Round {
    pub(super) id: u64,
    /// What the kernel has of this scope is not known.
    pub(super) unsure: bool,
    /// What earlier rounds that failed may have left, beside what was applied and what is wanted.
    pub(super) doubts: Vec<Arc<HostNet>>,
    pub(super) changed: Vec<(Kind, Name)>,
    pub(super) scope: Scope,
    pub(super) before: World,
    pub(super) after: Arc<World>,
    pub(super) around: Arc<RwLock<Surroundings>>,
    /// What is done about what the kernel has and is not wanted.
    pub(super) drift: Drift,
    /// It is about what somebody else has broken.
    pub(super) repairs: bool,
    /// What it does for these is no repair: their intent has changed, too.
    pub(super) changing: Changing,
}

/// Whose part of the host is about to change by intent.
#[derive(Clone, Debug, Default)]
pub(super) struct Changing {
    pub(super) objects: BTreeSet<(Kind, Name)>,
    /// What belongs to nobody in particular.
    pub(super) host: bool,
}

/// A round that is done, and what came of it for each object.
pub(super) struct Finished {
    pub(super) id: u64,
    pub(super) after: Arc<World>,
    changed: Vec<(Kind, Name)>,
    scope: Scope,
    facts: BTreeMap<Uid, Facts>,
    failures: BTreeMap<Uid, Failure>,
    /// Nothing can be said: the host could not be observed.
    unknown: Option<String>,
    /// What the kernel may have now, when not all went well.
    pub(super) doubt: Option<Arc<HostNet>>,
    /// Of a repair: the steps that were taken, by object; those of the host as a whole belong to none.
    pub(super) repaired: Repaired,
    /// Nothing was done: Namespaces are gone that the round is not about, and have to be made first.
    pub(super) missed: BTreeSet<Name>,
    /// The host's own addresses, as last seen.
    addresses: BTreeSet<IpAddr>,
}

pub(super) type Repaired = BTreeMap<Option<Uid>, Vec<String>>;

impl Round {
    /// A round about everything, planned from what was observed.
    pub(super) fn whole(after: Arc<World>, around: Arc<RwLock<Surroundings>>, drift: Drift) -> Self {
        Self {
            id: 0,
            unsure: false,
            doubts: Vec::new(),
            changed: Vec::new(),
            scope: crate::want::everything(&after),
            before: World::default(),
            after,
            around,
            drift,
            repairs: false,
            changing: Changing::default(),
        }
    }

    /// Plans from what was applied before; observes when that is not known, or turns out wrong.
    pub(super) fn run(mut self, host: &dyn Host) -> Finished {
        if self.scope.host
            && let Ok(facts) = host.facts()
        {
            super::pass::learn(
                &mut self.around.write().unwrap_or_else(PoisonError::into_inner),
                &self.before,
                facts,
            );
        }
        let around = self.surroundings();
        let mut have = want(&self.before, &self.scope, &around);
        if self.scope.host {
            let mut own = have_host(&around);
            have.sysctls.retain(|(stack, sysctl), _| {
                !(sysctl.link().is_none_or(|link| around.facts.uplinks.contains_key(link))
                    && *stack == crate::hostnet::Stack::Host)
            });
            have.rules.elements.retain(|element| !crate::hostnet::rules::is_notransit(element));
            have.rules.elements.append(&mut own.rules.elements);
        }
        if self.unsure {
            let (observed, gone) = match self.observe(host, &self.like(&around), &around) {
                Ok(observed) => observed,
                Err(why) => return self.unknown(why),
            };
            if self.repairs && !gone.is_empty() {
                let nothing = Round { changed: Vec::new(), scope: Scope::default(), ..self };
                return Finished { missed: gone, ..nothing.finished(BTreeMap::new(), BTreeMap::new(), None) };
            }
            have = observed;
        }
        self.unsure = false;
        self.run_from(host, have)
    }

    /// Plans from what is given.
    pub(super) fn run_from(self, host: &dyn Host, mut have: HostNet) -> Finished {
        let around = self.surroundings();
        let wanted = want(&self.after, &self.scope, &around);
        let mut facts = BTreeMap::new();
        let mut repaired = Repaired::new();
        for look in 0.. {
            let Plan { steps, conflicts } = plan(&have, &wanted);
            let outcomes = match self.drift {
                Drift::Repair => host.apply(&steps),
                Drift::Report => steps.iter().map(reported).collect(),
            };
            if self.repairs {
                self.note_repairs(&steps, &outcomes, &mut repaired);
            }
            let mut failures: BTreeMap<Uid, Failure> = BTreeMap::new();
            let mut surprised = false;
            for (step, outcome) in steps.iter().zip(outcomes) {
                match (outcome, step.uid) {
                    (Outcome::Done(new), Some(uid)) => merge(facts.entry(uid).or_default(), new),
                    (Outcome::Failed(failure), uid) => {
                        tracing::warn!(%step, why = %failure.message, "a step was not taken");
                        surprised |= failure.sort == FailureSort::Surprise;
                        for uid in uid.map_or_else(|| self.uids(), |uid| vec![uid]) {
                            failures.entry(uid).or_insert_with(|| failure.clone());
                        }
                    }
                    (Outcome::Done(_), None) | (Outcome::Skipped, _) => {}
                }
            }
            for conflict in conflicts {
                let failure = Failure { errno: None, message: conflict.message, sort: FailureSort::Conflict };
                failures.insert(conflict.uid, failure);
            }
            if !surprised || look >= LOOKS {
                // What was to go may have stayed, and what was to come may be there.
                let doubt = (!failures.is_empty()).then(|| {
                    add(&mut have, &wanted);
                    Arc::new(have)
                });
                return Finished { repaired, doubt, ..self.finished(facts, failures, None) };
            }
            match self.observe(host, &self.like(&around), &around) {
                Ok((observed, _)) => have = observed,
                Err(why) => return self.unknown(why),
            }
        }
        self.unknown("no look was taken".into())
    }

    /// What was done, for the log. A step of the host as a whole is told for what the round is about.
    fn note_repairs(&self, steps: &[Step], outcomes: &[Outcome], repaired: &mut Repaired) {
        let changing: BTreeSet<Uid> = self
            .changing
            .objects
            .iter()
            .filter_map(|(kind, name)| self.after.get_any(*kind, name).map(|object| object.meta().uid))
            .collect();
        let about = self.changed.iter().find_map(|(kind, name)| self.after.get_any(*kind, name));
        let about = about.map(|object| object.meta().uid);
        let done = steps.iter().zip(outcomes).filter(|(_, outcome)| matches!(outcome, Outcome::Done(_)));
        for (step, _) in done {
            let whose = step.uid.or(about);
            if whose.map_or(!self.changing.host, |uid| !changing.contains(&uid)) {
                repaired.entry(whose).or_default().push(step.to_string());
            }
        }
    }

    fn surroundings(&self) -> Surroundings {
        self.around.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that may be there of this scope, by its names and places.
    fn like(&self, around: &Surroundings) -> HostNet {
        let mut like = want(&self.before, &self.scope, around);
        let wanted = want(&self.after, &self.scope, around);
        add(&mut like, &wanted);
        if !self.doubts.is_empty() {
            let mut doubt = HostNet::default();
            self.doubts.iter().for_each(|one| add(&mut doubt, one));
            // Those of a full pass are about everything: what others want is not ours to judge.
            take_out(&mut doubt, &want(&self.after, &crate::want::everything(&self.after), around));
            add(&mut like, &doubt);
        }
        like
    }

    /// What the kernel has of this scope: all that bears the mark of one of its objects, or stands where they want to be.
    /// And the namespaces that they are in and that are not there, while the round is not about these.
    fn observe(
        &self,
        host: &dyn Host,
        like: &HostNet,
        around: &Surroundings,
    ) -> Result<(HostNet, BTreeSet<Name>), String> {
        let wanted = want(&self.after, &self.scope, around);
        let mut part = Part::around([like, &wanted]);
        part.namespaces.extend(self.namespaces());
        let mut have = host.observe_part(&part)?;
        let mut gone = Part::around([&wanted]).namespaces;
        gone.retain(|name| {
            let is_there = have.namespaces.contains_key(name) || have.adopted.contains_key(name);
            !is_there && !self.scope.namespaces.contains(name)
        });
        let uids: BTreeSet<Uid> = self.uids().into_iter().collect();
        let ours = |mark: &crate::hostnet::Mark| matches!(mark, crate::hostnet::Mark::Object(uid) if uids.contains(uid));
        have.namespaces.retain(|name, mark| ours(mark) || wanted.namespaces.contains_key(name));
        have.adopted.retain(|name, _| self.scope.namespaces.contains(name));
        have.links.retain(|key, link| {
            ours(&link.mark)
                || wanted.links.contains_key(key)
                || like.links.contains_key(key)
                || wanted.borrowed.contains_key(&key.1)
                || like.borrowed.contains_key(&key.1)
        });
        let links = have.links.clone();
        have.addresses
            .retain(|address, _| links.contains_key(&(address.stack.clone(), address.link.clone())));
        have.limits.retain(|device, _| links.contains_key(&(crate::hostnet::Stack::Host, device.clone())));
        have.detours.retain(|device, _| links.contains_key(&(crate::hostnet::Stack::Host, device.clone())));
        let places: BTreeSet<_> = like.routes.keys().chain(wanted.routes.keys()).map(Route::place).collect();
        have.routes.retain(|route, _| {
            let through = |link: &IfName| links.contains_key(&(route.stack.clone(), link.clone()));
            places.contains(&route.place()) || route.link().is_some_and(through)
        });
        let known = |element: &crate::hostnet::rules::Element| {
            like.rules.elements.contains(element) || wanted.rules.elements.contains(element)
        };
        let keys: BTreeSet<_> =
            like.rules.elements.union(&wanted.rules.elements).map(|e| e.place()).collect();
        have.rules.elements.retain(|element| known(element) || keys.contains(&element.place()));
        have.rules
            .chains
            .retain(|name, _| like.rules.chains.contains_key(name) || wanted.rules.chains.contains_key(name));
        Ok((have, gone))
    }

    /// The namespaces that the objects are in, also of those that want nothing any more.
    fn namespaces(&self) -> BTreeSet<Name> {
        let worlds = [&self.before, &*self.after];
        let objects = names(&self.scope)
            .into_iter()
            .flat_map(|(kind, name)| worlds.map(|world| world.get_any(kind, &name)));
        let mut found = BTreeSet::new();
        for object in objects.flatten() {
            match object {
                AnyStored::Namespace(namespace) => drop(found.insert(namespace.meta.name.clone())),
                AnyStored::Attachment(attachment) => drop(found.insert(attachment.spec.namespace.clone())),
                AnyStored::Route(route) => drop(found.insert(route.spec.namespace.clone())),
                AnyStored::Link(link) => found.extend(link.spec.ends.iter().map(|end| end.namespace.clone())),
                AnyStored::Network(_)
                | AnyStored::PortForward(_)
                | AnyStored::Reservation(_)
                | AnyStored::Policy(_) => {}
            }
        }
        found
    }

    fn uids(&self) -> Vec<Uid> {
        let worlds = [&self.before, &*self.after];
        let all = names(&self.scope).into_iter().flat_map(|(kind, name)| {
            worlds.map(|world| world.get_any(kind, &name).map(|object| object.meta().uid))
        });
        all.flatten().collect()
    }

    fn unknown(self, why: String) -> Finished {
        let doubt = Some(Arc::new(self.like(&self.surroundings())));
        Finished { doubt, ..self.finished(BTreeMap::new(), BTreeMap::new(), Some(why)) }
    }

    fn finished(
        self,
        facts: BTreeMap<Uid, Facts>,
        failures: BTreeMap<Uid, Failure>,
        unknown: Option<String>,
    ) -> Finished {
        let addresses = self.surroundings().facts.addresses;
        let Self { id, changed, scope, after, .. } = self;
        let (doubt, repaired, missed) = (None, Repaired::new(), BTreeSet::new());
        Finished { id, after, changed, scope, facts, failures, unknown, doubt, repaired, missed, addresses }
    }
}

impl Finished {
    /// Every object that the round was about.
    pub(super) fn objects(&self) -> BTreeSet<(Kind, Name)> {
        let mut all = names(&self.scope);
        all.extend(self.changed.iter().cloned());
        if self.id == 0 {
            all.extend(
                self.after
                    .all::<netloom_api::Reservation>()
                    .map(|object| (Kind::Reservation, object.meta.name.clone())),
            );
        }
        all
    }

    /// Whether what the kernel has of this object is not known now.
    pub(super) fn failed(&self, kind: Kind, name: &Name) -> bool {
        let uid = self.after.get_any(kind, name).map(|object| object.meta().uid);
        self.unknown.is_some() || uid.is_some_and(|uid| self.failures.contains_key(&uid))
    }

    /// Whether the object is not as it is to be, and trying again may change that: not if somebody else is in the way.
    pub(super) fn may_help_to_retry(&self, (kind, name): &(Kind, Name)) -> bool {
        let Some(object) = self.after.get_any(*kind, name) else { return false };
        let failure = self.failures.get(&object.meta().uid).map(|failure| failure.sort);
        match failure {
            None | Some(FailureSort::Conflict | FailureSort::Gone) => self.unknown.is_some(),
            Some(FailureSort::Passing | FailureSort::Surprise | FailureSort::Final) => true,
        }
    }

    /// Whether the kernel is rid of an object that is being deleted: also when the namespace that it was in is gone.
    fn is_gone(&self, kind: Kind, object: &AnyStored) -> bool {
        let meta = object.meta();
        let only_gone = || {
            let failure = self.failures.get(&meta.uid);
            self.unknown.is_none() && failure.is_some_and(|failure| failure.sort == FailureSort::Gone)
        };
        meta.delete_time.is_some() && (!self.failed(kind, &meta.name) || only_gone())
    }

    /// The objects that were to go and that the kernel is rid of.
    pub(super) fn gone(&self) -> Vec<(Kind, Name, Uid)> {
        let objects = self.objects().into_iter();
        let gone = objects.filter_map(|(kind, name)| {
            let object = self.after.get_any(kind, &name).filter(|object| self.is_gone(kind, object))?;
            Some((kind, name, object.meta().uid))
        });
        gone.collect()
    }

    /// Writes the statuses, and has the rows dropped of what is gone; tells whose could not be.
    pub(super) async fn tell(self, board: &Board, intent: &Intent) -> Vec<(Kind, Name)> {
        let gone = self.gone();
        let mut changed = Vec::new();
        for (kind, name) in self.objects() {
            let Some(object) = self.after.get_any(kind, &name) else { continue };
            let uid = object.meta().uid;
            if self.is_gone(kind, &object) {
                continue;
            }
            let mut entry = self.entry(&object, intent);
            let mut facts = board.get(&uid).map(|entry| entry.facts).unwrap_or_default();
            merge(&mut facts, self.facts.get(&uid).copied().unwrap_or_default());
            entry.facts = facts;
            if board.set(uid, entry) {
                changed.push((kind, name));
            }
        }
        intent.tell_status(board, changed);
        if gone.is_empty() {
            return Vec::new();
        }
        let left = match intent.retire(board, gone.clone()).await {
            Ok(left) => left,
            // The rows stay marked; whoever looks again finds nothing of them in the kernel and asks again.
            Err(error) => {
                tracing::warn!(%error, "rows of deleted objects could not be dropped");
                gone.clone()
            }
        };
        for (kind, name, uid) in gone {
            if !left.contains(&(kind, name, uid)) {
                board.remove(&uid);
            }
        }
        left.into_iter().map(|(kind, name, _)| (kind, name)).collect()
    }

    fn entry(&self, object: &AnyStored, intent: &Intent) -> Entry {
        let version = (object.meta().generation, object.meta().revision);
        let deleting = object.meta().delete_time.is_some();
        let entry = |status, reason, message: String| Entry::new(status, reason, version, message);
        if let Some(why) = &self.unknown {
            return entry(
                ConditionStatus::Unknown,
                ConditionReason::Pending,
                format!("the host could not be observed: {why}"),
            );
        }
        if let Some(failure) = self.failures.get(&object.meta().uid) {
            let reason = match failure.sort {
                FailureSort::Conflict => ConditionReason::Conflict,
                FailureSort::Gone => ConditionReason::NamespaceGone,
                FailureSort::Surprise | FailureSort::Final | FailureSort::Passing => {
                    ConditionReason::KernelError
                }
            };
            let reason = match object {
                AnyStored::Route(_) => reason_of_route(failure).unwrap_or(reason),
                _ => reason,
            };
            let failure = failure.clone();
            let mut entry = entry(ConditionStatus::False, reason, failure.message.clone());
            entry.failure = Some(failure);
            return entry;
        }
        if deleting {
            return entry(ConditionStatus::False, ConditionReason::Deleting, String::new());
        }
        match self.missing(object) {
            Some((reason, message)) => entry(ConditionStatus::False, reason, message),
            None if intent.port_is_lost(&object.meta().uid) => {
                let message = "another process has taken the host port; traffic is still forwarded".into();
                entry(ConditionStatus::False, ConditionReason::PortTaken, message)
            }
            None => entry(ConditionStatus::True, ConditionReason::Programmed, String::new()),
        }
    }

    /// What the object needs and is not there.
    fn missing(&self, object: &AnyStored) -> Option<(ConditionReason, String)> {
        if let AnyStored::Route(route) = object {
            return no_way(&crate::want::way(&self.after, &route.spec, &route.alloc).err()?);
        }
        self.needed(object).map(|message| (ConditionReason::DependencyNotReady, message))
    }

    /// The object that it needs and that is not there.
    fn needed(&self, object: &AnyStored) -> Option<String> {
        match object {
            AnyStored::PortForward(forward) => {
                let target = &forward.spec.target.attachment;
                let Some(attachment) = self.after.get::<Attachment>(target) else {
                    return Some(format!("there is no Attachment {target}; traffic flows once it exists"));
                };
                let none = crate::want::targets(forward, attachment).next().is_none();
                none.then(|| format!("Attachment {target} has no address of the listen address's family"))
            }
            AnyStored::Attachment(attachment) => {
                let failed = |kind, name: &Name| {
                    self.failed(kind, name).then(|| format!("{kind} {name} is not ready"))
                };
                failed(Kind::Network, &attachment.spec.network)
                    .or_else(|| failed(Kind::Namespace, &attachment.spec.namespace))
            }
            AnyStored::Network(network) => {
                let lost = network.alloc.nat.iter().find(|address| !self.addresses.contains(address))?;
                Some(format!("the host has no address {lost} any more; what leaves behind it gets no answer"))
            }
            AnyStored::Link(link) => {
                let mut ends = link.spec.ends.iter().map(|end| &end.namespace);
                let broken = ends.find(|namespace| self.failed(Kind::Namespace, namespace));
                broken.map(|namespace| format!("{} {namespace} is not ready", Kind::Namespace))
            }
            AnyStored::Namespace(_)
            | AnyStored::Reservation(_)
            | AnyStored::Route(_)
            | AnyStored::Policy(_) => None,
        }
    }
}

/// A step that would repair drift, where it is only told.
fn reported(step: &crate::hostnet::Step) -> Outcome {
    let message =
        format!("the kernel is not as netloom made it, and drift is only reported; not done: {step}");
    Outcome::Failed(Failure { errno: None, message, sort: FailureSort::Conflict })
}

/// Why a route is not there that the World has no way for.
fn no_way(why: &NoWay) -> Option<(ConditionReason, String)> {
    let reason = match why {
        NoWay::Namespace | NoWay::Interface(_) => ConditionReason::DependencyNotReady,
        NoWay::Gateway(..) | NoWay::Itself(_) => ConditionReason::GatewayUnreachable,
    };
    Some((reason, why.to_string()))
}

/// What the kernel's refusal of a route means.
fn reason_of_route(failure: &Failure) -> Option<ConditionReason> {
    match Errno::from_raw(failure.errno?) {
        Errno::ENODEV => Some(ConditionReason::DependencyNotReady),
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN => {
            Some(ConditionReason::GatewayUnreachable)
        }
        _ => None,
    }
}

pub(super) fn names(scope: &Scope) -> BTreeSet<(Kind, Name)> {
    let Scope {
        namespaces,
        networks,
        attachments,
        port_forwards,
        loopbacks: _,
        routes,
        links,
        policies,
        policed: _,
        chains: _,
        leads_to: _,
        host: _,
        leans_on: _,
    } = scope;
    let of = |kind: Kind, names: &BTreeSet<Name>| {
        names.iter().map(|name| (kind, name.clone())).collect::<Vec<_>>()
    };
    let mut all = BTreeSet::new();
    all.extend(of(Kind::Namespace, namespaces));
    all.extend(of(Kind::Network, networks));
    all.extend(of(Kind::Attachment, attachments));
    all.extend(of(Kind::PortForward, port_forwards));
    all.extend(of(Kind::Route, routes));
    all.extend(of(Kind::Link, links));
    all.extend(of(Kind::Policy, policies));
    all
}

/// What is looked for by its name or place.
fn add(like: &mut HostNet, other: &HostNet) {
    like.namespaces.extend(other.namespaces.clone());
    like.adopted.extend(other.adopted.clone());
    like.links.extend(other.links.clone());
    like.addresses.extend(other.addresses.clone());
    like.borrowed.extend(other.borrowed.clone());
    like.routes.extend(other.routes.clone());
    like.rules.elements.extend(other.rules.elements.iter().cloned());
    like.rules.chains.extend(other.rules.chains.clone());
}

/// What is ours, but for what these have the names and places of.
fn take_out(from: &mut HostNet, these: &HostNet) {
    from.namespaces.retain(|name, _| !these.namespaces.contains_key(name));
    from.adopted.retain(|name, _| !these.adopted.contains_key(name));
    from.links.retain(|key, link| link.mark.is_ours() && !these.links.contains_key(key));
    from.borrowed.retain(|name, _| !these.borrowed.contains_key(name));
    from.addresses.retain(|address, _| !these.addresses.contains_key(address));
    let places: BTreeSet<_> = these.routes.keys().map(Route::place).collect();
    from.routes.retain(|route, _| !places.contains(&route.place()));
    let places: BTreeSet<_> = these.rules.elements.iter().map(|element| element.place()).collect();
    from.rules.elements.retain(|element| !places.contains(&element.place()));
    from.rules.chains.retain(|name, _| !these.rules.chains.contains_key(name));
}

fn merge(into: &mut Facts, new: Facts) {
    let Facts { cookie, ifindex, near_ifindex } = new;
    into.cookie = cookie.or(into.cookie);
    into.ifindex = ifindex.or(into.ifindex);
    into.near_ifindex = near_ifindex.or(into.near_ifindex);
}
