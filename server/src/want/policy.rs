//! Policies want a chain for each set of them that selects somebody, and direction; the peers of their rules; and that
//! flows of the addresses that they select are led to the chain of their set.
//!
//! Costs: who is selected by nobody pays nothing here. A label is an element of each rule that means it. A rule that changes
//! is a chain for each set with its policy, whoever is selected.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netloom_api::{Attachment, Direction, Kind, Network, PeerKind, Policy, PolicyPort, PolicyRule, Prefix};

use super::{attachment, network};
use crate::{
    hostnet::{
        HostNet,
        rules::{Body, Chain, Element, Flowing, Numbers, Peers, Permit, PolicySet, RuleTag, Service},
    },
    world::{Stored, World},
};

/// Whom its rules mean by labels and networks.
pub(super) fn want(world: &World, policy: &Stored<Policy>, net: &mut HostNet) {
    for (tag, rule) in tagged(policy) {
        for peer in world.peers(rule).attachments {
            if let Some(network) = attachment::network_of(world, &peer) {
                add_peer(&tag, &peer, network, net);
            }
        }
    }
}

/// That rules mean an attachment.
pub(super) fn peer(
    world: &World,
    attachment: &Stored<Attachment>,
    network: &Stored<Network>,
    net: &mut HostNet,
) {
    for policy in world.policies_with_peer(attachment) {
        let means = |rule: &PolicyRule| {
            rule.peers.iter().any(|peer| match peer.kind() {
                PeerKind::Attachments(selector) => {
                    selector.admits(&attachment.meta.labels, &attachment.spec.network)
                }
                PeerKind::Prefix(..) => false,
            })
        };
        for (tag, _) in tagged(policy).filter(|(_, rule)| means(rule)) {
            add_peer(&tag, attachment, network, net);
        }
    }
}

/// That an attachment's flows are judged, if any policy selects it; and that its frames go through the host then.
pub(super) fn lead(
    world: &World,
    attachment: &Stored<Attachment>,
    network: &Stored<Network>,
    net: &mut HostNet,
) {
    let elements = &mut net.rules.elements;
    let sets: Vec<PolicySet> = sets_of(world, attachment).collect();
    let addresses = addresses(attachment, network);
    for set in &sets {
        let chain = set.chain();
        elements
            .extend(addresses.iter().map(|address| Element::judged(*address, set.flowing, chain.clone())));
        if set.flowing == Flowing::In {
            elements.insert(Element::quiet(attachment.alloc.host_device.as_str()));
            elements.extend(addresses.iter().map(|address| Element::selected(*address)));
        }
    }
    if !sets.is_empty() {
        elements.extend(addresses.iter().map(|address| Element::deny_counted(*address)));
    }
    // Frames between members would never come to the rules.
    if !sets.is_empty() || network.spec.isolates_members() {
        elements.extend(addresses.iter().map(|address| Element::routed_by_host(*address)));
    }
}

/// The chain of a set of policies, if it leads there for anybody.
pub(super) fn chain(world: &World, set: &PolicySet, net: &mut HostNet) {
    let Some(policies) = policies_of(world, set).filter(|_| is_used(world, set)) else { return };
    let name = set.chain();
    let rules = policies.iter().flat_map(|policy| tagged(policy));
    let rules = rules.filter(|(tag, _)| tag.flowing() == set.flowing);
    let permits: Vec<Permit> = rules.flat_map(|(tag, rule)| permits(&tag, rule)).collect();
    let body = Body {
        name: name.clone(),
        flowing: set.flowing,
        // What everybody may do in any case need not be asked for again.
        permits: if permits.contains(&EVERYTHING) { vec![EVERYTHING] } else { permits },
        log: policies.iter().any(|policy| policy.spec.log()),
    };
    net.rules.elements.insert(Element::denied(&name));
    net.rules.chains.insert(name, Chain::new(body));
}

const EVERYTHING: Permit = Permit { peers: Peers::Any, service: Service::Any };

/// The sets of policies that select an attachment: at most one of each direction.
pub(crate) fn sets_of(world: &World, attachment: &Stored<Attachment>) -> impl Iterator<Item = PolicySet> {
    let policies = world.policies_of(attachment);
    Direction::ALL.into_iter().filter_map(move |direction| {
        let about = policies.iter().filter(|policy| policy.spec.is_about(direction));
        let policies: BTreeSet<_> = about.map(|policy| policy.meta.uid).collect();
        (!policies.is_empty()).then(|| PolicySet { flowing: flowing(direction), policies })
    })
}

/// Whether just these policies select any attachment. Whoever comes first answers, as a rule; it takes longest where all that
/// they select is selected by others, too.
pub(super) fn is_used(world: &World, set: &PolicySet) -> bool {
    let Some(policies) = policies_of(world, set) else { return false };
    let led = |one: &Stored<Attachment>| {
        attachment::network_of(world, one).is_some() && sets_of(world, one).any(|other| other == *set)
    };
    let mut each: Vec<_> = policies.iter().map(|policy| world.each_meant(&policy.spec.selector)).collect();
    while !each.is_empty() {
        for one in &mut each {
            match one.next() {
                None => return false,
                Some(attachment) if led(attachment) => return true,
                Some(_) => {}
            }
        }
    }
    false
}

/// The policies of a set, in the order of their names; none when one of them is not there, or is being deleted.
fn policies_of<'w>(world: &'w World, set: &PolicySet) -> Option<Vec<&'w Stored<Policy>>> {
    let policy = |uid| match world.find(uid)? {
        (Kind::Policy, name) => super::living::<Policy>(world, name),
        _ => None,
    };
    let mut policies = set.policies.iter().map(policy).collect::<Option<Vec<_>>>()?;
    policies.sort_by(|one, other| one.meta.name.cmp(&other.meta.name));
    Some(policies)
}

/// The rules of the directions that a policy is about, each with its tag.
fn tagged(policy: &Stored<Policy>) -> impl Iterator<Item = (RuleTag, &PolicyRule)> {
    policy.spec.directions().flat_map(move |direction| {
        let rules = policy.spec.rules(direction).iter().enumerate();
        rules
            .filter_map(move |(at, rule)| Some((RuleTag::of(policy.meta.uid, flowing(direction), at)?, rule)))
    })
}

fn flowing(direction: Direction) -> Flowing {
    match direction {
        Direction::Ingress => Flowing::In,
        Direction::Egress => Flowing::Out,
    }
}

fn add_peer(tag: &RuleTag, peer: &Stored<Attachment>, network: &Stored<Network>, net: &mut HostNet) {
    let elements = addresses(peer, network).into_iter().map(|address| Element::peer(tag, address));
    net.rules.elements.extend(elements);
}

/// All addresses that an attachment has, the link-local one too.
fn addresses(attachment: &Stored<Attachment>, network: &Stored<Network>) -> Vec<IpAddr> {
    let own = attachment.alloc.addresses.iter().map(|address| address.0.addr());
    let link_local =
        network::has_ipv6(network).then(|| IpAddr::V6(attachment::link_local(attachment.alloc.mac)));
    own.chain(link_local).collect()
}

/// A rule's peers by its services.
fn permits(tag: &RuleTag, rule: &PolicyRule) -> Vec<Permit> {
    let services = services(&rule.ports);
    let pair = |peers: Peers| {
        services.iter().map(move |service| Permit { peers: peers.clone(), service: service.clone() })
    };
    peers(tag, rule).into_iter().flat_map(|peers| pair(peers).collect::<Vec<_>>()).collect()
}

fn peers(tag: &RuleTag, rule: &PolicyRule) -> Vec<Peers> {
    if rule.peers.is_empty() {
        return vec![Peers::Any];
    }
    let mut found = Vec::new();
    let (mut nets4, mut nets6) = (Vec::new(), Vec::new());
    for peer in &rule.peers {
        match peer.kind() {
            PeerKind::Attachments(_) => {
                found = vec![Peers::Tagged4(tag.clone()), Peers::Tagged6(tag.clone())]
            }
            PeerKind::Prefix(cidr, except) => match ends(cidr) {
                (IpAddr::V4(first), IpAddr::V4(last)) => nets4.extend(without((first, last), except)),
                (IpAddr::V6(first), IpAddr::V6(last)) => nets6.extend(without((first, last), except)),
                (_, _) => {}
            },
        }
    }
    // A prefix whose exceptions are all of it means nobody.
    let (nets4, nets6) = (merged(nets4), merged(nets6));
    found.extend((!nets4.is_empty()).then_some(Peers::Nets4(nets4)));
    found.extend((!nets6.is_empty()).then_some(Peers::Nets6(nets6)));
    found
}

fn ends(prefix: Prefix) -> (IpAddr, IpAddr) {
    let net = prefix.net();
    (net.network(), net.broadcast())
}

/// Numbers in a row: addresses, or ports.
trait Row: Copy + Ord {
    fn next(self) -> Option<Self>;
    fn previous(self) -> Option<Self>;
    fn of(address: IpAddr) -> Option<Self>;
}

impl Row for Ipv4Addr {
    fn next(self) -> Option<Self> {
        self.to_bits().checked_add(1).map(Self::from_bits)
    }

    fn previous(self) -> Option<Self> {
        self.to_bits().checked_sub(1).map(Self::from_bits)
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
}

impl Row for Ipv6Addr {
    fn next(self) -> Option<Self> {
        self.to_bits().checked_add(1).map(Self::from_bits)
    }

    fn previous(self) -> Option<Self> {
        self.to_bits().checked_sub(1).map(Self::from_bits)
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }
}

/// What is left of an interval without these prefixes.
fn without<A: Row>((first, last): (A, A), except: &[Prefix]) -> Vec<(A, A)> {
    let holes = except.iter().filter_map(|prefix| {
        let (first, last) = ends(*prefix);
        Some((A::of(first)?, A::of(last)?))
    });
    let mut left = Vec::new();
    let mut from = Some(first);
    for (hole_first, hole_last) in merged(holes.collect()) {
        let Some(start) = from else { break };
        if hole_last < start || hole_first > last {
            continue;
        }
        left.extend(hole_first.previous().filter(|end| *end >= start).map(|end| (start, end)));
        from = hole_last.next();
    }
    left.extend(from.filter(|start| *start <= last).map(|start| (start, last)));
    left
}

/// The same numbers by intervals that are apart from each other and in order: the kernel takes no others.
fn merged<A: Row>(mut intervals: Vec<(A, A)>) -> Vec<(A, A)> {
    intervals.sort_unstable();
    let mut merged: Vec<(A, A)> = Vec::with_capacity(intervals.len());
    for (first, last) in intervals {
        match merged.last_mut() {
            Some((_, end)) if end.next().is_none_or(|behind| first <= behind) => *end = last.max(*end),
            Some(_) | None => merged.push((first, last)),
        }
    }
    merged
}

fn services(ports: &[PolicyPort]) -> Vec<Service> {
    if ports.is_empty() {
        return vec![Service::Any];
    }
    let of = |with_ports: bool| {
        let fitting = ports.iter().filter(|port| port.protocol.has_ports() == with_ports);
        joined(fitting.map(numbers).collect())
    };
    let (transport, icmp) = (of(true), of(false));
    let transport = (!transport.is_empty()).then_some(Service::Ports(transport));
    transport.into_iter().chain((!icmp.is_empty()).then_some(Service::Icmp(icmp))).collect()
}

fn numbers(port: &PolicyPort) -> Numbers {
    let (first, last) = match (port.ports(), port.type_, port.code) {
        (Some(ports), _, _) => ports,
        (None, Some(type_), Some(code)) => {
            let one = u16::from_be_bytes([type_, code]);
            (one, one)
        }
        (None, Some(type_), None) => (u16::from_be_bytes([type_, 0]), u16::from_be_bytes([type_, u8::MAX])),
        (None, None, _) => (0, u16::MAX),
    };
    Numbers { protocol: port.protocol.number(), first, last }
}

/// The same numbers by intervals that are apart from each other and in order.
fn joined(numbers: Vec<Numbers>) -> Vec<Numbers> {
    let mut by_protocol: BTreeMap<u8, Vec<(u16, u16)>> = BTreeMap::new();
    for Numbers { protocol, first, last } in numbers {
        by_protocol.entry(protocol).or_default().push((first, last));
    }
    let intervals = by_protocol.into_iter().flat_map(|(protocol, intervals)| {
        let all = merged(intervals).into_iter();
        all.map(move |(first, last)| Numbers { protocol, first, last })
    });
    intervals.collect()
}

impl Row for u16 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }

    fn of(_: IpAddr) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = Prefix> {
        // Narrow enough to meet each other.
        (any::<u8>(), 24_u8..=32).prop_map(|(low, length)| {
            let net = ipnet::Ipv4Net::new(Ipv4Addr::new(10, 0, 0, low), length).unwrap().trunc();
            net.to_string().parse().unwrap()
        })
    }

    proptest! {
        #[test]
        fn what_is_left_of_a_prefix_is_what_no_exception_is_about(
            cidr in prefix(), except in prop::collection::vec(prefix(), 0..6), more in prefix(),
        ) {
            let (IpAddr::V4(first), IpAddr::V4(last)) = ends(cidr) else { unreachable!() };
            let mut all = without((first, last), &except);
            let (IpAddr::V4(other_first), IpAddr::V4(other_last)) = ends(more) else { unreachable!() };
            all.push((other_first, other_last));
            let all = merged(all);
            for low in 0..=255 {
                let address = Ipv4Addr::new(10, 0, 0, low);
                let within = |prefix: &Prefix| prefix.net().contains(&IpAddr::V4(address));
                let wanted = within(&more) || (within(&cidr) && !except.iter().any(within));
                let found = all.iter().filter(|(first, last)| (*first..=*last).contains(&address)).count();
                prop_assert_eq!(found, usize::from(wanted), "{}", address);
            }
            for pair in all.windows(2) {
                prop_assert!(pair[0].1.next().unwrap() < pair[1].0, "{:?}", all);
            }
        }
    }

    #[test]
    fn the_whole_of_both_families_has_no_end_to_stumble_over() {
        let all = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_bits(u128::MAX));
        assert_eq!(without(all, &[]), [all]);
        let half: Prefix = "8000::/1".parse().unwrap();
        let left = without(all, &[half]);
        assert_eq!(left, [(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_bits(u128::MAX >> 1))]);
        assert_eq!(without(all, &["::/0".parse().unwrap()]), []);
        assert_eq!(merged(vec![all, all, (all.1, all.1)]), [all]);
    }

    #[test]
    fn ports_and_types_become_intervals_of_numbers() {
        let port = |protocol, port, end_port| PolicyPort { port, end_port, ..PolicyPort::all_of(protocol) };
        use netloom_api::PolicyProtocol::{Icmp, Icmpv6, Tcp, Udp};
        let echo = PolicyPort { type_: Some(8), ..PolicyPort::all_of(Icmp) };
        let one = PolicyPort { type_: Some(128), code: Some(0), ..PolicyPort::all_of(Icmpv6) };
        let ports = [
            port(Tcp, Some(80), None),
            port(Tcp, Some(81), Some(90)),
            port(Tcp, Some(443), None),
            port(Udp, None, None),
            port(Udp, Some(53), None),
            echo,
            one,
        ];
        let numbers = |protocol, first, last| Numbers { protocol, first, last };
        assert_eq!(
            services(&ports),
            [
                Service::Ports(vec![numbers(6, 80, 90), numbers(6, 443, 443), numbers(17, 0, u16::MAX)]),
                Service::Icmp(vec![numbers(1, 0x0800, 0x08ff), numbers(58, 0x8000, 0x8000)]),
            ]
        );
        assert_eq!(services(&[]), [Service::Any]);
    }
}
