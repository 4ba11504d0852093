// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stage on which real threads act in virtual time, one moment after the other.
//!
//! The crate's virtual clock stands still until it is moved. Here it is moved only when nothing in the process moves
//! any more: every other thread is asleep and has not run between two looks. What happens on the stage then depends on
//! nothing but the order of moments, and a study repeats to the last digit on any machine.
//!
//! Two things that become due at the very same moment may still be done in either order; a study chooses its times so
//! that this does not matter.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use workqueue::{CpuPlace, Topology, VirtualClock};

/// How long a process may take to come to rest before that is called hung. Nothing is timed by it.
const HUNG: Duration = Duration::from_secs(120);

/// A machine of so many CPUs that share all there is to share.
pub fn machine(cpus: usize) -> Topology {
    let place = |cpu| CpuPlace {
        cpu,
        core: cpu,
        cache: 0,
        node: 0,
    };
    Topology::simulated((0..cpus).map(place).collect())
}

/// The state of each other thread and how often it has been given a CPU.
fn others() -> Vec<(String, char, String)> {
    let own = fs::read_link("/proc/thread-self").unwrap_or_default();
    let own = own.file_name().unwrap_or_default().to_os_string();
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let mut all: Vec<_> = tasks
        .filter_map(|task| {
            if task.file_name() == own {
                return None;
            }
            let tid = task.file_name().into_string().ok()?;
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            // After the last bracket, as a name may hold any.
            let state = stat[stat.rfind(')')?..].chars().nth(2)?;
            let runs = fs::read_to_string(task.path().join("schedstat")).ok()?;
            Some((tid, state, runs))
        })
        .collect();
    all.sort();
    all
}

/// Comes back when all other threads of the process sleep and none has run between two looks.
///
/// # Panics
/// If that does not happen within two minutes.
pub fn settle() {
    let began = Instant::now();
    let mut before = others();
    loop {
        let asleep = |all: &[(String, char, String)]| all.iter().all(|t| t.1 == 'S');
        if asleep(&before) {
            let now = others();
            if asleep(&now) && now == before {
                return;
            }
            before = now;
        } else {
            std::thread::yield_now();
            before = others();
        }
        assert!(
            began.elapsed() < HUNG,
            "the threads do not come to rest: {before:?}"
        );
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The clock to give to a runtime.
    pub clock: Arc<VirtualClock>,
    /// Moments at which somebody on the stage goes on, in nanoseconds.
    due: Arc<Mutex<BTreeSet<u64>>>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            clock: VirtualClock::new(),
            due: Arc::default(),
        }
    }
}

impl Stage {
    /// Milliseconds since the beginning.
    pub fn now(&self) -> f64 {
        self.clock.now().as_nanos() as f64 / 1e6
    }

    /// Spends time; whether asleep or busy, only the caller's declaration tells.
    pub fn spend(&self, time: Duration) {
        let until = (self.clock.now() + time).as_nanos() as u64;
        self.due
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(until);
        self.clock.sleep(time);
    }

    /// Goes from moment to moment until nobody on the stage waits for one.
    pub fn play(&self) {
        loop {
            settle();
            let next = self
                .due
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_first();
            let Some(next) = next else { return };
            let now = self.clock.now();
            self.clock
                .advance(Duration::from_nanos(next).saturating_sub(now));
        }
    }

    /// Lets time pass in equal steps, for what has timers of its own, and calls `at` after each one with the process
    /// at rest.
    pub fn tick(&self, step: Duration, until: Duration, mut at: impl FnMut(&Self)) {
        settle();
        while self.clock.now() < until {
            self.clock.advance(step);
            settle();
            at(self);
            settle();
        }
    }
}
