// SPDX-License-Identifier: MIT OR Apache-2.0
//! The counts of a queue. Flush colors: the end of a generation is found by exactly one thread, and
//! not early. The slots of a node: no party waits beside a free slot, and never too many are in use.

use crate::pwq::nr_active::{HeadResult, NrActive};
use crate::wq::queue::FlushCountdown;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// A pwq as far as it matters here: items of the color, and whether their end is to be reported.
type Share = Mutex<(usize, bool)>;

struct Flush {
    shares: [Share; 2],
    countdown: FlushCountdown,
    ends: AtomicUsize,
}

impl Flush {
    fn over(&self) {
        self.ends.fetch_add(1, Ordering::Relaxed);
        let left: usize = self.shares.iter().map(|s| s.lock().unwrap().0).sum();
        assert_eq!(left, 0, "the flush is over early");
    }

    /// As `QueueInner::arm`.
    fn arm(&self) {
        self.countdown.start();
        for share in &self.shares {
            let mut share = share.lock().unwrap();
            if share.0 > 0 {
                share.1 = true;
                self.countdown.add();
            }
        }
        if self.countdown.count_down() {
            self.over();
        }
    }

    /// As `pwq::retire`.
    fn retire(&self, share: usize) {
        let last = {
            let mut share = self.shares[share].lock().unwrap();
            share.0 -= 1;
            share.0 == 0 && std::mem::take(&mut share.1) && self.countdown.count_down()
        };
        if last {
            self.over();
        }
    }
}

#[test]
fn s10_01_s10_03_a_generation_ends_once_and_not_early() {
    loom::model(|| {
        let flush = Arc::new(Flush {
            shares: [Mutex::new((1, false)), Mutex::new((1, false))],
            countdown: FlushCountdown::new(),
            ends: AtomicUsize::new(0),
        });
        let workers: Vec<_> = (0..2)
            .map(|n| {
                let flush = flush.clone();
                thread::spawn(move || flush.retire(n))
            })
            .collect();
        flush.arm();
        workers.into_iter().for_each(|w| w.join().unwrap());
        assert_eq!(flush.ends.load(Ordering::Relaxed), 1);
    });
}

/// What the crate does with the duty that `release` returns.
fn serve(nr_active: &NrActive<u32>) -> Vec<u32> {
    let mut served = Vec::new();
    while let Some(head) = nr_active.head() {
        match nr_active.take_for_head(&head) {
            HeadResult::Slot => served.push(head),
            HeadResult::Moved => {}
            HeadResult::Full => break,
        }
    }
    served
}

#[test]
fn s08_06_a_slot_given_back_reaches_a_waiting_party() {
    loom::model(|| {
        let nr_active = Arc::new(NrActive::new(1));
        assert!(nr_active.take_or_wait(|| 1));
        let other = nr_active.clone();
        let giver = thread::spawn(move || {
            if other.release() {
                serve(&other)
            } else {
                Vec::new()
            }
        });
        let at_once = nr_active.take_or_wait(|| 2);
        let served = giver.join().unwrap();
        assert_eq!(
            usize::from(at_once) + served.len(),
            1,
            "the second party waits beside a free slot"
        );
        assert_eq!(nr_active.used(), 1);
    });
}

#[test]
fn s08_04_two_takers_share_one_slot() {
    loom::model(|| {
        let nr_active = Arc::new(NrActive::new(1));
        let other = nr_active.clone();
        let t = thread::spawn(move || other.take_or_wait(|| 1));
        let here = nr_active.take_or_wait(|| 2);
        assert!(here != t.join().unwrap());
        assert!(nr_active.head().is_some());
    });
}
