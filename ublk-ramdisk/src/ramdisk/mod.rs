// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver: turns requests into ranges of the store. The only part that knows
//! where the bytes are. It answers at once; nothing here waits for memory yet.

mod page_state;

mod words;

pub mod store;

use std::ops::Range;

use crate::mq::direct::{Operations, Queued};
use crate::mq::{Data, Op, Request, Run, Status};
use store::{Readable, Store};

/// A disk in memory.
#[derive(Debug)]
pub struct Ramdisk {
    store: Store,
}

impl Ramdisk {
    /// Serves what is in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The bytes behind the disk.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn write_zeros(&self, range: Range<u64>) -> Queued {
        match self.store.write_zeros(range) {
            Ok(()) => Queued::Done,
            Err(error) => Queued::Failed(no_memory(&error)),
        }
    }
}

fn range(request: &Request) -> Range<u64> {
    request.offset()..request.offset() + request.len()
}

/// Every way in which memory cannot be had is the end of space for the client:
/// ENOMEM and EAGAIN are never committed (B6).
fn no_memory(error: &std::io::Error) -> Status {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::ENOMEM | libc::EDQUOT | libc::EFBIG) => Status::NoSpc,
        _ => Status::IoErr,
    }
}

impl Operations for Ramdisk {
    #[inline]
    fn capacity(&self) -> u64 {
        self.store.size()
    }

    #[inline]
    fn queue_rq(&self, request: &Request) -> Queued {
        match request.op() {
            Op::Read => Queued::Move(match self.store.pin_for_read(range(request)) {
                Readable::Memory(address) => Data::Contiguous(address),
                Readable::Hole => Data::Zeros,
                Readable::Mixed => Data::Scattered,
            }),
            Op::Write => match self.store.pin_for_write(range(request)) {
                Ok(address) => Queued::Move(Data::Contiguous(address)),
                Err(error) => Queued::Failed(no_memory(&error)),
            },
            // Every write is in the store when it is committed (C34).
            Op::Flush => Queued::Done,
            Op::Discard | Op::WriteZeroes { unmap: true } => {
                self.store.discard(range(request));
                Queued::Done
            }
            Op::WriteZeroes { unmap: false } => self.write_zeros(range(request)),
        }
    }

    fn runs(&self, request: &Request, each: &mut dyn FnMut(Run)) {
        self.store.runs(range(request), each);
    }

    #[inline]
    fn complete(&self, request: &Request) {
        self.store.unpin(range(request));
    }
}
