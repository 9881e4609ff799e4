//! What policies make of the packet: the oracle's word, with who decided, and the rule that would let it pass.

use std::{collections::BTreeSet, net::IpAddr};

use netloom_api::{
    Attachment, CheckId, DiagnoseProtocol, Direction, Kind, Name, Policy, PolicyPeer, PolicyPort,
    PolicyProtocol, PolicyRule, Protocol,
};

use super::{Walk, holder_of, path::Hop};
use crate::{
    hostnet::{Stack, rules::Skeleton},
    want::oracle::{At, Decision, Point, Traffic, Verdict, verdict},
    world::World,
};

impl<'a> Walk<'a> {
    /// Whether the policies of both ends let the packet pass. What no policy is about is no check.
    pub(super) fn policed(&mut self, hop: &Hop) -> bool {
        let Some(source) = hop.source.filter(|_| self.seen.rules.skeleton == Skeleton::Present) else {
            return true;
        };
        let from = self.point(source);
        let from = if hop.stack == Stack::Host && hop.input.is_none() {
            Point { at: At::Host, ..from }
        } else {
            from
        };
        let to = self.point(hop.destination);
        let asked =
            Asked { world: self.world, from, to, protocol: self.protocol, port: self.port_there(hop) };
        let found = asked.verdicts();
        let mut passes = true;
        for direction in [Direction::Egress, Direction::Ingress] {
            passes &= self.tell(&asked, direction, &found);
        }
        passes
    }

    /// Whose an address is.
    fn point(&self, address: IpAddr) -> Point<'a> {
        let is_local = || self.seen.here(&Stack::Host).is_some_and(|host| host.holder(address).is_some());
        let at = match holder_of(self.world, address) {
            Some(attachment) => At::Attachment(&attachment.meta.name),
            None if address.is_loopback() || is_local() => At::Host,
            None => At::Outside,
        };
        Point { at, address }
    }

    fn tell(&mut self, asked: &Asked<'_>, direction: Direction, found: &[Verdict]) -> bool {
        let of = |verdict: &'_ Verdict| match direction {
            Direction::Ingress => verdict.ingress.clone(),
            Direction::Egress => verdict.egress.clone(),
        };
        let decisions: Vec<Decision> = found.iter().map(of).collect();
        let (id, end, other, way) = match direction {
            Direction::Ingress => (CheckId::ToPolicy, asked.to, asked.from, "come in from"),
            Direction::Egress => (CheckId::FromPolicy, asked.from, asked.to, "go out to"),
        };
        let (end, other, what) = (called(end), called(other), asked.what());
        match decisions.as_slice() {
            [] | [Decision::Open, ..] => true,
            all if all.iter().all(|one| one.passes()) => {
                let by = all.iter().find_map(|one| match one {
                    Decision::Allowed(by) => Some(by.as_slice()),
                    Decision::Open | Decision::Denied(_) => None,
                });
                let by = policies(by.unwrap_or_default());
                self.pass(id, format!("{by} lets {what} {way} {other}, for {end}."));
                true
            }
            [Decision::Denied(by), rest @ ..] if rest.iter().all(|one| !one.passes()) => {
                let evidence = format!(
                    "{end} is selected by {}, and no rule of it lets {what} {way} {other}.",
                    policies(by)
                );
                let fix = asked.fix(direction, by);
                self.fail(id, evidence, fix);
                false
            }
            _ => {
                self.skip(
                    id,
                    format!("Some ports of {what} may {way} {other}, for {end}, and others not: name one."),
                );
                true
            }
        }
    }
}

/// What is asked of the oracle.
struct Asked<'a> {
    world: &'a World,
    from: Point<'a>,
    to: Point<'a>,
    protocol: DiagnoseProtocol,
    port: Option<u16>,
}

impl Asked<'_> {
    /// One for the port; without one, of every port that a rule begins or ends at, and of one that none names.
    fn verdicts(&self) -> Vec<Verdict> {
        let of = |traffic| verdict(self.world, self.from, self.to, traffic);
        let Some(protocol) = transport(self.protocol) else {
            let echo = if self.to.address.is_ipv4() { 8 } else { 128 };
            return vec![of(Traffic::Icmp(echo, 0))];
        };
        let ports = match self.port {
            Some(port) => BTreeSet::from([port]),
            None => self.edges(protocol.into()),
        };
        ports.into_iter().map(|port| of(Traffic::Port(protocol, port))).collect()
    }

    fn edges(&self, protocol: PolicyProtocol) -> BTreeSet<u16> {
        let policies = self.world.all::<Policy>().map(|policy| &policy.spec);
        let rules = policies.flat_map(|spec| Direction::ALL.into_iter().flat_map(|way| spec.rules(way)));
        let ports = rules.flat_map(|rule| &rule.ports).filter(|port| port.protocol == protocol);
        let edges =
            ports.filter_map(PolicyPort::ports).flat_map(|(first, last)| [first, last.saturating_add(1)]);
        edges.chain([1]).collect()
    }

    /// The packet in words.
    fn what(&self) -> String {
        match self.port {
            Some(port) => format!("{} port {port}", self.protocol),
            None => self.protocol.to_string(),
        }
    }

    /// The rule that lets it pass, and where it belongs.
    fn fix(&self, direction: Direction, selecting: &[Name]) -> String {
        let rule = self.rule(direction);
        let rule = serde_json::to_string(&rule).unwrap_or_default();
        let first = selecting.first().map(ToString::to_string).unwrap_or_default();
        let others = if selecting.len() > 1 { ", or of another one of these" } else { "" };
        format!("Add the rule {rule} to `{direction}` of {} {first}{others}.", Kind::Policy)
    }

    fn rule(&self, direction: Direction) -> PolicyRule {
        let other = match direction {
            Direction::Ingress => self.from,
            Direction::Egress => self.to,
        };
        let labels = match other.at {
            At::Attachment(name) => self.world.get::<Attachment>(name).map(|other| other.meta.labels.clone()),
            At::Host | At::Outside => None,
        };
        let peer = match labels.filter(|labels| !labels.is_empty()) {
            Some(labels) => PolicyPeer { labels, ..PolicyPeer::default() },
            None => PolicyPeer { cidr: other.address.to_string().parse().ok(), ..PolicyPeer::default() },
        };
        let protocol = match transport(self.protocol) {
            Some(protocol) => protocol.into(),
            None if self.to.address.is_ipv4() => PolicyProtocol::Icmp,
            None => PolicyProtocol::Icmpv6,
        };
        let port = PolicyPort { port: self.port, ..PolicyPort::all_of(protocol) };
        PolicyRule { peers: vec![peer], ports: vec![port] }
    }
}

fn transport(protocol: DiagnoseProtocol) -> Option<Protocol> {
    match protocol {
        DiagnoseProtocol::Tcp => Some(Protocol::Tcp),
        DiagnoseProtocol::Udp => Some(Protocol::Udp),
        DiagnoseProtocol::Sctp => Some(Protocol::Sctp),
        DiagnoseProtocol::Icmp => None,
    }
}

/// An end in words.
fn called(point: Point<'_>) -> String {
    match point.at {
        At::Attachment(name) => format!("{name} ({})", point.address),
        At::Host => format!("the host ({})", point.address),
        At::Outside => point.address.to_string(),
    }
}

fn policies(names: &[Name]) -> String {
    let all: Vec<&str> = names.iter().map(Name::as_str).collect();
    let noun = if all.len() == 1 { "Policy" } else { "Policies" };
    format!("{noun} {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use netloom_api::{AnyDraft, Path, Timestamp};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::{
        controller::{Change, edit_for_tests},
        want::shapes::{endpoints, objects, shapes},
    };

    fn put(world: &World, objects: &[Value]) -> World {
        let drafts = objects.iter().map(|one| AnyDraft::from_json(one.clone(), &Path::root()).unwrap());
        edit_for_tests(world, drafts.map(Change::Put).collect(), Timestamp::from_micros(0))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn the_rule_that_a_fix_names_lets_the_packet_pass(
            shape in prop::sample::select(shapes()),
            (from, to) in (0_usize..9, 0_usize..9),
            family in 0_usize..2,
            protocol in prop::sample::select(vec![DiagnoseProtocol::Icmp, DiagnoseProtocol::Tcp, DiagnoseProtocol::Udp]),
        ) {
            let world = put(&World::default(), &objects());
            let world = put(&world, &shape.policies);
            let names: Vec<Name> = endpoints().iter().map(|one| one.name.parse().unwrap()).collect();
            let point = |at: usize| Point { at: At::Attachment(&names[at]), address: endpoints()[at].addresses[family] };
            let port = (protocol != DiagnoseProtocol::Icmp).then_some(80);
            let asked = Asked { world: &world, from: point(from), to: point(to), protocol, port };
            let [Verdict { egress, ingress }] = asked.verdicts().try_into().unwrap();
            for (direction, decision) in [(Direction::Egress, egress), (Direction::Ingress, ingress)] {
                let Decision::Denied(by) = decision else { continue };
                let mut policy = shape.policies.iter().find(|policy| policy["name"] == by[0].as_str()).unwrap().clone();
                let rule = serde_json::to_value(asked.rule(direction)).unwrap();
                let spec = policy["spec"].as_object_mut().unwrap();
                let rules = spec.entry(direction.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                rules.as_array_mut().unwrap().push(rule);
                let mended = put(&world, &[policy]);
                let [now] = Asked { world: &mended, ..asked }.verdicts().try_into().unwrap();
                let decision = if direction == Direction::Egress { now.egress } else { now.ingress };
                prop_assert_eq!(decision, Decision::Allowed(vec![by[0].clone()]));
                prop_assert!(asked.fix(direction, &by).contains(by[0].as_str()));
            }
        }
    }
}
