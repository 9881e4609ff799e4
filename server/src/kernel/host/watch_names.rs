//! Hears when somebody removes the name of a namespace, as `ip netns del` does.

use std::{os::fd::AsFd as _, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::sync::mpsc;

use crate::{hostnet::Loss, kernel::netns::SYSTEM_ROOT};

/// How often the thread looks whether anybody still listens.
const LOOKS_UP_EVERY: Duration = Duration::from_millis(500);
/// With its name a namespace that nobody is in dies, and its links with it.
const SETTLES_WITHIN: Duration = Duration::from_millis(50);

/// Starts to listen. It ends when nobody receives any more.
pub(super) fn start(tell: mpsc::Sender<Vec<Loss>>) -> Result<(), String> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(text)?;
    let thread = std::thread::Builder::new().name("watch-names".into());
    thread.spawn(move || listen(&inotify, &tell)).map_err(|error| error.to_string()).map(drop)
}

fn listen(inotify: &Inotify, tell: &mpsc::Sender<Vec<Loss>>) {
    let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_ONLYDIR;
    let mut watched = false;
    while !tell.is_closed() {
        // The first namespace makes the directory.
        watched = watched || inotify.add_watch(SYSTEM_ROOT, gone).is_ok();
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(LOOKS_UP_EVERY).unwrap_or(PollTimeout::MAX)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => std::thread::sleep(SETTLES_WITHIN),
            Err(errno) => return tracing::error!(%errno, "removed names of namespaces are heard no more"),
        }
        let events = match inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(errno) => return tracing::error!(%errno, "removed names of namespaces are heard no more"),
        };
        let mut losses = Vec::new();
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                losses.push(Loss::Unknown);
            }
            // The directory itself is gone; the next one is another.
            watched &= !event.mask.contains(AddWatchFlags::IN_IGNORED);
            let name = event.name.as_ref().and_then(|name| name.to_str()?.parse().ok());
            losses.extend(name.map(Loss::Namespace));
        }
        if !losses.is_empty() && tell.blocking_send(losses).is_err() {
            return;
        }
    }
}

fn text(errno: Errno) -> String {
    format!("inotify: {errno}")
}
