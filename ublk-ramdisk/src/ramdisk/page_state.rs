// SPDX-License-Identifier: MIT OR Apache-2.0
//! One word per page of the store: is the page there, and how many requests use it.
//!
//! ```text
//!   31        30         29 ............ 0
//!   PRESENT   PUNCHING   requests using it
//! ```
//!
//! A request pins every page of its range for as long as it may touch it (G9).
//! Only the thread that turns `PRESENT, no pins` into `PUNCHING` in one step gives a page
//! back. So no byte is ever copied into a page on its way out: such a byte would be lost,
//! or come back from a later partial write. Pinning a page that is being punched waits for
//! the punch, which is one system call.
//!
//! The words are derived from the file's holes when it is opened and never
//! stored (I2).

use std::ops::Range;

use super::words::{yield_now, AtomicU32, Ordering, Words};

const PRESENT: u32 = 1 << 31;
const PUNCHING: u32 = 1 << 30;
// Far more than a device of 4096 queues with 4096 tags each has requests.
const PINS: u32 = PUNCHING - 1;

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

    /// Pages that the store can ever have.
    pub(super) fn len(&self) -> usize {
        self.all().len()
    }

    /// Pins the pages; answers how many of them are there.
    #[inline]
    pub(super) fn pin(&self, pages: Range<usize>) -> usize {
        let mut present = 0;
        for word in &self.all()[pages] {
            // Acquire pairs with the Release of `punched` and `set_present`: what
            // they did to the page is done before the pinner uses it.
            let mut old = word.fetch_add(1, Ordering::Acquire);
            while old & PUNCHING != 0 {
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
            // Release pairs with the Acquire of `try_punch`: the user's accesses
            // come before the punch.
            let old = word.fetch_sub(1, Ordering::Release);
            debug_assert!(old & PINS != 0, "unpin of a page that is not pinned");
        }
    }

    /// Is the page there? The caller has it pinned, or can live with an answer
    /// of a moment ago.
    #[inline]
    pub(super) fn is_present(&self, page: usize) -> bool {
        self.all()[page].load(Ordering::Acquire) & PRESENT != 0
    }

    /// The caller has allocated the pages, which it has pinned. Answers how many were absent.
    pub(super) fn set_present(&self, pages: Range<usize>) -> usize {
        let set = |word: &AtomicU32| word.fetch_or(PRESENT, Ordering::Release) & PRESENT == 0;
        self.all()[pages].iter().filter(|word| set(word)).count()
    }

    /// May the caller give this page back? If so nobody can use it until
    /// [`PageStates::punched`] or [`PageStates::spared`].
    pub(super) fn try_punch(&self, page: usize) -> Punch {
        let word = &self.all()[page];
        let mut old = word.load(Ordering::Relaxed);
        loop {
            if old & PUNCHING != 0 {
                return Punch::Held;
            } else if old & PRESENT == 0 {
                return Punch::Absent;
            } else if old & PINS != 0 {
                return Punch::InUse;
            }
            let ours = old ^ (PRESENT | PUNCHING);
            match word.compare_exchange(old, ours, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Punch::Ours,
                Err(now) => old = now,
            }
        }
    }

    /// May the caller give back what the file holds of these pages, though none of them is there?
    /// If so nobody can use them until [`PageStates::punched`].
    pub(super) fn try_punch_absent(&self, pages: Range<usize>) -> bool {
        let words = &self.all()[pages.clone()];
        if words.iter().any(|word| word.load(Ordering::Relaxed) != 0) {
            return false;
        }
        for (count, word) in words.iter().enumerate() {
            let (claimed, other) = (Ordering::Acquire, Ordering::Relaxed);
            if word.compare_exchange(0, PUNCHING, claimed, other).is_err() {
                self.punched(pages.start..pages.start + count);
                return false;
            }
        }
        true
    }

    /// The pages have been given back.
    pub(super) fn punched(&self, pages: Range<usize>) {
        for word in &self.all()[pages] {
            word.fetch_and(!PUNCHING, Ordering::Release);
        }
    }

    /// The pages could not be given back and are there as before.
    pub(super) fn spared(&self, pages: Range<usize>) {
        for word in &self.all()[pages] {
            // PUNCHING is set and PRESENT is not: this swaps them and keeps the
            // pins of those who wait.
            word.fetch_xor(PUNCHING | PRESENT, Ordering::Release);
        }
    }
}

/// Answer to [`PageStates::try_punch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Punch {
    /// The caller punches and says so afterwards.
    Ours,
    /// A request uses the page: it can be zeroed, not given back.
    InUse,
    /// There is no page.
    Absent,
    /// Another is about to give it back, or to leave it as it is: to be asked again.
    Held,
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
    fn g9_a_pinned_page_is_not_given_back() {
        let states = PageStates::new(4).unwrap();
        assert_eq!(states.pin(0..2), 0);
        states.set_present(0..2);
        assert_eq!(states.try_punch(0), Punch::InUse);
        states.unpin(0..2);
        assert_eq!(states.try_punch(0), Punch::Ours);
        states.punched(0..1);
        assert_eq!(states.try_punch(0), Punch::Absent);
        assert_eq!(states.pin(0..2), 1, "the other page is still there");
    }

    #[test]
    fn g9_a_page_that_could_not_be_punched_is_present_again() {
        let states = PageStates::new(1).unwrap();
        states.pin(0..1);
        states.set_present(0..1);
        states.unpin(0..1);
        assert_eq!(states.try_punch(0), Punch::Ours);
        states.spared(0..1);
        assert!(states.is_present(0));
        assert_eq!(states.pin(0..1), 1);
    }

    #[test]
    fn g9_absent_pages_are_given_back_together_or_not_at_all() {
        let states = PageStates::new(4).unwrap();
        assert!(states.try_punch_absent(0..4));
        states.punched(0..4);
        states.pin(2..3);
        assert!(!states.try_punch_absent(0..4), "one is in use");
        assert_eq!(states.pin(0..2), 0, "the others were let go");
        states.unpin(0..3);
        assert!(states.try_punch_absent(0..4));
        states.punched(0..4);
    }

    #[test]
    fn g9_pinning_a_page_that_is_being_punched_waits_and_finds_a_hole() {
        let states = PageStates::new(1).unwrap();
        states.pin(0..1);
        states.set_present(0..1);
        states.unpin(0..1);
        assert_eq!(states.try_punch(0), Punch::Ours);
        std::thread::scope(|scope| {
            let pinner = scope.spawn(|| states.pin(0..1));
            // The sign that the pinner has come: its pin.
            while states.all()[0].load(Ordering::Relaxed) & PINS == 0 {
                std::thread::yield_now();
            }
            states.punched(0..1);
            assert_eq!(pinner.join().unwrap(), 0);
        });
        assert_eq!(states.try_punch(0), Punch::Absent);
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
                states.set_present(0..1);
                states.unpin(0..1);
            }
            Arc::new(Self {
                states,
                bytes: UnsafeCell::new(if present { 7 } else { 0 }),
            })
        }

        fn write(&self, value: u32) {
            if self.states.pin(0..1) == 0 {
                self.states.set_present(0..1);
            }
            // SAFETY: loom checks that nobody else has access.
            self.bytes.with_mut(|bytes| unsafe { *bytes = value });
            self.states.unpin(0..1);
        }

        /// Answers whether the page was given back.
        fn punch(&self) -> bool {
            let ours = self.states.try_punch(0) == Punch::Ours;
            if ours {
                // SAFETY: loom checks that nobody else has access.
                self.bytes.with_mut(|bytes| unsafe { *bytes = 0 });
                self.states.punched(0..1);
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
    fn loom_g9_a_write_and_a_punch_never_touch_the_page_together() {
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
                page.states.set_present(0..1);
                page.states.unpin(0..1);
                assert_eq!(page.read(), 0);
            }
        });
    }

    #[test]
    fn loom_g9_a_read_sees_the_old_bytes_or_zeros() {
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
    fn loom_g9_a_write_and_a_punch_of_absent_pages_never_meet() {
        loom::model(|| {
            let page = Page::new(false);
            let other = page.clone();
            let writer = loom::thread::spawn(move || other.write(9));
            if page.states.try_punch_absent(0..1) {
                // SAFETY: loom checks that nobody else has access.
                page.bytes.with_mut(|bytes| unsafe { *bytes = 0 });
                page.states.punched(0..1);
            }
            writer.join().unwrap();
            assert_eq!(page.read(), 9, "the write is lost");
        });
    }

    #[test]
    fn loom_g9_two_punches_give_the_page_back_once() {
        loom::model(|| {
            let page = Page::new(true);
            let other = page.clone();
            let second = loom::thread::spawn(move || other.punch());
            let first = page.punch();
            assert!(first != second.join().unwrap());
        });
    }
}
