//! Links: direct cables, beside Attachments, across restarts, and what is left of them afterwards.

mod adopted;

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use netloom_api::Link;
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

use crate::{
    host::{Daemon, lan, on_host},
    rest::Rest,
};

const PATIENCE: Duration = Duration::from_secs(2);

fn cable() -> Value {
    json!({"name": "cable", "spec": {"ends": [
        {"namespace": "red", "interface": "veth-red", "addresses": ["10.1.1.1/24", "fd00:1::1/64"]},
        {"namespace": "blue", "interface": "veth-blue", "addresses": ["10.1.1.2/24", "fd00:1::2/64"]},
    ]}})
}

async fn red_and_blue(rest: &Rest) {
    for name in ["red", "blue"] {
        rest.post("/v1/namespaces", &json!({"name": name})).await.ok();
    }
}

#[track_caller]
fn is_ready(object: &Value) {
    assert_eq!(object["status"]["conditions"][0]["status"], "True", "{object:#}");
}

fn inside(name: &str) -> OwnedFd {
    Namespaces::default().open(name).unwrap()
}

#[track_caller]
fn reaches(from: impl AsFd, to: &str) {
    let verdict = probe::ping(from, to.parse().unwrap(), PATIENCE).unwrap();
    assert!(verdict.reached(), "{to}: {verdict:?}");
}

#[test]
fn red_and_blue_talk_over_a_cable_and_both_doors_show_it() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        let made = rest.post("/v1/links", &cable()).await.ok();
        is_ready(&made);
        for (from, to) in [("red", ["10.1.1.2", "fd00:1::2"]), ("blue", ["10.1.1.1", "fd00:1::1"])] {
            to.iter().for_each(|to| reaches(inside(from), to));
        }
        let ends = made["status"]["ends"].as_array().unwrap();
        let mac = |end: &Value| end["mac"].as_str().unwrap().to_owned();
        assert!(ends.iter().all(|end| mac(end).starts_with("02:") && end["ifindex"].as_u64() > Some(1)));
        assert_ne!(mac(&ends[0]), mac(&ends[1]));
        let state = rest.get("/v1/namespaces/red/state").await.unwrap().ok();
        let interface = &state["interfaces"].as_array().unwrap()[1];
        assert_eq!(
            (&interface["name"], &interface["mac"], &interface["owner"], &interface["ifindex"]),
            (&json!("veth-red"), &ends[0]["mac"], &json!("Link/cable"), &ends[0]["ifindex"])
        );

        let client = daemon.client().await;
        let links = client.list::<Link>(ListOptions::default()).await.unwrap().items;
        assert_eq!(json!(links), rest.get("/v1/links").await.unwrap().body["items"]);
        for (namespace, count) in [("red", 1), ("blue", 1), ("host", 0)] {
            let of = rest.get(&format!("/v1/links?namespace={namespace}")).await.unwrap().ok();
            assert_eq!(of["items"].as_array().unwrap().len(), count, "{namespace}");
        }
        let export = rest.get("/v1/export").await.unwrap().ok();
        let same = rest.post("/v1/apply", &export).await.ok();
        assert!(same["changes"].as_array().unwrap().iter().all(|one| one["action"] == "unchanged"));
    });
}

#[test]
fn a_cable_to_the_host_carries_both_families() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        // The order of the ends is the caller's.
        let spec = json!({"mtu": 9000, "ends": [
            {"namespace": "red", "interface": "up", "addresses": ["10.2.2.2/24", "fd00:2::2/64"], "mac": "02:00:00:00:00:02"},
            {"namespace": "host", "interface": "to-red", "addresses": ["10.2.2.1/24", "fd00:2::1/64"]},
        ]});
        let made = rest.post("/v1/links", &json!({"name": "uplink", "spec": spec})).await.ok();
        is_ready(&made);
        assert_eq!(made["status"]["ends"][0]["mac"], "02:00:00:00:00:02");
        for to in ["10.2.2.1", "fd00:2::1"] {
            reaches(inside("red"), to);
        }
        for to in ["10.2.2.2", "fd00:2::2"] {
            reaches(own().unwrap(), to);
        }
        let host = rest.get("/v1/namespaces/host/state").await.unwrap().ok();
        let device =
            host["interfaces"].as_array().unwrap().iter().find(|one| one["name"] == "to-red").unwrap();
        assert_eq!(
            (&device["owner"], &device["ifindex"], &device["mtu"]),
            (&json!("Link/uplink"), &made["status"]["ends"][1]["ifindex"], &json!(9000))
        );
    });
}

/// A network, an attachment of red on it, and the cable between red and blue.
async fn side_by_side(rest: &Rest) {
    red_and_blue(rest).await;
    let spec =
        json!({"subnets": [{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}], "egress": {"nat": {}}});
    rest.post("/v1/networks", &json!({"name": "v-net-0", "spec": spec})).await.ok();
    let spec = json!({"namespace": "red", "network": "v-net-0"});
    rest.post("/v1/attachments", &json!({"name": "red0", "spec": spec})).await.ok();
    is_ready(&rest.post("/v1/links", &cable()).await.ok());
}

#[test]
fn a_link_and_an_attachment_live_side_by_side_and_a_killed_daemon_finds_them_again() {
    on_host(async || {
        let _lan = lan();
        let mut daemon = Daemon::start().await;
        side_by_side(&daemon.rest()).await;
        let before = daemon.rest().get("/v1/links/cable").await.unwrap().ok();
        let kernel = Kernel::open().unwrap();
        let host = kernel.observe().unwrap().to_string();
        for _ in 0..2 {
            for to in ["10.1.1.2", "192.168.15.5", "192.168.1.3"] {
                reaches(inside("red"), to);
            }
            daemon.crash_and_restart().await;
            assert_eq!(kernel.observe().unwrap().to_string(), host);
            let again = daemon.rest().get("/v1/links/cable").await.unwrap().ok();
            is_ready(&again);
            assert_eq!(again["uid"], before["uid"]);
            assert_eq!(again["status"]["ends"][0]["mac"], before["status"]["ends"][0]["mac"]);
        }
    });
}

#[test]
fn a_namespace_with_a_cable_is_not_deleted_by_mistake_and_afterwards_the_host_is_as_before() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        red_and_blue(&rest).await;
        let with_namespaces = kernel.observe().unwrap().to_string();
        rest.post("/v1/links", &cable()).await.ok();
        let refused = rest.delete("/v1/namespaces/red").await;
        assert_eq!(
            (refused.status, &refused.body["reason"]),
            (409, &json!("HAS_DEPENDENTS")),
            "{refused:#?}"
        );
        assert_eq!(refused.body["metadata"]["dependents"], "Link/cable");
        rest.delete("/v1/links/cable").await.ok();
        assert_eq!(kernel.observe().unwrap().to_string(), with_namespaces);
        let to_host = json!({"name": "up", "spec": {"ends": [
            {"namespace": "host", "interface": "to-red", "addresses": ["10.2.2.1/24"]},
            {"namespace": "red", "interface": "up", "addresses": ["10.2.2.2/24"]},
        ]}});
        for link in [cable(), to_host] {
            is_ready(&rest.post("/v1/links", &link).await.ok());
        }
        rest.delete("/v1/namespaces/red?force=true").await.ok();
        assert_eq!(rest.get("/v1/links").await.unwrap().ok()["items"], json!([]));
        rest.delete("/v1/namespaces/blue").await.ok();
        assert_eq!(kernel.observe().unwrap().to_string(), before);
    });
}

#[test]
fn addresses_and_mtu_change_while_a_connection_goes_on() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        rest.post("/v1/links", &cable()).await.ok();
        let server = std::net::SocketAddr::from(([10, 1, 1, 2], 900));
        let _echo = serve_tcp(inside("blue"), server, "blue").unwrap();
        let blue = inside("blue");
        let listener = netloom_server::kernel::thread::run(&blue, "listen", || {
            std::net::TcpListener::bind("10.1.1.2:901")
        });
        let listener = listener.unwrap().unwrap();
        let to = SocketAddr::from(([10, 1, 1, 2], 901));
        let mut red = probe::tcp_open(inside("red"), to, PATIENCE).unwrap().unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        red.set_nonblocking(false).unwrap();
        for stream in [&red, &accepted] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut goes_on = || {
            let mut byte = [0];
            red.write_all(b"x").unwrap();
            accepted.read_exact(&mut byte).unwrap();
            accepted.write_all(b"y").unwrap();
            red.read_exact(&mut byte).unwrap();
        };
        let change = async |addresses: [Value; 2], mtu: u16| {
            let mut ends = cable()["spec"]["ends"].clone();
            for (index, addresses) in addresses.into_iter().enumerate() {
                ends[index]["addresses"] = addresses;
            }
            let changed =
                rest.patch("/v1/links/cable", &json!({"spec": {"ends": ends, "mtu": mtu}})).await.ok();
            is_ready(&changed);
            changed
        };
        goes_on();
        // One more in the same subnet, another subnet, and IPv6 away.
        change(
            [json!(["10.1.1.9/24", "10.1.1.1/24", "10.3.3.1/24"]), json!(["10.3.3.2/24", "10.1.1.2/24"])],
            1400,
        )
        .await;
        goes_on();
        reaches(inside("red"), "10.3.3.2");
        // The connection's address stays, though those that came and went share its subnet.
        change([json!(["10.1.1.1/24", "fd00:9::1/64"]), json!(["10.1.1.2/24", "fd00:9::2/64"])], 9000).await;
        goes_on();
        reaches(inside("blue"), "fd00:9::1");
        let changed = change([json!(["10.1.1.1/24", "10.1.1.7/24"]), json!(["10.1.1.2/24"])], 1500).await;
        assert_eq!(changed["generation"], 4);
        goes_on();
        // The first address of its subnet leaves; the second stays.
        change([json!(["10.1.1.7/24"]), json!(["10.1.1.2/24"])], 1500).await;
        reaches(inside("red"), "10.1.1.2");
        let kernel = Kernel::open().unwrap();
        let lines = kernel.observe().unwrap().to_string();
        let addresses: Vec<&str> = lines.lines().filter(|line| line.contains(" addr ")).collect();
        assert_eq!(addresses, ["blue: addr 10.1.1.2/24 dev veth-blue", "red: addr 10.1.1.7/24 dev veth-red"]);
        let labelled = rest.patch("/v1/links/cable", &json!({"labels": {"role": "lab"}})).await.ok();
        assert_eq!((&labelled["labels"]["role"], &labelled["generation"]), (&json!("lab"), &json!(5)));
    });
}

#[test]
fn a_device_of_somebody_else_s_is_not_taken_and_the_link_is_withdrawn() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        netloom_server::kernel::meddle::add_cable(own().unwrap(), "theirs", "theirs1").unwrap();
        netloom_server::kernel::meddle::add_cable(inside("red"), "own", "own1").unwrap();
        for (at, interface) in [("host", "theirs"), ("red", "own")] {
            let spec = json!({"ends": [
                {"namespace": at, "interface": interface},
                {"namespace": "blue", "interface": "eth0"},
            ]});
            let refused = rest.post("/v1/links", &json!({"name": "x", "spec": spec})).await;
            assert_eq!(
                (refused.status, &refused.body["reason"]),
                (409, &json!("DEVICE_TAKEN")),
                "{refused:#?}"
            );
            assert_eq!(rest.get("/v1/links/x").await.unwrap().status, 404);
        }
    });
}
