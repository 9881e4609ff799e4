//! What was seen to leave the kernel. Whether it was to stay only the World knows: most losses are our own doing.

use ipnet::IpNet;
use netloom_api::{Mac, Name, Uid};

/// Something of ours that is not there any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// A link of this object is gone or down, has another name or is a port of another bridge.
    Link(Uid),
    /// A link of this object has lost this address.
    Address(Uid, IpNet),
    /// A link of this object is not what it was.
    Shape(Uid, Shape),
    /// A route of ours to this prefix; by a link of this object, if it went by one of ours.
    Route(Option<Uid>, IpNet),
    /// Somebody has switched forwarding on a link of this object; without one, on the host's own links.
    Forwarding(Option<Uid>, Forwarding),
    /// This name of a namespace is gone.
    Namespace(Name),
    /// Somebody else has changed our firewall.
    Rules,
    /// It is not known what: everything must be looked at.
    Unknown,
}

impl Loss {
    /// Whose link it was.
    pub fn uid(&self) -> Option<Uid> {
        match self {
            Loss::Link(uid) | Loss::Address(uid, _) | Loss::Shape(uid, _) => Some(*uid),
            Loss::Route(uid, _) | Loss::Forwarding(uid, _) => *uid,
            Loss::Namespace(_) | Loss::Rules | Loss::Unknown => None,
        }
    }
}

/// What others may change of a link that stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Its name.
    pub name: String,
    /// In bytes.
    pub mtu: u32,
    /// Its MAC address.
    pub mac: Option<Mac>,
}

/// How forwarding stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forwarding {
    /// Of IPv6, not of IPv4.
    pub ipv6: bool,
    /// On.
    pub on: bool,
}
