//! What each noun claims, and which of its fields cannot change.

use std::net::IpAddr;

use netloom_api::{
    AddressRange, Attachment, AttachmentSpec, ErrorReason, InterfaceAddress, Kind, Listen, Name, Namespace,
    NamespaceSpec, Network, PortForward, PortForwardSpec, Protocol, Reservation, ReservationSpec, Uid,
};

use super::{
    edit::{Context, Edit, device_of},
    inside::{field_of, taken},
    interfaces::{check_interface, check_strangers, first_free_interface},
    routes,
};
use crate::{
    error::{Error, Result},
    ipam,
    world::{
        Adoption, AttachmentAlloc, NamespaceAlloc, PortForwardAlloc, ReservationAlloc, Stored, SubnetAlloc,
        World, WorldNoun, mac_of,
    },
};

/// Of a default route, when nothing is said and no other has it.
const METRIC_FIRST: u32 = 100;

/// A noun's rules for coming into the World.
pub(super) trait Claims: WorldNoun {
    /// Refuses a change of what cannot change.
    fn check_immutable(old: &Self::Spec, new: &Self::Spec) -> Result<()>;

    /// Checks the spec against the rest of the World, and chooses what it leaves open. What was allocated before is kept
    /// as far as the spec still allows it. The object itself is not in the World.
    fn claim(
        edit: &mut Edit,
        name: &Name,
        uid: Uid,
        spec: &Self::Spec,
        old: Option<&Self::Alloc>,
        context: &Context,
    ) -> Result<Self::Alloc>;
}

impl Claims for Namespace {
    fn check_immutable(old: &NamespaceSpec, new: &NamespaceSpec) -> Result<()> {
        if old.adopted() != new.adopted() {
            return Err(Error::immutable("spec.source", Kind::Namespace));
        }
        Ok(())
    }

    fn claim(
        edit: &mut Edit,
        name: &Name,
        _uid: Uid,
        spec: &NamespaceSpec,
        old: Option<&NamespaceAlloc>,
        context: &Context,
    ) -> Result<NamespaceAlloc> {
        if name.as_str() == "host" {
            let detail = "host is the daemon's own network stack; it exists and cannot be changed";
            return Err(Error::new(ErrorReason::InvalidArgument, detail).at("name"));
        }
        let adopted = match (spec.adopted(), old) {
            (None, _) => None,
            (Some(_), Some(old)) => old.adopted.clone(),
            (Some(source), None) => Some(adoption(edit, name, field_of(source), context)?),
        };
        let mut before = old.map(|old| old.before.clone()).unwrap_or_default();
        if let Some(tried) = context.inside.settings.get(name) {
            for (key, value) in tried.clone()? {
                before.entry(key).or_insert(value);
            }
        }
        if spec.sysctls.as_map().keys().any(|key| !before.contains_key(key)) {
            return Err(changed_meanwhile(name));
        }
        Ok(NamespaceAlloc { adopted, before })
    }
}

/// The namespace that is meant, if nobody has it.
fn adoption(edit: &Edit, name: &Name, field: &str, context: &Context) -> Result<Adoption> {
    let adoption = context.inside.adopted.get(name).cloned().ok_or_else(|| changed_meanwhile(name))??;
    match edit.world.adopter(&adoption) {
        Some(other) => {
            let detail = format!("the network namespace is adopted already, by Namespace {other}");
            Err(taken(detail, field).with("conflict", format!("Namespace/{other}")))
        }
        None => Ok(adoption),
    }
}

/// What the kernel was asked for this change was about another state of the object.
fn changed_meanwhile(name: &Name) -> Error {
    Error::new(ErrorReason::Unavailable, format!("Namespace {name} has changed meanwhile; try again"))
}

impl Claims for Attachment {
    fn check_immutable(old: &AttachmentSpec, new: &AttachmentSpec) -> Result<()> {
        for (field, differs) in [
            ("spec.namespace", old.namespace != new.namespace),
            ("spec.network", old.network != new.network),
            ("spec.mac", old.mac != new.mac),
            ("spec.interface", old.interface != new.interface),
        ] {
            if differs {
                return Err(Error::immutable(field, Kind::Attachment));
            }
        }
        Ok(())
    }

    fn claim(
        edit: &mut Edit,
        name: &Name,
        uid: Uid,
        spec: &AttachmentSpec,
        old: Option<&AttachmentAlloc>,
        context: &Context,
    ) -> Result<AttachmentAlloc> {
        reference::<Namespace>(&edit.world, "spec.namespace", &spec.namespace)?;
        let network = reference::<Network>(&edit.world, "spec.network", &spec.network)?;
        if let Some(mtu) = spec.mtu.filter(|mtu| *mtu > network.mtu()) {
            let detail = format!("{mtu} is above the network's MTU of {}", network.mtu());
            return Err(Error::new(ErrorReason::InvalidArgument, detail).at("spec.mtu"));
        }
        let has_v6 = network.alloc.subnets.iter().any(|subnet| subnet.gateway.is_ipv6());
        if let Some(mtu) = spec.mtu.filter(|mtu| has_v6 && *mtu < 1280) {
            let detail = format!("{mtu} is below 1280, which the network's IPv6 subnet needs");
            return Err(Error::new(ErrorReason::InvalidArgument, detail).at("spec.mtu"));
        }
        check_bandwidth(spec, &network)?;
        for subnet in &network.alloc.subnets {
            super::link::check_prefix(&edit.world, &spec.namespace, &subnet.cidr.net(), "spec.network")?;
        }
        let addresses = attachment_addresses(edit, name, uid, spec, &network, old)?;
        if let Some(old) = old {
            check_interface(&edit.world, &spec.namespace, &old.interface, "spec.interface")?;
            let default_route = spec.default_route.unwrap_or(old.default_route);
            let metric = metric(edit, spec, &network, default_route, Some(old.metric))?;
            return Ok(AttachmentAlloc { addresses, default_route, metric, ..old.clone() });
        }
        if let Some(mac) = spec.mac {
            check_mac(&edit.world, &spec.network, mac)?;
        }
        let interface = match &spec.interface {
            Some(interface) => {
                check_interface(&edit.world, &spec.namespace, interface, "spec.interface")?;
                check_strangers(context, &spec.namespace, interface, "spec.interface")?;
                interface.clone()
            }
            None => first_free_interface(&edit.world, &spec.namespace, context)?,
        };
        let others =
            edit.world.attachments_in(&spec.namespace).filter_map(|name| edit.world.get::<Attachment>(name));
        let is_first = !others.into_iter().any(|other| other.alloc.default_route);
        let default_route = spec.default_route.unwrap_or(is_first);
        Ok(AttachmentAlloc {
            addresses,
            mac: spec.mac.unwrap_or_else(|| mac_of(uid, "inside")),
            interface,
            host_device: device_of(uid)?,
            default_route,
            metric: metric(edit, spec, &network, default_route, None)?,
        })
    }
}

/// The metric of the default route: the wanted one, the one it had, or the first that is free. Two default routes of one
/// family and metric cannot be in one namespace: which of them is used would be chance.
fn metric(
    edit: &Edit,
    spec: &AttachmentSpec,
    network: &Stored<Network>,
    default_route: bool,
    had: Option<u32>,
) -> Result<u32> {
    let world = &edit.world;
    if !default_route {
        return Ok(spec.metric.or(had).unwrap_or(METRIC_FIRST));
    }
    let families = |network: &Stored<Network>| {
        let is_v4 = |v4: bool| network.alloc.subnets.iter().any(|subnet| subnet.gateway.is_ipv4() == v4);
        (is_v4(true), is_v4(false))
    };
    let (v4, v6) = families(network);
    let meets = |other: &Stored<Attachment>| {
        let network = world.get::<Network>(&other.spec.network);
        network.is_none_or(|network| {
            let other = families(network);
            (v4 && other.0) || (v6 && other.1)
        })
    };
    let others = || {
        let names = world.attachments_in(&spec.namespace);
        names.filter_map(|name| world.get::<Attachment>(name)).filter(|one| one.alloc.default_route)
    };
    let attached = |metric: u32| {
        let other = others().find(|one| one.alloc.metric == metric && meets(one));
        other.map(|other| (Kind::Attachment, other.meta.name.clone()))
    };
    let holder = |metric: u32| {
        let route = routes::default_route_holder(world, &spec.namespace, (v4, v6), metric);
        attached(metric).or_else(|| route.map(|name| (Kind::Route, name.clone())))
    };
    if let Some(metric) = spec.metric {
        let Some((kind, other)) = holder(metric) else { return Ok(metric) };
        let detail = format!(
            "the default route by {kind} {other} has the metric {metric} already; name another, or none"
        );
        let error = Error::new(ErrorReason::RouteTaken, detail).with("conflict", format!("{kind}/{other}"));
        return Err(error.at("spec.metric"));
    }
    let wished = |metric: u32| edit.wished_metrics.contains(&(spec.namespace.clone(), metric));
    let is_free = |metric: &u32| !wished(*metric) && holder(*metric).is_none();
    let free = had.filter(is_free).or_else(|| (METRIC_FIRST..).find(is_free));
    free.ok_or_else(|| Error::internal("no metric is free"))
}

/// A frame that does not fit into the bucket would never pass.
fn check_bandwidth(spec: &AttachmentSpec, network: &Stored<Network>) -> Result<()> {
    let mtu = crate::want::mtu_of(spec, network);
    let frame = u32::from(mtu) + netloom_api::FRAME_HEADER;
    for (direction, limit) in spec.bandwidth.iter().flat_map(netloom_api::Bandwidth::directions) {
        if let Some(burst) = limit.and_then(|limit| limit.burst).filter(|burst| *burst < frame) {
            let detail = format!("{burst} bytes is less than one frame of the MTU {mtu}, which is {frame}");
            let error = Error::new(ErrorReason::InvalidArgument, detail);
            return Err(error.at(format!("spec.bandwidth.{direction}.burst")));
        }
    }
    Ok(())
}

/// One address per subnet: the wanted one, the one it had, or the next that is free.
fn attachment_addresses(
    edit: &mut Edit,
    name: &Name,
    uid: Uid,
    spec: &AttachmentSpec,
    network: &Stored<Network>,
    old: Option<&AttachmentAlloc>,
) -> Result<Vec<InterfaceAddress>> {
    let mut wanted: Vec<Option<IpAddr>> = vec![None; network.alloc.subnets.len()];
    for (index, address) in spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        let Some(at) = network.alloc.subnets.iter().position(|subnet| subnet.cidr.net().contains(address))
        else {
            let subnets: Vec<String> =
                network.alloc.subnets.iter().map(|subnet| subnet.cidr.to_string()).collect();
            let detail =
                format!("{address} is not in a subnet of Network {}: {}", spec.network, subnets.join(", "));
            return Err(Error::new(ErrorReason::InvalidArgument, detail).at(field));
        };
        if wanted[at].is_some() {
            let detail = format!(
                "{address} is the second address in {}; one per subnet is possible",
                network.alloc.subnets[at].cidr
            );
            return Err(Error::new(ErrorReason::InvalidArgument, detail).at(field));
        }
        check_free(&edit.world, network, &network.alloc.subnets[at], *address, uid, &field)?;
        wanted[at] = Some(*address);
    }
    let mut addresses = Vec::new();
    for (index, subnet) in network.alloc.subnets.iter().enumerate() {
        let kept = || {
            let had =
                old?.addresses.iter().map(|had| had.0.addr()).find(|had| subnet.cidr.net().contains(had))?;
            edit.world.user_of(&spec.network, had).is_none().then_some(had)
        };
        let address = match wanted[index].or_else(kept) {
            Some(address) => address,
            None => choose(edit, network, index, name)?,
        };
        addresses.push(InterfaceAddress(crate::want::on_prefix(address, &subnet.cidr.net())));
    }
    Ok(addresses)
}

fn check_free(
    world: &World,
    network: &Stored<Network>,
    subnet: &SubnetAlloc,
    address: IpAddr,
    uid: Uid,
    field: &str,
) -> Result<()> {
    if !subnet.cidr.has_host(address) {
        let detail = format!("{address} is the network or broadcast address of {}", subnet.cidr);
        return Err(Error::new(ErrorReason::InvalidArgument, detail).at(field));
    }
    match world.user_of(&network.meta.name, address) {
        Some(used) if used.holder.uid != uid => {
            let holder = &used.holder;
            let what = if holder.kind == Kind::Network { "is the gateway of" } else { "is used by" };
            let detail = format!("{address} {what} {} {}", holder.kind, holder.name);
            let error = Error::new(ErrorReason::AddressTaken, detail);
            Err(error.with("conflict", format!("{}/{}", holder.kind, holder.name)).at(field))
        }
        Some(_) | None => Ok(()),
    }
}

/// The next free address of a subnet, after the cursor; moves the cursor.
fn choose(edit: &mut Edit, network: &Stored<Network>, index: usize, for_: &Name) -> Result<IpAddr> {
    let name = &network.meta.name;
    let SubnetAlloc { cidr, gateway: _ } = &network.alloc.subnets[index];
    let ranges: &[AddressRange] = network.spec.subnets.get(index).map_or(&[], |subnet| &subnet.ranges);
    let world = &edit.world;
    let used = |first, last| world.used_between(name, first, last).map(|(address, _)| address);
    let chosen = ipam::choose(&ipam::Subnet { cidr: *cidr, ranges }, world.cursor(name, cidr), used);
    let address = chosen.map_err(|_| {
        let detail = format!(
            "no address is left in {cidr} of Network {name} for {for_}; delete something, or widen its ranges"
        );
        Error::new(ErrorReason::PoolExhausted, detail).with("network", name).with("subnet", cidr)
    })?;
    edit.world.set_cursor(name, cidr, address);
    edit.cursors.push((name.clone(), *cidr, address));
    Ok(address)
}

fn check_mac(world: &World, network: &Name, mac: netloom_api::Mac) -> Result<()> {
    let members = world.attachments_on(network).filter_map(|name| world.get::<Attachment>(name));
    match members.into_iter().find(|member| member.alloc.mac == mac) {
        Some(member) => {
            let detail = format!("{mac} is the MAC address of Attachment {}", member.meta.name);
            let error = Error::new(ErrorReason::MacTaken, detail);
            Err(error.with("conflict", format!("Attachment/{}", member.meta.name)).at("spec.mac"))
        }
        None => Ok(()),
    }
}

/// The object that a field names; one that is being deleted is as good as gone.
pub(super) fn reference<N: WorldNoun>(
    world: &World,
    field: &str,
    name: &Name,
) -> Result<std::sync::Arc<Stored<N>>> {
    match world.get::<N>(name) {
        Some(object) if object.meta.delete_time.is_none() => Ok(object.clone()),
        Some(_) | None => Err(Error::no_reference(field, N::KIND, name)),
    }
}

impl Claims for PortForward {
    fn check_immutable(old: &PortForwardSpec, new: &PortForwardSpec) -> Result<()> {
        if old.protocol != new.protocol {
            return Err(Error::immutable("spec.protocol", Kind::PortForward));
        }
        Ok(())
    }

    fn claim(
        edit: &mut Edit,
        name: &Name,
        uid: Uid,
        spec: &PortForwardSpec,
        old: Option<&PortForwardAlloc>,
        context: &Context,
    ) -> Result<PortForwardAlloc> {
        if spec.protocol == Protocol::Sctp && !context.sctp {
            let detail = "this kernel does not track SCTP (CONFIG_NF_CT_PROTO_SCTP), so it cannot forward it";
            return Err(Error::new(ErrorReason::Unsupported, detail).at("spec.protocol"));
        }
        let alloc = match spec.listen.is_chosen() {
            true => PortForwardAlloc { port: Some(chosen_port(edit, name, uid, spec, old, context)?) },
            false => PortForwardAlloc::default(),
        };
        let leaves = |holder: &Name| edit.leaves(holder);
        if let Some((port, holder)) = edit.world.listen_conflict(name, spec.protocol, &spec.listen, leaves) {
            let dying =
                edit.world.get::<PortForward>(holder).is_some_and(|one| one.meta.delete_time.is_some());
            let how = if dying { ", which is being deleted; try again" } else { "" };
            let detail = format!("{} port {port} is published by PortForward {holder}{how}", spec.protocol);
            let error = Error::new(ErrorReason::PortTaken, detail).with("port", port);
            return Err(error.with("conflict", format!("PortForward/{holder}")).at("spec.listen.port"));
        }
        let target = edit.world.get::<Attachment>(&spec.target.attachment);
        if let (Some(target), Some(address)) = (target, spec.listen.address)
            && !target.alloc.addresses.iter().any(|has| has.0.addr().is_ipv4() == address.is_ipv4())
        {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let detail =
                format!("Attachment {} has no {family} address to forward {address} to", target.meta.name);
            return Err(Error::new(ErrorReason::InvalidArgument, detail).at("spec.listen.address"));
        }
        Ok(alloc)
    }
}

/// The port that it had, or the next free one after a place that its identity gives: so one that was given back does
/// not come again at once.
fn chosen_port(
    edit: &Edit,
    name: &Name,
    uid: Uid,
    spec: &PortForwardSpec,
    old: Option<&PortForwardAlloc>,
    context: &Context,
) -> Result<u16> {
    let free = |port: &u16| {
        let listen = Listen { port: *port, ..spec.listen.clone() };
        !context.busy.contains(&(spec.protocol, *port))
            && edit.world.listen_conflict(name, spec.protocol, &listen, |_| false).is_none()
    };
    let (first, last) = (*context.forward_ports.start(), *context.forward_ports.end());
    let count = usize::from(last.saturating_sub(first)) + 1;
    let [.., high, low] = *uid.as_bytes();
    let skip = usize::from(u16::from_be_bytes([high, low])) % count;
    let had = old.and_then(|old| old.port).into_iter();
    let ports = (first..=last).cycle().skip(skip).take(count);
    had.chain(ports).find(free).ok_or_else(|| {
        let detail = format!(
            "no {} port is left of {first} to {last}; name one, or widen `forward_ports`",
            spec.protocol
        );
        Error::new(ErrorReason::PoolExhausted, detail).at("spec.listen.port")
    })
}

impl Claims for Reservation {
    fn check_immutable(old: &ReservationSpec, new: &ReservationSpec) -> Result<()> {
        if old.network != new.network {
            return Err(Error::immutable("spec.network", Kind::Reservation));
        }
        if new.address.is_some() && old.address != new.address {
            return Err(Error::immutable("spec.address", Kind::Reservation));
        }
        Ok(())
    }

    fn claim(
        edit: &mut Edit,
        name: &Name,
        uid: Uid,
        spec: &ReservationSpec,
        old: Option<&ReservationAlloc>,
        _context: &Context,
    ) -> Result<ReservationAlloc> {
        if let Some(old) = old {
            return Ok(old.clone());
        }
        let network = reference::<Network>(&edit.world, "spec.network", &spec.network)?;
        let address = match spec.address {
            Some(address) => {
                let Some(subnet) =
                    network.alloc.subnets.iter().find(|subnet| subnet.cidr.net().contains(&address))
                else {
                    let detail = format!("{address} is not in a subnet of Network {}", spec.network);
                    return Err(Error::new(ErrorReason::InvalidArgument, detail).at("spec.address"));
                };
                check_free(&edit.world, &network, subnet, address, uid, "spec.address")?;
                address
            }
            None => choose(edit, &network, 0, name)?,
        };
        Ok(ReservationAlloc { address })
    }
}

#[cfg(test)]
mod tests {
    use netloom_api::{AnyDraft, Path, Timestamp};
    use serde_json::{Value, json};

    use super::super::{Change, Delete, edit_for_tests, without};
    use super::*;

    fn after(world: &World, changes: Vec<Change>) -> World {
        edit_for_tests(world, changes, Timestamp::from_micros(0))
    }

    fn put(json: Value) -> Change {
        Change::Put(AnyDraft::from_json(json, &Path::root()).unwrap())
    }

    fn attached() -> Change {
        put(json!({"kind": "Attachment", "name": "red0", "spec": {"namespace": "red", "network": "net"}}))
    }

    fn address(world: &World) -> String {
        world.get::<Attachment>(&"red0".parse().unwrap()).unwrap().alloc.addresses[0].to_string()
    }

    #[test]
    fn a_network_that_changes_goes_on_giving_addresses_where_it_was() {
        let network = |mtu: u16| {
            let spec = json!({"subnets": [{"cidr": "10.0.0.0/29"}], "mtu": mtu});
            put(json!({"kind": "Network", "name": "net", "spec": spec}))
        };
        let red = put(json!({"kind": "Namespace", "name": "red"}));
        let world = after(&World::default(), vec![red, network(1500), attached()]);
        assert_eq!(address(&world), "10.0.0.2/29");
        let name: Name = "red0".parse().unwrap();
        let uid = world.get::<Attachment>(&name).unwrap().meta.uid;
        let (kind, etag) = (Kind::Attachment, None);
        let delete = Delete { kind, name: name.clone(), etag, force: false, allow_missing: false };
        let world = after(&world, vec![Change::Delete(delete)]);
        let (world, _) = without(&world, &[(kind, name, uid)]);
        let world = after(&world, vec![network(1400)]);
        assert_eq!(address(&after(&world, vec![attached()])), "10.0.0.3/29");
    }
}
