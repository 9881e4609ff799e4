//! Which end of a cable belongs to which. An end names its pair by an index in the pair's stack, and the stack by an id
//! that only its own stack understands.

use std::collections::BTreeMap;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::LinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use netloom_api::IfName;

use super::{
    Inner,
    dump::{ifname, kind, peer_index, peer_nsid},
    observe::{Inside, Seen},
};
use crate::{hostnet::Stack, kernel::socket::DumpError};

/// The other end, by the stack and index of the one.
pub(super) type Cables = BTreeMap<Stack, BTreeMap<u32, (Stack, IfName)>>;

/// Finds the pairs. Of each namespace the id that the host has for it is given; an end in a stack that is not among
/// these has no pair.
pub(super) fn pair(inner: &Inner, host: &Seen, inside: &[Inside]) -> Result<Cables, String> {
    let by_id: BTreeMap<i32, &Seen> = inside.iter().filter_map(|one| Some((one.nsid?, &one.seen))).collect();
    let mut cables = Cables::new();
    for link in veths(host) {
        let other = peer_nsid(link).map_or(Some(host), |id| by_id.get(&id).copied());
        tie(&mut cables, host, link, other);
    }
    for Inside { seen, nsid } in inside {
        let mut ids = None;
        for link in veths(seen) {
            let is_tied = |cables: &Cables| {
                cables.get(&seen.stack).is_some_and(|ends| ends.contains_key(&link.header.index))
            };
            if is_tied(&cables) {
                continue;
            }
            let other = match (peer_nsid(link), *nsid) {
                (None, _) => Some(seen),
                (Some(_), None) => None,
                (Some(theirs), Some(id)) => {
                    if ids.is_none() {
                        ids = Some(ids_of(inner, id).map_err(|error| error.to_string())?);
                    }
                    ids.as_ref().and_then(|known| known.get(&theirs)).and_then(|id| by_id.get(id)).copied()
                }
            };
            tie(&mut cables, seen, link, other);
        }
    }
    Ok(cables)
}

fn veths(seen: &Seen) -> impl Iterator<Item = &LinkMessage> {
    seen.dump.links.iter().filter(|link| kind(link) == "veth")
}

fn tie(cables: &mut Cables, seen: &Seen, link: &LinkMessage, other: Option<&Seen>) {
    let (Some(other), Some(index)) = (other, peer_index(link)) else { return };
    let Some(pair) = veths(other).find(|pair| pair.header.index == index) else { return };
    if let (Some(name), Some(pair_name)) = (ifname(link), ifname(pair)) {
        let mut put = |stack: &Stack, index, end| cables.entry(stack.clone()).or_default().insert(index, end);
        put(&seen.stack, link.header.index, (other.stack.clone(), pair_name));
        put(&other.stack, index, (seen.stack.clone(), name));
    }
}

/// What a namespace calls others, and what the host calls them.
fn ids_of(inner: &Inner, namespace: i32) -> Result<BTreeMap<i32, i32>, DumpError> {
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::TargetNsid(namespace));
    let all = inner.with_socket(|socket| socket.dump(RouteNetlinkMessage::GetNsId(message)))?;
    let pair = |message: &NsidMessage| {
        let pick = |pick: fn(&NsidAttribute) -> Option<i32>| message.attributes.iter().find_map(pick);
        let theirs = pick(|attribute| match attribute {
            NsidAttribute::Id(id) => Some(*id),
            _ => None,
        });
        let ours = pick(|attribute| match attribute {
            NsidAttribute::CurrentNsid(id) => Some(*id),
            _ => None,
        });
        theirs.zip(ours)
    };
    Ok(all
        .iter()
        .filter_map(|one| match one {
            RouteNetlinkMessage::NewNsId(message) => pair(message),
            _ => None,
        })
        .collect())
}
