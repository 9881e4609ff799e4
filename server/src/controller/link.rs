//! What a Link claims: an interface name at each end, and subnets that nothing else there has.

use ipnet::IpNet;
use netloom_api::{Attachment, ErrorReason, Kind, Link, LinkEnd, LinkSpec, Name, Namespace, Uid};

use super::{
    claims::{Claims, reference},
    edit::{Context, Edit},
    interfaces::{check_interface, check_strangers},
    networks::check_form,
};
use crate::{
    error::{Error, Result},
    world::{LinkAlloc, World, mac_of},
};

impl Claims for Link {
    fn check_immutable(old: &LinkSpec, new: &LinkSpec) -> Result<()> {
        for (index, (old, new)) in old.ends.iter().zip(&new.ends).enumerate() {
            for (field, differs) in [
                ("namespace", old.namespace != new.namespace),
                ("interface", old.interface != new.interface),
                ("mac", old.mac != new.mac),
            ] {
                if differs {
                    return Err(Error::immutable(&format!("spec.ends[{index}].{field}"), Kind::Link));
                }
            }
        }
        Ok(())
    }

    fn claim(
        edit: &mut Edit,
        _name: &Name,
        uid: Uid,
        spec: &LinkSpec,
        old: Option<&LinkAlloc>,
        context: &Context,
    ) -> Result<LinkAlloc> {
        let world = &edit.world;
        for (index, end) in spec.ends.iter().enumerate() {
            let at = format!("spec.ends[{index}]");
            if end.is_on_host() {
                check_form(&end.interface, &format!("{at}.interface"))?;
            } else {
                reference::<Namespace>(world, &format!("{at}.namespace"), &end.namespace)?;
            }
            let field = format!("{at}.interface");
            check_interface(world, &end.namespace, &end.interface, &field)?;
            check_strangers(context, &end.namespace, &end.interface, &field)?;
            for (number, address) in end.addresses.iter().enumerate() {
                check_address(world, end, &address.0, context, &format!("{at}.addresses[{number}]"))?;
            }
        }
        check_against_each_other(spec)?;
        let [first, second] = &spec.ends;
        let chosen = || LinkAlloc {
            macs: [
                first.mac.unwrap_or_else(|| mac_of(uid, "first end")),
                second.mac.unwrap_or_else(|| mac_of(uid, "second end")),
            ],
        };
        Ok(old.cloned().unwrap_or_else(chosen))
    }
}

/// Nothing else where the end is may have the address, or a subnet in common with it.
fn check_address(world: &World, end: &LinkEnd, net: &IpNet, context: &Context, field: &str) -> Result<()> {
    check_prefix(world, &end.namespace, net, field)?;
    if end.is_on_host() {
        if let Some((other, holder)) = world.overlapping(&net.trunc()) {
            return Err(overlap(net, *other, Kind::Network, holder, field));
        }
        if let Some((other, link)) = context.host.on_link.iter().find(|(other, _)| overlaps(net, other)) {
            let detail = format!("{net} overlaps {other}, which the host has on its own link {link}");
            return Err(Error::new(ErrorReason::Overlap, detail).with("conflict", link).at(field));
        }
        return Ok(());
    }
    // In an adopted namespace others have addresses, too.
    if let Some(Ok(view)) = context.inside.views.get(&end.namespace) {
        let mut strangers = view.addresses.iter().filter(|(_, link)| *link != end.interface);
        if let Some((other, link)) = strangers.find(|(other, _)| overlaps(net, other)) {
            let namespace = &end.namespace;
            let detail = format!("{net} overlaps {other}, which {namespace} has on its own interface {link}");
            return Err(Error::new(ErrorReason::Overlap, detail).with("conflict", link.as_str()).at(field));
        }
    }
    let inside = world.attachments_in(&end.namespace).filter_map(|name| world.get::<Attachment>(name));
    for attachment in inside {
        for has in &attachment.alloc.addresses {
            if overlaps(net, &has.0) {
                return Err(overlap(net, has.0, Kind::Attachment, &attachment.meta.name, field));
            }
        }
    }
    Ok(())
}

/// A cable whose ends are in one namespace: they may not share a subnet either.
fn check_against_each_other(spec: &LinkSpec) -> Result<()> {
    let [first, second] = &spec.ends;
    if first.namespace != second.namespace {
        return Ok(());
    }
    for (number, net) in second.addresses.iter().enumerate() {
        if let Some(other) = first.addresses.iter().find(|other| overlaps(&net.0, &other.0)) {
            let detail = format!("{net} overlaps {other} of the other end, in the same namespace");
            let field = format!("spec.ends[1].addresses[{number}]");
            return Err(Error::new(ErrorReason::Overlap, detail).at(field));
        }
    }
    Ok(())
}

/// Refuses a prefix that shares addresses with an end of a Link in the namespace, or on the host.
pub(super) fn check_prefix(world: &World, namespace: &Name, net: &IpNet, field: &str) -> Result<()> {
    match overlapping_end(world, namespace, net) {
        Some((other, holder)) => Err(overlap(net, other, Kind::Link, holder, field)),
        None => Ok(()),
    }
}

/// An address of a Link's end in the namespace, or on the host, that has addresses in common with this prefix.
pub(super) fn overlapping_end<'w>(
    world: &'w World,
    namespace: &Name,
    net: &IpNet,
) -> Option<(IpNet, &'w Name)> {
    world.links_in(namespace).filter_map(|name| world.get::<Link>(name)).find_map(|link| {
        let ends = link.spec.ends.iter().filter(|end| end.namespace == *namespace);
        let mut addresses = ends.flat_map(|end| &end.addresses);
        addresses.find(|address| overlaps(net, &address.0)).map(|address| (address.0, &link.meta.name))
    })
}

fn overlaps(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.addr()) || other.contains(&one.addr())
}

fn overlap(net: &IpNet, other: IpNet, kind: Kind, holder: &Name, field: &str) -> Error {
    let (reason, detail) = if net.addr() == other.addr() {
        (ErrorReason::AddressTaken, format!("{} is an address of {kind} {holder}", net.addr()))
    } else {
        (ErrorReason::Overlap, format!("{net} overlaps {other} of {kind} {holder}"))
    };
    Error::new(reason, detail).with("conflict", format!("{kind}/{holder}")).at(field)
}
