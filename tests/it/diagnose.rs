//! For each thing that can be wrong, a test breaks exactly that, and the verdict names it first.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use netloom_api::{Attachment, CheckId, ConditionReason, ConditionStatus, DiagnoseRequest, Finding, Uid};
use netloom_server::{
    config::EventRetention,
    diagnose::{Facts, conclude, diagnose, seen::Hook, stacks_of},
    hostnet::{
        Action, Outcome, Step,
        rules::{Element, Transport},
    },
    kernel::{
        Kernel,
        echo::serve_tcp,
        lan::Lan,
        netns::{Namespaces, own},
        stranger::{self, Change, Drops, TypedRoute},
        sysctl::{self, Key},
        thread,
    },
    reconcile::{Host as _, board::Entry},
    store::{Store, StoreOptions},
    want::Surroundings,
};
use serde_json::{Value, json};

use crate::host::{Daemon, HOME, lan, on_host};

/// The lesson's host, with two more networks: one that is open to others, and one that keeps its members apart.
struct Scene {
    lan: Lan,
    daemon: Daemon,
}

impl Scene {
    async fn set() -> Self {
        let lan = lan();
        let daemon = Daemon::start_with(&["--drift", "report"]).await;
        let rest = daemon.rest();
        let objects = json!([
            {"kind": "Namespace", "name": "red"},
            {"kind": "Namespace", "name": "blue"},
            {"kind": "Namespace", "name": "green"},
            {"kind": "Namespace", "name": "grey"},
            {"kind": "Namespace", "name": "lone"},
            {"kind": "Network", "name": "v-net-0", "spec": {"kind": {"bridge": {"device": "v-net-0"}}, "egress": {"nat": {}},
                "subnets": [{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}]}},
            {"kind": "Network", "name": "v-net-1", "spec": {"kind": {"bridge": {"device": "v-net-1"}},
                "subnets": [{"cidr": "10.2.0.0/24"}], "isolation": {"members": true}}},
            {"kind": "Attachment", "name": "red0", "spec": {"namespace": "red", "network": "v-net-0", "addresses": ["192.168.15.1"]}},
            {"kind": "Attachment", "name": "blue0", "spec": {"namespace": "blue", "network": "v-net-0", "addresses": ["192.168.15.2"]}},
            {"kind": "Attachment", "name": "green0", "spec": {"namespace": "green", "network": "v-net-1", "addresses": ["10.2.0.2"]}},
            {"kind": "Attachment", "name": "grey0", "spec": {"namespace": "grey", "network": "v-net-1", "addresses": ["10.2.0.3"]}},
            {"kind": "PortForward", "name": "web", "spec": {"protocol": "tcp", "listen": {"port": 80}, "target": {"attachment": "blue0"}}},
            {"kind": "PortForward", "name": "void", "spec": {"protocol": "tcp", "listen": {"port": 81}, "target": {"attachment": "nobody"}}},
            {"kind": "PortForward", "name": "few", "spec": {"protocol": "tcp", "listen": {"port": 82}, "target": {"attachment": "blue0"},
                "sources": ["10.0.0.0/8"]}},
        ]);
        rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
        Self { lan, daemon }
    }

    async fn ask(&self, question: &Value) -> Value {
        self.daemon.rest().post("/v1/diagnose", question).await.ok()
    }

    /// Breaks something, asks, and makes it right again: by hand what strangers did, by a restart what is ours.
    async fn fault(&mut self, cause: &str, question: Value, break_it: impl FnOnce(), undo: impl FnOnce()) {
        let before = self.ask(&question).await;
        assert_ne!(before["cause"], cause, "{cause} fails before anything was broken: {before:#}");
        break_it();
        let begun = Instant::now();
        let found = self.ask(&question).await;
        println!("{cause}: {:.1} ms", begun.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(found["cause"], cause, "{found:#}");
        assert_ne!(found["verdict"], "reachable", "{found:#}");
        undo();
        self.daemon.crash_and_restart().await;
    }

    async fn fault_of_ours(&mut self, cause: &str, question: Value, break_it: impl FnOnce()) {
        self.fault(cause, question, break_it, || {}).await;
    }

    async fn host_device(&self, attachment: &str) -> String {
        let object = self.daemon.rest().get(&format!("/v1/attachments/{attachment}")).await.unwrap().ok();
        object["status"]["host_device"].as_str().unwrap().to_owned()
    }
}

fn question(from: &str, to: &str) -> Value {
    let end = |word: &str| match word {
        "host" => json!({"host": {}}),
        word if word.parse::<IpAddr>().is_ok() => json!({"address": word}),
        word => json!({"namespace": word}),
    };
    json!({"from": end(from), "to": end(to)})
}

fn web_from(from: Value) -> Value {
    json!({"from": from, "to": {"port_forward": "web"}})
}

fn with_port(mut question: Value, protocol: &str, port: u16) -> Value {
    question["protocol"] = json!(protocol);
    question["port"] = json!(port);
    question
}

/// Does something inside of a namespace.
fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let fd = Namespaces::default().open(namespace).unwrap();
    thread::run(&fd, "stranger", work).unwrap()
}

fn change(link: &str, change: Change) {
    stranger::change(link, change).unwrap();
}

fn write(path: &str, value: &str) {
    sysctl::write(&Key::named(path).unwrap(), value).unwrap();
}

fn typed(destination: &str, via: Option<&str>, link: Option<&str>) -> TypedRoute {
    TypedRoute {
        destination: destination.parse().unwrap(),
        via: via.map(|via| via.parse().unwrap()),
        link: link.map(str::to_owned),
    }
}

#[test]
fn where_nothing_is_broken_packets_arrive_and_a_probe_says_the_same() {
    on_host(async || {
        let scene = Scene::set().await;
        let _web =
            serve_tcp(Namespaces::default().open("blue").unwrap(), "0.0.0.0:80".parse().unwrap(), "blue")
                .unwrap();
        let peer = scene.lan.peer("peer").unwrap();
        let _far = serve_tcp(peer.as_fd(), "0.0.0.0:900".parse().unwrap(), "peer").unwrap();
        let _here = serve_tcp(own().unwrap(), "0.0.0.0:700".parse::<SocketAddr>().unwrap(), "host").unwrap();
        let questions = [
            question("red", "blue"),
            question("red", "192.168.15.2"),
            question("red", "host"),
            question("red", "192.168.1.2"),
            question("red", "192.168.1.3"),
            question("host", "red"),
            question("host", "192.168.1.3"),
            question("host", "host"),
            json!({"from": {"attachment": "blue0"}, "to": {"attachment": "red0"}}),
            with_port(question("red", "blue"), "tcp", 80),
            with_port(question("red", "192.168.1.3"), "tcp", 900),
            with_port(question("red", "host"), "tcp", 700),
            with_port(question("red", "192.168.1.2"), "tcp", 80),
            with_port(question("host", "127.0.0.1"), "tcp", 80),
            web_from(json!({"host": {}})),
            web_from(json!({"namespace": "red"})),
            web_from(json!({"namespace": "blue"})),
            web_from(json!({"namespace": "green"})),
            web_from(json!({"address": "192.168.1.3"})),
        ];
        for question in questions {
            let begun = Instant::now();
            let found = scene.ask(&question).await;
            let took = begun.elapsed();
            println!("{question}: {:.1} ms", took.as_secs_f64() * 1000.0);
            assert!(took < Duration::from_secs(5), "{took:?}");
            assert_eq!(
                (&found["verdict"], &found["cause"]),
                (&json!("reachable"), &Value::Null),
                "{question}\n{found:#}"
            );
            let mut probing = question.clone();
            probing["probe"] = json!(true);
            let probed = scene.ask(&probing).await;
            let last = probed["checks"].as_array().unwrap().last().unwrap().clone();
            let expected = if question["from"]["address"] == "192.168.1.3" { "skip" } else { "pass" };
            assert_eq!(
                (&last["id"], &last["status"]),
                (&json!("probe"), &json!(expected)),
                "{question}\n{last:#}"
            );
        }
    });
}

#[test]
fn a_broken_end_is_named() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let (red_port, blue_port) = (scene.host_device("red0").await, scene.host_device("blue0").await);
        let asked = || question("red", "blue");
        let gone = |name: &str| Namespaces::default().delete(name).unwrap();
        scene.fault_of_ours("from.namespace", asked(), || gone("red")).await;
        scene.fault_of_ours("to.namespace", asked(), || gone("blue")).await;
        let remove = |name: &str, link: &str| {
            inside(name, || stranger::remove_link(link).unwrap());
        };
        scene.fault_of_ours("from.interface", asked(), || remove("red", "eth0")).await;
        scene.fault_of_ours("to.interface", asked(), || remove("blue", "eth0")).await;
        let down = |name: &str| inside(name, || change("eth0", Change::Up(false)));
        scene.fault_of_ours("from.interface_up", asked(), || down("red")).await;
        scene.fault_of_ours("to.interface_up", asked(), || down("blue")).await;
        scene.fault_of_ours("from.port_up", asked(), || change(&red_port, Change::Up(false))).await;
        scene.fault_of_ours("to.port_up", asked(), || change(&blue_port, Change::Up(false))).await;
        scene.fault_of_ours("from.port", asked(), || change(&red_port, Change::NoMaster)).await;
        scene.fault_of_ours("to.port", asked(), || change(&blue_port, Change::MasterOf("v-net-1"))).await;
        let strip = |name: &str, address: &str| {
            let address = address.parse().unwrap();
            inside(name, || stranger::delete_address("eth0", address).unwrap());
        };
        scene.fault_of_ours("from.address", asked(), || strip("red", "192.168.15.1/24")).await;
        scene.fault_of_ours("to.address", asked(), || strip("blue", "192.168.15.2/24")).await;
        scene.fault_of_ours("from.bridge", asked(), || change("v-net-0", Change::Up(false))).await;
        scene
            .fault_of_ours("to.bridge", question("host", "blue"), || change("v-net-0", Change::Up(false)))
            .await;
        let bare = || stranger::delete_address("v-net-0", "192.168.15.5/24".parse().unwrap()).unwrap();
        scene.fault_of_ours("from.bridge_address", question("red", "192.168.1.3"), bare).await;
        scene.fault_of_ours("to.bridge_address", question("host", "blue"), bare).await;
        let mac = [2, 0, 0, 0, 0, 9];
        scene
            .fault_of_ours("from.guard", asked(), || inside("red", || change("eth0", Change::Mac(mac))))
            .await;
        scene
            .fault_of_ours("to.guard", asked(), || inside("blue", || change("eth0", Change::Mac(mac))))
            .await;
        // Neither an object nor anything in the kernel.
        for (from, to, cause) in [("pink", "blue", "from.namespace"), ("red", "pink", "to.namespace")] {
            assert_eq!(scene.ask(&question(from, to)).await["cause"], cause);
        }
        assert_eq!(scene.ask(&question("lone", "blue")).await["cause"], "from.interface");
        let nobody = json!({"from": {"namespace": "red"}, "to": {"attachment": "nobody"}});
        assert_eq!(scene.ask(&nobody).await["cause"], "to.interface");
        let void = json!({"from": {"namespace": "red"}, "to": {"port_forward": "void"}});
        assert_eq!(scene.ask(&void).await["cause"], "to.interface");
        let unknown = json!({"from": {"namespace": "red"}, "to": {"port_forward": "nothing"}});
        assert_eq!(scene.ask(&unknown).await["cause"], "publish");
    });
}

#[test]
fn a_broken_route_is_named() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let out = || question("red", "192.168.1.3");
        let no_default = typed("0.0.0.0/0", Some("192.168.15.5"), Some("eth0"));
        let bare = || inside("red", || stranger::delete_route(&no_default).unwrap());
        scene.fault_of_ours("from.route", out(), bare).await;
        let black = typed("192.168.1.0/24", None, None);
        let add = |route: &TypedRoute| inside("red", || stranger::add_route(route).unwrap());
        let delete = |route: &TypedRoute| inside("red", || stranger::delete_route(route).unwrap());
        scene.fault("from.route", out(), || add(&black), || delete(&black)).await;
        // A gateway that nobody has.
        let lost = typed("192.168.1.0/24", Some("192.168.15.99"), Some("eth0"));
        scene.fault("from.gateway", out(), || add(&lost), || delete(&lost)).await;
        // A longer prefix takes what is for the neighbour elsewhere.
        let elsewhere = typed("192.168.15.2/32", None, Some("lo"));
        scene.fault("from.overlap", question("red", "blue"), || add(&elsewhere), || delete(&elsewhere)).await;
        let host_elsewhere = typed("192.168.15.2/32", None, Some("eth0"));
        let (add_host, delete_host) = (
            || stranger::add_route(&host_elsewhere).unwrap(),
            || stranger::delete_route(&host_elsewhere).unwrap(),
        );
        scene.fault("host.overlap", web_from(json!({"address": "192.168.1.3"})), add_host, delete_host).await;
        let back = typed("192.168.15.1/32", None, Some("eth0"));
        let (add_back, delete_back) =
            (|| stranger::add_route(&back).unwrap(), || stranger::delete_route(&back).unwrap());
        scene.fault("host.overlap", out(), add_back, delete_back).await;
        scene.fault("to.return", question("red", "host"), add_back, delete_back).await;
        // Without a route back the answers of a published port do not leave.
        let no_default = typed("0.0.0.0/0", Some("192.168.15.5"), Some("eth0"));
        let blue_bare = || inside("blue", || stranger::delete_route(&no_default).unwrap());
        let _web =
            serve_tcp(Namespaces::default().open("blue").unwrap(), "0.0.0.0:80".parse().unwrap(), "blue")
                .unwrap();
        scene.fault_of_ours("to.return", web_from(json!({"address": "192.168.1.3"})), blue_bare).await;
        assert_eq!(scene.ask(&question("red", "203.0.113.9")).await["cause"], "host.route");
    });
}

#[test]
fn forwarding_filters_and_neighbours_are_named() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let out = || question("red", "192.168.1.3");
        let off = || write("net.ipv4.conf.eth0.forwarding", "0");
        scene.fault_of_ours("forwarding", out(), off).await;
        scene.fault_of_ours("forwarding", out(), || write("net.ipv4.conf.v-net-0.forwarding", "0")).await;
        let add = |hook, drops| move || stranger::add_firewall("ufw", hook, drops).unwrap();
        let remove = || stranger::remove_firewall("ufw").unwrap();
        scene.fault("foreign.rules", out(), add(Hook::Forward, Drops::All), remove).await;
        scene.fault("foreign.rules", question("red", "host"), add(Hook::Input, Drops::All), remove).await;
        scene.fault("foreign.rules", question("host", "blue"), add(Hook::Output, Drops::All), remove).await;
        let to_peer = Drops::To("192.168.1.3".parse().unwrap());
        scene.fault("foreign.rules", out(), add(Hook::Postrouting, to_peer), remove).await;
        add(Hook::Forward, to_peer)();
        assert_eq!(
            scene.ask(&question("red", "blue")).await["verdict"],
            "reachable",
            "it drops another's packets"
        );
        remove();
        let own = || inside("blue", || stranger::add_firewall("own", Hook::Input, Drops::All).unwrap());
        let own_gone = || inside("blue", || stranger::remove_firewall("own").unwrap());
        scene.fault("foreign.rules", question("red", "blue"), own, own_gone).await;
        // Nobody on the LAN has this address; the kernel finds out when it is asked.
        let nobody = || question("red", "192.168.1.77");
        let ask_it = || {
            let to = "192.168.1.77".parse().unwrap();
            let own = netloom_server::kernel::netns::own().unwrap();
            netloom_server::kernel::probe::ping(own, to, Duration::from_secs(5)).unwrap();
        };
        scene.fault("neighbour", nobody(), ask_it, || {}).await;
        let pinned = || {
            inside("red", || {
                stranger::pin_neighbour("eth0", "192.168.15.2".parse().unwrap(), [2, 9, 9, 9, 9, 9]).unwrap()
            });
        };
        let unpinned = || {
            inside("red", || {
                change("eth0", Change::Up(false));
            })
        };
        scene.fault("neighbour", question("red", "blue"), pinned, unpinned).await;
        let narrow = || inside("blue", || change("eth0", Change::Mtu(1400)));
        scene.fault_of_ours("mtu", question("red", "blue"), narrow).await;
        scene
            .fault("mtu", out(), || change("eth0", Change::Mtu(1400)), || change("eth0", Change::Mtu(1500)))
            .await;
        let unplug = || change("eth0", Change::Up(false));
        let plug = || change("eth0", Change::Up(true));
        scene.fault("host.route", out(), unplug, plug).await;
    });
}

#[test]
fn what_is_meant_to_be_apart_is_named_as_such() {
    on_host(async || {
        let scene = Scene::set().await;
        let dead = scene.ask(&web_from(json!({"address": "192.168.1.3"}))).await;
        assert_eq!(dead["cause"], "to.listening", "{dead:#}");
        let expected = [
            (json!({"from": {"address": "192.168.1.3"}, "to": {"port_forward": "few"}}), "sources"),
            (question("green", "grey"), "isolation.members"),
            (question("red", "green"), "isolation.networks"),
            (question("green", "red"), "isolation.networks"),
            (question("green", "host"), "isolation.host"),
            (question("green", "192.168.1.3"), "egress"),
            (question("192.168.1.3", "red"), "unpublished"),
            (with_port(question("red", "blue"), "udp", 53), "to.listening"),
            (question("red", "192.168.15.88"), "neighbour"),
            (question("red", "fd00::1"), "from.address"),
        ];
        for (question, cause) in expected {
            let found = scene.ask(&question).await;
            assert_eq!(
                (&found["cause"], &found["verdict"]),
                (&json!(cause), &json!("unreachable")),
                "{question}\n{found:#}"
            );
            let probe = question["from"]["address"].is_null();
            if probe && cause != "to.listening" {
                let mut question = question.clone();
                question["probe"] = json!(true);
                let probed = scene.ask(&question).await;
                let last = probed["checks"].as_array().unwrap().last().unwrap();
                assert_ne!(last["status"], "pass", "{question}\n{probed:#}");
            }
        }
    });
}

#[test]
fn both_doors_answer_alike_and_a_bad_question_is_refused() {
    on_host(async || {
        let scene = Scene::set().await;
        let client = scene.daemon.client().await;
        for question in
            [question("red", "blue"), question("green", "red"), web_from(json!({"namespace": "red"}))]
        {
            let over_rest = scene.ask(&question).await;
            let request: DiagnoseRequest = serde_json::from_value(question).unwrap();
            assert_eq!(json!(client.diagnose(request).await.unwrap()), over_rest);
        }
        let rest = scene.daemon.rest();
        for (bad, field) in [
            (json!({"from": {"host": {}}, "to": {"host": {}}, "port": 0}), "port"),
            (json!({"from": {"port_forward": "web"}, "to": {"host": {}}}), "from"),
            (json!({"from": {"host": {}}, "to": {"name": "x"}}), "to"),
        ] {
            let reply = rest.post("/v1/diagnose", &bad).await;
            assert_eq!(reply.status, 400, "{bad} {reply:?}");
            assert!(reply.body["violations"][0]["field"].as_str().unwrap().starts_with(field), "{reply:?}");
        }
        let reader = crate::rest::Rest::new(&scene.daemon.socket.with_file_name("read.sock"));
        let mut asked = question("red", "blue");
        assert_eq!(reader.post("/v1/diagnose", &asked).await.ok()["verdict"], "reachable");
        asked["probe"] = json!(true);
        let refused = reader.post("/v1/diagnose", &asked).await;
        assert_eq!((refused.status, &refused.body["reason"]), (403, &json!("PERMISSION_DENIED")));
    });
}

/// What the firewall holds is the daemon's alone while it lives; so it is stopped, and its own parts are asked.
#[test]
fn what_is_missing_in_the_firewall_is_named() {
    on_host(async || {
        let mut scene = Scene::set().await;
        let (red_port, blue_port) = (scene.host_device("red0").await, scene.host_device("blue0").await);
        scene.daemon.stop();
        let options =
            StoreOptions { state_dir: format!("{HOME}/state").into(), events: EventRetention::default() };
        let store = Store::open(options).await.unwrap();
        let world = store.snapshot().world;
        let kernel = Kernel::open().unwrap();
        let around = Surroundings {
            features: kernel.features(),
            manages_forwarding: true,
            api_ports: Vec::new(),
            facts: kernel.facts().unwrap(),
        };
        let _web =
            serve_tcp(Namespaces::default().open("blue").unwrap(), "0.0.0.0:80".parse().unwrap(), "blue")
                .unwrap();
        let ready = |_: &Uid| {
            Some(Entry::new(ConditionStatus::True, ConditionReason::Programmed, 1, String::new()).ready)
        };
        let cause = |question: &Value| {
            let request: DiagnoseRequest = serde_json::from_value(question.clone()).unwrap();
            let seen = kernel.look(&stacks_of(&world, &request)).unwrap();
            conclude(
                diagnose(&Facts { world: &world, seen: &seen, around: &around, ready: &ready }, &request)
                    .checks,
            )
        };
        let out = question("red", "192.168.1.3");
        let members = question("red", "blue");
        let web = web_from(json!({"address": "192.168.1.3"}));
        let mac = |attachment: &str| {
            world.get::<Attachment>(&attachment.parse().unwrap()).unwrap().alloc.mac.bytes()
        };
        let guard = |port: &str, attachment: &str, address: &str| {
            Element::guard4(port, mac(attachment), address.parse().unwrap())
        };
        let to = "192.168.15.2".parse().unwrap();
        let cases = [
            (Element::masq4("192.168.15.0/24".parse().unwrap()), &out, CheckId::Nat),
            (Element::egress("v-net-0"), &out, CheckId::Egress),
            (Element::fwd4any(Transport::Tcp, 80, to, 80), &web, CheckId::Publish),
            (guard(&red_port, "red0", "192.168.15.1"), &members, CheckId::FromGuard),
            (guard(&blue_port, "blue0", "192.168.15.2"), &members, CheckId::ToGuard),
            (Element::hostok("v-net-0"), &question("red", "host"), CheckId::IsolationHost),
        ];
        for (element, question, expected) in cases {
            assert_eq!(cause(question).cause, None, "{question}");
            let change = |action: Action| {
                assert!(matches!(kernel.apply(&[Step::of_host(action)])[..], [Outcome::Done(_)]))
            };
            change(Action::RemoveRule(element.clone()));
            let found = cause(question);
            assert_eq!(found.cause, Some(expected), "{element}: {found:#?}");
            assert_eq!(found.verdict, Finding::Unreachable, "{element}: {found:#?}");
            change(Action::AddRule(element));
        }
        stranger::remove_firewall("netloom").unwrap();
        let found = cause(&members);
        assert_eq!((found.cause, found.verdict), (Some(CheckId::Firewall), Finding::Unknown), "{found:#?}");
        store.close().await;
    });
}
