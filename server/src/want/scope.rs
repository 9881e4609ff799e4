//! Which part of the host a change is about.

use netloom_api::{Attachment, Kind, Name, Namespace, Network, PortForward};

use crate::{
    hostnet::Scope,
    world::{World, WorldNoun},
};

/// All that there is.
pub fn everything(world: &World) -> Scope {
    fn names<N: WorldNoun>(world: &World) -> std::collections::BTreeSet<Name> {
        world.all::<N>().map(|object| object.meta.name.clone()).collect()
    }
    Scope {
        namespaces: names::<Namespace>(world),
        networks: names::<Network>(world),
        attachments: names::<Attachment>(world),
        port_forwards: names::<PortForward>(world),
        // The networks' own part has it.
        loopbacks: std::collections::BTreeSet::new(),
        host: true,
    }
}

/// What a change of this object touches in the kernel, closed over what depends on it. To be asked of the World before
/// the change and of the one after it, and joined.
pub fn scope_of(world: &World, kind: Kind, name: &Name) -> Scope {
    let mut scope = Scope::default();
    match kind {
        Kind::Namespace => {
            scope.namespaces.insert(name.clone());
            world.attachments_in(name).for_each(|attachment| add_attachment(world, attachment, &mut scope));
        }
        Kind::Network => {
            scope.networks.insert(name.clone());
            world.attachments_on(name).for_each(|attachment| add_attachment(world, attachment, &mut scope));
        }
        Kind::Attachment => add_attachment(world, name, &mut scope),
        Kind::PortForward => {
            scope.port_forwards.insert(name.clone());
            let target = world.get::<PortForward>(name).map(|forward| &forward.spec.target.attachment);
            let attachment = target.and_then(|target| world.get::<Attachment>(target));
            scope.loopbacks.extend(attachment.map(|attachment| attachment.spec.network.clone()));
        }
        // It keeps an address back; the kernel has no part in it.
        Kind::Reservation => {}
    }
    scope
}

fn add_attachment(world: &World, name: &Name, scope: &mut Scope) {
    scope.attachments.insert(name.clone());
    let mut forwards = world.forwards_to(name).peekable();
    if forwards.peek().is_some() {
        let attachment = world.get::<Attachment>(name);
        scope.loopbacks.extend(attachment.map(|attachment| attachment.spec.network.clone()));
    }
    scope.port_forwards.extend(forwards.cloned());
}
