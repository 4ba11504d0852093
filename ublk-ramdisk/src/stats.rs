// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of the I/O path. Each queue's are written by its own thread, and read by
//! anyone without a lock (K6).
//!
//! [`QueueCounters`] counts at the front end: all that arrive and all that end. The mirror counts
//! what enters it ([`HctxCounters`]). Requests that failed their check (H11) make the difference.
//! [`DeviceStats`] has both, with what the store, the pressure and kblockd know. It is what the server
//! sends, and `stats`, `top` and the files of `debugfs` show.

pub mod files;

use serde::{Deserialize, Serialize};

#[cfg(not(loom))]
use crate::mq::Kblockd;
use crate::mq::{Count, HctxCounters, HctxSnapshot, LatencyStats, Op, Request};
use crate::pressure::PressureStats;
use crate::ramdisk::space::SpaceStats;

/// Requests of one kind.
#[derive(Debug, Default)]
pub struct OpCounters {
    /// Those that ended well.
    requests: Count,
    bytes: Count,
}

/// What one queue has done, as its thread counts it, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct QueueCounters {
    inserted: Count,
    ended: Count,
    errors: Count,
    /// Of the errors, those of requests that were not let in.
    refused: Count,
    /// Turns of the loop that took completions.
    reaps: Count,
    /// In the order of [`Op::index`].
    ops: [OpCounters; 5],
}

impl QueueCounters {
    /// A request arrived.
    #[inline]
    pub fn insert(&self) {
        self.inserted.add_owned(1);
    }

    /// A request ended with this result: bytes moved for READ and WRITE, 0 for the others, or minus
    /// errno (F11).
    #[inline]
    pub fn ended(&self, request: &Request, result: i32) {
        match u64::try_from(result) {
            Ok(moved) if request.op().has_data() => self.end(request.op(), moved),
            Ok(_) => self.end(request.op(), request.len()),
            Err(_) => self.end_with_error(),
        }
    }

    /// A request ended well.
    #[inline]
    pub fn end(&self, op: Op, bytes: u64) {
        let counters = &self.ops[op.index()];
        counters.requests.add_owned(1);
        counters.bytes.add_owned(bytes);
        self.ended.add_owned(1);
    }

    /// A request ended with an error.
    pub fn end_with_error(&self) {
        self.errors.add_owned(1);
    }

    /// A request was not let in. Returns how many were not.
    pub fn refuse(&self) -> u64 {
        self.end_with_error();
        self.refused.add_owned(1);
        self.refused.get()
    }

    /// The thread woke up and took completions.
    #[inline]
    pub fn reap(&self) {
        self.reaps.add_owned(1);
    }

    /// The counters as they are now; those of the mirror's hardware queue are left out.
    pub fn snapshot(&self, queue: u16) -> QueueStats {
        let op = |c: &OpCounters| OpStats {
            requests: c.requests.get(),
            bytes: c.bytes.get(),
        };
        let [read, write, flush, discard, write_zeroes] = self.ops.each_ref().map(op);
        QueueStats {
            queue,
            inserted: self.inserted.get(),
            ended: self.ended.get(),
            errors: self.errors.get(),
            reaps: self.reaps.get(),
            read,
            write,
            flush,
            discard,
            write_zeroes,
            ..QueueStats::default()
        }
    }
}

/// Requests of one kind that ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpStats {
    /// How many.
    pub requests: u64,
    /// How many bytes of the disk they covered.
    pub bytes: u64,
}

/// What one queue has done since the device was started. At rest
/// `inserted = ended + errors` (K5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueStats {
    /// Number of the queue.
    pub queue: u16,
    /// Requests that arrived.
    pub inserted: u64,
    /// Requests that ended well.
    pub ended: u64,
    /// Requests that ended with an error.
    pub errors: u64,
    /// Times the thread took completions from its ring.
    pub reaps: u64,
    /// READ.
    pub read: OpStats,
    /// WRITE.
    pub write: OpStats,
    /// FLUSH.
    pub flush: OpStats,
    /// DISCARD.
    pub discard: OpStats,
    /// WRITE_ZEROES.
    pub write_zeroes: OpStats,
    /// What became of them in the mirror of blk-mq. Requests that failed their check are not
    /// in it.
    pub hctx: HctxCounters,
    /// The mirror's hardware queue as it is now.
    pub now: HctxSnapshot,
    /// How long requests took, of those that were timed.
    pub latency: LatencyStats,
    /// Results and requests that workers left for the thread of the queue.
    pub wakeups: WakeUps,
}

/// How the thread of a queue was told of what workers had for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WakeUps {
    /// Times that it had to be woken.
    pub sent: u64,
    /// Times that it was awake, or about to be woken by another.
    pub saved: u64,
}

/// kblockd, the workqueue that runs hardware queues again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KblockdStats {
    /// Runs of its items that have begun.
    pub started: u64,
    /// Runs that have ended.
    pub completed: u64,
    /// Calls for the rescuer, because nothing moved.
    pub mayday: u64,
    /// Items that the rescuer took.
    pub rescued: u64,
    /// CPU time of its items, in microseconds.
    pub cpu_time: u64,
    /// The pools of threads that serve it.
    pub pools: Vec<PoolStats>,
}

/// A pool of the server's workqueue threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolStats {
    /// Its CPU; none if its threads run anywhere.
    pub cpu: Option<usize>,
    /// The nice value of its threads.
    pub nice: i32,
    /// Threads there are.
    pub workers: usize,
    /// Threads that have nothing to do.
    pub idle: usize,
}

#[cfg(not(loom))]
impl KblockdStats {
    /// As they are now.
    pub fn of(kblockd: &Kblockd, runtime: &workqueue::Runtime) -> Self {
        let stats = kblockd.queue().stats();
        // Without a snapshot the counts are still told, only no pools.
        let snapshot = runtime.snapshot();
        let (pools, queues) =
            snapshot.map_or((Vec::new(), Vec::new()), |s| (s.pools, s.workqueues));
        let name = kblockd.queue().name();
        // By name: the runtime has one workqueue of it, with pools per CPU or one default pool.
        let its: Vec<u32> = queues
            .iter()
            .filter(|queue| queue.name == name)
            .flat_map(|queue| queue.pools.values().copied().chain(queue.dfl))
            .collect();
        Self {
            started: stats.started,
            completed: stats.completed,
            mayday: stats.mayday,
            rescued: stats.rescued,
            cpu_time: u64::try_from(stats.cpu_time.as_micros()).unwrap_or(u64::MAX),
            pools: pools
                .iter()
                .filter(|pool| its.contains(&pool.id))
                .map(|pool| PoolStats {
                    cpu: pool.cpu,
                    nice: pool.nice,
                    workers: pool.workers,
                    idle: pool.idle,
                })
                .collect(),
        }
    }
}

/// A device's figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceStats {
    /// N of /dev/ublkbN.
    pub id: u32,
    /// The disk's name.
    pub name: Option<String>,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Bytes of memory the store holds, as its file system counts them.
    pub allocated: u64,
    /// Data path in use, as typed at `--data-path`.
    pub data_path: String,
    /// Where the contents live, as typed at `--backing`.
    pub backing: String,
    /// The contents are still there when the server has died.
    pub outlives_server: bool,
    /// Servers that have taken it up after the death of another.
    pub restarts: u32,
    /// From when on the counters count, if that is later than when the disk was made: they are those of
    /// the last server.
    pub since: Option<String>,
    /// What refuses, slows down or fails requests.
    pub pressure: PressureStats,
    /// What the store has and lacks.
    pub space: SpaceStats,
    /// One request in this many is timed; 0: none.
    pub latency_sample: u32,
    /// Per queue.
    pub queues: Vec<QueueStats>,
    /// The workqueue behind them.
    pub kblockd: KblockdStats,
}

/// Makes a rate per second of two readings of a counter, `seconds` apart. States are not rates: the
/// later reading counts. Latencies are those of the requests in between.
fn rate(seconds: f64) -> impl Fn(u64, u64) -> u64 {
    move |now, before| (now.saturating_sub(before) as f64 / seconds).round() as u64
}

impl OpStats {
    /// Applies `how` to each figure of both.
    fn with(&self, other: &Self, how: &dyn Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: how(self.requests, other.requests),
            bytes: how(self.bytes, other.bytes),
        }
    }
}

impl QueueStats {
    /// Its requests by operation, in the order of [`Op::index`].
    pub fn ops(&self) -> [OpStats; 5] {
        [
            self.read,
            self.write,
            self.flush,
            self.discard,
            self.write_zeroes,
        ]
    }

    /// Every amount goes through `how`; states are those of `self`.
    fn per_second(&self, earlier: &Self, how: &dyn Fn(u64, u64) -> u64) -> Self {
        let (now, before) = (self, earlier);
        let [read, write, flush, discard, write_zeroes] =
            std::array::from_fn(|op| now.ops()[op].with(&before.ops()[op], how));
        Self {
            queue: now.queue,
            inserted: how(now.inserted, before.inserted),
            ended: how(now.ended, before.ended),
            errors: how(now.errors, before.errors),
            reaps: how(now.reaps, before.reaps),
            read,
            write,
            flush,
            discard,
            write_zeroes,
            hctx: now.hctx.with(&before.hctx, how),
            now: now.now.clone(),
            latency: now.latency.since(&before.latency),
            wakeups: WakeUps {
                sent: how(now.wakeups.sent, before.wakeups.sent),
                saved: how(now.wakeups.saved, before.wakeups.saved),
            },
        }
    }
}

impl DeviceStats {
    /// What happened since an earlier moment, per second.
    ///
    /// Never below 0, also if the disk was made anew in between. A queue that `earlier` lacks
    /// counts from 0.
    #[must_use]
    pub fn per_second(&self, earlier: &Self, seconds: f64) -> Self {
        let how = rate(seconds.max(1e-9));
        let none = QueueStats::default();
        let queues = self.queues.iter().enumerate();
        let kblockd = |of: fn(&KblockdStats) -> u64| how(of(&self.kblockd), of(&earlier.kblockd));
        Self {
            queues: queues
                .map(|(n, queue)| queue.per_second(earlier.queues.get(n).unwrap_or(&none), &how))
                .collect(),
            kblockd: KblockdStats {
                started: kblockd(|k| k.started),
                completed: kblockd(|k| k.completed),
                mayday: kblockd(|k| k.mayday),
                rescued: kblockd(|k| k.rescued),
                cpu_time: kblockd(|k| k.cpu_time),
                pools: self.kblockd.pools.clone(),
            },
            ..self.clone()
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn k02_rates_are_differences_by_time_and_states_are_the_later_ones() {
        let stats = |requests: u64, usage: u64| {
            let mut queue = QueueStats::default();
            queue.read.requests = requests;
            queue.hctx.refused_by.memory = 3 * requests;
            queue.hctx.dispatched[1] = requests;
            queue.now.usage = usage;
            DeviceStats {
                id: 1,
                size: 2,
                allocated: requests,
                queues: vec![queue],
                kblockd: KblockdStats {
                    rescued: requests / 2,
                    ..KblockdStats::default()
                },
                ..DeviceStats::default()
            }
        };
        let rates = stats(1100, 5).per_second(&stats(100, 9), 2.0);
        let queue = &rates.queues[0];
        assert_eq!((queue.read.requests, queue.now.usage), (500, 5));
        assert_eq!(queue.hctx.refused_by.memory, 1500);
        assert_eq!(
            (queue.hctx.dispatched[1], rates.kblockd.rescued),
            (500, 250)
        );
        assert_eq!(rates.allocated, 1100);
        let restarted = stats(1, 0).per_second(&stats(100, 0), 1.0);
        assert_eq!(restarted.queues[0].read.requests, 0, "never below nothing");
    }
}
