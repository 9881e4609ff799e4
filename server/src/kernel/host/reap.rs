//! Links go away here. The kernel lets the caller of RTM_DELLINK wait some 30 ms in an RCU barrier after the link is
//! gone, its event sent and the lock free; so reapers wait, and the answer is given when the link cannot be found.

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::{Duration, Instant},
};

use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use netloom_api::{IfName, Name, Uid};
use nix::errno::Errno;

use super::{
    Inner, OpenError,
    dump::mark,
    outcome::{done, lost, of_netns, of_request, passing, refused},
};
use crate::{
    hostnet::{Action, Outcome, Stack, Step},
    kernel::{
        netns::NetnsError,
        socket::{RequestError, RouteSocket, SocketError, request},
        thread,
    },
};

/// Links that go at once, for one caller.
const AT_ONCE: usize = 16;
/// Reapers that live at once, nearly all of them asleep behind links that are gone already.
const MOST_REAPERS: usize = 64;
const STACK: usize = 256 * 1024;
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// How many reapers live.
#[derive(Default)]
pub(super) struct Seats {
    taken: Mutex<usize>,
    freed: Condvar,
}

/// A reaper's, until it is done.
struct Seat(Arc<Seats>);

impl Seats {
    fn take(self: &Arc<Self>) -> Option<Seat> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |taken: &mut usize| *taken >= MOST_REAPERS;
        let waited = self.freed.wait_timeout_while(taken, GIVE_UP_AFTER, full);
        let (mut taken, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        *taken += 1;
        Some(Seat(self.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

/// Removes links side by side; answers for each once it cannot be found any more.
pub(super) fn remove(inner: &Inner, steps: &[Step], failed: &BTreeSet<Uid>) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(steps.len());
    for some in steps.chunks(AT_ONCE) {
        let running: Vec<_> = some.iter().map(|step| start(inner, step, failed)).collect();
        outcomes.extend(running.into_iter().map(|one| match one {
            Ok(dying) => dying.end(inner),
            Err(outcome) => outcome,
        }));
    }
    outcomes
}

/// A link that a reaper is at.
struct Dying<'a> {
    link: &'a IfName,
    index: u32,
    eye: Eye,
    answered: Receiver<Result<(), RequestError>>,
}

/// Starts a reaper. An error is the answer: there is nothing to wait for.
fn start<'a>(inner: &Inner, step: &'a Step, failed: &BTreeSet<Uid>) -> Result<Dying<'a>, Outcome> {
    let Action::DeleteLink { stack, link } = &step.action else { return Err(Outcome::Skipped) };
    if step.uid.is_some_and(|uid| failed.contains(&uid)) {
        return Err(Outcome::Skipped);
    }
    let Some((mut eye, hand)) = Eye::open(inner, stack)? else { return Err(done()) };
    let found = eye.look(inner, |socket| socket.link_by_name(link.as_str()));
    let Some(found) = found.map_err(|error| of_request(link, &error))? else { return Err(done()) };
    let mark = mark(&found);
    if !step.uid.map_or(mark.is_ours(), |uid| mark.is_of(uid)) {
        // Another has its name: not ours to remove, and ours is gone.
        return Err(done());
    }
    let index = found.header.index;
    let seat = inner.reapers.take().ok_or_else(|| passing(format!("{link}: all reapers are busy")))?;
    let (answer, answered) = sync_channel(1);
    let work = move || {
        let removed = reap(hand, index);
        drop(seat);
        // Whoever saw the link gone before does not listen any more.
        drop(answer.send(removed));
    };
    let builder = std::thread::Builder::new().name("reaper".into()).stack_size(STACK);
    builder.spawn(work).map_err(|error| passing(format!("no reaper: {error}")))?;
    Ok(Dying { link, index, eye, answered })
}

/// Looks at a stack: with one of the host's sockets, or one that was opened in a namespace, for this once.
enum Eye {
    Host,
    Inside(RouteSocket),
}

impl Eye {
    /// An eye, and a hand where the host's own does not reach. `None`: the namespace is gone, and its links with it.
    fn open(inner: &Inner, stack: &Stack) -> Result<Option<(Self, Option<RouteSocket>)>, Outcome> {
        let Stack::Namespace(name) = stack else { return Ok(Some((Eye::Host, None))) };
        let Some(namespace) = enter(inner, name)? else { return Ok(None) };
        let open = || Ok((RouteSocket::open()?, RouteSocket::open_with_timeout(GIVE_UP_AFTER)?));
        let opened =
            thread::run(&namespace, "reap-inside", open).map_err(|error| passing(error.to_string()))?;
        let (eye, hand) = opened.map_err(|error: SocketError| lost(&error))?;
        Ok(Some((Eye::Inside(eye), Some(hand))))
    }

    fn look(
        &mut self,
        inner: &Inner,
        at: impl FnOnce(&mut RouteSocket) -> Result<Option<LinkMessage>, RequestError>,
    ) -> Result<Option<LinkMessage>, RequestError> {
        match self {
            Eye::Host => inner.with_socket(at),
            Eye::Inside(socket) => at(socket),
        }
    }
}

/// The namespace; `None` when it is gone, or another thing has its name.
fn enter(inner: &Inner, name: &Name) -> Result<Option<OwnedFd>, Outcome> {
    if inner.known(name).is_some_and(|known| known.alloc.adopted.is_some()) {
        return match inner.open(name) {
            Ok(namespace) => Ok(Some(namespace)),
            Err(OpenError::Gone(_)) => Ok(None),
            Err(OpenError::Failed(why)) => Err(passing(why)),
        };
    }
    match inner.namespaces.open(name.as_str()) {
        Ok(namespace) => Ok(Some(namespace)),
        Err(
            NetnsError::Missing(_)
            | NetnsError::Unpinned(_)
            | NetnsError::NotANamespace(_)
            | NetnsError::Symlink(_),
        ) => Ok(None),
        Err(error) => Err(of_netns(&error)),
    }
}

fn reap(hand: Option<RouteSocket>, index: u32) -> Result<(), RequestError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let message = request(RouteNetlinkMessage::DelLink(message));
    let mut hand = hand.map_or_else(|| RouteSocket::open_with_timeout(GIVE_UP_AFTER), Ok)?;
    hand.request_reply(message).map(drop)
}

impl Dying<'_> {
    /// Waits until the link is gone, not until the reaper is.
    fn end(self, inner: &Inner) -> Outcome {
        let Self { link, index, mut eye, answered } = self;
        let started = Instant::now();
        let mut patience = Duration::from_micros(100);
        loop {
            match answered.recv_timeout(patience) {
                Ok(Ok(())) => return done(),
                Ok(Err(RequestError::Kernel(error))) => {
                    // Who says that there is none is right if there is none.
                    let is_gone = error.errno == Errno::ENODEV
                        && matches!(eye.look(inner, |socket| socket.link_by_index(index)), Ok(None));
                    return if is_gone { done() } else { refused(link, &error) };
                }
                Ok(Err(RequestError::Socket(error))) => return lost(&error),
                Err(RecvTimeoutError::Disconnected) => return passing(format!("{link}: the reaper died")),
                Err(RecvTimeoutError::Timeout) => {}
            }
            match eye.look(inner, |socket| socket.link_by_index(index)) {
                Ok(None) => return done(),
                Ok(Some(_)) | Err(_) if started.elapsed() > GIVE_UP_AFTER => {
                    return passing(format!("{link} does not go away"));
                }
                Ok(Some(_)) | Err(_) => patience = (patience * 2).min(Duration::from_millis(5)),
            }
        }
    }
}
