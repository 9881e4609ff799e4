//! Intent with the choices written into it.

use netloom_api::{AnyDraft, Subnet};

use crate::world::AnyStored;

/// The object as a caller would send it who wants exactly what netloom chose: subnets, gateways and MTUs, addresses, MACs,
/// interface names, ports. What follows from an identity, as the device of a bridge that names none, does not go along.
pub(super) fn pin(object: &AnyStored) -> AnyDraft {
    let mut draft = object.to_draft();
    match (&mut draft, object) {
        (AnyDraft::Network(draft), AnyStored::Network(network)) => {
            let wanted = std::mem::take(&mut draft.spec.subnets);
            let subnets = network.alloc.subnets.iter().enumerate().map(|(index, chosen)| Subnet {
                cidr: Some(chosen.cidr),
                gateway: Some(chosen.gateway),
                ..wanted.get(index).cloned().unwrap_or_default()
            });
            draft.spec.subnets = subnets.collect();
            draft.spec.mtu = Some(network.mtu());
        }
        (AnyDraft::Attachment(draft), AnyStored::Attachment(attachment)) => {
            let chosen = &attachment.alloc;
            draft.spec.addresses = chosen.addresses.iter().map(|address| address.0.addr()).collect();
            draft.spec.mac = Some(chosen.mac);
            draft.spec.interface = Some(chosen.interface.clone());
            draft.spec.default_route = Some(chosen.default_route);
            draft.spec.metric = chosen.default_route.then_some(chosen.metric).or(draft.spec.metric);
        }
        (AnyDraft::PortForward(draft), AnyStored::PortForward(forward)) => {
            draft.spec.listen = forward.listen();
        }
        (AnyDraft::Reservation(draft), AnyStored::Reservation(reservation)) => {
            draft.spec.address = Some(reservation.alloc.address);
        }
        // A Namespace leaves nothing open; and a draft is of its object's kind.
        (_, _) => {}
    }
    draft
}
