//! The oracle against a second reading of the written rules, and against what holds whatever the policies are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use netloom_api::{AnyDraft, Kind, Path, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::shapes::{Endpoint, endpoints, objects, shapes},
    *,
};
use crate::{
    controller::{Change, edit_for_tests},
    world::AnyStored,
};

fn put(world: &World, objects: &[Value]) -> World {
    let drafts = objects.iter().map(|one| AnyDraft::from_json(one.clone(), &Path::root()).unwrap());
    edit_for_tests(world, drafts.map(Change::Put).collect(), Timestamp::from_micros(0))
}

fn grid() -> &'static World {
    static GRID: OnceLock<World> = OnceLock::new();
    GRID.get_or_init(|| put(&World::default(), &objects()))
}

/// A place of the grid, outside of it, or the host.
#[derive(Clone, Debug)]
struct Spot {
    name: String,
    member: Option<(Name, Endpoint)>,
    addresses: [IpAddr; 2],
}

impl Spot {
    fn point(&self, family: usize) -> Point<'_> {
        let at = match (&self.member, self.name.as_str()) {
            (Some((name, _)), _) => At::Attachment(name),
            (None, "host") => At::Host,
            (None, _) => At::Outside,
        };
        Point { at, address: self.addresses[family] }
    }
}

fn spots() -> Vec<Spot> {
    let of = |one: Endpoint| Spot {
        name: one.name.clone(),
        addresses: one.addresses,
        member: Some((one.name.parse().unwrap(), one)),
    };
    let other = |name: &str, v4: &str, v6: &str| Spot {
        name: name.into(),
        member: None,
        addresses: [v4.parse().unwrap(), v6.parse().unwrap()],
    };
    let others =
        [other("host", "192.168.61.1", "fd00:3d::1"), other("outside", "198.51.100.7", "2001:db8::7")];
    endpoints().into_iter().map(of).chain(others).collect()
}

/// What is tried, and as the documents say it: protocol by family, port or type.
fn traffics() -> [(Traffic, [&'static str; 2], u64); 6] {
    use netloom_api::Protocol::{Sctp, Tcp, Udp};
    [
        (Traffic::Port(Tcp, 80), ["tcp"; 2], 80),
        (Traffic::Port(Tcp, 81), ["tcp"; 2], 81),
        (Traffic::Port(Udp, 80), ["udp"; 2], 80),
        (Traffic::Port(Udp, 81), ["udp"; 2], 81),
        (Traffic::Port(Sctp, 80), ["sctp"; 2], 80),
        (Traffic::Icmp(8, 0), ["icmp", "icmpv6"], 8),
    ]
}

/// A message that asks for an echo has another number in each family.
fn traffic(number: usize, family: usize) -> (Traffic, &'static str, u64) {
    match traffics()[number] {
        (Traffic::Icmp(..), words, _) if family == 1 => (Traffic::Icmp(128, 0), words[1], 128),
        (traffic, words, value) => (traffic, words[family], value),
    }
}

/// The written rules once more, over the documents alone.
mod written {
    use super::*;

    fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
        value[field].as_array().map_or(&[], Vec::as_slice)
    }

    fn means(selector: &Value, spot: &Spot) -> bool {
        let Some((_, member)) = &spot.member else { return false };
        let has: BTreeMap<&str, &str> = [("pod", member.pod), ("ns", member.network)].into();
        let labels = selector["labels"].as_object().into_iter().flatten();
        let by_labels =
            labels.into_iter().all(|(key, value)| has.get(key.as_str()).copied() == value.as_str());
        by_labels && (selector["network"].is_null() || selector["network"] == member.network)
    }

    fn covers(prefix: &Value, address: IpAddr) -> bool {
        let text = prefix.as_str().unwrap();
        let (first, length) = text.split_once('/').unwrap_or((text, "32"));
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => (32, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (128, v6.to_bits()),
        };
        let ((width, first), (other, address)) = (bits(first.parse().unwrap()), bits(address));
        let rest: u32 = width - length.parse::<u32>().unwrap();
        width == other && first.checked_shr(rest).unwrap_or(0) == address.checked_shr(rest).unwrap_or(0)
    }

    fn is_peer(peer: &Value, spot: &Spot, family: usize) -> bool {
        if peer["cidr"].is_null() {
            return means(peer, spot);
        }
        let address = spot.addresses[family];
        covers(&peer["cidr"], address) && !list(peer, "except").iter().any(|inner| covers(inner, address))
    }

    fn is_port(port: &Value, protocol: &str, value: u64) -> bool {
        let first = port["port"].as_u64().or(port["type"].as_u64());
        let last = port["end_port"].as_u64().or(first);
        let within = first.is_none_or(|first| first <= value) && last.is_none_or(|last| value <= last);
        port["protocol"] == protocol && within
    }

    /// Whether one end lets it pass.
    fn end(
        policies: &[Value],
        direction: &str,
        own: &Spot,
        other: &Spot,
        family: usize,
        what: (&str, u64),
    ) -> bool {
        let about = |spec: &Value| match spec["directions"].as_array() {
            Some(said) => said.iter().any(|one| one == direction),
            None => direction == "ingress" || !list(spec, "egress").is_empty(),
        };
        let selecting: Vec<&Value> = policies
            .iter()
            .map(|policy| &policy["spec"])
            .filter(|spec| about(spec) && means(&spec["selector"], own))
            .collect();
        let rules = selecting.iter().flat_map(|spec| list(spec, direction));
        let mut allowing = rules.filter(|rule| {
            let (peers, ports) = (list(rule, "peers"), list(rule, "ports"));
            (peers.is_empty() || peers.iter().any(|peer| is_peer(peer, other, family)))
                && (ports.is_empty() || ports.iter().any(|port| is_port(port, what.0, what.1)))
        });
        selecting.is_empty() || allowing.next().is_some()
    }

    pub(super) fn passes(
        policies: &[Value],
        from: &Spot,
        to: &Spot,
        family: usize,
        what: (&str, u64),
    ) -> bool {
        let out = end(policies, "egress", from, to, family, what);
        out && (from.name == "host" || end(policies, "ingress", to, from, family, what))
    }
}

#[test]
fn the_shapes_are_many_and_none_is_another() {
    let shapes = shapes();
    let policies: BTreeSet<String> = shapes.iter().map(|shape| json!(shape.policies).to_string()).collect();
    let names: BTreeSet<&str> = shapes.iter().map(|shape| shape.name.as_str()).collect();
    assert_eq!((policies.len(), names.len()), (shapes.len(), shapes.len()));
    assert!(shapes.len() >= 230, "{}", shapes.len());
}

#[test]
fn the_oracle_reads_every_shape_as_it_is_written() {
    let spots = spots();
    let (mut passed, mut stopped) = (0, 0);
    for shape in shapes() {
        let world = put(grid(), &shape.policies);
        for from in &spots {
            for to in spots
                .iter()
                .filter(|to| to.name != from.name && (from.member.is_some() || to.member.is_some()))
            {
                for (number, family) in (0..traffics().len()).flat_map(|number| [(number, 0), (number, 1)]) {
                    let (traffic, word, value) = traffic(number, family);
                    let found = verdict(&world, from.point(family), to.point(family), traffic);
                    let expected = written::passes(&shape.policies, from, to, family, (word, value));
                    let what =
                        || format!("{}: {} to {}, {traffic:?}, {family}", shape.name, from.name, to.name);
                    assert_eq!(found.passes(), expected, "{}: {found:?}", what());
                    if expected { passed += 1 } else { stopped += 1 }
                }
            }
        }
    }
    assert!(passed > 30_000 && stopped > 30_000, "{passed} passed, {stopped} stopped");
}

#[test]
fn who_decided_is_named() {
    let policies = json!([
        {"kind": "Policy", "name": "closed", "spec": {"selector": {"network": "x"}, "directions": ["ingress", "egress"]}},
        {"kind": "Policy", "name": "web", "spec": {"selector": {"labels": {"pod": "a"}},
            "ingress": [{"ports": [{"protocol": "tcp", "port": 80}]}]}},
        {"kind": "Policy", "name": "web-too", "spec": {"selector": {"labels": {"pod": "a"}}, "ingress": [{"peers": [{"network": "y"}]}]}},
    ]);
    let world = put(grid(), policies.as_array().unwrap());
    let spots = spots();
    let of = |name: &str| spots.iter().find(|spot| spot.name == name).unwrap().point(0);
    let asked = |from: &str, to: &str, port: u16| {
        let Verdict { egress, ingress } =
            verdict(&world, of(from), of(to), Traffic::Port(netloom_api::Protocol::Tcp, port));
        let said = |decision| match decision {
            Decision::Open => "open".to_owned(),
            Decision::Allowed(by) => {
                format!("allowed by {}", by.iter().map(Name::as_str).collect::<Vec<_>>().join(", "))
            }
            Decision::Denied(by) => {
                format!("denied by {}", by.iter().map(Name::as_str).collect::<Vec<_>>().join(", "))
            }
        };
        (said(egress), said(ingress))
    };
    let pair = |egress: &str, ingress: &str| (egress.to_owned(), ingress.to_owned());
    assert_eq!(asked("y-b", "x-a", 80), pair("open", "allowed by web, web-too"));
    assert_eq!(asked("z-b", "x-a", 80), pair("open", "allowed by web"));
    assert_eq!(asked("z-b", "x-a", 81), pair("open", "denied by closed, web, web-too"));
    assert_eq!(asked("x-b", "y-c", 80), pair("denied by closed", "open"));
    assert_eq!(asked("host", "x-b", 80), pair("open", "open"));
    assert_eq!(asked("x-b", "host", 80), pair("denied by closed", "open"));
    assert_eq!(asked("outside", "x-b", 80), pair("open", "denied by closed"));
    // What is in one namespace talks to itself.
    assert_eq!(asked("x-b", "x-b", 80), pair("open", "open"));
}

#[test]
fn what_is_being_deleted_has_no_say_and_is_nobody() {
    let policies = json!([{"kind": "Policy", "name": "p", "spec": {"selector": {"labels": {"pod": "a"}},
        "ingress": [{"peers": [{"labels": {"pod": "b"}}]}]}}]);
    let world = put(grid(), policies.as_array().unwrap());
    let dying = |kind: Kind, name: &str| {
        let object = world.get_any(kind, &name.parse().unwrap()).unwrap();
        let meta =
            netloom_api::Meta { delete_time: Some(Timestamp::from_micros(1)), ..object.meta().clone() };
        let mut after = world.clone();
        after.put(object.with_meta(meta));
        after
    };
    let spots = spots();
    let of = |name: &str| spots.iter().find(|spot| spot.name == name).unwrap().point(0);
    let passes = |world: &World, from: &str| verdict(world, of(from), of("x-a"), Traffic::Other(47)).passes();
    assert!(passes(&world, "x-b") && !passes(&world, "x-c"));
    assert!(passes(&dying(Kind::Policy, "p"), "x-c"));
    assert!(!passes(&dying(Kind::Attachment, "x-b"), "x-b"));
}

/// Some policies of some shapes, each under a name of its own.
fn some() -> impl Strategy<Value = Vec<Value>> {
    let all: Vec<Value> = shapes().into_iter().flat_map(|shape| shape.policies).collect();
    let name = |(number, mut policy): (usize, Value)| {
        policy["name"] = format!("p{number}").into();
        policy
    };
    prop::collection::vec(prop::sample::select(all), 0..5)
        .prop_map(move |policies| policies.into_iter().enumerate().map(name).collect())
}

/// The same World with these policies, without a controller: it is asked often.
fn with(policies: &[Value]) -> World {
    let mut world = grid().clone();
    for policy in policies {
        let AnyDraft::Policy(draft) = AnyDraft::from_json(policy.clone(), &Path::root()).unwrap() else {
            unreachable!()
        };
        let like = &world.all::<Attachment>().next().unwrap().meta;
        let meta = netloom_api::Meta {
            name: draft.name,
            uid: netloom_api::Uid::generate(),
            labels: draft.labels,
            ..like.clone()
        };
        world.put(AnyStored::Policy(Arc::new(Stored {
            meta,
            spec: draft.spec,
            alloc: crate::world::Nothing {},
        })));
    }
    world
}

/// Everything that passes, as (from, to, traffic, family).
fn all_that_passes(world: &World) -> BTreeSet<(String, String, usize, usize)> {
    let spots = spots();
    let mut passing = BTreeSet::new();
    for from in &spots {
        for to in &spots {
            for (number, family) in (0..traffics().len()).flat_map(|number| [(number, 0), (number, 1)]) {
                let (traffic, ..) = traffic(number, family);
                if verdict(world, from.point(family), to.point(family), traffic).passes() {
                    passing.insert((from.name.clone(), to.name.clone(), number, family));
                }
            }
        }
    }
    passing
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_rule_more_never_takes_away(policies in some(), at in any::<prop::sample::Index>(), rule in some(), egress in any::<bool>()) {
        prop_assume!(!policies.is_empty());
        let direction = if egress { "egress" } else { "ingress" };
        let mut more = policies.clone();
        let spec = &mut more[at.index(policies.len())]["spec"];
        // In a direction that it is about already.
        let said = spec["directions"].as_array();
        let about = said.map_or(!egress || !spec["egress"].is_null(), |said| said.iter().any(|one| one == direction));
        prop_assume!(about);
        let new = rule.iter().find_map(|policy| policy["spec"][direction].get(0).cloned()).unwrap_or(json!({}));
        if spec[direction].is_null() {
            spec[direction] = json!([]);
        }
        spec[direction].as_array_mut().unwrap().push(new);
        let (before, after) = (all_that_passes(&with(&policies)), all_that_passes(&with(&more)));
        prop_assert!(before.is_subset(&after), "{:?}", before.difference(&after).next());
    }

    #[test]
    fn a_policy_of_one_changes_nothing_between_others(policies in some(), mut more in some()) {
        more.iter_mut().for_each(|policy| {
            policy["spec"]["selector"] = json!({"labels": {"pod": "b", "ns": "y"}});
            policy["name"] = format!("more-{}", policy["name"].as_str().unwrap()).into();
        });
        let others = |world: &World| {
            let mut passing = all_that_passes(world);
            passing.retain(|(from, to, ..)| from != "y-b" && to != "y-b");
            passing
        };
        let both: Vec<Value> = policies.iter().chain(&more).cloned().collect();
        prop_assert_eq!(others(&with(&policies)), others(&with(&both)));
    }

    #[test]
    fn the_order_of_policies_and_rules_means_nothing(policies in some()) {
        let mut turned = policies.clone();
        for (number, policy) in turned.iter_mut().enumerate() {
            policy["name"] = format!("p{}", 9 - number).into();
            for direction in ["ingress", "egress"] {
                if let Some(rules) = policy["spec"].get_mut(direction).and_then(Value::as_array_mut) {
                    rules.reverse();
                    rules.iter_mut().for_each(|rule| for list in ["peers", "ports"] {
                        rule.get_mut(list).and_then(Value::as_array_mut).into_iter().for_each(|list| list.reverse());
                    });
                }
            }
        }
        prop_assert_eq!(all_that_passes(&with(&policies)), all_that_passes(&with(&turned)));
    }
}

#[test]
fn where_there_is_no_policy_all_is_open() {
    let spots = spots().len();
    assert_eq!(all_that_passes(grid()).len(), spots * spots * traffics().len() * 2);
}
