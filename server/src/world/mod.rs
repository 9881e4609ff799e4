//! All objects in one immutable snapshot, with the indices that checks need.
//!
//! A `World` is a value: cloning it is cheap, changing a clone leaves the others as they were, and equal histories give
//! equal Worlds. It holds intent and what was allocated for it, never what the kernel has. An object whose `delete_time`
//! is set is still here, with all that it holds, until the kernel is rid of it.

mod index;
mod noun;
mod policies;
mod routes;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use netloom_api::{
    Attachment, Cidr, Holder, IfName, InterfaceAddress, Kind, Link, Mac, Meta, Name, Namespace, NetnsPath,
    Network, Policy, PortForward, Reservation, Route, SysctlKey, Timestamp, Uid,
};
use serde::{Deserialize, Serialize};

pub use index::{Listen, listens, mac_of};
pub use noun::{AnyStored, WorldNoun};
pub use policies::Peers;
pub use routes::OnLink;

/// An object's intent, and what was allocated for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<N: WorldNoun> {
    /// The part that all nouns share.
    pub meta: Meta,
    /// What the caller wants, as it was sent.
    pub spec: N::Spec,
    /// What was chosen where the caller did not say, and what follows from it.
    pub alloc: N::Alloc,
}

/// Nothing is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// What a Namespace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceAlloc {
    /// Which namespace it is, when it is adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adoption>,
    /// Of every setting that its spec ever named: the value before netloom changed it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub before: BTreeMap<SysctlKey, String>,
}

/// A namespace of somebody else's. Nothing holds it; it is found again, and known by its cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// The kernel's boot id: a cookie means nothing after it.
    pub boot: String,
    /// The kernel's name for it, never used twice in one boot.
    pub cookie: u64,
    /// Where to look first among many; an inode is used again, so it proves nothing.
    pub inode: u64,
    /// Where it was found; none if by a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<NetnsPath>,
}

/// What a Network holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAlloc {
    /// The bridge's device name.
    pub device: IfName,
    /// The bridge's MAC address.
    pub mac: Mac,
    /// The subnets in effect, in the order of the spec.
    pub subnets: Vec<SubnetAlloc>,
    /// The MTU when the spec does not say: what the uplink, or the user's own bridge, carried at creation. Before there was
    /// such a choice it was 1500.
    #[serde(default = "mtu_default")]
    pub mtu: u16,
    /// Chosen addresses to leave behind that the host had when they were chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nat: Vec<IpAddr>,
    /// Of a bridge that is the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowed: Option<Borrowed>,
}

/// What of the user's own bridge we may have to switch, as it was before; it is put back when the Network goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Borrowed {
    /// `net.ipv4.conf.<bridge>.forwarding`
    pub forwarding4: bool,
    /// `net.ipv6.conf.<bridge>.force_forwarding`
    pub forwarding6: bool,
    /// `net.ipv4.conf.<bridge>.route_localnet`
    pub route_localnet: bool,
}

fn mtu_default() -> u16 {
    netloom_api::MTU_DEFAULT
}

impl Stored<Network> {
    /// The MTU in effect.
    pub fn mtu(&self) -> u16 {
        self.spec.mtu.unwrap_or(self.alloc.mtu)
    }

    /// The MTU of its ports. A port that carries less than the user's own bridge would take the bridge's MTU down.
    pub fn port_mtu(&self) -> u16 {
        if self.alloc.borrowed.is_some() { self.alloc.mtu } else { self.mtu() }
    }
}

/// One subnet in effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetAlloc {
    /// The prefix.
    pub cidr: Cidr,
    /// The host's address in it.
    pub gateway: IpAddr,
}

/// What an Attachment holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentAlloc {
    /// One per subnet of its network, in their order.
    pub addresses: Vec<InterfaceAddress>,
    /// The MAC address inside.
    pub mac: Mac,
    /// The interface's name inside.
    pub interface: IfName,
    /// The host's end of the cable.
    pub host_device: IfName,
    /// Whether the default route goes through it.
    pub default_route: bool,
    /// Of its default route, when it has one.
    pub metric: u32,
}

/// What a PortForward holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForwardAlloc {
    /// The listen port, where the spec leaves it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl Stored<PortForward> {
    /// Where the host listens, with the port that was chosen.
    pub fn listen(&self) -> netloom_api::Listen {
        effective(&self.spec.listen, &self.alloc)
    }

    /// The first port of the target.
    pub fn target_port(&self) -> u16 {
        self.spec.target.port.unwrap_or(self.listen().port)
    }
}

/// The wish with the choice.
fn effective(listen: &netloom_api::Listen, alloc: &PortForwardAlloc) -> netloom_api::Listen {
    let port = if listen.is_chosen() { alloc.port.unwrap_or(0) } else { listen.port };
    netloom_api::Listen { port, ..listen.clone() }
}

/// What a Reservation holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationAlloc {
    /// The address that is kept back.
    pub address: IpAddr,
}

/// What a Route holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAlloc {
    /// On the host and in an adopted Namespace: the link whose subnet holds the gateway, unless it is one of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<IfName>,
}

/// What a Link holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkAlloc {
    /// The MAC addresses of the ends, in the order of the spec.
    pub macs: [Mac; 2],
}

/// All objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// The count of intent: it grows by one with every commit that changes an object.
    pub revision: i64,
    namespaces: OrdMap<Name, Arc<Stored<Namespace>>>,
    networks: OrdMap<Name, Arc<Stored<Network>>>,
    attachments: OrdMap<Name, Arc<Stored<Attachment>>>,
    port_forwards: OrdMap<Name, Arc<Stored<PortForward>>>,
    reservations: OrdMap<Name, Arc<Stored<Reservation>>>,
    routes: OrdMap<Name, Arc<Stored<Route>>>,
    links: OrdMap<Name, Arc<Stored<Link>>>,
    policies: OrdMap<Name, Arc<Stored<Policy>>>,
    by_uid: OrdMap<Uid, (Kind, Name)>,
    /// (namespace, attachment)
    in_namespace: OrdSet<(Name, Name)>,
    /// (namespace or `host`, link)
    links_in: OrdSet<(Name, Name)>,
    /// (network, attachment)
    on_network: OrdSet<(Name, Name)>,
    /// (network, reservation)
    reserved_on: OrdSet<(Name, Name)>,
    /// (attachment, port forward)
    forwards_to: OrdSet<(Name, Name)>,
    /// Every used address, in the order of the networks.
    addresses: OrdMap<(Name, IpAddr), Used>,
    /// Every subnet by its first address; they never overlap.
    subnets: OrdMap<IpAddr, (IpNet, Name)>,
    /// Host devices that bear a chosen or wanted name.
    devices: OrdMap<IfName, (Kind, Name)>,
    /// Published ports.
    listens: OrdMap<Listen, Name>,
    /// Adopted namespaces, by boot and cookie.
    adopted: OrdMap<(String, u64), Name>,
    /// (namespace, route)
    routes_in: OrdSet<(Name, Name)>,
    /// The places of Routes: namespace, table, destination, metric.
    route_places: OrdMap<routes::Place, Name>,
    /// (key, value, attachment): every label of every Attachment.
    labelled: OrdSet<(String, String, Name)>,
    /// Policies by what all that they select have.
    selecting: OrdSet<(policies::Anchor, Name)>,
    /// Policies by what all of a peer have, for each of their peers.
    peered: OrdSet<(policies::Anchor, Name)>,
    /// (network, policy that selects by its name)
    policies_on: OrdSet<(Name, Name)>,
    /// (network, policy that names it anywhere)
    policies_naming: OrdSet<(Name, Name)>,
    /// Where next-fit allocation goes on, by network and subnet.
    cursors: OrdMap<Name, OrdMap<Cidr, IpAddr>>,
}

/// Who uses an address, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Who.
    pub holder: Holder,
    /// Since when.
    pub since: Timestamp,
}

impl World {
    /// The object of this name, also while it is being deleted.
    pub fn get<N: WorldNoun>(&self, name: &Name) -> Option<&Arc<Stored<N>>> {
        N::objects(self).get(name)
    }

    /// All objects of a noun in the order of their names.
    pub fn all<N: WorldNoun>(&self) -> impl Iterator<Item = &Arc<Stored<N>>> {
        N::objects(self).values()
    }

    /// The objects whose names come after `after`, in order.
    pub fn after<'w, N: WorldNoun>(
        &'w self,
        after: Option<&Name>,
    ) -> impl Iterator<Item = &'w Arc<Stored<N>>> + use<'w, N> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.clone()));
        N::objects(self).range((from, Bound::<Name>::Unbounded)).map(|(_, object)| object)
    }

    /// How many objects of a noun there are.
    pub fn count<N: WorldNoun>(&self) -> usize {
        N::objects(self).len()
    }

    /// Which object this identity is of.
    pub fn find(&self, uid: &Uid) -> Option<&(Kind, Name)> {
        self.by_uid.get(uid)
    }

    /// The object of this kind and name, whatever its noun.
    pub fn get_any(&self, kind: Kind, name: &Name) -> Option<AnyStored> {
        match kind {
            Kind::Namespace => self.get(name).cloned().map(AnyStored::Namespace),
            Kind::Network => self.get(name).cloned().map(AnyStored::Network),
            Kind::Attachment => self.get(name).cloned().map(AnyStored::Attachment),
            Kind::PortForward => self.get(name).cloned().map(AnyStored::PortForward),
            Kind::Reservation => self.get(name).cloned().map(AnyStored::Reservation),
            Kind::Route => self.get(name).cloned().map(AnyStored::Route),
            Kind::Link => self.get(name).cloned().map(AnyStored::Link),
            Kind::Policy => self.get(name).cloned().map(AnyStored::Policy),
        }
    }

    /// All objects of every noun, in the order in which they were made.
    pub fn objects(&self) -> impl Iterator<Item = AnyStored> {
        self.by_uid.values().filter_map(|(kind, name)| self.get_any(*kind, name))
    }

    /// All objects of a kind, in the order of their names.
    pub fn all_of(&self, kind: Kind) -> Vec<AnyStored> {
        match kind {
            Kind::Namespace => self.all().cloned().map(AnyStored::Namespace).collect(),
            Kind::Network => self.all().cloned().map(AnyStored::Network).collect(),
            Kind::Attachment => self.all().cloned().map(AnyStored::Attachment).collect(),
            Kind::PortForward => self.all().cloned().map(AnyStored::PortForward).collect(),
            Kind::Reservation => self.all().cloned().map(AnyStored::Reservation).collect(),
            Kind::Route => self.all().cloned().map(AnyStored::Route).collect(),
            Kind::Link => self.all().cloned().map(AnyStored::Link).collect(),
            Kind::Policy => self.all().cloned().map(AnyStored::Policy).collect(),
        }
    }

    /// Puts an object in, in place of one of the same name.
    pub fn put(&mut self, object: AnyStored) {
        match object {
            AnyStored::Namespace(object) => self.put_one(object),
            AnyStored::Network(object) => self.put_one(object),
            AnyStored::Attachment(object) => self.put_one(object),
            AnyStored::PortForward(object) => self.put_one(object),
            AnyStored::Reservation(object) => self.put_one(object),
            AnyStored::Route(object) => self.put_one(object),
            AnyStored::Link(object) => self.put_one(object),
            AnyStored::Policy(object) => self.put_one(object),
        }
    }

    /// Takes an object out, with all that it held. Where allocation goes on is forgotten with the Network.
    pub fn remove(&mut self, kind: Kind, name: &Name) -> Option<AnyStored> {
        if kind == Kind::Network {
            self.cursors.remove(name);
        }
        self.lift(kind, name)
    }

    /// Takes an object out that is to be put back, with all that it held. Allocation goes on where it was.
    pub fn lift(&mut self, kind: Kind, name: &Name) -> Option<AnyStored> {
        let removed = self.get_any(kind, name)?;
        match &removed {
            AnyStored::Namespace(object) => self.remove_one(object),
            AnyStored::Network(object) => self.remove_one(object),
            AnyStored::Attachment(object) => self.remove_one(object),
            AnyStored::PortForward(object) => self.remove_one(object),
            AnyStored::Reservation(object) => self.remove_one(object),
            AnyStored::Route(object) => self.remove_one(object),
            AnyStored::Link(object) => self.remove_one(object),
            AnyStored::Policy(object) => self.remove_one(object),
        }
        Some(removed)
    }

    fn put_one<N: WorldNoun>(&mut self, object: Arc<Stored<N>>) {
        if let Some(old) = self.get::<N>(&object.meta.name).cloned() {
            self.remove_one(&old);
        }
        self.by_uid.insert(object.meta.uid, (N::KIND, object.meta.name.clone()));
        N::hold(self, &object);
        N::objects_mut(self).insert(object.meta.name.clone(), object);
    }

    fn remove_one<N: WorldNoun>(&mut self, object: &Stored<N>) {
        self.by_uid.remove(&object.meta.uid);
        N::release(self, object);
        N::objects_mut(self).remove(&object.meta.name);
    }
}
