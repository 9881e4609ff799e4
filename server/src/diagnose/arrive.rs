//! Where the packet arrives: what listens, whether answers find back, and whether large packets fit on the way.

use std::net::IpAddr;

use netloom_api::{Attachment, CheckId, DiagnoseProtocol};

use super::{
    Walk,
    path::{Hop, Next, ip, prefix_of},
    route::{Packet, lookup},
    seen::{Fate, Here, Hook, Way},
};
use crate::hostnet::Stack;

impl<'a> Walk<'a> {
    /// The packet is where it should be: does something listen, and do answers find back?
    pub(super) fn arrive(&mut self, hop: &Hop, here: &'a Here) {
        if !self.admitted(hop) {
            return;
        }
        self.passage(hop, Hook::Input, hop.input.as_deref(), None);
        self.way_back(hop, here);
        self.listening(hop, here);
    }

    fn way_back(&mut self, hop: &Hop, here: &'a Here) {
        let (Some(source), Some(input)) = (hop.source, hop.input.as_deref()) else { return };
        let stack = &hop.stack;
        let back = lookup(here, Packet { source: Some(hop.destination), destination: source, input: None });
        let fix = format!("`{} route add {} via GATEWAY dev {input}`", ip(stack), prefix_of(source));
        match back {
            None => self.fail(
                CheckId::ToReturn,
                format!("{stack} has no route back to {source}: packets arrive, answers do not leave."),
                fix,
            ),
            Some(way) if way.fate == Fate::Local => {}
            Some(way) if way.fate != Fate::Unicast => {
                self.fail(
                    CheckId::ToReturn,
                    format!("{stack} drops its answers to {source}: the route {way} says so."),
                    format!("`{} route del {way}`", ip(stack)),
                );
            }
            Some(way)
                if way.link.as_deref() != Some(input) && !self.goes_home(stack, here, input, way, source) =>
            {
                self.fail(
                    CheckId::ToReturn,
                    format!("The packet comes in to {stack} by {input}, and the answer to {source} leaves by the route {way}: elsewhere, where its address is not accepted."),
                    format!("`{} route del {way}`, or give the way by {input} a longer prefix.", ip(stack)),
                );
            }
            Some(way) => {
                let (via, link) = (way.via.unwrap_or(source), way.link.as_deref().unwrap_or(input));
                match self.next(here, stack, link, via) {
                    Next::Nobody if way.via.is_some() => {
                        self.fail(CheckId::ToReturn, format!("{stack} answers {source} by the route {way}, and nobody behind {link} has {via}."), fix);
                    }
                    Next::Nobody | Next::NotSeen | Next::Outside | Next::Stack(..) => {
                        self.pass(CheckId::ToReturn, format!("{stack} answers {source} by the route {way}."));
                    }
                }
            }
        }
        self.reverse_filter(hop, here);
    }

    /// Whether an answer gets to the sender by another cable than the packet came in by. Where the spoof guard looks it
    /// does not: there an address belongs to one port.
    fn goes_home(&mut self, stack: &Stack, here: &'a Here, input: &str, way: &Way, source: IpAddr) -> bool {
        let Some(link) = way.link.as_deref() else { return false };
        if self.is_guarded(stack, input) || self.is_guarded(stack, link) {
            return false;
        }
        match self.next(here, stack, link, way.via.unwrap_or(source)) {
            Next::Stack(other, ..) => Some(other) == self.sender,
            Next::Outside | Next::Nobody | Next::NotSeen => false,
        }
    }

    /// Whether a link is an Attachment's interface, or the bridge of a Network.
    fn is_guarded(&self, stack: &Stack, link: &str) -> bool {
        match stack {
            Stack::Host => self.is_bridge(link),
            Stack::Namespace(name) => {
                let inside = self.world.attachments_in(name);
                let mut inside = inside.filter_map(|name| self.world.get::<Attachment>(name));
                inside.any(|one| one.alloc.interface.as_str() == link)
            }
        }
    }

    /// A strict reverse path filter takes a packet only by the link that leads back to its source.
    pub(super) fn reverse_filter(&mut self, hop: &Hop, here: &Here) {
        let (Some(source), Some(input)) = (hop.source, hop.input.as_deref()) else { return };
        if source.is_ipv6() {
            return;
        }
        let mode = |link: &str| {
            here.switches.get(&format!("net/ipv4/conf/{link}/rp_filter")).map_or("0", String::as_str)
        };
        let mode = mode("all").max(mode(input)).to_owned();
        let back = lookup(here, Packet { source: Some(hop.destination), destination: source, input: None });
        let passes = match mode.as_str() {
            "1" => back.is_some_and(|way| way.link.as_deref() == Some(input)),
            "2" => back.is_some(),
            _ => return,
        };
        if !passes {
            let by = back.map_or("by no link at all".to_owned(), |way| format!("by the route {way}"));
            self.fail(
                CheckId::ReturnFilter,
                format!("rp_filter of {input} in {} is {mode}: it drops what comes from {source}, which {} would reach {by}.", hop.stack, hop.stack),
                format!("Set net.ipv4.conf.{input}.rp_filter (and conf.all) to 2, or add the route back by {input}."),
            );
        }
    }

    fn listening(&mut self, hop: &Hop, here: &Here) {
        let (Some(port), udp) = (self.port_there(hop), self.protocol == DiagnoseProtocol::Udp) else {
            return;
        };
        let protocol = self.protocol;
        if protocol == DiagnoseProtocol::Sctp {
            return self.skip(CheckId::ToListening, "What listens for sctp cannot be told.");
        }
        let (stack, destination) = (&hop.stack, hop.destination);
        let on_port: Vec<_> =
            here.listeners.iter().filter(|one| one.udp == udp && one.port == port).collect();
        let fits = |address: IpAddr| {
            // The unspecified address of IPv6 takes IPv4, too, unless the socket was told otherwise.
            address == destination || address.is_unspecified() && (address.is_ipv6() || destination.is_ipv4())
        };
        if let Some(one) = on_port.iter().find(|one| fits(one.address.to_canonical())) {
            return self.pass(
                CheckId::ToListening,
                format!("In {stack} something listens on {protocol} port {port} of {}.", one.address),
            );
        }
        let (evidence, fix) = match on_port.first() {
            Some(one) => (
                format!(
                    "In {stack} {protocol} port {port} is open on {} only, not on {destination}.",
                    one.address
                ),
                format!("Let the service listen on 0.0.0.0 (or [::]), or on {destination}."),
            ),
            None => (
                format!(
                    "In {stack} nothing listens on {protocol} port {port}: the packet arrives and is refused."
                ),
                format!("Start the service; `netloom ns exec {stack} -- ss -lntup` shows what listens."),
            ),
        };
        self.fail(CheckId::ToListening, evidence, fix);
    }

    /// No device on the way may be narrower than the sender.
    pub(super) fn mtu(&mut self) {
        let mtu_of = |(stack, link): &(Stack, String)| {
            self.seen.here(stack).and_then(|here| here.links.get(link)).map(|line| line.mtu)
        };
        let mut narrow = None;
        for segment in &self.segments {
            let ends = [segment.first(), segment.last()];
            let widest = ends
                .into_iter()
                .flatten()
                .filter_map(|end| Some((mtu_of(end)?, end)))
                .max_by_key(|(mtu, _)| *mtu);
            let narrowest =
                segment.iter().filter_map(|end| Some((mtu_of(end)?, end))).min_by_key(|(mtu, _)| *mtu);
            if let (Some(widest), Some(narrowest)) = (widest, narrowest)
                && narrowest.0 < widest.0
            {
                narrow = narrow.or(Some((widest, narrowest)));
            }
        }
        // Over a router narrower ways are told to the sender, unless somebody drops what tells them.
        let first = self.segments.first().and_then(|segment| segment.first());
        let last = self.segments.last().and_then(|segment| segment.first());
        if let (None, Some(first), Some(last)) = (&narrow, first, last)
            && let (Some(inner), Some(outer)) = (mtu_of(first), mtu_of(last))
            && outer < inner
        {
            narrow = Some(((inner, first), (outer, last)));
        }
        let Some(((wide, by), (tight, at))) = narrow else {
            if let Some((stack, link)) = first {
                let mtu = mtu_of(&(stack.clone(), link.clone())).unwrap_or_default();
                self.pass(
                    CheckId::Mtu,
                    format!("No device on the way takes less than the {mtu} bytes of {link} in {stack}."),
                );
            }
            return;
        };
        let evidence = format!(
            "{} of {} sends up to {wide} bytes, and {} of {} takes {tight}: small packets arrive, large ones get lost.",
            by.1, by.0, at.1, at.0
        );
        let fix = format!(
            "Give both ends the same MTU: `{} link set {} mtu {tight}`, or the `mtu` of the Network.",
            ip(&by.0),
            by.1
        );
        self.fail(CheckId::Mtu, evidence, fix);
    }
}
