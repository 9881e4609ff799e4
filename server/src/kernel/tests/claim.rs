use std::net::{IpAddr, TcpListener, UdpSocket};

use netloom_api::Protocol;

use crate::kernel::claim::{ClaimError, Ports, claim};
use crate::kernel::sysctl::{Key, write};
use crate::kernel::testhost::{on_private_host, on_private_host_of_ordinary_user};

fn ports(address: Option<&str>, protocol: Protocol, first: u16, last: u16) -> Ports {
    Ports { address: address.map(|address| address.parse().unwrap()), protocol, first, last }
}

fn taken(address: &str, port: u16) -> ClaimError {
    ClaimError::Taken { address: address.parse::<IpAddr>().unwrap(), port }
}

#[test]
fn a_port_that_a_program_has_is_taken_and_stays_with_it() {
    on_private_host(|| {
        let service = TcpListener::bind("127.0.0.1:8080").unwrap();
        for address in [Some("127.0.0.1"), Some("0.0.0.0")] {
            let refused = claim(ports(address, Protocol::Tcp, 8080, 8080)).unwrap_err();
            assert_eq!(refused, taken(address.unwrap(), 8080));
        }
        assert_eq!(claim(ports(None, Protocol::Tcp, 8080, 8080)).unwrap_err(), taken("::", 8080));
        // Another protocol, another family and another address are other ports.
        claim(ports(None, Protocol::Udp, 8080, 8080)).unwrap();
        claim(ports(Some("::"), Protocol::Tcp, 8080, 8080)).unwrap();
        claim(ports(Some("127.0.0.2"), Protocol::Tcp, 8080, 8080)).unwrap();
        drop(service);
        claim(ports(None, Protocol::Tcp, 8080, 8080)).unwrap();
    });
}

#[test]
fn a_claimed_port_is_refused_to_programs_until_it_is_released() {
    on_private_host_of_ordinary_user(|| {
        let held = claim(ports(None, Protocol::Tcp, 80, 80)).unwrap();
        for address in ["127.0.0.1:80", "0.0.0.0:80", "[::]:80", "[::1]:80"] {
            // The standard library sets SO_REUSEADDR, as servers do.
            let refused = TcpListener::bind(address).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse, "{address}");
        }
        assert_eq!(claim(held.ports()).unwrap_err(), taken("::", 80));
        // It does not listen: who connects is refused, as if nobody were there.
        let refused = std::net::TcpStream::connect("127.0.0.1:80").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        drop(held);
        TcpListener::bind("[::]:80").unwrap();

        let held = claim(ports(None, Protocol::Udp, 53, 53)).unwrap();
        assert!(UdpSocket::bind("127.0.0.1:53").is_err());
        drop(held);
        UdpSocket::bind("127.0.0.1:53").unwrap();
    });
}

#[test]
fn a_range_is_claimed_whole_or_not_at_all() {
    on_private_host(|| {
        let service = UdpSocket::bind("0.0.0.0:5005").unwrap();
        let refused = claim(ports(None, Protocol::Udp, 5000, 5010)).unwrap_err();
        assert_eq!(refused, taken("::", 5005));
        drop(service);
        claim(ports(None, Protocol::Udp, 5000, 5010)).unwrap();
        // Ordinary users may open 1024 files.
        claim(ports(Some("127.0.0.1"), Protocol::Tcp, 64636, 65535)).unwrap();
    });
}

#[test]
fn ranges_that_are_none_are_refused() {
    for (first, last) in [(0, 10), (10, 9), (1000, 2024), (1, 65535)] {
        let refused = claim(ports(None, Protocol::Tcp, first, last)).unwrap_err();
        assert_eq!(refused, ClaimError::BadRange { first, last });
    }
}

#[test]
fn an_address_of_another_host_is_an_error_of_its_own() {
    on_private_host(|| {
        for address in ["192.0.2.7", "2001:db8::7"] {
            let refused = claim(ports(Some(address), Protocol::Tcp, 80, 80)).unwrap_err();
            assert_eq!(refused, ClaimError::NotAnAddressHere { address: address.parse().unwrap() });
        }
    });
}

#[test]
fn a_host_with_ipv6_switched_off_has_ports_all_the_same() {
    on_private_host(|| {
        for interface in ["all", "lo"] {
            let off = Key::named(&format!("net.ipv6.conf.{interface}.disable_ipv6")).unwrap();
            write(&off, "1").unwrap();
        }
        let held = claim(ports(None, Protocol::Tcp, 80, 80)).unwrap();
        assert!(TcpListener::bind("127.0.0.1:80").is_err());
        drop(held);
        TcpListener::bind("127.0.0.1:80").unwrap();
    });
}
