// SPDX-License-Identifier: MIT OR Apache-2.0
//! Virtual time for items that spend it: the crate's clock whose threads take turns, and the loops that move it.

use std::sync::Arc;
use std::time::Duration;
use workqueue::{CpuPlace, Topology, VirtualClock};

/// A machine whose CPUs share all there is to share.
/// One node, one cache: an unbound queue has a single pool.
pub fn machine(cpus: usize) -> Topology {
    let place = |cpu| CpuPlace {
        cpu,
        core: cpu,
        cache: 0,
        node: 0,
    };
    Topology::simulated((0..cpus).map(place).collect())
}

/// The clock of an experiment.
#[derive(Clone, Debug)]
pub struct Stage {
    /// To be given to a runtime.
    pub clock: Arc<VirtualClock>,
    /// No other thread waits for the clock, so spending time moves it.
    alone: bool,
}

impl Stage {
    /// For the threads of one runtime; the calling thread moves the clock.
    pub fn in_turns() -> Self {
        Self {
            clock: VirtualClock::in_turns(),
            alone: false,
        }
    }

    /// For a single thread, which moves the clock itself by spending time.
    pub fn alone() -> Self {
        Self {
            clock: VirtualClock::new(),
            alone: true,
        }
    }

    /// Milliseconds since the beginning.
    pub fn now(&self) -> f64 {
        self.clock.now().as_nanos() as f64 / 1e6
    }

    /// Spends time: the clock moves on meanwhile.
    pub fn spend(&self, time: Duration) {
        match self.alone {
            true => self.clock.advance(time),
            false => self.clock.sleep(time),
        }
    }

    /// Moves the clock to the next moment that a thread waits for, until `done`.
    pub fn play(&self, done: impl Fn() -> bool) {
        self.clock.settle();
        while !done() {
            // Nobody waits for a time and it is not done: a deadlock, at which the clock stops.
            let Some(due) = self.clock.next_due() else {
                return;
            };
            self.clock.advance(due.saturating_sub(self.clock.now()));
            self.clock.settle();
        }
    }

    /// Moves the clock in equal steps, and calls `at` after each, while all threads wait. Fails
    /// with the first error of `at`.
    pub fn tick<E>(
        &self,
        step: Duration,
        until: Duration,
        mut at: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        self.clock.settle();
        while self.clock.now() < until {
            self.clock.advance(step);
            self.clock.settle();
            at()?;
            self.clock.settle();
        }
        Ok(())
    }
}
