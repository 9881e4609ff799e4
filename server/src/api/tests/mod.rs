//! Both doors over one controller with a real database; nobody reconciles, so nothing waits.

mod equal;
mod fuzz;
mod rest;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::auth::Caller;
use crate::config::Config;
use crate::controller::{Controller, Intent};
use crate::kernel::Kernel;
use crate::kernel::testhost::on_private_host;
use crate::reconcile::{self, board::Board};
use crate::store::{Store, StoreOptions};
use crate::want::{HostFacts, Surroundings};

/// A controller behind its doors.
struct House {
    router: Router,
    ready: Arc<AtomicBool>,
    _dir: TempDir,
    _changes: tokio::sync::mpsc::Receiver<Vec<(netloom_api::Kind, netloom_api::Name)>>,
}

/// An answer over REST.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

/// Runs a test on a private host, since a controller asks the kernel for the host's subnets.
fn in_house<F: Future<Output = ()>>(test: impl FnOnce(House) -> F) {
    on_private_host(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(House::open().await).await });
    });
}

impl House {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { state_dir: dir.path().to_owned(), ..Config::default() };
        let options = StoreOptions { state_dir: config.state_dir.clone(), events: config.events };
        let intent = Arc::new(Intent::new(Store::open(options).await.unwrap()));
        let (waker, changes) = reconcile::queue();
        let kernel = Kernel::open().unwrap();
        let board = Arc::new(Board::default());
        let around = Arc::new(RwLock::new(Surroundings {
            features: kernel.features(),
            manages_forwarding: true,
            api_ports: Default::default(),
            facts: HostFacts::default(),
        }));
        let pools = config.pools.clone().into();
        let ports = config.forward_ports.clone();
        let controller = Arc::new(Controller::new(intent, board, around, kernel, waker, pools, ports));
        let ready = Arc::new(AtomicBool::new(false));
        let caller = Caller { actor: "uid:0".to_owned(), rights: crate::controller::Rights::Full };
        let router = super::router(controller, &config, ready.clone()).layer(Extension(caller));
        House { router, ready, _dir: dir, _changes: changes }
    }

    /// A request with these headers, each `name: value`.
    async fn call(&self, method: Method, path: &str, headers: &[&str], body: &str) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Reply { status: parts.status, headers: parts.headers, text }
    }

    async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, &[], "").await
    }

    async fn post(&self, path: &str, body: &str) -> Reply {
        self.call(Method::POST, path, &["content-type: application/json"], body).await
    }

    async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path, &[], "").await
    }

    fn become_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, reason and first field of a problem, in one line.
    fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16(), "{self:?}");
        let field = problem["violations"][0]["field"].as_str().unwrap_or("-");
        format!("{} {} {field}", self.status.as_u16(), problem["reason"].as_str().unwrap())
    }
}
