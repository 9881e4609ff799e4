//! One end of a Link: its interface, its cable, its address.

use std::net::IpAddr;

use netloom_api::{End, Link, LinkEnd, Name};

use super::{
    Party, Walk,
    end::{REPAIR, Side, no_ipv6},
    path::ip,
    seen::Here,
};
use crate::{hostnet::Stack, want::stack_of, world::Stored};

/// A Link, and which of its ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire<'a> {
    pub(super) link: &'a Stored<Link>,
    is_second: bool,
}

impl<'a> Wire<'a> {
    /// The end that is meant.
    pub(super) fn end(&self) -> &'a LinkEnd {
        let [first, second] = &self.link.spec.ends;
        if self.is_second { second } else { first }
    }

    fn other(&self) -> Self {
        Self { is_second: !self.is_second, ..*self }
    }

    /// The addresses of the end.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.end().addresses.iter().map(|address| address.0.addr())
    }
}

impl<'a> Walk<'a> {
    /// A Link that leads straight from one party to the other is their way, unless they are on one Network.
    pub(super) fn over_a_link(&self, from: Party<'a>, to: Party<'a>) -> (Party<'a>, Party<'a>) {
        let is_fixed = |end: &End| matches!(end, End::Attachment(_) | End::PortForward(_));
        let network = |party: &Party<'a>| party.attachment.map(|attachment| &attachment.spec.network);
        let on_network = network(&from).is_some() && network(&from) == network(&to);
        if is_fixed(&self.request.from) || is_fixed(&self.request.to) || on_network {
            return (from, to);
        }
        let Some(name) = from.stack.as_ref().and_then(name_of) else { return (from, to) };
        let leads = |wire: &Wire<'a>| {
            let there = wire.other();
            let is_there = to.stack.as_ref().is_none_or(|stack| *stack == stack_of(there.end()));
            match to.address {
                Some(address) => is_there && there.addresses().any(|one| one == address),
                None => is_there && to.stack.is_some() && to.stack != from.stack,
            }
        };
        match self.wires_in(&name).find(leads) {
            None => (from, to),
            Some(wire) => {
                let there = Some(stack_of(wire.other().end()));
                let from = Party { attachment: None, wire: Some(wire), ..from };
                (from, Party { stack: there, attachment: None, wire: Some(wire.other()), ..to })
            }
        }
    }

    fn wires_in(&self, namespace: &Name) -> impl Iterator<Item = Wire<'a>> {
        let links = self.world.links_in(namespace).filter_map(|name| self.world.get::<Link>(name));
        let both = links.flat_map(|link| [false, true].map(|is_second| Wire { link, is_second }));
        both.filter(move |wire| wire.end().namespace == *namespace)
    }

    /// The end of a Link that is all that a namespace has, or should have.
    pub(super) fn only_wire(&self, namespace: &Name, here: &Here) -> Option<Wire<'a>> {
        let mut wires = self.wires_in(namespace);
        let wire = wires.next().filter(|_| wires.next().is_none())?;
        let mut others = here.links.iter().filter(|(_, line)| line.kind != "loopback").map(|(name, _)| name);
        others.all(|name| name == wire.end().interface.as_str()).then_some(wire)
    }

    /// Whether the end is there, tied to the right other end, up, and addressed.
    pub(super) fn wire(
        &mut self,
        side: Side,
        here: &'a Here,
        wire: Wire<'a>,
        exact: Option<IpAddr>,
        ipv6: bool,
    ) {
        let (end, other, name) = (wire.end(), wire.other().end(), &wire.link.meta.name);
        let (stack, interface) = (stack_of(end), end.interface.as_str());
        let far = (stack_of(other), other.interface.to_string());
        let Some(line) = here.links.get(interface) else {
            let has: Vec<&str> = here.links.keys().map(String::as_str).collect();
            let evidence =
                format!("{stack} has no {interface}, an end of Link {name}; it has {}.", has.join(", "));
            return self.fail(side.interface(), evidence, REPAIR);
        };
        if self.here(&far.0).is_some() && line.peer.as_ref() != Some(&far) {
            return self.fail(
                side.interface(),
                format!("{interface} in {stack} is not the cable of Link {name}: its other end is not {} of {}.", far.1, far.0),
                format!("Remove what is in the way (`{} link del {interface}`); netloom then makes its own again.", ip(&stack)),
            );
        }
        self.pass(
            side.interface(),
            format!("{interface} is in {stack}; its other end is {} of {}.", far.1, far.0),
        );
        if !line.up {
            return self.fail(
                side.interface_up(),
                format!("{interface} in {stack} is down."),
                format!("`{} link set {interface} up`", ip(&stack)),
            );
        }
        self.pass(side.interface_up(), format!("{interface} is up."));
        if !line.carrier {
            return self.fail(
                side.carrier(),
                format!(
                    "{interface} in {stack} has no carrier: the other end of its cable, {} of {}, is down.",
                    far.1, far.0
                ),
                format!("`{} link set {} up`", ip(&far.0), far.1),
            );
        }
        self.pass(side.carrier(), format!("{interface} has a carrier."));
        self.wire_address(side, here, wire, exact, ipv6);
    }

    fn wire_address(&mut self, side: Side, here: &Here, wire: Wire<'a>, exact: Option<IpAddr>, ipv6: bool) {
        let (end, stack) = (wire.end(), stack_of(wire.end()));
        let interface = end.interface.as_str();
        if let Some((address, link)) = exact.and_then(|address| Some((address, here.holder(address)?))) {
            return self.pass(side.address(), format!("{link} in {stack} has {address}."));
        }
        let mut nets = end.addresses.iter().map(|address| address.0);
        let meant =
            nets.find(|net| exact.map_or(net.addr().is_ipv6() == ipv6, |address| net.addr() == address));
        let Some(net) = meant else {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            let what =
                exact.map_or(format!("no {family} address"), |address| format!("not the address {address}"));
            return self.fail(
                side.address(),
                format!("The end of Link {} in {stack} has {what}.", wire.link.meta.name),
                "Give its end an address, or ask for one that it has.",
            );
        };
        if here.addresses_of(interface).any(|one| *one == net) {
            return self.pass(side.address(), format!("{interface} in {stack} has {net}."));
        }
        let has: Vec<String> = here.addresses_of(interface).map(ToString::to_string).collect();
        let has = if has.is_empty() { "no address".to_owned() } else { has.join(", ") };
        let (note, fix) = no_ipv6(here, interface, ipv6);
        self.fail(
            side.address(),
            format!("{interface} in {stack} should have {net}, and has {has}{note}."),
            format!("{fix}`{} addr add {net} dev {interface}`", ip(&stack)),
        );
    }
}

/// By which the World knows a stack.
fn name_of(stack: &Stack) -> Option<Name> {
    match stack {
        Stack::Host => "host".parse().ok(),
        Stack::Namespace(name) => Some(name.clone()),
    }
}
