//! Sets without a name: each belongs to its rule, and never changes.

use std::net::Ipv6Addr;

use super::expr::{Field, Found, Set, Statement, Verdict, found};

/// A set that belongs to one rule.
#[derive(Clone, Debug)]
pub(super) struct Anonymous {
    pub(super) key: Kind,
    pub(super) elements: Vec<AnonymousElement>,
    /// Its elements are intervals. One from the first key to the last has no end to tell it by.
    pub(super) intervals: bool,
}

#[derive(Clone, Debug)]
pub(super) struct AnonymousElement {
    pub(super) key: Vec<u8>,
    /// The first key behind an interval.
    pub(super) end: bool,
    /// The last key of an interval of several fields.
    pub(super) last: Option<Vec<u8>>,
    pub(super) verdict: Option<Verdict>,
}

/// The type of the keys of an anonymous set: the number by which `nft` knows how to print it, and the size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) number: u32,
    pub(super) size: u32,
    /// The sizes of its fields, if it has several.
    pub(super) fields: &'static [u32],
}

pub(super) const IP_ADDRESS: Kind = Kind { number: 7, size: 4, fields: &[] };
/// A protocol and a port.
const PROTO_SERVICE: Kind = Kind { number: 12 << 6 | 13, size: 8, fields: &[1, 2] };
pub(super) const IP6_ADDRESS: Kind = Kind { number: 8, size: 16, fields: &[] };
pub(super) const ETHER_TYPE: Kind = Kind { number: 10, size: 2, fields: &[] };
pub(super) const ARP_OPERATION: Kind = Kind { number: 11, size: 2, fields: &[] };
pub(super) const INET_PROTO: Kind = Kind { number: 12, size: 1, fields: &[] };
pub(super) const CT_STATE: Kind = Kind { number: 26, size: 4, fields: &[] };
pub(super) const ICMPV6_TYPE: Kind = Kind { number: 29, size: 1, fields: &[] };

pub(super) fn one_of(field: Field, key: Kind, values: &[&[u8]]) -> Statement {
    let element =
        |value: &&[u8]| AnonymousElement { key: value.to_vec(), end: false, last: None, verdict: None };
    let elements = values.iter().map(element).collect();
    found(&[field], Set::Anonymous(Anonymous { key, elements, intervals: false }), None)
}

/// The verdict beside the value that the field has.
pub(super) fn decide(field: Field, key: Kind, verdicts: &[(&[u8], Verdict)]) -> Statement {
    let element = |(value, verdict): &(&[u8], Verdict)| AnonymousElement {
        key: value.to_vec(),
        end: false,
        last: None,
        verdict: Some(*verdict),
    };
    let elements = verdicts.iter().map(element).collect();
    found(&[field], Set::Anonymous(Anonymous { key, elements, intervals: false }), Some(Found::Verdict))
}

/// In one of these intervals of IPv6 addresses: the first address, and the first one behind.
pub(super) fn in_one_of(field: Field, intervals: &[(Ipv6Addr, Ipv6Addr)]) -> Statement {
    let bytes =
        |(first, behind): &(Ipv6Addr, Ipv6Addr)| (first.octets().to_vec(), Some(behind.octets().to_vec()));
    in_intervals(field, IP6_ADDRESS, &intervals.iter().map(bytes).collect::<Vec<_>>())
}

/// In one of these intervals: the first key, and the first one behind, if there is any.
pub(super) fn in_intervals(field: Field, key: Kind, intervals: &[(Vec<u8>, Option<Vec<u8>>)]) -> Statement {
    let element = |key: &Vec<u8>, end| AnonymousElement { key: key.clone(), end, last: None, verdict: None };
    let elements = intervals.iter().flat_map(|(first, behind)| {
        [Some(element(first, false)), behind.as_ref().map(|behind| element(behind, true))]
    });
    let elements = elements.flatten().collect();
    found(&[field], Set::Anonymous(Anonymous { key, elements, intervals: true }), None)
}

/// A protocol and a port in one of these intervals: the first key and the last.
pub(super) fn in_pairs(fields: &[Field; 2], intervals: &[(Vec<u8>, Vec<u8>)]) -> Statement {
    let exact = intervals.iter().all(|(first, last)| first == last);
    let element = |(first, last): &(Vec<u8>, Vec<u8>)| AnonymousElement {
        key: first.clone(),
        end: false,
        last: (!exact).then(|| last.clone()),
        verdict: None,
    };
    let elements = intervals.iter().map(element).collect();
    found(fields, Set::Anonymous(Anonymous { key: PROTO_SERVICE, elements, intervals: !exact }), None)
}
