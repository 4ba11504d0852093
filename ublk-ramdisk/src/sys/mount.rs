// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounting and unmounting a tmpfs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

/// Mounts a tmpfs without limits of its own, for this user alone. Its pages are never swapped out
/// where the kernel can promise that (6.4). `huge` is the mount option of that name; none where the
/// kernel has no transparent huge pages.
pub fn tmpfs(place: &Path, huge: Option<&str>) -> io::Result<()> {
    let huge = huge.map_or_else(String::new, |huge| format!(",huge={huge}"));
    let options = format!("mode=0700,size=0,nr_inodes=0{huge}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mount = |options: &str| {
        let (source, kind) = (Some("ublk-ramdisk"), Some("tmpfs"));
        nix::mount::mount(source, place, kind, flags, Some(options))
    };
    match mount(&format!("{options},noswap")) {
        Err(Errno::EINVAL) => Ok(mount(&options)?),
        mounted => Ok(mounted?),
    }
}

/// Unmounts what is mounted at this place. Fails if anybody uses it.
pub fn unmount(place: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(place, MntFlags::UMOUNT_NOFOLLOW)?)
}

/// True if this process has the mount namespace of process 1. A mount in another one goes when the
/// last process of that one ends.
pub fn is_in_first_namespace() -> bool {
    let of = |who: &str| fs::metadata(format!("/proc/{who}/ns/mnt")).map(|found| found.ino());
    matches!((of("self"), of("1")), (Ok(own), Ok(first)) if own == first)
}
