// SPDX-License-Identifier: MIT OR Apache-2.0
//! H1, A2: what the disk tells the block layer about itself, at both ends of every range.

use std::os::unix::fs::FileExt;

use crate::disk::{try_add, Disk, MIB};
use crate::ioctl::Buffer;
use crate::machine;
use crate::rng::Rng;
use crate::run;
use crate::runner::Test;

pub fn tests(tests: &mut Vec<Test>) {
    tests.push(Test::new("h1_defaults_are_in_sysfs", defaults));
    for block in [512, 1024, 2048, 4096] {
        let name = format!("h1_logical_blocks_of_{block}_bytes");
        tests.push(Test::new(name, move || logical_block(block)));
    }
    tests.push(Test::new("h1_physical_blocks_up_to_256m", physical_block));
    for (text, bytes) in [("4K", 4 << 10), ("512K", 512 << 10), ("32M", 32 << 20)] {
        for path in machine::data_paths() {
            let name = format!("h1_an_io_buffer_of_{text}_on_{path}");
            let test = Test::new(name, move || io_buffer(path, text, bytes));
            tests.push(test.on_path(path));
        }
    }
    for depth in ["1", "4096"] {
        for path in machine::data_paths() {
            let name = format!("a2_depth_{depth}_on_{path}");
            let test = Test::new(name, move || queue_depth(path, depth));
            tests.push(test.on_path(path));
        }
    }
    tests.push(Test::new("a2_more_queues_than_cpus_are_clamped", clamped));
    tests.push(Test::new("h1_a_size_that_is_no_whole_page", partial_page));
}

fn defaults() {
    let disk = Disk::add(&["--size", "64M"]);
    for (name, wanted) in [
        ("size", 64 * MIB / 512),
        ("ro", 0),
        ("queue/logical_block_size", 512),
        ("queue/physical_block_size", 4096),
        ("queue/minimum_io_size", 4096),
        ("queue/max_hw_sectors_kb", 512),
        ("queue/discard_granularity", 4096),
        ("queue/rotational", 0),
        ("queue/fua", 0),
    ] {
        assert_eq!(disk.sysfs_number(name), wanted, "{name}");
    }
    assert_eq!(disk.sysfs("queue/write_cache"), "write through");
    for name in ["queue/discard_max_bytes", "queue/write_zeroes_max_bytes"] {
        assert!(disk.sysfs_number(name) >= MIB, "{name}");
    }
    disk.end();
}

fn logical_block(block: u64) {
    let text = block.to_string();
    let disk = Disk::add(&["--size", "8M", "--block-size", &text]);
    assert_eq!(disk.sysfs_number("queue/logical_block_size"), block);
    assert_eq!(disk.sysfs_number("queue/physical_block_size"), 4096);
    let file = disk.open_direct();
    let mut bytes = Buffer::new(block as usize);
    Rng::of_run(block).fill(&mut bytes);
    file.write_all_at(&bytes, 3 * block).expect("one block");
    if block > 512 {
        let half = &bytes[..block as usize / 2];
        let refused = file.write_at(half, 0).expect_err("half a block");
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    }
    let mut found = Buffer::new(block as usize);
    file.read_exact_at(&mut found, 3 * block).expect("read");
    assert!(*found == *bytes);
    drop(file);
    disk.end();
}

fn physical_block() {
    for (text, bytes) in [("512", 512), ("64K", 65536), ("256M", 256 << 20)] {
        let disk = Disk::add(&["--size", "8M", "--physical-block-size", text]);
        assert_eq!(disk.sysfs_number("queue/physical_block_size"), bytes);
        disk.end();
    }
}

fn io_buffer(path: &str, text: &str, bytes: u64) {
    let disk = Disk::on(path, "none", "64M", &["--io-buffer", text]);
    assert_eq!(disk.sysfs_number("queue/max_hw_sectors_kb"), bytes >> 10);
    let attribute = format!("/sys/block/ublkb{}/queue/max_sectors_kb", disk.id);
    std::fs::write(attribute, (bytes >> 10).to_string()).expect("the largest is allowed");
    let file = disk.open_direct();
    let mut data = Buffer::new(32 << 20);
    Rng::of_run(bytes).fill(&mut data);
    file.write_all_at(&data, 512).expect("write");
    let mut found = Buffer::new(32 << 20);
    file.read_exact_at(&mut found, 512).expect("read");
    assert!(*found == *data, "32 MiB differ");
    drop(file);
    disk.end();
}

fn queue_depth(path: &str, depth: &str) {
    if (path, depth) == ("batch", "1") {
        // The driver has no batch of one tag.
        let words = ["--size", "32M", "--data-path", path, "--depth", depth];
        try_add(&words).refused(2, &["--data-path batch", "--depth 1"]);
        Disk::add(&["--size", "4M", "--depth", depth]).end();
        return;
    }
    let disk = Disk::on(path, "none", "32M", &["--depth", depth]);
    assert_eq!(disk.depth.to_string(), depth);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let file = disk.open_direct();
            scope.spawn(move || {
                let mut bytes = Buffer::new(65536);
                let mut found = Buffer::new(65536);
                for step in 0..32 {
                    let at = (thread * 32 + step) * 65536;
                    Rng::of_run(at).fill(&mut bytes);
                    file.write_all_at(&bytes, at).expect("write");
                    file.read_exact_at(&mut found, at).expect("read");
                    assert!(*found == *bytes, "64 KiB at {at}");
                }
            });
        }
    });
    disk.end();
}

fn clamped() {
    let said = try_add(&["--size", "8M", "--queues", "4096"]);
    assert_eq!(said.status, Some(0), "{said:?}");
    said.has_one_line();
    assert!(said.err.contains("4096"), "{said:?}");
    let disk = Disk::from_json(&said.out);
    assert!(disk.queues >= 1 && disk.queues < 4096);
    let listed = run::ublk(&["list", "--json", &disk.name()]).well();
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["queues"], disk.queues);
    disk.end();
}

fn partial_page() {
    let size = 8 * MIB + 512;
    let disk = Disk::add(&["--size", &size.to_string()]);
    assert_eq!(disk.sysfs_number("size"), size / 512);
    let file = disk.open_direct();
    let mut bytes = Buffer::new(512);
    bytes.fill(9);
    file.write_all_at(&bytes, 8 * MIB).expect("the last sector");
    let beyond = file.write_at(&bytes, size).expect_err("behind it");
    assert_eq!(beyond.raw_os_error(), Some(libc::ENOSPC));
    let mut found = Buffer::new(512);
    file.read_exact_at(&mut found, 8 * MIB).expect("read");
    assert!(*found == *bytes);
    crate::ioctl::discard(&file, 8 * MIB..size).expect("discard");
    file.read_exact_at(&mut found, 8 * MIB).expect("read");
    assert!(found.iter().all(|&byte| byte == 0));
    assert_eq!(disk.allocated(), 0, "its page is given back");
    drop(file);
    disk.end();
}
