//! Turns the host we have into the host we want, as a list of steps.
//!
//! Pure: no clock, no kernel, no database. Equal inputs give equal plans, and `plan(x, x)` is empty. Order is decided
//! here and nowhere else: what goes loses its rules first, then its links, then its namespace; what comes has its
//! rules before it carries a packet, and is up last. On a link that stays, new addresses arrive before old ones leave,
//! because losing the last one also loses its routes; routes come after what they go through, and old ones leave last.
//! What bears no mark of ours is never touched: where it is in the way, the plan says so instead.

mod routes;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net};
use netloom_api::{IfName, MTU_DEFAULT, Name, Uid};

use crate::hostnet::{
    Action, Address, End, HostNet, Link, LinkChange, LinkKind, Mark, Route, Stack, Step, Sysctl,
    flows::stale_after, rules,
};

/// Steps in order, and what keeps the rest from being done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// What somebody else has in the way.
    pub conflicts: Vec<Conflict>,
}

/// Something of somebody else's where ours should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Which object cannot be.
    pub uid: Uid,
    /// What is in the way.
    pub message: String,
}

impl Plan {
    /// Whether nothing is to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.conflicts.is_empty()
    }
}

/// The steps from `have` to `want`. Both must be of the same scope: what `have` lists as ours and `want` does not, goes.
pub fn plan(have: &HostNet, want: &HostNet) -> Plan {
    let by_link = ByLink::of(want);
    let mut planner = Planner { have, want, by_link, plan: Plan::default(), routed: BTreeSet::new() };
    planner.remove();
    planner.add();
    planner.finish_routes();
    planner.plan
}

struct Planner<'a> {
    have: &'a HostNet,
    want: &'a HostNet,
    by_link: ByLink<'a>,
    plan: Plan,
    /// Wanted routes that are seen to.
    routed: BTreeSet<&'a Route>,
}

/// What is wanted of one link, found without looking at those of all others.
#[derive(Default)]
struct ByLink<'a> {
    sysctls: BTreeMap<(Stack, IfName), Vec<(&'a Sysctl, &'a String)>>,
    routes: BTreeMap<(Stack, IfName), Vec<(&'a Route, Mark)>>,
}

impl<'a> ByLink<'a> {
    fn of(want: &'a HostNet) -> Self {
        let mut all = Self::default();
        for ((stack, sysctl), value) in &want.sysctls {
            if let Some(link) = sysctl.link() {
                all.sysctls.entry((stack.clone(), link.clone())).or_default().push((sysctl, value));
            }
        }
        for (route, mark) in &want.routes {
            if let Some(link) = route.link() {
                all.routes.entry((route.stack.clone(), link.clone())).or_default().push((route, *mark));
            }
        }
        all
    }
}

impl Planner<'_> {
    fn step(&mut self, mark: Mark, action: Action) {
        let uid = match mark {
            Mark::Object(uid) => Some(uid),
            Mark::Group | Mark::Foreign => None,
        };
        self.plan.steps.push(Step { uid, action });
    }

    fn conflict(&mut self, mark: Mark, message: String) {
        if let Mark::Object(uid) = mark {
            self.plan.conflicts.push(Conflict { uid, message });
        }
    }

    fn remove(&mut self) {
        let (have, want) = (self.have, self.want);
        if want.rules.skeleton == rules::Skeleton::Present && have.rules.skeleton != rules::Skeleton::Present
        {
            let chains = want.rules.chains.clone();
            self.plan.steps.push(Step::of_host(Action::InstallRules { chains }));
        }
        let rules::Edit { put, remove, add, drop } = rules::diff(&have.rules, &want.rules);
        let stale = stale_after(&remove, &add, &want.rules.elements);
        // All in one go: an element whose data changes is never absent for a packet, since the kernel's side commits
        // neighbouring rule steps together. Chains are there before elements lead to them, and go after.
        let put = put.into_iter().map(|(name, chain)| Action::PutChain(name, chain));
        let elements = remove.into_iter().map(Action::RemoveRule).chain(add.into_iter().map(Action::AddRule));
        let drop = drop.into_iter().map(Action::RemoveChain);
        self.plan.steps.extend(put.chain(elements).chain(drop).map(Step::of_host));
        self.end_detours();
        self.leave_borrowed();
        let doomed: Vec<&(Stack, IfName)> =
            have.links.keys().filter(|key| self.goes(key) && self.is_near(key)).collect();
        // Ports before bridges: a bridge with a thousand ports takes long to die.
        for bridges in [false, true] {
            for key in &doomed {
                let link = &have.links[*key];
                if (link.kind == LinkKind::Bridge) == bridges {
                    let (stack, name) = (*key).clone();
                    self.step(link.mark, Action::DeleteLink { stack, link: name });
                }
            }
        }
        // After the rules and the links: a packet in between would bring a forgotten flow back.
        if !stale.is_empty() {
            self.plan.steps.push(Step::of_host(Action::Forget(stale)));
        }
        for (name, mark) in &have.namespaces {
            if mark.is_ours() && !want.namespaces.contains_key(name) {
                self.step(*mark, Action::DeleteNamespace { name: name.clone() });
            }
        }
    }

    /// Our addresses on links of others go one by one.
    fn leave_borrowed(&mut self) {
        let (have, want) = (self.have, self.want);
        for (address, mark) in &have.addresses {
            let link = have.links.get(&(address.stack.clone(), address.link.clone()));
            let foreign = link.map_or(have.borrowed.contains_key(&address.link), |link| !link.mark.is_ours());
            let on_host = address.stack == Stack::Host;
            if on_host && foreign && mark.is_ours() && !want.addresses.contains_key(address) {
                self.step(*mark, Action::DeleteAddress(address.clone()));
            }
        }
    }

    /// The addresses of a Network on the user's own bridge.
    fn add_to_borrowed(&mut self, device: &IfName) {
        let (have, want) = (self.have, self.want);
        let key = (Stack::Host, device.clone());
        let missing = addresses_on(&want.addresses, &key);
        let mut missing = missing.filter(|(address, _)| !have.addresses.contains_key(address)).peekable();
        if let Some((_, mark)) = missing.peek() {
            self.step(**mark, Action::UseBridge { device: device.clone(), keep_mac: true });
        }
        for (address, mark) in missing {
            self.step(*mark, Action::AddAddress(address.clone()));
        }
    }

    /// Before the queues go that they lead through: a frame that is sent to no queue is lost.
    fn end_detours(&mut self) {
        for (device, through) in &self.have.detours {
            let (key, queue) = ((Stack::Host, device.clone()), (Stack::Host, through.clone()));
            let stays = self.want.detours.get(device) == Some(through) && self.link_stays(&queue);
            if let Some(link) = self.have.links.get(&key).filter(|_| !stays && self.link_stays(&key)) {
                self.step(link.mark, Action::ClearDetour { device: device.clone() });
            }
        }
    }

    /// Whether this link of ours goes: a cable does when either of its ends must.
    fn goes(&self, key: &(Stack, IfName)) -> bool {
        let ours = |link: &&Link| link.mark.is_ours() && self.is_in_reach(key, link);
        let Some(link) = self.have.links.get(key).filter(ours) else { return false };
        let other_must = |peer| self.have.links.get(peer).is_none_or(|other| self.must_go(peer, other));
        self.must_go(key, link)
            || match &link.kind {
                LinkKind::Veth { peer } => peer.as_ref().is_none_or(other_must),
                LinkKind::Bridge | LinkKind::Ifb | LinkKind::Other(_) => false,
            }
    }

    /// In a namespace another netloom may be at work, with the same marks. Ours is what stands where ours is to be, and a
    /// cable whose both ends are ours to see.
    fn is_in_reach(&self, key: &(Stack, IfName), link: &Link) -> bool {
        let both_ends_seen = match &link.kind {
            LinkKind::Veth { peer } => peer.as_ref().is_some_and(|peer| self.have.links.contains_key(peer)),
            LinkKind::Bridge | LinkKind::Ifb | LinkKind::Other(_) => false,
        };
        key.0 == Stack::Host || self.want.links.contains_key(key) || both_ends_seen
    }

    /// A link must go when nobody wants it, or wants it so different that it cannot be changed while it lives.
    fn must_go(&self, key: &(Stack, IfName), have: &Link) -> bool {
        let Some(Link { mark, kind, mac, master, .. }) = self.want.links.get(key) else { return true };
        let same_owner = matches!(mark, Mark::Object(uid) if have.mark.is_of(*uid));
        let same_kind = match (kind, &have.kind) {
            (LinkKind::Bridge, LinkKind::Bridge) | (LinkKind::Ifb, LinkKind::Ifb) => true,
            (LinkKind::Veth { peer: want }, LinkKind::Veth { peer: have }) => want == have,
            (LinkKind::Bridge | LinkKind::Veth { .. } | LinkKind::Ifb | LinkKind::Other(_), _) => false,
        };
        // Nobody asks for the MAC address of a bridge's port, or of what was given none.
        !same_owner || !same_kind || (mac.is_some() && *mac != have.mac && master.is_none())
    }

    /// Whether the link is the end by which its cable is made and removed: the host's, if there is one.
    fn is_near(&self, key: &(Stack, IfName)) -> bool {
        match self.have.links.get(key).map(|link| &link.kind) {
            Some(LinkKind::Veth { peer: Some(peer) }) => key < peer || !self.have.links.contains_key(peer),
            Some(LinkKind::Veth { peer: None } | LinkKind::Bridge | LinkKind::Ifb | LinkKind::Other(_))
            | None => true,
        }
    }

    fn add(&mut self) {
        let want = self.want;
        for (name, mark) in &want.namespaces {
            self.add_namespace(name, *mark);
        }
        for (name, adopted) in &want.adopted {
            if self.have.adopted.get(name) != Some(adopted) {
                let (name, adopted) = (name.clone(), *adopted);
                self.step(Mark::Object(adopted.uid), Action::Adopt { name, adopted });
            }
        }
        self.namespace_sysctls();
        // Bridges before the cables that become their ports.
        for ((stack, name), link) in &want.links {
            if *stack == Stack::Host && link.kind == LinkKind::Bridge {
                self.add_bridge(name, link);
            }
        }
        for device in want.borrowed.keys() {
            self.add_to_borrowed(device);
        }
        // Queues before the cables whose frames they hold back.
        for ((stack, name), link) in &want.links {
            if *stack == Stack::Host && link.kind == LinkKind::Ifb {
                self.add_ifb(name, link);
            }
        }
        for (key, link) in &want.links {
            if let LinkKind::Veth { peer: Some(peer) } = &link.kind
                && key < peer
            {
                self.add_cable(key, peer);
            }
        }
        self.add_host_sysctls();
        for (name, adopted) in &self.have.adopted {
            if !want.adopted.contains_key(name) {
                self.step(Mark::Object(adopted.uid), Action::Release { name: name.clone() });
            }
        }
    }

    fn add_namespace(&mut self, name: &Name, mark: Mark) {
        let Mark::Object(uid) = mark else { return };
        match self.have.namespaces.get(name) {
            None => self.step(mark, Action::CreateNamespace { name: name.clone(), uid }),
            Some(have) if have.is_of(uid) => {}
            Some(_) => self.conflict(mark, format!("/run/netns/{name} exists and was not made by netloom")),
        }
    }

    fn add_bridge(&mut self, name: &IfName, link: &Link) {
        let key = (Stack::Host, name.clone());
        if self.link_stays(&key) {
            let have = self.have.links[&key].clone();
            self.link_sysctls(&key, link.mark);
            self.addresses(&key, link.mark);
            self.change(&key, &have, link);
        } else if !self.is_in_the_way(&key, link.mark) {
            // What it is made with follows its ports; what it is changed to stays. So it is made with another.
            let default = u32::from(MTU_DEFAULT);
            let mtu = if link.mtu == default { default - 1 } else { default };
            let plain = Link { up: false, mtu, ..link.clone() };
            let mtu = Some(link.mtu);
            self.step(link.mark, Action::CreateBridge { device: name.clone(), link: plain });
            let Mark::Object(uid) = link.mark else { return };
            self.link_sysctls(&key, link.mark);
            self.addresses(&key, link.mark);
            let change = LinkChange { up: Some(true), mtu, alias: Some(uid), ..LinkChange::default() };
            self.step(link.mark, Action::SetLink { stack: Stack::Host, link: name.clone(), change });
        }
    }

    fn add_ifb(&mut self, name: &IfName, link: &Link) {
        let key = (Stack::Host, name.clone());
        let have = if self.link_stays(&key) {
            self.have.links[&key].clone()
        } else if self.is_in_the_way(&key, link.mark) {
            return;
        } else {
            let down = Link { up: false, mark: Mark::Group, ..link.clone() };
            self.step(link.mark, Action::CreateIfb { device: name.clone(), link: down.clone() });
            down
        };
        self.link_sysctls(&key, link.mark);
        self.limit(&key, link.mark);
        self.change(&key, &have, link);
    }

    /// What a link of the host may send, and the way of what it receives.
    fn limit(&mut self, key: &(Stack, IfName), mark: Mark) {
        let (have, want, device) = (self.have, self.want, &key.1);
        let kept = self.link_stays(key);
        let limits = (have.limits.get(device).filter(|_| kept), want.limits.get(device));
        match limits {
            (have, Some(want)) if have != Some(want) => {
                // A frame that waits and is larger than the new bucket would never leave, nor would those behind it.
                if have.is_some_and(|have| have.burst() > want.burst()) {
                    self.step(mark, Action::ClearLimit { device: device.clone() });
                }
                self.step(mark, Action::SetLimit { device: device.clone(), limit: *want });
            }
            (Some(_), None) => self.step(mark, Action::ClearLimit { device: device.clone() }),
            (_, Some(_)) | (None, None) => {}
        }
        let Some(through) = want.detours.get(device) else { return };
        let queue = (Stack::Host, through.clone());
        let stays = kept && have.detours.get(device) == Some(through) && self.link_stays(&queue);
        if !stays {
            self.step(mark, Action::SetDetour { device: device.clone(), through: through.clone() });
        }
    }

    fn add_cable(&mut self, near: &(Stack, IfName), far: &(Stack, IfName)) {
        let want = self.want;
        let (Some(near_end), Some(far_end)) = (want.links.get(near), want.links.get(far)) else { return };
        let ends = [(near, near_end), (far, far_end)];
        let fresh = !self.link_stays(near);
        if fresh {
            if ends.iter().any(|(key, link)| self.is_in_the_way(key, link.mark)) {
                return;
            }
            self.use_master(near_end);
            let [near, far] = ends.map(|((stack, name), link)| End {
                stack: stack.clone(),
                name: name.clone(),
                link: link.clone(),
            });
            self.step(near_end.mark, Action::CreateCable { near, far });
        } else if self.have.links[near].master != near_end.master {
            self.use_master(near_end);
        }
        let down = |link: &Link| Link { up: false, hairpin: false, mark: Mark::Group, ..link.clone() };
        for (key, link) in ends {
            let have = if fresh { down(link) } else { self.have.links[key].clone() };
            self.link_sysctls(key, link.mark);
            if key.0 == Stack::Host {
                self.limit(key, link.mark);
            }
            self.addresses(key, link.mark);
            self.change(key, &have, link);
        }
        // Once both are up: before that, IPv6 has no way to any gateway.
        self.routes_through(near);
        self.routes_through(far);
        // Neighbours on a network may remember who had the address before.
        let new = |address: &&Address| fresh || !self.have.addresses.contains_key(*address);
        let announced: Vec<Address> = if near_end.master.is_some() {
            addresses_on(&want.addresses, far).map(|(address, _)| address).filter(new).cloned().collect()
        } else {
            Vec::new()
        };
        for address in announced {
            self.step(far_end.mark, Action::Announce(address));
        }
    }

    fn use_master(&mut self, port: &Link) {
        if let Some(bridge) = port.master.as_ref().filter(|bridge| self.want.borrowed.contains_key(*bridge)) {
            self.step(port.mark, Action::UseBridge { device: bridge.clone(), keep_mac: false });
        }
    }

    /// Whether a stranger's link has the name; then it is said.
    fn is_in_the_way(&mut self, key: &(Stack, IfName), of: Mark) -> bool {
        let in_the_way = self.have.links.get(key).is_some_and(|link| !link.mark.is_ours());
        if in_the_way {
            let (stack, name) = key;
            self.conflict(
                of,
                match stack {
                    Stack::Host => format!("a device {name} exists on the host and was not made by netloom"),
                    Stack::Namespace(_) => {
                        format!("{stack} already has an interface {name}, not made by netloom")
                    }
                },
            );
        }
        in_the_way
    }

    fn change(&mut self, key: &(Stack, IfName), have: &Link, want: &Link) {
        let Link { mark, kind: _, mac: _, mtu, up, master, hairpin } = want;
        let alias = match mark {
            Mark::Object(uid) if have.mark != *mark => Some(*uid),
            Mark::Object(_) | Mark::Group | Mark::Foreign => None,
        };
        let change = LinkChange {
            up: (have.up != *up).then_some(*up),
            mtu: (have.mtu != *mtu).then_some(*mtu),
            master: (have.master != *master).then(|| master.clone()),
            hairpin: (have.hairpin != *hairpin || (have.master != *master && *hairpin)).then_some(*hairpin),
            alias,
        };
        if change != LinkChange::default() {
            self.step(*mark, Action::SetLink { stack: key.0.clone(), link: key.1.clone(), change });
        }
    }

    /// New addresses first: losing the last one of a subnet also loses its routes. Losing the first one would take the
    /// others along, so they are to be promoted.
    fn addresses(&mut self, key: &(Stack, IfName), mark: Mark) {
        let (have, want) = (self.have, self.want);
        let kept = self.link_stays(key);
        let exists = |address: &Address| kept && have.addresses.contains_key(address);
        let wanted = || addresses_on(&want.addresses, key).map(|(address, _)| address);
        for address in wanted().filter(|address| !exists(address)) {
            self.step(mark, Action::AddAddress(address.clone()));
        }
        if !kept {
            return;
        }
        let here = || addresses_on(&have.addresses, key);
        let doomed: Vec<&Address> = here()
            .filter(|(address, owner)| owner.is_ours() && !want.addresses.contains_key(address))
            .map(|(address, _)| address)
            .collect();
        let survives = |gone: &Address| {
            let stays = wanted().chain(here().map(|(address, _)| address));
            stays.into_iter().any(|other| !doomed.contains(&other) && gone.shares_subnet(other))
        };
        if doomed.iter().any(|gone| gone.net.addr().is_ipv4() && survives(gone)) {
            let sysctl = Sysctl::PromoteSecondaries(key.1.clone());
            self.step(mark, Action::SetSysctl { stack: key.0.clone(), sysctl, value: "1".into() });
        }
        for address in doomed {
            self.step(mark, Action::DeleteAddress(address.clone()));
        }
    }

    /// Whether a link of ours is there, and what `have` says of it still holds when steps come to it.
    fn link_stays(&self, key: &(Stack, IfName)) -> bool {
        self.have.links.get(key).is_some_and(|link| link.mark.is_ours()) && !self.goes(key)
    }

    /// Before the link is up, so that the kernel never makes addresses of its own.
    fn link_sysctls(&mut self, key: &(Stack, IfName), mark: Mark) {
        let (have, stack) = (self.have, &key.0);
        let kept = self.link_stays(key);
        for (sysctl, value) in self.by_link.sysctls.get(key).cloned().unwrap_or_default() {
            if !kept || have.sysctls.get(&(stack.clone(), sysctl.clone())) != Some(value) {
                let (stack, sysctl, value) = (stack.clone(), sysctl.clone(), value.clone());
                self.step(mark, Action::SetSysctl { stack, sysctl, value });
            }
        }
    }

    /// What callers set in their namespaces, but for links of ours: before those come. What is for all goes before what is
    /// for one, because the former writes the latter.
    fn namespace_sysctls(&mut self) {
        let (have, want) = (self.have, self.want);
        let is_for_one = |sysctl: &Sysctl| match sysctl {
            Sysctl::Named { key, .. } => (!key.path().ends_with("/ip_forward"), key.interface().is_some()),
            _ => (true, true),
        };
        let mut todo: Vec<_> = want
            .sysctls
            .iter()
            .filter(|((stack, sysctl), value)| {
                let of_ours =
                    sysctl.link().is_some_and(|link| want.links.contains_key(&(stack.clone(), link.clone())));
                *stack != Stack::Host
                    && !of_ours
                    && have.sysctls.get(&(stack.clone(), sysctl.clone())) != Some(*value)
            })
            .collect();
        todo.sort_by_key(|((_, sysctl), _)| is_for_one(sysctl));
        for ((stack, sysctl), value) in todo {
            let mark = self.owner(stack);
            let (stack, sysctl, value) = (stack.clone(), sysctl.clone(), value.clone());
            self.step(mark, Action::SetSysctl { stack, sysctl, value });
        }
    }

    /// Whose a stack is, or was.
    fn owner(&self, stack: &Stack) -> Mark {
        let Stack::Namespace(name) = stack else { return Mark::Foreign };
        let adopted = self.want.adopted.get(name).or_else(|| self.have.adopted.get(name));
        let managed = || self.want.namespaces.get(name).copied();
        adopted.map(|adopted| Mark::Object(adopted.uid)).or_else(managed).unwrap_or(Mark::Foreign)
    }

    /// Switches of links that are not ours: forwarding on the uplinks.
    fn add_host_sysctls(&mut self) {
        let (have, want) = (self.have, self.want);
        for ((stack, sysctl), value) in &want.sysctls {
            let of_ours =
                sysctl.link().is_some_and(|link| want.links.contains_key(&(stack.clone(), link.clone())));
            if *stack == Stack::Host
                && !of_ours
                && have.sysctls.get(&(stack.clone(), sysctl.clone())) != Some(value)
            {
                let (stack, sysctl, value) = (stack.clone(), sysctl.clone(), value.clone());
                self.plan.steps.push(Step::of_host(Action::SetSysctl { stack, sysctl, value }));
            }
        }
    }
}

/// The addresses on one link: neighbours in the order of addresses.
fn addresses_on<'m>(
    addresses: &'m BTreeMap<Address, Mark>,
    (stack, link): &(Stack, IfName),
) -> impl Iterator<Item = (&'m Address, &'m Mark)> + use<'m> {
    let first = Address { stack: stack.clone(), link: link.clone(), net: IpNet::V4(Ipv4Net::default()) };
    let (stack, link) = (stack.clone(), link.clone());
    addresses.range(first..).take_while(move |(address, _)| address.stack == stack && address.link == link)
}

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
