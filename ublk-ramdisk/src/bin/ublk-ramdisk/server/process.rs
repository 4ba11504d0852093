// SPDX-License-Identifier: MIT OR Apache-2.0
//! Becoming a daemon, and the process settings a block device server needs. One of the files with
//! `unsafe`.

use std::ffi::CStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::signal::{signal, SigHandler, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{ForkResult, Pid};
use ublk_ramdisk::config::MAX_NAME;

/// Which of the two processes this is.
pub enum Side {
    /// The process that forked, with its child.
    Parent(Child),
    /// The new process.
    Child,
}

/// A child that has not been waited for.
pub struct Child(Pid);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With an exit status.
    Exited(i32),
    /// By a signal.
    Killed {
        /// The signal.
        signal: Signal,
        /// A core file was written.
        core: bool,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(status) => write!(f, "exit status {status}"),
            End::Killed { signal, core } => {
                let more = match (signal, core) {
                    (Signal::SIGSYS, _) => {
                        ", a system call that it may not make: the kernel's log says which"
                    }
                    (_, true) => ", core dumped",
                    (_, false) => "",
                };
                write!(f, "{signal}{more}")
            }
        }
    }
}

impl Child {
    /// Waits for the child's end.
    pub fn end(&self) -> io::Result<End> {
        loop {
            if let Some(end) = self.look(None)? {
                return Ok(end);
            }
        }
    }

    /// The child's end, if it has ended.
    pub fn try_end(&self) -> io::Result<Option<End>> {
        self.look(Some(WaitPidFlag::WNOHANG))
    }

    fn look(&self, flags: Option<WaitPidFlag>) -> io::Result<Option<End>> {
        match waitpid(self.0, flags) {
            Ok(WaitStatus::Exited(_, status)) => Ok(Some(End::Exited(status))),
            Ok(WaitStatus::Signaled(_, signal, core)) => Ok(Some(End::Killed { signal, core })),
            Ok(_) | Err(Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the child at once.
    pub fn kill(&self) {
        let _ = nix::sys::signal::kill(self.0, Signal::SIGKILL);
    }
}

/// Makes a copy of this process. Refused when it has more than one thread: the copy would hold
/// the locks of threads it does not have.
pub fn fork() -> io::Result<Side> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("fork with more than one thread"));
    }
    // SAFETY: the process has one thread, just counted, so the child may run any code.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(Child(child))),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// Lets go of the terminal, the directory and every file but `keep`; standard input, output and
/// error lead to /dev/null from here on.
pub fn detach(keep: BorrowedFd<'_>) -> io::Result<()> {
    // A session of its own: no signal of the terminal reaches it.
    nix::unistd::setsid()?;
    // Any other directory would keep its file system from being unmounted.
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(null);
    close_inherited(keep)
}

/// Closes what the caller's shell left open, for a daemon must not hold other people's files.
///
/// # Context
/// First thing in the child. What the parent has opened but `keep` is never used or dropped here.
fn close_inherited(keep: BorrowedFd<'_>) -> io::Result<()> {
    let inherited: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && *fd != keep.as_raw_fd())
        .collect();
    for fd in inherited {
        // SAFETY: no value that the child uses owns the number: `keep` and the standard three were
        // taken out, and the directory just read is closed already (EBADF is of no consequence).
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Names the process, for `ps` and the like. A name that cannot be set is of no consequence.
pub fn set_name(name: &CStr) {
    let _ = nix::sys::prctl::set_name(name);
}

/// What /proc/PID/cmdline shows of this process. On the heap: of other memory the kernel shows none.
static TITLE: OnceLock<Box<[AtomicU8]>> = OnceLock::new();
const TITLE_LENGTH: usize = "ublk-supervisor: ublkb1048575 ".len() + MAX_NAME;

/// Has `ps` show what the process does, and for which disk. Where the kernel does not let it
/// (PR_SET_MM needs CAP_SYS_RESOURCE) the command line stays.
pub fn set_title(process: &str, id: u32, name: Option<&str>) {
    // One byte more: the title ends with a zero.
    let zeros = || (0..=TITLE_LENGTH).map(|_| AtomicU8::new(0)).collect();
    let shown = TITLE.get_or_init(zeros);
    let title = format!("{process}: ublkb{id} {}", name.unwrap_or_default());
    let bytes = title.trim_end().bytes().chain(std::iter::repeat(0));
    let places = shown[..TITLE_LENGTH].iter();
    places
        .zip(bytes)
        .for_each(|(place, byte)| place.store(byte, Relaxed));
    // In this order: the beginning must not lie behind the end, and the stack is above.
    let ends = shown.as_ptr_range();
    for (what, place) in [
        (libc::PR_SET_MM_ARG_START, ends.start),
        (libc::PR_SET_MM_ARG_END, ends.end),
    ] {
        let (what, none) = (what as libc::c_ulong, 0_usize);
        // SAFETY: the kernel only reads between the two, for others; what is in a static stays, and this
        // process has no use of its own for the former place.
        unsafe { libc::prctl(libc::PR_SET_MM, what, place, none, none) };
    }
}

/// Ends a process at once, if it is there.
pub fn kill(pid: i32) {
    // 0 and below stand for groups.
    if pid > 0 {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Leaves the terminal of the supervisor, whose signals are the supervisor's alone. With `bound` the
/// process ends with its supervisor, however that ends.
pub fn leave_terminal(bound: bool) -> io::Result<()> {
    nix::unistd::setsid()?;
    if bound {
        // Else it is one that outlives its supervisor, as in the background.
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    }
    Ok(())
}

/// A write beyond RLIMIT_FSIZE, also one to a file in memory, gives an error and no deadly signal.
/// The standard library has seen to SIGPIPE in the same way.
pub fn survive_file_size_limit() {
    // SAFETY: to ignore a signal runs no code of ours.
    let ignored = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    // Fails for numbers that are no signals.
    debug_assert!(ignored.is_ok());
}

/// No core file is written when this process ends badly: it would hold the bytes of the disk, and a
/// disk of many gigabytes hangs until it is written. The superuser's debugger can attach as before.
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Asks the kernel to kill this process last when memory runs out: it holds a disk.
///
/// # Errors
/// The process may not lower the value (J9).
pub fn spare_from_oom() -> io::Result<()> {
    use std::io::Write;
    File::options()
        .write(true)
        .open("/proc/self/oom_score_adj")?
        .write_all(b"-1000")
}

/// Size of a page, in bytes.
pub fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(4096)
}
