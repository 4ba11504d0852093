// SPDX-License-Identifier: MIT OR Apache-2.0
//! E20, E21, E18: a disk that holds more than it may, because what nobody uses is compressed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::disk::{Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine;
use crate::rng::Rng;
use crate::run;
use crate::runner::Test;

const SIZE: u64 = 6 * MIB;
const LIMIT: u64 = 3 * MIB;
const BLOCK: usize = 4096;

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let mut add = |name: &str, body: fn(&str)| {
            tests.push(Test::new(format!("{name}_on_{path}"), move || body(path)));
        };
        add("e20_a_disk_holds_more_than_it_may", more_than_it_may);
    }
    tests.push(Test::new("e20_set_begins_and_ends_it", begun_and_ended));
    tests.push(Test::new("e20_what_excludes_it_is_named", excluded));
}

/// A block of which an eighth is random: 64 KiB of them become three pages.
fn block(rng: &mut Rng) -> Buffer {
    let mut bytes = Buffer::new(BLOCK);
    rng.fill(&mut bytes[..BLOCK / 8]);
    let same = bytes[0] | 1;
    bytes[BLOCK / 8..].fill(same);
    bytes
}

/// What has been written, and the disk that is to hold it.
struct Content {
    file: File,
    wanted: Vec<u8>,
    rng: Rng,
}

impl Content {
    fn new(disk: &Disk) -> Self {
        Self {
            file: disk.open_direct(),
            wanted: vec![0; SIZE as usize],
            rng: Rng::of_run(20),
        }
    }

    fn write(&mut self, at: u64) {
        let bytes = block(&mut self.rng);
        self.file.write_all_at(&bytes, at).expect("write");
        self.wanted[at as usize..][..BLOCK].copy_from_slice(&bytes);
    }

    fn write_all(&mut self) {
        for at in (0..SIZE).step_by(BLOCK) {
            self.write(at);
        }
    }

    #[track_caller]
    fn assert_read_back(&self, len: usize) {
        let mut bytes = Buffer::new(len);
        for at in (0..SIZE as usize).step_by(len) {
            self.file
                .read_exact_at(&mut bytes, at as u64)
                .expect("read");
            assert!(*bytes == self.wanted[at..at + len], "{len} bytes at {at}");
        }
    }
}

fn more_than_it_may(path: &str) {
    let words = [
        "--memory-limit",
        "3M",
        "--reclaim",
        "compress",
        "--compress-idle",
        "5ms",
    ];
    let disk = Disk::on(path, "none", "6M", &words);
    let mut content = Content::new(&disk);
    content.write_all();
    let full = disk.stats();
    assert!(full.space.compressions > 0 && full.space.compressed > 0);
    assert!(full.space.used <= LIMIT, "{} bytes used", full.space.used);
    assert!(full.allocated <= LIMIT, "{} bytes held", full.allocated);
    // As it is (E20), and after some of it has been expanded to be written.
    content.assert_read_back(MIB as usize);
    assert!(disk.allocated() <= LIMIT);
    for _ in 0..50 {
        let at = content.rng.within(0..SIZE / BLOCK as u64) * BLOCK as u64;
        content.write(at);
    }
    content.assert_read_back(BLOCK);
    // A part of what is compressed, and all of it: "freed" is what the file holds (E18).
    ioctl::discard(&content.file, 512..SIZE / 2).expect("discard");
    content.wanted[512..SIZE as usize / 2].fill(0);
    content.assert_read_back(64 << 10);
    ioctl::discard(&content.file, 0..SIZE).expect("discard");
    drop(content);
    let empty = disk.stats();
    println!(
        "    {} chunks compressed, {} expanded, {} bytes held at most",
        empty.space.compressions, empty.space.expansions, full.allocated
    );
    assert!(empty.space.expansions > 0);
    assert_eq!((empty.allocated, empty.space.compressed), (0, 0));
    assert_eq!(empty.space.used, empty.space.tables, "nothing leaks (E7)");
    disk.end();
}

fn begun_and_ended() {
    let disk = Disk::add(&["--size", "6M", "--memory-limit", "3M"]);
    let mut content = Content::new(&disk);
    let name = disk.name();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| content.write_all());
        machine::wait_for("a write waits for memory", || disk.stats().space.parked > 0);
        let words = [
            "set",
            &name,
            "--reclaim",
            "compress",
            "--compress-idle",
            "5ms",
        ];
        let said = run::ublk(&words).well();
        assert!(said.contains("reclaim compress"), "{said}");
        writer.join().expect("no write fails");
    });
    assert!(disk.stats().space.compressions > 0);
    let said = run::ublk(&["set", &name, "--reclaim", "off"]).well();
    assert!(said.contains("reclaim off"), "{said}");
    content.assert_read_back(MIB as usize);
    drop(content);
    disk.end();
}

fn excluded() {
    let compressing = ["--size", "8M", "--reclaim", "compress"];
    for words in [&["--preallocate"][..], &["--backing", "hugetlb"]] {
        let mut all = compressing.to_vec();
        all.extend(words);
        crate::disk::try_add(&all).refused(2, &["--reclaim compress", words[0]]);
    }
}
