// SPDX-License-Identifier: MIT OR Apache-2.0
//! The side that faces the kernel: a device's life ([`device`]), its control
//! commands ([`ctrl`]), and per queue the thread that takes requests in and
//! commits their results (`queue`). Between the two a request is in the mirror of
//! blk-mq ([`crate::backend`]), which calls back through `front_end`. The only part that
//! knows the ublk ABI.
//!
//! What is used by which threads:
//!
//! | part | threads |
//! |---|---|
//! | `QueueRing`, `PerTag`, `Batch`, `Submitter` | the queue's own; dropped once all queue threads have ended |
//! | `QueueShared`: buffers, mailbox | the queue's own, and workers of kblockd that run its hardware queue |
//! | `QueueShared`: binding | the queue's own, and the one that watches the CPUs |
//! | `QueueCounters` | written by the queue's own, read by anyone |
//! | `Deaths` | written by each queue's, read by the owner of the device |
//! | `Control`, `Device` | the owner of the device: the server's main thread |
//!
//! Where the commands of the driver are sent from:
//!
//! | command | file |
//! |---|---|
//! | ADD_DEV, SET_PARAMS, START_DEV | `device/bring_up.rs`, with the values of `params.rs` |
//! | FETCH, COMMIT_AND_FETCH | `per_tag.rs` |
//! | PREP, FETCH and COMMIT of BATCH_IO | `batch.rs` |
//! | UPDATE_SIZE | `device.rs` |
//! | STOP_DEV, TRY_STOP_DEV | `device.rs`, and `openers.rs` for a disk that nobody uses |
//! | DEL_DEV_ASYNC, or DEL_DEV where that is unknown | `ctrl.rs` |

pub mod device;

pub mod ctrl;

pub mod params;

mod thread;

mod queue;

#[doc(hidden)] // For the fuzzer of descriptors in tests/.
pub use queue::operation;

mod front_end;

mod mailbox;

mod client_data;

mod per_tag;

mod batch;

mod commit;

mod ring;

pub mod abi;

pub mod features;

pub mod openers;
