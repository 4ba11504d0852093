// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tells those who wait for a change in a pool's set of workers that there was one.
//!
//! Rung by [`super::worker`], [`super::manager`] and [`super::rescuer`]; heard by whoever takes a
//! pool down or makes its workers leave. It has a lock of its own, because the pool's lock is let
//! go by its guard alone.

use crate::sys::sync::{Condvar, Mutex};
use crate::sys::turn;

/// Counts the rings.
#[derive(Debug)]
pub(super) struct Bell {
    rings: Mutex<u64>,
    changed: Condvar,
}

impl Bell {
    pub(super) fn new() -> Self {
        Self {
            rings: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// How often it has been rung. Asked under the pool's lock it misses nothing: whoever changes
    /// the set of workers after that also rings after that.
    pub(super) fn rung(&self) -> u64 {
        *self.rings.lock()
    }

    pub(super) fn ring(&self) {
        *self.rings.lock() += 1;
        self.changed.notify_all();
        turn::news();
    }

    /// Waits until it has been rung more often than `heard`.
    /// # Context: the pool's lock not held.
    pub(super) fn wait_past(&self, heard: u64) {
        if turn::until(|| self.rung() != heard) {
            return;
        }
        let mut rings = self.rings.lock();
        while *rings == heard {
            rings = self.changed.wait(rings);
        }
    }
}
