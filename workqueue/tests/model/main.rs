// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random programs against a sequential model of sections 2, 8, 9, 10 and 11, on a virtual clock.
//!
//! After each call everything that follows from it is waited for, and compared: the call's result,
//! which items have started, which are pending, which are held back and in what order, which
//! flushes have returned. `WORKQUEUE_MODEL_SEED=n` runs that program alone; a failure prints its
//! seed and its last calls.

#[path = "../common/mod.rs"]
mod common;

mod sequential;

mod subject;

use common::{machine, quiet, HUNG, PERCPU};
use sequential::{Model, Outcome, View, CPUS, ITEMS, QUEUES};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use subject::{Flusher, Subject};
use workqueue::*;

const STEPS: usize = 300;
const SEEDS: std::ops::RangeInclusive<u64> = 1..=16;

/// One call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Enqueue {
        item: usize,
        cpu: usize,
    },
    Delay {
        item: usize,
        cpu: usize,
        ms: u64,
    },
    Modify {
        item: usize,
        cpu: usize,
        ms: u64,
    },
    Cancel {
        item: usize,
    },
    Disable {
        item: usize,
    },
    Enable {
        item: usize,
    },
    /// In a thread of its own, as it may have to wait.
    Flush {
        item: usize,
    },
    /// Lets the item's present run end.
    Finish {
        item: usize,
    },
    SetMaxActive {
        queue: usize,
        n: usize,
    },
    FlushIdleQueue {
        queue: usize,
    },
    Freeze,
    Thaw,
    Cpu1Leaves,
    Cpu1Returns,
    Advance {
        ms: u64,
    },
}

/// A small generator, so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn call(&mut self) -> Call {
        let item = self.below(ITEMS as u64) as usize;
        let (cpu, ms) = (self.below(CPUS as u64) as usize, self.below(4));
        let queue = self.below(QUEUES as u64) as usize;
        match self.below(40) {
            0..=9 => Call::Enqueue { item, cpu },
            10..=12 => Call::Delay { item, cpu, ms },
            13..=15 => Call::Modify { item, cpu, ms },
            16 | 17 => Call::Cancel { item },
            18 => Call::Disable { item },
            19 | 20 => Call::Enable { item },
            21 | 22 => Call::Flush { item },
            23..=31 => Call::Finish { item },
            32 => Call::SetMaxActive {
                queue,
                n: 1 + self.below(4) as usize,
            },
            33 => Call::FlushIdleQueue { queue },
            34 => Call::Freeze,
            35 => Call::Thaw,
            36 => Call::Cpu1Leaves,
            37 => Call::Cpu1Returns,
            _ => Call::Advance { ms },
        }
    }
}

/// The real thing.
struct Bed {
    clock: Arc<VirtualClock>,
    rt: Runtime,
    queues: Vec<OwnedQueue>,
    items: Vec<Arc<Subject>>,
    flushers: Vec<Flusher>,
}

impl Bed {
    fn new() -> Self {
        let clock = VirtualClock::new();
        let rt = quiet()
            .topology(machine(CPUS, 1))
            .virtual_clock(clock.clone())
            // A busy machine makes threads slowly; that is not the matter here.
            .mayday_initial(Duration::from_secs(1 << 30))
            .idle_timeout(Duration::from_secs(1 << 30))
            .start()
            .unwrap();
        let queue = |name: &str, flags| rt.queue(name).flags(flags).max_active(2).build().unwrap();
        let queues = vec![
            queue("percpu", PERCPU),
            queue("freezable", PERCPU | Flags::FREEZABLE),
            rt.ordered("ordered", Flags::FREEZABLE).unwrap(),
        ];
        Self {
            clock,
            rt,
            queues,
            items: (0..ITEMS).map(Subject::new).collect(),
            flushers: Vec::new(),
        }
    }

    fn perform(&mut self, call: Call) -> Outcome {
        let offered = |r: Result<(), Refusal>| match r {
            Ok(()) => Outcome::Yes,
            Err(refusal) => Outcome::Refused(refusal),
        };
        let ms = Duration::from_millis;
        let of = |item: usize| {
            (
                &self.queues[sequential::queue_of(item)],
                self.items[item].clone(),
            )
        };
        match call {
            Call::Enqueue { item, cpu } => {
                let (q, item) = of(item);
                offered(q.enqueue_on(cpu, item).map_err(|e| e.reason()))
            }
            Call::Delay { item, cpu, ms: n } => {
                let (q, item) = of(item);
                offered(
                    q.enqueue_delayed_on(cpu, ms(n), item)
                        .map_err(|e| e.reason()),
                )
            }
            Call::Modify { item, cpu, ms: n } => {
                let (q, item) = of(item);
                match q.mod_delayed_on(cpu, ms(n), item) {
                    Ok(Modified::WasPending(_)) => Outcome::Yes,
                    Ok(Modified::WasIdle) => Outcome::No,
                    Err(e) => Outcome::Refused(e.reason()),
                }
            }
            Call::Cancel { item } => self.items[item].work.cancel().is_some().into(),
            Call::Disable { item } => self.items[item].work.disable().unwrap().is_some().into(),
            Call::Enable { item } => match self.items[item].work.enable() {
                Ok(last) => last.into(),
                Err(EnableUnderflow) => Outcome::Refused(Refusal::EnableUnderflow),
            },
            Call::Flush { item } => {
                self.flushers.push(Flusher::new(&self.items[item]));
                Outcome::Yes
            }
            Call::Finish { item } => {
                self.items[item].finish();
                Outcome::Yes
            }
            Call::SetMaxActive { queue, n } => self.queues[queue].set_max_active(n).is_ok().into(),
            Call::FlushIdleQueue { queue } => self.queues[queue].flush().is_ok().into(),
            Call::Freeze => {
                self.rt.freeze_begin();
                Outcome::Yes
            }
            Call::Thaw => {
                self.rt.thaw();
                Outcome::Yes
            }
            Call::Cpu1Leaves => {
                self.rt.set_online_cpus(Some(CpuSet::single(0)));
                Outcome::Yes
            }
            Call::Cpu1Returns => {
                self.rt.set_online_cpus(None);
                Outcome::Yes
            }
            Call::Advance { ms: n } => {
                self.clock.advance(ms(n));
                Outcome::Yes
            }
        }
    }

    fn view(&self) -> View {
        let dumps: Vec<String> = self.queues.iter().map(|q| self.rt.dump_queue(q)).collect();
        View {
            items: self.items.iter().map(|i| i.view()).collect(),
            held_back: dumps.iter().map(|d| subject::held_back(d)).collect(),
            following: {
                let mut all: Vec<_> = dumps.iter().flat_map(|d| subject::following(d)).collect();
                all.sort_unstable();
                all
            },
            flushes_waiting: self.flushers.iter().filter(|f| !f.is_over()).count(),
            barriers: dumps.iter().map(|d| subject::barriers(d)).sum(),
        }
    }

    /// Waits until the real thing is where the model is; the difference if that never comes.
    fn settle(&self, expected: &View) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let seen = self.view();
            if seen == *expected {
                return Ok(());
            }
            if begun.elapsed() > HUNG / 4 {
                return Err(format!(
                    "expected {expected:#?}\nseen {seen:#?}\n{}",
                    self.rt.dump_all()
                ));
            }
            std::thread::yield_now();
        }
    }
}

fn program(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut model, mut bed, mut calls) = (Model::new(), Bed::new(), Vec::new());
    let mut go = |model: &mut Model, bed: &mut Bed, call: Call| {
        if !model.allows(call) {
            return;
        }
        calls.push(call);
        let last = |calls: &[Call]| format!("{:#?}", &calls[calls.len().saturating_sub(30)..]);
        let (expected, seen) = (model.perform(call), bed.perform(call));
        let difference = if expected == seen {
            bed.settle(&model.view()).err()
        } else {
            Some(format!("expected {expected:?}, seen {seen:?}"))
        };
        if let Some(difference) = difference {
            // No unwinding, as the queues could not run empty; past what the harness keeps to itself.
            let (n, last) = (calls.len(), last(&calls));
            let text = format!("WORKQUEUE_MODEL_SEED={seed}, call {n}: {difference}\n{last}\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            std::process::abort();
        }
    };
    for _ in 0..STEPS {
        go(&mut model, &mut bed, random.call());
    }
    // Everything runs empty: the model says when that is.
    go(&mut model, &mut bed, Call::Thaw);
    go(&mut model, &mut bed, Call::Cpu1Returns);
    while !model.is_idle() {
        go(&mut model, &mut bed, Call::Advance { ms: 1 });
        for item in 0..ITEMS {
            go(&mut model, &mut bed, Call::Finish { item });
        }
    }
    for q in &bed.queues {
        q.drain().unwrap();
        let stats = q.stats();
        assert_eq!(
            (stats.started, stats.panicked),
            (stats.completed, 0),
            "seed {seed}"
        );
    }
    for (n, item) in bed.items.iter().enumerate() {
        assert_eq!(Arc::strong_count(item), 1, "item {n}, seed {seed}");
    }
}

#[test]
fn s14_02_random_programs_do_what_the_model_does() {
    let one = std::env::var("WORKQUEUE_MODEL_SEED").ok();
    match one.map(|seed| seed.parse().expect("a number")) {
        Some(seed) => program(seed),
        None => SEEDS.for_each(program),
    }
}
