// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 5.22: a runtime that has nothing to do leaves the machine alone.
//!
//! Alone in its process: it counts how often the helper thread wakes up.

mod common;
use common::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use workqueue::*;

const POLL: Duration = Duration::from_millis(200);

fn one_cpu() -> RuntimeBuilder {
    Runtime::builder().topology(machine(1, 1))
}

#[test]
fn s05_22_the_sampler_runs_only_while_a_run_holds_items_up() {
    // At rest it wakes up to look at the CPUs, and that is never early: some wake-ups take their
    // time on a machine of any speed. Sampling would bring them in some milliseconds.
    let rt = one_cpu().cpu_poll(POLL).start().unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    q.enqueue(Call::noop()).unwrap();
    q.flush().unwrap();
    // One wake-up may have been due at once, and one or two may have had another cause. More have
    // not each time: a lock or a page that is waited for, or a process that is stopped.
    until("it wakes up to look at the CPUs alone", || {
        let (begun, before) = (Instant::now(), sleeps_of_monitors());
        until("it has looked at the CPUs", || {
            sleeps_of_monitors() >= before + 6
        });
        begun.elapsed() >= POLL * 3
    });
    q.destroy().unwrap();
    rt.shutdown().unwrap();

    // A run that burns the CPU, and an item behind it. No other cause to wake up is left, and the
    // run is not let aside for using too much.
    let rt = one_cpu()
        .cpu_poll(Duration::from_secs(3600))
        .watchdog_thresh(Duration::ZERO)
        .cpu_intensive_thresh(Duration::ZERO)
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let s = stop.clone();
    let burns = Call::new(move |_| {
        while !s.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
    });
    q.enqueue(burns.clone()).unwrap();
    until("it burns", || burns.runs() == 1);
    q.enqueue(Call::noop()).unwrap();
    let before = sleeps_of_monitors();
    until("it is watched, over and over", || {
        sleeps_of_monitors() >= before + 20
    });
    stop.store(true, Ordering::SeqCst);
    q.flush().unwrap();
}
