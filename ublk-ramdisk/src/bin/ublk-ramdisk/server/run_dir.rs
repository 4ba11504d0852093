// SPDX-License-Identifier: MIT OR Apache-2.0
//! The run directory: who serves which device.
//!
//! Owns /run/ublk-ramdisk (or what `UBLK_RAMDISK_RUN_DIR` names) with these files per device:
//! `N.name`, the name of a disk that is being made, which udev asks for before there is a state file;
//! `N.lock`, locked for as long as its server lives; `N.json`, the device as [`State`]; `N.rules`, what
//! its rules have done, once it had some; `N.sock`, the control socket; `N.supervisor`, locked for as long as its supervisor lives; and a directory `N`
//! once `debugfs --files` was asked for. The lock alone
//! says that a server lives; the others may be left over from one that was killed.
//!
//! | lock | state file | means |
//! |---|---|---|
//! | held | there | the device is served |
//! | held | - | a server begins or ends |
//! | free | there | the device was stopped and keeps its id, or its server was killed |
//! | free | - | no device of this program |

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ublk_ramdisk::config::DeviceConfig;
use ublk_ramdisk::error::Failure;
use ublk_ramdisk::mq::debugfs::DebugfsFile;
use ublk_ramdisk::ramdisk::store::private;
use ublk_ramdisk::sys::file::NO_STREAM;
use ublk_ramdisk::sys::remove;
use ublk_ramdisk::ublk::device_ids;

use super::protocol::State;

mod names;

/// Names another run directory.
pub const RUN_DIR_VARIABLE: &str = "UBLK_RAMDISK_RUN_DIR";
const DEFAULT_RUN_DIR: &str = "/run/ublk-ramdisk";
/// A command that looks whether a lock is held takes it for a moment: it is held by a process that stays
/// only if it still is after this time.
pub const LOOK_END: Duration = Duration::from_millis(200);
/// The directory; it need not exist.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The directory of this machine, or the one the environment names.
    ///
    /// # Errors
    /// Status 3 if somebody else than root and this user could write in it, and so forge what it says
    /// of the servers.
    pub fn of_this_machine() -> Result<RunDir, Failure> {
        let named = std::env::var_os(RUN_DIR_VARIABLE).filter(|value| !value.is_empty());
        let path = named.map_or_else(|| PathBuf::from(DEFAULT_RUN_DIR), PathBuf::from);
        // A server changes its directory, so a relative name is fixed now.
        let dir = RunDir(std::path::absolute(&path).unwrap_or(path));
        dir.check_owner().map_err(|error| dir.unusable(&error))?;
        Ok(dir)
    }

    /// Checks who can write in the directory. One that does not exist passes: `try_lock` makes it.
    fn check_owner(&self) -> io::Result<()> {
        let found = match fs::symlink_metadata(&self.0) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let (owner, mode) = (found.uid(), found.mode() & 0o777);
        let trouble = if !found.is_dir() {
            "it is not a directory".to_owned()
        } else if ![0, nix::unistd::geteuid().as_raw()].contains(&owner) {
            format!("it belongs to another user ({owner})")
        } else if mode & 0o022 != 0 {
            format!("others may write in it (mode {mode:o})")
        } else {
            return Ok(());
        };
        Err(io::Error::other(trouble))
    }

    /// Where the control socket of device `id` is.
    pub fn socket(&self, id: u32) -> PathBuf {
        self.file(id, "sock")
    }

    /// Where the files of `debugfs --files` are.
    fn files_path(&self, id: u32) -> PathBuf {
        self.0.join(id.to_string())
    }

    /// A file of device `id`: see the module.
    fn file(&self, id: u32, end: &str) -> PathBuf {
        self.0.join(format!("{id}.{end}"))
    }

    /// The config of a device whose rules outlive its server, as its contents do.
    pub fn with_rules(&self, config: &DeviceConfig) -> DeviceConfig {
        DeviceConfig {
            rules_dir: config.backing().outlives_server().then(|| self.0.clone()),
            ..config.clone()
        }
    }

    /// The state file of device `id`.
    pub fn state_path(&self, id: u32) -> PathBuf {
        self.file(id, "json")
    }

    /// Takes the lock of device `id` for as long as the result lives. A server that is just
    /// ending is waited for, `timeout` long.
    ///
    /// # Errors
    /// Status 4 if another server has it, 3 if the directory cannot be used.
    pub fn lock(&self, id: u32, timeout: Duration) -> Result<DeviceLock, Failure> {
        let file = self.lock_within(&self.file(id, "lock"), timeout)?;
        let file = file.ok_or_else(|| {
            Failure::in_use(format!(
                "device {id} has a server already: choose another --id, or end that one with \
                 `ublk-ramdisk del {id}`"
            ))
        })?;
        Ok(DeviceLock {
            dir: self.clone(),
            id,
            _file: file,
        })
    }

    /// None if another process has the lock all the time.
    fn lock_within(&self, path: &Path, timeout: Duration) -> Result<Option<File>, Failure> {
        let deadline = Instant::now() + timeout;
        loop {
            let locked = self.try_lock_at(path);
            match locked.map_err(|error| self.unusable(&error))? {
                None if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                locked => return Ok(locked),
            }
        }
    }

    /// Status 3: what is wrong with the directory and how to name another.
    fn unusable(&self, error: &io::Error) -> Failure {
        Failure::environment(format!(
            "the run directory {} cannot be used: {error}; run as root, or name another one in \
             {RUN_DIR_VARIABLE}",
            self.0.display()
        ))
    }

    fn make(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.0)?;
        // Made meanwhile, perhaps by somebody else.
        self.check_owner()
    }

    /// Where private stores are, mounted beside this directory's files for as long as the result
    /// lives, or a store is there.
    pub fn private_stores(&self, thp: Option<bool>) -> io::Result<private::Folder> {
        loop {
            self.make()?;
            match private::Folder::mounted(&self.0, thp) {
                // The directory was tidied away in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // The folder is made before the mount fails.
                folder => return folder.inspect_err(|_| self.tidy()),
            }
        }
    }

    /// Removes the private store of a device without a server, if it has one.
    pub fn remove_store(&self, id: u32) -> Result<(), Failure> {
        private::remove(&self.0, id).map_err(|error| {
            Failure::runtime(format!(
                "the store of device {id} cannot be removed: {error}"
            ))
        })
    }

    /// Removes private stores of devices that are gone, and what is empty. One with a state file may be
    /// about to be made again.
    pub fn tidy(&self) {
        private::tidy(&self.0, || [device_ids(), self.ids()].concat());
        let _ = fs::remove_dir(&self.0);
    }

    /// One try: none means that another process has the lock.
    fn try_lock(&self, id: u32) -> io::Result<Option<File>> {
        self.try_lock_at(&self.file(id, "lock"))
    }

    /// Takes the right to supervise device `id`, for as long as the file is open. A supervisor that is
    /// just ending is waited for, `timeout` long.
    ///
    /// # Errors
    /// Status 4 if another supervisor has it, 3 if the directory cannot be used.
    pub fn lock_supervisor(&self, id: u32, timeout: Duration) -> Result<File, Failure> {
        self.lock_within(&self.file(id, "supervisor"), timeout)?
            .ok_or_else(|| Failure::in_use(format!("device {id} has a supervisor already")))
    }

    fn try_lock_at(&self, path: &Path) -> io::Result<Option<File>> {
        loop {
            self.make()?;
            let file = match File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(NO_STREAM)
                .open(path)
            {
                Ok(file) => file,
                // The directory was tidied away in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
            // The former holder may have removed the name: then this lock guards nothing.
            if is_same_file(&file, path)? {
                return Ok(Some(file));
            }
        }
    }

    /// Asked by `list` and `del`: does a server of this program live for the device?
    pub fn has_server(&self, id: u32) -> bool {
        self.is_locked(&self.file(id, "lock"))
    }

    /// Does a supervisor live for the device, which starts a new server when one has died?
    pub fn has_supervisor(&self, id: u32) -> bool {
        self.is_locked(&self.file(id, "supervisor"))
    }

    fn is_locked(&self, path: &Path) -> bool {
        // The lock is shared: of two commands that look at once, none takes the other for a server.
        let mut options = File::options();
        options.read(true).custom_flags(NO_STREAM);
        match options.open(path) {
            Ok(file) => matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)),
            // Another user's: who asks its server is told so.
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    /// The device as its server last described it. The server need not live.
    /// None if there is no such file, or another version wrote it in a way that this one cannot read.
    pub fn state(&self, id: u32) -> Option<State> {
        let text = fs::read_to_string(self.state_path(id)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Replaces a file; readers see the old or the new one, never a part.
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        // Written under another name, then renamed over the old one.
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        remove::regular_file(&draft)?;
        // Follows no link: a name that exists is an error.
        let mut file = File::create_new(&draft)?;
        let renamed = file
            .write_all(text.as_bytes())
            .and_then(|()| fs::rename(&draft, path));
        renamed.inspect_err(|_| {
            let _ = remove::this_file(&draft, &file);
        })
    }

    /// Every device with a state file, lowest id first.
    pub fn ids(&self) -> Vec<u32> {
        self.ids_with(".json")
    }

    /// Every device with a file of this ending.
    fn ids_with(&self, end: &str) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return Vec::new();
        };
        let mut ids: Vec<u32> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                name.to_str()?.strip_suffix(end)?.parse().ok()
            })
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The ids with a state file that have no server, and no device any more: another program has deleted
    /// that. Lowest first.
    pub fn gone(&self) -> Vec<u32> {
        let (ids, devices) = (self.ids().into_iter(), device_ids());
        ids.filter(|id| !devices.contains(id) && !self.has_server(*id))
            .collect()
    }

    /// Those of them whose private store is kept (I13).
    pub fn kept(&self) -> Vec<u32> {
        let is_kept = |id: &u32| private::is_there(&self.0, *id);
        self.gone().into_iter().filter(is_kept).collect()
    }

    /// Removes what a supervisor needed, at its end. The state file stays.
    pub fn end_supervisor(&self, id: u32, lock: File) {
        let _ = remove::regular_file(&self.file(id, "supervisor"));
        drop(lock);
        let _ = fs::remove_dir(&self.0);
    }

    /// Removes what a dead server left, once its device is gone. Nothing happens while a server
    /// lives.
    pub fn forget(&self, id: u32) {
        if let Ok(Some(file)) = self.try_lock_existing(id) {
            // One that was killed has left its file.
            if let Ok(supervisor) = self.lock_supervisor(id, LOOK_END) {
                self.end_supervisor(id, supervisor);
            }
            self.remove(id);
            drop(file);
        }
    }

    /// As [`RunDir::try_lock`], but a directory that is not there is not made.
    /// So a look at a device without a server leaves no directory behind.
    fn try_lock_existing(&self, id: u32) -> io::Result<Option<File>> {
        if self.0.is_dir() {
            self.try_lock(id)
        } else {
            Ok(None)
        }
    }

    /// # Context
    /// The lock of `id` is held. It goes last, and the directory with it when it is empty.
    fn remove(&self, id: u32) {
        let _ = remove::regular_file(&self.state_path(id));
        let _ = remove::regular_file(&self.file(id, "rules"));
        let _ = remove::regular_file(&self.file(id, "name"));
        self.remove_all_but_state(id);
    }

    /// # Context
    /// As of `remove`.
    fn remove_all_but_state(&self, id: u32) {
        let _ = remove::directory(&self.files_path(id));
        let _ = remove::socket(&self.socket(id));
        let _ = remove::regular_file(&self.file(id, "lock"));
        self.tidy();
    }
}

/// True if `path` still names the open file.
fn is_same_file(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The right to serve device `id`. Dropping it removes the files of that, but the state file: it tells
/// of a device that was stopped or whose server has ended, until that is deleted
/// ([`RunDir::forget`]).
#[derive(Debug)]
pub struct DeviceLock {
    dir: RunDir,
    id: u32,
    /// Holds the lock. The kernel frees it with the process, however that ends.
    _file: File,
}

impl DeviceLock {
    /// Removes the socket of a dead server, and returns where the new server is to listen.
    pub fn fresh_socket(&self) -> PathBuf {
        let path = self.dir.socket(self.id);
        let _ = remove::socket(&path);
        path
    }

    /// Writes the state file; readers see the old or the new one, never a part.
    pub fn write_state(&self, state: &State) -> Result<(), Failure> {
        let text = serde_json::to_string(state)
            .map_err(|error| Failure::runtime(format!("state of device {}: {error}", self.id)))?;
        let written = self
            .dir
            .write(&self.dir.state_path(self.id), &(text + "\n"));
        written.map_err(|error| self.dir.unusable(&error))?;
        // From here on the state file has the name.
        let _ = remove::regular_file(&self.dir.file(self.id, "name"));
        Ok(())
    }

    /// Replaces the tree of files beside the state file, and returns where it is.
    pub fn write_files(&self, files: &[DebugfsFile]) -> Result<PathBuf, Failure> {
        let place = self.dir.files_path(self.id);
        let written = || -> io::Result<()> {
            remove::directory(&place)?;
            // Fails where something else has that name.
            fs::create_dir(&place)?;
            for file in files {
                let path = place.join(&file.path);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)?;
                }
                fs::write(path, &file.text)?;
            }
            Ok(())
        };
        written().map_err(|error| self.dir.unusable(&error))?;
        Ok(place)
    }
}

impl Drop for DeviceLock {
    fn drop(&mut self) {
        self.dir.remove_all_but_state(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::protocol::Served;
    use std::os::unix::fs::PermissionsExt;
    use ublk_ramdisk::config::{Backing, DataPath};
    use ublk_ramdisk::error::Exit;

    struct Scratch(RunDir);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path =
                std::env::temp_dir().join(format!("ublk-run-dir-{name}-{}", std::process::id()));
            Scratch(RunDir(path))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0 .0);
        }
    }

    fn served(id: u32) -> State {
        let served = Served {
            id,
            path: format!("/dev/ublkb{id}"),
            char_path: format!("/dev/ublkc{id}"),
            size: 1 << 20,
            data_path: DataPath::Buffer,
            queues: 1,
            depth: 128,
            backing: "memfd".to_owned(),
            outlives_server: false,
            pid: std::process::id(),
        };
        State {
            served,
            version: State::VERSION,
            config: None,
            restarts: 0,
            last_end: None,
            waited_ms: None,
            waits_since: None,
            off: false,
            since: None,
            log: None,
            service: false,
            program: String::new(),
        }
    }

    #[test]
    fn i11_a_second_server_is_refused() {
        let scratch = Scratch::new("second");
        let held = scratch.0.lock(5, Duration::ZERO).expect("free");
        assert!(scratch.0.has_server(5));
        let refused = scratch.0.lock(5, Duration::ZERO).expect_err("held");
        assert!(matches!(refused.exit, Exit::InUse), "{refused:?}");
        scratch.0.lock(6, Duration::ZERO).expect("another device");
        drop(held);
        assert!(!scratch.0.has_server(5));
        scratch.0.lock(5, Duration::ZERO).expect("free again");
    }

    #[test]
    fn i11_nobody_else_can_hold_the_lock_or_owns_the_directory() {
        let scratch = Scratch::new("modes");
        let held = scratch.0.lock(5, Duration::ZERO).expect("free");
        let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
        assert_eq!(mode(&scratch.0.file(5, "lock")), 0o600);
        let place = &scratch.0 .0;
        let refused = |why: &str| {
            let failure = scratch.0.lock(6, Duration::ZERO).expect_err(why);
            assert_eq!(failure.exit, Exit::Environment);
            assert!(failure.message.contains(why), "{failure}");
        };
        let set_mode = |mode| fs::set_permissions(place, fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o775, 0o757] {
            set_mode(mode);
            refused("others may write in it");
        }
        set_mode(0o755);
        if std::os::unix::fs::chown(place, Some(65534), None).is_ok() {
            refused("belongs to another user (65534)");
            std::os::unix::fs::chown(place, Some(0), None).unwrap();
        }
        drop(held);
        std::os::unix::fs::symlink("/run", place).expect("a link");
        refused("not a directory");
        fs::remove_file(place).expect("the link");
    }

    #[test]
    fn l2_nothing_is_left_behind() {
        let scratch = Scratch::new("traces");
        let lock = scratch.0.lock(1, Duration::ZERO).expect("free");
        lock.write_state(&served(1)).expect("written");
        assert_eq!(scratch.0.ids(), [1]);
        assert_eq!(scratch.0.state(1), Some(served(1)));
        scratch.0.forget(1);
        assert_eq!(scratch.0.ids(), [1], "its server lives");
        drop(lock);
        assert_eq!(scratch.0.ids(), [1], "it is not deleted yet");
        scratch.0.forget(1);
        assert!(!scratch.0 .0.exists());
    }

    #[test]
    fn i21_a_name_belongs_to_one_disk_from_its_beginning_to_its_deletion() {
        let scratch = Scratch::new("names");
        let dir = &scratch.0;
        let lock = dir.lock(4, Duration::ZERO).expect("free");
        dir.begin(4, Some("db")).expect("free");
        assert_eq!(dir.id_of("db"), Some(4), "there is no state file yet");
        assert_eq!(dir.name_for_udev(4, true), Some(Some("db".to_owned())));
        dir.begin(4, Some("db")).expect("it is its own");
        let refused = dir.begin(5, Some("db")).expect_err("taken");
        assert!(matches!(refused.exit, Exit::InUse), "{refused:?}");
        assert!(refused.message.contains("--name db: device 4"), "{refused}");
        let config = DeviceConfig {
            name: Some("db".to_owned()),
            ..DeviceConfig::default()
        };
        let mut state = served(4);
        state.config = Some(config);
        lock.write_state(&state).expect("written");
        assert!(!dir.file(4, "name").exists());
        assert_eq!(dir.id_of("db"), Some(4));
        assert_eq!(dir.name_for_udev(5, false), None, "it is not ours");
        drop(lock);
        assert_eq!(dir.id_of("db"), None, "nothing is left of it");
        // Unless its contents are.
        let file = dir.0.join("contents");
        fs::write(&file, "").expect("written");
        let config = state.config.as_mut().expect("it has one");
        config.backing = Some(Backing::Tmpfs(file));
        let lock = dir.lock(4, Duration::ZERO).expect("free");
        lock.write_state(&state).expect("written");
        drop(lock);
        dir.check_name(Some("db"), None).expect_err("they are kept");
    }

    #[test]
    fn i11_a_server_that_does_not_begin_leaves_the_state_of_another() {
        let scratch = Scratch::new("refused");
        let stopped = scratch.0.lock(3, Duration::ZERO).expect("free");
        stopped.write_state(&served(3)).expect("written");
        drop(stopped);
        drop(scratch.0.lock(3, Duration::ZERO).expect("free"));
        assert_eq!(scratch.0.state(3), Some(served(3)));
    }

    #[test]
    fn l1_what_is_no_file_of_a_server_is_neither_written_nor_removed() {
        let scratch = Scratch::new("links");
        let place = scratch.0 .0.join("place");
        fs::create_dir_all(&place).expect("a folder");
        let target = place.join("target");
        fs::write(&target, "another's").expect("written");
        for name in ["4.json.new", "4.sock", "4"] {
            std::os::unix::fs::symlink(&target, scratch.0 .0.join(name)).expect("a link");
        }
        let lock = scratch.0.lock(4, Duration::ZERO).expect("free");
        lock.write_state(&served(4))
            .expect_err("a link is in the way");
        lock.write_files(&[]).expect_err("a link is in the way");
        lock.fresh_socket();
        drop(lock);
        for name in ["4.json.new", "4.sock", "4"] {
            assert!(scratch.0 .0.join(name).is_symlink(), "{name}");
        }
        assert_eq!(fs::read(&target).expect("there"), b"another's");
        std::os::unix::fs::symlink(&target, scratch.0 .0.join("6.lock")).expect("a link");
        scratch
            .0
            .lock(6, Duration::ZERO)
            .expect_err("no lock of ours");
    }
}
