//! A whole small network on the real kernel: made, observed, nothing left to do, removed without a trace.

use std::{
    collections::BTreeMap,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage},
};
use netloom_api::{
    AnyDraft, Attachment, AttachmentSpec, BridgeKind, Draft, Egress, IfName, Labels, Namespace,
    NamespaceSpec, NatEgress, Network, NetworkKind, NetworkSpec, Subnet, Timestamp,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::Kernel;
use crate::{
    controller::{Change, edit_for_tests},
    hostnet::{
        Action, Address, Facts, Failure, FailureSort, Features, HostNet, LINK_GROUP, LinkChange, Mark,
        Outcome, Route, Stack, Step, Way,
    },
    kernel::{
        netns::{self, Namespaces},
        probe,
        socket::{RouteSocket, create, request},
        testhost::on_private_host,
        thread,
    },
    plan::{Plan, plan},
    reconcile::Host,
    want::{HostFacts, Surroundings, everything, want},
    world::World,
};

fn draft<N: netloom_api::Noun>(name: &str, spec: N::Spec) -> Draft<N> {
    let labels: Labels = BTreeMap::new().try_into().unwrap();
    Draft { name: name.parse().unwrap(), labels, annotations: Default::default(), owner: None, spec }
}

pub(super) fn red_and_v_net() -> World {
    world_of(vec![("192.168.15.0/24", Some("192.168.15.5")), ("fd00:15::/64", None)], None)
}

fn world_of(subnets: Vec<(&str, Option<&str>)>, mtu: Option<u16>) -> World {
    let subnet = |cidr: &str, gateway: Option<&str>| Subnet {
        cidr: Some(cidr.parse().unwrap()),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        ranges: vec![],
    };
    let network = NetworkSpec {
        subnets: subnets.into_iter().map(|(cidr, gateway)| subnet(cidr, gateway)).collect(),
        kind: Some(NetworkKind::Bridge(BridgeKind {
            device: Some("v-net-0".parse().unwrap()),
            existing: None,
        })),
        mtu,
        egress: Some(Egress::Nat(NatEgress::default())),
        ..NetworkSpec::default()
    };
    let attachment = AttachmentSpec {
        namespace: "red".parse().unwrap(),
        network: "v-net-0".parse().unwrap(),
        addresses: vec!["192.168.15.1".parse().unwrap()],
        mac: None,
        interface: None,
        default_route: None,
        metric: None,
        mtu: None,
        bandwidth: None,
    };
    let drafts: Vec<AnyDraft> = vec![
        draft::<Namespace>("red", NamespaceSpec::default()).into(),
        draft::<Network>("v-net-0", network).into(),
        draft::<Attachment>("red0", attachment).into(),
    ];
    edit_for_tests(&World::default(), drafts.into_iter().map(Change::Put).collect(), Timestamp::now())
}

fn surroundings(features: Features) -> Surroundings {
    Surroundings { features, manages_forwarding: true, api_ports: vec![], facts: HostFacts::default() }
}

/// All that the world wants of this kernel.
fn all_of(world: &World, kernel: &Kernel) -> HostNet {
    want(world, &everything(world), &surroundings(kernel.features()))
}

/// Makes the host as the world wants it.
pub(super) fn build(kernel: &Kernel, world: &World) -> HostNet {
    let wanted = all_of(world, kernel);
    all_done(&kernel.apply(&plan(&kernel.observe().unwrap(), &wanted).steps));
    wanted
}

#[track_caller]
fn nothing_to_do(kernel: &Kernel, wanted: &HostNet) {
    let Plan { steps, conflicts } = plan(&kernel.observe().unwrap(), wanted);
    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert!(steps.is_empty() && conflicts.is_empty(), "{steps:#?} {conflicts:#?}");
}

#[track_caller]
fn all_done(outcomes: &[Outcome]) {
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Done(_))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

fn failures(outcomes: &[Outcome]) -> Vec<(FailureSort, String)> {
    let failed = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Failed(Failure { sort, message, errno: _ }) => Some((*sort, message.clone())),
        Outcome::Done(_) | Outcome::Skipped => None,
    });
    failed.collect()
}

/// As a person with `ip` would.
fn by_hand(messages: Vec<RouteNetlinkMessage>) {
    let results = RouteSocket::open().unwrap().batch(messages.into_iter().map(create).collect()).unwrap();
    results.into_iter().for_each(|result| result.unwrap());
}

fn bridge_by_hand(name: &str) -> RouteNetlinkMessage {
    let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge);
    RouteNetlinkMessage::NewLink(builder.name(name).build())
}

fn v4_route(net: &HostNet) -> Route {
    net.routes.keys().find(|route| route.destination.addr().is_ipv4()).unwrap().clone()
}

fn red() -> (Stack, IfName) {
    (Stack::Namespace("red".parse().unwrap()), "eth0".parse().unwrap())
}

#[test]
fn what_was_planned_is_what_is_observed_and_it_goes_without_a_trace() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap();
        let wanted = build(&kernel, &red_and_v_net());

        let own = netns::own().unwrap();
        for address in ["192.168.15.1", "fd00:15::2"] {
            let answer = probe::ping(&own, address.parse().unwrap(), Duration::from_secs(2)).unwrap();
            assert!(answer.reached(), "{address}: {answer:?}");
        }
        nothing_to_do(&kernel, &wanted);

        let mut nothing = HostNet::default();
        nothing.rules.skeleton = crate::hostnet::rules::Skeleton::Present;
        all_done(&kernel.apply(&plan(&kernel.observe().unwrap(), &nothing).steps));
        kernel.purge(false).unwrap();
        let after = kernel.observe().unwrap();
        assert_eq!(before.to_string(), after.to_string());
    });
}

#[test]
fn a_bridge_keeps_its_mtu_whatever_its_ports_have_and_when_its_last_one_goes() {
    keeps_its_mtu(Some(1400));
}

#[test]
fn a_bridge_keeps_the_usual_mtu_whatever_its_ports_have_and_when_its_last_one_goes() {
    keeps_its_mtu(None);
}

fn keeps_its_mtu(mtu: Option<u16>) {
    on_private_host(move || {
        let kernel = Kernel::open().unwrap();
        let wanted = build(&kernel, &world_of(vec![("192.168.15.0/24", Some("192.168.15.5"))], mtu));
        let on_host = |name: &IfName| (Stack::Host, name.clone());
        let is_port = |link: &IfName| wanted.links[&on_host(link)].master.is_some();
        let mut of_host = wanted.links.keys().filter(|(stack, _)| *stack == Stack::Host);
        let (_, port) = of_host.find(|(_, link)| is_port(link)).unwrap();
        let kept = || kernel.observe().unwrap().links[&on_host(&"v-net-0".parse().unwrap())].mtu;
        let (stack, link) = on_host(port);
        let change = LinkChange { mtu: Some(1300), ..LinkChange::default() };
        let narrower = Action::SetLink { stack: stack.clone(), link: link.clone(), change };
        for action in [narrower, Action::DeleteLink { stack, link }] {
            all_done(&kernel.apply(&[Step::of_host(action)]));
            assert_eq!(kept(), u32::from(mtu.unwrap_or(1500)));
        }
    });
}

#[test]
fn a_stranger_s_bridge_of_the_wanted_name_is_in_the_way_and_stays_as_it_is() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        by_hand(vec![bridge_by_hand("v-net-0")]);
        let before = RouteSocket::open().unwrap().link_by_name("v-net-0").unwrap();
        let wanted = all_of(&red_and_v_net(), &kernel);

        // Who has looked knows of the conflict.
        let planned = plan(&kernel.observe().unwrap(), &wanted);
        assert_eq!(planned.conflicts.len(), 1, "{:#?}", planned.conflicts);
        let failed = failures(&kernel.apply(&planned.steps));
        assert_eq!(failed[0].0, FailureSort::Conflict, "{failed:#?}");
        assert_eq!(failed.len(), 1, "what comes behind is skipped: {failed:#?}");

        // Who has not looked is told to.
        let blind = kernel.apply(&plan(&HostNet::default(), &wanted).steps);
        assert_eq!(failures(&blind)[0].0, FailureSort::Surprise);

        assert_eq!(RouteSocket::open().unwrap().link_by_name("v-net-0").unwrap(), before);
        assert!(kernel.purge(false).unwrap().iter().all(|line| !line.contains("v-net-0")));
        assert!(RouteSocket::open().unwrap().link_by_name("v-net-0").unwrap().is_some());
    });
}

#[test]
fn a_stranger_s_namespace_of_the_wanted_name_gets_nothing_and_stays() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let theirs = Namespaces::default().create("red").unwrap();
        let wanted = all_of(&red_and_v_net(), &kernel);
        let failed = failures(&kernel.apply(&plan(&HostNet::default(), &wanted).steps));
        // The namespace and the attachment; the network has nothing to do with it.
        assert_eq!(failed.len(), 2, "{failed:#?}");
        assert!(failed.iter().all(|(sort, _)| *sort == FailureSort::Conflict), "{failed:#?}");
        let inside =
            || RouteSocket::open().unwrap().dump(RouteNetlinkMessage::GetLink(LinkMessage::default()));
        let links = thread::run(&theirs.fd, "theirs", inside).unwrap().unwrap();
        assert_eq!(links.len(), 1, "only loopback");

        let uid = "018f5b1e-0000-7000-8000-000000000001".parse().unwrap();
        let delete = Action::DeleteNamespace { name: "red".parse().unwrap() };
        all_done(&kernel.apply(&[Step::of(uid, delete)]));
        let still = Namespaces::default().open("red").and_then(netns::cookie).unwrap();
        assert_eq!(still, theirs.cookie);
    });
}

#[test]
fn the_file_that_a_crash_leaves_is_no_obstacle() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        std::fs::create_dir_all("/run/netns").unwrap();
        std::fs::write("/run/netns/red", "").unwrap();
        let wanted = build(&kernel, &red_and_v_net());
        nothing_to_do(&kernel, &wanted);
        // What is there already is found, with its cookie.
        let create = plan(&HostNet::default(), &wanted).steps;
        let create = create.iter().find(|step| matches!(step.action, Action::CreateNamespace { .. }));
        let again = kernel.apply(&[create.unwrap().clone()]);
        let cookie = Namespaces::default().open("red").and_then(netns::cookie).unwrap();
        assert_eq!(again, [Outcome::Done(Facts { cookie: Some(cookie), ..Facts::default() })]);
    });
}

#[test]
fn a_cable_of_somebody_s_own_between_namespaces_is_not_taken_for_ours() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let wanted = build(&kernel, &red_and_v_net());
        // A pair inside of red whose indices are those of our pair, the other way round or not.
        let red = Namespaces::default().open("red").unwrap();
        let blue = Namespaces::default().create("blue").unwrap();
        for number in 0..8 {
            let mut peer = LinkMessage::default();
            peer.attributes.push(LinkAttribute::IfName(format!("theirs{number}")));
            peer.attributes.push(LinkAttribute::NetNsFd(blue.fd.as_raw_fd()));
            let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .name(format!("own{number}"))
                .build();
            thread::run(&red, "red", || by_hand(vec![RouteNetlinkMessage::NewLink(pair)])).unwrap();
        }
        nothing_to_do(&kernel, &wanted);
    });
}

#[test]
fn a_workload_that_takes_the_marks_off_its_interface_gets_them_back() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let wanted = build(&kernel, &red_and_v_net());
        let unmark =
            LinkMessageBuilder::<LinkUnspec>::new().name("eth0").alias("mine".to_owned()).link_group(0);
        let unmark = request(RouteNetlinkMessage::SetLink(unmark.build()));
        let inside = Namespaces::default().open("red").unwrap();
        thread::run(&inside, "red", || RouteSocket::open().unwrap().request_reply(unmark)).unwrap().unwrap();
        let seen = kernel.observe().unwrap();
        assert_eq!(seen.links[&red()].mark, Mark::Group);
        let steps = plan(&seen, &wanted).steps;
        assert_eq!(steps.len(), 1, "{steps:#?}");
        all_done(&kernel.apply(&steps));
        nothing_to_do(&kernel, &wanted);
    });
}

#[test]
fn a_small_mtu_leaves_no_ipv6_to_switch_off() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let wanted = build(&kernel, &world_of(vec![("192.168.15.0/24", Some("192.168.15.5"))], Some(600)));
        nothing_to_do(&kernel, &wanted);
    });
}

#[test]
fn an_equal_address_is_fine_and_another_route_in_the_place_of_ours_is_a_conflict() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let wanted = build(&kernel, &red_and_v_net());
        let (stack, link) = red();
        let uid = match wanted.links[&red()].mark {
            Mark::Object(uid) => uid,
            mark => panic!("{mark:?}"),
        };
        let address =
            Address { stack: stack.clone(), link: link.clone(), net: "192.168.15.1/24".parse().unwrap() };
        let route = v4_route(&wanted);
        let ours = [Action::AddAddress(address), Action::AddRoute(route.clone())];
        all_done(&kernel.apply(&ours.map(|action| Step::of(uid, action))));
        // A stranger's, in a place that ours may come to want.
        let theirs = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .gateway("192.168.15.77".parse().unwrap())
            .priority(7)
            .build();
        let inside = Namespaces::default().open("red").unwrap();
        thread::run(&inside, "red", || by_hand(vec![RouteNetlinkMessage::NewRoute(theirs)])).unwrap();
        let other = Step::of(uid, Action::AddRoute(Route { metric: 7, ..route }));
        let (device, _) = wanted.links.iter().find(|(_, link)| link.mark == Mark::Object(uid)).unwrap();
        // What comes behind a failure of the same object is skipped.
        let behind = Step::of(uid, Action::DeleteLink { stack: Stack::Host, link: device.1.clone() });
        let outcomes = kernel.apply(&[other, behind]);
        assert_eq!(failures(&outcomes)[0].0, FailureSort::Conflict);
        assert_eq!(outcomes[1], Outcome::Skipped);
        nothing_to_do(&kernel, &wanted);
    });
}

#[test]
fn the_kernel_s_own_words_arrive() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let wanted = build(&kernel, &red_and_v_net());
        let way = Way::Through { via: Some("10.99.0.1".parse().unwrap()), link: red().1 };
        let route = Route { metric: 7, way, ..v4_route(&wanted) };
        let failed = failures(&kernel.apply(&[Step::of_host(Action::AddRoute(route))]));
        assert!(failed[0].1.contains("Nexthop has invalid gateway"), "{failed:#?}");
        assert!(failed[0].1.contains("default via 10.99.0.1 dev eth0"), "{failed:#?}");
    });
}

#[test]
fn a_stranger_s_link_of_our_name_is_neither_deleted_nor_changed() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        by_hand(vec![bridge_by_hand("nl0000000001")]);
        let device: IfName = "nl0000000001".parse().unwrap();
        let change = LinkChange { up: Some(true), ..LinkChange::default() };
        let set = Action::SetLink { stack: Stack::Host, link: device.clone(), change };
        let outcomes = kernel.apply(&[
            Step::of_host(Action::DeleteLink { stack: Stack::Host, link: device }),
            Step::of_host(set),
        ]);
        assert_eq!(failures(&outcomes).len(), 1, "{outcomes:#?}");
        let link = RouteSocket::open().unwrap().link_by_name("nl0000000001").unwrap().unwrap();
        assert!(!link.header.flags.contains(LinkFlags::Up));
    });
}

#[test]
fn many_links_go_side_by_side_and_reapers_stay_few() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let names: Vec<IfName> = (0..150).map(|n| format!("nl{n:010}").parse().unwrap()).collect();
        let make = |name: &IfName| {
            RouteNetlinkMessage::NewLink(
                LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
                    .name(name.to_string())
                    .link_group(LINK_GROUP)
                    .build(),
            )
        };
        by_hand(names.iter().map(make).collect());
        let steps: Vec<Step> = names
            .iter()
            .map(|name| Step::of_host(Action::DeleteLink { stack: Stack::Host, link: name.clone() }))
            .collect();
        let started = Instant::now();
        all_done(&kernel.apply(&steps));
        println!("150 links went in {:?}", started.elapsed());
        let left = kernel.observe().unwrap().links;
        assert!(left.keys().all(|(_, name)| !names.contains(name)), "{left:?}");
    });
}

#[test]
fn the_state_of_a_namespace_names_owners_and_its_rules() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        let world = red_and_v_net();
        build(&kernel, &world);
        let (stack, _) = red();
        let state = kernel.state(&stack, &world).unwrap();
        let eth0 = state.interfaces.iter().find(|one| one.name == "eth0").unwrap();
        assert_eq!(eth0.owner.as_deref(), Some("Attachment/red0"));
        assert!(eth0.addresses.contains(&"192.168.15.1/24".to_owned()), "{eth0:?}");
        assert!(
            state.routes.iter().any(|route| route.destination == "default" && route.protocol == "netloom")
        );
        assert!(state.rules.iter().any(|rule| rule.contains("guard4")), "{:?}", state.rules);
        let host = kernel.state(&Stack::Host, &world).unwrap();
        let bridge = host.interfaces.iter().find(|one| one.name == "v-net-0").unwrap();
        assert_eq!(bridge.owner.as_deref(), Some("Network/v-net-0"));
        assert!(host.rules.len() > state.rules.len());
    });
}
