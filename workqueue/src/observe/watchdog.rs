// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds pools that have items waiting and have made no progress for too long, and logs that.
//!
//! The monitor thread checks once per threshold; programs change the threshold or touch a CPU
//! through [`Runtime`]. The pools note their progress themselves ([`crate::pool`]); the report uses
//! [`super::dump`]. Kernel counterparts: `wq_watchdog_timer_fn`, `wq_watchdog_touch`,
//! `show_cpu_pool_hogs`.

use super::dump::{self, RunView};
use crate::env::Env;
use crate::pool::{sampler, Pool};
use crate::runtime::directory::Directory;
use crate::runtime::Runtime;
use crate::sys::clock::{after, Clock};
use crate::sys::{cpu, log_safely};
use std::fs;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// The monitor sleeps no shorter between two checks.
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);

/// A pool that makes no progress.
struct Stall {
    pool: Arc<Pool>,
    flags: u32,
    stuck: u64,
}

/// Checks the pools if it is time to; returns the time of the next check.
/// # Context: the monitor thread, no lock held.
pub(crate) fn look(dir: &Arc<Directory>, now: u64) -> u64 {
    let watchdog = &dir.env.watchdog;
    let thresh = {
        let mut state = watchdog.state.lock();
        if state.thresh.is_zero() {
            return u64::MAX;
        }
        let due = after(state.last_look, state.thresh);
        if now < due {
            return next_wakeup(&dir.env, now, due, state.thresh);
        }
        state.last_look = now;
        state.thresh
    };
    let stalls: Vec<Stall> = dir
        .all_pools()
        .into_iter()
        .filter_map(|pool| stalled(&dir.env, pool, now, thresh))
        .collect();
    if !stalls.is_empty() {
        report(dir, &stalls);
        abort_if_asked(dir, &stalls);
    }
    next_wakeup(&dir.env, now, after(now, thresh), thresh)
}

/// When the monitor wakes for a check that is due at `due`. Some times before it, because a gap is
/// seen only if the process does not run when the monitor is to wake.
fn next_wakeup(env: &Env, now: u64, due: u64, thresh: Duration) -> u64 {
    match env.clock {
        Clock::Real => due.min(after(now, (thresh / 10).max(SHORTEST_SLEEP))),
        Clock::Virtual(_) => due,
    }
}

fn stalled(env: &Env, pool: Arc<Pool>, now: u64, thresh: Duration) -> Option<Stall> {
    let watchdog = &env.watchdog;
    let touched = usize::try_from(pool.cpu())
        .ok()
        .and_then(|cpu| watchdog.touched.get(cpu))
        .unwrap_or(&watchdog.touched_any)
        .load(Ordering::Relaxed);
    let st = pool.lock();
    let (progress, waits) = (st.last_progress, !st.worklist.is_empty());
    let flags = dump::pool_flags(&pool, &st);
    drop(st);
    let counted = env.run_clock.running(progress.max(touched), now);
    (waits && counted > after(0, thresh)).then(|| Stall {
        flags,
        stuck: env.run_clock.running(progress, now),
        pool,
    })
}

fn abort_if_asked(dir: &Directory, stalls: &[Stall]) {
    let count = {
        let mut state = dir.env.watchdog.state.lock();
        state.stalls = state.stalls.saturating_add(1);
        state.stalls
    };
    let (nth, lasting) = (
        dir.env.config.watchdog_abort_at,
        dir.env.config.watchdog_abort_after.as_nanos(),
    );
    let longest = stalls.iter().map(|s| s.stuck).max().unwrap_or(0);
    let why = if nth != 0 && count >= nth {
        format!("stall number {count}")
    } else if lasting != 0 && u128::from(longest) >= lasting {
        format!("a stall of {}s", dump::seconds(longest))
    } else {
        return;
    };
    log_safely!(
        error,
        "workqueue: aborting the process, as asked for at {why}"
    );
    let _ignored = crate::sys::call_user_code(|| log::logger().flush());
    std::process::abort();
}

/// Logs one line per pool, then everything that is busy, then the runs that hold the CPUs.
fn report(dir: &Arc<Directory>, stalls: &[Stall]) {
    for s in stalls {
        let stuck = dump::seconds(s.stuck);
        let head = dump::pool_head(&s.pool, s.flags);
        log_safely!(error, "workqueue: stalled for {stuck}s: {head}");
    }
    let busy = dir.dump(|_| true);
    busy.lines()
        .for_each(|l| log_safely!(error, "workqueue: {l}"));
    for s in stalls.iter().filter(|s| !s.pool.is_unbound()) {
        let runs = dump::runs(&s.pool);
        if runs.is_empty() {
            log_safely!(error, "workqueue: pool {}: no worker is running", s.pool.id);
        }
        for run in &runs {
            let held = held_by(run);
            log_safely!(error, "workqueue: pool {}: {held}", s.pool.id);
        }
    }
}

/// What a thread does at this moment, from /proc.
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

impl Runtime {
    /// How long a pool may have items waiting without progress before that is reported; zero if the
    /// watchdog is off, as in the child of a fork.
    pub fn watchdog_thresh(&self) -> Duration {
        if self.inner.env.is_in_forked_child() {
            return Duration::ZERO;
        }
        self.inner.env.watchdog.thresh()
    }

    /// Changes that time; zero switches the watchdog off. Times before the change do not count.
    pub fn set_watchdog_thresh(&self, thresh: Duration) {
        self.inner.env.set_watchdog_thresh(thresh);
    }

    /// Counts as progress of a CPU's pools, and of the unbound ones, at this moment. For programs
    /// that know why a CPU is held up. CPUs that the runtime does not have are ignored.
    pub fn watchdog_touch(&self, cpu: usize) {
        let watchdog = &self.inner.env.watchdog;
        let Some(touched) = watchdog.touched.get(cpu) else {
            return;
        };
        if !self.inner.env.is_in_forked_child() {
            let now = self.inner.env.clock.now();
            touched.store(now, Ordering::Relaxed);
            watchdog.touched_any.store(now, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::topology::Topology;
    use crate::Flags;
    use std::sync::mpsc;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn s12_03_time_in_which_the_process_did_not_run_counts_for_no_stall() {
        let rt = Runtime::builder().topology(Topology::one_cpu());
        let rt = rt.sample_period(Duration::ZERO).start().unwrap();
        let q = rt.queue("q").flags(Flags::PERCPU).build().unwrap();
        let (open, opened) = mpsc::channel::<()>();
        let ((begin, begun), dir) = (mpsc::channel(), &rt.inner);
        let run = move || {
            begin.send(()).unwrap();
            let _ended = opened.recv();
        };
        q.try_spawn(run).map_err(|e| e.reason()).unwrap();
        begun.recv().unwrap();
        q.try_spawn(|| ()).unwrap();
        let now = dir.env.clock.now();
        let stalls_at = |seconds| {
            look(dir, now + seconds * SECOND);
            dir.env.watchdog.state.lock().stalls
        };
        // The monitor sleeps for a second, and wakes 99 seconds late.
        dir.env.run_clock.note_gap(now + SECOND, now + 100 * SECOND);
        assert_eq!(stalls_at(100), 0);
        assert_eq!(stalls_at(200), 1);
        drop(open);
        q.flush().unwrap();
    }
}
