//! Packets that no honest machine sends: loopback on a wire, members' addresses on the LAN, broken ways.

use super::{
    Site, modes, on_site,
    packet::{echo, fragments, syn, udp},
    volley::{Shot, nobody, only},
};

/// A host whose administrator has weakened it: loopback is routed everywhere, and sources are not checked.
pub(super) fn weaken() {
    for device in ["all", "default", "eth0", "eth1"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/route_localnet"), "1").unwrap();
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0").unwrap();
    }
}

pub(super) fn loopback(site: &Site) -> Vec<Shot> {
    let mut rows = Vec::new();
    for to in ["127.0.0.1:8082", "127.0.0.1:5353", "127.0.0.2:5353", "127.0.0.1:20000", "127.0.0.1:21000"] {
        let datagram = site.to_gateway("hostile", &udp("192.0.2.66", to));
        rows.push(Shot::new("hostile", format!("a datagram for {to}"), datagram, nobody()));
        for (member, own) in [("b1", "10.2.0.11"), ("a2", "10.1.0.12")] {
            let datagram = site.to_gateway(member, &udp(own, to));
            rows.push(Shot::new(member, format!("a datagram for {to}"), datagram, nobody()));
        }
    }
    for to in ["127.0.0.1:8080", "127.0.0.1:8082"] {
        let segment = site.to_gateway("hostile", &syn("192.0.2.66", to));
        rows.push(Shot::new("hostile", format!("a SYN for {to}"), segment, nobody()));
    }
    // A service of the host on 127.0.0.1, behind bridges on which the host itself needs loopback to be routed.
    for (member, own) in [("a1", "10.1.0.11"), ("b1", "10.2.0.11"), ("e1", "10.5.0.11")] {
        let datagram = site.to_gateway(member, &udp(own, "127.0.0.1:7001"));
        rows.push(Shot::new(member, "a datagram for the host's own loopback", datagram, nobody()));
    }
    let from = site.to_gateway("hostile", &udp("127.0.0.1", "192.0.2.1:5353"));
    rows.push(Shot::new("hostile", "from 127.0.0.1 to a published port", from, nobody()));
    // The control: the kernel's own guard is off, so such a packet does get in where no rule of ours is meant.
    let control = site.to_gateway("hostile", &udp("192.0.2.66", "127.0.0.1:7001"));
    rows.push(Shot::new("hostile", "to loopback, as the administrator allowed", control, only(["host"])));
    rows
}

/// Members' and gateways' addresses do not come from outside, whatever is published.
fn members_addresses(site: &Site) -> Vec<Shot> {
    let mut rows = Vec::new();
    for from in ["10.1.0.12", "10.1.0.1", "10.2.0.11", "10.6.0.77", "10.4.0.11"] {
        let datagram = site.to_gateway("hostile", &udp(from, "192.0.2.1:5353"));
        rows.push(Shot::new("hostile", format!("from {from} to a published port"), datagram, nobody()));
        let segment = site.to_gateway("hostile", &syn(from, "192.0.2.1:8080"));
        rows.push(Shot::new("hostile", format!("a SYN from {from}"), segment, nobody()));
    }
    for from in ["fd01::12", "fd01::1", "fd02::11", "fd04::11"] {
        let datagram = site.to_gateway("hostile", &udp(from, "[2001:db8::1]:5353"));
        rows.push(Shot::new("hostile", format!("from {from} to a published port"), datagram, nobody()));
    }
    for from in ["192.0.2.66", "203.0.113.9"] {
        let datagram = site.to_gateway("hostile", &udp(from, "192.0.2.1:5353"));
        rows.push(Shot::new("hostile", format!("from {from} to a published port"), datagram, only(["a1"])));
        let segment = site.to_gateway("hostile", &syn(from, "192.0.2.1:8080"));
        rows.push(Shot::new("hostile", format!("a SYN from {from}"), segment, only(["a1"])));
    }
    let datagram = site.to_gateway("hostile", &udp("2001:db8::66", "[2001:db8::1]:5353"));
    rows.push(Shot::new("hostile", "from its own address to a published port", datagram, only(["a1"])));
    rows
}

/// Fragments are judged as what they are parts of.
pub(super) fn in_fragments(site: &Site) -> Vec<Shot> {
    let mut rows = Vec::new();
    let mut both = |from: &'static str, source: &str, to: &str, expected: fn() -> super::volley::Expected| {
        for (part, packet) in ["first", "second"].into_iter().zip(fragments(source, to)) {
            let frame = site.to_gateway(from, &packet);
            rows.push(Shot::new(
                from,
                format!("the {part} fragment of a datagram to {to}"),
                frame,
                expected(),
            ));
        }
    };
    both("peer", "192.0.2.100", "192.0.2.1:5353", || only(["a1"]));
    both("peer", "192.0.2.100", "10.1.0.11:53", nobody);
    both("peer", "192.0.2.100", "10.4.0.11:53", nobody);
    both("peer", "2001:db8::100", "[2001:db8::1]:5353", || only(["a1"]));
    both("peer", "2001:db8::100", "[fd01::11]:53", nobody);
    both("a2", "10.1.0.12", "192.0.2.100:53", || only(["peer"]));
    both("a2", "fd01::12", "[2001:db8::100]:53", || only(["peer"]));
    both("b1", "10.2.0.11", "192.0.2.1:5353", || only(["a1"]));
    both("b1", "10.2.0.11", "10.1.0.11:53", nobody);
    both("b1", "fd02::11", "[fd01::11]:53", nobody);
    both("c1", "10.3.0.11", "10.3.0.12:53", nobody);
    both("c1", "fd03::11", "[fd03::12]:53", nobody);
    both("e1", "10.5.0.11", "192.0.2.100:53", nobody);
    both("e1", "fd05::11", "[2001:db8::100]:53", nobody);
    rows
}

/// To the host's hardware, for others: the host forwards for its members alone.
fn to_groups(site: &Site) -> Vec<Shot> {
    let unheard = |says: &str, frame| Shot::new("hostile", says, frame, nobody());
    vec![
        unheard("to a network's broadcast", site.to_gateway("hostile", &udp("192.0.2.66", "10.1.0.255:53"))),
        unheard(
            "to a network's first address",
            site.to_gateway("hostile", &udp("192.0.2.66", "10.1.0.0:53")),
        ),
        unheard(
            "an echo to a network's broadcast",
            site.to_gateway("hostile", &echo("192.0.2.66", "10.1.0.255")),
        ),
        unheard("to a group", site.to_gateway("hostile", &udp("192.0.2.66", "239.1.1.1:53"))),
        Shot::new(
            "hostile",
            "to a member, in a frame to all",
            site.to_all("hostile", &udp("192.0.2.66", "10.1.0.11:53")),
            only(["peer"]),
        ),
    ]
}

#[test]
fn loopback_comes_from_no_wire_even_on_a_weakened_host() {
    on_site(async |site| {
        weaken();
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = loopback(site);
            site.volley("loopback on a wire", &rows);
        }
    });
}

#[test]
fn members_addresses_do_not_come_from_outside_even_on_a_weakened_host() {
    on_site(async |site| {
        weaken();
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = members_addresses(site);
            site.volley("members' addresses on the LAN", &rows);
            let rows = to_groups(site);
            site.volley("groups", &rows);
        }
    });
}

#[test]
fn fragments_are_judged_as_what_they_are_parts_of() {
    on_site(async |site| {
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = in_fragments(site);
            site.volley("fragments", &rows);
        }
    });
}
