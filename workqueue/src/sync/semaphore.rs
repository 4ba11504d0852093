// SPDX-License-Identifier: MIT OR Apache-2.0
//! A number of places, taken and given back by anybody.
//!
//! Kernel counterpart: `struct semaphore` with `down` and `up`.

use super::count::Count;
use std::time::Duration;

/// A counting semaphore.
///
/// ```
/// let places = workqueue::sync::Semaphore::new(1);
/// places.acquire();
/// assert!(!places.try_acquire());
/// places.release();
/// ```
#[derive(Debug)]
pub struct Semaphore {
    count: Count,
}

/// One less than what stands for "endless" inside.
const MOST: usize = usize::MAX - 1;

impl Semaphore {
    /// A semaphore with so many free places.
    pub const fn new(places: usize) -> Self {
        Self {
            count: Count::new(if places < MOST { places } else { MOST }),
        }
    }

    /// Takes a place, waiting in a [`crate::blocking`] section if none is free. Kernel: `down`.
    pub fn acquire(&self) {
        self.count.take();
    }

    /// Takes a place if one is free. Kernel: `down_trylock`.
    #[must_use]
    pub fn try_acquire(&self) -> bool {
        self.count.try_take()
    }

    /// As [`Semaphore::acquire`]; false if no place became free within `limit`.
    #[must_use]
    pub fn acquire_timeout(&self, limit: Duration) -> bool {
        self.count.take_timeout(limit)
    }

    /// Gives a place back, or one more. Kernel: `up`.
    pub fn release(&self) {
        self.count.give(MOST);
    }

    /// The free places at this moment: a hint.
    pub fn available(&self) -> usize {
        self.count.get()
    }
}
