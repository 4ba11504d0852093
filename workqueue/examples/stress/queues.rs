// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queues under stress: a fixed number of slots, each with a queue and its items, which is
//! replaced from time to time.

use crate::disturb::Disturbance;
use crate::ledger::{Account, Sum};
use crate::Random;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use workqueue::*;

pub const CPUS: usize = 4;
const ITEMS: u64 = 24;
/// One run in so many panics.
const PANICS: u64 = 5000;

/// What items panic with.
pub struct OnPurpose;

/// A machine of four CPUs on two nodes, with a runtime that is quick to change its mind.
pub fn runtime(disturbance: &Disturbance) -> Runtime {
    let disturbance = disturbance.clone();
    Runtime::builder()
        .topology(Topology::simulated_nodes(CPUS, 2))
        .idle_timeout(Duration::from_millis(30))
        .create_cooldown(Duration::from_millis(5))
        .mayday_interval(Duration::from_millis(10))
        .cpu_intensive_thresh(Duration::from_millis(2))
        .threads_by(move |_| disturbance.before_creation())
        .start()
        .expect("threads can be made")
}

/// An item that does something different in each run.
pub struct Item {
    pub work: DelayedWork<Item>,
    account: Arc<Account>,
    queue: Queue,
    number: u64,
    turn: AtomicU64,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Item { self.work }
}

impl WorkItem for Item {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.account.enter();
        let turn = this.turn.fetch_add(1, Ordering::Relaxed);
        let mut random = Random::new(this.number * 1_000_003 + turn);
        match random.below(40) {
            0 => blocking(|| std::thread::sleep(Duration::from_micros(100))),
            1 => std::thread::sleep(Duration::from_micros(100)),
            2 => burn(Duration::from_micros(500)),
            3 if random.one_in(20) => burn(Duration::from_millis(4)),
            4 | 5 => blocking(std::thread::yield_now),
            6..=9 => this.account.offered(this.queue.enqueue(this.clone())),
            10 => {
                let delay = Duration::from_micros(random.below(500));
                this.account
                    .offered(this.queue.enqueue_delayed(delay, this.clone()));
            }
            11 => set_worker_desc("one of many"),
            _ => {}
        }
        this.account.leave();
        if random.one_in(PANICS) {
            std::panic::panic_any(OnPurpose);
        }
    }
}

fn burn(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// An item as the program keeps it.
pub struct Subject {
    pub item: Arc<Item>,
    pub account: Arc<Account>,
}

/// A queue with its items, from its making to its destruction.
pub struct Generation {
    owner: Mutex<Option<OwnedQueue>>,
    pub handle: Queue,
    pub subjects: Vec<Subject>,
    /// Are times changed here? A modification that the queue refuses does not tell whether there
    /// was a pending instance to lose, so the other queues have the exact accounts.
    pub modifies: bool,
}

impl Generation {
    fn new(rt: &Runtime, slot: usize, number: u64) -> Option<Self> {
        // With a failing creation a queue that needs a thread is not made; the slot stays as it is.
        let owner = make(rt, slot).ok()?;
        let handle = owner.handle();
        let subject = |n| {
            let account = Arc::new(Account::default());
            let item = Arc::new(Item {
                work: new_delayed_work!("stress"),
                account: account.clone(),
                queue: handle.clone(),
                number: number * ITEMS + n,
                turn: AtomicU64::new(0),
            });
            Subject { item, account }
        };
        Some(Self {
            subjects: (0..ITEMS).map(subject).collect(),
            owner: Mutex::new(Some(owner)),
            handle,
            modifies: number % 2 == 1,
        })
    }

    fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        self.subjects.iter().for_each(|s| sum.account(&s.account));
        sum.queue(&self.handle.stats());
        sum
    }

    /// Destroys the queue, users or not.
    fn destroy(&self) {
        let owner = self.owner.lock().expect("nobody panics with it").take();
        if let Some(owner) = owner {
            owner
                .destroy()
                .expect("not in a run, and not busy after the drain");
        }
    }

    /// What is wrong now that nobody uses it any more. Its last timers are waited for.
    fn settle(&self) -> (Sum, Vec<String>) {
        let begun = Instant::now();
        let pending = |s: &Subject| s.item.work.is_pending() || Arc::strong_count(&s.item) > 1;
        while self.subjects.iter().any(pending) && begun.elapsed() < crate::HUNG {
            std::thread::sleep(Duration::from_millis(1));
        }
        let sum = self.sum();
        let mut faults = sum.faults();
        let left = self.subjects.iter().filter(|s| pending(s)).count();
        if left > 0 {
            faults.push(format!(
                "{left} items are pending or their pointers are held for ever"
            ));
        }
        let name = self.handle.name();
        faults.iter_mut().for_each(|f| *f = format!("{name}: {f}"));
        (sum, faults)
    }
}

fn make(rt: &Runtime, slot: usize) -> Result<OwnedQueue, AllocError> {
    let (percpu, unbound) = (Flags::PERCPU, Flags::UNBOUND);
    let kinds = [
        percpu,
        percpu | Flags::HIGHPRI,
        percpu | Flags::CPU_INTENSIVE,
        percpu | Flags::MEM_RECLAIM,
        percpu | Flags::FREEZABLE,
        percpu | Flags::HIGHPRI | Flags::MEM_RECLAIM | Flags::FREEZABLE,
        unbound,
        unbound | Flags::HIGHPRI,
        unbound | Flags::MEM_RECLAIM,
        unbound | Flags::FREEZABLE | Flags::MEM_RECLAIM,
        Flags::empty(),
        Flags::MEM_RECLAIM | Flags::FREEZABLE,
        percpu | Flags::BH,
        percpu | Flags::BH | Flags::HIGHPRI,
    ];
    let name = format!("stress{slot}");
    match slot {
        10 | 11 => rt.ordered(&name, kinds[slot]),
        12 | 13 => rt.queue(&name).flags(kinds[slot]).build(),
        _ => rt.queue(&name).flags(kinds[slot]).max_active(4).build(),
    }
}

const SLOTS: usize = 14;

/// All slots, and what is known of the queues that are gone.
pub struct Slots {
    rt: Arc<Runtime>,
    present: Vec<Mutex<Arc<Generation>>>,
    /// Destroyed, but somebody may still hold one.
    retired: Mutex<Vec<Arc<Generation>>>,
    settled: Mutex<(Sum, Vec<String>)>,
    made: AtomicU64,
}

impl Slots {
    pub fn new(rt: &Arc<Runtime>) -> Self {
        let first = |slot| {
            // A kind that this version refuses is left out.
            Generation::new(rt, slot, slot as u64).map(|g| Mutex::new(Arc::new(g)))
        };
        Self {
            present: (0..SLOTS).filter_map(first).collect(),
            rt: rt.clone(),
            retired: Mutex::default(),
            settled: Mutex::default(),
            made: AtomicU64::new(SLOTS as u64),
        }
    }

    pub fn pick(&self, random: &mut Random) -> Arc<Generation> {
        let slot = random.below(self.present.len() as u64) as usize;
        self.present[slot]
            .lock()
            .expect("nobody panics with it")
            .clone()
    }

    /// Destroys the queue of a slot under its users and puts a new one there.
    pub fn replace(&self, random: &mut Random) {
        let slot = random.below(self.present.len() as u64) as usize;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let Some(next) = Generation::new(&self.rt, slot, number) else {
            return;
        };
        let mut present = self.present[slot].lock().expect("nobody panics with it");
        let former = std::mem::replace(&mut *present, Arc::new(next));
        drop(present);
        former.destroy();
        self.retired
            .lock()
            .expect("nobody panics with it")
            .push(former);
        self.settle_unused();
    }

    /// Settles the accounts of retired queues that nobody holds any more.
    fn settle_unused(&self) {
        let mut retired = self.retired.lock().expect("nobody panics with it");
        let (free, held): (Vec<_>, Vec<_>) =
            retired.drain(..).partition(|g| Arc::strong_count(g) == 1);
        *retired = held;
        drop(retired);
        for generation in free {
            let (sum, faults) = generation.settle();
            let mut settled = self.settled.lock().expect("nobody panics with it");
            settled.0.add(&sum);
            settled.1.extend(faults);
        }
    }

    /// The sums of all queues there were and are.
    pub fn total(&self) -> Sum {
        let mut total = self.settled.lock().expect("nobody panics with it").0;
        let retired = self.retired.lock().expect("nobody panics with it").clone();
        let present = self
            .present
            .iter()
            .map(|s| s.lock().expect("nobody panics with it").clone());
        present.chain(retired).for_each(|g| total.add(&g.sum()));
        total
    }

    /// Destroys all queues and settles all accounts.
    pub fn close(self) -> (Sum, Vec<String>) {
        for slot in &self.present {
            let generation = slot.lock().expect("nobody panics with it").clone();
            generation.destroy();
            self.retired
                .lock()
                .expect("nobody panics with it")
                .push(generation);
        }
        let Self {
            present,
            retired,
            settled,
            ..
        } = self;
        drop(present);
        let (mut total, mut faults) = settled.into_inner().expect("nobody panics with it");
        for generation in retired.into_inner().expect("nobody panics with it") {
            let (sum, more) = generation.settle();
            total.add(&sum);
            faults.extend(more);
        }
        (total, faults)
    }
}
