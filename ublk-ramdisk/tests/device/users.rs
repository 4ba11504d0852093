// SPDX-License-Identifier: MIT OR Apache-2.0
//! C5 of L1's row "stop while opened": a disk that is used in a way that no path in /dev tells is
//! neither stopped nor shrunk without force.

use std::fs::{self, File};
use std::path::PathBuf;

use crate::disk::Disk;
use crate::ioctl;
use crate::machine;
use crate::run::{need, tool, ublk};
use crate::runner::{Outcome, Test};

pub fn tests(tests: &mut Vec<Test>) {
    let mut add = |name: &str, body: fn() -> Outcome| tests.push(Test::skippable(name, body));
    add("l1_a_disk_opened_by_another_node_is_in_use", other_node);
    add("l1_a_disk_mapped_without_a_descriptor_is_in_use", mapped);
    add("l1_a_disk_mounted_out_of_sight_is_in_use", mounted_away);
    add("l1_a_second_disk_of_a_file_system_is_in_use", second_disk);
}

/// It is not stopped while it is used, where the kernel does not see to that, nor shrunk.
#[track_caller]
fn is_in_use(disk: &Disk) {
    if !machine::offers("SAFE_STOP_DEV") {
        ublk(&["del", &disk.name()]).refused(4, &["is not stopped", "--force"]);
    }
    if machine::offers("UPDATE_SIZE") {
        ublk(&["resize", &disk.name(), "4M"]).refused(4, &["is not shrunk", "--force"]);
    }
    assert!(fs::exists(&disk.path).expect("/dev"), "it is still there");
}

/// Another node of the disk, in a folder where nobody looks for one.
struct Node(PathBuf);

impl Node {
    fn of(disk: &Disk) -> Node {
        let place = machine::scratch().join("elsewhere");
        let number = disk.sysfs("dev");
        let (major, minor) = number.split_once(':').expect("major:minor");
        let path = place.to_str().expect("text");
        tool(&["mknod", path, "b", major, minor]).well();
        Node(place)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn other_node() -> Outcome {
    let disk = Disk::add(&["--size", "8M"]);
    let node = Node::of(&disk);
    let user = File::open(&node.0).expect("opened");
    is_in_use(&disk);
    drop(user);
    disk.end();
    Ok(())
}

fn mapped() -> Outcome {
    let disk = Disk::add(&["--size", "8M"]);
    let mapping = ioctl::Mapped::new(&disk.open(), 4096);
    is_in_use(&disk);
    drop(mapping);
    disk.end();
    Ok(())
}

/// The mount has no place any more, and is named by no node of /dev.
fn mounted_away() -> Outcome {
    need(&["mkfs.ext4"])?;
    let disk = Disk::add(&["--size", "8M"]);
    tool(&["mkfs.ext4", "-q", &disk.path]).well();
    let node = Node::of(&disk);
    let place = machine::scratch().join("away");
    fs::create_dir_all(&place).expect("a folder");
    let at = place.to_str().expect("text");
    tool(&["mount", node.0.to_str().expect("text"), at]).well();
    let file = File::create(place.join("file")).expect("a file");
    tool(&["umount", "-l", at]).well();
    is_in_use(&disk);
    drop(file);
    machine::wait_for("the end of the mount", || {
        ublk(&["stop", &disk.name()]).status == Some(0)
    });
    ublk(&["del", &disk.name()]).well();
    disk.has_ended();
    Ok(())
}

fn second_disk() -> Outcome {
    need(&["mkfs.btrfs"])?;
    tool(&["modprobe", "btrfs"]);
    if !machine::read("/proc/filesystems").contains("btrfs") {
        return Err(crate::runner::Skip("this kernel has no btrfs".to_owned()));
    }
    let disks = [0, 1].map(|_| Disk::add(&["--size", "160M"]));
    let [first, second] = [&disks[0].path, &disks[1].path];
    tool(&[
        "mkfs.btrfs",
        "-q",
        "-f",
        "-d",
        "raid1",
        "-m",
        "raid1",
        first,
        second,
    ])
    .well();
    tool(&["btrfs", "device", "scan", first, second]).well();
    let place = machine::scratch().join("both");
    fs::create_dir_all(&place).expect("a folder");
    let at = place.to_str().expect("text");
    tool(&["mount", first, at]).well();
    is_in_use(&disks[1]);
    tool(&["umount", at]).well();
    tool(&["btrfs", "device", "scan", "--forget"]);
    for disk in disks {
        disk.end();
    }
    Ok(())
}
