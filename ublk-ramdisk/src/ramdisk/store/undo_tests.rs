// SPDX-License-Identifier: MIT OR Apache-2.0
//! What survives a power cut, and the death of a server between any two steps of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::crash::copy_of;
use super::testing::{byte_at, fill};
use super::undo::PAGE;
use super::{Keep, Loss, PowerCut, Store};
use crate::random::Random;
use crate::sys::file::{self, recorder};

const SECTOR: u64 = 512;
const SECTORS: usize = 8;

fn store(pages: u64) -> Store {
    let store = Store::anonymous(pages * PAGE, false).expect("a memfd");
    store.keep_flushed(None, false).expect("an undo area");
    store
}

/// Writes as a request does: no byte before what was there is kept.
fn write(store: &Store, at: u64, len: u64, byte: u8, is_fua: bool) {
    let (range, began) = (at..at + len, store.epoch());
    if store.pin_for_write(range.clone()).is_none() {
        store.populate(range.clone()).expect("memory");
    }
    // SAFETY: the range is present and pinned, and no other thread writes to it.
    unsafe { store.address_of(&range).write_bytes(byte, len as usize) };
    recorder::step();
    store.end_write(&range, began, is_fua);
    store.unpin(range);
}

fn cut(store: &Store, keep: Keep, seed: u64, piece: u32) -> Loss {
    let cut = PowerCut { keep, seed, piece };
    store.switch_off(&cut);
    assert!(store.is_off());
    let loss = store.lose_unflushed().expect("nobody uses it");
    store.switch_on();
    assert_eq!(store.unflushed().expect("a cache").0, 0);
    loss
}

fn sectors(store: &Store) -> Vec<u8> {
    let whole = |at| {
        let first = byte_at(store, at);
        let torn = (at..at + SECTOR).find(|&at| byte_at(store, at) != first);
        assert_eq!(torn, None, "a torn sector at {at}");
        first
    };
    (0..store.size())
        .step_by(SECTOR as usize)
        .map(whole)
        .collect()
}

/// Threads write sectors of the same pages, with FUA or without. After a cut each sector is what it was
/// at the last flush or with FUA, or what was written last, as was asked for.
#[test]
fn h15_what_survives_is_what_was_flushed_and_what_the_seed_chooses() {
    const PAGES: usize = 24;
    let cuts = [
        (Keep::None, PAGE as u32),
        (Keep::All, PAGE as u32),
        (Keep::Random, PAGE as u32),
        (Keep::Random, SECTOR as u32),
    ];
    let mut mixed = 0;
    for round in 0..40_u64 {
        let (keep, piece) = cuts[round as usize % 4];
        let store = store(PAGES as u64);
        fill(&store, 0..store.size() / 2, 1);
        store.flush();
        let mut durable = sectors(&store);
        let mut now = durable.clone();
        for flush in [true, false] {
            let states: Vec<_> = now.iter().copied().zip(durable.iter().copied()).collect();
            let written = std::thread::scope(|scope| {
                let (store, states) = (&store, &states);
                let threads = [0, 1, 2].map(|thread| {
                    scope.spawn(move || {
                        let mut random = Random::new(round, thread + 3 * u64::from(flush));
                        let mut states = states.clone();
                        for _ in 0..100 {
                            let sector = random.below(states.len() as u64 / 3) * 3 + thread;
                            // All pages have something flushed when there is FUA: see `persist`.
                            let is_fua = !flush && random.per_cent(20);
                            let byte = 2 + random.below(250) as u8;
                            write(store, sector * SECTOR, SECTOR, byte, is_fua);
                            let state = &mut states[sector as usize];
                            *state = (byte, if is_fua { byte } else { state.1 });
                        }
                        states
                    })
                });
                threads.map(|thread| thread.join().expect("no panic"))
            });
            let of = |sector: usize| written[sector % 3][sector];
            (now, durable) = (0..now.len()).map(of).unzip();
            if flush {
                now.iter_mut()
                    .step_by(SECTORS)
                    .enumerate()
                    .for_each(|(page, byte)| {
                        write(&store, page as u64 * PAGE, SECTOR, 1, false);
                        *byte = 1;
                    });
                store.flush();
                durable = now.clone();
            }
        }
        let unflushed = store.unflushed().expect("a cache").0;
        let loss = cut(&store, keep, round, piece);
        assert_eq!(loss.unflushed, unflushed);
        let found = sectors(&store);
        for page in 0..PAGES {
            let of = page * SECTORS..(page + 1) * SECTORS;
            let (found, now, durable) = (&found[of.clone()], &now[of.clone()], &durable[of]);
            let either = (0..SECTORS).all(|n| found[n] == now[n] || found[n] == durable[n]);
            assert!(match keep {
                Keep::None => found == durable,
                Keep::All => found == now,
                Keep::Random if piece == PAGE as u32 => found == now || found == durable,
                Keep::Random => either,
            });
            mixed += u32::from(found != now && found != durable);
        }
        let all = match keep {
            Keep::None => loss.lost == loss.unflushed,
            Keep::All => loss.lost == 0,
            Keep::Random => loss.lost > 0 && loss.lost <= loss.unflushed,
        };
        assert!(all, "{loss:?}");
    }
    assert!(mixed > 0, "no page is torn");
}

/// Flushes come at any time. What ended before one began survives, and no sector is torn.
#[test]
fn h13_a_write_that_ended_before_a_flush_began_survives() {
    for round in 0..20 {
        let store = store(4);
        let count = (store.size() / SECTOR) as usize;
        let ended: Vec<_> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let mut floor = vec![0; count];
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (store, ended, over) = (&store, &ended, &over);
            let threads = [0, 1, 2].map(|thread| {
                scope.spawn(move || {
                    let mut random = Random::new(round, thread);
                    for n in 0..3000 {
                        let sector = random.below(count as u64 / 3) * 3 + thread;
                        write(store, sector * SECTOR, SECTOR, (n / 12) as u8, false);
                        ended[sector as usize].store(n / 12, SeqCst);
                    }
                })
            });
            let floor = &mut floor;
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    let before: Vec<_> = ended.iter().map(|n| n.load(SeqCst)).collect();
                    store.flush();
                    *floor = before;
                    store.release_flushed();
                }
            });
            let failed = threads.map(|thread| thread.join().is_err());
            over.store(true, SeqCst);
            assert_eq!(failed, [false; 3]);
        });
        cut(&store, Keep::None, 0, PAGE as u32);
        for ((found, floor), ended) in sectors(&store).into_iter().zip(floor).zip(ended) {
            let found = u64::from(found);
            assert!(floor <= found && found <= ended.into_inner(), "{found}");
        }
    }
}

#[test]
fn h13_what_is_given_back_is_durable_and_zeros_need_no_memory() {
    let store = store(8);
    let tables = store.table_bytes();
    fill(&store, 0..4 * PAGE, 7);
    assert_eq!(store.used(), tables + 4 * PAGE, "there was nothing before");
    assert_eq!(store.unflushed(), Some((4, false)));
    store.flush();
    write(&store, 0, 2 * PAGE, 8, false);
    assert_eq!(store.used(), tables + 6 * PAGE);
    // A page of zeros that is not flushed is not given back: what was there lies beside it.
    write(&store, 3 * PAGE, PAGE, 0, false);
    assert_eq!(store.reclaim_zeros(0..u64::MAX), 0);
    store.discard(SECTOR..PAGE + SECTOR);
    write(&store, 2 * PAGE, PAGE, 8, false);
    store.discard(2 * PAGE..3 * PAGE);
    write(&store, 2 * PAGE, PAGE, 9, false);
    write(&store, 5 * PAGE, PAGE, 9, false);
    assert_eq!(cut(&store, Keep::None, 0, 4096).lost, 5);
    let found = [0, SECTOR, PAGE, PAGE + SECTOR, 2 * PAGE, 3 * PAGE, 5 * PAGE];
    assert_eq!(found.map(|at| byte_at(&store, at)), [7, 0, 0, 7, 0, 7, 0]);
    assert_eq!(store.release_flushed(), 4 * PAGE);
    // A shrink, and what grows after it.
    write(&store, 3 * PAGE, PAGE, 1, false);
    store.shrink(3 * PAGE + SECTOR);
    assert!(store.free_tail(8 * PAGE));
    store.grow(8 * PAGE).expect("room");
    assert_eq!(cut(&store, Keep::None, 0, 4096), Loss::default());
    assert_eq!(byte_at(&store, 3 * PAGE + SECTOR), 0);
}

/// Half of a sector is written when a FLUSH and then another write to the page come.
#[test]
fn h15_no_sector_is_torn_by_a_flush_in_the_middle_of_it() {
    let store = store(1);
    fill(&store, 0..PAGE, 1);
    let (range, began) = (0..SECTOR, store.epoch());
    let address = store.pin_for_write(range.clone()).expect("present");
    // SAFETY: the range is present and pinned, and no other thread writes to it.
    unsafe { address.write_bytes(2, 100) };
    store.flush();
    write(&store, SECTOR, SECTOR, 3, false);
    // SAFETY: as above.
    unsafe { address.write_bytes(2, SECTOR as usize) };
    store.end_write(&range, began, false);
    store.unpin(range);
    cut(&store, Keep::None, 0, PAGE as u32);
    assert_eq!(sectors(&store), [2, 1, 1, 1, 1, 1, 1, 1]);
}

/// What is kept counts against the limit. A write without room for it changes nothing, and a FLUSH makes
/// room.
#[test]
fn h14_a_write_for_which_nothing_can_be_kept_waits_for_a_flush() {
    let store = store(8);
    fill(&store, 0..4 * PAGE, 1);
    store.flush();
    store.set_memory_limit(store.table_bytes() + 5 * PAGE);
    write(&store, 0, 1, 2, false);
    for range in [PAGE..PAGE + 1, 0..2 * PAGE] {
        assert!(store.pin_for_write(range.clone()).is_none());
        assert!(!store.is_present(&range));
        assert!(store.populate(range).is_err());
    }
    write(&store, 1, 1, 2, false);
    assert_eq!(store.release_flushed(), 0, "it is in use");
    store.flush();
    assert_eq!(store.release_flushed(), PAGE);
    write(&store, PAGE, 1, 2, false);
    store.flush();
    // Its place is still there.
    assert!(store.is_present(&(PAGE..PAGE + 1)));
    write(&store, PAGE, 1, 3, false);
}

/// The server dies between any two steps of writes, of a FLUSH and of a cut. Another takes up the disk. A
/// cut then leaves what was flushed, of what was in flight either.
#[test]
fn h17_a_death_between_any_two_steps_is_no_power_cut() {
    let store = Store::anonymous(4 * PAGE, false).expect("a memfd");
    let undo = file::memfd(c"undo", false).expect("a memfd");
    let files = [&store.file, &undo].map(|file| file.try_clone().expect("a descriptor"));
    store.keep_flushed_in(undo, true).expect("an undo area");
    fill(&store, 0..3 * PAGE, 1);
    store.flush();
    assert_eq!(store.unflushed(), Some((0, true)));
    let died = Rc::new(RefCell::new(Vec::new()));
    // What may be in the first sectors of the pages after a cut.
    let allowed = Rc::new(RefCell::new([vec![1], vec![1], vec![1], vec![0]]));
    let each = {
        let (died, allowed) = (died.clone(), allowed.clone());
        move || {
            let files = files.each_ref().map(copy_of);
            died.borrow_mut().push((files, allowed.borrow().clone()));
        }
    };
    let may = |page: usize, bytes: &[u8]| allowed.borrow_mut()[page] = bytes.to_vec();
    recorder::record(each, || {
        write(&store, 0, PAGE, 2, false);
        write(&store, 3 * PAGE, SECTOR, 3, false);
        may(1, &[1, 4]);
        write(&store, PAGE, SECTOR, 4, true);
        may(1, &[4]);
        may(0, &[1, 2]);
        may(3, &[0, 3]);
        store.flush();
        may(0, &[2]);
        may(3, &[3]);
        write(&store, 0, PAGE, 5, false);
        write(&store, 3 * PAGE, SECTOR, 5, false);
        cut(&store, Keep::None, 0, PAGE as u32);
    });
    let died = died.take();
    assert!(died.len() > 20, "{} steps", died.len());
    for (step, ([file, undo], allowed)) in died.into_iter().enumerate() {
        let store = Store::with_new_file(file, 4 * PAGE, false).expect("opened again");
        store.keep_flushed_in(undo, true).expect("taken up");
        // A cut that had begun is over by now.
        cut(&store, Keep::None, 0, PAGE as u32);
        for (page, allowed) in allowed.iter().enumerate() {
            let found = byte_at(&store, page as u64 * PAGE);
            assert!(
                allowed.contains(&found),
                "step {step}, page {page}: {found}"
            );
        }
        assert_eq!(byte_at(&store, 3 * PAGE + SECTOR), 0);
        let held = store.used() - store.table_bytes();
        store.release_flushed();
        store.discard(0..4 * PAGE);
        assert_eq!(
            store.used(),
            store.table_bytes(),
            "step {step}: {held} held"
        );
    }
}
