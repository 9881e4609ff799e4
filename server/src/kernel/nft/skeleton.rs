//! The constant part of the firewall: chains and rules, chain by chain. Why each is as it is, `docs/firewall.md` says.
//!
//! Everything that grows is a set or a map, so a packet's cost does not depend on how much exists. Chains are never
//! made anew while they are right: a base chain that is re-created leaves a hole.

use super::{
    expr::{
        Load::{self, *},
        Rule,
        Verdict::{Accept, Drop, Goto, Jump, Return},
        rule,
    },
    wire::Attributes,
};
use crate::hostnet::rules::{Family, SetId};

/// The name of both tables.
pub(super) const TABLE: &str = "netloom";

/// Named counters of the inet table.
pub(super) const COUNTERS: [&str; 6] =
    ["drop_isolation", "drop_lan", "drop_transit", "drop_host", "drop_api", "drop_loopback"];

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) hook: u32,
    pub(super) priority: i32,
}

/// One chain with its rules.
pub(super) struct Chain {
    pub(super) family: Family,
    pub(super) name: &'static str,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Vec<Attributes>>,
}

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const V4: &[u8] = &[2];
const V6: &[u8] = &[10];
const ETH_IP: &[u8] = &[0x08, 0x00];
const ETH_ARP: &[u8] = &[0x08, 0x06];
const ETH_IP6: &[u8] = &[0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: &[u8] = &[1];
const ICMPV6: &[u8] = &[58];

const STATE_INVALID: u32 = 1;
const STATE_ESTABLISHED_RELATED: u32 = 2 | 4;
const STATE_UNTRACKED: u32 = 64;
/// IPS_DST_NAT
const STATUS_DNAT: u32 = 1 << 5;
const ORIGINAL: &[u8] = &[0];
const REPLY: &[u8] = &[1];
/// RTN_LOCAL
const LOCAL: u32 = 2;

/// All chains; those that others name come first.
pub(super) fn chains() -> Vec<Chain> {
    let mut all = inet();
    all.extend(bridge());
    all
}

fn inet() -> Vec<Chain> {
    let regular = |name, rules| Chain { family: Family::Inet, name, hook: None, rules };
    let base = |name, kind, hook, priority, rules| Chain {
        family: Family::Inet,
        name,
        hook: Some(Hook { kind, hook, priority }),
        rules,
    };
    vec![
        regular("publish6", publish(true)),
        regular("publish4", publish(false)),
        regular("post_net", post_net()),
        regular("untracked", untracked()),
        regular("deny", deny()),
        regular("pol", pol()),
        regular("net_net", net_net()),
        regular("from_net", from_net()),
        regular("to_net", to_net()),
        regular("host_in", host_in()),
        base("raw", "filter", PREROUTING, -300, raw()),
        base("pre", "nat", PREROUTING, -99, pre()),
        base("out", "nat", OUTPUT, -99, out()),
        base("post", "nat", POSTROUTING, 99, post()),
        base("forward", "filter", FORWARD, 0, forward()),
        base(
            "input",
            "filter",
            INPUT,
            0,
            vec![rule().in_set(&[Iifname], SetId::Bridges).then(Goto("host_in"))],
        ),
        base("output", "filter", OUTPUT, 0, output()),
    ]
}

fn ip4() -> Rule {
    rule().is(Nfproto, V4)
}

fn ip6() -> Rule {
    rule().is(Nfproto, V6)
}

/// ICMPv6 of one type.
fn icmp6(kind: u8) -> Rule {
    rule().is(L4proto, ICMPV6).is(IcmpType, &[kind])
}

fn host_order(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

/// Loopback never from a wire, before conntrack un-translates a reply.
fn raw() -> Vec<Vec<Attributes>> {
    let loopback = |load: Load| {
        let ours = ip4().is_in(load, &[127, 0, 0, 0], &[255, 0, 0, 0]).in_set(&[Iifname], SetId::Bridges);
        ours.count("drop_loopback").then(Drop)
    };
    vec![loopback(Ip4Daddr), loopback(Ip4Saddr)]
}

/// Port forwards, for the first packet of a flow that comes in.
fn pre() -> Vec<Vec<Attributes>> {
    let mut rules = vec![
        ip4().is_in(Ip4Daddr, &[127, 0, 0, 0], &[255, 0, 0, 0]).then(Return),
        ip6().is(Ip6Daddr, &LOOPBACK6).then(Return),
        ip6().is_in(Ip6Daddr, &LINK_LOCAL6, &LINK_LOCAL6_MASK).then(Return),
    ];
    rules.extend(to_publish());
    rules
}

/// Port forwards, for the first packet of a flow of the host itself. [::1] cannot be translated: the reply has no
/// route, since IPv6 has no route_localnet.
fn out() -> Vec<Vec<Attributes>> {
    let mut rules = vec![ip6().is(Ip6Daddr, &LOOPBACK6).then(Return)];
    rules.extend(to_publish());
    rules
}

const LOOPBACK6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LINK_LOCAL6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const LINK_LOCAL6_MASK: [u8; 16] = [0xff, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn to_publish() -> impl Iterator<Item = Vec<Attributes>> {
    [TCP, UDP, SCTP].into_iter().map(|protocol| {
        rule().is(L4proto, &[protocol]).is(FibDaddrType, &host_order(LOCAL)).then(Jump("publish4"))
    })
}

/// One address before any address, and gates before the ways behind them.
fn publish(ipv6: bool) -> Vec<Vec<Attributes>> {
    use SetId::*;
    let (daddr, gates, exact, any_gates, any) = if ipv6 {
        (Ip6Daddr, [Gate6, Grng6], [Fwd6, Rng6], [Gate6any, Grng6any], [Fwd6any, Rng6any])
    } else {
        (Ip4Daddr, [Gate4, Grng4], [Fwd4, Rng4], [Gate4any, Grng4any], [Fwd4any, Rng4any])
    };
    let on = [daddr, L4proto, Dport];
    let of_any = [L4proto, Dport];
    let family = || if ipv6 { ip6() } else { ip4() };
    let mut rules = Vec::new();
    if !ipv6 {
        rules.push(ip6().then(Goto("publish6")));
    }
    rules.extend(gates.map(|gate| family().verdict_of(&on, gate).end()));
    rules.push(family().dnat(&on, exact[0], ipv6, true).end());
    rules.push(family().dnat(&on, exact[1], ipv6, false).end());
    rules.extend(any_gates.map(|gate| family().verdict_of(&of_any, gate).end()));
    rules.push(family().dnat(&of_any, any[0], ipv6, true).end());
    rules.push(family().dnat(&of_any, any[1], ipv6, false).end());
    rules
}

/// Never between our own networks, and never for the host's talk with itself.
fn post() -> Vec<Vec<Attributes>> {
    let mut lo = [0; 16];
    lo[..2].copy_from_slice(b"lo");
    vec![
        rule().is(Oifname, &lo).then(Return),
        rule().in_set(&[Oifname], SetId::Bridges).then(Goto("post_net")),
        ip4().in_set(&[Ip4Saddr], SetId::Masq4).masquerade().end(),
        ip4().snat(Ip4Saddr, SetId::Snat4, false).end(),
        ip6().in_set(&[Ip6Saddr], SetId::Masq6).masquerade().end(),
        ip6().snat(Ip6Saddr, SetId::Snat6, true).end(),
    ]
}

/// Towards a member: the host under 127.0.0.1, and members that call themselves by a published port. Keyed by address,
/// since br_netfilter leaves no input interface here.
fn post_net() -> Vec<Vec<Attributes>> {
    let translated = || rule().is_not_zero_under(CtStatus, STATUS_DNAT);
    vec![
        ip4().is_in(Ip4Saddr, &[127, 0, 0, 0], &[255, 0, 0, 0]).masquerade().end(),
        translated().is(Nfproto, V4).in_set(&[Oifname, Ip4Saddr], SetId::Hairpin4).masquerade().end(),
        translated().is(Nfproto, V6).in_set(&[Oifname, Ip6Saddr], SetId::Hairpin6).masquerade().end(),
    ]
}

fn forward() -> Vec<Vec<Attributes>> {
    vec![
        rule().in_set(&[Iifname], SetId::Bridges).then(Goto("from_net")),
        rule().in_set(&[Oifname], SetId::Bridges).then(Goto("to_net")),
        rule().in_set(&[Iifname], SetId::Notransit).count("drop_transit").then(Drop),
    ]
}

fn tracked() -> [Vec<Attributes>; 2] {
    [
        rule().is_not_zero_under(CtState, STATE_INVALID).then(Drop),
        rule().is_not_zero_under(CtState, STATE_UNTRACKED).then(Goto("untracked")),
    ]
}

fn replies() -> Vec<Attributes> {
    rule().is(CtDirection, REPLY).is_not_zero_under(CtState, STATE_ESTABLISHED_RELATED).then(Accept)
}

fn from_net() -> Vec<Vec<Attributes>> {
    let mut rules = Vec::from(tracked());
    rules.extend([
        rule().then(Jump("pol")),
        rule().in_set(&[Oifname], SetId::Bridges).then(Goto("net_net")),
        replies(),
        rule().in_set(&[Iifname], SetId::Egress).then(Accept),
        rule().count("drop_isolation").then(Drop),
    ]);
    rules
}

fn net_net() -> Vec<Vec<Attributes>> {
    vec![
        rule().is_not_zero_under(CtStatus, STATUS_DNAT).then(Accept),
        rule().verdict_of(&[Iifname, Oifname], SetId::Same).end(),
        rule().in_set(&[Iifname], SetId::Open).in_set(&[Oifname], SetId::Open).then(Accept),
        rule().count("drop_isolation").then(Drop),
    ]
}

fn to_net() -> Vec<Vec<Attributes>> {
    let original = || rule().is(CtDirection, ORIGINAL);
    let routed = || rule().in_set(&[Oifname], SetId::Routed);
    let mut rules = Vec::from(tracked());
    rules.extend([
        original().is(Nfproto, V4).in_set(&[Ip4Saddr], SetId::Own4).count("drop_lan").then(Drop),
        original().is(Nfproto, V6).in_set(&[Ip6Saddr], SetId::Own6).count("drop_lan").then(Drop),
        rule().then(Jump("pol")),
        rule().is_not_zero_under(CtStatus, STATUS_DNAT).then(Accept),
        replies(),
        routed().in_set(&[CtReplySaddr4], SetId::Sel4).then(Accept),
        routed().in_set(&[CtReplySaddr6], SetId::Sel6).then(Accept),
        rule().count("drop_lan").then(Drop),
    ]);
    rules
}

/// Neighbour discovery and MLD are what the kernel itself leaves untracked; seen here only under br_netfilter.
fn untracked() -> Vec<Vec<Attributes>> {
    let mut rules: Vec<_> = [130, 131, 132, 133, 135, 136, 143].map(|kind| icmp6(kind).then(Accept)).into();
    rules.push(rule().count("drop_isolation").then(Drop));
    rules
}

/// Policy, on the conntrack tuple: every packet of both directions gets the same verdict.
fn pol() -> Vec<Vec<Attributes>> {
    vec![
        rule().verdict_of(&[CtOriginalSaddr4], SetId::Eg4).end(),
        rule().verdict_of(&[CtOriginalSaddr6], SetId::Eg6).end(),
        rule().verdict_of(&[CtReplySaddr4], SetId::In4).end(),
        rule().verdict_of(&[CtReplySaddr6], SetId::In6).end(),
    ]
}

fn deny() -> Vec<Vec<Attributes>> {
    let counted = |load, set| rule().in_set(&[load], set).then(Drop);
    vec![
        counted(CtReplySaddr4, SetId::Den4),
        counted(CtReplySaddr6, SetId::Den6),
        counted(CtOriginalSaddr4, SetId::Den4),
        counted(CtOriginalSaddr6, SetId::Den6),
        rule().then(Drop),
    ]
}

/// From a member to the host.
fn host_in() -> Vec<Vec<Attributes>> {
    let mut rules: Vec<_> = [133, 135, 136].map(|kind| icmp6(kind).then(Accept)).into();
    rules.extend([
        rule().is_not_zero_under(CtState, STATE_INVALID).then(Drop),
        rule().in_set(&[L4proto, Dport], SetId::Api).count("drop_api").then(Drop),
        rule().verdict_of(&[CtOriginalSaddr4], SetId::Eg4).end(),
        rule().verdict_of(&[CtOriginalSaddr6], SetId::Eg6).end(),
        replies(),
        rule().in_set(&[Iifname], SetId::Hostok).then(Accept),
        rule().count("drop_host").then(Drop),
    ]);
    rules
}

/// Redirects would lead members around the detour.
fn output() -> Vec<Vec<Attributes>> {
    let to_member = |rule: Rule| rule.in_set(&[Oifname], SetId::Bridges).then(Drop);
    vec![to_member(ip4().is(L4proto, ICMP).is(IcmpType, &[5])), to_member(icmp6(137))]
}

fn bridge() -> Vec<Chain> {
    let regular = |name, rules| Chain { family: Family::Bridge, name, hook: None, rules };
    let base = |name, hook, priority, rules| Chain {
        family: Family::Bridge,
        name,
        hook: Some(Hook { kind: "filter", hook, priority }),
        rules,
    };
    vec![
        regular("bad", vec![rule().in_set(&[Iifname], SetId::Spoofed).then(Drop), rule().then(Drop)]),
        regular("detour", vec![rule().to_bridge(SetId::Brmac).then(Accept)]),
        regular("l3", l3()),
        regular("g4", g4()),
        regular("garp", garp()),
        regular("ns", ns()),
        regular("na", na()),
        regular("mld", mld()),
        regular("g6icmp", g6icmp()),
        regular("g6", g6()),
        regular("guard", guard()),
        regular("group", group()),
        regular("isolated", isolated()),
        // A port whose elements are missing is closed: by prefix, not by a set.
        base("pre", PREROUTING, -300, vec![rule().is(Iifname, b"nl").then(Goto("guard"))]),
        base("forward", FORWARD, -200, bridge_forward()),
    ]
}

fn of_type(ether: &[u8]) -> Rule {
    rule().is(EtherType, ether)
}

fn guard() -> Vec<Vec<Attributes>> {
    vec![
        of_type(ETH_IP).then(Goto("g4")),
        of_type(ETH_IP6).then(Goto("g6")),
        of_type(ETH_ARP).then(Goto("garp")),
        rule().then(Goto("bad")),
    ]
}

fn noguard_or_bad(verdict: super::expr::Verdict) -> [Vec<Attributes>; 2] {
    [rule().in_set(&[Iifname], SetId::Noguard).then(verdict), rule().then(Goto("bad"))]
}

fn own6() -> Rule {
    rule().in_set(&[Iifname, EtherSaddr, Ip6Saddr], SetId::Guard6)
}

fn g4() -> Vec<Vec<Attributes>> {
    let mut rules = vec![
        rule().is(L4proto, &[UDP]).is(Sport, &67_u16.to_be_bytes()).then(Goto("bad")),
        rule().in_set(&[Iifname, EtherSaddr, Ip4Saddr], SetId::Guard4).then(Goto("l3")),
    ];
    rules.extend(noguard_or_bad(Goto("l3")));
    rules
}

fn garp() -> Vec<Vec<Attributes>> {
    // Ethernet, IPv4, six and four bytes.
    let shape: &[u8] = &[0, 1, 8, 0, 6, 4];
    let mut rules: Vec<_> = [1_u16, 2]
        .map(|operation| {
            rule()
                .is(ArpShape, shape)
                .is(ArpOperation, &operation.to_be_bytes())
                .in_set(&[Iifname, ArpSaddrEther, ArpSaddrIp], SetId::Guard4)
                .in_set(&[Iifname, EtherSaddr, ArpSaddrIp], SetId::Guard4)
                .then(Accept)
        })
        .into();
    rules.extend(noguard_or_bad(Accept));
    rules
}

fn g6() -> Vec<Vec<Attributes>> {
    let mut rules = vec![
        rule().is(L4proto, ICMPV6).then(Goto("g6icmp")),
        rule().is(L4proto, &[UDP]).is(Sport, &547_u16.to_be_bytes()).then(Goto("bad")),
        own6().then(Goto("l3")),
    ];
    rules.extend(noguard_or_bad(Goto("l3")));
    rules
}

/// No router advertisements, redirects or queries; neighbour discovery and MLD have chains of their own.
fn g6icmp() -> Vec<Vec<Attributes>> {
    let to = [
        (134, "bad"),
        (137, "bad"),
        (130, "bad"),
        (135, "ns"),
        (136, "na"),
        (131, "mld"),
        (132, "mld"),
        (143, "mld"),
    ];
    let mut rules: Vec<_> = to.map(|(kind, chain)| rule().is(IcmpType, &[kind]).then(Goto(chain))).into();
    rules.push(own6().then(Goto("l3")));
    rules.extend(noguard_or_bad(Goto("l3")));
    rules
}

fn target_is_own(rule: Rule) -> Rule {
    rule.in_set(&[Iifname, EtherSaddr, NdTarget], SetId::Guard6)
}

fn ns() -> Vec<Vec<Attributes>> {
    let mut rules = vec![target_is_own(rule().is(Ip6Saddr, &[0; 16])).then(Accept), own6().then(Accept)];
    rules.extend(noguard_or_bad(Accept));
    rules
}

fn na() -> Vec<Vec<Attributes>> {
    let mut rules = vec![target_is_own(own6()).then(Accept)];
    rules.extend(noguard_or_bad(Accept));
    rules
}

fn mld() -> Vec<Vec<Attributes>> {
    let mut rules = vec![rule().is(Ip6Saddr, &[0; 16]).then(Accept), own6().then(Accept)];
    rules.extend(noguard_or_bad(Accept));
    rules
}

/// Unicast IP of selected members goes through the host's IP layer.
fn l3() -> Vec<Vec<Attributes>> {
    vec![
        of_type(ETH_IP).in_set(&[Ip4Daddr], SetId::Route4).then(Goto("detour")),
        of_type(ETH_IP).in_set(&[Ip4Saddr], SetId::Route4).then(Goto("detour")),
        of_type(ETH_IP6).in_set(&[Ip6Daddr], SetId::Route6).then(Goto("detour")),
        of_type(ETH_IP6).in_set(&[Ip6Saddr], SetId::Route6).then(Goto("detour")),
        rule().then(Accept),
    ]
}

fn between_isolated() -> Rule {
    rule().in_set(&[Iifname], SetId::Iso).in_set(&[Oifname], SetId::Iso)
}

fn bridge_forward() -> Vec<Vec<Attributes>> {
    vec![
        rule().has_bit(EtherDaddrFirstByte, 1).then(Goto("group")),
        between_isolated().then(Goto("isolated")),
    ]
}

/// Broadcast and multicast. Every port has hairpin mode on, so a frame's reflection is dropped here.
fn group() -> Vec<Vec<Attributes>> {
    let mut rules = vec![
        rule().in_set(&[Iifname, Oifname], SetId::Selfdrop).then(Drop),
        between_isolated().then(Drop),
        of_type(ETH_IP).in_set(&[Oifname], SetId::Quiet).then(Drop),
    ];
    rules.extend(
        [131, 132, 133, 135, 136, 143]
            .map(|kind| of_type(ETH_IP6).is(L4proto, ICMPV6).is(IcmpType, &[kind]).then(Accept)),
    );
    rules.push(of_type(ETH_IP6).in_set(&[Oifname], SetId::Quiet).then(Drop));
    rules
}

/// What still arrives here has been translated inside the bridge by br_netfilter: everything else took the detour.
fn isolated() -> Vec<Vec<Attributes>> {
    let mut rules = vec![of_type(ETH_IP).in_set(&[Ip4Daddr], SetId::Route4).then(Accept)];
    rules
        .extend([135, 136].map(|kind| of_type(ETH_IP6).is(L4proto, ICMPV6).is(IcmpType, &[kind]).then(Drop)));
    rules.push(of_type(ETH_IP6).in_set(&[Ip6Daddr], SetId::Route6).then(Accept));
    rules.push(rule().then(Drop));
    rules
}
