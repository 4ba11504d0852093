// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the mirror of blk-mq costs: 4 KiB requests on one thread, straight at the store and through
//! the mirror and the driver in front of it.
//!
//! Both ways pin, copy and unpin the same pages. The copy is the client's, so that what differs is
//! the dispatch alone. The random offsets are drawn beforehand, and both ways get the same.

use std::ptr::NonNull;
use std::sync::Arc;

use ublk_ramdisk::backend::Mirror;
use ublk_ramdisk::mq::{
    Data, DataTransfer, Limits, LocalCompletion, NoFrontEnd, Op, Request, Status, Submitter,
    TagSet, TransferAnswer,
};
use ublk_ramdisk::pressure::{Pressured, Settings};
use ublk_ramdisk::ramdisk::store::{Readable, Store};
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

/// One client's memory: on a page of its own, as a server's buffers are.
struct Client(Box<Page>);

/// A block at an address that is a multiple of its size.
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

/// What a queue thread does at the end of a request, with a client in memory in the kernel's place.
struct Completions {
    client: Client,
    bytes: u64,
}

impl LocalCompletion for Completions {
    fn transfer<'m>(&mut self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        let outcome = self
            .client
            .transfer(transfer.request().op(), transfer.data());
        transfer.done(outcome)
    }

    fn end(&mut self, _request: &Request, result: i32) {
        self.bytes += u64::try_from(result).expect("no request fails here");
    }
}

/// One store and both ways to it, for one queue.
pub struct Bed {
    /// Blocks to visit, in order, again and again.
    offsets: Vec<u64>,
    limits: Limits,
    completions: Completions,
    submitter: Submitter,
    ramdisk: Arc<Ramdisk>,
    _mirror: Arc<Mirror>,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// The store's own functions.
    #[value(name = "store")]
    Direct,
    /// Submitter, mirror, driver, store.
    Mirror,
}

impl Bed {
    /// A store of `blocks`, all of them there, behind one queue. Fails by a panic if there is no
    /// memory or no thread for it.
    pub fn new(blocks: u64) -> Self {
        let mut one = Self::several(1, blocks);
        one.pop().expect("one queue")
    }

    /// The same behind several queues, one bed for each: a queue's bed visits `blocks` of its own.
    pub fn several(queues: u16, blocks: u64) -> Vec<Self> {
        let all = u64::from(queues) * blocks;
        let size = all * BLOCK as u64;
        let store = Store::anonymous(size, false).expect("memory for a store");
        for block in 0..all {
            let range = block * BLOCK as u64..(block + 1) * BLOCK as u64;
            store.populate(range.clone()).expect("memory");
            let bytes = [7; BLOCK];
            // SAFETY: the block is there and pinned, and nobody else has the store.
            unsafe { copy(bytes.as_ptr(), store.address_of(&range).as_ptr()) };
            store.unpin(range);
        }
        let ramdisk = Arc::new(Ramdisk::new(store));
        let set = TagSet::new(queues, DEPTH);
        let pressed = Pressured::new(ramdisk.clone(), Settings::default(), queues, DEPTH);
        let mirror = Mirror::start(set, Arc::new(pressed), Arc::new(NoFrontEnd)).expect("threads");
        let mirror = Arc::new(mirror);
        let bed = |queue: u16| Self {
            offsets: offsets(u64::from(queue) * blocks, blocks),
            limits: Limits {
                size,
                block_size: 512,
                max_data: 512 << 10,
                read_only: false,
            },
            completions: Completions {
                client: Client(Box::new(Page([7; BLOCK]))),
                bytes: 0,
            },
            submitter: mirror.submitter(queue),
            ramdisk: ramdisk.clone(),
            _mirror: mirror.clone(),
        };
        (0..queues).map(bed).collect()
    }

    /// Does this number of requests. Returns the bytes moved. The blocks are the same ones in the
    /// same order, whichever way is taken.
    pub fn run(&mut self, way: Way, op: Op, requests: usize) -> u64 {
        self.completions.bytes = 0;
        match way {
            Way::Direct => self.direct(op, requests),
            Way::Mirror => self.through_mirror(op, requests),
        }
        self.completions.bytes
    }

    /// Straight at the store: check, pin, copy, unpin.
    fn direct(&mut self, op: Op, requests: usize) {
        for (n, &at) in self.offsets.iter().cycle().take(requests).enumerate() {
            // Checked as a front end does, also without a mirror behind it.
            let request = check(&self.limits, n, op, at);
            let range = request.offset()..request.offset() + request.len();
            let store = self.ramdisk.store();
            let address: NonNull<u8> = match op {
                Op::Read => match store.pin_for_read(range.clone()) {
                    Readable::Memory(address) => address,
                    _ => unreachable!("every block is there"),
                },
                _ => store.pin_for_write(range.clone()).expect("it is there"),
            };
            let moved = self
                .completions
                .client
                .transfer(op, Data::Contiguous(address));
            store.unpin(range);
            self.completions.bytes += moved.expect("a block was pinned");
        }
    }

    /// As a queue thread does: check, insert, and all that follows from it.
    fn through_mirror(&mut self, op: Op, requests: usize) {
        for (n, &at) in self.offsets.iter().cycle().take(requests).enumerate() {
            let request = check(&self.limits, n, op, at);
            self.submitter.insert(&request, &mut self.completions);
        }
    }
}

/// The places of 4096 requests to `blocks` blocks from `first` on, the same ones in every run.
fn offsets(first: u64, blocks: u64) -> Vec<u64> {
    let mut random = 0x2545_f491_4f6c_dd1d_u64; // xorshift
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    (0..4096)
        .map(|_| (first + next() % blocks) * BLOCK as u64)
        .collect()
}

/// Makes the n-th request, as a front end makes it of what its client asks for.
fn check(limits: &Limits, n: usize, op: Op, at: u64) -> Request {
    let tag = (n % usize::from(DEPTH)) as u16;
    let sectors = (BLOCK / 512) as u32;
    Request::check(tag, op, at / 512, sectors, limits).expect("within the disk")
}

#[cfg(test)]
mod tests {
    use super::*;

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
