// SPDX-License-Identifier: MIT OR Apache-2.0
//! Histograms with a fixed relative resolution, recorded by any thread without a lock and without
//! allocating.
//!
//! Each power of two has 16 buckets, so a bucket is at most 1/16 of its values wide, from 16 ns to 18
//! minutes. Below, each value has its own bucket. This is the layout of HdrHistogram with four bits
//! of precision.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

/// Buckets per power of two, as a power of two.
const BITS: u32 = 4;
/// Values from 2^LARGEST on share the last bucket.
const LARGEST: u32 = 40;
const BUCKETS: usize = ((LARGEST - BITS + 1) << BITS) as usize;

fn bucket(value: u64) -> usize {
    let value = value.min((1 << LARGEST) - 1);
    let magnitude = u64::BITS - value.leading_zeros();
    if magnitude <= BITS + 1 {
        return value as usize;
    }
    let shift = magnitude - BITS - 1;
    ((shift as usize) << BITS) + (value >> shift) as usize
}

/// The largest value that falls into a bucket.
fn upper(bucket: usize) -> u64 {
    let (row, column) = (bucket >> BITS, (bucket & ((1 << BITS) - 1)) as u64);
    match row {
        0 => column,
        row => ((column + (1 << BITS) + 1) << (row - 1)) - 1,
    }
}

/// A histogram that is being recorded.
#[derive(Debug)]
pub struct AtomicHistogram {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Default for AtomicHistogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }
}

impl AtomicHistogram {
    /// Records one value.
    pub fn record(&self, value: u64) {
        self.buckets[bucket(value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// The histogram at present.
    pub fn snapshot(&self) -> Histogram {
        let counts = self.buckets.iter().enumerate();
        Histogram {
            buckets: counts
                .map(|(n, count)| (upper(n), count.load(Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            sum: self.sum.load(Relaxed),
        }
    }
}

/// A histogram at one moment.
///
/// As JSON it also has `count` and, in nanoseconds, `mean_ns`, `p50_ns`, `p90_ns`, `p99_ns`, `p999_ns`
/// and `max_ns`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Histogram {
    /// The largest value of each bucket that has any, and how many it has; in ascending order.
    pub buckets: Vec<(u64, u64)>,
    /// All values together.
    pub sum: u64,
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_struct("Histogram", 9)?;
        fields.serialize_field("buckets", &self.buckets)?;
        fields.serialize_field("sum", &self.sum)?;
        fields.serialize_field("count", &self.count())?;
        fields.serialize_field("mean_ns", &self.mean())?;
        for (name, of_1000) in [
            ("p50_ns", 500),
            ("p90_ns", 900),
            ("p99_ns", 990),
            ("p999_ns", 999),
        ] {
            fields.serialize_field(name, &self.permille(of_1000))?;
        }
        fields.serialize_field("max_ns", &self.max())?;
        fields.end()
    }
}

impl Histogram {
    /// The number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// The mean, 0 without values.
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count()).unwrap_or(0)
    }

    /// The value that `of_1000` of 1000 values do not exceed, at most 1/16 too large. None if nothing
    /// was recorded.
    pub fn permille(&self, of_1000: u64) -> Option<u64> {
        let count = self.count();
        let rank = (count * of_1000).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= rank
        });
        found.map(|(upper, _)| *upper)
    }

    /// The largest value, at most 1/16 too large.
    pub fn max(&self) -> Option<u64> {
        self.buckets.last().map(|(upper, _)| *upper)
    }

    /// Adds the values of another histogram.
    pub fn add(&mut self, other: &Histogram) {
        self.change(other, u64::wrapping_add);
    }

    /// The values recorded since an earlier snapshot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut now = self.clone();
        now.change(earlier, u64::saturating_sub);
        now.buckets.retain(|(_, count)| *count > 0);
        now
    }

    fn change(&mut self, other: &Histogram, how: impl Fn(u64, u64) -> u64) {
        for (upper, count) in &other.buckets {
            match self.buckets.binary_search_by_key(upper, |bucket| bucket.0) {
                Ok(at) => self.buckets[at].1 = how(self.buckets[at].1, *count),
                Err(at) => self.buckets.insert(at, (*upper, how(0, *count))),
            }
        }
        self.sum = how(self.sum, other.sum);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn k02_each_value_lies_in_its_bucket_and_the_bucket_is_narrow() {
        let mut last = 0;
        for shift in 0..LARGEST {
            for part in 0..64 {
                let value = (1u64 << shift) + ((part << shift) >> 6);
                let (at, top) = (bucket(value), upper(bucket(value)));
                assert!(at >= last && at < BUCKETS, "{value}");
                assert!(top >= value && top - value <= value / 16, "{value}: {top}");
                assert!(at == 0 || upper(at - 1) < value, "{value}");
                last = at;
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(
            (0..40).map(|v| upper(bucket(v))).collect::<Vec<_>>()[..33],
            (0..33)
                .map(|v| if v < 32 { v } else { 33 })
                .collect::<Vec<_>>()[..]
        );
    }

    #[test]
    fn k02_percentiles_differences_and_sums() {
        let recorded = AtomicHistogram::default();
        (1..=1000).for_each(|value| recorded.record(value));
        let first = recorded.snapshot();
        let near = |found: Option<u64>, value: u64| {
            let found = found.expect("there are values");
            assert!(
                (value..=value + value / 16).contains(&found),
                "{found}, {value}"
            );
        };
        near(first.permille(500), 500);
        near(first.permille(990), 990);
        near(first.max(), 1000);
        assert_eq!((first.count(), first.mean()), (1000, 500));
        recorded.record(1 << 20);
        let later = recorded.snapshot().since(&first);
        assert_eq!(later.count(), 1);
        near(later.permille(500), 1 << 20);
        let mut both = first.clone();
        both.add(&later);
        assert_eq!(both, recorded.snapshot());
        assert_eq!(Histogram::default().permille(500), None);
        assert_eq!(Histogram::default().mean(), 0);
    }
}
