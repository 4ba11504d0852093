// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux kernel's concurrency-managed workqueue in user space.
//!
//! `doc/semantics.md` specifies what the crate does; a number such as 2.13 is a statement there.
//! `doc/design.md` shows why no wake-up is lost.
//!
//! The journey of a work item:
//! 1. a caller holds a [`Queue`] (`wq`) and a pointer to a struct with a [`Work`] field (`work`);
//! 2. the pointer is claimed and finds its CPU, pwq and pool (`enqueue`);
//! 3. the pwq counts the item in and puts it on the pool's worklist, or holds it back (`pwq`);
//! 4. a worker takes it, runs it and counts it out (`pool`);
//! 5. flushers and cancellers wait for it (`wait`).
//!
//! Below all of them is what knows no pool: settings, clock, CPUs, timers (`env`), and what the
//! machine gives (`sys`). Above are the queues and pools of a runtime (`runtime`) and what shows
//! them (`observe`).
//!
//! ```
//! let runtime = workqueue::Runtime::builder().start()?;
//! let queue = runtime.queue("greetings").flags(workqueue::Flags::UNBOUND).build()?;
//! queue.try_spawn(|| println!("hello from a worker"))?;
//! queue.flush()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Locks
//!
//! Fields of shared structs carry a letter:
//!
//! | letter | meaning |
//! |---|---|
//! | I | fixed at creation |
//! | A | atomic; the comment says who writes |
//! | P0 | `Directory::attrs_lock`: the choice of pools, limits and freezing |
//! | P | the table of unbound pools |
//! | W | the lock of a queue (`QueueInner::state`) |
//! | S | the slot of a CPU in a queue: held for reading from before an item is claimed until it is listed |
//! | L | the lock of a pool (`Pool::lock`): everything in `PoolState` |
//! | N | the waiting pwqs of a node (`NrActive`) |
//! | M | the mayday list of a rescuer |
//! | R | the placement of a rescuer |
//! | U | the CPU masks that threads are bound to |
//! | D | the target of a delayed item |
//! | T | the timer heap |
//! | Q | the inbox of the monitor |
//! | O | the settings of the watchdog |
//! | G | the gaps in which the process did not run |
//! | V | the list of all rings of records, then one ring |
//!
//! A lock on the left may be held when one on the right is taken, and in no other order:
//!
//! | order | when |
//! |---|---|
//! | P0, P, L | a pool is found or made for a queue |
//! | P0, W, S | pwqs are installed |
//! | W, L | a queue visits its pools |
//! | S, L | an item is enqueued |
//! | S, D, T | a delayed item is armed, or moved to another time |
//! | L, N | an item takes a slot of its node |
//! | L, M | a rescuer is called |
//! | L, T | a timer of the pool is armed or disarmed |
//! | L, U | a worker is bound |
//! | L, V | an event is recorded |
//! | W, Q | a flush ends and posts a job |
//! | P0, R, U | the unbound mask changes |
//!
//! No two pool locks are held together. Taking L also counts in the items of the pool's inbox, and
//! counts out those that have ended. Only a worker that goes on to its next item leaves both. A
//! thread is woken, a flush advanced and a node served only after L has been released: the
//! functions that find such work return it (`Wake`, `Followup`), and the type is `#[must_use]`.
//!
//! # Unsafe code
//!
//! Only in `sys/cpu.rs` and `sys/socket.rs` (system calls), `work/list.rs` (the intrusive list),
//! `work/pointer.rs`, `work/mod.rs` (from pointer to item and back), `work/delayed.rs`,
//! `wait/item.rs` (items with more behind the core), and where listed items are moved:
//! `pool/run.rs`, `pool/rescuer.rs`, `wq/lifecycle.rs`; and `wq/spawn.rs`, whose scopes lend to
//! closures what they borrow.
//!
//! What lies behind an item's core is reached by a cast of the raw pointer that the item was made
//! from. A reference to the core is good for the core alone, also after a cast.

mod error;

mod wq;

mod work;

mod enqueue;

mod pwq;

mod pool;

mod wait;

mod runtime;

mod observe;

mod env;

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
    pub use crate::observe::{
        drain, emit, is_on, start, start_on, stop, Phase, Record, Text, Value, MAX_ARGS,
    };
}

pub use env::topology::{CpuPlace, Pod, Scope, Topology};
pub use env::{CreateAttempt, PanicInfo, PoolClass};
pub use error::{
    AllocError, AttrError, DisableOverflow, EnableUnderflow, EnqueueError, JoinError, PanicPayload,
    Refusal, StartError, WaitError,
};
#[cfg(feature = "control-socket")]
pub use observe::control_socket::ControlSocket;
pub use observe::snapshot::{
    NodeSnapshot, PoolSnapshot, QueueSample, QueueSnapshot, RescuerSnapshot, Sample, ScopeSnapshot,
    Snapshot,
};
pub use observe::TraceEvent;
pub use pool::context::{
    blocking, current, is_rescuer, set_worker_desc, try_then_wait, worker_desc, BlockingGuard,
    CurrentWork,
};
pub use runtime::builder::RuntimeBuilder;
pub use runtime::Runtime;
pub use sys::clock::VirtualClock;
pub use sys::cpu::touch_stack;
pub use sys::cpuset::CpuSet;
pub use sys::run_clock::RunClock;
pub use wait::flush::{reclaim_scope, ReclaimScope};
pub use wait::item::Busy;
pub use work::delayed::{DelayedWork, Modified};
pub use work::pointer::{
    HasDelayedWork, HasWork, RawDelayedWorkItem, RawWorkItem, WorkItem, WorkItemPointer,
};
pub use work::{RawWork, Work};
pub use wq::attrs::{Attrs, Flags};
pub use wq::builder::QueueBuilder;
pub use wq::queue::QueueStats;
pub use wq::spawn::{JoinHandle, SpawnScope};
pub use wq::system::*;
pub use wq::{OwnedQueue, Queue};
