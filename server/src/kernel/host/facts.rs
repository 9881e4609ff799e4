//! The host's own links and switches.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    link::{LinkAttribute, LinkMessage},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use netloom_api::{IfName, Mac};

use super::{
    Inner,
    dump::{Dump, Routes, address_of, ifname, kind, mark, routes},
    observe::read,
};
use crate::{
    hostnet::{
        Sysctl,
        rules::{Part, is_notransit},
    },
    kernel::{
        socket::DumpError,
        sysctl::{self, Key, SysctlError},
    },
    want::{HostFacts, HostLinks, OwnBridge, Uplink},
    world::Borrowed,
};

pub(super) fn facts(inner: &Inner) -> Result<HostFacts, String> {
    let mut facts = HostFacts {
        ip_forward: is_on("net/ipv4/ip_forward")?,
        ipv6_forward: is_on("net/ipv6/conf/all/forwarding")?,
        ..HostFacts::default()
    };
    let dump = inner.with_socket(Dump::take).map_err(|error| error.to_string())?;
    facts.addresses = addresses(&dump);
    for (net, link) in own_addresses(&dump) {
        let Ok(name) = link.parse::<IfName>() else { continue };
        let uplink = facts.uplinks.entry(name).or_default();
        uplink.ipv6 |= net.addr().is_ipv6();
    }
    let guarded = guarded(inner)?;
    for (name, uplink) in &mut facts.uplinks {
        *uplink = Uplink {
            forwarding4: read(&Sysctl::Forwarding4(name.clone()))?.as_deref() == Some("1"),
            forwarding6: read(&Sysctl::ForceForwarding6(name.clone()))?.as_deref() == Some("1"),
            ipv6: uplink.ipv6,
            guarded: guarded.contains(name.as_str()),
        };
    }
    Ok(facts)
}

/// What of the host choices depend on.
pub(super) fn links(inner: &Inner) -> Result<HostLinks, String> {
    let (dump, routes) = inner
        .with_socket(|socket| Ok::<_, DumpError>((Dump::take(socket)?, routes(socket, Routes::All)?)))
        .map_err(|error| error.to_string())?;
    let own = own_addresses(&dump);
    let mut on_link: Vec<_> = own.iter().map(|(net, link)| (net.trunc(), link.clone())).collect();
    on_link.sort();
    on_link.dedup();
    Ok(HostLinks {
        on_link,
        addresses: addresses(&dump),
        uplink_mtu: uplink_mtu(&dump, &routes),
        bridges: bridges(&dump)?,
    })
}

fn bridges(dump: &Dump) -> Result<BTreeMap<IfName, OwnBridge>, String> {
    let mut found = BTreeMap::new();
    for link in dump.links.iter().filter(|link| kind(link) == "bridge" && !mark(link).is_ours()) {
        let Some(name) = ifname(link) else { continue };
        let mac = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(Mac::from_bytes),
            _ => None,
        });
        let (Some(mac), Some(mtu)) = (mac, mtu_of(link)) else { continue };
        let is_on = |sysctl: Sysctl| Ok::<_, String>(read(&sysctl)?.as_deref() == Some("1"));
        let switches = Borrowed {
            forwarding4: is_on(Sysctl::Forwarding4(name.clone()))?,
            forwarding6: is_on(Sysctl::ForceForwarding6(name.clone()))?,
            route_localnet: is_on(Sysctl::RouteLocalnet(name.clone()))?,
        };
        found.insert(name, OwnBridge { mac, mtu, switches });
    }
    Ok(found)
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

/// The MTU of the interface that the best default route leads to; of both families the least.
fn uplink_mtu(dump: &Dump, routes: &[RouteMessage]) -> Option<u32> {
    let best = |family: AddressFamily| {
        let of_family = routes.iter().filter(|route| {
            let header = &route.header;
            header.address_family == family
                && header.destination_prefix_length == 0
                && header.table == RouteHeader::RT_TABLE_MAIN
                && header.kind == RouteType::Unicast
        });
        let with_link = of_family.filter_map(|route| {
            let (mut metric, mut index) = (0, None);
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Priority(priority) => metric = *priority,
                    RouteAttribute::Oif(oif) => index = Some(*oif),
                    _ => {}
                }
            }
            Some((metric, index?))
        });
        let (_, index) = with_link.min()?;
        dump.links.iter().find(|link| link.header.index == index).and_then(mtu_of)
    };
    [AddressFamily::Inet, AddressFamily::Inet6].into_iter().filter_map(best).min()
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    }
}

/// The host's own addresses of global scope, also those on loopback.
fn addresses(dump: &Dump) -> BTreeSet<IpAddr> {
    let own = dump.addresses.iter().filter_map(address_of).filter(|(_, is_ours)| !is_ours);
    own.map(|(net, _)| net.addr()).filter(|address| is_global(*address)).collect()
}

/// Addresses of global scope, not ours, on links that are not ours.
fn own_addresses(dump: &Dump) -> Vec<(IpNet, String)> {
    let names: BTreeMap<u32, IfName> = dump.names();
    let strangers: BTreeSet<u32> = dump
        .links
        .iter()
        .filter(|link| !mark(link).is_ours() && kind(link) != "loopback")
        .map(|link| link.header.index)
        .collect();
    let on_them = dump.addresses.iter().filter(|message| strangers.contains(&message.header.index));
    let found = on_them.filter_map(|message| {
        let (net, is_ours) = address_of(message)?;
        (!is_ours && is_global(net.addr())).then_some(())?;
        Some((net, names.get(&message.header.index)?.to_string()))
    });
    found.collect()
}

/// Uplinks whose forwarding was switched on by us: the firewall remembers.
fn guarded(inner: &Inner) -> Result<BTreeSet<String>, String> {
    let rules = inner.rules.dump().map_err(|error| error.to_string())?;
    let names =
        rules.elements.iter().filter(|element| is_notransit(element)).flat_map(|element| element.key());
    Ok(names
        .filter_map(|part| match part {
            Part::Ifname(name) => Some(name.clone()),
            _ => None,
        })
        .collect())
}

fn is_on(path: &str) -> Result<bool, String> {
    let key = Key::named(path).map_err(|error| error.to_string())?;
    match sysctl::read(&key) {
        Ok(value) => Ok(value != "0"),
        Err(SysctlError::Missing(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}
