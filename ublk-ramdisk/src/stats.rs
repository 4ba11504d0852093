// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of the I/O path. Each queue's are written by its own thread alone
//! and read by anyone without a lock (K6).

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::mq::{HctxCounters, Op};
use crate::ramdisk::space::SpaceStats;

/// A number that one thread raises and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Raises it; called by the owning thread only, so no atomic addition is needed.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    /// The number as it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Requests of one kind.
#[derive(Debug, Default)]
pub struct OpCounters {
    requests: Counter,
    bytes: Counter,
}

/// What one queue has done, as its thread counts it.
#[derive(Debug, Default)]
pub struct QueueCounters {
    inserted: Counter,
    ended: Counter,
    errors: Counter,
    reaps: Counter,
    read: OpCounters,
    write: OpCounters,
    flush: OpCounters,
    discard: OpCounters,
    write_zeroes: OpCounters,
}

impl QueueCounters {
    /// A request arrived.
    #[inline]
    pub fn insert(&self) {
        self.inserted.add(1);
    }

    /// A request ended well.
    #[inline]
    pub fn end(&self, op: Op, bytes: u64) {
        let counters = match op {
            Op::Read => &self.read,
            Op::Write => &self.write,
            Op::Flush => &self.flush,
            Op::Discard => &self.discard,
            Op::WriteZeroes { .. } => &self.write_zeroes,
        };
        counters.requests.add(1);
        counters.bytes.add(bytes);
        self.ended.add(1);
    }

    /// A request ended with an error.
    pub fn end_with_error(&self) {
        self.errors.add(1);
    }

    /// The thread woke up and took completions.
    #[inline]
    pub fn reap(&self) {
        self.reaps.add(1);
    }

    /// The counters as they are now, beside those of the mirror's hardware queue.
    pub fn snapshot(&self, queue: u16, hctx: HctxCounters) -> QueueStats {
        let op = |c: &OpCounters| OpStats {
            requests: c.requests.get(),
            bytes: c.bytes.get(),
        };
        QueueStats {
            queue,
            inserted: self.inserted.get(),
            ended: self.ended.get(),
            errors: self.errors.get(),
            reaps: self.reaps.get(),
            read: op(&self.read),
            write: op(&self.write),
            flush: op(&self.flush),
            discard: op(&self.discard),
            write_zeroes: op(&self.write_zeroes),
            hctx,
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
}

/// A device's figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStats {
    /// N of /dev/ublkbN.
    pub id: u32,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Bytes of memory the store holds, as its file system counts them.
    pub allocated: u64,
    /// Data path in use, as typed at `--data-path`.
    pub data_path: String,
    /// What the store has and lacks.
    #[serde(default)]
    pub space: SpaceStats,
    /// Per queue.
    pub queues: Vec<QueueStats>,
}
