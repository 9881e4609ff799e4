//! Live probes: does a packet from inside this namespace get there, and what comes back?
//!
//! Each runs on a thread of its own in the namespace, and ends within its time-out. An unreachable target is a
//! [`Verdict`], not an error; errors mean that the question could not be asked. So who expects silence is never
//! content with a probe that was not made.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockopt,
    recv, send, setsockopt, socket, sockopt,
};

use super::socket::errno_of;
use super::thread::{self, ThreadError};

/// The longest time-out; longer ones are cut to it.
pub const LONGEST: Duration = Duration::from_secs(30);
/// A request without a connection is repeated this often: the first packet may be lost to a learning bridge.
const REPEAT: Duration = Duration::from_millis(250);
/// Longer than the first line of an echo server.
const LINE: usize = 512;

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Answered {
        /// After so long.
        after: Duration,
        /// What it said, if it is an [echo server](super::echo).
        echo: Option<Echoed>,
    },
    /// Somebody is there, and nothing listens on the port.
    Refused,
    /// The kernel, here or on the way, said that it cannot be reached.
    Unreachable(Errno),
    /// Nothing came back: dropped, or nobody there.
    Silent,
}

/// What an [echo server](super::echo) says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echoed {
    /// The address that it saw us come from.
    pub seen: SocketAddr,
    /// Its label: who answered.
    pub by: String,
}

/// The probe could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// A system call failed for a reason that is not the network's.
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
        self.echo().map(|echo| echo.seen)
    }

    /// The label of the echo server that answered.
    pub fn by(&self) -> Option<&str> {
        self.echo().map(|echo| echo.by.as_str())
    }

    fn echo(&self) -> Option<&Echoed> {
        match self {
            Self::Answered { echo, .. } => echo.as_ref(),
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
    thread::run(namespace, "probe-tcp", || {
        Ok(match connect_here(None, target, Deadline::within(timeout))? {
            Ok((_, after)) => Verdict::Answered { after, echo: None },
            Err(verdict) => verdict,
        })
    })?
}

/// Connects to an echo server, and reads what it says. A service that accepts and says something else, or
/// nothing, has answered too, without `echo`.
pub fn tcp_exchange(
    namespace: impl AsFd,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Verdict, ProbeError> {
    tcp_exchange_from(namespace, None, target, timeout)
}

/// Like [`tcp_exchange`], from this address of the namespace.
pub fn tcp_exchange_from(
    namespace: impl AsFd,
    source: Option<IpAddr>,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Verdict, ProbeError> {
    thread::run(namespace, "probe-tcp", || {
        let deadline = Deadline::within(timeout);
        Ok(match connect_here(source, target, deadline)? {
            Ok((stream, after)) => Verdict::Answered { after, echo: read_echo(stream, deadline) },
            Err(verdict) => verdict,
        })
    })?
}

/// Sends a datagram, and waits for one back; any answer counts.
pub fn udp_exchange(
    namespace: impl AsFd,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Verdict, ProbeError> {
    udp_exchange_from(namespace, None, target, timeout)
}

/// Like [`udp_exchange`], from this address of the namespace.
pub fn udp_exchange_from(
    namespace: impl AsFd,
    source: Option<IpAddr>,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Verdict, ProbeError> {
    thread::run(namespace, "probe-udp", || udp_here(source, target, Deadline::within(timeout)))?
}

/// A connection from inside of the namespace that stays open, for asking later whether it still lives.
pub fn tcp_open(
    namespace: impl AsFd,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Result<TcpStream, Verdict>, ProbeError> {
    thread::run(namespace, "probe-tcp", || {
        let opened = connect_here(None, target, Deadline::within(timeout))?;
        Ok(opened.map(|(stream, _)| stream))
    })?
}

/// When a probe has to end.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    begin: Instant,
    end: Instant,
}

impl Deadline {
    pub(super) fn within(timeout: Duration) -> Self {
        let begin = Instant::now();
        Self { begin, end: begin + timeout.clamp(Duration::from_millis(1), LONGEST) }
    }

    /// `None` once it is over.
    fn left(self) -> Option<Duration> {
        self.end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Waits until the descriptor is ready or has failed, which the next call on it will tell; `false` once
    /// the time is over.
    pub(super) fn wait(self, fd: impl AsFd, flags: PollFlags) -> Result<bool, ProbeError> {
        while let Some(left) = self.left() {
            match poll(&mut [PollFd::new(fd.as_fd(), flags)], rounded_up(left)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(system("poll")(errno)),
            }
        }
        Ok(false)
    }

    fn answered(self, echo: Option<Echoed>) -> Verdict {
        Verdict::Answered { after: self.begin.elapsed(), echo }
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
        return verdict_of("connect", errno);
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
    ask_repeatedly(&raw, deadline, ask, answer)
}

fn udp_here(source: Option<IpAddr>, target: SocketAddr, deadline: Deadline) -> Result<Verdict, ProbeError> {
    let socket = UdpSocket::bind(local(source, target)).map_err(failed("bind"))?;
    socket.set_nonblocking(true).map_err(failed("nonblocking"))?;
    hear_errors(&socket, target.ip()).map_err(system("IP_RECVERR"))?;
    if let Err(error) = socket.connect(target) {
        return verdict_of("connect", errno_of(&error));
    }
    let ask = |_| socket.send(b"netloom\n").map(drop).map_err(|error| errno_of(&error));
    let answer = || {
        let mut buffer = [0_u8; LINE];
        let length = socket.recv(&mut buffer).map_err(|error| errno_of(&error))?;
        Ok(Some(parse_echo(buffer.get(..length).unwrap_or_default())))
    };
    ask_repeatedly(&socket, deadline, ask, answer)
}

/// Where a socket is bound that calls from this address, or any.
fn local(source: Option<IpAddr>, target: SocketAddr) -> SocketAddr {
    let any = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(source.unwrap_or(any), 0)
}

/// Sends now and every [`REPEAT`], until an answer or an error comes, or time is up. `answer` is `None` for what
/// was not meant for us.
fn ask_repeatedly(
    socket: impl AsFd,
    deadline: Deadline,
    ask: impl Fn(u16) -> Result<(), Errno>,
    answer: impl Fn() -> Result<Option<Option<Echoed>>, Errno>,
) -> Result<Verdict, ProbeError> {
    let mut next = Instant::now();
    let mut sequence = 0;
    while let Some(left) = deadline.left() {
        if next <= Instant::now() {
            sequence += 1;
            next += REPEAT;
            if let Err(errno) = ask(sequence) {
                return verdict_of("send", errno);
            }
        }
        let pause = next.saturating_duration_since(Instant::now()).min(left);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], rounded_up(pause)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(system("poll")(errno)),
        }
        match answer() {
            Ok(Some(echo)) => return Ok(deadline.answered(echo)),
            Ok(None) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return verdict_of("receive", errno),
        }
    }
    Ok(Verdict::Silent)
}

/// So as not to turn round and round in the last millisecond.
fn rounded_up(pause: Duration) -> PollTimeout {
    PollTimeout::try_from(pause + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO)
}

/// A connection and the time that it took, or why there is none.
type Connected = Result<(TcpStream, Duration), Verdict>;

fn connect_here(
    source: Option<IpAddr>,
    target: SocketAddr,
    deadline: Deadline,
) -> Result<Connected, ProbeError> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None).map_err(system("socket"))?;
    let local = SockaddrStorage::from(local(source, target));
    bind(socket.as_raw_fd(), &local).map_err(system("bind"))?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return verdict_of("connect", errno).map(Err),
    }
    if !deadline.wait(&socket, PollFlags::POLLOUT)? {
        return Ok(Err(Verdict::Silent));
    }
    match getsockopt(&socket, sockopt::SocketError).map_err(system("SO_ERROR"))? {
        0 => {}
        code => return verdict_of("connect", Errno::from_raw(code)).map(Err),
    }
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false).map_err(failed("nonblocking"))?;
    Ok(Ok((stream, deadline.begin.elapsed())))
}

/// The line that an echo server begins with.
fn read_echo(mut stream: TcpStream, deadline: Deadline) -> Option<Echoed> {
    let mut line = Vec::new();
    let mut buffer = [0_u8; LINE];
    while line.len() < buffer.len() && !line.contains(&b'\n') {
        stream.set_read_timeout(Some(deadline.left()?)).ok()?;
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => line.extend_from_slice(buffer.get(..length)?),
        }
    }
    parse_echo(&line)
}

fn parse_echo(bytes: &[u8]) -> Option<Echoed> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let (seen, by) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    Some(Echoed { seen: seen.parse().ok()?, by: by.to_owned() })
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

/// What an errno tells about the way; EPERM and EACCES are how a firewall looks to a local sender, and the others
/// are the kernel's words for ICMP errors.
fn verdict_of(operation: &'static str, errno: Errno) -> Result<Verdict, ProbeError> {
    match errno {
        Errno::ECONNREFUSED => Ok(Verdict::Refused),
        Errno::ETIMEDOUT => Ok(Verdict::Silent),
        Errno::ENETUNREACH
        | Errno::EHOSTUNREACH
        | Errno::ENETDOWN
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::EPERM
        | Errno::EACCES
        | Errno::ECONNRESET
        | Errno::EPROTO
        | Errno::ENOPROTOOPT
        | Errno::EOPNOTSUPP
        | Errno::EMSGSIZE => Ok(Verdict::Unreachable(errno)),
        errno => Err(system(operation)(errno)),
    }
}

pub(super) fn system(operation: &'static str) -> impl Fn(Errno) -> ProbeError {
    move |errno| ProbeError::System { operation, errno }
}

pub(super) fn failed(operation: &'static str) -> impl Fn(io::Error) -> ProbeError {
    move |error| ProbeError::System { operation, errno: errno_of(&error) }
}
