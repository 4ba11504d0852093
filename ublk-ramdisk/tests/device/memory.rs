// SPDX-License-Identifier: MIT OR Apache-2.0
//! G11, H3, H4: what memory a disk holds, and that what is given back reads as zeros.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::disk::{Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine;
use crate::recovery;
use crate::rng::Rng;
use crate::run::{need, tool, ublk};
use crate::runner::{Outcome, Skip, Test};

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let mut add = |name: &str, body: fn(&str)| {
            let test = Test::new(format!("{name}_on_{path}"), move || body(path));
            tests.push(test.on_path(path));
        };
        add("g11_reading_an_empty_disk_allocates_nothing", read_empty);
        add("g11_reads_across_data_and_holes_are_exact", read_mixed);
        add("h3_discard_gives_all_memory_back", discard_all);
        add("g9_an_idle_queue_pins_nothing", idle_queue);
        add("h3_unaligned_discards_read_as_zeros", discard_unaligned);
        add("h4_write_zeroes_frees_or_keeps_memory", write_zeroes);
    }
    tests.push(Test::new(
        "j02_the_servers_memory_is_locked_and_a_thin_disk_stays_thin",
        locked,
    ));
    tests.push(Test::skippable(
        "j08_what_is_swapped_to_a_disk_for_swap_needs_no_memory",
        for_swap,
    ));
    for word in ["advise", "always"] {
        let name = format!("h3_transparent_huge_pages_are_given_back_{word}");
        tests.push(Test::skippable(name, move || huge_pages(word)));
    }
}

/// Fills a range with bytes that are never zero.
fn fill(file: &File, range: Range<u64>) {
    let mut bytes = Buffer::new(MIB as usize);
    Rng::of_run(range.start).fill(&mut bytes);
    bytes.iter_mut().for_each(|byte| *byte |= 1);
    for at in range.clone().step_by(MIB as usize) {
        let len = (range.end - at).min(MIB) as usize;
        file.write_all_at(&bytes[..len], at).expect("write");
    }
}

fn read(file: &File, range: Range<u64>) -> Buffer {
    let mut bytes = Buffer::new((range.end - range.start) as usize);
    file.read_exact_at(&mut bytes, range.start).expect("read");
    bytes
}

#[track_caller]
fn assert_zeros(file: &File, range: Range<u64>) {
    for at in range.clone().step_by(MIB as usize) {
        let bytes = read(file, at..range.end.min(at + MIB));
        let other = bytes.iter().position(|&byte| byte != 0);
        assert_eq!(other, None, "not zero behind {at}");
    }
}

/// The sum of a figure of the server, in KiB.
fn kib_of(pid: u32, file: &str, name: &str) -> u64 {
    let text = machine::read(format!("/proc/{pid}/{file}"));
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let number = |line: &str| line.split_whitespace().next()?.parse::<u64>().ok();
    lines.filter_map(number).sum()
}

/// Its memory is there and locked, and swapping and discards leave it so. `set` does not change that, and
/// a new server takes up the disk under swap.
fn for_swap() -> Outcome {
    need(&["mkswap", "swapon", "swapoff"])?;
    let disk = Disk::add(&["--size", "16M", "--swap"]);
    let assert_there = |pid: u32| {
        assert_eq!(disk.stats().allocated, 16 * MIB);
        assert!(kib_of(pid, "smaps", "Locked:") >= 16 << 10);
    };
    assert_there(disk.pid);
    assert_eq!(disk.sysfs("queue/discard_max_bytes").trim(), "0");
    for words in [
        ["--slots", "2"],
        ["--memory-limit", "1G"],
        ["--reclaim", "zero"],
    ] {
        let said = ublk(&[&["set", &disk.name()], &words[..]].concat());
        said.refused(2, &["contradicts", words[0].trim_start_matches('-')]);
    }
    tool(&["mkswap", &disk.path]).well();
    tool(&["swapon", "--discard", &disk.path]).well();
    let next = recovery::kill(&disk);
    tool(&["swapoff", &disk.path]).well();
    assert_there(next);
    disk.end();
    Ok(())
}

fn locked() {
    let disk = Disk::add(&["--size", "1G", "--queues", "1"]);
    let kib = |file: &str, name: &str| kib_of(disk.pid, file, name);
    assert!(
        kib("status", "VmLck:") >= 1 << 20,
        "the mapping of the disk"
    );
    let (resident, tables) = (kib("status", "RssShmem:"), kib("status", "VmPTE:"));
    assert!(resident < 1024 && tables < 1024, "{resident} {tables}");
    let smaps = machine::read(format!("/proc/{}/smaps", disk.pid));
    let not_there = not_resident(&smaps);
    assert!(not_there.is_empty(), "{not_there:?}");
    fill(&disk.open_direct(), 0..8 * MIB);
    assert!(kib("status", "RssShmem:") >= 8 << 10);
    assert!(kib("smaps", "Locked:") >= 8 << 10);
    assert_eq!(kib("status", "VmSwap:"), 0);
    disk.end();
}

/// The mappings of code that are not there in full, and the stacks of workers and queue threads of
/// which less than 64 KiB are.
fn not_resident(smaps: &str) -> Vec<&str> {
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let (mut mapping, mut size, mut stacks, mut found) = ("", 0, 0, Vec::new());
    for line in smaps.lines() {
        match line.split_whitespace().next() {
            Some("Size:") => size = kib(line).expect("a number"),
            Some("Rss:") => {
                let code = mapping.contains(" r-xp ") && mapping.contains('/');
                let stack = mapping.contains(" rw-p ") && (252..=256).contains(&size);
                stacks += u64::from(stack);
                let least = if code { size } else { 64 };
                if (code || stack) && kib(line) < Some(least) {
                    found.push(mapping);
                }
            }
            Some(word) if !word.ends_with(':') => mapping = line,
            _ => {}
        }
    }
    assert!(stacks > 2, "a queue thread and two workers at least");
    found
}

fn read_empty(path: &str) {
    let disk = Disk::on(path, "none", "64M", &[]);
    assert_eq!(disk.allocated(), 0, "a fresh disk holds nothing");
    let (direct, buffered) = (disk.open_direct(), disk.open());
    assert_zeros(&direct, 0..64 * MIB);
    assert_zeros(&buffered, 0..64 * MIB);
    for len in [512, 4096, 4608, 65536] {
        assert_zeros(&direct, 3 * MIB - 512..3 * MIB - 512 + len);
    }
    assert!(disk.count(|q| q.read).bytes >= 128 * MIB);
    assert_eq!(disk.allocated(), 0);
    drop((direct, buffered));
    disk.end();
}

fn read_mixed(path: &str) {
    let disk = Disk::on(path, "none", "16M", &[]);
    let file = disk.open_direct();
    let pages: Vec<u64> = (0..64).map(|n| n * n).collect();
    let mut wanted = vec![0; 16 * MIB as usize];
    let mut rng = Rng::of_run(7);
    for page in &pages {
        let mut bytes = Buffer::new(4096);
        rng.fill(&mut bytes);
        file.write_all_at(&bytes, page * 4096).expect("write");
        wanted[*page as usize * 4096..][..4096].copy_from_slice(&bytes);
    }
    let held = disk.allocated();
    assert_eq!(held, pages.len() as u64 * 4096, "one page each");
    for len in [512, 4096, 12288, 65536 + 512, MIB] {
        for at in (0..16 * MIB - len).step_by(len.max(65536) as usize) {
            let at = (at + 3 * 512).min(16 * MIB - len);
            let found = read(&file, at..at + len);
            assert!(
                *found == wanted[at as usize..(at + len) as usize],
                "{len} bytes at {at}"
            );
        }
    }
    assert_eq!(disk.allocated(), held, "reading holes allocates nothing");
    drop(file);
    disk.end();
}

fn discard_all(path: &str) {
    let disk = Disk::on(path, "none", "64M", &[]);
    let file = disk.open_direct();
    fill(&file, 0..64 * MIB);
    assert_eq!(disk.allocated(), 64 * MIB);
    ioctl::discard(&file, 16 * MIB..48 * MIB).expect("discard");
    assert_eq!(disk.allocated(), 32 * MIB);
    assert_zeros(&file, 16 * MIB..48 * MIB);
    ioctl::discard(&file, 0..64 * MIB).expect("discard");
    assert_eq!(disk.allocated(), 0);
    assert_zeros(&file, 0..64 * MIB);
    assert_eq!(disk.allocated(), 0);
    let done = disk.count(|q| q.discard);
    assert_eq!(done.bytes, 96 * MIB);
    drop(file);
    disk.end();
}

/// What one CPU has read last is given back when another discards it.
fn idle_queue(path: &str) {
    let disk = Disk::on(path, "none", "8M", &["--queues", "2"]);
    let file = disk.open_direct();
    let on_cpu = |cpu: usize, work: &dyn Fn()| {
        let before = ioctl::run_on(&[cpu]);
        work();
        ioctl::run_on(&before);
    };
    fill(&file, 0..8 * MIB);
    for cpu in 0..2 {
        on_cpu(cpu, &|| {
            read(&file, 0..MIB);
        });
        // The reader is answered a moment before the queue's thread can let go; asleep it has.
        disk.assert_at_rest();
        on_cpu(1 - cpu, &|| {
            ioctl::discard(&file, 0..MIB).expect("discard");
        });
        assert_eq!(disk.allocated(), 7 * MIB, "read on CPU {cpu}");
        fill(&file, 0..MIB);
    }
    drop(file);
    disk.end();
}

fn discard_unaligned(path: &str) {
    let disk = Disk::on(path, "none", "8M", &[]);
    let file = disk.open_direct();
    for range in [
        512..1024,
        512..8192,
        4096..4608,
        3584..12800,
        MIB - 512..2 * MIB + 512,
        8 * MIB - 512..8 * MIB,
    ] {
        fill(&file, 0..8 * MIB);
        ioctl::discard(&file, range.clone()).expect("discard");
        assert_zeros(&file, range.clone());
        let around = |at: u64| (at & !4095)..(at & !4095) + 4096;
        for page in [around(range.start), around(range.end - 1)] {
            let bytes = read(&file, page.clone());
            for (at, &byte) in page.zip(bytes.iter()) {
                assert_eq!(byte == 0, range.contains(&at), "byte {at}, {range:?}");
            }
        }
        let whole = range.start.next_multiple_of(4096)..range.end & !4095;
        let freed = whole.end.saturating_sub(whole.start);
        assert_eq!(disk.allocated(), 8 * MIB - freed, "{range:?}");
    }
    drop(file);
    disk.end();
}

fn write_zeroes(path: &str) {
    let disk = Disk::on(path, "none", "32M", &[]);
    let file = disk.open_direct();
    fill(&file, 0..32 * MIB);
    ioctl::zero_out(&file, 0..8 * MIB).expect("BLKZEROOUT");
    ioctl::zero_range(&file, 8 * MIB..16 * MIB).expect("FALLOC_FL_ZERO_RANGE");
    assert_eq!(disk.allocated(), 32 * MIB, "NOUNMAP keeps the memory");
    ioctl::punch(&file, 16 * MIB..32 * MIB).expect("FALLOC_FL_PUNCH_HOLE");
    assert_eq!(disk.allocated(), 16 * MIB, "a hole gives it back");
    assert_zeros(&file, 0..32 * MIB);
    assert_eq!(disk.count(|q| q.write_zeroes).bytes, 32 * MIB);
    ioctl::punch(&file, 0..16 * MIB).expect("FALLOC_FL_PUNCH_HOLE");
    assert_eq!(disk.allocated(), 0);
    drop(file);
    disk.end();
}

const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// The kernel's word on huge pages for shared memory, for the time of a test.
struct ShmemHugePages(String);

impl ShmemHugePages {
    fn set(word: &str) -> Result<ShmemHugePages, Skip> {
        let text = machine::read(SHMEM_ENABLED);
        let chosen = text.split(['[', ']']).nth(1).unwrap_or_default();
        let before = ShmemHugePages(chosen.to_owned());
        std::fs::write(SHMEM_ENABLED, word)
            .map_err(|error| Skip(format!("{SHMEM_ENABLED}: {error}")))?;
        Ok(before)
    }
}

impl Drop for ShmemHugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(SHMEM_ENABLED, &self.0);
    }
}

/// A few pages written make the kernel take whole huge pages: all of that is the disk's, to give
/// back when everything is discarded, and what was never written still reads as zeros.
fn huge_pages(word: &str) -> Outcome {
    let _set = ShmemHugePages::set(word)?;
    for path in machine::data_paths() {
        let disk = Disk::on(path, "none", "32M", &["--thp", "on"]);
        let file = disk.open_direct();
        for at in [0, 3 * MIB - 4096, 9 * MIB] {
            fill(&file, at..at + 8192);
        }
        assert_zeros(&file, 8192..3 * MIB - 4096);
        assert_zeros(&file, 9 * MIB + 8192..32 * MIB);
        ioctl::discard(&file, 4096..8192).expect("discard");
        assert_zeros(&file, 4096..8192);
        assert!(read(&file, 0..4096).iter().all(|&byte| byte != 0));
        ioctl::discard(&file, 0..32 * MIB).expect("discard");
        assert_zeros(&file, 0..32 * MIB);
        assert_eq!(disk.allocated(), 0, "{path}: pages never written");
        fill(&file, 0..32 * MIB);
        ioctl::discard(&file, 0..32 * MIB).expect("discard");
        assert_zeros(&file, 0..32 * MIB);
        assert_eq!(disk.allocated(), 0, "{path}");
        drop(file);
        disk.end();
    }
    Ok(())
}
