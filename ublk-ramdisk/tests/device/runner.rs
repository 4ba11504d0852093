// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs tests one after the other and counts them. A test fails by panicking, is skipped by
//! returning why, and leaves no trace of ours on the machine: that is looked at after each.

use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::machine::{self, Traces};

/// No test takes a tenth of this even under emulation, unless it was asked to: what is longer hangs.
const HANGS_AFTER: Duration = Duration::from_secs(900);

/// What the machine lacks for a test.
pub struct Skip(pub String);

/// How a test that did not panic ended.
pub type Outcome = Result<(), Skip>;

/// One test.
pub struct Test {
    name: String,
    body: Box<dyn FnOnce() -> Outcome>,
    anywhere: bool,
}

impl Test {
    /// A test that the machine may lack something for.
    pub fn skippable(name: impl Into<String>, body: impl FnOnce() -> Outcome + 'static) -> Test {
        Test {
            name: name.into(),
            body: Box::new(body),
            anywhere: false,
        }
    }

    /// The same, telling more of the program than of the kernel: when runs share the work
    /// (`--part`), one of them has it. For tests that every kernel has.
    pub fn anywhere(self) -> Test {
        Test {
            anywhere: true,
            ..self
        }
    }

    /// The same of a test on a data path, if it is one of those that every kernel has.
    pub fn on_path(self, path: &str) -> Test {
        match path {
            "batch" => self,
            _ => self.anywhere(),
        }
    }

    /// The same of a test that tells of the kernel too: each kernel has it on its best path.
    pub fn on_path_and_kernel(self, path: &str) -> Test {
        match machine::data_paths().last() {
            // An older kernel has no path of batched commands.
            Some(&best) if best == path || path == "batch-buffer" => self,
            _ => self.anywhere(),
        }
    }

    /// A test that runs wherever there is a driver.
    pub fn new(name: impl Into<String>, body: impl FnOnce() + 'static) -> Test {
        Test::skippable(name, move || {
            body();
            Ok(())
        })
    }
}

/// Takes UBLK_TEST_QUICK less time, for CI on a small machine? Then
///
/// - fio verifies each data path under each elevator, and each of both on one queue and on two, but
///   not all three together (`verify`);
/// - each fault is injected on one data path, the one by chance on all (`verify`);
/// - in the background each kind of call fails first and last, not each time (`faults`);
/// - what is counted is counted of fewer operations (`model`, `syscalls`, `lifecycle`).
pub fn is_quick() -> bool {
    std::env::var("UBLK_TEST_QUICK").is_ok_and(|quick| quick == "1")
}

/// A number from the environment, or of two: that of a quick run, and that of a whole one.
pub fn number(variable: &str, quick: u64, whole: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is a whole number")),
        Err(_) if is_quick() => quick,
        Err(_) => whole,
    }
}

/// What was asked for on the command line.
#[derive(Default)]
pub struct Options {
    pub require_driver: bool,
    list: bool,
    exact: bool,
    /// This run's shares of what is divided, from 0 on, and of how many.
    part: Option<(Range<u32>, u32)>,
    filters: Vec<String>,
}

impl Options {
    /// Reads them. What only libtest knows is taken without effect, so that `cargo test` can pass
    /// the same words to every target.
    pub fn read(words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options::default();
        for word in words {
            match word.as_str() {
                "--require-driver" => options.require_driver = true,
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--nocapture" | "--show-output" | "-q" | "--quiet" | "--include-ignored" => {}
                _ if word.starts_with("--part=") => options.part = Some(part(&word)?),
                _ if word.starts_with("--test-threads") || word.starts_with("--color") => {}
                _ if word.starts_with('-') => {
                    return Err(format!(
                        "unknown option {word}: there are --list, --exact, --require-driver, \
                         --part=K/N or --part=K-L/N, and parts of test names"
                    ))
                }
                _ => options.filters.push(word),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        let fits = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        self.filters.is_empty() || self.filters.iter().any(fits)
    }
}

/// Of `--part=K/N`, or of `--part=K-L/N`.
fn part(word: &str) -> Result<(Range<u32>, u32), String> {
    let numbers = || {
        let (ours, of) = word["--part=".len()..].split_once('/')?;
        let (first, last) = ours.split_once('-').unwrap_or((ours, ours));
        let number = |word: &str| word.parse::<u32>().ok();
        Some((number(first)?, number(last)?, number(of)?))
    };
    match numbers() {
        Some((first, last, of)) if 0 < first && first <= last && last <= of => {
            Ok((first - 1..last, of))
        }
        _ => Err(format!("{word}: not K/N or K-L/N with K and L from 1 to N")),
    }
}

/// Which of `of` shares has the test of this name (FNV-1a).
fn share_of(name: &str, of: u32) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    name.bytes().fold(0x811c_9dc5, step) % of
}

/// Where the last panic was and what it said.
static PANIC: Mutex<String> = Mutex::new(String::new());

fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map(|at| format!(" ({}:{})", at.file(), at.line()))
            .unwrap_or_default();
        let mut kept = PANIC.lock().unwrap_or_else(|e| e.into_inner());
        if kept.is_empty() {
            *kept = format!("{}{place}", message(info.payload()));
        }
    }));
}

fn message(payload: &dyn std::any::Any) -> String {
    payload
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| payload.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}

/// Ends the process, with what is known, if a test does not end.
struct Watchdog(Sender<()>);

impl Watchdog {
    fn over(name: &str) -> Watchdog {
        let (alive, silence) = channel();
        let name = name.to_owned();
        let patience = HANGS_AFTER + crate::verify::length();
        std::thread::spawn(move || {
            if silence.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                println!("FAIL {name}: hangs ({} s)", patience.as_secs());
                println!("{}", machine::where_they_wait());
                machine::end_guest();
                std::process::exit(1);
            }
        });
        Watchdog(alive)
    }
}

#[derive(Default)]
struct Count {
    passed: u32,
    /// What each failed test has printed.
    failed: Vec<String>,
    skipped: u32,
}

/// Runs the wanted tests and prints a line for each.
pub fn run(tests: Vec<Test>, options: &Options) -> ExitCode {
    let wanted: Vec<Test> = tests
        .into_iter()
        .filter(|test| options.wants(&test.name))
        .collect();
    if options.list {
        for test in &wanted {
            println!("{}: test", test.name);
        }
        return ExitCode::SUCCESS;
    }
    keep_panics();
    let began = Instant::now();
    println!(
        "kernel {}, seed {}",
        machine::kernel(),
        crate::rng::Rng::seed_of_run()
    );
    let mut count = Count::default();
    let of_others = |test: &Test| {
        let others = |(ours, of): &(Range<u32>, u32)| !ours.contains(&share_of(&test.name, *of));
        test.anywhere && options.part.as_ref().is_some_and(others)
    };
    let (left, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().partition(of_others);
    // Before any test runs, so that nothing else is written among these names.
    for test in left {
        println!("LEFT {}", test.name);
    }
    if options.part.is_some() {
        for test in &wanted {
            println!("TAKEN {}", test.name);
        }
    }
    let all = wanted.len();
    for (number, test) in (1..).zip(wanted) {
        // In one piece: standard output may go to the same place.
        let line = format!("[{number}/{all}] {}\n", test.name);
        eprint!("{line}");
        run_one(test, &mut count);
    }
    // Once more at the end: of a long run's output often only that is kept.
    for report in &count.failed {
        print!("{report}");
    }
    println!(
        "{} passed, {} failed, {} skipped ({:.0} s)",
        count.passed,
        count.failed.len(),
        count.skipped,
        began.elapsed().as_secs_f64()
    );
    machine::remove_scratch();
    let skips_fail = std::env::var("CI").is_ok_and(|ci| ci == "1" || ci == "true");
    if !count.failed.is_empty() || (skips_fail && count.skipped > 0) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn run_one(test: Test, count: &mut Count) {
    let Test { name, body, .. } = test;
    let watchdog = Watchdog::over(&name);
    let before = Traces::now();
    let began = Instant::now();
    PANIC.lock().unwrap_or_else(|e| e.into_inner()).clear();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let outcome = body();
        before.assert_unchanged();
        let forbidden = machine::server_logs().contains("SIGSYS");
        assert!(!forbidden, "a filter has ended a server (J14)");
        outcome
    }));
    match outcome {
        Ok(Ok(())) => {
            count.passed += 1;
            println!("ok {name} ({:.1} s)", began.elapsed().as_secs_f64());
        }
        Ok(Err(Skip(reason))) => {
            count.skipped += 1;
            println!("SKIP {name}: {reason}");
        }
        Err(_) => {
            let why = PANIC.lock().unwrap_or_else(|e| e.into_inner()).clone();
            let report = format!("FAIL {name}: {why}\n{}", machine::server_logs());
            print!("{report}");
            count.failed.push(report);
            machine::clean_up(&before);
        }
    }
    machine::forget_logs();
    // A watchdog that has given up already has ended the process.
    let _ = watchdog.0.send(());
}
