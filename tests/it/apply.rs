//! Many objects at once: plans, owners, what is done in part, exports, and how much work it is.

use std::{net::SocketAddr, os::fd::AsFd, time::Duration};

use netloom_api::ErrorReason;
use netloom_client::{ApplyRequest, WriteOptions};
use netloom_server::kernel::{echo::serve_tcp, netns::Namespaces, probe, testhost::Workload};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, HOME, lan, on_host},
    netloom::Netloom,
    rest::{Reply, Rest},
};

const PATIENCE: Duration = Duration::from_secs(2);

fn namespace(name: &str) -> Value {
    json!({"kind": "Namespace", "name": name})
}

fn network(name: &str, spec: Value) -> Value {
    json!({"kind": "Network", "name": name, "spec": spec})
}

fn attachment(name: &str, namespace: &str, network: &str, addresses: &[&str]) -> Value {
    json!({"kind": "Attachment", "name": name,
        "spec": {"namespace": namespace, "network": network, "addresses": addresses}})
}

fn forward(name: &str, port: u16, target: &str) -> Value {
    json!({"kind": "PortForward", "name": name, "spec": {"protocol": "tcp", "listen": {"port": port},
        "target": {"attachment": target, "port": 80}}})
}

fn with_owner(mut object: Value, owner: &str) -> Value {
    object["owner"] = json!(owner);
    object
}

async fn apply(rest: &Rest, objects: Vec<Value>, more: Value) -> Reply {
    send(rest, "/v1/apply", objects, more).await
}

async fn send(rest: &Rest, path: &str, objects: Vec<Value>, more: Value) -> Reply {
    let mut body = json!({"objects": objects});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rest.post(path, &body).await
}

/// `action Kind name` of each change.
fn changes(reply: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let line = |one: &Value| [word(&one["action"]), word(&one["kind"]), word(&one["name"])].join(" ");
    reply["changes"].as_array().unwrap().iter().map(line).collect()
}

async fn names(rest: &Rest, path: &str) -> Vec<String> {
    let page = rest.get(&format!("/v1/{path}")).await.unwrap().ok();
    page["items"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

fn red_and_blue() -> Vec<Value> {
    vec![
        namespace("red"),
        namespace("blue"),
        network("net", json!({"subnets": [{"cidr": "10.9.0.0/24"}]})),
        attachment("red0", "red", "net", &["10.9.0.11"]),
        attachment("blue0", "blue", "net", &["10.9.0.12"]),
        forward("web", 8080, "blue0"),
    ]
}

#[test]
fn a_plan_is_what_an_apply_would_do_through_both_doors_and_changes_nothing() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let planned = send(&rest, "/v1/plan", red_and_blue(), json!({"owner": "ci-7"})).await.ok();
        let dry = apply_dry(&rest, red_and_blue()).await;
        assert_eq!(planned["plan"]["changes"], dry["plan"]["changes"]);
        let steps = planned["plan"]["steps"].as_array().unwrap();
        let operations = planned["plan"]["operations"].as_array().unwrap();
        assert_eq!(steps.len(), operations.len());
        let at = steps.iter().position(|step| step == "ip netns add red").unwrap();
        assert_eq!(operations[at], json!({"action": "create_namespace", "kind": "Namespace", "name": "red"}));
        assert!(operations.iter().any(|one| one["action"] == "add_rule" && one.get("kind").is_none()));
        assert!(names(&rest, "namespaces").await.is_empty(), "a plan makes nothing");
        assert_eq!(planned["revision"], 0);

        // The other door plans the same; only identities that are made up on the way differ, and with them the order of
        // cables.
        let sorted = |plan: &Value| {
            let mut lines: Vec<String> =
                plan["operations"].as_array().unwrap().iter().map(ToString::to_string).collect();
            lines.sort();
            lines
        };
        let body = json!({"objects": red_and_blue(), "owner": "ci-7"});
        let request = ApplyRequest::from_json(body).unwrap();
        let theirs = json!(daemon.client().await.plan(request).await.unwrap());
        assert_eq!(theirs["plan"]["changes"], planned["plan"]["changes"]);
        assert_eq!(sorted(&theirs["plan"]), sorted(&planned["plan"]));

        apply(&rest, red_and_blue(), json!({"owner": "ci-7", "expect_revision": 0})).await.ok();
        let again = send(&rest, "/v1/plan", red_and_blue(), json!({"owner": "ci-7"})).await.ok();
        assert!(changes(&again["plan"]).iter().all(|line| line.starts_with("unchanged")), "{again:#}");
        assert_eq!(again["plan"]["steps"], json!([]));

        let mut objects = red_and_blue();
        objects[5] = forward("web", 8081, "red0");
        objects[0]["labels"] = json!({"role": "db"});
        let moved = send(&rest, "/v1/plan", objects, json!({})).await.ok();
        let fields = |index: usize| moved["plan"]["changes"][index]["fields"].clone();
        assert_eq!(fields(0), json!(["labels"]));
        assert_eq!(fields(5), json!(["spec.listen.port", "spec.target.attachment"]));
        assert_eq!(moved["plan"]["changes"][1].get("fields"), None);

        let stale = apply(&rest, red_and_blue(), json!({"expect_revision": 0})).await;
        assert_eq!((stale.status, &stale.body["reason"]), (412, &json!("REVISION_MISMATCH")), "{stale:#?}");
        assert_eq!(stale.body["metadata"]["revision"], "1");
    });
}

async fn apply_dry(rest: &Rest, objects: Vec<Value>) -> Value {
    rest.post("/v1/apply?dry_run=true", &json!({"objects": objects, "owner": "ci-7"})).await.ok()
}

#[test]
fn an_owner_prunes_its_own_and_what_others_need_or_hold_is_left_to_them() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        apply(&rest, red_and_blue(), json!({"owner": "ci-7"})).await.ok();
        apply(&rest, vec![namespace("green")], json!({"owner": "ci-8"})).await.ok();
        rest.post("/v1/namespaces", &json!({"name": "free"})).await.ok();

        let kept = vec![namespace("red"), red_and_blue()[2].clone(), red_and_blue()[3].clone()];
        let more = json!({"owner": "ci-7", "prune": true});
        let planned = send(&rest, "/v1/plan", kept.clone(), more.clone()).await.ok();
        let pruned = apply(&rest, kept, more.clone()).await.ok();
        assert_eq!(changes(&pruned), changes(&planned["plan"]));
        assert_eq!(
            changes(&pruned)[3..],
            ["deleted Namespace blue", "deleted Attachment blue0", "deleted PortForward web"]
        );
        assert_eq!(names(&rest, "namespaces").await, ["free", "green", "red"]);
        assert_eq!(names(&rest, "attachments").await, ["red0"]);

        // Green of another owner stands on the network of ci-7.
        let other = with_owner(attachment("green0", "green", "net", &[]), "ci-8");
        apply(&rest, vec![other], json!({})).await.ok();
        let refused = apply(&rest, vec![namespace("red")], more.clone()).await;
        assert_eq!(
            (refused.status, &refused.body["reason"]),
            (409, &json!("HAS_DEPENDENTS")),
            "{refused:#?}"
        );
        assert_eq!(refused.body["metadata"]["dependents"], "Attachment/green0");
        assert!(refused.body["detail"].as_str().unwrap().contains("of ci-8"), "{refused:#?}");
        assert_eq!(names(&rest, "attachments").await, ["green0", "red0"], "nothing was pruned");

        let theirs = apply(&rest, vec![namespace("green")], json!({"owner": "ci-7"})).await;
        assert_eq!((theirs.status, &theirs.body["reason"]), (409, &json!("OWNED_BY_OTHER")), "{theirs:#?}");
        assert_eq!(theirs.body["metadata"]["owner"], "ci-8");
        let taken =
            apply(&rest, vec![namespace("green")], json!({"owner": "ci-7", "take_ownership": true})).await;
        assert_eq!(taken.ok()["objects"][0]["owner"], "ci-7");
        let adopted = apply(&rest, vec![namespace("free")], json!({"owner": "ci-7"})).await.ok();
        assert_eq!(adopted["objects"][0]["owner"], "ci-7", "what nobody holds may be held");

        // With nothing named, all that is left of an owner goes.
        let gone = apply(&rest, vec![], json!({"owner": "ci-8", "prune": true})).await.ok();
        assert_eq!(changes(&gone), ["deleted Attachment green0"]);
        apply(&rest, vec![], more).await.ok();
        assert!(names(&rest, "namespaces").await.is_empty() && names(&rest, "networks").await.is_empty());
    });
}

#[test]
fn a_namespace_with_processes_inside_is_not_pruned() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        apply(&rest, vec![namespace("red"), namespace("blue")], json!({"owner": "ci-7"})).await.ok();
        let blue = Workload::start_in(Namespaces::default().open("blue").unwrap()).unwrap();
        let prune = json!({"owner": "ci-7", "prune": true});
        for path in ["/v1/apply", "/v1/plan", "/v1/apply?dry_run=true"] {
            let refused = send(&rest, path, vec![namespace("green")], prune.clone()).await;
            let answer = (refused.status, &refused.body["reason"]);
            assert_eq!(answer, (409, &json!("NAMESPACE_IN_USE")), "{path} {refused:#?}");
            assert_eq!(refused.body["metadata"]["processes"], format!("{} sleep", blue.pid()));
            assert_eq!(names(&rest, "namespaces").await, ["blue", "red"], "nothing was made or pruned");
        }
        let request = ApplyRequest {
            owner: Some("ci-7".parse().unwrap()),
            prune: true,
            ..ApplyRequest::new(Vec::new())
        };
        let refused = daemon.client().await.apply(request, WriteOptions::default()).await.unwrap_err();
        assert_eq!(refused.reason, Some(ErrorReason::NamespaceInUse), "{refused:#?}");
        drop(blue);
        let pruned = apply(&rest, vec![namespace("green")], prune).await.ok();
        assert_eq!(
            changes(&pruned),
            ["created Namespace green", "deleted Namespace blue", "deleted Namespace red"]
        );
    });
}

/// Every effect takes its time, so that an apply of a few objects lasts.
#[test]
fn an_apply_that_lasts_tells_how_far_it_is() {
    on_host(async || {
        let daemon = Daemon::start_with_faults("slow=120").await;
        let netloom = Netloom::at(&daemon.socket);
        let mut objects = red_and_blue();
        objects.extend(["green", "grey", "pink"].map(namespace));
        let file = format!("{HOME}/many.json");
        std::fs::write(&file, json!({"version": "v1", "objects": objects}).to_string()).unwrap();
        let told = netloom.run(&format!("apply --wait 60s -f {file}"));
        assert_eq!((told.code, told.out.lines().count()), (Some(0), objects.len()), "{told:#?}");
        let ready = |line: &str| {
            let ready = line.strip_suffix(&format!(" of {} ready", objects.len()));
            ready.and_then(|ready| ready.parse::<usize>().ok()).unwrap_or_else(|| panic!("{told:#?}"))
        };
        let progress: Vec<usize> = told.err.lines().map(ready).collect();
        assert!(!progress.is_empty() && progress.is_sorted(), "{told:#?}");
        // What is so already takes no time, and nothing is told.
        assert!(netloom.run(&format!("apply -f {file}")).ok().lines().all(|line| line.contains("unchanged")));
    });
}

#[test]
fn what_can_be_done_is_done_where_not_all_must_be() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let taken = std::net::TcpListener::bind("0.0.0.0:8082").unwrap();
        let objects = vec![
            namespace("red"),
            network("bad", json!({"subnets": [{"cidr": "10.9.0.0/16"}]})),
            network("net", json!({"subnets": [{"cidr": "10.9.0.0/24"}]})),
            attachment("red0", "red", "net", &["10.9.0.11"]),
            attachment("lost", "red", "nowhere", &[]),
            attachment("twin", "red", "net", &["10.9.0.11"]),
            forward("web", 8080, "red0"),
            forward("also", 8080, "red0"),
            forward("late", 8082, "red0"),
        ];
        let refused = apply(&rest, objects.clone(), json!({})).await;
        assert_eq!(refused.status, 409, "{refused:#?}");
        assert!(names(&rest, "namespaces").await.is_empty(), "all or none");

        let done = apply(&rest, objects, json!({"atomic": false})).await.ok();
        let told: Vec<(String, String)> = changes(&done)
            .into_iter()
            .zip(done["changes"].as_array().unwrap())
            .map(|(line, one)| (line, one["error"]["reason"].as_str().unwrap_or("-").to_owned()))
            .collect();
        let told: Vec<String> = told.into_iter().map(|(line, reason)| format!("{line} {reason}")).collect();
        assert_eq!(
            told,
            [
                "created Namespace red -",
                "created Network bad -",
                "failed Network net OVERLAP",
                "failed Attachment red0 REFERENCE_NOT_FOUND",
                "failed Attachment lost REFERENCE_NOT_FOUND",
                "failed Attachment twin REFERENCE_NOT_FOUND",
                "created PortForward web -",
                "failed PortForward also PORT_TAKEN",
                "failed PortForward late PORT_TAKEN",
            ]
        );
        assert_eq!(done["changes"][3]["error"]["violations"][0]["field"], "spec.network");
        assert_eq!(done["objects"].as_array().unwrap().len(), 3);
        drop(taken);

        // A swap of which one half cannot be: the other keeps what it had.
        rest.delete("/v1/networks/bad").await.ok();
        apply(&rest, red_and_blue(), json!({})).await.ok();
        let mut half = attachment("red0", "red", "net", &["10.9.0.12"]);
        half["spec"]["mac"] = json!("02:00:00:00:00:99");
        let swap = vec![half, attachment("blue0", "blue", "net", &["10.9.0.11"])];
        let done = apply(&rest, swap, json!({"atomic": false})).await.ok();
        let reasons: Vec<_> = done["changes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["error"]["reason"].as_str().unwrap())
            .collect();
        assert_eq!(reasons, ["IMMUTABLE_FIELD", "ADDRESS_TAKEN"]);
    });
}

/// Everything that somebody outside could tell apart.
async fn picture(rest: &Rest) -> Value {
    let get = async |path: &str| rest.get(path).await.unwrap().ok();
    let addresses = get("/v1/allocations").await["items"].as_array().unwrap().clone();
    let addresses: Vec<Value> = addresses.iter().map(|one| one["name"].clone()).collect();
    let shown = |page: Value, fields: &[&str]| -> Vec<Value> {
        let items = page["items"].as_array().unwrap().clone();
        items.iter().map(|one| fields.iter().map(|field| one["status"][*field].clone()).collect()).collect()
    };
    json!({
        "addresses": addresses,
        "networks": shown(get("/v1/networks").await, &["subnets", "device", "mtu"]),
        "attachments": shown(get("/v1/attachments").await, &["addresses", "mac", "interface", "default_route"]),
        "forwards": shown(get("/v1/port-forwards").await, &["listen", "target"]),
    })
}

#[test]
fn an_export_that_is_applied_to_an_empty_host_makes_the_same_network_again() {
    on_host(async || {
        let lan = lan();
        let peer = lan.peer("peer").unwrap();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        // Nearly everything is left open, and made in an order that leaves its traces.
        rest.post("/v1/namespaces", &json!({"name": "red", "labels": {"role": "web"}, "owner": "ci-7"}))
            .await
            .ok();
        rest.post("/v1/namespaces", &json!({"name": "blue", "annotations": {"why": "a test"}})).await.ok();
        let device = json!({"kind": {"bridge": {"device": "br-same"}}});
        rest.post("/v1/networks", &json!({"name": "net", "spec": device})).await.ok();
        for (name, inside) in [("first", "blue"), ("second", "red"), ("third", "red")] {
            let spec = json!({"namespace": inside, "network": "net"});
            rest.post("/v1/attachments", &json!({"name": name, "spec": spec})).await.ok();
        }
        rest.delete("/v1/attachments/first").await.ok();
        rest.post("/v1/reservations", &json!({"name": "vip", "spec": {"network": "net"}})).await.ok();
        let mut open = forward("web", 0, "second");
        open.as_object_mut().unwrap().remove("kind");
        rest.post("/v1/port-forwards", &open).await.ok();

        let before = picture(&rest).await;
        let intent = rest.get("/v1/export").await.unwrap().ok();
        let pinned = rest.get("/v1/export?pinned=true").await.unwrap().ok();
        let theirs = json!(daemon.client().await.export(None, true).await.unwrap());
        assert_eq!(theirs, pinned);
        let of = |export: &Value, name: &str| {
            export["objects"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()["spec"]
                .clone()
        };
        assert_eq!(of(&intent, "second"), json!({"namespace": "red", "network": "net"}));
        assert_eq!(of(&intent, "web")["listen"]["port"], 0);

        let wipe = async || {
            rest.delete("/v1/networks/net?force=true").await.ok();
            for path in ["port-forwards/web", "namespaces/red", "namespaces/blue"] {
                rest.delete(&format!("/v1/{path}")).await.ok();
            }
            assert_eq!(rest.get("/v1/export").await.unwrap().ok()["objects"], json!([]));
        };
        wipe().await;
        rest.post("/v1/apply", &pinned).await.ok();
        assert_eq!(picture(&rest).await, before, "pinned, it is the same to the bit");
        assert_eq!(rest.get("/v1/export?pinned=true").await.unwrap().ok(), pinned);

        let red = Namespaces::default().open("red").unwrap();
        let _server = serve_tcp(&red, "0.0.0.0:80".parse().unwrap(), "red").unwrap();
        let port = before["forwards"][0][0][0]["port"].as_u64().unwrap();
        let to: SocketAddr = format!("192.168.1.2:{port}").parse().unwrap();
        assert!(probe::tcp_exchange(peer, to, PATIENCE).unwrap().reached());

        wipe().await;
        rest.post("/v1/apply", &intent).await.ok();
        assert_eq!(rest.get("/v1/export").await.unwrap().ok(), intent, "intent alone is the same intent");
    });
}

/// A counter of the metrics.
async fn counted(rest: &Rest, name: &str) -> u64 {
    let text = rest.get("/metrics").await.unwrap().body;
    let line =
        text.as_str().unwrap().lines().find_map(|line| line.strip_prefix(&format!("netloom_{name}_total ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[test]
fn five_hundred_objects_are_one_transaction_and_few_batches() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let mut objects = vec![network("net", json!({"subnets": [{"cidr": "10.9.0.0/16"}]}))];
        for n in 0..166_u16 {
            let (inside, name) = (format!("ns{n}"), format!("at{n}"));
            objects.push(namespace(&inside));
            objects.push(attachment(&name, &inside, "net", &[]));
            objects.push(forward(&format!("fw{n}"), 20_000 + n, &name));
        }
        objects.push(json!({"kind": "Reservation", "name": "vip", "spec": {"network": "net"}}));
        assert_eq!(objects.len(), 500);
        // In any order.
        objects.reverse();
        let names = ["store_transactions", "firewall_batches", "route_batches"];
        let tally = async || {
            let mut all = Vec::new();
            for name in names {
                all.push(counted(&rest, name).await);
            }
            all
        };
        let before = tally().await;
        let done = rest.post("/v1/apply?wait=60s", &json!({"objects": objects})).await.ok();
        let after = tally().await;
        let used: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        println!("{names:?}: {used:?}");
        for object in done["objects"].as_array().unwrap() {
            assert_eq!(object["status"]["conditions"][0]["status"], "True", "{object:#}");
            assert_eq!(object["revision"], 1, "one commit made them all");
        }
        assert_eq!(done["objects"].as_array().unwrap().len(), 500);
        // Beside the commit, what became of the objects is logged.
        assert!(used[0] <= 3, "{used:?}");
        assert!(used[1] <= 2, "{used:?}");
        // Per attachment: its namespace's loopback, the cable, both ends with what is looked up for them, the announcement.
        assert!(used[2] <= 166 * 8 + 20, "{used:?}");
        let again = rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
        assert!(changes(&again).iter().all(|line| line.starts_with("unchanged")));
        assert_eq!(again["revision"], 1);
    });
}

#[test]
fn two_attachments_swap_their_addresses_in_one_apply() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        apply(&rest, red_and_blue(), json!({})).await.ok();
        rest.post("/v1/namespaces", &json!({"name": "third"})).await.ok();
        let spec = json!({"namespace": "third", "network": "net", "addresses": ["10.9.0.13"]});
        rest.post("/v1/attachments", &json!({"name": "third0", "spec": spec})).await.ok();
        let namespaces = Namespaces::default();
        let open = |name: &str| namespaces.open(name).unwrap();
        let (red, blue, third) = (open("red"), open("blue"), open("third"));
        let serve =
            |inside: &dyn AsFd, label: &str| serve_tcp(inside, "0.0.0.0:80".parse().unwrap(), label).unwrap();
        let _servers = [serve(&red, "red"), serve(&blue, "blue")];
        let who = |from: &dyn AsFd, address: &str| {
            let to: SocketAddr = format!("{address}:80").parse().unwrap();
            probe::tcp_exchange(from.as_fd(), to, PATIENCE).unwrap().by().map(str::to_owned)
        };
        let host = netloom_server::kernel::netns::own().unwrap();
        for from in [&third as &dyn AsFd, &host] {
            assert_eq!(who(from, "10.9.0.11").as_deref(), Some("red"));
            assert_eq!(who(from, "10.9.0.12").as_deref(), Some("blue"));
        }
        let swap = vec![
            attachment("red0", "red", "net", &["10.9.0.12"]),
            attachment("blue0", "blue", "net", &["10.9.0.11"]),
        ];
        let done = apply(&rest, swap, json!({})).await.ok();
        for object in done["objects"].as_array().unwrap() {
            assert_eq!(object["status"]["conditions"][0]["status"], "True", "{object:#}");
        }
        // Who spoke with them before reaches them at once, by their new addresses.
        for from in [&third as &dyn AsFd, &host] {
            assert_eq!(who(from, "10.9.0.11").as_deref(), Some("blue"));
            assert_eq!(who(from, "10.9.0.12").as_deref(), Some("red"));
        }
        assert_eq!(who(&host, "127.0.0.1").as_deref(), None);
        let to: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(probe::tcp_exchange(&host, to, PATIENCE).unwrap().by(), Some("blue"), "a forward follows");
    });
}
