// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures of a simulation, as they are printed with `--json`. All times are nanoseconds.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::mq::{BySource, HctxCounters, Op, Source, Status};
use crate::ramdisk::space::SpaceStats;
use crate::ramdisk::Mode;

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Ended without an error.
    pub ops: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Ended with an error.
    pub errors: u64,
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
    /// Half of them are at most this long; and so on.
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
    /// Upper end of each bucket, and how many lie in it; three significant digits.
    pub buckets: Vec<(u64, u64)>,
}

impl Latency {
    fn of(times: &Times) -> Self {
        let histogram = &times.histogram;
        if histogram.is_empty() {
            return Self::default();
        }
        // A bucket gives its upper end, which may be beyond the longest.
        let at = |quantile| histogram.value_at_quantile(quantile).min(times.max);
        Self {
            count: histogram.len(),
            min: times.min,
            mean: times.sum as f64 / histogram.len() as f64,
            max: times.max,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            buckets: histogram
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
                .collect(),
        }
    }
}

/// Latencies as they are recorded.
#[derive(Clone, Debug)]
pub(super) struct Times {
    /// Three digits; the exact extremes and the sum are kept beside it.
    histogram: Histogram<u64>,
    min: u64,
    max: u64,
    sum: u128,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            histogram: Histogram::new(3).expect("three digits are few enough"),
            min: u64::MAX,
            max: 0,
            sum: 0,
        }
    }
}

impl Times {
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
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// READs, WRITEs, DISCARDs, FLUSHes.
    kinds: [Kind; 4],
    times: Times,
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// READs whose content was compared.
    pub(super) checked: u64,
    /// Those of them, and of the reads at the end, that were wrong.
    pub(super) failed: u64,
    pub(super) first_failure: Option<String>,
}

impl Tally {
    /// Counts a request of the load that has ended.
    pub(super) fn count(&mut self, op: Op, bytes: u64, result: i32, time: u64) {
        let kind = &mut self.kinds[match op {
            Op::Read => 0,
            Op::Write => 1,
            Op::Discard | Op::WriteZeroes { .. } => 2,
            Op::Flush => 3,
        }];
        if result >= 0 {
            kind.ops += 1;
            kind.bytes += bytes;
            self.times.record(time);
        } else {
            // An error has no latency: fast failures would improve the figures.
            kind.errors += 1;
            *self.errors.entry(status_name(result)).or_default() += 1;
        }
    }

    /// Counts a block that is wrong.
    pub(super) fn count_wrong(&mut self, why: impl FnOnce() -> String) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(why);
    }

    /// Requests that have ended, with or without an error.
    pub(super) fn ended(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.ops + kind.errors).sum()
    }

    /// Adds what another job has counted.
    pub(super) fn add(&mut self, other: &Self) {
        for (kind, other) in self.kinds.iter_mut().zip(&other.kinds) {
            kind.ops += other.ops;
            kind.bytes += other.bytes;
            kind.errors += other.errors;
        }
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

    /// The counts as figures of a run of `elapsed_ns` nanoseconds.
    pub(super) fn load(&self, elapsed_ns: u64) -> Load {
        let [read, write, discard, flush] = self.kinds;
        let per_second = |count: u64| match elapsed_ns {
            0 => 0.0,
            _ => count as f64 * 1e9 / elapsed_ns as f64,
        };
        Load {
            read,
            write,
            discard,
            flush,
            iops: per_second(self.kinds.iter().map(|kind| kind.ops).sum()),
            bytes_per_s: per_second(read.bytes + write.bytes),
            latency: Latency::of(&self.times),
        }
    }
}

/// The requests of one job, or of all.
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
    /// Requests that ended without an error, per second.
    pub iops: f64,
    /// Bytes read and written per second.
    pub bytes_per_s: f64,
    /// From the time a request was due to its end.
    pub latency: Latency,
}

/// The requests of one job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobLoad {
    /// Number of the job.
    pub job: u16,
    /// The hardware queue it uses.
    pub hctx: u16,
    /// Its requests.
    #[serde(flatten)]
    pub load: Load,
}

/// A hardware queue's counters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HctxFigures {
    /// Number of the queue.
    pub hctx: u16,
    /// Its counters.
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
    /// `dispatch_busy` of the hardware queue where it is highest.
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

/// An event of the script that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Happened {
    /// When.
    pub t_ns: u64,
    /// The event as it is written in a script, or why it failed.
    pub what: String,
}

/// The result of `--verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// READs whose content was known and was checked.
    pub checked: u64,
    /// Those that returned something else, or failed at the end.
    pub failed: u64,
    /// What was wrong with the first of them.
    pub first: Option<String>,
}

/// All figures of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Version of this JSON form.
    pub version: u32,
    /// Seed of the random numbers (`--seed`).
    pub seed: u64,
    /// From the first request to the last end, without the check at the end.
    pub elapsed_ns: u64,
    /// By job.
    pub jobs: Vec<JobLoad>,
    /// All jobs together.
    pub total: Load,
    /// Requests that ended with an error, by the name of its status.
    pub errors: BTreeMap<&'static str, u64>,
    /// With `--verify`.
    pub verify: Option<Verified>,
    /// By hardware queue.
    pub hctxs: Vec<HctxFigures>,
    /// Refusals of all queues, by their source.
    pub refused_by: BTreeMap<&'static str, u64>,
    /// kblockd.
    pub kblockd: KblockdFigures,
    /// The disk's memory at the end.
    pub space: SpaceStats,
    /// With `--sample`: the time line.
    pub samples: Vec<Sample>,
    /// The script's events.
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

/// The name of the status behind a negative result.
pub(super) fn status_name(result: i32) -> &'static str {
    Status::all()
        .find(|status| status.errno() == -result)
        .map_or("unknown", Status::name)
}
