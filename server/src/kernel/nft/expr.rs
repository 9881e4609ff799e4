//! Rules as the kernel wants them: programs of small expressions over registers.
//!
//! [`Statement`]s are made by functions that read like the words of `nft`; each loads what it needs into the
//! registers from the first on, and leaves nothing there for the next. A set without a name ([`Anonymous`]) belongs
//! to its rule.

use crate::hostnet::rules::{DataType, SetId};

pub(super) use super::anonymous::*;
use super::uapi::*;
use super::wire::Writer;

/// A part of a rule.
pub(super) type Statement = Vec<Expr>;

/// One expression of the kernel.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    Load {
        from: Field,
        slot: u32,
    },
    /// A name of at most 15 bytes, as the name of a link.
    Name {
        name: String,
        slot: u32,
    },
    Compare {
        operator: u32,
        with: Vec<u8>,
    },
    Mask(Vec<u8>),
    Find {
        set: Set,
        leads_to: Option<Found>,
    },
    Miss(SetId),
    Verdict(Verdict),
    Count(&'static str),
    Nat {
        kind: u32,
        family: u8,
        port_slot: Option<u32>,
    },
    Masquerade,
    WriteDestinationMac,
    ToThisHost,
    Limit {
        per_second: u32,
        burst: u32,
    },
    Log {
        group: u16,
        prefix: String,
        bytes: u32,
    },
}

/// Something of the packet, or of its flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Meta {
        key: u32,
        size: u32,
    },
    Payload {
        base: u32,
        offset: u32,
        size: u32,
    },
    Ct {
        key: u32,
        direction: Option<u8>,
        size: u32,
    },
    /// Whether the source is an address of this host, as a kind of address.
    SourceType,
    /// Whether the destination is an address of this host, as a kind of address.
    DestinationType,
}

/// A set that a key is looked up in.
#[derive(Clone, Debug)]
pub(super) enum Set {
    Named(SetId),
    Anonymous(Anonymous),
}

/// What the lookup in a map gives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    Verdict,
    Value,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(&'static str),
    Goto(&'static str),
}

pub(super) const IIFNAME: Field = Field::Meta { key: NFT_META_IIFNAME, size: 16 };
pub(super) const OIFNAME: Field = Field::Meta { key: NFT_META_OIFNAME, size: 16 };
pub(super) const L4PROTO: Field = Field::Meta { key: NFT_META_L4PROTO, size: 1 };
pub(super) const STATE: Field = Field::Ct { key: NFT_CT_STATE, direction: None, size: 4 };
pub(super) const ETHER_DADDR: Field = link(0, 6);
pub(super) const ETHER_SADDR: Field = link(6, 6);
pub(super) const IP_SADDR: Field = network(12, 4);
pub(super) const IP_DADDR: Field = network(16, 4);
pub(super) const IP6_SADDR: Field = network(8, 16);
pub(super) const IP6_DADDR: Field = network(24, 16);
/// The types of the addresses.
pub(super) const ARP_TYPES: Field = network(0, 4);
/// The sizes of the addresses.
pub(super) const ARP_SIZES: Field = network(4, 2);
pub(super) const ARP_OPERATION_FIELD: Field = network(6, 2);
pub(super) const ARP_SADDR_ETHER: Field = network(8, 6);
pub(super) const ARP_SADDR_IP: Field = network(14, 4);
pub(super) const SPORT: Field = transport(0, 2);
pub(super) const DPORT: Field = transport(2, 2);
/// The address that a neighbour solicitation or advertisement is about.
pub(super) const ND_TARGET: Field = transport(8, 16);
pub(super) const ICMP_TYPE: Field = transport(0, 1);
/// The flow's own source: what it was before any NAT.
pub(super) const CT_ORIGINAL_IP_SADDR: Field = tuple(NFT_CT_SRC_IP, 0, 4);
pub(super) const CT_ORIGINAL_IP6_SADDR: Field = tuple(NFT_CT_SRC_IP6, 0, 16);
/// The flow's real destination: who answers, behind any NAT.
pub(super) const CT_REPLY_IP_SADDR: Field = tuple(NFT_CT_SRC_IP, 1, 4);
pub(super) const CT_REPLY_IP6_SADDR: Field = tuple(NFT_CT_SRC_IP6, 1, 16);
/// The protocol of the flow, also for an ICMP error about it.
pub(super) const CT_ORIGINAL_PROTOCOL: Field = tuple(NFT_CT_PROTOCOL, 0, 1);
/// The flow's real destination port: from which it is answered, behind any NAT.
pub(super) const CT_REPLY_PROTO_SRC: Field = tuple(NFT_CT_PROTO_SRC, 1, 2);
/// The port that the flow was opened to; of an ICMP flow type and code of its first message.
pub(super) const CT_ORIGINAL_PROTO_DST: Field = tuple(NFT_CT_PROTO_DST, 0, 2);

const fn link(offset: u32, size: u32) -> Field {
    Field::Payload { base: NFT_PAYLOAD_LL_HEADER, offset, size }
}

const fn network(offset: u32, size: u32) -> Field {
    Field::Payload { base: NFT_PAYLOAD_NETWORK_HEADER, offset, size }
}

const fn transport(offset: u32, size: u32) -> Field {
    Field::Payload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset, size }
}

const fn tuple(key: u32, direction: u8, size: u32) -> Field {
    Field::Ct { key, direction: Some(direction), size }
}

pub(super) fn verdict(verdict: Verdict) -> Statement {
    vec![Expr::Verdict(verdict)]
}

pub(super) fn accept() -> Statement {
    verdict(Verdict::Accept)
}

pub(super) fn drop() -> Statement {
    verdict(Verdict::Drop)
}

pub(super) fn back() -> Statement {
    verdict(Verdict::Return)
}

pub(super) fn jump(chain: &'static str) -> Statement {
    verdict(Verdict::Jump(chain))
}

pub(super) fn goto(chain: &'static str) -> Statement {
    verdict(Verdict::Goto(chain))
}

/// Counted by this counter, then dropped.
pub(super) fn counted_drop(counter: &'static str) -> Statement {
    vec![Expr::Count(counter), Expr::Verdict(Verdict::Drop)]
}

pub(super) fn is(field: Field, value: &[u8]) -> Statement {
    vec![Expr::Load { from: field, slot: 0 }, Expr::Compare { operator: NFT_CMP_EQ, with: value.to_vec() }]
}

/// These fields together are an element of the set.
pub(super) fn within(fields: &[Field], set: SetId) -> Statement {
    found(fields, Set::Named(set), None)
}

/// These fields together are no element of the set.
pub(super) fn outside(fields: &[Field], set: SetId) -> Statement {
    let mut statement = loaded(fields);
    statement.push(Expr::Miss(set));
    statement
}

/// The verdict of the element that these fields together are; without one the rule ends.
pub(super) fn vmap(fields: &[Field], set: SetId) -> Statement {
    found(fields, Set::Named(set), Some(Found::Verdict))
}

/// This name, and this field if there is one, are an element of the set.
pub(super) fn named_within(name: &str, field: Option<Field>, set: SetId) -> Statement {
    const WORDS: u32 = 4;
    let mut statement = vec![Expr::Name { name: name.to_owned(), slot: 0 }];
    statement.extend(field.map(|from| Expr::Load { from, slot: WORDS }));
    statement.push(Expr::Find { set: Set::Named(set), leads_to: None });
    statement
}

/// At most so many packets a second, and so many at once; those beyond go on with the next rule.
pub(super) fn limit(per_second: u32, burst: u32) -> Statement {
    vec![Expr::Limit { per_second, burst }]
}

/// The packet's first bytes are told to whoever listens to the group.
pub(super) fn log(group: u16, prefix: &str, bytes: u32) -> Statement {
    vec![Expr::Log { group, prefix: prefix.to_owned(), bytes }]
}

/// The packet's protocol is of this family; before any field of its header is read.
pub(super) fn nfproto(family: u8) -> Statement {
    is(Field::Meta { key: NFT_META_NFPROTO, size: 1 }, &[family])
}

/// The same in the bridge. True for a tagged frame too: whoever must not pass tags asks [`ether_type`] first.
pub(super) fn protocol(ether_type: u16) -> Statement {
    is(Field::Meta { key: NFT_META_PROTOCOL, size: 2 }, &ether_type.to_be_bytes())
}

/// What the frame says it is, after its MAC addresses. For a tagged frame that is the tag.
pub(super) const ETHER_TYPE_FIELD: Field = link(12, 2);

pub(super) fn ether_type(ether_type: u16) -> Statement {
    is(ETHER_TYPE_FIELD, &ether_type.to_be_bytes())
}

pub(super) fn l4proto(number: u8) -> Statement {
    is(L4PROTO, &[number])
}

pub(super) fn iifname_starts(prefix: &str) -> Statement {
    is(IIFNAME, prefix.as_bytes())
}

pub(super) fn oifname_is(name: &str) -> Statement {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    is(OIFNAME, &bytes)
}

/// To an address of this host.
pub(super) fn to_local() -> Statement {
    is(Field::DestinationType, &LOCAL.to_ne_bytes())
}

/// Not from an address of this host.
pub(super) fn from_elsewhere() -> Statement {
    let compare = Expr::Compare { operator: NFT_CMP_NEQ, with: LOCAL.to_ne_bytes().to_vec() };
    vec![Expr::Load { from: Field::SourceType, slot: 0 }, compare]
}

/// `RTN_LOCAL`
const LOCAL: u32 = 2;

/// From or to `127.0.0.0/8`.
pub(super) fn loopback4(address: Field) -> Statement {
    let first = match address {
        Field::Payload { base, offset, size: _ } => Field::Payload { base, offset, size: 1 },
        other => other,
    };
    is(first, &[127])
}

/// A frame to a group: broadcast or multicast.
pub(super) fn to_group() -> Statement {
    let bit = vec![1, 0, 0, 0, 0, 0];
    let compare = Expr::Compare { operator: NFT_CMP_EQ, with: bit.clone() };
    vec![Expr::Load { from: ETHER_DADDR, slot: 0 }, Expr::Mask(bit), compare]
}

/// One of these states or status bits of the flow.
fn any_bit(key: u32, bits: u32) -> Statement {
    let from = Field::Ct { key, direction: None, size: 4 };
    let mask = Expr::Mask(bits.to_ne_bytes().to_vec());
    let compare = Expr::Compare { operator: NFT_CMP_NEQ, with: vec![0; 4] };
    vec![Expr::Load { from, slot: 0 }, mask, compare]
}

pub(super) const INVALID: u32 = 1;
pub(super) const ESTABLISHED: u32 = 2;
pub(super) const RELATED: u32 = 4;
pub(super) const NEW: u32 = 8;
pub(super) const UNTRACKED: u32 = 64;

/// A TCP segment that is not the first of a connection. The kernel begins a flow with any of them.
pub(super) fn opens_no_tcp() -> Statement {
    const TCP: u8 = 6;
    const FLAGS: Field = transport(13, 1);
    const FIN_SYN_RST_ACK: u8 = 0x17;
    const SYN: u8 = 0x02;
    let mut statement = l4proto(TCP);
    let compare = Expr::Compare { operator: NFT_CMP_NEQ, with: vec![SYN] };
    statement.extend([Expr::Load { from: FLAGS, slot: 0 }, Expr::Mask(vec![FIN_SYN_RST_ACK]), compare]);
    statement
}

pub(super) fn state(bits: u32) -> Statement {
    any_bit(NFT_CT_STATE, bits)
}

/// The flow was redirected by destination NAT.
pub(super) fn published() -> Statement {
    const IPS_DST_NAT: u32 = 0x20;
    any_bit(NFT_CT_STATUS, IPS_DST_NAT)
}

pub(super) fn original() -> Statement {
    is(Field::Ct { key: NFT_CT_DIRECTION, direction: None, size: 1 }, &[0])
}

pub(super) fn reply() -> Statement {
    is(Field::Ct { key: NFT_CT_DIRECTION, direction: None, size: 1 }, &[1])
}

/// To the address, and port if there is one, that the map gives for these fields.
pub(super) fn dnat(family: u8, fields: &[Field], map: SetId) -> Statement {
    nat(NFT_NAT_DNAT, family, fields, map)
}

/// From the address that the map gives for these fields.
pub(super) fn snat(family: u8, fields: &[Field], map: SetId) -> Statement {
    nat(NFT_NAT_SNAT, family, fields, map)
}

pub(super) fn masquerade() -> Statement {
    vec![Expr::Masquerade]
}

/// Makes the frame one for the bridge itself, so that the host routes it.
pub(super) fn to_own_bridge() -> Statement {
    let mac = found(&[IIFNAME], Set::Named(SetId::Brmac), Some(Found::Value));
    [mac, vec![Expr::WriteDestinationMac, Expr::ToThisHost]].concat()
}

fn nat(kind: u32, family: u8, fields: &[Field], map: SetId) -> Statement {
    let port_slot = match map.data() {
        DataType::Ipv4Service => Some(1),
        DataType::Ipv6Service => Some(4),
        DataType::Ipv4 | DataType::Ipv6 | DataType::None | DataType::Verdict | DataType::Ether => None,
    };
    let found = found(fields, Set::Named(map), Some(Found::Value));
    [found, vec![Expr::Nat { kind, family, port_slot }]].concat()
}

pub(super) fn found(fields: &[Field], set: Set, leads_to: Option<Found>) -> Statement {
    let mut statement = loaded(fields);
    statement.push(Expr::Find { set, leads_to });
    statement
}

/// The fields one after another in the registers.
fn loaded(fields: &[Field]) -> Statement {
    let mut statement = Vec::with_capacity(fields.len() + 1);
    let mut slot = 0;
    for field in fields {
        statement.push(Expr::Load { from: *field, slot });
        slot += field.size().div_ceil(4);
    }
    statement
}

impl Field {
    fn size(self) -> u32 {
        match self {
            Self::Meta { size, .. } | Self::Payload { size, .. } | Self::Ct { size, .. } => size,
            Self::SourceType | Self::DestinationType => 4,
        }
    }
}

/// The number of the register of 4 bytes, counted from 0.
const fn register(slot: u32) -> u32 {
    const NFT_REG32_00: u32 = 8;
    NFT_REG32_00 + slot
}

impl Expr {
    /// Writes it as an element of a list of expressions. `anonymous` gives name and number of the rule's next set.
    pub(super) fn write(&self, writer: &mut Writer, anonymous: &mut impl FnMut() -> (&'static str, u32)) {
        match self {
            Self::Load { from, slot } => from.write(writer, register(*slot)),
            Self::Name { name, slot } => expression(writer, "immediate", |data| {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(16, 0);
                data.number(NFTA_IMMEDIATE_DREG, register(*slot));
                value(data, NFTA_IMMEDIATE_DATA, &bytes);
            }),
            Self::Limit { per_second, burst } => expression(writer, "limit", |data| {
                const SECOND: u64 = 1;
                data.put(NFTA_LIMIT_RATE, &u64::from(*per_second).to_be_bytes());
                data.put(NFTA_LIMIT_UNIT, &SECOND.to_be_bytes());
                data.number(NFTA_LIMIT_BURST, *burst);
                data.number(NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS);
            }),
            Self::Log { group, prefix, bytes } => expression(writer, "log", |data| {
                data.put(NFTA_LOG_GROUP, &group.to_be_bytes());
                data.text(NFTA_LOG_PREFIX, prefix);
                data.number(NFTA_LOG_SNAPLEN, *bytes);
            }),
            Self::Compare { operator, with } => expression(writer, "cmp", |data| {
                data.number(NFTA_CMP_SREG, register(0));
                data.number(NFTA_CMP_OP, *operator);
                value(data, NFTA_CMP_DATA, with);
            }),
            Self::Mask(mask) => expression(writer, "bitwise", |data| {
                data.number(NFTA_BITWISE_SREG, register(0));
                data.number(NFTA_BITWISE_DREG, register(0));
                data.number(NFTA_BITWISE_LEN, mask.len() as u32);
                value(data, NFTA_BITWISE_MASK, mask);
                value(data, NFTA_BITWISE_XOR, &vec![0; mask.len()]);
            }),
            Self::Find { set, leads_to } => expression(writer, "lookup", |data| {
                match set {
                    Set::Named(set) => data.text(NFTA_LOOKUP_SET, set.name()),
                    Set::Anonymous(_) => {
                        let (name, number) = anonymous();
                        data.text(NFTA_LOOKUP_SET, name);
                        data.number(NFTA_LOOKUP_SET_ID, number);
                    }
                }
                data.number(NFTA_LOOKUP_SREG, register(0));
                match leads_to {
                    None => {}
                    Some(Found::Verdict) => data.number(NFTA_LOOKUP_DREG, 0),
                    Some(Found::Value) => data.number(NFTA_LOOKUP_DREG, register(0)),
                }
            }),
            Self::Miss(set) => expression(writer, "lookup", |data| {
                data.text(NFTA_LOOKUP_SET, set.name());
                data.number(NFTA_LOOKUP_SREG, register(0));
                data.number(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
            }),
            Self::Verdict(verdict) => expression(writer, "immediate", |data| {
                data.number(NFTA_IMMEDIATE_DREG, 0);
                data.nest(NFTA_IMMEDIATE_DATA, |data| verdict.write(data));
            }),
            Self::Count(counter) => expression(writer, "objref", |data| {
                data.number(NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER);
                data.text(NFTA_OBJREF_IMM_NAME, counter);
            }),
            Self::Nat { kind, family, port_slot } => expression(writer, "nat", |data| {
                data.number(NFTA_NAT_TYPE, *kind);
                data.number(NFTA_NAT_FAMILY, u32::from(*family));
                data.number(NFTA_NAT_REG_ADDR_MIN, register(0));
                if let Some(slot) = port_slot {
                    data.number(NFTA_NAT_REG_PROTO_MIN, register(*slot));
                }
            }),
            Self::Masquerade => expression(writer, "masq", |_| {}),
            Self::WriteDestinationMac => expression(writer, "payload", |data| {
                data.number(NFTA_PAYLOAD_SREG, register(0));
                data.number(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_LL_HEADER);
                data.number(NFTA_PAYLOAD_OFFSET, 0);
                data.number(NFTA_PAYLOAD_LEN, 6);
                data.number(NFTA_PAYLOAD_CSUM_TYPE, 0);
                data.number(NFTA_PAYLOAD_CSUM_OFFSET, 0);
            }),
            Self::ToThisHost => {
                expression(writer, "immediate", |data| {
                    data.number(NFTA_IMMEDIATE_DREG, register(0));
                    // PACKET_HOST is 0.
                    value(data, NFTA_IMMEDIATE_DATA, &[0]);
                });
                expression(writer, "meta", |data| {
                    data.number(NFTA_META_KEY, NFT_META_PKTTYPE);
                    data.number(NFTA_META_SREG, register(0));
                });
            }
        }
    }
}

impl Field {
    fn write(self, writer: &mut Writer, register: u32) {
        match self {
            Self::Meta { key, size: _ } => expression(writer, "meta", |data| {
                data.number(NFTA_META_KEY, key);
                data.number(NFTA_META_DREG, register);
            }),
            Self::Payload { base, offset, size } => expression(writer, "payload", |data| {
                data.number(NFTA_PAYLOAD_DREG, register);
                data.number(NFTA_PAYLOAD_BASE, base);
                data.number(NFTA_PAYLOAD_OFFSET, offset);
                data.number(NFTA_PAYLOAD_LEN, size);
            }),
            Self::Ct { key, direction, size: _ } => expression(writer, "ct", |data| {
                data.number(NFTA_CT_KEY, key);
                data.number(NFTA_CT_DREG, register);
                if let Some(direction) = direction {
                    data.put(NFTA_CT_DIRECTION, &[direction]);
                }
            }),
            Self::SourceType => expression(writer, "fib", |data| {
                data.number(NFTA_FIB_DREG, register);
                data.number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                data.number(NFTA_FIB_FLAGS, NFTA_FIB_F_SADDR);
            }),
            Self::DestinationType => expression(writer, "fib", |data| {
                data.number(NFTA_FIB_DREG, register);
                data.number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
                data.number(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
            }),
        }
    }
}

impl Verdict {
    /// Writes it as the content of a data attribute.
    pub(super) fn write(self, writer: &mut Writer) {
        let (code, chain) = match self {
            Self::Accept => (NF_ACCEPT, None),
            Self::Drop => (NF_DROP, None),
            Self::Return => (NFT_RETURN, None),
            Self::Jump(chain) => (NFT_JUMP, Some(chain)),
            Self::Goto(chain) => (NFT_GOTO, Some(chain)),
        };
        write_verdict(writer, code, chain);
    }
}

/// A verdict as the content of a data attribute.
pub(super) fn write_verdict(writer: &mut Writer, code: i32, chain: Option<&str>) {
    writer.nest(NFTA_DATA_VERDICT, |data| {
        data.put(NFTA_VERDICT_CODE, &code.to_be_bytes());
        if let Some(chain) = chain {
            data.text(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// Bytes as a data attribute.
pub(super) fn value(writer: &mut Writer, kind: u16, bytes: &[u8]) {
    writer.nest(kind, |data| data.put(NFTA_DATA_VALUE, bytes));
}

fn expression(writer: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    writer.nest(NFTA_LIST_ELEM, |element| {
        element.text(NFTA_EXPR_NAME, name);
        element.nest(NFTA_EXPR_DATA, data);
    });
}
