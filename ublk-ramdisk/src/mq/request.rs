// SPDX-License-Identifier: MIT OR Apache-2.0
//! One request, checked, and where a driver has its bytes.
//!
//! [`Request::check`] is the only way to make one, so a request's bounds are never looked at again.
//! Kernel counterparts: `struct request` after `blk_mq_start_request`, and for [`Data`] its `bio`.
//! There a driver is given the client's pages and copies. Here it names its own memory, and the front
//! end copies.

use super::status::Status;
use std::ptr::NonNull;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Store to client.
    Read,
    /// Client to store.
    Write,
    /// Everything committed before is to be in the store.
    Flush,
    /// The range reads as zeros and its memory is given back.
    Discard,
    /// The range reads as zeros.
    WriteZeroes {
        /// The memory may be given back.
        unmap: bool,
    },
}

impl Op {
    /// The names of all operations, in the order of [`Op::index`].
    pub const NAMES: [&'static str; 5] = ["read", "write", "flush", "discard", "write-zeroes"];

    /// Its place among the five operations.
    pub fn index(self) -> usize {
        match self {
            Op::Read => 0,
            Op::Write => 1,
            Op::Flush => 2,
            Op::Discard => 3,
            Op::WriteZeroes { .. } => 4,
        }
    }

    /// As it is printed and typed.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// True if it moves the client's bytes.
    pub fn has_data(self) -> bool {
        matches!(self, Op::Read | Op::Write)
    }

    /// True if it changes what later reads return.
    pub fn modifies(self) -> bool {
        !matches!(self, Op::Read | Op::Flush)
    }
}

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of the disk in bytes, as it is now.
    pub size: u64,
    /// Logical block in bytes, a power of two.
    pub block_size: u32,
    /// Largest READ or WRITE in bytes.
    pub max_data: u32,
    /// Refuses everything that modifies (H5).
    pub read_only: bool,
}

/// A request whose range lies within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    tag: u16,
    op: Op,
    offset: u64,
    len: u64,
    fua: bool,
}

impl Request {
    /// Checks what arrived under `tag` (H11, H5). Touches no memory.
    #[inline]
    pub fn check(
        tag: u16,
        op: Op,
        sector: u64,
        nr_sectors: u32,
        limits: &Limits,
    ) -> Result<Self, Status> {
        if op == Op::Flush {
            return Ok(Self {
                tag,
                op,
                offset: 0,
                len: 0,
                fua: false,
            });
        }
        let len = u64::from(nr_sectors) << 9;
        let offset = sector.checked_mul(512).ok_or(Status::IoErr)?;
        let end = offset.checked_add(len).ok_or(Status::IoErr)?;
        if end > limits.size || (limits.read_only && op.modifies()) {
            return Err(Status::IoErr);
        }
        if op.has_data() {
            // A copy that moved nothing leaves no sectors in the descriptor (F13).
            if len == 0 {
                return Err(Status::IoErr);
            }
            if len > u64::from(limits.max_data) {
                return Err(Status::Inval);
            }
        }
        if (offset | len) & u64::from(limits.block_size - 1) != 0 {
            return Err(Status::Inval);
        }
        Ok(Self {
            tag,
            op,
            offset,
            len,
            fua: false,
        })
    }

    /// A request that was checked before, out of its slot.
    #[inline]
    pub(super) fn from_parts(tag: u16, op: Op, offset: u64, len: u64, fua: bool) -> Self {
        Self {
            tag,
            op,
            offset,
            len,
            fua,
        }
    }

    /// Its first bytes alone.
    pub(super) fn shortened(&self, len: u64) -> Self {
        debug_assert!(len <= self.len);
        Self { len, ..*self }
    }

    /// Sets FUA: on stable storage when it ends. In memory every write is that; FUA decides how the
    /// request is dispatched (C1).
    #[must_use]
    pub fn with_fua(self, fua: bool) -> Self {
        Self { fua, ..self }
    }

    /// True if it must be on stable storage when it ends.
    pub fn is_fua(&self) -> bool {
        self.fua
    }

    /// True if somebody waits for it (C1).
    pub fn is_sync(&self) -> bool {
        self.fua || matches!(self.op, Op::Read | Op::Flush)
    }

    /// The slot of its queue that it occupies (A3).
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// What it asks for.
    pub fn op(&self) -> Op {
        self.op
    }

    /// First byte on the disk.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes on the disk.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of the client's that it moves.
    pub fn data_len(&self) -> u64 {
        match self.op.has_data() {
            true => self.len,
            false => 0,
        }
    }

    /// True if it covers no byte: a FLUSH, or a DISCARD of length 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Where the bytes of a READ or WRITE are. Valid until the driver's `complete`.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    /// All of them in one piece, from this address on.
    Contiguous(NonNull<u8>),
    /// A READ of nothing but holes.
    Zeros,
    /// A READ of pieces and holes: ask the driver's `runs`.
    Scattered,
}

// SAFETY: an address is a number. The code that reads or writes there keeps the rules, on any thread.
unsafe impl Send for Data {}

/// One piece of a [`Data::Scattered`] request, to be copied before `runs` goes on: what it names
/// may be there no longer.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// This many bytes from this address on.
    Memory(NonNull<u8>, usize),
    /// This many zeros.
    Zeros(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        size: 1 << 20,
        block_size: 4096,
        max_data: 64 << 10,
        read_only: false,
    };

    fn check(op: Op, sector: u64, nr_sectors: u32) -> Result<Request, Status> {
        Request::check(0, op, sector, nr_sectors, &LIMITS)
    }

    #[test]
    fn h11_the_last_block_is_in_and_the_next_is_out() {
        assert!(check(Op::Read, 2040, 8).is_ok());
        assert_eq!(check(Op::Read, 2048, 8), Err(Status::IoErr));
        assert_eq!(check(Op::Write, 2040, 16), Err(Status::IoErr));
    }

    #[test]
    fn h11_a_sum_that_overflows_is_an_io_error() {
        assert_eq!(check(Op::Read, u64::MAX, 8), Err(Status::IoErr));
        assert_eq!(
            check(Op::Discard, u64::MAX / 512, u32::MAX),
            Err(Status::IoErr)
        );
    }

    #[test]
    fn h11_what_is_not_whole_blocks_is_invalid() {
        assert_eq!(check(Op::Read, 1, 8), Err(Status::Inval));
        assert_eq!(check(Op::Write, 8, 7), Err(Status::Inval));
        assert_eq!(check(Op::Write, 1, 1), Err(Status::Inval));
    }

    #[test]
    fn h11_more_data_than_the_buffer_is_invalid() {
        assert!(check(Op::Read, 0, 128).is_ok());
        assert_eq!(check(Op::Read, 0, 136), Err(Status::Inval));
        assert!(
            check(Op::Discard, 0, 2048).is_ok(),
            "a discard carries no data"
        );
    }

    #[test]
    fn h3_a_discard_of_no_length_is_legal_and_f13_a_read_of_none_is_not() {
        assert!(check(Op::Discard, 0, 0).unwrap().is_empty());
        assert_eq!(check(Op::Read, 0, 0), Err(Status::IoErr));
        assert_eq!(check(Op::Write, 0, 0), Err(Status::IoErr));
    }

    #[test]
    fn h11_a_checked_request_can_be_marked_fua_or_made_shorter() {
        let request = check(Op::Write, 8, 16).unwrap();
        assert!(!request.fua && request.with_fua(true).fua);
        let first = request.shortened(4096);
        assert_eq!((first.offset, first.len), (4096, 4096));
    }

    #[test]
    fn h5_a_read_only_disk_refuses_what_modifies() {
        let limits = Limits {
            read_only: true,
            ..LIMITS
        };
        for op in [Op::Write, Op::Discard, Op::WriteZeroes { unmap: true }] {
            assert_eq!(
                Request::check(0, op, 0, 8, &limits),
                Err(Status::IoErr),
                "{op:?}"
            );
        }
        for op in [Op::Read, Op::Flush] {
            assert!(Request::check(0, op, 0, 8, &limits).is_ok(), "{op:?}");
        }
    }
}
