//! Values of Linux networking that cannot be wrong: MAC, prefix, interface name.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::schema::text_schema;

text_schema!(Mac, |text| text
    .pattern(Some("^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$"))
    .examples(["02:00:00:00:01:11"]));
text_schema!(Cidr, |text| text.examples(["192.168.15.0/24"]));
text_schema!(Prefix, |text| text.examples(["10.0.0.0/8"]));
text_schema!(InterfaceAddress, |text| text.examples(["192.168.15.1/24"]));
text_schema!(IfName, |text| text.max_length(Some(15)).examples(["eth0"]));

/// Serde by `Display` and `FromStr`.
macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A unicast Ethernet address, six hex bytes with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

impl Mac {
    /// From bytes that the kernel gave; the group bit is cleared, so the value is unicast.
    pub fn from_bytes(mut bytes: [u8; 6]) -> Self {
        bytes[0] &= 0xfe;
        Self(bytes)
    }

    /// The six bytes in the order of the wire.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2).ok_or("must be six hex bytes with colons")?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| "must be six hex bytes with colons")?;
        }
        if parts.next().is_some() {
            return Err("must be six hex bytes with colons".into());
        }
        if bytes[0] & 1 != 0 {
            return Err(
                "is a multicast address; an interface needs a unicast one (second hex digit even)".into()
            );
        }
        if bytes == [0; 6] {
            return Err("must not be all zero".into());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

as_text!(Mac);

/// A subnet that endpoints can live in: host bits zero, unicast, at least four addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr(IpNet);

impl Cidr {
    /// Checks a prefix; the error says what is wrong with it.
    pub fn new(net: IpNet) -> Result<Self, String> {
        if net.addr() != net.network() {
            return Err(format!("has host bits set; did you mean {}?", net.trunc()));
        }
        let max = net.max_prefix_len() - 2;
        if net.prefix_len() > max {
            return Err(format!("is too small: the prefix length must be at most {max}"));
        }
        let min = if net.addr().is_ipv4() { 8 } else { 16 };
        if net.prefix_len() < min {
            return Err(format!("is too large: the prefix length must be at least {min}"));
        }
        if let Some(why) = unusable(&net) {
            return Err(why.into());
        }
        Ok(Self(net))
    }

    /// The prefix.
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &IpNet) -> bool {
        self.0.contains(&other.network()) || other.contains(&self.0.network())
    }

    /// The first address that an interface may have: the one after the network's own.
    pub fn first_host(&self) -> IpAddr {
        match self.0 {
            IpNet::V4(net) => IpAddr::V4((net.network().to_bits() + 1).into()),
            IpNet::V6(net) => IpAddr::V6((net.network().to_bits() + 1).into()),
        }
    }

    /// The last address that an interface may have: IPv4 keeps the broadcast address back.
    pub fn last_host(&self) -> IpAddr {
        match self.0 {
            IpNet::V4(net) => IpAddr::V4((net.broadcast().to_bits() - 1).into()),
            IpNet::V6(net) => IpAddr::V6(net.broadcast()),
        }
    }

    /// Whether an interface may have this address: inside, not the network's, not the broadcast's.
    pub fn has_host(&self, address: IpAddr) -> bool {
        self.0.contains(&address) && (self.first_host()..=self.last_host()).contains(&address)
    }
}

/// Why no endpoint may live in this prefix; RFC 6890 has the list.
pub(crate) fn unusable(net: &IpNet) -> Option<&'static str> {
    match net.network() {
        IpAddr::V4(first) if first.is_loopback() => Some("is the loopback range"),
        IpAddr::V4(first) if first.octets()[0] == 0 => Some("is the range of \"this network\""),
        IpAddr::V4(first) if first.octets()[0] >= 224 => Some("is a multicast or reserved range"),
        IpAddr::V4(first) if first.is_link_local() => Some("is the link-local range"),
        IpAddr::V4(_) => None,
        IpAddr::V6(first) if first.is_multicast() => Some("is a multicast range"),
        IpAddr::V6(first) if first.is_unicast_link_local() => Some("is the link-local range"),
        IpAddr::V6(first) if first.to_ipv4_mapped().is_some() => {
            Some("is the IPv4-mapped range; write it as IPv4")
        }
        IpAddr::V6(first) if first.segments()[..4] == [0, 0, 0, 0] => Some("is a reserved range"),
        IpAddr::V6(_) => None,
    }
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let net =
            text.parse::<IpNet>().map_err(|_| "must be a prefix such as 192.168.15.0/24 or fd00:15::/64")?;
        Self::new(net)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(Cidr);

/// Any prefix, from all addresses of a family to a single one: host bits zero. An address alone is the prefix of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(IpNet);

impl Prefix {
    /// The prefix.
    pub fn net(&self) -> IpNet {
        self.0
    }
}

impl FromStr for Prefix {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => {
                text.parse::<IpNet>().map_err(|_| "must be a prefix such as 10.0.0.0/8 or 2001:db8::/32")?
            }
        };
        if net.addr() != net.network() {
            return Err(format!("has host bits set; did you mean {}?", net.trunc()));
        }
        match net {
            IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
                Err("is the IPv4-mapped range; write it as IPv4".into())
            }
            IpNet::V4(_) | IpNet::V6(_) => Ok(Self(net)),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(Prefix);

/// An address together with its subnet's prefix length, as `ip addr` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceAddress(pub IpNet);

impl FromStr for InterfaceAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let net = text
            .parse::<IpNet>()
            .map_err(|_| "must be an address with prefix length, such as 10.1.1.1/24")?;
        Ok(Self(net))
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(InterfaceAddress);

/// A name that the kernel takes for an interface: 1 to 15 letters, digits, `-`, `_` or `.`, and not a word of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName(String);

impl IfName {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 15 {
            return Err("must have 1 to 15 characters".into());
        }
        if !text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)) || text.starts_with('-') {
            return Err("must be made of letters, digits, '-', '_' and '.', not first a '-'".into());
        }
        if ["lo", "all", "default", ".", ".."].contains(&text) {
            return Err("is a name that the kernel keeps for itself".into());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(IfName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_that_cannot_carry_endpoints_is_refused() {
        for bad in [
            "192.168.15.5/24",
            "10.0.0.0/31",
            "10.0.0.0/32",
            "0.0.0.0/0",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "fe80::/64",
            "::ffff:10.0.0.0/104",
            "ff02::/16",
            "::/16",
            "10.0.0.0/7",
            "x",
            "10.0.0.0",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        for good in ["192.168.15.0/24", "10.0.0.0/30", "fd00:15::/64", "10.0.0.0/8"] {
            assert!(good.parse::<Cidr>().is_ok(), "{good}");
        }
    }

    #[test]
    fn the_hosts_of_a_subnet_leave_out_its_first_and_the_broadcast_address() {
        let net: Cidr = "10.0.0.0/30".parse().unwrap();
        assert_eq!(net.first_host().to_string(), "10.0.0.1");
        assert_eq!(net.last_host().to_string(), "10.0.0.2");
        assert!(!net.has_host("10.0.0.3".parse().unwrap()));
    }

    #[test]
    fn a_multicast_mac_is_refused() {
        assert!("01:00:00:00:00:01".parse::<Mac>().is_err());
        assert!("02:00:00:00:00".parse::<Mac>().is_err());
        assert_eq!("02:0A:00:00:00:01".parse::<Mac>().unwrap().to_string(), "02:0a:00:00:00:01");
    }
}
