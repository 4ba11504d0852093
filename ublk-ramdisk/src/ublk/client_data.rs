// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a request's bytes get from the client's pages to the store and back.
//!
//! | data path | READ | WRITE |
//! |---|---|---|
//! | `buffer`, `batch-buffer` | store to the tag's buffer; the driver copies on at the COMMIT | the driver has filled the tag's buffer; from there to the store |
//! | `user-copy`, `batch` | pwrite of store memory, or of zeros, to /dev/ublkcN | pread from /dev/ublkcN into store memory |
//!
//! A READ of pages and holes together is gathered in the tag's buffer on every path (G11).
//!
//! Copies between server memory go through libc's memcpy and memset, not through
//! Rust references: the store is shared with the kernel, and clients may have
//! overlapping requests in flight on two queues.

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use super::abi;
use crate::config::DataPath;
use crate::mq::{Data, Disk, Op, Request, Run, Status};
use crate::sys::file;
use crate::sys::mmap::Mapping;

/// One queue's buffers and its way to the client's pages. Used by every thread that serves the
/// queue: a tag's buffer belongs to the holder of the tag's request.
#[derive(Debug)]
pub(super) struct ClientData {
    /// /dev/ublkcN: under USER_COPY a file position names the pages of a request.
    char_device: Arc<File>,
    queue: u16,
    /// Zeros as long as the largest request, for holes (G11).
    zeros: Mapping,
    /// One buffer per tag: the data of the paths with buffers, and where pieces and holes are gathered.
    buffers: Mapping,
    /// Bytes of one buffer: the largest request.
    buffer_len: usize,
}

impl ClientData {
    pub(super) fn new(
        char_device: Arc<File>,
        queue: u16,
        depth: u16,
        buffer_len: u32,
    ) -> io::Result<Self> {
        let buffer_len = buffer_len as usize;
        Ok(Self {
            char_device,
            queue,
            zeros: Mapping::zeros(buffer_len)?,
            buffers: Mapping::anonymous(usize::from(depth) * buffer_len)?,
            buffer_len,
        })
    }

    /// The buffer of `tag`.
    #[inline]
    pub(super) fn buffer(&self, tag: u16) -> NonNull<u8> {
        let offset = usize::from(tag) * self.buffer_len;
        assert!(offset < self.buffers.len());
        // SAFETY: within the mapping by the assertion.
        unsafe { self.buffers.start().add(offset) }
    }

    /// Moves a request's bytes between the client and the store, on the calling thread. Returns how
    /// many.
    ///
    /// # Errors
    /// IOERR if the kernel does not move them, as it does not when the disk is being taken away.
    #[inline]
    pub(super) fn copy(
        &self,
        driver: &dyn Disk,
        path: DataPath,
        request: &Request,
        data: Data,
    ) -> Result<u64, Status> {
        let copied = match path.has_buffers() {
            true => self.copy_in_buffer(driver, request, data),
            false => self.user_copy(driver, request, data),
        };
        match copied {
            Ok(()) => Ok(request.len()),
            Err(status) => {
                // The driver may have lost the page: it looks and logs (G16).
                driver.copy_failed();
                Err(status)
            }
        }
    }

    /// Between the store and the buffer of the tag.
    fn copy_in_buffer(
        &self,
        driver: &dyn Disk,
        request: &Request,
        data: Data,
    ) -> Result<(), Status> {
        match (request.op(), data) {
            (Op::Read, _) => self.gather(driver, request, data),
            (Op::Write, Data::Contiguous(to)) => self.scatter(driver, request, to),
            // Only READ may have holes, and only READ and WRITE have data.
            _ => Err(Status::IoErr),
        }
    }

    /// USER_COPY: between the store and the client's pages.
    #[inline]
    fn user_copy(&self, driver: &dyn Disk, request: &Request, data: Data) -> Result<(), Status> {
        match (request.op(), data) {
            (Op::Write, Data::Contiguous(to)) => self.copy_in(request, to),
            (Op::Read, Data::Contiguous(from)) => self.copy_out(request, from),
            (Op::Read, Data::Zeros) => self.copy_out(request, self.zeros.start()),
            (Op::Read, Data::Scattered) => {
                self.gather(driver, request, data)?;
                self.copy_out(request, self.buffer(request.tag()))
            }
            _ => Err(Status::IoErr),
        }
    }

    /// Puts a READ's bytes into the buffer of its tag.
    fn gather(&self, driver: &dyn Disk, request: &Request, data: Data) -> Result<(), Status> {
        let (mut result, checked) = (Ok(()), driver.can_be_cut());
        let mut to = self.buffer(request.tag());
        let mut left = request.len() as usize;
        assert!(left <= self.buffer_len);
        let mut put = |run: Run| {
            let len = match run {
                Run::Memory(_, len) | Run::Zeros(len) => len,
            };
            assert!(
                len <= left,
                "the runs of a request are as long as the request"
            );
            // SAFETY: `to` has `left` bytes left in the tag's buffer, which no
            // other request uses; the run is pinned memory of the store.
            unsafe {
                match run {
                    Run::Memory(from, _) => {
                        result = result.and(copy(checked, from, to, len));
                    }
                    Run::Zeros(_) => {
                        libc::memset(to.as_ptr().cast(), 0, len);
                    }
                }
                to = to.add(len);
            }
            left -= len;
        };
        match data {
            Data::Contiguous(from) => put(Run::Memory(from, request.len() as usize)),
            Data::Zeros => put(Run::Zeros(request.len() as usize)),
            Data::Scattered => driver.runs(request, &mut put),
        }
        result
    }

    /// Puts the bytes of a WRITE, which the driver has copied into the buffer of
    /// its tag, to where they belong.
    fn scatter(&self, driver: &dyn Disk, request: &Request, to: NonNull<u8>) -> Result<(), Status> {
        let len = request.len() as usize;
        assert!(len <= self.buffer_len);
        let from = self.buffer(request.tag());
        // SAFETY: the buffer is the tag's own; `to` is pinned for the request.
        unsafe { copy(driver.can_be_cut(), from, to, len) }
    }

    /// Copies a READ's bytes from `from` into the client's pages (USER_COPY).
    /// A READ of the client is a write to /dev/ublkcN.
    #[inline]
    fn copy_out(&self, request: &Request, from: NonNull<u8>) -> Result<(), Status> {
        let position = abi::user_copy_position(self.queue, request.tag());
        let len = request.len() as usize;
        // SAFETY: `from` is pinned store memory, zeros or the tag's buffer, each
        // at least as long as the request.
        let copied = unsafe { file::write_at(&self.char_device, from.as_ptr(), len, position) };
        copied.map_err(|_| Status::IoErr)
    }

    /// Copies a WRITE's bytes from the client's pages to `to` (USER_COPY).
    #[inline]
    fn copy_in(&self, request: &Request, to: NonNull<u8>) -> Result<(), Status> {
        let position = abi::user_copy_position(self.queue, request.tag());
        let len = request.len() as usize;
        // SAFETY: `to` is pinned store memory as long as the request.
        let copied = unsafe { file::read_at(&self.char_device, to.as_ptr(), len, position) };
        copied.map_err(|_| Status::IoErr)
    }
}

/// Copies between the store and a buffer. `checked`: memory of the store may have been lost, which
/// fails the copy.
///
/// # Safety
/// Both are `len` bytes long, apart from what the store has lost.
unsafe fn copy(
    checked: bool,
    from: NonNull<u8>,
    to: NonNull<u8>,
    len: usize,
) -> Result<(), Status> {
    // SAFETY: as promised by the caller.
    unsafe {
        if checked {
            return file::copy_checked(from.as_ptr(), to.as_ptr(), len).map_err(|_| Status::IoErr);
        }
        libc::memcpy(to.as_ptr().cast(), from.as_ptr().cast(), len);
    }
    Ok(())
}
