//! The daemon itself: alive, ready, metrics, version, and the document with a page to read it.

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use netloom_api::{ErrorReason, Version};
use utoipa::openapi::{
    ObjectBuilder,
    path::HttpMethod,
    schema::{AdditionalProperties, SchemaType, Type},
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::operation::{Op, named, written};
use super::query::{Asked, Nothing, Param, Said, Shape, Words};
use crate::api::door::Door;
use crate::api::openapi;
use crate::api::problem::Refused;
use crate::api::words;
use crate::error::{Error, Result};

type Answer = std::result::Result<Response, Refused>;

const OPENAPI: &str = "/v1/openapi.json";
const METRICS_TYPE: &str = "application/openmetrics-text";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The paths.
pub(super) fn routes() -> OpenApiRouter<Door> {
    let tag = "system";
    let alive = Op::new("get_health", tag, "Whether the daemon is alive")
        .answers_text("text/plain", "It is.", None)
        .open();
    let ready = Op::new("get_readiness", tag, "Whether the daemon is ready")
        .about("It is once it has compared the whole host with what is wanted; until then 503.")
        .answers_text("text/plain", "It is.", None);
    let metrics = Op::new("get_metrics", tag, "Metrics in the OpenMetrics format").answers_text(
        METRICS_TYPE,
        "The metrics.",
        None,
    );
    let version =
        Op::new("get_version", tag, "What runs here").answers(200, &named::<Version>(), "Versions.", &[]);
    let any = ObjectBuilder::new().schema_type(SchemaType::new(Type::Object));
    let any = any.description(Some("An OpenAPI document."));
    let any =
        written("OpenApiDocument", any.additional_properties(Some(AdditionalProperties::FreeForm(true))));
    let document = Op::new("get_openapi", tag, "This document").asks::<Edition>().answers(
        200,
        &any,
        "The document.",
        &[],
    );
    OpenApiRouter::default()
        .routes(alive.at(HttpMethod::Get, "/healthz", self::alive))
        .routes(ready.at(HttpMethod::Get, "/readyz", self::ready))
        .routes(metrics.at(HttpMethod::Get, "/metrics", self::metrics))
        .routes(version.at(HttpMethod::Get, "/v1/version", self::version))
        .routes(document.at(HttpMethod::Get, OPENAPI, self::document))
}

/// The page that shows the document; all of it is in this program.
pub(super) fn docs() -> Router<Door> {
    SwaggerUi::new("/docs").config(Config::from(OPENAPI)).into()
}

async fn alive() -> &'static str {
    "alive\n"
}

async fn ready(State(door): State<Door>) -> Answer {
    if door.is_ready() {
        return Ok("ready\n".into_response());
    }
    Err(Error::new(ErrorReason::Unavailable, "the first full pass is not done yet").into())
}

async fn metrics(State(door): State<Door>) -> Answer {
    Ok((StatusCode::OK, [(CONTENT_TYPE, METRICS)], door.metrics_text().await?).into_response())
}

async fn version(State(door): State<Door>, Asked(Nothing): Asked<Nothing>) -> Answer {
    Ok(Json(door.controller.version()).into_response())
}

async fn document(Asked(edition): Asked<Edition>) -> Answer {
    let text = match edition {
        Edition::Current => openapi::current(),
        Edition::Old => openapi::old(),
    };
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

/// Of the OpenAPI specification.
enum Edition {
    Current,
    Old,
}

impl Words for Edition {
    fn params() -> Vec<Param> {
        let about = "Of the OpenAPI specification; 3.0 for tools that do not know 3.1.";
        vec![Param { name: "version", about, shape: Shape::OneOf(&["3.0", "3.1"]) }]
    }

    fn read(said: &Said<'_>) -> Result<Self> {
        match said.one("version") {
            None | Some("3.1") => Ok(Edition::Current),
            Some("3.0") => Ok(Edition::Old),
            Some(other) => Err(words::invalid("version", format!("{other:?} is not one of 3.0, 3.1"))),
        }
    }
}
