//! What is refused of Routes, for the table of `bad_input`.

use serde_json::{Value, json};

use crate::bad_input::Case;

/// `lan` is red's route to 192.168.1.0/24.
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn cases() -> Vec<Case> {
    let inv = "INVALID_ARGUMENT";
    let rou = "/v1/routes";
    let route = |more: Value| {
        let mut spec = json!({"namespace": "red", "destination": "10.9.0.0/16"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"name": "r", "spec": spec})
    };
    let via = |via: &str| route(json!({"via": via}));
    let to = |destination: &str| route(json!({"destination": destination, "type": "blackhole"}));
    vec![
        (
            "POST",
            rou,
            json!({"name": "r", "spec": {"namespace": "red", "via": "192.168.15.5"}}),
            400,
            inv,
            "destination",
        ),
        ("POST", rou, json!({"name": "r", "spec": {"destination": "10.9.0.0/16"}}), 400, inv, "namespace"),
        ("POST", rou, to("10.9.0.1/16"), 400, inv, "spec.destination"),
        ("POST", rou, to("ten"), 400, inv, "spec.destination"),
        ("POST", rou, to("224.0.0.0/4"), 400, inv, "spec.destination"),
        ("POST", rou, to("127.0.0.0/8"), 400, inv, "spec.destination"),
        ("POST", rou, to("255.255.255.255/32"), 400, inv, "spec.destination"),
        ("POST", rou, to("fe80::/64"), 400, inv, "spec.destination"),
        ("POST", rou, to("ff02::/16"), 400, inv, "spec.destination"),
        ("POST", rou, to("::1/128"), 400, inv, "spec.destination"),
        ("POST", rou, to("::ffff:10.0.0.0/104"), 400, inv, "spec.destination"),
        ("POST", rou, route(json!({})), 400, inv, "spec.via"),
        ("POST", rou, via("fd00::1"), 400, inv, "spec.via"),
        ("POST", rou, via("0.0.0.0"), 400, inv, "spec.via"),
        ("POST", rou, via("127.0.0.1"), 400, inv, "spec.via"),
        ("POST", rou, via("224.0.0.1"), 400, inv, "spec.via"),
        ("POST", rou, via("255.255.255.255"), 400, inv, "spec.via"),
        ("POST", rou, via("somewhere"), 400, inv, "spec.via"),
        ("POST", rou, via("192.168.15.1"), 400, inv, "spec.via"),
        ("POST", rou, via("192.168.1.3"), 409, "GATEWAY_UNREACHABLE", "spec.via"),
        ("POST", rou, route(json!({"destination": "fd09::/16", "via": "fe80::1"})), 400, inv, "spec.via"),
        (
            "POST",
            rou,
            route(json!({"destination": "fd09::/16", "via": "fd00::1"})),
            409,
            "GATEWAY_UNREACHABLE",
            "spec.via",
        ),
        (
            "POST",
            rou,
            route(json!({"destination": "fd09::/16", "interface": "eth0"})),
            409,
            "GATEWAY_UNREACHABLE",
            "spec.interface",
        ),
        ("POST", rou, route(json!({"interface": "lo"})), 400, inv, "spec.interface"),
        ("POST", rou, route(json!({"interface": "eth7"})), 409, "REFERENCE_NOT_FOUND", "spec.interface"),
        ("POST", rou, route(json!({"type": "blackhole", "via": "192.168.15.5"})), 400, inv, "spec.via"),
        ("POST", rou, route(json!({"type": "prohibit", "interface": "eth0"})), 400, inv, "spec.interface"),
        ("POST", rou, route(json!({"type": "local"})), 400, inv, "spec.type"),
        ("POST", rou, route(json!({"type": "blackhole", "table": 0})), 400, inv, "spec.table"),
        ("POST", rou, route(json!({"type": "blackhole", "table": 255})), 400, inv, "spec.table"),
        ("POST", rou, route(json!({"type": "blackhole", "metric": -1})), 400, inv, "spec.metric"),
        (
            "POST",
            rou,
            route(json!({"destination": "fd09::/16", "type": "blackhole", "metric": 0})),
            400,
            inv,
            "spec.metric",
        ),
        (
            "POST",
            rou,
            route(json!({"namespace": "green", "type": "blackhole"})),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.namespace",
        ),
        (
            "POST",
            rou,
            route(json!({"destination": "0.0.0.0/0", "via": "192.168.15.5"})),
            409,
            "ROUTE_TAKEN",
            "spec.metric",
        ),
        (
            "POST",
            rou,
            route(json!({"namespace": "host", "destination": "192.168.1.0/25", "type": "blackhole"})),
            409,
            "NEEDS_FORCE",
            "spec.destination",
        ),
        (
            "POST",
            rou,
            route(json!({"namespace": "host", "via": "10.77.0.1"})),
            409,
            "GATEWAY_UNREACHABLE",
            "spec.via",
        ),
        ("POST", rou, route(json!({"namespace": "host", "via": "192.168.1.2"})), 400, inv, "spec.via"),
        (
            "POST",
            rou,
            route(json!({"namespace": "host", "interface": "eth7"})),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.interface",
        ),
        (
            "PATCH",
            "/v1/routes/lan",
            json!({"spec": {"namespace": "host"}}),
            422,
            "IMMUTABLE_FIELD",
            "spec.namespace",
        ),
        (
            "PATCH",
            "/v1/routes/lan",
            json!({"spec": {"destination": "10.0.0.0/8"}}),
            422,
            "IMMUTABLE_FIELD",
            "spec.destination",
        ),
        ("PATCH", "/v1/routes/lan", json!({"spec": {"table": 7}}), 422, "IMMUTABLE_FIELD", "spec.table"),
        ("PATCH", "/v1/routes/lan", json!({"spec": {"type": "blackhole"}}), 400, inv, "spec.via"),
    ]
}
