//! Namespace: a named network stack.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb},
    object::{Kind, Noun, Status},
    pb,
    problem::Violations,
};

/// A named network stack under `/run/netns`, as `ip netns` sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Namespace;

/// netloom makes and pins the namespace; nothing has to be said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceSpec {}

/// What is known of a Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamespaceStatus {
    /// Where it is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The kernel's cookie of the namespace (SO_NETNS_COOKIE); unique until the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// How many Attachments it has.
    pub attachments: u32,
}

impl Noun for Namespace {
    const KIND: Kind = Kind::Namespace;
    type Spec = NamespaceSpec;
    type Status = NamespaceStatus;

    fn validate(spec: &NamespaceSpec, _at: &Path) -> Result<(), Violations> {
        let NamespaceSpec {} = spec;
        Ok(())
    }
}

impl FromPb<pb::NamespaceSpec> for NamespaceSpec {
    fn from_pb(message: pb::NamespaceSpec, _at: &Path) -> Result<Self, Violations> {
        let pb::NamespaceSpec {} = message;
        Ok(Self {})
    }
}

impl ToPb<pb::NamespaceSpec> for NamespaceSpec {
    fn to_pb(&self) -> pb::NamespaceSpec {
        let Self {} = self;
        pb::NamespaceSpec {}
    }
}

impl FromPb<pb::NamespaceStatus> for Status<NamespaceStatus> {
    fn from_pb(message: pb::NamespaceStatus, at: &Path) -> Result<Self, Violations> {
        let pb::NamespaceStatus { observed_generation, conditions, path, cookie, attachments } = message;
        let noun = NamespaceStatus { path, cookie, attachments };
        Status::read(observed_generation, conditions, noun, at)
    }
}

impl ToPb<pb::NamespaceStatus> for Status<NamespaceStatus> {
    fn to_pb(&self) -> pb::NamespaceStatus {
        let Status { observed_generation, conditions, noun: NamespaceStatus { path, cookie, attachments } } =
            self;
        pb::NamespaceStatus {
            observed_generation: *observed_generation,
            conditions: crate::convert::all(conditions),
            path: path.clone(),
            cookie: *cookie,
            attachments: *attachments,
        }
    }
}

crate::envelope::envelope!(Namespace, namespace);
