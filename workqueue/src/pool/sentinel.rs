// SPDX-License-Identifier: MIT OR Apache-2.0
//! Notices at once that a CPU has gone idle while items wait there behind a run that sleeps.
//!
//! [`super::sampler`] looks every millisecond. To be faster, each CPU has a thread of the lowest
//! scheduling class, SCHED_IDLE: bound to the CPU, it gets to run when nothing else wants that CPU.
//! While a pool starves the monitor *arms* it with a worker of that pool. When it gets to run it
//! looks at that worker; if the worker sleeps it *posts* what it was armed with, and the monitor
//! looks at the pool under its lock. [`crate::runtime::sentinels`] makes the threads. Kernel
//! counterpart: none, the scheduler calls `wq_worker_sleeping` there.
//!
//! The thread may be kept off its CPU for any time, so it takes no lock, and allocates nothing.
//! All it shares are the words of [`Watch`]:
//!
//! ```text
//!   monitor                                     sentinel
//!   M1 target = (generation, worker)            S1 take the token, or sleep for it
//!   M2 give the token                           S2 read target: nothing, or posted already: S1
//!   M3 target = nothing, or the next one        S3 the worker can run: yield the CPU, S2
//!   M4 read found: is it the target?            S4 found = target, wake the monitor, S2
//! ```
//!
//! * No arming is lost: the token of M2 comes after M1, so the round that it begins reads the
//!   target, or a later one.
//! * What was found of an earlier target counts for nothing: generations differ (M4).
//! * Each target is posted once. A monitor that finds the worker running after all arms anew.

use crate::sys::event::Event;
use crate::sys::sync::modelled::{AtomicBool, AtomicU64, Ordering};

/// A CPU's normal pool and its highpri one.
pub(crate) const POOLS: usize = 2;

/// Which worker to look at, and how many targets of this pool came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target(u64);

impl Target {
    const NOTHING: u64 = 0;

    /// The `generation`th, a worker by its thread number, which is never 0.
    pub(crate) fn new(generation: u32, tid: i32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(tid.cast_unsigned()))
    }

    fn read(word: u64) -> Option<Self> {
        (word != Self::NOTHING).then_some(Self(word))
    }

    pub(crate) fn tid(self) -> i32 {
        (self.0 as u32).cast_signed()
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What monitor and sentinel tell each other about one pool.
#[derive(Debug)]
struct Watch {
    target: AtomicU64, // A: written by the monitor
    found: AtomicU64,  // A: written by the sentinel
    last: AtomicU64,   // A: the monitor's own: the generation of the last target
}

/// What a round of a sentinel came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Round {
    /// There is nothing to look at: sleep until armed.
    Nothing,
    /// The workers want the CPU: let them have it.
    Runnable,
    /// Something was posted: wake the monitor.
    Posted,
}

/// One CPU's sentinel as monitor and thread share it.
#[derive(Debug)]
pub(crate) struct Sentinel {
    pub(crate) cpu: usize, // I
    watches: [Watch; POOLS],
    token: Event,
    stop: AtomicBool, // A: set once
}

impl Sentinel {
    pub(crate) fn new(cpu: usize) -> Self {
        let watch = || Watch {
            target: AtomicU64::new(Target::NOTHING),
            found: AtomicU64::new(Target::NOTHING),
            last: AtomicU64::new(0),
        };
        Self {
            cpu,
            watches: [watch(), watch()],
            token: Event::new(),
            stop: AtomicBool::new(false),
        }
    }

    /// The worker it is armed with.
    /// # Context: the monitor thread.
    pub(crate) fn armed_with(&self, pool: usize) -> Option<i32> {
        Target::read(self.watches[pool].target.load(Ordering::Relaxed)).map(Target::tid)
    }

    /// From now on it looks at this worker, also if it has posted it before.
    /// # Context: the monitor thread.
    pub(crate) fn arm(&self, pool: usize, tid: i32) -> Target {
        let watch = &self.watches[pool];
        let last = Target(watch.last.load(Ordering::Relaxed));
        let target = Target::new(last.generation().wrapping_add(1), tid);
        watch.last.store(target.0, Ordering::Relaxed);
        // Ordered before the sentinel's reading by the token.
        watch.target.store(target.0, Ordering::Relaxed); // M1
        self.token.give(); // M2
        target
    }

    /// From now on there is nothing to look at.
    /// # Context: the monitor thread.
    pub(crate) fn disarm(&self, pool: usize) {
        self.watches[pool]
            .target
            .store(Target::NOTHING, Ordering::Relaxed); // M3
    }

    /// What was found of the present target; it is armed no longer then.
    /// # Context: the monitor thread.
    pub(crate) fn take_post(&self, pool: usize) -> Option<Target> {
        let watch = &self.watches[pool];
        // Acquire pairs with the Release in `round`: the worker was seen asleep before this.
        let found = watch.found.load(Ordering::Acquire); // M4
        let armed = watch.target.load(Ordering::Relaxed);
        let post = Target::read(armed).filter(|_| found == armed)?;
        self.disarm(pool);
        Some(post)
    }

    /// Has the thread end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.token.give();
    }

    /// Sleeps until armed; true if the thread shall end instead.
    /// # Context: the sentinel.
    pub(crate) fn wait(&self) -> bool {
        self.token.wait(); // S1
        self.is_stopped()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Looks once at what it is armed with. `posted` are the targets posted last.
    /// # Context: the sentinel; takes no lock and allocates nothing if `is_runnable` does not.
    pub(crate) fn round(
        &self,
        posted: &mut [Option<Target>; POOLS],
        is_runnable: impl Fn(i32) -> bool,
    ) -> Round {
        let mut round = Round::Nothing;
        for (watch, posted) in self.watches.iter().zip(posted) {
            let target = Target::read(watch.target.load(Ordering::Relaxed)); // S2
            let Some(target) = target.filter(|t| Some(*t) != *posted) else {
                continue;
            };
            if is_runnable(target.tid()) {
                if round == Round::Nothing {
                    round = Round::Runnable; // S3
                }
            } else {
                *posted = Some(target);
                // Release pairs with the Acquire in `take_post`.
                watch.found.store(target.0, Ordering::Release); // S4
                round = Round::Posted;
            }
        }
        round
    }
}
