use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{NetlinkAddr, getsockname};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use crate::kernel::socket::*;
use crate::kernel::testhost::{on_private_host, on_private_host_of_ordinary_user};

fn bridge(name: &str) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(LinkMessageBuilder::<LinkBridge>::new(name).up().build())
}

fn route(destination: [u8; 4], gateway: [u8; 4]) -> RouteNetlinkMessage {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination.into(), 8);
    RouteNetlinkMessage::NewRoute(route.gateway(gateway.into()).build())
}

fn kernel_error(error: RequestError) -> String {
    match error {
        RequestError::Kernel(error) => error.to_string(),
        RequestError::Socket(error) => panic!("{error}"),
    }
}

#[test]
fn a_refused_request_says_why_in_the_words_of_the_kernel() {
    on_private_host(|| {
        let mut socket = RouteSocket::open().unwrap();
        let refused = socket.request_reply(create(route([10, 0, 0, 0], [10, 9, 9, 9]))).unwrap_err();
        assert_eq!(
            kernel_error(refused),
            "RTM_NEWROUTE 10.0.0.0/8: Network is unreachable (ENETUNREACH): Nexthop has invalid gateway"
        );
    });
}

#[test]
fn each_message_of_a_batch_has_its_own_result() {
    on_private_host_of_ordinary_user(|| {
        let mut socket = RouteSocket::open().unwrap();
        let messages = vec![create(bridge("one")), create(bridge("one")), create(bridge("two"))];
        let results = socket.batch(messages).unwrap();
        assert_eq!(results[0], Ok(()));
        assert_eq!(results[1].as_ref().unwrap_err().errno, Errno::EEXIST);
        assert_eq!(results[1].as_ref().unwrap_err().operation, "RTM_NEWLINK one");
        assert_eq!(results[2], Ok(()));
        assert!(socket.link_by_name("two").unwrap().is_some());
        assert!(socket.batch(Vec::new()).unwrap().is_empty());
    });
}

#[test]
fn a_large_batch_of_answers_does_not_overflow_the_receive_buffer() {
    on_private_host(|| {
        let mut socket = RouteSocket::open().unwrap();
        let refused = vec![create(route([10, 0, 0, 0], [10, 9, 9, 9])); 2_000];
        let results = socket.batch(refused).unwrap();
        assert_eq!(results.len(), 2_000);
        assert!(results.iter().all(|result| result.as_ref().is_err_and(|error| error.extack.is_some())));
        let echoes = vec![echo(replace(bridge("many"))); 500];
        assert_eq!(socket.exchange(echoes).unwrap().len(), 500);
    });
}

#[test]
fn a_created_link_comes_back_with_its_index() {
    on_private_host(|| {
        let mut socket = RouteSocket::open().unwrap();
        let replies = socket.request_reply(echo(create(bridge("br0")))).unwrap();
        let by_name = socket.link_by_name("br0").unwrap().unwrap();
        // Older than Linux 6.2 there is no echo, and the caller asks by name.
        for reply in &replies {
            assert!(
                matches!(reply, RouteNetlinkMessage::NewLink(link) if link.header.index == by_name.header.index)
            );
        }
        let by_index = socket.link_by_index(by_name.header.index).unwrap().unwrap();
        assert_eq!(by_index.header.index, by_name.header.index);
    });
}

#[test]
fn what_is_not_there_is_none_and_not_an_error() {
    on_private_host(|| {
        let mut socket = RouteSocket::open().unwrap();
        assert_eq!(socket.link_by_name("nothing").unwrap(), None);
        assert_eq!(socket.link_by_index(4711).unwrap(), None);
        // Longer than an interface name can be: refused, not cut.
        assert!(socket.link_by_name("a-name-of-20-letters").is_err());
    });
}

#[test]
fn a_dump_over_many_datagrams_is_complete() {
    on_private_host(|| {
        let mut socket = RouteSocket::open().unwrap();
        let made = socket.batch((0..120).map(|n| create(bridge(&format!("br{n}")))).collect()).unwrap();
        assert!(made.iter().all(Result::is_ok));
        let links = socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        assert_eq!(links.len(), 121);
        // The socket is free for the next dump.
        assert_eq!(socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap().len(), 121);
    });
}

#[test]
fn a_refused_dump_is_an_error_and_not_an_empty_list() {
    on_private_host(|| {
        let mut socket = RouteSocket::open().unwrap();
        let mut strange = LinkMessage::default();
        strange.header.index = 7;
        let refused = socket.dump(RouteNetlinkMessage::GetLink(strange)).unwrap_err();
        assert!(matches!(&refused, DumpError::Kernel(error) if error.errno == Errno::EINVAL), "{refused}");
        assert_eq!(socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap().len(), 1);
    });
}

#[test]
fn a_lost_answer_is_a_timeout_and_not_a_hang() {
    on_private_host(|| {
        let mut socket = RouteSocket::open_with_timeout(Duration::from_millis(50)).unwrap();
        let begin = Instant::now();
        let error = socket.wait_for_nothing(request(bridge("br0"))).unwrap_err();
        assert!(begin.elapsed() >= Duration::from_millis(50));
        assert_eq!(
            error,
            SocketError::TimedOut {
                waited: Duration::from_millis(50),
                missing: 1,
                operation: "RTM_NEWLINK br0".to_owned()
            }
        );
        // And the socket still works.
        assert!(socket.link_by_name("lo").unwrap().is_some());
    });
}

#[test]
fn a_missing_device_is_named() {
    on_private_host(|| {
        let mut socket = RouteSocket::open().unwrap();
        let down = LinkMessageBuilder::<LinkUnspec>::new().name("gone").down().build();
        let refused = socket.request_reply(request(RouteNetlinkMessage::SetLink(down))).unwrap_err();
        assert!(kernel_error(refused).starts_with("RTM_SETLINK gone: No such device (ENODEV)"));
    });
}

#[test]
fn a_dump_during_changes_never_misses_what_was_there_all_the_time() {
    on_private_host(|| {
        let mut socket = RouteSocket::open().unwrap();
        socket.batch((0..150).map(|n| create(bridge(&format!("br{n}")))).collect()).unwrap();
        std::thread::scope(|threads| {
            let churn = threads.spawn(|| {
                let mut socket = RouteSocket::open().unwrap();
                for n in 0..150 {
                    socket.request_reply(create(bridge(&format!("new{n}")))).unwrap();
                }
            });
            let mut dumps = 0;
            while !churn.is_finished() || dumps == 0 {
                match socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())) {
                    Ok(links) => assert!(links.len() >= 151, "{}", links.len()),
                    Err(DumpError::Interrupted { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                dumps += 1;
            }
        });
    });
}

#[test]
fn other_processes_cannot_write_to_the_socket() {
    on_private_host(|| {
        let mut socket = RouteSocket::open().unwrap();
        let mut stranger = Socket::new(NETLINK_ROUTE).unwrap();
        stranger.bind_auto().unwrap();
        let address: NetlinkAddr = getsockname(socket.as_fd().as_raw_fd()).unwrap();
        let ours = SocketAddr::new(address.pid(), 0);
        let refused = stranger.send_to(&[0; 16], &ours, 0).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(socket.link_by_name("lo").unwrap().is_some());
    });
}
