//! Elements of sets and maps, and their words in `nft`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    chain::{ChainName, Flowing, RuleTag},
    set::{Family, SetId},
};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 132
    Sctp,
}

impl Transport {
    /// The number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        }
    }

    /// The protocol with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Transport::Tcp, Transport::Udp, Transport::Sctp].into_iter().find(|one| one.number() == number)
    }
}

/// What becomes of packets between members of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    /// They pass.
    Accept,
    /// They do not.
    Drop,
}

/// One field of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// A link's name.
    Ifname(String),
    /// An address.
    Ipv4(Ipv4Addr),
    /// An address.
    Ipv6(Ipv6Addr),
    /// A MAC address.
    Ether([u8; 6]),
    /// A transport protocol.
    InetProto(Transport),
    /// A port.
    InetService(u16),
}

impl Part {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Part::Ipv4(address),
            IpAddr::V6(address) => Part::Ipv6(address),
        }
    }
}

/// What an element of a map holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Data {
    /// It is of a set.
    None,
    /// A verdict.
    Verdict(Member),
    /// What this chain says.
    Jump(ChainName),
    /// An address.
    Ipv4(Ipv4Addr),
    /// An address.
    Ipv6(Ipv6Addr),
    /// An address and a port.
    Ipv4Service(Ipv4Addr, u16),
    /// An address and a port.
    Ipv6Service(Ipv6Addr, u16),
    /// A MAC address.
    Ether([u8; 6]),
}

/// One element of one set or map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    set: SetId,
    key: Vec<Part>,
    /// Of an interval: the last key that is in it.
    last: Option<Vec<Part>>,
    data: Data,
}

impl Element {
    /// For the kernel's decoder: parts that came out of this very set.
    pub(crate) fn from_parts(set: SetId, key: Vec<Part>, last: Option<Vec<Part>>, data: Data) -> Self {
        Self { set, key, last, data }
    }

    /// Which set or map.
    pub fn set(&self) -> SetId {
        self.set
    }

    /// The key, or the first one of an interval.
    pub fn key(&self) -> &[Part] {
        &self.key
    }

    /// The last key of an interval.
    pub fn last(&self) -> Option<&[Part]> {
        self.last.as_deref()
    }

    /// What it holds.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Set and key: two elements with the same place cannot both be.
    pub fn place(&self) -> (SetId, Vec<Part>) {
        (self.set, self.key.clone())
    }

    fn exact(set: SetId, key: Vec<Part>) -> Self {
        Self { set, key, last: None, data: Data::None }
    }

    fn link(set: SetId, name: &str) -> Self {
        Self::exact(set, vec![Part::Ifname(name.to_owned())])
    }

    fn mapped(set: SetId, key: Vec<Part>, data: Data) -> Self {
        Self { set, key, last: None, data }
    }

    fn prefix4(set: SetId, net: Ipv4Net, data: Data) -> Self {
        let (first, last) = (Part::Ipv4(net.network()), Part::Ipv4(net.broadcast()));
        Self { set, key: vec![first], last: Some(vec![last]), data }
    }

    fn prefix6(set: SetId, net: Ipv6Net, data: Data) -> Self {
        let (first, last) = (Part::Ipv6(net.network()), Part::Ipv6(net.broadcast()));
        Self { set, key: vec![first], last: Some(vec![last]), data }
    }

    fn ports(
        set: SetId,
        on: Option<Part>,
        transport: Transport,
        ports: RangeInclusive<u16>,
        data: Data,
    ) -> Self {
        let key = |port: u16| {
            on.clone()
                .into_iter()
                .chain([Part::InetProto(transport), Part::InetService(port)])
                .collect::<Vec<_>>()
        };
        Self { set, key: key(*ports.start()), last: Some(key(*ports.end())), data }
    }

    /// These ports, of one address or of any, are for some sources alone; `ipv6` says whose packets it is about.
    pub fn gate(ipv6: bool, on: Option<IpAddr>, transport: Transport, ports: RangeInclusive<u16>) -> Self {
        let single = ports.start() == ports.end();
        let set = match (ipv6, on.is_some(), single) {
            (false, true, true) => SetId::Gate4,
            (false, true, false) => SetId::Grng4,
            (false, false, true) => SetId::Gate4any,
            (false, false, false) => SetId::Grng4any,
            (true, true, true) => SetId::Gate6,
            (true, true, false) => SetId::Grng6,
            (true, false, true) => SetId::Gate6any,
            (true, false, false) => SetId::Grng6any,
        };
        let element = Self::ports(set, on.map(Part::of), transport, ports, Data::None);
        if single { Self { last: None, ..element } } else { element }
    }

    /// This prefix may use these ports, of one address or of any.
    pub fn source(net: IpNet, on: Option<IpAddr>, transport: Transport, ports: RangeInclusive<u16>) -> Self {
        let set = match (net.addr().is_ipv6(), on.is_some()) {
            (false, true) => SetId::Src4,
            (false, false) => SetId::Src4any,
            (true, true) => SetId::Src6,
            (true, false) => SetId::Src6any,
        };
        let mut element = Self::ports(set, on.map(Part::of), transport, ports, Data::None);
        element.key.push(Part::of(net.network()));
        element.last.iter_mut().for_each(|last| last.push(Part::of(net.broadcast())));
        element
    }
}

/// A device's element in a set of devices.
macro_rules! of_links {
    ($($(#[$doc:meta])* $name:ident $set:ident;)*) => {
        impl Element {
            $($(#[$doc])* pub fn $name(device: &str) -> Self { Self::link(SetId::$set, device) })*
        }
    };
}

of_links! {
    /// A Network's bridge.
    bridges Bridges;
    /// A bridge whose members may go out.
    egress Egress;
    /// A bridge whose members go out with their own addresses.
    routed Routed;
    /// A bridge that may talk to other open ones.
    open Open;
    /// A bridge whose members may reach the host.
    hostok Hostok;
    /// An uplink whose forwarding netloom switched on: strangers are not forwarded.
    notransit Notransit;
    /// A port without the spoof guard.
    noguard Noguard;
    /// A port whose drops are counted.
    spoofed Spoofed;
    /// A port selected for ingress: no multicast from other members.
    quiet Quiet;
    /// A port of a network whose members are kept apart.
    iso Iso;
}

impl Element {
    /// What becomes of packets between members of one bridge.
    pub fn same(bridge: &str, member: Member) -> Self {
        let link = || Part::Ifname(bridge.to_owned());
        Self::mapped(SetId::Same, vec![link(), link()], Data::Verdict(member))
    }

    /// A port's frames never come back to it.
    pub fn self_(port: &str) -> Self {
        let link = || Part::Ifname(port.to_owned());
        Self::exact(SetId::Selfdrop, vec![link(), link()])
    }

    /// A port's bridge has this MAC address.
    pub fn brmac(port: &str, mac: [u8; 6]) -> Self {
        Self::mapped(SetId::Brmac, vec![Part::Ifname(port.to_owned())], Data::Ether(mac))
    }

    /// One of our prefixes.
    pub fn own4(net: Ipv4Net) -> Self {
        Self::prefix4(SetId::Own4, net, Data::None)
    }

    /// One of our prefixes.
    pub fn own6(net: Ipv6Net) -> Self {
        Self::prefix6(SetId::Own6, net, Data::None)
    }

    /// A prefix that leaves behind the host's address.
    pub fn masq4(net: Ipv4Net) -> Self {
        Self::prefix4(SetId::Masq4, net, Data::None)
    }

    /// A prefix that leaves behind the host's address.
    pub fn masq6(net: Ipv6Net) -> Self {
        Self::prefix6(SetId::Masq6, net, Data::None)
    }

    /// A prefix that leaves behind this address.
    pub fn snat4(net: Ipv4Net, to: Ipv4Addr) -> Self {
        Self::prefix4(SetId::Snat4, net, Data::Ipv4(to))
    }

    /// A prefix that leaves behind this address.
    pub fn snat6(net: Ipv6Net, to: Ipv6Addr) -> Self {
        Self::prefix6(SetId::Snat6, net, Data::Ipv6(to))
    }

    /// An address that may call itself by a published port.
    pub fn hairpin4(bridge: &str, address: Ipv4Addr) -> Self {
        Self::exact(SetId::Hairpin4, vec![Part::Ifname(bridge.to_owned()), Part::Ipv4(address)])
    }

    /// An address that may call itself by a published port.
    pub fn hairpin6(bridge: &str, address: Ipv6Addr) -> Self {
        Self::exact(SetId::Hairpin6, vec![Part::Ifname(bridge.to_owned()), Part::Ipv6(address)])
    }

    /// A port of the daemon's own that no member may reach.
    pub fn api(transport: Transport, port: u16) -> Self {
        Self::exact(SetId::Api, vec![Part::InetProto(transport), Part::InetService(port)])
    }

    /// What a port may send: its own MAC with its own address.
    pub fn guard4(port: &str, mac: [u8; 6], address: Ipv4Addr) -> Self {
        let key = vec![Part::Ifname(port.to_owned()), Part::Ether(mac), Part::Ipv4(address)];
        Self::exact(SetId::Guard4, key)
    }

    /// What a port may send: its own MAC with its own address.
    pub fn guard6(port: &str, mac: [u8; 6], address: Ipv6Addr) -> Self {
        let key = vec![Part::Ifname(port.to_owned()), Part::Ether(mac), Part::Ipv6(address)];
        Self::exact(SetId::Guard6, key)
    }

    /// An address whose traffic must pass the host's IP layer.
    pub fn route4(address: Ipv4Addr) -> Self {
        Self::exact(SetId::Route4, vec![Part::Ipv4(address)])
    }

    /// An address whose traffic must pass the host's IP layer.
    pub fn route6(address: Ipv6Addr) -> Self {
        Self::exact(SetId::Route6, vec![Part::Ipv6(address)])
    }

    /// Flows to or from this address are judged by a chain of policies.
    pub fn judged(address: IpAddr, flowing: Flowing, by: ChainName) -> Self {
        let set = match (flowing, address.is_ipv6()) {
            (Flowing::In, false) => SetId::In4,
            (Flowing::In, true) => SetId::In6,
            (Flowing::Out, false) => SetId::Eg4,
            (Flowing::Out, true) => SetId::Eg6,
        };
        Self::mapped(set, vec![Part::of(address)], Data::Jump(by))
    }

    /// An address that policies select for ingress.
    pub fn selected(address: IpAddr) -> Self {
        let set = if address.is_ipv6() { SetId::Sel6 } else { SetId::Sel4 };
        Self::exact(set, vec![Part::of(address)])
    }

    /// An address for which it is counted what policies drop.
    pub fn deny_counted(address: IpAddr) -> Self {
        let set = if address.is_ipv6() { SetId::Den6 } else { SetId::Den4 };
        Self::exact(set, vec![Part::of(address)])
    }

    /// An address that a rule of a policy means by its labels.
    pub fn peer(tag: &RuleTag, address: IpAddr) -> Self {
        let set = if address.is_ipv6() { SetId::Peer6 } else { SetId::Peer4 };
        Self::exact(set, vec![Part::Ifname(tag.as_str().to_owned()), Part::of(address)])
    }

    /// A chain of policies whose drops are counted.
    pub fn denied(chain: &ChainName) -> Self {
        Self::link(SetId::Denied, chain.as_str())
    }

    /// An address whose traffic must pass the host's IP layer.
    pub fn routed_by_host(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::route4(address),
            IpAddr::V6(address) => Self::route6(address),
        }
    }

    /// A port of one host address.
    pub fn fwd4(on: Ipv4Addr, transport: Transport, port: u16, to: Ipv4Addr, to_port: u16) -> Self {
        let key = vec![Part::Ipv4(on), Part::InetProto(transport), Part::InetService(port)];
        Self::mapped(SetId::Fwd4, key, Data::Ipv4Service(to, to_port))
    }

    /// A port of any host address.
    pub fn fwd4any(transport: Transport, port: u16, to: Ipv4Addr, to_port: u16) -> Self {
        let key = vec![Part::InetProto(transport), Part::InetService(port)];
        Self::mapped(SetId::Fwd4any, key, Data::Ipv4Service(to, to_port))
    }

    /// A port of one host address.
    pub fn fwd6(on: Ipv6Addr, transport: Transport, port: u16, to: Ipv6Addr, to_port: u16) -> Self {
        let key = vec![Part::Ipv6(on), Part::InetProto(transport), Part::InetService(port)];
        Self::mapped(SetId::Fwd6, key, Data::Ipv6Service(to, to_port))
    }

    /// A port of any host address.
    pub fn fwd6any(transport: Transport, port: u16, to: Ipv6Addr, to_port: u16) -> Self {
        let key = vec![Part::InetProto(transport), Part::InetService(port)];
        Self::mapped(SetId::Fwd6any, key, Data::Ipv6Service(to, to_port))
    }

    /// Ports of one host address that keep their numbers.
    pub fn rng4(on: Ipv4Addr, transport: Transport, ports: RangeInclusive<u16>, to: Ipv4Addr) -> Self {
        Self::ports(SetId::Rng4, Some(Part::Ipv4(on)), transport, ports, Data::Ipv4(to))
    }

    /// Ports of any host address that keep their numbers.
    pub fn rng4any(transport: Transport, ports: RangeInclusive<u16>, to: Ipv4Addr) -> Self {
        Self::ports(SetId::Rng4any, None, transport, ports, Data::Ipv4(to))
    }

    /// Ports of one host address that keep their numbers.
    pub fn rng6(on: Ipv6Addr, transport: Transport, ports: RangeInclusive<u16>, to: Ipv6Addr) -> Self {
        Self::ports(SetId::Rng6, Some(Part::Ipv6(on)), transport, ports, Data::Ipv6(to))
    }

    /// Ports of any host address that keep their numbers.
    pub fn rng6any(transport: Transport, ports: RangeInclusive<u16>, to: Ipv6Addr) -> Self {
        Self::ports(SetId::Rng6any, None, transport, ports, Data::Ipv6(to))
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Ifname(name) => write!(f, "\"{name}\""),
            Part::Ipv4(address) => address.fmt(f),
            Part::Ipv6(address) => address.fmt(f),
            Part::Ether(mac) => ether(*mac, f),
            Part::InetProto(transport) => transport.fmt(f),
            Part::InetService(port) => port.fmt(f),
        }
    }
}

fn ether([a, b, c, d, e, g]: [u8; 6], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
}

/// The whole element as `nft` takes it after `add element` or `delete element`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.set.family() {
            Family::Inet => "inet",
            Family::Bridge => "bridge",
        };
        write!(f, "{family} netloom {} {{ ", self.set.name())?;
        for (index, part) in self.key.iter().enumerate() {
            if index > 0 {
                f.write_str(" . ")?;
            }
            let last = self.last.as_ref().and_then(|last| last.get(index)).filter(|last| *last != part);
            match last.map(|last| (prefix(part, last), last)) {
                None => part.fmt(f)?,
                Some((Some(net), _)) => net.fmt(f)?,
                Some((None, last)) => write!(f, "{part}-{last}")?,
            }
        }
        match &self.data {
            Data::None => {}
            Data::Verdict(Member::Accept) => f.write_str(" : accept")?,
            Data::Verdict(Member::Drop) => f.write_str(" : drop")?,
            Data::Jump(chain) => write!(f, " : jump {chain}")?,
            Data::Ipv4(address) => write!(f, " : {address}")?,
            Data::Ipv6(address) => write!(f, " : {address}")?,
            Data::Ipv4Service(address, port) => write!(f, " : {address} . {port}")?,
            Data::Ipv6Service(address, port) => write!(f, " : {address} . {port}")?,
            Data::Ether(mac) => {
                f.write_str(" : ")?;
                ether(*mac, f)?;
            }
        }
        f.write_str(" }")
    }
}

/// The prefix that has exactly these ends, if there is one.
fn prefix(first: &Part, last: &Part) -> Option<IpNet> {
    let (first, last): (IpAddr, IpAddr) = match (first, last) {
        (Part::Ipv4(first), Part::Ipv4(last)) => ((*first).into(), (*last).into()),
        (Part::Ipv6(first), Part::Ipv6(last)) => ((*first).into(), (*last).into()),
        (_, _) => return None,
    };
    let max = if first.is_ipv4() { 32 } else { 128 };
    (0..=max)
        .filter_map(|length| IpNet::new(first, length).ok())
        .find(|net| net.network() == first && net.broadcast() == last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_prints_as_nft_takes_it() {
        let to = Ipv4Addr::new(10, 1, 0, 11);
        let cases = [
            (Element::bridges("nlred"), "inet netloom bridges { \"nlred\" }"),
            (
                Element::fwd4(Ipv4Addr::new(192, 0, 2, 1), Transport::Tcp, 8081, to, 80),
                "inet netloom fwd4 { 192.0.2.1 . tcp . 8081 : 10.1.0.11 . 80 }",
            ),
            (
                Element::rng4any(Transport::Udp, 20000..=20099, to),
                "inet netloom rng4any { udp . 20000-20099 : 10.1.0.11 }",
            ),
            (
                Element::source("10.0.0.0/8".parse().unwrap(), None, Transport::Tcp, 8080..=8089),
                "inet netloom src4any { tcp . 8080-8089 . 10.0.0.0/8 }",
            ),
            (Element::gate(false, None, Transport::Tcp, 80..=80), "inet netloom gate4any { tcp . 80 }"),
            (Element::own4("10.1.0.0/24".parse().unwrap()), "inet netloom own4 { 10.1.0.0/24 }"),
            (Element::same("nlred", Member::Drop), "inet netloom same { \"nlred\" . \"nlred\" : drop }"),
            (
                Element::guard4("nla1", [2, 0, 0, 0, 1, 0x11], to),
                "bridge netloom guard4 { \"nla1\" . 02:00:00:00:01:11 . 10.1.0.11 }",
            ),
        ];
        for (element, text) in cases {
            assert_eq!(element.to_string(), text);
        }
    }
}
