// SPDX-License-Identifier: MIT OR Apache-2.0
//! I10: a new server takes over the disk of one that lives, and no client sees it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::disk::Disk;
use crate::ioctl;
use crate::machine::{self, tmpfs_path, wait_for, Traces};
use crate::recovery::{assert_holds, ended_under_a_writer, fill, listed, next_server};
use crate::run::{command, ublk, PROGRAM};
use crate::runner::Test;

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let name = format!("i10_no_client_sees_an_upgrade_on_{path}");
        let upgraded = move || ended_under_a_writer(path, "upgrade", 3, &[], upgrade);
        let test = Test::new(name, upgraded);
        tests.push(test.on_path(path));
        let name = format!("i10_what_is_set_and_what_waits_survive_an_upgrade_on_{path}");
        let test = Test::new(name, move || waiting(path));
        tests.push(test.on_path(path));
    }
    let mut add = |name: &str, body: fn()| tests.push(Test::new(name, body));
    add("i10_sigterm_to_a_server_brings_the_next_one", signaled);
    add("i10_a_disk_that_cannot_be_handed_over_stays", refused);
    add("i10_a_new_server_that_fails_is_tried_again", tried_again);
}

fn server(disk: &Disk) -> u32 {
    listed(disk)["pid"].as_u64().expect("a server") as u32
}

/// Returns when the new server serves, with a supervisor of its own; the former ones have ended.
#[track_caller]
pub fn upgrade(disk: &Disk) {
    let former = server(disk);
    let supervisor = machine::parent(former);
    assert_eq!(ublk(&["upgrade", &disk.name()]).well().trim(), disk.path);
    assert_ne!(server(disk), former);
    for pid in [former, supervisor] {
        wait_for("the end of the former", || {
            !machine::servers().contains(&pid)
        });
    }
    assert_eq!(listed(disk)["restarts"], 0, "nothing has died");
}

fn signaled() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M"]);
    fill(&disk, 4);
    let user = disk.open();
    ioctl::signal(disk.pid, libc::SIGTERM);
    next_server(&disk, disk.pid);
    assert_holds(&disk, 4);
    assert_eq!(machine::parent(server(&disk)), disk.supervisor);
    assert_eq!(listed(&disk)["restarts"], 0, "nothing has died");
    drop(user);
    disk.end();
    before.assert_unchanged();
}

/// A request that the old server has refused is served by the new one, once that does not refuse it.
fn waiting(path: &str) {
    let disk = Disk::add(&["--size", "8M", "--slots", "2", "--data-path", path]);
    fill(&disk, 5);
    let refuse = ["--inject", "requeue=1,100,0,10000000"];
    ublk(&[&["set", &disk.name()], &refuse[..]].concat()).well();
    let program = listed(&disk)["program"].clone();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| assert_holds(&disk, 5));
        wait_for("a request that waits", || {
            let queues = disk.stats().queues;
            queues.iter().any(|queue| queue.hctx.refused() > 0)
        });
        upgrade(&disk);
        let shown = ublk(&["set", &disk.name()]).well();
        assert!(shown.contains("slots 2"), "{shown}");
        assert!(shown.contains("rule 'requeue: "), "{shown}");
        ublk(&["set", &disk.name(), "--inject", "requeue=off"]).well();
        reader.join().expect("it has read what was written");
    });
    assert_eq!(program, env!("CARGO_PKG_VERSION"));
    disk.end();
}

fn refused() {
    let before = Traces::now();
    let memfd = Disk::add(&["--size", "8M", "--backing", "memfd"]);
    ublk(&["upgrade", &memfd.name()]).refused(1, &["goes with its server", "--backing"]);
    assert_eq!(server(&memfd), memfd.pid);
    memfd.end();

    // That of a newer program.
    let disk = Disk::add(&["--size", "8M"]);
    let state = machine::run_dir().join(format!("{}.json", disk.id));
    let right = fs::read_to_string(&state).expect("a state file");
    let mut newer: serde_json::Value = serde_json::from_str(&right).expect("JSON");
    newer["version"] = 1000.into();
    fs::write(&state, newer.to_string()).expect("written");
    ublk(&["upgrade", &disk.name()]).refused(1, &["version 1000"]);
    assert_eq!(server(&disk), disk.pid);
    fs::write(&state, right).expect("written");

    ublk(&["stop", &disk.name()]).well();
    ublk(&["upgrade", &disk.name()]).refused(1, &["no server", "recover"]);
    assert_eq!(ublk(&["upgrade", "--all"]).well(), "");
    ublk(&["del", &disk.name()]).well();
    disk.has_ended();

    let mut foreground = command(PROGRAM)
        .args(["add", "--foreground", "--size", "8M", "--id", "77"])
        .spawn()
        .expect("it starts");
    wait_for("its state file", || ublk(&["set", "77"]).status == Some(0));
    ublk(&["upgrade", "77"]).refused(4, &["foreground"]);
    ublk(&["del", "77"]).well();
    foreground.wait().expect("it is ours");
    before.assert_unchanged();
}

/// The former server has ended by then: the new supervisor goes on until a server can take up the disk.
fn tried_again() {
    let before = Traces::now();
    let file = tmpfs_path("tried-again");
    let backing = format!("tmpfs:{file}");
    let disk = Disk::add(&["--size", "8M", "--backing", &backing]);
    fill(&disk, 6);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    ublk(&["upgrade", &disk.name()]).refused(3, &[&file]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
    wait_for("a server", || listed(&disk)["state"] == "LIVE");
    assert_holds(&disk, 6);
    disk.end();
    fs::remove_file(&file).expect("removed");
    before.assert_unchanged();
}
