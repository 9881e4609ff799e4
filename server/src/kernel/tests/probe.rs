use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use crate::kernel::echo::*;
use crate::kernel::frame::{Port, Sniffer, inject, send_frame};
use crate::kernel::lan::{LanSpec, PeerSpec, add_lan};
use crate::kernel::netns::{fresh, own};
use crate::kernel::probe::*;
use crate::kernel::testhost::{on_private_host, on_private_host_of_ordinary_user};
use crate::kernel::thread::ThreadError;

use super::lan::{at, ip, net, two_peers};

const PATIENCE: Duration = Duration::from_secs(5);
/// For answers that must not come.
const MOMENT: Duration = Duration::from_millis(150);
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

fn each_side_sees_the_other() {
    let lan = two_peers();
    let (host, peer) = (own().unwrap(), lan.peer("peer").unwrap());
    for (at_host, at_peer) in [("192.168.1.2", "192.168.1.3"), ("fd00:1::2", "fd00:1::3")] {
        assert_eq!(tcp_seen(peer, None, at(at_host, 80), &host, 80, PATIENCE), Ok(Some(ip(at_peer))));
        assert_eq!(udp_seen(peer, None, at(at_host, 80), &host, 80, PATIENCE), Ok(Some(ip(at_peer))));
        assert_eq!(tcp_seen(&host, None, at(at_peer, 80), peer, 80, PATIENCE), Ok(Some(ip(at_host))));
        assert_eq!(udp_seen(&host, None, at(at_peer, 80), peer, 80, PATIENCE), Ok(Some(ip(at_host))));
        // The call does not end where the server is.
        assert_eq!(tcp_seen(peer, None, at(at_host, 80), peer, 80, MOMENT), Ok(None));
        assert_eq!(udp_seen(peer, None, at(at_host, 80), peer, 80, MOMENT), Ok(None));
    }
}

#[test]
fn a_pair_of_client_and_server_proves_one_path() {
    on_private_host(each_side_sees_the_other);
}

#[test]
fn an_ordinary_user_proves_paths_as_well() {
    on_private_host_of_ordinary_user(each_side_sees_the_other);
}

#[test]
fn a_server_of_each_family_serves_at_one_port_and_says_who_it_is() {
    on_private_host(|| {
        let lan = two_peers();
        let host = own().unwrap();
        let _servers = [at("0.0.0.0", 80), at("::", 80)].map(|listen| {
            let label = format!("the host at {}", listen.ip());
            (serve_tcp(&host, listen, &label).unwrap(), serve_udp(&host, listen, &label).unwrap())
        });
        for (name, from) in [("peer", "192.168.1.3"), ("other", "192.168.1.4")] {
            let peer = lan.peer(name).unwrap();
            for exchange in [tcp_exchange_from, udp_exchange_from] {
                let verdict = exchange(peer.as_fd(), None, at("192.168.1.2", 80), PATIENCE).unwrap();
                assert_eq!(verdict.by(), Some("the host at 0.0.0.0"));
                assert_eq!(verdict.seen().map(|seen| seen.ip()), Some(ip(from)));
                let verdict = exchange(peer.as_fd(), None, at("fd00:1::2", 80), PATIENCE).unwrap();
                assert_eq!(verdict.by(), Some("the host at ::"));
            }
        }
    });
}

#[test]
fn udp_is_answered_from_the_address_that_was_called() {
    on_private_host(|| {
        let spec = LanSpec {
            host_addresses: ["192.168.1.2/24", "192.168.1.77/24", "fd00:1::2/64", "fd00:1::77/64"]
                .map(net)
                .to_vec(),
            peers: vec![PeerSpec::new("peer", ["192.168.1.3/24", "fd00:1::3/64"].map(net))],
            ..LanSpec::default()
        };
        let lan = add_lan(&spec).unwrap();
        for address in spec.host_addresses {
            let target = SocketAddr::new(address.addr(), 53);
            let seen =
                udp_seen(lan.peer("peer").unwrap(), None, target, own().unwrap(), 53, PATIENCE).unwrap();
            assert!(seen.is_some(), "{target}");
        }
    });
}

#[test]
fn a_client_calls_from_the_address_that_it_is_told() {
    on_private_host(|| {
        let spec = LanSpec {
            peers: vec![PeerSpec::new("peer", ["192.168.1.3/24", "192.168.1.99/24"].map(net))],
            ..LanSpec::default()
        };
        let lan = add_lan(&spec).unwrap();
        let (host, peer, target) = (own().unwrap(), lan.peer("peer").unwrap(), at("192.168.1.2", 80));
        for source in [ip("192.168.1.99"), ip("192.168.1.3")] {
            assert_eq!(tcp_seen(peer, Some(source), target, &host, 80, PATIENCE), Ok(Some(source)));
            assert_eq!(udp_seen(peer, Some(source), target, &host, 80, PATIENCE), Ok(Some(source)));
        }
        let foreign = tcp_seen(peer, Some(ip("192.168.1.5")), target, &host, 80, PATIENCE);
        assert!(matches!(foreign, Err(ProbeError::System { operation: "bind", .. })), "{foreign:?}");
    });
}

#[test]
fn a_probe_that_was_not_made_is_never_taken_for_silence() {
    on_private_host(|| {
        let lan = two_peers();
        let (host, peer) = (own().unwrap(), lan.peer("peer").unwrap());
        let _taken = serve_tcp(&host, at("0.0.0.0", 80), "first").unwrap();
        let second = tcp_seen(peer, None, at("192.168.1.2", 80), &host, 80, MOMENT);
        assert!(matches!(second, Err(ProbeError::System { operation: "bind" | "listen", .. })), "{second:?}");

        let file = std::fs::File::open("/dev/null").unwrap();
        let nowhere = ping(&file, ip("127.0.0.1"), MOMENT);
        assert!(matches!(nowhere, Err(ProbeError::Thread(ThreadError::Enter(_)))), "{nowhere:?}");

        // The loopback interface of a new namespace is down: that is an answer.
        let verdict = ping(fresh().unwrap().fd, ip("127.0.0.1"), MOMENT).unwrap();
        assert!(matches!(verdict, Verdict::Unreachable(_)), "{verdict:?}");
    });
}

#[test]
fn a_stranger_at_the_port_has_answered_without_an_echo() {
    on_private_host(|| {
        let stranger = TcpListener::bind("127.0.0.1:80").unwrap();
        let thread =
            std::thread::spawn(move || stranger.accept().unwrap().0.write_all(b"SSH-2.0\r\n").unwrap());
        let verdict = tcp_exchange(own().unwrap(), at("127.0.0.1", 80), PATIENCE).unwrap();
        assert!(matches!(verdict, Verdict::Answered { echo: None, .. }), "{verdict:?}");
        thread.join().unwrap();
    });
}

#[test]
fn silent_callers_do_not_keep_others_from_answers() {
    on_private_host(|| {
        let host = own().unwrap();
        let _server = serve_tcp(&host, at("127.0.0.1", 80), "echo").unwrap();
        let silent: Vec<_> = (0..70).map(|_| TcpStream::connect("127.0.0.1:80").unwrap()).collect();
        let verdict = tcp_exchange(&host, at("127.0.0.1", 80), PATIENCE).unwrap();
        assert_eq!(verdict.by(), Some("echo"));
        drop(silent);
    });
}

#[test]
fn a_dropped_server_frees_its_port_at_once() {
    on_private_host(|| {
        let (host, target) = (own().unwrap(), at("127.0.0.1", 80));
        for round in 0..20 {
            let server = serve_tcp(&host, target, &round.to_string()).unwrap();
            let verdict = tcp_exchange(&host, target, PATIENCE).unwrap();
            assert_eq!(verdict.by(), Some(round.to_string().as_str()));
            drop(server);
            assert_eq!(tcp_connect(&host, target, PATIENCE), Ok(Verdict::Refused));
        }
    });
}

#[test]
fn injected_frames_arrive_where_the_segment_carries_them() {
    on_private_host(|| {
        let lan = two_peers();
        let own = own().unwrap();
        let port = |name| Port { namespace: lan.peer(name).unwrap().as_fd(), interface: "eth0" };
        let (peer, other) = (port("peer"), port("other"));
        let host = Port { namespace: own.as_fd(), interface: "eth0" };
        let sender = lan.peer("peer").unwrap().mac();
        let frame = |to: [u8; 6], mark: &[u8]| [&to, &sender, &ETHERTYPE[..], mark, &[0; 40]].concat();

        let to_all = [0xff; 6];
        assert_eq!(inject(peer, &frame(to_all, b"ALL"), other, b"ALL", PATIENCE), Ok(true));
        assert_eq!(inject(peer, &frame(lan.host_mac(), b"HOST"), host, b"HOST", PATIENCE), Ok(true));
        let to_other = frame(lan.peer("other").unwrap().mac(), b"OTHER");
        assert_eq!(inject(peer, &to_other, other, b"OTHER", PATIENCE), Ok(true));
        let segment = Port { namespace: lan.segment(), interface: "switch" };
        assert_eq!(inject(peer, &frame(to_all, b"WIRE"), segment, b"WIRE", PATIENCE), Ok(true));
    });
}

#[test]
fn other_frames_and_those_that_one_sent_oneself_are_not_seen() {
    on_private_host(|| {
        let lan = two_peers();
        let port = |name, interface| Port { namespace: lan.peer(name).unwrap().as_fd(), interface };
        let (peer, other) = (port("peer", "eth0"), port("other", "eth0"));
        let sender = lan.peer("peer").unwrap().mac();
        let frame = |mark: &[u8]| [&[0xff; 6], &sender, &ETHERTYPE[..], mark, &[0; 40]].concat();

        assert_eq!(inject(peer, &frame(b"THIS"), other, b"THAT", MOMENT), Ok(false));
        assert_eq!(inject(peer, &frame(b"ETH"), port("other", "lo"), b"ETH", MOMENT), Ok(false));
        let reflected = Sniffer::open(peer).unwrap();
        send_frame(peer, &frame(b"OWN")).unwrap();
        assert_eq!(reflected.saw(b"OWN", MOMENT), Ok(false));

        let missing = send_frame(port("peer", "eth9"), &frame(b""));
        assert!(
            matches!(missing, Err(ProbeError::System { operation: "if_nametoindex", .. })),
            "{missing:?}"
        );
        let too_short = send_frame(peer, b"x");
        assert!(matches!(too_short, Err(ProbeError::System { operation: "send", .. })), "{too_short:?}");
    });
}
