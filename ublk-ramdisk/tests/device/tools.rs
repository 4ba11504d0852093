// SPDX-License-Identifier: MIT OR Apache-2.0
//! H7 and the tools of every day: partition tables, blkdiscard, blockdev, wipefs.

use std::os::unix::fs::{FileExt, FileTypeExt};

use crate::disk::{Disk, MIB};
use crate::ioctl::Buffer;
use crate::machine::{offers, tmpfs_path, wait_for};
use crate::run::{need, tool, tool_with_input};
use crate::runner::{Outcome, Test};

pub fn tests(tests: &mut Vec<Test>) {
    let mut add = |name: &str, body: fn() -> Outcome| tests.push(Test::skippable(name, body));
    add("h7_partitions_appear_and_are_found_again", partitions);
    add("h3_blkdiscard", blkdiscard);
    add("h1_blockdev", blockdev);
    add("h11_wipefs", wipefs);
}

const TABLE: &str = "label: gpt\nstart=2048, size=16384\nstart=18432, size=16384\n";

fn is_block_device(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|node| node.file_type().is_block_device())
}

fn partitions() -> Outcome {
    need(&["sfdisk", "blockdev"])?;
    let backing = format!("tmpfs:{}", tmpfs_path("partitions"));
    let disk = Disk::add(&["--size", "32M", "--backing", &backing]);
    let second = format!("{}p2", disk.path);
    tool_with_input(&["sfdisk", "--quiet", &disk.path], TABLE).well();
    wait_for("the second partition", || is_block_device(&second));
    let mut bytes = Buffer::new(4096);
    bytes.fill(0x77);
    let part = crate::ioctl::open_direct(&second);
    part.write_all_at(&bytes, 0).expect("write");
    drop(part);
    let mut found = Buffer::new(4096);
    let file = disk.open_direct();
    file.read_exact_at(&mut found, 18432 * 512).expect("read");
    assert!(
        *found == *bytes,
        "the partition begins where the table says"
    );
    drop(file);
    tool(&["blockdev", "--rereadpt", &disk.path]).well();
    wait_for("the partition again", || is_block_device(&second));
    disk.end();

    let disk = Disk::add(&["--backing", &backing]);
    let second = format!("{}p2", disk.path);
    wait_for("the scan", || is_block_device(&second));
    disk.end();

    let disk = Disk::add(&["--backing", &backing, "--no-partition-scan"]);
    let second = format!("{}p2", disk.path);
    if offers("NO_AUTO_PART_SCAN") {
        assert_eq!(disk.count(|q| q.read).requests, 0, "nobody has read");
        assert!(!is_block_device(&second));
        tool(&["blockdev", "--rereadpt", &disk.path]).well();
    }
    wait_for("the partition", || is_block_device(&second));
    disk.end();
    std::fs::remove_file(&backing["tmpfs:".len()..]).expect("removed");
    Ok(())
}

fn blkdiscard() -> Outcome {
    need(&["blkdiscard"])?;
    let disk = Disk::add(&["--size", "16M"]);
    let fill = || {
        let mut bytes = Buffer::new(16 << 20);
        bytes.fill(3);
        disk.open_direct().write_all_at(&bytes, 0).expect("write");
        assert_eq!(disk.allocated(), 16 * MIB);
    };
    fill();
    tool(&["blkdiscard", "-o", "4M", "-l", "8M", &disk.path]).well();
    assert_eq!(disk.allocated(), 8 * MIB);
    tool(&["blkdiscard", &disk.path]).well();
    assert_eq!(disk.allocated(), 0);
    fill();
    tool(&["blkdiscard", "--zeroout", &disk.path]).well();
    let mut found = Buffer::new(16 << 20);
    disk.open_direct()
        .read_exact_at(&mut found, 0)
        .expect("read");
    assert!(found.iter().all(|&byte| byte == 0));
    disk.end();
    Ok(())
}

fn blockdev() -> Outcome {
    need(&["blockdev"])?;
    let disk = Disk::add(&["--size", "24M", "--block-size", "1024"]);
    let ask = |what: &str| {
        let text = tool(&["blockdev", what, &disk.path]).well();
        text.trim().to_owned()
    };
    assert_eq!(ask("--getsize64"), (24 * MIB).to_string());
    assert_eq!(ask("--getss"), "1024");
    assert_eq!(ask("--getpbsz"), "4096");
    assert_eq!(ask("--getro"), "0");
    assert_eq!(ask("--setro"), "");
    assert_eq!(ask("--getro"), "1");
    assert_eq!(disk.count(|q| q.write).requests, 0);
    assert_eq!(ask("--setrw"), "");
    assert_eq!(ask("--flushbufs"), "");
    let file = disk.open();
    file.write_all_at(&[1; 4096], 0).expect("write");
    assert_eq!(ask("--flushbufs"), "");
    drop(file);
    assert_eq!(disk.count(|q| q.write).bytes, 4096);
    disk.end();
    Ok(())
}

fn wipefs() -> Outcome {
    need(&["wipefs", "mkfs.ext4", "blkid"])?;
    let disk = Disk::add(&["--size", "16M"]);
    tool(&["mkfs.ext4", "-q", &disk.path]).well();
    let found = tool(&["wipefs", &disk.path]).well();
    assert!(found.contains("ext4"), "{found}");
    tool(&["wipefs", "--all", &disk.path]).well();
    assert_eq!(tool(&["wipefs", &disk.path]).well(), "");
    let nothing = tool(&["blkid", "-p", &disk.path]);
    assert_eq!(nothing.status, Some(2), "{nothing:?}");
    disk.end();
    Ok(())
}
