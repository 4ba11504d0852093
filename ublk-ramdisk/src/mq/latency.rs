// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long requests take from their arrival to the moment their result is handed out (K2).
//!
//! To look at the clock twice costs about as much as all else that the mirror does with a request,
//! so by default each 16th arrival of a submitter is timed, whatever becomes of it; a batch looks
//! once. `--latency-sample` says how many are. Kernel counterpart: the `diskstats` times, which the
//! block layer keeps likewise from start to end.

use super::request::Op;
use crate::histogram::{AtomicHistogram, Histogram};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One arrival of this many is timed by default.
pub const TIMED_OF: u32 = 16;
/// The largest such number that can be asked for.
pub const LEAST_TIMED_OF: u32 = 1 << 16;

/// Which arrivals are timed: those whose number has none of these bits; none at all if all are set.
#[derive(Debug)]
pub(super) struct Sampling(AtomicU64);

impl Default for Sampling {
    fn default() -> Self {
        Self(AtomicU64::new(u64::from(TIMED_OF - 1)))
    }
}

impl Sampling {
    /// Times one arrival of `arrivals`, rounded up to a power of two; 0 for none.
    pub(super) fn set(&self, arrivals: u32) {
        let mask = match arrivals {
            0 => u64::MAX,
            n => u64::from(n).next_power_of_two() - 1,
        };
        self.0.store(mask, Relaxed);
    }

    /// One of how many arrivals is timed; 0 if none is.
    pub(super) fn get(&self) -> u32 {
        match self.0.load(Relaxed) {
            u64::MAX => 0,
            mask => mask as u32 + 1,
        }
    }

    /// True if one of `count` arrivals is timed, whose numbers begin with `first`.
    #[inline]
    pub(super) fn has(&self, first: u64, count: u32) -> bool {
        let mask = self.0.load(Relaxed);
        // The next multiple of mask + 1, from `first` on, is within.
        mask != u64::MAX && first.wrapping_neg() & mask < u64::from(count)
    }
}

/// One histogram per operation, of one hardware queue.
#[derive(Debug, Default)]
pub(super) struct Latencies([AtomicHistogram; 5]);

/// The times of one hardware queue's requests in nanoseconds, by operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LatencyStats {
    /// READ.
    pub read: Histogram,
    /// WRITE.
    pub write: Histogram,
    /// FLUSH.
    pub flush: Histogram,
    /// DISCARD.
    pub discard: Histogram,
    /// WRITE_ZEROES.
    pub write_zeroes: Histogram,
}

impl LatencyStats {
    /// Names and histograms.
    pub fn each(&self) -> [(&'static str, &Histogram); 5] {
        [
            ("read", &self.read),
            ("write", &self.write),
            ("flush", &self.flush),
            ("discard", &self.discard),
            ("write-zeroes", &self.write_zeroes),
        ]
    }

    /// What was timed since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            read: self.read.since(&earlier.read),
            write: self.write.since(&earlier.write),
            flush: self.flush.since(&earlier.flush),
            discard: self.discard.since(&earlier.discard),
            write_zeroes: self.write_zeroes.since(&earlier.write_zeroes),
        }
    }

    /// All operations together.
    pub fn total(&self) -> Histogram {
        let mut total = Histogram::default();
        self.each().iter().for_each(|(_, one)| total.add(one));
        total
    }
}

impl Latencies {
    pub(super) fn record(&self, op: Op, nanos: u64) {
        let of_op = match op {
            Op::Read => 0,
            Op::Write => 1,
            Op::Flush => 2,
            Op::Discard => 3,
            Op::WriteZeroes { .. } => 4,
        };
        self.0[of_op].record(nanos);
    }

    pub(super) fn snapshot(&self) -> LatencyStats {
        let [read, write, flush, discard, write_zeroes] = &self.0;
        LatencyStats {
            read: read.snapshot(),
            write: write.snapshot(),
            flush: flush.snapshot(),
            discard: discard.snapshot(),
            write_zeroes: write_zeroes.snapshot(),
        }
    }
}
