//! Durations into rows of a table.

use std::time::Duration;

/// Times of one thing, in the order they were taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(Vec<f64>);

impl Times {
    pub(super) fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1000.0);
    }

    pub(super) fn extend(&mut self, Self(others): Self) {
        self.0.extend(others);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn median(&self) -> f64 {
        quantile(&self.0, 0.5)
    }

    pub(super) fn p99(&self) -> f64 {
        quantile(&self.0, 0.99)
    }

    /// The median of the first `count`.
    pub(super) fn first(&self, count: usize) -> f64 {
        quantile(&self.0[..count.min(self.0.len())], 0.5)
    }

    /// The median of the last `count`.
    pub(super) fn last(&self, count: usize) -> f64 {
        quantile(&self.0[self.0.len().saturating_sub(count)..], 0.5)
    }
}

/// The value below which this share of all lies; nearest rank.
fn quantile(times: &[f64], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.5), 50.0);
        assert_eq!(quantile(&hundred, 0.99), 99.0);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
