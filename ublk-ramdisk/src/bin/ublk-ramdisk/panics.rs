// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a panic comes to: one line instead of a panic text, and in a server the end of the process.
//!
//! A server that lost a thread or a work item would keep requests that nobody has any more, and
//! their clients would wait for ever. The kernel takes the disk of a process that is gone away.

use std::panic::{self, PanicHookInfo};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use ublk_ramdisk::error::Failure;

use crate::{commands::output, logger};

/// Set once, when the process becomes a server.
static ENDS_THE_PROCESS: AtomicBool = AtomicBool::new(false);

/// Has panics reported in one line from now on.
pub fn report() {
    panic::set_hook(Box::new(on_panic));
}

/// From now on this process is a server: a panic in any of its threads ends it, also one that the
/// caller would catch.
pub fn end_the_process() {
    ENDS_THE_PROCESS.store(true, Ordering::Relaxed);
}

/// The hook, on the thread that panics and before it unwinds.
fn on_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("no reason given");
    let place = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let line = format!(
        "internal error at {} in thread {}: {what}; please report it",
        place.unwrap_or_default(),
        thread.name().unwrap_or("without a name"),
    );
    // A daemon has no terminal, but a log.
    if log::max_level() == log::LevelFilter::Off {
        output::complain(&Failure::runtime(line));
    } else {
        // The first makes room for the line.
        logger::flush();
        log::error!("{line}");
        logger::flush();
    }
    if ENDS_THE_PROCESS.load(Ordering::Relaxed) {
        process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::Command;

    const LOG: &str = "UBLK_TEST_PANIC_LOG";
    const WHERE: &str = "UBLK_TEST_PANIC_IN";

    /// Panics in a thread, or in a work item, as a server does: in the process of
    /// [`l1_a_panic_in_any_thread_of_a_server_ends_it`].
    #[test]
    fn panics_when_it_is_told_to() {
        let (Some(log), Some(place)) = (std::env::var_os(LOG), std::env::var_os(WHERE)) else {
            return;
        };
        report();
        logger::open(logger::Sink::file(Path::new(&log)).expect("a log"));
        logger::start_thread().expect("a thread");
        end_the_process();
        if place == "thread" {
            let thread = std::thread::Builder::new().name("ublkq7".to_owned());
            let thread = thread.spawn(|| panic!("of this test")).expect("a thread");
            let _ = thread.join();
        } else {
            let runtime = workqueue::Runtime::builder().start().expect("threads");
            let queue = runtime.queue("of_this_test").build().expect("a queue");
            assert!(queue.try_spawn(|| panic!("of this test")).is_ok());
            let _ = queue.flush();
        }
        // Not reached: the process has ended.
        process::exit(0);
    }

    #[test]
    fn l1_a_panic_in_any_thread_of_a_server_ends_it() {
        for (place, thread) in [("thread", "ublkq7"), ("work item", "kworker")] {
            let log = std::env::temp_dir().join(format!("ublk-panic-{}", process::id()));
            let output = Command::new(std::env::current_exe().expect("a path"))
                .args(["--exact", "panics::tests::panics_when_it_is_told_to"])
                .env(LOG, &log)
                .env(WHERE, place)
                .output()
                .expect("it starts");
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{place}");
            let said = std::fs::read_to_string(&log).expect("a log");
            std::fs::remove_file(&log).expect("a log");
            assert!(
                said.contains("of this test") && said.contains(thread),
                "{said}"
            );
            assert!(said.ends_with("please report it\n"), "{said}");
        }
    }
}
