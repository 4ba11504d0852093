// SPDX-License-Identifier: MIT OR Apache-2.0
//! A RAM disk at /dev/ublkbN.

pub mod error;
pub mod ublk;
