// SPDX-License-Identifier: MIT OR Apache-2.0
//! The four moments of a run that a sink can follow.
//!
//! Emitted by [`crate::enqueue`], [`crate::pwq::active`] and [`crate::pool::worker`]. Kernel
//! counterpart: the `workqueue` trace events, with the same names and fields.

use crate::pool::context;
use crate::sys::clock::VirtualClock;
use crate::sys::cpu;
use crate::sys::sync::Mutex;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

/// The clock of the records, if it is a virtual one.
static CLOCK: Mutex<Option<Arc<VirtualClock>>> = Mutex::new(None); // V
static IS_VIRTUAL: AtomicBool = AtomicBool::new(false); // A: written under V
/// How many records were made on a virtual clock.
static ORDER: AtomicU32 = AtomicU32::new(0); // A

thread_local! {
    /// How many this thread has made on the machine's.
    static OWN_ORDER: Cell<u32> = const { Cell::new(0) };
}

/// When and where something was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds, as [`super::recorder::now`] counts them.
    pub time: u64,
    /// Raised with each record of a thread, whatever recorder it goes to: what came first of two
    /// records with the same time. On a virtual clock, where much happens at one time, one number
    /// for all threads.
    pub order: u32,
    /// The CPU. On a virtual clock that of the worker's pool, and 0 elsewhere.
    pub cpu: usize,
}

/// Now, here.
pub fn moment() -> Moment {
    let time = clock_now();
    if IS_VIRTUAL.load(Ordering::Relaxed) {
        return Moment {
            time,
            order: ORDER.fetch_add(1, Ordering::Relaxed),
            cpu: context::worker_cpu_if_free().unwrap_or(0),
        };
    }
    // 0 on a thread that is being torn down, which records nothing.
    let order = OWN_ORDER.try_with(|own| own.replace(own.get().wrapping_add(1)));
    Moment {
        time,
        order: order.unwrap_or(0),
        cpu: cpu::current_cpu(),
    }
}

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
