//! A Network wants a bridge with the gateway addresses on it, and its elements in the firewall.

use std::net::IpAddr;

use ipnet::IpNet;
use netloom_api::{Egress, Network, NetworkKind, NoOptions};

use super::{Surroundings, living, port_forward};
use crate::{
    hostnet::{
        Address, HostNet, Link, LinkKind, Mark, Stack, Sysctl,
        rules::{Element, Member},
    },
    world::{Borrowed, Stored, World},
};

pub(super) fn want(world: &World, network: &Stored<Network>, around: &Surroundings, net: &mut HostNet) {
    match (&network.spec.kind, &network.alloc.borrowed) {
        (Some(NetworkKind::Bridge(_)) | None, None) => {
            bridge(network, net);
            sysctls(world, network, around, net);
        }
        (Some(NetworkKind::Bridge(_)) | None, Some(was)) => {
            net.borrowed.insert(network.alloc.device.clone(), network.meta.uid);
            let published = port_forward::route_localnet(world, network) == "1";
            let needed =
                Borrowed { forwarding4: true, forwarding6: has_ipv6(network), route_localnet: published };
            switches(network, *was, Some(needed), around, net);
        }
    }
    gateways(network, net);
    elements(network, net);
}

/// Whether the network has a subnet of IPv6.
pub(super) fn has_ipv6(network: &Stored<Network>) -> bool {
    network.alloc.subnets.iter().any(|subnet| subnet.gateway.is_ipv6())
}

fn bridge(network: &Stored<Network>, net: &mut HostNet) {
    let device = &network.alloc.device;
    let mark = Mark::Object(network.meta.uid);
    let link = Link {
        mark,
        kind: LinkKind::Bridge,
        mac: Some(network.alloc.mac),
        mtu: u32::from(network.mtu()),
        up: true,
        master: None,
        hairpin: false,
    };
    net.links.insert((Stack::Host, device.clone()), link);
}

fn gateways(network: &Stored<Network>, net: &mut HostNet) {
    let (device, mark) = (&network.alloc.device, Mark::Object(network.meta.uid));
    for subnet in &network.alloc.subnets {
        let address = on_prefix(subnet.gateway, &subnet.cidr.net());
        net.addresses.insert(Address { stack: Stack::Host, link: device.clone(), net: address }, mark);
    }
}

/// The switches of a user's own bridge stand as they did before it was used.
pub(super) fn give_back(network: &Stored<Network>, around: &Surroundings, net: &mut HostNet) {
    if let Some(was) = network.alloc.borrowed {
        switches(network, was, None, around, net);
    }
}

/// Of a user's own bridge: on where they were on, or where they are needed.
fn switches(
    network: &Stored<Network>,
    was: Borrowed,
    needed: Option<Borrowed>,
    around: &Surroundings,
    net: &mut HostNet,
) {
    let device = || network.alloc.device.clone();
    let mut set = |sysctl, was: bool, need: fn(Borrowed) -> bool| {
        let on = was || needed.is_some_and(need);
        net.sysctls.insert((Stack::Host, sysctl), if on { "1" } else { "0" }.to_owned());
    };
    set(Sysctl::RouteLocalnet(device()), was.route_localnet, |needed| needed.route_localnet);
    if !around.manages_forwarding {
        return;
    }
    set(Sysctl::Forwarding4(device()), was.forwarding4, |needed| needed.forwarding4);
    if around.features.ipv6 && around.features.force_forwarding {
        set(Sysctl::ForceForwarding6(device()), was.forwarding6, |needed| needed.forwarding6);
    }
}

/// The address with the prefix length of its subnet.
pub(crate) fn on_prefix(address: IpAddr, subnet: &IpNet) -> IpNet {
    IpNet::new(address, subnet.prefix_len()).unwrap_or(*subnet)
}

fn sysctls(world: &World, network: &Stored<Network>, around: &Surroundings, net: &mut HostNet) {
    let device = &network.alloc.device;
    let mut set = |sysctl, value: &str| net.sysctls.insert((Stack::Host, sysctl), value.to_owned());
    if around.features.ipv6 {
        if has_ipv6(network) {
            set(Sysctl::DisableIpv6(device.clone()), "0");
            set(Sysctl::AcceptRa(device.clone()), "0");
            set(Sysctl::AcceptDad(device.clone()), "0");
            if around.manages_forwarding && around.features.force_forwarding {
                set(Sysctl::ForceForwarding6(device.clone()), "1");
            }
        } else {
            set(Sysctl::DisableIpv6(device.clone()), "1");
        }
    }
    if around.manages_forwarding {
        set(Sysctl::Forwarding4(device.clone()), "1");
    }
    port_forward::want_loopback(world, network, net);
}

fn elements(network: &Stored<Network>, net: &mut HostNet) {
    let device = network.alloc.device.as_str();
    let spec = &network.spec;
    let elements = &mut net.rules.elements;
    elements.insert(Element::bridges(device));
    elements
        .insert(Element::same(device, if spec.isolates_members() { Member::Drop } else { Member::Accept }));
    if !spec.isolates_networks() {
        elements.insert(Element::open(device));
    }
    if !spec.isolates_host() {
        elements.insert(Element::hostok(device));
    }
    let nat = match spec.egress() {
        Egress::Nat(nat) => {
            elements.insert(Element::egress(device));
            Some(nat)
        }
        Egress::Routed(NoOptions {}) => {
            elements.insert(Element::egress(device));
            elements.insert(Element::routed(device));
            None
        }
        Egress::None(NoOptions {}) => None,
    };
    for subnet in &network.alloc.subnets {
        match subnet.cidr.net() {
            IpNet::V4(prefix) => {
                elements.insert(Element::own4(prefix));
                elements.extend(nat.map(|nat| match nat.address {
                    Some(address) => Element::snat4(prefix, address),
                    None => Element::masq4(prefix),
                }));
            }
            IpNet::V6(prefix) => {
                elements.insert(Element::own6(prefix));
                elements.extend(nat.map(|nat| match nat.address_v6 {
                    Some(address) => Element::snat6(prefix, address),
                    None => Element::masq6(prefix),
                }));
            }
        }
    }
}

/// The network of this name, unless it is being deleted.
pub(super) fn of<'w>(world: &'w World, name: &netloom_api::Name) -> Option<&'w Stored<Network>> {
    living(world, name)
}
