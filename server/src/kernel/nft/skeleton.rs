//! The constant part of the firewall: every chain, rule and counter of both tables, beside the sets of
//! [`SetId`](crate::hostnet::rules::SetId). `skeleton.nft` says the same in the words of `nft`, and a test compares.
//!
//! What must not be forgotten when a rule is changed:
//! - A policy is asked about the flow (`ct original`, `ct reply`), for every packet and in both directions, and no
//!   rule accepts established flows before: so a change of policy takes hold of running flows at once.
//! - In a bridge the type of a frame is asked at link header + 12, first: the kernel hides the VLAN tag of a tagged
//!   frame, and `meta protocol` is true for what is inside.
//! - `iifname` is empty in postrouting where `br_netfilter` is on, so nothing there asks for it.
//! - An accept never overrides another table's drop, so the priorities of the filter chains hardly matter; those of
//!   the NAT chains lie beside the customary ones, because equal ones have no order.
//! - Neighbour discovery is untracked by the kernel, and passes `forward` where `br_netfilter` is on.

use std::net::Ipv6Addr;

use crate::hostnet::DEVICE_PREFIX;
use crate::hostnet::rules::{Family, SetId::*};

use super::expr::*;
use super::uapi::{
    NF_INET_FORWARD, NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_INET_PRE_ROUTING,
    NFPROTO_IPV4, NFPROTO_IPV6,
};

/// A chain with its rules.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) family: Family,
    pub(super) name: &'static str,
    /// Of a base chain.
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Statement>,
}

/// Where packets enter a chain. The policy is always to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
}

/// The named counters, all in the inet table.
pub(super) const COUNTERS: [&str; 7] =
    ["drop_isolation", "drop_lan", "drop_transit", "drop_host", "drop_api", "drop_loopback", "drop_source"];

/// The name of both tables.
pub(super) const TABLE: &str = "netloom";

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const TRANSPORTS: [&[u8]; 3] = [&[6], &[17], &[132]];
const ETHER_IP: u16 = 0x0800;
const ETHER_ARP: u16 = 0x0806;
const ETHER_IP6: u16 = 0x86dd;
const ND_ROUTER_SOLICIT: u8 = 133;
const ND_NEIGHBOUR_SOLICIT: u8 = 135;
const ND_NEIGHBOUR_ADVERT: u8 = 136;
const ND_REDIRECT: u8 = 137;
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const MLD2_REPORT: u8 = 143;

/// A rule is its statements, one after another.
macro_rules! rule {
    ($($statement:expr),+ $(,)?) => { [$($statement),+].concat() };
}

/// All chains, in the order in which they are made.
pub(super) fn chains() -> Vec<Chain> {
    let inet = [loopback_and_published(), publish4(), publish6(), source_nat(), forward(), policy(), host()];
    let bridge = [guard(), guard6(), layer2()];
    inet.into_iter().chain(bridge).flatten().collect()
}

fn loopback_and_published() -> Vec<Chain> {
    let from_wire =
        |address| rule![ip(), loopback4(address), within(&[IIFNAME], Bridges), counted_drop("drop_loopback")];
    let publish = || rule![one_of(L4PROTO, INET_PROTO, &TRANSPORTS), to_local(), jump("publish4")];
    let v6 = Ipv6Addr::new;
    // ::1 and fe80::/10
    let unpublished = [
        (Ipv6Addr::LOCALHOST, v6(0, 0, 0, 0, 0, 0, 0, 2)),
        (v6(0xfe80, 0, 0, 0, 0, 0, 0, 0), v6(0xfec0, 0, 0, 0, 0, 0, 0, 0)),
    ];
    vec![
        // Before conntrack, which would translate an answer back.
        base("raw", ("filter", NF_INET_PRE_ROUTING, -300), vec![from_wire(IP_DADDR), from_wire(IP_SADDR)]),
        base(
            "pre",
            ("nat", NF_INET_PRE_ROUTING, -99),
            vec![
                rule![ip(), loopback4(IP_DADDR), back()],
                rule![ip6(), in_one_of(IP6_DADDR, &unpublished), back()],
                publish(),
            ],
        ),
        base(
            "out",
            ("nat", NF_INET_LOCAL_OUT, -99),
            vec![
                // [::1] cannot be translated: the answer would have no way back.
                rule![ip6(), is(IP6_DADDR, &Ipv6Addr::LOCALHOST.octets()), back()],
                publish(),
            ],
        ),
    ]
}

fn publish4() -> Vec<Chain> {
    let one = [IP_DADDR, L4PROTO, DPORT];
    let any = [L4PROTO, DPORT];
    let gated_one = |gate| {
        let (source, key) = (Src4, [IP_DADDR, L4PROTO, DPORT, IP_SADDR]);
        rule![ip(), within(&one, gate), outside(&key, source), from_elsewhere(), counted_drop("drop_source")]
    };
    let gated_any = |gate| {
        let (source, key) = (Src4any, [L4PROTO, DPORT, IP_SADDR]);
        rule![within(&any, gate), ip(), outside(&key, source), from_elsewhere(), counted_drop("drop_source")]
    };
    vec![chain(
        "publish4",
        vec![
            rule![ip6(), goto("publish6")],
            gated_one(Gate4),
            gated_one(Grng4),
            rule![ip(), dnat(NFPROTO_IPV4, &one, Fwd4)],
            rule![ip(), dnat(NFPROTO_IPV4, &one, Rng4)],
            gated_any(Gate4any),
            gated_any(Grng4any),
            rule![dnat(NFPROTO_IPV4, &any, Fwd4any)],
            rule![dnat(NFPROTO_IPV4, &any, Rng4any)],
        ],
    )]
}

fn publish6() -> Vec<Chain> {
    let one = [IP6_DADDR, L4PROTO, DPORT];
    let any = [L4PROTO, DPORT];
    let gated_one = |gate| {
        let (source, key) = (Src6, [IP6_DADDR, L4PROTO, DPORT, IP6_SADDR]);
        rule![ip6(), within(&one, gate), outside(&key, source), from_elsewhere(), counted_drop("drop_source")]
    };
    let gated_any = |gate| {
        let (source, key) = (Src6any, [L4PROTO, DPORT, IP6_SADDR]);
        rule![within(&any, gate), ip6(), outside(&key, source), from_elsewhere(), counted_drop("drop_source")]
    };
    vec![chain(
        "publish6",
        vec![
            gated_one(Gate6),
            gated_one(Grng6),
            rule![ip6(), dnat(NFPROTO_IPV6, &one, Fwd6)],
            rule![ip6(), dnat(NFPROTO_IPV6, &one, Rng6)],
            gated_any(Gate6any),
            gated_any(Grng6any),
            rule![dnat(NFPROTO_IPV6, &any, Fwd6any)],
            rule![dnat(NFPROTO_IPV6, &any, Rng6any)],
        ],
    )]
}

fn source_nat() -> Vec<Chain> {
    vec![
        base(
            "post",
            ("nat", NF_INET_POST_ROUTING, 99),
            vec![
                // Else the host, talking to its own gateway address, would be given a loopback address.
                rule![oifname_is("lo"), back()],
                rule![within(&[OIFNAME], Bridges), goto("post_net")],
                rule![ip(), within(&[IP_SADDR], Masq4), masquerade()],
                rule![ip(), snat(NFPROTO_IPV4, &[IP_SADDR], Snat4)],
                rule![ip6(), within(&[IP6_SADDR], Masq6), masquerade()],
                rule![ip6(), snat(NFPROTO_IPV6, &[IP6_SADDR], Snat6)],
            ],
        ),
        chain(
            "post_net",
            vec![
                rule![ip(), loopback4(IP_SADDR), masquerade()],
                rule![published(), ip(), within(&[OIFNAME, IP_SADDR], Hairpin4), masquerade()],
                rule![published(), ip6(), within(&[OIFNAME, IP6_SADDR], Hairpin6), masquerade()],
            ],
        ),
    ]
}

fn forward() -> Vec<Chain> {
    let untracked = [
        (&INVALID.to_ne_bytes()[..], Verdict::Drop),
        (&UNTRACKED.to_ne_bytes()[..], Verdict::Goto("untracked")),
    ];
    let tracked = || rule![decide(STATE, CT_STATE, &untracked)];
    let reply = || rule![reply(), state(ESTABLISHED | RELATED), accept()];
    let discovery = one_of(
        ICMP_TYPE,
        ICMPV6_TYPE,
        &[
            &[MLD_QUERY],
            &[MLD_REPORT],
            &[MLD_DONE],
            &[ND_ROUTER_SOLICIT],
            &[ND_NEIGHBOUR_SOLICIT],
            &[ND_NEIGHBOUR_ADVERT],
            &[MLD2_REPORT],
        ],
    );
    vec![
        base(
            "forward",
            ("filter", NF_INET_FORWARD, 0),
            vec![
                rule![within(&[IIFNAME], Bridges), goto("from_net")],
                rule![within(&[OIFNAME], Bridges), goto("to_net")],
                rule![within(&[IIFNAME], Notransit), counted_drop("drop_transit")],
            ],
        ),
        chain(
            "from_net",
            vec![
                tracked(),
                jump("pol"),
                rule![within(&[OIFNAME], Bridges), goto("net_net")],
                reply(),
                rule![state(NEW), opens_no_tcp(), drop()],
                rule![within(&[IIFNAME], Egress), accept()],
                counted_drop("drop_isolation"),
            ],
        ),
        chain(
            "net_net",
            vec![
                rule![published(), accept()],
                vmap(&[IIFNAME, OIFNAME], Same),
                rule![within(&[IIFNAME], Open), within(&[OIFNAME], Open), accept()],
                counted_drop("drop_isolation"),
            ],
        ),
        chain(
            "to_net",
            vec![
                tracked(),
                // Our own addresses do not come from outside, whatever rp_filter says.
                rule![original(), ip(), within(&[IP_SADDR], Own4), counted_drop("drop_lan")],
                rule![original(), ip6(), within(&[IP6_SADDR], Own6), counted_drop("drop_lan")],
                jump("pol"),
                rule![published(), accept()],
                reply(),
                // What a policy selects, and has let pass.
                rule![within(&[OIFNAME], Routed), within(&[CT_REPLY_IP_SADDR], Sel4), accept()],
                rule![within(&[OIFNAME], Routed), within(&[CT_REPLY_IP6_SADDR], Sel6), accept()],
                counted_drop("drop_lan"),
            ],
        ),
        chain("untracked", vec![rule![icmpv6(), discovery, accept()], counted_drop("drop_isolation")]),
    ]
}

fn policy() -> Vec<Chain> {
    vec![
        chain(
            "pol",
            vec![
                vmap(&[CT_ORIGINAL_IP_SADDR], Eg4),
                vmap(&[CT_ORIGINAL_IP6_SADDR], Eg6),
                vmap(&[CT_REPLY_IP_SADDR], In4),
                vmap(&[CT_REPLY_IP6_SADDR], In6),
            ],
        ),
        chain(
            "deny",
            vec![
                rule![within(&[CT_REPLY_IP_SADDR], Den4), drop()],
                rule![within(&[CT_REPLY_IP6_SADDR], Den6), drop()],
                rule![within(&[CT_ORIGINAL_IP_SADDR], Den4), drop()],
                rule![within(&[CT_ORIGINAL_IP6_SADDR], Den6), drop()],
                drop(),
            ],
        ),
    ]
}

fn host() -> Vec<Chain> {
    let discovery = one_of(
        ICMP_TYPE,
        ICMPV6_TYPE,
        &[&[ND_ROUTER_SOLICIT], &[ND_NEIGHBOUR_SOLICIT], &[ND_NEIGHBOUR_ADVERT]],
    );
    const ICMP_REDIRECT: u8 = 5;
    vec![
        base(
            "input",
            ("filter", NF_INET_LOCAL_IN, 0),
            vec![rule![within(&[IIFNAME], Bridges), goto("host_in")]],
        ),
        chain(
            "host_in",
            vec![
                rule![icmpv6(), discovery, accept()],
                rule![state(INVALID), drop()],
                rule![within(&[L4PROTO, DPORT], Api), counted_drop("drop_api")],
                vmap(&[CT_ORIGINAL_IP_SADDR], Eg4),
                vmap(&[CT_ORIGINAL_IP6_SADDR], Eg6),
                rule![reply(), state(ESTABLISHED | RELATED), accept()],
                rule![within(&[IIFNAME], Hostok), accept()],
                counted_drop("drop_host"),
            ],
        ),
        base(
            "output",
            ("filter", NF_INET_LOCAL_OUT, 0),
            vec![
                rule![
                    ip(),
                    l4proto(ICMP),
                    is(ICMP_TYPE, &[ICMP_REDIRECT]),
                    within(&[OIFNAME], Bridges),
                    drop(),
                ],
                rule![icmpv6(), is(ICMP_TYPE, &[ND_REDIRECT]), within(&[OIFNAME], Bridges), drop()],
            ],
        ),
    ]
}

/// IPv4 and ARP come with MAC and address of the port, or not at all.
fn guard() -> Vec<Chain> {
    let by_type = [
        (&ETHER_IP.to_be_bytes()[..], Verdict::Goto("g4")),
        (&ETHER_IP6.to_be_bytes()[..], Verdict::Goto("g6")),
        (&ETHER_ARP.to_be_bytes()[..], Verdict::Goto("garp")),
    ];
    const DHCP_SERVER: u16 = 67;
    vec![
        // By the prefix of our ports: one that has no elements yet is closed.
        bridge_base(
            "pre",
            ("filter", NF_INET_PRE_ROUTING, -300),
            vec![rule![iifname_starts(DEVICE_PREFIX), goto("guard")]],
        ),
        bridge("guard", vec![rule![decide(ETHER_TYPE_FIELD, ETHER_TYPE, &by_type)], goto("bad")]),
        bridge(
            "g4",
            vec![
                rule![l4proto(UDP), is(SPORT, &DHCP_SERVER.to_be_bytes()), goto("bad")],
                rule![protocol(ETHER_IP), within(&[IIFNAME, ETHER_SADDR, IP_SADDR], Guard4), goto("l3")],
                rule![within(&[IIFNAME], Noguard), goto("l3")],
                goto("bad"),
            ],
        ),
        bridge(
            "garp",
            vec![
                rule![
                    ether_type(ETHER_ARP),
                    // Of Ethernet and IPv4 addresses: then the sender's are where we look for them.
                    is(ARP_TYPES, &[0, 1, 8, 0]),
                    is(ARP_SIZES, &[6, 4]),
                    one_of(ARP_OPERATION_FIELD, ARP_OPERATION, &[&[0, 1], &[0, 2]]),
                    within(&[IIFNAME, ARP_SADDR_ETHER, ARP_SADDR_IP], Guard4),
                    within(&[IIFNAME, ETHER_SADDR, ARP_SADDR_IP], Guard4),
                    accept(),
                ],
                rule![within(&[IIFNAME], Noguard), accept()],
                goto("bad"),
            ],
        ),
    ]
}

/// IPv6 likewise; neighbour discovery speaks for the port's own addresses, and never as a router.
fn guard6() -> Vec<Chain> {
    let own_source = || rule![protocol(ETHER_IP6), within(&[IIFNAME, ETHER_SADDR, IP6_SADDR], Guard6)];
    let unspecified = || rule![protocol(ETHER_IP6), is(IP6_SADDR, &[0; 16])];
    let own_target = || within(&[IIFNAME, ETHER_SADDR, ND_TARGET], Guard6);
    let unguarded = |then: Statement| rule![within(&[IIFNAME], Noguard), then];
    const ND_ROUTER_ADVERT: u8 = 134;
    let by_type = [
        (&[ND_ROUTER_ADVERT][..], Verdict::Goto("bad")),
        (&[ND_REDIRECT], Verdict::Goto("bad")),
        (&[MLD_QUERY], Verdict::Goto("bad")),
        (&[ND_NEIGHBOUR_SOLICIT], Verdict::Goto("ns")),
        (&[ND_NEIGHBOUR_ADVERT], Verdict::Goto("na")),
        (&[MLD_REPORT], Verdict::Goto("mld")),
        (&[MLD_DONE], Verdict::Goto("mld")),
        (&[MLD2_REPORT], Verdict::Goto("mld")),
    ];
    const DHCPV6_SERVER: u16 = 547;
    vec![
        bridge(
            "g6",
            vec![
                rule![l4proto(ICMPV6), goto("g6icmp")],
                rule![l4proto(UDP), is(SPORT, &DHCPV6_SERVER.to_be_bytes()), goto("bad")],
                rule![own_source(), goto("l3")],
                unguarded(goto("l3")),
                goto("bad"),
            ],
        ),
        bridge(
            "g6icmp",
            vec![
                rule![bridged_icmpv6(), decide(ICMP_TYPE, ICMPV6_TYPE, &by_type)],
                rule![own_source(), goto("l3")],
                unguarded(goto("l3")),
                goto("bad"),
            ],
        ),
        bridge(
            "ns",
            vec![
                rule![unspecified(), own_target(), accept()],
                rule![own_source(), accept()],
                unguarded(accept()),
                goto("bad"),
            ],
        ),
        bridge("na", vec![rule![own_source(), own_target(), accept()], unguarded(accept()), goto("bad")]),
        bridge(
            "mld",
            vec![
                rule![unspecified(), accept()],
                rule![own_source(), accept()],
                unguarded(accept()),
                goto("bad"),
            ],
        ),
        bridge("bad", vec![rule![within(&[IIFNAME], Spoofed), drop()], drop()]),
    ]
}

/// Between ports of one bridge: selected members take the detour through the host's IP layer.
fn layer2() -> Vec<Chain> {
    let group = |types: &[&[u8]]| rule![bridged_icmpv6(), one_of(ICMP_TYPE, ICMPV6_TYPE, types)];
    let isolated = || rule![within(&[IIFNAME], Iso), within(&[OIFNAME], Iso)];
    let v4 = |address| rule![protocol(ETHER_IP), within(&[address], Route4)];
    let v6 = |address| rule![protocol(ETHER_IP6), within(&[address], Route6)];
    let discovery: [&[u8]; 6] = [
        &[MLD_REPORT],
        &[MLD_DONE],
        &[ND_ROUTER_SOLICIT],
        &[ND_NEIGHBOUR_SOLICIT],
        &[ND_NEIGHBOUR_ADVERT],
        &[MLD2_REPORT],
    ];
    vec![
        bridge(
            "l3",
            vec![
                rule![v4(IP_DADDR), goto("detour")],
                rule![v4(IP_SADDR), goto("detour")],
                rule![v6(IP6_DADDR), goto("detour")],
                rule![v6(IP6_SADDR), goto("detour")],
                accept(),
            ],
        ),
        // The MAC of the bridge that the frame came in by, whatever its destination is.
        bridge("detour", vec![rule![to_own_bridge(), accept()]]),
        bridge_base(
            "forward",
            ("filter", NF_INET_FORWARD, -200),
            vec![rule![to_group(), goto("group")], rule![isolated(), goto("isolated")]],
        ),
        bridge(
            "group",
            vec![
                rule![within(&[IIFNAME, OIFNAME], Selfdrop), drop()],
                rule![isolated(), drop()],
                rule![ether_type(ETHER_IP), within(&[OIFNAME], Quiet), drop()],
                rule![group(&discovery), accept()],
                rule![ether_type(ETHER_IP6), within(&[OIFNAME], Quiet), drop()],
            ],
        ),
        // What still comes here was translated inside the bridge by br_netfilter; all else took the detour.
        bridge(
            "isolated",
            vec![
                rule![v4(IP_DADDR), accept()],
                rule![group(&[&[ND_NEIGHBOUR_SOLICIT], &[ND_NEIGHBOUR_ADVERT]]), drop()],
                rule![v6(IP6_DADDR), accept()],
                drop(),
            ],
        ),
    ]
}

fn ip() -> Statement {
    nfproto(NFPROTO_IPV4)
}

fn ip6() -> Statement {
    nfproto(NFPROTO_IPV6)
}

fn icmpv6() -> Statement {
    rule![ip6(), l4proto(ICMPV6)]
}

fn bridged_icmpv6() -> Statement {
    rule![ether_type(ETHER_IP6), l4proto(ICMPV6)]
}

fn chain(name: &'static str, rules: Vec<Statement>) -> Chain {
    Chain { family: Family::Inet, name, hook: None, rules }
}

fn base(name: &'static str, hook: (&'static str, u32, i32), rules: Vec<Statement>) -> Chain {
    let (kind, number, priority) = hook;
    Chain { family: Family::Inet, name, hook: Some(Hook { kind, number, priority }), rules }
}

fn bridge(name: &'static str, rules: Vec<Statement>) -> Chain {
    Chain { family: Family::Bridge, ..chain(name, rules) }
}

fn bridge_base(name: &'static str, hook: (&'static str, u32, i32), rules: Vec<Statement>) -> Chain {
    Chain { family: Family::Bridge, ..base(name, hook, rules) }
}
