//! For each thing that can be wrong, a test breaks exactly that, and the verdict names it first.

mod elements;
mod ends;
mod links;
mod listed;
mod policies;
mod six;
mod ways;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use netloom_api::DiagnoseRequest;
use netloom_server::kernel::{
    echo::serve_tcp,
    lan::Lan,
    netns::{Namespaces, own},
    stranger::{self, Change, TypedRoute},
    sysctl::{self, Key},
    thread,
};
use serde_json::{Value, json};

use crate::host::{Daemon, lan, on_host};

/// A host with objects on it, which puts nothing back by itself.
struct Scene {
    lan: Lan,
    daemon: Daemon,
}

impl Scene {
    /// The lesson's host, with one more network, which keeps its members apart.
    async fn set() -> Self {
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
        Self::of(lan(), objects).await
    }

    async fn of(lan: Lan, objects: Value) -> Self {
        let daemon = Daemon::start_with(&["--drift", "report"]).await;
        daemon.rest().post("/v1/apply", &json!({"objects": objects})).await.ok();
        Self { lan, daemon }
    }

    async fn ask(&self, question: &Value) -> Value {
        self.daemon.rest().post("/v1/diagnose", question).await.ok()
    }

    /// The verdict is good, and packets say the same.
    async fn is_reachable(&self, mut question: Value) {
        let begun = Instant::now();
        let found = self.ask(&question).await;
        let took = begun.elapsed();
        println!("{question}: {:.1} ms", took.as_secs_f64() * 1000.0);
        assert!(took < Duration::from_secs(5), "{took:?}");
        let answer = (&found["verdict"], &found["cause"]);
        assert_eq!(answer, (&json!("reachable"), &Value::Null), "{question}\n{found:#}");
        question["probe"] = json!(true);
        let probed = self.ask(&question).await;
        let last = probed["checks"].as_array().unwrap().last().unwrap().clone();
        // From outside nothing can be sent.
        let expected = if question["from"]["address"].is_string() { "skip" } else { "pass" };
        assert_eq!(
            (&last["id"], &last["status"]),
            (&json!("probe"), &json!(expected)),
            "{question}\n{last:#}"
        );
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
            scene.is_reachable(question).await;
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
