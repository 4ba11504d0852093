// SPDX-License-Identifier: MIT OR Apache-2.0
//! The words between monitor and sentinel: no arming is lost, nothing old is taken for new.

use crate::pool::sentinel::{Round, Sentinel, Target, POOLS};
use crate::sys::event::Event;
use loom::sync::Arc;
use loom::thread;

/// Both sides, and the token that wakes the monitor.
struct Pair {
    sentinel: Sentinel,
    monitor: Event,
}

fn pair() -> Arc<Pair> {
    Arc::new(Pair {
        sentinel: Sentinel::new(0),
        monitor: Event::new(),
    })
}

/// The sentinel's thread; every worker sleeps.
fn serve(pair: &Pair) {
    let mut posted = [None; POOLS];
    while !pair.sentinel.wait() {
        while pair.sentinel.round(&mut posted, |_| false) == Round::Posted {
            pair.monitor.give();
        }
    }
}

/// Waits, as often as it takes, until there is a post.
fn next_post(pair: &Pair) -> Target {
    loop {
        pair.monitor.wait();
        if let Some(post) = pair.sentinel.take_post(0) {
            return post;
        }
    }
}

#[test]
fn s05_27_what_is_armed_is_posted() {
    loom::model(|| {
        let pair = pair();
        let own = pair.clone();
        let sentinel = thread::spawn(move || serve(&own));
        // The second time it may be on its way to sleep, or to look once more.
        for tid in [7, 7] {
            let target = pair.sentinel.arm(0, tid);
            assert_eq!(next_post(&pair), target);
            assert_eq!(pair.sentinel.armed_with(0), None);
        }
        pair.sentinel.stop();
        sentinel.join().unwrap();
    });
}

#[test]
fn s05_27_what_was_disarmed_is_not_taken_for_what_is_armed() {
    loom::model(|| {
        let pair = pair();
        let own = pair.clone();
        let sentinel = thread::spawn(move || {
            let mut posted = [None; POOLS];
            while !own.sentinel.wait() {
                // Worker 7 sleeps, worker 8 does not.
                while own.sentinel.round(&mut posted, |tid| tid == 8) == Round::Posted {}
            }
        });
        pair.sentinel.arm(0, 7);
        pair.sentinel.disarm(0);
        assert_eq!(pair.sentinel.take_post(0), None);
        pair.sentinel.arm(0, 8);
        assert_eq!(pair.sentinel.take_post(0), None);
        pair.sentinel.stop();
        sentinel.join().unwrap();
        assert_eq!(pair.sentinel.take_post(0), None);
        assert_eq!(pair.sentinel.armed_with(0), Some(8));
    });
}

#[test]
fn s05_27_the_two_pools_of_a_cpu_do_not_hide_each_other() {
    loom::model(|| {
        let pair = pair();
        let own = pair.clone();
        let sentinel = thread::spawn(move || serve(&own));
        let targets = [pair.sentinel.arm(0, 7), pair.sentinel.arm(1, 8)];
        let mut posts = [None, None];
        while posts != targets.map(Some) {
            pair.monitor.wait();
            for (pool, post) in posts.iter_mut().enumerate() {
                *post = post.or(pair.sentinel.take_post(pool));
            }
        }
        pair.sentinel.stop();
        sentinel.join().unwrap();
    });
}
