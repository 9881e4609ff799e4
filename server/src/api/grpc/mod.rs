//! The gRPC door: messages on one side, the verbs on the other.
//!
//! What both doors check is checked in [`words`](super::words), so a bad request gets the same error here as over REST,
//! as a status with the same facts in its details.

mod control;
mod health;
mod mask;
mod objects;
mod tally;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use netloom_api::{ErrorReason, Etag, FromPb, Path, pb};
use tokio::time::Instant;
use tonic::Status;
use tonic::service::Routes;

use super::door::Door;
use super::{problem, words};
use crate::controller::{Caller, WriteOptions};
use crate::error::{Error, Result};

/// The result of a call.
type Answer<T> = std::result::Result<tonic::Response<T>, Status>;

/// The door.
pub(super) fn router(door: Door) -> Router {
    let mut routes = Routes::builder();
    objects::add(&mut routes, &door);
    control::add(&mut routes, &door);
    routes.add_service(health::service(door.clone()));
    // Reflection is of what was compiled in, so it can only fail by a defect of the build; without it all else works.
    let (v1, v1alpha) = (reflection().build_v1(), reflection().build_v1alpha());
    match (v1, v1alpha) {
        (Ok(v1), Ok(v1alpha)) => drop(routes.add_service(v1).add_service(v1alpha)),
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "there is no gRPC reflection"),
    }
    let router = routes.routes().prepare().into_axum_router().reset_fallback();
    router.fallback(no_such_method).layer(middleware::from_fn_with_state(door, count))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn no_such_method(request: Request) -> Response {
    let detail = format!("there is no method {}", request.uri().path());
    problem::status(Error::new(ErrorReason::NoSuchMethod, detail)).into_http()
}

/// Every answer is counted.
async fn count(State(door): State<Door>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    door.metrics.answers("grpc", begun.elapsed());
    tally::count(response, door.metrics, path)
}

/// Answers, or refuses in the words of gRPC.
fn answer<T>(result: Result<T>) -> Answer<T> {
    result.map(tonic::Response::new).map_err(|error| {
        if error.reason == ErrorReason::Internal {
            tracing::error!(detail = error.detail, "a defect");
        }
        problem::status(error)
    })
}

/// A request taken apart: who calls, and what was sent.
fn open<T>(request: tonic::Request<T>) -> Result<(Caller, T)> {
    let caller = words::caller(request.extensions())?;
    Ok((caller, request.into_inner()))
}

/// What every write may ask for.
fn options(options: Option<pb::WriteOptions>) -> Result<WriteOptions> {
    let pb::WriteOptions { request_id, wait, dry_run, force } = options.unwrap_or_default();
    let wait = wait.map(|wait| words::Span { seconds: wait.seconds, nanos: wait.nanos });
    Ok(WriteOptions {
        request_id: request_id.map(|text| words::request_id(&text, "options.request_id")).transpose()?,
        wait: words::wait(wait)?,
        dry_run: dry_run.unwrap_or_default(),
        force: force.unwrap_or_default(),
        ..WriteOptions::default()
    })
}

fn etag(text: Option<String>) -> Result<Option<Etag>> {
    text.map(|text| words::etag(&text, "etag")).transpose()
}

/// A word that may be unset.
fn maybe<T: std::str::FromStr<Err = String>>(text: Option<String>, field: &str) -> Result<Option<T>> {
    text.map(|text| words::parsed(&text, field)).transpose()
}

/// Words that come many at a time.
fn each<T: std::str::FromStr<Err = String>>(texts: &[String], field: &str) -> Result<Vec<T>> {
    texts.iter().map(|text| words::parsed(text, field)).collect()
}

/// The object of a request, its shape checked.
fn sent<M, T: FromPb<M>>(message: Option<M>, field: &str) -> Result<T> {
    let message = message.ok_or_else(|| words::invalid(field, "is required"))?;
    Ok(T::from_pb(message, &Path::root())?)
}
