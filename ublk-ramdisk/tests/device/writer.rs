// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client that knows what the disk must hold, whatever dies meanwhile.
//!
//! It is a process of its own: this program, started again. Each thread writes and discards 4 KiB blocks
//! of its own, one at a time, past the page cache. Each request gives its block the next generation,
//! and the bytes of a generation follow from its number. Before a request and after its end the
//! generation is written to a file in memory, which outlives the process. So of each block it is known
//! what was acknowledged last and what may be there besides.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::{Disk, MIB};
use crate::ioctl::{self, Buffer};
use crate::machine::{self, wait_for};
use crate::rng::Rng;
use crate::run::command;
use crate::runner::Test;

/// The first word of the command line, in the process that writes.
pub const WORD: &str = "--writer";
const BLOCK: u64 = 4096;
/// Requests of a thread between two flushes.
const FLUSH_EVERY: u64 = 64;

pub fn tests(tests: &mut Vec<Test>) {
    for path in machine::data_paths() {
        let name = format!("i3_each_block_holds_what_was_acknowledged_on_{path}");
        let test = Test::new(name, move || holds_what_was_acknowledged(path));
        tests.push(test.on_path_and_kernel(path));
    }
}

/// What a block holds in its n-th generation: zeros after a discard, and before the first request.
fn contents(block: u64, generation: u32, bytes: &mut [u8]) {
    if is_discard(block, generation) {
        return bytes.fill(0);
    }
    let seed = block << 32 | u64::from(generation);
    Rng::of(seed.wrapping_mul(0xd6e8_feb8_6659_fd93)).fill(bytes);
    bytes[..8].copy_from_slice(&block.to_le_bytes());
    bytes[8..12].copy_from_slice(&generation.to_le_bytes());
}

fn is_discard(block: u64, generation: u32) -> bool {
    generation == 0 || (block + u64::from(generation)).is_multiple_of(8)
}

/// For each block the generation that was issued last, and the one that was acknowledged last.
struct Generations(File);

impl Generations {
    fn open(path: &str) -> Generations {
        let file = File::options().read(true).write(true).open(path);
        Generations(file.unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    fn of(&self, block: u64) -> (u32, u32) {
        let mut words = [0; 8];
        self.0.read_exact_at(&mut words, block * 8).expect("a log");
        Generations::read(&words)
    }

    fn read(words: &[u8]) -> (u32, u32) {
        let number = |at: usize| u32::from_le_bytes(words[at..at + 4].try_into().expect("four"));
        (number(0), number(4))
    }

    fn set(&self, block: u64, word: u64, generation: u32) {
        let at = block * 8 + word * 4;
        self.0
            .write_all_at(&generation.to_le_bytes(), at)
            .expect("a log in memory");
    }
}

/// The process that writes: `--writer DISK LOG BLOCKS THREADS SEED`. It goes on until its input ends.
/// A request that fails ends it at once, with a line on standard error.
pub fn run(words: &[String]) -> io::Result<()> {
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    let (disk, log, blocks, threads, seed) =
        (&*words[0], &*words[1], number(2), number(3), number(4));
    let stop = AtomicBool::new(false);
    let one = |thread| write_until(&stop, disk, log, (thread, threads, blocks), seed);
    std::thread::scope(|scope| {
        let one = &one;
        let workers: Vec<_> = (0..threads).map(|n| scope.spawn(move || one(n))).collect();
        io::stdin().read_to_end(&mut Vec::new())?;
        stop.store(true, Ordering::Relaxed);
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no panic"))
    })
}

/// Writes to every `threads`-th block from `thread` on.
fn write_until(
    stop: &AtomicBool,
    disk: &str,
    log: &str,
    (thread, threads, blocks): (u64, u64, u64),
    seed: u64,
) -> io::Result<()> {
    let (disk, log) = (ioctl::open_direct(disk), Generations::open(log));
    let (mut rng, mut buffer) = (Rng::of(seed + thread), Buffer::new(BLOCK as usize));
    for request in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let block = rng.within(0..blocks / threads) * threads + thread;
        let generation = log.of(block).0 + 1;
        let at = block * BLOCK;
        contents(block, generation, &mut buffer);
        log.set(block, 0, generation);
        let done = match is_discard(block, generation) {
            true => ioctl::discard(&disk, at..at + BLOCK),
            false => disk.write_all_at(&buffer, at),
        };
        let done = done.and_then(|()| match request % FLUSH_EVERY {
            0 => disk.sync_data(),
            _ => Ok(()),
        });
        if let Err(error) = done {
            let line = format!("block {block}, generation {generation}: {error}\n");
            let _ = io::stderr().write_all(line.as_bytes());
            std::process::exit(1);
        }
        log.set(block, 1, generation);
    }
    Ok(())
}

/// A writer at work, as a test holds it.
pub struct Writer {
    child: Child,
    /// The writer ends with it.
    input: Option<ChildStdin>,
    log: PathBuf,
    said: PathBuf,
}

impl Writer {
    /// Starts a writer on the first blocks of a disk, which hold zeros.
    #[track_caller]
    pub fn start(disk: &Disk, blocks: u64, threads: u64) -> Writer {
        let place = |name: &str| PathBuf::from(machine::tmpfs_path(&format!("{name}-{}", disk.id)));
        let (log, said) = (place("generations"), place("writer"));
        let file = File::create(&log).expect("a file in memory");
        file.set_len(blocks * 8).expect("zeros");
        let numbers = [blocks, threads, Rng::seed_of_run() >> 8].map(|number| number.to_string());
        let mut child = command(std::env::current_exe().expect("this program"))
            .args([WORD, &disk.path])
            .arg(&log)
            .args(numbers)
            .stdin(Stdio::piped())
            .stderr(File::create(&said).expect("a file"))
            .spawn()
            .expect("it starts");
        let input = child.stdin.take();
        Writer {
            child,
            input,
            log,
            said,
        }
    }

    /// By block, the generation that was issued last, and the one that was acknowledged last.
    fn generations(&self) -> Vec<(u32, u32)> {
        let log = fs::read(&self.log).expect("the log");
        log.chunks(8).map(Generations::read).collect()
    }

    /// Requests that have been acknowledged.
    pub fn acknowledged(&self) -> u64 {
        let all = self.generations().into_iter();
        all.map(|(_, done)| u64::from(done)).sum()
    }

    /// Waits until `more` requests have been acknowledged. The writer is at work.
    #[track_caller]
    pub fn goes_on(&mut self, more: u64) {
        let before = self.acknowledged();
        wait_for("requests of the writer", || {
            let ended = self.child.try_wait().expect("it is ours");
            assert!(
                ended.is_none(),
                "the writer ended: {}",
                machine::read(&self.said)
            );
            self.acknowledged() >= before + more
        });
    }

    /// Lets the writer come to its end; no request has failed.
    #[track_caller]
    pub fn stop(&mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("it is ours");
        assert!(status.success(), "{status}: {}", machine::read(&self.said));
    }

    /// The blocks that hold neither what was acknowledged last nor what was issued last.
    pub fn wrong_blocks(&self, disk: &Path) -> Vec<String> {
        let disk = ioctl::open_direct(disk.to_str().expect("text"));
        let (mut found, mut right) = (Buffer::new(BLOCK as usize), vec![0; BLOCK as usize]);
        let mut wrong = Vec::new();
        for (block, (issued, acknowledged)) in (0..).zip(self.generations()) {
            disk.read_exact_at(&mut found, block * BLOCK).expect("read");
            let mut holds = |generation| {
                contents(block, generation, &mut right);
                found[..] == right[..]
            };
            if !(holds(acknowledged) || holds(issued)) {
                wrong.push(format!("{block}: not {acknowledged} to {issued}"));
            }
        }
        wrong
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Has an effect after a failure only.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for file in [&self.log, &self.said] {
            let _ = fs::remove_file(file);
        }
    }
}

/// Nothing dies here. The look at the blocks finds one that is wrong, and no other.
fn holds_what_was_acknowledged(path: &str) {
    let disk = Disk::on(path, "none", "16M", &["--queues", "2"]);
    let mut writer = Writer::start(&disk, 16 * MIB / BLOCK / 4, 4);
    writer.goes_on(400);
    writer.stop();
    let node = Path::new(&disk.path);
    assert_eq!(writer.wrong_blocks(node), [""; 0]);
    // An older generation of a block comes back.
    let written = |&(block, (_, done)): &(u64, (u32, u32))| done > 1 && !is_discard(block, done);
    let found = (0..).zip(writer.generations()).find(written);
    let (block, (_, done)) = found.expect("a block that was written twice");
    let older = (1..done).rev().find(|&older| !is_discard(block, older));
    let mut bytes = Buffer::new(BLOCK as usize);
    contents(block, older.unwrap_or(0), &mut bytes);
    let client = disk.open_direct();
    client.write_all_at(&bytes, block * BLOCK).expect("write");
    drop(client);
    assert_eq!(
        writer.wrong_blocks(node),
        [format!("{block}: not {done} to {done}")]
    );
    drop(writer);
    disk.end();
}
