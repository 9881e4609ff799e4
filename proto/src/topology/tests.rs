use std::path::Path;

use super::{Topology, TopologyEdge, TopologyEdgeKind, TopologyFormat, TopologyNode, TopologyNodeKind};

fn node(kind: TopologyNodeKind, name: &str, details: &[&str], ready: bool) -> TopologyNode {
    let id = match kind {
        TopologyNodeKind::Outside | TopologyNodeKind::Host => name.to_owned(),
        TopologyNodeKind::Network | TopologyNodeKind::Namespace => format!("{}/{name}", kind.as_str()),
    };
    let details = details.iter().map(|detail| (*detail).to_owned()).collect();
    TopologyNode { id, kind, name: name.into(), details, ready }
}

fn edge(kind: TopologyEdgeKind, name: &str, ends: [&str; 2], texts: [&str; 2], ready: bool) -> TopologyEdge {
    let [from, to] = ends.map(str::to_owned);
    let [from_end, to_end] = texts.map(str::to_owned);
    TopologyEdge { kind, name: name.into(), from, to, from_end, to_end, ready }
}

/// The lesson with a link, a route, a published port, a namespace that hangs on nothing, and something broken.
fn lesson() -> Topology {
    use TopologyEdgeKind::*;
    use TopologyNodeKind::*;
    Topology {
        nodes: vec![
            node(Outside, "outside", &[], true),
            node(Host, "host", &[], true),
            node(Network, "v-net-0", &["192.168.15.0/24 gateway 192.168.15.5", "nat"], true),
            node(Network, "void", &["10.9.0.0/24 gateway 10.9.0.1", "no egress"], false),
            node(Namespace, "blue", &[], true),
            node(Namespace, "green", &[], true),
            node(Namespace, "red", &[], true),
        ],
        edges: vec![
            edge(Uplink, "", ["host", "outside"], ["eth0", ""], true),
            edge(Gateway, "", ["network/v-net-0", "host"], ["192.168.15.5", "v-net-0"], true),
            edge(Gateway, "", ["network/void", "host"], ["10.9.0.1", "nl0123456789"], false),
            edge(
                Attachment,
                "blue0",
                ["namespace/blue", "network/v-net-0"],
                ["eth0 192.168.15.2/24", ""],
                true,
            ),
            edge(
                Attachment,
                "red0",
                ["namespace/red", "network/v-net-0"],
                ["eth0 192.168.15.1/24", ""],
                false,
            ),
            edge(
                Link,
                "cable",
                ["namespace/red", "namespace/blue"],
                ["veth-red 10.1.1.1/24", "veth-blue 10.1.1.2/24"],
                true,
            ),
            edge(PortForward, "web", ["host", "namespace/blue"], ["*:80/tcp", "blue0:8080"], true),
            edge(Route, "lan", ["namespace/blue", "outside"], ["192.168.1.0/24 via 192.168.15.5", ""], true),
        ],
        seq: 7,
    }
}

/// As many namespaces on a few networks, each with a published port.
pub(super) fn many(count: usize) -> Topology {
    use TopologyEdgeKind::*;
    use TopologyNodeKind::*;
    let nodes = vec![node(Outside, "outside", &[], true), node(Host, "host", &[], true)];
    let mut all = Topology { nodes, ..Topology::default() };
    for number in 0..5 {
        let subnet = format!("10.88.{number}.0/24 gateway 10.88.{number}.1");
        all.nodes.push(node(Network, &format!("net-{number}"), &[&subnet, "nat"], true));
        let id = format!("network/net-{number}");
        all.edges.push(edge(Gateway, "", [&id, "host"], ["10.88.0.1", &format!("br-{number}")], true));
    }
    for number in 0..count {
        let name = format!("sandbox-{number:03}");
        all.nodes.push(node(Namespace, &name, &[], true));
        let me = format!("namespace/{name}");
        for network in [number % 5, (number + 1) % 5].into_iter().take(1 + number % 7 / 6) {
            let address = format!("eth{} 10.88.{network}.{}/24", network, number + 2);
            let ends = [me.as_str(), &format!("network/net-{network}")];
            all.edges.push(edge(Attachment, &format!("a{number}"), ends, [&address, ""], number % 11 != 3));
        }
        if number % 4 == 0 {
            let ends = ["host", me.as_str()];
            let texts = [format!("*:{}/tcp", 8000 + number), format!("a{number}:80")];
            all.edges.push(edge(PortForward, "web", ends, [&texts[0], &texts[1]], true));
        }
    }
    all.edges.sort_by(|one, other| (one.kind, &one.name).cmp(&(other.kind, &other.name)));
    all
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/topology/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let written = std::fs::write(&path, text);
        assert!(written.is_ok(), "{written:?}");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text, kept,
        "{name} has changed; if that is meant: UPDATE_GOLDEN=1 cargo test -p netloom-api --all-features"
    );
}

#[test]
fn the_lesson_is_drawn_in_every_format() {
    golden("lesson.txt", &lesson().draw(TopologyFormat::Tree));
    golden("lesson.dot", &lesson().draw(TopologyFormat::Dot));
    golden("lesson.mmd", &lesson().draw(TopologyFormat::Mermaid));
    golden("lesson.svg", &lesson().draw(TopologyFormat::Svg));
}

#[test]
fn what_has_a_meaning_in_a_format_is_escaped() {
    let mut evil = lesson();
    evil.nodes[4].name = "a\"b<c>&`d\\e\nf#".into();
    evil.edges[3].from_end = "\"]; x --> <script>&".into();
    let dot = evil.draw(TopologyFormat::Dot);
    assert!(dot.contains(r#"label="a\"b<c>&`d\\e f#""#), "{dot}");
    assert!(dot.contains(r#"\"]; x --> <script>&"#), "{dot}");
    let mermaid = evil.draw(TopologyFormat::Mermaid);
    assert!(mermaid.contains("[\"a#quot;b#lt;c#gt;#amp;#96;d#92;e f#35;\"]"), "{mermaid}");
    let svg = evil.draw(TopologyFormat::Svg);
    assert!(svg.contains("a&quot;b&lt;c&gt;&amp;`d\\e f#") && !svg.contains("<script>"), "{svg}");
}

#[test]
fn equal_topologies_have_equal_drawings_and_nothing_is_drawn_of_nothing() {
    for format in [TopologyFormat::Tree, TopologyFormat::Dot, TopologyFormat::Mermaid, TopologyFormat::Svg] {
        assert_eq!(many(50).draw(format), many(50).draw(format));
        let _ = Topology::default().draw(format);
    }
    assert_eq!(Topology::default().draw(TopologyFormat::Tree), "");
}

#[test]
fn a_topology_survives_the_wire() {
    use crate::{FromPb as _, Path, ToPb as _};
    assert_eq!(Topology::from_pb(lesson().to_pb(), &Path::root()), Ok(lesson()));
    let json = serde_json::to_value(lesson()).unwrap();
    assert_eq!(json["edges"][6]["kind"], "port_forward");
    assert_eq!(serde_json::from_value::<Topology>(json).unwrap(), lesson());
}
