// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker thread: wake, take, run, retire, sleep.
//!
//! Made by [`super::manager`] or at start; takes items off its pool's worklist and hands what they
//! were counted for back to [`crate::pwq`]. Kernel counterparts: `worker_thread`,
//! `process_one_work`, `create_worker`.
//!
//! A panic in an item's function ends that run and nothing else. A panic in the bookkeeping of
//! this crate ends the process: half-done counts would hang every later flush.

use super::batch::Batch;
use super::context::{self, Context, Run};
use super::flags::WorkerFlags;
use super::spare::ControlBlock;
use super::workers::Current;
use super::{bh, manager, pod, Pool, PoolGuard, PoolKind, PoolState};
use crate::error::StartError;
use crate::observe::trace::TraceEvent;
use crate::pwq;
use crate::runtime::hooks::{CreateAttempt, PoolClass};
use crate::sys::cpu::{self, SignalsBlocked};
use crate::sys::list;
use crate::sys::sync::Parker;
use crate::sys::turn;
use crate::work::raw::Item;
use crate::wq::flags::Flags;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;

/// Ends the process if the thread unwinds out of the crate's bookkeeping.
pub(crate) struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        if thread::panicking() {
            log::error!(
                "workqueue: internal error on a worker thread, see the panic above; aborting"
            );
            std::process::abort();
        }
    }
}

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
    let block = pool.spare.take();
    let made = start_thread(pool, id, attempt, &block);
    match made {
        Err(CreateError::Spawn(_)) => pool.spare.put_back(block),
        Ok(()) | Err(CreateError::Nice) => pool.spare.refill(),
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
    pool.rt
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
            let slot = arrive(&pool, id, &block);
            block.ready.complete();
            if let Some(slot) = slot {
                serve(&pool, slot, &block.parker);
            }
        }
    };
    // Held across the spawn, so that whoever joins the thread finds its handle.
    let mut handle = block.handle.lock();
    *handle = Some(
        pool.rt
            .spawn_thread(pool.worker_name(id), body)
            .map_err(|e| CreateError::Spawn(errno_of(&e)))?,
    );
    drop(handle);
    block.ready.wait();
    if !block.is_vacant() {
        return Ok(());
    }
    if let Some(handle) = block.handle.lock().take() {
        let _it_only_left = turn::outside(|| handle.join());
    }
    Err(CreateError::Nice)
}

/// The system's number for a failed thread creation.
pub(crate) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EAGAIN)
}

/// The new thread makes itself what its pool wants and joins as an idle worker; None if it cannot.
fn arrive(pool: &Arc<Pool>, id: usize, block: &ControlBlock) -> Option<usize> {
    cpu::set_current_name(&pool.worker_name(id));
    block.parker.adopt_current();
    let nice_denied = pool.nice != cpu::current_nice() && cpu::set_current_nice(pool.nice).is_err();
    if nice_denied {
        if pool.rt.config.strict_priority {
            return None;
        }
        pool.rt.warn_nice_denied(pool.nice);
    }
    let unbound = pool.is_unbound();
    pool.rt.bind_current(&pool.affinity);
    let mut worker = block.occupy(id, cpu::current_tid());
    let mut st = pool.lock();
    st.nice_denied |= nice_denied;
    if unbound || st.disassociated {
        worker.flags |= WorkerFlags::UNBOUND;
    }
    if st.disassociated {
        // The pool's CPU has left. Under the lock, so that its return cannot miss this thread.
        pool.rt.bind_current_to_unbound();
    } else {
        // Once more under the lock, so that what the process is allowed cannot have changed since
        // without this thread in the list of those who follow.
        pool.rt.bind_current(&pool.affinity);
    }
    let slot = st.workers.join(worker);
    st.workers.enter_idle(slot, pool.rt.clock.coarse());
    // Whoever takes the pool down must tell the newcomer too.
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

/// The life of a worker.
fn serve(pool: &Arc<Pool>, slot: usize, parker: &Parker) {
    loop {
        parker.park();
        let returned = pod::return_to_pod(pool);
        let mut st = pool.lock();
        let told_to_die = st.workers.get(slot).flags.has(WorkerFlags::DIE);
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
            pod::count_return(&mut st);
        }
        while st.need_more_worker() {
            if !st.may_start_working() {
                let managed;
                (st, managed) = manager::manage(pool, st, slot);
                if managed {
                    // The world may have changed meanwhile.
                    continue;
                }
            }
            st = run_batch(pool, st, slot);
        }
        go_idle(pool, &mut st, slot);
    }
}

fn go_idle(pool: &Arc<Pool>, st: &mut PoolGuard<'_>, slot: usize) {
    st.workers.enter_idle(slot, pool.rt.clock.coarse());
    if st.too_many_workers() && !st.cull_armed {
        st.cull_armed = true;
        manager::arm_cull(pool, st);
    }
    if st.stopping {
        // Whoever takes the pool down wakes everyone it finds idle.
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

/// Takes an item, and further ones as long as `more` says so.
pub(super) fn run_while<'a>(
    pool: &'a Pool,
    mut st: PoolGuard<'a>,
    slot: usize,
    mut more: impl FnMut(&PoolState) -> bool,
) -> PoolGuard<'a> {
    let mut batch = Batch::start(pool);
    loop {
        if let Some(item) = take_first(&mut st, slot) {
            st = run_one(pool, st, slot, item, &mut batch);
            st = run_scheduled(pool, st, slot, &mut batch);
        }
        if !more(&st) {
            batch.bill(&mut st);
            return st;
        }
    }
}

/// Takes the first item of the worklist; its barriers come along on the worker's private list. None
/// if it went to another worker, which runs the same item at present.
pub(crate) fn take_first(st: &mut PoolState, slot: usize) -> Option<Item> {
    let front = st.worklist.front()?;
    let (who, linked) = (front.identity(), front.snapshot().linked());
    // guard: s02_08_collision
    let other = st.executing(who).map(|(other, _)| other);
    let PoolState {
        worklist,
        marks,
        workers,
        ..
    } = st;
    if !linked && other.is_none() {
        return worklist.pop_front_of(marks);
    }
    let to = &mut workers.get_mut(other.unwrap_or(slot)).scheduled;
    let front = worklist.front()?;
    // SAFETY: the front of the worklist is queued on this pool, whose lock is held.
    unsafe { list::move_chain(front, to, marks) };
    match other {
        Some(_) => None,
        None => to.pop_front(),
    }
}

/// Runs what is on the worker's private list, including what comes to it meanwhile.
pub(crate) fn run_scheduled<'a>(
    pool: &'a Pool,
    mut st: PoolGuard<'a>,
    slot: usize,
    batch: &mut Batch,
) -> PoolGuard<'a> {
    while let Some(item) = st.workers.get_mut(slot).scheduled.pop_front() {
        st = run_one(pool, st, slot, item, batch);
    }
    st
}

/// Runs one item, from the moment it leaves the lists until nothing counts it any more.
fn run_one<'a>(
    pool: &'a Pool,
    mut st: PoolGuard<'a>,
    slot: usize,
    item: Item,
    batch: &mut Batch,
) -> PoolGuard<'a> {
    let (who, function, barrier, number) = (
        item.identity(),
        item.function(),
        item.is_barrier(),
        item.pwq(),
    );
    let before = item.snapshot();
    let (colour, counted) = (before.colour(), !before.inactive());
    let pwq = batch.turn_to(&mut st, number, barrier);
    if !barrier {
        st.pwqs.get_mut(number).stats.started += 1;
    }
    // Not once per batch: a worker that never sleeps between its items moves all the same.
    st.last_progress = batch.now();
    st.workers.set_current(
        slot,
        Current {
            item: who,
            function,
            pwq: number,
            colour,
            since: batch.now(),
            cpu_start: batch.cpu_start(),
        },
    );
    st.workers.get_mut(slot).desc = pwq.queue.desc;
    let aside = pwq.queue.flags.contains(Flags::CPU_INTENSIVE);
    // guard: s05_12_cpu_intensive
    if aside {
        st.set_flags(slot, WorkerFlags::CPU_INTENSIVE);
    }
    // For pools that do not count, and for those this worker has just stopped counting in.
    let wake = st.kick();
    // From here on the item may be queued again; what its queuer did before is seen by the run.
    item.state.begin_run();
    let starving = st.is_starving();
    drop(st);
    wake.go();
    if starving {
        pool.rt.monitor.watch_runs();
    }

    let rt = &pool.rt;
    context::with(|c| {
        c.run = Some(Run {
            pwq,
            item: who,
            function,
        })
    });
    if !barrier {
        rt.trace(|| TraceEvent::ExecuteStart {
            work: who.address,
            function,
        });
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| item.run()));
    if !barrier {
        rt.trace(|| TraceEvent::ExecuteEnd {
            work: who.address,
            function,
        });
    }
    let (pwq, leaked) = context::with(|c| {
        let run = c.run.take().expect("a run ends once");
        (run.pwq, std::mem::take(&mut c.blocking) > 0)
    })
    .expect("a worker has its context for life");
    if let Err(payload) = outcome {
        pwq.queue.counters.panicked.fetch_add(1, Ordering::Relaxed);
        rt.item_panicked(&pwq.queue.name, function, payload);
    }
    if leaked {
        pwq.queue
            .counters
            .leaked_state
            .fetch_add(1, Ordering::Relaxed);
        log::warn!(
            "workqueue: {function} on {} left a blocking section open",
            pwq.queue.name
        );
    }
    let hog = batch.item_ended(rt, number, barrier);

    let mut st = pool.lock();
    if hog && st.count_hog(slot, number) {
        drop(st);
        rt.note_hog(function);
        st = pool.lock();
    }
    let worker = st.workers.get(slot);
    if leaked || worker.observed_asleep || worker.flags.has(WorkerFlags::CPU_INTENSIVE) {
        st.update(slot, |w| {
            w.observed_asleep = false;
            w.flags &= !WorkerFlags::CPU_INTENSIVE;
            w.asleep &= !leaked;
        });
    }
    st.workers.clear_current(slot);
    if !barrier {
        st.pwqs.get_mut(number).stats.completed += 1;
    }
    let duties = pwq::retire(&mut st, number, colour, counted);
    if duties.is_empty() {
        batch.keep(pwq);
        return st;
    }
    // Whoever is told that the item has ended finds its time counted.
    batch.bill(&mut st);
    drop(st);
    duties.discharge();
    pool.lock()
}

/// Starts a thread with all its signals blocked from the first instruction on.
pub(crate) fn spawn_quiet(
    name: String,
    stack_size: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    let _quiet = SignalsBlocked::new();
    thread::Builder::new()
        .name(name)
        .stack_size(stack_size)
        .spawn(body)
}
