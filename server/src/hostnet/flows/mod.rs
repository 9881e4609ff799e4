//! Flows that the kernel must forget, so that their next packet is judged by the rules that hold now.
//!
//! Address translation is decided by the first packet of a flow and kept for its life; so when a published port, an
//! address or a way out changes, the flows that it was decided for must go, *after* the rules have changed, and no
//! other flow. Policies and isolation need none of this: they are asked about every packet.

mod after;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::rules::Transport;

pub use after::stale_after;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Who sends.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// 0 for protocols without ports.
    pub source_port: u16,
    /// 0 for protocols without ports.
    pub destination_port: u16,
}

/// A flow as conntrack has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The number in the IP header.
    pub protocol: u8,
    /// As its first packet came in.
    pub original: Tuple,
    /// As answers come in; its source is who really answers.
    pub reply: Tuple,
}

/// A published port or range, as it was or as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Published {
    /// The host's address; `None` for all of them.
    pub listen: Option<IpAddr>,
    /// Its protocol.
    pub transport: Transport,
    /// Its ports.
    pub ports: Ports,
    /// Where it leads.
    pub target: IpAddr,
    /// To which port the first one leads; the others follow.
    pub target_port: u16,
}

/// Ports from first to last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// Which flows have become wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stale {
    /// Those that came through what was published, which is gone or leads elsewhere now.
    Withdrawn(Published),
    /// Those to what is published now that do not lead to its target.
    Announced {
        /// As it is now.
        published: Published,
        /// The host's addresses; a flow through the host to a stranger's equal port is none of ours.
        host: BTreeSet<IpAddr>,
    },
    /// Those through what is published whose source may not any more.
    Narrowed {
        /// As it is now.
        published: Published,
        /// Who may.
        sources: Vec<IpNet>,
        /// The host's addresses; the host itself always may.
        host: BTreeSet<IpAddr>,
    },
    /// Those from or to an address that is gone.
    Address(IpAddr),
    /// Those that left a subnet whose way out has changed.
    Egress(IpNet),
}

/// Parts of a tuple that a filter asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// From this address.
    pub source: Option<IpAddr>,
    /// To this address.
    pub destination: Option<IpAddr>,
    /// From this port; only together with a protocol.
    pub source_port: Option<u16>,
    /// To this port; only together with a protocol.
    pub destination_port: Option<u16>,
}

/// A filter over flows of one family that the kernel itself can apply. It always asks for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    ipv6: bool,
    protocol: Option<Transport>,
    original: Partial,
    reply: Partial,
}

impl Stale {
    /// Filters that find these flows, and perhaps others: [`Stale::covers`] decides, unless
    /// [`Stale::is_exact`].
    pub fn filters(&self) -> Vec<Filter> {
        match self {
            Self::Withdrawn(published)
            | Self::Announced { published, host: _ }
            | Self::Narrowed { published, sources: _, host: _ } => {
                let mut filter = Filter::of(published.target, Some(published.transport));
                filter.original.destination = published.listen;
                filter.original.destination_port = published.ports.single();
                if !matches!(self, Self::Announced { .. }) {
                    filter.reply.source = Some(published.target);
                    filter.reply.source_port = published.ports.single().map(|_| published.target_port);
                }
                vec![filter]
            }
            Self::Address(address) => {
                let (mut from, mut to) = (Filter::of(*address, None), Filter::of(*address, None));
                from.original.source = Some(*address);
                to.reply.source = Some(*address);
                vec![from, to]
            }
            Self::Egress(_) => Vec::new(),
        }
    }

    /// Whether the filters find these flows and no others.
    pub fn is_exact(&self) -> bool {
        match self {
            Self::Withdrawn(published) => published.ports.single().is_some(),
            Self::Address(_) => true,
            Self::Announced { .. } | Self::Narrowed { .. } | Self::Egress(_) => false,
        }
    }

    /// Whether the flow must go.
    pub fn covers(&self, flow: &Flow) -> bool {
        match self {
            Self::Withdrawn(published) => published.is_way_of(flow),
            Self::Announced { published, host } => {
                let destination = flow.original.destination;
                let to_host = destination.is_loopback() || host.contains(&destination);
                published.is_asked_by(flow)
                    && (published.listen.is_some() || to_host)
                    && !published.is_way_of(flow)
            }
            Self::Narrowed { published, sources, host } => {
                let source = flow.original.source;
                published.is_way_of(flow)
                    && !source.is_loopback()
                    && !host.contains(&source)
                    && !sources.iter().any(|net| net.contains(&source))
            }
            Self::Address(address) => flow.original.source == *address || flow.reply.source == *address,
            // What stays inside is not translated.
            Self::Egress(net) => net.contains(&flow.original.source) && !net.contains(&flow.reply.source),
        }
    }

    /// Whether the host's own addresses are needed to tell.
    pub fn needs_host(&self) -> bool {
        match self {
            Self::Announced { published, host: _ } => published.listen.is_none(),
            Self::Narrowed { .. } => true,
            Self::Withdrawn(_) | Self::Address(_) | Self::Egress(_) => false,
        }
    }

    /// With the host's own addresses as they are now.
    pub fn on_host(self, own: &BTreeSet<IpAddr>) -> Self {
        match self {
            Self::Announced { published, host: _ } => Self::Announced { published, host: own.clone() },
            Self::Narrowed { published, sources, host: _ } => {
                Self::Narrowed { published, sources, host: own.clone() }
            }
            other @ (Self::Withdrawn(_) | Self::Address(_) | Self::Egress(_)) => other,
        }
    }

    /// The family of its flows.
    pub fn is_ipv6(&self) -> bool {
        match self {
            Self::Withdrawn(published)
            | Self::Announced { published, host: _ }
            | Self::Narrowed { published, sources: _, host: _ } => published.target.is_ipv6(),
            Self::Address(address) => address.is_ipv6(),
            Self::Egress(net) => net.addr().is_ipv6(),
        }
    }
}

impl Published {
    /// Whether there may be flows from before that do not lead to the target. A TCP connection to a port of any address
    /// was with somebody who listened there, and then the port could not have been had; a dead one begins anew.
    fn takes_over(&self) -> bool {
        self.listen.is_some() || self.transport != Transport::Tcp
    }

    /// Whether the flow's first packet was for this port.
    fn is_asked_by(&self, flow: &Flow) -> bool {
        let Tuple { destination, destination_port, .. } = flow.original;
        flow.protocol == self.transport.number()
            && self.ports.contains(destination_port)
            && destination.is_ipv6() == self.target.is_ipv6()
            && self.listen.is_none_or(|listen| listen == destination)
    }

    /// Whether the flow came this way and reached the target.
    fn is_way_of(&self, flow: &Flow) -> bool {
        let port =
            flow.original.destination_port.wrapping_sub(self.ports.first).wrapping_add(self.target_port);
        self.is_asked_by(flow) && flow.reply.source == self.target && flow.reply.source_port == port
    }
}

impl Ports {
    /// The one port, if it is one.
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// Whether the port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl From<RangeInclusive<u16>> for Ports {
    fn from(ports: RangeInclusive<u16>) -> Self {
        Self { first: *ports.start(), last: *ports.end() }
    }
}

impl From<Tuple> for Partial {
    fn from(tuple: Tuple) -> Self {
        Self {
            source: Some(tuple.source),
            destination: Some(tuple.destination),
            source_port: Some(tuple.source_port),
            destination_port: Some(tuple.destination_port),
        }
    }
}

impl Filter {
    /// A filter, if it asks for something, and for ports together with a protocol.
    pub fn new(ipv6: bool, protocol: Option<Transport>, original: Partial, reply: Partial) -> Option<Self> {
        let has_port = |partial: Partial| partial.source_port.or(partial.destination_port).is_some();
        let asks = original != Partial::default() || reply != Partial::default();
        let ports_make_sense = protocol.is_some() || !(has_port(original) || has_port(reply));
        (asks && ports_make_sense).then_some(Self { ipv6, protocol, original, reply })
    }

    fn of(address: IpAddr, protocol: Option<Transport>) -> Self {
        Self { ipv6: address.is_ipv6(), protocol, original: Partial::default(), reply: Partial::default() }
    }

    /// The family of its flows.
    pub fn is_ipv6(&self) -> bool {
        self.ipv6
    }

    /// The protocol of its flows.
    pub fn protocol(&self) -> Option<Transport> {
        self.protocol
    }

    /// What it asks of the first packet.
    pub fn original(&self) -> Partial {
        self.original
    }

    /// What it asks of the answers.
    pub fn reply(&self) -> Partial {
        self.reply
    }

    /// Whether it finds the flow.
    pub fn finds(&self, flow: &Flow) -> bool {
        let direction = |partial: Partial, tuple: Tuple| {
            partial.source.is_none_or(|address| address == tuple.source)
                && partial.destination.is_none_or(|address| address == tuple.destination)
                && partial.source_port.is_none_or(|port| port == tuple.source_port)
                && partial.destination_port.is_none_or(|port| port == tuple.destination_port)
        };
        flow.original.source.is_ipv6() == self.ipv6
            && self.protocol.is_none_or(|protocol| protocol.number() == flow.protocol)
            && direction(self.original, flow.original)
            && direction(self.reply, flow.reply)
    }
}

/// As a person would do it by hand.
impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Withdrawn(published)
            | Self::Announced { published, host: _ }
            | Self::Narrowed { published, sources: _, host: _ } => {
                let Published { listen, transport, ports, target: _, target_port: _ } = published;
                write!(f, "conntrack -D -p {transport} --orig-port-dst {}", ports.first)?;
                if ports.last != ports.first {
                    write!(f, ":{}", ports.last)?;
                }
                listen.map_or(Ok(()), |listen| write!(f, " --orig-dst {listen}"))
            }
            Self::Address(address) => {
                write!(f, "conntrack -D -s {address}; conntrack -D --reply-src {address}")
            }
            Self::Egress(net) => write!(f, "conntrack -D -s {net}"),
        }
    }
}

#[cfg(test)]
mod tests;
