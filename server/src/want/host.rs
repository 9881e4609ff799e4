//! What netloom wants of the host as a whole: forwarding where something needs it, and no strangers forwarded by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netloom_api::{Egress, IfName, Mac, Network, Policy, PortForward};

use super::{Surroundings, network};
use crate::{
    hostnet::{
        HostNet, Stack, Sysctl,
        rules::{Element, Skeleton, Transport},
    },
    world::{Borrowed, World},
};

/// The host's own links and switches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Links that are not ours and have an address of global scope.
    pub uplinks: BTreeMap<IfName, Uplink>,
    /// `net.ipv4.ip_forward`, which is never ours to set: whoever did wants strangers forwarded.
    pub ip_forward: bool,
    /// `net.ipv6.conf.all.forwarding`
    pub ipv6_forward: bool,
    /// Its own addresses of global scope.
    pub addresses: BTreeSet<IpAddr>,
}

/// What of the host choices depend on, as it is when they are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLinks {
    /// Prefixes of its own links, with the links' names.
    pub on_link: Vec<(IpNet, String)>,
    /// Its own addresses of global scope.
    pub addresses: BTreeSet<IpAddr>,
    /// What the interface of the default route carries; of several families the least.
    pub uplink_mtu: Option<u32>,
    /// Bridges that are not ours.
    pub bridges: BTreeMap<IfName, OwnBridge>,
}

/// A bridge that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnBridge {
    /// Its MAC address.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// Its switches.
    pub switches: Borrowed,
}

/// One of the host's own links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// `net.ipv4.conf.<link>.forwarding`
    pub forwarding4: bool,
    /// `net.ipv6.conf.<link>.force_forwarding`
    pub forwarding6: bool,
    /// It has IPv6 addresses of global scope.
    pub ipv6: bool,
    /// The firewall keeps strangers from being forwarded: it was us who switched its forwarding on.
    pub guarded: bool,
}

/// Whether any object needs packets to be forwarded, by family: (IPv4, IPv6).
pub fn needs_forwarding(world: &World) -> (bool, bool) {
    // What policies select is routed by the host, also between members of one network.
    let published = world.count::<PortForward>() > 0 || world.count::<Policy>() > 0;
    let open = |network: &crate::world::Stored<Network>| {
        published || !network.spec.isolates_networks() || !matches!(network.spec.egress(), Egress::None(_))
    };
    let living = || world.all::<Network>().filter(|network| network.meta.delete_time.is_none());
    let v4 = living().any(|network| open(network));
    let v6 = living().any(|network| open(network) && network::has_ipv6(network));
    (v4, v6)
}

/// Bridges of the user's own that Networks use are theirs as much as ours: what passes them is judged as ours.
pub(super) fn want(world: &World, around: &Surroundings, net: &mut HostNet) {
    net.rules.elements.extend(around.api_ports.iter().map(|port| Element::api(Transport::Tcp, *port)));
    if !around.manages_forwarding {
        return;
    }
    let (v4, v6) = needs_forwarding(world);
    let facts = &around.facts;
    // Somebody else forwards too: then strangers are theirs to judge.
    let others_forward = facts.ip_forward || (around.features.force_forwarding && facts.ipv6_forward);
    let uplinks = || facts.uplinks.iter().filter(|(name, _)| world.device_holder(name).is_none());
    for (name, uplink) in uplinks() {
        // What was once switched on stays on: traffic of others may have come to rely on it.
        let mut ours = uplink.guarded;
        if v4 && !uplink.forwarding4 {
            net.sysctls.insert((Stack::Host, Sysctl::Forwarding4(name.clone())), "1".into());
            ours = true;
        }
        if v6 && uplink.ipv6 && around.features.force_forwarding && !uplink.forwarding6 {
            net.sysctls.insert((Stack::Host, Sysctl::ForceForwarding6(name.clone())), "1".into());
            ours = true;
        }
        if ours && !others_forward {
            net.rules.elements.insert(Element::notransit(name.as_str()));
        }
    }
    if v6 && around.features.ipv6 && !around.features.force_forwarding && !facts.ipv6_forward {
        for (name, uplink) in uplinks() {
            if uplink.ipv6 {
                // A forwarding host ignores router advertisements unless told otherwise; its own default route must live.
                net.sysctls.insert((Stack::Host, Sysctl::AcceptRa(name.clone())), "2".into());
            }
        }
        net.sysctls.insert((Stack::Host, Sysctl::Forwarding6All), "1".into());
    }
}

pub(super) fn have(around: &Surroundings) -> HostNet {
    let mut net = HostNet::default();
    net.rules.skeleton = Skeleton::Present;
    net.rules.elements.extend(around.api_ports.iter().map(|port| Element::api(Transport::Tcp, *port)));
    for (name, _) in around.facts.uplinks.iter().filter(|(_, uplink)| uplink.guarded) {
        net.rules.elements.insert(Element::notransit(name.as_str()));
    }
    net
}
