//! A token bucket filter, as the kernel keeps it.
//!
//! The kernel takes a burst in bytes, keeps it as the time that it takes at the rate, in ticks of 64 ns, and tells only
//! the ticks. So that what is wanted and what is observed can be equal, a [`Tbf`] holds the smallest burst that the
//! kernel cannot tell from the one that was asked for.

use std::fmt;

/// Frames are sent at this rate, and as many bytes at once as a pause has saved up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tbf {
    rate: u64,
    burst: u32,
    limit: u32,
}

/// How long a frame may wait in the queue, in milliseconds, when it is longer than ten frames.
const WAIT: u64 = 50;
/// The kernel's unit of time for queues is `1 << TICK` nanoseconds.
const TICK: u32 = 6;

impl Tbf {
    /// For `rate` bytes per second and frames of at most `frame` bytes. The queue behind the bucket holds 50 ms of the
    /// rate, at least ten frames.
    pub fn new(rate: u64, burst: u32, frame: u32) -> Self {
        let queue = u32::try_from(rate.saturating_mul(WAIT) / 1000).unwrap_or(u32::MAX);
        let limit = queue.max(frame.saturating_mul(10)).saturating_add(burst).min(i32::MAX.cast_unsigned());
        Self::seen(rate, ticks(rate, burst), limit)
    }

    /// As the kernel tells of it: bytes per second, ticks of a full bucket, bytes of the queue.
    pub fn seen(rate: u64, ticks: u64, limit: u32) -> Self {
        let (factor, shift) = conversion(rate);
        let least = (u128::from(ticks) << TICK << shift).div_ceil(u128::from(factor));
        Self { rate, burst: u32::try_from(least).unwrap_or(u32::MAX), limit }
    }

    /// In bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// In bytes.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Of the queue, in bytes.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

/// How long so many bytes take, as the kernel counts it.
fn ticks(rate: u64, bytes: u32) -> u64 {
    let (factor, shift) = conversion(rate);
    ((u64::from(bytes) * factor) >> shift) >> TICK
}

/// The kernel's `psched_ratecfg_precompute`: nanoseconds are bytes times the factor, shifted.
fn conversion(rate: u64) -> (u64, u32) {
    let rate = rate.max(1);
    let (mut factor, mut shift) = (1_000_000_000_u64, 0);
    loop {
        let multiplier = factor / rate;
        if multiplier & (1 << 31) != 0 || factor & (1 << 63) != 0 {
            return (multiplier.max(1), shift);
        }
        factor <<= 1;
        shift += 1;
    }
}

/// As `tc` takes it.
impl fmt::Display for Tbf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, burst, limit } = self;
        write!(f, "tbf rate {}bit burst {burst} limit {limit}", u128::from(*rate) * 8)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_the_kernel_tells_of_a_limit_is_the_limit(
            rate in 1_000..=125_000_000_000_u64, burst in 590..=(256_u32 << 20), frame in 590..=65_549_u32,
        ) {
            let wanted = Tbf::new(rate, burst, frame);
            let told = Tbf::seen(rate, ticks(rate, wanted.burst()), wanted.limit());
            prop_assert_eq!(wanted, told);
            prop_assert!(wanted.burst() <= burst);
            prop_assert!(u64::from(burst - wanted.burst()) <= 1 + rate / 15_625_000);
        }
    }

    #[test]
    fn a_limit_reads_as_tc_takes_it() {
        let text = Tbf::new(1_250_000, 15_140, 1514).to_string();
        assert_eq!(text, "tbf rate 10000000bit burst 15140 limit 77640");
    }
}
