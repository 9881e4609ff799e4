//! Routes: each after what it goes through; one that changes is replaced in its place; old ones leave last.

use std::collections::BTreeMap;

use netloom_api::IfName;

use super::Planner;
use crate::hostnet::{Action, LinkKind, Mark, Route, Stack, Way};

impl<'a> Planner<'a> {
    /// Routes through a link that is up now.
    pub(super) fn routes_through(&mut self, key: &(Stack, IfName)) {
        for (route, mark) in self.by_link.routes.get(key).cloned().unwrap_or_default() {
            self.route(route, mark);
        }
    }

    /// Every other wanted route, then away with those that nobody wants: a packet always finds one of the two.
    pub(super) fn finish_routes(&mut self) {
        let (have, want) = (self.have, self.want);
        for (route, mark) in &want.routes {
            if !self.routed.contains(route) && !self.lacks_its_link(route) {
                self.route(route, *mark);
            }
        }
        for (route, mark) in &have.routes {
            let is_replaced = in_place_of(&want.routes, route).next().is_some();
            if mark.is_ours() && !is_replaced && self.route_stays(route) {
                self.step(*mark, Action::DeleteRoute(route.clone()));
            }
        }
    }

    fn route(&mut self, route: &'a Route, mark: Mark) {
        self.routed.insert(route);
        let there = in_place_of(&self.have.routes, route);
        let ours: Vec<&Route> = there
            .filter(|(other, owner)| owner.is_ours() && self.route_stays(other))
            .map(|(other, _)| other)
            .collect();
        match ours.as_slice() {
            [] => self.step(mark, Action::AddRoute(route.clone())),
            some if some.contains(&route) => {}
            _ => self.step(mark, Action::ReplaceRoute(route.clone())),
        }
    }

    /// Whether a route that we have is still there after the steps so far: it goes with its namespace and its link.
    fn route_stays(&self, route: &Route) -> bool {
        if let Stack::Namespace(name) = &route.stack
            && self.have.namespaces.contains_key(name)
            && !self.want.namespaces.contains_key(name)
        {
            return false;
        }
        let Some(link) = route.link() else { return true };
        let key = (route.stack.clone(), link.clone());
        let goes_down = || self.want.links.get(&key).is_some_and(|link| !link.up);
        match self.have.links.get(&key) {
            // The scope is not about the link: nothing happens to it.
            None => true,
            Some(have) => (!have.mark.is_ours() || self.link_stays(&key)) && have.up && !goes_down(),
        }
    }

    /// Whether a stranger's link is where ours should be, which the route is meant for.
    fn lacks_its_link(&self, route: &Route) -> bool {
        let Some(link) = route.link() else { return false };
        let key = (route.stack.clone(), link.clone());
        let is_foreign =
            |key: &(Stack, IfName)| self.have.links.get(key).is_some_and(|link| !link.mark.is_ours());
        match self.want.links.get(&key).map(|link| &link.kind) {
            None => false,
            Some(LinkKind::Veth { peer: Some(outer) }) => is_foreign(&key) || is_foreign(outer),
            Some(LinkKind::Bridge | LinkKind::Ifb | LinkKind::Veth { peer: None } | LinkKind::Other(_)) => {
                is_foreign(&key)
            }
        }
    }
}

/// The routes of the same place: neighbours in the order of routes.
fn in_place_of<'m>(
    routes: &'m BTreeMap<Route, Mark>,
    route: &Route,
) -> impl Iterator<Item = (&'m Route, &'m Mark)> {
    let first = Route { way: Way::Blackhole, ..route.clone() };
    let place = first.clone();
    routes.range(first..).take_while(move |(other, _)| other.place() == place.place())
}
