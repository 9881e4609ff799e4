//! What is told while things go wrong.

use netloom_server::kernel::netns::Namespaces;
use serde_json::{Value, json};

use crate::rest::{Reply, Rest};

/// One request: method, path, body.
pub type Call = (&'static str, &'static str, Value);

/// What is there before, and what is asked while things go wrong.
#[derive(Clone)]
pub struct Story {
    pub name: &'static str,
    pub before: Vec<Value>,
    pub calls: Vec<Call>,
}

/// A namespace of a stranger's, which one story adopts.
pub const FOREIGN: &str = "foreign";

/// Every story; they must not share a name.
pub fn all() -> Vec<Story> {
    vec![
        namespace(),
        network(),
        attach(),
        detach(),
        publish(),
        cable(),
        patch(),
        route(),
        reservation(),
        adopted(),
        shaped(),
        policy(),
        policed(),
        apply(),
    ]
}

/// The story of this name.
pub fn named(name: &str) -> Story {
    all().into_iter().find(|story| story.name == name).unwrap()
}

/// Red and blue on v-net-0 with a published port.
pub fn objects() -> Vec<Value> {
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

fn namespace() -> Story {
    let calls = vec![only("red"), delete("/v1/namespaces/red")];
    Story { name: "namespace", before: vec![], calls }
}

fn network() -> Story {
    let calls = vec![only("v-net-0"), delete("/v1/networks/v-net-0")];
    Story { name: "network", before: without(&["v-net-0", "red0", "blue0", "web"]), calls }
}

fn attach() -> Story {
    Story { name: "attach", before: without(&["red0"]), calls: vec![only("red0")] }
}

fn detach() -> Story {
    Story { name: "detach", before: objects(), calls: vec![delete("/v1/attachments/red0")] }
}

fn publish() -> Story {
    let calls = vec![only("web"), delete("/v1/port-forwards/web")];
    Story { name: "publish", before: without(&["web"]), calls }
}

fn cable() -> Story {
    let end = |namespace: &str, addresses: &[&str]| json!({"namespace": namespace, "interface": "cable", "addresses": addresses});
    let ends = [end("red", &["10.1.1.1/24", "fd00:1::1/64"]), end("blue", &["10.1.1.2/24"])];
    let changed = [end("red", &["10.1.1.9/24"]), end("blue", &["10.1.1.2/24", "fd00:1::2/64"])];
    let calls = vec![
        ("POST", "/v1/links", json!({"name": "cable", "spec": {"ends": ends}})),
        ("PATCH", "/v1/links/cable", json!({"spec": {"ends": changed, "mtu": 1400}})),
        delete("/v1/links/cable"),
    ];
    Story { name: "cable", before: without(&["v-net-0", "red0", "blue0", "web"]), calls }
}

fn patch() -> Story {
    let calls = vec![
        ("PATCH", "/v1/networks/v-net-0", json!({"spec": {"mtu": 1400, "isolation": {"members": false}}})),
        ("PATCH", "/v1/attachments/red0", json!({"spec": {"addresses": ["192.168.15.9"]}})),
    ];
    Story { name: "patch", before: objects(), calls }
}

fn route() -> Story {
    let spec = |metric: u32| json!({"namespace": "blue", "destination": "10.9.0.0/16", "via": "192.168.15.1", "metric": metric});
    let hole = json!({"namespace": "red", "destination": "fd99::/32", "type": "blackhole"});
    let calls = vec![
        ("POST", "/v1/routes", json!({"name": "far", "spec": spec(100)})),
        ("PATCH", "/v1/routes/far", json!({"spec": {"via": "192.168.15.77"}})),
        ("POST", "/v1/routes", json!({"name": "hole", "spec": hole})),
        delete("/v1/routes/far"),
    ];
    Story { name: "route", before: objects(), calls }
}

fn reservation() -> Story {
    let spec = json!({"network": "v-net-0", "address": "192.168.15.77"});
    let calls = vec![
        ("POST", "/v1/reservations", json!({"name": "vip", "spec": spec})),
        ("POST", "/v1/reservations", json!({"name": "any", "spec": {"network": "v-net-0"}})),
        delete("/v1/reservations/vip"),
    ];
    Story { name: "reservation", before: without(&["red0", "blue0", "web"]), calls }
}

fn adopted() -> Story {
    let source = json!({"adopted": {"path": format!("/run/netns/{FOREIGN}")}});
    let spec = json!({"namespace": "mine", "network": "v-net-0"});
    let calls = vec![
        ("POST", "/v1/namespaces", json!({"name": "mine", "spec": {"source": source}})),
        ("POST", "/v1/attachments", json!({"name": "mine0", "spec": spec})),
        delete("/v1/attachments/mine0"),
        delete("/v1/namespaces/mine"),
    ];
    Story { name: "adopted", before: without(&["red0", "blue0", "web", "red", "blue"]), calls }
}

/// A rate in both directions, and a setting inside.
fn shaped() -> Story {
    let rates = json!({"ingress": {"rate": 10_000_000}, "egress": {"rate": 20_000_000}});
    let calls = vec![
        ("PATCH", "/v1/attachments/red0", json!({"spec": {"bandwidth": rates}})),
        ("PATCH", "/v1/namespaces/red", json!({"spec": {"sysctls": {"net.ipv4.ip_default_ttl": "63"}}})),
        ("PATCH", "/v1/attachments/red0", json!({"spec": {"bandwidth": null}})),
    ];
    Story { name: "shaped", before: objects(), calls }
}

/// It allows red, and what comes from a prefix, to reach blue.
fn allow() -> Value {
    json!({"kind": "Policy", "name": "allow", "labels": {}, "spec": {"selector": {"network": "v-net-0"},
        "directions": ["ingress"], "ingress": [{"peers": [{"labels": {"role": "client"}},
            {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}], "ports": [{"protocol": "tcp", "port": 80}]}]}})
}

fn policy() -> Story {
    let ports = json!([{"ports": [{"protocol": "udp", "port": 1, "end_port": 99}]}]);
    let changed = json!({"spec": {"directions": ["ingress", "egress"], "ingress": ports, "log": true}});
    let calls = vec![
        ("POST", "/v1/policies", allow()),
        ("PATCH", "/v1/policies/allow", changed),
        delete("/v1/policies/allow"),
    ];
    Story { name: "policy", before: objects(), calls }
}

/// Who comes and goes under a policy, and who becomes a peer of it.
fn policed() -> Story {
    let mut before = without(&["red0"]);
    before.push(allow());
    let calls = vec![
        only("red0"),
        ("PATCH", "/v1/attachments/red0", json!({"labels": {"role": "client"}})),
        delete("/v1/attachments/red0"),
    ];
    Story { name: "policed", before, calls }
}

fn apply() -> Story {
    Story { name: "apply", before: vec![], calls: vec![("POST", "/v1/apply", json!({"objects": objects()}))] }
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

fn delete(path: &'static str) -> Call {
    ("DELETE", path, Value::Null)
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

impl Story {
    /// What the host has to have before there is any daemon.
    pub fn set_up(&self) {
        if self.name == "adopted" {
            drop(Namespaces::default().create(FOREIGN).unwrap());
        }
    }

    /// Makes what the story begins with.
    pub async fn prepare(&self, rest: &Rest) -> Result<(), String> {
        if !self.before.is_empty() {
            let body = json!({"objects": self.before}).to_string();
            rest.send("POST", "/v1/apply", "application/json", body.into()).await?.ok();
        }
        Ok(())
    }
}

/// Sends a call, with a key that makes a retry safe.
pub async fn send(rest: &Rest, (method, path, body): &Call, key: &str) -> Result<Reply, String> {
    let path = if *method == "DELETE" { format!("{path}?allow_missing=true") } else { (*path).to_owned() };
    let content = match *method {
        "PATCH" => "application/merge-patch+json",
        "POST" => "application/json",
        _ => "",
    };
    let bytes = if body.is_null() { String::new() } else { body.to_string() };
    rest.key(key).send(method, &path, content, bytes.into()).await
}

/// The object that a create would make, if it is there already.
pub async fn there(rest: &Rest, (method, path, body): &Call) -> Option<Value> {
    let name = body["name"].as_str().filter(|_| *method == "POST" && *path != "/v1/apply")?;
    let reply = rest.get(&format!("{path}/{name}")).await.unwrap();
    (reply.status == 200).then_some(reply.body)
}

/// Deletes everything, in an order that needs no force.
pub async fn wipe(rest: &Rest) {
    let kinds = [
        "policies",
        "port-forwards",
        "routes",
        "attachments",
        "links",
        "reservations",
        "networks",
        "namespaces",
    ];
    for kind in kinds {
        let list = rest.get(&format!("/v1/{kind}")).await.unwrap().ok();
        for one in list["items"].as_array().unwrap() {
            let name = one["name"].as_str().unwrap();
            if name != "host" {
                rest.delete(&format!("/v1/{kind}/{name}")).await.ok();
            }
        }
    }
}
