// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thread that sleeps until another one lets it go on.
//!
//! As `std::thread::park`, with a token that can be looked at: parking with the token there is no
//! wait, and so no section. Item functions may use it freely; the crate's own parking is apart.

use super::count::Count;
use std::sync::Arc;
use std::time::Duration;

/// The side that sleeps.
///
/// ```
/// let parker = workqueue::sync::Parker::new();
/// parker.unparker().unpark();
/// parker.park();
/// ```
#[derive(Debug)]
pub struct Parker {
    token: Arc<Count>,
}

/// The side that lets it go on. As many as wanted can be made.
#[derive(Clone, Debug)]
pub struct Unparker {
    token: Arc<Count>,
}

impl Parker {
    /// A parker without its token.
    pub fn new() -> Self {
        Self {
            token: Arc::new(Count::new(0)),
        }
    }

    /// Takes the token, waiting for it in a [`crate::blocking`] section if it is not there.
    pub fn park(&self) {
        self.token.take();
    }

    /// As [`Parker::park`]; false if the token did not come within `limit`.
    pub fn park_timeout(&self, limit: Duration) -> bool {
        self.token.take_timeout(limit)
    }

    /// The other side.
    pub fn unparker(&self) -> Unparker {
        Unparker {
            token: self.token.clone(),
        }
    }
}

impl Default for Parker {
    fn default() -> Self {
        Self::new()
    }
}

impl Unparker {
    /// Puts the token there. There is only one, however often this is called.
    pub fn unpark(&self) {
        self.token.give(1);
    }
}
