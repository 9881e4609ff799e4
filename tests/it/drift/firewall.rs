//! Who takes the firewall away: where tables can have owners nobody can, and elsewhere it is back within a second.

use std::time::{Duration, Instant};

use netloom_server::{
    kernel::{Kernel, stranger},
    reconcile::Host as _,
};
use serde_json::json;

use super::{WITHIN, back, build, repaired, repairs};
use crate::{
    drift::storm::Bystander,
    host::{Daemon, lan, on_host},
    rest::Rest,
};

async fn publish(rest: &Rest, name: &str, port: u16) {
    let forward = json!({"name": name, "spec":
        {"protocol": "tcp", "listen": {"port": port}, "target": {"attachment": "red0", "port": 80}}});
    rest.post("/v1/port-forwards", &forward).await.ok();
}

#[test]
fn nobody_takes_tables_away_that_have_an_owner_also_not_after_a_restart() {
    on_host(async || {
        let _lan = lan();
        let mut daemon = Daemon::start().await;
        build(&daemon.rest()).await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap();
        for restarted in [false, true] {
            if restarted {
                daemon.crash_and_restart().await;
            }
            assert!(!stranger::delete_table("netloom").unwrap(), "restarted: {restarted}");
            stranger::flush_firewall().unwrap();
            assert_eq!(kernel.observe().unwrap(), before, "restarted: {restarted}");
        }
        assert_eq!(repairs(&daemon.rest()).await, 0);
    });
}

#[test]
fn a_firewall_without_an_owner_is_back_within_a_second_line_by_line() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start_with_faults("owners=no").await;
        let rest = daemon.rest();
        build(&rest).await;
        publish(&rest, "web", 8080).await;
        let bystander = Bystander::open(&rest).await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        assert!(before.contains("8080"), "{before}");
        let breaks: [(&str, fn()); 4] = [
            ("a table is deleted", || assert!(stranger::delete_table("netloom").unwrap())),
            ("the ruleset is flushed", || assert!(stranger::flush_firewall().unwrap())),
            ("the ruleset is flushed and something else comes", || {
                stranger::flush_firewall().unwrap();
                stranger::add_firewall(
                    "mine",
                    netloom_server::diagnose::seen::Hook::Forward,
                    stranger::Drops::To([192, 0, 2, 9].into()),
                )
                .unwrap();
            }),
            ("it is flushed once more", || assert!(stranger::flush_firewall().unwrap())),
        ];
        for (count, (what, break_it)) in breaks.into_iter().enumerate() {
            let begun = Instant::now();
            break_it();
            let took = back(&kernel, &before, begun).await;
            println!("repair: {what}: {} ms", took.as_millis());
            assert!(took < 3 * WITHIN, "{what}: {took:?}");
            let begun = Instant::now();
            while repaired(&rest).await.len() <= count {
                assert!(begun.elapsed() < WITHIN, "{what}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let events = repaired(&rest).await;
            assert_eq!(
                (events.len(), repairs(&rest).await),
                (count + 1, count as u64 + 1),
                "{what}: {events:#?}"
            );
            assert_eq!(events[count]["name"], "host");
        }
        bystander.goes_on();
        // The fifth is the last in a minute; then those say so who are open without it.
        for _ in 0..2 {
            stranger::flush_firewall().unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let begun = Instant::now();
        while rest.get("/v1/networks/v-net-0").await.unwrap().ok()["status"]["conditions"][0]["reason"]
            != "Conflict"
        {
            assert!(begun.elapsed() < 2 * WITHIN);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn policies_are_back_within_a_second_whatever_of_them_was_taken_away() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start_with_faults("owners=no").await;
        let rest = daemon.rest();
        build(&rest).await;
        let rule = json!({"peers": [{"network": "v-net-0"}, {"cidr": "10.0.0.0/8"}], "ports": [{"protocol": "tcp", "port": 80}]});
        let policy = json!({"name": "allow", "spec": {"directions": ["ingress", "egress"], "ingress": [rule], "log": true}});
        rest.post("/v1/policies", &policy).await.ok();
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap();
        let chain = |letter: char| {
            let mut names = before.rules.chains.keys().map(ToString::to_string);
            names.find(|name| name.chars().nth(2) == Some(letter)).unwrap()
        };
        let breaks = [
            ("peers and the rules of a chain", "peer4", chain('i'), false),
            ("whom it is asked for, and the rules", "in4", chain('e'), false),
            ("what is counted, and the rules", "denied", chain('i'), false),
        ];
        for (what, set, chain, delete) in breaks {
            let begun = Instant::now();
            assert!(stranger::meddle_with_policies(set, &chain, delete).unwrap(), "{what}");
            assert_ne!(kernel.observe().unwrap().rules, before.rules, "{what}");
            let took = back(&kernel, &before.to_string(), begun).await;
            assert!(took < WITHIN, "{what}: {took:?}");
        }
        let begun = Instant::now();
        assert!(stranger::meddle_with_policies("in4", &chain('i'), false).unwrap());
        stranger::meddle_with_policies("in6", &chain('i'), true).unwrap();
        let took = back(&kernel, &before.to_string(), begun).await;
        assert!(took < WITHIN, "a chain: {took:?}");
    });
}

#[test]
fn what_is_deleted_while_the_firewall_is_put_back_does_not_come_back() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start_with_faults("owners=no").await;
        let rest = daemon.rest();
        build(&rest).await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        for (count, pause) in [0, 40, 60, 100].into_iter().enumerate() {
            publish(&rest, "web", 8080).await;
            stranger::flush_firewall().unwrap();
            // Before, in the middle of and after the repair.
            tokio::time::sleep(Duration::from_millis(pause)).await;
            rest.delete("/v1/port-forwards/web").await.ok();
            let begun = Instant::now();
            while repairs(&rest).await <= count as u64 {
                assert!(begun.elapsed() < 2 * WITHIN);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(kernel.observe().unwrap().to_string(), before, "deleted {pause} ms later");
        }
    });
}
