// SPDX-License-Identifier: MIT OR Apache-2.0
//! An item that waits for its timer, then goes on to [`crate::enqueue`].
//!
//! While the timer is armed, the timer heap owns the item; [`TimerNode`] says which queue it goes
//! to. Kernel counterparts: `struct delayed_work`, `queue_delayed_work_on`, `mod_delayed_work_on`.
//!
//! The owner of PENDING arms the timer. A canceller may find PENDING set, the timer not armed and
//! the item not queued: another thread is between two steps. It looks again.

use super::pointer::{self, offer, RawDelayedWorkItem, WorkItem};
use super::raw::{Item, RawTimed, RawWork, TimedItem};
use super::Work;
use crate::enqueue;
use crate::env::helpers::TimerEvent;
use crate::error::{DisableOverflow, EnableUnderflow, EnqueueError, Refusal, WaitError};
use crate::sys::clock::after;
use crate::sys::sync::Mutex;
use crate::sys::timer::TimerIndex;
use crate::wait::item::{self, flush_item, Busy, Grab};
use crate::wq::queue::{QueueInner, DESTROYED};
use std::fmt;
use std::mem::offset_of;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// Where an item goes when its timer expires.
#[derive(Debug)]
pub(crate) struct Target {
    queue: Arc<QueueInner>,
    /// The CPU asked for.
    cpu: Option<usize>,
    /// The CPU the timer was armed on.
    armed_on: usize,
}

/// The result of stopping a timer.
#[derive(Debug)]
#[must_use]
pub(crate) enum Disarmed {
    /// It is not armed.
    Idle,
    /// The item and where it was to go.
    Armed(Item, Target),
    /// It was armed before the fork that made this process; nothing expires it here.
    Forked,
}

/// The timer half of a delayed item.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct TimerNode {
    place: TimerIndex,             // T
    target: Mutex<Option<Target>>, // D: set by the owner of PENDING, before arming
}

impl TimerNode {
    const fn new() -> Self {
        Self {
            place: TimerIndex::new(),
            target: Mutex::new(None),
        }
    }

    /// Takes the item off its timer.
    pub(crate) fn disarm(&self) -> Disarmed {
        let mut target = self.target.lock();
        let Some(env) = target.as_ref().map(|t| t.queue.env.clone()) else {
            return Disarmed::Idle;
        };
        if env.is_in_forked_child() {
            return Disarmed::Forked;
        }
        // The target names the heap the place belongs to, and stays as it is while we hold it.
        match (env.timers.disarm(&self.place), target.take()) {
            (Some(TimerEvent::Item(armed)), Some(target)) => {
                Disarmed::Armed(armed.into_item(), target)
            }
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

// The pointer casts rely on this.
const _: () = assert!(offset_of!(RawDelayed, raw) == 0);
const _: () = assert!(offset_of!(RawDelayed, timer) == offset_of!(RawTimed, place));
const _: () = assert!(offset_of!(TimerNode, place) == 0);
const _: () = assert!(size_of::<RawDelayed>() == size_of::<DelayedWork<()>>());

/// Where the item of a timer goes.
fn target_of(timed: &Item) -> &Mutex<Option<Target>> {
    let raw: *const RawWork = &**timed;
    // SAFETY: only items that begin a DelayedWork get a timer, see `start`.
    unsafe { &(*raw.cast::<RawDelayed>()).timer.target }
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

/// Queues a claimed item now, or arms its timer.
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
    let env = &queue.env;
    let target = Target {
        queue: queue.clone(),
        cpu,
        armed_on: env.this_cpu(),
    };
    *target_of(&item).lock() = Some(target);
    // SAFETY: a DelayedWork begins with a RawTimed.
    let armed = TimerEvent::Item(unsafe { TimedItem::new(item) });
    match env.timers.arm(after(env.clock.now(), delay), armed) {
        Err(TimerEvent::Item(armed)) => {
            let item = armed.into_item();
            *target_of(&item).lock() = None;
            Err((Refusal::Destroyed, item))
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

/// Gives an item a new delay, idle or pending.
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
        let (found, back) = pointer::with_raw(work, |raw| {
            if raw.snapshot().depth() > 0 {
                return None;
            }
            // SAFETY: the pointer type says that the item begins a DelayedWork; it is alive.
            let delayed = unsafe { &*std::ptr::from_ref(raw).cast::<RawDelayed>() };
            Some(item::grab(raw, Some(&delayed.timer)))
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
            // Pending in the parent of this process, for ever here.
            Some(Grab::Forked) => return Err(EnqueueError::new(Refusal::Destroyed, work)),
            Some(Grab::Idle) => match enqueue(queue, cpu, delay, work) {
                Ok(()) => return Ok(Modified::WasIdle),
                Err(e) if e.reason() == Refusal::AlreadyPending => work = e.into_inner(),
                Err(e) => return Err(e),
            },
        }
    }
}

/// Queues an item whose timer has expired. Runs on the timer thread.
pub(crate) fn expired(armed: TimedItem) {
    let item = armed.into_item();
    let target = target_of(&item).lock().take();
    let target = target.expect("whoever arms sets the target first");
    deliver(target, item);
}

/// Drops an item whose timer was still armed when the runtime ended.
pub(crate) fn abandoned(armed: TimedItem) {
    let item = armed.into_item();
    if let Some(target) = target_of(&item).lock().take() {
        target
            .queue
            .counters
            .refused_timer
            .fetch_add(1, Ordering::Relaxed);
    }
    drop(item);
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
/// The [`Work`] inside is private: a cancel that does not know of the timer would wait for it to
/// expire.
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
    /// True if the item waits for its timer or for a run.
    pub fn is_pending(&self) -> bool {
        self.work.is_pending()
    }

    /// What the item is doing: a snapshot, good as a hint only.
    pub fn busy(&self) -> Busy {
        self.work.busy()
    }

    /// Queues the item now if its timer is armed, then waits as [`Work::flush`] does. Kernel
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
    /// timer is not waited for; returns false unless it is running. Errors as there. Kernel
    /// counterpart: `flush_work` on the `work` of a `struct delayed_work`.
    pub fn flush_queued(&self) -> Result<bool, WaitError> {
        flush_item(self.work.raw())
    }

    /// Lowers the disable depth; true if the item can be queued again.
    pub fn enable(&self) -> Result<bool, EnableUnderflow> {
        self.work.enable()
    }
}

impl<T: WorkItem<ID>, const ID: u64> DelayedWork<T, ID> {
    /// A field for an idle item, with a name for dumps. With an empty name, dumps show the type's.
    pub fn new(name: &'static str) -> Self {
        Self {
            work: Work::new(name),
            timer: TimerNode::new(),
        }
    }

    /// Takes the item off its timer or queue, without waiting for a run.
    pub fn cancel(&self) -> Option<T::Pointer> {
        item::cancel(self.work.raw(), Some(&self.timer)).map(|back| self.work.pointer(back))
    }

    /// As [`DelayedWork::cancel`], then waits for a run; the item cannot be queued meanwhile.
    pub fn cancel_sync(&self) -> Result<Option<T::Pointer>, WaitError> {
        Ok(item::cancel_sync(self.work.raw(), Some(&self.timer))?
            .map(|back| self.work.pointer(back)))
    }

    /// Raises the disable depth, so that the item cannot be queued, and takes it back if pending.
    pub fn disable(&self) -> Result<Option<T::Pointer>, DisableOverflow> {
        Ok(item::disable(self.work.raw(), Some(&self.timer))?.map(|back| self.work.pointer(back)))
    }

    /// As [`DelayedWork::disable`], then waits for a run.
    pub fn disable_sync(&self) -> Result<Option<T::Pointer>, WaitError> {
        Ok(item::disable_sync(self.work.raw(), Some(&self.timer))?
            .map(|back| self.work.pointer(back)))
    }
}

/// Says which field of a type is its [`crate::DelayedWork`]. Numbers as with
/// [`crate::impl_has_work!`].
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use workqueue::{impl_has_delayed_work, new_delayed_work, DelayedWork, Modified, Runtime, WorkItem};
///
/// struct Watchdog { bark: DelayedWork<Watchdog> }
/// impl_has_delayed_work! { impl HasDelayedWork<Self> for Watchdog { self.bark } }
/// impl WorkItem for Watchdog {
///     type Pointer = Arc<Self>;
///     fn run(_: Arc<Self>) { println!("nobody fed me"); }
/// }
///
/// let runtime = Runtime::builder().start()?;
/// let queue = runtime.system_percpu();
/// let dog = Arc::new(Watchdog { bark: new_delayed_work!() });
/// queue.enqueue_delayed(Duration::from_secs(60), dog.clone())?;
/// // Fed: the time begins anew. The queue has a pointer already, so this one comes back.
/// let fed = queue.mod_delayed(Duration::from_secs(60), dog.clone())?;
/// assert!(matches!(fed, Modified::WasPending(_)));
/// assert!(dog.bark.cancel_sync()?.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// An item without a timer cannot be delayed:
///
/// ```compile_fail,E0277
/// # use workqueue::{impl_has_work, new_work, Work, WorkItem};
/// # use std::{sync::Arc, time::Duration};
/// struct Plain { work: Work<Plain> }
/// impl_has_work! { impl HasWork<Self> for Plain { self.work } }
/// impl WorkItem for Plain { type Pointer = Arc<Self>; fn run(_: Arc<Self>) {} }
/// workqueue::schedule_delayed(Duration::from_secs(1), Arc::new(Plain { work: new_work!() }));
/// ```
///
/// A field without a timer is refused:
///
/// ```compile_fail,E0308
/// # use workqueue::{impl_has_delayed_work, Work, WorkItem};
/// # use std::sync::Arc;
/// struct Plain { work: Work<Plain> }
/// impl_has_delayed_work! { impl HasDelayedWork<Self> for Plain { self.work } }
/// impl WorkItem for Plain { type Pointer = Arc<Self>; fn run(_: Arc<Self>) {} }
/// ```
///
/// A packed struct is refused:
///
/// ```compile_fail,E0793
/// # use workqueue::{impl_has_delayed_work, DelayedWork};
/// trait Kind { type Field; }
/// #[repr(packed)]
/// struct Packed<K: Kind> { number: u8, work: K::Field }
/// struct Mine;
/// impl Kind for Mine { type Field = DelayedWork<Packed<Mine>>; }
/// impl_has_delayed_work! { impl HasDelayedWork<Self> for Packed<Mine> { self.work } }
/// ```
#[macro_export]
macro_rules! impl_has_delayed_work {
    ($(impl$({$($generics:tt)*})? HasDelayedWork<$item:ty $(, $id:literal)?> for $this:ty { self.$field:ident })*) => {$(
        // SAFETY: both directions use the same field of the same type, whose beginning is the Work.
        unsafe impl$(<$($generics)*>)? $crate::HasWork<$item $(, $id)?> for $this {
            unsafe fn raw_get_work(this: *mut Self) -> *mut $crate::Work<$item $(, $id)?> {
                // Does not compile for a packed struct, where the field may be misaligned.
                let _in_its_place = |this: &Self| {
                    let _field: &$crate::DelayedWork<$item $(, $id)?> = &this.$field;
                };
                // SAFETY: `this` is alive, says the caller.
                let field: *mut $crate::DelayedWork<$item $(, $id)?> =
                    unsafe { ::core::ptr::addr_of_mut!((*this).$field) };
                field.cast()
            }

            unsafe fn work_container_of(work: *mut $crate::Work<$item $(, $id)?>) -> *mut Self {
                // SAFETY: `work` begins the field of a live value, says the caller.
                unsafe { work.byte_sub(::core::mem::offset_of!(Self, $field)).cast() }
            }
        }

        // SAFETY: the field above is a DelayedWork; its type is checked there.
        unsafe impl$(<$($generics)*>)? $crate::HasDelayedWork<$item $(, $id)?> for $this {}
    )*};
}

/// A [`crate::DelayedWork`] field's initial value, with an optional name for dumps.
#[macro_export]
macro_rules! new_delayed_work {
    () => {
        $crate::DelayedWork::new("")
    };
    ($name:literal) => {
        $crate::DelayedWork::new($name)
    };
}
