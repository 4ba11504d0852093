// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's side of an experiment: disks, control groups, fio. Each value takes away what it has made
//! when it is dropped. The guest itself is thrown away in any case.
//!
//! An experiment leaves one file of JSON. It is written when all of it is done, so an experiment
//! that was interrupted is made again.

use crate::files::{lines_of, read, write, write_whole};
use crate::kernel::{null_blk, Group};
use crate::process::{run, Undo};
use crate::study::settings::StudyError;
use crate::study::sim;
use crate::study::table::Block;
use serde_json::{json, Value};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// The time between two looks at a state that is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// The error of an experiment. It ends the study in this guest; the next study is made.
pub(crate) fn failed(what: impl std::fmt::Display) -> StudyError {
    StudyError::Refused(what.to_string())
}

/// Runs a command that must end well, and gives its output.
/// The error names the whole command, as nobody watches the guest.
fn output(command: &mut Command) -> Result<String, StudyError> {
    let ran = run(command);
    ran.map_err(|why| {
        let words = command.get_args().map(|word| word.to_string_lossy());
        let words: Vec<_> = words.collect();
        let name = command.get_program().to_string_lossy();
        failed(format!("{name} {}: {why}", words.join(" ")))
    })
}

/// Where experiments are made and kept.
pub struct Guest {
    /// The program `ublk-ramdisk`.
    ours: PathBuf,
    /// `FOLDER/raw/LETTER-BED`, one file for each experiment.
    folder: PathBuf,
}

impl Guest {
    /// Experiments with this `ublk-ramdisk`, kept in this folder. Fails if there is no ublk driver.
    pub fn new(ours: PathBuf, folder: PathBuf) -> Result<Self, StudyError> {
        if !Path::new("/dev/ublk-control").exists() {
            return Err(StudyError::Lacking(
                "there is no ublk driver here; scripts/study --bed icount boots a guest that has one".into(),
            ));
        }
        fs::create_dir_all(&folder).map_err(failed)?;
        let guest = Self { ours, folder };
        guest.keep_setting()?;
        Ok(guest)
    }

    /// Writes what runs in the guest: the host's kernel and fio, which the report names too, are others.
    fn keep_setting(&self) -> Result<(), StudyError> {
        let fio = output(Command::new("fio").arg("--version"))?;
        let kernel = read(Path::new("/proc/sys/kernel/osrelease"))?;
        let cpus = std::thread::available_parallelism().map_err(failed)?;
        let pairs = [
            ("guest's kernel", kernel.trim().to_owned()),
            ("guest's cpus", cpus.to_string()),
            ("guest's fio", fio.trim().to_owned()),
        ];
        Ok(write(&self.folder.join("setting"), &lines_of(pairs))?)
    }

    /// Runs `ublk-ramdisk`.
    fn ours(&self, words: &[&str]) -> Result<String, StudyError> {
        output(Command::new(&self.ours).args(words))
    }

    /// Makes an experiment and keeps what it gives, unless it is there already. Fails if it could
    /// not be made; then nothing is kept of it.
    pub fn experiment(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Value, StudyError>,
    ) -> Result<(), StudyError> {
        let path = self.folder.join(format!("{name}.json"));
        if path.exists() {
            return Ok(());
        }
        eprintln!("study: {name}");
        let made = make()?;
        Ok(write_whole(&path, &(made.to_string() + "\n"))?)
    }

    /// The same for each case of these blocks. `make` is given the words of the case, the options of the disk, and those
    /// of fio.
    pub fn each(
        &self,
        blocks: &[Block],
        make: impl Fn(&[String], &str, &str) -> Result<Value, StudyError>,
    ) -> Result<(), StudyError> {
        for block in blocks {
            for words in block.cases() {
                let [name, options, job] = block.on_device(&words);
                self.experiment(&name, || make(&words, &options, &job))?;
            }
        }
        Ok(())
    }

    /// What a block is without code of its own: a load on a disk of ours, or on `null_blk MIB MBPS`.
    pub fn loads(&self, blocks: &[Block]) -> Result<(), StudyError> {
        self.each(blocks, |_, options, job| {
            match options.strip_prefix("null_blk ") {
                None => load(&self.disk(options)?, job),
                Some(limits) => {
                    let (node, _undo) = limited_null_blk(limits)?;
                    Ok(json!({ "fio": Fio::start(&node, job)?.end()? }))
                }
            }
        })
    }

    /// Makes a disk, with the options of `add` separated by spaces; one may have some in quotes.
    pub fn disk(&self, options: &str) -> Result<Disk<'_>, StudyError> {
        let mut words = vec!["add", "--json"];
        words.extend(sim::words(options));
        let text = self.ours(&words)?;
        let said: Value = serde_json::from_str(&text).map_err(failed)?;
        let path = said["path"].as_str().map(PathBuf::from);
        let (Some(path), Some(pid)) = (path, said["pid"].as_u64()) else {
            return Err(failed(format!("add said {said}")));
        };
        let disk = Disk {
            guest: self,
            path,
            pid,
        };
        let scheduler = disk.sysfs("queue/scheduler");
        // Some kernels have none to choose from.
        let _as_it_is = fs::write(scheduler, "none");
        Ok(disk)
    }
}

/// Makes the kernel's null_blk of a size in MiB that passes some MiB per second, the two with a space between.
fn limited_null_blk(limits: &str) -> Result<(PathBuf, Undo), StudyError> {
    let (mib, mbps) = limits.split_once(' ').unwrap_or((limits, "0"));
    // One queue of 128 tags like ours; irqmode=0 ends a request in the thread that submits it.
    let settings = format!(
        "size={mib} memory_backed=1 blocksize=512 queue_mode=2 submit_queues=1 hw_queue_depth=128 \
         irqmode=0 mbps={mbps}"
    );
    let (node, undo) = null_blk("study", &settings).map_err(failed)?;
    let name = node.file_name().unwrap_or_default();
    let scheduler = Path::new("/sys/block").join(name).join("queue/scheduler");
    let _as_it_is = fs::write(scheduler, "none");
    Ok((node, undo))
}

/// A disk of ours; deleted with the value.
pub struct Disk<'g> {
    guest: &'g Guest,
    /// /dev/ublkbN.
    pub path: PathBuf,
    /// The server's.
    pub pid: u64,
}

impl Disk<'_> {
    /// The node, as commands take it.
    fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// A file of its folder in sysfs.
    fn sysfs(&self, file: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default();
        Path::new("/sys/block").join(name).join(file)
    }

    /// What `ublk-ramdisk stats --json` says. Fails if the server does not answer.
    pub fn stats(&self) -> Result<Value, StudyError> {
        let text = self.guest.ours(&["stats", "--json", &self.name()])?;
        // A list, of the disks asked for.
        let [stats] = serde_json::from_str::<[Value; 1]>(&text).map_err(failed)?;
        Ok(stats)
    }

    /// `ublk-ramdisk set`, with options separated by spaces. Fails if the disk does not take them.
    pub fn set(&self, options: &str) -> Result<(), StudyError> {
        let name = self.name();
        let mut words = vec!["set", &name];
        words.extend(options.split_whitespace());
        self.guest.ours(&words).map(drop)
    }

    /// Writes that have come to the disk, ended or not, as the kernel counts them: the server is not asked, which may
    /// be unable to answer.
    pub fn writes_begun(&self) -> Result<u64, StudyError> {
        // Writes that have ended are the fifth number of `stat`; `inflight` has reads, then writes.
        Ok(self.number("stat", 4)? + self.number("inflight", 1)?)
    }

    /// Requests that have not ended, as the kernel counts them.
    pub fn waiting(&self) -> Result<u64, StudyError> {
        Ok(self.number("inflight", 0)? + self.number("inflight", 1)?)
    }

    /// A number of a file of its folder in sysfs, by its place.
    fn number(&self, file: &str, place: usize) -> Result<u64, StudyError> {
        let text = read(&self.sysfs(file))?;
        let found = text.split_whitespace().nth(place);
        let found = found.and_then(|n| n.parse().ok());
        found.ok_or_else(|| failed(format!("{file} of {} says {text}", self.name())))
    }

    /// Runs blkdiscard once without an effect. The program is then in memory, and a discard comes on time.
    pub fn ready_to_discard(&self) -> Result<(), StudyError> {
        output(Command::new("blkdiscard").arg("--version")).map(drop)
    }

    /// Discards a range given in bytes.
    pub fn discard(&self, offset: u64, length: u64) -> Result<(), StudyError> {
        let (offset, length) = (offset.to_string(), length.to_string());
        let mut command = Command::new("blkdiscard");
        command.args(["--offset", &offset, "--length", &length]);
        output(command.arg(&self.path)).map(drop)
    }

    /// Gives the threads that serve the queues the highest priority, so that a study of kblockd is about kblockd.
    pub fn favor_queue_threads(&self) -> Result<(), StudyError> {
        let tasks = format!("/proc/{}/task", self.pid);
        for task in fs::read_dir(tasks).map_err(failed)?.flatten() {
            if read(&task.path().join("comm"))?.starts_with("ublkq") {
                let tid = task.file_name().to_string_lossy().into_owned();
                output(Command::new("renice").args(["-n", "-20", "-p", &tid]))?;
            }
        }
        Ok(())
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // If the server was killed, this tells only the driver.
        let _gone = self.guest.ours(&["del", "--force", &self.name()]);
    }
}

/// Puts the servers of these disks into a control group.
pub fn around(name: &str, disks: &[&Disk<'_>]) -> Result<Group, StudyError> {
    let group = Group::new(&format!("study-{name}"))?;
    for disk in disks {
        group.take(disk.pid)?;
    }
    Ok(group)
}

/// fio, begun on block devices.
pub struct Fio(Child);

/// How fio competes for the CPUs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// At the usual nice value.
    Normal,
    /// Before all others. fio's own option takes no -20 on its command line.
    First,
}

impl Fio {
    /// Starts it with these options, separated by spaces. What all have: no page cache, libaio,
    /// blocks of 4 KiB, distributions in full. Fails if the path is no block device.
    pub fn start(path: &Path, options: &str) -> Result<Self, StudyError> {
        let filename = format!("--filename={} {options}", path.display());
        Self::begin(&[path], &filename, Rank::Normal)
    }

    /// The same for jobs that say themselves which of these disks they use. A disk named for all jobs would be one
    /// more of each.
    pub fn start_on(disks: &[Disk<'_>], options: &str) -> Result<Self, StudyError> {
        let paths: Vec<&Path> = disks.iter().map(|disk| disk.path.as_path()).collect();
        Self::begin(&paths, options, Rank::Normal)
    }

    /// Starts fio on disks that are there.
    fn begin(paths: &[&Path], options: &str, rank: Rank) -> Result<Self, StudyError> {
        for path in paths {
            // Where there is none fio would make a file and measure that.
            let kind = fs::metadata(path).map_err(failed)?.file_type();
            if !kind.is_block_device() {
                return Err(failed(format!("{} is no block device", path.display())));
            }
        }
        let mut command = match rank {
            Rank::Normal => Command::new("fio"),
            // By the program `nice`, which has to be started as root.
            Rank::First => {
                let mut nice = Command::new("nice");
                nice.args(["-n", "-20", "fio"]);
                nice
            }
        };
        // json+ has each bucket of the latencies, from which any percentile can be read.
        command.args(["--output-format=json+", "--allow_file_create=0"]);
        command.args(["--ioengine=libaio", "--direct=1", "--bs=4k"]);
        command.args(options.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::inherit()).spawn();
        child.map(Self).map_err(|e| failed(format!("fio: {e}")))
    }

    /// Waits until something is so; false if fio ends before. A fixed time would not do: the guest's clock may leap
    /// while fio is being loaded.
    pub fn wait(
        &mut self,
        mut so: impl FnMut() -> Result<bool, StudyError>,
    ) -> Result<bool, StudyError> {
        while !so()? {
            if self.0.try_wait().map_err(failed)?.is_some() {
                return Ok(false);
            }
            thread::sleep(LOOK);
        }
        Ok(true)
    }

    /// The same as an error if fio ends before: the experiment has no result then.
    pub fn until(
        &mut self,
        what: &str,
        so: impl FnMut() -> Result<bool, StudyError>,
    ) -> Result<(), StudyError> {
        match self.wait(so)? {
            true => Ok(()),
            false => Err(failed(format!("fio ended before {what}"))),
        }
    }

    /// Waits until it has ended, and returns what it printed as JSON. Requests that failed are part
    /// of that; a fio that printed none is an error.
    pub fn end(self) -> Result<Value, StudyError> {
        let ran = self.0.wait_with_output().map_err(failed)?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let begin = text.find('{').ok_or_else(|| {
            failed(format!(
                "fio ended with {} and said nothing that could be read: {text}",
                ran.status
            ))
        })?;
        serde_json::from_str(&text[begin..]).map_err(failed)
    }
}

/// A load on a disk with what the server counted before and after, and the CPU time it took.
pub fn load(disk: &Disk<'_>, options: &str) -> Result<Value, StudyError> {
    load_as(Rank::Normal, disk, options)
}

/// The same, fio having this rank.
pub fn load_as(rank: Rank, disk: &Disk<'_>, options: &str) -> Result<Value, StudyError> {
    let counted = Counted::new("load", disk)?;
    let filename = format!("--filename={} {options}", disk.path.display());
    let fio = Fio::begin(&[&disk.path], &filename, rank)?.end()?;
    counted.with(&fio)
}

/// A control group around the server of a disk, and what the server had counted when the group was made.
pub struct Counted<'d> {
    disk: &'d Disk<'d>,
    group: Group,
    /// `stats --json`, and CPU time in microseconds.
    before: (Value, u64),
}

impl<'d> Counted<'d> {
    /// Counts from now on, in a group of this name.
    pub fn new(name: &str, disk: &'d Disk<'d>) -> Result<Self, StudyError> {
        let group = around(name, &[disk])?;
        let before = (disk.stats()?, group.cpu().map_err(failed)?);
        Ok(Self {
            disk,
            group,
            before,
        })
    }

    /// Returns what is kept of an experiment: fio's word, the counts before and after, and the CPU time between.
    pub fn with(self, fio: &Value) -> Result<Value, StudyError> {
        let after = (self.disk.stats()?, self.group.cpu().map_err(failed)?);
        Ok(json!({
            "fio": fio,
            "before": self.before.0,
            "after": after.0,
            "cpu_us": after.1 - self.before.1,
        }))
    }
}
