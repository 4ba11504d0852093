// SPDX-License-Identifier: MIT OR Apache-2.0
//! I5, I8, I16, I19: a server is killed at a system call of its own: while it takes up the disk, while
//! something is set. strace counts the calls of each thread, and sends the signal at the n-th. I3: it is killed
//! between any two instructions, and after it was stopped for long.

use std::cell::RefCell;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::disk::{Disk, MIB};
use crate::ioctl;
use crate::machine::{self, wait_for, Traces};
use crate::recovery::{
    assert_holds, ended_under_a_writer, fill, kill, listed, next_server, recover, server_of,
    try_recover,
};
use crate::rng::Rng;
use crate::run::{command, need, tool, ublk};
use crate::runner::{number, Outcome, Test};
use crate::writer::Writer;

/// System calls of the main thread of a server from its fork until it serves, at least.
const CALLS_OF_A_START: u64 = 260;
/// How long a server is stopped before it is killed: three times the timeout of its requests. A time, as
/// nothing tells that a driver has looked at a request that is late.
const STOP: Duration = Duration::from_secs(3);
/// More than the main thread makes for a `set`.
const CALLS_OF_A_SET: u64 = 60;

pub fn tests(tests: &mut Vec<Test>) {
    let mut add = |name: &str, body: fn() -> Outcome| tests.push(Test::skippable(name, body));
    if machine::offers("QUIESCE") {
        add(
            "i05_i19_a_server_killed_at_any_call_of_its_start_is_replaced",
            at_calls_of_a_start,
        );
    }
    add(
        "i08_i19_a_second_death_before_the_first_fetch",
        before_the_fetch,
    );
    for path in machine::data_paths() {
        let mut add = |name: &str, body: fn(&str)| {
            let test = Test::new(format!("{name}_on_{path}"), move || body(path));
            tests.push(test.on_path_and_kernel(path));
        };
        add("i03_a_server_killed_between_two_instructions", at_steps);
        add("i03_a_server_killed_after_a_long_stop", after_a_stop);
    }
    let mut add = |name: &str, body: fn() -> Outcome| tests.push(Test::skippable(name, body));
    add(
        "i16_a_set_that_a_death_cuts_short_is_in_force_or_is_not",
        at_calls_of_a_set,
    );
}

/// strace at a process, and all that it starts, or at one thread.
struct Strace(Child);

impl Strace {
    fn at(pid: u32, words: &[&str]) -> Strace {
        let mut strace = command("strace");
        strace.args(words).args(["-o", "/dev/null", "-p"]);
        let child = strace.arg(pid.to_string()).stderr(Stdio::null()).spawn();
        wait_for("strace", || {
            !machine::read(format!("/proc/{pid}/status")).contains("TracerPid:\t0")
        });
        Strace(child.expect("strace starts"))
    }

    /// What it has at hand goes on.
    fn end(mut self) {
        ioctl::signal(self.0.id(), libc::SIGTERM);
        self.0.wait().expect("it is ours");
    }
}

/// How often a server has been killed, by the logs.
fn kills() -> usize {
    machine::server_logs().matches("has ended: SIGKILL").count()
}

/// Numbers from 1 to `all`: each of them, or some by chance.
fn some(all: u64, quick: u64) -> Vec<u64> {
    let count = number("UBLK_TEST_KILLS", quick, all);
    let mut rng = Rng::of(Rng::seed_of_run());
    match count >= all {
        true => (1..=all).collect(),
        false => (0..count).map(|_| 1 + rng.within(0..all)).collect(),
    }
}

/// The row for doc/kills.md, on the data path that a disk has by itself.
fn row(how: &str, times: usize, requests: u64) {
    let path = machine::data_paths().pop().expect("one");
    println!("ROW {} {path} {how} {times} {requests}", machine::kernel());
}

/// The first thread of the supervisor and of the new server that comes to its n-th call dies there, and its
/// process with it: first the supervisor, as far as its calls go, then the server at its start, then when it
/// serves. Without a supervisor `recover` takes up the disk.
fn at_calls_of_a_start() -> Outcome {
    need(&["strace"])?;
    let before = Traces::now();
    let disk = Disk::add(&["--size", "20M"]);
    let mut writer = Writer::start(&disk, 16 * MIB / 4096, 4);
    let calls = some(CALLS_OF_A_START, 3);
    for call in &calls {
        writer.goes_on(20);
        let server = server_of(&disk);
        let supervisor = machine::parent(server);
        let inject = format!("inject=all:signal=SIGKILL:when={call}");
        let strace = Strace::at(supervisor, &["-f", "-e", &inject]);
        let killed = kills();
        ioctl::signal(server, libc::SIGKILL);
        let supervised = || machine::servers().contains(&supervisor);
        wait_for("a death at a call", || {
            kills() >= killed + 2 || !supervised()
        });
        strace.end();
        let by_hand = !supervised();
        println!(
            "call {call}: {}",
            if by_hand {
                "the supervisor"
            } else {
                "the server"
            }
        );
        wait_for("a server and its supervisor", || {
            if by_hand {
                try_recover(&[&disk.name()]);
            }
            let row = listed(&disk);
            let server = row["pid"].as_u64().map_or(0, |pid| pid as u32);
            let is_there = |pid| machine::servers().contains(&pid);
            row["state"] == "LIVE" && is_there(server) && is_there(machine::parent(server))
        });
    }
    writer.goes_on(200);
    writer.stop();
    assert_eq!(writer.wrong_blocks(Path::new(&disk.path)), [""; 0]);
    row("start", calls.len(), writer.acknowledged());
    drop(writer);
    disk.end();
    before.assert_unchanged();
    Ok(())
}

/// Older drivers refuse every further server then: the disk is stopped, and `recover` makes it anew with
/// its contents. On newer ones nobody sees anything.
fn before_the_fetch() -> Outcome {
    need(&["strace"])?;
    let before = Traces::now();
    let newer = machine::offers("QUIESCE");
    let wait = if newer { "60s" } else { "3s" };
    let disk = Disk::add(&["--size", "8M", "--recovery-timeout", wait]);
    fill(&disk, 6);
    let node = format!("/dev/ublkc{}", disk.id);
    let words = ["-f", "-P", &node, "-e", "trace=openat"];
    let inject = ["-e", "inject=openat:signal=SIGKILL"];
    let strace = Strace::at(disk.supervisor, &[&words[..], &inject].concat());
    let killed = kills();
    ioctl::signal(disk.pid, libc::SIGKILL);
    wait_for("the second death", || kills() >= killed + 2);
    strace.end();
    if newer {
        next_server(&disk, disk.pid);
    } else {
        wait_for("DEAD", || listed(&disk)["state"] == "DEAD");
        assert!(machine::server_logs().contains("its contents are kept"));
        wait_for("the end of the supervisor", || {
            !machine::servers().contains(&disk.supervisor)
        });
        recover(&disk);
    }
    assert_holds(&disk, 6);
    disk.end();
    before.assert_unchanged();
    Ok(())
}

/// One thread goes on by some instructions, then all of the server dies. By chance that is any thread, or the main
/// thread while it sets or resizes something.
fn at_steps(path: &str) {
    let rng = RefCell::new(Rng::of(Rng::seed_of_run()));
    ended_under_a_writer(path, "step", 3, &[], |disk| {
        let by_chance = |all: u64| rng.borrow_mut().within(0..all);
        let server = server_of(disk);
        let (name, more) = (disk.name(), by_chance(4));
        let resized = machine::offers("UPDATE_SIZE") && by_chance(2) == 0;
        let size = (20 + more).to_string() + "M";
        let slots = (100 + more).to_string();
        let words = match resized {
            true => vec!["resize", &name, &size, "--force"],
            false => vec!["set", &name, "--slots", &slots],
        };
        let steps = 1 + by_chance(1 << by_chance(number("UBLK_TEST_STEPS", 12, 15))) as u32;
        let changes = by_chance(2) == 0;
        let thread = match changes {
            true => server,
            false => {
                let threads = threads_of(server);
                threads[by_chance(threads.len() as u64) as usize]
            }
        };
        println!("{steps} steps of thread {}, {changes}", thread - server);
        std::thread::scope(|scope| {
            let said = changes.then(|| scope.spawn(|| ublk(&words)));
            ioctl::kill_after_steps(server, thread, steps);
            next_server(disk, server);
            // A command waits for the next server, and asks again.
            if let Some(said) = said {
                said.join().expect("no panic").well();
                let found = match resized {
                    true => listed(disk)["size"].to_string(),
                    false => ublk(&["set", &name]).well(),
                };
                let wanted = match resized {
                    true => ((20 + more) * MIB).to_string(),
                    false => format!("slots {slots}"),
                };
                assert!(found.contains(&wanted), "{words:?}: {found}");
            }
        });
    });
}

/// The numbers of a server's threads.
fn threads_of(server: u32) -> Vec<u32> {
    let names = machine::tasks(server).into_iter();
    let names = names.filter_map(|task| task.file_name()?.to_str()?.parse().ok());
    names.collect()
}

/// Longer than a request may take, and than a driver waits for it.
fn after_a_stop(path: &str) {
    ended_under_a_writer(path, "stop", 1, &["--timeout", "1s"], |disk| {
        let server = server_of(disk);
        ioctl::signal(server, libc::SIGSTOP);
        std::thread::sleep(STOP);
        kill(disk);
    });
}

/// What `set` has called done is in force in the next server; if it has failed, what was in force before,
/// or what was asked for.
fn at_calls_of_a_set() -> Outcome {
    need(&["strace"])?;
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M"]);
    fill(&disk, 4);
    let (mut slots, mut server) = (1, disk.pid);
    ublk(&["set", &disk.name(), "--slots", "1"]).well();
    let calls = some(CALLS_OF_A_SET, 3);
    for call in &calls {
        let inject = format!("inject=all:signal=SIGKILL:when={call}");
        let strace = Strace::at(server, &["-e", &inject]);
        let said = ublk(&["set", &disk.name(), "--slots", &(slots + 1).to_string()]);
        strace.end();
        // A set may make fewer calls. The server may be ending already.
        tool(&["kill", "-KILL", &server.to_string()]);
        server = next_server(&disk, server);
        let found = ublk(&["set", &disk.name()]).well();
        let is = |slots: u32| found.contains(&format!("slots {slots}"));
        println!("call {call}: status {:?}, {}", said.status, found.trim());
        assert!(
            is(slots + 1) || said.status != Some(0) && is(slots),
            "{found}"
        );
        slots += u32::from(is(slots + 1));
        assert_holds(&disk, 4);
    }
    row("set", calls.len(), calls.len() as u64);
    disk.end();
    before.assert_unchanged();
    Ok(())
}
