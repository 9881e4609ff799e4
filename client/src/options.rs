//! What a caller may say beside the object itself. The default of each is the daemon's.

use std::time::Duration;

use netloom_api::{Etag, EventType, Kind, Labels, Name, Owner, RequestId, pb};

/// Which objects a list holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListOptions {
    /// At most 1 000. Unset: 100.
    pub page_size: Option<u16>,
    /// `next_page_token` of the page before.
    pub page_token: Option<String>,
    /// Only of this owner.
    pub owner: Option<Owner>,
    /// Only with all of these labels.
    pub labels: Labels,
    /// Only of this Namespace; for Attachments, PortForwards, Links and Routes.
    pub namespace: Option<Name>,
    /// Only of this Network; for Attachments, PortForwards, Reservations and Policies.
    pub network: Option<Name>,
}

/// How a write is done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteOptions {
    /// How long the reply may wait until the object is Ready or has failed. Unset: 5 s. Zero: do not wait. At most 60 s.
    pub wait: Option<Duration>,
    /// Check and plan, keep nothing; the reply carries the plan.
    pub dry_run: bool,
    /// Makes a retry safe: the same key and request answer with the object that the first call made.
    pub request_id: Option<RequestId>,
    /// Do what is refused without it because it may cut the host off.
    pub force: bool,
}

/// How an object is changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateOptions {
    /// Paths such as `labels` or `spec.mtu`; a masked field that is unset is removed. Empty: those that are set.
    pub mask: Vec<String>,
    /// Create the object when it does not exist.
    pub allow_missing: bool,
    /// Refuse when the object is another version.
    pub etag: Option<Etag>,
    /// As for every write.
    pub write: WriteOptions,
}

/// How an object is deleted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeleteOptions {
    /// Refuse when the object is another version.
    pub etag: Option<Etag>,
    /// Delete what depends on it too.
    pub force: bool,
    /// Succeed when it does not exist.
    pub allow_missing: bool,
    /// As for every write.
    pub write: WriteOptions,
}

/// Which addresses a list of allocations holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllocationQuery {
    /// At most 1 000. Unset: 100.
    pub page_size: Option<u16>,
    /// `next_page_token` of the page before.
    pub page_token: Option<String>,
    /// Only of this Network.
    pub network: Option<Name>,
}

/// Which events a page holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventQuery {
    /// Only after this position. Unset: from the oldest that is kept.
    pub after: Option<i64>,
    /// At most 1 000. Unset: 100.
    pub page_size: Option<u16>,
    /// Only of these kinds. Empty: all.
    pub kinds: Vec<Kind>,
    /// Only of objects with this name.
    pub name: Option<Name>,
    /// Only of these types. Empty: all.
    pub types: Vec<EventType>,
    /// Only of what this caller asked for, e.g. `token:ci`.
    pub actor: Option<String>,
}

/// Which events are followed.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchOptions {
    /// Only after this position. Unset: those from now on.
    pub after: Option<i64>,
    /// Only of these kinds. Empty: all.
    pub kinds: Vec<Kind>,
    /// Only of objects with this name.
    pub name: Option<Name>,
    /// Only of these types. Empty: all.
    pub types: Vec<EventType>,
    /// Only of what this caller asked for, e.g. `token:ci`.
    pub actor: Option<String>,
    /// First one `created` event per object that exists, then what follows.
    pub initial: bool,
    /// How long the daemon may be away before the stream ends with an error.
    pub patience: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            after: None,
            kinds: Vec::new(),
            name: None,
            types: Vec::new(),
            actor: None,
            initial: false,
            patience: Duration::from_secs(60),
        }
    }
}

impl WriteOptions {
    pub(crate) fn to_pb(&self) -> pb::WriteOptions {
        let Self { wait, dry_run, request_id, force } = self;
        // What is too long for the wire is far above the daemon's limit, which then says so.
        let longest = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
        pb::WriteOptions {
            request_id: request_id.as_ref().map(RequestId::to_string),
            wait: wait.map(|wait| prost_types::Duration::try_from(wait).unwrap_or(longest)),
            dry_run: dry_run.then_some(true),
            force: force.then_some(true),
        }
    }
}

impl EventQuery {
    pub(crate) fn to_pb(&self) -> pb::ListEventsRequest {
        let Self { after, page_size, kinds, name, types, actor } = self;
        pb::ListEventsRequest {
            after: *after,
            page_size: page_size.map(i32::from),
            kinds: kinds.iter().map(Kind::to_string).collect(),
            name: name.as_ref().map(Name::to_string),
            types: types.iter().map(|type_| type_.as_str().to_owned()).collect(),
            actor: actor.clone(),
        }
    }
}

impl WatchOptions {
    pub(crate) fn to_pb(&self) -> pb::WatchEventsRequest {
        let Self { after, kinds, name, types, actor, initial, patience: _ } = self;
        pb::WatchEventsRequest {
            after: *after,
            kinds: kinds.iter().map(Kind::to_string).collect(),
            name: name.as_ref().map(Name::to_string),
            types: types.iter().map(|type_| type_.as_str().to_owned()).collect(),
            initial: *initial,
            actor: actor.clone(),
        }
    }
}
