//! Flows that the kernel must forget, so that their next packet is judged by the rules that hold now.
//!
//! Address translation is decided by the first packet of a flow and kept for its life; so when a published port, an
//! address or a way out changes, the flows that it was decided for must go, *after* the rules have changed, and no
//! other flow. Policies and isolation need none of this: they are asked about every packet.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::rules::{Data, Element, Part, SetId, Transport};

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

/// The flows that a change of the firewall's elements makes wrong.
pub fn stale_after(remove: &[Element], add: &[Element]) -> BTreeSet<Stale> {
    let withdrawn = remove.iter().filter_map(published).map(Stale::Withdrawn);
    // A flow to a port of any address may be a stranger's through the host; only those to one address are surely ours.
    let announced = add.iter().filter_map(published).filter_map(|published| {
        let host = BTreeSet::from([published.listen?]);
        Some(Stale::Announced { published, host })
    });
    let kept: BTreeSet<IpAddr> = add.iter().filter_map(guarded).collect();
    let gone =
        remove.iter().filter_map(guarded).filter(|address| !kept.contains(address)).map(Stale::Address);
    let left = remove.iter().chain(add).filter_map(translated).map(Stale::Egress);
    withdrawn.chain(announced).chain(gone).chain(left).collect()
}

/// What an element of the forwards publishes.
fn published(element: &Element) -> Option<Published> {
    let (target, to_port) = match element.data() {
        Data::Ipv4(address) => ((*address).into(), None),
        Data::Ipv6(address) => ((*address).into(), None),
        Data::Ipv4Service(address, port) => ((*address).into(), Some(*port)),
        Data::Ipv6Service(address, port) => ((*address).into(), Some(*port)),
        Data::None | Data::Verdict(_) | Data::Ether(_) => return None,
    };
    let (listen, transport, first) = match element.key() {
        [Part::Ipv4(on), Part::InetProto(transport), Part::InetService(port)] => {
            (Some((*on).into()), *transport, *port)
        }
        [Part::Ipv6(on), Part::InetProto(transport), Part::InetService(port)] => {
            (Some((*on).into()), *transport, *port)
        }
        [Part::InetProto(transport), Part::InetService(port)] => (None, *transport, *port),
        _ => return None,
    };
    let last = match element.last() {
        Some([.., Part::InetService(last)]) => *last,
        Some(_) | None => first,
    };
    let ports = Ports { first, last };
    Some(Published { listen, transport, ports, target, target_port: to_port.unwrap_or(first) })
}

/// The address that an element lets a port use; link-local ones are every port's own.
fn guarded(element: &Element) -> Option<IpAddr> {
    match (element.set(), element.key()) {
        (SetId::Guard4, [.., Part::Ipv4(address)]) => Some((*address).into()),
        (SetId::Guard6, [.., Part::Ipv6(address)]) if !address.is_unicast_link_local() => {
            Some((*address).into())
        }
        _ => None,
    }
}

/// The subnet that an element translates on its way out. A new one has flows only if it was routed before.
fn translated(element: &Element) -> Option<IpNet> {
    if !matches!(element.set(), SetId::Masq4 | SetId::Masq6 | SetId::Snat4 | SetId::Snat6) {
        return None;
    }
    match (element.key(), element.last()?) {
        ([Part::Ipv4(first)], [Part::Ipv4(last)]) => {
            let length = (u32::from(*first) ^ u32::from(*last)).leading_zeros();
            IpNet::new((*first).into(), u8::try_from(length).ok()?).ok()
        }
        ([Part::Ipv6(first)], [Part::Ipv6(last)]) => {
            let length = (u128::from(*first) ^ u128::from(*last)).leading_zeros();
            IpNet::new((*first).into(), u8::try_from(length).ok()?).ok()
        }
        _ => None,
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAN: &str = "192.0.2.100";
    const HOST: &str = "192.0.2.1";
    const TARGET: &str = "10.1.0.11";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn published(listen: Option<&str>, ports: impl Into<Ports>, target_port: u16) -> Published {
        Published {
            listen: listen.map(ip),
            transport: Transport::Udp,
            ports: ports.into(),
            target: ip(TARGET),
            target_port,
        }
    }

    /// From the LAN to a port of this address, answered by this address and port.
    fn flow(to: &str, port: u16, by: &str, by_port: u16) -> Flow {
        let (source, source_port) = (ip(LAN), 40_000);
        Flow {
            protocol: 17,
            original: Tuple { source, destination: ip(to), source_port, destination_port: port },
            reply: Tuple {
                source: ip(by),
                destination: source,
                source_port: by_port,
                destination_port: source_port,
            },
        }
    }

    fn host() -> BTreeSet<IpAddr> {
        [ip(HOST)].into()
    }

    #[test]
    fn a_withdrawn_port_takes_the_flows_that_came_through_it() {
        let stale = Stale::Withdrawn(published(None, 8080, 80));
        assert!(stale.covers(&flow(HOST, 8080, TARGET, 80)));
        assert!(stale.covers(&flow("192.0.2.2", 8080, TARGET, 80)));
        for other in [
            flow(HOST, 8081, TARGET, 80),
            flow(HOST, 8080, TARGET, 81),
            flow(HOST, 8080, "10.1.0.12", 80),
            flow("198.51.100.7", 8080, "198.51.100.7", 8080),
            Flow { protocol: 6, ..flow(HOST, 8080, TARGET, 80) },
        ] {
            assert!(!stale.covers(&other), "{other:?}");
        }
        let one = Stale::Withdrawn(published(Some(HOST), 8080, 80));
        assert!(one.covers(&flow(HOST, 8080, TARGET, 80)));
        assert!(!one.covers(&flow("192.0.2.2", 8080, TARGET, 80)));
    }

    #[test]
    fn a_withdrawn_range_takes_each_port_to_its_own() {
        let stale = Stale::Withdrawn(published(None, 100..=199, 1100));
        assert!(stale.covers(&flow(HOST, 100, TARGET, 1100)));
        assert!(stale.covers(&flow(HOST, 199, TARGET, 1199)));
        assert!(!stale.covers(&flow(HOST, 150, TARGET, 1151)));
        assert!(!stale.covers(&flow(HOST, 200, TARGET, 1200)));
        assert!(!stale.is_exact());
    }

    #[test]
    fn an_announced_port_takes_what_went_to_the_host_itself_but_not_what_goes_to_strangers() {
        let stale = Stale::Announced { published: published(None, 5353, 53), host: host() };
        assert!(stale.covers(&flow(HOST, 5353, HOST, 5353)));
        assert!(stale.covers(&flow("127.0.0.1", 5353, "127.0.0.1", 5353)));
        assert!(stale.covers(&flow(HOST, 5353, "10.1.0.12", 53)));
        assert!(!stale.covers(&flow("198.51.100.7", 5353, "198.51.100.7", 5353)));
        assert!(!stale.covers(&flow(HOST, 5353, TARGET, 53)), "this is where it leads");
        let one = Stale::Announced { published: published(Some(HOST), 5353, 53), host: BTreeSet::new() };
        assert!(one.covers(&flow(HOST, 5353, HOST, 5353)));
    }

    #[test]
    fn a_narrowed_list_takes_those_who_may_not_any_more() {
        let stale = |net: &str| Stale::Narrowed {
            published: published(None, 8080, 80),
            sources: vec![net.parse().unwrap()],
            host: host(),
        };
        assert!(stale("198.51.100.0/24").covers(&flow(HOST, 8080, TARGET, 80)));
        assert!(!stale("192.0.2.0/24").covers(&flow(HOST, 8080, TARGET, 80)));
        let mut own = flow(HOST, 8080, TARGET, 80);
        own.original.source = ip(HOST);
        assert!(!stale("198.51.100.0/24").covers(&own), "the host itself always may");
    }

    #[test]
    fn a_gone_address_takes_its_flows_of_either_direction() {
        let stale = Stale::Address(ip(TARGET));
        assert!(stale.covers(&flow(HOST, 8080, TARGET, 80)));
        let mut outward = flow("198.51.100.7", 443, "198.51.100.7", 443);
        assert!(!stale.covers(&outward));
        outward.original.source = ip(TARGET);
        assert!(stale.covers(&outward));
    }

    #[test]
    fn a_changed_way_out_takes_what_went_out_and_leaves_what_stayed_inside() {
        let stale = Stale::Egress("10.1.0.0/24".parse().unwrap());
        let mut flow = flow("198.51.100.7", 443, "198.51.100.7", 443);
        assert!(!stale.covers(&flow));
        flow.original.source = ip(TARGET);
        assert!(stale.covers(&flow));
        flow.reply.source = ip("10.1.0.12");
        assert!(!stale.covers(&flow));
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop::sample::select(vec![LAN, HOST, TARGET, "10.1.0.12", "127.0.0.1", "fd01::11", "2001:db8::1"])
            .prop_map(ip)
    }

    fn tuple() -> impl Strategy<Value = Tuple> {
        (address(), address(), 79..82_u16, 79..82_u16).prop_map(|(source, destination, from, to)| Tuple {
            source,
            destination,
            source_port: from,
            destination_port: to,
        })
    }

    fn stale() -> impl Strategy<Value = Stale> {
        let published = (prop::option::of(address()), 79..82_u16, 0..2_u16, address(), 79..82_u16)
            .prop_filter("one family", |(listen, _, _, target, _)| {
                listen.is_none_or(|listen| listen.is_ipv6() == target.is_ipv6())
            })
            .prop_map(|(listen, first, more, target, target_port)| Published {
                listen,
                transport: Transport::Udp,
                ports: (first..=first + more).into(),
                target,
                target_port,
            });
        let nets = prop::sample::select(vec!["10.1.0.0/24", "192.0.2.0/24", "fd01::/64"]);
        let nets = nets.prop_map(|net| net.parse::<IpNet>().unwrap());
        (published, nets, address(), 0..5).prop_map(|(published, net, address, kind)| match kind {
            0 => Stale::Withdrawn(published),
            1 => Stale::Announced { published, host: host() },
            2 => Stale::Narrowed { published, sources: vec![net], host: host() },
            3 => Stale::Address(address),
            _ => Stale::Egress(net),
        })
    }

    proptest! {
        #[test]
        fn filters_find_all_that_is_covered_and_exact_ones_nothing_else(
            stale in stale(), original in tuple(), reply in tuple(), protocol in prop::sample::select(vec![6, 17]),
        ) {
            prop_assume!(original.source.is_ipv6() == original.destination.is_ipv6());
            prop_assume!(original.source.is_ipv6() == reply.source.is_ipv6());
            let flow = Flow { protocol, original, reply };
            let found = stale.filters().iter().any(|filter| filter.finds(&flow));
            if stale.covers(&flow) {
                prop_assert!(found || stale.filters().is_empty());
            } else {
                prop_assert!(!found || !stale.is_exact());
            }
        }

        #[test]
        fn every_filter_asks_for_something(stale in stale()) {
            for filter in stale.filters() {
                let Filter { ipv6, protocol, original, reply } = filter;
                // An announced range asks for a protocol alone; it is for lists only.
                let again = Filter::new(ipv6, protocol, original, reply);
                prop_assert!(again == Some(filter) || !stale.is_exact() && protocol.is_some());
            }
        }
    }
}
