//! For Mermaid, which Markdown on the usual forges shows as a picture.

use std::collections::BTreeMap;

use super::{Topology, TopologyEdge, TopologyEdgeKind as Edge, TopologyNode, TopologyNodeKind as Node};

pub(super) fn draw(topology: &Topology) -> String {
    // Its ids may not hold what names hold, so they are numbers.
    let ids: BTreeMap<&str, usize> =
        topology.nodes.iter().enumerate().map(|(index, node)| (node.id.as_str(), index)).collect();
    let mut lines = vec!["flowchart LR".to_owned()];
    lines.extend(topology.nodes.iter().enumerate().map(|(index, one)| node(index, one)));
    lines.extend(topology.edges.iter().filter_map(|one| edge(&ids, one)));
    let broken = topology.nodes.iter().enumerate().filter(|(_, node)| !node.ready);
    let broken: Vec<String> = broken.map(|(index, _)| format!("n{index}")).collect();
    if !broken.is_empty() {
        lines.push("  classDef broken stroke:#c62828,color:#c62828".to_owned());
        lines.push(format!("  class {} broken", broken.join(",")));
    }
    lines.join("\n") + "\n"
}

fn node(index: usize, node: &TopologyNode) -> String {
    let (open, close) = match node.kind {
        Node::Outside => ("((", "))"),
        Node::Host => ("[[", "]]"),
        Node::Network => ("([", "])"),
        Node::Namespace => ("[", "]"),
    };
    let label = [std::slice::from_ref(&node.name), &node.details].concat();
    format!("  n{index}{open}\"{}\"{close}", lines(&label))
}

fn edge(ids: &BTreeMap<&str, usize>, edge: &TopologyEdge) -> Option<String> {
    let (from, to) = (ids.get(edge.from.as_str())?, ids.get(edge.to.as_str())?);
    let arrow = match edge.kind {
        Edge::Uplink | Edge::Gateway | Edge::Attachment => "---",
        Edge::Link => "===",
        Edge::PortForward | Edge::Route => "-.->",
    };
    let flaw = if edge.ready { "" } else { "not ready" };
    let label = [edge.name.as_str(), &edge.from_end, &edge.to_end, flaw].map(str::to_owned);
    let label: Vec<String> = label.into_iter().filter(|text| !text.is_empty()).collect();
    let label = if label.is_empty() { String::new() } else { format!("|\"{}\"|", lines(&label)) };
    Some(format!("  n{from} {arrow}{label} n{to}"))
}

fn lines(texts: &[String]) -> String {
    texts.iter().map(|text| escaped(text)).collect::<Vec<_>>().join("<br/>")
}

/// In a quoted label all but plain characters are written as Mermaid's entities.
fn escaped(text: &str) -> String {
    let one = |c: char| match c {
        '"' => "#quot;".to_owned(),
        '#' => "#35;".to_owned(),
        '&' => "#amp;".to_owned(),
        '<' => "#lt;".to_owned(),
        '>' => "#gt;".to_owned(),
        '`' => "#96;".to_owned(),
        '\\' => "#92;".to_owned(),
        '\n' | '\r' => " ".to_owned(),
        plain => plain.to_string(),
    };
    text.chars().map(one).collect()
}
