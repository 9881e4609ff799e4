//! What policies stop, and what they let pass.

use serde_json::{Value, json};

use super::{Scene, question, web_from, with_port};
use crate::host::on_host;

/// The check of this id.
fn check(found: &Value, id: &str) -> Value {
    let checks = found["checks"].as_array().unwrap();
    checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id} in {found:#}")).clone()
}

/// The rule that a fix shows.
fn rule_of(check: &Value) -> Value {
    let fix = check["fix"].as_str().unwrap();
    let (from, to) = (fix.find('{').unwrap(), fix.rfind('}').unwrap());
    serde_json::from_str(&fix[from..=to]).unwrap()
}

#[test]
fn the_policies_that_stop_a_packet_are_named_with_the_rule_that_lets_it_pass() {
    on_host(async || {
        let scene = Scene::set().await;
        let rest = scene.daemon.rest();
        rest.patch("/v1/attachments/red0", &json!({"labels": {"role": "app"}})).await.ok();
        rest.patch("/v1/attachments/blue0", &json!({"labels": {"role": "db"}})).await.ok();
        let asked = || with_port(question("red", "blue"), "tcp", 80);
        let from_lan = || web_from(json!({"address": "192.168.1.3"}));
        let put = async |name: &str, spec: Value| {
            rest.post("/v1/policies", &json!({"name": name, "spec": spec})).await.ok()
        };
        put("closed", json!({"selector": {"labels": {"role": "db"}}})).await;
        put("ping", json!({"selector": {"network": "v-net-0", "labels": {"role": "db"}}, "ingress": [{"ports": [{"protocol": "icmp"}]}]})).await;

        // In: between members, and from the LAN through the published port; ping is let in, the host always is.
        let found = scene.ask(&asked()).await;
        assert_eq!(
            (&found["cause"], &found["verdict"]),
            (&json!("to.policy"), &json!("unreachable")),
            "{found:#}"
        );
        let evidence = check(&found, "to.policy")["evidence"].as_str().unwrap().to_owned();
        assert!(
            evidence.contains("closed, ping")
                && evidence.contains("blue0")
                && evidence.contains("tcp port 80"),
            "{evidence}"
        );
        let rule = rule_of(&check(&found, "to.policy"));
        assert_eq!(
            rule,
            json!({"peers": [{"labels": {"role": "app"}}], "ports": [{"protocol": "tcp", "port": 80}]})
        );
        let outside = scene.ask(&from_lan()).await;
        assert_eq!(outside["cause"], "to.policy", "{outside:#}");
        assert_eq!(rule_of(&check(&outside, "to.policy"))["peers"], json!([{"cidr": "192.168.1.3/32"}]));
        let pinged = scene.ask(&question("red", "blue")).await;
        assert_eq!(pinged["verdict"], "reachable", "{pinged:#}");
        assert!(
            check(&pinged, "to.policy")["evidence"].as_str().unwrap().starts_with("Policy ping lets icmp")
        );
        let by_host = scene.ask(&with_port(question("host", "blue"), "tcp", 80)).await;
        assert_ne!(by_host["cause"], "to.policy", "{by_host:#}");
        let any_port = scene
            .ask(&json!({"from": {"namespace": "red"}, "to": {"namespace": "blue"}, "protocol": "tcp"}))
            .await;
        assert_eq!(any_port["cause"], "to.policy", "{any_port:#}");

        // The rule that is shown is all that is missing.
        rest.patch("/v1/policies/closed", &json!({"spec": {"ingress": [rule]}})).await.ok();
        let mended = scene.ask(&asked()).await;
        assert_eq!(check(&mended, "to.policy")["status"], "pass", "{mended:#}");
        assert_ne!(mended["cause"], "to.policy", "{mended:#}");
        let any_port = scene
            .ask(&json!({"from": {"namespace": "red"}, "to": {"namespace": "blue"}, "protocol": "tcp"}))
            .await;
        assert_eq!(check(&any_port, "to.policy")["status"], "skip", "{any_port:#}");

        // Out: to a member, to the host, and out of it.
        put("shut", json!({"selector": {"labels": {"role": "app"}}, "directions": ["egress"]})).await;
        for to in ["blue", "host", "192.168.1.3"] {
            let found = scene.ask(&question("red", to)).await;
            assert_eq!(found["cause"], "from.policy", "{to}: {found:#}");
            assert!(
                check(&found, "from.policy")["evidence"].as_str().unwrap().contains("Policy shut"),
                "{found:#}"
            );
        }
        // Whom no policy is about, none is told of.
        let others = scene.ask(&question("green", "grey")).await;
        assert!(!others.to_string().contains("policy"), "{others:#}");
    });
}
