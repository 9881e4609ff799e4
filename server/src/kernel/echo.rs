//! Echo servers inside of a namespace: they say who they are, and which address they see the caller come from,
//! which is what NAT is about.
//!
//! TCP: the line `ADDRESS:PORT LABEL`, then everything that is sent. UDP: the same line, then the datagram, from
//! the address that was called. They serve until they are dropped; `0.0.0.0` and `::` are every address of their
//! own family.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    SockaddrStorage, bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::unistd::pipe2;

use super::probe::{ProbeError, failed, system, tcp_exchange_from, udp_exchange_from};
use super::socket::errno_of;
use super::thread::{self, ThreadError};

/// Connections held at once; the oldest goes first.
const CONNECTIONS: usize = 64;
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(10);
/// The letters of a label that are told; longer ones are cut.
const LABEL: usize = 64;

/// A running server.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    /// Closing it ends the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Serves TCP at this address of the namespace; port 0 chooses one.
pub fn serve_tcp(namespace: impl AsFd, listen: SocketAddr, label: &str) -> Result<EchoServer, ProbeError> {
    let listener = TcpListener::from(bound(namespace, SockType::Stream, listen)?);
    let address = listener.local_addr().map_err(failed("getsockname"))?;
    let label = one_line(label);
    start(address, move |stop| tcp_loop(&listener, &label, stop.as_fd()))
}

/// Serves UDP at this address of the namespace; port 0 chooses one.
pub fn serve_udp(namespace: impl AsFd, listen: SocketAddr, label: &str) -> Result<EchoServer, ProbeError> {
    let socket = UdpSocket::from(bound(namespace, SockType::Datagram, listen)?);
    let address = socket.local_addr().map_err(failed("getsockname"))?;
    let label = one_line(label);
    start(address, move |stop| udp_loop(&socket, &label, stop.as_fd()))
}

/// Does TCP get through? A server at this port of its namespace, one call to the target, and the caller's address
/// as the server saw it; `None` if the network says no.
pub fn tcp_seen(
    client: impl AsFd,
    source: Option<IpAddr>,
    target: SocketAddr,
    server: impl AsFd,
    server_port: u16,
    timeout: Duration,
) -> Result<Option<IpAddr>, ProbeError> {
    let _server = serve_tcp(server, any_address(target, server_port), "pair")?;
    let verdict = tcp_exchange_from(client, source, target, timeout)?;
    Ok(verdict.seen().map(|seen| seen.ip()))
}

/// Does UDP get through? Like [`tcp_seen`].
pub fn udp_seen(
    client: impl AsFd,
    source: Option<IpAddr>,
    target: SocketAddr,
    server: impl AsFd,
    server_port: u16,
    timeout: Duration,
) -> Result<Option<IpAddr>, ProbeError> {
    let _server = serve_udp(server, any_address(target, server_port), "pair")?;
    let verdict = udp_exchange_from(client, source, target, timeout)?;
    Ok(verdict.seen().map(|seen| seen.ip()))
}

impl EchoServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there was printed; there is nobody to hand it to.
            let _ = thread.join();
        }
    }
}

fn start(
    address: SocketAddr,
    serve: impl FnOnce(OwnedFd) + Send + 'static,
) -> Result<EchoServer, ProbeError> {
    let failed_pipe = |errno| ProbeError::System { operation: "pipe", errno };
    let (end, stop) = pipe2(OFlag::O_CLOEXEC).map_err(failed_pipe)?;
    let thread = Builder::new().name("echo".to_owned()).spawn(move || serve(end));
    let thread = thread.map_err(|error| ThreadError::Spawn(errno_of(&error)))?;
    Ok(EchoServer { address, stop: Some(stop), thread: Some(thread) })
}

fn tcp_loop(listener: &TcpListener, label: &str, stop: BorrowedFd<'_>) {
    let mut connections: Vec<TcpStream> = Vec::new();
    loop {
        let fds = [stop, listener.as_fd()].into_iter().chain(connections.iter().map(AsFd::as_fd));
        let Some(ready) = wait(fds) else { return };
        let mut ready = ready.into_iter().skip(2);
        connections.retain_mut(|connection| !ready.next().unwrap_or(false) || echo(connection).is_ok());
        match listener.accept() {
            Ok((connection, peer)) => {
                let Ok(connection) = welcome(connection, peer, label) else { continue };
                if connections.len() == CONNECTIONS {
                    connections.remove(0);
                }
                connections.push(connection);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Without descriptors the caller stays in the queue, and there would be no waiting for others.
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn udp_loop(socket: &UdpSocket, label: &str, stop: BorrowedFd<'_>) {
    while wait([stop, socket.as_fd()]).is_some() {
        // Errors are those of earlier answers that nobody wanted.
        let _ = answer_datagram(socket.as_raw_fd(), label);
    }
}

fn answer_datagram(socket: RawFd, label: &str) -> Result<(), Errno> {
    let mut buffer = [0_u8; 2048];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut space = cmsg_space!(libc::in6_pktinfo);
    let flags = MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(&mut space), flags)?;
    let (length, called) = (received.bytes, received.cmsgs()?.next());
    let Some((peer, address)) = received.address.and_then(|peer| Some((socket_address(&peer)?, peer))) else {
        return Ok(());
    };
    let line = line(peer, label);
    let answer = [IoSlice::new(line.as_bytes()), IoSlice::new(buffer.get(..length).unwrap_or_default())];
    let send = |control: &[ControlMessage<'_>]| sendmsg(socket, &answer, control, flags, Some(&address));
    match called {
        // From the address that was called; which way is for the routes to say.
        Some(ControlMessageOwned::Ipv4PacketInfo(info)) => {
            send(&[ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo { ipi_ifindex: 0, ..info })])
        }
        Some(ControlMessageOwned::Ipv6PacketInfo(info)) => {
            send(&[ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo { ipi6_ifindex: 0, ..info })])
        }
        _ => send(&[]),
    }
    .map(drop)
}

/// Which of the descriptors have something; `None` once the first one, the end of a pipe, has been closed.
fn wait<'a>(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> Option<Vec<bool>> {
    let mut fds: Vec<_> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(_) => return None,
            Ok(_) => break,
        }
    }
    let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
    if ready.first() == Some(&false) { Some(ready) } else { None }
}

fn welcome(mut connection: TcpStream, peer: SocketAddr, label: &str) -> io::Result<TcpStream> {
    connection.set_nonblocking(true)?;
    connection.write_all(line(peer, label).as_bytes())?;
    Ok(connection)
}

/// An error, or the end, drops the connection; so does a caller that does not read.
fn echo(connection: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0_u8; 2048];
    match connection.read(&mut buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => connection.write_all(buffer.get(..length).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

fn line(peer: SocketAddr, label: &str) -> String {
    format!("{peer} {label}\n")
}

fn one_line(label: &str) -> String {
    label.chars().filter(|c| !c.is_control()).take(LABEL).collect()
}

/// A socket at this address, which does not wait; a stream listens.
fn bound(namespace: impl AsFd, kind: SockType, listen: SocketAddr) -> Result<OwnedFd, ProbeError> {
    let family = if listen.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = thread::run(namespace, "echo", || socket(family, kind, flags, None))?;
    let socket = socket.map_err(system("socket"))?;
    if listen.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true).map_err(system("IPV6_V6ONLY"))?;
    }
    match (kind, listen) {
        // Connections of an earlier server may still be dying.
        (SockType::Stream, _) => setsockopt(&socket, sockopt::ReuseAddr, &true),
        (_, SocketAddr::V4(_)) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true),
        (_, SocketAddr::V6(_)) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true),
    }
    .map_err(system("setsockopt"))?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(listen)).map_err(system("bind"))?;
    if kind == SockType::Stream {
        nix::sys::socket::listen(&socket, Backlog::MAXCONN).map_err(system("listen"))?;
    }
    Ok(socket)
}

fn any_address(like: SocketAddr, port: u16) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}
