// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 12.3 and 12.4: pools that do not move. On a virtual clock.
//!
//! What is reported goes to the log, which all tests of this file share: each has CPU numbers of
//! its own to know its lines by.

mod common;
use common::*;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use workqueue::*;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Tap;

impl log::Log for Tap {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        eprintln!("{line}");
        LINES.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

fn lines_with(part: &str) -> Vec<String> {
    let lines = LINES.lock().unwrap();
    lines.iter().filter(|l| l.contains(part)).cloned().collect()
}

fn wait_for_line(part: &str) -> String {
    until(part, || !lines_with(part).is_empty());
    lines_with(part).remove(0)
}

const SECOND: Duration = Duration::from_secs(1);

/// A runtime with these CPUs, whose clock is at 0.
fn watched(cpus: &[usize], set: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder) -> Runtime {
    static TAP: Once = Once::new();
    TAP.call_once(|| {
        log::set_logger(&Tap).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    let place = |&cpu: &usize| CpuPlace {
        cpu,
        core: cpu,
        cache: 0,
        node: 0,
    };
    let builder = quiet()
        .topology(Topology::simulated(cpus.iter().map(place).collect()))
        .virtual_clock(VirtualClock::new());
    set(builder).start().unwrap()
}

fn pass(rt: &Runtime, seconds: u32) {
    rt.virtual_clock().unwrap().advance(SECOND * seconds);
}

/// A run that holds a CPU, and an item that waits behind it.
fn hold(q: &Queue, cpu: usize) -> Arc<Gate> {
    let gate = stand(q, cpu);
    q.enqueue_on(cpu, Call::noop()).unwrap();
    gate
}

fn stalled(cpu: usize) -> String {
    format!("cpus={cpu} node=0 flags=0x0 nice=0")
}

/// The lines that call a CPU's pool stalled.
fn stalls(cpu: usize) -> Vec<String> {
    let mut lines = lines_with(&stalled(cpu));
    lines.retain(|l| l.starts_with("workqueue: stalled for "));
    lines
}

fn wait_for_stall(cpu: usize) -> String {
    until("a stall is reported", || !stalls(cpu).is_empty());
    stalls(cpu).remove(0)
}

#[test]
fn s12_03_s12_04_a_pool_without_progress_is_reported() {
    let rt = watched(&[500], |b| b);
    assert_eq!(rt.watchdog_thresh(), SECOND * 30);
    let q = rt.queue("slow").flags(PERCPU).build().unwrap();
    let gate = hold(&q, 500);
    pass(&rt, 31);
    let line = wait_for_stall(500);
    assert!(
        line.starts_with("workqueue: stalled for 31s: pool "),
        "{line}"
    );
    // Then what is busy, then who holds the CPU.
    let holder = wait_for_line("kworker/500:0+slow ");
    for part in ["tid=", "runs call", "state=", "wchan=", "syscall=", "cpu="] {
        assert!(holder.contains(part), "{part} is missing in: {holder}");
    }
    assert_eq!(
        lines_with("workqueue: workqueue slow: flags=0x100").len(),
        1
    );
    assert!(!lines_with("pending: call").is_empty());
    // As long as it lasts it is reported at every look.
    pass(&rt, 30);
    until("the second report", || stalls(500).len() == 2);
    assert!(stalls(500)[1].contains("stalled for 61s"));
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s12_03_a_stalled_pool_without_a_running_worker_is_noted() {
    // Creation fails, so the only worker is manager and the item waits.
    let fails = Arc::new(AtomicBool::new(false));
    let rt = watched(&[510], |b| b.threads_by(fails_while(&fails)));
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    fails.store(true, Ordering::SeqCst);
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    until("there is a manager", || rt.dump_all().contains("manager: "));
    pass(&rt, 31);
    until("the report", || {
        !lines_with("cpus=510 node=0 flags=0x2 nice=0").is_empty()
    });
    let line = lines_with("cpus=510 node=0 flags=0x2 nice=0").remove(0);
    let pool = line.split("pool ").nth(1).unwrap().split(':').next();
    wait_for_line(&format!("pool {}: no worker is running", pool.unwrap()));
    fails.store(false, Ordering::SeqCst);
    until("the item runs", || {
        pass(&rt, 1);
        item.runs() == 1
    });
}

#[test]
fn s12_03_a_touch_postpones_the_report() {
    let rt = watched(&[520, 521], |b| b);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gates = [hold(&q, 520), hold(&q, 521)];
    pass(&rt, 20);
    rt.watchdog_touch(521);
    rt.watchdog_touch(usize::MAX);
    pass(&rt, 11);
    wait_for_stall(520);
    wait_for_line("kworker/520:0+q ");
    assert!(stalls(521).is_empty(), "one look tells of both CPUs");
    pass(&rt, 30);
    wait_for_stall(521);
    gates.iter().for_each(|g| g.open());
    q.flush().unwrap();
}

#[test]
fn s12_03_inactive_items_are_no_stall() {
    let rt = watched(&[530, 531, 532], |b| b);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let one = rt.queue("one").flags(PERCPU).max_active(1).build().unwrap();
    let frozen = rt
        .queue("frozen")
        .flags(PERCPU | Flags::FREEZABLE)
        .build()
        .unwrap();
    let gates = [hold(&q, 530), hold(&one, 531)];
    rt.freeze_begin();
    frozen.enqueue_on(532, Call::noop()).unwrap();
    pass(&rt, 31);
    wait_for_stall(530);
    wait_for_line("kworker/530:0+q ");
    assert!(stalls(531).is_empty() && stalls(532).is_empty());
    rt.thaw();
    gates.iter().for_each(|g| g.open());
    [&q, &one, &frozen].iter().for_each(|q| q.flush().unwrap());
}

#[test]
fn s12_03_a_worker_that_never_sleeps_between_items_makes_progress() {
    let rt = watched(&[540, 541], |b| b);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let stuck = hold(&q, 541);
    // One batch that never lets the worklist run empty.
    let gates: Vec<_> = (0..3).map(|_| Gate::new()).collect();
    for gate in &gates {
        let g = gate.clone();
        q.enqueue_on(540, Call::new(move |_| g.pass())).unwrap();
    }
    q.enqueue_on(540, Call::noop()).unwrap();
    gates[0].wait_for(1);
    pass(&rt, 20);
    gates[0].open();
    gates[1].wait_for(1);
    pass(&rt, 20);
    wait_for_stall(541);
    wait_for_line("kworker/541:0+q ");
    assert!(stalls(540).is_empty(), "its last item began 20 s ago");
    stuck.open();
    gates.iter().for_each(|g| g.open());
    q.flush().unwrap();
}

#[test]
fn s12_04_the_threshold_can_be_changed_and_zero_stops_it() {
    let rt = watched(&[550], |b| b.watchdog_thresh(Duration::ZERO));
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let gate = hold(&q, 550);
    pass(&rt, 1000);
    rt.set_watchdog_thresh(SECOND * 10);
    assert_eq!(rt.watchdog_thresh(), SECOND * 10);
    // What was before does not count.
    pass(&rt, 10);
    pass(&rt, 10);
    let line = wait_for_stall(550);
    assert!(line.contains("stalled for 1020s"), "{line}");
    assert_eq!(stalls(550).len(), 1);
    gate.open();
    q.flush().unwrap();
}

#[test]
fn s12_04_an_unbound_pool_is_watched_too() {
    let fails = Arc::new(AtomicBool::new(false));
    let rt = watched(&[560, 561], |b| b.threads_by(fails_while(&fails)));
    let q = rt.queue("wide").flags(UNBOUND).build().unwrap();
    fails.store(true, Ordering::SeqCst);
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    until("there is a manager", || rt.dump_all().contains("manager: "));
    pass(&rt, 31);
    wait_for_line("cpus=560-561 node=0 flags=0x2 nice=0");
    fails.store(false, Ordering::SeqCst);
    until("the item runs", || {
        pass(&rt, 1);
        item.runs() == 1
    });
}

#[test]
fn s12_04_a_bh_pool_is_watched_too() {
    let rt = watched(&[590], |b| b);
    let q = rt.queue("soft").flags(Flags::BH).build().unwrap();
    let gate = hold(&q, 590);
    pass(&rt, 31);
    wait_for_line("cpus=590 node=0 flags=0x1 nice=0");
    wait_for_line("kworker/bh590+soft tid=");
    gate.open();
    q.flush().unwrap();
}

/// Runs one of the tests below once more, as a process that is to end by SIGABRT.
fn aborts(test: &str) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("WORKQUEUE_TEST_CHILD", "1")
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{child:?}");
    String::from_utf8_lossy(&child.stderr).into_owned()
}

fn is_child() -> bool {
    let child = std::env::var_os("WORKQUEUE_TEST_CHILD").is_some();
    if child {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `none` is valid for reading; no core file shall be left behind.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    }
    child
}

#[test]
fn s12_04_the_process_aborts_at_the_nth_stall() {
    if !is_child() {
        let said = aborts("s12_04_the_process_aborts_at_the_nth_stall");
        assert_eq!(said.matches("workqueue: stalled for").count(), 2, "{said}");
        assert!(said.contains("as asked for at stall number 2"), "{said}");
        return;
    }
    let rt = watched(&[570], |b| b.watchdog_abort_at(2));
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let _gate = hold(&q, 570);
    pass(&rt, 31);
    wait_for_line("kworker/570:0+q ");
    pass(&rt, 30);
    std::thread::sleep(HUNG);
}

#[test]
fn s12_04_the_process_aborts_when_a_stall_lasts() {
    if !is_child() {
        let said = aborts("s12_04_the_process_aborts_when_a_stall_lasts");
        assert_eq!(said.matches("workqueue: stalled for").count(), 2, "{said}");
        assert!(said.contains("as asked for at a stall of 61s"), "{said}");
        return;
    }
    let rt = watched(&[580], |b| b.watchdog_abort_after(SECOND * 60));
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let _gate = hold(&q, 580);
    pass(&rt, 31);
    wait_for_line("kworker/580:0+q ");
    pass(&rt, 30);
    std::thread::sleep(HUNG);
}
