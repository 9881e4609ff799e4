//! Forgets flows, off the way of whoever waits: the rules hold already, so a flow that lives a few milliseconds longer is
//! judged wrong for as long and no longer, while one look through a large conntrack table takes that time (9 ms for
//! 262 144 buckets, seen on Linux 6.18).

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

use super::dump::address_of;
use crate::{
    hostnet::flows::Stale,
    kernel::{conntrack::Conntrack, socket::RouteSocket},
};

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
        let all = on_host(stale);
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

/// With the host's own addresses, where they matter. Unknown ones are no reason to keep what needs none.
fn on_host(stale: BTreeSet<Stale>) -> Vec<Stale> {
    if !stale.iter().any(Stale::needs_host) {
        return stale.into_iter().collect();
    }
    match own_addresses() {
        Ok(own) => {
            stale.into_iter().map(|one| if one.needs_host() { one.on_host(&own) } else { one }).collect()
        }
        Err(why) => {
            tracing::warn!(%why, "the host's addresses are not known; some stale flows live until they time out");
            stale.into_iter().filter(|one| !one.needs_host()).collect()
        }
    }
}

/// All addresses of the host, those of our bridges too.
fn own_addresses() -> Result<BTreeSet<IpAddr>, String> {
    let mut socket = RouteSocket::open().map_err(|error| error.to_string())?;
    let addresses = super::dump::addresses(&mut socket).map_err(|error| error.to_string())?;
    Ok(addresses.iter().filter_map(|message| Some(address_of(message)?.0.addr())).collect())
}
