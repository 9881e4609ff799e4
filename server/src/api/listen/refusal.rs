//! What is said to a request that does not reach a handler: one list of errors, two languages.

use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, WWW_AUTHENTICATE};
use axum::response::Response;
use netloom_api::ErrorReason;
use tonic::Status;

use crate::api::problem;
use crate::error::Error;

/// Why a request is refused at the rim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No token, or one that is not known. Which of both is nobody's business.
    Unauthenticated,
    /// The caller may not make such a call.
    Access,
    /// So many requests, or streams, of this caller go on already.
    TooMany {
        /// How many.
        limit: usize,
        /// Whether they are streams.
        stream: bool,
    },
    /// The body nests deeper than so much.
    TooDeep(usize),
    /// The body has a list or an object of more than so many.
    TooLong(usize),
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
        if grpc {
            return self.status().into_http();
        }
        let mut response = problem::response(&self.error(), request_id);
        let headers = response.headers_mut();
        match self {
            Refusal::Unauthenticated => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What is left of the body is not read: the connection is of no more use.
            Refusal::TooLarge(_) | Refusal::Stalled | Refusal::Broken => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Refusal::Access
            | Refusal::TooMany { .. }
            | Refusal::TooDeep(_)
            | Refusal::TooLong(_)
            | Refusal::Host
            | Refusal::Origin
            | Refusal::Internal => {}
        }
        response
    }

    /// The gRPC status, also for places where only a status can be sent.
    pub(super) fn status(&self) -> Status {
        problem::status(self.error())
    }

    /// What both doors say.
    pub(super) fn error(&self) -> Error {
        let denied = |guard, detail| Error::new(ErrorReason::PermissionDenied, detail).with("guard", guard);
        match self {
            Refusal::Unauthenticated => Error::new(
                ErrorReason::Unauthenticated,
                "a bearer token or a client certificate of this daemon is needed",
            ),
            Refusal::Access => denied("access", "this caller may not make calls of this sort"),
            Refusal::TooMany { limit, stream } => {
                let what = if *stream { "streams" } else { "requests" };
                let detail =
                    format!("{limit} {what} of this caller go on already; try again when one has ended");
                Error::new(ErrorReason::TooManyRequests, detail).with("limit", limit)
            }
            Refusal::TooLong(limit) => {
                let detail = format!("the body has a list or an object of more than {limit}");
                Error::new(ErrorReason::TooLarge, detail).with("limit", limit)
            }
            Refusal::TooDeep(limit) => {
                let detail = format!("the body nests deeper than {limit} objects and lists");
                Error::new(ErrorReason::Malformed, detail).with("limit", limit)
            }
            Refusal::Host => {
                denied("host", "the host of the request is not one of this listener; allowed_host adds names")
            }
            Refusal::Origin => denied("origin", "requests of web pages are not served"),
            Refusal::TooLarge(limit) => {
                Error::new(ErrorReason::TooLarge, format!("the body is larger than {limit} bytes"))
                    .with("limit", limit)
            }
            Refusal::Stalled => Error::new(ErrorReason::TooSlow, "the body did not come in time"),
            Refusal::Broken => Error::new(ErrorReason::Malformed, "the body did not come whole"),
            Refusal::Internal => {
                Error::internal("the daemon failed on this request; its log has the request id")
            }
        }
    }
}
