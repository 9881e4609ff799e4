//! What somebody with `ip` does behind the daemon's back: for tests that break things.

use std::os::fd::AsFd;

use ipnet::IpNet;
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{
    lan::address_message,
    socket::{RouteSocket, create, request},
    thread,
};

/// `ip link del`
pub fn delete_link(namespace: impl AsFd, name: &str) -> Result<(), String> {
    send(namespace, request(RouteNetlinkMessage::DelLink(link(name).build())))
}

/// `ip link set … down`
pub fn set_down(namespace: impl AsFd, name: &str) -> Result<(), String> {
    send(namespace, request(RouteNetlinkMessage::SetLink(link(name).down().build())))
}

/// `ip link set … down`, then `ip link set … name …`
pub fn rename(namespace: impl AsFd, name: &str, to: &str) -> Result<(), String> {
    set_down(&namespace, name)?;
    let index = found(&namespace, name)?.header.index;
    let renamed = LinkMessageBuilder::<LinkUnspec>::new().index(index).name(to).build();
    send(namespace, request(RouteNetlinkMessage::SetLink(renamed)))
}

/// `ip link set … netns …`
pub fn move_link(namespace: impl AsFd, name: &str, to: impl AsFd) -> Result<(), String> {
    use std::os::fd::AsRawFd as _;
    let fd = to.as_fd().as_raw_fd();
    let moved = LinkMessageBuilder::<LinkUnspec>::new().name(name).setns_by_fd(fd).build();
    send(namespace, request(RouteNetlinkMessage::SetLink(moved)))
}

/// `ip addr del`
pub fn delete_address(namespace: impl AsFd, name: &str, net: IpNet) -> Result<(), String> {
    let index = found(&namespace, name)?.header.index;
    send(namespace, request(RouteNetlinkMessage::DelAddress(address_message(index, net))))
}

/// `ip addr add`
pub fn add_address(namespace: impl AsFd, name: &str, net: IpNet) -> Result<(), String> {
    let index = found(&namespace, name)?.header.index;
    send(namespace, create(RouteNetlinkMessage::NewAddress(address_message(index, net))))
}

/// A pair of `ip link add … type veth peer name …`, in one namespace.
pub fn add_cable(namespace: impl AsFd, name: &str, peer: &str) -> Result<(), String> {
    use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
    let mut other = LinkMessage::default();
    other.attributes.push(LinkAttribute::IfName(peer.to_owned()));
    let builder = LinkMessageBuilder::<rtnetlink::LinkVeth>::new_with_info_kind(InfoKind::Veth);
    let pair = builder.set_info_data(InfoData::Veth(InfoVeth::Peer(other))).name(name.to_owned()).build();
    send(namespace, create(RouteNetlinkMessage::NewLink(pair)))
}

/// `ip link set … master …`
pub fn put_in_bridge(namespace: impl AsFd, name: &str, bridge: &str) -> Result<(), String> {
    let index = found(&namespace, bridge)?.header.index;
    send(namespace, request(RouteNetlinkMessage::SetLink(link(name).controller(index).build())))
}

fn link(name: &str) -> LinkMessageBuilder<LinkUnspec> {
    LinkMessageBuilder::<LinkUnspec>::new().name(name)
}

fn found(namespace: impl AsFd, name: &str) -> Result<LinkMessage, String> {
    let look = || RouteSocket::open().map(|mut socket| socket.link_by_name(name));
    let found = thread::run(namespace, "meddle", look).map_err(text)?.map_err(text)?.map_err(text)?;
    found.ok_or_else(|| format!("there is no link {name}"))
}

fn send(namespace: impl AsFd, message: NetlinkMessage<RouteNetlinkMessage>) -> Result<(), String> {
    let work = || RouteSocket::open().map(|mut socket| socket.request_reply(message));
    thread::run(namespace, "meddle", work).map_err(text)?.map_err(text)?.map_err(text)?;
    Ok(())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
