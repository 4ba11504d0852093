// SPDX-License-Identifier: MIT OR Apache-2.0
//! The limits of a process that make the creation of threads fail.
//!
//! Each is prepared while the process has one thread, comes into force later, and can be lifted.
//! An error says why it cannot be had here.

use std::fs;
use std::path::{Path, PathBuf};

/// The stack of each thread of the runtime under test. Large, so that a limit of the address space
/// leaves much room for the heap while no stack fits.
pub const STACK: usize = 64 << 20;

pub trait Limit {
    /// From here on no thread can be created.
    fn impose(&self);
    /// Now it can again.
    fn lift(&self);
}

/// `pids.max` of the cgroup in `dir`, which the process enters.
pub fn pids_max(dir: &str) -> Result<Box<dyn Limit>, String> {
    let dir = Path::new(dir);
    fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
        .map_err(|e| format!("cannot enter {}: {e}", dir.display()))?;
    Ok(Box::new(PidsMax(dir.to_owned())))
}

struct PidsMax(PathBuf);

impl Limit for PidsMax {
    fn impose(&self) {
        let present = fs::read_to_string(self.0.join("pids.current")).unwrap();
        fs::write(self.0.join("pids.max"), present.trim()).unwrap();
    }

    fn lift(&self) {
        fs::write(self.0.join("pids.max"), "max").unwrap();
    }
}

/// RLIMIT_NPROC. It means nothing to root, so the process takes an unused user number.
pub fn nproc() -> Result<Box<dyn Limit>, String> {
    // SAFETY: takes no argument and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        become_user(unused_uid())?;
    }
    Ok(Box::new(Resource::new(libc::RLIMIT_NPROC, |_| 0)))
}

fn become_user(uid: u32) -> Result<(), String> {
    // SAFETY: plain numbers in, nothing written; the process has one thread.
    let rc = unsafe { libc::setresgid(uid, uid, uid) | libc::setresuid(uid, uid, uid) };
    if rc == 0 {
        return Ok(());
    }
    let e = std::io::Error::last_os_error();
    Err(format!("cannot become user {uid}: {e}"))
}

/// A user number that no process has now.
fn unused_uid() -> u32 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let status = |p: fs::DirEntry| fs::read_to_string(p.path().join("status")).ok();
    let taken: Vec<String> = processes.filter_map(status).collect();
    let is_taken = |uid: &u32| {
        let uid = uid.to_string();
        let uses = |s: &String| {
            let line = s.lines().find(|l| l.starts_with("Uid:"));
            line.is_some_and(|l| l.split_whitespace().any(|n| n == uid))
        };
        taken.iter().any(uses)
    };
    // Each test program begins elsewhere, so that two at a time do not meet.
    let first = 61_000 + std::process::id() % 3_000;
    (first..)
        .find(|uid| !is_taken(uid))
        .expect("there are more numbers than processes")
}

/// RLIMIT_AS: half a stack more than what is in use, so that the heap can go on growing.
pub fn address_space() -> Result<Box<dyn Limit>, String> {
    let limit = Resource::new(libc::RLIMIT_AS, |_| {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        // SAFETY: asks for a number, writes nothing.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        pages * u64::try_from(page).unwrap() + STACK as u64 / 2
    });
    Ok(Box::new(limit))
}

type Which = libc::__rlimit_resource_t;

struct Resource {
    which: Which,
    before: libc::rlimit,
    value: fn(&libc::rlimit) -> u64,
}

impl Resource {
    fn new(which: Which, value: fn(&libc::rlimit) -> u64) -> Self {
        let mut before = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `before` is valid for writing.
        let rc = unsafe { libc::getrlimit(which, &mut before) };
        assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
        Self {
            which,
            before,
            value,
        }
    }

    fn set(&self, soft: u64) {
        let limit = libc::rlimit {
            rlim_cur: soft.min(self.before.rlim_max),
            ..self.before
        };
        // SAFETY: `limit` is only read.
        let rc = unsafe { libc::setrlimit(self.which, &limit) };
        assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Limit for Resource {
    fn impose(&self) {
        self.set((self.value)(&self.before));
    }

    fn lift(&self) {
        self.set(self.before.rlim_cur);
    }
}
