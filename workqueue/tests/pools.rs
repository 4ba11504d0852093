// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 4: which pool an item goes to, and how attributes change that.

mod common;
use common::*;
use std::sync::Arc;
use workqueue::*;

#[test]
fn s04_03_a_cpu_that_never_was_is_refused() {
    let rt = runtime(2);
    for flags in [PERCPU, UNBOUND] {
        let q = rt.queue("q").flags(flags).build().unwrap();
        let item = Call::noop();
        assert_eq!(
            q.enqueue_on(2, item.clone()).unwrap_err().reason(),
            Refusal::InvalidCpu
        );
        assert_eq!(
            q.enqueue_on(usize::MAX, item.clone()).unwrap_err().reason(),
            Refusal::InvalidCpu
        );
        assert!(!item.work.is_pending());
    }
}

#[test]
fn s04_06_enqueue_node() {
    let rt = quiet().topology(machine(4, 2)).start().unwrap();
    let percpu = rt.queue("p").flags(PERCPU).build().unwrap();
    let item = Call::noop();
    assert_eq!(
        percpu.enqueue_node(0, item.clone()).unwrap_err().reason(),
        Refusal::NotUnbound
    );
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    for node in [0, 1, 77] {
        q.enqueue_node(node, item.clone()).unwrap();
        q.flush().unwrap();
    }
    assert_eq!(item.runs(), 3);
}

#[test]
fn s04_07_equal_keys_share_a_pool() {
    let rt = quiet().topology(machine(4, 2)).start().unwrap();
    let (a, b) = (
        rt.queue("a").flags(UNBOUND).build().unwrap(),
        rt.queue("b").flags(UNBOUND).build().unwrap(),
    );
    assert_eq!(
        pool_of(&rt, &a, 0),
        pool_of(&rt, &b, 1),
        "one pod, two queues"
    );
    assert_ne!(pool_of(&rt, &a, 0), pool_of(&rt, &a, 2), "two pods");
    // The scope is not part of the key: on this machine the node is the cache.
    b.apply_attrs(Attrs {
        scope: Some(Scope::Numa),
        ..Attrs::new()
    })
    .unwrap();
    assert_eq!(pool_of(&rt, &a, 0), pool_of(&rt, &b, 0));
    b.apply_attrs(Attrs {
        nice: 5,
        ..Attrs::new()
    })
    .unwrap();
    assert_ne!(pool_of(&rt, &a, 0), pool_of(&rt, &b, 0));
    b.apply_attrs(Attrs {
        strict: true,
        ..Attrs::new()
    })
    .unwrap();
    assert_ne!(pool_of(&rt, &a, 0), pool_of(&rt, &b, 0));
}

#[test]
fn s04_12_a_mask_without_usable_cpus_falls_back_to_the_unbound_mask() {
    let rt = runtime(4);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let nowhere = Attrs {
        cpumask: Some(CpuSet::single(99)),
        ..Attrs::new()
    };
    assert_eq!(
        q.apply_attrs(nowhere),
        Err(AttrError::EmptyMask("99".into()))
    );
    // A pod without a CPU the queue allows is served on the queue's whole mask.
    let one = Attrs {
        cpumask: Some(CpuSet::single(3)),
        scope: Some(Scope::Cpu),
        ..Attrs::new()
    };
    q.apply_attrs(one.clone()).unwrap();
    assert_eq!(pool_of(&rt, &q, 0), pool_of(&rt, &q, 3));
    assert_eq!(q.attrs(), one);
}

#[test]
fn s04_13_apply_attrs_refuses_what_it_cannot_do() {
    let rt = runtime(1);
    let percpu = rt.queue("p").flags(PERCPU).build().unwrap();
    assert_eq!(percpu.apply_attrs(Attrs::new()), Err(AttrError::NotUnbound));
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let bad = q.apply_attrs(Attrs {
        nice: 20,
        ..Attrs::new()
    });
    assert!(matches!(
        bad,
        Err(AttrError::Invalid {
            attribute: "nice",
            ..
        })
    ));
    assert_eq!(q.attrs(), Attrs::new());
}

#[test]
fn s04_13_items_finish_on_the_old_pool_and_later_ones_use_the_new() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(UNBOUND).max_active(1).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let (old, new) = (Call::noop(), Call::noop());
    q.enqueue(old.clone()).unwrap();
    q.apply_attrs(Attrs {
        nice: 3,
        ..Attrs::new()
    })
    .unwrap();
    q.enqueue(new.clone()).unwrap();
    gate.open();
    q.flush().unwrap();
    assert_eq!((old.runs(), new.runs()), (1, 1));
    // 12.1: the counters of the pwqs that are gone are kept.
    until("the old pwqs are released", || q.stats().completed == 3);
    assert_eq!(q.stats().started, 3);
}

#[test]
fn s04_13_s04_14_a_change_without_its_first_worker_changes_nothing() {
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let f = fails.clone();
    let rt = quiet()
        .topology(machine(2, 1))
        .threads_by(move |_| {
            if f.load(std::sync::atomic::Ordering::SeqCst) {
                Err(11)
            } else {
                Ok(())
            }
        })
        .start()
        .unwrap();
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let before = pool_of(&rt, &q, 0);
    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    let attrs = Attrs {
        nice: 7,
        ..Attrs::new()
    };
    assert_eq!(q.apply_attrs(attrs.clone()), Err(AttrError::Spawn(11)));
    let none = rt.queue("n").flags(UNBOUND).attrs(attrs.clone()).build();
    assert_eq!(
        none.map(drop),
        Err(AllocError::Spawn {
            name: "n".into(),
            errno: 11
        })
    );
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(pool_of(&rt, &q, 0), before);
    q.apply_attrs(attrs).unwrap();
    assert_ne!(pool_of(&rt, &q, 0), before);
}

#[test]
fn s04_15_ordered_items_run_one_at_a_time_in_order_over_all_cpus() {
    let rt = runtime(4);
    let q = rt.ordered("o", Flags::empty()).unwrap();
    let (log, inside) = (
        Log::new(),
        Arc::new(std::sync::atomic::AtomicBool::new(false)),
    );
    for n in 0..400 {
        let (l, i) = (log.clone(), inside.clone());
        let item = Call::new(move |_| {
            assert!(!i.swap(true, std::sync::atomic::Ordering::SeqCst));
            l.add(n);
            i.store(false, std::sync::atomic::Ordering::SeqCst);
        });
        q.enqueue_on(n % 4, item).unwrap();
        if n % 40 == 0 {
            // The order survives a change of pools.
            q.apply_attrs(Attrs {
                nice: i32::try_from(n / 40).unwrap(),
                ..Attrs::new()
            })
            .unwrap();
        }
    }
    q.flush().unwrap();
    assert_eq!(log.all(), (0..400).collect::<Vec<_>>());
    assert_eq!(q.stats().panicked, 0);
}

#[test]
fn s04_17_an_unused_pool_goes_and_its_items_stay_usable() {
    let rt = runtime(1);
    let item = Call::noop();
    for nice in 1..10 {
        let attrs = Attrs {
            nice,
            ..Attrs::new()
        };
        let q = rt.queue("q").flags(UNBOUND).attrs(attrs).build().unwrap();
        q.enqueue(item.clone()).unwrap();
        item.work.flush().unwrap();
        q.destroy().unwrap();
        assert_eq!(item.work.flush(), Ok(false));
        assert!(item.work.cancel_sync().unwrap().is_none());
    }
    assert_eq!(item.runs(), 9);
}

#[test]
fn s04_12_s04_13_the_builder_refuses_attributes_as_apply_attrs_does() {
    let rt = runtime(2);
    let with = |flags, attrs: &Attrs| rt.queue("q").flags(flags).attrs(attrs.clone()).build();
    let nowhere = Attrs {
        cpumask: Some(CpuSet::single(7)),
        ..Attrs::new()
    };
    let too_nice = Attrs {
        nice: 20,
        ..Attrs::new()
    };
    for (flags, attrs) in [
        (PERCPU, Attrs::new()),
        (Flags::BH, Attrs::new()),
        (Flags::empty(), Attrs::new()),
        (UNBOUND, nowhere),
        (UNBOUND, too_nice),
    ] {
        let q = rt.queue("q").flags(flags).build().unwrap();
        let name = "q".to_owned();
        let source = q.apply_attrs(attrs.clone()).unwrap_err();
        let refused = with(flags, &attrs).map(|q| q.attrs());
        assert_eq!(refused, Err(AllocError::Attrs { name, source }));
    }
    assert!(with(UNBOUND, &Attrs::new()).is_ok());
    let nice = Attrs {
        nice: 5,
        ..Attrs::new()
    };
    let ordered = rt.queue("o").ordered().attrs(nice.clone()).build().unwrap();
    assert_eq!((ordered.max_active(), ordered.attrs()), (1, nice));
}

#[test]
fn s04_10_a_machine_that_cannot_be_used_is_refused_at_the_start() {
    let place = |cpu, node| CpuPlace {
        cpu,
        core: 0,
        cache: 0,
        node,
    };
    let huge = 1 << 40;
    for (topology, why) in [
        (Topology::simulated(vec![]), "no CPU"),
        (machine(0, 1), "no CPU"),
        (machine(huge, 0), "CPU 8192 on node 0"),
        (
            Topology::simulated(vec![place(0, 0), place(huge, 0)]),
            "CPU 1099511627776",
        ),
        (
            Topology::simulated(vec![place(0, usize::MAX)]),
            "node 18446744073709551615",
        ),
    ] {
        let old = legacy::Machine::builder()
            .topology(topology.clone())
            .build();
        let made = old.create_workqueue("old").is_ok();
        assert_eq!(made, !topology.possible().is_empty());
        let rt = Runtime::builder().topology(topology).build_early();
        let refused = rt.start().unwrap_err();
        assert!(matches!(refused, StartError::Topology(_)));
        assert!(refused.to_string().contains(why), "{refused}");
    }
    let rt = quiet().topology(machine(2, 0)).start().unwrap();
    assert_eq!(rt.topology().nr_nodes(), 1);
}

#[test]
fn s04_08_default_follows_later_changes() {
    let rt = runtime(4);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let own = Attrs {
        scope: Some(Scope::System),
        ..Attrs::new()
    };
    let fixed = rt.queue("fixed").flags(UNBOUND).attrs(own).build().unwrap();
    let pools = |q: &Queue| -> Vec<_> { (0..4).map(|cpu| pool_of(&rt, q, cpu)).collect() };
    let distinct = |mut pools: Vec<String>| {
        pools.sort();
        pools.dedup();
        pools.len()
    };
    let before = pools(&fixed);
    assert_eq!(distinct(pools(&q)), 1, "one cache");
    rt.set_default_scope(Scope::Cpu).unwrap();
    assert_eq!((rt.default_scope(), distinct(pools(&q))), (Scope::Cpu, 4));
    assert_eq!(pools(&fixed), before);
    rt.set_default_scope(Scope::System).unwrap();
    assert_eq!(distinct(pools(&q)), 1);
}
