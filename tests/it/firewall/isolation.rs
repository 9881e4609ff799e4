//! Who is kept from whom: the LAN from members, networks from each other, members from members and from the host.

use serde_json::json;

use super::{
    API_PORT, HOST_PORT, Site,
    call::{Call, Nothing, Refused, Tcp, Udp, by, call},
    modes, on_site,
    packet::{
        ARP, BROADCAST, IPV4, IPV6, NO_MAC, advertise, arp, echo, group, listener_report, solicit, syn, udp,
    },
    volley::{Expected, Shot, nobody, only},
};

/// One packet of each kind, by IPv4 and by IPv6 where both have it, through the host.
fn through_the_host(
    site: &Site,
    from: &'static str,
    ends: &[(&str, &str)],
    expected: &Expected,
) -> Vec<Shot> {
    let mut rows = Vec::new();
    for (own, to) in ends {
        let at = |port: u16| if to.contains(':') { format!("[{to}]:{port}") } else { format!("{to}:{port}") };
        for (says, packet) in [
            (format!("a datagram to {}", at(81)), udp(own, &at(81))),
            (format!("a datagram to {}", at(80)), udp(own, &at(80))),
            (format!("a SYN to {}", at(80)), syn(own, &at(80))),
            (format!("an echo request to {to}"), echo(own, to)),
        ] {
            let frame = site.to_gateway(from, &packet);
            rows.push(Shot::new(from, says, frame, expected.clone()));
        }
    }
    rows
}

/// Every kind of member, from friend and foe; some of the ports are published, under the host's addresses.
pub(super) fn from_the_lan(site: &Site) -> Vec<Shot> {
    let members = ["10.1.0.11", "10.2.0.11", "10.3.0.11", "10.4.0.11", "10.5.0.11", "10.6.0.11"];
    let members6 = ["fd01::11", "fd02::11", "fd03::11", "fd04::11", "fd05::11"];
    let senders = [
        ("peer", "192.0.2.100", "2001:db8::100"),
        ("hostile", "192.0.2.66", "2001:db8::66"),
        ("far", "198.51.100.100", "2001:db8:1::100"),
    ];
    let mut rows = Vec::new();
    for (from, own, own6) in senders {
        let ends: Vec<_> =
            members.map(|to| (own, to)).into_iter().chain(members6.map(|to| (own6, to))).collect();
        rows.extend(through_the_host(site, from, &ends, &nobody()));
    }
    rows
}

#[test]
fn the_lan_reaches_no_member_but_by_what_is_published() {
    on_site(async |site| {
        for mode in modes() {
            site.bridge_netfilter(mode);
            let mut rows = from_the_lan(site);
            // The control: the same machine, the same packet, to what is published.
            for (own, to) in [("192.0.2.66", "192.0.2.1:8080"), ("2001:db8::66", "[2001:db8::1]:8080")] {
                let frame = site.to_gateway("hostile", &syn(own, to));
                rows.push(Shot::new("hostile", format!("a SYN to {to}"), frame, only(["a1"])));
            }
            site.volley("from the LAN", &rows);
        }
    });
}

/// From every other network to red's a1, and from red to blue and wide.
pub(super) fn between_networks(site: &Site, open: &[&str]) -> Vec<Shot> {
    let rows = |from, network: &str, ends: &[(&str, &str)], to| {
        let both = open.contains(&network) && open.contains(&"red");
        let expected = if both { only([to]) } else { nobody() };
        through_the_host(site, from, ends, &expected)
    };
    [
        rows("b1", "blue", &[("10.2.0.11", "10.1.0.11"), ("fd02::11", "fd01::11")], "a1"),
        rows("c1", "cell", &[("10.3.0.11", "10.1.0.11"), ("fd03::11", "fd01::11")], "a1"),
        rows("d1", "wide", &[("10.4.0.11", "10.1.0.11"), ("fd04::11", "fd01::11")], "a1"),
        rows("e1", "dark", &[("10.5.0.11", "10.1.0.11"), ("fd05::11", "fd01::11")], "a1"),
        rows("f1", "four", &[("10.6.0.11", "10.1.0.11")], "a1"),
        rows("a1", "blue", &[("10.1.0.11", "10.2.0.11"), ("fd01::11", "fd02::11")], "b1"),
        rows("a1", "wide", &[("10.1.0.11", "10.4.0.11"), ("fd01::11", "fd04::11")], "d1"),
        rows("a1", "dark", &[("10.1.0.11", "10.5.0.11"), ("fd01::11", "fd05::11")], "e1"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn two_networks_talk_only_if_both_say_so_and_then_keep_their_addresses() {
    on_site(async |site| {
        for member in ["a1", "b1", "d1", "e1"] {
            site.serve(member, &[80]);
        }
        let isolated = |yes: bool| json!({"isolation": {"networks": yes}});
        let steps: [(&str, &str, bool, &[&str]); 5] = [
            ("nobody has opened", "red", true, &[]),
            ("red alone has opened", "red", false, &["red"]),
            ("blue has opened, too", "blue", false, &["red", "blue"]),
            ("wide has opened, too", "wide", false, &["red", "blue", "wide"]),
            ("dark has opened, too", "dark", false, &["red", "blue", "wide", "dark"]),
        ];
        for mode in modes() {
            site.bridge_netfilter(mode);
            for (title, network, yes, open) in steps {
                site.change(network, isolated(yes)).await;
                let rows = between_networks(site, open);
                site.volley(title, &rows);
            }
            site.calls(
                "open networks",
                &[
                    call("a1", Tcp, "10.2.0.11:80", by("b1:80", "10.1.0.11")),
                    call("b1", Udp, "10.1.0.11:80", by("a1:80", "10.2.0.11")),
                    call("a1", Tcp, "[fd02::11]:80", by("b1:80", "fd01::11")),
                    call("d1", Tcp, "10.1.0.11:80", by("a1:80", "10.4.0.11")),
                    call("a1", Tcp, "10.4.0.11:80", by("d1:80", "10.1.0.11")),
                    call("e1", Tcp, "10.1.0.11:80", by("a1:80", "10.5.0.11")),
                    call("a1", Udp, "[fd05::11]:80", by("e1:80", "fd01::11")),
                    // A path that was never opened: to a third, and on to the LAN from where there is no egress.
                    call("b1", Tcp, "10.3.0.11:80", Nothing),
                    call("e1", Tcp, "192.0.2.100:80", Nothing),
                ],
            );
            for network in ["red", "blue", "wide", "dark"] {
                site.change(network, isolated(true)).await;
            }
            let rows = between_networks(site, &[]);
            site.volley("all have closed again", &rows);
            site.calls("closed networks", &[call("a1", Tcp, "10.2.0.11:80", Nothing)]);
        }
    });
}

/// All that c1 may try to reach c2, and what becomes of it where members talk.
pub(super) fn between_members(site: &Site, expected: &Expected) -> Vec<Shot> {
    let (me, you, gateway) = (site.mac("c1"), site.mac("c2"), site.gateway("c1"));
    let (ll, your_ll) = (site.link_local("c1"), site.link_local("c2"));
    let mut rows = Vec::new();
    let mut row = |says: &str, frame| rows.push(Shot::new("c1", says, frame, expected.clone()));
    let (a, b, a6, b6) = ("10.3.0.11", "10.3.0.12", "fd03::11", "fd03::12");
    let (port, port6, port_ll) = (format!("{b}:80"), format!("[{b6}]:80"), format!("[{your_ll}]:80"));
    row("a datagram", udp(a, &port).ether(me, you));
    row("a SYN", syn(a, &port).ether(me, you));
    row("an echo request", echo(a, b).ether(me, you));
    row("a datagram over IPv6", udp(a6, &port6).ether(me, you));
    row("a SYN over IPv6", syn(a6, &port6).ether(me, you));
    row("an echo request over IPv6", echo(a6, b6).ether(me, you));
    row("a datagram to a link-local address", udp(&ll, &port_ll).ether(me, you));
    row("a datagram from its address to a link-local one", udp(a6, &port_ll).ether(me, you));
    row("a datagram through the gateway", udp(a, &port).ether(me, gateway));
    row("a SYN through the gateway", syn(a, &port).ether(me, gateway));
    row("a datagram through the gateway over IPv6", udp(a6, &port6).ether(me, gateway));
    row("a datagram in a frame to all", udp(a, &port).ether(me, BROADCAST));
    row("a datagram in a frame to a group", udp(a6, &port6).ether(me, group("ff02::1")));
    row("to an address that its accomplice listens for", udp(a, "172.16.0.9:80").ether(me, you));
    row("to an IPv6 address that its accomplice listens for", udp(a6, "[2001:db8:9::9]:80").ether(me, you));
    row("a datagram to all", udp(a, "255.255.255.255:80").ether(me, BROADCAST));
    row("a datagram to the network's broadcast", udp(a, "10.3.0.255:80").ether(me, BROADCAST));
    row("a datagram to a group", udp(a, "239.1.1.1:80").ether(me, [1, 0, 0x5e, 1, 1, 1]));
    row("a datagram to a group over IPv6", udp(&ll, "[ff02::fb]:5353").ether(me, group("ff02::fb")));
    row("an ARP request", arp(1, (me, a), (NO_MAC, b)).ether(me, BROADCAST));
    row("an ARP request in a frame to it", arp(1, (me, a), (NO_MAC, b)).ether(me, you));
    row("an ARP answer", arp(2, (me, a), (you, b)).ether(me, you));
    row("a solicitation", solicit(a6, "ff02::1:ff00:12", b6, me).ether(me, group("ff02::1:ff00:12")));
    row("a solicitation in a frame to it", solicit(&ll, b6, b6, me).ether(me, you));
    row("an advertisement", advertise(&ll, a6, me).ether(me, group("ff02::1")));
    row("an advertisement in a frame to it", advertise(a6, a6, me).ether(me, you));
    row("a listener's report", listener_report(&ll).ether(me, group("ff02::16")));
    rows
}

#[test]
fn members_that_are_kept_apart_get_nothing_from_each_other_whatever_frame_carries_it() {
    on_site(async |site| {
        let ways: Vec<Call> =
            [("10.3.0.12:80", Tcp), ("10.3.0.12:80", Udp), ("[fd03::12]:80", Tcp), ("[fd03::12]:80", Udp)]
                .map(|(to, transport)| call("c1", transport, to, Nothing))
                .into();
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = between_members(site, &nobody());
            site.volley("kept apart", &rows);
            site.calls("kept apart", &ways);
        }
    });
}

#[test]
fn the_same_frames_arrive_where_members_talk() {
    on_site(async |site| {
        site.change("cell", json!({"isolation": {"members": false}})).await;
        site.serve("c2", &[80]);
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = between_members(site, &only(["c2"]));
            site.volley("not kept apart", &rows);
            site.calls(
                "not kept apart",
                &[
                    call("c1", Tcp, "10.3.0.12:80", by("c2:80", "10.3.0.11")),
                    call("c1", Udp, "10.3.0.12:80", by("c2:80", "10.3.0.11")),
                    call("c1", Tcp, "[fd03::12]:80", by("c2:80", "fd03::11")),
                    call("c1", Udp, "[fd03::12]:80", by("c2:80", "fd03::11")),
                ],
            );
        }
    });
}

#[test]
fn members_that_are_kept_apart_reach_all_else_and_are_reached() {
    on_site(async |site| {
        site.serve("c1", &[80]);
        site.serve("peer", &[900]);
        site.serve("host", &[8000]);
        for mode in modes() {
            site.bridge_netfilter(mode);
            site.calls(
                "kept apart",
                &[
                    call("c1", Tcp, "192.0.2.100:900", by("peer:900", "192.0.2.1")),
                    call("c1", Udp, "192.0.2.100:900", by("peer:900", "192.0.2.1")),
                    call("c1", Tcp, "[2001:db8::100]:900", by("peer:900", "2001:db8::1")),
                    call("c1", Tcp, "10.3.0.1:8000", by("host:8000", "10.3.0.11")),
                    call("c1", Udp, "[fd03::1]:8000", by("host:8000", "fd03::11")),
                    call("host", Tcp, "10.3.0.11:80", by("c1:80", "10.3.0.1")),
                    call("host", Udp, "[fd03::11]:80", by("c1:80", "fd03::1")),
                    call("peer", Tcp, "192.0.2.1:8091", by("c1:80", "192.0.2.100")),
                    call("b1", Tcp, "192.0.2.1:8091", by("c1:80", "10.2.0.11")),
                    call("c2", Tcp, "192.0.2.1:8091", by("c1:80", "10.3.0.1")),
                ],
            );
        }
    });
}

/// What dark's e1 tries to reach of the host.
pub(super) fn to_the_host(site: &Site, open: bool) -> Vec<Shot> {
    let mut rows = Vec::new();
    for to in ["10.5.0.1", "192.0.2.1", "198.51.100.1", "10.1.0.1", "fd05::1", "2001:db8::1", "fd01::1"] {
        let own = if to.contains(':') { "fd05::11" } else { "10.5.0.11" };
        let at = if to.contains(':') { format!("[{to}]:{HOST_PORT}") } else { format!("{to}:{HOST_PORT}") };
        let expected = if open { only(["host"]) } else { nobody() };
        let datagram = site.to_gateway("e1", &udp(own, &at));
        rows.push(Shot::new("e1", format!("a datagram to {at}"), datagram, expected));
        let ping = site.to_gateway("e1", &echo(own, to));
        rows.push(Shot::new("e1", format!("an echo request to {to}"), ping, nobody()).answered(open));
    }
    let ll = site.link_local("e1");
    for (says, to, mac) in [
        ("to all on the link", format!("[ff02::1]:{HOST_PORT}"), group("ff02::1")),
        ("to the network's broadcast", format!("10.5.0.255:{HOST_PORT}"), BROADCAST),
    ] {
        let own = if to.starts_with('[') { ll.as_str() } else { "10.5.0.11" };
        let expected = if open { only(["host", "e2"]) } else { only(["e2"]) };
        rows.push(Shot::new("e1", says, udp(own, &to).ether(site.mac("e1"), mac), expected));
    }
    rows
}

/// The host answers those that ask where it is: without that nothing would work at all.
fn the_host_says_where_it_is(site: &mut Site) {
    let (me, gateway) = (site.mac("e1"), site.gateway("e1"));
    let ask = arp(1, (me, "10.5.0.11"), (NO_MAC, "10.5.0.1")).ether(me, BROADCAST);
    let ask6 = solicit("fd05::11", "ff02::1:ff00:1", "fd05::1", me).ether(me, group("ff02::1:ff00:1"));
    let rows = [
        Shot::new("e1", "an ARP request for the gateway", ask, only(["e2"])),
        Shot::new("e1", "a solicitation for the gateway", ask6, only(["e2"])),
    ];
    for row in &rows {
        site.place("e1").tap.send(row.bytes()).unwrap();
    }
    site.settle("e1");
    let seen = site.take_all();
    let from_gateway = |kind: u16, at: usize, word: &[u8]| {
        seen["e1"].iter().any(|frame| {
            frame[6..12] == gateway && frame[12..14] == kind.to_be_bytes() && frame[at..].starts_with(word)
        })
    };
    let wrong = [
        (!from_gateway(ARP, 20, &[0, 2])).then_some("no answer to ARP".to_owned()),
        (!from_gateway(IPV6, 54, &[136])).then_some("no advertisement".to_owned()),
        from_gateway(IPV4, 23, &[17]).then_some("a datagram that nobody asked for".to_owned()),
    ];
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    site.judge("the host says where it is", 2, &wrong);
}

#[test]
fn a_network_that_is_kept_from_the_host_finds_its_gateway_and_nothing_else_of_it() {
    on_site(async |site| {
        site.serve("host", &[8000]);
        site.serve("e1", &[80]);
        site.serve("b1", &[80]);
        for mode in modes() {
            site.bridge_netfilter(mode);
            site.change("dark", json!({"isolation": {"host": null}})).await;
            let rows = to_the_host(site, false);
            site.volley("kept from the host", &rows);
            the_host_says_where_it_is(site);
            site.calls(
                "kept from the host",
                &[
                    call("e1", Tcp, "10.5.0.1:8000", Nothing),
                    call("e1", Tcp, "192.0.2.1:8000", Nothing),
                    call("e1", Udp, "192.0.2.1:8000", Nothing),
                    call("e1", Tcp, "[fd05::1]:8000", Nothing),
                    // The host itself may, and what is published is not the host.
                    call("host", Tcp, "10.5.0.11:80", by("e1:80", "10.5.0.1")),
                    call("host", Udp, "[fd05::11]:80", by("e1:80", "fd05::1")),
                    call("e1", Tcp, "192.0.2.1:8090", by("b1:80", "10.5.0.11")),
                    call("e2", Tcp, "10.5.0.1:8092", by("e1:80", "10.5.0.1")),
                ],
            );
            site.change("dark", json!({"isolation": {"host": false}})).await;
            let rows = to_the_host(site, true);
            site.volley("not kept from the host", &rows);
            site.calls(
                "not kept from the host",
                &[call("e1", Tcp, "10.5.0.1:8000", by("host:8000", "10.5.0.11"))],
            );
            // And a network with egress may be kept from the host as well.
            site.change("red", json!({"isolation": {"host": true}})).await;
            site.calls("red is kept from the host", &[call("a1", Tcp, "10.1.0.1:8000", Nothing)]);
            site.change("red", json!({"isolation": {"host": null}})).await;
            site.calls("red is not", &[call("a1", Tcp, "10.1.0.1:8000", by("host:8000", "10.1.0.11"))]);
        }
    });
}

#[test]
fn no_member_reaches_the_port_of_the_api_on_any_address_of_the_host() {
    on_site(async |site| {
        site.change("dark", json!({"isolation": {"host": false}})).await;
        // The daemon listens on loopback; whoever listens on that port elsewhere stands for one that listens everywhere.
        let addresses = ["192.0.2.1", "10.1.0.1", "10.5.0.1", "2001:db8::1", "fd01::1"];
        for address in addresses {
            site.serve_host_at(address, API_PORT);
        }
        let at = |address: &str| match address.contains(':') {
            true => format!("[{address}]:{API_PORT}"),
            false => format!("{address}:{API_PORT}"),
        };
        for mode in modes() {
            site.bridge_netfilter(mode);
            let mut rows = vec![
                call("peer", Tcp, &at("192.0.2.1"), by("host:8443", "192.0.2.100")),
                call("host", Tcp, &at("192.0.2.1"), by("host:8443", "192.0.2.1")),
                call("peer", Tcp, &at("2001:db8::1"), by("host:8443", "2001:db8::100")),
                // The same port of the other protocol is nobody's secret, and one port further nobody listens.
                call("a1", Udp, &at("192.0.2.1"), by("host:8443", "10.1.0.11")),
                call("a1", Tcp, "192.0.2.1:8444", Refused),
            ];
            for address in addresses {
                rows.push(call("a1", Tcp, &at(address), Nothing));
                rows.push(call("d1", Tcp, &at(address), Nothing));
                rows.push(call("e1", Tcp, &at(address), Nothing));
            }
            site.calls("the port of the API", &rows);
        }
    });
}
