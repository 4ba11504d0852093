// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue `events` that all share, delayed items, and calls that run a function on a CPU.
//!
//! `events` is made at its first use, as is the thread that expires the timers of a machine. Kernel
//! counterparts: `keventd_wq`, `schedule_work` and its siblings, `delayed_work_timer_fn`.

use super::cpu_workqueue::{served_by_caller, STACK_SIZE};
use super::work::Work;
use super::workqueue::{Kind, QueueInner, Workqueue};
use super::Machine;
use crate::error::{AllocError, Refusal, WaitError};
use crate::sys::clock::{after, Clock, Notify};
use crate::sys::cpu::{self, errno_of, spawn_quiet};
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::Mutex;
use crate::sys::timer::{Timed, TimerIndex, Timers};
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// An item whose timer runs; its PENDING mark is the timer's.
#[derive(Debug)]
pub(super) struct Armed {
    work: Arc<Work>,
    queue: Weak<QueueInner>,
    cpu: Option<usize>,
}

impl Timed for Armed {
    fn place(&self) -> &TimerIndex {
        &self.work.timer
    }
}

impl Armed {
    /// The time has come: lists the item, or drops it if its queue has gone.
    fn expire(self) {
        let queue = self.queue.upgrade();
        if !queue.is_some_and(|queue| queue.insert_near(self.cpu, &self.work)) {
            self.work.release();
        }
    }
}

/// The timers of a machine.
#[derive(Debug)]
pub(super) struct MachineTimers {
    heap: Arc<Timers<Armed>>,
    has_thread: Mutex<bool>,
}

impl Default for MachineTimers {
    fn default() -> Self {
        Self {
            heap: Arc::new(Timers::new(&Clock::Real)),
            has_thread: Mutex::default(),
        }
    }
}

impl MachineTimers {
    /// Makes the thread, unless it exists.
    fn need_thread(&self) -> io::Result<()> {
        let mut has_thread = self.has_thread.lock();
        if !*has_thread {
            let heap = self.heap.clone();
            // Not joined: the last owner of the machine may be an expired item.
            spawn_quiet("timers".to_owned(), STACK_SIZE, move || {
                cpu::set_current_timer_exact();
                heap.serve(Notify::wait_until, Armed::expire);
            })?;
            *has_thread = true;
        }
        Ok(())
    }
}

impl Drop for MachineTimers {
    fn drop(&mut self) {
        self.heap.end_thread();
        self.heap
            .close()
            .iter()
            .for_each(|armed| armed.work.release());
    }
}

impl Workqueue {
    /// Queues an item once the time has passed, on the CPU where its timer expires. False if it is
    /// pending already.
    ///
    /// # Errors
    /// [`AllocError::Spawn`] if the machine's timer thread cannot be created.
    pub fn queue_delayed_work(
        &self,
        work: &Arc<Work>,
        delay: Duration,
    ) -> Result<bool, AllocError> {
        self.arm(None, work, delay)
    }

    /// As [`Workqueue::queue_delayed_work`], for a CPU, or another one if it is offline by then.
    ///
    /// # Errors
    /// As there.
    pub fn queue_delayed_work_on(
        &self,
        cpu: usize,
        work: &Arc<Work>,
        delay: Duration,
    ) -> Result<bool, AllocError> {
        self.arm(Some(cpu), work, delay)
    }

    fn arm(
        &self,
        cpu: Option<usize>,
        work: &Arc<Work>,
        delay: Duration,
    ) -> Result<bool, AllocError> {
        let machine = &self.inner.machine;
        if machine.is_in_forked_child() || work.is_of_parent() {
            return Err(AllocError::Destroyed);
        }
        let made = machine.timers.need_thread();
        made.map_err(|e| AllocError::Spawn {
            name: "timers".to_owned(),
            errno: errno_of(&e),
        })?;
        if !work.claim() {
            return Ok(false);
        }
        let heap = &machine.timers.heap;
        *work.armed_in.lock() = Some(Arc::downgrade(heap));
        let armed = Armed {
            work: work.clone(),
            queue: Arc::downgrade(&self.inner),
            cpu,
        };
        // The heap is closed only when the machine has gone.
        let _ignored = heap.arm(after(cpu::monotonic_ns(), delay), armed);
        Ok(true)
    }
}

impl Work {
    /// Stops the item's timer; true if it ran. An item that is listed already stays so.
    pub fn cancel_delayed_work(&self) -> bool {
        let was_armed = !self.is_of_parent() && self.disarm();
        if was_armed {
            self.release();
        }
        was_armed
    }

    /// Stops the item's timer; the PENDING mark is the caller's if it ran.
    pub(super) fn disarm(&self) -> bool {
        let heap = self.armed_in.lock().as_ref().and_then(Weak::upgrade);
        heap.is_some_and(|heap| heap.disarm(&self.timer).is_some())
    }
}

impl Machine {
    /// The queue `events`, made at the first call.
    fn keventd(&self) -> Result<&Workqueue, AllocError> {
        if let Some(queue) = self.keventd.get() {
            return Ok(queue);
        }
        let queue = Workqueue::create(&self.inner, "events", Kind::PerCpu)?;
        // Another thread may have been first; this queue then goes again.
        Ok(self.keventd.get_or_init(|| queue))
    }

    /// Queues an item on `events`; see [`Workqueue::queue_work`].
    ///
    /// # Errors
    /// If `events` cannot be made.
    pub fn schedule_work(&self, work: &Arc<Work>) -> Result<bool, AllocError> {
        Ok(self.keventd()?.queue_work(work))
    }

    /// Queues an item on `events` once the time has passed; see
    /// [`Workqueue::queue_delayed_work`].
    ///
    /// # Errors
    /// If `events` or the timer thread cannot be made.
    pub fn schedule_delayed_work(
        &self,
        work: &Arc<Work>,
        delay: Duration,
    ) -> Result<bool, AllocError> {
        self.keventd()?.queue_delayed_work(work, delay)
    }

    /// Waits for what is queued on `events`, by whomever; see [`Workqueue::flush_workqueue`].
    ///
    /// # Errors
    /// As there.
    pub fn flush_scheduled_work(&self) -> Result<(), WaitError> {
        self.keventd
            .get()
            .map_or(Ok(()), Workqueue::flush_workqueue)
    }

    /// Runs `f` on each online CPU, through `events`, and waits. In a run of `events`, it is called
    /// directly for that run's CPU.
    ///
    /// # Errors
    /// If `events` cannot be made.
    pub fn schedule_on_each_cpu(
        &self,
        f: impl Fn() + Send + Sync + 'static,
    ) -> Result<(), AllocError> {
        let (queue, f) = (self.keventd()?, Arc::new(f));
        let own = served_by_caller().filter(|list| list.is_of(&queue.inner));
        let own = own.and_then(|list| list.cpu);
        let item = |cpu| {
            let f = f.clone();
            let work = Work::new("on each CPU", move |_| f());
            // A CPU that leaves just now is left out.
            queue.queue_work_on(cpu, &work).is_ok().then_some(work)
        };
        let online = self.online_cpus();
        let others = online.iter().filter(|&cpu| Some(cpu) != own);
        let items: Vec<_> = others.filter_map(item).collect();
        if own.is_some() {
            f();
        }
        for work in items {
            // The caller is no run of it.
            let _waited = work.flush_work();
        }
        Ok(())
    }

    /// Runs `f` on a CPU, on a thread made for it, and waits for its result. A panic in `f` goes on
    /// in the caller.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the CPU is not online; those of the thread's creation.
    pub fn work_on_cpu<R: Send + 'static>(
        &self,
        cpu: usize,
        f: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<R> {
        if !self.online_cpus().contains(cpu) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{}: CPU {cpu}", Refusal::InvalidCpu),
            ));
        }
        let real = !self.inner.topology.is_simulated();
        let result = Arc::new(Mutex::new(None));
        let answer = result.clone();
        let thread = spawn_quiet("work_for_cpu".to_owned(), STACK_SIZE, move || {
            if real {
                // Fails if the CPU has just left; the function then runs elsewhere.
                let _ignored = cpu::bind_current(&CpuSet::single(cpu));
            }
            *answer.lock() = Some(f());
        })?;
        if let Err(panic) = crate::blocking(|| thread.join()) {
            resume_unwind(panic);
        }
        let result = result.lock().take();
        Ok(result.expect("a thread that did not panic has a result"))
    }
}
