// SPDX-License-Identifier: MIT OR Apache-2.0
//! File operations of Linux: anonymous files, allocation, holes, and copies between a file and raw
//! memory.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Magic of tmpfs in `statfs`.
pub const TMPFS_MAGIC: i64 = 0x0102_1994;
/// Magic of hugetlbfs in `statfs`.
pub const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Makes a file in memory that has no name.
pub fn memfd(name: &CStr, huge_tlb: bool) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | if huge_tlb { libc::MFD_HUGETLB } else { 0 };
    // SAFETY: the name is a C string for the length of the call.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), flags) })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Returns the magic number and the block size of the file system of `file`.
pub fn file_system(file: &File) -> io::Result<(i64, u64)> {
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the buffer is a whole statfs and zeroes are one.
    let answer = unsafe {
        check(libc::fstatfs(file.as_raw_fd(), answer.as_mut_ptr()))?;
        answer.assume_init()
    };
    Ok((answer.f_type, answer.f_bsize as u64))
}

/// Locks the file without waiting. Fails with `WouldBlock` if another process has the lock.
pub fn lock_exclusively(file: &File) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Allocates every page of `range`. Present pages stay as they are.
pub fn allocate(file: &File, range: Range<u64>) -> io::Result<()> {
    fallocate(file, libc::FALLOC_FL_KEEP_SIZE, range)
}

/// Gives every page of `range` back. It reads as zeros afterwards.
pub fn punch_hole(file: &File, range: Range<u64>) -> io::Result<()> {
    fallocate(
        file,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        range,
    )
}

fn fallocate(file: &File, mode: i32, range: Range<u64>) -> io::Result<()> {
    let (offset, len) = (range.start as i64, (range.end - range.start) as i64);
    loop {
        // SAFETY: no memory is involved.
        match check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            result => return result.map(drop),
        }
    }
}

/// Returns the parts of the file that hold data. On hugetlbfs that is all of the file.
pub fn data_ranges(file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut end = 0;
    while let Some(start) = seek(file, end, libc::SEEK_DATA)? {
        end = seek(file, start, libc::SEEK_HOLE)?.unwrap_or(start);
        ranges.push(start..end);
    }
    Ok(ranges)
}

fn seek(file: &File, from: u64, whence: i32) -> io::Result<Option<u64>> {
    // SAFETY: no memory is involved.
    let at = unsafe { libc::lseek(file.as_raw_fd(), from as i64, whence) };
    if at >= 0 {
        return Ok(Some(at as u64));
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        e => Err(e),
    }
}

// The two copies below are system calls by number. The C library's pread and pwrite are thread
// cancellation points, which costs as much again as entering the kernel, once per request.
const _: () = assert!(
    cfg!(target_pointer_width = "64"),
    "an offset is one register"
);

/// Copies `len` bytes from position `at` of the file to `to`.
///
/// # Safety
/// `to` must be writable for `len` bytes for the length of the call.
pub unsafe fn read_at(file: &File, to: *mut u8, len: usize, at: u64) -> io::Result<()> {
    // SAFETY: as promised by the caller; `done` stays within `len`.
    whole(len, |done| unsafe {
        libc::syscall(
            libc::SYS_pread64,
            file.as_raw_fd(),
            to.add(done),
            len - done,
            at + done as u64,
        )
    })
}

/// Copies `len` bytes from `from` to position `at` of the file.
///
/// # Safety
/// `from` must be readable for `len` bytes for the length of the call.
pub unsafe fn write_at(file: &File, from: *const u8, len: usize, at: u64) -> io::Result<()> {
    // SAFETY: as promised by the caller; `done` stays within `len`.
    whole(len, |done| unsafe {
        libc::syscall(
            libc::SYS_pwrite64,
            file.as_raw_fd(),
            from.add(done),
            len - done,
            at + done as u64,
        )
    })
}

/// Copies `len` bytes within this process through the kernel. A page of a file that has been cut
/// short is an error, where a plain copy would end the process with SIGBUS.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes for the length of the call, apart from
/// pages that a file has lost.
pub unsafe fn copy_checked(from: *const u8, to: *mut u8, len: usize) -> io::Result<()> {
    let part = |at: *const u8, done: usize| libc::iovec {
        // SAFETY: `done` stays within `len`.
        iov_base: unsafe { at.add(done) }.cast_mut().cast(),
        iov_len: len - done,
    };
    whole(len, |done| {
        let (from, to) = (part(from, done), part(to, done));
        // SAFETY: as promised by the caller; the vectors live for the length of the call.
        let moved = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &from, 1, 0) };
        moved as i64
    })
}

/// Returns false if a node of a block device has no device any more: it is being removed, or is gone.
/// The kernel takes the name away before it waits for requests (`bdev_unhash` in `del_gendisk`). The
/// device is not opened.
pub fn has_block_device(node: &CStr) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // Only a block device that exists has an alignment for direct I/O.
    let mask = libc::STATX_DIOALIGN;
    // SAFETY: the name is a C string, and the buffer is a whole statx and zeroes are one.
    let found = unsafe {
        let result = libc::statx(libc::AT_FDCWD, node.as_ptr(), 0, mask, found.as_mut_ptr());
        if result != 0 {
            return false;
        }
        found.assume_init()
    };
    found.stx_mask & mask != 0
}

/// Repeats a transfer until all of `len` is done. A transfer that moves nothing is an error.
#[inline]
fn whole(len: usize, mut step: impl FnMut(usize) -> i64) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        match step(done) {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved if moved > 0 => done += moved as usize,
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f13_a_transfer_in_parts_goes_on_where_the_last_part_ended() {
        let mut parts = [3, 4, 1].into_iter();
        let mut begun = Vec::new();
        let result = whole(8, |done| {
            begun.push(done);
            parts.next().expect("no step after the last byte")
        });
        assert_eq!((result.ok(), begun), (Some(()), vec![0, 3, 7]));
    }

    /// A file that is cut short under its mapping.
    #[test]
    fn g16_a_checked_copy_of_lost_pages_is_an_error_in_both_directions() {
        let file = memfd(c"cut", false).unwrap();
        file.set_len(8192).unwrap();
        let mapping = super::super::mmap::Mapping::shared(&file, 8192).unwrap();
        file.set_len(4096).unwrap();
        let (mapped, mut bytes) = (mapping.start().as_ptr(), [7_u8; 8192]);
        let buffer = bytes.as_mut_ptr();
        // SAFETY: the buffer is as long as the mapping.
        let [there, lost, back] = unsafe {
            [
                copy_checked(buffer, mapped, 4096),
                copy_checked(buffer, mapped, 8192),
                copy_checked(mapped, buffer, 8192),
            ]
        };
        assert!(there.is_ok());
        for error in [lost.unwrap_err(), back.unwrap_err()] {
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        }
    }

    #[test]
    fn f13_a_part_that_moves_nothing_or_fails_ends_the_transfer() {
        let mut parts = [3, 0].into_iter();
        let error = whole(8, |_| parts.next().expect("two steps")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        // The real calls: the second part lies behind the end of the file.
        let file = memfd(c"parts", false).unwrap();
        file.set_len(4).unwrap();
        let mut bytes = [1_u8; 8];
        // SAFETY: the buffer is that long.
        let error = unsafe { read_at(&file, bytes.as_mut_ptr(), 8, 0) }.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(bytes, [0, 0, 0, 0, 1, 1, 1, 1]);
    }
}
