// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the operating system offers and the standard library does not.

pub(crate) mod clock;
pub mod event;
pub mod file;
pub mod lock;
pub mod mmap;
pub mod mount;
pub mod privilege;
pub mod remove;
pub mod scratch;
pub mod thread;

pub mod memory;
