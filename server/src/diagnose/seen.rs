//! What was looked at: network stacks as they are, strangers' things included.
//!
//! Not a [`HostNet`](crate::hostnet::HostNet): that holds what bears netloom's marks or stands in its way, so that a plan
//! is small. What stops a packet is as often a stranger's route, an address that somebody typed or a carrier that is
//! gone; so here is all of a stack, and no more than the stacks that a question is about.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use netloom_api::Mac;

use crate::hostnet::{Mark, Stack, rules::Rules};

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The stacks.
    pub stacks: BTreeMap<Stack, Look>,
    /// netloom's own firewall.
    pub rules: Rules,
    /// Everybody else's, in the stacks that were looked at.
    pub foreign: Vec<ForeignChain>,
    /// Firewalls that cannot be looked into, by name.
    pub opaque: Vec<String>,
    /// How many flows the host knows, and how many it can.
    pub flows: Option<(u64, u64)>,
}

/// One stack.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    /// There is none of this name.
    Missing,
    /// It could not be looked at, and why.
    Unknown(String),
    /// It is there.
    There(Here),
}

/// All of a stack that matters to a packet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Here {
    /// Of a namespace: whose it is.
    pub mark: Option<Mark>,
    /// By name.
    pub links: BTreeMap<String, Line>,
    /// Link and address.
    pub addresses: Vec<(String, IpNet)>,
    /// Of all tables.
    pub routes: Vec<Way>,
    /// Which table is asked when, in order.
    pub policies: Vec<Policy>,
    /// Who is behind which link.
    pub neighbours: Vec<Neighbour>,
    /// What listens.
    pub listeners: Vec<Listener>,
    /// Switches by their path below `/proc/sys/`.
    pub switches: BTreeMap<String, String>,
}

/// A link.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Whose it is.
    pub mark: Mark,
    /// `veth`, `bridge`, `loopback`, …; empty when the kernel has no word.
    pub kind: String,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The other side answers electrically, so to say: both ends of a cable are up.
    pub carrier: bool,
    /// The bridge that it is a port of.
    pub master: Option<String>,
    /// Of a cable: the other end, if it is in a stack that was looked at.
    pub peer: Option<(Stack, String)>,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// 255: the stack's own addresses; 254: `main`.
    pub table: u32,
    /// To where.
    pub destination: IpNet,
    /// What is done with the packet.
    pub fate: Fate,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// By which link.
    pub link: Option<String>,
    /// Lower wins among equally long prefixes.
    pub metric: u32,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Sends it.
    Unicast,
    /// Takes it in.
    Local,
    /// Drops it without a word.
    Blackhole,
    /// Drops it, and says so.
    Unreachable,
    /// Drops it as forbidden.
    Prohibit,
    /// Sends the search to the next table.
    Throw,
    /// Something that is no way for a packet to one host: broadcast, multicast.
    Other,
}

/// A policy rule: which packets ask which table (`ip rule`).
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Lower is asked first.
    pub priority: u32,
    /// Of IPv6.
    pub ipv6: bool,
    /// Only packets that do not match.
    pub invert: bool,
    /// Only from here.
    pub from: Option<IpNet>,
    /// Only to there.
    pub to: Option<IpNet>,
    /// Only those that came in by this link; `lo` is the stack itself.
    pub input: Option<String>,
    /// Only those with a mark; ours have none.
    pub marked: bool,
    /// It asks for what is not modelled (ports, users, tunnels).
    pub strange: bool,
    /// Which table; none: the packet is dropped.
    pub table: Option<u32>,
    /// Answers with a prefix of at most this length do not count.
    pub suppress: Option<u32>,
}

/// A neighbour.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    /// Behind which link.
    pub link: String,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address, when known.
    pub mac: Option<Mac>,
    /// As `ip neigh` says it.
    pub state: String,
}

/// A socket that waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Of UDP; else of TCP.
    pub udp: bool,
    /// On which address; unspecified: on all.
    pub address: IpAddr,
    /// On which port.
    pub port: u16,
}

/// A base chain of somebody else's firewall, with what its rules do.
#[derive(Clone, Debug, PartialEq)]
pub struct ForeignChain {
    /// Where it is.
    pub stack: Stack,
    /// `inet`, `ip`, `ip6`, `bridge`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Where it hooks in, in the words of nft.
    pub hook: Hook,
    /// Lower is asked first.
    pub priority: i32,
    /// What becomes of what no rule decides.
    pub drops: bool,
    /// Its rules.
    pub rules: Vec<ForeignRule>,
    /// The table's other chains, for jumps.
    pub others: BTreeMap<String, Vec<ForeignRule>>,
}

/// Where a chain hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    /// In the words of nft.
    pub fn as_str(self) -> &'static str {
        match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        }
    }
}

/// A rule: what it asks for, and what it does then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForeignRule {
    /// All must hold.
    pub asks: Vec<Ask>,
    /// It asks for something else, too, that cannot be judged from here.
    pub strange: bool,
    /// What it does.
    pub does: Deed,
    /// How many packets it has seen, if it counts.
    pub packets: Option<u64>,
}

/// What a rule asks of a packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Of which part.
    pub field: Field,
    /// Only these bits of it; empty: all.
    pub mask: Vec<u8>,
    /// What they must be.
    pub value: Vec<u8>,
    /// Or rather what they must not be.
    pub not: bool,
}

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Field {
    InputName,
    OutputName,
    /// 2 or 10.
    NetworkFamily,
    TransportProtocol,
    /// What conntrack thinks of the packet's flow.
    FlowState,
    /// Of the network header.
    Network {
        offset: u32,
        length: u32,
    },
    /// Of the transport header.
    Transport {
        offset: u32,
        length: u32,
    },
}

/// What a rule does.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Deed {
    /// Nothing that ends the packet's way.
    #[default]
    Nothing,
    /// Accept.
    Accept,
    /// Drop, or reject.
    Drop,
    /// Goes to a chain and comes back.
    Jump(String),
    /// Goes to a chain.
    Goto(String),
    /// Leaves the chain.
    Return,
}

impl Seen {
    /// The stack, if it is there.
    pub fn here(&self, stack: &Stack) -> Option<&Here> {
        match self.stacks.get(stack) {
            Some(Look::There(here)) => Some(here),
            Some(Look::Missing | Look::Unknown(_)) | None => None,
        }
    }
}

impl Here {
    /// The links' addresses of one link.
    pub fn addresses_of<'a>(&'a self, link: &'a str) -> impl Iterator<Item = &'a IpNet> {
        self.addresses.iter().filter(move |(on, _)| on == link).map(|(_, net)| net)
    }

    /// The link that has exactly this address.
    pub fn holder(&self, address: IpAddr) -> Option<&str> {
        self.addresses.iter().find(|(_, net)| net.addr() == address).map(|(link, _)| link.as_str())
    }

    /// What is known of a neighbour.
    pub fn neighbour(&self, link: &str, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours.iter().find(|one| one.link == link && one.address == address)
    }

    /// Whether a switch stands on something else than 0.
    pub fn is_on(&self, path: &str) -> bool {
        self.switches.get(path).is_some_and(|value| value != "0")
    }
}
