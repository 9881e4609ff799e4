//! PortForward: a port or range of ports of the host, published from an Attachment.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, address, all, list, message, parse, required, u16_field},
    net::Prefix,
    object::{Kind, Noun, Status},
    pb,
    problem::Violations,
    text::Name,
};

/// A port or range of ports of the host, published from an Attachment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PortForward;

/// A range holds at most this many ports, since each is reserved by a bound socket.
pub const MAX_RANGE_PORTS: u16 = 1024;
/// A PortForward names at most this many sources.
pub const MAX_SOURCES: usize = 128;

/// What is wanted of a PortForward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortForwardSpec {
    /// Immutable.
    pub protocol: Protocol,
    /// Where the host listens.
    pub listen: Listen,
    /// Where it goes.
    pub target: Target,
    /// Only these prefixes may use it; the host itself always may. A family of which none is named is shut out. None:
    /// everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 128)]
    pub sources: Vec<Prefix>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260, where the kernel tracks it.
    Sctp,
}

impl Protocol {
    /// The word, as nft and the API say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            other => Err(format!("{other:?} is not one of tcp, udp, sctp")),
        }
    }
}

/// Where the host listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// A local address of the host; 127.0.0.1 publishes for the host alone. Unset: any address, but not IPv6 loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// 1 to 65535. 0: netloom chooses a free one, shows it in `status`, and keeps it.
    pub port: u16,
    /// Last port of a range; at most 1 024 ports. Unset: one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub end_port: Option<u16>,
}

impl Listen {
    /// Whether the port is netloom's to choose.
    pub fn is_chosen(&self) -> bool {
        self.port == 0
    }

    /// The last port, which is the first one of a single port.
    pub fn last_port(&self) -> u16 {
        self.end_port.unwrap_or(self.port)
    }
}

/// Where a PortForward goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Which Attachment. It need not exist yet.
    pub attachment: Name,
    /// First port there. Unset: the listen port. Required when that is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub port: Option<u16>,
}

/// What is known of a PortForward.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortForwardStatus {
    /// Where the host listens, with the port that was chosen.
    #[serde(default)]
    pub listen: Vec<PortRange>,
    /// Where it goes.
    #[serde(default)]
    pub target: Vec<PortRange>,
}

/// Ports of one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortRange {
    /// Unset: any address of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The first.
    pub port: u16,
    /// The last; equal to `port` for a single one.
    pub end_port: u16,
}

impl Noun for PortForward {
    const KIND: Kind = Kind::PortForward;
    type Spec = PortForwardSpec;
    type Status = PortForwardStatus;

    fn validate(spec: &PortForwardSpec, at: &Path) -> Result<(), Violations> {
        let mut wrong = Violations::default();
        let listen = at.field("listen");
        let last = spec.listen.last_port();
        if spec.listen.is_chosen() {
            if spec.listen.end_port.is_some() {
                let why = "a range cannot be chosen: name its first port, or leave end_port unset";
                wrong.add(listen.field("end_port").to_string(), why);
            }
            if spec.target.port.is_none() {
                let why = "is required when netloom chooses the listen port";
                wrong.add(at.field("target").field("port").to_string(), why);
            }
        } else if last < spec.listen.port {
            wrong.add(
                listen.field("end_port").to_string(),
                format!("{last} is below port {}", spec.listen.port),
            );
        } else if last - spec.listen.port >= MAX_RANGE_PORTS {
            wrong.add(
                listen.field("end_port").to_string(),
                format!("makes more than {MAX_RANGE_PORTS} ports"),
            );
        }
        let target = at.field("target").field("port");
        if let Some(port) = spec.target.port {
            if port == 0 {
                wrong.add(target.to_string(), "must be 1 to 65535");
            } else if u32::from(port) + u32::from(last.saturating_sub(spec.listen.port)) > 65535
                && !spec.listen.is_chosen()
            {
                wrong.add(target.to_string(), "makes the range end above 65535");
            }
        }
        if spec.sources.len() > MAX_SOURCES {
            let why = format!("has {} entries; at most {MAX_SOURCES} are allowed", spec.sources.len());
            wrong.add(at.field("sources").to_string(), why);
        }
        check_listen_address(spec.listen.address, &listen.field("address"), &mut wrong);
        wrong.into_result(())
    }
}

fn check_listen_address(address: Option<IpAddr>, at: &Path, wrong: &mut Violations) {
    let Some(address) = address else { return };
    let why = match address {
        IpAddr::V6(v6) if v6.is_loopback() => {
            "::1 cannot be forwarded: Linux has no way back for the reply; publish on 127.0.0.1"
        }
        address if address.is_unspecified() => "leave it unset to listen on any address",
        address if address.is_multicast() => "is a multicast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "is a link-local address, which needs an interface",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "is an IPv4-mapped address; write it as IPv4",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address",
        IpAddr::V4(_) | IpAddr::V6(_) => return,
    };
    wrong.add(at.to_string(), why);
}

impl FromPb<pb::PortForwardSpec> for PortForwardSpec {
    fn from_pb(spec: pb::PortForwardSpec, at: &Path) -> Result<Self, Violations> {
        let pb::PortForwardSpec { protocol, listen, target, sources } = spec;
        let here = at.field("sources");
        let sources = sources.iter().enumerate().map(|(index, text)| parse(text, &here.item(index)));
        Ok(Self {
            protocol: required(&protocol, &at.field("protocol"))?,
            listen: message(listen, &at.field("listen"))?,
            target: message(target, &at.field("target"))?,
            sources: sources.collect::<Result<_, _>>()?,
        })
    }
}

impl ToPb<pb::PortForwardSpec> for PortForwardSpec {
    fn to_pb(&self) -> pb::PortForwardSpec {
        let Self { protocol, listen, target, sources } = self;
        pb::PortForwardSpec {
            protocol: protocol.to_string(),
            listen: Some(listen.to_pb()),
            target: Some(target.to_pb()),
            sources: sources.iter().map(Prefix::to_string).collect(),
        }
    }
}

impl FromPb<pb::Listen> for Listen {
    fn from_pb(listen: pb::Listen, at: &Path) -> Result<Self, Violations> {
        let pb::Listen { address: wanted, port, end_port } = listen;
        let port = port.ok_or_else(|| Violations::one(at.field("port").to_string(), "is required"))?;
        Ok(Self {
            address: wanted.map(|text| address(&text, &at.field("address"))).transpose()?,
            port: u16_field(port, &at.field("port"))?,
            end_port: end_port.map(|port| u16_field(port, &at.field("end_port"))).transpose()?,
        })
    }
}

impl ToPb<pb::Listen> for Listen {
    fn to_pb(&self) -> pb::Listen {
        let Self { address, port, end_port } = self;
        pb::Listen {
            address: address.as_ref().map(IpAddr::to_string),
            port: Some(u32::from(*port)),
            end_port: end_port.map(u32::from),
        }
    }
}

impl FromPb<pb::Target> for Target {
    fn from_pb(target: pb::Target, at: &Path) -> Result<Self, Violations> {
        let pb::Target { attachment, port } = target;
        Ok(Self {
            attachment: required(&attachment, &at.field("attachment"))?,
            port: port.map(|port| u16_field(port, &at.field("port"))).transpose()?,
        })
    }
}

impl ToPb<pb::Target> for Target {
    fn to_pb(&self) -> pb::Target {
        let Self { attachment, port } = self;
        pb::Target { attachment: attachment.to_string(), port: port.map(u32::from) }
    }
}

impl FromPb<pb::PortRange> for PortRange {
    fn from_pb(range: pb::PortRange, at: &Path) -> Result<Self, Violations> {
        let pb::PortRange { address: of, port, end_port } = range;
        Ok(Self {
            address: of.map(|text| address(&text, &at.field("address"))).transpose()?,
            port: u16_field(port, &at.field("port"))?,
            end_port: u16_field(end_port, &at.field("end_port"))?,
        })
    }
}

impl ToPb<pb::PortRange> for PortRange {
    fn to_pb(&self) -> pb::PortRange {
        let Self { address, port, end_port } = self;
        pb::PortRange {
            address: address.as_ref().map(IpAddr::to_string),
            port: u32::from(*port),
            end_port: u32::from(*end_port),
        }
    }
}

impl FromPb<pb::PortForwardStatus> for Status<PortForwardStatus> {
    fn from_pb(status: pb::PortForwardStatus, at: &Path) -> Result<Self, Violations> {
        let pb::PortForwardStatus { observed_generation, conditions, listen, target } = status;
        let listen = list(listen, &at.field("listen"))?;
        let target = list(target, &at.field("target"))?;
        Status::read(observed_generation, conditions, PortForwardStatus { listen, target }, at)
    }
}

impl ToPb<pb::PortForwardStatus> for Status<PortForwardStatus> {
    fn to_pb(&self) -> pb::PortForwardStatus {
        let Status { observed_generation, conditions, noun: PortForwardStatus { listen, target } } = self;
        pb::PortForwardStatus {
            observed_generation: *observed_generation,
            conditions: all(conditions),
            listen: all(listen),
            target: all(target),
        }
    }
}

crate::envelope::envelope!(PortForward, port_forward);
