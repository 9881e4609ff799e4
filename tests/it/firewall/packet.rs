//! Packets as an attacker would write them: every field is the caller's, checksums are right.
//!
//! Each packet carries a mark of its own, by which it is known wherever it turns up.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

pub type Mac = [u8; 6];
pub type Mark = [u8; 8];

pub const BROADCAST: Mac = [0xff; 6];
pub const NO_MAC: Mac = [0; 6];
pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;

const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// What is inside of a frame.
#[derive(Clone, Debug)]
pub struct Packet {
    pub mark: Mark,
    /// Between the addresses and the type.
    tags: Vec<u8>,
    kind: u16,
    bytes: Vec<u8>,
}

/// A packet on the wire.
#[derive(Clone, Debug)]
pub struct Frame {
    pub mark: Mark,
    pub bytes: Vec<u8>,
}

impl Packet {
    fn new(mark: Mark, kind: u16, bytes: Vec<u8>) -> Self {
        Self { mark, tags: Vec::new(), kind, bytes }
    }

    /// With VLAN tags, in network order, outermost first.
    pub fn tagged(mut self, tags: &[u8]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// With a type that says something else than what it is.
    pub fn called(mut self, kind: u16) -> Self {
        self.kind = kind;
        self
    }

    /// Puts it into a frame.
    pub fn ether(&self, from: Mac, to: Mac) -> Frame {
        let mut bytes = [&to[..], &from, &self.tags, &self.kind.to_be_bytes(), &self.bytes].concat();
        bytes.resize(bytes.len().max(60), 0);
        Frame { mark: self.mark, bytes }
    }
}

/// A number that nobody else has.
fn fresh() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn mark() -> Mark {
    let text = format!("~{:06}~", fresh() % 1_000_000);
    text.into_bytes().try_into().unwrap()
}

/// A port that no earlier packet came from: flows of earlier rows say nothing about this one.
pub fn fresh_port() -> u16 {
    u16::try_from(30_000 + fresh() % 30_000).unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `192.0.2.1:80`, or an address alone with a fresh port.
fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| SocketAddr::new(ip(text), fresh_port()))
}

/// A datagram.
pub fn udp(from: &str, to: &str) -> Packet {
    udp_of(from, to, 0)
}

/// A datagram with so many bytes after its mark.
pub fn udp_of(from: &str, to: &str, more: usize) -> Packet {
    let (mark, from, to) = (mark(), endpoint(from), endpoint(to));
    let payload = [&mark[..], &vec![0; more]].concat();
    transport(mark, from.ip(), to.ip(), UDP, datagram(from, to, &payload))
}

/// The first segment of a connection; the mark is data that comes early.
pub fn syn(from: &str, to: &str) -> Packet {
    let (mark, from, to) = (mark(), endpoint(from), endpoint(to));
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let number = fresh().to_be_bytes();
    // Header of 20 bytes, SYN, window 65535, checksum to come.
    let rest = [0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
    let mut segment = [&ports[..], &number, &rest, &mark].concat();
    put_checksum(&mut segment, 16, from.ip(), to.ip(), TCP);
    transport(mark, from.ip(), to.ip(), TCP, segment)
}

/// An echo request.
pub fn echo(from: &str, to: &str) -> Packet {
    let (mark, from, to) = (mark(), ip(from), ip(to));
    let number = fresh().to_be_bytes();
    let kind = if from.is_ipv4() { 8 } else { 128 };
    icmp(mark, from, to, [kind, 0], &[&number[..], &mark].concat(), 64)
}

/// A router's word that a packet was too large, about a datagram that went this way.
pub fn too_big(router: &str, to: &str, sent_from: SocketAddr, sent_to: SocketAddr) -> Packet {
    let mark = mark();
    let datagram = datagram(sent_from, sent_to, &[&mark[..], &[0; 64]].concat());
    let quoted = transport(mark, sent_from.ip(), sent_to.ip(), UDP, datagram).bytes;
    let mtu = 1280_u16.to_be_bytes();
    let (router, to) = (ip(router), ip(to));
    let kind = if router.is_ipv4() { [3, 4] } else { [2, 0] };
    icmp(mark, router, to, kind, &[&[0, 0], &mtu[..], &quoted].concat(), 64)
}

/// A datagram of 1 600 bytes in two fragments, each with a mark.
pub fn fragments(from: &str, to: &str) -> [Packet; 2] {
    let (first, second, from, to) = (mark(), mark(), endpoint(from), endpoint(to));
    let payload = [&first[..], &[0; 1500], &second, &[0; 84]].concat();
    let datagram = datagram(from, to, &payload);
    let number = fresh();
    let cut = 1400;
    [
        fragment(first, from.ip(), to.ip(), UDP, &datagram[..cut], (number, 0, true)),
        fragment(second, from.ip(), to.ip(), UDP, &datagram[cut..], (number, cut, false)),
    ]
}

/// ARP, with a sender and a target: hardware and protocol address. 1 asks, 2 answers. The mark is in the padding.
pub fn arp(operation: u8, sender: (Mac, &str), target: (Mac, &str)) -> Packet {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    arp_headed(head, sender, target)
}

/// ARP whose first eight bytes are the caller's, too.
pub fn arp_headed(head: [u8; 8], sender: (Mac, &str), target: (Mac, &str)) -> Packet {
    let mark = mark();
    let (from, to) = (octets(ip(sender.1)), octets(ip(target.1)));
    Packet::new(mark, ARP, [&head[..], &sender.0, &from, &target.0, &to, &mark].concat())
}

/// A neighbour solicitation: who has the target?
pub fn solicit(from: &str, to: &str, target: &str, own: Mac) -> Packet {
    discovery(135, 1, from, to, &[&[0; 4], &octets(ip(target))[..]].concat(), own)
}

/// A neighbour advertisement: the target is at this MAC.
pub fn advertise(from: &str, target: &str, at: Mac) -> Packet {
    discovery(136, 2, from, "ff02::1", &[&[0x20, 0, 0, 0], &octets(ip(target))[..]].concat(), at)
}

/// A router advertisement.
pub fn router(from: &str, own: Mac) -> Packet {
    discovery(134, 1, from, "ff02::1", &[0x40, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0], own)
}

/// A redirect to another router.
pub fn redirect(from: &str, to: &str, router: &str, destination: &str, own: Mac) -> Packet {
    let addresses = [octets(ip(router)), octets(ip(destination))].concat();
    discovery(137, 2, from, to, &[&[0; 4], &addresses[..]].concat(), own)
}

/// A router advertisement behind a header of destination options.
pub fn router_behind_options(from: &str, own: Mac) -> Packet {
    let message = discovery(134, 1, from, "ff02::1", &[0x40, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0], own);
    let options = [ICMPV6, 0, 1, 4, 0, 0, 0, 0];
    let payload = [&options[..], &message.bytes[40..]].concat();
    Packet::new(message.mark, IPV6, v6(ip(from), ip("ff02::1"), DESTINATION_OPTIONS, 255, &payload))
}

/// The whole of a router advertisement as a first fragment.
pub fn router_in_fragment(from: &str, own: Mac) -> Packet {
    let message = router(from, own);
    fragment(message.mark, ip(from), ip("ff02::1"), ICMPV6, &message.bytes[40..], (fresh(), 0, true))
}

/// A report of a multicast listener.
pub fn listener_report(from: &str) -> Packet {
    let mark = mark();
    let (from, to) = (ip(from), ip("ff02::16"));
    icmp(mark, from, to, [143, 0], &[&[0; 4], &mark[..]].concat(), 1)
}

/// Anything else.
pub fn other(kind: u16) -> Packet {
    let mark = mark();
    Packet::new(mark, kind, mark.repeat(6))
}

/// A bridge's word about the spanning tree; its type is a length.
pub fn bpdu() -> Packet {
    let mark = mark();
    Packet::new(mark, 0x26, [&[0x42, 0x42, 0x03], &mark[..]].concat())
}

/// The group that an IPv6 multicast address is sent to.
pub fn group(address: &str) -> Mac {
    let bytes = octets(ip(address));
    [0x33, 0x33, bytes[12], bytes[13], bytes[14], bytes[15]]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Discovery is believed only with the highest hop limit. The option with a MAC comes first, one with the mark follows.
fn discovery(kind: u8, option: u8, from: &str, to: &str, body: &[u8], mac: Mac) -> Packet {
    let mark = mark();
    let options = [&[option, 1], &mac[..], &[253, 2], &mark, &[0; 6]].concat();
    icmp(mark, ip(from), ip(to), [kind, 0], &[body, &options].concat(), 255)
}

fn icmp(mark: Mark, from: IpAddr, to: IpAddr, kind: [u8; 2], body: &[u8], hops: u8) -> Packet {
    let mut message = [&kind[..], &[0, 0], body].concat();
    let bytes = if from.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
        v4(from, to, ICMP, 0x4000, fresh(), &message)
    } else {
        put_checksum(&mut message, 2, from, to, ICMPV6);
        v6(from, to, ICMPV6, hops, &message)
    };
    Packet::new(mark, if from.is_ipv4() { IPV4 } else { IPV6 }, bytes)
}

fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut datagram = [&ports[..], &length, &[0, 0], payload].concat();
    put_checksum(&mut datagram, 6, from.ip(), to.ip(), UDP);
    datagram
}

fn transport(mark: Mark, from: IpAddr, to: IpAddr, protocol: u8, payload: Vec<u8>) -> Packet {
    match from {
        IpAddr::V4(_) => Packet::new(mark, IPV4, v4(from, to, protocol, 0x4000, fresh(), &payload)),
        IpAddr::V6(_) => Packet::new(mark, IPV6, v6(from, to, protocol, 64, &payload)),
    }
}

/// A part of a packet: its number, where the part begins, and whether more follow.
fn fragment(
    mark: Mark,
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    part: &[u8],
    (number, begin, more): (u32, usize, bool),
) -> Packet {
    let begin = u16::try_from(begin).unwrap();
    match from {
        IpAddr::V4(_) => {
            let place = (begin / 8) | if more { 0x2000 } else { 0 };
            Packet::new(mark, IPV4, v4(from, to, protocol, place, number, part))
        }
        IpAddr::V6(_) => {
            let place = (begin | u16::from(more)).to_be_bytes();
            let header = [&[protocol, 0], &place[..], &number.to_be_bytes()].concat();
            Packet::new(mark, IPV6, v6(from, to, FRAGMENT, 64, &[&header[..], part].concat()))
        }
    }
}

fn v4(from: IpAddr, to: IpAddr, protocol: u8, place: u16, number: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let number = (number as u16).to_be_bytes();
    let place = place.to_be_bytes();
    let ends = [octets(from), octets(to)].concat();
    let mut header = [&[0x45, 0], &length[..], &number, &place, &[64, protocol, 0, 0], &ends].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&header, payload].concat()
}

fn v6(from: IpAddr, to: IpAddr, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let ends = [octets(from), octets(to)].concat();
    [&[0x60, 0, 0, 0], &length[..], &[protocol, hops], &ends, payload].concat()
}

/// Over the pseudo header and the message.
fn put_checksum(message: &mut [u8], at: usize, from: IpAddr, to: IpAddr, protocol: u8) {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let ends = [octets(from), octets(to)].concat();
    let sum = checksum(&[&ends[..], &length, &[0, 0, 0, protocol], message].concat());
    message[at..at + 2].copy_from_slice(&sum);
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from_be_bytes([0, 0, pair[0], *pair.get(1).unwrap_or(&0)]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}
