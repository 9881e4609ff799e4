//! The same over IPv6: the faults that matter, on a host whose network has no other family.

use std::time::Duration;

use netloom_server::{
    diagnose::seen::Hook,
    kernel::{
        echo::serve_tcp,
        lan::{LanSpec, PeerSpec, add_lan},
        netns::{Namespaces, own},
        probe,
        stranger::{self, Change, Drops},
    },
};
use serde_json::{Value, json};

use super::{Scene, change, inside, question, typed, web_from, with_port, write};
use crate::host::on_host;

const PEER: &str = "fd00:1::3";

impl Scene {
    /// As [`Scene::set`], over IPv6.
    pub(super) async fn six() -> Self {
        let addresses = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap());
        let spec = LanSpec {
            host_addresses: addresses(["192.168.1.2/24", "fd00:1::2/64"]).into(),
            peers: vec![PeerSpec::new("peer", addresses(["192.168.1.3/24", "fd00:1::3/64"]))],
            ..LanSpec::default()
        };
        let objects = json!([
            {"kind": "Namespace", "name": "red"},
            {"kind": "Namespace", "name": "blue"},
            {"kind": "Namespace", "name": "green"},
            {"kind": "Namespace", "name": "grey"},
            {"kind": "Network", "name": "v-net-0", "spec": {"kind": {"bridge": {"device": "v-net-0"}}, "egress": {"nat": {}},
                "subnets": [{"cidr": "fd00:15::/64", "gateway": "fd00:15::5"}]}},
            {"kind": "Network", "name": "v-net-1", "spec": {"kind": {"bridge": {"device": "v-net-1"}},
                "subnets": [{"cidr": "fd00:2::/64"}], "isolation": {"members": true}}},
            {"kind": "Attachment", "name": "red0", "spec": {"namespace": "red", "network": "v-net-0", "addresses": ["fd00:15::1"]}},
            {"kind": "Attachment", "name": "blue0", "spec": {"namespace": "blue", "network": "v-net-0", "addresses": ["fd00:15::2"]}},
            {"kind": "Attachment", "name": "green0", "spec": {"namespace": "green", "network": "v-net-1"}},
            {"kind": "Attachment", "name": "grey0", "spec": {"namespace": "grey", "network": "v-net-1"}},
            {"kind": "PortForward", "name": "web", "spec": {"protocol": "tcp", "listen": {"port": 80}, "target": {"attachment": "blue0"}}},
            {"kind": "PortForward", "name": "few", "spec": {"protocol": "tcp", "listen": {"port": 82}, "target": {"attachment": "blue0"},
                "sources": ["fd00:8::/64"]}},
        ]);
        Self::of(add_lan(&spec).unwrap(), objects).await
    }
}

fn serve_in_blue() -> impl Sized {
    serve_tcp(Namespaces::default().open("blue").unwrap(), "[::]:80".parse().unwrap(), "blue").unwrap()
}

fn from_peer() -> Value {
    web_from(json!({"address": PEER}))
}

#[test]
fn over_ipv6_packets_arrive_where_nothing_is_broken() {
    on_host(async || {
        let scene = Scene::six().await;
        let _web = serve_in_blue();
        let peer = scene.lan.peer("peer").unwrap();
        let _far = serve_tcp(peer, "[::]:900".parse().unwrap(), "peer").unwrap();
        let _here = serve_tcp(own().unwrap(), "[::]:700".parse().unwrap(), "host").unwrap();
        for question in [
            question("red", "blue"),
            question("red", "fd00:15::2"),
            question("red", "host"),
            question("red", "fd00:1::2"),
            question("red", PEER),
            question("host", "red"),
            question("host", PEER),
            with_port(question("red", "blue"), "tcp", 80),
            with_port(question("red", PEER), "tcp", 900),
            with_port(question("red", "host"), "tcp", 700),
            with_port(question("red", "fd00:1::2"), "tcp", 80),
            web_from(json!({"namespace": "red"})),
            web_from(json!({"namespace": "blue"})),
            web_from(json!({"namespace": "green"})),
            from_peer(),
        ] {
            scene.is_reachable(question).await;
        }
    });
}

#[test]
fn over_ipv6_a_broken_end_is_named() {
    on_host(async || {
        let mut scene = Scene::six().await;
        let asked = || question("red", "blue");
        let down = |name: &str| inside(name, || change("eth0", Change::Up(false)));
        scene.fault_of_ours("from.interface_up", asked(), || down("red")).await;
        let strip = |name: &str, address: &str| {
            let address = address.parse().unwrap();
            inside(name, || stranger::delete_address("eth0", address).unwrap());
        };
        scene.fault_of_ours("from.address", asked(), || strip("red", "fd00:15::1/64")).await;
        scene.fault_of_ours("to.address", asked(), || strip("blue", "fd00:15::2/64")).await;
        let off = || inside("red", || write("net.ipv6.conf.eth0.disable_ipv6", "1"));
        let on = || inside("red", || write("net.ipv6.conf.eth0.disable_ipv6", "0"));
        scene.fault("from.address", asked(), off, on).await;
        let bare = || stranger::delete_address("v-net-0", "fd00:15::5/64".parse().unwrap()).unwrap();
        scene.fault_of_ours("from.bridge_address", question("red", PEER), bare).await;
        scene.fault_of_ours("to.bridge_address", question("host", "blue"), bare).await;
        let mac = [2, 0, 0, 0, 0, 9];
        scene
            .fault_of_ours("from.guard", asked(), || inside("red", || change("eth0", Change::Mac(mac))))
            .await;
    });
}

#[test]
fn over_ipv6_a_broken_way_is_named() {
    on_host(async || {
        let mut scene = Scene::six().await;
        let out = || question("red", PEER);
        let no_default = typed("::/0", Some("fd00:15::5"), Some("eth0"));
        let bare = |name: &str| inside(name, || stranger::delete_route(&no_default).unwrap());
        scene.fault_of_ours("from.route", out(), || bare("red")).await;
        let add = |route: &stranger::TypedRoute| inside("red", || stranger::add_route(route).unwrap());
        let delete = |route: &stranger::TypedRoute| inside("red", || stranger::delete_route(route).unwrap());
        let black = typed("fd00:1::/64", None, None);
        scene.fault("from.route", out(), || add(&black), || delete(&black)).await;
        let lost = typed("fd00:1::/64", Some("fd00:15::99"), Some("eth0"));
        scene.fault("from.gateway", out(), || add(&lost), || delete(&lost)).await;
        let elsewhere = typed("fd00:15::2/128", None, Some("lo"));
        scene.fault("from.overlap", question("red", "blue"), || add(&elsewhere), || delete(&elsewhere)).await;
        let (to_blue, to_red) =
            (typed("fd00:15::2/128", None, Some("eth0")), typed("fd00:15::1/128", None, Some("eth0")));
        let add_host = |route: &stranger::TypedRoute| stranger::add_route(route).unwrap();
        let delete_host = |route: &stranger::TypedRoute| stranger::delete_route(route).unwrap();
        scene.fault("host.overlap", from_peer(), || add_host(&to_blue), || delete_host(&to_blue)).await;
        scene.fault("host.overlap", out(), || add_host(&to_red), || delete_host(&to_red)).await;
        let to_host = || question("red", "host");
        scene.fault("to.return", to_host(), || add_host(&to_red), || delete_host(&to_red)).await;
        let _web = serve_in_blue();
        scene.fault_of_ours("to.return", from_peer(), || bare("blue")).await;
        scene
            .fault_of_ours("forwarding", out(), || write("net.ipv6.conf.v-net-0.force_forwarding", "0"))
            .await;
        scene.fault_of_ours("forwarding", out(), || write("net.ipv6.conf.eth0.force_forwarding", "0")).await;
        let nobody = || question("red", "fd00:1::77");
        let ask_it = || {
            let to = "fd00:1::77".parse().unwrap();
            probe::ping(own().unwrap(), to, Duration::from_secs(5)).unwrap();
        };
        scene.fault("neighbour", nobody(), ask_it, || {}).await;
        let pinned = || {
            let blue = "fd00:15::2".parse().unwrap();
            inside("red", || stranger::pin_neighbour("eth0", blue, [2, 9, 9, 9, 9, 9]).unwrap());
        };
        let unpinned = || inside("red", || change("eth0", Change::Up(false)));
        scene.fault("neighbour", question("red", "blue"), pinned, unpinned).await;
        let drop_all = || stranger::add_firewall("ufw", Hook::Forward, Drops::All).unwrap();
        let flush = || stranger::remove_firewall("ufw").unwrap();
        scene.fault("foreign.rules", out(), drop_all, flush).await;
    });
}

#[test]
fn over_ipv6_what_is_meant_to_be_apart_is_named_as_such() {
    on_host(async || {
        let scene = Scene::six().await;
        for (question, cause) in [
            (json!({"from": {"address": PEER}, "to": {"port_forward": "few"}}), "sources"),
            (question("green", "grey"), "isolation.members"),
            (question("red", "green"), "isolation.networks"),
            (question("green", "host"), "isolation.host"),
            (question("green", PEER), "egress"),
            (question(PEER, "red"), "unpublished"),
            (question("red", "fd00:15::88"), "neighbour"),
            (question("red", "192.168.1.3"), "from.address"),
            (question("red", "2001:db8::9"), "host.route"),
            (with_port(question("host", "::1"), "tcp", 80), "to.listening"),
        ] {
            let found = scene.ask(&question).await;
            let answer = (&found["cause"], &found["verdict"]);
            assert_eq!(answer, (&json!(cause), &json!("unreachable")), "{question}\n{found:#}");
        }
    });
}
