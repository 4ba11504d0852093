// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking for pages that hold only zeros, when memory is short and from time to time (E19, E21).

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Space;
use crate::mq::Queue;
use crate::ramdisk::store::Store;
use crate::trace::{self, Reclaimed};

/// Bytes that are looked at before a pass can be stopped.
const STRIDE: u64 = 64 << 20;

impl Space {
    /// Sets if pages of zeros are taken back from now on.
    pub(in crate::ramdisk) fn set_reclaim(&self, reclaim: bool) {
        self.reclaims.store(reclaim, Relaxed);
        // Writes that wait, or end with NOSPC, may use what is found now.
        if reclaim && (self.waiters.waiting() > 0 || self.denies()) {
            Self::modify(&self.reclaim_queue, &self.reclaim, Duration::ZERO);
        }
    }

    /// Begins the periodic passes.
    pub(in crate::ramdisk) fn scan_later(&self) {
        if let Some(every) = self.options.reclaim_every {
            Self::modify(&self.reclaim_queue, &self.scan, every);
        }
    }

    /// Memory is short.
    pub(super) fn reclaim(&self, store: &Store, queue: &Queue) {
        if self.pass(store, queue) == 0 && self.waiters.waiting() > 0 {
            self.exhausted(queue);
        }
    }

    /// A periodic pass.
    pub(super) fn scan(&self, store: &Store, queue: &Queue) {
        self.pass(store, queue);
        self.scan_later();
    }

    /// Gives back all pages of zeros. Returns their bytes.
    fn pass(&self, store: &Store, queue: &Queue) -> u64 {
        let (mut at, mut freed) = (0, 0);
        // The size is read again and again: what the disk has grown by is looked at too.
        while self.reclaims.load(Relaxed) && !self.ending.load(Relaxed) && at < store.size() {
            let zeros = store.reclaim_zeros(at..at + STRIDE);
            if zeros > 0 {
                self.zeros_freed.fetch_add(zeros, Relaxed);
                trace::reclaim(queue.label(), Reclaimed::Zeros, zeros);
                self.trace_memory(store);
            }
            (at, freed) = (at + STRIDE, freed + zeros);
        }
        freed
    }
}
