//! Why a packet does not arrive, or that it does: the checklist of people who debug namespaces by hand, walked from the
//! sender outward.
//!
//! Pure: verdicts over the World (what should be) and [`Seen`] (what is). Every check says what was looked at, what was
//! found and what to do about it. What cannot be seen from here is said to be so, and never taken for good. The order of
//! the checks is the order of the way, so that the first one that fails is the cause and not a consequence.

mod arrive;
mod end;
mod filter;
mod foreign;
mod path;
mod policy;
mod route;
pub mod seen;
#[cfg(test)]
mod tests;
mod wire;

use std::{collections::BTreeSet, net::IpAddr};

use netloom_api::{
    Attachment, Check, CheckId, CheckStatus, Condition, ConditionStatus, DiagnoseProtocol, DiagnoseRequest,
    DiagnoseResponse, End, Finding, Kind, Link, Name, Namespace, Network, PortForward, Protocol, Uid,
};

use crate::{
    hostnet::{Mark, Stack},
    want::Surroundings,
    world::{Stored, World},
};
use end::Side;
use foreign::Passage;
use seen::{Here, Line, Look, Seen};
use wire::Wire;

/// More namespaces than this are not searched for the holder of an address.
const SEARCHED_MAX: usize = 256;

/// What a diagnosis is made from.
pub struct Facts<'a> {
    /// What should be.
    pub world: &'a World,
    /// What is.
    pub seen: &'a Seen,
    /// What else the want depends on.
    pub around: &'a Surroundings,
    /// What is known of the objects' health.
    pub ready: &'a dyn Fn(&Uid) -> Option<Condition>,
}

/// What came of it.
pub struct Diagnosis {
    /// In the order of the way.
    pub checks: Vec<Check>,
    /// Stacks that must be looked at, too, before this is worth anything.
    pub wants: BTreeSet<Stack>,
    /// How to try it, if the sender can be made to send.
    pub probe: Option<ProbePlan>,
}

/// What a live probe sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePlan {
    /// From where.
    pub stack: Stack,
    /// By this address of it.
    pub source: Option<IpAddr>,
    /// To whom.
    pub target: IpAddr,
    /// What.
    pub protocol: DiagnoseProtocol,
    /// To which port.
    pub port: Option<u16>,
}

/// The stacks to look at first.
pub fn stacks_of(world: &World, request: &DiagnoseRequest) -> BTreeSet<Stack> {
    let mut stacks = BTreeSet::from([Stack::Host]);
    for end in [&request.from, &request.to] {
        let attachment = match end {
            End::Namespace(name) => {
                stacks.insert(stack_of(name));
                None
            }
            End::Attachment(name) => attachment_of(world, name),
            End::PortForward(name) => {
                let forward = world.get::<PortForward>(name);
                forward.and_then(|forward| attachment_of(world, &forward.spec.target.attachment))
            }
            End::Address(address) => holder_of(world, *address),
            End::Host(_) => None,
        };
        stacks.extend(attachment.map(|attachment| stack_of(&attachment.spec.namespace)));
    }
    stacks
}

/// Walks the way. The time of one that is not blocked by anything is that of a few lookups.
pub fn diagnose(facts: &Facts<'_>, request: &DiagnoseRequest) -> Diagnosis {
    let mut walk = Walk::new(facts, request);
    walk.all();
    let Walk { mut checks, wants, probe, .. } = walk;
    checks.dedup();
    Diagnosis { checks, wants, probe }
}

/// The answer, from the checks.
pub fn conclude(checks: Vec<Check>) -> DiagnoseResponse {
    let failed = || checks.iter().filter(|check| check.status == CheckStatus::Fail);
    let answered = checks.iter().any(|check| check.id == CheckId::Probe && check.status == CheckStatus::Pass);
    let unsure = checks.iter().any(|check| check.status == CheckStatus::Skip && matters(check.id));
    let verdict = if answered {
        Finding::Reachable
    } else if failed().any(|check| stops(check.id)) {
        Finding::Unreachable
    } else if failed().next().is_some() || unsure {
        Finding::Unknown
    } else {
        Finding::Reachable
    };
    DiagnoseResponse { verdict, cause: failed().next().map(|check| check.id), checks }
}

/// Whether a failure of this check surely stops packets. The others only stop some, or tell of something else.
fn stops(id: CheckId) -> bool {
    !matches!(id, CheckId::Firewall | CheckId::Mtu | CheckId::Status)
}

/// Whether nothing can be said of the whole when this could not be told.
fn matters(id: CheckId) -> bool {
    !matches!(
        id,
        CheckId::Outside | CheckId::Probe | CheckId::Status | CheckId::Neighbour | CheckId::ToListening
    )
}

/// One end, resolved.
#[derive(Clone, Debug, Default)]
struct Party<'a> {
    /// Where it is; none: outside of this host.
    stack: Option<Stack>,
    attachment: Option<&'a Stored<Attachment>>,
    /// The end of a Link that leads straight to the other party.
    wire: Option<Wire<'a>>,
    /// The address that was named.
    address: Option<IpAddr>,
}

/// A walk in progress.
struct Walk<'a> {
    world: &'a World,
    seen: &'a Seen,
    around: &'a Surroundings,
    ready: &'a dyn Fn(&Uid) -> Option<Condition>,
    request: &'a DiagnoseRequest,
    protocol: DiagnoseProtocol,
    port: Option<u16>,
    forward: Option<&'a Stored<PortForward>>,
    checks: Vec<Check>,
    wants: BTreeSet<Stack>,
    probe: Option<ProbePlan>,
    /// Whose firewalls the packet passes.
    passages: Vec<Passage>,
    /// The devices on the way, one list per link layer segment, the sending one first.
    segments: Vec<Vec<(Stack, String)>>,
    /// Where the packet was made, when that is on this host.
    sender: Option<Stack>,
    through_host: bool,
}

impl<'a> Walk<'a> {
    fn new(facts: &Facts<'a>, request: &'a DiagnoseRequest) -> Self {
        let world = facts.world;
        let forward = match &request.to {
            End::PortForward(name) => world.get::<PortForward>(name).map(|forward| &**forward),
            End::Namespace(_) | End::Attachment(_) | End::Host(_) | End::Address(_) => None,
        };
        let of_forward = forward.map(|forward| match forward.spec.protocol {
            Protocol::Tcp => DiagnoseProtocol::Tcp,
            Protocol::Udp => DiagnoseProtocol::Udp,
            Protocol::Sctp => DiagnoseProtocol::Sctp,
        });
        let port = request.port.or(forward.map(|forward| forward.listen().port));
        let usual = if port.is_some() { DiagnoseProtocol::Tcp } else { DiagnoseProtocol::Icmp };
        Self {
            world,
            seen: facts.seen,
            around: facts.around,
            ready: facts.ready,
            request,
            protocol: request.protocol.or(of_forward).unwrap_or(usual),
            port,
            forward,
            checks: Vec::new(),
            wants: BTreeSet::new(),
            probe: None,
            passages: Vec::new(),
            segments: Vec::new(),
            sender: None,
            through_host: false,
        }
    }

    fn all(&mut self) {
        let to = self.party(&self.request.to, None);
        let from = self.party(&self.request.from, to.attachment);
        // Seen from the sender, another Attachment of the target may be nearer.
        let to = self.party(&self.request.to, from.attachment);
        let (from, to) = self.over_a_link(from, to);
        self.sender = from.stack.clone();
        let target = self.target(&from, &to);
        let via_host = !self.same_network(&from, &to, target);
        let ipv6 = target.is_some_and(|target| target.is_ipv6());
        let starts = self.end(Side::From, &from, None, ipv6, via_host);
        self.firewall();
        let guarded = starts && self.guard(Side::From, &from, ipv6);
        let member = match self.forward {
            Some(forward) => self.member(&forward.spec.target.attachment),
            None => to.clone(),
        };
        let six = if self.forward.is_some() { ipv6 && self.has_family(&member, true) } else { ipv6 };
        let exact = if self.forward.is_some() { None } else { target };
        let Some(target) = target else {
            self.no_target(&to);
            self.end(Side::To, &member, None, six, via_host);
            return self.rest(&[&from, &member]);
        };
        // The host reaches a network by its bridge: that is the target's end, and the route follows from it.
        let from_host = from.stack == Some(Stack::Host);
        let mut ends = from_host && self.both_of(&member, exact, six, via_host);
        if starts && guarded {
            self.first_route(&from, target);
        }
        let leaves = !self.has_failed();
        ends |= !from_host && self.both_of(&member, exact, six, via_host);
        self.publish(&member);
        if leaves && ends && !self.has_failed() {
            self.walk(&from, target);
        }
        self.rest(&[&from, &member]);
    }

    /// The target's end, and what the guard makes of its answers.
    fn both_of(&mut self, member: &Party<'a>, exact: Option<IpAddr>, ipv6: bool, via_host: bool) -> bool {
        self.end(Side::To, member, exact, ipv6, via_host) && self.guard(Side::To, member, ipv6)
    }

    /// What is asked whatever came before.
    fn rest(&mut self, parties: &[&Party<'a>]) {
        self.foreign();
        self.mtu();
        self.conntrack();
        self.status(parties);
    }

    // ------------------------------------------------------------------------------------------------ who is meant

    fn party(&self, end: &End, other: Option<&Stored<Attachment>>) -> Party<'a> {
        match end {
            End::Namespace(name) => Party {
                stack: Some(stack_of(name)),
                attachment: self.attachment_in(name, other),
                ..Party::default()
            },
            End::Attachment(name) => self.member(name),
            End::Host(_) | End::PortForward(_) => Party { stack: Some(Stack::Host), ..Party::default() },
            End::Address(address) => self.party_at(*address),
        }
    }

    fn member(&self, name: &Name) -> Party<'a> {
        let attachment = self.world.get::<Attachment>(name).map(|attachment| &**attachment);
        Party {
            stack: attachment.map(|attachment| stack_of(&attachment.spec.namespace)),
            attachment,
            ..Party::default()
        }
    }

    /// Whoever has an address: by the World, then by what was seen.
    fn party_at(&self, address: IpAddr) -> Party<'a> {
        let address_of = Some(address);
        if let Some(attachment) = holder_of(self.world, address) {
            let stack = Some(stack_of(&attachment.spec.namespace));
            return Party { stack, attachment: Some(attachment), address: address_of, ..Party::default() };
        }
        let holds = |stack: &&Stack| {
            self.seen.here(stack).is_some_and(|here| here.holder(address).is_some() && !address.is_loopback())
        };
        let stack = match self.seen.stacks.keys().find(holds) {
            Some(stack) => Some(stack.clone()),
            None if address.is_loopback() => Some(Stack::Host),
            None => None,
        };
        Party { stack, address: address_of, ..Party::default() }
    }

    /// The Attachment of a Namespace that is on the other's network, else the one with the best default route, else
    /// the first.
    fn attachment_in(
        &self,
        namespace: &Name,
        other: Option<&Stored<Attachment>>,
    ) -> Option<&'a Stored<Attachment>> {
        let all = self.world.attachments_in(namespace).filter_map(|name| self.world.get::<Attachment>(name));
        let all: Vec<&'a Stored<Attachment>> = all.map(|attachment| &**attachment).collect();
        let near =
            |one: &&&'a Stored<Attachment>| other.is_some_and(|other| other.spec.network == one.spec.network);
        let rank = |one: &&&'a Stored<Attachment>| {
            (!one.alloc.default_route, one.alloc.metric, one.meta.name.clone())
        };
        all.iter().find(near).or_else(|| all.iter().min_by_key(rank)).copied()
    }

    /// The address that the packet is sent to.
    fn target(&self, from: &Party<'_>, to: &Party<'_>) -> Option<IpAddr> {
        if self.request_is_forward() && self.forward.is_none() {
            return None;
        }
        if let Some(address) = to.address {
            return Some(address);
        }
        if let Some(address) = self.forward.and_then(|forward| forward.spec.listen.address) {
            return Some(address);
        }
        let wanted = to.wire.map(|wire| wire.addresses().collect());
        let wanted =
            wanted.or(to.attachment.map(|one| one.alloc.addresses.iter().map(|net| net.0.addr()).collect()));
        let choices: Vec<IpAddr> = match (wanted, &to.stack) {
            (Some(addresses), _) => addresses,
            (None, Some(Stack::Host)) => self.host_addresses(from),
            (None, Some(stack)) => self.global_addresses(stack),
            (None, None) => Vec::new(),
        };
        let fits = |address: &&IpAddr| match from.address {
            Some(own) => own.is_ipv4() == address.is_ipv4(),
            None if from.attachment.is_none() && from.wire.is_none() => true,
            None => self.has_family(from, address.is_ipv6()),
        };
        choices.iter().find(fits).or(choices.first()).copied()
    }

    /// Where the host is best reached from there: on the sender's own network, on the LAN, at last by loopback.
    fn host_addresses(&self, from: &Party<'_>) -> Vec<IpAddr> {
        if let Some(network) = from.attachment.and_then(|one| self.network_of(one)) {
            return network.alloc.subnets.iter().map(|subnet| subnet.gateway).collect();
        }
        let all = self.global_addresses(&Stack::Host);
        let Some(source) = from.address.filter(|_| from.stack.is_none()) else {
            let loopback = (from.stack == Some(Stack::Host)).then_some(IpAddr::from([127, 0, 0, 1]));
            return loopback.into_iter().chain(all).collect();
        };
        let here = self.seen.here(&Stack::Host);
        let near = |address: &IpAddr| {
            here.is_some_and(|here| {
                here.addresses.iter().any(|(_, net)| net.addr() == *address && net.contains(&source))
            })
        };
        let (near, far): (Vec<IpAddr>, Vec<IpAddr>) = all.into_iter().partition(near);
        near.into_iter().chain(far).collect()
    }

    fn global_addresses(&self, stack: &Stack) -> Vec<IpAddr> {
        let link_local = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let here = self.seen.here(stack).into_iter();
        let all = here.flat_map(|here| here.addresses.iter().map(|(_, net)| net.addr()));
        all.filter(|address| !address.is_loopback() && !link_local(address)).collect()
    }

    fn has_family(&self, party: &Party<'_>, ipv6: bool) -> bool {
        let of_attachment = party.attachment.iter().flat_map(|one| &one.alloc.addresses);
        let of_wire = party.wire.iter().flat_map(Wire::addresses);
        let mut addresses = of_attachment.map(|address| address.0.addr()).chain(of_wire);
        addresses.any(|address| address.is_ipv6() == ipv6)
    }

    fn network_of(&self, attachment: &Stored<Attachment>) -> Option<&'a Stored<Network>> {
        self.world.get::<Network>(&attachment.spec.network).map(|network| &**network)
    }

    /// Whether the way stays on one bridge.
    fn same_network(&self, from: &Party<'_>, to: &Party<'_>, target: Option<IpAddr>) -> bool {
        let Some(from) = from.attachment else { return false };
        if self.forward.is_some() {
            return false;
        }
        let on_subnet = |network: &Stored<Network>, target: IpAddr| {
            network
                .alloc
                .subnets
                .iter()
                .any(|subnet| subnet.cidr.net().contains(&target) && subnet.gateway != target)
        };
        match (to.attachment, target) {
            (Some(to), _) => to.spec.network == from.spec.network,
            (None, Some(target)) => self.network_of(from).is_some_and(|network| on_subnet(network, target)),
            (None, None) => false,
        }
    }

    fn no_target(&mut self, to: &Party<'_>) {
        let (what, fix) = match (&self.request.to, &to.stack) {
            (End::PortForward(name), _) => (
                format!("There is no PortForward {name}."),
                Some("`netloom forwards ls` lists them; `netloom publish` makes one.".to_owned()),
            ),
            // Its end is checked next, and says more.
            (_, Some(Stack::Namespace(_)) | None) => return,
            (_, Some(Stack::Host)) => ("The host has no address that could be asked.".to_owned(), None),
        };
        let id = if self.request_is_forward() { CheckId::Publish } else { CheckId::ToAddress };
        self.fail(id, what, fix.unwrap_or_else(|| "Give the host an address.".into()));
    }

    fn request_is_forward(&self) -> bool {
        matches!(self.request.to, End::PortForward(_))
    }

    // ---------------------------------------------------------------------------------------------- what was found

    fn pass(&mut self, id: CheckId, evidence: impl Into<String>) {
        self.push(id, CheckStatus::Pass, evidence.into(), None);
    }

    fn fail(&mut self, id: CheckId, evidence: impl Into<String>, fix: impl Into<String>) {
        self.push(id, CheckStatus::Fail, evidence.into(), Some(fix.into()));
    }

    fn skip(&mut self, id: CheckId, evidence: impl Into<String>) {
        self.push(id, CheckStatus::Skip, evidence.into(), None);
    }

    fn push(&mut self, id: CheckId, status: CheckStatus, evidence: String, fix: Option<String>) {
        self.checks.push(Check { id, status, evidence, fix });
    }

    /// Whether something that surely stops packets was found.
    fn has_failed(&self) -> bool {
        self.checks.iter().any(|check| check.status == CheckStatus::Fail && stops(check.id))
    }

    /// The stack, if it was looked at; else it is asked for.
    fn here(&mut self, stack: &Stack) -> Option<&'a Here> {
        match self.seen.stacks.get(stack) {
            Some(Look::There(here)) => Some(here),
            Some(Look::Missing | Look::Unknown(_)) => None,
            None => {
                self.wants.insert(stack.clone());
                None
            }
        }
    }

    /// The stacks that a cable of ours may lead to: those of its object, by its mark. Of another's all may be it.
    fn want_far_ends(&mut self, line: &Line) {
        let found = match line.mark {
            Mark::Object(uid) => self.world.find(&uid).cloned(),
            Mark::Group | Mark::Foreign => None,
        };
        match found {
            Some((Kind::Link, name)) => {
                let link = self.world.get::<Link>(&name);
                let ends = link.iter().flat_map(|link| &link.spec.ends).map(|end| stack_of(&end.namespace));
                self.wants.extend(ends);
            }
            Some((Kind::Attachment, name)) => {
                let attachment = attachment_of(self.world, &name);
                self.wants.extend(attachment.map(|attachment| stack_of(&attachment.spec.namespace)));
            }
            Some(_) | None => self.want_all_namespaces(),
        }
    }

    fn want_all_namespaces(&mut self) {
        if self.world.count::<Namespace>() <= SEARCHED_MAX {
            let names = self.world.all::<Namespace>().map(|one| stack_of(&one.meta.name));
            self.wants.extend(names);
        }
    }

    fn conntrack(&mut self) {
        let Some((known, most)) = self.seen.flows.filter(|_| self.through_host) else { return };
        let evidence = format!("The host knows {known} flows and has room for {most}.");
        if known >= most {
            let fix = "Raise net.netfilter.nf_conntrack_max, or find out who opens so many connections (`conntrack -S`).";
            self.fail(CheckId::Conntrack, evidence, fix);
        } else {
            self.pass(CheckId::Conntrack, evidence);
        }
    }

    fn status(&mut self, parties: &[&Party<'a>]) {
        let mut objects: Vec<(Kind, Name, Uid)> = Vec::new();
        for attachment in parties.iter().filter_map(|party| party.attachment) {
            let namespace = self.world.get::<Namespace>(&attachment.spec.namespace);
            objects.extend(namespace.map(|one| (Kind::Namespace, one.meta.name.clone(), one.meta.uid)));
            let network = self.network_of(attachment);
            objects.extend(network.map(|one| (Kind::Network, one.meta.name.clone(), one.meta.uid)));
            objects.push((Kind::Attachment, attachment.meta.name.clone(), attachment.meta.uid));
        }
        for wire in parties.iter().filter_map(|party| party.wire) {
            let namespace = self.world.get::<Namespace>(&wire.end().namespace);
            objects.extend(namespace.map(|one| (Kind::Namespace, one.meta.name.clone(), one.meta.uid)));
            objects.push((Kind::Link, wire.link.meta.name.clone(), wire.link.meta.uid));
        }
        let forward = self.forward;
        objects.extend(forward.map(|one| (Kind::PortForward, one.meta.name.clone(), one.meta.uid)));
        let mut told = BTreeSet::new();
        objects.retain(|(.., uid)| told.insert(*uid));
        if objects.is_empty() {
            return;
        }
        let mut bad = Vec::new();
        let mut waiting = Vec::new();
        for (kind, name, uid) in &objects {
            match (self.ready)(uid) {
                Some(ready) if ready.status == ConditionStatus::True => {}
                Some(ready) if ready.status == ConditionStatus::False => {
                    bad.push(format!(
                        "{kind} {name} is not ready: {} ({})",
                        ready.reason.as_str(),
                        ready.message
                    ));
                }
                Some(_) | None => waiting.push(format!("{kind} {name} is pending")),
            }
        }
        if !bad.is_empty() {
            self.fail(
                CheckId::Status,
                format!("{}.", bad.join("; ")),
                "`netloom status` has all of them with their reasons.",
            );
        } else if !waiting.is_empty() {
            self.skip(CheckId::Status, format!("{}.", waiting.join("; ")));
        } else {
            let names: Vec<String> = objects.iter().map(|(kind, name, _)| format!("{kind} {name}")).collect();
            self.pass(CheckId::Status, format!("Ready: {}.", names.join(", ")));
        }
    }
}

fn stack_of(namespace: &Name) -> Stack {
    if namespace.as_str() == "host" { Stack::Host } else { Stack::Namespace(namespace.clone()) }
}

fn attachment_of<'w>(world: &'w World, name: &Name) -> Option<&'w Stored<Attachment>> {
    world.get::<Attachment>(name).map(|attachment| &**attachment)
}

/// The Attachment that has an address, by the World.
fn holder_of(world: &World, address: IpAddr) -> Option<&Stored<Attachment>> {
    let (_, network) = world.overlapping(&address.into())?;
    let holder = &world.user_of(network, address)?.holder;
    match holder.kind {
        Kind::Attachment => world.get::<Attachment>(&holder.name).map(|attachment| &**attachment),
        _ => None,
    }
}
