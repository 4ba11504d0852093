// SPDX-License-Identifier: MIT OR Apache-2.0
//! I3, I4, I5, I8, I15 to I19: a server is killed, another takes up its disk, and no client sees it.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::disk::{Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, tmpfs_path, wait_for, Traces};
use crate::run::{need, ublk};
use crate::runner::{Outcome, Test};
use crate::verify::fio_command;

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let name = format!("i03_i05_fio_verifies_while_the_server_is_killed_on_{path}");
        let test = Test::skippable(name, move || killed_under_fio(path));
        tests.push(test.on_path(path));
    }
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body));
    add("i16_what_was_set_is_in_force_after_a_crash", settings);
    add(
        "i17_three_deaths_without_a_request_stop_the_disk",
        three_deaths,
    );
    add("i19_recover_takes_up_what_nobody_serves", by_hand);
    add("f04_a_stop_by_force_flushes_the_page_cache", flushed);
    add("i18_a_disk_that_nobody_can_take_up_is_stopped", nobody);
}

fn listed(disk: &Disk) -> serde_json::Value {
    let text = ublk(&["list", "--json", &disk.name()]).well();
    let mut rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    rows[0].take()
}

/// Kills the server, and waits for the next one.
fn kill(disk: &Disk) {
    let before = listed(disk);
    ioctl::signal(
        before["pid"].as_u64().expect("a server") as u32,
        libc::SIGKILL,
    );
    wait_for("the next server", || {
        let now = listed(disk);
        now["state"] == "LIVE" && now["restarts"].as_u64() > before["restarts"].as_u64()
    });
    assert_eq!(listed(disk)["last_end"], "SIGKILL");
}

fn killed_under_fio(path: &str) -> Outcome {
    need(&["fio"])?;
    let before = Traces::now();
    let disk = Disk::add(&["--size", "20M", "--data-path", path]);
    for _ in 0..3 {
        let mut fio = fio_command(&disk, "verify-direct.fio");
        let fio = fio.stdout(std::process::Stdio::null()).spawn();
        let mut fio = fio.expect("fio is installed");
        wait_for("fio at work", || {
            disk.stats()
                .queues
                .iter()
                .any(|queue| queue.write.requests > 100)
        });
        kill(&disk);
        assert!(
            fio.wait().expect("it is ours").success(),
            "fio saw an error"
        );
    }
    disk.end();
    before.assert_unchanged();
    Ok(())
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

fn three_deaths() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M", "--no-partition-scan"]);
    kill(&disk);
    kill(&disk);
    let last = listed(&disk)["pid"].as_u64().expect("a server") as u32;
    ioctl::signal(last, libc::SIGKILL);
    wait_for("the end of the disk", || fs::metadata(&disk.path).is_err());
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

fn recover(disk: &Disk) {
    let log = machine::log_path();
    let log = log.to_str().expect("text");
    let said = ublk(&["recover", &disk.name(), "--log", log]);
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
    let kill_both = || {
        let server = listed(&disk)["pid"].as_u64().expect("a server") as u32;
        let supervisor = machine::parent(server);
        ioctl::signal(supervisor, libc::SIGKILL);
        ioctl::signal(server, libc::SIGKILL);
        wait_for("their end", || {
            let alive = machine::servers();
            !alive.contains(&server) && !alive.contains(&supervisor)
        });
    };
    kill_both();
    wait_for("QUIESCED", || listed(&disk)["state"] == "QUIESCED");
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
