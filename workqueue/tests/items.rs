// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 2: what an item's states are, what its runs may see, which two are the same.

mod common;
use common::*;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use workqueue::*;

const IDLE: Busy = Busy {
    pending: false,
    running: false,
};
const PENDING: Busy = Busy {
    pending: true,
    running: false,
};
const RUNNING: Busy = Busy {
    pending: false,
    running: true,
};
const BOTH: Busy = Busy {
    pending: true,
    running: true,
};

#[test]
fn s02_01_s02_20_an_item_goes_through_its_states() {
    let (clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    let (front, gate) = (Gate::new(), Gate::new());
    let (f, g) = (front.clone(), gate.clone());
    q.enqueue(Call::new(move |_| f.pass())).unwrap();
    front.wait_for(1);
    let item = Later::new(move |_| g.pass());
    assert_eq!((item.work.busy(), item.work.is_pending()), (IDLE, false));
    // With the timer, that is pending.
    q.enqueue_delayed(Duration::from_millis(5), item.clone())
        .unwrap();
    assert_eq!((item.work.busy(), item.work.is_pending()), (PENDING, true));
    assert!(!rt.dump_queue(&q).contains("later"));
    // Held back by max_active.
    clock.advance(Duration::from_millis(5));
    until("it is queued", || {
        rt.dump_queue(&q).contains("inactive: later")
    });
    assert_eq!(item.work.busy(), PENDING);
    // Active, on the worklist, behind a run that does not wait.
    q.set_max_active(2).unwrap();
    assert!(rt.dump_queue(&q).contains("pending: later"));
    assert_eq!(item.work.busy(), PENDING);
    front.open();
    gate.wait_for(1);
    assert_eq!(item.work.busy(), RUNNING);
    q.enqueue(item.clone()).unwrap();
    assert_eq!(item.work.busy(), BOTH);
    // To be disabled is independent of these; it takes the pending instance back.
    assert!(item.work.disable().unwrap().is_some());
    assert_eq!(item.work.busy(), RUNNING);
    gate.open();
    q.flush().unwrap();
    assert_eq!((item.work.busy(), item.runs()), (IDLE, 1));
    assert!(item.work.enable().unwrap());
}

#[test]
fn s02_09_an_item_moved_to_a_queue_of_another_pool_may_overlap_itself() {
    let rt = runtime(1);
    let percpu = rt.queue("percpu").flags(PERCPU).build().unwrap();
    let unbound = rt.queue("unbound").flags(UNBOUND).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let item = Call::new(move |_| g.pass());
    percpu.enqueue(item.clone()).unwrap();
    gate.wait_for(1);
    unbound.enqueue(item.clone()).unwrap();
    // Both stand at the gate at once.
    gate.wait_for(2);
    gate.open();
    percpu.flush().unwrap();
    unbound.flush().unwrap();
    assert_eq!(item.runs(), 2);
}

#[test]
fn s02_09_an_item_moved_to_a_queue_of_the_same_pool_does_not_overlap_itself() {
    let rt = runtime(1);
    let first = rt.queue("first").flags(UNBOUND).build().unwrap();
    let second = rt.queue("second").flags(UNBOUND).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let item = Call::new(move |_| g.pass());
    first.enqueue(item.clone()).unwrap();
    gate.wait_for(1);
    second.enqueue(item.clone()).unwrap();
    // It lies with the worker that has the item; others of the pool go ahead.
    let other = Call::noop();
    second.enqueue(other.clone()).unwrap();
    other.work.flush().unwrap();
    assert_eq!((item.runs(), gate.arrived()), (1, 1));
    gate.open();
    second.flush().unwrap();
    assert_eq!(item.runs(), 2);
}

/// An item in a box, which its run may give back to the allocator before it ends.
struct Boxed {
    work: Work<Boxed>,
    f: Option<Consumer>,
}

type Consumer = Box<dyn FnOnce(Pin<Box<Boxed>>) + Send>;

impl_has_work! { impl HasWork<Self> for Boxed { self.work } }

impl WorkItem for Boxed {
    type Pointer = Pin<Box<Self>>;

    fn run(mut this: Pin<Box<Self>>) {
        let f = this.f.take();
        f.expect("it runs once")(this);
    }
}

impl Boxed {
    fn new(f: impl FnOnce(Pin<Box<Self>>) + Send + 'static) -> Pin<Box<Self>> {
        Box::pin(Self {
            work: new_work!("boxed"),
            f: Some(Box::new(f)),
        })
    }

    fn address(self: &Pin<Box<Self>>) -> usize {
        std::ptr::from_ref(&**self).addr()
    }
}

#[test]
fn s02_10_an_item_in_the_memory_of_a_running_one_is_another_item() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let (handle, inner, gate) = (q.handle(), Gate::new(), Gate::new());
    let (i, g) = (inner.clone(), gate.clone());
    q.enqueue(Boxed::new(move |this| {
        let freed = this.address();
        drop(this);
        // The allocator hands the memory out again, mostly at once.
        let mut others = Vec::new();
        let same = loop {
            let i = inner.clone();
            let next = Boxed::new(move |_| i.pass());
            if next.address() == freed || others.len() == 10_000 {
                break next;
            }
            others.push(next);
        };
        handle.enqueue(same).map_err(|e| e.reason()).unwrap();
        g.pass();
    }))
    .map_err(|e| e.reason())
    .unwrap();
    // It begins while the one whose memory it has still runs.
    gate.wait_for(1);
    i.wait_for(1);
    i.open();
    gate.open();
    q.flush().unwrap();
    assert_eq!(q.stats().panicked, 0);
}

#[test]
fn s02_12_s02_14_runs_see_what_came_before_and_waiters_what_they_did() {
    // All accesses are relaxed: only the queue orders them.
    let relaxed = Ordering::Relaxed;
    let rt = runtime(2);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    let cells: Arc<[AtomicUsize; 3]> = Arc::default();
    let c = cells.clone();
    let item = Call::new(move |_| {
        let given = c[0].load(relaxed);
        c[1].store(given + 1, relaxed);
        // What its last run left is there as well.
        c[2].store(c[2].load(relaxed) + 1, relaxed);
    });
    for round in 1..=3000 {
        cells[0].store(round, relaxed);
        q.enqueue(item.clone()).unwrap();
        match round % 4 {
            0 => q.flush().unwrap(),
            1 => {
                item.work.flush().unwrap();
            }
            2 => q.drain().unwrap(),
            _ => {
                if item.work.cancel_sync().unwrap().is_some() {
                    // Taken back before it ran: there is nothing to see.
                    continue;
                }
            }
        }
        assert_eq!(cells[1].load(relaxed), round + 1);
    }
    assert_eq!(cells[2].load(relaxed), item.runs());
}

#[test]
fn s02_02_s02_03_a_refused_enqueue_never_makes_the_item_seem_pending() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    // One queue is gone, another one drains.
    let gone = rt.queue("gone").flags(UNBOUND).build().unwrap();
    let destroyed = gone.handle();
    gone.destroy().unwrap();
    let closing = rt.queue("closing").flags(UNBOUND).build().unwrap();
    let gate = stand(&closing, None);
    let item = Call::noop();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| closing.drain().unwrap());
        until("it drains", || closing.enqueue(Call::noop()).is_err());
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _refused = destroyed.enqueue(item.clone());
                let _refused = closing.enqueue(item.clone());
            }
        });
        let refused = (0..3000).filter(|_| {
            let refused = q.enqueue(item.clone()).is_err();
            q.flush().unwrap();
            refused
        });
        let refused = refused.count();
        stop.store(true, Ordering::Relaxed);
        gate.open();
        assert_eq!(refused, 0, "told of a run that no one owes");
    });
}

#[test]
fn s02_03_s02_19_a_queue_that_is_gone_lowers_no_disable_depth() {
    let rt = runtime(1);
    let gone = rt.queue("gone").flags(PERCPU).build().unwrap();
    let destroyed = gone.handle();
    gone.destroy().unwrap();
    let item = Call::noop();
    assert!(item.work.disable().unwrap().is_none());
    let refused = destroyed.enable_and_enqueue(item.clone()).unwrap_err();
    assert_eq!(refused.reason(), Refusal::Destroyed);
    assert_eq!(item.work.enable(), Ok(true), "the depth is what it was");
}

#[test]
fn s02_23_enqueue_all_queues_what_it_can_in_order() {
    let (_clock, rt) = virtual_runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = Gate::new();
    let (g, (log, order)) = (gate.clone(), std::sync::mpsc::channel());
    let items: Vec<Arc<Call>> = (0..100)
        .map(|n| {
            let log = log.clone();
            Call::new(move |_| log.send(n).unwrap())
        })
        .collect();
    q.enqueue(Call::new(move |_| g.pass())).unwrap();
    gate.wait_for(1);
    q.enqueue(items[40].clone()).unwrap();
    items[50].work.disable().unwrap();
    assert_eq!(q.enqueue_all(&items), 98);
    assert_eq!(q.enqueue_all(&items), 0);
    gate.open();
    q.flush().unwrap();
    let expected = [40]
        .into_iter()
        .chain((0..100).filter(|n| ![40, 50].contains(n)));
    assert!(order.try_iter().eq(expected));
    assert!(items.iter().all(|item| Arc::strong_count(item) == 1));
    let handle = q.handle();
    q.destroy().unwrap();
    assert_eq!(handle.enqueue_all(&items), 0);
}
