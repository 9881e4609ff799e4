//! What others break is put back within a second, as it was; what netloom does itself is no drift; a quarrel is told.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use netloom_server::{
    kernel::{
        Kernel, meddle,
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

const WITHIN: Duration = Duration::from_secs(1);

/// Red and blue with a cable, red also on a network, and the host with a cable to blue.
async fn build(rest: &Rest) {
    let ends = |one: Value, other: Value| json!({"ends": [one, other]});
    let end = |namespace: &str, interface: &str, addresses: &[&str]| json!({"namespace": namespace, "interface": interface, "addresses": addresses});
    let cable = ends(
        end("red", "veth-red", &["10.1.1.1/24", "fd00:1::1/64"]),
        end("blue", "veth-blue", &["10.1.1.2/24", "fd00:1::2/64"]),
    );
    let up = ends(end("host", "to-blue", &["10.2.2.1/24"]), end("blue", "up", &["10.2.2.2/24"]));
    for (path, body) in [
        ("/v1/namespaces", json!({"name": "red"})),
        ("/v1/namespaces", json!({"name": "blue"})),
        (
            "/v1/networks",
            json!({"name": "v-net-0", "spec": {"kind": {"bridge": {"device": "v-net-0"}},
                "subnets": [{"cidr": "192.168.15.0/24"}, {"cidr": "fd15::/64"}], "egress": {"nat": {}}}}),
        ),
        ("/v1/attachments", json!({"name": "red0", "spec": {"namespace": "red", "network": "v-net-0"}})),
        ("/v1/links", json!({"name": "cable", "spec": cable})),
        ("/v1/links", json!({"name": "up", "spec": up})),
    ] {
        rest.post(path, &body).await.ok();
    }
}

fn inside(name: &str) -> OwnedFd {
    Namespaces::default().open(name).unwrap()
}

/// How many repairs the daemon has counted.
async fn repairs(rest: &Rest) -> u64 {
    let metrics = rest.get("/metrics").await.unwrap().body;
    let text = metrics.as_str().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("netloom_drift_repairs_total "));
    line.unwrap().parse().unwrap()
}

async fn repaired(rest: &Rest) -> Vec<Value> {
    let events = rest.get("/v1/events?type=drift_repaired").await.unwrap().ok();
    events["items"].as_array().unwrap().clone()
}

/// Waits until the host is as it was; how long that took.
async fn back(kernel: &Kernel, before: &str) -> Duration {
    let begun = Instant::now();
    while kernel.observe().unwrap().to_string() != before {
        if begun.elapsed() > 5 * WITHIN {
            assert_eq!(kernel.observe().unwrap().to_string(), before);
        }
        // Nothing announces it to this process but the very events that the daemon hears.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

/// What, how, and whose it is. Of one object no more than five: then it would be a quarrel.
type Break = (&'static str, fn(), &'static str);

fn breaks() -> Vec<Break> {
    vec![
        ("one end is deleted", || meddle::delete_link(inside("blue"), "veth-blue").unwrap(), "cable"),
        ("the other end is deleted", || meddle::delete_link(inside("red"), "veth-red").unwrap(), "cable"),
        ("an end goes down", || meddle::set_down(inside("red"), "veth-red").unwrap(), "cable"),
        ("an end is renamed", || meddle::rename(inside("blue"), "veth-blue", "mine").unwrap(), "cable"),
        (
            "an address is deleted",
            || meddle::delete_address(inside("red"), "veth-red", "10.1.1.1/24".parse().unwrap()).unwrap(),
            "cable",
        ),
        (
            "an IPv6 address is deleted",
            || meddle::delete_address(own().unwrap(), "v-net-0", "fd15::1/64".parse().unwrap()).unwrap(),
            "v-net-0",
        ),
        ("the host's end is deleted", || meddle::delete_link(own().unwrap(), "to-blue").unwrap(), "up"),
        ("an attachment's end is deleted", || meddle::delete_link(inside("red"), "eth0").unwrap(), "red0"),
        ("an attachment's end goes down", || meddle::set_down(inside("red"), "eth0").unwrap(), "red0"),
        ("a bridge is deleted", || meddle::delete_link(own().unwrap(), "v-net-0").unwrap(), "v-net-0"),
        (
            "a gateway's address is deleted",
            || meddle::delete_address(own().unwrap(), "v-net-0", "192.168.15.1/24".parse().unwrap()).unwrap(),
            "v-net-0",
        ),
    ]
}

#[test]
fn what_others_break_is_back_within_a_second_as_it_was() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        build(&rest).await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        let mut slow = Vec::new();
        for (what, break_it, whose) in breaks() {
            let told = repaired(&rest).await.len();
            break_it();
            assert_ne!(kernel.observe().unwrap().to_string(), before, "{what}: nothing is broken");
            let took = back(&kernel, &before).await;
            println!("{what}: back after {took:?}");
            if took > WITHIN {
                slow.push((what, took));
            }
            // The event is written a moment after the kernel is right.
            let begun = Instant::now();
            let is_told = async || repaired(&rest).await[told..].iter().any(|event| event["name"] == whose);
            while !is_told().await {
                assert!(
                    begun.elapsed() < WITHIN,
                    "{what}: no event about {whose}: {:#?}",
                    repaired(&rest).await
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(slow.is_empty(), "{slow:?}");
        for to in ["10.1.1.2", "fd00:1::2", "192.168.1.3"] {
            let answer = probe::ping(inside("red"), to.parse().unwrap(), 2 * WITHIN).unwrap();
            assert!(answer.reached(), "{to}: {answer:?}");
        }
        assert!(repairs(&rest).await >= breaks().len() as u64);
        let first = &repaired(&rest).await[0];
        assert!(first["message"].as_str().unwrap().contains("ip -n blue link add veth-blue"), "{first:#}");
        assert_eq!(first["object"]["status"]["conditions"][0]["status"], "True");
    });
}

#[test]
fn a_restarted_daemon_hears_of_what_it_did_not_make_itself() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        build(&daemon.rest()).await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        daemon.crash_and_restart().await;
        for (what, break_it, _) in breaks().into_iter().take(5).rev() {
            break_it();
            assert!(back(&kernel, &before).await < 2 * WITHIN, "{what}");
        }
    });
}

#[test]
fn what_netloom_does_itself_is_no_drift() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        build(&rest).await;
        let end = |namespace: &str, interface: &str, addresses: &[&str]| json!({"namespace": namespace, "interface": interface, "addresses": addresses});
        let changed = json!({"spec": {"mtu": 1400, "ends": [
            end("red", "veth-red", &["10.1.1.9/24"]), end("blue", "veth-blue", &["10.1.1.2/24", "10.3.3.3/24"])]}});
        rest.patch("/v1/links/cable", &changed).await.ok();
        rest.patch("/v1/attachments/red0", &json!({"spec": {"addresses": ["192.168.15.9"], "metric": 7}}))
            .await
            .ok();
        rest.patch("/v1/networks/v-net-0", &json!({"spec": {"mtu": 1400}})).await.ok();
        for path in
            ["/v1/links/up", "/v1/attachments/red0", "/v1/networks/v-net-0", "/v1/namespaces/red?force=true"]
        {
            rest.delete(path).await.ok();
        }
        build_again(&rest).await;
        // Longer than a loss takes to be told; that nothing comes cannot be awaited otherwise.
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!((repairs(&rest).await, repaired(&rest).await), (0, vec![]));
    });
}

async fn build_again(rest: &Rest) {
    rest.delete("/v1/namespaces/blue?force=true").await.ok();
    build(rest).await;
}

#[test]
fn who_takes_it_away_again_and_again_is_left_with_it_and_the_object_says_so() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        build(&rest).await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        for _ in 0..5 {
            meddle::delete_link(inside("blue"), "veth-blue").unwrap();
            back(&kernel, &before).await;
        }
        meddle::delete_link(inside("blue"), "veth-blue").unwrap();
        let begun = Instant::now();
        loop {
            let link = rest.get("/v1/links/cable").await.unwrap().ok();
            let ready = &link["status"]["conditions"][0];
            if ready["reason"] == "Conflict" {
                assert_eq!(ready["status"], "False");
                break;
            }
            assert!(begun.elapsed() < 2 * WITHIN, "{link:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_ne!(kernel.observe().unwrap().to_string(), before);
        // A person who has settled it says so by any change; then it is looked at again.
        let patched = rest.patch("/v1/links/cable", &json!({"spec": {"mtu": 1400}})).await.ok();
        assert_eq!(patched["status"]["conditions"][0]["status"], "True", "{patched:#}");
        let answer = probe::ping(inside("red"), "10.1.1.2".parse().unwrap(), 2 * WITHIN).unwrap();
        assert!(answer.reached(), "{answer:?}");
    });
}
