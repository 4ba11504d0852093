// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the timers of pressure share while a device lives.

use std::sync::Arc;

use workqueue::{OwnedQueue, RunClock, Runtime};

use crate::mq::{Queue, WeakQueue};

/// What a timer needs. Given to it when the device starts.
#[derive(Clone, Debug)]
pub(super) struct TimerContext {
    pub(super) wq: Arc<OwnedQueue>,
    clock: RunClock,
    pub(super) queue: WeakQueue,
}

impl TimerContext {
    /// `wq` is a workqueue of `runtime`, for the timers.
    pub(super) fn new(runtime: &Runtime, wq: &Arc<OwnedQueue>, queue: &Queue) -> Self {
        Self {
            wq: wq.clone(),
            clock: runtime.run_clock().clone(),
            queue: queue.downgrade(),
        }
    }

    /// Nanoseconds of the runtime's clock while the process runs.
    pub(super) fn now(&self) -> u64 {
        self.clock.now().as_nanos() as u64
    }
}
