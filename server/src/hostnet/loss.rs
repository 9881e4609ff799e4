//! What was seen to leave the kernel. Whether it was to stay only the World knows: most losses are our own doing.

use ipnet::IpNet;
use netloom_api::Uid;

/// Something of ours that is not there any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// A link of this object is gone or down, has another name or is a port of another bridge.
    Link(Uid),
    /// A link of this object has lost this address.
    Address(Uid, IpNet),
    /// A route of ours by a link of this object, to this prefix.
    Route(Uid, IpNet),
    /// It is not known what: everything must be looked at.
    Unknown,
}

impl Loss {
    /// Whose link it was.
    pub fn uid(&self) -> Option<Uid> {
        match self {
            Loss::Link(uid) | Loss::Address(uid, _) | Loss::Route(uid, _) => Some(*uid),
            Loss::Unknown => None,
        }
    }
}
