//! Steps in one stack, by its own socket: the messages go in as few batches as their order permits.
//!
//! Work in a namespace is done by a [`Session`]: a thread that has entered it, and has seen that it is ours, for as long
//! as neighbouring steps are about it. Nothing is ever changed in a namespace that a stranger put in the place of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use netloom_api::{IfName, Name, Uid};
use nix::errno::Errno;

use super::{
    Inner,
    dump::mark,
    link, message, namespace, observe,
    outcome::{done, failed, lost, of_request, passing, refused, sort_of, surprise},
    tc,
};
use crate::{
    hostnet::{Action, Address, Facts, FailureSort, LinkChange, Mark, Outcome, Route, Stack, Step, Sysctl},
    kernel::{
        announce,
        extack::KernelError,
        socket::{RouteSocket, create, replace, request},
        sysctl::{self, Key, SysctlError},
        thread,
    },
};

/// Indices of links that these very steps have made.
pub(super) type Known = BTreeMap<(Stack, IfName), u32>;

/// A thread in a namespace of ours. It ends when this is dropped.
pub(super) struct Session {
    name: Name,
    namespace: OwnedFd,
    jobs: SyncSender<Job>,
}

/// Work with the socket that is there.
type Job = Box<dyn FnOnce(&mut RouteSocket) + Send>;

impl Session {
    /// Enters the namespace.
    pub(super) fn enter(inner: &Inner, name: &Name) -> Result<Self, Outcome> {
        // One that is not ours bears no mark; its cookie has said that it is the right one.
        let adopted = namespace::open_adopted(inner, name)?;
        let bears_mark = adopted.is_none();
        let namespace = adopted.map_or_else(|| namespace::open(inner, name), Ok)?;
        let entered = namespace.try_clone().map_err(|error| passing(format!("namespace {name}: {error}")))?;
        let (jobs, queue) = sync_channel(1);
        let (ready, is_ready) = sync_channel(1);
        let (stack, answer) = (Stack::Namespace(name.clone()), ready.clone());
        let died = move |result: Result<(), thread::ThreadError>| {
            if let Err(error) = result {
                // Nobody listens once it was ready; then the answer to the job is missing.
                drop(answer.try_send(Err(passing(error.to_string()))));
            }
        };
        thread::start(entered, "inside", move || work(&stack, &queue, &ready), died)
            .map_err(|error| passing(error.to_string()))?;
        match is_ready.recv() {
            Ok(Ok(mark)) if !bears_mark || matches!(mark, Mark::Object(_)) => {
                Ok(Self { name: name.clone(), namespace, jobs })
            }
            Ok(Ok(_)) => Err(namespace::not_ours(name)),
            Ok(Err(outcome)) => Err(outcome),
            Err(_) => Err(passing(format!("namespace {name}: the thread inside died"))),
        }
    }

    pub(super) fn is_in(&self, name: &Name) -> bool {
        self.name == *name
    }

    /// The namespace.
    pub(super) fn namespace(&self) -> Result<OwnedFd, Outcome> {
        let copy = self.namespace.try_clone();
        copy.map_err(|error| passing(format!("namespace {}: {error}", self.name)))
    }

    /// Follows the steps there.
    pub(super) fn follow(&self, steps: &[Step], failed: &BTreeSet<Uid>, known: &Known) -> Vec<Outcome> {
        let stack = Stack::Namespace(self.name.clone());
        let (inside, failed, known) = (steps.to_vec(), failed.clone(), known.clone());
        let outcomes = self.ask(move |socket| follow(socket, &stack, &inside, &failed, &known));
        outcomes.unwrap_or_else(|unknown| steps.iter().map(|_| unknown.clone()).collect())
    }

    /// Makes a cable whose near end is there.
    pub(super) fn create_cable(
        &self,
        step: &Step,
        far: Option<OwnedFd>,
        known: Known,
    ) -> Result<Facts, Outcome> {
        let step = step.clone();
        self.ask(move |socket| link::create_cable(socket, &step, far.as_ref().map(AsFd::as_fd), &known))?
    }

    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut RouteSocket) -> T + Send + 'static,
    ) -> Result<T, Outcome> {
        let (answer, answered) = sync_channel(1);
        let job: Job = Box::new(move |socket| drop(answer.send(work(socket))));
        let answered = self.jobs.send(job).ok().and_then(|()| answered.recv().ok());
        answered.ok_or_else(|| surprise(format!("namespace {}: the thread inside died", self.name)))
    }
}

/// Tells whose the namespace is, then does what comes, until nobody can send any more.
fn work(stack: &Stack, queue: &Receiver<Job>, ready: &SyncSender<Result<Mark, Outcome>>) {
    let opened = RouteSocket::open().map_err(|error| lost(&error)).and_then(|mut socket| {
        let mark = namespace::mark_here(&mut socket).map_err(|error| of_request(stack, &error))?;
        Ok((socket, mark))
    });
    let mut socket = match opened {
        Ok((socket, mark)) => {
            drop(ready.send(Ok(mark)));
            socket
        }
        Err(outcome) => return drop(ready.send(Err(outcome))),
    };
    while let Ok(job) = queue.recv() {
        job(&mut socket);
        if !socket.is_sound() {
            return;
        }
    }
}

/// Follows steps of the stack that the calling thread and the socket are in. The kernel does the messages of one batch
/// whatever came of those before: of a batch, later steps of a failed object are done or refused, not skipped.
pub(super) fn follow(
    socket: &mut RouteSocket,
    stack: &Stack,
    steps: &[Step],
    failed: &BTreeSet<Uid>,
    known: &Known,
) -> Vec<Outcome> {
    let mut run = Run {
        socket,
        stack,
        known: known.clone(),
        pending: Vec::new(),
        outcomes: vec![Outcome::Skipped; steps.len()],
        failed: failed.clone(),
        to_close: Vec::new(),
    };
    for (at, step) in steps.iter().enumerate() {
        if step.uid.is_none_or(|uid| !run.failed.contains(&uid)) {
            run.step(at, step);
        }
    }
    run.flush();
    let to_close = run.to_close;
    if !to_close.is_empty() {
        // Each close waits for a grace period. When no thread can be had the closure, and so the wait, is here.
        drop(std::thread::Builder::new().name("closer".into()).spawn(move || drop(to_close)));
    }
    run.outcomes
}

/// A message that waits for others to go with it.
struct Pending<'a> {
    at: usize,
    step: &'a Step,
    message: NetlinkMessage<RouteNetlinkMessage>,
}

struct Run<'a> {
    socket: &'a mut RouteSocket,
    stack: &'a Stack,
    known: Known,
    pending: Vec<Pending<'a>>,
    outcomes: Vec<Outcome>,
    failed: BTreeSet<Uid>,
    /// Sockets whose closing takes long.
    to_close: Vec<OwnedFd>,
}

impl<'a> Run<'a> {
    fn step(&mut self, at: usize, step: &'a Step) {
        let message = match &step.action {
            Action::SetSysctl { stack: _, sysctl, value } => {
                // Written at once, so what comes before must have happened.
                self.flush();
                return self.note(at, step, write(sysctl, value));
            }
            Action::CreateBridge { device, link } => {
                let message = message::bridge(device.as_str(), link);
                return self.create(at, step, device, message, |facts| facts);
            }
            Action::CreateIfb { device, link } => {
                let message = message::ifb(device.as_str(), link);
                // Its index is none of its attachment's.
                return self.create(at, step, device, message, |_| Facts::default());
            }
            Action::SetLimit { device, .. }
            | Action::ClearLimit { device }
            | Action::SetDetour { device, .. }
            | Action::ClearDetour { device } => {
                self.flush();
                let outcome = self.shape(step, device).unwrap_or_else(|outcome| outcome);
                return self.note(at, step, outcome);
            }
            Action::Announce(address) => {
                self.flush();
                match announce::announce(address.link.as_str(), address.net.addr()) {
                    Ok(socket) => self.to_close.push(socket),
                    // Neighbours learn of it by themselves, a little later.
                    Err(error) => tracing::debug!(%error, %address, "not announced"),
                }
                return self.note(at, step, done());
            }
            Action::DeleteAddress(address) if *self.stack == Stack::Host => match self.is_ours(address) {
                Ok(true) => self.message(step),
                Ok(false) => return self.note(at, step, done()),
                Err(outcome) => Err(outcome),
            },
            Action::SetLink { stack: _, link, change } => {
                // A link must be a port before it can be told how to be one.
                if let LinkChange { master: Some(Some(_)), hairpin: Some(_), .. } = change {
                    let enslave = LinkChange { hairpin: None, ..change.clone() };
                    match self.change(link, &enslave, step.uid) {
                        Ok(message) => self.pending.push(Pending { at, step, message }),
                        Err(outcome) => return self.note(at, step, outcome),
                    }
                }
                self.change(link, change, step.uid)
            }
            Action::AddAddress(_)
            | Action::DeleteAddress(_)
            | Action::AddRoute(_)
            | Action::DeleteRoute(_) => self.message(step),
            Action::ReplaceRoute(route) => {
                // What is there must be ours when it is replaced, so what comes before must have happened.
                self.flush();
                self.replacement(route)
            }
            Action::CreateNamespace { .. }
            | Action::DeleteNamespace { .. }
            | Action::Adopt { .. }
            | Action::Release { .. }
            | Action::CreateCable { .. }
            | Action::UseBridge { .. }
            | Action::DeleteLink { .. }
            | Action::InstallRules { .. }
            | Action::PutChain(..)
            | Action::RemoveChain(_)
            | Action::Forget(_)
            | Action::RemoveRule(_)
            | Action::AddRule(_) => Err(passing("this is no step of one stack".into())),
        };
        match message {
            Ok(message) => self.pending.push(Pending { at, step, message }),
            Err(outcome) => self.note(at, step, outcome),
        }
    }

    /// Whether the address is one that we may remove: on a link of ours, or on a stranger's with our mark.
    fn is_ours(&mut self, address: &Address) -> Result<bool, Outcome> {
        let Address { link, net, .. } = address;
        let found = self.socket.link_by_name(link.as_str()).map_err(|error| of_request(link, &error))?;
        let Some(found) = found else { return Ok(false) };
        if mark(&found).is_ours() {
            return Ok(true);
        }
        let bears_mark = observe::has_our_address(self.socket, found.header.index, *net).map_err(surprise)?;
        if bears_mark {
            self.known.insert((self.stack.clone(), link.clone()), found.header.index);
        }
        Ok(bears_mark)
    }

    fn create(
        &mut self,
        at: usize,
        step: &Step,
        device: &IfName,
        message: LinkMessage,
        told: impl FnOnce(Facts) -> Facts,
    ) {
        self.flush();
        let made = link::create_alone(self.socket, device, message);
        if let Ok(Facts { ifindex: Some(index), .. }) = made {
            self.known.insert((self.stack.clone(), device.clone()), index);
        }
        self.note(at, step, made.map_or_else(|outcome| outcome, |facts| Outcome::Done(told(facts))));
    }

    fn shape(&mut self, step: &Step, device: &IfName) -> Result<Outcome, Outcome> {
        let index = self.index(device, step.uid)?;
        Ok(match &step.action {
            Action::SetLimit { device: _, limit } => tc::set_limit(self.socket, device, index, limit),
            Action::ClearLimit { device: _ } => tc::clear_limit(self.socket, device, index),
            Action::SetDetour { device: _, through } => {
                let through = self.index(through, step.uid)?;
                tc::set_detour(self.socket, device, index, through)
            }
            Action::ClearDetour { device: _ } => tc::clear_detour(self.socket, device, index),
            other => return Err(passing(format!("{other:?} shapes nothing"))),
        })
    }

    fn message(&mut self, step: &Step) -> Result<NetlinkMessage<RouteNetlinkMessage>, Outcome> {
        use RouteNetlinkMessage as M;
        Ok(match &step.action {
            Action::AddAddress(Address { stack: _, link, net }) => {
                create(M::NewAddress(message::address(self.index(link, step.uid)?, *net)))
            }
            Action::DeleteAddress(Address { stack: _, link, net }) => {
                request(M::DelAddress(message::address(self.index(link, step.uid)?, *net)))
            }
            Action::AddRoute(route) => create(M::NewRoute(self.route(route)?)),
            Action::DeleteRoute(route) => request(M::DelRoute(self.route(route)?)),
            other => return Err(passing(format!("{other:?} is no message"))),
        })
    }

    fn change(
        &mut self,
        link: &IfName,
        change: &LinkChange,
        owner: Option<Uid>,
    ) -> Result<NetlinkMessage<RouteNetlinkMessage>, Outcome> {
        let index = self.index(link, owner)?;
        let master = match &change.master {
            Some(Some(bridge)) => Some(self.index(bridge, None)?),
            Some(None) | None => None,
        };
        let message = message::change(index, change, master);
        // What a port is told lies in the link's info, which RTM_SETLINK passes over in silence.
        Ok(request(match change.hairpin {
            Some(_) => RouteNetlinkMessage::NewLink(message),
            None => RouteNetlinkMessage::SetLink(message),
        }))
    }

    /// Replaces a route of ours, never a stranger's.
    fn replacement(&mut self, route: &Route) -> Result<NetlinkMessage<RouteNetlinkMessage>, Outcome> {
        let message = RouteNetlinkMessage::NewRoute(self.route(route)?);
        match observe::route_in_place_of(self.socket, route) {
            Ok(Some(_)) => Ok(replace(message)),
            Ok(None) => Ok(create(message)),
            Err(error) => Err(surprise(error)),
        }
    }

    fn route(&mut self, route: &Route) -> Result<netlink_packet_route::route::RouteMessage, Outcome> {
        let index = route.link().map(|link| self.any_index(link)).transpose()?;
        let mixed = || failed(None, format!("{route}: families differ"), FailureSort::Final);
        message::route(index, route).ok_or_else(mixed)
    }

    /// The index of a link of ours. What is inside of a namespace of ours is ours by its pair.
    fn index(&mut self, name: &IfName, owner: Option<Uid>) -> Result<u32, Outcome> {
        let key = (self.stack.clone(), name.clone());
        if let Some(index) = self.known.get(&key) {
            return Ok(*index);
        }
        let found = self.socket.link_by_name(name.as_str()).map_err(|error| of_request(name, &error))?;
        let found = found.ok_or_else(|| surprise(format!("there is no link {name}")))?;
        let mark = mark(&found);
        if *self.stack == Stack::Host && !owner.map_or(mark.is_ours(), |uid| mark.is_of(uid)) {
            return Err(surprise(format!("the device {name} was not made by netloom for this object")));
        }
        self.known.insert(key, found.header.index);
        Ok(found.header.index)
    }

    /// The index of any link: a route changes nothing of the link that it goes through.
    fn any_index(&mut self, name: &IfName) -> Result<u32, Outcome> {
        let key = (self.stack.clone(), name.clone());
        if let Some(index) = self.known.get(&key) {
            return Ok(*index);
        }
        let found = self.socket.link_by_name(name.as_str()).map_err(|error| of_request(name, &error))?;
        let missing = || {
            let message = format!("{} has no interface {name}", self.stack);
            failed(Some(Errno::ENODEV), message, FailureSort::Surprise)
        };
        found.map(|link| link.header.index).ok_or_else(missing)
    }

    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let messages = pending.iter().map(|one| one.message.clone()).collect();
        let results = match self.socket.batch(messages) {
            Ok(results) => results.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); pending.len()],
        };
        for (Pending { at, step, .. }, result) in pending.into_iter().zip(results) {
            let outcome = match result {
                Ok(Ok(())) => done(),
                Ok(Err(error)) => self.refusal(step, &error),
                Err(error) => lost(&error),
            };
            self.note(at, step, outcome);
        }
    }

    /// What is so already is success, once it was seen.
    fn refusal(&mut self, step: &Step, error: &KernelError) -> Outcome {
        let is_so = match (&step.action, error.errno) {
            (Action::DeleteAddress(address), Errno::EADDRNOTAVAIL | Errno::ENODEV) => {
                observe::has_address(self.socket, address).map(|there| !there)
            }
            (Action::DeleteRoute(route), Errno::ESRCH | Errno::ENODEV) => {
                observe::route_in_place_of(self.socket, route).map(|there| there.as_ref() != Some(route))
            }
            (Action::AddAddress(address), Errno::EEXIST) => observe::has_address(self.socket, address),
            (Action::AddRoute(route) | Action::ReplaceRoute(route), Errno::EEXIST) => {
                return self.in_place_of(route, error);
            }
            _ => return refused(subject(step), error),
        };
        match is_so {
            Ok(true) => done(),
            Ok(false) => refused(subject(step), error),
            Err(error) => surprise(error),
        }
    }

    /// Whose the route is that is there already.
    fn in_place_of(&mut self, route: &Route, error: &KernelError) -> Outcome {
        match observe::route_in_place_of(self.socket, route) {
            Ok(Some(there)) if there == *route => done(),
            Ok(Some(there)) => surprise(format!("{}: there is {there}", self.stack)),
            Ok(None) => match observe::is_place_taken(self.socket, route) {
                Ok(true) => {
                    let Route { destination, metric, table, .. } = route;
                    let message = format!(
                        "{}: a route to {destination} with metric {metric} exists in table {table} and was not made \
                         by netloom",
                        self.stack
                    );
                    failed(Some(error.errno), message, FailureSort::Conflict)
                }
                Ok(false) => refused(route, error),
                Err(error) => surprise(error),
            },
            Err(error) => surprise(error),
        }
    }

    fn note(&mut self, at: usize, step: &Step, outcome: Outcome) {
        if let (Outcome::Failed(_), Some(uid)) = (&outcome, step.uid) {
            self.failed.insert(uid);
        }
        if let Some(slot) = self.outcomes.get_mut(at) {
            *slot = outcome;
        }
    }
}

/// What a step is about, for errors: the kernel's own messages name links by their index only.
fn subject(step: &Step) -> String {
    match &step.action {
        Action::SetLink { link, .. } => link.to_string(),
        Action::AddAddress(address) | Action::DeleteAddress(address) => address.to_string(),
        Action::AddRoute(route) | Action::ReplaceRoute(route) | Action::DeleteRoute(route) => {
            route.to_string()
        }
        other => format!("{other:?}"),
    }
}

fn write(sysctl: &Sysctl, value: &str) -> Outcome {
    let written = Key::named(&sysctl.path()).and_then(|key| sysctl::write(&key, value));
    match written {
        Ok(_) => done(),
        Err(SysctlError::Missing(_)) if observe::is_so_without_ipv6(sysctl, value) => done(),
        // It was there when it was chosen: the interface, or the protocol, has gone with its settings.
        Err(SysctlError::Missing(_)) if matches!(sysctl, Sysctl::Named { .. }) => done(),
        Err(error @ SysctlError::Missing(_)) => surprise(error.to_string()),
        Err(error @ SysctlError::System { errno: errno @ (Errno::EACCES | Errno::EPERM), .. }) => {
            failed(Some(errno), error.to_string(), FailureSort::Final)
        }
        Err(error @ SysctlError::System { errno, .. }) => {
            failed(Some(errno), error.to_string(), sort_of(errno))
        }
        Err(error @ (SysctlError::BadName(_) | SysctlError::ReadOnly(_) | SysctlError::BadValue { .. })) => {
            failed(None, error.to_string(), FailureSort::Final)
        }
    }
}
