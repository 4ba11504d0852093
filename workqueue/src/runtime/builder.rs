// SPDX-License-Identifier: MIT OR Apache-2.0
//! The settings of a runtime. All constants of the design can be set, so that tests need not wait.

use super::Runtime;
#[cfg(feature = "test-hooks")]
use crate::env::config::CreateAttempt;
#[cfg(test)]
use crate::env::config::CreateHook;
use crate::env::config::{BhBatch, Config, Hooks, PanicInfo};
use crate::env::cpus::{AllowedHook, Machine};
use crate::env::topology::{Scope, Topology};
use crate::env::Env;
use crate::error::StartError;
use crate::observe::trace::{Sink, TraceEvent};
use crate::sys::clock::{Clock, VirtualClock};
use crate::sys::cpuset::CpuSet;
use std::sync::Arc;
use std::time::Duration;

/// Sets up a [`Runtime`].
#[must_use = "a builder does nothing until it is built"]
#[derive(Default)]
pub struct RuntimeBuilder {
    config: Config,
    hooks: Hooks,
    sink: Option<Sink>,
    clock: Clock,
    cpus: Option<CpuSet>,
    allowed_by: Option<AllowedHook>,
    topology: Option<Topology>,
}

impl std::fmt::Debug for RuntimeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl RuntimeBuilder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Uses only these CPUs, as far as the process may. It may come to be allowed more of them
    /// later; see [`Runtime::refresh_cpus`].
    pub fn cpus(mut self, cpus: CpuSet) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// Asks `hook` which CPUs may be used, instead of the system about the runtime's own thread: for
    /// programs that are told by somebody else, and for made-up machines whose CPUs come and go.
    /// It is asked at each look and must not call the crate.
    pub fn allowed_by(mut self, hook: impl Fn() -> CpuSet + Send + Sync + 'static) -> Self {
        self.allowed_by = Some(Box::new(hook));
        self
    }

    /// Uses a topology of the caller's instead of the machine's.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// Lives by a clock that the caller moves.
    pub fn virtual_clock(mut self, clock: Arc<VirtualClock>) -> Self {
        self.clock = Clock::Virtual(clock);
        self
    }

    /// How long a surplus worker stays idle before it is let go (300 s).
    pub fn idle_timeout(mut self, d: Duration) -> Self {
        self.config.idle_timeout = d;
        self
    }

    /// How long a worker creation may take before rescuers are called (10 ms).
    pub fn mayday_initial(mut self, d: Duration) -> Self {
        self.config.mayday_initial = d;
        self
    }

    /// How often rescuers are called after that (100 ms).
    pub fn mayday_interval(mut self, d: Duration) -> Self {
        self.config.mayday_interval = d;
        self
    }

    /// How long to wait after a failed worker creation (1 s).
    pub fn create_cooldown(mut self, d: Duration) -> Self {
        self.config.create_cooldown = d;
        self
    }

    /// How often to look whether the process's CPUs have changed (1 s).
    pub fn cpu_poll(mut self, d: Duration) -> Self {
        self.config.cpu_poll = d;
        self
    }

    /// How often to look whether a run sleeps without having said so, while items wait behind it
    /// (1 ms); zero for never. Never done on a virtual clock.
    pub fn sample_period(mut self, d: Duration) -> Self {
        self.config.sample_period = d;
        self
    }

    /// How much CPU time a run may use before items behind it are let go ahead (10 ms); zero for
    /// any. Found out by sampling, or at the end of a run behind which nothing waited.
    pub fn cpu_intensive_thresh(mut self, d: Duration) -> Self {
        self.config.cpu_intensive_thresh = d;
        self
    }

    /// How long a pool may have items waiting without moving before that is reported (30 s); zero
    /// for ever. Also how often it is looked; see [`Runtime::set_watchdog_thresh`].
    pub fn watchdog_thresh(mut self, d: Duration) -> Self {
        self.config.watchdog_thresh = d;
        self
    }

    /// Ends the process at the nth look that finds a pool stalled (0: never).
    pub fn watchdog_abort_at(mut self, nth: u32) -> Self {
        self.config.watchdog_abort_at = nth;
        self
    }

    /// Ends the process once a stall has been seen to last so long (zero: never).
    pub fn watchdog_abort_after(mut self, d: Duration) -> Self {
        self.config.watchdog_abort_after = d;
        self
    }

    /// From which run on that used more than [`RuntimeBuilder::cpu_intensive_thresh`] a function is
    /// warned of (the 4th, then the 5th, 7th, 11th and so on); 0 for never.
    pub fn cpu_intensive_warn(mut self, violations: u64) -> Self {
        self.config.cpu_intensive_warn = violations;
        self
    }

    /// Whether the CPU time of each run is measured, and runs that used too much of it are found
    /// also where nothing waited behind them (yes); it costs some clock readings.
    pub fn cpu_accounting(mut self, on: bool) -> Self {
        self.config.cpu_accounting = on;
        self
    }

    /// Whether start fails if a thread cannot have its nice value (no: it runs at the process's).
    pub fn strict_priority(mut self, on: bool) -> Self {
        self.config.strict_priority = on;
        self
    }

    /// Whether POWER_EFFICIENT queues become unbound (no).
    pub fn power_efficient(mut self, on: bool) -> Self {
        self.config.power_efficient = on;
        self
    }

    /// Whether items of unbound queues without a CPU go round-robin over the CPUs (no: they prefer
    /// the enqueuer's).
    pub fn force_rr_cpu(mut self, on: bool) -> Self {
        self.config.force_rr_cpu = on;
        self
    }

    /// Whether a panic in an item ends the process (no: it ends the run).
    pub fn abort_on_panic(mut self, on: bool) -> Self {
        self.config.abort_on_panic = on;
        self
    }

    /// The affinity scope of queues that do not ask for one (cache_shard).
    pub fn default_scope(mut self, scope: Scope) -> Self {
        self.config.default_scope = scope;
        self
    }

    /// How many BH items are run, and for how long, before their thread lets others have the CPU
    /// (10 items or 2 ms, whichever is first).
    pub fn bh_batch(mut self, items: usize, time: Duration) -> Self {
        self.config.bh_batch = BhBatch { items, time };
        self
    }

    /// The stack of each thread in bytes (2 MiB).
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.config.stack_size = bytes;
        self
    }

    /// Follows the trace events. The sink is called with locks held: it must not call the crate,
    /// nor block for long.
    pub fn trace_sink(mut self, sink: impl Fn(&TraceEvent<'_>) + Send + Sync + 'static) -> Self {
        self.sink = Some(Box::new(sink));
        self
    }

    /// Called after an item has panicked, on its worker.
    pub fn on_panic(mut self, hook: impl Fn(&PanicInfo<'_>) + Send + Sync + 'static) -> Self {
        self.hooks.on_panic = Some(Box::new(hook));
        self
    }

    /// Called with the CPUs in use each time they have changed: some have left or returned, or were
    /// taken out or put back with [`Runtime::set_online_cpus`]. On the runtime's own thread, with no
    /// lock held, in the order of the changes; items may be enqueued from it, and nothing waited for.
    pub fn on_cpus_changed(mut self, hook: impl Fn(&CpuSet) + Send + Sync + 'static) -> Self {
        self.hooks.on_cpus_changed = Some(Box::new(hook));
        self
    }

    /// Called before each creation of a worker or rescuer; an error number makes it fail, and
    /// taking long makes it slow.
    #[cfg(feature = "test-hooks")]
    pub fn on_create_worker(
        mut self,
        hook: impl Fn(&CreateAttempt) -> Result<(), i32> + Send + Sync + 'static,
    ) -> Self {
        self.hooks.on_create_worker = Some(Box::new(hook));
        self
    }

    #[cfg(test)]
    pub(crate) fn set_create_hook(&mut self, hook: CreateHook) {
        self.hooks.on_create_worker = Some(hook);
    }

    /// The first phase: queues can be made and items enqueued, nothing runs yet.
    pub fn build_early(self) -> Runtime {
        let machine = Machine::new(self.topology, self.cpus, self.allowed_by);
        let (hooks, sink) = (self.hooks, self.sink);
        Runtime::assemble(Env::new(self.config, hooks, sink, self.clock, machine))
    }

    /// Both phases.
    pub fn start(self) -> Result<Runtime, StartError> {
        let runtime = self.build_early();
        runtime.start()?;
        Ok(runtime)
    }
}
