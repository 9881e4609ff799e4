//! Bandwidth: how fast an Attachment may be.
//!
//! The words are the attachment's own: *ingress* is towards it, what it receives; *egress* is from it, what it sends.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    convert::{FromPb, Path, ToPb},
    pb,
    problem::Violations,
};

/// Bits per second: one byte in a millisecond. Less would keep a single frame of 1 500 bytes for more than 1.5 s.
pub const RATE_MIN: u64 = 8_000;
/// Bits per second: more than any wire has, and still exact as a JSON number.
pub const RATE_MAX: u64 = 1_000_000_000_000;
/// Bytes: what memory a full bucket may stand for.
pub const BURST_MAX: u32 = 256 << 20;
/// The smallest MTU and the header of a frame.
const BURST_MIN: u32 = 576 + FRAME_HEADER;
/// Seconds: the kernel counts a bucket in units of 64 ns, in 32 bits.
const BURST_SECONDS_MAX: u64 = 240;
/// What Ethernet adds to the MTU. A frame counts with it.
pub const FRAME_HEADER: u32 = 14;

/// Limits of an Attachment's traffic, each direction for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// Towards the attachment: what it receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<RateLimit>,
    /// From the attachment: what it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<RateLimit>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Bits per second, headers of layer 2 included; 8000 (8 kbit/s) to 10^12 (1 Tbit/s).
    #[schema(minimum = 8_000, maximum = 1_000_000_000_000_i64)]
    pub rate: u64,
    /// Bytes that may pass at once after a pause; at least one frame of the MTU. Unset: 10 ms of the rate, at least ten
    /// frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 590, maximum = 268_435_456)]
    pub burst: Option<u32>,
}

impl Bandwidth {
    /// Both directions, by the names of their fields.
    pub fn directions(&self) -> [(&'static str, Option<RateLimit>); 2] {
        [("ingress", self.ingress), ("egress", self.egress)]
    }

    /// The limits as they are for frames of this MTU: every burst is named.
    pub fn effective(&self, mtu: u16) -> Self {
        let named = |limit: RateLimit| RateLimit { burst: Some(limit.burst_for(mtu)), ..limit };
        Self { ingress: self.ingress.map(named), egress: self.egress.map(named) }
    }

    pub(crate) fn check(&self, at: &Path, wrong: &mut Violations) {
        for (direction, limit) in self.directions() {
            if let Some(limit) = limit {
                limit.check(&at.field(direction), wrong);
            }
        }
    }
}

impl RateLimit {
    /// The burst in effect for frames of this MTU.
    pub fn burst_for(&self, mtu: u16) -> u32 {
        let frame = u32::from(mtu) + FRAME_HEADER;
        let bytes_in = |seconds: u64, parts: u64| {
            u32::try_from((self.rate / 8).saturating_mul(seconds) / parts).unwrap_or(BURST_MAX).min(BURST_MAX)
        };
        let chosen = || bytes_in(1, 100).max(10 * frame).min(bytes_in(BURST_SECONDS_MAX, 1));
        // A frame that does not fit into the bucket would never pass.
        self.burst.unwrap_or_else(chosen).max(frame)
    }

    fn check(&self, at: &Path, wrong: &mut Violations) {
        let Self { rate, burst } = self;
        if !(RATE_MIN..=RATE_MAX).contains(rate) {
            let reason =
                format!("{rate} bit/s is not between {RATE_MIN} (8 kbit/s) and {RATE_MAX} (1 Tbit/s)");
            wrong.add(at.field("rate").to_string(), reason);
        }
        let Some(burst) = burst else { return };
        let at = at.field("burst").to_string();
        if !(BURST_MIN..=BURST_MAX).contains(burst) {
            wrong.add(at, format!("{burst} bytes is not between {BURST_MIN} and {BURST_MAX} (256 MiB)"));
        } else if u64::from(*burst) > (rate / 8).saturating_mul(BURST_SECONDS_MAX) {
            let reason =
                format!("{burst} bytes take longer than {BURST_SECONDS_MAX} s at this rate; make it smaller");
            wrong.add(at, reason);
        }
    }
}

impl FromPb<pb::Bandwidth> for Bandwidth {
    fn from_pb(message: pb::Bandwidth, at: &Path) -> Result<Self, Violations> {
        let pb::Bandwidth { ingress, egress } = message;
        let limit = |limit: Option<pb::RateLimit>, field: &'static str| {
            limit.map(|limit| RateLimit::from_pb(limit, &at.field(field))).transpose()
        };
        Ok(Self { ingress: limit(ingress, "ingress")?, egress: limit(egress, "egress")? })
    }
}

impl ToPb<pb::Bandwidth> for Bandwidth {
    fn to_pb(&self) -> pb::Bandwidth {
        let Self { ingress, egress } = self;
        pb::Bandwidth { ingress: ingress.as_ref().map(ToPb::to_pb), egress: egress.as_ref().map(ToPb::to_pb) }
    }
}

impl FromPb<pb::RateLimit> for RateLimit {
    fn from_pb(message: pb::RateLimit, _at: &Path) -> Result<Self, Violations> {
        let pb::RateLimit { rate, burst } = message;
        Ok(Self { rate, burst })
    }
}

impl ToPb<pb::RateLimit> for RateLimit {
    fn to_pb(&self) -> pb::RateLimit {
        let Self { rate, burst } = self;
        pb::RateLimit { rate: *rate, burst: *burst }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_that_is_not_named_is_ten_milliseconds_and_at_least_ten_frames() {
        let burst = |rate, mtu| RateLimit { rate, burst: None }.burst_for(mtu);
        assert_eq!(burst(1_000_000_000, 1500), 1_250_000);
        assert_eq!(burst(1_000_000, 1500), 15_140);
        assert_eq!(burst(RATE_MAX, 1500), BURST_MAX);
    }
}
