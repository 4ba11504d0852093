// SPDX-License-Identifier: MIT OR Apache-2.0
//! The entry behind an item that somebody waits for.
//!
//! Put in by [`flush_item`] and by [`super::cancel`]; it travels with its target and, when it runs,
//! tells the waiter. It counts for flushes of the queue in its target's colour and takes no slot.
//! Kernel counterparts: `struct wq_barrier`, `insert_wq_barrier`.

use super::caution;
use crate::error::WaitError;
use crate::pool::workers::Current;
use crate::pool::{concurrency, context, registry, Pool, PoolState};
use crate::sys::list;
use crate::sys::sync::Completion;
use crate::work::raw::{Item, RawWork, VTable};
use std::ptr::NonNull;
use std::sync::Arc;

#[repr(C)]
#[derive(Debug)]
struct Barrier {
    raw: RawWork, // first, so that the item's address is the barrier's
    done: Completion,
}

const TABLE: &VTable = &VTable {
    run: tell,
    release: tell,
    function: || "barrier",
    barrier: true,
};

/// Tells the waiter, whether the barrier has run or was thrown away.
/// # Safety
/// `raw` comes from `Barrier::new`, once.
unsafe fn tell(raw: NonNull<RawWork>) {
    // SAFETY: made by Arc::into_raw in `Barrier::new`, of which `raw` is the beginning.
    let barrier = unsafe { Arc::from_raw(raw.as_ptr().cast::<Barrier>()) };
    barrier.done.complete();
}

impl Barrier {
    fn new() -> (Item, Arc<Self>) {
        let barrier = Arc::new(Self {
            raw: RawWork::new("", TABLE),
            done: Completion::new(),
        });
        let raw = NonNull::new(Arc::into_raw(barrier.clone()).cast_mut().cast())
            .expect("an Arc has an address");
        // SAFETY: fits the table, is nobody else's yet, and no other item stands for it.
        (unsafe { Item::from_raw(raw) }, barrier)
    }

    fn wait(&self) {
        // A run that waits for another one must let it begin.
        concurrency::blocking(|| self.done.wait());
    }
}

/// Counts a barrier in, in its target's colour.
fn count_in(st: &mut PoolState, pool: &Pool, pwq: u32, colour: u8, barrier: &Item) {
    let p = st.pwqs.get_mut(pwq);
    p.refs += 1;
    p.nr_in_flight[usize::from(colour)] += 1;
    barrier.set_pwq(pwq);
    barrier.state.set_queued(pool.id, colour, true);
}

/// Puts a barrier behind a queued item.
/// # Context: the pool's lock held, QUEUED set and naming this pool.
fn behind_queued(st: &mut PoolState, pool: &Pool, work: &RawWork) -> Arc<Barrier> {
    let (item, barrier) = Barrier::new();
    let target = work.snapshot();
    count_in(st, pool, work.pwq(), target.colour(), &item);
    if target.linked() {
        item.state.link();
    }
    work.state.link();
    // SAFETY: the caller holds the lock and has seen QUEUED.
    unsafe { list::insert_after(work, item) };
    barrier
}

/// Puts a barrier directly behind a run, ahead of everything else its worker has.
/// # Context: the pool's lock held.
fn behind_run(st: &mut PoolState, pool: &Pool, slot: usize, current: Current) -> Arc<Barrier> {
    let (item, barrier) = Barrier::new();
    count_in(st, pool, current.pwq, current.colour, &item);
    st.workers.get_mut(slot).scheduled.push_front(item);
    barrier
}

/// Waits for the queued instance of an item, or else for its present run; true if there was one.
pub(crate) fn flush_item(work: &RawWork) -> Result<bool, WaitError> {
    if context::in_run_of_item(work.identity()) {
        return Err(WaitError::WouldDeadlock);
    }
    loop {
        let Some(pool) = work.snapshot().pool().and_then(registry::lookup) else {
            return Ok(false);
        };
        if pool.rt.is_in_forked_child() {
            return Err(WaitError::Destroyed);
        }
        let mut st = pool.lock();
        let now = work.snapshot();
        if now.pool() != Some(pool.id) {
            continue;
        }
        let queue_of = |st: &PoolState, pwq| st.pwqs.get(pwq).pwq.queue.clone();
        let (barrier, queue) = if now.queued() {
            pool.rt.require_online()?;
            let queue = queue_of(&st, work.pwq());
            if queue.ordered && context::in_run_of(&queue) {
                return Err(WaitError::WouldDeadlock);
            }
            (behind_queued(&mut st, &pool, work), queue)
        } else if let Some((slot, current)) = st.executing(work.identity()) {
            let queue = queue_of(&st, current.pwq);
            (behind_run(&mut st, &pool, slot, current), queue)
        } else {
            return Ok(false);
        };
        drop(st);
        caution::before_item_flush(&queue, work);
        barrier.wait();
        return Ok(true);
    }
}

/// Waits for the present run of an item that cannot be queued meanwhile. An error if the item was
/// last on a runtime that a fork has left behind.
/// # Context: not in that run.
pub(crate) fn wait_for_run(work: &RawWork) -> Result<(), WaitError> {
    let Some(pool) = work.snapshot().pool().and_then(registry::lookup) else {
        return Ok(());
    };
    if pool.rt.is_in_forked_child() {
        return Err(WaitError::Destroyed);
    }
    let mut st = pool.lock();
    let Some((slot, current)) = st.executing(work.identity()) else {
        return Ok(());
    };
    let barrier = behind_run(&mut st, &pool, slot, current);
    drop(st);
    barrier.wait();
    Ok(())
}
