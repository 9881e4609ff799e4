//! What each noun holds of the World's indices, in one place per noun.

use std::sync::Arc;

use imbl::OrdMap;
use netloom_api::{
    Attachment, Holder, Kind, Link, Meta, Name, Namespace, Network, Noun, Policy, PortForward, Reservation,
    Route,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    AttachmentAlloc, LinkAlloc, NamespaceAlloc, NetworkAlloc, Nothing, PortForwardAlloc, ReservationAlloc,
    RouteAlloc, Stored, Used, World,
    index::listens,
    policies::{Anchor, peer_selectors},
    routes::place,
};

/// A noun that the World keeps.
pub trait WorldNoun: Noun {
    /// What is allocated for it.
    type Alloc: Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Its objects by name.
    fn objects(world: &World) -> &OrdMap<Name, Arc<Stored<Self>>>
    where
        Self: Sized;

    /// Its objects by name, to change.
    fn objects_mut(world: &mut World) -> &mut OrdMap<Name, Arc<Stored<Self>>>
    where
        Self: Sized;

    /// Enters what the object holds into the indices.
    fn hold(world: &mut World, object: &Stored<Self>)
    where
        Self: Sized;

    /// Takes what the object holds out of the indices.
    fn release(world: &mut World, object: &Stored<Self>)
    where
        Self: Sized;

    /// The object as one of any noun.
    fn any(object: Arc<Stored<Self>>) -> AnyStored
    where
        Self: Sized;
}

/// A stored object of any noun.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum AnyStored {
    Namespace(Arc<Stored<Namespace>>),
    Network(Arc<Stored<Network>>),
    Attachment(Arc<Stored<Attachment>>),
    PortForward(Arc<Stored<PortForward>>),
    Reservation(Arc<Stored<Reservation>>),
    Route(Arc<Stored<Route>>),
    Link(Arc<Stored<Link>>),
    Policy(Arc<Stored<Policy>>),
}

impl AnyStored {
    /// Which noun.
    pub fn kind(&self) -> Kind {
        match self {
            AnyStored::Namespace(_) => Kind::Namespace,
            AnyStored::Network(_) => Kind::Network,
            AnyStored::Attachment(_) => Kind::Attachment,
            AnyStored::PortForward(_) => Kind::PortForward,
            AnyStored::Reservation(_) => Kind::Reservation,
            AnyStored::Route(_) => Kind::Route,
            AnyStored::Link(_) => Kind::Link,
            AnyStored::Policy(_) => Kind::Policy,
        }
    }

    /// The part that all nouns share.
    pub fn meta(&self) -> &Meta {
        match self {
            AnyStored::Namespace(object) => &object.meta,
            AnyStored::Network(object) => &object.meta,
            AnyStored::Attachment(object) => &object.meta,
            AnyStored::PortForward(object) => &object.meta,
            AnyStored::Reservation(object) => &object.meta,
            AnyStored::Route(object) => &object.meta,
            AnyStored::Link(object) => &object.meta,
            AnyStored::Policy(object) => &object.meta,
        }
    }

    /// The same object with other meta data.
    pub fn with_meta(&self, meta: Meta) -> Self {
        fn change<N: WorldNoun>(object: &Stored<N>, meta: Meta) -> Arc<Stored<N>> {
            Arc::new(Stored { meta, spec: object.spec.clone(), alloc: object.alloc.clone() })
        }
        match self {
            AnyStored::Namespace(object) => AnyStored::Namespace(change(object, meta)),
            AnyStored::Network(object) => AnyStored::Network(change(object, meta)),
            AnyStored::Attachment(object) => AnyStored::Attachment(change(object, meta)),
            AnyStored::PortForward(object) => AnyStored::PortForward(change(object, meta)),
            AnyStored::Reservation(object) => AnyStored::Reservation(change(object, meta)),
            AnyStored::Route(object) => AnyStored::Route(change(object, meta)),
            AnyStored::Link(object) => AnyStored::Link(change(object, meta)),
            AnyStored::Policy(object) => AnyStored::Policy(change(object, meta)),
        }
    }
}

/// The holder of an address, as Allocations show it.
fn holder<N: WorldNoun>(object: &Stored<N>) -> Used {
    let Meta { name, uid, create_time, .. } = &object.meta;
    Used { holder: Holder { kind: N::KIND, name: name.clone(), uid: *uid }, since: *create_time }
}

macro_rules! objects {
    ($noun:ident, $field:ident) => {
        fn objects(world: &World) -> &OrdMap<Name, Arc<Stored<Self>>> {
            &world.$field
        }

        fn objects_mut(world: &mut World) -> &mut OrdMap<Name, Arc<Stored<Self>>> {
            &mut world.$field
        }

        fn any(object: Arc<Stored<Self>>) -> AnyStored {
            AnyStored::$noun(object)
        }
    };
}

impl WorldNoun for Namespace {
    type Alloc = NamespaceAlloc;
    objects!(Namespace, namespaces);

    fn hold(world: &mut World, object: &Stored<Self>) {
        if let Some(adopted) = &object.alloc.adopted {
            world.adopted.insert((adopted.boot.clone(), adopted.cookie), object.meta.name.clone());
        }
    }

    fn release(world: &mut World, object: &Stored<Self>) {
        if let Some(adopted) = &object.alloc.adopted {
            world.adopted.remove(&(adopted.boot.clone(), adopted.cookie));
        }
    }
}

impl WorldNoun for Network {
    type Alloc = NetworkAlloc;
    objects!(Network, networks);

    fn hold(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.devices.insert(object.alloc.device.clone(), (Kind::Network, name.clone()));
        for subnet in &object.alloc.subnets {
            world.subnets.insert(subnet.cidr.net().network(), (subnet.cidr.net(), name.clone()));
            world.addresses.insert((name.clone(), subnet.gateway), holder(object));
        }
    }

    fn release(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.devices.remove(&object.alloc.device);
        for subnet in &object.alloc.subnets {
            world.subnets.remove(&subnet.cidr.net().network());
            world.addresses.remove(&(name.clone(), subnet.gateway));
        }
    }
}

impl WorldNoun for Attachment {
    type Alloc = AttachmentAlloc;
    objects!(Attachment, attachments);

    fn hold(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.in_namespace.insert((object.spec.namespace.clone(), name.clone()));
        for (key, value) in object.meta.labels.as_map() {
            world.labelled.insert((key.clone(), value.clone(), name.clone()));
        }
        world.on_network.insert((object.spec.network.clone(), name.clone()));
        world.devices.insert(object.alloc.host_device.clone(), (Kind::Attachment, name.clone()));
        for address in &object.alloc.addresses {
            world.addresses.insert((object.spec.network.clone(), address.0.addr()), holder(object));
        }
    }

    fn release(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.in_namespace.remove(&(object.spec.namespace.clone(), name.clone()));
        for (key, value) in object.meta.labels.as_map() {
            world.labelled.remove(&(key.clone(), value.clone(), name.clone()));
        }
        world.on_network.remove(&(object.spec.network.clone(), name.clone()));
        world.devices.remove(&object.alloc.host_device);
        for address in &object.alloc.addresses {
            let key = (object.spec.network.clone(), address.0.addr());
            // In one commit another object may already have taken the address over.
            if world.addresses.get(&key).is_some_and(|used| used.holder.uid == object.meta.uid) {
                world.addresses.remove(&key);
            }
        }
    }
}

impl WorldNoun for PortForward {
    type Alloc = PortForwardAlloc;
    objects!(PortForward, port_forwards);

    fn hold(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.forwards_to.insert((object.spec.target.attachment.clone(), name.clone()));
        for listen in listens(object.spec.protocol, &object.listen()) {
            // One that is being deleted may have left its port to another already.
            match world.listens.get(&listen) {
                Some(holder) if holder != name && object.meta.delete_time.is_some() => {}
                Some(_) | None => drop(world.listens.insert(listen, name.clone())),
            }
        }
    }

    fn release(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.forwards_to.remove(&(object.spec.target.attachment.clone(), name.clone()));
        for listen in listens(object.spec.protocol, &object.listen()) {
            if world.listens.get(&listen) == Some(name) {
                world.listens.remove(&listen);
            }
        }
    }
}

impl WorldNoun for Reservation {
    type Alloc = ReservationAlloc;
    objects!(Reservation, reservations);

    fn hold(world: &mut World, object: &Stored<Self>) {
        world.reserved_on.insert((object.spec.network.clone(), object.meta.name.clone()));
        world.addresses.insert((object.spec.network.clone(), object.alloc.address), holder(object));
    }

    fn release(world: &mut World, object: &Stored<Self>) {
        world.reserved_on.remove(&(object.spec.network.clone(), object.meta.name.clone()));
        let key = (object.spec.network.clone(), object.alloc.address);
        if world.addresses.get(&key).is_some_and(|used| used.holder.uid == object.meta.uid) {
            world.addresses.remove(&key);
        }
    }
}

impl WorldNoun for Route {
    type Alloc = RouteAlloc;
    objects!(Route, routes);

    fn hold(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.routes_in.insert((object.spec.namespace.clone(), name.clone()));
        world.route_places.insert(place(&object.spec), name.clone());
    }

    fn release(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.routes_in.remove(&(object.spec.namespace.clone(), name.clone()));
        // In one commit another object may already have taken the place over.
        if world.route_places.get(&place(&object.spec)) == Some(name) {
            world.route_places.remove(&place(&object.spec));
        }
    }
}

impl WorldNoun for Link {
    type Alloc = LinkAlloc;
    objects!(Link, links);

    fn hold(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        for end in &object.spec.ends {
            world.links_in.insert((end.namespace.clone(), name.clone()));
            if end.is_on_host() {
                world.devices.insert(end.interface.clone(), (Kind::Link, name.clone()));
            }
        }
    }

    fn release(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        for end in &object.spec.ends {
            world.links_in.remove(&(end.namespace.clone(), name.clone()));
            if end.is_on_host() && world.devices.get(&end.interface) == Some(&(Kind::Link, name.clone())) {
                world.devices.remove(&end.interface);
            }
        }
    }
}

impl WorldNoun for Policy {
    type Alloc = Nothing;
    objects!(Policy, policies);

    fn hold(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.selecting.insert((Anchor::of(&object.spec.selector), name.clone()));
        for selector in peer_selectors(object) {
            world.peered.insert((Anchor::of(&selector), name.clone()));
        }
        if let Some(network) = &object.spec.selector.network {
            world.policies_on.insert((network.clone(), name.clone()));
        }
        for (_, network) in object.spec.networks() {
            world.policies_naming.insert((network.clone(), name.clone()));
        }
    }

    fn release(world: &mut World, object: &Stored<Self>) {
        let name = &object.meta.name;
        world.selecting.remove(&(Anchor::of(&object.spec.selector), name.clone()));
        for selector in peer_selectors(object) {
            world.peered.remove(&(Anchor::of(&selector), name.clone()));
        }
        if let Some(network) = &object.spec.selector.network {
            world.policies_on.remove(&(network.clone(), name.clone()));
        }
        for (_, network) in object.spec.networks() {
            world.policies_naming.remove(&(network.clone(), name.clone()));
        }
    }
}
