// SPDX-License-Identifier: MIT OR Apache-2.0
//! Declared sleeping: a run that is about to wait lets the next item of its CPU begin.
//!
//! Called by item functions and by every wait of the crate itself. Kernel counterparts:
//! `wq_worker_sleeping` and `wq_worker_running`, which the scheduler calls there.

use super::sampler::Sample;
use super::{bh, context, PoolState, Wake};
use std::marker::PhantomData;

/// Runs `f` as a section that may sleep: while it lasts, the calling run does not count as
/// running, so a per-CPU pool may start its next item. Off the crate's workers it only calls `f`.
///
/// ```
/// let runtime = workqueue::Runtime::builder().start()?;
/// let queue = runtime.system_percpu();
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
    let outermost = context::with(|c| {
        c.run.as_ref()?;
        c.blocking += 1;
        (c.blocking == 1 && !c.rescuer).then(|| (c.pool.clone(), c.slot))
    });
    let Some((pool, slot)) = outermost.flatten() else {
        return;
    };
    if pool.is_bh() {
        bh::note_wait();
    }
    let mut st = pool.lock();
    let wake = go_to_sleep(&mut st, slot);
    drop(st);
    wake.go();
}

fn leave() {
    let outermost = context::with(|c| {
        c.run.as_ref()?;
        // A section may outlive the run it began in; that run has been put right already.
        c.blocking = c.blocking.checked_sub(1)?;
        // guard: s05_15_nested_sections
        (c.blocking == 0 && !c.rescuer).then(|| (c.pool.clone(), c.slot))
    });
    if let Some((pool, slot)) = outermost.flatten() {
        let mut st = pool.lock();
        st.update(slot, |w| {
            w.asleep = false;
            w.observed_asleep = false;
            // What it burnt before it slept does not count against it.
            w.sample = Sample::default();
        });
        let starving = st.is_starving();
        drop(st);
        if starving {
            pool.rt.monitor.watch_runs();
        }
    }
}

/// The worker leaves the count; if that leaves items without a worker, one is woken on account of
/// the queue whose item sleeps.
fn go_to_sleep(st: &mut PoolState, slot: usize) -> Wake {
    let counted = st.workers.get(slot).counted();
    st.update(slot, |w| w.asleep = true);
    if !counted {
        return Wake::NOBODY;
    }
    let wake = st.kick();
    if wake.is_somebody() {
        if let Some(current) = st.workers.get(slot).current {
            st.pwqs.get_mut(current.pwq).stats.cm_wakeup += 1;
        }
    }
    wake
}
