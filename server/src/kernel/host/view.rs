//! What a route is judged by where the World does not know everything: links, addresses, default routes.

use std::{collections::BTreeSet, os::fd::OwnedFd};

use ipnet::IpNet;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netloom_api::TABLE_MAIN;

use super::{
    Inner,
    dump::{Dump, Routes, address_of, destination, mark, routes},
};
use crate::{
    hostnet::{HostView, PROTOCOL},
    kernel::{
        socket::{DumpError, RouteSocket},
        thread,
    },
};

/// Every link, the addresses of strangers', and the default routes that are not ours.
pub(super) fn host_view(inner: &Inner) -> Result<HostView, String> {
    inner.with_socket(take).map_err(|error| error.to_string())
}

/// The same of another namespace.
pub(super) fn view_of(namespace: &OwnedFd) -> Result<HostView, String> {
    let work = || -> Result<HostView, String> {
        let mut socket = RouteSocket::open().map_err(|error| error.to_string())?;
        take(&mut socket).map_err(|error| error.to_string())
    };
    thread::run(namespace, "view", work).map_err(|error| error.to_string())?
}

/// Of the stack that the socket is in.
fn take(socket: &mut RouteSocket) -> Result<HostView, DumpError> {
    let (dump, routes) = (Dump::take(socket)?, routes(socket, Routes::All)?);
    let names = dump.names();
    let ours: BTreeSet<u32> =
        dump.links.iter().filter(|link| mark(link).is_ours()).map(|link| link.header.index).collect();
    let strangers = dump.addresses.iter().filter(|message| !ours.contains(&message.header.index));
    let addresses = strangers.filter_map(|message| {
        let (net, _) = address_of(message)?;
        // Loopback has no name that a route could say, and every link has a link-local subnet.
        let everywhere = matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
        let link = names.get(&message.header.index)?.clone();
        (!everywhere).then_some((net, link))
    });
    Ok(HostView {
        addresses: addresses.collect(),
        defaults: routes.iter().filter_map(default_route).collect(),
        links: names.into_values().collect(),
    })
}

/// The metric of somebody else's default route; true for IPv4.
pub(super) fn default_route(message: &RouteMessage) -> Option<(bool, u32)> {
    let net = destination(message).filter(|net| net.prefix_len() == 0)?;
    let is_main = u32::from(message.header.table) == TABLE_MAIN;
    let is_ours = message.header.protocol == RouteProtocol::Other(PROTOCOL);
    // The kernel's own "nothing here" of IPv6 is no route of anybody's.
    let leads = message.header.kind == RouteType::Unicast;
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    (is_main && leads && !is_ours).then(|| (net.addr().is_ipv4(), metric.unwrap_or_default()))
}
