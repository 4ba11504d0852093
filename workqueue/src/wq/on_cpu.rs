// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that run something on given CPUs through the general queue.
//!
//! Kernel counterparts: `work_on_cpu`, `schedule_on_each_cpu`, `schedule_work` and its siblings.

use super::Queue;
use crate::error::{EnqueueError, Refusal, WaitError};
use crate::pool::concurrency::blocking;
use crate::runtime::Runtime;
use crate::sys::sync::{Completion, Mutex};
use crate::work::pointer::{RawDelayedWorkItem, RawWorkItem};
use crate::work::spawn;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use thiserror::Error;

/// Why something was not run on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OnCpuError {
    /// It could not be queued there.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be waited for.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// A result on its way from a worker to the caller.
struct Reply<R> {
    done: Completion,
    result: Mutex<Option<thread::Result<R>>>,
}

impl<R: Send + 'static> Reply<R> {
    /// Has `f` run on `cpu`; the reply comes in later.
    fn ask(
        queue: &Queue,
        cpu: usize,
        f: impl FnOnce() -> R + Send + 'static,
    ) -> Result<Arc<Self>, Refusal> {
        let reply = Arc::new(Self {
            done: Completion::new(),
            result: Mutex::new(None),
        });
        let answer = reply.clone();
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(f));
            *answer.result.lock() = Some(result);
            answer.done.complete();
        };
        spawn::try_spawn(queue, Some(cpu), body).map_err(|e| e.reason())?;
        Ok(reply)
    }

    fn wait(&self) -> R {
        blocking(|| self.done.wait());
        let result = self.result.lock().take();
        match result.expect("the reply is stored before it is announced") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }
}

impl Runtime {
    /// Runs `f` on a CPU and waits for its result. A panic in `f` goes on in the caller.
    pub fn work_on_cpu<R, F>(&self, cpu: usize, f: F) -> Result<R, OnCpuError>
    where
        R: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
    {
        self.inner.require_online()?;
        Ok(Reply::ask(self.system_percpu(), cpu, f)?.wait())
    }

    /// Runs `f` once on every online CPU and waits for all of them.
    pub fn schedule_on_each_cpu<F>(&self, f: F) -> Result<(), OnCpuError>
    where
        F: Fn() + Send + Sync + 'static,
    {
        self.inner.require_online()?;
        let f = Arc::new(f);
        let ask = |cpu| {
            let f = f.clone();
            Reply::ask(self.system_percpu(), cpu, move || f())
        };
        let replies: Vec<_> = self.online_cpus().iter().map(ask).collect();
        // Those that were queued are waited for, also if one was not.
        let outcomes: Vec<_> = replies
            .into_iter()
            .map(|r| r.map(|reply| reply.wait()))
            .collect();
        Ok(outcomes.into_iter().collect::<Result<(), Refusal>>()?)
    }
}

/// Runs `f` on a CPU of the process's runtime; see [`Runtime::work_on_cpu`].
pub fn work_on_cpu<R, F>(cpu: usize, f: F) -> Result<R, OnCpuError>
where
    R: Send + 'static,
    F: FnOnce() -> R + Send + 'static,
{
    Runtime::global().work_on_cpu(cpu, f)
}

/// Runs `f` on every online CPU of the process's runtime; see [`Runtime::schedule_on_each_cpu`].
pub fn schedule_on_each_cpu<F>(f: F) -> Result<(), OnCpuError>
where
    F: Fn() + Send + Sync + 'static,
{
    Runtime::global().schedule_on_each_cpu(f)
}

/// Enqueues an item on the process's general queue.
///
/// ```
/// # use workqueue::{impl_has_work, new_work, Work, WorkItem};
/// # use std::sync::Arc;
/// # struct Item { work: Work<Item> }
/// # impl_has_work! { impl HasWork<Self> for Item { self.work } }
/// # impl WorkItem for Item { type Pointer = Arc<Self>; fn run(_: Arc<Self>) {} }
/// let item = Arc::new(Item { work: new_work!() });
/// workqueue::schedule(item.clone())?;
/// item.work.flush()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn schedule<W, const ID: u64>(work: W) -> Result<(), EnqueueError<W>>
where
    W: RawWorkItem<ID> + Send + 'static,
{
    Runtime::global().system_percpu().enqueue(work)
}

/// As [`schedule`], for a CPU.
pub fn schedule_on<W, const ID: u64>(cpu: usize, work: W) -> Result<(), EnqueueError<W>>
where
    W: RawWorkItem<ID> + Send + 'static,
{
    Runtime::global().system_percpu().enqueue_on(cpu, work)
}

/// As [`schedule`], once the time has passed.
pub fn schedule_delayed<W, const ID: u64>(delay: Duration, work: W) -> Result<(), EnqueueError<W>>
where
    W: RawDelayedWorkItem<ID> + Send + 'static,
{
    Runtime::global()
        .system_percpu()
        .enqueue_delayed(delay, work)
}

/// As [`schedule_delayed`], for a CPU.
pub fn schedule_delayed_on<W, const ID: u64>(
    cpu: usize,
    delay: Duration,
    work: W,
) -> Result<(), EnqueueError<W>>
where
    W: RawDelayedWorkItem<ID> + Send + 'static,
{
    Runtime::global()
        .system_percpu()
        .enqueue_delayed_on(cpu, delay, work)
}
