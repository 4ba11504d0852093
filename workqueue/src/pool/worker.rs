// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker thread: it is made, wakes, takes items, sleeps, leaves.
//!
//! Made by [`super::manager`] or at start; [`super::run`] runs what it takes off its pool's
//! worklist. Kernel counterparts: `worker_thread`, `create_worker`, and the repatriation in
//! `kick_pool`.

use super::context::{self, Context};
use super::prealloc::ControlBlock;
use super::run::run_while;
use super::worker_state::WorkerFlags;
use super::{bh, manager, Pool, PoolGuard, PoolKind, PoolState};
use crate::env::config::{CreateAttempt, PoolClass};
use crate::error::StartError;
use crate::sys::cpu::{self, errno_of, AbortOnUnwind};
use crate::sys::sync::Parker;
use crate::sys::turn_scheduler;
use std::sync::Arc;

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
            st = bh::run_all(pool, st, slot);
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
    st = run_while(pool, st, slot, PoolState::keep_working);
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
