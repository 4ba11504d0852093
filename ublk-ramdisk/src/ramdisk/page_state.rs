// SPDX-License-Identifier: MIT OR Apache-2.0
//! One word per page of the store: is it there, and who uses it now.
//!
//! ```text
//!   31        30         29 ............ 0
//!   PRESENT   PUNCHING   requests using it
//! ```
//!
//! A request pins every page of its range for as long as it may touch it (G9).
//! A page is given back only by whoever turned `PRESENT, no pins` into
//! `PUNCHING` in one step, so no byte is ever copied into a page on its way out:
//! such a byte would be lost, or come back from a later partial write. Pinning a
//! page that is being punched waits for the punch, which is one system call.
//!
//! The words are derived from the file's holes when it is opened and never
//! stored (I2).

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::mmap::Mapping;

const PRESENT: u32 = 1 << 31;
const PUNCHING: u32 = 1 << 30;
const PINS: u32 = PUNCHING - 1;

/// The words of all pages that the store can ever have.
#[derive(Debug)]
pub(super) struct PageStates {
    words: Mapping,
    pages: usize,
}

impl PageStates {
    /// All pages absent and unused. Costs memory only where pages are used.
    pub(super) fn new(pages: usize) -> std::io::Result<Self> {
        let words = Mapping::anonymous((pages * size_of::<AtomicU32>()).max(1))?;
        Ok(Self { words, pages })
    }

    fn all(&self) -> &[AtomicU32] {
        // SAFETY: the mapping holds `pages` zeroed words, page-aligned, and is
        // used through this function alone.
        unsafe { std::slice::from_raw_parts(self.words.start().as_ptr().cast(), self.pages) }
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
                std::thread::yield_now();
                old = word.load(Ordering::Acquire);
            }
            present += (old >> 31) as usize;
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

    /// The caller has allocated the pages, which it has pinned.
    pub(super) fn set_present(&self, pages: Range<usize>) {
        for word in &self.all()[pages] {
            word.fetch_or(PRESENT, Ordering::Release);
        }
    }

    /// May the caller give this page back? If so nobody can use it until
    /// [`PageStates::punched`] or [`PageStates::spared`].
    pub(super) fn try_punch(&self, page: usize) -> Punch {
        let word = &self.all()[page];
        match word.compare_exchange(PRESENT, PUNCHING, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Punch::Ours,
            Err(now) if now & PRESENT != 0 => Punch::InUse,
            Err(_) => Punch::Absent,
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
