//! A Route wants its route, as long as there is a way for it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use netloom_api::{IfName, Name, Namespace, Route, RouteSpec, RouteType};

use super::living;
use crate::{
    hostnet::{self, HostNet, Mark, Stack, Way},
    world::{OnLink, RouteAlloc, Stored, World},
};

/// Prefixes that an error lists at most.
const LISTED: usize = 8;

/// Why a route has no way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoWay {
    /// The namespace is not there.
    Namespace,
    /// It has no interface of this name.
    Interface(String),
    /// The gateway is in no subnet of it, and these are its subnets.
    Gateway(String, Vec<IpNet>),
    /// The gateway is an address of the namespace itself.
    Itself(String),
}

impl std::fmt::Display for NoWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoWay::Namespace => f.write_str("the namespace is not there"),
            NoWay::Interface(why) | NoWay::Gateway(why, _) | NoWay::Itself(why) => f.write_str(why),
        }
    }
}

pub(super) fn want(world: &World, route: &Stored<Route>, net: &mut HostNet) {
    let Stored { meta, spec, alloc } = route;
    let Ok(way) = way(world, spec, alloc) else { return };
    let stack = if spec.is_of_host() { Stack::Host } else { Stack::Namespace(spec.namespace.clone()) };
    let (destination, table, metric) = (spec.destination.net(), spec.table(), spec.metric());
    net.routes.insert(hostnet::Route { stack, destination, table, metric, way }, Mark::Object(meta.uid));
}

/// Which way a route goes, by the World alone; where others have interfaces, too, also by the link that was chosen when it
/// was written.
pub(crate) fn way(world: &World, spec: &RouteSpec, alloc: &RouteAlloc) -> Result<Way, NoWay> {
    let namespace = living::<Namespace>(world, &spec.namespace);
    let is_shared = match namespace {
        _ if spec.is_of_host() => true,
        Some(namespace) => namespace.alloc.adopted.is_some(),
        None => return Err(NoWay::Namespace),
    };
    match spec.type_() {
        RouteType::Blackhole => return Ok(Way::Blackhole),
        RouteType::Unreachable => return Ok(Way::Unreachable),
        RouteType::Prohibit => return Ok(Way::Prohibit),
        RouteType::Unicast => {}
    }
    let through = |link: &IfName| Way::Through { via: spec.via, link: link.clone() };
    let all = world.on_link(&spec.namespace);
    if let Some(interface) = &spec.interface {
        let on_it: Vec<&OnLink> = all.iter().filter(|one| one.interface == *interface).collect();
        return match (is_shared, on_it.as_slice()) {
            // A link that the World knows nothing of is the kernel's to judge.
            (true, []) => Ok(through(interface)),
            (false, []) => Err(no_interface(&spec.namespace, interface, &all)),
            (_, on_it) => leads(spec, on_it).map(|_| through(interface)),
        };
    }
    match (leads(spec, &all.iter().collect::<Vec<_>>()), &alloc.device) {
        (Ok(found), _) => Ok(through(&found.interface)),
        (Err(NoWay::Gateway(..)), Some(device)) => Ok(through(device)),
        (Err(why), _) => Err(why),
    }
}

/// The first of these prefixes that has the gateway; without a gateway the first of the family.
fn leads<'w>(spec: &RouteSpec, on_link: &[&'w OnLink]) -> Result<&'w OnLink, NoWay> {
    let v4 = spec.destination.net().addr().is_ipv4();
    let of_family = || on_link.iter().filter(|one| one.address.addr().is_ipv4() == v4);
    let Some(via) = spec.via else {
        let found = of_family().next();
        return found.copied().ok_or_else(|| no_gateway(spec, on_link));
    };
    if let Some(own) = on_link.iter().find(|one| one.address.addr() == via) {
        let why = format!("{via} is {}'s own address on {}", spec.namespace, own.interface);
        return Err(NoWay::Itself(why));
    }
    let has_it = |one: &&&OnLink| one.address.contains(&via) || is_link_local(via);
    of_family().find(has_it).copied().ok_or_else(|| no_gateway(spec, on_link))
}

/// Every interface with IPv6 has a link-local subnet.
fn is_link_local(via: IpAddr) -> bool {
    match via {
        IpAddr::V4(_) => false,
        IpAddr::V6(via) => Ipv6Addr::is_unicast_link_local(&via),
    }
}

fn no_gateway(spec: &RouteSpec, on_link: &[&OnLink]) -> NoWay {
    let v4 = spec.destination.net().addr().is_ipv4();
    let of_family = on_link.iter().filter(|one| one.address.addr().is_ipv4() == v4);
    let subnets: Vec<IpNet> = of_family.map(|one| one.address.trunc()).collect();
    NoWay::Gateway(no_gateway_text(spec, &subnets), subnets)
}

/// That the gateway is in none of these subnets.
pub(crate) fn no_gateway_text(spec: &RouteSpec, subnets: &[IpNet]) -> String {
    let from = match &spec.interface {
        Some(interface) => format!("{interface} of {}", spec.namespace),
        None => spec.namespace.to_string(),
    };
    let family = if spec.destination.net().addr().is_ipv4() { "IPv4" } else { "IPv6" };
    let what = match spec.via {
        Some(via) => format!("{via} cannot be reached from {from}"),
        None => return format!("{from} has no {family} address"),
    };
    if subnets.is_empty() {
        return format!("{what}, which is in no {family} subnet");
    }
    let some: Vec<String> = subnets.iter().take(LISTED).map(ToString::to_string).collect();
    let more = if subnets.len() > LISTED { ", …" } else { "" };
    format!("{what}; a gateway must be in {}{more}", some.join(" or "))
}

fn no_interface(namespace: &Name, interface: &IfName, all: &[OnLink]) -> NoWay {
    let mut names: Vec<&str> = all.iter().map(|one| one.interface.as_str()).collect();
    names.dedup();
    NoWay::Interface(match names.as_slice() {
        [] => format!("{namespace} has no interface {interface}, nor any other"),
        names => format!("{namespace} has no interface {interface}, only {}", names.join(", ")),
    })
}
