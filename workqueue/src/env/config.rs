// SPDX-License-Identifier: MIT OR Apache-2.0
//! The settings of a runtime, and the hooks that a program may set.
//!
//! Set with [`crate::RuntimeBuilder`]; read everywhere.

use super::topology::Scope;
use crate::sys::cpuset::CpuSet;
use crate::sys::user_code;
use std::any::Any;
use std::fmt;
use std::time::Duration;

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

/// One attempt to create a thread, as the hook sees it.
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

pub(crate) type CreateHook = Box<dyn Fn(&CreateAttempt) -> Result<(), i32> + Send + Sync>;

pub(crate) type PanicHook = Box<dyn Fn(&PanicInfo<'_>) + Send + Sync>;

pub(crate) type CpusHook = Box<dyn Fn(&CpuSet) + Send + Sync>;

/// The hooks of one runtime.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) on_create_worker: Option<CreateHook>,
    pub(crate) on_panic: Option<PanicHook>,
    pub(crate) on_cpus_changed: Option<CpusHook>,
}

impl Hooks {
    /// Called just before each real creation of a worker or rescuer.
    pub(crate) fn before_create(&self, attempt: &CreateAttempt) -> Result<(), i32> {
        self.on_create_worker.as_ref().map_or(Ok(()), |hook| {
            user_code::call(|| hook(attempt)).unwrap_or(Err(libc::EAGAIN))
        })
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}
