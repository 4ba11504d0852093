// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only a system call can ask of a disk, and buffers that O_DIRECT takes. The one file of
//! the device tests with unsafe code.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

const BLKDISCARD: libc::Ioctl = 0x1277;
const BLKZEROOUT: libc::Ioctl = 0x127f;

/// Opens a disk past the page cache.
pub fn open_direct(path: &str) -> File {
    open_with(path, libc::O_DIRECT)
}

/// Opens a disk past the page cache; a write returns when the data is safe, which is FUA where
/// the disk has it.
pub fn open_direct_synchronous(path: &str) -> File {
    open_with(path, libc::O_DIRECT | libc::O_DSYNC)
}

fn open_with(path: &str, flags: i32) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// BLKDISCARD: the bytes are not needed any more.
pub fn discard(disk: &File, range: Range<u64>) -> io::Result<()> {
    range_ioctl(disk, BLKDISCARD, range)
}

/// BLKZEROOUT: zeros, and the memory stays (WRITE_ZEROES with NOUNMAP).
pub fn zero_out(disk: &File, range: Range<u64>) -> io::Result<()> {
    range_ioctl(disk, BLKZEROOUT, range)
}

fn range_ioctl(disk: &File, request: libc::Ioctl, range: Range<u64>) -> io::Result<()> {
    let words = [range.start, range.end - range.start];
    // SAFETY: both requests read two words.
    match unsafe { libc::ioctl(disk.as_raw_fd(), request, words.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Zeros, and the memory is given back (WRITE_ZEROES that may unmap).
pub fn punch(disk: &File, range: Range<u64>) -> io::Result<()> {
    fallocate(disk, libc::FALLOC_FL_PUNCH_HOLE, range)
}

/// Zeros, and the memory stays (WRITE_ZEROES with NOUNMAP).
pub fn zero_range(disk: &File, range: Range<u64>) -> io::Result<()> {
    fallocate(disk, libc::FALLOC_FL_ZERO_RANGE, range)
}

fn fallocate(disk: &File, mode: i32, range: Range<u64>) -> io::Result<()> {
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    let (start, len) = (range.start as i64, (range.end - range.start) as i64);
    // SAFETY: no memory is involved.
    match unsafe { libc::fallocate(disk.as_raw_fd(), mode, start, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal to a process that this test owns.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    let result = unsafe { libc::kill(pid as i32, signal) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Lets a thread of a process go on by `steps` instructions, and kills the process there. A thread that waits
/// is not waited for.
pub fn kill_after_steps(pid: u32, thread: u32, steps: u32) {
    let thread = thread as i32;
    let wait = |flags| {
        let mut status = 0;
        // SAFETY: the status is written to, and lives longer than the call.
        let found = unsafe { libc::waitpid(thread, &mut status, flags | libc::__WALL) };
        (found != 0).then_some(found == thread && libc::WIFSTOPPED(status))
    };
    let request = |what: libc::c_uint| {
        // SAFETY: neither request reads or writes memory of this process.
        unsafe { libc::ptrace(what, thread, 0, 0) == 0 }
    };
    let mut stopped = request(libc::PTRACE_ATTACH) && wait(0) == Some(true);
    for _ in 0..steps {
        if !stopped || !request(libc::PTRACE_SINGLESTEP) {
            break;
        }
        let began = Instant::now();
        stopped = loop {
            match wait(libc::WNOHANG) {
                Some(stopped) => break stopped,
                None if began.elapsed() > Duration::from_secs(1) => break false,
                None => std::thread::yield_now(),
            }
        };
    }
    signal(pid, libc::SIGKILL);
    // Its parent hears nothing before this has.
    while wait(0) == Some(true) {}
}

/// Lets this thread run on these CPUs alone; answers where it could run before.
pub fn run_on(cpus: &[usize]) -> Vec<usize> {
    let mut mask = [0u64; 16];
    let len = size_of_val(&mask);
    // SAFETY: the mask is as long as said.
    let got = unsafe { libc::sched_getaffinity(0, len, mask.as_mut_ptr().cast()) };
    assert_eq!(got, 0, "{}", io::Error::last_os_error());
    let all = 0..mask.len() * 64;
    let before = all.filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 == 1);
    let before = before.collect();
    mask = [0; 16];
    for cpu in cpus {
        mask[cpu / 64] |= 1 << (cpu % 64);
    }
    // SAFETY: the mask is as long as said.
    let set = unsafe { libc::sched_setaffinity(0, len, mask.as_ptr().cast()) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    before
}

/// The first bytes of a file, mapped to be read.
pub struct Mapped(*mut libc::c_void, usize);

impl Mapped {
    /// The file may be closed afterwards.
    pub fn new(file: &File, len: usize) -> Mapped {
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping, where the kernel chooses.
        let at = unsafe { libc::mmap(null, len, protection, flags, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Mapped(at, len)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nothing refers to it.
        unsafe { libc::munmap(self.0, self.1) };
    }
}

/// Bytes at an address that is a multiple of a page, plus a shift.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zeros.
    pub fn new(len: usize) -> Buffer {
        Buffer::shifted(len, 0)
    }

    /// `len` zeros, `shift` bytes (less than a page) behind a multiple of a page.
    pub fn shifted(len: usize, shift: usize) -> Buffer {
        let bytes = vec![0; len + 2 * 4096];
        let start = bytes.as_ptr().align_offset(4096) + shift;
        Buffer { bytes, start, len }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Has the page cache write a file to the disk, without a flush and without the file's metadata.
pub fn write_out(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: no memory is involved.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
