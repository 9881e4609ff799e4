//! Steps become system calls: neighbouring steps of one sort go together.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
};

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use netloom_api::{Name, Uid};
use nix::errno::Errno;

use super::{Inner, message, observe, reap};
use crate::{
    hostnet::{Action, Facts, Failure, FailureSort, Outcome, Stack, Step, Sysctl, rules::Element},
    kernel::{
        announce,
        extack::KernelError,
        netns::NetnsError,
        socket::{RequestError, RouteSocket, create, request},
        sysctl::{self, Key, SysctlError},
        thread,
    },
};

/// Namespaces made at once: each is mostly the kernel's work under one lock.
const NAMESPACES_AT_ONCE: usize = 4;

pub(super) fn apply(inner: &Inner, steps: &[Step]) -> Vec<Outcome> {
    let mut work = Work { inner, outcomes: Vec::with_capacity(steps.len()), failed: BTreeSet::new() };
    let mut rest = steps;
    while let Some(first) = rest.first() {
        let sort = Sort::of(first);
        let count = rest.iter().take_while(|step| Sort::of(step) == sort).count();
        let (group, later) = rest.split_at(count);
        work.group(&sort, group);
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
    DeleteLink,
    /// One at a time: the next steps need what it made.
    Cable,
    In(Stack),
}

impl Sort {
    fn of(step: &Step) -> Self {
        match &step.action {
            Action::InstallRules => Sort::Install,
            Action::RemoveRule(_) | Action::AddRule(_) => Sort::Rules,
            Action::Forget(_) => Sort::Forget,
            Action::CreateNamespace { .. } => Sort::CreateNamespace,
            Action::DeleteNamespace { .. } => Sort::DeleteNamespace,
            Action::DeleteLink { .. } => Sort::DeleteLink,
            Action::CreateCable { .. } => Sort::Cable,
            Action::CreateBridge { .. } => Sort::In(Stack::Host),
            Action::SetLink { stack, .. } | Action::SetSysctl { stack, .. } => Sort::In(stack.clone()),
            Action::AddAddress(address) | Action::DeleteAddress(address) | Action::Announce(address) => {
                Sort::In(address.stack.clone())
            }
            Action::AddRoute(route) | Action::DeleteRoute(route) => Sort::In(route.stack.clone()),
        }
    }
}

struct Work<'a> {
    inner: &'a Inner,
    outcomes: Vec<Outcome>,
    failed: BTreeSet<Uid>,
}

impl Work<'_> {
    fn group(&mut self, sort: &Sort, steps: &[Step]) {
        let start = self.outcomes.len();
        match sort {
            Sort::Install => steps.iter().for_each(|_| self.outcomes.push(nft(self.inner.rules.ensure()))),
            Sort::Rules => self.rules(steps),
            Sort::Forget => {
                for step in steps {
                    if let Action::Forget(stale) = &step.action {
                        self.inner.flows.forget(stale);
                    }
                    self.outcomes.push(Outcome::Done(Facts::default()));
                }
            }
            Sort::CreateNamespace => self.create_namespaces(steps),
            Sort::DeleteNamespace => steps.iter().for_each(|step| self.delete_namespace(step)),
            Sort::DeleteLink => self.delete_links(steps),
            Sort::Cable => steps.iter().for_each(|step| self.create_cable(step)),
            Sort::In(Stack::Host) => {
                let outcomes = self.inner.with_socket(|socket| Ok(in_stack(socket, steps, &self.failed)));
                self.extend(outcomes.map_err(|error: RequestError| error.to_string()), steps.len());
            }
            Sort::In(Stack::Namespace(name)) => self.inside(name, steps),
        }
        for (step, outcome) in steps.iter().zip(&self.outcomes[start..]) {
            if let (Some(uid), Outcome::Failed(_)) = (step.uid, outcome) {
                self.failed.insert(uid);
            }
        }
    }

    fn extend(&mut self, outcomes: Result<Vec<Outcome>, String>, count: usize) {
        match outcomes {
            Ok(outcomes) => self.outcomes.extend(outcomes),
            Err(message) => self.outcomes.extend((0..count).map(|_| surprise(message.clone()))),
        }
    }

    fn is_skipped(&self, step: &Step) -> bool {
        step.uid.is_some_and(|uid| self.failed.contains(&uid))
    }

    fn rules(&mut self, steps: &[Step]) {
        let (mut remove, mut add): (Vec<Element>, Vec<Element>) = (Vec::new(), Vec::new());
        for step in steps {
            match &step.action {
                Action::RemoveRule(element) => remove.push(element.clone()),
                Action::AddRule(element) => add.push(element.clone()),
                _ => {}
            }
        }
        let outcome = nft(self.inner.rules.commit(remove, add));
        self.outcomes.extend(steps.iter().map(|_| outcome.clone()));
    }

    fn create_namespaces(&mut self, steps: &[Step]) {
        let inner = self.inner;
        for some in steps.chunks(NAMESPACES_AT_ONCE) {
            let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
                let spawn = |step| scope.spawn(move || create_namespace(inner, step));
                let running: Vec<_> = some.iter().map(spawn).collect();
                let join = |one: std::thread::ScopedJoinHandle<'_, Outcome>| {
                    one.join().unwrap_or_else(|_| passing("the thread that makes namespaces died".into()))
                };
                running.into_iter().map(join).collect()
            });
            self.outcomes.extend(outcomes);
        }
    }

    fn delete_namespace(&mut self, step: &Step) {
        let Action::DeleteNamespace { name } = &step.action else { return };
        if self.is_skipped(step) {
            self.outcomes.push(Outcome::Skipped);
            return;
        }
        let outcome = match observe::namespace_mark(self.inner, name.as_str()) {
            Ok(None) => Outcome::Done(Facts::default()),
            Ok(Some(mark)) if step.uid.is_none_or(|uid| mark.is_of(uid)) && mark.is_ours() => {
                match self.inner.namespaces.delete(name.as_str()) {
                    Ok(()) => Outcome::Done(Facts::default()),
                    Err(error) => passing(error.to_string()),
                }
            }
            // Somebody put another in its place: not ours to remove, and ours is gone.
            Ok(Some(_)) => Outcome::Done(Facts::default()),
            Err(error) => passing(error),
        };
        self.outcomes.push(outcome);
    }

    fn delete_links(&mut self, steps: &[Step]) {
        let names: Vec<String> = steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::DeleteLink { device } => Some(device.to_string()),
                _ => None,
            })
            .collect();
        self.outcomes.extend(reap::remove(self.inner, &names));
    }

    fn create_cable(&mut self, step: &Step) {
        if self.is_skipped(step) {
            self.outcomes.push(Outcome::Skipped);
            return;
        }
        let outcome = create_cable(self.inner, step).unwrap_or_else(|outcome| outcome);
        self.outcomes.push(outcome);
    }

    fn inside(&mut self, name: &Name, steps: &[Step]) {
        let failed = &self.failed;
        let entered =
            self.inner.namespaces.open(name.as_str()).map_err(|error| error.to_string()).and_then(|fd| {
                let work = || RouteSocket::open().map(|mut socket| in_stack(&mut socket, steps, failed));
                thread::run(&fd, "inside", work)
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())
            });
        self.extend(entered, steps.len());
    }
}

/// The namespace with its loopback up and its mark on it, then its name.
fn create_namespace(inner: &Inner, step: &Step) -> Outcome {
    let Action::CreateNamespace { name, uid } = &step.action else { return Outcome::Skipped };
    match observe::namespace_mark(inner, name.as_str()) {
        Ok(None) => {}
        Ok(Some(mark)) if mark == crate::hostnet::Mark::Object(*uid) => {
            return Outcome::Done(cookie(inner, name));
        }
        Ok(Some(_)) => {
            return Outcome::Failed(Failure {
                errno: Some(Errno::EEXIST as i32),
                message: format!("/run/netns/{name} exists and was not made by netloom"),
                sort: FailureSort::Conflict,
            });
        }
        Err(error) => return passing(error),
    }
    let alias = format!("{}{uid}", message::ALIAS_PREFIX);
    let made = thread::run_in_new("netns-add", move || -> Result<_, NetnsOrKernel> {
        let lo = rtnetlink::LinkMessageBuilder::<rtnetlink::LinkUnspec>::new()
            .name("lo")
            .alias(alias)
            .up()
            .build();
        let mut socket = RouteSocket::open()?;
        socket
            .batch(vec![request(RouteNetlinkMessage::SetLink(lo))])?
            .into_iter()
            .collect::<Result<(), _>>()?;
        Ok((crate::kernel::netns::own()?, crate::kernel::netns::own_cookie()?))
    });
    let pinned = made.map_err(|error| error.to_string()).and_then(|inside| {
        let (fd, cookie) = inside.map_err(|error| error.to_string())?;
        // A plain file is what a crash between the two halves of pinning leaves.
        match inner.namespaces.pin(name.as_str(), fd.as_fd()) {
            Err(NetnsError::Exists(_)) => {
                inner.namespaces.delete(name.as_str()).map_err(|error| error.to_string())?;
                inner.namespaces.pin(name.as_str(), fd.as_fd()).map_err(|error| error.to_string())?;
            }
            result => result.map_err(|error| error.to_string())?,
        }
        Ok(cookie)
    });
    match pinned {
        Ok(cookie) => Outcome::Done(Facts { cookie: Some(cookie), ..Facts::default() }),
        Err(error) => passing(error),
    }
}

#[derive(Debug, thiserror::Error)]
enum NetnsOrKernel {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Socket(#[from] crate::kernel::socket::SocketError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

fn cookie(inner: &Inner, name: &Name) -> Facts {
    let cookie = inner.namespaces.open(name.as_str()).and_then(crate::kernel::netns::cookie);
    Facts { cookie: cookie.ok(), ..Facts::default() }
}

fn create_cable(inner: &Inner, step: &Step) -> Result<Outcome, Outcome> {
    let Action::CreateCable { device, link, stack, interface, inside } = &step.action else {
        return Ok(Outcome::Skipped);
    };
    let namespace = match stack {
        Stack::Host => None,
        Stack::Namespace(name) => {
            let fd = inner.namespaces.open(name.as_str());
            Some(fd.map_err(|error| surprise(format!("namespace {name}: {error}")))?)
        }
    };
    let made = inner.with_socket(|socket| -> Result<Result<Facts, Outcome>, RequestError> {
        let master = match &link.master {
            None => None,
            Some(bridge) => match socket.link_by_name(bridge.as_str())? {
                Some(found) => Some(found.header.index),
                None => return Ok(Err(surprise(format!("there is no bridge {bridge}")))),
            },
        };
        let fd = namespace.as_ref().map(AsFd::as_fd);
        let cable = message::cable(device.as_str(), link, master, interface.as_str(), inside, fd);
        let what = create(RouteNetlinkMessage::NewLink(cable));
        if let Some(Err(error)) = socket.batch(vec![what])?.into_iter().next() {
            if error.errno == Errno::EXFULL {
                let bridge = link.master.as_ref().map(ToString::to_string).unwrap_or_default();
                let message =
                    format!("the bridge {bridge} has 1023 ports, the most that Linux takes ({error})");
                let errno = Some(error.errno as i32);
                return Ok(Err(Outcome::Failed(Failure { errno, message, sort: FailureSort::Final })));
            }
            return Ok(Err(refused(&error, true)));
        }
        let host = socket.link_by_name(device.as_str())?;
        let host_ifindex = host.as_ref().map(|link| link.header.index);
        let ifindex = host.and_then(|link| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Link(index) => Some(*index),
                _ => None,
            })
        });
        Ok(Ok(Facts { cookie: None, ifindex, host_ifindex }))
    });
    match made {
        Ok(Ok(facts)) => Ok(Outcome::Done(facts)),
        Ok(Err(outcome)) => Err(outcome),
        Err(error) => Err(surprise(error.to_string())),
    }
}

/// Steps of the stack that the calling thread and the socket are in. Messages go in one batch as long as nothing has to
/// be known of what an earlier one made.
fn in_stack(socket: &mut RouteSocket, steps: &[Step], failed_before: &BTreeSet<Uid>) -> Vec<Outcome> {
    let mut run = Run {
        socket,
        indices: BTreeMap::new(),
        pending: Vec::new(),
        outcomes: vec![Outcome::Skipped; steps.len()],
        failed: failed_before.clone(),
        to_close: Vec::new(),
    };
    for (at, step) in steps.iter().enumerate() {
        run.step(at, step);
    }
    run.flush();
    let to_close = run.to_close;
    if !to_close.is_empty() {
        // Each close waits for a grace period. When no thread can be had the closure, and so the wait, is here.
        drop(std::thread::Builder::new().name("closer".into()).spawn(move || drop(to_close)));
    }
    run.outcomes
}

struct Run<'a> {
    socket: &'a mut RouteSocket,
    indices: BTreeMap<String, u32>,
    pending: Vec<(usize, Option<Uid>, NetlinkMessage<RouteNetlinkMessage>)>,
    outcomes: Vec<Outcome>,
    failed: BTreeSet<Uid>,
    /// Sockets whose closing takes long.
    to_close: Vec<OwnedFd>,
}

impl Run<'_> {
    fn step(&mut self, at: usize, step: &Step) {
        if step.uid.is_some_and(|uid| self.failed.contains(&uid)) {
            return;
        }
        let message = match &step.action {
            Action::SetSysctl { stack: _, sysctl, value } => {
                // Written at once, so what comes before must have happened.
                self.flush();
                self.outcomes[at] = write(sysctl, value);
                self.note(at, step.uid);
                return;
            }
            Action::CreateBridge { device, link } => {
                self.flush();
                let bridge = create(RouteNetlinkMessage::NewLink(message::bridge(device.as_str(), link)));
                self.pending.push((at, step.uid, bridge));
                self.flush();
                let index = self.index(device.as_str());
                if let (Outcome::Done(facts), Ok(index)) = (&mut self.outcomes[at], index) {
                    facts.ifindex = Some(index);
                }
                return;
            }
            Action::SetLink { stack: _, link, change } => {
                let master = match &change.master {
                    Some(Some(bridge)) => self.index(bridge.as_str()).map(Some),
                    Some(None) | None => Ok(None),
                };
                master.map(|master| {
                    let message = message::change(link.as_str(), change, master);
                    // What a port is told lies in the link's info, which RTM_SETLINK passes over in silence.
                    request(match change.hairpin {
                        Some(_) => RouteNetlinkMessage::NewLink(message),
                        None => RouteNetlinkMessage::SetLink(message),
                    })
                })
            }
            Action::AddAddress(address) => self
                .index(address.link.as_str())
                .map(|index| create(RouteNetlinkMessage::NewAddress(message::address(index, address.net)))),
            Action::DeleteAddress(address) => self
                .index(address.link.as_str())
                .map(|index| request(RouteNetlinkMessage::DelAddress(message::address(index, address.net)))),
            Action::AddRoute(route) => {
                self.route(route).map(|one| create(RouteNetlinkMessage::NewRoute(one)))
            }
            Action::DeleteRoute(route) => {
                self.route(route).map(|one| request(RouteNetlinkMessage::DelRoute(one)))
            }
            Action::Announce(address) => {
                self.flush();
                match announce::announce(address.link.as_str(), address.net.addr()) {
                    Ok(socket) => self.to_close.push(socket),
                    // Neighbours learn of it by themselves, a little later.
                    Err(error) => tracing::debug!(%error, %address, "not announced"),
                }
                self.outcomes[at] = Outcome::Done(Facts::default());
                return;
            }
            Action::CreateNamespace { .. }
            | Action::DeleteNamespace { .. }
            | Action::CreateCable { .. }
            | Action::DeleteLink { .. }
            | Action::InstallRules
            | Action::Forget(_)
            | Action::RemoveRule(_)
            | Action::AddRule(_) => return,
        };
        match message {
            Ok(message) => self.pending.push((at, step.uid, message)),
            Err(outcome) => {
                self.outcomes[at] = outcome;
                self.note(at, step.uid);
            }
        }
    }

    fn route(
        &mut self,
        route: &crate::hostnet::Route,
    ) -> Result<netlink_packet_route::route::RouteMessage, Outcome> {
        let index = self.index(route.link.as_str())?;
        message::route(index, route).ok_or_else(|| passing(format!("{route}: families differ")))
    }

    fn index(&mut self, name: &str) -> Result<u32, Outcome> {
        if let Some(index) = self.indices.get(name) {
            return Ok(*index);
        }
        let found: Option<LinkMessage> =
            self.socket.link_by_name(name).map_err(|error| surprise(error.to_string()))?;
        let index = found
            .map(|link| link.header.index)
            .ok_or_else(|| surprise(format!("there is no link {name}")))?;
        self.indices.insert(name.to_owned(), index);
        Ok(index)
    }

    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let messages = pending.iter().map(|(_, _, message)| message.clone()).collect();
        match self.socket.batch(messages) {
            Ok(results) => {
                for ((at, uid, message), result) in pending.into_iter().zip(results) {
                    self.outcomes[at] = match result {
                        Ok(()) => Outcome::Done(Facts::default()),
                        Err(error) => outcome_of(&error, &message),
                    };
                    self.note(at, uid);
                }
            }
            Err(error) => {
                for (at, uid, _) in pending {
                    self.outcomes[at] = surprise(error.to_string());
                    self.note(at, uid);
                }
            }
        }
    }

    fn note(&mut self, at: usize, uid: Option<Uid>) {
        if let (Outcome::Failed(_), Some(uid)) = (&self.outcomes[at], uid) {
            self.failed.insert(uid);
        }
    }
}

fn write(sysctl: &Sysctl, value: &str) -> Outcome {
    let key = match Key::named(&sysctl.path()) {
        Ok(key) => key,
        Err(error) => return passing(error.to_string()),
    };
    match sysctl::write(&key, value) {
        Ok(_) => Outcome::Done(Facts::default()),
        // No IPv6 at all is as good as IPv6 switched off.
        Err(SysctlError::Missing(_)) if sysctl.path().starts_with("net/ipv6/") => {
            Outcome::Done(Facts::default())
        }
        Err(error @ SysctlError::Missing(_)) => surprise(error.to_string()),
        Err(error) => {
            Outcome::Failed(Failure { errno: None, message: error.to_string(), sort: FailureSort::Final })
        }
    }
}

/// What is so already is success.
fn outcome_of(error: &KernelError, message: &NetlinkMessage<RouteNetlinkMessage>) -> Outcome {
    use netlink_packet_core::NetlinkPayload::InnerMessage;
    let done = match &message.payload {
        InnerMessage(RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::NewRoute(_)) => {
            error.errno == Errno::EEXIST
        }
        InnerMessage(RouteNetlinkMessage::DelAddress(_)) => {
            matches!(error.errno, Errno::EADDRNOTAVAIL | Errno::ENODEV)
        }
        InnerMessage(RouteNetlinkMessage::DelRoute(_)) => matches!(error.errno, Errno::ESRCH | Errno::ENODEV),
        _ => false,
    };
    if done { Outcome::Done(Facts::default()) } else { refused(error, false) }
}

fn refused(error: &KernelError, creates: bool) -> Outcome {
    let sort = match error.errno {
        Errno::EEXIST if creates => FailureSort::Surprise,
        Errno::ENODEV | Errno::ENOENT | Errno::EEXIST => FailureSort::Surprise,
        Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EXFULL | Errno::ENOSPC | Errno::ERANGE => {
            FailureSort::Final
        }
        _ => FailureSort::Passing,
    };
    Outcome::Failed(Failure { errno: Some(error.errno as i32), message: error.to_string(), sort })
}

fn nft(result: Result<(), crate::kernel::nft::NftError>) -> Outcome {
    use crate::kernel::nft::NftError;
    match result {
        Ok(()) => Outcome::Done(Facts::default()),
        Err(NftError::Kernel(error)) => {
            let sort = match error.errno {
                Errno::ENOENT | Errno::EEXIST => FailureSort::Surprise,
                _ => FailureSort::Passing,
            };
            Outcome::Failed(Failure { errno: Some(error.errno as i32), message: error.to_string(), sort })
        }
        Err(error) => passing(error.to_string()),
    }
}

fn passing(message: String) -> Outcome {
    Outcome::Failed(Failure { errno: None, message, sort: FailureSort::Passing })
}

fn surprise(message: String) -> Outcome {
    Outcome::Failed(Failure { errno: None, message, sort: FailureSort::Surprise })
}
