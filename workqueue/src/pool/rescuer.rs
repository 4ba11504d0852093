// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that lets a MEM_RECLAIM queue make progress when no worker can be made.
//!
//! Called by [`super::manager`] when the mayday timer expires; made with its queue, ended by the
//! queue's destruction. It joins a pool as a worker that never counts, never manages and takes
//! only items of its own queue. Kernel counterpart: `rescuer_thread`.

use super::batch::Batch;
use super::context::{self, Context};
use super::flags::WorkerFlags;
use super::worker::{run_scheduled, AbortOnUnwind, CreateError};
use super::workers::{WorkerState, WorkerThread};
use super::PoolState;
use crate::pwq::{self, Pwq};
use crate::runtime::hooks::{CreateAttempt, PoolClass};
use crate::runtime::monitor::Job;
use crate::runtime::RuntimeInner;
use crate::sys::cpu;
use crate::sys::list;
use crate::sys::short_text::ShortText;
use crate::sys::sync::{Completion, Mutex, Parker};
use crate::sys::turn;
use crate::wq::QueueInner;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// After more items than this in one turn, another pwq of the queue gets its own.
const RESCUER_BATCH: usize = 16;

/// The nice value of every rescuer.
pub(crate) const RESCUER_NICE: i32 = -20;

/// A queue's rescuer as the rest of the crate sees it.
#[derive(Debug)]
pub(crate) struct Rescuer {
    mayday: Mutex<VecDeque<Arc<Pwq>>>, // M
    /// That of the present thread; a failed start of the runtime ends one and a later makes another.
    parker: Mutex<Arc<Parker>>,
    stop: AtomicBool,  // A
    seat: Mutex<Seat>, // R
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where a rescuer's thread is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seat {
    /// 0 before the thread has begun.
    pub(crate) tid: i32,
    /// In a pool, which says where it may run.
    pub(crate) attached: bool,
    /// That of its last run.
    pub(crate) desc: ShortText,
}

impl Rescuer {
    pub(crate) fn new() -> Self {
        Self {
            mayday: Mutex::new(VecDeque::new()),
            parker: Mutex::default(),
            stop: AtomicBool::new(false),
            seat: Mutex::default(),
            thread: Mutex::new(None),
        }
    }

    /// Makes room for so many pwqs, so that a call for help never allocates.
    pub(crate) fn reserve(&self, pwqs: usize) {
        let mut mayday = self.mayday.lock();
        let missing = pwqs.saturating_sub(mayday.len());
        mayday.reserve(missing);
    }

    /// Puts a pwq on the list; false if it is on it. The caller pins the pwq and owes a wake-up.
    /// # Context: the lock of the pwq's pool held.
    pub(crate) fn list(&self, pwq: &Arc<Pwq>) -> bool {
        let mut mayday = self.mayday.lock();
        // Relaxed: written under this lock only.
        if pwq.mayday_listed.swap(true, Ordering::Relaxed) {
            return false;
        }
        mayday.push_back(pwq.clone());
        true
    }

    pub(crate) fn wake(&self) {
        self.parker.lock().unpark();
    }

    pub(crate) fn seat(&self) -> Seat {
        *self.seat.lock()
    }

    /// The thread is in no pool: it may run wherever unbound queues may. Called by the thread.
    fn detach(&self, rt: &RuntimeInner, own: &WorkerState) {
        let mut seat = self.seat.lock();
        *seat = Seat {
            tid: own.thread.tid,
            attached: false,
            desc: own.desc,
        };
        // Under the lock, so that a change of the unbound mask either is seen here or finds the
        // thread detached.
        rt.bind_current_to_unbound();
    }

    /// The unbound mask has changed; see `detach`.
    pub(crate) fn follow_unbound_mask(&self, rt: &RuntimeInner) {
        let seat = self.seat.lock();
        if !seat.attached && seat.tid != 0 {
            rt.bind_to_unbound(seat.tid);
        }
    }

    fn next(&self) -> Option<Arc<Pwq>> {
        let mut mayday = self.mayday.lock();
        let pwq = mayday.pop_front()?;
        pwq.mayday_listed.store(false, Ordering::Relaxed);
        Some(pwq)
    }

    fn anyone_else(&self) -> bool {
        !self.mayday.lock().is_empty()
    }

    /// Makes the thread. On return it has its nice value.
    pub(crate) fn start(&self, queue: &Arc<QueueInner>) -> Result<(), CreateError> {
        let rt = &queue.rt;
        let attempt = CreateAttempt {
            class: PoolClass::Rescuer,
            cpu: None,
            attempt: 1,
        };
        rt.hooks
            .before_create(&attempt)
            .map_err(CreateError::Spawn)?;
        let (own, parker) = (queue.clone(), Arc::new(Parker::new()));
        *self.parker.lock() = parker.clone();
        let ready = Arc::new((Completion::new(), AtomicBool::new(false)));
        let told = ready.clone();
        let body = move || {
            let _abort = AbortOnUnwind;
            let may_stay = arrive(&own, &parker);
            // Relaxed: ordered by the completion.
            told.1.store(may_stay, Ordering::Relaxed);
            told.0.complete();
            if may_stay {
                live(&own, &parker);
            }
        };
        let handle = rt
            .spawn_thread(queue.rescuer_name(), body)
            .map_err(|e| CreateError::Spawn(super::worker::errno_of(&e)))?;
        ready.0.wait();
        if ready.1.load(Ordering::Relaxed) {
            *self.thread.lock() = Some(handle);
            return Ok(());
        }
        // A rescuer's own panic ends the process, so there is no outcome to look at.
        let _it_only_left = turn::outside(|| handle.join());
        Err(CreateError::Nice)
    }

    /// Lets the rescuer empty its list and ends the thread.
    pub(crate) fn stop(&self) {
        let Some(handle) = self.thread.lock().take() else {
            return;
        };
        // Release pairs with the Acquire in `live`: pwqs listed before are seen before the end.
        self.stop.store(true, Ordering::Release);
        self.parker.lock().unpark();
        // A panic of the rescuer's own ends the process, so there is no outcome to look at.
        let _outcome = turn::outside(|| handle.join());
        *self.seat.lock() = Seat::default();
        self.stop.store(false, Ordering::Relaxed);
    }
}

/// The new thread takes its name and its nice value; false if it may not have that, and must.
fn arrive(queue: &QueueInner, parker: &Parker) -> bool {
    let rt = &queue.rt;
    cpu::set_current_name(&queue.rescuer_name());
    parker.adopt_current();
    if cpu::set_current_nice(RESCUER_NICE).is_err() {
        if rt.config.strict_priority {
            return false;
        }
        rt.warn_nice_denied(RESCUER_NICE);
    }
    true
}

/// The life of a rescuer.
fn live(queue: &Arc<QueueInner>, parker: &Arc<Parker>) {
    let rt = &queue.rt;
    let rescuer = queue
        .rescuer
        .as_ref()
        .expect("only a queue with a rescuer starts one");
    let thread = Arc::new(WorkerThread {
        tid: cpu::current_tid(),
        handle: Arc::default(),
    });
    let mut own = WorkerState::new(None, WorkerFlags::PREP, parker.clone(), thread);
    rescuer.detach(rt, &own);
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

/// One turn: helps one pwq in its pool. `own` is the rescuer's worker, carried from pool to pool.
fn rescue(pwq: &Arc<Pwq>, rescuer: &Rescuer, mut own: WorkerState) -> WorkerState {
    let pool = &pwq.pool;
    let rt = &pool.rt;
    rescuer.seat.lock().attached = true;
    rt.bind_current(&pool.affinity);
    let mut batch = Batch::start(pool);
    let mut st = pool.lock();
    if st.disassociated {
        rt.bind_current_to_unbound();
    } else {
        // Once more, as every worker that joins does.
        rt.bind_current(&pool.affinity);
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
    wake.go();
    context::set(None);
    rescuer.detach(rt, &own);
    if let Some(last) = last {
        rt.monitor.post(Job::ReleasePwq(last));
    }
    own
}

/// Asked before each item: is it still the rescuer's business?
fn may_take(st: &PoolState, pwq: &Pwq, rescuer: &Rescuer) -> bool {
    st.pwqs.get(pwq.number).nr_active > 0
        && (st.need_to_create_worker() || st.manager.is_some() && !rescuer.anyone_else())
}

/// Asked at the end of a turn: does this pwq need another one?
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
