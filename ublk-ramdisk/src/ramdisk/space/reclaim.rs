// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking for memory that can be given back: pages of zeros, and chunks that nobody has used for a
//! while and that take less when they are compressed (E19 to E21).
//!
//! Without compression a pass looks at all of the disk. With it a pass that was begun because memory
//! is short ends when it has freed some, and the next one goes on where it ended: what is compressed
//! without need costs the reads that follow. Both have found nothing to free only after they have
//! been everywhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Space;
use crate::mq::Queue;
use crate::ramdisk::store::{Cold, Store};
use crate::trace::{self, Reclaimed};

/// So many bytes are looked at before somebody may stop a pass.
const STRIDE: u64 = 64 << 20;
/// The same where chunks are compressed, which takes longer.
const COMPRESS_STRIDE: u64 = 1 << 20;
/// A pass with compression ends when it has freed so many bytes, if memory is short.
const ENOUGH: u64 = 4 << 20;
/// So many times in the idle time one looks which chunks have been used.
const LOOKS: u32 = 4;
/// But not more often than this.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// Stands for no compression.
const NEVER: u64 = u64::MAX;

/// What is taken back, which may be changed at any time, and how far one has come.
#[derive(Debug)]
pub(super) struct Rules {
    zeros: AtomicBool,
    /// Nanoseconds that a chunk that is compressed has not been used for.
    idle: AtomicU64,
    /// Where the next pass begins.
    at: AtomicU64,
    /// Bytes of pages of zeros given back so far.
    pub(super) zero: AtomicU64,
}

impl Rules {
    pub(super) fn new(reclaim: bool, compress_after: Option<Duration>) -> Self {
        let rules = Self {
            zeros: AtomicBool::new(false),
            idle: AtomicU64::new(NEVER),
            at: AtomicU64::new(0),
            zero: AtomicU64::new(0),
        };
        rules.set(reclaim, compress_after);
        rules
    }

    fn set(&self, reclaim: bool, compress_after: Option<Duration>) {
        self.zeros.store(reclaim, Relaxed);
        let idle = compress_after.filter(|_| reclaim).map_or(NEVER, |idle| {
            u64::try_from(idle.as_nanos()).map_or(NEVER - 1, |nanos| nanos.min(NEVER - 1))
        });
        self.idle.store(idle, Relaxed);
    }

    /// Is anything taken back?
    pub(super) fn any(&self) -> bool {
        self.zeros.load(Relaxed)
    }

    fn idle(&self) -> Option<Duration> {
        let idle = self.idle.load(Relaxed);
        (idle != NEVER).then(|| Duration::from_nanos(idle))
    }
}

impl Space {
    /// Other rules.
    pub(in crate::ramdisk) fn set_reclaim(&self, reclaim: bool, compress_after: Option<Duration>) {
        self.rules.set(reclaim, compress_after);
        // Those that wait may have been refused by the old ones.
        if reclaim {
            Self::modify(&self.reclaim_queue, &self.look, Duration::ZERO);
        }
    }

    /// Begins what is done from time to time.
    pub(in crate::ramdisk) fn begin_reclaim(&self) {
        self.scan_later();
        self.look_later();
    }

    fn scan_later(&self) {
        if let Some(every) = self.options.reclaim_every {
            Self::modify(&self.reclaim_queue, &self.scan, every);
        }
    }

    fn look_later(&self) {
        if let Some(idle) = self.rules.idle() {
            let delay = (idle / LOOKS).max(SHORTEST_LOOK);
            Self::modify(&self.reclaim_queue, &self.look, delay);
        }
    }

    /// Memory is short: looks for some.
    pub(super) fn reclaim(&self, store: &Store, queue: &Queue) {
        if self.pass(store, queue, true) == 0 && self.parked.waiting() > 0 {
            self.exhausted(queue);
        }
    }

    /// It is time for another look at everything.
    pub(super) fn scan(&self, store: &Store, queue: &Queue) {
        self.pass(store, queue, false);
        self.scan_later();
    }

    /// It is time to see which chunks have been used. Those that wait for memory may have some of
    /// those that have not.
    pub(super) fn look(&self, store: &Store) {
        if let Some(cold) = self.cold() {
            self.strides(store, STRIDE, |stride| {
                store.look_for_cold(stride, &cold);
                true
            });
        }
        // So may writes that would be ended with NOSPC.
        if self.parked.waiting() > 0 || self.denies() {
            Self::modify(&self.reclaim_queue, &self.reclaim, Duration::ZERO);
        }
        self.look_later();
    }

    fn cold(&self) -> Option<Cold> {
        let idle = self.rules.idle()?;
        Some(Cold {
            now: self.now(),
            idle,
        })
    }

    /// Calls `each` for all of the disk, a stride at a time, from where the last pass ended, until
    /// it says that this is enough.
    fn strides(
        &self,
        store: &Store,
        len: u64,
        mut each: impl FnMut(std::ops::Range<u64>) -> bool,
    ) -> u64 {
        let strides = store.size().div_ceil(len);
        let first = self.rules.at.load(Relaxed) / len;
        for n in (0..strides).map(|n| (first + n) % strides) {
            if self.ending.load(Relaxed) || !each(n * len..(n + 1) * len) {
                return (n + 1) * len;
            }
        }
        first * len
    }

    /// Gives back what can be. Answers the bytes.
    fn pass(&self, store: &Store, queue: &Queue, short: bool) -> u64 {
        if !self.rules.any() {
            return 0;
        }
        let (cold, mut freed) = (self.cold(), 0);
        let len = match cold {
            Some(_) => COMPRESS_STRIDE,
            None => STRIDE,
        };
        let next = self.strides(store, len, |stride| {
            let zeros = store.reclaim_zeros(stride.clone());
            self.rules.zero.fetch_add(zeros, Relaxed);
            let compressed = cold.map_or(0, |cold| store.compress_cold(stride, &cold));
            for (what, bytes) in [
                (Reclaimed::Zeros, zeros),
                (Reclaimed::Compressed, compressed),
            ] {
                if bytes > 0 {
                    trace::reclaim(queue.label(), what, bytes);
                }
            }
            freed += zeros + compressed;
            !(short && cold.is_some() && freed >= ENOUGH)
        });
        if cold.is_some() {
            self.rules.at.store(next, Relaxed);
        }
        freed
    }
}
