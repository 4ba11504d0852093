// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disks of the contenders: how each is made. Each is taken away when its value is dropped.
//!
//! One function per contender returns a [`Disk`]. What must be undone is put into its [`Undo`] as
//! soon as it is done, so that a disk that is made by halves goes, too. The error is the reason why
//! there is none: the others are measured without it, and the report names it.
//!
//! All disks have the same size, number of queues, depth and largest request, as far as they can be
//! told. Where one cannot, the report says so.

use super::Programs;
use crate::contender::Contender;
use crate::files::write;
use crate::kernel::{load_module, null_blk};
use crate::plan::Plan;
use crate::process::{apart, run, Server, Undo};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The largest request of each disk, in KiB.
/// The largest difference between two disks would be this one: it decides how the kernel splits requests.
const IO_BUFFER_KIB: u32 = 512;

/// A contender's disk. Dropping it takes it away.
pub struct Disk {
    /// Its node.
    pub node: PathBuf,
    /// How it was made.
    /// The command or the settings, as the line `set up` of the report shows them.
    pub how: String,
    undo: Undo,
}

impl Disk {
    /// A disk that is there, and how it is taken away.
    fn new(node: impl Into<PathBuf>, how: impl Into<String>, undo: Undo) -> Self {
        Self {
            node: node.into(),
            how: how.into(),
            undo,
        }
    }

    /// Is it a block device? fio would make a plain file where there is none, and measure that.
    pub fn is_there(&self) -> bool {
        let kind = fs::metadata(&self.node).map(|of| of.file_type());
        kind.is_ok_and(|kind| kind.is_block_device())
    }

    /// A file of its folder in sysfs, where a slash in the name is an exclamation mark.
    pub fn sysfs(&self, file: &str) -> PathBuf {
        let name = self.node.strip_prefix("/dev").unwrap_or(&self.node);
        let name = name.to_string_lossy().replace('/', "!");
        Path::new("/sys/class/block").join(name).join(file)
    }

    /// What such a file says.
    pub fn says(&self, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.sysfs(file)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// The same as a number; 0 if there is none.
    pub fn number(&self, file: &str) -> u64 {
        self.says(file)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    /// Keeps udev from reading the disk after each writer.
    pub fn keep_udev_away(&mut self) {
        if Path::new("/run/udev").is_dir() {
            if let Ok(file) = File::open(&self.node) {
                // udev leaves alone a disk whose node somebody else has locked (flock).
                if file.lock().is_ok() {
                    self.undo.hold(file);
                }
            }
        }
    }
}

/// What disks are made with.
pub struct Maker<'a> {
    /// The run.
    pub plan: &'a Plan,
    /// The programs.
    pub programs: &'a Programs,
    /// A folder that goes with the run.
    pub scratch: &'a Path,
}

impl Maker<'_> {
    /// Makes the disk of a contender, or takes the one that it names. The error is the reason why there is none.
    pub fn make(&self, who: &Contender) -> Result<Disk, String> {
        if let Some(node) = &who.node {
            let node = fs::canonicalize(node).map_err(|e| format!("{node}: {e}"))?;
            return Ok(Disk::new(node, "it was there", Undo::default()));
        }
        match who.name.as_str() {
            "libublk-example" => self.example(),
            "libublk" => self.on_libublk("libublk_ramdisk"),
            "null-batch" => self.on_libublk("null_batch"),
            "rublk-null" => self.rublk(&["null"], Undo::default()),
            "rublk-loop" => self.rublk_loop(),
            "loop" => self.kernel_loop(),
            "nbd" => self.nbd(),
            "zram" => self.zram(),
            "brd" => self.brd(),
            "null_blk" => self.null_blk(),
            path => self.ours(path),
        }
    }

    /// Our disk on one of its data paths. `add` prints the node when it can be opened.
    fn ours(&self, path: &str) -> Result<Disk, String> {
        let Plan {
            mib, queues, depth, ..
        } = self.plan;
        let words = format!(
            "add --size {mib}M --queues {queues} --depth {depth} --io-buffer {IO_BUFFER_KIB}K --data-path {path}"
        );
        let mut add = apart(&self.programs.ours);
        let node = run(add.args(words.split(' ')))?.trim().to_owned();
        let mut undo = Undo::default();
        undo.command(&self.programs.ours, ["del", "--force", &node]);
        Ok(Disk::new(node, format!("ublk-ramdisk {words}"), undo))
    }

    /// Some serve one queue only: they are absent where more were asked for.
    /// libublk's example and our disk on that crate start one queue thread, whatever the device has.
    fn one_queue(&self) -> Result<(), String> {
        match self.plan.queues {
            1 => Ok(()),
            more => Err(format!("it serves one queue, not {more}")),
        }
    }

    /// Starts a server whose output and errors go to files of that name in the scratch folder.
    fn serve(
        &self,
        name: &str,
        command: &mut Command,
    ) -> Result<(Server, PathBuf, PathBuf), String> {
        let open = |end: &str| {
            let path = self.scratch.join(format!("{name}.{end}"));
            let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()));
            file.map(|file| (path, file))
        };
        let ((out, stdout), (err, stderr)) = (open("out")?, open("err")?);
        let server = Server::start(command.stdout(stdout).stderr(stderr))?;
        Ok((server, out, err))
    }

    /// A server of `bench/libublk`. It prints the node when the disk is ready, and takes it away on
    /// SIGTERM.
    fn on_libublk(&self, program: &str) -> Result<Disk, String> {
        self.one_queue()?;
        let Plan { mib, depth, .. } = self.plan;
        let buffer = IO_BUFFER_KIB << 10;
        let words = format!("--size-mib {mib} --depth {depth} --io-buffer {buffer}");
        let mut command = apart(self.programs.libublk.join(program));
        command.args(words.split(' '));
        let (mut server, out, err) = self.serve(program, &mut command)?;
        let node = server.until(|| {
            let text = fs::read_to_string(&out).ok();
            text.filter(|text| text.ends_with('\n'))
        });
        let node = node.ok_or_else(|| last_line(&err))?;
        let mut undo = Undo::default();
        undo.hold(server);
        Ok(Disk::new(node.trim(), format!("{program} {words}"), undo))
    }

    /// The RAM disk that comes with the libublk crate as its example.
    fn example(&self) -> Result<Disk, String> {
        // Chosen here: it takes an id and prints a description, not a path.
        const ID: &str = "190";
        let program = self.programs.example.clone()?;
        self.one_queue()?;
        let mib = self.plan.mib.to_string();
        // It keeps its notes there and does not make the folder itself.
        fs::create_dir_all("/run/ublksrvd").map_err(|e| e.to_string())?;
        run(apart(&program).args(["add", ID, &mib]))?;
        let mut undo = Undo::default();
        undo.command(&program, ["del", ID]);
        let how = format!("ramdisk add {ID} {mib} (the example of libublk; depth 128 is its own)");
        Ok(Disk::new(format!("/dev/ublkb{ID}"), how, undo))
    }

    /// A target of rublk. Its server stays in the foreground, so that it can be ended.
    fn rublk(&self, target: &[&str], mut undo: Undo) -> Result<Disk, String> {
        let program = self.programs.rublk.clone()?;
        let Plan { queues, depth, .. } = self.plan;
        let target = target.join(" ");
        let words = format!("add {target} -q {queues} -d {depth} -b {IO_BUFFER_KIB}KiB");
        // It says nothing that a program could read: the new node is the answer.
        let before = ublk_nodes();
        let mut command = apart(&program);
        command.args(words.split(' ')).arg("--foreground");
        let kind = target.split(' ').next().unwrap_or_default();
        let name = format!("rublk-{kind}");
        let (mut server, _, err) = self.serve(&name, &mut command)?;
        let node = server.until(|| ublk_nodes().difference(&before).next().cloned());
        let node = node.ok_or_else(|| format!("rublk {words} ended: {}", last_line(&err)))?;
        undo.hold(server);
        let id = node.trim_start_matches("/dev/ublkb").to_owned();
        undo.push(move || {
            // Its own end may have done so.
            let _gone = run(apart(&program).args(["del", "-n", &id]));
            Ok(())
        });
        Ok(Disk::new(node, format!("rublk {words}"), undo))
    }

    /// A file of the disks' size on a tmpfs of its own.
    fn tmpfs_file(&self, name: &str, undo: &mut Undo) -> Result<PathBuf, String> {
        // Of its own: /tmp may lie on a disk, and a tmpfs that others fill has no room.
        let place = self.scratch.join(format!("{name}-tmpfs"));
        fs::create_dir(&place).map_err(|e| e.to_string())?;
        // A little more than the file, for what the file system itself needs.
        let size = format!("size={}M", self.plan.mib + 16);
        let source = format!("bench-{name}");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, &source])
            .arg(&place))?;
        undo.command("umount", [&place]);
        let path = place.join("disk");
        let file = File::create(&path).and_then(|file| file.set_len(self.plan.mib << 20));
        file.map_err(|e| e.to_string())?;
        Ok(path)
    }

    /// rublk on a file of a tmpfs: as much memory as a RAM disk, behind one more layer.
    fn rublk_loop(&self) -> Result<Disk, String> {
        let mut undo = Undo::default();
        let file = self.tmpfs_file("rublk", &mut undo)?;
        let file = file.to_string_lossy();
        let mut disk = self.rublk(&["loop", "-f", &file], undo)?;
        // The folder is of this run alone.
        disk.how = disk.how.replace(&*file, "DISK") + " (DISK: a file of a tmpfs)";
        Ok(disk)
    }

    /// The kernel's loop device on the same.
    fn kernel_loop(&self) -> Result<Disk, String> {
        let mut undo = Undo::default();
        let file = self.tmpfs_file("loop", &mut undo)?;
        let _built_in = run(Command::new("modprobe").arg("loop"));
        let node = run(Command::new("losetup")
            .args(["--show", "--find"])
            .arg(&file))?;
        let node = node.trim().to_owned();
        undo.command("losetup", ["--detach", &node]);
        Ok(Disk::new(
            node,
            "losetup on a file of a tmpfs, buffered",
            undo,
        ))
    }

    /// A compressed RAM disk of the kernel. What fio writes is random, so little is gained by
    /// compressing it.
    fn zram(&self) -> Result<Disk, String> {
        let control = Path::new("/sys/class/zram-control");
        let mut undo = Undo::default();
        // Without a disk of its own (`num_devices`): hot_add then makes one, and only that is taken away.
        if !control.is_dir() {
            load_module(&["zram", "num_devices=0"], &mut undo)?;
        }
        let id = fs::read_to_string(control.join("hot_add")).map_err(|e| e.to_string())?;
        let id = id.trim().to_owned();
        let number = id.clone();
        undo.push(move || Ok(write(&control.join("hot_remove"), &number)?));
        let sysfs = format!("/sys/block/zram{id}");
        let size = format!("{}M", self.plan.mib);
        let taken = write(&Path::new(&sysfs).join("disksize"), &size);
        taken.map_err(|_| format!("zram does not take a size of {size}"))?;
        // The file lists all, the one in use in brackets.
        let algorithms = fs::read_to_string(format!("{sysfs}/comp_algorithm")).unwrap_or_default();
        let chosen = algorithms.split(['[', ']']).nth(1).unwrap_or("unknown");
        Ok(Disk::new(
            format!("/dev/zram{id}"),
            format!("zram, algorithm {chosen}"),
            undo,
        ))
    }

    /// A server on a Unix socket, and the kernel's client with one connection per queue.
    fn nbd(&self) -> Result<Disk, String> {
        const NODE: &str = "/dev/nbd0";
        // No partitions: the kernel would read the disk for a table each time a client connects.
        run(Command::new("modprobe").args(["nbd", "max_part=0"]))?;
        let Plan { mib, queues, .. } = self.plan;
        let socket = self.scratch.join("nbd");
        let mut command = apart("nbdkit");
        command.args(["--foreground", "--unix"]).arg(&socket);
        command.args(["memory", &format!("{mib}M")]);
        let (mut server, _, err) = self.serve("nbdkit", &mut command)?;
        // nbdkit makes the socket when it can serve.
        let there = server.until(|| socket.exists().then_some(()));
        there.ok_or_else(|| format!("nbdkit ended: {}", last_line(&err)))?;
        let mut undo = Undo::default();
        undo.hold(server);
        let connections = queues.to_string();
        let mut client = Command::new("nbd-client");
        client
            .arg("-unix")
            .arg(&socket)
            .args([NODE, "-connections", &connections]);
        run(&mut client).map_err(|why| format!("nbd-client: {why}"))?;
        undo.command("nbd-client", ["-d", NODE]);
        let how = format!(
            "nbdkit memory {mib}M, nbd-client over a Unix socket with -connections {queues}"
        );
        Ok(Disk::new(NODE, how, undo))
    }

    /// The kernel's plain RAM disk. Its size is a parameter of the module, so it must not be loaded
    /// before.
    fn brd(&self) -> Result<Disk, String> {
        if Path::new("/sys/module/brd").exists() {
            return Err(
                "the module brd is loaded already and cannot be given the size of the others"
                    .into(),
            );
        }
        let mut undo = Undo::default();
        // KiB.
        let size = format!("rd_size={}", self.plan.mib << 10);
        load_module(&["brd", "rd_nr=1", &size], &mut undo)?;
        Ok(Disk::new("/dev/ram0", format!("brd rd_nr=1 {size}"), undo))
    }

    /// The kernel's null_blk with memory behind it.
    fn null_blk(&self) -> Result<Disk, String> {
        let name = format!("bench{}", std::process::id());
        let Plan {
            mib, queues, depth, ..
        } = self.plan;
        // queue_mode=2: blk-mq. irqmode=0: a request ends in the thread that submits it, without a timer.
        let settings = format!(
            "size={mib} memory_backed=1 discard=1 blocksize=512 queue_mode=2 submit_queues={queues} \
             hw_queue_depth={depth} irqmode=0"
        );
        let (node, undo) = null_blk(&name, &settings)?;
        Ok(Disk::new(node, format!("null_blk {settings}"), undo))
    }
}

/// The nodes of all ublk disks that there are.
fn ublk_nodes() -> BTreeSet<String> {
    let names = fs::read_dir("/dev").into_iter().flatten().flatten();
    let paths = names.map(|entry| entry.path().to_string_lossy().into_owned());
    paths
        .filter(|path| path.starts_with("/dev/ublkb"))
        .collect()
}

/// The last line of a log: most programs say there why they have ended.
fn last_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim()
        .lines()
        .last()
        .unwrap_or("it said nothing")
        .replace('\t', " ")
}
