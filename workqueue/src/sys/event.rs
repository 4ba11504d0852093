// SPDX-License-Identifier: MIT OR Apache-2.0
//! A token that a thread can sleep for, given without any lock.
//!
//! Used where the giver may be a thread that must hold no lock, because it may be kept off its CPU
//! for long ([`crate::pool::sentinel`]), and by [`super::clock`]. Kernel counterpart: a futex.

#[cfg(not(loom))]
pub(crate) use real::Event;

#[cfg(loom)]
pub(crate) use model::Event;

#[cfg(not(loom))]
mod real {
    use std::ptr;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    const ABSENT: u32 = 0;
    const GIVEN: u32 = 1;

    /// See the module. There is one token, however often it is given.
    #[derive(Debug, Default)]
    pub(crate) struct Event(AtomicU32);

    impl Event {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        /// Gives the token. All who sleep for it look; one of them gets it.
        pub(crate) fn give(&self) {
            // Release pairs with the Acquire in `take`. If it is given already, whoever gave it
            // wakes the sleepers, and whoever takes it sees what was done here before.
            if self.0.swap(GIVEN, Ordering::Release) == ABSENT {
                // SAFETY: the word is alive and aligned; waking writes nothing.
                unsafe {
                    libc::syscall(
                        libc::SYS_futex,
                        self.0.as_ptr(),
                        libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                        i32::MAX,
                    );
                }
            }
        }

        /// Takes the token if it has been given.
        pub(crate) fn take(&self) -> bool {
            self.0.swap(ABSENT, Ordering::Acquire) == GIVEN
        }

        /// Sleeps until the token has been given, for `limit` at most. May return without cause.
        pub(crate) fn sleep(&self, limit: Option<Duration>) {
            let limit = limit.map(|d| libc::timespec {
                tv_sec: libc::time_t::try_from(d.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: libc::c_long::from(d.subsec_nanos() as i32),
            });
            let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
            // SAFETY: the word is alive and aligned, and `limit` is null or points to a timespec
            // of this frame. Both are only read.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.0.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    ABSENT,
                    limit,
                );
            }
        }

        /// Sleeps until the token is there, and takes it.
        pub(crate) fn wait(&self) {
            while !self.take() {
                self.sleep(None);
            }
        }
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::Notify;
    use std::time::Duration;

    /// What models see of it: one thread sleeps, any may give.
    #[derive(Debug)]
    pub(crate) struct Event(Notify);

    impl Event {
        pub(crate) fn new() -> Self {
            Self(Notify::new())
        }

        pub(crate) fn give(&self) {
            self.0.notify();
        }

        pub(crate) fn wait(&self) {
            self.0.wait();
        }

        pub(crate) fn take(&self) -> bool {
            unreachable!("no model looks at the time")
        }

        pub(crate) fn sleep(&self, _limit: Option<Duration>) {
            unreachable!("no model looks at the time")
        }
    }
}
