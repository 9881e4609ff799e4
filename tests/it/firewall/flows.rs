//! Running flows: what ends with what was withdrawn, what goes on, and the errors that belong to them.

use std::{net::SocketAddr, time::Instant};

use serde_json::json;

use super::{
    PATIENCE, Site,
    call::{Udp, by},
    modes, on_site,
    packet::{Packet, fresh_port, ip, too_big, udp, udp_of},
    volley::{Shot, nobody, only},
};

/// Datagrams of one flow, one after another, until they arrive where they should. Flows are forgotten a moment after the
/// rules have changed, by a thread of the daemon that tells nobody when.
fn until(
    site: &mut Site,
    from: &'static str,
    packet: impl Fn() -> Packet,
    place: Option<&'static str>,
    what: &str,
) {
    let end = Instant::now() + PATIENCE;
    loop {
        let frame = site.to_gateway(from, &packet());
        let row = Shot::new(from, what, frame, nobody());
        site.take_all();
        site.place(from).tap.send(row.bytes()).unwrap();
        site.settle(from);
        let seen = site.take_all();
        let reached: Vec<&str> =
            seen.iter().filter(|(_, frames)| row.is_in(frames)).map(|(place, _)| *place).collect();
        if reached == place.into_iter().collect::<Vec<_>>() {
            return site.judge(what, 1, &[]);
        }
        if Instant::now() > end {
            return site.judge(what, 1, &[format!("{row}: reaches {reached:?}, not {place:?}")]);
        }
    }
}

/// Where a port leads at first, and later. The first two are silent: a server's answer that is on its way while its flow is
/// forgotten begins a flow of its own, which its network's egress lets out. The others answer, and have no egress.
const TARGETS: [[&str; 2]; 2] = [["a1", "b1"], ["e1", "e2"]];

#[test]
fn a_datagram_of_a_running_flow_goes_where_the_port_leads_now_and_nowhere_once_it_is_withdrawn() {
    on_site(async |site| {
        site.serve("a1", &[53]);
        site.serve("e1", &[54]);
        site.serve("e2", &[54]);
        let rest = site.daemon.rest();
        for mode in modes() {
            site.bridge_netfilter(mode);
            let other = site.dial("peer", Udp, "192.0.2.1:5353".parse().unwrap());
            assert_eq!(other.answer(PATIENCE), by("a1:53", "192.0.2.100"));
            for ([first, second], (own, to, listen)) in TARGETS.into_iter().flat_map(|targets| {
                [
                    ("192.0.2.100", "192.0.2.1:5400", None),
                    ("2001:db8::100", "[2001:db8::1]:5400", None),
                    ("192.0.2.100", "192.0.2.1:5400", Some("192.0.2.1")),
                    ("2001:db8::100", "[2001:db8::1]:5400", Some("2001:db8::1")),
                ]
                .map(|way| (targets, way))
            }) {
                let source = SocketAddr::new(ip(own), fresh_port()).to_string();
                let of_flow = || udp(&source, to);
                until(site, "peer", of_flow, None, "nothing is published yet");
                let spec = json!({"protocol": "udp", "listen": {"port": 5400, "address": listen},
                    "target": {"attachment": first, "port": 54}});
                rest.post("/v1/port-forwards", &json!({"name": "moving", "spec": spec})).await.ok();
                until(site, "peer", of_flow, Some(first), "a port leads to the first");
                let target = json!({"spec": {"target": {"attachment": second}}});
                rest.patch("/v1/port-forwards/moving", &target).await.ok();
                until(site, "peer", of_flow, Some(second), "it leads to the second now");
                rest.delete("/v1/port-forwards/moving").await.ok();
                until(site, "peer", of_flow, None, "it is withdrawn");
            }
            other.ask();
            let answer = other.answer(PATIENCE);
            let wrong = (answer != by("a1:53", "192.0.2.100")).then(|| format!("gets {answer}"));
            site.judge("another flow has gone on", 1, &wrong.into_iter().collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_range_that_is_withdrawn_ends_for_all_its_ports() {
    on_site(async |site| {
        for (forward, to) in [
            ("range-udp", "192.0.2.1:20000"),
            ("range-udp", "[2001:db8::1]:20009"),
            ("shifted-udp", "192.0.2.1:21004"),
            ("shifted-udp", "[2001:db8::1]:21000"),
        ] {
            let own = if to.contains('[') { "2001:db8::100" } else { "192.0.2.100" };
            let source = SocketAddr::new(ip(own), fresh_port()).to_string();
            let of_flow = || udp(&source, to);
            until(site, "peer", of_flow, Some("a1"), "a range leads to a1");
            let path = format!("/v1/port-forwards/{forward}");
            let rest = site.daemon.rest();
            let body = rest.get(&path).await.unwrap().ok();
            rest.delete(&path).await.ok();
            until(site, "peer", of_flow, None, "the range is withdrawn");
            let again = json!({"name": body["name"], "spec": body["spec"]});
            rest.post("/v1/port-forwards", &again).await.ok();
            until(site, "peer", of_flow, Some("a1"), "the range is back");
        }
    });
}

/// The source port by which the LAN sees a flow, and the answer.
fn seen_from_outside(site: &mut Site, member: &'static str, to: &str) -> SocketAddr {
    let to: SocketAddr = to.parse().unwrap();
    let place = site.place(member);
    let own = if to.is_ipv4() { place.address.clone() } else { place.address.replace("10.1.0.", "fd01::") };
    let packet = udp(&own, &to.to_string());
    let frame = site.to_gateway(member, &packet);
    site.take_all();
    site.place(member).tap.send(&frame.bytes).unwrap();
    site.await_at("peer", &packet.mark, "a datagram to the LAN");
    let seen = site.take_all();
    let holds = |frame: &&Vec<u8>| frame.windows(8).any(|part| part == packet.mark);
    let frame = seen["peer"].iter().find(holds).unwrap();
    // Ethernet, then IPv4 without options or IPv6.
    let (source, ports) = if to.is_ipv4() {
        (<[u8; 4]>::try_from(&frame[26..30]).unwrap().into(), 34)
    } else {
        (<[u8; 16]>::try_from(&frame[22..38]).unwrap().into(), 54)
    };
    SocketAddr::new(source, u16::from_be_bytes([frame[ports], frame[ports + 1]]))
}

#[test]
fn a_router_that_says_too_big_is_heard_by_the_member_whose_packet_it_was_and_a_liar_by_nobody() {
    on_site(async |site| {
        for mode in modes() {
            site.bridge_netfilter(mode);
            for (router, liar, to) in [
                ("192.0.2.66", "198.51.100.7", "192.0.2.100:900"),
                ("2001:db8::66", "2001:db8:7::7", "[2001:db8::100]:900"),
            ] {
                let seen = seen_from_outside(site, "a1", to);
                let to: SocketAddr = to.parse().unwrap();
                let host = seen.ip().to_string();
                let a1 = if to.is_ipv4() { "10.1.0.11" } else { "fd01::11" };
                let told = site.to_gateway("hostile", &too_big(router, &host, seen, to));
                let unknown = SocketAddr::new(seen.ip(), fresh_port());
                let lie = site.to_gateway("hostile", &too_big(router, &host, unknown, to));
                let inner = SocketAddr::new(ip(a1), seen.port());
                let direct = site.to_gateway("hostile", &too_big(router, a1, inner, to));
                let wide = if to.is_ipv4() { "10.4.0.11" } else { "fd04::11" };
                let routed = SocketAddr::new(ip(wide), seen.port());
                let to_routed = site.to_gateway("hostile", &too_big(liar, wide, routed, to));
                let rows = [
                    Shot::new("hostile", "\"too big\" about a packet that was sent", told, only(["a1"])),
                    Shot::new("hostile", "\"too big\" about a packet that never was", lie, nobody()),
                    Shot::new("hostile", "\"too big\" to the member's own address", direct, nobody()),
                    Shot::new(
                        "hostile",
                        "\"too big\" to a routed member that sent nothing",
                        to_routed,
                        nobody(),
                    ),
                ];
                site.volley("errors of routers", &rows);
            }
        }
    });
}

#[test]
fn who_sends_more_than_a_network_takes_is_told() {
    on_site(async |site| {
        let rest = site.daemon.rest();
        rest.patch("/v1/networks/red", &json!({"spec": {"mtu": 1400}})).await.ok();
        for mode in modes() {
            site.bridge_netfilter(mode);
            let row = |from, says, own, to, more, expected, told| {
                let frame = site.to_gateway(from, &udp_of(own, to, more));
                Shot::new(from, says, frame, expected).answered(told)
            };
            let small = || only(["a1"]);
            let rows = [
                row("peer", "1 300 bytes", "192.0.2.100", "192.0.2.1:5999", 1300, small(), true),
                row("peer", "1 450 bytes", "192.0.2.100", "192.0.2.1:5999", 1450, nobody(), true),
                row(
                    "peer",
                    "1 450 bytes over IPv6",
                    "2001:db8::100",
                    "[2001:db8::1]:5999",
                    1430,
                    nobody(),
                    true,
                ),
                row(
                    "b1",
                    "1 450 bytes from another network",
                    "10.2.0.11",
                    "192.0.2.1:5999",
                    1450,
                    nobody(),
                    true,
                ),
            ];
            site.volley("a smaller network", &rows);
        }
    });
}

#[test]
fn an_attachment_that_goes_takes_its_flows_with_it() {
    on_site(async |site| {
        let source = SocketAddr::new(ip("192.0.2.100"), fresh_port()).to_string();
        let of_flow = || udp(&source, "192.0.2.1:5401");
        let rest = site.daemon.rest();
        let spec =
            json!({"protocol": "udp", "listen": {"port": 5401}, "target": {"attachment": "a2", "port": 53}});
        rest.post("/v1/port-forwards", &json!({"name": "leaving", "spec": spec})).await.ok();
        until(site, "peer", of_flow, Some("a2"), "a port leads to a2");
        rest.delete("/v1/attachments/a2?force=true").await.ok();
        until(site, "peer", of_flow, None, "a2 has gone");
        let attachment = json!({"namespace": "b2", "network": "red", "addresses": ["10.1.0.12", "fd01::12"]});
        rest.post("/v1/attachments", &json!({"name": "heir", "spec": attachment})).await.ok();
        until(site, "peer", of_flow, None, "whoever gets the address gets none of its flows");
    });
}
