use proptest::prelude::*;

use super::*;

const LAN: &str = "192.0.2.100";
const HOST: &str = "192.0.2.1";
const TARGET: &str = "10.1.0.11";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn published(listen: Option<&str>, ports: impl Into<Ports>, target_port: u16) -> Published {
    Published {
        listen: listen.map(ip),
        transport: Transport::Udp,
        ports: ports.into(),
        target: ip(TARGET),
        target_port,
    }
}

/// From the LAN to a port of this address, answered by this address and port.
fn flow(to: &str, port: u16, by: &str, by_port: u16) -> Flow {
    let (source, source_port) = (ip(LAN), 40_000);
    Flow {
        protocol: 17,
        original: Tuple { source, destination: ip(to), source_port, destination_port: port },
        reply: Tuple {
            source: ip(by),
            destination: source,
            source_port: by_port,
            destination_port: source_port,
        },
    }
}

fn host() -> BTreeSet<IpAddr> {
    [ip(HOST)].into()
}

#[test]
fn a_withdrawn_port_takes_the_flows_that_came_through_it() {
    let stale = Stale::Withdrawn(published(None, 8080, 80));
    assert!(stale.covers(&flow(HOST, 8080, TARGET, 80)));
    assert!(stale.covers(&flow("192.0.2.2", 8080, TARGET, 80)));
    for other in [
        flow(HOST, 8081, TARGET, 80),
        flow(HOST, 8080, TARGET, 81),
        flow(HOST, 8080, "10.1.0.12", 80),
        flow("198.51.100.7", 8080, "198.51.100.7", 8080),
        Flow { protocol: 6, ..flow(HOST, 8080, TARGET, 80) },
    ] {
        assert!(!stale.covers(&other), "{other:?}");
    }
    let one = Stale::Withdrawn(published(Some(HOST), 8080, 80));
    assert!(one.covers(&flow(HOST, 8080, TARGET, 80)));
    assert!(!one.covers(&flow("192.0.2.2", 8080, TARGET, 80)));
}

#[test]
fn a_withdrawn_range_takes_each_port_to_its_own() {
    let stale = Stale::Withdrawn(published(None, 100..=199, 1100));
    assert!(stale.covers(&flow(HOST, 100, TARGET, 1100)));
    assert!(stale.covers(&flow(HOST, 199, TARGET, 1199)));
    assert!(!stale.covers(&flow(HOST, 150, TARGET, 1151)));
    assert!(!stale.covers(&flow(HOST, 200, TARGET, 1200)));
    assert!(!stale.is_exact());
}

#[test]
fn an_announced_port_takes_what_went_to_the_host_itself_but_not_what_goes_to_strangers() {
    let stale = Stale::Announced { published: published(None, 5353, 53), host: host() };
    assert!(stale.covers(&flow(HOST, 5353, HOST, 5353)));
    assert!(stale.covers(&flow("127.0.0.1", 5353, "127.0.0.1", 5353)));
    assert!(stale.covers(&flow(HOST, 5353, "10.1.0.12", 53)));
    assert!(!stale.covers(&flow("198.51.100.7", 5353, "198.51.100.7", 5353)));
    assert!(!stale.covers(&flow(HOST, 5353, TARGET, 53)), "this is where it leads");
    let one = Stale::Announced { published: published(Some(HOST), 5353, 53), host: BTreeSet::new() };
    assert!(one.covers(&flow(HOST, 5353, HOST, 5353)));
}

#[test]
fn a_narrowed_list_takes_those_who_may_not_any_more() {
    let stale = |net: &str| Stale::Narrowed {
        published: published(None, 8080, 80),
        sources: vec![net.parse().unwrap()],
        host: host(),
    };
    assert!(stale("198.51.100.0/24").covers(&flow(HOST, 8080, TARGET, 80)));
    assert!(!stale("192.0.2.0/24").covers(&flow(HOST, 8080, TARGET, 80)));
    let mut own = flow(HOST, 8080, TARGET, 80);
    own.original.source = ip(HOST);
    assert!(!stale("198.51.100.0/24").covers(&own), "the host itself always may");
}

#[test]
fn a_gone_address_takes_its_flows_of_either_direction() {
    let stale = Stale::Address(ip(TARGET));
    assert!(stale.covers(&flow(HOST, 8080, TARGET, 80)));
    let mut outward = flow("198.51.100.7", 443, "198.51.100.7", 443);
    assert!(!stale.covers(&outward));
    outward.original.source = ip(TARGET);
    assert!(stale.covers(&outward));
}

#[test]
fn a_changed_way_out_takes_what_went_out_and_leaves_what_stayed_inside() {
    let stale = Stale::Egress("10.1.0.0/24".parse().unwrap());
    let mut flow = flow("198.51.100.7", 443, "198.51.100.7", 443);
    assert!(!stale.covers(&flow));
    flow.original.source = ip(TARGET);
    assert!(stale.covers(&flow));
    flow.reply.source = ip("10.1.0.12");
    assert!(!stale.covers(&flow));
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec![LAN, HOST, TARGET, "10.1.0.12", "127.0.0.1", "fd01::11", "2001:db8::1"])
        .prop_map(ip)
}

fn tuple() -> impl Strategy<Value = Tuple> {
    (address(), address(), 79..82_u16, 79..82_u16).prop_map(|(source, destination, from, to)| Tuple {
        source,
        destination,
        source_port: from,
        destination_port: to,
    })
}

fn stale() -> impl Strategy<Value = Stale> {
    let published = (prop::option::of(address()), 79..82_u16, 0..2_u16, address(), 79..82_u16)
        .prop_filter("one family", |(listen, _, _, target, _)| {
            listen.is_none_or(|listen| listen.is_ipv6() == target.is_ipv6())
        })
        .prop_map(|(listen, first, more, target, target_port)| Published {
            listen,
            transport: Transport::Udp,
            ports: (first..=first + more).into(),
            target,
            target_port,
        });
    let nets = prop::sample::select(vec!["10.1.0.0/24", "192.0.2.0/24", "fd01::/64"]);
    let nets = nets.prop_map(|net| net.parse::<IpNet>().unwrap());
    (published, nets, address(), 0..5).prop_map(|(published, net, address, kind)| match kind {
        0 => Stale::Withdrawn(published),
        1 => Stale::Announced { published, host: host() },
        2 => Stale::Narrowed { published, sources: vec![net], host: host() },
        3 => Stale::Address(address),
        _ => Stale::Egress(net),
    })
}

proptest! {
    #[test]
    fn filters_find_all_that_is_covered_and_exact_ones_nothing_else(
        stale in stale(), original in tuple(), reply in tuple(), protocol in prop::sample::select(vec![6, 17]),
    ) {
        prop_assume!(original.source.is_ipv6() == original.destination.is_ipv6());
        prop_assume!(original.source.is_ipv6() == reply.source.is_ipv6());
        let flow = Flow { protocol, original, reply };
        let found = stale.filters().iter().any(|filter| filter.finds(&flow));
        if stale.covers(&flow) {
            prop_assert!(found || stale.filters().is_empty());
        } else {
            prop_assert!(!found || !stale.is_exact());
        }
    }

    #[test]
    fn every_filter_asks_for_something(stale in stale()) {
        for filter in stale.filters() {
            let Filter { ipv6, protocol, original, reply } = filter;
            // An announced range asks for a protocol alone; it is for lists only.
            let again = Filter::new(ipv6, protocol, original, reply);
            prop_assert!(again == Some(filter) || !stale.is_exact() && protocol.is_some());
        }
    }
}
