// SPDX-License-Identifier: MIT OR Apache-2.0
//! The atomics and locks of this folder, under loom its own, so that the protocols over them can
//! be explored; and an array of atomic words, zeroed and paid for as it is used.

#[cfg(loom)]
pub(super) use loom::{
    sync::atomic::{fence, AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread::yield_now,
};
#[cfg(not(loom))]
pub(super) use std::{
    sync::atomic::{fence, AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread::yield_now,
};

#[cfg(loom)]
pub(super) use loom::sync::{Mutex, MutexGuard};
use std::sync::PoisonError;
#[cfg(not(loom))]
pub(super) use std::sync::{Mutex, MutexGuard};

#[cfg(not(loom))]
use crate::sys::mmap::Mapping;

/// Takes a lock; what these guard is whole after every step, so a panic elsewhere spoils nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The words.
#[cfg(not(loom))]
#[derive(Debug)]
pub(super) struct Words {
    memory: Mapping,
    count: usize,
}

#[cfg(not(loom))]
impl Words {
    /// `count` words of value 0.
    pub(super) fn zeroed(count: usize) -> std::io::Result<Self> {
        let memory = Mapping::anonymous((count * size_of::<AtomicU32>()).max(1))?;
        Ok(Self { memory, count })
    }

    /// All of them.
    #[inline]
    pub(super) fn all(&self) -> &[AtomicU32] {
        // SAFETY: the mapping holds `count` zeroed words, page-aligned, and is
        // used through this function alone.
        unsafe { std::slice::from_raw_parts(self.memory.start().as_ptr().cast(), self.count) }
    }
}

/// The words.
#[cfg(loom)]
#[derive(Debug)]
pub(super) struct Words(Box<[AtomicU32]>);

#[cfg(loom)]
impl Words {
    /// `count` words of value 0.
    pub(super) fn zeroed(count: usize) -> std::io::Result<Self> {
        Ok(Self((0..count).map(|_| AtomicU32::new(0)).collect()))
    }

    /// All of them.
    pub(super) fn all(&self) -> &[AtomicU32] {
        &self.0
    }
}
