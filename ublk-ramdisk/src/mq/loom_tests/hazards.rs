// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hazards of dispatching, one model each. The comment says who races whom, and which guard
//! holds.

use super::bed::{explore, explore_narrowly, Bed, Places};
use crate::mq::*;
use loom::thread;

fn one_place(kind: Busy) -> impl Fn() -> Bed + Send + Sync + 'static {
    move || Bed::new(1, 2, Places::new(1, kind))
}

/// The dispatcher is refused while the last request in flight ends.
fn refuse_while_the_last_one_ends(bed: &Bed) {
    bed.insert(0, 0, 0, Op::Write);
    let other = bed.clone();
    let ender = thread::spawn(move || assert!(other.complete_one()));
    bed.insert(0, 1, 1, Op::Write);
    bed.queue.run_queued();
    ender.join().unwrap();
}

/// W1. Guard: the look at RESTART after the append (C16), and the clearing by the end (C30).
#[test]
fn loom_w01_dev_resource_meets_the_last_end() {
    explore(one_place(Busy::DevResource), |bed| {
        refuse_while_the_last_one_ends(&bed);
        bed.all_issued(1);
        bed.finish(2);
    });
}

/// W18: the end's run is put off by the dispatcher's 3 ms, which never come here. Guard: the second
/// look at RESTART after the run has been put off.
#[test]
fn loom_w18_resource_meets_the_last_end() {
    explore(one_place(Busy::Resource), |bed| {
        refuse_while_the_last_one_ends(&bed);
        bed.all_issued(1);
        bed.finish(2);
    });
}

/// W14: what a request was refused for comes before its leftovers are put back, and no request is
/// in flight whose end would tell. Guard: the thread that brings it clears RESTART as an end does.
#[test]
fn loom_w14_what_was_wanting_comes_before_the_leftovers_are_put_back() {
    let make = || Bed::new(1, 1, Places::new(0, Busy::Resource));
    explore(make, |bed| {
        let other = bed.clone();
        let giver = thread::spawn(move || {
            other.driver.give();
            other.queue.restart_hw_queue(0);
        });
        bed.insert(0, 0, 0, Op::Write);
        giver.join().unwrap();
        bed.all_issued(1);
        bed.finish(1);
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
        let other = bed.clone();
        let giver = thread::spawn(move || other.driver.give());
        bed.insert(0, 0, 0, Op::Write);
        giver.join().unwrap();
        bed.caught_or_issued(1);
    });
}

/// W6: the places come between the driver's look and its stop. Guard: the driver looks again after
/// the stop; stop and start are read-modify-writes of one word.
#[test]
fn loom_w06_places_come_between_look_and_stop() {
    let make = || {
        let mut driver = Places::new(0, Busy::DevResource);
        driver.stops = true;
        Bed::new(1, 1, driver)
    };
    explore(make, |bed| {
        let other = bed.clone();
        let giver = thread::spawn(move || {
            other.driver.give();
            other.queue.start_stopped_hw_queues(true);
        });
        bed.insert(0, 0, 0, Op::Write);
        giver.join().unwrap();
        bed.all_issued(1);
        bed.finish(1);
    });
}

#[test]
fn loom_w12_a_batch_of_ends_meets_the_dispatcher() {
    explore(one_place(Busy::DevResource), |bed| {
        bed.insert(0, 0, 0, Op::Write);
        let other = bed.clone();
        let ender = thread::spawn(move || {
            let batch = other.driver.pop().map(|token| (token, Ok(0)));
            other
                .queue
                .complete_batch(0, batch, &mut ViaFrontEnd::new(&*other.ends, 0));
        });
        bed.insert(0, 1, 1, Op::Write);
        ender.join().unwrap();
        bed.all_issued(1);
        bed.finish(2);
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
        let other = bed.clone();
        bed.queue.unquiesce();
        let ender = thread::spawn(move || {
            other.complete_one();
        });
        bed.queue.run_queued();
        ender.join().unwrap();
        bed.finish(2);
    });
}

/// W4: hctx 1 is refused for a slot of the device that hctx 0 gives back. Guard: join the line,
/// fence, try again; give back, fence, look at the line.
#[test]
fn loom_w04_a_slot_given_back_by_another_hctx_reaches_who_waits() {
    explore(
        || Bed::new(2, 1, Places::with_slots(1, 2)),
        |bed| {
            bed.insert(0, 0, 0, Op::Read);
            let other = bed.clone();
            let ender = thread::spawn(move || assert!(other.complete_one()));
            bed.insert(1, 0, 0, Op::Read);
            ender.join().unwrap();
            bed.all_issued(1);
            bed.finish(2);
        },
    );
}

/// W4 again: hctx 1 has been refused before, so RESTART is set, and is between another refusal and
/// the putting back of its leftovers. Guard: the slot's return clears RESTART as an end does.
#[test]
fn loom_w04_a_slot_comes_back_before_the_leftovers_are_put_back() {
    explore(
        || Bed::new(2, 1, Places::with_slots(1, 2)),
        |bed| {
            bed.insert(0, 0, 0, Op::Read);
            bed.insert(1, 0, 0, Op::Read);
            let other = bed.clone();
            let ender = thread::spawn(move || assert!(other.complete_one()));
            bed.queue.run_hw_queue(1, false);
            ender.join().unwrap();
            bed.all_issued(1);
            bed.finish(2);
        },
    );
}

/// W5: a waker starts the queue between its driver's stopping it and the leftovers' reaching the
/// list. Guard: start clears STOPPED by a read-modify-write, then runs.
#[test]
fn loom_w05_start_meets_the_listing_of_a_request() {
    explore(one_place(Busy::Resource), |bed| {
        bed.queue.stop_hw_queue(0);
        let other = bed.clone();
        let starter = thread::spawn(move || other.queue.start_hw_queue(0));
        bed.insert(0, 0, 0, Op::Write);
        starter.join().unwrap();
        bed.all_issued(1);
        bed.finish(1);
    });
}

/// W7: an insertion finds the queue quiesced, and the unquiesce has run it before the insertion was
/// visible. Guard: the negative answer of C21 is looked for by writing.
#[test]
fn loom_w07_unquiesce_meets_an_insertion() {
    explore(one_place(Busy::Resource), |bed| {
        bed.queue.quiesce();
        let other = bed.clone();
        let unquiescer = thread::spawn(move || other.queue.unquiesce());
        bed.insert(0, 0, 0, Op::Write);
        unquiescer.join().unwrap();
        bed.all_issued(1);
        bed.finish(1);
    });
}

/// W8: a request is requeued and kicked while requeue_work works off what it had taken. Guard:
/// pending no more when the callback begins.
#[test]
fn loom_w08_a_kick_meets_requeue_work() {
    explore(one_place(Busy::Resource), |bed| {
        bed.insert(0, 0, 0, Op::Write);
        let token = bed.driver.pop().unwrap();
        bed.driver.give();
        bed.queue.kick_requeue_list();
        let other = bed.clone();
        let worker = thread::spawn(move || other.queue.run_queued());
        let how = Requeue {
            kick: Some(std::time::Duration::ZERO),
            prepared: false,
        };
        assert!(bed.queue.requeue(token, how));
        worker.join().unwrap();
        bed.all_issued(1);
        bed.finish(1);
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
        let other = bed.clone();
        let later = thread::spawn(move || {
            other
                .queue
                .delay_kick_requeue_list(std::time::Duration::from_millis(3));
            other.queue.kick_requeue_list();
        });
        bed.queue.run_queued();
        later.join().unwrap();
        bed.all_issued(1);
        bed.finish(1);
    });
}

/// W10: a run drains a ctx while an insertion adds to it. Guard: the bit changes under the list's
/// lock only.
#[test]
fn loom_w10_a_drain_meets_an_insertion() {
    let make = || {
        let mut driver = Places::new(1, Busy::Resource);
        driver.holds = false;
        Bed::new(1, 1, driver)
    };
    explore(make, |bed| {
        bed.queue.quiesce();
        bed.insert(0, 0, 0, Op::Write);
        bed.queue.unquiesce();
        bed.queue.stop_hw_queue(0);
        let other = bed.clone();
        let runner = thread::spawn(move || {
            other.queue.start_hw_queue(0);
            other.queue.run_queued();
        });
        bed.insert(0, 0, 1, Op::Write);
        runner.join().unwrap();
        bed.finish(2);
    });
}

/// W11: a flush comes while the software queues are served one by one. Guard: C8.
#[test]
fn loom_w11_a_flush_meets_a_run_that_serves_ctxs() {
    let make = || {
        let mut driver = Places::new(1, Busy::Resource);
        driver.holds = false;
        Bed::new(1, 2, driver)
    };
    explore_narrowly(make, |bed| {
        bed.queue.quiesce();
        bed.insert(0, 0, 0, Op::Write);
        bed.insert(0, 0, 1, Op::Flush);
        bed.queue.unquiesce();
        bed.queue.stop_hw_queue(0);
        let other = bed.clone();
        let runner = thread::spawn(move || {
            other.queue.start_hw_queue(0);
            other.queue.run_queued();
        });
        bed.insert(0, 1, 2, Op::Flush);
        runner.join().unwrap();
        bed.finish(3);
    });
}

/// W19: two runs want the same request, and slots for it. Guard: the slot is put back, which runs
/// who waits, and all queues are run later.
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
        let other = bed.clone();
        let runner = thread::spawn(move || other.queue.run_queued());
        bed.queue.run_hw_queue(0, false);
        runner.join().unwrap();
        bed.caught_or_issued(2);
    });
}

/// W17: another dispatcher's run of all queues meets a run that was refused. Guard: a pending run
/// keeps its time, and each later time follows a real try.
#[test]
fn loom_w17_a_run_of_all_meets_a_refusal() {
    explore(one_place(Busy::DevResource), |bed| {
        bed.insert(0, 0, 0, Op::Write);
        let other = bed.clone();
        let ender = thread::spawn(move || {
            assert!(other.complete_one());
            other
                .queue
                .delay_run_hw_queues(std::time::Duration::from_millis(3));
        });
        bed.insert(0, 1, 1, Op::Write);
        ender.join().unwrap();
        bed.caught_or_issued(2);
    });
}

/// W20: a freeze begins while requests sit in dispatch. Guard: the freeze runs every hctx. The
/// arrival that meets it comes in before or after, and is not lost (C26).
#[test]
fn loom_w20_c26_a_freeze_meets_an_arrival_and_what_is_parked() {
    let make = || {
        let mut driver = Places::new(1, Busy::Resource);
        driver.holds = false;
        Bed::new(1, 2, driver)
    };
    explore(make, |bed| {
        let other = bed.clone();
        let freezer = thread::spawn(move || {
            other.queue.freeze().unwrap();
            assert!(other.queue.snapshot(0).busy.is_empty());
            other.queue.unfreeze();
        });
        bed.insert(0, 1, 1, Op::Write);
        freezer.join().unwrap();
        bed.finish(1);
    });
}

#[test]
fn loom_w20_a_freeze_runs_what_is_parked() {
    let make = || {
        let mut driver = Places::new(0, Busy::Resource);
        driver.holds = false;
        Bed::new(1, 1, driver)
    };
    explore(make, |bed| {
        bed.insert(0, 0, 0, Op::Write);
        let other = bed.clone();
        let freezer = thread::spawn(move || {
            other.driver.give();
            other.queue.freeze().unwrap();
            other.queue.unfreeze();
        });
        freezer.join().unwrap();
        bed.finish(1);
    });
}

/// C38 and A11: completion, a look-up that completes too, and the end. One of the two wins, and the
/// request ends once, after the look-up has let go.
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
        let other = bed.clone();
        let issuer = thread::spawn(move || other.insert(0, 0, 0, Op::Write));
        bed.queue.quiesce();
        let before = bed.queue.counters(0).accepted;
        thread::yield_now();
        assert_eq!(bed.queue.counters(0).accepted, before);
        bed.queue.unquiesce();
        issuer.join().unwrap();
        bed.finish(1);
    });
}
