// SPDX-License-Identifier: MIT OR Apache-2.0
//! An event that one side announces and the other waits for.
//!
//! Kernel counterpart: `struct completion`, with the same counting: each announcement releases one
//! waiter, also one that comes later.

use super::count::Count;
use std::time::Duration;

/// As the kernel's completion.
///
/// ```
/// let done = workqueue::sync::Completion::new();
/// done.complete();
/// done.wait();
/// assert!(!done.is_done());
/// done.complete_all();
/// (0..3).for_each(|_| done.wait());
/// ```
#[derive(Debug)]
pub struct Completion {
    done: Count,
}

const MOST: usize = usize::MAX - 1;

impl Completion {
    /// An event that has not happened.
    pub const fn new() -> Self {
        Self {
            done: Count::new(0),
        }
    }

    /// Releases one waiter, now or when it comes. Kernel: `complete`.
    pub fn complete(&self) {
        self.done.give(MOST);
    }

    /// Releases all waiters, now and for ever. Kernel: `complete_all`.
    pub fn complete_all(&self) {
        self.done.give_endlessly();
    }

    /// Waits for an announcement, in a [`crate::blocking`] section if there is none yet, and uses
    /// it up. Kernel: `wait_for_completion`.
    pub fn wait(&self) {
        self.done.take();
    }

    /// As [`Completion::wait`]; false if there was none within `limit`.
    #[must_use]
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        self.done.take_timeout(limit)
    }

    /// Uses an announcement up if there is one. Kernel: `try_wait_for_completion`.
    #[must_use]
    pub fn try_wait(&self) -> bool {
        self.done.try_take()
    }

    /// Would a wait return at once? Kernel: `completion_done`.
    pub fn is_done(&self) -> bool {
        self.done.get() > 0
    }

    /// Back to "has not happened". Nobody may be waiting. Kernel: `reinit_completion`.
    pub fn reinit(&self) {
        self.done.reset();
    }
}

impl Default for Completion {
    fn default() -> Self {
        Self::new()
    }
}
