// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work and WorkItem: what gets queued.
//!
//! Users embed a [`Work`] in a struct of their own and hand a pointer to it to a [`crate::Queue`].
//! [`pointer`] turns the pointer into an [`raw::Item`]; waiting and taking back are in
//! [`crate::wait`]. Kernel counterpart: `struct work_struct` with `INIT_WORK`; shape and names
//! follow the kernel's Rust bindings.

pub(crate) mod state;

pub(crate) mod list;

pub(crate) mod raw;

pub(crate) mod pointer;

pub(crate) mod delayed;

use crate::error::EnableUnderflow;
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
