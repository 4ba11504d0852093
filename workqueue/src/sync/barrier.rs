// SPDX-License-Identifier: MIT OR Apache-2.0
//! A point that a number of threads pass together.
//!
//! Runs of one CPU can meet here only because waiting is declared: each one that waits lets the
//! next begin.

use crate::pool::concurrency::blocking;
use std::sync::{Condvar, Mutex, PoisonError};

/// As [`std::sync::Barrier`]; whoever comes last does not wait.
#[derive(Debug)]
pub struct Barrier {
    parties: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: usize,
    round: usize,
}

impl Barrier {
    /// A barrier for so many; 0 and 1 let everybody through.
    pub const fn new(parties: usize) -> Self {
        Self {
            parties,
            state: Mutex::new(State {
                waiting: 0,
                round: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits for the others; true for the one that came last.
    pub fn wait(&self) -> bool {
        let lock = || self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = lock();
        let round = state.round;
        state.waiting += 1;
        if state.waiting >= self.parties {
            state.waiting = 0;
            state.round = round.wrapping_add(1);
            drop(state);
            self.changed.notify_all();
            return true;
        }
        drop(state);
        blocking(|| {
            let mut state = lock();
            while state.round == round {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        });
        false
    }
}
