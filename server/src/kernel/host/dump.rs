//! What one stack's tables say, and how to read their messages. Complete or an error, never a part.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressProtocol},
    link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType},
};
use netloom_api::IfName;

use super::message::ALIAS_PREFIX;
use crate::{
    hostnet::{LINK_GROUP, Mark, PROTOCOL, Route, Stack, Way},
    kernel::socket::{DumpError, RouteSocket},
};

/// The links of a stack and their addresses.
#[derive(Default)]
pub(super) struct Dump {
    pub(super) links: Vec<LinkMessage>,
    pub(super) addresses: Vec<AddressMessage>,
}

/// Which routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routes {
    /// Those that bear our protocol; the kernel picks them out, however many others there are.
    Ours,
    All,
}

impl Dump {
    /// Of the stack that the socket is in.
    pub(super) fn take(socket: &mut RouteSocket) -> Result<Self, DumpError> {
        let mut all = Self::default();
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        for one in socket.dump(RouteNetlinkMessage::GetLink(message))? {
            if let RouteNetlinkMessage::NewLink(link) = one {
                all.links.push(link);
            }
        }
        all.addresses = addresses(socket)?;
        Ok(all)
    }

    pub(super) fn names(&self) -> BTreeMap<u32, IfName> {
        self.links.iter().filter_map(|link| Some((link.header.index, ifname(link)?))).collect()
    }
}

/// The addresses of the stack that the socket is in.
pub(super) fn addresses(socket: &mut RouteSocket) -> Result<Vec<AddressMessage>, DumpError> {
    let all = socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let addresses = all.into_iter().filter_map(|one| match one {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    });
    Ok(addresses.collect())
}

/// The routes of the stack that the socket is in.
pub(super) fn routes(socket: &mut RouteSocket, which: Routes) -> Result<Vec<RouteMessage>, DumpError> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        if which == Routes::Ours {
            message.header.protocol = RouteProtocol::Other(PROTOCOL);
        }
        for one in socket.dump(RouteNetlinkMessage::GetRoute(message))? {
            match one {
                // A kernel without IPv6 answers with the routes of every family.
                RouteNetlinkMessage::NewRoute(route) if route.header.address_family == family => {
                    all.push(route);
                }
                _ => {}
            }
        }
    }
    Ok(all)
}

/// What an attribute of a link says.
fn of_link<'m, T>(message: &'m LinkMessage, pick: impl Fn(&'m LinkAttribute) -> Option<T>) -> Option<T> {
    message.attributes.iter().find_map(pick)
}

pub(super) fn ifname(message: &LinkMessage) -> Option<IfName> {
    of_link(message, |attribute| match attribute {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })
}

/// The kernel's word for what a link is; empty when it has none.
pub(super) fn kind(message: &LinkMessage) -> String {
    if message.header.flags.contains(LinkFlags::Loopback) {
        return "loopback".into();
    }
    let kind = of_link(message, |attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    });
    match kind {
        Some(InfoKind::Bridge) => "bridge".into(),
        Some(InfoKind::Veth) => "veth".into(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// Of a cable's end: the index of the other end, in its own stack.
pub(super) fn peer_index(message: &LinkMessage) -> Option<u32> {
    of_link(message, |attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

/// Of a cable's end: the id that the other end's namespace has in this one. `None`: it is this one.
pub(super) fn peer_nsid(message: &LinkMessage) -> Option<i32> {
    of_link(message, |attribute| match attribute {
        LinkAttribute::LinkNetNsId(id) => Some(*id),
        _ => None,
    })
}

/// Whose a link is: the alias names the object, the group alone tells that it is ours.
pub(super) fn mark(message: &LinkMessage) -> Mark {
    let in_group = || message.attributes.contains(&LinkAttribute::Group(LINK_GROUP));
    match alias_mark(message) {
        Mark::Foreign if in_group() => Mark::Group,
        mark => mark,
    }
}

/// Whose a link is by its alias alone, as that of a loopback.
pub(super) fn alias_mark(message: &LinkMessage) -> Mark {
    let uid = of_link(message, |attribute| match attribute {
        LinkAttribute::IfAlias(alias) => alias.strip_prefix(ALIAS_PREFIX)?.parse().ok(),
        _ => None,
    });
    uid.map_or(Mark::Foreign, Mark::Object)
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

/// A route of a sort that we make.
pub(super) fn route_of(
    message: &RouteMessage,
    stack: &Stack,
    names: &BTreeMap<u32, IfName>,
) -> Option<Route> {
    let (mut via, mut link) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => via = ip_of(address),
            RouteAttribute::Oif(index) => link = names.get(index).cloned(),
            _ => {}
        }
    }
    let way = match message.header.kind {
        RouteType::BlackHole => Way::Blackhole,
        RouteType::Unreachable => Way::Unreachable,
        RouteType::Prohibit => Way::Prohibit,
        RouteType::Unicast => Way::Through { via, link: link? },
        _ => return None,
    };
    let (destination, table, metric) = place_of(message)?;
    Some(Route { stack: stack.clone(), destination, table, metric, way })
}

/// Destination, table and metric: no two routes have all of them in common.
pub(super) fn place_of(message: &RouteMessage) -> Option<(IpNet, u32, u32)> {
    let (mut metric, mut table) = (0, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    Some((destination(message)?, table, metric))
}
