// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps one worker idle, sends mayday while none can be made, ends surplus ones.
//!
//! The manager is a worker that found no other one idle; see [`super::worker`]. The mayday timer
//! calls [`super::rescuer`]. Kernel counterparts: `manage_workers`, `maybe_create_worker`,
//! `pool_mayday_timeout`, `idle_cull_fn`.

use super::worker::{create_worker, CreateError};
use super::worker_state::WorkerThread;
use super::{Pool, PoolGuard, PoolState};
use crate::env::helpers::{Job, PoolTimer, PoolTimers, TimerEvent};
use crate::observe;
use crate::sys::clock::after;
use crate::sys::timer::TimerIndex;
use crate::sys::{log_safely, turn_scheduler};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Takes the manager role, if it is free, and makes a worker. Returns with the lock held; false if
/// another worker is manager.
/// # Context: the pool's lock held; released inside.
pub(crate) fn manage<'a>(
    pool: &'a Arc<Pool>,
    mut st: PoolGuard<'a>,
    slot: usize,
) -> (PoolGuard<'a>, bool) {
    if st.manager.is_some() {
        return (st, false);
    }
    st.manager = Some(slot);
    // The role ends only when the pool has an idle worker or no longer needs one.
    loop {
        st.mayday_armed = true;
        arm_mayday(pool, pool.env.config.mayday_initial);
        drop(st);
        create_with_patience(pool);
        st = pool.lock();
        st.mayday_armed = false;
        let _ignored = pool.env.timers.disarm(&pool.mayday_timer);
        if !st.need_to_create_worker() {
            break;
        }
    }
    st.manager = None;
    pool.announce_change();
    (st, true)
}

/// Tries until a worker is made or none is needed any more.
fn create_with_patience(pool: &Arc<Pool>) {
    for attempt in 1.. {
        match create_worker(pool, attempt) {
            Ok(()) => return,
            Err(CreateError::Spawn(errno)) => warn_create_failed(pool, errno),
            Err(CreateError::Nice) => pool.env.warn_nice_denied(pool.nice),
        }
        if !pool.lock().need_to_create_worker() {
            return;
        }
        let again = after(pool.env.clock.now(), pool.env.config.create_cooldown);
        while pool.env.clock.now() < again && !pool.lock().stopping {
            pool.cooldown.wait_until(Some(again));
        }
        if !pool.lock().need_to_create_worker() {
            return;
        }
    }
}

fn warn_create_failed(pool: &Pool, errno: i32) {
    if observe::is_on() {
        observe::record_pool("create_failed", &pool.worker_name(0), pool.cpu());
    }
    if pool.env.first_time("create", errno) {
        let thread = pool.worker_name(0);
        let error = io::Error::from_raw_os_error(errno);
        log_safely!(
            warn,
            "workqueue: cannot create worker {thread}: {error}; will go on trying"
        );
    }
}

fn arm_mayday(pool: &Arc<Pool>, delay: Duration) {
    let due = after(pool.env.clock.now(), delay);
    // Fails only when the runtime ends, which waits for the items by other means.
    let _ignored = pool
        .env
        .timers
        .arm(due, TimerEvent::Pool(pool.clone(), PoolTimer::Mayday));
}

impl PoolTimers for Pool {
    fn place(&self, timer: PoolTimer) -> &TimerIndex {
        match timer {
            PoolTimer::Mayday => &self.mayday_timer,
            PoolTimer::Cull => &self.cull_timer,
        }
    }

    fn expired(self: Arc<Self>, timer: PoolTimer) {
        match timer {
            PoolTimer::Mayday => mayday_expired(&self),
            PoolTimer::Cull => {
                let pool = self.clone();
                self.env.monitor.post(Job::new(move || cull(&pool)));
            }
        }
    }
}

/// The mayday timer has expired: calls the rescuer of every queue with an item here.
pub(crate) fn mayday_expired(pool: &Arc<Pool>) {
    let mut st = pool.lock();
    // The manager may have ended this loop, and even begun another, since the expiry.
    if !st.mayday_armed || pool.mayday_timer.is_armed() {
        return;
    }
    if st.need_to_create_worker() {
        st.mayday_round += 1;
        let PoolState {
            worklist,
            pwqs,
            mayday_round,
            ..
        } = &mut *st;
        for work in worklist.iter() {
            let p = pwqs.get_mut(work.pwq());
            // Once per pwq: a rescuer that is awake takes its pwq off the list at once, and the
            // pwq's next item would put it there again.
            // guard: s07_03_call_per_item
            if std::mem::replace(&mut p.mayday_round, *mayday_round) == *mayday_round {
                continue;
            }
            let pwq = p.pwq.clone();
            if let Some(rescuer) = pwq.queue.rescuer.as_ref() {
                // guard: s07_03_no_mayday
                if rescuer.list(&pwq) {
                    p.refs += 1;
                    p.stats.mayday += 1;
                    observe::record_pool("mayday", &pwq.queue.name, pool.cpu());
                    rescuer.wake();
                }
            }
        }
    }
    // Under the lock: a manager that ends its loop now finds the timer armed, or knows that it will
    // not be.
    let interval = pool.env.config.mayday_interval;
    if !interval.is_zero() {
        arm_mayday(pool, interval);
    }
}

/// Arms the timer for the moment when the longest-idle worker has been idle for long enough.
/// # Context: the pool's lock held.
pub(crate) fn arm_cull(pool: &Arc<Pool>, st: &PoolState) {
    let since = st
        .workers
        .first_idle()
        .map_or_else(|| pool.env.clock.coarse(), |s| st.workers.get(s).idle_since);
    let due = after(since, pool.env.config.idle_timeout);
    let _ignored = pool
        .env
        .timers
        .arm(due, TimerEvent::Pool(pool.clone(), PoolTimer::Cull));
}

/// Ends workers that have been idle for too long while there are too many; joins their threads.
/// Runs on the monitor.
pub(crate) fn cull(pool: &Arc<Pool>) {
    let mut st = pool.lock();
    st.cull_armed = false;
    let mut dying = Vec::new();
    while st.too_many_workers() {
        let Some(oldest) = st.workers.first_idle() else {
            break;
        };
        let due = after(
            st.workers.get(oldest).idle_since,
            pool.env.config.idle_timeout,
        );
        if pool.env.clock.now() < due {
            st.cull_armed = true;
            arm_cull(pool, &st);
            break;
        }
        dying.push(st.workers.set_dying(oldest));
    }
    dying.iter().for_each(|parker| parker.unpark());
    while st.workers.nr_dying() > 0 {
        st = pool.wait_change(st);
    }
    let gone = st.workers.take_exited();
    drop(st);
    join_all(gone);
}

/// Takes the pool down: every worker leaves as soon as nothing waits; all threads are joined.
/// # Context: no lock of the crate held, not on a worker of this pool.
pub(crate) fn stop(pool: &Arc<Pool>) {
    let mut st = pool.lock();
    st.stopping = true;
    pool.cooldown.notify();
    while st.workers.len() + st.workers.nr_dying() > 0 || st.manager.is_some() {
        for slot in st.workers.slots() {
            if st.workers.is_present(slot) {
                st.workers.get(slot).parker.unpark();
            }
        }
        st = pool.wait_change(st);
    }
    let gone = st.workers.take_exited();
    drop(st);
    join_all(gone);
    let _ignored = pool.env.timers.disarm(&pool.cull_timer);
}

/// Ends all workers, also if items wait: the start of the runtime failed, and nothing ran yet.
/// # Context: no lock of the crate held; no worker has been woken so far.
pub(crate) fn dismiss(pool: &Arc<Pool>) {
    let mut st = pool.lock();
    while let Some(slot) = st.workers.first_idle() {
        st.workers.set_dying(slot).unpark();
    }
    while st.workers.nr_dying() > 0 {
        st = pool.wait_change(st);
    }
    let gone = st.workers.take_exited();
    drop(st);
    join_all(gone);
}

fn join_all(gone: Vec<Arc<WorkerThread>>) {
    for thread in gone {
        let handle = thread.handle.lock().take();
        if let Some(handle) = handle {
            // A panic outside an item ends the process, so the result says nothing.
            let _ignored = turn_scheduler::run_outside(|| handle.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::topology::Topology;
    use crate::Runtime;

    #[test]
    fn s07_03_an_expiry_that_comes_after_the_managers_loop_does_nothing() {
        let builder = Runtime::builder().topology(Topology::one_cpu());
        let rt = builder.start().expect("threads can be made");
        let pool = rt.inner.pools_of(0).expect("it has its pools").normal;
        mayday_expired(&pool);
        assert!(!pool.mayday_timer.is_armed(), "nobody would disarm it");
    }
}
