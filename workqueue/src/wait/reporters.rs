// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts who has still to report the end of a flush colour; the last one is told so.
//!
//! Armed by [`super::flush`] under the queue's lock, lowered by [`crate::pwq::retire`] under the
//! locks of pools. It starts at one for the arming itself: a share that reports while others are
//! still being asked must not be taken for the last. Kernel counterpart: `nr_pwqs_to_flush`. Model:
//! `loom_tests/flush.rs`.

use crate::sys::sync::modelled::{AtomicUsize, Ordering};

/// See the module.
#[derive(Debug)]
pub(crate) struct Reporters(AtomicUsize); // A: begun under W

impl Reporters {
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// The arming begins, and counts as one who has to report.
    pub(crate) fn begin(&self) {
        // Relaxed: the pool lock under which the first reporter is added orders it.
        // guard: s10_03_arming_not_counted
        self.0.store(1, Ordering::Relaxed);
    }

    /// One more will report.
    /// # Context: the lock under which it will find that out held.
    pub(crate) fn one_more(&self) {
        // Relaxed: that lock orders it against the report.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less; true if it was the last, who now has a duty.
    #[must_use]
    pub(crate) fn one_less(&self) -> bool {
        // AcqRel: pairs with itself. The last one sees what all others did before they reported.
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }
}
