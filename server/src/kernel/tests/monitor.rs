use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use crate::kernel::monitor::*;
use crate::kernel::netns::{assign_nsid, fresh};
use crate::kernel::socket::{RouteSocket, create, request};
use crate::kernel::testhost::{cannot_run, on_private_host, on_private_host_of_ordinary_user};
use crate::kernel::thread;

const PATIENCE: Duration = Duration::from_secs(5);

fn make_bridge(name: &str) {
    let bridge = LinkMessageBuilder::<LinkBridge>::new(name).build();
    RouteSocket::open().unwrap().request_reply(create(RouteNetlinkMessage::NewLink(bridge))).unwrap();
}

fn delete(name: &str) {
    let bridge = LinkMessageBuilder::<LinkUnspec>::new().name(name).build();
    RouteSocket::open().unwrap().request_reply(request(RouteNetlinkMessage::DelLink(bridge))).unwrap();
}

fn named(link: &LinkMessage, name: &str) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::IfName(found) if found == name))
}

/// Waits for the event that fits.
fn hear(monitor: &mut Monitor, fits: impl Fn(&Notice) -> bool) -> Notice {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match monitor.wait(PATIENCE).unwrap() {
            Heard::Notices(notices) => {
                if let Some(notice) = notices.into_iter().find(&fits) {
                    return notice;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("not heard")
}

#[test]
fn links_that_come_and_go_are_heard_in_order() {
    on_private_host_of_ordinary_user(|| {
        let mut monitor = Monitor::open(&ALL_GROUPS, Hears::OwnNamespace, RECEIVE_BUFFER).unwrap();
        assert_eq!(monitor.receive().unwrap(), Heard::Nothing);
        make_bridge("br0");
        delete("br0");
        let came = |notice: &Notice| matches!(&notice.change, Change::Message(RouteNetlinkMessage::NewLink(l)) if named(l, "br0"));
        let went = |notice: &Notice| matches!(&notice.change, Change::Message(RouteNetlinkMessage::DelLink(l)) if named(l, "br0"));
        let Heard::Notices(notices) = monitor.wait(PATIENCE).unwrap() else { panic!("nothing heard") };
        let first = notices.iter().position(came).unwrap();
        assert!(notices[first..].iter().any(went));
        assert!(
            notices
                .iter()
                .all(|notice| notice.nsid.is_none() && !matches!(notice.change, Change::Unreadable(_)))
        );
    });
}

#[test]
fn lost_events_are_an_overrun_and_later_ones_are_heard_again() {
    on_private_host(|| {
        let mut monitor = Monitor::open(&[Group::Links], Hears::OwnNamespace, 1).unwrap();
        for turn in 0..50 {
            make_bridge(&format!("br{turn}"));
        }
        let mut overrun = false;
        loop {
            match monitor.receive().unwrap() {
                Heard::Overrun => overrun = true,
                Heard::Notices(_) => {}
                Heard::Nothing => break,
            }
        }
        assert!(overrun);
        make_bridge("after");
        hear(
            &mut monitor,
            |notice| matches!(&notice.change, Change::Message(RouteNetlinkMessage::NewLink(l)) if named(l, "after")),
        );
    });
}

#[test]
fn one_monitor_hears_every_namespace_and_tells_them_apart() {
    on_private_host(|| {
        let (red, deaf) = (fresh().unwrap(), fresh().unwrap());
        let mut socket = RouteSocket::open().unwrap();
        let id = assign_nsid(&mut socket, &red.fd).unwrap();
        let mut monitor = match Monitor::open(&ALL_GROUPS, Hears::AllNamespaces, RECEIVE_BUFFER) {
            Ok(monitor) => monitor,
            Err(error) => return cannot_run(&format!("no CAP_NET_BROADCAST: {error}")),
        };
        thread::run(&deaf.fd, "deaf", || make_bridge("unheard")).unwrap();
        thread::run(&red.fd, "red", || make_bridge("inside")).unwrap();
        make_bridge("outside");
        let is = |name: &'static str| move |notice: &Notice| matches!(&notice.change, Change::Message(RouteNetlinkMessage::NewLink(l)) if named(l, name));
        let Heard::Notices(notices) = monitor.wait(PATIENCE).unwrap() else { panic!("nothing heard") };
        assert_eq!(notices.iter().find(|notice| is("inside")(notice)).unwrap().nsid, id);
        assert_eq!(notices.iter().find(|notice| is("outside")(notice)).unwrap().nsid, None);
        assert!(!notices.iter().any(|notice| is("unheard")(notice)));

        drop(red);
        let gone = hear(&mut monitor, |notice| {
            matches!(notice.change, Change::Message(RouteNetlinkMessage::DelNsId(_)))
        });
        assert_eq!(gone.nsid, None);
    });
}

#[test]
fn silence_lasts_as_long_as_the_time_out() {
    on_private_host(|| {
        let mut monitor = Monitor::open(&[Group::Links], Hears::OwnNamespace, RECEIVE_BUFFER).unwrap();
        let begin = Instant::now();
        assert_eq!(monitor.wait(Duration::from_millis(60)).unwrap(), Heard::Nothing);
        assert!(begin.elapsed() >= Duration::from_millis(60));
    });
}
