//! What is between the ends: routes, forwarding, neighbours, filters, and what is kept apart on purpose.

use std::time::Duration;

use netloom_server::{
    diagnose::seen::Hook,
    kernel::{
        echo::serve_tcp,
        lan::{LanSpec, PeerSpec, add_lan},
        netns::Namespaces,
        stranger::{self, Change, Drops, TypedRoute},
        thread,
    },
};
use serde_json::{Value, json};

use super::{Scene, change, inside, question, typed, web_from, with_port, write};
use crate::host::on_host;

#[test]
fn a_broken_route_is_named() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let out = || question("red", "192.168.1.3");
        let no_default = typed("0.0.0.0/0", Some("192.168.15.5"), Some("eth0"));
        let bare = || inside("red", || stranger::delete_route(&no_default).unwrap());
        scene.fault_of_ours("from.route", out(), bare).await;
        let black = typed("192.168.1.0/24", None, None);
        let add = |route: &TypedRoute| inside("red", || stranger::add_route(route).unwrap());
        let delete = |route: &TypedRoute| inside("red", || stranger::delete_route(route).unwrap());
        scene.fault("from.route", out(), || add(&black), || delete(&black)).await;
        // A gateway that nobody has.
        let lost = typed("192.168.1.0/24", Some("192.168.15.99"), Some("eth0"));
        scene.fault("from.gateway", out(), || add(&lost), || delete(&lost)).await;
        // A longer prefix takes what is for the neighbour elsewhere.
        let elsewhere = typed("192.168.15.2/32", None, Some("lo"));
        scene.fault("from.overlap", question("red", "blue"), || add(&elsewhere), || delete(&elsewhere)).await;
        let host_elsewhere = typed("192.168.15.2/32", None, Some("eth0"));
        let (add_host, delete_host) = (
            || stranger::add_route(&host_elsewhere).unwrap(),
            || stranger::delete_route(&host_elsewhere).unwrap(),
        );
        scene.fault("host.overlap", web_from(json!({"address": "192.168.1.3"})), add_host, delete_host).await;
        let back = typed("192.168.15.1/32", None, Some("eth0"));
        let (add_back, delete_back) =
            (|| stranger::add_route(&back).unwrap(), || stranger::delete_route(&back).unwrap());
        scene.fault("host.overlap", out(), add_back, delete_back).await;
        scene.fault("to.return", question("red", "host"), add_back, delete_back).await;
        // Without a route back the answers of a published port do not leave.
        let no_default = typed("0.0.0.0/0", Some("192.168.15.5"), Some("eth0"));
        let blue_bare = || inside("blue", || stranger::delete_route(&no_default).unwrap());
        let _web =
            serve_tcp(Namespaces::default().open("blue").unwrap(), "0.0.0.0:80".parse().unwrap(), "blue")
                .unwrap();
        scene.fault_of_ours("to.return", web_from(json!({"address": "192.168.1.3"})), blue_bare).await;
        assert_eq!(scene.ask(&question("red", "203.0.113.9")).await["cause"], "host.route");
    });
}

#[test]
fn forwarding_filters_and_neighbours_are_named() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let out = || question("red", "192.168.1.3");
        let off = || write("net.ipv4.conf.eth0.forwarding", "0");
        scene.fault_of_ours("forwarding", out(), off).await;
        scene.fault_of_ours("forwarding", out(), || write("net.ipv4.conf.v-net-0.forwarding", "0")).await;
        let add = |hook, drops| move || stranger::add_firewall("ufw", hook, drops).unwrap();
        let remove = || stranger::remove_firewall("ufw").unwrap();
        scene.fault("foreign.rules", out(), add(Hook::Forward, Drops::All), remove).await;
        scene.fault("foreign.rules", question("red", "host"), add(Hook::Input, Drops::All), remove).await;
        scene.fault("foreign.rules", question("host", "blue"), add(Hook::Output, Drops::All), remove).await;
        let to_peer = Drops::To("192.168.1.3".parse().unwrap());
        scene.fault("foreign.rules", out(), add(Hook::Postrouting, to_peer), remove).await;
        add(Hook::Forward, to_peer)();
        assert_eq!(
            scene.ask(&question("red", "blue")).await["verdict"],
            "reachable",
            "it drops another's packets"
        );
        remove();
        let own = || inside("blue", || stranger::add_firewall("own", Hook::Input, Drops::All).unwrap());
        let own_gone = || inside("blue", || stranger::remove_firewall("own").unwrap());
        scene.fault("foreign.rules", question("red", "blue"), own, own_gone).await;
        // Nobody on the LAN has this address; the kernel finds out when it is asked.
        let nobody = || question("red", "192.168.1.77");
        let ask_it = || {
            let to = "192.168.1.77".parse().unwrap();
            let own = netloom_server::kernel::netns::own().unwrap();
            netloom_server::kernel::probe::ping(own, to, Duration::from_secs(5)).unwrap();
        };
        scene.fault("neighbour", nobody(), ask_it, || {}).await;
        let pinned = || {
            inside("red", || {
                stranger::pin_neighbour("eth0", "192.168.15.2".parse().unwrap(), [2, 9, 9, 9, 9, 9]).unwrap()
            });
        };
        let unpinned = || {
            inside("red", || {
                change("eth0", Change::Up(false));
            })
        };
        scene.fault("neighbour", question("red", "blue"), pinned, unpinned).await;
        let narrow = || inside("blue", || change("eth0", Change::Mtu(1400)));
        scene.fault_of_ours("mtu", question("red", "blue"), narrow).await;
        scene
            .fault("mtu", out(), || change("eth0", Change::Mtu(1400)), || change("eth0", Change::Mtu(1500)))
            .await;
        let unplug = || change("eth0", Change::Up(false));
        let plug = || change("eth0", Change::Up(true));
        scene.fault("host.route", out(), unplug, plug).await;
    });
}

#[test]
fn what_is_meant_to_be_apart_is_named_as_such() {
    on_host(async || {
        let scene = Scene::set().await;
        let dead = scene.ask(&web_from(json!({"address": "192.168.1.3"}))).await;
        assert_eq!(dead["cause"], "to.listening", "{dead:#}");
        let expected = [
            (json!({"from": {"address": "192.168.1.3"}, "to": {"port_forward": "few"}}), "sources"),
            (question("green", "grey"), "isolation.members"),
            (question("red", "green"), "isolation.networks"),
            (question("green", "red"), "isolation.networks"),
            (question("green", "host"), "isolation.host"),
            (question("green", "192.168.1.3"), "egress"),
            (question("192.168.1.3", "red"), "unpublished"),
            (with_port(question("red", "blue"), "udp", 53), "to.listening"),
            (question("red", "192.168.15.88"), "neighbour"),
            (question("red", "fd00::1"), "from.address"),
        ];
        for (question, cause) in expected {
            let found = scene.ask(&question).await;
            assert_eq!(
                (&found["cause"], &found["verdict"]),
                (&json!(cause), &json!("unreachable")),
                "{question}\n{found:#}"
            );
            let probe = question["from"]["address"].is_null();
            if probe && cause != "to.listening" {
                let mut question = question.clone();
                question["probe"] = json!(true);
                let probed = scene.ask(&question).await;
                let last = probed["checks"].as_array().unwrap().last().unwrap();
                assert_ne!(last["status"], "pass", "{question}\n{probed:#}");
            }
        }
    });
}

#[test]
fn strangers_whom_nobody_lets_through_are_named() {
    on_host(async || {
        let far = PeerSpec::new("far", ["192.168.2.3/24".parse().unwrap()]);
        let _other = add_lan(&LanSpec {
            host_interface: "eth1".into(),
            host_addresses: vec!["192.168.2.2/24".parse().unwrap()],
            host_routes: vec![],
            peers: vec![far],
        })
        .unwrap();
        let mut scene = Scene::set().await;
        let asked = question("192.168.1.3", "192.168.2.3");
        let found = scene.ask(&asked).await;
        assert_eq!(
            (&found["cause"], &found["verdict"]),
            (&json!("transit"), &json!("unreachable")),
            "{found:#}"
        );
        // The host is meant to be a router.
        write("net.ipv4.ip_forward", "1");
        scene.daemon.crash_and_restart().await;
        let found = scene.ask(&asked).await;
        assert_eq!((&found["cause"], &found["verdict"]), (&Value::Null, &json!("reachable")), "{found:#}");
    });
}

#[test]
fn an_object_that_is_not_ready_is_named_when_nothing_else_is_wrong() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let _web =
            serve_tcp(Namespaces::default().open("blue").unwrap(), "0.0.0.0:80".parse().unwrap(), "blue")
                .unwrap();
        let asked = web_from(json!({"address": "192.168.1.3"}));
        assert_eq!(scene.ask(&asked).await["cause"], Value::Null);
        // Its port is lost while the daemon is away; what goes through is not cut.
        scene.daemon.stop();
        let _thief = std::net::TcpListener::bind("0.0.0.0:80").unwrap();
        scene.daemon.start_again().await;
        let found = scene.ask(&asked).await;
        assert_eq!((&found["cause"], &found["verdict"]), (&json!("status"), &json!("unknown")), "{found:#}");
        let check = found["checks"].as_array().unwrap().iter().find(|check| check["id"] == "status").unwrap();
        assert!(check["evidence"].as_str().unwrap().contains("PortTaken"), "{check:#}");
    });
}

#[test]
fn what_is_beyond_this_host_only_a_probe_can_tell() {
    on_host(async || {
        let scene = Scene::set().await;
        let peer = scene.lan.peer("peer").unwrap();
        let deaf = || stranger::add_firewall("own", Hook::Input, Drops::To("192.168.1.3".parse().unwrap()));
        thread::run(peer, "stranger", deaf).unwrap().unwrap();
        let mut asked = question("red", "192.168.1.3");
        let found = scene.ask(&asked).await;
        let of = |found: &Value, id: &str| {
            let checks = found["checks"].as_array().unwrap();
            checks.iter().find(|check| check["id"] == id).unwrap()["status"].clone()
        };
        assert_eq!(
            (&found["verdict"], of(&found, "outside")),
            (&json!("reachable"), json!("skip")),
            "{found:#}"
        );
        asked["probe"] = json!(true);
        let probed = scene.ask(&asked).await;
        assert_eq!(
            (&probed["cause"], &probed["verdict"]),
            (&json!("probe"), &json!("unreachable")),
            "{probed:#}"
        );
    });
}
