// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shares of a limit that spans the hardware queues: C12, W4, W19.

use super::common::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use ublk_ramdisk::mq::*;

fn with_slots(slots: u32, queues: u16) -> Bed {
    let set = TagSet {
        rerun_delay: HOUR,
        ..TagSet::new(queues, 8)
    };
    let driver = Driver {
        slots: Some(DeviceSlots::new(slots, queues)),
        ..Driver::new()
    };
    driver.always(Hold);
    Bed::with(set, driver)
}

#[test]
fn c12_without_budget_a_list_goes_back_unissued_and_is_timed() {
    let mut bed = with_slots(1, 1);
    quiesced(&mut bed, &[0, 1, 2]);
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(bed.driver.take_calls(), [q(0, false), Call::CommitRqs(0)]);
    let counted = bed.queue.counters(0);
    assert_eq!((counted.no_budget, counted.run_delayed), (2, 1));
    assert_eq!(bed.dispatch(0), [1, 2]);
    bed.complete(0);
    bed.settle();
    assert_eq!(bed.driver.tags(), [1], "the slot given back ran the queue");
    finish_slots(bed, 1);
}

#[test]
fn k02_each_refusal_is_counted_under_its_source() {
    let mut bed = with_slots(1, 1);
    let named = [Source::Memory, Source::Psi, Source::Bandwidth];
    let named = named.map(|source| BusyFor(Busy::Resource, source));
    bed.driver.reply(&[RESOURCE]);
    bed.driver.reply(&named);
    bed.insert(0, write(0));
    while bed.driver.held.lock().unwrap().is_empty() {
        bed.clock.advance(HOUR);
        bed.settle();
    }
    let by = bed.queue.counters(0).refused_by;
    assert_eq!((by.driver, by.memory, by.psi, by.bandwidth), (1, 1, 1, 1));
    assert_eq!((by.slots, by.injection), (0, 0), "no one was turned away");
    bed.insert(0, write(1));
    bed.settle();
    let counted = bed.queue.counters(0);
    assert_eq!(counted.refused_by.slots, counted.no_budget);
    assert!(counted.no_budget > 0, "the only slot is taken");
    assert_eq!(counted.refused_by.total(), counted.refused());
    finish_slots(bed, 1);
}

#[test]
fn c12_without_budget_nothing_is_taken_from_a_ctx() {
    let mut bed = with_slots(1, 1);
    bed.insert(0, write(0));
    let before = bed.queue.counters(0).run_delayed;
    // A lone request without budget stays on its ctx; make the queue busy, to be served one by one.
    bed.driver.always(RESOURCE);
    bed.complete(0);
    bed.insert(0, write(1));
    bed.driver.always(Hold);
    quiesced_more(&mut bed, &[2, 3]);
    bed.queue.unquiesce();
    bed.settle();
    assert_eq!(bed.driver.take_calls(), [q(1, true)]);
    assert_eq!(bed.queue.snapshot(0).ctx_lens, [2]);
    assert_eq!(
        bed.queue.counters(0).run_delayed - before,
        1,
        "from tag 1 alone"
    );
    bed.complete(1);
    bed.settle();
    assert_eq!(bed.driver.tags(), [2]);
    finish_slots(bed, 1);
}

fn finish_slots(bed: Bed, slots: u32) {
    let driver = bed.driver.clone();
    bed.finish();
    assert_eq!(
        driver.slots.as_ref().unwrap().free(),
        slots,
        "every slot came back"
    );
}

#[test]
fn w04_a_slot_freed_by_one_hctx_runs_the_other_that_waits_for_it() {
    let mut bed = with_slots(1, 2);
    bed.insert(0, write(0));
    bed.insert(1, read(1));
    bed.settle();
    assert_eq!(bed.driver.tags(), [0]);
    bed.complete(0);
    bed.settle();
    assert_eq!(bed.driver.tags(), [0, 1]);
    finish_slots(bed, 1);
}

/// A limit whose every share costs the queue the requests of its ctx: another run was quicker.
struct Thief {
    /// The victim, and how many shares are given before.
    queue: Mutex<Option<(Queue, u32)>>,
    put: AtomicU32,
}

impl Budget for Thief {
    fn get(&self, hctx: u16) -> Option<u32> {
        let armed = self.queue.lock().unwrap().take();
        match armed {
            Some((queue, 0)) => queue.drain_ctx(hctx, 0),
            Some((queue, left)) => *self.queue.lock().unwrap() = Some((queue, left - 1)),
            None => {}
        }
        Some(1)
    }

    fn put(&self, _: Hctx<'_>, token: u32) {
        self.put.fetch_add(token, Ordering::SeqCst);
    }
}

impl Operations for Thief {
    fn queue_rq<'q>(&self, _: Hctx<'_>, rq: Issued<'q>, _: bool) -> Answer<'q> {
        match rq.request().tag() {
            0 if self.put.load(Ordering::SeqCst) == 0 => rq.busy(Busy::Resource),
            _ => Answer::Ok(rq.end(Ok(()))),
        }
    }

    fn budget(&self) -> Option<&dyn Budget> {
        Some(self)
    }
}

#[test]
fn w19_a_budget_without_a_request_is_put_back_and_all_queues_are_run_soon() {
    let bed = Bed::new(1, 1);
    let thief = Arc::new(Thief {
        queue: Mutex::new(None),
        put: AtomicU32::new(0),
    });
    let wire = Arc::new(Wire::default());
    let set = TagSet {
        rerun_delay: HOUR,
        ..TagSet::new(1, 8)
    };
    let queue = RequestQueue::new(set, thief.clone(), wire.clone(), &bed.kblockd).unwrap();
    let mut lane = queue.submitter(0, 0).unwrap();
    lane.insert(&write(0), &mut at(&wire, 0));
    // The dispatch list is emptied by hand, so that the run below serves the ctx.
    queue.quiesce();
    lane.insert(&write(1), &mut at(&wire, 0));
    // Two shares go to the dispatch list; the third is for the ctx.
    *thief.queue.lock().unwrap() = Some((queue.handle(), 2));
    thief.put.store(1, Ordering::SeqCst);
    lane.insert_passthrough(&write(2), true, &mut at(&wire, 0));
    queue.unquiesce();
    until("all have ended", || {
        bed.clock.advance(3 * MS);
        wire.count() == 3
    });
    bed.settle();
    assert_eq!(
        thief.put.load(Ordering::SeqCst),
        2,
        "the share was put back"
    );
    assert!(queue.counters(0).run_delayed > 0);
    assert_eq!(queue.fault_at_rest(), None);
    drop((lane, queue));
    bed.finish();
}

/// Slots whose tokens tell who holds one, and a driver that keeps every request.
struct Keeper {
    slots: DeviceSlots,
    held: Mutex<Vec<InFlight>>,
}

impl Budget for Keeper {
    fn get(&self, hctx: u16) -> Option<u32> {
        self.slots.take(hctx).then_some(1)
    }

    fn put(&self, hctx: Hctx<'_>, _: u32) {
        self.slots.release(hctx);
    }

    fn is_awaited_by(&self, hctx: u16) -> bool {
        self.slots.is_awaited_by(hctx)
    }
}

impl Operations for Keeper {
    fn queue_rq<'q>(&self, _: Hctx<'_>, rq: Issued<'q>, _: bool) -> Answer<'q> {
        let (token, accepted) = rq.hold();
        self.held.lock().unwrap().push(token);
        Answer::Ok(accepted)
    }

    fn complete(&self, hctx: Hctx<'_>, request: &Request) {
        if hctx.take_token(request.tag()) != 0 {
            self.slots.release(hctx);
        }
    }

    fn budget(&self) -> Option<&dyn Budget> {
        Some(self)
    }
}

#[test]
fn k02_it_is_told_of_each_hctx_how_many_slots_it_holds_and_whether_it_waits_for_one() {
    let bed = Bed::new(1, 1);
    let keeper = Arc::new(Keeper {
        slots: DeviceSlots::new(2, 2),
        held: Mutex::default(),
    });
    let wire = Arc::new(Wire::default());
    let set = TagSet {
        rerun_delay: HOUR,
        ..TagSet::new(2, 8)
    };
    let queue = RequestQueue::new(set, keeper.clone(), wire.clone(), &bed.kblockd).unwrap();
    let mut lanes = [0, 1].map(|hctx| queue.submitter(hctx, 0).unwrap());
    let told = |hctx| {
        let now = queue.snapshot(hctx);
        (now.slots_held, now.slot_awaited)
    };
    assert_eq!([0, 1].map(told), [(0, false); 2]);
    lanes[0].insert(&write(0), &mut at(&wire, 0));
    lanes[0].insert(&write(1), &mut at(&wire, 0));
    lanes[1].insert(&write(0), &mut at(&wire, 1));
    bed.settle();
    assert_eq!([0, 1].map(told), [(2, false), (0, true)]);
    let missing = queue.counters(1).no_budget;
    let files = queue.debugfs();
    for (path, text) in [
        ("hctx0/budget", "held=2\nawaited=0\nmissing=0\n".to_owned()),
        (
            "hctx1/budget",
            format!("held=0\nawaited=1\nmissing={missing}\n"),
        ),
    ] {
        let file = files.iter().find(|file| file.path == path);
        assert_eq!(file.expect("it is there").text, text, "{path}");
    }
    let complete_one = || {
        let token = keeper.held.lock().unwrap().remove(0);
        assert!(queue.complete_remote(token, Ok(0)));
    };
    complete_one();
    until("the other has got the slot", || {
        [0, 1].map(told) == [(1, false), (1, false)]
    });
    bed.settle();
    (0..2).for_each(|_| complete_one());
    assert_eq!([0, 1].map(told), [(0, false); 2]);
    bed.settle();
    assert_eq!(queue.fault_at_rest(), None);
    drop((lanes, queue));
    bed.finish();
}
