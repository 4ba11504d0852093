// SPDX-License-Identifier: MIT OR Apache-2.0
//! The side that faces the kernel: a device's life ([`device`]), its control
//! commands ([`ctrl`]), and per queue the thread that takes requests in and
//! commits their results ([`queue`]). The only part that knows the ublk ABI.

pub mod abi;
pub mod ctrl;
pub mod features;
