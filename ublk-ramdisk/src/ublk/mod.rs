// SPDX-License-Identifier: MIT OR Apache-2.0
//! The side that faces the kernel: a device's life ([`device`]), its control
//! commands ([`ctrl`]), and per queue the thread that takes requests in and
//! commits their results (`queue`). Between the two a request is in the mirror of
//! blk-mq ([`crate::backend`]), which calls back through `front_end`. The only part that
//! knows the ublk ABI.

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
