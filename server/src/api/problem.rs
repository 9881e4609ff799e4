//! One error, said by both doors: problem+json (RFC 9457), or a gRPC status with the same facts in its details.

use std::time::Duration;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use netloom_api::ErrorReason;
use tonic::Status;
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

use crate::error::Error;

/// Who speaks, in the details of a gRPC status.
const DOMAIN: &str = "netloom";
/// When somebody who is too many may try again.
const COME_BACK: Duration = Duration::from_secs(1);

/// What a REST handler refuses with. The answer is written where the request's id is known.
#[derive(Debug)]
pub(super) struct Refused(pub Error);

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Refused(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::empty());
        response.extensions_mut().insert(self.0);
        response
    }
}

/// The error as REST says it.
pub(super) fn response(error: &Error, request_id: &str) -> Response {
    let status =
        StatusCode::from_u16(error.reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = [(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))];
    let mut response = (status, content_type, Json(error.to_problem(request_id))).into_response();
    if error.reason == ErrorReason::TooManyRequests {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(COME_BACK.as_secs()));
    }
    response
}

/// The error as gRPC says it.
pub(super) fn status(error: Error) -> Status {
    let Error { reason, detail, metadata, violations } = error;
    let mut details = ErrorDetails::new();
    if !violations.is_empty() {
        let fields = violations.into_iter().map(|one| FieldViolation::new(one.field, one.description));
        details.set_bad_request(fields.collect::<Vec<_>>());
    }
    if reason.http_status() == StatusCode::CONFLICT.as_u16() {
        let word = |key| metadata.get(key).map_or("", String::as_str);
        let subject = [word("kind"), word("name")].join("/");
        let violation = PreconditionViolation::new(reason.as_str(), subject.trim_matches('/'), &*detail);
        details.set_precondition_failure(vec![violation]);
    }
    if reason == ErrorReason::TooManyRequests {
        details.set_retry_info(Some(COME_BACK));
    }
    details.set_error_info(
        reason.as_str(),
        DOMAIN,
        metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
    );
    Status::with_error_details(reason.grpc_code(), detail, details)
}

#[cfg(test)]
mod tests {
    use netloom_api::Kind;

    use super::*;

    #[test]
    fn a_conflict_says_over_grpc_what_rest_says() {
        let error = Error::no_reference("spec.network", Kind::Network, &"v-net-0".parse().unwrap());
        let problem = error.to_problem("id");
        let status = status(error);
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.message(), problem.detail);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (problem.reason.as_str(), DOMAIN));
        assert_eq!(info.metadata.get("name"), problem.metadata.get("name"));
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "spec.network");
        let precondition = &details.precondition_failure().unwrap().violations[0];
        assert_eq!(
            (precondition.r#type.as_str(), precondition.subject.as_str()),
            ("REFERENCE_NOT_FOUND", "Network/v-net-0")
        );
    }

    #[test]
    fn an_error_without_fields_has_no_bad_request() {
        let details = status(Error::new(ErrorReason::NotFound, "no")).get_error_details();
        assert!(details.bad_request().is_none() && details.precondition_failure().is_none());
    }
}
