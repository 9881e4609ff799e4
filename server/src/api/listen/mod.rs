//! The rim of both doors: sockets, the accept loop, and what every request passes before a handler sees it.
//!
//! One [`Router`] is served on unix sockets and TCP, HTTP/1.1 and HTTP/2 alike. What this room promises:
//!
//! - A client that is slow, silent or hostile costs a bounded share: header, body, idle and write time-outs, a bounded
//!   number of connections, of streams and of resets, a bounded body. Half-open connections give way to live ones.
//! - One caller has so many requests and streams at once; more stand in line, and then are told to come back.
//! - The last quarter of the connections is kept for the main unix socket, so that no stranger shuts root out.
//! - A handler sees a request only with a [`Caller`](super::auth::Caller) that may make it (or an open one), its whole
//!   body within the limit, and a [`RequestId`]; no handler has to ask for any of it.
//! - Event streams and gRPC streams live as long as both sides like; they end when the daemon stops.
//! - A refusal looks as the door demands: problem+json, or a gRPC status.
//! - Running out of descriptors or memory slows accepting down and never ends it.
//!
//! `axum::serve` would set no timers, so hyper's own time-outs would never fire; hence the own loop.

mod accept;
mod body;
mod clients;
mod connection;
mod papers;
mod pulse;
mod quota;
mod refusal;
mod rim;
mod seats;
mod shutdown;
mod tcp;
mod unix;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use tower::ServiceExt as _;

use super::auth::{Access, CallersError};
use crate::config::{Config, Limits};

pub use papers::Papers;
pub use rim::{Audit, RequestId};
pub use shutdown::Shutdown;

/// A bound socket with the rules of its door.
#[derive(Debug)]
pub struct Listener(accept::Socket);

/// How the end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still busy when the time was over.
    pub cut: usize,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers at this path.
    #[error("another process answers at {}; stop it, or choose another --socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// What is at the path is not ours to replace.
    #[error("{} {reason}; netloom replaces only its own sockets: remove it, or choose another --socket", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What is there.
        reason: String,
    },
    /// The directory lets others put their own socket there.
    #[error("every user may write to {}; choose a --socket in a directory of root's", path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot listen on {place}: {source}")]
    Io {
        /// Path or address.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A TCP address without credentials, or a clear-text one that the network can reach.
    #[error("cannot listen on {address}: {reason}")]
    Unsafe {
        /// The address.
        address: SocketAddr,
        /// What is missing.
        reason: &'static str,
    },
    /// Certificate or key cannot be used.
    #[error("cannot use {} for TLS: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The token file cannot be used.
    #[error(transparent)]
    Callers(#[from] CallersError),
}

impl Listener {
    /// Where TCP clients find it; the port that was chosen if port 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.local_addr()
    }
}

/// Every listener that a configuration names, and what the TCP ones ask for.
#[derive(Debug)]
pub struct Opened {
    /// The main unix socket comes first, then `read.sock`, then TCP.
    pub listeners: Vec<Listener>,
    /// None without TCP.
    pub papers: Option<Arc<Papers>>,
}

/// Opens every listener that `config` names, or none.
pub fn open(config: &Config) -> Result<Opened, ListenError> {
    let mut listeners =
        vec![unix::open(&config.socket, Access::Full)?, unix::open(&config.read_socket, Access::Read)?];
    if config.listen.is_empty() {
        return Ok(Opened { listeners, papers: None });
    }
    let papers = Papers::load(config)?.map(Arc::new);
    let (tls, gate) =
        (papers.as_ref().and_then(|papers| papers.tls()), papers.as_ref().map(|papers| papers.gate()));
    for &address in &config.listen {
        listeners.push(tcp::open(address, tls.clone(), gate.clone())?);
    }
    Ok(Opened { listeners, papers })
}

/// One router of two: gRPC calls go to `grpc`, all others to `rest`, so that each kind of client gets its own kind of
/// "not found".
pub fn by_content_type(rest: Router, grpc: Router) -> Router {
    Router::new().fallback_service(tower::service_fn(move |request: Request| {
        let router = if rim::is_grpc(&request) { grpc.clone() } else { rest.clone() };
        router.oneshot(request)
    }))
}

/// Serves `router` on all listeners until `shutdown` resolves; then refuses new connections, tells streams to end,
/// and waits for the rest as long as the limits say.
pub async fn serve(
    listeners: Vec<Listener>,
    router: Router,
    limits: Limits,
    audit: Audit,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    accept::serve(listeners, router, limits, audit, shutdown).await
}

#[cfg(test)]
mod tests;
