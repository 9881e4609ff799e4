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
use super::socket::enlarge;
use super::thread;

/// An interface somewhere.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// The network namespace that it is in.
    pub namespace: BorrowedFd<'a>,
    /// Its name there.
    pub interface: &'a str,
}

/// Sits at one interface: keeps what comes in from when it was opened, and sends what it is told to.
#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
}

impl Sniffer {
    /// Starts to listen.
    pub fn open(port: Port<'_>) -> Result<Self, ProbeError> {
        let socket = packet_socket(port, libc::ETH_P_ALL as u16)?;
        enlarge(&socket, KEPT).map_err(system("SO_RCVBUF"))?;
        Ok(Self { socket })
    }

    /// Waits for a frame that contains the mark. Frames that this machine itself sends there do not count.
    pub fn saw(&self, mark: &[u8], timeout: Duration) -> Result<bool, ProbeError> {
        let deadline = Deadline::within(timeout);
        while let Some(frame) = self.next(deadline)? {
            if contains(&frame, mark) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next frame, if one comes in time. A VLAN tag is not part of it: the kernel takes it off.
    pub fn next_within(&self, timeout: Duration) -> Result<Option<Vec<u8>>, ProbeError> {
        self.next(Deadline::within(timeout))
    }

    /// The next frame that has come in already.
    pub fn kept(&self) -> Result<Option<Vec<u8>>, ProbeError> {
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(address))) if address.pkttype() == libc::PACKET_OUTGOING => {}
                Ok((length, _)) => {
                    buffer.truncate(length);
                    return Ok(Some(buffer));
                }
                Err(Errno::EINTR) => {}
                // An interface that has gone brings nothing more.
                Err(Errno::EAGAIN | Errno::ENETDOWN) => return Ok(None),
                Err(errno) => return Err(system("receive")(errno)),
            }
        }
    }

    fn next(&self, deadline: Deadline) -> Result<Option<Vec<u8>>, ProbeError> {
        loop {
            match self.kept()? {
                Some(frame) => return Ok(Some(frame)),
                None if deadline.wait(&self.socket, PollFlags::POLLIN)? => {}
                None => return Ok(None),
            }
        }
    }

    /// Sends a frame as it is, on the calling thread: nothing is checked or filled in.
    pub fn send(&self, frame: &[u8]) -> Result<(), ProbeError> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).map_err(system("send"))?;
        Ok(())
    }
}

/// Whether the frame contains the mark.
pub fn contains(frame: &[u8], mark: &[u8]) -> bool {
    frame.windows(mark.len().max(1)).any(|part| part == mark)
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
/// Bytes of frames that wait to be asked for.
const KEPT: usize = 4 << 20;

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
