//! What Linux does with routes, held against the model; and every sort of route there and back.

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netloom_api::IfName;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{
    Kernel,
    dump::{Dump, Routes, route_of, routes},
    message,
};
use crate::{
    hostnet::{
        Action, Address, Failure, FailureSort, HostNet, Link, LinkChange, LinkKind, Mark, Outcome, Route,
        Stack, Step, Sysctl, Way,
    },
    kernel::{
        socket::{RouteSocket, create, request},
        testhost::on_private_host,
    },
    reconcile::Host as _,
};

fn link() -> IfName {
    "nl0000000001".parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn address(text: &str) -> Address {
    Address { stack: Stack::Host, link: link(), net: net(text) }
}

fn route(destination: &str, way: Way) -> Route {
    Route { stack: Stack::Host, destination: net(destination), table: 254, metric: 100, way }
}

fn via(gateway: &str) -> Way {
    Way::Through { via: Some(gateway.parse().unwrap()), link: link() }
}

fn direct() -> Way {
    Way::Through { via: None, link: link() }
}

/// The same host in the kernel and in the model: a cable with both ends here, up, one of them ours.
struct Both {
    kernel: Kernel,
    model: HostNet,
}

impl Both {
    fn new() -> Self {
        let kernel = Kernel::open().unwrap();
        let cable = LinkMessageBuilder::<LinkVeth>::new(link().as_str(), "other")
            .link_group(crate::hostnet::LINK_GROUP)
            .up()
            .build();
        let other = LinkMessageBuilder::<LinkUnspec>::new().name("other").up().build();
        let mut socket = RouteSocket::open().unwrap();
        socket.request_reply(create(RouteNetlinkMessage::NewLink(cable))).unwrap();
        socket.request_reply(request(RouteNetlinkMessage::SetLink(other))).unwrap();
        let ours = Link {
            mark: Mark::Group,
            kind: LinkKind::Veth { peer: None },
            mac: None,
            mtu: 1500,
            up: true,
            master: None,
            hairpin: false,
        };
        let mut model = HostNet::default();
        model.links.insert((Stack::Host, link()), ours);
        Self { kernel, model }
    }

    #[track_caller]
    fn take(&mut self, actions: Vec<Action>) {
        let steps: Vec<Step> = actions.into_iter().map(Step::of_host).collect();
        let outcomes = self.kernel.apply(&steps);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{outcomes:#?}");
        steps.iter().for_each(|step| self.model.apply(step));
    }

    /// Both have the same routes: these.
    #[track_caller]
    fn have(&self, expected: &[&Route]) {
        let mut socket = RouteSocket::open().unwrap();
        let names = Dump::take(&mut socket).unwrap().names();
        let found = routes(&mut socket, Routes::Ours).unwrap();
        let mut found: Vec<Route> =
            found.iter().filter_map(|message| route_of(message, &Stack::Host, &names)).collect();
        found.sort();
        let mut wanted: Vec<Route> = expected.iter().map(|route| (*route).clone()).collect();
        wanted.sort();
        assert_eq!(found, wanted, "Linux");
        assert_eq!(self.model.routes.keys().cloned().collect::<Vec<_>>(), wanted, "the model");
    }
}

fn set(change: LinkChange) -> Action {
    Action::SetLink { stack: Stack::Host, link: link(), change }
}

#[test]
fn every_sort_of_route_is_observed_as_it_was_added() {
    on_private_host(|| {
        let mut both = Both::new();
        both.take(vec![
            Action::AddAddress(address("10.0.0.1/24")),
            Action::AddAddress(address("fd00::1/64")),
        ]);
        let mut all = vec![
            route("10.1.0.0/16", via("10.0.0.2")),
            route("10.2.0.0/16", direct()),
            route("10.3.0.0/16", Way::Blackhole),
            route("10.4.0.0/16", Way::Unreachable),
            route("10.5.0.0/16", Way::Prohibit),
            route("0.0.0.0/0", via("10.0.0.2")),
            route("fd01::/32", via("fd00::2")),
            route("fd02::/32", direct()),
            route("fd03::/32", Way::Blackhole),
            route("fd04::/32", Way::Unreachable),
            route("fd05::/32", Way::Prohibit),
            route("::/0", via("fe80::2")),
        ];
        // The same once more in tables above and below the one byte of the header, and with other metrics.
        for (table, metric) in [(254, 0), (7, 100), (1000, 100), (u32::MAX, 100)] {
            all.push(Route { table, metric, ..route("10.1.0.0/16", via("10.0.0.2")) });
        }
        all.push(Route { table: 1000, metric: 7, ..route("fd01::/32", via("fd00::2")) });
        both.take(all.iter().cloned().map(Action::AddRoute).collect());
        both.have(&all.iter().collect::<Vec<_>>());
        // Once more is no error, and neither is a second removal.
        both.take(all.iter().cloned().map(Action::AddRoute).collect());
        both.take(all.iter().cloned().map(Action::DeleteRoute).collect());
        both.have(&[]);
        both.take(all.iter().cloned().map(Action::DeleteRoute).collect());
    });
}

#[test]
fn a_route_is_replaced_in_its_place_whatever_its_sort() {
    on_private_host(|| {
        let mut both = Both::new();
        both.take(vec![
            Action::AddAddress(address("10.0.0.1/24")),
            Action::AddAddress(address("fd00::1/64")),
        ]);
        for (destination, gateways) in
            [("10.1.0.0/16", ["10.0.0.2", "10.0.0.3"]), ("fd01::/32", ["fd00::2", "fd00::3"])]
        {
            let ways = [
                via(gateways[0]),
                via(gateways[1]),
                direct(),
                Way::Blackhole,
                Way::Prohibit,
                via(gateways[0]),
            ];
            let bystander = Route { metric: 50, ..route(destination, Way::Unreachable) };
            both.take(vec![Action::AddRoute(bystander.clone())]);
            for way in ways {
                let wanted = route(destination, way);
                both.take(vec![Action::ReplaceRoute(wanted.clone())]);
                both.have(&[&bystander, &wanted]);
            }
            both.take(vec![
                Action::DeleteRoute(bystander),
                Action::DeleteRoute(route(destination, via(gateways[0]))),
            ]);
        }
    });
}

#[test]
fn a_stranger_s_route_is_neither_replaced_nor_deleted() {
    on_private_host(|| {
        let mut both = Both::new();
        both.take(vec![Action::AddAddress(address("10.0.0.1/24"))]);
        let ours = route("10.1.0.0/16", via("10.0.0.2"));
        let index = RouteSocket::open().unwrap().link_by_name(link().as_str()).unwrap().unwrap().header.index;
        let mut theirs = message::route(Some(index), &ours).unwrap();
        theirs.header.protocol = netlink_packet_route::route::RouteProtocol::Static;
        let mut socket = RouteSocket::open().unwrap();
        socket.request_reply(create(RouteNetlinkMessage::NewRoute(theirs))).unwrap();
        for action in [Action::AddRoute(ours.clone()), Action::ReplaceRoute(ours.clone())] {
            let outcomes = both.kernel.apply(&[Step::of_host(action)]);
            let conflict = |outcome: &Outcome| {
                matches!(outcome, Outcome::Failed(Failure { sort: FailureSort::Conflict, .. }))
            };
            assert!(outcomes.iter().all(conflict), "{outcomes:#?}");
        }
        both.take(vec![Action::DeleteRoute(ours)]);
        let all = routes(&mut socket, Routes::All).unwrap();
        assert!(
            all.iter().any(|route| super::dump::destination(route) == Some(net("10.1.0.0/16"))),
            "it is gone"
        );
    });
}

#[test]
fn only_the_last_ipv4_address_of_a_link_takes_its_ipv4_routes_along() {
    on_private_host(|| {
        let mut both = Both::new();
        let addresses = ["10.0.0.1/24", "10.0.1.1/24", "fd00::1/64", "fd01::1/64"].map(address);
        both.take(addresses.iter().cloned().map(Action::AddAddress).collect());
        let (v4, v4_direct) = (route("10.9.0.0/16", via("10.0.1.2")), route("10.8.0.0/16", direct()));
        let (v6, v6_direct) = (route("fd09::/32", via("fd01::2")), route("fd08::/32", direct()));
        let off = route("10.7.0.0/16", Way::Blackhole);
        let all = [&v4, &v4_direct, &v6, &v6_direct, &off];
        both.take(all.iter().map(|route| Action::AddRoute((*route).clone())).collect());
        both.have(&all);
        // The subnets of the gateways go; a route is not judged again.
        both.take(vec![
            Action::DeleteAddress(addresses[1].clone()),
            Action::DeleteAddress(addresses[3].clone()),
        ]);
        both.have(&all);
        both.take(vec![
            Action::DeleteAddress(addresses[0].clone()),
            Action::DeleteAddress(addresses[2].clone()),
        ]);
        both.have(&[&v6, &v6_direct, &off]);
    });
}

#[test]
fn a_link_that_goes_down_or_goes_takes_its_routes_along_and_no_others() {
    on_private_host(|| {
        let mut both = Both::new();
        let addresses = ["10.0.0.1/24", "fd00::1/64"].map(address);
        let through = [route("10.9.0.0/16", via("10.0.0.2")), route("fd08::/32", direct())];
        let off = [route("10.7.0.0/16", Way::Blackhole), route("fd07::/32", Way::Prohibit)];
        let add = |routes: &[Route]| routes.iter().cloned().map(Action::AddRoute).collect::<Vec<_>>();
        both.take(addresses.iter().cloned().map(Action::AddAddress).collect());
        both.take(add(&through));
        both.take(add(&off));
        both.take(vec![set(LinkChange { up: Some(false), ..LinkChange::default() })]);
        both.have(&[&off[0], &off[1]]);
        both.take(vec![set(LinkChange { up: Some(true), ..LinkChange::default() })]);
        both.have(&[&off[0], &off[1]]);
        both.take(vec![Action::AddAddress(addresses[1].clone())]);
        both.take(add(&through));
        both.take(vec![Action::DeleteLink { stack: Stack::Host, link: link() }]);
        both.have(&[&off[0], &off[1]]);
    });
}

#[test]
fn where_ipv6_is_switched_off_its_addresses_and_routes_go_and_it_can_be_switched_on_again() {
    on_private_host(|| {
        let mut both = Both::new();
        let switch = |value: &str| Action::SetSysctl {
            stack: Stack::Host,
            sysctl: Sysctl::DisableIpv6(link()),
            value: value.into(),
        };
        let addresses = ["10.0.0.1/24", "fd00::1/64"].map(address);
        let v4 = route("10.9.0.0/16", via("10.0.0.2"));
        let v6 = [route("fd08::/32", direct()), route("fd09::/32", via("fd00::2"))];
        let add = |routes: &[Route]| routes.iter().cloned().map(Action::AddRoute).collect::<Vec<_>>();
        both.take(addresses.iter().cloned().map(Action::AddAddress).collect());
        both.take(add(std::slice::from_ref(&v4)));
        both.take(add(&v6));
        both.have(&[&v4, &v6[0], &v6[1]]);
        both.take(vec![switch("1")]);
        both.have(&[&v4]);
        let left: Vec<&Address> = both.model.addresses.keys().collect();
        assert_eq!(left, [&addresses[0]], "the model");
        // What is gone may be deleted again, and added after the switch is back.
        both.take(vec![Action::DeleteAddress(addresses[1].clone()), switch("0")]);
        both.take(vec![Action::AddAddress(addresses[1].clone())]);
        both.take(add(&v6));
        both.have(&[&v4, &v6[0], &v6[1]]);
    });
}
