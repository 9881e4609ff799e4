//! What a user takes for granted: an address works when the call returns, published ports answer under a strict host, and one
//! busy member does not take the host away from the others.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use netloom_server::kernel::{
    echo::{EchoServer, serve_tcp},
    meddle,
    netns::{Namespaces, own},
    probe, thread,
};
use serde_json::{Value, json};

use crate::{
    crash::scene::{Names, Scene, same},
    host::{Daemon, lan, on_host},
    rest::Rest,
};

const PATIENCE: Duration = Duration::from_secs(2);
/// More than any honest member has, and few enough to be sent in a moment.
const MANY_FLOWS: u16 = 20_000;

fn inside(name: &str) -> OwnedFd {
    Namespaces::default().open(name).unwrap()
}

fn network(name: &str, number: u8) -> Value {
    let subnets = json!([{"cidr": format!("10.{number}.0.0/24")}, {"cidr": format!("fd0{number}::/64")}]);
    json!({"kind": "Network", "name": name, "spec": {"subnets": subnets, "egress": {"nat": {}}}})
}

fn attached(name: &str, namespace: &str, network: &str) -> Value {
    json!({"kind": "Attachment", "name": name, "spec": {"namespace": namespace, "network": network}})
}

fn published(name: &str, port: u16) -> Value {
    let spec =
        json!({"protocol": "tcp", "listen": {"port": port}, "target": {"attachment": name, "port": 80}});
    json!({"kind": "PortForward", "name": name, "spec": spec})
}

async fn apply(rest: &Rest, objects: &[Value]) {
    rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
}

fn serve(namespace: &str) -> EchoServer {
    serve_tcp(inside(namespace), "0.0.0.0:80".parse().unwrap(), namespace).unwrap()
}

/// What a server says first: whom it sees, and who it is.
fn says(from: &impl std::os::fd::AsFd, to: SocketAddr) -> String {
    let work = || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        let mut line = [0; 128];
        stream.read(&mut line).map(|length| String::from_utf8_lossy(&line[..length]).into_owned())
    };
    thread::run(from, "call", work).unwrap().unwrap_or_else(|error: std::io::Error| error.to_string())
}

#[test]
fn addresses_of_both_families_can_be_bound_when_the_call_returns() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        apply(&rest, &[network("net", 1)]).await;
        for number in 0..20 {
            let name = format!("ns{number}");
            rest.post("/v1/namespaces", &json!({"name": name})).await.ok();
            let object = rest.post("/v1/attachments", &attached(&name, &name, "net")).await.ok();
            let addresses = object["status"]["addresses"].as_array().unwrap().iter();
            let addresses: Vec<IpAddr> = addresses
                .map(|net| net.as_str().unwrap().split('/').next().unwrap().parse().unwrap())
                .collect();
            assert!(addresses.len() == 2 && addresses.iter().any(IpAddr::is_ipv6), "{object}");
            thread::run(inside(&name), "bind", || {
                for address in addresses {
                    TcpListener::bind((address, 80)).unwrap();
                    UdpSocket::bind((address, 53)).unwrap();
                }
            })
            .unwrap();
        }
    });
}

#[test]
fn under_a_strict_reverse_path_filter_ports_on_two_networks_of_one_namespace_answer() {
    on_host(async || {
        let lan = lan();
        for device in ["all", "default", "eth0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "1").unwrap();
        }
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let both = json!({"kind": "Namespace", "name": "both"});
        let alone = json!({"kind": "Namespace", "name": "alone"});
        let [red, blue] = [network("red", 1), network("blue", 2)];
        let members =
            [attached("a", "both", "red"), attached("b", "both", "blue"), attached("c", "alone", "blue")];
        apply(&rest, &[red, blue, both, alone]).await;
        apply(&rest, &members).await;
        apply(&rest, &[published("a", 8001), published("b", 8002), published("c", 8003)]).await;
        let _servers = [serve("both"), serve("alone")];
        let peer = lan.peer("peer").unwrap();
        for (port, by) in [(8001, "both"), (8003, "alone")] {
            let said = says(peer, SocketAddr::new("192.168.1.2".parse().unwrap(), port));
            assert!(said.contains(by) && said.contains("192.168.1.3"), "{port}: {said}");
        }
        // The default route of `both` leads over red: what came in over blue is answered there only on request.
        let spec = json!({"namespace": "both", "destination": "192.168.1.3/32", "via": "10.2.0.1"});
        rest.post("/v1/routes", &json!({"name": "back", "spec": spec})).await.ok();
        let said = says(peer, "192.168.1.2:8002".parse().unwrap());
        assert!(said.contains("both") && said.contains("192.168.1.3"), "{said}");
    });
}

#[test]
fn a_member_that_opens_flow_after_flow_is_seen_and_takes_nothing_from_the_others() {
    on_host(async || {
        let lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let namespaces = ["noisy", "quiet"].map(|name| json!({"kind": "Namespace", "name": name}));
        apply(&rest, &[network("net", 1), namespaces[0].clone(), namespaces[1].clone()]).await;
        apply(&rest, &[attached("noisy", "noisy", "net"), attached("quiet", "quiet", "net")]).await;
        apply(&rest, &[published("quiet", 8001)]).await;
        let _server = serve("quiet");
        let before = flows(&rest).await;
        thread::run(inside("noisy"), "flood", || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for port in 1..=MANY_FLOWS {
                // What nobody listens for is told so, and that is an error of the socket; it goes on.
                while socket.send_to(b"!", ("192.168.1.3", port)).is_err() {}
            }
        })
        .unwrap();
        let begun = Instant::now();
        let now = flows(&rest).await;
        assert!(now >= before + u64::from(MANY_FLOWS) / 2, "{before} flows, then {now}");
        let said = says(lan.peer("peer").unwrap(), "192.168.1.2:8001".parse().unwrap());
        assert!(said.contains("quiet"), "{said}");
        apply(&rest, &[json!({"kind": "Namespace", "name": "more"})]).await;
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    });
}

#[test]
fn the_1024th_port_of_a_bridge_is_refused_with_the_reason_and_leaves_nothing() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        apply(&rest, &[network("net", 1), json!({"kind": "Namespace", "name": "red"})]).await;
        let object = rest.get("/v1/networks/net").await.unwrap().ok();
        let bridge = object["status"]["device"].as_str().unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        for number in 0..512 {
            let (port, other) = (format!("p{number}"), format!("o{number}"));
            meddle::add_cable(own().unwrap(), &port, &other).unwrap();
            meddle::put_in_bridge(own().unwrap(), &port, bridge).unwrap();
            if number != 0 {
                meddle::put_in_bridge(own().unwrap(), &other, bridge).unwrap();
            }
        }
        let links = || std::fs::read_dir("/sys/class/net").unwrap().count();
        let before = (links(), rest.get("/v1/allocations").await.unwrap().ok()["items"].clone());
        let refused = rest.post("/v1/attachments", &attached("red0", "red", "net")).await;
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(
            refused.status >= 400 && detail.contains("1023 ports"),
            "{} {}",
            refused.status,
            refused.body
        );
        let after = (links(), rest.get("/v1/allocations").await.unwrap().ok()["items"].clone());
        assert_eq!(after, before);
        assert_eq!(rest.get("/v1/attachments/red0").await.unwrap().status, 404);
        // One goes, one may come.
        meddle::delete_link(own().unwrap(), "p7").unwrap();
        rest.post("/v1/attachments", &attached("red0", "red", "net")).await.ok();
    });
}

#[test]
fn a_bridge_keeps_its_mac_whoever_comes_and_goes() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        apply(&rest, &[network("net", 1), json!({"kind": "Namespace", "name": "red"})]).await;
        let mac = async || rest.get("/v1/networks/net").await.unwrap().ok()["status"]["mac"].clone();
        let kernel_s = async || {
            let object = rest.get("/v1/networks/net").await.unwrap().ok();
            let device = object["status"]["device"].as_str().unwrap();
            std::fs::read_to_string(format!("/sys/class/net/{device}/address")).unwrap().trim().to_owned()
        };
        let before = (mac().await, kernel_s().await);
        assert_eq!(before.0, before.1);
        for wanted in ["02:00:00:00:00:01", "fe:ff:ff:ff:ff:01"] {
            let mut object = attached("red0", "red", "net");
            object["spec"]["mac"] = wanted.into();
            rest.post("/v1/attachments", &object).await.ok();
            assert_eq!((mac().await, kernel_s().await), before, "{wanted} has come");
            rest.delete("/v1/attachments/red0").await.ok();
            assert_eq!((mac().await, kernel_s().await), before, "{wanted} has gone");
        }
    });
}

#[test]
fn an_uplink_that_goes_and_comes_back_carries_again_without_a_restart() {
    on_host(async || {
        let first = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        apply(&rest, &[network("net", 1), json!({"kind": "Namespace", "name": "red"})]).await;
        apply(&rest, &[attached("red", "red", "net")]).await;
        let to: IpAddr = "192.168.1.3".parse().unwrap();
        let ping = |within| probe::ping(inside("red"), to, within).unwrap().reached();
        let reaches = || ping(Duration::from_millis(200));
        assert!(ping(PATIENCE));
        drop(first);
        // The kernel takes it down in its own time.
        while std::path::Path::new("/sys/class/net/eth0").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!reaches());
        let _again = lan();
        let begun = Instant::now();
        while !reaches() {
            assert!(begun.elapsed() < 2 * PATIENCE, "the new uplink carries nothing");
        }
        println!("carries again after {:?}", begun.elapsed());
    });
}

#[test]
fn who_is_told_to_stop_in_the_middle_of_deletes_finishes_them_now_or_after_the_next_start() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        apply(&daemon.rest(), &[network("net", 1)]).await;
        let snapshot = || Scene::new().snapshot(&Names::new());
        let before = snapshot();
        for round in 0..5_u64 {
            let rest = daemon.rest();
            for n in 0..8 {
                let name = format!("ns{n}");
                let namespace = json!({"kind": "Namespace", "name": name});
                apply(&rest, &[namespace, attached(&name, &name, "net")]).await;
            }
            let deletes = (0..8).map(|n| {
                let rest = daemon.rest();
                tokio::spawn(async move {
                    // Who is cut off asks again below.
                    let path = format!("/v1/namespaces/ns{n}?force=true");
                    drop(rest.send("DELETE", &path, "", bytes::Bytes::new()).await);
                })
            });
            let deletes: Vec<_> = deletes.collect();
            tokio::time::sleep(Duration::from_millis(2 * round)).await;
            let begun = Instant::now();
            daemon.stop();
            assert!(
                begun.elapsed() < 2 * PATIENCE,
                "nobody waits for what nobody does: {:?}",
                begun.elapsed()
            );
            for delete in deletes {
                delete.await.unwrap();
            }
            daemon.start_again().await;
            let rest = daemon.rest();
            for n in 0..8 {
                rest.delete(&format!("/v1/namespaces/ns{n}?force=true&allow_missing=true")).await;
            }
            let left = rest.get("/v1/export").await.unwrap().ok();
            assert_eq!(left["objects"].as_array().unwrap().len(), 1, "{left}");
            same(&snapshot(), &before, &format!("round {round}"));
        }
    });
}

/// Flows of the host, as the metrics say.
async fn flows(rest: &Rest) -> u64 {
    let text = rest.get("/metrics").await.unwrap().body;
    let text = text.as_str().unwrap();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("netloom_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse::<u64>().unwrap()
    };
    assert!(number("conntrack_flows_max") > 0);
    number("conntrack_flows")
}
