// SPDX-License-Identifier: MIT OR Apache-2.0
//! I23: a disk that other hosts use over NVMe/TCP. This guest is the other host, too.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::ioctl;
use crate::machine::{self, wait_for, Traces};
use crate::recovery::{kill, listed};
use crate::run::{command, need, tool, ublk};
use crate::runner::{Outcome, Skip, Test};

const SUBSYSTEMS: &str = "/sys/kernel/config/nvmet/subsystems";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:8a0c3c8e-7c4e-4c55-9d0b-5d1a6f0e7a11";
const HOST_ID: &str = "8a0c3c8e-7c4e-4c55-9d0b-5d1a6f0e7a11";

pub fn tests(tests: &mut Vec<Test>) {
    let name = "i23_another_host_sees_no_death_of_the_server_and_each_size";
    tests.push(Test::skippable(name, used));
    let name = "i23_an_export_ends_with_unexport_or_with_the_disk";
    tests.push(Test::skippable(name, ended));
}

fn need_target() -> Result<Configfs, Skip> {
    need(&["modprobe", "fio"])?;
    let target = tool(&["modprobe", "-a", "configfs", "nvmet-tcp", "nvme-tcp"]);
    if target.status != Some(0) {
        return Err(Skip("no NVMe over TCP in this kernel".to_owned()));
    }
    Ok(Configfs)
}

/// What `export` mounts if need be. The mount ends with the value.
struct Configfs;

impl Drop for Configfs {
    fn drop(&mut self) {
        tool(&["umount", "/sys/kernel/config"]);
    }
}

/// The other host's end of a connection. Ends with the value.
struct Connection {
    controller: PathBuf,
    nqn: String,
}

impl Connection {
    /// `printed` is what `export` said.
    fn open(printed: &str) -> io::Result<Connection> {
        let words: Vec<_> = printed.split_whitespace().collect();
        let after = |option: &str| {
            let at = words.iter().position(|word| *word == option);
            words[at.expect("it names it") + 1].to_owned()
        };
        let nqn = after("-n");
        let (address, port) = (after("-a"), after("-s"));
        let mut fabrics = File::options()
            .read(true)
            .write(true)
            .open("/dev/nvme-fabrics")?;
        // All in one write: the kernel takes each for a whole connection.
        let wanted = format!(
            "transport=tcp,traddr={address},trsvcid={port},nqn={nqn},hostnqn={HOST},hostid={HOST_ID}"
        );
        fabrics.write_all(wanted.as_bytes())?;
        let mut answer = String::new();
        fabrics.read_to_string(&mut answer)?;
        let number = answer
            .split(',')
            .find_map(|part| part.strip_prefix("instance="));
        let number = number.expect("the number of the controller").trim();
        let controller = Path::new("/sys/class/nvme").join(format!("nvme{number}"));
        Ok(Connection { controller, nqn })
    }

    /// The disk as this host has it: its path and its size.
    fn disk(&self) -> Option<(PathBuf, u64)> {
        fs::read_dir("/sys/block")
            .expect("sysfs")
            .flatten()
            .find_map(|entry| {
                let name = entry.file_name().into_string().expect("a name");
                let of = fs::read_to_string(entry.path().join("device/subsysnqn")).ok()?;
                let size = fs::read_to_string(entry.path().join("size")).ok()?;
                // Those with a `c` are single paths behind the disk.
                let is_it = of.trim() == self.nqn && !name[4..].contains('c');
                let sectors: u64 = size.trim().parse().ok()?;
                is_it.then(|| (Path::new("/dev").join(name), sectors << 9))
            })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = fs::write(self.controller.join("delete_controller"), "1");
    }
}

fn exports() -> usize {
    fs::read_dir(SUBSYSTEMS).map_or(0, Iterator::count)
}

fn used() -> Outcome {
    let configfs = need_target()?;
    let before = Traces::now();
    let disk = Disk::add(&["--size", "32M", "--name", "shared"]);
    // Nobody is let in who is not named.
    let printed = ublk(&["export", "shared"]).well();
    let refused = Connection::open(&printed).err().expect("it is not named");
    assert_ne!(refused.raw_os_error(), Some(libc::EINVAL), "{refused}");
    ublk(&["unexport", "shared"]).well();
    let printed = ublk(&["export", "shared", "--host", HOST]).well();
    let connection = Connection::open(&printed).expect("this host is named");
    wait_for("the disk", || {
        connection.disk().is_some_and(|(_, size)| size == 32 << 20)
    });
    let (path, _) = connection.disk().expect("seen just now");
    wait_for("its node", || path.exists());
    let listed = ublk(&["list", "shared"]).well();
    assert!(listed.contains("EXPORTED") && listed.contains(":shared at 127.0.0.1:4420"));

    ublk(&["rules", "shared", "add", "slow: write: delay 1s"]).well();
    // 1024 writes, eight at a time: minutes, unless the rule is taken away.
    let mut load = command("fio")
        .args([
            "--name=other-host",
            "--rw=randwrite",
            "--bs=4k",
            "--size=4M",
            "--direct=1",
        ])
        .args([
            "--ioengine=libaio",
            "--iodepth=8",
            "--verify=crc32c",
            "--verify_fatal=1",
        ])
        .args(["--allow_file_create=0", "--output=/dev/null"])
        .arg(format!("--filename={}", path.display()))
        .spawn()
        .expect("fio starts");
    wait_for("writes", || disk.count(|q| q.write).requests > 0);
    kill(&disk);
    kill(&disk);
    assert!(
        load.try_wait().expect("it is ours").is_none(),
        "too little load"
    );
    ublk(&["rules", "shared", "clear"]).well();
    let ended = load.wait().expect("it ends");
    assert!(ended.success(), "the other host saw it");

    if machine::offers("UPDATE_SIZE") {
        ublk(&["resize", "shared", "64M"]).well();
        wait_for("the size", || {
            connection.disk().is_some_and(|(_, size)| size == 64 << 20)
        });
    }
    ublk(&["del", "shared"]).refused(4, &["exported as", &connection.nqn]);
    // By force also while the server holds a request of the other host.
    ublk(&["rules", "shared", "add", "held: read: hang"]).well();
    let mut reader = command("dd")
        .args(["of=/dev/null", "bs=4k", "count=1", "iflag=direct"])
        .arg(format!("if={}", path.display()))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("dd starts");
    let inflight = format!("/sys/block/ublkb{}/inflight", disk.id);
    wait_for("the read", || {
        !machine::read(&inflight).trim().starts_with('0')
    });
    ublk(&["del", "shared", "--force"]).well();
    assert_eq!(exports(), 0);
    drop(connection);
    // Served before the end, or not.
    reader.wait().expect("it ends");
    disk.has_ended();
    drop(configfs);
    before.assert_unchanged();
    Ok(())
}

fn ended() -> Outcome {
    let configfs = need_target()?;
    let before = Traces::now();
    let disk = Disk::add(&["--size", "8M"]);
    let name = disk.name();
    ublk(&["unexport", &name]).refused(1, &["is not exported"]);
    let listen = ["--listen", "127.0.0.1:4421"];
    // What cannot be leaves nothing behind.
    let nowhere = ["export", &name, "--listen", "192.0.2.1", "--host", HOST];
    ublk(&nowhere).refused(1, &["--listen 192.0.2.1:4420"]);
    assert_eq!(exports(), 0);
    ublk(&[&["export", &name, "--any-host"], &listen[..]].concat()).well();
    ublk(&["export", &name]).refused(4, &["exported already", "unexport"]);
    // Two disks share an address.
    let other = Disk::add(&["--size", "8M", "--backing", "memfd"]);
    ublk(&[&["export", &other.name(), "--any-host"], &listen[..]].concat()).well();
    assert_eq!(exports(), 2);
    // One that goes with its server.
    ioctl::signal(other.pid, libc::SIGKILL);
    wait_for("its end", || listed(&other)["state"] == "DEAD");
    ublk(&["del", &other.name()]).well();
    other.has_ended();
    assert_eq!(exports(), 1);
    ublk(&["unexport", &name]).well();
    // What an export that was cut short has left is no hindrance.
    let host = machine::read("/proc/sys/kernel/hostname");
    let left = format!(
        "{SUBSYSTEMS}/nqn.2026-11.ublk-ramdisk:{}:ublkb{}",
        host.trim(),
        disk.id
    );
    fs::create_dir(left).expect("configfs");
    ublk(&["export", &name, "--any-host"]).well();
    ublk(&["unexport", &name]).well();
    let ports = fs::read_dir("/sys/kernel/config/nvmet/ports").expect("configfs");
    let hosts = fs::read_dir("/sys/kernel/config/nvmet/hosts").expect("configfs");
    assert_eq!((exports(), ports.count(), hosts.count()), (0, 0, 0));
    disk.end();
    drop(configfs);
    before.assert_unchanged();
    Ok(())
}
