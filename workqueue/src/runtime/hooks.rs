// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls out of the runtime that a program may fill in.
//!
//! Set with the builder; called by [`crate::pool`].

use crate::sys::cpuset::CpuSet;
use std::any::Any;
use std::fmt;

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

/// What an item's panic hook is told.
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
        self.on_create_worker
            .as_ref()
            .map_or(Ok(()), |hook| hook(attempt))
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooks")
    }
}
