//! For Graphviz: `netloom topology --format dot | dot -Tsvg`.

use super::{Topology, TopologyEdge, TopologyEdgeKind as Edge, TopologyNode, TopologyNodeKind as Node};

pub(super) fn draw(topology: &Topology) -> String {
    let mut lines = vec![
        "digraph netloom {".to_owned(),
        "  rankdir=LR;".to_owned(),
        "  node [shape=box, fontname=\"monospace\", fontsize=10];".to_owned(),
        "  edge [fontname=\"monospace\", fontsize=9, dir=none];".to_owned(),
    ];
    lines.extend(topology.nodes.iter().map(node));
    lines.extend(topology.edges.iter().map(edge));
    lines.push("}\n".to_owned());
    lines.join("\n")
}

fn node(node: &TopologyNode) -> String {
    let style = match node.kind {
        Node::Outside => "style=dashed",
        Node::Host => "style=\"filled,bold\", fillcolor=\"#eeeeee\"",
        Node::Network => "style=\"filled,rounded\", fillcolor=\"#e3f0fb\"",
        Node::Namespace => "style=filled, fillcolor=\"#ffffff\"",
    };
    let label = [std::slice::from_ref(&node.name), &node.details].concat();
    format!("  {} [label={}, {style}{}];", quoted(&node.id), lines(&label), flaw(node.ready))
}

fn edge(edge: &TopologyEdge) -> String {
    let style = match edge.kind {
        Edge::Uplink | Edge::Gateway | Edge::Attachment => "style=solid",
        Edge::Link => "style=bold",
        Edge::PortForward => "style=dashed, dir=forward",
        Edge::Route => "style=dotted, dir=forward",
    };
    let TopologyEdge { from, to, .. } = edge;
    let label = [edge.name.clone(), edge.from_end.clone(), edge.to_end.clone()];
    let label: Vec<String> = label.into_iter().filter(|text| !text.is_empty()).collect();
    let (from, to) = (quoted(from), quoted(to));
    format!("  {from} -> {to} [label={}, {style}{}];", lines(&label), flaw(edge.ready))
}

fn flaw(ready: bool) -> &'static str {
    if ready { "" } else { ", color=\"#c62828\", fontcolor=\"#c62828\"" }
}

/// In a quoted string of DOT a backslash begins an escape and a quote ends it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn lines(texts: &[String]) -> String {
    format!("\"{}\"", texts.iter().map(|text| escaped(text)).collect::<Vec<_>>().join("\\n"))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ")
}
