//! Moments, as RFC 3339 text in JSON and as `google.protobuf.Timestamp` on gRPC.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{KnownFormat, SchemaFormat};

use crate::schema::text_schema;

text_schema!(Timestamp, |text| text.format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))));

/// A moment in UTC with microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// From microseconds since 1970; what cannot be told becomes the nearest that can.
    pub fn from_micros(micros: i64) -> Self {
        let bound = if micros < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        Self(jiff::Timestamp::from_microsecond(micros).unwrap_or(bound))
    }

    /// Microseconds since 1970.
    pub fn as_micros(&self) -> i64 {
        self.0.as_microsecond()
    }

    /// The clock's moment, cut to microseconds so that it survives the database.
    pub fn now() -> Self {
        Self::from_micros(jiff::Timestamp::now().as_microsecond())
    }
}

impl std::str::FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let moment: jiff::Timestamp = text.parse().map_err(|_| "is no time like 2027-01-31T00:00:00Z")?;
        Ok(Self::from_micros(moment.as_microsecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Timestamp> for prost_types::Timestamp {
    fn from(at: Timestamp) -> Self {
        let micros = at.as_micros();
        let nanos = micros.rem_euclid(1_000_000) * 1_000;
        Self { seconds: micros.div_euclid(1_000_000), nanos: i32::try_from(nanos).unwrap_or_default() }
    }
}

impl From<prost_types::Timestamp> for Timestamp {
    fn from(at: prost_types::Timestamp) -> Self {
        Self::from_micros(at.seconds.saturating_mul(1_000_000).saturating_add(i64::from(at.nanos) / 1_000))
    }
}
