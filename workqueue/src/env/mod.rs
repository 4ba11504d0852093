// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every part of a runtime uses: settings, clock, hooks, trace, CPUs, thread affinity, timers
//! and the monitor's jobs. Nothing here knows a pool.
//!
//! Made once by [`crate::runtime`]; pools, queues and the [`crate::runtime::directory`] share it.
//! Kernel counterparts: the global variables of `workqueue.c`.

pub(crate) mod topology;

pub(crate) mod config;

pub(crate) mod cpus;

pub(crate) mod helpers;

pub(crate) mod warnings;

use crate::error::{AttrError, WaitError};
use crate::observe::trace::{self, Sink, TraceEvent};
use crate::sys::clock::{after, Clock};
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::sys::timer::Timers;
use crate::sys::turn_scheduler::{Invitation, TurnScheduler};
use crate::sys::user_code;
use config::{Config, Hooks};
use cpus::{Cpus, Machine};
use helpers::{Monitor, TimerEvent, Watchdog};
use std::sync::atomic::{AtomicU64, AtomicU8, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};
use topology::Topology;
use warnings::Warnings;

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
            trace::add_callback();
        }
        let cpus = Cpus::new(machine, config.default_scope);
        Self {
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
        if !trace::anyone_listens() {
            return;
        }
        let event = event();
        if let Some(sink) = &self.trace_sink {
            let _ignored = user_code::call(|| sink(&event));
        }
        trace::record_event(&event);
    }

    /// True if an event would go to a callback or a record.
    pub(crate) fn is_traced(&self) -> bool {
        trace::anyone_listens() && (self.trace_sink.is_some() || trace::is_on())
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
        cpu::spawn_quiet(name, self.config.stack_size, move || {
            let _seated = invitation.map(Invitation::accept);
            body();
        })
    }
}
