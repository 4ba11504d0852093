// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the mirror of blk-mq costs: 4 KiB requests on one thread, straight at the store and through
//! the mirror and the driver in front of it.
//!
//! Both ways pin, copy and unpin the same pages; the copy is the client's, so that what differs is
//! the dispatch alone. The random places are drawn beforehand, and both ways get the same.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use ublk_ramdisk::backend::Mirror;
use ublk_ramdisk::mq::{
    Data, Home, Lane, Limits, Moved, Moving, Op, Operations, Request, Run, Status, TagSet,
    Transport,
};
use ublk_ramdisk::pressure::{Pressured, Settings};
use ublk_ramdisk::ramdisk::space::SpaceOptions;
use ublk_ramdisk::ramdisk::store::{Readable, Store, CHUNK};
use ublk_ramdisk::ramdisk::Ramdisk;

/// Bytes of each request.
pub const BLOCK: usize = 4096;
/// Tags of the queue that the requests take in turn.
const DEPTH: u16 = 128;

/// Moves a block.
/// # Safety
/// Both ends are valid for [`BLOCK`] bytes and do not overlap.
unsafe fn copy(from: *const u8, to: *mut u8) {
    // SAFETY: as the caller says. libc's, as in the server: the store is shared with others.
    unsafe { libc::memcpy(to.cast(), from.cast(), BLOCK) };
}

/// CPU time of the calling thread: what others do on this CPU meanwhile does not count.
pub fn thread_time() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec of this frame.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// One client's memory: on a page of its own, as a server's buffers are.
struct Client(Box<Page>);

#[repr(align(4096))]
struct Page([u8; BLOCK]);

impl Client {
    /// Does what a transport does with a request, in memory.
    fn transfer(&mut self, op: Op, data: Data) -> Result<u64, Status> {
        let ours = self.0 .0.as_mut_ptr();
        // SAFETY: the driver has pinned a whole block for the request, and the block here is ours.
        unsafe {
            match (op, data) {
                (Op::Read, Data::Contiguous(from)) => copy(from.as_ptr(), ours),
                (Op::Write, Data::Contiguous(to)) => copy(ours, to.as_ptr()),
                _ => return Err(Status::IoErr),
            }
        }
        Ok(BLOCK as u64)
    }
}

/// The end of the line: what the queue's own thread is told.
struct Ends {
    client: Client,
    bytes: u64,
    ramdisk: Arc<Ramdisk>,
}

impl Ends {
    /// The same with a READ whose bytes are in pieces: compressed ones are.
    #[cold]
    fn gather(&mut self, request: &Request) -> Result<u64, Status> {
        let (ours, mut done) = (self.client.0 .0.as_mut_ptr(), 0);
        self.ramdisk.runs(request, &mut |run| {
            let Run::Memory(from, len) = run else {
                unreachable!("every block has been written");
            };
            assert!(done + len <= BLOCK, "the runs are as long as the request");
            // SAFETY: within the block that is ours; the run is memory for the length of the call.
            unsafe { libc::memcpy(ours.add(done).cast(), from.as_ptr().cast(), len) };
            done += len;
        });
        Ok(done as u64)
    }
}

impl Home for Ends {
    fn transfer<'m>(&mut self, moving: Moving<'m>) -> Moved<'m> {
        let outcome = match moving.data() {
            Data::Scattered => self.gather(moving.request()),
            data => self.client.transfer(moving.request().op(), data),
        };
        moving.done(outcome)
    }

    fn end(&mut self, _request: &Request, result: i32) {
        self.bytes += u64::try_from(result).expect("no request fails here");
    }
}

/// No request is refused, so no worker ever has one.
struct Nobody;

impl Transport for Nobody {
    fn transfer<'m>(&self, moving: Moving<'m>) -> Moved<'m> {
        moving.done(Err(Status::IoErr))
    }

    fn end(&self, _queue: u16, _request: &Request, _result: i32) {}
}

/// Both ways to one store.
pub struct Bed {
    /// Blocks to visit, in order, again and again.
    places: Vec<u64>,
    limits: Limits,
    ends: Ends,
    lane: Lane,
    ramdisk: Arc<Ramdisk>,
    _mirror: Mirror,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The store's own functions.
    Direct,
    /// Lane, mirror, driver, store.
    Mirror,
}

impl Way {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "store",
            Self::Mirror => "mirror",
        }
    }
}

/// What `--reclaim compress` has done to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// It is off.
    Off,
    /// It is on, and everything is used too often.
    Idle,
    /// All chunks are compressed.
    Done,
}

impl Compression {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Idle => "idle",
            Self::Done => "compressed",
        }
    }

    fn options(self) -> SpaceOptions {
        let (compress_after, reclaim_every) = match self {
            Self::Off => (None, None),
            // What `--reclaim compress` comes with.
            Self::Idle => (Some(Duration::from_secs(30)), None),
            Self::Done => (Some(Duration::ZERO), Some(Duration::from_millis(1))),
        };
        SpaceOptions {
            compress_after,
            reclaim_every,
            ..SpaceOptions::default()
        }
    }
}

/// Bytes that LZ4 makes a quarter of: each eighth is random.
fn fill(block: &mut [u8]) {
    let mut random = 1_u64;
    for byte in block.iter_mut().step_by(8) {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
        *byte = (random >> 56) as u8;
    }
}

impl Bed {
    /// A store of `blocks`, all of them there.
    pub fn new(blocks: u64) -> Self {
        Self::with(blocks, Compression::Off)
    }

    /// The same in this state, which a WRITE to compressed blocks ends. Whole chunks.
    pub fn with(blocks: u64, compression: Compression) -> Self {
        let size = blocks * BLOCK as u64;
        let store = Store::anonymous(size, false).expect("memory for a store");
        if compression != Compression::Off {
            store
                .enable_compression()
                .expect("a memfd can be compressed");
        }
        for block in 0..blocks {
            let range = block * BLOCK as u64..(block + 1) * BLOCK as u64;
            store.populate(range.clone()).expect("memory");
            let mut bytes = [0; BLOCK];
            fill(&mut bytes);
            // SAFETY: the block is there and pinned, and nobody else has the store.
            unsafe { copy(bytes.as_ptr(), store.pinned(&range).as_ptr()) };
            store.unpin(range);
        }
        let ramdisk = Ramdisk::new(store).with_space(compression.options());
        let ramdisk = Arc::new(ramdisk);
        let set = TagSet::new(1, DEPTH);
        let pressed = Pressured::new(ramdisk.clone(), Settings::default(), 1, DEPTH);
        let mirror = Mirror::start(set, Arc::new(pressed), Arc::new(Nobody)).expect("threads");
        if compression == Compression::Done {
            while ramdisk.store().compression_stats().stand_for < size.next_multiple_of(CHUNK) {
                std::thread::sleep(Duration::from_millis(1));
            }
            ramdisk.set_reclaim(false, None);
        }
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let places = (0..4096)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % blocks * BLOCK as u64
            })
            .collect();
        Self {
            places,
            limits: Limits {
                size,
                block_size: 512,
                max_data: 512 << 10,
                read_only: false,
            },
            ends: Ends {
                client: Client(Box::new(Page([7; BLOCK]))),
                bytes: 0,
                ramdisk: ramdisk.clone(),
            },
            lane: mirror.lane(0),
            ramdisk,
            _mirror: mirror,
        }
    }

    /// So many requests. Answers the bytes moved.
    pub fn run(&mut self, way: Way, op: Op, requests: usize) -> u64 {
        self.ends.bytes = 0;
        match way {
            Way::Direct => self.direct(op, requests),
            Way::Mirror => self.through_mirror(op, requests),
        }
        self.ends.bytes
    }

    fn direct(&mut self, op: Op, requests: usize) {
        for (n, &at) in self.places.iter().cycle().take(requests).enumerate() {
            // Checked as a front end does, also without a mirror behind it.
            let request = check(&self.limits, n, op, at);
            let range = request.offset()..request.offset() + request.len();
            let store = self.ramdisk.store();
            let address: NonNull<u8> = match op {
                Op::Read => match store.pin_for_read(range.clone()) {
                    Readable::Memory(address) => address,
                    _ => unreachable!("every block is there, and not compressed"),
                },
                _ => store.pin_for_write(range.clone()).expect("it is there"),
            };
            let moved = self.ends.client.transfer(op, Data::Contiguous(address));
            store.unpin(range);
            self.ends.bytes += moved.expect("a block was pinned");
        }
    }

    fn through_mirror(&mut self, op: Op, requests: usize) {
        for (n, &at) in self.places.iter().cycle().take(requests).enumerate() {
            let request = check(&self.limits, n, op, at);
            self.lane.insert(&request, &mut self.ends);
        }
    }
}

fn check(limits: &Limits, n: usize, op: Op, at: u64) -> Request {
    let tag = (n % usize::from(DEPTH)) as u16;
    let sectors = (BLOCK / 512) as u32;
    Request::check(tag, op, at / 512, sectors, limits).expect("within the disk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_moves_too() {
        for compression in [Compression::Off, Compression::Idle, Compression::Done] {
            let mut bed = Bed::with(32, compression);
            let moved = bed.run(Way::Mirror, Op::Read, 100);
            assert_eq!(moved, 100 * BLOCK as u64, "{compression:?}");
            let mut filled = [0; BLOCK];
            fill(&mut filled);
            assert!(bed.ends.client.0 .0 == filled, "{compression:?}");
            let compressed = bed.ramdisk.store().compression_stats().compressed;
            let all = if compression == Compression::Done {
                2
            } else {
                0
            };
            assert_eq!(compressed, all);
        }
    }

    #[test]
    fn both_ways_move_every_block() {
        let mut bed = Bed::new(8);
        for way in [Way::Direct, Way::Mirror] {
            for op in [Op::Read, Op::Write] {
                assert_eq!(
                    bed.run(way, op, 1000),
                    1000 * BLOCK as u64,
                    "{way:?} {op:?}"
                );
            }
        }
    }
}
