//! What a Network claims: its device or the user's own bridge, its subnets, its way out, and what it carries.

use std::net::IpAddr;

use netloom_api::{Cidr, ErrorReason, IfName, Kind, MTU_DEFAULT, Name, Network, NetworkSpec, Subnet, Uid};

use super::{
    claims::Claims,
    edit::{Context, Edit, device_of},
};
use crate::{
    error::{Error, Result},
    ipam,
    want::OwnBridge,
    world::{NetworkAlloc, SubnetAlloc, World, mac_of},
};

impl Claims for Network {
    fn check_immutable(old: &NetworkSpec, new: &NetworkSpec) -> Result<()> {
        if new.device().is_some() && old.device() != new.device() {
            return Err(Error::immutable("spec.kind.bridge.device", Kind::Network));
        }
        if old.is_existing() != new.is_existing() {
            return Err(Error::immutable("spec.kind.bridge.existing", Kind::Network));
        }
        let fixed = |subnets: &[Subnet]| subnets.iter().map(|s| (s.cidr, s.gateway)).collect::<Vec<_>>();
        if fixed(&old.subnets) != fixed(&new.subnets) {
            return Err(Error::immutable("spec.subnets", Kind::Network));
        }
        Ok(())
    }

    fn claim(
        edit: &mut Edit,
        name: &Name,
        uid: Uid,
        spec: &NetworkSpec,
        old: Option<&NetworkAlloc>,
        context: &Context,
    ) -> Result<NetworkAlloc> {
        if let Some(old) = old {
            check_mtu(spec, old)?;
            let nat = nat_addresses(spec, &old.subnets, &old.nat, context)?;
            return Ok(NetworkAlloc { nat, ..old.clone() });
        }
        let device = match spec.device() {
            Some(device) => wanted_device(&edit.world, device)?,
            None => device_of(uid)?,
        };
        let bridge = if spec.is_existing() { Some(existing_bridge(&device, context)?) } else { None };
        let chosen = [Subnet::default()];
        let wanted = if spec.subnets.is_empty() { &chosen[..] } else { &spec.subnets[..] };
        let mut subnets: Vec<SubnetAlloc> = Vec::new();
        for (index, subnet) in wanted.iter().enumerate() {
            let cidr = match subnet.cidr {
                Some(cidr) => explicit_subnet(edit, cidr, index, bridge.map(|_| &device), context)?,
                None => chosen_subnet(edit, &subnets, context)?,
            };
            let gateway = subnet.gateway.unwrap_or_else(|| cidr.first_host());
            subnets.push(SubnetAlloc { cidr, gateway });
        }
        // A range that the gateway fills alone would be a network without room.
        tracing::trace!(network = %name, ?subnets, "subnets");
        let carried = bridge.map(|bridge| bridge.mtu).or(context.host.uplink_mtu);
        let least = if subnets.iter().any(|subnet| subnet.gateway.is_ipv6()) { 1280 } else { 576 };
        let alloc = NetworkAlloc {
            device,
            mac: bridge.map_or_else(|| mac_of(uid, "bridge"), |bridge| bridge.mac),
            mtu: carried.map_or(MTU_DEFAULT, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX)).max(least),
            nat: nat_addresses(spec, &subnets, &[], context)?,
            borrowed: bridge.map(|bridge| bridge.switches),
            subnets,
        };
        check_mtu(spec, &alloc)?;
        Ok(alloc)
    }
}

/// The user's own bridge.
fn existing_bridge(device: &IfName, context: &Context) -> Result<OwnBridge> {
    context.host.bridges.get(device).copied().ok_or_else(|| {
        let detail = format!("the host has no bridge {device}; make it, or leave `existing` out");
        Error::new(ErrorReason::ReferenceNotFound, detail).at("spec.kind.bridge.device")
    })
}

/// The user's own bridge carries what it carries.
fn check_mtu(spec: &NetworkSpec, alloc: &NetworkAlloc) -> Result<()> {
    match (spec.mtu, alloc.borrowed) {
        (Some(mtu), Some(_)) if mtu > alloc.mtu => {
            let detail = format!("{mtu} is above the {} that the bridge {} carries", alloc.mtu, alloc.device);
            Err(Error::new(ErrorReason::InvalidArgument, detail).at("spec.mtu"))
        }
        (_, _) => Ok(()),
    }
}

/// The chosen addresses to leave behind. Those that the host had when they were chosen are not asked for again: whether
/// it still has them is for the status to say.
fn nat_addresses(
    spec: &NetworkSpec,
    subnets: &[SubnetAlloc],
    had: &[IpAddr],
    context: &Context,
) -> Result<Vec<IpAddr>> {
    let mut all = Vec::new();
    for (field, address) in spec.nat_addresses() {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let wrong = |detail: String| Err(Error::new(ErrorReason::InvalidArgument, detail).at(field));
        if !subnets.iter().any(|subnet| subnet.gateway.is_ipv4() == address.is_ipv4()) {
            return wrong(format!("{address} has no use: the network has no {family} subnet"));
        }
        if !had.contains(&address) && !context.host.addresses.contains(&address) {
            let own = context.host.addresses.iter().filter(|own| own.is_ipv4() == address.is_ipv4());
            let own: Vec<String> = own.take(8).map(ToString::to_string).collect();
            return wrong(format!("{address} is not an address of the host; it has {}", own.join(", ")));
        }
        all.push(address);
    }
    Ok(all)
}

fn wanted_device(world: &World, device: &IfName) -> Result<IfName> {
    if let Some((kind, holder)) = world.device_holder(device) {
        let detail = format!("the device name {device} belongs to {kind} {holder}");
        let error = Error::new(ErrorReason::DeviceTaken, detail).with("conflict", format!("{kind}/{holder}"));
        return Err(error.at("spec.kind.bridge.device"));
    }
    check_form(device, "spec.kind.bridge.device")?;
    Ok(device.clone())
}

/// Names of this form are made from identities; a wanted one could clash with an object to come.
pub(super) fn check_form(device: &IfName, field: &str) -> Result<()> {
    let prefixes = [crate::hostnet::DEVICE_PREFIX, crate::hostnet::QUEUE_PREFIX];
    let tail = prefixes.iter().find_map(|prefix| device.as_str().strip_prefix(prefix)).unwrap_or_default();
    if tail.len() == 10 && tail.bytes().all(|c| c.is_ascii_hexdigit()) {
        let detail = format!(
            "{device} has the form of the names that netloom chooses itself (nl or bw and ten hex digits)"
        );
        return Err(Error::new(ErrorReason::InvalidArgument, detail).at(field));
    }
    Ok(())
}

fn explicit_subnet(
    edit: &Edit,
    cidr: Cidr,
    index: usize,
    existing: Option<&IfName>,
    context: &Context,
) -> Result<Cidr> {
    let field = format!("spec.subnets[{index}].cidr");
    if let Some((other, holder)) = edit.world.overlapping(&cidr.net()) {
        let detail = format!("{cidr} overlaps {other} of Network {holder}");
        return Err(Error::new(ErrorReason::Overlap, detail)
            .with("conflict", format!("Network/{holder}"))
            .at(field));
    }
    super::link::check_prefix(&edit.world, &host()?, &cidr.net(), &field)?;
    // What the user's own bridge has is the segment's own.
    let elsewhere = |link: &str| existing.is_none_or(|device| device.as_str() != link);
    let mut on_link = context.host.on_link.iter();
    if let Some((other, link)) = on_link.find(|(net, link)| cidr.overlaps(net) && elsewhere(link)) {
        let detail = format!("{cidr} overlaps {other}, which the host has on its own link {link}");
        return Err(Error::new(ErrorReason::Overlap, detail).with("conflict", link).at(field));
    }
    Ok(cidr)
}

fn chosen_subnet(edit: &Edit, own: &[SubnetAlloc], context: &Context) -> Result<Cidr> {
    let host_name = host()?;
    let taken = |net: &ipnet::IpNet| {
        let networks = edit.world.overlapping(net).map(|(other, _)| *other);
        let host = || {
            context
                .host
                .on_link
                .iter()
                .map(|(other, _)| *other)
                .find(|other| other.contains(&net.network()) || net.contains(&other.network()))
        };
        let mine =
            || own.iter().map(|subnet| subnet.cidr).find(|cidr| cidr.overlaps(net)).map(|cidr| cidr.net());
        let cables = || super::link::overlapping_end(&edit.world, &host_name, net).map(|(other, _)| other);
        networks.or_else(host).or_else(mine).or_else(cables)
    };
    ipam::choose_subnet(&context.pools, taken).map_err(|_| {
        let pools: Vec<String> = context.pools.iter().map(|pool| pool.cidr.to_string()).collect();
        let detail =
            format!("no subnet is left in the pools {}; name a subnet, or configure more", pools.join(", "));
        Error::new(ErrorReason::PoolExhausted, detail).at("spec.subnets")
    })
}

/// The host's name among the namespaces.
fn host() -> Result<Name> {
    "host".parse().map_err(Error::internal)
}
