//! When a bridge's port carries frames. A cable that is up at both ends does not yet: the kernel tells the bridge of the
//! carrier from a work queue, at once or, when both ends happen to have the same index, up to a second later. Asking for
//! the one link makes it do so now (Linux ≥ 6.8).

use std::time::{Duration, Instant};

use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo, LinkMessage, State,
};

use super::Inner;

/// Longer than the kernel's slow way takes.
const PATIENCE: Duration = Duration::from_millis(1100);

/// Waits until the link of this index forwards as a port. Without an answer in time, or where it never will, nothing is
/// lost but frames.
pub(super) fn await_forwarding(inner: &Inner, index: u32) {
    let started = Instant::now();
    let mut pause = Duration::from_micros(50);
    loop {
        match inner.with_socket(|socket| socket.link_by_index(index)) {
            Ok(Some(link)) if state(&link).is_none_or(|state| state == BridgePortState::Forwarding) => return,
            // Its carrier is known, and it is no port that forwards: the bridge is down, or learns first.
            Ok(Some(link)) if is_up(&link) && pause > Duration::from_millis(5) => return,
            Ok(Some(_)) if started.elapsed() < PATIENCE => {}
            Ok(_) | Err(_) => return tracing::debug!(index, "the port does not forward yet"),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn is_up(link: &LinkMessage) -> bool {
    link.attributes.contains(&LinkAttribute::OperState(State::Up))
}

fn state(link: &LinkMessage) -> Option<BridgePortState> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => Some(data),
        _ => None,
    })?;
    data.iter().find_map(|one| match one {
        InfoBridgePort::State(state) => Some(*state),
        _ => None,
    })
}
