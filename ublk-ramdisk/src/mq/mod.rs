// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mirror of blk-mq: what a request is, how it may end, and how it gets from a transport to a
//! driver that may answer BUSY. Knows neither ublk nor memory.
//!
//! The journey of a request:
//! 1. a transport's thread hands it to its [`Lane`] (`insert`), which stands for a software queue;
//! 2. alone on a quiet queue it is issued at once, else it is listed and the queue is run (`run`);
//! 3. the driver's [`Operations::queue_rq`] accepts it, refuses it for now, or fails it (`issue`);
//!    a refused one waits on the hardware queue's dispatch list, which kblockd runs again
//!    (`dispatch`);
//! 4. its bytes are moved by the transport, to or from where the driver has them (`operations` says
//!    why this is a step of its own);
//! 5. it is completed and its result handed out, once (`complete`), or given back and tried again
//!    (`requeue`), or found to be late (`timeout`).
//!
//! On the way of a lone request there are two read-modify-writes, both on the queue's word
//! (`hctx_state`), as its own word is the issuing thread's until that lets go of it
//! (`request_state`); no lock, no fence, no other thread, and never an allocation. What it counts it
//! counts for itself (`call`), and only one that is kept looks at a clock (`timeout`).
//!
//! | kernel | here | difference |
//! |---|---|---|
//! | `struct request` | [`Request`], a slot, and the tokens of `custody` | carries byte offsets; its data stays in the kernel until the driver has named the memory |
//! | `blk_status_t` | [`Status`] | same numbers, names and errnos; OK is Rust's `Ok` |
//! | `struct gendisk` | [`Disk`] | its capacity alone |
//! | `struct blk_mq_ops` | [`Operations`] | `queue_rq` names memory instead of copying itself |
//! | `get_budget`, `put_budget` | [`Budget`] | one trait, so a driver cannot have one of the two |
//! | `blk_mq_tag_set` | [`TagSet`] | tags are the kernel's: the mirror keeps slots, and never allocates one |
//! | `struct request_queue` | [`RequestQueue`], [`Queue`] | |
//! | `struct blk_mq_hw_ctx` | `hctx` | RESTART, STOPPED, the usage counter and the SRCU section are one word |
//! | `struct blk_mq_ctx` | `ctx`, [`Lane`] | one per inserting thread, not per CPU |
//! | `dispatch_wait`, `sbitmap` waiters | [`DeviceSlots`] | wakes all that wait, the oldest first |
//! | timeout timer and work | `timeout` | the timer is the delay of the work |

pub mod request;

mod request_state;

mod slot;

pub mod tag_set;

pub mod data;

mod custody;

mod insert;

mod call;

mod ctx;

mod hctx_state;

mod hctx;

mod run;

mod dispatch;

mod issue;

mod offer;

mod old_rules;

pub mod operations;

mod budget;

mod complete;

mod requeue;

mod timeout;

mod pause;

mod queue;

#[cfg(not(loom))]
mod kblockd;

#[cfg(loom)]
#[path = "loom_tests/kblockd.rs"]
mod kblockd;

mod count;

mod counters;

mod source;

mod latency;

mod tracing;

pub mod debugfs;

pub mod status;

pub mod legacy;

mod disk;

mod sync;

#[cfg(all(test, loom))]
mod loom_tests;

pub use budget::DeviceSlots;
pub use counters::{HctxCounters, HISTOGRAM};
pub use custody::{Accepted, Deferred, InFlight, Issued, Moved, Moving, Requeue};
pub use data::{Data, Run};
pub use disk::Disk;
pub use insert::Lane;
pub use kblockd::Kblockd;
pub use latency::{LatencyStats, LEAST_TIMED_OF, TIMED_OF};
pub use old_rules::Rules;
pub use operations::{
    Answer, Budget, Busy, Elsewhere, Hctx, Home, Offer, Operations, TimeoutAnswer, Transport,
};
pub use pause::WouldDeadlock;
pub use queue::{HctxSnapshot, Queue, RequestQueue, RequestRef, WeakQueue};
pub use request::{Limits, Op, Request};
pub use source::{BySource, Source};
pub use status::Status;
pub use tag_set::{TagSet, TagSetError};
