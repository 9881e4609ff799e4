//! From a change of the firewall's elements to the flows that it makes wrong.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Ports, Published, Stale};
use crate::hostnet::rules::{Data, Element, Part, SetId, Transport};

/// The flows that a change of the firewall's elements makes wrong. Where the host's own addresses matter they are left
/// out: see [`Stale::on_host`].
pub fn stale_after(remove: &[Element], add: &[Element], want: &BTreeSet<Element>) -> BTreeSet<Stale> {
    let withdrawn = remove.iter().filter_map(published).map(Stale::Withdrawn);
    let announced = add.iter().filter_map(published).filter(Published::takes_over);
    let announced = announced.map(|published| Stale::Announced { published, host: BTreeSet::new() });
    let kept: BTreeSet<IpAddr> = add.iter().filter_map(guarded).collect();
    let gone =
        remove.iter().filter_map(guarded).filter(|address| !kept.contains(address)).map(Stale::Address);
    let left = remove.iter().chain(changed_way_out(remove, add)).filter_map(translated).map(Stale::Egress);
    let mut stale: BTreeSet<Stale> = withdrawn.chain(announced).chain(gone).chain(left).collect();
    stale.extend(narrowed(remove, add, want));
    stale
}

/// What was added to a way out that was there before. Through one that is new nothing has passed yet, and what passes from now
/// on is right: forgetting is done beside the reply, and would end connections that were opened after it.
fn changed_way_out<'a>(remove: &[Element], add: &'a [Element]) -> &'a [Element] {
    let is_new = add.iter().any(|element| element.set() == SetId::Egress);
    let was_there =
        remove.iter().any(|element| element.set() == SetId::Routed || translated(element).is_some());
    if is_new && !was_there { &[] } else { add }
}

/// Ports whose gate is new, or is closed to somebody. Wanted sources of the same ports still pass.
fn narrowed<'a>(
    remove: &'a [Element],
    add: &'a [Element],
    want: &'a BTreeSet<Element>,
) -> impl Iterator<Item = Stale> + use<'a> {
    let closed = add.iter().filter(|element| is_gate(element)).chain(remove.iter().filter(|e| is_source(e)));
    let closed: BTreeSet<Gated> = closed.filter_map(gated).collect();
    let gates: BTreeSet<Gated> = match closed.is_empty() {
        true => BTreeSet::new(),
        false => want.iter().filter(|element| is_gate(element)).filter_map(gated).collect(),
    };
    let still_gated = closed.into_iter().filter(move |gate| gates.contains(gate));
    still_gated.flat_map(move |gate| {
        let mine = move |element: &&Element| is_source(element) && gated(element).as_ref() == Some(&gate);
        let sources: Vec<IpNet> = want.iter().filter(mine).filter_map(source).collect();
        let behind = want.iter().filter_map(published).filter(move |published| gate.covers(published));
        behind.map(move |published| Stale::Narrowed {
            published,
            sources: sources.clone(),
            host: BTreeSet::new(),
        })
    })
}

/// The ports that a gate is before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Gated {
    ipv6: bool,
    listen: Option<IpAddr>,
    transport: Transport,
    ports: Ports,
}

impl Gated {
    fn covers(&self, published: &Published) -> bool {
        self.ipv6 == published.target.is_ipv6()
            && self.listen == published.listen
            && self.transport == published.transport
            && self.ports.contains(published.ports.first)
    }
}

fn is_gate(element: &Element) -> bool {
    use SetId::*;
    matches!(element.set(), Gate4 | Gate4any | Gate6 | Gate6any | Grng4 | Grng4any | Grng6 | Grng6any)
}

fn is_source(element: &Element) -> bool {
    matches!(element.set(), SetId::Src4 | SetId::Src4any | SetId::Src6 | SetId::Src6any)
}

/// What a gate, or an element of its sources, is about.
fn gated(element: &Element) -> Option<Gated> {
    use SetId::*;
    let ipv6 = matches!(element.set(), Gate6 | Gate6any | Grng6 | Grng6any | Src6 | Src6any);
    let port_at = element.key().iter().position(|part| matches!(part, Part::InetService(_)))?;
    let port = |key: &[Part]| match key.get(port_at) {
        Some(Part::InetService(port)) => Some(*port),
        Some(_) | None => None,
    };
    let first = port(element.key())?;
    let last = element.last().map_or(Some(first), port)?;
    let (listen, transport) = match element.key() {
        [Part::Ipv4(on), Part::InetProto(transport), ..] => (Some((*on).into()), *transport),
        [Part::Ipv6(on), Part::InetProto(transport), ..] => (Some((*on).into()), *transport),
        [Part::InetProto(transport), ..] => (None, *transport),
        _ => return None,
    };
    Some(Gated { ipv6, listen, transport, ports: Ports { first, last } })
}

/// The prefix that an element lets pass a gate.
fn source(element: &Element) -> Option<IpNet> {
    match (element.key().last()?, element.last()?.last()?) {
        (Part::Ipv4(first), Part::Ipv4(last)) => prefix4(*first, *last),
        (Part::Ipv6(first), Part::Ipv6(last)) => prefix6(*first, *last),
        (_, _) => None,
    }
}

fn prefix4(first: Ipv4Addr, last: Ipv4Addr) -> Option<IpNet> {
    let length = (u32::from(first) ^ u32::from(last)).leading_zeros();
    IpNet::new(first.into(), u8::try_from(length).ok()?).ok()
}

fn prefix6(first: Ipv6Addr, last: Ipv6Addr) -> Option<IpNet> {
    let length = (u128::from(first) ^ u128::from(last)).leading_zeros();
    IpNet::new(first.into(), u8::try_from(length).ok()?).ok()
}

/// What an element of the forwards publishes.
fn published(element: &Element) -> Option<Published> {
    let (target, to_port) = match element.data() {
        Data::Ipv4(address) => ((*address).into(), None),
        Data::Ipv6(address) => ((*address).into(), None),
        Data::Ipv4Service(address, port) => ((*address).into(), Some(*port)),
        Data::Ipv6Service(address, port) => ((*address).into(), Some(*port)),
        Data::None | Data::Verdict(_) | Data::Jump(_) | Data::Ether(_) => return None,
    };
    let (listen, transport, first) = match element.key() {
        [Part::Ipv4(on), Part::InetProto(transport), Part::InetService(port)] => {
            (Some((*on).into()), *transport, *port)
        }
        [Part::Ipv6(on), Part::InetProto(transport), Part::InetService(port)] => {
            (Some((*on).into()), *transport, *port)
        }
        [Part::InetProto(transport), Part::InetService(port)] => (None, *transport, *port),
        _ => return None,
    };
    let last = match element.last() {
        Some([.., Part::InetService(last)]) => *last,
        Some(_) | None => first,
    };
    let ports = Ports { first, last };
    Some(Published { listen, transport, ports, target, target_port: to_port.unwrap_or(first) })
}

/// The address that an element lets a port use; link-local ones are every port's own.
fn guarded(element: &Element) -> Option<IpAddr> {
    match (element.set(), element.key()) {
        (SetId::Guard4, [.., Part::Ipv4(address)]) => Some((*address).into()),
        (SetId::Guard6, [.., Part::Ipv6(address)]) if !address.is_unicast_link_local() => {
            Some((*address).into())
        }
        _ => None,
    }
}

/// The subnet that an element translates on its way out. A new one has flows only if it was routed before.
fn translated(element: &Element) -> Option<IpNet> {
    if !matches!(element.set(), SetId::Masq4 | SetId::Masq6 | SetId::Snat4 | SetId::Snat6) {
        return None;
    }
    match (element.key(), element.last()?) {
        ([Part::Ipv4(first)], [Part::Ipv4(last)]) => prefix4(*first, *last),
        ([Part::Ipv6(first)], [Part::Ipv6(last)]) => prefix6(*first, *last),
        _ => None,
    }
}
