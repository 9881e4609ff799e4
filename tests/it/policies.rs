//! Policies through their doors: what is kept, what they select, who is refused, what is in the way of a delete.

use netloom_api::{Direction, Policy};
use netloom_client::{Draft, ListOptions, UpdateOptions, WriteOptions};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, on_host},
    netloom::Netloom,
    rest::Rest,
};

/// Two networks with a member each, `app` and `db`.
async fn members(rest: &Rest) {
    for (name, cidr) in [("front", "10.1.0.0/24"), ("back", "10.2.0.0/24")] {
        let spec = json!({"subnets": [{"cidr": cidr}]});
        rest.post("/v1/networks", &json!({"name": name, "spec": spec})).await.ok();
    }
    for (name, network) in [("app", "front"), ("db", "back")] {
        rest.post("/v1/namespaces", &json!({"name": name})).await.ok();
        let spec = json!({"namespace": name, "network": network});
        rest.post("/v1/attachments", &json!({"name": name, "labels": {"role": name}, "spec": spec}))
            .await
            .ok();
    }
}

fn full() -> Value {
    json!({"selector": {"labels": {"role": "db"}, "network": "back"},
        "ingress": [{"peers": [{"labels": {"role": "app"}}, {"network": "front"}, {"labels": {"role": "app"}, "network": "front"}],
            "ports": [{"protocol": "tcp", "port": 5432}, {"protocol": "udp", "port": 1000, "end_port": 2000}]}, {}],
        "egress": [{"peers": [{"cidr": "10.0.0.0/8", "except": ["10.3.0.0/16", "10.4.0.1/32"]}, {"cidr": "fd00::/8"}],
            "ports": [{"protocol": "icmp", "type": 8}, {"protocol": "icmpv6", "type": 128, "code": 0}, {"protocol": "sctp"}]}],
        "log": true})
}

async fn selected(rest: &Rest, name: &str) -> Value {
    rest.get(&format!("/v1/policies/{name}")).await.unwrap().ok()["status"]["selected"].clone()
}

#[test]
fn a_policy_is_kept_as_it_was_sent_and_says_whom_it_selects() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        members(&rest).await;
        let made = rest.post("/v1/policies", &json!({"name": "db", "spec": full()})).await.ok();
        assert_eq!(made["spec"], full());
        assert_eq!(made["status"]["conditions"][0]["status"], "True", "{made:#}");
        assert_eq!(made["status"]["directions"], json!(["ingress", "egress"]));
        assert_eq!(made["status"]["selected"], 1);

        // Both doors, a restart and an export tell the same.
        let client = daemon.client().await;
        let name = "db".parse().unwrap();
        assert_eq!(json!(client.get::<Policy>(&name).await.unwrap()), made);
        let listed = client
            .list::<Policy>(ListOptions { network: Some("back".parse().unwrap()), ..Default::default() })
            .await;
        assert_eq!(listed.unwrap().items.len(), 1);
        assert_eq!(rest.get("/v1/policies?network=front").await.unwrap().ok()["items"], json!([]));
        let export = rest.get("/v1/export").await.unwrap().ok();
        daemon.crash_and_restart().await;
        assert_eq!(rest.get("/v1/policies/db").await.unwrap().ok()["spec"], full());
        let again = rest.post("/v1/apply", &export).await.ok();
        let changes = again["changes"].as_array().unwrap();
        assert!(changes.iter().all(|change| change["action"] == "unchanged"), "{again:#}");

        // Relabelled, it is another's, and a label or a member more is counted.
        rest.patch("/v1/attachments/db", &json!({"labels": {"role": "old"}})).await.ok();
        assert_eq!(selected(&rest, "db").await, 0);
        rest.patch("/v1/policies/db", &json!({"spec": {"selector": {"labels": null}}})).await.ok();
        assert_eq!(selected(&rest, "db").await, 1);
        rest.post(
            "/v1/attachments",
            &json!({"name": "more", "spec": {"namespace": "app", "network": "back"}}),
        )
        .await
        .ok();
        assert_eq!(selected(&rest, "db").await, 2);
        rest.patch("/v1/policies/db", &json!({"spec": {"selector": null, "egress": []}})).await.ok();
        let open = rest.get("/v1/policies/db").await.unwrap().ok();
        assert_eq!(
            (&open["status"]["selected"], &open["status"]["directions"]),
            (&json!(3), &json!(["ingress"]))
        );
        rest.delete("/v1/policies/db").await.ok();
        assert_eq!(rest.get("/v1/policies").await.unwrap().ok()["items"], json!([]));
        let events = rest.get("/v1/events?kind=Policy&page_size=100").await.unwrap().ok();
        let types: Vec<&str> = events["events"]
            .as_array()
            .or(events["items"].as_array())
            .unwrap()
            .iter()
            .map(|event| event["type"].as_str().unwrap())
            .collect();
        assert!(
            types.contains(&"created") && types.contains(&"updated") && types.contains(&"deleted"),
            "{types:?}"
        );
    });
}

#[test]
fn an_update_over_grpc_changes_what_its_mask_names_of_a_policy() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        members(&rest).await;
        rest.post("/v1/policies", &json!({"name": "db", "spec": full()})).await.ok();
        let client = daemon.client().await;
        let update = async |spec: Value, mask: &[&str]| {
            let draft = Draft::<Policy>::new("db".parse().unwrap(), serde_json::from_value(spec).unwrap());
            let mask = mask.iter().map(|field| (*field).to_owned()).collect();
            client.update(draft, UpdateOptions { mask, ..UpdateOptions::default() }).await.unwrap().spec
        };
        // Without a mask what is set changes; maps and lists are replaced.
        let spec =
            update(json!({"selector": {"labels": {"tier": "one"}}, "ingress": [{"peers": [{}]}]}), &[]).await;
        assert_eq!(json!(spec.selector), json!({"labels": {"tier": "one"}, "network": "back"}));
        assert_eq!((json!(spec.ingress), spec.egress.len()), (json!([{"peers": [{}]}]), 1));
        let spec = update(
            json!({"directions": ["ingress"]}),
            &["spec.directions", "spec.egress", "spec.selector.network"],
        )
        .await;
        assert_eq!(spec.directions().collect::<Vec<_>>(), [Direction::Ingress]);
        assert_eq!(json!(spec.selector), json!({"labels": {"tier": "one"}}));
        let made = Draft::<Policy>::new("closed".parse().unwrap(), Default::default());
        let made = client.create(made, WriteOptions::default()).await.unwrap();
        assert_eq!((made.status.noun.selected, json!(made.spec)), (2, json!({})));
    });
}

#[test]
fn nobody_who_can_pose_as_another_is_ever_selected() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        members(&rest).await;
        let refused = async |reply: crate::rest::Reply, field: &str| {
            assert_eq!((reply.status, &reply.body["reason"]), (409, &json!("SPOOF_GUARD_OFF")), "{reply:#?}");
            assert_eq!(reply.body["violations"][0]["field"], field, "{reply:#?}");
            let (policy, network) = (&reply.body["metadata"]["policy"], &reply.body["metadata"]["network"]);
            assert_eq!((policy, network), (&json!("db"), &json!("back")), "{reply:#?}");
        };
        let policy = json!({"name": "db", "spec": {"selector": {"labels": {"role": "db"}}}});
        let guard = |on: bool| json!({"spec": {"spoof_guard": on}});
        // A policy of members that are not guarded; its guard switched off; somebody relabelled, or attached.
        rest.patch("/v1/networks/back", &guard(false)).await.ok();
        refused(rest.post("/v1/policies", &policy).await, "spec.selector").await;
        rest.patch("/v1/networks/back", &guard(true)).await.ok();
        rest.post("/v1/policies", &policy).await.ok();
        refused(rest.patch("/v1/networks/back", &guard(false)).await, "spec.spoof_guard").await;
        rest.patch("/v1/attachments/db", &json!({"labels": {"role": null}})).await.ok();
        rest.patch("/v1/networks/back", &guard(false)).await.ok();
        refused(rest.patch("/v1/attachments/db", &json!({"labels": {"role": "db"}})).await, "spec.network")
            .await;
        let new =
            json!({"name": "new", "labels": {"role": "db"}, "spec": {"namespace": "app", "network": "back"}});
        refused(rest.post("/v1/attachments", &new).await, "spec.network").await;
        // In one set: what is left counts, whatever the order. With the guard, or without the policy, all is well.
        let kind = |kind: &str, mut object: Value| {
            object["kind"] = kind.into();
            object
        };
        let network = |on: bool| json!({"kind": "Network", "name": "back", "spec": {"subnets": [{"cidr": "10.2.0.0/24"}], "spoof_guard": on}});
        let set = |on: bool| json!({"objects": [kind("Attachment", new.clone()), network(on)]});
        refused(rest.post("/v1/apply", &set(false)).await, "objects[0].spec.network").await;
        let mut part = set(false);
        part["atomic"] = json!(false);
        let partly = rest.post("/v1/apply", &part).await.ok();
        assert_eq!(partly["changes"][0]["error"]["reason"], "SPOOF_GUARD_OFF", "{partly:#}");
        rest.post("/v1/apply", &set(true)).await.ok();
        rest.delete("/v1/policies/db").await.ok();
        rest.patch("/v1/networks/back", &guard(false)).await.ok();
    });
}

#[test]
fn a_network_that_a_policy_names_does_not_go_unless_forced_and_its_peers_are_nobody_then() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        members(&rest).await;
        let peers =
            json!({"selector": {"labels": {"role": "app"}}, "ingress": [{"peers": [{"network": "back"}]}]});
        rest.post("/v1/policies", &json!({"name": "by-peer", "owner": "ci-1", "spec": peers})).await.ok();
        rest.post("/v1/policies", &json!({"name": "of-it", "spec": {"selector": {"network": "back"}}}))
            .await
            .ok();
        rest.delete("/v1/attachments/db").await.ok();
        let refused = rest.delete("/v1/networks/back").await;
        assert_eq!(
            (refused.status, &refused.body["reason"]),
            (409, &json!("HAS_DEPENDENTS")),
            "{refused:#?}"
        );
        assert_eq!(refused.body["metadata"]["dependents"], "Policy/of-it,Policy/by-peer");
        rest.delete("/v1/networks/back?force=true").await.ok();
        // What selected its members has nobody to select; what named it as a peer still closes what it selects.
        let left = rest.get("/v1/policies").await.unwrap().ok();
        assert_eq!(left["items"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&left["items"][0]["name"], &left["items"][0]["status"]["selected"]),
            (&json!("by-peer"), &json!(1))
        );
        // It can change, and come to name nobody else who is not there.
        rest.patch("/v1/policies/by-peer", &json!({"spec": {"log": true}})).await.ok();
        let other = json!({"spec": {"egress": [{"peers": [{"network": "nowhere"}]}]}});
        assert_eq!(rest.patch("/v1/policies/by-peer", &other).await.status, 409);
        // Pruned by its owner's next set, with the network that it names.
        let gone = rest.post("/v1/apply", &json!({"objects": [], "owner": "ci-1", "prune": true})).await.ok();
        assert_eq!(gone["changes"][0]["action"], "deleted", "{gone:#}");
    });
}

#[test]
fn a_policy_is_written_and_read_by_hand() {
    on_host(async || {
        let daemon = Daemon::start().await;
        members(&daemon.rest()).await;
        let netloom = Netloom::at(&daemon.socket);
        let made = netloom.run("policy add db --select role=db --from role=app+network:front,10.0.0.0/8-10.3.0.0/16@tcp/5432,icmp/8 --log").ok();
        assert_eq!(made, "policy db: ingress of role=db, 1 now, ready\n");
        let shown = netloom.run("policy show db").ok();
        for part in ["role=db (1 now)", "network:front+role=app", "10.0.0.0/8-10.3.0.0/16@tcp/5432,icmp/8"] {
            let part = part.replace("network:front+role=app", "role=app+network:front");
            assert!(shown.contains(&part), "{part} is not in\n{shown}");
        }
        netloom.run("policy add quiet --network back --directions egress --to any@udp/53").ok();
        assert_eq!(netloom.run("policy ls -o name").ok(), "db\nquiet\n");
        assert_eq!(netloom.run("policy ls --network back -o name").ok(), "quiet\n");
        let table = netloom.run("policy ls").ok();
        assert!(
            table.lines().nth(1).unwrap().contains("role=db") && table.contains("network:back"),
            "{table}"
        );
        netloom.run("set policy quiet directions=[ingress,egress] selector.labels.role=db log=true").ok();
        assert!(netloom.run("policy show quiet").ok().contains("role=db+network:back (1 now)"));
        assert!(netloom.run("status").ok().contains("policies"));
        netloom.run("policy rm db").ok();
        assert!(netloom.run("policy add bad --from nobody").failed(2).contains("KEY=VALUE"));
    });
}
