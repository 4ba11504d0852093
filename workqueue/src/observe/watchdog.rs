// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds pools that have items waiting and have not moved for too long, and says so in the log.
//!
//! The monitor thread looks once per threshold; programs change the threshold or vouch for a CPU
//! through [`Runtime`]. The pools note their progress themselves ([`crate::pool`]); the report uses
//! [`super::dump`]. Kernel counterparts: `wq_watchdog_timer_fn`, `wq_watchdog_touch`,
//! `show_cpu_pool_hogs`.

use super::dump::{self, RunView};
use crate::pool::{sampler, Pool};
use crate::runtime::{Runtime, RuntimeInner};
use crate::sys::clock::after;
use crate::sys::cpu;
use crate::sys::sync::Mutex;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// What the watchdog of one runtime keeps in mind.
#[derive(Debug)]
pub(crate) struct Watchdog {
    state: Mutex<State>, // O
    /// When somebody last vouched for a CPU, by its number. Relaxed everywhere: a touch that is
    /// seen late postpones a report by one look, or not.
    touched: Box<[AtomicU64]>, // A: written by whoever touches
    /// The latest of them, which counts for unbound pools.
    touched_any: AtomicU64, // A: as above
}

#[derive(Debug)]
struct State {
    thresh: Duration,
    last_look: u64,
    /// Looks that found a stall.
    stalls: u32,
}

/// A pool that does not move.
struct Stall {
    pool: Arc<Pool>,
    flags: u32,
    stuck: u64,
}

impl Watchdog {
    /// CPU numbers are below `end`.
    pub(crate) fn new(thresh: Duration, end: usize) -> Self {
        Self {
            state: Mutex::new(State {
                thresh,
                last_look: 0,
                stalls: 0,
            }),
            touched: (0..end).map(|_| AtomicU64::new(0)).collect(),
            touched_any: AtomicU64::new(0),
        }
    }

    pub(crate) fn thresh(&self) -> Duration {
        self.state.lock().thresh
    }

    /// What was before now is no stall: nothing ran yet, or nobody looked.
    pub(crate) fn begin(&self, now: u64) {
        self.state.lock().last_look = now;
        self.touched
            .iter()
            .chain([&self.touched_any])
            .for_each(|t| t.store(now, Ordering::Relaxed));
    }

    /// Looks if it is time to, and says when it is next.
    /// # Context: the monitor thread, no lock held.
    pub(crate) fn look(&self, rt: &Arc<RuntimeInner>, now: u64) -> u64 {
        let thresh = {
            let mut state = self.state.lock();
            if state.thresh.is_zero() {
                return u64::MAX;
            }
            let due = after(state.last_look, state.thresh);
            if now < due {
                return due;
            }
            state.last_look = now;
            state.thresh
        };
        let stalls: Vec<Stall> = rt
            .all_pools()
            .into_iter()
            .filter_map(|pool| self.stalled(pool, now, thresh))
            .collect();
        if !stalls.is_empty() {
            report(rt, &stalls);
            self.abort_if_asked(rt, &stalls);
        }
        after(now, thresh)
    }

    fn stalled(&self, pool: Arc<Pool>, now: u64, thresh: Duration) -> Option<Stall> {
        let touched = usize::try_from(pool.cpu())
            .ok()
            .and_then(|cpu| self.touched.get(cpu))
            .unwrap_or(&self.touched_any)
            .load(Ordering::Relaxed);
        let st = pool.lock();
        let progress = st.last_progress;
        let late = !st.worklist.is_empty() && now > after(progress.max(touched), thresh);
        let flags = dump::pool_flags(&pool, &st);
        drop(st);
        late.then(|| Stall {
            flags,
            stuck: now - progress,
            pool,
        })
    }

    fn abort_if_asked(&self, rt: &RuntimeInner, stalls: &[Stall]) {
        let count = {
            let mut state = self.state.lock();
            state.stalls = state.stalls.saturating_add(1);
            state.stalls
        };
        let (nth, lasting) = (
            rt.config.watchdog_abort_at,
            rt.config.watchdog_abort_after.as_nanos(),
        );
        let longest = stalls.iter().map(|s| s.stuck).max().unwrap_or(0);
        let why = if nth != 0 && count >= nth {
            format!("stall number {count}")
        } else if lasting != 0 && u128::from(longest) >= lasting {
            format!("a stall of {}s", dump::seconds(longest))
        } else {
            return;
        };
        log::error!("workqueue: aborting the process, as asked for at {why}");
        log::logger().flush();
        std::process::abort();
    }
}

/// One line per pool, then everything that is busy, then who holds the CPUs.
fn report(rt: &Arc<RuntimeInner>, stalls: &[Stall]) {
    for s in stalls {
        let stuck = dump::seconds(s.stuck);
        let head = dump::pool_head(&s.pool, s.flags);
        log::error!("workqueue: stalled for {stuck}s: {head}");
    }
    let busy = rt.dump(|_| true);
    busy.lines().for_each(|l| log::error!("workqueue: {l}"));
    for s in stalls.iter().filter(|s| !s.pool.is_unbound()) {
        let runs = dump::runs(&s.pool);
        if runs.is_empty() {
            log::error!("workqueue: pool {}: no worker is running", s.pool.id);
        }
        for run in &runs {
            let held = held_by(run);
            log::error!("workqueue: pool {}: {held}", s.pool.id);
        }
    }
}

/// What a thread does at this moment, as far as the system tells.
fn held_by(run: &RunView) -> String {
    let of_task = |file: &str| fs::read(format!("/proc/self/task/{}/{file}", run.tid));
    let word = |file: &str| {
        let text = of_task(file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.split_whitespace().next().unwrap_or("?").to_owned()
    };
    let state = of_task("stat").and_then(|text| sampler::state_letter(&text));
    let cpu_time = cpu::thread_cpu_ns_of(run.tid).map_or(Duration::ZERO, Duration::from_nanos);
    format!(
        "{} tid={} runs {} state={} wchan={} syscall={} cpu={:.3}s",
        run.name,
        run.tid,
        run.function,
        state.map_or('?', char::from),
        word("wchan"),
        word("syscall"),
        cpu_time.as_secs_f64()
    )
}

impl RuntimeInner {
    pub(crate) fn set_watchdog_thresh(&self, thresh: Duration) {
        if self.is_in_forked_child() {
            return;
        }
        self.watchdog.state.lock().thresh = thresh;
        self.watchdog.begin(self.clock.now());
        self.monitor.look_again();
    }
}

impl Runtime {
    /// How long a pool may have items waiting without moving before that is reported; zero if
    /// nobody looks, as in the child of a fork.
    pub fn watchdog_thresh(&self) -> Duration {
        if self.inner.is_in_forked_child() {
            return Duration::ZERO;
        }
        self.inner.watchdog.thresh()
    }

    /// Changes that time; zero stops looking. What happened before the change does not count.
    pub fn set_watchdog_thresh(&self, thresh: Duration) {
        self.inner.set_watchdog_thresh(thresh);
    }

    /// Vouches for a CPU: its pools, and the unbound ones, are taken as having moved now. For
    /// programs that know why a CPU is held up. CPUs that the runtime does not have are ignored.
    pub fn watchdog_touch(&self, cpu: usize) {
        let watchdog = &self.inner.watchdog;
        let Some(touched) = watchdog.touched.get(cpu) else {
            return;
        };
        if !self.inner.is_in_forked_child() {
            let now = self.inner.clock.now();
            touched.store(now, Ordering::Relaxed);
            watchdog.touched_any.store(now, Ordering::Relaxed);
        }
    }
}
