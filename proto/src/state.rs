//! What the kernel has, in its own words; nothing here is intent.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, all, list},
    pb,
    problem::Violations,
};

/// The kernel's own words about one network stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamespaceState {
    /// A Namespace, or `host`.
    pub name: String,
    /// In the order of their indices.
    pub interfaces: Vec<InterfaceState>,
    /// In the order of the kernel.
    pub routes: Vec<RouteState>,
    /// In the order of the kernel.
    pub neighbours: Vec<NeighbourState>,
    /// netloom's firewall elements that concern it, in the words of `nft`.
    pub rules: Vec<String>,
    /// Processes inside, in the order of their pids, at most 256; empty for `host`, where all others are.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub processes: Vec<ProcessState>,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceState {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// `loopback`, `veth`, `bridge`, …; empty when the kernel names none.
    #[serde(rename = "type")]
    pub type_: String,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// As in `ip link`: `up`, `down`, `lowerlayerdown`, `unknown`, …
    pub operstate: String,
    /// The bridge it is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// With prefix length.
    pub addresses: Vec<String>,
    /// The object that it belongs to, when it is netloom's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteState {
    /// A prefix, `default` for all.
    pub destination: String,
    /// The gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The preferred source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Lower wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// 254 is `main`.
    pub table: u32,
    /// `unicast`, `blackhole`, …
    #[serde(rename = "type")]
    pub type_: String,
    /// As in `ip route`: `kernel`, `boot`, `static`, `netloom` or the number.
    pub protocol: String,
}

/// One neighbour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NeighbourState {
    /// Its address.
    pub address: String,
    /// Behind which interface.
    pub interface: String,
    /// Its MAC address, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// As in `ip neigh`: `reachable`, `stale`, `failed`, …
    pub state: String,
}

/// One process inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessState {
    /// As the daemon numbers processes.
    pub pid: u32,
    /// As the process itself is numbered in its own pid namespace; the same where it has none.
    pub inside_pid: u32,
    /// Its name, at most 15 characters; not its arguments, which may hold secrets.
    pub command: String,
}

/// What runs here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Of the daemon, e.g. `0.1.0`.
    pub version: String,
    /// Of the API: `v1`.
    pub api: String,
    /// The kernel's release, as `uname -r` says.
    pub kernel: String,
}

macro_rules! same_fields {
    ($type:ident { $($field:ident),* $(; $own:ident = $wire:ident)? }) => {
        impl FromPb<pb::$type> for $type {
            fn from_pb(message: pb::$type, _at: &Path) -> Result<Self, Violations> {
                let pb::$type { $($field,)* $($wire: $own,)? } = message;
                Ok(Self { $($field,)* $($own,)? })
            }
        }

        impl ToPb<pb::$type> for $type {
            fn to_pb(&self) -> pb::$type {
                let Self { $($field,)* $($own,)? } = self.clone();
                pb::$type { $($field,)* $($wire: $own,)? }
            }
        }
    };
}

same_fields!(InterfaceState { ifindex, name, mac, mtu, up, operstate, master, addresses, owner; type_ = r#type });
same_fields!(RouteState { destination, via, interface, source, metric, table, protocol; type_ = r#type });
same_fields!(NeighbourState { address, interface, mac, state });
same_fields!(ProcessState { pid, inside_pid, command });
same_fields!(Version { version, api, kernel });

impl FromPb<pb::NamespaceState> for NamespaceState {
    fn from_pb(message: pb::NamespaceState, at: &Path) -> Result<Self, Violations> {
        let pb::NamespaceState { name, interfaces, routes, neighbours, rules, processes } = message;
        Ok(Self {
            name,
            interfaces: list(interfaces, &at.field("interfaces"))?,
            routes: list(routes, &at.field("routes"))?,
            neighbours: list(neighbours, &at.field("neighbours"))?,
            rules,
            processes: list(processes, &at.field("processes"))?,
        })
    }
}

impl ToPb<pb::NamespaceState> for NamespaceState {
    fn to_pb(&self) -> pb::NamespaceState {
        let Self { name, interfaces, routes, neighbours, rules, processes } = self;
        pb::NamespaceState {
            name: name.clone(),
            interfaces: all(interfaces),
            routes: all(routes),
            neighbours: all(neighbours),
            rules: rules.clone(),
            processes: all(processes),
        }
    }
}
