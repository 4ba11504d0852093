// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs of everything at once. Whatever happens: each accepted enqueue is followed by
//! exactly one run or one cancellation, no item overlaps itself, and every pointer comes back.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

/// A small generator, so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[derive(Default)]
struct Ledger {
    accepted: AtomicUsize,
    taken_back: AtomicUsize,
    overlaps: AtomicUsize,
    inside: AtomicBool,
}

struct Subject {
    item: Arc<Later>,
    ledger: Arc<Ledger>,
}

fn subject(queue: &Queue, n: usize) -> Subject {
    let ledger = Arc::new(Ledger::default());
    let (l, q) = (ledger.clone(), queue.clone());
    let item = Later::new(move |me| {
        if l.inside.swap(true, Ordering::SeqCst) {
            l.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        if (me.runs() + n).is_multiple_of(3) {
            blocking(std::thread::yield_now);
        }
        if (me.runs() + n).is_multiple_of(4) && q.enqueue(me.clone()).is_ok() {
            l.accepted.fetch_add(1, Ordering::SeqCst);
        }
        l.inside.store(false, Ordering::SeqCst);
    });
    Subject { item, ledger }
}

/// One random step. Items stay with their queue: an item that changes queues may overlap itself.
fn step(random: &mut Random, q: &Queue, s: &Subject) {
    let accept = |ok: bool| {
        s.ledger
            .accepted
            .fetch_add(usize::from(ok), Ordering::SeqCst);
    };
    let back = |ok: bool| {
        s.ledger
            .taken_back
            .fetch_add(usize::from(ok), Ordering::SeqCst);
    };
    let (item, cpu) = (&s.item, random.below(4) as usize);
    let delay = Duration::from_micros(random.below(300));
    match random.below(16) {
        0..=4 => accept(q.enqueue(item.clone()).is_ok()),
        5 | 6 => accept(q.enqueue_on(cpu, item.clone()).is_ok()),
        7 => accept(q.enqueue_delayed(delay, item.clone()).is_ok()),
        8 => accept(matches!(
            q.mod_delayed(delay, item.clone()),
            Ok(Modified::WasIdle)
        )),
        9 => back(item.work.cancel().is_some()),
        10 => back(item.work.cancel_sync().unwrap().is_some()),
        11 => {
            back(item.work.disable().unwrap().is_some());
            item.work.enable().unwrap();
        }
        12 => drop(item.work.flush().unwrap()),
        13 => q
            .set_max_active(1 + random.below(8) as usize)
            .unwrap_or_default(),
        14 => drop(item.work.flush_queued().unwrap()),
        _ => {
            if random.below(8) == 0 {
                q.flush().unwrap();
            }
        }
    }
}

fn everything(flags: Flags, ordered: bool, seed: u64) {
    let rt = Arc::new(Runtime::builder().topology(machine(4, 2)).start().unwrap());
    let q = if ordered {
        rt.ordered("o", flags)
    } else {
        rt.queue("q").flags(flags).max_active(3).build()
    }
    .unwrap();
    let subjects: Arc<Vec<_>> = Arc::new((0..24).map(|n| subject(&q, n)).collect());
    let threads: Vec<_> = (0..4u64)
        .map(|t| {
            let (q, subjects) = (q.handle(), subjects.clone());
            std::thread::spawn(move || {
                let mut random = Random(seed * 1000 + t + 1);
                for _ in 0..1500 {
                    let s = &subjects[random.below(24) as usize];
                    step(&mut random, &q, s);
                }
            })
        })
        .collect();
    let mut random = Random(seed);
    for n in 0..20 {
        match n % 4 {
            0 => rt.set_online_cpus(Some(CpuSet::single(random.below(4) as usize))),
            1 => rt.set_online_cpus(None),
            2 if flags.contains(UNBOUND) => {
                let scope = Scope::ALL[random.below(6) as usize];
                q.apply_attrs(Attrs {
                    scope: Some(scope),
                    nice: random.below(5) as i32,
                    ..Attrs::new()
                })
                .unwrap();
            }
            _ => {
                rt.freeze_begin();
                rt.thaw();
            }
        }
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    for s in subjects.iter() {
        // Armed timers come due; what they enqueue is waited for.
        until("the item is at rest", || {
            s.item.work.busy()
                == Busy {
                    pending: false,
                    running: false,
                }
        });
    }
    q.drain().unwrap();
    let stats = q.stats();
    assert_eq!(stats.started, stats.completed, "seed {seed}");
    for (n, s) in subjects.iter().enumerate() {
        let (accepted, back) = (
            s.ledger.accepted.load(Ordering::SeqCst),
            s.ledger.taken_back.load(Ordering::SeqCst),
        );
        assert_eq!(s.item.runs() + back, accepted, "item {n}, seed {seed}");
        assert_eq!(
            s.ledger.overlaps.load(Ordering::SeqCst),
            0,
            "item {n}, seed {seed}"
        );
        assert_eq!(Arc::strong_count(&s.item), 1, "item {n}, seed {seed}");
    }
    assert_eq!(rt.dump_all(), "");
}

#[test]
fn s02_03_s02_06_s14_02_percpu_under_everything_at_once() {
    (1..=3).for_each(|seed| everything(PERCPU | Flags::FREEZABLE, false, seed));
}

#[test]
fn s02_03_s02_06_s14_02_unbound_under_everything_at_once() {
    (1..=3).for_each(|seed| everything(UNBOUND | Flags::FREEZABLE, false, seed));
}

#[test]
fn s02_03_s02_06_s14_02_reclaim_under_everything_at_once() {
    (1..=3).for_each(|seed| {
        everything(
            PERCPU | Flags::FREEZABLE | Flags::MEM_RECLAIM | Flags::HIGHPRI,
            false,
            seed,
        )
    });
}

#[test]
fn s02_03_s02_06_s14_02_ordered_under_everything_at_once() {
    (1..=3).for_each(|seed| everything(UNBOUND | Flags::FREEZABLE, true, seed));
}
