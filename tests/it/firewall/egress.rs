//! How members reach what is outside, and what outside sees of them.

use serde_json::json;

use super::{
    Site,
    call::{Call, Nothing, Tcp, Udp, by, call},
    modes, on_site,
    packet::{BROADCAST, advertise, echo, group, listener_report, router, solicit, syn, udp},
    volley::{Shot, nobody, only},
};

/// What a member of a network may have seen outside: the host's addresses, or its own.
fn outwards(member: &'static str, near: &str, near6: &str, far: &str, far6: &str) -> Vec<Call> {
    vec![
        call(member, Tcp, "192.0.2.100:900", by("peer:900", near)),
        call(member, Udp, "192.0.2.100:900", by("peer:900", near)),
        call(member, Tcp, "[2001:db8::100]:900", by("peer:900", near6)),
        call(member, Udp, "[2001:db8::100]:900", by("peer:900", near6)),
        call(member, Tcp, "198.51.100.100:900", by("far:900", far)),
        call(member, Udp, "[2001:db8:1::100]:900", by("far:900", far6)),
    ]
}

fn masqueraded(member: &'static str) -> Vec<Call> {
    outwards(member, "192.0.2.1", "2001:db8::1", "198.51.100.1", "2001:db8:1::1")
}

/// Raw packets of a member for the LAN, and whether they get there.
pub(super) fn to_the_lan(site: &Site, from: &'static str, own: &str, own6: &str, passes: bool) -> Vec<Shot> {
    let peer = || if passes { only(["peer"]) } else { nobody() };
    let far = || if passes { only(["far"]) } else { nobody() };
    let row = |says: &str, packet, expected| Shot::new(from, says, site.to_gateway(from, &packet), expected);
    vec![
        row("a datagram to the LAN", udp(own, "192.0.2.100:900"), peer()),
        row("a datagram for DNS", udp(own, "192.0.2.100:53"), peer()),
        row("a SYN to the LAN", syn(own, "192.0.2.100:900"), peer()),
        row("an echo request to the LAN", echo(own, "192.0.2.100"), peer()).answered(passes),
        row("a datagram to another LAN", udp(own, "198.51.100.100:900"), far()),
        row("a datagram to the LAN over IPv6", udp(own6, "[2001:db8::100]:900"), peer()),
        row("a SYN to the LAN over IPv6", syn(own6, "[2001:db8::100]:900"), peer()),
        row("an echo request over IPv6", echo(own6, "2001:db8::100"), peer()).answered(passes),
        row("a datagram to another LAN over IPv6", udp(own6, "[2001:db8:1::100]:900"), far()),
    ]
}

fn serve(site: &mut Site) {
    site.serve("peer", &[900]);
    site.serve("far", &[900]);
}

#[test]
fn behind_nat_outside_sees_the_host_and_routed_it_sees_the_member() {
    on_site(async |site| {
        serve(site);
        site.serve("host", &[8000]);
        for mode in modes() {
            site.bridge_netfilter(mode);
            for member in ["a1", "a2", "b1", "c1"] {
                site.calls("behind NAT", &masqueraded(member));
            }
            let four = [
                call("f1", Tcp, "192.0.2.100:900", by("peer:900", "192.0.2.1")),
                call("f1", Udp, "198.51.100.100:900", by("far:900", "198.51.100.1")),
                // The host talks to itself by its own gateway address, and is not translated.
                call("host", Tcp, "10.1.0.1:8000", by("host:8000", "10.1.0.1")),
                call("host", Udp, "[fd01::1]:8000", by("host:8000", "fd01::1")),
            ];
            site.calls("behind NAT, IPv4 alone", &four);
            site.calls("routed", &outwards("d1", "10.4.0.11", "fd04::11", "10.4.0.11", "fd04::11"));
            let rows = to_the_lan(site, "a1", "10.1.0.11", "fd01::11", true);
            site.volley("behind NAT", &rows);
            let rows = to_the_lan(site, "d1", "10.4.0.11", "fd04::11", true);
            site.volley("routed", &rows);
        }
    });
}

#[test]
fn without_egress_nothing_gets_out_but_answers() {
    on_site(async |site| {
        serve(site);
        site.serve("e1", &[80]);
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = to_the_lan(site, "e1", "10.5.0.11", "fd05::11", false);
            site.volley("without egress", &rows);
            site.calls(
                "without egress",
                &[
                    call("e1", Tcp, "192.0.2.100:900", Nothing),
                    call("e1", Udp, "192.0.2.100:900", Nothing),
                    call("e1", Tcp, "[2001:db8::100]:900", Nothing),
                    call("peer", Tcp, "192.0.2.1:8092", by("e1:80", "192.0.2.100")),
                    call("peer", Tcp, "[2001:db8::1]:8092", by("e1:80", "2001:db8::100")),
                    call("far", Tcp, "198.51.100.1:8092", by("e1:80", "198.51.100.100")),
                ],
            );
        }
    });
}

#[test]
fn a_change_of_egress_holds_at_once_for_new_flows_and_for_running_ones() {
    on_site(async |site| {
        serve(site);
        site.serve("a1", &[80]);
        let to = "192.0.2.100:900".parse().unwrap();
        for mode in modes() {
            site.bridge_netfilter(mode);
            let running = site.dial("a1", Udp, to);
            assert_eq!(running.answer(super::PATIENCE), by("peer:900", "192.0.2.1"));
            site.change("red", json!({"egress": {"none": {}}, "isolation": {"host": false}})).await;
            let rows = to_the_lan(site, "a1", "10.1.0.11", "fd01::11", false);
            site.volley("nat became none", &rows);
            running.ask();
            site.settle("a1");
            let answer = running.answer(std::time::Duration::ZERO);
            let wrong: Vec<String> =
                (answer != Nothing).then(|| format!("it gets {answer}")).into_iter().collect();
            site.judge("a running flow ends", 1, &wrong);
            site.calls("nat became none", &[call("peer", Tcp, "192.0.2.1:8080", by("a1:80", "192.0.2.100"))]);
            site.change("red", json!({"egress": {"routed": {}}})).await;
            site.calls(
                "none became routed",
                &outwards("a1", "10.1.0.11", "fd01::11", "10.1.0.11", "fd01::11"),
            );
            let unpublished = site.to_gateway("peer", &syn("192.0.2.100", "10.1.0.11:80"));
            site.volley("none became routed", &[Shot::new("peer", "a SYN to it", unpublished, nobody())]);
            site.change("red", json!({"egress": {"nat": {}}})).await;
            site.calls("routed became nat", &masqueraded("a1"));
            // And dark, once it may, gets out by the packets that did not before.
            site.change("dark", json!({"egress": {"nat": {}}})).await;
            let rows = to_the_lan(site, "e1", "10.5.0.11", "fd05::11", true);
            site.volley("none became nat", &rows);
            site.change("dark", json!({"egress": {"none": {}}})).await;
            let rows = to_the_lan(site, "e1", "10.5.0.11", "fd05::11", false);
            site.volley("nat became none", &rows);
        }
    });
}

/// All IPv6 that a member without IPv6 may write by hand.
pub(super) fn ipv6_by_hand(site: &Site) -> Vec<Shot> {
    let (me, you, gateway, ll) = (site.mac("f1"), site.mac("f2"), site.gateway("f1"), site.link_local("f1"));
    let unheard = |says: &str, frame| Shot::new("f1", says, frame, nobody());
    let many = group("ff02::1");
    vec![
        unheard("IPv6 to its neighbour", udp(&ll, "[fe80::2]:80").ether(me, you)),
        unheard("IPv6 from an address that it made up", udp("fd06::11", "[fd06::12]:80").ether(me, you)),
        unheard("IPv6 in a frame to all", udp(&ll, "[ff02::1]:80").ether(me, BROADCAST)),
        unheard("IPv6 to a group", udp(&ll, "[ff02::fb]:5353").ether(me, many)),
        unheard("IPv6 to the host", udp(&ll, "[2001:db8::1]:7000").ether(me, gateway)),
        unheard(
            "IPv6 to the host, from an address of the LAN",
            udp("2001:db8::5", "[2001:db8::1]:7000").ether(me, gateway),
        ),
        unheard("IPv6 to the LAN", udp("fd06::11", "[2001:db8::100]:900").ether(me, gateway)),
        unheard(
            "IPv6 to the LAN, from an address of the LAN",
            udp("2001:db8::5", "[2001:db8::100]:900").ether(me, gateway),
        ),
        unheard("IPv6 to another network", udp("fd01::12", "[fd01::11]:80").ether(me, gateway)),
        unheard("IPv6 to a published port", udp("fd06::11", "[2001:db8::1]:5353").ether(me, gateway)),
        unheard("a router's advertisement", router(&ll, me).ether(me, many)),
        unheard("a solicitation", solicit(&ll, "ff02::1", "fe80::2", me).ether(me, many)),
        unheard("a search for duplicates", solicit("::", "ff02::1", "fd06::11", me).ether(me, many)),
        unheard("an advertisement", advertise(&ll, "fd06::11", me).ether(me, many)),
        unheard("a listener's report", listener_report(&ll).ether(me, group("ff02::16"))),
    ]
}

#[test]
fn a_network_without_ipv6_leaks_none_beside_networks_that_have_it() {
    on_site(async |site| {
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = ipv6_by_hand(site);
            site.volley("IPv6 where there is none", &rows);
            // The control: the same member is heard by IPv4.
            let honest = [
                Shot::new(
                    "f1",
                    "IPv4 to its neighbour",
                    site.to("f1", "f2", &udp("10.6.0.11", "10.6.0.12:80")),
                    only(["f2"]),
                ),
                Shot::new(
                    "f1",
                    "IPv4 to the LAN",
                    site.to_gateway("f1", &udp("10.6.0.11", "192.0.2.100:900")),
                    only(["peer"]),
                ),
                Shot::new(
                    "f1",
                    "IPv4 to the host",
                    site.to_gateway("f1", &udp("10.6.0.11", "192.0.2.1:7000")),
                    only(["host"]),
                ),
            ];
            site.volley("IPv4 there", &honest);
        }
    });
}
