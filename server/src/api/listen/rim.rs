//! What every request passes, in this order: its id, where it comes from, who sends it, whether that caller may, its
//! body. Then the router.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{EXPECT, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use axum::response::Response;
use futures_util::FutureExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;
use tower::ServiceExt as _;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, debug, error, info_span};
use uuid::Uuid;

use super::body::{self, Kind, Reply};
use super::pulse::{Busy, Pulse};
use super::refusal::Refusal;
use super::shutdown::Shutdown;
use crate::api::auth::{Access, Caller, Tokens, bearer, is_open, is_read};
use crate::config::Limits;

/// The id of a request: the caller's own if it is sane, else a new UUIDv7. An extension of every request, a header of
/// every answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl RequestId {
    /// The id as text: 1 to 128 visible ASCII characters without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(headers: &HeaderMap) -> Self {
        let sane = |id: &&str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
            (1..=128).contains(&id.len()) && id.bytes().all(plain)
        };
        let given = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sane);
        RequestId(given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned))
    }
}

/// What a TCP listener asks for.
#[derive(Debug)]
pub(super) struct Gate {
    tokens: Tokens,
    hosts: Vec<String>,
}

/// Who is at the other end of a connection, as far as the connection itself tells.
#[derive(Debug)]
pub(super) enum Peer {
    /// A process of this host.
    Local(Caller),
    /// Whoever has a token.
    Remote { gate: Arc<Gate>, from: SocketAddr, to: IpAddr },
}

/// What stands before the router.
pub(super) struct Rim {
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
}

/// Whether a request speaks gRPC; all others speak REST.
pub(super) fn is_grpc<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && body::is_grpc(request.headers())
}

impl Gate {
    pub(super) fn new(tokens: Tokens, hosts: &[String]) -> Self {
        Gate { tokens, hosts: hosts.to_vec() }
    }

    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        self.tokens.caller(bearer(headers)?)
    }

    /// Every name that the request gives has to be ours: a loopback name, the address that was connected to, or one
    /// that is configured. A page that rebound its own name to our address says that name.
    fn is_addressed(&self, uri: &Uri, headers: &HeaderMap, to: IpAddr) -> bool {
        let mut named =
            headers.get_all(HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok()).peekable();
        if uri.authority().is_none() && named.peek().is_none() {
            return false;
        }
        let known = |authority: &Authority| {
            let host = authority.host().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
            let address = host.parse::<IpAddr>().map(|ip| ip.to_canonical());
            host == "localhost"
                || address.is_ok_and(|ip| ip.is_loopback() || ip == to.to_canonical())
                || self.hosts.contains(&host)
        };
        uri.authority().is_none_or(known) && named.all(|host| host.as_ref().is_some_and(known))
    }
}

impl Peer {
    /// A process with this uid, at a unix socket that gives this access.
    pub(super) fn local(uid: u32, access: Access) -> Self {
        Peer::Local(Caller { actor: format!("uid:{uid}"), access })
    }

    /// Whether it is known who calls before the first request.
    pub(super) fn is_known(&self) -> bool {
        matches!(self, Peer::Local(_))
    }

    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        match self {
            Peer::Local(caller) => Some(caller.clone()),
            Peer::Remote { gate, .. } => gate.caller(headers),
        }
    }

    /// No web page gets through: its browser says where it comes from, or whom it believes to talk to.
    fn came_by_itself(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        if headers.contains_key(ORIGIN) {
            return Err(Refusal::Origin);
        }
        match self {
            Peer::Remote { gate, to, .. } if !gate.is_addressed(uri, headers, *to) => Err(Refusal::Host),
            Peer::Remote { .. } | Peer::Local(_) => Ok(()),
        }
    }
}

impl Rim {
    pub(super) fn new(router: Router, limits: Limits, shutdown: Shutdown) -> Self {
        // axum's own limit would hold in extractors only, and at another size.
        Rim { router: router.layer(DefaultBodyLimit::disable()), limits, shutdown }
    }

    /// Answers a request; `busy` is held until the answer is sent.
    pub(super) async fn answer(
        &self,
        peer: &Peer,
        pulse: &Pulse,
        busy: Busy,
        request: Request<Incoming>,
    ) -> Response {
        let grpc = is_grpc(&request);
        let id = RequestId::of(request.headers());
        let span = info_span!(
            "request",
            request_id = id.as_str(),
            actor = Empty,
            method = %request.method(),
            path = request.uri().path(),
        );
        let outcome = self.pass(peer, pulse, &id, request, grpc).instrument(span).await;
        let mut response = outcome.unwrap_or_else(|refusal| {
            // Strangers could fill the log: at debug level only.
            debug!(%peer, request_id = id.as_str(), ?refusal, "request refused");
            refusal.answer(grpc, id.as_str())
        });
        if let Ok(id) = HeaderValue::from_str(id.as_str()) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        let kind = Kind::of(response.headers());
        response.map(|body| Reply::wrap(body, kind, self.shutdown.clone(), busy))
    }

    async fn pass(
        &self,
        peer: &Peer,
        pulse: &Pulse,
        id: &RequestId,
        request: Request<Incoming>,
        grpc: bool,
    ) -> Result<Response, Refusal> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        peer.came_by_itself(uri, headers)?;
        let caller = peer.caller(headers);
        if let Some(caller) = &caller {
            pulse.known();
            Span::current().record("actor", caller.actor.as_str());
            if caller.access == Access::Read && !is_read(method, uri.path(), grpc) {
                return Err(Refusal::ReadOnly);
            }
        } else if !is_open(method, uri.path(), grpc) {
            return Err(Refusal::Unauthenticated);
        }
        let mut request = self.with_body(request, grpc).await?;
        let extensions = request.extensions_mut();
        extensions.insert(id.clone());
        extensions.insert(self.shutdown.clone());
        if let Some(caller) = caller {
            extensions.insert(caller);
        }
        self.handle(request).await
    }

    /// The same request with its body within the limits.
    async fn with_body(&self, request: Request<Incoming>, grpc: bool) -> Result<Request, Refusal> {
        let (parts, body) = request.into_parts();
        let limit = self.limits.body;
        let body = if body.is_end_stream() {
            Body::empty()
        } else if grpc && parts.uri.path().starts_with("/grpc.reflection.") {
            // The only calls whose client sends a stream.
            body::stream(body, limit, &self.shutdown)
        } else {
            // Over HTTP/2 an early answer does no harm, and who expects to be asked has sent nothing yet.
            let discard = parts.version < Version::HTTP_2 && !parts.headers.contains_key(EXPECT);
            let end = Instant::now() + self.limits.body_timeout;
            Body::from(body::whole(body, limit, end, discard).await?)
        };
        Ok(Request::from_parts(parts, body))
    }

    /// A panic in a handler is one failed request.
    async fn handle(&self, request: Request) -> Result<Response, Refusal> {
        match AssertUnwindSafe(self.router.clone().oneshot(request)).catch_unwind().await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(never)) => match never {},
            Err(_) => {
                error!("a handler panicked");
                Err(Refusal::Internal)
            }
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Local(caller) => f.write_str(&caller.actor),
            Peer::Remote { from, .. } => write!(f, "{from}"),
        }
    }
}
