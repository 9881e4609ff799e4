//! The firewall against the real kernel, every test on a private host of its own.

mod chains;
mod elements;
mod fuzz;
mod reference;
mod tables;

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Ensured, Nft, NftError};
use crate::hostnet::rules::{Element, Member, Transport};

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A firewall with a skeleton and nothing else.
fn fresh() -> Nft {
    let mut nft = Nft::open().unwrap();
    assert_eq!(nft.ensure().unwrap(), Ensured::Created);
    nft
}

/// Two networks, red and blue, with two members each, and what is published of them.
fn sample() -> Vec<Element> {
    use Transport::{Sctp, Tcp, Udp};
    let (red, blue) = ("nlred", "nlblue");
    let mut all = vec![
        Element::own4("10.1.0.0/24".parse().unwrap()),
        Element::own4("10.2.0.0/24".parse().unwrap()),
        Element::own6("fd01::/64".parse().unwrap()),
        Element::own6("fd02::/64".parse().unwrap()),
        Element::masq4("10.1.0.0/24".parse().unwrap()),
        Element::masq6("fd01::/64".parse().unwrap()),
        Element::snat4("10.2.0.0/24".parse().unwrap(), v4("192.0.2.2")),
        Element::snat6("fd02::/64".parse().unwrap(), v6("2001:db8::2")),
        Element::notransit("eth0"),
        Element::notransit("eth1"),
        Element::api(Tcp, 8443),
        Element::fwd4(v4("192.0.2.1"), Tcp, 8081, v4("10.1.0.11"), 80),
        Element::fwd4(v4("127.0.0.1"), Tcp, 8082, v4("10.1.0.11"), 80),
        Element::fwd4(v4("127.0.0.1"), Udp, 8082, v4("10.1.0.11"), 80),
        Element::fwd4any(Tcp, 8080, v4("10.1.0.11"), 80),
        Element::fwd4any(Udp, 5353, v4("10.1.0.11"), 53),
        Element::fwd4any(Tcp, 8090, v4("10.2.0.11"), 80),
        Element::fwd4any(Sctp, 9999, v4("10.1.0.11"), 99),
        Element::fwd4any(Tcp, 8100, v4("10.1.0.11"), 80),
        Element::fwd6any(Tcp, 8080, v6("fd01::11"), 80),
        Element::fwd6any(Udp, 5353, v6("fd01::11"), 53),
        Element::fwd6any(Tcp, 8090, v6("fd02::11"), 80),
        Element::rng4any(Tcp, 20_000..=20_099, v4("10.1.0.11")),
        Element::rng6any(Tcp, 20_000..=20_099, v6("fd01::11")),
        Element::gate(false, None, Tcp, 8100..=8100),
        Element::source("198.51.100.0/24".parse().unwrap(), None, Tcp, 8100..=8100),
        Element::source("192.0.2.7/32".parse().unwrap(), None, Tcp, 8100..=8100),
        Element::gate(true, None, Tcp, 20_000..=20_099),
        Element::source("2001:db8:5::/48".parse().unwrap(), None, Tcp, 20_000..=20_099),
        Element::gate(false, Some(v4("192.0.2.1").into()), Tcp, 8081..=8081),
        Element::source("10.0.0.0/8".parse().unwrap(), Some(v4("192.0.2.1").into()), Tcp, 8081..=8081),
        Element::route4(v4("10.1.0.12")),
        Element::route6(v6("fd01::12")),
        Element::route6(v6("fe80::ff:fe00:112")),
        Element::quiet("nla2"),
    ];
    for bridge in [red, blue] {
        all.extend([Element::bridges(bridge), Element::egress(bridge), Element::hostok(bridge)]);
        all.push(Element::same(bridge, Member::Accept));
    }
    for (port, bridge, net, host) in
        [("nla1", red, 1, 1), ("nla2", red, 1, 2), ("nlb1", blue, 2, 1), ("nlb2", blue, 2, 2)]
    {
        let (mac, address) = ([2, 0, 0, 0, net, 0x10 + host], Ipv4Addr::new(10, net, 0, 10 + host));
        let address6 = v6(&format!("fd0{net}::1{host}"));
        let link_local = v6(&format!("fe80::ff:fe00:{net}1{host}"));
        all.extend([Element::hairpin4(bridge, address), Element::hairpin6(bridge, address6)]);
        all.push(Element::guard4(port, mac, address));
        all.extend([Element::guard6(port, mac, address6), Element::guard6(port, mac, link_local)]);
        all.extend([Element::spoofed(port), Element::self_(port)]);
        all.push(Element::brmac(port, [2, 0, 0, 0, net, 1]));
    }
    all
}
