// SPDX-License-Identifier: MIT OR Apache-2.0
//! The jobs' memory: one buffer per tag, what is written into it, and the copy between it and the
//! store.
//!
//! A tag's buffer belongs to the front end while its request is in the mirror, and to the job at all
//! other times.
//!
//! The content of a block follows from its offset and from how often it has been written. A block that
//! is old, misplaced or torn is noticed when it is read.

use std::io;
use std::ptr::NonNull;

use crate::mq::{Data, Op, Operations, Request, Run, Status};
use crate::random::scatter;
use crate::sys::mmap::Mapping;

/// The buffers of all tags of a device.
#[derive(Debug)]
pub(super) struct Buffers {
    memory: Mapping,
    depth: u16,
    /// Bytes of each: the largest request.
    len: usize,
}

impl Buffers {
    /// Makes a buffer of `len` bytes for each tag of `queues` queues of this depth.
    pub(super) fn new(queues: u16, depth: u16, len: u32) -> io::Result<Self> {
        let len = len as usize;
        Ok(Self {
            memory: Mapping::anonymous(usize::from(queues) * usize::from(depth) * len)?,
            depth,
            len,
        })
    }

    /// Buffers lie by queue, and within it by tag.
    fn address(&self, queue: u16, tag: u16) -> NonNull<u8> {
        assert!(tag < self.depth);
        let number = usize::from(queue) * usize::from(self.depth) + usize::from(tag);
        assert!((number + 1) * self.len <= self.memory.len());
        // SAFETY: within the mapping by the assertion.
        unsafe { self.memory.start().add(number * self.len) }
    }

    /// The buffer of a tag.
    ///
    /// # Safety
    /// The tag is the caller's, its request is not in the mirror, and there is no other reference to
    /// the buffer.
    #[allow(clippy::mut_from_ref)] // Buffers do not overlap.
    pub(super) unsafe fn of(&self, queue: u16, tag: u16) -> &mut [u8] {
        // SAFETY: the mapping is that long, and the caller promises that it alone uses this part.
        unsafe { std::slice::from_raw_parts_mut(self.address(queue, tag).as_ptr(), self.len) }
    }

    /// Moves the bytes of a request in flight. Returns how many.
    pub(super) fn copy(
        &self,
        driver: &dyn Operations,
        queue: u16,
        request: &Request,
        data: Data,
    ) -> Result<u64, Status> {
        let len = request.len() as usize;
        assert!(
            len <= self.len,
            "a request is as long as its buffer at most"
        );
        let ours = self.address(queue, request.tag());
        match (request.op(), data) {
            (Op::Write, Data::Contiguous(to)) => copy(ours, to, len),
            (Op::Read, Data::Contiguous(from)) => copy(from, ours, len),
            (Op::Read, Data::Zeros) => zero(ours, len),
            (Op::Read, Data::Scattered) => {
                let mut done = 0;
                driver.runs(request, &mut |run| {
                    let piece = match run {
                        Run::Memory(_, piece) | Run::Zeros(piece) => piece,
                    };
                    assert!(done + piece <= len, "the runs are as long as the request");
                    // SAFETY: within the tag's buffer by the assertions.
                    let to = unsafe { ours.add(done) };
                    match run {
                        Run::Memory(from, _) => copy(from, to, piece),
                        Run::Zeros(_) => zero(to, piece),
                    }
                    done += piece;
                });
            }
            // Only READ may have holes, and only READ and WRITE have data.
            _ => return Err(Status::IoErr),
        }
        Ok(request.len())
    }
}

/// libc's and not Rust's, as in the server: requests may overlap in the store.
fn copy(from: NonNull<u8>, to: NonNull<u8>, len: usize) {
    // SAFETY: one end is the buffer of a tag that the request has to itself, the other memory that
    // the driver has pinned for the request; both are that long.
    unsafe { libc::memcpy(to.as_ptr().cast(), from.as_ptr().cast(), len) };
}

fn zero(to: NonNull<u8>, len: usize) {
    // SAFETY: as above.
    unsafe { libc::memset(to.as_ptr().cast(), 0, len) };
}

/// Fills a block. One of generation 0 was never written, or was discarded: it holds zeros (H3).
pub(super) fn fill(block: &mut [u8], offset: u64, generation: u32) {
    if generation == 0 {
        return block.fill(0);
    }
    for (n, word) in block.chunks_mut(8).enumerate() {
        let bytes = word_at(offset, generation, n).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

fn word_at(offset: u64, generation: u32, n: usize) -> u64 {
    // One multiplication per word; the base differs for each place and generation.
    let base = scatter(offset ^ (u64::from(generation) << 40));
    let place = if (n / 8).is_multiple_of(2) {
        n as u64 + 1
    } else {
        0
    };
    base ^ place.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// Returns what is wrong with a block that was read, if anything.
pub(super) fn fault(block: &[u8], offset: u64, generation: u32) -> Option<String> {
    let right = |n: usize| match generation {
        0 => 0,
        _ => word_at(offset, generation, n),
    };
    let wrong = block.chunks(8).enumerate().find(|(n, word)| {
        let bytes = right(*n).to_le_bytes();
        **word != bytes[..word.len()]
    });
    wrong.map(|(n, word)| {
        format!(
            "byte {}: found {word:02x?}, expected {:02x?} (generation {generation} of the block at \
             {offset})",
            offset + n as u64 * 8,
            &right(n).to_le_bytes()[..word.len()]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_right_only_in_its_place_and_generation() {
        let mut block = [0; 512];
        fill(&mut block, 4096, 3);
        assert_eq!(fault(&block, 4096, 3), None);
        assert!(fault(&block, 4096, 2).is_some());
        assert!(fault(&block, 8192, 3).is_some());
        assert!(fault(&block, 4096, 0).is_some());
        block[100] ^= 1;
        let why = fault(&block, 4096, 3).expect("torn");
        assert!(why.contains("byte 4192"), "{why}");
        fill(&mut block, 4096, 0);
        assert_eq!(fault(&block, 0, 0), None);
    }
}
