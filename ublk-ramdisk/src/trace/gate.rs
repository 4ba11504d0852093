// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a source of BUSY refuses requests at present. Kept all the time, for `stats`; told to
//! whoever records when it changes.

use std::sync::atomic::{AtomicU32, AtomicU8, Ordering::Relaxed};

use super::event::Pressing;
use super::pressure;
use crate::mq::Source;

/// One source of one device. Set by any thread; whoever changes it tells.
#[derive(Debug)]
pub(crate) struct Gate {
    source: Source,
    /// The device's [`crate::mq::Queue::label`].
    device: AtomicU32,
    state: AtomicU8,
}

impl Gate {
    pub(crate) const fn new(source: Source) -> Self {
        Self {
            source,
            device: AtomicU32::new(u32::MAX),
            state: AtomicU8::new(Pressing::Ceased as u8),
        }
    }

    /// Whose it is, known when the device starts.
    pub(crate) fn belongs_to(&self, device: u32) {
        self.device.store(device, Relaxed);
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Relaxed) == Pressing::Ceased as u8
    }

    pub(crate) fn set(&self, state: Pressing) {
        let new = state as u8;
        // Asked first: most calls change nothing, and need not take the line from other threads.
        if self.state.load(Relaxed) != new && self.state.swap(new, Relaxed) != new {
            pressure(self.device.load(Relaxed), self.source, state);
        }
    }

    /// Requests are refused from now on.
    pub(crate) fn close(&self) {
        self.set(Pressing::Began);
    }

    /// They are not any more.
    pub(crate) fn open(&self) {
        self.set(Pressing::Ceased);
    }
}
