//! The graph of what stands, and its drawings, from a real host.

use netloom_api::{FromPb as _, Path, Topology, pb};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, lan, on_host},
    netloom::Netloom,
};

async fn lesson(daemon: &Daemon) {
    let objects = json!([
        {"kind": "Namespace", "name": "red"},
        {"kind": "Namespace", "name": "blue"},
        {"kind": "Namespace", "name": "green"},
        {"kind": "Network", "name": "v-net-0", "spec": {"kind": {"bridge": {"device": "v-net-0"}}, "egress": {"nat": {}},
            "subnets": [{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}]}},
        {"kind": "Attachment", "name": "red0", "spec":
            {"namespace": "red", "network": "v-net-0", "addresses": ["192.168.15.1"]}},
        {"kind": "Attachment", "name": "blue0", "spec":
            {"namespace": "blue", "network": "v-net-0", "addresses": ["192.168.15.2"]}},
        {"kind": "PortForward", "name": "web", "spec":
            {"protocol": "tcp", "listen": {"port": 8080}, "target": {"attachment": "blue0", "port": 80}}},
        {"kind": "PortForward", "name": "later", "spec":
            {"protocol": "udp", "listen": {"port": 53}, "target": {"attachment": "blue0"}}},
        {"kind": "Route", "name": "lan", "spec":
            {"namespace": "blue", "destination": "192.168.1.0/24", "via": "192.168.15.5"}},
        {"kind": "Link", "name": "cable", "spec": {"ends": [
            {"namespace": "red", "interface": "veth-red", "addresses": ["10.1.1.1/24"]},
            {"namespace": "blue", "interface": "veth-blue", "addresses": ["10.1.1.2/24"]}]}},
        {"kind": "Route", "name": "over-cable", "spec":
            {"namespace": "red", "destination": "10.2.0.0/16", "via": "10.1.1.2"}},
        {"kind": "Route", "name": "never", "spec":
            {"namespace": "blue", "destination": "10.0.0.0/8", "type": "blackhole"}},
        {"kind": "Route", "name": "through-red", "spec":
            {"namespace": "blue", "destination": "10.1.0.0/16", "via": "192.168.15.1"}},
    ]);
    daemon.rest().post("/v1/apply", &json!({"objects": objects})).await.ok();
}

/// Without the position in the log, which goes on as statuses are written.
fn graph(mut topology: Value) -> Value {
    assert!(topology["seq"].take().is_i64());
    topology
}

const TREE: &str = "\
host  eth0 to outside
└─ v-net-0  bridge v-net-0  192.168.15.0/24 gateway 192.168.15.5, nat
   ├─ blue  eth0 192.168.15.2/24
   │  ├─ 53 published as *:53/udp
   │  └─ 80 published as *:8080/tcp
   └─ red  eth0 192.168.15.1/24
links
└─ cable  red  veth-red 10.1.1.1/24 ── blue  veth-blue 10.1.1.2/24
routes
├─ lan  blue  192.168.1.0/24 via 192.168.15.5 to host
├─ never  blue  blackhole 10.0.0.0/8
├─ over-cable  red  10.2.0.0/16 via 10.1.1.2 to blue
└─ through-red  blue  10.1.0.0/16 via 192.168.15.1 to red
attached nowhere
└─ green
";

#[test]
fn the_lesson_is_a_graph_at_both_doors_and_a_drawing_in_every_format() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start().await;
        lesson(&daemon).await;
        let over_rest = graph(daemon.rest().get("/v1/topology").await.unwrap().ok());
        let over_grpc = daemon.client().await.topology().await.unwrap();
        assert_eq!(graph(json!(over_grpc)), over_rest);
        assert!(over_grpc.nodes.iter().all(|node| node.ready), "{over_grpc:#?}");
        let netloom = Netloom::at(&daemon.socket);
        assert_eq!(netloom.run("topology").ok(), TREE);
        assert_eq!(netloom.run("topology --format tree").ok(), TREE);
        assert_eq!(graph(netloom.run("topology -o json").json()), over_rest);
        let names = "outside\nhost\nnetwork/v-net-0\nnamespace/blue\nnamespace/green\nnamespace/red\n";
        assert_eq!(netloom.run("topology -o name").ok(), names);
        assert!(netloom.run("topology --format dot").ok().starts_with("digraph netloom {\n"));
        assert!(netloom.run("topology --format mermaid").ok().starts_with("flowchart LR\n"));
        let svg = netloom.run("topology --format svg").ok();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains(">blue<"), "{svg}");
        let said = netloom.run("topology --format svg -o json").failed(2);
        assert!(said.contains("give one of them"), "{said}");

        // Without its target a forward is a promise of the host.
        daemon.rest().delete("/v1/attachments/blue0?force=true").await.ok();
        let tree = netloom.run("topology").ok();
        assert!(
            tree.contains("├─ later *:53/udp waits for blue0\n") && tree.ends_with("nowhere\n└─ green\n"),
            "{tree}"
        );
    });
}

#[test]
fn a_topology_that_was_read_is_the_one_that_was_sent() {
    let wrong = pb::Topology {
        nodes: vec![pb::TopologyNode { kind: "moon".into(), ..pb::TopologyNode::default() }],
        ..pb::Topology::default()
    };
    let refused = Topology::from_pb(wrong, &Path::root()).unwrap_err();
    assert_eq!(refused.0[0].field, "nodes[0].kind");
}
