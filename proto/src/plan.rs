//! What a change does, or would do: to objects, and in the kernel.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, all, list, message, parse},
    object::Kind,
    pb,
    problem::{ErrorReason, Violation, Violations},
    text::Name,
};

/// What a write changes: intent first, then the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// One per object, in the order of the request; then what is pruned.
    #[serde(default)]
    pub changes: Vec<PlannedChange>,
    /// The kernel steps in order, in the words of `ip` and `nft`.
    #[serde(default)]
    pub steps: Vec<String>,
    /// The same steps for programs, in the same order.
    #[serde(default)]
    pub operations: Vec<PlannedStep>,
}

/// The reply to a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanResponse {
    /// What would change.
    pub plan: Plan,
    /// The database's count of intent that the plan is for; an apply can expect it.
    pub revision: i64,
}

/// One kernel step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedStep {
    /// What it does, e.g. `create_cable` or `add_rule`.
    pub action: String,
    /// The noun of the object that it is for; none when it is for the host as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The object's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// The fate of one object in a plan or an apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedChange {
    /// What happens to it.
    pub action: Action,
    /// The noun.
    pub kind: Kind,
    /// The object's name.
    pub name: Name,
    /// Of an update: what changes, e.g. `labels` or `spec.mtu`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ObjectError>,
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is new.
    Created,
    /// Its intent changes.
    Updated,
    /// It goes.
    Deleted,
    /// It is already so.
    Unchanged,
    /// It cannot be, and the others go on without it.
    Failed,
}

/// Why one object of many could not be as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObjectError {
    /// What to branch on.
    pub reason: ErrorReason,
    /// What happened, for people.
    pub detail: String,
    /// Values by documented key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Which fields are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
}

impl Action {
    const ALL: [Self; 5] =
        [Action::Created, Action::Updated, Action::Deleted, Action::Unchanged, Action::Failed];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Created => "created",
            Action::Updated => "updated",
            Action::Deleted => "deleted",
            Action::Unchanged => "unchanged",
            Action::Failed => "failed",
        }
    }
}

impl FromStr for Action {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Action::ALL.into_iter().find(|action| action.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is not an action"))
    }
}

impl FromPb<pb::Plan> for Plan {
    fn from_pb(message: pb::Plan, at: &Path) -> Result<Self, Violations> {
        let pb::Plan { changes, steps, operations } = message;
        Ok(Self {
            changes: list(changes, &at.field("changes"))?,
            steps,
            operations: list(operations, &at.field("operations"))?,
        })
    }
}

impl ToPb<pb::Plan> for Plan {
    fn to_pb(&self) -> pb::Plan {
        let Self { changes, steps, operations } = self;
        pb::Plan { changes: all(changes), steps: steps.clone(), operations: all(operations) }
    }
}

impl FromPb<pb::PlanResponse> for PlanResponse {
    fn from_pb(reply: pb::PlanResponse, at: &Path) -> Result<Self, Violations> {
        let pb::PlanResponse { plan, revision } = reply;
        Ok(Self { plan: message(plan, &at.field("plan"))?, revision })
    }
}

impl ToPb<pb::PlanResponse> for PlanResponse {
    fn to_pb(&self) -> pb::PlanResponse {
        let Self { plan, revision } = self;
        pb::PlanResponse { plan: Some(plan.to_pb()), revision: *revision }
    }
}

impl FromPb<pb::PlannedStep> for PlannedStep {
    fn from_pb(message: pb::PlannedStep, at: &Path) -> Result<Self, Violations> {
        let pb::PlannedStep { action, kind, name } = message;
        let said = |text: &String| !text.is_empty();
        Ok(Self {
            action,
            kind: Some(kind).filter(said).map(|kind| parse(&kind, &at.field("kind"))).transpose()?,
            name: Some(name).filter(said).map(|name| parse(&name, &at.field("name"))).transpose()?,
        })
    }
}

impl ToPb<pb::PlannedStep> for PlannedStep {
    fn to_pb(&self) -> pb::PlannedStep {
        let Self { action, kind, name } = self;
        pb::PlannedStep {
            action: action.clone(),
            kind: kind.map(|kind| kind.to_string()).unwrap_or_default(),
            name: name.as_ref().map(Name::to_string).unwrap_or_default(),
        }
    }
}

impl FromPb<pb::PlannedChange> for PlannedChange {
    fn from_pb(message: pb::PlannedChange, at: &Path) -> Result<Self, Violations> {
        let pb::PlannedChange { action, kind, name, fields, error } = message;
        Ok(Self {
            action: parse(&action, &at.field("action"))?,
            kind: parse(&kind, &at.field("kind"))?,
            name: parse(&name, &at.field("name"))?,
            fields,
            error: error.map(|error| ObjectError::from_pb(error, &at.field("error"))).transpose()?,
        })
    }
}

impl ToPb<pb::PlannedChange> for PlannedChange {
    fn to_pb(&self) -> pb::PlannedChange {
        let Self { action, kind, name, fields, error } = self;
        pb::PlannedChange {
            action: action.as_str().to_owned(),
            kind: kind.to_string(),
            name: name.to_string(),
            fields: fields.clone(),
            error: error.as_ref().map(ToPb::to_pb),
        }
    }
}

impl FromPb<pb::ObjectError> for ObjectError {
    fn from_pb(message: pb::ObjectError, at: &Path) -> Result<Self, Violations> {
        let pb::ObjectError { reason, detail, metadata, violations } = message;
        let known = ErrorReason::ALL.iter().find(|one| one.as_str() == reason);
        let unknown = || Violations::one(at.field("reason").to_string(), "is not a known reason");
        let violations = violations.into_iter().map(|one| {
            let pb::FieldError { field, description } = one;
            Violation { field, description }
        });
        Ok(Self {
            reason: *known.ok_or_else(unknown)?,
            detail,
            metadata: metadata.into_iter().collect(),
            violations: violations.collect(),
        })
    }
}

impl ToPb<pb::ObjectError> for ObjectError {
    fn to_pb(&self) -> pb::ObjectError {
        let Self { reason, detail, metadata, violations } = self;
        let violation = |one: &Violation| {
            let Violation { field, description } = one.clone();
            pb::FieldError { field, description }
        };
        pb::ObjectError {
            reason: reason.as_str().to_owned(),
            detail: detail.clone(),
            metadata: metadata.clone().into_iter().collect(),
            violations: violations.iter().map(violation).collect(),
        }
    }
}
