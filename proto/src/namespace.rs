//! Namespace: a named network stack.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, parse},
    network::NoOptions,
    object::{Kind, Noun, Status},
    pb,
    problem::Violations,
    sysctl::Sysctls,
    text::NetnsPath,
};

/// The most that Linux gives out as a pid.
const PID_MAX: u32 = 1 << 22;

/// A named network stack: one that netloom makes under `/run/netns`, as `ip netns` sees it, or one that exists and is
/// adopted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Namespace;

/// What is wanted of a Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceSpec {
    /// Where the namespace comes from; immutable. Unset: managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<NamespaceSource>,
    /// Kernel settings inside by name, e.g. `net.ipv4.ip_forward`; at most 64. Set before interfaces go up. One that is
    /// taken out goes back to the value from before.
    #[serde(default, skip_serializing_if = "Sysctls::is_empty")]
    pub sysctls: Sysctls,
}

/// Where a namespace comes from: an object with exactly one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceSource {
    /// netloom makes it, pins it under `/run/netns` and deletes it.
    Managed(NoOptions),
    /// It exists, and is somebody else's: never pinned, never deleted.
    Adopted(AdoptedSource),
}

/// How an existing namespace is found, once, at creation: an object with exactly one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdoptedSource {
    /// Below one of the daemon's `adopt_root` directories, without symbolic links.
    Path(NetnsPath),
    /// A process inside, as the daemon numbers processes.
    Pid(u32),
}

impl NamespaceSpec {
    /// How the namespace is found, if it is adopted.
    pub fn adopted(&self) -> Option<&AdoptedSource> {
        match &self.source {
            Some(NamespaceSource::Adopted(adopted)) => Some(adopted),
            Some(NamespaceSource::Managed(NoOptions {})) | None => None,
        }
    }
}

/// What is known of a Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamespaceStatus {
    /// Where it is pinned; unset for one that was adopted by pid.
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

    fn validate(spec: &NamespaceSpec, at: &Path) -> Result<(), Violations> {
        let NamespaceSpec { source: _, sysctls: _ } = spec;
        match spec.adopted() {
            Some(AdoptedSource::Pid(pid)) if !(1..=PID_MAX).contains(pid) => {
                let field = at.field("source").field("adopted").field("pid");
                Err(Violations::one(field.to_string(), format!("must be 1 to {PID_MAX}")))
            }
            Some(AdoptedSource::Pid(_) | AdoptedSource::Path(_)) | None => Ok(()),
        }
    }
}

impl FromPb<pb::NamespaceSpec> for NamespaceSpec {
    fn from_pb(message: pb::NamespaceSpec, at: &Path) -> Result<Self, Violations> {
        let pb::NamespaceSpec { source, sysctls } = message;
        let field = at.field("sysctls").to_string();
        Ok(Self {
            source: source.map(|source| FromPb::from_pb(source, &at.field("source"))).transpose()?,
            sysctls: sysctls.try_into().map_err(|why: String| Violations::one(field, why))?,
        })
    }
}

impl ToPb<pb::NamespaceSpec> for NamespaceSpec {
    fn to_pb(&self) -> pb::NamespaceSpec {
        let Self { source, sysctls } = self;
        pb::NamespaceSpec { source: source.as_ref().map(ToPb::to_pb), sysctls: sysctls.clone().into() }
    }
}

impl FromPb<pb::NamespaceSource> for NamespaceSource {
    fn from_pb(message: pb::NamespaceSource, at: &Path) -> Result<Self, Violations> {
        use pb::namespace_source::Source;
        let pb::NamespaceSource { source } = message;
        match source {
            Some(Source::Managed(pb::ManagedSource {})) => Ok(Self::Managed(NoOptions {})),
            Some(Source::Adopted(adopted)) => {
                Ok(Self::Adopted(FromPb::from_pb(adopted, &at.field("adopted"))?))
            }
            None => Err(Violations::one(at.to_string(), "must have exactly one of managed, adopted")),
        }
    }
}

impl ToPb<pb::NamespaceSource> for NamespaceSource {
    fn to_pb(&self) -> pb::NamespaceSource {
        use pb::namespace_source::Source;
        let source = match self {
            Self::Managed(NoOptions {}) => Source::Managed(pb::ManagedSource {}),
            Self::Adopted(adopted) => Source::Adopted(adopted.to_pb()),
        };
        pb::NamespaceSource { source: Some(source) }
    }
}

impl FromPb<pb::AdoptedSource> for AdoptedSource {
    fn from_pb(message: pb::AdoptedSource, at: &Path) -> Result<Self, Violations> {
        let pb::AdoptedSource { adopted } = message;
        match adopted {
            Some(pb::adopted_source::Adopted::Path(path)) => Ok(Self::Path(parse(&path, &at.field("path"))?)),
            Some(pb::adopted_source::Adopted::Pid(pid)) => Ok(Self::Pid(pid)),
            None => Err(Violations::one(at.to_string(), "must have exactly one of path, pid")),
        }
    }
}

impl ToPb<pb::AdoptedSource> for AdoptedSource {
    fn to_pb(&self) -> pb::AdoptedSource {
        let adopted = match self {
            Self::Path(path) => pb::adopted_source::Adopted::Path(path.to_string()),
            Self::Pid(pid) => pb::adopted_source::Adopted::Pid(*pid),
        };
        pb::AdoptedSource { adopted: Some(adopted) }
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
