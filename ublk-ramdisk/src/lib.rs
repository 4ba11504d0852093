// SPDX-License-Identifier: MIT OR Apache-2.0
//! A RAM disk at /dev/ublkbN.

pub mod config;
pub mod error;
pub mod mq;
pub mod ramdisk;
pub mod stats;
pub mod sys;
pub mod ublk;
