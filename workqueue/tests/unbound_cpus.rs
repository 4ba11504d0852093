// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 4.11, 4.12 and 4.16: where the workers of unbound queues may run, and who follows when
//! that changes.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

fn cpus(list: &str) -> CpuSet {
    CpuSet::parse_list(list).unwrap()
}

/// The CPUs the calling thread may use, as the system has it.
fn allowed(task: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{task}/status")).unwrap();
    let list = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_owned()
}

/// Where an item finds itself.
fn allowed_in_run(q: &Queue, cpu: usize) -> String {
    let seen = Log::new();
    let s = seen.clone();
    let item = Call::new(move |_| s.add(allowed("thread-self")));
    q.enqueue_on(cpu, item.clone()).unwrap();
    item.work.flush().unwrap();
    seen.all().remove(0)
}

/// The thread with this name.
fn tid_of(name: &str) -> Option<i32> {
    threads(name).into_keys().next()
}

#[test]
fn s04_16_all_unbound_queues_follow() {
    let rt = quiet()
        .topology(machine(4, 2))
        .default_scope(Scope::Numa)
        .start()
        .unwrap();
    let a = rt.queue("a").flags(UNBOUND).build().unwrap();
    let own = Attrs {
        cpumask: Some(cpus("2-3")),
        ..Attrs::new()
    };
    let b = rt
        .queue("b")
        .flags(UNBOUND)
        .attrs(own.clone())
        .build()
        .unwrap();
    let ordered = rt.ordered("o", Flags::empty()).unwrap();
    let mask_of = |q: &Queue, cpu| in_dump(&rt, q, cpu, "cpus=");
    assert_eq!(mask_of(&a, 0), "0-3");
    rt.set_unbound_cpumask(&cpus("0-2,9")).unwrap();
    assert_eq!(rt.unbound_cpumask(), cpus("0-2"));
    assert_eq!(
        (mask_of(&a, 0), mask_of(&a, 3)),
        ("0-2".into(), "0-2".into())
    );
    assert_eq!(
        (mask_of(&b, 0), mask_of(&ordered, 3)),
        ("2".into(), "0-2".into())
    );
    // 4.12: a queue mask without any CPU left falls back, and reads as it was set.
    rt.set_unbound_cpumask(&cpus("0-1")).unwrap();
    assert_eq!((mask_of(&b, 3), b.attrs()), ("0-1".into(), own));
    // Queues made later follow too.
    let c = rt.queue("c").flags(UNBOUND).build().unwrap();
    assert_eq!(mask_of(&c, 2), "0-1");
    rt.set_unbound_cpumask(&cpus("0-3")).unwrap();
    assert_eq!(
        (mask_of(&b, 0), mask_of(&c, 0)),
        ("2-3".into(), "0-3".into())
    );
}

#[test]
fn s04_16_an_empty_mask_changes_nothing() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let before = pool_of(&rt, &q, 0);
    assert_eq!(
        rt.set_unbound_cpumask(&cpus("2-3")),
        Err(AttrError::EmptyMask("2-3".into()))
    );
    assert_eq!(
        rt.set_unbound_cpumask(&CpuSet::new()),
        Err(AttrError::EmptyMask(String::new()))
    );
    assert_eq!(
        (rt.unbound_cpumask(), pool_of(&rt, &q, 0)),
        (cpus("0-1"), before)
    );
}

#[test]
fn s04_16_the_mask_changes_for_all_queues_or_none() {
    // The pools of the last queue cannot be had.
    let fails_at = Arc::new(std::sync::atomic::AtomicIsize::new(isize::MAX));
    let f = fails_at.clone();
    let rt = quiet()
        .topology(machine(4, 1))
        .threads_by(move |_| match f.fetch_sub(1, Ordering::SeqCst) {
            n if n > 0 => Ok(()),
            _ => Err(11),
        })
        .start()
        .unwrap();
    let queues: Vec<_> = (0..3)
        .map(|nice| {
            let attrs = Attrs {
                nice,
                ..Attrs::new()
            };
            let flags = UNBOUND;
            rt.queue("q").flags(flags).attrs(attrs).build().unwrap()
        })
        .collect();
    let pools = || -> Vec<_> { queues.iter().map(|q| pool_of(&rt, q, 0)).collect() };
    let before = pools();
    // The system's unbound queues share the first queue's pools: one thread for each nice value.
    fails_at.store(2, Ordering::SeqCst);
    assert_eq!(
        rt.set_unbound_cpumask(&cpus("1")),
        Err(AttrError::Spawn(11))
    );
    fails_at.store(isize::MAX, Ordering::SeqCst);
    assert_eq!(
        (rt.unbound_cpumask(), pools()),
        (cpus("0-3"), before.clone())
    );
    rt.set_unbound_cpumask(&cpus("1")).unwrap();
    assert!(pools().iter().zip(&before).all(|(now, then)| now != then));
}

#[test]
fn s04_16_items_without_a_request_go_to_the_mask() {
    let rt = quiet().topology(machine(4, 1)).start().unwrap();
    let attrs = Attrs {
        scope: Some(Scope::Cpu),
        ..Attrs::new()
    };
    let q = rt.queue("q").flags(UNBOUND).attrs(attrs).build().unwrap();
    rt.set_unbound_cpumask(&cpus("1,3")).unwrap();
    let pools = [pool_of(&rt, &q, 1), pool_of(&rt, &q, 3)];
    for _ in 0..8 {
        let pool = pool_of(&rt, &q, None);
        assert!(pools.contains(&pool), "{pool}, not one of {pools:?}");
    }
}

#[test]
fn s04_16_waiting_rescuers_and_workers_of_departed_cpus_follow_the_mask() {
    let rt = Runtime::builder().start().unwrap();
    let Some((first, second)) = two_cpus(
        "s04_16_waiting_rescuers_and_workers_of_departed_cpus_follow_the_mask",
        &rt,
    ) else {
        return;
    };
    let all = rt.topology().possible().clone();
    let _q = rt
        .queue("follower")
        .flags(PERCPU | Flags::MEM_RECLAIM)
        .build()
        .unwrap();
    let find = |name: &str| {
        until("the thread has named itself", || tid_of(name).is_some());
        format!("self/task/{}", tid_of(name).unwrap())
    };
    let rescuer = find("kworker/R-follo");
    let is = |task: &str, set: &CpuSet| {
        until("the mask is followed", || allowed(task) == set.to_list());
    };
    is(&rescuer, &all);
    rt.set_unbound_cpumask(&CpuSet::single(second)).unwrap();
    is(&rescuer, &CpuSet::single(second));

    // A CPU that leaves: its workers go where unbound queues may.
    let away: CpuSet = all.iter().filter(|&c| c != first).collect();
    rt.set_online_cpus(Some(away));
    let homeless = |cpu| allowed_in_run(rt.system_percpu(), cpu);
    assert_eq!(homeless(first), second.to_string());
    rt.set_unbound_cpumask(&all).unwrap();
    assert_eq!(homeless(first), all.to_list());
    is(&rescuer, &all);
    // Workers of a CPU that is here stay there, whatever the mask.
    rt.set_online_cpus(None);
    rt.set_unbound_cpumask(&CpuSet::single(second)).unwrap();
    assert_eq!(homeless(first), first.to_string());
}

#[test]
fn s04_16_a_rescuer_follows_the_mask_after_its_turn() {
    let (fails, clock) = (Arc::new(AtomicBool::new(false)), VirtualClock::new());
    let rt = Runtime::builder()
        .virtual_clock(clock.clone())
        .threads_by(fails_while(&fails))
        .start()
        .unwrap();
    let Some((first, second)) = two_cpus("s04_16_a_rescuer_follows_the_mask_after_its_turn", &rt)
    else {
        return;
    };
    let all = rt.topology().possible().clone();
    let q = rt
        .queue("helper")
        .flags(PERCPU | Flags::MEM_RECLAIM)
        .build()
        .unwrap();
    // The only worker becomes manager, the rescuer takes the item, and stays inside it.
    fails.store(true, Ordering::SeqCst);
    let (gate, seen) = (Gate::new(), Log::new());
    let (g, s) = (gate.clone(), seen.clone());
    q.enqueue_on(
        first,
        Call::new(move |_| {
            assert!(is_rescuer());
            g.pass();
            s.add(allowed("thread-self"));
        }),
    )
    .unwrap();
    until("the item is rescued", || {
        clock.advance(Duration::from_millis(10));
        gate.arrived() == 1
    });
    // A pool that needs no new thread: that of the CPU. Creation works again for the others.
    fails.store(false, Ordering::SeqCst);
    rt.set_unbound_cpumask(&CpuSet::single(second)).unwrap();
    gate.open();
    clock.advance(Duration::from_secs(10));
    q.flush().unwrap();
    // While it helped it belonged to the CPU, afterwards to the new mask.
    assert_eq!(seen.all(), [first.to_string()]);
    until("the rescuer is back", || {
        let tid = tid_of("kworker/R-helpe").unwrap();
        allowed(&format!("self/task/{tid}")) == second.to_string()
    });
    rt.set_unbound_cpumask(&all).unwrap();
}

#[test]
fn s11_12_limits_when_no_allowed_cpu_remains() {
    let rt = quiet()
        .topology(machine(4, 2))
        .default_scope(Scope::Numa)
        .start()
        .unwrap();
    let q = rt.queue("q").flags(UNBOUND).max_active(30).build().unwrap();
    let limits = || {
        let gates = [stand(&q, 0), stand(&q, 2)];
        let dump = rt.dump_queue(&q);
        gates.iter().for_each(|g| g.open());
        q.flush().unwrap();
        let lines = dump.lines().map(str::trim);
        let lines = lines.filter(|l| l.starts_with("node ") || l.starts_with("all nodes"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limits(), ["node 0: active=1/15", "node 1: active=1/15"]);
    // The unbound mask counts for the parts of the nodes.
    rt.set_unbound_cpumask(&cpus("0,2-3")).unwrap();
    assert_eq!(limits(), ["node 0: active=1/10", "node 1: active=1/20"]);
    // None of the CPUs that unbound queues may use is there: pods have no CPU, so the whole mask
    // serves, and it spans the nodes.
    rt.set_online_cpus(Some(cpus("1")));
    assert_eq!(limits(), ["all nodes: active=2/30"]);
    let narrow = Attrs {
        cpumask: Some(cpus("3")),
        ..Attrs::new()
    };
    q.apply_attrs(narrow).unwrap();
    assert_eq!(limits(), ["node 1: active=2/8"], "min_active");
    rt.set_online_cpus(None);
    assert_eq!(limits(), ["node 1: active=2/30"]);
}

#[test]
fn s04_16_s11_13_nothing_is_lost_while_the_mask_changes() {
    let rt = Arc::new(runtime(4));
    let stop = Arc::new(AtomicBool::new(false));
    let changer = {
        let (rt, stop) = (rt.clone(), stop.clone());
        std::thread::spawn(move || {
            let masks = ["0", "1-2", "3", "0-3", "0,2"];
            let mut changes = 0;
            while !stop.load(Ordering::SeqCst) || changes < 30 {
                rt.set_unbound_cpumask(&cpus(masks[changes % masks.len()]))
                    .unwrap();
                rt.set_default_scope(Scope::ALL[changes % Scope::ALL.len()])
                    .unwrap();
                changes += 1;
            }
        })
    };
    let ordered = rt.ordered("o", Flags::empty()).unwrap();
    let q = rt
        .queue("q")
        .flags(UNBOUND | Flags::MEM_RECLAIM)
        .build()
        .unwrap();
    let (order, ran) = (Log::new(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    for n in 0..1500 {
        let (o, r) = (order.clone(), ran.clone());
        ordered
            .enqueue_on(n % 4, Call::new(move |_| o.add(n)))
            .unwrap();
        let item = Call::new(move |_| {
            r.fetch_add(1, Ordering::SeqCst);
        });
        q.enqueue_on(n % 4, item).unwrap();
    }
    ordered.destroy().unwrap();
    q.destroy().unwrap();
    stop.store(true, Ordering::SeqCst);
    changer.join().unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), 1500);
    let out_of_order: Vec<_> = order
        .all()
        .windows(2)
        .filter(|w| w[0] > w[1])
        .map(<[_]>::to_vec)
        .collect();
    assert!(out_of_order.is_empty(), "{out_of_order:?}");
    assert_eq!(order.all().len(), 1500);
}

#[test]
fn s04_11_strict_workers_stay_in_the_pod_others_may_leave_it() {
    let rt = Runtime::builder().start().unwrap();
    let queue = |strict| {
        let attrs = Attrs {
            scope: Some(Scope::Cpu),
            strict,
            ..Attrs::new()
        };
        rt.queue("q").flags(UNBOUND).attrs(attrs).build().unwrap()
    };
    let (strict, wide) = (queue(true), queue(false));
    for cpu in rt.topology().possible().iter() {
        assert_eq!(allowed_in_run(&strict, cpu), cpu.to_string());
        assert_eq!(
            allowed_in_run(&wide, cpu),
            rt.topology().possible().to_list()
        );
    }
    assert_eq!(strict.stats().repatriated, 0);
}

/// Binds the calling thread to one CPU.
fn stay_on(cpu: usize) {
    // SAFETY: a set of CPUs is plain data, and both calls get valid pointers to it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
    }
}

#[test]
fn s04_11_s12_01_a_worker_outside_its_pod_is_brought_back_and_counted() {
    let rt = Runtime::builder().start().unwrap();
    let name = "s04_11_s12_01_a_worker_outside_its_pod_is_brought_back_and_counted";
    let Some((first, second)) = two_cpus(name, &rt) else {
        return;
    };
    let attrs = Attrs {
        scope: Some(Scope::Cpu),
        ..Attrs::new()
    };
    let q = rt.queue("q").flags(UNBOUND).attrs(attrs).build().unwrap();
    let idle = |tid: i32| {
        let line = rt.dump_worker(tid).unwrap_or_default();
        line.contains(": idle for ")
    };
    for round in 1..=10 {
        // A run that leaves its worker on the wrong CPU.
        let tids = Log::new();
        let t = tids.clone();
        let item = Call::new(move |_| {
            stay_on(second);
            // SAFETY: takes no argument and writes nothing.
            t.add(unsafe { libc::gettid() });
        });
        q.enqueue_on(first, item).unwrap();
        q.flush().unwrap();
        let tid = tids.all()[0];
        until("it has gone idle", || idle(tid));
        let before = q.stats().repatriated;
        // It went idle last, so it is woken first.
        let (seen, whole) = (Log::new(), rt.topology().possible().to_list());
        let s = seen.clone();
        let next = Call::new(move |_| {
            // SAFETY: takes no argument and writes nothing.
            s.add((unsafe { libc::gettid() }, allowed("thread-self")));
        });
        q.enqueue_on(first, next).unwrap();
        q.flush().unwrap();
        assert_eq!(seen.all(), [(tid, whole)], "round {round}");
        assert_eq!(q.stats().repatriated, before + 1, "round {round}");
        until("it has gone idle", || idle(tid));
    }
}
