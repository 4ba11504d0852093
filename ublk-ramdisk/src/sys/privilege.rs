// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process that serves a disk may still do: capabilities, and system calls by kind of thread.
//!
//! Both belong to a thread, and go to the threads and processes that it makes. So each thread is
//! confined where its own work begins. The workers of the pools, which make each other, descend from a
//! thread that is confined already ([`on_confined_thread`]).
//!
//! | kind | capabilities | filter |
//! |---|---|---|
//! | supervisor | to find users of the disk, stop and delete it, and what a server's start needs | none: servers are its forks |
//! | `watch` | the same, none of them in force but IPC_LOCK: it may have to run `del` | what `del` calls |
//! | main thread, and what it starts | IPC_LOCK; SYS_NICE for workers, SYS_RESOURCE for them (J1) and PSI | no ring is made, no program run |
//! | workers | the same | memory, files that are open or read, threads |
//! | `log`, `control` | IPC_LOCK | sockets and the log |
//! | queue threads | IPC_LOCK | the ring, copies |
//!
//! IPC_LOCK stays because whatever a thread maps is locked (J2). A call that the filter does not know
//! fails with EPERM: a C library that calls something else than the tested ones costs no disk.
//! `UBLK_RAMDISK_SECCOMP` changes that: with `kill`, as in the tests, such a call ends the process with
//! SIGSYS; with `log` it goes on; both have the kernel's log name it. `off` leaves the filters out.

use std::io;
use std::thread;

use libc::*;
use nix::sys::stat::{umask, Mode};
use seccompiler::{SeccompAction, SeccompFilter};

/// Names what becomes of calls that a filter does not know.
pub const VARIABLE: &str = "UBLK_RAMDISK_SECCOMP";

/// A kind of thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The supervisor, which forks servers. The only kind without a filter.
    Supervisor,
    /// Hears signals, and runs `del` when there is no supervisor.
    Watch,
    /// The main thread of a server whose disk is there.
    Main,
    /// The threads of the log and of the control socket.
    Helper,
    /// The threads of the workqueue runtime.
    Worker,
    /// A queue thread that is set up.
    Queue,
}

/// The call that a debugger leaves when it takes one out.
const NONE: c_long = u32::MAX as c_long;

/// The numbers of system calls.
macro_rules! calls {
    ($($call:ident)*) => { &[$($call),*] };
}

/// Of every thread: memory, locks, time, its name (K3), the end, and what a panic needs to end the process.
const COMMON: &[c_long] = calls![
    NONE SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_futex SYS_membarrier
    SYS_rseq SYS_sched_yield SYS_sched_getaffinity SYS_getcpu SYS_getrandom SYS_clock_gettime
    SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_restart_syscall SYS_getpid SYS_gettid
    SYS_tgkill SYS_tkill SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sigaltstack
    SYS_exit SYS_exit_group SYS_prctl SYS_write SYS_writev SYS_close SYS_fcntl
];
/// The ring of a queue, and that of control commands.
const RING: &[c_long] = calls![SYS_io_uring_enter];
/// Bytes of the disk: copies, also checked ones (G16), holes, whether the disk is still there (E22),
/// its timer.
const COPIES: &[c_long] = calls![
    SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_process_vm_readv SYS_fallocate SYS_lseek
    SYS_statx SYS_timerfd_settime
];
/// Threads that are made, and what they are given.
const THREADS: &[c_long] = calls![
    SYS_clone SYS_clone3 SYS_set_robust_list SYS_getpriority SYS_setpriority
    SYS_sched_setaffinity SYS_getrusage
];
/// Files that are read: PSI, CPUs, memory.
const READS: &[c_long] = calls![
    SYS_openat SYS_read SYS_fstat SYS_newfstatat SYS_fstatfs SYS_ppoll SYS_eventfd2
    SYS_timerfd_create SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_getdents64 SYS_ftruncate
];
/// Those who speak to commands and to the log.
const SOCKETS: &[c_long] = calls![
    SYS_socket SYS_connect SYS_accept4 SYS_sendto SYS_sendmsg SYS_recvfrom SYS_recvmsg
    SYS_setsockopt SYS_getsockopt SYS_shutdown SYS_read SYS_ioctl SYS_ppoll
];
/// The files of the run directory, and a private store.
const NAMES: &[c_long] = calls![
    SYS_mkdirat SYS_unlinkat SYS_renameat2 SYS_flock SYS_fchmod SYS_fchmodat
    SYS_umount2 SYS_statfs SYS_readlinkat SYS_fsync SYS_pipe2 SYS_faccessat SYS_geteuid
];
/// A command, and its start.
const COMMAND: &[c_long] = calls![
    SYS_execve SYS_wait4 SYS_waitid SYS_kill SYS_chdir SYS_getcwd SYS_dup SYS_dup3 SYS_close_range
    SYS_prlimit64 SYS_capget SYS_capset SYS_socketpair SYS_io_uring_setup SYS_io_uring_register
    SYS_set_tid_address SYS_getuid SYS_getgid SYS_getegid SYS_getppid SYS_uname
    SYS_sysinfo SYS_pidfd_open SYS_pidfd_send_signal SYS_mount SYS_sync
];
/// What the C library calls where the architecture still has the old form: by name, in the order of
/// [`READS`], [`SOCKETS`], [`NAMES`] and [`COMMAND`].
#[cfg(target_arch = "x86_64")]
const OLD: [&[c_long]; 4] = [
    calls![SYS_open SYS_stat SYS_poll SYS_epoll_wait],
    calls![SYS_poll],
    calls![SYS_mkdir SYS_unlink SYS_rmdir SYS_rename SYS_chmod SYS_readlink SYS_lstat SYS_access],
    calls![SYS_fork SYS_vfork SYS_dup2 SYS_pipe SYS_arch_prctl],
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: [&[c_long]; 4] = [&[], &[], &[RENAMEAT], &[]];
/// The crate libc does not name it.
#[cfg(not(target_arch = "x86_64"))]
const RENAMEAT: c_long = 38;

impl Kind {
    /// The calls that its filter knows. None: it has no filter.
    fn calls(self) -> Option<Vec<c_long>> {
        let [reads, sockets, names, command] = OLD;
        let mut calls = COMMON.to_vec();
        let mut add = |groups: &[&[c_long]]| calls.extend(groups.iter().copied().flatten());
        match self {
            Kind::Supervisor => return None,
            Kind::Queue => add(&[RING, COPIES]),
            Kind::Worker => add(&[COPIES, THREADS, READS, reads]),
            Kind::Helper => add(&[SOCKETS, sockets]),
            Kind::Main | Kind::Watch => {
                add(&[RING, COPIES, THREADS, READS, reads]);
                add(&[SOCKETS, sockets, NAMES, names]);
            }
        }
        if self == Kind::Watch {
            calls.extend(COMMAND.iter().chain(command));
        }
        Some(calls)
    }

    /// A bit for each.
    fn capabilities(self) -> u32 {
        const RUN: u32 = IPC_LOCK | SYS_NICE | SYS_RESOURCE;
        match self {
            Kind::Supervisor | Kind::Watch => {
                DAC_OVERRIDE | DAC_READ_SEARCH | FOWNER | KILL | SYS_PTRACE | SYS_ADMIN | RUN
            }
            Kind::Main | Kind::Worker => RUN,
            Kind::Helper | Kind::Queue => IPC_LOCK,
        }
    }
}

// Of include/uapi/linux/capability.h, without CAP_.
const DAC_OVERRIDE: u32 = 1 << 1;
const DAC_READ_SEARCH: u32 = 1 << 2;
const FOWNER: u32 = 1 << 3;
const KILL: u32 = 1 << 5;
const IPC_LOCK: u32 = 1 << 14;
const SYS_PTRACE: u32 = 1 << 19;
const SYS_ADMIN: u32 = 1 << 21;
const SYS_NICE: u32 = 1 << 23;
const SYS_RESOURCE: u32 = 1 << 24;

/// `struct __user_cap_data_struct`: a bit for each capability.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Capabilities {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Calls capget or capset for the calling thread. There are 64 bits; all that are kept are in the first.
fn capabilities(call: c_long, sets: &mut [Capabilities; 2]) -> io::Result<()> {
    // `struct __user_cap_header_struct`: _LINUX_CAPABILITY_VERSION_3, and this thread.
    let header: [u32; 2] = [0x2008_0522, 0];
    // SAFETY: both are as the kernel lays them out; capget writes to `sets`, which is borrowed.
    match unsafe { syscall(call, header.as_ptr(), sets.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Confines the calling thread, and all that it makes from now on. What the kernel refuses is logged,
/// and the disk is served without it. For the supervisor: also no core files, and files for their
/// owner alone.
pub fn confine(kind: Kind) {
    let warn = |what, error: &dyn std::fmt::Display| {
        log::warn!("{what} of thread kind {kind:?}: {error}; it can do more than it needs");
    };
    if kind == Kind::Supervisor {
        umask(Mode::S_IRWXG | Mode::S_IRWXO);
        let none = rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `none` is only read. A smaller limit is never refused.
        unsafe { setrlimit(RLIMIT_CORE, &none) };
        if let Err(error) = nix::sys::prctl::set_no_new_privs() {
            warn("PR_SET_NO_NEW_PRIVS", &error);
        }
    }
    if let Err(error) = drop_capabilities(kind) {
        warn("capabilities", &error);
    }
    if let Err(error) = install_filter(kind) {
        warn("seccomp filter", &error);
    }
}

fn drop_capabilities(kind: Kind) -> io::Result<()> {
    let mut sets = Default::default();
    capabilities(SYS_capget, &mut sets)?;
    let permitted = sets[0].permitted & kind.capabilities();
    // Those of `watch` are in force again in the program that it runs.
    let held_back = if kind == Kind::Watch { !IPC_LOCK } else { 0 };
    let left = Capabilities {
        effective: permitted & !held_back,
        permitted,
        inheritable: 0,
    };
    capabilities(SYS_capset, &mut [left, Capabilities::default()])
}

fn install_filter(kind: Kind) -> Result<(), seccompiler::Error> {
    let Some(calls) = kind.calls() else {
        return Ok(());
    };
    let action = match std::env::var(VARIABLE).as_deref() {
        Ok("off") => return Ok(()),
        Ok("log") => SeccompAction::Log,
        Ok("kill") => SeccompAction::KillProcess,
        _ => SeccompAction::Errno(EPERM as u32),
    };
    let rules = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let here = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, action, SeccompAction::Allow, here)?;
    seccompiler::apply_filter(&seccompiler::BpfProgram::try_from(filter)?)
}

/// Returns what `make` returns on a thread of this kind, which makes its threads likewise.
///
/// # Errors
/// No thread can be made.
pub fn on_confined_thread<T: Send>(kind: Kind, make: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || {
            confine(kind);
            make()
        })?;
        let made = thread.join();
        Ok(made.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// May this process add disks, as far as its capabilities tell?
pub fn may_administer() -> bool {
    let mut sets = Default::default();
    // If that fails the driver decides.
    capabilities(SYS_capget, &mut sets).is_err() || sets[0].effective & SYS_ADMIN != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j14_a_call_that_no_filter_knows_fails() {
        if !std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
            let ci = std::env::var("CI").unwrap_or_default();
            assert!(
                ci != "true" && ci != "1",
                "this kernel has no seccomp filters"
            );
            eprintln!("SKIP j14_a_call_that_no_filter_knows_fails: no seccomp filters here");
            return;
        }
        let confined = thread::spawn(|| {
            confine(Kind::Queue);
            // SAFETY: it has no arguments.
            let answer = unsafe { syscall(SYS_getppid) };
            (answer, io::Error::last_os_error().raw_os_error())
        });
        let answer = confined.join().expect("it may end");
        assert_eq!(answer, (-1, Some(EPERM)));
    }
}
