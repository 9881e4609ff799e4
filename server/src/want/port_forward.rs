//! A PortForward wants elements in the firewall's maps. While there is one, its network has the switch that lets the host
//! itself use 127.0.0.1.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_api::{Attachment, Listen, Network, PortForward};

use super::{living, network};
use crate::{
    hostnet::{
        HostNet, Stack, Sysctl,
        rules::{Element, Transport},
    },
    world::{Stored, World},
};

pub(super) fn want(world: &World, forward: &Stored<PortForward>, net: &mut HostNet) {
    let Some(attachment) = living::<Attachment>(world, &forward.spec.target.attachment) else { return };
    if network::of(world, &attachment.spec.network).is_none() {
        return;
    }
    for target in targets(forward, attachment) {
        elements(forward, target, net);
        gate(forward, target.is_ipv6(), net);
    }
}

/// The switch of a network that lets the host itself use 127.0.0.1, whether or not any port needs it any more.
pub(super) fn want_loopback(world: &World, network: &Stored<Network>, net: &mut HostNet) {
    let switch = Sysctl::RouteLocalnet(network.alloc.device.clone());
    net.sysctls.insert((Stack::Host, switch), route_localnet(world, network).to_owned());
}

/// The target's addresses that the listen address can be translated to: at most one per family.
pub(crate) fn targets(
    forward: &Stored<PortForward>,
    attachment: &Stored<Attachment>,
) -> impl Iterator<Item = IpAddr> + use<> {
    let wanted = forward.spec.listen.address;
    let addresses = attachment.alloc.addresses.iter().map(|address| address.0.addr());
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
    let fits = move |address: &IpAddr| wanted.is_none_or(|wanted| wanted.is_ipv4() == address.is_ipv4());
    [v4.first().copied(), v6.first().copied()].into_iter().flatten().filter(fits)
}

/// Whether the host may reach a member of the network under 127.0.0.1; on the user's own bridge it may have before.
pub(super) fn route_localnet(world: &World, network: &Stored<Network>) -> &'static str {
    let loopback = |listen: &Listen| listen.address.is_none_or(|address| address.is_loopback());
    // One that is being deleted does not count: nobody looks at the switch once more when it is gone.
    let members =
        world.attachments_on(&network.meta.name).filter(|name| living::<Attachment>(world, name).is_some());
    let published = members.into_iter().any(|attachment| {
        let forwards = world.forwards_to(attachment).filter_map(|name| living::<PortForward>(world, name));
        forwards.into_iter().any(|forward| loopback(&forward.spec.listen))
    });
    let before = network.alloc.borrowed.is_some_and(|was| was.route_localnet);
    if published || before { "1" } else { "0" }
}

/// One hash element per single or shifted port, one interval element for a range that keeps its ports.
fn elements(forward: &Stored<PortForward>, to: IpAddr, net: &mut HostNet) {
    let listen = forward.listen();
    let transport = transport(forward);
    let (first, last) = (listen.port, listen.last_port());
    let target = forward.target_port();
    let elements = &mut net.rules.elements;
    if first != last && target == first {
        elements.insert(match (to, listen.address) {
            (IpAddr::V4(to), Some(IpAddr::V4(on))) => Element::rng4(on, transport, first..=last, to),
            (IpAddr::V4(to), _) => Element::rng4any(transport, first..=last, to),
            (IpAddr::V6(to), Some(IpAddr::V6(on))) => Element::rng6(on, transport, first..=last, to),
            (IpAddr::V6(to), _) => Element::rng6any(transport, first..=last, to),
        });
        return;
    }
    for port in first..=last {
        let target = target + (port - first);
        elements.insert(match (to, listen.address) {
            (IpAddr::V4(to), Some(IpAddr::V4(on))) => Element::fwd4(on, transport, port, to, target),
            (IpAddr::V4(to), _) => Element::fwd4any(transport, port, to, target),
            (IpAddr::V6(to), Some(IpAddr::V6(on))) => Element::fwd6(on, transport, port, to, target),
            (IpAddr::V6(to), _) => Element::fwd6any(transport, port, to, target),
        });
    }
}

/// A gate, and an element for each prefix that may pass it: where sources are named, and none of this family, none may.
fn gate(forward: &Stored<PortForward>, ipv6: bool, net: &mut HostNet) {
    if forward.spec.sources.is_empty() {
        return;
    }
    let (listen, transport) = (forward.listen(), transport(forward));
    let ports = listen.port..=listen.last_port();
    net.rules.elements.insert(Element::gate(ipv6, listen.address, transport, ports.clone()));
    // The kernel refuses intervals that overlap.
    let sources: Vec<IpNet> = forward.spec.sources.iter().map(|source| source.net()).collect();
    for source in IpNet::aggregate(&sources).into_iter().filter(|net| net.addr().is_ipv6() == ipv6) {
        net.rules.elements.insert(Element::source(source, listen.address, transport, ports.clone()));
    }
}

fn transport(forward: &Stored<PortForward>) -> Transport {
    match forward.spec.protocol {
        netloom_api::Protocol::Tcp => Transport::Tcp,
        netloom_api::Protocol::Udp => Transport::Udp,
        netloom_api::Protocol::Sctp => Transport::Sctp,
    }
}
