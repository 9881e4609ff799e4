//! The rim from outside: a real `serve` on sockets of a temporary directory and on loopback.

mod ends;
mod identity;
mod limits;
mod sockets;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::pulse::Stream;
use super::{Audit, Drained, Opened, Papers, RequestId, Shutdown, by_content_type, open, serve};
use crate::api::auth::{Caller, token_line};
use crate::config::{Config, Limits, SocketConfig, TlsFiles};
use crate::controller::{Denied, Rights};

/// Nothing in these tests takes so long unless it hangs.
const LONG: Duration = Duration::from_secs(20);

const FULL: &str = "full-full-full-full-full-full";
const READ: &str = "read-read-read-read-read-read";

/// A running rim.
struct Daemon {
    dir: TempDir,
    tcp: Option<SocketAddr>,
    papers: Option<Arc<Papers>>,
    denied: Arc<Mutex<Vec<Denied>>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Drained>,
}

/// Which listener a client uses.
#[derive(Debug, Clone, Copy)]
enum At {
    Main,
    ReadSock,
    Tcp,
}

impl Daemon {
    fn start(limits: Limits) -> Self {
        Self::with(|config| config.limits = limits)
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tokens = dir.path().join("tokens");
        let lines = [("ci", FULL, Rights::Full), ("eye", READ, Rights::read())];
        let lines = lines.map(|(name, token, rights)| token_line(name, token, &rights, None).unwrap() + "\n");
        std::fs::write(&tokens, lines.concat()).unwrap();
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
        let socket = |name: &str| SocketConfig { path: dir.path().join(name), mode: 0o660, group: None };
        let mut config = Config {
            socket: socket("netloom.sock"),
            read_socket: socket("read.sock"),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            token_file: Some(tokens),
            allowed_hosts: vec!["netloom.example".to_owned()],
            ..Config::default()
        };
        change(&mut config);
        let Opened { listeners, papers } = open(&config).unwrap();
        let denied = Arc::<Mutex<Vec<Denied>>>::default();
        let told = denied.clone();
        let audit: Audit = Arc::new(move |one| told.lock().unwrap().push(one));
        let tcp = listeners.iter().find_map(super::Listener::local_addr);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listeners, router(), config.limits, audit, async move {
            let _ = stopped.await;
        }));
        Daemon { dir, tcp, papers, denied, stop, task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn connect(&self, at: At) -> Box<dyn Stream> {
        match at {
            At::Main => Box::new(UnixStream::connect(self.path("netloom.sock")).await.unwrap()),
            At::ReadSock => Box::new(UnixStream::connect(self.path("read.sock")).await.unwrap()),
            At::Tcp => Box::new(TcpStream::connect(self.tcp.unwrap()).await.unwrap()),
        }
    }

    /// Sends bytes, then reads until the daemon closes the connection.
    async fn raw(&self, at: At, bytes: &[u8]) -> String {
        let mut stream = self.connect(at).await;
        stream.write_all(bytes).await.unwrap();
        rest(&mut stream).await
    }

    /// One request on a connection of its own.
    async fn call(&self, at: At, protocol: Protocol, request: Request) -> Reply {
        exchange(self.connect(at).await, protocol, request).await
    }

    async fn get(&self, at: At, path: &str) -> Reply {
        self.call(
            at,
            Protocol::Http1,
            Request::get(path).header("host", "localhost").body(Body::empty()).unwrap(),
        )
        .await
    }

    /// A gRPC channel.
    async fn grpc(&self, at: At) -> Channel {
        let stream = self.connect(at).await;
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_| {
            let stream = stream.take().ok_or_else(|| std::io::Error::other("one connection is enough"));
            std::future::ready(stream)
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
    }

    async fn stop(self) -> Drained {
        let _ = self.stop.send(());
        timeout(LONG, self.task).await.expect("the drain ends").unwrap()
    }
}

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status of a refusal and its reason, or the guard that refused; after a look at the form.
    fn refusal(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        let word = problem["metadata"]["guard"].as_str().or(problem["reason"].as_str());
        (self.status, word.unwrap().to_owned())
    }
}

async fn exchange(stream: Box<dyn Stream>, protocol: Protocol, request: Request) -> Reply {
    let io = TokioIo::new(stream);
    let response = match protocol {
        Protocol::Http1 => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            timeout(LONG, sender.send_request(request)).await
        }
        Protocol::Http2 => {
            let executor = TokioExecutor::new();
            let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            tokio::spawn(connection);
            timeout(LONG, sender.send_request(request)).await
        }
    };
    let (parts, body) = response.expect("an answer comes").unwrap().into_parts();
    let body = timeout(LONG, body.collect()).await.expect("the body ends").unwrap().to_bytes();
    Reply {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

async fn rest(stream: &mut Box<dyn Stream>) -> String {
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the daemon closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

fn router() -> Router {
    let rest = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/who", get(who).post(who))
        .route("/echo", post(|body: String| async move { body.len().to_string() }))
        .route("/ignore", post(|| async { "ignored" }))
        .route("/stream", get(stream))
        .route("/held", get(held).post(held))
        .route("/slow", get(|Extension(shutdown): Extension<Shutdown>| async move { shutdown.begun().await }))
        .route("/big", get(|| async { "x".repeat(64 << 20) }))
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("as asked")
                }
            }),
        )
        .fallback(|| async { (axum::http::StatusCode::NOT_FOUND, "no such thing") });
    let grpc = tonic::service::Routes::new(HealthServer::new(Eye)).prepare().into_axum_router();
    by_content_type(rest, grpc)
}

async fn who(Extension(caller): Extension<Caller>, Extension(id): Extension<RequestId>) -> Json<Value> {
    Json(json!({"actor": caller.actor, "rights": caller.rights.to_string(), "id": id.as_str()}))
}

/// Ends when the test says so, by a permit of this semaphore.
async fn held() -> &'static str {
    HELD.acquire().await.unwrap().forget();
    "released"
}

static HELD: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(0);

/// A stream that says one thing and never ends.
async fn stream() -> Sse<impl futures_util::Stream<Item = Result<Event, Infallible>>> {
    use futures_util::StreamExt as _;
    let first = futures_util::stream::iter([Ok(Event::default().data("first"))]);
    Sse::new(first.chain(futures_util::stream::pending()))
}

/// A gRPC service that sees who calls: serving for full access, not serving for reading, unknown for strangers.
struct Eye;

#[tonic::async_trait]
impl Health for Eye {
    type WatchStream = futures_util::stream::BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let status = match request.extensions().get::<Caller>().map(|caller| caller.rights.is_full()) {
            Some(true) => ServingStatus::Serving,
            Some(false) => ServingStatus::NotServing,
            None => ServingStatus::Unknown,
        };
        Ok(tonic::Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        use futures_util::StreamExt as _;
        let first = futures_util::stream::iter([Ok(HealthCheckResponse::default())]);
        Ok(tonic::Response::new(first.chain(futures_util::stream::pending()).boxed()))
    }
}
