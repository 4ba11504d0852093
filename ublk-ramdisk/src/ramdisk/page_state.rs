// SPDX-License-Identifier: MIT OR Apache-2.0
//! One word per page of the store: is the page there, and how many requests use it.
//!
//! ```text
//!   31        30         29 ............ 0
//!   PRESENT   CLAIMED   requests using it
//! ```
//!
//! A request pins every page of its range for as long as it may touch it (G9).
//! Only the thread that turns `PRESENT, no pins` into `CLAIMED` in one step gives a page
//! back. So no byte is ever copied into a page on its way out: such a byte would be lost,
//! or come back from a later partial write. Pinning a claimed page waits for the end of the
//! claim, which takes one system call.
//!
//! The words are derived from the file's holes when it is opened and never
//! stored (I2).

use std::ops::Range;

use super::sync::{yield_now, AtomicU32, Ordering};
#[cfg(not(loom))]
use crate::sys::mmap::Mapping;

const PRESENT: u32 = 1 << 31;
const CLAIMED: u32 = 1 << 30;
// Far more than a device of 4096 queues with 4096 tags each has requests.
const PINS: u32 = CLAIMED - 1;

/// The words of all pages that the store can ever have.
#[derive(Debug)]
pub(super) struct PageStates {
    words: Words,
}

impl PageStates {
    /// All pages absent and unused. Costs memory only where pages are used.
    pub(super) fn new(pages: usize) -> std::io::Result<Self> {
        Ok(Self {
            words: Words::zeroed(pages)?,
        })
    }

    #[inline]
    fn all(&self) -> &[AtomicU32] {
        self.words.all()
    }

    /// Pins the pages. Returns how many of them are present.
    #[inline]
    pub(super) fn pin(&self, pages: Range<usize>) -> usize {
        let mut present = 0;
        for word in &self.all()[pages] {
            // Acquire pairs with the Release of `mark_present` and of the end of a claim: what
            // they did to the page is done before the pinner uses it.
            let mut old = word.fetch_add(1, Ordering::Acquire);
            while old & CLAIMED != 0 {
                yield_now();
                old = word.load(Ordering::Acquire);
            }
            present += (old >> PRESENT.trailing_zeros()) as usize;
        }
        present
    }

    /// Ends one use of the pages.
    #[inline]
    pub(super) fn unpin(&self, pages: Range<usize>) {
        for word in &self.all()[pages] {
            // Release pairs with the Acquire of `claim`: the user's accesses
            // come before the page is given back.
            let old = word.fetch_sub(1, Ordering::Release);
            debug_assert!(old & PINS != 0, "unpin of a page that is not pinned");
        }
    }

    /// True if the page is present. This may change at once, unless the caller has pinned it.
    #[inline]
    pub(super) fn is_present(&self, page: usize) -> bool {
        self.all()[page].load(Ordering::Acquire) & PRESENT != 0
    }

    /// Marks pages present that the caller has pinned and allocated. Returns how many were absent.
    pub(super) fn mark_present(&self, pages: Range<usize>) -> usize {
        let set = |word: &AtomicU32| word.fetch_or(PRESENT, Ordering::Release) & PRESENT == 0;
        self.all()[pages].iter().filter(|word| set(word)).count()
    }

    /// Claims a page to give it back. Nobody can use it then until
    /// [`PageStates::release_absent`] or [`PageStates::release_present`].
    pub(super) fn claim(&self, page: usize) -> Claim {
        let word = &self.all()[page];
        let mut old = word.load(Ordering::Relaxed);
        loop {
            if old & CLAIMED != 0 {
                return Claim::Contended;
            } else if old & PRESENT == 0 {
                return Claim::Absent;
            } else if old & PINS != 0 {
                return Claim::InUse;
            }
            let ours = old ^ (PRESENT | CLAIMED);
            match word.compare_exchange(old, ours, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Claim::Claimed,
                Err(now) => old = now,
            }
        }
    }

    /// Claims pages of which none is present or used, all or nothing. Nobody can use them then until
    /// [`PageStates::release_absent`].
    pub(super) fn claim_absent(&self, pages: Range<usize>) -> bool {
        let words = &self.all()[pages.clone()];
        if words.iter().any(|word| word.load(Ordering::Relaxed) != 0) {
            return false;
        }
        for (count, word) in words.iter().enumerate() {
            let (claimed, other) = (Ordering::Acquire, Ordering::Relaxed);
            if word.compare_exchange(0, CLAIMED, claimed, other).is_err() {
                self.release_absent(pages.start..pages.start + count);
                return false;
            }
        }
        true
    }

    /// Ends a claim: the pages have been given back.
    pub(super) fn release_absent(&self, pages: Range<usize>) {
        for word in &self.all()[pages] {
            word.fetch_and(!CLAIMED, Ordering::Release);
        }
    }

    /// Ends a claim: the pages are present as before.
    pub(super) fn release_present(&self, pages: Range<usize>) {
        for word in &self.all()[pages] {
            // Swaps CLAIMED for PRESENT, and keeps the pins of those who wait.
            word.fetch_xor(CLAIMED | PRESENT, Ordering::Release);
        }
    }
}

/// What has come of [`PageStates::claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Claim {
    /// The page is the caller's.
    Claimed,
    /// A request uses the page: it can be zeroed, not given back.
    InUse,
    /// The page is not present.
    Absent,
    /// Another thread has claimed it and may leave it as it is: try again.
    Contended,
}

/// Words, zeroed and paid for as they are used.
#[cfg(not(loom))]
#[derive(Debug)]
struct Words {
    memory: Mapping,
    count: usize,
}

#[cfg(not(loom))]
impl Words {
    /// `count` words of value 0.
    fn zeroed(count: usize) -> std::io::Result<Self> {
        let memory = Mapping::anonymous((count * size_of::<AtomicU32>()).max(1))?;
        Ok(Self { memory, count })
    }

    /// All of them.
    #[inline]
    fn all(&self) -> &[AtomicU32] {
        // SAFETY: the mapping holds `count` zeroed words, page-aligned, and is
        // used through this function alone.
        unsafe { std::slice::from_raw_parts(self.memory.start().as_ptr().cast(), self.count) }
    }
}

/// Words, zeroed and paid for as they are used.
#[cfg(loom)]
#[derive(Debug)]
struct Words(Box<[AtomicU32]>);

#[cfg(loom)]
impl Words {
    /// `count` words of value 0.
    fn zeroed(count: usize) -> std::io::Result<Self> {
        Ok(Self((0..count).map(|_| AtomicU32::new(0)).collect()))
    }

    /// All of them.
    fn all(&self) -> &[AtomicU32] {
        &self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    impl PageStates {
        /// The first and the last byte of the words.
        pub(in crate::ramdisk) fn ends(&self) -> [*const u8; 2] {
            let bytes = self.all().as_ptr_range();
            [bytes.start.cast(), bytes.end.cast::<u8>().wrapping_sub(1)]
        }
    }

    #[test]
    fn g09_a_pinned_page_is_not_given_back() {
        let states = PageStates::new(4).unwrap();
        assert_eq!(states.pin(0..2), 0);
        states.mark_present(0..2);
        assert_eq!(states.claim(0), Claim::InUse);
        states.unpin(0..2);
        assert_eq!(states.claim(0), Claim::Claimed);
        states.release_absent(0..1);
        assert_eq!(states.claim(0), Claim::Absent);
        assert_eq!(states.pin(0..2), 1, "the other page is still there");
    }

    #[test]
    fn g09_a_page_that_could_not_be_punched_is_present_again() {
        let states = PageStates::new(1).unwrap();
        states.pin(0..1);
        states.mark_present(0..1);
        states.unpin(0..1);
        assert_eq!(states.claim(0), Claim::Claimed);
        states.release_present(0..1);
        assert!(states.is_present(0));
        assert_eq!(states.pin(0..1), 1);
    }

    #[test]
    fn g09_absent_pages_are_given_back_together_or_not_at_all() {
        let states = PageStates::new(4).unwrap();
        assert!(states.claim_absent(0..4));
        states.release_absent(0..4);
        states.pin(2..3);
        assert!(!states.claim_absent(0..4), "one is in use");
        assert_eq!(states.pin(0..2), 0, "the others were let go");
        states.unpin(0..3);
        assert!(states.claim_absent(0..4));
        states.release_absent(0..4);
    }

    #[test]
    fn g09_pinning_a_page_that_is_being_punched_waits_and_finds_a_hole() {
        let states = PageStates::new(1).unwrap();
        states.pin(0..1);
        states.mark_present(0..1);
        states.unpin(0..1);
        assert_eq!(states.claim(0), Claim::Claimed);
        std::thread::scope(|scope| {
            let pinner = scope.spawn(|| states.pin(0..1));
            // The sign that the pinner has come: its pin.
            while states.all()[0].load(Ordering::Relaxed) & PINS == 0 {
                std::thread::yield_now();
            }
            states.release_absent(0..1);
            assert_eq!(pinner.join().unwrap(), 0);
        });
        assert_eq!(states.claim(0), Claim::Absent);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// A page and its word. The cell makes loom fail when two threads touch the
    /// page at the same time.
    struct Page {
        states: PageStates,
        bytes: UnsafeCell<u32>,
    }

    // SAFETY: the cell is what the model checks; loom reports a wrong access.
    unsafe impl Sync for Page {}

    impl Page {
        fn new(present: bool) -> Arc<Self> {
            let states = PageStates::new(1).unwrap();
            if present {
                states.pin(0..1);
                states.mark_present(0..1);
                states.unpin(0..1);
            }
            Arc::new(Self {
                states,
                bytes: UnsafeCell::new(if present { 7 } else { 0 }),
            })
        }

        fn write(&self, value: u32) {
            if self.states.pin(0..1) == 0 {
                self.states.mark_present(0..1);
            }
            // SAFETY: loom checks that nobody else has access.
            self.bytes.with_mut(|bytes| unsafe { *bytes = value });
            self.states.unpin(0..1);
        }

        /// Answers whether the page was given back.
        fn punch(&self) -> bool {
            let ours = self.states.claim(0) == Claim::Claimed;
            if ours {
                // SAFETY: loom checks that nobody else has access.
                self.bytes.with_mut(|bytes| unsafe { *bytes = 0 });
                self.states.release_absent(0..1);
            }
            ours
        }

        fn read(&self) -> u32 {
            let present = self.states.pin(0..1) == 1;
            // SAFETY: loom checks that nobody is writing.
            let value = if present {
                self.bytes.with(|bytes| unsafe { *bytes })
            } else {
                0
            };
            self.states.unpin(0..1);
            value
        }
    }

    #[test]
    fn loom_g09_a_write_and_a_punch_never_touch_the_page_together() {
        loom::model(|| {
            let page = Page::new(true);
            let other = page.clone();
            let writer = loom::thread::spawn(move || other.write(9));
            let punched = page.punch();
            writer.join().unwrap();
            // A punch after the write gives zeros; one before it, or none, the
            // written value. Never the old one, and never a lost write.
            let value = page.read();
            assert!(value == 9 || (punched && value == 0), "{value} {punched}");
            // And a page that reads as zeros stays zeros when it is made again.
            if value == 0 {
                page.states.pin(0..1);
                page.states.mark_present(0..1);
                page.states.unpin(0..1);
                assert_eq!(page.read(), 0);
            }
        });
    }

    #[test]
    fn loom_g09_a_read_sees_the_old_bytes_or_zeros() {
        loom::model(|| {
            let page = Page::new(true);
            let other = page.clone();
            let reader = loom::thread::spawn(move || other.read());
            page.punch();
            let value = reader.join().unwrap();
            assert!(value == 7 || value == 0, "{value}");
        });
    }

    #[test]
    fn loom_g09_a_write_and_a_punch_of_absent_pages_never_meet() {
        loom::model(|| {
            let page = Page::new(false);
            let other = page.clone();
            let writer = loom::thread::spawn(move || other.write(9));
            if page.states.claim_absent(0..1) {
                // SAFETY: loom checks that nobody else has access.
                page.bytes.with_mut(|bytes| unsafe { *bytes = 0 });
                page.states.release_absent(0..1);
            }
            writer.join().unwrap();
            assert_eq!(page.read(), 9, "the write is lost");
        });
    }

    #[test]
    fn loom_g09_two_punches_give_the_page_back_once() {
        loom::model(|| {
            let page = Page::new(true);
            let other = page.clone();
            let second = loom::thread::spawn(move || other.punch());
            let first = page.punch();
            assert!(first != second.join().unwrap());
        });
    }
}
