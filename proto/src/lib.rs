//! The words of netloom: the messages of the gRPC API, and the types that REST bodies and both doors share.
//!
//! A value of these types has a valid shape: a [`Name`] is a label, a [`Cidr`] has no host bits, a [`NetworkSpec`] has
//! its gateways inside its subnets. Whether it makes sense beside other objects is the daemon's to say.
//! Every conversion from and to the generated messages in [`pb`] names every field, so that a new field does not
//! compile until both directions carry it.

mod allocation;
mod attachment;
mod bandwidth;
mod bulk;
mod convert;
#[cfg(test)]
mod descriptor;
mod diagnose;
#[cfg(feature = "documents")]
mod documents;
mod envelope;
mod event;
#[cfg(test)]
#[cfg(feature = "documents")]
mod fuzz;
mod ids;
mod link;
mod namespace;
mod net;
mod network;
mod object;
mod plan;
mod policy;
mod port_forward;
mod problem;
mod reservation;
mod route;
mod schema;
mod state;
mod strict;
mod sysctl;
mod text;
mod time;
mod topology;

pub use allocation::{Allocation, Holder};
pub use attachment::{Attachment, AttachmentSpec, AttachmentStatus};
pub use bandwidth::{BURST_MAX, Bandwidth, FRAME_HEADER, RATE_MAX, RATE_MIN, RateLimit};
pub use bulk::{AnyDraft, AnyObject, ApplyRequest, ApplyResponse, Export, ExportObject, ListPage};
pub use convert::{FromPb, Path, ToPb};
pub use diagnose::{
    Check, CheckId, CheckStatus, DiagnoseProtocol, DiagnoseRequest, DiagnoseResponse, End, Finding,
};
#[cfg(feature = "documents")]
pub use documents::{DocumentError, Documents};
pub use event::{Event, EventPage, EventType};
pub use ids::{Etag, RequestId, Uid};
pub use link::{Link, LinkEnd, LinkEndStatus, LinkSpec, LinkStatus};
pub use namespace::{AdoptedSource, Namespace, NamespaceSource, NamespaceSpec, NamespaceStatus};
pub use net::{Cidr, IfName, InterfaceAddress, Mac, Prefix};
pub use network::{
    AddressRange, BridgeKind, Egress, Isolation, MTU_DEFAULT, NatEgress, Network, NetworkKind, NetworkSpec,
    NetworkStatus, NoOptions, Subnet, SubnetStatus,
};
pub use object::{
    Condition, ConditionReason, ConditionStatus, Draft, KIND_NAMES, Kind, Meta, Noun, OUTPUT_ONLY, Object,
    Status,
};
pub use plan::{Action, ObjectError, Plan, PlanResponse, PlannedChange, PlannedStep};
pub use policy::{
    Direction, MAX_ENTRIES, MAX_EXCEPT, MAX_PEERS, MAX_PORTS, MAX_RULES, PeerKind, Policy, PolicyPeer,
    PolicyPort, PolicyProtocol, PolicyRule, PolicySelector, PolicySpec, PolicyStatus,
};
pub use port_forward::{
    Listen, MAX_RANGE_PORTS, MAX_SOURCES, PortForward, PortForwardSpec, PortForwardStatus, PortRange,
    Protocol, Target,
};
pub use problem::{ErrorReason, Problem, Violation, Violations};
pub use reservation::{Reservation, ReservationSpec, ReservationStatus};
pub use route::{METRIC_DEFAULT, Route, RouteSpec, RouteStatus, RouteType, TABLE_MAIN};
pub use state::{InterfaceState, NamespaceState, NeighbourState, ProcessState, RouteState, Version};
pub use sysctl::{SysctlKey, Sysctls};
pub use text::{Annotations, Labels, Name, NetnsPath, Note, Owner};
pub use time::Timestamp;
#[cfg(feature = "drawings")]
pub use topology::TopologyFormat;
pub use topology::{Topology, TopologyEdge, TopologyEdgeKind, TopologyNode, TopologyNodeKind};

/// The generated messages, clients and servers of `netloom.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod pb {
    tonic::include_proto!("netloom.v1");

    /// The descriptors of all of `netloom.v1`, for gRPC reflection and golden checks.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netloom.bin"));
}
