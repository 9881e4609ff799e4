//! The reference: what a person would expect of the calls, in plain maps. It knows nothing of Worlds, rounds and kernels.

use std::collections::{BTreeMap, BTreeSet};

use netloom_api::{ErrorReason as E, Kind};

use super::call::{Call, Draft, HOST, Happening, Id, Spec, Tag, Way};

/// Addresses of a network that can be had are 1 to this one; the first is the gateway's.
const LAST: u8 = 6;

/// An object that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) spec: Spec,
    pub(super) label: u8,
    pub(super) owner: Option<u8>,
    pub(super) held: Held,
}

/// What was chosen for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// In the first subnet of its network: the last part.
    pub(super) v4: Option<u8>,
    /// In the second one.
    pub(super) v6: Option<u64>,
    pub(super) interface: Option<String>,
    pub(super) default_route: bool,
    pub(super) metric: u32,
}

/// What is to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Reference {
    pub(super) objects: BTreeMap<Id, Object>,
    /// Marked as deleted by the set that is being made: they hold what they held, and are good for nothing.
    dying: BTreeSet<Id>,
    /// The last address that was chosen, by network and family.
    cursors: BTreeMap<(u8, bool), u64>,
    /// Why the last call was to be refused: any of these; none, and it is to succeed.
    pub(super) refusal: Option<Refusal>,
    pub(super) happened: usize,
}

/// Any of these reasons.
pub(super) type Refusal = Vec<E>;

fn refuse<T>(reason: E) -> Result<T, Refusal> {
    Err([reason].into())
}

impl Reference {
    /// What is to be after this.
    pub(super) fn after(mut self, happening: &Happening) -> Self {
        self.happened += 1;
        self.refusal = None;
        if let Happening::Call(call, _) = happening {
            let mut next = self.clone();
            match next.call(call) {
                Ok(()) => {
                    next.bury();
                    return next;
                }
                Err(refusal) => self.refusal = Some(refusal),
            }
        }
        self
    }

    fn call(&mut self, call: &Call) -> Result<(), Refusal> {
        match call {
            Call::Create(draft) => {
                if self.objects.contains_key(&draft.id()) {
                    return refuse(E::AlreadyExists);
                }
                self.put_all(std::slice::from_ref(draft))
            }
            Call::Patch { draft, tag, allow_missing } => {
                match self.objects.get(&draft.id()) {
                    None if !allow_missing => return refuse(E::NotFound),
                    Some(_) if *tag == Tag::Old => return refuse(E::EtagMismatch),
                    None | Some(_) => {}
                }
                self.put_all(std::slice::from_ref(draft))
            }
            Call::Delete { id, tag, force, allow_missing } => {
                if !self.objects.contains_key(id) {
                    return if *allow_missing { Ok(()) } else { refuse(E::NotFound) };
                }
                if *tag == Tag::Old {
                    return refuse(E::EtagMismatch);
                }
                let needed_by = self.dependents(*id);
                if !force && (!needed_by.is_empty() || !self.namers(*id).is_empty()) {
                    return refuse(E::HasDependents);
                }
                self.dying.extend(needed_by);
                self.dying.insert(*id);
                Ok(())
            }
            Call::Apply { drafts, owner, prune, take } => {
                for draft in drafts {
                    let holder = self.objects.get(&draft.id()).and_then(|old| old.owner);
                    if holder.is_some_and(|holder| draft.owner.is_some_and(|owner| owner != holder)) && !take
                    {
                        return refuse(E::OwnedByOther);
                    }
                }
                if let Some(owner) = owner.filter(|_| *prune) {
                    let named: BTreeSet<Id> = drafts.iter().map(Draft::id).collect();
                    let his = self
                        .objects
                        .iter()
                        .filter(|(id, object)| object.owner == Some(owner) && !named.contains(id));
                    let goes: BTreeSet<Id> = his.map(|(id, _)| *id).collect();
                    // Whom a policy names can change; the set says whether it still does.
                    let stays = |child: &Id| {
                        !goes.contains(child) && (child.0 != Kind::Policy || !named.contains(child))
                    };
                    let needed = |id: &Id| self.dependents(*id).union(&self.namers(*id)).any(stays);
                    if goes.iter().any(needed) {
                        return refuse(E::HasDependents);
                    }
                    self.dying.extend(goes);
                    self.bury_reservations();
                }
                self.put_all(drafts)
            }
        }
    }

    /// The kernel is rid of what was deleted.
    fn bury(&mut self) {
        for id in std::mem::take(&mut self.dying) {
            self.objects.remove(&id);
            if id.0 == Kind::Network {
                self.cursors.retain(|(network, _), _| *network != id.1);
            }
        }
    }

    /// The kernel has no part in them.
    fn bury_reservations(&mut self) {
        let gone: Vec<Id> = self.dying.iter().filter(|id| id.0 == Kind::Reservation).copied().collect();
        for id in gone {
            self.objects.remove(&id);
            self.dying.remove(&id);
        }
    }

    fn dependents(&self, (kind, number): Id) -> BTreeSet<Id> {
        let needs = |spec: &Spec| match (kind, spec) {
            (Kind::Namespace, Spec::Attachment { namespace, .. }) => *namespace == number,
            (Kind::Namespace, Spec::Route { at, .. }) => *at == number,
            (Kind::Namespace, Spec::Link { ends, .. }) => ends.contains(&number),
            (Kind::Network, Spec::Attachment { network, .. } | Spec::Reservation { network, .. }) => {
                *network == number
            }
            (Kind::Network, Spec::Policy { on, .. }) => *on == Some(number),
            _ => false,
        };
        self.objects.iter().filter(|(_, object)| needs(&object.spec)).map(|(id, _)| *id).collect()
    }

    /// Policies that have a network as a peer, and can be without it.
    fn namers(&self, (kind, number): Id) -> BTreeSet<Id> {
        let names = |spec: &Spec| match spec {
            Spec::Policy { on, from, .. } => kind == Kind::Network && *from == number && *on != Some(number),
            _ => false,
        };
        self.objects.iter().filter(|(_, object)| names(&object.spec)).map(|(id, _)| *id).collect()
    }

    /// Nobody is selected who can pose as another.
    fn check_guards(&self) -> Result<(), Refusal> {
        let living = |kind: Kind| {
            let all = self.objects.iter().filter(move |(id, _)| id.0 == kind && !self.dying.contains(id));
            all.map(|(_, object)| object)
        };
        for member in living(Kind::Attachment) {
            let Spec::Attachment { network: at, .. } = member.spec else { unreachable!() };
            let open = matches!(
                self.objects.get(&(Kind::Network, at)).map(|one| &one.spec),
                Some(Spec::Network { guard: false, .. })
            );
            let selects = |policy: &Object| match policy.spec {
                Spec::Policy { select, on, .. } => {
                    select.is_none_or(|label| label == member.label) && on.is_none_or(|on| on == at)
                }
                _ => false,
            };
            if open && living(Kind::Policy).any(selects) {
                return refuse(E::SpoofGuardOff);
            }
        }
        Ok(())
    }

    /// What is there keeps what it has before anything new may choose it; wishes go before open choices.
    fn put_all(&mut self, drafts: &[Draft]) -> Result<(), Refusal> {
        let before = self.objects.clone();
        drafts.iter().for_each(|draft| drop(self.objects.remove(&draft.id())));
        let mut sorted: Vec<&Draft> = drafts.iter().collect();
        sorted.sort_by_key(|draft| {
            let (rank, chooses) = match &draft.spec {
                Spec::Namespace => (0, false),
                Spec::Network { .. } | Spec::Link { .. } => (1, false),
                Spec::Reservation { wish, .. } | Spec::Attachment { wish, .. } => (2, wish.is_none()),
                Spec::PortForward { .. } => (4, false),
                Spec::Route { .. } => (5, false),
                Spec::Policy { .. } => (6, false),
            };
            (rank, !before.contains_key(&draft.id()), chooses)
        });
        for draft in sorted {
            let old = before.get(&draft.id());
            let held = self.claim(draft, old, drafts, &before)?;
            let owner = draft.owner.or(old.and_then(|old| old.owner));
            let object = Object { spec: draft.spec.clone(), label: draft.label, owner, held };
            self.objects.insert(draft.id(), object);
        }
        self.check_guards()
    }

    fn is_there(&self, id: Id) -> bool {
        self.objects.contains_key(&id) && !self.dying.contains(&id)
    }

    fn claim(
        &mut self,
        draft: &Draft,
        old: Option<&Object>,
        set: &[Draft],
        before: &BTreeMap<Id, Object>,
    ) -> Result<Held, Refusal> {
        if old.is_some_and(|old| is_fixed(&old.spec, &draft.spec)) {
            return refuse(E::ImmutableField);
        }
        match &draft.spec {
            Spec::Namespace => Ok(Held::default()),
            Spec::Network { .. } => {
                let clash = |(place, subnet): &(u8, u8)| *place == HOST && *subnet == 0;
                if old.is_none() && draft.number == 0 && self.cables().iter().any(clash) {
                    return Err([E::Overlap, E::AddressTaken].into());
                }
                Ok(Held::default())
            }
            Spec::Attachment { .. } => self.claim_attachment(draft, old, set),
            Spec::PortForward { .. } => self.claim_port(draft),
            Spec::Reservation { network, wish } => {
                if let Some(old) = old {
                    return Ok(old.held.clone());
                }
                if !self.is_there((Kind::Network, *network)) {
                    return refuse(E::ReferenceNotFound);
                }
                let v4 = match wish {
                    Some(wish) => self.wished(*network, *wish)?,
                    None => self.choose_v4(*network)?,
                };
                Ok(Held { v4: Some(v4), ..Held::default() })
            }
            Spec::Route { .. } => self.claim_route(draft, old),
            Spec::Link { .. } => self.claim_link(draft),
            Spec::Policy { on, from, .. } => {
                // A peer that went by force may be named further.
                let named =
                    old.is_some_and(|old| matches!(old.spec, Spec::Policy { from: had, .. } if had == *from));
                let dangles = named && !before.contains_key(&(Kind::Network, *from));
                let there = |network: u8| self.is_there((Kind::Network, network));
                if on.is_some_and(|on| !there(on)) || !(dangles || there(*from)) {
                    return refuse(E::ReferenceNotFound);
                }
                Ok(Held::default())
            }
        }
    }

    /// (place, subnet) of all ends of cables.
    fn cables(&self) -> Vec<(u8, u8)> {
        let links = self.objects.values().filter_map(|object| match &object.spec {
            Spec::Link { ends, subnet, .. } => Some(ends.map(|end| (end, *subnet))),
            _ => None,
        });
        links.flatten().collect()
    }

    /// (namespace, network, object) of all attachments.
    fn attached(&self) -> Vec<(u8, u8, &Object)> {
        let all = self.objects.values().filter_map(|object| match &object.spec {
            Spec::Attachment { namespace, network, .. } => Some((*namespace, *network, object)),
            _ => None,
        });
        all.collect()
    }

    fn used(&self, network: u8) -> BTreeSet<u8> {
        let on_it = self.objects.values().filter(|object| match &object.spec {
            Spec::Attachment { network: on, .. } | Spec::Reservation { network: on, .. } => *on == network,
            _ => false,
        });
        on_it.filter_map(|object| object.held.v4).chain([1]).collect()
    }

    fn wished(&self, network: u8, wish: u8) -> Result<u8, Refusal> {
        match wish {
            0 | 7.. => refuse(E::InvalidArgument),
            wish if self.used(network).contains(&wish) => refuse(E::AddressTaken),
            wish => Ok(wish),
        }
    }

    /// The next one that is free, after the last that was chosen, once around.
    fn choose_v4(&mut self, network: u8) -> Result<u8, Refusal> {
        let used = self.used(network);
        let last = self.cursors.get(&(network, false)).map_or(0, |last| *last as u8);
        let Some(next) = (last + 1..=LAST).chain(1..=last).find(|one| !used.contains(one)) else {
            return refuse(E::PoolExhausted);
        };
        self.cursors.insert((network, false), u64::from(next));
        Ok(next)
    }

    fn choose_v6(&mut self, network: u8) -> u64 {
        let on_it = self.attached().into_iter().filter(|(_, on, _)| *on == network);
        let used: BTreeSet<u64> = on_it.filter_map(|(_, _, one)| one.held.v6).chain([1]).collect();
        let last = self.cursors.get(&(network, true)).copied().unwrap_or(0);
        let next = (last + 1..).find(|one| !used.contains(one)).unwrap();
        self.cursors.insert((network, true), next);
        next
    }

    fn claim_attachment(
        &mut self,
        draft: &Draft,
        old: Option<&Object>,
        set: &[Draft],
    ) -> Result<Held, Refusal> {
        let Spec::Attachment { namespace, network, wish, default_route, metric, mtu, limits: _ } = draft.spec
        else {
            unreachable!()
        };
        if !self.is_there((Kind::Namespace, namespace)) || !self.is_there((Kind::Network, network)) {
            return refuse(E::ReferenceNotFound);
        }
        let Spec::Network { v6, mtu: carried, .. } = self.objects[&(Kind::Network, network)].spec else {
            unreachable!()
        };
        let mut wrong = Refusal::new();
        if mtu.is_some_and(|mtu| mtu > carried.unwrap_or(1500)) {
            wrong.push(E::InvalidArgument);
        }
        if network == 0 && self.cables().contains(&(namespace, 0)) {
            wrong.extend([E::Overlap, E::AddressTaken]);
        }
        let had = old.and_then(|old| old.held.v4).filter(|had| !self.used(network).contains(had));
        let chosen = match (wish, had) {
            (Some(wish), _) => self.wished(network, wish),
            (None, Some(had)) => Ok(had),
            (None, None) => self.choose_v4(network),
        };
        let chosen_v6 = match old {
            Some(old) => old.held.v6,
            None => (v6 && chosen.is_ok()).then(|| self.choose_v6(network)),
        };
        let beside: Vec<&Object> = self
            .attached()
            .into_iter()
            .filter(|(other, ..)| *other == namespace)
            .map(|(.., one)| one)
            .collect();
        let is_first = !beside.iter().any(|other| other.held.default_route);
        let leads = default_route.unwrap_or(old.map_or(is_first, |old| old.held.default_route));
        let taken: BTreeSet<u32> =
            beside.iter().filter(|other| other.held.default_route).map(|other| other.held.metric).collect();
        let wished = |metric: u32| {
            set.iter().any(|other| {
                matches!(other.spec, Spec::Attachment { namespace: at, metric: Some(one), .. }
                    if at == namespace && one == metric)
            })
        };
        let is_free = |one: &u32| !taken.contains(one) && !wished(*one);
        let had_metric = old.map(|old| old.held.metric);
        let metric = match metric {
            Some(metric) if leads && taken.contains(&metric) => {
                wrong.push(E::RouteTaken);
                metric
            }
            Some(metric) => metric,
            None if leads => had_metric.filter(is_free).or_else(|| (100..).find(is_free)).unwrap(),
            None => had_metric.unwrap_or(100),
        };
        match chosen {
            Ok(chosen) if wrong.is_empty() => {
                let free = || self.first_free_interface(namespace);
                let interface = old.and_then(|old| old.held.interface.clone()).or_else(free);
                Ok(Held { v4: Some(chosen), v6: chosen_v6, interface, default_route: leads, metric })
            }
            Ok(_) => Err(wrong),
            Err(refusal) => {
                wrong.extend(refusal);
                Err(wrong)
            }
        }
    }

    fn first_free_interface(&self, namespace: u8) -> Option<String> {
        let here = self.attached().into_iter().filter(|(at, ..)| *at == namespace);
        let used: BTreeSet<String> = here.filter_map(|(.., one)| one.held.interface.clone()).collect();
        (0..).map(|number| format!("eth{number}")).find(|name| !used.contains(name))
    }

    fn claim_port(&self, draft: &Draft) -> Result<Held, Refusal> {
        let Spec::PortForward { udp, port, more, .. } = draft.spec else { unreachable!() };
        // One that goes in the same set leaves its port.
        let stay = self.objects.iter().filter(|(id, _)| !self.dying.contains(id)).map(|(_, other)| other);
        let clash = stay.into_iter().any(|other| match other.spec {
            // All of them are on any address, or on one that any takes in.
            Spec::PortForward { udp: same, port: first, more: others, .. } => {
                same == udp && port <= first + others && first <= port + more
            }
            _ => false,
        });
        if clash { refuse(E::PortTaken) } else { Ok(Held::default()) }
    }

    fn claim_route(&self, draft: &Draft, old: Option<&Object>) -> Result<Held, Refusal> {
        let Spec::Route { at, destination, metric, way } = draft.spec else { unreachable!() };
        if at != HOST && !self.is_there((Kind::Namespace, at)) {
            return refuse(E::ReferenceNotFound);
        }
        let taken = self.objects.values().any(|other| match other.spec {
            Spec::Route { at: there, destination: to, metric: with, .. } => {
                (there, to, with) == (at, destination, metric)
            }
            _ => false,
        });
        if taken {
            return refuse(E::RouteTaken);
        }
        // What was allowed once stays so.
        if old.is_some_and(|old| old.spec == draft.spec) {
            return Ok(Held::default());
        }
        let living = self
            .objects
            .iter()
            .filter(|(id, _)| !self.dying.contains(id))
            .map(|(id, one)| (id, &one.spec, one));
        // Whether the gateway is an address of the place itself, and whether it is in a subnet there.
        let (mut itself, mut reached) = (false, false);
        for (id, spec, object) in living {
            match (way, spec) {
                (Way::Network(network, host), Spec::Attachment { namespace, network: on, .. })
                    if (*namespace, *on) == (at, network) =>
                {
                    reached = true;
                    itself |= object.held.v4 == Some(host);
                }
                (Way::Network(network, host), Spec::Network { .. }) if at == HOST && id.1 == network => {
                    reached = true;
                    itself |= host == 1;
                }
                // The first subnet of cables is around that of the first network.
                (Way::Network(0, _), Spec::Link { ends, subnet: 0, .. }) => reached |= ends.contains(&at),
                (Way::Cable(with), Spec::Link { ends, subnet, .. }) if *subnet == with => {
                    reached |= ends.contains(&at);
                    itself |= ends[1] == at;
                }
                _ => {}
            }
        }
        match way {
            Way::Nowhere(_) => Ok(Held::default()),
            _ if itself => refuse(E::InvalidArgument),
            _ if !reached => refuse(E::GatewayUnreachable),
            _ => Ok(Held::default()),
        }
    }

    fn claim_link(&self, draft: &Draft) -> Result<Held, Refusal> {
        let Spec::Link { ends, subnet, .. } = draft.spec else { unreachable!() };
        let mut wrong = Refusal::new();
        let is_missing = |end: &&u8| **end != HOST && !self.is_there((Kind::Namespace, **end));
        if ends.iter().any(|end| is_missing(&end)) {
            wrong.push(E::ReferenceNotFound);
        }
        let overlap = [E::Overlap, E::AddressTaken];
        for (id, other) in &self.objects {
            match &other.spec {
                Spec::Link { ends: others, subnet: theirs, .. } => {
                    let same_name = id.1 % 2 == draft.number % 2;
                    if same_name && (others[0] == ends[0] || others[1] == ends[1]) {
                        wrong.push(E::DeviceTaken);
                    }
                    if *theirs == subnet && others.iter().any(|end| ends.contains(end)) {
                        wrong.extend(overlap);
                    }
                }
                Spec::Attachment { namespace, network: 0, .. } if subnet == 0 && ends.contains(namespace) => {
                    wrong.extend(overlap);
                }
                Spec::Network { .. } if id.1 == 0 && subnet == 0 && ends.contains(&HOST) => {
                    wrong.extend(overlap);
                }
                _ => {}
            }
        }
        if ends[0] == ends[1] {
            wrong.extend(overlap);
        }
        if wrong.is_empty() { Ok(Held::default()) } else { Err(wrong) }
    }
}

/// Whether something differs that cannot change.
fn is_fixed(old: &Spec, new: &Spec) -> bool {
    match (old, new) {
        (Spec::Namespace, Spec::Namespace) => false,
        (Spec::Network { v6: old, .. }, Spec::Network { v6: new, .. }) => old != new,
        (
            Spec::Attachment { namespace: a, network: b, .. },
            Spec::Attachment { namespace: c, network: d, .. },
        ) => (a, b) != (c, d),
        (Spec::PortForward { udp: old, .. }, Spec::PortForward { udp: new, .. }) => old != new,
        (Spec::Reservation { network: a, wish: b }, Spec::Reservation { network: c, wish: d }) => {
            a != c || (d.is_some() && b != d)
        }
        (Spec::Route { at: a, destination: b, .. }, Spec::Route { at: c, destination: d, .. }) => {
            (a, b) != (c, d)
        }
        (Spec::Link { ends: old, .. }, Spec::Link { ends: new, .. }) => old != new,
        (Spec::Policy { .. }, Spec::Policy { .. }) => false,
        _ => true,
    }
}
