//! Networks: the way out behind a chosen address, what they carry, and bridges that the user made.

use std::{net::SocketAddr, os::fd::AsFd, time::Duration};

use netloom_api::IfName;
use netloom_server::{
    hostnet::Stack,
    kernel::{
        Kernel,
        echo::serve_tcp,
        lan::{Lan, LanRoute, LanSpec, PeerSpec, add_lan},
        netns::{Namespaces, own},
        probe,
    },
    reconcile::Host as _,
};
use rtnetlink::{Handle, LinkBridge, LinkUnspec};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, on_host},
    rest::Rest,
};

const PATIENCE: Duration = Duration::from_secs(2);

/// A LAN with two addresses for the host and one way out of it.
fn lan_with_two_addresses() -> Lan {
    let default = LanRoute { destination: "0.0.0.0/0".parse().unwrap(), via: "192.168.1.3".parse().unwrap() };
    let peer = PeerSpec::new("peer", ["192.168.1.3/24".parse().unwrap(), "fd00:1::3/64".parse().unwrap()]);
    let addresses = ["192.168.1.2/24", "192.168.1.9/24", "fd00:1::2/64", "fd00:1::9/64"];
    add_lan(&LanSpec {
        host_interface: "eth0".into(),
        host_addresses: addresses.map(|address| address.parse().unwrap()).into(),
        host_routes: vec![default],
        peers: vec![peer],
    })
    .unwrap()
}

/// As a person with `ip` would.
fn by_hand() -> Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

async fn set_mtu(name: &str, mtu: u32) {
    let message = LinkUnspec::new_with_index(index(name)).mtu(mtu).build();
    by_hand().link().set(message).execute().await.unwrap();
}

async fn net(rest: &Rest, name: &str, spec: Value) -> crate::rest::Reply {
    rest.post("/v1/networks", &json!({"name": name, "spec": spec})).await
}

async fn attach(rest: &Rest, namespace: &str, network: &str) -> Value {
    rest.post("/v1/namespaces", &json!({"name": namespace})).await;
    let spec = json!({"namespace": namespace, "network": network});
    rest.post("/v1/attachments", &json!({"name": format!("{namespace}0"), "spec": spec})).await.ok()
}

/// The address that a peer's echo server sees, or nothing.
fn seen(from: &str, to: &str) -> Option<String> {
    let from = Namespaces::default().open(from).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    probe::tcp_exchange(&from, to, PATIENCE).unwrap().seen().map(|seen| seen.ip().to_string())
}

fn reaches(from: impl AsFd, to: &str) -> bool {
    probe::ping(from, to.parse().unwrap(), PATIENCE).unwrap().reached()
}

#[test]
fn members_leave_behind_the_chosen_address_of_each_family_and_it_changes_live() {
    on_host(async || {
        let lan = lan_with_two_addresses();
        let peer = lan.peer("peer").unwrap();
        let _v4 = serve_tcp(peer, "0.0.0.0:900".parse().unwrap(), "peer").unwrap();
        let _v6 = serve_tcp(peer, "[::]:900".parse().unwrap(), "peer").unwrap();
        let mut daemon = Daemon::start().await;
        let subnets = json!([{"cidr": "10.1.0.0/24"}, {"cidr": "fd00:15::/64"}]);
        let nat = |nat: Value| json!({"subnets": subnets, "egress": {"nat": nat}});
        let rest = daemon.rest();
        for (wrong, field) in [
            (json!({"address": "192.168.1.77"}), "spec.egress.nat.address"),
            (json!({"address": "fd00:1::9"}), "spec.egress.nat.address"),
            (json!({"address_v6": "fd00:1::77"}), "spec.egress.nat.address_v6"),
        ] {
            let refused = net(&rest, "n", nat(wrong)).await;
            assert_eq!((refused.status, &refused.body["reason"]), (400, &json!("INVALID_ARGUMENT")));
            assert!(refused.body.to_string().contains(field.rsplit('.').next().unwrap()), "{refused:#?}");
        }
        let made = net(&rest, "n", nat(json!({"address": "192.168.1.9", "address_v6": "fd00:1::9"}))).await;
        assert_eq!(made.ok()["status"]["conditions"][0]["status"], "True");
        attach(&rest, "red", "n").await;
        let (v4, v6) = ("192.168.1.3:900", "[fd00:1::3]:900");
        let both = || (seen("red", v4), seen("red", v6));
        let want = |v4: &str, v6: &str| (Some(v4.to_owned()), Some(v6.to_owned()));
        assert_eq!(both(), want("192.168.1.9", "fd00:1::9"));
        let patch = json!({"spec": {"egress": {"nat": {"address": "192.168.1.2"}}}});
        rest.patch("/v1/networks/n", &patch).await.ok();
        assert_eq!(both(), want("192.168.1.2", "fd00:1::9"), "a patch merges");
        daemon.crash_and_restart().await;
        assert_eq!(both(), want("192.168.1.2", "fd00:1::9"));

        // The host loses the address: the next look says so, and it comes back by itself.
        let rest = daemon.rest();
        let message = {
            let handle = by_hand();
            let mut all = handle.address().get().set_address_filter("192.168.1.2".parse().unwrap()).execute();
            use futures_util::TryStreamExt as _;
            let found = all.try_next().await.unwrap().unwrap();
            handle.address().del(found.clone()).execute().await.unwrap();
            found
        };
        daemon.crash_and_restart().await;
        let condition = async |rest: &Rest| {
            rest.get("/v1/networks/n").await.unwrap().ok()["status"]["conditions"][0].clone()
        };
        let lost = condition(&rest).await;
        assert_eq!(
            (&lost["status"], &lost["reason"]),
            (&json!("False"), &json!("DependencyNotReady")),
            "{lost}"
        );
        assert!(lost["message"].as_str().unwrap().contains("192.168.1.2"), "{lost}");
        // What does not touch it can be changed meanwhile.
        rest.patch("/v1/networks/n", &json!({"labels": {"a": "b"}})).await.ok();
        let handle = by_hand();
        handle
            .address()
            .add(message.header.index, "192.168.1.2".parse().unwrap(), 24)
            .execute()
            .await
            .unwrap();
        daemon.crash_and_restart().await;
        assert_eq!(condition(&daemon.rest()).await["status"], "True");
    });
}

#[test]
fn a_network_carries_what_the_uplink_carried_when_it_was_made_and_a_change_is_live() {
    on_host(async || {
        let _lan = lan_with_two_addresses();
        set_mtu("eth0", 1400).await;
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        let made = net(&rest, "n", json!({"isolation": {"host": false}})).await.ok();
        assert_eq!(made["status"]["mtu"], 1400);
        assert_eq!(made["spec"]["mtu"], Value::Null);
        let red = attach(&rest, "red", "n").await;
        assert_eq!(red["status"]["mtu"], 1400);
        let said = net(&rest, "said", json!({"mtu": 1600})).await.ok();
        assert_eq!(said["status"]["mtu"], 1600);
        // Later changes of the uplink are none of its business.
        set_mtu("eth0", 1500).await;
        daemon.crash_and_restart().await;
        let rest = daemon.rest();
        let mtu = async || rest.get("/v1/networks/n").await.unwrap().ok()["status"]["mtu"].clone();
        assert_eq!(mtu().await, 1400);
        let kernel = Kernel::open().unwrap();
        let device: IfName = made["status"]["device"].as_str().unwrap().parse().unwrap();
        let inside = (Stack::Namespace("red".parse().unwrap()), "eth0".parse::<IfName>().unwrap());
        let carried = || {
            let net = kernel.observe().unwrap();
            let ports: Vec<u32> = net
                .links
                .values()
                .filter(|link| link.master.as_ref() == Some(&device))
                .map(|link| link.mtu)
                .collect();
            (net.links[&(Stack::Host, device.clone())].mtu, ports, net.links[&inside].mtu)
        };
        assert_eq!(carried(), (1400, vec![1400], 1400));
        for wanted in [1300, 2000] {
            rest.patch("/v1/networks/n", &json!({"spec": {"mtu": wanted}})).await.ok();
            assert_eq!(carried(), (wanted, vec![wanted], wanted));
        }
        // One that carries less than its network does not take the network down with it.
        rest.patch("/v1/attachments/red0", &json!({"spec": {"mtu": 1280}})).await.ok();
        assert_eq!(carried(), (2000, vec![2000], 1280));
        assert!(reaches(
            own().unwrap(),
            red["status"]["addresses"][0].as_str().unwrap().split('/').next().unwrap()
        ));
        rest.patch("/v1/networks/n", &json!({"spec": {"mtu": null}})).await.ok();
        assert_eq!(carried(), (1400, vec![1400], 1280));
    });
}

/// What a person sees of a bridge with `ip -d link`, `ip addr` and `sysctl`.
fn picture(name: &str) -> String {
    let net = Kernel::open().unwrap().observe().unwrap();
    let of_it = |line: &&str| line.split([' ', '.', '/']).any(|word| word == name);
    net.to_string().lines().filter(of_it).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_bridge_that_the_user_made_is_used_and_left_as_it_was() {
    on_host(async || {
        let lan = lan_with_two_addresses();
        let handle = by_hand();
        handle.link().add(LinkBridge::new("br0").build()).execute().await.unwrap();
        let up = LinkUnspec::new_with_index(index("br0")).up().mtu(1450).build();
        handle.link().set(up).execute().await.unwrap();
        handle.address().add(index("br0"), "10.5.0.1".parse().unwrap(), 24).execute().await.unwrap();
        let before = picture("br0");
        assert!(before.contains("10.5.0.1/24") && before.contains("mtu 1450"), "{before}");

        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        let spec = |more: Value| {
            let mut spec = json!({"kind": {"bridge": {"device": "br0", "existing": true}}, "egress": {"nat": {}},
                "subnets": [{"cidr": "10.5.0.0/24"}, {"cidr": "10.6.0.0/24", "gateway": "10.6.0.9"}]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        // Without the word it is in the way, as ever.
        let taken = net(&rest, "n", json!({"kind": {"bridge": {"device": "br0"}}})).await;
        assert_eq!((taken.status, &taken.body["reason"]), (409, &json!("DEVICE_TAKEN")), "{taken:#?}");
        let missing = json!({"kind": {"bridge": {"device": "br1", "existing": true}}});
        let missing = net(&rest, "n", missing).await;
        assert_eq!(
            (missing.status, &missing.body["reason"]),
            (409, &json!("REFERENCE_NOT_FOUND")),
            "{missing:#?}"
        );
        let large = net(&rest, "n", spec(json!({"mtu": 1500}))).await;
        assert_eq!((large.status, &large.body["reason"]), (400, &json!("INVALID_ARGUMENT")), "{large:#?}");
        assert_eq!(picture("br0"), before);

        let made = net(&rest, "n", spec(json!({}))).await.ok();
        assert_eq!(made["status"]["mtu"], 1450);
        assert_eq!(made["status"]["conditions"][0]["status"], "True", "{made:#}");
        attach(&rest, "red", "n").await;
        let blue = attach(&rest, "blue", "n").await;
        let fixed =
            rest.patch("/v1/networks/n", &json!({"spec": {"kind": {"bridge": {"existing": false}}}})).await;
        assert_eq!((fixed.status, &fixed.body["reason"]), (422, &json!("IMMUTABLE_FIELD")));
        let _web = serve_tcp(lan.peer("peer").unwrap(), "0.0.0.0:900".parse().unwrap(), "peer").unwrap();
        let works = || {
            let address =
                |at: usize| blue["status"]["addresses"][at].as_str().unwrap().split('/').next().unwrap();
            let red = Namespaces::default().open("red").unwrap();
            assert!(reaches(&red, address(0)) && reaches(&red, address(1)), "members reach each other");
            assert!(reaches(&red, "10.5.0.1") && reaches(&red, "10.6.0.9"), "and both gateways");
            assert_eq!(seen("red", "192.168.1.3:900").as_deref(), Some("192.168.1.2"), "and the LAN");
        };
        works();
        let link_line = |text: &str| text.lines().find(|line| line.contains("link br0")).unwrap().to_owned();
        assert_eq!(link_line(&picture("br0")), link_line(&before), "MAC, MTU and state are the user's");
        let during = picture("br0");
        daemon.crash_and_restart().await;
        assert_eq!(picture("br0"), during, "a restart has nothing to do");
        works();

        let rest = daemon.rest();
        rest.delete("/v1/networks/n?force=true").await.ok();
        assert_eq!(picture("br0"), before);
        // Again, and this time purged by a daemon that does not run.
        net(&rest, "n", spec(json!({}))).await.ok();
        daemon.stop();
        Kernel::open().unwrap().purge(false).unwrap();
        let addresses =
            |text: &str| text.lines().filter(|line| line.contains("addr")).collect::<Vec<_>>().join("\n");
        assert_eq!(addresses(&picture("br0")), addresses(&before));
    });
}
