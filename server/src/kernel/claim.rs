//! Reserved host ports: a bound socket per port, so that no other program gets a port that we forward, and we
//! forward no port that another program has.
//!
//! The sockets do not listen and do not share (no `SO_REUSEADDR`): a bind by anyone else fails while the
//! [`Claim`] lives, and ours fails while anyone else has the port. Nothing blocks here; but the ports are those of
//! the calling thread's network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netloom_api::Protocol;
use nix::errno::Errno;

use crate::fault::{self, Effect};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

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
    for port in first..=last {
        sockets.push(match address {
            Some(address) => bound(SocketAddr::new(address, port), protocol, Reach::OneFamily)?,
            None => bound_on_any(port, protocol)?,
        });
    }
    Ok(Claim { ports, _sockets: sockets })
}

impl Claim {
    /// What is claimed.
    pub fn ports(&self) -> Ports {
        self.ports
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    OneFamily,
    BothFamilies,
}

/// One socket for both families; on a host without IPv6 there is one family only.
fn bound_on_any(port: u16, protocol: Protocol) -> Result<OwnedFd, ClaimError> {
    let any = |address: IpAddr| SocketAddr::new(address, port);
    match bound(any(Ipv6Addr::UNSPECIFIED.into()), protocol, Reach::BothFamilies) {
        Err(ClaimError::System { errno: Errno::EAFNOSUPPORT, .. } | ClaimError::NotAnAddressHere { .. }) => {
            bound(any(Ipv4Addr::UNSPECIFIED.into()), protocol, Reach::OneFamily)
        }
        result => result,
    }
}

fn bound(address: SocketAddr, protocol: Protocol, reach: Reach) -> Result<OwnedFd, ClaimError> {
    let port = address.port();
    let failed = |operation| move |errno| ClaimError::System { port, operation, errno };
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).map_err(failed("socket"))?;
    if address.is_ipv6() {
        let alone = reach == Reach::OneFamily;
        setsockopt(&socket.as_fd(), sockopt::Ipv6V6Only, &alone).map_err(failed("IPV6_V6ONLY"))?;
    }
    if protocol == Protocol::Udp {
        // Datagrams that are not forwarded end up here, unread: as few as the kernel lets us.
        setsockopt(&socket.as_fd(), sockopt::RcvBuf, &0).map_err(failed("SO_RCVBUF"))?;
    }
    let bind = || bind(socket.as_raw_fd(), &SockaddrStorage::from(address));
    fault::around(Effect::Claim, bind).map_err(|errno| match errno {
        Errno::EADDRINUSE => ClaimError::Taken { address: address.ip(), port },
        Errno::EADDRNOTAVAIL => ClaimError::NotAnAddressHere { address: address.ip() },
        Errno::EACCES | Errno::EPERM => ClaimError::Denied { port },
        errno => failed("bind")(errno),
    })?;
    Ok(socket)
}
