//! Port forwards, seen by packets: both families, all protocols, ranges, sources, chosen and taken ports, live change.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use netloom_server::kernel::{
    echo::{EchoServer, serve_tcp, serve_udp},
    frame::{Port, inject},
    lan::{Lan, LanSpec, PeerSpec, add_lan},
    netns::{Namespaces, own},
    probe, thread,
};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, on_host},
    rest::{Reply, Rest},
};

const PATIENCE: Duration = Duration::from_secs(2);
/// Long enough for an answer, short enough to wait for none.
const SILENCE: Duration = Duration::from_millis(400);

const HOST: &str = "192.168.1.2";
const HOST_TOO: &str = "192.168.1.20";
const HOST6: &str = "2001:db8:1::2";

/// Two machines beside the host, which has two addresses of IPv4 and one of IPv6.
fn dual_lan() -> Lan {
    let peer = |name, v4: &str, v6: &str| PeerSpec::new(name, [v4.parse().unwrap(), v6.parse().unwrap()]);
    let spec = LanSpec {
        host_interface: "eth0".into(),
        host_addresses: ["192.168.1.2/24", "192.168.1.20/24", "2001:db8:1::2/64"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
        host_routes: vec![],
        peers: vec![
            peer("peer", "192.168.1.3/24", "2001:db8:1::3/64"),
            peer("other", "192.168.1.4/24", "2001:db8:1::4/64"),
        ],
    };
    add_lan(&spec).unwrap()
}

/// Red (192.168.15.1) and blue (192.168.15.2) on one network of both families.
async fn red_and_blue(rest: &Rest) {
    let spec = json!({"subnets": [{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}, {"cidr": "fd00:15::/64"}]});
    rest.post("/v1/networks", &json!({"name": "v-net-0", "spec": spec})).await.ok();
    for (name, v4, v6) in [("red", "192.168.15.1", "fd00:15::11"), ("blue", "192.168.15.2", "fd00:15::12")] {
        rest.post("/v1/namespaces", &json!({"name": name})).await.ok();
        let spec = json!({"namespace": name, "network": "v-net-0", "addresses": [v4, v6]});
        rest.post("/v1/attachments", &json!({"name": format!("{name}0"), "spec": spec})).await.ok();
    }
}

async fn publish(
    rest: &Rest,
    name: &str,
    protocol: &str,
    listen: Value,
    target: Value,
    sources: &[&str],
) -> Reply {
    let spec = json!({"protocol": protocol, "listen": listen, "target": target, "sources": sources});
    rest.post("/v1/port-forwards", &json!({"name": name, "spec": spec})).await
}

/// Servers of both protocols and families at these ports of a namespace; who answers is its name.
fn serve(namespace: &str, ports: &[u16]) -> Vec<EchoServer> {
    let inside = Namespaces::default().open(namespace).unwrap();
    let any = ["0.0.0.0", "::"].map(|any| any.parse::<IpAddr>().unwrap());
    let at = ports.iter().flat_map(|port| any.map(|any| SocketAddr::new(any, *port)));
    at.flat_map(|at| [serve_tcp(&inside, at, namespace).unwrap(), serve_udp(&inside, at, namespace).unwrap()])
        .collect()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Who answers, and the address that it saw: `blue 192.168.1.3`; or what came instead.
fn call(from: impl AsFd, protocol: &str, to: SocketAddr) -> String {
    let exchange = if protocol == "tcp" { probe::tcp_exchange } else { probe::udp_exchange };
    let verdict = exchange(from.as_fd(), to, SILENCE).unwrap();
    match (verdict.by(), verdict.seen()) {
        (Some(by), Some(seen)) => format!("{by} {}", seen.ip()),
        _ => format!("{verdict:?}"),
    }
}

#[test]
fn the_same_port_goes_to_one_place_on_each_address_of_either_family() {
    on_host(async || {
        let lan = dual_lan();
        let peer = lan.peer("peer").unwrap();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        let _servers = [serve("red", &[80]), serve("blue", &[80])];
        for protocol in ["tcp", "udp"] {
            let name = |what: &str| format!("{protocol}-{what}");
            let (blue, red) =
                (json!({"attachment": "blue0", "port": 80}), json!({"attachment": "red0", "port": 80}));
            publish(&rest, &name("any"), protocol, json!({"port": 8080}), blue.clone(), &[]).await.ok();
            for (of, address, target) in [("one", HOST, &blue), ("two", HOST_TOO, &red), ("six", HOST6, &red)]
            {
                let listen = json!({"address": address, "port": 90});
                publish(&rest, &name(of), protocol, listen, target.clone(), &[]).await.ok();
            }
            for (address, seen) in
                [(HOST, "192.168.1.3"), (HOST_TOO, "192.168.1.3"), (HOST6, "2001:db8:1::3")]
            {
                assert_eq!(
                    call(peer, protocol, at(address, 8080)),
                    format!("blue {seen}"),
                    "{protocol} {address}"
                );
            }
            assert_eq!(call(peer, protocol, at(HOST, 90)), "blue 192.168.1.3");
            assert_eq!(call(peer, protocol, at(HOST_TOO, 90)), "red 192.168.1.3");
            assert_eq!(call(peer, protocol, at(HOST6, 90)), "red 2001:db8:1::3");
            let taken = publish(&rest, "late", protocol, json!({"port": 90}), blue, &[]).await;
            assert_eq!((taken.status, &taken.body["reason"]), (409, &json!("PORT_TAKEN")), "{taken:#?}");
        }
    });
}

#[test]
fn a_range_goes_port_by_port_with_and_without_a_shift() {
    on_host(async || {
        let lan = dual_lan();
        let (peer, other) = (lan.peer("peer").unwrap(), lan.peer("other").unwrap());
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        let _servers = [serve("blue", &[7000, 7009, 9000, 9009]), serve("red", &[7001])];
        for protocol in ["tcp", "udp"] {
            let kept = json!({"port": 7000, "end_port": 7009});
            publish(
                &rest,
                &format!("{protocol}-kept"),
                protocol,
                kept,
                json!({"attachment": "blue0"}),
                &["192.168.1.3", "2001:db8:1::/64"],
            )
            .await
            .ok();
            let shifted = json!({"port": 7100, "end_port": 7109});
            let target = json!({"attachment": "blue0", "port": 9000});
            publish(&rest, &format!("{protocol}-moved"), protocol, shifted, target, &["192.168.1.3"])
                .await
                .ok();
            for port in [7000, 7009, 7100, 7109] {
                assert_eq!(call(peer, protocol, at(HOST, port)), "blue 192.168.1.3", "{protocol} {port}");
                assert!(call(other, protocol, at(HOST, port)).contains("Silent"), "{protocol} {port}");
            }
            for port in [7000, 7009] {
                assert_eq!(call(other, protocol, at(HOST6, port)), "blue 2001:db8:1::4", "{protocol} {port}");
            }
            // Only IPv4 is named, so IPv6 is shut out.
            assert!(call(peer, protocol, at(HOST6, 7100)).contains("Silent"), "{protocol}");
        }
    });
}

/// Whether it comes to be in time. Flows are forgotten a moment after the rules have changed, and nothing announces it.
fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !is_so() {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Whether a connection ends: by a reset, or because nothing comes back any more.
fn ends(stream: &mut TcpStream) -> bool {
    soon(|| !lives(stream))
}

fn open(from: impl AsFd, to: SocketAddr) -> TcpStream {
    let mut stream = probe::tcp_open(from, to, PATIENCE).unwrap().unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(lives(&mut stream));
    stream
}

/// Whether the echo still comes.
fn lives(stream: &mut TcpStream) -> bool {
    if stream.write_all(b"?\n").is_err() {
        return false;
    }
    let mut text = Vec::new();
    for _ in 0..4 {
        let mut buffer = [0; 64];
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return false,
        }
        if text.contains(&b'?') {
            return true;
        }
    }
    false
}

#[test]
fn only_its_sources_use_a_forward_and_narrowing_them_cuts_who_may_not_any_more() {
    on_host(async || {
        let lan = dual_lan();
        let (peer, other) = (lan.peer("peer").unwrap(), lan.peer("other").unwrap());
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        let _servers = serve("blue", &[80]);
        let red = Namespaces::default().open("red").unwrap();
        let blue = json!({"attachment": "blue0", "port": 80});
        publish(&rest, "open", "tcp", json!({"port": 8081}), blue.clone(), &[]).await.ok();
        for protocol in ["tcp", "udp"] {
            let name = format!("{protocol}-web");
            let path = format!("/v1/port-forwards/{name}");
            publish(
                &rest,
                &name,
                protocol,
                json!({"port": 8080}),
                blue.clone(),
                &["192.168.1.3", "2001:db8:1::3/128"],
            )
            .await
            .ok();
            assert_eq!(call(peer, protocol, at(HOST, 8080)), "blue 192.168.1.3");
            assert_eq!(call(peer, protocol, at(HOST6, 8080)), "blue 2001:db8:1::3");
            assert!(call(other, protocol, at(HOST, 8080)).contains("Silent"));
            assert!(call(other, protocol, at(HOST6, 8080)).contains("Silent"));
            assert!(
                call(&red, protocol, at(HOST, 8080)).contains("Silent"),
                "a member is judged by its own address"
            );
            let host = own().unwrap();
            assert_eq!(
                call(&host, protocol, at("127.0.0.1", 8080)),
                "blue 192.168.15.5",
                "the host always may"
            );
            assert!(call(&host, protocol, at(HOST, 8080)).starts_with("blue "));

            let (mut through, mut beside) = (open(peer, at(HOST, 8081)), open(peer, at(HOST, 8081)));
            let mut cut = (protocol == "tcp").then(|| open(peer, at(HOST, 8080)));
            let sources = json!(["192.168.1.4/32", "192.168.15.0/24", "192.168.15.0/25"]);
            rest.patch(&path, &json!({"spec": {"sources": sources}})).await.ok();
            assert!(cut.iter_mut().all(ends), "who may not any more is cut");
            assert!(call(peer, protocol, at(HOST, 8080)).contains("Silent"));
            assert!(call(peer, protocol, at(HOST6, 8080)).contains("Silent"));
            assert_eq!(call(other, protocol, at(HOST, 8080)), "blue 192.168.1.4");
            // It is let in by its own address; blue, on the same bridge, sees the gateway's.
            assert_eq!(call(&red, protocol, at(HOST, 8080)), "blue 192.168.15.5");
            rest.patch(&path, &json!({"spec": {"sources": null}})).await.ok();
            assert_eq!(call(peer, protocol, at(HOST, 8080)), "blue 192.168.1.3");
            assert_eq!(call(peer, protocol, at(HOST6, 8080)), "blue 2001:db8:1::3");
            rest.patch(&path, &json!({"spec": {"sources": ["10.0.0.0/8"]}})).await.ok();
            assert!(call(peer, protocol, at(HOST, 8080)).contains("Silent"));
            assert!(lives(&mut through) && lives(&mut beside), "the forward beside it was not touched");
        }
    });
}

#[test]
fn everything_about_where_a_forward_listens_and_leads_changes_live() {
    on_host(async || {
        let lan = dual_lan();
        let peer = lan.peer("peer").unwrap();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        let _servers = [serve("blue", &[80]), serve("red", &[80, 81])];
        let blue = json!({"attachment": "blue0", "port": 80});
        publish(&rest, "web", "tcp", json!({"port": 8080}), blue.clone(), &[]).await.ok();
        publish(&rest, "beside", "tcp", json!({"port": 8081}), blue.clone(), &[]).await.ok();
        let mut beside = open(peer, at(HOST, 8081));
        let change =
            async |spec: Value| rest.patch("/v1/port-forwards/web", &json!({"spec": spec})).await.ok();

        let mut old = open(peer, at(HOST, 8080));
        assert_eq!(change(json!({"listen": {"port": 8082}})).await["generation"], 2);
        assert_eq!(call(peer, "tcp", at(HOST, 8082)), "blue 192.168.1.3");
        assert!(ends(&mut old), "the old port's connections end");
        drop(TcpListener::bind((HOST, 8080)).expect("the old port is free for others"));
        assert_eq!(TcpListener::bind((HOST, 8082)).unwrap_err().kind(), ErrorKind::AddrInUse);

        // From any address to one, and to another: each time our own reservation is in the way.
        let mut old = open(peer, at(HOST_TOO, 8082));
        change(json!({"listen": {"address": HOST}})).await;
        assert!(ends(&mut old));
        assert_eq!(call(peer, "tcp", at(HOST, 8082)), "blue 192.168.1.3");
        assert!(call(peer, "tcp", at(HOST_TOO, 8082)).contains("Refused"));
        change(json!({"listen": {"address": HOST6}})).await;
        assert_eq!(call(peer, "tcp", at(HOST6, 8082)), "blue 2001:db8:1::3");
        change(json!({"listen": {"address": null, "end_port": 8090}})).await;
        assert!(
            call(peer, "tcp", at(HOST, 8090)).contains("Refused"),
            "blue has no service at the shifted port"
        );

        let mut old = open(peer, at(HOST, 8082));
        change(json!({"target": {"attachment": "red0"}, "listen": {"end_port": null}})).await;
        assert!(ends(&mut old));
        assert_eq!(call(peer, "tcp", at(HOST, 8082)), "red 192.168.1.3");
        change(json!({"target": {"port": 81}})).await;
        assert_eq!(call(peer, "tcp", at(HOST, 8082)), "red 192.168.1.3");
        assert!(lives(&mut beside), "a connection through another forward goes on through all of it");

        // Two forwards change places in one apply.
        let forward = |name: &str, port: u16, target: &Value| json!({"kind": "PortForward", "name": name, "spec": {"protocol": "tcp", "listen": {"port": port}, "target": target}});
        let red = json!({"attachment": "red0", "port": 81});
        let objects = json!({"objects": [forward("web", 8081, &red), forward("beside", 8082, &blue)]});
        rest.post("/v1/apply", &objects).await.ok();
        assert_eq!(call(peer, "tcp", at(HOST, 8081)), "red 192.168.1.3");
        assert_eq!(call(peer, "tcp", at(HOST, 8082)), "blue 192.168.1.3");
        for port in [8081, 8082] {
            assert_eq!(TcpListener::bind((HOST, port)).unwrap_err().kind(), ErrorKind::AddrInUse, "{port}");
        }
        let refused = rest.patch("/v1/port-forwards/web", &json!({"spec": {"protocol": "udp"}})).await;
        assert_eq!((refused.status, &refused.body["reason"]), (422, &json!("IMMUTABLE_FIELD")));
    });
}

fn chosen(object: &Value) -> u16 {
    u16::try_from(object["status"]["listen"][0]["port"].as_u64().unwrap()).unwrap()
}

#[test]
fn a_chosen_port_is_free_and_stays_the_same_and_is_none_when_all_are_taken() {
    on_host(async || {
        let lan = dual_lan();
        let peer = lan.peer("peer").unwrap();
        let config = "/run/netloomd.toml";
        std::fs::write(config, "forward_ports = \"61000-61002\"\n").unwrap();
        let mut daemon = Daemon::start_with(&["--config", config]).await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        let _servers = serve("blue", &[80]);
        let _others: Vec<TcpListener> =
            [61000, 61002].map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap()).into();
        let blue = json!({"attachment": "blue0", "port": 80});
        let made = publish(&rest, "web", "tcp", json!({"port": 0}), blue.clone(), &[]).await.ok();
        assert_eq!((chosen(&made), &made["spec"]["listen"]["port"]), (61001, &json!(0)));
        assert_eq!(call(peer, "tcp", at(HOST, 61001)), "blue 192.168.1.3");
        let full = publish(&rest, "more", "tcp", json!({"port": 0}), blue.clone(), &[]).await;
        assert_eq!((full.status, &full.body["reason"]), (409, &json!("POOL_EXHAUSTED")), "{full:#?}");
        let udp = publish(&rest, "udp", "udp", json!({"port": 0}), blue, &[]).await.ok();
        assert!((61000..=61002).contains(&chosen(&udp)));
        daemon.crash_and_restart().await;
        for (name, before) in [("web", &made), ("udp", &udp)] {
            let again = daemon.rest().get(&format!("/v1/port-forwards/{name}")).await.unwrap().ok();
            assert_eq!(chosen(&again), chosen(before));
            assert_eq!(again["status"]["conditions"][0]["reason"], "Programmed");
        }
        let labelled = daemon
            .rest()
            .patch("/v1/port-forwards/web", &json!({"spec": {"sources": ["192.168.1.3"]}}))
            .await
            .ok();
        assert_eq!(chosen(&labelled), 61001);
        assert_eq!(call(peer, "tcp", at(HOST, 61001)), "blue 192.168.1.3");
        let fixed = daemon
            .rest()
            .patch("/v1/port-forwards/web", &json!({"spec": {"listen": {"port": 88}}}))
            .await
            .ok();
        assert_eq!(chosen(&fixed), 88);
        assert!(TcpListener::bind(("0.0.0.0", 61001)).is_ok(), "a choice that is not needed is given back");
    });
}

#[test]
fn a_taken_port_is_refused_by_name_and_one_lost_at_restart_is_told_while_traffic_goes_on() {
    on_host(async || {
        let lan = dual_lan();
        let peer = lan.peer("peer").unwrap();
        let mut daemon = Daemon::start().await;
        red_and_blue(&daemon.rest()).await;
        let _servers = serve("blue", &[80]);
        let blue = json!({"attachment": "blue0", "port": 80});
        let program = TcpListener::bind("0.0.0.0:8080").unwrap();
        let rest = daemon.rest();
        let taken = publish(&rest, "web", "tcp", json!({"port": 8080}), blue.clone(), &[]).await;
        assert_eq!((taken.status, &taken.body["reason"]), (409, &json!("PORT_TAKEN")), "{taken:#?}");
        let whose = format!("(pid {})", std::process::id());
        assert!(taken.body["detail"].as_str().unwrap().contains(&whose), "{taken:#?}");
        assert_eq!(taken.body["metadata"]["port"], "8080");

        // Connections that have ended are remembered for a minute; they hold nothing.
        let caller = TcpStream::connect("127.0.0.1:8080").unwrap();
        let (accepted, _) = program.accept().unwrap();
        accepted.shutdown(std::net::Shutdown::Both).unwrap();
        drop((accepted, caller, program));
        publish(&rest, "web", "tcp", json!({"port": 8080}), blue.clone(), &[]).await.ok();
        assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "the port is reserved all the same");
        assert_eq!(call(peer, "tcp", at(HOST, 8080)), "blue 192.168.1.3");

        daemon.stop();
        let thief = TcpListener::bind("0.0.0.0:8080").unwrap();
        daemon.start_again().await;
        let lost = daemon.rest().get("/v1/port-forwards/web").await.unwrap().ok();
        assert_eq!(lost["status"]["conditions"][0]["reason"], "PortTaken", "{lost:#}");
        assert_eq!(call(peer, "tcp", at(HOST, 8080)), "blue 192.168.1.3", "traffic is not cut");
        let labels = daemon.rest().patch("/v1/port-forwards/web", &json!({"labels": {"a": "b"}})).await;
        assert_eq!(labels.status, 200, "what has nothing to do with the port can change");
        drop(thief);
        daemon.crash_and_restart().await;
        let again = daemon.rest().get("/v1/port-forwards/web").await.unwrap().ok();
        assert_eq!(again["status"]["conditions"][0]["reason"], "Programmed", "{again:#}");
    });
}

/// Applies these forwards as all that `ci` has: name, listen, target.
async fn only(rest: &Rest, forwards: &[(&str, Value, &str)]) -> Reply {
    let object = |(name, listen, target): &(&str, Value, &str)| {
        let spec = json!({"protocol": "tcp", "listen": listen, "target": {"attachment": target, "port": 80}});
        json!({"kind": "PortForward", "name": name, "spec": spec})
    };
    let objects: Vec<Value> = forwards.iter().map(object).collect();
    rest.post("/v1/apply", &json!({"objects": objects, "owner": "ci", "prune": true})).await
}

async fn forwards(rest: &Rest) -> Vec<String> {
    let all = rest.get("/v1/port-forwards").await.unwrap().ok();
    all["items"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_pruned_forward_leaves_its_port_to_another_of_the_same_apply() {
    on_host(async || {
        let lan = dual_lan();
        let peer = lan.peer("peer").unwrap();
        let mut daemon = Daemon::start_with_faults("slow=50").await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        let _servers = [serve("red", &[80, 81, 82, 83]), serve("blue", &[80, 81, 82, 83])];
        let held = |port: u16| {
            std::net::TcpListener::bind(("0.0.0.0", port)).unwrap_err().kind()
                == std::io::ErrorKind::AddrInUse
        };
        let any = || json!({"port": 8080});
        only(&rest, &[("old", any(), "blue0")]).await.ok();
        assert_eq!(call(peer, "tcp", at(HOST, 8080)), "blue 192.168.1.3");
        only(&rest, &[("new", any(), "red0")]).await.ok();
        assert_eq!(call(peer, "tcp", at(HOST, 8080)), "red 192.168.1.3");
        assert!(forwards(&rest).await == ["new"] && held(8080));
        // To one address of the host, a range that covers it, and back to any.
        only(&rest, &[("one", json!({"address": HOST, "port": 8080}), "blue0")]).await.ok();
        assert_eq!(call(peer, "tcp", at(HOST, 8080)), "blue 192.168.1.3");
        assert!(call(peer, "tcp", at(HOST_TOO, 8080)).contains("Refused") && held(8080));
        let range = json!({"port": 8078, "end_port": 8081});
        only(&rest, &[("range", range, "red0")]).await.ok();
        assert_eq!(call(peer, "tcp", at(HOST_TOO, 8080)), "red 192.168.1.3");
        assert!(held(8078) && held(8081));
        only(&rest, &[("again", any(), "red0")]).await.ok();
        assert!(forwards(&rest).await == ["again"] && held(8080));
        drop(std::net::TcpListener::bind("0.0.0.0:8078").expect("what nobody publishes any more is free"));

        // One that another owner holds is not taken.
        let theirs =
            publish(&rest, "theirs", "tcp", json!({"port": 9090}), json!({"attachment": "blue0"}), &[]);
        theirs.await.ok();
        let refused = only(&rest, &[("mine", json!({"port": 9090}), "red0")]).await;
        assert_eq!((refused.status, &refused.body["reason"]), (409, &json!("PORT_TAKEN")), "{refused:#?}");
        assert!(forwards(&rest).await == ["again", "theirs"] && held(8080));

        // The daemon dies when this is written, and the kernel has the old one.
        let (again, socket) = (any(), daemon.socket.clone());
        let apply =
            tokio::spawn(async move { only(&Rest::new(&socket), &[("after", again, "blue0")]).await });
        while rest.get("/v1/port-forwards/after").await.unwrap().status != 200 {
            assert!(!apply.is_finished());
            // Nothing tells of a write before its reply.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        daemon.crash_and_restart().await;
        apply.abort();
        assert_eq!(call(peer, "tcp", at(HOST, 8080)), "blue 192.168.1.3");
        assert!(forwards(&daemon.rest()).await == ["after", "theirs"] && held(8080));
    });
}

#[test]
fn a_client_that_sent_before_the_port_was_published_reaches_it_without_a_pause() {
    on_host(async || {
        let lan = dual_lan();
        let peer = lan.peer("peer").unwrap();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        let _servers = serve("blue", &[53]);
        for host in [HOST, HOST6] {
            let any = if host == HOST6 { "[::]:0" } else { "0.0.0.0:0" };
            let client = thread::run(peer, "client", || UdpSocket::bind(any).unwrap()).unwrap();
            client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut buffer = [0; 256];
            let mut asks = || {
                // A refusal is what the host itself says while nothing is published.
                let _ = client.send_to(b"?", at(host, 5353));
                client.recv(&mut buffer).is_ok()
            };
            assert!(!asks());
            publish(
                &rest,
                "dns",
                "udp",
                json!({"port": 5353}),
                json!({"attachment": "blue0", "port": 53}),
                &[],
            )
            .await
            .ok();
            assert!(soon(&mut asks), "{host}: the flow from before still ends at the host");
            rest.delete("/v1/port-forwards/dns").await.ok();
            assert!(soon(|| !asks()), "{host}: the flow goes on without the forward");
        }
    });
}

/// The checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

/// An INIT from the peer to a port of the host, as a frame.
fn sctp_init(lan: &Lan, port: u16) -> Vec<u8> {
    let mut sctp = [&40_000_u16.to_be_bytes()[..], &port.to_be_bytes(), &[0; 8]].concat();
    // INIT, 20 bytes: tag, window, streams out and in, first number.
    sctp.extend([1, 0, 0, 20, 0x4e, 0x65, 0x74, 0x6c, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&sctp).to_le_bytes();
    sctp[8..12].copy_from_slice(&sum);
    let length = u16::try_from(20 + sctp.len()).unwrap().to_be_bytes();
    let mut ip =
        [&[0x45, 0][..], &length, &[0, 1, 0, 0, 64, 132, 0, 0], &[192, 168, 1, 3], &[192, 168, 1, 2]]
            .concat();
    let sum = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&lan.host_mac()[..], &lan.peer("peer").unwrap().mac(), &[8, 0], &ip, &sctp].concat()
}

#[test]
fn sctp_is_forwarded_where_the_kernel_tracks_it_and_refused_where_it_does_not() {
    on_host(async || {
        let lan = dual_lan();
        let peer = lan.peer("peer").unwrap();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        red_and_blue(&rest).await;
        let target = json!({"attachment": "blue0", "port": 99});
        let made =
            publish(&rest, "sigtran", "sctp", json!({"port": 9999}), target, &["192.168.1.0/24"]).await;
        if !std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established").exists() {
            assert_eq!((made.status, &made.body["reason"]), (422, &json!("UNSUPPORTED")), "{made:#?}");
            return;
        }
        let made = made.ok();
        assert_eq!(made["status"]["conditions"][0]["reason"], "Programmed", "{made:#}");
        // Blue and the LAN learn each other first.
        assert!(probe::ping(peer, HOST.parse().unwrap(), PATIENCE).unwrap().reached());
        let blue = Namespaces::default().open("blue").unwrap();
        assert!(probe::ping(own().unwrap(), "192.168.15.2".parse().unwrap(), PATIENCE).unwrap().reached());
        let from = Port { namespace: peer.as_fd(), interface: "eth0" };
        let victim = Port { namespace: blue.as_fd(), interface: "eth0" };
        // Its destination, then the ports: only the host can have written these.
        let mark = [&[192, 168, 15, 2][..], &40_000_u16.to_be_bytes(), &99_u16.to_be_bytes()].concat();
        assert!(
            inject(from, &sctp_init(&lan, 9999), victim, &mark, PATIENCE).unwrap(),
            "the INIT arrives at blue:99"
        );
        rest.delete("/v1/port-forwards/sigtran").await.ok();
        let ended = soon(|| !inject(from, &sctp_init(&lan, 9999), victim, &mark, SILENCE).unwrap());
        assert!(ended, "and no more");
    });
}
