// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who uses a disk: what must be empty before a disk is stopped or shrunk without force.
//!
//! Used by the commands and the supervisor. Users are named from /proc and /sys. The kernel refuses
//! an exclusive open of a disk that a file system, swap or another driver holds, whichever process that is.
//! Where the driver has SAFE_STOP_DEV (7.0) it decides itself whether a disk may be stopped. Elsewhere
//! the following is missed: a use that begins after the look, a process of another pid namespace, a
//! descriptor on its way through a socket, and a file registered with io_uring whose descriptor is
//! closed.
//!
//! | use | found by |
//! |---|---|
//! | a mount | /proc/PID/mountinfo, once for each mount namespace |
//! | swap | /proc/swaps |
//! | device mapper, md, bcache | `holders` of the disk in sysfs |
//! | a loop device | `loop/backing_file` of each loop device in sysfs |
//! | an NVMe target | configfs |
//! | an open or mapped node | /proc/PID/fd and /proc/PID/map_files |
//! | whatever holds the disk, also where /proc does not show it | an open with O_EXCL |

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::ctrl::{block_path, Control};
use super::export::exported_as;
use crate::error::{Exit, Failure};
use crate::sys::file::{block_device_number, flush_block_device};

/// udev opens a new disk for a moment; that is not worth a refusal.
const BRIEF_USE: Duration = Duration::from_secs(1);
/// How often a brief use is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// An open of a disk is under way. As long as it has not returned, no second one is begun.
static OPENING: AtomicBool = AtomicBool::new(false);
/// How long an open of a disk may take: it waits for a partition scan, which waits for the server.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a disk may take to be flushed that is then stopped by force.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Names every user of /dev/ublkbN and its partitions, such as `mounted at /mnt` or
/// `opened by fio (pid 12)`. Empty means that none was found.
pub fn openers(id: u32) -> Vec<String> {
    Disk::find(id).map_or_else(Vec::new, |disk| disk.users(Path::new("/proc")))
}

/// Stops a disk that nobody uses (STOP_DEV or TRY_STOP_DEV). `is_safe`: the driver has
/// SAFE_STOP_DEV. `let_go` is called when the disk is going to be stopped in any case.
///
/// # Errors
/// Status 4 with the names of the users, and what the driver refuses.
pub fn stop_unused(
    control: &mut Control,
    id: u32,
    is_safe: bool,
    let_go: impl FnOnce(),
) -> Result<(), Failure> {
    // The driver has the last word where it can, but only this can name the user.
    // First because of the message: it names the users, where the driver says EBUSY only.
    refuse(id, "stopped", openers(id))?;
    let mut _claimed = None;
    if is_safe {
        match control.try_stop(id) {
            // There is no disk any more: what is left is to end the fetches.
            Err(error) if error.errno() == Some(libc::ENODEV) => {}
            other => return Ok(other?),
        }
    } else {
        // Held until the disk is stopped: nobody can mount it meanwhile.
        _claimed = claim(id, "stopped")?;
    }
    let_go();
    Ok(control.stop(id)?)
}

/// Sends the server what the page cache and file systems hold of a disk. One that hangs is waited for
/// no longer than [`FLUSH_TIMEOUT`].
pub fn flush(id: u32) -> io::Result<()> {
    let names = Disk::find(id).map_or_else(Vec::new, |disk| disk.names);
    let (flushed, result) = mpsc::channel();
    let thread = std::thread::Builder::new().name("flush".to_owned());
    thread.spawn(move || {
        let mut nodes = names.iter().map(|name| Path::new("/dev").join(name));
        // The receiver may have given up.
        let _ = flushed.send(nodes.try_for_each(|node| flush_block_device(&node)));
    })?;
    let result = result.recv_timeout(FLUSH_TIMEOUT);
    result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Refuses with status 4 if anybody is found who uses the disk. `what` is not done to it: "shrunk".
/// Nobody can mount it as long as the file is open that this returns.
pub fn refuse_users(id: u32, what: &str) -> Result<Option<File>, Failure> {
    refuse(id, what, openers(id))?;
    claim(id, what)
}

/// Calls `stop` again while it fails with status 4, for a second: a brief use is waited for.
/// Blocks the calling thread meanwhile.
pub fn past_brief_use<T>(mut stop: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let deadline = Instant::now() + BRIEF_USE;
    loop {
        match stop() {
            Err(failure) if failure.exit == Exit::InUse && Instant::now() < deadline => {
                std::thread::sleep(LOOK_AGAIN);
            }
            other => return other,
        }
    }
}

/// Waits until nobody uses a disk, then calls `then` while nobody can mount it. `waits` is called with
/// the users, if they stay.
pub fn when_unused<T>(id: u32, waits: impl FnOnce(&str), then: impl FnOnce() -> T) -> T {
    let (begin, mut waits) = (Instant::now(), Some(waits));
    loop {
        let users = openers(id);
        let claimed = refuse(id, "switched on", users.clone());
        let claimed = claimed.and_then(|()| claim(id, "switched on"));
        if let Ok(_claimed) = claimed {
            return then();
        }
        if begin.elapsed() > BRIEF_USE {
            let held = || "held by the kernel".to_owned();
            let users = users.into_iter().reduce(|all, user| all + ", " + &user);
            waits
                .take()
                .into_iter()
                .for_each(|waits| waits(&users.clone().unwrap_or_else(held)));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Fails with status 4 if there are `users`, and names them.
fn refuse(id: u32, what: &str, users: Vec<String>) -> Result<(), Failure> {
    if users.is_empty() {
        return Ok(());
    }
    Err(Failure::in_use(format!(
        "{} is not {what}, it is in use: {}; end that use first, or give --force",
        block_path(id),
        users.join(", ")
    )))
}

/// Opens the disk exclusively, which fails while anybody else holds it or one of its partitions: to
/// the kernel a partition that is held is a claim on the whole disk too. For the same reason the
/// partitions are not opened as well, they would be refused because of this open.
/// A disk that is gone has nothing to open.
fn claim(id: u32, what: &str) -> Result<Option<File>, Failure> {
    // On a thread of its own: an open that waits for the server must not hold up the server.
    let (opened, result) = mpsc::channel();
    let open = move || {
        let file = open_exclusively(id);
        OPENING.store(false, Ordering::Relaxed);
        // The receiver may have given up.
        let _ = opened.send(file);
    };
    let waits = || vec!["an open of it waits, as a scan for partitions does".to_owned()];
    // A former thread still waits in its open: another would wait behind it.
    if OPENING.swap(true, Ordering::Relaxed) {
        refuse(id, what, waits())?;
    }
    let thread = std::thread::Builder::new().name("claim".to_owned());
    let Ok(thread) = thread.spawn(open) else {
        // No thread can be made: what /proc has told must do.
        OPENING.store(false, Ordering::Relaxed);
        return Ok(None);
    };
    let Ok(file) = result.recv_timeout(OPEN_TIMEOUT) else {
        refuse(id, what, waits())?;
        return Ok(None);
    };
    // It has nothing more to do.
    let _ = thread.join();
    match file {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let user = "it or a partition of it is held, by a mount, swap or another driver";
            refuse(id, what, vec![user.to_owned()])?;
            Ok(None)
        }
        // Gone meanwhile, or its node is not there: then nothing can be told.
        file => Ok(file.ok()),
    }
}

fn open_exclusively(id: u32) -> io::Result<File> {
    let mut options = File::options();
    options
        .read(true)
        // O_EXCL on a block device: refused with EBUSY while anything else holds it exclusively.
        .custom_flags(libc::O_EXCL | libc::O_NONBLOCK);
    options.open(block_path(id))
}

/// The disk and its partitions, as sysfs shows them.
struct Disk {
    /// `ublkb0`, `ublkb0p1`, ...
    names: Vec<String>,
    /// Their `major:minor`.
    numbers: HashSet<String>,
    sysfs: PathBuf,
}

impl Disk {
    /// None if there is no such disk.
    fn find(id: u32) -> Option<Disk> {
        let name = format!("ublkb{id}");
        let sysfs = Path::new("/sys/block").join(&name);
        let mut names = vec![name.clone()];
        for entry in fs::read_dir(&sysfs).ok()?.flatten() {
            let child = entry.file_name().to_string_lossy().into_owned();
            // Only partitions have that file; other folders beside them do not.
            if child.starts_with(&name) && entry.path().join("partition").exists() {
                names.push(child);
            }
        }
        let numbers = names
            .iter()
            .filter_map(|name| {
                fs::read_to_string(Path::new("/sys/class/block").join(name).join("dev")).ok()
            })
            .map(|number| number.trim().to_owned())
            .collect();
        Some(Disk {
            names,
            numbers,
            sysfs,
        })
    }

    /// Every user that `proc` and sysfs show, in alphabetical order, each once.
    fn users(&self, proc: &Path) -> Vec<String> {
        let mut users = BTreeSet::new();
        self.find_holders(&mut users);
        self.find_swaps(proc, &mut users);
        let mut seen_namespaces = HashSet::new();
        for entry in fs::read_dir(proc).into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let process = entry.path();
            // The mounts of a namespace are the same from each of its processes: read them once.
            let namespace = fs::read_link(process.join("ns/mnt")).unwrap_or_default();
            if seen_namespaces.insert(namespace) {
                self.find_mounts(&process, &mut users);
            }
            if self.is_open_in(&process) {
                let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
                users.insert(format!("opened by {} (pid {pid})", command.trim()));
            }
        }
        users.into_iter().collect()
    }

    /// Device mapper, md, bcache and the like, by the kernel's own record.
    fn find_holders(&self, users: &mut BTreeSet<String>) {
        for name in &self.names {
            let base = if self.names[0] == *name {
                self.sysfs.clone()
            } else {
                self.sysfs.join(name)
            };
            for holder in fs::read_dir(base.join("holders"))
                .into_iter()
                .flatten()
                .flatten()
            {
                users.insert(format!("held by {}", holder.file_name().to_string_lossy()));
            }
        }
        // The target opens a disk without holding it.
        for nqn in exported_as(|path| self.is_node(path)) {
            users.insert(format!("exported as {nqn}"));
        }
        for block in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            // A loop device on the disk is not among the holders.
            let backing = fs::read_to_string(block.path().join("loop/backing_file"));
            if backing.is_ok_and(|path| self.is_node(Path::new(path.trim()))) {
                users.insert(format!("held by {}", block.file_name().to_string_lossy()));
            }
        }
    }

    /// The first line of /proc/swaps is a heading, the first field of the others a path.
    fn find_swaps(&self, proc: &Path, users: &mut BTreeSet<String>) {
        let swaps = fs::read_to_string(proc.join("swaps")).unwrap_or_default();
        for line in swaps.lines().skip(1) {
            let path = line.split_whitespace().next().unwrap_or_default();
            if self.is_node(Path::new(path)) {
                users.insert(format!("used as swap at {path}"));
            }
        }
    }

    fn find_mounts(&self, process: &Path, users: &mut BTreeSet<String>) {
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        for place in mounts.lines().filter_map(|line| self.mounted_at(line)) {
            users.insert(format!("mounted at {place}"));
        }
    }

    /// The mount point of a mountinfo line that is about this disk. The number alone is not
    /// enough: btrfs mounts have a number of their own, and name the node.
    fn mounted_at<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (mount, source) = line.split_once(" - ")?;
        // proc(5): id, parent, major:minor, root, mount point, ... - type, source, options.
        let mut fields = mount.split(' ').skip(2);
        let number = fields.next()?;
        let place = fields.nth(1)?;
        let source = source.split(' ').nth(1)?;
        let ours = self.numbers.contains(number)
            || source
                .strip_prefix("/dev/")
                .is_some_and(|name| self.names.iter().any(|ours| ours == name));
        ours.then_some(place)
    }

    /// By a descriptor, or by a mapping whose descriptor may be closed.
    fn is_open_in(&self, process: &Path) -> bool {
        ["fd", "map_files"].iter().any(|folder| {
            let mut files = fs::read_dir(process.join(folder)).into_iter().flatten();
            files.any(|file| file.is_ok_and(|file| self.is_node(&file.path())))
        })
    }

    /// By number, not by name: a node may have any name and place.
    fn is_node(&self, path: &Path) -> bool {
        block_device_number(path)
            .is_some_and(|(major, minor)| self.numbers.contains(&format!("{major}:{minor}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk {
            names: vec!["ublkb0".to_owned(), "ublkb0p1".to_owned()],
            numbers: HashSet::from(["259:0".to_owned(), "259:1".to_owned()]),
            sysfs: PathBuf::from("/nonexistent"),
        }
    }

    #[test]
    fn a_mount_is_found_by_number_and_by_name() {
        let line = "36 28 259:1 / /mnt/a rw,relatime shared:1 - ext4 /dev/root rw";
        assert_eq!(disk().mounted_at(line), Some("/mnt/a"));
        let line = "37 28 0:44 / /mnt/b rw - btrfs /dev/ublkb0 rw,space_cache=v2";
        assert_eq!(disk().mounted_at(line), Some("/mnt/b"));
        let line = "38 28 259:7 / /mnt/c rw - ext4 /dev/ublkb01 rw";
        assert_eq!(disk().mounted_at(line), None);
        assert_eq!(disk().mounted_at("nonsense"), None);
    }

    #[test]
    fn a_disk_that_is_not_there_has_no_users() {
        assert!(openers(1_048_575).is_empty());
    }
}
