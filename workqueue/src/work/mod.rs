// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work and WorkItem: what gets queued; the type-free core of an item, and the token that owns a
//! queued one.
//!
//! Users embed a [`Work`] in a struct of their own and hand a pointer to it to a [`crate::Queue`].
//! [`pointer::offer`] turns the pointer into an [`Item`]; lists, timers and workers pass that on.
//! Waiting and taking back are in [`crate::wait`]. Kernel counterpart: `struct work_struct` with
//! `INIT_WORK`; shape and names follow the kernel's Rust bindings.
//!
//! While PENDING is set, exactly one [`Item`] exists for the work. It stands for the pointer that
//! the caller gave away (an `Arc` count, a `Box`). Running it or dropping it gives that pointer
//! back to safe code exactly once.

pub(crate) mod state;

pub(crate) mod list;

pub(crate) mod pointer;

pub(crate) mod delayed;

use crate::error::EnableUnderflow;
use crate::sys::timer::TimerIndex;
use list::Link;
use pointer::{TableOf, WorkItem};
use state::{Snapshot, WorkState};
use std::marker::PhantomData;
use std::mem::{offset_of, ManuallyDrop};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A work field: what makes a struct an item that can be queued. At most 64 bytes.
///
/// See [`crate::impl_has_work!`] for an example.
#[repr(transparent)]
#[derive(Debug)]
pub struct Work<T, const ID: u64 = 0> {
    raw: RawWork,
    // The field handles pointers to `T` and holds none itself.
    _item: PhantomData<fn(&T)>,
}

impl<T, const ID: u64> Work<T, ID> {
    pub(crate) fn raw(&self) -> &RawWork {
        &self.raw
    }

    /// True if the item waits for a run.
    pub fn is_pending(&self) -> bool {
        self.raw.snapshot().pending()
    }

    /// Lowers the disable depth; true if the item can be queued again. Queues nothing.
    pub fn enable(&self) -> Result<bool, EnableUnderflow> {
        self.raw.state.enable().ok_or(EnableUnderflow)
    }
}

impl<T: WorkItem<ID>, const ID: u64> Work<T, ID> {
    /// A field for an idle item, with a name for dumps. With an empty name, dumps show the type's.
    pub fn new(name: &'static str) -> Self {
        Self {
            raw: RawWork::new(name, TableOf::<T, ID>::TABLE),
            _item: PhantomData,
        }
    }

    pub(crate) fn pointer(&self, returned: Returned) -> T::Pointer {
        // SAFETY: an item of this field was made from the pointer type the field is for.
        unsafe { pointer::give_back::<T::Pointer, ID>(returned) }
    }
}

/// The part of a work item that does not depend on its type. Opaque to users; it is public only
/// because the traits that embed it are.
#[repr(C)]
#[derive(Debug)]
pub struct RawWork {
    // First, so that a link found in a list can be read as the item it belongs to.
    pub(crate) link: Link,       // L: the lock of the pool named in `state`
    pub(crate) state: WorkState, // see work/state.rs
    vtable: &'static VTable,     // I
    name: &'static str,          // I
    instance: u64,               // I: tells this item from one that used the same memory before
    pwq: AtomicU32,              // L: its pwq's place in that pool
}

const _: () = assert!(cfg!(loom) || size_of::<RawWork>() <= 64);

/// What the crate needs to know of the concrete type.
#[derive(Debug)]
pub(crate) struct VTable {
    /// Takes the pointer back and runs the item's function with it.
    pub(crate) run: unsafe fn(NonNull<RawWork>),
    /// Takes the pointer back and drops it.
    pub(crate) release: unsafe fn(NonNull<RawWork>),
    /// The function's name, for traces and dumps.
    pub(crate) function: fn() -> &'static str,
    /// An internal entry behind the item a flusher waits for.
    pub(crate) barrier: bool,
}

/// Same address and same construction: the "same item" of the non-reentrance rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) address: usize,
    pub(crate) instance: u64,
}

static INSTANCES: AtomicU64 = AtomicU64::new(1);

impl RawWork {
    pub(crate) fn new(name: &'static str, vtable: &'static VTable) -> Self {
        Self {
            link: Link::new(),
            state: WorkState::new(),
            vtable,
            name,
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed),
            pwq: AtomicU32::new(0),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            address: std::ptr::from_ref(self).addr(),
            instance: self.instance,
        }
    }

    /// The function's name, or the name the item was given.
    pub(crate) fn function(&self) -> &'static str {
        if self.name.is_empty() {
            (self.vtable.function)()
        } else {
            self.name
        }
    }

    pub(crate) fn is_barrier(&self) -> bool {
        self.vtable.barrier
    }

    /// Which pwq of its pool the item counts for.
    /// # Context: the lock of the pool named in the state word held.
    pub(crate) fn pwq(&self) -> u32 {
        self.pwq.load(Ordering::Relaxed)
    }

    /// # Context: the lock of the pool that takes the item held.
    pub(crate) fn set_pwq(&self, pwq: u32) {
        self.pwq.store(pwq, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.state.load()
    }
}

/// The pointer of an item that is pending no more, on its way back to the caller.
#[derive(Debug)]
pub(crate) struct Returned(NonNull<RawWork>);

// SAFETY: it stands for a pointer that was required to be Send when it was enqueued.
unsafe impl Send for Returned {}

impl Returned {
    /// Gives up the token without giving up the pointer it stands for.
    pub(crate) fn into_raw(self) -> NonNull<RawWork> {
        ManuallyDrop::new(self).0
    }

    pub(crate) fn function(&self) -> &'static str {
        // SAFETY: the pointer this token stands for keeps the item alive.
        unsafe { self.0.as_ref() }.function()
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        // SAFETY: the token stood for the pointer, which keeps the item alive, and ends here.
        unsafe {
            let release = self.0.as_ref().vtable.release;
            release(self.0);
        }
    }
}

/// The owner of a pending item. There is never a second one for the same item.
#[derive(Debug)]
pub(crate) struct Item(NonNull<RawWork>);

// SAFETY: an Item stands for a pointer that was required to be Send when it was enqueued.
unsafe impl Send for Item {}

impl Item {
    /// # Safety
    /// `raw` comes from the `into_raw_work` of the pointer type in the vtable, the caller holds
    /// PENDING, and no other `Item` for it exists.
    pub(crate) unsafe fn from_raw(raw: NonNull<RawWork>) -> Self {
        Self(raw)
    }

    /// Gives up the token without giving up the pointer it stands for.
    pub(crate) fn into_raw(self) -> NonNull<RawWork> {
        ManuallyDrop::new(self).0
    }

    /// Ends being pending without a run. From here on the item can be queued again.
    pub(crate) fn end(self) -> Returned {
        self.state.release();
        Returned(self.into_raw())
    }

    /// Runs the item's function with the caller's pointer. Nothing of the item is touched here
    /// after the function has been entered.
    pub(crate) fn run(self) {
        let raw = self.into_raw();
        // SAFETY: the token stood for the pointer, and it is used up by this call.
        unsafe {
            let run = raw.as_ref().vtable.run;
            run(raw);
        }
    }
}

impl Deref for Item {
    type Target = RawWork;

    fn deref(&self) -> &RawWork {
        // SAFETY: the pointer this token stands for keeps the item alive and in place.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        // Before the pointer goes, as it may be the last one.
        self.state.release();
        drop(Returned(self.0));
    }
}

/// The beginning of an item with a timer.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RawTimed {
    raw: RawWork,                 // first: an item that begins a RawTimed can be read as one
    pub(crate) place: TimerIndex, // T
}

const _: () = assert!(offset_of!(RawTimed, raw) == 0);

/// The owner of a pending item that begins a [`RawTimed`]: the timer heap keeps these.
#[derive(Debug)]
pub(crate) struct TimedItem(Item);

impl TimedItem {
    /// # Safety
    /// The item begins a [`RawTimed`].
    pub(crate) unsafe fn new(item: Item) -> Self {
        Self(item)
    }

    /// The item's address, good for all that the pointer was good for from which it was made.
    pub(crate) fn as_ptr(&self) -> NonNull<RawWork> {
        self.0 .0
    }

    /// The item's place in the timer heap.
    pub(crate) fn place(&self) -> &TimerIndex {
        // SAFETY: the item is alive and begins a RawTimed, as `new` requires.
        unsafe { &self.as_ptr().cast::<RawTimed>().as_ref().place }
    }

    pub(crate) fn into_item(self) -> Item {
        self.0
    }
}
