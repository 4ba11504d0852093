// SPDX-License-Identifier: MIT OR Apache-2.0
//! The intrusive list that queued items wait on: no memory beyond what the item brings.
//!
//! [`ItemList`] owns its entries as [`Item`]s. An entry can be taken out without knowing its
//! list, as cancelling needs; that is why the head is a link of its own with a fixed address.
//! Kernel counterparts: `struct list_head`, and `struct llist_head` for the [`Inbox`].

use super::sync::modelled::{AtomicPtr, Ordering};
use crate::work::raw::{Item, RawWork};
use std::cell::UnsafeCell;
use std::ptr::{self, NonNull};

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

/// Where items wait for the holder of a lock without anyone taking it.
///
/// One word: the item that came last, chained to those before it, and a mark that says the inbox
/// is *attended*: a holder of the lock has promised that it will be taken again soon, by a thread
/// that is on its way. Nothing is put into an inbox that is not attended; whoever takes the lock
/// empties it and takes the mark away, both in one step. So an item is either met by the next
/// holder, or its owner learns that the lock is his to take. Model: `loom_tests/inbox.rs`.
#[derive(Debug)]
pub(crate) struct Inbox(AtomicPtr<Link>); // A

/// The mark, in a bit that the address of a link has no use for.
const ATTENDED: usize = 1;

const _: () = assert!(align_of::<Link>() > ATTENDED);

impl Inbox {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Asked by a queuer: would an item be taken from here at present? A hint.
    pub(crate) fn is_attended(&self) -> bool {
        self.0.load(Ordering::Relaxed).addr() & ATTENDED != 0
    }

    /// Leaves an item; it comes back if the inbox is not attended.
    pub(crate) fn leave(&self, item: Item) -> Result<(), Item> {
        let link: NonNull<Link> = item.into_raw().cast();
        // AcqRel: pairs with itself and with `take`, which finds the item and all before it whole.
        let left = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |last| {
                if last.addr() & ATTENDED == 0 {
                    return None;
                }
                // SAFETY: the item is ours until the exchange succeeds, and on no list.
                unsafe {
                    *link.as_ref().next.get() = NonNull::new(last.map_addr(|a| a & !ATTENDED));
                }
                Some(link.as_ptr().map_addr(|a| a | ATTENDED))
            });
        match left {
            Ok(_) => Ok(()),
            Err(_) => {
                // SAFETY: taken apart above, and put nowhere.
                unsafe {
                    *link.as_ref().next.get() = None;
                    Err(Item::from_raw(link.cast()))
                }
            }
        }
    }

    /// Promises that the lock will be taken again. To be called by its holder, once.
    pub(crate) fn attend(&self) {
        // A mere store: the inbox was emptied when the lock was taken, and without the mark nobody
        // else writes the word. Relaxed: the mark carries no data.
        self.0
            .store(ptr::without_provenance_mut(ATTENDED), Ordering::Relaxed);
    }

    /// Empties the inbox into `take`, oldest first, and ends its being attended. To be called by
    /// whoever has just taken the lock.
    pub(crate) fn take(&self, mut take: impl FnMut(Item)) {
        // Relaxed: only another holder of the lock gives the mark, without which it stays empty.
        if self.0.load(Ordering::Relaxed).is_null() {
            return;
        }
        // AcqRel: pairs with `leave`.
        let last = self.0.swap(ptr::null_mut(), Ordering::AcqRel);
        let mut at = NonNull::new(last.map_addr(|a| a & !ATTENDED));
        let mut oldest: Option<NonNull<Link>> = None;
        // Turn the chain round.
        while let Some(link) = at {
            // SAFETY: every link in the chain is an item that was left here and is ours now.
            unsafe {
                at = *link.as_ref().next.get();
                *link.as_ref().next.get() = oldest;
            }
            oldest = Some(link);
        }
        while let Some(link) = oldest {
            // SAFETY: as above. The link is taken off the chain before the item goes on.
            let item = unsafe {
                oldest = (*link.as_ref().next.get()).take();
                Item::from_raw(link.cast())
            };
            take(item);
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.take(drop);
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
