//! One error, two protocols: what a caller may branch on, and how each door says it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema::text_schema;

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Violation {
    /// Path of the field, e.g. `spec.subnets[0].gateway`; empty for the request as a whole.
    pub field: String,
    /// What is wrong, and the fix where there is one.
    pub description: String,
}

/// All that is wrong with a request's shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    /// A single violation.
    pub fn one(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self(vec![Violation { field: field.into(), description: description.into() }])
    }

    /// Adds one.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation { field: field.into(), description: description.into() });
    }

    /// `value` if nothing was added.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

/// Makes the enum of reasons with their one table: text, HTTP status, gRPC code, title.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $text:literal $http:literal $grpc:ident $title:literal,)*) => {
        /// The closed list of reasons of an error. Reasons are API; titles and details are not.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorReason {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl ErrorReason {
            /// Every reason, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$name => $http,)* }
            }

            /// The gRPC code.
            pub fn grpc_code(self) -> tonic::Code {
                match self { $(Self::$name => tonic::Code::$grpc,)* }
            }

            /// A few words for people.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

// Derived, the schema would hold the names of the variants: the derive does not see a renaming inside a macro.
text_schema!(ErrorReason, |string| {
    let words = ErrorReason::ALL.iter().map(|reason| reason.as_str());
    string.enum_values(Some(words)).description(Some("What to branch on."))
});

reasons! {
    /// A field's value is not acceptable by itself.
    InvalidArgument "INVALID_ARGUMENT" 400 InvalidArgument "The request is not valid",
    /// The request cannot be read at all: no JSON, a wrong type, an unknown field or parameter.
    Malformed "MALFORMED" 400 InvalidArgument "The request cannot be read",
    /// The caller did not say who it is, or not truly.
    Unauthenticated "UNAUTHENTICATED" 401 Unauthenticated "Credentials are needed",
    /// The caller may not do this.
    PermissionDenied "PERMISSION_DENIED" 403 PermissionDenied "Not allowed",
    /// There is no object of this kind and name.
    NotFound "NOT_FOUND" 404 NotFound "No such object",
    /// The path or service does not exist.
    NoSuchMethod "NO_SUCH_METHOD" 404 Unimplemented "No such path",
    /// The path exists, the method does not.
    MethodNotAllowed "METHOD_NOT_ALLOWED" 405 Unimplemented "Not that method",
    /// The body or the headers did not arrive in time.
    TooSlow "TOO_SLOW" 408 DeadlineExceeded "The request did not arrive in time",
    /// An object of this kind has the name.
    AlreadyExists "ALREADY_EXISTS" 409 AlreadyExists "The name is in use",
    /// An object of this name is being deleted; ask again.
    BeingDeleted "BEING_DELETED" 409 FailedPrecondition "The object is being deleted",
    /// Other objects need this one.
    HasDependents "HAS_DEPENDENTS" 409 FailedPrecondition "Other objects depend on it",
    /// The request names an object that does not exist.
    ReferenceNotFound "REFERENCE_NOT_FOUND" 409 FailedPrecondition "It refers to an object that does not exist",
    /// Another owner holds the object.
    OwnedByOther "OWNED_BY_OTHER" 409 FailedPrecondition "Another owner holds it",
    /// A subnet overlaps another network, a pool or a route of the host.
    Overlap "OVERLAP" 409 FailedPrecondition "The subnet overlaps another",
    /// The address belongs to somebody else.
    AddressTaken "ADDRESS_TAKEN" 409 FailedPrecondition "The address is in use",
    /// The MAC address belongs to another member of the network.
    MacTaken "MAC_TAKEN" 409 FailedPrecondition "The MAC address is in use",
    /// The interface name is in use in the namespace, or the device name on the host.
    DeviceTaken "DEVICE_TAKEN" 409 FailedPrecondition "The device name is in use",
    /// The network namespace is the host's own, is managed, or is adopted by another object.
    NamespaceTaken "NAMESPACE_TAKEN" 409 FailedPrecondition "The network namespace is taken",
    /// Processes are inside of the namespace; metadata names them.
    NamespaceInUse "NAMESPACE_IN_USE" 409 FailedPrecondition "Processes are inside of the namespace",
    /// A host port is published or used by another process.
    PortTaken "PORT_TAKEN" 409 FailedPrecondition "The port is in use",
    /// Another route has the same namespace, table, destination and metric.
    RouteTaken "ROUTE_TAKEN" 409 FailedPrecondition "There is such a route already",
    /// A gateway is in no subnet that can be reached without one; metadata has the subnets.
    GatewayUnreachable "GATEWAY_UNREACHABLE" 409 FailedPrecondition "The gateway cannot be reached",
    /// It may cut the host off, so it must be forced.
    NeedsForce "NEEDS_FORCE" 409 FailedPrecondition "It needs force",
    /// A policy selects a member of a network whose spoof guard is off; metadata names all three.
    SpoofGuardOff "SPOOF_GUARD_OFF" 409 FailedPrecondition "A policy needs the spoof guard",
    /// No address, subnet or port is left to choose.
    PoolExhausted "POOL_EXHAUSTED" 409 ResourceExhausted "Nothing is left to choose from",
    /// The event position is no longer kept; list again.
    Expired "EXPIRED" 410 OutOfRange "The position is no longer kept",
    /// The object has changed since the etag was read.
    EtagMismatch "ETAG_MISMATCH" 412 Aborted "The object has changed",
    /// Intent has changed since the revision was read.
    RevisionMismatch "REVISION_MISMATCH" 412 Aborted "Intent has changed",
    /// The body is larger than the limit.
    TooLarge "TOO_LARGE" 413 ResourceExhausted "The request is too large",
    /// The body is not of a type that is understood.
    UnsupportedMediaType "UNSUPPORTED_MEDIA_TYPE" 415 InvalidArgument "Not that content type",
    /// The field cannot change; make a new object.
    ImmutableField "IMMUTABLE_FIELD" 422 InvalidArgument "The field cannot change",
    /// The key was used for another request.
    IdempotencyMismatch "IDEMPOTENCY_MISMATCH" 422 InvalidArgument "The idempotency key was used for another request",
    /// What is asked for is not possible on Linux or in this netloom.
    Unsupported "UNSUPPORTED" 422 FailedPrecondition "Not supported",
    /// The kernel refused; metadata has the errno.
    KernelError "KERNEL_ERROR" 422 FailedPrecondition "The kernel refused",
    /// The reader was too slow for the stream.
    SlowReader "SLOW_READER" 429 ResourceExhausted "The reader is too slow",
    /// The caller has too much going on at once; try again when some of it has ended.
    TooManyRequests "TOO_MANY_REQUESTS" 429 ResourceExhausted "Too much at once",
    /// A defect of netloom.
    Internal "INTERNAL" 500 Internal "An error inside netloom",
    /// The daemon starts, stops, or cannot write its database.
    Unavailable "UNAVAILABLE" 503 Unavailable "Not available now",
}

/// An RFC 9457 problem: the body of every REST error, with `Content-Type: application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:netloom/<REASON>`.
    #[serde(rename = "type")]
    pub type_: String,
    /// A few words for people.
    pub title: String,
    /// The HTTP status again.
    pub status: u16,
    /// What happened to this request.
    pub detail: String,
    /// What to branch on.
    pub reason: ErrorReason,
    /// Values by documented key, e.g. `errno`, `conflict`, `dependents`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Which fields are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// The request's id, as in the log.
    pub request_id: String,
}

impl Problem {
    /// A problem without metadata or violations.
    pub fn new(reason: ErrorReason, detail: impl Into<String>, request_id: impl Into<String>) -> Self {
        Self {
            type_: format!("about:netloom/{}", reason.as_str()),
            title: reason.title().to_owned(),
            status: reason.http_status(),
            detail: detail.into(),
            reason,
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            request_id: request_id.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As gRPC writes a code: `FAILED_PRECONDITION`.
    fn code_word(code: tonic::Code) -> String {
        let mut word = String::new();
        for (index, letter) in format!("{code:?}").chars().enumerate() {
            if index > 0 && letter.is_uppercase() {
                word.push('_');
            }
            word.push(letter.to_ascii_uppercase());
        }
        word
    }

    #[test]
    fn the_schema_has_the_words_of_the_wire() {
        let schema = serde_json::to_value(<ErrorReason as utoipa::PartialSchema>::schema()).unwrap();
        let wire: Vec<_> = ErrorReason::ALL.iter().map(|reason| serde_json::json!(reason)).collect();
        assert_eq!(schema["enum"], serde_json::Value::Array(wire));
    }

    #[test]
    fn the_documented_reasons_are_all_reasons_and_say_the_same() {
        let page = include_str!("../../docs/api.md");
        let row = |reason: &ErrorReason| {
            let (text, http, grpc) = (reason.as_str(), reason.http_status(), code_word(reason.grpc_code()));
            format!("| `{text}` | {http} | {grpc} | ")
        };
        for reason in ErrorReason::ALL {
            assert!(page.contains(&row(reason)), "docs/api.md has no row {}", row(reason));
        }
        let rows = page.split("| reason | HTTP |").nth(1).unwrap_or_default().lines().skip(2).count();
        assert_eq!(rows, ErrorReason::ALL.len(), "docs/api.md has rows of reasons that do not exist");
    }
}
