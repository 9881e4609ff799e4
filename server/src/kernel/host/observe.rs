//! What the kernel has of what bears our marks, and what stands in our way. An error means unknown, never absent.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressProtocol},
    link::{InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};
use netloom_api::{IfName, Mac, Name};

use super::{Inner, message::ALIAS_PREFIX};
use crate::{
    hostnet::{Address, HostNet, LINK_GROUP, Link, LinkKind, Mark, PROTOCOL, Route, Stack, Sysctl},
    kernel::{
        netns::{EntryKind, NetnsError},
        socket::{DumpError, RouteSocket},
        sysctl::{self, Key, SysctlError},
        thread,
    },
};

pub(super) fn observe(inner: &Inner) -> Result<HostNet, String> {
    let mut net = HostNet::default();
    let host = inner.with_socket(Dump::take).map_err(|error| error.to_string())?;
    let mut inside = Vec::new();
    for entry in inner.namespaces.list().map_err(|error| error.to_string())? {
        // A name that no object can have is nobody's that we know.
        let Ok(name) = entry.name.parse::<Name>() else { continue };
        if entry.kind != EntryKind::Namespace {
            continue;
        }
        let dump = look_inside(inner, name.as_str())?;
        let mark = dump.loopback_mark();
        net.namespaces.insert(name.clone(), mark);
        if mark.is_ours() {
            inside.push((name, dump));
        }
    }
    let outer_names = host.names();
    let mut inner_ends: BTreeMap<u32, (Stack, IfName)> = BTreeMap::new();
    for (name, dump) in &inside {
        let stack = Stack::Namespace(name.clone());
        for link in dump.links.iter().filter(|link| kind(link) == "veth") {
            if let (Some(outer), Some(name)) = (peer_index(link), ifname(link)) {
                inner_ends.insert(outer, (stack.clone(), name));
            }
        }
    }
    host.fill(&Stack::Host, &mut net, |link| inner_ends.get(&link.header.index).cloned(), true);
    for (name, dump) in &inside {
        let outer = |link: &LinkMessage| {
            let name = outer_names.get(&peer_index(link)?)?;
            Some((Stack::Host, name.clone()))
        };
        dump.fill(&Stack::Namespace(name.clone()), &mut net, outer, false);
        net.sysctls.extend(
            dump.sysctls
                .iter()
                .map(|(sysctl, value)| ((Stack::Namespace(name.clone()), sysctl.clone()), value.clone())),
        );
    }
    host_sysctls(&mut net)?;
    net.rules = inner.rules.dump().map_err(|error| error.to_string())?;
    Ok(net)
}

/// Whose a pinned namespace is: its loopback tells. `None` when nothing is pinned there.
pub(super) fn namespace_mark(inner: &Inner, name: &str) -> Result<Option<Mark>, String> {
    match inner.namespaces.open(name) {
        Err(NetnsError::Missing(_) | NetnsError::Unpinned(_)) => Ok(None),
        Err(NetnsError::NotANamespace(_) | NetnsError::Symlink(_)) => Ok(Some(Mark::Foreign)),
        Err(error) => Err(error.to_string()),
        Ok(fd) => {
            let lo = thread::run(&fd, "netns-mark", || {
                RouteSocket::open().map(|mut socket| socket.link_by_name("lo"))
            });
            let lo = lo.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            let lo = lo.map_err(|error| error.to_string())?;
            Ok(Some(lo.as_ref().map_or(Mark::Foreign, mark)))
        }
    }
}

fn look_inside(inner: &Inner, name: &str) -> Result<Dump, String> {
    let fd = inner.namespaces.open(name).map_err(|error| error.to_string())?;
    let looked = thread::run(&fd, "look-inside", || -> Result<Dump, String> {
        let mut socket = RouteSocket::open().map_err(|error| error.to_string())?;
        let mut dump = Dump::take(&mut socket).map_err(|error| error.to_string())?;
        if dump.loopback_mark().is_ours() {
            for link in dump.links.iter().filter(|link| mark(link).is_ours()).filter_map(ifname) {
                for sysctl in
                    [Sysctl::DisableIpv6, Sysctl::AcceptRa, Sysctl::AcceptDad].map(|make| make(link.clone()))
                {
                    if let Some(value) = read(&sysctl)? {
                        dump.sysctls.push((sysctl, value));
                    }
                }
            }
        }
        Ok(dump)
    });
    looked
        .map_err(|error| format!("namespace {name}: {error}"))?
        .map_err(|error| format!("namespace {name}: {error}"))
}

/// The tables of one stack.
#[derive(Default)]
pub(super) struct Dump {
    pub(super) links: Vec<LinkMessage>,
    pub(super) addresses: Vec<AddressMessage>,
    pub(super) routes: Vec<RouteMessage>,
    sysctls: Vec<(Sysctl, String)>,
}

impl Dump {
    /// Of the stack that the socket is in.
    pub(super) fn take(socket: &mut RouteSocket) -> Result<Self, DumpError> {
        let mut all = Self::default();
        for one in socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
            if let RouteNetlinkMessage::NewLink(link) = one {
                all.links.push(link);
            }
        }
        for one in socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            if let RouteNetlinkMessage::NewAddress(address) = one {
                all.addresses.push(address);
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for one in socket.dump(RouteNetlinkMessage::GetRoute(message))? {
                if let RouteNetlinkMessage::NewRoute(route) = one {
                    all.routes.push(route);
                }
            }
        }
        Ok(all)
    }

    pub(super) fn names(&self) -> BTreeMap<u32, IfName> {
        self.links.iter().filter_map(|link| Some((link.header.index, ifname(link)?))).collect()
    }

    fn loopback_mark(&self) -> Mark {
        let is_lo = |link: &&LinkMessage| link.header.flags.contains(LinkFlags::Loopback);
        self.links.iter().find(is_lo).map_or(Mark::Foreign, mark)
    }

    /// Puts the links that bear our mark or a name, their addresses, and our routes into `net`.
    fn fill(
        &self,
        stack: &Stack,
        net: &mut HostNet,
        peer: impl Fn(&LinkMessage) -> Option<(Stack, IfName)>,
        strangers_addresses_count: bool,
    ) {
        let names = self.names();
        for message in &self.links {
            // Loopback has a name that no object can want.
            let Some(name) = ifname(message) else { continue };
            net.links.insert((stack.clone(), name), link(message, &names, &peer));
        }
        for message in &self.addresses {
            let Some(name) = names.get(&message.header.index) else { continue };
            let key = (stack.clone(), name.clone());
            let owner = net.links.get(&key).map_or(Mark::Foreign, |link| link.mark);
            let Some((address, is_ours)) = address_of(message) else { continue };
            if !is_ours
                && (address.addr().is_ipv6() && is_link_local(address.addr()) || !strangers_addresses_count)
            {
                continue;
            }
            let mark = if is_ours { owner } else { Mark::Foreign };
            if owner.is_ours() {
                let address = Address { stack: stack.clone(), link: name.clone(), net: address };
                net.addresses.insert(address, mark);
            }
        }
        for message in &self.routes {
            if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
                continue;
            }
            if let Some(route) = route_of(message, stack, &names) {
                let key = (stack.clone(), route.link.clone());
                let mark = net.links.get(&key).map_or(Mark::Group, |link| link.mark);
                net.routes.insert(route, mark);
            }
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn link(
    message: &LinkMessage,
    names: &BTreeMap<u32, IfName>,
    peer: &impl Fn(&LinkMessage) -> Option<(Stack, IfName)>,
) -> Link {
    let mut link = Link {
        mark: mark(message),
        kind: match kind(message).as_str() {
            "bridge" => LinkKind::Bridge,
            "veth" => LinkKind::Veth { peer: peer(message) },
            other => LinkKind::Other(other.to_owned()),
        },
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        master: None,
        hairpin: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac::from_bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = names.get(index).cloned(),
            LinkAttribute::LinkInfo(infos) => link.hairpin = infos.iter().any(is_hairpin),
            _ => {}
        }
    }
    link
}

fn is_hairpin(info: &LinkInfo) -> bool {
    match info {
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
            data.iter().any(|one| matches!(one, InfoBridgePort::HairpinMode(true)))
        }
        _ => false,
    }
}

pub(super) fn ifname(message: &LinkMessage) -> Option<IfName> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })
}

/// The kernel's word for what a link is; empty when it has none.
pub(super) fn kind(message: &LinkMessage) -> String {
    if message.header.flags.contains(LinkFlags::Loopback) {
        return "loopback".into();
    }
    let infos = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let kind = infos.into_iter().flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Bridge) => "bridge".into(),
        Some(InfoKind::Veth) => "veth".into(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn peer_index(message: &LinkMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

/// Whose a link is: the alias names the object, the group alone tells that it is ours.
pub(super) fn mark(message: &LinkMessage) -> Mark {
    let mut mark = Mark::Foreign;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfAlias(alias) => {
                if let Some(uid) = alias.strip_prefix(ALIAS_PREFIX).and_then(|uid| uid.parse().ok()) {
                    return Mark::Object(uid);
                }
            }
            LinkAttribute::Group(LINK_GROUP) => mark = Mark::Group,
            _ => {}
        }
    }
    mark
}

/// The address with its prefix, and whether it bears our protocol.
pub(super) fn address_of(message: &AddressMessage) -> Option<(IpNet, bool)> {
    let mut found: Option<IpAddr> = None;
    let mut is_ours = false;
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link the local address is ours, the other one the peer's.
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            AddressAttribute::Protocol(protocol) => is_ours = *protocol == AddressProtocol::Other(PROTOCOL),
            _ => {}
        }
    }
    Some((IpNet::new(found?, message.header.prefix_len).ok()?, is_ours))
}

pub(super) fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The prefix that a route is for.
pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    });
    IpNet::new(address.unwrap_or(any), message.header.destination_prefix_length).ok()
}

fn route_of(message: &RouteMessage, stack: &Stack, names: &BTreeMap<u32, IfName>) -> Option<Route> {
    let (mut via, mut link, mut metric) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => via = ip_of(address),
            RouteAttribute::Oif(index) => link = names.get(index).cloned(),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some(Route { stack: stack.clone(), destination: destination(message)?, via: via?, link: link?, metric })
}

/// Switches of our own links in the host.
fn host_sysctls(net: &mut HostNet) -> Result<(), String> {
    let ours: Vec<(IfName, bool)> = net
        .links
        .iter()
        .filter(|((stack, _), link)| *stack == Stack::Host && link.mark.is_ours())
        .map(|((_, name), link)| (name.clone(), link.kind == LinkKind::Bridge))
        .collect();
    for (name, is_bridge) in ours {
        let of_ports: [fn(IfName) -> Sysctl; 1] = [Sysctl::DisableIpv6];
        let of_bridges: [fn(IfName) -> Sysctl; 6] = [
            Sysctl::DisableIpv6,
            Sysctl::AcceptRa,
            Sysctl::AcceptDad,
            Sysctl::Forwarding4,
            Sysctl::ForceForwarding6,
            Sysctl::RouteLocalnet,
        ];
        let makers: &[fn(IfName) -> Sysctl] = if is_bridge { &of_bridges } else { &of_ports };
        for make in makers {
            let sysctl = make(name.clone());
            if let Some(value) = read(&sysctl)? {
                net.sysctls.insert((Stack::Host, sysctl), value);
            }
        }
    }
    Ok(())
}

/// A switch of the calling thread's stack; `None` where the kernel has none of this name.
pub(super) fn read(sysctl: &Sysctl) -> Result<Option<String>, String> {
    let key = Key::named(&sysctl.path()).map_err(|error| error.to_string())?;
    match sysctl::read(&key) {
        Ok(value) => Ok(Some(value)),
        Err(SysctlError::Missing(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
