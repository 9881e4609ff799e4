//! Everything in some stacks that may matter to a packet: for `diagnose`, never on the way of a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, OwnedFd},
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    route::{RouteAttribute, RouteMessage, RouteType},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use netloom_api::Mac;

use super::{
    Inner, OpenError,
    dump::{Dump, Routes, address_of, destination, ip_of, kind, mark, peer_index, peer_nsid, routes},
    namespace::mark_here,
};
use crate::{
    diagnose::seen::{Fate, ForeignChain, Here, Line, Listener, Look, Neighbour, Policy, Seen, Way},
    hostnet::Stack,
    kernel::{
        netns,
        nft::foreign,
        socket::RouteSocket,
        sysctl::{self, Key},
        thread,
    },
};

/// Switches per link that decide about packets, by family.
const SWITCHES: [(&str, &[&str]); 2] =
    [("ipv4", &["forwarding", "rp_filter"]), ("ipv6", &["forwarding", "force_forwarding", "disable_ipv6"])];

/// One stack as it was read; cables are not followed yet.
struct Read {
    here: Here,
    chains: Vec<ForeignChain>,
    opaque: Vec<String>,
    /// Link, the other end's namespace (none: this one), the other end's index.
    cables: Vec<(String, Option<i32>, u32)>,
    indices: BTreeMap<u32, String>,
    /// The ids that other stacks have here.
    known_as: BTreeMap<i32, Stack>,
}

pub(super) fn look(inner: &Inner, stacks: &BTreeSet<Stack>) -> Result<Seen, String> {
    let mut seen = Seen { flows: flows(), ..Seen::default() };
    let mut held: BTreeMap<Stack, OwnedFd> = BTreeMap::new();
    for stack in stacks {
        let opened = match stack {
            Stack::Host => netns::own().map_err(|error| OpenError::Failed(error.to_string())),
            Stack::Namespace(name) => inner.open(name),
        };
        match opened {
            Ok(fd) => drop(held.insert(stack.clone(), fd)),
            Err(OpenError::Gone(_)) => drop(seen.stacks.insert(stack.clone(), Look::Missing)),
            Err(OpenError::Failed(why)) => drop(seen.stacks.insert(stack.clone(), Look::Unknown(why))),
        }
    }
    let mut read: BTreeMap<Stack, Read> = BTreeMap::new();
    for (stack, fd) in &held {
        let looked = thread::run(fd, "diagnose", || read_here(stack, &held));
        match looked.map_err(|error| error.to_string()).and_then(|result| result) {
            Ok(found) => drop(read.insert(stack.clone(), found)),
            Err(why) => drop(seen.stacks.insert(stack.clone(), Look::Unknown(why))),
        }
    }
    let ends: Vec<_> = read.iter().flat_map(|(stack, one)| one.ends(stack, &read)).collect();
    for (stack, mut one) in read {
        for (link, peer) in
            ends.iter().filter(|(from, ..)| *from == stack).map(|(_, link, peer)| (link, peer))
        {
            if let Some(line) = one.here.links.get_mut(link) {
                line.peer = Some(peer.clone());
            }
        }
        seen.foreign.append(&mut one.chains);
        seen.opaque.append(&mut one.opaque);
        seen.stacks.insert(stack, Look::There(one.here));
    }
    seen.rules = inner.rules.dump().map_err(|error| error.to_string())?;
    Ok(seen)
}

impl Read {
    /// The cables that end in a stack that was read: from, link, to.
    fn ends<'a>(
        &'a self,
        from: &'a Stack,
        read: &'a BTreeMap<Stack, Read>,
    ) -> impl Iterator<Item = (Stack, String, (Stack, String))> + 'a {
        self.cables.iter().filter_map(move |(link, nsid, index)| {
            let to = match nsid {
                None => from,
                Some(id) => self.known_as.get(id)?,
            };
            let other = read.get(to)?.indices.get(index)?;
            Some((from.clone(), link.clone(), (to.clone(), other.clone())))
        })
    }
}

/// On a thread in the stack.
fn read_here(stack: &Stack, others: &BTreeMap<Stack, OwnedFd>) -> Result<Read, String> {
    let mut socket = RouteSocket::open().map_err(text)?;
    let mut here = Here::default();
    if let Stack::Namespace(_) = stack {
        here.mark = Some(mark_here(&mut socket).map_err(text)?);
    }
    let dump = Dump::take(&mut socket).map_err(text)?;
    let indices: BTreeMap<u32, String> =
        dump.links.iter().map(|link| (link.header.index, name_of(link))).collect();
    here.links = dump.links.iter().map(|link| (name_of(link), line(link, &indices))).collect();
    here.addresses = dump
        .addresses
        .iter()
        .filter_map(|one| Some((indices.get(&one.header.index)?.clone(), address_of(one)?.0)))
        .collect();
    let all = routes(&mut socket, Routes::All).map_err(text)?;
    here.routes = all.iter().filter_map(|message| way(message, &indices)).collect();
    here.policies = policies(&mut socket)?;
    let ask = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    for one in socket.dump(ask).map_err(text)? {
        if let RouteNetlinkMessage::NewNeighbour(message) = one {
            here.neighbours.extend(neighbour(&message, &indices));
        }
    }
    here.listeners = listeners();
    here.switches = switches(&here);
    let known_as = others
        .iter()
        .filter(|(other, _)| *other != stack)
        .filter_map(|(other, fd)| match netns::nsid(&mut socket, fd.as_fd()) {
            Ok(Some(id)) => Some((id, other.clone())),
            // Then no cable from here ends there.
            Ok(None) | Err(_) => None,
        })
        .collect();
    let cables = dump.links.iter().filter(|link| kind(link) == "veth");
    let cables =
        cables.filter_map(|link| Some((name_of(link), peer_nsid(link), peer_index(link)?))).collect();
    let (chains, mut opaque) = match foreign::read(stack) {
        Ok(found) => (found.chains, found.opaque),
        // It may drop what it likes; that is said, and the rest is told all the same.
        Err(error) => (Vec::new(), vec![error.to_string()]),
    };
    opaque.extend(legacy_tables());
    let opaque = opaque.into_iter().map(|what| format!("{what} in {stack}")).collect();
    Ok(Read { here, chains, opaque, cables, indices, known_as })
}

fn name_of(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}

pub(super) fn line(link: &LinkMessage, indices: &BTreeMap<u32, String>) -> Line {
    let flags = link.header.flags;
    let mut line = Line {
        mark: mark(link),
        kind: kind(link),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        master: None,
        peer: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => line.mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => line.mtu = *mtu,
            LinkAttribute::Controller(index) => line.master = indices.get(index).cloned(),
            _ => {}
        }
    }
    line
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac::from_bytes)
}

pub(super) fn way(message: &RouteMessage, indices: &BTreeMap<u32, String>) -> Option<Way> {
    let mut way = Way {
        table: u32::from(message.header.table),
        destination: destination(message)?,
        fate: match message.header.kind {
            RouteType::Unicast => Fate::Unicast,
            RouteType::Local | RouteType::Anycast => Fate::Local,
            RouteType::BlackHole => Fate::Blackhole,
            RouteType::Unreachable => Fate::Unreachable,
            RouteType::Prohibit => Fate::Prohibit,
            RouteType::Throw => Fate::Throw,
            _ => Fate::Other,
        },
        via: None,
        link: None,
        metric: 0,
    };
    let name = |index: &u32| indices.get(index).cloned();
    let via_of = |one: &RouteAttribute| match one {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(netlink_packet_route::route::RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => way.link = name(index),
            RouteAttribute::Priority(metric) => way.metric = *metric,
            RouteAttribute::Table(table) => way.table = *table,
            // Of several next hops the first one stands for all.
            RouteAttribute::MultiPath(hops) => {
                if let Some(hop) = hops.first() {
                    way.link = name(&hop.interface_index);
                    way.via = hop.attributes.iter().find_map(via_of);
                }
            }
            other => way.via = via_of(other).or(way.via),
        }
    }
    Some(way)
}

fn policies(socket: &mut RouteSocket) -> Result<Vec<Policy>, String> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RuleMessage::default();
        message.header.family = family;
        for one in socket.dump(RouteNetlinkMessage::GetRule(message)).map_err(text)? {
            match one {
                RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => all.push(policy(&rule)),
                _ => {}
            }
        }
    }
    Ok(all)
}

pub(super) fn policy(rule: &RuleMessage) -> Policy {
    let header = &rule.header;
    let mut policy = Policy {
        priority: 0,
        ipv6: header.family == AddressFamily::Inet6,
        invert: header.flags.contains(RuleFlags::Invert),
        from: None,
        to: None,
        input: None,
        marked: false,
        strange: header.tos != 0,
        table: Some(u32::from(header.table)),
        suppress: None,
    };
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => policy.priority = *priority,
            RuleAttribute::Source(address) => policy.from = IpNet::new(*address, header.src_len).ok(),
            RuleAttribute::Destination(address) => policy.to = IpNet::new(*address, header.dst_len).ok(),
            RuleAttribute::Iifname(name) => policy.input = Some(name.clone()),
            RuleAttribute::FwMark(mark) => policy.marked |= *mark != 0,
            RuleAttribute::Table(table) => policy.table = Some(*table),
            RuleAttribute::SuppressPrefixLen(length) => {
                policy.suppress = Some(*length).filter(|length| *length != u32::MAX);
            }
            RuleAttribute::Oifname(_)
            | RuleAttribute::TunId(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_)
            | RuleAttribute::L3MDev(_)
            | RuleAttribute::Goto(_) => policy.strange = true,
            _ => {}
        }
    }
    match header.action {
        RuleAction::ToTable => {}
        RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => policy.table = None,
        _ => policy.strange = true,
    }
    policy
}

pub(super) fn neighbour(message: &NeighbourMessage, indices: &BTreeMap<u32, String>) -> Option<Neighbour> {
    let state = format!("{:?}", message.header.state).to_lowercase();
    let (mut address, mut hardware) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(IpAddr::V4(*found));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some(IpAddr::V6(*found));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => hardware = mac(bytes),
            _ => {}
        }
    }
    let link = indices.get(&message.header.ifindex)?.clone();
    (state != "noarp").then_some(Neighbour { link, address: address?, mac: hardware, state })
}

/// Sockets that wait in the calling thread's stack. A file that is not there (no IPv6) has none.
fn listeners() -> Vec<Listener> {
    let mut all = Vec::new();
    for (file, udp) in [("tcp", false), ("tcp6", false), ("udp", true), ("udp6", true)] {
        let lines = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        all.extend(lines.lines().skip(1).filter_map(|line| listener(line, udp)));
    }
    all
}

/// A line of `/proc/net/tcp`: number, local address, remote address, state.
pub(super) fn listener(line: &str, udp: bool) -> Option<Listener> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    // LISTEN; a socket of UDP that is connected waits for one alone.
    if if udp { !remote.ends_with(":0000") } else { state != "0A" } {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits in the order of this machine.
    let words =
        (0..address.len()).step_by(8).map(|at| u32::from_str_radix(address.get(at..at + 8)?, 16).ok());
    let bytes: Vec<u8> =
        words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::V4(Ipv4Addr::from(four)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?)),
    };
    Some(Listener { udp, address, port })
}

/// Those of links that are no ports of a bridge: only they have traffic of their own.
fn switches(here: &Here) -> BTreeMap<String, String> {
    let links = here.links.iter().filter(|(_, line)| line.master.is_none()).map(|(name, _)| name.as_str());
    let mut all = BTreeMap::new();
    let mut read = |path: String| {
        // Without IPv6 its switches are not there.
        if let Ok(value) = Key::named(&path).and_then(|key| sysctl::read(&key)) {
            all.insert(path, value);
        }
    };
    for link in links.chain(["all"]) {
        for (family, names) in SWITCHES {
            names.iter().for_each(|name| read(format!("net/{family}/conf/{link}/{name}")));
        }
    }
    all
}

/// Tables of the old iptables, which nftables knows nothing of.
fn legacy_tables() -> Vec<String> {
    ["ip_tables_names", "ip6_tables_names"]
        .into_iter()
        .filter_map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok())
        .flat_map(|text| text.lines().map(|table| format!("iptables-legacy {table}")).collect::<Vec<_>>())
        .collect()
}

fn flows() -> Option<(u64, u64)> {
    let read = |name: &str| -> Option<u64> {
        let key = Key::named(&format!("net/netfilter/{name}")).ok()?;
        sysctl::read(&key).ok()?.parse().ok()
    };
    Some((read("nf_conntrack_count")?, read("nf_conntrack_max")?))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
