// SPDX-License-Identifier: MIT OR Apache-2.0
//! File systems on the disk: made, mounted, filled with this project's own source, compared,
//! trimmed, unmounted and checked, and grown while they are mounted.

use std::fs;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, MIB};
use crate::machine::{self, offers};
use crate::run::{need, tool, ublk};
use crate::runner::{Outcome, Skip, Test};

/// How one kind of file system is made and checked.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub make: &'static [&'static str],
    pub check: &'static [&'static str],
}

pub const KINDS: [Kind; 3] = [
    Kind {
        name: "ext4",
        make: &["mkfs.ext4", "-q", "-E", "lazy_itable_init=0"],
        check: &["fsck.ext4", "-f", "-n"],
    },
    Kind {
        name: "xfs",
        make: &["mkfs.xfs", "-q", "-f"],
        check: &["xfs_repair", "-n"],
    },
    Kind {
        name: "btrfs",
        make: &["mkfs.btrfs", "-q", "-f"],
        check: &["btrfs", "check", "-q"],
    },
];

pub fn tests(tests: &mut Vec<Test>) {
    let paths = machine::data_paths();
    for kind in KINDS {
        // Each kind meets the best path, and the first of them every path: what differs below a
        // file system is the order and size of requests, which the model has met.
        let met = if kind.name == "ext4" {
            0
        } else {
            paths.len() - 1
        };
        for &path in &paths[met..] {
            let name = format!("h7_{}_keeps_a_source_tree_on_{path}", kind.name);
            let test = Test::skippable(name, move || keeps_tree(kind, path));
            // Of the others each kernel has its best path alone.
            tests.push(if met == 0 { test.on_path(path) } else { test });
        }
    }
    if offers("UPDATE_SIZE") {
        tests.push(Test::skippable("h8_ext4_grows_while_mounted", grows));
    }
}

pub fn available(kind: Kind) -> Result<(), Skip> {
    need(&[kind.make[0], kind.check[0], "fstrim"])?;
    let known = || {
        let text = machine::read("/proc/filesystems");
        text.lines()
            .any(|line| line.trim_start_matches("nodev").trim() == kind.name)
    };
    if !known() {
        tool(&["modprobe", kind.name]);
    }
    if known() {
        Ok(())
    } else {
        Err(Skip(format!("this kernel has no {}", kind.name)))
    }
}

/// A mounted disk; unmounted at the latest when it is dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn at(disk: &str) -> Mounted {
        let place = machine::scratch().join("mnt");
        fs::create_dir_all(&place).expect("a folder");
        tool(&["mount", disk, text(&place)]).well();
        Mounted(place)
    }

    pub fn unmount(self) {
        tool(&["umount", text(&self.0)]).well();
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        tool(&["umount", "-l", text(&self.0)]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A copy of this program's source, made once: what is compared must not change meanwhile.
fn sources() -> PathBuf {
    let copy = machine::scratch().join("source");
    if !copy.exists() {
        tool(&["cp", "-r", env!("CARGO_MANIFEST_DIR"), text(&copy)]).well();
    }
    copy
}

fn keeps_tree(kind: Kind, path: &str) -> Outcome {
    available(kind)?;
    let disk = Disk::on(path, "mq-deadline", "320M", &["--queues", "2"]);
    tool(&[kind.make, &[&disk.path]].concat()).well();
    let mounted = Mounted::at(&disk.path);
    let source = sources();
    for number in 0..2 {
        let copy = mounted.0.join(format!("copy{number}"));
        tool(&["cp", "-r", text(&source), text(&copy)]).well();
    }
    mounted.unmount();
    tool(&[kind.check, &[&disk.path]].concat()).well();

    let mounted = Mounted::at(&disk.path);
    for number in 0..2 {
        let copy = mounted.0.join(format!("copy{number}"));
        tool(&["diff", "-r", "--no-dereference", text(&source), text(&copy)]).well();
    }
    // Something large to give back.
    fs::write(mounted.0.join("large"), vec![0xa5; 32 << 20]).expect("written");
    tool(&["sync", "-f", text(&mounted.0)]).well();
    let full = disk.allocated();
    assert!(full >= 32 * MIB);
    fs::remove_file(mounted.0.join("large")).expect("removed");
    tool(&["sync", "-f", text(&mounted.0)]).well();
    tool(&["fstrim", text(&mounted.0)]).well();
    let trimmed = disk.allocated();
    assert!(trimmed <= full - 30 * MIB, "fstrim: {full}, then {trimmed}");
    mounted.unmount();
    tool(&[kind.check, &[&disk.path]].concat()).well();
    disk.end();
    Ok(())
}

fn grows() -> Outcome {
    available(KINDS[0])?;
    need(&["resize2fs"])?;
    let disk = Disk::add(&["--size", "32M"]);
    tool(&["mkfs.ext4", "-q", &disk.path]).well();
    let mounted = Mounted::at(&disk.path);
    let bytes = vec![0x5a; 8 << 20];
    fs::write(mounted.0.join("before"), &bytes).expect("written");
    ublk(&["resize", &disk.name(), "16M"]).refused(4, &["mounted", "--force"]);
    ublk(&["resize", &disk.name(), "96M"]).well();
    tool(&["resize2fs", &disk.path]).well();
    fs::write(mounted.0.join("after"), vec![0x3c; 48 << 20]).expect("there is room now");
    assert!(fs::read(mounted.0.join("before")).expect("read") == bytes);
    ublk(&["del", &disk.name()]).refused(4, &["mounted", "--force"]);
    mounted.unmount();
    tool(&["fsck.ext4", "-f", "-n", &disk.path]).well();
    disk.end();
    Ok(())
}
