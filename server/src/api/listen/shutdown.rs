//! The word that the daemon stops, for whoever waits on something that does not end by itself.

use tokio::sync::watch;

/// Tells that the daemon stops; an extension of every request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Says it. Dropping it says it too.
#[derive(Debug)]
pub(super) struct Trigger(watch::Sender<bool>);

impl Shutdown {
    pub(super) fn new() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Shutdown(receiver))
    }

    /// Whether the daemon stops.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Resolves when the daemon stops. Safe to drop at any time.
    pub async fn begun(&self) {
        // An error means that the trigger is gone: nothing serves any more.
        let _ = self.0.clone().wait_for(|begun| *begun).await;
    }
}

impl Trigger {
    pub(super) fn pull(&self) {
        self.0.send_replace(true);
    }
}
