//! Whoever is in a namespace sends whatever it likes, and is heard only as itself.

use std::os::fd::AsFd as _;

use netloom_server::{
    hostnet::{
        Action, Step,
        rules::{Part, SetId},
    },
    kernel::{
        Kernel,
        lan::{LanSpec, PeerSpec, add_lan},
        thread,
    },
    reconcile::Host as _,
};

use super::{
    Place, Site, modes, on_site,
    packet::{
        ARP, BROADCAST, Frame, IPV6, Mac, NO_MAC, Packet, advertise, arp, arp_headed, bpdu, echo, fragments,
        group, listener_report, other, redirect, router, router_behind_options, router_in_fragment, solicit,
        udp,
    },
    tap,
    volley::{Shot, nobody, only},
};

const STRANGER: Mac = [2, 0x66, 0x66, 0x66, 0x66, 0x66];
const TREE: Mac = [0x01, 0x80, 0xc2, 0, 0, 0];

/// What b1 may say.
fn own(site: &Site) -> Vec<Shot> {
    let (me, ll) = (site.mac("b1"), site.link_local("b1"));
    let heard = |says: &str, frame: Frame| Shot::new("b1", says, frame, only(["b2"]));
    let to = |packet: Packet| site.to("b1", "b2", &packet);
    let all = |packet: Packet| site.to_all("b1", &packet);
    let many = |packet: Packet| packet.ether(me, group("ff02::1"));
    let [first, second] = fragments("10.2.0.11", "10.2.0.12");
    let [first6, second6] = fragments("fd02::11", "fd02::12");
    vec![
        heard("a datagram of its own", to(udp("10.2.0.11", "10.2.0.12:2"))),
        heard("a datagram of its own to all", all(udp("10.2.0.11", "10.2.0.255:2"))),
        heard("an echo request of its own", to(echo("10.2.0.11", "10.2.0.12"))),
        heard("an ARP request", all(arp(1, (me, "10.2.0.11"), (NO_MAC, "10.2.0.12")))),
        heard("a gratuitous ARP for itself", all(arp(2, (me, "10.2.0.11"), (BROADCAST, "10.2.0.11")))),
        heard("a first fragment", to(first)),
        heard("a second fragment", to(second)),
        heard("IPv6 of its own", to(udp("fd02::11", "[fd02::12]:2"))),
        heard("IPv6 from its link-local address", to(udp(&ll, "[fd02::12]:2"))),
        heard("an echo request over IPv6", to(echo("fd02::11", "fd02::12"))),
        heard("an advertisement of itself", many(advertise("fd02::11", "fd02::11", me))),
        heard("an advertisement of itself, from link-local", many(advertise(&ll, "fd02::11", me))),
        heard("a solicitation", many(solicit("fd02::11", "ff02::1", "fd02::12", me))),
        heard("a search for duplicates of its own address", many(solicit("::", "ff02::1", "fd02::11", me))),
        heard("a listener's report", listener_report(&ll).ether(me, group("ff02::16"))),
        heard("a first fragment over IPv6", to(first6)),
        heard("a second fragment over IPv6", to(second6)),
    ]
}

/// What b1 may not say, because it is in another's name.
pub(super) fn in_anothers_name(site: &Site) -> Vec<Shot> {
    let (me, you, ll) = (site.mac("b1"), site.mac("b2"), site.link_local("b1"));
    let unheard = |says: &str, frame: Frame| Shot::new("b1", says, frame, nobody());
    let to = |packet: Packet| site.to("b1", "b2", &packet);
    let all = |packet: Packet| site.to_all("b1", &packet);
    let many = |packet: Packet| packet.ether(me, group("ff02::1"));
    let honest = udp("10.2.0.11", "10.2.0.12:2");
    let [first, second] = fragments("10.2.0.99", "10.2.0.12");
    let [first6, second6] = fragments("fd02::99", "fd02::12");
    vec![
        unheard("from a MAC that nobody has", honest.ether(STRANGER, you)),
        unheard("from the gateway's MAC", udp("10.2.0.11", "10.2.0.12:2").ether(site.gateway("b1"), you)),
        unheard("from an IPv4 address that nobody has", to(udp("10.2.0.99", "10.2.0.12:2"))),
        unheard("from its neighbour's IPv4 address", to(udp("10.2.0.12", "10.2.0.12:2"))),
        unheard("from the gateway's IPv4 address", to(udp("10.2.0.1", "10.2.0.12:2"))),
        unheard("from an IPv4 address of the Internet", to(udp("203.0.113.1", "10.2.0.12:2"))),
        unheard("from 0.0.0.0", all(udp("0.0.0.0:68", "255.255.255.255:67"))),
        unheard("from 127.0.0.1", to(udp("127.0.0.1", "10.2.0.12:2"))),
        unheard("a forged first fragment", to(first)),
        unheard("a forged second fragment", to(second)),
        unheard("ARP that it is the gateway", all(arp(2, (me, "10.2.0.1"), (BROADCAST, "10.2.0.1")))),
        unheard("ARP that it is its neighbour", all(arp(2, (me, "10.2.0.12"), (BROADCAST, "10.2.0.12")))),
        unheard("an ARP request as the gateway", all(arp(1, (me, "10.2.0.1"), (NO_MAC, "10.2.0.12")))),
        unheard("ARP for another MAC", all(arp(2, (STRANGER, "10.2.0.11"), (BROADCAST, "10.2.0.11")))),
        unheard(
            "ARP from another MAC",
            arp(2, (me, "10.2.0.11"), (BROADCAST, "10.2.0.11")).ether(STRANGER, BROADCAST),
        ),
        unheard("a search for duplicates by ARP", all(arp(1, (me, "0.0.0.0"), (NO_MAC, "10.2.0.12")))),
        unheard("from an IPv6 address that nobody has", to(udp("fd02::99", "[fd02::12]:2"))),
        unheard("from its neighbour's IPv6 address", to(udp("fd02::12", "[fd02::12]:2"))),
        unheard("from the gateway's IPv6 address", to(udp("fd02::1", "[fd02::12]:2"))),
        unheard("from a link-local address that is not its own", to(udp("fe80::1", "[fd02::12]:2"))),
        unheard("from ::", to(udp("::", "[fd02::12]:2"))),
        unheard("a forged first fragment over IPv6", to(first6)),
        unheard("a forged second fragment over IPv6", to(second6)),
        unheard("an advertisement of the gateway", many(advertise("fd02::11", "fd02::1", me))),
        unheard("an advertisement of its neighbour", many(advertise(&ll, "fd02::12", me))),
        unheard("an advertisement of itself from its neighbour", many(advertise("fd02::12", "fd02::11", me))),
        unheard("a solicitation from its neighbour", many(solicit("fd02::12", "ff02::1", "fd02::1", me))),
        unheard(
            "a search for duplicates of its neighbour's address",
            many(solicit("::", "ff02::1", "fd02::12", me)),
        ),
        unheard("a forged listener's report", listener_report("fd02::12").ether(me, group("ff02::16"))),
        // Last: a switch that believes it looks for the neighbour here from now on.
        unheard("from its neighbour's MAC", udp("10.2.0.11", "10.2.0.12:2").ether(you, BROADCAST)),
    ]
}

/// What no member may say in any name: no router, no server, nothing but ARP, IPv4 and IPv6.
pub(super) fn of_no_member(site: &Site) -> Vec<Shot> {
    let (me, you, ll) = (site.mac("b1"), site.mac("b2"), site.link_local("b1"));
    let unheard = |says: &str, frame: Frame| Shot::new("b1", says, frame, nobody());
    let to = |packet: Packet| site.to("b1", "b2", &packet);
    let all = |packet: Packet| site.to_all("b1", &packet);
    let many = |packet: Packet| packet.ether(me, group("ff02::1"));
    let gratuitous = ((me, "10.2.0.11"), (BROADCAST, "10.2.0.11"));
    let mut rows = vec![
        unheard("an answer of DHCP", all(udp("10.2.0.11:67", "255.255.255.255:68"))),
        unheard("an answer of DHCPv6", many(udp(&format!("[{ll}]:547"), "[ff02::1]:546"))),
        unheard("a router's advertisement", many(router(&ll, me))),
        unheard("a router's advertisement behind options", many(router_behind_options(&ll, me))),
        unheard("a router's advertisement in a fragment", many(router_in_fragment(&ll, me))),
        unheard("a router's redirect", to(redirect(&ll, "fd02::12", "fd02::66", "fd02::1", me))),
        unheard("reverse ARP", all(arp(3, gratuitous.0, gratuitous.1).called(0x8035))),
        unheard("a word about the spanning tree", bpdu().ether(me, TREE)),
    ];
    for (says, tags) in [
        ("VLAN 5", &[0x81, 0, 0, 5][..]),
        ("a priority tag", &[0x81, 0, 0xe0, 0]),
        ("a provider's tag", &[0x88, 0xa8, 0, 5]),
        ("two tags", &[0x81, 0, 0, 5, 0x81, 0, 0, 6]),
        ("a provider's tag and another", &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]),
        ("an old tag of a provider", &[0x91, 0, 0, 5]),
    ] {
        rows.push(unheard(says, to(udp("10.2.0.11", "10.2.0.12:2").tagged(tags))));
        rows.push(unheard(&format!("{says}, to all"), all(udp("10.2.0.11", "10.2.0.12:2").tagged(tags))));
        rows.push(unheard(&format!("{says}, IPv6"), to(udp("fd02::11", "[fd02::12]:2").tagged(tags))));
    }
    for (says, kind) in [
        ("an experiment", 0x88b5),
        ("PPPoE", 0x8864),
        ("MPLS", 0x8847),
        ("a frame with a length", 0x30),
        ("EAPOL", 0x888e),
        ("LLDP to its neighbour", 0x88cc),
        ("IPX", 0x8137),
        ("type 0", 0),
    ] {
        rows.push(unheard(says, other(kind).ether(me, you)));
        rows.push(unheard(&format!("{says}, to all"), other(kind).ether(me, BROADCAST)));
    }
    rows
}

/// What is not what its frame says.
pub(super) fn malformed(site: &Site) -> Vec<Shot> {
    let me = site.mac("b1");
    let unheard = |says: &str, frame: Frame| Shot::new("b1", says, frame, nobody());
    let to = |packet: Packet| site.to("b1", "b2", &packet);
    let all = |packet: Packet| site.to_all("b1", &packet);
    let (sender, target) = ((me, "10.2.0.11"), (BROADCAST, "10.2.0.11"));
    vec![
        unheard("an ARP of no known operation", all(arp(9, sender, target))),
        unheard("an ARP of other lengths", all(arp_headed([0, 1, 8, 0, 8, 4, 0, 2], sender, target))),
        unheard("IPv4 in a frame that says IPv6", to(udp("10.2.0.11", "10.2.0.12:2").called(IPV6))),
        unheard("IPv4 in a frame that says ARP", to(udp("10.2.0.11", "10.2.0.12:2").called(ARP))),
    ]
}

/// A switch without rules, far from the host's networks: what is a frame at all arrives there.
fn on_a_plain_switch(site: &mut Site, rows: &[Shot]) {
    let spec = LanSpec {
        host_interface: "eth9".into(),
        host_addresses: Vec::new(),
        host_routes: Vec::new(),
        peers: vec![PeerSpec::new("left", []), PeerSpec::new("right", [])],
    };
    let lan = add_lan(&spec).unwrap();
    thread::run(lan.segment(), "plain", || {
        for switch in ["iptables", "ip6tables", "arptables"] {
            // Where there is no such switch nothing has to be switched off.
            let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{switch}"), "0");
        }
    })
    .unwrap();
    let open = |name: &str| {
        let peer = lan.peer(name).unwrap();
        (peer.as_fd().try_clone_to_owned().unwrap(), peer.mac())
    };
    for name in ["left", "right"] {
        let (namespace, mac) = open(name);
        let tap = tap(&namespace, "eth0");
        let host = "192.0.2.1";
        site.places.insert(
            name,
            Place { namespace, tap, mac, gateway: lan.host_mac(), address: String::new(), host },
        );
    }
    let last = Shot::new("left", "a last word", other(0x88b5).ether(STRANGER, BROADCAST), only(["right"]));
    for row in rows {
        site.place("left").tap.send(row.bytes()).unwrap();
    }
    site.place("left").tap.send(last.bytes()).unwrap();
    site.await_at("right", &last.mark(), "the last word");
    let seen = site.take_all();
    let wrong: Vec<String> =
        rows.iter().filter(|row| !row.is_in(&seen["right"])).map(Shot::to_string).collect();
    site.places.remove("left");
    site.places.remove("right");
    site.judge("on a switch without rules every frame arrives", rows.len(), &wrong);
}

#[test]
fn a_member_is_heard_as_itself_and_as_nobody_else() {
    on_site(async |site| {
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = own(site);
            site.volley("what is its own", &rows);
            let before = spoofed_by_b1(site).await;
            let rows = in_anothers_name(site);
            site.volley("what is in another's name", &rows);
            let counted = spoofed_by_b1(site).await - before;
            assert_eq!(counted, rows.len() as u64, "each of them is counted, by who sent it");
        }
    });
}

#[test]
fn a_policy_that_allows_everything_takes_nothing_from_the_guard() {
    on_site(async |site| {
        let everything = serde_json::json!({"name": "everything", "spec": {"ingress": [{}], "egress": [{}]}});
        site.daemon.rest().post("/v1/policies", &everything).await.ok();
        for mode in modes() {
            site.bridge_netfilter(mode);
            let word = site.to("b1", "b2", &udp("10.2.0.11", "10.2.0.12:2"));
            site.volley("what is allowed", &[Shot::new("b1", "a word of its own", word, only(["b2"]))]);
            let rows = in_anothers_name(site);
            site.volley("what is in another's name, under a policy", &rows);
            let rows = of_no_member(site);
            site.volley("what no member may say, under a policy", &rows);
        }
    });
}

/// What the metrics count of b1; nothing of anybody else, who has not lied.
async fn spoofed_by_b1(site: &Site) -> u64 {
    let text = site.daemon.rest().get("/metrics").await.unwrap().body;
    let lines = text.as_str().unwrap().lines();
    let of: Vec<_> = lines.filter_map(|line| line.strip_prefix("netloom_spoofed_frames_total")).collect();
    let [line] = of[..] else {
        assert!(of.is_empty(), "{of:?}");
        return 0;
    };
    line.strip_prefix(r#"{attachment="b1"} "#).unwrap().parse().unwrap()
}

#[test]
fn a_member_is_no_router_no_server_and_speaks_nothing_but_arp_and_ip() {
    on_site(async |site| {
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = of_no_member(site);
            site.volley("what no member may say", &rows);
            let rows = malformed(site);
            site.volley("what is not what it says", &rows);
        }
        let tables = [of_no_member(site), malformed(site), in_anothers_name(site)];
        let rows: Vec<Shot> = tables.into_iter().flatten().collect();
        on_a_plain_switch(site, &rows);
    });
}

#[test]
fn without_the_guard_the_same_lies_are_believed_but_routers_and_tags_stay_out() {
    on_site(async |site| {
        site.change("blue", serde_json::json!({"spoof_guard": false})).await;
        for mode in modes() {
            site.bridge_netfilter(mode);
            // The bridge learns again where b2 is.
            let word = site.to("b2", "b1", &udp("10.2.0.12", "10.2.0.11:2"));
            site.volley("b2 is itself", &[Shot::new("b2", "a word", word, only(["b1"]))]);
            let rows = of_no_member(site);
            site.volley("what no member may say, without the guard", &rows);
            let mut rows = in_anothers_name(site);
            // Where bridged packets pass the host's IP layer, that has its own word about loopback on a wire.
            rows.retain(|row| !row.to_string().ends_with("127.0.0.1"));
            let rows: Vec<Shot> = rows.iter().map(|row| row.moved("b1", only(["b2"]))).collect();
            site.volley("what is in another's name, without the guard", &rows);
        }
    });
}

#[test]
fn a_port_without_elements_is_closed() {
    on_site(async |site| {
        let b1 = site.daemon.rest().get("/v1/attachments/b1").await.unwrap().ok();
        let port = b1["status"]["host_device"].as_str().unwrap().to_owned();
        // While the daemon runs the tables are its own.
        site.daemon.stop();
        let kernel = Kernel::open().unwrap();
        let have = kernel.observe().unwrap();
        let of_b1 = have.rules.elements.iter().filter(|element| {
            matches!(element.set(), SetId::Guard4 | SetId::Guard6)
                && element
                    .key()
                    .first()
                    .is_some_and(|part| matches!(part, Part::Ifname(name) if *name == port))
        });
        let steps: Vec<Step> =
            of_b1.map(|element| Step { uid: None, action: Action::RemoveRule(element.clone()) }).collect();
        assert_eq!(steps.len(), 3, "an address of each family, and the link-local one");
        for outcome in kernel.apply(&steps) {
            assert!(!format!("{outcome:?}").starts_with("Failed"), "{outcome:?}");
        }
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = own(site);
            for row in &rows {
                site.place("b1").tap.send(row.bytes()).unwrap();
            }
            // b1 has no sentinel now, but the queue is everybody's.
            site.settle("b2");
            let seen = site.take_all();
            let heard = rows.iter().filter(|row| seen.values().any(|frames| row.is_in(frames)));
            let wrong: Vec<String> = heard.map(Shot::to_string).collect();
            site.judge("a port without elements", rows.len(), &wrong);
        }
    });
}
