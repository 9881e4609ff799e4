//! What is said to a request that does not reach a handler: one list, two languages.

use std::collections::HashMap;

use axum::Json;
use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Why a request is refused at the rim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No token, or one that is not known. Which of both is nobody's business.
    Unauthenticated,
    /// The caller may only read.
    ReadOnly,
    /// The request was meant for another host: DNS rebinding, or a name that is not configured.
    Host,
    /// A web page sent it.
    Origin,
    /// The body is larger than so many bytes.
    TooLarge(usize),
    /// The body did not come in time.
    Stalled,
    /// The body ended with an error of the connection.
    Broken,
    /// A handler panicked.
    Internal,
}

impl Refusal {
    /// The answer in the language of the door.
    pub(super) fn answer(&self, grpc: bool, request_id: &str) -> Response {
        if grpc { self.status().into_http() } else { self.problem(request_id) }
    }

    /// The gRPC status, for places where only a status can be sent.
    pub(super) fn status(&self) -> Status {
        let (code, reason, detail) = (self.words().1, self.words().2, self.detail());
        let details = ErrorDetails::with_error_info(reason, "netloom", HashMap::new());
        Status::with_error_details(code, detail, details)
    }

    fn problem(&self, request_id: &str) -> Response {
        let (status, _, reason) = self.words();
        let mut response = problem(status, reason, &self.detail(), request_id);
        let headers = response.headers_mut();
        match self {
            Refusal::Unauthenticated => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What is left of the body is not read: the connection is of no more use.
            Refusal::TooLarge(_) | Refusal::Stalled | Refusal::Broken => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Refusal::ReadOnly | Refusal::Host | Refusal::Origin | Refusal::Internal => {}
        }
        response
    }

    fn words(&self) -> (StatusCode, Code, &'static str) {
        match self {
            Refusal::Unauthenticated => (StatusCode::UNAUTHORIZED, Code::Unauthenticated, "UNAUTHENTICATED"),
            Refusal::ReadOnly => (StatusCode::FORBIDDEN, Code::PermissionDenied, "READ_ONLY"),
            Refusal::Host => (StatusCode::FORBIDDEN, Code::PermissionDenied, "HOST_NOT_ALLOWED"),
            Refusal::Origin => (StatusCode::FORBIDDEN, Code::PermissionDenied, "ORIGIN_NOT_ALLOWED"),
            Refusal::TooLarge(_) => {
                (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, "BODY_TOO_LARGE")
            }
            Refusal::Stalled => (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, "BODY_TIMEOUT"),
            Refusal::Broken => (StatusCode::BAD_REQUEST, Code::InvalidArgument, "BODY_BROKEN"),
            Refusal::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "INTERNAL"),
        }
    }

    fn detail(&self) -> String {
        match self {
            Refusal::Unauthenticated => "a bearer token of this daemon is needed".to_owned(),
            Refusal::ReadOnly => "this caller may read, and the call is not one that only reads".to_owned(),
            Refusal::Host => {
                "the host of the request is not one of this listener; --allowed-host adds names".to_owned()
            }
            Refusal::Origin => "requests of web pages are not served".to_owned(),
            Refusal::TooLarge(limit) => format!("the body is larger than {limit} bytes"),
            Refusal::Stalled => "the body did not come in time".to_owned(),
            Refusal::Broken => "the body did not come whole".to_owned(),
            Refusal::Internal => "the daemon failed on this request; its log has the request id".to_owned(),
        }
    }
}

/// RFC 9457.
fn problem(status: StatusCode, reason: &str, detail: &str, request_id: &str) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": detail,
        "reason": reason,
        "request_id": request_id,
    });
    let json = HeaderValue::from_static("application/problem+json");
    (status, [(CONTENT_TYPE, json)], Json(body)).into_response().map(Body::new)
}
