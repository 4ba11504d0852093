// SPDX-License-Identifier: MIT OR Apache-2.0
//! F2, F4, F5, L1: disks come and go, under I/O, by signal, by force and by accident, and leave
//! nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::Child;

use ublk_ramdisk::stats::DeviceStats;
use ublk_ramdisk::ublk::ctrl::Control;

use crate::disk::{try_add, Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, wait_for, Traces};
use crate::run::{self, need, ublk};
use crate::runner::{is_quick, Outcome, Test};
use crate::verify::fio_command;

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let mut add = |name: &str, body: fn(&str)| {
            let test = Test::new(format!("{name}_on_{path}"), move || body(path));
            tests.push(test.on_path(path));
        };
        add("l1_stop_under_io_needs_force", stop_under_io);
        add("l1_del_under_io_needs_force", del_under_io);
        add("f2_a_killed_server_takes_its_disk_along", killed);
    }
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body).anywhere());
    add("l1_unknown_and_taken_ids", ids);
    add("f5_l2_cycles_of_one_id_leak_nothing", cycles);
    add(
        "l1_sigterm_to_the_supervisor_ends_in_good_order",
        terminated,
    );
    add(
        "l1_sigterm_waits_for_users_and_a_second_does_not",
        terminated_twice,
    );
    add(
        "f23_a_server_without_its_supervisor_is_ended_by_sigterm",
        terminated_alone,
    );
    add(
        "f4_a_disk_that_is_taken_away_holds_nothing_back",
        nothing_held_back,
    );
    add(
        "e22_f4_a_stranger_removes_a_disk_that_waits_for_memory",
        removed_by_a_stranger,
    );
    add(
        "e22_a_queue_frozen_from_outside_goes_on_with_memory",
        frozen_from_outside,
    );
    add("l1_a_server_in_the_foreground_ends_with_sigint", foreground);
    add(
        "l1_clients_who_send_or_read_nothing_hold_up_nobody",
        slow_clients,
    );
    add("l1_three_dels_at_once_delete_once", three_dels);
    add("f1_stop_keeps_the_id", stop_keeps_id);
    add("l1_list_and_stats_show_every_disk", listed);
    add("l1_del_all_takes_every_disk", del_all);
    add("test_vm_16_a_closed_pipe_kills_no_server", closed_pipe);
    tests.push(Test::skippable(
        "f23_del_force_answers_though_a_request_is_lost",
        || deleted_past_a_server(a_request_is_lost),
    ));
    let name = "f23_del_force_answers_though_the_server_does_not";
    let test = Test::skippable(name, || deleted_past_a_server(a_server_is_stopped));
    tests.push(test.anywhere());
}

/// STOP_DEV waits for every request: for those too that were to be refused for hours, or to time out
/// after one.
fn nothing_held_back() {
    type IsHeld = fn(&DeviceStats) -> bool;
    let cases: [(&str, IsHeld, Option<i32>); 2] = [
        (
            "requeue=1,100,0,10000000",
            |disk| disk.queues.iter().any(|queue| queue.hctx.refused() > 0),
            None,
        ),
        (
            "timeout=1,100,0,-1",
            |disk| disk.pressure.lost > 0,
            Some(libc::ETIMEDOUT),
        ),
    ];
    for (faults, is_held, error) in cases {
        let before = Traces::now();
        let disk = Disk::add(&["--size", "8M", "--timeout", "3600"]);
        disk.set_elevator("none");
        let file = disk.open_direct();
        // Not before: some kernels read a partition table in any case.
        ublk(&["set", &disk.name(), "--inject", faults]).well();
        let client = std::thread::spawn(move || file.write_at(&Buffer::new(4096), 0));
        wait_for("a request that is held back", || is_held(&disk.stats()));
        ublk(&["del", "--force", &disk.name()]).well();
        let written = client.join().expect("no panic");
        let failed = written.err().and_then(|error| error.raw_os_error());
        assert_eq!(failed, error, "{faults}");
        disk.has_ended();
        before.assert_unchanged();
    }
}

/// fio on a disk, until the disk goes away.
struct Busy(Child);

impl Busy {
    fn on(disk: &Disk) -> Busy {
        let mut command = fio_command(disk, "endless.fio");
        let quiet = machine::scratch().join("fio");
        let out = fs::File::create(quiet).expect("a file");
        command.stderr(out.try_clone().expect("a copy")).stdout(out);
        let child = command.spawn().expect("fio is installed");
        wait_for("fio at work", || {
            let stats = disk.stats();
            stats.queues.iter().any(|queue| queue.write.requests > 100)
        });
        Busy(child)
    }

    /// It ends by itself, because its disk gives errors.
    fn fails(mut self) {
        let mut status = None;
        wait_for("fio's end", || {
            status = self.0.try_wait().expect("fio is ours");
            status.is_some()
        });
        assert!(!status.expect("it ended").success(), "fio saw no error");
    }

    fn still_runs(&mut self) {
        assert!(self.0.try_wait().expect("fio is ours").is_none());
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_gone(disk: &Disk) -> bool {
    fs::metadata(&disk.path).is_err()
}

fn state(disk: &Disk) -> String {
    let text = ublk(&["list", "--json", &disk.name()]).well();
    let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    rows[0]["state"].as_str().expect("a state").to_owned()
}

fn stop_under_io(path: &str) {
    let disk = Disk::on(path, "none", "64M", &["--queues", "2"]);
    let mut busy = Busy::on(&disk);
    ublk(&["stop", &disk.name()]).refused(4, &["fio", "--force"]);
    busy.still_runs();
    assert_eq!(state(&disk), "LIVE");
    ublk(&["stop", "--force", &disk.name()]).well();
    busy.fails();
    wait_for("the disk's end", || is_gone(&disk));
    assert_eq!(state(&disk), "DEAD");
    ublk(&["del", &disk.name()]).well();
    disk.has_ended();
}

fn del_under_io(path: &str) {
    let disk = Disk::on(path, "none", "64M", &["--queues", "2"]);
    let mut busy = Busy::on(&disk);
    ublk(&["del", &disk.name()]).refused(4, &["fio", "--force"]);
    busy.still_runs();
    ublk(&["del", "--force", &disk.name()]).well();
    busy.fails();
    wait_for("the disk's end", || is_gone(&disk));
    ublk(&["list", &disk.name()]).refused(1, &[&disk.name()]);
    disk.has_ended();
}

fn killed(path: &str) {
    let words = ["--queues", "2", "--backing", "memfd"];
    let disk = Disk::on(path, "none", "64M", &words);
    let busy = Busy::on(&disk);
    ioctl::signal(disk.pid, libc::SIGKILL);
    busy.fails();
    wait_for("the disk's end", || is_gone(&disk));
    wait_for("DEAD", || state(&disk) == "DEAD");
    ublk(&["stats", &disk.name()]).refused(1, &[&disk.name()]);
    ublk(&["del", &disk.name()]).well();
    let again = Disk::add(&["--size", "8M", "--id", &disk.name()]);
    assert_eq!(again.id, disk.id);
    disk.has_ended();
    again.end();
}

/// A disk whose writes wait for memory for ever.
fn out_of_memory(backing: &str) -> Disk {
    let limit = ["--memory-limit", "4M", "--no-space-timeout", "0"];
    Disk::add(&[&["--size", "32M", "--backing", backing][..], &limit].concat())
}

/// Writes until a write fails, or to the end of the disk. Not zeros: their memory is taken back, and
/// the writes would go on.
fn fill(file: &fs::File) -> std::io::Result<()> {
    let mut bytes = Buffer::new(MIB as usize);
    bytes.fill(1);
    (0..32).try_for_each(|n| file.write_all_at(&bytes, n * MIB))
}

/// Another program stops the disk, which waits for the writes. They end, and so does the server.
fn removed_by_a_stranger() {
    let before = Traces::now();
    // Of one that can have a new server the node stays until the requests have ended.
    let disk = out_of_memory("memfd");
    let file = disk.open_direct();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || fill(&file));
        wait_for("writes that wait", || disk.stats().space.parked > 0);
        let mut stranger = Control::open().expect("the driver");
        stranger.stop(disk.id).expect("it is stopped");
        assert!(writer.join().expect("no panic").is_err(), "it has ended");
    });
    wait_for("the end of its server", || gone(&disk));
    disk.has_ended();
    before.assert_unchanged();
}

/// A change of the scheduler freezes the queue, so that no DISCARD can bring memory. A higher limit
/// does.
fn frozen_from_outside() {
    let disk = out_of_memory("private");
    let file = disk.open_direct();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || fill(&file));
        wait_for("writes that wait", || disk.stats().space.parked > 0);
        let scheduler = scope.spawn(|| disk.set_elevator("mq-deadline"));
        wait_for("a freeze", || {
            let tasks = machine::tasks(std::process::id());
            let mut stacks = tasks.iter().map(|task| machine::read(task.join("stack")));
            stacks.any(|stack| stack.contains("freeze_queue_wait"))
        });
        ublk(&["set", &disk.name(), "--memory-limit", "off"]).well();
        writer.join().expect("no panic").expect("there is memory");
        scheduler.join().expect("it is set");
    });
    disk.end();
}

fn ids() {
    let disk = Disk::add(&["--size", "8M"]);
    try_add(&["--size", "8M", "--id", &disk.name()]).refused(4, &[&disk.name()]);
    for verb in ["del", "stop", "list", "stats"] {
        ublk(&[verb, "1048575"]).refused(1, &["1048575"]);
    }
    ublk(&["resize", "1048575", "8M"]).refused(1, &["1048575"]);
    let last = Disk::add(&["--size", "8M", "--id", "1048575"]);
    assert_eq!(last.path, "/dev/ublkb1048575");
    last.end();
    try_add(&["--size", "8M", "--id", "1048576"]).refused(2, &["1048576"]);
    disk.end();
}

fn shared_memory() -> u64 {
    let text = machine::read("/proc/meminfo");
    let line = text.lines().find(|line| line.starts_with("Shmem:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    let kibibytes: Option<u64> = number.and_then(|n| n.parse().ok());
    kibibytes.expect("a number") << 10
}

/// Names of anonymous files of ours that some process holds.
fn memfds() -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .flat_map(|process| {
            let fds = fs::read_dir(process.path().join("fd"));
            fds.into_iter().flatten().flatten()
        })
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .filter(|target| target.to_string_lossy().contains("memfd:ublk-ramdisk"))
        .count()
}

fn cycles() {
    let mut bytes = Buffer::new(2 << 20);
    bytes.fill(1);
    let cycle = |number: usize| {
        let paths = machine::data_paths();
        let path = paths[number % paths.len()];
        // The id is free when `del` returns.
        let disk = Disk::on(path, "none", "8M", &["--queues", "2", "--id", "77"]);
        assert_eq!(disk.path, "/dev/ublkb77");
        disk.open_direct().write_all_at(&bytes, 0).expect("write");
        ublk(&["del", &disk.name()]).well();
        disk.has_ended();
        machine::forget_logs();
    };
    cycle(0);
    let before = Traces::now();
    let (memory, files) = (shared_memory(), memfds());
    let times = if is_quick() { 6 } else { 20 };
    for number in 0..times {
        cycle(number);
    }
    before.assert_unchanged();
    assert_eq!(memfds(), files);
    wait_for("no memory kept: less than one of these disks", || {
        shared_memory() < memory + 2 * MIB
    });
}

/// Has the server ended, and its supervisor?
fn gone(disk: &Disk) -> bool {
    let servers = machine::servers();
    !servers.contains(&disk.pid) && !servers.contains(&disk.supervisor)
}

/// And to a server, if its disk cannot go on with another one.
fn terminated() {
    let of_the_server: fn(&Disk) -> u32 = |disk| disk.pid;
    let of_the_supervisor: fn(&Disk) -> u32 = |disk| disk.supervisor;
    for (whose, backing) in [
        (of_the_supervisor, "private"),
        (of_the_supervisor, "memfd"),
        (of_the_server, "memfd"),
    ] {
        let disk = Disk::add(&["--size", "8M", "--backing", backing]);
        ioctl::signal(whose(&disk), libc::SIGTERM);
        wait_for("the server's end", || gone(&disk));
        assert!(is_gone(&disk));
        ublk(&["list", &disk.name()]).refused(1, &[&disk.name()]);
        disk.has_ended();
    }
}

/// A server without its supervisor serves on, and is still ended by a signal when nobody uses its
/// disk.
fn terminated_alone() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M"]);
    ioctl::signal(disk.supervisor, libc::SIGKILL);
    wait_for("the supervisor's end", || {
        !machine::servers().contains(&disk.supervisor)
    });
    let user = disk.open();
    ioctl::signal(disk.pid, libc::SIGTERM);
    let told = || machine::server_logs().contains("the supervisor has gone");
    wait_for("the server's word", told);
    assert!(!is_gone(&disk), "it is in use");
    drop(user);
    wait_for("the server's end", || gone(&disk));
    disk.has_ended();
    before.assert_unchanged();
}

/// A thread of the server stands still with a request, or all of them do. The deletion is sent by
/// another process, and ends the server.
fn deleted_past_a_server(stand_still: fn(&Disk) -> Option<Child>) -> Outcome {
    need(&["strace"])?;
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M"]);
    let file = disk.open_direct();
    // Not zeros: the thread of the queue itself serves a page that is there, and stays.
    let mut bytes = Buffer::new(4096);
    bytes.fill(1);
    file.write_all_at(&bytes, 0).expect("it is served");
    let mut strace = stand_still(&disk);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| file.write_at(&bytes, 0));
        wait_for("a request at the server", || {
            disk.sysfs("inflight").split_whitespace().last() == Some("1")
        });
        let del = scope.spawn(|| ublk(&["del", "--force", &disk.name()]));
        wait_for("the end of the server", || {
            !machine::servers().contains(&disk.pid)
        });
        // It would keep the thread from ending.
        if let Some(strace) = &mut strace {
            let _ = strace.kill();
        }
        let said = del.join().expect("no panic");
        assert_eq!(said.status, Some(0), "{said:?}");
        // It fails, or a new server has served it before the disk went.
        let _ = client.join().expect("no panic");
    });
    assert!(is_gone(&disk));
    wait_for("the server's end", || gone(&disk));
    if let Some(mut strace) = strace {
        strace.wait().expect("it is ours");
    }
    drop(file);
    disk.has_ended();
    before.assert_unchanged();
    Ok(())
}

fn a_request_is_lost(disk: &Disk) -> Option<Child> {
    let thread = machine::thread(disk.pid, "ublkq0").to_string();
    let traced = || {
        let status = machine::read(format!("/proc/{}/task/{thread}/status", disk.pid));
        !status.contains("TracerPid:\t0")
    };
    let calls = "pread64,pwrite64";
    let strace = run::command("strace")
        .args(["-p", &thread, "-o", "/dev/null", "-e"])
        .args([&format!("trace={calls}"), "-e"])
        .arg(format!("inject={calls}:delay_enter=3600s"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("strace starts");
    wait_for("strace", traced);
    Some(strace)
}

pub fn a_server_is_stopped(disk: &Disk) -> Option<Child> {
    ioctl::signal(disk.pid, libc::SIGSTOP);
    let is_stopped =
        |task: &std::path::PathBuf| machine::read(task.join("status")).contains("State:\tT");
    wait_for("the stop of every thread", || {
        machine::tasks(disk.pid).iter().all(is_stopped)
    });
    None
}

fn terminated_twice() {
    let disk = Disk::add(&["--size", "8M"]);
    let user = disk.open();
    // As a service manager does. It is one signal.
    for pid in [disk.pid, disk.supervisor] {
        ioctl::signal(pid, libc::SIGTERM);
    }
    let told = || {
        let log = machine::server_logs();
        log.contains("is in use")
    };
    wait_for("the server's word that it waits", told);
    assert!(!is_gone(&disk), "it is in use");
    ioctl::signal(disk.supervisor, libc::SIGTERM);
    wait_for("the server's end", || gone(&disk));
    assert!(is_gone(&disk));
    drop(user);
    disk.has_ended();
}

/// Clients that connect and send nothing, send a part, or do not read their reply.
fn slow_clients() {
    let disk = Disk::add(&["--size", "8M"]);
    let socket = machine::run_dir().join(format!("{}.sock", disk.id));
    let connect = || UnixStream::connect(&socket).expect("a server");
    let mut clients: Vec<_> = (0..80).map(|_| connect()).collect();
    for client in &mut clients[..40] {
        client.write_all(b"{").expect("sent");
    }
    // Every place is taken by now, and comes back.
    disk.stats();
    let mut deaf = connect();
    deaf.write_all(b"{\"op\":\"stats\"}\n").expect("sent");
    ioctl::signal(disk.supervisor, libc::SIGTERM);
    wait_for("the server's end", || gone(&disk));
    assert!(is_gone(&disk));
    drop((clients, deaf));
    disk.has_ended();
}

fn three_dels() {
    for _ in 0..2 {
        let disk = Disk::add(&["--size", "8M"]);
        let name = disk.name();
        let del = || ublk(&["del", &name]);
        let all = std::thread::scope(|scope| {
            let dels = [0; 3].map(|_| scope.spawn(del));
            dels.map(|one| one.join().expect("no panic"))
        });
        assert!(all.iter().any(|said| said.status == Some(0)), "{all:?}");
        for said in all.iter().filter(|said| said.status != Some(0)) {
            said.refused(1, &["there is no ublk device"]);
        }
        assert!(is_gone(&disk));
        disk.has_ended();
    }
}

fn foreground() {
    let out = machine::scratch().join("foreground");
    let file = fs::File::create(&out).expect("a file");
    let mut child = run::command(run::PROGRAM)
        .args(["add", "--json", "--foreground", "--size", "8M"])
        .stdout(file)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    wait_for("the disk", || machine::read(&out).ends_with('}'));
    let disk = Disk::from_json(&machine::read(&out));
    assert_eq!(disk.supervisor, child.id());
    disk.assert_at_rest();
    ioctl::signal(child.id(), libc::SIGINT);
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "an orderly stop");
    assert!(is_gone(&disk));
    disk.has_ended();
}

fn stop_keeps_id() {
    let disk = Disk::add(&["--size", "8M"]);
    ublk(&["stop", &disk.name()]).well();
    assert!(is_gone(&disk));
    assert_eq!(state(&disk), "DEAD");
    let has_ended = !machine::servers().contains(&disk.pid);
    assert!(has_ended, "the server has ended");
    ublk(&["stop", &disk.name()]).well();
    try_add(&["--size", "8M", "--id", &disk.name()]).refused(4, &[&disk.name()]);
    // The refusal takes nothing away: it is still known whose the id is.
    ublk(&["del", "--all"]).well();
    assert!(!machine::nodes_of(&disk.name()));
    disk.has_ended();
}

fn listed() {
    let disks = [
        Disk::add(&["--size", "8M"]),
        Disk::add(&["--size", "16M", "--read-only"]),
    ];
    let text = ublk(&["list", "--json"]).well();
    let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for disk in &disks {
        let row = rows.as_array().expect("rows").iter();
        let row = row.clone().find(|row| row["id"] == disk.id).expect("a row");
        assert_eq!(row["path"], *disk.path);
        assert_eq!(row["state"], "LIVE");
        assert_eq!(row["pid"], disk.pid);
        assert_eq!(row["ours"], true);
    }
    let plain = ublk(&["list"]).well();
    assert!(disks.iter().all(|disk| plain.contains(&disk.path)));
    let stats = ublk(&["stats", "--json"]).well();
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    let ids: BTreeSet<u64> = stats
        .as_array()
        .expect("disks")
        .iter()
        .map(|one| one["id"].as_u64().expect("an id"))
        .collect();
    assert_eq!(ids, disks.iter().map(|disk| u64::from(disk.id)).collect());
    for disk in disks {
        disk.end();
    }
}

fn del_all() {
    let disks: Vec<Disk> = (0..3).map(|_| Disk::add(&["--size", "8M"])).collect();
    ublk(&["stop", &disks[1].name()]).well();
    ublk(&["del", "--all"]).well();
    for disk in disks {
        assert!(is_gone(&disk));
        disk.has_ended();
    }
}

fn closed_pipe() {
    let log = machine::log_path();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = run::command(run::PROGRAM)
        .args(["add", "--json", "--size", "8M", "--id", "78", "--log"])
        .arg(log)
        .stdout(writer)
        .status()
        .expect("it starts");
    assert_eq!(status.code(), Some(0));
    ublk(&["stats", "78"]).well();
    ublk(&["del", "78"]).well();
}
