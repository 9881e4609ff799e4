//! The accept loop: one task per listener, one per connection, a seat for each.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use nix::errno::Errno;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::connection::{self, Host};
use super::papers::{Gate, Handshake, Tls};
use super::rim::{Audit, Peer, Rim};
use super::seats::Seats;
use super::shutdown::Shutdown;
use super::unix::SocketFile;
use super::{Drained, Listener};
use crate::api::auth::Access;
use crate::config::Limits;

/// A bound socket.
#[derive(Debug)]
pub(super) enum Socket {
    /// The kernel says who calls. The file goes when the listener goes.
    Unix { listener: UnixListener, access: Access, _file: SocketFile },
    /// A token or a certificate says who calls.
    Tcp { listener: TcpListener, tls: Option<Arc<Tls>>, gate: Arc<Gate> },
}

/// An accepted stream and who is at its end.
enum Accepted {
    Unix(tokio::net::UnixStream, Peer),
    Tcp(tokio::net::TcpStream, Option<Handshake>, Peer),
}

impl Socket {
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Socket::Unix { .. } => None,
            Socket::Tcp { listener, .. } => listener.local_addr().ok(),
        }
    }

    /// Guests leave the last connections to the main socket.
    fn is_guest(&self) -> bool {
        !matches!(self, Socket::Unix { access: Access::Full, .. })
    }

    /// Safe to drop: a connection is either returned or still in the backlog.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Socket::Unix { listener, access, .. } => {
                let (stream, _) = listener.accept().await?;
                let peer = Peer::local(stream.peer_cred().map_err(gone)?.uid(), *access);
                Ok(Accepted::Unix(stream, peer))
            }
            Socket::Tcp { listener, tls, gate } => {
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true).map_err(gone)?;
                let to = stream.local_addr().map_err(gone)?.ip();
                let peer = Peer::Remote { gate: gate.clone(), from, to, certificate: None };
                Ok(Accepted::Tcp(stream, tls.as_ref().map(|tls| tls.handshake()), peer))
            }
        }
    }
}

/// An error after `accept` concerns that connection alone, whatever its number says.
fn gone(_: io::Error) -> io::Error {
    Errno::ECONNABORTED.into()
}

/// See [`super::serve`].
pub(super) async fn serve(
    listeners: Vec<Listener>,
    router: Router,
    limits: Limits,
    audit: Audit,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let (trigger, begun) = Shutdown::new();
    let host = Arc::new(Host {
        builder: connection::builder(&limits),
        rim: Rim::new(router, limits, audit, begun.clone()),
        limits,
        shutdown: begun,
    });
    let seats = Arc::new(Seats::new(limits.connections));
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept_all(listener, host.clone(), seats.clone()));
    }
    shutdown.await;
    trigger.pull();
    let mut cut = 0;
    while let Some(left) = loops.join_next().await {
        cut += left.unwrap_or_default();
    }
    Drained { cut }
}

/// Accepts until the daemon stops; returns how many connections had to be cut then.
async fn accept_all(listener: Listener, host: Arc<Host>, seats: Arc<Seats>) -> usize {
    let mut connections = JoinSet::new();
    {
        let mut stop = pin!(host.shutdown.begun());
        let mut accepting = pin!(accept_forever(&listener, &host, &seats, &mut connections));
        tokio::select! {
            () = stop.as_mut() => {}
            () = accepting.as_mut() => {}
        }
    }
    drop(listener);
    let end = Instant::now() + host.limits.drain_timeout;
    while let Ok(Some(_)) = timeout_at(end, connections.join_next()).await {}
    while connections.try_join_next().is_some() {}
    let cut = connections.len();
    connections.shutdown().await;
    cut
}

async fn accept_forever(
    listener: &Listener,
    host: &Arc<Host>,
    seats: &Arc<Seats>,
    connections: &mut JoinSet<()>,
) {
    let guest = listener.0.is_guest();
    let mut spare = Spare::new();
    let mut pause = Pause::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.0.accept() => accepted,
            // Finished connections are forgotten at once, not at the end.
            Some(_) = connections.join_next() => continue,
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                recover(&error, &mut spare, &mut pause, seats).await;
                continue;
            }
        };
        pause.reset();
        spare.refill();
        let Some(seat) = seats.take(guest).await else { return };
        let (host, pressure) = (host.clone(), seats.pressure(guest));
        connections.spawn(async move {
            let _seat = seat;
            match accepted {
                Accepted::Unix(stream, peer) => connection::run(host, stream, None, peer, pressure).await,
                Accepted::Tcp(stream, tls, peer) => connection::run(host, stream, tls, peer, pressure).await,
            }
        });
    }
}

/// Whatever `accept` says, the listener goes on; the question is when.
async fn recover(error: &io::Error, spare: &mut Spare, pause: &mut Pause, seats: &Seats) {
    match after(error) {
        After::Next => debug!(%error, "a connection went away before it was accepted"),
        // The spare descriptor lets one more client in even now, so that somebody can look.
        After::Wait if out_of_descriptors(error) && spare.release() => {}
        After::Wait => {
            let wait = pause.next();
            if wait == Pause::FIRST {
                warn!(%error, "cannot accept connections; idle ones are closed, the next try follows");
            }
            let _asking = seats.ask_all();
            sleep(wait).await;
        }
    }
}

/// What to do after an error of `accept`.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// It concerned one connection.
    Next,
    /// It would come again at once.
    Wait,
}

fn after(error: &io::Error) -> After {
    match error.raw_os_error().map(Errno::from_raw) {
        // accept(2): errors that the network had for the new connection.
        Some(
            Errno::ECONNABORTED
            | Errno::ECONNRESET
            | Errno::EINTR
            | Errno::EPERM
            | Errno::ENETDOWN
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH
            | Errno::ETIMEDOUT,
        ) => After::Next,
        // Out of descriptors or memory, and whatever else there may be: never spin.
        Some(_) | None => After::Wait,
    }
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// A descriptor held back for the time when there are no more.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Spare(File::open("/dev/null").ok())
    }

    /// Whether there was one to release.
    fn release(&mut self) -> bool {
        self.0.take().is_some()
    }

    fn refill(&mut self) {
        if self.0.is_none() {
            *self = Spare::new();
        }
    }
}

/// Waits that grow while nothing gets better.
#[derive(Debug, Default)]
struct Pause(Option<Duration>);

impl Pause {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    fn next(&mut self) -> Duration {
        let wait = self.0.map_or(Self::FIRST, |last| (last * 2).min(Self::LONGEST));
        self.0 = Some(wait);
        wait
    }

    fn reset(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno as i32)
    }

    #[test]
    fn a_connection_that_went_away_costs_nothing_and_everything_else_a_pause() {
        for errno in [Errno::ECONNABORTED, Errno::EINTR, Errno::EPROTO, Errno::EPERM] {
            assert_eq!(after(&os(errno)), After::Next, "{errno}");
        }
        for errno in
            [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EBADF, Errno::EINVAL]
        {
            assert_eq!(after(&os(errno)), After::Wait, "{errno}");
        }
        assert_eq!(after(&io::Error::other("?")), After::Wait);
    }

    #[test]
    fn pauses_grow_to_a_second_and_start_again_after_a_success() {
        let mut pause = Pause::default();
        let waits: Vec<u128> = (0..9).map(|_| pause.next().as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        pause.reset();
        assert_eq!(pause.next(), Pause::FIRST);
    }
}
