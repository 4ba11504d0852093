// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pool: the worklist, the workers that serve it, and the conditions they test.
//!
//! [`crate::enqueue`] and [`crate::pwq`] hand items in; [`worker`] takes them. Everything a pool's
//! lock guards is in [`PoolState`]. Kernel counterpart: `struct worker_pool`.
//!
//! | kernel | here | difference |
//! |---|---|---|
//! | `pool->lock` | `Pool::lock` | a lock that sleeps; wake-ups are done after it is released |
//! | `nr_running` | `PoolState::nr_running` | under the lock: user space sleeps seldom enough |
//! | `busy_hash` | `workers::Workers` | slot numbers instead of pointers |
//! | `pool_workqueue` lists | `PoolState::pwqs` | the guarded half of a pwq lives in its pool |
//! | - | `Pool::inbox` | items that need no wake-up wait there for the next holder of the lock |

pub(crate) mod worker_state;

pub(crate) mod workers;

pub(crate) mod context;

pub(crate) mod run;

pub(crate) mod worker;

pub(crate) mod manager;

pub(crate) mod rescuer;

pub(crate) mod sampler;

pub(crate) mod registry;

#[cfg(test)]
mod invariants;

use crate::env::Env;
use crate::pwq::PwqTable;
use crate::sys::clock::Notify;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::{Condvar, Mutex, OwnLine};
use crate::sys::timer::TimerIndex;
use crate::sys::turn_scheduler;
use crate::work::list::{Inbox, ItemList, Marks};
use crate::work::{Identity, Item};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, MutexGuard};
use worker_state::{Current, Prealloc, Wake, WorkerFlags, WorkerState};
use workers::Workers;

/// What makes two queues share an unbound pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) nice: i32,
    pub(crate) strict: bool,
    /// The pod: where an item should start.
    pub(crate) pod: CpuSet,
    /// Where workers may run at all. For a strict pool that is the pod, so that the queue's full
    /// mask does not tell strict pools apart.
    pub(crate) mask: CpuSet,
}

/// What a pool serves.
#[derive(Clone, Debug)]
pub(crate) enum PoolKind {
    PerCpu {
        cpu: usize,
    },
    /// A CPU's BH items: one thread, one item after the other.
    Bh {
        cpu: usize,
    },
    Unbound {
        key: PoolKey,
        node: Option<usize>,
    },
}

impl PoolKind {
    /// Where workers may run while the pool is associated.
    fn affinity(&self) -> CpuSet {
        match self {
            Self::PerCpu { cpu } | Self::Bh { cpu } => CpuSet::single(*cpu),
            Self::Unbound { key, .. } if key.strict => key.pod.clone(),
            Self::Unbound { key, .. } => key.mask.clone(),
        }
    }
}

/// One pool. Lives as long as a pwq, a worker or the runtime refers to it.
pub(crate) struct Pool {
    pub(crate) id: u32,        // I
    pub(crate) kind: PoolKind, // I
    pub(crate) nice: i32,      // I
    /// Where its workers may run while it is associated.
    pub(crate) affinity: CpuSet, // I
    pub(crate) env: Arc<Env>,  // I
    /// Items on their way to the worklist, for the next holder of the lock.
    pub(crate) inbox: OwnLine<Inbox>, // A
    state: OwnLine<Mutex<PoolState>>, // L
    changed: WorkerChanges,    // a worker has come or gone, or the manager role is free
    prealloc: Prealloc,        // has a lock of its own, under which no other is taken
    pub(crate) mayday_timer: TimerIndex, // T
    pub(crate) cull_timer: TimerIndex, // T
    pub(crate) cooldown: Arc<Notify>, // I: cuts short a manager's wait for its next attempt
}

/// Counts the changes of a pool's set of workers, and wakes threads that wait for one. It has a
/// lock of its own, because only its guard releases the pool's lock.
#[derive(Debug)]
struct WorkerChanges {
    count: Mutex<u64>,
    changed: Condvar,
}

impl WorkerChanges {
    fn new() -> Self {
        Self {
            count: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// The number of changes so far. Read under the pool's lock it misses nothing: a later change
    /// of the workers is announced later.
    fn count(&self) -> u64 {
        *self.count.lock()
    }

    fn announce(&self) {
        *self.count.lock() += 1;
        self.changed.notify_all();
        turn_scheduler::note_change();
    }

    /// Waits for a change after the first `seen` ones.
    /// # Context: the pool's lock not held.
    fn wait_after(&self, seen: u64) {
        if turn_scheduler::poll_until(|| self.count() != seen) {
            return;
        }
        let mut count = self.count.lock();
        while *count == seen {
            count = self.changed.wait(count);
        }
    }
}

/// What the pool's lock guards.
#[derive(Debug)]
pub(crate) struct PoolState {
    pub(crate) worklist: ItemList,
    /// How far each rescuer at work here has searched the worklist, by the number of its pwq.
    pub(crate) marks: Marks,
    pub(crate) pwqs: PwqTable,
    pub(crate) workers: Workers,
    /// Counted workers that are inside an item and not asleep.
    pub(crate) nr_running: usize,
    /// The slot of the worker that makes another one.
    pub(crate) manager: Option<usize>,
    /// No longer bound to its CPU.
    pub(crate) disassociated: bool,
    pub(crate) nice_denied: bool,
    /// The manager is in its creation loop, so mayday may be sent.
    pub(crate) mayday_armed: bool,
    /// How often mayday was sent here.
    pub(crate) mayday_round: u64,
    pub(crate) cull_armed: bool,
    /// The pool is being taken down: a worker with nothing to do leaves.
    pub(crate) stopping: bool,
    /// When the pool last made progress, for the watchdog.
    pub(crate) last_progress: u64,
    pub(crate) ended: Ended,
}

/// Items that have ended and are not counted out yet; see [`PoolState::count_ended`].
#[derive(Debug, Default)]
pub(crate) struct Ended {
    items: usize,
    /// The number of items at the front of the worklist that follow in the same way.
    pub(crate) ahead: usize,
    /// How many were looked at: few while workers take turns.
    reach: usize,
    /// Their worker, which runs another item of their pwq and color.
    pub(crate) slot: usize,
    /// The clock was read at the last end.
    timed: bool,
}

/// The pool's lock, held. All items of the inbox have been counted in, and all that have ended
/// counted out.
#[derive(Debug)]
pub(crate) struct PoolGuard<'a> {
    pool: &'a Pool,
    state: MutexGuard<'a, PoolState>,
}

impl<'a> PoolGuard<'a> {
    pub(crate) fn pool(&self) -> &'a Pool {
        self.pool
    }
}

impl Deref for PoolGuard<'_> {
    type Target = PoolState;

    fn deref(&self) -> &PoolState {
        &self.state
    }
}

impl DerefMut for PoolGuard<'_> {
    fn deref_mut(&mut self) -> &mut PoolState {
        &mut self.state
    }
}

impl Drop for PoolGuard<'_> {
    fn drop(&mut self) {
        if self.state.will_be_locked_again() {
            self.pool.inbox.0.mark_owned();
        }
    }
}

impl Pool {
    pub(crate) fn new(id: u32, kind: PoolKind, nice: i32, env: Arc<Env>) -> Self {
        let last_progress = env.clock.coarse();
        let cooldown = Notify::new(&env.clock);
        Self {
            id,
            affinity: kind.affinity(),
            kind,
            nice,
            env,
            inbox: OwnLine(Inbox::new()),
            state: OwnLine(Mutex::new(PoolState::new(last_progress))),
            changed: WorkerChanges::new(),
            prealloc: Prealloc::new(),
            mayday_timer: TimerIndex::new(),
            cull_timer: TimerIndex::new(),
            cooldown,
        }
    }

    /// Takes the pool's lock. The counts are those of this moment.
    pub(crate) fn lock(&self) -> PoolGuard<'_> {
        self.settle(self.state.0.lock())
    }

    /// As [`Pool::lock`], for a worker that may go on to its next item: the inbox keeps its items
    /// and its mark, and items that have ended are still counted.
    fn lock_between_items(&self) -> MutexGuard<'_, PoolState> {
        self.state.0.lock()
    }

    /// Counts ended items out and those of the inbox in.
    fn settle<'a>(&'a self, mut state: MutexGuard<'a, PoolState>) -> PoolGuard<'a> {
        state.count_ended(|| self.env.clock.coarse());
        self.inbox.0.drain(|item| {
            let number = item.pwq();
            state.count_in(number, item, self.id, || self.env.clock.coarse());
        });
        PoolGuard { pool: self, state }
    }

    /// Releases the lock, waits for a change in the set of workers, and takes the lock again.
    pub(crate) fn wait_change<'a>(&'a self, st: PoolGuard<'a>) -> PoolGuard<'a> {
        let seen = self.changed.count();
        drop(st);
        self.changed.wait_after(seen);
        self.lock()
    }

    pub(crate) fn announce_change(&self) {
        self.changed.announce();
    }

    /// The pool's CPU as trace events show it: -1 for unbound pools.
    pub(crate) fn cpu(&self) -> i32 {
        match self.kind {
            PoolKind::PerCpu { cpu } | PoolKind::Bh { cpu } => i32::try_from(cpu).unwrap_or(-1),
            PoolKind::Unbound { .. } => -1,
        }
    }

    pub(crate) fn is_unbound(&self) -> bool {
        matches!(self.kind, PoolKind::Unbound { .. })
    }

    pub(crate) fn is_bh(&self) -> bool {
        matches!(self.kind, PoolKind::Bh { .. })
    }

    /// The thread name of worker `id` (1.4).
    pub(crate) fn worker_name(&self, id: usize) -> String {
        let highpri = if self.nice < 0 { "H" } else { "" };
        let prefix = &self.env.config.thread_name_prefix;
        match self.kind {
            PoolKind::PerCpu { cpu } => format!("{prefix}{cpu}:{id}{highpri}"),
            PoolKind::Bh { cpu } => format!("{prefix}bh{cpu}{highpri}"),
            PoolKind::Unbound { .. } => format!("{prefix}u{}:{id}", self.id),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("nice", &self.nice)
            .finish()
    }
}

impl PoolState {
    /// A pool without items and workers.
    pub(crate) fn new(last_progress: u64) -> Self {
        Self {
            worklist: ItemList::new(),
            marks: Marks::default(),
            pwqs: PwqTable::default(),
            workers: Workers::default(),
            nr_running: 0,
            manager: None,
            disassociated: false,
            nice_denied: false,
            mayday_armed: false,
            mayday_round: 0,
            cull_armed: false,
            stopping: false,
            last_progress,
            ended: Ended::default(),
        }
    }
}

/// Conditions. Each says who tests it.
impl PoolState {
    /// True if items wait and no counted worker runs. Tested after every event that may cause that.
    pub(crate) fn need_more_worker(&self) -> bool {
        !self.worklist.is_empty() && self.nr_running == 0
    }

    /// True if another worker stays idle. Tested by a worker that is about to begin a batch.
    pub(crate) fn may_start_working(&self) -> bool {
        self.workers.nr_idle() > 0
    }

    /// True if a worker takes one more item without sleeping. Tested after each item.
    pub(crate) fn keep_working(&self) -> bool {
        // guard: s05_03_keep_working
        !self.worklist.is_empty() && self.nr_running <= 1
    }

    /// True if items wait because there is no thread. Tested by the manager and the mayday timer.
    pub(crate) fn need_to_create_worker(&self) -> bool {
        self.need_more_worker() && !self.may_start_working()
    }

    /// True if more workers are idle than needed. Tested when a worker goes idle, and by the
    /// culling.
    pub(crate) fn too_many_workers(&self) -> bool {
        let idle = self.workers.nr_idle() + usize::from(self.manager.is_some());
        let busy = self.workers.len() - idle;
        idle > 2 && (idle - 2) * IDLE_RATIO >= busy
    }

    /// True if the lock will certainly be taken again soon, by a run that ends or a worker that has
    /// been woken. Tested when the lock is released.
    ///
    /// False with an empty worklist: the first item must wake a worker, start the watch on the run
    /// in front of it, and set the time since when it waits.
    pub(crate) fn will_be_locked_again(&self) -> bool {
        !self.worklist.is_empty() && (self.nr_running > 0 || self.workers.nr_called() > 0)
    }

    /// True if items wait behind a run that could be asleep. Tested after each change.
    pub(crate) fn is_starving(&self) -> bool {
        self.nr_running > 0 && !self.worklist.is_empty()
    }
}

/// One idle worker beyond the first two is kept per this many busy ones.
pub(crate) const IDLE_RATIO: usize = 4;

/// The changes.
impl PoolState {
    /// Calls the worker that became idle last, if the pool needs one and has called none yet.
    pub(crate) fn kick(&mut self) -> Wake {
        if !self.need_more_worker() {
            return Wake::Nobody;
        }
        // guard: s05_02_no_kick
        self.workers.call_last_idle()
    }

    /// Adds a claimed item to its pwq: on the worklist if there is a slot, else behind the inactive
    /// ones. True if it is active; the caller then calls `kick`, unless a worker is on its way.
    #[inline]
    pub(crate) fn count_in(
        &mut self,
        number: u32,
        item: Item,
        pool: u32,
        now: impl FnOnce() -> u64,
    ) -> bool {
        let p = self.pwqs.get_mut(number);
        p.refs += 1;
        p.nr_in_flight[usize::from(p.color)] += 1;
        // Behind the inactive ones even if a slot is free: a pwq keeps its order.
        // guard: s08_02_overtaking
        let active = p.inactive.is_empty() && p.take_slot();
        item.state.set_queued(pool, p.color, !active);
        if active {
            self.add_active(item, now);
        } else {
            p.inactive.push_back(item);
        }
        active
    }

    /// Puts an active item on the worklist. The caller calls `kick` afterwards.
    pub(crate) fn add_active(&mut self, item: Item, now: impl FnOnce() -> u64) {
        if self.worklist.is_empty() {
            self.last_progress = now();
        }
        self.worklist.push_back(item);
    }

    /// Changes a worker and adjusts `nr_running` if the worker is counted now and was not before,
    /// or the other way round.
    pub(crate) fn update(&mut self, slot: usize, change: impl FnOnce(&mut WorkerState)) {
        let worker = self.workers.get_mut(slot);
        let before = worker.counted();
        change(worker);
        let after = worker.counted();
        match (before, after) {
            (true, false) => self.nr_running -= 1,
            (false, true) => self.nr_running += 1,
            _ => {}
        }
        debug_assert!(
            self.nr_running <= self.workers.len(),
            "more running than there are workers"
        );
    }

    pub(crate) fn set_flags(&mut self, slot: usize, flags: WorkerFlags) {
        self.update(slot, |w| w.flags |= flags);
    }

    pub(crate) fn clear_flags(&mut self, slot: usize, flags: WorkerFlags) {
        self.update(slot, |w| w.flags &= !flags);
    }

    /// The worker that runs this very item now, and what it runs.
    pub(crate) fn executing(&self, who: Identity) -> Option<(usize, Current)> {
        self.workers.executing(who)
    }
}
