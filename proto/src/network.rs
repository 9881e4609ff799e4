//! Network: one layer-2 segment with its subnets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, address, all, list, optional, parse, u16_field},
    net::{Cidr, IfName, Mac},
    object::{Kind, Noun, Status},
    pb,
    problem::Violations,
};

/// One layer-2 segment with its subnets; the host has the gateway address on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network;

/// Bytes of a frame's payload when nothing is said.
pub const MTU_DEFAULT: u16 = 1500;
/// IPv4 needs at least this (RFC 791 hosts must take 576).
const MTU_MIN_V4: u16 = 576;
/// IPv6 needs at least this (RFC 8200 §5).
const MTU_MIN_V6: u16 = 1280;
const SUBNETS_MAX: usize = 8;
const RANGES_MAX: usize = 16;

/// What is wanted of a Network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// How the segment is made. Unset: a bridge with a chosen device name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<NetworkKind>,
    /// At most 8. Unset: one IPv4 subnet from the daemon's pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub subnets: Vec<Subnet>,
    /// How members reach other networks. Unset: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Bytes, 576 to 65535 (1280 and more with an IPv6 subnet). Unset: what the uplink carried when the Network was made,
    /// which is the interface of the default route; 1500 where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 576)]
    pub mtu: Option<u16>,
    /// Who may not talk to whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Drop frames that carry a MAC or address that is not the sender's. Unset: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoof_guard: Option<bool>,
}

/// How a segment is made: an object with exactly one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// A Linux bridge.
    Bridge(BridgeKind),
}

/// A Linux bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeKind {
    /// The bridge's device name. Unset: chosen. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<IfName>,
    /// The bridge is the user's own, and there: ports and gateway addresses are added to it, and nothing else of it is
    /// changed. Unset: false. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<bool>,
}

/// One prefix of a Network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// The prefix in CIDR form, host bits zero. Unset: chosen from the daemon's pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Cidr>,
    /// The host's address in it. Unset: the first usable one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    /// Where addresses are chosen from, at most 16. Unset: the whole subnet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub ranges: Vec<AddressRange>,
}

/// Addresses from `first` to `last`, both included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressRange {
    /// The lowest.
    #[schema(value_type = String)]
    pub first: IpAddr,
    /// The highest.
    #[schema(value_type = String)]
    pub last: IpAddr,
}

/// How members reach other networks: an object with exactly one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// Behind the host's address.
    Nat(NatEgress),
    /// With the member's own address; the LAN must know the way back.
    Routed(NoOptions),
    /// Not at all.
    None(NoOptions),
}

/// Behind an address of the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NatEgress {
    /// The IPv4 address behind which members leave; one of the host's. Unset: that of the uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// The IPv6 address behind which members leave; one of the host's. Unset: that of the uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address_v6: Option<Ipv6Addr>,
}

/// Nothing has to be said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}

/// Who may not talk to whom. Each unset field has its safe value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// Members of the network from each other. Unset: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<bool>,
    /// This network from others; both must say false to talk. Unset: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<bool>,
    /// Members from the host. Unset: true when egress is none, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<bool>,
}

impl NetworkSpec {
    /// The wanted bridge device name.
    pub fn device(&self) -> Option<&IfName> {
        match &self.kind {
            Some(NetworkKind::Bridge(BridgeKind { device, existing: _ })) => device.as_ref(),
            None => None,
        }
    }

    /// Whether the bridge is the user's own.
    pub fn is_existing(&self) -> bool {
        match &self.kind {
            Some(NetworkKind::Bridge(BridgeKind { device: _, existing })) => existing.unwrap_or(false),
            None => false,
        }
    }

    /// The addresses that were chosen for members to leave behind, with the names of their fields.
    pub fn nat_addresses(&self) -> impl Iterator<Item = (&'static str, IpAddr)> + use<> {
        let NatEgress { address, address_v6 } = match self.egress() {
            Egress::Nat(nat) => nat,
            Egress::Routed(NoOptions {}) | Egress::None(NoOptions {}) => NatEgress::default(),
        };
        let v4 = address.map(|address| ("spec.egress.nat.address", address.into()));
        v4.into_iter().chain(address_v6.map(|address| ("spec.egress.nat.address_v6", address.into())))
    }

    /// The egress in effect: none unless said otherwise.
    pub fn egress(&self) -> Egress {
        self.egress.unwrap_or(Egress::None(NoOptions {}))
    }

    /// Whether the spoof guard is on.
    pub fn spoof_guard(&self) -> bool {
        self.spoof_guard.unwrap_or(true)
    }

    /// Whether members are kept from each other.
    pub fn isolates_members(&self) -> bool {
        self.isolation.as_ref().and_then(|isolation| isolation.members).unwrap_or(false)
    }

    /// Whether the network is kept from others.
    pub fn isolates_networks(&self) -> bool {
        self.isolation.as_ref().and_then(|isolation| isolation.networks).unwrap_or(true)
    }

    /// Whether members are kept from the host.
    pub fn isolates_host(&self) -> bool {
        let said = self.isolation.as_ref().and_then(|isolation| isolation.host);
        said.unwrap_or(matches!(self.egress(), Egress::None(_)))
    }
}

/// What is known of a Network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// The bridge's device name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<IfName>,
    /// Its index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The subnets in effect, in the order of the spec.
    #[serde(default)]
    pub subnets: Vec<SubnetStatus>,
    /// How many Attachments it has.
    pub attachments: u32,
}

/// One subnet in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubnetStatus {
    /// The prefix.
    pub cidr: Cidr,
    /// The host's address in it.
    #[schema(value_type = String)]
    pub gateway: IpAddr,
    /// How many addresses can be given out in all. Counts above 2^53-1 are shown as 2^53-1.
    pub size: i64,
    /// How many are in use.
    pub used: i64,
    /// How many are left.
    pub free: i64,
}

impl Noun for Network {
    const KIND: Kind = Kind::Network;
    type Spec = NetworkSpec;
    type Status = NetworkStatus;

    fn validate(spec: &NetworkSpec, at: &Path) -> Result<(), Violations> {
        let mut wrong = Violations::default();
        let subnets = at.field("subnets");
        if spec.subnets.len() > SUBNETS_MAX {
            wrong.add(
                subnets.to_string(),
                format!("has {} entries; at most {SUBNETS_MAX} are allowed", spec.subnets.len()),
            );
        }
        for (index, subnet) in spec.subnets.iter().enumerate() {
            check_subnet(subnet, &subnets.item(index), &mut wrong);
            let earlier = spec.subnets[..index].iter().filter_map(|other| other.cidr);
            if let Some(cidr) = subnet.cidr
                && let Some(other) = earlier.into_iter().find(|other| cidr.overlaps(&other.net()))
            {
                wrong.add(
                    subnets.item(index).field("cidr").to_string(),
                    format!("overlaps {other} of the same network"),
                );
            }
        }
        let has_v6 =
            spec.subnets.iter().filter_map(|subnet| subnet.cidr).any(|cidr| cidr.net().addr().is_ipv6());
        let min = if has_v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
        if spec.mtu.is_some_and(|mtu| mtu < min) {
            wrong.add(
                at.field("mtu").to_string(),
                format!("must be at least {min} for the network's subnets"),
            );
        }
        if spec.is_existing() && spec.device().is_none() {
            let at = at.field("kind").field("bridge").field("device");
            wrong.add(at.to_string(), "is required when the bridge exists");
        }
        wrong.into_result(())
    }
}

/// Gateway and ranges must be hosts of the prefix, in order, and apart from each other.
fn check_subnet(subnet: &Subnet, at: &Path, wrong: &mut Violations) {
    let Some(cidr) = subnet.cidr else {
        if subnet.gateway.is_some() || !subnet.ranges.is_empty() {
            wrong.add(at.field("cidr").to_string(), "is required when gateway or ranges are given");
        }
        return;
    };
    if let Some(gateway) = subnet.gateway
        && !cidr.has_host(gateway)
    {
        let hosts = format!("{} to {}", cidr.first_host(), cidr.last_host());
        wrong.add(
            at.field("gateway").to_string(),
            format!("{gateway} is not a host address of {cidr}, which has {hosts}"),
        );
    }
    if subnet.ranges.len() > RANGES_MAX {
        wrong.add(at.field("ranges").to_string(), format!("has more than {RANGES_MAX} entries"));
    }
    for (index, range) in subnet.ranges.iter().enumerate() {
        let here = at.field("ranges").item(index);
        for (field, address) in [("first", range.first), ("last", range.last)] {
            if !cidr.has_host(address) {
                wrong
                    .add(here.field(field).to_string(), format!("{address} is not a host address of {cidr}"));
            }
        }
        if range.first > range.last {
            wrong.add(here.to_string(), format!("is reversed: {} is above {}", range.first, range.last));
        }
        let overlap = |other: &AddressRange| range.first <= other.last && other.first <= range.last;
        if subnet.ranges[..index].iter().any(overlap) {
            wrong.add(here.to_string(), "overlaps an earlier range");
        }
    }
}

impl FromPb<pb::NetworkSpec> for NetworkSpec {
    fn from_pb(message: pb::NetworkSpec, at: &Path) -> Result<Self, Violations> {
        let pb::NetworkSpec { kind, subnets, egress, mtu, isolation, spoof_guard } = message;
        Ok(Self {
            kind: kind.map(|kind| NetworkKind::from_pb(kind, &at.field("kind"))).transpose()?,
            subnets: list(subnets, &at.field("subnets"))?,
            egress: egress.map(|egress| Egress::from_pb(egress, &at.field("egress"))).transpose()?,
            mtu: mtu.map(|mtu| u16_field(mtu, &at.field("mtu"))).transpose()?,
            isolation: isolation.map(|isolation| Isolation::from_pb(isolation, at)).transpose()?,
            spoof_guard,
        })
    }
}

impl ToPb<pb::NetworkSpec> for NetworkSpec {
    fn to_pb(&self) -> pb::NetworkSpec {
        let Self { kind, subnets, egress, mtu, isolation, spoof_guard } = self;
        pb::NetworkSpec {
            kind: kind.as_ref().map(ToPb::to_pb),
            subnets: all(subnets),
            egress: egress.as_ref().map(ToPb::to_pb),
            mtu: mtu.map(u32::from),
            isolation: isolation.as_ref().map(ToPb::to_pb),
            spoof_guard: *spoof_guard,
        }
    }
}

impl FromPb<pb::NetworkKind> for NetworkKind {
    fn from_pb(message: pb::NetworkKind, at: &Path) -> Result<Self, Violations> {
        let pb::NetworkKind { kind } = message;
        match kind {
            Some(pb::network_kind::Kind::Bridge(pb::BridgeKind { device, existing })) => {
                let at = at.field("bridge").field("device");
                Ok(NetworkKind::Bridge(BridgeKind { device: optional(device, &at)?, existing }))
            }
            None => Err(Violations::one(at.to_string(), "must have exactly one of bridge")),
        }
    }
}

impl ToPb<pb::NetworkKind> for NetworkKind {
    fn to_pb(&self) -> pb::NetworkKind {
        let kind = match self {
            NetworkKind::Bridge(BridgeKind { device, existing }) => {
                pb::network_kind::Kind::Bridge(pb::BridgeKind {
                    device: device.as_ref().map(IfName::to_string),
                    existing: *existing,
                })
            }
        };
        pb::NetworkKind { kind: Some(kind) }
    }
}

impl FromPb<pb::Subnet> for Subnet {
    fn from_pb(message: pb::Subnet, at: &Path) -> Result<Self, Violations> {
        let pb::Subnet { cidr, gateway, ranges } = message;
        Ok(Self {
            cidr: optional(cidr, &at.field("cidr"))?,
            gateway: gateway.map(|text| address(&text, &at.field("gateway"))).transpose()?,
            ranges: list(ranges, &at.field("ranges"))?,
        })
    }
}

impl ToPb<pb::Subnet> for Subnet {
    fn to_pb(&self) -> pb::Subnet {
        let Self { cidr, gateway, ranges } = self;
        pb::Subnet {
            cidr: cidr.as_ref().map(Cidr::to_string),
            gateway: gateway.as_ref().map(IpAddr::to_string),
            ranges: all(ranges),
        }
    }
}

impl FromPb<pb::AddressRange> for AddressRange {
    fn from_pb(message: pb::AddressRange, at: &Path) -> Result<Self, Violations> {
        let pb::AddressRange { first, last } = message;
        Ok(Self { first: address(&first, &at.field("first"))?, last: address(&last, &at.field("last"))? })
    }
}

impl ToPb<pb::AddressRange> for AddressRange {
    fn to_pb(&self) -> pb::AddressRange {
        let Self { first, last } = self;
        pb::AddressRange { first: first.to_string(), last: last.to_string() }
    }
}

impl FromPb<pb::Egress> for Egress {
    fn from_pb(message: pb::Egress, at: &Path) -> Result<Self, Violations> {
        let pb::Egress { mode } = message;
        match mode {
            Some(pb::egress::Mode::Nat(nat)) => Ok(Egress::Nat(NatEgress::from_pb(nat, &at.field("nat"))?)),
            Some(pb::egress::Mode::Routed(pb::RoutedEgress {})) => Ok(Egress::Routed(NoOptions {})),
            Some(pb::egress::Mode::None(pb::NoEgress {})) => Ok(Egress::None(NoOptions {})),
            None => Err(Violations::one(at.to_string(), "must have exactly one of nat, routed, none")),
        }
    }
}

impl ToPb<pb::Egress> for Egress {
    fn to_pb(&self) -> pb::Egress {
        let mode = match self {
            Egress::Nat(nat) => pb::egress::Mode::Nat(nat.to_pb()),
            Egress::Routed(NoOptions {}) => pb::egress::Mode::Routed(pb::RoutedEgress {}),
            Egress::None(NoOptions {}) => pb::egress::Mode::None(pb::NoEgress {}),
        };
        pb::Egress { mode: Some(mode) }
    }
}

impl FromPb<pb::NatEgress> for NatEgress {
    fn from_pb(message: pb::NatEgress, at: &Path) -> Result<Self, Violations> {
        let pb::NatEgress { address, address_v6 } = message;
        let wrong = |field, text: &str, family| {
            Violations::one(at.field(field).to_string(), format!("{text:?} is not an {family} address"))
        };
        let v4 = |text: String| text.parse().map_err(|_| wrong("address", &text, "IPv4"));
        let v6 = |text: String| text.parse().map_err(|_| wrong("address_v6", &text, "IPv6"));
        Ok(Self { address: address.map(v4).transpose()?, address_v6: address_v6.map(v6).transpose()? })
    }
}

impl ToPb<pb::NatEgress> for NatEgress {
    fn to_pb(&self) -> pb::NatEgress {
        let Self { address, address_v6 } = self;
        pb::NatEgress {
            address: address.as_ref().map(Ipv4Addr::to_string),
            address_v6: address_v6.as_ref().map(Ipv6Addr::to_string),
        }
    }
}

impl FromPb<pb::Isolation> for Isolation {
    fn from_pb(message: pb::Isolation, _at: &Path) -> Result<Self, Violations> {
        let pb::Isolation { members, networks, host } = message;
        Ok(Self { members, networks, host })
    }
}

impl ToPb<pb::Isolation> for Isolation {
    fn to_pb(&self) -> pb::Isolation {
        let Self { members, networks, host } = self;
        pb::Isolation { members: *members, networks: *networks, host: *host }
    }
}

impl FromPb<pb::NetworkStatus> for Status<NetworkStatus> {
    fn from_pb(message: pb::NetworkStatus, at: &Path) -> Result<Self, Violations> {
        let pb::NetworkStatus {
            observed_generation,
            conditions,
            device,
            ifindex,
            mac,
            mtu,
            subnets,
            attachments,
        } = message;
        let noun = NetworkStatus {
            device: optional(device, &at.field("device"))?,
            ifindex,
            mac: optional(mac, &at.field("mac"))?,
            mtu: mtu.map(|mtu| u16_field(mtu, &at.field("mtu"))).transpose()?,
            subnets: list(subnets, &at.field("subnets"))?,
            attachments,
        };
        Status::read(observed_generation, conditions, noun, at)
    }
}

impl ToPb<pb::NetworkStatus> for Status<NetworkStatus> {
    fn to_pb(&self) -> pb::NetworkStatus {
        let Status { observed_generation, conditions, noun } = self;
        let NetworkStatus { device, ifindex, mac, mtu, subnets, attachments } = noun;
        pb::NetworkStatus {
            observed_generation: *observed_generation,
            conditions: all(conditions),
            device: device.as_ref().map(IfName::to_string),
            ifindex: *ifindex,
            mac: mac.as_ref().map(Mac::to_string),
            mtu: mtu.map(u32::from),
            subnets: all(subnets),
            attachments: *attachments,
        }
    }
}

impl FromPb<pb::SubnetStatus> for SubnetStatus {
    fn from_pb(message: pb::SubnetStatus, at: &Path) -> Result<Self, Violations> {
        let pb::SubnetStatus { cidr, gateway, size, used, free } = message;
        let gateway = address(&gateway, &at.field("gateway"))?;
        Ok(Self { cidr: parse(&cidr, &at.field("cidr"))?, gateway, size, used, free })
    }
}

impl ToPb<pb::SubnetStatus> for SubnetStatus {
    fn to_pb(&self) -> pb::SubnetStatus {
        let Self { cidr, gateway, size, used, free } = self;
        pb::SubnetStatus {
            cidr: cidr.to_string(),
            gateway: gateway.to_string(),
            size: *size,
            used: *used,
            free: *free,
        }
    }
}

crate::envelope::envelope!(Network, network);
