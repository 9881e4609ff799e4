//! Raw Ethernet frames: what an attacker in a namespace can send, and what arrives elsewhere.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recvfrom, send, socket,
};

use super::probe::{Deadline, ProbeError, system};
use super::thread;

/// An interface somewhere.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// The network namespace that it is in.
    pub namespace: BorrowedFd<'a>,
    /// Its name there.
    pub interface: &'a str,
}

/// Sees what comes in at one interface, from when it was opened.
#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
}

impl Sniffer {
    /// Starts to listen.
    pub fn open(port: Port<'_>) -> Result<Self, ProbeError> {
        Ok(Self { socket: packet_socket(port, libc::ETH_P_ALL as u16)? })
    }

    /// Waits for a frame that contains the mark. Frames that this machine itself sends there do not count.
    pub fn saw(&self, mark: &[u8], timeout: Duration) -> Result<bool, ProbeError> {
        let deadline = Deadline::within(timeout);
        let mut buffer = vec![0; MAX_FRAME];
        while deadline.wait(&self.socket, PollFlags::POLLIN)? {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(address))) if address.pkttype() == libc::PACKET_OUTGOING => {}
                Ok((length, _)) => {
                    let frame = buffer.get(..length).unwrap_or_default();
                    if frame.windows(mark.len().max(1)).any(|part| part == mark) {
                        return Ok(true);
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(system("receive")(errno)),
            }
        }
        Ok(false)
    }
}

/// Sends a frame as it is: nothing is checked or filled in.
pub fn send_frame(from: Port<'_>, frame: &[u8]) -> Result<(), ProbeError> {
    let socket = packet_socket(from, 0)?;
    send(socket.as_raw_fd(), frame, MsgFlags::empty()).map_err(system("send"))?;
    Ok(())
}

/// Sends a frame, and says whether one that contains the mark came in at the other interface.
pub fn inject(
    from: Port<'_>,
    frame: &[u8],
    victim: Port<'_>,
    mark: &[u8],
    timeout: Duration,
) -> Result<bool, ProbeError> {
    let sniffer = Sniffer::open(victim)?;
    send_frame(from, frame)?;
    sniffer.saw(mark, timeout)
}

const MAX_FRAME: usize = 1 << 16;

/// Protocol 0 receives nothing.
fn packet_socket(port: Port<'_>, protocol: u16) -> Result<OwnedFd, ProbeError> {
    thread::run(port.namespace, "frame", || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(system("socket"))?;
        let index = if_nametoindex(port.interface).map_err(system("if_nametoindex"))?;
        // Receives from now on: before this the socket has no protocol, so it holds nothing of other interfaces.
        bind(socket.as_raw_fd(), &address(index, protocol)?).map_err(system("bind"))?;
        Ok(socket)
    })?
}

fn address(index: u32, protocol: u16) -> Result<LinkAddr, ProbeError> {
    // SAFETY: all-zero is a valid `sockaddr_ll`.
    let mut raw: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    raw.sll_family = libc::AF_PACKET as u16;
    raw.sll_protocol = protocol.to_be();
    raw.sll_ifindex = index as i32;
    let length = size_of_val(&raw) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `raw`, which is of this family.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.ok_or(ProbeError::System { operation: "sockaddr_ll", errno: Errno::EINVAL })
}
