//! The bytes of nf_tables messages: attributes, nested attributes, batches. linux/netfilter/nf_tables.h has the numbers.

use crate::hostnet::rules::Family;

pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;

pub(super) const NEWTABLE: u16 = 0;
pub(super) const GETTABLE: u16 = 1;
pub(super) const DELTABLE: u16 = 2;
pub(super) const NEWCHAIN: u16 = 3;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
pub(super) const NEWSET: u16 = 9;
pub(super) const NEWSETELEM: u16 = 12;
pub(super) const GETSETELEM: u16 = 13;
pub(super) const DELSETELEM: u16 = 14;
pub(super) const NEWOBJ: u16 = 18;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;

/// NFPROTO_* of a table.
pub(super) fn family_number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Bridge => 7,
    }
}

/// Attributes being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A string with its final zero.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(super) fn nested(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        // Every value here is a name, a key or a short list; none comes near 64 KiB.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// One message with its netlink and nfnetlink headers.
pub(super) fn message(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    body: &Attributes,
) -> Vec<u8> {
    let length = HEADER + 4 + body.0.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&[family, 0]);
    bytes.extend_from_slice(&resource.to_be_bytes());
    bytes.extend_from_slice(&body.0);
    bytes
}

/// The type of an nf_tables message.
pub(super) fn nft_type(kind: u16) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8) | kind
}

/// A received message: type, flags, sequence number, and what follows the netlink header.
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// The messages of one datagram; `None` in place of one that is cut short.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Option<Received<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let parsed = split(bytes);
        bytes = parsed.as_ref().map_or(&[][..], |(_, rest)| rest);
        Some(parsed.map(|(message, _)| message))
    })
}

fn split(bytes: &[u8]) -> Option<(Received<'_>, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let payload = bytes.get(HEADER..length)?;
    let half = |at: usize| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((Received { kind: half(4)?, flags: half(6)?, sequence, payload }, rest))
}

/// The attributes of a payload: (type, value); `None` in place of one that is cut short.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let parsed = attribute(bytes);
        bytes = parsed.as_ref().map_or(&[][..], |(_, rest)| rest);
        Some(parsed.map(|(attribute, _)| attribute))
    })
}

#[allow(clippy::type_complexity, reason = "an attribute and what follows it, read once")]
fn attribute(bytes: &[u8]) -> Option<((u16, &[u8]), &[u8])> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & TYPE_MASK;
    let value = bytes.get(4..length)?;
    Some(((kind, value), bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The value of one attribute; an error when the payload is cut short.
pub(super) fn find(bytes: &[u8], wanted: u16) -> Result<Option<&[u8]>, Cut> {
    for attribute in attributes(bytes) {
        let (kind, value) = attribute.ok_or(Cut)?;
        if kind == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// A message that ends before it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut;
