//! Reserved host ports: a bound socket per port, so that no other program gets a port that we forward, and we
//! forward no port that another program has.
//!
//! The sockets do not listen and do not share (no `SO_REUSEADDR`): a bind by anyone else fails while the
//! [`Claim`] lives, and ours fails while anyone else has the port. Nothing blocks here; but the ports are those of
//! the calling thread's network namespace.
//!
//! A TCP port of which only the ends of old connections are left (TIME_WAIT) is free: see [`bound_behind_old_ones`].
//! Where the kernel has no SCTP sockets nobody can have an SCTP port, and none is needed to keep it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use netloom_api::Protocol;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{SockaddrStorage, bind, setsockopt, sockopt};

use super::holder;
use crate::fault::{self, Effect};

/// The most ports of one claim.
pub const MOST_PORTS: u32 = 1024;

/// Which ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// On which address of the host; `None`: on any, of both families.
    pub address: Option<IpAddr>,
    /// Of which protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// Ports that are ours as long as this lives.
#[derive(Debug)]
pub struct Claim {
    ports: Ports,
    // Held for their effect.
    _sockets: Vec<OwnedFd>,
    whole: bool,
}

/// Nothing was claimed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Somebody has the port.
    #[error("port {port} of {address} is taken")]
    Taken {
        /// On which address.
        address: IpAddr,
        /// The first port of the range that is taken.
        port: u16,
    },
    /// The host does not have the address.
    #[error("{address} is not an address of this host")]
    NotAnAddressHere {
        /// The address.
        address: IpAddr,
    },
    /// We may not have the port.
    #[error("port {port} needs more rights")]
    Denied {
        /// The port.
        port: u16,
    },
    /// Port 0, an empty range, or one that is too long.
    #[error("{first} to {last} is not a range of 1 to {MOST_PORTS} ports")]
    BadRange {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// Anything else.
    #[error("claiming port {port}: {operation}: {errno}")]
    System {
        /// The port.
        port: u16,
        /// The call.
        operation: &'static str,
        /// Its errno.
        errno: Errno,
    },
}

/// Claims all of these ports, or none.
pub fn claim(ports: Ports) -> Result<Claim, ClaimError> {
    let Ports { address, protocol, first, last } = ports;
    let count = u32::from(last).checked_sub(u32::from(first)).map_or(0, |more| more + 1);
    if first == 0 || count == 0 || count > MOST_PORTS {
        return Err(ClaimError::BadRange { first, last });
    }
    let mut sockets = Vec::with_capacity(count as usize);
    let mut whole = true;
    for port in first..=last {
        let socket = match address {
            Some(address) => bound(SocketAddr::new(address, port), protocol, Reach::OneFamily)?,
            None => bound_on_any(port, protocol)?,
        };
        match socket {
            Bound::Held(socket) => sockets.push(socket),
            Bound::Later => whole = false,
            Bound::NobodyCan => {}
        }
    }
    Ok(Claim { ports, _sockets: sockets, whole })
}

impl Claim {
    /// What is claimed.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Whether every port is held. One is not while old connections end that went out from it: claim it again then.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}

enum Bound {
    Held(OwnedFd),
    /// Free, but not to be held before old connections have ended.
    Later,
    /// The kernel has no sockets of the protocol.
    NobodyCan,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    OneFamily,
    BothFamilies,
}

/// One socket for both families; on a host without IPv6 there is one family only.
fn bound_on_any(port: u16, protocol: Protocol) -> Result<Bound, ClaimError> {
    let any = |address: IpAddr| SocketAddr::new(address, port);
    match bound(any(Ipv6Addr::UNSPECIFIED.into()), protocol, Reach::BothFamilies) {
        Err(ClaimError::System { errno: Errno::EAFNOSUPPORT, .. } | ClaimError::NotAnAddressHere { .. }) => {
            bound(any(Ipv4Addr::UNSPECIFIED.into()), protocol, Reach::OneFamily)
        }
        result => result,
    }
}

fn bound(address: SocketAddr, protocol: Protocol, reach: Reach) -> Result<Bound, ClaimError> {
    let port = address.port();
    let failed = |operation| move |errno| ClaimError::System { port, operation, errno };
    let socket = match open(address, protocol, reach) {
        Ok(socket) => socket,
        Err((_, Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT)) if protocol == Protocol::Sctp => {
            return Ok(Bound::NobodyCan);
        }
        Err((operation, errno)) => return Err(failed(operation)(errno)),
    };
    let bind = || bind(socket.as_raw_fd(), &SockaddrStorage::from(address));
    match fault::around(Effect::Claim, bind) {
        Ok(()) => Ok(Bound::Held(socket)),
        Err(Errno::EADDRINUSE) => bound_behind_old_ones(&address, protocol, reach)
            .ok_or(ClaimError::Taken { address: address.ip(), port }),
        Err(Errno::EADDRNOTAVAIL) => Err(ClaimError::NotAnAddressHere { address: address.ip() }),
        Err(Errno::EACCES | Errno::EPERM) => Err(ClaimError::Denied { port }),
        Err(errno) => Err(failed("bind")(errno)),
    }
}

fn open(address: SocketAddr, protocol: Protocol, reach: Reach) -> Result<OwnedFd, (&'static str, Errno)> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
        Protocol::Udp => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        Protocol::Sctp => (libc::SOCK_STREAM, libc::IPPROTO_SCTP),
    };
    // SAFETY: takes numbers and returns one. (The nix crate has no word for SCTP.)
    let socket = Errno::result(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, number) });
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket.map_err(|errno| ("socket", errno))?) };
    if address.is_ipv6() {
        let alone = reach == Reach::OneFamily;
        setsockopt(&socket.as_fd(), sockopt::Ipv6V6Only, &alone).map_err(|errno| ("IPV6_V6ONLY", errno))?;
    }
    if protocol == Protocol::Udp {
        // Datagrams that are not forwarded end up here, unread: as few as the kernel lets us.
        setsockopt(&socket.as_fd(), sockopt::RcvBuf, &0).map_err(|errno| ("SO_RCVBUF", errno))?;
    }
    Ok(socket)
}

/// The port again, where nothing has it but connections that have ended and are only remembered (TIME_WAIT). To bind
/// beside them takes SO_REUSEADDR, which is switched off again at once: who wants to listen on the port is then refused
/// as ever. Beside those of programs that did not set the option themselves no bind is possible until the kernel has
/// forgotten them, within a minute.
fn bound_behind_old_ones(address: &SocketAddr, protocol: Protocol, reach: Reach) -> Option<Bound> {
    if protocol != Protocol::Tcp || !holder::is_only_remembered(address.port()) {
        return None;
    }
    let socket = open(*address, protocol, reach).ok()?;
    setsockopt(&socket.as_fd(), sockopt::ReuseAddr, &true).ok()?;
    let bind = || bind(socket.as_raw_fd(), &SockaddrStorage::from(*address));
    let bound = fault::around(Effect::Claim, bind);
    match bound {
        Ok(()) => {
            setsockopt(&socket.as_fd(), sockopt::ReuseAddr, &false).ok()?;
            Some(Bound::Held(socket))
        }
        Err(Errno::EADDRINUSE) => Some(Bound::Later),
        Err(_) => None,
    }
}
