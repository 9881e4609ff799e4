//! The errors that a caller can branch on.
//!
//! One type for both doors: [`ErrorReason`] fixes the HTTP status and the gRPC code, so the doors cannot disagree.

use std::{collections::BTreeMap, fmt};

use netloom_api::{ErrorReason, Kind, Name, Problem, Violation, Violations};

/// What a verb answers when it cannot do as asked. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What to branch on.
    pub reason: ErrorReason,
    /// What happened, for people.
    pub detail: String,
    /// Values by documented key.
    pub metadata: BTreeMap<String, String>,
    /// Which fields are wrong.
    pub violations: Vec<Violation>,
}

/// The result of a verb.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The error as that of one object of many.
    pub fn into_one_of_many(self) -> netloom_api::ObjectError {
        let Self { reason, detail, metadata, violations } = self;
        netloom_api::ObjectError { reason, detail, metadata, violations }
    }

    /// An error without metadata or violations.
    pub fn new(reason: ErrorReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), metadata: BTreeMap::new(), violations: Vec::new() }
    }

    /// Adds a value under a documented key.
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says which field is to blame.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.violations.push(Violation { field: field.into(), description: self.detail.clone() });
        self
    }

    /// There is no such object.
    pub fn not_found(kind: Kind, name: impl fmt::Display) -> Self {
        Self::new(ErrorReason::NotFound, format!("there is no {kind} called {name}"))
            .with("kind", kind)
            .with("name", name)
    }

    /// A field names an object that does not exist.
    pub fn no_reference(field: &str, kind: Kind, name: &Name) -> Self {
        let detail = format!("there is no {kind} called {name}; create it first, or send both in one apply");
        Self::new(ErrorReason::ReferenceNotFound, detail).with("kind", kind).with("name", name).at(field)
    }

    /// A field that cannot change was changed.
    pub fn immutable(field: &str, kind: Kind) -> Self {
        let detail = format!("{field} of {kind} objects cannot change; delete it and create it again");
        Self::new(ErrorReason::ImmutableField, detail).at(field)
    }

    /// A defect of netloom: what must hold does not.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(ErrorReason::Internal, detail)
    }

    /// The error as REST says it.
    pub fn to_problem(&self, request_id: &str) -> Problem {
        let mut problem = Problem::new(self.reason, self.detail.clone(), request_id);
        problem.metadata = self.metadata.clone();
        problem.violations = self.violations.clone();
        problem
    }
}

impl From<Violations> for Error {
    fn from(Violations(violations): Violations) -> Self {
        let detail = match violations.as_slice() {
            [one] if one.field.is_empty() => one.description.clone(),
            [one] => format!("{} {}", one.field, one.description),
            all => format!("{} fields are wrong", all.len()),
        };
        Self { violations, ..Self::new(ErrorReason::InvalidArgument, detail) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Error {}
