//! Every attack twice: against netloom's defence, and against the same host set up by hand, which forwards and has no rules.
//! What arrives is the table in `docs/attacks.md`, which `UPDATE_GOLDEN=1` writes anew.

use std::{fmt::Write as _, time::Duration};

use netloom_server::kernel::stranger;
use serde_json::json;

use super::{
    API_PORT, PATIENCE, Site,
    call::{Nothing, Tcp},
    egress, injected, isolation, on_site,
    packet::{ip, udp},
    spoofing, strangers,
    volley::{Shot, nobody},
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/attacks.md");

const HEAD: &str = "# Attacks, and what arrives of them

This page is written by a test (`firewall::attacks`). It sends each frame twice: on a host that netloom keeps, and on the same host
without netloom's rules, as if it had been set up by hand: bridges, addresses, forwarding switched on. The host is weakened beforehand:
no `rp_filter`, loopback routed on all interfaces. A frame has arrived if anybody but its sender got it, or if it was answered. Which
frames they are is said in `tests/it/firewall/`, row by row; that they are judged alike with `br_netfilter` is tested there, too.

| attack | by | frames | arrive without netloom | with it |
|---|---|---|---|---|
";

/// Frames that nobody is to get.
struct Attack {
    what: &'static str,
    by: &'static str,
    rows: Vec<Shot>,
}

fn attacks(site: &Site) -> Vec<Attack> {
    let attack = |what, by, rows: Vec<Shot>| {
        let rows: Vec<Shot> = rows.into_iter().filter(Shot::is_unheard).collect();
        Attack { what, by, rows }
    };
    let mut lies = Lies::of(site);
    let mut all = vec![
        attack("another's MAC", "a member", lies.take(&["from a MAC", "gateway's MAC", "neighbour's MAC"])),
        attack("forged ARP", "a member", lies.take(&["ARP"])),
        attack(
            "forged neighbour solicitations, advertisements and listener's reports",
            "a member",
            lies.take(&["advertisement of", "solicitation", "duplicates", "listener"]),
        ),
        attack("another's IPv6 address", "a member", lies.take(&["IPv6", "::", "link-local"])),
        attack("another's IPv4 address", "a member", lies.rest()),
    ];
    let mut strange = Lies(spoofing::of_no_member(site));
    all.extend([
        attack("routers' advertisements and redirects", "a member", strange.take(&["router's"])),
        attack("answers of DHCP and DHCPv6", "a member", strange.take(&["DHCP"])),
        attack("VLAN tags, single and double", "a member", strange.take(&["VLAN", "tag"])),
        attack("other ethertypes, frames with a length, reverse ARP", "a member", strange.rest()),
        attack("frames that are not what they say", "a member", spoofing::malformed(site)),
        attack("unpublished ports and pings", "machines on the LAN", isolation::from_the_lan(site)),
        attack("loopback on a wire", "a machine on the LAN and members", injected::loopback(site)),
        attack("members' addresses as source", "a machine on the LAN", in_members_names(site)),
        attack("ways through the host to other LANs", "machines on the LAN", strangers::through(site, false)),
        attack("fragments", "members and a machine on the LAN", injected::in_fragments(site)),
        attack("IPv6 where there is none", "a member of an IPv4 network", egress::ipv6_by_hand(site)),
        attack("other networks", "members", isolation::between_networks(site, &[])),
        attack("neighbours that are kept apart", "a member", isolation::between_members(site, &nobody())),
        attack("the host, kept apart", "a member", isolation::to_the_host(site, false)),
        attack(
            "ways out where there is no egress",
            "a member",
            egress::to_the_lan(site, "e1", "10.5.0.11", "fd05::11", false),
        ),
    ]);
    all
}

/// From the LAN to members, as if from their neighbours.
fn in_members_names(site: &Site) -> Vec<Shot> {
    let ends = [
        ("10.1.0.12", "10.1.0.11:53"),
        ("10.2.0.11", "10.1.0.11:53"),
        ("10.2.0.12", "10.4.0.11:53"),
        ("10.1.0.77", "10.5.0.11:53"),
        ("fd01::12", "[fd01::11]:53"),
        ("fd02::11", "[fd04::11]:53"),
        ("fd04::77", "[fd05::11]:53"),
    ];
    let row = |(from, to): (&str, &str)| {
        let frame = site.to_gateway("hostile", &udp(from, to));
        Shot::new("hostile", format!("from {from} to {to}"), frame, nobody())
    };
    ends.map(row).into()
}

/// Rows, taken away sort by sort.
struct Lies(Vec<Shot>);

impl Lies {
    fn of(site: &Site) -> Self {
        Self(spoofing::in_anothers_name(site))
    }

    fn take(&mut self, words: &[&str]) -> Vec<Shot> {
        let (taken, left) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|row| words.iter().any(|word| row.to_string().contains(word)));
        self.0 = left;
        taken
    }

    fn rest(self) -> Vec<Shot> {
        self.0
    }
}

/// The port of the API, from members, at every address of the host.
const API_AT: [&str; 5] = ["192.0.2.1", "10.1.0.1", "10.5.0.1", "2001:db8::1", "fd01::1"];
const API_FROM: [&str; 3] = ["a1", "d1", "e1"];

fn calls_to_the_api(site: &mut Site, patience: Duration) -> usize {
    let mut open = Vec::new();
    for from in API_FROM {
        open.extend(API_AT.map(|address| site.dial(from, Tcp, (ip(address), API_PORT).into())));
    }
    if patience.is_zero() {
        API_FROM.into_iter().for_each(|from| site.settle(from));
    }
    open.iter().filter(|one| one.answer(patience) != Nothing).count()
}

/// As [`Site::settle`], where nothing is published: to a member, through the host.
fn settle_without_rules(site: &mut Site, from: &'static str) {
    for _ in 0..3 {
        let sentinel = site.to_gateway(from, &udp(&site.place(from).address, "10.1.0.11:5999"));
        site.place(from).tap.send(&sentinel.bytes).unwrap();
        site.await_at("a1", &sentinel.mark, &format!("the sentinel of {from} without rules"));
    }
}

/// The same host by hand.
fn take_the_defence_away(site: &mut Site) {
    site.daemon.stop();
    assert!(stranger::flush_firewall().unwrap());
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
    }
}

#[test]
fn no_attack_arrives_that_arrives_without_the_defence() {
    on_site(async |site| {
        injected::weaken();
        site.change("dark", json!({"isolation": {"host": true}})).await;
        API_AT.into_iter().for_each(|address| site.serve_host_at(address, API_PORT));
        let count = |site: &mut Site, settle: fn(&mut Site, &'static str)| -> Vec<usize> {
            attacks(site).iter().map(|attack| site.arrivals(&attack.rows, settle)).collect()
        };
        let mut with = count(site, Site::settle);
        with.push(calls_to_the_api(site, Duration::ZERO));
        let mut table: Vec<(&str, &str, usize)> =
            attacks(site).iter().map(|attack| (attack.what, attack.by, attack.rows.len())).collect();
        table.push(("the daemon's own port, at every address", "members", API_FROM.len() * API_AT.len()));

        take_the_defence_away(site);
        let mut without = count(site, settle_without_rules);
        without.push(calls_to_the_api(site, PATIENCE));

        let mut text = HEAD.to_owned();
        for (((what, by, frames), without), with) in table.iter().zip(without).zip(with) {
            assert!(with == 0, "{what} by {by}: {with} of {frames} arrive");
            assert!(without > 0, "{what} by {by}: none of {frames} arrives without a defence either");
            writeln!(text, "| {what} | {by} | {frames} | {without} | {with} |").unwrap();
        }
        println!("{text}");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(DOCUMENT, &text).unwrap();
        }
        let committed = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
        assert_eq!(committed, text, "UPDATE_GOLDEN=1 cargo test attacks writes it anew");
    });
}
