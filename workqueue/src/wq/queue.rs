// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the crate keeps for a queue: its pwqs, its flushes, its limits, its rescuer.
//!
//! Made by [`super::builder`]. The functions on it are where they belong: pwqs in
//! [`super::lifecycle`], limits in [`super::control`], flushes in [`crate::wait::flush`], the
//! rescuer's thread in [`crate::pool::rescuer`]. Kernel counterparts: `struct workqueue_struct`,
//! `struct wq_flusher`, `wq->maydays`.

use super::attrs::{Attrs, Flags};
use crate::env::helpers::Job;
use crate::env::Env;
use crate::pwq::{NodeActive, Pwq, PwqStats};
use crate::runtime::directory::Directory;
use crate::sys::sync::{modelled, Completion, Mutex, Parker};
use crate::sys::ShortText;
use crate::work::state::COLORS;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, mem};

/// Bits of [`QueueInner::mode`].
pub(crate) const DRAINING: u32 = 1 << 0;

pub(crate) const DESTROYING: u32 = 1 << 1;

pub(crate) const DESTROYED: u32 = 1 << 2;

/// The pwq that serves a CPU. Read by every enqueue from that CPU, written when the attributes
/// change. A read guard keeps the pwq in the queue.
type Slot = RwLock<Option<Arc<Pwq>>>; // S

/// A queue, as the crate keeps it.
pub(crate) struct QueueInner {
    pub(crate) name: String, // I
    pub(crate) number: u64,  // I: in the order in which the queues of a runtime were made
    /// The name as the default description of a worker's run.
    pub(crate) desc: ShortText, // I
    pub(crate) flags: Flags, // I
    pub(crate) ordered: bool, // I
    pub(crate) system: bool, // I: one of the ready-made queues
    pub(crate) legacy: bool, // I: made by one of the old constructors
    pub(crate) env: Arc<Env>, // I
    pub(crate) dir: Arc<Directory>, // I
    pub(super) slots: Box<[Slot]>, // S: by CPU number
    /// The limit in force; 0 while frozen.
    pub(crate) max_active: AtomicUsize, // A: written under W
    /// By node, and one more for pools that span nodes. Empty for per-CPU queues.
    pub(crate) nodes: Vec<Arc<NodeActive>>, // I
    pub(crate) rescuer: Option<Rescuer>, // I
    /// Pwqs that still have items of the color being flushed.
    pub(crate) pwqs_to_flush: FlushCountdown, // A: armed under W
    /// Who may enqueue. Read with the slot of the item's CPU held, and again under the lock of its
    /// pool unless the item goes to the inbox. So a drain that sets a bit, waits for the slots and
    /// then visits each pool misses no item.
    pub(crate) mode: AtomicU32, // A: written under W
    pub(crate) counters: Counters, // A
    pub(crate) state: Mutex<QueueState>, // W
}

/// What the queue's lock guards.
#[derive(Debug)]
pub(crate) struct QueueState {
    /// All pwqs that have not been released, oldest first; also those that retire.
    pub(crate) pwqs: Vec<Arc<Pwq>>,
    /// The pwqs that serve the CPUs of an unbound queue, and its default pwq.
    pub(crate) installed: Vec<Arc<Pwq>>,
    pub(crate) saved_max: usize,
    pub(crate) saved_min: usize,
    pub(crate) drainers: usize,
    pub(crate) flush: FlushState,
    pub(crate) attrs: Attrs,
    /// Counters of pwqs that are gone.
    pub(crate) past: PwqStats,
}

/// Counters that belong to no pwq. They only rise.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) panicked: AtomicU64,
    pub(crate) leaked_state: AtomicU64,
    pub(crate) refused_timer: AtomicU64,
    pub(crate) bh_blocked: AtomicU64,
}

/// The counters of a queue. They only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Runs that have begun.
    pub started: u64,
    /// Runs that have ended.
    pub completed: u64,
    /// CPU time of the runs that have ended.
    pub cpu_time: Duration,
    /// Runs found to use the CPU for too long.
    pub cpu_intensive: u64,
    /// Workers woken because a run went to sleep; per-CPU queues only.
    pub cm_wakeup: u64,
    /// Workers brought back into their pod; unbound queues only.
    pub repatriated: u64,
    /// Calls for the rescuer.
    pub mayday: u64,
    /// Items the rescuer took.
    pub rescued: u64,
    /// Runs that panicked.
    pub panicked: u64,
    /// Runs that left a blocking section open.
    pub leaked_state: u64,
    /// Delayed items that came due on a draining or destroyed queue.
    pub refused_timer: u64,
    /// Waits inside BH items, which hold up all others of their CPU.
    pub bh_blocked: u64,
}

impl fmt::Debug for QueueInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.name)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

impl QueueInner {
    pub(crate) fn is_unbound(&self) -> bool {
        self.flags.contains(Flags::UNBOUND)
    }

    /// The name of its rescuer's thread.
    pub(crate) fn rescuer_name(&self) -> String {
        format!("{}R-{}", self.env.config.thread_name_prefix, self.name)
    }

    pub(crate) fn has_rescuer(&self) -> bool {
        self.rescuer.is_some()
    }

    pub(crate) fn is_mode(&self, bits: u32) -> bool {
        self.mode.load(Ordering::SeqCst) & bits != 0
    }

    /// True if the queue has a place for this CPU.
    pub(crate) fn has_cpu(&self, cpu: usize) -> bool {
        self.env.cpus.is_known(cpu)
    }

    /// The pwq that serves `cpu`. It stays installed as long as the guard lives.
    #[inline]
    pub(crate) fn slot(&self, cpu: usize) -> RwLockReadGuard<'_, Option<Arc<Pwq>>> {
        self.slots[cpu]
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Installs another pwq for `cpu` and returns the former one.
    pub(crate) fn set_slot(&self, cpu: usize, pwq: Option<Arc<Pwq>>) -> Option<Arc<Pwq>> {
        mem::replace(
            &mut *self.slots[cpu]
                .write()
                .unwrap_or_else(PoisonError::into_inner),
            pwq,
        )
    }

    /// Waits for every enqueue that has begun. Later ones see the queue's mode; the others have
    /// their items in a pool or an inbox.
    /// # Context: no lock behind S held.
    pub(crate) fn wait_for_enqueues(&self) {
        for slot in &self.slots {
            drop(slot.write().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Installs one pwq for all CPUs in one step. An ordered queue needs that: if the former pwq
    /// still served some CPUs, an item could overtake an earlier one.
    pub(crate) fn set_all_slots(&self, pwq: &Arc<Pwq>) {
        let mut slots: Vec<_> = self
            .slots
            .iter()
            .enumerate()
            .filter(|(cpu, _)| self.has_cpu(*cpu))
            .map(|(_, slot)| slot.write().unwrap_or_else(PoisonError::into_inner))
            .collect();
        slots.iter_mut().for_each(|s| **s = Some(pwq.clone()));
    }

    /// What the queue's lock guards; None in the child of a fork, where a thread of the parent may
    /// hold it for ever.
    pub(crate) fn readable(&self) -> Option<MutexGuard<'_, QueueState>> {
        (!self.env.is_in_forked_child()).then(|| self.state.lock())
    }

    pub(crate) fn pwqs(&self) -> Vec<Arc<Pwq>> {
        self.state.lock().pwqs.clone()
    }
}

/// What happens when everything enqueued before has ended.
#[derive(Debug)]
pub(crate) enum FlushWaiter {
    /// A sleeping thread is woken.
    Thread(Arc<Completion>),
    /// A job is posted to the monitor, which must not sleep.
    Monitor(Job),
}

impl FlushWaiter {
    /// # Context: the queue's lock held.
    pub(crate) fn complete(self, queue: &QueueInner) {
        match self {
            Self::Thread(done) => done.complete(),
            Self::Monitor(job) => queue.env.monitor.post(job),
        }
    }
}

/// The items enqueued between two flushes, and the flushers that wait for them.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) color: u8,
    pub(crate) waiters: Vec<FlushWaiter>,
}

/// The flushes of one queue.
#[derive(Debug, Default)]
pub(crate) struct FlushState {
    /// The color of new items.
    pub(crate) color: u8,
    /// Oldest first; the first one is armed.
    pub(crate) generations: VecDeque<Generation>,
    /// Flushers that found no color free.
    pub(crate) overflow: Vec<FlushWaiter>,
}

impl FlushState {
    /// The color of new items.
    pub(crate) fn color(&self) -> u8 {
        self.color
    }

    pub(crate) fn color_is_free(&self) -> bool {
        // guard: s10_03_colors
        self.generations.len() < usize::from(COLORS) - 1
    }

    /// Closes the present color for these waiters.
    pub(crate) fn close(&mut self, waiters: Vec<FlushWaiter>) {
        self.generations.push_back(Generation {
            color: self.color,
            waiters,
        });
        self.color = (self.color + 1) % COLORS;
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FlushCountdown(modelled::AtomicUsize); // A: begun under W

impl FlushCountdown {
    pub(crate) fn new() -> Self {
        Self(modelled::AtomicUsize::new(0))
    }

    /// Starts at one, for the arming itself.
    pub(crate) fn start(&self) {
        // Relaxed: the pool lock under which the first reporter is added orders it.
        // guard: s10_03_arming_not_counted
        self.0.store(1, Ordering::Relaxed);
    }

    /// Counts one more pwq that has to report.
    /// # Context: the lock under which it will find that out held.
    pub(crate) fn add(&self) {
        // Relaxed: that lock orders it against the report.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts down; true for the last one, which then has to act.
    #[must_use]
    pub(crate) fn count_down(&self) -> bool {
        // AcqRel: pairs with itself. The last one sees what all others did before.
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// A queue's rescuer as the rest of the crate sees it.
#[derive(Debug)]
pub(crate) struct Rescuer {
    mayday: Mutex<VecDeque<Arc<Pwq>>>, // M
    /// The parker of the current thread. A failed start of the runtime ends a thread; a later start
    /// makes another.
    pub(crate) parker: Mutex<Arc<Parker>>,
    pub(crate) stop: AtomicBool,                   // A
    pub(crate) placement: Mutex<RescuerPlacement>, // R
    pub(crate) thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where a rescuer's thread is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RescuerPlacement {
    /// 0 before the thread has begun.
    pub(crate) tid: i32,
    /// In a pool, which determines where it may run.
    pub(crate) attached: bool,
    /// The description of its last run.
    pub(crate) desc: ShortText,
}

impl Rescuer {
    pub(crate) fn new() -> Self {
        Self {
            mayday: Mutex::new(VecDeque::new()),
            parker: Mutex::default(),
            stop: AtomicBool::new(false),
            placement: Mutex::default(),
            thread: Mutex::new(None),
        }
    }

    /// Makes room for `pwqs`, so that a mayday never allocates.
    pub(crate) fn reserve(&self, pwqs: usize) {
        let mut mayday = self.mayday.lock();
        let missing = pwqs.saturating_sub(mayday.len());
        mayday.reserve(missing);
    }

    /// Puts a pwq on the mayday list; false if it is there already. The caller adds a reference to
    /// the pwq and wakes the rescuer.
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

    pub(crate) fn placement(&self) -> RescuerPlacement {
        *self.placement.lock()
    }

    /// The unbound mask has changed; see `detach`.
    pub(crate) fn follow_unbound_mask(&self, env: &Env) {
        let placement = self.placement.lock();
        if !placement.attached && placement.tid != 0 {
            env.bind_to_unbound(placement.tid);
        }
    }

    pub(crate) fn next(&self) -> Option<Arc<Pwq>> {
        let mut mayday = self.mayday.lock();
        let pwq = mayday.pop_front()?;
        pwq.mayday_listed.store(false, Ordering::Relaxed);
        Some(pwq)
    }

    pub(crate) fn anyone_else(&self) -> bool {
        !self.mayday.lock().is_empty()
    }
}
