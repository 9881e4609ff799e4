//! Forgets flows, off the way of whoever waits: the rules hold already, so a flow that lives a few milliseconds longer is
//! judged wrong for as long and no longer, while one look through a large conntrack table takes that time (9 ms for
//! 262 144 buckets, seen on Linux 6.18).

use std::{
    collections::BTreeSet,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use crate::{hostnet::flows::Stale, kernel::conntrack::Conntrack};

/// Changes that may wait; more make the next one wait, too.
const QUEUE: usize = 256;

/// Speaks to the thread that forgets.
pub(super) struct FlowForgetter(SyncSender<BTreeSet<Stale>>);

impl FlowForgetter {
    /// Starts the thread in the calling thread's namespace; it ends with the last handle.
    pub(super) fn start() -> Result<Self, super::KernelOpenError> {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("conntrack".into());
        thread.spawn(move || forget(&receiver)).map_err(super::KernelOpenError::Thread)?;
        Ok(Self(sender))
    }

    /// Has the flows forgotten soon.
    pub(super) fn forget(&self, stale: &BTreeSet<Stale>) {
        if self.0.send(stale.clone()).is_err() {
            tracing::error!("the thread that forgets flows has died; stale flows live until they time out");
        }
    }
}

fn forget(queue: &Receiver<BTreeSet<Stale>>) {
    let mut conntrack = None;
    while let Ok(mut stale) = queue.recv() {
        // One look for all that has queued up.
        while let Ok(more) = queue.try_recv() {
            stale.extend(more);
        }
        let all: Vec<Stale> = stale.into_iter().collect();
        let open = conntrack.take().map_or_else(Conntrack::open, Ok);
        let done = open.and_then(|mut open| open.forget(&all).map(|()| open));
        match done {
            Ok(open) => conntrack = Some(open),
            Err(error) => {
                tracing::warn!(%error, "stale flows were not forgotten; they live until they time out")
            }
        }
    }
}
