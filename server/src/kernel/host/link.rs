//! Bridges and cables are made here, each with one message.

use std::os::fd::BorrowedFd;

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use netloom_api::IfName;
use nix::errno::Errno;

use super::{
    dump::{Dump, kind, mark},
    inside::Known,
    message,
    outcome::{conflict, failed, of_request, refused, surprise},
};
use crate::{
    hostnet::{Action, Facts, FailureSort, Outcome, Stack, Step},
    kernel::socket::{RequestError, RouteSocket, create, request},
};

/// Makes a cable; the socket is in the near end's stack, and `far_namespace` is the far end's, unless it is the same.
pub(super) fn create_cable(
    socket: &mut RouteSocket,
    step: &Step,
    far_namespace: Option<BorrowedFd<'_>>,
    known: &Known,
) -> Result<Facts, Outcome> {
    let Action::CreateCable { near, far } = &step.action else { return Err(Outcome::Skipped) };
    let (device, bridge) = (&near.name, near.link.master.as_ref());
    let master = bridge.map(|bridge| our_bridge(socket, bridge, known)).transpose()?;
    let cable = message::cable(near, master, far, far_namespace);
    match make(socket, create(RouteNetlinkMessage::NewLink(cable))) {
        Ok(()) => {}
        Err(RequestError::Kernel(error)) if error.errno == Errno::EXFULL => {
            let bridge = bridge.map(ToString::to_string).unwrap_or_default();
            let message = format!("the bridge {bridge} has 1023 ports, the most that Linux takes ({error})");
            return Err(failed(Some(error.errno), message, FailureSort::Final));
        }
        Err(error) => return Err(of_request(device, &error)),
    }
    let made = found(socket, device)?;
    let ifindex = made.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    Ok(Facts { cookie: None, ifindex, near_ifindex: Some(made.header.index) })
}

/// Makes a link that stands alone: a bridge or a queue.
pub(super) fn create_alone(
    socket: &mut RouteSocket,
    device: &IfName,
    link: LinkMessage,
) -> Result<Facts, Outcome> {
    let link = create(RouteNetlinkMessage::NewLink(link));
    make(socket, link).map_err(|error| of_request(device, &error))?;
    Ok(Facts { ifindex: Some(found(socket, device)?.header.index), ..Facts::default() })
}

/// Every answer but an acknowledgement is an error, also one that cannot be read: then it is unknown what was made.
fn make(socket: &mut RouteSocket, message: NetlinkMessage<RouteNetlinkMessage>) -> Result<(), RequestError> {
    socket.request_reply(message).map(drop)
}

fn found(socket: &mut RouteSocket, device: &IfName) -> Result<LinkMessage, Outcome> {
    let link = socket.link_by_name(device.as_str()).map_err(|error| of_request(device, &error))?;
    link.ok_or_else(|| surprise(format!("{device} was made, and is gone")))
}

/// The user's own bridge, which a Network says it may use.
pub(super) fn users_bridge(
    socket: &mut RouteSocket,
    bridge: &IfName,
    keep_mac: bool,
) -> Result<u32, Outcome> {
    let found = socket.link_by_name(bridge.as_str()).map_err(|error| of_request(bridge, &error))?;
    match found {
        Some(found) if mark(&found).is_ours() => Err(conflict(format!("{bridge} was made by netloom"))),
        Some(found) if kind(&found) == "bridge" => {
            if keep_mac {
                fix_mac(socket, bridge, &found)?;
            }
            Ok(found.header.index)
        }
        Some(_) => Err(conflict(format!("the device {bridge} is no bridge"))),
        None => Err(conflict(format!("there is no bridge {bridge} on the host"))),
    }
}

/// Sets the MAC address that a bridge without ports of others has: the value stays, and from now on stays with it.
fn fix_mac(socket: &mut RouteSocket, name: &IfName, bridge: &LinkMessage) -> Result<(), Outcome> {
    let index = bridge.header.index;
    let dump = Dump::take(socket).map_err(|error| surprise(error.to_string()))?;
    let is_port = |link: &&LinkMessage| link.attributes.contains(&LinkAttribute::Controller(index));
    if dump.links.iter().filter(is_port).any(|port| !mark(port).is_ours()) {
        return Ok(());
    }
    let mut same = LinkMessage::default();
    same.header.index = index;
    let is_mac = |attribute: &&LinkAttribute| matches!(attribute, LinkAttribute::Address(_));
    same.attributes.extend(bridge.attributes.iter().find(is_mac).cloned());
    let set = socket.request_reply(request(RouteNetlinkMessage::SetLink(same)));
    set.map(drop).map_err(|error| of_request(name, &error))
}

/// A stranger's bridge never gets a port from us, unless these steps have seen that we may use it.
fn our_bridge(socket: &mut RouteSocket, bridge: &IfName, known: &Known) -> Result<u32, Outcome> {
    if let Some(index) = known.get(&(Stack::Host, bridge.clone())) {
        return Ok(*index);
    }
    match socket.link_by_name(bridge.as_str()) {
        Ok(Some(found)) if mark(&found).is_ours() => Ok(found.header.index),
        Ok(Some(_)) => Err(conflict(format!("the device {bridge} was not made by netloom"))),
        Ok(None) => Err(surprise(format!("there is no bridge {bridge}"))),
        Err(RequestError::Kernel(error)) => Err(refused(bridge, &error)),
        Err(RequestError::Socket(error)) => Err(super::outcome::lost(&error)),
    }
}
