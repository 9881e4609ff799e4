//! A thread that hears what policies drop and tell of.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::{
    hostnet::rules::{LOG_GROUP, LOGGED_BYTES},
    kernel::nflog::{LogError, Logged, PacketLog},
};

/// How often the thread looks whether anybody still listens.
const LOOKS_UP_EVERY: Duration = Duration::from_millis(500);

/// Listens in the network namespace of the calling thread; ends when nobody receives any more.
pub(super) fn start(tell: mpsc::Sender<Vec<Logged>>) -> Result<(), String> {
    let log = PacketLog::open(LOG_GROUP, LOGGED_BYTES).map_err(|error| error.to_string())?;
    let thread = std::thread::Builder::new().name("policy-drops".into());
    let listen = move || {
        if let Err(error) = listen(log, &tell) {
            tracing::error!(%error, "drops by policies are heard of no more");
        }
    };
    thread.spawn(listen).map_err(|error| error.to_string()).map(drop)
}

fn listen(mut log: PacketLog, tell: &mpsc::Sender<Vec<Logged>>) -> Result<(), LogError> {
    while !tell.is_closed() {
        let logged = log.next(LOOKS_UP_EVERY)?;
        // Whoever tells them has enough to do already: they are counted all the same.
        if !logged.is_empty() && tell.try_send(logged).is_err() {
            tracing::debug!("drops by policies were not told");
        }
    }
    Ok(())
}
