// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the benchmark programs share.

pub mod signals;
