// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that this machine, and the control groups of this process, can still give.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lock::Lock;

/// Where cgroups of version 2 are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Left to the machine, in bytes, beside twice what the kernel keeps free for itself.
const MARGIN: u64 = 16 << 20;
/// Left to a control group, in bytes. The kernel charges in batches of 256 KiB for each CPU.
const GROUP_RESERVE: u64 = 4 << 20;
/// Bytes that must be left where there is plenty, to the machine beside a twentieth of its memory, to
/// a control group below memory.high and memory.max.
const PLENTY: u64 = 64 << 20;
/// No file that is read here is longer, in what is read of it.
const FILE: usize = 8 << 10;
/// Others take memory no faster, in bytes per nanosecond: it is looked again before they can have
/// taken what the last look found.
const FASTEST: u64 = 32;
/// A look serves no longer, in nanoseconds: a limit may be lowered meanwhile.
const LONGEST_LOOK: u64 = 10_000_000;

/// Locks all pages of what this process has mapped: its code and data are there before memory is
/// short, and never taken away (J2). Of explicit huge pages the kernel makes all that are mapped.
pub fn lock_present() -> io::Result<()> {
    mlockall(libc::MCL_CURRENT)
}

/// Locks what this process has mapped or maps later, a page as it is first touched. Where its mappings
/// exceed RLIMIT_MEMLOCK it fails without CAP_IPC_LOCK and changes nothing.
pub fn lock_touched() -> io::Result<()> {
    mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT)
}

fn mlockall(flags: i32) -> io::Result<()> {
    // SAFETY: no memory changes.
    match unsafe { libc::mlockall(flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns the cgroup of this process and those above it, the lowest first, as folders.
fn own_groups() -> Option<Vec<PathBuf>> {
    Some(groups_of(Path::new(CGROUPS), &own_group().ok()?))
}

/// Returns the kernel's path of the cgroup of this process, without its first slash.
fn own_group() -> io::Result<String> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let path =
        path.ok_or_else(|| io::Error::other("the server is in no control group of version 2"))?;
    Ok(path.trim_end_matches(" (deleted)").to_owned())
}

/// Returns the pressure file of the cgroup of this process.
pub fn cgroup_pressure() -> io::Result<PathBuf> {
    Ok(Path::new(CGROUPS)
        .join(own_group()?)
        .join("memory.pressure"))
}

/// `path` is relative to `root`: the kernel's path without its first slash.
fn groups_of(root: &Path, path: &str) -> Vec<PathBuf> {
    let own = root.join(path);
    let folders = own.ancestors().map(Path::to_path_buf);
    folders
        .take_while(|folder| folder.starts_with(root))
        .collect()
}

/// Returns the lowest memory.max of the cgroup of this process and those above it, in bytes. None
/// without a limit, or without cgroups of version 2.
pub fn cgroup_max() -> Option<u64> {
    lowest_max(&own_groups()?)
}

fn lowest_max(groups: &[PathBuf]) -> Option<u64> {
    let max = |folder: &PathBuf| {
        let text = fs::read_to_string(folder.join("memory.max")).ok()?;
        text.trim().parse().ok() // "max" is none
    };
    groups.iter().filter_map(max).min()
}

/// Calls `found` with the number of each line `name number ...` of a file that stays open. Allocates
/// nothing, and with a file that has been read before neither does the kernel.
fn numbers(file: &File, mut found: impl FnMut(&str, u64)) -> io::Result<()> {
    let mut bytes = [0; FILE];
    let mut held = 0;
    while held < FILE {
        match file.read_at(&mut bytes[held..], held as u64)? {
            0 => break,
            read => held += read,
        }
    }
    let text = std::str::from_utf8(&bytes[..held]).unwrap_or_default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), second) = (words.next(), words.next()) else {
            continue;
        };
        let (name, number) = second.map_or(("", first), |second| (first, second));
        if let Ok(number) = number.parse() {
            found(name, number);
        }
    }
    Ok(())
}

/// A control group of version 2: its files stay open, so that it costs no memory to look.
#[derive(Debug)]
struct Group {
    max: File,
    high: File,
    current: File,
    stat: File,
}

impl Group {
    /// None for the root of all groups, which has no limit.
    fn open(folder: &Path) -> Option<Self> {
        let open = |name: &str| File::open(folder.join(name)).ok();
        Some(Self {
            max: open("memory.max")?,
            high: open("memory.high")?,
            current: open("memory.current")?,
            stat: open("memory.stat")?,
        })
    }

    /// Bytes that the group can still take: those it does not use, and cached pages that no disk has
    /// to write first.
    fn available(&self) -> io::Result<u64> {
        let max = one(&self.max)?;
        if max == u64::MAX {
            return Ok(max);
        }
        let (mut free, mut unwritten) = (max.saturating_sub(one(&self.current)?), 0_u64);
        numbers(&self.stat, |name, bytes| match name {
            "active_file" | "inactive_file" => free = free.saturating_add(bytes),
            "file_dirty" | "file_writeback" => unwritten = unwritten.saturating_add(bytes),
            _ => {}
        })?;
        Ok(free.saturating_sub(unwritten))
    }

    /// Bytes up to the lower one of memory.high and memory.max. A thread that reaches one of them has
    /// to find memory to free.
    fn unused(&self) -> io::Result<u64> {
        let limit = one(&self.high)?.min(one(&self.max)?);
        match limit {
            u64::MAX => Ok(limit),
            limit => Ok(limit.saturating_sub(one(&self.current)?)),
        }
    }
}

/// The number in a file; u64::MAX for "max".
fn one(file: &File) -> io::Result<u64> {
    let mut value = u64::MAX;
    numbers(file, |_, number| value = number).map(|()| value)
}

/// What the last look found.
#[derive(Debug, Default)]
struct Look {
    /// Bytes that may still be taken.
    left: u64,
    /// Bytes that may still be taken at once: so far there is plenty.
    plenty: u64,
    /// When it is looked again.
    until: Duration,
}

/// Tells if the machine, and the control groups that this process is in when this is made, have memory
/// to spare above a reserve. A thread that must not write to a disk to free memory waits in the kernel
/// for ever where there is none, so it asks here before it asks the kernel.
#[derive(Debug)]
pub struct Headroom {
    meminfo: File,
    groups: Vec<Group>,
    reserve: u64,
    look: Lock<Look>,
}

impl Headroom {
    /// Opens the files that say it.
    ///
    /// # Errors
    /// /proc is missing.
    pub fn open() -> io::Result<Self> {
        Self::of(Path::new("/proc"), &own_groups().unwrap_or_default())
    }

    /// As [`Headroom::open`], with the files of another /proc and the folders of control groups.
    pub fn of(proc: &Path, groups: &[PathBuf]) -> io::Result<Self> {
        let mut reserve = MARGIN;
        let kept_free = File::open(proc.join("sys/vm/min_free_kbytes"))?;
        numbers(&kept_free, |_, kib| reserve += 2 * (kib << 10))?;
        let opened = Self {
            meminfo: File::open(proc.join("meminfo"))?,
            groups: groups
                .iter()
                .filter_map(|folder| Group::open(folder))
                .collect(),
            reserve,
            look: Lock::default(),
        };
        // The kernel allocates at the first reading of an open file.
        opened.available()?;
        Ok(opened)
    }

    /// Bytes that are left to the machine: twice min_free_kbytes and 16 MiB.
    pub fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Looks now: returns the bytes that may be taken. Memory is available if no disk has to write first.
    pub fn available(&self) -> io::Result<u64> {
        self.look().map(|(room, _)| room)
    }

    /// The same, and the bytes that may be taken where a thread must not wait: as long as there is
    /// plenty.
    fn look(&self) -> io::Result<(u64, u64)> {
        let (mut total, mut available, mut unwritten) = (0, 0_u64, 0_u64);
        numbers(&self.meminfo, |name, kib| match name {
            "MemTotal:" => total = kib << 10,
            "MemAvailable:" => available = kib << 10,
            "Dirty:" | "Writeback:" => unwritten += kib << 10,
            _ => {}
        })?;
        let mut room = available.saturating_sub(unwritten + self.reserve);
        let mut plenty = room.saturating_sub(total / 20);
        for group in &self.groups {
            if room == 0 {
                break; // the kernel takes memory for what it says of a group
            }
            // A group that is gone has no limit.
            let has = group.available().unwrap_or(u64::MAX);
            room = room.min(has.saturating_sub(GROUP_RESERVE));
            plenty = plenty.min(group.unused().unwrap_or(u64::MAX));
        }
        // In what is left of it nobody is to be held up.
        let plenty = plenty.checked_sub(PLENTY).filter(|bytes| *bytes >= PLENTY);
        Ok((room, plenty.unwrap_or(0)))
    }

    /// Takes `bytes` of what there is. False if there is less. `now` is a time of any clock. It is
    /// looked only if the last look is too old, or found too little.
    pub fn take(&self, bytes: u64, now: Duration) -> bool {
        let look = &mut *self.look.lock();
        if now >= look.until || look.left < bytes {
            self.look_again(look, now);
        }
        let enough = look.left >= bytes;
        if enough {
            look.left -= bytes;
            look.plenty = look.plenty.saturating_sub(bytes);
        }
        enough
    }

    /// Takes `bytes` if there is plenty: the kernel gives them at once. It is looked only if the last
    /// look is too old.
    pub fn take_at_once(&self, bytes: u64, now: Duration) -> bool {
        let look = &mut *self.look.lock();
        if now >= look.until {
            self.look_again(look, now);
        }
        let enough = look.plenty >= bytes;
        if enough {
            look.plenty -= bytes;
            look.left = look.left.saturating_sub(bytes);
        }
        enough
    }

    fn look_again(&self, look: &mut Look, now: Duration) {
        (look.left, look.plenty) = self.look().unwrap_or((u64::MAX, 0));
        let first_used_up = match look.plenty {
            0 => look.left,
            plenty => plenty,
        };
        let serves = (first_used_up / FASTEST).min(LONGEST_LOOK);
        look.until = now + Duration::from_nanos(serves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    /// A folder of files that stand for /proc and a tree of control groups.
    struct Files(Scratch);

    impl Files {
        fn new(name: &str) -> Self {
            let root = Scratch::new(&format!("ublk-{name}")).unwrap();
            fs::create_dir_all(root.0.join("sys/vm")).unwrap();
            fs::create_dir_all(root.0.join("a/b")).unwrap();
            Self(root)
        }

        fn set(&self, at: &str, text: &str) {
            fs::write(self.0 .0.join(at), text).unwrap();
        }

        fn meminfo(&self, available: u64, dirty: u64, writeback: u64) {
            let text = format!(
                "MemTotal: 1 kB\nMemAvailable: {available} kB\nDirty: {dirty} kB\n\
                 Writeback: {writeback} kB\nHugePages_Total: 0\n"
            );
            self.set("meminfo", &text);
        }
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn e14_the_lowest_limit_on_the_way_up_counts() {
        let files = Files::new("cgroup");
        let max = |path| lowest_max(&groups_of(&files.0 .0, path));
        files.set("a/b/memory.max", "max\n");
        assert_eq!(max("a/b"), None);
        files.set("a/memory.max", "4096\n");
        assert_eq!(max("a/b"), Some(4096));
        files.set("a/b/memory.max", "1024\n");
        assert_eq!(max("a/b"), Some(1024));
        assert_eq!(max("a"), Some(4096));
    }

    #[test]
    fn e27_the_machine_keeps_its_reserve_and_each_group_its_own() {
        let files = Files::new("headroom");
        files.set("sys/vm/min_free_kbytes", "1024\n");
        files.meminfo(100 * 1024, 0, 0);
        let groups = groups_of(&files.0 .0, "a/b");
        let machine = Headroom::of(&files.0 .0, &groups).unwrap();
        assert_eq!(machine.reserve(), 18 * MIB);
        let available = |of: &Headroom| of.available().unwrap();
        assert_eq!(available(&machine), 82 * MIB);
        files.meminfo(100 * 1024, 30 * 1024, 2 * 1024);
        assert_eq!(available(&machine), 50 * MIB, "what a disk has to write");
        for (group, used) in [("a", 60), ("a/b", 90)] {
            files.set(&format!("{group}/memory.max"), "max\n");
            files.set(&format!("{group}/memory.high"), "max\n");
            files.set(
                &format!("{group}/memory.current"),
                &format!("{}\n", used * MIB),
            );
            files.set(&format!("{group}/memory.stat"), "anon 5\n");
        }
        let grouped = Headroom::of(&files.0 .0, &groups).unwrap();
        assert_eq!(available(&grouped), 50 * MIB, "no limit");
        files.set("a/memory.max", &format!("{}\n", 100 * MIB));
        assert_eq!(available(&grouped), 36 * MIB, "of a group above");
        let stat = format!(
            "inactive_file {MIB}\nactive_file {MIB}\nfile_dirty {}\n",
            MIB / 2
        );
        files.set("a/memory.stat", &stat);
        assert_eq!(available(&grouped), 37 * MIB + MIB / 2);
        files.set("a/b/memory.max", &format!("{}\n", 92 * MIB));
        assert_eq!(available(&grouped), 0);
        assert!(Headroom::open().is_ok(), "this machine's own");
    }

    #[test]
    fn e08_there_is_plenty_above_a_twentieth_and_below_the_limits_of_each_group() {
        let files = Files::new("plenty");
        files.set("sys/vm/min_free_kbytes", "0\n");
        let total = |mib: u64, available: u64| {
            let text = format!(
                "MemTotal: {} kB\nMemAvailable: {} kB\n",
                mib << 10,
                available << 10
            );
            files.set("meminfo", &text);
        };
        let limits = |max: &str, high: &str| {
            files.set("a/memory.max", max);
            files.set("a/memory.high", high);
        };
        files.set("a/memory.current", &(100 * MIB).to_string());
        files.set("a/memory.stat", &format!("inactive_file {}\n", 50 * MIB));
        limits("max", "max");
        total(2000, 1000);
        let machine = Headroom::of(&files.0 .0, &groups_of(&files.0 .0, "a")).unwrap();
        let plenty = || machine.look().unwrap().1 / MIB;
        assert_eq!(plenty(), 1000 - 16 - 100 - 64);
        limits("max", &(400 * MIB).to_string());
        assert_eq!(plenty(), 300 - 64, "memory.high");
        limits(&(300 * MIB).to_string(), "max");
        assert_eq!(
            plenty(),
            200 - 64,
            "memory.max; cached pages are not counted"
        );
        total(2000, 180 + 63);
        assert_eq!(plenty(), 0, "less than 64 MiB is none");
        let ms = Duration::from_millis;
        assert!(!machine.take_at_once(1, ms(0)) && machine.take(MIB, ms(0)));
        total(2000, 1000);
        assert!(
            !machine.take_at_once(1, ms(1)),
            "the last look still serves"
        );
        assert!(machine.take_at_once(MIB, ms(1000)));
        assert!(
            !machine.take_at_once(200 * MIB, ms(1000)),
            "more than there is"
        );
    }

    #[test]
    fn e27_a_look_serves_until_others_could_have_taken_what_it_found() {
        let files = Files::new("look");
        files.set("sys/vm/min_free_kbytes", "0\n");
        files.meminfo(48 * 1024, 0, 0);
        let machine = Headroom::of(&files.0 .0, &[]).unwrap();
        let us = Duration::from_micros;
        assert!(machine.take(8 * MIB, us(0)));
        files.meminfo(17 * 1024, 0, 0);
        assert!(machine.take(8 * MIB, us(999)), "not looked at again");
        assert!(!machine.take(17 * MIB, us(999)), "more than is left");
        files.meminfo(48 * 1024, 0, 0);
        assert!(machine.take(8 * MIB, us(1000)));
        files.meminfo(17 * 1024, 0, 0);
        assert!(!machine.take(8 * MIB, us(2100)), "32 MiB last 1 ms");
        assert!(machine.take(MIB, us(2100)));
    }
}
