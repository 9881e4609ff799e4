//! Elements as the kernel holds them. Pure: values in, bytes out, and back.
//!
//! An interval in a tree is two elements in the kernel, the first key and, marked as an end, the first key behind;
//! an interval over several fields is one element with two keys. An [`Element`] is one value either way.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::hostnet::rules::{
    ChainName, Data, DataType, Element, Family, Field, Member, Part, SetId, Shape, Transport,
};

use super::expr::{Verdict, value, write_verdict};
use super::skeleton::TABLE;
use super::uapi::*;
use super::wire::{Damaged, Writer, attributes, needed, number, pick, text};

/// What one element of the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Whole(Element),
    Start(Vec<Part>, Data),
    End(Vec<Part>),
}

/// The number of the table's family.
pub(super) fn family(family: Family) -> u8 {
    match family {
        Family::Inet => NFPROTO_INET,
        Family::Bridge => NFPROTO_BRIDGE,
    }
}

/// Whether an interval of this set is two elements in the kernel.
fn in_tree(set: SetId) -> bool {
    set.shape() == Shape::Interval && set.key().len() == 1
}

/// The bytes of a field alone; beside others it is padded to 4.
pub(super) fn size(field: Field) -> usize {
    match field {
        Field::Ifname | Field::Ipv6 => 16,
        Field::Ether => 6,
        Field::Ipv4 => 4,
        Field::InetService => 2,
        Field::InetProto => 1,
    }
}

/// The bytes of these fields together.
pub(super) fn size_of(fields: &[Field]) -> usize {
    match fields {
        [one] => size(*one),
        many => many.iter().map(|field| size(*field).next_multiple_of(4)).sum(),
    }
}

/// The fields of a map's values; `None` for verdicts and for plain sets.
pub(super) fn data_fields(data: DataType) -> Option<&'static [Field]> {
    match data {
        DataType::None | DataType::Verdict => None,
        DataType::Ipv4 => Some(&[Field::Ipv4]),
        DataType::Ipv6 => Some(&[Field::Ipv6]),
        DataType::Ipv4Service => Some(&[Field::Ipv4, Field::InetService]),
        DataType::Ipv6Service => Some(&[Field::Ipv6, Field::InetService]),
        DataType::Ether => Some(&[Field::Ether]),
    }
}

/// Writes the body of a message that adds or deletes this element. Fails on a name that no device can have.
pub(super) fn write(element: &Element, writer: &mut Writer) -> Result<(), Damaged> {
    let key = key_bytes(element.key())?;
    let last = element.last().map(key_bytes).transpose()?;
    let set = element.set();
    writer.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
    writer.text(NFTA_SET_ELEM_LIST_SET, set.name());
    let data = data_parts(element.data());
    let data = data.as_deref().map(key_bytes).transpose()?;
    writer.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        list.nest(NFTA_LIST_ELEM, |one| {
            value(one, NFTA_SET_ELEM_KEY, &key);
            match (&data, element.data()) {
                (Some(data), _) => value(one, NFTA_SET_ELEM_DATA, data),
                (None, Data::Verdict(member)) => {
                    one.nest(NFTA_SET_ELEM_DATA, |data| verdict(*member).write(data));
                }
                (None, Data::Jump(chain)) => {
                    one.nest(NFTA_SET_ELEM_DATA, |data| write_verdict(data, NFT_JUMP, Some(chain.as_str())));
                }
                (None, _) => {}
            }
            if let (Some(last), false) = (&last, in_tree(set)) {
                value(one, NFTA_SET_ELEM_KEY_END, last);
            }
        });
        // An interval up to the last key there is has no end.
        if let Some(behind) = last.filter(|_| in_tree(set)).and_then(successor) {
            list.nest(NFTA_LIST_ELEM, |one| {
                value(one, NFTA_SET_ELEM_KEY, &behind);
                one.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            });
        }
    });
    Ok(())
}

/// The elements in the replies to a request for all of a set, and how many things in it no element of ours can be:
/// a stranger put them there.
pub(super) fn read(set: SetId, replies: &[Vec<u8>]) -> Result<(Vec<Element>, usize), Damaged> {
    let (mut pieces, mut strange) = (Vec::new(), 0);
    for reply in replies {
        let [list] = pick(reply, [NFTA_SET_ELEM_LIST_ELEMENTS])?;
        for attribute in attributes(list.unwrap_or_default()) {
            let (_, bytes) = attribute?;
            match piece(set, bytes)? {
                Some(piece) => pieces.push(piece),
                None => strange += 1,
            }
        }
    }
    let (elements, unpaired) = join(set, pieces);
    Ok((elements, strange + unpaired))
}

/// What the elements of a counted set have counted, by the name that is their key: packets.
pub(super) fn read_counts(replies: &[Vec<u8>]) -> Result<Vec<(String, u64)>, Damaged> {
    let mut counts = Vec::new();
    for reply in replies {
        let [list] = pick(reply, [NFTA_SET_ELEM_LIST_ELEMENTS])?;
        for attribute in attributes(list.unwrap_or_default()) {
            let [key, counter] = pick(attribute?.1, [NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_EXPR])?;
            let [key] = pick(needed(key, "key")?, [NFTA_DATA_VALUE])?;
            let [data] = pick(needed(counter, "counter")?, [NFTA_EXPR_DATA])?;
            let [packets] = pick(needed(data, "counter")?, [NFTA_COUNTER_PACKETS])?;
            let packets = <[u8; 8]>::try_from(needed(packets, "count")?);
            let packets = packets.map_err(|_| Damaged("a count that is not of 8 bytes".into()))?;
            counts.push((text(needed(key, "key")?)?.to_owned(), u64::from_be_bytes(packets)));
        }
    }
    Ok(counts)
}

/// Puts the ends of intervals to their beginnings; also how many have none.
fn join(set: SetId, mut pieces: Vec<Piece>) -> (Vec<Element>, usize) {
    let (mut elements, mut strange) = (Vec::with_capacity(pieces.len()), 0);
    if in_tree(set) {
        // At the same key one interval ends before the next begins.
        pieces.sort_by(|one, other| place(one).cmp(&place(other)));
    }
    let mut begun: Option<(Vec<Part>, Data)> = None;
    for piece in pieces {
        match (piece, begun.take()) {
            (Piece::Whole(element), _) => elements.push(element),
            (Piece::Start(key, data), before) => {
                strange += usize::from(before.is_some());
                begun = Some((key, data));
            }
            (Piece::End(behind), before) => match (before, predecessor(&behind)) {
                (Some((key, data)), Some(last)) => {
                    elements.push(Element::from_parts(set, key, Some(last), data));
                }
                // nft marks the first key there is as the end of what is not in the set.
                (None, None) => {}
                (_, _) => strange += 1,
            },
        }
    }
    if let Some((key, data)) = begun {
        let last = last_of(&key);
        elements.push(Element::from_parts(set, key, Some(last), data));
    }
    (elements, strange)
}

fn place(piece: &Piece) -> (&[Part], bool) {
    match piece {
        Piece::Whole(element) => (element.key(), true),
        Piece::Start(key, _) => (key, true),
        Piece::End(behind) => (behind, false),
    }
}

/// `None`: nothing that we write.
fn piece(set: SetId, bytes: &[u8]) -> Result<Option<Piece>, Damaged> {
    let kinds = [NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS];
    let [key, last, data, flags] = pick(bytes, kinds)?;
    let flags = flags.map(number).transpose()?.unwrap_or_default();
    if flags & NFT_SET_ELEM_CATCHALL != 0 {
        return Ok(None);
    }
    let Some(key) = key_of(set.key(), needed(key, "key")?)? else { return Ok(None) };
    if flags & NFT_SET_ELEM_INTERVAL_END != 0 && in_tree(set) {
        return Ok(Some(Piece::End(key)));
    }
    let Some(data) = data_of(set, data)? else { return Ok(None) };
    if in_tree(set) {
        return Ok(Some(Piece::Start(key, data)));
    }
    let last = match (set.shape(), last) {
        (Shape::Exact | Shape::Counted, _) => None,
        // A single key may come without its end.
        (Shape::Interval, None) => Some(key.clone()),
        (Shape::Interval, Some(last)) => match key_of(set.key(), last)? {
            Some(last) => Some(last),
            None => return Ok(None),
        },
    };
    Ok(Some(Piece::Whole(Element::from_parts(set, key, last, data))))
}

fn data_of(set: SetId, bytes: Option<&[u8]>) -> Result<Option<Data>, Damaged> {
    let [plain, verdict] = pick(bytes.unwrap_or_default(), [NFTA_DATA_VALUE, NFTA_DATA_VERDICT])?;
    match (set.data(), data_fields(set.data())) {
        (DataType::None, _) => Ok(Some(Data::None)),
        (_, Some(fields)) => {
            Ok(parts_of(fields, needed(plain, "data")?).and_then(|parts| data_of_parts(&parts)))
        }
        (_, None) => {
            let verdict = needed(verdict, "verdict")?;
            let [code, chain] = pick(verdict, [NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN])?;
            Ok(match number(needed(code, "verdict")?)?.cast_signed() {
                NFT_JUMP => ChainName::read(text(needed(chain, "chain")?)?).map(Data::Jump),
                NF_ACCEPT => Some(Data::Verdict(Member::Accept)),
                NF_DROP => Some(Data::Verdict(Member::Drop)),
                _ => None,
            })
        }
    }
}

fn data_of_parts(parts: &[Part]) -> Option<Data> {
    match parts {
        [Part::Ipv4(address)] => Some(Data::Ipv4(*address)),
        [Part::Ipv6(address)] => Some(Data::Ipv6(*address)),
        [Part::Ether(mac)] => Some(Data::Ether(*mac)),
        [Part::Ipv4(address), Part::InetService(port)] => Some(Data::Ipv4Service(*address, *port)),
        [Part::Ipv6(address), Part::InetService(port)] => Some(Data::Ipv6Service(*address, *port)),
        _ => None,
    }
}

fn data_parts(data: &Data) -> Option<Vec<Part>> {
    match data {
        Data::None | Data::Verdict(_) | Data::Jump(_) => None,
        Data::Ipv4(address) => Some(vec![Part::Ipv4(*address)]),
        Data::Ipv6(address) => Some(vec![Part::Ipv6(*address)]),
        Data::Ipv4Service(address, port) => Some(vec![Part::Ipv4(*address), Part::InetService(*port)]),
        Data::Ipv6Service(address, port) => Some(vec![Part::Ipv6(*address), Part::InetService(*port)]),
        Data::Ether(mac) => Some(vec![Part::Ether(*mac)]),
    }
}

fn verdict(member: Member) -> Verdict {
    match member {
        Member::Accept => Verdict::Accept,
        Member::Drop => Verdict::Drop,
    }
}

fn key_of(fields: &[Field], bytes: &[u8]) -> Result<Option<Vec<Part>>, Damaged> {
    let [plain] = pick(bytes, [NFTA_DATA_VALUE])?;
    Ok(parts_of(fields, needed(plain, "key")?))
}

fn key_bytes(parts: &[Part]) -> Result<Vec<u8>, Damaged> {
    let mut bytes = Vec::with_capacity(40);
    for part in parts {
        match part {
            Part::Ifname(name) => {
                // The 16th byte is the NUL at the end.
                if name.is_empty() || name.len() > 15 || name.contains('\0') {
                    return Err(Damaged(format!("{name:?} is no name of a device")));
                }
                bytes.extend(name.as_bytes());
                bytes.resize(bytes.len() + 16 - name.len(), 0);
            }
            Part::Ipv4(address) => bytes.extend(address.octets()),
            Part::Ipv6(address) => bytes.extend(address.octets()),
            Part::Ether(mac) => bytes.extend(mac),
            Part::InetProto(transport) => bytes.push(transport.number()),
            Part::InetService(port) => bytes.extend(port.to_be_bytes()),
        }
        if parts.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    Ok(bytes)
}

/// `None`: the bytes are not what we would write for any value.
fn parts_of(fields: &[Field], bytes: &[u8]) -> Option<Vec<Part>> {
    let mut rest = bytes;
    let mut parts = Vec::with_capacity(fields.len());
    for field in fields {
        let (content, behind) = rest.split_at_checked(size(*field))?;
        let padding = if fields.len() > 1 { content.len().next_multiple_of(4) - content.len() } else { 0 };
        let (padding, behind) = behind.split_at_checked(padding)?;
        if padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        rest = behind;
        parts.push(part_of(*field, content)?);
    }
    rest.is_empty().then_some(parts)
}

fn part_of(field: Field, content: &[u8]) -> Option<Part> {
    Some(match field {
        Field::Ifname => {
            let name = content.split(|byte| *byte == 0).next()?;
            let padding = content.get(name.len()..)?;
            if name.is_empty() || padding.is_empty() || padding.iter().any(|byte| *byte != 0) {
                return None;
            }
            Part::Ifname(std::str::from_utf8(name).ok()?.to_owned())
        }
        Field::Ipv4 => Part::Ipv4(<[u8; 4]>::try_from(content).ok()?.into()),
        Field::Ipv6 => Part::Ipv6(<[u8; 16]>::try_from(content).ok()?.into()),
        Field::Ether => Part::Ether(content.try_into().ok()?),
        Field::InetProto => Part::InetProto(Transport::from_number(*content.first()?)?),
        Field::InetService => Part::InetService(u16::from_be_bytes(content.try_into().ok()?)),
    })
}

/// The key behind this one; none behind the last one there is.
fn successor(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        let (next, carry) = byte.overflowing_add(1);
        *byte = next;
        if !carry {
            return Some(key);
        }
    }
    None
}

/// The key before this one. All trees are of addresses.
fn predecessor(key: &[Part]) -> Option<Vec<Part>> {
    let part = match key {
        [Part::Ipv4(address)] => Part::Ipv4(Ipv4Addr::from_bits(address.to_bits().checked_sub(1)?)),
        [Part::Ipv6(address)] => Part::Ipv6(Ipv6Addr::from_bits(address.to_bits().checked_sub(1)?)),
        _ => return None,
    };
    Some(vec![part])
}

/// The last key there is beside this one.
fn last_of(key: &[Part]) -> Vec<Part> {
    key.iter()
        .map(|part| match part {
            Part::Ipv4(_) => Part::Ipv4(Ipv4Addr::BROADCAST),
            Part::Ipv6(_) => Part::Ipv6(Ipv6Addr::from_bits(u128::MAX)),
            other => other.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn part(field: Field) -> BoxedStrategy<Part> {
        match field {
            Field::Ifname => "[a-z0-9.-]{1,15}".prop_map(Part::Ifname).boxed(),
            Field::Ipv4 => any::<[u8; 4]>().prop_map(|bytes| Part::Ipv4(bytes.into())).boxed(),
            Field::Ipv6 => any::<[u8; 16]>().prop_map(|bytes| Part::Ipv6(bytes.into())).boxed(),
            Field::Ether => any::<[u8; 6]>().prop_map(Part::Ether).boxed(),
            Field::InetProto => select(&[Transport::Tcp, Transport::Udp, Transport::Sctp][..])
                .prop_map(Part::InetProto)
                .boxed(),
            Field::InetService => any::<u16>().prop_map(Part::InetService).boxed(),
        }
    }

    fn key(set: SetId) -> impl Strategy<Value = Vec<Part>> {
        set.key().iter().map(|field| part(*field)).collect::<Vec<_>>()
    }

    fn data(set: SetId) -> BoxedStrategy<Data> {
        match data_fields(set.data()) {
            Some(fields) => {
                let parts: Vec<_> = fields.iter().map(|field| part(*field)).collect();
                parts.prop_map(|parts| data_of_parts(&parts).unwrap()).boxed()
            }
            None if set.data() == DataType::Verdict => {
                let member = select(&[Member::Accept, Member::Drop][..]).prop_map(Data::Verdict);
                let jump = "c_[a-z0-9]{1,13}".prop_map(|name| Data::Jump(ChainName::read(&name).unwrap()));
                prop_oneof![member, jump].boxed()
            }
            None => Just(Data::None).boxed(),
        }
    }

    fn element() -> impl Strategy<Value = Element> {
        select(SetId::ALL).prop_flat_map(|set| {
            (key(set), key(set), data(set)).prop_map(move |(one, other, data)| {
                let ranged = set.shape() == Shape::Interval;
                let (first, last) = if one <= other { (one, other) } else { (other, one) };
                Element::from_parts(set, first, ranged.then_some(last), data)
            })
        })
    }

    fn written(element: &Element) -> Vec<u8> {
        let mut writer = Writer::default();
        write(element, &mut writer).unwrap();
        writer.into_bytes()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(element in element()) {
            let reply = written(&element);
            prop_assert!(reply.len() + 20 <= super::super::LARGEST_CHANGE);
            prop_assert_eq!(read(element.set(), &[reply]), Ok((vec![element], 0)));
        }

        #[test]
        fn a_changed_byte_is_another_element_or_none_but_never_a_panic(
            element in element(), at: prop::sample::Index, to: u8,
        ) {
            let mut reply = written(&element);
            let at = at.index(reply.len());
            reply[at] = to;
            let _ = read(element.set(), &[reply]);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            set in select(SetId::ALL), bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = read(set, std::slice::from_ref(&bytes));
            let mut list = Writer::default();
            list.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| list.nest(NFTA_LIST_ELEM, |one| one.raw(&bytes)));
            let _ = read(set, &[list.into_bytes()]);
        }
    }

    #[test]
    fn neighbouring_intervals_are_told_apart_in_any_order() {
        let nets = ["10.1.0.0/24", "10.1.1.0/24", "10.1.3.0/24", "255.0.0.0/8"];
        let elements: Vec<_> = nets.iter().map(|net| Element::own4(net.parse().unwrap())).collect();
        let mut replies: Vec<_> = elements.iter().map(written).collect();
        replies.reverse();
        assert_eq!(read(SetId::Own4, &replies), Ok((elements, 0)));
    }

    #[test]
    fn an_end_without_a_beginning_is_strange_save_at_the_first_key() {
        let end = |key: &[u8]| {
            let mut writer = Writer::default();
            writer.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                list.nest(NFTA_LIST_ELEM, |one| {
                    value(one, NFTA_SET_ELEM_KEY, key);
                    one.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
                });
            });
            writer.into_bytes()
        };
        assert_eq!(read(SetId::Own4, &[end(&[0, 0, 0, 0])]), Ok((vec![], 0)));
        assert_eq!(read(SetId::Own4, &[end(&[0, 0, 0, 1])]), Ok((vec![], 1)));
    }
}
