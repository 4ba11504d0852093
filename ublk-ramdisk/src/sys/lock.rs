// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lock that a panic does not close.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock without poisoning: what it guards is whole after every step.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Makes one around a value.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock, and holds it until the result is dropped.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
