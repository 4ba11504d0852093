// SPDX-License-Identifier: MIT OR Apache-2.0
//! The four moments of a run that a sink can follow.
//!
//! Emitted by [`crate::enqueue`], [`crate::pwq::active`] and [`crate::pool::worker`]. Kernel
//! counterpart: the `workqueue` trace events, with the same names and fields.

use crate::sys::clock::VirtualClock;
use crate::sys::cpu;
use crate::sys::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// The clock of the records, if it is a virtual one.
static CLOCK: Mutex<Option<Arc<VirtualClock>>> = Mutex::new(None); // V
static IS_VIRTUAL: AtomicBool = AtomicBool::new(false); // A: written under V

pub(super) fn set_clock(clock: Option<Arc<VirtualClock>>) {
    let mut current = CLOCK.lock();
    IS_VIRTUAL.store(clock.is_some(), Ordering::Relaxed);
    *current = clock;
}

pub(super) fn clock_now() -> u64 {
    if IS_VIRTUAL.load(Ordering::Relaxed) {
        let clock = CLOCK.lock();
        if let Some(clock) = &*clock {
            return u64::try_from(clock.now().as_nanos()).unwrap_or(u64::MAX);
        }
    }
    cpu::monotonic_ns()
}

/// One event. `work` is the item's address, good for telling items apart and for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceEvent<'a> {
    /// `workqueue_queue_work`: a queueing call succeeded.
    Queue {
        /// The item.
        work: usize,
        /// Its function.
        function: &'static str,
        /// The queue's name.
        workqueue: &'a str,
        /// The CPU asked for, -1 for any.
        req_cpu: i32,
        /// The CPU of the pool it went to, -1 for unbound pools.
        cpu: i32,
    },
    /// `workqueue_activate_work`: the item went onto a worklist.
    Activate {
        /// The item.
        work: usize,
        /// Its function.
        function: &'static str,
    },
    /// `workqueue_execute_start`: the function is about to be entered.
    ExecuteStart {
        /// The item.
        work: usize,
        /// Its function.
        function: &'static str,
    },
    /// `workqueue_execute_end`: the function has returned. The item may be gone.
    ExecuteEnd {
        /// The item.
        work: usize,
        /// Its function.
        function: &'static str,
    },
}

impl TraceEvent<'_> {
    /// The event's name in the kernel.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queue { .. } => "workqueue_queue_work",
            Self::Activate { .. } => "workqueue_activate_work",
            Self::ExecuteStart { .. } => "workqueue_execute_start",
            Self::ExecuteEnd { .. } => "workqueue_execute_end",
        }
    }
}

impl TraceEvent<'_> {
    /// The item's address and function.
    pub(crate) fn item(&self) -> (usize, &'static str) {
        match *self {
            Self::Queue { work, function, .. }
            | Self::Activate { work, function }
            | Self::ExecuteStart { work, function }
            | Self::ExecuteEnd { work, function } => (work, function),
        }
    }
}

/// Who follows the events. It is called with locks held: it must not call the crate, nor block.
pub(crate) type Sink = Box<dyn Fn(&TraceEvent<'_>) + Send + Sync>;

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::observe::ring;
    use crate::Runtime;

    #[test]
    fn s12_08_with_no_sink_an_event_is_not_even_made() {
        // Nobody in this test program records or follows. One load then decides; see the README.
        assert!(!ring::anyone_listens());
        let rt = Runtime::builder().build_early();
        rt.inner.trace(|| panic!("made for nobody"));
        assert!(!rt.inner.is_traced());
    }
}
