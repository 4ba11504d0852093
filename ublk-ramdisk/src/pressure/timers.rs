// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the timers of pressure share while a device lives.

use std::sync::Arc;
use std::time::Instant;

use workqueue::{OwnedQueue, Runtime, VirtualClock};

use crate::mq::{Queue, WeakQueue};

/// The runtime's clock, in nanoseconds since some time before the device was made.
#[derive(Clone, Debug)]
enum Clock {
    /// The machine's.
    Real(Instant),
    /// A test's or a simulation's.
    Virtual(Arc<VirtualClock>),
}

/// What a timer needs. Given to it when the device starts.
#[derive(Clone, Debug)]
pub(super) struct TimerContext {
    pub(super) wq: Arc<OwnedQueue>,
    clock: Clock,
    pub(super) queue: WeakQueue,
}

impl TimerContext {
    /// `wq` is a workqueue of `runtime`, for the timers.
    pub(super) fn new(runtime: &Runtime, wq: &Arc<OwnedQueue>, queue: &Queue) -> Self {
        Self {
            wq: wq.clone(),
            clock: match runtime.virtual_clock() {
                Some(clock) => Clock::Virtual(clock.clone()),
                None => Clock::Real(Instant::now()),
            },
            queue: queue.downgrade(),
        }
    }

    /// Nanoseconds of the clock.
    pub(super) fn now(&self) -> u64 {
        match &self.clock {
            Clock::Real(begin) => begin.elapsed().as_nanos() as u64,
            Clock::Virtual(clock) => clock.now().as_nanos() as u64,
        }
    }
}
