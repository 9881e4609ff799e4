//! For a terminal: the host with its networks and their members; then what a tree cannot hold.

use super::{Topology, TopologyEdge, TopologyEdgeKind as Edge, TopologyNode, TopologyNodeKind as Node};

/// One line, and what hangs on it.
struct Branch {
    text: String,
    below: Vec<Branch>,
}

pub(super) fn draw(topology: &Topology) -> String {
    let mut text = String::new();
    for root in [host(topology), links(topology), routes(topology), alone(topology)].into_iter().flatten() {
        text.push_str(&root.text);
        text.push('\n');
        hang(&root.below, "", &mut text);
    }
    text
}

fn hang(branches: &[Branch], stem: &str, into: &mut String) {
    for (index, branch) in branches.iter().enumerate() {
        let last = index + 1 == branches.len();
        let (fork, under) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        into.push_str(&format!("{stem}{fork}{}\n", branch.text));
        hang(&branch.below, &format!("{stem}{under}"), into);
    }
}

fn leaf(text: String) -> Branch {
    Branch { text, below: Vec::new() }
}

/// Words with two blanks between; empty ones are left out.
fn words<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join("  ")
}

fn flaw(ready: bool) -> &'static str {
    if ready { "" } else { "(not ready)" }
}

fn host(topology: &Topology) -> Option<Branch> {
    let host = topology.nodes.iter().find(|node| node.kind == Node::Host)?;
    let uplinks: Vec<&str> = topology.edges_of(Edge::Uplink).map(|edge| edge.from_end.as_str()).collect();
    let outside =
        if uplinks.is_empty() { String::new() } else { format!("{} to outside", uplinks.join(", ")) };
    let networks = topology.nodes.iter().filter(|node| node.kind == Node::Network);
    let below = host.details.iter().map(|detail| leaf(detail.clone()));
    let below = below.chain(networks.map(|network| self::network(topology, network))).collect();
    Some(Branch { text: words(["host", &outside]), below })
}

fn network(topology: &Topology, network: &TopologyNode) -> Branch {
    let gateway = topology.edges_of(Edge::Gateway).find(|edge| edge.from == network.id);
    let bridge = gateway.map(|edge| format!("bridge {}", edge.to_end)).unwrap_or_default();
    let details = network.details.join(", ");
    let members = topology.edges_of(Edge::Attachment).filter(|edge| edge.to == network.id);
    Branch {
        text: words([network.name.as_str(), &bridge, &details, flaw(network.ready)]),
        below: members.map(|member| self::member(topology, member)).collect(),
    }
}

fn member(topology: &Topology, member: &TopologyEdge) -> Branch {
    let namespace = topology.name_of(&member.from);
    // A forward ends at an attachment, and a namespace may have many.
    let to_me = |edge: &&TopologyEdge| {
        edge.to == member.from && edge.to_end.split(':').next() == Some(member.name.as_str())
    };
    let published = topology.edges_of(Edge::PortForward).filter(to_me);
    let published = published.map(|edge| {
        let to = edge.to_end.split_once(':').map_or("", |(_, port)| port);
        leaf(words([&format!("{} published as {}", to, edge.from_end), flaw(edge.ready)]))
    });
    Branch { text: words([namespace, &member.from_end, flaw(member.ready)]), below: published.collect() }
}

fn links(topology: &Topology) -> Option<Branch> {
    let lines = topology.edges_of(Edge::Link).map(|edge| {
        let end = |id: &str, text: &str| words([topology.name_of(id), text]);
        let (from, to) = (end(&edge.from, &edge.from_end), end(&edge.to, &edge.to_end));
        leaf(words([&edge.name, &format!("{from} ── {to}"), flaw(edge.ready)]))
    });
    section("links", lines.collect())
}

fn routes(topology: &Topology) -> Option<Branch> {
    let lines = topology.edges_of(Edge::Route).map(|edge| {
        let nowhere = edge.from == edge.to;
        let to = if nowhere { String::new() } else { format!(" to {}", topology.name_of(&edge.to)) };
        let to = format!("{}{to}", edge.from_end);
        leaf(words([&edge.name, topology.name_of(&edge.from), &to, flaw(edge.ready)]))
    });
    section("routes", lines.collect())
}

/// The namespaces that hang on nothing; a route alone holds nothing.
fn alone(topology: &Topology) -> Option<Branch> {
    let holds = |edge: &&TopologyEdge| edge.kind != Edge::Route;
    let hangs = |node: &TopologyNode| {
        topology.edges.iter().filter(holds).any(|edge| edge.from == node.id || edge.to == node.id)
    };
    let alone = topology.nodes.iter().filter(|node| node.kind == Node::Namespace && !hangs(node));
    section(
        "attached nowhere",
        alone.map(|node| leaf(words([node.name.as_str(), flaw(node.ready)]))).collect(),
    )
}

fn section(title: &str, below: Vec<Branch>) -> Option<Branch> {
    (!below.is_empty()).then(|| Branch { text: title.into(), below })
}
