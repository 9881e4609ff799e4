//! What a PATCH changes while connections through it go on, and what it refuses.
//!
//! Every field of every spec has a row here; the OpenAPI document says which fields there are, so a new one without a
//! row fails. The rows are also the table in `docs/live-change.md`, which `UPDATE_GOLDEN=1` writes anew.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use netloom_server::kernel::{
    echo::serve_tcp,
    lan::{Lan, add_address},
    netns::Namespaces,
    probe,
};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, lan, on_host},
    rest::Rest,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection that is cut gets to answer all the same.
const SILENCE: Duration = Duration::from_millis(200);
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/live-change.md");

/// A connection that is open while everything changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// From red to blue, over the bridge.
    Neighbours,
    /// From the LAN through the published port to blue.
    Published,
    /// From red to the LAN.
    Outwards,
    /// From red to blue, over a cable.
    Cable,
}

const FLOWS: [Flow; 4] = [Flow::Neighbours, Flow::Published, Flow::Outwards, Flow::Cable];

/// What becomes of a change.
enum Outcome {
    /// It takes effect, and every connection goes on.
    Live,
    /// It takes effect, and ends those connections that it forbids; all others go on.
    Ends(&'static [Flow]),
    /// 422: the field is part of what the object is.
    Fixed,
}

/// One change of one field.
struct Row {
    noun: &'static str,
    object: &'static str,
    field: &'static str,
    value: Value,
    outcome: Outcome,
    /// What happens, for the document.
    note: &'static str,
}

const FOLLOWS: &str =
    "at once, also for what flows: what may not pass any more stalls, and goes on once it may";

const FIXED: &str = "delete it and create it anew";

/// The rows of one object, in the order of the document.
struct Rows {
    noun: &'static str,
    object: &'static str,
    rows: Vec<Row>,
}

impl Rows {
    fn of(noun: &'static str, object: &'static str) -> Self {
        let rows = Vec::new();
        let rows = Self { noun, object, rows };
        let labels = match noun {
            "Attachment" => "policies that select by them, or have them as peers, follow at once",
            _ => "nothing of it is in the kernel",
        };
        rows.live("labels", json!({"role": "changed"}), labels)
            .live("annotations", json!({"note": "changed"}), "nothing of it is in the kernel")
            .live("owner", json!("ci-8"), "nothing of it is in the kernel")
    }

    fn row(mut self, field: &'static str, value: Value, outcome: Outcome, note: &'static str) -> Self {
        self.rows.push(Row { noun: self.noun, object: self.object, field, value, outcome, note });
        self
    }

    fn live(self, field: &'static str, value: Value, note: &'static str) -> Self {
        self.row(field, value, Outcome::Live, note)
    }

    fn ends(self, flows: &'static [Flow], field: &'static str, value: Value, note: &'static str) -> Self {
        self.row(field, value, Outcome::Ends(flows), note)
    }

    fn fixed(self, field: &'static str, value: Value) -> Self {
        self.row(field, value, Outcome::Fixed, FIXED)
    }
}

fn rows() -> Vec<Row> {
    let subnets = json!([{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}, {"cidr": "fd15::/64", "gateway": "fd15::5"}]);
    let nouns = [
        Rows::of("Namespace", "/v1/namespaces/red")
            .fixed("spec.source", json!({"adopted": {"path": "/run/netns/blue"}}))
            .live(
                "spec.sysctls",
                json!({"net.ipv4.ip_default_ttl": "63"}),
                "written; a key that goes gets its earlier value back",
            ),
        Rows::of("Network", "/v1/networks/v-net-0")
            .fixed("spec.kind", json!({"bridge": {"device": "other"}}))
            .fixed("spec.subnets", subnets)
            .ends(
                &[Flow::Outwards],
                "spec.egress",
                json!({"none": {}}),
                "connections that the new mode forbids or translates otherwise end",
            )
            .live("spec.mtu", json!(1400), "the bridge, its ports and the interfaces inside are set")
            .live("spec.isolation.members", json!(false), "elements of the firewall")
            .live("spec.isolation.networks", json!(false), "elements of the firewall")
            .live("spec.isolation.host", json!(true), "elements of the firewall")
            .live("spec.spoof_guard", json!(false), "elements of the firewall"),
        Rows::of("Attachment", "/v1/attachments/red0")
            .fixed("spec.namespace", json!("blue"))
            .fixed("spec.network", json!("other"))
            .ends(
                &[Flow::Neighbours, Flow::Outwards],
                "spec.addresses",
                json!(["192.168.15.9"]),
                "new addresses are added before old ones go; connections of an address that goes end",
            )
            .fixed("spec.mac", json!("02:00:00:00:00:07"))
            .fixed("spec.interface", json!("eth7"))
            .live("spec.default_route", json!(true), "the route is added or removed")
            .live("spec.metric", json!(7), "the new route is there before the old one goes")
            .live("spec.mtu", json!(1300), "both ends of the cable are set")
            .live(
                "spec.bandwidth",
                json!({"ingress": {"rate": 50_000_000}, "egress": {"rate": 50_000_000, "burst": 100_000}}),
                "the shapers are added, changed or removed",
            ),
        Rows::of("PortForward", "/v1/port-forwards/web")
            .fixed("spec.protocol", json!("udp"))
            .ends(
                &[Flow::Published],
                "spec.listen.address",
                json!("192.168.15.5"),
                "connections to what is no longer published end",
            )
            .ends(
                &[Flow::Published],
                "spec.listen.port",
                json!(81),
                "the new port is claimed first; connections to the old one end",
            )
            .live("spec.listen.end_port", json!(80), "as `listen.port`")
            .ends(
                &[Flow::Published],
                "spec.target.attachment",
                json!("red0"),
                "connections to the old target end",
            )
            .ends(&[Flow::Published], "spec.target.port", json!(81), "connections to the old target port end")
            .live(
                "spec.sources",
                json!(["192.168.1.0/24"]),
                "elements of the firewall; connections of sources that may no longer end",
            ),
        Rows::of("Reservation", "/v1/reservations/vip")
            .fixed("spec.network", json!("other"))
            .fixed("spec.address", json!("192.168.15.78"))
            .live("spec.note", json!("changed"), "nothing of it is in the kernel"),
        Rows::of("Route", "/v1/routes/lan")
            .fixed("spec.namespace", json!("blue"))
            .fixed("spec.destination", json!("192.168.2.0/24"))
            .live("spec.via", json!("192.168.15.6"), "the route is replaced in its place")
            .live("spec.interface", json!("eth0"), "the route is replaced in its place")
            .live("spec.metric", json!(50), "the new route is there before the old one goes")
            .fixed("spec.table", json!(1000))
            .live(
                "spec.type",
                json!("unicast"),
                "the route is replaced in its place; a type that goes nowhere drops packets",
            ),
        Rows::of("Link", "/v1/links/cable")
            .live(
                "spec.ends",
                json!([end("red", 1, &["10.1.1.9/24", "10.1.1.1/24", "fd00:1::1/64"]), end("blue", 2, &["10.1.1.2/24"])]),
                "new addresses are added before old ones go; `namespace`, `interface` and `mac` of an end are fixed",
            )
            .live("spec.mtu", json!(1400), "both ends of the cable are set"),
        Rows::of("Policy", "/v1/policies/quiet")
            .live("spec.selector.labels", json!({"role": "other"}), FOLLOWS)
            .live("spec.selector.network", json!("v-net-0"), FOLLOWS)
            .live("spec.directions", json!(["ingress", "egress"]), FOLLOWS)
            .live("spec.ingress", json!([{"peers": [{"labels": {"role": "app"}}]}]), FOLLOWS)
            .live("spec.egress", json!([{"ports": [{"protocol": "udp", "port": 53}]}]), FOLLOWS)
            .live("spec.log", json!(true), "of what is dropped from then on"),
    ];
    nouns.into_iter().flat_map(|noun| noun.rows).collect()
}

/// An end of the cable between red and blue.
fn end(namespace: &str, number: u8, addresses: &[&str]) -> Value {
    json!({"namespace": namespace, "interface": format!("cable{number}"), "addresses": addresses})
}

fn openapi() -> Value {
    serde_json::from_str(include_str!("../../proto/openapi.json")).unwrap()
}

/// Every field that a PATCH of this noun may name; a union is one field, and so is a list.
fn fields(document: &Value, noun: &str) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = ["labels", "annotations", "owner"].map(str::to_owned).into();
    walk(document, &format!("{noun}Spec"), "spec", &mut found);
    found
}

fn walk(document: &Value, schema: &str, at: &str, found: &mut BTreeSet<String>) {
    let Some(properties) = document["components"]["schemas"][schema]["properties"].as_object() else {
        found.insert(at.to_owned());
        return;
    };
    for (name, property) in properties {
        let reference = property["$ref"].as_str().or_else(|| property["oneOf"][0]["$ref"].as_str());
        let inner = reference.and_then(|reference| reference.strip_prefix("#/components/schemas/"));
        match inner {
            Some(inner) => walk(document, inner, &format!("{at}.{name}"), found),
            None => drop(found.insert(format!("{at}.{name}"))),
        }
    }
}

/// A merge patch that sets this field.
fn patch(field: &str, value: &Value) -> Value {
    field.rsplit('.').fold(value.clone(), |inner, key| json!({key: inner}))
}

/// The value of this field in an object; null if it is unset.
fn value_of(object: &Value, field: &str) -> Value {
    field.split('.').fold(object, |value, key| &value[key]).clone()
}

/// The lesson and a cable, with their connections.
struct Scene {
    lan: Lan,
    rest: Rest,
    _servers: Vec<netloom_server::kernel::echo::EchoServer>,
}

impl Scene {
    async fn build(daemon: &Daemon) -> Self {
        let lan = lan();
        let rest = daemon.rest();
        for (path, body) in crate::stories::lesson() {
            rest.post(path, &body).await.ok();
        }
        // Red reaches the LAN by a route of its own, and the bridge has a second address that it can go through.
        add_address("v-net-0", "192.168.15.6/24".parse().unwrap()).unwrap();
        let spec = json!({"namespace": "red", "destination": "192.168.1.0/24", "via": "192.168.15.5"});
        rest.post("/v1/routes", &json!({"name": "lan", "spec": spec})).await.ok();
        let ends = [end("red", 1, &["10.1.1.1/24"]), end("blue", 2, &["10.1.1.2/24"])];
        rest.post("/v1/links", &json!({"name": "cable", "spec": {"ends": ends}})).await.ok();
        // It selects nobody here, whatever of it changes; what a Policy does to what flows is told in other stories.
        let quiet = json!({"name": "quiet", "spec": {"selector": {"labels": {"role": "nobody"}}}});
        rest.post("/v1/policies", &quiet).await.ok();
        let namespaces = Namespaces::default();
        let (red, blue) = (namespaces.open("red").unwrap(), namespaces.open("blue").unwrap());
        let serve = |at: &dyn AsFd, port: u16| {
            serve_tcp(at.as_fd(), SocketAddr::new("0.0.0.0".parse().unwrap(), port), "server").unwrap()
        };
        let peer = lan.peer("peer").unwrap();
        let servers = vec![serve(&blue, 80), serve(&blue, 81), serve(&red, 80), serve(&peer, 900)];
        Self { lan, rest, _servers: servers }
    }

    fn open(&self, flow: Flow) -> TcpStream {
        let namespaces = Namespaces::default();
        let red = namespaces.open("red").unwrap();
        let peer = self.lan.peer("peer").unwrap();
        let open = |from: &dyn AsFd, to: &str| {
            probe::tcp_open(from.as_fd(), to.parse().unwrap(), PATIENCE).unwrap().unwrap()
        };
        let mut stream = match flow {
            Flow::Neighbours => open(&red, "192.168.15.2:80"),
            Flow::Published => open(&peer, "192.168.1.2:80"),
            Flow::Outwards => open(&red, "192.168.1.3:900"),
            Flow::Cable => open(&red, "10.1.1.2:80"),
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server's first line says whom it sees.
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
        }
        stream
    }

    /// Changes one field, and judges the answer and every connection.
    async fn try_row(&self, row: &Row, flows: &mut [(Flow, TcpStream)]) {
        let Row { object, field, value, outcome, .. } = row;
        let before = self.rest.get(object).await.unwrap().ok();
        let reply = self.rest.patch(object, &patch(field, value)).await;
        let what = format!("{object} {field} = {value}");
        let ended: &[Flow] = match outcome {
            Outcome::Fixed => {
                assert_eq!(reply.status, 422, "{what}: {reply:#?}");
                let named = reply.body["violations"][0]["field"].as_str().unwrap_or_default();
                assert!(named.starts_with(field), "{what}: {reply:#?}");
                &[]
            }
            Outcome::Live => {
                ready(&reply.ok(), &what);
                &[]
            }
            Outcome::Ends(flows) => {
                ready(&reply.ok(), &what);
                flows
            }
        };
        for (flow, stream) in flows.iter_mut() {
            let gone = ended.contains(flow);
            stream.set_read_timeout(Some(if gone { SILENCE } else { PATIENCE })).unwrap();
            let lives = if gone { outlives(stream) } else { echoes(stream) };
            assert_eq!(lives, !gone, "{what}: {flow:?}");
        }
        let back = patch(field, &value_of(&before, field));
        ready(&self.rest.patch(object, &back).await.ok(), &format!("{what}, taken back"));
        for (flow, stream) in flows.iter_mut() {
            if ended.contains(flow) {
                *stream = self.open(*flow);
            }
            assert!(echoes(stream), "{what}, taken back: {flow:?}");
        }
    }
}

fn ready(object: &Value, what: &str) {
    assert_eq!(object["status"]["conditions"][0]["status"], "True", "{what}: {object:#}");
    assert_eq!(object["status"]["observed_generation"], object["generation"], "{what}: {object:#}");
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok() && byte == *b"x"
}

/// Whether the connection is still there after a while. Flows are forgotten beside the reply, not before it.
fn outlives(stream: &mut TcpStream) -> bool {
    let asked = Instant::now();
    while echoes(stream) {
        if asked.elapsed() > PATIENCE {
            return true;
        }
    }
    false
}

#[test]
fn every_change_is_live_or_says_that_it_cannot_be() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let scene = Scene::build(&daemon).await;
        let mut flows: Vec<(Flow, TcpStream)> =
            FLOWS.into_iter().map(|flow| (flow, scene.open(flow))).collect();
        for row in rows() {
            scene.try_row(&row, &mut flows).await;
        }
    });
}

#[test]
fn every_field_of_every_spec_is_in_the_table() {
    let (rows, document) = (rows(), openapi());
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for noun in schemas.keys().filter_map(|schema| schema.strip_suffix("Spec")) {
        let tried: BTreeSet<String> =
            rows.iter().filter(|row| row.noun == noun).map(|row| row.field.to_owned()).collect();
        let within = |field: &str, row: &str| {
            field.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let fields = fields(&document, noun);
        let untried: Vec<&String> =
            fields.iter().filter(|field| !tried.iter().any(|row| within(field, row))).collect();
        assert!(untried.is_empty(), "{noun}: {untried:?} are in no row");
        let unknown: Vec<&String> =
            tried.iter().filter(|row| !fields.iter().any(|field| within(field, row))).collect();
        assert!(unknown.is_empty(), "{noun}: there are no fields {unknown:?}");
    }
}

#[test]
fn the_document_is_what_the_rows_say() {
    let text = document();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(DOCUMENT, &text).unwrap();
    }
    let committed = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    assert_eq!(committed, text, "UPDATE_GOLDEN=1 cargo test live_change writes it anew");
}

fn document() -> String {
    let mut text = String::from(
        "# What can change while traffic flows\n\n\
         A PATCH (or an apply) of a field that is *live* takes effect without re-creating anything: connections through the object go\n\
         on. Where a change forbids a connection, that one ends and no other. A field that is *fixed* is part of what the object\n\
         is: another value is 422 `IMMUTABLE` with the field, the same value is fine.\n\n\
         This page is written by a test, which makes each of these changes while three connections are open: between two\n\
         neighbours, from the LAN through a published port, and from a namespace to the LAN.\n",
    );
    let rows = rows();
    let mut last = "";
    for row in &rows {
        if row.noun != last {
            last = row.noun;
            let _ = write!(text, "\n## {last}\n\n| Field | | What happens |\n|---|---|---|\n");
        }
        let kind = match row.outcome {
            Outcome::Live | Outcome::Ends(_) => "live",
            Outcome::Fixed => "fixed",
        };
        let _ = writeln!(text, "| `{}` | {kind} | {} |", row.field, row.note);
    }
    text
}
