// SPDX-License-Identifier: MIT OR Apache-2.0
//! The clock that is read for every request. Reading it is a good part of what the mirror costs.

/// Reads CLOCK_MONOTONIC_COARSE, which may be a tick behind. Returns seconds and nanoseconds.
///
/// A tick is the kernel's: 1 to 10 ms.
#[inline]
pub(crate) fn monotonic_coarse() -> (u64, u32) {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec of this frame. Every Linux has this clock, so it is written.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    (now.tv_sec as u64, now.tv_nsec as u32)
}
