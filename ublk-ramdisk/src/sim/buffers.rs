// SPDX-License-Identifier: MIT OR Apache-2.0
//! The clients' memory: one buffer per tag, and the copy between it and the store.
//!
//! A tag's buffer belongs to whoever has the tag: the job before it has inserted the request and
//! after it has ended, the transport in between.

use std::io;
use std::ptr::NonNull;

use crate::mq::{Data, Op, Operations, Request, Run, Status};
use crate::sys::mmap::Mapping;

/// The buffers of all tags of a device.
#[derive(Debug)]
pub(super) struct Buffers {
    memory: Mapping,
    depth: u16,
    len: usize,
}

impl Buffers {
    /// For so many queues of that depth, each buffer of so many bytes.
    pub(super) fn new(queues: u16, depth: u16, len: u32) -> io::Result<Self> {
        let len = len as usize;
        Ok(Self {
            memory: Mapping::anonymous(usize::from(queues) * usize::from(depth) * len)?,
            depth,
            len,
        })
    }

    fn address(&self, queue: u16, tag: u16) -> NonNull<u8> {
        assert!(tag < self.depth);
        let number = usize::from(queue) * usize::from(self.depth) + usize::from(tag);
        assert!((number + 1) * self.len <= self.memory.len());
        // SAFETY: within the mapping by the assertion.
        unsafe { self.memory.start().add(number * self.len) }
    }

    /// The buffer of a tag that the caller has.
    ///
    /// # Safety
    /// Its request is not in the mirror: it has ended, or is not inserted yet; and there is no other
    /// reference.
    #[allow(clippy::mut_from_ref)] // The buffers of different tags are apart.
    pub(super) unsafe fn of(&self, queue: u16, tag: u16) -> &mut [u8] {
        // SAFETY: the mapping is that long, and nobody else uses this part of it, as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.address(queue, tag).as_ptr(), self.len) }
    }

    /// Moves the bytes of a request that is in flight. Answers how many.
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

/// Damages a byte of the store behind everybody's back, for `corrupt` in a script.
pub(super) fn corrupt(
    store: &crate::ramdisk::store::Store,
    offset: u64,
) -> Result<(), crate::ramdisk::store::Shortage> {
    let range = offset..offset + 1;
    store.populate(range.clone())?;
    let address = store.pinned(&range);
    // SAFETY: the byte is pinned; it is changed in one atomic step, like memory that fails.
    unsafe { std::sync::atomic::AtomicU8::from_ptr(address.as_ptr()) }
        .fetch_xor(1, std::sync::atomic::Ordering::Relaxed);
    store.unpin(range);
    Ok(())
}
