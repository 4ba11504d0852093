// SPDX-License-Identifier: MIT OR Apache-2.0
//! An item that waits for its time, then goes on to [`crate::enqueue`].
//!
//! While the timer is armed, the timer heap owns the item; [`TimerNode`] says for whom it waits.
//! Kernel counterparts: `struct delayed_work`, `queue_delayed_work_on`, `mod_delayed_work_on`.
//!
//! Who holds PENDING may arm. A canceller that finds PENDING set, the timer not armed and the item
//! not queued has met it between two steps of somebody else and looks again.

use super::offer::{self, offer};
use super::pointer::{RawDelayedWorkItem, WorkItem};
use super::raw::{Item, RawWork};
use super::{Busy, Work};
use crate::enqueue;
use crate::error::{DisableOverflow, EnableUnderflow, EnqueueError, Refusal, WaitError};
use crate::pool::TimerEvent;
use crate::sys::clock::after;
use crate::sys::sync::Mutex;
use crate::sys::timer::Place;
use crate::wait::barrier::flush_item;
use crate::wait::cancel::{self, Grab};
use crate::wq::{QueueInner, DESTROYED};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// Where an item goes when its time has come.
#[derive(Debug)]
pub(crate) struct Target {
    queue: Arc<QueueInner>,
    /// The CPU asked for.
    cpu: Option<usize>,
    /// The CPU the timer was armed on.
    armed_on: usize,
}

/// What a timer that was to be stopped gave back.
#[derive(Debug)]
#[must_use]
pub(crate) enum Disarmed {
    /// It is not armed.
    Idle,
    /// The item and where it was to go.
    Armed(Item, Target),
    /// It was armed before the fork that made this process, and nobody sees to it here.
    Forked,
}

/// The timer half of a delayed item.
#[derive(Debug)]
pub(crate) struct TimerNode {
    place: Place,                  // T
    target: Mutex<Option<Target>>, // D: set by whoever holds PENDING, before arming
}

impl TimerNode {
    const fn new() -> Self {
        Self {
            place: Place::new(),
            target: Mutex::new(None),
        }
    }

    /// Takes the item off its timer.
    pub(crate) fn disarm(&self) -> Disarmed {
        let mut target = self.target.lock();
        let Some(rt) = target.as_ref().map(|t| t.queue.rt.clone()) else {
            return Disarmed::Idle;
        };
        if rt.is_in_forked_child() {
            return Disarmed::Forked;
        }
        // The target names the heap the place belongs to, and stays as it is while we hold it.
        match (rt.timers.disarm(&self.place), target.take()) {
            (Some(TimerEvent::Work(armed)), Some(target)) => Disarmed::Armed(armed.0, target),
            (_, left) => {
                *target = left;
                Disarmed::Idle
            }
        }
    }
}

#[repr(C)]
#[derive(Debug)]
struct RawDelayed {
    raw: RawWork, // first: an item that begins a DelayedWork can be read as one
    timer: TimerNode,
}

// The pointer casts below rely on this.
const _: () = assert!(std::mem::offset_of!(RawDelayed, raw) == 0);
const _: () = assert!(size_of::<RawDelayed>() == size_of::<DelayedWork<()>>());

/// An item that lies with the timer.
#[derive(Debug)]
pub(crate) struct ArmedWork(Item);

impl ArmedWork {
    fn timer(&self) -> &TimerNode {
        let raw: *const RawWork = &*self.0;
        // SAFETY: only items that begin a DelayedWork are put in here, see `arm`.
        unsafe { &(*raw.cast::<RawDelayed>()).timer }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.timer().place
    }
}

/// Claims an item and arms its timer.
pub(crate) fn enqueue<W, const ID: u64>(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    delay: Duration,
    work: W,
) -> Result<(), EnqueueError<W>>
where
    W: RawDelayedWorkItem<ID>,
{
    if let Err(refusal) = enqueue::check(queue, cpu) {
        return Err(EnqueueError::new(refusal, work));
    }
    // SAFETY: the pointer type says that the item begins a DelayedWork.
    offer(work, |item| unsafe { start(queue, cpu, delay, item) })
}

/// Queues a claimed item now or arms its timer.
/// # Safety
/// The item begins a DelayedWork.
unsafe fn start(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    delay: Duration,
    item: Item,
) -> Result<(), (Refusal, Item)> {
    if delay.is_zero() {
        return enqueue::place(queue, cpu, None, item);
    }
    if queue.is_mode(DESTROYED) {
        return Err((Refusal::Destroyed, item));
    }
    let rt = &queue.rt;
    let armed = ArmedWork(item);
    let target = Target {
        queue: queue.clone(),
        cpu,
        armed_on: rt.this_cpu(),
    };
    *armed.timer().target.lock() = Some(target);
    match rt
        .timers
        .arm(after(rt.clock.now(), delay), TimerEvent::Work(armed))
    {
        Err(TimerEvent::Work(armed)) => {
            *armed.timer().target.lock() = None;
            Err((Refusal::Destroyed, armed.0))
        }
        _ => Ok(()),
    }
}

/// What [`crate::Queue::mod_delayed`] found.
#[derive(PartialEq, Eq)]
pub enum Modified<W> {
    /// The item was idle; the queue has the pointer now.
    WasIdle,
    /// The item was pending and has the new delay. The queue has a pointer from before, so the
    /// one passed in comes back.
    WasPending(W),
}

impl<W> fmt::Debug for Modified<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WasIdle => "WasIdle",
            Self::WasPending(_) => "WasPending",
        })
    }
}

/// Gives an item a new delay, whatever it is doing.
pub(crate) fn modify<W, const ID: u64>(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    delay: Duration,
    work: W,
) -> Result<Modified<W>, EnqueueError<W>>
where
    W: RawDelayedWorkItem<ID>,
{
    if let Err(refusal) = enqueue::check(queue, cpu) {
        return Err(EnqueueError::new(refusal, work));
    }
    let mut work = work;
    loop {
        let (found, back) = offer::with_raw(work, |raw| {
            if raw.snapshot().depth() > 0 {
                return None;
            }
            // SAFETY: the pointer type says that the item begins a DelayedWork; it is alive.
            let delayed = unsafe { &*std::ptr::from_ref(raw).cast::<RawDelayed>() };
            Some(cancel::grab(raw, Some(&delayed.timer)))
        });
        work = back;
        match found {
            None => return Err(EnqueueError::new(Refusal::Disabled, work)),
            // SAFETY: the same item, of the same pointer type.
            Some(Grab::Got(item)) => match unsafe { start(queue, cpu, delay, item) } {
                Ok(()) => return Ok(Modified::WasPending(work)),
                Err((refusal, item)) => {
                    drop(item);
                    return Err(EnqueueError::new(refusal, work));
                }
            },
            // Pending for ever, and not in this process.
            Some(Grab::Forked) => return Err(EnqueueError::new(Refusal::Destroyed, work)),
            Some(Grab::Idle) => match enqueue(queue, cpu, delay, work) {
                Ok(()) => return Ok(Modified::WasIdle),
                Err(e) if e.reason() == Refusal::AlreadyPending => work = e.into_inner(),
                Err(e) => return Err(e),
            },
        }
    }
}

/// The time has come. Runs on the timer thread.
pub(crate) fn expired(armed: ArmedWork) {
    let target = armed.timer().target.lock().take();
    let target = target.expect("whoever arms sets the target first");
    deliver(target, armed.0);
}

/// The runtime went down before the time came.
pub(crate) fn abandoned(armed: ArmedWork) {
    if let Some(target) = armed.timer().target.lock().take() {
        target
            .queue
            .counters
            .refused_timer
            .fetch_add(1, Ordering::Relaxed);
    }
    drop(armed.0);
}

fn deliver(target: Target, item: Item) {
    if let Err((refusal, item)) =
        enqueue::place(&target.queue, target.cpu, Some(target.armed_on), item)
    {
        let queue = &target.queue;
        log::warn!(
            "workqueue: delayed {} not queued on {}: {refusal}",
            item.function(),
            queue.name
        );
        // guard: s09_09_expiry_uncounted
        queue.counters.refused_timer.fetch_add(1, Ordering::Relaxed);
        drop(item);
    }
}

/// A work field with a timer. See [`crate::impl_has_delayed_work!`].
///
/// The [`Work`] inside is not to be had: a cancel that does not know of the timer would wait for it
/// to expire.
///
/// ```compile_fail,E0599
/// fn inside<T: workqueue::WorkItem>(field: &workqueue::DelayedWork<T>) {
///     let _cancelled = field.work().cancel();
/// }
/// ```
#[repr(C)]
#[derive(Debug)]
pub struct DelayedWork<T, const ID: u64 = 0> {
    work: Work<T, ID>, // first, see RawDelayed
    timer: TimerNode,
}

impl<T, const ID: u64> DelayedWork<T, ID> {
    /// Is a run owed, be it by the timer or by a queue?
    pub fn is_pending(&self) -> bool {
        self.work.is_pending()
    }

    /// What the item is doing: a snapshot, good as a hint only.
    pub fn busy(&self) -> Busy {
        self.work.busy()
    }

    /// Has an armed timer queue the item now, then waits as [`Work::flush`] does. Kernel
    /// counterpart: `flush_delayed_work`.
    pub fn flush(&self) -> Result<bool, WaitError> {
        match self.timer.disarm() {
            Disarmed::Idle => {}
            Disarmed::Armed(item, target) => deliver(target, item),
            Disarmed::Forked => return Err(WaitError::Destroyed),
        }
        flush_item(self.work.raw())
    }

    /// Waits as [`Work::flush`] does and leaves the timer alone: an item that only waits for its
    /// time is not waited for, and the answer is false unless it is running. Errors as there.
    /// Kernel counterpart: `flush_work` on the `work` of a `struct delayed_work`.
    pub fn flush_queued(&self) -> Result<bool, WaitError> {
        flush_item(self.work.raw())
    }

    /// Lowers the disable depth; true if the item can be queued again.
    pub fn enable(&self) -> Result<bool, EnableUnderflow> {
        self.work.enable()
    }
}

impl<T: WorkItem<ID>, const ID: u64> DelayedWork<T, ID> {
    /// A field for an idle item, with a name for dumps; an empty name stands for the type's.
    pub fn new(name: &'static str) -> Self {
        Self {
            work: Work::new(name),
            timer: TimerNode::new(),
        }
    }

    /// Takes the item off its timer or queue, without waiting for a run.
    pub fn cancel(&self) -> Option<T::Pointer> {
        cancel::cancel(self.work.raw(), Some(&self.timer)).map(|back| self.work.pointer(back))
    }

    /// As [`DelayedWork::cancel`], then waits for a run; the item cannot be queued meanwhile.
    pub fn cancel_sync(&self) -> Result<Option<T::Pointer>, WaitError> {
        Ok(cancel::cancel_sync(self.work.raw(), Some(&self.timer))?
            .map(|back| self.work.pointer(back)))
    }

    /// Keeps the item from being queued until enabled as often, and takes it back if pending.
    pub fn disable(&self) -> Result<Option<T::Pointer>, DisableOverflow> {
        Ok(
            cancel::disable(self.work.raw(), Some(&self.timer))?
                .map(|back| self.work.pointer(back)),
        )
    }

    /// As [`DelayedWork::disable`], then waits for a run.
    pub fn disable_sync(&self) -> Result<Option<T::Pointer>, WaitError> {
        Ok(cancel::disable_sync(self.work.raw(), Some(&self.timer))?
            .map(|back| self.work.pointer(back)))
    }
}
