//! What is refused of Policies, for the table of `bad_input`.

use serde_json::{Value, json};

use crate::bad_input::Case;

/// `quiet` selects nobody of v-net-0 and has it among its peers; `free` is an Attachment of `loose`, whose guard is off.
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn cases() -> Vec<Case> {
    let inv = "INVALID_ARGUMENT";
    let pol = "/v1/policies";
    let one = |spec: Value| json!({"name": "p", "spec": spec});
    let peer = |peer: Value| one(json!({"ingress": [{"peers": [peer]}]}));
    let port = |port: Value| one(json!({"egress": [{"ports": [port]}]}));
    let many = |count: usize, what: Value| Value::Array(vec![what; count]);
    let (peer_at, port_at) = ("spec.ingress[0].peers[0]", "spec.egress[0].ports[0]");
    let except = |inner: &str| peer(json!({"cidr": "10.0.0.0/8", "except": [inner]}));
    let bad = |body: Value, field: &'static str| ("POST", pol, body, 400, inv, field);
    let rule_of = |peers: usize, ports: usize| json!({"peers": many(peers, json!({})), "ports": many(ports, json!({"protocol": "tcp"}))});
    vec![
        bad(json!({"spec": {}}), "name"),
        bad(one(json!({"selector": "db"})), "spec.selector"),
        bad(one(json!({"selector": {"role": "db"}})), "role"),
        bad(one(json!({"selector": {"labels": {"-": "db"}}})), "spec.selector.labels"),
        bad(one(json!({"selector": {"network": "V"}})), "spec.selector.network"),
        bad(one(json!({"directions": ["inward"]})), "spec.directions[0]"),
        bad(one(json!({"directions": ["egress", "egress"]})), "spec.directions[1]"),
        bad(one(json!({"directions": ["egress"], "ingress": [{}]})), "spec.ingress"),
        bad(one(json!({"directions": ["ingress"], "egress": [{}]})), "spec.egress"),
        bad(one(json!({"ingress": [{"from": []}]})), "from"),
        bad(one(json!({"ingress": many(65, json!({}))})), "spec.ingress"),
        bad(one(json!({"ingress": [rule_of(257, 0)]})), "spec.ingress[0].peers"),
        bad(one(json!({"ingress": [rule_of(0, 65)]})), "spec.ingress[0].ports"),
        bad(one(json!({"ingress": many(17, rule_of(256, 0))})), "spec"),
        bad(one(json!({"log": "yes"})), "spec.log"),
        bad(peer(json!({"cidr": "ten"})), "spec.ingress[0].peers[0].cidr"),
        bad(peer(json!({"cidr": "10.0.0.1/8"})), "spec.ingress[0].peers[0].cidr"),
        bad(peer(json!({"cidr": "10.0.0.0/8", "labels": {"a": "b"}})), "spec.ingress[0].peers[0].cidr"),
        bad(peer(json!({"cidr": "10.0.0.0/8", "network": "v-net-0"})), "spec.ingress[0].peers[0].cidr"),
        bad(peer(json!({"labels": {"a": "b"}, "except": ["10.0.0.0/9"]})), "spec.ingress[0].peers[0].except"),
        bad(except("11.0.0.0/9"), "spec.ingress[0].peers[0].except[0]"),
        bad(except("fd00::/9"), "spec.ingress[0].peers[0].except[0]"),
        bad(except("10.0.0.0/8"), "spec.ingress[0].peers[0].except[0]"),
        bad(except("0.0.0.0/0"), "spec.ingress[0].peers[0].except[0]"),
        bad(
            peer(json!({"cidr": "10.0.0.0/8", "except": many(65, json!("10.1.0.0/16"))})),
            "spec.ingress[0].peers[0].except",
        ),
        bad(peer(json!({"pod": "a"})), "pod"),
        bad(peer(json!(7)), peer_at),
        bad(port(json!({})), "protocol"),
        bad(port(json!({"protocol": "gre"})), "spec.egress[0].ports[0].protocol"),
        bad(port(json!({"protocol": "tcp", "port": 0})), "spec.egress[0].ports[0].port"),
        bad(port(json!({"protocol": "tcp", "port": 65536})), "spec.egress[0].ports[0].port"),
        bad(port(json!({"protocol": "tcp", "port": "http"})), "spec.egress[0].ports[0].port"),
        bad(port(json!({"protocol": "tcp", "port": 80, "end_port": 79})), "spec.egress[0].ports[0].end_port"),
        bad(port(json!({"protocol": "udp", "end_port": 79})), "spec.egress[0].ports[0].end_port"),
        bad(port(json!({"protocol": "tcp", "type": 8})), "spec.egress[0].ports[0].type"),
        bad(port(json!({"protocol": "sctp", "code": 0})), "spec.egress[0].ports[0].code"),
        bad(port(json!({"protocol": "icmp", "port": 80})), "spec.egress[0].ports[0].port"),
        bad(port(json!({"protocol": "icmp", "type": 256})), "spec.egress[0].ports[0].type"),
        bad(port(json!({"protocol": "icmpv6", "code": 0})), "spec.egress[0].ports[0].code"),
        bad(port(json!("tcp/80")), port_at),
        (
            "POST",
            pol,
            one(json!({"selector": {"network": "nowhere"}})),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.selector.network",
        ),
        (
            "POST",
            pol,
            peer(json!({"network": "nowhere"})),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.ingress[0].peers[0].network",
        ),
        (
            "PATCH",
            "/v1/policies/quiet",
            json!({"spec": {"selector": {"network": "nowhere"}}}),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.selector.network",
        ),
        ("POST", pol, json!({"name": "quiet"}), 409, "ALREADY_EXISTS", ""),
        ("GET", "/v1/policies/none", json!(null), 404, "NOT_FOUND", ""),
        ("GET", "/v1/policies?namespace=red", json!(null), 400, "MALFORMED", "namespace"),
        ("DELETE", "/v1/networks/v-net-0", json!(null), 409, "HAS_DEPENDENTS", ""),
        // From whichever side it would come about: the Policy, the Attachment, the Network, and all at once.
        (
            "POST",
            pol,
            one(json!({"selector": {"network": "loose"}})),
            409,
            "SPOOF_GUARD_OFF",
            "spec.selector",
        ),
        ("POST", pol, one(json!({})), 409, "SPOOF_GUARD_OFF", "spec.selector"),
        (
            "PATCH",
            "/v1/policies/quiet",
            json!({"spec": {"selector": {"network": null, "labels": {"role": "free"}}}}),
            409,
            "SPOOF_GUARD_OFF",
            "spec.selector",
        ),
    ]
}
