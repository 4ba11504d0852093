// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device tests: the built program against a real ublk driver.
//!
//! `scripts/test-device` runs them in guests with the oldest and the newest kernel, or on this
//! machine's own driver. On a machine without a driver `cargo test` says so and goes on. The
//! harness is a few lines of its own ([`runner`]), because what there is to test depends on the
//! kernel: every data path it offers, and the documented refusal of those it does not.
//!
//! Environment: `UBLK_TEST_QUICK=1` takes smaller numbers and pairs instead of all combinations
//! ([`runner::is_quick`]), `UBLK_TEST_SEED` fixes the seed of everything random, `UBLK_TEST_OPS` the
//! number of random operations against the model, `UBLK_TEST_IOS` of the requests whose system calls
//! are counted, `UBLK_TEST_KILLS` how often a server is killed on each data path, `UBLK_TEST_CUTS` how
//! often the power of a disk with each file system is cut,
//! `UBLK_TEST_SECONDS` how long each test that has fio verify under pressure goes on; `CI` turns a
//! skipped test into a failure.

mod backing;

mod commits;

mod counters;

mod crash_points;

mod disk;

mod environment;

mod export;

mod faults;

mod features;

mod filesystems;

mod hotplug;

mod images;

mod ioctl;

mod kblockd;

mod lifecycle;

mod limits;

mod machine;

mod memory;

mod model;

mod names;

mod power;

mod pressure;

mod privilege;

mod psi;

mod recovery;

mod rng;

mod rules;

mod run;

mod runner;

mod seeing;

mod syscalls;

mod tools;

mod upgrade;
mod users;

mod verify;

mod writer;

use std::process::ExitCode;

use runner::{Options, Test};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == writer::WORD) {
        return match writer::run(&words[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let options = match Options::read(words.into_iter()) {
        Ok(options) => options,
        Err(complaint) => {
            eprintln!("device: {complaint}");
            return ExitCode::from(2);
        }
    };
    if let Err(why) = machine::driver() {
        if options.require_driver {
            eprintln!("device: {why}");
            return ExitCode::FAILURE;
        }
        println!("SKIP device: {why}; scripts/test-device runs it in a guest");
        return ExitCode::SUCCESS;
    }
    let mut tests: Vec<Test> = Vec::new();
    limits::tests(&mut tests);
    features::tests(&mut tests);
    memory::tests(&mut tests);
    images::tests(&mut tests);
    tools::tests(&mut tests);
    upgrade::tests(&mut tests);
    names::tests(&mut tests);
    export::tests(&mut tests);
    users::tests(&mut tests);
    backing::tests(&mut tests);
    lifecycle::tests(&mut tests);
    recovery::tests(&mut tests);
    crash_points::tests(&mut tests);
    environment::tests(&mut tests);
    privilege::tests(&mut tests);
    kblockd::tests(&mut tests);
    syscalls::tests(&mut tests);
    commits::tests(&mut tests);
    faults::tests(&mut tests);
    filesystems::tests(&mut tests);
    verify::tests(&mut tests);
    writer::tests(&mut tests);
    hotplug::tests(&mut tests);
    counters::tests(&mut tests);
    pressure::tests(&mut tests);
    power::tests(&mut tests);
    rules::tests(&mut tests);
    psi::tests(&mut tests);
    seeing::tests(&mut tests);
    model::tests(&mut tests);
    runner::run(tests, &options)
}
