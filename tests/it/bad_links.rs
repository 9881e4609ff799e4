//! What is refused of Links, for the table of `bad_input`.

use serde_json::{Value, json};

use crate::bad_input::Case;

/// `cable` joins `to-red` of the host, 10.7.7.1/24, and `veth-red` of red, 10.7.7.2/24.
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn cases() -> Vec<Case> {
    let lnk = "/v1/links";
    let inv = "INVALID_ARGUMENT";
    let net = "/v1/networks";
    let att = "/v1/attachments";
    let subnet = |cidr: &str| json!({"name": "n", "spec": {"subnets": [{"cidr": cidr}]}});
    let taken = "ADDRESS_TAKEN";
    let end = |namespace: &str, interface: &str, addresses: &[&str]| json!({"namespace": namespace, "interface": interface, "addresses": addresses});
    let link = |one: Value, other: Value| json!({"name": "l", "spec": {"ends": [one, other]}});
    let plain = || end("blue", "veth", &[]);
    let of_red = |addresses: &[&str]| link(plain(), end("red", "veth", addresses));
    let of_host = |interface: &str, addresses: &[&str]| link(end("host", interface, addresses), plain());
    vec![
        ("POST", lnk, json!({"name": "l"}), 400, inv, "spec"),
        ("POST", lnk, json!({"name": "l", "spec": {"ends": [plain()]}}), 400, inv, "spec.ends"),
        (
            "POST",
            lnk,
            json!({"name": "l", "spec": {"ends": [plain(), end("red", "a", &[]), end("red", "b", &[])]}}),
            400,
            inv,
            "spec.ends",
        ),
        ("POST", lnk, link(plain(), plain()), 400, inv, "spec.ends[1].interface"),
        (
            "POST",
            lnk,
            link(plain(), end("green", "veth", &[])),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.ends[1].namespace",
        ),
        ("POST", lnk, link(plain(), end("red", "lo", &[])), 400, inv, "spec.ends[1].interface"),
        ("POST", lnk, link(plain(), end("red", "nl0", &[])), 400, inv, "spec.ends[1].interface"),
        ("POST", lnk, link(plain(), end("red", "eth0", &[])), 409, "DEVICE_TAKEN", "spec.ends[1].interface"),
        (
            "POST",
            lnk,
            link(plain(), end("red", "veth-red", &[])),
            409,
            "DEVICE_TAKEN",
            "spec.ends[1].interface",
        ),
        (
            "POST",
            lnk,
            link(plain(), end("red", "a-name-of-17-chars", &[])),
            400,
            inv,
            "spec.ends[1].interface",
        ),
        ("POST", lnk, of_host("v-net-0", &[]), 409, "DEVICE_TAKEN", "spec.ends[0].interface"),
        ("POST", lnk, of_host("to-red", &[]), 409, "DEVICE_TAKEN", "spec.ends[0].interface"),
        ("POST", lnk, of_host("eth0", &[]), 409, "DEVICE_TAKEN", ""),
        ("POST", lnk, of_host("bw0123456789", &[]), 400, inv, "spec.ends[0].interface"),
        ("POST", lnk, of_host("up", &["192.168.15.77/24"]), 409, "OVERLAP", "spec.ends[0].addresses[0]"),
        ("POST", lnk, of_host("up", &["192.168.1.77/24"]), 409, "OVERLAP", "spec.ends[0].addresses[0]"),
        ("POST", lnk, of_host("up", &["10.7.7.9/30"]), 409, "OVERLAP", "spec.ends[0].addresses[0]"),
        ("POST", lnk, of_red(&["10.1.1.1"]), 400, inv, "spec.ends[1].addresses[0]"),
        ("POST", lnk, of_red(&["10.1.1.0/24"]), 400, inv, "spec.ends[1].addresses[0]"),
        ("POST", lnk, of_red(&["10.1.1.255/24"]), 400, inv, "spec.ends[1].addresses[0]"),
        ("POST", lnk, of_red(&["127.0.0.2/8"]), 400, inv, "spec.ends[1].addresses[0]"),
        ("POST", lnk, of_red(&["fe80::1/64"]), 400, inv, "spec.ends[1].addresses[0]"),
        ("POST", lnk, of_red(&["0.0.0.0/0"]), 400, inv, "spec.ends[1].addresses[0]"),
        ("POST", lnk, of_red(&["10.2.0.1/24", "10.2.0.1/16"]), 400, inv, "spec.ends[1].addresses[1]"),
        ("POST", lnk, of_red(&["10.8.0.1/24"; 9]), 400, inv, "spec.ends[1].addresses"),
        ("POST", lnk, of_red(&["192.168.15.1/24"]), 409, taken, "spec.ends[1].addresses[0]"),
        ("POST", lnk, of_red(&["192.168.15.200/26"]), 409, "OVERLAP", "spec.ends[1].addresses[0]"),
        ("POST", lnk, of_red(&["10.7.7.2/24"]), 409, taken, "spec.ends[1].addresses[0]"),
        (
            "POST",
            lnk,
            link(end("red", "a", &["10.3.0.1/24"]), end("red", "b", &["10.3.0.2/24"])),
            409,
            "OVERLAP",
            "spec.ends[1].addresses[0]",
        ),
        (
            "POST",
            lnk,
            link(end("blue", "a", &["10.3.0.1/24"]), end("red", "b", &["10.3.0.1/24"])),
            400,
            inv,
            "spec.ends[1].addresses[0]",
        ),
        (
            "POST",
            lnk,
            json!({"name": "l", "spec": {"ends": [{"namespace": "red", "interface": "a", "mac": "01:00:00:00:00:01"}, plain()]}}),
            400,
            inv,
            "spec.ends[0].mac",
        ),
        (
            "POST",
            lnk,
            json!({"name": "l", "spec": {"ends": [plain(), end("red", "a", &[])], "mtu": 1279}}),
            400,
            inv,
            "spec.mtu",
        ),
        (
            "PATCH",
            "/v1/links/cable",
            json!({"spec": {"ends": [end("host", "to-red", &[]), end("blue", "veth-red", &[])]}}),
            422,
            "IMMUTABLE_FIELD",
            "spec.ends[1].namespace",
        ),
        (
            "PATCH",
            "/v1/links/cable",
            json!({"spec": {"ends": [end("host", "other", &[]), end("red", "veth-red", &[])]}}),
            422,
            "IMMUTABLE_FIELD",
            "spec.ends[0].interface",
        ),
        ("POST", net, subnet("10.7.0.0/16"), 409, "OVERLAP", "spec.subnets[0].cidr"),
        (
            "POST",
            att,
            json!({"name": "a", "spec": {"namespace": "red", "network": "v-net-0", "interface": "veth-red"}}),
            409,
            "DEVICE_TAKEN",
            "spec.interface",
        ),
    ]
}
