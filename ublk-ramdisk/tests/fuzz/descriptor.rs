// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors, through the code that a queue thread runs on them and the mirror of blk-mq, onto a
//! small disk. What is wrong is refused with its status, what is right does what a model says, and
//! no byte behind the end of the disk changes (H11). Needs no driver.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ublk_ramdisk::backend::Mirror;
use ublk_ramdisk::mq::{
    Data, DataTransfer, Disk, FrontEnd, Limits, Op, Operations, Request, Run, Status, Submitter,
    TagSet, TransferAnswer, ViaFrontEnd,
};
use ublk_ramdisk::pressure::{Pressured, Settings};
use ublk_ramdisk::ramdisk::store::Store;
use ublk_ramdisk::ramdisk::Ramdisk;
use ublk_ramdisk::ublk::operation;

use super::rng::Rng;

/// How long the fuzzer waits for a sign before it calls the disk hung.
const HUNG: Duration = Duration::from_secs(60);
const DISK: usize = 1 << 20;
const GUARD: usize = 1 << 20;
const MAX_DATA: u32 = 64 << 10;
const GUARD_BYTE: u8 = 0xee;

/// Serves the descriptors that `bytes` are read as, on a disk that is empty, and compares what is
/// in the file then. Returns how many were accepted.
pub fn serve_all(bench: &mut Bench, bytes: &[u8]) -> usize {
    bench.clear();
    let descriptors = bytes.chunks_exact(Descriptor::LEN).map(Descriptor::read);
    let mut rng = Rng::of(bytes.len() as u64);
    let accepted = (1..)
        .zip(descriptors)
        .filter(|(number, descriptor)| bench.serve(descriptor, &mut rng, *number));
    let accepted = accepted.count();
    bench.compare_file(0);
    accepted
}

/// What the driver could write into a descriptor, and the disk it is for.
#[derive(Debug)]
pub struct Descriptor {
    op_flags: u32,
    nr_sectors: u32,
    start_sector: u64,
    block_size: u32,
    read_only: bool,
}

impl Descriptor {
    /// Bytes that one is read from.
    const LEN: usize = 17;

    fn read(bytes: &[u8]) -> Descriptor {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Descriptor {
            op_flags: word(0),
            nr_sectors: word(4),
            start_sector: u64::from(word(8)) | u64::from(word(12)) << 32,
            block_size: if bytes[16] & 1 == 0 { 512 } else { 4096 },
            read_only: bytes[16] & 2 != 0,
        }
    }

    /// One of which about half are accepted.
    pub fn random(rng: &mut Rng) -> Descriptor {
        let sectors = DISK as u64 / 512;
        let op = match rng.within(0..10) {
            0..=7 => [0, 0, 1, 1, 2, 3, 5, 5][rng.within(0..8) as usize],
            _ => rng.within(0..256) as u32,
        };
        let flags = match rng.within(0..3) {
            0 => 0,
            1 => 1 << rng.within(8..32),
            _ => (rng.next() as u32) & !0xff,
        };
        let start_sector = match rng.within(0..16) {
            0 => rng.next(),
            1 => u64::MAX - rng.within(0..300),
            2 => u64::MAX / 512 - rng.within(0..300),
            3 => sectors - rng.within(0..16),
            4 => sectors + rng.within(0..GUARD as u64 / 512),
            5..=9 => rng.within(0..sectors / 8) * 8,
            _ => rng.within(0..sectors),
        };
        let nr_sectors = match rng.within(0..16) {
            0 => rng.next() as u32,
            1 => u32::MAX - rng.within(0..300) as u32,
            2 => 0,
            3 => MAX_DATA / 512 + rng.within(0..3) as u32 - 1,
            4 => rng.within(0..2 * sectors) as u32,
            5..=9 => rng.within(1..9) as u32 * 8,
            _ => rng.within(1..33) as u32,
        };
        Descriptor {
            op_flags: op | flags,
            nr_sectors,
            start_sector,
            block_size: if rng.within(0..4) == 0 { 4096 } else { 512 },
            read_only: rng.within(0..8) == 0,
        }
    }

    /// Every reason to refuse it, in arithmetic that cannot overflow.
    fn faults(&self, op: Option<Op>) -> Vec<Status> {
        let Some(op) = op else {
            return vec![Status::NotSupp];
        };
        if op == Op::Flush {
            return Vec::new();
        }
        let start = u128::from(self.start_sector) * 512;
        let len = u128::from(self.nr_sectors) * 512;
        let block = u128::from(self.block_size);
        let mut faults = Vec::new();
        let mut add = |wrong: bool, status| {
            if wrong {
                faults.push(status);
            }
        };
        add(start + len > DISK as u128, Status::IoErr);
        add(self.read_only && op.modifies(), Status::IoErr);
        add(op.has_data() && len == 0, Status::IoErr);
        add(op.has_data() && len > MAX_DATA.into(), Status::Inval);
        add(start % block != 0 || len % block != 0, Status::Inval);
        faults
    }
}

/// The kernel's numbers, said again: what an operation word means.
fn meaning(op_flags: u32) -> Option<Op> {
    const NOUNMAP: u32 = 1 << 15;
    match op_flags & 0xff {
        0 => Some(Op::Read),
        1 => Some(Op::Write),
        2 => Some(Op::Flush),
        3 => Some(Op::Discard),
        5 => Some(Op::WriteZeroes {
            unmap: op_flags & NOUNMAP == 0,
        }),
        _ => None,
    }
}

/// Whose request it is: checks that the memory it is given is its own, and copies, on whichever
/// thread issues it.
struct Client {
    driver: Arc<Ramdisk>,
    /// Where the disk begins in memory.
    base: usize,
    now: Mutex<Now>,
    ended: Condvar,
}

/// The request of the moment.
#[derive(Default)]
struct Now {
    bytes: Vec<u8>,
    result: Option<i32>,
}

impl Client {
    fn move_bytes<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        let (request, data) = (*transfer.request(), transfer.data());
        let bytes = &mut self.now.lock().expect("no panic").bytes;
        match (request.op(), data) {
            (Op::Write, Data::Contiguous(to)) => {
                assert_eq!(to.as_ptr(), self.at(request.offset() as usize));
                // SAFETY: the address was checked, and the request lies within the disk, whose
                // memory is the driver's until its `complete`.
                unsafe { to.as_ptr().copy_from(bytes.as_ptr(), bytes.len()) };
            }
            (Op::Read, data) => *bytes = self.gather(&request, data),
            _ => panic!("{transfer:?}"),
        }
        transfer.done(Ok(request.len()))
    }

    fn end(&self, result: i32) {
        let now = &mut self.now.lock().expect("no panic");
        assert_eq!(now.result.replace(result), None, "ended twice");
        self.ended.notify_all();
    }

    fn at(&self, offset: usize) -> *mut u8 {
        (self.base + offset) as *mut u8
    }

    fn gather(&self, request: &Request, data: Data) -> Vec<u8> {
        let len = request.len() as usize;
        let mut found = Vec::with_capacity(len);
        let mut take = |run| {
            let at = request.offset() as usize + found.len();
            match run {
                Run::Zeros(count) => found.resize(found.len() + count, 0),
                Run::Memory(from, count) => {
                    assert_eq!(from.as_ptr(), self.at(at));
                    assert!(found.len() + count <= len);
                    // SAFETY: the address was checked, the range lies within the request, and
                    // the request within the disk; it is pinned until the driver's `complete`.
                    let bytes = unsafe { std::slice::from_raw_parts(from.as_ptr(), count) };
                    found.extend_from_slice(bytes);
                }
            }
        };
        match data {
            Data::Contiguous(from) => take(Run::Memory(from, len)),
            Data::Zeros => take(Run::Zeros(len)),
            Data::Scattered => self.driver.runs(request, &mut take),
        }
        found
    }

    /// Waits for the end of the request of the moment.
    fn wait(&self) -> Now {
        let mut now = self.now.lock().expect("no panic");
        while now.result.is_none() {
            let (next, late) = self.ended.wait_timeout(now, HUNG).expect("no panic");
            assert!(!late.timed_out(), "a request never ended");
            now = next;
        }
        std::mem::take(&mut now)
    }
}

impl FrontEnd for Client {
    fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        self.move_bytes(transfer)
    }

    fn end(&self, _: u16, _: &Request, result: i32) {
        Client::end(self, result);
    }
}

/// A disk behind its mirror, the file behind it, which is longer, and what should be in it.
pub struct Bench {
    lane: Submitter,
    mirror: Mirror,
    client: Arc<Client>,
    file: File,
    model: Vec<u8>,
}

impl Bench {
    /// A disk that is empty.
    pub fn new() -> Bench {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = PathBuf::from(format!("/dev/shm/ublk-fuzz-{process}-{number}"));
        let whole = (DISK + GUARD) as u64;
        let store = Store::in_file(&path, whole, true).expect("a store on a tmpfs");
        let file = File::options().read(true).write(true).open(&path);
        let file = file.expect("the file behind it");
        // A fuzzer ends without dropping anything.
        fs::remove_file(&path).expect("its own");
        file.write_all_at(&[GUARD_BYTE; GUARD], DISK as u64)
            .expect("the guard");
        // The mapping and the file stay as long as they were.
        store.shrink(DISK as u64);
        store.populate(0..512).expect("a page");
        let base = store.pin_for_write(0..512).expect("it is there");
        store.unpin(0..512);
        store.unpin(0..512);
        let driver = Arc::new(Ramdisk::new(store));
        let client = Arc::new(Client {
            driver: driver.clone(),
            base: base.as_ptr() as usize,
            now: Mutex::default(),
            ended: Condvar::new(),
        });
        let pressed = Pressured::new(driver, Settings::default(), 1, 4);
        let mirror = Mirror::start(TagSet::new(1, 4), Arc::new(pressed), client.clone());
        let mirror = mirror.expect("threads");
        Bench {
            lane: mirror.submitter(0),
            mirror,
            client,
            file,
            model: vec![0; DISK],
        }
    }

    /// Discards the whole disk.
    fn clear(&mut self) {
        let all = Descriptor {
            op_flags: 3,
            nr_sectors: DISK as u32 / 512,
            start_sector: 0,
            block_size: 512,
            read_only: false,
        };
        assert!(self.serve(&all, &mut Rng::of(0), 0), "the disk is cleared");
    }

    /// Serves one descriptor as a queue thread does. Returns true if it was accepted.
    pub fn serve(&mut self, descriptor: &Descriptor, rng: &mut Rng, number: u64) -> bool {
        let op = operation(descriptor.op_flags);
        assert_eq!(op, meaning(descriptor.op_flags), "{number}: {descriptor:?}");
        let limits = Limits {
            size: self.client.driver.capacity(),
            block_size: descriptor.block_size,
            max_data: MAX_DATA,
            read_only: descriptor.read_only,
        };
        let checked = op.ok_or(Status::NotSupp).and_then(|op| {
            let Descriptor {
                start_sector,
                nr_sectors,
                ..
            } = *descriptor;
            Request::check(3, op, start_sector, nr_sectors, &limits)
        });
        let faults = descriptor.faults(op);
        match checked {
            Ok(request) => {
                assert!(
                    faults.is_empty(),
                    "{number}: {descriptor:?} has {faults:?} and was accepted"
                );
                self.queue(&request, rng, number);
                true
            }
            Err(status) => {
                assert!(
                    faults.contains(&status),
                    "{number}: {descriptor:?} got {status:?}, not one of {faults:?}"
                );
                false
            }
        }
    }

    fn queue(&mut self, request: &Request, rng: &mut Rng, number: u64) {
        let range = request.offset() as usize..(request.offset() + request.len()) as usize;
        let mut bytes = vec![
            0;
            if request.op().has_data() {
                range.len()
            } else {
                0
            }
        ];
        if request.op() == Op::Write {
            rng.fill(&mut bytes);
        }
        let moved = bytes.len() as i32;
        *self.client.now.lock().expect("no panic") = Now {
            bytes,
            result: None,
        };
        self.lane
            .insert(request, &mut ViaFrontEnd::new(&*self.client, 0));
        let client = self.client.wait();
        assert_eq!(client.result, Some(moved), "{number}: {request:?}");
        match request.op() {
            Op::Write => self.model[range].copy_from_slice(&client.bytes),
            Op::Read => assert!(client.bytes == self.model[range], "{number}: {request:?}"),
            Op::Discard | Op::WriteZeroes { .. } => self.model[range].fill(0),
            Op::Flush => {}
        }
    }

    /// The file holds what the model says, and the guard behind it.
    pub fn compare_file(&self, number: u64) {
        let mut found = vec![0; DISK + GUARD];
        self.file.read_exact_at(&mut found, 0).expect("read");
        assert!(found[..DISK] == self.model, "after {number} inputs");
        assert!(
            found[DISK..] == [GUARD_BYTE; GUARD],
            "behind the disk after {number} inputs"
        );
    }

    /// Waits until the mirror holds nothing any more. The last end is told a moment before it is
    /// counted.
    pub fn rest(&self) {
        let begun = Instant::now();
        while let Some(fault) = self.mirror.queue().fault_at_rest() {
            assert!(begun.elapsed() < HUNG, "{fault}");
            std::thread::yield_now();
        }
    }
}
