// SPDX-License-Identifier: MIT OR Apache-2.0
//! A number that is raised on the way of a request and read by whoever looks.
//!
//! [`super::counters`] and [`super::source`] are made of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that any thread raises.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// As `add`, by the only thread that ever does.
    #[inline]
    pub(super) fn add_owned(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
