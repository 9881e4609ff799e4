//! Routes: where packets go, in namespaces and on the host, seen by packets.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use netloom_api::{Name, Route};
use netloom_server::{
    kernel::{
        Kernel,
        echo::serve_tcp,
        lan::{Lan, LanRoute, LanSpec, PeerSpec, add_lan},
        netns::{Namespaces, own},
        probe::{self, ProbeError, Verdict},
    },
    reconcile::Host as _,
};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::{
    host::{Daemon, lan, on_host},
    rest::{Reply, Rest},
};

const PATIENCE: Duration = Duration::from_secs(2);

/// Blue on v-net-0, without a default route.
async fn blue(rest: &Rest) {
    let spec = json!({"kind": {"bridge": {"device": "v-net-0"}}, "egress": {"nat": {}},
        "subnets": [{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}, {"cidr": "fd00:15::/64"}]});
    rest.post("/v1/namespaces", &json!({"name": "blue"})).await.ok();
    rest.post("/v1/networks", &json!({"name": "v-net-0", "spec": spec})).await.ok();
    attach(rest).await;
}

async fn attach(rest: &Rest) {
    let spec = json!({"namespace": "blue", "network": "v-net-0", "addresses": ["192.168.15.2"], "default_route": false});
    rest.post("/v1/attachments", &json!({"name": "blue0", "spec": spec})).await.ok();
}

async fn add(rest: &Rest, name: &str, spec: Value) -> Reply {
    rest.post("/v1/routes", &json!({"name": name, "spec": spec})).await
}

/// The lesson's route to the LAN.
fn to_lan() -> Value {
    json!({"namespace": "blue", "destination": "192.168.1.0/24", "via": "192.168.15.5"})
}

fn inside(name: &str) -> OwnedFd {
    Namespaces::default().open(name).unwrap()
}

fn ping(from: impl AsFd, to: &str) -> Result<Verdict, ProbeError> {
    probe::ping(from, to.parse().unwrap(), PATIENCE)
}

/// The address that the peer's echo server sees.
fn seen_by_peer(lan: &Lan, from: impl AsFd) -> Option<String> {
    let _echo = serve_tcp(lan.peer("peer").unwrap(), "0.0.0.0:900".parse().unwrap(), "peer").unwrap();
    let to: SocketAddr = "192.168.1.3:900".parse().unwrap();
    let verdict = probe::tcp_exchange(from, to, PATIENCE).unwrap();
    verdict.seen().map(|seen| seen.ip().to_string())
}

fn ready(object: &Value) -> (String, String) {
    let ready = &object["status"]["conditions"][0];
    let text = |field: &str| ready[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"))
}

/// The routes of ours that the kernel has, as lines.
fn ours() -> Vec<String> {
    let net = Kernel::open().unwrap().observe().unwrap();
    net.routes.keys().map(|route| format!("{}: {route}", route.stack)).collect()
}

#[track_caller]
fn refused(reply: &Reply, status: u16, reason: &str, field: &str) {
    let fields = reply.body["violations"].as_array().cloned().unwrap_or_default();
    let named = fields.iter().any(|one| one["field"] == field);
    assert!(reply.status == status && reply.body["reason"] == reason && named, "{reply:#?}");
}

#[test]
fn the_lan_route_of_the_lesson_leads_to_the_lan_and_nowhere_else() {
    on_host(async || {
        let lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        blue(&rest).await;
        let none = ping(inside("blue"), "192.168.1.3").unwrap();
        assert_eq!(none, Verdict::Unreachable(Errno::ENETUNREACH), "before the route");

        let route = add(&rest, "lan", to_lan()).await.ok();
        assert_eq!(ready(&route), ("True".into(), "Programmed".into()), "{route:#}");
        let status = &route["status"];
        assert_eq!((&status["device"], &status["metric"]), (&json!("eth0"), &json!(100)));
        assert_eq!((&status["table"], &status["type"]), (&json!(254), &json!("unicast")));
        assert_eq!(seen_by_peer(&lan, inside("blue")).as_deref(), Some("192.168.1.2"), "NAT");
        let elsewhere = ping(inside("blue"), "198.51.100.1").unwrap();
        assert_eq!(elsewhere, Verdict::Unreachable(Errno::ENETUNREACH));

        let client = daemon.client().await;
        let name: Name = "lan".parse().unwrap();
        let over_grpc = client.get::<Route>(&name).await.unwrap();
        assert_eq!(json!(over_grpc), rest.get("/v1/routes/lan").await.unwrap().ok());
        let listed = rest.get("/v1/routes?namespace=blue").await.unwrap().ok();
        assert_eq!(listed["items"], json!([over_grpc]));
        assert_eq!(rest.get("/v1/routes?namespace=red").await.unwrap().ok()["items"], json!([]));
    });
}

#[test]
fn a_route_that_goes_nowhere_tells_the_sender_why() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        let types =
            [("blackhole", Errno::EINVAL), ("unreachable", Errno::EHOSTUNREACH), ("prohibit", Errno::EACCES)];
        for (type_, errno) in types {
            for (name, destination, target) in
                [("v4", "10.9.0.0/16", "10.9.1.1"), ("v6", "fd99::/32", "fd99::1")]
            {
                let spec = json!({"namespace": "red", "destination": destination, "type": type_});
                let body = json!({"name": name, "spec": spec});
                let path = format!("/v1/routes/{name}?allow_missing=true");
                let route = rest.patch(&path, &body).await.ok();
                assert_eq!(ready(&route).0, "True", "{route:#}");
                assert_eq!(route["status"]["device"], Value::Null);
                let got = match ping(inside("red"), target) {
                    Ok(Verdict::Unreachable(errno)) | Err(ProbeError::System { errno, .. }) => errno,
                    other => panic!("{type_} {target}: {other:?}"),
                };
                assert_eq!(got, errno, "{type_} {target}");
            }
        }
        // Each change was made in place: one route per family.
        assert_eq!(ours(), ["red: prohibit 10.9.0.0/16 metric 100", "red: prohibit fd99::/32 metric 100"]);
    });
}

#[test]
fn of_two_routes_the_lower_metric_wins_and_it_can_change() {
    on_host(async || {
        let lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        blue(&rest).await;
        let mut first = to_lan();
        first["metric"] = json!(50);
        add(&rest, "lan", first).await.ok();
        let second =
            json!({"namespace": "blue", "destination": "192.168.1.0/24", "metric": 60, "type": "prohibit"});
        add(&rest, "off", second).await.ok();
        assert!(seen_by_peer(&lan, inside("blue")).is_some());
        let dry = rest.patch("/v1/routes/lan?dry_run=true", &json!({"spec": {"metric": 70}})).await.ok();
        let line = |what: &str, metric| {
            json!(format!("ip -n blue route {what} 192.168.1.0/24 via 192.168.15.5 dev eth0 metric {metric}"))
        };
        assert_eq!(dry["plan"]["steps"], json!([line("add", 70), line("del", 50)]), "never without a route");
        rest.patch("/v1/routes/lan", &json!({"spec": {"metric": 70}})).await.ok();
        assert_eq!(seen_by_peer(&lan, inside("blue")), None, "prohibited now");
        let taken = rest.patch("/v1/routes/lan", &json!({"spec": {"metric": 60}})).await;
        refused(&taken, 409, "ROUTE_TAKEN", "spec.metric");
        assert_eq!(taken.body["metadata"]["conflict"], "Route/off");
        // Both in one go: they may swap.
        let mut lan_now = to_lan();
        lan_now["metric"] = json!(60);
        let off_now =
            json!({"namespace": "blue", "destination": "192.168.1.0/24", "metric": 70, "type": "prohibit"});
        let swap = json!({"objects": [{"kind": "Route", "name": "lan", "spec": lan_now},
            {"kind": "Route", "name": "off", "spec": off_now}]});
        rest.post("/v1/apply", &swap).await.ok();
        assert!(seen_by_peer(&lan, inside("blue")).is_some(), "{:?}", ours());
        assert_eq!(ours().len(), 2, "{:?}", ours());
    });
}

#[test]
fn a_route_waits_for_what_it_goes_through_and_is_back_with_it() {
    on_host(async || {
        let lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        blue(&rest).await;
        add(&rest, "lan", to_lan()).await.ok();
        let by_name = json!({"namespace": "blue", "destination": "172.16.0.0/12", "interface": "eth0"});
        add(&rest, "by-name", by_name).await.ok();
        assert_eq!(ours().len(), 2);

        rest.delete("/v1/attachments/blue0").await.ok();
        let route = rest.get("/v1/routes/lan").await.unwrap().ok();
        assert_eq!(ready(&route), ("False".into(), "GatewayUnreachable".into()), "{route:#}");
        assert_eq!(route["status"]["device"], Value::Null);
        let other = rest.get("/v1/routes/by-name").await.unwrap().ok();
        assert_eq!(ready(&other), ("False".into(), "DependencyNotReady".into()), "{other:#}");
        assert_eq!(ours(), [""; 0]);
        // A change that has nothing to do with it is still possible, and so is the same apply again.
        rest.patch("/v1/routes/lan", &json!({"labels": {"a": "b"}})).await.ok();

        attach(&rest).await;
        let route = rest.get("/v1/routes/lan").await.unwrap().ok();
        assert_eq!(ready(&route).0, "True", "{route:#}");
        assert!(seen_by_peer(&lan, inside("blue")).is_some());
        assert_eq!(ours().len(), 2);
    });
}

#[test]
fn a_gateway_that_cannot_be_reached_is_refused_with_the_subnets() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        blue(&rest).await;
        let route = |via: &str| json!({"namespace": "blue", "destination": "10.9.0.0/16", "via": via});
        let reply = add(&rest, "r", route("192.168.1.3")).await;
        refused(&reply, 409, "GATEWAY_UNREACHABLE", "spec.via");
        assert_eq!(reply.body["metadata"]["subnets"], "192.168.15.0/24");
        let reply = add(&rest, "r", route("192.168.15.2")).await;
        refused(&reply, 400, "INVALID_ARGUMENT", "spec.via");
        let v6 = json!({"namespace": "blue", "destination": "fd09::/16", "via": "fd01::1"});
        let reply = add(&rest, "r", v6).await;
        refused(&reply, 409, "GATEWAY_UNREACHABLE", "spec.via");
        assert_eq!(reply.body["metadata"]["subnets"], "fd00:15::/64");
        let on_host = json!({"namespace": "host", "destination": "10.9.0.0/16", "via": "172.16.0.1"});
        let reply = add(&rest, "r", on_host).await;
        refused(&reply, 409, "GATEWAY_UNREACHABLE", "spec.via");
        assert_eq!(reply.body["metadata"]["subnets"], "192.168.1.0/24,192.168.15.0/24");
        let by = json!({"namespace": "blue", "destination": "10.9.0.0/16", "interface": "eth7"});
        refused(&add(&rest, "r", by).await, 409, "REFERENCE_NOT_FOUND", "spec.interface");
        assert_eq!(ours(), [""; 0]);
    });
}

#[test]
fn no_two_routes_have_the_same_place_default_routes_included() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        blue(&rest).await;
        let default = json!({"namespace": "blue", "destination": "0.0.0.0/0", "via": "192.168.15.5"});
        add(&rest, "out", default.clone()).await.ok();
        refused(&add(&rest, "again", default.clone()).await, 409, "ROUTE_TAKEN", "spec.metric");
        let wish = json!({"spec": {"default_route": true, "metric": 100}});
        let attachment = rest.patch("/v1/attachments/blue0", &wish).await;
        refused(&attachment, 409, "ROUTE_TAKEN", "spec.metric");
        assert_eq!(attachment.body["metadata"]["conflict"], "Route/out");
        rest.patch("/v1/attachments/blue0", &json!({"spec": {"default_route": true, "metric": 200}}))
            .await
            .ok();
        assert_eq!(ours().len(), 3, "{:?}", ours());
        let reply = rest.patch("/v1/routes/out", &json!({"spec": {"metric": 200}})).await;
        refused(&reply, 409, "ROUTE_TAKEN", "spec.metric");
        assert_eq!(reply.body["metadata"]["conflict"], "Attachment/blue0");
        // Another table is another place.
        let mut other = default;
        other["table"] = json!(1000);
        add(&rest, "other", other).await.ok();
        assert!(ours().contains(&"blue: default via 192.168.15.5 dev eth0 metric 100 table 1000".to_owned()));
    });
}

#[test]
fn routes_survive_a_crash_and_a_delete_leaves_nothing() {
    on_host(async || {
        let lan = lan();
        let mut daemon = Daemon::start().await;
        blue(&daemon.rest()).await;
        let before = Kernel::open().unwrap().observe().unwrap().to_string();
        add(&daemon.rest(), "lan", to_lan()).await.ok();
        add(
            &daemon.rest(),
            "off",
            json!({"namespace": "blue", "destination": "10.0.0.0/8", "type": "blackhole"}),
        )
        .await
        .ok();
        let on_host = json!({"namespace": "host", "destination": "172.16.0.0/12", "via": "192.168.1.3"});
        add(&daemon.rest(), "on-host", on_host).await.ok();
        let had = ours();
        assert_eq!(had.len(), 3, "{had:?}");
        daemon.crash_and_restart().await;
        assert_eq!(ours(), had);
        assert!(seen_by_peer(&lan, inside("blue")).is_some());
        let rest = daemon.rest();
        for name in ["lan", "off", "on-host"] {
            let route = rest.get(&format!("/v1/routes/{name}")).await.unwrap().ok();
            assert_eq!(ready(&route).0, "True", "{route:#}");
            rest.delete(&format!("/v1/routes/{name}")).await.ok();
        }
        assert_eq!(Kernel::open().unwrap().observe().unwrap().to_string(), before);
    });
}

#[test]
fn a_namespace_is_not_deleted_under_its_routes_unless_forced() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        let spec = json!({"namespace": "red", "destination": "10.0.0.0/8", "type": "blackhole"});
        add(&rest, "off", spec).await.ok();
        let reply = rest.delete("/v1/namespaces/red").await;
        assert_eq!((reply.status, &reply.body["metadata"]["dependents"]), (409, &json!("Route/off")));
        rest.delete("/v1/namespaces/red?force=true").await.ok();
        assert_eq!(rest.get("/v1/routes").await.unwrap().ok()["items"], json!([]));
    });
}

#[test]
fn a_connection_goes_on_while_its_route_gets_another_gateway() {
    on_host(async || {
        let lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        blue(&rest).await;
        // The bridge's other address, which somebody gave it by hand.
        let second = "192.168.15.6/24".parse().unwrap();
        netloom_server::kernel::lan::add_address("v-net-0", second).unwrap();
        add(&rest, "lan", to_lan()).await.ok();
        let _echo = serve_tcp(lan.peer("peer").unwrap(), "0.0.0.0:900".parse().unwrap(), "peer").unwrap();
        let to: SocketAddr = "192.168.1.3:900".parse().unwrap();
        let mut stream = probe::tcp_open(inside("blue"), to, PATIENCE).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut hello = [0; 64];
        assert!(stream.read(&mut hello).unwrap() > 0);
        for (n, via) in ["192.168.15.6", "192.168.15.5", "192.168.15.6"].iter().enumerate() {
            let dry = rest.patch("/v1/routes/lan?dry_run=true", &json!({"spec": {"via": via}})).await.ok();
            let step = format!("ip -n blue route replace 192.168.1.0/24 via {via} dev eth0 metric 100");
            assert_eq!(dry["plan"]["steps"], json!([step]));
            rest.patch("/v1/routes/lan", &json!({"spec": {"via": via}})).await.ok();
            let word = format!("round {n}");
            stream.write_all(word.as_bytes()).unwrap();
            let mut back = vec![0; word.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(String::from_utf8(back).unwrap(), word);
        }
        assert_eq!(ours(), ["blue: 192.168.1.0/24 via 192.168.15.6 dev eth0 metric 100"]);
    });
}

/// The peer has a second address, behind itself, and the host a default route through it.
fn lan_with_default() -> Lan {
    let peer = PeerSpec::new("peer", ["192.168.1.3/24".parse().unwrap(), "10.50.0.1/32".parse().unwrap()]);
    let route = |destination: &str| LanRoute {
        destination: destination.parse().unwrap(),
        via: "192.168.1.3".parse().unwrap(),
    };
    let spec = LanSpec {
        host_interface: "eth0".into(),
        host_addresses: vec!["192.168.1.2/24".parse().unwrap()],
        host_routes: vec![route("10.60.0.0/16")],
        peers: vec![peer],
    };
    add_lan(&spec).unwrap()
}

#[test]
fn a_route_on_the_host_leads_there_and_a_stranger_s_is_never_touched() {
    on_host(async || {
        let _lan = lan_with_default();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let own = || own().unwrap();
        assert_eq!(ping(own(), "10.50.0.1").unwrap(), Verdict::Unreachable(Errno::ENETUNREACH));
        let spec = json!({"namespace": "host", "destination": "10.50.0.0/16", "via": "192.168.1.3"});
        let route = add(&rest, "far", spec).await.ok();
        assert_eq!(route["status"]["device"], "eth0");
        assert!(ping(own(), "10.50.0.1").unwrap().reached());

        let theirs =
            json!({"namespace": "host", "destination": "10.60.0.0/16", "via": "192.168.1.3", "metric": 0});
        let reply = add(&rest, "theirs", theirs).await;
        assert_eq!((reply.status, &reply.body["reason"]), (409, &json!("ROUTE_TAKEN")), "{reply:#?}");
        assert_eq!(rest.get("/v1/routes/theirs").await.unwrap().status, 404, "withdrawn");
        let routes = || async {
            let state = rest.get("/v1/namespaces/host/state").await.unwrap().ok();
            let routes = state["routes"].as_array().unwrap().clone();
            routes.iter().map(|one| format!("{} {}", one["destination"], one["protocol"])).collect::<Vec<_>>()
        };
        assert!(
            routes().await.iter().any(|line| line.starts_with("\"10.60.0.0/16\"")),
            "{:?}",
            routes().await
        );
        let lines = Kernel::open().unwrap().purge(true).unwrap();
        assert!(
            lines.contains(&"ip route del 10.50.0.0/16 via 192.168.1.3 dev eth0 metric 100".to_owned()),
            "{lines:#?}"
        );
        assert!(!lines.iter().any(|line| line.contains("10.60")));
        rest.delete("/v1/routes/far").await.ok();
        assert_eq!(ping(own(), "10.50.0.1").unwrap(), Verdict::Unreachable(Errno::ENETUNREACH));
    });
}

#[test]
fn a_route_that_may_cut_the_host_off_must_be_forced() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        blue(&rest).await;
        let to =
            |destination: &str| json!({"namespace": "host", "destination": destination, "type": "blackhole"});
        for destination in ["192.168.1.0/24", "192.168.1.3/32", "192.168.15.128/25", "fd00:15::/64"] {
            let reply = add(&rest, "off", to(destination)).await;
            refused(&reply, 409, "NEEDS_FORCE", "spec.destination");
        }
        // The first default route takes nothing away.
        let default = json!({"namespace": "host", "destination": "0.0.0.0/0", "via": "192.168.1.3"});
        add(&rest, "out", default).await.ok();
        let body = json!({"name": "off", "spec": to("192.168.1.64/26")});
        let route = rest.post("/v1/routes?force=true", &body).await.ok();
        assert_eq!(ready(&route).0, "True");
        rest.patch("/v1/routes/off", &json!({"labels": {"a": "b"}})).await.ok();
        refused(
            &rest.patch("/v1/routes/off", &json!({"spec": {"type": "prohibit"}})).await,
            409,
            "NEEDS_FORCE",
            "spec.destination",
        );
        rest.patch("/v1/routes/off?force=true", &json!({"spec": {"type": "prohibit"}})).await.ok();
        rest.delete("/v1/routes/off").await.ok();
        rest.delete("/v1/routes/out").await.ok();
        assert_eq!(ours(), [""; 0]);
    });
}

#[test]
fn in_an_adopted_namespace_a_route_goes_by_what_the_kernel_has_and_leaves_nothing() {
    on_host(async || {
        let peer = PeerSpec { pinned: true, ..PeerSpec::new("foreign", ["192.168.1.3/24".parse().unwrap()]) };
        let spec = LanSpec {
            host_addresses: ["192.168.1.2/24", "10.70.0.1/32"].map(|net| net.parse().unwrap()).into(),
            peers: vec![peer],
            ..LanSpec::default()
        };
        let lan = add_lan(&spec).unwrap();
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        let source = json!({"adopted": {"path": "/run/netns/foreign"}});
        rest.post("/v1/namespaces", &json!({"name": "mine", "spec": {"source": source}})).await.ok();
        let routes =
            async |rest: &Rest| rest.get("/v1/namespaces/mine/state").await.unwrap().ok()["routes"].clone();
        let before = routes(&rest).await;
        let to = |more: Value| {
            let mut spec = json!({"namespace": "mine", "destination": "10.70.0.0/16"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let reply = add(&rest, "far", to(json!({"via": "192.168.2.2"}))).await;
        refused(&reply, 409, "GATEWAY_UNREACHABLE", "spec.via");
        assert_eq!(reply.body["metadata"]["subnets"], "192.168.1.0/24");
        let reply = add(&rest, "far", to(json!({"interface": "eth7"}))).await;
        refused(&reply, 409, "REFERENCE_NOT_FOUND", "spec.interface");

        let route = add(&rest, "far", to(json!({"via": "192.168.1.2"}))).await.ok();
        assert_eq!(ready(&route).0, "True", "{route:#}");
        assert_eq!(route["status"]["device"], "eth0");
        let foreign = lan.peer("foreign").unwrap();
        assert!(ping(foreign, "10.70.0.1").unwrap().reached());
        daemon.crash_and_restart().await;
        let rest = daemon.rest();
        assert_eq!(ready(&rest.get("/v1/routes/far").await.unwrap().ok()).0, "True");
        assert!(ping(foreign, "10.70.0.1").unwrap().reached());
        rest.delete("/v1/namespaces/mine?force=true").await.ok();
        assert_eq!(rest.get("/v1/routes").await.unwrap().ok()["items"], json!([]));
        assert_eq!(ping(foreign, "10.70.0.1").unwrap(), Verdict::Unreachable(Errno::ENETUNREACH));
        rest.post("/v1/namespaces", &json!({"name": "mine", "spec": {"source": source}})).await.ok();
        assert_eq!(routes(&rest).await, before, "all that was there before is there");
    });
}

#[test]
fn a_route_goes_through_a_cable_and_comes_back_with_it() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let end = |namespace: &str, addresses: Value| json!({"namespace": namespace, "interface": format!("veth-{namespace}"), "addresses": addresses});
        let ends =
            json!([end("red", json!(["10.1.1.1/24"])), end("blue", json!(["10.1.1.2/24", "10.5.0.1/24"]))]);
        let cable = json!({"kind": "Link", "name": "cable", "spec": {"ends": ends}});
        let route = json!({"namespace": "red", "destination": "10.5.0.0/24", "via": "10.1.1.2"});
        // In one apply, the route first.
        let objects = json!({"objects": [{"kind": "Route", "name": "behind", "spec": route}, cable,
            {"kind": "Namespace", "name": "red"}, {"kind": "Namespace", "name": "blue"}]});
        let applied = rest.post("/v1/apply", &objects).await.ok();
        assert_eq!(ready(&applied["objects"][0]).0, "True", "{applied:#}");
        assert!(ping(inside("red"), "10.5.0.1").unwrap().reached());
        rest.delete("/v1/links/cable").await.ok();
        let route = rest.get("/v1/routes/behind").await.unwrap().ok();
        assert_eq!(ready(&route), ("False".into(), "GatewayUnreachable".into()), "{route:#}");
        rest.post("/v1/links", &cable).await.ok();
        assert_eq!(ready(&rest.get("/v1/routes/behind").await.unwrap().ok()).0, "True");
        assert!(ping(inside("red"), "10.5.0.1").unwrap().reached());
    });
}
