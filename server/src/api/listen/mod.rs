//! The rim of both doors: sockets, the accept loop, and what every request passes before a handler sees it.
//!
//! One [`Router`] is served on unix sockets and TCP, HTTP/1.1 and HTTP/2 alike. What this room promises:
//!
//! - A client that is slow, silent or hostile costs a bounded share: header, body, idle and write time-outs, a bounded
//!   number of connections, of streams and of resets, a bounded body. Half-open connections give way to live ones.
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
mod connection;
mod pulse;
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

use super::auth::{Access, TokenError, Tokens};
use crate::config::{Config, Limits};

pub use rim::RequestId;
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
    Tokens(#[from] TokenError),
}

impl Listener {
    /// Where TCP clients find it; the port that was chosen if port 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.local_addr()
    }
}

/// Opens every listener that `config` names, or none. The main unix socket comes first, then `read.sock`, then TCP.
pub fn open(config: &Config) -> Result<Vec<Listener>, ListenError> {
    let mut listeners =
        vec![unix::open(&config.socket, Access::Full)?, unix::open(&config.read_socket, Access::Read)?];
    if config.listen.is_empty() {
        return Ok(listeners);
    }
    let tokens = config.token_file.as_deref().map(Tokens::load).transpose()?;
    let gate = tokens.map(|tokens| Arc::new(rim::Gate::new(tokens, &config.allowed_hosts)));
    let tls = config.tls.as_ref().map(tcp::tls).transpose()?;
    for &address in &config.listen {
        listeners.push(tcp::open(address, tls.clone(), gate.clone())?);
    }
    Ok(listeners)
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
    shutdown: impl Future<Output = ()>,
) -> Drained {
    accept::serve(listeners, router, limits, shutdown).await
}

#[cfg(test)]
mod tests;
