//! The way itself, stack by stack: which route, who is behind the link, who forwards, and the way back.

use std::net::IpAddr;

use netloom_api::{Attachment, CheckId, End, Kind, Network};

use super::{
    Party, ProbePlan, Walk,
    foreign::{Passage, Place},
    route::{Packet, has_own_policies, lookup},
    seen::{Fate, Here, Hook, Way},
    stack_of,
};
use crate::{hostnet::Stack, world::Stored};

/// A way through more stacks than this runs in circles.
const HOPS_MAX: usize = 8;

/// A packet on its way.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    /// Where it is.
    pub(super) stack: Stack,
    /// By which link it came in; none: it was made here.
    pub(super) input: Option<String>,
    /// From whom, if that is decided.
    pub(super) source: Option<IpAddr>,
    /// To whom.
    pub(super) destination: IpAddr,
    /// It was sent to a published port.
    pub(super) published: bool,
}

/// Who is behind a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A stack that was looked at, by this link of it, and over these devices in between.
    Stack(Stack, String, Vec<(Stack, String)>),
    /// Something outside of this host.
    Outside,
    /// Nobody who has the address.
    Nobody,
    /// A stack that must be looked at first.
    NotSeen,
}

impl<'a> Walk<'a> {
    /// The sender's own route: there, leading where it should, through a gateway that is there.
    pub(super) fn first_route(&mut self, from: &Party<'a>, target: IpAddr) {
        let Some(stack) = from.stack.clone() else { return };
        let Some(here) = self.here(&stack) else { return };
        self.probe = Some(ProbePlan {
            stack: stack.clone(),
            source: from.address,
            target,
            protocol: self.protocol,
            port: self.port,
        });
        // Without a source that was asked for, the route decides it; policies that ask for one do not match.
        let packet = Packet { source: from.address, destination: target, input: None };
        let Some(way) = self.usable(CheckId::FromRoute, here, &stack, packet) else { return };
        if way.fate == Fate::Local {
            return;
        }
        let link = way.link.clone().unwrap_or_default();
        if let Some((expected, holder)) = self.expected_link(from, target)
            && expected != link
        {
            return self.fail(
                CheckId::FromOverlap,
                format!("{target} is on {holder}, which {stack} reaches by {expected}; but the route {way} takes the traffic elsewhere."),
                format!("`{} route del {way}`, or give it a prefix that does not cover {target}.", ip(&stack)),
            );
        }
        if stack != Stack::Host && here.links.get(&link).is_some_and(|line| !line.carrier) {
            let evidence = format!(
                "{link} of {stack}, by which {target} is reached, has no carrier: the other end of its cable is down."
            );
            return self.fail(CheckId::FromCarrier, evidence, "Set the other end up.");
        }
        if let Some(via) = way.via {
            self.gateway(here, &stack, way, via);
        }
    }

    /// The link by which the sender should reach the target, when both are on one network.
    fn expected_link(&self, from: &Party<'a>, target: IpAddr) -> Option<(String, String)> {
        if let Some(wire) = from.wire
            && wire.end().addresses.iter().any(|address| address.0.contains(&target))
        {
            return Some((wire.end().interface.to_string(), format!("Link {}", wire.link.meta.name)));
        }
        let attachments: Vec<&Stored<Attachment>> = match (&self.request.from, from.attachment) {
            (End::Namespace(name), _) => {
                let names = self.world.attachments_in(name);
                names.filter_map(|name| self.world.get::<Attachment>(name)).map(|one| &**one).collect()
            }
            (_, one) => one.into_iter().collect(),
        };
        attachments.into_iter().find_map(|one| {
            let network = self.world.get::<Network>(&one.spec.network)?;
            let inside = network.alloc.subnets.iter().any(|subnet| subnet.cidr.net().contains(&target));
            inside.then(|| (one.alloc.interface.to_string(), format!("Network {}", network.meta.name)))
        })
    }

    fn gateway(&mut self, here: &'a Here, stack: &Stack, way: &Way, via: IpAddr) {
        let link = way.link.as_deref().unwrap_or_default();
        let known = here.neighbour(link, via);
        let neighbour = known.map_or("it is not in the neighbour table yet".to_owned(), |one| {
            let mac = one.mac.map(|mac| format!(" at {mac}")).unwrap_or_default();
            format!("its neighbour entry{mac} is {}", one.state)
        });
        match self.next(here, stack, link, via) {
            Next::Stack(other, by, _) => {
                self.pass(
                    CheckId::FromGateway,
                    format!("The gateway {via} is {by} of {other}, behind {link}; {neighbour}."),
                );
            }
            Next::Outside if known.is_some_and(|one| one.state == "failed") => {
                let fix = format!("Is the machine on? `{} neigh`, `arping -I {link} {via}`.", ip(stack));
                self.fail(
                    CheckId::FromGateway,
                    format!("The gateway {via} does not answer behind {link}: {neighbour}."),
                    fix,
                );
            }
            Next::Outside => {
                self.pass(CheckId::FromGateway, format!("The gateway {via} is behind {link}; {neighbour}."))
            }
            Next::Nobody => {
                let fix = format!(
                    "Route through an address that exists there: `{} route replace {} via GATEWAY dev {link}`.",
                    ip(stack),
                    way.destination
                );
                self.fail(
                    CheckId::FromGateway,
                    format!("Nobody behind {link} has {via}, the gateway of the route {way}; {neighbour}."),
                    fix,
                );
            }
            Next::NotSeen => self.skip(
                CheckId::FromGateway,
                format!("Who has {via} behind {link} cannot be seen; {neighbour}."),
            ),
        }
    }

    /// The route of a packet, told as a check. None: there is none that sends it anywhere.
    fn usable(&mut self, id: CheckId, here: &'a Here, stack: &Stack, packet: Packet<'_>) -> Option<&'a Way> {
        let target = packet.destination;
        let Some(way) = lookup(here, packet) else {
            let has: Vec<String> = shown(here, target).collect();
            let has = if has.is_empty() {
                "it has none at all".to_owned()
            } else {
                format!("it has: {}", has.join("; "))
            };
            let fix = match stack {
                Stack::Host => format!("`ip route add {} via GATEWAY dev LINK`", prefix_of(target)),
                Stack::Namespace(_) => format!(
                    "Let an Attachment be the default route (`default_route: true`), or `{} route add {} via GATEWAY dev LINK`.",
                    ip(stack),
                    prefix_of(target)
                ),
            };
            self.fail(id, format!("{stack} has no route to {target}; {has}."), fix);
            return None;
        };
        let note = if has_own_policies(here) { " (policy rules of `ip rule` were followed)" } else { "" };
        match way.fate {
            Fate::Unicast => {
                self.pass(id, format!("{stack} sends {target} by the route {way}{note}."));
                Some(way)
            }
            Fate::Local => {
                self.pass(id, format!("{target} is an address of {stack} itself."));
                Some(way)
            }
            Fate::Blackhole | Fate::Unreachable | Fate::Prohibit | Fate::Throw | Fate::Other => {
                self.fail(
                    id,
                    format!("{stack} drops what goes to {target}: the route {way}{note} says so."),
                    format!("`{} route del {way}`", ip(stack)),
                );
                None
            }
        }
    }

    /// From stack to stack until the packet is there, or nobody can say more.
    pub(super) fn walk(&mut self, from: &Party<'a>, target: IpAddr) {
        let Some(mut hop) = self.start(from, target) else { return };
        for number in 0..HOPS_MAX {
            self.through_host |= hop.stack == Stack::Host;
            self.translate(&mut hop);
            if self.has_failed() {
                return;
            }
            let Some(here) = self.here(&hop.stack) else {
                return self.skip(
                    CheckId::HostRoute,
                    format!("What {} does with the packet cannot be seen.", hop.stack),
                );
            };
            let packet =
                Packet { source: hop.source, destination: hop.destination, input: hop.input.as_deref() };
            let id = CheckId::HostRoute;
            // The sender's own route has been told already, unless the host has put another target in its place.
            let way = if number == 0 && hop.input.is_none() && !hop.published {
                lookup(here, Packet { source: from.address, ..packet })
            } else {
                self.usable(id, here, &hop.stack.clone(), packet)
            };
            let Some(way) = way else { return };
            if hop.source.is_none() {
                hop.source =
                    own_address(from, hop.destination).or_else(|| source_of(here, way, hop.destination));
            }
            if way.fate == Fate::Local {
                return self.arrive(&hop, here);
            }
            if !self.forwarded(&hop, here, way) {
                return;
            }
            match self.cross(&hop, here, way) {
                Some(next) => hop = next,
                None => return,
            }
        }
        self.fail(
            CheckId::HostRoute,
            format!("A packet to {target} runs in circles: {HOPS_MAX} stacks have passed it on."),
            "Look at the routes of the stacks named above.",
        );
    }

    /// Where the packet begins; from outside it comes in by the link that leads back to its sender.
    fn start(&mut self, from: &Party<'a>, target: IpAddr) -> Option<Hop> {
        let mut hop = Hop {
            stack: Stack::Host,
            input: None,
            source: from.address,
            destination: target,
            published: false,
        };
        if let Some(stack) = &from.stack {
            hop.stack = stack.clone();
            return Some(hop);
        }
        let source = from.address?;
        let host = self.here(&Stack::Host)?;
        let back = lookup(host, Packet { source: Some(target), destination: source, input: None });
        let Some(link) = back.filter(|way| way.fate == Fate::Unicast).and_then(|way| way.link.clone()) else {
            self.fail(
                CheckId::ToReturn,
                format!("The host has no route to {source}, so no answer ever gets there."),
                format!("`ip route add {} via GATEWAY dev LINK`", prefix_of(source)),
            );
            return None;
        };
        self.skip(
            CheckId::Outside,
            format!("{source} is outside: what it sends is taken to come in by {link}, which leads to it."),
        );
        hop.input = Some(link);
        Some(hop)
    }

    /// Over one link: to the next stack, or out.
    fn cross(&mut self, hop: &Hop, here: &'a Here, way: &Way) -> Option<Hop> {
        let link = way.link.clone().unwrap_or_default();
        let to = way.via.unwrap_or(hop.destination);
        match self.next(here, &hop.stack, &link, to) {
            Next::Stack(stack, input, between) => {
                if !self.right_neighbour(hop, here, &link, to, &stack, &input) || !self.members(hop, &between)
                {
                    return None;
                }
                let mut segment = vec![(hop.stack.clone(), link)];
                segment.extend(between);
                segment.push((stack.clone(), input.clone()));
                self.segments.push(segment);
                Some(Hop { stack, input: Some(input), ..hop.clone() })
            }
            Next::Outside => {
                self.segments.push(vec![(hop.stack.clone(), link.clone())]);
                self.out(hop, here, &link, to);
                None
            }
            Next::Nobody => {
                self.fail(
                    CheckId::Neighbour,
                    format!("Nobody behind {link} of {} has the address {to}.", hop.stack),
                    "`netloom allocations` says whose addresses are in use.",
                );
                None
            }
            Next::NotSeen => {
                self.skip(
                    CheckId::HostRoute,
                    format!("Who is behind {link} of {} cannot be seen from here.", hop.stack),
                );
                None
            }
        }
    }

    fn right_neighbour(
        &mut self,
        hop: &Hop,
        here: &Here,
        link: &str,
        to: IpAddr,
        next: &Stack,
        by: &str,
    ) -> bool {
        let Some(known) = here.neighbour(link, to) else { return true };
        let real = self.seen.here(next).and_then(|there| there.links.get(by)).and_then(|line| line.mac);
        match (known.mac, real) {
            (Some(known_mac), Some(real)) if known_mac != real && known.state == "permanent" => {
                self.fail(
                    CheckId::Neighbour,
                    format!(
                        "{} believes for good that {to} is at {known_mac}; it is at {real} ({by} of {next}).",
                        hop.stack
                    ),
                    format!("`{} neigh del {to} dev {link}`", ip(&hop.stack)),
                );
                false
            }
            (_, _) => true,
        }
    }

    fn out(&mut self, hop: &Hop, here: &Here, link: &str, to: IpAddr) {
        let (what, target) = (&hop.stack, hop.destination);
        if let Some(line) = here.links.get(link)
            && !line.carrier
        {
            let fix = format!("Plug it in, or `{} link set {link} up`.", ip(what));
            return self.fail(
                CheckId::Neighbour,
                format!("{link} of {what}, by which {target} is reached, has no carrier."),
                fix,
            );
        }
        match here.neighbour(link, to) {
            Some(known) if known.state == "failed" => {
                let fix = format!("Is the machine on, and on this segment? `arping -I {link} {to}`.");
                self.fail(
                    CheckId::Neighbour,
                    format!("{to} does not answer behind {link}: its neighbour entry is failed."),
                    fix,
                );
            }
            Some(known) => {
                let mac = known.mac.map(|mac| format!(" at {mac}")).unwrap_or_default();
                self.pass(CheckId::Neighbour, format!("{to} is behind {link}{mac} ({}).", known.state));
            }
            None => {
                self.skip(CheckId::Neighbour, format!("{to} is not in the neighbour table of {link} yet."))
            }
        }
        self.skip(
            CheckId::Outside,
            format!(
                "The packet leaves by {link}. What is beyond cannot be seen from here; a probe can tell."
            ),
        );
    }

    /// Who has this address behind a link of this stack.
    pub(super) fn next(&mut self, here: &'a Here, stack: &Stack, link: &str, address: IpAddr) -> Next {
        let Some(line) = here.links.get(link) else { return Next::Nobody };
        if line.kind == "bridge" && *stack == Stack::Host {
            return self.on_bridge(link, address, Vec::new());
        }
        match &line.peer {
            Some((Stack::Host, port)) if *stack != Stack::Host => {
                let host = self.seen.here(&Stack::Host);
                let master = host.and_then(|host| host.links.get(port)).and_then(|line| line.master.clone());
                let port_there = (Stack::Host, port.clone());
                match (master, host.is_some_and(|host| host.holder(address).is_some())) {
                    (Some(bridge), true) => Next::Stack(Stack::Host, bridge, vec![port_there]),
                    (Some(bridge), false) => self.on_bridge(&bridge, address, vec![port_there]),
                    (None, true) => Next::Stack(Stack::Host, port.clone(), Vec::new()),
                    (None, false) => Next::Nobody,
                }
            }
            Some((other, end)) => match self.here(other).map(|there| there.holder(address).is_some()) {
                Some(true) => Next::Stack(other.clone(), end.clone(), Vec::new()),
                Some(false) => Next::Nobody,
                None => Next::NotSeen,
            },
            // The other end of a cable of ours is in a namespace that was not looked at; that of others is outside.
            None if line.kind == "veth" && (line.mark.is_ours() || *stack != Stack::Host) => {
                self.want_far_ends(line);
                Next::NotSeen
            }
            None => Next::Outside,
        }
    }

    /// Who has an address among the members of a bridge of the host.
    fn on_bridge(&mut self, bridge: &str, address: IpAddr, mut between: Vec<(Stack, String)>) -> Next {
        let host = self.seen.here(&Stack::Host);
        let port_of =
            |port: &str| host.and_then(|host| host.links.get(port)).and_then(|line| line.master.as_deref());
        for (stack, look) in &self.seen.stacks {
            let super::Look::There(there) = look else { continue };
            let Some(link) = there.holder(address).filter(|_| *stack != Stack::Host) else { continue };
            // Any link of the stack on this bridge answers for all of its addresses; the right one first.
            let on_bridge = |link: &str| match there.links.get(link).and_then(|line| line.peer.as_ref()) {
                Some((Stack::Host, port)) => (port_of(port) == Some(bridge)).then(|| port.clone()),
                Some(_) | None => None,
            };
            if let Some(port) = on_bridge(link) {
                between.push((Stack::Host, port));
                return Next::Stack(stack.clone(), link.to_owned(), between);
            }
        }
        let network = self.world.all::<Network>().find(|network| network.alloc.device.as_str() == bridge);
        let Some(network) = network else {
            // A bridge of others may have anybody behind it.
            return Next::Outside;
        };
        let holder = self.world.user_of(&network.meta.name, address).map(|used| &used.holder);
        let attachment = holder.filter(|holder| holder.kind == Kind::Attachment);
        match attachment.and_then(|holder| self.world.get::<Attachment>(&holder.name)) {
            Some(attachment) => {
                let stack = stack_of(&attachment.spec.namespace);
                match self.here(&stack) {
                    // It was looked at, and does not have the address.
                    Some(_) => Next::Nobody,
                    None => Next::NotSeen,
                }
            }
            None => Next::Nobody,
        }
    }

    /// Remembers whose firewalls see the packet here.
    pub(super) fn passage(&mut self, hop: &Hop, last: Hook, input: Option<&str>, output: Option<&str>) {
        let source = hop.source;
        let place = |hook| Place { hook, input: input.map(str::to_owned), output: output.map(str::to_owned) };
        let mut places = Vec::new();
        if input.is_some() {
            places.push(Place { output: None, ..place(Hook::Prerouting) });
        }
        places.push(place(last));
        if output.is_some() {
            places.push(Place { input: None, ..place(Hook::Postrouting) });
        }
        let (stack, destination) = (hop.stack.clone(), hop.destination);
        let port = self.port_there(hop);
        self.passages.push(Passage {
            stack,
            bridged: false,
            places,
            source,
            destination,
            protocol: self.protocol,
            port,
        });
    }

    /// The port that is asked for where the packet is now.
    pub(super) fn port_there(&self, hop: &Hop) -> Option<u16> {
        let port = self.port?;
        if !hop.published {
            return Some(port);
        }
        self.published_port(port)
    }
}

/// The sender's own address of the target's family.
fn own_address(from: &Party<'_>, target: IpAddr) -> Option<IpAddr> {
    let addresses =
        from.attachment.iter().flat_map(|one| &one.alloc.addresses).map(|address| address.0.addr());
    from.address.or(addresses.into_iter().find(|address| address.is_ipv4() == target.is_ipv4()))
}

/// The address that a stack chooses for a way out.
fn source_of(here: &Here, way: &Way, destination: IpAddr) -> Option<IpAddr> {
    let link = way.link.as_deref()?;
    let next = way.via.unwrap_or(destination);
    let all = here.addresses_of(link).filter(|net| net.addr().is_ipv4() == destination.is_ipv4());
    // One of the neighbour's subnet first; link-local ones only when there is no other.
    let rank = |net: &&ipnet::IpNet| {
        let link_local = matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
        (link_local, !net.contains(&next))
    };
    all.min_by_key(rank).map(ipnet::IpNet::addr)
}

/// The routes that a person would look at.
fn shown(here: &Here, target: IpAddr) -> impl Iterator<Item = String> {
    let main = here
        .routes
        .iter()
        .filter(move |way| way.table == 254 && way.destination.addr().is_ipv4() == target.is_ipv4());
    main.take(5).map(ToString::to_string)
}

pub(super) fn prefix_of(address: IpAddr) -> ipnet::IpNet {
    address.into()
}

/// `ip`, or `ip -n red`.
pub(super) fn ip(stack: &Stack) -> String {
    match stack {
        Stack::Host => "ip".into(),
        Stack::Namespace(name) => format!("ip -n {name}"),
    }
}
