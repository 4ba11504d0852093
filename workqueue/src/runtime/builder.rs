// SPDX-License-Identifier: MIT OR Apache-2.0
//! The settings of a runtime. All constants of the design can be set, so that tests need not wait.

use super::Runtime;
use crate::env::cpus::{AllowedHook, Machine};
use crate::env::topology::{Scope, Topology};
use crate::env::{BhBatch, Config, CreateAttempt, Env, Hooks, PanicInfo};
use crate::error::StartError;
use crate::observe::{Sink, TraceEvent};
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

    /// Uses only these CPUs, as far as the process may. It may be allowed more of them later; see
    /// [`Runtime::refresh_cpus`].
    pub fn cpus(mut self, cpus: CpuSet) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// Gets the allowed CPUs from `hook` instead of the system: for programs with another source,
    /// and for simulated machines whose CPUs come and go. It is called at each look and must not
    /// call the crate.
    pub fn allowed_by(mut self, hook: impl Fn() -> CpuSet + Send + Sync + 'static) -> Self {
        self.allowed_by = Some(Box::new(hook));
        self
    }

    /// Uses a topology of the caller's instead of the machine's.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// Uses a clock that the caller moves.
    pub fn virtual_clock(mut self, clock: Arc<VirtualClock>) -> Self {
        self.clock = Clock::Virtual(clock);
        self
    }

    /// What the names of workers and rescuers begin with (`kworker/`). A short prefix of the program's
    /// own, such as `app/`, tells them from the kernel's and leaves more of the 15 bytes that the kernel
    /// keeps of a name.
    pub fn thread_name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.config.thread_name_prefix = prefix.into();
        // A thread's name ends there.
        self.config.thread_name_prefix.retain(|c| c != '\0');
        self
    }

    /// How many BH items run, and for how long, before their thread yields the CPU (10 items or 2
    /// ms, whichever is first).
    pub fn bh_batch(mut self, items: usize, time: Duration) -> Self {
        self.config.bh_batch = BhBatch { items, time };
        self
    }

    /// Calls `sink` with each trace event. Locks are held: it must not call the crate or block for
    /// long.
    pub fn trace_sink(mut self, sink: impl Fn(&TraceEvent<'_>) + Send + Sync + 'static) -> Self {
        self.sink = Some(Box::new(sink));
        self
    }

    /// Called after an item has panicked, on its worker.
    pub fn on_panic(mut self, hook: impl Fn(&PanicInfo<'_>) + Send + Sync + 'static) -> Self {
        self.hooks.on_panic = Some(Box::new(hook));
        self
    }

    /// Called with the CPUs in use each time they have changed, also by
    /// [`Runtime::set_online_cpus`]. Runs on the monitor thread without a lock, in the order of the
    /// changes. It may enqueue items and must not wait for any.
    pub fn on_cpus_changed(mut self, hook: impl Fn(&CpuSet) + Send + Sync + 'static) -> Self {
        self.hooks.on_cpus_changed = Some(Box::new(hook));
        self
    }

    /// Asks `source` before each creation of a worker or rescuer: for programs with a quota of their
    /// own, and for simulated machines that run out of threads. With an error number the creation
    /// fails; a slow source makes it slow.
    pub fn threads_by(
        mut self,
        source: impl Fn(&CreateAttempt) -> Result<(), i32> + Send + Sync + 'static,
    ) -> Self {
        self.hooks.threads_by = Some(Box::new(source));
        self
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

    /// Starts the process's runtime, [`Runtime::global`], with these settings. To be called before
    /// its first use: then it runs already, and the error is [`StartError::AlreadyStarted`].
    ///
    /// ```
    /// let runtime = workqueue::Runtime::builder().stack_size(256 << 10).start_global()?;
    /// assert!(std::ptr::eq(runtime, workqueue::Runtime::global()));
    /// # Ok::<(), workqueue::StartError>(())
    /// ```
    pub fn start_global(self) -> Result<&'static Runtime, StartError> {
        if Runtime::has_global() || !self.start()?.make_global() {
            return Err(StartError::AlreadyStarted);
        }
        Ok(Runtime::global())
    }
}

/// Settings that are stored as they are given.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        impl RuntimeBuilder {
            $($(#[$doc])*
            pub fn $name(mut self, value: $type) -> Self {
                self.config.$name = value;
                self
            })*
        }
    };
}

settings! {
    /// How long a surplus worker stays idle before it ends (300 s).
    idle_timeout: Duration;
    /// How long a worker creation may take before rescuers are called (10 ms).
    mayday_initial: Duration;
    /// How often rescuers are called after that (100 ms); zero for never.
    mayday_interval: Duration;
    /// How long to wait after a failed worker creation (1 s).
    create_cooldown: Duration;
    /// How often to check if the process's CPUs have changed (1 s); zero for never.
    cpu_poll: Duration;
    /// How often to check if a run sleeps undeclared, while items wait behind it (1 ms); zero for
    /// never. Off on a virtual clock.
    sample_period: Duration;
    /// How much CPU time a run may use before items behind it may start (10 ms); zero for no limit.
    /// Found by sampling, or at the end of a run behind which nothing waited. See
    /// [`Runtime::set_cpu_intensive_thresh`].
    cpu_intensive_thresh: Duration;
    /// How long a pool may have items waiting without progress before that is reported (30 s); zero
    /// for no limit. Also the period of the check; see [`Runtime::set_watchdog_thresh`].
    watchdog_thresh: Duration;
    /// Ends the process at the nth check that finds a pool stalled (0: never).
    watchdog_abort_at: u32;
    /// Ends the process once a stall has lasted this long (zero: never).
    watchdog_abort_after: Duration;
    /// The number of runs of one function over [`RuntimeBuilder::cpu_intensive_thresh`] at which a
    /// warning is logged (the 4th, then the 5th, 7th, 11th and so on); 0 for never.
    cpu_intensive_warn: u64;
    /// Measures the CPU time of each run, and finds runs that used too much also if nothing waited
    /// behind them (yes). Costs some clock readings.
    cpu_accounting: bool;
    /// Makes the start fail if a thread cannot have its nice value (no: it runs at the process's).
    strict_priority: bool;
    /// Makes POWER_EFFICIENT queues unbound (no).
    power_efficient: bool;
    /// Distributes items of unbound queues without a requested CPU round-robin (no: they prefer the
    /// enqueuer's CPU).
    force_rr_cpu: bool;
    /// Makes a panic in an item end the process (no: it ends the run).
    abort_on_panic: bool;
    /// The affinity scope of queues that do not ask for one (cache_shard).
    default_scope: Scope;
    /// The stack of each thread in bytes (2 MiB).
    stack_size: usize;
}

impl Runtime {
    /// How much CPU time a run may use before items behind it may start; zero for no limit.
    pub fn cpu_intensive_thresh(&self) -> Duration {
        self.inner.env.cpu_intensive_thresh()
    }

    /// Changes that time, also for runs that have begun. Without a limit before, the ends of runs
    /// are looked at from each worker's next batch on.
    pub fn set_cpu_intensive_thresh(&self, thresh: Duration) {
        self.inner.env.set_cpu_intensive_thresh(thresh);
    }
}
