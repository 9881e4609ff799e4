//! Flows and filters as the kernel has them. Pure: values in, bytes out, and back.

use std::net::IpAddr;

use crate::hostnet::flows::{Filter, Flow, Partial, Tuple};
use crate::kernel::nft::wire::{Damaged, Writer, needed, pick};

use super::Filters;

/// A flow, with what names it in the kernel.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) flow: Flow,
    /// Its original tuple, number and zone, as attributes.
    pub(super) name: Vec<u8>,
}

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// The attributes of a filter: partial tuples, and which of their parts count. What the kernel cannot do is left out;
/// empty if nothing remains.
pub(super) fn body_of(filter: &Filter, able: Filters) -> Vec<u8> {
    let protocol = filter.protocol().map(|transport| transport.number());
    let only_able = |partial: Partial| Partial {
        source: partial.source.filter(|_| able >= Filters::Full),
        destination: partial.destination.filter(|_| able >= Filters::Full),
        source_port: partial.source_port.filter(|_| able >= Filters::Ports),
        destination_port: partial.destination_port.filter(|_| able >= Filters::Ports),
    };
    let (original, reply) = (only_able(filter.original()), only_able(filter.reply()));
    let flags = [flags(original, protocol), flags(reply, protocol)];
    let mut body = Writer::default();
    for ((kind, partial), flags) in
        [(CTA_TUPLE_ORIG, original), (CTA_TUPLE_REPLY, reply)].into_iter().zip(flags)
    {
        if flags != 0 {
            body.nest(kind, |body| write_tuple(body, partial, protocol));
        }
    }
    if flags == [0, 0] {
        return Vec::new();
    }
    body.nest(CTA_FILTER, |body| {
        for (kind, flags) in [CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS].into_iter().zip(flags) {
            if flags != 0 {
                body.put(kind, &flags.to_ne_bytes());
            }
        }
    });
    body.into_bytes()
}

/// The attributes of a flow that is to be known for some minutes.
pub(super) fn body_of_flow(flow: &Flow) -> Vec<u8> {
    const SECONDS: u32 = 600;
    let mut body = Writer::default();
    for (kind, tuple) in [(CTA_TUPLE_ORIG, flow.original), (CTA_TUPLE_REPLY, flow.reply)] {
        body.nest(kind, |body| write_tuple(body, Partial::from(tuple), Some(flow.protocol)));
    }
    body.number(CTA_TIMEOUT, SECONDS);
    if flow.protocol == 6 {
        const ESTABLISHED: u8 = 3;
        body.nest(CTA_PROTOINFO, |info| {
            info.nest(CTA_PROTOINFO_TCP, |tcp| tcp.put(CTA_PROTOINFO_TCP_STATE, &[ESTABLISHED]));
        });
    }
    body.into_bytes()
}

/// The attributes that name a flow.
pub(super) fn name_of_flow(flow: &Flow) -> Vec<u8> {
    let mut body = Writer::default();
    body.nest(CTA_TUPLE_ORIG, |body| write_tuple(body, flow.original.into(), Some(flow.protocol)));
    body.into_bytes()
}

/// Which parts of a tuple count; nothing does where only the protocol is known, which the other side tells already.
fn flags(partial: Partial, protocol: Option<u8>) -> u32 {
    let bit = |asked: bool, bit: u32| if asked { 1 << bit } else { 0 };
    let parts = bit(partial.source.is_some(), 0)
        | bit(partial.destination.is_some(), 1)
        | bit(partial.source_port.is_some(), 4)
        | bit(partial.destination_port.is_some(), 5);
    if parts == 0 { 0 } else { parts | bit(protocol.is_some(), 3) }
}

fn write_tuple(writer: &mut Writer, partial: Partial, protocol: Option<u8>) {
    let Partial { source, destination, source_port, destination_port } = partial;
    if source.is_some() || destination.is_some() {
        writer.nest(CTA_TUPLE_IP, |ip| {
            for (address, v4, v6) in
                [(source, CTA_IP_V4_SRC, CTA_IP_V6_SRC), (destination, CTA_IP_V4_DST, CTA_IP_V6_DST)]
            {
                match address {
                    Some(IpAddr::V4(address)) => ip.put(v4, &address.octets()),
                    Some(IpAddr::V6(address)) => ip.put(v6, &address.octets()),
                    None => {}
                }
            }
        });
    }
    if let Some(protocol) = protocol {
        writer.nest(CTA_TUPLE_PROTO, |proto| {
            proto.put(CTA_PROTO_NUM, &[protocol]);
            for (port, kind) in [(source_port, CTA_PROTO_SRC_PORT), (destination_port, CTA_PROTO_DST_PORT)] {
                if let Some(port) = port {
                    proto.put(kind, &port.to_be_bytes());
                }
            }
        });
    }
}

/// Reads one flow of a list; `None` if it is of a family that we have nothing to do with.
pub(super) fn found(body: &[u8]) -> Result<Option<Found>, Damaged> {
    let [original, reply, id, zone] = pick(body, [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE])?;
    let original_bytes = needed(original, "original tuple")?;
    let (Some((protocol, original)), Some((_, reply))) =
        (read_tuple(original_bytes)?, read_tuple(needed(reply, "reply tuple")?)?)
    else {
        return Ok(None);
    };
    let mut name = Writer::default();
    name.nest(CTA_TUPLE_ORIG, |tuple| tuple.raw(original_bytes));
    name.put(CTA_ID, needed(id, "number")?);
    if let Some(zone) = zone {
        name.put(CTA_ZONE, zone);
    }
    Ok(Some(Found { flow: Flow { protocol, original, reply }, name: name.into_bytes() }))
}

fn read_tuple(bytes: &[u8]) -> Result<Option<(u8, Tuple)>, Damaged> {
    let [ip, proto] = pick(bytes, [CTA_TUPLE_IP, CTA_TUPLE_PROTO])?;
    let kinds = [CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST];
    let [source4, destination4, source6, destination6] = pick(needed(ip, "addresses")?, kinds)?;
    let (source, destination) = match (source4, destination4, source6, destination6) {
        (Some(source), Some(destination), _, _) => (address::<4>(source)?, address::<4>(destination)?),
        (_, _, Some(source), Some(destination)) => (address::<16>(source)?, address::<16>(destination)?),
        _ => return Ok(None),
    };
    let kinds = [CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT];
    let [number, from, to] = pick(needed(proto, "protocol")?, kinds)?;
    let protocol = needed(number, "number of a protocol")?;
    let [protocol] = *protocol else { return Err(Damaged("a protocol that is no byte".into())) };
    let tuple = Tuple { source, destination, source_port: port(from)?, destination_port: port(to)? };
    Ok(Some((protocol, tuple)))
}

fn address<const N: usize>(bytes: &[u8]) -> Result<IpAddr, Damaged>
where
    IpAddr: From<[u8; N]>,
{
    let bytes = <[u8; N]>::try_from(bytes);
    bytes.map(IpAddr::from).map_err(|_| Damaged("an address of the wrong size".into()))
}

fn port(bytes: Option<&[u8]>) -> Result<u16, Damaged> {
    match bytes.map(<[u8; 2]>::try_from) {
        None => Ok(0),
        Some(Ok(bytes)) => Ok(u16::from_be_bytes(bytes)),
        Some(Err(_)) => Err(Damaged("a port of the wrong size".into())),
    }
}
