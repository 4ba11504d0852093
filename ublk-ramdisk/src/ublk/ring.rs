// SPDX-License-Identifier: MIT OR Apache-2.0
//! One queue's ring, its view of the descriptors, and its way to the client's
//! bytes: all the unsafe code of the I/O path that is not the store's.
//!
//! A [`QueueRing`] belongs to the thread that made it and is never entered by
//! another (F22).
//!
//! A completion is told by its `user_data`:
//!
//! | `user_data` | completion of |
//! |---|---|
//! | a tag | a command per tag |
//! | kind in the upper half, index in the lower | a batch command |
//! | the two highest numbers | the watches: another queue has failed, the mailbox wakes this one |

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::{self, ThreadId};

use io_uring::register::Restriction;
use io_uring::types::BufRingEntry;
use io_uring::{cqueue, opcode, squeue, types, IoUring};

use super::abi::{self, BatchElem, BatchIo, IoCmd, IoDesc};
use crate::sys::mmap::Mapping;

// From include/uapi/linux/io_uring.h, where the prefixes are IORING_, IORING_, IOSQE_ and IORING_.
const OP_URING_CMD: u8 = 46;
const REGISTER_PBUF_RING: u8 = 22;
const SQE_FIXED_FILE: u8 = 1 << 0;
const SQE_BUFFER_SELECT: u8 = 1 << 5;
const URING_CMD_MULTISHOT: u32 = 1 << 1;
/// The one group of buffers that batch fetches fill with tags.
const FETCH_GROUP: u16 = 1;

/// What the completion of [`QueueRing::watch_for_give_up`] carries: neither a tag
/// nor a kind of batch command.
const GIVE_UP: u64 = u64::MAX;
/// As [`GIVE_UP`], for [`QueueRing::poll_waker`].
const WAKEUP: u64 = u64::MAX - 1;
/// Completions that can be waiting beside the commands': those two.
pub(super) const WATCHES: usize = 2;

/// A submission entry with a command of 16 bytes, as the kernel lays it out.
/// The io-uring crate has no builder for the multishot form.
#[repr(C)]
#[derive(Default)]
struct CmdSqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    cmd_op: u32,
    pad: u32,
    addr: u64,
    len: u32,
    uring_cmd_flags: u32,
    user_data: u64,
    buf_group: u16,
    personality: u16,
    file_index: u32,
    cmd: [u64; 2],
}

const _: () = assert!(size_of::<CmdSqe>() == 64 && size_of::<squeue::Entry>() == 64);

impl CmdSqe {
    fn new(cmd_op: u32, cmd: [u64; 2], user_data: u64) -> Self {
        Self {
            opcode: OP_URING_CMD,
            flags: SQE_FIXED_FILE,
            cmd_op,
            user_data,
            cmd,
            // File 0 of the ring is /dev/ublkcN.
            ..Self::default()
        }
    }
}

/// The ring and descriptors of one queue.
pub(super) struct QueueRing {
    ring: IoUring,
    /// `struct ublksrv_io_desc` by tag, mapped read-only; the driver writes them.
    descriptors: Mapping,
    queue: u16,
    depth: u16,
    /// The thread that made the ring and alone enters it; debug builds check it (F22).
    owner: ThreadId,
}

/// A completion, as far as a queue looks at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    /// A tag, a kind of batch command with its index, or one of the two watches.
    pub user_data: u64,
    /// What the command returned: 0, a count, or a negative errno.
    pub result: i32,
    /// IORING_CQE_F_*: see [`Completion::more`] and [`Completion::buffer`].
    pub flags: u32,
}

impl Completion {
    /// What stands in an array of completions before any is taken.
    pub(super) const NONE: Self = Self {
        user_data: 0,
        result: 0,
        flags: 0,
    };

    /// True if another queue has failed.
    #[inline]
    pub(super) fn is_give_up(&self) -> bool {
        self.user_data == GIVE_UP
    }

    /// True if another thread has woken this one.
    #[inline]
    pub(super) fn is_wakeup(&self) -> bool {
        self.user_data == WAKEUP
    }

    /// Will the same submission complete again?
    pub(super) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// Which provided buffer it filled.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

impl QueueRing {
    /// A ring for `depth` commands on `char_device`, which becomes its file 0, and
    /// the watches.
    pub(super) fn new(char_device: &File, queue: u16, depth: u16) -> io::Result<Self> {
        // Each tag is in one command at most.
        let entries = u32::from(depth) + WATCHES as u32;
        let entries = entries.next_power_of_two().max(16);
        let ring = Self::build(entries)?;
        ring.submitter()
            .register_files(&[char_device.as_raw_fd()])?;
        let mut known = [
            Restriction::sqe_op(OP_URING_CMD),
            Restriction::sqe_op(opcode::PollAdd::CODE),
            Restriction::sqe_flags_allowed(SQE_FIXED_FILE | SQE_BUFFER_SELECT),
            Restriction::register_op(REGISTER_PBUF_RING),
        ];
        ring.submitter().register_restrictions(&mut known)?;
        ring.submitter().register_enable_rings()?;
        let len = (usize::from(depth) * size_of::<IoDesc>()).next_multiple_of(4096);
        let descriptors = Mapping::read_only(char_device, abi::descriptor_offset(queue), len)?;
        Ok(Self {
            ring,
            descriptors,
            queue,
            depth,
            owner: thread::current().id(),
        })
    }

    /// The ring is disabled until it is restricted to what a queue does. With DEFER_TASKRUN (6.1) the
    /// kernel's part of a completion runs when this thread asks for completions. An older kernel refuses
    /// that with EINVAL, and gets COOP_TASKRUN.
    fn build(entries: u32) -> io::Result<IoUring> {
        let completions = entries * 2;
        let mut builder = IoUring::builder();
        builder
            .setup_cqsize(completions)
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun();
        builder
            .build(entries)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => IoUring::builder()
                    .setup_cqsize(completions)
                    .setup_r_disabled()
                    .setup_coop_taskrun()
                    .build(entries),
                _ => Err(error),
            })
    }

    /// The request that stands under `tag`. Read once per delivery: the kernel
    /// may lower its length between two (F13).
    #[inline]
    pub(super) fn descriptor(&self, tag: u16) -> IoDesc {
        assert!(
            tag < self.depth,
            "the driver names tags below the queue depth"
        );
        let first = self.descriptors.start().as_ptr().cast::<IoDesc>();
        // SAFETY: the mapping holds `depth` descriptors; the driver writes one
        // before it completes the fetch of its tag, so this is a stable copy.
        unsafe { first.add(usize::from(tag)).read_volatile() }
    }

    /// Queues one per-tag command. The completion carries the tag.
    ///
    /// # Safety
    /// `addr` is 0 or names memory that stays valid for as long as the driver
    /// may copy from or to it (G3, G5).
    #[inline]
    pub(super) unsafe fn push_io(&mut self, op: u32, tag: u16, result: i32, addr: u64) {
        let command = IoCmd {
            q_id: self.queue,
            tag,
            result,
            addr,
        };
        // SAFETY: 16 bytes of plain data without padding.
        let words = unsafe { std::mem::transmute::<IoCmd, [u64; 2]>(command) };
        // SAFETY: as promised by the caller.
        unsafe { self.push(CmdSqe::new(op, words, u64::from(tag))) };
    }

    /// Queues one batch command over `elements` elements of `element` bytes at
    /// `addr`.
    ///
    /// # Safety
    /// The elements stay in place until the command has completed.
    pub(super) unsafe fn push_batch(
        &mut self,
        op: u32,
        addr: u64,
        elements: u16,
        element: u8,
        user_data: u64,
    ) {
        let words = batch_command(self.queue, elements, element);
        let mut sqe = CmdSqe::new(op, words, user_data);
        sqe.addr = addr;
        sqe.len = u32::from(elements) * u32::from(element);
        // SAFETY: as promised by the caller.
        unsafe { self.push(sqe) };
    }

    /// Queues the multishot fetch that fills the buffers of [`FetchBuffers`].
    pub(super) fn push_batch_fetch(&mut self, user_data: u64) {
        let words = batch_command(self.queue, 0, size_of::<u16>() as u8);
        let mut sqe = CmdSqe::new(abi::IO_FETCH_BATCH, words, user_data);
        sqe.flags |= SQE_BUFFER_SELECT;
        sqe.uring_cmd_flags = URING_CMD_MULTISHOT;
        sqe.buf_group = FETCH_GROUP;
        // SAFETY: the command names no memory; the buffers are registered.
        unsafe { self.push(sqe) };
    }

    /// Has the loop woken once `event` can be read, with a completion that
    /// [`Completion::is_give_up`]. Submitted with whatever is submitted next.
    /// One completion is enough: the loop ends with it.
    pub(super) fn watch_for_give_up(&mut self, event: BorrowedFd<'_>) {
        let poll = opcode::PollAdd::new(types::Fd(event.as_raw_fd()), libc::POLLIN as u32);
        self.watch(&poll.build().user_data(GIVE_UP));
    }

    /// Has the loop woken by each write to `event`, with completions that
    /// [`Completion::is_wakeup`], until one of them has no [`Completion::more`]: then poll again
    /// (W16). Nobody reads the event: it stays readable, so a write in between completes the next
    /// poll at once.
    pub(super) fn poll_waker(&mut self, event: BorrowedFd<'_>) {
        let poll = opcode::PollAdd::new(types::Fd(event.as_raw_fd()), libc::POLLIN as u32);
        self.watch(&poll.multi(true).build().user_data(WAKEUP));
    }

    fn watch(&mut self, entry: &squeue::Entry) {
        self.assert_own();
        // SAFETY: the entry names no memory; the kernel holds the file itself.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("the ring has a place for each watch beside those of the commands");
    }

    /// A ring is entered by the thread that made it, and no other (F22).
    #[inline]
    fn assert_own(&self) {
        debug_assert_eq!(
            thread::current().id(),
            self.owner,
            "the ring of queue {} is another thread's",
            self.queue
        );
    }

    /// # Safety
    /// Memory that the entry names stays valid until the kernel is done with it.
    #[inline]
    unsafe fn push(&mut self, sqe: CmdSqe) {
        self.assert_own();
        // SAFETY: both are the kernel's 64-byte submission entry.
        let entry = unsafe { std::mem::transmute::<CmdSqe, squeue::Entry>(sqe) };
        // SAFETY: as promised by the caller.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("a queue has at most one command per tag, and the ring a place for each");
    }

    /// Submits everything and waits for `want` completions. Every submitted
    /// command has been issued when this returns Ok.
    #[inline]
    pub(super) fn submit_and_wait(&mut self, want: usize) -> io::Result<()> {
        self.assert_own();
        loop {
            match self.ring.submit_and_wait(want) {
                // Also `Ok` if the kernel took only some of the entries: then the rest is submitted.
                Ok(_) if self.ring.submission().is_empty() => return Ok(()),
                Ok(_) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
                // Completions wait to be taken; submitting goes on after that.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes up to `into.len()` completions out of the ring; returns how many.
    #[inline]
    pub(super) fn reap(&mut self, into: &mut [Completion]) -> usize {
        self.assert_own();
        let mut count = 0;
        let mut queue = self.ring.completion();
        while count < into.len() {
            let Some(entry) = queue.next() else { break };
            into[count] = Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            };
            count += 1;
        }
        count
    }
}

/// What a batch command says beside its entry's own fields.
fn batch_command(queue: u16, elements: u16, element: u8) -> [u64; 2] {
    let command = BatchIo {
        q_id: queue,
        nr_elem: elements,
        elem_bytes: element,
        flags: if usize::from(element) > size_of::<BatchElem>() {
            abi::BATCH_HAS_BUF_ADDR
        } else {
            0
        },
        ..BatchIo::default()
    };
    // SAFETY: 16 bytes of plain data without padding.
    unsafe { std::mem::transmute::<BatchIo, [u64; 2]>(command) }
}

/// Buffers that batch fetches fill with tags, in a ring shared with the kernel.
pub(super) struct FetchBuffers {
    /// Ring of buffers that the kernel may fill, with its tail; `struct io_uring_buf_ring`.
    entries: Mapping,
    /// The buffers themselves, one after the other.
    tags: Mapping,
    /// Buffers, and places of the ring.
    count: u16,
    tags_each: usize,
    /// Place of the ring for the next buffer, not yet wrapped. The kernel's copy is in `entries`.
    tail: u16,
}

impl FetchBuffers {
    /// Registers `count` (a power of two) buffers of `tags_each` tags. The
    /// buffers must outlive the ring's last completion.
    pub(super) fn register(ring: &QueueRing, count: u16, tags_each: usize) -> io::Result<Self> {
        let entries = Mapping::anonymous(usize::from(count) * size_of::<BufRingEntry>())?;
        let tags = Mapping::anonymous(usize::from(count) * tags_each * size_of::<u16>())?;
        let mut buffers = Self {
            entries,
            tags,
            count,
            tags_each,
            tail: 0,
        };
        let at = buffers.entries.start().as_ptr() as u64;
        // SAFETY: page-aligned memory for `count` entries, kept by `buffers`.
        unsafe {
            ring.ring
                .submitter()
                .register_buf_ring_with_flags(at, count, FETCH_GROUP, 0)?
        };
        for id in 0..count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// The tag at `index` of buffer `id`. Valid from the completion that named the buffer until
    /// [`FetchBuffers::give_back`].
    ///
    /// # Panics
    /// There is no such buffer or place in it.
    pub(super) fn tag(&self, id: u16, index: usize) -> u16 {
        assert!(id < self.count && index < self.tags_each);
        let first = self.tags.start().as_ptr().cast::<u16>();
        // SAFETY: within the mapping by the assertion; the kernel wrote it
        // before the completion that named the buffer.
        unsafe { first.add(usize::from(id) * self.tags_each + index).read() }
    }

    /// Lets the kernel fill buffer `id` again.
    pub(super) fn give_back(&mut self, id: u16) {
        let base = self.entries.start().as_ptr().cast::<BufRingEntry>();
        let len = self.tags_each * size_of::<u16>();
        // SAFETY: slot and buffer lie within their mappings; the kernel looks at
        // the slot only after the tail below has passed it.
        unsafe {
            let slot = &mut *base.add(usize::from(self.tail & (self.count - 1)));
            slot.set_addr(self.tags.start().as_ptr() as u64 + (usize::from(id) * len) as u64);
            slot.set_len(len as u32);
            slot.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is an aligned u16 inside the first entry.
        let tail = unsafe { &*BufRingEntry::tail(base).cast::<AtomicU16>() };
        // Release pairs with the kernel's acquire of the tail: it sees the slot.
        tail.store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{event, file};
    use std::os::fd::AsFd;

    /// A ring over a file that stands in for /dev/ublkcN, unless this machine has no io_uring.
    fn ring(test: &str) -> Option<QueueRing> {
        let file = file::memfd(c"ring-test", false).expect("a file");
        file.set_len(4096).expect("a page");
        match QueueRing::new(&file, 0, 8) {
            Ok(ring) => Some(ring),
            Err(error) => {
                println!("SKIP {test}: io_uring: {error}");
                assert!(std::env::var_os("CI").is_none(), "skipped under CI");
                None
            }
        }
    }

    /// W16: the kernel ends the poll of the waker because the completion ring is full. Polled
    /// again, it tells what was written meanwhile, and goes on.
    #[test]
    fn w16_a_poll_of_the_waker_that_the_kernel_has_ended_is_made_again() {
        let Some(mut ring) = ring("w16") else { return };
        let waker = event::eventfd().expect("an eventfd");
        let mut found = [Completion::NONE; 64];
        let mut ended = 0;
        for _ in 0..3 {
            ring.poll_waker(waker.as_fd());
            // As a loop that reaps nothing: each entry lets one completion be posted.
            for _ in 0..found.len() {
                event::signal(waker.as_fd());
                ring.submit_and_wait(1).expect("entered");
            }
            // Its last completion comes when there is room again.
            let mut last = 0;
            for _ in 0..2 {
                let count = ring.reap(&mut found);
                assert!(found[..count].iter().all(Completion::is_wakeup));
                last += found[..count].iter().filter(|c| !c.more()).count();
                ring.submit_and_wait(0).expect("entered");
            }
            assert_eq!(last, 1, "the poll ended once");
            ended += last;
            // Rung while nobody listens.
            event::signal(waker.as_fd());
        }
        assert_eq!(ended, 3);
        ring.poll_waker(waker.as_fd());
        ring.submit_and_wait(1).expect("told at once");
        let count = ring.reap(&mut found);
        assert!(count > 0 && found[..count].iter().all(|c| c.is_wakeup() && c.more()));
    }

    /// F22: who enters another thread's ring is caught, at each way in.
    #[test]
    #[cfg(debug_assertions)]
    fn f22_a_ring_that_another_thread_enters_says_so() {
        let Some(mut ring) = ring("f22") else { return };
        let waker = event::eventfd().expect("an eventfd");
        let ways: [fn(&mut QueueRing, BorrowedFd<'_>); 4] = [
            |ring, _| ring.submit_and_wait(0).expect("entered"),
            |ring, _| {
                ring.reap(&mut [Completion::NONE; 1]);
            },
            |ring, waker| ring.poll_waker(waker),
            |ring, _| ring.push_batch_fetch(0),
        ];
        for way in ways {
            let (ring, waker) = (&mut ring, waker.as_fd());
            let thread = std::thread::scope(|scope| scope.spawn(|| way(ring, waker)).join());
            let why = thread.expect_err("a debug build says so");
            let why = why.downcast_ref::<String>().expect("a text");
            assert!(why.contains("is another thread's"), "{why}");
        }
    }
}
