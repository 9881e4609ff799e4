//! What the kernel has of what bears our marks, and what stands in our way. An error means unknown, never absent.
//!
//! Of a stranger's namespace only the loopback is asked whose it is: nothing in it can keep us from seeing our own.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{address::AddressMessage, route::RouteMessage};
use netloom_api::{IfName, Mac, Name, Namespace};

use super::{
    Inner,
    cables::{self, Cables},
    dump::{Dump, Routes, address_of, ifname, kind, mark, place_of, route_of, routes},
    namespace::mark_here,
    tc,
};
use crate::{
    hostnet::{Address, Adopted, HostNet, Link, LinkKind, Mark, Part, Route, Stack, Sysctl},
    kernel::{
        adopt::{self, FindError},
        netns::{self, EntryKind, NetnsError},
        socket::{DumpError, RequestError, RouteSocket},
        sysctl::{self, Key, SysctlError},
        thread,
    },
    world::{Stored, World},
};

/// So many namespaces are looked into one after the other; more are shared by threads.
const FEW: usize = 16;
/// Threads that look into namespaces.
const SIDE_BY_SIDE: usize = 4;

/// One stack.
pub(super) struct Seen {
    pub(super) stack: Stack,
    pub(super) dump: Dump,
    routes: Vec<RouteMessage>,
    sysctls: Vec<(Sysctl, String)>,
}

/// All of it, or the host and a part of the namespaces.
pub(super) fn observe(inner: &Inner, part: Option<&Part>) -> Result<HostNet, String> {
    let is_in = |name: &Name| part.is_none_or(|part| part.namespaces.contains(name));
    let mut net = HostNet::default();
    let host = inner.with_socket(|socket| Seen::take(socket, Stack::Host)).map_err(text)?;
    let mut inside = Vec::new();
    let world = inner.world();
    let is_adopted =
        |name: &Name| world.get::<Namespace>(name).is_some_and(|one| one.alloc.adopted.is_some());
    let pinned = inner.namespaces.list().map_err(text)?.into_iter().filter_map(|entry| {
        // A name that no object can have is nobody's that we know.
        let name = entry.name.parse::<Name>().ok()?;
        (entry.kind != EntryKind::Unpinned && is_in(&name)).then_some(name)
    });
    let pinned: Vec<Name> = pinned.collect();
    for (name, look) in pinned.iter().zip(look_into_all(inner, &world, &pinned)) {
        let mark = match look? {
            Look::Gone => continue,
            Look::Stranger => Mark::Foreign,
            Look::Ours(mark, seen) => {
                if !is_adopted(name) {
                    inside.push(seen);
                }
                mark
            }
        };
        net.namespaces.insert(name.clone(), mark);
    }
    for namespace in
        world.all_adopted().filter(|name| is_in(name)).filter_map(|name| world.get::<Namespace>(name))
    {
        if let Some((adopted, seen)) = look_into_adopted(inner, namespace)? {
            net.adopted.insert(namespace.meta.name.clone(), adopted);
            inside.push(seen);
        }
    }
    let names = host.dump.names();
    let cables = cables::pair(inner, &host, &inside)?;
    for Inside { seen, nsid: _ } in inside {
        seen.fill(&mut net, &cables);
    }
    host.fill(&mut net, &cables);
    inner.with_socket(|socket| tc::observe(socket, &names, &mut net)).map_err(text)?;
    own_by_pair(&mut net);
    host_sysctls(&mut net, part)?;
    net.rules = inner.rules.dump().map_err(text)?;
    Ok(net)
}

/// Whether a stack has exactly this address, whoever added it.
pub(super) fn has_address(socket: &mut RouteSocket, address: &Address) -> Result<bool, String> {
    let dump = Dump::take(socket).map_err(text)?;
    let names = dump.names();
    Ok(dump.addresses.iter().any(|message| {
        names.get(&message.header.index) == Some(&address.link)
            && address_of(message).is_some_and(|(net, _)| net == address.net)
    }))
}

/// Whether the link of this index has this address with our mark.
pub(super) fn has_our_address(
    socket: &mut RouteSocket,
    index: u32,
    net: ipnet::IpNet,
) -> Result<bool, String> {
    let dump = Dump::take(socket).map_err(text)?;
    let on_it = |message: &&AddressMessage| message.header.index == index;
    Ok(dump.addresses.iter().filter(on_it).any(|message| address_of(message) == Some((net, true))))
}

/// The route of ours that has the place of this one.
pub(super) fn route_in_place_of(socket: &mut RouteSocket, route: &Route) -> Result<Option<Route>, String> {
    let names = Dump::take(socket).map_err(text)?.names();
    let ours = routes(socket, Routes::Ours).map_err(text)?;
    let mut ours = ours.iter().filter_map(|message| route_of(message, &route.stack, &names));
    Ok(ours.find(|other| other.place() == route.place()))
}

/// Whether any route, of whomever, has the place of this one.
pub(super) fn is_place_taken(socket: &mut RouteSocket, route: &Route) -> Result<bool, String> {
    let all = routes(socket, Routes::All).map_err(text)?;
    let place = (route.destination, route.table, route.metric);
    Ok(all.iter().any(|message| place_of(message) == Some(place)))
}

/// A switch of the calling thread's stack; `None` where the kernel has none of this name.
pub(super) fn read(sysctl: &Sysctl) -> Result<Option<String>, String> {
    match Key::named(&sysctl.path()).and_then(|key| sysctl::read(&key)) {
        Ok(value) => Ok(Some(value)),
        // IPv6 is off where it is not: in a kernel without it, and on a link whose MTU is too small for it.
        Err(SysctlError::Missing(_)) if matches!(sysctl, Sysctl::DisableIpv6(_)) => Ok(Some("1".into())),
        Err(SysctlError::Missing(_)) => Ok(None),
        Err(error) => Err(text(error)),
    }
}

/// Whether a switch that does not exist stands as wished all the same.
pub(super) fn is_so_without_ipv6(sysctl: &Sysctl, value: &str) -> bool {
    match sysctl {
        Sysctl::DisableIpv6(_) => value == "1",
        Sysctl::AcceptRa(_) | Sysctl::AcceptDad(_) | Sysctl::ForceForwarding6(_) | Sysctl::Forwarding6All => {
            !Path::new("/proc/sys/net/ipv6").exists() || is_gone(sysctl)
        }
        Sysctl::Forwarding4(_) | Sysctl::RouteLocalnet(_) => is_gone(sysctl),
        Sysctl::PromoteSecondaries(_) | Sysctl::Named { .. } => false,
    }
}

/// A link that is gone has nothing to switch; that it should be there is for the steps about the link to find.
fn is_gone(sysctl: &Sysctl) -> bool {
    sysctl.link().is_some_and(|link| !Path::new(&format!("/proc/sys/net/ipv4/conf/{link}")).exists())
}

/// What is behind a name.
enum Look {
    /// Nothing any more.
    Gone,
    /// Not a namespace of ours.
    Stranger,
    /// Ours.
    Ours(Mark, Inside),
}

/// What is in a namespace, and the id that the host has for it.
pub(super) struct Inside {
    pub(super) seen: Seen,
    pub(super) nsid: Option<i32>,
}

/// Looks into many side by side: each is mostly waiting for a thread and the kernel.
fn look_into_all(inner: &Inner, world: &World, names: &[Name]) -> Vec<Result<Look, String>> {
    let look = |name: &Name| look_inside(inner, name, world.get(name));
    if names.len() < FEW {
        return names.iter().map(look).collect();
    }
    std::thread::scope(|scope| {
        let share = names.len().div_ceil(SIDE_BY_SIDE);
        let spawn = |some| {
            let builder = std::thread::Builder::new().name("look".into());
            (some, builder.spawn_scoped(scope, move || <[Name]>::iter(some).map(look).collect::<Vec<_>>()))
        };
        let running: Vec<_> = names.chunks(share).map(spawn).collect();
        let ended = running.into_iter().flat_map(|(some, thread)| match thread.map(|thread| thread.join()) {
            Ok(Ok(looks)) => looks,
            Ok(Err(_)) => some.iter().map(|_| Err("the thread that looks died".into())).collect(),
            Err(error) => some.iter().map(|_| Err(format!("no thread: {error}"))).collect(),
        });
        ended.collect()
    })
}

fn look_inside(inner: &Inner, name: &Name, known: Option<&Arc<Stored<Namespace>>>) -> Result<Look, String> {
    let fd = match inner.namespaces.open(name.as_str()) {
        Ok(fd) => fd,
        Err(NetnsError::Missing(_) | NetnsError::Unpinned(_)) => return Ok(Look::Gone),
        Err(NetnsError::NotANamespace(_) | NetnsError::Symlink(_)) => return Ok(Look::Stranger),
        Err(error) => return Err(format!("namespace {name}: {error}")),
    };
    let looked = look_into(inner, name, &fd, known, Mark::is_ours)?;
    Ok(looked.map_or(Look::Stranger, |(mark, inside)| Look::Ours(mark, inside)))
}

/// An adopted namespace; none when it is gone.
fn look_into_adopted(
    inner: &Inner,
    namespace: &Arc<Stored<Namespace>>,
) -> Result<Option<(Adopted, Inside)>, String> {
    let name = &namespace.meta.name;
    let Some(adoption) = &namespace.alloc.adopted else { return Ok(None) };
    let fd = match adopt::find(adoption, inner.roots()) {
        Ok(fd) => fd,
        Err(FindError::Gone(_)) => return Ok(None),
        Err(FindError::Unknown(why)) => return Err(format!("namespace {name}: {why}")),
    };
    let looked = look_into(inner, name, &fd, Some(namespace), |_| true)?;
    let adopted = Adopted { uid: namespace.meta.uid, cookie: adoption.cookie };
    Ok(looked.map(|(_, inside)| (adopted, inside)))
}

/// What is inside, if its mark is as it should be.
fn look_into(
    inner: &Inner,
    name: &Name,
    fd: &OwnedFd,
    known: Option<&Arc<Stored<Namespace>>>,
    is_right: impl Fn(Mark) -> bool + Sync,
) -> Result<Option<(Mark, Inside)>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("namespace {name}: {error}");
    let look = || -> Result<Option<(Mark, Seen)>, String> {
        let mut socket = RouteSocket::open().map_err(text)?;
        let mark = mark_here(&mut socket).map_err(text)?;
        if !is_right(mark) {
            return Ok(None);
        }
        let mut seen = Seen::take(&mut socket, Stack::Namespace(name.clone())).map_err(text)?;
        seen.read_sysctls()?;
        for key in known.iter().flat_map(|known| known.alloc.before.keys()) {
            let value = super::settings::read(key);
            seen.sysctls.extend(value.ok().map(|value| (Sysctl::named(key.clone()), value)));
        }
        Ok(Some((mark, seen)))
    };
    let looked = thread::run(fd, "look-inside", look).map_err(|error| failed(&error))?;
    let Some((mark, seen)) = looked.map_err(|error| failed(&error))? else { return Ok(None) };
    let nsid: Result<_, RequestError> = inner.with_socket(|socket| netns::assign_nsid(socket, fd.as_fd()));
    Ok(Some((mark, Inside { seen, nsid: nsid.map_err(|error| failed(&error))? })))
}

impl Seen {
    fn take(socket: &mut RouteSocket, stack: Stack) -> Result<Self, DumpError> {
        let dump = Dump::take(socket)?;
        Ok(Self { stack, dump, routes: routes(socket, Routes::Ours)?, sysctls: Vec::new() })
    }

    /// On a thread in this stack.
    fn read_sysctls(&mut self) -> Result<(), String> {
        let makers = [Sysctl::DisableIpv6, Sysctl::AcceptRa, Sysctl::AcceptDad];
        let cables = self.dump.links.iter().filter(|link| kind(link) == "veth").filter_map(ifname);
        for sysctl in cables.flat_map(|link| makers.map(|make| make(link.clone()))) {
            self.sysctls.extend(read(&sysctl)?.map(|value| (sysctl, value)));
        }
        Ok(())
    }

    /// Puts all links, the addresses of ours, our routes and the switches into `net`.
    fn fill(self, net: &mut HostNet, cables: &Cables) {
        let Self { stack, dump, routes, sysctls } = self;
        let names = dump.names();
        let nothing = BTreeMap::new();
        let peers = cables.get(&stack).unwrap_or(&nothing);
        for message in &dump.links {
            // Loopback has a name that no object can want.
            let Some(name) = ifname(message) else { continue };
            let link = link(message, &names, peers.get(&message.header.index).cloned());
            net.links.insert((stack.clone(), name), link);
        }
        for message in &dump.addresses {
            let Some(name) = names.get(&message.header.index) else { continue };
            let Some((address, is_ours)) = address_of(message) else { continue };
            let key = (stack.clone(), name.clone());
            let owner = net.links.get(&key).map_or(Mark::Foreign, |link| link.mark);
            let on_cable = peers.contains_key(&message.header.index);
            let on_host = key.0 == Stack::Host;
            let is_bridge = net.links.get(&key).is_some_and(|link| link.kind == LinkKind::Bridge);
            // The user's own bridges may have addresses of ours, and some of their own where ours are wanted.
            let matters = owner.is_ours() || on_cable || (on_host && (is_bridge || is_ours));
            if matters && (is_ours || !comes_by_itself(address.addr())) {
                let mark = match (is_ours, owner) {
                    (true, Mark::Foreign) if on_host => Mark::Group,
                    (true, owner) => owner,
                    (false, _) => Mark::Foreign,
                };
                net.addresses.insert(Address { stack: key.0, link: key.1, net: address }, mark);
            }
        }
        for route in routes.iter().filter_map(|message| route_of(message, &stack, &names)) {
            let through = |link: &IfName| net.links.get(&(stack.clone(), link.clone()));
            let mark = route.link().and_then(through).map(|link| link.mark);
            let mark = mark.filter(|mark| mark.is_ours()).unwrap_or(Mark::Group);
            net.routes.insert(route, mark);
        }
        net.sysctls.extend(sysctls.into_iter().map(|(sysctl, value)| ((stack.clone(), sysctl), value)));
    }
}

/// What is inside is ours by its pair: a workload may write what it likes on its own end, which our own hand puts right.
/// The host's end has the last word; of two that are inside, the one that is ours.
fn own_by_pair(net: &mut HostNet) {
    let mut ours = Vec::new();
    for ((stack, _), link) in net.links.iter().filter(|(_, link)| link.mark.is_ours()) {
        let LinkKind::Veth { peer: Some(peer) } = &link.kind else { continue };
        let Some(other) = net.links.get(peer).filter(|_| peer.0 != Stack::Host) else { continue };
        if (*stack == Stack::Host && other.mark != link.mark) || !other.mark.is_ours() {
            ours.push(peer.clone());
        }
    }
    for key in ours {
        if let Some(link) = net.links.get_mut(&key) {
            link.mark = Mark::Group;
        }
    }
}

/// Addresses that the kernel gives to links.
fn comes_by_itself(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}

pub(super) fn link(
    message: &LinkMessage,
    names: &BTreeMap<u32, IfName>,
    peer: Option<(Stack, IfName)>,
) -> Link {
    let mut link = Link {
        mark: mark(message),
        kind: match kind(message).as_str() {
            "bridge" => LinkKind::Bridge,
            "veth" => LinkKind::Veth { peer },
            "ifb" => LinkKind::Ifb,
            other => LinkKind::Other(other.to_owned()),
        },
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        master: None,
        hairpin: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac::from_bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = names.get(index).cloned(),
            LinkAttribute::LinkInfo(infos) => link.hairpin = infos.iter().any(is_hairpin),
            _ => {}
        }
    }
    link
}

fn is_hairpin(info: &LinkInfo) -> bool {
    match info {
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
            data.iter().any(|one| matches!(one, InfoBridgePort::HairpinMode(true)))
        }
        _ => false,
    }
}

/// Switches of our own links in the host.
fn host_sysctls(net: &mut HostNet, part: Option<&Part>) -> Result<(), String> {
    let is_in = |name: &IfName| part.is_none_or(|part| part.devices.contains(name));
    let of_ports: [fn(IfName) -> Sysctl; 1] = [Sysctl::DisableIpv6];
    let of_ends: [fn(IfName) -> Sysctl; 3] = [Sysctl::DisableIpv6, Sysctl::AcceptRa, Sysctl::AcceptDad];
    let of_bridges: [fn(IfName) -> Sysctl; 6] = [
        Sysctl::DisableIpv6,
        Sysctl::AcceptRa,
        Sysctl::AcceptDad,
        Sysctl::Forwarding4,
        Sysctl::ForceForwarding6,
        Sysctl::RouteLocalnet,
    ];
    let of_host = net.links.iter().filter(|((stack, name), _)| *stack == Stack::Host && is_in(name));
    for ((_, name), link) in of_host {
        let makers: &[fn(IfName) -> Sysctl] = match (&link.kind, &link.master, link.mark.is_ours()) {
            (LinkKind::Bridge, _, true) => &of_bridges,
            // What we may switch of the user's own bridges.
            (LinkKind::Bridge, _, false) => &of_bridges[3..],
            (_, _, false) => &[],
            (LinkKind::Veth { .. } | LinkKind::Other(_), None, true) => &of_ends,
            (LinkKind::Ifb, _, true) | (LinkKind::Veth { .. } | LinkKind::Other(_), Some(_), true) => {
                &of_ports
            }
        };
        for make in makers {
            let sysctl = make(name.clone());
            if let Some(value) = read(&sysctl)? {
                net.sysctls.insert((Stack::Host, sysctl), value);
            }
        }
    }
    Ok(())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
