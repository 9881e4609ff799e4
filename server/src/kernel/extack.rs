//! What the kernel said when it refused a request: the errno, the request in short, and the text of the
//! extended acknowledgement ("Nexthop has invalid gateway"), which often is the only part that helps.
//!
//! The upstream crates do not decode extended acknowledgements; [`Refusal`] does, from the raw bytes of an
//! `NLMSG_ERROR` payload or of the trailer of an `NLMSG_DONE`.

use std::fmt;

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use nix::errno::Errno;

/// A request that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// Why, as the kernel codes it.
    pub errno: Errno,
    /// What was asked for, in short: `RTM_NEWLINK nl0123456789`.
    pub operation: String,
    /// The extended acknowledgement, where the kernel gave one.
    pub extack: Option<String>,
}

/// The answer of the kernel to one request, decoded: `errno` is `None` for an acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `None`: the request was done.
    pub errno: Option<Errno>,
    /// The text; also a warning that came with a success.
    pub extack: Option<String>,
}

/// Length of the `nlmsghdr` that an error answer carries back.
const HEADER: usize = 16;
/// Length of the error code in front of it.
const CODE: usize = 4;
/// The kernel's own, not meant for user space, but drivers let it out; it means EOPNOTSUPP.
const ENOTSUPP: i32 = 524;

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { errno, operation, extack } = self;
        // Errno's Debug is its symbolic name.
        write!(f, "{operation}: {} ({errno:?})", errno.desc())?;
        match extack {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for KernelError {}

impl Refusal {
    /// Decodes the payload of an `NLMSG_ERROR` message whose header has these flags. `None`: too short to be
    /// one, so the answer is unknown.
    pub fn of_error(flags: u16, payload: &[u8]) -> Option<Self> {
        let (code, rest) = payload.split_first_chunk::<CODE>()?;
        let length = rest.first_chunk::<4>().map_or(HEADER, |bytes| u32::from_ne_bytes(*bytes) as usize);
        // Unless capped, the whole refused request comes back in front of the attributes.
        let skipped = if flags & NLM_F_CAPPED == 0 { length.next_multiple_of(4).max(HEADER) } else { HEADER };
        let attributes = if flags & NLM_F_ACK_TLVS == 0 { None } else { rest.get(skipped..) };
        Some(Self::new(i32::from_ne_bytes(*code), attributes.unwrap_or_default()))
    }

    /// From a (negative) error code and the bytes of the extended acknowledgement.
    pub fn new(code: i32, attributes: &[u8]) -> Self {
        let raw = code.saturating_neg();
        let errno = match raw {
            0 => None,
            ENOTSUPP => Some(Errno::EOPNOTSUPP),
            raw => Some(Errno::from_raw(raw)),
        };
        let number = || (errno == Some(Errno::UnknownErrno)).then(|| format!("errno {raw}"));
        Self { errno, extack: text(attributes).or_else(number) }
    }

    /// The refusal as an error of this operation, or `Ok` for an acknowledgement.
    pub fn into_result(self, operation: impl FnOnce() -> String) -> Result<(), KernelError> {
        match self.errno {
            None => Ok(()),
            Some(errno) => Err(KernelError { errno, operation: operation(), extack: self.extack }),
        }
    }
}

/// The request in short, for errors: its type and what it is about.
pub fn describe(message: &RouteNetlinkMessage) -> String {
    use RouteNetlinkMessage as M;
    match message {
        M::NewLink(link) => format!("RTM_NEWLINK {}", link_subject(link)),
        M::DelLink(link) => format!("RTM_DELLINK {}", link_subject(link)),
        M::GetLink(link) => format!("RTM_GETLINK {}", link_subject(link)),
        M::SetLink(link) => format!("RTM_SETLINK {}", link_subject(link)),
        M::NewAddress(address) => format!("RTM_NEWADDR {}", address_subject(address)),
        M::DelAddress(address) => format!("RTM_DELADDR {}", address_subject(address)),
        M::GetAddress(address) => format!("RTM_GETADDR {}", address_subject(address)),
        M::NewRoute(route) => format!("RTM_NEWROUTE {}", route_subject(route)),
        M::DelRoute(route) => format!("RTM_DELROUTE {}", route_subject(route)),
        M::GetRoute(route) => format!("RTM_GETROUTE {}", route_subject(route)),
        M::NewNeighbour(entry) => format!("RTM_NEWNEIGH on interface {}", entry.header.ifindex),
        M::DelNeighbour(entry) => format!("RTM_DELNEIGH on interface {}", entry.header.ifindex),
        M::GetNeighbour(entry) => format!("RTM_GETNEIGH on interface {}", entry.header.ifindex),
        M::NewNsId(_) => "RTM_NEWNSID".to_owned(),
        M::DelNsId(_) => "RTM_DELNSID".to_owned(),
        M::GetNsId(_) => "RTM_GETNSID".to_owned(),
        M::NewRule(_) => "RTM_NEWRULE".to_owned(),
        M::DelRule(_) => "RTM_DELRULE".to_owned(),
        M::GetRule(_) => "RTM_GETRULE".to_owned(),
        M::NewQueueDiscipline(tc) => format!("RTM_NEWQDISC on interface {}", tc.header.index),
        M::DelQueueDiscipline(tc) => format!("RTM_DELQDISC on interface {}", tc.header.index),
        M::NewTrafficFilter(tc) => format!("RTM_NEWTFILTER on interface {}", tc.header.index),
        M::DelTrafficFilter(tc) => format!("RTM_DELTFILTER on interface {}", tc.header.index),
        other => format!("netlink request {}", netlink_packet_core::NetlinkSerializable::message_type(other)),
    }
}

fn link_subject(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    let index = link.header.index;
    match name {
        Some(name) => name,
        None if index == 0 => "of all".to_owned(),
        None => format!("#{index}"),
    }
}

fn address_subject(message: &AddressMessage) -> String {
    let (prefix, index) = (message.header.prefix_len, message.header.index);
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    match address {
        Some(address) => format!("{address}/{prefix} on interface {index}"),
        None => format!("on interface {index}"),
    }
}

fn route_subject(route: &RouteMessage) -> String {
    let prefix = route.header.destination_prefix_length;
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(format!("{address}/{prefix}")),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(format!("{address}/{prefix}")),
        _ => None,
    });
    destination.unwrap_or_else(|| "default".to_owned())
}

/// The text of an extended acknowledgement; where it has none, the attribute that it points at.
fn text(attributes: &[u8]) -> Option<String> {
    let mut offset = None;
    let mut missing = None;
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        let value = attribute.value();
        let number = || value.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes));
        match attribute.kind() {
            NLMSGERR_ATTR_MSG => return Some(printable(value)),
            NLMSGERR_ATTR_OFFS => offset = number(),
            NLMSGERR_ATTR_MISS_TYPE => missing = number(),
            _ => {}
        }
    }
    let missing = missing.map(|kind| format!("attribute {kind} is missing"));
    missing.or_else(|| offset.map(|at| format!("the attribute at byte {at} of the request is not accepted")))
}

// From linux/netlink.h; the last one is there since Linux 6.1.
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;
const NLMSGERR_ATTR_MISS_TYPE: u16 = 5;

/// Kernel texts end in NUL; whatever else would disturb a log line is replaced.
fn printable(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    String::from_utf8_lossy(bytes).chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_refusal_reads_like_a_sentence() {
        let error = KernelError {
            errno: Errno::ENETUNREACH,
            operation: "RTM_NEWROUTE 10.0.0.0/8".into(),
            extack: Some("Nexthop has invalid gateway".into()),
        };
        let expected =
            "RTM_NEWROUTE 10.0.0.0/8: Network is unreachable (ENETUNREACH): Nexthop has invalid gateway";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_text_is_found_behind_a_capped_and_behind_a_whole_request() {
        let text = attribute(1, b"mtu less than device minimum\0");
        for (flags, request) in [(NLM_F_ACK_TLVS | NLM_F_CAPPED, 16_usize), (NLM_F_ACK_TLVS, 42)] {
            let mut payload = (-22_i32).to_ne_bytes().to_vec();
            payload.extend((if request == 16 { 999_u32 } else { 42 }).to_ne_bytes());
            payload.resize(4 + request.next_multiple_of(4), 0);
            payload.extend(&text);
            let refusal = Refusal::of_error(flags, &payload).unwrap();
            assert_eq!(refusal.errno, Some(Errno::EINVAL));
            assert_eq!(refusal.extack.as_deref(), Some("mtu less than device minimum"));
        }
    }

    #[test]
    fn damaged_answers_are_unknown_or_textless_but_never_a_panic() {
        assert_eq!(Refusal::of_error(0, &[1, 2]), None);
        for length in 4..40 {
            let payload: Vec<u8> = std::iter::repeat_n(0xff, length).collect();
            for flags in [0, NLM_F_ACK_TLVS, NLM_F_ACK_TLVS | NLM_F_CAPPED] {
                assert!(Refusal::of_error(flags, &payload).is_some());
            }
        }
        assert_eq!(Refusal::new(i32::MIN, &[]).errno, Some(Errno::UnknownErrno));
    }

    #[test]
    fn codes_without_a_name_are_not_lost() {
        assert_eq!(Refusal::new(-524, &[]), Refusal { errno: Some(Errno::EOPNOTSUPP), extack: None });
        let unnamed = Refusal::new(-517, &[]);
        assert_eq!(unnamed.errno, Some(Errno::UnknownErrno));
        assert_eq!(unnamed.extack.as_deref(), Some("errno 517"));
    }

    #[test]
    fn without_a_text_the_culprit_is_named() {
        let missing = attribute(5, &7_u32.to_ne_bytes());
        assert_eq!(Refusal::new(-22, &missing).extack.as_deref(), Some("attribute 7 is missing"));
        assert_eq!(Refusal::new(0, &[]), Refusal { errno: None, extack: None });
    }
}
