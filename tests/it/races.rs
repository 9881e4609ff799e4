//! Many at once: whatever the order, what stands in the end is what was answered, each address is given once, and nothing
//! is left over. `NETLOOM_RACES` makes the crowds come that many times.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use netloom_server::{kernel::Kernel, reconcile::Host as _};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::{
    host::{Daemon, on_host},
    rest::{Reply, Rest},
};

/// How long all may take until nothing moves any more.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

/// How many times the crowd comes.
fn times() -> usize {
    std::env::var("NETLOOM_RACES").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

fn snapshot() -> BTreeSet<String> {
    let text = Kernel::open().unwrap().observe().unwrap().to_string();
    text.lines().map(str::to_owned).collect()
}

/// Waits until the host is as it was; an answer may come before the last of what was cancelled is done.
async fn back_to(before: &BTreeSet<String>) {
    let begun = Instant::now();
    loop {
        let now = snapshot();
        if now == *before {
            return;
        }
        let more: Vec<_> = now.difference(before).collect();
        assert!(begun.elapsed() < SETTLES_WITHIN, "left over: {more:#?}");
        // Nothing announces it to this process.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn items(rest: &Rest, kind: &str) -> Vec<Value> {
    let list = rest.get(&format!("/v1/{kind}?page_size=1000")).await.unwrap().ok();
    list["items"].as_array().unwrap().clone()
}

/// Deletes everything, and waits until nothing is left of it.
async fn wipe(rest: &Rest) {
    let begun = Instant::now();
    loop {
        let mut left = 0;
        for kind in [
            "policies",
            "routes",
            "port-forwards",
            "attachments",
            "reservations",
            "links",
            "networks",
            "namespaces",
        ] {
            for one in items(rest, kind).await.iter().filter(|one| one["name"] != "host") {
                left += 1;
                let name = one["name"].as_str().unwrap();
                rest.delete(&format!("/v1/{kind}/{name}?force=true&allow_missing=true")).await.ok();
            }
        }
        if left == 0 {
            return;
        }
        assert!(begun.elapsed() < SETTLES_WITHIN, "{left} objects do not go");
    }
}

fn reason(reply: &Reply) -> &str {
    reply.body["reason"].as_str().unwrap_or_default()
}

async fn make(rest: &Rest, namespaces: usize, network: Value) {
    for number in 0..namespaces {
        rest.post("/v1/namespaces", &json!({"name": format!("ns{number}")})).await.ok();
    }
    rest.post("/v1/networks", &json!({"name": "net", "spec": network})).await.ok();
}

fn attachment(name: &str, namespace: usize) -> Value {
    json!({"name": name, "spec": {"namespace": format!("ns{namespace}"), "network": "net"}})
}

fn address(object: &Value) -> String {
    object["status"]["addresses"][0].as_str().unwrap().to_owned()
}

/// A generator of small choices; each client has its own, so that a run can be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What is wrong with a process that has worked with namespaces: threads that stayed in one, and descriptors that hold
/// one that is gone.
fn strays(pid: u32) -> Vec<String> {
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        // A thread may end meanwhile.
        if let Ok(net) = std::fs::read_link(task.path().join("ns/net"))
            && net != own
        {
            found.push(format!("a thread is in {}", net.display()));
        }
    }
    for descriptor in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        if let Ok(target) = std::fs::read_link(descriptor.path())
            && target.to_string_lossy().starts_with("net:[")
            && target != own
        {
            found.push(format!("a descriptor holds {}", target.display()));
        }
    }
    found
}

/// Waits until a daemon whose namespaces are all gone holds none of them.
async fn holds_nothing(daemon: &Daemon) {
    let begun = Instant::now();
    while !strays(daemon.pid()).is_empty() {
        assert!(begun.elapsed() < SETTLES_WITHIN, "{:?}", strays(daemon.pid()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What a client of the crowd got to hear: status and reason, how often.
type Heard = BTreeMap<(u16, String), usize>;

/// Answers that the calls of the crowd may get.
const DOCUMENTED: [(u16, &str); 13] = [
    (200, ""),
    (201, ""),
    (404, "NOT_FOUND"),
    (409, "ALREADY_EXISTS"),
    (409, "BEING_DELETED"),
    (409, "REFERENCE_NOT_FOUND"),
    (409, "HAS_DEPENDENTS"),
    (409, "ADDRESS_TAKEN"),
    (409, "POOL_EXHAUSTED"),
    (409, "PORT_TAKEN"),
    (409, "ROUTE_TAKEN"),
    (409, "NAMESPACE_IN_USE"),
    (412, "ETAG_MISMATCH"),
];

/// Who has which address, as clients were told.
type Holders = Arc<Mutex<BTreeMap<String, usize>>>;

/// One client of the crowd: its own things and everybody's.
async fn client(rest: Rest, number: usize, rounds: usize, holders: Holders) -> Heard {
    let (mut dice, mut heard) = (Dice(number as u64 + 1), Heard::new());
    let own = format!("own{number}");
    for _ in 0..rounds {
        let shared = dice.roll(4);
        let reply = match dice.roll(8) {
            0 | 1 => own_attachment(&rest, &own, number, &holders).await,
            2 => rest.post("/v1/attachments", &attachment(&format!("all{shared}"), 0)).await,
            3 => rest.delete(&format!("/v1/attachments/all{shared}")).await,
            4 => {
                let labels = json!({"labels": {"by": number.to_string()}, "spec": {"metric": 200 + number}});
                rest.patch(&format!("/v1/attachments/all{shared}"), &labels).await
            }
            5 => {
                let spec = json!({"protocol": "tcp", "listen": {"port": 9000 + shared},
                    "target": {"attachment": format!("all{shared}"), "port": 80}});
                rest.post("/v1/port-forwards", &json!({"name": format!("port{shared}"), "spec": spec})).await
            }
            6 => rest.delete(&format!("/v1/port-forwards/port{shared}?force=true")).await,
            _ => {
                cancelled(&rest, &attachment(&format!("all{shared}"), 1), dice.roll(3)).await;
                continue;
            }
        };
        *heard.entry((reply.status, reason(&reply).to_owned())).or_default() += 1;
    }
    heard
}

/// Attaches and detaches; between the two answers nobody else has the address.
async fn own_attachment(rest: &Rest, name: &str, number: usize, holders: &Holders) -> Reply {
    let made = rest.post("/v1/attachments", &attachment(name, 2)).await;
    if made.status != 201 {
        return made;
    }
    let address = address(&made.body);
    let other = holders.lock().unwrap().insert(address.clone(), number);
    assert_eq!(other, None, "{address} was given to two");
    holders.lock().unwrap().remove(&address);
    rest.delete(&format!("/v1/attachments/{name}")).await
}

/// Asks for an attachment and goes away: at once, or when some of the work may be done.
async fn cancelled(rest: &Rest, body: &Value, patience: u64) {
    let mut stream = rest.unix().await;
    let body = body.to_string();
    let head = format!(
        "POST /v1/attachments HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // What the daemon makes of a broken connection is its affair.
    drop(stream.write_all((head + &body).as_bytes()).await);
    tokio::time::sleep(Duration::from_millis(patience)).await;
}

#[test]
fn a_crowd_that_makes_changes_deletes_and_goes_away_leaves_nothing_behind() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let before = snapshot();
        let mut largest = 0;
        for round in 0..times() {
            make(&rest, 3, json!({"subnets": [{"cidr": "10.0.0.0/24"}], "egress": {"nat": {}}})).await;
            let holders = Holders::default();
            let clients =
                (0..64).map(|number| tokio::spawn(client(daemon.rest(), number, 8, holders.clone())));
            let heard = join_all(clients).await.into_iter().map(Result::unwrap);
            let mut all = Heard::new();
            heard.flatten().for_each(|(answer, times)| *all.entry(answer).or_default() += times);
            println!("{all:?}");
            for (status, reason) in all.keys() {
                let is_documented = DOCUMENTED.contains(&(*status, reason.as_str()));
                assert!(is_documented, "{status} {reason} is not among the answers: {all:#?}");
            }
            agree(&rest).await;
            wipe(&rest).await;
            back_to(&before).await;
            holds_nothing(&daemon).await;
            let resident = resident_kib(daemon.pid());
            println!("resident: {resident} KiB");
            if round == 0 {
                largest = resident + resident / 4 + 8192;
            }
            assert!(
                resident <= largest,
                "{resident} KiB after {round} crowds, and {largest} are enough for one"
            );
        }
    });
}

/// Allocations and Attachments say the same, and each address is given once; all are Ready.
async fn agree(rest: &Rest) {
    let begun = Instant::now();
    loop {
        let attachments = items(rest, "attachments").await;
        let allocations = items(rest, "allocations").await;
        let ready = |one: &Value| one["status"]["conditions"][0]["status"] == "True";
        if attachments.iter().all(ready) {
            let held: Vec<_> =
                allocations.iter().map(|one| one["address"].as_str().unwrap().to_owned()).collect();
            let once: BTreeSet<_> = held.iter().collect();
            assert_eq!(held.len(), once.len(), "each address once: {held:?}");
            // The gateway has one, too.
            assert_eq!(held.len(), attachments.len() + 1, "{held:?}");
            return;
        }
        assert!(begun.elapsed() < SETTLES_WITHIN, "{attachments:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_network_that_is_deleted_beside_thirty_attaches_goes_whole_or_stays_whole() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let before = snapshot();
        for round in 0..4 * times() {
            make(&rest, 3, json!({"subnets": [{"cidr": "10.0.0.0/24"}]})).await;
            let force = round % 2 == 1;
            let attaches =
                (0..30).map(|number| {
                    let rest = rest.clone();
                    async move {
                        rest.post("/v1/attachments", &attachment(&format!("a{number}"), number % 3)).await
                    }
                });
            let delete = async {
                // Before most of them, in the middle, or behind.
                tokio::time::sleep(Duration::from_millis(round as u64 / 2 % 4 * 2)).await;
                rest.delete(&format!("/v1/networks/net?force={force}")).await
            };
            let (attached, deleted) = tokio::join!(join_all(attaches), delete);
            for reply in &attached {
                let may_be =
                    reply.status == 201 || ["REFERENCE_NOT_FOUND", "BEING_DELETED"].contains(&reason(reply));
                assert!(may_be, "{reply:#?}");
            }
            let left = items(&rest, "attachments").await;
            if deleted.status == 200 {
                assert_eq!(left, Vec::<Value>::new(), "with the network went all that was on it");
                assert_eq!(items(&rest, "allocations").await, Vec::<Value>::new());
            } else {
                assert_eq!((reason(&deleted), force), ("HAS_DEPENDENTS", false));
                assert!(attached.iter().all(|reply| reply.status == 201), "{attached:#?}");
                assert_eq!(left.len(), 30);
            }
            println!("force {force}: {} {}, {} attached", deleted.status, reason(&deleted), left.len());
            wipe(&rest).await;
            back_to(&before).await;
        }
        holds_nothing(&daemon).await;
    });
}

#[test]
fn of_fifty_attaches_of_one_name_one_wins_and_of_as_many_as_there_are_addresses_all_do() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let before = snapshot();
        let ranges = json!([{"first": "10.0.0.10", "last": "10.0.0.63"}]);
        make(&rest, 4, json!({"subnets": [{"cidr": "10.0.0.0/24", "ranges": ranges}]})).await;
        let same = join_all((0..50).map(|_| {
            let rest = rest.clone();
            async move { rest.post("/v1/attachments", &attachment("red0", 0)).await }
        }));
        let replies = same.await;
        let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 201);
        assert_eq!(won.len(), 1);
        assert!(
            lost.iter().all(|reply| (reply.status, reason(reply)) == (409, "ALREADY_EXISTS")),
            "{lost:#?}"
        );
        let ports = |lines: BTreeSet<String>| lines.iter().filter(|line| line.contains(" master ")).count();
        assert_eq!((ports(snapshot()), items(&rest, "allocations").await.len()), (1, 2));
        rest.delete("/v1/attachments/red0").await.ok();

        // 54 addresses, and 64 who want one. Several interfaces of one namespace on one network are several Attachments.
        let many =
            join_all(
                (0..64).map(|number| {
                    let rest = rest.clone();
                    async move {
                        rest.post("/v1/attachments", &attachment(&format!("a{number}"), number % 4)).await
                    }
                }),
            );
        let replies = many.await;
        let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 201);
        assert_eq!(won.len(), 54, "{lost:#?}");
        assert!(
            lost.iter().all(|reply| (reply.status, reason(reply)) == (409, "POOL_EXHAUSTED")),
            "{lost:#?}"
        );
        assert_eq!(won.iter().map(|reply| address(&reply.body)).collect::<BTreeSet<_>>().len(), 54);
        assert_eq!(ports(snapshot()), 54);
        agree(&rest).await;
        wipe(&rest).await;
        back_to(&before).await;
    });
}

#[test]
fn a_delete_that_comes_late_does_not_meet_the_one_that_has_the_name_now() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        make(&rest, 1, json!({"subnets": [{"cidr": "10.0.0.0/24"}]})).await;
        for _ in 0..10 * times() {
            let old = rest.post("/v1/attachments", &attachment("red0", 0)).await.ok();
            let etag = old["etag"].as_str().unwrap();
            let late = rest.if_match(etag);
            rest.delete("/v1/attachments/red0").await.ok();
            let again = attachment("red0", 0);
            let (new, late) =
                tokio::join!(rest.post("/v1/attachments", &again), late.delete("/v1/attachments/red0"));
            let new = new.ok();
            assert!(["ETAG_MISMATCH", "NOT_FOUND"].contains(&reason(&late)), "{late:#?}");
            let now = rest.get("/v1/attachments/red0").await.unwrap().ok();
            assert_eq!(now["uid"], new["uid"]);
            rest.delete("/v1/attachments/red0").await.ok();
        }
    });
}

#[test]
fn a_retry_that_overtakes_its_first_try_gets_the_same_object() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        make(&rest, 1, json!({"subnets": [{"cidr": "10.0.0.0/24"}]})).await;
        for round in 0..3 * times() {
            let (name, key) = (format!("a{round}"), format!("key-{round}"));
            let tries = (0..16).map(|_| {
                let (rest, name) = (rest.key(&key), name.clone());
                async move { rest.post("/v1/attachments", &attachment(&name, 0)).await }
            });
            let uids: BTreeSet<String> = join_all(tries)
                .await
                .into_iter()
                .map(|reply| reply.ok()["uid"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(uids.len(), 1, "{uids:?}");
        }
        assert_eq!(items(&rest, "attachments").await.len(), 3 * times());
    });
}
