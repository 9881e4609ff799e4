//! Nine members, policies of every shape, and three who say what passes: the oracle, the rules as they are written, and
//! packets on a real kernel.
//!
//! Each shape comes after the one before as a change would, with what its scope asks for. Silence is believed as in the tests of
//! the firewall: all is sent from one CPU, whose queue serves cables in order, and sentinels that nobody polices follow.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use netloom_api::{AnyDraft, Kind, Name, Path, Policy, Protocol, Timestamp};
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, setsockopt, socket, sockopt,
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    controller::{Change, edit_for_tests},
    hostnet::{
        Action, HostNet, Outcome, Scope,
        rules::{Flow, Judge},
    },
    kernel::{Kernel, netns::Namespaces, testhost::on_private_host, thread},
    plan::plan,
    reconcile::Host as _,
    want::{
        HostFacts, Surroundings, close, everything,
        oracle::{At, Point, Traffic, verdict},
        scope_of,
        shapes::{Endpoint, Shape, endpoints, objects, shapes},
        want,
    },
    world::World,
};

const PATIENCE: Duration = Duration::from_secs(5);
const PORTS: [u16; 2] = [80, 81];
/// The longest way of a conversation: there, back, and there again, over two cables each.
const HOPS: usize = 6;
/// Asks for all shapes on the real kernel; without it every so manieth is tried.
const ALL: &str = "NETLOOM_ALL_SHAPES";
const EVERY: usize = 3;

fn put(world: &World, objects: &[Value]) -> World {
    let drafts = objects.iter().map(|one| AnyDraft::from_json(one.clone(), &Path::root()).unwrap());
    edit_for_tests(world, drafts.map(Change::Put).collect(), Timestamp::from_micros(0))
}

fn point<'w>(name: &'w Name, one: &Endpoint, family: usize) -> Point<'w> {
    Point { at: At::Attachment(name), address: one.addresses[family] }
}

/// What is tried between members: as the oracle says it, and as rules see it.
fn traffics(family: usize) -> Vec<(Traffic, u8, u16)> {
    let transports = [(Protocol::Tcp, 6), (Protocol::Udp, 17), (Protocol::Sctp, 132)];
    let ports = transports.into_iter().flat_map(|(protocol, number)| {
        [79, 80, 81, 82, 443, 8080].map(|port| (Traffic::Port(protocol, port), number, port))
    });
    let icmp = [(8, 0), (128, 0), (0, 0), (13, 0), (8, 3)].map(|(kind, code)| {
        (Traffic::Icmp(kind, code), if family == 0 { 1 } else { 58 }, u16::from_be_bytes([kind, code]))
    });
    ports.chain(icmp).chain([(Traffic::Other(47), 47, 0)]).collect()
}

fn surroundings(kernel: Option<&Kernel>) -> Surroundings {
    let features = kernel.map_or(
        crate::hostnet::Features { ipv6: true, force_forwarding: true, sctp: true },
        Kernel::features,
    );
    Surroundings { features, manages_forwarding: true, api_ports: vec![], facts: HostFacts::default() }
}

fn all_of(world: &World, around: &Surroundings) -> HostNet {
    want(world, &everything(world), around)
}

#[test]
fn the_written_rules_say_of_every_shape_what_the_oracle_says() {
    let base = put(&World::default(), &objects());
    let members: Vec<(Name, Endpoint)> =
        endpoints().into_iter().map(|one| (one.name.parse().unwrap(), one)).collect();
    let outside: [IpAddr; 2] = ["198.51.100.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    let (mut asked, mut denied) = (0, 0);
    for Shape { name, policies } in shapes() {
        let world = put(&base, &policies);
        let rules = all_of(&world, &surroundings(None)).rules;
        let judge = Judge::of(&rules);
        for (family, address) in outside.into_iter().enumerate() {
            let stranger = [Point { at: At::Outside, address }];
            let points: Vec<Point<'_>> =
                members.iter().map(|(name, one)| point(name, one, family)).chain(stranger).collect();
            for (from, to) in points.iter().flat_map(|from| points.iter().map(move |to| (*from, *to))) {
                if from == to {
                    continue;
                }
                for (traffic, protocol, number) in traffics(family) {
                    let expected = verdict(&world, from, to, traffic).passes();
                    let flow = Flow { from: from.address, to: to.address, protocol, number };
                    assert_eq!(judge.passes(&flow), expected, "{name}: {flow:?}, {traffic:?}");
                    asked += 1;
                    denied += usize::from(!expected);
                }
            }
        }
    }
    println!("{asked} flows, {denied} of them denied");
    assert!(denied > asked / 10 && denied < asked * 9 / 10);
}

/// A member with its sockets; by family, then by port.
struct Seat {
    name: Name,
    one: Endpoint,
    namespace: OwnedFd,
    hears: Vec<Vec<UdpSocket>>,
    serves: Vec<Vec<TcpListener>>,
    speaks: Vec<UdpSocket>,
}

/// Who was reached: from, to, family, port, by TCP or not.
type Reached = BTreeSet<(usize, usize, usize, u16, bool)>;

impl Seat {
    fn take(one: Endpoint) -> Self {
        let namespace = Namespaces::default().open(&one.name).unwrap();
        let addresses = one.addresses;
        let (hears, serves, speaks) = thread::run(&namespace, "sockets", move || {
            let at = |address: IpAddr, port: u16| SocketAddr::new(address, port);
            let hears = addresses.map(|address| {
                PORTS.map(|port| {
                    let socket = UdpSocket::bind(at(address, port)).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    socket
                })
            });
            let serves = addresses.map(|address| {
                PORTS.map(|port| {
                    let socket = TcpListener::bind(at(address, port)).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    socket
                })
            });
            (hears, serves, addresses.map(|address| UdpSocket::bind(at(address, 0)).unwrap()))
        })
        .unwrap();
        let vec = |sockets: [[UdpSocket; 2]; 2]| sockets.into_iter().map(Vec::from).collect();
        let name = one.name.parse().unwrap();
        let serves = serves.into_iter().map(Vec::from).collect();
        Self { name, one, namespace, hears: vec(hears), serves, speaks: speaks.into() }
    }

    /// Opens a connection to everybody else.
    fn call_all(&self, seats: &[Seat]) -> Vec<(usize, usize, u16, OwnedFd)> {
        let all = seats.iter().enumerate().filter(|(_, other)| other.name != self.name);
        let targets: Vec<_> = all
            .flat_map(|(to, other)| {
                (0..2)
                    .flat_map(move |family| PORTS.map(|port| (to, family, port, other.one.addresses[family])))
            })
            .collect();
        thread::run(&self.namespace, "calls", move || {
            let open = |(to, family, port, address): (usize, usize, u16, IpAddr)| {
                let kind = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let socket = socket(kind, SockType::Stream, flags, None).unwrap();
                let gone = libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&socket, sockopt::Linger, &gone).unwrap();
                let to_address = SockaddrStorage::from(SocketAddr::new(address, port));
                match connect(socket.as_raw_fd(), &to_address) {
                    Ok(()) | Err(Errno::EINPROGRESS) => {}
                    Err(errno) => panic!("{address}: {errno}"),
                }
                (to, family, port, socket)
            };
            targets.into_iter().map(open).collect()
        })
        .unwrap()
    }
}

/// The grid on a real kernel.
struct Grid {
    kernel: Kernel,
    around: Surroundings,
    base: World,
    now: World,
    seats: Vec<Seat>,
    /// A socket of the host.
    host: UdpSocket,
    turn: u32,
}

impl Grid {
    fn build() -> Self {
        let kernel = Kernel::open().unwrap();
        let around = surroundings(Some(&kernel));
        let base = put(&World::default(), &objects());
        let bare = HostNet { rules: kernel.rules().unwrap(), ..HostNet::default() };
        take(&kernel, &bare, &all_of(&base, &around));
        let cpus = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let mut one = CpuSet::new();
        one.set((0..CpuSet::count()).find(|cpu| cpus.is_set(*cpu).unwrap()).unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        let seats = endpoints().into_iter().map(Seat::take).collect();
        let host = UdpSocket::bind("0.0.0.0:0").unwrap();
        Self { now: base.clone(), kernel, around, base, seats, host, turn: 0 }
    }

    /// As a change of the policies that were there and of those that come.
    fn turn_to(&mut self, shape: &Shape) {
        let next = put(&self.base, &shape.policies);
        let worlds = [&self.now, &next];
        let names: BTreeSet<Name> =
            worlds.iter().flat_map(|world| world.all::<Policy>()).map(|one| one.meta.name.clone()).collect();
        let mut scope = Scope::default();
        for name in &names {
            worlds.iter().for_each(|world| scope.join(scope_of(world, Kind::Policy, name)));
        }
        close(&mut scope, &self.now, &next);
        take(&self.kernel, &want(&self.now, &scope, &self.around), &want(&next, &scope, &self.around));
        self.now = next;
    }

    /// Everybody speaks to everybody else; who is heard.
    fn speak(&mut self, expected: &Reached, patience: Duration) -> Reached {
        self.turn += 1;
        for (from, seat) in self.seats.iter().enumerate() {
            let word = [&self.turn.to_be_bytes()[..], &[from as u8]].concat();
            for (to, other) in self.seats.iter().enumerate().filter(|(to, _)| *to != from) {
                for (family, speaks) in seat.speaks.iter().enumerate() {
                    for port in PORTS {
                        let address = SocketAddr::new(other.one.addresses[family], port);
                        speaks
                            .send_to(&word, address)
                            .unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
                    }
                }
            }
        }
        let calls: Vec<_> = self.seats.iter().map(|seat| seat.call_all(&self.seats)).collect();
        let (mut reached, end) = (Reached::new(), Instant::now() + patience);
        while !expected.is_subset(&reached) && Instant::now() < end {
            self.look(&calls, &mut reached);
        }
        (0..HOPS).for_each(|_| self.sentinel());
        self.look(&calls, &mut reached);
        drop(calls);
        for listener in self.seats.iter().flat_map(|seat| seat.serves.iter().flatten()) {
            while listener.accept().is_ok() {}
        }
        reached
    }

    fn look(&self, calls: &[Vec<(usize, usize, u16, OwnedFd)>], reached: &mut Reached) {
        let mut buffer = [0; 16];
        for (to, seat) in self.seats.iter().enumerate() {
            for (family, sockets) in seat.hears.iter().enumerate() {
                for (socket, port) in sockets.iter().zip(PORTS) {
                    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                        let of_now = buffer[..4] == self.turn.to_be_bytes();
                        if length == 5 && of_now {
                            reached.insert((usize::from(buffer[4]), to, family, port, false));
                        }
                    }
                }
            }
        }
        for (from, calls) in calls.iter().enumerate() {
            for (to, family, port, socket) in calls {
                let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
                    && getsockopt(socket, sockopt::SocketError) == Ok(0)
                {
                    reached.insert((from, *to, *family, *port, true));
                }
            }
        }
    }

    /// From the host, whom nobody polices.
    fn sentinel(&self) {
        let socket = &self.seats[0].hears[0][0];
        self.host.send_to(b"sentinel", socket.local_addr().unwrap()).unwrap();
        let (end, mut buffer) = (Instant::now() + PATIENCE, [0; 16]);
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((length, _)) if &buffer[..length] == b"sentinel" => return,
                Ok(_) => panic!("a datagram came after all that was expected: {buffer:?}"),
                Err(_) => {
                    assert!(Instant::now() < end, "a sentinel is lost");
                    let left = PollTimeout::try_from(PATIENCE).unwrap();
                    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], left).unwrap();
                }
            }
        }
    }

    fn expected(&self) -> Reached {
        let mut expected = Reached::new();
        for (from, sender) in self.seats.iter().enumerate() {
            for (to, target) in self.seats.iter().enumerate().filter(|(to, _)| *to != from) {
                for family in 0..2 {
                    let points =
                        (point(&sender.name, &sender.one, family), point(&target.name, &target.one, family));
                    for port in PORTS {
                        for (protocol, by_tcp) in [(Protocol::Udp, false), (Protocol::Tcp, true)] {
                            let traffic = Traffic::Port(protocol, port);
                            if verdict(&self.now, points.0, points.1, traffic).passes() {
                                expected.insert((from, to, family, port, by_tcp));
                            }
                        }
                    }
                }
            }
        }
        expected
    }
}

/// All steps, each done.
fn take(kernel: &Kernel, have: &HostNet, want: &HostNet) {
    let steps = plan(have, want).steps;
    for (step, outcome) in steps.iter().zip(kernel.apply(&steps)) {
        let is_done = matches!(outcome, Outcome::Done(_)) || matches!(step.action, Action::Announce(_));
        assert!(is_done, "{step}: {outcome:?}");
    }
}

#[test]
fn packets_fare_as_the_oracle_says_under_every_shape() {
    on_private_host(|| {
        let mut grid = Grid::build();
        let all = std::env::var_os(ALL).is_some();
        let (mut tried, mut silent, begun) = (0, 0, Instant::now());
        // Neighbours find each other first.
        let open = grid.expected();
        let end = Instant::now() + PATIENCE;
        while grid.speak(&open, Duration::from_millis(100)) != open {
            assert!(Instant::now() < end, "members do not find each other");
        }
        println!("neighbours after {:?}", begun.elapsed());
        for (at, shape) in shapes().into_iter().enumerate().filter(|(at, _)| all || at % EVERY == 0) {
            grid.turn_to(&shape);
            let expected = grid.expected();
            let reached = grid.speak(&expected, PATIENCE);
            let told =
                |which: &Reached| which.iter().take(8).map(|one| format!("{one:?}")).collect::<Vec<_>>();
            let lost: Reached = expected.difference(&reached).copied().collect();
            let leaked: Reached = reached.difference(&expected).copied().collect();
            assert!(
                lost.is_empty() && leaked.is_empty(),
                "{at} {}: (from, to, family, port, tcp) lost {:?}, leaked {:?}\n{:#?}",
                shape.name,
                told(&lost),
                told(&leaked),
                shape.policies
            );
            if at % 8 == 0 {
                assert_eq!(
                    grid.kernel.rules().unwrap(),
                    all_of(&grid.now, &grid.around).rules,
                    "{}",
                    shape.name
                );
            }
            tried += 1;
            silent += open.len() - expected.len();
        }
        let each = open.len();
        println!("{tried} shapes, {each} flows each, {silent} of all denied, in {:?}", begun.elapsed());
    });
}
