//! Reservation: an address of a Network that is never given out.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb, address, all, optional, required},
    object::{Kind, Noun, Status},
    pb,
    problem::Violations,
    text::{Name, Note},
};

/// An address of a Network that is never given out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reservation;

/// What is wanted of a Reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReservationSpec {
    /// Which Network. Immutable.
    pub network: Name,
    /// Which address. Unset: chosen. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// What for; free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
}

/// What is known of a Reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReservationStatus {
    /// The address that is kept back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
}

impl Noun for Reservation {
    const KIND: Kind = Kind::Reservation;
    type Spec = ReservationSpec;
    type Status = ReservationStatus;

    fn validate(_spec: &ReservationSpec, _at: &Path) -> Result<(), Violations> {
        Ok(())
    }
}

impl FromPb<pb::ReservationSpec> for ReservationSpec {
    fn from_pb(message: pb::ReservationSpec, at: &Path) -> Result<Self, Violations> {
        let pb::ReservationSpec { network, address: wanted, note } = message;
        Ok(Self {
            network: required(&network, &at.field("network"))?,
            address: wanted.map(|text| address(&text, &at.field("address"))).transpose()?,
            note: optional(note, &at.field("note"))?,
        })
    }
}

impl ToPb<pb::ReservationSpec> for ReservationSpec {
    fn to_pb(&self) -> pb::ReservationSpec {
        let Self { network, address, note } = self;
        pb::ReservationSpec {
            network: network.to_string(),
            address: address.as_ref().map(IpAddr::to_string),
            note: note.as_ref().map(Note::to_string),
        }
    }
}

impl FromPb<pb::ReservationStatus> for Status<ReservationStatus> {
    fn from_pb(message: pb::ReservationStatus, at: &Path) -> Result<Self, Violations> {
        let pb::ReservationStatus { observed_generation, conditions, address: held } = message;
        let address = held.map(|text| address(&text, &at.field("address"))).transpose()?;
        Status::read(observed_generation, conditions, ReservationStatus { address }, at)
    }
}

impl ToPb<pb::ReservationStatus> for Status<ReservationStatus> {
    fn to_pb(&self) -> pb::ReservationStatus {
        let Status { observed_generation, conditions, noun: ReservationStatus { address } } = self;
        pb::ReservationStatus {
            observed_generation: *observed_generation,
            conditions: all(conditions),
            address: address.as_ref().map(IpAddr::to_string),
        }
    }
}

crate::envelope::envelope!(Reservation, reservation);
