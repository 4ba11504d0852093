// SPDX-License-Identifier: MIT OR Apache-2.0
//! G15: random operations against a model. Threads on disjoint regions of one disk read, write,
//! discard, zero and flush, past the page cache, 512 bytes to 1 MiB at a time; every READ and in
//! the end the whole disk is compared with an array of bytes. Between rounds the disk is resized
//! where the kernel can.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::disk::{Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine;
use crate::rng::Rng;
use crate::run;
use crate::runner::{number, Test};

const THREADS: u64 = 3;
const LARGEST: u64 = MIB;
const SIZES: [u64; 4] = [24 * MIB, 40 * MIB, 33 * MIB - 512, 48 * MIB];
/// Operations of a quick run and of a whole one.
const QUICK: u64 = 40_000;
const WHOLE: u64 = 200_000;

pub fn tests(tests: &mut Vec<Test>) {
    let mut combinations = machine::paths_and_elevators();
    if machine::offers("BATCH_IO") {
        combinations.push(("batch-buffer", "none", "2"));
    }
    let total = number("UBLK_TEST_OPS", QUICK, WHOLE);
    let each = u64::div_ceil(total, combinations.len() as u64);
    for (stream, (path, elevator, queues)) in (0..).zip(combinations) {
        let name = format!("g15_random_operations_match_a_model_on_{path}_{elevator}_{queues}q");
        let test = Test::new(name, move || {
            matches_model(path, elevator, queues, stream, each);
        });
        tests.push(test.on_path_and_kernel(path));
    }
    for path in machine::data_paths() {
        let name = format!("g15_overlapping_operations_mix_only_their_own_bytes_on_{path}");
        tests.push(Test::new(name, move || overlap(path)).on_path(path));
    }
}

fn matches_model(path: &str, elevator: &str, queues: &str, stream: u64, operations: u64) {
    let size = SIZES[0].to_string();
    let disk = Disk::on(path, elevator, &size, &["--queues", queues]);
    let resizable = machine::offers("UPDATE_SIZE");
    let mut model = vec![0; SIZES[0] as usize];
    let rounds = SIZES.len() as u64;
    for (round, size) in (0..).zip(SIZES) {
        if resizable {
            let words = ["resize", &disk.name(), &size.to_string()];
            run::ublk(&words).well();
            model.resize(size as usize, 0);
        }
        let seed = (stream * rounds + round) * THREADS;
        play_round(&disk, &mut model, seed, operations.div_ceil(rounds));
        compare_whole(&disk, &model);
    }
    disk.end();
}

/// Random operations, until which and by which the disk holds what the model does.
pub fn play_round(disk: &Disk, model: &mut [u8], seed: u64, operations: u64) {
    let region = (model.len() as u64 / THREADS).next_multiple_of(512);
    std::thread::scope(|scope| {
        for (thread, bytes) in (0..).zip(model.chunks_mut(region as usize)) {
            let player = Player {
                disk: disk.open_direct(),
                start: thread * region,
                model: bytes,
                rng: Rng::of_run(seed + thread),
                shifts: 4096 / (disk.sysfs_number("queue/dma_alignment") + 1),
            };
            scope.spawn(move || player.play(operations.div_ceil(THREADS)));
        }
    });
}

pub fn compare_whole(disk: &Disk, model: &[u8]) {
    let file = disk.open_direct();
    let mut found = Buffer::new(MIB as usize);
    for (piece, wanted) in (0..).zip(model.chunks(MIB as usize)) {
        let found = &mut found[..wanted.len()];
        file.read_exact_at(found, piece * MIB).expect("read");
        assert_same(found, wanted, piece * MIB, "the whole disk");
    }
}

/// One thread's region of the disk and what should be there.
struct Player<'a> {
    disk: File,
    start: u64,
    model: &'a mut [u8],
    rng: Rng,
    /// How many places in a page a buffer may start at.
    shifts: u64,
}

impl Player<'_> {
    fn play(mut self, operations: u64) {
        for number in 0..operations {
            self.step(number);
        }
    }

    fn step(&mut self, number: u64) {
        let range = self.range();
        let at = self.start + range.start as u64..self.start + range.end as u64;
        let done = match self.rng.within(0..100) {
            0..=39 => self.read(range, number),
            40..=77 => self.write(range),
            78..=84 => self.clear(range, |disk| ioctl::discard(disk, at)),
            85..=88 => self.clear(range, |disk| ioctl::zero_out(disk, at)),
            89..=92 => self.clear(range, |disk| ioctl::punch(disk, at)),
            93..=94 => self.clear(range, |disk| ioctl::zero_range(disk, at)),
            _ => self.disk.sync_data(),
        };
        done.unwrap_or_else(|error| panic!("operation {number}: {error}"));
    }

    /// Sectors of the region; small ranges are likelier, often whole pages.
    fn range(&mut self) -> Range<usize> {
        let scale = (0..3).map(|_| self.rng.within(0..12)).min().unwrap_or(0);
        let mut len = 512 * self.rng.within(1..(1 << scale) + 1);
        let mut start = 512 * self.rng.within(0..self.model.len() as u64 / 512);
        if self.rng.within(0..3) == 0 {
            start &= !4095;
            len = len.next_multiple_of(4096);
        }
        let end = (start + len.min(LARGEST)).min(self.model.len() as u64);
        start as usize..end as usize
    }

    fn buffer(&mut self, len: usize) -> Buffer {
        let shift = self.rng.within(0..self.shifts) * (4096 / self.shifts);
        Buffer::shifted(len, shift as usize)
    }

    fn read(&mut self, range: Range<usize>, number: u64) -> std::io::Result<()> {
        let mut found = self.buffer(range.len());
        let at = self.start + range.start as u64;
        self.disk.read_exact_at(&mut found, at)?;
        assert_same(
            &found,
            &self.model[range],
            at,
            &format!("operation {number}"),
        );
        Ok(())
    }

    fn write(&mut self, range: Range<usize>) -> std::io::Result<()> {
        let mut bytes = self.buffer(range.len());
        self.rng.fill(&mut bytes);
        self.model[range.clone()].copy_from_slice(&bytes);
        let at = self.start + range.start as u64;
        self.disk.write_all_at(&bytes, at)
    }

    fn clear(
        &mut self,
        range: Range<usize>,
        how: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.model[range].fill(0);
        how(&self.disk)
    }
}

#[track_caller]
fn assert_same(found: &[u8], wanted: &[u8], at: u64, when: &str) {
    if found == wanted {
        return;
    }
    let differs = found.iter().zip(wanted).position(|(f, w)| f != w);
    let first = differs.expect("lengths are the same");
    let last = found.iter().zip(wanted).rposition(|(f, w)| f != w);
    panic!(
        "{when} at {at}, {} bytes: bytes {first} to {} differ, the first is {} and not {}",
        found.len(),
        last.unwrap_or(first),
        found[first],
        wanted[first]
    );
}

/// Writers of one letter each and discards meet in the same few pages: a reader finds letters and
/// zeros only, and what is written last in peace is what stays.
fn overlap(path: &str) {
    const RANGE: u64 = 256 << 10;
    const ROUNDS: u64 = 250;
    let disk = Disk::on(path, "none", "4M", &["--queues", "2"]);
    std::thread::scope(|scope| {
        for (stream, letter) in (1000..).zip([b'A', b'B', 0]) {
            let (file, mut rng) = (disk.open_direct(), Rng::of_run(stream));
            scope.spawn(move || {
                let mut bytes = Buffer::new(64 << 10);
                bytes.fill(letter);
                for _ in 0..ROUNDS {
                    let start = 512 * rng.within(0..RANGE / 512);
                    let len = (512 * rng.within(1..129)).min(RANGE - start);
                    if letter == 0 {
                        ioctl::discard(&file, start..start + len).expect("discard");
                    } else {
                        let bytes = &bytes[..len as usize];
                        file.write_all_at(bytes, start).expect("write");
                    }
                }
            });
        }
        let file = disk.open_direct();
        scope.spawn(move || {
            let mut found = Buffer::new(RANGE as usize);
            for _ in 0..ROUNDS / 4 {
                file.read_exact_at(&mut found, 0).expect("read");
                let strange = found.iter().find(|byte| !b"AB\0".contains(byte));
                assert_eq!(strange, None, "a byte nobody wrote");
            }
        });
    });
    let file = disk.open_direct();
    let mut bytes = Buffer::new(RANGE as usize);
    bytes.fill(b'Z');
    file.write_all_at(&bytes, 0).expect("write");
    bytes.fill(0);
    file.read_exact_at(&mut bytes, 0).expect("read");
    assert!(bytes.iter().all(|&byte| byte == b'Z'));
    drop(file);
    disk.end();
}
