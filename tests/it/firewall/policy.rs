//! Policies: who may call whom, by labels, networks and prefixes; and what a change does to calls that are under way.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use netloom_server::kernel::thread;
use serde_json::{Value, json};

use super::{
    PATIENCE, SENTINEL, Site,
    call::{Answer, Call, Nothing, Open, Refused, Tcp, Transport, Udp, by, call},
    modes, on_site,
    packet::{echo, udp},
    volley::{Shot, nobody, only},
};

/// Two networks that talk to each other, each member with its name for a label.
async fn labelled(site: &mut Site) {
    for network in ["red", "blue"] {
        site.change(network, json!({"isolation": {"networks": false}})).await;
    }
    for member in ["a1", "a2", "b1", "b2", "d1"] {
        label(site, member, member).await;
    }
    for place in ["a1", "a2", "b1", "b2", "d1", "peer", "far"] {
        site.serve(place, &[80, 81]);
    }
    site.serve_host_at("10.2.0.1", 8100);
    site.serve_host_at("192.0.2.1", 8100);
}

async fn label(site: &Site, member: &str, who: &str) {
    let path = format!("/v1/attachments/{member}");
    site.daemon.rest().patch(&path, &json!({"labels": {"who": who}})).await.ok();
}

/// Makes a policy, or changes it to this.
async fn policy(site: &Site, name: &str, spec: Value) {
    let object = json!({"kind": "Policy", "name": name, "spec": spec});
    site.daemon.rest().post("/v1/apply", &json!({"objects": [object]})).await.ok();
}

async fn lift(site: &Site, name: &str) {
    site.daemon.rest().delete(&format!("/v1/policies/{name}")).await.ok();
}

fn who(name: &str) -> Value {
    json!({"labels": {"who": name}})
}

fn port(protocol: &str, port: u16) -> Value {
    json!({"protocol": protocol, "port": port})
}

/// So that a table can tell silence: its callers may always reach the sentinel's port.
fn sentinel() -> Value {
    json!({"ports": [port("udp", SENTINEL)]})
}

/// The same call by both protocols.
fn both(from: &'static str, to: &str, answer: &Answer) -> [Call; 2] {
    [Tcp, Udp].map(|transport| call(from, transport, to, answer.clone()))
}

#[test]
fn who_is_selected_for_ingress_hears_whom_a_rule_allows_and_nobody_else() {
    on_site(async |site| {
        labelled(site).await;
        for mode in modes() {
            site.bridge_netfilter(mode);
            let spec = json!({"selector": who("a2"), "directions": ["ingress"], "ingress": [
                {"peers": [who("a1"), who("b2")], "ports": [port("tcp", 80), port("udp", 80)]}]});
            policy(site, "in", spec).await;
            let mut rows = Vec::new();
            for (a1, a2, b1, b2, host) in [
                ("10.1.0.11", "10.1.0.12", "10.2.0.11", "10.2.0.12", "10.1.0.1"),
                ("fd01::11", "[fd01::12]", "[fd02::11]", "fd02::12", "fd01::1"),
            ] {
                rows.extend(both("a1", &format!("{a2}:80"), &by("a2:80", a1)));
                rows.extend(both("b2", &format!("{a2}:80"), &by("a2:80", b2)));
                rows.extend(both("a1", &format!("{a2}:81"), &Nothing));
                rows.extend(both("b1", &format!("{a2}:80"), &Nothing));
                // What it does itself, what others do, and what the host does with it are not its matter.
                rows.extend(both("a2", &format!("{b1}:80"), &by("b1:80", a2.trim_matches(['[', ']']))));
                rows.extend(both("a1", &format!("{b1}:81"), &by("b1:81", a1)));
                rows.extend(both("host", &format!("{a2}:81"), &by("a2:81", host)));
            }
            site.calls("ingress by labels", &rows);
            let ll = [site.link_local("a1"), site.link_local("a2")];
            let on_link = |site: &Site, to: u16, expected| {
                let datagram = udp(&ll[0], &format!("[{}]:{to}", ll[1]));
                Shot::new(
                    "a1",
                    format!("to the link-local address, port {to}"),
                    site.to("a1", "a2", &datagram),
                    expected,
                )
            };
            let all = udp("10.1.0.11", "224.0.0.99:80").ether(site.mac("a1"), [1, 0, 0x5e, 0, 0, 99]);
            let rows = [
                on_link(site, 80, only(["a2"])),
                on_link(site, 81, nobody()),
                Shot::new(
                    "a1",
                    "an echo request",
                    site.to("a1", "a2", &echo("10.1.0.11", "10.1.0.12")),
                    nobody(),
                ),
                Shot::new("a1", "to a group", all, nobody()),
            ];
            site.volley("ingress by labels", &rows);

            let spec = json!({"selector": who("a2"), "directions": ["ingress"], "ingress": [
                {"peers": [{"network": "red"}], "ports": [{"protocol": "icmp", "type": 8}, {"protocol": "icmpv6", "type": 128}]}]});
            policy(site, "in", spec).await;
            let ping = |site: &Site, from: &str, to: &str| site.to("a1", "a2", &echo(from, to));
            let rows = [
                Shot::new("a1", "an echo request", ping(site, "10.1.0.11", "10.1.0.12"), only(["a2"]))
                    .answered(true),
                Shot::new("a1", "an echo request", ping(site, "fd01::11", "fd01::12"), only(["a2"]))
                    .answered(true),
                on_link(site, 80, nobody()),
            ];
            site.volley("ingress of ICMP", &rows);
            lift(site, "in").await;
            site.calls("no policy any more", &[call("b1", Tcp, "10.1.0.12:80", by("a2:80", "10.2.0.11"))]);
        }
    });
}

#[test]
fn who_is_selected_for_egress_reaches_whom_a_rule_allows_and_is_answered_by_all_who_call() {
    on_site(async |site| {
        labelled(site).await;
        let spec = json!({"selector": who("b2"), "directions": ["egress"], "egress": [
            {"peers": [who("a1"), {"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}],
                "ports": [{"protocol": "tcp", "port": 80, "end_port": 80}, port("udp", 80), port("udp", 9)]},
            sentinel()]});
        policy(site, "out", spec).await;
        // All in vain: what a policy allows to others is no matter of this one.
        policy(site, "other", json!({"selector": who("b1"), "directions": ["egress"], "egress": [{}]})).await;
        for mode in modes() {
            site.bridge_netfilter(mode);
            let mut rows = Vec::new();
            for (a1, b1, b2) in
                [("10.1.0.11", "10.2.0.11", "10.2.0.12"), ("[fd01::11]", "[fd02::11]", "fd02::12")]
            {
                rows.extend(both("b2", &format!("{a1}:80"), &by("a1:80", b2)));
                rows.extend(both("b2", &format!("{a1}:81"), &Nothing));
                rows.extend(both("b2", &format!("{b1}:80"), &Nothing));
                let called = if b2.contains(':') { format!("[{b2}]:81") } else { format!("{b2}:81") };
                let (a1, b1) = (a1.trim_matches(['[', ']']), b1.trim_matches(['[', ']']));
                rows.extend(both("b1", &called, &by("b2:81", b1)));
                rows.extend(both("a1", &called, &by("b2:81", a1)));
            }
            rows.extend(both("b2", "192.0.2.100:80", &by("peer:80", "192.0.2.1")));
            rows.extend(both("b2", "198.51.100.100:80", &Nothing));
            rows.extend(both("b2", "[2001:db8::100]:80", &Nothing));
            // The host is a destination like any other.
            rows.extend(both("b2", "10.2.0.1:8100", &Nothing));
            rows.extend(both("b2", "192.0.2.1:8100", &Nothing));
            rows.extend(both("b1", "10.2.0.1:8100", &by("host:8100", "10.2.0.11")));
            // An error about what was allowed is no flow of its own.
            rows.push(call("b2", Udp, "192.0.2.100:9", Refused));
            rows.push(call("b2", Udp, "10.1.0.11:9", Refused));
            site.calls("egress", &rows);
        }
    });
}

#[test]
fn published_ports_and_routed_members_are_judged_by_the_real_source_and_target() {
    on_site(async |site| {
        labelled(site).await;
        let near =
            json!([{"cidr": "192.0.2.0/24", "except": ["192.0.2.100/32"]}, {"cidr": "2001:db8::66/128"}]);
        // 8090 leads to 80 here: a policy knows the target's port alone.
        let spec = json!({"selector": who("b1"), "directions": ["ingress"], "ingress": [{"peers": near, "ports": [port("tcp", 80)]}]});
        policy(site, "web", spec).await;
        let spec = json!({"selector": who("d1"), "directions": ["ingress"], "ingress": [
            {"peers": [{"cidr": "192.0.2.100/32"}, {"cidr": "2001:db8::100/128"}], "ports": [port("tcp", 80)]}]});
        policy(site, "routed", spec).await;
        for mode in modes() {
            site.bridge_netfilter(mode);
            site.calls(
                "published and routed",
                &[
                    call("hostile", Tcp, "192.0.2.1:8090", by("b1:80", "192.0.2.66")),
                    call("hostile", Tcp, "[2001:db8::1]:8090", by("b1:80", "2001:db8::66")),
                    call("peer", Tcp, "192.0.2.1:8090", Nothing),
                    call("peer", Tcp, "[2001:db8::1]:8090", Nothing),
                    call("far", Tcp, "198.51.100.1:8090", Nothing),
                    call("a1", Tcp, "192.0.2.1:8090", Nothing),
                    // The host itself is not policed.
                    call("host", Tcp, "192.0.2.1:8090", by("b1:80", "192.0.2.1")),
                    // Another published port is as it was.
                    call("peer", Tcp, "192.0.2.1:8080", by("a1:80", "192.0.2.100")),
                    // Without a policy nobody outside reaches a routed member.
                    call("peer", Tcp, "10.4.0.11:80", by("d1:80", "192.0.2.100")),
                    call("peer", Tcp, "[fd04::11]:80", by("d1:80", "2001:db8::100")),
                    call("peer", Tcp, "10.4.0.11:81", Nothing),
                    call("hostile", Tcp, "10.4.0.11:80", Nothing),
                    call("d1", Tcp, "192.0.2.66:80", Refused),
                ],
            );
        }
    });
}

/// A word has come. That a connection is there says nothing of whether it still carries any.
fn is_said(answer: &Answer) -> bool {
    matches!(answer, Answer::From { by, .. } if by != "a server that says nothing")
}

/// Who is called at one port by both protocols and families.
struct Calls(Vec<(Transport, Open)>);

impl Calls {
    fn begin(site: &Site) -> Self {
        let to = |transport, to: &str| (transport, site.dial("a1", transport, to.parse().unwrap()));
        let all = Self(vec![
            to(Tcp, "10.1.0.12:80"),
            to(Udp, "10.1.0.12:80"),
            to(Tcp, "[fd01::12]:80"),
            to(Udp, "[fd01::12]:80"),
        ]);
        for (_, open) in &all.0 {
            assert!(is_said(&open.answer(PATIENCE)));
        }
        all
    }

    /// Each says a word more, and these are the answers.
    fn go_on(&self, site: &mut Site, what: &str, on: bool) {
        self.0.iter().for_each(|(_, open)| open.ask());
        if !on {
            site.settle("a1");
        }
        let patience = if on { PATIENCE } else { Duration::ZERO };
        let answers = self.0.iter().map(|(transport, open)| (transport, open.answer(patience)));
        let wrong: Vec<String> = answers
            .filter(|(_, answer)| is_said(answer) != on)
            .map(|(transport, answer)| format!("a call by {transport:?} gets {answer}"))
            .collect();
        site.judge(what, 4, &wrong);
    }
}

#[test]
fn a_change_of_labels_or_policies_cuts_running_calls_at_once_and_lets_the_same_ones_go_on() {
    on_site(async |site| {
        labelled(site).await;
        let spec = |port_number: u16| {
            json!({"selector": who("a2"), "directions": ["ingress"], "ingress": [
                {"peers": [who("a1")], "ports": [port("tcp", port_number), port("udp", port_number)]}]})
        };
        let other = site.dial("a1", Tcp, "10.2.0.11:80".parse().unwrap());
        assert_eq!(other.answer(PATIENCE), by("b1:80", "10.1.0.11"));
        for mode in modes() {
            site.bridge_netfilter(mode);
            // Begun where no policy is, on layer 2.
            let calls = Calls::begin(site);
            policy(site, "in", spec(80)).await;
            calls.go_on(site, "a policy that allows them", true);
            label(site, "a1", "nobody").await;
            calls.go_on(site, "another label", false);
            label(site, "a1", "a1").await;
            calls.go_on(site, "the label is back", true);
            policy(site, "in", spec(81)).await;
            calls.go_on(site, "another port", false);
            policy(site, "more", spec(80)).await;
            calls.go_on(site, "a second policy allows them", true);
            lift(site, "more").await;
            calls.go_on(site, "the second policy is gone", false);
            lift(site, "in").await;
            calls.go_on(site, "no policy any more", true);
            other.ask();
            let answer = other.answer(PATIENCE);
            let wrong = (!is_said(&answer)).then(|| format!("gets {answer}"));
            site.judge("a call of others goes on all the time", 1, &wrong.into_iter().collect::<Vec<_>>());
        }
    });
}

/// Somebody who sends numbered datagrams to two ports in turn, as fast as they are answered or not.
struct Stream {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u32>,
    allowed: UdpSocket,
    denied: UdpSocket,
}

impl Stream {
    fn begin(site: &Site) -> Self {
        let bound = |place: &str, at: &'static str| {
            let socket = thread::run(site.namespace(place), "bind", move || UdpSocket::bind(at));
            let socket = socket.unwrap().unwrap();
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20))
                .unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let (allowed, denied) = (bound("a2", "10.1.0.12:90"), bound("a2", "10.1.0.12:91"));
        let from = bound("a1", "10.1.0.11:0");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = std::thread::spawn(move || {
            let mut sent = 0_u32;
            while !stopped.load(Ordering::Relaxed) {
                for port in [90, 91] {
                    from.send_to(&sent.to_be_bytes(), ("10.1.0.12", port)).unwrap();
                }
                sent += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            // Behind all others, until it is sure to have come.
            from.send_to(b"end", ("10.1.0.12", 90)).unwrap();
            sent
        });
        Self { stop, sender, allowed, denied }
    }

    /// How many were sent to each port, and how many came in.
    fn end(self) -> (u32, u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        let (mut came, mut buffer) = (0, [0; 16]);
        while self.allowed.recv(&mut buffer).unwrap() != b"end".len() {
            came += 1;
        }
        self.denied.set_nonblocking(true).unwrap();
        let mut leaked = 0;
        while self.denied.recv(&mut buffer).is_ok() {
            leaked += 1;
        }
        (sent, came, leaked)
    }
}

#[test]
fn three_hundred_replacements_lose_nothing_that_is_allowed_and_let_nothing_pass_that_is_not() {
    on_site(async |site| {
        labelled(site).await;
        let rule = |ports: &[u16]| {
            let ports: Vec<Value> = ports.iter().map(|number| port("udp", *number)).collect();
            json!({"peers": [who("a1")], "ports": ports})
        };
        let spec =
            |rules: Vec<Value>| json!({"selector": who("a2"), "directions": ["ingress"], "ingress": rules});
        policy(site, "stays", spec(vec![rule(&[90])])).await;
        for mode in modes() {
            site.bridge_netfilter(mode);
            let stream = Stream::begin(site);
            let began = Instant::now();
            for turn in 0..50_u16 {
                // Another set of policies for the same address, another chain, and another content of it: three each.
                policy(site, "comes", spec(vec![rule(&[1000 + turn])])).await;
                policy(site, "stays", spec(vec![rule(&[2000 + turn]), rule(&[90])])).await;
                lift(site, "comes").await;
            }
            let took = began.elapsed();
            let (sent, came, leaked) = stream.end();
            println!(
                "br_netfilter={mode}: {sent} each in {took:?}: {came} of those allowed came, {leaked} of the others"
            );
            let lost = (came != sent).then(|| format!("{came} of {sent} allowed datagrams came"));
            let passed = (leaked != 0).then(|| format!("{leaked} of {sent} forbidden datagrams came"));
            site.judge("150 replacements", 2, &lost.into_iter().chain(passed).collect::<Vec<_>>());
        }
    });
}

#[test]
fn what_a_policy_drops_is_counted_and_told_if_it_says_log() {
    on_site(async |site| {
        labelled(site).await;
        let rule = json!({"peers": [who("b1")], "ports": [port("tcp", 80)]});
        let spec = |log: bool| json!({"selector": who("a2"), "directions": ["ingress"], "ingress": [rule], "log": log});
        policy(site, "told", spec(true)).await;
        policy(site, "counted", spec(false)).await;
        let rest = site.daemon.rest();
        site.calls(
            "drops",
            &[
                call("a1", Udp, "10.1.0.12:81", Nothing),
                call("a1", Udp, "[fd01::12]:82", Nothing),
                call("b1", Tcp, "10.1.0.12:80", by("a2:80", "10.2.0.11")),
                call("b1", Udp, "10.1.0.12:80", Nothing),
            ],
        );
        let end = Instant::now() + PATIENCE;
        let events = loop {
            let page = rest.get("/v1/events?type=policy_drop&page_size=100").await.unwrap().ok();
            let events = page["items"].as_array().unwrap().clone();
            if events.len() >= 3 || Instant::now() > end {
                break events;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let told: Vec<&str> = events.iter().map(|event| event["message"].as_str().unwrap()).collect();
        let rule = "no rule of counted, told allows it";
        let wrong: Vec<String> = [
            format!("ingress: 10.1.0.11 (a1) to 10.1.0.12 (a2), udp port 81: {rule}"),
            format!("ingress: fd01::11 (a1) to fd01::12 (a2), udp port 82: {rule}"),
            format!("ingress: 10.2.0.11 (b1) to 10.1.0.12 (a2), udp port 80: {rule}"),
        ]
        .into_iter()
        .filter(|wanted| !told.contains(&wanted.as_str()))
        .map(|wanted| format!("{wanted:?} is not among {told:?}"))
        .collect();
        site.judge("events", 3, &wrong);
        assert!(
            events.iter().all(|event| event["name"] == "told" && event["kind"] == "Policy"),
            "{events:#?}"
        );
        let count = async |policy: &str| {
            let metrics = rest.get("/metrics").await.unwrap().body;
            let metrics = metrics.as_str().unwrap();
            let line = format!("netloom_policy_drops_total{{policy=\"{policy}\",direction=\"ingress\"}} ");
            metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse::<u64>().ok())
        };
        // Each of the set counts, since none of them allowed it.
        assert_eq!((count("told").await, count("counted").await), (Some(3), Some(3)));
        lift(site, "counted").await;
        site.calls("drops", &[call("a1", Udp, "10.1.0.12:81", Nothing)]);
        assert_eq!((count("told").await, count("counted").await), (Some(4), None));
    });
}
