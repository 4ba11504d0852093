// SPDX-License-Identifier: MIT OR Apache-2.0
//! The image under a store (H18, H19): what the store has no page for is read from it.
//!
//! A page that is made gets the image's content first, so the store needs no other mark than its own: a
//! page is the disk's or, if absent, the image's. Its file's holes say the same to the next server (I2).
//! The kernel copies all bytes of a new page, or it stays a hole: a server that dies meanwhile leaves no
//! half of one. For that the source has to be in memory, as the kernel makes a page of zeros of one that
//! it cannot read at once: so it is looked for just before.
//!
//! The image is mapped, and its data read and locked in memory where the process may (J2): to read it
//! waits for no other disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{Readable, Shortage, Store};
use crate::mq::Run;
use crate::sys::file;
use crate::sys::mmap::Mapping;

const PAGE: u64 = 4096;

/// The image.
pub(super) struct Base {
    image: File,
    mapping: Mapping,
    /// It has been logged that the image cannot be read.
    told: AtomicBool,
    /// Bytes of the image.
    length: u64,
    /// Where it has data, in whole pages, in order.
    data: Box<[Range<u64>]>,
}

impl Base {
    fn new(image: File) -> io::Result<Self> {
        let length = image.metadata()?.len();
        let mapping = Mapping::image(&image, length as usize)?;
        let mut data: Vec<Range<u64>> = Vec::new();
        for found in file::data_ranges(&image)? {
            let found = found.start / PAGE * PAGE..found.end.next_multiple_of(PAGE);
            mapping.populate_read(found.start..found.end.min(length))?;
            match data.last_mut().filter(|last| last.end >= found.start) {
                Some(last) => last.end = found.end,
                None => data.push(found),
            }
        }
        Ok(Self {
            image,
            mapping,
            told: AtomicBool::new(false),
            length,
            data: data.into(),
        })
    }

    /// The parts of a range for which there is data.
    fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let range = range.clone();
        let first = self.data.partition_point(|data| data.end <= range.start);
        let near = self.data[first..].iter();
        near.take_while({
            let end = range.end;
            move |data| data.start < end
        })
        .map(move |data| data.start.max(range.start)..data.end.min(range.end))
    }

    /// Logs once that some of the image is lost.
    fn report(&self, why: &dyn std::fmt::Display) {
        if !self.told.swap(true, Relaxed) {
            log::error!(
                "the image cannot be read: {why}; requests for what is lost end with errors"
            );
        }
    }

    fn address(&self, at: u64) -> NonNull<u8> {
        debug_assert!(at < self.length.next_multiple_of(PAGE));
        // SAFETY: parts lie within the mapping, which ends with a whole page.
        unsafe { self.mapping.start().add(at as usize) }
    }
}

impl Store {
    /// Puts an image under a store that is empty, or has been used with the same one.
    ///
    /// # Context
    /// Nobody uses the store yet. Its memory is in pages of 4 KiB.
    pub fn set_base(&self, image: File) -> io::Result<()> {
        let is_first = self.base.set(Base::new(image)?).is_ok();
        debug_assert!(is_first, "a store has one image");
        Ok(())
    }

    /// Bytes of the image; 0 for none.
    pub fn base_length(&self) -> u64 {
        self.base.get().map_or(0, |base| base.length)
    }

    /// Logs once that the image has been cut short, if it has.
    pub(super) fn report_cut_base(&self) {
        if let Some(base) = self.base.get() {
            let held = base.image.metadata().map_or(0, |meta| meta.len());
            if held < base.length {
                base.report(&format_args!(
                    "it was cut to {held} of {} bytes",
                    base.length
                ));
            }
        }
    }

    /// True if the image has data in the range: what is absent there does not read as zeros.
    #[inline]
    pub(in crate::ramdisk) fn has_base(&self, range: &Range<u64>) -> bool {
        let has_data = |base: &Base| base.parts(range).next().is_some();
        self.base.get().is_some_and(has_data)
    }

    /// What a READ finds where every page is absent.
    #[inline]
    pub(super) fn read_absent(&self, range: &Range<u64>) -> Readable {
        let Some(base) = self.base.get() else {
            return Readable::Hole;
        };
        match base.parts(range).next() {
            None => Readable::Hole,
            Some(part) if part == *range => Readable::Memory(base.address(range.start)),
            Some(_) => Readable::Mixed,
        }
    }

    /// Calls `each` with the pieces of a range whose pages are absent.
    pub(super) fn absent_runs(&self, range: Range<u64>, each: &mut dyn FnMut(Run)) {
        let mut at = range.start;
        if let Some(base) = self.base.get() {
            for part in base.parts(&range) {
                if at < part.start {
                    each(Run::Zeros((part.start - at) as usize));
                }
                let len = (part.end - part.start) as usize;
                each(Run::Memory(base.address(part.start), len));
                at = part.end;
            }
        }
        if at < range.end {
            each(Run::Zeros((range.end - at) as usize));
        }
    }

    /// Gives pages that have just been made, and that nobody sees yet, the content of the image.
    pub(super) fn copy_base(&self, range: &Range<u64>) -> Result<(), Shortage> {
        let Some(base) = self.base.get() else {
            return Ok(());
        };
        for part in base.parts(range) {
            // The file is not made longer by what the last page holds behind the image.
            let len = part.end.min(base.length) - part.start;
            let from = base.address(part.start).as_ptr();
            let found = base.mapping.populate_read(part.start..part.start + len);
            // SAFETY: the part lies within the mapping; the kernel reads it, and fails where the image
            // was cut.
            let copy = || unsafe { file::write_at(&self.file, from, len as usize, part.start) };
            found.and_then(|()| copy()).map_err(|error| {
                base.report(&error);
                Shortage::Image
            })?;
            #[cfg(test)]
            file::recorder::step();
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::FileExt;
    use std::rc::Rc;

    use super::*;
    use crate::ramdisk::store::crash::copy_of;
    use crate::ramdisk::store::testing::fill;
    use crate::sys::file::recorder;

    /// Pages of the disk, and of the image, which ends within its last one.
    const SIZE: u64 = 24 * PAGE;
    const LENGTH: u64 = 16 * PAGE - 700;

    /// Data in pages 0, 1, 4 to 9 and 15.
    fn image() -> (File, Vec<u8>) {
        let (image, mut bytes) = (
            file::memfd(c"image", false).unwrap(),
            vec![0; SIZE as usize],
        );
        for page in [0, 1, 4, 5, 6, 7, 8, 9, 15] {
            let all = page as usize * PAGE as usize..(page as usize + 1) * PAGE as usize;
            bytes[all].fill(page as u8 + 1);
        }
        bytes[LENGTH as usize..].fill(0);
        image.set_len(LENGTH).unwrap();
        for data in [0..2, 4..10, 15..16] {
            let data = data.start * PAGE..(data.end * PAGE).min(LENGTH);
            let part = &bytes[data.start as usize..data.end as usize];
            image.write_all_at(part, data.start).unwrap();
        }
        (image, bytes)
    }

    fn over(image: &File) -> Store {
        let store = Store::anonymous(SIZE, false).unwrap();
        store.set_base(image.try_clone().unwrap()).unwrap();
        store
    }

    /// As a READ of the range finds it.
    fn read(store: &Store, range: Range<u64>) -> Vec<u8> {
        let mut found = Vec::new();
        let mut add = |run| match run {
            Run::Memory(at, len) => {
                // SAFETY: the range is pinned, and nobody writes to it.
                let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), len) };
                found.extend_from_slice(bytes);
            }
            Run::Zeros(len) => found.resize(found.len() + len, 0),
        };
        let len = (range.end - range.start) as usize;
        match store.pin_for_read(range.clone()) {
            Readable::Memory(at) => add(Run::Memory(at, len)),
            Readable::Hole => add(Run::Zeros(len)),
            Readable::Mixed => store.runs(range.clone(), &mut add),
        }
        store.unpin(range);
        found
    }

    #[test]
    fn h18_what_was_not_written_is_the_image_and_a_page_that_is_made_begins_as_it() {
        let (image, mut expected) = image();
        let store = over(&image);
        for start in (0..SIZE).step_by(512) {
            for len in [512, PAGE, 3 * PAGE + 512, SIZE] {
                let end = SIZE.min(start + len);
                let (range, bytes) = (start..end, start as usize..end as usize);
                assert!(read(&store, range) == expected[bytes], "{start} {len}");
            }
        }
        assert_eq!(store.used(), store.table_bytes(), "reading takes no memory");
        // Parts of pages with data, without, and of the image's last one.
        for range in [
            512..1024,
            3 * PAGE - 512..4 * PAGE + 512,
            LENGTH - 512..LENGTH + 512,
        ] {
            fill(&store, range.clone(), 0xee);
            expected[range.start as usize..range.end as usize].fill(0xee);
            assert!(read(&store, 0..SIZE) == expected, "{range:?}");
        }
        assert_eq!(store.used(), store.table_bytes() + 5 * PAGE);
        assert_eq!(store.file.metadata().unwrap().len(), SIZE);
    }

    #[test]
    fn h18_pages_of_zeros_that_hide_the_image_are_not_given_back() {
        let (image, mut expected) = image();
        let store = over(&image);
        fill(&store, 0..3 * PAGE, 0);
        expected[..3 * PAGE as usize].fill(0);
        assert_eq!(store.reclaim_zeros(0..u64::MAX), PAGE, "the image has none");
        assert!(read(&store, 0..SIZE) == expected);
    }

    #[test]
    fn h19_a_reset_brings_the_image_back_and_waits_for_requests() {
        let (image, expected) = image();
        let store = over(&image);
        fill(&store, 0..SIZE, 7);
        assert!(store.pin_for_write(5 * PAGE..6 * PAGE).is_some());
        assert_eq!(store.reset(&mut || false), None, "a request uses a page");
        let mut tries = 0;
        let reset = store.reset(&mut || {
            tries += 1;
            store.unpin(5 * PAGE..6 * PAGE);
            true
        });
        assert_eq!((reset, tries), (Some(SIZE - 5 * PAGE), 1));
        assert!(read(&store, 0..SIZE) == expected);
        assert_eq!(store.allocated().unwrap(), 0);
    }

    /// Others than the lost pages are made.
    #[test]
    fn g16_h18_an_image_that_is_cut_short_is_no_shortage_of_memory() {
        let (image, _) = image();
        let store = over(&image);
        image.set_len(8 * PAGE).unwrap();
        let lost = store.populate(8 * PAGE..10 * PAGE);
        assert!(matches!(lost, Err(Shortage::Image)), "{lost:?}");
        assert_eq!(store.allocated().unwrap(), 0, "nothing was taken");
        for range in [4 * PAGE..8 * PAGE, 20 * PAGE..21 * PAGE] {
            store.populate(range.clone()).unwrap();
            store.unpin(range);
        }
    }

    /// The server dies after each step of making pages: of each page the next server finds the image or
    /// what was written.
    #[test]
    fn h18_i02_a_server_that_dies_while_a_page_is_made_leaves_the_image() {
        let (image, expected) = image();
        let store = over(&image);
        let cuts = Rc::new(RefCell::new(Vec::new()));
        let (file, made) = (store.file.try_clone().unwrap(), cuts.clone());
        recorder::record(
            move || made.borrow_mut().push(copy_of(&file)),
            || {
                store.populate(0..12 * PAGE).unwrap();
                store.unpin(0..12 * PAGE);
            },
        );
        let cuts = cuts.take();
        assert!(cuts.len() >= 3, "{} steps", cuts.len());
        for (step, file) in cuts.into_iter().enumerate() {
            let next = Store::with_new_file(file, SIZE, false).unwrap();
            next.set_base(image.try_clone().unwrap()).unwrap();
            assert!(read(&next, 0..SIZE) == expected, "step {step}");
        }
    }
}
