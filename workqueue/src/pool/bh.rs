// SPDX-License-Identifier: MIT OR Apache-2.0
//! The threads of BH queues: one per CPU and priority, which runs its items one after the other.
//!
//! [`super::worker`] hands over when such a thread wakes up. It is a worker that never counts,
//! never manages and is alone in its pool, so nothing begins before the item in front has ended.
//! Kernel counterparts: `bh_worker`, `bh_pool_kick_normal`, and the softirq that runs them.

use super::run::run_while;
use super::worker::create_worker;
use super::{Pool, PoolGuard};
use crate::env::config::BhBatch;
use crate::runtime::directory::Directory;
use crate::sys::clock::after;
use crate::sys::user_code::log_safely;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;

/// How much of a batch is left.
struct BatchLimit {
    left: usize,
    end: u64,
}

impl BatchLimit {
    fn begin(batch: BhBatch, now: u64) -> Self {
        Self {
            left: batch.items,
            end: after(now, batch.time),
        }
    }

    /// Counts an item; true if the batch is over.
    fn is_over(&mut self, now: u64) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0 || now >= self.end
    }
}

/// Runs everything on the worklist, in its order.
/// # Context: the pool's lock held; released inside.
pub(super) fn run_all<'a>(pool: &'a Pool, mut st: PoolGuard<'a>, slot: usize) -> PoolGuard<'a> {
    let env = &pool.env;
    while !st.worklist.is_empty() {
        let mut limit = BatchLimit::begin(env.config.bh_batch, env.clock.now());
        st = run_while(pool, st, slot, |st| {
            !limit.is_over(env.clock.now()) && !st.worklist.is_empty()
        });
        if !st.worklist.is_empty() {
            drop(st);
            thread::yield_now();
            st = pool.lock();
        }
    }
    st
}

impl Directory {
    /// True if this BH pool has, or should have, a thread.
    pub(crate) fn wants_bh_thread(&self, pool: &Pool) -> bool {
        self.bh.wanted[usize::from(pool.nice < 0)].load(Ordering::Relaxed)
    }

    /// Makes the BH threads of this priority now if the runtime is started, else at its start. On
    /// an error the monitor goes on trying.
    /// # Context: `attrs_lock` held, no other.
    pub(crate) fn want_bh_threads(&self, highpri: bool) -> Result<(), i32> {
        self.bh.wanted[usize::from(highpri)].store(true, Ordering::Relaxed);
        if self.env.is_online() {
            self.make_bh_threads(highpri)
        } else {
            Ok(())
        }
    }

    /// As `want_bh_threads`, for a queue that is there already.
    /// # Context: no lock of the crate held.
    pub(crate) fn want_bh_threads_later(&self, highpri: bool) {
        // Relaxed: a caller that reads a stale "no" only takes the lock for nothing.
        if self.bh.wanted[usize::from(highpri)].load(Ordering::Relaxed)
            || self.env.is_in_forked_child()
        {
            return;
        }
        let _attrs = self.attrs_lock.lock();
        if let Err(errno) = self.want_bh_threads(highpri) {
            let error = std::io::Error::from_raw_os_error(errno);
            log_safely!(
                warn,
                "workqueue: cannot create a BH thread: {error}; will go on trying"
            );
        }
    }

    /// Tries again to make missing threads. Runs on the monitor.
    pub(crate) fn retry_bh_threads(&self) {
        for highpri in [false, true] {
            if self.bh.missing[usize::from(highpri)].load(Ordering::Relaxed) {
                let _attrs = self.attrs_lock.lock();
                let _ignored = self.make_bh_threads(highpri);
            }
        }
    }

    fn make_bh_threads(&self, highpri: bool) -> Result<(), i32> {
        let missing = &self.bh.missing[usize::from(highpri)];
        missing.store(true, Ordering::Relaxed);
        let is_ours = |pool: &Arc<Pool>| pool.is_bh() && (pool.nice < 0) == highpri;
        for pool in self.percpu_pools().iter().filter(|p| is_ours(p)) {
            let has_one = pool.lock().workers.len() > 0;
            if !has_one {
                create_worker(pool, 1).map_err(|e| e.errno())?;
            }
            // Items may have been enqueued before the thread was made.
            let wake = pool.lock().kick();
            wake.perform();
        }
        missing.store(false, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::{Clock, VirtualClock};
    use std::time::Duration;

    const BATCH: BhBatch = BhBatch {
        items: 10,
        time: Duration::from_millis(2),
    };

    #[test]
    fn s03_10_a_batch_ends_after_ten_items() {
        let clock = Clock::Virtual(VirtualClock::new());
        let mut limit = BatchLimit::begin(BATCH, clock.now());
        assert!((1..10).all(|_| !limit.is_over(clock.now())));
        assert!(limit.is_over(clock.now()));
    }

    #[test]
    fn s03_10_a_batch_ends_after_two_milliseconds() {
        let time = VirtualClock::new();
        let clock = Clock::Virtual(time.clone());
        time.advance(Duration::from_secs(1));
        let mut limit = BatchLimit::begin(BATCH, clock.now());
        time.advance(Duration::from_micros(1999));
        assert!(!limit.is_over(clock.now()));
        time.advance(Duration::from_micros(1));
        assert!(limit.is_over(clock.now()));
    }
}
