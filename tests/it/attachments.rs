//! Attachments: how fast they may be, which default route is used, and what a caller may choose.

use std::{os::fd::OwnedFd, time::Duration};

use netloom_server::{
    kernel::{
        Kernel,
        netns::{Namespaces, own},
        probe,
    },
    reconcile::Host as _,
};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, on_host},
    rest::Rest,
    stream::Stream,
};

const PATIENCE: Duration = Duration::from_secs(2);

fn inside(name: &str) -> OwnedFd {
    Namespaces::default().open(name).unwrap()
}

/// A namespace red and networks; the first is v-net-0 with 192.168.15.0/24.
async fn red_and(rest: &Rest, networks: &[(&str, Value)]) {
    rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
    for (name, spec) in networks {
        rest.post("/v1/networks", &json!({"name": name, "spec": spec})).await.ok();
    }
}

fn v_net_0() -> (&'static str, Value) {
    ("v-net-0", json!({"subnets": [{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}]}))
}

/// Attaches red to a network.
async fn attach(rest: &Rest, name: &str, network: &str, more: Value) -> crate::rest::Reply {
    let mut spec = json!({"namespace": "red", "network": network});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rest.post("/v1/attachments", &json!({"name": name, "spec": spec})).await
}

#[track_caller]
fn is_about(rate: f64, wanted: f64) {
    assert!((0.75..=1.25).contains(&(rate / wanted)), "{rate:.0} bit/s is not about {wanted:.0}");
}

#[test]
fn both_directions_are_as_fast_as_they_may_be_and_change_under_a_running_connection() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        red_and(&daemon.rest(), &[v_net_0()]).await;
        let limits = json!({"ingress": {"rate": 30_000_000}, "egress": {"rate": 20_000_000}});
        // `none` keeps members from the host unless told otherwise; here the host is the other end.
        daemon
            .rest()
            .patch("/v1/networks/v-net-0", &json!({"spec": {"isolation": {"host": false}}}))
            .await
            .ok();
        let more = json!({"addresses": ["192.168.15.1"], "bandwidth": limits});
        let made = attach(&daemon.rest(), "red0", "v-net-0", more).await.ok();
        let shown = json!({"ingress": {"rate": 30_000_000, "burst": 37_500}, "egress": {"rate": 20_000_000, "burst": 25_000}});
        assert_eq!(made["status"]["bandwidth"], shown);

        let host = own().unwrap();
        let towards = Stream::open(&host, inside("red"), "192.168.15.1:900");
        is_about(towards.rate(), 30e6);
        let from = Stream::open(inside("red"), &host, "192.168.15.5:901");
        is_about(from.rate(), 20e6);
        is_about(towards.rate(), 30e6);

        let limits =
            json!({"ingress": {"rate": 16_000_000}, "egress": {"rate": 40_000_000, "burst": 60_000}});
        let patch = json!({"spec": {"bandwidth": limits}});
        daemon.rest().patch("/v1/attachments/red0", &patch).await.ok();
        is_about(towards.rate(), 16e6);
        is_about(from.rate(), 40e6);
        daemon.crash_and_restart().await;
        is_about(towards.rate(), 16e6);
        is_about(from.rate(), 40e6);

        // Each direction for itself: one that is not named in a patch stays, one that is null goes.
        let patch = json!({"spec": {"bandwidth": {"egress": null}}});
        let changed = daemon.rest().patch("/v1/attachments/red0", &patch).await.ok();
        assert_eq!(changed["spec"]["bandwidth"], json!({"ingress": {"rate": 16_000_000}}));
        is_about(towards.rate(), 16e6);
        assert!(from.rate() > 150e6, "{}", from.rate());
        let patch = json!({"spec": {"bandwidth": {"egress": {"rate": 20_000_000}}}});
        let changed = daemon.rest().patch("/v1/attachments/red0", &patch).await.ok();
        assert_eq!(changed["spec"]["bandwidth"]["ingress"], json!({"rate": 16_000_000}));
        is_about(from.rate(), 20e6);
        let generous =
            json!({"ingress": {"rate": 10_000_000_000_u64}, "egress": {"rate": 10_000_000_000_u64}});
        daemon.rest().patch("/v1/attachments/red0", &json!({"spec": {"bandwidth": generous}})).await.ok();
        assert!(towards.rate() > 150e6, "{}", towards.rate());
        assert!(from.rate() > 150e6, "{}", from.rate());
    });
}

#[test]
fn limits_are_observed_as_they_are_wanted_and_leave_nothing_behind() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        red_and(&daemon.rest(), &[v_net_0()]).await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        for (name, rate) in [("slow", 8_000_u64), ("fast", 1_000_000_000), ("most", 1_000_000_000_000)] {
            let limit = json!({"rate": rate});
            let more = json!({"bandwidth": {"ingress": limit, "egress": limit}});
            attach(&daemon.rest(), name, "v-net-0", more).await.ok();
        }
        let seen = kernel.observe().unwrap();
        assert_eq!((seen.limits.len(), seen.detours.len()), (6, 3), "{seen}");
        // A restart plans from what it observes; nothing is to do.
        daemon.crash_and_restart().await;
        assert_eq!(kernel.observe().unwrap().to_string(), seen.to_string());
        let quiet = json!({"spec": {"bandwidth": null}});
        daemon.rest().patch("/v1/attachments/slow", &quiet).await.ok();
        for name in ["fast", "most"] {
            daemon.rest().delete(&format!("/v1/attachments/{name}")).await.ok();
        }
        let seen = kernel.observe().unwrap();
        assert!(seen.limits.is_empty() && seen.detours.is_empty(), "{seen}");
        daemon.rest().delete("/v1/attachments/slow").await.ok();
        assert_eq!(kernel.observe().unwrap().to_string(), before);
    });
}

#[test]
fn what_others_did_to_a_limit_is_put_right_at_the_next_start() {
    use netloom_server::hostnet::{Action, Outcome, Stack, Step};
    on_host(async || {
        let mut daemon = Daemon::start().await;
        red_and(&daemon.rest(), &[v_net_0()]).await;
        let more = json!({"bandwidth": {"ingress": {"rate": 8_000_000}, "egress": {"rate": 8_000_000}}});
        attach(&daemon.rest(), "red0", "v-net-0", more).await.ok();
        let kernel = Kernel::open().unwrap();
        let whole = kernel.observe().unwrap();
        let link = whole.detours.values().next().unwrap().clone();
        let outcome = kernel.apply(&[Step::of_host(Action::DeleteLink { stack: Stack::Host, link })]);
        assert!(matches!(outcome[..], [Outcome::Done(_)]), "{outcome:?}");
        assert_ne!(kernel.observe().unwrap().to_string(), whole.to_string());
        daemon.crash_and_restart().await;
        let again = kernel.observe().unwrap();
        assert_eq!((again.limits, again.detours), (whole.limits, whole.detours));
    });
}

#[test]
fn default_routes_of_one_namespace_never_tie_and_the_lowest_metric_is_used() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let two = ("two", json!({"subnets": [{"cidr": "10.2.0.0/24"}, {"cidr": "fd00:2::/64"}]}));
        let six = ("six", json!({"subnets": [{"cidr": "fd00:6::/64"}]}));
        red_and(&rest, &[v_net_0(), two, six]).await;
        let yes = |metric: Value| json!({"default_route": true, "metric": metric});
        let metric = |object: &Value| object["status"]["metric"].clone();
        let first = attach(&rest, "a", "v-net-0", json!({})).await.ok();
        assert_eq!((metric(&first), &first["status"]["default_route"]), (json!(100), &json!(true)));
        // Not the first one of its namespace: no default route, unless asked for.
        let plain = attach(&rest, "plain", "two", json!({})).await.ok();
        assert_eq!((metric(&plain), &plain["status"]["default_route"]), (Value::Null, &json!(false)));
        let second = attach(&rest, "b", "two", yes(Value::Null)).await.ok();
        assert_eq!(metric(&second), 101);
        // Another family has metrics of its own.
        let third = attach(&rest, "c", "six", yes(json!(100))).await.ok();
        assert_eq!(metric(&third), 100);
        let refused = attach(&rest, "d", "two", yes(json!(100))).await;
        assert_eq!((refused.status, &refused.body["reason"]), (409, &json!("ROUTE_TAKEN")), "{refused:#?}");
        assert_eq!(refused.body["metadata"]["conflict"], "Attachment/a");
        let tie = rest.patch("/v1/attachments/b", &json!({"spec": {"metric": 100}})).await;
        assert_eq!((tie.status, &tie.body["reason"]), (409, &json!("ROUTE_TAKEN")));

        let defaults = async || {
            let state = rest.get("/v1/namespaces/red/state").await.unwrap().ok();
            let routes = state["routes"].as_array().unwrap().clone();
            let mut v4: Vec<(u64, String)> = routes
                .iter()
                .filter(|route| {
                    route["destination"] == "default" && route["via"].as_str().unwrap().contains('.')
                })
                .map(|route| (route["metric"].as_u64().unwrap(), route["via"].as_str().unwrap().to_owned()))
                .collect();
            v4.sort();
            v4
        };
        let way = |metric, via: &str| (metric, via.to_owned());
        assert_eq!(defaults().await, [way(100, "192.168.15.5"), way(101, "10.2.0.1")]);
        // Live, and the one that it had is kept when nothing is said any more.
        rest.patch("/v1/attachments/b", &json!({"spec": {"metric": 50}})).await.ok();
        assert_eq!(defaults().await, [way(50, "10.2.0.1"), way(100, "192.168.15.5")]);
        rest.patch("/v1/attachments/b", &json!({"spec": {"metric": null}})).await.ok();
        assert_eq!(defaults().await, [way(50, "10.2.0.1"), way(100, "192.168.15.5")]);
        rest.patch("/v1/attachments/a", &json!({"spec": {"default_route": false}})).await.ok();
        assert_eq!(defaults().await, [way(50, "10.2.0.1")]);
    });
}

#[test]
fn what_is_exported_can_be_applied_to_an_empty_host_whatever_metrics_were_chosen() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and(&rest, &[v_net_0()]).await;
        attach(&rest, "z", "v-net-0", json!({"metric": 100})).await.ok();
        attach(&rest, "a", "v-net-0", json!({"default_route": true})).await.ok();
        let export = rest.get("/v1/export").await.unwrap().ok();
        rest.delete("/v1/namespaces/red?force=true").await.ok();
        let done = rest.post("/v1/apply", &export).await.ok();
        assert_eq!(done["objects"].as_array().unwrap().len(), 4, "{done:#}");
    });
}

#[test]
fn a_wanted_mac_name_and_addresses_of_both_families_are_what_the_neighbours_see() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let subnets = json!([{"cidr": "10.1.0.0/24"}, {"cidr": "10.2.0.0/24"}, {"cidr": "fd00:1::/64"}]);
        red_and(&rest, &[("n", json!({"subnets": subnets, "isolation": {"host": false}}))]).await;
        let more = json!({"mac": "02:aa:bb:cc:dd:01", "interface": "wan0",
            "addresses": ["fd00:1::77", "10.2.0.77", "10.1.0.77"]});
        let made = attach(&rest, "red0", "n", more).await.ok();
        let status = &made["status"];
        assert_eq!(status["addresses"], json!(["10.1.0.77/24", "10.2.0.77/24", "fd00:1::77/64"]));
        assert_eq!((&status["mac"], &status["interface"]), (&json!("02:aa:bb:cc:dd:01"), &json!("wan0")));
        for address in ["10.1.0.77", "10.2.0.77", "fd00:1::77"] {
            let answer = probe::ping(own().unwrap(), address.parse().unwrap(), PATIENCE).unwrap();
            assert!(answer.reached(), "{address}: {answer:?}");
        }
        let host = rest.get("/v1/namespaces/host/state").await.unwrap().ok();
        let neighbours = host["neighbours"].as_array().unwrap();
        for address in ["10.1.0.77", "10.2.0.77", "fd00:1::77"] {
            let known = neighbours.iter().find(|one| one["address"] == address).unwrap();
            assert_eq!(known["mac"], "02:aa:bb:cc:dd:01", "{known}");
        }
    });
}

#[test]
fn an_address_that_changes_hands_is_reached_at_once_by_who_knows_the_old_mac() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let subnets = json!([{"cidr": "10.1.0.0/24"}, {"cidr": "fd00:1::/64"}]);
        red_and(&rest, &[("n", json!({"subnets": subnets, "isolation": {"host": false}}))]).await;
        for name in ["blue", "green"] {
            rest.post("/v1/namespaces", &json!({"name": name})).await.ok();
        }
        let put = async |name: &str, namespace: &str, mac: &str| {
            let spec = json!({"namespace": namespace, "network": "n", "mac": mac, "addresses": ["10.1.0.9", "fd00:1::9"]});
            rest.post("/v1/attachments", &json!({"name": name, "spec": spec})).await.ok();
        };
        attach(&rest, "red0", "n", json!({})).await.ok();
        // Shorter than the time (5 s and more) after which a neighbour that does not answer is asked for anew.
        let at_once = Duration::from_secs(3);
        let ask = |holder: &str, address: &str| {
            for (from, namespace) in [("red", inside("red")), ("the host", own().unwrap())] {
                let answer = probe::ping(&namespace, address.parse().unwrap(), at_once).unwrap();
                assert!(answer.reached(), "{from} to {address} of {holder}: {answer:?}");
            }
        };
        put("old", "blue", "02:00:00:00:00:aa").await;
        ask("blue", "10.1.0.9");
        ask("blue", "fd00:1::9");
        rest.delete("/v1/attachments/old").await.ok();
        put("new", "green", "02:00:00:00:00:bb").await;
        ask("green", "10.1.0.9");
        ask("green", "fd00:1::9");
    });
}
