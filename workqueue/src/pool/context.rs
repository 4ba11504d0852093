// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the calling thread is to the crate: a worker inside a run, a rescuer, or a stranger.
//!
//! Set by [`super::worker`] and [`super::rescuer`]; asked wherever a call behaves differently from
//! inside a run. Kernel counterpart: `current_wq_worker()`.

use super::workers::WorkerState;
use super::Pool;
use crate::pwq::Pwq;
use crate::sys::short_text::ShortText;
use crate::work::raw::Identity;
use crate::wq::QueueInner;
use std::cell::RefCell;
use std::sync::Arc;

/// A thread of the crate, seen by itself.
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
            super::PoolKind::PerCpu { cpu } | super::PoolKind::Bh { cpu } if !self.rescuer => {
                Some(cpu)
            }
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
    CONTEXT.with(|c| *c.borrow_mut() = context);
}

/// Asks the thread's context; None off the crate's threads.
pub(crate) fn with<R>(ask: impl FnOnce(&mut Context) -> R) -> Option<R> {
    // A thread that is being torn down is no worker any more.
    CONTEXT
        .try_with(|c| c.borrow_mut().as_mut().map(ask))
        .ok()
        .flatten()
}

/// Asks about the run the thread is inside of; None outside any.
pub(crate) fn with_run<R>(ask: impl FnOnce(&Context, &Run) -> R) -> Option<R> {
    with(|c| c.run.as_ref().map(|run| ask(c, run))).flatten()
}

/// Is the caller a run of this queue?
pub(crate) fn in_run_of(queue: &QueueInner) -> bool {
    with_run(|_, run| std::ptr::eq(Arc::as_ptr(&run.pwq.queue), queue)).unwrap_or(false)
}

/// Is the caller the run of this very item?
pub(crate) fn in_run_of_item(item: Identity) -> bool {
    with_run(|_, run| run.item == item).unwrap_or(false)
}

/// The CPU a run counts as being on; None off per-CPU workers.
pub(crate) fn worker_cpu() -> Option<usize> {
    with(|c| c.cpu()).flatten()
}

/// The same for records, which may be made anywhere: None also while somebody asks for the context.
pub(crate) fn worker_cpu_if_free() -> Option<usize> {
    let ask = |c: &RefCell<Option<Context>>| c.try_borrow().ok()?.as_ref()?.cpu();
    CONTEXT.try_with(ask).ok().flatten()
}

/// What the caller's run is; see [`current`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentWork {
    /// The item's address, good for telling items apart and for nothing else.
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

/// Describes what the present run is about, for dumps; 31 bytes are kept. Does nothing off a
/// worker; the next run starts with the queue's name again.
pub fn set_worker_desc(text: &str) {
    let _off_a_worker = with_own_state(|worker| worker.desc = ShortText::new(text));
}

/// The description of the present run: what was set, or the queue's name.
pub fn worker_desc() -> Option<String> {
    with_own_state(|worker| worker.desc.to_string())
}

/// The calling worker as its pool sees it; None outside a run, and in the child of a fork.
fn with_own_state<R>(f: impl FnOnce(&mut WorkerState) -> R) -> Option<R> {
    let of_run = with_run(|c, _| {
        let here = !c.pool.rt.is_in_forked_child();
        here.then(|| f(c.pool.lock().workers.get_mut(c.slot)))
    });
    of_run.flatten()
}
