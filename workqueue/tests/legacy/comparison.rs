// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 13.13: what the old design cannot do, beside the one that can, on one virtual clock each.
//!
//! The throughput of real threads is the benchmark's (`bench_workqueue`, contender `legacy`).

use super::*;

const ITEMS: usize = 100;

/// Burns a millisecond; one of ten sleeps 10 more.
fn body(clock: &VirtualClock, log: &Log<(usize, u128)>, n: usize) {
    log.add((n, clock.now().as_millis()));
    clock.sleep(MS);
    if n.is_multiple_of(10) {
        blocking(|| clock.sleep(MS * 10));
    }
}

/// How long the items took in all, and when each of them began.
type Outcome = (u128, Vec<(usize, u128)>);

fn old_design() -> Outcome {
    let (clock, log) = (VirtualClock::new(), Log::new());
    let q = on(1).build().create_workqueue("lgcmp").unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    assert!(q.queue_work(&Work::new("hold", move |_| g.pass())));
    for n in 0..ITEMS {
        let (c, l) = (clock.clone(), log.clone());
        assert!(q.queue_work(&Work::new("item", move |_| body(&c, &l, n))));
    }
    gate.open();
    for _ in 0..200 {
        clock.wait_for_sleepers(1);
        clock.advance(MS);
    }
    q.flush_workqueue().unwrap();
    (clock.now().as_millis(), log.all())
}

/// The same, and how many workers the CPU's pool had in the end.
fn cmwq() -> (Outcome, usize) {
    let (clock, log) = (VirtualClock::new(), Log::new());
    let rt = quiet().topology(machine(1, 1));
    let rt = rt.virtual_clock(clock.clone()).build_early();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    for n in 0..ITEMS {
        let (c, l) = (clock.clone(), log.clone());
        q.enqueue(Call::new(move |_| body(&c, &l, n))).unwrap();
    }
    rt.start().unwrap();
    // One burns, and from the first millisecond on one sleeps; in the end one sleeps.
    for ms in 0..=ITEMS {
        clock.wait_for_sleepers(if (1..ITEMS).contains(&ms) { 2 } else { 1 });
        clock.advance(MS);
    }
    q.flush().unwrap();
    let pools = rt.snapshot().unwrap().pools;
    let pool = pools.iter().find(|p| p.cpu == Some(0) && p.nice == 0);
    let workers = pool.expect("the CPU's pool").workers;
    ((clock.now().as_millis(), log.all()), workers)
}

#[test]
fn s13_13_one_sleeper_in_ten_costs_the_old_design_half_of_its_throughput() {
    let (took, starts) = old_design();
    assert_eq!(took, 200, "every sleep is waited for");
    let expected = |n: usize| (n, (n + 10 * n.div_ceil(10)) as u128);
    assert_eq!(starts, (0..ITEMS).map(expected).collect::<Vec<_>>());

    let ((took, mut starts), workers) = cmwq();
    starts.sort_unstable();
    assert_eq!(took, 101, "the CPU is never idle before the last sleep");
    let expected: Vec<_> = (0..ITEMS).map(|n| (n, n as u128)).collect();
    assert_eq!(starts, expected);
    // One that runs, one that sleeps, those about to, some for which it is decided when the machine
    // has time, and one to be there for the next: a matter of what sleeps, not of the items.
    assert!(workers <= ITEMS / 10, "{workers}");
}

#[test]
fn s13_13_threads_are_a_matter_of_queues_or_of_what_sleeps() {
    let rt = runtime(4);
    // By the pools, as other tests of this process have threads of the same names.
    let workers = || -> usize { rt.snapshot().unwrap().pools.iter().map(|p| p.workers).sum() };
    let before = workers();
    let queues: Vec<_> = (0..10)
        .map(|_| rt.queue("q").flags(PERCPU).build().unwrap())
        .collect();
    assert_eq!(workers(), before, "none for a queue");
    let m = on(4).build();
    let old: Vec<_> = (0..10)
        .map(|n| m.create_workqueue(&format!("lgthr{n}")).unwrap())
        .collect();
    until("each queue has a thread per CPU", || {
        threads_named("lgthr").len() == 40
    });
    // Three items that sleep at once on one CPU: three workers, and one to be there for a fourth.
    let gate = Gate::new();
    for q in &queues[..3] {
        let g = gate.clone();
        q.enqueue_on(0, Call::new(move |_| blocking(|| g.pass())))
            .unwrap();
    }
    gate.wait_for(3);
    assert!(workers() <= before + 3, "{} and {before}", workers());
    gate.open();
    // In the old design the second of two on one queue and CPU begins when the first has ended,
    // though there are forty threads.
    let gate = Gate::new();
    let g = gate.clone();
    let second = Arc::new(AtomicUsize::new(0));
    let s = second.clone();
    let first = Work::new("first", move |_| blocking(|| g.pass()));
    let next = Work::new("second", move |_| {
        s.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(old[0].queue_work_on(0, &first), Ok(true));
    assert_eq!(old[0].queue_work_on(0, &next), Ok(true));
    gate.wait_for(1);
    assert_eq!(second.load(Ordering::SeqCst), 0);
    gate.open();
    old[0].flush_workqueue().unwrap();
    assert_eq!(second.load(Ordering::SeqCst), 1);
}
