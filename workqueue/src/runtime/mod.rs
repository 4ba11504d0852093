// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runtime: everything that is global in the kernel, as an object.
//!
//! Made by [`builder::RuntimeBuilder`] in two phases: early (queues and items, no thread), then
//! started. Queues are made from it ([`crate::wq`]); [`Runtime::shutdown`] ends it. Kernel
//! counterparts: `workqueue_init_early`, `workqueue_init`.

pub(crate) mod affinity;

pub(crate) mod builder;

pub(crate) mod cpus;

pub(crate) mod hooks;

pub(crate) mod machine;

pub(crate) mod monitor;

mod phases;

use crate::error::WaitError;
use crate::observe::ring;
use crate::observe::trace::{Sink, TraceEvent};
use crate::observe::watchdog::Watchdog;
use crate::pool::bh::BhThreads;
use crate::pool::hog::Hogs;
use crate::pool::registry::UnboundPools;
use crate::pool::worker;
use crate::pool::{context, Pool, TimerEvent};
use crate::sys::clock::{Clock, VirtualClock};
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::{Condvar, Mutex};
use crate::sys::timer::Timers;
use crate::sys::turn::{Invitation, Turns};
use crate::wq::builder::QueueBuilder;
use crate::wq::system::SystemQueues;
use crate::wq::topology::Topology;
use crate::wq::{OwnedQueue, QueueInner};
use affinity::Affinity;
use builder::{Config, RuntimeBuilder};
use cpus::Cpus;
use hooks::{Hooks, PanicInfo};
use machine::Machine;
use monitor::Monitor;
use std::any::Any;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::{fmt, io};

const EARLY: u8 = 0;
const ONLINE: u8 = 1;
const STOPPED: u8 = 2;

/// The pools of a CPU: the two standard ones, and those of BH queues.
#[derive(Clone, Debug)]
pub(crate) struct CpuPools {
    pub(crate) normal: Arc<Pool>,
    pub(crate) highpri: Arc<Pool>,
    pub(crate) bh: Arc<Pool>,
    pub(crate) bh_highpri: Arc<Pool>,
}

impl CpuPools {
    pub(crate) fn all(&self) -> [Arc<Pool>; 4] {
        [&self.normal, &self.highpri, &self.bh, &self.bh_highpri].map(Arc::clone)
    }
}

/// What the runtime, its queues and its pools share.
pub(crate) struct RuntimeInner {
    pub(crate) config: Config, // I
    pub(crate) hooks: Hooks,   // I
    pub(crate) clock: Clock,   // I
    pub(crate) cpus: Cpus,
    pub(crate) affinity: Affinity,
    pub(crate) timers: Timers<TimerEvent>,
    pub(crate) monitor: Monitor,
    pub(crate) watchdog: Watchdog,
    pub(crate) unbound: UnboundPools,
    pub(crate) bh: BhThreads,
    pub(crate) hogs: Hogs,
    /// Held while the pools of a queue are chosen, so that choice and installation are one step.
    pub(crate) attrs_lock: Mutex<()>, // P0
    pub(crate) frozen: AtomicBool, // written under `attrs_lock`
    trace_sink: Option<Sink>,      // I
    phase: AtomicU8,               // A
    forks: u32,                    // I: the fork generation the threads belong to
    next_cpu: AtomicUsize,         // A
    percpu: Mutex<Vec<(usize, CpuPools)>>,
    queues: Mutex<Vec<Arc<QueueInner>>>,
    queue_gone: Condvar,
    helpers: Mutex<Vec<JoinHandle<()>>>,
    warned: Mutex<HashSet<(&'static str, i32)>>,
    /// Queues and functions whose waits have been warned of.
    cautioned: Mutex<HashSet<(String, &'static str)>>,
}

impl fmt::Debug for RuntimeInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl RuntimeInner {
    pub(crate) fn is_online(&self) -> bool {
        // Acquire pairs with the Release in `start`: whoever sees the phase sees the threads.
        self.phase.load(Ordering::Acquire) == ONLINE
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.phase.load(Ordering::Acquire) == STOPPED
    }

    /// Asked before anything that takes a lock: do the threads of this runtime exist here, or is
    /// this the child of a fork?
    pub(crate) fn is_in_forked_child(&self) -> bool {
        cpu::fork_generation() != self.forks
    }

    pub(crate) fn require_online(&self) -> Result<(), WaitError> {
        if self.is_in_forked_child() || self.is_stopped() {
            return Err(WaitError::Destroyed);
        }
        if self.is_online() {
            Ok(())
        } else {
            Err(WaitError::NotOnline)
        }
    }

    /// Tells whoever follows the events. Nobody does: one relaxed load.
    pub(crate) fn trace<'a>(&self, event: impl FnOnce() -> TraceEvent<'a>) {
        if !ring::anyone_listens() {
            return;
        }
        let event = event();
        if let Some(sink) = &self.trace_sink {
            sink(&event);
        }
        ring::record_event(&event);
    }

    /// Does anyone follow the trace events?
    pub(crate) fn is_traced(&self) -> bool {
        ring::anyone_listens() && (self.trace_sink.is_some() || ring::is_on())
    }

    /// The CPUs in use at present.
    pub(crate) fn online_cpus(&self) -> CpuSet {
        self.cpus.online()
    }

    pub(crate) fn is_online_cpu(&self, cpu: usize) -> bool {
        self.cpus.is_online(cpu)
    }

    /// The CPU the caller counts as running on.
    pub(crate) fn this_cpu(&self) -> usize {
        if !self.cpus.is_simulated() {
            return cpu::current_cpu();
        }
        // Simulated CPUs bind nobody, so a worker's own word counts.
        context::worker_cpu().unwrap_or_else(|| match self.clock.turns() {
            // Where the system has put the thread must not matter.
            Some(_) => self.topology().possible().iter().next().unwrap_or(0),
            None => self.topology().current_cpu(),
        })
    }

    /// One CPU of the set after the other; of all CPUs, if the set is empty.
    pub(crate) fn next_cpu_of(&self, set: &CpuSet) -> usize {
        let last = self.next_cpu.load(Ordering::Relaxed);
        let next = set
            .next_after(last)
            .or_else(|| self.cpus.known().next_after(last))
            .unwrap_or(0);
        self.next_cpu.store(next, Ordering::Relaxed);
        next
    }

    pub(crate) fn spawn_thread(
        &self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let invitation = self.clock.turns().map(Turns::invite);
        worker::spawn_quiet(name, self.config.stack_size, move || {
            let _seated = invitation.map(Invitation::accept);
            body();
        })
    }

    pub(crate) fn pools_of(&self, cpu: usize) -> Option<CpuPools> {
        self.percpu
            .lock()
            .iter()
            .find(|(c, _)| *c == cpu)
            .map(|(_, pools)| pools.clone())
    }

    pub(crate) fn percpu_pools(&self) -> Vec<Arc<Pool>> {
        self.percpu
            .lock()
            .iter()
            .flat_map(|(_, pools)| pools.all())
            .collect()
    }

    pub(crate) fn all_pools(&self) -> Vec<Arc<Pool>> {
        let mut pools = self.percpu_pools();
        pools.extend(self.unbound.all());
        pools
    }

    pub(crate) fn add_queue(&self, queue: &Arc<QueueInner>) {
        self.queues.lock().push(queue.clone());
    }

    pub(crate) fn remove_queue(&self, queue: &QueueInner) {
        self.queues
            .lock()
            .retain(|q| !std::ptr::eq(Arc::as_ptr(q), queue));
        self.queue_gone.notify_all();
    }

    pub(crate) fn queues(&self) -> Vec<Arc<QueueInner>> {
        self.queues.lock().clone()
    }

    /// True the first time it is asked with these words.
    pub(crate) fn first_time(&self, what: &'static str, detail: i32) -> bool {
        self.warned.lock().insert((what, detail))
    }

    /// True the first time this function waits for this queue in a way to be warned of.
    pub(crate) fn first_caution(&self, queue: &str, function: &'static str) -> bool {
        self.cautioned.lock().insert((queue.to_owned(), function))
    }

    pub(crate) fn warn_create_failed(&self, pool: &Pool, errno: i32) {
        if self.first_time("create", errno) {
            let thread = pool.worker_name(0);
            let error = io::Error::from_raw_os_error(errno);
            log::warn!("workqueue: cannot create worker {thread}: {error}; will go on trying");
        }
    }

    pub(crate) fn warn_nice_denied(&self, nice: i32) {
        if self.first_time("nice", 0) {
            log::warn!("workqueue: no right to run threads at nice {nice}, they run at the process's; CAP_SYS_NICE or RLIMIT_NICE is needed");
        }
    }

    pub(crate) fn item_panicked(
        &self,
        workqueue: &str,
        function: &'static str,
        payload: Box<dyn Any + Send>,
    ) {
        log::error!("workqueue: {function} on {workqueue} panicked");
        if self.config.abort_on_panic {
            std::process::abort();
        }
        // A hook or a payload that panics in turn must not take the worker along.
        let _second_panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if let Some(hook) = &self.hooks.on_panic {
                hook(&PanicInfo {
                    workqueue,
                    function,
                    payload: &*payload,
                });
            }
            drop(payload);
        }));
    }
}

/// All global state of a set of workqueues. Programs use [`Runtime::global`]; tests and programs
/// with several independent sets make their own.
///
/// Dropping it is [`Runtime::shutdown`].
#[derive(Debug)]
pub struct Runtime {
    pub(crate) inner: Arc<RuntimeInner>,
    system: SystemQueues,
}

impl Runtime {
    /// Begins a runtime of its own.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::new()
    }

    /// The process's runtime, started at the first call with default settings.
    ///
    /// # Panics
    /// If its first threads cannot be created.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Runtime> = OnceLock::new();
        GLOBAL.get_or_init(|| match Self::builder().start() {
            Ok(runtime) => runtime,
            Err(e) => panic!("the process's workqueue runtime cannot start: {e}"),
        })
    }

    pub(crate) fn assemble(
        config: Config,
        hooks: Hooks,
        sink: Option<Sink>,
        clock: Clock,
        machine: Machine,
    ) -> Self {
        cpu::watch_forks();
        if sink.is_some() {
            ring::add_callback();
        }
        let monitor = Monitor::new(&clock, config.sample_period);
        let cpus = Cpus::new(machine);
        let (known, end) = (cpus.known(), cpus.end());
        let inner = Arc::new(RuntimeInner {
            affinity: Affinity::new(&known, end, config.default_scope),
            cpus,
            timers: Timers::new(&clock),
            monitor,
            watchdog: Watchdog::new(config.watchdog_thresh, end),
            unbound: UnboundPools::default(),
            bh: BhThreads::default(),
            hogs: Hogs::default(),
            attrs_lock: Mutex::new(()),
            frozen: AtomicBool::new(false),
            trace_sink: sink,
            phase: AtomicU8::new(EARLY),
            forks: cpu::fork_generation(),
            next_cpu: AtomicUsize::new(0),
            percpu: Mutex::new(Vec::new()),
            queues: Mutex::new(Vec::new()),
            queue_gone: Condvar::new(),
            helpers: Mutex::new(Vec::new()),
            warned: Mutex::new(HashSet::new()),
            cautioned: Mutex::new(HashSet::new()),
            config,
            hooks,
            clock,
        });
        known.iter().for_each(|cpu| inner.add_pools(cpu));
        let system = SystemQueues::new(&inner);
        Self { inner, system }
    }

    /// A queue of this runtime, to be configured.
    pub fn queue(&self, name: &str) -> QueueBuilder {
        QueueBuilder::new(&self.inner, name)
    }

    /// An ordered queue: one item at a time, in the order they were enqueued.
    pub fn ordered(
        &self,
        name: &str,
        flags: crate::Flags,
    ) -> Result<OwnedQueue, crate::AllocError> {
        QueueBuilder::new(&self.inner, name)
            .flags(flags)
            .ordered()
            .build()
    }

    /// The ready-made queues.
    pub(crate) fn system_queues(&self) -> &SystemQueues {
        &self.system
    }

    /// The CPUs this runtime has met so far and how they belong together.
    pub fn topology(&self) -> Arc<Topology> {
        self.inner.cpus.shown_topology()
    }

    /// The virtual clock, if the runtime lives by one.
    pub fn virtual_clock(&self) -> Option<&Arc<VirtualClock>> {
        match &self.inner.clock {
            Clock::Real => None,
            Clock::Virtual(v) => Some(v),
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            log::warn!("workqueue: the runtime is left running: {e}");
        }
    }
}
