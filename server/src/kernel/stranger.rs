//! For tests only: what others do to a host, by hand: links down, routes typed, addresses changed, firewalls.
//!
//! All of it works in the network namespace of the calling thread.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

pub use super::nft::stranger::{
    Drops, add as add_firewall, delete_table, flush as flush_firewall, meddle_with_policies,
    remove as remove_firewall,
};
use super::socket::{RequestError, RouteSocket, request};

/// A change of a link.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Administratively up or down.
    Up(bool),
    /// In bytes.
    Mtu(u32),
    /// The hardware address.
    Mac([u8; 6]),
    /// Out of its bridge.
    NoMaster,
    /// Into another bridge.
    MasterOf(&'static str),
}

/// Changes a link.
pub fn change(link: &str, change: Change) -> Result<(), RequestError> {
    let mut message = LinkMessage::default();
    match change {
        Change::Up(up) => {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        Change::Mtu(mtu) => message.attributes.push(LinkAttribute::Mtu(mtu)),
        Change::Mac(mac) => message.attributes.push(LinkAttribute::Address(mac.to_vec())),
        Change::MasterOf(bridge) => message.attributes.push(LinkAttribute::Controller(index(bridge)?)),
        Change::NoMaster => message.attributes.push(LinkAttribute::Controller(0)),
    }
    message.attributes.push(LinkAttribute::IfName(link.to_owned()));
    ask(RouteNetlinkMessage::SetLink(message))
}

/// Removes a link; a cable's other end goes with it.
pub fn remove_link(link: &str) -> Result<(), RequestError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(link.to_owned()));
    ask(RouteNetlinkMessage::DelLink(message))
}

/// Removes an address.
pub fn delete_address(link: &str, net: IpNet) -> Result<(), RequestError> {
    let mut message = AddressMessage::default();
    message.header.family = family(net.addr());
    message.header.prefix_len = net.prefix_len();
    message.header.index = index(link)?;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    ask(RouteNetlinkMessage::DelAddress(message))
}

/// A route that somebody typed.
#[derive(Clone, Debug)]
pub struct TypedRoute {
    /// To where.
    pub destination: IpNet,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// By which link; none: the packet is dropped (blackhole).
    pub link: Option<String>,
}

/// Adds a route to the main table.
pub fn add_route(route: &TypedRoute) -> Result<(), RequestError> {
    ask(RouteNetlinkMessage::NewRoute(route_message(route)?))
}

/// Removes it again.
pub fn delete_route(route: &TypedRoute) -> Result<(), RequestError> {
    let mut message = route_message(route)?;
    // Whoever added it, and however.
    (message.header.protocol, message.header.scope) = (RouteProtocol::Unspec, RouteScope::NoWhere);
    ask(RouteNetlinkMessage::DelRoute(message))
}

/// Tells a stack for good at which hardware address a neighbour is.
pub fn pin_neighbour(link: &str, address: IpAddr, mac: [u8; 6]) -> Result<(), RequestError> {
    let mut message = NeighbourMessage::default();
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.header.family = family(address);
    message.header.ifindex = index(link)?;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    ask(RouteNetlinkMessage::NewNeighbour(message))
}

fn route_message(route: &TypedRoute) -> Result<RouteMessage, RequestError> {
    let TypedRoute { destination, via, link } = route;
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = if link.is_some() { RouteType::Unicast } else { RouteType::BlackHole };
    message.header.scope =
        if via.is_some() || link.is_none() { RouteScope::Universe } else { RouteScope::Link };
    message.attributes.push(RouteAttribute::Destination(address(destination.network())));
    message.attributes.extend(via.map(|via| RouteAttribute::Gateway(address(via))));
    if let Some(link) = link {
        message.attributes.push(RouteAttribute::Oif(index(link)?));
    }
    Ok(message)
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn index(link: &str) -> Result<u32, RequestError> {
    Ok(RouteSocket::open()?.link_by_name(link)?.map_or(0, |link| link.header.index))
}

fn ask(message: RouteNetlinkMessage) -> Result<(), RequestError> {
    use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
    let is_new = matches!(message, RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::NewNeighbour(_));
    let mut message = request(message);
    if is_new {
        message.header.flags |= NLM_F_CREATE | NLM_F_REPLACE;
    }
    RouteSocket::open()?.request_reply(message).map(drop)
}
