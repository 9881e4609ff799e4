//! Limits and detours: what a link may send, and the queue that what it receives goes through first.
//!
//! A limit is a root tbf whose handle is our mark. A detour is an ingress qdisc with one filter, whose priority is our
//! mark, that redirects every frame to an ifb; the ifb's own limit holds it back, and then it comes in where it came
//! from, so bridge and firewall see nothing of it. The filter is u32, which kernels have had for longest.

use std::collections::BTreeMap;

use netlink_packet_core::{DefaultNla, Nla as _, NlasIterator};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
        TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMirror,
        TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
    },
};
use netloom_api::IfName;
use nix::errno::Errno;

use super::outcome::{done, failed, of_request};
use crate::{
    hostnet::{FailureSort, HostNet, LINK_GROUP, Mark, Outcome, Stack, Tbf},
    kernel::socket::{DumpError, RequestError, RouteSocket, create, replace, request},
};

/// The mark of our qdiscs and filters; it fits into the 16 bits of a handle.
const MARK: u16 = LINK_GROUP as u16;
const INGRESS: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
const PARMS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
/// Any protocol.
const ETH_ALL: u16 = 3;

/// Limits what the link of this index sends; changes a limit of ours without losing what waits in its queue.
pub(super) fn set_limit(socket: &mut RouteSocket, device: &IfName, index: u32, limit: &Tbf) -> Outcome {
    let attributes = vec![TcAttribute::Kind("tbf".into()), TcAttribute::Options(options(limit))];
    let message = qdisc(index, TcHandle::ROOT, TcHandle { major: MARK, minor: 0 }, attributes);
    let set = socket.request_reply(replace(RouteNetlinkMessage::NewQueueDiscipline(message)));
    outcome(device, "tbf", set.map(drop))
}

/// Takes our limit off.
pub(super) fn clear_limit(socket: &mut RouteSocket, device: &IfName, index: u32) -> Outcome {
    let message = qdisc(index, TcHandle::ROOT, TcHandle { major: MARK, minor: 0 }, Vec::new());
    gone(device, socket.request_reply(request(RouteNetlinkMessage::DelQueueDiscipline(message))).map(drop))
}

/// Redirects what the link of this index receives.
pub(super) fn set_detour(socket: &mut RouteSocket, device: &IfName, index: u32, through: u32) -> Outcome {
    // A filter that leads elsewhere goes with its qdisc; frames that come meanwhile pass.
    if let failure @ Outcome::Failed(_) = clear_detour(socket, device, index) {
        return failure;
    }
    let ingress = qdisc(index, TcHandle::INGRESS, INGRESS, vec![TcAttribute::Kind("ingress".into())]);
    let made = socket.request_reply(create(RouteNetlinkMessage::NewQueueDiscipline(ingress)));
    if let failure @ Outcome::Failed(_) = outcome(device, "ingress qdisc", made.map(drop)) {
        return failure;
    }
    let filter = create(RouteNetlinkMessage::NewTrafficFilter(redirect(index, through)));
    outcome(device, "u32 filter with mirred", socket.request_reply(filter).map(drop))
}

/// Ends the detour.
pub(super) fn clear_detour(socket: &mut RouteSocket, device: &IfName, index: u32) -> Outcome {
    let ingress = qdisc(index, TcHandle::INGRESS, INGRESS, Vec::new());
    gone(device, socket.request_reply(request(RouteNetlinkMessage::DelQueueDiscipline(ingress))).map(drop))
}

/// Puts the limits and detours of our links into `net`, which has the links already.
pub(super) fn observe(
    socket: &mut RouteSocket,
    names: &BTreeMap<u32, IfName>,
    net: &mut HostNet,
) -> Result<(), DumpError> {
    for one in socket.dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))? {
        let RouteNetlinkMessage::NewQueueDiscipline(message) = one else { continue };
        let Some((index, device)) = ours(&message, names, net) else { continue };
        let kind = message.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        });
        let TcHandle { major, minor: _ } = message.header.handle;
        if kind == Some("tbf") && major == MARK {
            net.limits.extend(told(&message).map(|limit| (device, limit)));
        } else if kind == Some("ingress") {
            let through = detour(socket, index)?.and_then(|index| names.get(&index).cloned());
            net.detours.extend(through.map(|through| (device, through)));
        }
    }
    Ok(())
}

/// The link of ours that a message is about.
fn ours(message: &TcMessage, names: &BTreeMap<u32, IfName>, net: &HostNet) -> Option<(i32, IfName)> {
    let index = message.header.index;
    let name = names.get(&u32::try_from(index).ok()?)?;
    let link = net.links.get(&(Stack::Host, name.clone()))?;
    (link.mark != Mark::Foreign).then(|| (index, name.clone()))
}

/// The index of the link that our filter redirects to.
fn detour(socket: &mut RouteSocket, index: i32) -> Result<Option<u32>, DumpError> {
    let mut message = TcMessage::with_index(index);
    message.header.parent = INGRESS;
    let filters = socket.dump(RouteNetlinkMessage::GetTrafficFilter(message))?;
    let to = |one: &RouteNetlinkMessage| match one {
        RouteNetlinkMessage::NewTrafficFilter(filter) if filter.header.info >> 16 == u32::from(MARK) => {
            mirred(filter)
        }
        _ => None,
    };
    Ok(filters.iter().find_map(to))
}

pub(super) fn mirred(filter: &TcMessage) -> Option<u32> {
    let options = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let actions = options.iter().find_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    })?;
    let options = actions.iter().flat_map(|action| &action.attributes).find_map(|one| match one {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    options.iter().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror.ifindex),
        _ => None,
    })
}

fn qdisc(index: u32, parent: TcHandle, handle: TcHandle, attributes: Vec<TcAttribute>) -> TcMessage {
    TcMessage::from_parts(header(index, parent, handle), attributes)
}

fn header(index: u32, parent: TcHandle, handle: TcHandle) -> TcHeader {
    TcHeader { index: index.cast_signed(), parent, handle, ..TcHeader::default() }
}

/// The kernel's `tc_tbf_qopt` without a peak rate, and what is too wide for it.
fn options(limit: &Tbf) -> Vec<TcOption> {
    let mut parms = rate_spec(u32::try_from(limit.rate()).unwrap_or(u32::MAX)).to_vec();
    parms.extend_from_slice(&[0; 12]);
    parms.extend_from_slice(&limit.limit().to_ne_bytes());
    // The burst in ticks and the peak's; the burst in bytes comes by itself.
    parms.extend_from_slice(&[0; 8]);
    let option = |kind, bytes: &[u8]| TcOption::Other(DefaultNla::new(kind, bytes.to_vec()));
    vec![
        option(PARMS, &parms),
        option(BURST, &limit.burst().to_ne_bytes()),
        option(RATE64, &limit.rate().to_ne_bytes()),
    ]
}

/// The kernel's `tc_ratespec`; with Ethernet as the link layer no table of rates is needed.
fn rate_spec(rate: u32) -> [u8; 12] {
    const LINK_LAYER_ETHERNET: u8 = 1;
    let [a, b, c, d] = rate.to_ne_bytes();
    [0, LINK_LAYER_ETHERNET, 0, 0, 0, 0, 0, 0, a, b, c, d]
}

/// The limit that a tbf tells; `None` when it is not one that we could have made.
pub(super) fn told(message: &TcMessage) -> Option<Tbf> {
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.first(),
        _ => None,
    })?;
    let TcOption::Other(options) = options else { return None };
    let mut nested = vec![0; options.value_len()];
    options.emit_value(&mut nested);
    let (mut parms, mut wide) = (None, None);
    for nla in NlasIterator::new(nested.as_slice()) {
        let nla = nla.ok()?;
        match nla.kind() {
            PARMS => parms = Some(nla.value().to_vec()),
            RATE64 => wide = Some(u64::from_ne_bytes(nla.value().try_into().ok()?)),
            _ => {}
        }
    }
    let parms = parms?;
    let number = |at: usize| Some(u32::from_ne_bytes(parms.get(at..at + 4)?.try_into().ok()?));
    let (rate, peak, limit, ticks) = (number(8)?, number(20)?, number(24)?, number(28)?);
    (peak == 0).then(|| Tbf::seen(wide.unwrap_or(rate.into()), ticks.into(), limit))
}

/// Every frame goes to the other link.
fn redirect(index: u32, through: u32) -> TcMessage {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = through;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.into()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(selector)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    let mut header = header(index, INGRESS, TcHandle::UNSPEC);
    header.info = u32::from(MARK) << 16 | u32::from(ETH_ALL.to_be());
    TcMessage::from_parts(header, attributes)
}

/// What this kernel was built without stays away however often it is asked for.
fn outcome(device: &IfName, what: &str, result: Result<(), RequestError>) -> Outcome {
    match result {
        Ok(()) => done(),
        Err(RequestError::Kernel(error)) if matches!(error.errno, Errno::ENOENT | Errno::EOPNOTSUPP) => {
            let message =
                format!("{device}: this kernel has no {what}, which a bandwidth limit needs ({error})");
            failed(Some(error.errno), message, FailureSort::Final)
        }
        Err(error) => of_request(device, &error),
    }
}

/// What is not there is gone. That the device is not there has to be seen.
fn gone(device: &IfName, result: Result<(), RequestError>) -> Outcome {
    match result {
        Err(RequestError::Kernel(error)) if matches!(error.errno, Errno::ENOENT | Errno::EINVAL) => done(),
        Ok(()) => done(),
        Err(error) => of_request(device, &error),
    }
}
