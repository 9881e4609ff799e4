//! What the kernel's filters do, found out on flows that nobody misses.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use nix::errno::Errno;

use crate::hostnet::flows::{Filter, Flow, Partial, Tuple};
use crate::hostnet::rules::Transport;

use super::wire::{body_of, body_of_flow, name_of_flow};
use super::{
    Conntrack, ConntrackError, Filters, IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_NEW, SUBSYSTEM, family, refused,
};

/// Tries filters. To be called in an empty namespace, whose flows nobody misses.
pub(super) fn probe(ipv6: bool) -> Filters {
    let protocol = Some(Transport::Udp);
    let all = |tuple: Tuple| Partial::from(tuple);
    let ports = |tuple: Tuple| Partial { source: None, destination: None, ..Partial::from(tuple) };
    let works = |partial: &dyn Fn(Tuple) -> Partial| -> Result<bool, ConntrackError> {
        let nothing = Partial::default();
        let mut conntrack = Conntrack::open_without_filters()?;
        let original = deletes_what_it_finds(&mut conntrack, ipv6, |asked| {
            Filter::new(ipv6, protocol, partial(asked.original), nothing)
        })?;
        let reply = deletes_what_it_finds(&mut conntrack, ipv6, |asked| {
            Filter::new(ipv6, protocol, nothing, partial(asked.reply))
        })?;
        Ok(original && reply)
    };
    match (works(&all), works(&ports)) {
        (Ok(true), Ok(true)) => Filters::Full,
        (_, Ok(true)) => Filters::Ports,
        // Where it cannot be tried, it is not used.
        (_, _) => Filters::Useless,
    }
}

/// Whether of a flow and its neighbours, each of which differs from it in one part, a deletion takes what the filter
/// for the flow finds and nothing else.
fn deletes_what_it_finds(
    conntrack: &mut Conntrack,
    ipv6: bool,
    filter: impl Fn(&Flow) -> Option<Filter>,
) -> Result<bool, ConntrackError> {
    let flows: Vec<_> = (0..=4).map(|part| probe_flow(ipv6, part)).collect();
    let Some(filter) = flows.first().and_then(filter) else { return Ok(false) };
    for flow in &flows {
        // What an earlier filter has left is there already.
        conntrack.add(flow)?;
    }
    // Without an address, perhaps; but here that harms nobody.
    conntrack.delete(family(ipv6), &body_of(&filter, Filters::Full))?;
    for flow in &flows {
        if conntrack.knows(flow)? == filter.finds(flow) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The flow itself, or its neighbour that differs in one part of each direction.
fn probe_flow(ipv6: bool, differs_in: u8) -> Flow {
    let address = |last: u8| -> IpAddr {
        if ipv6 {
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last].into()
        } else {
            [192, 0, 2, last].into()
        }
    };
    let tuple = |base: u8| {
        let differs = |part: u8| u8::from(differs_in == part);
        Tuple {
            source: address(base + differs(1)),
            destination: address(base + 10 + differs(2)),
            source_port: 1000 + u16::from(base + differs(3)),
            destination_port: 2000 + u16::from(base + differs(4)),
        }
    };
    Flow { protocol: Transport::Udp.number(), original: tuple(20), reply: tuple(40) }
}

impl Conntrack {
    /// Makes the kernel know a flow; for the probe, and for tests.
    pub(super) fn add(&mut self, flow: &Flow) -> Result<(), ConntrackError> {
        let family = family(flow.original.source.is_ipv6());
        let body = body_of_flow(flow);
        let added = self.socket.request_with(SUBSYSTEM, IPCTNL_MSG_CT_NEW, NLM_F_CREATE, family, &body)?;
        added.map(drop).map_err(|refusal| refused(refusal, "conntrack -I").into())
    }

    /// Whether the kernel knows a flow.
    fn knows(&mut self, flow: &Flow) -> Result<bool, ConntrackError> {
        let family = family(flow.original.source.is_ipv6());
        match self.socket.request(SUBSYSTEM, IPCTNL_MSG_CT_GET, family, &name_of_flow(flow))? {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.errno == Some(Errno::ENOENT) => Ok(false),
            Err(refusal) => Err(refused(refusal, "conntrack -G").into()),
        }
    }
}
