//! What happens to links, addresses, routes and forwarding, as it happens.
//!
//! Events may be lost when the reader is slow; then, and only then, [`Heard::Overrun`] comes, and whoever reads
//! must look at everything anew. Subscribe first, then look, and nothing falls in between.

use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::datagram::{Part, RawPart, parts};
use super::nft::wire::pick;
use super::socket::{SocketError, enlarge, failed, system};
use crate::hostnet::Forwarding;

/// Holds some ten thousand events.
pub const RECEIVE_BUFFER: usize = 8 << 20;
/// Enough for any event.
const READ_BUFFER: usize = 1 << 16;
/// Datagrams read in one call, so that a storm does not keep the reader from its other work.
const DATAGRAMS_AT_ONCE: usize = 256;
/// The kinds below are netlink's own.
const RTM_BASE: u16 = 16;
/// `RTM_NEWNETCONF`, which the decoder does not know, and its attributes.
pub const NEW_NETCONF: u16 = 80;
const DEL_NETCONF: u16 = 81;
const NETCONF_HEADER: usize = 4;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
/// The switch of IPv6 per link (Linux ≥ 6.17).
const NETCONFA_FORCE_FORWARDING: u16 = 9;

/// A kind of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Links come, change and go.
    Links,
    /// IPv4 addresses.
    Ipv4Addresses,
    /// IPv6 addresses.
    Ipv6Addresses,
    /// IPv4 routes.
    Ipv4Routes,
    /// IPv6 routes.
    Ipv6Routes,
    /// Ids of other namespaces, also that one of them is gone.
    NamespaceIds,
    /// Switches of IPv4, as far as the kernel tells: forwarding.
    Ipv4Switches,
    /// The same of IPv6.
    Ipv6Switches,
}

/// Everything that the daemon cares about.
pub const ALL_GROUPS: [Group; 8] = [
    Group::Links,
    Group::Ipv4Addresses,
    Group::Ipv6Addresses,
    Group::Ipv4Routes,
    Group::Ipv6Routes,
    Group::NamespaceIds,
    Group::Ipv4Switches,
    Group::Ipv6Switches,
];

/// Where events are heard from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hears {
    /// The namespace of the thread that opens the monitor.
    OwnNamespace,
    /// That one, and every namespace that has an [nsid](super::netns::assign_nsid) in it. Needs
    /// CAP_NET_BROADCAST.
    AllNamespaces,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The namespace where it happened; `None`: the monitor's own.
    pub nsid: Option<i32>,
    /// What happened.
    pub change: Change,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// To a link, an address, a route or an id.
    Message(RouteNetlinkMessage),
    /// Forwarding was switched: on the link of this index, or for all links and new ones.
    Forwarding(Option<u32>, Forwarding),
    /// It cannot be decoded, for this reason: something changed, look.
    Unreadable(String),
}

/// What there was to hear.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// Events, in order.
    Notices(Vec<Notice>),
    /// Events were lost.
    Overrun,
    /// Nothing happened.
    Nothing,
}

/// A socket that hears events.
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

/// One datagram.
enum Datagram {
    Of {
        nsid: Option<i32>,
        length: usize,
    },
    /// Not from the kernel.
    Stranger,
    Overrun,
    None,
}

impl Monitor {
    /// Subscribes, in the network namespace of the calling thread. The buffer is made as large as we may.
    pub fn open(groups: &[Group], hears: Hears, receive_buffer: usize) -> Result<Self, SocketError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        enlarge(&socket, receive_buffer).map_err(system("SO_RCVBUF"))?;
        if hears == Hears::AllNamespaces {
            socket.set_listen_all_namespaces(true).map_err(failed("NETLINK_LISTEN_ALL_NSID"))?;
        }
        for group in groups {
            socket.add_membership(number(*group)).map_err(failed("NETLINK_ADD_MEMBERSHIP"))?;
        }
        Ok(Self { socket, buffer: vec![0; READ_BUFFER] })
    }

    /// What there is now; does not wait.
    pub fn receive(&mut self) -> Result<Heard, SocketError> {
        self.receive_some(&|_| true)
    }

    /// What there is now of the wanted kinds (`RTM_…`); the others are not even decoded.
    fn receive_some(&mut self, is_wanted: &dyn Fn(u16) -> bool) -> Result<Heard, SocketError> {
        let mut notices = Vec::new();
        for _ in 0..DATAGRAMS_AT_ONCE {
            let (nsid, length) = match self.read()? {
                Datagram::Of { nsid, length } => (nsid, length),
                Datagram::Stranger => continue,
                Datagram::Overrun => return Ok(Heard::Overrun),
                Datagram::None => break,
            };
            for part in parts(self.buffer.get(..length).unwrap_or_default()) {
                if part.as_ref().is_ok_and(|part| part.kind >= RTM_BASE && !is_wanted(part.kind)) {
                    continue;
                }
                let is_switch = |part: &&RawPart<'_>| matches!(part.kind, NEW_NETCONF | DEL_NETCONF);
                if let Some(part) = part.as_ref().ok().filter(is_switch) {
                    notices.extend(switched(part).map(|change| Notice { nsid, change }));
                    continue;
                }
                match part.and_then(|part| part.decode()) {
                    Ok(Part::Message(message)) => {
                        notices.push(Notice { nsid, change: Change::Message(message) });
                    }
                    Ok(Part::Undecodable(reason)) | Err(reason) => {
                        notices.push(Notice { nsid, change: Change::Unreadable(reason) });
                    }
                    Ok(Part::Overrun) => return Ok(Heard::Overrun),
                    Ok(Part::Verdict(_) | Part::Nothing) => {}
                }
            }
        }
        Ok(if notices.is_empty() { Heard::Nothing } else { Heard::Notices(notices) })
    }

    /// Waits until there is something, at most so long.
    pub fn wait(&mut self, timeout: Duration) -> Result<Heard, SocketError> {
        self.wait_for(timeout, &|_| true)
    }

    /// Waits until there is something of the wanted kinds (`RTM_…`), at most so long.
    pub fn wait_for(
        &mut self,
        timeout: Duration,
        is_wanted: &dyn Fn(u16) -> bool,
    ) -> Result<Heard, SocketError> {
        let end = Instant::now() + timeout;
        loop {
            let heard = self.receive_some(is_wanted)?;
            let left = end.saturating_duration_since(Instant::now());
            if heard != Heard::Nothing || left.is_zero() {
                return Ok(heard);
            }
            let pause = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, pause) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(system("poll")(errno)),
            }
        }
    }

    /// The namespace of an event comes beside the datagram, which netlink-sys does not read.
    fn read(&mut self) -> Result<Datagram, SocketError> {
        // SAFETY: all-zero is valid for these C structures. Every pointer in `header` points to a local that lives
        // until the last use of `header`, with its true length; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside `control`,
        // which is aligned as cmsghdr is, and the data of an int-sized message is read unaligned.
        unsafe {
            let mut sender: libc::sockaddr_nl = zeroed();
            let mut control = [0_u64; 8];
            let mut part =
                libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
            let mut header: libc::msghdr = zeroed();
            header.msg_name = (&raw mut sender).cast();
            header.msg_namelen = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            header.msg_iov = &raw mut part;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = size_of_val(&control) as _;
            let length = libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT);
            let length = match Errno::result(length) {
                Ok(length) => length.unsigned_abs(),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Datagram::None),
                Err(Errno::ENOBUFS) => return Ok(Datagram::Overrun),
                Err(errno) => return Err(system("receive")(errno)),
            };
            if sender.nl_pid != 0 {
                return Ok(Datagram::Stranger);
            }
            if header.msg_flags & libc::MSG_TRUNC != 0 {
                return Ok(Datagram::Overrun);
            }
            let mut nsid = None;
            let mut message = libc::CMSG_FIRSTHDR(&raw const header);
            while let Some(found) = message.as_ref() {
                if found.cmsg_level == libc::SOL_NETLINK && found.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID {
                    nsid = Some(libc::CMSG_DATA(found).cast::<libc::c_int>().read_unaligned());
                }
                message = libc::CMSG_NXTHDR(&raw const header, found);
            }
            Ok(Datagram::Of { nsid, length })
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Forwarding as a `RTM_NEWNETCONF` tells it; none where it tells of another switch.
fn switched(part: &RawPart<'_>) -> Option<Change> {
    if part.kind != NEW_NETCONF {
        return None;
    }
    let (header, rest) = part.payload.split_at_checked(NETCONF_HEADER)?;
    let number = |value: &[u8]| value.try_into().ok().map(i32::from_ne_bytes);
    let kinds = [NETCONFA_IFINDEX, NETCONFA_FORWARDING, NETCONFA_FORCE_FORWARDING];
    let [index, forwarding, forced] = pick(rest, kinds).ok()?;
    let (index, on) = (index.and_then(number)?, forwarding.or(forced).and_then(number)? != 0);
    let ipv6 = i32::from(*header.first()?) == libc::AF_INET6;
    // The others are `all` and `default`.
    let link = u32::try_from(index).ok().filter(|index| *index > 0);
    Some(Change::Forwarding(link, Forwarding { ipv6, on }))
}

/// `RTNLGRP_…` of linux/rtnetlink.h.
fn number(group: Group) -> u32 {
    match group {
        Group::Links => 1,
        Group::Ipv4Addresses => 5,
        Group::Ipv4Routes => 7,
        Group::Ipv6Addresses => 9,
        Group::Ipv6Routes => 11,
        Group::NamespaceIds => 28,
        Group::Ipv4Switches => 24,
        Group::Ipv6Switches => 25,
    }
}
