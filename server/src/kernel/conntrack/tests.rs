//! Forgetting flows, on the real kernel.

use std::net::IpAddr;

use super::*;
use crate::hostnet::flows::Published;
use crate::hostnet::flows::{Partial, Tuple};
use crate::hostnet::rules::Transport;
use crate::kernel::testhost::on_private_host;

const HOST: [u8; 4] = [192, 0, 2, 1];
const TARGET: [u8; 4] = [10, 1, 0, 11];

fn tuple(source: [u8; 4], destination: [u8; 4], source_port: u16, destination_port: u16) -> Tuple {
    Tuple { source: source.into(), destination: destination.into(), source_port, destination_port }
}

/// From a client to a port, answered by somebody.
fn flow(protocol: u8, client: u8, to: ([u8; 4], u16), by: ([u8; 4], u16)) -> Flow {
    let source = [192, 0, 2, client];
    Flow { protocol, original: tuple(source, to.0, 40_000, to.1), reply: tuple(by.0, source, by.1, 40_000) }
}

fn flow6(client: u16, to: &str) -> Flow {
    let source: IpAddr = format!("2001:db8::{client:x}").parse().unwrap();
    let destination = to.parse().unwrap();
    let original = Tuple { source, destination, source_port: 40_000, destination_port: 80 };
    let reply = Tuple { source: destination, destination: source, source_port: 80, destination_port: 40_000 };
    Flow { protocol: 6, original, reply }
}

fn published(transport: Transport, ports: impl Into<crate::hostnet::flows::Ports>) -> Published {
    Published { listen: None, transport, ports: ports.into(), target: TARGET.into(), target_port: 80 }
}

/// Of these flows, what is stale is forgotten and nothing else is, whatever the kernel can do.
fn forgets(flows: &[Flow], stale: &Stale) {
    for mut conntrack in [Conntrack::open().unwrap(), Conntrack::open_without_filters().unwrap()] {
        for flow in flows {
            conntrack.add(flow).unwrap();
        }
        let covered = flows.iter().filter(|flow| stale.covers(flow)).count();
        assert!(covered > 0 && covered < flows.len(), "the test tells nothing: {covered} of {}", flows.len());
        assert_eq!(conntrack.list(stale).unwrap().len(), covered, "{stale:?}");
        conntrack.forget(std::slice::from_ref(stale)).unwrap();
        let mut left = everything(&mut conntrack);
        for flow in flows {
            let at = left.iter().position(|one| one == flow);
            assert_eq!(at.is_none(), stale.covers(flow), "{flow:?} after {stale:?}");
            at.map(|at| left.swap_remove(at));
        }
        assert_eq!(left, Vec::new());
        conntrack.forget(std::slice::from_ref(stale)).unwrap();
        for net in ["0.0.0.0/1", "128.0.0.0/1", "::/0"] {
            conntrack.forget(&[Stale::Address(TARGET.into()), Stale::Egress(net.parse().unwrap())]).unwrap();
        }
        for flow in everything(&mut conntrack) {
            conntrack.forget(&[Stale::Address(flow.original.source)]).unwrap();
        }
        assert_eq!(everything(&mut conntrack), Vec::new());
    }
}

fn everything(conntrack: &mut Conntrack) -> Vec<Flow> {
    let families = [NFPROTO_IPV4, NFPROTO_IPV6];
    let bodies = families.map(|family| conntrack.dump(family, &[]).unwrap()).concat();
    bodies.iter().filter_map(|body| found(body).unwrap()).map(|found| found.flow).collect()
}

fn some_of_each(protocol: u8) -> Vec<Flow> {
    let stranger = [198, 51, 100, 7];
    vec![
        flow(protocol, 100, (HOST, 8080), (TARGET, 80)),
        flow(protocol, 101, ([192, 0, 2, 2], 8080), (TARGET, 80)),
        flow(protocol, 102, (HOST, 8080), ([10, 1, 0, 12], 80)),
        flow(protocol, 103, (HOST, 8080), (HOST, 8080)),
        flow(protocol, 104, (HOST, 8081), (TARGET, 81)),
        flow(protocol, 105, (stranger, 8080), (stranger, 8080)),
        flow(if protocol == 6 { 17 } else { 6 }, 106, (HOST, 8080), (TARGET, 80)),
        flow6(1, "fd01::11"),
        flow6(2, "fd01::12"),
    ]
}

#[test]
fn a_withdrawn_port_takes_its_flows_and_no_others() {
    on_private_host(|| {
        forgets(&some_of_each(17), &Stale::Withdrawn(published(Transport::Udp, 8080)));
        forgets(&some_of_each(6), &Stale::Withdrawn(published(Transport::Tcp, 8080)));
        let one = Published { listen: Some(HOST.into()), ..published(Transport::Tcp, 8080) };
        forgets(&some_of_each(6), &Stale::Withdrawn(one));
    });
}

#[test]
fn a_withdrawn_range_takes_its_flows_and_no_others() {
    on_private_host(|| {
        forgets(&some_of_each(17), &Stale::Withdrawn(published(Transport::Udp, 8080..=8081)));
    });
}

#[test]
fn an_announced_port_takes_the_flows_that_went_elsewhere() {
    on_private_host(|| {
        let host = [HOST.into(), [192, 0, 2, 2].into()].into();
        forgets(&some_of_each(17), &Stale::Announced { published: published(Transport::Udp, 8080), host });
    });
}

#[test]
fn a_gone_address_takes_all_its_flows() {
    on_private_host(|| {
        forgets(&some_of_each(17), &Stale::Address(TARGET.into()));
        forgets(&some_of_each(17), &Stale::Address("fd01::11".parse().unwrap()));
        forgets(&some_of_each(17), &Stale::Address([192, 0, 2, 103].into()));
    });
}

#[test]
fn a_changed_way_out_takes_what_went_out() {
    on_private_host(|| {
        forgets(&some_of_each(17), &Stale::Egress("192.0.2.100/30".parse().unwrap()));
    });
}

#[test]
fn a_narrowed_list_takes_those_who_may_not_any_more() {
    on_private_host(|| {
        let sources = vec!["192.0.2.101/32".parse().unwrap()];
        let published = published(Transport::Udp, 8080);
        forgets(&some_of_each(17), &Stale::Narrowed { published, sources, host: [].into() });
    });
}

#[test]
fn filters_are_used_where_they_were_seen_to_work() {
    on_private_host(|| {
        let conntrack = Conntrack::open().unwrap();
        let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
        if release.starts_with("6.18") {
            assert_eq!(conntrack.filters(false), Filters::Full);
            // By an IPv6 address it takes all flows but those that have it.
            assert_eq!(conntrack.filters(true), Filters::Ports);
        }
    });
}

#[test]
#[ignore = "prints numbers: cargo test -p netloom-server -- --ignored --nocapture how_long_filters"]
fn how_long_filters_take_to_try() {
    on_private_host(|| {
        let time = |what: &str, work: &mut dyn FnMut()| {
            let start = std::time::Instant::now();
            work();
            println!("{what}: {:?}", start.elapsed());
        };
        time("open with the probe", &mut || drop(Conntrack::open().unwrap()));
        time("open without", &mut || drop(Conntrack::open_without_filters().unwrap()));
        let mut conntrack = Conntrack::open().unwrap();
        let stale = Stale::Address(TARGET.into());
        time("list", &mut || drop(conntrack.list(&stale).unwrap()));
        time("forget", &mut || conntrack.forget(std::slice::from_ref(&stale)).unwrap());
    });
}

#[test]
fn a_deletion_without_an_address_is_never_sent() {
    on_private_host(|| {
        let mut conntrack = Conntrack::open().unwrap();
        let port = Partial { destination_port: Some(80), ..Partial::default() };
        let filter = Filter::new(false, Some(Transport::Tcp), port, Partial::default()).unwrap();
        assert!(conntrack.delete_by_filter(&filter).is_err());
    });
}

#[test]
fn what_conntrack_says_is_read_or_refused() {
    on_private_host(|| {
        let mut conntrack = Conntrack::open_without_filters().unwrap();
        for flow in some_of_each(6).iter().chain(&some_of_each(17)) {
            conntrack.add(flow).unwrap();
        }
        let families = [NFPROTO_IPV4, NFPROTO_IPV6];
        let examples = families.map(|family| conntrack.dump(family, &[]).unwrap()).concat();
        netloom_fuzz::withstands(&examples, |bytes| drop(found(bytes)));
    });
}
