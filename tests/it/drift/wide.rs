//! Everything else that others can do to what is ours: to shapes, routes, switches, names and many ports at once.

use std::time::Instant;

use netloom_server::kernel::{
    Kernel, meddle,
    netns::{Namespaces, fresh, own},
    stranger::{self, Change, TypedRoute},
    sysctl::{self, Key},
    thread,
};
use netloom_server::reconcile::Host as _;
use serde_json::{Value, json};

use super::{Break, WITHIN, all_come_back, back, inside, repaired};
use crate::{
    drift::storm::Bystander,
    host::{Daemon, lan, on_host},
    rest::Rest,
};

/// Two namespaces on a network, one of them a router; routes in them and on the host; a cable to the host.
pub async fn build(rest: &Rest) {
    let end = |namespace: &str, interface: &str, address: &str| json!({"namespace": namespace, "interface": interface, "addresses": [address]});
    let route = |spec: Value| spec;
    let objects = json!([
        {"kind": "Namespace", "name": "one"},
        {"kind": "Namespace", "name": "router", "spec": {"sysctls": {"net.ipv4.ip_forward": "1"}}},
        {"kind": "Network", "name": "v-net-1", "spec": {"kind": {"bridge": {"device": "v-net-1"}}, "egress": {"nat": {}},
            "subnets": [{"cidr": "192.168.16.0/24"}, {"cidr": "fd16::/64"}]}},
        {"kind": "Attachment", "name": "one0", "spec": {"namespace": "one", "network": "v-net-1", "addresses": ["192.168.16.11", "fd16::11"]}},
        {"kind": "Attachment", "name": "router0", "spec": {"namespace": "router", "network": "v-net-1", "addresses": ["192.168.16.12", "fd16::12"]}},
        {"kind": "Link", "name": "cable", "spec": {"ends": [end("one", "cable", "10.5.5.1/24"), end("host", "to-one", "10.5.5.2/24")]}},
        {"kind": "Route", "name": "lan", "spec": route(json!({"namespace": "one", "destination": "10.9.0.0/24", "via": "192.168.16.12"}))},
        {"kind": "Route", "name": "hole", "spec": route(json!({"namespace": "one", "destination": "10.10.0.0/24", "type": "blackhole"}))},
        {"kind": "Route", "name": "far", "spec": route(json!({"namespace": "host", "destination": "10.8.0.0/24", "via": "192.168.16.12"}))},
        {"kind": "Route", "name": "out", "spec": route(json!({"namespace": "host", "destination": "10.7.0.0/24", "via": "192.168.1.3"}))},
        {"kind": "PortForward", "name": "web", "spec":
            {"protocol": "tcp", "listen": {"port": 8080}, "target": {"attachment": "one0", "port": 80}}},
    ]);
    rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
}

fn write(namespace: &str, key: &str, value: &str) {
    let namespace = if namespace == "host" { own().unwrap() } else { inside(namespace) };
    let work = || sysctl::write(&Key::named(key).unwrap(), value).unwrap();
    assert!(thread::run(namespace, "meddle", work).unwrap(), "{key} is {value} already");
}

fn forget_route(namespace: &str, destination: &str, via: Option<&str>, link: Option<&str>) {
    let namespace = if namespace == "host" { own().unwrap() } else { inside(namespace) };
    let route = TypedRoute {
        destination: destination.parse().unwrap(),
        via: via.map(|via| via.parse().unwrap()),
        link: link.map(str::to_owned),
    };
    thread::run(namespace, "meddle", || stranger::delete_route(&route).unwrap()).unwrap();
}

fn change(namespace: &str, link: &str, what: Change) {
    let namespace = if namespace == "host" { own().unwrap() } else { inside(namespace) };
    thread::run(namespace, "meddle", || stranger::change(link, what).unwrap()).unwrap();
}

/// As `umount` and `rm` do.
fn unpin(name: &str) {
    use nix::mount::{MntFlags, umount2};
    let path = Namespaces::default().path(name);
    umount2(&path, MntFlags::MNT_DETACH).unwrap();
    std::fs::remove_file(path).unwrap();
}

fn breaks() -> Vec<Break> {
    vec![
        ("an end has another MTU", || change("one", "eth0", Change::Mtu(1300)), &["one0"]),
        ("a bridge has another MTU", || change("host", "v-net-1", Change::Mtu(1300)), &["v-net-1"]),
        (
            "an end of a cable has another MAC",
            || change("one", "cable", Change::Mac([2, 0, 0, 0, 0, 9])),
            &["cable"],
        ),
        (
            "a port is out of its bridge",
            || {
                let name = port_of("router");
                change("host", &name, Change::NoMaster);
            },
            &["router0"],
        ),
        (
            "an interface is moved to a stranger's namespace",
            || {
                let stranger = fresh().unwrap();
                meddle::move_link(inside("router"), "eth0", &stranger.fd).unwrap();
                // It lives on.
                std::mem::forget(stranger);
            },
            &["router0"],
        ),
        (
            "a route of a namespace is deleted",
            || forget_route("one", "10.9.0.0/24", Some("192.168.16.12"), Some("eth0")),
            &["lan"],
        ),
        ("a blackhole is deleted", || forget_route("one", "10.10.0.0/24", None, None), &["hole"]),
        (
            "a route of the host is deleted",
            || forget_route("host", "10.8.0.0/24", Some("192.168.16.12"), Some("v-net-1")),
            &["far"],
        ),
        (
            "a route of the host by its own link is deleted",
            || forget_route("host", "10.7.0.0/24", Some("192.168.1.3"), Some("eth0")),
            &["out"],
        ),
        (
            "a default route of ours is deleted",
            || forget_route("one", "0.0.0.0/0", Some("192.168.16.1"), Some("eth0")),
            &["one0"],
        ),
        (
            "a bridge forwards no more",
            || write("host", "net.ipv4.conf.v-net-1.forwarding", "0"),
            &["v-net-1"],
        ),
        (
            "the host forwards no more",
            || {
                write("host", "net.ipv4.ip_forward", "1");
                write("host", "net.ipv4.ip_forward", "0");
            },
            &["host", "v-net-1", "by"],
        ),
        ("a router forwards no more", || write("router", "net.ipv4.ip_forward", "0"), &["router"]),
        ("IPv6 is switched off", || write("one", "net.ipv6.conf.eth0.disable_ipv6", "1"), &["one0"]),
        ("a namespace loses its name", || unpin("router"), &["router", "router0"]),
        (
            "a namespace is deleted",
            || Namespaces::default().delete("one").unwrap(),
            &["one", "one0", "cable", "lan", "hole"],
        ),
    ]
}

/// The host's device of a namespace's only port.
fn port_of(namespace: &str) -> String {
    let have = Kernel::open().unwrap().observe().unwrap();
    let end = have.links.values().zip(have.links.keys()).find_map(|(link, (stack, _))| match &link.kind {
        netloom_server::hostnet::LinkKind::Veth {
            peer: Some((netloom_server::hostnet::Stack::Host, name)),
        } if stack.to_string() == namespace => Some(name.to_string()),
        _ => None,
    });
    end.unwrap()
}

#[test]
fn shapes_routes_switches_and_names_are_back_within_a_second_as_they_were() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        build(&rest).await;
        let bystander = Bystander::open(&rest).await;
        // Making it is over when the last event of it was heard.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        all_come_back(&rest, &Kernel::open().unwrap(), breaks()).await;
        bystander.goes_on();
    });
}

#[test]
fn what_a_stranger_adds_is_left_alone() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        build_small(&rest, 1).await;
        let net: ipnet::IpNet = "198.51.100.7/24".parse().unwrap();
        meddle::add_address(inside("m0"), "eth0", net).unwrap();
        meddle::add_address(own().unwrap(), "v-net-2", net).unwrap();
        let kernel = Kernel::open().unwrap();
        let with_it = kernel.observe().unwrap().to_string();
        assert_eq!(with_it.matches("198.51.100.7").count(), 2, "{with_it}");
        // A repair looks at the same link; it leaves the address, too.
        thread::run(inside("m0"), "meddle", || stranger::change("eth0", Change::Mtu(1300)).unwrap()).unwrap();
        back(&kernel, &with_it, Instant::now()).await;
    });
}

#[test]
fn a_bridge_comes_back_with_all_its_ports() {
    on_host(async || {
        const PORTS: usize = 20;
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        build_small(&rest, PORTS).await;
        let bystander = Bystander::open(&rest).await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        let begun = Instant::now();
        meddle::delete_link(own().unwrap(), "v-net-2").unwrap();
        let took = back(&kernel, &before, begun).await;
        println!("repair: a bridge with {PORTS} ports: {} ms", took.as_millis());
        assert!(took < 3 * WITHIN, "{took:?}");
        let begun = Instant::now();
        while repaired(&rest).await.len() < PORTS + 1 {
            assert!(begun.elapsed() < 3 * WITHIN, "{:#?}", repaired(&rest).await);
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(repaired(&rest).await.len(), PORTS + 1);
        bystander.goes_on();
    });
}

/// Some namespaces on one network.
pub async fn build_small(rest: &Rest, members: usize) {
    let mut objects = vec![
        json!({"kind": "Network", "name": "v-net-2", "spec": {"kind": {"bridge": {"device": "v-net-2"}},
        "subnets": [{"cidr": "192.168.17.0/24"}, {"cidr": "fd17::/64"}]}}),
    ];
    for member in 0..members {
        objects.push(json!({"kind": "Namespace", "name": format!("m{member}")}));
        objects.push(json!({"kind": "Attachment", "name": format!("m{member}-0"),
            "spec": {"namespace": format!("m{member}"), "network": "v-net-2"}}));
    }
    rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
}
