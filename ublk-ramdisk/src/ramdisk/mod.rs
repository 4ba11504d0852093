// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver: turns requests into ranges of the store. Only this folder knows where the bytes are.
//!
//! ```text
//!   disk.rs         Ramdisk: queue_rq, complete and the other operations
//!     store.rs      the bytes: one mapping of a file in memory
//!       page_state.rs   a word for each page: present, claimed, pinned
//!       budget.rs       bytes used, and their limit
//!     space.rs      the work items that make memory and give it back
//!       waiters.rs      writes that wait for memory, the oldest first
//!       pending_ring.rs requests that a work item carries out
//!       no_space.rs     from BUSY to NOSPC
//! ```
//!
//! queue_rq makes no system call. What needs one is done by a work item (J3): a write that lacks
//! memory is refused, and comes back when the memory is there (E8).

mod budget;
mod disk;
mod no_space;
mod page_state;
mod pending_ring;
pub mod space;
pub mod store;
mod sync;
mod waiters;

pub use disk::Ramdisk;
pub use no_space::{Mode, NoSpaceTimeout, DEFAULT_NO_SPACE_TIMEOUT};
