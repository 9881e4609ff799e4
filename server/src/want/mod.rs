//! Pure: what the World wants of the host, one file per noun.
//!
//! An object that is being deleted wants nothing, but that what is the user's own, an adopted Namespace or a bridge, be as it
//! was. Want comes from the World alone, so whatever order objects were made
//! in, the host ends up the same.

mod attachment;
mod host;
mod link;
mod namespace;
mod network;
pub mod oracle;
mod policy;
mod port_forward;
mod route;
mod scope;
pub mod shapes;

use netloom_api::Attachment;

use crate::{
    hostnet::{Features, HostNet, Scope, rules::Skeleton},
    world::{Stored, World, WorldNoun},
};

pub(crate) use attachment::mtu_of;
pub use host::{HostFacts, HostLinks, OwnBridge, Uplink, needs_forwarding};
pub(crate) use link::stack_of;
pub(crate) use network::on_prefix;
pub(crate) use port_forward::targets;
pub(crate) use route::{NoWay, no_gateway_text, way};
pub use scope::{close, everything, scope_of};

/// What the want of the host depends on beside the World.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// What the kernel can do.
    pub features: Features,
    /// Whether netloom may switch forwarding on.
    pub manages_forwarding: bool,
    /// TCP ports of the daemon's own that no member may reach.
    pub api_ports: Vec<u16>,
    /// The host's own links, as last seen.
    pub facts: HostFacts,
}

/// What the objects of a scope want of the host.
pub fn want(world: &World, scope: &Scope, around: &Surroundings) -> HostNet {
    let mut net = HostNet::default();
    net.rules.skeleton = Skeleton::Present;
    for namespace in scope.namespaces.iter().filter_map(|name| world.get(name)) {
        match namespace.meta.delete_time {
            None => namespace::want(world, namespace, &mut net),
            Some(_) => namespace::farewell(world, namespace, &mut net),
        }
    }
    for network in scope.networks.iter().filter_map(|name| living(world, name)) {
        network::want(world, network, around, &mut net);
    }
    let dying = |name| world.get(name).filter(|network| network.meta.delete_time.is_some());
    for network in scope.networks.iter().filter_map(dying) {
        network::give_back(network, around, &mut net);
    }
    for attachment in scope.attachments.iter().filter_map(|name| living(world, name)) {
        attachment::want(world, attachment, &mut net);
    }
    for forward in scope.port_forwards.iter().filter_map(|name| living(world, name)) {
        port_forward::want(world, forward, &mut net);
    }
    for network in scope.loopbacks.iter().filter_map(|name| living(world, name)) {
        port_forward::want_loopback(world, network, &mut net);
    }
    for route in scope.routes.iter().filter_map(|name| living(world, name)) {
        route::want(world, route, &mut net);
    }
    for link in scope.links.iter().filter_map(|name| living(world, name)) {
        link::want(world, link, around, &mut net);
    }
    for policy in scope.policies.iter().filter_map(|name| living(world, name)) {
        policy::want(world, policy, &mut net);
    }
    for attachment in scope.policed.iter().filter_map(|name| living::<Attachment>(world, name)) {
        if let Some(network) = attachment::network_of(world, attachment) {
            policy::lead(world, attachment, network, &mut net);
        }
    }
    for set in &scope.chains {
        policy::chain(world, set, &mut net);
    }
    if scope.host {
        host::want(world, around, &mut net);
    }
    net
}

/// What the part of the host that is in `scope.host` has, by the facts.
pub fn have_host(around: &Surroundings) -> HostNet {
    host::have(around)
}

/// The object of this name, unless it is being deleted.
fn living<'w, N: WorldNoun>(world: &'w World, name: &netloom_api::Name) -> Option<&'w Stored<N>> {
    world.get::<N>(name).map(|object| &**object).filter(|object| object.meta.delete_time.is_none())
}

/// The MTU of an attachment in effect.
pub fn attachment_mtu(
    attachment: &Stored<netloom_api::Attachment>,
    network: &Stored<netloom_api::Network>,
) -> u16 {
    attachment::mtu(attachment, network)
}
