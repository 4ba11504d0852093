// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes an item back before it has run; keeps it from being queued.
//!
//! Called by [`crate::Work`] and [`crate::DelayedWork`]. Kernel counterparts:
//! `try_to_grab_pending`, `__cancel_work_sync`, `disable_work`.

use super::barrier::wait_for_run;
use crate::error::{DisableOverflow, WaitError};
use crate::pool::{context, registry, PoolState};
use crate::pwq::{self, Duties};
use crate::sys::list::{self, ItemList};
use crate::work::delayed::{Disarmed, TimerNode};
use crate::work::raw::{Item, RawWork, Returned};

/// What became of the attempt to take an item back.
#[derive(Debug)]
#[must_use]
pub(crate) enum Grab {
    /// It was not pending.
    Idle,
    /// The caller owns it and PENDING: it gives both back, or queues it anew.
    Got(Item),
    /// It belongs to a runtime that a fork has left behind.
    Forked,
}

/// Takes an item off its timer or its list. An item that is between claim and list is waited for.
/// # Context: no lock of the crate held.
pub(crate) fn grab(work: &RawWork, timer: Option<&TimerNode>) -> Grab {
    let mut tries = 0u32;
    loop {
        match timer.map_or(Disarmed::Idle, TimerNode::disarm) {
            Disarmed::Idle => {}
            Disarmed::Armed(item, _target) => return Grab::Got(item),
            Disarmed::Forked => return Grab::Forked,
        }
        let seen = work.snapshot();
        if !seen.pending() {
            return Grab::Idle;
        }
        if seen.with_pool() {
            let Some(pool) = seen.pool().and_then(registry::lookup) else {
                continue;
            };
            if pool.rt.is_in_forked_child() {
                return Grab::Forked;
            }
            let mut st = pool.lock();
            let now = work.snapshot();
            if now.queued() && now.pool() == Some(pool.id) {
                let (item, duties) = take_off(&mut st, work);
                drop(st);
                duties.discharge();
                return Grab::Got(item);
            }
        }
        // Somebody is about to list it, or holds it as we want to. That takes a few instructions,
        // unless the thread is preempted in the middle of them.
        tries += 1;
        if tries.is_multiple_of(64) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Takes a queued item off its list and counts it out.
/// # Context: the lock of its pool held, QUEUED seen under it.
fn take_off(st: &mut PoolState, work: &RawWork) -> (Item, Duties) {
    let before = work.snapshot();
    let number = work.pwq();
    // guard: s10_12_orphaned_barriers
    let item = if before.inactive() && before.linked() {
        // Its barriers take no slot; left among the inactive they would wait for one. They go on,
        // and their waiters learn that the item is gone.
        let mut chain = ItemList::new();
        // SAFETY: queued on this pool, whose lock the caller holds.
        unsafe { list::move_chain(work, &mut chain, &mut st.marks) };
        let item = chain.pop_front().expect("the chain begins with the item");
        while let Some(barrier) = chain.pop_front() {
            let rt = st.pwqs.get(number).pwq.queue.rt.clone();
            st.add_active(barrier, || rt.clock.coarse());
        }
        item
    } else {
        // SAFETY: queued on this pool, whose lock the caller holds.
        unsafe { list::unlink(work, &mut st.marks) }
    };
    item.state.set_taken_off();
    let mut duties = pwq::retire(st, number, before.colour(), !before.inactive());
    duties.wake = st.kick();
    (item, duties)
}

/// Takes a pending instance back; does not wait for a run.
pub(crate) fn cancel(work: &RawWork, timer: Option<&TimerNode>) -> Option<Returned> {
    match grab(work, timer) {
        Grab::Idle | Grab::Forked => None,
        // At once: whoever cancels may go on to wait, and until then a claim would be told that a
        // run is owed.
        Grab::Got(item) => Some(item.end()),
    }
}

/// As `cancel`, and waits for a run. The item cannot be queued meanwhile.
pub(crate) fn cancel_sync(
    work: &RawWork,
    timer: Option<&TimerNode>,
) -> Result<Option<Returned>, WaitError> {
    let item = disable_sync(work, timer)?;
    // Raised just above, so it cannot be 0.
    let _last = work.state.enable();
    Ok(item)
}

/// Keeps the item from being queued and takes a pending instance back.
pub(crate) fn disable(
    work: &RawWork,
    timer: Option<&TimerNode>,
) -> Result<Option<Returned>, DisableOverflow> {
    work.state.disable().ok_or(DisableOverflow)?;
    Ok(cancel(work, timer))
}

/// As `disable`, and waits for a run.
pub(crate) fn disable_sync(
    work: &RawWork,
    timer: Option<&TimerNode>,
) -> Result<Option<Returned>, WaitError> {
    if context::in_run_of_item(work.identity()) {
        return Err(WaitError::WouldDeadlock);
    }
    work.state.disable().ok_or(WaitError::DisableOverflow)?;
    let item = match grab(work, timer) {
        Grab::Idle => None,
        Grab::Got(item) => Some(item.end()),
        Grab::Forked => return Err(undo_disable(work, WaitError::Destroyed)),
    };
    // Disabled: no further run can begin behind our back.
    match wait_for_run(work) {
        // What was pending here does not run elsewhere.
        Err(e) if item.is_none() => Err(undo_disable(work, e)),
        _ => Ok(item),
    }
}

/// The item is not to stay disabled after this error.
fn undo_disable(work: &RawWork, error: WaitError) -> WaitError {
    // Raised by the caller, so it cannot be 0.
    let _last = work.state.enable();
    error
}
