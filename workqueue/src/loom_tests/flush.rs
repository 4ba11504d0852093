// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flush colors: the end of a generation is found by exactly one thread, and not early.

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
