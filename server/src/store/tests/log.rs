//! The log: pages, followers, what is no longer kept; and the requests.

use std::time::Duration;

use netloom_api::{AnyObject, EventType, Kind, Timestamp};

use super::fixtures::*;
use crate::{
    config::EventRetention,
    store::{Batch, EventQuery, RequestRecord, Store, StoreError, StoreOptions},
};

/// A log of one `created` for each namespace n0, n1, … and a `status` after it.
async fn logged(store: &Store, count: usize) {
    for n in 0..count {
        let of = format!("n{n}");
        let events =
            [EventType::Created, EventType::Status].map(|type_| event(Kind::Namespace, &of, type_)).to_vec();
        store.submit(Batch { events, ..Batch::default() }).unwrap().written.await.unwrap();
    }
}

fn after(after: i64, limit: u32) -> EventQuery {
    EventQuery { after: Some(after), limit, ..EventQuery::default() }
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_overlap() {
    let dir = temp();
    let store = open(dir.path()).await;
    logged(&store, 5).await;
    let (mut at, mut seen) = (0, Vec::new());
    loop {
        let page = store.events(after(at, 3)).await.unwrap();
        seen.extend(page.items.iter().map(|event| event.seq));
        if page.items.is_empty() {
            assert_eq!(page.seq, 10);
            break;
        }
        at = page.seq;
    }
    assert_eq!(seen, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn filters_leave_out_and_the_page_says_how_far_was_looked() {
    let dir = temp();
    let store = open(dir.path()).await;
    logged(&store, 5).await;
    let created = EventQuery { types: vec![EventType::Created], ..after(0, 100) };
    let page = store.events(created.clone()).await.unwrap();
    assert_eq!(page.items.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
    assert_eq!(page.seq, 10);
    let full = store.events(EventQuery { limit: 2, ..created }).await.unwrap();
    assert_eq!((full.items.len(), full.seq), (2, 3));
    let none = EventQuery { kinds: vec![Kind::Network, Kind::PortForward], ..after(2, 100) };
    let none = store.events(none).await.unwrap();
    assert_eq!((none.items, none.seq), (vec![], 10));
    let one = EventQuery { name: Some(name("n3")), kinds: vec![Kind::Namespace], ..after(0, 100) };
    assert_eq!(store.events(EventQuery { until: Some(7), ..one }).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn an_event_comes_back_with_all_its_fields() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut follower = store.follow();
    let object = serde_json::json!({
        "kind": "Namespace", "name": "red", "uid": netloom_api::Uid::generate(), "generation": 1, "revision": 1,
        "etag": format!("{}.1", netloom_api::Uid::generate()), "create_time": Timestamp::now(),
        "update_time": Timestamp::now(), "spec": {},
        "status": {"observed_generation": 0, "conditions": [], "attachments": 0, "cookie": u64::MAX},
    });
    let full = netloom_api::Event {
        request_id: Some("r-1".into()),
        reason: Some("Programmed".into()),
        object: Some(serde_json::from_value::<AnyObject>(object).unwrap()),
        ..event(Kind::Namespace, "red", EventType::Updated)
    };
    let bare =
        netloom_api::Event { actor: None, message: None, ..event(Kind::Network, "net", EventType::Deleted) };
    let events = vec![full.clone(), bare.clone()];
    store.submit(Batch { events, ..Batch::default() }).unwrap().written.await.unwrap();
    let expected = [netloom_api::Event { seq: 1, ..full }, netloom_api::Event { seq: 2, ..bare }];
    assert_eq!(store.events(after(0, 10)).await.unwrap().items, expected);
    for one in expected {
        assert_eq!(*follower.recv().await.unwrap(), one);
    }
}

#[tokio::test]
async fn an_event_of_a_failed_batch_is_never_told() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut follower = store.follow();
    Head::of(&store).write(vec![attachment("a", "red", "net", 1, 2)], vec![]).await.unwrap_err();
    Head::of(&store).write(vec![namespace("red")], vec![]).await.unwrap();
    let told = follower.recv().await.unwrap();
    assert_eq!((told.seq, told.name.as_str()), (1, "red"));
}

#[tokio::test]
async fn a_follower_that_lags_is_told_so() {
    let dir = temp();
    let store = open(dir.path()).await;
    let mut follower = store.follow();
    let events = vec![event(Kind::Namespace, "red", EventType::Status); 1025];
    store.submit(Batch { events, ..Batch::default() }).unwrap().written.await.unwrap();
    assert!(matches!(follower.recv().await, Err(tokio::sync::broadcast::error::RecvError::Lagged(_))));
}

#[tokio::test]
async fn what_is_beyond_the_retention_expires() {
    let dir = temp();
    let options = |count, age| StoreOptions {
        state_dir: dir.path().to_owned(),
        events: EventRetention { count, age: Duration::from_secs(age) },
    };
    let store = Store::open(options(4, 3600)).await.unwrap();
    logged(&store, 5).await;
    prune(&store).await;
    assert_eq!(store.events(after(5, 10)).await, Err(StoreError::Expired { pruned: 6 }));
    let page = store.events(after(6, 10)).await.unwrap();
    assert_eq!(page.items.iter().map(|event| event.seq).collect::<Vec<_>>(), [7, 8, 9, 10]);
    let oldest = store.events(EventQuery { limit: 10, ..EventQuery::default() }).await.unwrap();
    assert_eq!(oldest, page);
    store.close().await;

    // Too old, all of them; and the position stays known over a restart, so that numbers never come twice.
    let store = Store::open(options(4, 0)).await.unwrap();
    assert_eq!(store.events(after(5, 10)).await, Err(StoreError::Expired { pruned: 6 }));
    prune(&store).await;
    assert_eq!(store.events(after(9, 10)).await, Err(StoreError::Expired { pruned: 10 }));
    store.close().await;
    let store = Store::open(options(4, 3600)).await.unwrap();
    logged(&store, 1).await;
    assert_eq!(store.events(after(10, 10)).await.unwrap().items[0].seq, 11);
}

#[tokio::test]
async fn a_request_is_known_again_for_a_day() {
    let dir = temp();
    let store = open(dir.path()).await;
    let record = |key: &str, time| RequestRecord {
        actor: "uid:0".into(),
        key: key.parse().unwrap(),
        hash: "abc".into(),
        kind: Kind::Namespace,
        name: name("red"),
        uid: netloom_api::Uid::generate(),
        time,
    };
    let day = 24 * 3600 * 1_000_000;
    let now = Timestamp::now();
    let (new, old) = (record("new", now), record("old", Timestamp::from_micros(now.as_micros() - day - 1)));
    for request in [&new, &old] {
        let batch = Batch { request: Some(request.clone()), ..Batch::default() };
        store.submit(batch).unwrap().written.await.unwrap();
        assert_eq!(store.request("uid:0", &request.key).await.as_ref(), Ok(&Some(request.clone())));
        assert_eq!(store.request("uid:1", &request.key).await, Ok(None));
    }
    let twice = Batch { request: Some(new.clone()), ..Batch::default() };
    assert!(matches!(store.submit(twice).unwrap().written.await, Err(StoreError::Guard(_))));
    prune(&store).await;
    assert_eq!(store.request("uid:0", &old.key).await, Ok(None));
    assert_eq!(store.request("uid:0", &new.key).await, Ok(Some(new)));
}
