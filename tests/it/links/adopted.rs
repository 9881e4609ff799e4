//! Cables into namespaces that others made, and take away again.

use std::time::{Duration, Instant};

use netloom_server::kernel::{
    lan::{Lan, LanSpec, PeerSpec, add_lan},
    meddle,
    netns::own,
};
use serde_json::{Value, json};

use super::{inside, is_ready, reaches};
use crate::{
    host::{Daemon, netloomd, on_host},
    netloom::Told,
    rest::Rest,
};

/// A LAN with a container on it: under /run/netns, with an interface and an address of its own.
fn lan_with_container() -> Lan {
    let peer = PeerSpec { pinned: true, ..PeerSpec::new("foreign", ["192.168.1.3/24".parse().unwrap()]) };
    add_lan(&LanSpec { peers: vec![peer], ..LanSpec::default() }).unwrap()
}

fn end(namespace: &str, interface: &str, addresses: &[&str]) -> Value {
    json!({"namespace": namespace, "interface": interface, "addresses": addresses})
}

fn link(name: &str, ends: [Value; 2]) -> Value {
    json!({"name": name, "spec": {"ends": ends}})
}

fn to_red() -> Value {
    let red = end("red", "to-mine", &["10.1.1.1/24", "fd00:1::1/64"]);
    link("cable", [red, end("mine", "to-red", &["10.1.1.2/24", "fd00:1::2/64"])])
}

fn to_host() -> Value {
    link("up", [end("mine", "up", &["10.2.2.2/24"]), end("host", "to-mine", &["10.2.2.1/24"])])
}

/// `mine` is the container, `red` ours.
async fn adopt(rest: &Rest) {
    let source = json!({"adopted": {"path": "/run/netns/foreign"}});
    rest.post("/v1/namespaces", &json!({"name": "mine", "spec": {"source": source}})).await.ok();
    rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
}

async fn interfaces(rest: &Rest, namespace: &str) -> Vec<String> {
    let state = rest.get(&format!("/v1/namespaces/{namespace}/state")).await.unwrap().ok();
    let name = |one: &Value| one["name"].as_str().unwrap().to_owned();
    state["interfaces"].as_array().unwrap().iter().map(name).collect()
}

fn over_both_cables() {
    for to in ["10.1.1.2", "fd00:1::2"] {
        reaches(inside("red"), to);
    }
    reaches(own().unwrap(), "10.2.2.2");
    // Its own network goes on.
    reaches(inside("foreign"), "192.168.1.2");
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}");
        // Nothing announces it to this process but what the daemon hears itself.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn an_adopted_namespace_has_cables_beside_its_own_interfaces_and_is_left_as_it_was() {
    on_host(async || {
        let _lan = lan_with_container();
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        adopt(&rest).await;
        for (theirs, reason, field) in [
            (end("mine", "eth0", &[]), "DEVICE_TAKEN", "spec.ends[1].interface"),
            (end("mine", "to-red", &["192.168.1.77/24"]), "OVERLAP", "spec.ends[1].addresses[0]"),
        ] {
            let refused = rest.post("/v1/links", &link("cable", [end("red", "to-mine", &[]), theirs])).await;
            assert_eq!((refused.status, &refused.body["reason"]), (409, &json!(reason)), "{refused:#?}");
            assert_eq!(refused.body["violations"][0]["field"], field);
        }
        for link in [to_red(), to_host()] {
            is_ready(&rest.post("/v1/links", &link).await.ok());
        }
        over_both_cables();
        assert_eq!(interfaces(&rest, "mine").await, ["lo", "eth0", "to-red", "up"]);
        rest.patch("/v1/links/cable", &json!({"labels": {"role": "lab"}})).await.ok();
        // A route of it that goes by the cable, and one object more on the same interface name.
        let route = json!({"namespace": "mine", "destination": "10.9.0.0/16", "via": "10.1.1.1"});
        is_ready(&rest.post("/v1/routes", &json!({"name": "by-red", "spec": route})).await.ok());
        let taken =
            rest.post("/v1/links", &link("other", [end("red", "x", &[]), end("mine", "up", &[])])).await;
        assert_eq!(taken.body["reason"], "DEVICE_TAKEN", "{taken:#?}");

        daemon.crash_and_restart().await;
        let rest = daemon.rest();
        over_both_cables();
        // Somebody inside takes an end away: it is put back.
        meddle::delete_link(inside("foreign"), "to-red").unwrap();
        until("the cable is not back", async || {
            interfaces(&rest, "red").await.contains(&"to-mine".into())
                && interfaces(&rest, "mine").await.contains(&"to-red".into())
        })
        .await;
        until("the cable is not ready again", async || {
            let found = rest.get("/v1/links/cable").await.unwrap().ok();
            found["status"]["conditions"][0]["status"] == "True"
        })
        .await;
        over_both_cables();

        rest.delete("/v1/links/cable?force=true").await.ok();
        assert_eq!(interfaces(&rest, "mine").await, ["lo", "eth0", "up"]);
        assert_eq!(interfaces(&rest, "red").await, ["lo"]);
        let refused = rest.delete("/v1/namespaces/mine").await;
        assert_eq!(refused.body["reason"], "HAS_DEPENDENTS", "{refused:#?}");
        rest.delete("/v1/namespaces/mine?force=true").await.ok();
        assert!(rest.get("/v1/links").await.unwrap().ok()["items"].as_array().unwrap().is_empty());
        assert!(!interfaces(&rest, "host").await.contains(&"to-mine".into()));
        let source = json!({"adopted": {"path": "/run/netns/foreign"}});
        rest.post("/v1/namespaces", &json!({"name": "again", "spec": {"source": source}})).await.ok();
        assert_eq!(interfaces(&rest, "again").await, ["lo", "eth0"]);
    });
}

#[test]
fn cables_into_a_namespace_that_is_gone_say_so_and_leave_nothing_behind() {
    on_host(async || {
        let lan = lan_with_container();
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        adopt(&rest).await;
        for link in [to_red(), to_host()] {
            is_ready(&rest.post("/v1/links", &link).await.ok());
        }
        // Its owner ends it.
        netloom_server::kernel::netns::Namespaces::default().delete("foreign").unwrap();
        drop(lan);
        for _ in 0..2 {
            let rest = daemon.rest();
            for name in ["cable", "up"] {
                until("the link does not say that the namespace is gone", async || {
                    let found = rest.get(&format!("/v1/links/{name}")).await.unwrap().ok();
                    let ready = &found["status"]["conditions"][0];
                    (&ready["status"], &ready["reason"]) == (&json!("False"), &json!("NamespaceGone"))
                })
                .await;
            }
            assert_eq!(interfaces(&rest, "red").await, ["lo"]);
            assert!(!interfaces(&rest, "host").await.contains(&"to-mine".into()));
            let red = rest.get("/v1/namespaces/red").await.unwrap().ok();
            is_ready(&red);
            daemon.crash_and_restart().await;
        }
        let rest = daemon.rest();
        // Labels can still be changed, and all can be deleted.
        rest.patch("/v1/links/cable", &json!({"labels": {"a": "b"}})).await.ok();
        rest.delete("/v1/links/cable").await.ok();
        rest.delete("/v1/namespaces/mine?force=true").await.ok();
        assert_eq!(rest.get("/v1/links").await.unwrap().ok()["items"], json!([]));
        rest.delete("/v1/namespaces/red").await.ok();
    });
}

#[test]
fn purge_takes_cables_out_of_adopted_namespaces() {
    on_host(async || {
        let _lan = lan_with_container();
        let other = netloom_server::kernel::netns::Namespaces::default().create("other").unwrap();
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        adopt(&rest).await;
        let source = json!({"adopted": {"path": "/run/netns/other"}});
        rest.post("/v1/namespaces", &json!({"name": "theirs", "spec": {"source": source}})).await.ok();
        let between =
            link("between", [end("mine", "one", &["10.3.3.1/24"]), end("theirs", "two", &["10.3.3.2/24"])]);
        for link in [to_red(), to_host(), between] {
            is_ready(&rest.post("/v1/links", &link).await.ok());
        }
        daemon.stop();
        let purge =
            |words: &[&str]| -> Told { netloomd(&daemon.socket).args(words).output().unwrap().into() };
        let shown = purge(&["purge", "--dry-run"]).ok();
        let removed = purge(&["purge"]).ok();
        assert_eq!(removed.replace(" removed\n", " would be removed\n"), shown);
        assert_eq!(purge(&["purge"]).ok(), "0 things removed\n");
        let names = |namespace| {
            let work = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let text = netloom_server::kernel::thread::run(namespace, "names", work).unwrap();
            let lines = text.lines().skip(2).map(|line| line.split(':').next().unwrap().trim().to_owned());
            lines.collect::<std::collections::BTreeSet<String>>()
        };
        assert_eq!(names(inside("foreign")), ["eth0".into(), "lo".into()].into());
        assert_eq!(names(other.fd), ["lo".into()].into());
        assert_eq!(names(own().unwrap()), ["eth0".into(), "lo".into()].into());
    });
}
