//! An Attachment wants a cable between its Namespace and its Network's bridge, addressed, guarded and routed.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_api::{Attachment, AttachmentSpec, IfName, Mac, Namespace, Network, RateLimit, TABLE_MAIN};

use super::{living, namespace, network, policy};
use crate::{
    hostnet::{
        Address, DEVICE_PREFIX, HostNet, Link, LinkKind, Mark, QUEUE_PREFIX, Route, Stack, Sysctl, Tbf, Way,
        rules::Element,
    },
    world::{Stored, World, mac_of},
};

pub(super) fn want(world: &World, attachment: &Stored<Attachment>, net: &mut HostNet) {
    let Some((network, namespace)) = bases(world, attachment) else { return };
    cable(attachment, network, net);
    bandwidth(attachment, network, net);
    sysctls(attachment, network, net);
    namespace::settings_of_interface(namespace, &attachment.alloc.interface, net);
    routes(attachment, network, net);
    elements(attachment, network, net);
    policy::peer(world, attachment, network, net);
    policy::lead(world, attachment, network, net);
}

/// What it is on and in. Both exist: the controller and the database see to it. While one of them is being deleted, so is
/// this.
fn bases<'w>(
    world: &'w World,
    attachment: &Stored<Attachment>,
) -> Option<(&'w Stored<Network>, &'w Stored<Namespace>)> {
    Some((
        network::of(world, &attachment.spec.network)?,
        living::<Namespace>(world, &attachment.spec.namespace)?,
    ))
}

/// Its network, if it wants anything at all.
pub(super) fn network_of<'w>(
    world: &'w World,
    attachment: &Stored<Attachment>,
) -> Option<&'w Stored<Network>> {
    let living = attachment.meta.delete_time.is_none();
    bases(world, attachment).filter(|_| living).map(|(network, _)| network)
}

/// The MTU in effect.
pub(super) fn mtu(attachment: &Stored<Attachment>, network: &Stored<Network>) -> u16 {
    mtu_of(&attachment.spec, network)
}

/// The MTU that an attachment like this has.
pub(crate) fn mtu_of(spec: &AttachmentSpec, network: &Stored<Network>) -> u16 {
    spec.mtu.unwrap_or(network.mtu()).min(network.mtu())
}

fn cable(attachment: &Stored<Attachment>, network: &Stored<Network>, net: &mut HostNet) {
    let mark = Mark::Object(attachment.meta.uid);
    let alloc = &attachment.alloc;
    let outer = (Stack::Host, alloc.host_device.clone());
    let inner = (Stack::Namespace(attachment.spec.namespace.clone()), alloc.interface.clone());
    if network.alloc.borrowed.is_some() {
        net.borrowed.insert(network.alloc.device.clone(), network.meta.uid);
    }
    let end = |peer: &(Stack, _), mac, master, mtu: u16| Link {
        mark,
        kind: LinkKind::Veth { peer: Some(peer.clone()) },
        mac: Some(mac),
        mtu: mtu.into(),
        up: true,
        hairpin: Option::is_some(&master),
        master,
    };
    // A bridge takes the lowest address of its ports for its own, unless it was given one; the user's own keeps its.
    let host_mac = match network.alloc.borrowed {
        Some(_) => network.alloc.mac,
        None => mac_of(attachment.meta.uid, "host end"),
    };
    let bridge = Some(network.alloc.device.clone());
    net.links.insert(outer.clone(), end(&inner, host_mac, bridge, network.port_mtu()));
    net.links.insert(inner.clone(), end(&outer, alloc.mac, None, mtu(attachment, network)));
    for address in &alloc.addresses {
        let address = Address { stack: inner.0.clone(), link: inner.1.clone(), net: address.0 };
        net.addresses.insert(address, mark);
    }
}

/// Towards the attachment the host's end holds back what it sends; what comes from it is received by that end, which
/// can hold nothing back, so it goes through a queue.
fn bandwidth(attachment: &Stored<Attachment>, network: &Stored<Network>, net: &mut HostNet) {
    let Some(bandwidth) = attachment.spec.bandwidth else { return };
    let mtu = mtu(attachment, network);
    let port = &attachment.alloc.host_device;
    let tbf = |limit: RateLimit| {
        Tbf::new(limit.rate / 8, limit.burst_for(mtu), u32::from(mtu) + netloom_api::FRAME_HEADER)
    };
    if let Some(limit) = bandwidth.ingress {
        net.limits.insert(port.clone(), tbf(limit));
    }
    if let (Some(limit), Some(queue)) = (bandwidth.egress, queue_of(port)) {
        let link = Link {
            mark: Mark::Object(attachment.meta.uid),
            kind: LinkKind::Ifb,
            mac: None,
            mtu: u32::from(mtu),
            up: true,
            master: None,
            hairpin: false,
        };
        net.links.insert((Stack::Host, queue.clone()), link);
        net.sysctls.insert((Stack::Host, Sysctl::DisableIpv6(queue.clone())), "1".into());
        net.limits.insert(queue.clone(), tbf(limit));
        net.detours.insert(port.clone(), queue);
    }
}

/// The queue of a host's end: both names end as the uid does.
fn queue_of(port: &IfName) -> Option<IfName> {
    let tail = port.as_str().strip_prefix(DEVICE_PREFIX)?;
    format!("{QUEUE_PREFIX}{tail}").parse().ok()
}

fn sysctls(attachment: &Stored<Attachment>, network: &Stored<Network>, net: &mut HostNet) {
    let inside = Stack::Namespace(attachment.spec.namespace.clone());
    let interface = &attachment.alloc.interface;
    let off = Sysctl::DisableIpv6(attachment.alloc.host_device.clone());
    net.sysctls.insert((Stack::Host, off), "1".into());
    if network::has_ipv6(network) {
        // Also where it is off for new links, or somebody has switched it off: then there are no addresses.
        net.sysctls.insert((inside.clone(), Sysctl::DisableIpv6(interface.clone())), "0".into());
        net.sysctls.insert((inside.clone(), Sysctl::AcceptRa(interface.clone())), "0".into());
        net.sysctls.insert((inside, Sysctl::AcceptDad(interface.clone())), "0".into());
    } else {
        net.sysctls.insert((inside, Sysctl::DisableIpv6(interface.clone())), "1".into());
    }
}

/// One default route per family, by the first subnet that has a gateway of it.
fn routes(attachment: &Stored<Attachment>, network: &Stored<Network>, net: &mut HostNet) {
    if !attachment.alloc.default_route {
        return;
    }
    let gateways = network.alloc.subnets.iter().map(|subnet| subnet.gateway);
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = gateways.partition(IpAddr::is_ipv4);
    let everything = [(v4, IpNet::V4(Ipv4Net::default())), (v6, IpNet::V6(Ipv6Net::default()))];
    for (gateways, destination) in everything {
        let Some(via) = gateways.first().copied() else { continue };
        let route = Route {
            stack: Stack::Namespace(attachment.spec.namespace.clone()),
            destination,
            table: TABLE_MAIN,
            metric: attachment.alloc.metric,
            way: Way::Through { via: Some(via), link: attachment.alloc.interface.clone() },
        };
        net.routes.insert(route, Mark::Object(attachment.meta.uid));
    }
}

fn elements(attachment: &Stored<Attachment>, network: &Stored<Network>, net: &mut HostNet) {
    let port = attachment.alloc.host_device.as_str();
    let bridge = network.alloc.device.as_str();
    let mac = attachment.alloc.mac.bytes();
    let elements = &mut net.rules.elements;
    elements.insert(Element::spoofed(port));
    elements.insert(Element::brmac(port, network.alloc.mac.bytes()));
    elements.insert(Element::self_(port));
    if !network.spec.spoof_guard() {
        elements.insert(Element::noguard(port));
    }
    if network.spec.isolates_members() {
        elements.insert(Element::iso(port));
    }
    for address in &attachment.alloc.addresses {
        match address.0.addr() {
            IpAddr::V4(address) => {
                elements.insert(Element::guard4(port, mac, address));
                elements.insert(Element::hairpin4(bridge, address));
            }
            IpAddr::V6(address) => {
                elements.insert(Element::guard6(port, mac, address));
                elements.insert(Element::hairpin6(bridge, address));
            }
        }
    }
    if network::has_ipv6(network) {
        elements.insert(Element::guard6(port, mac, link_local(attachment.alloc.mac)));
    }
}

/// The address that the kernel derives from the MAC by itself (RFC 4291, appendix A).
pub(super) fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.bytes();
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}
