// SPDX-License-Identifier: MIT OR Apache-2.0
//! I3, I4, I5, I8, I15 to I19: a server is killed, another takes up its disk, and no client sees it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ublk_ramdisk::ublk::ctrl::Control;

use crate::disk::{try_add, Disk, MIB};
use crate::environment::Sysctl;
use crate::filesystems::Mounted;
use crate::ioctl::{self, Buffer};
use crate::machine::{self, tmpfs_path, wait_for, Traces};
use crate::run::{command, need, tool, ublk, Said, PROGRAM};
use crate::runner::{number, Outcome, Skip, Test};
use crate::writer::Writer;

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let name =
            format!("i03_i05_no_acknowledged_block_is_lost_when_the_server_is_killed_on_{path}");
        let killed = move || ended_under_a_writer(path, "kill", 5, &[], |disk| _ = kill(disk));
        let test = Test::new(name, killed);
        tests.push(test.on_path(path));
    }
    if machine::offers("BATCH_IO") {
        let name =
            "i03_g17_no_acknowledged_block_is_lost_when_the_server_is_killed_on_batch-buffer";
        tests.push(Test::new(name, || {
            ended_under_a_writer("batch-buffer", "kill", 2, &[], |disk| _ = kill(disk));
        }));
    }
    let name = "i08_a_server_that_has_every_tag_is_replaced";
    tests.push(Test::new(name, || {
        let path = machine::data_paths().pop().expect("one");
        // As many as the writer has threads.
        ended_under_a_writer(path, "full", 2, &["--depth", "4"], kill_with_every_tag);
    }));
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body));
    add("i13_i18_the_store_is_no_longer_mounted", not_mounted);
    add("i16_what_was_set_is_in_force_after_a_crash", settings);
    add(
        "i17_three_deaths_without_a_request_stop_the_disk",
        three_deaths,
    );
    add("i19_recover_takes_up_what_nobody_serves", by_hand);
    add("f04_a_stop_by_force_flushes_the_page_cache", flushed);
    add("i18_a_disk_that_nobody_can_take_up_is_stopped", nobody);
    add("i18_list_says_that_a_disk_waits", waits);
    add("i16_i19_what_does_not_fit_the_disk_is_refused", unfit);
    add("i16_what_cannot_be_written_is_not_set", no_room);
    add(
        "i15_a_server_that_dies_while_the_end_is_asked_for_is_replaced",
        dies_while_asked,
    );
    add("i19_recover_all_passes_by_a_disk_that_is_open", all);
    add(
        "i13_i19_what_a_stranger_deletes_is_kept",
        deleted_by_a_stranger,
    );
    let name = "l2_a_disk_that_is_deleted_while_its_server_begins_leaves_nothing";
    tests.push(Test::skippable(name, begins_while_deleted));
    let name = "i3_freezing_all_processes_loses_nothing";
    tests.push(Test::skippable(name, frozen));
    let name = "i20_a_shutdown_ends_the_users_of_a_disk_within_90_s";
    tests.push(Test::skippable(name, shutdown));
}

pub fn listed(disk: &Disk) -> serde_json::Value {
    let text = ublk(&["list", "--json", &disk.name()]).well();
    let mut rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    rows[0].take()
}

/// The number of the server that the disk has now.
#[track_caller]
pub fn server_of(disk: &Disk) -> u32 {
    listed(disk)["pid"].as_u64().expect("a server") as u32
}

/// Waits until the disk has a server that is not `former`, and returns its number.
#[track_caller]
pub fn next_server(disk: &Disk, former: u32) -> u32 {
    let mut server = None;
    wait_for("the next server", || {
        let row = listed(disk);
        let pid = row["pid"].as_u64().map(|pid| pid as u32);
        // A driver may say LIVE for a moment after the former one has ended.
        server = pid.filter(|&pid| pid != former && row["state"] == "LIVE");
        server.is_some()
    });
    server.expect("it was waited for")
}

/// Kills the server, and waits for the next one, whose number it returns.
pub fn kill(disk: &Disk) -> u32 {
    let before = listed(disk);
    let server = before["pid"].as_u64().expect("a server") as u32;
    ioctl::signal(server, libc::SIGKILL);
    let next = next_server(disk, server);
    let now = listed(disk);
    assert!(now["restarts"].as_u64() > before["restarts"].as_u64());
    assert_eq!(now["last_end"], "SIGKILL");
    next
}

/// Each block holds what was acknowledged last, or what was issued after that, though the server has ended
/// several times, as `end` does it. `how` is the word for that in the row for doc/kills.md.
pub fn ended_under_a_writer(
    path: &str,
    how: &str,
    times: u64,
    words: &[&str],
    end: impl Fn(&Disk),
) {
    let before = Traces::now();
    let disk = Disk::add(&[&["--size", "20M", "--data-path", path], words].concat());
    let mut writer = Writer::start(&disk, 16 * MIB / 4096, 4);
    let times = number("UBLK_TEST_KILLS", times, times);
    for _ in 0..times {
        writer.goes_on(200);
        end(&disk);
    }
    writer.goes_on(200);
    writer.stop();
    assert_eq!(writer.wrong_blocks(Path::new(&disk.path)), [""; 0]);
    let (kernel, requests) = (machine::kernel(), writer.acknowledged());
    println!("ROW {kernel} {path} {how} {times} {requests}");
    drop(writer);
    disk.end();
    before.assert_unchanged();
}

/// No tag is with the driver, which notices the death by the timeout of a request on older kernels.
fn kill_with_every_tag(disk: &Disk) {
    let set = |fault| ublk(&["set", &disk.name(), "--inject", fault]).well();
    set("delay=500ms");
    wait_for("every tag at the server", || {
        let queue = &disk.stats().queues[0];
        queue.inserted == queue.ended + 4
    });
    kill(disk);
    set("delay=off");
}

/// As for a suspend, which the guest's own devices then refuse. A client that waits for a request cannot be
/// frozen, if the server was before it: then nothing is, and the machine does not suspend.
fn frozen() -> Outcome {
    if !machine::is_guest() {
        return Err(Skip("this machine would be suspended".into()));
    }
    let before = Traces::now();
    let disk = Disk::add(&["--size", "20M"]);
    let mut writer = Writer::start(&disk, 16 * MIB / 4096, 4);
    let _short = Sysctl::set("/sys/power/pm_freeze_timeout", "1000");
    for _ in 0..3 {
        writer.goes_on(100);
        fs::write("/sys/power/state", "freeze").expect_err("the guest's devices stay awake");
    }
    writer.goes_on(100);
    writer.stop();
    assert_eq!(writer.wrong_blocks(Path::new(&disk.path)), [""; 0]);
    drop(writer);
    disk.end();
    before.assert_unchanged();
    Ok(())
}

/// The contents end with the last process that has them open. Each server after that says what is missing.
fn not_mounted() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M", "--recovery-timeout", "1s"]);
    let store = machine::run_dir().join("store");
    let store = store.to_str().expect("text");
    fill(&disk, 7);
    tool(&["umount", "--lazy", store]).well();
    assert_holds(&disk, 7);
    ioctl::signal(disk.pid, libc::SIGKILL);
    wait_for("DEAD", || listed(&disk)["state"] == "DEAD");
    assert!(machine::server_logs().contains(store));
    let said = try_recover(&[&disk.name()]);
    said.refused(said.status.expect("a status"), &[store]);
    ublk(&["del", &disk.name()]).well();
    disk.has_ended();
    before.assert_unchanged();
}

fn settings() {
    let disk = Disk::add(&["--size", "16M"]);
    let mut bytes = Buffer::new(MIB as usize);
    bytes.fill(7);
    disk.open_direct().write_all_at(&bytes, MIB).expect("write");
    ublk(&["set", &disk.name(), "--slots", "4"]).well();
    let size = match machine::offers("UPDATE_SIZE") {
        true => 8 * MIB,
        false => 16 * MIB,
    };
    if size < 16 * MIB {
        ublk(&["resize", &disk.name(), "8M"]).well();
    }
    kill(&disk);
    assert!(ublk(&["set", &disk.name()]).well().contains("slots 4"));
    assert_eq!(disk.stats().size, size);
    let mut found = Buffer::new(MIB as usize);
    disk.open_direct()
        .read_exact_at(&mut found, MIB)
        .expect("read");
    assert!(found[..] == bytes[..], "what was acknowledged is there");
    disk.end();
}

/// The supervisor has been told to end the disk and waits for its user, whom it serves meanwhile.
fn dies_while_asked() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M"]);
    fill(&disk, 2);
    let user = disk.open_direct();
    ioctl::signal(disk.supervisor, libc::SIGTERM);
    wait_for("the word that it waits", || {
        machine::server_logs().contains("is in use")
    });
    kill(&disk);
    assert_holds(&disk, 2);
    drop(user);
    wait_for("the end of the disk", || {
        fs::metadata(&disk.path).is_err() && !machine::servers().contains(&disk.supervisor)
    });
    disk.has_ended();
    before.assert_unchanged();
}

/// The disk is LIVE, and its new server does not listen yet: `del` waits for it, else what it still writes
/// would be left.
fn begins_while_deleted() -> Outcome {
    need(&["strace"])?;
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M"]);
    let mut strace = command("strace")
        .args(["-f", "-p", &disk.supervisor.to_string(), "-o", "/dev/null"])
        .args(["-e", "trace=bind", "-e", "inject=bind:delay_enter=1s"])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace starts");
    wait_for("strace", || {
        let status = machine::read(format!("/proc/{}/status", disk.supervisor));
        !status.contains("TracerPid:\t0")
    });
    ioctl::signal(disk.pid, libc::SIGKILL);
    next_server(&disk, disk.pid);
    ublk(&["del", &disk.name()]).well();
    strace.wait().expect("it ends with the supervisor");
    disk.has_ended();
    before.assert_unchanged();
    Ok(())
}

/// The run directory is full: nothing is set, and the disk survives its server all the same.
fn no_room() {
    let place = machine::run_dir();
    fs::create_dir_all(&place).expect("a folder");
    let path = place.to_str().expect("text");
    tool(&[
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=64k,mode=755",
        "none",
        path,
    ])
    .well();
    let disk = Disk::add(&["--size", "8M"]);
    fill(&disk, 8);
    let filler = place.join("filler");
    fs::write(&filler, [1; 1 << 17]).expect_err("no room");
    ublk(&["set", &disk.name(), "--slots", "4"]).refused(3, &["No space left", path]);
    assert_eq!(ublk(&["set", &disk.name()]).well().trim(), "none");
    ioctl::signal(disk.pid, libc::SIGKILL);
    next_server(&disk, disk.pid);
    assert_holds(&disk, 8);
    fs::remove_file(filler).expect("removed");
    ublk(&["set", &disk.name(), "--slots", "4"]).well();
    disk.end();
    tool(&["umount", path]).well();
}

fn three_deaths() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M", "--no-partition-scan"]);
    // Each as soon as it serves, however slow the machine: three of them die within the time.
    wait_for("the end of the disk", || {
        let row = listed(&disk);
        let server = row["pid"].as_u64().map(|pid| pid as u32);
        if let Some(pid) = server.filter(|pid| machine::servers().contains(pid)) {
            ioctl::signal(pid, libc::SIGKILL);
        }
        fs::metadata(&disk.path).is_err()
    });
    wait_for("DEAD", || listed(&disk)["state"] == "DEAD");
    assert!(machine::server_logs().contains("its contents are kept"));
    recover(&disk);
    disk.end();
    before.assert_unchanged();
}

/// The file is gone: each new server fails, until clients have waited long enough.
fn nobody() {
    let before = Traces::now();
    let file = tmpfs_path("nobody");
    let backing = format!("tmpfs:{file}");
    let words = ["--size", "8M", "--recovery-timeout", "1s", "--backing"];
    let disk = Disk::add(&[&words[..], &[&backing]].concat());
    let client = disk.open_direct();
    fs::remove_file(file).expect("removed");
    ioctl::signal(disk.pid, libc::SIGKILL);
    let read = client.read_at(&mut Buffer::new(4096), 0);
    assert!(!matches!(read, Ok(1..)), "the disk is gone: {read:?}");
    drop(client);
    wait_for("DEAD", || listed(&disk)["state"] == "DEAD");
    ublk(&["del", &disk.name()]).well();
    disk.has_ended();
    before.assert_unchanged();
}

pub fn try_recover(words: &[&str]) -> Said {
    let log = machine::log_path();
    let log = ["--log", log.to_str().expect("text")];
    ublk(&[&["recover"], words, &log].concat())
}

pub fn recover(disk: &Disk) {
    let said = try_recover(&[&disk.name()]);
    if said.status != Some(0) {
        // Else its clients would wait for ever, and this test for them.
        ublk(&["stop", "--force", &disk.name()]);
    }
    assert_eq!(said.well().trim(), disk.path);
}

/// Server and supervisor are killed: the disk waits until `recover`, or is made anew once stopped.
fn by_hand() {
    let before = Traces::now();
    let file = tmpfs_path("by-hand");
    for backing in ["private", &format!("tmpfs:{file}")] {
        by_hand_on(backing);
    }
    fs::remove_file(file).expect("removed");
    before.assert_unchanged();
}

fn by_hand_on(backing: &str) {
    let disk = Disk::add(&["--size", "8M", "--backing", backing]);
    let mut bytes = Buffer::new(4096);
    bytes.fill(9);
    let client = disk.open_direct();
    client.write_all_at(&bytes, 4096).expect("write");
    kill_both(&disk);
    let mut found = Buffer::new(4096);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| client.read_exact_at(&mut found, 4096));
        recover(&disk);
        read.join().expect("no panic").expect("it waited");
    });
    assert!(found[..] == bytes[..], "what was acknowledged is there");
    drop(client);
    recover_is_idle(&disk);
    ublk(&["stop", &disk.name()]).well();
    recover(&disk);
    disk.open_direct()
        .read_exact_at(&mut found, 4096)
        .expect("read");
    assert!(found[..] == bytes[..], "what was acknowledged is there");
    disk.end();
}

/// Kills server and supervisor. Until the first is killed, the second changes nothing.
fn kill_both(disk: &Disk) {
    let server = server_of(disk);
    for pid in [machine::parent(server), server] {
        ioctl::signal(pid, libc::SIGKILL);
        wait_for("its end", || !machine::servers().contains(&pid));
        if pid != server {
            assert_eq!(listed(disk)["state"], "LIVE");
        }
    }
    wait_for("QUIESCED", || listed(disk)["state"] == "QUIESCED");
}

/// What the page cache holds is not lost by a stop by force.
fn flushed() {
    let disk = Disk::add(&["--size", "8M"]);
    let mut bytes = Buffer::new(4096);
    bytes.fill(5);
    let client = disk.open();
    client
        .write_all_at(&bytes, 0)
        .expect("written to the cache");
    ublk(&["stop", "--force", &disk.name()]).well();
    drop(client);
    recover(&disk);
    let mut found = Buffer::new(4096);
    disk.open_direct()
        .read_exact_at(&mut found, 0)
        .expect("read");
    assert!(found[..] == bytes[..], "it went through the server");
    disk.end();
}

/// A disk that is served is left alone.
fn recover_is_idle(disk: &Disk) {
    assert_eq!(ublk(&["recover", &disk.name()]).well(), "");
}

pub fn fill(disk: &Disk, byte: u8) {
    let mut bytes = Buffer::new(4096);
    bytes.fill(byte);
    disk.open_direct().write_all_at(&bytes, 0).expect("write");
}

#[track_caller]
pub fn assert_holds(disk: &Disk, byte: u8) {
    let mut found = Buffer::new(4096);
    let client = disk.open_direct();
    client.read_exact_at(&mut found, 0).expect("read");
    assert!(found.iter().all(|&is| is == byte), "it is lost");
}

/// While each new server fails, `list` says that the disk waits. A stop by force ends that.
fn waits() {
    let before = Traces::now();
    let file = tmpfs_path("waits");
    let backing = format!("tmpfs:{file}");
    let disk = Disk::add(&["--size", "8M", "--backing", &backing]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    ioctl::signal(disk.pid, libc::SIGKILL);
    let note = format!("{} waits for a server since 2", disk.path);
    wait_for("the note", || {
        ublk(&["list", &disk.name()]).well().contains(&note)
    });
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
    wait_for("a server", || listed(&disk)["state"] == "LIVE");
    let row = listed(&disk);
    assert!(row["waited_ms"].as_u64() > Some(0), "{row}");
    assert!(row["waits_since"].is_null(), "{row}");
    assert_eq!(disk.stats().restarts, 1);
    let text = ublk(&["stats", &disk.name()]).well();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(
        words.join(" ").contains("restarts: 1; counted since 2"),
        "{text}"
    );
    disk.end();
    fs::remove_file(&file).expect("removed");
    before.assert_unchanged();
}

/// The state file, or the store, is not what the disk had: `recover` says so, and changes nothing.
fn unfit() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M"]);
    fill(&disk, 3);
    kill_both(&disk);
    let state = machine::run_dir().join(format!("{}.json", disk.id));
    let store = machine::run_dir().join("store").join(disk.name());
    let right = fs::read_to_string(&state).expect("a state file");
    let mut other: serde_json::Value = serde_json::from_str(&right).expect("JSON");
    let mut with = |key: &str, number: u64| {
        let was = std::mem::replace(&mut other[key], number.into());
        let text = other.to_string();
        other[key] = was;
        text
    };
    let texts = [
        (String::new(), "cannot be read"),
        ("{".to_owned(), "cannot be read"),
        (with("version", 1000), "version 1000"),
        (with("queues", 7), "another program"),
    ];
    let refused = |part: &str| {
        let said = try_recover(&[&disk.name()]);
        assert!(matches!(said.status, Some(1 | 3)), "{said:?}");
        said.refused(said.status.expect("a status"), &[part]);
        assert_eq!(listed(&disk)["state"], "QUIESCED");
    };
    for (text, part) in texts {
        fs::write(&state, text).expect("written");
        refused(part);
    }
    fs::write(&state, right).expect("written");
    fs::set_permissions(&store, fs::Permissions::from_mode(0o644)).expect("ours");
    refused(store.to_str().expect("text"));
    fs::set_permissions(&store, fs::Permissions::from_mode(0o600)).expect("ours");
    let aside = store.with_extension("aside");
    fs::rename(&store, &aside).expect("renamed");
    refused(store.to_str().expect("text"));
    fs::rename(&aside, &store).expect("renamed");
    recover(&disk);
    assert_holds(&disk, 3);
    disk.end();
    before.assert_unchanged();
}

/// One disk waits, another is stopped and open, a third is served.
fn all() {
    let before = Traces::now();
    let disks = [0, 1, 2].map(|_| Disk::add(&["--size", "8M"]));
    let [waiting, open, served] = &disks;
    fill(waiting, 1);
    fill(open, 2);
    let client = open.open();
    ublk(&["stop", "--force", &open.name()]).well();
    kill_both(waiting);
    let said = try_recover(&["--all"]);
    assert_eq!(said.status, Some(4), "{said:?}");
    said.has_one_line();
    assert!(said.err.contains("still open"), "{said:?}");
    assert_eq!(said.out.trim(), waiting.path);
    drop(client);
    assert_eq!(try_recover(&["--all"]).well().trim(), open.path);
    assert_eq!(try_recover(&["--all"]).well(), "");
    assert_holds(waiting, 1);
    assert_holds(open, 2);
    assert_eq!(served.stats().restarts, 0);
    disks.into_iter().for_each(Disk::end);
    before.assert_unchanged();
}

/// The contents stay until somebody says what becomes of them; no new disk takes their place.
fn deleted_by_a_stranger() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M"]);
    fill(&disk, 5);
    let delete = || {
        let mut stranger = Control::open().expect("the driver");
        stranger.stop(disk.id).expect("it is stopped");
        let deleted = stranger.delete_within(disk.id, Duration::from_secs(5));
        assert!(deleted.expect("it is deleted"), "nobody uses it");
        wait_for("the end of its server", || {
            machine::servers() == *before.servers()
        });
    };
    delete();
    let row = listed(&disk);
    assert_eq!(
        (&row["state"], &row["size"]),
        (&"GONE".into(), &(8 * MIB).into())
    );
    let text = ublk(&["list"]).well();
    assert!(text.contains("contents are kept"), "{text}");
    let words = ["--size", "8M", "--id", &disk.name()];
    try_add(&words).refused(4, &["contents", "recover", "del"]);
    let other = Disk::add(&["--size", "8M"]);
    assert_ne!(other.id, disk.id);
    other.end();
    recover(&disk);
    assert_holds(&disk, 5);
    delete();
    ublk(&["del", &disk.name()]).well();
    disk.has_ended();
    before.assert_unchanged();
}

/// Process 1 of a PID namespace asks every process there to end, as that of the machine does at a
/// shutdown. A mounted disk is stopped by force.
fn shutdown() -> Outcome {
    need(&["unshare", "bash", "mkfs.ext4"])?;
    let before = Traces::now();
    let log = machine::log_path();
    let add = format!("{PROGRAM} add --size 16M --log {}", log.display());
    // No other process there is left: it can be signaled no more.
    let script = format!("{add}; read; kill -TERM -1; while kill -0 -1; do sleep 0.1; done");
    let namespace = command("unshare")
        .args(["--pid", "--fork", "--kill-child", "bash", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut namespace = namespace.expect("it starts");
    let mut path = String::new();
    let said = namespace.stdout.take().expect("piped");
    BufReader::new(said).read_line(&mut path).expect("a path");
    let path = path.trim();
    tool(&["mkfs.ext4", "-q", path]).well();
    let mounted = Mounted::at(path);
    fs::write(mounted.0.join("file"), "written").expect("written");
    let asked = Instant::now();
    drop(namespace.stdin.take());
    namespace.wait().expect("it is ours");
    let took = asked.elapsed();
    mounted.unmount();
    let all = asked.elapsed();
    assert!(all < Duration::from_secs(90), "{took:?}, {all:?}");
    assert!(machine::server_logs().contains("by force"));
    before.assert_unchanged();
    Ok(())
}
