//! Echo servers inside of a namespace: they say which address they see the caller come from, which is what NAT
//! is about.
//!
//! TCP: the line `ADDRESS:PORT`, then everything that is sent. UDP: the same line, then the datagram. They serve
//! until they are dropped. A UDP server on "any" address answers from the address that the routing table
//! chooses; give it the address that it is called at.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{Builder, JoinHandle};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use super::probe::ProbeError;
use super::socket::errno_of;
use super::thread::{self, ThreadError};

/// Connections held at once; the oldest goes first.
const CONNECTIONS: usize = 64;

/// A running server.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    /// Closing it ends the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Serves TCP at this address of the namespace; port 0 chooses one.
pub fn serve_tcp(namespace: impl AsFd, listen: SocketAddr) -> Result<EchoServer, ProbeError> {
    let listener =
        thread::run(namespace, "echo-tcp", || TcpListener::bind(listen))?.map_err(failed("bind"))?;
    listener.set_nonblocking(true).map_err(failed("nonblocking"))?;
    let address = listener.local_addr().map_err(failed("getsockname"))?;
    start(address, move |stop| tcp_loop(&listener, stop.as_fd()))
}

/// Serves UDP at this address of the namespace; port 0 chooses one.
pub fn serve_udp(namespace: impl AsFd, listen: SocketAddr) -> Result<EchoServer, ProbeError> {
    let socket = thread::run(namespace, "echo-udp", || UdpSocket::bind(listen))?.map_err(failed("bind"))?;
    socket.set_nonblocking(true).map_err(failed("nonblocking"))?;
    let address = socket.local_addr().map_err(failed("getsockname"))?;
    start(address, move |stop| udp_loop(&socket, stop.as_fd()))
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

fn tcp_loop(listener: &TcpListener, stop: BorrowedFd<'_>) {
    let mut connections: Vec<TcpStream> = Vec::new();
    loop {
        let fds = [stop, listener.as_fd()].into_iter().chain(connections.iter().map(AsFd::as_fd));
        let Some(ready) = wait(fds) else { return };
        let mut ready = ready.into_iter().skip(2);
        connections.retain_mut(|connection| !ready.next().unwrap_or(false) || echo(connection).is_ok());
        // Not blocking, and what fails to be accepted has gone away.
        if let Ok((connection, peer)) = listener.accept()
            && let Ok(connection) = welcome(connection, peer)
        {
            if connections.len() == CONNECTIONS {
                connections.remove(0);
            }
            connections.push(connection);
        }
    }
}

fn udp_loop(socket: &UdpSocket, stop: BorrowedFd<'_>) {
    let mut buffer = [0_u8; 2048];
    while wait([stop, socket.as_fd()]).is_some() {
        // Errors are those of earlier answers that nobody wanted.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let mut answer = line(peer).into_bytes();
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let _ = socket.send_to(&answer, peer);
    }
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

fn welcome(mut connection: TcpStream, peer: SocketAddr) -> io::Result<TcpStream> {
    connection.set_nonblocking(true)?;
    connection.write_all(line(peer).as_bytes())?;
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

fn line(peer: SocketAddr) -> String {
    // An IPv4 caller of a dual-stack socket is an IPv4 caller.
    format!("{}\n", SocketAddr::new(peer.ip().to_canonical(), peer.port()))
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> ProbeError {
    move |error| ProbeError::System { operation, errno: errno_of(&error) }
}
