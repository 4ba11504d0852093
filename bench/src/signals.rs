// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for the order to leave: SIGINT or SIGTERM, taken in turn with the
//! rest of the program instead of in the middle of it.
//!
//! Handed in by `main` of a contender that serves a device; hands back control
//! when the device is to go. The only file of this crate with `unsafe`.

use std::io;
use std::mem::MaybeUninit;

/// SIGINT and SIGTERM, blocked in this thread and in those it starts later.
pub struct Blocked {
    set: libc::sigset_t,
}

/// Blocks both signals. To be called before the first thread is started: a
/// thread that does not have them blocked would be killed by them.
pub fn block() -> io::Result<Blocked> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` writes a whole set to the place it is given, and
    // only then is it taken for one. The two signal numbers exist, so
    // `sigaddset` cannot fail, and the old mask is not asked for.
    let (set, error) = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set: libc::sigset_t = set.assume_init();
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        (set, error)
    };
    match error {
        0 => Ok(Blocked { set }),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl Blocked {
    /// Sleeps until one of the two is sent.
    pub fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to live variables of the right type. The
        // only error is EINVAL for a bad set, and this set is good.
        unsafe { libc::sigwait(&self.set, &mut signal) };
    }
}
