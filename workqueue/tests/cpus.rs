// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 11: CPUs that leave and return. Section 1.13: the child of a fork.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use workqueue::*;

#[test]
fn s11_10_a_cpu_that_leaves_holds_nothing_back() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    // This run does not sleep, so CPU 1 starts nothing else.
    q.enqueue_on(1, Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let waiting = Call::noop();
    q.enqueue_on(1, waiting.clone()).unwrap();
    rt.set_online_cpus(Some(CpuSet::single(0)));
    assert_eq!(rt.online_cpus().to_list(), "0");
    waiting.work.flush().unwrap();
    assert_eq!(waiting.runs(), 1);
    // Enqueues to that CPU still work, and it is not chosen for items that ask for none.
    let late = Call::noop();
    q.enqueue_on(1, late.clone()).unwrap();
    late.work.flush().unwrap();
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s04_02_without_a_request_an_online_cpu_is_chosen() {
    let seen = Log::new();
    let sink = seen.clone();
    let rt = quiet()
        .topology(machine(4, 1))
        .trace_sink(move |e| {
            if let TraceEvent::Queue {
                cpu,
                workqueue: "q",
                ..
            } = *e
            {
                sink.add(cpu);
            }
        })
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    rt.set_online_cpus(Some(CpuSet::parse_list("2-3").unwrap()));
    for _ in 0..10 {
        q.enqueue(Call::noop()).unwrap();
    }
    q.flush().unwrap();
    assert!(seen.all().iter().all(|cpu| [2, 3].contains(cpu)));
    assert!(
        seen.all().contains(&2) && seen.all().contains(&3),
        "round-robin"
    );
}

#[test]
fn s11_11_a_cpu_that_returns_counts_from_the_next_batch_on() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue_on(1, Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    rt.set_online_cpus(Some(CpuSet::single(0)));
    rt.set_online_cpus(None);
    assert_eq!(rt.online_cpus().to_list(), "0-1");
    // The run that was going on is not counted, so the next item starts beside it.
    let (second, s) = (Gate::new(), Call::noop());
    let g = second.clone();
    q.enqueue_on(1, Call::new(move |_| g.pass())).unwrap();
    second.wait_for(1);
    // That one is counted: nothing else starts.
    q.enqueue_on(1, s.clone()).unwrap();
    assert!(
        rt.dump_queue(&q).contains("pending: call"),
        "{}",
        rt.dump_queue(&q)
    );
    second.open();
    s.work.flush().unwrap();
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s11_10_s11_11_cpus_may_leave_and_return_before_the_start() {
    // No pool has a worker then, and none is needed for a CPU to return.
    let rt = quiet().topology(machine(2, 1)).build_early();
    rt.set_online_cpus(Some(CpuSet::single(1)));
    rt.set_online_cpus(None);
    assert_eq!(rt.online_cpus().len(), 2);
    rt.start().unwrap();
    let item = Call::noop();
    rt.system_percpu().enqueue_on(0, item.clone()).unwrap();
    item.work.flush().unwrap();
}

#[test]
fn s11_12_unbound_slots_and_limits_follow_the_cpus() {
    let rt = quiet()
        .topology(machine(4, 2))
        .default_scope(Scope::Numa)
        .start()
        .unwrap();
    let q = rt.queue("q").flags(UNBOUND).max_active(20).build().unwrap();
    let pool = |cpu| {
        let gate = Gate::new();
        let g = gate.clone();
        q.enqueue_on(cpu, Call::new(move |_| g.pass())).unwrap();
        gate.wait_for(1);
        let dump = rt.dump_queue(&q);
        gate.open();
        q.flush().unwrap();
        let at = dump.find("pwq of ").unwrap();
        let limit = dump.find("active=").unwrap();
        (
            dump[at..].split(' ').nth(3).unwrap().to_owned(),
            dump[limit..].split_whitespace().next().unwrap().to_owned(),
        )
    };
    let (before, limit) = pool(2);
    assert_eq!(limit, "active=1/10");
    rt.set_online_cpus(Some(CpuSet::parse_list("0-1").unwrap()));
    let (away, limit) = pool(2);
    assert_ne!(
        before, away,
        "node 1 has no CPU, so its CPUs are served on the whole mask"
    );
    assert_eq!(limit, "active=1/20");
    rt.set_online_cpus(None);
    assert_eq!(pool(2).1, "active=1/10");
    assert_ne!(pool(2).0, away);
}

#[test]
fn s11_13_no_item_is_lost_or_run_twice_while_cpus_come_and_go() {
    let rt = Arc::new(runtime(4));
    let stop = Arc::new(AtomicBool::new(false));
    let changer = {
        let (rt, stop) = (rt.clone(), stop.clone());
        std::thread::spawn(move || {
            let sets = ["0", "0-1", "1-3", "3", "0-3", "2"];
            let mut changes = 0;
            while !stop.load(Ordering::SeqCst) || changes < 30 {
                rt.set_online_cpus(CpuSet::parse_list(sets[changes % sets.len()]));
                changes += 1;
            }
            rt.set_online_cpus(None);
        })
    };
    for flags in [PERCPU, UNBOUND, PERCPU | Flags::MEM_RECLAIM] {
        let q = rt.queue("q").flags(flags).max_active(5).build().unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        for n in 0..2000 {
            let r = ran.clone();
            let item = Call::new(move |_| {
                blocking(std::thread::yield_now);
                r.fetch_add(1, Ordering::SeqCst);
            });
            if n % 3 == 0 {
                q.enqueue(item)
            } else {
                q.enqueue_on(n % 4, item)
            }
            .unwrap();
        }
        q.destroy().unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 2000);
    }
    stop.store(true, Ordering::SeqCst);
    changer.join().unwrap();
}

#[test]
fn s11_09_the_process_affinity_is_followed() {
    let rt = Runtime::builder().start().unwrap();
    let all = rt.topology().possible().clone();
    rt.refresh_cpus();
    assert_eq!(rt.online_cpus(), all);
    let Some((first, _)) = two_cpus("s11_09_the_process_affinity_is_followed", &rt) else {
        return;
    };
    let rest = all.iter().skip(1).collect::<CpuSet>();
    rt.set_online_cpus(Some(rest.clone()));
    assert_eq!(rt.online_cpus(), rest);
    let item = Call::noop();
    rt.system_percpu().enqueue_on(first, item.clone()).unwrap();
    item.work.flush().unwrap();
    rt.set_online_cpus(None);
    // Bound again: an item sees its CPU's own mask.
    let seen = Log::new();
    let s = seen.clone();
    let item = Call::new(move |_| {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let list = status
            .lines()
            .find(|l| l.starts_with("Cpus_allowed_list"))
            .unwrap();
        s.add(list.split_whitespace().nth(1).unwrap().to_owned());
    });
    rt.system_percpu().enqueue_on(first, item.clone()).unwrap();
    item.work.flush().unwrap();
    assert_eq!(seen.all(), [first.to_string()]);
}

/// In a forked child: what one can see and set is empty or refused.
fn looks_refused(rt: &Runtime) -> bool {
    let path = std::env::temp_dir().join("workqueue-forked");
    rt.set_watchdog_thresh(std::time::Duration::from_secs(1));
    rt.watchdog_touch(0);
    trace::start(1);
    trace::emit(trace::Phase::Instant, "test", "unheard", &[]);
    let nothing_recorded = trace::write_chrome(&mut std::io::sink()).is_ok_and(|n| n == 0);
    nothing_recorded
        && rt.watchdog_thresh().is_zero()
        && rt.sample().queues.is_empty()
        && rt.snapshot().is_none()
        && rt.dump_worker(1).is_none()
        && rt.set_unbound_cpumask(&CpuSet::single(0)) == Err(AttrError::Destroyed)
        && rt.set_default_scope(Scope::Cpu) == Err(AttrError::Destroyed)
        && rt.open_control_socket(path).is_err()
}

/// In a forked child: no call waits for an item that a timer or a worker has in the parent.
fn gives_up(armed: &Arc<Later>, running: &Arc<Call>) -> bool {
    let ends = |r: Result<bool, WaitError>| r == Err(WaitError::Destroyed);
    let (a, r) = (&armed.work, &running.work);
    a.cancel().is_none()
        && ends(a.cancel_sync().map(|back| back.is_some()))
        && ends(a.disable_sync().map(|back| back.is_some()))
        // Undone: there is nothing to enable.
        && a.enable().is_err()
        && ends(a.flush())
        && a.disable().is_ok_and(|back| back.is_none())
        && a.enable() == Ok(true)
        && r.cancel().is_none()
        && ends(r.cancel_sync().map(|back| back.is_some()))
        && ends(r.disable_sync().map(|back| back.is_some()))
        && r.enable().is_err()
        && ends(r.flush())
}

/// Something was logged in the child.
static WARNED: AtomicBool = AtomicBool::new(false);

struct Ear;

impl log::Log for Ear {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        WARNED.store(true, Ordering::SeqCst);
    }

    fn flush(&self) {}
}

#[test]
fn s01_13_in_a_forked_child_everything_is_refused_and_nothing_hangs() {
    let rt = runtime(1);
    let q = rt
        .queue("q")
        .flags(PERCPU | Flags::MEM_RECLAIM)
        .build()
        .unwrap();
    let (item, later) = (Call::noop(), Later::noop());
    q.enqueue(item.clone()).unwrap();
    q.flush().unwrap();
    let (armed, gate) = (Later::noop(), Gate::new());
    q.enqueue_delayed(std::time::Duration::from_secs(3600), armed.clone())
        .unwrap();
    let g = gate.clone();
    let running = Call::new(move |_| g.pass());
    q.enqueue(running.clone()).unwrap();
    gate.wait_for(1);
    // SAFETY: the child calls only this crate and then leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: a child that hangs is ended, and its status says so.
        unsafe { libc::alarm(HUNG.as_secs() as u32) };
        log::set_logger(&Ear).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let refused = |r: Result<(), Refusal>| r == Err(Refusal::Destroyed);
        let ok = refused(q.enqueue(item.clone()).map_err(|e| e.reason()))
            && refused(
                q.enqueue_delayed(std::time::Duration::from_secs(1), later.clone())
                    .map_err(|e| e.reason()),
            )
            && q.flush() == Err(WaitError::Destroyed)
            && q.drain() == Err(WaitError::Destroyed)
            && item.work.cancel().is_none()
            && gives_up(&armed, &running)
            && refused(
                q.mod_delayed(std::time::Duration::ZERO, armed.clone())
                    .map(drop)
                    .map_err(|e| e.reason()),
            )
            && q.set_max_active(3) == Err(AttrError::Destroyed)
            && !q.congested(0)
            && rt.dump_all().is_empty()
            && looks_refused(&rt)
            && rt.queue("n").build().is_err()
            && q.destroy() == Err(WaitError::Destroyed)
            && rt.shutdown() == Err(WaitError::Destroyed)
            // Not even the drop of the parent's runtime is worth a warning.
            && !WARNED.load(Ordering::SeqCst);
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(if ok { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for writing; the child is ours.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!((waited, status), (child, 0));
    gate.open();
    assert!(armed.work.cancel().is_some());
    q.enqueue(item.clone()).unwrap();
    q.flush().unwrap();
    assert_eq!(item.runs(), 2);
}
