//! An object as the doors show it: intent from the World, status from the board, counts from the indices.

use netloom_api::{
    AnyObject, Attachment, AttachmentStatus, Condition, ConditionStatus, Event, EventType, Kind, Link,
    LinkEndStatus, LinkStatus, Name, Namespace, NamespaceStatus, Network, NetworkStatus, Object, Policy,
    PolicyStatus, PortForward, PortForwardStatus, PortRange, Reservation, ReservationStatus, Route,
    RouteStatus, Status, SubnetStatus, Timestamp, Uid,
};

use super::Caller;
use crate::{
    error::{Error, Result},
    hostnet::Way,
    ipam,
    reconcile::board::{Board, Entry},
    world::{AnyStored, Stored, World, WorldNoun},
};

/// Counts above this are shown as this: more does not survive a JSON number.
const COUNT_MAX: i64 = (1 << 53) - 1;

/// A noun's own part of the status.
pub trait Render: WorldNoun {
    /// From what is stored, what is around it, and what the kernel chose.
    fn status(object: &Stored<Self>, world: &World, entry: &Entry) -> Self::Status;
}

/// The object as the doors show it.
pub(super) fn object<N: Render>(object: &Stored<N>, world: &World, board: &Board) -> Object<N> {
    let entry = board.get(&object.meta.uid).unwrap_or_else(|| {
        let mut entry = Entry::pending();
        entry.ready.last_transition_time = object.meta.create_time;
        entry
    });
    let noun = N::status(object, world, &entry);
    let ready = settled(entry.ready, object.meta.delete_time);
    let status = Status { observed_generation: ready.observed_generation, conditions: vec![ready], noun };
    Object { meta: object.meta.clone(), spec: object.spec.clone(), status, plan: None }
}

/// What is being deleted is not ready, whatever was last heard of it.
fn settled(mut ready: Condition, delete_time: Option<Timestamp>) -> Condition {
    if let Some(since) = delete_time
        && ready.status == ConditionStatus::True
    {
        ready.status = ConditionStatus::False;
        ready.reason = netloom_api::ConditionReason::Deleting;
        ready.last_transition_time = since;
    }
    ready
}

/// The object as one of any noun.
pub(super) fn any(stored: &AnyStored, world: &World, board: &Board) -> AnyObject {
    match stored {
        AnyStored::Namespace(one) => object::<Namespace>(one, world, board).into(),
        AnyStored::Network(one) => object::<Network>(one, world, board).into(),
        AnyStored::Attachment(one) => object::<Attachment>(one, world, board).into(),
        AnyStored::PortForward(one) => object::<PortForward>(one, world, board).into(),
        AnyStored::Reservation(one) => object::<Reservation>(one, world, board).into(),
        AnyStored::Route(one) => object::<Route>(one, world, board).into(),
        AnyStored::Link(one) => object::<Link>(one, world, board).into(),
        AnyStored::Policy(one) => object::<Policy>(one, world, board).into(),
    }
}

/// What happened to an object, for the log; its position is given when it is written.
pub(super) fn event(
    type_: EventType,
    stored: &AnyStored,
    world: &World,
    board: &Board,
    caller: Option<&Caller>,
) -> Event {
    let shown = any(stored, world, board);
    let meta = stored.meta();
    let ready = shown.ready().cloned();
    Event {
        seq: 0,
        time: Timestamp::now(),
        type_,
        kind: stored.kind(),
        name: meta.name.clone(),
        uid: meta.uid,
        generation: meta.generation,
        actor: caller.map(|caller| caller.actor.clone()),
        request_id: caller.map(|caller| caller.trace.clone()),
        reason: ready.as_ref().map(|ready| ready.reason.as_str().to_owned()),
        message: ready.map(|ready| ready.message).filter(|message| !message.is_empty()),
        object: Some(shown),
    }
}

/// Of the host as a whole: the built-in Namespace, which is no object.
pub(super) fn event_of_host(type_: EventType) -> Result<Event> {
    Ok(Event {
        seq: 0,
        time: Timestamp::now(),
        type_,
        kind: Kind::Namespace,
        name: "host".parse().map_err(Error::internal)?,
        uid: Uid::HOST,
        generation: 0,
        actor: None,
        request_id: None,
        reason: None,
        message: None,
        object: None,
    })
}

fn count(iterator: impl Iterator) -> u32 {
    u32::try_from(iterator.count()).unwrap_or(u32::MAX)
}

impl Render for Namespace {
    fn status(object: &Stored<Self>, world: &World, entry: &Entry) -> NamespaceStatus {
        let name: &Name = &object.meta.name;
        let adopted = object.alloc.adopted.as_ref();
        let path = match adopted {
            Some(adoption) => adoption.path.as_ref().map(ToString::to_string),
            None => Some(format!("{}/{name}", crate::kernel::netns::SYSTEM_ROOT)),
        };
        NamespaceStatus {
            path,
            cookie: entry.facts.cookie.or(adopted.map(|adoption| adoption.cookie)),
            attachments: count(world.attachments_in(name)),
        }
    }
}

impl Render for Network {
    fn status(object: &Stored<Self>, world: &World, entry: &Entry) -> NetworkStatus {
        let subnets = object.alloc.subnets.iter().enumerate().map(|(index, subnet)| {
            let ranges = object.spec.subnets.get(index).map_or(&[][..], |subnet| &subnet.ranges);
            let room = ipam::Subnet { cidr: subnet.cidr, ranges };
            let size = i64::try_from(room.capacity()).unwrap_or(COUNT_MAX).min(COUNT_MAX);
            let spans = room.spans();
            let used: usize =
                spans.map(|(first, last)| world.used_between(&object.meta.name, first, last).count()).sum();
            let used = i64::try_from(used).unwrap_or(COUNT_MAX);
            SubnetStatus { cidr: subnet.cidr, gateway: subnet.gateway, size, used, free: size - used }
        });
        NetworkStatus {
            device: Some(object.alloc.device.clone()),
            ifindex: entry.facts.ifindex,
            mac: Some(object.alloc.mac),
            mtu: Some(object.mtu()),
            subnets: subnets.collect(),
            attachments: count(world.attachments_on(&object.meta.name)),
        }
    }
}

impl Render for Attachment {
    fn status(object: &Stored<Self>, world: &World, entry: &Entry) -> AttachmentStatus {
        let network = world.get::<Network>(&object.spec.network);
        AttachmentStatus {
            addresses: object.alloc.addresses.clone(),
            mac: Some(object.alloc.mac),
            interface: Some(object.alloc.interface.clone()),
            ifindex: entry.facts.ifindex,
            host_device: Some(object.alloc.host_device.clone()),
            host_ifindex: entry.facts.near_ifindex,
            mtu: network.map(|network| crate::want::attachment_mtu(object, network)),
            default_route: Some(object.alloc.default_route),
            metric: object.alloc.default_route.then_some(object.alloc.metric),
            bandwidth: network.and_then(|network| {
                Some(object.spec.bandwidth?.effective(crate::want::attachment_mtu(object, network)))
            }),
        }
    }
}

impl Render for PortForward {
    fn status(object: &Stored<Self>, world: &World, _entry: &Entry) -> PortForwardStatus {
        let listen = object.listen();
        let span = listen.last_port() - listen.port;
        let first = object.target_port();
        let attachment = world.get::<Attachment>(&object.spec.target.attachment);
        let targets =
            attachment.map(|attachment| crate::want::targets(object, attachment).collect::<Vec<_>>());
        let target = targets.unwrap_or_default().into_iter().map(|address| PortRange {
            address: Some(address),
            port: first,
            end_port: first + span,
        });
        PortForwardStatus {
            listen: vec![PortRange {
                address: listen.address,
                port: listen.port,
                end_port: listen.last_port(),
            }],
            target: target.collect(),
        }
    }
}

impl Render for Reservation {
    fn status(object: &Stored<Self>, _world: &World, _entry: &Entry) -> ReservationStatus {
        ReservationStatus { address: Some(object.alloc.address) }
    }
}

impl Render for Route {
    fn status(object: &Stored<Self>, world: &World, _entry: &Entry) -> RouteStatus {
        let spec = &object.spec;
        let device = match crate::want::way(world, spec, &object.alloc) {
            Ok(Way::Through { link, .. }) => Some(link),
            Ok(Way::Blackhole | Way::Unreachable | Way::Prohibit) | Err(_) => None,
        };
        RouteStatus {
            device,
            metric: Some(spec.metric()),
            table: Some(spec.table()),
            type_: Some(spec.type_()),
        }
    }
}

impl Render for Link {
    fn status(object: &Stored<Self>, _world: &World, entry: &Entry) -> LinkStatus {
        let [first, second] = &object.spec.ends;
        // Near is the end that comes first in the order of stacks and names.
        let place = |end: &netloom_api::LinkEnd| (crate::want::stack_of(end), end.interface.clone());
        let (near, far) = (entry.facts.near_ifindex, entry.facts.ifindex);
        let indices = if place(first) < place(second) { [near, far] } else { [far, near] };
        let ends = object.spec.ends.iter().zip(indices).zip(object.alloc.macs);
        LinkStatus {
            ends: ends
                .map(|((end, ifindex), mac)| LinkEndStatus {
                    namespace: end.namespace.clone(),
                    interface: end.interface.clone(),
                    ifindex,
                    mac: Some(mac),
                })
                .collect(),
            mtu: Some(object.spec.mtu()),
        }
    }
}

impl Render for Policy {
    fn status(object: &Stored<Self>, world: &World, _entry: &Entry) -> PolicyStatus {
        PolicyStatus {
            directions: object.spec.directions().collect(),
            selected: count(world.selected(object).into_iter()),
        }
    }
}
