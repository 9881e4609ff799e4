//! What an operator does beside the API: backup, restore, purge.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use netloom_server::{
    kernel::{Kernel, netns::Namespaces},
    reconcile::Host as _,
};
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, HOME, lan, netloomd, on_host},
    netloom::Told,
};

fn run(daemon: &Daemon, words: &[&str]) -> Told {
    netloomd(&daemon.socket).args(words).output().unwrap().into()
}

/// Makes red and blue on a network with a published port.
async fn make(daemon: &Daemon) -> Value {
    let objects = json!([
        {"kind": "Namespace", "name": "red"},
        {"kind": "Namespace", "name": "blue"},
        {"kind": "Network", "name": "v-net-0", "spec": {"kind": {"bridge": {"device": "v-net-0"}}, "egress": {"nat": {}},
            "subnets": [{"cidr": "192.168.15.0/24"}]}},
        {"kind": "Attachment", "name": "red0", "spec": {"namespace": "red", "network": "v-net-0"}},
        {"kind": "Attachment", "name": "blue0", "spec": {"namespace": "blue", "network": "v-net-0"}},
        {"kind": "PortForward", "name": "web", "spec":
            {"protocol": "tcp", "listen": {"port": 8080}, "target": {"attachment": "blue0", "port": 80}}},
    ]);
    daemon.rest().post("/v1/apply", &json!({"objects": objects})).await.ok();
    everything(daemon).await
}

/// All that is stored, without what each daemon finds out anew.
async fn everything(daemon: &Daemon) -> Value {
    let mut all = Vec::new();
    for path in ["namespaces", "networks", "attachments", "port-forwards", "allocations"] {
        let mut list = daemon.rest().get(&format!("/v1/{path}")).await.unwrap().ok()["items"].take();
        for object in list.as_array_mut().unwrap() {
            let ready = object["status"]["conditions"][0]["status"].clone();
            assert!(ready == "True" || path == "allocations", "{object:#}");
            object.as_object_mut().unwrap().remove("status");
        }
        all.push(list);
    }
    all.into()
}

/// What a colleague has on the host, also in the middle of ours: a bridge, a link on our bridge, a namespace.
async fn strangers() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let link = async |name: &str| {
        let mut found = handle.link().get().match_name(name.to_owned()).execute();
        let first = futures_util::TryStreamExt::try_next(&mut found).await.unwrap().unwrap();
        first.header.index
    };
    handle.link().add(LinkBridge::new("br-mine").up().build()).execute().await.unwrap();
    handle.link().add(LinkVeth::new("mine0", "mine1").up().build()).execute().await.unwrap();
    let (ours, mine) = (link("v-net-0").await, link("mine0").await);
    handle.link().set(LinkUnspec::new_with_index(mine).controller(ours).build()).execute().await.unwrap();
    let address = "192.0.2.1".parse().unwrap();
    handle.address().add(link("br-mine").await, address, 24).execute().await.unwrap();
    drop(Namespaces::default().create("foreign").unwrap());
}

fn interfaces() -> Vec<String> {
    let names = std::fs::read_to_string("/proc/net/dev").unwrap();
    let names = names.lines().skip(2).map(|line| line.split(':').next().unwrap().trim().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn namespaces() -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_backup_of_a_running_daemon_brings_the_same_objects_back() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        let before = make(&daemon).await;
        let file = format!("{HOME}/backup.db");
        assert_eq!(run(&daemon, &["backup", &file]).ok(), "");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let told = run(&daemon, &["backup", &file]);
        assert!(told.code == Some(1) && told.err.contains("exists"), "{told:#?}");
        // What came after the backup goes with it, from the kernel too, once somebody has said so.
        daemon.rest().post("/v1/namespaces", &json!({"name": "later"})).await.ok();
        daemon.rest().delete("/v1/attachments/red0").await.ok();
        daemon.stop();
        let state = Path::new(HOME).join("state");
        std::fs::remove_dir_all(&state).unwrap();
        std::fs::create_dir(&state).unwrap();
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::copy(&file, state.join("netloom.db")).unwrap();
        let told = run(&daemon, &[]);
        assert!(told.code == Some(1) && told.err.contains("namespace later"), "{told:#?}");
        assert_eq!(namespaces(), ["blue", "later", "red"]);
        daemon.start_again_with(&["--unknown", "remove"]).await;
        assert_eq!(everything(&daemon).await, before);
        assert_eq!(namespaces(), ["blue", "red"]);
    });
}

#[test]
fn purge_is_refused_while_the_daemon_runs() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let before = make(&daemon).await;
        for words in [&["purge"][..], &["purge", "--dry-run"]] {
            let told = run(&daemon, words);
            assert!(told.code == Some(1) && told.err.contains("stop it first"), "{told:#?}");
        }
        assert_eq!(everything(&daemon).await, before);
    });
}

#[test]
fn purge_without_the_database_removes_all_that_is_ours_and_nothing_of_a_stranger_s() {
    on_host(async || {
        let _lan = lan();
        let interfaces_before = interfaces();
        let mut daemon = Daemon::start().await;
        make(&daemon).await;
        strangers().await;
        daemon.stop();
        std::fs::remove_dir_all(Path::new(HOME).join("state")).unwrap();

        let full = interfaces();
        let shown = run(&daemon, &["purge", "--dry-run"]).ok();
        assert!(shown.ends_with(" would be removed\n"), "{shown}");
        for line in ["nft delete table inet netloom", "ip netns del red", "ip link del v-net-0"] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
        assert!(!shown.contains("mine") && !shown.contains("foreign") && !shown.contains("eth0"), "{shown}");
        assert_eq!(interfaces(), full, "a dry run removes nothing");
        assert_eq!(namespaces(), ["blue", "foreign", "red"]);

        let removed = run(&daemon, &["purge"]).ok();
        assert_eq!(removed.replace(" removed\n", " would be removed\n"), shown);
        let mut left = interfaces_before;
        left.extend(["br-mine", "mine0", "mine1"].map(str::to_owned));
        left.sort();
        assert_eq!(interfaces(), left);
        assert_eq!(namespaces(), ["foreign"]);
        let have = Kernel::open().unwrap().observe().unwrap().to_string();
        assert!(!have.contains("v-net-0") && !have.contains("8080"), "{have}");
        assert_eq!(run(&daemon, &["purge"]).ok(), "0 things removed\n");
        // The place is clean enough to begin anew.
        daemon.start_again().await;
        make(&daemon).await;
    });
}
