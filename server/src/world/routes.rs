//! Which routes there are, and what a namespace reaches without one.

use ipnet::IpNet;
use netloom_api::{Attachment, IfName, Kind, Link, Name, Network, RouteSpec, TABLE_MAIN};

use super::{World, index::second_of};

/// Namespace, table, destination, metric.
pub(super) type Place = (Name, u32, IpNet, u32);

/// The place that a Route takes.
pub(super) fn place(spec: &RouteSpec) -> Place {
    (spec.namespace.clone(), spec.table(), spec.destination.net(), spec.metric())
}

/// A prefix that a namespace reaches without a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnLink {
    /// The interface's own address, with prefix length.
    pub address: IpNet,
    /// The interface, by its name in the namespace.
    pub interface: IfName,
    /// The object that it is of.
    pub holder: (Kind, Name),
}

impl World {
    /// What a Namespace, or `host`, reaches without a gateway through interfaces that netloom makes. What is being deleted
    /// does not count.
    pub fn on_link(&self, namespace: &Name) -> Vec<OnLink> {
        let mut all = if namespace.as_str() == "host" {
            self.bridges_on_link()
        } else {
            self.attached_on_link(namespace)
        };
        all.extend(self.cables_on_link(namespace));
        all
    }

    fn cables_on_link(&self, namespace: &Name) -> impl Iterator<Item = OnLink> {
        let links = self.links_in(namespace).filter_map(|name| self.get::<Link>(name));
        let living = links.filter(|link| link.meta.delete_time.is_none());
        let ends = living.flat_map(|link| link.spec.ends.iter().map(|end| (&link.meta.name, end)));
        let here = ends.filter(|(_, end)| end.namespace == *namespace);
        here.flat_map(|(name, end)| {
            end.addresses.iter().map(|address| OnLink {
                address: address.0,
                interface: end.interface.clone(),
                holder: (Kind::Link, name.clone()),
            })
        })
    }

    fn attached_on_link(&self, namespace: &Name) -> Vec<OnLink> {
        let living = self
            .attachments_in(namespace)
            .filter_map(|name| self.get::<Attachment>(name))
            .filter(|attachment| attachment.meta.delete_time.is_none());
        let of = |attachment: &std::sync::Arc<super::Stored<Attachment>>| {
            let (alloc, name) = (attachment.alloc.clone(), attachment.meta.name.clone());
            alloc.addresses.into_iter().map(move |address| OnLink {
                address: address.0,
                interface: alloc.interface.clone(),
                holder: (Kind::Attachment, name.clone()),
            })
        };
        living.flat_map(of).collect()
    }

    fn bridges_on_link(&self) -> Vec<OnLink> {
        let living = self.all::<Network>().filter(|network| network.meta.delete_time.is_none());
        let of = |network: &std::sync::Arc<super::Stored<Network>>| {
            let (alloc, name) = (network.alloc.clone(), network.meta.name.clone());
            alloc.subnets.into_iter().map(move |subnet| OnLink {
                address: IpNet::new(subnet.gateway, subnet.cidr.net().prefix_len())
                    .unwrap_or(subnet.cidr.net()),
                interface: alloc.device.clone(),
                holder: (Kind::Network, name.clone()),
            })
        };
        living.flat_map(of).collect()
    }

    /// The names of the Routes in a Namespace, or on `host`.
    pub fn routes_in(&self, namespace: &Name) -> impl Iterator<Item = &Name> + use<'_> {
        second_of(&self.routes_in, namespace)
    }

    /// Who has the place of a Route already: another Route, or an Attachment with its default route.
    pub fn route_holder(&self, name: &Name, spec: &RouteSpec) -> Option<(Kind, Name)> {
        match self.route_places.get(&place(spec)).filter(|other| *other != name) {
            Some(other) => Some((Kind::Route, other.clone())),
            None if spec.table() == TABLE_MAIN && spec.destination.net().prefix_len() == 0 => {
                let v4 = spec.destination.net().addr().is_ipv4();
                let mut attachments =
                    self.attachments_in(&spec.namespace).filter_map(|name| self.get::<Attachment>(name));
                let same = |one: &&std::sync::Arc<super::Stored<Attachment>>| {
                    one.alloc.default_route
                        && one.alloc.metric == spec.metric()
                        && one.alloc.addresses.iter().any(|address| address.0.addr().is_ipv4() == v4)
                };
                attachments.find(same).map(|one| (Kind::Attachment, one.meta.name.clone()))
            }
            None => None,
        }
    }

    /// The Route that has the place of a Namespace's default route with this metric.
    pub fn default_route_holder(&self, namespace: &Name, destination: IpNet, metric: u32) -> Option<&Name> {
        self.route_places.get(&(namespace.clone(), TABLE_MAIN, destination, metric))
    }
}
