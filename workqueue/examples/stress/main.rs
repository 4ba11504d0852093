// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything at once, for as long as you like, with exact accounts at the end.
//!
//! ```sh
//! cargo run --release -p cmwq --example stress -- [SECONDS] [SEED]
//! ```
//!
//! Four threads enqueue, delay, cancel, disable and flush items of a dozen queues of all kinds.
//! Meanwhile queues are destroyed under them and made anew, limits and attributes change, CPUs
//! leave and return, the runtime is frozen and thawed, and threads cannot be created or only
//! slowly. Every accepted enqueue must end in exactly one run, one pointer that came back, or one
//! timer that was refused (or, on half of the queues, one modification that was refused, of which
//! there is an upper limit only); no item may run beside itself; every pointer must be dropped. A seed
//! gives the same calls, but not the same interleaving.

mod disturb;

mod ledger;

mod queues;

use disturb::Disturbance;
use queues::{Generation, Slots};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use workqueue::*;

/// Without a single run for so long the program is taken to hang.
const HUNG: Duration = Duration::from_secs(60);

/// A small generator of random numbers.
pub struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One random call on a random item of a random queue.
fn step(random: &mut Random, g: &Generation) {
    let q = &g.handle;
    let subject = &g.subjects[random.below(g.subjects.len() as u64) as usize];
    let (item, account) = (&subject.item, &subject.account);
    let cpu = random.below(queues::CPUS as u64) as usize;
    let delay = Duration::from_micros(random.below(2000));
    match random.below(20) {
        0..=4 => account.offered(q.enqueue(item.clone())),
        5 | 6 => account.offered(q.enqueue_on(cpu, item.clone())),
        7 => account.offered(q.enqueue_node(cpu / 2, item.clone())),
        8 | 9 => account.offered(q.enqueue_delayed(delay, item.clone())),
        10 => account.offered(q.enqueue_delayed_on(cpu, delay, item.clone())),
        11 | 12 if g.modifies => match q.mod_delayed(delay, item.clone()) {
            Ok(Modified::WasIdle) => account.offered::<()>(Ok(())),
            // The instance that was pending lives on with its new time, or was dropped with the
            // refusal.
            Ok(Modified::WasPending(_)) => {}
            Err(e) => account.modification_refused(e.reason()),
        },
        13 => account.back(item.work.cancel()),
        14 => account.back(item.work.cancel_sync().expect("not in a run")),
        15 => {
            account.back(item.work.disable().expect("nobody disables that often"));
            std::thread::yield_now();
            let _others_may_keep_it_disabled = item.work.enable().expect("disabled just now");
        }
        16 => {
            let _waited = item.work.flush_queued();
        }
        17 => {
            let _waited = item.work.flush();
        }
        18 => {
            let _fixed_or_gone = q.set_max_active(1 + random.below(16) as usize);
        }
        _ => {
            if random.one_in(30) {
                let _gone_or_done = q.flush();
            } else if random.one_in(100) {
                let _gone_or_done = q.drain();
            }
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| {
        arguments
            .next()
            .map_or(default, |a| a.parse().expect("a number"))
    };
    let (seconds, seed) = (number(600), number(1));
    println!("stress: {seconds} s, seed {seed}");
    // The panics of items are on purpose.
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<queues::OnPurpose>().is_none() {
            eprintln!("{info}");
        }
    }));
    let disturbance = Disturbance::default();
    let rt = Arc::new(queues::runtime(&disturbance));
    let slots = Arc::new(Slots::new(&rt));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..4)
        .map(|t| {
            let (slots, stop) = (slots.clone(), stop.clone());
            let mut random = Random::new(seed * 1000 + t);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let generation = slots.pick(&mut random);
                    step(&mut random, &generation);
                }
            })
        })
        .chain([disturb::start(
            &rt,
            &slots,
            &disturbance,
            &stop,
            Random::new(seed),
        )])
        .collect();
    watch(&rt, &slots, Duration::from_secs(seconds));
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no thread of this program panics");
    }
    finish(rt, slots)
}

/// Reports every ten seconds and ends the program if nothing runs any more.
fn watch(rt: &Runtime, slots: &Slots, time: Duration) {
    let begun = Instant::now();
    let (mut moved, mut runs, mut reported) = (begun, 0, 0);
    while begun.elapsed() < time {
        std::thread::sleep(Duration::from_millis(200));
        let now = slots.total().runs();
        if now != runs {
            (moved, runs) = (Instant::now(), now);
        } else if moved.elapsed() > HUNG {
            println!("stress: nothing has run for {HUNG:?}\n{}", rt.dump_all());
            std::process::abort();
        }
        if begun.elapsed().as_secs() / 10 > reported {
            reported = begun.elapsed().as_secs() / 10;
            println!(
                "{:>5} s: {}",
                begun.elapsed().as_secs(),
                slots.total().line()
            );
        }
    }
}

/// Takes everything down and settles the accounts.
fn finish(rt: Arc<Runtime>, slots: Arc<Slots>) -> ExitCode {
    let slots = Arc::into_inner(slots).expect("all threads have ended");
    let (total, faults) = slots.close();
    println!("total: {}", total.line());
    let rt = Arc::into_inner(rt).expect("all threads have ended");
    let dump = rt.dump_all();
    rt.shutdown().expect("not on a worker");
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    println!("threads left: {threads}");
    faults.iter().for_each(|f| println!("FAULT: {f}"));
    if faults.is_empty() && dump.is_empty() && threads == 1 {
        println!("stress: every account is settled");
        ExitCode::SUCCESS
    } else {
        println!("{dump}stress: FAILED");
        ExitCode::FAILURE
    }
}
