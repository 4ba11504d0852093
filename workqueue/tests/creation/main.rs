// SPDX-License-Identifier: MIT OR Apache-2.0
//! 7.15: what happens when the system itself refuses to make threads.
//!
//! The limits hold for whole processes, so each case runs in a child process: this program, started
//! anew. It has its own `main`, takes name filters and `--list` as other test programs do, and
//! cleans up whatever a case has left behind, also if that hangs.

#[path = "../common/mod.rs"]
mod common;

mod cgroup;

mod limit;

mod story;

use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Tells the child which case it is.
const CASE: &str = "WORKQUEUE_CREATION_CASE";
/// Tells the child its cgroup.
const CGROUP: &str = "WORKQUEUE_CREATION_CGROUP";
/// How a child says that a case cannot run here; its last line says why.
const SKIPPED: i32 = 77;
/// How long a child may take before it is called hung. Nothing is timed by it.
const HUNG: Duration = Duration::from_secs(150);

const PIDS_MAX: &str = "s07_15_s07_11_s07_12_pids_max_of_a_cgroup";
const NPROC: &str = "s07_15_s07_11_s07_12_rlimit_nproc";
const ADDRESS_SPACE: &str = "s07_15_s07_11_s07_12_rlimit_as";
const CASES: [&str; 3] = [PIDS_MAX, NPROC, ADDRESS_SPACE];

/// How a case ended.
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

fn main() -> ExitCode {
    if let Ok(case) = std::env::var(CASE) {
        return child(&case);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |case: &&str| filters.is_empty() || filters.iter().any(|f| case.contains(*f));
    let cases = CASES.into_iter().filter(wanted);
    if arguments.iter().any(|a| a == "--list") {
        cases.for_each(|case| println!("{case}: test"));
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in cases {
        match run(case) {
            Outcome::Passed => {
                passed += 1;
                println!("test {case} ... ok");
            }
            Outcome::Skipped(why) => {
                skipped += 1;
                println!("SKIP {case}: {why}");
            }
            Outcome::Failed(why) => {
                failed += 1;
                println!("test {case} ... FAILED\n{why}");
            }
        }
    }
    let good = failed == 0 && !(common::must_run() && skipped > 0);
    let word = if good { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; {skipped} skipped");
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn child(case: &str) -> ExitCode {
    let limit = match case {
        PIDS_MAX => limit::pids_max(&std::env::var(CGROUP).expect("set by the parent")),
        NPROC => limit::nproc(),
        _ => limit::address_space(),
    };
    match limit.and_then(|limit| story::tell(&*limit)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::from(SKIPPED as u8)
        }
    }
}

fn run(case: &str) -> Outcome {
    let mut command = Command::new(std::env::current_exe().expect("a program has a file"));
    command.env(CASE, case).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let _cgroup = if case == PIDS_MAX {
        match cgroup::Cgroup::new() {
            Ok(cgroup) => {
                command.env(CGROUP, cgroup.path());
                Some(cgroup)
            }
            Err(why) => return Outcome::Skipped(why),
        }
    } else {
        None
    };
    let child = command.spawn().expect("the test program can be started");
    wait_for(child)
}

fn wait_for(mut child: Child) -> Outcome {
    let begun = Instant::now();
    let mut hung = false;
    while child.try_wait().expect("the child is ours").is_none() {
        if begun.elapsed() > HUNG && !hung {
            hung = true;
            child.kill().expect("the child is ours");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("the child is ours");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if hung {
        return Outcome::Failed(format!("hung\n{text}"));
    }
    match output.status.code() {
        Some(0) => Outcome::Passed,
        Some(SKIPPED) => Outcome::Skipped(text.lines().last().unwrap_or_default().to_owned()),
        _ => Outcome::Failed(format!(
            "{}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
