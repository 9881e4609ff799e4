//! Elements of sets and maps, to and from bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    expr::verdict_code,
    wire::{Attributes, attributes, find},
};
use crate::hostnet::rules::{Data, DataType, Element, Field, Member, Part, SetId, Shape, Transport};

const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const INTERVAL_END: u32 = 1;

/// The length of a field, without padding.
pub(super) fn field_length(field: Field) -> usize {
    match field {
        Field::Ifname | Field::Ipv6 => 16,
        Field::Ipv4 => 4,
        Field::Ether => 6,
        Field::InetProto => 1,
        Field::InetService => 2,
    }
}

/// nft's number of a field's type, for `nft list`.
pub(super) fn field_type(field: Field) -> u32 {
    match field {
        Field::Ipv4 => 7,
        Field::Ipv6 => 8,
        Field::Ether => 9,
        Field::InetProto => 12,
        Field::InetService => 13,
        Field::Ifname => 41,
    }
}

/// Whether a set looks up intervals of several fields (pipapo), where first and last key are one element.
pub(super) fn is_concatenated_interval(set: SetId) -> bool {
    set.shape() == Shape::Interval && set.key().len() > 1
}

/// The elements that the kernel wants for one of ours: an interval of a tree is a start and an end.
pub(super) fn encode(element: &Element) -> Vec<Attributes> {
    let set = element.set();
    let key = encode_key(element.key());
    let value = |bytes: &[u8]| Attributes::default().bytes(DATA_VALUE, bytes);
    let mut start = Attributes::default().nested(ELEM_KEY, value(&key));
    if let Some(data) = encode_data(element.data()) {
        start = start.nested(ELEM_DATA, data);
    }
    match (set.shape(), element.last()) {
        (Shape::Exact | Shape::Counted, _) | (Shape::Interval, None) => vec![start],
        (Shape::Interval, Some(last)) if is_concatenated_interval(set) => {
            vec![start.nested(ELEM_KEY_END, value(&encode_key(last)))]
        }
        (Shape::Interval, Some(last)) => {
            let end = successor(encode_key(last))
                .map(|end| Attributes::default().nested(ELEM_KEY, value(&end)).u32(ELEM_FLAGS, INTERVAL_END));
            // The end of an interval before its start: the tree is filled from above, as nft does it.
            std::iter::once(start).chain(end).collect()
        }
    }
}

fn encode_key(parts: &[Part]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Ifname(name) => {
                bytes.extend_from_slice(name.as_bytes());
                bytes.resize(bytes.len() + 16_usize.saturating_sub(name.len()), 0);
            }
            Part::Ipv4(address) => bytes.extend_from_slice(&address.octets()),
            Part::Ipv6(address) => bytes.extend_from_slice(&address.octets()),
            Part::Ether(mac) => bytes.extend_from_slice(mac),
            Part::InetProto(transport) => bytes.push(transport.number()),
            Part::InetService(port) => bytes.extend_from_slice(&port.to_be_bytes()),
        }
        if parts.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

fn encode_data(data: &Data) -> Option<Attributes> {
    let value = |bytes: &[u8]| Some(Attributes::default().bytes(DATA_VALUE, bytes));
    match data {
        Data::None => None,
        Data::Verdict(member) => {
            let code = match member {
                Member::Drop => 0,
                Member::Accept => 1,
            };
            Some(Attributes::default().nested(DATA_VERDICT, verdict_code(code, None)))
        }
        Data::Ipv4(address) => value(&address.octets()),
        Data::Ipv6(address) => value(&address.octets()),
        Data::Ether(mac) => value(mac),
        Data::Ipv4Service(address, port) => value(&with_port(&address.octets(), *port)),
        Data::Ipv6Service(address, port) => value(&with_port(&address.octets(), *port)),
    }
}

fn with_port(address: &[u8], port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [address, &[high, low, 0, 0]].concat()
}

/// The next key, or none after the last of all.
fn successor(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        let (next, overflow) = byte.overflowing_add(1);
        *byte = next;
        if !overflow {
            return Some(key);
        }
    }
    None
}

fn predecessor(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        let (next, overflow) = byte.overflowing_sub(1);
        *byte = next;
        if !overflow {
            return Some(key);
        }
    }
    None
}

/// One element as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Raw {
    key: Vec<u8>,
    /// Ends sort before starts of the same key: neighbouring intervals touch there.
    is_start: bool,
    key_end: Option<Vec<u8>>,
    data: Option<Data>,
}

/// Reads one element; `None` when it is not one of this set's.
pub(super) fn decode_raw(set: SetId, bytes: &[u8]) -> Option<Raw> {
    let value = |wanted| -> Option<Option<Vec<u8>>> {
        match find(bytes, wanted).ok()? {
            None => Some(None),
            Some(inner) => Some(Some(find(inner, DATA_VALUE).ok()??.to_vec())),
        }
    };
    let flags = match find(bytes, ELEM_FLAGS).ok()? {
        Some(flags) => u32::from_be_bytes(flags.try_into().ok()?),
        None => 0,
    };
    let is_start = flags & INTERVAL_END == 0;
    let data = match find(bytes, ELEM_DATA).ok()? {
        Some(inner) if is_start => Some(decode_data(set.data(), inner)?),
        Some(_) | None => None,
    };
    Some(Raw { key: value(ELEM_KEY)??, is_start, key_end: value(ELEM_KEY_END)?, data })
}

/// Puts the elements of one set together; `None` when they do not fit the set.
pub(super) fn decode_set(set: SetId, mut raw: Vec<Raw>) -> Option<Vec<Element>> {
    let is_tree = set.shape() == Shape::Interval && !is_concatenated_interval(set);
    if !is_tree {
        return raw.into_iter().map(|one| decode_one(set, one)).collect();
    }
    raw.sort();
    let mut elements = Vec::new();
    let mut rest = raw.into_iter().peekable();
    while let Some(start) = rest.next() {
        if !start.is_start {
            // Below the first interval the tree may hold an end of its own.
            continue;
        }
        let last = match rest.peek() {
            Some(next) if !next.is_start => predecessor(rest.next()?.key)?,
            Some(_) => return None,
            None => vec![0xff; start.key.len()],
        };
        let (first, last) = (decode_key(set, &start.key)?, decode_key(set, &last)?);
        elements.push(Element::from_parts(set, first, Some(last), start.data.unwrap_or(Data::None)));
    }
    Some(elements)
}

fn decode_one(set: SetId, raw: Raw) -> Option<Element> {
    let key = decode_key(set, &raw.key)?;
    let last = match raw.key_end {
        Some(end) => Some(decode_key(set, &end)?),
        None if is_concatenated_interval(set) => Some(key.clone()),
        None => None,
    };
    Some(Element::from_parts(set, key, last, raw.data.unwrap_or(Data::None)))
}

fn decode_key(set: SetId, mut bytes: &[u8]) -> Option<Vec<Part>> {
    let several = set.key().len() > 1;
    let mut parts = Vec::new();
    for field in set.key() {
        let length = field_length(*field);
        let value = bytes.get(..length)?;
        parts.push(match field {
            Field::Ifname => {
                let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
                Part::Ifname(String::from_utf8(value[..end].to_vec()).ok()?)
            }
            Field::Ipv4 => Part::Ipv4(<[u8; 4]>::try_from(value).ok()?.into()),
            Field::Ipv6 => Part::Ipv6(<[u8; 16]>::try_from(value).ok()?.into()),
            Field::Ether => Part::Ether(value.try_into().ok()?),
            Field::InetProto => Part::InetProto(Transport::from_number(value[0])?),
            Field::InetService => Part::InetService(u16::from_be_bytes(value.try_into().ok()?)),
        });
        let padded = if several { length.next_multiple_of(4) } else { length };
        bytes = bytes.get(padded..).unwrap_or_default();
    }
    Some(parts)
}

fn decode_data(kind: DataType, bytes: &[u8]) -> Option<Data> {
    if kind == DataType::Verdict {
        let verdict = find(bytes, DATA_VERDICT).ok()??;
        let code = find(verdict, 1).ok()??;
        return match i32::from_be_bytes(code.try_into().ok()?) {
            0 => Some(Data::Verdict(Member::Drop)),
            1 => Some(Data::Verdict(Member::Accept)),
            _ => None,
        };
    }
    let value = find(bytes, DATA_VALUE).ok()??;
    let port = |at: usize| Some(u16::from_be_bytes(*value.get(at..)?.first_chunk()?));
    let four = || Some(Ipv4Addr::from(*value.first_chunk::<4>()?));
    let six = || Some(Ipv6Addr::from(*value.first_chunk::<16>()?));
    Some(match kind {
        DataType::None => Data::None,
        DataType::Verdict => return None,
        DataType::Ipv4 => Data::Ipv4(four()?),
        DataType::Ipv6 => Data::Ipv6(six()?),
        DataType::Ipv4Service => Data::Ipv4Service(four()?, port(4)?),
        DataType::Ipv6Service => Data::Ipv6Service(six()?, port(16)?),
        DataType::Ether => Data::Ether(*value.first_chunk()?),
    })
}

/// The elements of one message of a set's dump.
pub(super) fn list(bytes: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    attributes(bytes).map(|attribute| attribute.map(|(_, value)| value))
}
