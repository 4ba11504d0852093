// SPDX-License-Identifier: MIT OR Apache-2.0
//! One CPU's share of a queue: a list, and the one thread that works it off.
//!
//! [`super::workqueue`] hands items in, [`super::work`] the barriers of those who wait. Kernel
//! counterparts: `struct cpu_workqueue_struct`, `worker_thread`, `run_workqueue`.

use super::work::Work;
use super::workqueue::{Kind, QueueInner};
use super::{Era, Event, MachineInner};
use crate::sys::call_user_code;
use crate::sys::cpu::{self, errno_of, spawn_quiet};
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::{Completion, Condvar, Mutex};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, OnceLock, Weak};
use std::thread::JoinHandle;

/// The priority of the threads of a real-time queue.
const FIFO_PRIORITY: i32 = 99;
/// The nice value of all other threads in the earlier era.
const FORMER_NICE: i32 = -5;
/// Nested runs of one list deeper than this are warned about.
const RECURSION_LIMIT: u32 = 3;
pub(super) const STACK_SIZE: usize = 2 << 20;

/// What waits on a list.
#[derive(Debug)]
pub(super) enum Entry {
    Item(Arc<Work>),
    /// A thread waits for what is in front of it.
    Barrier(Arc<Completion>),
}

/// What the list's lock guards.
#[derive(Debug, Default)]
pub(super) struct ListState {
    pub(super) list: VecDeque<Entry>,
    /// The item that runs now; in nested runs the innermost one.
    pub(super) current: Option<Arc<Work>>,
    /// How often the list is being worked off at this moment: more than once if it flushes itself.
    run_depth: u32,
    /// The thread exists and takes items.
    pub(super) served: bool,
    /// The thread shall end once the list is empty.
    stop: bool,
    tid: i32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct CpuWorkqueue {
    pub(super) machine: Arc<MachineInner>, // I
    queue: Weak<QueueInner>,               // I
    kind: Kind,                            // I
    pub(super) cpu: Option<usize>,         // I: None for the list of a singlethread queue
    pub(super) thread_name: String,        // I
    state: Mutex<ListState>,               // the list's own lock, a leaf
    more_work: Condvar,                    // with `state`
    thread: Mutex<Option<JoinHandle<()>>>,
}

thread_local! {
    /// The list the calling thread works off.
    static SERVES: RefCell<Option<Arc<CpuWorkqueue>>> = const { RefCell::new(None) };
}

/// The list the caller is the thread of; None on all other threads, and in the child of a fork.
pub(super) fn served_by_caller() -> Option<Arc<CpuWorkqueue>> {
    let own = SERVES.try_with(|s| s.borrow().clone()).ok().flatten();
    own.filter(|list| !list.machine.is_in_forked_child())
}

impl CpuWorkqueue {
    pub(super) fn new(
        machine: &Arc<MachineInner>,
        queue: Weak<QueueInner>,
        name: &str,
        kind: Kind,
        cpu: Option<usize>,
    ) -> Arc<Self> {
        Arc::new(Self {
            machine: machine.clone(),
            queue,
            kind,
            cpu,
            thread_name: cpu.map_or_else(|| name.to_owned(), |cpu| format!("{name}/{cpu}")),
            state: Mutex::default(),
            more_work: Condvar::new(),
            thread: Mutex::new(None),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ListState> {
        self.state.lock()
    }

    /// All lists of the queue this one belongs to; none if the queue has gone.
    pub(super) fn siblings(&self) -> Vec<Arc<Self>> {
        self.queue
            .upgrade()
            .map_or_else(Vec::new, |queue| queue.lists.clone())
    }

    pub(super) fn is_of(&self, queue: &Arc<QueueInner>) -> bool {
        self.queue.as_ptr() == Arc::as_ptr(queue)
    }

    pub(super) fn is_served_by_caller(&self) -> bool {
        served_by_caller().is_some_and(|cwq| std::ptr::eq(Arc::as_ptr(&cwq), self))
    }

    pub(super) fn wake(&self) {
        // Under the lock, so that no thread is between its last look and its sleep.
        let _st = self.lock();
        self.more_work.notify_all();
    }

    /// Makes the thread; on return it serves the list.
    pub(super) fn begin_thread(self: &Arc<Self>) -> Result<(), i32> {
        self.machine.before_create(&self.thread_name)?;
        let ready = Arc::new((Completion::new(), OnceLock::new()));
        let (own, told) = (self.clone(), ready.clone());
        let body = move || {
            let outcome = own.arrive();
            let arrived = outcome.is_ok();
            let _ignored = told.1.set(outcome);
            told.0.complete();
            if arrived {
                own.worker_thread();
            }
        };
        let handle =
            spawn_quiet(self.thread_name.clone(), STACK_SIZE, body).map_err(|e| errno_of(&e))?;
        ready.0.wait();
        let outcome = ready.1.get().copied().unwrap_or(Ok(()));
        if outcome.is_err() {
            let _ignored = handle.join();
            return outcome;
        }
        *self.thread.lock() = Some(handle);
        Ok(())
    }

    /// Sets the new thread's name, priority and CPU, and marks its list as served.
    fn arrive(self: &Arc<Self>) -> Result<(), i32> {
        cpu::set_current_name(&self.thread_name);
        if self.kind == Kind::RealTime {
            cpu::set_current_fifo(FIFO_PRIORITY).map_err(|e| errno_of(&e))?;
        } else if self.machine.era == Era::Before2_6_30
            && cpu::set_current_nice(FORMER_NICE).is_err()
        {
            log::warn!(
                "workqueue: legacy: no right to run {} at nice {FORMER_NICE}",
                self.thread_name
            );
        }
        if let (Some(own), false) = (self.cpu, self.machine.topology.is_simulated()) {
            if let Err(e) = cpu::bind_current(&CpuSet::single(own)) {
                log::debug!("workqueue: legacy: cannot bind {}: {e}", self.thread_name);
            }
        }
        SERVES.with(|s| *s.borrow_mut() = Some(self.clone()));
        let tid = cpu::current_tid();
        self.machine.trace(&Event::Creation {
            thread: &self.thread_name,
            tid,
            cpu: self.cpu,
        });
        let mut st = self.lock();
        st.tid = tid;
        st.stop = false;
        st.served = true;
        Ok(())
    }

    /// The life of the thread.
    fn worker_thread(self: Arc<Self>) {
        loop {
            let mut st = self.lock();
            while st.list.is_empty() && !st.stop {
                st = self.more_work.wait(st);
            }
            if st.list.is_empty() {
                // Under the lock of the last look, so that no item joins a list without a thread.
                st.served = false;
                break;
            }
            drop(st);
            self.run_workqueue();
        }
        self.machine.trace(&Event::Destruction {
            thread: &self.thread_name,
        });
        SERVES.with(|s| *s.borrow_mut() = None);
    }

    /// Works the list off until it is empty. In the earlier era a run that flushes its own queue
    /// comes here a second time.
    /// # Context: the list's own thread.
    pub(super) fn run_workqueue(&self) {
        let mut st = self.lock();
        st.run_depth += 1;
        if st.run_depth > RECURSION_LIMIT {
            let depth = st.run_depth;
            log::warn!(
                "workqueue: legacy: {}: recursion depth exceeded: {depth}",
                self.thread_name
            );
        }
        loop {
            while self.kind == Kind::Freezeable && self.machine.is_frozen() {
                st = self.more_work.wait(st);
            }
            match st.list.pop_front() {
                None => break,
                Some(Entry::Barrier(done)) => done.complete(),
                Some(Entry::Item(work)) => st = self.run_one(st, work),
            }
        }
        st.run_depth -= 1;
    }

    fn run_one<'a>(
        &'a self,
        mut st: MutexGuard<'a, ListState>,
        work: Arc<Work>,
    ) -> MutexGuard<'a, ListState> {
        let outer = st.current.replace(work.clone());
        drop(st);
        self.machine.trace(&Event::Execution {
            thread: &self.thread_name,
            work: work.name(),
        });
        // From here on the item may be queued again, also on another CPU: nothing keeps it from
        // running there beside this run.
        work.release();
        if call_user_code(|| work.call()).is_none() {
            log::error!(
                "workqueue: legacy: {} on {} panicked",
                work.name(),
                self.thread_name
            );
        }
        let mut st = self.lock();
        let ended = std::mem::replace(&mut st.current, outer);
        drop(st);
        // Without the lock: either may be the last reference, and the closure's drop is the
        // caller's code.
        let _ignored = call_user_code(|| drop((ended, work)));
        self.lock()
    }

    /// Puts an item at the tail; false if no thread serves the list any more.
    /// # Context: PENDING held.
    #[must_use]
    pub(super) fn insert(self: &Arc<Self>, work: &Arc<Work>) -> bool {
        let mut st = self.lock();
        if !st.served {
            return false;
        }
        work.set_home(self);
        self.machine.trace(&Event::Insertion {
            thread: &self.thread_name,
            work: work.name(),
        });
        st.list.push_back(Entry::Item(work.clone()));
        self.more_work.notify_all();
        true
    }

    /// Inserts a barrier at this place of the list.
    /// # Context: the list's lock held.
    pub(super) fn insert_barrier(&self, st: &mut ListState, at: usize) -> Arc<Completion> {
        let done = Arc::new(Completion::new());
        st.list.insert(at, Entry::Barrier(done.clone()));
        self.more_work.notify_all();
        done
    }

    /// A line about what the list is doing; None if nothing.
    pub(super) fn describe(&self) -> Option<String> {
        let st = self.lock();
        if st.current.is_none() && st.list.is_empty() {
            return None;
        }
        let running = st.current.as_ref().map_or("nothing", |w| w.name());
        let name = |e: &Entry| match e {
            Entry::Item(work) => work.name(),
            Entry::Barrier(_) => "barrier",
        };
        let listed: Vec<_> = st.list.iter().map(name).collect();
        let (thread, listed) = (&self.thread_name, listed.join(", "));
        Some(format!("{thread}: running {running}; listed: {listed}\n"))
    }

    /// Lets the thread run on any CPU, empty its list and end, and waits for it unless the caller is
    /// that thread.
    pub(super) fn end_thread(&self) {
        {
            let mut st = self.lock();
            st.stop = true;
            if st.served && !self.machine.topology.is_simulated() {
                let all = self.machine.topology.possible();
                let _ignored = cpu::bind_thread(st.tid, all, all);
            }
            self.more_work.notify_all();
        }
        let Some(handle) = self.thread.lock().take() else {
            return;
        };
        if !self.is_served_by_caller() {
            let _ignored = handle.join();
        }
    }
}
