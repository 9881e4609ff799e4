//! Expressions of a rule, and the words that the skeleton is written in.
//!
//! Registers are the 32-bit ones, counted from 0; a key of several fields lies in neighbouring ones, each field padded
//! to four bytes.

use super::wire::Attributes;
use crate::hostnet::rules::SetId;

/// The first 32-bit register.
const REG32_00: u32 = 8;
/// The verdict register.
const REG_VERDICT: u32 = 0;

const BASE_LINK: u32 = 0;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;

/// What a rule does with a packet that got that far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(&'static str),
    Goto(&'static str),
}

/// A value that can be read from a packet, its connection or the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Iifname,
    Oifname,
    Nfproto,
    L4proto,
    EtherType,
    EtherDaddrFirstByte,
    EtherSaddr,
    Ip4Saddr,
    Ip4Daddr,
    Ip6Saddr,
    Ip6Daddr,
    /// The first byte of the transport header: the type of ICMP.
    IcmpType,
    Sport,
    Dport,
    /// The target of neighbour discovery.
    NdTarget,
    /// Hardware type, protocol type and lengths of ARP.
    ArpShape,
    ArpOperation,
    ArpSaddrEther,
    ArpSaddrIp,
    CtState,
    CtStatus,
    CtDirection,
    CtOriginalSaddr4,
    CtOriginalSaddr6,
    CtReplySaddr4,
    CtReplySaddr6,
    /// The type of the packet's destination address, as the routing table knows it.
    FibDaddrType,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Meta(u32),
    Payload(u32, u32),
    Ct(u32, Option<u8>),
    FibDaddr,
}

impl Load {
    /// Where it comes from, and its length in bytes.
    fn source(self) -> (Source, u32) {
        use Source::{Ct, FibDaddr, Meta};
        let link = |offset| Source::Payload(BASE_LINK, offset);
        let network = |offset| Source::Payload(BASE_NETWORK, offset);
        let transport = |offset| Source::Payload(BASE_TRANSPORT, offset);
        match self {
            Load::Iifname => (Meta(6), 16),
            Load::Oifname => (Meta(7), 16),
            Load::Nfproto => (Meta(15), 1),
            Load::L4proto => (Meta(16), 1),
            Load::EtherDaddrFirstByte => (link(0), 1),
            Load::EtherSaddr => (link(6), 6),
            // Not `meta protocol`: the kernel has pulled the VLAN tag off before the bridge sees the frame.
            Load::EtherType => (link(12), 2),
            Load::Ip4Saddr => (network(12), 4),
            Load::Ip4Daddr => (network(16), 4),
            Load::Ip6Saddr => (network(8), 16),
            Load::Ip6Daddr => (network(24), 16),
            Load::IcmpType => (transport(0), 1),
            Load::Sport => (transport(0), 2),
            Load::Dport => (transport(2), 2),
            Load::NdTarget => (transport(8), 16),
            Load::ArpShape => (network(0), 6),
            Load::ArpOperation => (network(6), 2),
            Load::ArpSaddrEther => (network(8), 6),
            Load::ArpSaddrIp => (network(14), 4),
            Load::CtState => (Ct(0, None), 4),
            Load::CtDirection => (Ct(1, None), 1),
            Load::CtStatus => (Ct(2, None), 4),
            Load::CtOriginalSaddr4 => (Ct(19, Some(0)), 4),
            Load::CtReplySaddr4 => (Ct(19, Some(1)), 4),
            Load::CtOriginalSaddr6 => (Ct(21, Some(0)), 16),
            Load::CtReplySaddr6 => (Ct(21, Some(1)), 16),
            Load::FibDaddrType => (FibDaddr, 4),
        }
    }

    fn slots(self) -> u32 {
        self.source().1.div_ceil(4)
    }
}

/// A rule being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    expressions: Vec<Attributes>,
}

pub(super) fn rule() -> Rule {
    Rule::default()
}

impl Rule {
    /// The packet passes on when the value is this.
    pub(super) fn is(self, load: Load, value: &[u8]) -> Self {
        self.load(load, 0).compare(0, value)
    }

    /// The packet passes on when the value is not this.
    pub(super) fn is_not_zero_under(self, load: Load, mask: u32) -> Self {
        let masked = Attributes::default()
            .u32(1, REG32_00)
            .u32(2, REG32_00)
            .u32(3, 4)
            .nested(4, Attributes::default().bytes(1, &mask.to_ne_bytes()))
            .nested(5, Attributes::default().bytes(1, &[0; 4]));
        self.load(load, 0).expression("bitwise", masked).compare(1, &[0; 4])
    }

    /// The packet passes on when the value has all bits of the mask, which is one byte.
    pub(super) fn has_bit(self, load: Load, bit: u8) -> Self {
        let masked = Attributes::default()
            .u32(1, REG32_00)
            .u32(2, REG32_00)
            .u32(3, 1)
            .nested(4, Attributes::default().bytes(1, &[bit]))
            .nested(5, Attributes::default().bytes(1, &[0]));
        self.load(load, 0).expression("bitwise", masked).compare(0, &[bit])
    }

    /// The packet passes on when the value is in this prefix.
    pub(super) fn is_in(self, load: Load, first: &[u8], mask: &[u8]) -> Self {
        let masked = Attributes::default()
            .u32(1, REG32_00)
            .u32(2, REG32_00)
            .u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX))
            .nested(4, Attributes::default().bytes(1, mask))
            .nested(5, Attributes::default().bytes(1, &vec![0; mask.len()]));
        self.load(load, 0).expression("bitwise", masked).compare(0, first)
    }

    /// The packet passes on when the fields are an element of the set.
    pub(super) fn in_set(self, loads: &[Load], set: SetId) -> Self {
        self.load_all(loads).expression("lookup", lookup(set))
    }

    /// The verdict that the map has for the fields; without one the packet passes on.
    pub(super) fn verdict_of(self, loads: &[Load], map: SetId) -> Self {
        self.load_all(loads).expression("lookup", lookup(map).u32(3, REG_VERDICT))
    }

    /// Translates the destination to what the map has for the fields: an address, and a port if the map has ports.
    pub(super) fn dnat(self, loads: &[Load], map: SetId, ipv6: bool, port: bool) -> Self {
        let found = self.load_all(loads).expression("lookup", lookup(map).u32(3, REG32_00));
        let nat = nat(1, ipv6);
        let port_register = REG32_00 + if ipv6 { 4 } else { 1 };
        found.expression("nat", if port { nat.u32(5, port_register) } else { nat })
    }

    /// Translates the source to what the map has for it.
    pub(super) fn snat(self, load: Load, map: SetId, ipv6: bool) -> Self {
        self.load(load, 0).expression("lookup", lookup(map).u32(3, REG32_00)).expression("nat", nat(0, ipv6))
    }

    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", Attributes::default())
    }

    /// Gives the frame to the host: destination MAC out of the map, packet type "for us".
    pub(super) fn to_bridge(self, map: SetId) -> Self {
        let daddr = Attributes::default().u32(2, BASE_LINK).u32(3, 0).u32(4, 6).u32(5, REG32_00);
        let host = Attributes::default().u32(1, REG32_00).nested(2, Attributes::default().bytes(1, &[0]));
        let pkttype = Attributes::default().u32(2, 19).u32(3, REG32_00);
        self.load(Load::Iifname, 0)
            .expression("lookup", lookup(map).u32(3, REG32_00))
            .expression("payload", daddr)
            .expression("immediate", host)
            .expression("meta", pkttype)
    }

    /// Counts in a named counter.
    pub(super) fn count(self, name: &str) -> Self {
        const OBJECT_COUNTER: u32 = 1;
        self.expression("objref", Attributes::default().u32(1, OBJECT_COUNTER).text(2, name))
    }

    pub(super) fn then(self, verdict: Verdict) -> Vec<Attributes> {
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        let data = Attributes::default().nested(2, verdict_code(code, chain));
        self.expression("immediate", Attributes::default().u32(1, REG_VERDICT).nested(2, data)).expressions
    }

    /// A rule without a verdict of its own.
    pub(super) fn end(self) -> Vec<Attributes> {
        self.expressions
    }

    fn load_all(mut self, loads: &[Load]) -> Self {
        let mut slot = 0;
        for load in loads {
            self = self.load(*load, slot);
            slot += load.slots();
        }
        self
    }

    fn load(self, load: Load, slot: u32) -> Self {
        let to = REG32_00 + slot;
        match load.source() {
            (Source::Meta(key), _) => self.expression("meta", Attributes::default().u32(1, to).u32(2, key)),
            (Source::Payload(base, offset), length) => {
                let payload = Attributes::default().u32(1, to).u32(2, base).u32(3, offset).u32(4, length);
                self.expression("payload", payload)
            }
            (Source::Ct(key, direction), _) => {
                let ct = Attributes::default().u32(1, to).u32(2, key);
                self.expression(
                    "ct",
                    match direction {
                        Some(direction) => ct.bytes(3, &[direction]),
                        None => ct,
                    },
                )
            }
            (Source::FibDaddr, _) => {
                const RESULT_ADDRTYPE: u32 = 3;
                const BY_DADDR: u32 = 2;
                self.expression(
                    "fib",
                    Attributes::default().u32(1, to).u32(2, RESULT_ADDRTYPE).u32(3, BY_DADDR),
                )
            }
        }
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let data = Attributes::default().bytes(1, value);
        self.expression("cmp", Attributes::default().u32(1, REG32_00).u32(2, operation).nested(3, data))
    }

    fn expression(mut self, name: &str, data: Attributes) -> Self {
        self.expressions.push(Attributes::default().text(1, name).nested(2, data));
        self
    }
}

fn lookup(set: SetId) -> Attributes {
    Attributes::default().text(1, set.name()).u32(2, REG32_00)
}

fn nat(kind: u32, ipv6: bool) -> Attributes {
    Attributes::default().u32(1, kind).u32(2, if ipv6 { 10 } else { 2 }).u32(3, REG32_00)
}

/// A verdict as data.
pub(super) fn verdict_code(code: i32, chain: Option<&str>) -> Attributes {
    let verdict = Attributes::default().bytes(1, &code.to_be_bytes());
    match chain {
        Some(chain) => verdict.text(2, chain),
        None => verdict,
    }
}
