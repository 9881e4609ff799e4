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
    world::{Stored, World},
};

pub(super) fn want(world: &World, network: &Stored<Network>, around: &Surroundings, net: &mut HostNet) {
    match &network.spec.kind {
        Some(NetworkKind::Bridge(_)) | None => bridge(network, net),
    }
    sysctls(world, network, around, net);
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
        mtu: u32::from(network.spec.mtu()),
        up: true,
        master: None,
        hairpin: false,
    };
    net.links.insert((Stack::Host, device.clone()), link);
    for subnet in &network.alloc.subnets {
        let address = on_prefix(subnet.gateway, &subnet.cidr.net());
        net.addresses.insert(Address { stack: Stack::Host, link: device.clone(), net: address }, mark);
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
    let masquerade = match spec.egress() {
        Egress::Nat(NoOptions {}) => {
            elements.insert(Element::egress(device));
            true
        }
        Egress::Routed(NoOptions {}) => {
            elements.insert(Element::egress(device));
            elements.insert(Element::routed(device));
            false
        }
        Egress::None(NoOptions {}) => false,
    };
    for subnet in &network.alloc.subnets {
        match subnet.cidr.net() {
            IpNet::V4(prefix) => {
                elements.insert(Element::own4(prefix));
                if masquerade {
                    elements.insert(Element::masq4(prefix));
                }
            }
            IpNet::V6(prefix) => {
                elements.insert(Element::own6(prefix));
                if masquerade {
                    elements.insert(Element::masq6(prefix));
                }
            }
        }
    }
}

/// The network of this name, unless it is being deleted.
pub(super) fn of<'w>(world: &'w World, name: &netloom_api::Name) -> Option<&'w Stored<Network>> {
    living(world, name)
}
