//! Live probes: does a packet from inside this namespace get there, and what comes back?
//!
//! Each runs on a thread of its own in the namespace, and ends within its time-out. An unreachable target is a
//! [`Verdict`], not an error; errors mean that the question could not be asked.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv, send,
    setsockopt, socket, sockopt,
};

use super::thread::{self, ThreadError};

/// The longest time-out; longer ones are cut to it.
pub const LONGEST: Duration = Duration::from_secs(30);
/// A request without a connection is repeated this often: the first packet may be lost to a learning bridge.
const REPEAT: Duration = Duration::from_millis(250);

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Answered {
        /// After so long.
        after: Duration,
        /// The address that an [echo server](super::echo) saw us come from, if one answered.
        seen: Option<SocketAddr>,
    },
    /// Somebody is there, and nothing listens on the port.
    Refused,
    /// The kernel, here or on the way, said that it cannot be reached.
    Unreachable(Errno),
    /// Nothing came back: dropped, or nobody there.
    Silent,
}

/// The probe could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// A system call failed before anything was sent.
    #[error("probe: {operation}: {errno}")]
    System {
        /// The call.
        operation: &'static str,
        /// Its errno.
        errno: Errno,
    },
}

impl Verdict {
    /// Whether it answered.
    pub fn reached(&self) -> bool {
        matches!(self, Self::Answered { .. })
    }

    /// The address that an echo server saw.
    pub fn seen(&self) -> Option<SocketAddr> {
        match self {
            Self::Answered { seen, .. } => *seen,
            Self::Refused | Self::Unreachable(_) | Self::Silent => None,
        }
    }
}

/// An ICMP or ICMPv6 echo request. Needs CAP_NET_RAW in the namespace.
pub fn ping(namespace: impl AsFd, target: IpAddr, timeout: Duration) -> Result<Verdict, ProbeError> {
    thread::run(namespace, "probe-ping", || ping_here(target, Deadline::within(timeout)))?
}

/// Connects, and hangs up.
pub fn tcp_connect(
    namespace: impl AsFd,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Verdict, ProbeError> {
    thread::run(namespace, "probe-tcp", || match connect_here(target, Deadline::within(timeout)) {
        Ok((_, after)) => Verdict::Answered { after, seen: None },
        Err(verdict) => verdict,
    })
    .map_err(ProbeError::Thread)
}

/// Connects to an echo server, and reads what it says. A service that accepts and says something else, or
/// nothing, has answered too, without `seen`.
pub fn tcp_exchange(
    namespace: impl AsFd,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Verdict, ProbeError> {
    thread::run(namespace, "probe-tcp", || {
        let deadline = Deadline::within(timeout);
        match connect_here(target, deadline) {
            Ok((stream, after)) => Verdict::Answered { after, seen: read_seen(stream, deadline) },
            Err(verdict) => verdict,
        }
    })
    .map_err(ProbeError::Thread)
}

/// Sends a datagram, and waits for one back; any answer counts.
pub fn udp_exchange(
    namespace: impl AsFd,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Verdict, ProbeError> {
    thread::run(namespace, "probe-udp", || udp_here(target, Deadline::within(timeout)))?
}

/// A connection from inside of the namespace that stays open, for asking later whether it still lives.
pub fn tcp_open(
    namespace: impl AsFd,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Result<TcpStream, Verdict>, ProbeError> {
    let open = || connect_here(target, Deadline::within(timeout)).map(|(stream, _)| stream);
    thread::run(namespace, "probe-tcp", open).map_err(ProbeError::Thread)
}

#[derive(Clone, Copy)]
struct Deadline {
    begin: Instant,
    end: Instant,
}

impl Deadline {
    fn within(timeout: Duration) -> Self {
        let begin = Instant::now();
        Self { begin, end: begin + timeout.clamp(Duration::from_millis(1), LONGEST) }
    }

    /// `None` once it is over.
    fn left(self) -> Option<Duration> {
        self.end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    fn answered(self, seen: Option<SocketAddr>) -> Verdict {
        Verdict::Answered { after: self.begin.elapsed(), seen }
    }
}

fn ping_here(target: IpAddr, deadline: Deadline) -> Result<Verdict, ProbeError> {
    let (family, protocol) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(system("socket"))?;
    hear_errors(&raw, target).map_err(system("IP_RECVERR"))?;
    let address = SockaddrStorage::from(SocketAddr::new(target, 0));
    if let Err(errno) = connect(raw.as_raw_fd(), &address) {
        return Ok(verdict_of(errno));
    }
    let token = *uuid::Uuid::now_v7().as_bytes();
    let ask = |sequence| {
        send(raw.as_raw_fd(), &echo_request(target, sequence, &token), MsgFlags::empty()).map(drop)
    };
    let answer = || {
        let mut buffer = [0_u8; 2048];
        let length = recv(raw.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        let reply = buffer.get(..length).unwrap_or_default();
        Ok(is_echo_reply(target, reply, &token).then_some(None))
    };
    Ok(ask_repeatedly(&raw, deadline, ask, answer))
}

fn udp_here(target: SocketAddr, deadline: Deadline) -> Result<Verdict, ProbeError> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).map_err(failed("bind"))?;
    socket.set_nonblocking(true).map_err(failed("nonblocking"))?;
    hear_errors(&socket, target.ip()).map_err(system("IP_RECVERR"))?;
    if let Err(error) = socket.connect(target) {
        return Ok(verdict_of(super::socket::errno_of(&error)));
    }
    let ask = |_| socket.send(b"netloom\n").map(drop).map_err(|error| super::socket::errno_of(&error));
    let answer = || {
        let mut buffer = [0_u8; 128];
        let length = socket.recv(&mut buffer).map_err(|error| super::socket::errno_of(&error))?;
        Ok(Some(parse_seen(buffer.get(..length).unwrap_or_default())))
    };
    Ok(ask_repeatedly(&socket, deadline, ask, answer))
}

/// Sends now and every [`REPEAT`], until an answer or an error comes, or time is up. `answer` is `None` for what
/// was not meant for us.
fn ask_repeatedly(
    socket: impl AsFd,
    deadline: Deadline,
    ask: impl Fn(u16) -> Result<(), Errno>,
    answer: impl Fn() -> Result<Option<Option<SocketAddr>>, Errno>,
) -> Verdict {
    let mut next = Instant::now();
    let mut sequence = 0;
    while let Some(left) = deadline.left() {
        if next <= Instant::now() {
            sequence += 1;
            next += REPEAT;
            if let Err(errno) = ask(sequence) {
                return verdict_of(errno);
            }
        }
        let pause = next.saturating_duration_since(Instant::now()).min(left);
        // Rounded up, so as not to turn round and round in the last millisecond.
        let pause = PollTimeout::try_from(pause + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, pause) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return verdict_of(errno),
        }
        match answer() {
            Ok(Some(seen)) => return deadline.answered(seen),
            Ok(None) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return verdict_of(errno),
        }
    }
    Verdict::Silent
}

fn connect_here(target: SocketAddr, deadline: Deadline) -> Result<(TcpStream, Duration), Verdict> {
    let left = deadline.left().ok_or(Verdict::Silent)?;
    match TcpStream::connect_timeout(&target, left) {
        Ok(stream) => Ok((stream, deadline.begin.elapsed())),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Verdict::Silent),
        Err(error) => Err(verdict_of(super::socket::errno_of(&error))),
    }
}

/// The line that an echo server begins with.
fn read_seen(mut stream: TcpStream, deadline: Deadline) -> Option<SocketAddr> {
    let mut line = Vec::new();
    let mut buffer = [0_u8; 128];
    while line.len() < buffer.len() && !line.contains(&b'\n') {
        stream.set_read_timeout(Some(deadline.left()?)).ok()?;
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => line.extend_from_slice(buffer.get(..length)?),
        }
    }
    parse_seen(&line)
}

fn parse_seen(bytes: &[u8]) -> Option<SocketAddr> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

/// So that "host unreachable" of a router on the way reaches us.
fn hear_errors(socket: &impl AsFd, target: IpAddr) -> Result<(), Errno> {
    match target {
        IpAddr::V4(_) => setsockopt(&socket.as_fd(), sockopt::Ipv4RecvErr, &true),
        IpAddr::V6(_) => setsockopt(&socket.as_fd(), sockopt::Ipv6RecvErr, &true),
    }
}

fn echo_request(target: IpAddr, sequence: u16, token: &[u8; 16]) -> Vec<u8> {
    let kind = if target.is_ipv4() { 8 } else { 128 };
    let identifier = [token[14], token[15]];
    let mut packet = vec![kind, 0, 0, 0, identifier[0], identifier[1]];
    packet.extend(sequence.to_be_bytes());
    packet.extend(token);
    if target.is_ipv4() {
        // ICMPv6 checksums cover addresses, so the kernel makes them.
        let sum: u32 =
            packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        packet[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
    packet
}

/// A raw IPv4 socket sees the IP header too, and both see every echo reply that comes from the target.
fn is_echo_reply(target: IpAddr, received: &[u8], token: &[u8; 16]) -> bool {
    let (kind, message) = match target {
        IpAddr::V4(_) => {
            let header = received.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4);
            (0, received.get(header..).unwrap_or_default())
        }
        IpAddr::V6(_) => (129, received),
    };
    message.first() == Some(&kind) && message.get(8..24) == Some(token)
}

fn verdict_of(errno: Errno) -> Verdict {
    match errno {
        Errno::ECONNREFUSED => Verdict::Refused,
        Errno::ETIMEDOUT => Verdict::Silent,
        errno => Verdict::Unreachable(errno),
    }
}

fn system(operation: &'static str) -> impl Fn(Errno) -> ProbeError {
    move |errno| ProbeError::System { operation, errno }
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> ProbeError {
    move |error| ProbeError::System { operation, errno: super::socket::errno_of(&error) }
}
