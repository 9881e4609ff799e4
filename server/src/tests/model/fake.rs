//! The host as [`HostNet::apply`] has it, with things of strangers in it.

use std::sync::{Mutex, MutexGuard};

use netloom_api::IfName;

use crate::{
    hostnet::{
        Action, Address, Facts, Failure, FailureSort, HostNet, Link, LinkKind, Mark, Outcome, Part, Stack,
        Step, Sysctl,
        rules::{Element, Rules, Skeleton, is_notransit},
    },
    reconcile::Host,
    want::{HostFacts, Uplink},
};

/// A model of a kernel, that refuses a step or dies when it is told to.
pub(in crate::tests) struct Fake {
    net: Mutex<HostNet>,
    plot: Mutex<Plot>,
}

/// What is to go wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plot {
    /// The step that is refused; steps are counted down.
    pub(super) refuse: Option<u8>,
    /// The step before which the daemon dies: nothing is done any more.
    pub(super) die: Option<u8>,
}

impl Fake {
    pub(in crate::tests) fn new() -> Self {
        Self { net: Mutex::new(strangers()), plot: Mutex::default() }
    }

    pub(super) fn net(&self) -> MutexGuard<'_, HostNet> {
        self.net.lock().unwrap()
    }

    pub(super) fn plot(&self, plot: Plot) {
        *self.plot.lock().unwrap() = plot;
    }

    fn take(&self, step: &Step) -> Outcome {
        let mut plot = self.plot.lock().unwrap();
        if plot.die == Some(0) {
            return Outcome::Failed(failure("the daemon is dead", FailureSort::Passing));
        }
        plot.die = plot.die.map(|left| left - 1);
        let is_refused = plot.refuse == Some(0);
        plot.refuse = plot.refuse.and_then(|left| left.checked_sub(1));
        if is_refused {
            return Outcome::Failed(failure("not now", FailureSort::Passing));
        }
        let mut net = self.net();
        match what_linux_says(&net, step) {
            Answer::Does => net.apply(step),
            Answer::IsSo => {}
            Answer::Refuses(refusal) => return Outcome::Failed(refusal),
        }
        Outcome::Done(Facts::default())
    }
}

impl Host for Fake {
    fn apply(&self, steps: &[Step]) -> Vec<Outcome> {
        let mut failed = std::collections::BTreeSet::new();
        let take = |step: &Step| {
            if step.uid.is_some_and(|uid| failed.contains(&uid)) {
                return Outcome::Skipped;
            }
            let outcome = self.take(step);
            if matches!(outcome, Outcome::Failed(_)) {
                failed.extend(step.uid);
            }
            outcome
        };
        steps.iter().map(take).collect()
    }

    fn observe(&self) -> Result<HostNet, String> {
        let mut net = self.net().clone();
        // Nobody asks for it.
        net.sysctls.retain(|(_, sysctl), _| !matches!(sysctl, Sysctl::PromoteSecondaries(_)));
        Ok(net)
    }

    fn observe_part(&self, _: &Part) -> Result<HostNet, String> {
        self.observe()
    }

    fn rules(&self) -> Result<Rules, String> {
        Ok(self.net().rules.clone())
    }

    fn facts(&self) -> Result<HostFacts, String> {
        let net = self.net();
        let uplink: IfName = "eth0".parse().unwrap();
        let is_on = |sysctl| net.sysctls.get(&(Stack::Host, sysctl)).is_some_and(|value| value == "1");
        let guards = |element: &Element| is_notransit(element) && *element == Element::notransit("eth0");
        let eth0 = Uplink {
            forwarding4: is_on(Sysctl::Forwarding4(uplink.clone())),
            forwarding6: is_on(Sysctl::ForceForwarding6(uplink.clone())),
            ipv6: true,
            guarded: net.rules.elements.iter().any(guards),
        };
        Ok(HostFacts { uplinks: [(uplink, eth0)].into(), ..HostFacts::default() })
    }
}

/// A host with links, addresses and a namespace of its own.
pub(super) fn strangers() -> HostNet {
    let mut net = HostNet::default();
    let link = |kind: LinkKind| Link {
        mark: Mark::Foreign,
        kind,
        mac: None,
        mtu: 1500,
        up: true,
        master: None,
        hairpin: false,
    };
    for (name, kind, address) in [
        ("eth0", LinkKind::Other("dummy".into()), "192.0.2.1/24"),
        ("br-own", LinkKind::Bridge, "198.51.100.1/24"),
    ] {
        let name: IfName = name.parse().unwrap();
        net.links.insert((Stack::Host, name.clone()), link(kind));
        let address = Address { stack: Stack::Host, link: name, net: address.parse().unwrap() };
        net.addresses.insert(address, Mark::Foreign);
    }
    net.namespaces.insert("theirs".parse().unwrap(), Mark::Foreign);
    net
}

/// What a link in one of our namespaces is that a stranger has made.
pub(super) fn link_of_stranger() -> Link {
    let kind = LinkKind::Other("dummy".into());
    Link { mark: Mark::Foreign, kind, mac: None, mtu: 1500, up: false, master: None, hairpin: false }
}

enum Answer {
    Does,
    IsSo,
    Refuses(Failure),
}

fn failure(message: &str, sort: FailureSort) -> Failure {
    Failure { errno: None, message: message.into(), sort }
}

/// Whether Linux does it.
fn what_linux_says(net: &HostNet, step: &Step) -> Answer {
    let surprise = |what: &str| Answer::Refuses(failure(what, FailureSort::Surprise));
    let has_stack = |stack: &Stack| match stack {
        Stack::Host => true,
        Stack::Namespace(name) => net.namespaces.get(name).is_some_and(|mark| mark.is_ours()),
    };
    let has = |stack: &Stack, link: &IfName| net.links.contains_key(&(stack.clone(), link.clone()));
    let gone = || surprise("there is no namespace");
    match &step.action {
        Action::CreateNamespace { name, uid } => match net.namespaces.get(name) {
            None => Answer::Does,
            Some(mark) if mark.is_of(*uid) => Answer::IsSo,
            Some(_) => surprise("somebody else's namespace"),
        },
        Action::CreateBridge { device, link: _ } | Action::CreateIfb { device, link: _ } => {
            if has(&Stack::Host, device) { surprise("EEXIST") } else { Answer::Does }
        }
        Action::CreateCable { near, far } => {
            if !has_stack(&near.stack) || !has_stack(&far.stack) {
                return gone();
            }
            let no_master = |bridge: &IfName| !has(&Stack::Host, bridge);
            if near.link.master.as_ref().is_some_and(no_master) {
                return surprise("there is no bridge");
            }
            let taken = has(&near.stack, &near.name) || has(&far.stack, &far.name);
            if taken { surprise("EEXIST") } else { Answer::Does }
        }
        Action::SetLink { stack, link, change } => {
            if !has_stack(stack) {
                return gone();
            }
            let no_master =
                |master: &Option<IfName>| master.as_ref().is_some_and(|bridge| !has(&Stack::Host, bridge));
            if change.master.as_ref().is_some_and(no_master) || !has(stack, link) {
                return surprise("ENODEV");
            }
            Answer::Does
        }
        Action::AddAddress(Address { stack, link, net: _ }) => match (has_stack(stack), has(stack, link)) {
            (false, _) => gone(),
            (true, false) => surprise("ENODEV"),
            (true, true) => Answer::Does,
        },
        Action::AddRoute(route) | Action::ReplaceRoute(route) => {
            if !has_stack(&route.stack) {
                return gone();
            }
            let Some(link) = route.link() else { return Answer::Does };
            match net.links.get(&(route.stack.clone(), link.clone())) {
                None => surprise("ENODEV"),
                Some(link) if !link.up => Answer::Refuses(failure("ENETDOWN", FailureSort::Passing)),
                Some(_) => Answer::Does,
            }
        }
        Action::SetLimit { device, limit: _ } | Action::SetDetour { device, through: _ } => {
            if has(&Stack::Host, device) { Answer::Does } else { surprise("ENODEV") }
        }
        Action::SetSysctl { stack, sysctl, value: _ } => {
            if !has_stack(stack) {
                return gone();
            }
            // A link that is gone has nothing to switch; the steps about the link find that.
            if sysctl.link().is_some_and(|link| !has(stack, link)) { Answer::IsSo } else { Answer::Does }
        }
        // The firewall is whole or it is not there.
        Action::PutChain(..) | Action::RemoveRule(_) | Action::AddRule(_) | Action::RemoveChain(_)
            if net.rules.skeleton != Skeleton::Present =>
        {
            surprise("ENOENT")
        }
        Action::InstallRules { .. }
        | Action::PutChain(..)
        | Action::RemoveRule(_)
        | Action::AddRule(_)
        | Action::RemoveChain(_) => Answer::Does,
        // What is gone already is gone.
        Action::DeleteNamespace { .. }
        | Action::Release { .. }
        | Action::Adopt { .. }
        | Action::DeleteLink { .. }
        | Action::DeleteAddress(_)
        | Action::DeleteRoute(_)
        | Action::ClearLimit { .. }
        | Action::ClearDetour { .. }
        | Action::UseBridge { .. }
        | Action::Announce(_)
        | Action::Forget(_) => Answer::Does,
    }
}
