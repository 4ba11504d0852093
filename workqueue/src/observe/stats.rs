// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters with their meaning.
//!
//! Kept per pwq under the pool's lock by [`crate::pool`] and [`crate::pwq`], summed here. Kernel
//! counterpart: `enum pool_workqueue_stats`.

use crate::wq::QueueInner;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The counters of a queue. They only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Runs that have begun.
    pub started: u64,
    /// Runs that have ended.
    pub completed: u64,
    /// CPU time of the runs that have ended.
    pub cpu_time: Duration,
    /// Runs found to use the CPU for too long.
    pub cpu_intensive: u64,
    /// Workers woken because a run went to sleep; per-CPU queues only.
    pub cm_wakeup: u64,
    /// Workers brought back into their pod; unbound queues only.
    pub repatriated: u64,
    /// Calls for the rescuer.
    pub mayday: u64,
    /// Items the rescuer took.
    pub rescued: u64,
    /// Runs that panicked.
    pub panicked: u64,
    /// Runs that left a blocking section open.
    pub leaked_state: u64,
    /// Delayed items that came due on a draining or destroyed queue.
    pub refused_timer: u64,
    /// Waits inside BH items, which hold up all others of their CPU.
    pub bh_blocked: u64,
}

impl QueueInner {
    pub(crate) fn stats(&self) -> QueueStats {
        // The queue's lock keeps a pwq from being released between the two readings.
        let state = self.state.lock();
        let mut sum = state.past;
        for pwq in &state.pwqs {
            sum.add(&pwq.pool.lock().pwqs.get(pwq.number).stats);
        }
        drop(state);
        let counters = &self.counters;
        QueueStats {
            started: sum.started,
            completed: sum.completed,
            cpu_time: Duration::from_nanos(sum.cpu_time_ns),
            cpu_intensive: sum.cpu_intensive,
            cm_wakeup: sum.cm_wakeup,
            repatriated: sum.repatriated,
            mayday: sum.mayday,
            rescued: sum.rescued,
            panicked: counters.panicked.load(Ordering::Relaxed),
            leaked_state: counters.leaked_state.load(Ordering::Relaxed),
            refused_timer: counters.refused_timer.load(Ordering::Relaxed),
            bh_blocked: counters.bh_blocked.load(Ordering::Relaxed),
        }
    }
}
