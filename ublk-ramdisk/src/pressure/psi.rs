// SPDX-License-Identifier: MIT OR Apache-2.0
//! E3, E13: refusals while memory is short.
//!
//! [`super::psi_monitor`] tells when pressure begins and ends. No request is refused for longer than
//! [`BOUND`]: pressure may come from dirty pages whose writeback needs this very disk.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::mq::Source;
use crate::trace::SourceState;

/// How long one request is refused, in nanoseconds.
const BOUND: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Psi {
    pub(super) state: SourceState,
    /// By request: when it was first refused, plus one; 0 if it was not.
    since: Box<[AtomicU64]>,
}

impl Psi {
    /// Makes one for a device with this many requests.
    pub(super) fn new(requests: usize) -> Self {
        Self {
            state: SourceState::new(Source::Psi),
            since: (0..requests).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Pressure begins or ends.
    pub(super) fn set_pressure(&self, on: bool) {
        match on {
            true => self.state.begin_refusing(),
            false => self.state.stop_refusing(),
        }
    }

    pub(super) fn is_pressed(&self) -> bool {
        self.state.refuses()
    }

    /// Under pressure: is this request, which needs memory, refused?
    pub(super) fn refuses(&self, request: usize, now: u64) -> bool {
        let since = &self.since[request];
        match since.load(Relaxed).checked_sub(1) {
            None => {
                since.store(now + 1, Relaxed);
                true
            }
            Some(first) => now.saturating_sub(first) < BOUND,
        }
    }

    /// Was it refused before, and would it be refused again?
    pub(super) fn holds(&self, request: usize, now: u64) -> bool {
        let first = self.since[request].load(Relaxed).checked_sub(1);
        first.is_some_and(|first| now.saturating_sub(first) < BOUND)
    }

    /// The request was not refused: the next request of its tag has its own second.
    pub(super) fn forget(&self, request: usize) {
        if self.since[request].load(Relaxed) != 0 {
            self.since[request].store(0, Relaxed);
        }
    }

    /// Forgets all requests.
    pub(super) fn forget_all(&self) {
        self.since.iter().for_each(|since| since.store(0, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e13_no_request_is_refused_for_longer_than_a_second() {
        let psi = Psi::new(2);
        assert!(psi.refuses(0, 5));
        assert!(psi.refuses(0, 5 + BOUND - 1) && !psi.refuses(0, 5 + BOUND));
        assert!(!psi.refuses(0, 6 + BOUND), "however often it is asked");
        assert!(psi.refuses(1, 5 + BOUND), "each has its own second");
        assert!(psi.holds(1, 5 + BOUND) && !psi.holds(1, 5 + 2 * BOUND));
        psi.forget(0);
        assert!(!psi.holds(0, 5 + BOUND), "and has not been refused");
        assert!(psi.refuses(0, 7 + BOUND), "the next request of that tag");
    }
}
