// SPDX-License-Identifier: MIT OR Apache-2.0
//! A RAM disk at /dev/ublkbN, served from user space.
//!
//! `doc/semantics.md` specifies what the disk does; a code such as C16 is a statement there.
//! `doc/design.md` shows why no request is forgotten.
//!
//! A request comes in at [`ublk`]: a completion of a queue's ring names a tag,
//! whose descriptor is checked and becomes an [`mq::Request`].
//! The mirror of blk-mq, [`mq`], offers it to the driver, [`ramdisk`], as often as
//! it takes; the driver finds its bytes in the store. Back in [`ublk`] the bytes are
//! moved and the result is committed. [`sim`] stands in [`ublk`]'s place where there is
//! no kernel driver, and makes the requests itself; [`backend`] makes what both need.
//! [`pressure`] stands in front of the driver, and does what the [`rules`] say.
//! `examples/mybrd.rs` is another driver on the mirror.
//!
//! Unsafe code stands in `sys`, in `ublk`'s `ring`, `ctrl`, `client_data`,
//! `per_tag` and `batch`, in `mq`'s `request`, in `ramdisk`'s `words` and `store`, and in
//! `sim`'s `buffers` and `job`; nowhere else.

#[cfg(not(loom))]
pub mod ublk;

// The models of `mq` stand in for kblockd, so a device cannot be made there.
#[cfg(loom)]
mod ublk {
    mod mailbox;
}

pub mod mq;

pub mod ramdisk;

#[cfg(not(loom))]
pub mod backend;

#[cfg(not(loom))]
pub mod config;

pub mod error;

#[cfg(not(loom))]
pub mod pressure;

#[cfg(not(loom))]
pub mod sim;

#[cfg(not(loom))]
pub mod stats;

#[cfg(not(loom))]
pub mod rules;

mod random;

pub mod histogram;

pub mod trace;

#[cfg(not(loom))]
pub mod study_options;

#[cfg(not(loom))]
pub mod units;

pub mod sys;
