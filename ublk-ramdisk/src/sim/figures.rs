// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a simulation found, as it is printed with `--json`. All times are nanoseconds.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::mq::{BySource, HctxCounters, Op, Source};
use crate::ramdisk::space::SpaceStats;
use crate::ramdisk::Mode;

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Ended well.
    pub ops: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Ended with an error.
    pub errors: u64,
}

impl Kind {
    fn add(&mut self, other: &Self) {
        self.ops += other.ops;
        self.bytes += other.bytes;
        self.errors += other.errors;
    }
}

/// A distribution of latencies.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// The average.
    pub mean: f64,
    /// The longest.
    pub max: u64,
    /// Half are as long or shorter; and so on.
    pub p50: u64,
    #[allow(missing_docs)]
    pub p90: u64,
    #[allow(missing_docs)]
    pub p95: u64,
    #[allow(missing_docs)]
    pub p99: u64,
    #[allow(missing_docs)]
    pub p999: u64,
    #[allow(missing_docs)]
    pub p9999: u64,
    /// By upper end, how many since the bucket before; three significant digits.
    pub buckets: Vec<(u64, u64)>,
}

impl Latency {
    fn of(
        Times {
            histogram,
            min,
            max,
            sum,
        }: &Times,
    ) -> Self {
        let times = histogram;
        if times.is_empty() {
            return Self::default();
        }
        // A bucket answers with its upper end, which may be beyond the longest.
        let at = |quantile| times.value_at_quantile(quantile).min(*max);
        Self {
            count: times.len(),
            min: *min,
            mean: *sum as f64 / times.len() as f64,
            max: *max,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            buckets: times
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
                .collect(),
        }
    }
}

/// Times as they come in.
#[derive(Clone, Debug)]
pub(super) struct Times {
    histogram: Histogram<u64>,
    min: u64,
    max: u64,
    sum: u128,
}

impl Times {
    fn new() -> Self {
        Self {
            histogram: Histogram::new(3).expect("three digits are few enough"),
            min: u64::MAX,
            max: 0,
            sum: 0,
        }
    }

    pub(super) fn record(&mut self, time: u64) {
        // It grows to any time.
        let _recorded = self.histogram.record(time);
        self.min = self.min.min(time);
        self.max = self.max.max(time);
        self.sum += u128::from(time);
    }

    fn add(&mut self, other: &Self) {
        // Both have three digits and grow.
        let _added = self.histogram.add(&other.histogram);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
    }
}

/// What a job counts.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) read: Kind,
    pub(super) write: Kind,
    pub(super) discard: Kind,
    pub(super) flush: Kind,
    pub(super) times: Times,
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) checked: u64,
    pub(super) failed: u64,
    pub(super) first_failure: Option<String>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            read: Kind::default(),
            write: Kind::default(),
            discard: Kind::default(),
            flush: Kind::default(),
            times: Times::new(),
            errors: BTreeMap::new(),
            checked: 0,
            failed: 0,
            first_failure: None,
        }
    }

    pub(super) fn kind(&mut self, op: Op) -> &mut Kind {
        match op {
            Op::Read => &mut self.read,
            Op::Write => &mut self.write,
            Op::Flush => &mut self.flush,
            Op::Discard | Op::WriteZeroes { .. } => &mut self.discard,
        }
    }

    /// Requests that have ended, well or not.
    pub(super) fn ended(&self) -> u64 {
        let kinds = [&self.read, &self.write, &self.discard, &self.flush];
        kinds.iter().map(|kind| kind.ops + kind.errors).sum()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.read.add(&other.read);
        self.write.add(&other.write);
        self.discard.add(&other.discard);
        self.flush.add(&other.flush);
        self.times.add(&other.times);
        for (&name, count) in &other.errors {
            *self.errors.entry(name).or_default() += count;
        }
        self.checked += other.checked;
        self.failed += other.failed;
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
    }

    pub(super) fn load(&self, elapsed_ns: u64) -> Load {
        let kinds = [&self.read, &self.write, &self.discard, &self.flush];
        let per_second = |count: u64| match elapsed_ns {
            0 => 0.0,
            _ => count as f64 * 1e9 / elapsed_ns as f64,
        };
        Load {
            read: self.read,
            write: self.write,
            discard: self.discard,
            flush: self.flush,
            iops: per_second(kinds.iter().map(|kind| kind.ops).sum()),
            bytes_per_s: per_second(self.read.bytes + self.write.bytes),
            latency: Latency::of(&self.times),
        }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    /// READs.
    pub read: Kind,
    /// WRITEs.
    pub write: Kind,
    /// DISCARDs.
    pub discard: Kind,
    /// FLUSHes.
    pub flush: Kind,
    /// Requests that ended well, per second.
    pub iops: f64,
    /// Bytes read and written per second.
    pub bytes_per_s: f64,
    /// From the time a request was due to its end.
    pub latency: Latency,
}

/// What one job did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobLoad {
    /// Its number.
    pub job: u16,
    /// The hardware queue it uses.
    pub hctx: u16,
    /// See there.
    #[serde(flatten)]
    pub load: Load,
}

/// A hardware queue's counters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HctxFigures {
    /// Its number.
    pub hctx: u16,
    /// See there.
    #[serde(flatten)]
    pub counters: HctxCounters,
}

/// kblockd's statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KblockdFigures {
    /// Runs begun.
    pub started: u64,
    /// Runs ended.
    pub completed: u64,
    /// Items that its rescuer took.
    pub rescued: u64,
    /// Calls for help.
    pub maydays: u64,
}

/// One point of the time line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// When.
    pub t_ns: u64,
    /// Requests ended since the sample before.
    pub ops: u64,
    /// The same per second.
    pub iops: f64,
    /// Requests made and not ended.
    pub in_flight: u64,
    /// Of these, those that wait in the mirror.
    pub parked: u64,
    /// The highest of all hardware queues.
    pub dispatch_busy: u32,
    /// Refusals since the sample before.
    pub refused: u64,
    /// Runs of kblockd since the sample before.
    pub kblockd_runs: u64,
    /// Items rescued since the sample before.
    pub rescued: u64,
    /// Bytes of memory that the disk uses.
    pub used: u64,
    /// Bytes that it may use; 0 for no limit.
    pub limit: u64,
    /// Bytes of pages of zeros given back since the sample before.
    pub zero: u64,
    /// Requests ended with NOSPC since the sample before.
    pub no_space: u64,
    /// What a write that needs memory can expect.
    pub mode: Mode,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Happened {
    /// When.
    pub t_ns: u64,
    /// As in the script.
    pub what: String,
}

/// What was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// READs whose content was known.
    pub checked: u64,
    /// Those that returned something else.
    pub failed: u64,
    /// The first of them.
    pub first: Option<String>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Of this form.
    pub version: u32,
    /// What the random numbers followed from.
    pub seed: u64,
    /// From the first request to the last end, without the check at the end.
    pub elapsed_ns: u64,
    /// Each job.
    pub jobs: Vec<JobLoad>,
    /// All of them.
    pub total: Load,
    /// By status, how many requests ended with it.
    pub errors: BTreeMap<&'static str, u64>,
    /// What was checked, if that was asked for.
    pub verify: Option<Verified>,
    /// Each hardware queue.
    pub hctxs: Vec<HctxFigures>,
    /// Refusals of all queues by what was wanting.
    pub refused_by: BTreeMap<&'static str, u64>,
    /// The workqueue.
    pub kblockd: KblockdFigures,
    /// The disk's memory at the end.
    pub space: SpaceStats,
    /// The time line, if it was asked for.
    pub samples: Vec<Sample>,
    /// What the script did.
    pub events: Vec<Happened>,
    /// What went wrong; empty if all is well.
    pub faults: Vec<String>,
}

/// Sums up the refusals of all queues.
pub(super) fn refused_by(hctxs: &[HctxFigures]) -> BTreeMap<&'static str, u64> {
    let of = |source: Source| {
        let count = |hctx: &HctxFigures| BySource::of(&hctx.counters.refused_by, source);
        (source.name(), hctxs.iter().map(count).sum())
    };
    Source::ALL.map(of).into_iter().collect()
}
