// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 1, 3, 6.12, 10.17 and 12: flags, threads, the ready-made queues, counters.

mod common;
use common::*;
use std::sync::Arc;
use workqueue::*;

fn bad_flags(made: Result<OwnedQueue, AllocError>) -> bool {
    matches!(made, Err(AllocError::BadFlags { .. }))
}

#[test]
fn s03_01_neither_percpu_nor_unbound_is_percpu() {
    let rt = runtime(1);
    assert!(rt.queue("q").build().unwrap().flags().contains(PERCPU));
}

#[test]
fn s03_02_to_s03_06_bad_flags_are_refused() {
    let rt = runtime(1);
    let both = rt.queue("q").flags(PERCPU | UNBOUND).build();
    let text = both.map(|q| q.attrs()).unwrap_err().to_string();
    assert!(
        text.starts_with("flags UNBOUND | PERCPU of queue q: "),
        "{text}"
    );
    assert!(bad_flags(
        rt.queue("q")
            .flags(Flags::from_bits_retain(1 << 20))
            .build()
    ));
    assert!(bad_flags(rt.queue("q").flags(Flags::BH | UNBOUND).build()));
    assert!(bad_flags(
        rt.queue("q").flags(Flags::BH).max_active(3).build()
    ));
    assert!(bad_flags(rt.ordered("o", PERCPU)));
    assert!(bad_flags(rt.ordered("o", Flags::BH)));
    let good = Flags::HIGHPRI | Flags::FREEZABLE | Flags::MEM_RECLAIM;
    assert!(rt
        .ordered("o", good)
        .unwrap()
        .flags()
        .contains(good | UNBOUND));
    assert!(rt
        .queue("q")
        .flags(UNBOUND | Flags::CPU_INTENSIVE)
        .build()
        .is_ok());
}

#[test]
fn s03_07_power_efficient_is_resolved_at_creation() {
    let flags = PERCPU | Flags::POWER_EFFICIENT;
    let plain = runtime(1);
    assert!(plain
        .queue("q")
        .flags(flags)
        .build()
        .unwrap()
        .flags()
        .contains(PERCPU));
    let saving = quiet()
        .topology(machine(1, 1))
        .power_efficient(true)
        .start()
        .unwrap();
    let q = saving.queue("q").flags(flags).build().unwrap();
    assert!(q.flags().contains(UNBOUND) && !q.flags().contains(PERCPU));
    assert!(saving.system_power_efficient().flags().contains(UNBOUND));
}

#[test]
fn s03_08_names_and_limits_are_checked() {
    let rt = runtime(1);
    assert_eq!(
        rt.queue("").build().map(drop),
        Err(AllocError::BadName(String::new()))
    );
    assert!(matches!(
        rt.queue("a\0b").build(),
        Err(AllocError::BadName(_))
    ));
    let long = rt
        .queue("0123456789012345678901234567890123")
        .build()
        .unwrap();
    assert_eq!(long.name(), "0123456789012345678901234567890");
    assert_eq!(rt.queue("q").build().unwrap().max_active(), 1024);
    assert_eq!(
        rt.queue("q").max_active(5000).build().unwrap().max_active(),
        2048
    );
    let (a, b) = (
        rt.queue("same").build().unwrap(),
        rt.queue("same").build().unwrap(),
    );
    assert_eq!(a.name(), b.name());
}

fn on_cpu(number: usize) -> Runtime {
    let place = CpuPlace {
        cpu: number,
        core: number,
        cache: 0,
        node: 0,
    };
    Runtime::builder()
        .topology(Topology::simulated(vec![place]))
        // Under load a creation may take so long that a rescuer is called: not the matter here.
        .mayday_initial(std::time::Duration::from_secs(3600))
        .start()
        .unwrap()
}

#[test]
fn s01_01_s06_01_percpu_queues_make_no_thread() {
    let rt = on_cpu(41);
    let queues: Vec<_> = (0..100)
        .map(|n| rt.queue(&format!("q{n}")).flags(PERCPU).build().unwrap())
        .collect();
    assert_eq!(
        threads_named("kworker/41:"),
        ["kworker/41:0", "kworker/41:0H"]
    );
    drop(queues);
}

#[test]
fn s01_04_s01_05_threads_have_the_kernels_names() {
    let rt = on_cpu(42);
    let q = rt
        .queue("kblockd_of_test")
        .flags(PERCPU | Flags::HIGHPRI | Flags::MEM_RECLAIM)
        .build()
        .unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    assert_eq!(
        threads_named("kworker/42:"),
        ["kworker/42:0", "kworker/42:0H", "kworker/42:1H"]
    );
    until("the rescuer has named itself", || {
        threads_named("kworker/R-kbloc") == ["kworker/R-kbloc"]
    });
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s01_04_a_program_gives_its_threads_a_prefix_of_its_own() {
    let rt = Runtime::builder().thread_name_prefix("app\x0043/");
    let rt = rt.start().unwrap();
    let q = rt
        .queue("kblockd_of_test")
        .flags(Flags::MEM_RECLAIM)
        .build();
    until("the threads have named themselves", || {
        threads_named("app43/R-kblockd") == ["app43/R-kblockd"]
    });
    let per_cpu = |end: &str| {
        threads_named("app43/")
            .iter()
            .any(|name| name.ends_with(end))
    };
    assert!(per_cpu(":0") && per_cpu(":0H"));
    drop(q);
}

#[test]
fn s01_09_s04_04_percpu_items_run_on_their_cpu() {
    let rt = Runtime::builder().start().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    for cpu in rt.topology().possible().iter() {
        let seen = Log::new();
        let s = seen.clone();
        let item = Call::new(move |_| {
            let task = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let list = task
                .lines()
                .find(|l| l.starts_with("Cpus_allowed_list"))
                .unwrap();
            s.add(list.split_whitespace().nth(1).unwrap().to_owned());
        });
        q.enqueue_on(cpu, item).unwrap();
        q.flush().unwrap();
        assert_eq!(seen.all(), [cpu.to_string()]);
    }
}

#[test]
fn s01_10_signals_are_blocked_on_workers() {
    let rt = runtime(1);
    let seen = Log::new();
    let s = seen.clone();
    rt.system_percpu()
        .try_spawn(move || {
            let task = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let blocked = task.lines().find(|l| l.starts_with("SigBlk")).unwrap();
            s.add(u64::from_str_radix(blocked.split_whitespace().nth(1).unwrap(), 16).unwrap());
        })
        .unwrap();
    rt.system_percpu().flush().unwrap();
    // SIGHUP, SIGINT, SIGTERM, SIGUSR1 and SIGCHLD are 1, 2, 15, 10 and 17.
    for signal in [1, 2, 15, 10, 17] {
        assert_ne!(seen.all()[0] & 1 << (signal - 1), 0, "signal {signal}");
    }
}

#[test]
fn s06_12_the_system_queues_are_there_from_the_first_phase() {
    let rt = quiet().topology(machine(1, 1)).build_early();
    let names: Vec<_> = [
        rt.system_percpu(),
        rt.system_highpri(),
        rt.system_long(),
        rt.system_freezable(),
        rt.system_power_efficient(),
        rt.system_freezable_power_efficient(),
        rt.system_dfl(),
        rt.system_dfl_long(),
    ]
    .iter()
    .map(|q| (q.name().to_owned(), q.max_active()))
    .collect();
    let percpu = [
        "events",
        "events_highpri",
        "events_long",
        "events_freezable",
        "events_power_efficient",
    ];
    for (got, want) in names.iter().zip(percpu) {
        assert_eq!(got, &(want.to_owned(), 1024));
    }
    assert_eq!(
        names[5],
        ("events_freezable_pwr_efficient".to_owned(), 1024)
    );
    assert_eq!(names[6], ("events_unbound".to_owned(), 2048));
    assert_eq!(names[7], ("events_dfl_long".to_owned(), 2048));
}

#[test]
fn s12_02_s12_07_counters_balance_and_events_are_in_order() {
    let events: Log<(&'static str, usize)> = Log::new();
    let sink = events.clone();
    let rt = quiet()
        .topology(machine(1, 1))
        .trace_sink(move |e| match *e {
            TraceEvent::Queue { work, .. }
            | TraceEvent::Activate { work, .. }
            | TraceEvent::ExecuteStart { work, .. }
            | TraceEvent::ExecuteEnd { work, .. } => sink.add((e.name(), work)),
        })
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).max_active(2).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    let items: Vec<_> = (0..10).map(|_| Call::noop()).collect();
    items.iter().for_each(|i| q.enqueue(i.clone()).unwrap());
    drop(items[4].work.cancel().unwrap());
    gate.open();
    q.flush().unwrap();
    let of = |item: &Arc<Call>| -> Vec<&str> {
        let work = std::ptr::from_ref(&item.work).addr();
        events
            .all()
            .iter()
            .filter(|(_, w)| *w == work)
            .map(|(n, _)| *n)
            .collect()
    };
    let run = [
        "workqueue_queue_work",
        "workqueue_activate_work",
        "workqueue_execute_start",
        "workqueue_execute_end",
    ];
    for (n, item) in items.iter().enumerate() {
        assert_eq!(
            of(item),
            if n == 4 { &run[..1] } else { &run[..] },
            "item {n}"
        );
    }
    let stats = q.stats();
    assert_eq!((stats.started, stats.completed), (10, 10));
}

#[test]
fn s10_17_work_on_cpu_gives_the_result_or_the_panic() {
    let rt = Runtime::builder().start().unwrap();
    for cpu in rt.topology().possible().iter() {
        let allowed = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            status
                .lines()
                .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))
                .unwrap()
                .trim()
                .to_owned()
        };
        assert_eq!(rt.work_on_cpu(cpu, allowed), Ok(cpu.to_string()));
    }
    assert_eq!(
        rt.work_on_cpu(7000, || 1),
        Err(OnCpuError::Refused(Refusal::InvalidCpu))
    );
    let panics = || -> () { std::panic::panic_any("on purpose") };
    let caught =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rt.work_on_cpu(0, panics)));
    assert_eq!(
        caught.unwrap_err().downcast_ref::<&str>(),
        Some(&"on purpose")
    );
    let early = quiet().topology(machine(1, 1)).build_early();
    assert_eq!(
        early.work_on_cpu(0, || 1),
        Err(OnCpuError::Wait(WaitError::NotOnline))
    );
}

#[test]
fn s10_17_schedule_on_each_cpu_runs_once_on_each() {
    let rt = runtime(4);
    let seen = Log::new();
    let s = seen.clone();
    rt.set_online_cpus(Some(CpuSet::parse_list("0,2-3").unwrap()));
    rt.schedule_on_each_cpu(move || s.add(std::thread::current().id()))
        .unwrap();
    assert_eq!(seen.all().len(), 3);
}
