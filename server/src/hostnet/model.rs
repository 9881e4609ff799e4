//! What Linux does with a step: the step itself, and what follows from it unasked.
//!
//! The rules, each seen on Linux 6.18: a link that goes takes its addresses, routes and switches with it; a bridge that
//! goes frees its ports; one end of a cable that goes takes the other; a namespace that dies takes all that is in it;
//! a link that goes takes its limit with it, and a queue that goes ends the detours through it;
//! a link that goes down loses its IPv6 addresses and all of its routes; the first IPv4 address of a subnet takes the
//! others with it, unless they may be promoted; a link that loses its last IPv4 address loses its IPv4 routes, while
//! IPv6 routes stay, and so does a route whose gateway's subnet goes when another address is left. Routes that go
//! nowhere need no link.
//! Where IPv6 is switched off, its addresses and routes go.

use netloom_api::IfName;

use super::{
    Action, Address, End, HostNet, Link, LinkChange, LinkKind, Mark, Stack, Step, Sysctl, rules::Skeleton,
};

impl HostNet {
    /// The host after the step.
    pub fn apply(&mut self, step: &Step) {
        let mark = step.uid.map_or(Mark::Group, Mark::Object);
        match &step.action {
            Action::CreateNamespace { name, uid } => {
                self.namespaces.insert(name.clone(), Mark::Object(*uid));
            }
            Action::DeleteNamespace { name } => {
                self.namespaces.remove(name);
                self.drop_stack(&Stack::Namespace(name.clone()));
            }
            Action::Adopt { name, adopted } => {
                self.adopted.insert(name.clone(), *adopted);
            }
            Action::Release { name } => {
                self.adopted.remove(name);
            }
            Action::CreateBridge { device, link } | Action::CreateIfb { device, link } => {
                self.links.insert((Stack::Host, device.clone()), link.clone());
            }
            Action::CreateCable { near, far } => {
                for End { stack, name, link } in [near, far] {
                    let made = Link { up: false, hairpin: false, ..link.clone() };
                    self.links.insert((stack.clone(), name.clone()), made);
                }
            }
            Action::SetLink { stack, link, change } => self.change_link(stack, link, change),
            Action::DeleteLink { stack, link } => self.drop_link(stack, link),
            Action::AddAddress(address) => {
                self.addresses.insert(address.clone(), mark);
            }
            Action::DeleteAddress(address) => {
                self.addresses.remove(address);
                self.drop_secondaries(address);
                self.drop_without_address(&address.stack, &address.link);
            }
            Action::AddRoute(route) => {
                self.routes.insert(route.clone(), mark);
            }
            Action::ReplaceRoute(route) => {
                self.routes.retain(|other, _| other.place() != route.place());
                self.routes.insert(route.clone(), mark);
            }
            Action::DeleteRoute(route) => {
                self.routes.remove(route);
            }
            Action::SetLimit { device, limit } => {
                self.limits.insert(device.clone(), *limit);
            }
            Action::ClearLimit { device } => {
                self.limits.remove(device);
            }
            Action::SetDetour { device, through } => {
                self.detours.insert(device.clone(), through.clone());
            }
            Action::ClearDetour { device } => {
                self.detours.remove(device);
            }
            Action::SetSysctl { stack, sysctl, value } => {
                if let (Sysctl::DisableIpv6(link), "1") = (sysctl, value.as_str()) {
                    self.drop_ipv6(stack, link);
                }
                self.sysctls.insert((stack.clone(), sysctl.clone()), value.clone());
            }
            Action::InstallRules { chains } => {
                if matches!(self.rules.skeleton, Skeleton::Absent | Skeleton::Outdated) {
                    self.rules.chains = chains.clone();
                }
                self.rules.skeleton = Skeleton::Present;
            }
            Action::PutChain(name, chain) => drop(self.rules.chains.insert(name.clone(), chain.clone())),
            Action::RemoveChain(name) => drop(self.rules.chains.remove(name)),
            Action::RemoveRule(element) => {
                self.rules.elements.remove(element);
            }
            Action::AddRule(element) => {
                self.rules.elements.insert(element.clone());
            }
            Action::UseBridge { .. } | Action::Announce(_) | Action::Forget(_) => {}
        }
    }

    fn change_link(&mut self, stack: &Stack, name: &IfName, change: &LinkChange) {
        let Some(link) = self.links.get_mut(&(stack.clone(), name.clone())) else { return };
        let LinkChange { up, mtu, master, hairpin, alias } = change;
        if let Some(uid) = alias {
            link.mark = Mark::Object(*uid);
        }
        if let Some(mtu) = mtu {
            link.mtu = *mtu;
        }
        if let Some(master) = master {
            link.master = master.clone();
            link.hairpin &= master.is_some();
        }
        if let Some(hairpin) = hairpin {
            link.hairpin = *hairpin;
        }
        if let Some(up) = up {
            let goes_down = link.up && !up;
            link.up = *up;
            if goes_down {
                let here = |other: &Stack, link: &IfName| other == stack && link == name;
                self.routes.retain(|route, _| !route.is_through(stack, name));
                self.addresses.retain(|address, _| {
                    !here(&address.stack, &address.link) || address.net.addr().is_ipv4()
                });
            }
        }
    }

    /// Which address was first is not known here, so any may have been.
    fn drop_secondaries(&mut self, gone: &Address) {
        let Address { stack, link, net } = gone;
        let promotes = (stack.clone(), Sysctl::PromoteSecondaries(link.clone()));
        if net.addr().is_ipv6() || self.sysctls.get(&promotes).is_some_and(|value| value == "1") {
            return;
        }
        self.addresses.retain(|other, _| !gone.shares_subnet(other));
    }

    /// Without any IPv4 address a link has no IPv4 routes either.
    fn drop_without_address(&mut self, stack: &Stack, link: &IfName) {
        let v4 = |net: &ipnet::IpNet| net.addr().is_ipv4();
        let here = |address: &Address| address.stack == *stack && address.link == *link && v4(&address.net);
        if !self.addresses.keys().any(here) {
            self.routes.retain(|route, _| !(route.is_through(stack, link) && v4(&route.destination)));
        }
    }

    fn drop_ipv6(&mut self, stack: &Stack, name: &IfName) {
        let here = |address: &Address| address.stack == *stack && address.link == *name;
        self.addresses.retain(|address, _| !here(address) || address.net.addr().is_ipv4());
        let v4 = |route: &super::Route| route.destination.addr().is_ipv4();
        self.routes.retain(|route, _| !route.is_through(stack, name) || v4(route));
    }

    fn drop_link(&mut self, stack: &Stack, name: &IfName) {
        let Some(link) = self.links.remove(&(stack.clone(), name.clone())) else { return };
        let here = |other: &Stack, link: &IfName| other == stack && link == name;
        self.addresses.retain(|address, _| !here(&address.stack, &address.link));
        self.routes.retain(|route, _| !route.is_through(stack, name));
        self.sysctls.retain(|(other, sysctl), _| !sysctl.link().is_some_and(|link| here(other, link)));
        if *stack == Stack::Host {
            self.limits.remove(name);
            self.detours.retain(|device, through| device != name && through != name);
        }
        match link.kind {
            LinkKind::Bridge => {
                let ports = self.links.values_mut().filter(|port| port.master.as_ref() == Some(name));
                for port in ports {
                    (port.master, port.hairpin) = (None, false);
                }
            }
            LinkKind::Veth { peer: Some((stack, peer)) } => self.drop_link(&stack, &peer),
            LinkKind::Veth { peer: None } | LinkKind::Ifb | LinkKind::Other(_) => {}
        }
    }

    fn drop_stack(&mut self, stack: &Stack) {
        let inside: Vec<IfName> =
            self.links.keys().filter(|(other, _)| other == stack).map(|(_, name)| name.clone()).collect();
        for name in inside {
            self.drop_link(stack, &name);
        }
        self.routes.retain(|route, _| route.stack != *stack);
        self.sysctls.retain(|(other, _), _| other != stack);
    }
}
