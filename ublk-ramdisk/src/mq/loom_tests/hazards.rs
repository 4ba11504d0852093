// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hazards of dispatching, one model each. The comment names the race and the guard that holds.

use super::{explore, explore_narrowly, Bed, Places};
use crate::mq::*;
use loom::thread;
use std::time::Duration;

fn one_place(kind: Busy) -> impl Fn() -> Bed + Send + Sync + 'static {
    move || Bed::new(1, 2, Places::new(1, kind))
}

fn one_slot_for_two_queues() -> Bed {
    Bed::new(2, 1, Places::with_slots(1, 2))
}

/// The dispatcher is refused while the last request in flight ends.
fn refuse_while_the_last_one_ends(bed: Bed) {
    bed.insert(0, 0, 0, Op::Write);
    bed.beside(
        |bed| assert!(bed.complete_one()),
        |bed| {
            bed.insert(0, 1, 1, Op::Write);
            bed.queue.run_queued();
        },
    );
    bed.finish_issued(1, 2);
}

/// W1. Guard: RESTART is tested after the append (C16), and cleared by the end (C30).
#[test]
fn loom_w01_dev_resource_meets_the_last_end() {
    explore(one_place(Busy::DevResource), refuse_while_the_last_one_ends);
}

/// W18: the dispatcher's 3 ms delay, which never ends here, postpones the run that the end has
/// queued. Guard: RESTART is tested again after the delay has been set.
#[test]
fn loom_w18_resource_meets_the_last_end() {
    explore(one_place(Busy::Resource), refuse_while_the_last_one_ends);
}

/// W14: what a request was refused for comes before its leftovers are put back, and no request in
/// flight will end. Guard: the thread that gives it clears RESTART as an end does.
#[test]
fn loom_w14_what_was_lacking_comes_before_the_leftovers_are_put_back() {
    let make = || Bed::new(1, 1, Places::new(0, Busy::Resource));
    explore(make, |bed| {
        let give = |bed: &Bed| {
            bed.driver.give();
            bed.queue.restart_hw_queue(0);
        };
        bed.beside(give, |bed| bed.insert(0, 0, 0, Op::Write));
        bed.finish_issued(1, 1);
    });
}

/// W3: DEV_RESOURCE with nothing in flight and no waker. Guard: B4.
#[test]
fn loom_w03_a_broken_promise_is_timed() {
    let make = || {
        let mut driver = Places::new(0, Busy::DevResource);
        driver.promises = false;
        Bed::new(1, 1, driver)
    };
    explore(make, |bed| {
        bed.beside(
            |bed| bed.driver.give(),
            |bed| bed.insert(0, 0, 0, Op::Write),
        );
        bed.caught_or_issued(1);
    });
}

/// W6: a place is given between the driver's check and its stop. Guard: the driver checks again
/// after the stop; stop and start are read-modify-writes of one word.
#[test]
fn loom_w06_places_come_between_look_and_stop() {
    let make = || {
        let mut driver = Places::new(0, Busy::DevResource);
        driver.stops = true;
        Bed::new(1, 1, driver)
    };
    explore(make, |bed| {
        let give = |bed: &Bed| {
            bed.driver.give();
            bed.queue.start_stopped_hw_queues(true);
        };
        bed.beside(give, |bed| bed.insert(0, 0, 0, Op::Write));
        bed.finish_issued(1, 1);
    });
}

#[test]
fn loom_w12_a_batch_of_ends_meets_the_dispatcher() {
    explore(one_place(Busy::DevResource), |bed| {
        bed.insert(0, 0, 0, Op::Write);
        let end = |bed: &Bed| {
            let batch = bed.driver.pop().map(|token| (token, Ok(0)));
            let mut local = ViaFrontEnd::new(&*bed.ends, 0);
            bed.queue.complete_batch(0, batch, &mut local);
        };
        bed.beside(end, |bed| bed.insert(0, 1, 1, Op::Write));
        bed.finish_issued(1, 2);
    });
}

/// W2: a run that takes the software queues is refused before RESTART was ever set, and no end is
/// to come later. Guard: RESTART found clear is an immediate re-run.
#[test]
fn loom_w02_the_first_refusal_of_a_run_is_run_again() {
    explore(one_place(Busy::DevResource), |bed| {
        bed.queue.quiesce();
        bed.insert(0, 0, 0, Op::Write);
        bed.insert(0, 0, 1, Op::Write);
        bed.queue.unquiesce();
        bed.beside(|bed| drop(bed.complete_one()), |bed| bed.queue.run_queued());
        bed.finish(2);
    });
}

/// W4: hctx 1 is refused for a slot of the device that hctx 0 gives back. Guard: one thread begins
/// to wait, fences, tries again; the other gives back, fences, looks for waiters.
#[test]
fn loom_w04_a_slot_given_back_by_another_hctx_reaches_who_waits() {
    explore(one_slot_for_two_queues, |bed| {
        bed.insert(0, 0, 0, Op::Read);
        bed.beside(
            |bed| assert!(bed.complete_one()),
            |bed| bed.insert(1, 0, 0, Op::Read),
        );
        bed.finish_issued(1, 2);
    });
}

/// W4 again: hctx 1 has been refused before, so RESTART is set, and is between another refusal and
/// the putting back of its leftovers. Guard: the slot's return clears RESTART as an end does.
#[test]
fn loom_w04_a_slot_comes_back_before_the_leftovers_are_put_back() {
    explore(one_slot_for_two_queues, |bed| {
        bed.insert(0, 0, 0, Op::Read);
        bed.insert(1, 0, 0, Op::Read);
        bed.beside(
            |bed| assert!(bed.complete_one()),
            |bed| bed.queue.run_hw_queue(1, false),
        );
        bed.finish_issued(1, 2);
    });
}

/// W5: a waker starts the queue after its driver has stopped it and before the leftovers are
/// listed. Guard: start clears STOPPED by a read-modify-write, then runs.
#[test]
fn loom_w05_start_meets_the_listing_of_a_request() {
    explore(one_place(Busy::Resource), |bed| {
        bed.queue.stop_hw_queue(0);
        bed.beside(
            |bed| bed.queue.start_hw_queue(0),
            |bed| bed.insert(0, 0, 0, Op::Write),
        );
        bed.finish_issued(1, 1);
    });
}

/// W7: an insertion finds the queue quiesced, and the unquiesce has run it before the insertion was
/// visible. Guard: C21 says no only after a fenced test.
#[test]
fn loom_w07_unquiesce_meets_an_insertion() {
    explore(one_place(Busy::Resource), |bed| {
        bed.queue.quiesce();
        bed.beside(
            |bed| bed.queue.unquiesce(),
            |bed| bed.insert(0, 0, 0, Op::Write),
        );
        bed.finish_issued(1, 1);
    });
}

/// W8: a request is requeued and kicked while requeue_work works off what it had taken. Guard:
/// pending no more when the callback begins.
#[test]
fn loom_w08_a_kick_meets_requeue_work() {
    explore(one_place(Busy::Resource), |bed| {
        bed.insert(0, 0, 0, Op::Write);
        bed.driver.give();
        bed.queue.kick_requeue_list();
        let requeue = |bed: &Bed| {
            let how = Requeue {
                kick: Some(Duration::ZERO),
                prepared: false,
            };
            assert!(bed.queue.requeue(bed.driver.pop().unwrap(), how));
        };
        bed.beside(|bed| bed.queue.run_queued(), requeue);
        bed.finish_issued(1, 1);
    });
}

/// W9: a kick finds requeue_work waiting for a later time. Guard: mod_delayed.
#[test]
fn loom_w09_a_kick_pulls_a_later_one_in() {
    explore(one_place(Busy::Resource), |bed| {
        bed.insert(0, 0, 0, Op::Write);
        let token = bed.driver.pop().unwrap();
        bed.driver.give();
        assert!(bed.queue.requeue(token, Requeue::default()));
        let kick = |bed: &Bed| {
            bed.queue.delay_kick_requeue_list(Duration::from_millis(3));
            bed.queue.kick_requeue_list();
        };
        bed.beside(kick, |bed| bed.queue.run_queued());
        bed.finish_issued(1, 1);
    });
}

fn start_and_run(bed: &Bed) {
    bed.queue.start_hw_queue(0);
    bed.queue.run_queued();
}

/// W10: a run drains a ctx while an insertion adds to it. Guard: the bit changes under the list's
/// lock only.
#[test]
fn loom_w10_a_drain_meets_an_insertion() {
    let make = || Bed::new(1, 1, Places::ending(1));
    explore(make, |bed| {
        bed.queue.quiesce();
        bed.insert(0, 0, 0, Op::Write);
        bed.queue.unquiesce();
        bed.queue.stop_hw_queue(0);
        bed.beside(start_and_run, |bed| bed.insert(0, 0, 1, Op::Write));
        bed.finish(2);
    });
}

/// W11: a flush comes while the software queues are served one by one. Guard: C8.
#[test]
fn loom_w11_a_flush_meets_a_run_that_serves_ctxs() {
    let make = || Bed::new(1, 2, Places::ending(1));
    explore_narrowly(make, |bed| {
        bed.queue.quiesce();
        bed.insert(0, 0, 0, Op::Write);
        bed.insert(0, 0, 1, Op::Flush);
        bed.queue.unquiesce();
        bed.queue.stop_hw_queue(0);
        bed.beside(start_and_run, |bed| bed.insert(0, 1, 2, Op::Flush));
        bed.finish(3);
    });
}

/// W19: two runs want the same request, and slots for it. Guard: the slot is put back, which runs
/// the queues that wait, and all queues are run later.
#[test]
fn loom_w19_two_runs_want_the_slot_and_the_request() {
    let make = || {
        let mut driver = Places::with_slots(1, 1);
        driver.holds = false;
        Bed::new(1, 1, driver)
    };
    explore(make, |bed| {
        bed.queue.quiesce();
        bed.insert(0, 0, 0, Op::Write);
        bed.insert(0, 0, 1, Op::Write);
        bed.queue.unquiesce();
        bed.beside(
            |bed| bed.queue.run_queued(),
            |bed| bed.queue.run_hw_queue(0, false),
        );
        bed.caught_or_issued(2);
    });
}

/// W17: another dispatcher's run of all queues meets a run that was refused. Guard: a pending run
/// keeps its time, and each later time follows a real try.
#[test]
fn loom_w17_a_run_of_all_meets_a_refusal() {
    explore(one_place(Busy::DevResource), |bed| {
        bed.insert(0, 0, 0, Op::Write);
        let end_and_run_all = |bed: &Bed| {
            assert!(bed.complete_one());
            bed.queue.delay_run_hw_queues(Duration::from_millis(3));
        };
        bed.beside(end_and_run_all, |bed| bed.insert(0, 1, 1, Op::Write));
        bed.caught_or_issued(2);
    });
}

/// W20: a freeze begins while requests wait on the dispatch list. Guard: the freeze runs every
/// hctx. The arrival that meets it comes in before or after, and is not lost (C26).
#[test]
fn loom_w20_c26_a_freeze_meets_an_arrival_and_what_is_parked() {
    let make = || Bed::new(1, 2, Places::ending(1));
    explore(make, |bed| {
        let freeze = |bed: &Bed| {
            bed.queue.freeze().unwrap();
            assert!(bed.queue.snapshot(0).busy.is_empty());
            bed.queue.unfreeze();
        };
        bed.beside(freeze, |bed| bed.insert(0, 1, 1, Op::Write));
        bed.finish(1);
    });
}

#[test]
fn loom_w20_a_freeze_runs_what_is_parked() {
    let make = || Bed::new(1, 1, Places::ending(0));
    explore(make, |bed| {
        bed.insert(0, 0, 0, Op::Write);
        let give_and_freeze = |bed: &Bed| {
            bed.driver.give();
            bed.queue.freeze().unwrap();
            bed.queue.unfreeze();
        };
        bed.beside(give_and_freeze, |_| ());
        bed.finish(1);
    });
}

/// C38 and A11: completion, a look-up that completes too, and the end. One of the two wins, and the
/// request ends once, after the reference has been dropped.
#[test]
fn loom_c38_complete_meets_timeout() {
    explore(one_place(Busy::Resource), |bed| {
        bed.insert(0, 0, 0, Op::Write);
        let other = bed.clone();
        let timeout = thread::spawn(move || {
            let found = other.queue.get(0, 0);
            found.is_some_and(|rq| rq.complete(Status::Timeout))
        });
        let completed = bed.complete_one();
        assert!(completed != timeout.join().unwrap());
        bed.finish(1);
    });
}

/// C25: quiesce returns only when queue_rq has.
#[test]
fn loom_c25_quiesce_meets_an_issue() {
    explore(one_place(Busy::Resource), |bed| {
        let quiesce = |bed: &Bed| {
            bed.queue.quiesce();
            let before = bed.queue.counters(0).accepted;
            thread::yield_now();
            assert_eq!(bed.queue.counters(0).accepted, before);
            bed.queue.unquiesce();
        };
        bed.beside(|bed| bed.insert(0, 0, 0, Op::Write), quiesce);
        bed.finish(1);
    });
}
