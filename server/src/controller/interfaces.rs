//! Whose an interface name is: in a namespace, among its Attachments and Links, and on the host, among all devices.

use netloom_api::{Attachment, ErrorReason, IfName, Kind, Link, LinkEnd, Name};

use super::edit::Context;
use crate::{
    error::{Error, Result},
    world::World,
};

fn interface_holder<'w>(world: &'w World, namespace: &Name, interface: &IfName) -> Option<(Kind, &'w Name)> {
    let inside = world.attachments_in(namespace).filter_map(|name| world.get::<Attachment>(name));
    let attached = inside.into_iter().find(|other| other.alloc.interface == *interface);
    let is_it = |end: &LinkEnd| end.namespace == *namespace && end.interface == *interface;
    let links = || world.links_in(namespace).filter_map(|name| world.get::<Link>(name));
    let linked = || links().find(|link| link.spec.ends.iter().any(is_it));
    let attached = attached.map(|other| (Kind::Attachment, &other.meta.name));
    attached.or_else(|| linked().map(|link| (Kind::Link, &link.meta.name)))
}

/// Whether somebody else has an interface of this name in an adopted namespace.
fn is_strangers(context: &Context, namespace: &Name, interface: &IfName) -> bool {
    context.inside.interfaces.get(namespace).is_some_and(|names| names.contains(interface.as_str()))
}

/// Refuses the name of an interface that somebody else has in an adopted namespace.
pub(super) fn check_strangers(
    context: &Context,
    namespace: &Name,
    interface: &IfName,
    field: &str,
) -> Result<()> {
    if is_strangers(context, namespace, interface) {
        let detail = format!("{namespace} has an interface {interface} already, which netloom did not make");
        return Err(Error::new(ErrorReason::DeviceTaken, detail).at(field));
    }
    Ok(())
}

/// Refuses an interface name that another object has in the namespace, or on the host.
pub(super) fn check_interface(
    world: &World,
    namespace: &Name,
    interface: &IfName,
    field: &str,
) -> Result<()> {
    let holder = match world.device_holder(interface).filter(|_| namespace.as_str() == "host") {
        Some((kind, holder)) => Some((*kind, holder)),
        None => interface_holder(world, namespace, interface),
    };
    match holder {
        Some((kind, holder)) => {
            let detail = format!("{namespace} has an interface {interface} already, of {kind} {holder}");
            let error =
                Error::new(ErrorReason::DeviceTaken, detail).with("conflict", format!("{kind}/{holder}"));
            Err(error.at(field))
        }
        None => Ok(()),
    }
}

pub(super) fn first_free_interface(world: &World, namespace: &Name, context: &Context) -> Result<IfName> {
    let strangers = context.inside.interfaces.get(namespace).map_or(0, |names| names.len());
    let links = 2 * world.links_in(namespace).count();
    for number in 0..=world.attachments_in(namespace).count() + links + strangers {
        let name = format!("eth{number}").parse::<IfName>().map_err(Error::internal)?;
        if interface_holder(world, namespace, &name).is_none() && !is_strangers(context, namespace, &name) {
            return Ok(name);
        }
    }
    Err(Error::internal("more interface names are taken than there are interfaces"))
}
