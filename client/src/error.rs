//! The one error of every call.
//!
//! A refusal carries what the daemon said in `google.rpc.Status` details: `ErrorInfo` (reason, metadata), `BadRequest`
//! (violations) and `PreconditionFailure`. Branch on [`ClientError::reason`]; texts are for people.

use std::{collections::BTreeMap, error::Error as StdError, fmt, io};

use netloom_api::{ErrorReason, Violation, Violations};
use tonic::Status;
use tonic_types::StatusExt as _;

/// The domain of `ErrorInfo` in which reasons are ours.
const DOMAIN: &str = "netloom";

/// Why a call has no reply.
#[derive(Debug)]
pub struct ClientError {
    /// On which side it failed.
    pub kind: ErrorKind,
    /// What to branch on, when the daemon gave one that this client knows.
    pub reason: Option<ErrorReason>,
    /// What happened, for people.
    pub detail: String,
    /// Values by documented key, e.g. `errno`, `conflict`, `dependents`.
    pub metadata: BTreeMap<String, String>,
    /// Which fields of the request are wrong.
    pub violations: Vec<Violation>,
    /// What stands in the way.
    pub preconditions: Vec<Precondition>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// On which side a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The daemon answered with an error.
    Refused,
    /// There is no connection to the daemon, or it broke. A write may have been done.
    Connect,
    /// No reply in time. A write may have been done.
    TimedOut,
    /// What answered cannot be understood: it is newer than this client, or no netloomd.
    Reply,
    /// The call was not sent: an option or a file that it names is wrong.
    Options,
}

/// One thing that stands in the way of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precondition {
    /// A word for the sort of obstacle.
    pub type_: String,
    /// What it is about, e.g. `Attachment/red0`.
    pub subject: String,
    /// A sentence for people.
    pub description: String,
}

impl ClientError {
    /// The first input or output error on the way down, e.g. why the socket could not be opened.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        let mut next = self.source();
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return Some(io.kind());
            }
            next = error.source();
        }
        None
    }

    /// Whether there is no object of the name.
    pub fn is_not_found(&self) -> bool {
        self.reason == Some(ErrorReason::NotFound)
    }

    pub(crate) fn options(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Options, detail)
    }

    pub(crate) fn reply(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Reply, detail)
    }

    pub(crate) fn timed_out(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::TimedOut, detail)
    }

    pub(crate) fn connect(error: impl StdError + Send + Sync + 'static) -> Self {
        let detail = innermost(&error);
        Self { source: Some(Box::new(error)), ..Self::new(ErrorKind::Connect, detail) }
    }

    pub(crate) fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// An error without reason, metadata and violations.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            reason: None,
            detail: detail.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            preconditions: Vec::new(),
            source: None,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        // A status that was sent has no source; one that has was made here, of an error of the connection.
        if StdError::source(&status).is_some() {
            return Self::connect(status);
        }
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let reason = info
            .and_then(|info| ErrorReason::ALL.iter().copied().find(|reason| reason.as_str() == info.reason));
        let violations = details.bad_request().map(|bad| {
            let one = |violation: &tonic_types::FieldViolation| Violation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            };
            bad.field_violations.iter().map(one).collect()
        });
        let preconditions = details.precondition_failure().map(|failure| {
            let one = |violation: &tonic_types::PreconditionViolation| Precondition {
                type_: violation.r#type.clone(),
                subject: violation.subject.clone(),
                description: violation.description.clone(),
            };
            failure.violations.iter().map(one).collect()
        });
        let detail = match status.message() {
            "" => status.code().description().to_owned(),
            message => message.to_owned(),
        };
        Self {
            reason,
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            violations: violations.unwrap_or_default(),
            preconditions: preconditions.unwrap_or_default(),
            source: Some(Box::new(status)),
            ..Self::new(ErrorKind::Refused, detail)
        }
    }
}

/// A reply of the daemon that is not of a valid shape.
impl From<Violations> for ClientError {
    fn from(Violations(violations): Violations) -> Self {
        let detail = "the reply cannot be understood; is the daemon newer than this client?";
        Self { violations, ..Self::reply(detail) }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl StdError for ClientError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// The text of the last error of the chain, which says what really happened.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_carries_reason_metadata_violations_and_preconditions() {
        let mut details =
            ErrorDetails::with_error_info("HAS_DEPENDENTS", "netloom", [("kind".into(), "Namespace".into())]);
        details.add_bad_request_violation("name", "is in use");
        details.add_precondition_failure_violation("DEPENDENT", "Attachment/red0", "is in red");
        let status = Status::with_error_details(Code::FailedPrecondition, "red has dependents", details);

        let error = ClientError::from(status);

        assert_eq!(error.kind, ErrorKind::Refused);
        assert_eq!(error.reason, Some(ErrorReason::HasDependents));
        assert_eq!(error.to_string(), "red has dependents");
        assert_eq!(error.metadata["kind"], "Namespace");
        assert_eq!(error.violations[0].field, "name");
        assert_eq!(error.preconditions[0].subject, "Attachment/red0");
    }

    #[test]
    fn reasons_of_other_domains_and_unknown_ones_are_no_reasons() {
        for (reason, domain) in [("NOT_FOUND", "example.com"), ("OF_THE_FUTURE", "netloom")] {
            let details = ErrorDetails::with_error_info(reason, domain, []);
            let error = ClientError::from(Status::with_error_details(Code::NotFound, "no", details));
            assert_eq!(error.reason, None, "{reason} of {domain}");
        }
    }

    #[test]
    fn an_error_of_the_connection_is_told_from_a_refusal_and_shows_its_cause() {
        let cause = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = ClientError::from(Status::from_error(Box::new(cause)));
        assert_eq!(error.kind, ErrorKind::Connect);
        assert_eq!(error.io_kind(), Some(io::ErrorKind::PermissionDenied));
        assert_eq!(error.to_string(), "permission denied");
    }

    #[test]
    fn an_error_without_a_text_still_says_something() {
        assert!(!ClientError::from(Status::new(Code::Unimplemented, "")).to_string().is_empty());
    }
}
