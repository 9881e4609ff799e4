//! Whom a Policy selects, which Policies select somebody, and who the peers of a rule are.
//!
//! Each question costs what its answer is large, not what exists: labels and networks are indexed both ways. What is being
//! deleted, Policy or Attachment, does not count.

use std::{ops::Bound, sync::Arc};

use netloom_api::{
    Attachment, Direction, Labels, Name, PeerKind, Policy, PolicyRule, PolicySelector, Prefix,
};

use super::{
    Stored, World,
    index::{second_of, smallest_name},
};

/// By what Attachments are found that a selector may mean: one thing that all of them have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Anchor {
    /// Nothing: it may mean every Attachment.
    All,
    /// A label.
    Label(String, String),
    /// A Network.
    Network(Name),
}

impl Anchor {
    /// The one of a selector.
    pub(super) fn of(selector: &PolicySelector) -> Self {
        let label = selector.labels.as_map().first_key_value();
        match (label, &selector.network) {
            (Some((key, value)), _) => Anchor::Label(key.clone(), value.clone()),
            (None, Some(network)) => Anchor::Network(network.clone()),
            (None, None) => Anchor::All,
        }
    }

    /// All under which an Attachment is found.
    fn all_of(labels: &Labels, network: &Name) -> impl Iterator<Item = Self> {
        let labels = labels.as_map().iter();
        [Anchor::All, Anchor::Network(network.clone())]
            .into_iter()
            .chain(labels.map(|(key, value)| Anchor::Label(key.clone(), value.clone())))
    }
}

/// The selectors of the peers of a Policy.
pub(super) fn peer_selectors(policy: &Stored<Policy>) -> impl Iterator<Item = PolicySelector> {
    let rules = Direction::ALL.into_iter().flat_map(|direction| policy.spec.rules(direction));
    rules.flat_map(|rule| &rule.peers).filter_map(|peer| match peer.kind() {
        PeerKind::Attachments(selector) => Some(selector),
        PeerKind::Prefix(..) => None,
    })
}

/// The peers of a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers {
    /// Everybody, whoever else is named.
    pub anyone: bool,
    /// These Attachments, with all of their addresses; in the order of their names, each once.
    pub attachments: Vec<Arc<Stored<Attachment>>>,
    /// These prefixes, each without its exceptions.
    pub prefixes: Vec<(Prefix, Vec<Prefix>)>,
}

impl World {
    /// The Attachments that a selector means, in the order of their names.
    pub fn meant(&self, selector: &PolicySelector) -> Vec<&Arc<Stored<Attachment>>> {
        self.each_meant(selector).collect()
    }

    /// The same one by one, for who need not see all.
    pub fn each_meant<'a: 's, 's>(
        &'a self,
        selector: &'s PolicySelector,
    ) -> Box<dyn Iterator<Item = &'a Arc<Stored<Attachment>>> + 's> {
        let living = |attachment: &&Arc<Stored<Attachment>>| attachment.meta.delete_time.is_none();
        if selector.is_everything() {
            return Box::new(self.all::<Attachment>().filter(living));
        }
        let mut from = Bound::Included(smallest_name());
        let names = std::iter::from_fn(move || {
            let name = self.next_meant(selector, &from)?;
            from = Bound::Excluded(name.clone());
            Some(name)
        });
        Box::new(names.filter_map(|name| self.get::<Attachment>(&name)).filter(living))
    }

    /// The first name from a place on that is in the indices of all that the selector asks for: each in turn says where it
    /// goes on, so the rarest sets the pace.
    fn next_meant(&self, selector: &PolicySelector, from: &Bound<Name>) -> Option<Name> {
        let labels = || selector.labels.as_map().iter();
        let mut from = from.clone();
        let mut reached: Option<Name> = None;
        loop {
            let mut all_agree = true;
            let steps = labels().map(|(key, value)| self.next_labelled(key, value, &from));
            let network = selector.network.iter().map(|network| self.next_on(network, &from));
            for next in steps.chain(network).collect::<Option<Vec<Name>>>()? {
                if reached.as_ref() != Some(&next) {
                    all_agree &= reached.is_none();
                    reached = reached.max(Some(next));
                }
            }
            if all_agree {
                return reached;
            }
            from = Bound::Included(reached.take()?);
        }
    }

    fn next_labelled(&self, key: &str, value: &str, from: &Bound<Name>) -> Option<Name> {
        let at = |name: &Name| (key.to_owned(), value.to_owned(), name.clone());
        let found = self.labelled.range((from.as_ref().map(at), Bound::Unbounded)).next();
        found.filter(|(k, v, _)| k == key && v == value).map(|(_, _, name)| name.clone())
    }

    fn next_on(&self, network: &Name, from: &Bound<Name>) -> Option<Name> {
        let at = |name: &Name| (network.clone(), name.clone());
        let found = self.on_network.range((from.as_ref().map(at), Bound::Unbounded)).next();
        found.filter(|(on, _)| on == network).map(|(_, name)| name.clone())
    }

    /// The Attachments that a Policy selects, in the order of their names.
    pub fn selected(&self, policy: &Stored<Policy>) -> Vec<&Arc<Stored<Attachment>>> {
        self.meant(&policy.spec.selector)
    }

    /// The Policies that select an Attachment, in the order of their names.
    pub fn policies_of(&self, attachment: &Stored<Attachment>) -> Vec<&Arc<Stored<Policy>>> {
        let (labels, network) = (&attachment.meta.labels, &attachment.spec.network);
        let mut found = self.anchored(&self.selecting, labels, network);
        found.retain(|policy| policy.spec.selector.admits(labels, network));
        found
    }

    /// The Policies that select an Attachment and are about a direction, in the order of their names. None: it is open.
    pub fn policies_in(
        &self,
        attachment: &Stored<Attachment>,
        direction: Direction,
    ) -> Vec<&Arc<Stored<Policy>>> {
        let mut found = self.policies_of(attachment);
        found.retain(|policy| policy.spec.is_about(direction));
        found
    }

    /// The Policies of which some rule has an Attachment among its peers, by labels or network.
    pub fn policies_with_peer(&self, attachment: &Stored<Attachment>) -> Vec<&Arc<Stored<Policy>>> {
        let (labels, network) = (&attachment.meta.labels, &attachment.spec.network);
        let mut found = self.anchored(&self.peered, labels, network);
        found.retain(|policy| peer_selectors(policy).any(|selector| selector.admits(labels, network)));
        found
    }

    fn anchored(
        &self,
        index: &imbl::OrdSet<(Anchor, Name)>,
        labels: &Labels,
        network: &Name,
    ) -> Vec<&Arc<Stored<Policy>>> {
        let mut names = std::collections::BTreeSet::new();
        for anchor in Anchor::all_of(labels, network) {
            let from = Bound::Included((anchor.clone(), smallest_name()));
            let here = index.range((from, Bound::Unbounded)).take_while(|(of, _)| *of == anchor);
            names.extend(here.map(|(_, name)| name.clone()));
        }
        let found = names.iter().filter_map(|name| self.get::<Policy>(name));
        found.filter(|policy| policy.meta.delete_time.is_none()).collect()
    }

    /// The names of the Policies that select the Attachments of a Network by its name, also of those that are being deleted.
    pub fn policies_on(&self, network: &Name) -> impl Iterator<Item = &Name> + use<'_> {
        second_of(&self.policies_on, network)
    }

    /// The names of the Policies that name a Network anywhere, also of those that are being deleted.
    pub fn policies_naming(&self, network: &Name) -> impl Iterator<Item = &Name> + use<'_> {
        second_of(&self.policies_naming, network)
    }

    /// Who the peers of a rule are.
    pub fn peers(&self, rule: &PolicyRule) -> Peers {
        if rule.peers.is_empty() {
            return Peers { anyone: true, ..Peers::default() };
        }
        let mut peers = Peers::default();
        for peer in &rule.peers {
            match peer.kind() {
                PeerKind::Attachments(selector) => {
                    peers.attachments.extend(self.meant(&selector).into_iter().cloned());
                }
                PeerKind::Prefix(cidr, except) => peers.prefixes.push((cidr, except.to_vec())),
            }
        }
        peers.attachments.sort_by(|one, other| one.meta.name.cmp(&other.meta.name));
        peers.attachments.dedup_by(|one, other| one.meta.name == other.meta.name);
        peers
    }
}

#[cfg(test)]
mod tests {
    use netloom_api::{Kind, Meta, Timestamp, Uid};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::world::{AnyStored, AttachmentAlloc, Nothing, WorldNoun};

    fn meta(name: &str, labels: &[(&str, &str)], gone: bool) -> Meta {
        let now = Timestamp::from_micros(0);
        let labels: std::collections::BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Meta {
            name: name.parse().unwrap(),
            labels: labels.try_into().unwrap(),
            annotations: Default::default(),
            owner: None,
            uid: Uid::generate(),
            generation: 1,
            revision: 1,
            create_time: now,
            update_time: now,
            delete_time: gone.then_some(now),
        }
    }

    fn attachment(name: &str, network: &str, labels: &[(&str, &str)], gone: bool) -> AnyStored {
        let spec = serde_json::from_value(json!({"namespace": "ns", "network": network})).unwrap();
        let alloc = AttachmentAlloc {
            addresses: vec![],
            mac: "02:00:00:00:00:01".parse().unwrap(),
            interface: "eth0".parse().unwrap(),
            host_device: format!("nl{name}").parse().unwrap(),
            default_route: false,
            metric: 100,
        };
        Attachment::any(Arc::new(Stored { meta: meta(name, labels, gone), spec, alloc }))
    }

    fn policy(name: &str, spec: serde_json::Value, gone: bool) -> AnyStored {
        let spec = serde_json::from_value(spec).unwrap();
        Policy::any(Arc::new(Stored { meta: meta(name, &[], gone), spec, alloc: Nothing {} }))
    }

    /// Two labels of two values each, either of them absent; three networks; some on their way out.
    fn worlds() -> impl Strategy<Value = World> {
        let attachments =
            prop::collection::vec((0_u8..3, 0_u8..3, 0_u8..3, prop::bool::weighted(0.1)), 0..12);
        let selector = || (0_u8..3, 0_u8..3, 0_u8..4);
        let policies = prop::collection::vec((selector(), selector(), prop::bool::weighted(0.1)), 0..8);
        (attachments, policies).prop_map(|(attachments, policies)| {
            let mut world = World::default();
            for (at, (a, b, network, gone)) in attachments.into_iter().enumerate() {
                let (a, b) = (a.to_string(), b.to_string());
                let labels = [("a", a.as_str()), ("b", b.as_str())];
                let labels: Vec<_> = labels.into_iter().filter(|(_, value)| *value != "0").collect();
                world.put(attachment(&format!("x{at}"), &format!("net{network}"), &labels, gone));
            }
            for (at, (own, peer, gone)) in policies.into_iter().enumerate() {
                let spec =
                    json!({"selector": selector_json(own), "ingress": [{"peers": [selector_json(peer)]}]});
                world.put(policy(&format!("p{at}"), spec, gone));
            }
            world
        })
    }

    fn selector_json((a, b, network): (u8, u8, u8)) -> serde_json::Value {
        let mut selector = json!({"labels": {}});
        for (key, value) in [("a", a), ("b", b)].into_iter().filter(|(_, value)| *value > 0) {
            selector["labels"][key] = value.to_string().into();
        }
        if network < 3 {
            selector["network"] = format!("net{network}").into();
        }
        selector
    }

    fn names<N: WorldNoun>(found: &[&Arc<Stored<N>>]) -> Vec<Name> {
        found.iter().map(|one| one.meta.name.clone()).collect()
    }

    fn living<N: WorldNoun>(world: &World) -> impl Iterator<Item = &Arc<Stored<N>>> {
        world.all::<N>().filter(|one| one.meta.delete_time.is_none())
    }

    proptest! {
        #[test]
        fn the_indices_find_what_a_look_at_everything_finds(world in worlds()) {
            let selects = |selector: &PolicySelector, one: &Stored<Attachment>| {
                selector.admits(&one.meta.labels, &one.spec.network)
            };
            for policy in living::<Policy>(&world) {
                let selector = &policy.spec.selector;
                let all: Vec<_> = living::<Attachment>(&world).filter(|one| selects(selector, one)).collect();
                prop_assert_eq!(names(&world.selected(policy)), names(&all));
            }
            for one in living::<Attachment>(&world) {
                let all: Vec<_> =
                    living::<Policy>(&world).filter(|policy| selects(&policy.spec.selector, one)).collect();
                prop_assert_eq!(names(&world.policies_of(one)), names(&all));
                let peers = |policy: &&Arc<Stored<Policy>>| {
                    peer_selectors(policy).any(|selector| selects(&selector, one))
                };
                let all: Vec<_> = living::<Policy>(&world).filter(peers).collect();
                prop_assert_eq!(names(&world.policies_with_peer(one)), names(&all));
            }
        }

        #[test]
        fn what_is_taken_out_leaves_nothing_behind(world in worlds()) {
            let mut emptied = world.clone();
            for object in world.objects() {
                emptied.remove(object.kind(), &object.meta().name);
            }
            prop_assert_eq!(emptied, World::default());
        }
    }

    #[test]
    fn a_network_knows_who_names_it() {
        let mut world = World::default();
        let spec = json!({"selector": {"network": "one"}, "egress": [{"peers": [{"network": "two"}]}]});
        world.put(policy("p", spec, false));
        let of = |name: &str| name.parse::<Name>().unwrap();
        assert_eq!(world.policies_on(&of("one")).count(), 1);
        assert_eq!(world.policies_on(&of("two")).count(), 0);
        assert_eq!(world.policies_naming(&of("two")).count(), 1);
        world.remove(Kind::Policy, &of("p"));
        assert_eq!(world.policies_naming(&of("two")).count(), 0);
    }
}
