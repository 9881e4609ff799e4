//! One end of the way: its namespace, its cable, its address, its bridge, and what the guard thinks of it.

use std::net::IpAddr;

use netloom_api::{Attachment, CheckId, Name, Namespace, Network};

use super::{
    Party, Walk,
    seen::{Here, Look},
};
use crate::{
    hostnet::{
        Mark, Stack,
        rules::{Element, Skeleton},
    },
    world::Stored,
};

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    From,
    To,
}

/// What is said of everything that netloom made and that is not as it made it.
pub(super) const REPAIR: &str = "netloom puts it back when it repairs drift: look at `netloom events --type drift_repaired`, and at \
    `drift` in netloomd.toml.";

macro_rules! sided {
    ($($name:ident $from:ident $to:ident;)*) => {
        impl Side {
            $(pub(super) fn $name(self) -> CheckId {
                match self { Side::From => CheckId::$from, Side::To => CheckId::$to }
            })*
        }
    };
}

sided! {
    namespace FromNamespace ToNamespace;
    interface FromInterface ToInterface;
    interface_up FromInterfaceUp ToInterfaceUp;
    port FromPort ToPort;
    port_up FromPortUp ToPortUp;
    carrier FromCarrier ToCarrier;
    address FromAddress ToAddress;
    bridge FromBridge ToBridge;
    bridge_address FromBridgeAddress ToBridgeAddress;
    guard FromGuard ToGuard;
}

impl<'a> Walk<'a> {
    /// Whether the end can take part at all. `exact`: the address that it must have.
    pub(super) fn end(
        &mut self,
        side: Side,
        party: &Party<'a>,
        exact: Option<IpAddr>,
        ipv6: bool,
        via_host: bool,
    ) -> bool {
        let before = self.failures();
        match (&party.stack, party.attachment) {
            (Some(Stack::Namespace(name)), attachment) => {
                let Some(here) = self.namespace(side, name) else { return false };
                match (attachment, party.wire.or_else(|| self.only_wire(name, here))) {
                    (Some(attachment), _) => self.cable(side, here, attachment, exact, ipv6, via_host),
                    (None, Some(wire)) => self.wire(side, here, wire, exact, ipv6),
                    (None, None) => self.unattached(side, name, here),
                }
            }
            (Some(Stack::Host), _) => {
                if let (Some(wire), Some(host)) = (party.wire, self.here(&Stack::Host)) {
                    self.wire(side, host, wire, exact, ipv6);
                }
            }
            // An Attachment that does not exist has no stack.
            (None, _) => self.nobody(side, party),
        }
        self.failures() == before
    }

    fn failures(&self) -> usize {
        self.checks.iter().filter(|check| check.status == netloom_api::CheckStatus::Fail).count()
    }

    fn nobody(&mut self, side: Side, party: &Party<'_>) {
        let end = match side {
            Side::From => &self.request.from,
            Side::To => &self.request.to,
        };
        let missing = match (end, self.forward) {
            (netloom_api::End::Attachment(name), _) => name.clone(),
            (_, Some(forward)) if party.address.is_none() => forward.spec.target.attachment.clone(),
            _ => return,
        };
        self.fail(
            side.interface(),
            format!("There is no Attachment {missing}."),
            "`netloom attachments ls` lists them; `netloom attach NAMESPACE NETWORK` makes one.",
        );
    }

    fn namespace(&mut self, side: Side, name: &Name) -> Option<&'a Here> {
        let id = side.namespace();
        let object = self.world.get::<Namespace>(name);
        let look = self.seen.stacks.get(&Stack::Namespace(name.clone()));
        match (object, look) {
            (None, Some(Look::There(_))) => {
                let fix = format!(
                    "Adopt it, or name one that netloom keeps (`netloom ns ls`); `ip -n {name} addr` shows what is in it."
                );
                self.fail(id, format!("/run/netns/{name} exists, but there is no Namespace {name}: netloom does not keep it."), fix);
                None
            }
            (None, _) => {
                let fix = format!("`netloom ns ls` lists them; `netloom ns add {name}` makes it.");
                self.fail(id, format!("There is no Namespace {name}, and no /run/netns/{name} either."), fix);
                None
            }
            (Some(object), Some(Look::Missing)) if object.alloc.adopted.is_some() => {
                let evidence = format!("The adopted namespace {name} is gone: whoever made it has ended it.");
                self.fail(id, evidence, format!("`netloom ns rm {name}`, and adopt the new one."));
                None
            }
            (Some(_), Some(Look::Missing)) => {
                self.fail(id, format!("The Namespace {name} exists as an object, but there is no /run/netns/{name}: somebody has removed it."), REPAIR);
                None
            }
            (Some(_), Some(Look::Unknown(why))) => {
                self.skip(id, format!("The namespace {name} cannot be looked into: {why}."));
                None
            }
            (Some(_), None) => {
                self.wants.insert(Stack::Namespace(name.clone()));
                None
            }
            (Some(object), Some(Look::There(here))) => match here.mark {
                // It was found again by its cookie.
                _ if object.alloc.adopted.is_some() => {
                    self.pass(id, format!("The adopted namespace {name} is there."));
                    Some(here)
                }
                Some(Mark::Object(uid)) if uid == object.meta.uid => {
                    self.pass(id, format!("The namespace {name} is there and bears the mark of its object."));
                    Some(here)
                }
                Some(Mark::Foreign | Mark::Group | Mark::Object(_)) | None => {
                    self.fail(
                        id,
                        format!("/run/netns/{name} is another namespace than the one that netloom made: its loopback does not bear the mark netloom:{}.", object.meta.uid),
                        format!("Move it away (`ip netns del {name}`, once nothing needs it); netloom then makes its own again."),
                    );
                    None
                }
            },
        }
    }

    /// A namespace without Attachments: what the kernel has is all there is to go by.
    fn unattached(&mut self, side: Side, name: &Name, here: &Here) {
        let mut links = here.links.iter().filter(|(_, line)| line.kind != "loopback").peekable();
        if links.peek().is_none() {
            let fix = format!("`netloom attach {name} NETWORK`, or `netloom link` for a cable of its own.");
            return self.fail(side.interface(), format!("{name} has no interface but lo."), fix);
        }
        let names: Vec<&str> = links.clone().map(|(link, _)| link.as_str()).collect();
        let names = names.join(", ");
        if links.any(|(_, line)| line.up) {
            self.pass(side.interface(), format!("{name} has {names}."));
        } else {
            let fix = format!("`ip -n {name} link set {names} up`");
            self.fail(side.interface_up(), format!("None of {name}'s interfaces is up: {names}."), fix);
        }
    }

    fn cable(
        &mut self,
        side: Side,
        here: &Here,
        attachment: &'a Stored<Attachment>,
        exact: Option<IpAddr>,
        ipv6: bool,
        via_host: bool,
    ) {
        let (namespace, interface) = (&attachment.spec.namespace, attachment.alloc.interface.as_str());
        let (port, name) = (attachment.alloc.host_device.as_str(), &attachment.meta.name);
        let Some(line) = here.links.get(interface) else {
            let has: Vec<&str> = here.links.keys().map(String::as_str).collect();
            return self.fail(
                side.interface(),
                format!(
                    "{namespace} has no {interface}, the interface of Attachment {name}; it has {}.",
                    has.join(", ")
                ),
                REPAIR,
            );
        };
        let ours = (Stack::Host, port.to_owned());
        if line.peer.as_ref() != Some(&ours) {
            let other = match &line.peer {
                Some((stack, link)) => format!("{link} of {stack}"),
                None => "none that is seen".into(),
            };
            return self.fail(
                side.interface(),
                format!("{interface} in {namespace} is not the cable of Attachment {name}: its other end should be {port} of the host and is {other}."),
                format!("Remove what is in the way (`ip -n {namespace} link del {interface}`); netloom then makes its own again."),
            );
        }
        self.pass(
            side.interface(),
            format!("{interface} is in {namespace}; its other end is {port} on the host."),
        );
        if line.up {
            self.pass(side.interface_up(), format!("{interface} is up."));
        } else {
            self.fail(
                side.interface_up(),
                format!("{interface} in {namespace} is down."),
                format!("`ip -n {namespace} link set {interface} up`"),
            );
        }
        let Some(network) = self.network_of(attachment) else { return };
        self.port(side, attachment, network);
        if line.carrier {
            self.pass(side.carrier(), format!("{interface} has a carrier."));
        } else {
            self.fail(
                side.carrier(),
                format!("{interface} in {namespace} has no carrier: one end of its cable is down."),
                format!(
                    "Set both ends up: `ip -n {namespace} link set {interface} up`, `ip link set {port} up`."
                ),
            );
        }
        self.address(side, here, attachment, exact, ipv6);
        self.bridge(side, network, ipv6, via_host);
    }

    fn port(&mut self, side: Side, attachment: &Stored<Attachment>, network: &Stored<Network>) {
        let Some(host) = self.here(&Stack::Host) else { return };
        let (port, bridge) = (attachment.alloc.host_device.as_str(), network.alloc.device.as_str());
        let Some(line) = host.links.get(port) else {
            return self.fail(side.port(), format!("The host has no {port}."), REPAIR);
        };
        if line.master.as_deref() == Some(bridge) {
            self.pass(side.port(), format!("{port} is a port of {bridge}."));
        } else {
            let found = match &line.master {
                Some(other) => format!("{port} is a port of {other}, not of {bridge}"),
                None => format!("{port} is a port of no bridge; it should be one of {bridge}"),
            };
            self.fail(
                side.port(),
                format!("{found}, the bridge of Network {}.", network.meta.name),
                format!("`ip link set {port} master {bridge}`"),
            );
        }
        if line.up {
            self.pass(side.port_up(), format!("{port} is up."));
        } else {
            self.fail(
                side.port_up(),
                format!(
                    "{port}, the host's end of the cable of Attachment {}, is down.",
                    attachment.meta.name
                ),
                format!("`ip link set {port} up`"),
            );
        }
    }

    fn address(
        &mut self,
        side: Side,
        here: &Here,
        attachment: &Stored<Attachment>,
        exact: Option<IpAddr>,
        ipv6: bool,
    ) {
        let (namespace, interface) = (&attachment.spec.namespace, attachment.alloc.interface.as_str());
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let wanted = attachment.alloc.addresses.iter().map(|address| address.0);
        let wanted: Vec<_> = wanted
            .filter(|net| exact.map_or(net.addr().is_ipv6() == ipv6, |address| net.addr() == address))
            .collect();
        let Some(first) = wanted.first() else {
            // The target's own address is of another family than all that the sender has.
            return self.fail(
                side.address(),
                format!("Attachment {} has no {family} address.", attachment.meta.name),
                format!("Give its network a subnet of {family}, or ask for an address of the other family."),
            );
        };
        if here.addresses_of(interface).any(|net| net == first) {
            self.pass(side.address(), format!("{interface} in {namespace} has {first}."));
        } else {
            let has: Vec<String> = here.addresses_of(interface).map(ToString::to_string).collect();
            let has = if has.is_empty() { "no address".to_owned() } else { has.join(", ") };
            let (note, fix) = no_ipv6(here, interface, ipv6);
            self.fail(
                side.address(),
                format!("{interface} in {namespace} should have {first}, and has {has}{note}."),
                format!("{fix}`ip -n {namespace} addr add {first} dev {interface}`"),
            );
        }
    }

    fn bridge(&mut self, side: Side, network: &Stored<Network>, ipv6: bool, via_host: bool) {
        let Some(host) = self.here(&Stack::Host) else { return };
        let (name, device) = (&network.meta.name, network.alloc.device.as_str());
        let line = match host.links.get(device) {
            Some(line) if line.kind == "bridge" => line,
            Some(line) => {
                let evidence = format!("{device} on the host is no bridge but {}.", line.kind);
                return self.fail(
                    side.bridge(),
                    evidence,
                    "Rename or remove it; netloom then makes its bridge.",
                );
            }
            None => {
                return self.fail(
                    side.bridge(),
                    format!("The host has no {device}, the bridge of Network {name}."),
                    REPAIR,
                );
            }
        };
        if !line.up {
            return self.fail(
                side.bridge(),
                format!("The bridge {device} of Network {name} is down."),
                format!("`ip link set {device} up`"),
            );
        }
        self.pass(side.bridge(), format!("The bridge {device} of Network {name} is up."));
        if !via_host {
            return;
        }
        let gateways = network.alloc.subnets.iter().map(|subnet| (subnet.gateway, subnet.cidr.net()));
        let Some((gateway, subnet)) = gateways.into_iter().find(|(one, _)| one.is_ipv6() == ipv6) else {
            return;
        };
        let wanted = crate::want::on_prefix(gateway, &subnet);
        if host.addresses_of(device).any(|net| *net == wanted) {
            self.pass(side.bridge_address(), format!("{device} has {wanted}, the gateway of its members."));
        } else {
            self.fail(
                side.bridge_address(),
                format!("{device} does not have {wanted}, which its members use as gateway."),
                format!("`ip addr add {wanted} dev {device}`"),
            );
        }
    }

    /// Whether the spoof guard lets the end's frames in.
    pub(super) fn guard(&mut self, side: Side, party: &Party<'a>, ipv6: bool) -> bool {
        let (Some(attachment), Some(stack)) = (party.attachment, &party.stack) else { return true };
        let Some(here) = self.here(stack) else { return true };
        let (port, interface) = (attachment.alloc.host_device.as_str(), attachment.alloc.interface.as_str());
        let elements = &self.seen.rules.elements;
        if self.seen.rules.skeleton == Skeleton::Absent {
            return true;
        }
        if elements.contains(&Element::noguard(port)) {
            self.pass(side.guard(), format!("The spoof guard is off for {port}."));
            return true;
        }
        let Some(mac) = here.links.get(interface).and_then(|line| line.mac) else { return true };
        let own = attachment.alloc.addresses.iter().map(|address| address.0.addr());
        let Some(address) = own.into_iter().find(|address| address.is_ipv6() == ipv6) else { return true };
        let element = match address {
            IpAddr::V4(address) => Element::guard4(port, mac.bytes(), address),
            IpAddr::V6(address) => Element::guard6(port, mac.bytes(), address),
        };
        if elements.contains(&element) {
            self.pass(side.guard(), format!("The spoof guard lets {mac} with {address} in by {port}."));
            return true;
        }
        if mac != attachment.alloc.mac {
            let (namespace, wanted) = (&attachment.spec.namespace, attachment.alloc.mac);
            self.fail(
                side.guard(),
                format!("{interface} in {namespace} sends as {mac}; the spoof guard lets only {wanted} in by {port}, and drops the rest."),
                format!("`ip -n {namespace} link set {interface} address {wanted}`"),
            );
        } else {
            self.fail(side.guard(), format!("The firewall has no element `{element}`, so the spoof guard drops what comes in by {port}."), REPAIR);
        }
        false
    }

    /// netloom's own firewall as a whole.
    pub(super) fn firewall(&mut self) {
        match self.seen.rules.skeleton {
            Skeleton::Present | Skeleton::Unowned => self.pass(CheckId::Firewall, "netloom's two tables are there, and as netloom makes them."),
            Skeleton::Absent => self.fail(CheckId::Firewall, "netloom's tables are not there: somebody has flushed the ruleset. Nothing is translated, published or guarded.", REPAIR),
            Skeleton::Outdated => self.fail(CheckId::Firewall, "netloom's tables are not as this netloom makes them: a chain, a rule or a set is missing, or somebody has put one in.", REPAIR),
        }
    }
}

/// Without IPv6 an interface has no addresses of it: what is said of that, and what to do first.
pub(super) fn no_ipv6(here: &Here, interface: &str, ipv6: bool) -> (&'static str, String) {
    if ipv6 && here.is_on(&format!("net/ipv6/conf/{interface}/disable_ipv6")) {
        let first = format!("First, in it, `sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0`; then ");
        return (": IPv6 is switched off for it", first);
    }
    ("", String::new())
}

/// What is said of what is missing in the firewall.
pub(super) fn repair() -> &'static str {
    REPAIR
}
