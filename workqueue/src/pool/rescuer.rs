// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that lets a MEM_RECLAIM queue make progress when no worker can be made.
//!
//! Woken by [`super::manager`] when the mayday timer expires; made with its queue, ended by the
//! queue's destruction. It joins a pool as a worker that never counts, never manages and takes only
//! items of its own queue. What the rest of the crate sees of it is [`Rescuer`]. Kernel
//! counterpart: `rescuer_thread`.

use super::context::{self, Context};
use super::run::{run_scheduled, Batch};
use super::worker::CreateError;
use super::worker_state::{WorkerFlags, WorkerState, WorkerThread};
use super::PoolState;
use crate::env::helpers::Job;
use crate::env::{CreateAttempt, Env, PoolClass};
use crate::observe;
use crate::pwq::{self, Pwq};
use crate::sys::cpu::{self, errno_of, AbortOnUnwind};
use crate::sys::sync::{Completion, Parker};
use crate::sys::turn_scheduler;
use crate::work::list;
use crate::wq::queue::{QueueInner, Rescuer, RescuerPlacement};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// After more items than this, the rescuer goes on to another pwq of the queue.
const RESCUER_BATCH: usize = 16;

/// The nice value of every rescuer.
pub(crate) const RESCUER_NICE: i32 = -20;

impl Rescuer {
    /// The thread leaves its pool and is bound to the unbound mask. Called by the thread.
    fn detach(&self, env: &Env, own: &WorkerState) {
        let mut placement = self.placement.lock();
        *placement = RescuerPlacement {
            tid: own.thread.tid,
            attached: false,
            desc: own.desc,
        };
        // Under the lock: a change of the unbound mask is seen here, or finds the thread detached.
        env.bind_current_to_unbound();
    }

    /// Makes the thread. On return it has its nice value.
    pub(crate) fn start(&self, queue: &Arc<QueueInner>) -> Result<(), CreateError> {
        let env = &queue.env;
        let attempt = CreateAttempt {
            class: PoolClass::Rescuer,
            cpu: None,
            attempt: 1,
        };
        env.hooks
            .before_create(&attempt)
            .map_err(CreateError::Spawn)?;
        let (own, parker) = (queue.clone(), Arc::new(Parker::new()));
        *self.parker.lock() = parker.clone();
        let ready = Arc::new((Completion::new(), AtomicBool::new(false)));
        let told = ready.clone();
        let body = move || {
            let _abort = AbortOnUnwind;
            let may_stay = init_thread(&own, &parker);
            // Relaxed: ordered by the completion.
            told.1.store(may_stay, Ordering::Relaxed);
            told.0.complete();
            if may_stay {
                run_rescuer(&own, &parker);
            }
        };
        let handle = env
            .spawn_thread(queue.rescuer_name(), body)
            .map_err(|e| CreateError::Spawn(errno_of(&e)))?;
        ready.0.wait();
        if ready.1.load(Ordering::Relaxed) {
            *self.thread.lock() = Some(handle);
            return Ok(());
        }
        // A panic outside an item ends the process, so the result says nothing.
        let _ignored = turn_scheduler::run_outside(|| handle.join());
        Err(CreateError::Nice)
    }

    /// Lets the rescuer empty its list and ends the thread.
    pub(crate) fn stop(&self) {
        let Some(handle) = self.thread.lock().take() else {
            return;
        };
        // Release pairs with the Acquire in `run_rescuer`: pwqs listed before are seen before the
        // end.
        self.stop.store(true, Ordering::Release);
        self.parker.lock().unpark();
        // A panic outside an item ends the process, so the result says nothing.
        let _ignored = turn_scheduler::run_outside(|| handle.join());
        *self.placement.lock() = RescuerPlacement::default();
        self.stop.store(false, Ordering::Relaxed);
    }
}

/// The new thread takes its name and its nice value. False if that is not allowed and priorities
/// are strict.
fn init_thread(queue: &QueueInner, parker: &Parker) -> bool {
    let env = &queue.env;
    cpu::set_current_name(&queue.rescuer_name());
    parker.adopt_current();
    if cpu::set_current_nice(RESCUER_NICE).is_err() {
        if env.config.strict_priority {
            return false;
        }
        env.warn_nice_denied(RESCUER_NICE);
    }
    true
}

/// The loop of a rescuer.
fn run_rescuer(queue: &Arc<QueueInner>, parker: &Arc<Parker>) {
    let env = &queue.env;
    let rescuer = queue
        .rescuer
        .as_ref()
        .expect("only a queue with a rescuer starts one");
    let thread = Arc::new(WorkerThread {
        tid: cpu::current_tid(),
        handle: Arc::default(),
    });
    let mut own = WorkerState::new(None, WorkerFlags::PREP, parker.clone(), thread);
    rescuer.detach(env, &own);
    loop {
        let stop = rescuer.stop.load(Ordering::Acquire);
        while let Some(pwq) = rescuer.next() {
            own = rescue(&pwq, rescuer, own);
        }
        if stop {
            return;
        }
        parker.park();
    }
}

/// Helps one pwq in its pool. `own` is the rescuer's worker, carried from pool to pool.
fn rescue(pwq: &Arc<Pwq>, rescuer: &Rescuer, mut own: WorkerState) -> WorkerState {
    let pool = &pwq.pool;
    let env = &pool.env;
    rescuer.placement.lock().attached = true;
    env.bind_current(&pool.affinity);
    observe::record_pool("rescue", &pwq.queue.name, pool.cpu());
    let mut batch = Batch::start(pool, false);
    let mut st = pool.lock();
    if st.disassociated {
        env.bind_current_to_unbound();
    } else {
        // Once more under the lock, as in `worker::join_pool`.
        env.bind_current(&pool.affinity);
    }
    own.flags = WorkerFlags::PREP;
    let slot = st.workers.join(own);
    context::set(Some(Context {
        pool: pool.clone(),
        slot,
        rescuer: true,
        run: None,
        blocking: 0,
    }));
    let mut taken = 0;
    while may_take(&st, pwq, rescuer) && take_next(&mut st, pwq, slot) {
        taken += 1;
        st = run_scheduled(pool, st, slot, &mut batch);
        if taken > RESCUER_BATCH && rescuer.anyone_else() && may_still_need(&st, pwq) {
            if rescuer.list(pwq) {
                let p = st.pwqs.get_mut(pwq.number);
                p.refs += 1;
                p.stats.mayday += 1;
            }
            break;
        }
    }
    st.marks.end(pwq.number);
    batch.bill(&mut st);
    // guard: s07_05_rescuer_goes_off
    let wake = st.kick();
    let own = st.workers.leave(slot);
    let last = pwq::put(&mut st, pwq.number);
    pool.announce_change();
    drop(st);
    wake.perform();
    context::set(None);
    rescuer.detach(env, &own);
    if let Some(last) = last {
        let queue = last.queue.clone();
        env.monitor.post(Job::new(move || queue.release_pwq(&last)));
    }
    own
}

/// True if the rescuer may take another item. Tested before each.
fn may_take(st: &PoolState, pwq: &Pwq, rescuer: &Rescuer) -> bool {
    st.pwqs.get(pwq.number).nr_active > 0
        && (st.need_to_create_worker() || st.manager.is_some() && !rescuer.anyone_else())
}

/// True if this pwq needs the rescuer again. Tested when it goes on to another.
fn may_still_need(st: &PoolState, pwq: &Pwq) -> bool {
    st.pwqs.get(pwq.number).nr_active > 0 && st.need_to_create_worker()
}

/// Takes the pwq's first item off the worklist, with its barriers. Items of others keep their
/// place. False if there is none.
fn take_next(st: &mut PoolState, pwq: &Pwq, slot: usize) -> bool {
    loop {
        let PoolState {
            worklist,
            marks,
            workers,
            ..
        } = st;
        let Some(work) = worklist.search(pwq.number, marks, |w| w.pwq() == pwq.number) else {
            return false;
        };
        let other = workers.executing(work.identity()).map(|(other, _)| other);
        let to = &mut workers.get_mut(other.unwrap_or(slot)).scheduled;
        // SAFETY: the item was found on the worklist of this pool, whose lock is held.
        unsafe { list::move_chain(work, to, marks) };
        st.pwqs.get_mut(pwq.number).stats.rescued += 1;
        if other.is_none() {
            return true;
        }
    }
}
