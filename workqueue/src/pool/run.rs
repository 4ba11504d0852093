// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs items: from the moment an item leaves the worklist until nothing counts it any more.
//!
//! Used by [`super::worker`] and [`super::rescuer`]. Kernel counterparts: `process_one_work`,
//! `assign_work`, `wq_worker_tick`.
//!
//! A *batch* is what a worker runs without sleeping. In it a worker *passes on* from one item to the
//! next of the same pwq and color, if nothing else is due at the end of the first: what the end
//! changes in the counts is added up in [`PoolState::ended`]. Each other holder of the pool's lock
//! settles that before it looks, so it finds true counts. The items stay on the worklist meanwhile.
//! If a run sleeps, none waits behind it on a list of its worker.
//!
//! A batch keeps the CPU time not counted yet. Reading a thread's CPU clock is a system call, which
//! costs more than most items. So it is read only when the coarse clock has moved on since the item
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
use crate::pwq::{self, NodeActive, Pwq};
use crate::sys::{cpu, log_safely};
use crate::work::{list, Item, RawWork};
use crate::wq::attrs::Flags;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The number of items that are looked at together.
const MAX_ALIKE: usize = 16;

/// Takes an item, and further ones while `more` is true.
pub(super) fn run_while<'a>(
    pool: &'a Pool,
    mut st: PoolGuard<'a>,
    slot: usize,
    mut batch: Batch,
    mut more: impl FnMut(&PoolState) -> bool,
) -> PoolGuard<'a> {
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

/// Runs one item, from the moment it leaves the lists until nothing counts it any more; and after
/// it those items that follow by [`PoolState::pass_on`].
fn run_one<'a>(
    pool: &'a Pool,
    mut st: PoolGuard<'a>,
    slot: usize,
    mut item: Item,
    batch: &mut Batch,
) -> PoolGuard<'a> {
    let (barrier, number, before) = (item.is_barrier(), item.pwq(), item.snapshot());
    let (color, counted) = (before.color(), !before.inactive());
    let pwq = batch.turn_to(&mut st, number, barrier);
    if !barrier {
        st.pwqs.get_mut(number).stats.started += 1;
    }
    // Per item, not per batch: a worker that never sleeps between its items makes progress, too.
    st.last_progress = batch.now();
    let mut function = item.function();
    st.workers.set_current(
        slot,
        Current {
            item: item.identity(),
            function,
            pwq: number,
            color,
            since: batch.now(),
            cpu_start: batch.cpu_start(),
        },
    );
    let worker = st.workers.get_mut(slot);
    (worker.desc, worker.own_desc) = (pwq.queue.desc, false);
    // guard: s05_12_cpu_intensive
    if pwq.queue.flags.contains(Flags::CPU_INTENSIVE) {
        st.set_flags(slot, WorkerFlags::CPU_INTENSIVE);
    }
    // For pools that do not count their workers, and for a worker that has just stopped counting.
    let wake = st.kick();
    // From here on the item may be queued again. The run sees what its queuer did before.
    item.state.begin_run();
    let starving = st.is_starving();
    drop(st);
    wake.perform();
    let env = &pool.env;
    if starving {
        env.monitor.watch_runs();
    }
    let item_id = item.identity();
    context::with(|c| {
        c.run = Some(Run {
            pwq,
            item: item_id,
            function,
        });
    });
    // While items wait behind the run, the sampler looks at it and at the time.
    let mut watched = starving && env.monitor.samples;
    let (mut state, outcome, cpu_intensive) = loop {
        let outcome = call(env, item, function);
        let mut cpu_intensive = !watched && batch.item_ended(env, number, barrier);
        let mut state = pool.lock_between_items();
        let may_pass = batch.passes_on && counted && outcome.is_ok() && !cpu_intensive;
        let now = (!watched).then_some(batch.now());
        let next = may_pass
            .then(|| state.pass_on(slot, number, now, env))
            .flatten();
        let Some((next, serve)) = next else {
            cpu_intensive |= watched && batch.item_ended(env, number, barrier);
            break (state, outcome, cpu_intensive);
        };
        batch.meter.missed |= watched;
        watched = state.is_starving() && env.monitor.samples;
        next.state.begin_run();
        drop(state);
        if let Some(node) = serve {
            pwq::activate_waiting(&node);
        }
        item = next;
        function = item.function();
        context::with(|c| {
            if let Some(run) = &mut c.run {
                (run.item, run.function) = (item.identity(), function);
            }
        });
    };

    let (pwq, leaked) = context::with(|c| {
        let run = c.run.take().expect("a run ends once");
        (run.pwq, std::mem::take(&mut c.blocking) > 0)
    })
    .expect("a worker has its context for life");
    if outcome.is_err() || leaked {
        drop(state);
        report(env, &pwq, function, outcome, leaked);
        state = pool.lock_between_items();
    }
    let mut st = pool.settle(state);
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
        return st;
    }
    // A waiter that learns of the end finds the item's time counted.
    batch.bill(&mut st);
    drop(st);
    followup.perform();
    pool.lock()
}

/// Calls an item's function.
/// # Context: no lock of the crate held.
#[inline]
fn call(env: &Env, item: Item, function: &'static str) -> thread::Result<()> {
    let (work, shown) = (item.identity().address, !item.is_barrier());
    if shown {
        env.trace(|| TraceEvent::ExecuteStart { work, function });
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| item.run()));
    if shown {
        env.trace(|| TraceEvent::ExecuteEnd { work, function });
    }
    outcome
}

/// Counts and tells what went wrong in a run.
/// # Context: no lock of the crate held.
#[cold]
fn report(env: &Env, pwq: &Pwq, function: &'static str, outcome: thread::Result<()>, leaked: bool) {
    let (queue, counters) = (&pwq.queue.name, &pwq.queue.counters);
    if let Err(payload) = outcome {
        counters.panicked.fetch_add(1, Ordering::Relaxed);
        env.item_panicked(queue, function, payload);
    }
    if leaked {
        counters.leaked_state.fetch_add(1, Ordering::Relaxed);
        log_safely!(
            warn,
            "workqueue: {function} on {queue} left a blocking section open"
        );
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The number of the pwq that the uncounted time belongs to.
    owed_to: Option<u32>,
    meter: CpuMeter,
    watch: CpuIntensiveWatch,
    /// The worker takes items of the worklist that follow one of the same kind.
    passes_on: bool,
}

impl Batch {
    pub(super) fn start(pool: &Pool, passes_on: bool) -> Self {
        Self {
            passes_on,
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
        // Also before a barrier: its waiter finds the time of the item counted.
        if barrier || self.owed_to != Some(number) {
            self.bill(st);
        }
        st.pwqs.get(number).pwq.clone()
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
    #[must_use]
    pub(super) fn item_ended(&mut self, env: &Env, number: u32, barrier: bool) -> bool {
        self.owed_to = (!barrier).then_some(number);
        self.meter
            .item_ended(env)
            .is_some_and(|used| self.watch.is_cpu_intensive(env, used))
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
    /// An item has ended since, and the clock was not read.
    missed: bool,
}

impl CpuMeter {
    fn start(env: &Env) -> Self {
        Self {
            last: env.config.cpu_accounting.then(cpu::thread_cpu_ns),
            fresh: true,
            used: 0,
            now: env.clock.coarse(),
            missed: false,
        }
    }

    /// The CPU time that the item used at least; None if no tick has passed during it.
    fn item_ended(&mut self, env: &Env) -> Option<Duration> {
        let exact = std::mem::take(&mut self.fresh);
        let now = env.clock.coarse();
        let passed = now.saturating_sub(std::mem::replace(&mut self.now, now));
        // How much of it was the run's is not known.
        let missed = std::mem::take(&mut self.missed);
        if passed == 0 || missed {
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
    /// Ends a worker's run and begins that of the first item on the worklist, if the two are of one
    /// pwq and color, and nothing else is due at the end. [`PoolState::count_ended`] counts the end
    /// later. Also returns the node whose waiters the caller then serves. None: nothing has changed.
    #[inline]
    fn pass_on(
        &mut self,
        slot: usize,
        number: u32,
        now: Option<u64>,
        env: &Env,
    ) -> Option<(Item, Option<Arc<NodeActive>>)> {
        if self.ended.slot != slot {
            self.count_ended(|| env.clock.coarse());
            (self.ended.slot, self.ended.reach) = (slot, 0);
        }
        // The end of an item lets an inactive one begin.
        if self.ended.ahead == 0 && self.pwqs.get(number).inactive.is_empty() {
            self.ended.reach = (self.ended.reach * 2).clamp(1, MAX_ALIKE);
            self.ended.ahead = self.count_alike(slot, self.ended.reach);
        }
        let next = self.take_alike(now.unwrap_or_default())?;
        self.ended.timed = now.is_some();
        self.last_progress = now.unwrap_or(self.last_progress);
        // At once, as the waiters of the node do not take this pool's lock.
        let node = self.pwqs.get(number).pwq.node.as_ref();
        let serve = node.filter(|node| node.release()).cloned();
        Some((next, serve))
    }

    /// How many items, at most `reach`, may be passed on to. That stays true until another thread
    /// takes the lock, which begins with [`PoolState::end_list`].
    pub(crate) fn count_alike(&self, slot: usize, reach: usize) -> usize {
        let worker = self.workers.get(slot);
        let Some(current) = worker.current.as_ref().filter(|_| worker.is_in_plain_run()) else {
            return 0;
        };
        if !self.keep_working() || self.workers.awaits_call() && self.need_more_worker() {
            return 0;
        }
        let alike = |next: &RawWork| {
            let seen = next.snapshot();
            let same = next.pwq() == current.pwq && seen.color() == current.color;
            same && !seen.linked()
                && !next.is_barrier()
                // guard: s02_08_collision_passed_on
                && self.workers.runner_of(next.identity()).is_none_or(|other| other == slot)
        };
        let (mut items, mut count) = (self.worklist.iter(), 0);
        let mut next = items.next();
        while let Some(item) = next.filter(|_| count < reach) {
            next = items.next();
            // Without the last item the pool need not be locked again soon, as its inbox needs.
            if next.is_none() || !alike(item) {
                break;
            }
            count += 1;
        }
        count
    }

    /// Takes the first of the items ahead for their worker.
    #[inline]
    pub(crate) fn take_alike(&mut self, now: u64) -> Option<Item> {
        self.ended.ahead = self.ended.ahead.checked_sub(1)?;
        self.ended.items += 1;
        let next = self.worklist.pop_front_of(&mut self.marks)?;
        let worker = self.workers.get_mut(self.ended.slot);
        worker.runs += 1;
        if let Some(current) = &mut worker.current {
            (current.item, current.function) = (next.identity(), next.function());
            (current.since, current.cpu_start) = (now, None);
        }
        Some(next)
    }

    /// Makes the worker that passes on look anew, and findable by its present run. Returns how many
    /// items have ended and are not counted out.
    pub(crate) fn end_list(&mut self) -> usize {
        self.ended.ahead = 0;
        let items = std::mem::take(&mut self.ended.items);
        // guard: s02_08_passed_on_unlisted
        if items > 0 {
            self.workers.relist_busy(self.ended.slot);
        }
        items
    }

    /// Counts the items out that `pass_on` has left uncounted. No count becomes 0, because the worker
    /// now runs another item of the same pwq and color.
    pub(super) fn count_ended(&mut self, now: impl FnOnce() -> u64) {
        let items = self.end_list();
        if items == 0 {
            return;
        }
        let worker = self.workers.get_mut(self.ended.slot);
        let current = worker.current.as_mut();
        let current = current.expect("a worker that has passed on runs an item");
        if !self.ended.timed {
            current.since = now();
            self.last_progress = current.since;
        }
        let p = self.pwqs.get_mut(current.pwq);
        p.nr_active -= items;
        p.nr_in_flight[usize::from(current.color)] -= items;
        p.refs -= items;
        p.stats.started += items as u64;
        p.stats.completed += items as u64;
    }

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
