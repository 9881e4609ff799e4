//! Steps become system calls: neighbouring steps of one sort go together.

use std::{collections::BTreeSet, os::fd::AsFd};

use netloom_api::{Name, Uid};

use super::{
    Inner,
    inside::{Known, Session, follow},
    link, namespace,
    outcome::{done, lost, of_netns, of_nft, of_request},
    port, reap,
};
use crate::{
    hostnet::{Action, Facts, Outcome, Stack, Step, rules::Edit},
    kernel::{
        netns,
        socket::{RequestError, RouteSocket, SocketError},
    },
};

/// Namespaces that a thread stays in: a cable has two ends.
const SESSIONS: usize = 2;

pub(super) fn apply(inner: &Inner, steps: &[Step]) -> Vec<Outcome> {
    let mut work = Work {
        inner,
        outcomes: Vec::with_capacity(steps.len()),
        failed: BTreeSet::new(),
        known: Known::new(),
        near_ends: Known::new(),
        sessions: Vec::new(),
    };
    let mut rest = steps;
    while let Some(first) = rest.first() {
        let sort = Sort::of(first);
        let count = rest.iter().take_while(|step| Sort::of(step) == sort).count();
        let (group, later) = rest.split_at(count);
        let outcomes = work.group(&sort, group);
        work.take(group, outcomes);
        rest = later;
    }
    work.outcomes
}

/// Steps of one sort may go in one call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sort {
    Install,
    Rules,
    Forget,
    CreateNamespace,
    DeleteNamespace,
    Adopt,
    DeleteLink,
    /// One at a time: the next steps need what it made.
    Cable,
    UseBridge,
    In(Stack),
    Announce(Stack),
}

impl Sort {
    fn of(step: &Step) -> Self {
        match &step.action {
            Action::InstallRules { .. } => Sort::Install,
            Action::PutChain(..) | Action::RemoveRule(_) | Action::AddRule(_) | Action::RemoveChain(_) => {
                Sort::Rules
            }
            Action::Forget(_) => Sort::Forget,
            Action::CreateNamespace { .. } => Sort::CreateNamespace,
            Action::DeleteNamespace { .. } => Sort::DeleteNamespace,
            Action::Adopt { .. } | Action::Release { .. } => Sort::Adopt,
            Action::DeleteLink { stack: _, link: _ } => Sort::DeleteLink,
            Action::CreateCable { .. } => Sort::Cable,
            Action::UseBridge { .. } => Sort::UseBridge,
            Action::CreateBridge { .. }
            | Action::CreateIfb { .. }
            | Action::SetLimit { .. }
            | Action::ClearLimit { .. }
            | Action::SetDetour { .. }
            | Action::ClearDetour { .. } => Sort::In(Stack::Host),
            Action::SetLink { stack, .. } | Action::SetSysctl { stack, .. } => Sort::In(stack.clone()),
            Action::AddAddress(address) | Action::DeleteAddress(address) => Sort::In(address.stack.clone()),
            Action::Announce(address) => Sort::Announce(address.stack.clone()),
            Action::AddRoute(route) | Action::ReplaceRoute(route) | Action::DeleteRoute(route) => {
                Sort::In(route.stack.clone())
            }
        }
    }
}

struct Work<'a> {
    inner: &'a Inner,
    outcomes: Vec<Outcome>,
    failed: BTreeSet<Uid>,
    known: Known,
    /// Indices of the near ends of new cables, by the far ends.
    near_ends: Known,
    /// The latest first.
    sessions: Vec<Session>,
}

impl Work<'_> {
    fn group(&mut self, sort: &Sort, steps: &[Step]) -> Vec<Outcome> {
        match sort {
            Sort::Install => steps.iter().map(|step| self.install(step)).collect(),
            Sort::Rules => self.rules(steps),
            Sort::Forget => steps.iter().map(|step| self.forget(step)).collect(),
            Sort::CreateNamespace => namespace::create(self.inner, steps, &self.failed),
            Sort::DeleteNamespace => steps.iter().map(|step| self.delete_namespace(step)).collect(),
            Sort::Adopt => steps.iter().map(|step| self.adopt(step)).collect(),
            Sort::DeleteLink => reap::remove(self.inner, steps, &self.failed),
            Sort::Cable => steps.iter().map(|step| self.create_cable(step)).collect(),
            Sort::UseBridge => steps.iter().map(|step| self.use_bridge(step)).collect(),
            Sort::In(Stack::Host) => self.in_host(steps),
            Sort::In(Stack::Namespace(name)) => self.in_namespace(name, steps),
            Sort::Announce(stack) => {
                self.await_ports(steps);
                self.group(&Sort::In(stack.clone()), steps)
            }
        }
    }

    /// Keeps what came of a group, for the steps behind it.
    fn take(&mut self, steps: &[Step], outcomes: Vec<Outcome>) {
        for (step, outcome) in steps.iter().zip(&outcomes) {
            match (outcome, step.uid) {
                (Outcome::Failed(_), Some(uid)) => {
                    self.failed.insert(uid);
                }
                (Outcome::Done(facts), _) => self.learn(step, facts),
                (Outcome::Failed(_), None) | (Outcome::Skipped, _) => {}
            }
        }
        self.outcomes.extend(outcomes);
    }

    fn learn(&mut self, step: &Step, facts: &Facts) {
        match &step.action {
            Action::CreateBridge { device, .. } => {
                self.known.extend(facts.ifindex.map(|index| ((Stack::Host, device.clone()), index)));
            }
            Action::CreateCable { near, far } => {
                for (end, index) in [(near, facts.near_ifindex), (far, facts.ifindex)] {
                    self.known.extend(index.map(|index| ((end.stack.clone(), end.name.clone()), index)));
                }
                let far = (far.stack.clone(), far.name.clone());
                self.near_ends.extend(facts.near_ifindex.map(|index| (far, index)));
            }
            _ => {}
        }
    }

    /// Until the cables' other ends carry frames; what is said before is said to nobody.
    fn await_ports(&mut self, steps: &[Step]) {
        let links = steps.iter().filter_map(|step| match &step.action {
            Action::Announce(address) => Some((address.stack.clone(), address.link.clone())),
            _ => None,
        });
        for port in links.collect::<BTreeSet<_>>().iter().filter_map(|link| self.near_ends.get(link)) {
            port::await_forwarding(self.inner, *port);
        }
    }

    fn is_skipped(&self, step: &Step) -> bool {
        step.uid.is_some_and(|uid| self.failed.contains(&uid))
    }

    fn install(&self, step: &Step) -> Outcome {
        match &step.action {
            Action::InstallRules { chains } => of_nft(self.inner.rules.ensure(chains)),
            _ => Outcome::Skipped,
        }
    }

    fn rules(&mut self, steps: &[Step]) -> Vec<Outcome> {
        let mut edit = Edit::default();
        for step in steps {
            match &step.action {
                Action::PutChain(name, chain) => edit.put.push((name.clone(), chain.clone())),
                Action::RemoveRule(element) => edit.remove.push(element.clone()),
                Action::AddRule(element) => edit.add.push(element.clone()),
                Action::RemoveChain(name) => edit.drop.push(name.clone()),
                _ => {}
            }
        }
        let outcome = of_nft(self.inner.rules.commit(edit));
        steps.iter().map(|_| outcome.clone()).collect()
    }

    fn forget(&self, step: &Step) -> Outcome {
        if let Action::Forget(stale) = &step.action {
            self.inner.flows.forget(stale);
        }
        done()
    }

    fn delete_namespace(&mut self, step: &Step) -> Outcome {
        match &step.action {
            Action::DeleteNamespace { name } if !self.is_skipped(step) => {
                namespace::delete(self.inner, step, name)
            }
            _ => Outcome::Skipped,
        }
    }

    fn adopt(&self, step: &Step) -> Outcome {
        match &step.action {
            Action::Adopt { name: _, adopted } if !self.is_skipped(step) => {
                namespace::adopt(self.inner, step, adopted.cookie)
            }
            // What was ours in it went before.
            Action::Release { .. } => done(),
            _ => Outcome::Skipped,
        }
    }

    /// From here on these steps may add to it.
    fn use_bridge(&mut self, step: &Step) -> Outcome {
        let Action::UseBridge { device, keep_mac } = &step.action else { return Outcome::Skipped };
        if self.is_skipped(step) {
            return Outcome::Skipped;
        }
        match self.inner.with_socket(|socket| Ok(link::users_bridge(socket, device, *keep_mac))) {
            Ok(Ok(index)) => {
                self.known.insert((Stack::Host, device.clone()), index);
                done()
            }
            Ok(Err(outcome)) => outcome,
            Err(error) => lost(&error),
        }
    }

    fn create_cable(&mut self, step: &Step) -> Outcome {
        match &step.action {
            Action::CreateCable { near, far } if !self.is_skipped(step) => self
                .cable_between(&near.stack, &far.stack, step)
                .map_or_else(|outcome| outcome, Outcome::Done),
            _ => Outcome::Skipped,
        }
    }

    /// The message is sent in the near end's stack.
    fn cable_between(&mut self, near: &Stack, far: &Stack, step: &Step) -> Result<Facts, Outcome> {
        let inner = self.inner;
        let known = self.known.clone();
        if *near != Stack::Host {
            self.make_heard(near)?;
            self.make_heard(far)?;
        }
        let far = match far {
            same if same == near => None,
            Stack::Host => Some(netns::own().map_err(|error| of_netns(&error))?),
            Stack::Namespace(name) => Some(self.session(name)?.namespace()?),
        };
        match near {
            Stack::Host => {
                let far = far.as_ref().map(AsFd::as_fd);
                let work = |socket: &mut RouteSocket| Ok(link::create_cable(socket, step, far, &known));
                inner.with_socket(work).unwrap_or_else(|error: SocketError| Err(lost(&error)))
            }
            Stack::Namespace(name) => self.session(name)?.create_cable(step, far, known),
        }
    }

    /// The host hears of what happens in namespaces that have an id in it; a cable to the host gives one.
    fn make_heard(&mut self, stack: &Stack) -> Result<(), Outcome> {
        let Stack::Namespace(name) = stack else { return Ok(()) };
        let namespace = self.session(name)?.namespace()?;
        let named = self.inner.with_socket(|socket| netns::assign_nsid(socket, namespace.as_fd()));
        named.map(drop).map_err(|error: RequestError| of_request(name, &error))
    }

    fn in_host(&mut self, steps: &[Step]) -> Vec<Outcome> {
        let (failed, known) = (&self.failed, &self.known);
        let work = |socket: &mut RouteSocket| Ok(follow(socket, &Stack::Host, steps, failed, known));
        let outcomes = self.inner.with_socket(work);
        outcomes.unwrap_or_else(|error: SocketError| self.all(steps, &lost(&error)))
    }

    fn in_namespace(&mut self, name: &Name, steps: &[Step]) -> Vec<Outcome> {
        // Also when all are skipped: then nothing is asked of a namespace that may not be there.
        if steps.iter().all(|step| self.is_skipped(step)) {
            return vec![Outcome::Skipped; steps.len()];
        }
        let (failed, known) = (self.failed.clone(), self.known.clone());
        match self.session(name) {
            Ok(session) => session.follow(steps, &failed, &known),
            Err(outcome) => self.all(steps, &outcome),
        }
    }

    /// The thread in this namespace; it stays as long as the steps are about it, or about it and one other: those of a
    /// cable turn from end to end.
    fn session(&mut self, name: &Name) -> Result<&Session, Outcome> {
        match self.sessions.iter().position(|session| session.is_in(name)) {
            Some(at) => self.sessions[..=at].rotate_right(1),
            None => {
                let session = Session::enter(self.inner, name)?;
                self.sessions.insert(0, session);
                self.sessions.truncate(SESSIONS);
            }
        }
        self.sessions.first().ok_or(Outcome::Skipped)
    }

    /// The same refusal for all: the first step of each object is told, the others are skipped.
    fn all(&self, steps: &[Step], outcome: &Outcome) -> Vec<Outcome> {
        let mut failed = self.failed.clone();
        let tell = |step: &Step| match step.uid {
            Some(uid) if !failed.insert(uid) => Outcome::Skipped,
            Some(_) | None => outcome.clone(),
        };
        steps.iter().map(tell).collect()
    }
}
