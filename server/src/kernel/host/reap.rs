//! Links go away here. The kernel lets the caller of RTM_DELLINK wait some 30 ms in an RCU barrier after the link is
//! gone, its event sent and the lock free; so reapers wait, and the answer is given when the link cannot be found.

use std::{
    sync::mpsc::{RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use nix::errno::Errno;

use super::Inner;
use crate::{
    hostnet::{Facts, Failure, FailureSort, Outcome},
    kernel::socket::{RouteSocket, SocketError, request},
};

/// Reapers at once; each is asleep nearly all of the time.
const REAPERS: usize = 16;
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// Removes links side by side; answers for each once it cannot be found any more.
pub(super) fn remove(inner: &Inner, names: &[String]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for some in names.chunks(REAPERS) {
        let running: Vec<_> = some.iter().map(|name| reap(inner, name)).collect();
        outcomes.extend(running.into_iter().map(|running| running.unwrap_or_else(|outcome| outcome)));
    }
    outcomes
}

/// Starts a reaper and waits until the link is gone, not until the reaper is.
fn reap(inner: &Inner, name: &str) -> Result<Outcome, Outcome> {
    let found =
        inner.with_socket(|socket| socket.link_by_name(name)).map_err(|error| passing(error.to_string()))?;
    let Some(link) = found else { return Ok(Outcome::Done(Facts::default())) };
    let index = link.header.index;
    let (answer, answered) = sync_channel(1);
    let work = move || {
        let removed = RouteSocket::open_with_timeout(GIVE_UP_AFTER).and_then(|mut socket| {
            let mut message = LinkMessage::default();
            message.header.index = index;
            socket.batch(vec![request(RouteNetlinkMessage::DelLink(message))])
        });
        // Whoever saw the link gone before does not listen any more.
        drop(answer.send(removed));
    };
    let thread = std::thread::Builder::new().name("reaper".into()).spawn(work);
    thread.map_err(|error| passing(format!("no reaper: {error}")))?;
    let started = Instant::now();
    let mut patience = Duration::from_micros(100);
    loop {
        match answered.recv_timeout(patience) {
            Ok(Ok(results)) => return Ok(outcome(name, results.into_iter().next())),
            Ok(Err(error)) => return Ok(broken(&error)),
            Err(RecvTimeoutError::Disconnected) => return Err(passing("the reaper died".into())),
            Err(RecvTimeoutError::Timeout) => {}
        }
        match inner.with_socket(|socket| socket.link_by_index(index)) {
            Ok(None) => return Ok(Outcome::Done(Facts::default())),
            Ok(Some(_)) | Err(_) if started.elapsed() > GIVE_UP_AFTER => {
                return Err(passing(format!("{name} does not go away")));
            }
            Ok(Some(_)) | Err(_) => patience = (patience * 2).min(Duration::from_millis(5)),
        }
    }
}

fn outcome(name: &str, result: Option<Result<(), crate::kernel::extack::KernelError>>) -> Outcome {
    match result {
        Some(Ok(())) => Outcome::Done(Facts::default()),
        Some(Err(error)) if matches!(error.errno, Errno::ENODEV | Errno::ENXIO) => {
            Outcome::Done(Facts::default())
        }
        Some(Err(error)) => Outcome::Failed(Failure {
            errno: Some(error.errno as i32),
            message: format!("{name}: {error}"),
            sort: FailureSort::Passing,
        }),
        None => passing(format!("{name}: no answer")),
    }
}

fn broken(error: &SocketError) -> Outcome {
    passing(error.to_string())
}

fn passing(message: String) -> Outcome {
    Outcome::Failed(Failure { errno: None, message, sort: FailureSort::Passing })
}
