//! What netloom's own firewall, and the switches of forwarding, do with a packet: the meaning of the skeleton's chains,
//! over the elements that the kernel has.

use std::net::IpAddr;

use netloom_api::{CheckId, DiagnoseProtocol, Egress, Network, PortForward};

use super::{
    Party, Walk,
    end::repair,
    foreign::{Passage, Place},
    path::{Hop, ip},
    route::{Packet, lookup},
    seen::{Here, Hook, Way},
};
use crate::{
    hostnet::{
        Scope, Stack,
        rules::{Data, Element, Member, Part, SetId, Skeleton, Transport},
    },
    want::want,
    world::Stored,
};

impl<'a> Walk<'a> {
    fn has(&self, element: &Element) -> bool {
        self.seen.rules.elements.contains(element)
    }

    /// Whether the link is a bridge that the firewall knows as a Network's.
    pub(super) fn is_bridge(&self, link: &str) -> bool {
        self.has(&Element::bridges(link))
    }

    fn network_by(&self, device: &str) -> Option<&'a Stored<Network>> {
        self.world.all::<Network>().find(|network| network.alloc.device.as_str() == device).map(|one| &**one)
    }

    fn network_name(&self, device: &str) -> String {
        self.network_by(device).map_or_else(|| device.to_owned(), |network| network.meta.name.to_string())
    }

    /// Whether a port forward is in the firewall as it should be.
    pub(super) fn publish(&mut self, member: &Party<'a>) {
        let Some(forward) = self.forward else { return };
        let name = &forward.meta.name;
        if member.attachment.is_none() {
            return;
        }
        let scope = Scope { port_forwards: [name.clone()].into(), ..Scope::default() };
        let wanted = want(self.world, &scope, self.around).rules.elements;
        if wanted.is_empty() {
            let target = &forward.spec.target.attachment;
            let evidence = format!(
                "PortForward {name} leads nowhere: Attachment {target} has no address of the family of its listen address."
            );
            return self.fail(
                CheckId::Publish,
                evidence,
                "Publish on an address of the other family, or give the network a subnet of this one.",
            );
        }
        match wanted.iter().find(|element| !self.has(element)) {
            Some(missing) => {
                let evidence =
                    format!("PortForward {name} is not in the firewall: the element `{missing}` is missing.");
                self.fail(CheckId::Publish, evidence, repair());
            }
            None => {
                let shown = wanted.iter().next().map(ToString::to_string).unwrap_or_default();
                self.pass(CheckId::Publish, format!("PortForward {name} is in the firewall: `{shown}`."));
            }
        }
    }

    /// In the host a published port gets its target's address before anything else is asked.
    pub(super) fn translate(&mut self, hop: &mut Hop) {
        if hop.stack != Stack::Host || hop.published || self.seen.rules.skeleton == Skeleton::Absent {
            return;
        }
        let transport = match self.protocol {
            DiagnoseProtocol::Tcp => Transport::Tcp,
            DiagnoseProtocol::Udp => Transport::Udp,
            DiagnoseProtocol::Sctp => Transport::Sctp,
            DiagnoseProtocol::Icmp => return,
        };
        let is_local = self
            .seen
            .here(&Stack::Host)
            .is_some_and(|host| host.holder(hop.destination).is_some() || hop.destination.is_loopback());
        // What is sent to ::1 never leaves it.
        let is_closed = hop.destination.is_ipv6() && hop.destination.is_loopback();
        let Some(port) = self.port.filter(|_| is_local && !is_closed) else { return };
        if let Some((address, _)) = self.target_of(hop.destination, transport, port) {
            if !self.lets_in(hop, port) {
                return;
            }
            if hop.destination.is_loopback() {
                // What the host sends to its own loopback is answered by way of the bridge's address.
                hop.source = None;
            }
            hop.destination = address;
            hop.published = true;
        }
    }

    /// Whether the forward of a port has no list of sources, or the sender is on it. The host itself always may.
    fn lets_in(&mut self, hop: &Hop, port: u16) -> bool {
        let Some(source) = hop.source.filter(|_| hop.input.is_some()) else { return true };
        let Some(forward) = self.forward_of(port).filter(|forward| !forward.spec.sources.is_empty()) else {
            return true;
        };
        let name = &forward.meta.name;
        if let Some(net) = forward.spec.sources.iter().find(|net| net.net().contains(&source)) {
            self.pass(CheckId::Sources, format!("PortForward {name} lets {net} in, and so {source}."));
            return true;
        }
        let all: Vec<String> = forward.spec.sources.iter().map(ToString::to_string).collect();
        self.fail(
            CheckId::Sources,
            format!("PortForward {name} lets in only {}, and {source} is not among them.", all.join(", ")),
            format!("Add {source} to the sources of PortForward {name}."),
        );
        false
    }

    /// Where the firewall sends what comes to a port of the host.
    fn target_of(&self, on: IpAddr, transport: Transport, port: u16) -> Option<(IpAddr, u16)> {
        let on_part = match on {
            IpAddr::V4(address) => Part::Ipv4(address),
            IpAddr::V6(address) => Part::Ipv6(address),
        };
        let (exact, any) = match on {
            IpAddr::V4(_) => ([SetId::Fwd4, SetId::Rng4], [SetId::Fwd4any, SetId::Rng4any]),
            IpAddr::V6(_) => ([SetId::Fwd6, SetId::Rng6], [SetId::Fwd6any, SetId::Rng6any]),
        };
        let key = |set: SetId, at: u16| {
            let tail = [Part::InetProto(transport), Part::InetService(at)];
            if exact.contains(&set) { [vec![on_part.clone()], tail.to_vec()].concat() } else { tail.to_vec() }
        };
        exact.into_iter().chain(any).find_map(|set| {
            let wanted = key(set, port);
            let elements = self.seen.rules.elements.iter().filter(|element| element.set() == set);
            let covers = |element: &&Element| match element.last() {
                Some(last) => {
                    let pairs = element.key().iter().zip(last).zip(&wanted);
                    pairs.into_iter().all(|((first, last), part)| first <= part && part <= last)
                }
                None => element.key() == wanted,
            };
            match elements.into_iter().find(covers)?.data() {
                Data::Ipv4(address) => Some(((*address).into(), port)),
                Data::Ipv6(address) => Some(((*address).into(), port)),
                Data::Ipv4Service(address, port) => Some(((*address).into(), *port)),
                Data::Ipv6Service(address, port) => Some(((*address).into(), *port)),
                Data::None | Data::Verdict(_) | Data::Jump(_) | Data::Ether(_) => None,
            }
        })
    }

    /// The forward that publishes a port.
    fn forward_of(&self, port: u16) -> Option<&'a Stored<PortForward>> {
        let forwards = self.world.all::<PortForward>().map(|one| &**one);
        let holds = |one: &&Stored<PortForward>| {
            let same = one.spec.protocol.as_str() == self.protocol.as_str();
            same && (one.listen().port..=one.listen().last_port()).contains(&port)
        };
        self.forward.or_else(|| forwards.into_iter().find(holds))
    }

    /// The port behind a published one.
    pub(super) fn published_port(&self, port: u16) -> Option<u16> {
        let forward = self.forward_of(port)?;
        let first = forward.listen().port;
        forward.target_port().checked_add(port - first.min(port))
    }

    /// Whether the stack sends the packet on. What it makes itself is not forwarded.
    pub(super) fn forwarded(&mut self, hop: &Hop, here: &'a Here, way: &Way) -> bool {
        let output = way.link.clone().unwrap_or_default();
        let Some(input) = hop.input.clone() else {
            self.passage(hop, Hook::Output, None, Some(&output));
            return self.right_bridge(hop, &output);
        };
        // What netloom was told comes before the kernel's switches, which follow from it.
        if !self.right_bridge(hop, &output)
            || hop.stack == Stack::Host
                && !(self.policed(hop) && self.netloom_forwards(hop, here, &input, &output))
            || !self.forwarding(hop, here, &input, &output)
        {
            return false;
        }
        self.passage(hop, Hook::Forward, Some(&input), Some(&output));
        let before = self.has_failed();
        self.reverse_filter(hop, here);
        before == self.has_failed()
    }

    /// What is on a Network must leave by its bridge.
    fn right_bridge(&mut self, hop: &Hop, output: &str) -> bool {
        let found = self.world.overlapping(&hop.destination.into()).map(|(_, name)| name);
        let network = found.and_then(|name| self.world.get::<Network>(name));
        let Some(network) =
            network.filter(|network| hop.stack == Stack::Host && network.alloc.device.as_str() != output)
        else {
            return true;
        };
        let (device, target) = (&network.alloc.device, hop.destination);
        self.fail(
            CheckId::HostOverlap,
            format!("{target} is on Network {}, behind {device}; but the host sends it by {output}: another route covers it.", network.meta.name),
            format!("`ip route get {target}` shows the route; remove it, or give the network another subnet."),
        );
        false
    }

    /// Whether the kernel forwards from one link to the other, and the answers back.
    fn forwarding(&mut self, hop: &Hop, here: &Here, input: &str, output: &str) -> bool {
        let ipv6 = hop.destination.is_ipv6();
        let (stack, mut off) = (&hop.stack, Vec::new());
        for link in [input, output] {
            let on = if ipv6 {
                here.is_on("net/ipv6/conf/all/forwarding")
                    || here.is_on(&format!("net/ipv6/conf/{link}/force_forwarding"))
            } else {
                here.is_on(&format!("net/ipv4/conf/{link}/forwarding"))
            };
            if !on && !off.contains(&link) {
                off.push(link);
            }
        }
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        if off.is_empty() {
            self.pass(
                CheckId::Forwarding,
                format!("{stack} forwards {family} from {input} to {output}, and back."),
            );
            return true;
        }
        let names = off.join(" and ");
        let switch = if ipv6 {
            format!("net.ipv6.conf.{}.force_forwarding", off[0])
        } else {
            format!("net.ipv4.conf.{}.forwarding", off[0])
        };
        let managed = match stack {
            Stack::Host => " With `forwarding = \"manage\"` netloom does it.",
            Stack::Namespace(_) => "",
        };
        self.fail(
            CheckId::Forwarding,
            format!("{stack} does not forward {family} that comes in by {names}."),
            format!("`sysctl -w {switch}=1`.{managed}"),
        );
        false
    }

    /// The chain `forward` of netloom's table.
    fn netloom_forwards(&mut self, hop: &Hop, here: &'a Here, input: &str, output: &str) -> bool {
        if self.seen.rules.skeleton == Skeleton::Absent {
            return true;
        }
        match (self.is_bridge(input), self.is_bridge(output)) {
            (true, true) => self.between_networks(hop, here, input, output),
            (true, false) => self.leaves(hop, here, input, output),
            (false, true) => self.enters(hop, input, output),
            (false, false) => self.transits(input, output),
        }
    }

    fn between_networks(&mut self, hop: &Hop, here: &'a Here, input: &str, output: &str) -> bool {
        let (from, to) = (self.network_name(input), self.network_name(output));
        if hop.published {
            self.pass(
                CheckId::IsolationNetworks,
                format!("What comes to a published port is let in to {to}."),
            );
            return true;
        }
        if input == output {
            return self.same_network_allows(input);
        }
        let closed: Vec<&str> =
            [input, output].into_iter().filter(|link| !self.has(&Element::open(link))).collect();
        if closed.is_empty() {
            self.pass(
                CheckId::IsolationNetworks,
                format!("{from} and {to} are both open to other networks."),
            );
            return hop.source.is_none_or(|source| self.answers_return(hop, here, input, source));
        }
        let mut fixes = Vec::new();
        for link in &closed {
            let meant = self.network_by(link).is_none_or(|network| network.spec.isolates_networks());
            fixes.push(if meant {
                format!(
                    "Set isolation.networks to false on {}; both networks must say so.",
                    self.network_name(link)
                )
            } else {
                repair().to_owned()
            });
        }
        let names: Vec<String> = closed.iter().map(|link| self.network_name(link)).collect();
        self.fail(
            CheckId::IsolationNetworks,
            format!(
                "{from} and {to} are two networks, and {} is kept apart from others (isolation.networks).",
                names.join(" and ")
            ),
            format!("{} Or publish the port that is needed.", fixes.join(" ")),
        );
        false
    }

    fn same_network_allows(&mut self, bridge: &str) -> bool {
        let name = self.network_name(bridge);
        if self.has(&Element::same(bridge, Member::Drop)) {
            self.fail(
                CheckId::IsolationMembers,
                format!("Members of {name} are kept apart (isolation.members)."),
                format!("Set isolation.members to false on {name}, or publish the port that is needed."),
            );
            return false;
        }
        self.pass(CheckId::IsolationMembers, format!("Members of {name} may talk to each other."));
        true
    }

    /// Two ports of one bridge: what never leaves the link layer.
    pub(super) fn members(&mut self, hop: &Hop, between: &[(Stack, String)]) -> bool {
        let [(_, one), (_, other)] = between else { return true };
        let bridge = self
            .seen
            .here(&Stack::Host)
            .and_then(|host| host.links.get(one))
            .and_then(|line| line.master.clone());
        let Some(bridge) = bridge else { return true };
        let places = vec![
            Place { hook: Hook::Prerouting, input: Some(one.clone()), output: None },
            Place { hook: Hook::Forward, input: Some(one.clone()), output: Some(other.clone()) },
        ];
        let port = self.port_there(hop);
        let Hop { source, destination, .. } = *hop;
        self.passages.push(Passage {
            stack: Stack::Host,
            bridged: true,
            places,
            source,
            destination,
            protocol: self.protocol,
            port,
        });
        if self.seen.rules.skeleton == Skeleton::Absent {
            return true;
        }
        if !self.policed(hop) {
            return false;
        }
        let apart = self.has(&Element::iso(one)) && self.has(&Element::iso(other));
        if apart && !self.has(&Element::same(&bridge, Member::Accept)) {
            let name = self.network_name(&bridge);
            self.fail(
                CheckId::IsolationMembers,
                format!(
                    "{one} and {other} are ports of {name}, whose members are kept apart (isolation.members)."
                ),
                format!("Set isolation.members to false on {name}, or publish the port that is needed."),
            );
            return false;
        }
        self.same_network_allows(&bridge)
    }

    /// From a network out of the host.
    fn leaves(&mut self, hop: &Hop, here: &'a Here, input: &str, output: &str) -> bool {
        let (name, network) = (self.network_name(input), self.network_by(input));
        let egress = network.map_or(Egress::None(netloom_api::NoOptions {}), |network| network.spec.egress());
        if !self.has(&Element::egress(input)) {
            let (why, fix) = match egress {
                Egress::None(_) => (
                    format!("The egress of {name} is none: its members do not go out."),
                    format!("`netloom set net {name} egress.nat={{}}` puts them behind the host's address."),
                ),
                Egress::Nat(_) | Egress::Routed(_) => (
                    format!(
                        "The firewall has no element `{}`, so members of {name} do not go out.",
                        Element::egress(input)
                    ),
                    repair().to_owned(),
                ),
            };
            self.fail(CheckId::Egress, why, fix);
            return false;
        }
        self.pass(CheckId::Egress, format!("Members of {name} may go out."));
        let Some(source) = hop.source else { return true };
        match egress {
            Egress::Routed(_) => self.pass(CheckId::Nat, format!("The egress of {name} is routed: {source} leaves untranslated, and the LAN must know the way back to it.")),
            Egress::Nat(_) | Egress::None(_) => match self.translated(source) {
                Some(element) => self.pass(CheckId::Nat, format!("{source} leaves by {output} behind the host's address: `{element}`.")),
                None => {
                    self.fail(CheckId::Nat, format!("The firewall has no element that translates {source}: it would leave by {output} with an address that nobody outside can answer."), repair());
                    return false;
                }
            },
        }
        self.answers_return(hop, here, input, source)
    }

    /// Whether answers go back to the network that asked.
    fn answers_return(&mut self, hop: &Hop, here: &'a Here, input: &str, source: IpAddr) -> bool {
        let name = self.network_name(input);
        let back = lookup(here, Packet { source: None, destination: source, input: None });
        if back.and_then(|way| way.link.as_deref()) == Some(input) {
            return true;
        }
        let by = back.map_or("nowhere".to_owned(), |way| format!("by the route {way}"));
        self.fail(
            CheckId::HostOverlap,
            format!("Answers to {source} would not go back to {input}, but {by}."),
            format!(
                "`{} route get {source}` shows the route; remove it, or give {name} another subnet.",
                ip(&hop.stack)
            ),
        );
        false
    }

    fn translated(&self, source: IpAddr) -> Option<&'a Element> {
        let part = match source {
            IpAddr::V4(address) => Part::Ipv4(address),
            IpAddr::V6(address) => Part::Ipv6(address),
        };
        let sets = [SetId::Masq4, SetId::Masq6, SetId::Snat4, SetId::Snat6];
        self.seen.rules.elements.iter().filter(|element| sets.contains(&element.set())).find(
            |element| match (element.key(), element.last()) {
                ([first], Some([last])) => {
                    std::mem::discriminant(first) == std::mem::discriminant(&part)
                        && *first <= part
                        && part <= *last
                }
                (_, _) => false,
            },
        )
    }

    /// From outside in to a network.
    fn enters(&mut self, hop: &Hop, input: &str, output: &str) -> bool {
        let name = self.network_name(output);
        if hop.published {
            self.pass(
                CheckId::Unpublished,
                format!("The port is published, so what comes in by {input} is let in to {name}."),
            );
            return true;
        }
        // What no policy lets in has not come so far.
        if self.has(&Element::routed(output)) && self.has(&Element::selected(hop.destination)) {
            self.pass(
                CheckId::Unpublished,
                format!(
                    "{name} is routed, and a policy lets in what comes by {input} to {}.",
                    hop.destination
                ),
            );
            return true;
        }
        self.fail(
            CheckId::Unpublished,
            format!("What comes in by {input} to {} of {name} is dropped: nothing is published there. The LAN reaches members by published ports only.", hop.destination),
            "`netloom publish PORT:ATTACHMENT:PORT`, and ask for the host's address.",
        );
        false
    }

    fn transits(&mut self, input: &str, output: &str) -> bool {
        if self.has(&Element::notransit(input)) {
            self.fail(
                CheckId::Transit,
                format!("Strangers are not forwarded from {input} to {output}: netloom switched the forwarding of {input} on, for its own networks only."),
                "`sysctl -w net.ipv4.ip_forward=1`, if this host is meant to be a router; netloom then lets strangers pass.",
            );
            return false;
        }
        true
    }

    /// Whether a stack takes in what is for itself.
    pub(super) fn admitted(&mut self, hop: &Hop) -> bool {
        let Some(input) = hop.input.clone().filter(|_| hop.stack == Stack::Host) else { return true };
        if self.seen.rules.skeleton == Skeleton::Absent || !self.is_bridge(&input) {
            return true;
        }
        if !self.policed(hop) {
            return false;
        }
        let name = self.network_name(&input);
        if let (DiagnoseProtocol::Tcp, Some(port)) = (self.protocol, self.port)
            && self.has(&Element::api(Transport::Tcp, port))
        {
            self.fail(
                CheckId::IsolationHost,
                format!("Port {port} is netloomd's own, and no member of a network reaches it."),
                "Call the API from the host or the LAN.",
            );
            return false;
        }
        if self.has(&Element::hostok(&input)) {
            self.pass(CheckId::IsolationHost, format!("Members of {name} may talk to the host."));
            return true;
        }
        let meant = self.network_by(&input).is_none_or(|network| network.spec.isolates_host());
        let fix = if meant {
            format!("Set isolation.host to false on {name} (egress none implies true).")
        } else {
            repair().to_owned()
        };
        self.fail(CheckId::IsolationHost, format!("Members of {name} are kept from the host (isolation.host); they reach its published ports only."), fix);
        false
    }
}
