// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records in which order things are waited for, and reports orders that can deadlock.
//!
//! Without the `lockdep` feature everything here is empty. With it, the locks of [`crate::sync`],
//! the runs of [`crate::pool::worker`] and the flushes of [`crate::wait`] tell what they take:
//!
//! * a lock counts as held from before it is waited for until it is free again;
//! * a run holds its queue and its function;
//! * a flush, drain or cancel takes what it waits for, and lets it go at once.
//!
//! Taking B while holding A notes "A before B". If "B before A" follows from the notes, two
//! threads can each wait for the other: that is reported, once per pair, also if nobody ever hung.
//! What is noted are kinds, not objects: locks made by the same line, items of the same function.
//! Two of one kind inside each other are not looked at. Kernel counterpart: lockdep, with
//! `lock_map_acquire` of the maps of `workqueue_struct` and `work_struct`.

#[cfg(feature = "lockdep")]
mod orders;

#[cfg(feature = "lockdep")]
mod on;

#[cfg(feature = "lockdep")]
pub use on::lockdep_reports;
#[cfg(feature = "lockdep")]
pub(crate) use on::{enter_run, touch_function, touch_queue, Held, LockClass, QueueClass};

#[cfg(not(feature = "lockdep"))]
mod off;

#[cfg(not(feature = "lockdep"))]
pub(crate) use off::{enter_run, touch_function, touch_queue, Held, LockClass, QueueClass};
