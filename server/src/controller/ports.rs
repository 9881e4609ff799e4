//! Host ports: held by a bound socket, so that no other process can take them, and refused when one has.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use netloom_api::{ErrorReason, Name, PortForward, Protocol, Uid};

use super::{Intent, edit::Edit};
use crate::{
    error::Error,
    kernel::claim::{self, Claim, ClaimError},
    world::{AnyStored, Listen, Stored, World, listens},
};

/// Host ports that are ours, each by its socket.
#[derive(Default)]
pub(super) struct Ports(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// Each belongs to the forward that had it last: who gives one back gives only its own.
    sockets: HashMap<Listen, (Uid, Claim)>,
    /// Forwards of which another process has a port.
    lost: HashSet<Uid>,
}

/// What a write did to the held ports; to be kept, or undone.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// Ports that are new.
    taken: Vec<Listen>,
    /// Ports that another forward had.
    moved: Vec<(Listen, Uid)>,
    /// Ports that had to make room, since the same number was wanted on another address.
    given: Vec<(Listen, Uid)>,
}

/// A port could not be had. Nothing has changed.
pub(super) struct Refused {
    pub error: Error,
    /// Another process has this port, which was netloom's own choice: another may do.
    pub choice: Option<(Protocol, u16)>,
    /// Of the port.
    pub protocol: Protocol,
    /// The forward that wants it.
    pub name: Name,
}

/// The ports of a stored forward.
fn of(forward: &Stored<PortForward>) -> impl Iterator<Item = Listen> + use<> {
    listens(forward.spec.protocol, &forward.listen())
}

fn forwards(edit: &Edit) -> impl Iterator<Item = &Stored<PortForward>> {
    edit.puts.iter().filter_map(|object| match object {
        AnyStored::PortForward(forward) => Some(&**forward),
        _ => None,
    })
}

/// The forward as it was before an edit.
fn before_of<'w>(before: &'w World, forward: &Stored<PortForward>) -> Option<&'w Stored<PortForward>> {
    let old = before.get::<PortForward>(&forward.meta.name)?;
    (old.meta.uid == forward.meta.uid).then_some(&**old)
}

/// The ports that an edit gives back, each with who had it.
fn freed(before: &World, edit: &Edit) -> BTreeSet<(Listen, Uid)> {
    let old = forwards(edit).filter_map(|forward| before_of(before, forward));
    let old = old.flat_map(|forward| of(forward).map(|listen| (listen, forward.meta.uid)));
    old.filter(|(listen, _)| !edit.world.publishes(listen)).collect()
}

/// The ports of forwards that an edit deletes. They are given back when the kernel is done with them, or taken over at
/// once by another forward of the edit.
fn left(before: &World, edit: &Edit) -> BTreeSet<(Listen, Uid)> {
    let leaves = forwards(edit).filter(|forward| edit.leaves(&forward.meta.name));
    let old = leaves.filter_map(|forward| before_of(before, forward));
    old.flat_map(|forward| of(forward).map(|listen| (listen, forward.meta.uid))).collect()
}

impl Ports {
    /// Claims the ports that an edit adds. On an error all is as before.
    pub(super) fn claim(&self, before: &World, edit: &Edit) -> Result<Claimed, Refused> {
        let mut held = self.lock();
        let mut freed = freed(before, edit);
        freed.append(&mut left(before, edit));
        let mut claimed = Claimed::default();
        for forward in forwards(edit).filter(|forward| forward.meta.delete_time.is_none()) {
            let had: BTreeSet<Listen> = before_of(before, forward).into_iter().flat_map(of).collect();
            for listen in of(forward).filter(|listen| !had.contains(listen)) {
                if let Err(error) = held.take(listen, forward.meta.uid, &freed, &mut claimed) {
                    held.undo(claimed);
                    let ours = forward.spec.listen.is_chosen() && matches!(error, ClaimError::Taken { .. });
                    let choice = ours.then_some((listen.0, listen.1));
                    return Err(Refused {
                        error: refusal(&error, listen.0),
                        choice,
                        protocol: listen.0,
                        name: forward.meta.name.clone(),
                    });
                }
            }
        }
        Ok(claimed)
    }

    /// The write did not come to be.
    pub(super) fn undo(&self, claimed: Claimed) {
        self.lock().undo(claimed);
    }

    /// The write has come to be: what it gave back is free for others now.
    pub(super) fn settle(&self, before: &World, edit: &Edit) {
        let mut held = self.lock();
        for (listen, uid) in freed(before, edit) {
            held.give_back(listen, uid);
        }
        for forward in forwards(edit).filter(|forward| held.has_all(forward)).collect::<Vec<_>>() {
            held.lost.remove(&forward.meta.uid);
        }
    }

    /// A forward's row is gone.
    pub(super) fn drop_all(&self, forward: &Stored<PortForward>) {
        let mut held = self.lock();
        for listen in of(forward) {
            held.give_back(listen, forward.meta.uid);
        }
        held.lost.remove(&forward.meta.uid);
    }
}

impl Held {
    fn take(
        &mut self,
        listen: Listen,
        uid: Uid,
        freed: &BTreeSet<(Listen, Uid)>,
        claimed: &mut Claimed,
    ) -> Result<(), ClaimError> {
        if let Some((holder, _)) = self.sockets.get_mut(&listen) {
            claimed.moved.push((listen, std::mem::replace(holder, uid)));
            return Ok(());
        }
        let near = |(old, _): &&(Listen, Uid)| (old.0, old.1) == (listen.0, listen.1);
        let socket = match bind(listen) {
            Err(ClaimError::Taken { .. }) if freed.iter().any(|one| near(&one)) => {
                // It is our own that is in the way.
                for old in freed.iter().filter(near) {
                    if self.sockets.remove(&old.0).is_some() {
                        claimed.given.push(*old);
                    }
                }
                bind(listen)?
            }
            result => result?,
        };
        self.sockets.insert(listen, (uid, socket));
        claimed.taken.push(listen);
        Ok(())
    }

    fn undo(&mut self, claimed: Claimed) {
        let Claimed { taken, moved, given } = claimed;
        for listen in taken {
            self.sockets.remove(&listen);
        }
        for (listen, uid) in moved {
            self.sockets.entry(listen).and_modify(|(holder, _)| *holder = uid);
        }
        for (listen, uid) in given {
            match bind(listen) {
                Ok(socket) => drop(self.sockets.insert(listen, (uid, socket))),
                // The next full pass tells the forward's status.
                Err(error) => tracing::warn!(%error, "a host port was lost while a change was refused"),
            }
        }
    }

    fn give_back(&mut self, listen: Listen, uid: Uid) {
        if self.sockets.get(&listen).is_some_and(|(holder, _)| *holder == uid) {
            self.sockets.remove(&listen);
        }
    }

    fn has_all(&self, forward: &Stored<PortForward>) -> bool {
        of(forward).all(|listen| self.sockets.contains_key(&listen))
    }

    fn complete(&mut self, forward: &Stored<PortForward>) -> Result<(), ClaimError> {
        for listen in of(forward) {
            if self.sockets.get(&listen).is_none_or(|(_, socket)| !socket.is_whole()) {
                self.sockets.remove(&listen);
                self.sockets.insert(listen, (forward.meta.uid, bind(listen)?));
            }
        }
        Ok(())
    }
}

impl Ports {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intent {
    /// Claims the ports of every stored forward that are not held: all of them at start, later those that were lost. A
    /// port that is lost is told by the forward's status.
    pub fn reclaim_ports(&self) {
        // First the lock: what is given back after a write is not taken again by what was before it.
        let mut held = self.ports.lock();
        let world = self.committed();
        // One that is being deleted keeps what it has, and may have left it to another.
        for forward in world.all::<PortForward>().filter(|forward| forward.meta.delete_time.is_none()) {
            match held.complete(forward) {
                Ok(()) => drop(held.lost.remove(&forward.meta.uid)),
                Err(error) => {
                    if held.lost.insert(forward.meta.uid) {
                        tracing::warn!(forward = %forward.meta.name, %error, "a host port is lost");
                    }
                }
            }
        }
    }

    /// Whether another process has a forward's port.
    pub fn port_is_lost(&self, uid: &Uid) -> bool {
        self.ports.lock().lost.contains(uid)
    }
}

fn bind((protocol, port, address): Listen) -> Result<Claim, ClaimError> {
    claim::claim(claim::Ports { protocol, address, first: port, last: port })
}

fn refusal(error: &ClaimError, protocol: Protocol) -> Error {
    let detail = error.to_string();
    match error {
        ClaimError::Taken { address, port } => {
            let detail = format!("{protocol} port {port} of {address} is used by another process");
            Error::new(ErrorReason::PortTaken, detail).with("port", port).at("spec.listen.port")
        }
        ClaimError::NotAnAddressHere { .. } => {
            Error::new(ErrorReason::InvalidArgument, detail).at("spec.listen.address")
        }
        ClaimError::Denied { .. } | ClaimError::BadRange { .. } | ClaimError::System { .. } => {
            Error::new(ErrorReason::Unavailable, format!("the port cannot be reserved: {detail}"))
        }
    }
}

/// Names the process that has a port which was refused; to be asked without a lock, for it looks through all processes.
pub(super) async fn with_holder(mut error: Error, protocol: Option<Protocol>) -> Error {
    let port = error.metadata.get("port").and_then(|port| port.parse::<u16>().ok());
    let (ErrorReason::PortTaken, Some(port), Some(protocol)) = (error.reason, port, protocol) else {
        return error;
    };
    let holder = tokio::task::spawn_blocking(move || crate::kernel::holder::of_port(protocol, port)).await;
    if let Ok(Some(holder)) = holder {
        error.detail = error.detail.replace("another process", &holder);
        error = error.with("process", holder);
    }
    error
}
