//! What holds of every plan, tried on worlds made at random.

use std::{collections::BTreeMap, sync::Arc};

use netloom_api::{
    AnyDraft, Attachment, AttachmentSpec, Bandwidth, Draft, Egress, Isolation, Kind, Link, Listen, Name,
    Namespace, NamespaceSpec, NatEgress, Network, NetworkSpec, NoOptions, PortForward, PortForwardSpec,
    Protocol, RateLimit, Route, Subnet, Target, Timestamp,
};
use proptest::prelude::*;

use super::plan;
use crate::{
    controller::{Change, edit_for_tests},
    hostnet::{Features, HostNet, Mark, Sysctl, rules::Skeleton},
    want::{HostFacts, Surroundings, close, everything, scope_of, want},
    world::{Adoption, AnyStored, World},
};

/// A small world: which networks have what, who is attached where, and what is published.
#[derive(Clone, Debug)]
struct Recipe {
    namespaces: usize,
    networks: Vec<(u8, bool, bool)>,
    attachments: Vec<(usize, usize, bool, u8, u64)>,
    forwards: Vec<(u16, usize, u16)>,
    /// Namespace, or the host; destination; metric; the network whose gateway it goes through, or nowhere.
    routes: Vec<(usize, u8, u32, usize)>,
    /// Where its ends are, which address they have, and whether there is IPv6.
    links: Vec<(usize, usize, u8, bool)>,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let networks = prop::collection::vec((0_u8..3, any::<bool>(), any::<bool>()), 1..4);
    let attached = (0_usize..4, 0_usize..3, any::<bool>(), 0_u8..3, 0_u64..6);
    let attachments = prop::collection::vec(attached, 0..7);
    let forwards = prop::collection::vec((1_u16..5, 0_usize..7, 0_u16..3), 0..4);
    let routes = prop::collection::vec((0_usize..4, 0_u8..3, 1_u32..3, 0_usize..6), 0..6);
    let links = prop::collection::vec((0_usize..4, 0_usize..4, 0_u8..3, any::<bool>()), 0..4);
    (1_usize..4, networks, attachments, forwards, routes, links).prop_map(
        |(namespaces, networks, attachments, forwards, routes, links)| Recipe {
            namespaces,
            networks,
            attachments,
            forwards,
            routes,
            links,
        },
    )
}

fn name(text: String) -> Name {
    text.parse().unwrap()
}

fn draft<N: netloom_api::Noun>(of: String, spec: N::Spec) -> Draft<N> {
    Draft {
        name: name(of),
        labels: BTreeMap::new().try_into().unwrap(),
        annotations: BTreeMap::new().try_into().unwrap(),
        owner: None,
        spec,
    }
}

fn world(recipe: &Recipe, before: &World) -> World {
    let mut drafts: Vec<AnyDraft> = Vec::new();
    drafts.extend(
        (0..recipe.namespaces).map(|n| draft::<Namespace>(format!("ns{n}"), NamespaceSpec::default()).into()),
    );
    for (n, (egress, members, ipv6)) in recipe.networks.iter().enumerate() {
        let subnet = |cidr: String| Subnet { cidr: Some(cidr.parse().unwrap()), ..Subnet::default() };
        let mut subnets = vec![subnet(format!("10.{n}.0.0/24"))];
        if *ipv6 {
            subnets.push(subnet(format!("fd00:{n}::/64")));
        }
        let egress = match egress {
            0 => Egress::None(NoOptions {}),
            1 => Egress::Nat(NatEgress::default()),
            _ => Egress::Routed(NoOptions {}),
        };
        let isolation = Isolation { members: Some(*members), ..Isolation::default() };
        let spec = NetworkSpec {
            subnets,
            egress: Some(egress),
            isolation: Some(isolation),
            ..NetworkSpec::default()
        };
        // The subnets of a network cannot change; one of another shape has another name.
        drafts.push(draft::<Network>(format!("net{n}-{}", u8::from(*ipv6)), spec).into());
    }
    for (n, (namespace, network, default_route, wish, limits)) in recipe.attachments.iter().enumerate() {
        let network = network % recipe.networks.len();
        let spec = AttachmentSpec {
            namespace: name(format!("ns{}", namespace % recipe.namespaces)),
            network: name(format!("net{network}-{}", u8::from(recipe.networks[network].2))),
            // None, one, or another one, which no other attachment wishes for in any world.
            addresses: (*wish > 0)
                .then(|| 16 + 64 * (namespace % recipe.namespaces) + 4 * n + usize::from(*wish))
                .map(|host| format!("10.{network}.0.{host}").parse().unwrap())
                .into_iter()
                .collect(),
            mac: None,
            interface: None,
            default_route: Some(*default_route),
            metric: None,
            mtu: None,
            bandwidth: Some(Bandwidth {
                ingress: limits.is_multiple_of(2).then_some(RateLimit { rate: 8_000 << limits, burst: None }),
                egress: (limits % 3 > 0).then_some(RateLimit { rate: 800_000 << limits, burst: None }),
            }),
        };
        let of = format!("att{n}-{}-{}", spec.namespace, spec.network);
        drafts.push(draft::<Attachment>(of, spec).into());
    }
    let targets: Vec<Name> =
        drafts.iter().filter(|one| one.kind() == Kind::Attachment).map(|one| one.name().clone()).collect();
    for (n, (port, target, range)) in recipe.forwards.iter().enumerate() {
        let port = u16::try_from(n).unwrap() * 100 + port;
        let spec = PortForwardSpec {
            protocol: if range % 2 == 0 { Protocol::Tcp } else { Protocol::Udp },
            listen: Listen { address: None, port, end_port: (*range > 0).then(|| port + range) },
            target: Target {
                attachment: targets.get(*target).cloned().unwrap_or_else(|| name("nobody".into())),
                port: (*range == 2).then_some(8000),
            },
            sources: if *range == 1 { vec!["10.0.0.0/8".parse().unwrap()] } else { Vec::new() },
        };
        drafts.push(draft::<PortForward>(format!("fwd{n}-{port}-{range}"), spec).into());
    }
    let routes = routes(recipe, &drafts);
    drafts.extend(routes);
    drafts.extend(recipe.links.iter().enumerate().map(|(n, link)| cable(recipe, n, link)));
    edit_for_tests(before, drafts.into_iter().map(Change::Put).collect(), Timestamp::from_micros(0))
}

/// A cable, whose name says where its ends are, since that cannot change.
fn cable(recipe: &Recipe, n: usize, (one, other, host, ipv6): &(usize, usize, u8, bool)) -> AnyDraft {
    let place = |at: usize| if at == 3 { 3 } else { at % recipe.namespaces };
    let id = 16 * n + 4 * place(*one) + place(*other);
    let end = |at: usize, which: char, number: u8| {
        let namespace = if place(at) == 3 { "host".to_owned() } else { format!("ns{}", place(at)) };
        let mut addresses = vec![format!("10.{}.{host}.{number}/24", 100 + id)];
        addresses.extend(ipv6.then(|| format!("fd00:{}:{host}::{number}/64", 100 + id)));
        // Two ends in one place share no subnet.
        addresses.retain(|_| which == 'a' || place(*one) != place(*other));
        serde_json::json!({"namespace": namespace, "interface": format!("ln{id}{which}"), "addresses": addresses})
    };
    let spec =
        serde_json::json!({"ends": [end(*one, 'a', 1), end(*other, 'b', 2)], "mtu": 1400 + u16::from(*host)});
    draft::<Link>(format!("link{id}"), serde_json::from_value(spec).unwrap()).into()
}

/// Routes that the controller lets be: in places of their own, through networks that their namespace is on.
fn routes(recipe: &Recipe, drafts: &[AnyDraft]) -> Vec<AnyDraft> {
    let is_on = |namespace: &str, network: usize| {
        drafts.iter().any(|draft| match draft {
            AnyDraft::Attachment(one) => {
                one.spec.namespace.as_str() == namespace
                    && one.spec.network.as_str().starts_with(&format!("net{network}-"))
            }
            _ => false,
        })
    };
    let mut places = std::collections::BTreeSet::new();
    let mut all = Vec::new();
    for (namespace, destination, metric, through) in &recipe.routes {
        let namespace = match namespace {
            3 => "host".to_owned(),
            n => format!("ns{}", n % recipe.namespaces),
        };
        if !places.insert((namespace.clone(), *destination, *metric)) {
            continue;
        }
        let mut spec = serde_json::json!({"namespace": namespace, "destination": format!("172.{destination}.0.0/16"),
            "metric": metric});
        match through {
            network
                if *network < recipe.networks.len()
                    && (namespace == "host" || is_on(&namespace, *network)) =>
            {
                spec["via"] = format!("10.{network}.0.99").into();
            }
            network => spec["type"] = ["blackhole", "unreachable", "prohibit"][network % 3].into(),
        }
        let of = format!("route-{namespace}-{destination}-{metric}");
        all.push(draft::<Route>(of, serde_json::from_value(spec).unwrap()).into());
    }
    all
}

fn surroundings() -> Surroundings {
    let features = Features { ipv6: true, force_forwarding: true, sctp: true };
    Surroundings { features, manages_forwarding: true, api_ports: vec![8443], facts: HostFacts::default() }
}

fn wanted(world: &World) -> HostNet {
    want(world, &everything(world), &surroundings())
}

/// `ns0` as an adopted namespace with a setting that it had otherwise before.
fn adopted(world: &World, set: &[(&str, &str)], dying: bool) -> World {
    let mut object = (**world.get::<Namespace>(&name("ns0".into())).unwrap()).clone();
    let settings = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    object.spec.sysctls = settings.collect::<BTreeMap<_, _>>().try_into().unwrap();
    let before = [
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.conf.all.rp_filter", "2"),
        ("net.ipv4.conf.eth0.rp_filter", "2"),
    ];
    object.alloc.before = before.map(|(key, value)| (key.parse().unwrap(), value.to_owned())).into();
    object.alloc.adopted = Some(Adoption { boot: "b".into(), cookie: 7, inode: 1, path: None });
    object.meta.delete_time = dying.then(|| Timestamp::from_micros(1));
    let mut world = world.clone();
    world.put(AnyStored::Namespace(Arc::new(object)));
    world
}

#[test]
fn an_adopted_namespace_is_set_up_once_and_let_go_as_it_was() {
    let recipe = Recipe {
        namespaces: 1,
        networks: vec![],
        attachments: vec![],
        forwards: vec![],
        routes: vec![],
        links: vec![],
    };
    let plain = world(&recipe, &World::default());
    let settings = [
        ("net.ipv4.conf.all.rp_filter", "1"),
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.eth0.rp_filter", "1"),
    ];
    let lines = |have: &HostNet, world: &World| -> Vec<String> {
        let lines = plan(have, &wanted(world)).steps.into_iter().map(|step| step.to_string());
        // The daemon's own port is the host's.
        lines.filter(|line| !line.starts_with("nft")).collect()
    };
    let living = adopted(&plain, &settings, false);
    let set = |key: &str, value: &str| format!("ip netns exec ns0 sysctl -w net.ipv4.{key}={value}");
    let made = lines(&bare(), &living);
    assert_eq!(
        made,
        [
            "adopt ns0 (netns cookie 7)".to_owned(),
            // It writes the others.
            set("ip_forward", "1"),
            set("conf.all.rp_filter", "1"),
            set("conf.eth0.rp_filter", "1"),
        ]
    );
    let have = after(bare(), &wanted(&living));
    assert_eq!(have, wanted(&living));
    let fewer = adopted(&plain, &settings[1..], false);
    assert_eq!(lines(&have, &fewer), [set("conf.all.rp_filter", "2")]);
    let left = lines(&have, &adopted(&plain, &settings, true));
    assert_eq!(
        left,
        [
            set("ip_forward", "0"),
            set("conf.all.rp_filter", "2"),
            set("conf.eth0.rp_filter", "2"),
            "release ns0".to_owned(),
        ]
    );
}

fn bare() -> HostNet {
    let mut net = HostNet::default();
    net.rules.skeleton = Skeleton::Present;
    net
}

/// Lines of the host, without switches that only say what is so anyway once a link is gone.
fn after(mut have: HostNet, want: &HostNet) -> HostNet {
    for step in plan(&have, want).steps {
        have.apply(&step);
    }
    have.sysctls.retain(|(_, sysctl), _| !matches!(sysctl, Sysctl::PromoteSecondaries(_)));
    have
}

#[test]
fn work_on_a_forward_meets_work_on_its_attachment_and_that_meets_work_on_its_network() {
    let recipe = Recipe {
        namespaces: 2,
        networks: vec![(0, false, false); 2],
        attachments: vec![(0, 0, false, 0, 0), (1, 1, false, 0, 0)],
        forwards: vec![(1, 0, 0)],
        routes: vec![],
        links: vec![],
    };
    let world = world(&recipe, &World::default());
    let of = |kind: Kind, which: usize| {
        let object = world.all_of(kind).swap_remove(which);
        scope_of(&world, kind, &object.meta().name)
    };
    let forward = of(Kind::PortForward, 0);
    assert!(forward.meets(&of(Kind::Attachment, 0)) && of(Kind::Attachment, 0).meets(&forward));
    assert!(!forward.meets(&of(Kind::Attachment, 1)));
    // What was made beside the network is not among what work on the network is about.
    let mut network = of(Kind::Network, 0);
    network.attachments.clear();
    assert!(network.meets(&of(Kind::Attachment, 0)) && !network.meets(&of(Kind::Attachment, 1)));
    assert!(!of(Kind::Attachment, 0).meets(&of(Kind::Attachment, 1)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn applying_the_plan_to_what_we_have_gives_what_we_want(one in recipe(), other in recipe()) {
        let first = world(&one, &World::default());
        let have = after(bare(), &wanted(&first));
        prop_assert_eq!(have.to_string(), wanted(&first).to_string());
        let second = world(&other, &World::default());
        let have = after(have, &wanted(&second));
        prop_assert_eq!(have.to_string(), wanted(&second).to_string());
        let have = after(have, &bare());
        prop_assert_eq!(have.to_string(), bare().to_string());
    }

    #[test]
    fn what_lives_changes_into_what_we_want(one in recipe(), mut other in recipe()) {
        let first = world(&one, &World::default());
        // What cannot change stays: the subnets of a network, and what a port leads to.
        other.forwards.clear();
        for (new, old) in other.networks.iter_mut().zip(&one.networks) {
            new.2 = old.2;
        }
        let second = world(&other, &first);
        let have = after(after(bare(), &wanted(&first)), &wanted(&second));
        prop_assert_eq!(have.to_string(), wanted(&second).to_string());
    }

    #[test]
    fn a_plan_from_a_host_to_itself_is_empty(one in recipe()) {
        let net = wanted(&world(&one, &World::default()));
        prop_assert!(plan(&net, &net).is_empty());
    }

    #[test]
    fn what_is_not_ours_is_never_touched(one in recipe()) {
        let mut have = wanted(&world(&one, &World::default()));
        have.links.values_mut().for_each(|link| link.mark = Mark::Foreign);
        have.addresses.values_mut().for_each(|mark| *mark = Mark::Foreign);
        have.routes.values_mut().for_each(|mark| *mark = Mark::Foreign);
        have.namespaces.values_mut().for_each(|mark| *mark = Mark::Foreign);
        have.rules = bare().rules;
        prop_assert!(plan(&have, &bare()).is_empty());
    }

    #[test]
    fn scopes_of_single_changes_add_up_to_the_whole(one in recipe()) {
        let empty = World::default();
        let full = world(&one, &empty);
        let mut have = bare();
        let all = everything(&full);
        let objects = all.namespaces.iter().map(|name| (Kind::Namespace, name))
            .chain(all.networks.iter().map(|name| (Kind::Network, name)))
            .chain(all.attachments.iter().map(|name| (Kind::Attachment, name)))
            .chain(all.port_forwards.iter().map(|name| (Kind::PortForward, name)))
            .chain(all.routes.iter().map(|name| (Kind::Route, name)))
            .chain(all.links.iter().map(|name| (Kind::Link, name)))
            .chain(all.policies.iter().map(|name| (Kind::Policy, name)));
        let mut seen = World::default();
        for (kind, name) in objects {
            let old = seen.clone();
            seen.put(full.get_any(kind, name).unwrap());
            let mut scope = scope_of(&old, kind, name);
            scope.join(scope_of(&seen, kind, name));
            close(&mut scope, &old, &seen);
            let steps = plan(&want(&old, &scope, &surroundings()), &want(&seen, &scope, &surroundings())).steps;
            steps.iter().for_each(|step| have.apply(step));
        }
        let mut want = want(&full, &{ let mut all = all.clone(); all.host = false; all }, &surroundings());
        want.rules.skeleton = Skeleton::Present;
        prop_assert_eq!(have.to_string(), want.to_string());
    }
}
