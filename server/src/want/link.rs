//! A Link wants a cable between its two ends, each addressed and up.

use netloom_api::{Link, LinkEnd, Namespace};

use super::{Surroundings, living, namespace};
use crate::{
    hostnet::{self, Address, HostNet, LinkKind, Mark, Stack, Sysctl},
    world::{Stored, World},
};

pub(super) fn want(world: &World, link: &Stored<Link>, around: &Surroundings, net: &mut HostNet) {
    let [first, second] = &link.spec.ends;
    // Both are there: the controller and the database see to it. While one is being deleted, so is this.
    let is_there = |end: &LinkEnd| end.is_on_host() || living::<Namespace>(world, &end.namespace).is_some();
    if !(is_there(first) && is_there(second)) {
        return;
    }
    for (index, (end, other)) in [(first, second), (second, first)].into_iter().enumerate() {
        let mark = Mark::Object(link.meta.uid);
        let at = (stack_of(end), end.interface.clone());
        let made = hostnet::Link {
            mark,
            kind: LinkKind::Veth { peer: Some((stack_of(other), other.interface.clone())) },
            mac: link.alloc.macs.get(index).copied(),
            mtu: u32::from(link.spec.mtu()),
            up: true,
            master: None,
            hairpin: false,
        };
        net.links.insert(at.clone(), made);
        for address in &end.addresses {
            let address = Address { stack: at.0.clone(), link: at.1.clone(), net: address.0 };
            net.addresses.insert(address, mark);
        }
        sysctls(end, around, net);
        if let Some(namespace) = living(world, &end.namespace) {
            namespace::settings_of_interface(namespace, &end.interface, net);
        }
    }
}

/// Where an end is.
pub(crate) fn stack_of(end: &LinkEnd) -> Stack {
    if end.is_on_host() { Stack::Host } else { Stack::Namespace(end.namespace.clone()) }
}

fn sysctls(end: &LinkEnd, around: &Surroundings, net: &mut HostNet) {
    let stack = stack_of(end);
    let mut set = |sysctl: fn(netloom_api::IfName) -> Sysctl, value: &str| {
        net.sysctls.insert((stack.clone(), sysctl(end.interface.clone())), value.to_owned());
    };
    if around.features.ipv6 {
        let is_wanted = end.addresses.iter().any(|address| address.0.addr().is_ipv6());
        set(Sysctl::DisableIpv6, if is_wanted { "0" } else { "1" });
        set(Sysctl::AcceptRa, "0");
        set(Sysctl::AcceptDad, "0");
    }
}
