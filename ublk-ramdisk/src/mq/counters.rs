// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each hardware queue has done (K2), why requests were refused (E1 to E5), how long requests
//! took, and the identities that hold at rest (K5).
//!
//! Counters are read by any thread without a lock. Those that every request raises are exact at rest
//! only: each submitter counts in numbers of its own, without a locked addition, and a reader adds
//! them up. Kernel counterparts: the counters in blk-mq's debugfs, and `diskstats` for the times.

use super::request::Op;
use super::sync::Count;
use crate::histogram::{AtomicHistogram, Histogram};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many requests a run dispatched: 0, 1, 2-3, 4-7, and so on.
pub const HISTOGRAM: usize = 14;

/// What the owner of a submitter counts. It alone writes here.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct SubmitterCounters {
    pub(super) inserted: Count,
    pub(super) accepted: Count,
    pub(super) ended: Count,
    pub(super) errors: Count,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {
        /// The counters of one hardware queue as they are raised.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Count,)*
            pub(super) refused_by: Counts,
            pub(super) dispatched: [Count; HISTOGRAM],
        }

        /// The counters of one hardware queue at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct HctxCounters {
            /// Requests that arrived and were taken in.
            pub inserted: u64,
            $($(#[doc = $doc])* pub $name: u64,)*
            /// Refusals, by what was lacking: the sum of `refused_resource`,
            /// `refused_dev_resource` and `no_budget`.
            pub refused_by: BySource,
            /// Runs by the number of requests they dispatched: 0, 1, 2-3, 4-7, ...
            pub dispatched: [u64; HISTOGRAM],
        }

        impl HctxCounters {
            /// Each number combined with another's.
            pub fn with(&self, other: &Self, how: &dyn Fn(u64, u64) -> u64) -> Self {
                Self {
                    inserted: how(self.inserted, other.inserted),
                    $($name: how(self.$name, other.$name),)*
                    refused_by: self.refused_by.with(&other.refused_by, how),
                    dispatched: std::array::from_fn(|n| {
                        how(self.dispatched[n], other.dispatched[n])
                    }),
                }
            }
        }

        impl Counters {
            pub(super) fn snapshot(&self, submitters: &[SubmitterCounters]) -> HctxCounters {
                let mut sum = HctxCounters {
                    inserted: 0,
                    $($name: self.$name.get(),)*
                    refused_by: self.refused_by.snapshot(),
                    dispatched: std::array::from_fn(|n| self.dispatched[n].get()),
                };
                for one in submitters {
                    sum.inserted += one.inserted.get();
                    sum.accepted += one.accepted.get();
                    sum.ended += one.ended.get();
                    sum.errors += one.errors.get();
                }
                sum
            }
        }
    };
}

counters! {
    /// Requests that ended well.
    ended
    /// Requests that ended with an error.
    errors
    /// Runs on the thread that asked for one.
    run_sync
    /// Runs queued on kblockd at once.
    run_async
    /// Runs queued on kblockd for later.
    run_delayed
    /// Requests put on a software queue or the dispatch list when they arrived.
    queued
    /// Answers: OK.
    accepted
    /// Answers: BUSY, RESOURCE.
    refused_resource
    /// Answers: BUSY, DEV_RESOURCE.
    refused_dev_resource
    /// Answers: an error.
    refused_error
    /// No budget, so queue_rq was not called.
    no_budget
    /// Requests that had to wait for another try because they were refused.
    parked
    /// Requests that were tried again after that.
    unparked
    /// DEV_RESOURCE without anything that could re-run the queue (B4).
    bad_dev_resource
    /// Requests the driver gave back after it had accepted them.
    requeued
    /// Ends that had to run the queue.
    restarted
    /// Calls of the driver's timeout.
    timeouts
    /// Completions of requests that somebody else had completed.
    lost_races
    /// Calls of queue_rq that panicked; their requests ended with IOERR. Stays 0.
    panics
    /// Steps of a request from a state it was not in (A7). Stays 0.
    bad_transitions
    /// Results that no client may be given, ended as IOERR (B6). Stays 0.
    bad_results
}

impl Counters {
    /// Adds what a call has counted on a thread that is no submitter's.
    pub(super) fn add_ends(&self, accepted: u32, ended: u32, errors: u32) {
        self.accepted.add(accepted.into());
        self.ended.add(ended.into());
        self.errors.add(errors.into());
    }

    pub(super) fn dispatched(&self, requests: u32) {
        let bucket = (u32::BITS - requests.leading_zeros()) as usize;
        self.dispatched[bucket.min(HISTOGRAM - 1)].add(1);
    }
}

impl HctxCounters {
    /// Returns how often a request was refused, with or without a call of queue_rq.
    pub fn refused(&self) -> u64 {
        self.refused_resource + self.refused_dev_resource + self.no_budget
    }

    /// Returns the first identity that the counters of a queue at rest break, if any (K5).
    pub fn fault_at_rest(&self) -> Option<String> {
        let identities = [
            ("inserted", self.inserted, self.ended + self.errors),
            // Every request gets a final answer, and one more for each time it was given back:
            // every refusal was followed by another try.
            (
                "answers",
                self.accepted + self.refused_error,
                self.inserted + self.requeued,
            ),
            ("refusals", self.refused_by.total(), self.refused()),
            ("parked", self.parked, self.unparked),
            ("bad transitions", self.bad_transitions, 0),
            ("bad results", self.bad_results, 0),
        ];
        identities
            .iter()
            .find(|(_, left, right)| left != right)
            .map(|(what, left, right)| format!("{what}: {left}, not {right}; {self:?}"))
    }
}

macro_rules! sources {
    ($($(#[doc = $doc:literal])* $name:ident $field:ident $text:literal)*) => {
        /// What was lacking when a request was refused. A driver names one with
        /// [`super::Issued::busy_for`], a budget with [`super::Budget::source`]. It is only counted;
        /// [`super::Busy`] alone says what runs the queue again. The kernel's drivers give no reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Source {
            $($(#[doc = $doc])* $name,)*
        }

        impl Source {
            /// All of them, in the order of their numbers.
            pub const ALL: [Source; Source::COUNT] = [$(Source::$name),*];
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// As it is printed, and as the field of [`BySource`] is called.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Source::$name => $text,)*
                }
            }
        }

        /// One number for each source.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct BySource {
            $($(#[doc = $doc])* pub $field: u64,)*
        }

        impl BySource {
            /// The number of one source.
            pub const fn of(&self, source: Source) -> u64 {
                match source {
                    $(Source::$name => self.$field,)*
                }
            }

            /// Each number combined with another's.
            pub fn with(&self, other: &Self, how: &dyn Fn(u64, u64) -> u64) -> Self {
                Self {
                    $($field: how(self.$field, other.$field),)*
                }
            }
        }

        impl Counts {
            pub(super) fn snapshot(&self) -> BySource {
                BySource {
                    $($field: self.0[Source::$name as usize].get(),)*
                }
            }
        }
    };
}

sources! {
    /// E1: a device-wide limit on requests in flight, taken as a budget.
    Slots slots "slots"
    /// E2: the memory budget of the thin store, or memory that is being made.
    Memory memory "memory"
    /// E3: the machine or the cgroup is short of memory, CPU or I/O (PSI).
    Psi psi "psi"
    /// E4: bandwidth tokens.
    Bandwidth bandwidth "bandwidth"
    /// E5: refused on purpose.
    Injection injection "injection"
    /// The driver gave no source.
    Driver driver "driver"
}

impl BySource {
    /// All of them together.
    pub fn total(&self) -> u64 {
        Source::ALL.iter().map(|source| self.of(*source)).sum()
    }
}

/// The numbers as they are raised.
#[derive(Debug, Default)]
pub(super) struct Counts([Count; Source::COUNT]);

impl Counts {
    pub(super) fn add(&self, source: Source) {
        self.0[source as usize].add(1);
    }
}

/// One arrival of this many is timed by default.
pub const TIMED_OF: u32 = 16;
/// One arrival of at most this many can be timed.
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

/// Histograms of one hardware queue, one per operation (K2).
///
/// Reading the clock twice costs about as much as the rest of the mirror's work on a request. So by
/// default each 16th arrival of a submitter is timed, from its arrival until its result is handed
/// out; a batch reads the clock once. `--latency-sample` sets how many are timed.
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
    /// Of the operations in the order of [`Op::index`].
    fn of([read, write, flush, discard, write_zeroes]: [Histogram; 5]) -> Self {
        Self {
            read,
            write,
            flush,
            discard,
            write_zeroes,
        }
    }

    /// Each of them, in the order of [`Op::index`].
    pub fn each(&self) -> [&Histogram; 5] {
        [
            &self.read,
            &self.write,
            &self.flush,
            &self.discard,
            &self.write_zeroes,
        ]
    }

    /// What was timed since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let (now, before) = (self.each(), earlier.each());
        Self::of(std::array::from_fn(|op| now[op].since(before[op])))
    }

    /// All operations together.
    pub fn total(&self) -> Histogram {
        let mut total = Histogram::default();
        self.each().iter().for_each(|one| total.add(one));
        total
    }
}

impl Latencies {
    pub(super) fn record(&self, op: Op, nanos: u64) {
        self.0[op.index()].record(nanos);
    }

    pub(super) fn snapshot(&self) -> LatencyStats {
        LatencyStats::of(self.0.each_ref().map(AtomicHistogram::snapshot))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn k02_each_source_has_a_number_under_its_name() {
        let counts = Counts::default();
        for (n, source) in Source::ALL.into_iter().enumerate() {
            (0..=n).for_each(|_| counts.add(source));
        }
        let seen = counts.snapshot();
        let json = serde_json::to_value(seen).expect("numbers");
        for (n, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(seen.of(source), n as u64 + 1);
            assert_eq!(json[source.name()], n as u64 + 1, "{source:?}");
            let name = serde_json::to_value(source).expect("a name");
            assert_eq!(name, source.name());
        }
        assert_eq!(seen.total(), (1..=6).sum::<u64>());
    }
}
