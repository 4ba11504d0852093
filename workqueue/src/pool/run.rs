// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs items: from the moment an item leaves the worklist until nothing counts it any more.
//!
//! Used by [`super::worker`] and [`super::rescuer`]. Kernel counterparts: `process_one_work`,
//! `assign_work`, `wq_worker_tick`.
//!
//! A *batch* is what a worker runs without sleeping. It keeps from one item to the next: the pwq,
//! and the CPU time not counted yet. Reading a thread's CPU clock is a system call, which costs
//! more than most items. So it is read only when the coarse clock has moved on since the item
//! before, when the next item is another queue's, before a waiter is told that an item has ended,
//! and at the end of the batch. Each time all that was used since the last reading goes to the pwq
//! whose items ran meanwhile.
//!
//! A panic in an item's function ends that run and nothing else. A panic in the bookkeeping of this
//! crate ends the process: half-done counts would hang every later flush.

use super::context::{self, Run};
use super::worker_state::{Current, WorkerFlags};
use super::{Pool, PoolGuard, PoolKind, PoolState};
use crate::env::Env;
use crate::observe::TraceEvent;
use crate::pwq::{self, Pwq};
use crate::sys::{cpu, log_safely};
use crate::work::{list, Item};
use crate::wq::attrs::Flags;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// Takes an item, and further ones while `more` is true.
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

/// Takes the first item of the worklist; its barriers go to the worker's private list. None if it
/// went to another worker, which runs the same item now.
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
    let (color, counted) = (before.color(), !before.inactive());
    let pwq = batch.turn_to(&mut st, number, barrier);
    if !barrier {
        st.pwqs.get_mut(number).stats.started += 1;
    }
    // Per item, not per batch: a worker that never sleeps between its items makes progress, too.
    st.last_progress = batch.now();
    st.workers.set_current(
        slot,
        Current {
            item: who,
            function,
            pwq: number,
            color,
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
    // For pools that do not count their workers, and for a worker that has just stopped counting.
    let wake = st.kick();
    // From here on the item may be queued again. The run sees what its queuer did before.
    item.state.begin_run();
    let starving = st.is_starving();
    drop(st);
    wake.perform();
    if starving {
        pool.env.monitor.watch_runs();
    }

    let env = &pool.env;
    context::with(|c| {
        c.run = Some(Run {
            pwq,
            item: who,
            function,
        })
    });
    if !barrier {
        env.trace(|| TraceEvent::ExecuteStart {
            work: who.address,
            function,
        });
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| item.run()));
    if !barrier {
        env.trace(|| TraceEvent::ExecuteEnd {
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
        env.item_panicked(&pwq.queue.name, function, payload);
    }
    if leaked {
        pwq.queue
            .counters
            .leaked_state
            .fetch_add(1, Ordering::Relaxed);
        log_safely!(
            warn,
            "workqueue: {function} on {} left a blocking section open",
            pwq.queue.name
        );
    }
    let cpu_intensive = batch.item_ended(env, number, barrier);

    let mut st = pool.lock();
    if cpu_intensive && st.count_cpu_intensive(slot, number) {
        drop(st);
        env.note_cpu_intensive(function);
        st = pool.lock();
    }
    let worker = st.workers.get(slot);
    if leaked || worker.observed_asleep || worker.flags.intersects(WorkerFlags::CPU_INTENSIVE) {
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
    let followup = pwq::retire(&mut st, number, color, counted);
    if followup.is_empty() {
        batch.keep(pwq);
        return st;
    }
    // A waiter that learns of the end finds the item's time counted.
    batch.bill(&mut st);
    drop(st);
    followup.perform();
    pool.lock()
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The pwq of the previous item, kept because the next item mostly has the same.
    pwq: Option<Arc<Pwq>>,
    /// The number of the pwq that the uncounted time belongs to.
    owed_to: Option<u32>,
    meter: CpuMeter,
    watch: CpuIntensiveWatch,
}

impl Batch {
    pub(super) fn start(pool: &Pool) -> Self {
        Self {
            pwq: None,
            owed_to: None,
            meter: CpuMeter::start(&pool.env),
            // Only in a per-CPU pool does a run hold back others.
            watch: CpuIntensiveWatch::start(
                &pool.env,
                matches!(pool.kind, PoolKind::PerCpu { .. }),
            ),
        }
    }

    /// The next item is one of this pwq's.
    /// # Context: the pool's lock held.
    pub(super) fn turn_to(&mut self, st: &mut PoolState, number: u32, barrier: bool) -> Arc<Pwq> {
        let next = &st.pwqs.get(number).pwq;
        let same = self.pwq.take_if(|pwq| Arc::ptr_eq(pwq, next));
        if let (Some(pwq), false) = (same, barrier) {
            return pwq;
        }
        let next = next.clone();
        // Also before a barrier: its waiter finds the time of the item counted.
        self.bill(st);
        next
    }

    /// When the next item begins, as of the last tick.
    pub(super) fn now(&self) -> u64 {
        self.meter.now
    }

    /// The thread's CPU time at which the next item begins, if it was read just then.
    pub(super) fn cpu_start(&self) -> Option<u64> {
        self.meter.last.filter(|_| self.meter.fresh)
    }

    /// Notes the end of an item; true if it used the CPU for too long. A barrier's time is not
    /// counted.
    /// # Context: no lock of the crate held.
    #[must_use]
    pub(super) fn item_ended(&mut self, env: &Env, number: u32, barrier: bool) -> bool {
        self.owed_to = (!barrier).then_some(number);
        self.meter
            .item_ended(env)
            .is_some_and(|used| self.watch.is_cpu_intensive(env, used))
    }

    /// Keeps the pwq for the next item.
    pub(super) fn keep(&mut self, pwq: Arc<Pwq>) {
        self.pwq = Some(pwq);
    }

    /// Counts the uncounted time. Called before the lock is released, unless the same pwq has the
    /// next item: afterwards the pwq may be gone.
    /// # Context: the pool's lock held.
    pub(super) fn bill(&mut self, st: &mut PoolState) {
        let used = self.meter.lap();
        if let Some(number) = self.owed_to.take() {
            st.pwqs.get_mut(number).stats.cpu_time_ns += used;
        }
    }
}

/// The thread's CPU clock, read no more often than needed.
#[derive(Debug)]
struct CpuMeter {
    /// The last reading; None if accounting is off.
    last: Option<u64>,
    /// It was made at the end of the last item.
    fresh: bool,
    /// Used up to that reading, and not counted yet.
    used: u64,
    /// The coarse clock at the end of the last item.
    now: u64,
}

impl CpuMeter {
    fn start(env: &Env) -> Self {
        Self {
            last: env.config.cpu_accounting.then(cpu::thread_cpu_ns),
            fresh: true,
            used: 0,
            now: env.clock.coarse(),
        }
    }

    /// The CPU time that the item used at least; None if no tick has passed during it.
    fn item_ended(&mut self, env: &Env) -> Option<Duration> {
        let exact = std::mem::take(&mut self.fresh);
        let now = env.clock.coarse();
        let passed = now.saturating_sub(std::mem::replace(&mut self.now, now));
        if passed == 0 {
            return None;
        }
        let before = self.used;
        self.read();
        let used = self.used - before;
        // Short items may have run between the last reading and this item's beginning. Then at most
        // the time that passed is this item's own.
        Some(Duration::from_nanos(if exact {
            used
        } else {
            used.min(passed)
        }))
    }

    fn read(&mut self) {
        if let Some(last) = self.last.as_mut().filter(|_| !self.fresh) {
            let now = cpu::thread_cpu_ns();
            self.used += now.saturating_sub(std::mem::replace(last, now));
        }
        self.fresh = true;
    }

    /// The time used since the last call.
    fn lap(&mut self) -> u64 {
        self.read();
        std::mem::take(&mut self.used)
    }
}

/// Finds runs of one worker that used the CPU for too long, as they end.
#[derive(Debug)]
struct CpuIntensiveWatch {
    /// How often the thread had gone to sleep at the last look; None if this is off.
    switches: Option<u64>,
}

impl CpuIntensiveWatch {
    /// Begins to watch the calling thread, if `wanted`.
    pub(super) fn start(env: &Env, wanted: bool) -> Self {
        let limited = !env.cpu_intensive_thresh().is_zero();
        let wanted = wanted && env.config.cpu_accounting && limited;
        Self {
            switches: wanted.then(cpu::voluntary_switches),
        }
    }

    /// True if a run that used this much CPU time used too much and never slept. Tested only for
    /// runs during which the clock ticked, so short ones cost nothing. A sleep between the previous
    /// tick and the run's beginning counts as the run's.
    pub(super) fn is_cpu_intensive(&mut self, env: &Env, used: Duration) -> bool {
        let Some(before) = self.switches.as_mut() else {
            return false;
        };
        let now = cpu::voluntary_switches();
        std::mem::replace(before, now) == now && env.is_cpu_intensive(used)
    }
}

impl PoolState {
    /// Counts a run that was found at its end, unless the sampler found it before, or its worker
    /// does not count. True if it is counted now.
    pub(super) fn count_cpu_intensive(&mut self, slot: usize, pwq: u32) -> bool {
        let counts = self.workers.get(slot).counted();
        if counts {
            self.pwqs.get_mut(pwq).stats.cpu_intensive += 1;
        }
        counts
    }
}
