// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between the ublk queue and the store: what a request is, how it may end, and
//! what a driver answers. Knows neither ublk nor memory.
//!
//! | kernel | here | difference |
//! |---|---|---|
//! | `struct request` | [`Request`] | carries byte offsets; its data stays in the kernel until the driver has named the memory |
//! | `blk_status_t` | [`Status`] | same names and errnos |
//! | `struct blk_mq_ops` | [`Operations`] | `queue_rq` names memory instead of starting a transfer itself |

pub mod request;

pub mod operations;

pub mod status;

pub use operations::{Data, Operations, Queued, Run};
pub use request::{Limits, Op, Request};
pub use status::Status;
