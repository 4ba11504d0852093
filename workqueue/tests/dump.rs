// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 12.5, with 1.5, 1.7 and 2.22: what queues, pools and workers show of themselves.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

fn own_tid() -> i32 {
    // SAFETY: takes no argument and writes nothing.
    unsafe { libc::gettid() }
}

/// An item that stands at a gate, and the number of the thread that runs it.
fn standing(q: &Queue, cpu: usize) -> (Arc<Gate>, Log<i32>, Arc<Call>) {
    let (gate, tid) = (Gate::new(), Log::new());
    let (g, t) = (gate.clone(), tid.clone());
    let item = Call::new(move |_| {
        t.add(own_tid());
        g.pass();
    });
    q.enqueue_on(cpu, item.clone()).unwrap();
    (gate, tid, item)
}

#[test]
fn s12_05_a_dump_shows_what_is_busy_and_nothing_else() {
    let (_clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).max_active(3).build().unwrap();
    assert_eq!(rt.dump_queue(&q), "");
    assert_eq!(rt.dump_all(), "");
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    (0..5).for_each(|_| q.enqueue(Call::noop()).unwrap());
    let dump = rt.dump_all();
    for part in [
        "workqueue q: flags=0x100",
        "active=3",
        ":call for 0s",
        "pending: 2*call",
        "inactive: 3*call",
        "workers=2",
    ] {
        assert!(dump.contains(part), "{part} is missing in:\n{dump}");
    }
    assert_eq!(rt.dump_freezable().matches("workqueue").count(), 0);
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s12_05_names_that_follow_each_other_are_folded() {
    struct Other {
        work: Work<Other>,
    }
    impl_has_work! { impl HasWork<Self> for Other { self.work } }
    impl WorkItem for Other {
        type Pointer = Arc<Self>;
        fn run(_: Arc<Self>) {}
    }
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (gate, _, _) = standing(&q, 0);
    gate.wait_for(1);
    let other = || {
        Arc::new(Other {
            work: new_work!("other"),
        })
    };
    for name in ["call", "call", "other", "call", "other", "other", "other"] {
        match name {
            "call" => q.enqueue(Call::noop()).unwrap(),
            _ => q.enqueue(other()).unwrap(),
        }
    }
    let dump = rt.dump_queue(&q);
    let pending = "pending: 2*call, other, call, 3*other\n";
    assert!(dump.contains(pending), "{dump}");
    gate.open();
    q.flush().unwrap();
    assert_eq!(rt.dump_queue(&q), "");
}

#[test]
fn s12_05_private_lists_and_barriers() {
    let (_clock, rt) = virtual_runtime(1);
    let a = rt.queue("a").flags(PERCPU).build().unwrap();
    let b = rt.queue("b").flags(PERCPU).build().unwrap();
    let (gate, tid, item) = standing(&a, 0);
    gate.wait_for(1);
    let tid = tid.all()[0];
    // A barrier behind the run, and then the same item once more, for another queue of the pool:
    // a worker that takes it hands it to the one that runs it.
    let flusher = {
        let item = item.clone();
        std::thread::spawn(move || item.work.flush())
    };
    until("the barrier is on the private list", || {
        rt.dump_queue(&a)
            .contains(&format!("{tid}:call for 0s [BAR]"))
    });
    b.enqueue(item).unwrap();
    assert!(rt.dump_queue(&b).contains("pending: call"));
    // The CPU leaves, so that a worker takes what waits behind the run.
    rt.set_online_cpus(Some(CpuSet::new()));
    until("the item is on the private list", || {
        rt.dump_queue(&a).contains("[BAR, call]")
    });
    rt.set_online_cpus(None);
    gate.open();
    assert_eq!(flusher.join().unwrap(), Ok(true));
    [&a, &b].iter().for_each(|q| q.flush().unwrap());
}

#[test]
fn s12_05_manager_idle_rescuer_and_mayday() {
    // A creation takes until the gate opens: one that failed would leave its pool without a manager
    // if the rescuer had been quicker to take the only item there.
    let (creation, slow) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let (c, s) = (creation.clone(), slow.clone());
    let clock = VirtualClock::new();
    let rt = quiet()
        .topology(machine(2, 1))
        .virtual_clock(clock.clone())
        .threads_by(move |_| {
            if s.load(Ordering::SeqCst) {
                c.pass();
            }
            Ok(())
        })
        .start()
        .unwrap();
    let flags = PERCPU | Flags::MEM_RECLAIM;
    let q = rt.queue("q").flags(flags).build().unwrap();
    slow.store(true, Ordering::SeqCst);
    // The rescuer stays inside the first CPU's item, so the other CPU's pwq stays on its list.
    let (gate, tid, _) = standing(&q, 0);
    until("the item is rescued", || {
        clock.advance(Duration::from_millis(10));
        gate.arrived() == 1
    });
    let rescuer = tid.all()[0];
    q.enqueue_on(1, Call::noop()).unwrap();
    // The first CPU's pwq may be on the list too, again: its rescuer was called once more while it
    // was on its way.
    let is_called = |line: &str| line.contains(" cpus=1 ") && line.ends_with(" MAYDAY");
    until("help is called for", || {
        clock.advance(Duration::from_millis(10));
        rt.dump_queue(&q).lines().any(is_called)
    });
    let dump = rt.dump_all();
    let lines = |part: &str| dump.lines().filter(|l| l.contains(part)).count();
    assert_eq!(
        lines(&format!("in-flight: {rescuer}(RESCUER):call for ")),
        1,
        "{dump}"
    );
    assert!(dump.lines().any(is_called), "{dump}");
    assert_eq!(
        lines("flags=0x2 nice=0 hung="),
        2,
        "a manager in each pool: {dump}"
    );
    assert_eq!(lines(" manager: "), 2, "{dump}");
    assert!(!dump.contains(" idle: "), "{dump}");
    let line = rt.dump_worker(rescuer).unwrap();
    assert!(
        line.starts_with(&format!("kworker/R-q+q tid={rescuer} pool "))
            && line.contains(" workqueue q: call for "),
        "{line}"
    );
    creation.open();
    gate.open();
    until("nothing is left to do", || rt.dump_queue(&q).is_empty());
    until("the rescuer is back", || {
        rt.dump_worker(rescuer).unwrap()
            == format!("kworker/R-q-q tid={rescuer}: waits to be called")
    });
}

#[test]
fn s12_05_idle_workers_and_the_hung_time() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (gate, tid, _) = standing(&q, 0);
    gate.wait_for(1);
    q.enqueue(Call::noop()).unwrap();
    clock.advance(Duration::from_secs(7));
    let dump = rt.dump_all();
    let pool = dump.lines().find(|l| l.starts_with("pool ")).unwrap();
    assert!(
        pool.contains("cpus=0 node=0 flags=0x0 nice=0 hung=7s workers=2 "),
        "{pool}"
    );
    let idle: i32 = pool.split("idle: ").nth(1).unwrap().trim().parse().unwrap();
    assert_ne!(idle, tid.all()[0]);
    assert!(dump.contains(":call for 7s"), "{dump}");
    assert!(rt.dump_worker(idle).unwrap().ends_with(": idle for 7s"));
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s01_07_s02_22_a_worker_shows_its_name_and_description() {
    let rt = runtime(1);
    let q = rt.queue("described").flags(PERCPU).build().unwrap();
    let (arrived, gate, tid) = (Gate::new(), Gate::new(), Log::new());
    let (a, g, t) = (arrived.clone(), gate.clone(), tid.clone());
    q.enqueue(Call::new(move |_| {
        t.add(own_tid());
        a.pass();
        set_worker_desc("disk 7");
        assert_eq!(worker_desc().as_deref(), Some("disk 7"));
        g.pass();
    }))
    .unwrap();
    arrived.wait_for(1);
    let tid = tid.all()[0];
    let line = || rt.dump_worker(tid).unwrap();
    assert!(
        line().starts_with(&format!("kworker/0:0+described tid={tid} pool ")),
        "{}",
        line()
    );
    assert!(
        line().contains(" workqueue described: call for "),
        "{}",
        line()
    );
    arrived.open();
    gate.wait_for(1);
    assert!(line().starts_with("kworker/0:0+disk 7 tid="), "{}", line());
    gate.open();
    q.flush().unwrap();
    until("it has gone idle", || line().contains(": idle for "));
    assert!(line().starts_with("kworker/0:0-disk 7 tid="), "{}", line());
    // The next run starts with the queue's name again.
    rt.system_percpu().enqueue(Call::noop()).unwrap();
    rt.system_percpu().flush().unwrap();
    until("it has gone idle", || {
        line().starts_with("kworker/0:0-events ")
    });
    assert_eq!(rt.dump_worker(own_tid()), None);
}

#[test]
fn s01_05_the_full_name_is_in_dumps() {
    let rt = runtime(1);
    let name = "a_queue_with_a_long_name";
    let _q = rt
        .queue(name)
        .flags(PERCPU | Flags::MEM_RECLAIM)
        .build()
        .unwrap();
    let tids = || threads("").into_keys();
    until("the rescuer can be asked", || {
        let lines: Vec<String> = tids().filter_map(|tid| rt.dump_worker(tid)).collect();
        let full = format!("kworker/R-{name} tid=");
        lines.iter().any(|l| l.starts_with(&full))
    });
}

#[test]
fn s12_05_freezable_queues_alone() {
    let rt = runtime(1);
    let plain = rt.queue("plain").flags(PERCPU).build().unwrap();
    let flags = PERCPU | Flags::FREEZABLE;
    let freezable = rt.queue("freezable").flags(flags).build().unwrap();
    let (gate, _, _) = standing(&plain, 0);
    gate.wait_for(1);
    assert_eq!(rt.dump_freezable(), "");
    freezable.enqueue(Call::noop()).unwrap();
    let dump = rt.dump_freezable();
    assert_eq!(dump.matches("workqueue ").count(), 1, "{dump}");
    assert!(
        dump.starts_with("workqueue freezable: flags=0x104\n"),
        "{dump}"
    );
    gate.open();
    [&plain, &freezable].iter().for_each(|q| q.flush().unwrap());
}
