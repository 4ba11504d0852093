// SPDX-License-Identifier: MIT OR Apache-2.0
//! A RAM disk at /dev/ublkbN, served from user space.
//!
//! A request comes in at [`ublk`]: a completion of a queue's ring names a tag,
//! whose descriptor is checked and becomes an [`mq::Request`].
//! [`mq::direct::Operations`] takes it to the driver, [`ramdisk`], which finds its
//! bytes in the store. Back in [`ublk`] the bytes are moved and the result is
//! committed. The mirror of blk-mq in [`mq`] does not stand between the two yet;
//! `examples/mybrd.rs` is a disk that runs on it.
//!
//! Unsafe code stands in `sys`, in `ublk`'s `ring`, `ctrl`, `client_data`,
//! `per_tag` and `batch`, and in `ramdisk`'s `words` and `store`; nowhere else.

pub mod ublk;

pub mod mq;

pub mod ramdisk;

pub mod config;

pub mod error;

pub mod stats;

pub mod sys;
