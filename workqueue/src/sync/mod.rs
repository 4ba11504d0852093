// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks, events, channels and waits that tell the pool when they really wait.
//!
//! Called by item functions in place of their namesakes in `std`; what has to wait is handed to
//! [`crate::blocking`]. Each one first tries without waiting, so a lock that is free and a message
//! that is there cost nothing more than elsewhere. Off the crate's workers they behave like their
//! namesakes. Kernel counterpart: none is needed there, the scheduler itself tells the pool.
//!
//! | kernel | here | difference |
//! |---|---|---|
//! | `mutex`, `rw_semaphore` | [`Mutex`], [`RwLock`] | guard the data; not poisoned by a panic |
//! | `wait_event`, `wake_up` | [`Condvar`] | waits with a mutex |
//! | `semaphore` | [`Semaphore`] | who waits longest is not promised to be first |
//! | `completion` | [`Completion`] | none |
//! | `kthread_park` | [`Parker`], [`park`] | a token, as of `std` |
//! | | [`Barrier`], [`channel`], [`sync_channel`], [`join`] | as of `std` |
//! | `msleep` | [`sleep`] | none |
//! | `poll`, `epoll_wait` | [`poll`], [`epoll_wait`] | none |
//! | `io_uring_enter` and other system calls that wait | [`try_then_wait`] | the caller makes the call |
//! | `read`, `write` | [`Declared`] | cannot try first, so each call is a section |

mod barrier;

mod channel;

mod completion;

mod condvar;

mod count;

mod io;

mod mutex;

mod parker;

mod poll;

mod rwlock;

mod semaphore;

mod thread;

use crate::pool::concurrency::blocking;

pub use barrier::Barrier;
pub use channel::{channel, sync_channel, Receiver, SyncSender};
pub use completion::Completion;
pub use condvar::Condvar;
pub use io::Declared;
pub use mutex::{Mutex, MutexGuard};
pub use parker::{Parker, Unparker};
pub use poll::{epoll_wait, poll, EpollEvent, PollFd};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::Semaphore;
pub use thread::{join, park, park_timeout, sleep};

/// Makes an attempt that does not wait; if it gives nothing, waits in a [`crate::blocking`]
/// section. What every wrapper of this module does, for waits that have none.
///
/// With a ring of the `io-uring` crate, whose `submit_and_wait` waits only if nothing has arrived:
///
/// ```ignore
/// try_then_wait(
///     || (!ring.completion().is_empty()).then(|| ring.submit()),
///     || ring.submit_and_wait(1),
/// )?;
/// ```
pub fn try_then_wait<R>(attempt: impl FnOnce() -> Option<R>, wait: impl FnOnce() -> R) -> R {
    attempt().unwrap_or_else(|| blocking(wait))
}
