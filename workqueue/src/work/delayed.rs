// SPDX-License-Identifier: MIT OR Apache-2.0
//! An item that waits for its timer, then goes on to [`crate::enqueue`].
//!
//! While the timer is armed, the timer heap owns the item; [`TimerNode`] says which queue it goes
//! to. Kernel counterparts: `struct delayed_work`, `queue_delayed_work_on`, `mod_delayed_work_on`.
//!
//! The owner of PENDING arms the timer.

use super::pointer::{self, claim, offer, RawDelayedWorkItem, WorkItem};
use super::{Identity, Item, RawTimed, RawWork, Returned, TimedItem, Work};
use crate::enqueue::{self, Entry};
use crate::env::helpers::TimerEvent;
use crate::error::{DisableOverflow, EnableUnderflow, EnqueueError, Refusal, WaitError};
use crate::pool::registry;
use crate::sys::clock::after;
use crate::sys::log_safely;
use crate::sys::sync::modelled::back_off;
use crate::sys::sync::Mutex;
use crate::sys::timer::TimerIndex;
use crate::wait::item::{self, flush_item, Busy, Grab};
use crate::wq::queue::QueueInner;
use std::convert::Infallible;
use std::fmt;
use std::mem::offset_of;
use std::ptr::NonNull;
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

    /// A hint, unless the caller keeps others from arming.
    pub(crate) fn is_armed(&self) -> bool {
        self.place.is_armed()
    }

    /// Takes the item off its timer; None if it is not armed.
    pub(crate) fn disarm(&self) -> Option<(Item, Target)> {
        let Ok(taken) = self.disarm_if(|_| Ok::<_, Infallible>(()));
        taken
    }

    /// As [`TimerNode::disarm`], unless `allowed` refuses the queue that the item is to go to.
    pub(crate) fn disarm_if<E>(
        &self,
        allowed: impl FnOnce(&Arc<QueueInner>) -> Result<(), E>,
    ) -> Result<Option<(Item, Target)>, E> {
        // A child may queue an item that is idle by now on a runtime of its own: it is not locked there.
        let _forks = registry::hold_forks();
        // While it is held, the target belongs to the heap that the timer is in.
        let mut target = self.target.lock();
        let Some(queue) = target.as_ref().map(|t| t.queue.clone()) else {
            return Ok(None);
        };
        allowed(&queue)?;
        let Some(TimerEvent::Item(armed)) = queue.env.timers.disarm(&self.place) else {
            return Ok(None);
        };
        Ok(target.take().map(|target| (armed.into_item(), target)))
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

/// The timer of an item.
/// # Safety
/// `raw` is good for a whole DelayedWork, which outlives the result.
unsafe fn timer_of<'a>(raw: NonNull<RawWork>) -> &'a TimerNode {
    // SAFETY: a DelayedWork is laid out as a RawDelayed; the rest is the caller's word.
    unsafe { &raw.cast::<RawDelayed>().as_ref().timer }
}

/// Where the item of a timer goes.
fn target_of(timed: &TimedItem) -> &Mutex<Option<Target>> {
    // SAFETY: the item begins a DelayedWork and is alive, see `TimedItem::new`.
    unsafe { &timer_of(timed.as_ptr()).target }
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
    match admit(queue, cpu, delay) {
        // SAFETY: the pointer type says that the item begins a DelayedWork.
        Ok(entry) => offer(work, claim, |item, ()| unsafe {
            start(&entry, delay, item)
        }),
        Err(refusal) => Err(enqueue::refuse(refusal, work)),
    }
}

/// Lets in an item that is to be queued after `delay`: a queue that drains takes none at once.
fn admit(
    queue: &Arc<QueueInner>,
    cpu: Option<usize>,
    delay: Duration,
) -> Result<Entry<'_>, Refusal> {
    let entry = enqueue::enter(queue, cpu, None)?;
    if delay.is_zero() {
        entry.require_open()?;
    }
    Ok(entry)
}

/// Queues a claimed item now, or arms its timer.
/// # Safety
/// The item begins a DelayedWork.
unsafe fn start(entry: &Entry<'_>, delay: Duration, item: Item) {
    if delay.is_zero() {
        return entry.place(item);
    }
    // SAFETY: a DelayedWork begins with a RawTimed.
    let armed = unsafe { TimedItem::new(item) };
    let env = &entry.queue.env;
    *target_of(&armed).lock() = Some(Target {
        queue: entry.queue.clone(),
        cpu: entry.cpu,
        armed_on: env.this_cpu(),
    });
    let due = after(env.clock.now(), delay);
    // The timers are closed after the queue has given up its slots, one of which is held here.
    let armed = env.timers.arm(due, TimerEvent::Item(armed));
    debug_assert!(armed.is_ok(), "a queue with a pwq has timers");
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
    let mut work = work;
    for looks in 0.. {
        // Before the item is taken off: a refusal leaves it where it is.
        let entry = match admit(queue, cpu, delay) {
            Ok(entry) => entry,
            Err(refusal) => return Err(EnqueueError::new(refusal, work)),
        };
        // SAFETY: the pointer type says that the item begins a DelayedWork.
        match offer(work, claim, |item, ()| unsafe {
            start(&entry, delay, item)
        }) {
            Ok(()) => return Ok(Modified::WasIdle),
            Err(e) if e.reason() == Refusal::AlreadyPending => work = e.into_inner(),
            Err(e) => return Err(e),
        }
        let (found, back) = pointer::with_raw(work, |raw| {
            // SAFETY: the pointer that is held here keeps the item alive, and its type says that
            // the item begins a DelayedWork.
            let (work, timer) = unsafe { (raw.as_ref(), timer_of(raw)) };
            match work.snapshot().depth() {
                0 => Ok(item::try_grab(work, timer)),
                _ => Err(Refusal::Disabled),
            }
        });
        work = back;
        match found {
            Err(refusal) => return Err(EnqueueError::new(refusal, work)),
            Ok(Some(Grab::Got(item, followup))) => {
                // SAFETY: the same item, of the same pointer type.
                unsafe { start(&entry, delay, item) };
                drop(entry);
                followup.perform();
                return Ok(Modified::WasPending(work));
            }
            // Pending in the parent of this process, for ever here.
            Ok(Some(Grab::Forked)) => return Err(EnqueueError::new(Refusal::Destroyed, work)),
            Ok(Some(Grab::Idle)) => {}
            Ok(None) => {
                // Another thread has the item, and may wait for the slot in turn.
                drop(entry);
                back_off(looks);
            }
        }
    }
    unreachable!("the loop ends by returning")
}

/// Queues an item whose timer has expired. Runs on the timer thread.
pub(crate) fn expired(armed: TimedItem) -> Result<(), Refused> {
    let target = target_of(&armed).lock().take();
    let target = target.expect("whoever arms sets the target first");
    deliver(target, armed.into_item())
}

/// Ends an item whose timer was still armed when the runtime ended. The caller drops its pointer.
pub(crate) fn abandoned(armed: TimedItem) -> Returned {
    let target = target_of(&armed).lock().take();
    if let Some(target) = target {
        target
            .queue
            .counters
            .refused_timer
            .fetch_add(1, Ordering::Relaxed);
    }
    armed.into_item().end()
}

/// An item that was refused when its timer expired. It is not pending any more.
#[must_use]
pub(crate) struct Refused {
    queue: Arc<QueueInner>,
    refusal: Refusal,
    item: Returned,
}

impl Refused {
    /// Warns, and drops the item's pointer. Both may call code of the program, which may wait.
    /// # Context: not on a helper thread.
    pub(crate) fn report(self) {
        log_safely!(
            warn,
            "workqueue: delayed {} not queued on {}: {}",
            self.item.function(),
            self.queue.name,
            self.refusal
        );
        drop(self.item);
    }
}

/// Queues an item now whose timer was to do it later.
/// # Context: no lock of the crate held.
pub(crate) fn deliver(target: Target, item: Item) -> Result<(), Refused> {
    let queue = target.queue;
    let placed = enqueue::place(&queue, target.cpu, Some(target.armed_on), item);
    placed.map_err(|(refusal, item)| {
        // guard: s09_09_expiry_uncounted
        queue.counters.refused_timer.fetch_add(1, Ordering::Relaxed);
        let item = item.end();
        Refused {
            queue,
            refusal,
            item,
        }
    })
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
    pub(crate) timer: TimerNode,
}

impl<T, const ID: u64> DelayedWork<T, ID> {
    /// True if the item waits for its timer or for a run.
    pub fn is_pending(&self) -> bool {
        self.work.is_pending()
    }

    pub(crate) fn identity(&self) -> Identity {
        self.work.raw().identity()
    }

    /// What the item is doing: a snapshot, good as a hint only.
    pub fn busy(&self) -> Busy {
        self.work.busy()
    }

    /// Queues the item now if its timer is armed, then waits as [`Work::flush`] does. Kernel
    /// counterpart: `flush_delayed_work`.
    pub fn flush(&self) -> Result<bool, WaitError> {
        flush_item(self.work.raw(), Some(&self.timer), true)
    }

    /// Waits as [`Work::flush`] does and leaves the timer alone: an item that only waits for its
    /// timer is not waited for; returns false unless it is running. Errors as there. Kernel
    /// counterpart: `flush_work` on the `work` of a `struct delayed_work`.
    pub fn flush_queued(&self) -> Result<bool, WaitError> {
        flush_item(self.work.raw(), Some(&self.timer), false)
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
                let field: *mut $crate::DelayedWork<$item $(, $id)?> =
                    // SAFETY: `this` is alive, says the caller.
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
