// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the standard library does not offer for threads: affinity, nice, names, signals, CPU time,
//! forks.
//!
//! Called by the threads of [`crate::pool`] on themselves. All calls into libc that the crate makes
//! are here, but for sockets. Those that Miri does not know do nothing under it. Kernel
//! counterparts: `set_cpus_allowed_ptr`, `set_user_nice`, `raw_smp_processor_id`.

use super::cpuset::{CpuSet, MAX_CPUS};
use super::ShortText;
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Once;
use std::{io, thread};

/// What the kernel keeps of a thread's name.
const COMM_LEN: usize = 15;

/// The CPU the caller runs on at this moment.
#[inline]
pub(crate) fn current_cpu() -> usize {
    if cfg!(miri) {
        return 0;
    }
    // SAFETY: takes no argument and writes nothing.
    let cpu = unsafe { libc::sched_getcpu() };
    usize::try_from(cpu).unwrap_or(0)
}

thread_local! {
    static WORKER_CPU: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The calling thread is a worker of this CPU from now on, or of none.
pub(crate) fn set_worker_cpu(cpu: Option<usize>) {
    // A thread that is being torn down is no worker any more.
    let _ignored = WORKER_CPU.try_with(|own| own.set(cpu));
}

/// The CPU whose worker the calling thread is; None off per-CPU workers.
pub(crate) fn worker_cpu() -> Option<usize> {
    WORKER_CPU.try_with(Cell::get).ok().flatten()
}

/// The caller's thread number, as `ps -L` shows it.
pub(crate) fn current_tid() -> i32 {
    // SAFETY: takes no argument and writes nothing.
    unsafe { libc::gettid() }
}

/// The outcome of a system call that returns a negative number on failure.
fn checked(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Binds the calling thread to `cpus`.
pub(crate) fn bind_current(cpus: &CpuSet) -> io::Result<()> {
    bind_thread(0, cpus, cpus)
}

/// Binds a thread of this process to those of `cpus` that are in `within`; 0 is the calling one.
/// Fails if there is none. Allocates nothing.
pub(crate) fn bind_thread(tid: i32, cpus: &CpuSet, within: &CpuSet) -> io::Result<()> {
    let mut mask = [0u64; MAX_CPUS / 64];
    for (word, (a, b)) in mask.iter_mut().zip(cpus.words().iter().zip(within.words())) {
        *word = a & b;
    }
    // SAFETY: the pointer and the length describe `mask`, which the kernel only reads.
    let rc = unsafe { libc::sched_setaffinity(tid, size_of_val(&mask), mask.as_ptr().cast()) };
    checked(rc)
}

/// The CPUs the calling thread may use.
pub(crate) fn allowed_cpus() -> io::Result<CpuSet> {
    cpus_of(0)
}

/// The CPUs a thread of this process may use; 0 is the calling one.
pub(crate) fn cpus_of(tid: i32) -> io::Result<CpuSet> {
    let mut mask = [0u64; MAX_CPUS / 64];
    // SAFETY: the pointer and the length describe `mask`, which the kernel fills at most.
    let rc = unsafe { libc::sched_getaffinity(tid, size_of_val(&mask), mask.as_mut_ptr().cast()) };
    checked(rc)?;
    Ok((0..MAX_CPUS)
        .filter(|c| mask[c / 64] & (1u64 << (c % 64)) != 0)
        .collect())
}

/// The CPUs that the machine has or could be given while it runs; None if it does not tell.
pub(crate) fn possible_cpus() -> Option<CpuSet> {
    listed_cpus("possible")
}

/// The CPUs that the system's load balancing leaves alone (`isolcpus=`); None if it does not tell.
pub(crate) fn isolated_cpus() -> Option<CpuSet> {
    listed_cpus("isolated")
}

fn listed_cpus(file: &str) -> Option<CpuSet> {
    let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/{file}")).ok()?;
    CpuSet::parse_list(&text)
}

/// Sets the nice value of the calling thread alone.
pub(crate) fn set_current_nice(nice: i32) -> io::Result<()> {
    if cfg!(miri) {
        return Ok(());
    }
    let tid = libc::id_t::try_from(current_tid()).unwrap_or(0);
    // SAFETY: plain numbers in, nothing written. On Linux a thread number is a valid "process".
    let rc = unsafe { libc::setpriority(libc::PRIO_PROCESS, tid, nice) };
    checked(rc)
}

/// Gives the calling thread the real-time policy SCHED_FIFO, at a priority of 1..=99.
pub(crate) fn set_current_fifo(priority: i32) -> io::Result<()> {
    let param = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: `param` is only read; 0 means the calling thread.
    let rc = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) };
    checked(rc)
}

/// The nice value of the calling thread.
pub(crate) fn current_nice() -> i32 {
    if cfg!(miri) {
        return 0;
    }
    // SAFETY: plain numbers in, nothing written; 0 means the calling thread.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Names the calling thread, cut to what the kernel keeps.
pub(crate) fn set_current_name(name: &str) {
    if cfg!(miri) {
        return;
    }
    let mut bytes = [0u8; COMM_LEN + 1];
    let len = name.len().min(COMM_LEN);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    // SAFETY: `bytes` ends in a NUL, as the last byte is never written, and outlives the call.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, bytes.as_ptr());
    }
}

/// The calling thread's name, without allocating and without a file.
pub(crate) fn current_name() -> ShortText {
    let mut bytes = [0u8; COMM_LEN + 1];
    if !cfg!(miri) {
        // SAFETY: the kernel writes as many bytes as `bytes` has at most.
        unsafe {
            libc::prctl(libc::PR_GET_NAME, bytes.as_mut_ptr());
        }
    }
    let name = std::ffi::CStr::from_bytes_until_nul(&bytes);
    ShortText::new(name.unwrap_or_default().to_str().unwrap_or_default())
}

/// Makes the calling thread wake from timed sleeps at once, instead of up to 50 us later.
pub(crate) fn set_current_timer_exact() {
    if cfg!(miri) {
        return;
    }
    // SAFETY: plain numbers in, nothing written. Refused nowhere; if it were, timers fire later.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong);
    }
}

/// CPU time the calling thread has used, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    read_own_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time another thread of this process has used; None if it has ended.
pub(crate) fn thread_cpu_ns_of(tid: i32) -> Option<u64> {
    // The kernel's own encoding of "CPU clock of thread tid": the number inverted, above three
    // bits that say per-thread (4) and scheduler time (2).
    read_clock((!tid << 3) | 6)
}

/// How often the calling thread has gone to sleep (voluntary context switches).
pub(crate) fn voluntary_switches() -> u64 {
    if cfg!(miri) {
        return 0;
    }
    // SAFETY: rusage is plain data for which all-zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for writing; the calling thread can always be asked about.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    u64::try_from(usage.ru_nvcsw).unwrap_or(0)
}

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    read_own_clock(libc::CLOCK_MONOTONIC)
}

/// CLOCK_MONOTONIC as of the last tick: cheap, some milliseconds behind.
pub(crate) fn monotonic_coarse_ns() -> u64 {
    read_own_clock(libc::CLOCK_MONOTONIC_COARSE)
}

/// Reads one of the three clocks above, which exist on every supported kernel.
fn read_own_clock(clock: libc::clockid_t) -> u64 {
    // Miri knows one clock.
    let clock = if cfg!(miri) {
        libc::CLOCK_MONOTONIC
    } else {
        clock
    };
    read_clock(clock).unwrap_or(0)
}

/// Nanoseconds on a clock; None if there is no such clock.
fn read_clock(clock: libc::clockid_t) -> Option<u64> {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is valid for writing; an unknown clock makes the call fail.
    let rc = unsafe { libc::clock_gettime(clock, &mut ts) };
    let seconds = (ts.tv_sec as u64).wrapping_mul(1_000_000_000);
    (rc == 0).then(|| seconds.wrapping_add(ts.tv_nsec as u64))
}

/// While alive, all signals but the synchronous fault signals are blocked on the calling thread.
/// Threads made meanwhile inherit that, so no signal handler runs on the crate's threads.
pub(crate) struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    pub(crate) fn new() -> Self {
        // SAFETY: sigset_t is plain data for which all-zero is a valid value.
        let (mut all, mut before) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        if cfg!(miri) {
            return Self { before };
        }
        // SAFETY: both sets are valid for writing and belong to this frame.
        unsafe {
            libc::sigfillset(&mut all);
            for fault in [
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGILL,
                libc::SIGFPE,
                libc::SIGTRAP,
                libc::SIGSYS,
            ] {
                libc::sigdelset(&mut all, fault);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        }
        Self { before }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        if cfg!(miri) {
            return;
        }
        // SAFETY: `before` was filled by pthread_sigmask; no old set is asked for.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

static FORKS: AtomicU32 = AtomicU32::new(0);
static WATCH_FORKS: Once = Once::new();

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The number of forks between this process and the first one that called `watch_forks`. A runtime
/// of another generation has no threads here.
pub(crate) fn fork_generation() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Starts counting forks; later calls do nothing.
pub(crate) fn watch_forks() {
    if cfg!(miri) {
        return;
    }
    WATCH_FORKS.call_once(|| {
        // SAFETY: the handler is a plain function that lives for ever and only adds to an atomic,
        // which is allowed in a forked child.
        unsafe {
            libc::pthread_atfork(None, None, Some(count_fork));
        }
    });
}

/// Registers `before` and `after` for each fork: the forking thread calls them, `after` in the
/// parent and in the child. For locks that a child must find free.
pub(crate) fn around_forks(before: extern "C" fn(), after: extern "C" fn()) {
    if cfg!(miri) {
        return;
    }
    // SAFETY: the handlers are plain functions that live for ever.
    unsafe {
        libc::pthread_atfork(Some(before), Some(after), Some(after));
    }
}

/// Bytes of stack that [`touch_stack`] has there.
pub(crate) const TOUCHED_STACK: usize = 64 << 10;

/// Has the next 64 KiB of the calling thread's stack there. Each thread of the crate that has twice as
/// much begins so, for programs that lock their memory: a run that needed a page for its stack could
/// wait for memory that only itself can free. To be called by other threads on which memory depends.
#[inline(never)]
pub fn touch_stack() {
    std::hint::black_box(&mut [0_u8; TOUCHED_STACK]);
}

/// The system's number for a failed thread creation.
pub(crate) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EAGAIN)
}

/// Starts a thread with all its signals blocked from the first instruction on.
pub(crate) fn spawn_quiet(
    name: String,
    stack_size: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    let _quiet = SignalsBlocked::new();
    thread::Builder::new()
        .name(name)
        .stack_size(stack_size)
        .spawn(body)
}

/// Ends the process if the thread unwinds out of the crate's bookkeeping.
pub(crate) struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        if thread::panicking() {
            log::error!(
                "workqueue: internal error on a worker thread, see the panic above; aborting"
            );
            std::process::abort();
        }
    }
}

/// Calls `f` in the child of a fork, which is ended if it hangs. False unless `f` returned true.
#[cfg(test)]
pub(crate) fn is_true_in_child(f: impl FnOnce() -> bool) -> bool {
    watch_forks();
    // SAFETY: the child calls `f` and leaves by _exit, without running anything of the parent's.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above; the alarm ends a child that hangs, on a worker's thread too.
        unsafe {
            let mut alarm = std::mem::zeroed();
            libc::sigemptyset(&mut alarm);
            libc::sigaddset(&mut alarm, libc::SIGALRM);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &alarm, std::ptr::null_mut());
            libc::alarm(60);
        }
        let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(!held)) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for writing; the child is ours.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    (waited, status) == (child, 0)
}
