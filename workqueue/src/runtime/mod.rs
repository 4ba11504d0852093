// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runtime: everything that is global in the kernel, as an object.
//!
//! Made by [`builder::RuntimeBuilder`] in two phases: early (queues and items, no thread), then
//! started. Queues are made from it ([`crate::wq`]); [`Runtime::shutdown`] ends it. Kernel
//! counterparts: `workqueue_init_early`, `workqueue_init`.

pub(crate) mod directory;

pub(crate) mod builder;

pub(crate) mod lifecycle;

pub(crate) mod cpus;

use crate::env::topology::Topology;
use crate::env::Env;
use crate::error::{AllocError, WaitError};
use crate::pool::registry;
use crate::sys::clock::{Clock, VirtualClock};
use crate::wq::attrs::Flags;
use crate::wq::builder::QueueBuilder;
use crate::wq::system::SystemQueues;
use crate::wq::{OwnedQueue, Queue};
use builder::RuntimeBuilder;
use directory::Directory;
use std::sync::{Arc, OnceLock};

/// All global state of a set of workqueues. Programs use [`Runtime::global`]; tests, and programs
/// with several independent sets, make their own.
///
/// Dropping it is [`Runtime::shutdown`]. Dropped in one of its own runs, it ends by itself as soon
/// as the run is over.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) inner: Arc<Directory>,
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
        let make = || match Self::builder().start() {
            Ok(runtime) => runtime,
            Err(e) => panic!("the process's workqueue runtime cannot start: {e}"),
        };
        GLOBAL
            .get()
            .unwrap_or_else(|| registry::while_forks_wait(|| GLOBAL.get_or_init(make)))
    }

    /// The first phase.
    pub(crate) fn assemble(env: Env) -> Self {
        let inner = Arc::new(Directory::new(env));
        let known = inner.env.cpus.known();
        known.iter().for_each(|cpu| inner.add_pools(cpu));
        let system = SystemQueues::new(&inner);
        Self { inner, system }
    }

    /// A queue of this runtime, to be configured.
    pub fn queue(&self, name: &str) -> QueueBuilder {
        QueueBuilder::new(&self.inner, name)
    }

    /// An ordered queue: one item at a time, in the order they were enqueued.
    pub fn ordered(&self, name: &str, flags: Flags) -> Result<OwnedQueue, AllocError> {
        QueueBuilder::new(&self.inner, name)
            .flags(flags)
            .ordered()
            .build()
    }

    /// The ready-made queues.
    pub(crate) fn system_queues(&self) -> &SystemQueues {
        &self.system
    }

    /// The topology of the CPUs that this runtime has met so far.
    pub fn topology(&self) -> Arc<Topology> {
        let env = &self.inner.env;
        if env.is_in_forked_child() {
            return Arc::new(env.cpus.describe_known());
        }
        env.cpus.shown_topology()
    }

    /// The virtual clock, if the runtime uses one.
    pub fn virtual_clock(&self) -> Option<&Arc<VirtualClock>> {
        match &self.inner.env.clock {
            Clock::Real => None,
            Clock::Virtual(v) => Some(v),
        }
    }
}

impl Queue {
    /// A queue of the process's runtime, to be configured.
    pub fn builder(name: &str) -> QueueBuilder {
        Runtime::global().queue(name)
    }

    /// An ordered queue of the process's runtime: one item at a time, in order.
    pub fn ordered(name: &str, flags: Flags) -> Result<OwnedQueue, AllocError> {
        Runtime::global().ordered(name, flags)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if self.inner.env.is_in_forked_child() {
            // The threads are the parent's.
            return;
        }
        match self.end() {
            Ok(()) => {}
            Err(WaitError::WouldDeadlock) => self.end_by_monitor(),
            Err(e) => log::warn!("workqueue: the runtime is left running: {e}"),
        }
    }
}
