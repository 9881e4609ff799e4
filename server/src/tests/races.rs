//! Full passes beside everything else; what is raced from outside is in `tests/it/races.rs`.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use netloom_api::{AnyDraft, Kind, Name, Path, Timestamp, Uid};
use serde_json::{Value, json};

use super::model::{
    fake::Fake,
    linux::{Running, Twin},
    ours,
};
use crate::{
    controller::{Caller, Change, Controller, Delete, WriteOptions, edit_for_tests, without},
    hostnet::{Action, Features},
    kernel::{Kernel, testhost::on_private_host},
    reconcile::{Host as _, lockstep::LockStep},
    want::{HostFacts, Surroundings, everything, want},
    world::World,
};

async fn write(controller: &Arc<Controller>, changes: Vec<Change>) {
    let caller =
        Caller { actor: "race".into(), trace: "race".into(), rights: crate::controller::Rights::Full };
    let options = WriteOptions { wait: Duration::from_secs(20), ..WriteOptions::default() };
    controller.commit(changes, &options, &caller).await.unwrap();
}

fn put(json: Value) -> Change {
    Change::Put(AnyDraft::from_json(json, &Path::root()).unwrap())
}

fn attached(name: &str, namespace: usize) -> Change {
    let spec = json!({"namespace": format!("ns{namespace}"), "network": "net",
        "bandwidth": {"egress": {"rate": 1_000_000_000}}});
    put(json!({"kind": "Attachment", "name": name, "spec": spec}))
}

/// What nobody touches.
fn bystanders() -> Vec<Change> {
    let mut all: Vec<Change> =
        (0..3).map(|number| put(json!({"kind": "Namespace", "name": format!("ns{number}")}))).collect();
    let subnets = json!([{"cidr": "10.0.0.0/24"}, {"cidr": "fd00::/64"}]);
    all.push(put(
        json!({"kind": "Network", "name": "net", "spec": {"subnets": subnets, "egress": {"nat": {}}}}),
    ));
    all.extend((0..6).map(|number| attached(&format!("stays{number}"), number % 3)));
    all.extend((0..6).map(|number| {
        let spec = json!({"protocol": "tcp", "listen": {"port": 8000 + number},
            "target": {"attachment": format!("stays{number}"), "port": 80}});
        put(json!({"kind": "PortForward", "name": format!("port{number}"), "spec": spec}))
    }));
    let end = |number: usize| {
        json!({"namespace": format!("ns{number}"), "interface": "cable",
        "addresses": [format!("10.1.0.{}/24", number + 1)]})
    };
    all.push(put(json!({"kind": "Link", "name": "cable", "spec": {"ends": [end(0), end(1)]}})));
    let route = json!({"namespace": "ns0", "destination": "172.16.0.0/16", "via": "10.1.0.2"});
    all.push(put(json!({"kind": "Route", "name": "route", "spec": route})));
    all
}

/// Attaches and detaches, over and over.
async fn churn(controller: Arc<Controller>, number: usize) {
    let name = format!("comes{number}");
    for _ in 0..12 {
        write(&controller, vec![attached(&name, number % 3)]).await;
        let (kind, etag) = (Kind::Attachment, None);
        let delete = Delete { kind, name: name.parse().unwrap(), etag, force: false, allow_missing: false };
        write(&controller, vec![Change::Delete(delete)]).await;
    }
}

#[test]
fn a_forward_whose_attachment_comes_and_goes_before_its_turn_leaves_nothing() {
    let features = Features { ipv6: true, force_forwarding: true, sctp: true };
    let facts = HostFacts::default();
    let around = Surroundings { features, manages_forwarding: true, api_ports: vec![], facts };
    let mut kernel = LockStep::new(Fake::new(), around.clone());
    let mut world = World::default();
    let now = Timestamp::from_micros(0);
    let name = |text: &str| text.parse::<Name>().unwrap();
    let delete = |kind: Kind, text: &str| {
        Change::Delete(Delete { kind, name: name(text), etag: None, force: false, allow_missing: false })
    };
    let red = put(json!({"kind": "Namespace", "name": "ns0"}));
    let net = put(json!({"kind": "Network", "name": "net", "spec": {"subnets": [{"cidr": "10.0.0.0/24"}]}}));
    world = edit_for_tests(&world, vec![red, net], now);
    kernel.full_pass(&world);
    let port = json!({"protocol": "tcp", "listen": {"port": 80}, "target": {"attachment": "red0"}});
    let port = put(json!({"kind": "PortForward", "name": "web", "spec": port}));
    world = edit_for_tests(&world, vec![attached("red0", 0), port], now);
    // The forward has its turn, and the attachment has not.
    kernel.changed(&world, vec![(Kind::PortForward, name("web"))]);
    world = edit_for_tests(&world, vec![delete(Kind::Attachment, "red0")], now);
    let mut gone = kernel.changed(&world, vec![(Kind::Attachment, name("red0"))]);
    world = without(&world, &gone).0;
    world = edit_for_tests(&world, vec![delete(Kind::PortForward, "web")], now);
    gone = kernel.changed(&world, vec![(Kind::PortForward, name("web"))]);
    world = without(&world, &gone).0;
    kernel.look();
    let around = kernel.around.read().unwrap().clone();
    let wanted = want(&world, &everything(&world), &around);
    let (have, wanted) = (ours(kernel.host.observe().unwrap()), ours(wanted));
    assert_eq!(have.to_string(), wanted.to_string());
}

#[test]
fn full_passes_beside_eight_who_attach_and_detach_touch_nothing_that_nobody_changed() {
    on_private_host(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let state = tempfile::tempdir().unwrap();
            let bare = Kernel::open().unwrap().observe().unwrap();
            let daemon = Running::start(state.path(), Twin::after(bare)).await;
            write(&daemon.controller, bystanders()).await;
            daemon.settled().await;
            let standing = daemon.twin.kernel.observe().unwrap();
            let uids: BTreeSet<Uid> = daemon.world().objects().map(|object| object.meta().uid).collect();
            let (looks, begun) =
                (daemon.twin.looks.load(Ordering::SeqCst), daemon.twin.taken.lock().unwrap().len());

            let churning = (0..8).map(|number| tokio::spawn(churn(daemon.controller.clone(), number)));
            let churning = futures_util::future::join_all(churning);
            let mut churning = std::pin::pin!(churning);
            loop {
                tokio::select! {
                    ended = &mut churning => break ended.into_iter().for_each(Result::unwrap),
                    () = daemon.full_pass() => {}
                }
            }
            daemon.settled().await;

            let passes = daemon.twin.looks.load(Ordering::SeqCst) - looks;
            let taken = daemon.twin.taken.lock().unwrap()[begun..].to_vec();
            println!("{passes} full passes, {} steps", taken.len());
            assert!(passes >= 5);
            for step in taken {
                let is_theirs = match &step.action {
                    Action::AddRule(element) | Action::RemoveRule(element) => {
                        standing.rules.elements.contains(element)
                    }
                    _ => step.uid.is_none_or(|uid| uids.contains(&uid)),
                };
                let is_idle = matches!(step.action, Action::Forget(_));
                assert!(!is_theirs || is_idle, "nobody has changed what this is about: {step}");
            }
            assert_eq!(daemon.twin.kernel.observe().unwrap().to_string(), standing.to_string());
            daemon.end().await;
        });
    });
}
