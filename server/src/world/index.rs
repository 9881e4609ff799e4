//! Questions to the World that must not cost more when more exists.

use std::{net::IpAddr, ops::Bound};

use ipnet::IpNet;
use netloom_api::{Allocation, Cidr, IfName, Kind, Name, Protocol};

use super::{Adoption, Used, World};

/// A published port: protocol, port, address (`None` for any).
pub type Listen = (Protocol, u16, Option<IpAddr>);

/// The ports that a forward publishes which listens here.
pub fn listens(protocol: Protocol, listen: &netloom_api::Listen) -> impl Iterator<Item = Listen> + use<> {
    let address = listen.address;
    (listen.port..=listen.last_port()).map(move |port| (protocol, port, address))
}

/// Everything of `set` whose first part is `first`, as the second part.
pub(super) fn second_of<'w>(
    set: &'w imbl::OrdSet<(Name, Name)>,
    first: &Name,
) -> impl Iterator<Item = &'w Name> + use<'w> {
    let wanted = first.clone();
    let from = Bound::Included((first.clone(), smallest_name()));
    set.range((from, Bound::Unbounded))
        .take_while(move |(first, _)| *first == wanted)
        .map(|(_, second)| second)
}

/// No name is before this one.
pub(super) fn smallest_name() -> Name {
    // "0" is the first of all labels; the parser's own tests hold it to be one.
    #[allow(clippy::expect_used)]
    "0".parse().expect("\"0\" is an RFC 1123 label")
}

impl World {
    /// The names of a Namespace's Attachments.
    pub fn attachments_in(&self, namespace: &Name) -> impl Iterator<Item = &Name> + use<'_> {
        second_of(&self.in_namespace, namespace)
    }

    /// The names of the Links that have an end in a Namespace, or on `host`.
    pub fn links_in(&self, namespace: &Name) -> impl Iterator<Item = &Name> + use<'_> {
        second_of(&self.links_in, namespace)
    }

    /// The names of a Network's Attachments.
    pub fn attachments_on(&self, network: &Name) -> impl Iterator<Item = &Name> + use<'_> {
        second_of(&self.on_network, network)
    }

    /// The names of a Network's Reservations.
    pub fn reservations_on(&self, network: &Name) -> impl Iterator<Item = &Name> + use<'_> {
        second_of(&self.reserved_on, network)
    }

    /// The names of the PortForwards that go to an Attachment.
    pub fn forwards_to(&self, attachment: &Name) -> impl Iterator<Item = &Name> + use<'_> {
        second_of(&self.forwards_to, attachment)
    }

    /// Who uses an address of a Network.
    pub fn user_of(&self, network: &Name, address: IpAddr) -> Option<&Used> {
        self.addresses.get(&(network.clone(), address))
    }

    /// The used addresses of a Network between two, both included, in order.
    pub fn used_between(
        &self,
        network: &Name,
        first: IpAddr,
        last: IpAddr,
    ) -> impl Iterator<Item = (IpAddr, &Used)> + use<'_> {
        let from = Bound::Included((network.clone(), first));
        let to = Bound::Included((network.clone(), last));
        self.addresses.range((from, to)).map(|((_, address), used)| (*address, used))
    }

    /// All used addresses after a position, in the order of networks and addresses.
    pub fn allocations_after(
        &self,
        after: Option<(Name, IpAddr)>,
    ) -> impl Iterator<Item = Allocation> + use<'_> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.addresses.range((from, Bound::Unbounded)).map(|((network, address), used)| Allocation {
            name: format!("{network}@{address}"),
            network: network.clone(),
            address: *address,
            holder: used.holder.clone(),
            since: used.since,
        })
    }

    /// A subnet of another Network that has an address in common with this prefix.
    pub fn overlapping(&self, net: &IpNet) -> Option<&(IpNet, Name)> {
        let first = net.network();
        let inside =
            self.subnets.range((Bound::Included(first), Bound::Unbounded)).next().map(|(_, subnet)| subnet);
        let around = self
            .subnets
            .range((Bound::Unbounded, Bound::Included(first)))
            .next_back()
            .map(|(_, subnet)| subnet);
        let same_family = |subnet: &&(IpNet, Name)| subnet.0.addr().is_ipv4() == net.addr().is_ipv4();
        inside
            .filter(same_family)
            .filter(|(other, _)| net.contains(&other.network()))
            .or_else(|| around.filter(same_family).filter(|(other, _)| other.contains(&first)))
    }

    /// The object that holds a host device's name.
    pub fn device_holder(&self, device: &IfName) -> Option<&(Kind, Name)> {
        self.devices.get(device)
    }

    /// The Namespace that has adopted this namespace.
    pub fn adopter(&self, adoption: &Adoption) -> Option<&Name> {
        self.adopted.get(&(adoption.boot.clone(), adoption.cookie))
    }

    /// All adopted Namespaces.
    pub fn all_adopted(&self) -> impl Iterator<Item = &Name> {
        self.adopted.values()
    }

    /// A PortForward that publishes a port that `name` also wants, and does not yield it; two conflict when one of them is
    /// for any address of the family, or both are for the same one.
    pub fn listen_conflict(
        &self,
        name: &Name,
        protocol: Protocol,
        listen: &netloom_api::Listen,
        yields: impl Fn(&Name) -> bool,
    ) -> Option<(u16, &Name)> {
        listens(protocol, listen).find_map(|(protocol, port, address)| {
            let from = Bound::Included((protocol, port, None));
            let same_port = |(listen, _): &(&Listen, &Name)| (listen.0, listen.1) == (protocol, port);
            let mut others = self.listens.range((from, Bound::Unbounded)).take_while(same_port);
            let conflict = others.find(|((_, _, other), holder)| {
                let meets = other.is_none() || address.is_none() || *other == address;
                *holder != name && meets && !yields(holder)
            });
            conflict.map(|(_, holder)| (port, holder))
        })
    }

    /// Whether some PortForward publishes exactly this.
    pub fn publishes(&self, listen: &Listen) -> bool {
        self.listens.contains_key(listen)
    }

    /// Where next-fit allocation goes on in a subnet.
    pub fn cursor(&self, network: &Name, subnet: &Cidr) -> Option<IpAddr> {
        self.cursors.get(network)?.get(subnet).copied()
    }

    /// Moves the cursor of a subnet. It is a hint that goes with its Network.
    pub fn set_cursor(&mut self, network: &Name, subnet: &Cidr, cursor: IpAddr) {
        self.cursors.entry(network.clone()).or_default().insert(*subnet, cursor);
    }
}

/// A MAC address of our own making: locally administered, and the same for the same object and end for ever.
pub fn mac_of(uid: netloom_api::Uid, end: &str) -> netloom_api::Mac {
    use sha2::{Digest, Sha256};
    let hash = Sha256::new().chain_update(uid.as_bytes()).chain_update(end).finalize();
    netloom_api::Mac::from_bytes([0x02, hash[0], hash[1], hash[2], hash[3], hash[4]])
}
