// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rings of records, one per thread, for records of any kind: the workqueue's own are in [`super`],
//! a program may keep its own beside them.
//!
//! The start of a recording makes all rings: one for each existing thread, and some for later ones.
//! A thread takes one at its first record, and from then on no other thread writes there; so
//! recording never allocates. A full ring keeps its newest records and counts the others as lost.
//! The lock of a ring is for the moment in which it is emptied, when its memory is exchanged.
//! Kernel counterpart: `struct ring_buffer_per_cpu`, which overwrites likewise.

use crate::sys::clock::VirtualClock;
use crate::sys::sync::Mutex;
use crate::sys::{cpu, ShortText};
use std::cell::{Cell, RefCell};
use std::collections::TryReserveError;
use std::fs;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::LocalKey;

/// The clock of the records, if it is a virtual one.
static CLOCK: Mutex<Option<Arc<VirtualClock>>> = Mutex::new(None); // V

static IS_VIRTUAL: AtomicBool = AtomicBool::new(false); // A: written under V

/// How many records were made on a virtual clock.
static ORDER: AtomicU32 = AtomicU32::new(0); // A

thread_local! {
    /// How many this thread has made on the machine's.
    static OWN_ORDER: Cell<u32> = const { Cell::new(0) };
}

/// When and where something was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds, as [`now`] counts them.
    pub time: u64,
    /// Rises with each record of a thread, in any recorder: the order of two records with the same
    /// time. On a virtual clock, where much happens at one time, it is one number for all threads.
    pub order: u32,
    /// The CPU. On a virtual clock that of the worker's pool, and 0 elsewhere.
    pub cpu: usize,
}

/// Now, here.
pub fn moment() -> Moment {
    let time = now();
    if IS_VIRTUAL.load(Ordering::Relaxed) {
        return Moment {
            time,
            order: ORDER.fetch_add(1, Ordering::Relaxed),
            cpu: cpu::worker_cpu().unwrap_or(0),
        };
    }
    // 0 on a thread that is being torn down, which records nothing.
    let order = OWN_ORDER.try_with(|own| own.replace(own.get().wrapping_add(1)));
    Moment {
        time,
        order: order.unwrap_or(0),
        cpu: cpu::current_cpu(),
    }
}

pub(super) fn set_clock(clock: Option<Arc<VirtualClock>>) {
    if is_forked_child() {
        return;
    }
    let mut current = CLOCK.lock();
    IS_VIRTUAL.store(clock.is_some(), Ordering::Relaxed);
    *current = clock;
}

/// The clock of all records: CLOCK_MONOTONIC in nanoseconds, or the virtual clock that the
/// recording was started on.
pub fn now() -> u64 {
    if IS_VIRTUAL.load(Ordering::Relaxed) && !is_forked_child() {
        let clock = CLOCK.lock();
        if let Some(clock) = &*clock {
            return u64::try_from(clock.now().as_nanos()).unwrap_or(u64::MAX);
        }
    }
    cpu::monotonic_ns()
}

/// Rings for threads that are made during a recording.
const SPARE: usize = 32;

/// A kind of record that says when it was made.
pub trait Timed: Copy {
    /// Nanoseconds, as [`now`] counts them.
    fn time(&self) -> u64;

    /// The order of records with the same time: [`Moment::order`].
    fn order(&self) -> u32 {
        0
    }
}

/// The rings of one kind of record: a `static`.
#[derive(Debug)]
pub struct Recorder<R> {
    /// Changes with each recording; 0 before the first.
    recording: AtomicU32, // A: written under P
    /// Records of threads for which no ring was left.
    missed: AtomicU64, // A
    pool: Mutex<Pool<R>>, // P
}

#[derive(Debug)]
struct Pool<R> {
    unclaimed: Vec<Arc<Ring<R>>>,
    claimed: Vec<Arc<Ring<R>>>,
}

/// A thread's share: in a `thread_local!`.
#[derive(Debug)]
pub struct Own<R>(RefCell<Option<Claim<R>>>);

/// What a thread got when it asked for a ring.
#[derive(Debug)]
struct Claim<R> {
    recording: u32,
    /// None if none was left.
    ring: Option<Arc<Ring<R>>>,
}

/// What one thread has recorded.
#[derive(Debug)]
struct Ring<R>(Mutex<Records<R>>);

#[derive(Debug)]
struct Records<R> {
    tid: i32,
    name: ShortText,
    kept: Vec<R>,
    capacity: usize,
    /// Where the next one goes once the ring is full: the place of the oldest.
    oldest: usize,
    lost: u64,
}

/// What the threads have recorded.
#[derive(Debug)]
pub struct Recording<R> {
    /// Each thread that has recorded something, with the name that `ps -L` shows for it.
    pub threads: Vec<(i32, String)>,
    /// By time and order, with the thread's number.
    pub records: Vec<(i32, R)>,
    /// How many were overwritten, or had no ring.
    pub lost: u64,
}

impl<R> Recorder<R> {
    /// Without rings.
    pub const fn new() -> Self {
        Self {
            recording: AtomicU32::new(0),
            missed: AtomicU64::new(0),
            pool: Mutex::new(Pool {
                unclaimed: Vec::new(),
                claimed: Vec::new(),
            }),
        }
    }
}

impl<R> Default for Recorder<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> Own<R> {
    /// No ring yet.
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }
}

impl<R> Default for Own<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Timed> Recorder<R> {
    /// Drops what was recorded and makes new rings of `capacity` records. The caller decides by a
    /// flag of its own if anything is recorded.
    ///
    /// # Errors
    /// There is no memory for the rings; the former ones are gone then, too.
    pub fn start(&self, capacity: usize) -> Result<(), TryReserveError> {
        if is_forked_child() {
            return Ok(());
        }
        cpu::watch_forks();
        // Before new memory is asked for.
        drop(self.drain(false));
        let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        let rings = (0..threads + SPARE).map(|_| Ring::new(capacity.max(1)).map(Arc::new));
        let rings = rings.collect::<Result<Vec<_>, _>>()?;
        let mut pool = self.pool.lock();
        // Dropped without the lock.
        let _ignored = mem::replace(
            &mut *pool,
            Pool {
                claimed: Vec::with_capacity(rings.len()),
                unclaimed: rings,
            },
        );
        self.missed.store(0, Ordering::Relaxed);
        self.recording.fetch_add(1, Ordering::Relaxed);
        drop(pool);
        Ok(())
    }

    /// Records something on the calling thread. Allocates nothing; the first record of a thread
    /// asks the system for its name.
    pub fn record(&'static self, own: &'static LocalKey<Own<R>>, record: R) {
        if is_forked_child() {
            return;
        }
        // A thread that is being torn down records nothing any more.
        let _ignored = own.try_with(|own| {
            let mut own = own.0.borrow_mut();
            let recording = self.recording.load(Ordering::Relaxed);
            let claim = match &mut *own {
                Some(claim) if claim.recording == recording => claim,
                old => old.insert(self.claim()),
            };
            match &claim.ring {
                Some(ring) => ring.0.lock().push(record),
                None => {
                    self.missed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }

    #[cold]
    fn claim(&self) -> Claim<R> {
        let (tid, name) = (cpu::current_tid(), cpu::current_name());
        let mut pool = self.pool.lock();
        let ring = pool.unclaimed.pop();
        if let Some(ring) = &ring {
            let mut records = ring.0.lock();
            (records.tid, records.name) = (tid, name);
            drop(records);
            // There is room for all of them.
            pool.claimed.push(ring.clone());
        }
        Claim {
            recording: self.recording.load(Ordering::Relaxed),
            ring,
        }
    }

    /// Empties all rings. With `keep` they can be filled again, else their memory is freed.
    pub fn drain(&self, keep: bool) -> Recording<R> {
        let mut all = Recording {
            threads: Vec::new(),
            records: Vec::new(),
            lost: 0,
        };
        if is_forked_child() {
            return all;
        }
        let claimed = {
            let mut pool = self.pool.lock();
            if !keep {
                pool.unclaimed = Vec::new();
            }
            pool.claimed.clone()
        };
        for ring in claimed {
            ring.empty(keep, &mut all);
        }
        all.lost += self.missed.swap(0, Ordering::Relaxed);
        all.records
            .sort_by_key(|(_, record)| (record.time(), record.order()));
        all
    }
}

/// True in a child of a fork, where the locks of the rings may be held for ever. Tested before a
/// lock is taken.
fn is_forked_child() -> bool {
    cpu::fork_generation() != 0
}

impl<R: Timed> Ring<R> {
    fn new(capacity: usize) -> Result<Self, TryReserveError> {
        let mut kept = Vec::new();
        kept.try_reserve_exact(capacity)?;
        Ok(Self(Mutex::new(Records {
            tid: 0,
            name: ShortText::default(),
            kept,
            capacity,
            oldest: 0,
            lost: 0,
        })))
    }

    fn empty(&self, keep: bool, into: &mut Recording<R>) {
        let capacity = self.0.lock().capacity;
        // Allocated and dropped outside the lock, so that the thread does not wait.
        let fresh = Vec::with_capacity(if keep { capacity } else { 0 });
        let (tid, name, kept, oldest) = {
            let mut records = self.0.lock();
            if !keep {
                records.capacity = 0;
            }
            into.lost += mem::take(&mut records.lost);
            let kept = mem::replace(&mut records.kept, fresh);
            let oldest = mem::take(&mut records.oldest);
            (records.tid, records.name, kept, oldest)
        };
        if !kept.is_empty() {
            into.threads.push((tid, name.as_str().to_owned()));
        }
        let in_order = kept[oldest..].iter().chain(&kept[..oldest]);
        into.records.extend(in_order.map(|record| (tid, *record)));
    }
}

impl<R: Copy> Records<R> {
    fn push(&mut self, record: R) {
        if self.kept.len() < self.capacity {
            self.kept.push(record);
            return;
        }
        self.lost += 1;
        if self.capacity > 0 {
            self.kept[self.oldest] = record;
            self.oldest = (self.oldest + 1) % self.capacity;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct At(u64);

    impl Timed for At {
        fn time(&self) -> u64 {
            self.0
        }
    }

    thread_local! {
        static OWN: Own<At> = const { Own::new() };
    }

    fn times(recording: &Recording<At>) -> Vec<u64> {
        recording.records.iter().map(|(_, at)| at.0).collect()
    }

    #[test]
    fn s12_08_a_full_ring_keeps_the_newest_and_counts_the_rest() {
        static RECORDER: Recorder<At> = Recorder::new();
        let record = |n| RECORDER.record(&OWN, At(n));
        RECORDER.start(3).unwrap();
        (0..8).for_each(record);
        let seen = RECORDER.drain(true);
        assert_eq!((times(&seen), seen.lost), (vec![5, 6, 7], 5));
        assert_eq!(seen.threads.len(), 1);
        record(8);
        let seen = RECORDER.drain(false);
        assert_eq!((times(&seen), seen.lost), (vec![8], 0));
        record(9);
        let seen = RECORDER.drain(false);
        assert_eq!((times(&seen), seen.lost), (vec![], 1), "it has ended");
        RECORDER.start(3).unwrap();
        record(10);
        assert_eq!(times(&RECORDER.drain(false)), [10]);
    }

    #[test]
    fn s12_08_memory_that_is_not_there_is_an_error() {
        static RECORDER: Recorder<At> = Recorder::new();
        assert!(RECORDER.start(usize::MAX / 16).is_err());
        RECORDER.record(&OWN, At(1));
        let seen = RECORDER.drain(false);
        assert_eq!((times(&seen), seen.lost), (vec![], 1));
    }

    #[test]
    fn s01_13_a_forked_child_does_not_wait_for_the_clock_of_records() {
        let held = CLOCK.lock();
        IS_VIRTUAL.store(true, Ordering::Relaxed);
        let returned = cpu::is_true_in_child(|| {
            set_clock(Some(VirtualClock::new()));
            moment().time > 0
        });
        IS_VIRTUAL.store(false, Ordering::Relaxed);
        drop(held);
        assert!(returned);
    }

    #[test]
    fn s12_08_threads_without_a_ring_are_counted() {
        static RECORDER: Recorder<At> = Recorder::new();
        RECORDER.start(1).unwrap();
        let rings = RECORDER.pool.lock().unclaimed.len();
        for n in 0..rings as u64 + 3 {
            std::thread::spawn(move || RECORDER.record(&OWN, At(n)))
                .join()
                .unwrap();
        }
        let seen = RECORDER.drain(false);
        assert_eq!((seen.records.len(), seen.lost), (rings, 3));
        assert_eq!(times(&seen), (0..rings as u64).collect::<Vec<_>>());
    }
}
