// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for time to pass, for a token, for a thread to end.

use crate::pool::concurrency::blocking;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// As [`std::thread::sleep`], in a [`crate::blocking`] section; no time is no wait. Kernel:
/// `msleep`.
pub fn sleep(time: Duration) {
    if !time.is_zero() {
        blocking(|| thread::sleep(time));
    }
}

/// As [`std::thread::park`], in a [`crate::blocking`] section. Always a section, since the token of
/// a thread cannot be looked at; [`super::Parker`] has one that can.
pub fn park() {
    blocking(thread::park);
}

/// As [`park`], for `limit` at most.
pub fn park_timeout(limit: Duration) {
    blocking(|| thread::park_timeout(limit));
}

/// As [`JoinHandle::join`], in a [`crate::blocking`] section unless the thread has ended already.
/// An error is what the thread panicked with.
pub fn join<T>(thread: JoinHandle<T>) -> thread::Result<T> {
    if thread.is_finished() {
        return thread.join();
    }
    blocking(|| thread.join())
}
