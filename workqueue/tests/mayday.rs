// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 7.2 to 7.6 and 7.10: the call for help, step by step on a virtual clock.
//!
//! The clock stands still unless a test moves it on, so what is not due cannot happen, on a machine
//! of any speed.

mod common;
use common::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

const MS: Duration = Duration::from_millis(1);
const RECLAIM: Flags = Flags::PERCPU.union(Flags::MEM_RECLAIM);

/// A runtime whose workers cannot be made as long as it is said so.
struct Bed {
    clock: Arc<VirtualClock>,
    fails: Arc<AtomicBool>,
    attempts: Arc<AtomicUsize>,
    queues: RefCell<Vec<OwnedQueue>>,
    rt: Runtime,
}

fn bed() -> Bed {
    let (clock, fails, attempts) = (VirtualClock::new(), Arc::default(), Arc::default());
    let (f, a): (Arc<AtomicBool>, Arc<AtomicUsize>) = (Arc::clone(&fails), Arc::clone(&attempts));
    let rt = quiet()
        .topology(machine(1, 1))
        .virtual_clock(clock.clone())
        .threads_by(move |_| {
            let fails = f.load(Ordering::SeqCst);
            a.fetch_add(1, Ordering::SeqCst);
            if fails {
                Err(11)
            } else {
                Ok(())
            }
        })
        .start()
        .unwrap();
    Bed {
        clock,
        fails,
        attempts,
        queues: RefCell::default(),
        rt,
    }
}

impl Bed {
    fn queue(&self, name: &str, flags: Flags) -> Queue {
        let queue = self.rt.queue(name).flags(flags).build().unwrap();
        let handle = queue.handle();
        self.queues.borrow_mut().push(queue);
        handle
    }

    /// From here on no worker can be made. Comes back when a manager, put to work by an item of a
    /// queue without rescuer, has met the failure; that item stays.
    fn run_dry(&self, plain: &Queue) -> Arc<Call> {
        self.fails.store(true, Ordering::SeqCst);
        let before = self.attempts.load(Ordering::SeqCst);
        let stuck = Call::noop();
        plain.enqueue(stuck.clone()).unwrap();
        until("creation has failed", || {
            self.attempts.load(Ordering::SeqCst) > before
        });
        stuck
    }

    /// Workers can be made again. The clock goes on, so that the manager makes its next attempt,
    /// until what is to come of that has come.
    fn recover(&self, has_come: impl Fn() -> bool) {
        self.fails.store(false, Ordering::SeqCst);
        until("a worker was made", || {
            self.clock.advance(Duration::from_secs(1));
            has_come()
        });
    }
}

impl Drop for Bed {
    /// Also after a failed assertion the queues must run empty, or the test would hang.
    fn drop(&mut self) {
        self.fails.store(false, Ordering::SeqCst);
        let (done, clock) = (Arc::new(AtomicBool::new(false)), self.clock.clone());
        // An item without a wake-up needs a worker that comes by itself.
        let _passing = self.rt.system_percpu().enqueue(Call::noop());
        let d = done.clone();
        let ticker = std::thread::spawn(move || {
            while !d.load(Ordering::SeqCst) {
                clock.advance(Duration::from_secs(1));
                std::thread::yield_now();
            }
        });
        self.queues.borrow_mut().clear();
        done.store(true, Ordering::SeqCst);
        ticker.join().unwrap();
    }
}

/// Opens a gate when a test ends, however it ends.
struct Opens(Arc<Gate>);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// The counted references to the one busy pwq of a queue: its own, one per item, one per rescuer.
fn references(dump: &str) -> Option<usize> {
    let at = dump.find("refcnt=")? + "refcnt=".len();
    dump[at..].split_whitespace().next()?.parse().ok()
}

#[test]
fn s07_02_the_first_call_comes_after_the_initial_time_and_not_before() {
    let b = bed();
    let (plain, q) = (b.queue("plain", PERCPU), b.queue("r", RECLAIM));
    let stuck = b.run_dry(&plain);
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    b.clock.advance(MS * 9);
    // The timer thread looks at the clock now and finds nothing due.
    assert_eq!((q.stats().mayday, item.runs()), (0, 0));
    b.clock.advance(MS);
    until("the item is rescued", || item.runs() == 1);
    item.work.flush().unwrap();
    assert_eq!((q.stats().mayday, q.stats().rescued), (1, 1));
    assert_eq!(stuck.runs(), 0);
    b.recover(|| stuck.runs() == 1);
    plain.flush().unwrap();
}

#[test]
fn s07_02_mayday_repeats_until_the_manager_is_done() {
    let b = bed();
    let (plain, q) = (b.queue("plain", PERCPU), b.queue("r", RECLAIM));
    let stuck = b.run_dry(&plain);
    let first = Call::noop();
    q.enqueue(first.clone()).unwrap();
    b.clock.advance(MS * 10);
    first.work.flush().unwrap();
    // The rescuer may still be in its turn and take the next item along; one that comes after its
    // turn has to wait for the next call.
    let mut called = 10;
    for n in 1.. {
        let item = Call::noop();
        let (taken, mayday) = (q.stats().rescued, q.stats().mayday);
        q.enqueue(item.clone()).unwrap();
        until("the rescuer has left or taken it along", || {
            references(&b.rt.dump_queue(&q)) == Some(2) || q.stats().rescued > taken
        });
        if q.stats().rescued > taken {
            item.work.flush().unwrap();
            assert!(n < 1000, "the rescuer never leaves");
            continue;
        }
        b.clock.advance(MS * 99);
        assert_eq!((q.stats().mayday, item.runs()), (mayday, 0));
        b.clock.advance(MS);
        item.work.flush().unwrap();
        called += 100;
        assert_eq!(q.stats().mayday, mayday + 1, "{called} ms");
        if called >= 310 {
            break;
        }
    }
    b.recover(|| stuck.runs() == 1);
    // No mayday is sent any more, and workers run new items.
    let before = q.stats();
    b.clock.advance(Duration::from_secs(10));
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    item.work.flush().unwrap();
    assert_eq!(
        (q.stats().mayday, q.stats().rescued),
        (before.mayday, before.rescued)
    );
}

#[test]
fn s07_02_a_slow_creation_sends_mayday_too() {
    let clock = VirtualClock::new();
    let (door, slow) = (Gate::new(), Arc::new(AtomicBool::new(false)));
    let (d, s) = (door.clone(), slow.clone());
    let rt = quiet()
        .topology(machine(1, 1))
        .virtual_clock(clock.clone())
        .threads_by(move |_| {
            if s.load(Ordering::SeqCst) {
                d.pass();
            }
            Ok(())
        })
        .start()
        .unwrap();
    let q = rt.queue("r").flags(RECLAIM).build().unwrap();
    let _opens = Opens(door.clone());
    slow.store(true, Ordering::SeqCst);
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    // The manager is inside the creation, and will be until the door is opened.
    door.wait_for(1);
    clock.advance(MS * 10);
    item.work.flush().unwrap();
    assert_eq!((q.stats().mayday, q.stats().rescued), (1, 1));
    slow.store(false, Ordering::SeqCst);
    door.open();
    q.flush().unwrap();
}

#[test]
fn s07_03_every_queue_with_a_rescuer_is_called_once_per_mayday() {
    let b = bed();
    let plain = b.queue("plain", PERCPU);
    let queues = [b.queue("r1", RECLAIM), b.queue("r2", RECLAIM)];
    let stuck = b.run_dry(&plain);
    let items: Vec<_> = (0..5)
        .map(|_| [Call::noop(), Call::noop(), Call::noop()])
        .collect();
    for [one, two, other] in &items {
        queues[0].enqueue(one.clone()).unwrap();
        plain.enqueue(other.clone()).unwrap();
        queues[1].enqueue(two.clone()).unwrap();
    }
    b.clock.advance(MS * 10);
    for (q, n) in queues.iter().zip(0..) {
        q.flush().unwrap();
        let stats = q.stats();
        assert_eq!((stats.mayday, stats.rescued), (1, 5), "queue {n}");
    }
    assert_eq!((plain.stats().mayday, plain.stats().started), (0, 0));
    assert!(stuck.work.is_pending() && items.iter().all(|i| i[2].work.is_pending()));
    b.recover(|| stuck.runs() == 1);
    plain.flush().unwrap();
    assert_eq!((plain.stats().completed, plain.stats().rescued), (6, 0));
}

#[test]
fn s07_04_inactive_items_cause_no_mayday() {
    let b = bed();
    let (plain, frozen) = (
        b.queue("plain", PERCPU),
        b.queue("f", RECLAIM | Flags::FREEZABLE),
    );
    let witness = b.queue("w", RECLAIM);
    let stuck = b.run_dry(&plain);
    b.rt.freeze_begin();
    let (held, sign) = (Call::noop(), Call::noop());
    frozen.enqueue(held.clone()).unwrap();
    witness.enqueue(sign.clone()).unwrap();
    b.clock.advance(MS * 10);
    // This one is called for at the same expiry, behind the other in the list.
    sign.work.flush().unwrap();
    assert_eq!((frozen.stats().mayday, held.runs()), (0, 0));
    b.rt.thaw();
    // The item is active now and calls with the next expiry.
    b.clock.advance(MS * 100);
    held.work.flush().unwrap();
    assert_eq!((frozen.stats().mayday, frozen.stats().rescued), (1, 1));
    assert_eq!(stuck.runs(), 0);
    b.recover(|| stuck.runs() == 1);
    plain.flush().unwrap();
}

#[test]
fn s07_04_an_item_on_a_private_list_causes_no_mayday() {
    let b = bed();
    let plain = b.queue("plain", PERCPU);
    let (q, witness) = (b.queue("r", RECLAIM), b.queue("w", RECLAIM));
    // A run that sleeps, and its item once more: it is listed for that very worker.
    let (inside, threads) = (Gate::new(), Log::new());
    let _opens = Opens(inside.clone());
    let (i, t) = (inside.clone(), threads.clone());
    let item = Call::new(move |me| {
        t.add((is_rescuer(), std::thread::current().id()));
        if me.runs() == 1 {
            blocking(|| i.pass());
        }
    });
    q.enqueue(item.clone()).unwrap();
    inside.wait_for(1);
    q.enqueue(item.clone()).unwrap();
    until("it is on the private list", || {
        b.rt.dump_queue(&q).contains(" [call]")
    });
    // Workers that sleep in an item each, until no other can be made and none is left.
    b.fails.store(true, Ordering::SeqCst);
    let before = b.attempts.load(Ordering::SeqCst);
    let asleep = Gate::new();
    let _opens_too = Opens(asleep.clone());
    let mut given = 0;
    while b.attempts.load(Ordering::SeqCst) == before {
        let g = asleep.clone();
        let sleeper = Call::new(move |_| blocking(|| g.pass()));
        plain.enqueue(sleeper).unwrap();
        given += 1;
        until("it sleeps, or waits for a worker", || {
            asleep.arrived() == given || b.attempts.load(Ordering::SeqCst) > before
        });
    }
    let sign = Call::noop();
    witness.enqueue(sign.clone()).unwrap();
    b.clock.advance(MS * 10);
    until("the call has gone out", || sign.runs() == 1);
    assert_eq!((q.stats().mayday, item.runs()), (0, 1));
    inside.open();
    until("its own worker has run it again", || {
        threads.all().len() == 2
    });
    let threads = threads.all();
    assert_eq!(threads[0], threads[1]);
    assert!(!threads[0].0);
    asleep.open();
    b.recover(|| plain.stats().completed == given as u64);
    assert_eq!((q.stats().mayday, q.stats().rescued), (0, 0));
}

#[test]
fn s07_05_the_rescuer_leaves_what_a_worker_can_do_and_wakes_one() {
    let b = bed();
    let plain = b.queue("plain", PERCPU);
    let q = {
        let one = b.rt.queue("r").flags(RECLAIM).max_active(1);
        let queue = one.build().unwrap();
        let handle = queue.handle();
        b.queues.borrow_mut().push(queue);
        handle
    };
    let stuck = b.run_dry(&plain);
    let (gate, threads) = (Gate::new(), Log::new());
    let _opens = Opens(gate.clone());
    let (g, t) = (gate.clone(), threads.clone());
    q.enqueue(Call::new(move |_| {
        t.add(is_rescuer());
        g.pass();
    }))
    .unwrap();
    let t = threads.clone();
    let held_back = Call::new(move |_| t.add(is_rescuer()));
    q.enqueue(held_back.clone()).unwrap();
    b.clock.advance(MS * 10);
    gate.wait_for(1);
    // Workers can be made again: they do what is there and lie down, the second item not being
    // active. It becomes so by the end of the first, in the rescuer's hands.
    b.recover(|| stuck.runs() == 1);
    plain.flush().unwrap();
    let idle = || {
        let line = b.rt.dump_all();
        let pool = line
            .lines()
            .find(|l| l.starts_with("pool") && l.contains("nice=0"));
        pool.is_some_and(|l| l.contains(" idle: ") && !l.contains("manager: "))
    };
    until("a worker is idle and no manager at work", idle);
    gate.open();
    until("a worker was woken for it", || threads.all().len() == 2);
    assert_eq!(threads.all(), [true, false]);
    assert_eq!(q.stats().rescued, 1);
}

#[test]
fn s07_06_s07_10_the_rescuer_leaves_the_rest_to_workers_and_does_not_count() {
    let b = bed();
    let q = b.queue("r", RECLAIM);
    b.fails.store(true, Ordering::SeqCst);
    let before = b.attempts.load(Ordering::SeqCst);
    let gate = Gate::new();
    let _opens = Opens(gate.clone());
    let (g, threads) = (gate.clone(), Log::new());
    let t = threads.clone();
    // Stands at the gate without saying so: a worker would hold its CPU like that.
    q.enqueue(Call::new(move |_| {
        t.add(is_rescuer());
        g.pass();
    }))
    .unwrap();
    until("creation has failed", || {
        b.attempts.load(Ordering::SeqCst) > before
    });
    b.clock.advance(MS * 10);
    gate.wait_for(1);
    let items: Vec<_> = (0..9)
        .map(|_| {
            let t = threads.clone();
            Call::new(move |_| t.add(is_rescuer()))
        })
        .collect();
    items.iter().for_each(|i| q.enqueue(i.clone()).unwrap());
    b.recover(|| threads.all().len() == 10);
    assert_eq!(q.stats().rescued, 1);
    assert_eq!(threads.all(), [vec![true], vec![false; 9]].concat());
    gate.open();
    q.flush().unwrap();
    assert_eq!(q.stats().rescued, 1, "nothing was left for it");
}

#[test]
fn s07_10_a_rescuer_is_there_however_long_it_was_idle() {
    let b = bed();
    let (plain, q) = (b.queue("plain", PERCPU), b.queue("r", RECLAIM));
    // Far beyond the time after which idle workers are let go.
    b.clock.advance(Duration::from_secs(10_000));
    let stuck = b.run_dry(&plain);
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    b.clock.advance(MS * 10);
    item.work.flush().unwrap();
    assert_eq!((q.stats().rescued, stuck.runs()), (1, 0));
    b.recover(|| stuck.runs() == 1);
    plain.flush().unwrap();
}

/// A line of a thread's status; None if the thread has ended.
fn allowed_cpus_of(thread: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status
        .lines()
        .find(|l| l.starts_with("Cpus_allowed_list"))?;
    Some(line.split_whitespace().nth(1)?.to_owned())
}

#[test]
fn s07_05_the_rescuer_takes_the_pools_cpu_and_gives_it_back() {
    let fails = Arc::new(AtomicBool::new(false));
    let f = fails.clone();
    let rt = Runtime::builder()
        .create_cooldown(MS * 10)
        .threads_by(move |_| {
            if f.load(Ordering::SeqCst) {
                Err(11)
            } else {
                Ok(())
            }
        })
        .start()
        .unwrap();
    let q = rt.queue("r").flags(RECLAIM).build().unwrap();
    let all = rt.topology().possible().clone();
    fails.store(true, Ordering::SeqCst);
    for cpu in all.iter() {
        let seen = Log::new();
        let s = seen.clone();
        let item = Call::new(move |_| {
            let link = std::fs::read_link("/proc/thread-self").unwrap();
            let own = link.to_str().unwrap().to_owned();
            s.add((is_rescuer(), allowed_cpus_of(&own), own));
        });
        q.enqueue_on(cpu, item.clone()).unwrap();
        item.work.flush().unwrap();
        let (rescuer, mask, thread) = seen.all().remove(0);
        assert_eq!((rescuer, mask), (true, Some(cpu.to_string())));
        until("it may run anywhere again", || {
            allowed_cpus_of(&thread) == Some(all.to_list())
        });
    }
    fails.store(false, Ordering::SeqCst);
    q.flush().unwrap();
}
