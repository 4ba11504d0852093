// SPDX-License-Identifier: MIT OR Apache-2.0
//! Does a source of BUSY refuse requests at present? Kept all the time, for `stats`, and recorded in a
//! trace when it changes.

use std::sync::atomic::{AtomicU32, AtomicU8, Ordering::Relaxed};

use super::event::Pressing;
use super::pressure;
use crate::mq::Source;

/// The state of one source of one device. Any thread may change it; the one that does records it.
#[derive(Debug)]
pub(crate) struct SourceState {
    source: Source,
    /// The device's [`crate::mq::Queue::label`].
    device: AtomicU32,
    /// A [`Pressing`].
    state: AtomicU8,
}

impl SourceState {
    pub(crate) const fn new(source: Source) -> Self {
        Self {
            source,
            device: AtomicU32::new(u32::MAX),
            state: AtomicU8::new(Pressing::Ceased as u8),
        }
    }

    /// Sets the device's label, known when the device starts.
    pub(crate) fn set_device(&self, label: u32) {
        self.device.store(label, Relaxed);
    }

    /// True from `Began` on, also under `Enospc`.
    #[inline]
    pub(crate) fn refuses(&self) -> bool {
        self.state.load(Relaxed) != Pressing::Ceased as u8
    }

    /// Records the change, if it is one. Of two threads that change it alike one records it.
    pub(crate) fn set(&self, state: Pressing) {
        let new = state as u8;
        // Most calls change nothing: a load leaves the cache line with the other CPUs.
        if self.state.load(Relaxed) != new && self.state.swap(new, Relaxed) != new {
            pressure(self.device.load(Relaxed), self.source, state);
        }
    }

    /// Requests are refused from now on.
    pub(crate) fn begin_refusing(&self) {
        self.set(Pressing::Began);
    }

    /// No request is refused from now on.
    pub(crate) fn stop_refusing(&self) {
        self.set(Pressing::Ceased);
    }
}
