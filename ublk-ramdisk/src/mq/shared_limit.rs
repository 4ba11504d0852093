// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device-wide slots: a limit over all hardware queues, with a list of the queues that wait (W4).
//!
//! A driver owns one and names it in [`Operations::budget`](super::Operations::budget). RESTART
//! cannot help here: it is per hctx, and the slot that hctx B wants is given back by hctx A (C30).
//!
//! ```text
//!   B: list itself | fence | try once more          A: give back | fence | look at the list
//! ```
//!
//! Either B's second try finds the slot, or A finds B on the list. A wakes all that wait, the oldest
//! first. The oldest alone would not do: its own thread may have served it since, so that it would
//! take no slot and wake nobody.

use super::operations::{Budget, Hctx};
use super::queue::Queue;
use super::sync::{fence, AtomicU32, Mutex, Ordering};

/// The slots.
#[derive(Debug)]
pub struct DeviceSlots {
    free: AtomicU32,    // A: below 0 after some were taken away
    waiting: AtomicU32, // A: length of the list, written under its lock
    waiters: Mutex<Waiters>,
}

/// Hardware queues that wait, the oldest first. Each is listed once at most, so the list never grows.
#[derive(Debug)]
struct Waiters {
    hctxs: Box<[u16]>,
    first: usize,
    len: usize,
}

impl Waiters {
    fn contains(&self, hctx: u16) -> bool {
        (0..self.len).any(|n| self.hctxs[(self.first + n) % self.hctxs.len()] == hctx)
    }

    fn push(&mut self, hctx: u16) {
        if !self.contains(hctx) {
            let at = (self.first + self.len) % self.hctxs.len();
            self.hctxs[at] = hctx;
            self.len += 1;
        }
    }

    fn pop(&mut self) -> Option<u16> {
        let left = self.len.checked_sub(1)?;
        let oldest = self.hctxs[self.first];
        self.first = (self.first + 1) % self.hctxs.len();
        self.len = left;
        Some(oldest)
    }
}

impl DeviceSlots {
    /// `slots` slots, for a device with `nr_hw_queues` hardware queues.
    pub fn new(slots: u32, nr_hw_queues: u16) -> Self {
        Self {
            free: AtomicU32::new(slots),
            waiting: AtomicU32::new(0),
            waiters: Mutex::new(Waiters {
                hctxs: vec![0; usize::from(nr_hw_queues)].into(),
                first: 0,
                len: 0,
            }),
        }
    }

    /// How many are free.
    pub fn free(&self) -> u32 {
        (self.free.load(Ordering::Relaxed) as i32).max(0) as u32
    }

    /// True if any hctx waits for a slot.
    pub fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// True if this hctx waits for a slot.
    pub fn is_awaited_by(&self, hctx: u16) -> bool {
        self.is_awaited() && self.waiters.lock().contains(hctx)
    }

    /// Adds `by` slots, or takes them away if it is negative: slots in use beyond the new number
    /// are not given out again. Runs every hctx that waits.
    pub fn resize(&self, by: i32, queue: &Queue) {
        self.add(by, |waiter| queue.restart_hw_queue(waiter));
    }

    /// Takes one, or lists `hctx` as waiting. True if one was taken.
    pub fn take(&self, hctx: u16) -> bool {
        if self.try_take() {
            return true;
        }
        {
            let mut waiters = self.waiters.lock();
            waiters.push(hctx);
            self.waiting.store(waiters.len as u32, Ordering::Relaxed);
        }
        // Pairs with the fence in `give_back`, see above.
        // guard: w04_fences
        fence(Ordering::SeqCst);
        // A queue that is listed without need is run once without effect.
        // guard: w04_second_try
        self.try_take()
    }

    /// Gives one back, and runs every hctx that waits.
    pub fn release(&self, hctx: Hctx<'_>) {
        // guard: w04_restart
        self.give_back(|waiter| hctx.queue().restart_hw_queue(waiter));
    }

    /// Gives one back; `wake` is called for every hctx that waits, the oldest first.
    pub(super) fn give_back(&self, wake: impl FnMut(u16)) {
        self.add(1, wake);
    }

    /// As [`DeviceSlots::resize`], before the device lives.
    pub fn provide(&self, by: i32) {
        self.add(by, |_| {});
    }

    fn add(&self, by: i32, mut wake: impl FnMut(u16)) {
        self.free.fetch_add(by as u32, Ordering::Release);
        // Pairs with the fence in `take`, see above.
        // guard: w04_fences
        fence(Ordering::SeqCst);
        // Queues that begin to wait again meanwhile are woken by the next slot given back.
        for _ in 0..self.waiting.load(Ordering::Relaxed) {
            match self.pop_waiter() {
                Some(oldest) => wake(oldest),
                None => break,
            }
        }
    }

    fn pop_waiter(&self) -> Option<u16> {
        let mut waiters = self.waiters.lock();
        let oldest = waiters.pop();
        self.waiting.store(waiters.len as u32, Ordering::Relaxed);
        oldest
    }

    fn try_take(&self) -> bool {
        let mut free = self.free.load(Ordering::Relaxed);
        while free as i32 > 0 {
            match self
                .free
                .compare_exchange(free, free - 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
        false
    }
}

impl Budget for DeviceSlots {
    fn get(&self, hctx: u16) -> Option<u32> {
        self.take(hctx).then_some(0)
    }

    fn put(&self, hctx: Hctx<'_>, _token: u32) {
        self.release(hctx);
    }

    fn is_awaited_by(&self, hctx: u16) -> bool {
        DeviceSlots::is_awaited_by(self, hctx)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn w04_the_queue_that_has_waited_longest_is_first_and_is_listed_once() {
        let slots = DeviceSlots::new(1, 3);
        let back = || {
            let mut woken = Vec::new();
            slots.give_back(|hctx| woken.push(hctx));
            woken
        };
        assert!(slots.take(0));
        assert!(!slots.take(2) && !slots.take(1) && !slots.take(2));
        assert_eq!(back(), [2, 1]);
        assert!(slots.take(2) && !slots.take(0));
        assert_eq!((back(), back()), (vec![0], vec![]));
        assert_eq!(slots.free(), 2);
    }
}
