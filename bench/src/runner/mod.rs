// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of a run that needs the disks: makes one per contender, fills each, takes the samples that are missing, and
//! takes the disks away. Runs as root, in a guest or not.
//!
//! The folder of the run has the plan. It gets `raw/CONTENDER/JOB/ROUND.json` as fio wrote it and `ROUND.counters` beside
//! it (what kernel and server counted before and after), `setting` (what ran where), `devices` (each disk's queue),
//! `setup` (how it was made), `absent` (contenders that could not be had), `unfit` (jobs that a disk cannot do) and
//! `failed` (samples that could not be taken), each with the reason.

pub mod disks;

pub mod pressure;

pub mod process;

use crate::contender::Contender;
use crate::matrix::Job;
use crate::plan::{Plan, Step};
use crate::run::{pairs, CROSS_CHECK};
use disks::{write, Disk, Maker};
use pressure::{press, Beside, Group};
use process::{apart, run, Outcome, Stop, Waiter};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The programs of the contenders, or why there is none.
pub struct Programs {
    /// `ublk-ramdisk`.
    pub ours: PathBuf,
    /// `libublk_ramdisk`.
    pub libublk: PathBuf,
    /// The example of libublk.
    pub example: Result<PathBuf, String>,
    /// `rublk`.
    pub rublk: Result<PathBuf, String>,
}

/// Why a run ends early.
#[derive(Debug)]
pub enum RunEnd {
    /// A signal asked for it.
    Stopped(Stop),
    /// The folder was begun on another machine.
    Another(String),
    /// Something went wrong on the way.
    Failed(String),
}

impl From<Stop> for RunEnd {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

impl From<String> for RunEnd {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// Prints a line about the progress of the run.
pub fn note(text: &str) {
    eprintln!("bench-device: {text}");
}

/// The loads that are not of the plan, as files for fio.
pub struct FioJobs {
    folder: PathBuf,
    size: String,
}

const JOBS: [(&str, &str); 4] = [
    (
        "bench-fill.fio",
        include_str!("../../../scripts/fio/bench-fill.fio"),
    ),
    (
        "bench-holes.fio",
        include_str!("../../../scripts/fio/bench-holes.fio"),
    ),
    (
        "bench-discards.fio",
        include_str!("../../../scripts/fio/bench-discards.fio"),
    ),
    (
        "cross-check.fio",
        include_str!("../../../scripts/fio/cross-check.fio"),
    ),
];

impl FioJobs {
    fn new(folder: &Path, mib: u64) -> Result<Self, String> {
        for (name, text) in JOBS {
            write(&folder.join(name), text)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            size: format!("{mib}m"),
        })
    }

    fn on(&self, disk: &Disk) -> Command {
        let mut fio = apart("fio");
        fio.env("DISK", &disk.node).env("SIZE", &self.size);
        fio
    }

    /// fio with one of these loads; its output is not kept.
    pub fn fio(&self, name: &str, disk: &Disk) -> Command {
        let mut fio = self.on(disk);
        fio.arg(format!("--output={}", self.folder.join("out").display()));
        fio.arg(self.folder.join(name));
        fio
    }
}

/// A contender with its disk.
struct Seat<'a> {
    who: &'a Contender,
    name: String,
    disk: Disk,
    /// Something has happened to the disk; it stays until the end, and nothing is measured on it.
    out: bool,
}

/// The seats; the disk that was made last is taken away first.
struct Seats<'a>(Vec<Seat<'a>>);

impl Drop for Seats<'_> {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// A folder that is gone after the run.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("bench-device-{}.run", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is in the folder for that.
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

/// A file of the kernel's that has its former value again after the run.
struct Former(PathBuf, String);

impl Former {
    fn set(path: &str, value: &str) -> Option<Self> {
        let former = fs::read_to_string(path).ok()?;
        write(Path::new(path), value).ok()?;
        Some(Self(path.into(), former))
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        let _as_it_is = write(&self.0, &self.1);
    }
}

/// A run in its folder.
struct Runner<'a> {
    folder: &'a Path,
    plan: &'a Plan,
    programs: &'a Programs,
    waiter: Waiter,
    jobs: FioJobs,
    scratch: &'a Path,
    failed: bool,
}

/// Takes what is missing of a run. False if samples failed.
pub fn take(folder: &Path, plan: &Plan, programs: &Programs) -> Result<bool, RunEnd> {
    let scratch = Scratch::new()?;
    let mut runner = Runner {
        folder,
        plan,
        programs,
        waiter: Waiter::new().map_err(|e| e.to_string())?,
        jobs: FioJobs::new(&scratch.0, plan.mib)?,
        scratch: &scratch.0,
        failed: false,
    };
    runner.keep_setting()?;
    let _driver = (!Path::new("/dev/ublk-control").exists())
        .then(|| run(Command::new("modprobe").arg("ublk_drv")));
    // The scheduler would group by session: at one request at a time that alone costs a twentieth.
    let own = plan.contenders.iter().any(|who| who.node.is_none());
    let _autogroup = own.then(|| Former::set("/proc/sys/kernel/sched_autogroup_enabled", "0"));
    let mut seats = runner.seats()?;
    if seats.0.is_empty() {
        return Err(RunEnd::Failed("no contender takes part".into()));
    }
    for seat in &mut seats.0 {
        note(&format!("filling {}", seat.name));
        runner.fill(seat)?;
    }
    let mut group = None;
    runner.press_all(&mut seats, &mut group)?;
    if plan.cross_check {
        for seat in seats.0.iter_mut().filter(|seat| !seat.out) {
            note(&format!("counting on {}", seat.name));
            runner.count(seat, group.as_ref())?;
        }
    }
    runner.measure_all(&mut seats, group.as_ref())?;
    Ok(!runner.failed)
}

impl<'a> Runner<'a> {
    /// Adds a line to a file of the folder.
    fn add(&self, file: &str, name: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(file);
        let opened = File::options().create(true).append(true).open(&path);
        let written = opened.and_then(|mut file| writeln!(file, "{name}\t{text}"));
        written.map_err(|e| format!("{}: {e}", path.display()))
    }

    fn absent(&self, name: &str, why: &str) -> Result<(), String> {
        note(&format!("{name} does not take part: {why}"));
        self.add("absent", name, why)
    }

    fn fail(&mut self, name: &str, job: &str, round: u32, why: &str) -> Result<(), String> {
        note(&format!("{name}, {job}, round {round}: {why}"));
        self.failed = true;
        self.add("failed", name, &format!("{job}, round {round}: {why}"))
    }

    /// Writes what runs where. Samples of two machines are not put into one run.
    fn keep_setting(&self) -> Result<(), RunEnd> {
        let path = self.folder.join("setting");
        let was = pairs(&path).map_err(|e| e.to_string())?;
        let now = setting(self.programs)?;
        for name in ["kernel", "cpu", "cpus", "fio"] {
            let of = |pairs: &[(String, String)]| {
                let found = pairs.iter().find(|pair| pair.0 == name);
                found.map(|pair| pair.1.clone()).unwrap_or_default()
            };
            let (was, now) = (of(&was), of(&now));
            if path.exists() && was != now {
                return Err(RunEnd::Another(format!(
                    "the run was begun with {name} {was}, here it is {now}; name another folder with --out"
                )));
            }
        }
        let lines: String = now
            .iter()
            .map(|(name, value)| format!("{name}\t{value}\n"))
            .collect();
        write(&path, &lines)?;
        for file in ["devices", "setup", "absent", "unfit", "failed"] {
            write(&self.folder.join(file), "")?;
        }
        fs::create_dir_all(self.folder.join("raw")).map_err(|e| RunEnd::Failed(e.to_string()))
    }

    /// Makes all disks.
    fn seats(&self) -> Result<Seats<'a>, RunEnd> {
        let maker = Maker {
            plan: self.plan,
            programs: self.programs,
            scratch: self.scratch,
        };
        let mut seats = Seats(Vec::new());
        for who in &self.plan.contenders {
            let name = who.name();
            let made = maker.make(who);
            // A signal waits until it is known how to take the disk away.
            self.waiter.look()?;
            match made {
                Ok(disk) if !disk.is_there() => {
                    self.absent(
                        &name,
                        &format!("{} is not a block device", disk.node.display()),
                    )?;
                }
                Ok(mut disk) => {
                    self.settle(&name, &mut disk)?;
                    note(&format!("{name} is {}", disk.node.display()));
                    disk.keep_udev_away();
                    let out = false;
                    seats.0.push(Seat {
                        who,
                        name,
                        disk,
                        out,
                    });
                }
                Err(why) => self.absent(&name, &why)?,
            }
        }
        Ok(seats)
    }

    /// Switches off what would measure the block layer's cleverness, and notes what the device says of its queue.
    fn settle(&self, name: &str, disk: &mut Disk) -> Result<(), String> {
        // Some have none to choose from.
        let _as_it_is = fs::write(disk.sysfs("queue/scheduler"), "none");
        let queues = fs::read_dir(disk.sysfs("mq"))
            .map_or(0, |entries| entries.flatten().filter(is_folder).count());
        let tags = disk.number("mq/0/nr_tags");
        let mut facts = format!("{} queues={queues} tags={tags}", disk.node.display());
        for file in [
            "scheduler",
            "nr_requests",
            "max_sectors_kb",
            "nomerges",
            "write_cache",
            "logical_block_size",
            "discard_max_bytes",
        ] {
            if let Some(value) = disk.says(&format!("queue/{file}")) {
                facts += &format!(" {file}={value}");
            }
        }
        self.add("devices", name, &facts)?;
        // In sectors of 512 bytes.
        let mib = disk.number("size") >> 11;
        if disk.says("size").is_some() && mib != self.plan.mib {
            disk.how += &format!(
                "; of its {mib} MiB only the first {} take part",
                self.plan.mib
            );
        }
        self.add("setup", name, &disk.how)
    }

    /// Every block of the disk is there before the first sample.
    fn fill(&mut self, seat: &mut Seat<'_>) -> Result<(), RunEnd> {
        let load = Load {
            job: "fill",
            round: 1,
            arguments: vec![self.jobs.folder.join("bench-fill.fio").into()],
            // By the clock of the bed; no pressure slows it.
            patience: Duration::from_secs(60 + self.plan.mib / 8),
            compare: false,
            writes: true,
        };
        let taken = self.measure(seat, &load, None);
        let _no_sample = fs::remove_dir_all(self.folder.join("raw").join(&seat.name).join("fill"));
        taken
    }

    fn press_all(
        &mut self,
        seats: &mut Seats<'_>,
        group: &mut Option<Group>,
    ) -> Result<(), RunEnd> {
        for seat in seats
            .0
            .iter_mut()
            .filter(|seat| !seat.out && seat.who.is_ours())
        {
            let Some((kind, _)) = &seat.who.pressure else {
                continue;
            };
            let options = seat.who.options();
            let free = seat.who.to_be_freed(self.plan.mib << 20);
            match press(&self.programs.ours, &seat.disk, kind, &options, free, group) {
                Ok(()) => {
                    seat.disk.pressed = Some(kind.clone());
                    self.add(
                        "setup",
                        &seat.name,
                        &format!("after the fill: set {}", options.join(" ")),
                    )?;
                }
                Err(why) => {
                    self.absent(&seat.name, &why)?;
                    seat.out = true;
                }
            }
            self.waiter.look()?;
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        // A sample moves some hundred MiB for each step of the scale; a disk that takes longer hangs.
        Duration::from_secs(900 * self.plan.scale)
    }

    /// A load that is there to be counted, by the tracepoints too.
    fn count(&mut self, seat: &mut Seat<'_>, group: Option<&Group>) -> Result<(), RunEnd> {
        let mut arguments: Vec<std::ffi::OsString> =
            vec!["--section=random".into(), "--section=sequential".into()];
        if seat
            .disk
            .says("queue/discard_max_bytes")
            .is_none_or(|most| most != "0")
        {
            arguments.push("--section=discards".into());
        }
        arguments.push(self.jobs.folder.join("cross-check.fio").into());
        let load = Load {
            job: CROSS_CHECK,
            round: 1,
            arguments,
            patience: self.patience(),
            compare: true,
            writes: true,
        };
        let trace = Trace::watch(&seat.disk);
        self.measure(seat, &load, group)?;
        let place = self.folder.join("raw").join(&seat.name).join(CROSS_CHECK);
        if let (Some(trace), true) = (trace, place.join("1.json").exists()) {
            write(&place.join("1.trace"), &trace.read())?;
        }
        Ok(())
    }

    /// All samples that are missing, each step said before it is taken.
    fn measure_all(&mut self, seats: &mut Seats<'_>, group: Option<&Group>) -> Result<(), RunEnd> {
        let steps = self.plan.missing(self.folder);
        let here = |seats: &Seats<'_>, step: &Step| {
            seats
                .0
                .iter()
                .any(|seat| seat.name == step.contender && !seat.out)
        };
        let sum: u64 = steps
            .iter()
            .filter(|step| here(seats, step))
            .map(|step| step.cost)
            .sum();
        let (mut done, mut told) = (0, BTreeSet::new());
        for step in &steps {
            let mut present = seats.0.iter_mut().filter(|seat| !seat.out);
            let Some(seat) = present.find(|seat| seat.name == step.contender) else {
                continue;
            };
            let job = step.job.to_string();
            eprintln!(
                "@step {done} {sum} round {}: {job} on {}",
                step.round, seat.name
            );
            done += step.cost;
            let why = seat.who.unfit(&step.job, self.plan.depth);
            if let Some(why) = why.or_else(|| cannot(&step.job, &seat.disk)) {
                if told.insert((seat.name.clone(), job.clone())) {
                    self.add("unfit", &seat.name, &format!("{job}: {why}"))?;
                }
                continue;
            }
            let load = Load {
                job: &job,
                round: step.round,
                arguments: vec![self.folder.join(format!("jobs/{job}.fio")).into()],
                patience: self.patience(),
                compare: self.plan.cross_check,
                writes: step.job.rw.writes(),
            };
            self.measure(seat, &load, group)?;
        }
        eprintln!("@step {sum} {sum} done");
        Ok(())
    }

    /// One sample, whole or not at all.
    fn measure(
        &mut self,
        seat: &mut Seat<'_>,
        load: &Load<'_>,
        group: Option<&Group>,
    ) -> Result<(), RunEnd> {
        self.waiter.look()?;
        if !seat.disk.is_there() {
            seat.out = true;
            let why = format!(
                "{} is not a block device (any more)",
                seat.disk.node.display()
            );
            return Ok(self.fail(&seat.name, load.job, load.round, &why)?);
        }
        let place = self.folder.join("raw").join(&seat.name).join(load.job);
        fs::create_dir_all(&place).map_err(|e| RunEnd::Failed(e.to_string()))?;
        let file = |end: &str| place.join(format!("{}.{end}", load.round));
        for end in ["part", "json", "counters", "trace"] {
            // Most often there is none.
            let _gone = fs::remove_file(file(end));
        }
        let kind = seat.disk.pressed.clone().unwrap_or_default();
        let ours = &self.programs.ours;
        let psi = group.filter(|_| kind == "psi");
        let mut beside = match psi {
            Some(group) => Beside::short(ours, &seat.disk, &self.jobs, group, load.writes)?,
            None => Beside::default(),
        };
        let counted = load.compare || !kind.is_empty();
        let mut counters = String::new();
        if counted {
            counters += &largest(&seat.disk);
            counters += &self.snapshot("before", seat, load.compare);
        }
        if kind == "memory" && load.writes {
            counters += "others.discard\tyes\n";
            beside = Beside::discards(&seat.disk, &self.jobs)?;
        }
        let errors = self.scratch.join("fio");
        let log = File::create(&errors).map_err(|e| RunEnd::Failed(e.to_string()))?;
        let mut fio = self.jobs.on(&seat.disk);
        fio.arg("--output-format=json");
        fio.arg(format!("--output={}", file("part").display()));
        fio.args(&load.arguments)
            .stdout(std::process::Stdio::null())
            .stderr(log);
        let child = fio.spawn().map_err(|e| format!("fio: {e}"))?;
        let outcome = self.waiter.wait(child, load.patience)?;
        drop(beside);
        let why = match outcome {
            Outcome::Ended(status) if status.success() => None,
            Outcome::Ended(status) => {
                let status = status
                    .code()
                    .map_or_else(|| status.to_string(), |code| format!("status {code}"));
                let said =
                    [errors, file("part")].map(|path| fs::read_to_string(path).unwrap_or_default());
                let said = said.concat();
                let word = said
                    .lines()
                    .find(|line| line.starts_with("fio: "))
                    .unwrap_or_default();
                Some(format!(
                    "fio ended with {status}: {}",
                    word.replace('\t', " ")
                ))
            }
            Outcome::Late => {
                seat.out = true;
                let seconds = load.patience.as_secs();
                Some(format!(
                    "fio has not ended after {seconds} s; no more of this disk"
                ))
            }
        };
        if let Some(why) = why {
            let _no_sample = fs::remove_file(file("part"));
            return Ok(self.fail(&seat.name, load.job, load.round, &why)?);
        }
        if counted && !counters.is_empty() {
            counters += &self.snapshot("after", seat, load.compare);
            write(&file("counters"), &counters)?;
        }
        // Last: the sample is there when it has its name.
        fs::rename(file("part"), file("json")).map_err(|e| RunEnd::Failed(e.to_string()))
    }

    /// What kernel and server have counted. Of those under pressure the server's refusals are wanted in any case.
    fn snapshot(&self, when: &str, seat: &Seat<'_>, compare: bool) -> String {
        let Some(stat) = seat.disk.says("stat") else {
            return String::new();
        };
        let mut text = String::new();
        if compare {
            text += &format!("kernel.{when}\t{stat}\n");
        }
        if seat.who.is_ours() {
            let stats = run(apart(&self.programs.ours)
                .args(["stats", "--json"])
                .arg(&seat.disk.node));
            let stats = stats.unwrap_or_default().replace('\n', "");
            text += &format!("ours.{when}\t{stats}\n");
        }
        text
    }
}

/// What fio is to do, once.
struct Load<'a> {
    job: &'a str,
    round: u32,
    arguments: Vec<std::ffi::OsString>,
    patience: Duration,
    /// Are the counts of kernel and server kept?
    compare: bool,
    writes: bool,
}

fn is_folder(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// Why a disk cannot do a job, if so.
fn cannot(job: &Job, disk: &Disk) -> Option<String> {
    if job.rw.trims() && disk.says("queue/discard_max_bytes")? == "0" {
        return Some("the disk takes no discards".into());
    }
    let block: u64 = disk.says("queue/logical_block_size")?.parse().ok()?;
    (!job.bs.is_multiple_of(block)).then(|| format!("a block of the disk is {block} bytes"))
}

/// The largest request and discard of a disk, which decide how the kernel splits requests.
fn largest(disk: &Disk) -> String {
    let kb = disk.number("queue/max_sectors_kb");
    if kb == 0 {
        return String::new();
    }
    let kb = kb.min(disk.number("queue/max_segments") * 4);
    let discard = disk.number("queue/discard_max_bytes");
    format!("most_bytes\t{}\nmost_discard\t{discard}\n", kb << 10)
}

/// The tracepoint of ended requests, for one disk, until it is dropped.
struct Trace(PathBuf);

impl Trace {
    /// None for a disk without queues, which has no requests that could be traced, or where there are no tracepoints.
    fn watch(disk: &Disk) -> Option<Self> {
        let tracing = Path::new("/sys/kernel/tracing");
        if !disk.sysfs("mq").is_dir() || !tracing.join("instances").is_dir() {
            return None;
        }
        let numbers = disk.says("dev")?;
        let (major, minor) = numbers.split_once(':')?;
        let device = major.parse::<u64>().ok()? << 20 | minor.parse::<u64>().ok()?;
        // The names of threads are not needed: for them the kernel would change the scheduler's code while other CPUs are
        // in it, which an emulated CPU does not always survive. An instance begins with the options of the whole.
        let names = tracing.join("options/record-cmd");
        let _former = Former::set(&names.to_string_lossy(), "0");
        let folder = tracing.join(format!("instances/bench{}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let trace = Self(folder);
        let event = trace.0.join("events/block/block_rq_complete");
        let set = write(&trace.0.join("buffer_size_kb"), "8192")
            .and_then(|()| write(&event.join("filter"), &format!("dev == {device}")))
            .and_then(|()| write(&event.join("enable"), "1"));
        set.ok().map(|()| trace)
    }

    fn read(&self) -> String {
        fs::read_to_string(self.0.join("trace")).unwrap_or_default()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _gone = fs::remove_dir(&self.0);
    }
}

/// What runs where.
fn setting(programs: &Programs) -> Result<Vec<(String, String)>, String> {
    let line = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        found
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
            .unwrap_or_default()
    };
    let version =
        |program: &Path| run(apart(program).arg("--version")).map(|text| text.trim().to_owned());
    let rublk = programs
        .rublk
        .as_ref()
        .map_or_else(|_| Ok(String::new()), |path| version(path))?;
    let cpus = std::thread::available_parallelism().map_err(|e| e.to_string())?;
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let pairs = [
        ("kernel", line("/proc/sys/kernel/osrelease", "")),
        ("cpu", line("/proc/cpuinfo", "model name")),
        ("cpus", cpus.to_string()),
        ("memory", line("/proc/meminfo", "MemTotal:")),
        ("clock source", line(clock, "")),
        ("fio", version(Path::new("fio"))?),
        ("ours", version(&programs.ours)?),
        ("rublk", rublk),
    ];
    Ok(pairs.map(|(name, value)| (name.to_owned(), value)).into())
}
