// SPDX-License-Identifier: MIT OR Apache-2.0
//! Private stores: files on a tmpfs of the program's own, which outlive every process (I13).
//!
//! The tmpfs is mounted beside the run directory, in a folder for each `huge` option of it. The kernel
//! holds the bytes as long as a file has a name. The name is the device's id: it is given before the
//! device takes I/O, and taken before the id is free again. Beside it is nothing but the undo area of
//! the device, so a file without a device is nobody's, and the mount goes with the last file.
//!
//! | lock | held |
//! |---|---|
//! | of the folder under the mount | to mount |
//! | of the mounted folder | to give a name, and to remove names of devices that are gone |
//! | of a file | by the server |

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Store;
use crate::sys::{file, mount, remove};

/// The `huge` options of the mounts.
const HUGE: [&str; 4] = ["never", "advise", "within_size", "always"];

/// When the kernel gives huge pages to shared memory, such as memfd. None in a kernel without them.
const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// How often a mount that is in use is tried again, and the time between.
const UNMOUNT_TRIES: u32 = 10;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(5);

/// A folder for private stores. While this lives the folder stays mounted.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _open: File,
}

impl Folder {
    /// The folder for stores with this choice of `--thp`. A tmpfs is mounted there if there is none.
    ///
    /// # Errors
    /// Mounting is forbidden, or would not outlive this process; something else is mounted there.
    pub fn mounted(run_dir: &Path, thp: Option<bool>) -> io::Result<Folder> {
        if !mount::is_in_first_namespace() {
            return Err(io::Error::other(
                "this is not the mount namespace of process 1, in which a mount outlives the server",
            ));
        }
        let setting = fs::read_to_string(SHMEM_ENABLED).ok();
        let huge = huge_option(thp, setting.as_deref().unwrap_or_default());
        let path = folder(run_dir, huge);
        let run_dir_device = fs::metadata(run_dir)?.dev();
        loop {
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let open = match open_folder(&path) {
                // Removed meanwhile, with its last file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                open => open?,
            };
            if open.metadata()?.dev() != run_dir_device {
                check_mount(&open, &path)?;
                return Ok(Folder { path, _open: open });
            }
            open.lock()?;
            // Mounts on what is open, if nobody was quicker. The lock keeps others from doing the same.
            match fs::symlink_metadata(&path) {
                Ok(named) if named.ino() == open.metadata()?.ino() => {
                    mount::tmpfs(&file::own_path(&open), setting.as_ref().map(|_| huge))?;
                }
                _ => {}
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The `huge` option of the mount, by `--thp` and what the machine does with shared memory. So a
/// private store gets the huge pages that a memfd gets.
fn huge_option(thp: Option<bool>, shmem_enabled: &str) -> &'static str {
    let set = shmem_enabled
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    match (thp, set.map_or("never", |(set, _)| set)) {
        (Some(false), _) => "never",
        (_, "always" | "force") => "always",
        (_, "within_size") => "within_size",
        (_, "advise") | (Some(true), _) => "advise",
        _ => "never",
    }
}

fn folder(run_dir: &Path, huge: &str) -> PathBuf {
    run_dir.join(match huge {
        "never" => "store".to_owned(),
        _ => format!("store-{huge}"),
    })
}

/// Where the undo area of a device is: beside its private store.
pub fn undo_file(folder: &Path, id: u32) -> PathBuf {
    folder.join(format!("{id}.undo"))
}

/// The folders that there may be beside a run directory.
fn folders(run_dir: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    HUGE.into_iter().map(|huge| folder(run_dir, huge))
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    File::options().read(true).custom_flags(flags).open(path)
}

/// Checks that a mounted folder is such as this program makes.
fn check_mount(open: &File, path: &Path) -> io::Result<()> {
    let (found, (magic, _)) = (open.metadata()?, file::file_system(open)?);
    let owner = nix::unistd::geteuid().as_raw();
    let is_ours =
        magic == file::TMPFS_MAGIC && (found.uid(), found.mode() & 0o777) == (owner, 0o700);
    match is_ours {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "what is mounted at {} is not a private tmpfs; unmount it",
            path.display()
        ))),
    }
}

/// Has the device, or one that had its id, a store?
pub fn is_there(run_dir: &Path, id: u32) -> bool {
    folders(run_dir).any(|folder| folder.join(id.to_string()).exists())
}

/// Removes the store of a device, if it has one, and what it has kept for a power cut.
///
/// # Context
/// The device is stopped and has no server, and its id is still taken.
pub fn remove(run_dir: &Path, id: u32) -> io::Result<()> {
    folders(run_dir).try_for_each(|folder| {
        remove::regular_file(&undo_file(&folder, id))?;
        remove::regular_file(&folder.join(id.to_string()))
    })
}

/// Removes the stores of devices that are gone, then unmounts and removes the folders that hold
/// nothing. `devices` returns the ids of all devices.
pub fn tidy(run_dir: &Path, devices: impl Fn() -> Vec<u32>) {
    for folder in folders(run_dir) {
        // What cannot be removed now is tried again next time.
        let _ = remove_unclaimed(&folder, &devices);
        unmount_empty(&folder);
    }
}

fn remove_unclaimed(folder: &Path, devices: impl Fn() -> Vec<u32>) -> io::Result<()> {
    let open = open_folder(folder)?;
    check_mount(&open, folder)?;
    open.lock()?;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let id = name
            .to_str()
            .map(|name| name.strip_suffix(".undo").unwrap_or(name));
        let Some(id) = id.and_then(|id| id.parse().ok()) else {
            continue;
        };
        let path = folder.join(&name);
        // What has a name by now had a device when it got it, so this one is gone.
        if devices().contains(&id) {
            continue;
        }
        let store = file::open_existing_private(&path)?;
        // It may be made anew with these bytes.
        // guard: i13_unclaimed
        if store.try_lock().is_ok() {
            remove::this_file(&path, &store)?;
        }
    }
    Ok(())
}

/// Unmounts and removes a folder in which there is nothing. The kernel refuses while anybody has a
/// file there open, or the folder. Another command that looks into it in this moment is waited for.
fn unmount_empty(folder: &Path) {
    let is_empty = || -> io::Result<bool> {
        check_mount(&open_folder(folder)?, folder)?;
        Ok(fs::read_dir(folder)?.next().is_none())
    };
    let is_busy = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
    for _ in 0..UNMOUNT_TRIES {
        // One that is not mounted is none to wait for.
        let was_busy = is_empty().unwrap_or(false)
            && mount::unmount(folder).is_err_and(|error| is_busy(&error));
        if !was_busy {
            break;
        }
        std::thread::sleep(UNMOUNT_PAUSE);
    }
    let _ = fs::remove_dir(folder);
}

impl Store {
    /// Gives a private store its name: what is there from now on outlives this process. A file of
    /// that name belonged to a device that is gone: there cannot be two of one id.
    pub fn name(&self, path: &Path) -> io::Result<()> {
        let folder = open_folder(path.parent().unwrap_or(OsStr::new("/").as_ref()))?;
        folder.lock()?;
        if remove::is_this_file(path, &self.file).unwrap_or(false) {
            return Ok(());
        }
        remove::regular_file(path)?;
        file::link(&self.file, path)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ramdisk::store::testing::{byte_at, fill};

    #[test]
    fn i13_a_private_store_gets_the_huge_pages_that_a_memfd_gets() {
        let cases = [
            (
                None,
                "always within_size advise [never] deny force",
                "never",
            ),
            (
                None,
                "always within_size [advise] never deny force",
                "advise",
            ),
            (None, "always [within_size] advise never", "within_size"),
            (None, "[always] within_size advise never", "always"),
            (None, "", "never"),
            (Some(true), "always advise [never]", "advise"),
            (Some(true), "[always] advise never", "always"),
            (Some(false), "[always] advise never", "never"),
        ];
        for (thp, setting, huge) in cases {
            assert_eq!(huge_option(thp, setting), huge, "{thp:?} {setting}");
        }
        let [first, second] = ["never", "advise"].map(|huge| folder(Path::new("/run/x"), huge));
        assert_eq!(first, Path::new("/run/x/store"));
        assert_eq!(second, Path::new("/run/x/store-advise"));
    }

    /// On a tmpfs that is there: mounting is for the device tests.
    #[test]
    fn i13_a_named_store_outlives_its_server_and_goes_when_no_device_has_it() {
        const PAGE: u64 = 4096;
        let run_dir = PathBuf::from(format!("/dev/shm/ublk-private-{}", std::process::id()));
        let place = folder(&run_dir, "never");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&place)
            .expect("a tmpfs");
        let names = || fs::read_dir(&place).expect("there").count();
        let store = Store::private(&place, 64 * PAGE, false).expect("a store");
        assert_eq!(names(), 0, "nothing to be left behind yet");
        let path = place.join("7");
        fs::write(&path, "of an earlier device").expect("written");
        store.name(&path).expect("named");
        let mode = fs::metadata(&path).expect("there").mode() & 0o777;
        assert_eq!(mode, 0o600);
        fill(&store, 3 * PAGE..4 * PAGE, 9);
        // In use, even if the driver does not know it: this may be its `add`.
        tidy(&run_dir, Vec::new);
        assert_eq!(names(), 1);
        drop(store);
        tidy(&run_dir, || vec![7]);
        let store = Store::reopen(&path, 64 * PAGE, false, false).expect("the same bytes");
        assert_eq!(byte_at(&store, 3 * PAGE), 9);
        assert_eq!(store.used(), store.table_bytes() + PAGE);
        drop(store);
        tidy(&run_dir, Vec::new);
        assert!(!place.exists(), "nobody's, and then nothing is left");
        fs::remove_dir_all(&run_dir).expect("ours");
    }
}
