//! What may happen, in small numbers: few names, addresses and ports, so that calls meet.

use netloom_api::{AnyDraft, Etag, Kind, Name, Path};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::controller::{Change, Delete, Patch, Terms};

/// How many objects of each noun may be.
pub(super) const NAMESPACES: u8 = 3;
pub(super) const NETWORKS: u8 = 2;
pub(super) const ATTACHMENTS: u8 = 6;
pub(super) const FORWARDS: u8 = 3;
pub(super) const RESERVATIONS: u8 = 2;
pub(super) const ROUTES: u8 = 3;
pub(super) const LINKS: u8 = 3;
pub(super) const POLICIES: u8 = 3;
/// As a place, the host itself.
pub(super) const HOST: u8 = NAMESPACES;

/// Which object.
pub(super) type Id = (Kind, u8);

/// One step of a sequence.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// Somebody asks for something, and meanwhile something may go wrong.
    Call(Call, Trouble),
    /// The daemon stops in order, and starts again.
    Restart,
    /// All that the kernel had is gone, and the daemon starts.
    Reboot,
    /// Somebody takes something of ours away: the how-many-th thing of this sort.
    Drift(Loot, u16, Noticed),
    /// Somebody adds something of their own.
    Stranger(Addition, u8),
    /// Everything is compared with what the kernel has.
    FullPass,
}

/// What goes wrong while a call is served.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    Nothing,
    /// The kernel refuses the how-many-th step, for now; afterwards it takes it.
    Refused(u8),
    /// The daemon dies before the how-many-th step.
    Crash(u8),
}

/// What is taken away.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loot {
    Link,
    Up,
    Address,
    Route,
    Namespace,
    Rule,
}

/// How the daemon comes to know.
#[derive(Clone, Copy, Debug)]
pub(super) enum Noticed {
    /// The kernel tells.
    Told,
    /// At the next full pass, which comes at once.
    Compared,
    /// Not yet.
    Not,
}

/// What a stranger adds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Addition {
    /// A link in a namespace of ours.
    LinkInside,
    /// An address on a bridge of ours.
    Address,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Create(Draft),
    Patch { draft: Draft, tag: Tag, allow_missing: bool },
    Delete { id: Id, tag: Tag, force: bool, allow_missing: bool },
    Apply { drafts: Vec<Draft>, owner: Option<u8>, prune: bool, take: bool },
}

/// The version that a caller means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Any,
    Current,
    /// An earlier one, or that of an earlier object of the name.
    Old,
}

/// An object, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) number: u8,
    pub(super) label: u8,
    pub(super) owner: Option<u8>,
    pub(super) spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spec {
    Namespace,
    Network {
        v6: bool,
        egress: u8,
        members: bool,
        networks: bool,
        mtu: Option<u16>,
        guard: bool,
    },
    Attachment {
        namespace: u8,
        network: u8,
        wish: Option<u8>,
        default_route: Option<bool>,
        metric: Option<u32>,
        mtu: Option<u16>,
        limits: u8,
    },
    PortForward {
        udp: bool,
        port: u8,
        more: u8,
        loopback: bool,
        shifted: bool,
        target: u8,
    },
    Reservation {
        network: u8,
        wish: Option<u8>,
    },
    Route {
        at: u8,
        destination: u8,
        metric: u8,
        way: Way,
    },
    /// Whose ends are there, and which subnet they have; 0 is around that of the first network.
    Link {
        ends: [u8; 2],
        subnet: u8,
        v6: bool,
        mtu: Option<u16>,
    },
    /// Whom it selects, by label and network, and who may come in: members of a network, and those with a label.
    Policy {
        select: Option<u8>,
        on: Option<u8>,
        from: u8,
        labelled: u8,
        out: bool,
    },
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Nowhere(u8),
    /// By an address of a network.
    Network(u8, u8),
    /// By the second end of a cable with this subnet.
    Cable(u8),
}

impl Spec {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Spec::Namespace => Kind::Namespace,
            Spec::Network { .. } => Kind::Network,
            Spec::Attachment { .. } => Kind::Attachment,
            Spec::PortForward { .. } => Kind::PortForward,
            Spec::Reservation { .. } => Kind::Reservation,
            Spec::Route { .. } => Kind::Route,
            Spec::Link { .. } => Kind::Link,
            Spec::Policy { .. } => Kind::Policy,
        }
    }
}

impl Draft {
    pub(super) fn id(&self) -> Id {
        (self.spec.kind(), self.number)
    }

    fn json(&self) -> Value {
        let mut json = json!({"kind": self.spec.kind().as_str(), "name": name(self.id()).as_str(),
            "labels": {"v": self.label.to_string()}, "spec": spec(&self.spec, self.number)});
        if let Some(owner) = self.owner {
            json["owner"] = format!("owner{owner}").into();
        }
        json
    }
}

pub(super) fn name((kind, number): Id) -> Name {
    let stem = match kind {
        Kind::Namespace => "ns",
        Kind::Network => "net",
        Kind::Attachment => "att",
        Kind::PortForward => "fwd",
        Kind::Reservation => "res",
        Kind::Route => "rt",
        Kind::Link => "ln",
        Kind::Policy => "pol",
    };
    format!("{stem}{number}").parse().unwrap()
}

pub(super) fn id(kind: Kind, name: &Name) -> Id {
    (kind, name.as_str().trim_start_matches(char::is_alphabetic).parse().unwrap())
}

fn place(at: u8) -> String {
    if at == HOST { "host".into() } else { name((Kind::Namespace, at)).to_string() }
}

/// The second part of the prefix that cables have.
pub(super) fn cable_net(subnet: u8) -> u8 {
    if subnet == 0 { 0 } else { 100 + subnet }
}

/// With null for what is left out, as a patch says it.
fn spec(spec: &Spec, number: u8) -> Value {
    match spec {
        Spec::Namespace => json!({}),
        Spec::Network { v6, egress, members, networks, mtu, guard } => {
            let mut subnets = vec![json!({"cidr": format!("10.{number}.0.0/29")})];
            subnets.extend(v6.then(|| json!({"cidr": format!("fd00:{number}::/64")})));
            let egress = ["none", "nat", "routed"][usize::from(egress % 3)];
            let mut all = json!({"subnets": subnets, "egress": {}, "mtu": mtu, "spoof_guard": guard,
                "isolation": {"members": members, "networks": networks}});
            all["egress"][egress] = json!({});
            all
        }
        Spec::Attachment { namespace, network, wish, default_route, metric, mtu, limits } => {
            let rate = |on: bool| on.then(|| json!({"rate": 1_000_000}));
            let bandwidth = json!({"ingress": rate(limits & 1 > 0), "egress": rate(limits & 2 > 0)});
            let addresses: Vec<String> = wish.iter().map(|wish| format!("10.{network}.0.{wish}")).collect();
            json!({"namespace": place(*namespace), "network": name((Kind::Network, *network)).as_str(),
                "addresses": addresses, "default_route": default_route, "metric": metric, "mtu": mtu,
                "bandwidth": if *limits == 0 { Value::Null } else { bandwidth }})
        }
        Spec::PortForward { udp, port, more, loopback, shifted, target } => {
            let port = 8000 + u16::from(*port);
            let end = (*more > 0).then(|| port + u16::from(*more));
            json!({"protocol": if *udp { "udp" } else { "tcp" },
                "listen": {"address": loopback.then_some("127.0.0.1"), "port": port, "end_port": end},
                "target": {"attachment": name((Kind::Attachment, *target)).as_str(), "port": shifted.then_some(80)}})
        }
        Spec::Reservation { network, wish } => {
            json!({"network": name((Kind::Network, *network)).as_str(),
                "address": wish.map(|wish| format!("10.{network}.0.{wish}"))})
        }
        Spec::Route { at, destination, metric, way } => {
            let nowhere = |kind: &u8| ["blackhole", "unreachable", "prohibit"][usize::from(kind % 3)];
            let (kind, via) = match way {
                Way::Nowhere(kind) => (nowhere(kind), None),
                Way::Network(network, host) => ("unicast", Some(format!("10.{network}.0.{host}"))),
                Way::Cable(subnet) => ("unicast", Some(format!("10.{}.0.202", cable_net(*subnet)))),
            };
            json!({"namespace": place(*at), "destination": format!("172.16.{destination}.0/24"),
                "metric": metric, "type": kind, "via": via})
        }
        Spec::Link { ends, subnet, v6, mtu } => {
            let end = |which: usize| {
                let (side, host) = (["a", "b"][which], 201 + which);
                let mut addresses = vec![format!("10.{}.0.{host}/24", cable_net(*subnet))];
                addresses.extend(v6.then(|| format!("fd00:{}::{host}/64", 100 + subnet)));
                json!({"namespace": place(ends[which]), "interface": format!("c{side}{}", number % 2),
                    "addresses": addresses})
            };
            json!({"ends": [end(0), end(1)], "mtu": mtu})
        }
        Spec::Policy { select, on, from, labelled, out } => {
            let network = |number: u8| name((Kind::Network, number));
            let peers =
                json!([{"network": network(*from).as_str()}, {"labels": {"v": labelled.to_string()}}]);
            json!({
                "selector": {"labels": {"v": select.map(|label| label.to_string())}, "network": on.map(network)},
                "directions": out.then(|| json!(["ingress", "egress"])), "ingress": [{"peers": peers}]})
        }
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let some = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(some.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        other => other,
    }
}

impl Draft {
    fn any(&self) -> AnyDraft {
        AnyDraft::from_json(without_nulls(self.json()), &Path::root()).unwrap()
    }
}

impl Call {
    /// As the controller takes it; `etag` says which version of an object is meant.
    pub(super) fn changes(&self, etag: impl Fn(Id, Tag) -> Option<Etag>) -> (Vec<Change>, Terms) {
        match self {
            Call::Create(draft) => (vec![Change::Create(draft.any())], Terms::default()),
            Call::Patch { draft, tag, allow_missing } => {
                let mut fields = draft.json();
                let fields = fields.as_object_mut().unwrap();
                fields.remove("kind");
                // A union is replaced whole, and so are the directions of a bandwidth.
                let mut first = json!({"spec": {}});
                if draft.spec.kind() == Kind::Attachment {
                    first["spec"]["bandwidth"] = Value::Null;
                }
                let patch = Patch {
                    kind: draft.id().0,
                    name: name(draft.id()),
                    patches: vec![first, Value::Object(fields.clone())],
                    etag: etag(draft.id(), *tag),
                    allow_missing: *allow_missing,
                };
                (vec![Change::Patch(patch)], Terms::default())
            }
            Call::Delete { id, tag, force, allow_missing } => {
                let (force, allow_missing) = (*force, *allow_missing);
                let delete =
                    Delete { kind: id.0, name: name(*id), etag: etag(*id, *tag), force, allow_missing };
                (vec![Change::Delete(delete)], Terms::default())
            }
            Call::Apply { drafts, owner, prune, take } => {
                let owner = owner.map(|owner| format!("owner{owner}").parse().unwrap());
                let terms = Terms { owner, prune: *prune, take_ownership: *take, ..Terms::default() };
                (drafts.iter().map(|draft| Change::Put(draft.any())).collect(), terms)
            }
        }
    }
}

/// A call, and nothing beside it.
pub(super) fn undisturbed() -> BoxedStrategy<Happening> {
    call().prop_map(|call| Happening::Call(call, Trouble::Nothing)).boxed()
}

/// Any happening; calls most of the time.
pub(super) fn happening() -> BoxedStrategy<Happening> {
    let trouble = prop_oneof![
        6 => Just(Trouble::Nothing),
        1 => (0_u8..12).prop_map(Trouble::Refused),
        1 => (0_u8..12).prop_map(Trouble::Crash),
    ];
    let loot = prop_oneof![
        Just(Loot::Link),
        Just(Loot::Up),
        Just(Loot::Address),
        Just(Loot::Route),
        Just(Loot::Namespace),
        Just(Loot::Rule),
    ];
    let noticed =
        prop_oneof![2 => Just(Noticed::Told), 2 => Just(Noticed::Compared), 1 => Just(Noticed::Not)];
    let addition = prop_oneof![Just(Addition::LinkInside), Just(Addition::Address)];
    prop_oneof![
        20 => (call(), trouble).prop_map(|(call, trouble)| Happening::Call(call, trouble)),
        4 => (loot, any::<u16>(), noticed).prop_map(|(loot, which, noticed)| Happening::Drift(loot, which, noticed)),
        2 => (addition, 0_u8..3).prop_map(|(addition, which)| Happening::Stranger(addition, which)),
        1 => Just(Happening::Restart),
        1 => Just(Happening::Reboot),
        1 => Just(Happening::FullPass),
    ]
    .boxed()
}

/// A call that makes something to begin with.
pub(super) fn beginning() -> BoxedStrategy<Happening> {
    let of = |kinds: &'static [Kind]| draft_of(kinds);
    let namespaces = prop::collection::vec(of(&[Kind::Namespace]), 2..4);
    let networks = prop::collection::vec(of(&[Kind::Network]), 1..3);
    let rest = prop::collection::vec(of(&[Kind::Attachment, Kind::PortForward, Kind::Link]), 0..4);
    (namespaces, networks, rest)
        .prop_map(|(namespaces, networks, rest)| {
            let drafts = once_each(namespaces.into_iter().chain(networks).chain(rest).collect(), None);
            Happening::Call(Call::Apply { drafts, owner: None, prune: false, take: false }, Trouble::Nothing)
        })
        .boxed()
}

/// No object is named twice in a set; and whose the set is.
fn once_each(mut drafts: Vec<Draft>, owner: Option<u8>) -> Vec<Draft> {
    let mut seen = std::collections::BTreeSet::new();
    drafts.retain(|draft| seen.insert(draft.id()));
    drafts.iter_mut().for_each(|draft| draft.owner = owner);
    drafts
}

fn call() -> BoxedStrategy<Call> {
    let tag = || prop_oneof![6 => Just(Tag::Any), 2 => Just(Tag::Current), 1 => Just(Tag::Old)];
    let often = || prop::bool::weighted(0.3);
    let object = || draft_of(&ALL);
    let create = object().prop_map(Call::Create);
    let patch = (object(), tag(), often()).prop_map(|(draft, tag, allow_missing)| Call::Patch {
        draft,
        tag,
        allow_missing,
    });
    let delete = (object(), tag(), often(), often()).prop_map(|(draft, tag, force, allow_missing)| {
        Call::Delete { id: draft.id(), tag, force, allow_missing }
    });
    let owner = prop::option::of(0_u8..2);
    let drafts = prop::collection::vec(object(), 1..6);
    let apply = (drafts, owner, any::<bool>(), often()).prop_map(|(drafts, owner, prune, take)| {
        let drafts = once_each(drafts, owner);
        Call::Apply { drafts, owner, prune: prune && owner.is_some(), take }
    });
    prop_oneof![5 => create, 4 => patch, 3 => delete, 3 => apply].boxed()
}

const ALL: [Kind; 13] = [
    Kind::Namespace,
    Kind::Network,
    Kind::Attachment,
    Kind::Attachment,
    Kind::Attachment,
    Kind::PortForward,
    Kind::Reservation,
    Kind::Route,
    Kind::Route,
    Kind::Link,
    Kind::Link,
    Kind::Policy,
    Kind::Policy,
];

fn draft_of(kinds: &'static [Kind]) -> BoxedStrategy<Draft> {
    let spec = prop::sample::select(kinds).prop_flat_map(spec_of);
    (spec, 0_u8..3).prop_map(|((number, spec), label)| Draft { number, label, owner: None, spec }).boxed()
}

fn spec_of(kind: Kind) -> BoxedStrategy<(u8, Spec)> {
    let wish = || prop_oneof![2 => Just(None), 1 => (0_u8..8).prop_map(Some)];
    let mtu =
        |one: u16, other: u16| prop_oneof![2 => Just(None), 1 => Just(Some(one)), 1 => Just(Some(other))];
    let any = any::<bool>;
    match kind {
        Kind::Namespace => (0..NAMESPACES).prop_map(|number| (number, Spec::Namespace)).boxed(),
        Kind::Network => {
            // Whether it has IPv6 cannot change, so that is mostly as the number says.
            let v6 = prop::bool::weighted(0.1);
            let guard = prop::bool::weighted(0.8);
            (0..NETWORKS, v6, 0_u8..3, any(), any(), mtu(1400, 1350), guard)
                .prop_map(|(number, other, egress, members, networks, mtu, guard)| {
                    let v6 = (number == 1) != other;
                    (number, Spec::Network { v6, egress, members, networks, mtu, guard })
                })
                .boxed()
        }
        Kind::Attachment => {
            // Likewise where it is.
            let (moved, metric) = (prop::bool::weighted(0.1), prop::option::weighted(0.3, 100_u32..103));
            let default_route = prop::option::of(any());
            (0..ATTACHMENTS, moved, wish(), default_route, metric, mtu(1400, 1300), 0_u8..4)
                .prop_map(|(number, moved, wish, default_route, metric, mtu, limits)| {
                    let (namespace, network) =
                        ((number + u8::from(moved)) % NAMESPACES, number / 2 % NETWORKS);
                    let spec =
                        Spec::Attachment { namespace, network, wish, default_route, metric, mtu, limits };
                    (number, spec)
                })
                .boxed()
        }
        Kind::PortForward => (0..FORWARDS, any(), 0_u8..3, 0_u8..2, any(), any(), 0..ATTACHMENTS)
            .prop_map(|(number, udp, port, more, loopback, shifted, target)| {
                (number, Spec::PortForward { udp, port, more, loopback, shifted, target })
            })
            .boxed(),
        Kind::Reservation => (0..RESERVATIONS, 0..NETWORKS, wish())
            .prop_map(|(number, network, wish)| (number, Spec::Reservation { network, wish }))
            .boxed(),
        Kind::Route => {
            let way = prop_oneof![
                1 => (0_u8..3).prop_map(Way::Nowhere),
                3 => (0..NETWORKS, prop_oneof![Just(1_u8), Just(3), Just(6)])
                    .prop_map(|(network, host)| Way::Network(network, host)),
                2 => (0_u8..3).prop_map(Way::Cable),
            ];
            (0..ROUTES, 0..=HOST, 0_u8..2, 1_u8..3, way)
                .prop_map(|(number, at, destination, metric, way)| {
                    (number, Spec::Route { at, destination, metric, way })
                })
                .boxed()
        }
        Kind::Policy => {
            let selector = (prop::option::weighted(0.8, 0_u8..3), prop::option::weighted(0.4, 0..NETWORKS));
            (0..POLICIES, selector, 0..NETWORKS, 0_u8..3, any())
                .prop_map(|(number, (select, on), from, labelled, out)| {
                    (number, Spec::Policy { select, on, from, labelled, out })
                })
                .boxed()
        }
        Kind::Link => {
            let moved = prop::bool::weighted(0.1);
            (0..LINKS, 0..=HOST, moved, 0_u8..3, any(), mtu(1400, 1300))
                .prop_map(|(number, other, moved, subnet, v6, mtu)| {
                    let ends = [number, if moved { other } else { (number + 1) % (HOST + 1) }];
                    (number, Spec::Link { ends, subnet, v6, mtu })
                })
                .boxed()
        }
    }
}
