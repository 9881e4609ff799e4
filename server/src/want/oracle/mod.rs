//! Who may start a flow to whom, by Policies alone, and who decided it.
//!
//! This is the meaning of a Policy, said once more without any word of the firewall: it looks at every Policy of the World,
//! knows no index, no set and no chain, and is what the rules and the packets are compared with. It says nothing of routes,
//! isolation or port forwards. Of a published port the destination is the Attachment behind it, and the source is the
//! original one; what is sent out with another's address is judged by its own.

use std::net::IpAddr;

use netloom_api::{
    Attachment, Direction, Name, PeerKind, Policy, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule,
    Protocol,
};

use crate::world::{Stored, World};

/// One end of a flow: where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point<'w> {
    /// Whose it is.
    pub at: At<'w>,
    /// The address, link-local ones included.
    pub address: IpAddr,
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At<'w> {
    /// An Attachment's.
    Attachment(&'w Name),
    /// The host's own.
    Host,
    /// Somebody's that is neither.
    Outside,
}

/// What starts the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A packet to a port.
    Port(Protocol, u16),
    /// A message of ICMP, or of ICMPv6, by the family of the addresses: type and code.
    Icmp(u8, u8),
    /// Another protocol, by its number.
    Other(u8),
}

/// What the Policies make of a flow: it passes if both of its ends say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of the end that it comes from.
    pub egress: Decision,
    /// Of the end that it goes to.
    pub ingress: Decision,
}

/// What the Policies of one end say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// None of this direction selects it.
    Open,
    /// These allow it.
    Allowed(Vec<Name>),
    /// These select it, and no rule of theirs allows it.
    Denied(Vec<Name>),
}

impl Decision {
    /// Whether this end lets it pass.
    pub fn passes(&self) -> bool {
        match self {
            Decision::Open | Decision::Allowed(_) => true,
            Decision::Denied(_) => false,
        }
    }
}

impl Verdict {
    /// Whether it passes.
    pub fn passes(&self) -> bool {
        self.egress.passes() && self.ingress.passes()
    }
}

/// What the Policies make of a new flow.
pub fn verdict(world: &World, from: Point<'_>, to: Point<'_>, traffic: Traffic) -> Verdict {
    let (sender, target) = (living(world, from.at), living(world, to.at));
    // What never leaves its namespace passes nobody.
    if let (Some(sender), Some(target)) = (sender, target)
        && sender.spec.namespace == target.spec.namespace
    {
        return Verdict { egress: Decision::Open, ingress: Decision::Open };
    }
    let egress = decide(world, Direction::Egress, sender, to, traffic);
    // The host reaches whom it hosts.
    let ingress = match from.at {
        At::Host => Decision::Open,
        At::Attachment(_) | At::Outside => decide(world, Direction::Ingress, target, from, traffic),
    };
    Verdict { egress, ingress }
}

fn living<'w>(world: &'w World, at: At<'_>) -> Option<&'w Stored<Attachment>> {
    match at {
        At::Attachment(name) => {
            let attachment = world.get::<Attachment>(name).map(|attachment| &**attachment);
            attachment.filter(|attachment| attachment.meta.delete_time.is_none())
        }
        At::Host | At::Outside => None,
    }
}

fn decide(
    world: &World,
    direction: Direction,
    end: Option<&Stored<Attachment>>,
    other: Point<'_>,
    traffic: Traffic,
) -> Decision {
    let Some(end) = end else { return Decision::Open };
    let selects = |policy: &&Stored<Policy>| {
        policy.meta.delete_time.is_none()
            && policy.spec.is_about(direction)
            && policy.spec.selector.admits(&end.meta.labels, &end.spec.network)
    };
    let selecting: Vec<&Stored<Policy>> =
        world.all::<Policy>().map(|policy| &**policy).filter(selects).collect();
    if selecting.is_empty() {
        return Decision::Open;
    }
    let allows = |policy: &&&Stored<Policy>| {
        policy.spec.rules(direction).iter().any(|rule| admits(world, rule, other, traffic))
    };
    let names =
        |policies: Vec<&Stored<Policy>>| policies.iter().map(|policy| policy.meta.name.clone()).collect();
    let allowing: Vec<&Stored<Policy>> = selecting.iter().filter(allows).copied().collect();
    if allowing.is_empty() { Decision::Denied(names(selecting)) } else { Decision::Allowed(names(allowing)) }
}

fn admits(world: &World, rule: &PolicyRule, other: Point<'_>, traffic: Traffic) -> bool {
    let PolicyRule { peers, ports } = rule;
    let by_peer = peers.is_empty() || peers.iter().any(|peer| is_peer(world, peer, other));
    let by_port =
        ports.is_empty() || ports.iter().any(|port| is_port(port, other.address.is_ipv4(), traffic));
    by_peer && by_port
}

fn is_peer(world: &World, peer: &PolicyPeer, other: Point<'_>) -> bool {
    match peer.kind() {
        PeerKind::Attachments(selector) => living(world, other.at)
            .is_some_and(|other| selector.admits(&other.meta.labels, &other.spec.network)),
        PeerKind::Prefix(cidr, except) => {
            let holds = |prefix: &netloom_api::Prefix| prefix.net().contains(&other.address);
            holds(&cidr) && !except.iter().any(holds)
        }
    }
}

fn is_port(port: &PolicyPort, ipv4: bool, traffic: Traffic) -> bool {
    match traffic {
        Traffic::Port(protocol, to) => {
            port.protocol == protocol.into()
                && port.ports().is_none_or(|(first, last)| (first..=last).contains(&to))
        }
        Traffic::Icmp(type_, code) => {
            let family = if ipv4 { PolicyProtocol::Icmp } else { PolicyProtocol::Icmpv6 };
            port.protocol == family
                && port.type_.is_none_or(|wanted| wanted == type_)
                && port.code.is_none_or(|wanted| wanted == code)
        }
        Traffic::Other(number) => {
            number == port.protocol.number() && *port == PolicyPort::all_of(port.protocol)
        }
    }
}

#[cfg(test)]
mod tests;
