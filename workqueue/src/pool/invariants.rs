// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of what holds of all pools whenever their locks are free, under a load that has everything
//! happen: runs that sleep, threads that cannot be made, CPUs that come and go, wrong guesses about
//! who sleeps.

use super::worker_state::{WorkerFlags, WorkerState};
use super::{Pool, PoolGuard};
use crate::env::topology::Topology;
use crate::runtime::directory::Directory;
use crate::runtime::Runtime;
use crate::sys::cpuset::CpuSet;
use crate::wq::attrs::{Attrs, Flags};
use crate::wq::OwnedQueue;
use crate::{blocking, impl_has_work, new_work, Work, WorkItem};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const CPUS: usize = 2;
const MAX_ACTIVE: usize = 3;

/// Numbers that look like chance and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn runtime() -> Runtime {
    let builder = Runtime::builder()
        .topology(Topology::simulated_nodes(CPUS, 1))
        .sample_period(Duration::ZERO)
        .idle_timeout(Duration::from_millis(1))
        .mayday_initial(Duration::from_millis(1))
        .mayday_interval(Duration::from_millis(1))
        .create_cooldown(Duration::from_millis(1));
    let attempts = AtomicU64::new(0);
    let builder = builder.threads_by(move |_| {
        // The first ones are those of the start and of the queues.
        match attempts.fetch_add(1, Ordering::Relaxed) {
            n if n > 40 && n % 3 != 0 => Err(libc::EAGAIN),
            _ => Ok(()),
        }
    });
    builder.start().expect("the first threads can be made")
}

/// An item that notes if two of its runs were ever at the same time.
struct Item {
    work: Work<Item>,
    inside: AtomicBool,
    beside_itself: AtomicBool,
    runs: AtomicUsize,
}

impl_has_work! {
    impl HasWork<Self> for Item { self.work }
}

impl WorkItem for Item {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if this.inside.swap(true, Ordering::SeqCst) {
            this.beside_itself.store(true, Ordering::SeqCst);
        }
        blocking(thread::yield_now);
        thread::yield_now();
        this.inside.store(false, Ordering::SeqCst);
        this.runs.fetch_add(1, Ordering::SeqCst);
    }
}

struct Load {
    rt: Runtime,
    percpu: OwnedQueue,
    rest: Vec<OwnedQueue>,
    ordered: OwnedQueue,
    item: Arc<Item>,
    order: Arc<Mutex<Vec<usize>>>,
    /// How many runs of `percpu` are going on, by CPU.
    going_on: Arc<[AtomicUsize; CPUS]>,
    too_many: Arc<AtomicBool>,
    ran: Arc<AtomicUsize>,
}

impl Load {
    fn new() -> Self {
        let rt = runtime();
        let queue = |flags| rt.queue("q").flags(flags);
        let percpu = queue(Flags::PERCPU | Flags::MEM_RECLAIM).max_active(MAX_ACTIVE);
        let attrs = Attrs {
            nice: 3,
            ..Attrs::new()
        };
        let rest = vec![
            queue(Flags::PERCPU | Flags::CPU_INTENSIVE).build().unwrap(),
            queue(Flags::PERCPU | Flags::HIGHPRI).build().unwrap(),
            queue(Flags::UNBOUND | Flags::MEM_RECLAIM).build().unwrap(),
            queue(Flags::UNBOUND).attrs(attrs).build().unwrap(),
        ];
        Self {
            percpu: percpu.build().unwrap(),
            rest,
            ordered: rt.ordered("o", Flags::MEM_RECLAIM).unwrap(),
            rt,
            item: Arc::new(Item {
                work: new_work!("item"),
                inside: AtomicBool::new(false),
                beside_itself: AtomicBool::new(false),
                runs: AtomicUsize::new(0),
            }),
            order: Arc::default(),
            going_on: Arc::default(),
            too_many: Arc::default(),
            ran: Arc::default(),
        }
    }

    /// One item for every queue. Returns how often the item of its own was accepted.
    fn give(&self, n: usize) -> usize {
        let cpu = n % CPUS;
        let (going_on, too_many) = (self.going_on.clone(), self.too_many.clone());
        let ran = self.ran.clone();
        let counted = move || {
            if going_on[cpu].fetch_add(1, Ordering::SeqCst) >= MAX_ACTIVE {
                too_many.store(true, Ordering::SeqCst);
            }
            blocking(thread::yield_now);
            going_on[cpu].fetch_sub(1, Ordering::SeqCst);
            ran.fetch_add(1, Ordering::SeqCst);
        };
        drop(self.percpu.spawn_on(cpu, counted).unwrap());
        for queue in &self.rest {
            let ran = self.ran.clone();
            queue
                .try_spawn(move || {
                    thread::yield_now();
                    ran.fetch_add(1, Ordering::SeqCst);
                })
                .map_err(|e| e.reason())
                .unwrap();
        }
        let order = self.order.clone();
        self.ordered
            .try_spawn(move || order.lock().unwrap().push(n))
            .map_err(|e| e.reason())
            .unwrap();
        usize::from(self.percpu.enqueue_on(cpu, self.item.clone()).is_ok())
    }

    fn flush(&self) {
        let queues = self.rest.iter().chain([&self.percpu, &self.ordered]);
        queues.for_each(|queue| queue.flush().unwrap());
    }

    /// Gives `items` to each queue while `beside` does something over and over.
    fn go(&self, items: usize, beside: impl Fn(&mut Dice) + Sync) {
        let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut given = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut dice = Dice(0x9e37_79b9);
                while !done.load(Ordering::SeqCst) {
                    beside(&mut dice);
                    rounds.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                }
            });
            let mut accepted = 0;
            // Often enough, however the two threads are scheduled.
            while given < items || rounds.load(Ordering::SeqCst) < items {
                let n = given;
                given += 1;
                accepted += self.give(n);
                if n % 50 == 49 {
                    self.flush();
                    assert_eq!(self.order.lock().unwrap().len(), n + 1, "10.1");
                }
            }
            self.flush();
            done.store(true, Ordering::SeqCst);
            assert_eq!(self.item.runs.load(Ordering::SeqCst), accepted, "2.2, 2.3");
        });
        let nr_queues = 1 + self.rest.len();
        assert_eq!(self.ran.load(Ordering::SeqCst), given * nr_queues);
        assert!(!self.item.beside_itself.load(Ordering::SeqCst), "2.6");
        assert!(!self.too_many.load(Ordering::SeqCst), "8.1");
        let order = self.order.lock().unwrap();
        assert!(order.iter().copied().eq(0..given), "4.15");
    }
}

fn is_rescuer(w: &WorkerState) -> bool {
    w.id.is_none()
}

fn check(pool: &Pool, st: &PoolGuard<'_>) {
    let mut busy = 0;
    let mut counted = 0;
    for (slot, w) in st.workers.iter() {
        let idle = w.flags.intersects(WorkerFlags::IDLE);
        let manages = st.manager == Some(slot);
        let dying = w.flags.intersects(WorkerFlags::DIE);
        let roles = [idle, w.current.is_some(), manages, dying];
        let roles = roles.iter().filter(|&&is| is).count();
        assert!(roles <= 1, "1.3: {pool:?} {w:?}");
        assert!(!is_rescuer(w) || !(idle || manages || dying), "7.10: {w:?}");
        assert_eq!(idle, st.workers.idle_slots().contains(&slot), "{w:?}");
        busy += usize::from(!idle && !manages && !dying);
        let excused = WorkerFlags::PREP
            | WorkerFlags::CPU_INTENSIVE
            | WorkerFlags::UNBOUND
            | WorkerFlags::REBOUND
            | WorkerFlags::IDLE;
        let asleep = w.asleep || w.observed_asleep;
        counted += usize::from(!asleep && !w.flags.intersects(excused));
        let away = pool.is_unbound() || st.disassociated;
        assert!(!away || !w.counted(), "5.1, 5.7: {pool:?} {w:?}");
        assert!(!is_rescuer(w) || !w.counted(), "7.10: {w:?}");
    }
    assert_eq!(st.nr_running, counted, "5.1: {pool:?}");
    assert!(st.nr_running <= busy, "5.11: {pool:?}");
}

/// All pools at one moment. No other thread ever holds two of their locks.
fn check_all(dir: &Directory) {
    let pools = dir.all_pools();
    let held: Vec<_> = pools.iter().map(|pool| pool.lock()).collect();
    let mut rescuers = HashSet::new();
    for (pool, st) in pools.iter().zip(&held) {
        check(pool, st);
        for (_, w) in st.workers.iter().filter(|(_, w)| is_rescuer(w)) {
            assert!(rescuers.insert(w.thread.tid), "1.3: in two pools: {w:?}");
        }
    }
}

#[test]
fn s01_03_s05_01_s05_11_everyone_is_one_thing_and_counts_as_the_rules_say() {
    let load = Load::new();
    load.go(1500, |dice| {
        check_all(&load.rt.inner);
        if dice.roll(20) == 0 {
            let all = CpuSet::first(CPUS);
            let one = CpuSet::single(dice.roll(CPUS as u64) as usize);
            let online = if dice.roll(2) == 0 { all } else { one };
            load.rt.set_online_cpus(Some(online));
        }
    });
    check_all(&load.rt.inner);
}

/// Takes a run for asleep, or for awake again, whatever it does, as the sampler would.
fn guess(pool: &Pool, dice: &mut Dice) {
    let mut st = pool.lock();
    for slot in st.workers.slots() {
        if st.workers.is_present(slot)
            && st.workers.get(slot).current.is_some()
            && !is_rescuer(st.workers.get(slot))
        {
            let asleep = dice.roll(2) == 0;
            st.update(slot, |w| w.observed_asleep = asleep);
        }
    }
    let wake = st.kick();
    drop(st);
    wake.perform();
}

#[test]
fn s05_18_wrong_guesses_about_sleep_break_no_promise() {
    let load = Load::new();
    load.go(1500, |dice| {
        for pool in load.rt.inner.percpu_pools() {
            guess(&pool, dice);
        }
    });
}
