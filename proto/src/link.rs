//! Link: a direct cable between two Namespaces, or between a Namespace and the host.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, all, list, optional, parse, required, u16_field},
    net::{IfName, InterfaceAddress, Mac},
    network::MTU_DEFAULT,
    object::{Kind, Noun, Status},
    pb,
    problem::Violations,
    text::Name,
};

/// A direct cable between two Namespaces, or between a Namespace and the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link;

/// An end has at most this many addresses.
const ADDRESSES_MAX: usize = 8;
/// Below it Linux takes IPv6 off the interface, and a cable is to stay fit for both families.
const MTU_MIN: u16 = 1280;
/// Names of this form are those of the host's ends of Attachments, on which the firewall's guard sits.
const DEVICE_PREFIX: &str = "nl";

/// What is wanted of a Link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkSpec {
    /// Exactly two.
    #[schema(value_type = Vec<LinkEnd>, min_items = 2, max_items = 2)]
    pub ends: [LinkEnd; 2],
    /// Bytes, 1280 to 65535; of both ends. Unset: 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1280)]
    pub mtu: Option<u16>,
}

impl LinkSpec {
    /// The MTU in effect.
    pub fn mtu(&self) -> u16 {
        self.mtu.unwrap_or(MTU_DEFAULT)
    }
}

/// One end of a cable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkEnd {
    /// A Namespace, or `host`. Immutable.
    pub namespace: Name,
    /// The interface's name there. Immutable.
    pub interface: IfName,
    /// With prefix length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub addresses: Vec<InterfaceAddress>,
    /// Wanted MAC address. Unset: derived from the uid. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

impl LinkEnd {
    /// Whether it is on the host itself.
    pub fn is_on_host(&self) -> bool {
        self.namespace.as_str() == "host"
    }
}

/// What is known of a Link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkStatus {
    /// In the order of the spec.
    #[serde(default)]
    pub ends: Vec<LinkEndStatus>,
    /// The MTU in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// One end of a cable as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkEndStatus {
    /// The Namespace, or `host`.
    pub namespace: Name,
    /// The interface there.
    pub interface: IfName,
    /// Its index there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// Its MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

impl Noun for Link {
    const KIND: Kind = Kind::Link;
    type Spec = LinkSpec;
    type Status = LinkStatus;

    fn validate(spec: &LinkSpec, at: &Path) -> Result<(), Violations> {
        let mut wrong = Violations::default();
        if spec.mtu.is_some_and(|mtu| mtu < MTU_MIN) {
            wrong.add(at.field("mtu").to_string(), format!("must be at least {MTU_MIN}"));
        }
        let here = at.field("ends");
        let [first, second] = &spec.ends;
        if (&first.namespace, &first.interface) == (&second.namespace, &second.interface) {
            wrong.add(
                here.item(1).field("interface").to_string(),
                format!("{} of {} is the other end already", first.interface, first.namespace),
            );
        }
        if first.mac.is_some() && first.mac == second.mac {
            wrong.add(here.item(1).field("mac").to_string(), "is the MAC address of the other end");
        }
        for (index, end) in spec.ends.iter().enumerate() {
            let at = here.item(index);
            if end.interface.as_str().starts_with(DEVICE_PREFIX) {
                wrong.add(
                    at.field("interface").to_string(),
                    format!("starts with {DEVICE_PREFIX}, as names that netloom chooses itself do"),
                );
            }
            check_addresses(&end.addresses, &at.field("addresses"), &mut wrong);
        }
        let [first, second] = &spec.ends;
        for (index, address) in second.addresses.iter().enumerate() {
            if first.addresses.iter().any(|other| other.0.addr() == address.0.addr()) {
                wrong.add(
                    here.item(1).field("addresses").item(index).to_string(),
                    format!("{} is an address of the other end", address.0.addr()),
                );
            }
        }
        wrong.into_result(())
    }
}

fn check_addresses(addresses: &[InterfaceAddress], at: &Path, wrong: &mut Violations) {
    if addresses.len() > ADDRESSES_MAX {
        wrong.add(at.to_string(), format!("has more than {ADDRESSES_MAX} entries"));
    }
    for (index, InterfaceAddress(net)) in addresses.iter().enumerate() {
        let at = at.item(index).to_string();
        if addresses[..index].iter().any(|other| other.0.addr() == net.addr()) {
            wrong.add(at, format!("{} is listed twice", net.addr()));
        } else if let Some(why) = unusable(net) {
            wrong.add(at, why);
        }
    }
}

/// Why an interface cannot have this address.
fn unusable(net: &IpNet) -> Option<String> {
    if let Some(why) = crate::net::unusable(net) {
        return Some(why.to_owned());
    }
    let (shortest, exact) = match net {
        IpNet::V4(_) => (8, 31),
        IpNet::V6(_) => (16, 127),
    };
    if net.prefix_len() < shortest {
        return Some(format!("has too large a subnet: the prefix length must be at least {shortest}"));
    }
    if net.prefix_len() >= exact {
        return None;
    }
    if net.addr() == net.network() {
        return Some(format!("is the address of the network {net} itself"));
    }
    let is_broadcast = net.addr().is_ipv4() && net.addr() == net.broadcast();
    is_broadcast.then(|| format!("is the broadcast address of {}", net.trunc()))
}

impl FromPb<pb::LinkSpec> for LinkSpec {
    fn from_pb(spec: pb::LinkSpec, at: &Path) -> Result<Self, Violations> {
        let pb::LinkSpec { ends, mtu } = spec;
        let here = at.field("ends");
        let ends: Vec<LinkEnd> = list(ends, &here)?;
        let count = ends.len();
        let two = |_| Violations::one(here.to_string(), format!("has {count} entries; a cable has two ends"));
        Ok(Self {
            ends: ends.try_into().map_err(two)?,
            mtu: mtu.map(|mtu| u16_field(mtu, &at.field("mtu"))).transpose()?,
        })
    }
}

impl ToPb<pb::LinkSpec> for LinkSpec {
    fn to_pb(&self) -> pb::LinkSpec {
        let Self { ends, mtu } = self;
        pb::LinkSpec { ends: all(ends), mtu: mtu.map(u32::from) }
    }
}

impl FromPb<pb::LinkEnd> for LinkEnd {
    fn from_pb(end: pb::LinkEnd, at: &Path) -> Result<Self, Violations> {
        let pb::LinkEnd { namespace, interface, addresses, mac } = end;
        let here = at.field("addresses");
        let addresses = addresses.iter().enumerate().map(|(index, text)| parse(text, &here.item(index)));
        Ok(Self {
            namespace: required(&namespace, &at.field("namespace"))?,
            interface: required(&interface, &at.field("interface"))?,
            addresses: addresses.collect::<Result<_, _>>()?,
            mac: optional(mac, &at.field("mac"))?,
        })
    }
}

impl ToPb<pb::LinkEnd> for LinkEnd {
    fn to_pb(&self) -> pb::LinkEnd {
        let Self { namespace, interface, addresses, mac } = self;
        pb::LinkEnd {
            namespace: namespace.to_string(),
            interface: interface.to_string(),
            addresses: addresses.iter().map(InterfaceAddress::to_string).collect(),
            mac: mac.as_ref().map(Mac::to_string),
        }
    }
}

impl FromPb<pb::LinkStatus> for Status<LinkStatus> {
    fn from_pb(status: pb::LinkStatus, at: &Path) -> Result<Self, Violations> {
        let pb::LinkStatus { observed_generation, conditions, ends, mtu } = status;
        let noun = LinkStatus {
            ends: list(ends, &at.field("ends"))?,
            mtu: mtu.map(|mtu| u16_field(mtu, &at.field("mtu"))).transpose()?,
        };
        Status::read(observed_generation, conditions, noun, at)
    }
}

impl ToPb<pb::LinkStatus> for Status<LinkStatus> {
    fn to_pb(&self) -> pb::LinkStatus {
        let Status { observed_generation, conditions, noun: LinkStatus { ends, mtu } } = self;
        pb::LinkStatus {
            observed_generation: *observed_generation,
            conditions: all(conditions),
            ends: all(ends),
            mtu: mtu.map(u32::from),
        }
    }
}

impl FromPb<pb::LinkEndStatus> for LinkEndStatus {
    fn from_pb(end: pb::LinkEndStatus, at: &Path) -> Result<Self, Violations> {
        let pb::LinkEndStatus { namespace, interface, ifindex, mac } = end;
        Ok(Self {
            namespace: required(&namespace, &at.field("namespace"))?,
            interface: required(&interface, &at.field("interface"))?,
            ifindex,
            mac: optional(mac, &at.field("mac"))?,
        })
    }
}

impl ToPb<pb::LinkEndStatus> for LinkEndStatus {
    fn to_pb(&self) -> pb::LinkEndStatus {
        let Self { namespace, interface, ifindex, mac } = self;
        pb::LinkEndStatus {
            namespace: namespace.to_string(),
            interface: interface.to_string(),
            ifindex: *ifindex,
            mac: mac.as_ref().map(Mac::to_string),
        }
    }
}

crate::envelope::envelope!(Link, link);

#[cfg(test)]
mod tests {
    use super::*;

    fn why_not(text: &str) -> Option<String> {
        unusable(&text.parse().unwrap())
    }

    #[test]
    fn an_address_that_no_interface_can_have_is_refused() {
        for bad in [
            "10.1.1.0/24",
            "10.1.1.255/24",
            "127.0.0.1/8",
            "224.0.0.1/24",
            "0.0.0.0/8",
            "10.1.1.1/7",
            "169.254.1.1/16",
            "fe80::1/64",
            "ff02::1/64",
            "fd00::/64",
            "::1/128",
        ] {
            assert!(why_not(bad).is_some(), "{bad}");
        }
        for good in ["10.1.1.1/24", "10.1.1.0/31", "10.1.1.1/32", "fd00::1/64", "fd00::/127"] {
            assert_eq!(why_not(good), None, "{good}");
        }
    }
}
