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
    dump::mark,
    message,
    outcome::{conflict, failed, of_request, refused, surprise},
};
use crate::{
    hostnet::{Action, Facts, FailureSort, Outcome, Step},
    kernel::socket::{RequestError, RouteSocket, create},
};

/// Makes a cable whose other end is in `namespace`, or here.
pub(super) fn create_cable(
    socket: &mut RouteSocket,
    step: &Step,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<Facts, Outcome> {
    let Action::CreateCable { device, link, stack: _, interface, inside } = &step.action else {
        return Err(Outcome::Skipped);
    };
    let master = link.master.as_ref().map(|bridge| our_bridge(socket, bridge)).transpose()?;
    let cable = message::cable(device.as_str(), link, master, interface.as_str(), inside, namespace);
    match make(socket, create(RouteNetlinkMessage::NewLink(cable))) {
        Ok(()) => {}
        Err(RequestError::Kernel(error)) if error.errno == Errno::EXFULL => {
            let bridge = link.master.as_ref().map(ToString::to_string).unwrap_or_default();
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
    Ok(Facts { cookie: None, ifindex, host_ifindex: Some(made.header.index) })
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

/// A stranger's bridge never gets a port from us.
fn our_bridge(socket: &mut RouteSocket, bridge: &IfName) -> Result<u32, Outcome> {
    match socket.link_by_name(bridge.as_str()) {
        Ok(Some(found)) if mark(&found).is_ours() => Ok(found.header.index),
        Ok(Some(_)) => Err(conflict(format!("the device {bridge} was not made by netloom"))),
        Ok(None) => Err(surprise(format!("there is no bridge {bridge}"))),
        Err(RequestError::Kernel(error)) => Err(refused(bridge, &error)),
        Err(RequestError::Socket(error)) => Err(super::outcome::lost(&error)),
    }
}
