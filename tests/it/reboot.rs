//! After a reboot the kernel is empty and the database is as it was: everything comes back, or says why it cannot.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use netloom_server::{
    kernel::{
        Kernel, meddle,
        netns::{Namespaces, own},
        probe, stranger,
        sysctl::{self, Key},
    },
    reconcile::Host as _,
};
use serde_json::{Value, json};

use crate::{
    crash::scene::same,
    drift::wide::build,
    host::{Daemon, lan, netloomd, on_host},
    netloom::Told,
    rest::Rest,
};

/// What a reboot does: all that is in the kernel is gone. `foreign` is what somebody else has made by then.
async fn reboot(daemon: &mut Daemon, foreign: impl AsyncFnOnce()) -> Duration {
    daemon.stop();
    empty_kernel(daemon);
    foreign().await;
    let begun = Instant::now();
    daemon.start_again().await;
    begun.elapsed()
}

fn empty_kernel(daemon: &Daemon) {
    Told::from(netloomd(&daemon.socket).arg("purge").output().unwrap()).ok();
    for entry in Namespaces::default().list().unwrap() {
        Namespaces::default().delete(&entry.name).unwrap();
    }
    let off = |key: &str| sysctl::write(&Key::named(key).unwrap(), "0");
    // A host may have no such link.
    let _ = (off("net.ipv4.conf.eth0.forwarding"), off("net.ipv6.conf.eth0.force_forwarding"));
}

/// The condition of every object, by kind and name.
async fn conditions(rest: &Rest) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for kind in ["namespaces", "networks", "attachments", "links", "routes", "port-forwards"] {
        for object in
            rest.get(&format!("/v1/{kind}?page_size=1000")).await.unwrap().ok()["items"].as_array().unwrap()
        {
            let reason = object["status"]["conditions"][0]["reason"].as_str().unwrap().to_owned();
            all.insert(format!("{kind}/{}", object["name"].as_str().unwrap()), reason);
        }
    }
    all
}

fn observed() -> String {
    Kernel::open().unwrap().observe().unwrap().to_string()
}

#[test]
fn after_a_reboot_everything_is_as_before_and_what_was_adopted_is_missed() {
    on_host(async || {
        let _lan = lan();
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        build(&rest).await;
        let before = observed();
        drop(Namespaces::default().create("theirs").unwrap());
        let objects = json!([
            {"kind": "Namespace", "name": "mine", "spec": {"source": {"adopted": {"path": "/run/netns/theirs"}}}},
            {"kind": "Attachment", "name": "mine0", "spec": {"namespace": "mine", "network": "v-net-1"}},
            {"kind": "PortForward", "name": "mine-web", "spec":
                {"protocol": "tcp", "listen": {"port": 8081}, "target": {"attachment": "mine0", "port": 80}}},
        ]);
        rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
        assert!(conditions(&rest).await.values().all(|reason| reason == "Programmed"));

        reboot(&mut daemon, async || ()).await;
        let mut now = conditions(&rest).await;
        assert_eq!(now.remove("namespaces/mine").unwrap(), "NamespaceGone");
        assert_ne!(now.remove("attachments/mine0").unwrap(), "Programmed");
        now.remove("port-forwards/mine-web");
        assert!(now.values().all(|reason| reason == "Programmed"), "{now:#?}");
        for name in ["port-forwards/mine-web", "attachments/mine0", "namespaces/mine"] {
            rest.delete(&format!("/v1/{name}")).await.ok();
        }
        same(&observed(), &before, "after a reboot");
        let to_lan = probe::ping(
            Namespaces::default().open("one").unwrap(),
            "192.168.1.3".parse().unwrap(),
            Duration::from_secs(5),
        );
        assert!(to_lan.unwrap().reached());
    });
}

#[test]
fn a_network_whose_bridge_cannot_be_is_the_only_one_that_is_not_ready() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        let mut objects = Vec::new();
        for number in 0..10 {
            objects.push(json!({"kind": "Namespace", "name": format!("ns{number}")}));
            objects.push(json!({"kind": "Network", "name": format!("net{number}"), "spec":
                {"kind": {"bridge": {"device": format!("br{number}")}}, "subnets": [{"cidr": format!("10.20.{number}.0/24")}]}}));
            objects.push(json!({"kind": "Attachment", "name": format!("at{number}"), "spec":
                {"namespace": format!("ns{number}"), "network": format!("net{number}")}}));
        }
        rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
        // The name is taken by something that is no bridge.
        let dummy = async || meddle::add_cable(own().unwrap(), "br4", "br4-peer").unwrap();
        reboot(&mut daemon, dummy).await;
        let now = conditions(&rest).await;
        let unready: Vec<_> = now.iter().filter(|(_, reason)| *reason != "Programmed").collect();
        let names: Vec<_> = unready.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["attachments/at4", "networks/net4"], "{unready:?}");
        assert_eq!(now["networks/net4"], "Conflict");
        for path in ["/v1/attachments/at4", "/v1/networks/net4"] {
            rest.delete(path).await.ok();
        }
        assert!(conditions(&rest).await.values().all(|reason| reason == "Programmed"));
        let left = observed();
        assert!(left.contains("link br4"), "the stranger's stays: {left}");
    });
}

#[test]
fn twenty_reboots_neither_exhaust_nor_double_the_addresses_of_a_small_network() {
    on_host(async || {
        const MEMBERS: usize = 8;
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        let attachment = |member: usize| json!({"name": format!("at{member}"), "spec": {"namespace": format!("ns{member}"), "network": "net"}});
        let network = json!({"name": "net", "spec": {"subnets": [{"cidr": "10.30.0.0/28"}]}});
        rest.post("/v1/networks", &network).await.ok();
        for member in 0..MEMBERS {
            rest.post("/v1/namespaces", &json!({"name": format!("ns{member}")})).await.ok();
            rest.post("/v1/attachments", &attachment(member)).await.ok();
        }
        for round in 0..20 {
            reboot(&mut daemon, async || ()).await;
            for member in (0..MEMBERS).filter(|member| (member + round) % 3 == 0) {
                rest.delete(&format!("/v1/attachments/at{member}")).await.ok();
                rest.post("/v1/attachments", &attachment(member)).await.ok();
            }
            let all = rest.get("/v1/attachments").await.unwrap().ok();
            let addresses: BTreeSet<String> = all["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["status"]["addresses"][0].to_string())
                .collect();
            assert_eq!(addresses.len(), MEMBERS, "round {round}: {addresses:?}");
            assert!(conditions(&rest).await.values().all(|reason| reason == "Programmed"), "round {round}");
            let have = observed();
            for address in &addresses {
                assert_eq!(
                    have.matches(&format!("addr {}", address.trim_matches('"'))).count(),
                    1,
                    "{address}: {have}"
                );
            }
        }
    });
}

/// How many members; the long form has a thousand.
pub fn members() -> usize {
    std::env::var("NETLOOM_TEST_MEMBERS").ok().map_or(100, |text| text.parse().unwrap())
}

/// Makes so many namespaces on one network, at once; how long that took.
pub async fn populate(rest: &Rest, members: usize) -> Duration {
    let mut objects = vec![json!({"kind": "Network", "name": "net", "spec":
        {"kind": {"bridge": {"device": "v-net"}}, "subnets": [{"cidr": "10.40.0.0/16"}], "egress": {"nat": {}}, "isolation": {"members": false}}})];
    for member in 0..members {
        objects.push(json!({"kind": "Namespace", "name": format!("ns{member}")}));
        objects.push(json!({"kind": "Attachment", "name": format!("at{member}"), "spec":
            {"namespace": format!("ns{member}"), "network": "net", "addresses": [address(member)]}}));
    }
    let begun = Instant::now();
    for some in objects.chunks(900) {
        let done: Value = rest.post("/v1/apply?wait=60s", &json!({"objects": some})).await.ok();
        assert!(done["objects"].is_array());
    }
    while conditions(rest).await.values().any(|reason| reason != "Programmed") {
        assert!(begun.elapsed() < Duration::from_secs(120));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

/// The address of a member.
pub fn address(member: usize) -> String {
    format!("10.40.{}.{}", 1 + member / 250, 1 + member % 250)
}

#[test]
fn a_reboot_is_as_fast_as_making_everything_at_once() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        let made = populate(&rest, members()).await;
        let before = observed();
        let back = reboot(&mut daemon, async || ()).await;
        println!(
            "{} attachments: made in {} ms, back after a reboot in {} ms",
            members(),
            made.as_millis(),
            back.as_millis()
        );
        same(&observed(), &before, "after a reboot");
        assert!(back < 3 * made + Duration::from_secs(3), "{back:?} after {made:?}");
        // The firewall has an owner again.
        assert!(!stranger::delete_table("netloom").unwrap());
    });
}
