// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a power cut would lose (H13 to H17): beside a disk with a volatile cache lies the flushed
//! content of each page that was written since the last FLUSH.
//!
//! The undo area is a sparse file, as the store is one. Each page of the disk has its place in it and
//! a mark, so there is nothing to be searched and nothing to be handed out:
//!
//! ```text
//!   page 0    header: version, epoch, power, how to cut
//!   then, for each 512 pages of the disk, a group of 513 pages: 512 marks, and 512 places
//!
//!   mark      epoch << 4 | HAS (the place has memory) | LOCK | NONE, SAVED or ZEROS
//! ```
//!
//! A mark counts if its epoch is that of the header. So a FLUSH adds 1 to the epoch, and is done.
//!
//! | write of an unmarked page | FLUSH, power cut |
//! |---|---|
//! | pin the page; lock its mark | |
//! | read the epoch | add 1 to the epoch: the mark that is being made does not count |
//! | copy the page to its place | |
//! | store the mark, which unlocks it | |
//! | write, end, unpin | cut: claim the page, which waits for its pins, and copy back |
//!
//! The epoch is read before the copy: a write that ends between the two is covered by a FLUSH that
//! comes after both. Nobody writes to a page before its mark counts. So a server that dies between
//! any two steps leaves an unmarked page that was not written, or one with its flushed content.
//! A lock that a dead server holds is dropped when the area is opened again.
//!
//! A write that is under way when a FLUSH comes may be half in the page when the next write to it
//! copies that. So its bytes are made durable at its end, as with FUA: no sector is ever torn.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{
    AtomicI64, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use serde::{Deserialize, Serialize};

use super::populate::{Reserve, Shortage};
use super::{Store, StoreError};
use crate::ramdisk::page_state::Claim;
use crate::ramdisk::sync::yield_now;
use crate::random::nth;
use crate::sys::mmap::Mapping;
use crate::sys::{file, remove};

/// Bytes of a page here, also if the store's pages are larger.
pub const PAGE: u64 = 4096;
/// Marks of a group.
const GROUP: usize = 512;
const MARKS: u32 = 1 << 16;
/// Places with memory that a FLUSH leaves for the next writes.
const SPARE: u64 = 1024;
/// Bytes that a power cut never tears.
const MIN_PIECE: u64 = 512;
/// Of the layout.
const VERSION: u64 = 1;

/// Words of the header.
const EPOCH: usize = 1;
const POWER: usize = 2;
/// What survives, the seed, and the bytes of a piece.
const HOW: [usize; 3] = [3, 4, 5];
/// Values of the word POWER. CUTTING: the disk is off, and what is unflushed is still there.
const ON: u64 = 0;
const CUTTING: u64 = 1;
const OFF: u64 = 2;

/// What a mark says of a page.
const NONE: u64 = 0;
const SAVED: u64 = 1;
const ZEROS: u64 = 2;
const KIND: u64 = 3;
const LOCK: u64 = 4;
const HAS: u64 = 8;
const EPOCH_SHIFT: u32 = 4;

/// What survives a power cut of what was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Nothing
    #[default]
    None,
    /// All of it: the device has written early
    All,
    /// Each page or not, by chance; with --torn smaller pieces
    Random,
}

/// How a power cut is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerCut {
    /// What survives.
    pub keep: Keep,
    /// Chooses what survives of `Random`: the same seed, the same pages.
    pub seed: u64,
    /// Bytes that are lost or kept together, at most a page.
    pub piece: u32,
}

/// What a power cut did, in pages of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Loss {
    /// Pages that were not flushed.
    pub unflushed: u64,
    /// Those of them that have lost something.
    pub lost: u64,
}

/// The undo area of a store.
pub(super) struct Undo {
    file: File,
    mapping: Mapping,
    /// By group: places with memory, and MARKS if its marks have some.
    groups: Box<[AtomicU32]>,
    /// Places with memory.
    held: AtomicU64,
    /// Marks that count. Requests that meet a FLUSH may be counted wrongly.
    unflushed: AtomicI64,
    outlives_server: bool,
}

impl Undo {
    fn new(file: File, capacity: u64, outlives_server: bool) -> io::Result<Self> {
        let groups = capacity.div_ceil(GROUP as u64 * PAGE) as usize;
        let len = Self::marks_at(groups).max(file.metadata()?.len());
        file.set_len(len)?;
        file::allocate(&file, 0..PAGE)?;
        let undo = Self {
            mapping: Mapping::shared(&file, len as usize)?,
            file,
            groups: (0..groups).map(|_| AtomicU32::new(0)).collect(),
            held: AtomicU64::new(0),
            unflushed: AtomicI64::new(0),
            outlives_server,
        };
        if undo.header(0).swap(VERSION, Relaxed) != VERSION {
            undo.header(EPOCH).store(1, Relaxed);
        }
        // What a former server has left.
        for data in file::data_ranges(&undo.file)? {
            let marks = (0..groups).map(Self::marks_at);
            let first = data.start.saturating_sub(PAGE) / (PAGE * (GROUP as u64 + 1));
            let near = marks.enumerate().skip(first as usize);
            let in_data = near.take_while(|(_, at)| *at < data.end);
            for (group, _) in in_data.filter(|(_, at)| *at >= data.start) {
                undo.groups[group].store(MARKS, Relaxed);
            }
        }
        for page in undo.marked().flatten() {
            let mark = undo.mark(page).fetch_and(!LOCK, Relaxed);
            let has = u32::from(mark & HAS != 0);
            undo.groups[page / GROUP].fetch_add(has, Relaxed);
            undo.held.fetch_add(has.into(), Relaxed);
            undo.unflushed.fetch_add(undo.counts(mark).into(), Relaxed);
        }
        Ok(undo)
    }

    /// Where the marks of a group are in the file.
    fn marks_at(group: usize) -> u64 {
        (1 + group as u64 * (GROUP as u64 + 1)) * PAGE
    }

    /// The places of pages of one group.
    fn places(&self, pages: Range<usize>) -> Range<u64> {
        let start = Self::marks_at(pages.start / GROUP) + (1 + pages.start % GROUP) as u64 * PAGE;
        start..start + pages.len() as u64 * PAGE
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        debug_assert!(at + 8 <= self.mapping.len() as u64);
        // SAFETY: the word lies within the mapping, is aligned, and its page has memory: the header's
        // from the beginning, that of marks before the group counts as marked. It is used by atomic
        // accesses alone, and lives as long as `self`.
        unsafe { AtomicU64::from_ptr(self.mapping.start().add(at as usize).cast().as_ptr()) }
    }

    fn header(&self, word: usize) -> &AtomicU64 {
        self.word(word as u64 * 8)
    }

    /// The mark of a page whose group has memory for marks.
    fn mark(&self, page: usize) -> &AtomicU64 {
        self.word(Self::marks_at(page / GROUP) + (page % GROUP) as u64 * 8)
    }

    fn has_marks(&self, page: usize) -> bool {
        self.groups[page / GROUP].load(Acquire) & MARKS != 0
    }

    /// The pages of each group that has marks.
    fn marked(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let groups = self.groups.iter().zip((0..).step_by(GROUP));
        let marked = groups.filter(|(group, _)| group.load(Acquire) & MARKS != 0);
        marked.map(|(_, first)| first..first + GROUP)
    }

    fn counts(&self, mark: u64) -> bool {
        mark & KIND != NONE && mark >> EPOCH_SHIFT == self.header(EPOCH).load(Acquire)
    }

    /// Locks the mark of a page, and returns it. Storing a mark unlocks it.
    fn lock(&self, page: usize) -> u64 {
        loop {
            // Acquire and the Release of `unlock`: what was done to the place under the former lock is
            // done.
            let old = self.mark(page).fetch_or(LOCK, Acquire);
            if old & LOCK == 0 {
                return old;
            }
            yield_now();
        }
    }

    fn unlock(&self, page: usize, mark: u64) {
        self.mark(page).store(mark, Release);
    }

    /// True if a write to the page needs no memory here.
    fn is_ready(&self, page: usize) -> bool {
        self.has_marks(page) && {
            let mark = self.mark(page).load(Acquire);
            mark & HAS != 0 || self.counts(mark)
        }
    }

    /// Makes memory for a place. The mark is not locked meanwhile: this may take long, and who makes
    /// memory is alone.
    fn add_memory(&self, store: &Store, page: usize, reserve: Reserve) -> Result<(), Shortage> {
        let reserved = reserve(&store.budget, PAGE);
        let mut reserved = reserved.ok_or(Shortage::Budget)?;
        file::allocate(&self.file, self.places(page..page + 1))?;
        reserved.commit(PAGE);
        self.groups[page / GROUP].fetch_add(1, Relaxed);
        self.held.fetch_add(1, Relaxed);
        let old = self.lock(page);
        self.unlock(page, old | HAS);
        Ok(())
    }

    /// Keeps the content of a page that the caller has pinned and is going to write. Memory is made
    /// if there is a way to reserve it.
    fn save(&self, store: &Store, page: usize, reserve: Option<Reserve>) -> Result<(), Shortage> {
        if !self.has_marks(page) {
            // Counted with the store's tables.
            reserve.ok_or(Shortage::Budget)?;
            let at = Self::marks_at(page / GROUP);
            file::allocate(&self.file, at..at + PAGE)?;
            self.groups[page / GROUP].fetch_or(MARKS, Release);
        }
        while !self.counts(self.mark(page).load(Acquire)) {
            if !self.try_save(store, page) {
                self.add_memory(store, page, reserve.ok_or(Shortage::Budget)?)?;
            }
        }
        Ok(())
    }

    /// False if the place of the page has no memory. The mark may be of a former epoch when this returns:
    /// then the write that it is for meets a FLUSH.
    fn try_save(&self, store: &Store, page: usize) -> bool {
        let old = self.lock(page);
        if self.counts(old) {
            self.unlock(page, old);
            return true;
        }
        let (epoch, mut bytes) = (self.header(EPOCH).load(Acquire), [0; PAGE as usize]);
        let at = page as u64 * PAGE;
        // SAFETY: the page is pinned and within the mapping, and `bytes` is a local variable.
        let copied = unsafe { store.copy(store.address(at).as_ptr(), bytes.as_mut_ptr(), PAGE) };
        let mut new = epoch << EPOCH_SHIFT | old & HAS;
        // What the file has lost are zeros if it grows again. The write will fail.
        if copied.is_err() || bytes == [0; PAGE as usize] {
            new |= ZEROS;
        } else if old & HAS == 0 {
            self.unlock(page, old);
            return false;
        } else {
            // SAFETY: the place is within the mapping and has memory, which is used under the lock
            // of its mark alone.
            unsafe {
                libc::memcpy(
                    self.place(page).cast(),
                    bytes.as_ptr().cast(),
                    PAGE as usize,
                )
            };
            new |= SAVED;
        }
        #[cfg(test)]
        file::recorder::step();
        self.unflushed.fetch_add(1, Relaxed);
        self.unlock(page, new);
        #[cfg(test)]
        file::recorder::step();
        true
    }

    fn place(&self, page: usize) -> *mut u8 {
        let at = self.places(page..page + 1).start as usize;
        // SAFETY: all places are within the mapping.
        unsafe { self.mapping.start().add(at).as_ptr() }
    }

    /// Makes bytes of a pinned page durable. Of a page that was all zeros all is: there is no memory
    /// for a part of it, and a device may write early.
    fn persist(&self, store: &Store, page: usize, part: Range<u64>) {
        if !self.has_marks(page) {
            return;
        }
        let old = self.lock(page);
        let mut new = old;
        if self.counts(old) && old & KIND == SAVED {
            let (to, len) = (part.start % PAGE, part.end - part.start);
            let from = store.address(part.start).as_ptr();
            // SAFETY: the part lies in the page, which is pinned, and in its place, whose mark is
            // locked. A part that the file has lost stays as it was.
            let _lost = unsafe { store.copy(from, self.place(page).add(to as usize), len) };
        } else if self.counts(old) {
            new = old & HAS;
            self.unflushed.fetch_sub(1, Relaxed);
        }
        self.unlock(page, new);
    }

    /// What is in the page counts as flushed.
    fn forget(&self, page: usize) {
        if self.has_marks(page) && self.counts(self.mark(page).load(Acquire)) {
            let old = self.lock(page);
            if self.counts(old) {
                self.unflushed.fetch_sub(1, Relaxed);
            }
            self.unlock(page, old & HAS);
        }
    }

    /// Locks a page whose place has memory and keeps nothing.
    fn lock_unused(&self, page: usize) -> bool {
        let is_unused = |mark: u64| mark & HAS != 0 && !self.counts(mark);
        is_unused(self.mark(page).load(Acquire)) && {
            let old = self.lock(page);
            if !is_unused(old) {
                self.unlock(page, old);
            }
            is_unused(old)
        }
    }

    /// Everything is flushed.
    fn flush(&self) {
        self.unflushed.store(0, Relaxed);
        // AcqRel: writes that ended before are before it, and those that find the new epoch after it.
        self.header(EPOCH).fetch_add(1, AcqRel);
        #[cfg(test)]
        file::recorder::step();
    }

    /// Puts back what does not survive of a page that the caller has claimed. Returns true if that is
    /// something.
    fn restore(&self, store: &Store, page: usize) -> bool {
        static ZERO_PAGE: [u8; PAGE as usize] = [0; PAGE as usize];
        let [keep, seed, piece] = HOW.map(|word| self.header(word).load(Relaxed));
        let from = match self.mark(page).load(Acquire) & KIND {
            SAVED => self.place(page).cast_const(),
            _ => ZERO_PAGE.as_ptr(),
        };
        let mut lost = false;
        for at in (0..PAGE).step_by(piece as usize) {
            let start = page as u64 * PAGE + at;
            let is_lost = match keep {
                keep if keep == Keep::Random as u64 => nth(seed, start / MIN_PIECE) & 1 == 0,
                keep => keep == Keep::None as u64,
            };
            if is_lost {
                let to = store.address(start).as_ptr();
                // SAFETY: the piece lies in the page, which is claimed, and in its place or in the
                // zeros. What the file has lost is lost.
                let _lost = unsafe { store.copy(from.add(at as usize), to, piece) };
            }
            lost |= is_lost;
        }
        #[cfg(test)]
        file::recorder::step();
        lost
    }
}

impl Store {
    /// Keeps what a power cut would take away, from now on, in a file of this name or in memory. With
    /// `again` a file that is there is taken up, and a power cut that it says has begun is carried out.
    ///
    /// # Context
    /// Nobody uses the store yet.
    pub fn keep_flushed(&self, path: Option<&Path>, again: bool) -> Result<(), StoreError> {
        let open = || match path {
            Some(path) => {
                if !again {
                    remove::regular_file(path)?;
                }
                let file = file::open_private(path)?.0;
                file.try_lock()?;
                Ok(file)
            }
            None => file::memfd(c"undo", false),
        };
        open()
            .and_then(|file| self.keep_flushed_in(file, path.is_some()))
            .map_err(StoreError::system("make the undo area of", self.size()))
    }

    pub(super) fn keep_flushed_in(&self, file: File, outlives_server: bool) -> io::Result<()> {
        let undo = Undo::new(file, self.mapping.len() as u64, outlives_server)?;
        let (held, tables) = (undo.held.load(Relaxed), self.table_bytes());
        let is_first = self.undo.set(undo).is_ok();
        debug_assert!(is_first, "a store has one undo area");
        self.budget
            .charge(held * PAGE + self.table_bytes() - tables);
        let _of_nobody = self.lose_unflushed();
        Ok(())
    }

    /// The pages of the undo area that a range touches.
    fn undo_pages(range: &Range<u64>) -> Range<usize> {
        (range.start / PAGE) as usize..range.end.div_ceil(PAGE) as usize
    }

    /// Copies within the mappings of the store, by the kernel where the file can be cut (G16).
    ///
    /// # Safety
    /// As of [`file::copy_checked`].
    unsafe fn copy(&self, from: *const u8, to: *mut u8, len: u64) -> io::Result<()> {
        if self.can_be_cut() {
            // SAFETY: as promised by the caller.
            return unsafe { file::copy_checked(from, to, len as usize) };
        }
        // SAFETY: as promised by the caller. Shared memory that others write through the kernel: the
        // bytes are not touched as Rust values.
        unsafe { libc::memcpy(to.cast(), from.cast(), len as usize) };
        Ok(())
    }

    /// Keeps the flushed content of a range that is present and pinned, before it is written. False if
    /// that takes memory: nothing may be written then.
    #[inline]
    pub(in crate::ramdisk) fn save(&self, range: &Range<u64>) -> bool {
        self.undo.get().is_none() || self.save_or_make(range, None).is_ok()
    }

    /// The same, and makes memory if there is a way to reserve it.
    pub(super) fn save_or_make(
        &self,
        range: &Range<u64>,
        reserve: Option<Reserve>,
    ) -> Result<(), Shortage> {
        let Some(undo) = self.undo.get() else {
            return Ok(());
        };
        Self::undo_pages(range).try_for_each(|page| undo.save(self, page, reserve))
    }

    /// True if a write to the range, which is present, needs no memory for what it keeps.
    pub(super) fn is_saved(&self, range: &Range<u64>) -> bool {
        let is_ready = |undo: &Undo| Self::undo_pages(range).all(|page| undo.is_ready(page));
        self.undo.get().is_none_or(is_ready)
    }

    /// Bytes of the tables of the undo area.
    pub(super) fn undo_table_bytes(&self) -> u64 {
        self.undo
            .get()
            .map_or(0, |_| self.size().div_ceil(PAGE) * 8)
    }

    /// Changes with each FLUSH.
    #[inline]
    pub(in crate::ramdisk) fn epoch(&self) -> u64 {
        let epoch = |undo: &Undo| undo.header(EPOCH).load(Acquire);
        self.undo.get().map_or(0, epoch)
    }

    /// A write to a pinned range is in the store. `began`: the epoch before it was saved.
    #[inline]
    pub(in crate::ramdisk) fn end_write(&self, range: &Range<u64>, began: u64, is_fua: bool) {
        // guard: h15_flush_during_write
        if is_fua || began != self.epoch() {
            self.persist(range);
        }
    }

    /// Makes the bytes of a pinned range durable, as FUA asks for.
    pub(super) fn persist(&self, range: &Range<u64>) {
        let Some(undo) = self.undo.get() else {
            return;
        };
        for page in Self::undo_pages(range) {
            let at = page as u64 * PAGE;
            undo.persist(self, page, range.start.max(at)..range.end.min(at + PAGE));
        }
    }

    /// What is in these bytes, whole pages that are claimed, counts as flushed.
    pub(super) fn forget_flushed(&self, range: &Range<u64>) {
        let forget = |undo: &Undo| Self::undo_pages(range).for_each(|page| undo.forget(page));
        self.undo.get().into_iter().for_each(forget);
    }

    /// True if a power cut would change something in these bytes.
    pub(super) fn is_unflushed(&self, range: &Range<u64>) -> bool {
        self.undo.get().is_some_and(|undo| {
            let counts = |page| undo.counts(undo.mark(page).load(Acquire));
            Self::undo_pages(range).any(|page| undo.has_marks(page) && counts(page))
        })
    }

    /// Everything that was written is flushed. Returns if it is worth to give back the memory that has
    /// become free ([`Store::release_flushed`]); none without a volatile cache.
    pub fn flush(&self) -> Option<bool> {
        let undo = self.undo.get()?;
        undo.flush();
        Some(undo.held.load(Relaxed) > SPARE)
    }

    /// Gives back the memory of content that is kept no more. Returns its bytes.
    pub(in crate::ramdisk) fn release_flushed(&self) -> u64 {
        let Some(undo) = self.undo.get() else {
            return 0;
        };
        let mut freed = 0;
        for group in undo.marked() {
            let places = &undo.groups[group.start / GROUP];
            if places.load(Relaxed) == MARKS {
                continue;
            }
            let mut page = group.start;
            while page < group.end {
                let start = page;
                while page < group.end && undo.lock_unused(page) {
                    page += 1;
                }
                if page == start {
                    page += 1;
                    continue;
                }
                let punched = file::punch_hole(&undo.file, undo.places(start..page));
                let mark = if punched.is_ok() { NONE } else { HAS };
                (start..page).for_each(|page| undo.unlock(page, mark));
                if punched.is_ok() {
                    places.fetch_sub((page - start) as u32, Relaxed);
                    freed += (page - start) as u64;
                }
            }
        }
        undo.held.fetch_sub(freed, Relaxed);
        self.uncharge(freed * PAGE);
        freed * PAGE
    }

    /// Is this a disk with a volatile cache, which a power cut empties?
    pub fn keeps_flushed(&self) -> bool {
        self.undo.get().is_some()
    }

    /// True if the disk is without power: every request ends with EIO (H15).
    #[inline]
    pub fn is_off(&self) -> bool {
        let is_off = |undo: &Undo| undo.header(POWER).load(Acquire) != ON;
        self.undo.get().is_some_and(is_off)
    }

    /// Takes the power away. Nothing is lost before [`Store::lose_unflushed`]. False if there is none: what
    /// was off stays as it is. One that is to lose something still does it as it was told first.
    pub fn switch_off(&self, cut: &PowerCut) -> bool {
        let Some(undo) = self.undo.get() else {
            return false;
        };
        match undo.header(POWER).load(Acquire) {
            ON => {}
            power => return power == CUTTING,
        }
        let how = [cut.keep as u64, cut.seed, cut.piece.into()];
        for (word, value) in HOW.into_iter().zip(how) {
            undo.header(word).store(value, Relaxed);
        }
        // Release: a server that finds it finds how.
        undo.header(POWER).store(CUTTING, Release);
        true
    }

    /// Loses what is not flushed, as [`Store::switch_off`] was told. None if requests still use some of
    /// it: the caller tries again, with the same result. Of a disk without a power cut nothing is lost.
    ///
    /// # Context
    /// The disk is off, and no request is about to begin that has not seen it.
    pub fn lose_unflushed(&self) -> Option<Loss> {
        let (undo, mut loss) = (self.undo.get()?, Loss::default());
        if undo.header(POWER).load(Acquire) != CUTTING {
            return Some(loss);
        }
        for page in undo.marked().flatten() {
            if !undo.counts(undo.mark(page).load(Acquire)) {
                continue;
            }
            let of_store = ((page as u64 * PAGE) >> self.page_shift) as usize;
            match self.states.claim(of_store) {
                Claim::Claimed => {
                    loss.lost += u64::from(undo.restore(self, page));
                    loss.unflushed += 1;
                    self.states.release_present(of_store..of_store + 1);
                }
                // It was given back, which is durable.
                Claim::Absent => {}
                Claim::InUse | Claim::Contended => return None,
            }
        }
        undo.flush();
        undo.header(POWER).store(OFF, Release);
        Some(loss)
    }

    /// Gives a disk its power back. False if it is still to lose something.
    pub fn switch_on(&self) -> bool {
        let power = self.undo.get().map(|undo| undo.header(POWER));
        power.is_none_or(|power| {
            let on = power.load(Acquire) != CUTTING;
            if on {
                power.store(ON, Release);
            }
            on
        })
    }

    /// Pages that are not flushed, and whether they stay so when the server dies. None without a
    /// volatile cache.
    pub fn unflushed(&self) -> Option<(u64, bool)> {
        let undo = self.undo.get()?;
        let unflushed = undo.unflushed.load(Relaxed).max(0);
        Some((unflushed as u64, undo.outlives_server))
    }
}
