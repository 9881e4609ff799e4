//! The host's own links and switches.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netloom_api::IfName;

use super::{
    Inner,
    dump::{Dump, address_of, kind, mark},
    observe::read,
};
use crate::{
    hostnet::{
        Sysctl,
        rules::{Part, is_notransit},
    },
    kernel::sysctl::{self, Key, SysctlError},
    want::{HostFacts, Uplink},
};

pub(super) fn facts(inner: &Inner) -> Result<HostFacts, String> {
    let mut facts = HostFacts {
        ip_forward: is_on("net/ipv4/ip_forward")?,
        ipv6_forward: is_on("net/ipv6/conf/all/forwarding")?,
        ..HostFacts::default()
    };
    for (net, link) in own_addresses(inner)? {
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

pub(super) fn on_link(inner: &Inner) -> Result<Vec<(IpNet, String)>, String> {
    let mut prefixes: Vec<_> =
        own_addresses(inner)?.into_iter().map(|(net, link)| (net.trunc(), link)).collect();
    prefixes.sort();
    prefixes.dedup();
    Ok(prefixes)
}

/// Addresses of global scope on links that are not ours.
fn own_addresses(inner: &Inner) -> Result<Vec<(IpNet, String)>, String> {
    let dump = inner.with_socket(Dump::take).map_err(|error| error.to_string())?;
    let names: BTreeMap<u32, IfName> = dump.names();
    let strangers: BTreeSet<u32> = dump
        .links
        .iter()
        .filter(|link| !mark(link).is_ours() && kind(link) != "loopback")
        .map(|link| link.header.index)
        .collect();
    let global = |net: &IpNet| match net {
        IpNet::V4(net) => !net.addr().is_link_local() && !net.addr().is_loopback(),
        IpNet::V6(net) => !net.addr().is_unicast_link_local() && !net.addr().is_loopback(),
    };
    let addresses = dump.addresses.iter().filter(|message| strangers.contains(&message.header.index));
    let found = addresses.filter_map(|message| {
        let (net, _) = address_of(message)?;
        Some((net, names.get(&message.header.index)?.to_string()))
    });
    Ok(found.filter(|(net, _)| global(net)).collect())
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
