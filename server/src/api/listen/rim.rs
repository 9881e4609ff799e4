//! What every request passes, in this order: its id, where it comes from, who sends it, whether that caller may, a share
//! of what the caller may have at once, its body. Then the router. Writes that are refused here are told to the audit.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{EXPECT, ORIGIN};
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
use super::papers::Gate;
use super::pulse::{Busy, Pulse};
use super::quota::{Quotas, Share};
use super::refusal::Refusal;
use super::shutdown::Shutdown;
use crate::api::auth::{Access, Caller, Certificate, is_open, is_read, is_stream};
use crate::api::words;
use crate::config::Limits;
use crate::controller::{Denied, WAIT_DEFAULT};

/// The id of a request: the caller's own if it is sane, else a new UUIDv7. An extension of every request, a header of
/// every answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

/// Lists of an object are shorter.
const LISTS: usize = 2_048;

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

/// Who is at the other end of a connection, as far as the connection itself tells.
#[derive(Debug)]
pub(super) enum Peer {
    /// A process of this host.
    Local(Caller),
    /// Whoever has a token, or the key of a certificate.
    Remote { gate: Arc<Gate>, from: SocketAddr, to: IpAddr, certificate: Option<Certificate> },
}

/// What stands before the router.
pub(super) struct Rim {
    router: Router,
    limits: Limits,
    quotas: Arc<Quotas>,
    audit: Audit,
    shutdown: Shutdown,
}

/// Is told of writes that are refused before a handler sees them.
pub type Audit = Arc<dyn Fn(Denied) + Send + Sync>;

/// Whether a request speaks gRPC; all others speak REST.
pub(super) fn is_grpc<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && body::is_grpc(request.headers())
}

impl Peer {
    /// A process with this uid, at a unix socket that gives this access.
    pub(super) fn local(uid: u32, access: Access) -> Self {
        Peer::Local(Caller { actor: format!("uid:{uid}"), rights: access.into() })
    }

    /// Whether it is known who calls before the first request.
    pub(super) fn is_known(&self) -> bool {
        matches!(self, Peer::Local(_))
    }

    /// The certificate that its handshake showed.
    pub(super) fn shows(&mut self, shown: Option<Certificate>) {
        match self {
            Peer::Local(_) => {}
            Peer::Remote { certificate, .. } => *certificate = shown,
        }
    }

    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        match self {
            Peer::Local(caller) => Some(caller.clone()),
            Peer::Remote { gate, certificate, .. } => gate.caller(headers, certificate.as_ref()),
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
    pub(super) fn new(router: Router, limits: Limits, audit: Audit, shutdown: Shutdown) -> Self {
        // axum's own limit would hold in extractors only, and at another size.
        let router = router.layer(DefaultBodyLimit::disable());
        Rim { router, limits, quotas: Quotas::new(limits), audit, shutdown }
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
        let call = Call { id, what: format!("{} {}", request.method(), request.uri().path()), grpc };
        let writes = !is_read(request.method(), request.uri().path(), grpc);
        let mut actor = None;
        let outcome = self.pass(peer, pulse, &call, request, &mut actor).instrument(span).await;
        let (mut response, share) = outcome.unwrap_or_else(|refusal| {
            // Strangers could fill the log: at debug level only.
            debug!(%peer, request_id = call.id.as_str(), ?refusal, "request refused");
            if writes {
                self.tell(peer, &call, actor, &refusal);
            }
            (refusal.answer(grpc, call.id.as_str()), None)
        });
        if let Ok(id) = HeaderValue::from_str(call.id.as_str()) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        let kind = Kind::of(response.headers());
        response.map(|body| Reply::wrap(body, kind, self.shutdown.clone(), share, busy))
    }

    async fn pass(
        &self,
        peer: &Peer,
        pulse: &Pulse,
        call: &Call,
        request: Request<Incoming>,
        actor: &mut Option<String>,
    ) -> Result<(Response, Option<Share>), Refusal> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        peer.came_by_itself(uri, headers)?;
        let caller = peer.caller(headers);
        if let Some(caller) = &caller {
            pulse.known();
            Span::current().record("actor", caller.actor.as_str());
            *actor = Some(caller.actor.clone());
            if !caller.rights.may_call(method, uri.path(), call.grpc)
                && !is_open(method, uri.path(), call.grpc)
            {
                return Err(Refusal::Access);
            }
        } else if !is_open(method, uri.path(), call.grpc) {
            return Err(Refusal::Unauthenticated);
        }
        let stream = is_stream(uri.path(), headers, call.grpc);
        let name = actor.as_deref().unwrap_or_default();
        let share = self.quotas.take(name, stream, patience(uri, headers)).await?;
        let mut request = self.with_body(request, call.grpc).await?;
        let extensions = request.extensions_mut();
        extensions.insert(call.id.clone());
        extensions.insert(self.shutdown.clone());
        if let Some(caller) = caller {
            extensions.insert(caller);
        }
        Ok((self.handle(request).await?, Some(share)))
    }

    fn tell(&self, peer: &Peer, call: &Call, actor: Option<String>, refusal: &Refusal) {
        (self.audit)(Denied {
            known: actor.is_some(),
            actor: actor.unwrap_or_else(|| peer.to_string()),
            request_id: call.id.as_str().to_owned(),
            what: call.what.clone(),
            error: refusal.error(),
        });
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
            let whole = body::whole(body, limit, end, discard).await?;
            // What is a little too long is told by its reader, which knows the field.
            let entries = 2 * self.limits.objects.max(LISTS);
            if grpc {
                body::measure_message(&whole, entries)?;
            } else {
                body::measure(&whole, self.limits.depth, entries)?;
            }
            Body::from(whole)
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

/// A request as it is told of.
struct Call {
    id: RequestId,
    what: String,
    grpc: bool,
}

/// How long a request stands in line for its share: as long as it says that it may wait, or its caller does.
fn patience(uri: &Uri, headers: &HeaderMap) -> Duration {
    let said = uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("wait=")));
    let wait = said.and_then(|text| text.parse().ok()).and_then(|span| words::wait(Some(span)).ok());
    let wait = wait.unwrap_or(WAIT_DEFAULT);
    // A little before its caller gives up, so that the reason arrives.
    grpc_timeout(headers).map_or(wait, |timeout| (timeout * 3 / 4).min(wait))
}

/// `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
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
