// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 12.1, 12.9 and 12.10 as values: what a program can read of its own runtime.

mod common;
use common::*;
use workqueue::*;

fn queue<'a>(snapshot: &'a Snapshot, name: &str) -> &'a QueueSnapshot {
    let mut queues = snapshot.workqueues.iter();
    queues.find(|q| q.name == name).unwrap()
}

fn pool(snapshot: &Snapshot, id: Option<u32>) -> &PoolSnapshot {
    let mut pools = snapshot.pools.iter();
    pools.find(|p| Some(p.id) == id).unwrap()
}

#[test]
fn s01_02_s12_10_kinds_of_queues_and_their_pools() {
    let rt = quiet().topology(machine(4, 2)).start().unwrap();
    let attrs = |strict, scope| Attrs {
        nice: 3,
        strict,
        scope: Some(scope),
        ..Attrs::new()
    };
    let unbound = |name: &str, attrs| rt.queue(name).flags(UNBOUND).attrs(attrs).build().unwrap();
    let (_a, _b) = (
        unbound("wide", attrs(false, Scope::Numa)),
        unbound("strict", attrs(true, Scope::Numa)),
    );
    let _p = rt
        .queue("percpu")
        .flags(PERCPU | Flags::HIGHPRI)
        .build()
        .unwrap();
    let _o = rt.ordered("ordered", Flags::empty()).unwrap();
    let _s = rt.queue("soft").flags(Flags::BH).build().unwrap();
    let snapshot = rt.snapshot().unwrap();
    let kinds =
        ["wide", "strict", "percpu", "ordered", "soft"].map(|n| queue(&snapshot, n).kind.clone());
    assert_eq!(kinds, ["unbound", "unbound,S", "percpu", "ordered", "bh"]);

    let of = |name: &str, cpu| pool(&snapshot, queue(&snapshot, name).pools.get(&cpu).copied());
    let wide = of("wide", 2);
    assert_eq!(
        (wide.nice, wide.strict, wide.bh, wide.cpu),
        (3, false, false, None)
    );
    assert_eq!(wide.cpus, CpuSet::parse_list("0-3"));
    assert_eq!(wide.pod_cpus, CpuSet::parse_list("2-3"));
    assert_eq!((wide.refs, wide.workers), (2, 1), "two CPUs use it");
    let strict = of("strict", 0);
    assert_eq!((strict.strict, &strict.cpus), (true, &strict.pod_cpus));
    let percpu = of("percpu", 3);
    assert_eq!((percpu.cpu, percpu.nice, percpu.refs), (Some(3), -20, 1));
    assert_eq!((percpu.flags, &percpu.cpus), (0, &None));
    let soft = of("soft", 1);
    assert_eq!((soft.cpu, soft.bh, soft.flags), (Some(1), true, 1));
    // The pool for where no other can be had spans the nodes; per-CPU queues have none.
    let dfl = pool(&snapshot, queue(&snapshot, "wide").dfl);
    assert_eq!(dfl.pod_cpus, CpuSet::parse_list("0-3"));
    assert_eq!(queue(&snapshot, "percpu").dfl, None);
    let ordered = queue(&snapshot, "ordered");
    assert!(ordered.pools.len() == 4 && ordered.pools.values().all(|&id| Some(id) == ordered.dfl));
}

#[test]
fn s12_10_scopes_masks_nodes_and_flags() {
    let rt = quiet()
        .topology(machine(4, 2))
        .default_scope(Scope::Numa)
        .start()
        .unwrap();
    let q = rt.queue("q").flags(UNBOUND).max_active(20).build().unwrap();
    let gate = stand(&q, 2);
    let snapshot = rt.snapshot().unwrap();
    let node = |node, nr, max| NodeSnapshot { node, nr, max };
    assert_eq!(
        queue(&snapshot, "q").nodes,
        [
            node(Some(0), 0, 10),
            node(Some(1), 1, 10),
            node(None, 0, 20)
        ]
    );
    let numa = snapshot.scopes.iter().find(|s| s.name == "numa").unwrap();
    assert!(numa.default && numa.nr_pods == 2);
    assert_eq!(numa.pod_cpus[1], CpuSet::parse_list("2-3").unwrap());
    assert_eq!(numa.pod_node, [Some(0), Some(1)]);
    assert_eq!(
        numa.cpu_pod.values().copied().collect::<Vec<_>>(),
        [0, 0, 1, 1]
    );
    let system = snapshot.scopes.last().unwrap();
    assert_eq!((system.default, &system.pod_node[..]), (false, &[None][..]));
    gate.open();
    q.flush().unwrap();

    rt.set_unbound_cpumask(&CpuSet::single(3)).unwrap();
    rt.set_online_cpus(Some(CpuSet::parse_list("1-3").unwrap()));
    let snapshot = rt.snapshot().unwrap();
    assert_eq!(snapshot.unbound_cpumask.to_list(), "3");
    let left: Vec<_> = snapshot.pools.iter().filter(|p| p.flags & 4 != 0).collect();
    assert!(left.len() >= 2 && left.iter().all(|p| p.cpu == Some(0)));
}

#[test]
fn s12_01_s12_09_counters_of_all_queues() {
    let rt = runtime(1);
    let q = rt
        .queue("q")
        .flags(PERCPU | Flags::MEM_RECLAIM)
        .build()
        .unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    q.enqueue(Call::noop()).unwrap();
    q.flush().unwrap();
    q.enqueue(Call::new(move |_| blocking(|| g.pass())))
        .unwrap();
    gate.wait_for(1);
    let sample = rt.sample();
    let found = sample.queues.iter().find(|s| s.name == "q").unwrap();
    assert_eq!((found.started, found.completed), (2, 1));
    assert_eq!((found.unbound, found.mem_reclaim), (false, true));
    assert!(sample.timestamp > 1e9);
    let names: Vec<_> = sample.queues.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&"events") && names.last() == Some(&"q"));
    gate.open();
    q.flush().unwrap();
    let stats = q.stats();
    let sample = rt.sample();
    let found = sample.queues.iter().find(|s| s.name == "q").unwrap();
    assert_eq!(
        found.cpu_time,
        u64::try_from(stats.cpu_time.as_micros()).unwrap()
    );
    assert_eq!(
        (found.started, found.cm_wakeup),
        (stats.started, stats.cm_wakeup)
    );
}
