//! What of each noun a person wants to see: in a row, in full, and in half a sentence.

use std::{fmt::Display, net::IpAddr};

use netloom_client::{
    Attachment, Bandwidth, Callable, Egress, Labels, Link, LinkEnd, Name, Namespace, NatEgress, Network,
    Object, PeerKind, Policy, PolicyPeer, PolicyPort, PolicyRule, PolicySelector, PortForward, PortRange,
    RateLimit, Reservation, Route, RouteType, SubnetStatus,
};

use crate::values::rate_text;

/// A noun that can be shown to people.
pub trait Shown: Callable {
    /// The noun as the command says it.
    const WORD: &'static str;
    /// The columns of a list between NAME and READY.
    const COLUMNS: &'static [&'static str];
    /// The values of the columns.
    fn cells(object: &Object<Self>) -> Vec<String>;
    /// Everything of spec and status that is the noun's own; empty values are left out.
    fn facts(object: &Object<Self>) -> Vec<(&'static str, String)>;
    /// What a write has made of it, in half a sentence.
    fn gist(object: &Object<Self>) -> String;
}

impl Shown for Namespace {
    const WORD: &'static str = "namespace";
    const COLUMNS: &'static [&'static str] = &["ATTACHMENTS"];

    fn cells(object: &Object<Self>) -> Vec<String> {
        vec![object.status.noun.attachments.to_string()]
    }

    fn facts(object: &Object<Self>) -> Vec<(&'static str, String)> {
        let status = &object.status.noun;
        vec![
            ("path", text(status.path.as_ref())),
            ("cookie", text(status.cookie)),
            ("attachments", status.attachments.to_string()),
        ]
    }

    fn gist(object: &Object<Self>) -> String {
        text(object.status.noun.path.as_ref())
    }
}

impl Shown for Network {
    const WORD: &'static str = "network";
    const COLUMNS: &'static [&'static str] = &["SUBNETS", "EGRESS", "DEVICE", "USED"];

    fn cells(object: &Object<Self>) -> Vec<String> {
        let status = &object.status.noun;
        let (used, size) = status
            .subnets
            .iter()
            .fold((0, 0i64), |(used, size), subnet| (used + subnet.used, size.saturating_add(subnet.size)));
        vec![
            list(status.subnets.iter().map(|subnet| subnet.cidr), ","),
            egress(object.spec.egress()),
            text(status.device.as_ref()),
            used_of(used, size, "/"),
        ]
    }

    fn facts(object: &Object<Self>) -> Vec<(&'static str, String)> {
        let (spec, status) = (&object.spec, &object.status.noun);
        let subnet = |subnet: &SubnetStatus| {
            let SubnetStatus { cidr, gateway, size, used, free: _ } = subnet;
            format!("{cidr} gateway {gateway}, {} used", used_of(*used, *size, " of "))
        };
        vec![
            ("device", text(status.device.as_ref())),
            ("subnets", list(status.subnets.iter().map(subnet), "\n")),
            ("egress", egress(spec.egress())),
            ("mtu", text(status.mtu)),
            ("mac", text(status.mac)),
            ("isolation", isolation(object)),
            ("spoof guard", if spec.spoof_guard() { "on" } else { "off" }.into()),
            ("attachments", status.attachments.to_string()),
        ]
    }

    fn gist(object: &Object<Self>) -> String {
        let status = &object.status.noun;
        let subnets = status.subnets.iter().map(|one| format!("{} with gateway {}", one.cidr, one.gateway));
        format!("{} on {}", list(subnets, " and "), text(status.device.as_ref()))
    }
}

impl Shown for Attachment {
    const WORD: &'static str = "attachment";
    const COLUMNS: &'static [&'static str] = &["NAMESPACE", "NETWORK", "ADDRESSES", "INTERFACE"];

    fn cells(object: &Object<Self>) -> Vec<String> {
        let (spec, status) = (&object.spec, &object.status.noun);
        vec![
            spec.namespace.to_string(),
            spec.network.to_string(),
            list(&status.addresses, ","),
            text(status.interface.as_ref()),
        ]
    }

    fn facts(object: &Object<Self>) -> Vec<(&'static str, String)> {
        let (spec, status) = (&object.spec, &object.status.noun);
        let route = match status.default_route {
            Some(true) => format!("yes, metric {}", text(status.metric)),
            Some(false) => "no".into(),
            None => String::new(),
        };
        vec![
            ("namespace", spec.namespace.to_string()),
            ("network", spec.network.to_string()),
            ("addresses", list(&status.addresses, "\n")),
            ("interface", numbered(status.interface.as_ref(), status.ifindex)),
            ("mac", text(status.mac)),
            ("mtu", text(status.mtu)),
            ("default route", route),
            ("bandwidth", bandwidth(status.bandwidth.as_ref())),
            ("host device", numbered(status.host_device.as_ref(), status.host_ifindex)),
        ]
    }

    fn gist(object: &Object<Self>) -> String {
        let status = &object.status.noun;
        format!("{} on {}", list(&status.addresses, " and "), text(status.interface.as_ref()))
    }
}

/// `in 10 Mbit/s, out 5 Mbit/s`, each with its burst.
fn bandwidth(bandwidth: Option<&Bandwidth>) -> String {
    let words = |(direction, limit): (&str, Option<RateLimit>)| {
        let RateLimit { rate, burst } = limit?;
        let burst = burst.map(|burst| format!(", burst {burst} bytes")).unwrap_or_default();
        Some(format!("{direction} {}bit/s{burst}", rate_text(rate)))
    };
    let directions = bandwidth.map(Bandwidth::directions).into_iter().flatten();
    list(directions.filter_map(words), "\n")
}

impl Shown for PortForward {
    const WORD: &'static str = "forward";
    const COLUMNS: &'static [&'static str] = &["LISTEN", "TARGET"];

    fn cells(object: &Object<Self>) -> Vec<String> {
        vec![listen(object), target(object)]
    }

    fn facts(object: &Object<Self>) -> Vec<(&'static str, String)> {
        let status = &object.status.noun;
        vec![
            ("protocol", object.spec.protocol.to_string()),
            ("listen", list(status.listen.iter().map(ports), "\n")),
            ("target", target(object)),
            ("target address", list(status.target.iter().map(ports), "\n")),
        ]
    }

    fn gist(object: &Object<Self>) -> String {
        format!("{} to {}", listen(object), target(object))
    }
}

impl Shown for Reservation {
    const WORD: &'static str = "reservation";
    const COLUMNS: &'static [&'static str] = &["NETWORK", "ADDRESS", "NOTE"];

    fn cells(object: &Object<Self>) -> Vec<String> {
        let (spec, status) = (&object.spec, &object.status.noun);
        vec![spec.network.to_string(), text(status.address), text(spec.note.as_ref())]
    }

    fn facts(object: &Object<Self>) -> Vec<(&'static str, String)> {
        let (spec, status) = (&object.spec, &object.status.noun);
        vec![
            ("network", spec.network.to_string()),
            ("address", text(status.address)),
            ("note", text(spec.note.as_ref())),
        ]
    }

    fn gist(object: &Object<Self>) -> String {
        format!("{} of {}", text(object.status.noun.address), object.spec.network)
    }
}

impl Shown for Route {
    const WORD: &'static str = "route";
    const COLUMNS: &'static [&'static str] = &["NAMESPACE", "DESTINATION", "WAY", "METRIC"];

    fn cells(object: &Object<Self>) -> Vec<String> {
        let (spec, status) = (&object.spec, &object.status.noun);
        vec![spec.namespace.to_string(), spec.destination.to_string(), way(object), text(status.metric)]
    }

    fn facts(object: &Object<Self>) -> Vec<(&'static str, String)> {
        let (spec, status) = (&object.spec, &object.status.noun);
        vec![
            ("namespace", spec.namespace.to_string()),
            ("destination", spec.destination.to_string()),
            ("type", text(status.type_)),
            ("via", text(spec.via)),
            ("device", text(status.device.as_ref())),
            ("metric", text(status.metric)),
            ("table", text(status.table)),
        ]
    }

    fn gist(object: &Object<Self>) -> String {
        format!("{} {} in {}", object.spec.destination, way(object), object.spec.namespace)
    }
}

/// Where packets go: `via 192.168.15.5 dev eth0`, or `blackhole`.
fn way(object: &Object<Route>) -> String {
    let (spec, status) = (&object.spec, &object.status.noun);
    let via = spec.via.map(|via| format!("via {via}"));
    let device = status.device.as_ref().or(spec.interface.as_ref()).map(|device| format!("dev {device}"));
    match spec.type_() {
        RouteType::Unicast => list(via.into_iter().chain(device), " "),
        other => other.to_string(),
    }
}

impl Shown for Link {
    const WORD: &'static str = "link";
    const COLUMNS: &'static [&'static str] = &["END", "ADDRESSES", "OTHER END", "ADDRESSES"];

    fn cells(object: &Object<Self>) -> Vec<String> {
        object.spec.ends.iter().flat_map(|end| [place(end), list(&end.addresses, ",")]).collect()
    }

    fn facts(object: &Object<Self>) -> Vec<(&'static str, String)> {
        let status = &object.status.noun;
        let mut facts = Vec::new();
        for (word, (end, is)) in
            ["end", "other end"].into_iter().zip(object.spec.ends.iter().zip(&status.ends))
        {
            facts.push((word, numbered(Some(place(end)), is.ifindex)));
            facts.push(("addresses", list(&end.addresses, "\n")));
            facts.push(("mac", text(is.mac)));
        }
        facts.push(("mtu", text(status.mtu)));
        facts
    }

    fn gist(object: &Object<Self>) -> String {
        list(object.spec.ends.iter().map(place), " to ")
    }
}

impl Shown for Policy {
    const WORD: &'static str = "policy";
    const COLUMNS: &'static [&'static str] = &["SELECTS", "DIRECTIONS", "ATTACHMENTS"];

    fn cells(object: &Object<Self>) -> Vec<String> {
        let status = &object.status.noun;
        let directions = list(&status.directions, ",");
        vec![selector(&object.spec.selector), directions, status.selected.to_string()]
    }

    fn facts(object: &Object<Self>) -> Vec<(&'static str, String)> {
        let (spec, status) = (&object.spec, &object.status.noun);
        let selected = status.selected;
        vec![
            ("selects", format!("{} ({selected} now)", selector(&spec.selector))),
            ("directions", list(&status.directions, ", ")),
            ("from", list(spec.ingress.iter().map(rule), "\n")),
            ("to", list(spec.egress.iter().map(rule), "\n")),
            ("log", if spec.log() { "what it drops".into() } else { String::new() }),
        ]
    }

    fn gist(object: &Object<Self>) -> String {
        let status = &object.status.noun;
        let (what, ways) = (selector(&object.spec.selector), list(&status.directions, " and "));
        format!("{ways} of {what}, {} now", status.selected)
    }
}

/// Whom a selector means: `role=db+network:v-net-0`, or `all`.
fn selector(PolicySelector { labels, network }: &PolicySelector) -> String {
    attachments(labels, network.as_ref())
}

fn attachments(labels: &Labels, network: Option<&Name>) -> String {
    let labels = labels.as_map().iter().map(|(key, value)| format!("{key}={value}"));
    let all = labels.chain(network.map(|name| format!("network:{name}")));
    let text = list(all, "+");
    if text.is_empty() { "all".into() } else { text }
}

/// A rule as `policy add` takes it.
fn rule(PolicyRule { peers, ports }: &PolicyRule) -> String {
    let peers = if peers.is_empty() { "any".into() } else { list(peers.iter().map(peer), ",") };
    if ports.is_empty() { peers } else { format!("{peers}@{}", list(ports.iter().map(port), ",")) }
}

fn peer(peer: &PolicyPeer) -> String {
    match peer.kind() {
        PeerKind::Attachments(PolicySelector { labels, network }) => attachments(&labels, network.as_ref()),
        PeerKind::Prefix(cidr, except) => list([cidr].iter().chain(except), "-"),
    }
}

fn port(port: &PolicyPort) -> String {
    let PolicyPort { protocol, port: _, end_port: _, type_, code } = port;
    let range = port.ports().map(|(first, last)| span(first, last));
    let parts = [range, type_.map(|value| value.to_string()), code.map(|value| value.to_string())];
    list([protocol.to_string()].into_iter().chain(parts.into_iter().flatten()), "/")
}

/// Where an end is: `red:veth-red`.
fn place(end: &LinkEnd) -> String {
    format!("{}:{}", end.namespace, end.interface)
}

/// The value, or nothing.
fn text(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn list<T: Display>(values: impl IntoIterator<Item = T>, between: &str) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(between)
}

fn numbered(name: Option<impl Display>, ifindex: Option<u32>) -> String {
    match (name, ifindex) {
        (Some(name), Some(ifindex)) => format!("{name} (index {ifindex})"),
        (name, _) => text(name),
    }
}

/// How much of a subnet is used. The size of an IPv6 subnet tells nobody anything.
fn used_of(used: i64, size: i64, of: &str) -> String {
    if size < 1 << 32 { format!("{used}{of}{size}") } else { used.to_string() }
}

fn egress(egress: Egress) -> String {
    match egress {
        Egress::Nat(NatEgress { address: None, address_v6: None }) => "nat".into(),
        Egress::Nat(NatEgress { address, address_v6 }) => {
            let v6 = address_v6.map(|address| address.to_string());
            format!(
                "nat behind {}",
                list(address.map(|address| address.to_string()).into_iter().chain(v6), " and ")
            )
        }
        Egress::Routed(_) => "routed".into(),
        Egress::None(_) => "none".into(),
    }
}

fn isolation(object: &Object<Network>) -> String {
    let spec = &object.spec;
    let all = [
        (spec.isolates_members(), "members from each other"),
        (spec.isolates_networks(), "from other networks"),
        (spec.isolates_host(), "from the host"),
    ];
    list(all.into_iter().filter(|(on, _)| *on).map(|(_, what)| what), ", ")
}

/// Where the host listens: `*:8080/tcp`.
fn listen(object: &Object<PortForward>) -> String {
    let (listen, protocol) = (&object.spec.listen, object.spec.protocol);
    let wanted = PortRange { address: listen.address, port: listen.port, end_port: listen.last_port() };
    // The status has the port that was chosen.
    format!("{}/{protocol}", ports(object.status.noun.listen.first().unwrap_or(&wanted)))
}

/// Where it goes: `blue0:80`.
fn target(object: &Object<PortForward>) -> String {
    let (listen, target) = (&object.spec.listen, &object.spec.target);
    let port = target.port.unwrap_or(listen.port);
    let end_port = port.saturating_add(listen.last_port().saturating_sub(listen.port));
    format!("{}:{}", target.attachment, span(port, end_port))
}

fn ports(range: &PortRange) -> String {
    let address = match range.address {
        None => "*".to_owned(),
        Some(IpAddr::V4(v4)) => v4.to_string(),
        Some(IpAddr::V6(v6)) => format!("[{v6}]"),
    };
    format!("{address}:{}", span(range.port, range.end_port))
}

fn span(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
