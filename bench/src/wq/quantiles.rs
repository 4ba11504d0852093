// SPDX-License-Identifier: MIT OR Apache-2.0
//! Quantiles of times, from a histogram that grows with what it is given.

use hdrhistogram::Histogram;
use std::time::Duration;

/// Times in nanoseconds, to three digits.
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new(3).expect("3 digits are few enough"))
    }
}

impl Times {
    /// Adds one. Not the histogram's saturating call: that one never grows, and a new histogram
    /// ends at 2.
    pub fn add(&mut self, ns: u64) {
        self.0.record(ns).expect("it grows to any value");
    }

    /// p50 and p99, in units of `unit`.
    pub fn p50_p99(&self, unit: Duration) -> [f64; 2] {
        [0.5, 0.99].map(|q| self.0.value_at_quantile(q) as f64 / unit.as_nanos() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_come_out_as_they_went_in() {
        let mut times = Times::default();
        (1..=1000).for_each(|us| times.add(us * 1000));
        let [p50, p99] = times.p50_p99(Duration::from_micros(1));
        assert!((p50 - 500.0).abs() < 1.0, "{p50}");
        assert!((p99 - 990.0).abs() < 1.0, "{p99}");
    }

    #[test]
    fn a_time_of_hours_is_not_cut() {
        let mut times = Times::default();
        times.add(7_200_000_000_000);
        let [p50, _] = times.p50_p99(Duration::from_secs(1));
        assert!((p50 - 7200.0).abs() < 8.0, "{p50}");
    }
}
