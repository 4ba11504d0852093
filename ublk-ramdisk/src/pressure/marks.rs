// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver notes about each request, by hardware queue and tag.

use std::sync::atomic::{AtomicU64, AtomicU8, Ordering::Relaxed};

/// Accepted and lost on purpose.
pub(super) const LOST: u8 = 1;
/// It has waited for a rule, and passes the rules until the disk accepts it.
pub(super) const PASSED: u8 = 1 << 1;
/// It was requeued by a rule since it was last accepted.
pub(super) const REQUEUED: u8 = 1 << 2;
/// It is stored wrong.
pub(super) const CORRUPT: u8 = 1 << 3;

#[derive(Debug, Default)]
struct Mark {
    bits: AtomicU8,
    /// Nanoseconds.
    delay: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Marks {
    depth: u16,
    marks: Box<[Mark]>,
}

impl Marks {
    pub(super) fn new(nr_hw_queues: u16, depth: u16) -> Self {
        let requests = usize::from(nr_hw_queues) * usize::from(depth);
        let marks = (0..requests).map(|_| Mark::default()).collect();
        Self { depth, marks }
    }

    /// How many requests the device has.
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    /// The place of a request in the tables that have one for each tag of the device.
    pub(super) fn index(&self, hctx: u16, tag: u16) -> usize {
        usize::from(hctx) * usize::from(self.depth) + usize::from(tag)
    }

    /// Hardware queue and tag of the request in this place.
    pub(super) fn of_index(&self, index: usize) -> (u16, u16) {
        let depth = usize::from(self.depth);
        ((index / depth) as u16, (index % depth) as u16)
    }

    fn of(&self, hctx: u16, tag: u16) -> &Mark {
        &self.marks[self.index(hctx, tag)]
    }

    pub(super) fn set(&self, hctx: u16, tag: u16, bit: u8) {
        self.of(hctx, tag).bits.fetch_or(bit, Relaxed);
    }

    pub(super) fn has(&self, hctx: u16, tag: u16, bit: u8) -> bool {
        self.of(hctx, tag).bits.load(Relaxed) & bit != 0
    }

    /// Clears the bits. Returns those that were set.
    pub(super) fn take(&self, hctx: u16, tag: u16, bits: u8) -> u8 {
        match self.has(hctx, tag, bits) {
            true => self.of(hctx, tag).bits.fetch_and(!bits, Relaxed) & bits,
            false => 0,
        }
    }

    pub(super) fn delay(&self, hctx: u16, tag: u16) -> u64 {
        self.of(hctx, tag).delay.load(Relaxed)
    }

    pub(super) fn set_delay(&self, hctx: u16, tag: u16, ns: u64) {
        self.of(hctx, tag).delay.store(ns, Relaxed);
    }

    /// The requests with this bit: hardware queue and tag.
    pub(super) fn all(&self, bit: u8) -> impl Iterator<Item = (u16, u16)> + '_ {
        let marks = self.marks.iter().enumerate();
        let marks = marks.filter(move |(_, mark)| mark.bits.load(Relaxed) & bit != 0);
        marks.map(|(index, _)| self.of_index(index))
    }
}
