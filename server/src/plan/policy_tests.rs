//! Policies in plans: one change after another, each planned for its own part of the host, adds up to the whole; and at no
//! step does an element lead to a chain that is not there.

use std::collections::{BTreeMap, BTreeSet};

use netloom_api::{Attachment, Draft, Kind, Labels, Name, Policy, PolicySpec, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::plan;
use crate::{
    controller::{Change, edit_for_tests},
    hostnet::{
        Action, Features, HostNet,
        rules::{Data, Rules, Skeleton},
    },
    want::{HostFacts, Surroundings, close, everything, scope_of, want},
    world::World,
};

fn surroundings() -> Surroundings {
    let features = Features { ipv6: true, force_forwarding: true, sctp: true };
    Surroundings { features, manages_forwarding: true, api_ports: vec![], facts: HostFacts::default() }
}

fn labels(role: u8) -> Labels {
    BTreeMap::from([("role".to_owned(), format!("r{role}"))]).try_into().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn draft<N: netloom_api::Noun>(of: &str, labels: Labels, spec: serde_json::Value) -> Draft<N>
where
    N::Spec: serde::de::DeserializeOwned,
{
    let annotations = BTreeMap::new().try_into().unwrap();
    Draft { name: name(of), labels, annotations, owner: None, spec: serde_json::from_value(spec).unwrap() }
}

fn attachment(at: usize, role: u8) -> Change {
    let spec = json!({"namespace": format!("ns{}", at % 2), "network": if at.is_multiple_of(3) { "red" } else { "blue" }});
    Change::Put(draft::<Attachment>(&format!("att{at}"), labels(role), spec).into())
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Act {
    Attach(usize, u8),
    Detach(usize),
    Rule(usize, u8),
    Lift(usize),
}

fn policy(at: usize, shape: u8) -> Change {
    let rule = match shape % 4 {
        0 => {
            json!({"peers": [{"labels": {"role": format!("r{}", shape / 4 % 3)}}], "ports": [{"protocol": "tcp", "port": 80}]})
        }
        1 => json!({"peers": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"network": "red"}]}),
        2 => json!({}),
        _ => json!({"peers": [{"cidr": "fd00::/8"}], "ports": [{"protocol": "icmpv6", "type": 128}]}),
    };
    let selector = match shape / 4 % 4 {
        0 => json!({}),
        1 => json!({"network": "red"}),
        which => json!({"labels": {"role": format!("r{}", which - 2)}}),
    };
    let spec: PolicySpec = serde_json::from_value(match shape / 16 % 3 {
        0 => json!({"selector": selector, "directions": ["ingress"], "ingress": [rule]}),
        1 => {
            json!({"selector": selector, "directions": ["ingress", "egress"], "egress": [rule], "log": true})
        }
        _ => json!({"selector": selector, "directions": ["egress"], "egress": [rule, {}]}),
    })
    .unwrap();
    let spec = serde_json::to_value(spec).unwrap();
    Change::Put(draft::<Policy>(&format!("policy{at}"), Labels::default(), spec).into())
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0_usize..5, 0_u8..3).prop_map(|(at, role)| Act::Attach(at, role)),
        1 => (0_usize..5).prop_map(Act::Detach),
        3 => (0_usize..4, any::<u8>()).prop_map(|(at, shape)| Act::Rule(at, shape)),
        1 => (0_usize..4).prop_map(Act::Lift),
    ]
}

fn start() -> World {
    let network = |of: &str, cidrs: [&str; 2]| {
        let subnets: Vec<_> = cidrs.iter().map(|cidr| json!({"cidr": cidr})).collect();
        let spec = json!({"subnets": subnets, "isolation": {"members": of == "blue"}});
        Change::Put(draft::<netloom_api::Network>(of, Labels::default(), spec).into())
    };
    let namespace =
        |of: &str| Change::Put(draft::<netloom_api::Namespace>(of, Labels::default(), json!({})).into());
    let changes = vec![
        namespace("ns0"),
        namespace("ns1"),
        network("red", ["10.1.0.0/24", "fd00:1::/64"]),
        network("blue", ["10.2.0.0/24", "fd00:2::/64"]),
    ];
    edit_for_tests(&World::default(), changes, Timestamp::from_micros(0))
}

/// The World after the act; none if it changes nothing.
fn after(world: &World, act: &Act) -> (World, Kind, Name) {
    let put = |change| edit_for_tests(world, vec![change], Timestamp::from_micros(1));
    let without = |kind, name: &Name| {
        let mut world = world.clone();
        world.remove(kind, name);
        world
    };
    match act {
        Act::Attach(at, role) => (put(attachment(*at, *role)), Kind::Attachment, name(&format!("att{at}"))),
        Act::Rule(at, shape) => (put(policy(*at, *shape)), Kind::Policy, name(&format!("policy{at}"))),
        Act::Detach(at) => {
            let name = name(&format!("att{at}"));
            (without(Kind::Attachment, &name), Kind::Attachment, name)
        }
        Act::Lift(at) => {
            let name = name(&format!("policy{at}"));
            (without(Kind::Policy, &name), Kind::Policy, name)
        }
    }
}

/// The chains that elements lead to.
fn led_to(rules: &Rules) -> BTreeSet<String> {
    let chains = rules.elements.iter().filter_map(|element| match element.data() {
        Data::Jump(chain) => Some(chain.to_string()),
        _ => None,
    });
    chains.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn policies_and_attachments_come_change_and_go_in_any_order(acts in prop::collection::vec(act(), 1..14)) {
        let around = surroundings();
        let all = |world: &World| {
            let mut scope = everything(world);
            scope.host = false;
            let mut net = want(world, &scope, &around);
            net.rules.skeleton = Skeleton::Present;
            net
        };
        let mut world = start();
        let mut have = all(&world);
        for act in &acts {
            let (next, kind, name) = after(&world, act);
            let mut scope = scope_of(&world, kind, &name);
            scope.join(scope_of(&next, kind, &name));
            close(&mut scope, &world, &next);
            let steps = plan(&want(&world, &scope, &around), &want(&next, &scope, &around)).steps;
            for step in &steps {
                have.apply(step);
                if let Action::RemoveChain(name) = &step.action {
                    prop_assert!(!led_to(&have.rules).contains(name.as_str()), "{act:?}: {step}");
                }
                let chains: BTreeSet<String> = have.rules.chains.keys().map(ToString::to_string).collect();
                prop_assert!(led_to(&have.rules).is_subset(&chains), "{act:?}: {step}");
            }
            world = next;
            prop_assert_eq!(have.to_string(), all(&world).to_string(), "{:?}", act);
            let shown: BTreeSet<String> = have.rules.chains.keys().map(ToString::to_string).collect();
            prop_assert_eq!(led_to(&have.rules), shown, "every chain has somebody");
        }
        prop_assert!(HostNet::default() != have);
    }
}

#[test]
fn what_no_policy_selects_or_means_is_attached_without_a_thought_of_policies() {
    let around = surroundings();
    let mut world = start();
    for (at, role) in [(0, 0), (1, 1)] {
        world = edit_for_tests(&world, vec![attachment(at, role)], Timestamp::from_micros(1));
    }
    // It selects r0, and means r2.
    world = edit_for_tests(&world, vec![policy(0, 8)], Timestamp::from_micros(1));
    let (next, kind, name) = after(&world, &Act::Attach(2, 1));
    let mut scope = scope_of(&world, kind, &name);
    scope.join(scope_of(&next, kind, &name));
    close(&mut scope, &world, &next);
    assert!(scope.chains.is_empty() && scope.policies.is_empty() && scope.policed.is_empty(), "{scope:?}");
    assert!(!scope.leans_on.iter().any(|(kind, _)| *kind == Kind::Policy), "{scope:?}");

    // The second of a set finds its chain there, and the relabelled leaves it to the other.
    let (next, kind, name) = after(&world, &Act::Attach(3, 0));
    let mut scope = scope_of(&next, kind, &name);
    close(&mut scope, &world, &next);
    assert!(scope.chains.is_empty(), "{scope:?}");
    let steps = plan(&want(&world, &scope, &around), &want(&next, &scope, &around)).steps;
    assert!(!steps.iter().any(|step| matches!(step.action, Action::PutChain(..))));
}
