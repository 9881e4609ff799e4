//! Allocation: one used address. Read only.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, address, parse},
    ids::Uid,
    object::Kind,
    pb,
    problem::Violations,
    text::Name,
    time::Timestamp,
};

/// One used address of a Network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Allocation {
    /// `<network>@<address>`.
    pub name: String,
    /// Of which Network.
    pub network: Name,
    /// Which address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Who has it.
    pub holder: Holder,
    /// Since when.
    pub since: Timestamp,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Holder {
    /// Network (its gateway), Attachment or Reservation.
    pub kind: Kind,
    /// The object's name.
    pub name: Name,
    /// The object's identity.
    pub uid: Uid,
}

impl FromPb<pb::Allocation> for Allocation {
    fn from_pb(message: pb::Allocation, at: &Path) -> Result<Self, Violations> {
        let pb::Allocation { name, network, address: text, holder, since } = message;
        let pb::Holder { kind, name: holder_name, uid } = holder.unwrap_or_default();
        let here = at.field("holder");
        let holder = Holder {
            kind: parse(&kind, &here.field("kind"))?,
            name: parse(&holder_name, &here.field("name"))?,
            uid: parse(&uid, &here.field("uid"))?,
        };
        let network = parse(&network, &at.field("network"))?;
        let since = since.unwrap_or_default().into();
        Ok(Self { name, network, address: address(&text, &at.field("address"))?, holder, since })
    }
}

impl ToPb<pb::Allocation> for Allocation {
    fn to_pb(&self) -> pb::Allocation {
        let Self { name, network, address, holder: Holder { kind, name: holder, uid }, since } = self;
        pb::Allocation {
            name: name.clone(),
            network: network.to_string(),
            address: address.to_string(),
            holder: Some(pb::Holder {
                kind: kind.to_string(),
                name: holder.to_string(),
                uid: uid.to_string(),
            }),
            since: Some((*since).into()),
        }
    }
}
