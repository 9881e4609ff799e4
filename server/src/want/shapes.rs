//! For tests: endpoints, and policies of all shapes to try between them, as cyclonus does for Kubernetes.
//!
//! Three open networks of three members each, IPv4 and IPv6. A shape is one or a few Policies, as documents. Tests compare
//! what three ways make of each shape: the oracle, a second reading of the rules, and packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// The networks, and what their subnets have in the third place.
const NETWORKS: [(&str, u8); 3] = [("x", 61), ("y", 62), ("z", 63)];
/// The members of each network, and the last part of their addresses.
const MEMBERS: [(&str, u8); 3] = [("a", 11), ("b", 12), ("c", 13)];

/// A member of the grid: an Attachment, which is called like its Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, as `x-a`.
    pub name: String,
    /// Its network.
    pub network: &'static str,
    /// Which of its network's members; its label `pod`.
    pub pod: &'static str,
    /// One of each family.
    pub addresses: [IpAddr; 2],
}

/// One thing to try.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// What it is about.
    pub name: String,
    /// The Policies, as documents with `kind`.
    pub policies: Vec<Value>,
}

/// The nine members, in the order of networks and members.
pub fn endpoints() -> Vec<Endpoint> {
    let of = |(network, third): (&'static str, u8)| {
        MEMBERS.map(|(pod, last)| Endpoint {
            name: format!("{network}-{pod}"),
            network,
            pod,
            addresses: [
                Ipv4Addr::new(192, 168, third, last).into(),
                Ipv6Addr::new(0xfd00, third.into(), 0, 0, 0, 0, 0, last.into()).into(),
            ],
        })
    };
    NETWORKS.into_iter().flat_map(of).collect()
}

/// What makes the grid, for one apply.
pub fn objects() -> Vec<Value> {
    let network = |(name, third): (&str, u8)| {
        json!({"kind": "Network", "name": name, "spec": {"kind": {"bridge": {"device": format!("br-{name}")}},
            "subnets": [{"cidr": format!("192.168.{third}.0/24")}, {"cidr": format!("fd00:{third:x}::/64")}],
            "egress": {"nat": {}}, "isolation": {"networks": false, "host": false}}})
    };
    let member = |one: &Endpoint| {
        let Endpoint { name, network, pod, addresses } = one;
        [
            json!({"kind": "Namespace", "name": name}),
            json!({"kind": "Attachment", "name": name, "labels": {"pod": pod, "ns": network},
                "spec": {"namespace": name, "network": network, "addresses": addresses}}),
        ]
    };
    NETWORKS.into_iter().map(network).chain(endpoints().iter().flat_map(member)).collect()
}

/// All shapes, each another one.
pub fn shapes() -> Vec<Shape> {
    let mut all = vec![Shape { name: "no policy".into(), policies: Vec::new() }];
    targets(&mut all);
    single_peers(&mut all);
    pairs_of_peers(&mut all);
    ports(&mut all);
    ports_of_peers(&mut all);
    rules(&mut all);
    several(&mut all);
    stories(&mut all);
    all
}

const DIRECTIONS: [&str; 2] = ["ingress", "egress"];

/// The member that most shapes are about.
fn target() -> Value {
    json!({"labels": {"pod": "a", "ns": "x"}})
}

fn policy(name: &str, spec: Value) -> Value {
    json!({"kind": "Policy", "name": name, "spec": spec})
}

fn shape(all: &mut Vec<Shape>, name: String, specs: Vec<Value>) {
    let named = specs.into_iter().zip('a'..).map(|(spec, letter)| policy(&format!("policy-{letter}"), spec));
    all.push(Shape { name, policies: named.collect() });
}

/// One rule in one direction, of the usual target.
fn one_rule(all: &mut Vec<Shape>, name: String, direction: &str, rule: Value) {
    shape(all, name, vec![json!({"selector": target(), "directions": [direction], direction: [rule]})]);
}

/// Whom a policy may select, each closed in one direction or both.
fn targets(all: &mut Vec<Shape>) {
    for (who, selector) in [
        ("everybody", json!({})),
        ("a pod everywhere", json!({"labels": {"pod": "a"}})),
        ("a namespace", json!({"labels": {"ns": "x"}})),
        ("a network", json!({"network": "y"})),
        ("a pod of a network", json!({"labels": {"pod": "a"}, "network": "x"})),
        ("one by two labels", json!({"labels": {"pod": "b", "ns": "y"}})),
        ("nobody", json!({"labels": {"pod": "d"}})),
        ("nobody, by two that exclude each other", json!({"labels": {"ns": "x"}, "network": "z"})),
    ] {
        for directions in [json!(["ingress"]), json!(["egress"]), json!(["ingress", "egress"])] {
            let spec = json!({"selector": selector, "directions": directions});
            shape(all, format!("{who} is closed: {directions}"), vec![spec]);
        }
        shape(all, format!("{who} is closed, unsaid in what direction"), vec![json!({"selector": selector})]);
    }
}

fn peers() -> Vec<(&'static str, Value)> {
    vec![
        ("a pod", json!({"labels": {"pod": "b"}})),
        ("every attachment", json!({"labels": {}})),
        ("a network", json!({"network": "y"})),
        ("a pod of a network", json!({"labels": {"pod": "c"}, "network": "z"})),
        ("nobody", json!({"labels": {"pod": "d"}})),
        ("a subnet", json!({"cidr": "192.168.62.0/24"})),
        ("a subnet without one address", json!({"cidr": "192.168.62.0/24", "except": ["192.168.62.12/32"]})),
        ("an IPv6 subnet", json!({"cidr": "fd00:3e::/64"})),
        ("an IPv6 subnet without a half", json!({"cidr": "fd00:3e::/64", "except": ["fd00:3e::8/125"]})),
        ("one address", json!({"cidr": "192.168.63.13"})),
        ("all of IPv4", json!({"cidr": "0.0.0.0/0"})),
        ("all of IPv6 but two networks", json!({"cidr": "::/0", "except": ["fd00:3d::/64", "fd00:3e::/64"]})),
    ]
}

fn single_peers(all: &mut Vec<Shape>) {
    for (who, peer) in peers() {
        for direction in DIRECTIONS {
            one_rule(all, format!("{direction}: {who}"), direction, json!({"peers": [peer]}));
        }
    }
}

fn pairs_of_peers(all: &mut Vec<Shape>) {
    let peers = peers();
    for (index, (one, peer)) in peers.iter().enumerate() {
        for (later, (other, second)) in peers.iter().enumerate().skip(index + 1) {
            let direction = DIRECTIONS[(index + later) % 2];
            let rule = json!({"peers": [peer, second]});
            one_rule(all, format!("{direction}: {one} and {other}"), direction, rule);
        }
    }
}

fn ports(all: &mut Vec<Shape>) {
    let port = |protocol: &str, port: u16| json!({"protocol": protocol, "port": port});
    let range = |protocol: &str, first: u16, last: u16| json!({"protocol": protocol, "port": first, "end_port": last});
    let all_of = |protocol: &str| json!({"protocol": protocol});
    let lists = [
        json!([]),
        json!([all_of("tcp")]),
        json!([port("tcp", 80)]),
        json!([port("tcp", 81)]),
        json!([port("tcp", 1)]),
        json!([range("tcp", 80, 81)]),
        json!([range("tcp", 81, 90)]),
        json!([range("tcp", 1, 65535)]),
        json!([all_of("udp")]),
        json!([port("udp", 80)]),
        json!([range("udp", 70, 80)]),
        json!([all_of("icmp")]),
        json!([{"protocol": "icmp", "type": 8}]),
        json!([{"protocol": "icmp", "type": 13, "code": 0}]),
        json!([all_of("icmpv6")]),
        json!([{"protocol": "icmpv6", "type": 128, "code": 0}]),
        json!([port("tcp", 80), port("udp", 81)]),
        json!([all_of("tcp"), all_of("udp")]),
        json!([port("tcp", 80), all_of("icmp"), all_of("icmpv6")]),
        json!([port("udp", 80), port("tcp", 81), range("tcp", 90, 99)]),
        json!([range("tcp", 70, 80), range("tcp", 80, 90), port("tcp", 80)]),
    ];
    for list in lists {
        for direction in DIRECTIONS {
            one_rule(all, format!("{direction}: ports {list}"), direction, json!({"ports": list}));
        }
    }
}

fn ports_of_peers(all: &mut Vec<Shape>) {
    let lists = [
        json!([{"protocol": "tcp", "port": 80}]),
        json!([{"protocol": "udp"}]),
        json!([{"protocol": "tcp", "port": 80, "end_port": 81}, {"protocol": "icmp"}, {"protocol": "icmpv6"}]),
    ];
    for list in lists {
        for at in [0, 2, 3, 6, 8] {
            let Some((who, peer)) = peers().into_iter().nth(at) else { continue };
            for direction in DIRECTIONS {
                let rule = json!({"peers": [peer], "ports": list});
                one_rule(all, format!("{direction}: {who}, ports {list}"), direction, rule);
            }
        }
    }
}

fn rules(all: &mut Vec<Shape>) {
    let by_port = |pod: &str, port: u16| json!({"peers": [{"labels": {"pod": pod}}], "ports": [{"protocol": "tcp", "port": port}]});
    for direction in DIRECTIONS {
        for (what, rules) in [
            ("an empty rule", json!([{}])),
            ("a rule and an empty one", json!([by_port("b", 80), {}])),
            ("two rules that do not add up to a third", json!([by_port("b", 80), by_port("c", 81)])),
            ("the same rule twice", json!([by_port("b", 80), by_port("b", 80)])),
            (
                "a wide rule and a narrow one",
                json!([{"peers": [{"labels": {"pod": "b"}}]}, {"ports": [{"protocol": "udp", "port": 80}]}]),
            ),
        ] {
            let spec = json!({"selector": target(), "directions": [direction], direction: rules});
            shape(all, format!("{direction}: {what}"), vec![spec]);
        }
    }
    let both = json!({"selector": target(), "ingress": [by_port("b", 80)], "egress": [by_port("c", 81)]});
    shape(all, "both directions, unsaid".into(), vec![both]);
    let closed_out = json!({"selector": target(), "directions": ["ingress", "egress"], "ingress": [{}]});
    shape(all, "all in, nothing out".into(), vec![closed_out]);
}

/// Policies that meet.
fn several(all: &mut Vec<Shape>) {
    let from = |pod: &str| json!([{"peers": [{"labels": {"pod": pod}}]}]);
    for direction in DIRECTIONS {
        let of = |selector: Value, rules: Value| json!({"selector": selector, "directions": [direction], direction: rules});
        let closed = || of(target(), json!([]));
        let pairs = [
            ("nothing and something", vec![closed(), of(target(), from("b"))]),
            ("something and nothing", vec![of(target(), from("b")), closed()]),
            ("two somethings", vec![of(target(), from("b")), of(target(), from("c"))]),
            ("something and everything", vec![of(target(), from("b")), of(target(), json!([{}]))]),
            ("all are closed, and one is open", vec![of(json!({}), json!([])), of(target(), json!([{}]))]),
            (
                "of overlapping selectors",
                vec![of(json!({"labels": {"pod": "a"}}), from("b")), of(json!({"network": "x"}), from("c"))],
            ),
            (
                "of disjoint selectors",
                vec![of(json!({"network": "x"}), from("b")), of(json!({"network": "y"}), from("c"))],
            ),
            (
                "three",
                vec![closed(), of(json!({"labels": {"pod": "a"}}), from("b")), of(json!({}), from("c"))],
            ),
        ];
        for (what, policies) in pairs {
            shape(all, format!("{direction}: {what}"), policies);
        }
    }
    let one_way = |direction: &str, selector: Value, rules: Value| json!({"selector": selector, "directions": [direction], direction: rules});
    let meeting = [
        (
            "in by one, out by another",
            vec![one_way("ingress", target(), from("b")), one_way("egress", target(), from("c"))],
        ),
        (
            "out of one, not in to the other",
            vec![
                one_way("egress", json!({"network": "x"}), json!([{}])),
                one_way("ingress", json!({"network": "y"}), json!([])),
            ],
        ),
        (
            "out of one and in to the other",
            vec![
                one_way("egress", json!({"network": "x"}), json!([{"peers": [{"network": "y"}]}])),
                one_way("ingress", json!({"network": "y"}), json!([{"peers": [{"network": "x"}]}])),
            ],
        ),
        (
            "in by address, out by label",
            vec![
                one_way("ingress", json!({}), json!([{"peers": [{"cidr": "192.168.61.0/24"}]}])),
                one_way("egress", target(), from("b")),
            ],
        ),
    ];
    for (what, policies) in meeting {
        shape(all, what.into(), policies);
    }
}

/// What people write.
fn stories(all: &mut Vec<Shape>) {
    let dns = json!({"ports": [{"protocol": "udp", "port": 81}, {"protocol": "tcp", "port": 81}]});
    let closed = json!({"directions": ["ingress", "egress"]});
    let stories = [
        (
            "a database and its application",
            vec![json!({"selector": {"labels": {"pod": "a"}},
            "ingress": [{"peers": [{"labels": {"pod": "b"}}], "ports": [{"protocol": "tcp", "port": 80}]}]})],
        ),
        (
            "all closed but names",
            vec![
                closed.clone(),
                json!({"directions": ["egress"], "egress": [dns]}),
                json!({"selector": {"network": "z"}, "ingress": [dns]}),
            ],
        ),
        (
            "only the own network",
            vec![json!({"selector": {"network": "x"}, "ingress": [{"peers": [{"network": "x"}]}],
            "egress": [{"peers": [{"network": "x"}]}]})],
        ),
        (
            "only outside",
            vec![json!({"selector": {"network": "x"}, "egress": [
            {"peers": [{"cidr": "0.0.0.0/0", "except": ["192.168.0.0/16"]}, {"cidr": "::/0", "except": ["fd00::/8"]}]}]})],
        ),
        (
            "a web server for everybody",
            vec![
                closed.clone(),
                json!({"selector": target(),
            "ingress": [{"ports": [{"protocol": "tcp", "port": 80}]}]}),
            ],
        ),
        (
            "ping for everybody",
            vec![
                json!({}),
                json!({"ingress": [{"ports": [{"protocol": "icmp", "type": 8}, {"protocol": "icmpv6", "type": 128}]}]}),
            ],
        ),
        (
            "all may, but in the end only one",
            vec![
                json!({"selector": {"labels": {"pod": "c"}}, "ingress": [{"peers": [{"labels": {}}]}]}),
                json!({"selector": {"labels": {"ns": "y"}}, "egress": [{"peers": [{"labels": {"pod": "c"}, "network": "y"}]}]}),
            ],
        ),
    ];
    for (what, policies) in stories {
        shape(all, what.into(), policies);
    }
}
