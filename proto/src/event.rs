//! Event: one entry of the log.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    bulk::AnyObject,
    convert::{FromPb, Path, ToPb, parse},
    ids::Uid,
    object::Kind,
    pb,
    problem::Violations,
    text::Name,
    time::Timestamp,
};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its position; grows, with gaps.
    pub seq: i64,
    /// When.
    pub time: Timestamp,
    /// What happened.
    #[serde(rename = "type")]
    pub type_: EventType,
    /// The noun.
    pub kind: Kind,
    /// The object's name.
    pub name: Name,
    /// The object's identity.
    pub uid: Uid,
    /// The object's generation after the event.
    pub generation: i64,
    /// Who asked, e.g. `uid:0` or `token:ci`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Of which request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// As in conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The object after the event; what it was, for `deleted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<AnyObject>,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// It is new.
    Created,
    /// Its intent changed.
    Updated,
    /// It is gone.
    Deleted,
    /// Its condition changed.
    Status,
    /// What others broke was put right.
    DriftRepaired,
    /// A Policy that says `log` has dropped a packet.
    PolicyDrop,
    /// A write was refused.
    Audit,
}

impl EventType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Created => "created",
            EventType::Updated => "updated",
            EventType::Deleted => "deleted",
            EventType::Status => "status",
            EventType::DriftRepaired => "drift_repaired",
            EventType::PolicyDrop => "policy_drop",
            EventType::Audit => "audit",
        }
    }
}

impl FromStr for EventType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "created" => Ok(EventType::Created),
            "updated" => Ok(EventType::Updated),
            "deleted" => Ok(EventType::Deleted),
            "status" => Ok(EventType::Status),
            "drift_repaired" => Ok(EventType::DriftRepaired),
            "policy_drop" => Ok(EventType::PolicyDrop),
            "audit" => Ok(EventType::Audit),
            other => Err(format!(
                "{other:?} is not one of created, updated, deleted, status, drift_repaired, policy_drop, audit"
            )),
        }
    }
}

/// A page of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    /// In the order of `seq`.
    pub items: Vec<Event>,
    /// Ask for the next page with `after` = this.
    pub seq: i64,
}

impl FromPb<pb::Event> for Event {
    fn from_pb(message: pb::Event, at: &Path) -> Result<Self, Violations> {
        let pb::Event {
            seq,
            time,
            r#type,
            kind,
            name,
            uid,
            generation,
            actor,
            request_id,
            reason,
            message,
            object,
        } = message;
        Ok(Self {
            seq,
            time: time.unwrap_or_default().into(),
            type_: parse(&r#type, &at.field("type"))?,
            kind: parse(&kind, &at.field("kind"))?,
            name: parse(&name, &at.field("name"))?,
            uid: parse(&uid, &at.field("uid"))?,
            generation,
            actor,
            request_id,
            reason,
            message,
            object: object.map(|object| AnyObject::from_pb(object, &at.field("object"))).transpose()?,
        })
    }
}

impl ToPb<pb::Event> for Event {
    fn to_pb(&self) -> pb::Event {
        let Self {
            seq,
            time,
            type_,
            kind,
            name,
            uid,
            generation,
            actor,
            request_id,
            reason,
            message,
            object,
        } = self;
        pb::Event {
            seq: *seq,
            time: Some((*time).into()),
            r#type: type_.as_str().to_owned(),
            kind: kind.to_string(),
            name: name.to_string(),
            uid: uid.to_string(),
            generation: *generation,
            actor: actor.clone(),
            request_id: request_id.clone(),
            reason: reason.clone(),
            message: message.clone(),
            object: object.as_ref().map(ToPb::to_pb),
        }
    }
}
