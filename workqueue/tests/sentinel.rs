// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 5.27: the idle sentinels, on the machine's own CPUs.
//!
//! The tests look at the threads of the process, so one of them runs at a time.

mod common;
use common::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use workqueue::*;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner())
}

/// The thread whose allocations count, or 0.
static WATCHED: AtomicI32 = AtomicI32::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let watched = WATCHED.load(Ordering::Relaxed);
        // SAFETY: takes no argument and writes nothing.
        if watched != 0 && watched == unsafe { libc::gettid() } {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The thread numbers of the sentinels, by CPU.
fn sentinels() -> Vec<(usize, i32)> {
    let tasks = common::tasks().into_iter();
    let sentinel = |t: std::fs::DirEntry| {
        let name = std::fs::read_to_string(t.path().join("comm")).ok()?;
        let cpu = name.trim_end().strip_prefix("wq/idle/")?.parse().ok()?;
        Some((cpu, t.file_name().to_str()?.parse().ok()?))
    };
    let mut found: Vec<_> = tasks.filter_map(sentinel).collect();
    found.sort_unstable();
    found
}

/// A line of a thread's status.
fn status(tid: i32, line: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let found = text.lines().find_map(|l| l.strip_prefix(line));
    found.unwrap().trim().to_owned()
}

/// Samples once when a pool begins to starve, then not again for so long that only a sentinel can
/// find out what comes later.
fn hardly_sampled() -> RuntimeBuilder {
    Runtime::builder()
        .sample_period(Duration::from_secs(3600))
        .cpu_intensive_thresh(Duration::ZERO)
}

#[test]
fn s05_27_every_cpu_has_one_of_the_lowest_class() {
    let _alone = alone();
    let rt = hardly_sampled().start().unwrap();
    let cpus: Vec<usize> = rt.online_cpus().iter().collect();
    until("all have their names", || sentinels().len() == cpus.len());
    for ((cpu, tid), expected) in sentinels().into_iter().zip(cpus) {
        assert_eq!(cpu, expected);
        // SAFETY: a number in, a number out.
        until("it has its class", || unsafe {
            libc::sched_getscheduler(tid) == libc::SCHED_IDLE
        });
        assert_eq!(status(tid, "Cpus_allowed_list:"), cpu.to_string());
    }
    rt.shutdown().unwrap();
    assert_eq!(sentinels(), []);
}

#[test]
fn s05_27_they_can_be_switched_off() {
    let _alone = alone();
    for builder in [
        hardly_sampled().idle_sentinel(false),
        quiet(),
        hardly_sampled().topology(machine(2, 1)),
        Runtime::builder().virtual_clock(VirtualClock::new()),
    ] {
        let rt = builder.start().unwrap();
        // Their names come late; the worker's has come when its item runs.
        let item = Call::noop();
        rt.system_percpu().enqueue(item.clone()).unwrap();
        item.work.flush().unwrap();
        assert_eq!(sentinels(), []);
        rt.shutdown().unwrap();
    }
}

#[test]
fn s05_27_a_cpu_that_returns_has_its_sentinel_back() {
    let _alone = alone();
    let rt = hardly_sampled().start().unwrap();
    let cpus = rt.online_cpus();
    until("all have their names", || sentinels().len() == cpus.len());
    let before = sentinels();
    let (first, tid) = before[0];
    rt.set_online_cpus(Some(CpuSet::single(first)));
    rt.set_online_cpus(None);
    assert_eq!(sentinels(), before);
    until("it is in its place", || {
        status(tid, "Cpus_allowed_list:") == first.to_string()
    });
}

#[test]
fn s05_27_it_finds_a_run_asleep_and_allocates_nothing() {
    let _alone = alone();
    let rt = hardly_sampled().start().unwrap();
    let cpus = rt.online_cpus();
    until("all have their names", || sentinels().len() == cpus.len());
    let (cpu, tid) = *sentinels().last().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    for round in 1..=3 {
        let (gate, entered, go) = (Gate::new(), Gate::new(), Arc::new(AtomicBool::new(false)));
        entered.open();
        let (g, e, go_on) = (gate.clone(), entered.clone(), go.clone());
        q.enqueue_on(
            cpu,
            Call::new(move |_| {
                e.pass();
                // Until the sentinel watches, the run is seen running.
                while !go_on.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
                g.pass();
            }),
        )
        .unwrap();
        entered.wait_for(1);
        let next = Call::noop();
        q.enqueue_on(cpu, next.clone()).unwrap();
        until("the sentinel is armed", || {
            status(tid, "State:").starts_with('R')
        });
        assert_eq!(next.runs(), 0);
        WATCHED.store(tid, Ordering::SeqCst);
        go.store(true, Ordering::SeqCst);
        until("the next item has run", || next.runs() == 1);
        WATCHED.store(0, Ordering::SeqCst);
        gate.open();
        q.flush().unwrap();
        assert_eq!(q.stats().cm_wakeup, round);
    }
    assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), 0);
}
