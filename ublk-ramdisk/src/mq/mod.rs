// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mirror of blk-mq: what a request is, how it may end, and how it gets from a front end to a
//! driver that may answer BUSY. Knows neither ublk nor memory.
//!
//! The journey of a request:
//! 1. a front end's thread hands it to its [`Submitter`] (`insert`), which stands for a software
//!    queue;
//! 2. alone on a quiet queue it is issued at once, else it is listed and the queue is run (`run`);
//! 3. the driver's [`Operations::queue_rq`] accepts it, refuses it for now, or fails it (`issue`);
//!    a refused one waits on the hardware queue's dispatch list, which kblockd runs again
//!    (`dispatch`);
//! 4. its bytes are moved by the front end, to or from where the driver has them (`operations` says
//!    why this is a step of its own);
//! 5. it is completed and its result handed out, once (`complete`), or given back and tried again
//!    (`complete`), or found to be late (`timeout`).
//!
//! A lone request costs two read-modify-writes, both of the queue's word (`hctx_state`): its own word
//! belongs to the issuing thread until that marks it in flight (`request_state`). There is no lock, no
//! fence, no other thread, and never an allocation. Its submitter has counters of its own
//! (`complete`), and only a request that is kept reads a clock (`timeout`).
//!
//! | kernel | here | difference |
//! |---|---|---|
//! | `struct request` | [`Request`], a slot, and the tokens of `tokens` | carries byte offsets; its data stays in the kernel until the driver has named the memory |
//! | `blk_status_t` | [`Status`] | same numbers, names and errnos; OK is Rust's `Ok` |
//! | `struct gendisk` | [`Disk`] | its capacity alone |
//! | `struct blk_mq_ops` | [`Operations`] | `queue_rq` names memory instead of copying itself |
//! | `get_budget`, `put_budget` | [`Budget`] | one trait, so a driver cannot have one of the two |
//! | `blk_mq_tag_set` | [`TagSet`] | tags are the kernel's: the mirror keeps slots, and never allocates one |
//! | `struct request_queue` | [`RequestQueue`], [`Queue`] | |
//! | `struct blk_mq_hw_ctx` | `hctx` | RESTART, STOPPED, the usage counter and the SRCU section are one word |
//! | `struct blk_mq_ctx` | `hctx`, [`Submitter`] | one per inserting thread, not per CPU |
//! | `dispatch_wait`, `sbitmap` waiters | [`DeviceSlots`] | wakes all queues that wait, the oldest first |
//! | timeout timer and work | `timeout` | the timer is the delay of the work |
//!
//! # Layers
//!
//! The files stand in three groups. Data knows nothing of the other two: it is what queues,
//! requests and counters are made of. Flow moves requests: each file adds methods to [`Queue`].
//! Edge is what drivers, front ends, tests and people see.

// Data.

pub mod request;

pub mod status;

pub mod tag_set;

mod request_state;

mod slot;

mod hctx_state;

mod hctx;

mod counters;

mod sync;

// Flow.

mod queue;

mod insert;

mod issue;

mod dispatch;

mod run;

mod complete;

mod timeout;

#[cfg(not(loom))]
mod kblockd;

#[cfg(loom)]
#[path = "loom_tests/kblockd.rs"]
mod kblockd;

// Edge.

pub mod operations;

mod tokens;

mod shared_limit;

mod observe;

pub mod debugfs;

pub mod legacy;

#[cfg(all(test, loom))]
mod loom_tests;

pub use counters::{
    BySource, HctxCounters, LatencyStats, Source, HISTOGRAM, LEAST_TIMED_OF, TIMED_OF,
};
pub use insert::Submitter;
pub use kblockd::Kblockd;
pub use observe::HctxSnapshot;
pub use operations::{
    Answer, Budget, Busy, Disk, FrontEnd, Hctx, LocalCompletion, NoFrontEnd, Operations,
    TimeoutAnswer, ViaFrontEnd,
};
pub use queue::{Queue, RequestQueue, WeakQueue, WouldDeadlock};
pub use request::{Data, Limits, Op, Request, Run};
pub use shared_limit::DeviceSlots;
pub use status::Status;
#[cfg(not(loom))]
pub(crate) use sync::Count;
pub use tag_set::{Rules, TagSet, TagSetError};
pub use tokens::{
    Accepted, DataTransfer, Deferred, InFlight, Issued, RequestRef, Requeue, TransferAnswer,
};
