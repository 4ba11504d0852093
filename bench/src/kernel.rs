// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a measurement makes in the kernel beside disks of ours, each taken away when its value is dropped: null_blk
//! disks, control groups, trace buffers, and settings that get their former value back.

use crate::files::{read, write, FileError};
use crate::process::{run, Undo};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the control groups of version 2 are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where the trace points are.
const TRACING: &str = "/sys/kernel/tracing";

/// Loads a module; words after its name are parameters. It is unloaded again. Fails with what
/// modprobe says.
pub fn load_module(words: &[&str], undo: &mut Undo) -> Result<(), String> {
    run(Command::new("modprobe").args(words))?;
    undo.command("rmmod", [words[0]]);
    Ok(())
}

/// Makes a null_blk disk with settings such as `size=64 mbps=20`. Returns its node, and how all of
/// it is taken away. Fails with what the kernel does not take. What was made until then is taken
/// away again.
pub fn null_blk(name: &str, settings: &str) -> Result<(PathBuf, Undo), String> {
    let config = Path::new("/sys/kernel/config");
    let mut undo = Undo::default();
    if run(Command::new("mountpoint").arg("-q").arg(config)).is_err() {
        let _built_in = run(Command::new("modprobe").arg("configfs"));
        let mut mount = Command::new("mount");
        run(mount.args(["-t", "configfs", "configfs"]).arg(config))?;
        undo.command("umount", [config]);
    }
    if !Path::new("/sys/module/null_blk").is_dir() {
        load_module(&["null_blk", "nr_devices=0"], &mut undo)?;
    }
    let folder = config.join("nullb").join(name);
    fs::create_dir(&folder).map_err(|e| format!("null_blk: {e}"))?;
    let own = folder.clone();
    undo.push(move || {
        let _off = write(&own.join("power"), "0");
        fs::remove_dir(&own).map_err(|e| format!("{}: {e}", own.display()))
    });
    for setting in settings.split(' ').chain(["power=1"]) {
        let (file, value) = setting.split_once('=').unwrap_or((setting, ""));
        let taken = write(&folder.join(file), value);
        taken.map_err(|_| format!("null_blk does not take {setting}"))?;
    }
    // Older kernels name the disk by its index, newer ones by its folder.
    let index = fs::read_to_string(folder.join("index")).unwrap_or_default();
    let node = Path::new("/dev").join(name);
    match node.exists() {
        true => Ok((node, undo)),
        false => Ok((format!("/dev/nullb{}", index.trim()).into(), undo)),
    }
}

/// A control group. Its processes move to the root group when it is dropped.
pub struct Group(pub PathBuf);

impl Group {
    /// Makes a group without processes and limits.
    pub fn new(name: &str) -> Result<Self, FileError> {
        let path = Path::new(CGROUPS).join(name);
        fs::create_dir_all(&path).map_err(crate::files::at(&path))?;
        Ok(Self(path))
    }

    /// Moves a process into the group. Fails if there is no such process.
    pub fn take(&self, pid: u64) -> Result<(), FileError> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// Writes one of its files, such as a limit. Fails if the group has no such file: a controller
    /// may not be enabled.
    pub fn set(&self, file: &str, value: &str) -> Result<(), FileError> {
        write(&self.0.join(file), value)
    }

    /// Reads a number out of a file of lines `NAME NUMBER`. Fails if there is no such line.
    pub fn number(&self, file: &str, name: &str) -> Result<u64, String> {
        let text = read(&self.0.join(file))?;
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        let found = found.and_then(|n| n.trim().parse().ok());
        found.ok_or_else(|| format!("{file} has no {name}"))
    }

    /// CPU time of its processes so far, in microseconds, with that of threads that have ended.
    pub fn cpu(&self) -> Result<u64, String> {
        self.number("cpu.stat", "usage_usec ")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that a limit holds up cannot be moved.
        for file in ["pids.max", "memory.max", "memory.high"] {
            let _free = self.set(file, "max");
        }
        let inside = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            let _ended = write(&Path::new(CGROUPS).join("cgroup.procs"), pid);
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("could not undo: {}: {error}", self.0.display());
        }
    }
}

/// A trace buffer of its own, an instance in the kernel's words.
pub struct Trace(PathBuf);

impl Trace {
    /// Makes an empty one.
    ///
    /// The names of threads are not recorded. For them the kernel would change the scheduler's code while other CPUs are
    /// in it, which an emulated CPU does not always survive. An instance begins with the options of the whole.
    pub fn new(name: &str) -> Result<Self, FileError> {
        let tracing = Path::new(TRACING);
        let _former = Former::set(&tracing.join("options/record-cmd"), "0");
        let folder = tracing.join("instances").join(name);
        fs::create_dir_all(&folder).map_err(crate::files::at(&folder))?;
        Ok(Self(folder))
    }

    /// Records a trace point such as `block/block_rq_complete` where the filter is true. Fails if
    /// the kernel has no such trace point.
    pub fn event(&self, name: &str, filter: &str) -> Result<(), FileError> {
        let event = self.0.join("events").join(name);
        write(&event.join("filter"), filter)?;
        write(&event.join("enable"), "1")
    }

    /// Returns what was recorded, as lines.
    pub fn read(&self) -> Result<String, FileError> {
        read(&self.0.join("trace"))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _gone = fs::remove_dir(&self.0);
    }
}

/// A file of the kernel that has its former value again after the run.
pub struct Former(PathBuf, String);

impl Former {
    /// Sets a value, or does nothing where there is no such file.
    pub fn set(path: &Path, value: &str) -> Option<Self> {
        let former = fs::read_to_string(path).ok()?;
        write(path, value).ok()?;
        Some(Self(path.into(), former))
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        let _as_it_is = write(&self.0, &self.1);
    }
}
