// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is left when the server dies: each protocol of the store is cut after each of its system
//! calls and stores to memory, and the store is opened again with what the file holds then.

use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::testing::{byte_at, fill};
use super::Store;
use crate::sys::file::{self, recorder};

const PAGE: u64 = 4096;
/// The states of blocks of this size are told apart.
const BLOCK: u64 = 512;
/// Pages of the disk, and a part of one.
const SIZE: u64 = 40 * PAGE + BLOCK;

/// What clients know of the disk.
#[derive(Clone, Default)]
struct Known {
    /// By block, what was acknowledged.
    acked: Vec<u8>,
    /// Where a request is in flight, and what it writes.
    in_flight: Option<(Range<u64>, u8)>,
    /// What the driver has.
    size: u64,
}

/// A moment at which the server may have died.
struct Cut {
    /// A copy of the file.
    file: File,
    known: Known,
}

struct Bed {
    store: Store,
    known: Rc<RefCell<Known>>,
    cuts: Rc<RefCell<Vec<Cut>>>,
}

pub(super) fn copy_of(file: &File) -> File {
    let copy = file::memfd(c"copy", false).expect("a memfd");
    copy.set_len(file.metadata().expect("open").len())
        .expect("set");
    for data in file::data_ranges(file).expect("known") {
        let mut bytes = vec![0; (data.end - data.start) as usize];
        file.read_exact_at(&mut bytes, data.start).expect("read");
        copy.write_all_at(&bytes, data.start).expect("written");
    }
    copy
}

impl Bed {
    /// A disk with something in each third page, acknowledged.
    fn new() -> Bed {
        let store = Store::anonymous(SIZE, false).expect("a memfd");
        let mut acked = vec![0; (SIZE / BLOCK) as usize];
        for page in (0..SIZE / PAGE).step_by(3) {
            fill(&store, page * PAGE..(page + 1) * PAGE, page as u8 + 1);
            let first = (page * PAGE / BLOCK) as usize;
            acked[first..first + 8].fill(page as u8 + 1);
        }
        fill(&store, SIZE - BLOCK..SIZE, 99);
        *acked.last_mut().expect("a block") = 99;
        let known = Known {
            acked,
            size: SIZE,
            in_flight: None,
        };
        Bed {
            store,
            known: Rc::new(RefCell::new(known)),
            cuts: Rc::default(),
        }
    }

    /// Carries out a request that leaves `byte` everywhere in `range`.
    fn request(&self, range: Range<u64>, byte: u8, body: impl FnOnce(&Store)) {
        self.known.borrow_mut().in_flight = Some((range.clone(), byte));
        self.record(body);
        let mut known = self.known.borrow_mut();
        known.in_flight = None;
        let blocks = (range.start / BLOCK) as usize..range.end.div_ceil(BLOCK) as usize;
        known.acked[blocks].fill(byte);
        drop(known);
        self.cut();
    }

    /// Cuts after each step of `body`.
    fn record(&self, body: impl FnOnce(&Store)) {
        let (file, known, cuts) = (
            self.store.file.try_clone().expect("a descriptor"),
            self.known.clone(),
            self.cuts.clone(),
        );
        let each = move || {
            let known = known.borrow().clone();
            let file = copy_of(&file);
            cuts.borrow_mut().push(Cut { file, known });
        };
        recorder::record(each, || body(&self.store));
    }

    fn cut(&self) {
        self.record(|_| recorder::step());
    }

    /// The driver has another size from now on. What is cut off is gone.
    fn told(&self, size: u64) {
        let mut known = self.known.borrow_mut();
        known.size = size;
        known.acked.resize((size / BLOCK) as usize, 0);
        drop(known);
        self.cut();
    }

    /// Opens what each cut has left. There were `least` cuts at least.
    #[track_caller]
    fn judge(self, least: usize) {
        let cuts = self.cuts.take();
        assert!(cuts.len() >= least, "{} cuts", cuts.len());
        for (number, Cut { file, known }) in cuts.into_iter().enumerate() {
            let size = known.size;
            let store = Store::with_new_file(file, size, false).expect("opened again");
            store.release_unwritten().expect("released");
            check(&store, &known, number);
            let pages = store.used() - store.table_bytes();
            assert_eq!(pages, store.allocated().unwrap(), "cut {number}");
            // Nothing of a larger disk, or of a torn page, comes back.
            let larger = size + 50 * PAGE;
            store.grow(larger).expect("grown");
            check(&store, &known, number);
            for at in (size..larger).step_by(BLOCK as usize) {
                assert_eq!(
                    byte_at(&store, at),
                    0,
                    "cut {number}: behind the disk at {at}"
                );
            }
        }
    }
}

fn check(store: &Store, known: &Known, number: usize) {
    for (&acked, at) in known.acked.iter().zip((0..).step_by(BLOCK as usize)) {
        for at in [at, at + BLOCK - 1] {
            let found = byte_at(store, at);
            let in_flight = known.in_flight.as_ref();
            let written = in_flight.filter(|(range, _)| range.contains(&at));
            let is_right = found == acked || written.is_some_and(|(_, byte)| found == *byte);
            assert!(
                is_right,
                "cut {number}: {found} at {at}, acknowledged {acked}"
            );
        }
    }
}

#[test]
fn i03_i04_a_write_that_is_cut_anywhere_loses_nothing_acknowledged() {
    let bed = Bed::new();
    for range in [
        PAGE..2 * PAGE,
        3 * PAGE + 512..8 * PAGE + 1024,
        SIZE - 2 * PAGE..SIZE,
    ] {
        bed.request(range.clone(), 7, |store| {
            store.populate(range.clone()).expect("memory");
            store.unpin(range.clone());
            // The client's copy, in two steps.
            let middle = range.start + 512;
            fill(store, range.start..middle, 7);
            recorder::step();
            fill(store, middle..range.end, 7);
        });
    }
    bed.judge(10);
}

#[test]
fn i07_a_discard_that_is_cut_anywhere_zeroes_nothing_else() {
    let bed = Bed::new();
    for range in [
        0..PAGE,
        3 * PAGE + 512..9 * PAGE + 512,
        12 * PAGE..13 * PAGE,
        20 * PAGE..SIZE,
    ] {
        bed.request(range.clone(), 0, |store| {
            store.discard(range.clone());
        });
    }
    // A page that is in use is zeroed in place.
    let used = 15 * PAGE..16 * PAGE;
    assert!(bed.store.pin_for_write(used.clone()).is_some());
    bed.request(used.clone(), 0, |store| {
        store.discard(used.clone());
    });
    bed.store.unpin(used);
    bed.judge(12);
}

#[test]
fn e19_a_pass_for_zeros_that_is_cut_anywhere_changes_no_byte() {
    let bed = Bed::new();
    for page in [0, 6, 7, 30] {
        let range = page * PAGE..(page + 1) * PAGE;
        bed.request(range.clone(), 0, |store| fill(store, range, 0));
    }
    bed.record(|store| {
        assert_eq!(store.reclaim_zeros(0..u64::MAX), 4 * PAGE);
    });
    bed.judge(8);
}

/// The order of `Device::resize`: a store grows before the driver is told, and shrinks after it.
#[test]
fn i14_a_resize_that_is_cut_anywhere_leaves_the_size_that_the_driver_has() {
    let bed = Bed::new();
    let sizes = [
        SIZE + 3 * PAGE + 512,
        20 * PAGE + 1024,
        4 * PAGE + 512,
        30 * PAGE,
        PAGE,
    ];
    for size in sizes {
        let old = bed.store.size();
        if size > old {
            bed.record(|store| store.grow(size).expect("grown"));
            bed.told(size);
        } else {
            bed.told(size);
            bed.record(|store| {
                store.shrink(size);
                assert!(store.free_tail(old));
            });
        }
        let last = size - BLOCK..size;
        bed.request(last.clone(), 5, |store| fill(store, last, 5));
    }
    bed.judge(15);
}

/// Memory that was made for a write which never came is not held by a store that does not know it.
#[test]
fn i02_memory_without_data_is_given_back_when_a_store_is_opened_again() {
    let store = Store::anonymous(SIZE, false).expect("a memfd");
    fill(&store, 9 * PAGE..10 * PAGE, 1);
    store.populate(0..20 * PAGE).expect("memory");
    let file = store.file.try_clone().expect("a descriptor");
    drop(store);
    let store = Store::with_new_file(file, SIZE, false).expect("opened again");
    assert_eq!(store.allocated().unwrap(), 20 * PAGE);
    store.release_unwritten().expect("released");
    assert_eq!(store.allocated().unwrap(), PAGE);
    assert_eq!(store.used(), store.table_bytes() + PAGE);
    assert_eq!(byte_at(&store, 9 * PAGE), 1);
}
