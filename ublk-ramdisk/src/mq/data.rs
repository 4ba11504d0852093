// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes of a request are, as a driver tells a transport. Stands for the kernel's `bio`:
//! there a driver is given the client's pages and copies; here it gives its own memory, and who
//! carried the request copies.

use std::ptr::NonNull;

/// Where the bytes of a READ or WRITE are. Valid until the driver's `complete`.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    /// All of them in one piece, from this address on.
    Contiguous(NonNull<u8>),
    /// A READ of nothing but holes.
    Zeros,
    /// A READ of pieces and holes: ask the driver's `runs`.
    Scattered,
}

// SAFETY: an address is a number; whoever reads or writes there, on whatever thread, answers for it.
unsafe impl Send for Data {}

/// One piece of a [`Data::Scattered`] request, to be copied before `runs` goes on: what it names may
/// be there no longer.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// This many bytes from this address on.
    Memory(NonNull<u8>, usize),
    /// This many zeros.
    Zeros(usize),
}
