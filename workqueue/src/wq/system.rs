// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ready-made queues, present from the first phase on, and calls that use them.
//!
//! Kernel counterparts: `system_percpu_wq` and its siblings; the kernel's deprecated twins are
//! aliases here, not second queues. `work_on_cpu`, `schedule_on_each_cpu`, `schedule_work` and its
//! siblings.

use super::attrs::Flags;
use super::builder::QueueBuilder;
use super::spawn::JoinHandle;
use super::{OwnedQueue, Queue};
use crate::env::helpers::Job;
use crate::error::{EnqueueError, JoinError, Refusal, WaitError};
use crate::runtime::directory::Directory;
use crate::runtime::Runtime;
use crate::work::pointer::{RawDelayedWorkItem, RawWorkItem};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The max_active of the unbound system queues, as in the kernel: the upper limit.
const UNBOUND_MAX_ACTIVE: usize = 2048;

/// See the module.
#[derive(Debug)]
pub(crate) struct SystemQueues {
    percpu: OwnedQueue,
    highpri: OwnedQueue,
    long: OwnedQueue,
    freezable: OwnedQueue,
    power_efficient: OwnedQueue,
    freezable_power_efficient: OwnedQueue,
    dfl: OwnedQueue,
    dfl_long: OwnedQueue,
    bh: OwnedQueue,
    bh_highpri: OwnedQueue,
}

impl SystemQueues {
    pub(crate) fn new(dir: &Arc<Directory>) -> Self {
        let queue = |name: &str, flags: Flags, max_active| {
            let made = QueueBuilder::new(dir, name)
                .flags(flags)
                .max_active(max_active)
                .system()
                .build();
            made.expect("the system queues have good flags and, before the start, need no thread")
        };
        let percpu = Flags::PERCPU;
        Self {
            percpu: queue("events", percpu, 0),
            highpri: queue("events_highpri", percpu | Flags::HIGHPRI, 0),
            long: queue("events_long", percpu, 0),
            freezable: queue("events_freezable", percpu | Flags::FREEZABLE, 0),
            power_efficient: queue("events_power_efficient", percpu | Flags::POWER_EFFICIENT, 0),
            freezable_power_efficient: queue(
                "events_freezable_pwr_efficient",
                percpu | Flags::FREEZABLE | Flags::POWER_EFFICIENT,
                0,
            ),
            dfl: queue("events_unbound", Flags::UNBOUND, UNBOUND_MAX_ACTIVE),
            dfl_long: queue("events_dfl_long", Flags::UNBOUND, UNBOUND_MAX_ACTIVE),
            bh: queue("events_bh", Flags::BH, 0),
            bh_highpri: queue("events_bh_highpri", Flags::BH | Flags::HIGHPRI, 0),
        }
    }
}

impl Directory {
    /// Runs code of the program away from the timer thread, on a worker of `events`; if that takes
    /// no items any more, when the runtime ends.
    pub(crate) fn run_on_worker(&self, code: impl FnOnce() + Send + 'static) {
        let mut queues = self.queues().into_iter();
        let refused = match queues.find(|q| q.system && q.name == "events") {
            Some(inner) => Queue { inner }.try_spawn(code).err(),
            None => Some(EnqueueError::new(Refusal::Destroyed, code)),
        };
        if let Some(refused) = refused {
            self.leftovers.lock().push(Job::new(refused.into_inner()));
        }
    }
}

macro_rules! system_queues {
    ($($(#[$doc:meta])* $name:ident => $field:ident;)*) => {
        impl Runtime {
            $($(#[$doc])* pub fn $name(&self) -> &Queue { &self.system_queues().$field })*
        }

        $($(#[$doc])*
        ///
        /// That of the process's runtime.
        pub fn $name() -> &'static Queue { Runtime::global().$name() })*
    };
}

system_queues! {
    /// The general queue, per CPU, for short items.
    system_percpu => percpu;
    /// Per CPU, at nice -20.
    system_highpri => highpri;
    /// Per CPU, for items that may take long.
    system_long => long;
    /// Per CPU, frozen with the runtime.
    system_freezable => freezable;
    /// Per CPU, or unbound if the runtime saves power.
    system_power_efficient => power_efficient;
    /// As the former, frozen with the runtime.
    system_freezable_power_efficient => freezable_power_efficient;
    /// The general unbound queue.
    system_dfl => dfl;
    /// Unbound, for items that may take long.
    system_dfl_long => dfl_long;
}

impl Runtime {
    /// The former name of [`Runtime::system_percpu`].
    #[deprecated(note = "use system_percpu, or system_dfl if the CPU does not matter")]
    pub fn system(&self) -> &Queue {
        self.system_percpu()
    }

    /// The former name of [`Runtime::system_dfl`].
    #[deprecated(note = "use system_dfl")]
    pub fn system_unbound(&self) -> &Queue {
        self.system_dfl()
    }
}

impl Runtime {
    /// BH items: per CPU, one after the other, in the order they were enqueued. The first call
    /// makes their threads, one per CPU; the monitor tries again to make missing ones.
    pub fn system_bh(&self) -> &Queue {
        self.inner.want_bh_threads_later(false);
        &self.system_queues().bh
    }

    /// As [`Runtime::system_bh`], at nice -20.
    pub fn system_bh_highpri(&self) -> &Queue {
        self.inner.want_bh_threads_later(true);
        &self.system_queues().bh_highpri
    }
}

/// That of the process's runtime; see [`Runtime::system_bh`].
pub fn system_bh() -> &'static Queue {
    Runtime::global().system_bh()
}

/// That of the process's runtime; see [`Runtime::system_bh_highpri`].
pub fn system_bh_highpri() -> &'static Queue {
    Runtime::global().system_bh_highpri()
}

/// The former name of [`system_percpu`].
#[deprecated(note = "use system_percpu, or system_dfl if the CPU does not matter")]
pub fn system() -> &'static Queue {
    system_percpu()
}

/// The former name of [`system_dfl`].
#[deprecated(note = "use system_dfl")]
pub fn system_unbound() -> &'static Queue {
    system_dfl()
}

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

/// Waits for a closure that a queue of the runtime has taken. A panic in it goes on here.
fn reply<R>(asked: JoinHandle<R>) -> Result<R, OnCpuError> {
    asked.join().map_err(|e| match e {
        JoinError::Panicked(panic) => resume_unwind(panic.into_inner()),
        JoinError::Wait(e) => e.into(),
        JoinError::Cancelled => WaitError::Destroyed.into(),
    })
}

impl Runtime {
    /// Runs `f` on a CPU and waits for its result. A panic in `f` goes on in the caller.
    pub fn work_on_cpu<R, F>(&self, cpu: usize, f: F) -> Result<R, OnCpuError>
    where
        R: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
    {
        self.inner.env.require_online()?;
        reply(self.system_percpu().spawn_on(cpu, f)?)
    }

    /// Runs `f` once on every online CPU and waits for all of them.
    pub fn schedule_on_each_cpu<F>(&self, f: F) -> Result<(), OnCpuError>
    where
        F: Fn() + Send + Sync + 'static,
    {
        self.inner.env.require_online()?;
        let f = Arc::new(f);
        let ask = |cpu| {
            let f = f.clone();
            self.system_percpu().spawn_on(cpu, move || f())
        };
        let asked: Vec<_> = self.online_cpus().iter().map(ask).collect();
        // Waits for all that were queued, also if one was not.
        let outcomes: Vec<_> = asked.into_iter().map(|a| reply(a?)).collect();
        outcomes.into_iter().collect()
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
