//! Attachment: an interface of a Namespace on a Network.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    bandwidth::Bandwidth,
    convert::{FromPb, Path, ToPb, address, all, optional, parse, required, u16_field},
    net::{IfName, InterfaceAddress, Mac},
    object::{Kind, Noun, Status},
    pb,
    problem::Violations,
    text::Name,
};

/// An interface of a Namespace on a Network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attachment;

/// What is wanted of an Attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachmentSpec {
    /// Which Namespace. Immutable.
    pub namespace: Name,
    /// Which Network. Immutable.
    pub network: Name,
    /// Wanted addresses, at most one per subnet. A subnet without one gets a chosen address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 8)]
    pub addresses: Vec<IpAddr>,
    /// Wanted MAC address. Unset: derived from the uid. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The interface's name inside. Unset: the first free `ethN`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<IfName>,
    /// Route everything else through this network's gateway. Unset: true for the first Attachment of a Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<bool>,
    /// Of the default route; lower wins. Unset: the first free one from 100 on, so that the default routes of a
    /// Namespace never tie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub metric: Option<u32>,
    /// Bytes; not above the network's. Unset: the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 576)]
    pub mtu: Option<u16>,
    /// How fast it may be. Unset: as fast as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// What is known of an Attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttachmentStatus {
    /// With prefix length.
    #[serde(default)]
    pub addresses: Vec<InterfaceAddress>,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Its name inside the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<IfName>,
    /// Its index inside the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// The host's end of the cable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_device: Option<IfName>,
    /// The index of the host's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ifindex: Option<u32>,
    /// Its MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Whether the default route goes through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<bool>,
    /// Of its default route, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// The limits in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

impl Noun for Attachment {
    const KIND: Kind = Kind::Attachment;
    type Spec = AttachmentSpec;
    type Status = AttachmentStatus;

    fn validate(spec: &AttachmentSpec, at: &Path) -> Result<(), Violations> {
        let mut wrong = Violations::default();
        if spec.namespace.as_str() == "host" {
            wrong.add(
                at.field("namespace").to_string(),
                "the host cannot be attached; it has the gateway address already",
            );
        }
        for (index, address) in spec.addresses.iter().enumerate() {
            if spec.addresses[..index].contains(address) {
                wrong
                    .add(at.field("addresses").item(index).to_string(), format!("{address} is listed twice"));
            }
        }
        if spec.addresses.len() > 8 {
            wrong.add(at.field("addresses").to_string(), "has more than 8 entries");
        }
        if spec.metric == Some(0) {
            wrong.add(at.field("metric").to_string(), "must be at least 1");
        }
        if spec.mtu.is_some_and(|mtu| mtu < 576) {
            wrong.add(at.field("mtu").to_string(), "must be at least 576");
        }
        if let Some(bandwidth) = &spec.bandwidth {
            bandwidth.check(&at.field("bandwidth"), &mut wrong);
        }
        wrong.into_result(())
    }
}

impl FromPb<pb::AttachmentSpec> for AttachmentSpec {
    fn from_pb(message: pb::AttachmentSpec, at: &Path) -> Result<Self, Violations> {
        let pb::AttachmentSpec {
            namespace,
            network,
            addresses,
            mac,
            interface,
            default_route,
            metric,
            mtu,
            bandwidth,
        } = message;
        let here = at.field("addresses");
        let addresses = addresses.iter().enumerate().map(|(index, text)| address(text, &here.item(index)));
        Ok(Self {
            namespace: required(&namespace, &at.field("namespace"))?,
            network: required(&network, &at.field("network"))?,
            addresses: addresses.collect::<Result<_, _>>()?,
            mac: optional(mac, &at.field("mac"))?,
            interface: optional(interface, &at.field("interface"))?,
            default_route,
            metric,
            mtu: mtu.map(|mtu| u16_field(mtu, &at.field("mtu"))).transpose()?,
            bandwidth: bandwidth.map(|one| Bandwidth::from_pb(one, &at.field("bandwidth"))).transpose()?,
        })
    }
}

impl ToPb<pb::AttachmentSpec> for AttachmentSpec {
    fn to_pb(&self) -> pb::AttachmentSpec {
        let Self { namespace, network, addresses, mac, interface, default_route, metric, mtu, bandwidth } =
            self;
        pb::AttachmentSpec {
            namespace: namespace.to_string(),
            network: network.to_string(),
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
            mac: mac.as_ref().map(Mac::to_string),
            interface: interface.as_ref().map(IfName::to_string),
            default_route: *default_route,
            metric: *metric,
            mtu: mtu.map(u32::from),
            bandwidth: bandwidth.as_ref().map(ToPb::to_pb),
        }
    }
}

impl FromPb<pb::AttachmentStatus> for Status<AttachmentStatus> {
    fn from_pb(message: pb::AttachmentStatus, at: &Path) -> Result<Self, Violations> {
        let pb::AttachmentStatus {
            observed_generation,
            conditions,
            addresses,
            mac,
            interface,
            ifindex,
            host_device,
            host_ifindex,
            mtu,
            default_route,
            metric,
            bandwidth,
        } = message;
        let here = at.field("addresses");
        let addresses = addresses.iter().enumerate().map(|(index, text)| parse(text, &here.item(index)));
        let noun = AttachmentStatus {
            addresses: addresses.collect::<Result<_, _>>()?,
            mac: optional(mac, &at.field("mac"))?,
            interface: optional(interface, &at.field("interface"))?,
            ifindex,
            host_device: optional(host_device, &at.field("host_device"))?,
            host_ifindex,
            mtu: mtu.map(|mtu| u16_field(mtu, &at.field("mtu"))).transpose()?,
            default_route,
            metric,
            bandwidth: bandwidth.map(|one| Bandwidth::from_pb(one, &at.field("bandwidth"))).transpose()?,
        };
        Status::read(observed_generation, conditions, noun, at)
    }
}

impl ToPb<pb::AttachmentStatus> for Status<AttachmentStatus> {
    fn to_pb(&self) -> pb::AttachmentStatus {
        let Status { observed_generation, conditions, noun } = self;
        let AttachmentStatus {
            addresses,
            mac,
            interface,
            ifindex,
            host_device,
            host_ifindex,
            mtu,
            default_route,
            metric,
            bandwidth,
        } = noun;
        pb::AttachmentStatus {
            observed_generation: *observed_generation,
            conditions: all(conditions),
            addresses: addresses.iter().map(InterfaceAddress::to_string).collect(),
            mac: mac.as_ref().map(Mac::to_string),
            interface: interface.as_ref().map(IfName::to_string),
            ifindex: *ifindex,
            host_device: host_device.as_ref().map(IfName::to_string),
            host_ifindex: *host_ifindex,
            mtu: mtu.map(u32::from),
            default_route: *default_route,
            metric: *metric,
            bandwidth: bandwidth.as_ref().map(ToPb::to_pb),
        }
    }
}

crate::envelope::envelope!(Attachment, attachment);
