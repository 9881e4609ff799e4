//! What one stack has now, in the kernel's own words.

use std::{collections::BTreeMap, net::IpAddr, os::fd::OwnedFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    route::{RouteAttribute, RouteMessage, RouteProtocol},
};
use netloom_api::{Attachment, InterfaceState, NamespaceState, NeighbourState, ProcessState, RouteState};
use nix::sys::stat::fstat;

use super::{
    Inner,
    dump::{Dump, Routes, address_of, destination, ip_of, kind, mark, routes},
};
use crate::{
    hostnet::{Mark, PROTOCOL, Stack},
    kernel::{
        process,
        socket::{DumpError, RouteSocket},
        thread,
    },
    world::World,
};

/// Of one state.
const MOST_PROCESSES: usize = 256;

pub(super) fn state(inner: &Inner, stack: &Stack, world: &World) -> Result<NamespaceState, String> {
    let mut inside = Vec::new();
    let Taken { dump, routes, neighbours } = match stack {
        Stack::Host => inner.with_socket(take).map_err(|error| error.to_string())?,
        Stack::Namespace(name) => {
            let fd = inner.open(name).map_err(|error| error.to_string())?;
            inside = processes(&fd, MOST_PROCESSES)?.0;
            let work = || RouteSocket::open().map(|mut socket| take(&mut socket));
            let taken = thread::run(&fd, "state", work).map_err(|error| error.to_string())?;
            taken.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?
        }
    };
    let names: BTreeMap<u32, String> =
        dump.links.iter().map(|link| (link.header.index, name_of(link))).collect();
    let rules = inner.rules.dump().map_err(|error| error.to_string())?;
    let wanted = concerns(stack, world);
    let rules = rules.elements.iter().map(ToString::to_string);
    Ok(NamespaceState {
        name: stack.to_string(),
        interfaces: dump.links.iter().map(|link| interface(link, &dump.addresses, &names, world)).collect(),
        routes: routes.iter().filter_map(|message| route(message, &names)).collect(),
        neighbours: sorted(neighbours.iter().filter_map(|message| neighbour(message, &names)).collect()),
        rules: rules
            .filter(|line| wanted.as_ref().is_none_or(|words| words.iter().any(|word| has(line, word))))
            .collect(),
        processes: inside,
    })
}

/// The processes inside, in the order of their pids, at most so many; and how many there are.
pub(super) fn processes(namespace: &OwnedFd, most: usize) -> Result<(Vec<ProcessState>, usize), String> {
    let failed = |error: &dyn std::fmt::Display| format!("the processes inside are not known: {error}");
    let stat = fstat(namespace).map_err(|errno| failed(&errno))?;
    let pids = process::pids_in(stat.st_ino).map_err(|error| failed(&error))?;
    Ok((pids.iter().filter_map(|pid| process::describe(*pid)).take(most).collect(), pids.len()))
}

struct Taken {
    dump: Dump,
    routes: Vec<RouteMessage>,
    neighbours: Vec<NeighbourMessage>,
}

fn take(socket: &mut RouteSocket) -> Result<Taken, DumpError> {
    let dump = Dump::take(socket)?;
    let routes = routes(socket, Routes::All)?;
    let mut neighbours = Vec::new();
    for one in socket.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))? {
        if let RouteNetlinkMessage::NewNeighbour(neighbour) = one {
            neighbours.push(neighbour);
        }
    }
    Ok(Taken { dump, routes, neighbours })
}

/// By interface and address: the kernel's own order is that of its hash table, another one after every start.
fn sorted(mut neighbours: Vec<NeighbourState>) -> Vec<NeighbourState> {
    neighbours.sort_by_key(|one| (one.interface.clone(), one.address.parse::<IpAddr>().ok()));
    neighbours
}

/// The words that an element about this stack has; `None`: all elements are about it.
fn concerns(stack: &Stack, world: &World) -> Option<Vec<String>> {
    let Stack::Namespace(name) = stack else { return None };
    let attachments = world.attachments_in(name).filter_map(|name| world.get::<Attachment>(name));
    Some(
        attachments
            .flat_map(|one| {
                let addresses = one.alloc.addresses.iter().map(|address| address.0.addr().to_string());
                addresses.chain([format!("\"{}\"", one.alloc.host_device)]).collect::<Vec<_>>()
            })
            .collect(),
    )
}

/// Whether the word stands in the line by itself: 10.0.0.1 is not in 10.0.0.11.
fn has(line: &str, word: &str) -> bool {
    line.split(' ').any(|part| part == word)
}

pub(super) fn name_of(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}

pub(super) fn interface(
    link: &LinkMessage,
    addresses: &[AddressMessage],
    names: &BTreeMap<u32, String>,
    world: &World,
) -> InterfaceState {
    let mut state = InterfaceState {
        ifindex: link.header.index,
        name: name_of(link),
        type_: kind(link),
        up: link.header.flags.contains(LinkFlags::Up),
        ..InterfaceState::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) if bytes.len() == 6 => {
                state.mac =
                    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"));
            }
            LinkAttribute::Mtu(mtu) => state.mtu = *mtu,
            LinkAttribute::OperState(operstate) => state.operstate = format!("{operstate:?}").to_lowercase(),
            LinkAttribute::Controller(index) => state.master = names.get(index).cloned(),
            _ => {}
        }
    }
    let mine = addresses.iter().filter(|message| message.header.index == link.header.index);
    state.addresses =
        mine.filter_map(|message| address_of(message).map(|(net, _)| net.to_string())).collect();
    if let Mark::Object(uid) = mark(link) {
        state.owner = world.find(&uid).map(|(kind, name)| format!("{kind}/{name}"));
    }
    state
}

pub(super) fn route(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<RouteState> {
    const LOCAL_TABLE: u32 = 255;
    let mut state = RouteState { table: u32::from(message.header.table), ..RouteState::default() };
    let net = destination(message)?;
    state.destination = if net.prefix_len() == 0 { "default".into() } else { net.to_string() };
    state.type_ = format!("{:?}", message.header.kind).to_lowercase();
    state.protocol = match message.header.protocol {
        RouteProtocol::Other(PROTOCOL) => "netloom".into(),
        RouteProtocol::Other(number) => number.to_string(),
        named => format!("{named:?}").to_lowercase(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => state.via = ip_of(address).map(|via| via.to_string()),
            RouteAttribute::Oif(index) => state.interface = names.get(index).cloned(),
            RouteAttribute::PrefSource(address) => {
                state.source = ip_of(address).map(|source| source.to_string())
            }
            RouteAttribute::Priority(metric) => state.metric = Some(*metric),
            RouteAttribute::Table(table) => state.table = *table,
            _ => {}
        }
    }
    // `ip route` does not show them either: one per address, and the kernel's own.
    (state.table != LOCAL_TABLE).then_some(state)
}

pub(super) fn neighbour(message: &NeighbourMessage, names: &BTreeMap<u32, String>) -> Option<NeighbourState> {
    let mut state = NeighbourState {
        interface: names.get(&message.header.ifindex)?.clone(),
        state: format!("{:?}", message.header.state).to_lowercase(),
        ..NeighbourState::default()
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                state.address = address.to_string()
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                state.address = address.to_string()
            }
            NeighbourAttribute::LinkLayerAddress(bytes) if bytes.len() == 6 => {
                state.mac =
                    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"));
            }
            _ => {}
        }
    }
    (!state.address.is_empty() && state.state != "noarp").then_some(state)
}
