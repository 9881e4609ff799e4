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
    netns::Namespaces,
    thread,
};
use serde_json::{Value, json};

use crate::{
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
    serve_tcp(&inside(namespace), "0.0.0.0:80".parse().unwrap(), namespace).unwrap()
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
            thread::run(&inside(&name), "bind", || {
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
        thread::run(&inside("noisy"), "flood", || {
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
