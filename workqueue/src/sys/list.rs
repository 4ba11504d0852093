// SPDX-License-Identifier: MIT OR Apache-2.0
//! The intrusive list that queued items wait on: no memory beyond what the item brings.
//!
//! [`ItemList`] owns its entries as [`Item`]s. An entry can be taken out without knowing its
//! list, as cancelling needs; that is why the head is a link of its own with a fixed address.
//! Kernel counterpart: `struct list_head`.

use crate::work::raw::{Item, RawWork};
use std::cell::UnsafeCell;
use std::ptr::NonNull;

/// The two pointers that put an item on a list. Both dangle to nothing while it is on none.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Link {
    next: UnsafeCell<Option<NonNull<Link>>>,
    prev: UnsafeCell<Option<NonNull<Link>>>,
}

// SAFETY: the pointers are only read and written by this file, by callers that hold the lock of
// the pool whose list the item is on, or that own the item alone.
unsafe impl Sync for Link {}
// SAFETY: a link that is on no list holds no pointer; one that is on a list does not move.
unsafe impl Send for Link {}

impl Link {
    pub(crate) fn new() -> Self {
        Self {
            next: UnsafeCell::new(None),
            prev: UnsafeCell::new(None),
        }
    }
}

/// Makes `b` follow `a`.
/// # Safety
/// Both links are alive, and the caller holds the lock that guards their list.
unsafe fn join(a: NonNull<Link>, b: NonNull<Link>) {
    // SAFETY: alive and guarded, says the caller.
    unsafe {
        *a.as_ref().next.get() = Some(b);
        *b.as_ref().prev.get() = Some(a);
    }
}

/// # Safety
/// The link is alive and on a list that the caller guards.
unsafe fn next_of(a: NonNull<Link>) -> NonNull<Link> {
    // SAFETY: alive and guarded, says the caller; a link on a list has a successor.
    unsafe { (*a.as_ref().next.get()).expect("a link on a list has a successor") }
}

/// # Safety
/// The link is alive and on a list that the caller guards.
unsafe fn prev_of(a: NonNull<Link>) -> NonNull<Link> {
    // SAFETY: alive and guarded, says the caller; a link on a list has a predecessor.
    unsafe { (*a.as_ref().prev.get()).expect("a link on a list has a predecessor") }
}

/// Takes one entry out of whatever list it is on.
/// # Safety
/// `link` is alive, belongs to an item and is on a list that the caller guards.
unsafe fn take_out(link: NonNull<Link>) -> Item {
    // SAFETY: guarded, says the caller. The pointer kept for the item is the one found in its
    // neighbour, hence the one that `insert_between` was given: good for the whole item.
    unsafe {
        let (before, behind) = (prev_of(link), next_of(link));
        let own = next_of(before);
        join(before, behind);
        *own.as_ref().next.get() = None;
        *own.as_ref().prev.get() = None;
        Item::from_raw(own.cast())
    }
}

/// # Safety
/// `before` is alive and on a list (or a head) that the caller guards.
unsafe fn insert_behind(before: NonNull<Link>, item: Item) {
    let new: NonNull<Link> = item.into_raw().cast();
    // SAFETY: `new` is an item the caller owned and which is on no list; the rest is guarded.
    unsafe {
        let behind = next_of(before);
        join(before, new);
        join(new, behind);
    }
}

/// Takes a queued item out of the list it is on.
/// # Safety
/// The caller holds the lock of the pool named in the item's state word, and QUEUED is set there.
pub(crate) unsafe fn unlink(work: &RawWork) -> Item {
    // SAFETY: QUEUED under the lock means: on a list of this pool.
    unsafe { take_out(NonNull::from(&work.link)) }
}

/// Puts `item` directly behind `work`.
/// # Safety
/// As for [`unlink`].
pub(crate) unsafe fn insert_after(work: &RawWork, item: Item) {
    // SAFETY: QUEUED under the lock means: on a list of this pool.
    unsafe { insert_behind(NonNull::from(&work.link), item) }
}

/// Takes `work` and the barriers linked to it out of their list and appends them to `to`.
/// # Safety
/// As for [`unlink`]; `to` is guarded by the same lock.
pub(crate) unsafe fn move_chain(work: &RawWork, to: &mut ItemList) {
    let mut link = NonNull::from(&work.link);
    loop {
        // SAFETY: the first entry is on a list by the caller's word, each further one because
        // LINKED promises a successor on the same list.
        let (item, next) = unsafe {
            let next = next_of(link);
            (take_out(link), next)
        };
        let linked = item.snapshot().linked();
        to.push_back(item);
        if !linked {
            return;
        }
        link = next;
    }
}

/// A list of items, owned by whoever holds the lock it lives under.
#[derive(Debug)]
pub(crate) struct ItemList {
    head: NonNull<Link>,
}

// SAFETY: the entries are Items, which are Send, and the head is owned by the list alone.
unsafe impl Send for ItemList {}

impl ItemList {
    pub(crate) fn new() -> Self {
        let head = NonNull::from(Box::leak(Box::new(Link::new())));
        // SAFETY: the head was made just now and is alive.
        unsafe { join(head, head) };
        Self { head }
    }

    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: the head lives as long as the list, and `&self` comes from under its lock.
        unsafe { next_of(self.head) == self.head }
    }

    pub(crate) fn push_back(&mut self, item: Item) {
        // SAFETY: the head is always on its own list, and `&mut self` comes from under its lock.
        unsafe { insert_behind(prev_of(self.head), item) }
    }

    pub(crate) fn push_front(&mut self, item: Item) {
        // SAFETY: as above.
        unsafe { insert_behind(self.head, item) }
    }

    pub(crate) fn pop_front(&mut self) -> Option<Item> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: not empty, so the head's successor is an item.
        Some(unsafe { take_out(next_of(self.head)) })
    }

    pub(crate) fn front(&self) -> Option<&RawWork> {
        self.iter().next()
    }

    /// The entries from front to back.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RawWork> {
        // SAFETY: `&self` comes from under the lock and keeps the list as it is.
        let mut at = unsafe { next_of(self.head) };
        std::iter::from_fn(move || {
            if at == self.head {
                return None;
            }
            // SAFETY: not the head, hence an item, alive because the list owns it.
            let work = unsafe { at.cast::<RawWork>().as_ref() };
            // SAFETY: on the list, which `&self` keeps as it is.
            at = unsafe { next_of(at) };
            Some(work)
        })
    }
}

impl Drop for ItemList {
    fn drop(&mut self) {
        while let Some(item) = self.pop_front() {
            drop(item);
        }
        // SAFETY: made by Box in `new`, and nothing points to it any more.
        drop(unsafe { Box::from_raw(self.head.as_ptr()) });
    }
}
