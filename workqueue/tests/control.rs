// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 4.18 and its rows of section 15: the control registry. Section 4.8: the default scope.

mod common;
use common::*;
use workqueue::*;

const SYSFS: Flags = Flags::SYSFS;

fn invalid<T: std::fmt::Debug>(outcome: Result<T, AttrError>) -> &'static str {
    match outcome {
        Err(AttrError::Invalid { attribute, .. }) => attribute,
        other => panic!("{other:?}"),
    }
}

fn no_entry<T: std::fmt::Debug + PartialEq>(outcome: Result<T, AttrError>, name: &str) {
    assert_eq!(outcome, Err(AttrError::NoEntry(name.to_owned())));
}

#[test]
fn s04_18_queues_are_listed_from_creation_to_destruction() {
    let rt = runtime(1);
    let control = rt.control();
    assert!(control.queues().is_empty());
    let plain = rt.queue("plain").flags(PERCPU).build().unwrap();
    let b = rt.queue("b").flags(PERCPU | SYSFS).build().unwrap();
    let a = rt.ordered("a", SYSFS).unwrap();
    assert_eq!(control.queues(), ["a", "b"]);
    no_entry(control.read("plain", "per_cpu"), "plain");
    no_entry(control.entries("plain"), "plain");
    no_entry(control.write("plain", "max_active", "1"), "plain");
    b.destroy().unwrap();
    assert_eq!(control.queues(), ["a"]);
    no_entry(control.read("b", "per_cpu"), "b");
    drop((a, plain));
    rt.shutdown().unwrap();
    assert!(control.queues().is_empty());
}

#[test]
fn s04_18_s11_01_the_entry_goes_before_the_queue_is_drained() {
    let rt = std::sync::Arc::new(runtime(1));
    let q = rt.queue("q").flags(UNBOUND | SYSFS).build().unwrap();
    let (gate, control) = (stand(&q, 0), rt.control());
    let destroyer = std::thread::spawn(move || q.destroy().unwrap());
    until("the entry is gone", || control.queues().is_empty());
    // The name is free again, while the old queue still has a run.
    let again = rt.queue("q").flags(PERCPU | SYSFS).build().unwrap();
    assert_eq!(control.read("q", "per_cpu").unwrap(), "1");
    gate.open();
    destroyer.join().unwrap();
    drop(again);
}

#[test]
fn s03_08_a_name_in_the_registry_is_used_once() {
    let rt = runtime(1);
    let first = rt.queue("same").flags(UNBOUND | SYSFS).build().unwrap();
    let second = rt.queue("same").flags(PERCPU | SYSFS | Flags::MEM_RECLAIM);
    assert_eq!(
        second.build().map(drop),
        Err(AllocError::NameExists("same".into()))
    );
    assert!(rt.queue("same").flags(PERCPU).build().is_ok());
    first.destroy().unwrap();
    assert!(rt.queue("same").flags(UNBOUND | SYSFS).build().is_ok());
}

#[test]
fn s04_18_entries_of_each_kind_of_queue() {
    let rt = runtime(1);
    let _percpu = rt.queue("p").flags(PERCPU | SYSFS).build().unwrap();
    let _unbound = rt.queue("u").flags(UNBOUND | SYSFS).build().unwrap();
    let _ordered = rt.ordered("o", SYSFS).unwrap();
    let control = rt.control();
    let all = [
        "per_cpu",
        "max_active",
        "nice",
        "cpumask",
        "affinity_scope",
        "affinity_strict",
    ];
    assert_eq!(control.entries("p").unwrap(), &all[..2]);
    assert_eq!(control.entries("u").unwrap(), all);
    assert_eq!(control.entries("o").unwrap(), all);
    for (queue, expected) in [("p", "1"), ("u", "0"), ("o", "0")] {
        assert_eq!(control.read(queue, "per_cpu").unwrap(), expected);
        assert_eq!(
            control.write(queue, "per_cpu", "1"),
            Err(AttrError::ReadOnly("per_cpu"))
        );
    }
    for entry in &all[2..] {
        no_entry(control.read("p", entry), entry);
        no_entry(control.write("p", entry, "1"), entry);
    }
    no_entry(control.read("u", "pool_ids"), "pool_ids");
}

#[test]
fn s04_18_max_active() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU | SYSFS).build().unwrap();
    let _o = rt.ordered("o", SYSFS).unwrap();
    let control = rt.control();
    assert_eq!(control.read("q", "max_active").unwrap(), "1024");
    control.write("q", "max_active", " 7\n").unwrap();
    assert_eq!(
        (q.max_active(), control.read("q", "max_active").unwrap()),
        (7, "7".into())
    );
    for bad in ["0", "-1", "", "x", "7 8", "99999999999999999999"] {
        assert_eq!(invalid(control.write("q", "max_active", bad)), "max_active");
    }
    assert_eq!(q.max_active(), 7);
    control.write("q", "max_active", "5000").unwrap();
    assert_eq!(q.max_active(), 2048);
    assert_eq!(control.read("o", "max_active").unwrap(), "1");
    assert_eq!(
        control.write("o", "max_active", "5"),
        Err(AttrError::ReadOnly("max_active"))
    );
}

#[test]
fn s04_18_nice_cpumask_and_strict() {
    let rt = runtime(4);
    let q = rt.queue("q").flags(UNBOUND | SYSFS).build().unwrap();
    let control = rt.control();
    let read = |entry| control.read("q", entry).unwrap();
    assert_eq!(
        (read("nice"), read("affinity_strict")),
        ("0".into(), "0".into())
    );
    assert_eq!(read("cpumask"), "f");

    control.write("q", "nice", "-5").unwrap();
    control.write("q", "affinity_strict", "2").unwrap();
    control.write("q", "cpumask", "6").unwrap();
    assert_eq!(
        (read("nice"), read("affinity_strict")),
        ("-5".into(), "1".into())
    );
    assert_eq!(read("cpumask"), "6");
    let attrs = q.attrs();
    assert_eq!((attrs.nice, attrs.strict), (-5, true));
    assert_eq!(attrs.cpumask, CpuSet::parse_list("1-2"));

    for bad in ["20", "-21", "", "high"] {
        assert_eq!(invalid(control.write("q", "nice", bad)), "nice");
    }
    for bad in ["", "yes", "0x1"] {
        let outcome = control.write("q", "affinity_strict", bad);
        assert_eq!(invalid(outcome), "affinity_strict");
    }
    for bad in ["", "g", "0-3", "123456789", "1,,2"] {
        assert_eq!(invalid(control.write("q", "cpumask", bad)), "cpumask");
    }
    assert_eq!(
        control.write("q", "cpumask", "f0"),
        Err(AttrError::EmptyMask("4-7".into()))
    );
    assert_eq!(q.attrs(), attrs, "nothing has changed");
    // Through it all the queue works.
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    item.work.flush().unwrap();
}

#[test]
fn s04_18_affinity_scope() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(UNBOUND | SYSFS).build().unwrap();
    let control = rt.control();
    let read = || control.read("q", "affinity_scope").unwrap();
    assert_eq!(read(), "default (cache_shard)");
    for scope in Scope::ALL {
        control.write("q", "affinity_scope", scope.name()).unwrap();
        assert_eq!(
            (read(), q.attrs().scope),
            (scope.name().to_owned(), Some(scope))
        );
    }
    control.write("q", "affinity_scope", "default").unwrap();
    assert_eq!(
        (read(), q.attrs().scope),
        ("default (cache_shard)".into(), None)
    );
    for bad in ["", "core", "default (cpu)"] {
        let outcome = control.write("q", "affinity_scope", bad);
        assert_eq!(invalid(outcome), "affinity_scope");
    }
}

#[test]
fn s04_08_default_follows_later_changes() {
    let rt = runtime(4);
    let q = rt.queue("q").flags(UNBOUND | SYSFS).build().unwrap();
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
    let control = rt.control();
    assert_eq!(
        invalid(control.write_runtime("default_affinity_scope", "default")),
        "affinity_scope"
    );
    control
        .write_runtime("default_affinity_scope", "cpu")
        .unwrap();
    assert_eq!((rt.default_scope(), distinct(pools(&q))), (Scope::Cpu, 4));
    assert_eq!(
        control.read("q", "affinity_scope").unwrap(),
        "default (cpu)"
    );
    assert_eq!(pools(&fixed), before);
    rt.set_default_scope(Scope::System).unwrap();
    assert_eq!(distinct(pools(&q)), 1);
    assert_eq!(
        control.read_runtime("default_affinity_scope").unwrap(),
        "system"
    );
}

#[test]
fn s04_18_entries_of_the_runtime() {
    let rt = runtime(4);
    let control = rt.control();
    assert_eq!(
        control.runtime_entries(),
        [
            "cpumask",
            "cpumask_requested",
            "cpumask_isolated",
            "default_affinity_scope",
            "cpu_intensive_thresh_us",
            "watchdog_thresh"
        ]
    );
    // A made-up machine isolates nothing.
    assert_eq!(control.read_runtime("cpumask_isolated").unwrap(), "0");
    assert_eq!(control.read_runtime("cpumask_requested").unwrap(), "f");
    for read_only in ["cpumask_requested", "cpumask_isolated"] {
        let refused = control.write_runtime(read_only, "1");
        assert_eq!(refused, Err(AttrError::ReadOnly(read_only)));
    }
    let thresh = "cpu_intensive_thresh_us";
    assert_eq!(control.read_runtime(thresh).unwrap(), "10000");
    control.write_runtime(thresh, "0").unwrap();
    assert!(rt.cpu_intensive_thresh().is_zero());
    assert_eq!(invalid(control.write_runtime(thresh, "1ms")), thresh);
    no_entry(control.read_runtime("nice"), "nice");
    no_entry(control.write_runtime("nice", "1"), "nice");
    assert_eq!(control.read_runtime("cpumask").unwrap(), "f");
    control.write_runtime("cpumask", "13").unwrap();
    // CPU 4 is not there yet.
    assert_eq!(control.read_runtime("cpumask_requested").unwrap(), "13");
    assert_eq!(rt.unbound_cpumask().to_list(), "0-1");
    assert_eq!(invalid(control.write_runtime("cpumask", "all")), "cpumask");
    assert_eq!(
        control.write_runtime("cpumask", "f0"),
        Err(AttrError::EmptyMask("4-7".into()))
    );
    assert_eq!(control.read_runtime("cpumask").unwrap(), "3");
    assert_eq!(control.read_runtime("watchdog_thresh").unwrap(), "30");
    control.write_runtime("watchdog_thresh", "0").unwrap();
    assert!(rt.watchdog_thresh().is_zero());
    let outcome = control.write_runtime("watchdog_thresh", "-1");
    assert_eq!(invalid(outcome), "watchdog_thresh");
    drop(rt);
    assert_eq!(
        control.write_runtime("cpumask", "1"),
        Err(AttrError::Destroyed)
    );
}
