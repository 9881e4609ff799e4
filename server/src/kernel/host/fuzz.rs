//! Whatever rtnetlink says is read or called unreadable; a true host, made by us, is where it begins.

use std::collections::BTreeMap;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage as M, address::AddressMessage, link::LinkMessage, neighbour::NeighbourMessage,
    route::RouteMessage, rule::RuleMessage, tc::TcMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use netloom_fuzz::{withstands, withstands_text};

use super::{dump, look, observe, state, tc, tests, view};
use crate::{
    hostnet::Stack,
    kernel::{
        Kernel,
        datagram::{DumpReader, Part, parts},
        extack, meddle,
        netns::own,
        testhost::on_private_host,
    },
    world::World,
};

/// The kernel's own bytes.
fn answers(question: M) -> Vec<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.bind_auto().unwrap();
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(question));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).unwrap();
    let mut all = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().unwrap();
        let done = parts(&datagram).any(|part| part.unwrap().kind == NLMSG_DONE);
        all.push(datagram);
        if done {
            return all;
        }
    }
}

/// All that looks into a message.
fn read(message: &M) {
    let (names, indices) = (BTreeMap::new(), BTreeMap::from([(1, "lo".to_owned())]));
    match message {
        M::NewLink(link) | M::DelLink(link) => {
            drop((dump::ifname(link), dump::kind(link), dump::peer_index(link), dump::peer_nsid(link)));
            let _ = (dump::mark(link), dump::alias_mark(link));
            drop((look::line(link, &indices), observe::link(link, &names, None)));
            drop(state::interface(link, &[], &indices, &World::default()));
        }
        M::NewAddress(address) | M::DelAddress(address) => drop(dump::address_of(address)),
        M::NewRoute(route) | M::DelRoute(route) => {
            drop((dump::destination(route), dump::route_of(route, &Stack::Host, &names)));
            drop((look::way(route, &indices), view::default_route(route), state::route(route, &indices)));
        }
        M::NewRule(rule) | M::DelRule(rule) => drop(look::policy(rule)),
        M::NewNeighbour(neighbour) | M::DelNeighbour(neighbour) => {
            drop((look::neighbour(neighbour, &indices), state::neighbour(neighbour, &indices)));
        }
        M::NewQueueDiscipline(one) | M::NewTrafficFilter(one) => drop((tc::told(one), tc::mirred(one))),
        _ => {}
    }
    drop(extack::describe(message));
}

#[test]
fn what_rtnetlink_says_is_read_or_refused() {
    on_private_host(|| {
        let kernel = Kernel::open().unwrap();
        tests::build(&kernel, &tests::red_and_v_net());
        meddle::add_cable(own().unwrap(), "theirs", "another").unwrap();
        let questions = [
            M::GetLink(LinkMessage::default()),
            M::GetAddress(AddressMessage::default()),
            M::GetRoute(RouteMessage::default()),
            M::GetRule(RuleMessage::default()),
            M::GetNeighbour(NeighbourMessage::default()),
            M::GetQueueDiscipline(TcMessage::default()),
        ];
        let examples: Vec<Vec<u8>> = questions.into_iter().flat_map(answers).collect();
        withstands(&examples, |bytes| {
            for part in parts(bytes).filter_map(Result::ok) {
                if let Ok(Part::Message(message)) = part.decode() {
                    read(&message);
                }
            }
            let sequence = parts(bytes).find_map(|part| Some(part.ok()?.sequence)).unwrap_or_default();
            drop(DumpReader::new(sequence).take(bytes));
        });
    });
}

#[test]
fn a_line_of_a_table_of_sockets_is_read_or_refused() {
    let examples = [
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0",
        "   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 12 1",
    ];
    withstands_text(&examples, |line| {
        let _ = (look::listener(line, false), look::listener(line, true));
    });
}
