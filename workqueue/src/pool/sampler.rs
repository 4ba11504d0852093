// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds runs that sleep undeclared, and runs that use the CPU for too long.
//!
//! Works on the monitor thread, and only while some per-CPU pool has items waiting behind a run. It
//! marks what it finds under the pool's lock. A mistake costs a surplus worker or a delay, never an
//! order or a limit. Kernel counterparts: the scheduler's calls of `wq_worker_sleeping`, and
//! `wq_worker_tick`.

use super::worker_state::{Sample, WorkerFlags, WorkerState};
use super::{Pool, PoolGuard, PoolState};
use crate::sys::{cpu, log_safely};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Without /proc, no progress over this many periods counts as sleeping.
const STILL_PERIODS: u8 = 4;

/// The time between two looks while they find sleepers.
const SHORT_PERIOD: Duration = Duration::from_micros(200);

/// A second, and the CPU time in it up to which looks are that frequent: 1 %.
const BUDGET: (u64, u64) = (1_000_000_000, 10_000_000);

/// Files kept open at most.
const KEPT_FILES: usize = 1024;

/// One worker to look at.
struct Probe {
    slot: usize,
    tid: i32,
    run: u64,
    before: Option<u64>,
    still: u8,
    finding: Option<(u64, Finding)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Running,
    Asleep,
    Unclear,
}

/// The sampler's state, kept by the monitor thread.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// A folder for each thread of the process.
    tasks: PathBuf,
    files: HashMap<i32, File>,
    period: Duration,
    /// A run was found that had gone to sleep since the look before.
    found: bool,
    /// When the look before was.
    looked: Option<u64>,
    /// When the second of the budget began, and the CPU time then.
    second: (u64, u64),
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            tasks: PathBuf::from("/proc/self/task"),
            files: HashMap::new(),
            period: Duration::ZERO,
            found: false,
            looked: None,
            second: (0, 0),
        }
    }
}

impl Sampler {
    /// Looks at all starving pools. Returns the time until the next look, at most `longest`. Where one
    /// run sleeps undeclared the next one often does, so the next look comes soon after one that has
    /// found a sleeper. None if no pool starves and the look before is `longest` ago: pools that starve
    /// for moments, again and again, wake the monitor at most twice in this time.
    pub(crate) fn sample(&mut self, pools: &[Arc<Pool>], longest: Duration) -> Option<Duration> {
        let half = u64::try_from(self.period.as_nanos() / 2).unwrap_or(u64::MAX);
        let mut any = false;
        for pool in pools {
            let st = pool.lock();
            let starves = st.is_starving();
            any |= starves;
            if starves {
                self.sample_pool(pool, st, half);
            }
        }
        let (now, used) = (cpu::monotonic_ns(), cpu::thread_cpu_ns());
        if now.saturating_sub(self.second.0) >= BUDGET.0 {
            self.second = (now, used);
        }
        let often = std::mem::take(&mut self.found) && used - self.second.1 < BUDGET.1;
        self.period = longest.min(if often { SHORT_PERIOD } else { longest });
        let before = self.looked.replace(now);
        any |= before.is_some_and(|at| Duration::from_nanos(now.saturating_sub(at)) < longest);
        any.then_some(self.period)
    }

    /// Looks at the workers of one pool. A worker that used more than `half` since the last look
    /// is running.
    fn sample_pool(&mut self, pool: &Pool, st: PoolGuard<'_>, half: u64) {
        let mut probes: Vec<Probe> = st
            .workers
            .iter()
            .filter_map(|(slot, w)| probe(slot, w))
            .collect();
        drop(st);
        for p in &mut probes {
            // A thread that has ended needs no finding.
            p.finding =
                cpu::thread_cpu_ns_of(p.tid).map(|now| (now, self.judge(pool, p, now, half)));
        }
        let mut st = pool.lock();
        let sleepers = |st: &PoolState| st.workers.iter().filter(|w| w.1.observed_asleep).count();
        let before = sleepers(&st);
        let cpu_intensive: Vec<&'static str> = probes
            .iter()
            .filter_map(|p| mark(&mut st, pool, p))
            .collect();
        self.found |= sleepers(&st) > before;
        let wake = st.kick();
        drop(st);
        wake.perform();
        cpu_intensive
            .into_iter()
            .for_each(|f| pool.env.note_cpu_intensive(f));
    }

    fn judge(&mut self, pool: &Pool, p: &Probe, now: u64, half: u64) -> Finding {
        if p.before
            .is_some_and(|before| now.saturating_sub(before) > half)
        {
            return Finding::Running;
        }
        let state = self.state_of(p.tid);
        if let Err(e) = &state {
            if !self.is_gone(e) && pool.env.first_time("proc", 0) {
                log_safely!(
                    warn,
                    "workqueue: cannot read {}: {e}; sleep is told from CPU time alone",
                    self.tasks.display()
                );
            }
        }
        self.verdict(state, p.still)
    }

    /// Judges by the state of a thread. Without one, by the periods that its CPU clock has stood
    /// still.
    fn verdict(&self, state: io::Result<u8>, still: u8) -> Finding {
        match state {
            Ok(b'R') => Finding::Running,
            Ok(b'S' | b'D') => Finding::Asleep,
            Ok(_) => Finding::Unclear,
            Err(e) if self.is_gone(&e) => Finding::Unclear,
            Err(_) if still + 1 >= STILL_PERIODS => Finding::Asleep,
            Err(_) => Finding::Unclear,
        }
    }

    /// True if the thread has ended; false if /proc cannot be read.
    fn is_gone(&self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::ESRCH) => true,
            Some(libc::ENOENT) => self.tasks.is_dir(),
            _ => false,
        }
    }

    /// The state letter of a thread. Its file is kept open, as reading it is then twice as fast.
    fn state_of(&mut self, tid: i32) -> io::Result<u8> {
        let mut text = [0u8; 128];
        if let Some(file) = self.files.get(&tid) {
            if let Ok(n) = file.read_at(&mut text, 0) {
                return state_letter(&text[..n]);
            }
            // The thread has ended; the number may be another one's by now.
            self.files.remove(&tid);
        }
        let file = File::open(self.tasks.join(format!("{tid}/stat")))?;
        let n = file.read_at(&mut text, 0)?;
        if self.files.len() >= KEPT_FILES {
            self.files.clear();
        }
        self.files.insert(tid, file);
        state_letter(&text[..n])
    }
}

/// The letter behind the last `)`: the name in front of it may hold spaces and brackets.
pub(crate) fn state_letter(stat: &[u8]) -> io::Result<u8> {
    let end = stat.iter().rposition(|&b| b == b')');
    end.and_then(|e| stat.get(e + 2))
        .copied()
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn probe(slot: usize, w: &WorkerState) -> Option<Probe> {
    if w.current.is_none() || !(w.counted() || w.observed_asleep) {
        return None;
    }
    let known = (w.sample.run == w.runs).then_some(w.sample);
    let still = known.map_or(0, |s| s.still);
    Some(Probe {
        slot,
        tid: w.thread.tid,
        run: w.runs,
        before: known.map(|s| s.cpu_ns),
        still,
        finding: None,
    })
}

/// Applies a finding if the worker is still in the same run. Returns the function if it has now
/// used the CPU for too long.
/// # Context: the pool's lock held.
fn mark(st: &mut PoolState, pool: &Pool, p: &Probe) -> Option<&'static str> {
    let (now, finding) = p.finding?;
    if !st.workers.is_present(p.slot) || st.workers.get(p.slot).runs != p.run {
        return None;
    }
    let worker = st.workers.get_mut(p.slot);
    let current = worker.current?;
    if worker.sample.run != p.run {
        worker.sample = Sample {
            run: p.run,
            burn_from: current.cpu_start,
            ..Sample::default()
        };
    }
    let moved = worker.sample.cpu_ns != now;
    worker.sample.cpu_ns = now;
    worker.sample.still = if moved {
        0
    } else {
        worker.sample.still.saturating_add(1)
    };
    match finding {
        Finding::Running => {
            let from = *worker.sample.burn_from.get_or_insert(now);
            let was_counted = worker.counted();
            st.update(p.slot, |w| w.observed_asleep = false);
            let burnt = Duration::from_nanos(now.saturating_sub(from));
            if was_counted && pool.env.is_cpu_intensive(burnt) {
                st.set_flags(p.slot, WorkerFlags::CPU_INTENSIVE);
                st.pwqs.get_mut(current.pwq).stats.cpu_intensive += 1;
                return Some(current.function);
            }
        }
        Finding::Asleep => {
            worker.sample.burn_from = None;
            let was_counted = worker.counted();
            st.update(p.slot, |w| w.observed_asleep = true);
            // As for a declared sleep: counted if it lets the next item start.
            if was_counted && st.need_more_worker() && st.may_start_working() {
                st.pwqs.get_mut(current.pwq).stats.cm_wakeup += 1;
            }
        }
        Finding::Unclear => {}
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s05_23_the_state_is_behind_the_last_bracket() {
        assert_eq!(state_letter(b"12 (kworker/0:0) S 1 2").unwrap(), b'S');
        assert_eq!(state_letter(b"12 (a) R (b) D 1 2").unwrap(), b'D');
        assert!(state_letter(b"12 (cut off").is_err());
    }

    #[test]
    fn s05_22_a_look_soon_after_another_is_followed_by_one_a_period_later() {
        let (mut sampler, hour) = (Sampler::default(), Duration::from_secs(3600));
        assert_eq!(sampler.sample(&[], hour), None, "the first for long");
        assert_eq!(sampler.sample(&[], hour), Some(hour), "the next one waits");
        assert_eq!(sampler.sample(&[], Duration::ZERO), None, "long after");
    }

    #[test]
    fn s05_23_a_thread_that_has_gone_is_no_error() {
        let mut sampler = Sampler::default();
        let gone = sampler.state_of(i32::MAX);
        assert_eq!(sampler.verdict(gone, u8::MAX - 1), Finding::Unclear);
        let ended = io::Error::from_raw_os_error(libc::ESRCH);
        assert_eq!(sampler.verdict(Err(ended), u8::MAX - 1), Finding::Unclear);
    }

    #[test]
    fn s05_25_without_proc_a_clock_that_stands_still_for_four_periods_means_asleep() {
        let mut sampler = Sampler {
            tasks: PathBuf::from("/nowhere/task"),
            ..Sampler::default()
        };
        for (still, finding) in [
            (0, Finding::Unclear),
            (2, Finding::Unclear),
            (3, Finding::Asleep),
        ] {
            let unreadable = sampler.state_of(cpu::current_tid());
            assert_eq!(sampler.verdict(unreadable, still), finding);
        }
        let refused = io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(sampler.verdict(Err(refused), 3), Finding::Asleep);
    }

    #[test]
    fn s05_20_the_caller_is_seen_running() {
        let mut sampler = Sampler::default();
        let tid = cpu::current_tid();
        for _ in 0..3 {
            assert_eq!(sampler.state_of(tid).unwrap(), b'R');
        }
        assert!(cpu::thread_cpu_ns_of(tid).is_some());
    }
}
