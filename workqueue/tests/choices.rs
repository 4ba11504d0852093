// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statements of sections 4, 8, 9, 10 and 12 that are about one choice or one count each.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use workqueue::*;

const MS: Duration = Duration::from_millis(1);

/// The first line of a dump that begins like this, after blanks.
fn line(dump: &str, beginning: &str) -> String {
    let found = dump.lines().find(|l| l.trim_start().starts_with(beginning));
    found.unwrap_or_default().trim_start().to_owned()
}

/// What the dump of a queue says of the pool an item for `cpu` runs in.
fn pool_line(rt: &Runtime, q: &Queue, cpu: usize) -> String {
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue_on(cpu, Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let dump = rt.dump_queue(q);
    gate.open();
    q.flush().unwrap();
    let line = line(&dump, "pwq of pool");
    line.split(" active=").next().unwrap().to_owned()
}

#[test]
fn s04_01_each_cpu_has_two_pools_and_a_queue_uses_one_of_them() {
    let rt = runtime(2);
    let queue = |flags| rt.queue("q").flags(PERCPU | flags).build().unwrap();
    let mut pools = Vec::new();
    for (flags, nice) in [(Flags::empty(), "nice=0"), (Flags::HIGHPRI, "nice=-20")] {
        let (one, two) = (queue(flags), queue(flags | Flags::MEM_RECLAIM));
        for cpu in 0..2 {
            let pool = pool_line(&rt, &one, cpu);
            let cpus = format!(" cpus={cpu} ");
            assert!(pool.contains(&cpus) && pool.ends_with(nice), "{pool}");
            assert_eq!(
                pool_line(&rt, &two, cpu),
                pool,
                "shared by all queues of the kind"
            );
            pools.push(pool);
        }
    }
    pools.sort();
    pools.dedup();
    assert_eq!(pools.len(), 4);
}

/// Enqueues `n` items from a run on `cpu` and tells in which unbound pools they ran.
fn pools_of_items_from(rt: &Runtime, q: &Queue, cpu: usize, n: usize) -> Vec<String> {
    let seen = Log::new();
    let (s, handle) = (seen.clone(), q.clone());
    let enqueuer = Call::new(move |_| {
        for _ in 0..n {
            let s = s.clone();
            let note = move |_: &Arc<Call>| {
                let name = std::thread::current().name().unwrap().to_owned();
                s.add(name.split(':').next().unwrap().to_owned());
            };
            handle.enqueue(Call::new(note)).unwrap();
        }
    });
    rt.system_percpu().enqueue_on(cpu, enqueuer).unwrap();
    rt.system_percpu().flush().unwrap();
    q.flush().unwrap();
    let mut pools = seen.all();
    pools.sort();
    pools
}

fn pool_per_cpu() -> Attrs {
    Attrs {
        scope: Some(Scope::Cpu),
        ..Attrs::new()
    }
}

#[test]
fn s04_05_an_unbound_item_starts_from_the_enqueuers_cpu() {
    let rt = runtime(3);
    let q = rt
        .queue("q")
        .flags(UNBOUND)
        .attrs(pool_per_cpu())
        .build()
        .unwrap();
    let mut all = Vec::new();
    for cpu in 0..3 {
        let pools = pools_of_items_from(&rt, &q, cpu, 5);
        assert_eq!(pools, vec![pools[0].clone(); 5], "from CPU {cpu}");
        let id = pool_line(&rt, &q, cpu);
        let id = id
            .trim_start_matches("pwq of pool ")
            .split(':')
            .next()
            .unwrap()
            .to_owned();
        assert_eq!(pools[0], format!("kworker/u{id}"), "the pool of CPU {cpu}");
        all.push(id);
    }
    all.dedup();
    assert_eq!(all.len(), 3);
}

#[test]
fn s04_05_force_rr_cpu_ignores_the_enqueuers_cpu() {
    let rt = quiet()
        .topology(machine(3, 1))
        .force_rr_cpu(true)
        .start()
        .unwrap();
    let q = rt
        .queue("q")
        .flags(UNBOUND)
        .attrs(pool_per_cpu())
        .build()
        .unwrap();
    let pools = pools_of_items_from(&rt, &q, 1, 9);
    let count = |p: &String| pools.iter().filter(|q| *q == p).count();
    assert!(pools.iter().all(|p| count(p) == 3), "{pools:?}");
}

#[test]
fn s08_10_congested_tells_each_cpus_share() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    assert!(!q.congested(0) && !q.congested(1) && !q.congested(7));
    let (gate, here) = (Gate::new(), Log::new());
    let (g, log, own) = (gate.clone(), here.clone(), q.handle());
    let runs = Call::new(move |_| {
        g.pass();
        log.add(own.congested(None));
    });
    q.enqueue_on(1, runs).unwrap();
    gate.wait_for(1);
    assert!(!q.congested(1), "one item runs, none is held back");
    let held = Call::noop();
    q.enqueue_on(1, held.clone()).unwrap();
    assert!(q.congested(1) && !q.congested(0));
    assert!(held.work.cancel().is_some());
    assert!(!q.congested(1));
    q.enqueue_on(1, held).unwrap();
    gate.open();
    q.flush().unwrap();
    assert_eq!(here.all(), [true], "of the CPU that the caller is on");
}

#[test]
fn s09_06_max_active_holds_an_item_back_at_expiry() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| blocking(|| g.pass())))
        .unwrap();
    gate.wait_for(1);
    let item = Later::noop();
    q.enqueue_delayed(MS, item.clone()).unwrap();
    assert!(!q.congested(0), "with its timer it holds no place");
    clock.advance(MS);
    until("it is held back", || q.congested(0));
    assert_eq!(item.runs(), 0);
    gate.open();
    q.flush().unwrap();
    assert_eq!(item.runs(), 1);
}

#[test]
fn s09_06_a_freeze_holds_an_item_back_at_expiry() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt
        .queue("q")
        .flags(PERCPU | Flags::FREEZABLE)
        .build()
        .unwrap();
    let item = Later::noop();
    q.enqueue_delayed(MS, item.clone()).unwrap();
    rt.freeze_begin();
    clock.advance(MS);
    until("it is held back", || q.congested(0));
    assert_eq!(item.runs(), 0);
    rt.thaw();
    q.flush().unwrap();
    assert_eq!(item.runs(), 1);
}

#[test]
fn s09_06_an_item_that_runs_is_queued_where_it_runs_at_expiry() {
    let (rt, clock, events) = four_cpus_watched();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let item = Later::new(move |_| g.pass());
    q.enqueue_on(1, item.clone()).unwrap();
    gate.wait_for(1);
    q.enqueue_delayed_on(3, MS, item.clone()).unwrap();
    clock.advance(MS);
    until("it is queued", || events.all().len() == 2);
    assert_eq!(events.all(), [(1, 1), (3, 1)]);
    gate.open();
    item.work.flush().unwrap();
    q.flush().unwrap();
    assert_eq!(item.runs(), 2);
}

#[test]
fn s10_04_a_barrier_goes_with_its_item_to_another_worker() {
    let rt = runtime(1);
    // Two queues of one pool, so that the item can be queued while it runs without sticking.
    let queue = |name| rt.queue(name).flags(UNBOUND).build().unwrap();
    let (a, b) = (queue("a"), queue("b"));
    let gate = Gate::new();
    let g = gate.clone();
    let item = Call::new(move |me| {
        if me.runs() == 1 {
            g.pass();
        }
    });
    a.enqueue(item.clone()).unwrap();
    gate.wait_for(1);
    b.enqueue(item.clone()).unwrap();
    let flusher = {
        let item = item.clone();
        std::thread::spawn(move || (item.work.flush(), item.runs()))
    };
    // On the private list of the worker that runs it, the barrier behind it; and shown as BAR.
    until("both are there", || {
        rt.dump_queue(&a).contains("[call, BAR]")
    });
    // A flush of the second queue waits for both, in the item's colour.
    gate.open();
    b.flush().unwrap();
    assert_eq!(item.runs(), 2);
    assert_eq!(flusher.join().unwrap(), (Ok(true), 2));
}

#[test]
fn s10_06_after_a_flush_the_item_is_idle_unless_queued_anew() {
    let rt = runtime(2);
    let idle = Busy {
        pending: false,
        running: false,
    };
    for flags in [PERCPU, UNBOUND] {
        let q = rt.queue("q").flags(flags).build().unwrap();
        let item = Call::noop();
        for n in 0..300 {
            q.enqueue_on(n % 2, item.clone()).unwrap();
            item.work.flush().unwrap();
            assert_eq!((item.work.busy(), item.runs()), (idle, n + 1));
        }
    }
}

#[test]
fn s10_09_a_refused_item_comes_back_and_is_idle() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let drainer = {
        let q = q.handle();
        std::thread::spawn(move || q.drain())
    };
    let item = Call::noop();
    // Until the drain has begun the item is accepted, and taken back.
    let refused = loop {
        match q.enqueue(item.clone()) {
            Ok(()) => drop(item.work.cancel().unwrap()),
            Err(refused) => break refused,
        }
        std::thread::yield_now();
    };
    assert_eq!(refused.reason(), Refusal::Draining);
    assert!(!item.work.is_pending());
    let back = refused.into_inner();
    assert!(Arc::ptr_eq(&back, &item));
    drop(back);
    assert_eq!(Arc::strong_count(&item), 1);
    gate.open();
    drainer.join().unwrap().unwrap();
    let handle = q.handle();
    q.destroy().unwrap();
    let refused = handle.enqueue(item.clone()).unwrap_err();
    assert_eq!(refused.reason(), Refusal::Destroyed);
    assert!(Arc::ptr_eq(&refused.into_inner(), &item) && !item.work.is_pending());
}

/// Keeps what the crate warns about in this process.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn s10_16_a_flush_of_a_system_queue_warns_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&WARNINGS).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
    let rt = runtime(1);
    let item = Call::noop();
    rt.system_freezable().enqueue(item.clone()).unwrap();
    rt.system_freezable().flush().unwrap();
    assert_eq!(item.runs(), 1, "it works");
    rt.system_freezable().flush().unwrap();
    let of_it = |w: &&String| w.contains("system queue events_freezable");
    assert_eq!(WARNINGS.0.lock().unwrap().iter().filter(of_it).count(), 1);
}

/// This thread's CPU time.
fn cpu_time() -> Duration {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` is valid for writing.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    assert_eq!(rc, 0);
    Duration::new(t.tv_sec.try_into().unwrap(), t.tv_nsec.try_into().unwrap())
}

#[test]
fn s12_01_s05_26_cpu_time_is_what_the_runs_used() {
    for accounting in [true, false] {
        let rt = quiet()
            .topology(machine(1, 1))
            .cpu_accounting(accounting)
            .start()
            .unwrap();
        let q = rt.queue("q").flags(PERCPU).build().unwrap();
        for _ in 0..2 {
            q.enqueue(Call::new(|_| {
                let begun = cpu_time();
                while cpu_time() - begun < MS * 5 {}
            }))
            .unwrap();
        }
        q.flush().unwrap();
        let used = q.stats().cpu_time;
        if accounting {
            assert!(used >= MS * 10, "{used:?}");
        } else {
            assert_eq!(used, Duration::ZERO);
        }
    }
}

#[test]
fn s12_01_each_counter_counts_its_own_and_only_rises() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (sleeper, next) = (Gate::new(), Call::noop());
    let (s, ready) = (sleeper.clone(), Gate::new());
    let r = ready.clone();
    q.enqueue(Call::new(move |_| {
        r.pass();
        blocking(|| s.pass());
    }))
    .unwrap();
    ready.wait_for(1);
    q.enqueue(next.clone()).unwrap();
    ready.open();
    next.work.flush().unwrap();
    let early = q.stats();
    assert_eq!((early.started, early.completed, early.cm_wakeup), (2, 1, 1));
    sleeper.open();
    q.enqueue(Call::new(|_| std::panic::panic_any("on purpose")))
        .unwrap();
    q.enqueue(Call::new(|_| std::mem::forget(BlockingGuard::new())))
        .unwrap();
    q.flush().unwrap();
    let late = q.stats();
    assert_eq!((late.started, late.completed, late.cm_wakeup), (4, 4, 1));
    assert_eq!(
        (late.panicked, late.leaked_state, late.refused_timer),
        (1, 1, 0)
    );
    assert_eq!((late.mayday, late.rescued, late.repatriated), (0, 0, 0));
    assert!(late.cpu_time >= early.cpu_time);
}

#[test]
fn s12_06_s12_08_events_carry_the_items_and_the_cpus() {
    let (events, on) = (Log::new(), Arc::new(AtomicBool::new(true)));
    let (sink, o) = (events.clone(), on.clone());
    let rt = quiet()
        .topology(machine(2, 1))
        .trace_sink(move |e| {
            if o.load(Ordering::SeqCst) {
                sink.add(format!("{} {e:?}", e.name()));
            }
        })
        .start()
        .unwrap();
    for (flags, req, requested, cpu) in [
        (PERCPU, Some(1), 1, 1),
        (UNBOUND, Some(1), 1, -1),
        (UNBOUND, None, -1, -1),
    ] {
        let q = rt.queue("q").flags(flags).build().unwrap();
        let item = Call::noop();
        let work = std::ptr::from_ref(&item.work).addr();
        match req {
            Some(cpu) => q.enqueue_on(cpu, item.clone()).unwrap(),
            None => q.enqueue(item.clone()).unwrap(),
        }
        q.flush().unwrap();
        let (function, workqueue, req_cpu) = ("call", "q", requested);
        let expected = [
            TraceEvent::Queue {
                work,
                function,
                workqueue,
                req_cpu,
                cpu,
            },
            TraceEvent::Activate { work, function },
            TraceEvent::ExecuteStart { work, function },
            TraceEvent::ExecuteEnd { work, function },
        ];
        let names = [
            "queue_work",
            "activate_work",
            "execute_start",
            "execute_end",
        ];
        let lines = names
            .iter()
            .zip(expected)
            .map(|(n, e)| format!("workqueue_{n} {e:?}"));
        let all = events.all();
        assert_eq!(all[all.len() - 4..], lines.collect::<Vec<_>>());
    }
    assert_eq!(events.all().len(), 12);
}
