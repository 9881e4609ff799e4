//! Policies of all shapes over a grid of nine members, in packets: what arrives is what the oracle says.
//!
//! Each shape is one apply, then one volley: every member sends to every other and to the LAN, in both families. Silence is
//! believed as on a [`Site`](super::Site), after sentinels from the host, whom no policy keeps from a member.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Instant,
};

use netloom_api::{Attachment, AttachmentStatus, Draft, Name, Object, Path, Policy, Protocol, Uid};
use netloom_client::ListOptions;
use netloom_server::{
    kernel::{
        frame::Sniffer,
        lan::Lan,
        netns::{Namespaces, own},
        probe,
    },
    want::{
        oracle::{At, Point, Traffic, verdict},
        shapes::{Endpoint, Shape, endpoints, objects, shapes},
    },
    world::{AnyStored, AttachmentAlloc, Nothing, Stored, World},
};
use serde_json::{Value, json};

use super::{
    PATIENCE, bind_to_one_cpu,
    packet::{Mac, Mark, Packet, echo, syn, udp},
    tap,
    volley::is_icmp_answer,
};
use crate::host::{Daemon, lan, on_host};

/// In CI one shape of so many is tried; all of them if this is set.
const ONE_OF: usize = 24;
const ALL: &str = "NETLOOM_ALL_SHAPES";
/// The LAN's peer, whom members reach behind the host's address.
const PEER: &str = "192.168.1.3";

/// A member, with its wire.
struct Member {
    name: Name,
    end: Endpoint,
    mac: Mac,
    /// Of the bridge.
    gateway: Mac,
    tap: Sniffer,
}

struct Grid {
    daemon: Daemon,
    lan: Lan,
    members: Vec<Member>,
    outside: Sniffer,
    /// The members as the oracle sees them, without any policy.
    world: World,
    host: OwnedFd,
}

/// One packet: from which member, to which (none: the LAN), by which protocol, and the mark that it is known by.
struct Try {
    from: usize,
    to: Option<usize>,
    address: [IpAddr; 2],
    traffic: Traffic,
    mark: Mark,
}

impl Grid {
    async fn build() -> Self {
        let lan = lan();
        let daemon = Daemon::start().await;
        daemon.rest().post("/v1/apply", &json!({"objects": objects()})).await.ok();
        let client = daemon.client().await;
        let attachments = client.list::<Attachment>(ListOptions::default()).await.unwrap().items;
        let mut world = World::default();
        attachments.iter().for_each(|one| world.put(stored(one)));
        let mut members = Vec::new();
        for end in endpoints() {
            let bridge = daemon.rest().get(&format!("/v1/networks/{}", end.network)).await.unwrap().ok();
            let mac = |text: &Value| text.as_str().unwrap().parse::<netloom_api::Mac>().unwrap().bytes();
            let name: Name = end.name.parse().unwrap();
            let status = &attachments.iter().find(|one| one.meta.name == name).unwrap().status.noun;
            let namespace = Namespaces::default().open(&end.name).unwrap();
            let (tap, gateway) = (tap(&namespace, "eth0"), mac(&bridge["status"]["mac"]));
            members.push(Member { name, end, mac: status.mac.unwrap().bytes(), gateway, tap });
        }
        let peer = lan.peer("peer").unwrap().as_fd().try_clone_to_owned().unwrap();
        let outside = tap(&peer, "eth0");
        let grid = Self { daemon, lan, members, outside, world, host: own().unwrap() };
        let all = grid.members.iter().flat_map(|member| member.end.addresses);
        for address in all.chain([PEER.parse().unwrap()]) {
            let verdict = probe::ping(&grid.host, address, PATIENCE).unwrap();
            assert!(verdict.reached(), "the host does not reach {address}: {verdict:?}");
        }
        bind_to_one_cpu();
        grid
    }

    /// Every member to every other, and to the LAN.
    fn volley(&self) -> Vec<Try> {
        let mut tries = Vec::new();
        for from in 0..self.members.len() {
            for to in (0..self.members.len()).filter(|to| *to != from) {
                for family in 0..2 {
                    let ends = [from, to].map(|one| self.members[one].end.addresses[family]);
                    tries.extend(self.send_all(from, Some(to), ends));
                }
            }
            tries.extend(self.send_all(
                from,
                None,
                [self.members[from].end.addresses[0], PEER.parse().unwrap()],
            ));
        }
        tries
    }

    fn send_all(&self, from: usize, to: Option<usize>, address: [IpAddr; 2]) -> Vec<Try> {
        let target = |port: u16| SocketAddr::new(address[1], port).to_string();
        let source = address[0].to_string();
        let ping = if address[0].is_ipv4() { Traffic::Icmp(8, 0) } else { Traffic::Icmp(128, 0) };
        let packets: [(Traffic, Packet); 5] = [
            (Traffic::Port(Protocol::Tcp, 80), syn(&source, &target(80))),
            (Traffic::Port(Protocol::Tcp, 81), syn(&source, &target(81))),
            (Traffic::Port(Protocol::Udp, 80), udp(&source, &target(80))),
            (Traffic::Port(Protocol::Udp, 81), udp(&source, &target(81))),
            (ping, echo(&source, &address[1].to_string())),
        ];
        let sender = &self.members[from];
        let near = to.map(|to| &self.members[to]).filter(|to| to.end.network == sender.end.network);
        let next = near.map_or(sender.gateway, |to| to.mac);
        let send = |(traffic, packet): (Traffic, Packet)| {
            sender.tap.send(&packet.ether(sender.mac, next).bytes).unwrap();
            Try { from, to, address, traffic, mark: packet.mark }
        };
        packets.map(send).into()
    }

    /// The marks of all that has arrived, by member; last, those on the LAN.
    fn arrivals(&self) -> Vec<BTreeSet<Mark>> {
        let mut seen = vec![BTreeSet::new(); self.members.len() + 1];
        // As often as a frame can wait in a queue, and once more.
        for _ in 0..3 {
            self.sentinel(&mut seen);
        }
        for (taps, seen) in
            self.members.iter().map(|member| &member.tap).chain([&self.outside]).zip(&mut seen)
        {
            while let Some(frame) = taps.kept().unwrap() {
                note(&frame, seen);
            }
        }
        seen
    }

    /// Sends to the last member from the host, and waits until it is there.
    fn sentinel(&self, seen: &mut [BTreeSet<Mark>]) {
        let at = self.members.len() - 1;
        let member = &self.members[at];
        let mark = super::packet::mark();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(&mark, (member.end.addresses[0], 5999)).unwrap();
        let end = Instant::now() + PATIENCE;
        while !seen[at].contains(&mark) {
            let left = end.saturating_duration_since(Instant::now());
            let frame = member.tap.next_within(left).unwrap().unwrap_or_else(|| panic!("a sentinel is lost"));
            note(&frame, &mut seen[at]);
        }
    }

    /// Puts the policies of a shape in place of those before, and compares all that arrives with the oracle.
    async fn compare(&self, shape: &Shape) -> Vec<(String, String)> {
        let set = json!({"objects": shape.policies, "owner": "shapes", "prune": true});
        self.daemon.rest().post("/v1/apply", &set).await.ok();
        let mut world = self.world.clone();
        shape.policies.iter().for_each(|policy| world.put(policy_of(policy, &world)));
        let tries = self.volley();
        let arrived = self.arrivals();
        let mut wrong = Vec::new();
        for Try { from, to, address, traffic, mark } in tries {
            let sender = Point { at: At::Attachment(&self.members[from].name), address: address[0] };
            let at = to.map_or(At::Outside, |to| At::Attachment(&self.members[to].name));
            let found = verdict(&world, sender, Point { at, address: address[1] }, traffic);
            let came = arrived[to.unwrap_or(self.members.len())].contains(&mark);
            if came != found.passes() {
                let what = if came { "arrives" } else { "does not arrive" };
                let [from, to] = address;
                wrong.push((shape.name.clone(), format!("{from} to {to}, {traffic:?} {what}: {found:?}")));
            }
        }
        wrong
    }
}

/// The marks in a frame, unless it is an answer that quotes one.
fn note(frame: &[u8], seen: &mut BTreeSet<Mark>) {
    if !is_icmp_answer(frame) {
        let marks = frame.windows(8).filter(|part| part[0] == b'~' && part[7] == b'~');
        seen.extend(marks.map(|mark| Mark::try_from(mark).unwrap()));
    }
}

fn stored(one: &Object<Attachment>) -> AnyStored {
    let AttachmentStatus { addresses, mac, interface, host_device, default_route, metric, .. } =
        one.status.noun.clone();
    let alloc = AttachmentAlloc {
        addresses,
        mac: mac.unwrap(),
        interface: interface.unwrap(),
        host_device: host_device.unwrap(),
        default_route: default_route.unwrap(),
        metric: metric.unwrap_or(100),
    };
    AnyStored::Attachment(Arc::new(Stored { meta: one.meta.clone(), spec: one.spec.clone(), alloc }))
}

fn policy_of(document: &Value, world: &World) -> AnyStored {
    let draft = Draft::<Policy>::from_json(document.clone(), &Path::root()).unwrap();
    let like = world.all::<Attachment>().next().unwrap().meta.clone();
    let meta = netloom_api::Meta { name: draft.name, labels: draft.labels, uid: Uid::generate(), ..like };
    AnyStored::Policy(Arc::new(Stored { meta, spec: draft.spec, alloc: Nothing {} }))
}

#[test]
fn what_arrives_between_members_and_on_the_lan_is_what_the_oracle_says_of_every_shape() {
    on_host(async || {
        let grid = Grid::build().await;
        let all = std::env::var_os(ALL).is_some();
        let (mut tried, mut wrong) = (0, Vec::new());
        let begun = Instant::now();
        for (_, shape) in shapes().iter().enumerate().filter(|(number, _)| all || number % ONE_OF == 0) {
            wrong.extend(grid.compare(shape).await);
            tried += 1;
        }
        println!("{tried} shapes in {:?}; {} in all", begun.elapsed(), shapes().len());
        let mut by_shape: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for (shape, packet) in &wrong {
            by_shape.entry(shape).or_insert((0, packet)).0 += 1;
        }
        assert!(
            wrong.is_empty(),
            "{} packets are wrong: how many by shape, and the first: {by_shape:#?}",
            wrong.len()
        );
        drop(grid.lan);
    });
}
