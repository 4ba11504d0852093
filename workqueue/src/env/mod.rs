// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every part of a runtime uses: settings, clock, hooks, trace, CPUs, thread affinity, timers
//! and the monitor's jobs. Nothing here knows a pool.
//!
//! Made once by [`crate::runtime`]; pools, queues and the [`crate::runtime::directory`] share it.
//! The settings and hooks are set with [`crate::RuntimeBuilder`] and read everywhere. Some things
//! are logged once, or at growing distances: lacking rights, waits that may never end, functions
//! that use the CPU for too long. Kernel counterparts: the global variables of `workqueue.c`,
//! `pr_warn_once`, `wq_cpu_intensive_report`.

pub(crate) mod topology;

pub(crate) mod cpus;

pub(crate) mod helpers;

use crate::error::{AttrError, WaitError};
use crate::observe::{self, Sink, TraceEvent};
use crate::sys::clock::{after, Clock};
use crate::sys::cpuset::CpuSet;
use crate::sys::run_clock::RunClock;
use crate::sys::sync::Mutex;
use crate::sys::timer::Timers;
use crate::sys::turn_scheduler::{Invitation, TurnScheduler};
use crate::sys::{call_user_code, cpu, log_safely};
use cpus::{Cpus, Machine};
use helpers::{Monitor, TimerEvent, Watchdog};
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicU8, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};
use topology::{Scope, Topology};

/// The settings in force.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) idle_timeout: Duration,
    pub(crate) mayday_initial: Duration,
    pub(crate) mayday_interval: Duration,
    pub(crate) create_cooldown: Duration,
    pub(crate) cpu_poll: Duration,
    pub(crate) sample_period: Duration,
    pub(crate) cpu_intensive_thresh: Duration,
    pub(crate) cpu_intensive_warn: u64,
    pub(crate) watchdog_thresh: Duration,
    pub(crate) watchdog_abort_at: u32,
    pub(crate) watchdog_abort_after: Duration,
    pub(crate) cpu_accounting: bool,
    pub(crate) strict_priority: bool,
    pub(crate) power_efficient: bool,
    pub(crate) force_rr_cpu: bool,
    pub(crate) abort_on_panic: bool,
    pub(crate) default_scope: Scope,
    pub(crate) stack_size: usize,
    pub(crate) bh_batch: BhBatch,
    pub(crate) thread_name_prefix: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(300),
            mayday_initial: Duration::from_millis(10),
            mayday_interval: Duration::from_millis(100),
            create_cooldown: Duration::from_secs(1),
            cpu_poll: Duration::from_secs(1),
            sample_period: Duration::from_millis(1),
            cpu_intensive_thresh: Duration::from_millis(10),
            cpu_intensive_warn: 4,
            watchdog_thresh: Duration::from_secs(30),
            watchdog_abort_at: 0,
            watchdog_abort_after: Duration::ZERO,
            cpu_accounting: true,
            strict_priority: false,
            power_efficient: false,
            force_rr_cpu: false,
            abort_on_panic: false,
            default_scope: Scope::CacheShard,
            stack_size: 2 << 20,
            bh_batch: BhBatch {
                items: 10,
                time: Duration::from_millis(2),
            },
            thread_name_prefix: "kworker/".to_owned(),
        }
    }
}

/// What a BH thread does before it yields the CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BhBatch {
    pub(crate) items: usize,
    pub(crate) time: Duration,
}

/// What a thread is to be created for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolClass {
    /// A worker of a CPU's normal pool.
    PerCpu,
    /// A worker of a CPU's high-priority pool.
    PerCpuHighpri,
    /// A worker of an unbound pool.
    Unbound,
    /// The thread of a CPU's BH items.
    Bh,
    /// A queue's rescuer.
    Rescuer,
}

/// One attempt to create a thread, as [`crate::RuntimeBuilder::threads_by`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct CreateAttempt {
    /// What for.
    pub class: PoolClass,
    /// The pool's CPU, if it has one.
    pub cpu: Option<usize>,
    /// 1 for the first attempt of a manager, then rising.
    pub attempt: u32,
}

/// The argument of the panic hook.
pub struct PanicInfo<'a> {
    /// The queue's name.
    pub workqueue: &'a str,
    /// The item's function.
    pub function: &'static str,
    /// What the item panicked with.
    pub payload: &'a (dyn Any + Send),
}

impl fmt::Debug for PanicInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PanicInfo")
            .field("workqueue", &self.workqueue)
            .field("function", &self.function)
            .finish_non_exhaustive()
    }
}

pub(crate) type ThreadSource = Box<dyn Fn(&CreateAttempt) -> Result<(), i32> + Send + Sync>;

pub(crate) type PanicHook = Box<dyn Fn(&PanicInfo<'_>) + Send + Sync>;

pub(crate) type CpusHook = Box<dyn Fn(&CpuSet) + Send + Sync>;

/// The hooks of one runtime.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) threads_by: Option<ThreadSource>,
    pub(crate) on_panic: Option<PanicHook>,
    pub(crate) on_cpus_changed: Option<CpusHook>,
}

impl Hooks {
    /// Called just before each real creation of a worker or rescuer.
    pub(crate) fn before_create(&self, attempt: &CreateAttempt) -> Result<(), i32> {
        self.threads_by.as_ref().map_or(Ok(()), |source| {
            call_user_code(|| source(attempt)).unwrap_or(Err(libc::EAGAIN))
        })
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}

/// Queues can be made and items enqueued; nothing runs.
pub(crate) const EARLY: u8 = 0;
/// All threads exist.
pub(crate) const ONLINE: u8 = 1;
/// The runtime has ended.
pub(crate) const STOPPED: u8 = 2;

/// See the module.
pub(crate) struct Env {
    pub(crate) config: Config, // I
    pub(crate) hooks: Hooks,   // I
    pub(crate) clock: Clock,   // I
    pub(crate) run_clock: RunClock,
    pub(crate) cpus: Cpus,
    pub(crate) timers: Timers<TimerEvent>,
    pub(crate) monitor: Monitor,
    pub(crate) watchdog: Watchdog,
    warnings: Warnings,
    trace_sink: Option<Sink>, // I
    phase: AtomicU8,          // A: written under P0
    forks: u32,               // I: the fork generation the threads belong to
    next_cpu: AtomicUsize,    // A
    /// How much CPU time a run may use, in nanoseconds; 0 for no limit. Relaxed everywhere: a run
    /// that is judged by the former value is one that ends just now.
    cpu_intensive_thresh: AtomicU64, // A
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Env {
    pub(crate) fn new(
        config: Config,
        hooks: Hooks,
        sink: Option<Sink>,
        clock: Clock,
        machine: Machine,
    ) -> Self {
        cpu::watch_forks();
        if sink.is_some() {
            observe::add_callback();
        }
        let cpus = Cpus::new(machine, config.default_scope);
        Self {
            run_clock: RunClock::new(&clock),
            timers: Timers::new(&clock),
            monitor: Monitor::new(&clock, config.sample_period),
            watchdog: Watchdog::new(config.watchdog_thresh, cpus.end()),
            cpus,
            warnings: Warnings::default(),
            trace_sink: sink,
            phase: AtomicU8::new(EARLY),
            forks: cpu::fork_generation(),
            next_cpu: AtomicUsize::new(0),
            cpu_intensive_thresh: AtomicU64::new(after(0, config.cpu_intensive_thresh)),
            config,
            hooks,
            clock,
        }
    }

    pub(crate) fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    /// # Context: `attrs_lock` held, or the last call on this runtime.
    pub(crate) fn set_phase(&self, phase: u8) {
        // Release pairs with the Acquire in `phase`: a caller that sees the phase sees the threads.
        self.phase.store(phase, Ordering::Release);
    }

    /// True while the threads exist.
    pub(crate) fn is_online(&self) -> bool {
        self.phase() == ONLINE
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.phase() == STOPPED
    }

    /// True in the child of a fork, where the threads of this runtime do not exist. To be tested
    /// before a lock is taken.
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

    pub(crate) fn require_alive(&self) -> Result<(), AttrError> {
        if self.is_in_forked_child() || self.is_stopped() {
            Err(AttrError::Destroyed)
        } else {
            Ok(())
        }
    }

    /// Hands an event to the callback and the records. Costs one relaxed load if there is neither.
    pub(crate) fn trace<'a>(&self, event: impl FnOnce() -> TraceEvent<'a>) {
        if !observe::anyone_listens() {
            return;
        }
        let event = event();
        if let Some(sink) = &self.trace_sink {
            let _ignored = call_user_code(|| sink(&event));
        }
        observe::record_event(&event);
    }

    /// True if an event would go to a callback or a record.
    #[inline]
    pub(crate) fn is_traced(&self) -> bool {
        observe::anyone_listens() && (self.trace_sink.is_some() || observe::is_on())
    }

    /// How much CPU time a run may use before others may begin beside it; zero for no limit.
    pub(crate) fn cpu_intensive_thresh(&self) -> Duration {
        Duration::from_nanos(self.cpu_intensive_thresh.load(Ordering::Relaxed))
    }

    pub(crate) fn set_cpu_intensive_thresh(&self, thresh: Duration) {
        self.cpu_intensive_thresh
            .store(after(0, thresh), Ordering::Relaxed);
    }

    /// True if a run has used more CPU time than it may.
    pub(crate) fn is_cpu_intensive(&self, used: Duration) -> bool {
        let thresh = self.cpu_intensive_thresh();
        !thresh.is_zero() && used >= thresh
    }

    /// The CPUs in use at present.
    pub(crate) fn online_cpus(&self) -> CpuSet {
        self.cpus.online()
    }

    pub(crate) fn is_online_cpu(&self, cpu: usize) -> bool {
        self.cpus.is_online(cpu)
    }

    /// The topology of the known CPUs.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.cpus.topology()
    }

    /// The CPU the caller counts as running on.
    #[inline]
    pub(crate) fn this_cpu(&self) -> usize {
        if !self.cpus.is_simulated() {
            return cpu::current_cpu();
        }
        // Threads are not bound to simulated CPUs, so the worker's own number counts.
        cpu::worker_cpu().unwrap_or_else(|| match self.clock.turns() {
            // The same in every run, wherever the system has put the thread.
            Some(_) => self.topology().possible().iter().next().unwrap_or(0),
            None => self.topology().current_cpu(),
        })
    }

    /// The next CPU of the set, round-robin; of all known CPUs if the set is empty.
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
        let invitation = self.clock.turns().map(TurnScheduler::invite);
        let has_room = self.config.stack_size >= 2 * cpu::TOUCHED_STACK;
        cpu::spawn_quiet(name, self.config.stack_size, move || {
            if has_room {
                cpu::touch_stack();
            }
            let _seated = invitation.map(Invitation::accept);
            body();
        })
    }
}

/// What has been warned of.
#[derive(Debug, Default)]
struct Warnings {
    once: Mutex<HashSet<(&'static str, i32)>>,
    /// Queues and functions whose waits have been warned of.
    waits: Mutex<HashSet<(String, &'static str)>>,
    cpu_intensive: CpuIntensiveCounts,
}

/// Functions that are counted; further ones are not warned of.
const TRACKED: usize = 128;

/// How often each function has used the CPU for too long.
#[derive(Debug, Default)]
struct CpuIntensiveCounts {
    seen: Mutex<HashMap<&'static str, u64>>,
}

/// True for violation number `from`, and then at distances that double.
fn is_worth_a_warning(violation: u64, from: u64) -> bool {
    violation >= from && (violation - from + 1).is_power_of_two()
}

impl CpuIntensiveCounts {
    /// Counts a violation and returns its number; None if the table is full.
    fn count(&self, function: &'static str) -> Option<u64> {
        let mut seen = self.seen.lock();
        if seen.len() >= TRACKED && !seen.contains_key(function) {
            return None;
        }
        let violations = seen.entry(function).or_default();
        *violations += 1;
        Some(*violations)
    }
}

impl Env {
    /// True at the first call with these arguments.
    pub(crate) fn first_time(&self, what: &'static str, detail: i32) -> bool {
        self.warnings.once.lock().insert((what, detail))
    }

    /// True at the first call with this queue and function.
    pub(crate) fn first_wait_warning(&self, queue: &str, function: &'static str) -> bool {
        self.warnings
            .waits
            .lock()
            .insert((queue.to_owned(), function))
    }

    pub(crate) fn warn_nice_denied(&self, nice: i32) {
        if self.first_time("nice", 0) {
            log_safely!(warn, "workqueue: no right to run threads at nice {nice}, they run at the process's; CAP_SYS_NICE or RLIMIT_NICE is needed");
        }
    }

    /// Counts, and perhaps logs, that a run of this function has used the CPU for too long.
    /// # Context: no lock of the crate held.
    pub(crate) fn note_cpu_intensive(&self, function: &'static str) {
        let from = self.config.cpu_intensive_warn;
        if from == 0 {
            return;
        }
        let number = self.warnings.cpu_intensive.count(function);
        if let Some(number) = number.filter(|&n| is_worth_a_warning(n, from)) {
            let limit = self.cpu_intensive_thresh();
            log_safely!(
warn,
                "workqueue: {function} has used the CPU for more than {limit:?} {number} times; an unbound queue would suit it better"
            );
        }
    }

    pub(crate) fn item_panicked(
        &self,
        workqueue: &str,
        function: &'static str,
        payload: Box<dyn Any + Send>,
    ) {
        log_safely!(error, "workqueue: {function} on {workqueue} panicked");
        if self.config.abort_on_panic {
            std::process::abort();
        }
        if let Some(hook) = &self.hooks.on_panic {
            let info = PanicInfo {
                workqueue,
                function,
                payload: &*payload,
            };
            let _ignored = call_user_code(|| hook(&info));
        }
        let _ignored = call_user_code(|| drop(payload));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    #[test]
    fn s05_14_warnings_come_at_distances_that_double() {
        let worth: Vec<u64> = (1..=40).filter(|&n| is_worth_a_warning(n, 4)).collect();
        assert_eq!(worth, [4, 5, 7, 11, 19, 35]);
    }

    #[test]
    fn s05_14_128_functions_are_kept_count_of() {
        let counts = CpuIntensiveCounts::default();
        // Functions have names for ever.
        static NAMES: OnceLock<Vec<String>> = OnceLock::new();
        let names = NAMES.get_or_init(|| (0..130).map(|n| format!("f{n}")).collect());
        for name in &names[..TRACKED] {
            assert_eq!(counts.count(name), Some(1));
        }
        assert_eq!(
            (counts.count(&names[128]), counts.count(&names[129])),
            (None, None)
        );
        assert_eq!(counts.count(&names[0]), Some(2));
    }
}
