// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chunks of 16 pages, which are compressed together, and what the store knows of each (E20).
//!
//! One page alone can never be stored in a page less, so compressing takes a chunk. What is stored
//! of it are the first pages that it had, in their places: nothing is allocated for it, and no
//! second account says where it is. Pages that were not there count as zeros.
//!
//! A compressed chunk is read and expanded under its lock, several readers at a time. The lock also
//! guards what is known of it here. A chunk becomes compressed while all of its pages are claimed
//! (`page_state`), so nobody reads it then; it becomes something else only under the lock, held
//! alone, whether its pages are pinned or not. Who has to know looks again once he has the lock.
//!
//! ```text
//!            all 16 pages claimed: nobody uses one
//!   PAGES -----------------------------------------> COMPRESSED
//!     ^                                                |     |
//!     |        a write: expanded, lock held alone      |     | all of it discarded
//!     +------------------------------------------------+     v
//!                                                           holes
//! ```
//!
//! A DISCARD of a part takes the sectors out of the map of those that live. Sectors that do not are
//! zeros, whatever the compressed copy holds.

use std::ops::Range;

use super::words::{yield_now, AtomicU32, Ordering, Words};

/// Pages of a chunk. The models (`store/compress_models.rs`) explore small ones.
pub(super) const PAGES: usize = if cfg!(loom) { 2 } else { 16 };
/// Bytes of a page. No other pages are compressed.
pub(super) const PAGE: usize = 4096;
/// Bytes of a chunk.
pub(super) const BYTES: usize = PAGES * PAGE;
/// Bytes of a sector: requests are whole sectors.
pub(super) const SECTOR: usize = 512;
/// Sectors of a page.
const SECTORS: usize = PAGE / SECTOR;

/// Bytes of memory for each chunk of the disk.
pub(super) const TABLE: u64 = (ENTRY * size_of::<AtomicU32>()) as u64;

// The words of a chunk.
const LOCK: usize = 0;
const SEEN: usize = 1;
const SINCE: usize = 2;
const PACK: usize = 3;
const LIVE: usize = 4;
const ENTRY: usize = LIVE + (PAGES * SECTORS).div_ceil(32);

/// The lock is held, or about to be held, by one alone; below are those who share it.
const ALONE: u32 = 1 << 31;

// What was seen of a chunk: never anything, or with `NOTED` how it looked; and that it could not be
// compressed as it was.
const NOTED: u32 = 1 << 31;
const IN_VAIN: u32 = 1 << 30;
const LOOKS: u32 = IN_VAIN - 1;

/// The sectors of a chunk that do not read as zeros because of a discard.
pub(super) type Live = u128;

/// What is known of all chunks that the store can ever have.
#[derive(Debug)]
pub(super) struct Chunks {
    words: Words,
}

/// A compressed chunk's copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pack {
    /// The pages it takes, a bit for each; it lies in the first of them.
    pub(super) pages: u16,
    /// Bytes.
    pub(super) len: u16,
}

/// Which chunk a page is part of.
pub(super) fn of_page(page: usize) -> usize {
    page / PAGES
}

/// Which chunk a byte is part of.
pub(super) fn of_byte(at: u64) -> usize {
    (at / BYTES as u64) as usize
}

/// The pages of a chunk.
pub(super) fn pages(chunk: usize) -> Range<usize> {
    chunk * PAGES..(chunk + 1) * PAGES
}

/// The chunks that a range of bytes touches, each with its part of the range.
pub(super) fn parts(range: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
    let chunks = of_byte(range.start)..of_byte(range.end + BYTES as u64 - 1);
    chunks.map(move |chunk| {
        let start = chunk as u64 * BYTES as u64;
        let part = range.start.max(start)..range.end.min(start + BYTES as u64);
        (chunk, part)
    })
}

/// The sectors of a part of a chunk.
pub(super) fn sectors(part: &Range<u64>) -> Live {
    let first = (part.start % BYTES as u64) as usize / SECTOR;
    let count = (part.end - part.start) as usize / SECTOR;
    match count {
        0 => 0,
        count => Live::MAX >> (Live::BITS as usize - count) << first,
    }
}

/// The sectors of these pages.
pub(super) fn sectors_of_pages(pages: u16) -> Live {
    let page = (1 << SECTORS) - 1;
    (0..PAGES)
        .filter(|n| pages & 1 << n != 0)
        .fold(0, |live, n| live | page << (n * SECTORS))
}

/// The pages that have one of these sectors.
pub(super) fn pages_of_sectors(live: Live) -> u16 {
    let page: Live = (1 << SECTORS) - 1;
    (0..PAGES)
        .filter(|n| live & page << (n * SECTORS) != 0)
        .fold(0, |pages, n| pages | 1 << n)
}

/// The runs of equal bits among `of` bits from `from` on, each with its value.
pub(super) fn runs(bits: Live, of: Range<usize>) -> impl Iterator<Item = (Range<usize>, bool)> {
    let mut at = of.start;
    std::iter::from_fn(move || {
        let start = at;
        let value = start < of.end && bits & 1 << start != 0;
        while at < of.end && (bits & 1 << at != 0) == value {
            at += 1;
        }
        (start < at).then_some((start..at, value))
    })
}

/// The runs of pages that are set.
pub(super) fn page_runs(pages: u16) -> impl Iterator<Item = Range<usize>> {
    runs(Live::from(pages), 0..PAGES).filter_map(|(run, set)| set.then_some(run))
}

/// The lock of a chunk, held.
#[derive(Debug)]
pub(super) struct Locked<'c> {
    lock: &'c AtomicU32,
    held: u32,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.lock.fetch_sub(self.held, Ordering::Release);
    }
}

impl Chunks {
    /// So many that nothing is known of. Costs memory only where they are used.
    pub(super) fn new(chunks: usize) -> std::io::Result<Self> {
        Ok(Self {
            words: Words::zeroed(chunks * ENTRY)?,
        })
    }

    fn word(&self, chunk: usize, word: usize) -> &AtomicU32 {
        &self.words.all()[chunk * ENTRY + word]
    }

    /// Locks a chunk beside others who share it. It is held for as long as a chunk takes to be
    /// read, and never while its holder waits for anything.
    pub(super) fn share(&self, chunk: usize) -> Locked<'_> {
        self.lock(chunk, 1)
    }

    /// Locks a chunk alone. New readers wait until this is over, so they cannot keep it from being
    /// expanded.
    pub(super) fn alone(&self, chunk: usize) -> Locked<'_> {
        let locked = self.lock(chunk, ALONE);
        while locked.lock.load(Ordering::Acquire) != ALONE {
            yield_now();
        }
        locked
    }

    /// Who finds that it is another's alone changes nothing: the other waits for an unchanged word.
    fn lock(&self, chunk: usize, held: u32) -> Locked<'_> {
        let lock = self.word(chunk, LOCK);
        loop {
            let old = lock.load(Ordering::Relaxed);
            let (won, lost) = (Ordering::Acquire, Ordering::Relaxed);
            if old & ALONE == 0 && lock.compare_exchange(old, old + held, won, lost).is_ok() {
                return Locked { lock, held };
            }
            yield_now();
        }
    }

    /// The copy of a chunk that is locked, or claimed.
    pub(super) fn pack(&self, chunk: usize) -> Pack {
        let word = self.word(chunk, PACK).load(Ordering::Relaxed);
        Pack {
            pages: (word >> 16) as u16,
            len: word as u16,
        }
    }

    pub(super) fn set_pack(&self, chunk: usize, pack: Pack) {
        let word = u32::from(pack.pages) << 16 | u32::from(pack.len);
        self.word(chunk, PACK).store(word, Ordering::Relaxed);
    }

    /// The sectors of a chunk that is locked, or claimed.
    pub(super) fn live(&self, chunk: usize) -> Live {
        (0..ENTRY - LIVE).fold(0, |live, n| {
            let word = self.word(chunk, LIVE + n).load(Ordering::Relaxed);
            live | Live::from(word) << (n * 32)
        })
    }

    pub(super) fn set_live(&self, chunk: usize, live: Live) {
        for n in 0..ENTRY - LIVE {
            let word = (live >> (n * 32)) as u32;
            self.word(chunk, LIVE + n).store(word, Ordering::Relaxed);
        }
    }

    /// A chunk looks like this now. Answers whether it has for `idle` milliseconds, and is worth a
    /// try. `now` may wrap.
    pub(super) fn rests(&self, chunk: usize, look: u32, now: u32, idle: u32) -> bool {
        let (seen, since) = (self.word(chunk, SEEN), self.word(chunk, SINCE));
        let (before, look) = (seen.load(Ordering::Relaxed), look & LOOKS | NOTED);
        if before & !IN_VAIN != look {
            since.store(now, Ordering::Relaxed);
            seen.store(look, Ordering::Relaxed);
            return idle == 0;
        }
        let rested = now.wrapping_sub(since.load(Ordering::Relaxed));
        before & IN_VAIN == 0 && rested >= idle
    }

    /// It cannot be stored in less as long as it looks like this.
    pub(super) fn tried_in_vain(&self, chunk: usize) {
        self.word(chunk, SEEN).fetch_or(IN_VAIN, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn e20_a_range_is_cut_into_its_parts_of_chunks_and_they_into_sectors() {
        let parts_of = |range| parts(range).collect::<Vec<_>>();
        assert_eq!(parts_of(512..1024), [(0, 512..1024)]);
        let end = BYTES as u64;
        assert_eq!(
            parts_of(end - 512..2 * end + 512),
            [
                (0, end - 512..end),
                (1, end..2 * end),
                (2, 2 * end..2 * end + 512)
            ]
        );
        assert_eq!(sectors(&(end..2 * end)), Live::MAX);
        assert_eq!(sectors(&(512..1536)), 0b110);
        assert_eq!(sectors(&(512..512)), 0);
        assert_eq!(pages_of_sectors(0b110 | 1 << 127), 1 << 15 | 1);
        assert_eq!(sectors_of_pages(1 << 15 | 1), 0xff << 120 | 0xff);
        assert_eq!(page_runs(0b1011).collect::<Vec<_>>(), [0..2, 3..4]);
        let found: Vec<_> = runs(0b110, 0..4).collect();
        assert_eq!(found, [(0..1, false), (1..3, true), (3..4, false)]);
    }

    #[test]
    fn e20_what_is_stored_of_a_chunk_is_read_back() {
        let chunks = Chunks::new(3).unwrap();
        let pack = Pack {
            pages: 0x8001,
            len: 61440,
        };
        chunks.set_pack(1, pack);
        chunks.set_live(1, 1 << 127 | 5);
        assert_eq!((chunks.pack(1), chunks.live(1)), (pack, 1 << 127 | 5));
        assert_eq!((chunks.pack(0), chunks.live(2)), (Pack::default(), 0));
    }

    #[test]
    fn e20_a_chunk_rests_when_it_has_looked_the_same_for_the_idle_time() {
        let chunks = Chunks::new(1).unwrap();
        let start = u32::MAX - 5; // the clock may wrap
        assert!(!chunks.rests(0, 7, start, 100), "seen for the first time");
        assert!(!chunks.rests(0, 7, start.wrapping_add(99), 100));
        assert!(chunks.rests(0, 7, start.wrapping_add(100), 100));
        assert!(!chunks.rests(0, 8, start.wrapping_add(200), 100), "used");
        assert!(chunks.rests(0, 8, start.wrapping_add(300), 100));
        chunks.tried_in_vain(0);
        assert!(!chunks.rests(0, 8, start.wrapping_add(900), 100));
        assert!(
            chunks.rests(0, 9, start.wrapping_add(900), 0),
            "without an idle time at once"
        );
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// A chunk and its lock. The cell makes loom fail when two threads touch the chunk at the same
    /// time, unless both read.
    struct Chunk {
        chunks: Chunks,
        bytes: UnsafeCell<u32>,
    }

    // SAFETY: the cell is what the model checks; loom reports a wrong access.
    unsafe impl Sync for Chunk {}

    impl Chunk {
        fn read(&self) -> u32 {
            let _locked = self.chunks.share(0);
            // SAFETY: loom checks that nobody is writing.
            self.bytes.with(|bytes| unsafe { *bytes })
        }

        fn count(&self) {
            let _locked = self.chunks.alone(0);
            // SAFETY: loom checks that nobody else has access.
            self.bytes.with_mut(|bytes| unsafe { *bytes += 1 });
        }
    }

    /// Loom begins with the steps of `first`, and of all threads that have looked at a word it
    /// remembers the last: it matters which of the two `first` is.
    fn model(first: fn(&Chunk), second: fn(&Chunk)) {
        loom::model(move || {
            let chunk = Arc::new(Chunk {
                chunks: Chunks::new(1).unwrap(),
                bytes: UnsafeCell::new(0),
            });
            let its = chunk.clone();
            let second = loom::thread::spawn(move || second(&its));
            first(&chunk);
            second.join().unwrap();
            // Nobody has it any more.
            chunk.count();
        });
    }

    #[test]
    fn loom_e20_who_is_alone_with_a_chunk_has_no_reader_beside_him() {
        model(|chunk| assert!(chunk.read() <= 1), Chunk::count);
        model(Chunk::count, |chunk| assert!(chunk.read() <= 1));
    }

    #[test]
    fn loom_e20_who_is_alone_with_a_chunk_is_the_only_one() {
        model(Chunk::count, Chunk::count);
    }
}
