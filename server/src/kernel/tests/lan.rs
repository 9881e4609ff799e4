use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::kernel::echo::{serve_tcp, serve_udp};
use crate::kernel::lan::*;
use crate::kernel::netns::{EntryKind, Namespaces, fresh, own};
use crate::kernel::probe::*;
use crate::kernel::socket::RouteSocket;
use crate::kernel::sysctl::{Family, Key, SysctlError, read, write};
use crate::kernel::testhost::{on_private_host, on_private_host_of_ordinary_user};
use crate::kernel::thread;

const PATIENCE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(120);

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn at(address: &str, port: u16) -> SocketAddr {
    (ip(address), port).into()
}

pub(super) fn two_peers() -> Lan {
    let addresses = |last: u8| [net(&format!("192.168.1.{last}/24")), net(&format!("fd00:1::{last}/64"))];
    let spec = LanSpec {
        host_addresses: addresses(2).to_vec(),
        peers: vec![PeerSpec::new("peer", addresses(3)), PeerSpec::new("other", addresses(4))],
        ..LanSpec::default()
    };
    add_lan(&spec).unwrap()
}

fn everybody_reaches_everybody() {
    let lan = two_peers();
    let (peer, other) = (lan.peer("peer").unwrap(), lan.peer("other").unwrap());
    for target in ["192.168.1.2", "192.168.1.4", "fd00:1::2", "fd00:1::4"] {
        let verdict = ping(peer, ip(target), PATIENCE).unwrap();
        assert!(verdict.reached(), "{target}: {verdict:?}");
    }
    for target in ["192.168.1.3", "fd00:1::3", "127.0.0.1", "::1"] {
        let verdict = ping(own().unwrap(), ip(target), PATIENCE).unwrap();
        assert!(verdict.reached(), "{target}: {verdict:?}");
    }
    for address in ["192.168.1.4", "fd00:1::4"] {
        let server = serve_tcp(other, at(address, 80), "other").unwrap();
        let verdict = tcp_exchange(peer, at(address, 80), PATIENCE).unwrap();
        let from = if ip(address).is_ipv4() { ip("192.168.1.3") } else { ip("fd00:1::3") };
        assert_eq!(verdict.seen().map(|seen| seen.ip()), Some(from), "{verdict:?}");
        assert!(tcp_connect(peer, at(address, 80), PATIENCE).unwrap().reached());
        drop(server);
        assert_eq!(tcp_connect(peer, at(address, 80), PATIENCE).unwrap(), Verdict::Refused);

        let server = serve_udp(other, at(address, 0), "other").unwrap();
        let target = server.address();
        let verdict = udp_exchange(peer, target, PATIENCE).unwrap();
        assert_eq!(verdict.seen().map(|seen| seen.ip()), Some(from), "{verdict:?}");
        drop(server);
        assert_eq!(udp_exchange(peer, target, PATIENCE).unwrap(), Verdict::Refused);
    }
}

#[test]
fn host_and_peers_reach_each_other_over_the_lan() {
    on_private_host(everybody_reaches_everybody);
}

#[test]
fn an_ordinary_user_gets_a_lan_too() {
    on_private_host_of_ordinary_user(everybody_reaches_everybody);
}

#[test]
fn peers_know_no_route_into_the_host_unless_they_are_given_one() {
    on_private_host(|| {
        let mut lan = two_peers();
        let inner = ip("10.1.1.1");
        let verdict = ping(lan.peer("peer").unwrap(), inner, PATIENCE).unwrap();
        assert_eq!(verdict, Verdict::Unreachable(Errno::ENETUNREACH));
        let mut router = PeerSpec::new("router", [net("192.168.1.9/24")]);
        router.routes.push(LanRoute { destination: net("10.0.0.0/8"), via: ip("192.168.1.2") });
        lan.add_peer(&router).unwrap();
        // The host does not forward, and has no such address: silence.
        assert_eq!(ping(lan.peer("router").unwrap(), inner, SHORT).unwrap(), Verdict::Silent);
        assert!(matches!(lan.add_peer(&router), Err(LanError::Duplicate(_))));
        router.name = "mixed".to_owned();
        router.routes[0].via = ip("fd00::1");
        assert!(matches!(lan.add_peer(&router), Err(LanError::MixedFamilies { .. })));
    });
}

#[test]
fn a_peer_gives_itself_a_route_to_what_is_behind_the_host() {
    on_private_host(|| {
        let lan = two_peers();
        let behind = LanSpec {
            host_interface: "eth1".to_owned(),
            host_addresses: vec![net("10.9.0.1/24")],
            ..LanSpec::default()
        };
        let _behind = add_lan(&behind).unwrap();
        let peer = lan.peer("peer").unwrap();
        assert!(!ping(peer, ip("10.9.0.1"), PATIENCE).unwrap().reached());
        let route = LanRoute { destination: net("10.9.0.0/24"), via: ip("192.168.1.2") };
        lan.add_route("peer", &route).unwrap();
        assert!(ping(peer, ip("10.9.0.1"), PATIENCE).unwrap().reached());
        assert!(matches!(lan.add_route("nobody", &route), Err(LanError::NoPeer(_))));
    });
}

#[test]
fn the_host_sends_what_is_not_on_the_link_to_its_gateway() {
    on_private_host(|| {
        let spec = LanSpec {
            host_routes: vec![LanRoute { destination: net("0.0.0.0/0"), via: ip("192.168.1.3") }],
            peers: vec![PeerSpec::new("gateway", [net("192.168.1.3/24"), net("203.0.113.7/32")])],
            ..LanSpec::default()
        };
        // Routes of the host need the LAN, not the gateway.
        let lan = add_lan(&spec).unwrap();
        let _server = serve_tcp(lan.peer("gateway").unwrap(), at("203.0.113.7", 80), "far").unwrap();
        let verdict = tcp_exchange(own().unwrap(), at("203.0.113.7", 80), PATIENCE).unwrap();
        assert_eq!(
            (verdict.by(), verdict.seen().map(|seen| seen.ip())),
            (Some("far"), Some(ip("192.168.1.2")))
        );
    });
}

#[test]
fn a_lan_that_is_dropped_goes_with_the_hosts_cable() {
    on_private_host(|| {
        drop(two_peers());
        let deadline = std::time::Instant::now() + PATIENCE;
        while RouteSocket::open().unwrap().link_by_name("eth0").unwrap().is_some() {
            assert!(std::time::Instant::now() < deadline, "eth0 is still there");
            std::thread::yield_now();
        }
        two_peers();
    });
}

#[test]
fn a_pinned_peer_has_a_name_and_the_others_have_none() {
    on_private_host(|| {
        let mut lan = two_peers();
        let mut pinned = PeerSpec::new("pinned", [net("192.168.1.9/24")]);
        pinned.pinned = true;
        lan.add_peer(&pinned).unwrap();
        let listed = Namespaces::default().list().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].name.as_str(), listed[0].kind), ("pinned", EntryKind::Namespace));
    });
}

fn end_in_time(nobody: &'static str) {
    on_private_host(|| {
        let lan = two_peers();
        let peer = lan.peer("peer").unwrap();
        assert_eq!(ping(peer, ip(nobody), SHORT).unwrap(), Verdict::Silent);
        assert_eq!(tcp_connect(peer, at(nobody, 80), SHORT).unwrap(), Verdict::Silent);
        assert_eq!(udp_exchange(peer, at(nobody, 80), SHORT).unwrap(), Verdict::Silent);
        // Neighbour discovery gives up after three seconds, and says so.
        let verdict = ping(peer, ip(nobody), PATIENCE).unwrap();
        assert_eq!(verdict, Verdict::Unreachable(Errno::EHOSTUNREACH));
    });
}

#[test]
fn probes_into_the_void_end_in_time() {
    end_in_time("192.168.1.77");
}

#[test]
fn probes_into_the_ipv6_void_end_in_time() {
    end_in_time("fd00:1::77");
}

#[test]
fn a_namespace_without_links_reaches_nobody() {
    on_private_host(|| {
        let lonely = fresh().unwrap();
        let verdict = tcp_connect(&lonely.fd, at("192.168.1.2", 80), PATIENCE).unwrap();
        assert_eq!(verdict, Verdict::Unreachable(Errno::ENETUNREACH));
    });
}

#[test]
fn an_open_connection_echoes_until_its_server_goes() {
    on_private_host(|| {
        let lan = two_peers();
        let server = serve_tcp(lan.peer("other").unwrap(), at("192.168.1.4", 80), "other").unwrap();
        let mut streams: Vec<_> = (0..3)
            .map(|_| tcp_open(lan.peer("peer").unwrap(), server.address(), PATIENCE).unwrap().unwrap())
            .collect();
        for stream in &mut streams {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let greeting = format!("{} other\n", stream.local_addr().unwrap());
            stream.write_all(b"still there?").unwrap();
            let mut answer = vec![0; greeting.len() + 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [greeting.as_bytes(), b"still there?"].concat());
        }
        drop(server);
        assert!(matches!(streams[0].read(&mut [0]), Ok(0) | Err(_)));
    });
}

#[test]
fn settings_are_those_of_the_namespace_of_the_thread() {
    on_private_host(|| {
        let lan = two_peers();
        let key = Key::of_interface(Family::V6, "eth0", "accept_ra").unwrap();
        assert_eq!(write(&key, "2"), Ok(true));
        assert_eq!(write(&key, "2"), Ok(false));
        assert_eq!(read(&key).as_deref(), Ok("2"));
        let inside = thread::run(lan.peer("peer").unwrap(), "look", || read(&key)).unwrap();
        assert_eq!(inside.as_deref(), Ok("1"));
        let range = Key::named("net.ipv4.ip_local_port_range").unwrap();
        assert_eq!(write(&range, "40000 50000"), Ok(true));
        assert_eq!(write(&range, "40000 50000"), Ok(false));
    });
}

#[test]
fn settings_that_cannot_be_set_say_why() {
    on_private_host(|| {
        let gone = Key::of_interface(Family::V4, "gone", "forwarding").unwrap();
        assert_eq!(read(&gone), Err(SysctlError::Missing(gone.clone())));
        let forward = Key::named("net.ipv4.ip_forward").unwrap();
        let refused = write(&forward, "perhaps").unwrap_err();
        assert_eq!(refused.to_string(), "net.ipv4.ip_forward does not take \"perhaps\"");
        // Of this mount alone: without MS_BIND the whole file system would become read-only, also outside.
        let none = None::<&str>;
        let read_only = MsFlags::MS_RDONLY | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        mount(none, "/proc", none, read_only, none).unwrap();
        assert_eq!(write(&forward, "1"), Err(SysctlError::ReadOnly(forward.clone())));
        assert_eq!(write(&forward, "0"), Ok(false), "what is right already needs no write");
    });
}

#[test]
fn names_of_settings_do_not_leave_their_directory() {
    for bad in
        ["net.ipv4.conf.../../x", "kernel.hostname", "net", "", "net/../kernel/hostname", "net..x", "net.a b"]
    {
        assert_eq!(Key::named(bad), Err(SysctlError::BadName(bad.to_owned())), "{bad}");
    }
    for bad in ["", "all", "default", "..", "a/b", "a b", "a-name-of-20-letters"] {
        assert!(Key::of_interface(Family::V4, bad, "forwarding").is_err(), "{bad}");
    }
    let dotted = Key::of_interface(Family::V4, "eth0.7", "forwarding").unwrap();
    assert_eq!(dotted.to_string(), "net/ipv4/conf/eth0.7/forwarding");
    assert_eq!(Key::named("net/ipv4/conf/eth0.7/forwarding").unwrap(), dotted);
    assert_eq!(Key::named("net.ipv4.conf.eth0/7.forwarding").unwrap(), dotted);
    assert_eq!(Key::named("net.ipv4.ip_forward").unwrap().to_string(), "net.ipv4.ip_forward");
}
