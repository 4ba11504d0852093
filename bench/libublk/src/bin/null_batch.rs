// SPDX-License-Identifier: MIT OR Apache-2.0
//! The floor of all batch servers: answers every request with success and does nothing else.
//!
//! One queue on BATCH_IO with a buffer per tag. The driver copies between the buffer and the client; the
//! server never looks at the bytes, and reads give what the buffer happens to hold. What a disk of ours
//! takes beyond this is its own.
//!
//! The device is made by the libublk crate; the loop below is the least that the commands allow. Prints
//! `/dev/ublkbN` when the disk is ready. On SIGINT or SIGTERM the device is stopped and deleted.

use std::io;
use std::process::ExitCode;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use clap::Parser;
use io_uring::types::BufRingEntry;
use io_uring::{cqueue, squeue, IoUring};
use libublk::ctrl::{UblkCtrl, UblkCtrlBuilder};
use libublk::io::UblkDev;
use libublk::{sys, UblkError, UblkFlags};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A ublk disk that does nothing, to measure ours against.
#[derive(Parser)]
struct Args {
    /// Size in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    size_mib: u64,
    /// Requests the queue holds at once.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    depth: u16,
    /// Largest request in bytes.
    #[arg(long, default_value_t = 512 << 10)]
    io_buffer: u32,
}

/// `_IOWR('u', number, 16 bytes)`.
const fn command(number: u32) -> u32 {
    3 << 30 | 16 << 16 | (b'u' as u32) << 8 | number
}

const PREP: u32 = command(0x25);
const COMMIT: u32 = command(0x26);
const FETCH: u32 = command(0x27);
/// Buffers for the numbers of tags, a power of two.
const FETCH_BUFFERS: u16 = 8;
const GROUP: u16 = 1;
// Of include/uapi/linux/io_uring.h.
const OP_URING_CMD: u64 = 46;
const BUFFER_SELECT: u64 = 1 << 5;
const FIXED_FILE: u64 = 1;
const MULTISHOT: u64 = 1 << 1;

/// An element of PREP and COMMIT, as the driver reads it: tag, result, address of the tag's buffer.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Element {
    tag: u16,
    index: u16,
    result: i32,
    address: u64,
}

/// Memory that lives as long as the process, unless it is unmapped.
fn memory(len: usize, file: Option<i32>) -> io::Result<NonNull<u8>> {
    let (access, kind) = match file {
        Some(_) => (libc::PROT_READ, libc::MAP_SHARED),
        None => (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        ),
    };
    let kind = kind | libc::MAP_POPULATE;
    // SAFETY: a new mapping at a place that the kernel chooses.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            access,
            kind,
            file.unwrap_or(-1),
            0,
        )
    };
    match NonNull::new(at.cast()) {
        Some(at) if at.as_ptr() as isize != -1 => Ok(at),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The loop of the one queue.
struct Queue {
    ring: IoUring,
    depth: u16,
    descriptors: NonNull<u8>,
    /// Buffers of all tags, one after the other.
    data: NonNull<u8>,
    buffer: usize,
    entries: NonNull<u8>,
    tags: NonNull<u8>,
    tail: u16,
    /// Those of the next COMMIT. The kernel has read them when it is submitted.
    elements: Vec<Element>,
}

impl Queue {
    fn start(device: &UblkDev) -> io::Result<Self> {
        let sys::ublksrv_ctrl_dev_info {
            queue_depth: depth,
            max_io_buf_bytes,
            ..
        } = device.dev_info;
        let buffer = max_io_buf_bytes as usize;
        let file = device.tgt.fds[0];
        let ring = IoUring::builder()
            .setup_cqsize(u32::from(depth) * 2)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(u32::from(depth.max(16)).next_power_of_two())?;
        ring.submitter().register_files(&[file])?;
        let page = |len: usize| len.next_multiple_of(4096);
        let descriptor = size_of::<sys::ublksrv_io_desc>();
        let tags = usize::from(FETCH_BUFFERS) * usize::from(depth) * 2;
        let mut queue = Self {
            ring,
            depth,
            descriptors: memory(page(usize::from(depth) * descriptor), Some(file))?,
            data: memory(usize::from(depth) * buffer, None)?,
            buffer,
            entries: memory(4096, None)?,
            tags: memory(page(tags), None)?,
            tail: 0,
            elements: Vec::with_capacity(usize::from(depth)),
        };
        (0..depth).for_each(|tag| queue.answer(tag, 0));
        queue.push_elements(PREP);
        queue.ring.submit_and_wait(1)?;
        let answer = queue.ring.completion().next().map(|entry| entry.result());
        if answer != Some(0) {
            return Err(io::Error::from_raw_os_error(-answer.unwrap_or(-libc::EIO)));
        }
        queue.elements.clear();
        // SAFETY: a page for 8 entries, which lives as long as the process.
        unsafe {
            let at = queue.entries.as_ptr() as u64;
            queue
                .ring
                .submitter()
                .register_buf_ring_with_flags(at, FETCH_BUFFERS, GROUP, 0)?;
        }
        (0..FETCH_BUFFERS).for_each(|id| queue.give_back(id));
        queue.push_fetch();
        queue.ring.submit()?;
        Ok(queue)
    }

    /// Serves until the driver ends the fetch.
    fn run(&mut self) -> io::Result<()> {
        let mut found = Vec::with_capacity(usize::from(self.depth) * 2);
        loop {
            // A COMMIT completes when it is submitted: to be woken by it alone would cost a call.
            let want = 1 + usize::from(!self.elements.is_empty());
            self.elements.clear();
            self.ring.submit_and_wait(want)?;
            found.extend(self.ring.completion());
            for entry in found.drain(..) {
                let (entry, result): (cqueue::Entry, _) = (entry.clone(), entry.result());
                if entry.user_data() != u64::from(FETCH) {
                    // All of a COMMIT is taken, or something is wrong.
                    if result < 0 {
                        return Err(io::Error::from_raw_os_error(-result));
                    }
                    continue;
                }
                if let Some(id) = cqueue::buffer_select(entry.flags()) {
                    self.fetched(id, usize::try_from(result).unwrap_or(0) / 2);
                    self.give_back(id);
                }
                if !cqueue::more(entry.flags()) {
                    match -result {
                        libc::ENODEV => return Ok(()),
                        errno if errno > 0 && errno != libc::ENOBUFS => {
                            return Err(io::Error::from_raw_os_error(errno))
                        }
                        _ => self.push_fetch(),
                    }
                }
            }
            if !self.elements.is_empty() {
                self.push_elements(COMMIT);
            }
        }
    }

    /// Answers the requests whose tags stand in this buffer.
    fn fetched(&mut self, id: u16, tags: usize) {
        let first = self.tags.cast::<u16>().as_ptr();
        let descriptors = self.descriptors.cast::<sys::ublksrv_io_desc>().as_ptr();
        for index in 0..tags.min(usize::from(self.depth)) {
            // SAFETY: within the buffer; the kernel has written it.
            let tag = unsafe { *first.add(usize::from(id) * usize::from(self.depth) + index) };
            assert!(tag < self.depth, "the driver names tags below the depth");
            // SAFETY: within the mapping; the driver has written it before it named the tag.
            let request = unsafe { descriptors.add(usize::from(tag)).read_volatile() };
            let moves = matches!(
                request.op_flags & 0xff,
                sys::UBLK_IO_OP_READ | sys::UBLK_IO_OP_WRITE
            );
            self.answer(
                tag,
                if moves {
                    (request.nr_sectors << 9) as i32
                } else {
                    0
                },
            );
        }
    }

    fn answer(&mut self, tag: u16, result: i32) {
        self.elements.push(Element {
            tag,
            result,
            address: self.data.as_ptr() as u64 + u64::from(tag) * self.buffer as u64,
            ..Element::default()
        });
    }

    /// Lets the kernel fill this buffer again.
    fn give_back(&mut self, id: u16) {
        let base = self.entries.cast::<BufRingEntry>().as_ptr();
        let len = usize::from(self.depth) * 2;
        // SAFETY: entry and buffer lie in their mappings; the kernel looks at the entry only when the tail
        // has passed it.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail % FETCH_BUFFERS));
            entry.set_addr(self.tags.as_ptr() as u64 + (usize::from(id) * len) as u64);
            entry.set_len(len as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = &*BufRingEntry::tail(base).cast::<AtomicU16>();
            // Release pairs with the kernel's acquire of the tail.
            tail.store(self.tail, Ordering::Release);
        }
    }

    fn push_elements(&mut self, op: u32) {
        let (count, size) = (self.elements.len() as u64, size_of::<Element>() as u64);
        let has_addresses = u64::from(sys::UBLK_BATCH_F_HAS_BUF_ADDR);
        let words = [has_addresses << 16 | count << 32 | size << 48, 0];
        let at = self.elements.as_ptr() as u64;
        self.push(FIXED_FILE, op, at, count * size, words);
    }

    fn push_fetch(&mut self) {
        let flags = FIXED_FILE | BUFFER_SELECT;
        self.push(flags, FETCH, 0, MULTISHOT << 32, [2 << 48, 0]);
    }

    /// Queues a command to file 0, in the words of `struct io_uring_sqe`.
    fn push(&mut self, flags: u64, op: u32, at: u64, len: u64, command: [u64; 2]) {
        let op = u64::from(op);
        let group = u64::from(GROUP) * (flags & BUFFER_SELECT) / BUFFER_SELECT;
        let head = OP_URING_CMD | flags << 8;
        let words = [head, op, at, len, op, group, command[0], command[1]];
        // SAFETY: both are the kernel's 64 bytes. The elements stay in place until the command is submitted.
        unsafe {
            let entry = std::mem::transmute::<[u64; 8], squeue::Entry>(words);
            let pushed = self.ring.submission().push(&entry);
            pushed.expect("a fetch and a COMMIT at a time");
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let len = usize::from(self.depth) * size_of::<sys::ublksrv_io_desc>();
        // The mapping holds /dev/ublkcN open, and the device is deleted when that is closed.
        // SAFETY: nothing refers to it any more.
        unsafe { libc::munmap(self.descriptors.as_ptr().cast(), len) };
    }
}

/// Makes the disk, serves it until a signal comes, and takes it away.
fn run(args: &Args) -> Result<(), UblkError> {
    // Before libublk starts its threads.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(UblkError::IOError)?;
    let size = args.size_mib << 20;
    let control = UblkCtrlBuilder::default()
        .name("null_batch")
        .nr_queues(1)
        .depth(args.depth)
        .io_buf_bytes(args.io_buffer)
        .ctrl_flags(u64::from(sys::UBLK_F_BATCH_IO))
        .dev_flags(UblkFlags::UBLK_DEV_F_ADD_DEV)
        .build()?;
    control.run_target(
        |device: &mut UblkDev| {
            device.set_default_params(size);
            device.tgt.params.basic.attrs &= !sys::UBLK_ATTR_VOLATILE_CACHE;
            Ok(())
        },
        move |_, device: &UblkDev| {
            let started = Queue::start(device);
            // The crate starts the disk when each queue has told so.
            device.notify_buffer_registration_complete(started.is_err());
            if let Err(error) = started.and_then(|mut queue| queue.run()) {
                eprintln!("null_batch: the queue ends: {error}");
            }
        },
        move |control: &UblkCtrl| {
            println!("{}", control.get_bdev_path());
            let _either = signals.forever().next();
            if let Err(error) = control.kill_dev() {
                eprintln!("null_batch: the device could not be stopped: {error}");
            }
        },
    )?;
    // Dropping `control` deletes the device.
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "null_batch: {error}; is ublk_drv loaded, does it know BATCH_IO, and are you root?"
            );
            ExitCode::FAILURE
        }
    }
}
