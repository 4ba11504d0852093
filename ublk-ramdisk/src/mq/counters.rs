// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each hardware queue has done (K2), and the identities that hold when it is at rest (K5).
//!
//! Anyone reads them without a lock. The numbers that every request raises are exact at rest only:
//! each submitter has one owner, which counts in numbers of its own without a locked addition, and
//! they are summed up when they are read.

use super::source::{BySource, Counts};
use super::sync::Count;

/// How many requests a run dispatched: 0, 1, 2-3, 4-7, and so on.
pub const HISTOGRAM: usize = 14;

/// What the owner of a submitter counts. It alone writes here.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct SubmitterCounters {
    pub(super) inserted: Count,
    pub(super) accepted: Count,
    pub(super) ended: Count,
    pub(super) errors: Count,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {
        /// The numbers of one hardware queue as they are raised.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Count,)*
            pub(super) refused_by: Counts,
            pub(super) dispatched: [Count; HISTOGRAM],
        }

        /// The numbers of one hardware queue as they were at one moment.
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub struct HctxCounters {
            /// Requests that arrived and were taken in.
            pub inserted: u64,
            $($(#[doc = $doc])* pub $name: u64,)*
            /// Refusals, by what was wanting: the sum of `refused_resource`,
            /// `refused_dev_resource` and `no_budget`.
            pub refused_by: BySource,
            /// Runs by the number of requests they dispatched: 0, 1, 2-3, 4-7, ...
            pub dispatched: [u64; HISTOGRAM],
        }

        impl HctxCounters {
            /// Each number combined with another's.
            pub(crate) fn with(&self, other: &Self, how: &dyn Fn(u64, u64) -> u64) -> Self {
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
    /// Adds what a call counted that ran on no submitter's thread.
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
    /// How often a request was not taken, for now.
    pub fn refused(&self) -> u64 {
        self.refused_resource + self.refused_dev_resource + self.no_budget
    }

    /// What is wrong with the numbers of a queue at rest, if anything (K5).
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
