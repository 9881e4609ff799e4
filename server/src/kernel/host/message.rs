//! Steps as rtnetlink messages. Pure: indices and descriptors are given.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use ipnet::IpNet;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol},
    link::{
        InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
        LinkMessage,
    },
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::hostnet::{End, LINK_GROUP, Link, LinkChange, PROTOCOL, Route, Way};

/// In front of an object's identity in a link's alias.
pub(super) const ALIAS_PREFIX: &str = "netloom:";

/// A bridge, marked by its group from the first instant, without multicast snooping, down.
pub(super) fn bridge(name: &str, link: &Link) -> LinkMessage {
    let silent = vec![InfoBridge::MulticastSnooping(false)];
    let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
        .set_info_data(InfoData::Bridge(silent))
        .name(name)
        .mtu(link.mtu)
        .link_group(LINK_GROUP);
    match link.mac {
        Some(mac) => builder.address(mac.bytes().to_vec()).build(),
        None => builder.build(),
    }
}

/// A queue, marked by its group from the first instant, down.
pub(super) fn ifb(name: &str, link: &Link) -> LinkMessage {
    LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Ifb)
        .name(name)
        .mtu(link.mtu)
        .link_group(LINK_GROUP)
        .build()
}

/// A cable in one message: the near end in its bridge, if it is a port, and the far end named and placed.
pub(super) fn cable(
    near: &End,
    master: Option<u32>,
    far: &End,
    far_namespace: Option<BorrowedFd<'_>>,
) -> LinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(far.name.to_string()));
    peer.attributes.push(LinkAttribute::Mtu(far.link.mtu));
    peer.attributes.push(LinkAttribute::Group(LINK_GROUP));
    peer.attributes.extend(far.link.mac.map(|mac| LinkAttribute::Address(mac.bytes().to_vec())));
    peer.attributes.extend(far_namespace.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
    let mut builder = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .name(near.name.to_string())
        .mtu(near.link.mtu)
        .link_group(LINK_GROUP);
    if let Some(mac) = near.link.mac {
        builder = builder.address(mac.bytes().to_vec());
    }
    if let Some(master) = master {
        builder = builder.controller(master);
    }
    builder.build()
}

/// A change of the link with this index; `master` is the index that the change's bridge has.
pub(super) fn change(index: u32, change: &LinkChange, master: Option<u32>) -> LinkMessage {
    let LinkChange { up, mtu, master: to, hairpin, alias } = change;
    let mut builder = LinkMessageBuilder::<LinkUnspec>::new().index(index);
    if let Some(mtu) = mtu {
        builder = builder.mtu(*mtu);
    }
    if let Some(uid) = alias {
        builder = builder.alias(format!("{ALIAS_PREFIX}{uid}")).link_group(LINK_GROUP);
    }
    builder = match (to, master) {
        (Some(Some(_)), Some(index)) => builder.controller(index),
        (Some(None), _) => builder.nocontroller(),
        (Some(Some(_)), None) | (None, _) => builder,
    };
    if let Some(hairpin) = hairpin {
        builder = builder
            .set_port_kind(InfoPortKind::Bridge)
            .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(*hairpin)]));
    }
    match up {
        Some(true) => builder.up().build(),
        Some(false) => builder.down().build(),
        None => builder.build(),
    }
}

/// An address with our mark, usable at once.
pub(super) fn address(index: u32, net: IpNet) -> AddressMessage {
    let mut message = match net {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
    };
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    message
}

/// A route with our mark, by the link with this index if it goes through one; `None` when its parts are of different
/// families.
pub(super) fn route(index: Option<u32>, route: &Route) -> Option<RouteMessage> {
    let Route { stack: _, destination, table, metric, way } = route;
    let (kind, via) = match way {
        Way::Through { via, .. } => (RouteType::Unicast, *via),
        Way::Blackhole => (RouteType::BlackHole, None),
        Way::Unreachable => (RouteType::Unreachable, None),
        Way::Prohibit => (RouteType::Prohibit, None),
    };
    let mut message = match (destination, via) {
        (IpNet::V4(net), None | Some(IpAddr::V4(_))) => {
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(net.addr(), net.prefix_len()).build()
        }
        (IpNet::V6(net), None | Some(IpAddr::V6(_))) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net.addr(), net.prefix_len()).build()
        }
        (IpNet::V4(_) | IpNet::V6(_), Some(_)) => return None,
    };
    message.header.kind = kind;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    if destination.addr().is_ipv4() && kind == RouteType::Unicast && via.is_none() {
        message.header.scope = RouteScope::Link;
    }
    // The attribute has the last word; the header has one byte.
    message.header.table = u8::try_from(*table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    let gateway = via.map(|via| RouteAttribute::Gateway(via.into()));
    let attributes = [RouteAttribute::Table(*table), RouteAttribute::Priority(*metric)];
    message.attributes.extend(attributes.into_iter().chain(gateway).chain(index.map(RouteAttribute::Oif)));
    Some(message)
}
