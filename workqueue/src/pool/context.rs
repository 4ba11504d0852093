// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the calling thread is to the crate: a worker inside a run, a rescuer, or neither; and
//! *declared sleeping*: a run that is about to wait lets the next item of its CPU begin.
//!
//! The context is set by [`super::worker`] and [`super::rescuer`] and read wherever a call behaves
//! differently inside a run. [`blocking`] is called by item functions and by every wait of the
//! crate itself. Kernel counterparts: `current_wq_worker()`; `wq_worker_sleeping` and
//! `wq_worker_running`, which the scheduler calls there.

use super::worker_state::{Sample, Wake, WorkerState};
use super::{Pool, PoolKind, PoolState};
use crate::pwq::Pwq;
use crate::sys::{cpu, ShortText};
use crate::work::Identity;
use crate::wq::queue::QueueInner;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// The calling thread, if it is one of the crate's.
pub(crate) struct Context {
    pub(crate) pool: Arc<Pool>,
    pub(crate) slot: usize,
    pub(crate) rescuer: bool,
    pub(crate) run: Option<Run>,
    /// Open blocking sections.
    pub(crate) blocking: u32,
}

impl Context {
    fn cpu(&self) -> Option<usize> {
        match self.pool.kind {
            PoolKind::PerCpu { cpu } | PoolKind::Bh { cpu } if !self.rescuer => Some(cpu),
            _ => None,
        }
    }
}

/// The run the thread is inside of.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) pwq: Arc<Pwq>,
    pub(crate) item: Identity,
    pub(crate) function: &'static str,
}

thread_local! {
    static CONTEXT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// Makes the calling thread a worker, or ends that.
pub(crate) fn set(context: Option<Context>) {
    cpu::set_worker_cpu(context.as_ref().and_then(Context::cpu));
    CONTEXT.with(|c| *c.borrow_mut() = context);
}

/// Calls `ask` with the thread's context; None on other threads.
pub(crate) fn with<R>(ask: impl FnOnce(&mut Context) -> R) -> Option<R> {
    // A thread that is being torn down is no worker any more.
    CONTEXT
        .try_with(|c| c.borrow_mut().as_mut().map(ask))
        .ok()
        .flatten()
}

/// Calls `ask` with the thread's current run; None outside a run.
pub(crate) fn with_run<R>(ask: impl FnOnce(&Context, &Run) -> R) -> Option<R> {
    with(|c| c.run.as_ref().map(|run| ask(c, run))).flatten()
}

/// True if the caller is a run of this queue.
pub(crate) fn in_run_of(queue: &QueueInner) -> bool {
    with_run(|_, run| std::ptr::eq(Arc::as_ptr(&run.pwq.queue), queue)).unwrap_or(false)
}

/// True if the caller is the run of this item.
pub(crate) fn in_run_of_item(item: Identity) -> bool {
    with_run(|_, run| run.item == item).unwrap_or(false)
}

/// The caller's run; see [`current`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentWork {
    /// The item's address. It tells items apart and must not be used as a pointer.
    pub work: usize,
    /// Its function.
    pub function: &'static str,
    /// The name of the queue it runs for.
    pub workqueue: String,
    /// Is the thread a rescuer?
    pub is_rescuer: bool,
}

/// The run the caller is inside of; None on threads that are no workers.
pub fn current() -> Option<CurrentWork> {
    with_run(|c, run| CurrentWork {
        work: run.item.address,
        function: run.function,
        workqueue: run.pwq.queue.name.clone(),
        is_rescuer: c.rescuer,
    })
}

/// Is the caller inside a run on a rescuer thread?
pub fn is_rescuer() -> bool {
    with_run(|c, _| c.rescuer).unwrap_or(false)
}

/// Sets the description of the current run for dumps; 31 bytes are kept. Does nothing outside a
/// run. The next run starts with the queue's name again.
pub fn set_worker_desc(text: &str) {
    let desc = ShortText::new(text);
    let _ignored = with_own_state(|worker| (worker.desc, worker.own_desc) = (desc, true));
}

/// The description of the present run: what was set, or the queue's name.
pub fn worker_desc() -> Option<String> {
    with_own_state(|worker| worker.desc.to_string())
}

/// Calls `f` with the calling worker's state; None outside a run, and in the child of a fork.
fn with_own_state<R>(f: impl FnOnce(&mut WorkerState) -> R) -> Option<R> {
    let of_run = with_run(|c, _| {
        let here = !c.pool.env.is_in_forked_child();
        here.then(|| f(c.pool.lock().workers.get_mut(c.slot)))
    });
    of_run.flatten()
}

/// Runs `f` as a section that may sleep: while it lasts, the calling run does not count as
/// running, so a per-CPU pool may start its next item. Off the crate's workers it only calls `f`.
///
/// ```
/// let runtime = workqueue::Runtime::builder().start()?;
/// let queue = runtime.queue("readers").flags(workqueue::Flags::PERCPU).build()?;
/// queue.try_spawn(|| {
///     let text = workqueue::blocking(|| std::fs::read_to_string("/proc/version"));
///     assert!(text.is_ok());
/// })?;
/// queue.flush()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn blocking<R>(f: impl FnOnce() -> R) -> R {
    let _section = BlockingGuard::new();
    f()
}

/// Makes an attempt that does not wait; if it gives nothing, waits in a [`blocking`] section. So an
/// attempt that succeeds costs nothing, and only a wait lets the next item begin.
///
/// ```
/// use std::sync::{Mutex, PoisonError, TryLockError};
/// let total = Mutex::new(0);
/// let mut guard = workqueue::try_then_wait(
///     || match total.try_lock() {
///         Ok(guard) => Some(guard),
///         Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
///         Err(TryLockError::WouldBlock) => None,
///     },
///     || total.lock().unwrap_or_else(PoisonError::into_inner),
/// );
/// *guard += 1;
/// ```
pub fn try_then_wait<R>(attempt: impl FnOnce() -> Option<R>, wait: impl FnOnce() -> R) -> R {
    attempt().unwrap_or_else(|| blocking(wait))
}

/// A section that may sleep, from its making to its drop; see [`blocking`]. Sections may nest;
/// only the outermost counts.
#[derive(Debug)]
#[must_use = "the section ends when the guard is dropped"]
pub struct BlockingGuard {
    // Belongs to the thread that made it.
    _here: PhantomData<*const ()>,
}

impl BlockingGuard {
    /// Begins a section.
    pub fn new() -> Self {
        enter();
        Self { _here: PhantomData }
    }
}

impl Default for BlockingGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for BlockingGuard {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() {
    let outermost = with(|c| {
        c.run.as_ref()?;
        c.blocking += 1;
        // In the child of a fork nobody waits behind the run.
        (c.blocking == 1 && !c.rescuer && !c.pool.env.is_in_forked_child())
            .then(|| (c.pool.clone(), c.slot))
    });
    let Some((pool, slot)) = outermost.flatten() else {
        return;
    };
    if pool.is_bh() {
        note_wait();
    }
    let mut st = pool.lock();
    let wake = go_to_sleep(&mut st, slot);
    drop(st);
    wake.perform();
}

fn leave() {
    let outermost = with(|c| {
        c.run.as_ref()?;
        // A section may outlive the run it began in; that run has been corrected at its end.
        c.blocking = c.blocking.checked_sub(1)?;
        // guard: s05_15_nested_sections
        (c.blocking == 0 && !c.rescuer && !c.pool.env.is_in_forked_child())
            .then(|| (c.pool.clone(), c.slot))
    });
    if let Some((pool, slot)) = outermost.flatten() {
        let mut st = pool.lock();
        st.update(slot, |w| {
            w.asleep = false;
            w.observed_asleep = false;
            // CPU time before the sleep does not count as too long.
            w.sample = Sample::default();
        });
        let starving = st.is_starving();
        drop(st);
        if starving {
            pool.env.monitor.watch_runs();
        }
    }
}

/// The worker does not count any more. If items wait without a worker now, one is woken and counted
/// as `cm_wakeup` of the queue whose item sleeps.
fn go_to_sleep(st: &mut PoolState, slot: usize) -> Wake {
    let counted = st.workers.get(slot).counted();
    st.update(slot, |w| w.asleep = true);
    if !counted {
        return Wake::Nobody;
    }
    let wake = st.kick();
    if wake.will_come() {
        if let Some(current) = st.workers.get(slot).current {
            st.pwqs.get_mut(current.pwq).stats.cm_wakeup += 1;
        }
    }
    wake
}

/// Counts and warns that a BH item is about to wait, which holds up all others of its CPU.
fn note_wait() {
    // Copied first: a logger may use the thread's context in turn.
    let Some((env, run)) = with_run(|c, run| (c.pool.env.clone(), run.clone())) else {
        return;
    };
    let queue = &run.pwq.queue;
    queue.counters.bh_blocked.fetch_add(1, Ordering::Relaxed);
    if env.first_time("wait in a BH item", 0) {
        log::warn!(
            "workqueue: {} on BH queue {} waits; all BH items of its CPU wait with it",
            run.function,
            queue.name
        );
    }
}
