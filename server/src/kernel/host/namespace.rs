//! Namespaces come and go here. One bears its mark, the alias of its loopback, before it has a name.

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    time::{Duration, SystemTime},
};

use netlink_packet_route::RouteNetlinkMessage;
use netloom_api::{Name, Uid};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{
    Inner,
    dump::{Dump, alias_mark},
    message,
    outcome::{conflict, done, failed, of_netns, passing},
};
use crate::{
    hostnet::{Action, Facts, FailureSort, Mark, Outcome, Step},
    kernel::{
        adopt::{self as kernel_adopt, FindError},
        netns::{NetnsError, cookie},
        socket::{RequestError, RouteSocket, request},
        thread,
    },
};

/// Namespaces made at once: each is mostly the kernel's work under one lock.
const AT_ONCE: usize = 4;
/// A plain file of this age is a leftover; a younger one may be what `ip netns add` is about to mount over.
const LEFTOVER_AFTER: Duration = Duration::from_millis(200);

/// Makes namespaces side by side.
pub(super) fn create(inner: &Inner, steps: &[Step], failed: &BTreeSet<Uid>) -> Vec<Outcome> {
    if let [one] = steps {
        return vec![create_one(inner, one, failed)];
    }
    let mut outcomes = Vec::with_capacity(steps.len());
    for some in steps.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let spawn = |step| {
                let builder = std::thread::Builder::new().name("netns-add".into());
                builder.spawn_scoped(scope, move || create_one(inner, step, failed))
            };
            let running: Vec<_> = some.iter().map(spawn).collect();
            outcomes.extend(running.into_iter().map(|one| match one.map(|thread| thread.join()) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => passing("the thread that makes namespaces died".into()),
                Err(error) => passing(format!("no thread: {error}")),
            }));
        });
    }
    outcomes
}

/// Removes a namespace's name if it still bears this object's mark.
pub(super) fn delete(inner: &Inner, step: &Step, name: &Name) -> Outcome {
    match mark(inner, name.as_str()) {
        Ok(None) => done(),
        Ok(Some(Mark::Object(uid))) if step.uid == Some(uid) => {
            inner.namespaces.delete(name.as_str()).map_or_else(|error| of_netns(&error), |()| done())
        }
        // Another has its name: not ours to remove, and ours is gone.
        Ok(Some(_)) => done(),
        Err(error) => passing(error),
    }
}

/// Whose a pinned namespace is: its loopback tells. `None` when nothing is pinned there.
pub(super) fn mark(inner: &Inner, name: &str) -> Result<Option<Mark>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("namespace {name}: {error}");
    match inner.namespaces.open(name) {
        Err(NetnsError::Missing(_) | NetnsError::Unpinned(_)) => Ok(None),
        Err(NetnsError::NotANamespace(_) | NetnsError::Symlink(_)) => Ok(Some(Mark::Foreign)),
        Err(error) => Err(failed(&error)),
        Ok(fd) => {
            let look = || -> Result<Mark, RequestError> { mark_here(&mut RouteSocket::open()?) };
            let looked = thread::run(&fd, "netns-mark", look).map_err(|error| failed(&error))?;
            looked.map(Some).map_err(|error| failed(&error))
        }
    }
}

/// Whose the namespace of this socket is.
pub(super) fn mark_here(socket: &mut RouteSocket) -> Result<Mark, RequestError> {
    Ok(socket.link_by_name("lo")?.as_ref().map_or(Mark::Foreign, alias_mark))
}

/// What a namespace shows of itself.
pub(super) struct Look {
    pub(super) mark: Mark,
    pub(super) interfaces: Vec<String>,
}

/// Looks into a namespace.
pub(super) fn look(namespace: &OwnedFd) -> Result<Look, String> {
    let work = || -> Result<Look, String> {
        let mut socket = RouteSocket::open().map_err(|error| error.to_string())?;
        let mark = mark_here(&mut socket).map_err(|error| error.to_string())?;
        let dump = Dump::take(&mut socket).map_err(|error| error.to_string())?;
        Ok(Look { mark, interfaces: dump.links.iter().map(super::state::name_of).collect() })
    };
    thread::run(namespace, "look", work).map_err(|error| error.to_string())?
}

/// Sees that an adopted namespace is there.
pub(super) fn adopt(inner: &Inner, step: &Step, cookie: u64) -> Outcome {
    let Action::Adopt { name, adopted: _ } = &step.action else { return Outcome::Skipped };
    match open_adopted(inner, name) {
        Ok(Some(_)) => outcome(Ok(cookie)),
        Ok(None) => passing(format!("the adoption of {name} is not known")),
        Err(outcome) => outcome,
    }
}

/// The namespace of this name, if it is adopted.
pub(super) fn open_adopted(inner: &Inner, name: &Name) -> Result<Option<OwnedFd>, Outcome> {
    let Some(adoption) = inner.known(name).and_then(|known| known.alloc.adopted.clone()) else {
        return Ok(None);
    };
    kernel_adopt::find(&adoption, inner.roots()).map(Some).map_err(|error| match error {
        FindError::Gone(why) => failed(None, why, FailureSort::Gone),
        FindError::Unknown(why) => passing(why),
    })
}

/// Opens a managed namespace, in whose place somebody else may have put another.
pub(super) fn open(inner: &Inner, name: &Name) -> Result<OwnedFd, Outcome> {
    inner.namespaces.open(name.as_str()).map_err(|error| match error {
        NetnsError::Missing(_) | NetnsError::Unpinned(_) => {
            super::outcome::surprise(format!("there is no namespace {name}"))
        }
        NetnsError::NotANamespace(_) | NetnsError::Symlink(_) => not_ours(name),
        error => of_netns(&error),
    })
}

pub(super) fn not_ours(name: &Name) -> Outcome {
    conflict(format!("/run/netns/{name} exists and was not made by netloom"))
}

fn create_one(inner: &Inner, step: &Step, failed: &BTreeSet<Uid>) -> Outcome {
    let Action::CreateNamespace { name, uid } = &step.action else { return Outcome::Skipped };
    if step.uid.is_some_and(|uid| failed.contains(&uid)) {
        return Outcome::Skipped;
    }
    match inner.namespaces.create_with(name.as_str(), || prepare(*uid)) {
        Err(NetnsError::Exists(_)) => {}
        made => return outcome(made.map(|(held, ())| held.cookie)),
    }
    match found(inner, name) {
        Ok(Some(Mark::Object(other))) if other == *uid => {
            outcome(inner.namespaces.open(name.as_str()).and_then(cookie))
        }
        Ok(Some(_)) => not_ours(name),
        Ok(None) => {
            let again = inner.namespaces.remove_leftover(name.as_str());
            let made = again.and_then(|()| inner.namespaces.create_with(name.as_str(), || prepare(*uid)));
            outcome(made.map(|(held, ())| held.cookie))
        }
        Err(error) => passing(error),
    }
}

/// What has the name. `None`: a plain file that nobody is about to mount over.
fn found(inner: &Inner, name: &Name) -> Result<Option<Mark>, String> {
    if let Some(mark) = mark(inner, name.as_str())? {
        return Ok(Some(mark));
    }
    let made = std::fs::symlink_metadata(inner.namespaces.path(name.as_str())).and_then(|it| it.modified());
    let age = made.ok().and_then(|made| SystemTime::now().duration_since(made).ok()).unwrap_or_default();
    std::thread::sleep(LEFTOVER_AFTER.saturating_sub(age));
    mark(inner, name.as_str())
}

/// In the new namespace, while only a descriptor holds it: loopback up, and the mark on it.
fn prepare(uid: Uid) -> Result<(), RequestError> {
    let alias = format!("{}{uid}", message::ALIAS_PREFIX);
    let lo = LinkMessageBuilder::<LinkUnspec>::new().name("lo").alias(alias).up().build();
    RouteSocket::open()?.request_reply(request(RouteNetlinkMessage::SetLink(lo))).map(drop)
}

fn outcome(made: Result<u64, NetnsError>) -> Outcome {
    match made {
        Ok(cookie) => Outcome::Done(Facts { cookie: Some(cookie), ..Facts::default() }),
        Err(error) => of_netns(&error),
    }
}
