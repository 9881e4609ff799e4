//! What stands and how it hangs together, as a graph: from the World, with what is known of each object's health.

use std::{collections::BTreeSet, fmt::Display, net::IpAddr};

use netloom_api::{
    Attachment, ConditionStatus, Egress, IfName, KIND_NAMES, Kind, Link, LinkEnd, Listen, Name, Namespace,
    Network, PortForward, Route, RouteSpec, RouteType, Topology, TopologyEdge, TopologyEdgeKind as Edge,
    TopologyNode, TopologyNodeKind as Node,
};

use super::Controller;
use crate::{
    reconcile::board::Board,
    store::Snapshot,
    want::HostFacts,
    world::{Stored, World, WorldNoun},
};

const HOST: &str = "host";
const OUTSIDE: &str = "outside";

impl Controller {
    /// The graph, as it is now.
    pub fn topology(&self) -> Topology {
        let Snapshot { world, seq, .. } = self.intent.store().snapshot();
        let around = self.around.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        topology(&world, &self.board, &around.facts, seq)
    }
}

/// Pure: the graph of a World.
fn topology(world: &World, board: &Board, facts: &HostFacts, seq: i64) -> Topology {
    let mut graph = Graph { world, board, nodes: Vec::new(), edges: Vec::new() };
    graph.host(facts);
    for (kind, _) in KIND_NAMES {
        match kind {
            Kind::Namespace => world.all::<Namespace>().for_each(|one| graph.namespace(one)),
            Kind::Network => world.all::<Network>().for_each(|one| graph.network(one)),
            Kind::Attachment => world.all::<Attachment>().for_each(|one| graph.attachment(one)),
            Kind::PortForward => world.all::<PortForward>().for_each(|one| graph.forward(one)),
            Kind::Link => world.all::<Link>().for_each(|one| graph.link(one)),
            Kind::Route => world.all::<Route>().for_each(|one| graph.route(one)),
            // An address that is kept back connects nothing, and neither does a rule.
            Kind::Reservation | Kind::Policy => {}
        }
    }
    let Graph { mut nodes, mut edges, .. } = graph;
    nodes.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
    edges.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
    // What refers to a place that is not there (any more) hangs nowhere.
    let known: BTreeSet<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
    edges.retain(|edge| known.contains(edge.from.as_str()) && known.contains(edge.to.as_str()));
    Topology { nodes, edges, seq }
}

struct Graph<'w> {
    world: &'w World,
    board: &'w Board,
    nodes: Vec<TopologyNode>,
    edges: Vec<TopologyEdge>,
}

impl Graph<'_> {
    fn host(&mut self, facts: &HostFacts) {
        self.node(Node::Outside, OUTSIDE.into(), &OUTSIDE, Vec::new(), true);
        // A forward whose target is not there yet is a promise of the host.
        let waiting = self.world.all::<PortForward>().filter_map(|forward| {
            let target = &forward.spec.target.attachment;
            let waits = self.world.get::<Attachment>(target).is_none();
            waits.then(|| format!("{} {} waits for {target}", forward.meta.name, listen(forward)))
        });
        let waiting = waiting.collect();
        self.node(Node::Host, HOST.into(), &HOST, waiting, true);
        for uplink in facts.uplinks.keys() {
            self.edge(
                Edge::Uplink,
                "",
                [HOST.into(), OUTSIDE.into()],
                [uplink.to_string(), String::new()],
                true,
            );
        }
    }

    fn namespace(&mut self, namespace: &Stored<Namespace>) {
        let (name, ready) = (&namespace.meta.name, self.is_ready(namespace));
        self.node(Node::Namespace, namespace_id(name), name, Vec::new(), ready);
    }

    fn network(&mut self, network: &Stored<Network>) {
        let subnets = network.alloc.subnets.iter();
        let mut details: Vec<String> =
            subnets.map(|subnet| format!("{} gateway {}", subnet.cidr, subnet.gateway)).collect();
        details.push(egress(&network.spec.egress()).into());
        let (name, id) = (&network.meta.name, network_id(&network.meta.name));
        let ready = self.is_ready(network);
        self.node(Node::Network, id.clone(), name, details, ready);
        let gateways = list(network.alloc.subnets.iter().map(|subnet| subnet.gateway));
        let ends = [gateways, network.alloc.device.to_string()];
        self.edge(Edge::Gateway, "", [id, HOST.into()], ends, ready);
    }

    fn attachment(&mut self, attachment: &Stored<Attachment>) {
        let ends = [namespace_id(&attachment.spec.namespace), network_id(&attachment.spec.network)];
        let inside = format!("{} {}", attachment.alloc.interface, list(&attachment.alloc.addresses));
        let ready = self.is_ready(attachment);
        self.edge(Edge::Attachment, attachment.meta.name.as_str(), ends, [inside, String::new()], ready);
    }

    fn forward(&mut self, forward: &Stored<PortForward>) {
        let Some(target) = self.world.get::<Attachment>(&forward.spec.target.attachment) else { return };
        let ends = [HOST.into(), namespace_id(&target.spec.namespace)];
        let to = format!("{}:{}", target.meta.name, forward.target_port());
        let ready = self.is_ready(forward);
        self.edge(Edge::PortForward, forward.meta.name.as_str(), ends, [listen(forward), to], ready);
    }

    fn link(&mut self, link: &Stored<Link>) {
        let ends = link.spec.ends.each_ref();
        let texts =
            ends.map(|end| format!("{} {}", end.interface, list(&end.addresses)).trim_end().to_owned());
        let ends = ends.map(|end| stack_id(&end.namespace));
        let ready = self.is_ready(link);
        self.edge(Edge::Link, link.meta.name.as_str(), ends, texts, ready);
    }

    fn route(&mut self, route: &Stored<Route>) {
        let RouteSpec { namespace, destination, via, interface, .. } = &route.spec;
        let from = stack_id(namespace);
        let (to, text) = match (route.spec.type_(), via, interface) {
            (RouteType::Unicast, Some(via), _) => {
                let near = |end: &LinkEnd| end.addresses.iter().any(|address| address.0.contains(via));
                let to = self.far_end(namespace, near).unwrap_or_else(|| self.next_hop(*via));
                (to, format!("{destination} via {via}"))
            }
            (RouteType::Unicast, None, Some(interface)) => {
                let near = |end: &LinkEnd| end.interface == *interface;
                let to = self.far_end(namespace, near).unwrap_or_else(|| self.behind(namespace, interface));
                (to, format!("{destination} by {interface}"))
            }
            (RouteType::Unicast, None, None) => (OUTSIDE.into(), destination.to_string()),
            // It ends where it begins.
            (type_ @ (RouteType::Blackhole | RouteType::Unreachable | RouteType::Prohibit), _, _) => {
                (from.clone(), format!("{type_} {destination}"))
            }
        };
        let ready = self.is_ready(route);
        self.edge(Edge::Route, route.meta.name.as_str(), [from, to], [text, String::new()], ready);
    }

    /// Where the cable goes whose end in this stack is the one that is looked for.
    fn far_end(&self, namespace: &Name, near: impl Fn(&LinkEnd) -> bool) -> Option<String> {
        let cables = self.world.links_in(namespace).filter_map(|name| self.world.get::<Link>(name));
        let mut far = cables.filter_map(|cable| match &cable.spec.ends {
            [one, other] if one.namespace == *namespace && near(one) => Some(other),
            [other, one] if one.namespace == *namespace && near(one) => Some(other),
            [_, _] => None,
        });
        far.next().map(|end| stack_id(&end.namespace))
    }

    /// Who has a gateway's address, as far as netloom gave it.
    fn next_hop(&self, via: IpAddr) -> String {
        let Some((_, network)) = self.world.overlapping(&via.into()) else { return OUTSIDE.into() };
        let holder = self.world.user_of(network, via).map(|used| &used.holder);
        match holder.map(|holder| (holder.kind, &holder.name)) {
            Some((Kind::Network, _)) => HOST.into(),
            Some((Kind::Attachment, name)) => self
                .world
                .get::<Attachment>(name)
                .map_or_else(|| network_id(network), |one| namespace_id(&one.spec.namespace)),
            Some(_) | None => network_id(network),
        }
    }

    /// What is at the other end of an interface.
    fn behind(&self, namespace: &Name, interface: &IfName) -> String {
        let mine = self.world.attachments_in(namespace).filter_map(|name| self.world.get::<Attachment>(name));
        let mut mine = mine.filter(|attachment| attachment.alloc.interface == *interface);
        let bridge = |(kind, name): &(Kind, Name)| (*kind == Kind::Network).then(|| network_id(name));
        let bridge = || self.world.device_holder(interface).and_then(bridge);
        match mine.next() {
            Some(attachment) => network_id(&attachment.spec.network),
            None if namespace.as_str() == HOST => bridge().unwrap_or_else(|| OUTSIDE.into()),
            None => OUTSIDE.into(),
        }
    }

    fn node(&mut self, kind: Node, id: String, name: &dyn Display, details: Vec<String>, ready: bool) {
        self.nodes.push(TopologyNode { id, kind, name: name.to_string(), details, ready });
    }

    fn edge(&mut self, kind: Edge, name: &str, ends: [String; 2], texts: [String; 2], ready: bool) {
        let ([from, to], [from_end, to_end]) = (ends, texts);
        self.edges.push(TopologyEdge { kind, name: name.into(), from, to, from_end, to_end, ready });
    }

    fn is_ready<N: WorldNoun>(&self, object: &Stored<N>) -> bool {
        let said = self.board.status(&object.meta.uid);
        object.meta.delete_time.is_none() && said == Some(ConditionStatus::True)
    }
}

/// A Namespace, or the host.
fn stack_id(name: &Name) -> String {
    if name.as_str() == HOST { HOST.into() } else { namespace_id(name) }
}

fn namespace_id(name: &Name) -> String {
    format!("namespace/{name}")
}

fn network_id(name: &Name) -> String {
    format!("network/{name}")
}

fn egress(egress: &Egress) -> &'static str {
    match egress {
        Egress::Nat(_) => "nat",
        Egress::Routed(_) => "routed",
        Egress::None(_) => "no egress",
    }
}

/// `*:8000-8010/tcp`.
fn listen(forward: &Stored<PortForward>) -> String {
    let Listen { address, port, .. } = forward.listen();
    let last = forward.listen().last_port();
    let ports = if last == port { port.to_string() } else { format!("{port}-{last}") };
    let at = match address {
        None => "*".to_owned(),
        Some(address) if address.is_ipv6() => format!("[{address}]"),
        Some(address) => address.to_string(),
    };
    format!("{at}:{ports}/{}", forward.spec.protocol)
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}
