//! A picture: four columns, from the outside in; each place a box, what hangs on it as lines inside, curves between.
//!
//! Boxes of a column stand below each other in the order of what they hang on, so that curves seldom cross, and never
//! overlap. Curves are drawn first: where one passes behind a box, the box covers it.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Topology, TopologyEdge, TopologyEdgeKind as Edge, TopologyNode, TopologyNodeKind as Node};

const MARGIN: f64 = 24.0;
/// Between two boxes of a column.
const GAP: f64 = 14.0;
/// Between two columns, where the curves are.
const CHANNEL: f64 = 150.0;
const PADDING: f64 = 10.0;
const LINE: f64 = 16.0;
/// Of a character of the 12 pixel monospace font.
const CHARACTER: f64 = 7.3;
/// Longer lines end in `…`; the whole is in the tooltip.
const CHARACTERS_MAX: usize = 46;
/// Arcs between boxes of one column reach so far out at most.
const ARC_MAX: f64 = 120.0;

/// A node with its place.
#[derive(Debug)]
struct Place<'t> {
    node: &'t TopologyNode,
    lines: Vec<Line<'t>>,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// A line in a box, and the edge that it tells of.
#[derive(Debug)]
struct Line<'t> {
    text: String,
    ready: bool,
    edge: Option<&'t TopologyEdge>,
}

pub(super) fn draw(topology: &Topology) -> String {
    let places = places(topology);
    let by_id: BTreeMap<&str, &Place> = places.iter().map(|place| (place.node.id.as_str(), place)).collect();
    let right = places.iter().map(|place| place.x + place.width).fold(0.0, f64::max);
    let bottom = places.iter().map(|place| place.y + place.height).fold(0.0, f64::max);
    let arcs = topology.edges_of(Edge::Link).next().map_or(0.0, |_| ARC_MAX);
    let (width, height) = (right + arcs + MARGIN, bottom + MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">\n{STYLE}\
         <rect class=\"paper\" width=\"{width:.0}\" height=\"{height:.0}\"/>\n"
    );
    for edge in &topology.edges {
        if let (Some(from), Some(to)) = (by_id.get(edge.from.as_str()), by_id.get(edge.to.as_str())) {
            curve(edge, from, to, &mut svg);
        }
    }
    for place in &places {
        card(place, &mut svg);
    }
    svg.push_str("</svg>\n");
    svg
}

const STYLE: &str = "<style>\
    .paper{fill:#fff}text{font:12px ui-monospace,monospace;fill:#222}.name{font-weight:bold}\
    rect{stroke:#555}.paper{stroke:none}.outside rect{fill:#fafafa;stroke-dasharray:5 4}.host rect{fill:#eee;stroke-width:2}\
    .network rect{fill:#e3f0fb;stroke:#2b6cb0}.namespace rect{fill:#fff}\
    path{fill:none;stroke:#888;stroke-width:1.3}.attachment,.gateway{stroke:#2b6cb0}.link{stroke:#333;stroke-width:2.2}\
    .port_forward{stroke:#2f855a;stroke-dasharray:6 4}\
    .broken text,text.broken{fill:#c62828}.broken rect,path.broken{stroke:#c62828}\
    </style>\n";

/// Every node with its place.
fn places(topology: &Topology) -> Vec<Place<'_>> {
    let mut columns: BTreeMap<Node, Vec<Place>> = BTreeMap::new();
    for node in &topology.nodes {
        columns.entry(node.kind).or_default().push(place(topology, node));
    }
    let mut x = MARGIN;
    for places in columns.values_mut() {
        let width = places.iter().map(|place| place.width).fold(0.0, f64::max);
        for place in places.iter_mut() {
            (place.x, place.width) = (x, width);
        }
        x += width + CHANNEL;
    }
    // From the inside out: what others hang on stands in their middle.
    let mut settled: BTreeMap<&str, f64> = BTreeMap::new();
    for (kind, places) in columns.iter_mut().rev() {
        let wish = |place: &Place| middle_of_neighbours(topology, &settled, place.node);
        let mut wishes: Vec<Option<f64>> = places.iter().map(wish).collect();
        if *kind == Node::Namespace {
            order(topology, places);
            wishes.fill(None);
        }
        stack(places, &wishes);
        settled.extend(places.iter().map(|place| (place.node.id.as_str(), place.y + place.height / 2.0)));
    }
    columns.into_values().flatten().collect()
}

fn place<'t>(topology: &'t Topology, node: &'t TopologyNode) -> Place<'t> {
    let details = node.details.iter().map(|detail| Line { text: detail.clone(), ready: true, edge: None });
    let mut lines: Vec<Line> = details.collect();
    if node.kind != Node::Network {
        lines.extend(topology.edges.iter().filter_map(|edge| line(topology, node, edge)));
    }
    let longest = lines.iter().map(|line| line.text.as_str()).chain([node.name.as_str()]);
    let longest = longest.map(|text| cut(text).chars().count()).max().unwrap_or_default();
    let width = longest as f64 * CHARACTER + 2.0 * PADDING;
    let height = (lines.len() + 1) as f64 * LINE + PADDING;
    Place { node, lines, x: 0.0, y: 0.0, width, height }
}

/// What an edge says in the box of one of its ends.
fn line<'t>(topology: &Topology, node: &TopologyNode, edge: &'t TopologyEdge) -> Option<Line<'t>> {
    let TopologyEdge { name, from_end, to_end, .. } = edge;
    let text = match (edge.kind, edge.from == node.id, edge.to == node.id) {
        (_, false, false) => return None,
        (Edge::Uplink, true, _) => from_end.clone(),
        // The network's own box tells of it, or a namespace's.
        (Edge::Uplink | Edge::Gateway, _, _) | (Edge::PortForward, true, false) | (Edge::Route, false, _) => {
            return None;
        }
        (Edge::Attachment, _, _) => format!("{from_end}  ({})", topology.name_of(&edge.to)),
        (Edge::Link, true, _) => format!("{from_end}  (link {name} to {})", topology.name_of(&edge.to)),
        (Edge::Link, false, _) => format!("{to_end}  (link {name} to {})", topology.name_of(&edge.from)),
        (Edge::PortForward, _, _) => format!("{from_end} → {to_end}"),
        (Edge::Route, true, _) => format!("route {from_end}"),
    };
    Some(Line { text, ready: edge.ready, edge: Some(edge) })
}

/// Namespaces in the order of the networks that they hang on first, then of their names.
fn order(topology: &Topology, places: &mut [Place]) {
    let network = |place: &Place| {
        let first = topology.edges_of(Edge::Attachment).find(|edge| edge.from == place.node.id);
        let rank = first.and_then(|edge| topology.nodes.iter().position(|node| node.id == edge.to));
        (rank.unwrap_or(usize::MAX), place.node.id.clone())
    };
    places.sort_by_cached_key(network);
}

fn middle_of_neighbours(
    topology: &Topology,
    settled: &BTreeMap<&str, f64>,
    node: &TopologyNode,
) -> Option<f64> {
    let near = topology.edges.iter().filter_map(|edge| match (edge.from == node.id, edge.to == node.id) {
        (true, false) => settled.get(edge.to.as_str()),
        (false, true) => settled.get(edge.from.as_str()),
        (true, true) | (false, false) => None,
    });
    let near: Vec<f64> = near.copied().collect();
    (!near.is_empty()).then(|| near.iter().sum::<f64>() / near.len() as f64)
}

/// Puts boxes below each other in their order, each as near to its wish as those before it let it.
fn stack(places: &mut [Place], wishes: &[Option<f64>]) {
    let mut free = MARGIN;
    for (place, wish) in places.iter_mut().zip(wishes) {
        let wished = wish.map_or(free, |middle| middle - place.height / 2.0);
        place.y = wished.max(free);
        free = place.y + place.height + GAP;
    }
}

fn curve(edge: &TopologyEdge, from: &Place, to: &Place, svg: &mut String) {
    if edge.kind == Edge::Route {
        // It is a line in its box: its way is that of other curves.
        return;
    }
    let class = format!("{}{}", edge.kind.as_str(), flaw(edge.ready));
    let (y1, y2) = (height_of(edge, from), height_of(edge, to));
    let title = escaped(&format!("{} {} {}", edge.name, edge.from_end, edge.to_end));
    let path = if from.x == to.x {
        let x = from.x + from.width;
        let out = x + (30.0 + (y1 - y2).abs() / 4.0).min(ARC_MAX * 4.0 / 3.0);
        format!("M{x:.1} {y1:.1}C{out:.1} {y1:.1} {out:.1} {y2:.1} {x:.1} {y2:.1}")
    } else {
        let ((left, y1), (right, y2)) =
            if from.x < to.x { ((from, y1), (to, y2)) } else { ((to, y2), (from, y1)) };
        let (x1, x2) = (left.x + left.width, right.x);
        let half = (x1 + x2) / 2.0;
        format!("M{x1:.1} {y1:.1}C{half:.1} {y1:.1} {half:.1} {y2:.1} {x2:.1} {y2:.1}")
    };
    // Writing to a String cannot fail.
    let _ = writeln!(svg, "<path class=\"{class}\" d=\"{path}\"><title>{}</title></path>", title.trim());
}

/// Where an edge touches a box: at the line that tells of it, else in the middle.
fn height_of(edge: &TopologyEdge, place: &Place) -> f64 {
    let index = place.lines.iter().position(|line| line.edge.is_some_and(|other| std::ptr::eq(other, edge)));
    index.map_or(place.y + place.height / 2.0, |index| baseline(place, index + 1) - 4.0)
}

fn baseline(place: &Place, line: usize) -> f64 {
    place.y + PADDING / 2.0 + (line + 1) as f64 * LINE - 4.0
}

fn card(place: &Place, svg: &mut String) {
    let Place { node, lines, x, y, width, height } = place;
    let class = format!("{}{}", node.kind.as_str(), flaw(node.ready));
    let _ = writeln!(
        svg,
        "<g class=\"{class}\"><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"5\"/>"
    );
    let left = x + PADDING;
    let mut put = |line: usize, class: &str, text: &str| {
        let y = baseline(place, line);
        let short = cut(text);
        let title = if short == text { String::new() } else { format!("<title>{}</title>", escaped(text)) };
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let _ = writeln!(svg, "<text{class} x=\"{left:.1}\" y=\"{y:.1}\">{}{title}</text>", escaped(&short));
    };
    put(0, "name", &node.name);
    for (index, line) in lines.iter().enumerate() {
        put(index + 1, flaw(line.ready).trim(), &line.text);
    }
    svg.push_str("</g>\n");
}

fn flaw(ready: bool) -> &'static str {
    if ready { "" } else { " broken" }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= CHARACTERS_MAX {
        return text.to_owned();
    }
    text.chars().take(CHARACTERS_MAX - 1).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    let one = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        // XML 1.0 has no other control characters.
        control if control.is_control() => " ".to_owned(),
        plain => plain.to_string(),
    };
    text.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::many, *};

    #[test]
    fn at_fifty_namespaces_no_box_overlaps_another_and_every_line_fits() {
        let topology = many(50);
        let places = places(&topology);
        assert_eq!(places.len(), topology.nodes.len());
        for (index, one) in places.iter().enumerate() {
            for other in &places[index + 1..] {
                let apart = one.x + one.width <= other.x
                    || other.x + other.width <= one.x
                    || one.y + one.height <= other.y
                    || other.y + other.height <= one.y;
                assert!(apart, "{one:?} and {other:?}");
            }
            for line in &one.lines {
                let width = cut(&line.text).chars().count() as f64 * CHARACTER;
                assert!(width + 2.0 * PADDING <= one.width + 0.01, "{line:?}");
            }
            assert!(baseline(one, one.lines.len()) < one.y + one.height, "{one:?}");
        }
    }

    #[test]
    fn columns_go_from_the_outside_in_and_what_others_hang_on_stands_between_them() {
        let topology = many(12);
        let places = places(&topology);
        let column = |kind: Node| places.iter().filter(move |place| place.node.kind == kind);
        let x = |kind: Node| column(kind).next().unwrap().x;
        assert!(x(Node::Outside) < x(Node::Host) && x(Node::Host) < x(Node::Network));
        assert!(x(Node::Network) < x(Node::Namespace));
        let (first, last) =
            (column(Node::Namespace).next().unwrap(), column(Node::Namespace).next_back().unwrap());
        let host = column(Node::Host).next().unwrap();
        assert!(host.y > first.y && host.y < last.y);
    }
}
