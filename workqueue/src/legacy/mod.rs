// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workqueue design of Linux 2.6.35 and before, for comparison with the rest of this crate.
//!
//! One thread per CPU and queue, each with a list of its own. It runs the items of its list in
//! order, one at a time. Nothing here is shared with the other design but locks and thread
//! matters, and nothing else in the crate uses it. It is here to be measured and to show why it
//! was replaced; its limits are kept on purpose and documented where they are.
//!
//! | 2.6.35 | here | difference |
//! |---|---|---|
//! | the machine, `cpu_online_map` | [`Machine`] | an object, so that tests can make one up |
//! | `create_workqueue` and its three siblings | methods of [`Machine`] | |
//! | `struct workqueue_struct` | [`Workqueue`] | dropping it destroys the queue |
//! | `struct work_struct` | [`Work`], in an `Arc` | calls a closure; a listed item is kept alive |
//! | `struct cpu_workqueue_struct` | internal | its list holds pointers, not links |
//! | `queue_work`, `queue_delayed_work`, their `_on`, `flush_workqueue` | methods of [`Workqueue`] | [`Workqueue::queue_work_on`] refuses a CPU that is offline |
//! | `flush_work`, `cancel_work_sync`, `cancel_delayed_work` | methods of [`Work`] | an item that waits for itself gets an error instead of hanging |
//! | `struct delayed_work`, `cancel_delayed_work_sync` | [`Work`], [`Work::cancel_work_sync`] | each item has a timer |
//! | `schedule_work`, `schedule_delayed_work`, `flush_scheduled_work`, `schedule_on_each_cpu`, `work_on_cpu` | methods of [`Machine`] | `events` is made at the first use |
//! | `trace_workqueue_creation` and its three siblings | [`Event`] | |
//!
//! ```
//! use workqueue::legacy::{Machine, Work};
//!
//! let machine = Machine::builder().build();
//! let queue = machine.create_workqueue("old")?;    // as many threads as there are CPUs
//! let item = Work::new("hello", |_| println!("hello from a thread of my own"));
//! assert!(queue.queue_work(&item));
//! machine.schedule_work(&Work::new("shared", |_| println!("hello from events/N")))?;
//! machine.flush_scheduled_work()?;
//! queue.flush_workqueue()?;
//! queue.destroy_workqueue()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod workqueue;

mod work;

mod cpu_workqueue;

mod keventd;

pub use work::Work;
pub use workqueue::Workqueue;

use crate::env::topology::Topology;
use crate::error::{AllocError, Refusal};
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::Mutex;
use cpu_workqueue::served_by_caller;
use keventd::MachineTimers;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use workqueue::{Kind, QueueInner};

/// Which kernels the queues behave like, where the old ones differ among themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Era {
    /// A queue that flushes itself runs its list inside the run; threads have nice -5.
    Before2_6_30,
    /// A queue must not flush itself; threads have nice 0.
    #[default]
    From2_6_30,
}

/// A moment in the life of a queue's thread, named as the kernel's trace events were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// `workqueue_creation`: a thread begins.
    Creation {
        /// The thread's full name.
        thread: &'a str,
        /// Its number, as `ps -L` shows it.
        tid: i32,
        /// The CPU it serves; None for the thread of a singlethread queue.
        cpu: Option<usize>,
    },
    /// `workqueue_insertion`: an item joins the thread's list.
    Insertion {
        /// The thread's full name.
        thread: &'a str,
        /// The item's name.
        work: &'static str,
    },
    /// `workqueue_execution`: the item's function is about to be called.
    Execution {
        /// The thread's full name.
        thread: &'a str,
        /// The item's name.
        work: &'static str,
    },
    /// `workqueue_destruction`: a thread ends.
    Destruction {
        /// The thread's full name.
        thread: &'a str,
    },
}

type Sink = Box<dyn Fn(&Event<'_>) + Send + Sync>;
type ThreadSource = Box<dyn Fn(&str) -> Result<(), i32> + Send + Sync>;

/// Sets up a [`Machine`].
#[must_use = "a builder does nothing until it is built"]
#[derive(Default)]
pub struct MachineBuilder {
    topology: Option<Topology>,
    era: Era,
    sink: Option<Sink>,
    threads_by: Option<ThreadSource>,
}

impl fmt::Debug for MachineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineBuilder")
            .field("era", &self.era)
            .finish_non_exhaustive()
    }
}

impl MachineBuilder {
    /// Uses a topology of the caller's instead of the machine's. Made-up CPUs bind no thread.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// Which kernels to behave like ([`Era::From2_6_30`]).
    pub fn era(mut self, era: Era) -> Self {
        self.era = era;
        self
    }

    /// Follows the events. The sink may be called with a lock held: it must not call this module.
    pub fn trace_sink(mut self, sink: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.sink = Some(Box::new(sink));
        self
    }

    /// Asks `source` with the name of each thread before it is created; with an error number that
    /// fails. See [`crate::RuntimeBuilder::threads_by`].
    pub fn threads_by(
        mut self,
        source: impl Fn(&str) -> Result<(), i32> + Send + Sync + 'static,
    ) -> Self {
        self.threads_by = Some(Box::new(source));
        self
    }

    /// The machine, with the CPUs the process may use if none were given.
    pub fn build(self) -> Machine {
        cpu::watch_forks();
        let allowed = || cpu::allowed_cpus().unwrap_or_else(|_| CpuSet::single(0));
        let topology = self
            .topology
            .unwrap_or_else(|| Topology::detect(&allowed()));
        Machine {
            inner: Arc::new(MachineInner {
                online: Mutex::new(topology.possible().clone()),
                topology,
                era: self.era,
                sink: self.sink,
                threads_by: self.threads_by,
                frozen: AtomicBool::new(false),
                queues: Mutex::default(),
                forks: cpu::fork_generation(),
                timers: MachineTimers::default(),
            }),
            keventd: OnceLock::new(),
        }
    }
}

/// What the queues of a machine share.
struct MachineInner {
    topology: Topology, // I
    era: Era,           // I
    sink: Option<Sink>, // I
    threads_by: Option<ThreadSource>,
    /// Taken before `queues`.
    online: Mutex<CpuSet>,
    /// Written under `queues`.
    frozen: AtomicBool, // A
    queues: Mutex<Vec<Weak<QueueInner>>>,
    forks: u32, // I: the fork generation the threads belong to
    timers: MachineTimers,
}

impl fmt::Debug for MachineInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("era", &self.era)
            .finish_non_exhaustive()
    }
}

impl MachineInner {
    fn trace(&self, event: &Event<'_>) {
        if let Some(sink) = &self.sink {
            sink(event);
        }
    }

    fn before_create(&self, thread: &str) -> Result<(), i32> {
        self.threads_by
            .as_ref()
            .map_or(Ok(()), |source| source(thread))
    }

    fn is_in_forked_child(&self) -> bool {
        cpu::fork_generation() != self.forks
    }

    fn is_frozen(&self) -> bool {
        // Relaxed: read under a list's lock, which the thaw takes after it has cleared the flag.
        self.frozen.load(Ordering::Relaxed)
    }

    fn online(&self) -> CpuSet {
        self.online.lock().clone()
    }

    /// The CPU for an item that asked for none: `here`, or the next one that is online.
    fn online_near(&self, here: usize) -> Option<usize> {
        let online = self.online.lock();
        if online.contains(here) {
            Some(here)
        } else {
            online.next_after(here)
        }
    }

    fn queues(&self) -> Vec<Arc<QueueInner>> {
        self.queues
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Makes a queue known, in one step with the look at the CPUs it needs threads for: a CPU that
    /// leaves or returns later finds the queue.
    fn add(&self, queue: &Arc<QueueInner>) -> CpuSet {
        let online = self.online.lock();
        let mut queues = self.queues.lock();
        queues.retain(|q| q.strong_count() > 0);
        queues.push(Arc::downgrade(queue));
        online.clone()
    }
}

/// A set of CPUs with queues of the old design on them.
#[derive(Debug)]
pub struct Machine {
    inner: Arc<MachineInner>,
    keventd: OnceLock<Workqueue>,
}

impl Machine {
    /// Begins a machine.
    pub fn builder() -> MachineBuilder {
        MachineBuilder::default()
    }

    /// A queue with one thread `NAME/CPU` per online CPU, bound to it.
    ///
    /// # Errors
    /// If one of the threads cannot be created, all are ended again and the queue is not made.
    pub fn create_workqueue(&self, name: &str) -> Result<Workqueue, AllocError> {
        Workqueue::create(&self.inner, name, Kind::PerCpu)
    }

    /// A queue with one thread NAME, which is not bound. It never runs an item beside itself.
    ///
    /// # Errors
    /// If the thread cannot be created.
    pub fn create_singlethread_workqueue(&self, name: &str) -> Result<Workqueue, AllocError> {
        Workqueue::create(&self.inner, name, Kind::Single)
    }

    /// A singlethread queue that stops between two items while the machine is frozen.
    ///
    /// # Errors
    /// If the thread cannot be created.
    pub fn create_freezeable_workqueue(&self, name: &str) -> Result<Workqueue, AllocError> {
        Workqueue::create(&self.inner, name, Kind::Freezeable)
    }

    /// A queue as [`Machine::create_workqueue`] makes it, whose threads run at SCHED_FIFO 99.
    ///
    /// # Errors
    /// [`AllocError::Spawn`] with EPERM if the process may not have that.
    pub fn create_rt_workqueue(&self, name: &str) -> Result<Workqueue, AllocError> {
        Workqueue::create(&self.inner, name, Kind::RealTime)
    }

    /// Freezeable queues stop before their next item, until [`Machine::thaw`]. Items can still be
    /// queued and stay listed.
    pub fn freeze(&self) {
        if self.inner.is_in_forked_child() {
            return;
        }
        let _queues = self.inner.queues.lock();
        self.inner.frozen.store(true, Ordering::Relaxed);
    }

    /// Ends a freeze.
    pub fn thaw(&self) {
        if self.inner.is_in_forked_child() {
            return;
        }
        {
            let _queues = self.inner.queues.lock();
            self.inner.frozen.store(false, Ordering::Relaxed);
        }
        self.inner.queues().iter().for_each(|q| q.wake_threads());
    }

    /// The CPUs that are online; none in the child of a fork.
    pub fn online_cpus(&self) -> CpuSet {
        if self.inner.is_in_forked_child() {
            return CpuSet::new();
        }
        self.inner.online()
    }

    /// A CPU leaves: the thread it has in each queue may run elsewhere, empties its list and ends.
    /// Comes back when all of them have ended.
    ///
    /// # Errors
    /// [`Refusal::InvalidCpu`] if the CPU is not online or the last one, or if the caller runs on a
    /// thread that would have to end. [`Refusal::Destroyed`] in the child of a fork.
    pub fn cpu_down(&self, cpu: usize) -> Result<(), Refusal> {
        if self.inner.is_in_forked_child() {
            return Err(Refusal::Destroyed);
        }
        if served_by_caller().is_some_and(|own| own.cpu == Some(cpu)) {
            return Err(Refusal::InvalidCpu);
        }
        {
            let mut online = self.inner.online.lock();
            if !online.contains(cpu) || online.len() == 1 {
                return Err(Refusal::InvalidCpu);
            }
            online.remove(cpu);
        }
        self.inner
            .queues()
            .iter()
            .for_each(|q| q.end_thread_of(cpu));
        Ok(())
    }

    /// A CPU returns: each queue gets a new thread there.
    ///
    /// # Errors
    /// [`Refusal::InvalidCpu`] if the machine has no such CPU, or a thread cannot be created; the
    /// CPU stays out then. [`Refusal::Destroyed`] in the child of a fork.
    pub fn cpu_up(&self, cpu: usize) -> Result<(), Refusal> {
        if self.inner.is_in_forked_child() {
            return Err(Refusal::Destroyed);
        }
        if !self.inner.topology.possible().contains(cpu) {
            return Err(Refusal::InvalidCpu);
        }
        loop {
            let queues = self.inner.queues();
            if let Some(errno) = queues.iter().find_map(|q| q.begin_thread_of(cpu).err()) {
                let error = std::io::Error::from_raw_os_error(errno);
                log::warn!("workqueue: legacy: CPU {cpu} stays out: {error}");
                queues.iter().for_each(|q| q.end_thread_of(cpu));
                return Err(Refusal::InvalidCpu);
            }
            let mut online = self.inner.online.lock();
            // Another queue may have been made meanwhile.
            if self.inner.queues().iter().all(|q| q.is_ready_on(cpu)) {
                online.insert(cpu);
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::WaitError;

    #[test]
    fn s01_13_no_call_of_a_forked_child_waits_for_a_lock_of_the_old_design() {
        let machine = Machine::builder().topology(Topology::one_cpu()).build();
        let queue = machine.create_workqueue("old").unwrap();
        let work = Work::new("item", |_| ());
        assert!(queue.queue_work(&work) && work.flush_work().is_ok());
        let _machine = (machine.inner.online.lock(), machine.inner.queues.lock());
        let _list = queue.inner.lists[0].lock();
        let _item = work.hold_lock();
        assert!(cpu::is_true_in_child(|| {
            machine.freeze();
            machine.thaw();
            let own = Work::new("of the child", |_| ());
            machine.online_cpus().is_empty()
                && machine.cpu_down(0) == Err(Refusal::Destroyed)
                && machine.cpu_up(0) == Err(Refusal::Destroyed)
                && machine.create_workqueue("new").is_err()
                && work.flush_work() == Err(WaitError::Destroyed)
                && work.cancel_work_sync() == Err(WaitError::Destroyed)
                && own.cancel_work_sync() == Ok(false)
                && [&own, &work].iter().all(|w| !queue.queue_work(w))
                && queue.queue_work_on(0, &own) == Err(Refusal::Destroyed)
                && queue.flush_workqueue() == Err(WaitError::Destroyed)
                && queue.dump().is_empty()
                && queue.destroy_workqueue() == Err(WaitError::Destroyed)
        }));
    }
}
