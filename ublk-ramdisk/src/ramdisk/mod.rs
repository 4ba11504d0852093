// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver: turns requests into ranges of the store. The only part that knows
//! where the bytes are. It answers at once and accepts what it is given; nothing here waits for
//! memory yet.

mod page_state;

mod words;

pub mod store;

use std::ops::Range;

use crate::mq::{Answer, Data, Disk, Hctx, Issued, Op, Operations, Request, Run, Status};
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

    #[inline]
    fn serve<'q>(&self, rq: Issued<'q>) -> Answer<'q> {
        let (op, range) = (rq.request().op(), range(rq.request()));
        let data = match op {
            Op::Read => match self.store.pin_for_read(range) {
                Readable::Memory(address) => Ok(Data::Contiguous(address)),
                Readable::Hole => Ok(Data::Zeros),
                Readable::Mixed => Ok(Data::Scattered),
            },
            Op::Write => self.store.pin_for_write(range).map(Data::Contiguous),
            // Every write is in the store when it is committed (C34).
            Op::Flush => return Answer::Ok(rq.end(Ok(()))),
            Op::Discard | Op::WriteZeroes { unmap: true } => {
                self.store.discard(range);
                return Answer::Ok(rq.end(Ok(())));
            }
            Op::WriteZeroes { unmap: false } => {
                let written = self.store.write_zeros(range);
                return match written {
                    Ok(()) => Answer::Ok(rq.end(Ok(()))),
                    Err(error) => Answer::Error(rq, no_memory(&error)),
                };
            }
        };
        match data {
            Ok(data) => Answer::Ok(rq.transfer(data)),
            Err(error) => Answer::Error(rq, no_memory(&error)),
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

impl Disk for Ramdisk {
    #[inline]
    fn capacity(&self) -> u64 {
        self.store.size()
    }

    fn needs_memory(&self, request: &Request) -> bool {
        let allocates = matches!(request.op(), Op::Write | Op::WriteZeroes { unmap: false });
        allocates && !self.store.is_present(&range(request))
    }
}

impl Operations for Ramdisk {
    #[inline]
    fn queue_rq<'q>(&self, _hctx: Hctx<'_>, rq: Issued<'q>, _last: bool) -> Answer<'q> {
        self.serve(rq)
    }

    fn runs(&self, request: &Request, each: &mut dyn FnMut(Run)) {
        self.store.runs(range(request), each);
    }

    #[inline]
    fn complete(&self, _hctx: Hctx<'_>, request: &Request) {
        self.store.unpin(range(request));
    }
}
