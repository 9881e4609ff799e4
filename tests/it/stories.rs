//! The lesson, told through both doors.

use std::{net::SocketAddr, os::fd::AsFd, time::Duration};

use netloom_api::{Attachment, ConditionStatus, Namespace, Network, PortForward};
use netloom_client::ListOptions;
use netloom_server::{
    kernel::{
        Kernel,
        echo::serve_tcp,
        netns::{Namespaces, own},
        probe,
    },
    reconcile::Host as _,
};
use serde_json::{Value, json};

use crate::host::{Daemon, lan, on_host};

const PATIENCE: Duration = Duration::from_secs(2);

/// Every object of the lesson, in the order in which a person would make them: path and body.
pub fn lesson() -> Vec<(&'static str, Value)> {
    vec![
        ("/v1/namespaces", json!({"name": "red"})),
        ("/v1/namespaces", json!({"name": "blue", "labels": {"role": "web"}, "owner": "ci-7"})),
        (
            "/v1/networks",
            json!({"name": "v-net-0", "spec": {"kind": {"bridge": {"device": "v-net-0"}},
                "subnets": [{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}], "egress": {"nat": {}}}}),
        ),
        (
            "/v1/attachments",
            json!({"name": "red0", "spec": {"namespace": "red", "network": "v-net-0", "addresses": ["192.168.15.1"]}}),
        ),
        ("/v1/attachments", json!({"name": "blue0", "spec": {"namespace": "blue", "network": "v-net-0"}})),
        (
            "/v1/port-forwards",
            json!({"name": "web", "spec": {"protocol": "tcp", "listen": {"port": 80}, "target": {"attachment": "blue0"}}}),
        ),
        (
            "/v1/reservations",
            json!({"name": "vip", "spec": {"network": "v-net-0", "address": "192.168.15.77", "note": "later"}}),
        ),
    ]
}

fn is_ready(object: &Value) -> bool {
    object["status"]["conditions"][0]["status"] == "True"
}

/// Red reaches blue, both reach the LAN as the host, and the LAN reaches blue by port 80.
fn packets_flow(peer: impl AsFd) {
    let namespaces = Namespaces::default();
    let (red, blue) = (namespaces.open("red").unwrap(), namespaces.open("blue").unwrap());
    let ping = |from: &dyn AsFd, to: &str| {
        probe::ping(from.as_fd(), to.parse().unwrap(), PATIENCE).unwrap().reached()
    };
    assert!(ping(&red, "192.168.15.2"), "red reaches blue");
    assert!(ping(&blue, "192.168.15.1"), "blue reaches red");
    assert!(ping(&red, "192.168.15.5"), "red reaches its gateway");
    assert!(ping(&own().unwrap(), "192.168.15.1"), "the host reaches red");
    let tcp = |from: &dyn AsFd, to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        probe::tcp_exchange(from.as_fd(), to, PATIENCE).unwrap().seen().map(|seen| seen.ip().to_string())
    };
    let _web = serve_tcp(&blue, "0.0.0.0:80".parse().unwrap(), "blue").unwrap();
    let _outside = serve_tcp(peer.as_fd(), "0.0.0.0:900".parse().unwrap(), "peer").unwrap();
    assert_eq!(
        tcp(&red, "192.168.1.3:900").as_deref(),
        Some("192.168.1.2"),
        "the LAN sees the host's address"
    );
    assert_eq!(tcp(&peer, "192.168.1.2:80").as_deref(), Some("192.168.1.3"), "blue sees the peer's address");
    assert_eq!(tcp(&own().unwrap(), "127.0.0.1:80").as_deref(), Some("192.168.15.5"));
    assert_eq!(
        tcp(&blue, "192.168.1.2:80").as_deref(),
        Some("192.168.15.5"),
        "blue reaches itself by the host's port"
    );
}

#[test]
fn red_and_blue_talk_over_the_bridge_and_both_doors_show_the_same_objects() {
    on_host(async || {
        let lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        for (path, body) in lesson() {
            let object = rest.post(path, &body).await.ok();
            assert!(is_ready(&object), "{object:#}");
        }
        packets_flow(lan.peer("peer").unwrap());

        let client = daemon.client().await;
        let all = ListOptions::default;
        let namespaces = client.list::<Namespace>(all()).await.unwrap().items;
        assert_eq!(json!(namespaces), rest.get("/v1/namespaces").await.unwrap().body["items"]);
        let networks = client.list::<Network>(all()).await.unwrap().items;
        assert_eq!(json!(networks), rest.get("/v1/networks").await.unwrap().body["items"]);
        let attachments = client.list::<Attachment>(all()).await.unwrap().items;
        assert_eq!(json!(attachments), rest.get("/v1/attachments").await.unwrap().body["items"]);
        let forwards = client.list::<PortForward>(all()).await.unwrap().items;
        assert_eq!(json!(forwards), rest.get("/v1/port-forwards").await.unwrap().body["items"]);
        assert!(attachments.iter().all(|one| one.status.ready().unwrap().status == ConditionStatus::True));
        let allocations = rest.get("/v1/allocations?network=v-net-0").await.unwrap().ok();
        let addresses: Vec<&str> = allocations["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["address"].as_str().unwrap())
            .collect();
        assert_eq!(addresses, ["192.168.15.1", "192.168.15.2", "192.168.15.5", "192.168.15.77"]);
    });
}

#[test]
fn a_daemon_that_is_killed_between_every_two_calls_loses_nothing() {
    on_host(async || {
        let lan = lan();
        let mut daemon = Daemon::start().await;
        for (path, body) in lesson() {
            let object = daemon.rest().post(path, &body).await.ok();
            daemon.crash_and_restart().await;
            let again =
                daemon.rest().get(&format!("{path}/{}", body["name"].as_str().unwrap())).await.unwrap().ok();
            assert_eq!(again["uid"], object["uid"]);
            assert_eq!(again["spec"], object["spec"]);
            assert!(is_ready(&again), "{again:#}");
        }
        packets_flow(lan.peer("peer").unwrap());
    });
}

#[test]
fn a_stopped_daemon_leaves_the_traffic_as_it_was() {
    on_host(async || {
        let lan = lan();
        let mut daemon = Daemon::start().await;
        for (path, body) in lesson() {
            daemon.rest().post(path, &body).await.ok();
        }
        daemon.stop();
        packets_flow(lan.peer("peer").unwrap());
    });
}

#[test]
fn a_new_namespace_shows_only_loopback_and_after_the_last_delete_the_host_is_as_before() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        let state = rest.get("/v1/namespaces/red/state").await.unwrap().ok();
        let names: Vec<&str> =
            state["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["lo"]);
        for (path, body) in lesson().into_iter().skip(1) {
            rest.post(path, &body).await.ok();
        }
        let refused = rest.delete("/v1/networks/v-net-0").await;
        assert_eq!(
            (refused.status, &refused.body["reason"]),
            (409, &json!("HAS_DEPENDENTS")),
            "{refused:#?}"
        );
        rest.delete("/v1/port-forwards/web").await.ok();
        rest.delete("/v1/networks/v-net-0?force=true").await.ok();
        rest.delete("/v1/namespaces/red").await.ok();
        rest.delete("/v1/namespaces/blue").await.ok();
        for path in ["namespaces", "networks", "attachments", "port-forwards", "reservations", "allocations"]
        {
            let left = rest.get(&format!("/v1/{path}")).await.unwrap().ok();
            assert_eq!(left["items"], json!([]), "{path}");
        }
        let after = kernel.observe().unwrap().to_string();
        // Forwarding that was switched on stays on, and strangers stay out.
        let kept = |text: &str| {
            text.lines().filter(|line| !line.contains("notransit")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(kept(&before), kept(&after));
    });
}

#[test]
fn an_apply_is_one_transaction_in_any_order_and_repeating_it_changes_nothing() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let kinds =
            ["Namespace", "Namespace", "Network", "Attachment", "Attachment", "PortForward", "Reservation"];
        let mut objects: Vec<Value> = lesson().into_iter().map(|(_, body)| body).collect();
        for (object, kind) in objects.iter_mut().zip(kinds) {
            object["kind"] = json!(kind);
        }
        objects.reverse();
        let request = json!({"objects": objects, "owner": "lesson"});
        let plan = rest.post("/v1/apply?dry_run=true", &request).await.ok();
        assert!(
            plan["plan"]["steps"].as_array().unwrap().iter().any(|step| step == "ip netns add red"),
            "{plan:#}"
        );
        assert_eq!(rest.get("/v1/namespaces").await.unwrap().ok()["items"], json!([]));
        let done = rest.post("/v1/apply", &request).await.ok();
        assert!(done["objects"].as_array().unwrap().iter().all(is_ready), "{done:#}");
        let again = rest.post("/v1/apply", &request).await.ok();
        assert!(
            again["changes"].as_array().unwrap().iter().all(|one| one["action"] == "unchanged"),
            "{again:#}"
        );
        assert_eq!(again["revision"], done["revision"]);
        // What is exported can be applied.
        let export = rest.get("/v1/export").await.unwrap().ok();
        let same = rest.post("/v1/apply", &export).await.ok();
        assert!(
            same["changes"].as_array().unwrap().iter().all(|one| one["action"] == "unchanged"),
            "{same:#}"
        );
    });
}

#[test]
fn a_released_address_is_not_the_next_one_given_out() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        let subnets = json!([{"cidr": "10.9.0.0/29"}]);
        rest.post("/v1/networks", &json!({"name": "tiny", "spec": {"subnets": subnets}})).await.ok();
        let attach = async |name: &str| {
            rest.post(
                "/v1/attachments",
                &json!({"name": name, "spec": {"namespace": "red", "network": "tiny"}}),
            )
            .await
        };
        let address = |object: Value| object["status"]["addresses"][0].as_str().unwrap().to_owned();
        assert_eq!(address(attach("a").await.ok()), "10.9.0.2/29");
        rest.delete("/v1/attachments/a").await.ok();
        assert_eq!(address(attach("b").await.ok()), "10.9.0.3/29");
        for name in ["c", "d", "e"] {
            attach(name).await.ok();
        }
        assert_eq!(address(attach("f").await.ok()), "10.9.0.2/29");
        let full = attach("g").await;
        assert_eq!((full.status, &full.body["reason"]), (409, &json!("POOL_EXHAUSTED")), "{full:#?}");
    });
}

#[test]
fn an_etag_guards_and_a_key_makes_a_retry_safe() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let made = rest.post("/v1/namespaces", &json!({"name": "red"})).await;
        assert_eq!(made.status, 201);
        let etag = made.headers["etag"].to_str().unwrap().to_owned();
        let changed = rest.patch("/v1/namespaces/red", &json!({"labels": {"a": "b"}})).await.ok();
        assert_ne!(format!("\"{}\"", changed["etag"].as_str().unwrap()), etag);
        assert_eq!(changed["generation"], 1, "labels are no part of the spec");
        let twice = rest.post("/v1/namespaces", &json!({"name": "red"})).await;
        assert_eq!((twice.status, &twice.body["reason"]), (409, &json!("ALREADY_EXISTS")));
        let owned = rest.patch("/v1/namespaces/red", &json!({"owner": "ci-7"})).await.ok();
        assert_eq!(owned["owner"], "ci-7");
        let free = rest.patch("/v1/namespaces/red", &json!({"owner": null})).await.ok();
        assert_eq!(free["owner"], Value::Null);
        let missing = rest.patch("/v1/namespaces/green?allow_missing=true", &json!({})).await;
        assert_eq!(missing.ok()["name"], "green");
    });
}

#[test]
fn a_connection_through_a_port_that_is_withdrawn_ends_and_others_go_on() {
    use std::io::{Read as _, Write as _};
    on_host(async || {
        let lan = lan();
        let peer = lan.peer("peer").unwrap();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        for (path, body) in lesson() {
            rest.post(path, &body).await.ok();
        }
        let spec =
            json!({"protocol": "tcp", "listen": {"port": 81}, "target": {"attachment": "blue0", "port": 80}});
        rest.post("/v1/port-forwards", &json!({"name": "other", "spec": spec})).await.ok();
        // A server that accepts and keeps quiet: what comes back later is the network's own answer.
        let blue = Namespaces::default().open("blue").unwrap();
        let listener = netloom_server::kernel::thread::run(&blue, "listen", || {
            std::net::TcpListener::bind("0.0.0.0:80").unwrap()
        });
        let _listener = listener.unwrap();
        let open = |port: u16| {
            let to = SocketAddr::new("192.168.1.2".parse().unwrap(), port);
            let stream = probe::tcp_open(peer, to, PATIENCE).unwrap().unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            stream
        };
        let (mut web, mut other) = (open(80), open(81));
        rest.delete("/v1/port-forwards/web").await.ok();
        let mut buffer = [0; 8];
        // The flow is forgotten a moment after the rules have changed; the next segment then meets no translation.
        let ended = (0..50).any(|_| {
            let gone = web.write_all(b"x").is_err();
            gone || matches!(web.read(&mut buffer), Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
        });
        assert!(ended, "the connection through the withdrawn port lives on");
        other.write_all(b"x").unwrap();
        let quiet = other.read(&mut buffer).unwrap_err().kind();
        assert!(matches!(quiet, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{quiet:?}");
    });
}
