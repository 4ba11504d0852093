// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux kernel's concurrency-managed workqueue in user space.
//!
//! The journey of a work item:
//! 1. a caller holds a [`Queue`] (`wq`) and a pointer to a struct with a [`Work`] field (`work`);
//! 2. the pointer is claimed and finds its CPU, pwq and pool (`enqueue`);
//! 3. the pwq counts it and lets it onto the pool's worklist, or makes it wait (`pwq`);
//! 4. a worker takes it, runs it and counts it out again (`pool`);
//! 5. whoever waits for it is told (`wait`).
//!
//! ```
//! let runtime = workqueue::Runtime::builder().start()?;
//! let queue = runtime.queue("greetings").flags(workqueue::Flags::UNBOUND).build()?;
//! queue.try_spawn(|| println!("hello from a worker"))?;
//! queue.flush()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who may touch what
//!
//! Fields of shared structs carry a letter:
//!
//! | letter | meaning |
//! |---|---|
//! | I | fixed at creation |
//! | L | the lock of a pool (`Pool::lock`); everything in `PoolState` |
//! | W | the lock of a queue (`QueueInner::state`) |
//! | P0 | `RuntimeInner::attrs_lock`: the choice of pools, limits and freezing |
//! | P | the table of unbound pools |
//! | S | the slot of a CPU in a queue: read by an enqueue until it is done |
//! | N | the line of those who wait for a slot of a node (`Budget`) |
//! | M | the mayday list of a rescuer |
//! | R | the seat of a rescuer |
//! | U | the mask of unbound queues |
//! | D | the target of a delayed item |
//! | T | the timer heap |
//! | Q | the inbox of the monitor |
//! | O | what the watchdog goes by |
//! | V | the list of all rings of records, then one ring |
//! | A | atomic; the comment says who writes |
//!
//! Taking L also takes in what lies in the pool's inbox; the bell of a pool (`pool/bell.rs`) is rung
//! with L held and takes no other lock.
//!
//! Locks are taken in this order: P0, P, W, S, D, L, then one of N, M, T, Q, O, V; R comes after
//! P0 alone, U after R or L. No two pool locks are
//! ever held together. A thread is woken, a flush advanced and a node served only after the pool's
//! lock has been let go: the functions that find such a duty return it, and the type says so.
//!
//! # Unsafe code
//!
//! Only in `sys/cpu.rs`, `sys/socket.rs`
//! (system calls), `sys/list.rs` (the intrusive list), `work/raw.rs`,
//! `work/pointer.rs`, `work/offer.rs`, `work/mod.rs` (from pointer to item and back),
//! `work/delayed.rs`, `wait/barrier.rs` (items with more behind the core), and in the places that
//! move listed items: `pool/worker.rs`, `pool/rescuer.rs`, `wait/cancel.rs`, `wq/lifecycle.rs`.

mod error;

mod wq;

mod work;

mod enqueue;

mod pwq;

mod pool;

mod wait;

mod runtime;

mod env;

mod observe;

mod sys;

#[cfg(feature = "tools")]
pub mod tools;

pub mod compat;

pub mod legacy;

#[cfg(all(test, loom))]
mod loom_tests;

/// What the README shows compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Records of what happened when, per thread, and the trace file made of them.
pub mod trace {
    pub use crate::observe::chrome::{save_chrome, write_chrome, ChromeEvent, ChromeWriter, Flow};
    pub use crate::observe::recorder::{moment, now, Moment, Own, Recorder, Recording, Timed};
    pub use crate::observe::trace::{
        drain, emit, is_on, start, start_on, stop, Phase, Record, Text, Value, MAX_ARGS,
    };
}

pub use env::config::{CreateAttempt, PanicInfo, PoolClass};
pub use env::topology::{CpuPlace, Pod, Scope, Topology};
pub use error::{
    AllocError, AttrError, DisableOverflow, EnableUnderflow, EnqueueError, Refusal, StartError,
    WaitError,
};
#[cfg(feature = "control-socket")]
pub use observe::control_socket::ControlSocket;
pub use observe::snapshot::{
    NodeSnapshot, PoolSnapshot, QueueSample, QueueSnapshot, RescuerSnapshot, Sample, ScopeSnapshot,
    Snapshot,
};
pub use observe::trace::TraceEvent;
pub use pool::context::{
    blocking, current, is_rescuer, set_worker_desc, try_then_wait, worker_desc, BlockingGuard,
    CurrentWork,
};
pub use runtime::builder::RuntimeBuilder;
pub use runtime::Runtime;
pub use sys::clock::VirtualClock;
pub use sys::cpuset::CpuSet;
pub use wait::flush_dependency::{reclaim_scope, ReclaimScope};
pub use wait::item::Busy;
pub use work::delayed::{DelayedWork, Modified};
pub use work::pointer::{
    HasDelayedWork, HasWork, RawDelayedWorkItem, RawWorkItem, WorkItem, WorkItemPointer,
};
pub use work::raw::RawWork;
pub use work::Work;
pub use wq::attrs::{Attrs, Flags};
pub use wq::builder::QueueBuilder;
pub use wq::control::Control;
pub use wq::queue::QueueStats;
pub use wq::system::*;
pub use wq::{OwnedQueue, Queue};
