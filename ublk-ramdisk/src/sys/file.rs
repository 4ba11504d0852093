// SPDX-License-Identifier: MIT OR Apache-2.0
//! File operations of Linux: anonymous files, allocation, holes, and copies between a file and raw
//! memory.

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{self, AtFlags, FallocateFlags};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::statfs;
use nix::unistd::{linkat, lseek64, Whence};

/// Flags of an open that neither follows a link nor waits for the other end of a FIFO.
pub const NO_STREAM: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
/// Magic of tmpfs in `statfs`.
pub const TMPFS_MAGIC: i64 = statfs::TMPFS_MAGIC.0;
/// Magic of hugetlbfs in `statfs`.
pub const HUGETLBFS_MAGIC: i64 = statfs::HUGETLBFS_MAGIC.0;

/// Makes a file in memory that has no name. `huge_tlb`: of explicit huge pages.
pub fn memfd(name: &CStr, huge_tlb: bool) -> io::Result<File> {
    let mut flags = MFdFlags::MFD_CLOEXEC;
    flags.set(MFdFlags::MFD_HUGETLB, huge_tlb);
    Ok(memfd_create(name, flags)?.into())
}

/// Returns the magic number and the block size of the file system of `file`.
pub fn file_system(file: &File) -> io::Result<(i64, u64)> {
    let found = statfs::fstatfs(file)?;
    Ok((found.filesystem_type().0, found.block_size() as u64))
}

/// Sets the length of a file. What is cut off is gone: it reads as zeros if the file grows again.
pub fn set_len(file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)?;
    #[cfg(test)]
    recorder::step();
    Ok(())
}

/// Allocates every page of `range`. Present pages stay as they are.
///
/// # Errors
/// ENOSPC or ENOMEM: there is no memory. EINTR is not returned, the call is made again.
pub fn allocate(file: &File, range: Range<u64>) -> io::Result<()> {
    fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, range)
}

/// Gives every page of `range` back. It reads as zeros afterwards.
pub fn punch_hole(file: &File, range: Range<u64>) -> io::Result<()> {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, mode, range)
}

fn fallocate(file: &File, mode: FallocateFlags, range: Range<u64>) -> io::Result<()> {
    let (offset, len) = (range.start as i64, (range.end - range.start) as i64);
    loop {
        match fcntl::fallocate(file, mode, offset, len) {
            Err(Errno::EINTR) => {}
            result => {
                #[cfg(test)]
                recorder::step();
                return Ok(result?);
            }
        }
    }
}

/// Gives an open file that has no name this one, which nothing has yet.
pub fn link(file: &File, path: &Path) -> io::Result<()> {
    let own = own_path(file);
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    Ok(linkat(
        fcntl::AT_FDCWD,
        &*own,
        fcntl::AT_FDCWD,
        path,
        follow,
    )?)
}

/// A path that leads to this open file, whatever its name is by now.
pub fn own_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Returns the parts of the file that hold data. On hugetlbfs that is all of the file.
/// Moves the position of the file, which nothing else here uses.
pub fn data_ranges(file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut end = 0;
    while let Some(start) = seek(file, end, Whence::SeekData)? {
        end = seek(file, start, Whence::SeekHole)?.unwrap_or(start);
        ranges.push(start..end);
    }
    Ok(ranges)
}

/// None behind the last data of the file.
fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek64(file, from as i64, whence) {
        Ok(at) => Ok(Some(at as u64)),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the numbers of a block device's node, major and minor; none of anything else. Links are
/// followed. Never waits for a file server: what its client remembers is taken.
pub fn block_device_number(path: &Path) -> Option<(u32, u32)> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    let found = statx(&path, flags, libc::STATX_TYPE)?;
    let is_block = u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
    is_block.then_some((found.stx_rdev_major, found.stx_rdev_minor))
}

/// Writes out what the page cache and a mounted file system hold of a block device (BLKFLSBUF).
pub fn flush_block_device(path: &Path) -> io::Result<()> {
    const BLKFLSBUF: libc::Ioctl = 0x1261;
    let device = File::open(path)?;
    // SAFETY: the command takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel look for the partitions of a block device again (BLKRRPART).
pub fn reread_partitions(device: &File) -> io::Result<()> {
    const BLKRRPART: libc::Ioctl = 0x125f;
    // SAFETY: the command takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), BLKRRPART) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens a file of this user alone, or makes it with mode 0600. True if it was made.
///
/// # Errors
/// A link, and a file that somebody else owns, can open or has another name for: who can open it can
/// read it, and hold its lock.
pub fn open_private(path: &Path) -> io::Result<(File, bool)> {
    match open_existing_private(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Fails if somebody else has made it meanwhile.
            Ok((private_options().create_new(true).open(path)?, true))
        }
        file => Ok((file?, false)),
    }
}

/// Makes a file of this user alone that has no name, on the file system of `folder`.
pub fn make_unnamed(folder: &Path) -> io::Result<File> {
    let mut options = private_options();
    options.custom_flags(libc::O_TMPFILE).open(folder)
}

fn private_options() -> OpenOptions {
    let mut options = File::options();
    let options_of_all = options.read(true).write(true).mode(0o600);
    options_of_all.custom_flags(NO_STREAM);
    options
}

/// Opens a file as [`open_private`] does, and makes none.
pub fn open_existing_private(path: &Path) -> io::Result<File> {
    let file = match private_options().open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(io::Error::other("it is a link; name the file itself"));
        }
        Err(error) => return Err(error),
    };
    // Of the open file, not of the path: that may lead elsewhere by now.
    let found = file.metadata()?;
    let (mode, owner) = (found.mode() & 0o777, found.uid());
    let trouble = if !found.is_file() {
        "it is not a regular file".to_owned()
    } else if owner != nix::unistd::geteuid().as_raw() {
        format!("it belongs to another user ({owner}); change its owner, or name another file")
    } else if mode & 0o077 != 0 {
        format!("others may open it (mode {mode:o}); take that away with `chmod 600`")
    } else if found.nlink() > 1 {
        format!("it has {} names; remove the others", found.nlink())
    } else {
        return Ok(file);
    };
    Err(io::Error::other(trouble))
}

// The two copies below are system calls by number. The C library's pread and pwrite are thread
// cancellation points, which costs as much again as entering the kernel, once per request.
const _: () = assert!(
    cfg!(target_pointer_width = "64"),
    "an offset is one register"
);

/// Copies `len` bytes from position `at` of the file to `to`.
///
/// # Safety
/// `to` must be writable for `len` bytes for the length of the call.
pub unsafe fn read_at(file: &File, to: *mut u8, len: usize, at: u64) -> io::Result<()> {
    // SAFETY: as promised by the caller; `done` stays within `len`.
    whole(len, |done| unsafe {
        libc::syscall(
            libc::SYS_pread64,
            file.as_raw_fd(),
            to.add(done),
            len - done,
            at + done as u64,
        )
    })
}

/// Copies `len` bytes from `from` to position `at` of the file.
///
/// # Safety
/// `from` must be readable for `len` bytes for the length of the call.
pub unsafe fn write_at(file: &File, from: *const u8, len: usize, at: u64) -> io::Result<()> {
    // SAFETY: as promised by the caller; `done` stays within `len`.
    whole(len, |done| unsafe {
        libc::syscall(
            libc::SYS_pwrite64,
            file.as_raw_fd(),
            from.add(done),
            len - done,
            at + done as u64,
        )
    })
}

/// Copies `len` bytes within this process through the kernel. A page of a file that has been cut
/// short is an error, where a plain copy would end the process with SIGBUS.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes for the length of the call, apart from
/// pages that a file has lost.
pub unsafe fn copy_checked(from: *const u8, to: *mut u8, len: usize) -> io::Result<()> {
    let part = |at: *const u8, done: usize| libc::iovec {
        // SAFETY: `done` stays within `len`.
        iov_base: unsafe { at.add(done) }.cast_mut().cast(),
        iov_len: len - done,
    };
    whole(len, |done| {
        let (from, to) = (part(from, done), part(to, done));
        // SAFETY: as promised by the caller; the vectors live for the length of the call.
        let moved = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &from, 1, 0) };
        moved as i64
    })
}

/// Returns false if a node of a block device has no device any more: it is being removed, or is gone.
/// The kernel takes the name away before it waits for requests (`bdev_unhash` in `del_gendisk`). The
/// device is not opened.
pub fn has_block_device(node: &CStr) -> bool {
    // Only a block device that exists has an alignment for direct I/O.
    // A kernel without this field says the same as one without the disk.
    let mask = libc::STATX_DIOALIGN;
    statx(node, 0, mask).is_some_and(|found| found.stx_mask & mask != 0)
}

/// What the kernel says of a path. None if it cannot be looked at.
fn statx(path: &CStr, flags: i32, mask: u32) -> Option<libc::statx> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a C string, the buffer a whole statx, and zeroes are one.
    unsafe {
        let result = libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            mask,
            found.as_mut_ptr(),
        );
        (result == 0).then(|| found.assume_init())
    }
}

/// Repeats a transfer until all of `len` is done. A transfer that moves nothing is an error.
#[inline]
fn whole(len: usize, mut step: impl FnMut(usize) -> i64) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        match step(done) {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved if moved > 0 => done += moved as usize,
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
    Ok(())
}

/// Lets a test look at a file each time this thread has changed it.
#[cfg(test)]
pub mod recorder {
    use std::cell::RefCell;

    thread_local! {
        static EACH: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    }

    /// Runs `body` and calls `each` after each of its steps.
    pub fn record(each: impl FnMut() + 'static, body: impl FnOnce()) {
        EACH.set(Some(Box::new(each)));
        body();
        EACH.set(None);
    }

    /// A system call, or a store to memory, has been made.
    pub fn step() {
        EACH.with_borrow_mut(|each| each.iter_mut().for_each(|each| each()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{chown, symlink, PermissionsExt};

    #[test]
    fn i11_a_file_that_others_can_open_is_refused() {
        let place = Scratch::new("ublk-private").unwrap();
        let path = place.0.join("disk");
        let (file, made) = open_private(&path).expect("made");
        assert!(made);
        assert_eq!(file.metadata().expect("open").mode() & 0o777, 0o600);
        assert!(!open_private(&path).expect("found").1);
        let refused = |path: &Path, why: &str| {
            let error = open_private(path).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        };
        for mode in [0o640, 0o606, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
            refused(&path, &format!("mode {mode:o}"));
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
        let (link, second) = (place.0.join("link"), place.0.join("second"));
        symlink(&path, &link).expect("a link");
        refused(&link, "it is a link");
        fs::hard_link(&path, &second).expect("a second name");
        refused(&path, "2 names");
        fs::remove_file(&second).expect("ours");
        // Only root can give a file away.
        if chown(&path, Some(65534), None).is_ok() {
            refused(&path, "another user (65534)");
        }
        refused(Path::new("/dev/null"), "not a regular file");
    }

    #[test]
    fn f13_a_transfer_in_parts_goes_on_where_the_last_part_ended() {
        let mut parts = [3, 4, 1].into_iter();
        let mut begun = Vec::new();
        let result = whole(8, |done| {
            begun.push(done);
            parts.next().expect("no step after the last byte")
        });
        assert_eq!((result.ok(), begun), (Some(()), vec![0, 3, 7]));
    }

    /// A file that is cut short under its mapping.
    #[test]
    fn g16_a_checked_copy_of_lost_pages_is_an_error_in_both_directions() {
        let file = memfd(c"cut", false).unwrap();
        file.set_len(8192).unwrap();
        let mapping = super::super::mmap::Mapping::shared(&file, 8192).unwrap();
        file.set_len(4096).unwrap();
        let (mapped, mut bytes) = (mapping.start().as_ptr(), [7_u8; 8192]);
        let buffer = bytes.as_mut_ptr();
        // SAFETY: the buffer is as long as the mapping.
        let [there, lost, back] = unsafe {
            [
                copy_checked(buffer, mapped, 4096),
                copy_checked(buffer, mapped, 8192),
                copy_checked(mapped, buffer, 8192),
            ]
        };
        assert!(there.is_ok());
        for error in [lost.unwrap_err(), back.unwrap_err()] {
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        }
    }

    #[test]
    fn f13_a_part_that_moves_nothing_or_fails_ends_the_transfer() {
        let mut parts = [3, 0].into_iter();
        let error = whole(8, |_| parts.next().expect("two steps")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        // The real calls: the second part lies behind the end of the file.
        let file = memfd(c"parts", false).unwrap();
        file.set_len(4).unwrap();
        let mut bytes = [1_u8; 8];
        // SAFETY: the buffer is that long.
        let error = unsafe { read_at(&file, bytes.as_mut_ptr(), 8, 0) }.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(bytes, [0, 0, 0, 0, 1, 1, 1, 1]);
    }
}
