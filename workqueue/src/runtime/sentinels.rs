// SPDX-License-Identifier: MIT OR Apache-2.0
//! The idle sentinels of a runtime: one thread per CPU, made at start and when a CPU arrives.
//!
//! [`crate::pool::sampler`] says which pools starve; [`RuntimeInner::hear_sentinels`] brings what
//! the threads have found back to it. What the threads and the monitor share is in
//! [`crate::pool::sentinel`].

use super::RuntimeInner;
use crate::pool::sampler::{self, Sampler};
use crate::pool::sentinel::{Round, Sentinel, POOLS};
use crate::pool::worker::{errno_of, AbortOnUnwind};
use crate::pool::{Pool, PoolKind};
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::Mutex;
use std::fs::File;
use std::io::{Cursor, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// One thread and what it shares.
#[derive(Debug)]
struct Stationed {
    sentinel: Arc<Sentinel>,
    /// 0 until it has begun.
    tid: Arc<AtomicI32>, // A: written by the thread
    handle: JoinHandle<()>,
}

/// All of them; none if they are switched off.
#[derive(Debug)]
pub(crate) struct Sentinels {
    on: bool, // I
    stationed: Mutex<Vec<Stationed>>,
}

impl Stationed {
    /// Does nothing before the thread has begun, nor after its end.
    /// # Context: the thread has not been told to end.
    fn bind(&self, how: impl FnOnce(i32)) {
        let tid = self.tid.load(Ordering::Relaxed);
        if tid != 0 {
            how(tid);
        }
    }
}

impl Sentinels {
    pub(crate) fn new(on: bool) -> Self {
        Self {
            on,
            stationed: Mutex::default(),
        }
    }
}

/// Which of its CPU's two pools this is, and the CPU; None for pools that do not count.
fn place_of(pool: &Pool) -> Option<(usize, usize)> {
    match pool.kind {
        PoolKind::PerCpu { cpu } => Some((cpu, usize::from(pool.nice < 0))),
        _ => None,
    }
}

impl RuntimeInner {
    /// A CPU is in use: it has a sentinel from now on, at its place.
    /// # Context: the start, or the monitor thread.
    pub(crate) fn station_sentinel(self: &Arc<Self>, cpu: usize) -> Result<(), i32> {
        if !self.sentinels.on {
            return Ok(());
        }
        let mut stationed = self.sentinels.stationed.lock();
        if let Some(own) = stationed.iter().find(|s| s.sentinel.cpu == cpu) {
            // The system has moved it while the CPU was away.
            own.bind(|tid| {
                let _ended = self.bind_other(tid, &CpuSet::single(cpu));
            });
            return Ok(());
        }
        let (sentinel, tid) = (Arc::new(Sentinel::new(cpu)), Arc::new(AtomicI32::new(0)));
        let (own, own_tid, rt) = (sentinel.clone(), tid.clone(), self.clone());
        let body = move || {
            let _abort = AbortOnUnwind;
            own_tid.store(cpu::current_tid(), Ordering::Relaxed);
            stand(&own, &rt);
            own_tid.store(0, Ordering::Relaxed);
        };
        let handle = self
            .spawn_thread(format!("wq/idle/{cpu}"), body)
            .map_err(|e| errno_of(&e))?;
        stationed.push(Stationed {
            sentinel,
            tid,
            handle,
        });
        Ok(())
    }

    /// Ends all sentinels.
    /// # Context: the monitor thread has ended.
    pub(crate) fn dismiss_sentinels(&self) {
        let stationed = std::mem::take(&mut *self.sentinels.stationed.lock());
        for own in &stationed {
            // Its CPU may be busy for long; on all of them it finds its end sooner.
            own.bind(|tid| self.set_free(tid));
            own.sentinel.stop();
        }
        for own in stationed {
            // A sentinel's own panic ends the process, so there is no outcome to look at.
            let _outcome = own.handle.join();
        }
    }

    /// Has the sentinel of the pool's CPU look at this worker, or at none.
    /// # Context: the monitor thread, no pool lock held.
    pub(crate) fn arm_sentinel(&self, pool: &Pool, worker: Option<i32>) {
        let Some((cpu, nth)) = place_of(pool).filter(|_| self.sentinels.on) else {
            return;
        };
        let stationed = self.sentinels.stationed.lock();
        let Some(own) = stationed.iter().find(|s| s.sentinel.cpu == cpu) else {
            return;
        };
        match worker {
            None => own.sentinel.disarm(nth),
            same if same == own.sentinel.armed_with(nth) => {}
            Some(tid) => {
                own.sentinel.arm(nth, tid);
            }
        }
    }

    /// Looks, under their locks, at the pools whose workers were found asleep.
    /// # Context: the monitor thread, no lock of the crate held.
    pub(crate) fn hear_sentinels(&self, sampler: &mut Sampler) {
        let mut found = Vec::new();
        for own in &*self.sentinels.stationed.lock() {
            let pools = 0..POOLS;
            let asleep = pools.filter(|&nth| own.sentinel.take_post(nth).is_some());
            found.extend(asleep.map(|nth| (own.sentinel.cpu, nth)));
        }
        for (cpu, nth) in found {
            if let Some(pools) = self.pools_of(cpu) {
                sampler.look_again(self, [&pools.normal, &pools.highpri][nth]);
            }
        }
    }
}

/// The life of a sentinel.
fn stand(sentinel: &Sentinel, rt: &RuntimeInner) {
    rt.bind_current(&CpuSet::single(sentinel.cpu));
    if let Err(e) = cpu::set_current_idle() {
        if rt.first_time("idle class", 0) {
            log::warn!("workqueue: no idle sentinels, SCHED_IDLE is refused: {e}");
        }
        return;
    }
    let mut posted = [None; POOLS];
    while !sentinel.wait() {
        loop {
            match sentinel.round(&mut posted, is_runnable) {
                Round::Nothing => break,
                // Without this it would stay on the CPU for the rest of its time slice.
                Round::Runnable => thread::yield_now(),
                Round::Posted => rt.monitor.hear(),
            }
            if sentinel.is_stopped() {
                break;
            }
        }
    }
}

/// Does this thread run, or want to? Neither locks nor allocates: the path fits into the room that
/// the standard library keeps on the stack for it.
fn is_runnable(tid: i32) -> bool {
    let mut path = [0u8; 48];
    let mut end = Cursor::new(&mut path[..]);
    let written = write!(end, "/proc/self/task/{tid}/stat");
    let len = usize::try_from(end.position()).unwrap_or(0);
    let path = std::str::from_utf8(&path[..len]);
    let (Ok(()), Ok(path)) = (written, path) else {
        return false;
    };
    let mut text = [0u8; 128];
    let state = File::open(Path::new(path))
        .and_then(|file| file.read_at(&mut text, 0))
        .and_then(|n| sampler::state_letter(&text[..n]));
    // What cannot be read is for the monitor to judge.
    matches!(state, Ok(b'R'))
}
