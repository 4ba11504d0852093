// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long requests take from their arrival to the moment their result is handed out (K2).
//!
//! To look at the clock twice costs about as much as all else that the mirror does with a request,
//! so by default each 16th arrival of a lane is timed, whatever becomes of it; a batch looks once.
//! `--latency-sample` says how many are.
//! Kernel counterpart: the `diskstats` times, which the block layer keeps likewise from start to end.

use super::hctx::HwQueue;
use super::queue::Queue;
use super::request::Op;
use super::slot::{Rq, Slot};
use crate::histogram::{AtomicHistogram, Histogram};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Of so many arrivals one is timed, unless somebody says otherwise.
pub const TIMED_OF: u32 = 16;
/// The fewest that can be asked for: one of so many.
pub const LEAST_TIMED_OF: u32 = 1 << 16;

/// Which arrivals are timed: those whose number has none of these bits; none at all if all are set.
#[derive(Debug)]
pub(super) struct Sampling(AtomicU64);

impl Default for Sampling {
    fn default() -> Self {
        Self(AtomicU64::new(u64::from(TIMED_OF - 1)))
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
    fn record(&self, op: Op, nanos: u64) {
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

impl Queue {
    /// Times one arrival of so many: 1 for each, 0 for none; other numbers are raised to a power of
    /// two. Requests on their way keep what was decided when they arrived.
    pub fn time_one_of(&self, arrivals: u32) {
        let mask = match arrivals {
            0 => u64::MAX,
            n => u64::from(n).next_power_of_two() - 1,
        };
        self.inner.sampling.0.store(mask, Relaxed);
    }

    /// Of so many arrivals one is timed; 0 if none is.
    pub fn timed_of(&self) -> u32 {
        match self.inner.sampling.0.load(Relaxed) {
            u64::MAX => 0,
            mask => mask as u32 + 1,
        }
    }

    /// How long the requests of a hardware queue took.
    pub fn latency(&self, hctx: u16) -> LatencyStats {
        self.hctx(hctx).latency.snapshot()
    }

    /// Asked for arrivals with these numbers: is one of them timed?
    #[inline]
    fn is_timed(&self, first: u64, count: u32) -> bool {
        let mask = self.inner.sampling.0.load(Relaxed);
        // The next multiple of mask + 1, from `first` on, is within.
        mask != u64::MAX && first.wrapping_neg() & mask < u64::from(count)
    }

    /// When these have arrived: now, or 0 if none of them is timed.
    #[inline]
    pub(super) fn arrival(&self, first: u64, count: u32) -> u64 {
        if self.is_timed(first, count) {
            self.moment()
        } else {
            0
        }
    }

    /// The same for one of a batch, whose moment is known.
    #[inline]
    pub(super) fn if_timed(&self, number: u64, arrived: u64) -> u64 {
        if arrived != 0 && self.is_timed(number, 1) {
            arrived
        } else {
            0
        }
    }

    /// The time; never 0, which means none.
    #[cold]
    fn moment(&self) -> u64 {
        self.inner.works.now_exactly().max(1)
    }

    /// The request is about to be handed out.
    #[inline]
    pub(super) fn time_end(&self, hctx: &HwQueue, rq: Rq, slot: &Slot) {
        let arrived = slot.arrived();
        if arrived != 0 {
            self.took(hctx, rq, arrived);
        }
    }

    #[cold]
    fn took(&self, hctx: &HwQueue, rq: Rq, arrived: u64) {
        let op = self.slot(rq).request(self.tag_of(hctx, rq)).op();
        let nanos = self.moment().saturating_sub(arrived);
        hctx.latency.record(op, nanos);
    }
}
