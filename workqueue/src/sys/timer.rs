// SPDX-License-Identifier: MIT OR Apache-2.0
//! The timers of a runtime: one heap, one thread.
//!
//! Delayed items wait here between `enqueue_delayed` and their expiry; pools keep their two timers
//! here (the call for help, the culling of idle workers). [`crate::work::delayed`] and
//! [`crate::pool`] hand in and say what an expiry means. Kernel counterpart: `struct timer_list`.
//!
//! The heap has four children per node and knows the index of each entry, so that an entry can be
//! disarmed. Entries of equal expiry leave in the order they came.

use super::clock::{Clock, Notify};
use super::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// The index of an entry in the heap. The owner keeps it, the heap writes it.
#[derive(Debug)]
pub(crate) struct TimerIndex(AtomicUsize); // T: written under the heap's lock

const NOWHERE: usize = usize::MAX;
const ARITY: usize = 4;

impl TimerIndex {
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(NOWHERE))
    }

    /// Reliable only for a caller that keeps others from arming.
    pub(crate) fn is_armed(&self) -> bool {
        self.get() != NOWHERE
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, at: usize) {
        self.0.store(at, Ordering::Relaxed);
    }
}

/// What can be armed: it stores its index in the heap.
pub(crate) trait Timed {
    fn place(&self) -> &TimerIndex;
}

#[derive(Debug)]
struct Entry<P> {
    due: u64,
    number: u64,
    payload: P,
}

impl<P> Entry<P> {
    fn key(&self) -> (u64, u64) {
        (self.due, self.number)
    }
}

#[derive(Debug)]
struct Heap<P> {
    entries: Vec<Entry<P>>,
    next_number: u64,
    /// The thread shall end.
    ending: bool,
    /// Nothing is armed any more.
    closed: bool,
}

/// The heap with the means to wake its thread.
#[derive(Debug)]
pub(crate) struct Timers<P> {
    heap: Mutex<Heap<P>>, // T
    clock: Clock,
    wake: Arc<Notify>,
}

impl<P: Timed> Timers<P> {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self {
            heap: Mutex::new(Heap {
                entries: Vec::new(),
                next_number: 0,
                ending: false,
                closed: false,
            }),
            clock: clock.clone(),
            wake: Notify::new(clock),
        }
    }

    /// Arms an entry. The thread is woken only if it would otherwise sleep past it. After
    /// [`Timers::close`] the payload comes back.
    pub(crate) fn arm(&self, due: u64, payload: P) -> Result<(), P> {
        let first = {
            let mut heap = self.heap.lock();
            if heap.closed {
                return Err(payload);
            }
            debug_assert_eq!(
                payload.place().get(),
                NOWHERE,
                "a timer is armed once at a time"
            );
            let number = heap.next_number;
            heap.next_number += 1;
            let at = heap.entries.len();
            payload.place().set(at);
            heap.entries.push(Entry {
                due,
                number,
                payload,
            });
            heap.rise(at) == 0
        };
        if first {
            self.wake.notify();
        }
        Ok(())
    }

    /// Disarms an entry; None if it is not armed.
    pub(crate) fn disarm(&self, place: &TimerIndex) -> Option<P> {
        let mut heap = self.heap.lock();
        match place.get() {
            NOWHERE => None,
            at => Some(heap.take(at)),
        }
    }

    /// A thread is about to `serve`.
    pub(crate) fn begin_thread(&self) {
        self.heap.lock().ending = false;
    }

    /// Lets the thread end; entries stay for the next one.
    pub(crate) fn end_thread(&self) {
        self.heap.lock().ending = true;
        self.wake.notify();
    }

    /// Takes no further entry; returns what was armed.
    pub(crate) fn close(&self) -> Vec<P> {
        let mut heap = self.heap.lock();
        heap.closed = true;
        let left = std::mem::take(&mut heap.entries);
        left.iter().for_each(|e| e.payload.place().set(NOWHERE));
        left.into_iter().map(|e| e.payload).collect()
    }

    /// The thread's loop: hands each expired entry to `expire`, until told to end. `sleep` waits for a
    /// call, at most until a time.
    pub(crate) fn serve(&self, sleep: impl Fn(&Notify, Option<u64>), mut expire: impl FnMut(P)) {
        loop {
            let next = loop {
                let mut heap = self.heap.lock();
                if heap.ending {
                    return;
                }
                match heap.entries.first().map(|e| e.due) {
                    Some(due) if due <= self.clock.now() => {
                        let payload = heap.take(0);
                        drop(heap);
                        expire(payload);
                    }
                    other => break other,
                }
            };
            sleep(&self.wake, next);
        }
    }
}

impl<P: Timed> Heap<P> {
    fn put(&mut self, a: usize, b: usize) {
        self.entries.swap(a, b);
        self.entries[a].payload.place().set(a);
        self.entries[b].payload.place().set(b);
    }

    fn rise(&mut self, mut at: usize) -> usize {
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if self.entries[parent].key() <= self.entries[at].key() {
                break;
            }
            self.put(parent, at);
            at = parent;
        }
        at
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let children = at * ARITY + 1..(at * ARITY + 1 + ARITY).min(self.entries.len());
            match children.min_by_key(|&c| self.entries[c].key()) {
                Some(child) if self.entries[child].key() < self.entries[at].key() => {
                    self.put(at, child);
                    at = child;
                }
                _ => return,
            }
        }
    }

    fn take(&mut self, at: usize) -> P {
        let last = self.entries.len() - 1;
        self.put(at, last);
        let gone = self.entries.pop().expect("an armed entry is in the heap");
        gone.payload.place().set(NOWHERE);
        if at < last {
            let at = self.rise(at);
            self.sink(at);
        }
        gone.payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Probe(u32, Arc<TimerIndex>);

    impl Timed for Probe {
        fn place(&self) -> &TimerIndex {
            &self.1
        }
    }

    fn drain(timers: &Timers<Probe>) -> Vec<u32> {
        let mut heap = timers.heap.lock();
        let mut out = Vec::new();
        while !heap.entries.is_empty() {
            out.push(heap.take(0).0);
        }
        out
    }

    #[test]
    fn s09_10_equal_expiry_fires_in_arming_order() {
        let timers = Timers::new(&Clock::Real);
        for n in 0..200 {
            timers
                .arm(7, Probe(n, Arc::new(TimerIndex::new())))
                .expect("not closed");
        }
        assert_eq!(drain(&timers), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn entries_leave_in_order_whatever_is_taken_out() {
        let timers = Timers::new(&Clock::Real);
        let mut rng = 12345u64;
        let mut places = Vec::new();
        for n in 0..1000u32 {
            rng = rng
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let place = Arc::new(TimerIndex::new());
            timers
                .arm(rng >> 40, Probe((rng >> 40) as u32, place.clone()))
                .expect("not closed");
            places.push(place);
            if n % 3 == 0 {
                let victim = &places[(rng >> 33) as usize % places.len()];
                let _maybe_gone = timers.disarm(victim);
            }
        }
        let out = drain(&timers);
        assert!(out.windows(2).all(|w| w[0] <= w[1]));
        assert!(out.len() >= 600 && places.iter().all(|p| p.get() == NOWHERE));
    }
}
