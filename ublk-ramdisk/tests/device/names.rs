// SPDX-License-Identifier: MIT OR Apache-2.0
//! I21, I22: a disk with a name, as commands, udev, lsblk and ps know it, and as a service.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use crate::disk::{try_add, Disk};
use crate::ioctl;
use crate::machine::{self, read, wait_for, Traces};
use crate::recovery::{assert_holds, fill, kill, listed};
use crate::run::{command, need, tool, ublk, PROGRAM};
use crate::runner::{Outcome, Skip, Test};

const RULE: &str = include_str!("../../package/60-ublk-ramdisk.rules");
const UDEVD: &str = "/usr/lib/systemd/systemd-udevd";

pub fn tests(tests: &mut Vec<Test>) {
    let name = "i21_a_name_leads_to_its_disk_until_that_is_deleted";
    tests.push(Test::skippable(name, named));
    let name = "i21_a_name_outlives_server_supervisor_and_stop";
    tests.push(Test::new(name, kept));
    let name = "i22_a_service_takes_up_its_disk_and_keeps_its_contents";
    tests.push(Test::new(name, service));
}

/// udev with the package's rule, for the program under test. Ends with the value.
struct Udev(Child);

impl Udev {
    fn start() -> Result<Udev, Skip> {
        need(&["udevadm", "lsblk"])?;
        if !Path::new(UDEVD).exists() || Path::new("/run/udev/control").exists() {
            return Err(Skip("no udev, or one that runs already".to_owned()));
        }
        let run_dir = machine::run_dir();
        let asked = format!(
            "/usr/bin/env UBLK_RAMDISK_RUN_DIR={} {PROGRAM} udev",
            run_dir.display()
        );
        let rule = RULE.replace("/usr/bin/ublk-ramdisk udev", &asked);
        assert!(rule.contains(&asked));
        fs::create_dir_all("/run/udev/rules.d").expect("a folder");
        fs::write("/run/udev/rules.d/60-ublk-ramdisk.rules", rule).expect("written");
        let udev = Udev(command(UDEVD).spawn().expect("it starts"));
        wait_for("udev", || {
            tool(&["udevadm", "control", "--ping"]).status == Some(0)
        });
        Ok(udev)
    }
}

impl Drop for Udev {
    fn drop(&mut self) {
        ioctl::signal(self.0.id(), libc::SIGTERM);
        let _ = self.0.wait();
        let _ = fs::remove_dir_all("/run/udev");
    }
}

/// What `ps` shows of a process.
fn title(pid: u32) -> String {
    let line = read(format!("/proc/{pid}/cmdline"));
    line.trim_end_matches('\0').to_owned()
}

fn named() -> Outcome {
    let _udev = Udev::start()?;
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M", "--name", "db"]);
    let other = Disk::add(&["--size", "8M"]);
    let leads =
        || fs::canonicalize("/dev/ublk-ramdisk/db").is_ok_and(|to| to == Path::new(&disk.path));
    wait_for("the link", leads);
    let shown = |path: &str| tool(&["lsblk", "-dnro", "MODEL,SERIAL", path]).well();
    assert_eq!(shown(&disk.path), "ublk-ramdisk db\n");
    wait_for("the other's model", || {
        shown(&other.path).trim() == "ublk-ramdisk"
    });
    assert_eq!(
        title(disk.pid),
        format!("ublk-ramdisk: ublkb{} db", disk.id)
    );
    assert_eq!(
        title(disk.supervisor),
        format!("ublk-supervisor: ublkb{} db", disk.id)
    );
    assert_eq!(title(other.pid), format!("ublk-ramdisk: ublkb{}", other.id));

    let taken = format!("device {} has this name", disk.id);
    let again = ["--size", "8M", "--name", "db"];
    try_add(&again).refused(4, &["--name db", &taken, "ublk-ramdisk del"]);
    ublk(&["stats", "bd"]).refused(1, &["no disk named bd", "ublk-ramdisk list"]);

    let next = kill(&disk);
    assert_eq!(title(next), format!("ublk-ramdisk: ublkb{} db", disk.id));
    ublk(&["upgrade", "db"]).well();
    // As an event finds it that comes later.
    tool(&["udevadm", "trigger", "--settle", &disk.path]).well();
    assert!(leads());
    let listed = ublk(&["list", "/dev/ublk-ramdisk/db", "-o", "NAME,DISK"]).well();
    assert_eq!(
        listed.lines().last(),
        Some(format!("db    {}", disk.path).as_str())
    );
    assert!(ublk(&["stats", "db"])
        .well()
        .starts_with(&format!("{} (db): ", disk.path)));

    ublk(&["del", "db"]).well();
    wait_for("the end of the link", || {
        !Path::new("/dev/ublk-ramdisk").exists()
    });
    let unknown = ublk(&["udev", &disk.path]);
    assert_eq!((unknown.status, unknown.out.as_str()), (Some(1), ""));
    disk.has_ended();
    other.end();
    before.assert_unchanged();
    Ok(())
}

fn kept() {
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M", "--name", "db"]);
    for pid in [disk.supervisor, disk.pid] {
        ioctl::signal(pid, libc::SIGKILL);
    }
    wait_for("the end of the server", || {
        !machine::servers().contains(&disk.pid)
    });
    let again = ["--size", "8M", "--name", "db"];
    try_add(&again).refused(4, &["--name db"]);
    wait_for("the driver", || listed(&disk)["state"] == "QUIESCED");
    assert_eq!(ublk(&["recover", "db"]).well().trim(), disk.path);
    ublk(&["stop", "db"]).well();
    try_add(&again).refused(4, &["--name db"]);
    assert_eq!(ublk(&["recover", "db"]).well().trim(), disk.path);
    assert_eq!(listed(&disk)["name"], "db");
    ublk(&["del", "db"]).well();
    disk.has_ended();
    let next = Disk::add(&again);
    next.end();
    before.assert_unchanged();
}

/// Starts the server of a unit as systemd does, and waits until it says that the disk is there.
fn start() -> Child {
    let [config, socket] = ["unit.conf", "notify"].map(|name| machine::scratch().join(name));
    fs::write(&config, "size = \"8M\"\nslots = 4\n").expect("written");
    let _former = fs::remove_file(&socket);
    let told = UnixDatagram::bind(&socket).expect("a socket");
    told.set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a time");
    let mut serve = command(PROGRAM);
    serve.args(["serve", "unit", "--config"]).arg(config);
    let server = serve.env("NOTIFY_SOCKET", &socket).spawn();
    let server = server.expect("it starts");
    let mut word = [0; 16];
    let length = told.recv(&mut word).expect("it says so");
    assert_eq!(word[..length].trim_ascii_end(), b"READY=1");
    server
}

fn service() {
    let before = Traces::now();
    let mut server = start();
    let rows = ublk(&["list", "--json", "unit"]).well();
    let rows: serde_json::Value = serde_json::from_str(&rows).expect("JSON");
    let disk = Disk::from_json(&rows[0].to_string());
    assert_eq!(disk.pid, server.id());
    assert!(ublk(&["set", "unit"]).well().contains("slots 4"));
    fill(&disk, 4);

    server.kill().expect("it lives");
    server.wait().expect("it is ours");
    wait_for("the driver", || listed(&disk)["state"] == "QUIESCED");
    let mut server = start();
    assert_holds(&disk, 4);

    // It ends with a failure, so that systemd starts the next.
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| ublk(&["upgrade", "unit"]));
        assert_eq!(server.wait().expect("it is ours").code(), Some(1));
        wait_for("the driver", || listed(&disk)["state"] == "QUIESCED");
        server = start();
        let said = upgrade.join().expect("it ends").well();
        assert_eq!(said.trim(), disk.path);
    });
    assert_holds(&disk, 4);

    let user = disk.open();
    ioctl::signal(server.id(), libc::SIGTERM);
    drop(user);
    assert!(server.wait().expect("it is ours").success());
    assert_eq!(listed(&disk)["state"], "DEAD");
    let mut server = start();
    assert_holds(&disk, 4);
    ublk(&["del", "unit"]).well();
    assert!(server.wait().expect("it is ours").success());
    disk.has_ended();
    before.assert_unchanged();
}
