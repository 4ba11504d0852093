// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work and WorkItem: what gets queued.
//!
//! Users embed a [`Work`] in a struct of their own and hand a pointer to it to a
//! [`crate::Queue`]. Kernel counterpart: `struct work_struct` with `INIT_WORK`; shape and names
//! follow the kernel's Rust bindings.

pub(crate) mod state;

pub(crate) mod raw;

pub(crate) mod pointer;

pub(crate) mod offer;

pub(crate) mod delayed;

pub(crate) mod spawn;

use crate::error::{DisableOverflow, EnableUnderflow, WaitError};
use crate::pool::registry;
use crate::wait::{barrier, cancel};
use pointer::{TableOf, WorkItem};
use raw::{RawWork, Returned};
use std::marker::PhantomData;

/// A work field: what makes a struct an item that can be queued. At most 64 bytes.
///
/// See [`crate::impl_has_work!`] for an example.
#[repr(transparent)]
#[derive(Debug)]
pub struct Work<T, const ID: u64 = 0> {
    raw: RawWork,
    // The field says whose pointers it handles; it holds none itself.
    _item: PhantomData<fn(&T)>,
}

/// What an item is doing; see [`Work::busy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// A run is owed.
    pub pending: bool,
    /// A run is going on.
    pub running: bool,
}

impl<T, const ID: u64> Work<T, ID> {
    pub(crate) fn raw(&self) -> &RawWork {
        &self.raw
    }

    /// Is a run owed?
    pub fn is_pending(&self) -> bool {
        self.raw.snapshot().pending()
    }

    /// What the item is doing: a snapshot, good as a hint only.
    pub fn busy(&self) -> Busy {
        let seen = self.raw.snapshot();
        let pool = seen
            .pool()
            .and_then(registry::lookup)
            .filter(|p| !p.rt.is_in_forked_child());
        let running = pool.is_some_and(|p| p.lock().executing(self.raw.identity()).is_some());
        Busy {
            pending: seen.pending(),
            running,
        }
    }

    /// Waits for the queued instance of the item, or else for its present run. False if there was
    /// neither. What is queued after the call is not waited for.
    pub fn flush(&self) -> Result<bool, WaitError> {
        barrier::flush_item(&self.raw)
    }

    /// Lowers the disable depth; true if the item can be queued again. Queues nothing.
    pub fn enable(&self) -> Result<bool, EnableUnderflow> {
        self.raw.state.enable().ok_or(EnableUnderflow)
    }
}

impl<T: WorkItem<ID>, const ID: u64> Work<T, ID> {
    /// A field for an idle item, with a name for dumps; an empty name stands for the type's.
    pub fn new(name: &'static str) -> Self {
        Self {
            raw: RawWork::new(name, TableOf::<T, ID>::TABLE),
            _item: PhantomData,
        }
    }

    pub(crate) fn pointer(&self, returned: Returned) -> T::Pointer {
        // SAFETY: an item of this field was made from the pointer type the field is for.
        unsafe { offer::give_back::<T::Pointer, ID>(returned) }
    }

    /// Takes the item off its queue, without waiting for a run.
    pub fn cancel(&self) -> Option<T::Pointer> {
        cancel::cancel(&self.raw, None).map(|back| self.pointer(back))
    }

    /// As [`Work::cancel`], then waits for a run; the item cannot be queued meanwhile.
    pub fn cancel_sync(&self) -> Result<Option<T::Pointer>, WaitError> {
        Ok(cancel::cancel_sync(&self.raw, None)?.map(|back| self.pointer(back)))
    }

    /// Keeps the item from being queued until enabled as often, and takes it back if pending.
    pub fn disable(&self) -> Result<Option<T::Pointer>, DisableOverflow> {
        Ok(cancel::disable(&self.raw, None)?.map(|back| self.pointer(back)))
    }

    /// As [`Work::disable`], then waits for a run.
    pub fn disable_sync(&self) -> Result<Option<T::Pointer>, WaitError> {
        Ok(cancel::disable_sync(&self.raw, None)?.map(|back| self.pointer(back)))
    }
}
