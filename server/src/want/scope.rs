//! Which part of the host a change is about.

use std::collections::BTreeSet;

use netloom_api::{Attachment, Kind, Link, Name, Namespace, Network, Policy, PortForward, Route};

use super::policy::{is_used, sets_of};
use crate::{
    hostnet::{Scope, rules::PolicySet},
    world::{OnLink, Stored, World, WorldNoun},
};

/// All that there is.
pub fn everything(world: &World) -> Scope {
    fn names<N: WorldNoun>(world: &World) -> BTreeSet<Name> {
        world.all::<N>().map(|object| object.meta.name.clone()).collect()
    }
    Scope {
        namespaces: names::<Namespace>(world),
        networks: names::<Network>(world),
        attachments: names::<Attachment>(world),
        port_forwards: names::<PortForward>(world),
        // The networks' own part has it.
        loopbacks: BTreeSet::new(),
        routes: names::<Route>(world),
        links: names::<Link>(world),
        policies: names::<Policy>(world),
        policed: BTreeSet::new(),
        chains: world.all::<Attachment>().flat_map(|one| sets_of(world, one)).collect(),
        leads_to: BTreeSet::new(),
        host: true,
        leans_on: BTreeSet::new(),
    }
}

/// What follows for chains of policies from a change of these between two Worlds: they come with the first attachment that
/// leads to them, and go with the last.
pub fn close(scope: &mut Scope, before: &World, after: &World) {
    for name in scope.attachments.iter().chain(&scope.policed) {
        for world in [before, after] {
            let attachment = world.get::<Attachment>(name);
            scope.leads_to.extend(attachment.into_iter().flat_map(|one| sets_of(world, one)));
        }
    }
    let turns = |set: &&PolicySet| is_used(before, set) != is_used(after, set);
    let turning = scope.leads_to.difference(&scope.chains).filter(turns).cloned().collect::<Vec<_>>();
    scope.chains.extend(turning);
}

/// What a change of this object touches in the kernel, closed over what depends on it. To be asked of the World before
/// the change and of the one after it, and joined.
pub fn scope_of(world: &World, kind: Kind, name: &Name) -> Scope {
    let mut scope = Scope::default();
    match kind {
        Kind::Namespace => {
            scope.namespaces.insert(name.clone());
            scope.routes.extend(world.routes_in(name).cloned());
            world.links_in(name).for_each(|link| add_link(world, link, &mut scope));
            world.attachments_in(name).for_each(|attachment| add_attachment(world, attachment, &mut scope));
        }
        Kind::Network => {
            scope.networks.insert(name.clone());
            add_routes_of_host(world, name, &mut scope);
            world.attachments_on(name).for_each(|attachment| add_attachment(world, attachment, &mut scope));
            scope.policies.extend(world.policies_on(name).cloned());
        }
        Kind::Attachment => add_attachment(world, name, &mut scope),
        Kind::PortForward => {
            scope.port_forwards.insert(name.clone());
            let target = world.get::<PortForward>(name).map(|forward| &forward.spec.target.attachment);
            let attachment = target.and_then(|target| world.get::<Attachment>(target));
            scope.loopbacks.extend(attachment.map(|attachment| attachment.spec.network.clone()));
        }
        Kind::Route => add_route(world, name, &mut scope),
        Kind::Link => add_link(world, name, &mut scope),
        Kind::Policy => add_policy(world, name, &mut scope),
        // It keeps an address back; the kernel has no part in it.
        Kind::Reservation => {}
    }
    scope.leans_on.extend(bases(world, &scope));
    scope
}

/// With whom it selects, and on what its peers are.
fn add_policy(world: &World, name: &Name, scope: &mut Scope) {
    scope.policies.insert(name.clone());
    let Some(policy) = world.get::<Policy>(name) else { return };
    for attachment in world.selected(policy) {
        scope.policed.insert(attachment.meta.name.clone());
        let uid = policy.meta.uid;
        scope.chains.extend(sets_of(world, attachment).filter(|set| set.policies.contains(&uid)));
    }
    let rules = policy.spec.ingress.iter().chain(&policy.spec.egress);
    let peers = rules.flat_map(|rule| world.peers(rule).attachments);
    let mut names: BTreeSet<Name> = peers.map(|peer| peer.meta.name.clone()).collect();
    names.extend(scope.policed.iter().cloned());
    scope.leans_on.extend(names.into_iter().map(|name| (Kind::Attachment, name)));
}

/// What these objects' want depends on, beside themselves. While that is still in the making, what the kernel was made to
/// follow says nothing sure of them.
fn bases(world: &World, scope: &Scope) -> BTreeSet<(Kind, Name)> {
    let mut bases = BTreeSet::new();
    for forward in scope.port_forwards.iter().filter_map(|name| world.get::<PortForward>(name)) {
        let target = &forward.spec.target.attachment;
        bases.insert((Kind::Attachment, target.clone()));
        let network = world.get::<Attachment>(target).map(|attachment| attachment.spec.network.clone());
        bases.extend(network.map(|network| (Kind::Network, network)));
    }
    for attachment in scope.attachments.iter().filter_map(|name| world.get::<Attachment>(name)) {
        bases.insert((Kind::Namespace, attachment.spec.namespace.clone()));
        bases.insert((Kind::Network, attachment.spec.network.clone()));
        let policies = world.policies_of(attachment).into_iter().chain(world.policies_with_peer(attachment));
        bases.extend(policies.map(|policy| (Kind::Policy, policy.meta.name.clone())));
    }
    for link in scope.links.iter().filter_map(|name| world.get::<Link>(name)) {
        bases.extend(link.spec.ends.iter().map(|end| (Kind::Namespace, end.namespace.clone())));
    }
    bases
}

fn add_attachment(world: &World, name: &Name, scope: &mut Scope) {
    scope.attachments.insert(name.clone());
    let mut forwards = world.forwards_to(name).peekable();
    if forwards.peek().is_some() {
        let attachment = world.get::<Attachment>(name);
        scope.loopbacks.extend(attachment.map(|attachment| attachment.spec.network.clone()));
    }
    scope.port_forwards.extend(forwards.cloned());
    if let Some(attachment) = world.get::<Attachment>(name) {
        scope.routes.extend(world.routes_in(&attachment.spec.namespace).cloned());
    }
}

fn add_link(world: &World, name: &Name, scope: &mut Scope) {
    scope.links.insert(name.clone());
    for end in world.get::<Link>(name).iter().flat_map(|link| &link.spec.ends) {
        scope.routes.extend(world.routes_in(&end.namespace).cloned());
    }
}

/// With what it goes through, so that it is not taken up while that is still in the making.
fn add_route(world: &World, name: &Name, scope: &mut Scope) {
    scope.routes.insert(name.clone());
    let Some(route) = world.get::<Route>(name) else { return };
    let namespace = &route.spec.namespace;
    if !route.spec.is_of_host() {
        scope.namespaces.insert(namespace.clone());
    }
    for one in world.on_link(namespace).into_iter().filter(|one| goes_through(route, one)) {
        let (kind, name) = one.holder;
        match kind {
            Kind::Attachment => drop(scope.attachments.insert(name)),
            Kind::Network => drop(scope.networks.insert(name)),
            Kind::Link => drop(scope.links.insert(name)),
            Kind::Namespace | Kind::PortForward | Kind::Reservation | Kind::Route | Kind::Policy => {}
        }
    }
}

/// The host's routes that go through a network's bridge.
fn add_routes_of_host(world: &World, network: &Name, scope: &mut Scope) {
    // "host" is a name like any other to the parser.
    let (Ok(host), Some(network)) = ("host".parse::<Name>(), world.get::<Network>(network)) else { return };
    let alloc = &network.alloc;
    let through = |route: &Stored<Route>| {
        let by_name = route.spec.interface.as_ref() == Some(&alloc.device);
        let has = |via| alloc.subnets.iter().any(|subnet| subnet.cidr.net().contains(&via));
        by_name || route.spec.via.is_some_and(has)
    };
    let routes = world.routes_in(&host).filter_map(|name| world.get::<Route>(name));
    scope.routes.extend(routes.filter(|route| through(route)).map(|route| route.meta.name.clone()));
}

fn goes_through(route: &Stored<Route>, one: &OnLink) -> bool {
    let spec = &route.spec;
    spec.interface.as_ref().is_some_and(|interface| *interface == one.interface)
        || spec.via.is_some_and(|via| one.address.contains(&via))
}
