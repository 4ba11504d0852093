// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker thread: it is made, wakes, takes items, sleeps, leaves.
//!
//! Made by [`super::manager`] or at start; [`super::run`] runs what it takes off its pool's
//! worklist. Kernel counterparts: `worker_thread`, `create_worker`, and the repatriation in
//! `kick_pool`.
//!
//! The thread of BH queues, one per CPU and priority, is a worker that never counts, never manages
//! and is alone in its pool. So it runs its items one after the other. Kernel counterparts:
//! `bh_worker`, `bh_pool_kick_normal`, and the softirq that runs them.

use super::context::{self, Context};
use super::run::{run_while, Batch};
use super::worker_state::{ControlBlock, WorkerFlags};
use super::{manager, Pool, PoolGuard, PoolKind, PoolState};
use crate::env::{BhBatch, CreateAttempt, PoolClass};
use crate::error::StartError;
use crate::runtime::directory::Directory;
use crate::sys::clock::after;
use crate::sys::cpu::{self, errno_of, AbortOnUnwind};
use crate::sys::sync::Parker;
use crate::sys::{log_safely, turn_scheduler};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;

/// Why a worker could not be made.
#[derive(Debug)]
pub(crate) enum CreateError {
    Spawn(i32),
    Nice,
}

impl CreateError {
    /// The system's number for it.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::Spawn(errno) => *errno,
            Self::Nice => libc::EPERM,
        }
    }

    /// The same as the failure of a start, for a thread of this name and nice value.
    pub(crate) fn at_start(self, thread: String, nice: i32) -> StartError {
        match self {
            Self::Spawn(errno) => StartError::Spawn { thread, errno },
            Self::Nice => StartError::Nice { thread, nice },
        }
    }
}

/// Makes one more worker; on return it is idle. The pool's lock is not held meanwhile.
/// # Context: no lock of the crate held.
pub(crate) fn create_worker(pool: &Arc<Pool>, attempt: u32) -> Result<(), CreateError> {
    let id = pool.lock().workers.reserve_id();
    let made = spawn(pool, id, attempt);
    if made.is_err() {
        pool.lock().workers.cancel_id(id);
    }
    made
}

fn spawn(pool: &Arc<Pool>, id: usize, attempt: u32) -> Result<(), CreateError> {
    let block = pool.prealloc.take();
    let made = start_thread(pool, id, attempt, &block);
    match made {
        Err(CreateError::Spawn(_)) => pool.prealloc.put_back(block),
        Ok(()) | Err(CreateError::Nice) => pool.prealloc.refill(),
    }
    made
}

fn class_of(pool: &Pool) -> PoolClass {
    match pool.kind {
        PoolKind::Unbound { .. } => PoolClass::Unbound,
        PoolKind::Bh { .. } => PoolClass::Bh,
        PoolKind::PerCpu { .. } if pool.nice < 0 => PoolClass::PerCpuHighpri,
        PoolKind::PerCpu { .. } => PoolClass::PerCpu,
    }
}

/// Makes the thread of a worker and waits until it is idle.
fn start_thread(
    pool: &Arc<Pool>,
    id: usize,
    attempt: u32,
    block: &Arc<ControlBlock>,
) -> Result<(), CreateError> {
    pool.env
        .hooks
        .before_create(&CreateAttempt {
            class: class_of(pool),
            cpu: usize::try_from(pool.cpu()).ok(),
            attempt,
        })
        .map_err(CreateError::Spawn)?;
    let body = {
        let (pool, block) = (pool.clone(), block.clone());
        move || {
            let _abort = AbortOnUnwind;
            let slot = join_pool(&pool, id, &block);
            block.ready.complete();
            if let Some(slot) = slot {
                worker_loop(&pool, slot, &block.parker);
            }
        }
    };
    // Held across the spawn, so that a thread that joins finds the handle.
    let mut handle = block.handle.lock();
    *handle = Some(
        pool.env
            .spawn_thread(pool.worker_name(id), body)
            .map_err(|e| CreateError::Spawn(errno_of(&e)))?,
    );
    drop(handle);
    block.ready.wait();
    if !block.is_vacant() {
        return Ok(());
    }
    if let Some(handle) = block.handle.lock().take() {
        let _ignored = turn_scheduler::run_outside(|| handle.join());
    }
    Err(CreateError::Nice)
}

/// The new thread takes its name, nice value and affinity, and joins the pool as an idle worker.
/// None if it cannot have its nice value.
fn join_pool(pool: &Arc<Pool>, id: usize, block: &ControlBlock) -> Option<usize> {
    cpu::set_current_name(&pool.worker_name(id));
    block.parker.adopt_current();
    let nice_denied = pool.nice != cpu::current_nice() && cpu::set_current_nice(pool.nice).is_err();
    if nice_denied {
        if pool.env.config.strict_priority {
            return None;
        }
        pool.env.warn_nice_denied(pool.nice);
    }
    let unbound = pool.is_unbound();
    pool.env.bind_current(&pool.affinity);
    let mut worker = block.occupy(id, cpu::current_tid());
    let mut st = pool.lock();
    st.nice_denied |= nice_denied;
    if unbound || st.disassociated {
        worker.flags |= WorkerFlags::UNBOUND;
    }
    if st.disassociated {
        // The pool's CPU has left. Under the lock, so that its return cannot miss this thread.
        pool.env.bind_current_to_unbound();
    } else {
        // Once more under the lock: a change of the allowed CPUs since then would have missed this
        // thread.
        pool.env.bind_current(&pool.affinity);
    }
    let slot = st.workers.join(worker);
    st.workers.enter_idle(slot, pool.env.clock.coarse());
    // A thread that takes the pool down must wake the new worker, too.
    pool.announce_change();
    drop(st);
    context::set(Some(Context {
        pool: pool.clone(),
        slot,
        rescuer: false,
        run: None,
        blocking: 0,
    }));
    Some(slot)
}

/// The loop of a worker.
fn worker_loop(pool: &Arc<Pool>, slot: usize, parker: &Parker) {
    loop {
        parker.park();
        let returned = return_to_pod(pool);
        let mut st = pool.lock();
        let told_to_die = st.workers.get(slot).flags.intersects(WorkerFlags::DIE);
        if told_to_die || st.stopping && st.worklist.is_empty() {
            st.workers.leave_idle(slot);
            st.workers.leave(slot);
            pool.announce_change();
            drop(st);
            context::set(None);
            return;
        }
        st.workers.leave_idle(slot);
        if pool.is_bh() {
            st = run_all(pool, st, slot);
        }
        if returned && st.need_more_worker() {
            count_return(&mut st);
        }
        while st.need_more_worker() {
            if !st.may_start_working() {
                let managed;
                (st, managed) = manager::manage(pool, st, slot);
                if managed {
                    // The lock was released meanwhile.
                    continue;
                }
            }
            st = run_batch(pool, st, slot);
        }
        go_idle(pool, &mut st, slot);
        if pool.is_unbound() {
            linger(pool, st, slot, parker);
        }
    }
}

/// Lets a producer on the worker's CPU go on first. Until the worker looks again it counts as
/// called, so that the next item costs no wake-up.
fn linger(pool: &Pool, mut st: PoolGuard<'_>, slot: usize, parker: &Parker) {
    st.workers.set_called(slot, true);
    drop(st);
    thread::yield_now();
    if pool.lock().look_after_lingering(slot) {
        parker.unpark();
    }
}

impl PoolState {
    /// True if items have come while the worker counted as called; if not, it must be called.
    pub(crate) fn look_after_lingering(&mut self, slot: usize) -> bool {
        // guard: s05_02_lingers_for_ever
        if self.worklist.is_empty() {
            self.workers.set_called(slot, false);
        }
        !self.worklist.is_empty()
    }
}

fn go_idle(pool: &Arc<Pool>, st: &mut PoolGuard<'_>, slot: usize) {
    st.workers.enter_idle(slot, pool.env.clock.coarse());
    if st.too_many_workers() && !st.cull_armed {
        st.cull_armed = true;
        manager::arm_cull(pool, st);
    }
    if st.stopping {
        // A thread that takes the pool down wakes all idle workers.
        pool.announce_change();
    }
}

/// Takes items until another worker does, or none is left.
fn run_batch<'a>(pool: &'a Pool, mut st: PoolGuard<'a>, slot: usize) -> PoolGuard<'a> {
    st.clear_flags(slot, WorkerFlags::PREP | WorkerFlags::REBOUND);
    let batch = Batch::start(pool, true);
    st = run_while(pool, st, slot, batch, PoolState::keep_working);
    st.set_flags(slot, WorkerFlags::PREP);
    st
}

/// Moves a worker that woke outside its pod into the pod; true if it did. It may go anywhere in the
/// mask afterwards. User space cannot choose where the scheduler wakes a thread.
/// # Context: no lock of the crate held; on a worker of the pool.
pub(crate) fn return_to_pod(pool: &Pool) -> bool {
    let PoolKind::Unbound { key, .. } = &pool.kind else {
        return false;
    };
    // Threads are not bound to simulated CPUs, so none is outside.
    if key.strict || pool.env.cpus.is_simulated() || key.pod.contains(cpu::current_cpu()) {
        return false;
    }
    // Fails if none of the pod's CPUs is allowed at present.
    let moved = pool.env.try_bind_current(&key.pod);
    pool.env.bind_current(&pool.affinity);
    moved
}

/// Counts a worker that has returned to its pod, for the queue of its first item.
/// # Context: the pool's lock held.
pub(crate) fn count_return(st: &mut PoolState) {
    let first = st.worklist.front().map(|work| work.pwq());
    if let Some(number) = first {
        st.pwqs.get_mut(number).stats.repatriated += 1;
    }
}

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
fn run_all<'a>(pool: &'a Pool, mut st: PoolGuard<'a>, slot: usize) -> PoolGuard<'a> {
    let env = &pool.env;
    while !st.worklist.is_empty() {
        let mut limit = BatchLimit::begin(env.config.bh_batch, env.clock.now());
        st = run_while(pool, st, slot, Batch::start(pool, false), |st| {
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
