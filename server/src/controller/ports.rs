//! Host ports: held by a bound socket, so that no other process can take them, and refused when one has.

use netloom_api::{ErrorReason, PortForward, Uid};

use super::{Intent, edit::Edit};
use crate::{
    error::{Error, Result},
    kernel::claim::{self, ClaimError},
    world::{AnyStored, Stored, World},
};

/// Claims the ports of all forwards that an edit creates; tells whose. On an error none is held.
pub(super) fn claim(intent: &Intent, before: &World, edit: &Edit) -> Result<Vec<Uid>> {
    let mut claimed = Vec::new();
    for object in &edit.puts {
        let AnyStored::PortForward(forward) = object else { continue };
        if before.find(&forward.meta.uid).is_some() {
            continue;
        }
        match hold(forward) {
            Ok(held) => {
                intent.hold_ports(forward.meta.uid, held);
                claimed.push(forward.meta.uid);
            }
            Err(error) => {
                claimed.iter().for_each(|uid| intent.release_ports(uid));
                return Err(error);
            }
        }
    }
    Ok(claimed)
}

impl Intent {
    /// Claims the ports of every stored forward, at start. A port that is lost is told by the forward's status.
    pub fn reclaim_ports(&self) {
        for forward in self.committed().all::<PortForward>() {
            match hold(forward) {
                Ok(held) => self.hold_ports(forward.meta.uid, held),
                Err(error) => {
                    tracing::warn!(forward = %forward.meta.name, %error, "a host port is lost");
                    self.lose_ports(forward.meta.uid);
                }
            }
        }
    }
}

fn hold(forward: &Stored<PortForward>) -> Result<claim::Claim> {
    let listen = &forward.spec.listen;
    let ports = claim::Ports {
        protocol: forward.spec.protocol,
        address: listen.address,
        first: listen.port,
        last: listen.last_port(),
    };
    claim::claim(ports).map_err(|error| {
        let detail = error.to_string();
        match error {
            ClaimError::Taken { address, port } => {
                let detail =
                    format!("{} port {port} of {address} is used by another process", forward.spec.protocol);
                Error::new(ErrorReason::PortTaken, detail).with("port", port).at("spec.listen.port")
            }
            ClaimError::NotAnAddressHere { .. } => {
                Error::new(ErrorReason::InvalidArgument, detail).at("spec.listen.address")
            }
            ClaimError::Denied { .. } | ClaimError::BadRange { .. } | ClaimError::System { .. } => {
                Error::new(ErrorReason::Unavailable, format!("the port cannot be reserved: {detail}"))
            }
        }
    })
}
