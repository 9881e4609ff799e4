//! Ways over Links: the end of a cable is broken, and answers that come back by another cable.

use std::time::Duration;

use netloom_server::kernel::{
    netns::Namespaces,
    probe,
    stranger::{self, Change},
};
use serde_json::{Value, json};

use super::{Scene, change, inside, question, with_port, write};
use crate::host::{lan, on_host};

fn namespace(name: &str) -> Value {
    json!({"kind": "Namespace", "name": name})
}

/// A cable by its ends, each `namespace interface address`.
fn link(name: &str, ends: [&str; 2]) -> Value {
    let end = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        json!({"namespace": words[0], "interface": words[1], "addresses": [words[2]]})
    };
    json!({"kind": "Link", "name": name, "spec": {"ends": ends.map(end)}})
}

fn route(name: &str, namespace: &str, destination: &str, via: &str) -> Value {
    let spec = json!({"namespace": namespace, "destination": destination, "via": via});
    json!({"kind": "Route", "name": name, "spec": spec})
}

/// near — router — far, and near — host.
async fn chain() -> Scene {
    let mut router = namespace("router");
    router["spec"]["sysctls"] = json!({"net.ipv4.ip_forward": "1"});
    let objects = json!([
        namespace("near"),
        namespace("far"),
        router,
        link("first", ["near up 10.1.1.1/24", "router down 10.1.1.2/24"]),
        link("second", ["router on 10.1.2.1/24", "far back 10.1.2.2/24"]),
        route("there", "near", "10.1.2.0/24", "10.1.1.2"),
        route("back", "far", "10.1.1.0/24", "10.1.2.1"),
    ]);
    Scene::of(lan(), objects).await
}

#[test]
fn a_broken_link_is_named() {
    on_host(async || {
        let mut scene = chain().await;
        for (from, to) in [("near", "router"), ("near", "far"), ("far", "near"), ("near", "10.1.1.2")] {
            scene.is_reachable(question(from, to)).await;
        }
        let (straight, through) = (|| question("near", "router"), || question("near", "far"));
        let down = |name: &str, link: &'static str| inside(name, || change(link, Change::Up(false)));
        scene.fault_of_ours("from.carrier", straight(), || down("router", "down")).await;
        scene.fault_of_ours("from.carrier", through(), || down("router", "down")).await;
        scene.fault_of_ours("to.carrier", through(), || down("router", "on")).await;
        scene.fault_of_ours("from.interface_up", straight(), || down("near", "up")).await;
        scene.fault_of_ours("to.interface_up", through(), || down("far", "back")).await;
        let strip = |name: &str, link: &str, address: &str| {
            let address = address.parse().unwrap();
            inside(name, || stranger::delete_address(link, address).unwrap());
        };
        scene.fault_of_ours("from.address", straight(), || strip("near", "up", "10.1.1.1/24")).await;
        scene.fault_of_ours("to.address", straight(), || strip("router", "down", "10.1.1.2/24")).await;
        let cut = || inside("router", || stranger::remove_link("down").unwrap());
        scene.fault_of_ours("from.interface", straight(), cut).await;
        scene
            .fault_of_ours("from.namespace", straight(), || Namespaces::default().delete("near").unwrap())
            .await;
        let off = || inside("router", || write("net.ipv4.conf.down.forwarding", "0"));
        scene.fault_of_ours("forwarding", through(), off).await;
        assert_eq!(scene.ask(&with_port(straight(), "tcp", 80)).await["cause"], "to.listening");
    });
}

/// red and blue with two cables; blue answers by the second what comes by the first.
#[test]
fn a_filter_that_takes_packets_only_by_the_way_back_is_named() {
    on_host(async || {
        let objects = json!([
            namespace("red"),
            namespace("blue"),
            link("one", ["red one 10.4.1.1/24", "blue one 10.4.1.2/24"]),
            link("two", ["red two 10.4.2.1/24", "blue two 10.4.2.2/24"]),
            route("other-way", "blue", "10.4.1.1/32", "10.4.2.1"),
        ]);
        let mut scene = Scene::of(lan(), objects).await;
        let filter = |name: &str, link: &str, value: &str| {
            inside(name, || write(&format!("net.ipv4.conf.{link}.rp_filter"), value));
        };
        for name in ["red", "blue"] {
            ["all", "one", "two"].into_iter().for_each(|link| filter(name, link, "0"));
        }
        let asked = || question("red", "10.4.1.2");
        scene.is_reachable(asked()).await;
        let strict = || filter("blue", "one", "1");
        let loose = || {
            let red = Namespaces::default().open("red").unwrap();
            let to = "10.4.1.2".parse().unwrap();
            assert!(!probe::ping(red, to, Duration::from_millis(300)).unwrap().reached());
            filter("blue", "one", "2");
        };
        scene.fault("return.filter", asked(), strict, loose).await;
        scene.is_reachable(asked()).await;
    });
}
