// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 11.9: CPUs that the process may use later than its runtime was made.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use workqueue::*;

fn cpus(list: &str) -> CpuSet {
    CpuSet::parse_list(list).unwrap()
}

/// Four made-up CPUs on two nodes of which the process may use those of a set that can be changed.
struct Allowed(Arc<Mutex<CpuSet>>);

impl Allowed {
    fn begin(list: &str) -> (Self, RuntimeBuilder) {
        let set = Arc::new(Mutex::new(cpus(list)));
        let asked = set.clone();
        let builder = quiet().topology(machine(4, 2));
        let builder = builder.allowed_by(move || asked.lock().unwrap().clone());
        (Self(set), builder)
    }

    fn become_of(&self, rt: &Runtime, list: &str) {
        *self.0.lock().unwrap() = cpus(list);
        rt.refresh_cpus();
    }
}

fn refusal(q: &Queue, cpu: usize) -> Option<Refusal> {
    q.enqueue_on(cpu, Call::noop()).err().map(|e| e.reason())
}

fn runs_on(q: &Queue, cpu: usize) {
    let item = Call::noop();
    q.enqueue_on(cpu, item.clone()).unwrap();
    item.work.flush().unwrap();
    assert_eq!(item.runs(), 1);
}

#[test]
fn s11_09_s04_03_a_cpu_that_was_never_there_gets_its_place_in_every_queue() {
    let (allowed, builder) = Allowed::begin("0-1");
    let rt = builder.start().unwrap();
    assert_eq!(rt.topology().possible(), &cpus("0-1"));
    let per_cpu = [
        PERCPU,
        PERCPU | Flags::HIGHPRI,
        PERCPU | Flags::MEM_RECLAIM,
        Flags::BH,
    ];
    let mut queues: Vec<_> = per_cpu
        .iter()
        .map(|&flags| rt.queue("q").flags(flags).build().unwrap())
        .collect();
    queues.push(rt.queue("u").flags(UNBOUND).build().unwrap());
    queues.push(rt.ordered("o", Flags::empty()).unwrap());
    for q in &queues {
        assert_eq!(refusal(q, 2), Some(Refusal::InvalidCpu));
        assert!(!q.congested(2));
    }
    allowed.become_of(&rt, "0-2");
    assert_eq!(rt.online_cpus(), cpus("0-2"));
    assert_eq!(rt.topology().possible(), &cpus("0-2"));
    assert_eq!(rt.unbound_cpumask(), cpus("0-2"));
    for q in &queues {
        runs_on(q, 2);
        assert_eq!(refusal(q, 3), Some(Refusal::InvalidCpu));
    }
    // Its own pools: what stands on CPU 2 does not hold up the others, and the dump names it.
    let in_pool = |flags, cpu| {
        let q = rt.queue("one").flags(flags).build().unwrap();
        in_dump(&rt, &q, cpu, "cpus=")
    };
    assert_eq!(in_pool(PERCPU, 2), "2");
    assert_eq!(in_pool(Flags::BH, 2), "2");
    runs_on(rt.system_percpu(), 2);
    // It may leave and return like any other.
    allowed.become_of(&rt, "0-1");
    assert_eq!(rt.online_cpus(), cpus("0-1"));
    runs_on(&queues[0], 2);
    allowed.become_of(&rt, "0-3");
    queues.iter().for_each(|q| runs_on(q, 3));
    for q in queues {
        q.destroy().unwrap();
    }
    rt.shutdown().unwrap();
}

#[test]
fn s11_09_s11_12_pods_limits_and_masks_of_unbound_queues_take_the_new_cpu_in() {
    let (allowed, builder) = Allowed::begin("0-1");
    let rt = builder.default_scope(Scope::Numa).start().unwrap();
    let q = rt.queue("q").flags(UNBOUND).max_active(30).build().unwrap();
    let named = Attrs {
        cpumask: Some(cpus("1-3")),
        ..Attrs::new()
    };
    let narrow = rt.queue("n").flags(UNBOUND).attrs(named).build().unwrap();
    let limit = |cpu| in_dump(&rt, &q, cpu, "active=").trim().to_owned();
    assert_eq!(limit(0), "1/30");
    assert_eq!(in_dump(&rt, &narrow, 1, "cpus="), "1");
    allowed.become_of(&rt, "0-2");
    assert_eq!((limit(0), limit(2)), ("1/20".into(), "1/10".into()));
    assert_ne!(pool_of(&rt, &q, 0), pool_of(&rt, &q, 2));
    assert_eq!(in_dump(&rt, &narrow, 1, "cpus="), "1-2");
    // A mask that was set stays within what was asked for, new CPUs of it included.
    rt.set_unbound_cpumask(&cpus("1,3")).unwrap();
    assert_eq!(rt.unbound_cpumask(), cpus("1"));
    allowed.become_of(&rt, "0-3");
    assert_eq!(rt.unbound_cpumask(), cpus("1,3"));
    assert_eq!(in_dump(&rt, &narrow, 0, "cpus="), "1,3");
}

#[test]
fn s11_09_nothing_outside_the_builders_mask_is_taken_into_use() {
    let (allowed, builder) = Allowed::begin("0");
    let rt = builder.cpus(cpus("0-1,3")).start().unwrap();
    allowed.become_of(&rt, "0-3");
    assert_eq!(rt.online_cpus(), cpus("0-1,3"));
    assert_eq!(refusal(rt.system_percpu(), 2), Some(Refusal::InvalidCpu));
    // What the program has taken out is not met either.
    let (allowed, builder) = Allowed::begin("0");
    let rt = builder.start().unwrap();
    rt.set_online_cpus(Some(cpus("0-1")));
    allowed.become_of(&rt, "0-3");
    assert_eq!(refusal(rt.system_percpu(), 2), Some(Refusal::InvalidCpu));
    rt.set_online_cpus(None);
    runs_on(rt.system_percpu(), 2);
}

#[test]
fn s11_09_s11_11_a_cpu_whose_first_worker_cannot_be_made_stays_out_and_is_tried_again() {
    let (allowed, builder) = Allowed::begin("0-1");
    let fails = Arc::new(AtomicBool::new(true));
    let f = fails.clone();
    let builder = builder.threads_by(move |attempt| {
        let refused = attempt.cpu == Some(2) && attempt.class == PoolClass::PerCpuHighpri;
        if refused && f.load(Ordering::SeqCst) {
            Err(libc::EAGAIN)
        } else {
            Ok(())
        }
    });
    let rt = builder.start().unwrap();
    allowed.become_of(&rt, "0-3");
    assert_eq!(rt.online_cpus(), cpus("0-1,3"));
    assert_eq!(refusal(rt.system_percpu(), 2), Some(Refusal::InvalidCpu));
    fails.store(false, Ordering::SeqCst);
    rt.refresh_cpus();
    assert_eq!(rt.online_cpus(), cpus("0-3"));
    runs_on(rt.system_highpri(), 2);
}

#[test]
fn s11_09_s06_10_a_cpu_may_be_met_before_the_start() {
    let (allowed, builder) = Allowed::begin("1");
    let rt = builder.build_early();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    allowed.become_of(&rt, "0-1");
    let item = Call::noop();
    q.enqueue_on(0, item.clone()).unwrap();
    rt.start().unwrap();
    item.work.flush().unwrap();
    assert_eq!(item.runs(), 1);
}

#[test]
fn s11_09_s10_08_a_queue_that_drains_takes_chained_items_on_the_new_cpu() {
    let (allowed, builder) = Allowed::begin("0");
    let rt = builder.start().unwrap();
    for flags in [PERCPU, UNBOUND] {
        let owner = rt.queue("q").flags(flags).build().unwrap();
        let q = owner.handle();
        let (gate, chained) = (Gate::new(), Call::noop());
        let (g, c, handle) = (gate.clone(), chained.clone(), q.clone());
        q.enqueue_on(
            0,
            Call::new(move |_| {
                g.pass();
                let last = handle.flags().contains(PERCPU);
                let cpu = if last { 1 } else { 2 };
                handle.enqueue_on(cpu, c.clone()).unwrap();
            }),
        )
        .unwrap();
        gate.wait_for(1);
        std::thread::scope(|scope| {
            let end = scope.spawn(|| owner.destroy());
            // Refused by then, and the item given back.
            until("the queue takes no more", || {
                let refused = q.enqueue_on(0, Call::noop()).err();
                refused.is_some_and(|e| e.reason() == Refusal::Destroyed)
            });
            allowed.become_of(&rt, if flags == PERCPU { "0-1" } else { "0-2" });
            gate.open();
            end.join().unwrap().unwrap();
        });
        assert_eq!(chained.runs(), 1);
    }
}

#[test]
fn s11_09_s11_13_nothing_is_lost_or_out_of_order_while_cpus_are_met() {
    for round in 0..20 {
        let (allowed, builder) = Allowed::begin("0");
        let rt = Arc::new(builder.start().unwrap());
        let ordered = rt.ordered("o", Flags::empty()).unwrap();
        let q = rt.queue("q").flags(PERCPU).build().unwrap();
        let u = rt.queue("u").flags(UNBOUND).build().unwrap();
        let (order, ran) = (Log::new(), Arc::new(AtomicUsize::new(0)));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for list in ["0-1", "1", "1-2", "0-3"] {
                    allowed.become_of(&rt, list);
                }
                done.store(true, Ordering::SeqCst);
            });
            let mut n = 0;
            while n < 300 || !done.load(Ordering::SeqCst) {
                let (o, known) = (order.clone(), rt.topology().possible().len());
                ordered
                    .enqueue_on(n % known, Call::new(move |_| o.add(n)))
                    .unwrap_or_else(|e| panic!("round {round}: {e}"));
                for queue in [&q, &u] {
                    let r = ran.clone();
                    let item = Call::new(move |_| {
                        r.fetch_add(1, Ordering::SeqCst);
                    });
                    queue.enqueue(item).unwrap();
                }
                n += 1;
            }
            ordered.flush().unwrap();
            q.flush().unwrap();
            u.flush().unwrap();
            assert_eq!(ran.load(Ordering::SeqCst), 2 * n);
            assert_eq!(order.all(), (0..n).collect::<Vec<_>>());
        });
    }
}

/// Binds a thread of this process; 0 is the calling one.
fn bind(tid: i32, to: &CpuSet) {
    // SAFETY: a set of CPUs is plain data, and both calls get valid pointers to it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        to.iter().for_each(|cpu| libc::CPU_SET(cpu, &mut set));
        assert_eq!(libc::sched_setaffinity(tid, size_of_val(&set), &set), 0);
    }
}

/// The CPUs a thread of this process may use; none when it has ended.
fn allowed(tid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status"));
    let status = status.unwrap_or_default();
    let list = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    list.unwrap_or_default().trim().to_owned()
}

/// The CPUs a run on this queue may use.
fn allowed_in_run(q: &Queue, cpu: usize) -> String {
    let seen = Log::new();
    let s = seen.clone();
    // SAFETY: takes no argument and writes nothing.
    let item = Call::new(move |_| s.add(allowed(unsafe { libc::gettid() })));
    q.enqueue_on(cpu, item.clone()).unwrap();
    item.work.flush().unwrap();
    seen.all().remove(0)
}

#[test]
fn s11_09_the_real_affinity_may_be_widened_and_narrowed() {
    let name = "s11_09_the_real_affinity_may_be_widened_and_narrowed";
    let whole = Runtime::builder().build_early();
    let Some((first, second)) = two_cpus(name, &whole) else {
        return;
    };
    let both: CpuSet = [first, second].into_iter().collect();
    bind(0, &CpuSet::single(first));
    let rt = Runtime::builder().start().unwrap();
    bind(0, &both);
    // The monitor's affinity stands for the process's, so it is told from those of other tests.
    let mut monitors = Vec::new();
    until("the monitor has its name", || {
        let mut all: Vec<i32> = threads("wq/monitor").into_keys().collect();
        all.retain(|&tid| allowed(tid) == first.to_string());
        monitors = all;
        !monitors.is_empty()
    });
    assert_eq!(rt.topology().possible(), &CpuSet::single(first));
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let u = rt
        .queue("u")
        .flags(UNBOUND | Flags::MEM_RECLAIM)
        .build()
        .unwrap();
    assert_eq!(refusal(&q, second), Some(Refusal::InvalidCpu));
    assert_eq!(allowed_in_run(&u, first), first.to_string());

    let set = |to: &CpuSet| {
        monitors.iter().for_each(|&tid| bind(tid, to));
        rt.refresh_cpus();
    };
    set(&both);
    assert_eq!(rt.online_cpus(), both);
    assert_eq!(allowed_in_run(&q, second), second.to_string());
    assert_eq!(allowed_in_run(&q, first), first.to_string());
    assert_eq!(allowed_in_run(&u, first), both.to_list());
    assert_eq!(allowed_in_run(&u, second), both.to_list());
    // Narrowed to the new one: no thread stays on the other, or goes back there.
    set(&CpuSet::single(second));
    assert_eq!(rt.online_cpus(), CpuSet::single(second));
    assert_eq!(allowed_in_run(&q, first), second.to_string());
    assert_eq!(allowed_in_run(&u, first), second.to_string());
    assert_eq!(rt.unbound_cpumask(), both);
    let late = rt.queue("late").flags(UNBOUND).build().unwrap();
    assert_eq!(allowed_in_run(&late, first), second.to_string());
    set(&both);
    assert_eq!(allowed_in_run(&q, first), first.to_string());
    assert_eq!(allowed_in_run(&u, second), both.to_list());
}

#[test]
fn s11_09_the_program_is_told_of_each_change_once_and_in_order() {
    let (allowed, builder) = Allowed::begin("0-1");
    let told = Log::new();
    let log = told.clone();
    let builder = builder.on_cpus_changed(move |online| log.add(online.to_list()));
    let rt = builder.start().unwrap();
    rt.refresh_cpus();
    assert_eq!(told.all(), [""; 0], "nothing has changed");
    allowed.become_of(&rt, "0");
    rt.refresh_cpus();
    allowed.become_of(&rt, "0,2");
    rt.set_online_cpus(Some(cpus("2")));
    rt.set_online_cpus(None);
    assert_eq!(told.all(), ["0", "0,2", "2", "0,2"]);
}
