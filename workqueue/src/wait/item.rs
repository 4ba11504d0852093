// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for one item, takes it back before it has run, keeps it from being queued.
//!
//! A waiter puts a *barrier* behind the item; it travels with the item and, when it runs, wakes the
//! waiter. A barrier counts for flushes of the queue in its item's color and takes no slot of
//! max_active. Kernel counterparts: `struct wq_barrier`, `insert_wq_barrier`,
//! `try_to_grab_pending`, `__cancel_work_sync`, `disable_work`.

use super::{find, flush, look, NoPool, Place, Places};
use crate::error::{DisableOverflow, WaitError};
use crate::pool::context::{self, blocking};
use crate::pool::worker_state::Current;
use crate::pool::{registry, PoolGuard, PoolState};
use crate::pwq::{self, Followup};
use crate::sys::sync::Completion;
use crate::work::delayed::{self, Refused, Target, TimerNode};
use crate::work::list::{self, ItemList};
use crate::work::pointer::WorkItem;
use crate::work::{Item, RawWork, Returned, VTable, Work};
use crate::wq::queue::QueueInner;
use std::ptr::NonNull;
use std::sync::Arc;

#[repr(C)]
#[derive(Debug)]
struct Barrier {
    raw: RawWork, // first, so that the item's address is the barrier's
    done: Completion,
}

const TABLE: &VTable = &VTable {
    run: complete,
    release: complete,
    function: || "barrier",
    barrier: true,
};

/// Wakes the waiter: the barrier has run or was dropped.
/// # Safety
/// `raw` comes from `Barrier::new`, once.
unsafe fn complete(raw: NonNull<RawWork>) {
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
        // SAFETY: fits the table, is not shared yet, and no other Item exists for it.
        (unsafe { Item::from_raw(raw) }, barrier)
    }

    fn wait(&self) {
        // A run that waits for another run must let it begin.
        blocking(|| self.done.wait());
    }
}

/// Counts a barrier in, in its target's color.
fn count_in(st: &mut PoolGuard<'_>, pwq: u32, color: u8, barrier: &Item) {
    let pool = st.pool().id;
    let p = st.pwqs.get_mut(pwq);
    p.refs += 1;
    p.nr_in_flight[usize::from(color)] += 1;
    barrier.set_pwq(pwq);
    barrier.state.set_queued(pool, color, true);
}

/// Puts a barrier behind a queued item.
/// # Context: QUEUED set and naming this pool.
fn behind_queued(st: &mut PoolGuard<'_>, work: &RawWork) -> Arc<Barrier> {
    let (item, barrier) = Barrier::new();
    let target = work.snapshot();
    count_in(st, work.pwq(), target.color(), &item);
    if target.linked() {
        item.state.link();
    }
    work.state.link();
    // SAFETY: the caller holds the lock and has seen QUEUED.
    unsafe { list::insert_after(work, item) };
    barrier
}

/// Puts a barrier directly behind a run, ahead of everything else its worker has.
fn behind_run(st: &mut PoolGuard<'_>, (slot, current): (usize, Current)) -> Arc<Barrier> {
    let (item, barrier) = Barrier::new();
    count_in(st, current.pwq, current.color, &item);
    st.workers.get_mut(slot).scheduled.push_front(item);
    barrier
}

/// The places of one item; see [`find`].
struct PlacesOf<'a> {
    work: &'a RawWork,
    timer: Option<&'a TimerNode>,
}

impl Places for PlacesOf<'_> {
    type Pool<'p> = PoolGuard<'p>;
    type Run = (usize, Current);

    fn lock<R>(&self, pool: u32, then: impl FnOnce(PoolGuard<'_>) -> R) -> Result<R, NoPool> {
        let pool = registry::lookup(pool).ok_or(NoPool::Gone)?;
        if pool.env.is_in_forked_child() {
            return Err(NoPool::Forked);
        }
        Ok(then(pool.lock()))
    }

    fn run_in(&self, pool: &PoolGuard<'_>) -> Option<Self::Run> {
        pool.executing(self.work.identity())
    }

    fn is_armed(&self) -> bool {
        self.timer.is_some_and(TimerNode::is_armed)
    }
}

/// What the flush of an item does next.
enum Step {
    Return(bool),
    Wait(Arc<Barrier>, Arc<QueueInner>),
    Expire(Item, Target),
}

/// Waits for the pending instance of an item, or else for its current run; true if there was one.
/// An armed timer expires at once if it is given as `expire`, and is let alone otherwise.
pub(crate) fn flush_item(
    work: &RawWork,
    timer: Option<&TimerNode>,
    mut expire: bool,
) -> Result<bool, WaitError> {
    if context::in_run_of_item(work.identity()) {
        return Err(WaitError::WouldDeadlock);
    }
    let mut waited = false;
    loop {
        let queue_of = |st: &PoolState, pwq| st.pwqs.get(pwq).pwq.queue.clone();
        let step = find(
            &work.state,
            &PlacesOf { work, timer },
            |place| match place {
                Place::Idle(was_pending) => Some(Ok(Step::Return(was_pending))),
                Place::Forked => Some(Err(WaitError::Destroyed)),
                Place::Armed if expire => match timer?.disarm_if(may_wait_for) {
                    Err(e) => Some(Err(e)),
                    Ok(taken) => taken.map(|(item, target)| Ok(Step::Expire(item, target))),
                },
                Place::Armed => Some(Ok(Step::Return(false))),
                Place::Queued(mut st) => {
                    let queue = queue_of(&st, work.pwq());
                    let allowed = may_wait_for(&queue);
                    Some(allowed.map(|()| Step::Wait(behind_queued(&mut st, work), queue)))
                }
                Place::Running(mut st, run) => {
                    let queue = queue_of(&st, run.1.pwq);
                    Some(Ok(Step::Wait(behind_run(&mut st, run), queue)))
                }
            },
        )?;
        match step {
            Step::Return(was_pending) => return Ok(waited || was_pending),
            Step::Wait(barrier, queue) => {
                flush::before_item_flush(&queue, work);
                barrier.wait();
                return Ok(true);
            }
            // Once: an item that arms itself again is not waited for.
            Step::Expire(item, target) => {
                expire = false;
                let delivered = delayed::deliver(target, item);
                waited = delivered.map_err(Refused::report).is_ok();
            }
        }
    }
}

/// Tests if the caller may wait for an item that is queued on `queue` or is to go there.
fn may_wait_for(queue: &Arc<QueueInner>) -> Result<(), WaitError> {
    queue.env.require_online()?;
    if queue.ordered && context::in_run_of(queue) {
        return Err(WaitError::WouldDeadlock);
    }
    Ok(())
}

/// The result of taking an item back.
#[derive(Debug)]
#[must_use]
pub(crate) enum Grab {
    /// It was not pending.
    Idle,
    /// The caller owns it and PENDING: it gives both back, or queues the item again. The duty is
    /// performed without a lock of the crate.
    Got(Item, Followup),
    /// It belongs to a runtime of this process's parent.
    Forked,
}

/// Takes an item off its timer or its list. Waits while the item is in no place.
/// # Context: no lock of the crate held.
fn grab(work: &RawWork, timer: Option<&TimerNode>) -> Grab {
    find(&work.state, &PlacesOf { work, timer }, |place| {
        grab_at(work, timer, place)
    })
}

/// As [`grab`], with one look; None if the item is in no place.
/// # Context: no lock behind S held.
pub(crate) fn try_grab(work: &RawWork, timer: &TimerNode) -> Option<Grab> {
    let timer = Some(timer);
    look(
        &work.state,
        &PlacesOf { work, timer },
        false,
        &mut |place| grab_at(work, timer, place),
    )
}

fn grab_at(
    work: &RawWork,
    timer: Option<&TimerNode>,
    place: Place<PoolGuard<'_>, (usize, Current)>,
) -> Option<Grab> {
    match place {
        Place::Idle(_) | Place::Running(..) => Some(Grab::Idle),
        Place::Forked => Some(Grab::Forked),
        Place::Armed => {
            let (item, _target) = timer?.disarm()?;
            Some(Grab::Got(item, Followup::none()))
        }
        Place::Queued(mut st) => {
            let (item, followup) = take_off(&mut st, work);
            Some(Grab::Got(item, followup))
        }
    }
}

/// Takes a queued item off its list and counts it out.
/// # Context: the lock of its pool held, QUEUED seen under it.
fn take_off(st: &mut PoolState, work: &RawWork) -> (Item, Followup) {
    let before = work.snapshot();
    let number = work.pwq();
    // guard: s10_12_orphaned_barriers
    let item = if before.inactive() && before.linked() {
        // Its barriers take no slot; among the inactive items they would wait for one. They go to
        // the worklist, and their waiters learn that the item is gone.
        let mut chain = ItemList::new();
        // SAFETY: queued on this pool, whose lock the caller holds.
        unsafe { list::move_chain(work, &mut chain, &mut st.marks) };
        let item = chain.pop_front().expect("the chain begins with the item");
        while let Some(barrier) = chain.pop_front() {
            let env = st.pwqs.get(number).pwq.queue.env.clone();
            st.add_active(barrier, || env.clock.coarse());
        }
        item
    } else {
        // SAFETY: queued on this pool, whose lock the caller holds.
        unsafe { list::unlink(work, &mut st.marks) }
    };
    item.state.set_taken_off();
    let mut followup = pwq::retire(st, number, before.color(), !before.inactive());
    followup.wake = st.kick();
    (item, followup)
}

/// Takes a pending instance back; does not wait for a run.
pub(crate) fn cancel(work: &RawWork, timer: Option<&TimerNode>) -> Option<Returned> {
    match grab(work, timer) {
        Grab::Idle | Grab::Forked => None,
        Grab::Got(item, followup) => {
            // First: until the end a claim fails with AlreadyPending.
            let back = item.end();
            followup.perform();
            Some(back)
        }
    }
}

/// As `cancel`, and waits for a run. The item cannot be queued meanwhile.
pub(crate) fn cancel_sync(
    work: &RawWork,
    timer: Option<&TimerNode>,
) -> Result<Option<Returned>, WaitError> {
    let item = disable_sync(work, timer)?;
    // Raised just above, so it cannot be 0.
    let _ignored = work.state.enable();
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
    let item = cancel(work, timer);
    // Disabled: the item is not pending any more, and no further run can begin.
    let barrier = find(
        &work.state,
        &PlacesOf { work, timer },
        |place| match place {
            Place::Idle(_) => Some(Ok(None)),
            Place::Running(mut st, run) => Some(Ok(Some(behind_run(&mut st, run)))),
            Place::Forked => Some(Err(WaitError::Destroyed)),
            Place::Armed | Place::Queued(_) => None,
        },
    );
    match barrier {
        Ok(barrier) => barrier.iter().for_each(|b| b.wait()),
        // An item that was pending here does not run elsewhere.
        Err(e) if item.is_none() => return Err(undo_disable(work, e)),
        Err(_) => {}
    }
    Ok(item)
}

/// Lowers the disable depth again after an error.
fn undo_disable(work: &RawWork, error: WaitError) -> WaitError {
    // Raised by the caller, so it cannot be 0.
    let _ignored = work.state.enable();
    error
}

/// What an item is doing; see [`Work::busy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// A run is owed.
    pub pending: bool,
    /// A run is going on.
    pub running: bool,
}

/// What the item is doing at this moment.
pub(crate) fn busy(work: &RawWork) -> Busy {
    let seen = work.snapshot();
    let pool = seen
        .pool()
        .and_then(registry::lookup)
        .filter(|p| !p.env.is_in_forked_child());
    let running = pool.is_some_and(|p| p.lock().executing(work.identity()).is_some());
    Busy {
        pending: seen.pending(),
        running,
    }
}

impl<T, const ID: u64> Work<T, ID> {
    /// What the item is doing: a snapshot, good as a hint only.
    pub fn busy(&self) -> Busy {
        busy(self.raw())
    }

    /// Waits for the queued instance of the item, or else for its present run. False if there was
    /// neither. Does not wait for an instance queued after the call.
    pub fn flush(&self) -> Result<bool, WaitError> {
        flush_item(self.raw(), None, false)
    }
}

impl<T: WorkItem<ID>, const ID: u64> Work<T, ID> {
    /// Takes the item off its queue, without waiting for a run.
    pub fn cancel(&self) -> Option<T::Pointer> {
        cancel(self.raw(), None).map(|back| self.pointer(back))
    }

    /// As [`Work::cancel`], then waits for the current run; the item cannot be queued meanwhile.
    pub fn cancel_sync(&self) -> Result<Option<T::Pointer>, WaitError> {
        Ok(cancel_sync(self.raw(), None)?.map(|back| self.pointer(back)))
    }

    /// Raises the disable depth, so that the item cannot be queued, and takes it back if pending.
    pub fn disable(&self) -> Result<Option<T::Pointer>, DisableOverflow> {
        Ok(disable(self.raw(), None)?.map(|back| self.pointer(back)))
    }

    /// As [`Work::disable`], then waits for a run.
    pub fn disable_sync(&self) -> Result<Option<T::Pointer>, WaitError> {
        Ok(disable_sync(self.raw(), None)?.map(|back| self.pointer(back)))
    }
}
