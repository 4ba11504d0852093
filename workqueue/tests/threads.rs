// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 1: the threads behind the pools, their names, their priorities, their locks.
//!
//! They look at the threads of the process, so one of them runs at a time.

mod common;
use common::*;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use workqueue::*;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner())
}

/// A made-up machine with one CPU of this number.
fn one_cpu(cpu: usize) -> Topology {
    Topology::simulated(vec![CpuPlace {
        cpu,
        core: 0,
        cache: 0,
        node: 0,
    }])
}

/// A line of a thread's status.
fn status(tid: i32, line: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let found = text.lines().find_map(|l| l.strip_prefix(line));
    found.unwrap().trim().to_owned()
}

/// The nice value of a thread of this process; 0 is the calling one.
fn nice_of(tid: i32) -> i32 {
    // SAFETY: plain numbers in and out.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, tid as libc::id_t) }
}

/// Runs `body` on a thread, and threads made by it, that may not lower a nice value.
fn without_the_right_to_lower_nice<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    let restricted = || {
        // Version 3 of the header, for the calling thread; three words per half of the set.
        let mut header = [0x2008_0522u32, 0];
        let mut sets = [0u32; 6];
        // SAFETY: the two arrays have the sizes this version of the call reads and writes.
        unsafe {
            assert_eq!(
                libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()),
                0
            );
            const CAP_SYS_NICE: u32 = 23;
            sets[0] &= !(1 << CAP_SYS_NICE);
            sets[1] &= !(1 << CAP_SYS_NICE);
            assert_eq!(
                libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()),
                0
            );
        }
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the limit is only read. Any process may lower it.
        unsafe { libc::setrlimit(libc::RLIMIT_NICE, &none) };
        body()
    };
    thread::scope(|s| s.spawn(restricted).join().unwrap())
}

#[test]
fn s01_06_workers_are_named_threads_of_this_process_from_the_start() {
    let _alone = alone();
    let rt = quiet().topology(one_cpu(61)).start().unwrap();
    assert_eq!(
        threads_named("kworker/61:"),
        ["kworker/61:0", "kworker/61:0H"]
    );
    // The second worker comes with the first item, and has its name before that begins.
    let seen = Log::new();
    let s = seen.clone();
    let item = Call::new(move |_| s.add(threads("kworker/61:1").len()));
    rt.system_percpu().enqueue(item.clone()).unwrap();
    item.work.flush().unwrap();
    assert_eq!(seen.all(), [1]);
    rt.shutdown().unwrap();
    no_thread_named("kworker/61:");
}

#[test]
fn s01_08_workers_have_the_nice_value_of_their_pool() {
    let _alone = alone();
    let base = nice_of(0);
    let slower = (base + 5).min(19);
    let lowered = without_the_right_to_lower_nice(|| {
        let rt = quiet().topology(one_cpu(62)).start().unwrap();
        let slow = Attrs {
            nice: slower,
            ..Attrs::new()
        };
        let q = rt.queue("q").flags(UNBOUND).attrs(slow).build().unwrap();
        let reclaim = rt.queue("denied").flags(PERCPU | Flags::MEM_RECLAIM);
        let reclaim = reclaim.build().unwrap();
        let seen = Log::new();
        for queue in [&q, rt.system_percpu(), rt.system_highpri()] {
            let s = seen.clone();
            let item = Call::new(move |_| s.add(nice_of(0)));
            queue.enqueue(item.clone()).unwrap();
            item.work.flush().unwrap();
        }
        // The highpri pool could not have -20: it runs at the process's, and says so.
        assert_eq!(seen.all(), [slower, base.max(0), base]);
        let (rescuer, _) = threads("kworker/R-denie").pop_first().unwrap();
        assert_eq!(nice_of(rescuer), base);
        let gate = Gate::new();
        let g = gate.clone();
        rt.system_highpri()
            .enqueue(Call::new(move |_| g.pass()))
            .unwrap();
        gate.wait_for(1);
        let dump = rt.dump_all();
        gate.open();
        drop(reclaim);
        dump
    });
    let of_pool = |l: &&str| l.starts_with("pool") && l.contains("nice=-20");
    let line = lowered.lines().find(of_pool).unwrap();
    assert!(line.contains("nice_denied"), "{lowered}");
    // With the right, which this process may or may not have, they have it.
    let rt = quiet().topology(one_cpu(63)).start().unwrap();
    let may = threads("kworker/63:0H").into_keys().map(nice_of).next();
    let q = rt.queue("may").flags(PERCPU | Flags::MEM_RECLAIM).build();
    let rescuer = threads("kworker/R-may").into_keys().map(nice_of).next();
    assert!(q.is_ok() && [Some(-20), Some(base)].contains(&may));
    assert_eq!(rescuer, may);
}

#[test]
fn s01_08_with_strict_priority_a_thread_without_its_nice_value_is_a_failure() {
    let _alone = alone();
    without_the_right_to_lower_nice(|| {
        let strict = || quiet().strict_priority(true);
        let refused = strict().topology(one_cpu(64)).start().map(drop);
        // The normal pool's 0 is too low as well if the process was started at a higher one.
        let (thread, nice) = if nice_of(0) > 0 {
            ("kworker/64:0", 0)
        } else {
            ("kworker/64:0H", -20)
        };
        let thread = thread.to_owned();
        assert_eq!(refused, Err(StartError::Nice { thread, nice }));
        no_thread_named("kworker/64:");
        // A rescuer of before the start is the first to be made.
        let rt = strict().topology(one_cpu(65)).build_early();
        let reclaim = PERCPU | Flags::MEM_RECLAIM;
        let q = rt.queue("strict").flags(reclaim).build().unwrap();
        let expected = StartError::Nice {
            thread: "kworker/R-strict".into(),
            nice: -20,
        };
        assert_eq!(rt.start(), Err(expected));
        no_thread_named("kworker/R-stric");
        drop(q);
    });
}

#[test]
fn s01_08_with_strict_priority_a_queue_without_its_rescuer_is_not_made() {
    let _alone = alone();
    // Started with the right, as far as this process has it.
    let start = quiet().strict_priority(true).topology(one_cpu(66)).start();
    let made = |rt: &Runtime| {
        without_the_right_to_lower_nice(|| {
            let reclaim = PERCPU | Flags::MEM_RECLAIM;
            rt.queue("later").flags(reclaim).build().map(drop)
        })
    };
    match start {
        Ok(rt) => {
            let refused = AllocError::Spawn {
                name: "later".into(),
                errno: libc::EPERM,
            };
            assert_eq!(made(&rt), Err(refused));
            no_thread_named("kworker/R-later");
        }
        // Without the right nothing starts at all.
        Err(e) => assert!(matches!(e, StartError::Nice { .. })),
    }
}

#[test]
fn s01_11_an_item_that_does_not_wait_involves_no_helper() {
    let _alone = alone();
    // Samples are on; the other reasons to wake up are far away.
    let hour = std::time::Duration::from_secs(3600);
    let rt = Runtime::builder()
        .topology(one_cpu(67))
        .cpu_poll(hour)
        .watchdog_thresh(hour)
        .start()
        .unwrap();
    until("both have their names", || threads("wq/").len() == 2);
    let helpers: Vec<i32> = threads("wq/").into_keys().collect();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Call::noop();
    let run = || {
        let before = item.runs();
        q.enqueue(item.clone()).unwrap();
        until("it has run", || {
            item.runs() == before + 1 && !item.work.busy().running
        });
    };
    // The first item has the second worker made.
    run();
    let switches = || {
        let of = |&tid: &i32| status(tid, "voluntary_ctxt_switches:");
        helpers.iter().map(of).collect::<Vec<_>>()
    };
    // What the warm-up has left to do may still go on in the first rounds.
    let is_quiet = |_| {
        let before = switches();
        (0..200).for_each(|_| run());
        switches() == before
    };
    assert!((0..10).any(is_quiet), "the helpers wake up all the time");
}

#[test]
fn s01_12_a_thread_that_waits_for_a_pool_sleeps() {
    let _alone = alone();
    // A sink is called with the pool's lock held: this one keeps it.
    let gate = Gate::new();
    let g = gate.clone();
    let rt = quiet()
        .topology(one_cpu(68))
        .trace_sink(move |e| {
            if matches!(e, TraceEvent::Queue { workqueue, .. } if *workqueue == "held") {
                g.pass();
            }
        })
        .start()
        .unwrap();
    let held = rt.queue("held").flags(PERCPU).build().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let items = [Call::noop(), Call::noop()];
    let tid = Log::new();
    thread::scope(|s| {
        s.spawn(|| held.enqueue(items[0].clone()).unwrap());
        gate.wait_for(1);
        s.spawn(|| {
            // SAFETY: takes no argument and writes nothing.
            tid.add(unsafe { libc::gettid() });
            q.enqueue(items[1].clone()).unwrap();
        });
        // One that spins would be seen running for ever.
        until("it sleeps", || {
            let tid = tid.all().first().copied();
            tid.is_some_and(|tid| status(tid, "State:").starts_with('S'))
        });
        assert_eq!(items[1].runs(), 0);
        gate.open();
    });
    held.flush().unwrap();
    q.flush().unwrap();
    assert!(items.iter().all(|i| i.runs() == 1));
}
