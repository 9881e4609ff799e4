//! The REST door: paths, parameters and bodies on one side, the verbs on the other.
//!
//! Each path is made together with its entry in the OpenAPI document (`operation.rs`), and its parameters are accepted
//! from the table that the document shows (`query.rs`). Every refusal is problem+json, also that of a path that does not
//! exist.

mod body;
mod control;
mod events;
mod objects;
mod operation;
mod query;
mod system;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use netloom_api::{
    Attachment, ErrorReason, Link, Namespace, Network, Policy, PortForward, Reservation, Route,
};
use tokio::time::Instant;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use super::door::Door;
use super::problem::{self, Refused};
use super::words;
use crate::error::Error;
use crate::telemetry::RequestLabels;

/// The door.
pub(super) fn router(door: Door) -> Router {
    let (routes, _) = routes().split_for_parts();
    routes
        .merge(system::docs())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_verb)
        .layer(middleware::from_fn_with_state(door.clone(), answer))
        .with_state(door)
}

/// The paths, their parameters and bodies, as a document without head.
pub(super) fn paths() -> OpenApi {
    routes().split_for_parts().1
}

fn routes() -> OpenApiRouter<Door> {
    OpenApiRouter::default()
        .merge(objects::routes::<Namespace>())
        .merge(objects::routes::<Network>())
        .merge(objects::routes::<Attachment>())
        .merge(objects::routes::<PortForward>())
        .merge(objects::routes::<Link>())
        .merge(objects::routes::<Reservation>())
        .merge(objects::routes::<Route>())
        .merge(objects::routes::<Policy>())
        .merge(control::routes())
        .merge(events::routes())
        .merge(system::routes())
}

/// What every answer passes: a refusal gets its words, and all are counted.
async fn answer(State(door): State<Door>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = words::trace(request.extensions()).to_owned();
    let method = method_word(request.method());
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<Error>() {
        if error.reason == ErrorReason::Internal {
            tracing::error!(request_id = id, detail = error.detail, "a defect");
        }
        let headers = std::mem::take(response.headers_mut());
        response = problem::response(&error, &id);
        response.headers_mut().extend(headers);
    }
    let status = response.status().as_u16();
    let labels = RequestLabels { door: "rest", method, path: path.unwrap_or_default(), status };
    door.metrics.answers(labels.door, begun.elapsed());
    door.metrics.answered(&labels);
    response
}

/// Strangers may not make up new words in the metrics.
fn method_word(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PATCH", "DELETE", "HEAD", "PUT", "OPTIONS"];
    known.into_iter().find(|known| method == known).unwrap_or("other")
}

async fn no_such_path(uri: Uri) -> Refused {
    Error::new(ErrorReason::NoSuchMethod, format!("there is no path {}", uri.path())).into()
}

async fn no_such_verb(method: Method, uri: Uri) -> Refused {
    let detail = format!("{} has no {method}", uri.path());
    Error::new(ErrorReason::MethodNotAllowed, detail).into()
}
