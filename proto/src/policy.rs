//! Policy: which traffic the Attachments that it selects accept, or may send.
//!
//! Policies only allow, and add up; their order means nothing. An Attachment is open in a direction until some Policy of
//! that direction selects it. Then only what a rule of one of these allows passes, with its answers.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, all, list, optional, parse, required, u8_field, u16_field},
    net::Prefix,
    object::{Kind, Noun, Status},
    pb,
    port_forward::Protocol,
    problem::Violations,
    text::{Labels, Name},
};

/// Which traffic the Attachments that it selects accept, or may send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy;

/// A Policy has at most this many rules in a direction.
pub const MAX_RULES: usize = 64;
/// A rule has at most this many peers.
pub const MAX_PEERS: usize = 256;
/// A rule has at most this many ports.
pub const MAX_PORTS: usize = 64;
/// A prefix has at most this many exceptions.
pub const MAX_EXCEPT: usize = 64;
/// The peers, exceptions and ports of all rules of a Policy are at most this many.
pub const MAX_ENTRIES: usize = 4096;

/// What is wanted of a Policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// Whose traffic it is about. Unset: that of every Attachment.
    #[serde(default, skip_serializing_if = "PolicySelector::is_everything")]
    pub selector: PolicySelector,
    /// In these directions nothing passes but what some Policy allows. Unset: ingress, and egress too if there are `egress`
    /// rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 2)]
    pub directions: Vec<Direction>,
    /// What may come to the selected Attachments. None: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub ingress: Vec<PolicyRule>,
    /// Where the selected Attachments may go. None: nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub egress: Vec<PolicyRule>,
    /// Tell of what it drops, by events. Unset: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<bool>,
}

/// A way that traffic takes, as the selected Attachment sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To it.
    Ingress,
    /// From it.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// Attachments by what they are; what is unset does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySelector {
    /// All of these labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// On this Network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
}

/// What passes: to or from any of the peers, by any of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// None: anyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub peers: Vec<PolicyPeer>,
    /// None: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub ports: Vec<PolicyPort>,
}

/// Either Attachments, by labels and network, or a prefix. With nothing set: every Attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyPeer {
    /// Attachments with all of these labels, of any Network.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Attachments on this Network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
    /// Addresses of this prefix, IPv4 or IPv6; with neither `labels` nor `network`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Prefix>,
    /// But not of these, which are inside of `cidr`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub except: Vec<Prefix>,
}

/// What a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerKind<'a> {
    /// Attachments.
    Attachments(PolicySelector),
    /// Addresses of a prefix, but for those of others inside of it.
    Prefix(Prefix, &'a [Prefix]),
}

/// What starts a flow: a protocol, and ports or ICMP types of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyPort {
    /// Of which protocol.
    pub protocol: PolicyProtocol,
    /// Of tcp, udp and sctp. Unset: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub port: Option<u16>,
    /// Last port of a range. Unset: one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub end_port: Option<u16>,
    /// Of icmp and icmpv6: of the packet that starts a flow; answers pass anyway. Unset: all.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<u8>,
    /// Of a type. Unset: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// A protocol that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyProtocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260; a port of it only where the kernel tracks it.
    Sctp,
    /// RFC 792: of IPv4.
    Icmp,
    /// RFC 4443: of IPv6.
    Icmpv6,
}

const PROTOCOLS: [PolicyProtocol; 5] = [
    PolicyProtocol::Tcp,
    PolicyProtocol::Udp,
    PolicyProtocol::Sctp,
    PolicyProtocol::Icmp,
    PolicyProtocol::Icmpv6,
];

impl PolicyProtocol {
    /// The word, as nft and the API say it.
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyProtocol::Tcp => "tcp",
            PolicyProtocol::Udp => "udp",
            PolicyProtocol::Sctp => "sctp",
            PolicyProtocol::Icmp => "icmp",
            PolicyProtocol::Icmpv6 => "icmpv6",
        }
    }

    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            PolicyProtocol::Tcp => 6,
            PolicyProtocol::Udp => 17,
            PolicyProtocol::Sctp => 132,
            PolicyProtocol::Icmp => 1,
            PolicyProtocol::Icmpv6 => 58,
        }
    }

    /// Whether it has ports.
    pub fn has_ports(self) -> bool {
        match self {
            PolicyProtocol::Tcp | PolicyProtocol::Udp | PolicyProtocol::Sctp => true,
            PolicyProtocol::Icmp | PolicyProtocol::Icmpv6 => false,
        }
    }
}

impl From<Protocol> for PolicyProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => PolicyProtocol::Tcp,
            Protocol::Udp => PolicyProtocol::Udp,
            Protocol::Sctp => PolicyProtocol::Sctp,
        }
    }
}

macro_rules! word {
    ($type:ident of $all:expr) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                $all.into_iter().find(|one| one.as_str() == text).ok_or_else(|| {
                    let all = $all.map(Self::as_str).join(", ");
                    format!("{text:?} is not one of {all}")
                })
            }
        }
    };
}

word!(Direction of Direction::ALL);
word!(PolicyProtocol of PROTOCOLS);

/// What is known of a Policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyStatus {
    /// The directions in effect.
    #[serde(default)]
    pub directions: Vec<Direction>,
    /// How many Attachments it selects now.
    pub selected: u32,
}

impl PolicySpec {
    /// Whether it is about this direction.
    pub fn is_about(&self, direction: Direction) -> bool {
        match (self.directions.as_slice(), direction) {
            ([], Direction::Ingress) => true,
            ([], Direction::Egress) => !self.egress.is_empty(),
            (said, direction) => said.contains(&direction),
        }
    }

    /// The directions in effect.
    pub fn directions(&self) -> impl Iterator<Item = Direction> + use<'_> {
        Direction::ALL.into_iter().filter(|direction| self.is_about(*direction))
    }

    /// What it allows in a direction.
    pub fn rules(&self, direction: Direction) -> &[PolicyRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Whether it tells of what it drops.
    pub fn log(&self) -> bool {
        self.log.unwrap_or(false)
    }

    /// The Networks that it names, each with its field.
    pub fn networks(&self) -> impl Iterator<Item = (String, &Name)> + use<'_> {
        let own = self.selector.network.iter().map(|name| ("spec.selector.network".to_owned(), name));
        own.chain(Direction::ALL.into_iter().flat_map(|direction| {
            self.rules(direction).iter().enumerate().flat_map(move |(rule, one)| {
                one.peers.iter().enumerate().filter_map(move |(peer, one)| {
                    let field = format!("spec.{direction}[{rule}].peers[{peer}].network");
                    one.network.as_ref().map(|name| (field, name))
                })
            })
        }))
    }
}

impl PolicySelector {
    /// Whether it leaves nobody out.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.network.is_none()
    }

    /// Whether it means an Attachment with these labels on this Network.
    pub fn admits(&self, labels: &Labels, network: &Name) -> bool {
        labels.contain(&self.labels) && self.network.as_ref().is_none_or(|wanted| wanted == network)
    }
}

impl PolicyPeer {
    /// What it is.
    pub fn kind(&self) -> PeerKind<'_> {
        match self.cidr {
            Some(cidr) => PeerKind::Prefix(cidr, &self.except),
            None => {
                let Self { labels, network, cidr: _, except: _ } = self.clone();
                PeerKind::Attachments(PolicySelector { labels, network })
            }
        }
    }
}

impl PolicyPort {
    /// All of a protocol.
    pub fn all_of(protocol: PolicyProtocol) -> Self {
        Self { protocol, port: None, end_port: None, type_: None, code: None }
    }

    /// The first and the last port; none when all are meant.
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.port.map(|port| (port, self.end_port.unwrap_or(port)))
    }
}

impl Noun for Policy {
    const KIND: Kind = Kind::Policy;
    type Spec = PolicySpec;
    type Status = PolicyStatus;

    fn validate(spec: &PolicySpec, at: &Path) -> Result<(), Violations> {
        let mut wrong = Violations::default();
        let here = at.field("directions");
        for (index, direction) in spec.directions.iter().enumerate() {
            if spec.directions[..index].contains(direction) {
                wrong.add(here.item(index).to_string(), format!("{direction} is there already"));
            }
        }
        for direction in Direction::ALL {
            let (here, rules) = (at.field(direction.as_str()), spec.rules(direction));
            if !rules.is_empty() && !spec.is_about(direction) {
                let why = format!(
                    "has no effect: `directions` does not say {direction}; add it, or leave these out"
                );
                wrong.add(here.to_string(), why);
            }
            check_count(rules.len(), MAX_RULES, &here, &mut wrong);
            for (index, rule) in rules.iter().enumerate() {
                check_rule(rule, &here.item(index), &mut wrong);
            }
        }
        let entries = |rule: &PolicyRule| {
            rule.ports.len() + rule.peers.iter().map(|peer| 1 + peer.except.len()).sum::<usize>()
        };
        let count: usize = spec.ingress.iter().chain(&spec.egress).map(entries).sum();
        if count > MAX_ENTRIES {
            let why = format!(
                "has {count} peers, exceptions and ports in all its rules; at most {MAX_ENTRIES} are allowed, so make two"
            );
            wrong.add(at.to_string(), why);
        }
        wrong.into_result(())
    }
}

fn check_count(count: usize, max: usize, at: &Path, wrong: &mut Violations) {
    if count > max {
        wrong.add(at.to_string(), format!("has {count} entries; at most {max} are allowed"));
    }
}

fn check_rule(rule: &PolicyRule, at: &Path, wrong: &mut Violations) {
    let (peers, ports) = (at.field("peers"), at.field("ports"));
    check_count(rule.peers.len(), MAX_PEERS, &peers, wrong);
    check_count(rule.ports.len(), MAX_PORTS, &ports, wrong);
    for (index, peer) in rule.peers.iter().enumerate() {
        check_peer(peer, &peers.item(index), wrong);
    }
    for (index, port) in rule.ports.iter().enumerate() {
        check_port(port, &ports.item(index), wrong);
    }
}

fn check_peer(peer: &PolicyPeer, at: &Path, wrong: &mut Violations) {
    let except = at.field("except");
    check_count(peer.except.len(), MAX_EXCEPT, &except, wrong);
    let Some(cidr) = peer.cidr else {
        if !peer.except.is_empty() {
            wrong.add(except.to_string(), "is of a `cidr`, and there is none");
        }
        return;
    };
    if !peer.labels.is_empty() || peer.network.is_some() {
        let why = "is one kind of peer, `labels` and `network` are another; make two peers of them";
        wrong.add(at.field("cidr").to_string(), why);
    }
    for (index, inner) in peer.except.iter().enumerate() {
        let here = except.item(index).to_string();
        let (outer, inner) = (cidr.net(), inner.net());
        if outer == inner {
            wrong.add(here, format!("leaves nothing of {cidr}; leave the peer out"));
        } else if !outer.contains(&inner) {
            wrong.add(here, format!("{inner} is not inside of {cidr}"));
        }
    }
}

fn check_port(port: &PolicyPort, at: &Path, wrong: &mut Violations) {
    let PolicyPort { protocol, port, end_port, type_, code } = *port;
    let mut add = |field: &str, why: String| wrong.add(at.field(field).to_string(), why);
    if protocol.has_ports() {
        for (field, _) in [("type", type_), ("code", code)].iter().filter(|(_, value)| value.is_some()) {
            add(field, format!("is of icmp and icmpv6; {protocol} has ports"));
        }
    } else {
        for (field, _) in [("port", port), ("end_port", end_port)].iter().filter(|(_, value)| value.is_some())
        {
            add(field, format!("is of tcp, udp and sctp; {protocol} has types"));
        }
    }
    match (port, end_port) {
        (Some(0), _) => add("port", "must be 1 to 65535; leave it unset for all".into()),
        (Some(port), Some(end)) if end < port => add("end_port", format!("{end} is below port {port}")),
        (None, Some(_)) => add("end_port", "is the end of a range, whose `port` is not there".into()),
        (_, _) => {}
    }
    if type_.is_none() && code.is_some() {
        add("code", "is of a `type`, and there is none".into());
    }
}

impl FromPb<pb::PolicySpec> for PolicySpec {
    fn from_pb(spec: pb::PolicySpec, at: &Path) -> Result<Self, Violations> {
        let pb::PolicySpec { selector, directions, ingress, egress, log } = spec;
        let here = at.field("directions");
        let directions = directions.iter().enumerate().map(|(index, text)| parse(text, &here.item(index)));
        Ok(Self {
            selector: PolicySelector::from_pb(selector.unwrap_or_default(), &at.field("selector"))?,
            directions: directions.collect::<Result<_, _>>()?,
            ingress: list(ingress, &at.field("ingress"))?,
            egress: list(egress, &at.field("egress"))?,
            log,
        })
    }
}

impl ToPb<pb::PolicySpec> for PolicySpec {
    fn to_pb(&self) -> pb::PolicySpec {
        let Self { selector, directions, ingress, egress, log } = self;
        pb::PolicySpec {
            selector: (!selector.is_everything()).then(|| selector.to_pb()),
            directions: directions.iter().map(Direction::to_string).collect(),
            ingress: all(ingress),
            egress: all(egress),
            log: *log,
        }
    }
}

impl FromPb<pb::PolicySelector> for PolicySelector {
    fn from_pb(selector: pb::PolicySelector, at: &Path) -> Result<Self, Violations> {
        let pb::PolicySelector { labels: wanted, network } = selector;
        Ok(Self {
            labels: labels(wanted, &at.field("labels"))?,
            network: optional(network, &at.field("network"))?,
        })
    }
}

impl ToPb<pb::PolicySelector> for PolicySelector {
    fn to_pb(&self) -> pb::PolicySelector {
        let Self { labels, network } = self;
        pb::PolicySelector { labels: labels.as_map().clone(), network: network.as_ref().map(Name::to_string) }
    }
}

fn labels(map: std::collections::BTreeMap<String, String>, at: &Path) -> Result<Labels, Violations> {
    map.try_into().map_err(|why: String| Violations::one(at.to_string(), why))
}

impl FromPb<pb::PolicyRule> for PolicyRule {
    fn from_pb(rule: pb::PolicyRule, at: &Path) -> Result<Self, Violations> {
        let pb::PolicyRule { peers, ports } = rule;
        Ok(Self { peers: list(peers, &at.field("peers"))?, ports: list(ports, &at.field("ports"))? })
    }
}

impl ToPb<pb::PolicyRule> for PolicyRule {
    fn to_pb(&self) -> pb::PolicyRule {
        let Self { peers, ports } = self;
        pb::PolicyRule { peers: all(peers), ports: all(ports) }
    }
}

impl FromPb<pb::PolicyPeer> for PolicyPeer {
    fn from_pb(peer: pb::PolicyPeer, at: &Path) -> Result<Self, Violations> {
        let pb::PolicyPeer { labels: wanted, network, cidr, except } = peer;
        let here = at.field("except");
        let except = except.iter().enumerate().map(|(index, text)| parse(text, &here.item(index)));
        Ok(Self {
            labels: labels(wanted, &at.field("labels"))?,
            network: optional(network, &at.field("network"))?,
            cidr: optional(cidr, &at.field("cidr"))?,
            except: except.collect::<Result<_, _>>()?,
        })
    }
}

impl ToPb<pb::PolicyPeer> for PolicyPeer {
    fn to_pb(&self) -> pb::PolicyPeer {
        let Self { labels, network, cidr, except } = self;
        pb::PolicyPeer {
            labels: labels.as_map().clone(),
            network: network.as_ref().map(Name::to_string),
            cidr: cidr.as_ref().map(Prefix::to_string),
            except: except.iter().map(Prefix::to_string).collect(),
        }
    }
}

impl FromPb<pb::PolicyPort> for PolicyPort {
    fn from_pb(port: pb::PolicyPort, at: &Path) -> Result<Self, Violations> {
        let pb::PolicyPort { protocol, port, end_port, r#type, code } = port;
        Ok(Self {
            protocol: required(&protocol, &at.field("protocol"))?,
            port: port.map(|port| u16_field(port, &at.field("port"))).transpose()?,
            end_port: end_port.map(|port| u16_field(port, &at.field("end_port"))).transpose()?,
            type_: r#type.map(|value| u8_field(value, &at.field("type"))).transpose()?,
            code: code.map(|value| u8_field(value, &at.field("code"))).transpose()?,
        })
    }
}

impl ToPb<pb::PolicyPort> for PolicyPort {
    fn to_pb(&self) -> pb::PolicyPort {
        let Self { protocol, port, end_port, type_, code } = self;
        pb::PolicyPort {
            protocol: protocol.to_string(),
            port: port.map(u32::from),
            end_port: end_port.map(u32::from),
            r#type: type_.map(u32::from),
            code: code.map(u32::from),
        }
    }
}

impl FromPb<pb::PolicyStatus> for Status<PolicyStatus> {
    fn from_pb(status: pb::PolicyStatus, at: &Path) -> Result<Self, Violations> {
        let pb::PolicyStatus { observed_generation, conditions, directions, selected } = status;
        let here = at.field("directions");
        let directions = directions.iter().enumerate().map(|(index, text)| parse(text, &here.item(index)));
        let directions = directions.collect::<Result<_, _>>()?;
        Status::read(observed_generation, conditions, PolicyStatus { directions, selected }, at)
    }
}

impl ToPb<pb::PolicyStatus> for Status<PolicyStatus> {
    fn to_pb(&self) -> pb::PolicyStatus {
        let Status { observed_generation, conditions, noun: PolicyStatus { directions, selected } } = self;
        pb::PolicyStatus {
            observed_generation: *observed_generation,
            conditions: all(conditions),
            directions: directions.iter().map(Direction::to_string).collect(),
            selected: *selected,
        }
    }
}

crate::envelope::envelope!(Policy, policy);
