//! What is refused: each case a 4xx with field and reason, and neither the kernel nor the database has changed.

use netloom_server::{kernel::Kernel, reconcile::Host as _};
use serde_json::{Value, json};

use crate::host::{Daemon, lan, on_host};

/// Method and path, body, status, reason, and a field that must be named ("" for none).
pub type Case = (&'static str, &'static str, Value, u16, &'static str, &'static str);

#[allow(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let long = "x".repeat(64);
    let ns = "/v1/namespaces";
    let net = "/v1/networks";
    let att = "/v1/attachments";
    let fwd = "/v1/port-forwards";
    let res = "/v1/reservations";
    let inv = "INVALID_ARGUMENT";
    let subnet = |cidr: &str| json!({"name": "n", "spec": {"subnets": [{"cidr": cidr}]}});
    let attach = |more: Value| {
        let mut spec = json!({"namespace": "red", "network": "v-net-0"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"name": "a", "spec": spec})
    };
    let source = |adopted: Value| json!({"name": "x", "spec": {"source": {"adopted": adopted}}});
    let sysctls = |settings: Value| json!({"name": "x", "spec": {"sysctls": settings}});
    let many: Value = (0..65)
        .map(|n| (format!("net.ipv4.setting_{n}"), json!("1")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let forward = |listen: Value| json!({"name": "f", "spec": {"protocol": "tcp", "listen": listen, "target": {"attachment": "red0"}}});
    let from_sources = |sources: Value| json!({"name": "f", "spec": {"protocol": "udp", "listen": {"port": 9}, "target": {"attachment": "red0"}, "sources": sources}});
    vec![
        ("POST", ns, json!({}), 400, inv, "name"),
        ("POST", ns, json!({"name": ""}), 400, inv, "name"),
        ("POST", ns, json!({"name": ".."}), 400, inv, "name"),
        ("POST", ns, json!({"name": "a/b"}), 400, inv, "name"),
        ("POST", ns, json!({"name": "Red"}), 400, inv, "name"),
        ("POST", ns, json!({"name": "-x"}), 400, inv, "name"),
        ("POST", ns, json!({"name": "a\nb"}), 400, inv, "name"),
        ("POST", ns, json!({"name": "a\u{0}b"}), 400, inv, "name"),
        ("POST", ns, json!({"name": long}), 400, inv, "name"),
        ("POST", ns, json!({"name": 7}), 400, inv, "name"),
        ("POST", ns, json!({"name": "host"}), 400, inv, "name"),
        ("POST", ns, json!({"name": "x", "color": "red"}), 400, inv, "color"),
        ("POST", ns, json!({"name": "x", "spec": {"mtu": 1}}), 400, inv, "mtu"),
        // A list is no object, whatever serde thinks.
        ("POST", ns, json!({"name": "x", "spec": []}), 400, inv, "spec"),
        ("POST", net, json!({"name": "x", "spec": {"isolation": [true, true]}}), 400, inv, "spec.isolation"),
        ("POST", ns, json!({"name": "x", "spec": {"source": {}}}), 400, inv, "spec.source"),
        ("POST", ns, json!({"name": "x", "spec": {"source": {"made": {}}}}), 400, inv, "spec.source"),
        ("POST", ns, source(json!({})), 400, inv, "spec.source.adopted"),
        ("POST", ns, source(json!({"path": "/run/netns/x", "pid": 1})), 400, inv, "spec.source.adopted"),
        ("POST", ns, source(json!({"pid": -1})), 400, inv, "spec.source.adopted.pid"),
        ("POST", ns, source(json!({"pid": "1"})), 400, inv, "spec.source.adopted.pid"),
        ("POST", ns, source(json!({"pid": 5_000_000})), 400, inv, "spec.source.adopted.pid"),
        ("POST", ns, source(json!({"path": "netns/x"})), 400, inv, "spec.source.adopted.path"),
        ("POST", ns, source(json!({"path": "/proc/1/ns/net"})), 400, inv, "spec.source.adopted.path"),
        ("POST", ns, source(json!({"path": "/run/netns/../x"})), 400, inv, "spec.source.adopted.path"),
        ("POST", ns, source(json!({"path": "/etc/passwd"})), 400, inv, "spec.source.adopted.path"),
        (
            "POST",
            ns,
            source(json!({"path": "/run/netns/x"})),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.source.adopted.path",
        ),
        ("POST", ns, sysctls(json!({"kernel.hostname": "x"})), 400, inv, "spec.sysctls"),
        ("POST", ns, sysctls(json!({"net.core.rmem_max": "1"})), 400, inv, "spec.sysctls"),
        ("POST", ns, sysctls(json!({"net.ipv6.conf.eth0.accept_ra": "1"})), 400, inv, "spec.sysctls"),
        (
            "POST",
            ns,
            sysctls(json!({"net.ipv4.ip_forward": 1})),
            400,
            inv,
            "spec.sysctls.net.ipv4.ip_forward",
        ),
        ("POST", ns, sysctls(json!({"net.ipv4.ip_forward": ""})), 400, inv, "spec.sysctls"),
        (
            "POST",
            ns,
            sysctls(json!({"net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0"})),
            400,
            inv,
            "spec.sysctls",
        ),
        (
            "POST",
            ns,
            sysctls(json!({"net.ipv4.ip_forward": "yes"})),
            400,
            inv,
            "spec.sysctls.net.ipv4.ip_forward",
        ),
        ("POST", ns, sysctls(many), 400, inv, "spec.sysctls"),
        (
            "PATCH",
            "/v1/namespaces/red",
            json!({"spec": {"source": {"adopted": {"pid": 1}}}}),
            422,
            "IMMUTABLE_FIELD",
            "spec.source",
        ),
        ("POST", ns, json!({"name": "x", "kind": "Network"}), 400, inv, "kind"),
        ("POST", ns, json!({"name": "x", "labels": {"a b": "c"}}), 400, inv, "labels"),
        ("POST", ns, json!({"name": "x", "owner": "two words"}), 400, inv, "owner"),
        ("POST", ns, json!([]), 400, inv, ""),
        ("POST", ns, json!({"name": "red"}), 409, "ALREADY_EXISTS", ""),
        ("POST", "/v1/namespaces?colour=red", json!({"name": "x"}), 400, "MALFORMED", ""),
        ("POST", "/v1/namespaces?wait=soon", json!({"name": "x"}), 400, inv, "wait"),
        ("GET", "/v1/namespaces?page_size=0", json!(null), 400, inv, "page_size"),
        ("GET", "/v1/namespaces?page_token=zz", json!(null), 400, inv, "page_token"),
        ("GET", "/v1/namespaces/green", json!(null), 404, "NOT_FOUND", ""),
        ("GET", "/v1/nonsense", json!(null), 404, "NO_SUCH_METHOD", ""),
        (
            "POST",
            "/v1/diagnose",
            json!({"from": {"host": {}}, "to": {"host": {}}, "port": 0}),
            400,
            inv,
            "port",
        ),
        (
            "POST",
            "/v1/diagnose",
            json!({"from": {"host": {}}, "to": {"host": {}}, "port": 1, "protocol": "icmp"}),
            400,
            inv,
            "port",
        ),
        (
            "POST",
            "/v1/diagnose",
            json!({"from": {"host": {}}, "to": {"host": {}}, "protocol": "gre"}),
            400,
            inv,
            "protocol",
        ),
        (
            "POST",
            "/v1/diagnose",
            json!({"from": {"port_forward": "web"}, "to": {"host": {}}}),
            400,
            inv,
            "from",
        ),
        (
            "POST",
            "/v1/diagnose",
            json!({"from": {"host": {}}, "to": {"address": "red"}}),
            400,
            inv,
            "to.address",
        ),
        (
            "POST",
            "/v1/diagnose",
            json!({"from": {"host": {}}, "to": {"host": {}}, "loud": true}),
            400,
            inv,
            "loud",
        ),
        ("DELETE", "/v1/namespaces/green", json!(null), 404, "NOT_FOUND", ""),
        ("DELETE", "/v1/namespaces/red", json!(null), 409, "HAS_DEPENDENTS", ""),
        ("POST", net, subnet("192.168.15.5/24"), 400, inv, "spec.subnets[0].cidr"),
        ("POST", net, subnet("10.0.0.0/31"), 400, inv, "spec.subnets[0].cidr"),
        ("POST", net, subnet("10.0.0.0/32"), 400, inv, "spec.subnets[0].cidr"),
        ("POST", net, subnet("0.0.0.0/0"), 400, inv, "spec.subnets[0].cidr"),
        ("POST", net, subnet("127.0.0.0/8"), 400, inv, "spec.subnets[0].cidr"),
        ("POST", net, subnet("224.0.0.0/8"), 400, inv, "spec.subnets[0].cidr"),
        ("POST", net, subnet("fe80::/64"), 400, inv, "spec.subnets[0].cidr"),
        ("POST", net, subnet("::ffff:10.0.0.0/104"), 400, inv, "spec.subnets[0].cidr"),
        ("POST", net, subnet("ten"), 400, inv, "spec.subnets[0].cidr"),
        ("POST", net, subnet("192.168.15.128/25"), 409, "OVERLAP", "spec.subnets[0].cidr"),
        ("POST", net, subnet("192.168.0.0/16"), 409, "OVERLAP", "spec.subnets[0].cidr"),
        ("POST", net, subnet("192.168.1.0/25"), 409, "OVERLAP", "spec.subnets[0].cidr"),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"subnets": [{"cidr": "10.0.0.0/24"}, {"cidr": "10.0.0.0/25"}]}}),
            400,
            inv,
            "spec.subnets[1].cidr",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"subnets": [{"cidr": "10.0.0.0/24", "gateway": "10.0.1.1"}]}}),
            400,
            inv,
            "spec.subnets[0].gateway",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"subnets": [{"cidr": "10.0.0.0/24", "gateway": "10.0.0.255"}]}}),
            400,
            inv,
            "spec.subnets[0].gateway",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"subnets": [{"cidr": "10.0.0.0/24",
                "ranges": [{"first": "10.0.0.9", "last": "10.0.0.3"}]}]}}),
            400,
            inv,
            "spec.subnets[0].ranges[0]",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"egress": {"nat": {"address": "10.99.0.1"}}}}),
            400,
            inv,
            "spec.egress.nat.address",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"egress": {"nat": {"address": "192.168.15.5"}}}}),
            400,
            inv,
            "spec.egress.nat.address",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"egress": {"nat": {"address_v6": "fd00::1"}}}}),
            400,
            inv,
            "spec.egress.nat.address_v6",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"kind": {"bridge": {"existing": true}}}}),
            400,
            inv,
            "spec.kind.bridge.device",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"kind": {"bridge": {"device": "eth0", "existing": true}}}}),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.kind.bridge.device",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"kind": {"bridge": {"device": "bw0123456789"}}}}),
            400,
            inv,
            "spec.kind.bridge.device",
        ),
        ("POST", net, json!({"name": "n", "spec": {"mtu": 100}}), 400, inv, "spec.mtu"),
        ("POST", net, json!({"name": "n", "spec": {"mtu": 70000}}), 400, inv, "spec.mtu"),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"egress": {"nat": {}, "none": {}}}}),
            400,
            inv,
            "spec.egress",
        ),
        ("POST", net, json!({"name": "n", "spec": {"kind": {"vxlan": {}}}}), 400, inv, "spec.kind"),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"kind": {"bridge": {"device": "a-name-of-17-chars"}}}}),
            400,
            inv,
            "spec.kind.bridge.device",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"kind": {"bridge": {"device": "v-net-0"}}}}),
            409,
            "DEVICE_TAKEN",
            "spec.kind.bridge.device",
        ),
        (
            "POST",
            net,
            json!({"name": "n", "spec": {"kind": {"bridge": {"device": "eth0"}}}}),
            409,
            "DEVICE_TAKEN",
            "",
        ),
        (
            "PATCH",
            "/v1/networks/v-net-0",
            json!({"spec": {"subnets": []}}),
            422,
            "IMMUTABLE_FIELD",
            "spec.subnets",
        ),
        ("POST", att, json!({"name": "a", "spec": {"namespace": "red"}}), 400, inv, "spec"),
        (
            "POST",
            att,
            json!({"name": "a", "spec": {"namespace": "green", "network": "v-net-0"}}),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.namespace",
        ),
        (
            "POST",
            att,
            json!({"name": "a", "spec": {"namespace": "host", "network": "v-net-0"}}),
            400,
            inv,
            "spec.namespace",
        ),
        ("POST", att, attach(json!({"addresses": ["10.0.0.1"]})), 400, inv, "spec.addresses[0]"),
        ("POST", att, attach(json!({"addresses": ["fd00::1"]})), 400, inv, "spec.addresses[0]"),
        (
            "POST",
            att,
            attach(json!({"addresses": ["192.168.15.5"]})),
            409,
            "ADDRESS_TAKEN",
            "spec.addresses[0]",
        ),
        (
            "POST",
            att,
            attach(json!({"addresses": ["192.168.15.1"]})),
            409,
            "ADDRESS_TAKEN",
            "spec.addresses[0]",
        ),
        ("POST", att, attach(json!({"addresses": ["192.168.15.255"]})), 400, inv, "spec.addresses[0]"),
        ("POST", att, attach(json!({"mac": "01:00:00:00:00:01"})), 400, inv, "spec.mac"),
        ("POST", att, attach(json!({"interface": "lo"})), 400, inv, "spec.interface"),
        ("POST", att, attach(json!({"interface": "eth0"})), 409, "DEVICE_TAKEN", "spec.interface"),
        ("POST", att, attach(json!({"mtu": 9000})), 400, inv, "spec.mtu"),
        ("POST", att, attach(json!({"metric": 0})), 400, inv, "spec.metric"),
        (
            "POST",
            att,
            attach(json!({"default_route": true, "metric": 100})),
            409,
            "ROUTE_TAKEN",
            "spec.metric",
        ),
        ("POST", att, attach(json!({"bandwidth": {"in": {"rate": 8000}}})), 400, inv, "in"),
        ("POST", att, attach(json!({"bandwidth": {"ingress": {}}})), 400, inv, "rate"),
        (
            "POST",
            att,
            attach(json!({"bandwidth": {"ingress": {"rate": 7999}}})),
            400,
            inv,
            "spec.bandwidth.ingress.rate",
        ),
        (
            "POST",
            att,
            attach(json!({"bandwidth": {"egress": {"rate": 1_000_000_000_001_u64}}})),
            400,
            inv,
            "spec.bandwidth.egress.rate",
        ),
        ("POST", att, attach(json!({"bandwidth": {"egress": {"rate": -1}}})), 400, inv, "rate"),
        (
            "POST",
            att,
            attach(json!({"bandwidth": {"egress": {"rate": 8000, "burst": 100}}})),
            400,
            inv,
            "spec.bandwidth.egress.burst",
        ),
        // 1 513 bytes are one less than a frame of 1 500 has.
        (
            "POST",
            att,
            attach(json!({"bandwidth": {"egress": {"rate": 8000, "burst": 1513}}})),
            400,
            inv,
            "spec.bandwidth.egress.burst",
        ),
        (
            "POST",
            att,
            attach(json!({"bandwidth": {"ingress": {"rate": 8000, "burst": 250_000}}})),
            400,
            inv,
            "spec.bandwidth.ingress.burst",
        ),
        (
            "PATCH",
            "/v1/attachments/red0",
            json!({"spec": {"network": "other"}}),
            422,
            "IMMUTABLE_FIELD",
            "spec.network",
        ),
        ("POST", fwd, forward(json!({"port": 0})), 400, inv, "spec.target.port"),
        ("POST", fwd, forward(json!({"port": 0, "end_port": 80})), 400, inv, "spec.listen.end_port"),
        ("POST", fwd, from_sources(json!(["10.0.0.1/8"])), 400, inv, "spec.sources[0]"),
        ("POST", fwd, from_sources(json!(["10.0.0.0/8", "everybody"])), 400, inv, "spec.sources[1]"),
        ("POST", fwd, from_sources(json!(["::ffff:10.0.0.0/104"])), 400, inv, "spec.sources[0]"),
        ("POST", fwd, from_sources(json!(vec!["10.0.0.0/8"; 129])), 400, inv, "spec.sources"),
        (
            "PATCH",
            "/v1/port-forwards/web",
            json!({"spec": {"protocol": "udp"}}),
            422,
            "IMMUTABLE_FIELD",
            "spec.protocol",
        ),
        (
            "PATCH",
            "/v1/port-forwards/web",
            json!({"spec": {"listen": {"address": "::1"}}}),
            400,
            inv,
            "spec.listen.address",
        ),
        ("POST", fwd, forward(json!({"port": 65536})), 400, inv, "spec.listen.port"),
        ("POST", fwd, forward(json!({"port": 90, "end_port": 80})), 400, inv, "spec.listen.end_port"),
        ("POST", fwd, forward(json!({"port": 1000, "end_port": 3000})), 400, inv, "spec.listen.end_port"),
        ("POST", fwd, forward(json!({"port": 81, "address": "::1"})), 400, inv, "spec.listen.address"),
        ("POST", fwd, forward(json!({"port": 81, "address": "192.0.2.9"})), 400, inv, "spec.listen.address"),
        ("POST", fwd, forward(json!({"port": 80})), 409, "PORT_TAKEN", "spec.listen.port"),
        (
            "POST",
            fwd,
            json!({"name": "f", "spec": {"protocol": "icmp", "listen": {"port": 1},
            "target": {"attachment": "red0"}}}),
            400,
            inv,
            "spec.protocol",
        ),
        (
            "POST",
            res,
            json!({"name": "r", "spec": {"network": "none", "address": "10.0.0.1"}}),
            409,
            "REFERENCE_NOT_FOUND",
            "spec.network",
        ),
        (
            "POST",
            res,
            json!({"name": "r", "spec": {"network": "v-net-0", "address": "10.0.0.1"}}),
            400,
            inv,
            "spec.address",
        ),
        ("POST", "/v1/apply", json!({"objects": [{"name": "x"}]}), 400, inv, "objects[0].kind"),
        ("POST", "/v1/plan", json!({"objects": [{"name": "x"}]}), 400, inv, "objects[0].kind"),
        ("POST", "/v1/plan?dry_run=true", json!({"objects": []}), 400, "MALFORMED", ""),
        ("POST", "/v1/apply", json!({"objects": [], "prune": true}), 400, inv, "owner"),
        ("POST", "/v1/plan", json!({"objects": [], "prune": true}), 400, inv, "owner"),
        ("POST", "/v1/apply", json!({"objects": [], "atomic": "no"}), 400, inv, ""),
        ("POST", "/v1/apply", json!({"objects": [], "expect_revision": 99}), 412, "REVISION_MISMATCH", ""),
        ("GET", "/v1/export?pinned=yes", json!(null), 400, inv, "pinned"),
        (
            "POST",
            "/v1/apply",
            json!({"objects": [{"kind": "Namespace", "name": "x"}, {"kind": "Namespace", "name": "x"}]}),
            400,
            inv,
            "objects[1].name",
        ),
        (
            "POST",
            "/v1/apply",
            json!({"objects": [{"kind": "Namespace", "name": "x"},
            {"kind": "Attachment", "name": "a", "spec": {"namespace": "x", "network": "nowhere"}}]}),
            409,
            "REFERENCE_NOT_FOUND",
            "objects[1].spec.network",
        ),
    ]
}

#[test]
fn bad_input_is_refused_with_field_and_reason_and_loses_nothing() {
    on_host(async || {
        let _lan = lan();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        let spec = json!({"kind": {"bridge": {"device": "v-net-0"}},
            "subnets": [{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}], "egress": {"nat": {}}});
        rest.post("/v1/networks", &json!({"name": "v-net-0", "spec": spec})).await.ok();
        let spec = json!({"namespace": "red", "network": "v-net-0", "addresses": ["192.168.15.1"]});
        rest.post("/v1/attachments", &json!({"name": "red0", "spec": spec})).await.ok();
        let spec = json!({"protocol": "tcp", "listen": {"port": 80}, "target": {"attachment": "red0"}});
        rest.post("/v1/port-forwards", &json!({"name": "web", "spec": spec})).await.ok();
        let spec = json!({"namespace": "red", "destination": "192.168.1.0/24", "via": "192.168.15.5"});
        rest.post("/v1/routes", &json!({"name": "lan", "spec": spec})).await.ok();
        rest.post("/v1/namespaces", &json!({"name": "blue"})).await.ok();
        let spec = json!({"ends": [
            {"namespace": "host", "interface": "to-red", "addresses": ["10.7.7.1/24"]},
            {"namespace": "red", "interface": "veth-red", "addresses": ["10.7.7.2/24"]},
        ]});
        rest.post("/v1/links", &json!({"name": "cable", "spec": spec})).await.ok();
        let spec = json!({"selector": {"network": "v-net-0", "labels": {"role": "nobody"}}, "egress": [{"peers": [{"network": "v-net-0"}]}]});
        rest.post("/v1/policies", &json!({"name": "quiet", "spec": spec})).await.ok();
        let spec = json!({"subnets": [{"cidr": "10.66.0.0/24"}], "spoof_guard": false});
        rest.post("/v1/networks", &json!({"name": "loose", "spec": spec})).await.ok();
        let attachment = json!({"name": "free", "labels": {"role": "free"}, "spec": {"namespace": "blue", "network": "loose"}});
        rest.post("/v1/attachments", &attachment).await.ok();
        let kernel = Kernel::open().unwrap();
        let before = (kernel.observe().unwrap().to_string(), rest.get("/v1/export").await.unwrap().ok());

        let mut wrong = Vec::new();
        let mut cases = cases();
        cases.extend(crate::bad_links::cases());
        cases.extend(crate::bad_routes::cases());
        cases.extend(crate::bad_policies::cases());
        assert!(cases.len() >= 40);
        for (method, path, body, status, reason, field) in &cases {
            let content_type = if *method == "GET" || *method == "DELETE" { "" } else { "application/json" };
            let bytes = if body.is_null() { String::new() } else { body.to_string() };
            let reply = rest.send(method, path, content_type, bytes.into()).await.unwrap();
            let fields = reply.body["violations"].as_array().cloned().unwrap_or_default();
            let names_field = field.is_empty()
                || fields.iter().any(|one| one["field"].as_str().unwrap().ends_with(field))
                || fields
                    .iter()
                    .any(|one| one["description"].as_str().unwrap().contains(&format!("`{field}`")));
            if reply.status != *status || reply.body["reason"] != *reason || !names_field {
                wrong.push(format!(
                    "{method} {path} {body}\n  wanted {status} {reason} {field}\n  got {} {}",
                    reply.status, reply.body
                ));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        let after = (kernel.observe().unwrap().to_string(), rest.get("/v1/export").await.unwrap().ok());
        assert_eq!(before, after);
    });
}

#[test]
fn a_request_that_is_no_request_is_refused_and_the_daemon_goes_on() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let huge = vec![b' '; 10 << 20];
        let reply = rest.send("POST", "/v1/namespaces", "application/json", huge.into()).await.unwrap();
        assert_eq!((reply.status, &reply.body["reason"]), (413, &json!("TOO_LARGE")));
        let reply =
            rest.send("POST", "/v1/namespaces", "application/json", "{\"name\":".into()).await.unwrap();
        assert_eq!(reply.status, 400, "{reply:#?}");
        let reply =
            rest.send("POST", "/v1/namespaces", "text/plain", "{\"name\":\"x\"}".into()).await.unwrap();
        assert_eq!((reply.status, &reply.body["reason"]), (415, &json!("UNSUPPORTED_MEDIA_TYPE")));
        let deep = "[".repeat(10_000);
        let reply = rest.send("POST", "/v1/namespaces", "application/json", deep.into()).await.unwrap();
        assert_eq!(reply.status, 400, "{reply:#?}");
        let reply = rest.send("PUT", "/v1/namespaces/x", "application/json", "{}".into()).await.unwrap();
        assert_eq!((reply.status, &reply.body["reason"]), (405, &json!("METHOD_NOT_ALLOWED")));
        rest.post("/v1/namespaces", &json!({"name": "x"})).await.ok();
    });
}
