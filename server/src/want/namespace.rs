//! A managed Namespace wants to be pinned, and to bear its mark; an adopted one to be there. Both want their settings.

use std::collections::BTreeMap;

use netloom_api::{Attachment, IfName, Link, Namespace, SysctlKey};

use crate::{
    hostnet::{Adopted, HostNet, Mark, Stack, Sysctl},
    world::{Stored, World},
};

pub(super) fn want(world: &World, namespace: &Stored<Namespace>, net: &mut HostNet) {
    let (name, uid) = (&namespace.meta.name, namespace.meta.uid);
    match &namespace.alloc.adopted {
        None => drop(net.namespaces.insert(name.clone(), Mark::Object(uid))),
        Some(adoption) => {
            net.adopted.insert(name.clone(), Adopted { uid, cookie: adoption.cookie });
        }
    }
    settings_of_namespace(world, namespace, net);
}

/// One that was adopted is left with the settings that it had.
pub(super) fn farewell(world: &World, namespace: &Stored<Namespace>, net: &mut HostNet) {
    if namespace.alloc.adopted.is_some() {
        settings_of_namespace(world, namespace, net);
    }
}

/// What the namespace says about an interface that netloom makes.
pub(super) fn settings_of_interface(namespace: &Stored<Namespace>, interface: &IfName, net: &mut HostNet) {
    let stack = Stack::Namespace(namespace.meta.name.clone());
    for (key, value) in settings(namespace) {
        if key.interface() == Some(interface.as_str()) {
            net.sysctls.insert((stack.clone(), Sysctl::named(key)), value);
        }
    }
}

/// Every setting that the spec names or ever named: as it says, or else as it was before.
fn settings(namespace: &Stored<Namespace>) -> BTreeMap<SysctlKey, String> {
    let mut all = namespace.alloc.before.clone();
    if namespace.meta.delete_time.is_none() {
        all.extend(namespace.spec.sysctls.as_map().clone());
    }
    all
}

/// All but those of interfaces that netloom makes, and of those that a managed namespace does not have.
fn settings_of_namespace(world: &World, namespace: &Stored<Namespace>, net: &mut HostNet) {
    let name = &namespace.meta.name;
    let is_ours = |interface: &str| {
        let mut inside = world.attachments_in(name).filter_map(|name| world.get::<Attachment>(name));
        let links = world.links_in(name).filter_map(|name| world.get::<Link>(name));
        let mut ends = links.flat_map(|link| &link.spec.ends).filter(|end| end.namespace == *name);
        inside.any(|one| one.alloc.interface.as_str() == interface)
            || ends.any(|end| end.interface.as_str() == interface)
    };
    for (key, value) in settings(namespace) {
        let stays = match key.interface() {
            None | Some("lo") => true,
            Some(interface) => namespace.alloc.adopted.is_some() && !is_ours(interface),
        };
        if stays {
            net.sysctls.insert((Stack::Namespace(name.clone()), Sysctl::named(key)), value);
        }
    }
}
