// SPDX-License-Identifier: MIT OR Apache-2.0
//! Warns of waits that can deadlock under some conditions.
//!
//! Called by [`super::flush`] and [`super::item`] before they wait; the wait follows in any case.
//! Each pair of queue and function is warned of once. Waits that certainly never end are refused
//! with `WouldDeadlock`. Kernel counterpart: `check_flush_dependency`.

use crate::pool::context;
use crate::work::raw::RawWork;
use crate::wq::attrs::Flags;
use crate::wq::queue::QueueInner;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

thread_local! {
    /// The number of open `ReclaimScope`s on this thread.
    static RECLAIMING: Cell<u32> = const { Cell::new(0) };
}

/// While it lives, the thread counts as one that frees memory. It must not wait for a queue without
/// MEM_RECLAIM, which may itself wait for memory. See [`reclaim_scope`].
#[derive(Debug)]
#[must_use = "the scope ends when this is dropped"]
pub struct ReclaimScope {
    // Belongs to the thread that made it.
    _here: PhantomData<*const ()>,
}

/// Begins a scope in which the calling thread frees memory. Flushing a queue without MEM_RECLAIM in
/// it logs a warning. Scopes may nest. Kernel counterpart: the PF_MEMALLOC mark of a task.
///
/// ```
/// let _scope = workqueue::reclaim_scope();
/// ```
pub fn reclaim_scope() -> ReclaimScope {
    RECLAIMING.set(RECLAIMING.get() + 1);
    ReclaimScope { _here: PhantomData }
}

impl Drop for ReclaimScope {
    fn drop(&mut self) {
        RECLAIMING.set(RECLAIMING.get() - 1);
    }
}

/// The run, or thread, that is about to wait.
struct Waiter {
    queue: Option<Arc<QueueInner>>,
    function: &'static str,
}

fn waiter() -> Waiter {
    context::with_run(|_, run| Waiter {
        queue: Some(run.pwq.queue.clone()),
        function: run.function,
    })
    .unwrap_or(Waiter {
        queue: None,
        function: "a thread",
    })
}

/// True if others may wait for memory that this run or thread frees.
fn is_reclaiming(waiter: &Waiter) -> bool {
    let reclaim_run = |q: &Arc<QueueInner>| q.flags.contains(Flags::MEM_RECLAIM) && !q.legacy;
    RECLAIMING.get() > 0 || waiter.queue.as_ref().is_some_and(reclaim_run)
}

/// True if a run of the queue may have to wait for another run to end.
fn is_serial(queue: &QueueInner) -> bool {
    queue.has_rescuer() || queue.state.lock().saved_max == 1
}

/// Warns if a thread that frees memory waits for a queue without a rescuer.
fn warn_of_reclaim(target: &QueueInner, waiter: &Waiter) {
    if target.flags.contains(Flags::MEM_RECLAIM) || !is_reclaiming(waiter) {
        return;
    }
    if target.env.first_wait_warning(&target.name, waiter.function) {
        let from = waiter.queue.as_ref().map_or("", |q| q.name.as_str());
        log::warn!(
            "workqueue: {} {from} makes memory free and waits for {}, which is not MEM_RECLAIM",
            waiter.function,
            target.name
        );
    }
}

/// Called before a flush or drain of a whole queue.
/// # Context: no lock of the crate held.
pub(super) fn before_flush(target: &QueueInner) {
    warn_of_reclaim(target, &waiter());
}

/// Called before a flush of an item that is on `target`, or runs for it.
/// # Context: no lock of the crate held.
pub(super) fn before_item_flush(target: &QueueInner, work: &RawWork) {
    let function = work.function();
    let waiter = waiter();
    let within = waiter
        .queue
        .as_ref()
        .is_some_and(|q| std::ptr::eq(Arc::as_ptr(q), target));
    if within && is_serial(target) && target.env.first_wait_warning(&target.name, waiter.function) {
        log::warn!(
            "workqueue: {} waits for {function} of the same queue {}, which may have one context for both",
            waiter.function,
            target.name
        );
    }
    warn_of_reclaim(target, &waiter);
}
