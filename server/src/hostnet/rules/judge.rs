//! What the chains of policies, as they are written, make of a flow: the kernel's part, in words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Body, ChainName, Data, Element, Flowing, Numbers, Part, Peers, Permit, Rules, Service, SetId};

/// A flow, as rules of policies see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opened it, before any NAT.
    pub from: IpAddr,
    /// Who answers, behind any NAT.
    pub to: IpAddr,
    /// The protocol's number in an IP header.
    pub protocol: u8,
    /// The port that answers; of ICMP type and code of the first message, as one number.
    pub number: u16,
}

/// Rules, ready to be asked.
#[derive(Debug)]
pub struct Judge<'a> {
    rules: &'a Rules,
    elements: BTreeMap<(SetId, &'a [Part]), &'a Data>,
}

impl<'a> Judge<'a> {
    /// Of these rules.
    pub fn of(rules: &'a Rules) -> Self {
        let elements =
            rules.elements.iter().map(|element: &Element| ((element.set(), element.key()), element.data()));
        Self { rules, elements: elements.collect() }
    }

    /// Whether a flow that the host routes passes: both of its ends let it. An address that leads nowhere is open.
    pub fn passes(&self, flow: &Flow) -> bool {
        self.lets(Flowing::Out, flow.from, flow) && self.lets(Flowing::In, flow.to, flow)
    }

    /// Whether one end lets it pass.
    pub fn lets(&self, flowing: Flowing, end: IpAddr, flow: &Flow) -> bool {
        let set = match (flowing, end) {
            (Flowing::In, IpAddr::V4(_)) => SetId::In4,
            (Flowing::In, IpAddr::V6(_)) => SetId::In6,
            (Flowing::Out, IpAddr::V4(_)) => SetId::Eg4,
            (Flowing::Out, IpAddr::V6(_)) => SetId::Eg6,
        };
        match self.elements.get(&(set, &[Part::of(end)][..])) {
            None => true,
            Some(Data::Jump(chain)) => self.permits(chain, flow),
            Some(_) => false,
        }
    }

    /// The kernel refuses an element that leads to no chain.
    fn permits(&self, chain: &ChainName, flow: &Flow) -> bool {
        let body = self.rules.chains.get(chain).and_then(super::Chain::body);
        body.is_some_and(|body| body.permits.iter().any(|permit| self.allows(permit, body, flow)))
    }

    fn allows(&self, Permit { peers, service }: &Permit, body: &Body, flow: &Flow) -> bool {
        let peer = match body.flowing {
            Flowing::In => flow.from,
            Flowing::Out => flow.to,
        };
        let tagged = |set, tag: &super::RuleTag| {
            let key = [Part::Ifname(tag.as_str().to_owned()), Part::of(peer)];
            self.elements.contains_key(&(set, &key[..]))
        };
        let by_peer = match (peers, peer) {
            (Peers::Any, _) => true,
            (Peers::Tagged4(tag), IpAddr::V4(_)) => tagged(SetId::Peer4, tag),
            (Peers::Tagged6(tag), IpAddr::V6(_)) => tagged(SetId::Peer6, tag),
            (Peers::Nets4(nets), IpAddr::V4(peer)) => {
                nets.iter().any(|(first, last)| (first..=last).contains(&&peer))
            }
            (Peers::Nets6(nets), IpAddr::V6(peer)) => {
                nets.iter().any(|(first, last)| (first..=last).contains(&&peer))
            }
            (Peers::Tagged4(_) | Peers::Nets4(_), IpAddr::V6(_)) => false,
            (Peers::Tagged6(_) | Peers::Nets6(_), IpAddr::V4(_)) => false,
        };
        // The two ask for different fields of the flow.
        let is_icmp = matches!(flow.protocol, 1 | 58);
        let among = |numbers: &[Numbers]| {
            let fits = |one: &Numbers| {
                one.protocol == flow.protocol && (one.first..=one.last).contains(&flow.number)
            };
            numbers.iter().any(fits)
        };
        let by_service = match service {
            Service::Any => true,
            Service::Ports(numbers) => !is_icmp && among(numbers),
            Service::Icmp(numbers) => is_icmp && among(numbers),
        };
        by_peer && by_service
    }
}
