//! What is published is reached by those who may, arrives where it should, and keeps the caller's address.

use serde_json::json;

use super::{
    Site,
    call::{Call, Nothing, Refused, Tcp, Udp, by, call},
    modes, on_site,
};

/// From the LAN: every kind of forward, in both families.
fn from_the_lan() -> Vec<Call> {
    let web = || by("a1:80", "192.0.2.100");
    let web6 = || by("a1:80", "2001:db8::100");
    let dns = || by("a1:53", "192.0.2.100");
    let dns6 = || by("a1:53", "2001:db8::100");
    let a1 = |port: u16| by(&format!("a1:{port}"), "192.0.2.100");
    let a1_6 = |port: u16| by(&format!("a1:{port}"), "2001:db8::100");
    vec![
        // Any address of the host: also those of its networks, which the LAN reaches by a route.
        call("peer", Tcp, "192.0.2.1:8080", web()),
        call("peer", Tcp, "192.0.2.2:8080", web()),
        call("peer", Tcp, "198.51.100.1:8080", web()),
        call("peer", Tcp, "10.1.0.1:8080", web()),
        call("peer", Tcp, "10.2.0.1:8080", web()),
        call("peer", Tcp, "[2001:db8::1]:8080", web6()),
        call("peer", Tcp, "[2001:db8:1::1]:8080", web6()),
        call("peer", Tcp, "[fd02::1]:8080", web6()),
        call("far", Tcp, "198.51.100.1:8080", by("a1:80", "198.51.100.100")),
        call("far", Tcp, "[2001:db8:1::1]:8080", by("a1:80", "2001:db8:1::100")),
        call("peer", Udp, "192.0.2.1:5353", dns()),
        call("peer", Udp, "192.0.2.2:5353", dns()),
        call("peer", Udp, "198.51.100.1:5353", dns()),
        call("peer", Udp, "10.2.0.1:5353", dns()),
        call("peer", Udp, "[2001:db8::1]:5353", dns6()),
        call("peer", Udp, "[fd02::1]:5353", dns6()),
        // The other protocol's port is not published.
        call("peer", Udp, "192.0.2.1:8080", Refused),
        call("peer", Tcp, "192.0.2.1:5353", Refused),
        call("peer", Udp, "[2001:db8::1]:8080", Refused),
        // One address, and no other.
        call("peer", Tcp, "192.0.2.1:8081", web()),
        call("peer", Udp, "192.0.2.1:8081", web()),
        call("peer", Tcp, "192.0.2.2:8081", Refused),
        call("peer", Udp, "192.0.2.2:8081", Refused),
        call("peer", Tcp, "[2001:db8::1]:8081", Refused),
        call("peer", Tcp, "[2001:db8::1]:8084", web6()),
        call("peer", Tcp, "[2001:db8:1::1]:8084", Refused),
        call("peer", Tcp, "192.0.2.1:8084", Refused),
        // Published on 127.0.0.1: for the host alone.
        call("peer", Tcp, "192.0.2.1:8082", Refused),
        call("peer", Udp, "192.0.2.1:8082", Refused),
        // A range, its ends, and what lies beside it.
        call("peer", Tcp, "192.0.2.1:20000", a1(20000)),
        call("peer", Tcp, "192.0.2.1:20009", a1(20009)),
        call("peer", Udp, "192.0.2.1:20000", a1(20000)),
        call("peer", Udp, "192.0.2.1:20009", a1(20009)),
        call("peer", Tcp, "[2001:db8::1]:20009", a1_6(20009)),
        call("peer", Udp, "[2001:db8::1]:20000", a1_6(20000)),
        call("peer", Tcp, "192.0.2.1:19999", Refused),
        call("peer", Tcp, "192.0.2.1:20010", Refused),
        call("peer", Udp, "192.0.2.1:20010", Refused),
        call("peer", Udp, "[2001:db8::1]:20010", Refused),
        // A range to other ports.
        call("peer", Tcp, "192.0.2.1:21000", a1(22000)),
        call("peer", Tcp, "192.0.2.1:21004", a1(22004)),
        call("peer", Udp, "192.0.2.1:21000", a1(22000)),
        call("peer", Udp, "192.0.2.1:21004", a1(22004)),
        call("peer", Tcp, "[2001:db8::1]:21004", a1_6(22004)),
        call("peer", Udp, "[2001:db8::1]:21000", a1_6(22000)),
        call("peer", Tcp, "192.0.2.1:21005", Refused),
        call("peer", Tcp, "192.0.2.1:22000", Refused),
        // Nobody listens behind a published port: its own refusal comes back.
        call("peer", Tcp, "192.0.2.1:20005", Refused),
        call("peer", Udp, "192.0.2.1:20005", Refused),
        call("peer", Udp, "[2001:db8::1]:20005", Refused),
        // From every kind of network.
        call("peer", Tcp, "192.0.2.1:8090", by("b1:80", "192.0.2.100")),
        call("peer", Tcp, "192.0.2.1:8091", by("c1:80", "192.0.2.100")),
        call("peer", Tcp, "[2001:db8::1]:8091", by("c1:80", "2001:db8::100")),
        call("peer", Tcp, "192.0.2.1:8092", by("e1:80", "192.0.2.100")),
        call("peer", Tcp, "[2001:db8::1]:8092", by("e1:80", "2001:db8::100")),
        call("peer", Tcp, "192.0.2.1:8093", by("f1:80", "192.0.2.100")),
        call("peer", Tcp, "192.0.2.1:8094", by("d1:80", "192.0.2.100")),
        call("peer", Tcp, "[2001:db8::1]:8094", by("d1:80", "2001:db8::100")),
        // A member without IPv6 is not reached by it.
        call("peer", Tcp, "[2001:db8::1]:8093", Refused),
    ]
}

/// From the host itself, which alone has 127.0.0.1.
fn from_the_host() -> Vec<Call> {
    vec![
        call("host", Tcp, "192.0.2.1:8080", by("a1:80", "192.0.2.1")),
        call("host", Tcp, "10.2.0.1:8080", by("a1:80", "10.2.0.1")),
        call("host", Tcp, "[2001:db8::1]:8080", by("a1:80", "2001:db8::1")),
        call("host", Udp, "192.0.2.1:5353", by("a1:53", "192.0.2.1")),
        call("host", Udp, "[2001:db8::1]:5353", by("a1:53", "2001:db8::1")),
        call("host", Tcp, "127.0.0.1:8080", by("a1:80", "10.1.0.1")),
        call("host", Tcp, "127.0.0.2:8080", by("a1:80", "10.1.0.1")),
        call("host", Udp, "127.0.0.1:5353", by("a1:53", "10.1.0.1")),
        call("host", Tcp, "127.0.0.1:8082", by("a1:80", "10.1.0.1")),
        call("host", Udp, "127.0.0.1:8082", by("a1:80", "10.1.0.1")),
        call("host", Tcp, "127.0.0.2:8082", Refused),
        call("host", Tcp, "192.0.2.1:8082", Refused),
        call("host", Tcp, "127.0.0.1:8081", Refused),
        call("host", Tcp, "127.0.0.1:20009", by("a1:20009", "10.1.0.1")),
        call("host", Udp, "127.0.0.1:21004", by("a1:22004", "10.1.0.1")),
        call("host", Tcp, "127.0.0.1:8091", by("c1:80", "10.3.0.1")),
        call("host", Tcp, "127.0.0.1:8092", by("e1:80", "10.5.0.1")),
        // ::1 cannot be translated: the answer would have no way back.
        call("host", Tcp, "[::1]:8080", Refused),
    ]
}

/// From other networks, whose members keep their addresses.
fn from_other_networks() -> Vec<Call> {
    let mut rows = Vec::new();
    for (member, own, own6) in [
        ("b1", "10.2.0.11", Some("fd02::11")),
        ("c1", "10.3.0.11", Some("fd03::11")),
        ("d1", "10.4.0.11", Some("fd04::11")),
        ("e1", "10.5.0.11", Some("fd05::11")),
        ("f1", "10.6.0.11", None),
    ] {
        rows.push(call(member, Tcp, "192.0.2.1:8080", by("a1:80", own)));
        rows.push(call(member, Udp, "192.0.2.2:5353", by("a1:53", own)));
        rows.push(call(member, Tcp, "10.1.0.1:8080", by("a1:80", own)));
        rows.push(call(member, Udp, "192.0.2.1:21001", Refused));
        if let Some(own) = own6 {
            rows.push(call(member, Tcp, "[2001:db8::1]:8080", by("a1:80", own)));
            rows.push(call(member, Udp, "[fd01::1]:5353", by("a1:53", own)));
        }
    }
    rows
}

/// The same ports of others are theirs.
fn of_others() -> Vec<Call> {
    vec![
        call("a1", Tcp, "192.0.2.100:8080", by("peer:8080", "192.0.2.1")),
        call("b1", Udp, "192.0.2.100:5353", by("peer:5353", "192.0.2.1")),
        call("d1", Tcp, "192.0.2.100:8080", by("peer:8080", "10.4.0.11")),
        call("host", Tcp, "192.0.2.100:8080", by("peer:8080", "192.0.2.1")),
        call("host", Udp, "192.0.2.100:5353", by("peer:5353", "192.0.2.1")),
        call("a1", Tcp, "[2001:db8::100]:8080", by("peer:8080", "2001:db8::1")),
        call("host", Tcp, "[2001:db8::100]:8080", by("peer:8080", "2001:db8::1")),
    ]
}

fn serve(site: &mut Site) {
    site.serve("a1", &[80, 53, 20000, 20009, 22000, 22004]);
    for member in ["b1", "c1", "d1", "e1", "f1"] {
        site.serve(member, &[80]);
    }
    site.serve("peer", &[8080, 5353]);
}

#[test]
fn the_lan_reaches_what_is_published_and_nothing_beside_it() {
    on_site(async |site| {
        serve(site);
        for mode in modes() {
            site.bridge_netfilter(mode);
            site.calls("from the LAN", &from_the_lan());
        }
    });
}

#[test]
fn the_host_and_other_networks_reach_what_is_published_and_the_ports_of_others_are_theirs() {
    on_site(async |site| {
        serve(site);
        for mode in modes() {
            site.bridge_netfilter(mode);
            site.calls("from the host", &from_the_host());
            site.calls("from other networks", &from_other_networks());
            site.calls("equal ports of others", &of_others());
        }
    });
}

/// Published for the peer alone: any address, one address, a range.
async fn gated(site: &Site) {
    let sources = ["192.0.2.100/32", "2001:db8::100/128"];
    for (name, protocol, listen) in [
        ("gated", "tcp", json!({"port": 8100})),
        ("gated-udp", "udp", json!({"port": 8100})),
        ("gated-one", "tcp", json!({"address": "192.0.2.1", "port": 8101})),
        ("gated-range", "udp", json!({"port": 20100, "end_port": 20104})),
    ] {
        let target = json!({"attachment": "a1", "port": if name == "gated-range" { 20100 } else { 80 }});
        let spec = json!({"protocol": protocol, "listen": listen, "target": target, "sources": sources});
        site.daemon.rest().post("/v1/port-forwards", &json!({"name": name, "spec": spec})).await.ok();
    }
}

#[test]
fn who_is_not_among_the_sources_is_shut_out_wherever_it_calls_from_and_the_host_never_is() {
    on_site(async |site| {
        site.serve("a1", &[80, 20102]);
        gated(site).await;
        for mode in modes() {
            site.bridge_netfilter(mode);
            let mut rows = vec![
                call("peer", Tcp, "192.0.2.1:8100", by("a1:80", "192.0.2.100")),
                call("peer", Udp, "192.0.2.2:8100", by("a1:80", "192.0.2.100")),
                call("peer", Tcp, "10.2.0.1:8100", by("a1:80", "192.0.2.100")),
                call("peer", Tcp, "[2001:db8::1]:8100", by("a1:80", "2001:db8::100")),
                call("peer", Udp, "[fd02::1]:8100", by("a1:80", "2001:db8::100")),
                call("peer", Tcp, "192.0.2.1:8101", by("a1:80", "192.0.2.100")),
                call("peer", Udp, "192.0.2.1:20102", by("a1:20102", "192.0.2.100")),
                call("peer", Udp, "[2001:db8::1]:20102", by("a1:20102", "2001:db8::100")),
                call("host", Tcp, "192.0.2.1:8100", by("a1:80", "192.0.2.1")),
                call("host", Udp, "127.0.0.1:8100", by("a1:80", "10.1.0.1")),
                call("host", Tcp, "[2001:db8::1]:8100", by("a1:80", "2001:db8::1")),
                call("host", Udp, "192.0.2.1:20102", by("a1:20102", "192.0.2.1")),
            ];
            for other in ["hostile", "far", "a1", "a2", "b1", "c1", "d1", "e1"] {
                rows.push(call(other, Tcp, "192.0.2.1:8100", Nothing));
                rows.push(call(other, Udp, "192.0.2.1:8100", Nothing));
                rows.push(call(other, Tcp, "[2001:db8::1]:8100", Nothing));
                rows.push(call(other, Tcp, "192.0.2.1:8101", Nothing));
                rows.push(call(other, Udp, "192.0.2.1:20102", Nothing));
                rows.push(call(other, Udp, "[2001:db8::1]:20102", Nothing));
            }
            site.calls("published for the peer alone", &rows);
        }
    });
}
