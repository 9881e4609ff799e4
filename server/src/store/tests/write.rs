//! Writing: order, groups, failure, durability, the second line of guards.

use std::time::Instant;

use netloom_api::{EventType, Kind};

use super::fixtures::*;
use crate::store::{Batch, StoreError, Written};

#[tokio::test]
async fn every_noun_comes_back_as_it_was_put() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    let all = vec![
        namespace("blue"),
        network("v-net-0", 1),
        attachment("blue0", "blue", "v-net-0", 1, 2),
        forward("web", None, 80, Some(90)),
        reservation("vip", "v-net-0", 1, 77),
    ];
    head.world.set_cursor(&name("v-net-0"), &"10.1.0.0/24".parse().unwrap(), "10.1.0.2".parse().unwrap());
    let mut batch = head.batch(all, vec![]);
    batch.cursors.push((name("v-net-0"), "10.1.0.0/24".parse().unwrap(), "10.1.0.2".parse().unwrap()));
    let receipt = store.submit(batch).unwrap();
    assert_eq!(receipt.written.await, Ok(Written { seq: 5 }));
    assert_eq!(receipt.durable.await, Ok(()));
    assert_eq!(*store.snapshot().world, head.world);
    store.close().await;

    let again = open(dir.path()).await.snapshot();
    assert_eq!(*again.world, head.world);
    assert_eq!((again.seq, again.world.revision), (5, 1));
}

#[tokio::test]
async fn batches_are_committed_in_the_order_of_their_submission() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut follower = store.follow();
    let mut head = Head::of(&store);
    let receipts: Vec<_> = (0..500).map(|n| head.submit(vec![namespace(&format!("n{n}"))], vec![])).collect();
    let mut last = 0;
    for receipt in receipts {
        let Written { seq } = receipt.written.await.unwrap();
        assert!(seq >= last, "{seq} after {last}");
        last = seq;
    }
    for n in 0..500 {
        let event = follower.recv().await.unwrap();
        assert_eq!((event.seq, event.name.clone()), (n + 1, name(&format!("n{n}"))));
    }
    assert_eq!(*store.snapshot().world, head.world);
}

#[tokio::test]
async fn a_group_may_put_remove_and_put_the_same_name_again() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    let (first, second) = (network("net", 1), network("net", 1));
    let subnet = "10.1.0.0/24".parse().unwrap();
    let mut receipts = vec![head.submit(vec![namespace("red")], vec![])];
    head.world.set_cursor(&name("net"), &subnet, "10.1.0.9".parse().unwrap());
    let mut batch = head.batch(vec![first.clone()], vec![]);
    batch.cursors.push((name("net"), subnet, "10.1.0.9".parse().unwrap()));
    receipts.push(store.submit(batch).unwrap());
    receipts.push(head.submit(vec![], vec![first]));
    receipts.push(head.submit(vec![second], vec![]));
    for receipt in receipts {
        receipt.written.await.unwrap();
    }
    assert_eq!(head.world.cursor(&name("net"), &subnet), None);
    store.close().await;
    assert_eq!(*open(dir.path()).await.snapshot().world, head.world);
}

#[tokio::test]
async fn two_attachments_may_swap_their_addresses_in_one_batch() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    let (a, b) = (attachment("a", "red", "net", 1, 2), attachment("b", "red", "net", 1, 3));
    head.write(vec![namespace("red"), network("net", 1), a.clone(), b.clone()], vec![]).await.unwrap();
    let swapped = |of: &_, from: &_| match (of, from) {
        (crate::world::AnyStored::Attachment(of), crate::world::AnyStored::Attachment(from)) => {
            let mut new = (**of).clone();
            new.alloc.addresses = from.alloc.addresses.clone();
            crate::world::AnyStored::Attachment(new.into())
        }
        _ => unreachable!(),
    };
    head.write(vec![swapped(&a, &b), swapped(&b, &a)], vec![]).await.unwrap();
    store.close().await;
    assert_eq!(*open(dir.path()).await.snapshot().world, head.world);
}

#[tokio::test]
async fn a_failed_batch_leaves_nothing_and_voids_what_is_built_on_it() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    let before = head.submit(vec![namespace("before")], vec![]);
    let orphan = head.submit(vec![namespace("half"), attachment("a", "half", "nowhere", 1, 2)], vec![]);
    let dependent = head.submit(vec![namespace("dependent")], vec![]);
    let status = store.submit(Batch {
        events: vec![event(Kind::Namespace, "before", EventType::Status)],
        ..Batch::default()
    });
    before.written.await.unwrap();
    assert!(matches!(orphan.written.await, Err(StoreError::Guard(_))));
    assert!(matches!(orphan.durable.await, Err(StoreError::Guard(_))));
    assert_eq!(dependent.written.await, Err(StoreError::Superseded));
    assert_eq!(status.unwrap().written.await, Ok(Written { seq: 2 }), "events alone are built on nothing");

    // What is still computed in the old epoch is refused; the next begins with the snapshot.
    assert!(store.epoch() != head.epoch);
    let late = head.batch(vec![namespace("late")], vec![]);
    assert!(matches!(store.submit(late), Err(StoreError::Superseded)));
    let mut head = Head::of(&store);
    assert_eq!(head.world.count::<netloom_api::Namespace>(), 1);
    head.write(vec![namespace("after")], vec![]).await.unwrap();
    store.close().await;
    assert_eq!(*open(dir.path()).await.snapshot().world, head.world);
}

#[tokio::test]
async fn the_database_itself_refuses_what_must_not_be() {
    let dir = temp();
    let store = open(dir.path()).await;
    let base = vec![
        namespace("red"),
        network("net", 1),
        attachment("a", "red", "net", 1, 2),
        reservation("vip", "net", 1, 77),
        forward("any", None, 1000, Some(1999)),
        forward("one", Some("10.0.0.1"), 80, None),
    ];
    Head::of(&store).write(base, vec![]).await.unwrap();
    let cases = [
        ("an address that an attachment has", vec![attachment("b", "red", "net", 1, 2)]),
        ("an address that is reserved", vec![attachment("b", "red", "net", 1, 77)]),
        ("the gateway", vec![reservation("b", "net", 1, 1)]),
        ("a namespace that is not there", vec![attachment("b", "blue", "net", 1, 3)]),
        ("a network that is not there", vec![reservation("b", "other", 1, 3)]),
        ("a device that is taken", vec![network("net2", 2), { network_with_device("net3", 3, "br-net") }]),
        ("a name that is taken", vec![namespace("red")]),
        ("a range that meets a range at its end", vec![forward("b", Some("10.0.0.9"), 1999, Some(2100))]),
        ("a range that meets a range at its start", vec![forward("b", None, 900, Some(1000))]),
        ("a port within a range", vec![forward("b", Some("127.0.0.1"), 1500, None)]),
        ("a port for any address", vec![forward("b", None, 80, None)]),
        ("a port of the same address", vec![forward("b", Some("10.0.0.1"), 79, Some(81))]),
    ];
    for (what, puts) in cases {
        let mut head = Head::of(&store);
        let mut batch = head.batch(vec![], vec![]);
        batch.puts = puts;
        let refused = store.submit(batch).unwrap().written.await;
        assert!(matches!(refused, Err(StoreError::Guard(_))), "{what}: {refused:?}");
    }
    let fine = vec![forward("b", Some("10.0.0.2"), 80, None), forward("c", None, 2000, None)];
    Head::of(&store).write(fine, vec![]).await.unwrap();
}

#[tokio::test]
async fn a_parent_does_not_go_before_its_children() {
    let dir = temp();
    let store = open(dir.path()).await;
    let (red, net, a) = (namespace("red"), network("net", 1), attachment("a", "red", "net", 1, 2));
    Head::of(&store).write(vec![red.clone(), net.clone(), a.clone()], vec![]).await.unwrap();
    for parent in [&red, &net] {
        let refused = Head::of(&store).write(vec![], vec![parent.clone()]).await;
        assert!(matches!(refused, Err(StoreError::Guard(_))), "{refused:?}");
    }
    let mut head = Head::of(&store);
    head.write(vec![], vec![red, net, a]).await.unwrap();
    store.close().await;
    assert_eq!(*open(dir.path()).await.snapshot().world, head.world);
}

#[tokio::test]
async fn a_full_disk_fails_writes_until_there_is_room_again() {
    let dir = temp();
    let store = open(dir.path()).await;
    Head::of(&store).write(vec![namespace("before")], vec![]).await.unwrap();
    run(&store, "PRAGMA max_page_count = 1").await.unwrap();
    let mut head = Head::of(&store);
    let many = (0..2000).map(|n| namespace(&format!("n{n}"))).collect();
    let (full, dependent) = (head.submit(many, vec![]), head.submit(vec![namespace("dependent")], vec![]));
    let refused = full.written.await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("full")), "{refused:?}");
    assert_eq!(dependent.written.await, Err(StoreError::Superseded));

    run(&store, "PRAGMA max_page_count = 4294967294").await.unwrap();
    let mut head = Head::of(&store);
    head.write(vec![namespace("after")], vec![]).await.unwrap();
    store.close().await;
    assert_eq!(*open(dir.path()).await.snapshot().world, head.world);
}

#[tokio::test]
async fn a_closed_store_has_written_what_was_submitted_and_takes_nothing_more() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    let last = head.submit(vec![namespace("last")], vec![]);
    store.clone().close().await;
    last.written.await.unwrap();
    last.durable.await.unwrap();
    let batch = head.batch(vec![namespace("late")], vec![]);
    assert!(matches!(store.submit(batch), Err(StoreError::Closed)));
    assert_eq!(store.request("uid:0", &"key".parse().unwrap()).await, Err(StoreError::Closed));
}

#[tokio::test]
#[ignore = "prints numbers: cargo test -p netloom-server --release -- --ignored --nocapture how_long"]
async fn how_long_a_write_takes() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    head.write(vec![namespace("red"), network("net", 1)], vec![]).await.unwrap();
    let (mut written, mut durable) = (Vec::new(), Vec::new());
    for n in 0..3000_u32 {
        let put = match n % 2 {
            0 => namespace(&format!("n{n}")),
            _ => forward(&format!("f{n}"), None, u16::try_from(n).unwrap() + 1, None),
        };
        let start = Instant::now();
        let receipt = head.submit(vec![put], vec![]);
        receipt.written.await.unwrap();
        written.push(start.elapsed());
        receipt.durable.await.unwrap();
        durable.push(start.elapsed());
    }
    for (what, mut times) in [("written", written), ("durable", durable)] {
        times.sort();
        let at = |percent: usize| times[times.len() * percent / 100];
        let max = times[times.len() - 1];
        println!("{what}: p50 {:?}, p90 {:?}, p99 {:?}, max {max:?}", at(50), at(90), at(99));
    }
    let start = Instant::now();
    let receipts: Vec<_> =
        (0..1000).map(|n| head.submit(vec![namespace(&format!("x{n}"))], vec![])).collect();
    for receipt in receipts {
        receipt.durable.await.unwrap();
    }
    println!("1000 batches at once, durable: {:?}", start.elapsed());
}

fn network_with_device(of: &str, n: u8, device: &str) -> crate::world::AnyStored {
    match network(of, n) {
        crate::world::AnyStored::Network(network) => {
            let mut network = (*network).clone();
            network.alloc.device = device.parse().unwrap();
            crate::world::AnyStored::Network(network.into())
        }
        _ => unreachable!(),
    }
}

/// Another process at the same database, as a backup or a curious person would be.
async fn another(dir: &std::path::Path) -> sqlx::SqliteConnection {
    use sqlx::Connection as _;
    let path = dir.join(crate::store::open::DATABASE);
    sqlx::SqliteConnection::connect_with(&crate::store::open::options(&path)).await.unwrap()
}

#[tokio::test]
async fn who_reads_for_long_keeps_nobody_from_writing_and_sees_what_was() {
    use sqlx::{Connection as _, Executor as _};
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    head.write(vec![namespace("red")], vec![]).await.unwrap();
    let mut reader = another(dir.path()).await;
    reader.execute("BEGIN").await.unwrap();
    let count = "SELECT count(*) FROM namespaces";
    let seen: i64 = sqlx::query_scalar(count).fetch_one(&mut reader).await.unwrap();
    for number in 0..200 {
        let began = std::time::Instant::now();
        head.write(vec![namespace(&format!("more{number}"))], vec![]).await.unwrap();
        assert!(began.elapsed() < std::time::Duration::from_secs(2), "{number}: {:?}", began.elapsed());
    }
    let still: i64 = sqlx::query_scalar(count).fetch_one(&mut reader).await.unwrap();
    assert_eq!((seen, still), (1, 1));
    reader.close().await.unwrap();
    store.close().await;
    // Nothing was lost on the way.
    assert_eq!(open(dir.path()).await.snapshot().world.count::<netloom_api::Namespace>(), 201);
}

#[tokio::test]
async fn who_keeps_the_lock_is_waited_for_a_while_and_no_write_is_half_done() {
    use sqlx::{Connection as _, Executor as _};
    let dir = temp();
    let store = open(dir.path()).await;
    let mut head = Head::of(&store);
    head.write(vec![namespace("red")], vec![]).await.unwrap();
    let mut holder = another(dir.path()).await;
    holder.execute("BEGIN IMMEDIATE").await.unwrap();
    let began = std::time::Instant::now();
    let refused = head.write(vec![namespace("late")], vec![]).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Unavailable(why) if why.contains("locked")), "{refused}");
    assert!(began.elapsed() < std::time::Duration::from_secs(15), "{:?}", began.elapsed());
    holder.execute("ROLLBACK").await.unwrap();
    holder.close().await.unwrap();
    let mut head = Head::of(&store);
    head.write(vec![namespace("blue")], vec![]).await.unwrap();
    store.close().await;
    let store = open(dir.path()).await;
    let names: Vec<String> =
        store.snapshot().world.all::<netloom_api::Namespace>().map(|one| one.meta.name.to_string()).collect();
    assert_eq!(names, ["blue", "red"]);
}
