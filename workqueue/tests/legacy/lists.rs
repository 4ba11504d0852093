// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads, lists, CPUs, freezing, events: all of section 13 but the waits.

use super::common::*;
use super::*;

#[test]
fn s13_01_s13_02_threads_are_queues_times_cpus() {
    let m = on(3).build();
    let queues: Vec<_> = (0..4)
        .map(|n| m.create_workqueue(&format!("lgk{n}")).unwrap())
        .collect();
    let single = m.create_singlethread_workqueue("lgk_single").unwrap();
    let expected: Vec<_> = (0..4)
        .flat_map(|n| (0..3).map(move |cpu| format!("lgk{n}/{cpu}")))
        .collect();
    let all = || threads_named("lgk").len() == 13 && threads_named("lgk")[..12] == expected;
    until("they are there", all);
    for q in &queues {
        for cpu in 0..3 {
            assert_eq!(q.queue_work_on(cpu, &Work::new("noop", |_| ())), Ok(true));
        }
        q.flush_workqueue().unwrap();
    }
    until("they are there, busy or not", all);
    drop(queues);
    single.destroy_workqueue().unwrap();
    no_thread_named("lgk");
}

#[test]
fn s13_01_threads_are_bound_or_not() {
    let m = Machine::builder().build();
    let all = m.online_cpus();
    let bound = m.create_workqueue("lgb").unwrap();
    let single = m.create_singlethread_workqueue("lgbs").unwrap();
    for cpu in all.iter() {
        let masks = Log::new();
        let seen = masks.clone();
        let look = Work::new("look", move |_| seen.add(own_status("Cpus_allowed_list")));
        assert_eq!(bound.queue_work_on(cpu, &look), Ok(true));
        look.flush_work().unwrap();
        assert_eq!(masks.all(), [cpu.to_string()]);
    }
    assert_eq!(
        ask(&single, || own_status("Cpus_allowed_list")),
        all.to_list()
    );
}

#[test]
fn s13_01_a_real_time_queue_has_its_priority_or_is_not_made() {
    match on(1).build().create_rt_workqueue("lgrt") {
        Ok(q) => {
            // Fields 40 and 41 of stat: the real-time priority and the policy, 1 for SCHED_FIFO.
            assert_eq!(
                ask(&q, || (own_stat(40), own_stat(41))),
                ("99".into(), "1".into())
            );
        }
        Err(e) => {
            let name = "lgrt".to_owned();
            assert_eq!(
                e,
                AllocError::Spawn {
                    name,
                    errno: libc::EPERM
                }
            );
            no_thread_named("lgrt");
        }
    }
}

#[test]
fn s13_02_one_thread_too_few_is_no_queue() {
    let hook = |thread: &str| {
        if thread.ends_with("/2") {
            Err(11)
        } else {
            Ok(())
        }
    };
    let m = on(4).threads_by(hook).build();
    let name = "lgu".to_owned();
    assert_eq!(
        m.create_workqueue("lgu").map(drop),
        Err(AllocError::Spawn { name, errno: 11 })
    );
    no_thread_named("lgu");
    // Nothing of it is in the way later.
    assert!(m.create_singlethread_workqueue("lgu").is_ok());
}

/// One of the documentation's items, on the virtual clock; the old threads count nothing, so
/// burning and sleeping are the same to them.
fn burner(
    clock: &Arc<VirtualClock>,
    log: &Log<(&'static str, u128)>,
    name: &'static str,
    ms: u32,
) -> Arc<Work> {
    let (c, l) = (clock.clone(), log.clone());
    Work::new(name, move |_| {
        l.add((name, c.now().as_millis()));
        c.sleep(MS * ms);
    })
}

#[test]
fn s13_03_s05_09_one_item_after_the_other() {
    let clock = VirtualClock::new();
    let q = on(1).build().create_workqueue("lgt").unwrap();
    let (log, gate) = (Log::new(), Gate::new());
    let g = gate.clone();
    assert!(q.queue_work(&Work::new("hold", move |_| g.pass())));
    // w0 burns 5, sleeps 10 and burns 5 ms; w1 and w2 burn 5 and sleep 10.
    for (name, ms) in [("w0", 20), ("w1", 15), ("w2", 15)] {
        assert!(q.queue_work(&burner(&clock, &log, name, ms)));
    }
    gate.open();
    for _ in 0..10 {
        clock.wait_for_sleepers(1);
        clock.advance(MS * 5);
    }
    q.flush_workqueue().unwrap();
    assert_eq!(log.all(), [("w0", 0), ("w1", 20), ("w2", 35)]);
}

#[test]
fn s13_04_pending_refuses_and_is_clear_inside_the_run() {
    let m = on(2).build();
    let q = Arc::new(m.create_workqueue("lgp").unwrap());
    let gate = Gate::new();
    let (g, again, outcome) = (gate.clone(), q.clone(), Log::new());
    let o = outcome.clone();
    let runs = AtomicUsize::new(0);
    let item = Work::new("item", move |me| {
        g.pass();
        if runs.fetch_add(1, Ordering::SeqCst) == 0 {
            o.add((me.is_pending(), again.queue_work(me), again.queue_work(me)));
        }
    });
    assert_eq!(q.queue_work_on(0, &item), Ok(true));
    gate.open();
    until("it has run twice", || gate.arrived() == 2);
    item.flush_work().unwrap();
    assert_eq!(outcome.all(), [(false, true, false)]);
    assert_eq!(q.queue_work_on(2, &item), Err(Refusal::InvalidCpu));
    assert!(!item.is_pending());
}

#[test]
fn s13_05_an_item_queued_elsewhere_in_its_run_runs_beside_itself() {
    for single in [false, true] {
        let m = on(2).build();
        let q = if single {
            m.create_singlethread_workqueue("lgo")
        } else {
            m.create_workqueue("lgo")
        }
        .unwrap();
        let gate = Gate::new();
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (g, i, most_seen) = (gate.clone(), inside.clone(), most.clone());
        let item = Work::new("item", move |_| {
            most_seen.fetch_max(i.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            g.pass();
            i.fetch_sub(1, Ordering::SeqCst);
        });
        assert_eq!(q.queue_work_on(0, &item), Ok(true));
        gate.wait_for(1);
        assert_eq!(q.queue_work_on(1, &item), Ok(true));
        if single {
            // The one thread stands at the gate, so nothing else can run.
            assert!(item.is_pending() && gate.arrived() == 1);
        } else {
            gate.wait_for(2);
        }
        gate.open();
        q.flush_workqueue().unwrap();
        assert_eq!(most.load(Ordering::SeqCst), if single { 1 } else { 2 });
    }
}

#[test]
fn s13_08_the_eras_have_their_nice_values() {
    listen();
    let process = own_stat(19);
    for (era, nice) in [(Era::Before2_6_30, "-5"), (Era::From2_6_30, &*process)] {
        let q = on(1).era(era).build().create_workqueue("lgn").unwrap();
        let seen = ask(&q, || own_stat(19));
        // Without the right to it, the former era runs at the process's nice value and says so.
        let denied = !warnings("no right to run lgn/0").is_empty();
        assert!(seen == nice || denied && seen == process, "{era:?}: {seen}");
    }
}

#[test]
fn s13_09_a_freezeable_queue_stops_between_two_items() {
    let m = on(2).build();
    let (frozen, other) = (
        m.create_freezeable_workqueue("lgfr").unwrap(),
        m.create_workqueue("lgnf").unwrap(),
    );
    let (gate, held) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (g, h) = (gate.clone(), held.clone());
    assert!(frozen.queue_work(&Work::new("running", move |_| g.pass())));
    gate.wait_for(1);
    let item = Work::new("held", move |_| {
        h.fetch_add(1, Ordering::SeqCst);
    });
    assert!(frozen.queue_work(&item));
    m.freeze();
    let ended = Arc::new(AtomicUsize::new(0));
    let e = ended.clone();
    let sign = Work::new("sign", move |_| {
        e.fetch_add(1, Ordering::SeqCst);
    });
    gate.open();
    until("the thread stands before its next item", || {
        frozen.dump() == "lgfr: running nothing; listed: held\n"
    });
    // Other queues go on.
    assert!(other.queue_work(&sign));
    other.flush_workqueue().unwrap();
    assert_eq!(
        (ended.load(Ordering::SeqCst), held.load(Ordering::SeqCst)),
        (1, 0)
    );
    assert!(item.is_pending());
    m.thaw();
    frozen.flush_workqueue().unwrap();
    assert_eq!(held.load(Ordering::SeqCst), 1);
}

#[test]
fn s13_11_a_cpu_that_leaves_empties_its_list_and_one_that_returns_gets_a_thread() {
    let (m, events) = watched(2);
    let q = m.create_workqueue("lgh").unwrap();
    let (gate, ran) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let g = gate.clone();
    assert_eq!(
        q.queue_work_on(1, &Work::new("hold", move |_| g.pass())),
        Ok(true)
    );
    gate.wait_for(1);
    for _ in 0..5 {
        let r = ran.clone();
        let item = Work::new("listed", move |_| {
            r.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(q.queue_work_on(1, &item), Ok(true));
    }
    let late = Work::new("late", |_| ());
    std::thread::scope(|s| {
        let leaving = s.spawn(|| m.cpu_down(1));
        until("the CPU is out", || m.online_cpus().len() == 1);
        assert_eq!(q.queue_work_on(1, &late), Err(Refusal::InvalidCpu));
        assert!(q.queue_work(&late), "on the CPU that is left");
        gate.open();
        assert_eq!(leaving.join().unwrap(), Ok(()));
    });
    assert_eq!(ran.load(Ordering::SeqCst), 5);
    until("its thread has ended", || {
        threads_named("lgh/") == ["lgh/0"]
    });
    assert_eq!(
        m.cpu_down(0),
        Err(Refusal::InvalidCpu),
        "the last one stays"
    );
    m.cpu_up(1).unwrap();
    assert_eq!(q.queue_work_on(1, &late).map(|_| ()), Ok(()));
    q.flush_workqueue().unwrap();
    let made = Seen::Creation("lgh/1".into(), Some(1));
    assert_eq!(events.all().iter().filter(|e| **e == made).count(), 2);
    // A queue that is made while a CPU is out has a thread there once it returns.
    m.cpu_down(1).unwrap();
    let other = m.create_workqueue("lgh2").unwrap();
    until("it has one thread", || threads_named("lgh2/") == ["lgh2/0"]);
    m.cpu_up(1).unwrap();
    assert_eq!(other.queue_work_on(1, &Work::new("item", |_| ())), Ok(true));
}

#[test]
fn s13_12_events_and_destruction() {
    let (m, events) = watched(1);
    let q = m.create_workqueue("lge").unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let r = runs.clone();
    let item = Work::new("item", move |_| {
        r.fetch_add(1, Ordering::SeqCst);
    });
    assert!(q.queue_work(&item));
    q.destroy_workqueue().unwrap();
    let thread = || "lge/0".to_owned();
    assert_eq!(
        events.all(),
        [
            Seen::Creation(thread(), Some(0)),
            Seen::Insertion(thread(), "item"),
            Seen::Execution(thread(), "item"),
            Seen::Destruction(thread()),
        ]
    );
    assert_eq!(runs.load(Ordering::SeqCst), 1, "flushed before it ended");
    assert!(!q.queue_work(&item));
    assert_eq!(q.queue_work_on(0, &item), Err(Refusal::Destroyed));
    assert!(!item.is_pending());
    q.flush_workqueue().unwrap();
    assert_eq!(Arc::strong_count(&item), 1);
}

#[test]
fn s13_12_a_queue_may_be_dropped_in_one_of_its_runs() {
    let (m, events) = watched(1);
    let q = Arc::new(m.create_workqueue("lgx").unwrap());
    let last = Mutex::new(Some(q.clone()));
    let (gate, outcome) = (Gate::new(), Log::new());
    let (g, o) = (gate.clone(), outcome.clone());
    let item = Work::new("item", move |_| {
        g.pass();
        let own = last.lock().unwrap().take().unwrap();
        o.add(own.destroy_workqueue());
        drop(own);
    });
    assert!(q.queue_work(&item));
    drop(q);
    gate.open();
    until("the thread has ended", || {
        events.all().contains(&Seen::Destruction("lgx/0".into()))
    });
    assert_eq!(outcome.all(), [Err(WaitError::WouldDeadlock)]);
}

#[test]
fn s13_04_every_accepted_item_runs_once_while_cpus_come_and_go() {
    let m = on(4).build();
    let q = m.create_workqueue("lgz").unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let accepted: usize = std::thread::scope(|s| {
        let queuers: Vec<_> = (0..3)
            .map(|t| {
                let (q, ran) = (&q, ran.clone());
                s.spawn(move || {
                    let mut accepted = 0;
                    for n in 0..500 {
                        let r = ran.clone();
                        let item = Work::new("item", move |_| {
                            r.fetch_add(1, Ordering::SeqCst);
                        });
                        accepted += usize::from(if (n + t) % 2 == 0 {
                            q.queue_work(&item)
                        } else {
                            q.queue_work_on((n + t) % 4, &item) == Ok(true)
                        });
                    }
                    accepted
                })
            })
            .collect();
        for n in 0..20 {
            let _it_may_be_in_that_state_already = match n % 4 {
                0 => m.cpu_down(1),
                1 => m.cpu_down(3),
                2 => m.cpu_up(1),
                _ => m.cpu_up(3),
            };
        }
        queuers.into_iter().map(|t| t.join().unwrap()).sum()
    });
    q.destroy_workqueue().unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), accepted);
    assert!(accepted >= 750);
}
