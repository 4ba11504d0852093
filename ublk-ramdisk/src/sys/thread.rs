// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a thread can be given: CPUs, and the mark of one that serves writeback.

use std::io;

/// `PR_SET_IO_FLUSHER` of `linux/prctl.h`.
const PR_SET_IO_FLUSHER: i32 = 57;

/// Lets the calling thread run on these CPUs alone.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    pin_thread(0, cpus)
}

/// Thread ID of the calling thread, never 0.
pub fn id() -> i32 {
    // SAFETY: no memory is involved.
    unsafe { libc::gettid() }
}

/// Lets a thread run on these CPUs alone. Thread ID 0 is the calling one.
pub fn pin_thread(thread: i32, cpus: &[usize]) -> io::Result<()> {
    // Room for 8192 CPUs, as in `Control::queue_affinity`; higher numbers are left out.
    let mut mask = [0u64; 128];
    for &cpu in cpus {
        if let Some(word) = mask.get_mut(cpu / 64) {
            *word |= 1 << (cpu % 64);
        }
    }
    // SAFETY: the mask is as long as said.
    let result = unsafe {
        libc::sched_setaffinity(thread, std::mem::size_of_val(&mask), mask.as_ptr().cast())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives the calling thread a table of open files of its own. Where no other thread can close a file, the
/// kernel does not count each use of it: a counter that all queues of a disk would share. What is open
/// now is closed when this thread ends, too.
pub fn own_files() -> io::Result<()> {
    Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?)
}

/// Marks the calling thread as an I/O flusher: its memory allocations do not wait for block I/O, which
/// it may serve itself (J1). Needs CAP_SYS_RESOURCE.
pub fn set_io_flusher() -> io::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
