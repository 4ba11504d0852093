// SPDX-License-Identifier: MIT OR Apache-2.0
//! The intrusive list that queued items wait on: no memory beyond what the item brings.
//!
//! [`ItemList`] owns its entries as [`Item`]s. Cancelling takes an entry out without knowing its
//! list; that is why the head is a link of its own with a fixed address. Kernel counterparts:
//! `struct list_head`, and `struct llist_head` for the [`Inbox`].

use super::{Item, RawWork};
use crate::sys::sync::modelled::{AtomicPtr, Ordering};
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

/// The positions of searches through a list. Each mark rests on the last entry that its search has
/// passed, or on the list's head, and steps back when that entry leaves. Empty while nothing
/// searches.
#[derive(Debug, Default)]
pub(crate) struct Marks(Vec<(u32, NonNull<Link>)>);

// SAFETY: a mark is used only together with the list it is in, under the lock of both.
unsafe impl Send for Marks {}

impl Marks {
    /// Makes room, so that beginning a search never allocates.
    pub(crate) fn reserve(&mut self, searches: usize) {
        self.0.reserve(searches.saturating_sub(self.0.len()));
    }

    /// Ends a search.
    pub(crate) fn end(&mut self, search: u32) {
        self.0.retain(|(whose, _)| *whose != search);
    }

    fn of(&mut self, search: u32, begin: NonNull<Link>) -> &mut NonNull<Link> {
        let known = self.0.iter().position(|(whose, _)| *whose == search);
        let at = known.unwrap_or_else(|| {
            self.0.push((search, begin));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// # Safety
    /// `link` is alive and on a list that the caller guards, as these marks are.
    unsafe fn step_back(&mut self, link: NonNull<Link>) {
        for (_, mark) in self.0.iter_mut().filter(|(_, mark)| *mark == link) {
            // SAFETY: passed on from the caller.
            *mark = unsafe { prev_of(link) };
        }
    }
}

/// Takes one entry out of whatever list it is on.
/// # Safety
/// `link` is alive, belongs to an item and is on a list that the caller guards.
unsafe fn take_out(link: NonNull<Link>) -> Item {
    // SAFETY: guarded, says the caller. The pointer kept for the item is the one found in its
    // neighbor, hence the one that `insert_between` was given: good for the whole item.
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
/// `marks` are that pool's.
pub(crate) unsafe fn unlink(work: &RawWork, marks: &mut Marks) -> Item {
    let link = NonNull::from(&work.link);
    // SAFETY: QUEUED under the lock means: on a list of this pool.
    unsafe {
        marks.step_back(link);
        take_out(link)
    }
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
pub(crate) unsafe fn move_chain(work: &RawWork, to: &mut ItemList, marks: &mut Marks) {
    let mut link = NonNull::from(&work.link);
    loop {
        // SAFETY: the first entry is on a list by the caller's word, each further one because
        // LINKED promises a successor on the same list.
        let (item, next) = unsafe {
            let next = next_of(link);
            marks.step_back(link);
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

/// Where items wait for the next holder of a lock. Pushing takes no lock.
///
/// One word: the item that came last, chained to those before it, and the mark *owned*: a holder of
/// the lock has promised that the lock will be taken again soon, by a thread that is on its way.
/// Nothing is pushed to an inbox that is not owned. The next holder empties the inbox and clears
/// the mark in one step. So the next holder finds the item, or the pusher learns that it has to
/// take the lock. Model: `loom_tests/enqueue.rs`.
#[derive(Debug)]
pub(crate) struct Inbox(AtomicPtr<Link>); // A

/// The mark, in a bit that the address of a link has no use for.
const OWNED: usize = 1;

const _: () = assert!(align_of::<Link>() > OWNED);

impl Inbox {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// True if a push would succeed at this moment. A hint.
    #[inline]
    pub(crate) fn is_owned(&self) -> bool {
        self.0.load(Ordering::Relaxed).addr() & OWNED != 0
    }

    /// Pushes an item; it comes back if the inbox is not owned.
    #[inline]
    pub(crate) fn push_if_owned(&self, item: Item) -> Result<(), Item> {
        let link: NonNull<Link> = item.into_raw().cast();
        if self.push_links(link, link) {
            return Ok(());
        }
        // SAFETY: taken apart above, and put nowhere.
        unsafe {
            *link.as_ref().next.get() = None;
            Err(Item::from_raw(link.cast()))
        }
    }

    /// Pushes the items of a chain at once. Hands them to `refused`, oldest first, if the inbox is
    /// not owned.
    pub(crate) fn push_all_if_owned(&self, chain: Chain, refused: impl FnMut(Item)) {
        let Some((newest, oldest)) = chain.0 else {
            return;
        };
        if self.push_links(newest, oldest) {
            return;
        }
        // SAFETY: the end of a chain that is ours.
        unsafe { *oldest.as_ref().next.get() = None };
        take_oldest_first(Some(newest), refused);
    }

    /// Pushes chained items; false if the inbox is not owned.
    #[inline(always)]
    fn push_links(&self, newest: NonNull<Link>, oldest: NonNull<Link>) -> bool {
        // AcqRel: pairs with itself and with `drain`, which finds the items and all before them
        // whole.
        let left = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |last| {
                // guard: s02_03_inbox_unattended
                if last.addr() & OWNED == 0 {
                    return None;
                }
                // SAFETY: the items are ours until the exchange succeeds, and on no list.
                unsafe {
                    *oldest.as_ref().next.get() = NonNull::new(last.map_addr(|a| a & !OWNED));
                }
                Some(newest.as_ptr().map_addr(|a| a | OWNED))
            });
        left.is_ok()
    }

    /// Promises that the lock will be taken again. Called by its holder, once.
    pub(crate) fn mark_owned(&self) {
        // A plain store: the inbox was emptied when the lock was taken, and without the mark no
        // other thread writes the word. Relaxed: the mark carries no data.
        self.0
            .store(ptr::without_provenance_mut(OWNED), Ordering::Relaxed);
    }

    /// Hands all items to `take`, oldest first, and clears the mark. Called by a thread that has
    /// just taken the lock.
    pub(crate) fn drain(&self, take: impl FnMut(Item)) {
        // Relaxed: only a holder of the lock sets the mark, and without it the inbox stays empty.
        if self.0.load(Ordering::Relaxed).is_null() {
            return;
        }
        // AcqRel: pairs with `push_links`.
        let last = self.0.swap(ptr::null_mut(), Ordering::AcqRel);
        take_oldest_first(NonNull::new(last.map_addr(|a| a & !OWNED)), take);
    }
}

/// Items for an inbox, the newest and the oldest one. Each is linked to the one before it.
#[derive(Debug, Default)]
pub(crate) struct Chain(Option<(NonNull<Link>, NonNull<Link>)>);

impl Chain {
    pub(crate) fn push(&mut self, item: Item) {
        let link: NonNull<Link> = item.into_raw().cast();
        let before = self.0;
        // SAFETY: the item was the caller's and is on no list.
        unsafe { *link.as_ref().next.get() = before.map(|(newest, _)| newest) };
        self.0 = Some((link, before.map_or(link, |(_, oldest)| oldest)));
    }
}

/// Takes a chain of items apart that is the caller's.
#[inline(always)]
fn take_oldest_first(newest: Option<NonNull<Link>>, mut take: impl FnMut(Item)) {
    let (mut at, mut oldest) = (newest, None::<NonNull<Link>>);
    // Reverse the chain.
    while let Some(link) = at {
        // SAFETY: every link in the chain is an item that was left here and is ours now.
        unsafe {
            // guard: s02_05_inbox_reversed
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

impl Drop for Inbox {
    fn drop(&mut self) {
        self.drain(drop);
    }
}

/// A list of items, owned by the holder of the lock that guards it.
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

    /// As [`ItemList::pop_front`], from a list with searches in progress.
    #[inline]
    pub(crate) fn pop_front_of(&mut self, marks: &mut Marks) -> Option<Item> {
        if !marks.0.is_empty() && !self.is_empty() {
            // SAFETY: not empty, so the head's successor is an entry of this list.
            unsafe { marks.step_back(next_of(self.head)) };
        }
        self.pop_front()
    }

    /// The next entry that is `wanted`, from where this search stopped the last time. Entries are
    /// looked at once.
    pub(crate) fn search(
        &self,
        search: u32,
        marks: &mut Marks,
        wanted: impl Fn(&RawWork) -> bool,
    ) -> Option<&RawWork> {
        let mark = marks.of(search, self.head);
        loop {
            // SAFETY: a mark rests on the head or on an entry of this list, see `Marks::step_back`.
            let next = unsafe { next_of(*mark) };
            if next == self.head {
                return None;
            }
            // SAFETY: not the head, hence an item, alive because the list owns it.
            let work = unsafe { next.cast::<RawWork>().as_ref() };
            if wanted(work) {
                return Some(work);
            }
            *mark = next;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::pointer::{claim, offer};
    use crate::{Work, WorkItem};
    use std::cell::Cell;
    use std::sync::Arc;

    struct Probe {
        work: Work<Probe>,
    }

    crate::impl_has_work! {
        impl HasWork<Self> for Probe { self.work }
    }

    impl WorkItem for Probe {
        type Pointer = Arc<Self>;
        fn run(_: Arc<Self>) {}
    }

    /// A list of so many items, and their addresses in its order.
    fn list(items: usize) -> (ItemList, Vec<usize>) {
        let mut list = ItemList::new();
        let addresses = (0..items).map(|_| append(&mut list)).collect();
        (list, addresses)
    }

    fn append(list: &mut ItemList) -> usize {
        let probe = Arc::new(Probe {
            work: crate::new_work!("probe"),
        });
        let address = probe.work.raw().identity().address;
        let taken = offer(probe, claim, |item, ()| list.push_back(item));
        assert!(taken.is_ok());
        address
    }

    #[test]
    fn s07_07_a_search_goes_on_where_it_was_whatever_leaves_meanwhile() {
        let (mut list, all) = list(8);
        let mut marks = Marks::default();
        let next = |list: &ItemList, marks: &mut Marks, wanted: &[usize]| {
            let found = list.search(1, marks, |w| wanted.contains(&w.identity().address));
            found.map(|work| work.identity().address)
        };
        let wanted = [all[3], all[6]];
        assert_eq!(next(&list, &mut marks, &wanted), Some(all[3]));
        // Everything up to the one found, the entry that the mark rests on included.
        for gone in &all[..4] {
            let item = list.pop_front_of(&mut marks).unwrap();
            assert_eq!(item.identity().address, *gone);
        }
        assert_eq!(next(&list, &mut marks, &wanted), Some(all[6]));
        for _ in 4..7 {
            drop(list.pop_front_of(&mut marks));
        }
        assert_eq!(next(&list, &mut marks, &wanted), None);
        // What comes later is found too.
        let late = append(&mut list);
        assert_eq!(next(&list, &mut marks, &[late]), Some(late));
        marks.end(1);
        assert!(marks.0.is_empty());
    }

    #[test]
    fn s07_07_a_search_looks_at_no_entry_twice() {
        let (mut list, all) = list(300);
        let (mut marks, looks) = (Marks::default(), Cell::new(0));
        // The items of the search are the last third.
        let (strangers, own) = all.split_at(200);
        for address in own {
            let found = list.search(1, &mut marks, |w| {
                looks.set(looks.get() + 1);
                !strangers.contains(&w.identity().address)
            });
            let link = found.map(|w| NonNull::from(&w.link)).unwrap();
            // SAFETY: just found on this list, which is ours.
            let item = unsafe {
                marks.step_back(link);
                take_out(link)
            };
            assert_eq!(item.identity().address, *address);
        }
        assert_eq!(looks.get(), all.len());
        assert_eq!(list.iter().count(), strangers.len());
        while list.pop_front_of(&mut marks).is_some() {}
    }
}
