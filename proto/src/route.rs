//! Route: one route in one Namespace, or on the host.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, address, all, optional, required},
    net::{IfName, Prefix},
    object::{Kind, Noun, Status},
    pb,
    problem::Violations,
    text::Name,
};

/// Of a route, when nothing is said; the default routes of Attachments have the same.
pub const METRIC_DEFAULT: u32 = 100;
/// The table that every packet is looked up in.
pub const TABLE_MAIN: u32 = 254;
/// The table of the kernel's own routes to local addresses.
const TABLE_LOCAL: u32 = 255;

/// One route in one Namespace, or on the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Route;

/// What is wanted of a Route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// Which Namespace, or `host`. Immutable.
    pub namespace: Name,
    /// To where: a prefix without host bits; 0.0.0.0/0 and ::/0 are the default routes. Immutable.
    pub destination: Prefix,
    /// Through which neighbour, of the destination's family. Required for unicast unless `interface` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub via: Option<IpAddr>,
    /// By which interface of the Namespace. Unset: the one whose subnet holds `via`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<IfName>,
    /// Of several routes to one destination the lowest wins. Unset: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// The routing table. Unset: 254, the main one. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub table: Option<u32>,
    /// What becomes of packets. Unset: unicast.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<RouteType>,
}

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteType {
    /// Sends them on.
    Unicast,
    /// Drops them; a local sender gets EINVAL.
    Blackhole,
    /// Drops them and says "host unreachable"; a local sender gets EHOSTUNREACH.
    Unreachable,
    /// Drops them and says "administratively prohibited"; a local sender gets EACCES.
    Prohibit,
}

impl RouteType {
    /// The word, as `ip route` and the API say it.
    pub fn as_str(self) -> &'static str {
        match self {
            RouteType::Unicast => "unicast",
            RouteType::Blackhole => "blackhole",
            RouteType::Unreachable => "unreachable",
            RouteType::Prohibit => "prohibit",
        }
    }
}

impl fmt::Display for RouteType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RouteType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = [RouteType::Unicast, RouteType::Blackhole, RouteType::Unreachable, RouteType::Prohibit];
        known
            .into_iter()
            .find(|type_| type_.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not one of unicast, blackhole, unreachable, prohibit"))
    }
}

impl RouteSpec {
    /// The metric in effect.
    pub fn metric(&self) -> u32 {
        self.metric.unwrap_or(METRIC_DEFAULT)
    }

    /// The table in effect.
    pub fn table(&self) -> u32 {
        self.table.unwrap_or(TABLE_MAIN)
    }

    /// The type in effect.
    pub fn type_(&self) -> RouteType {
        self.type_.unwrap_or(RouteType::Unicast)
    }

    /// Whether it is a route of the daemon's own stack.
    pub fn is_of_host(&self) -> bool {
        self.namespace.as_str() == "host"
    }
}

/// What is known of a Route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteStatus {
    /// The interface that it goes through; unset while there is none, and for a route that goes nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<IfName>,
    /// In effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// In effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// In effect.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<RouteType>,
}

impl Noun for Route {
    const KIND: Kind = Kind::Route;
    type Spec = RouteSpec;
    type Status = RouteStatus;

    fn validate(spec: &RouteSpec, at: &Path) -> Result<(), Violations> {
        let mut wrong = Violations::default();
        let v4 = spec.destination.net().addr().is_ipv4();
        match spec.type_() {
            RouteType::Unicast if spec.via.is_none() && spec.interface.is_none() => {
                wrong.add(at.field("via").to_string(), "is required, unless an interface is given");
            }
            RouteType::Unicast => {}
            type_ => {
                let why = format!("means nothing for a {type_} route, which goes nowhere");
                if spec.via.is_some() {
                    wrong.add(at.field("via").to_string(), &*why);
                }
                if spec.interface.is_some() {
                    wrong.add(at.field("interface").to_string(), why);
                }
            }
        }
        if let Some(why) = wrong_destination(spec.destination) {
            wrong.add(at.field("destination").to_string(), why);
        }
        if let Some(why) = spec.via.and_then(|via| wrong_gateway(via, spec)) {
            wrong.add(at.field("via").to_string(), why);
        }
        if spec.metric == Some(0) && !v4 {
            let why = "0 means 1024 to Linux for IPv6; write 1024, or 1 for the first place";
            wrong.add(at.field("metric").to_string(), why);
        }
        match spec.table {
            Some(0) => wrong.add(at.field("table").to_string(), "must be at least 1"),
            Some(TABLE_LOCAL) => {
                wrong.add(
                    at.field("table").to_string(),
                    "255 holds the kernel's own routes to local addresses",
                );
            }
            Some(_) | None => {}
        }
        wrong.into_result(())
    }
}

fn wrong_destination(destination: Prefix) -> Option<&'static str> {
    match destination.net().network() {
        first if first.is_multicast() => Some("is a multicast range"),
        first if first.is_loopback() => Some("is in the loopback range"),
        IpAddr::V4(first) if first.is_broadcast() => Some("is the broadcast address"),
        IpAddr::V6(first) if first.is_unicast_link_local() => Some("is a link-local range"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

fn wrong_gateway(via: IpAddr, spec: &RouteSpec) -> Option<String> {
    let destination = spec.destination;
    if via.is_ipv4() != destination.net().addr().is_ipv4() {
        let family = |v4| if v4 { "IPv4" } else { "IPv6" };
        let (has, needs) = (family(via.is_ipv4()), family(!via.is_ipv4()));
        return Some(format!("{via} is {has}, but {destination} needs an {needs} gateway"));
    }
    match via {
        _ if via.is_unspecified() => Some("is no neighbour's address".into()),
        _ if via.is_multicast() => Some("is a multicast address".into()),
        _ if via.is_loopback() => Some("is a loopback address".into()),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("is the broadcast address".into()),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("is an IPv4-mapped address".into()),
        IpAddr::V6(v6) if v6.is_unicast_link_local() && spec.interface.is_none() => {
            Some("is a link-local address, which needs an interface".into())
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

impl FromPb<pb::RouteSpec> for RouteSpec {
    fn from_pb(message: pb::RouteSpec, at: &Path) -> Result<Self, Violations> {
        let pb::RouteSpec { namespace, destination, via, interface, metric, table, r#type } = message;
        Ok(Self {
            namespace: required(&namespace, &at.field("namespace"))?,
            destination: required(&destination, &at.field("destination"))?,
            via: via.map(|text| address(&text, &at.field("via"))).transpose()?,
            interface: optional(interface, &at.field("interface"))?,
            metric,
            table,
            type_: optional(r#type, &at.field("type"))?,
        })
    }
}

impl ToPb<pb::RouteSpec> for RouteSpec {
    fn to_pb(&self) -> pb::RouteSpec {
        let Self { namespace, destination, via, interface, metric, table, type_ } = self;
        pb::RouteSpec {
            namespace: namespace.to_string(),
            destination: destination.to_string(),
            via: via.as_ref().map(IpAddr::to_string),
            interface: interface.as_ref().map(IfName::to_string),
            metric: *metric,
            table: *table,
            r#type: type_.as_ref().map(RouteType::to_string),
        }
    }
}

impl FromPb<pb::RouteStatus> for Status<RouteStatus> {
    fn from_pb(message: pb::RouteStatus, at: &Path) -> Result<Self, Violations> {
        let pb::RouteStatus { observed_generation, conditions, device, metric, table, r#type } = message;
        let noun = RouteStatus {
            device: optional(device, &at.field("device"))?,
            metric,
            table,
            type_: optional(r#type, &at.field("type"))?,
        };
        Status::read(observed_generation, conditions, noun, at)
    }
}

impl ToPb<pb::RouteStatus> for Status<RouteStatus> {
    fn to_pb(&self) -> pb::RouteStatus {
        let Status { observed_generation, conditions, noun: RouteStatus { device, metric, table, type_ } } =
            self;
        pb::RouteStatus {
            observed_generation: *observed_generation,
            conditions: all(conditions),
            device: device.as_ref().map(IfName::to_string),
            metric: *metric,
            table: *table,
            r#type: type_.as_ref().map(RouteType::to_string),
        }
    }
}

crate::envelope::envelope!(Route, route);
