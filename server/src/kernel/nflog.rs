//! The kernel's log of packets (`log group` in a rule of nftables, NFNETLINK_LOG): who told, and whose packet it was.
//!
//! Calls block, and belong on a thread that may. What comes faster than it is read is lost, as the kernel says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::datagram::parts;
use super::extack::Refusal;
use super::nft::socket::NetfilterSocket;
use super::nft::uapi::NFPROTO_UNSPEC;
use super::nft::wire::{Damaged, Writer, needed, pick, text};
use super::socket::{SocketError, system};

const NFNL_SUBSYS_ULOG: u16 = 4;
const NFULNL_MSG_PACKET: u16 = 0;
const NFULNL_MSG_CONFIG: u16 = 1;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_QTHRESH: u16 = 5;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
/// Behind the netlink header.
const NETFILTER_HEADER: usize = 4;
/// Datagrams taken in one call.
const AT_ONCE: usize = 256;

/// A packet that a rule told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// What the rule says of itself.
    pub prefix: String,
    /// Its source.
    pub from: IpAddr,
    /// Its destination.
    pub to: IpAddr,
    /// The protocol's number behind the IP header.
    pub protocol: u8,
    /// The destination port; of ICMP type and code, as one number. None if the packet has none, or not here.
    pub number: Option<u16>,
}

/// Reads one group.
pub(in crate::kernel) struct PacketLog(NetfilterSocket);

/// The log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::kernel) enum LogError {
    /// The kernel refused: another process reads the group, or there is no such log.
    #[error("the kernel's log of packets: {0:?}")]
    Refused(Refusal),
    /// The socket failed.
    #[error("the kernel's log of packets: {0}")]
    Socket(#[from] SocketError),
}

impl PacketLog {
    /// Begins to read the group in the network namespace of the calling thread: so many bytes of each packet, at once.
    pub(in crate::kernel) fn open(group: u16, bytes: u32) -> Result<Self, LogError> {
        let mut socket = NetfilterSocket::open()?;
        let mut ask = |write: &dyn Fn(&mut Writer)| {
            let mut body = Writer::default();
            write(&mut body);
            let about = (NFPROTO_UNSPEC, group);
            let answer = socket.request_about(NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG, 0, about, body.bytes())?;
            answer.map(drop).map_err(LogError::Refused)
        };
        ask(&|body| body.put(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]))?;
        ask(&|body| {
            let mut mode = bytes.to_be_bytes().to_vec();
            mode.extend([NFULNL_COPY_PACKET, 0]);
            body.put(NFULA_CFG_MODE, &mode);
            body.number(NFULA_CFG_QTHRESH, 1);
        })?;
        Ok(Self(socket))
    }

    /// What was told, after so long at most; nothing then. What cannot be read is left out.
    pub(in crate::kernel) fn next(&mut self, timeout: Duration) -> Result<Vec<Logged>, LogError> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(system("poll")(errno).into()),
        }
        let mut logged = Vec::new();
        for _ in 0..AT_ONCE {
            match self.0.told() {
                Ok(Some(datagram)) => logged.extend(packets(&datagram)),
                Ok(None) => break,
                // Some were lost; there is nobody to tell which.
                Err(SocketError::Overrun) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(logged)
    }
}

fn packets(datagram: &[u8]) -> Vec<Logged> {
    let kind = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET;
    let told = parts(datagram).filter_map(Result::ok).filter(|part| part.kind == kind);
    told.filter_map(|part| packet(part.payload.get(NETFILTER_HEADER..)?).ok().flatten()).collect()
}

/// One message; none if the packet is not one of IP.
pub(in crate::kernel) fn packet(body: &[u8]) -> Result<Option<Logged>, Damaged> {
    let [prefix, payload] = pick(body, [NFULA_PREFIX, NFULA_PAYLOAD])?;
    let prefix = prefix.map(text).transpose()?.unwrap_or_default().to_owned();
    let ends = read(needed(payload, "packet")?);
    Ok(ends.map(|(from, to, protocol, number)| Logged { prefix, from, to, protocol, number }))
}

type Ends = (IpAddr, IpAddr, u8, Option<u16>);

fn read(packet: &[u8]) -> Option<Ends> {
    match packet.first()? >> 4 {
        4 => read4(packet),
        6 => read6(packet),
        _ => None,
    }
}

fn read4(packet: &[u8]) -> Option<Ends> {
    let at = |at: usize| packet.get(at..at + 4)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
    let (from, to, protocol) = (at(12)?, at(16)?, *packet.get(9)?);
    const OFFSET: u16 = 0x1fff;
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & OFFSET;
    let header = usize::from(packet.first()? & 0xf) * 4;
    let number = (fragment == 0).then(|| number(protocol, packet.get(header..)?)).flatten();
    Some((from.into(), to.into(), protocol, number))
}

fn read6(packet: &[u8]) -> Option<Ends> {
    let at = |at: usize| packet.get(at..at + 16)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets));
    let (from, to) = (at(8)?, at(24)?);
    let (mut protocol, mut place, mut whole) = (*packet.get(6)?, 40, true);
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const OPTIONS: u8 = 60;
    while let HOP_BY_HOP | ROUTING | FRAGMENT | OPTIONS = protocol {
        let (Some(next), Some(length)) = (packet.get(place), packet.get(place + 1)) else { break };
        if protocol == FRAGMENT {
            let offset =
                [packet.get(place + 2), packet.get(place + 3)].map(|byte| byte.copied().unwrap_or(0));
            whole &= u16::from_be_bytes(offset) >> 3 == 0;
            place += 8;
        } else {
            place += (usize::from(*length) + 1) * 8;
        }
        protocol = *next;
        if !whole {
            break;
        }
    }
    let number = whole.then(|| number(protocol, packet.get(place..)?)).flatten();
    Some((from.into(), to.into(), protocol, number))
}

fn number(protocol: u8, header: &[u8]) -> Option<u16> {
    let at = match protocol {
        6 | 17 | 132 => 2,
        1 | 58 => 0,
        _ => return None,
    };
    header.get(at..at + 2)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(packet: &[u8]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.text(NFULA_PREFIX, "c_i0");
        writer.put(NFULA_PAYLOAD, packet);
        writer.into_bytes()
    }

    #[test]
    fn the_ends_of_a_packet_are_read_behind_all_its_headers() {
        let mut v4 = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 1, 0, 11, 10, 1, 0, 12, 1, 1, 1, 1];
        v4.extend([0x30, 0x39, 0, 80]);
        let logged = super::packet(&message(&v4)).unwrap().unwrap();
        let addresses = |logged: &Logged| (logged.from.to_string(), logged.to.to_string());
        assert_eq!(addresses(&logged), ("10.1.0.11".into(), "10.1.0.12".into()));
        assert_eq!((logged.prefix.as_str(), logged.protocol, logged.number), ("c_i0", 6, Some(80)));
        v4[7] = 1;
        assert_eq!(super::packet(&message(&v4)).unwrap().unwrap().number, None, "a later fragment");

        let mut v6 = vec![0x60, 0, 0, 0, 0, 0, 60, 64];
        v6.extend("fd01::11".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend("fd01::12".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend([58, 0, 1, 4, 0, 0, 0, 0, 128, 0, 0, 0]);
        let logged = super::packet(&message(&v6)).unwrap().unwrap();
        assert_eq!(addresses(&logged), ("fd01::11".into(), "fd01::12".into()));
        assert_eq!((logged.protocol, logged.number), (58, Some(0x8000)));
    }

    proptest! {
        #[test]
        fn no_packet_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), version in 3_u8..8) {
            let mut packet = bytes.clone();
            if let Some(first) = packet.first_mut() {
                *first = version << 4 | *first & 0xf;
            }
            let _ = super::packet(&message(&packet));
            let _ = super::packet(&bytes);
            let _ = packets(&bytes);
        }
    }
}
