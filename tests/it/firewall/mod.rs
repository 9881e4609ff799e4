//! Which packets pass: the firewall as those see it who send packets, friends and attackers.
//!
//! [`Site`] is one host with six networks, two LANs and everything published that can be, made through the API. A
//! test is a table of rows that read as sentences, of two sorts:
//!
//! - a [`Shot`](volley::Shot) puts a frame on a wire, as it is, and says at whose interface it turns up;
//! - a [`Call`](call::Call) is a conversation between sockets, and says who answered, and whom they saw.
//!
//! Every table runs with `br_netfilter` off and on. `docs/firewall.md` says which promise is proven where.
//!
//! **Why silence is believed.** Nothing here waits for a time-out. The thread that sends is bound to one CPU, and a
//! cable hands its frames to the queue of the CPU that sent them, which is served first in, first out. So a
//! sentinel that is sent after a frame, and that everybody may send, comes in after all that the frame has caused on
//! as many cables. [`Site::settle`] sends three, one after another, each over two cables: then a frame that
//! has not come over six cables never will; the longest way has four. Neighbours are known beforehand, so nothing waits for
//! an answer to ARP. And each table that expects silence has its control: the same frames arrive where they may.

mod attacks;
mod call;
mod egress;
mod flows;
mod forwards;
mod hairpin;
mod injected;
mod isolation;
mod packet;
mod policy;
mod shapes;
mod spoofing;
mod strangers;
mod volley;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
    time::{Duration, Instant},
};

use netloom_server::kernel::{
    echo::{EchoServer, serve_tcp, serve_udp},
    frame::{Port, Sniffer, contains},
    lan::{Lan, LanRoute, LanSpec, PeerSpec, add_lan},
    netns::{Namespaces, own},
    probe,
    testhost::cannot_run,
    thread,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde_json::{Value, json};

use self::packet::{Mac, ip, udp};
use crate::host::{Daemon, HOME, on_host};

/// What should happen happens at once; this is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Networks by name: the number in their addresses (10.N.0.0/24, fd0N::/64) and the rest of their specs.
const NETWORKS: [(&str, u8); 6] =
    [("red", 1), ("blue", 2), ("cell", 3), ("wide", 4), ("dark", 5), ("four", 6)];

/// Namespaces by name, each with one attachment of that name: the network, and the last number of its addresses.
const MEMBERS: [(&str, &str, u8); 11] = [
    ("a1", "red", 11),
    ("a2", "red", 12),
    ("b1", "blue", 11),
    ("b2", "blue", 12),
    ("c1", "cell", 11),
    ("c2", "cell", 12),
    ("d1", "wide", 11),
    ("e1", "dark", 11),
    ("e2", "dark", 12),
    ("f1", "four", 11),
    ("f2", "four", 12),
];

/// Published: name, protocol, listen, first target port, attachment. `first-last` is a range.
const PUBLISHED: [(&str, &str, &str, u16, &str); 16] = [
    ("web", "tcp", "8080", 80, "a1"),
    ("dns", "udp", "5353", 53, "a1"),
    ("one", "tcp", "192.0.2.1:8081", 80, "a1"),
    ("one-udp", "udp", "192.0.2.1:8081", 80, "a1"),
    ("one6", "tcp", "[2001:db8::1]:8084", 80, "a1"),
    ("inside", "tcp", "127.0.0.1:8082", 80, "a1"),
    ("inside-udp", "udp", "127.0.0.1:8082", 80, "a1"),
    ("range", "tcp", "20000-20009", 20000, "a1"),
    ("range-udp", "udp", "20000-20009", 20000, "a1"),
    ("shifted", "tcp", "21000-21004", 22000, "a1"),
    ("shifted-udp", "udp", "21000-21004", 22000, "a1"),
    ("blue", "tcp", "8090", 80, "b1"),
    ("cell", "tcp", "8091", 80, "c1"),
    ("dark", "tcp", "8092", 80, "e1"),
    ("four", "tcp", "8093", 80, "f1"),
    ("wide", "tcp", "8094", 80, "d1"),
];
/// Published for everybody, and never changed: where sentinels arrive.
const SENTINEL: u16 = 5999;
/// Where nothing is published and the host listens, on all addresses.
const HOST_PORT: u16 = 7000;
/// Where the host listens on 127.0.0.1 alone.
const LOOPBACK_PORT: u16 = 7001;
/// Where the daemon's own API listens.
const API_PORT: u16 = 8443;

/// Who can send and be sent to.
struct Place {
    namespace: OwnedFd,
    tap: Sniffer,
    mac: Mac,
    /// The MAC of the host's end of the segment.
    gateway: Mac,
    /// Its IPv4 address, and the host's on the same segment.
    address: String,
    host: &'static str,
}

/// The host and all around it.
pub struct Site {
    pub daemon: Daemon,
    /// They last as long as this does.
    _lans: [Lan; 2],
    places: BTreeMap<&'static str, Place>,
    host: OwnedFd,
    /// Sockets of the host that hear datagrams.
    ears: Vec<UdpSocket>,
    servers: Vec<EchoServer>,
    /// What has come in since the last table, by place.
    seen: BTreeMap<&'static str, Vec<Vec<u8>>>,
    mode: &'static str,
    checks: usize,
}

/// Runs a test on a site, and says how many checks it made.
pub fn on_site(test: impl AsyncFnOnce(&mut Site)) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    on_host(async || {
        let mut site = Site::build().await;
        test(&mut site).await;
        println!("{name}: {} packet checks", site.checks);
    });
}

/// The ways in which a table is run: without and with `br_netfilter`.
pub fn modes() -> Vec<&'static str> {
    if Path::new(BRIDGE_SWITCHES).exists() {
        return vec!["0", "1"];
    }
    let why = "this kernel passes no bridged packets to iptables (no br_netfilter); that half of the table";
    let release = nix::sys::utsname::uname().unwrap();
    let modules = Path::new("/lib/modules").join(release.release());
    let listed = ["modules.dep", "modules.builtin"].iter().any(|file| {
        std::fs::read_to_string(modules.join(file)).is_ok_and(|text| text.contains("br_netfilter"))
    });
    if listed {
        cannot_run(&format!("the module br_netfilter is not loaded; {why}"));
    } else {
        println!("NOT RUN: {why}");
    }
    vec!["0"]
}

const BRIDGE_SWITCHES: &str = "/proc/sys/net/bridge";

impl Site {
    async fn build() -> Self {
        let (lan, far) = lans();
        let tokens = &format!("{HOME}/tokens");
        std::fs::create_dir_all(HOME).unwrap();
        write_private(tokens, &format!("test {} full\n", "0".repeat(64)));
        let listen = format!("127.0.0.1:{API_PORT}");
        let daemon = Daemon::start_with(&["--listen", &listen, "--token-file", tokens]).await;
        daemon.rest().post("/v1/apply", &json!({"objects": objects()})).await.ok();
        let mut places = BTreeMap::new();
        for (name, network, last) in MEMBERS {
            places.insert(name, member(&daemon, name, network, last).await);
        }
        for (name, address, host, lan) in [
            ("peer", "192.0.2.100", "192.0.2.1", &lan),
            ("hostile", "192.0.2.66", "192.0.2.1", &lan),
            ("far", "198.51.100.100", "198.51.100.1", &far),
        ] {
            let peer = lan.peer(name).unwrap();
            let namespace = peer.as_fd().try_clone_to_owned().unwrap();
            let tap = tap(&namespace, "eth0");
            let (mac, gateway) = (peer.mac(), lan.host_mac());
            places.insert(name, Place { namespace, tap, mac, gateway, address: address.into(), host });
        }
        let ears = ["0.0.0.0", "::", "127.0.0.1"].map(|address| {
            let port = if address == "127.0.0.1" { LOOPBACK_PORT } else { HOST_PORT };
            ear(address, port)
        });
        let site = Self {
            daemon,
            _lans: [lan, far],
            places,
            host: own().unwrap(),
            ears: ears.into(),
            servers: Vec::new(),
            seen: BTreeMap::new(),
            mode: "0",
            checks: 0,
        };
        for namespace in site.places.values().map(|place| &place.namespace).chain([&site.host]) {
            thread::run(namespace, "errors", tell_every_error).unwrap();
        }
        site.meet_everybody();
        bind_to_one_cpu();
        site
    }

    /// Passes bridged packets to the IP layer's hooks, or does not.
    pub fn bridge_netfilter(&mut self, mode: &'static str) {
        self.mode = mode;
        if Path::new(BRIDGE_SWITCHES).exists() {
            for switch in ["iptables", "ip6tables", "arptables"] {
                std::fs::write(format!("{BRIDGE_SWITCHES}/bridge-nf-call-{switch}"), mode).unwrap();
            }
        }
    }

    /// Changes a network.
    pub async fn change(&self, network: &str, spec: Value) {
        let path = format!("/v1/networks/{network}");
        self.daemon.rest().patch(&path, &json!({"spec": spec})).await.ok();
    }

    /// Listens at these ports of a place, in both protocols and families; answers say `place:port`.
    pub fn serve(&mut self, place: &'static str, ports: &[u16]) {
        let namespace = self.namespace(place).try_clone().unwrap();
        for port in ports {
            let label = format!("{place}:{port}");
            for address in ["0.0.0.0", "::"] {
                let listen = (ip(address), *port).into();
                self.servers.push(serve_tcp(&namespace, listen, &label).unwrap());
                self.servers.push(serve_udp(&namespace, listen, &label).unwrap());
            }
        }
    }

    /// Listens on the host at one address.
    pub fn serve_host_at(&mut self, address: &str, port: u16) {
        let (listen, label) = (SocketAddr::new(ip(address), port), format!("host:{port}"));
        self.servers.push(serve_tcp(&self.host, listen, &label).unwrap());
        self.servers.push(serve_udp(&self.host, listen, &label).unwrap());
    }

    fn namespace(&self, place: &str) -> &OwnedFd {
        if place == "host" { &self.host } else { &self.place(place).namespace }
    }

    fn place(&self, name: &str) -> &Place {
        self.places.get(name).unwrap_or_else(|| panic!("there is no place {name}"))
    }

    /// The hardware address of a place.
    pub fn mac(&self, place: &str) -> Mac {
        self.place(place).mac
    }

    /// The hardware address by which a place reaches the host.
    pub fn gateway(&self, place: &str) -> Mac {
        self.place(place).gateway
    }

    /// The link-local address that a place gives itself.
    pub fn link_local(&self, place: &str) -> String {
        let [a, b, c, d, e, f] = self.mac(place);
        format!("fe80::{:x}:{:x}:{:x}:{:x}", pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
    }

    /// Returns when all that was sent from here has arrived wherever it will.
    pub fn settle(&mut self, from: &str) {
        for _ in 0..3 {
            let place = self.place(from);
            let to = format!("{}:{SENTINEL}", place.host);
            let sentinel = udp(&place.address, &to).ether(place.mac, place.gateway);
            place.tap.send(&sentinel.bytes).unwrap();
            self.await_at("a1", &sentinel.mark, &format!("the sentinel of {from}"));
        }
    }

    /// Waits for a frame with this mark.
    fn await_at(&mut self, place: &'static str, mark: &[u8], what: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let frame = self.place(place).tap.next_within(left).unwrap();
            let frame = frame.unwrap_or_else(|| panic!("br_netfilter={}: {what} is lost", self.mode));
            let found = contains(&frame, mark);
            self.seen.entry(place).or_default().push(frame);
            if found {
                return;
            }
        }
    }

    /// So that nobody has to ask for a neighbour later.
    fn meet_everybody(&self) {
        let numbers: BTreeMap<_, _> = NETWORKS.into();
        let members = MEMBERS.into_iter().flat_map(|(_, network, last)| {
            let number = numbers[network];
            let v6 = (network != "four").then(|| format!("fd0{number}::{last}"));
            [Some(format!("10.{number}.0.{last}")), v6].into_iter().flatten()
        });
        let outside = ["192.0.2.100", "192.0.2.66", "198.51.100.100", "2001:db8::100", "2001:db8::66"];
        for address in members.chain(outside.map(String::from)) {
            let verdict = probe::ping(&self.host, ip(&address), PATIENCE).unwrap();
            assert!(verdict.reached(), "the host does not reach {address}: {verdict:?}");
        }
    }

    /// What has come in anywhere since the last time, by place.
    fn take_all(&mut self) -> BTreeMap<&'static str, Vec<Vec<u8>>> {
        let mut all = std::mem::take(&mut self.seen);
        for (name, place) in &self.places {
            all.entry(name).or_default().extend(std::iter::from_fn(|| place.tap.kept().unwrap()));
        }
        let mut buffer = [0; 2048];
        for ear in &self.ears {
            while let Ok(length) = ear.recv(&mut buffer) {
                all.entry("host").or_default().push(buffer[..length].to_vec());
            }
        }
        all
    }
}

fn objects() -> Vec<Value> {
    let mut objects: Vec<Value> = NETWORKS.iter().map(|(name, number)| network(name, *number)).collect();
    let numbers: BTreeMap<_, _> = NETWORKS.into();
    for (name, network, last) in MEMBERS {
        let number = numbers[network];
        let mut addresses = vec![format!("10.{number}.0.{last}")];
        if network != "four" {
            addresses.push(format!("fd0{number}::{last}"));
        }
        let mac = format!("02:00:00:00:{number:02x}:{last:02x}");
        objects.push(json!({"kind": "Namespace", "name": name}));
        objects.push(json!({"kind": "Attachment", "name": name, "spec":
            {"namespace": name, "network": network, "addresses": addresses, "mac": mac}}));
    }
    let sentinel = SENTINEL.to_string();
    let sentinel = ("sentinel", "udp", sentinel.as_str(), SENTINEL, "a1");
    objects.extend(PUBLISHED.into_iter().chain([sentinel]).map(published));
    objects
}

fn network(name: &str, number: u8) -> Value {
    let mut subnets = vec![json!({"cidr": format!("10.{number}.0.0/24")})];
    if name != "four" {
        subnets.push(json!({"cidr": format!("fd0{number}::/64")}));
    }
    let egress = match name {
        "dark" => json!({"none": {}}),
        "wide" => json!({"routed": {}}),
        _ => json!({"nat": {}}),
    };
    let isolation = json!({"members": name == "cell"});
    json!({"kind": "Network", "name": name, "spec": {"subnets": subnets, "egress": egress, "isolation": isolation}})
}

fn published((name, protocol, listen, target, attachment): (&str, &str, &str, u16, &str)) -> Value {
    let (address, ports) = match listen.parse::<SocketAddr>() {
        Ok(one) => (json!(one.ip()), one.port().to_string()),
        Err(_) => (Value::Null, listen.to_owned()),
    };
    let (first, last) = ports.split_once('-').unwrap_or((&ports, &ports));
    let mut listen = json!({"port": first.parse::<u16>().unwrap()});
    if first != last {
        listen["end_port"] = json!(last.parse::<u16>().unwrap());
    }
    if !address.is_null() {
        listen["address"] = address;
    }
    json!({"kind": "PortForward", "name": name, "spec": {"protocol": protocol, "listen": listen,
        "target": {"attachment": attachment, "port": target}}})
}

async fn member(daemon: &Daemon, name: &str, network: &str, last: u8) -> Place {
    let get = async |path: String| daemon.rest().get(&path).await.unwrap().ok();
    let bridge = get(format!("/v1/networks/{network}")).await;
    let number = NETWORKS.into_iter().find(|(other, _)| *other == network).unwrap().1;
    let namespace = Namespaces::default().open(name).unwrap();
    let tap = tap(&namespace, "eth0");
    let gateway = bridge["status"]["mac"].as_str().unwrap().parse::<netloom_api::Mac>().unwrap().bytes();
    let address = format!("10.{number}.0.{last}");
    Place { namespace, tap, mac: [2, 0, 0, 0, number, last], gateway, address, host: "192.0.2.1" }
}

fn tap(namespace: &OwnedFd, interface: &str) -> Sniffer {
    Sniffer::open(Port { namespace: namespace.as_fd(), interface }).unwrap()
}

/// Two machines on the LAN and one on another; all send what they do not know to the host.
fn lans() -> (Lan, Lan) {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    let peer = |name: &str, addresses: &[&str], routers: [&str; 2]| {
        let mut peer = PeerSpec::new(name, nets(addresses));
        let everything = ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let routes = everything.into_iter().zip(routers);
        peer.routes = routes.map(|(destination, via)| LanRoute { destination, via: ip(via) }).collect();
        peer
    };
    let routers = ["192.0.2.1", "2001:db8::1"];
    let near = LanSpec {
        host_interface: "eth0".into(),
        host_addresses: nets(&["192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"]),
        host_routes: Vec::new(),
        peers: vec![
            peer("peer", &["192.0.2.100/24", "2001:db8::100/64"], routers),
            peer("hostile", &["192.0.2.66/24", "2001:db8::66/64"], routers),
        ],
    };
    let routers = ["198.51.100.1", "2001:db8:1::1"];
    let far = LanSpec {
        host_interface: "eth1".into(),
        host_addresses: nets(&["198.51.100.1/24", "2001:db8:1::1/64"]),
        host_routes: Vec::new(),
        peers: vec![peer("far", &["198.51.100.100/24", "2001:db8:1::100/64"], routers)],
    };
    (add_lan(&near).unwrap(), add_lan(&far).unwrap())
}

/// A socket of the host that hears datagrams.
fn ear(address: &str, port: u16) -> UdpSocket {
    let listen = SocketAddr::new(ip(address), port);
    let ear = match listen {
        SocketAddr::V4(_) => UdpSocket::bind(listen).unwrap(),
        SocketAddr::V6(_) => udp6_only(listen),
    };
    ear.set_nonblocking(true).unwrap();
    ear
}

/// `::` without IPv4, which another socket has.
fn udp6_only(listen: SocketAddr) -> UdpSocket {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd as _;
    let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, sockopt::Ipv6V6Only, &true).unwrap();
    bind(socket.as_raw_fd(), &SockaddrStorage::from(listen)).unwrap();
    UdpSocket::from(socket)
}

/// From here on all that this thread sends goes through one queue. The daemon runs already, on any CPU.
fn bind_to_one_cpu() {
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(own, &one).unwrap();
}

/// The kernel keeps back ICMP errors that come too fast after one another, as those of a table would.
fn tell_every_error() {
    for limit in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
        std::fs::write(format!("/proc/sys/net/{limit}"), "0").unwrap();
    }
    for (limit, most) in [("icmp_msgs_per_sec", "100000"), ("icmp_msgs_burst", "100000")] {
        // Older kernels have one for all namespaces; it is not ours to set.
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/{limit}"), most);
    }
}

fn write_private(path: &str, text: &str) {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn pair(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}
