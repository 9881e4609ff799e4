//! Nothing leaks and nothing is lost when the daemon dies: at every point of every effect, in turn.
//!
//! A story is a list of calls. It is told once undisturbed, which counts the points that its effects pass. Then it is told
//! again for each of them, and the daemon dies there. A new daemon must find its way: what was answered is there, the
//! calls that were not answered can be repeated, and in the end the whole kernel is as after the undisturbed story.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use netloom_server::{fault::Effect, kernel::Kernel, reconcile::Host as _};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, HOME, on_host},
    rest::{Reply, Rest},
};

/// One request: method, path, body.
type Call = (&'static str, &'static str, Value);

/// What is there before, and what is asked while the daemon may die.
struct Story {
    before: Vec<Value>,
    calls: Vec<Call>,
}

fn objects() -> Vec<Value> {
    vec![
        json!({"kind": "Namespace", "name": "red"}),
        json!({"kind": "Namespace", "name": "blue"}),
        json!({"kind": "Network", "name": "v-net-0", "spec": {"kind": {"bridge": {"device": "v-net-0"}},
            "egress": {"nat": {}}, "subnets": [{"cidr": "192.168.15.0/24"}, {"cidr": "fd15::/64"}]}}),
        json!({"kind": "Attachment", "name": "red0", "spec": {"namespace": "red", "network": "v-net-0"}}),
        json!({"kind": "Attachment", "name": "blue0", "spec": {"namespace": "blue", "network": "v-net-0"}}),
        json!({"kind": "PortForward", "name": "web", "spec":
            {"protocol": "tcp", "listen": {"port": 8080}, "target": {"attachment": "blue0", "port": 80}}}),
    ]
}

/// The path and body with which an object is made by itself.
fn made(object: &Value) -> Call {
    let path = match object["kind"].as_str().unwrap() {
        "Namespace" => "/v1/namespaces",
        "Network" => "/v1/networks",
        "Attachment" => "/v1/attachments",
        "PortForward" => "/v1/port-forwards",
        other => panic!("{other}"),
    };
    ("POST", path, object.clone())
}

/// Everything but the objects of these names.
fn without(names: &[&str]) -> Vec<Value> {
    let mut rest = objects();
    rest.retain(|object| !names.contains(&object["name"].as_str().unwrap()));
    rest
}

fn only(name: &str) -> Call {
    made(objects().iter().find(|object| object["name"] == name).unwrap())
}

#[test]
fn a_crash_while_a_namespace_comes_or_goes_leaves_nothing_half_done() {
    sweep(&Story { before: vec![], calls: vec![only("red"), ("DELETE", "/v1/namespaces/red", Value::Null)] });
}

#[test]
fn a_crash_while_a_network_comes_or_goes_leaves_nothing_half_done() {
    let calls = vec![only("v-net-0"), ("DELETE", "/v1/networks/v-net-0", Value::Null)];
    sweep(&Story { before: without(&["v-net-0", "red0", "blue0", "web"]), calls });
}

#[test]
fn a_crash_while_an_attachment_comes_leaves_nothing_half_done() {
    sweep(&Story { before: without(&["red0"]), calls: vec![only("red0")] });
}

#[test]
fn a_crash_while_an_attachment_goes_leaves_nothing_half_done() {
    sweep(&Story { before: objects(), calls: vec![("DELETE", "/v1/attachments/red0", Value::Null)] });
}

#[test]
fn a_crash_while_a_port_is_published_or_withdrawn_leaves_nothing_half_done() {
    let calls = vec![only("web"), ("DELETE", "/v1/port-forwards/web", Value::Null)];
    sweep(&Story { before: without(&["web"]), calls });
}

#[test]
fn a_crash_while_a_cable_comes_changes_or_goes_leaves_nothing_half_done() {
    let end = |namespace: &str, addresses: &[&str]| json!({"namespace": namespace, "interface": "cable", "addresses": addresses});
    let ends = [end("red", &["10.1.1.1/24", "fd00:1::1/64"]), end("blue", &["10.1.1.2/24"])];
    let changed = [end("red", &["10.1.1.9/24"]), end("blue", &["10.1.1.2/24", "fd00:1::2/64"])];
    let calls = vec![
        ("POST", "/v1/links", json!({"name": "cable", "spec": {"ends": ends}})),
        ("PATCH", "/v1/links/cable", json!({"spec": {"ends": changed, "mtu": 1400}})),
        ("DELETE", "/v1/links/cable", Value::Null),
    ];
    sweep(&Story { before: without(&["v-net-0", "red0", "blue0", "web"]), calls });
}

#[test]
fn a_crash_in_a_live_change_leaves_nothing_half_done() {
    let calls = vec![
        ("PATCH", "/v1/networks/v-net-0", json!({"spec": {"mtu": 1400, "isolation": {"members": false}}})),
        ("PATCH", "/v1/attachments/red0", json!({"spec": {"addresses": ["192.168.15.9"]}})),
    ];
    sweep(&Story { before: objects(), calls });
}

#[test]
fn a_crash_in_a_large_apply_leaves_nothing_half_done() {
    sweep(&Story { before: vec![], calls: vec![("POST", "/v1/apply", json!({"objects": objects()}))] });
}

/// Tells the story, and then again for each of its points.
fn sweep(story: &Story) {
    on_host(async || {
        let mut scene = Scene { kernel: Kernel::open().unwrap(), effects: BTreeSet::new() };
        let bare = scene.snapshot(&BTreeMap::new());
        let (points, expected) = scene.undisturbed(story).await;
        let mut hit = 0;
        for point in points {
            hit += usize::from(scene.disturbed(story, point, &expected).await);
            let left = scene.snapshot(&BTreeMap::new());
            same(&left, &bare, &format!("after a crash at point {point} and the last delete"));
        }
        println!("{hit} points hit: {:?}", scene.effects.iter().map(|one| one.as_str()).collect::<Vec<_>>());
        assert!(hit > 0);
    });
}

struct Scene {
    kernel: Kernel,
    /// Which effects the points belong to.
    effects: BTreeSet<Effect>,
}

impl Scene {
    /// The points that the story's own calls pass, and the kernel after them.
    async fn undisturbed(&mut self, story: &Story) -> (Vec<u64>, String) {
        let record = PathBuf::from(HOME).join("points");
        let daemon = Daemon::start_with_faults(&format!("record={}", record.display())).await;
        prepare(&daemon.rest(), story).await.unwrap();
        let passed = std::fs::read_to_string(&record).unwrap().lines().count();
        for (index, call) in story.calls.iter().enumerate() {
            send(&daemon.rest(), call, index).await.unwrap().ok();
        }
        let names = devices(&daemon.rest()).await;
        let expected = self.snapshot(&names);
        let all = std::fs::read_to_string(&record).unwrap();
        let points = all.lines().skip(passed).map(|line| {
            let mut words = line.split(' ');
            let number = words.next().unwrap().parse().unwrap();
            let effect = words.next().unwrap();
            self.effects.extend(Effect::ALL.into_iter().filter(|one| one.as_str() == effect));
            number
        });
        let points: Vec<u64> = points.collect();
        wipe(&daemon.rest()).await;
        forget(daemon);
        (points, expected)
    }

    /// Whether the daemon died at the point, which it does unless the story took fewer this time.
    async fn disturbed(&mut self, story: &Story, point: u64, expected: &str) -> bool {
        let mut daemon = Daemon::start_with_faults(&format!("die={point}")).await;
        if prepare(&daemon.rest(), story).await.is_err() {
            // The beginning took more points this time.
            daemon.start_over().await;
            prepare(&daemon.rest(), story).await.unwrap();
        }
        let mut answered = Vec::new();
        for (index, call) in story.calls.iter().enumerate() {
            match send(&daemon.rest(), call, index).await {
                Ok(reply) => answered.push(reply.ok()),
                Err(_) => break,
            }
        }
        let died = daemon.start_over().await;
        let rest = daemon.rest();
        for (index, call) in story.calls.iter().enumerate().skip(answered.len()) {
            let found = there(&rest, call).await;
            let again = send(&rest, call, index).await.unwrap().ok();
            if let Some(found) = found.filter(|_| call.0 == "POST" && call.1 != "/v1/apply") {
                assert_eq!(again["uid"], found["uid"], "the retry gets the same object, point {point}");
            }
        }
        let names = devices(&rest).await;
        same(&self.snapshot(&names), expected, &format!("after a crash at point {point}"));
        wipe(&rest).await;
        forget(daemon);
        died
    }

    /// The whole kernel as text, with names that are the same in every run.
    fn snapshot(&self, names: &BTreeMap<String, String>) -> String {
        let text = self.kernel.observe().unwrap().to_string();
        let named = names.iter().fold(text, |text, (device, name)| text.replace(device, name));
        let lines: BTreeSet<String> = named.lines().map(masked).collect();
        lines.into_iter().collect::<Vec<_>>().join("\n")
    }
}

/// Fails with the lines that differ.
fn same(have: &str, want: &str, when: &str) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (have, want) = (lines(have), lines(want));
    let (more, less) = (have.difference(&want), want.difference(&have));
    assert!(
        have == want,
        "{when}\nthere are: {:#?}\nmissing: {:#?}",
        more.collect::<Vec<_>>(),
        less.collect::<Vec<_>>()
    );
}

/// What follows from a uid is another in every run.
fn masked(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let is_mac = word.split(':').filter(|part| part.len() == 2).count() >= 6;
        let is_link_local = word.contains("fe80::");
        if is_mac || is_link_local { "…" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Makes what the story begins with.
async fn prepare(rest: &Rest, story: &Story) -> Result<(), String> {
    if !story.before.is_empty() {
        let body = json!({"objects": story.before}).to_string();
        rest.send("POST", "/v1/apply", "application/json", body.into()).await?.ok();
    }
    Ok(())
}

/// Sends a call, with a key that makes a retry safe.
async fn send(rest: &Rest, (method, path, body): &Call, index: usize) -> Result<Reply, String> {
    let path = if *method == "DELETE" { format!("{path}?allow_missing=true") } else { (*path).to_owned() };
    let content = match *method {
        "PATCH" => "application/merge-patch+json",
        "POST" => "application/json",
        _ => "",
    };
    let bytes = if body.is_null() { String::new() } else { body.to_string() };
    rest.key(&format!("call-{index}")).send(method, &path, content, bytes.into()).await
}

/// The object that a create would make, if it is there already.
async fn there(rest: &Rest, (_, path, body): &Call) -> Option<Value> {
    let name = body["name"].as_str()?;
    let reply = rest.get(&format!("{path}/{name}")).await.unwrap();
    (reply.status == 200).then_some(reply.body)
}

/// Devices of the host by the name of what they belong to.
async fn devices(rest: &Rest) -> BTreeMap<String, String> {
    let list = rest.get("/v1/attachments").await.unwrap().ok();
    let name = |one: &Value| {
        let device = one["status"]["host_device"].as_str()?.to_owned();
        Some((device, format!("device-of-{}", one["name"].as_str()?)))
    };
    list["items"].as_array().unwrap().iter().filter_map(name).collect()
}

/// Deletes everything, in an order that needs no force.
async fn wipe(rest: &Rest) {
    for kind in ["port-forwards", "attachments", "links", "networks", "namespaces"] {
        let list = rest.get(&format!("/v1/{kind}")).await.unwrap().ok();
        for one in list["items"].as_array().unwrap() {
            rest.delete(&format!("/v1/{kind}/{}", one["name"].as_str().unwrap())).await.ok();
        }
    }
}

/// Stops the daemon and takes its database away, so that the next one starts with nothing.
fn forget(mut daemon: Daemon) {
    daemon.stop();
    std::fs::remove_dir_all(PathBuf::from(HOME).join("state")).unwrap();
}
