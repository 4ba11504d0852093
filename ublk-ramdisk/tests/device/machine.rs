// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine as the tests see it: what the kernel offers, what of ours is on it, and a scratch
//! folder for everything they write.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::run::{self, PROGRAM};

/// How long a test waits for a sign before it is called hung. Nothing is timed by it.
const HUNG: Duration = Duration::from_secs(60);

/// Is there a driver to test against, and may this process use it? If not, why not.
pub fn driver() -> Result<(), String> {
    let node = "/dev/ublk-control";
    match fs::File::options().read(true).write(true).open(node) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err("no ublk driver here".to_owned())
        }
        Err(error) => Err(format!("{node} cannot be used: {error}")),
    }
}

/// The running kernel's release.
pub fn kernel() -> String {
    read("/proc/sys/kernel/osrelease")
}

/// A small file's text, without the line end; empty where there is none.
pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// A folder of this run alone.
pub fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<PathBuf> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        let name = format!("ublk-device-tests-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a scratch folder");
        path
    })
}

/// Removes the scratch folder.
pub fn remove_scratch() {
    let _ = fs::remove_dir_all(scratch());
}

/// A fresh path on a tmpfs, for a backing file.
pub fn tmpfs_path(name: &str) -> String {
    format!("/dev/shm/ublk-device-tests-{}-{name}", std::process::id())
}

/// Where the program keeps its state during the tests.
pub fn run_dir() -> PathBuf {
    scratch().join("run")
}

/// A fresh log file for one server.
pub fn log_path() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    scratch().join(format!("server-{number}.log"))
}

fn logs() -> Vec<PathBuf> {
    let entries = fs::read_dir(scratch()).into_iter().flatten().flatten();
    let mut logs: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    logs.sort();
    logs
}

/// The last words of the servers of this test.
pub fn server_logs() -> String {
    let mut text = String::new();
    for log in logs().iter().rev().take(3) {
        let lines = read(log);
        let lines: Vec<&str> = lines.lines().collect();
        for line in &lines[lines.len().saturating_sub(15)..] {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

/// Removes the logs of a test.
pub fn forget_logs() {
    for log in logs() {
        let _ = fs::remove_file(log);
    }
}

/// Does the driver offer the feature of this name?
pub fn offers(feature: &str) -> bool {
    static FEATURES: OnceLock<BTreeSet<String>> = OnceLock::new();
    FEATURES
        .get_or_init(|| {
            let text = run::ublk(&["features", "--json"]).well();
            let rows: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
            rows.iter()
                .filter(|row| row["offered"] == true)
                .map(|row| row["name"].as_str().expect("a name").to_owned())
                .collect()
        })
        .contains(feature)
}

/// The data paths this kernel can do.
pub fn data_paths() -> Vec<&'static str> {
    [
        ("buffer", None),
        ("user-copy", Some("USER_COPY")),
        ("batch", Some("BATCH_IO")),
    ]
    .into_iter()
    .filter(|(_, feature)| feature.is_none_or(offers))
    .map(|(path, _)| path)
    .collect()
}

/// The elevators that every path is tested under (H12).
pub const ELEVATORS: [&str; 2] = ["none", "mq-deadline"];

/// Every data path of this kernel under every elevator, and one queue or two: each path and each
/// elevator meets both.
pub fn paths_and_elevators() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut all = Vec::new();
    for (number, path) in data_paths().into_iter().enumerate() {
        for (turn, elevator) in ELEVATORS.into_iter().enumerate() {
            all.push((path, elevator, ["1", "2"][(number + turn) % 2]));
        }
    }
    all
}

/// Waits for a sign; fails loudly when it does not come.
#[track_caller]
pub fn wait_for(what: &str, mut sign: impl FnMut() -> bool) {
    let deadline = Instant::now() + HUNG;
    while !sign() {
        assert!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            HUNG.as_secs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes that run the program under test.
pub fn servers() -> BTreeSet<u32> {
    let program = fs::canonicalize(PROGRAM).expect("the program is there");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program))
        .collect()
}

/// The parent of a process: of a server, its supervisor.
#[track_caller]
pub fn parent(pid: u32) -> u32 {
    let status = read(format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = line.and_then(|parent| parent.trim().parse().ok());
    parent.expect("it runs")
}

/// The folders of a process's threads, all of them: while some end, /proc may leave out others.
pub fn tasks(pid: u32) -> Vec<PathBuf> {
    let count = || {
        let status = read(format!("/proc/{pid}/status"));
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Threads:"));
        line.and_then(|count| count.trim().parse::<usize>().ok())
    };
    let mut found = Vec::new();
    wait_for("a whole list of the threads", || {
        let before = count();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        found = tasks.flatten().map(|task| task.path()).collect();
        Some(found.len()) == before && count() == before
    });
    found
}

/// The number of a process's thread of this name.
#[track_caller]
pub fn thread(pid: u32, name: &str) -> u32 {
    let mut tasks = tasks(pid).into_iter();
    let task = tasks.find(|task| read(task.join("comm")) == name);
    let task = task.expect("the thread is there");
    let id = task.file_name().and_then(|name| name.to_str());
    id.and_then(|id| id.parse().ok()).expect("a number")
}

/// Makes an instance of the kernel's tracer that does not note the names of threads: for that it would
/// change the scheduler's code while other CPUs are in it, which an emulated CPU does not always survive.
pub fn new_tracer(name: &str) -> std::io::Result<PathBuf> {
    let tracing = Path::new("/sys/kernel/tracing");
    let instance = tracing.join("instances").join(name);
    // An instance begins with the options of the whole.
    let option = tracing.join("options/record-cmd");
    let before = read(&option);
    let _ = fs::write(&option, "0");
    let made = fs::create_dir(&instance);
    let _ = fs::write(&option, before);
    made.map(|()| instance)
}

/// Where each thread of our servers waits, and every other that cannot be interrupted, for a test that
/// hangs.
pub fn where_they_wait() -> String {
    let servers = servers();
    let mut text = String::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let file = |name: &str| read(task.path().join(name));
            let is_stuck = || file("status").contains("State:\tD");
            if servers.contains(&pid) || is_stuck() {
                text.push_str(&format!("{pid} {}:\n{}\n", file("comm"), file("stack")));
            }
        }
    }
    text
}

/// True in a guest of scripts/vm, where what a test does to the machine harms nobody.
pub fn is_guest() -> bool {
    std::env::var_os("UBLK_VM").is_some()
}

/// Ends the guest, if this is one: with a thread that nothing can end it would not by itself, nor
/// could it be powered off.
pub fn end_guest() {
    if is_guest() {
        // Another process hands on what has been printed, and nothing says when it has. What is lost
        // of it is lost with a failure that is told in any case.
        std::thread::sleep(Duration::from_secs(2));
        let _ = fs::write("/proc/sysrq-trigger", "b");
    }
}

/// What of ours, or of ublk at all, is on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    servers: BTreeSet<u32>,
    nodes: BTreeSet<String>,
    run_dir: BTreeSet<String>,
    shm: BTreeSet<String>,
    mounts: usize,
}

/// Is there anything of device `id` in /dev?
pub fn nodes_of(id: &str) -> bool {
    ["ublkb", "ublkc"]
        .iter()
        .any(|kind| Path::new("/dev").join(format!("{kind}{id}")).exists())
}

impl Traces {
    /// The processes among them.
    pub fn servers(&self) -> &BTreeSet<u32> {
        &self.servers
    }

    /// What is there now.
    pub fn now() -> Traces {
        let mut nodes = names("/dev", "ublk");
        nodes.extend(names("/sys/class/ublk-char", "ublk"));
        nodes.extend(names("/sys/block", "ublk"));
        Traces {
            servers: servers(),
            nodes,
            run_dir: names(run_dir(), ""),
            shm: names("/dev/shm", "ublk-device-tests"),
            mounts: read("/proc/self/mounts").lines().count(),
        }
    }

    /// The same is there now as was then; what is still on its way out is waited for.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        let deadline = Instant::now() + HUNG;
        loop {
            let now = Traces::now();
            if now == *self {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left behind: {now:?}, before {self:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn names(place: impl AsRef<Path>, prefix: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// After a failed test: takes away by force what it left, so that the next one can run.
pub fn clean_up(before: &Traces) {
    for line in read("/proc/self/mounts").lines().rev() {
        let place = line.split(' ').nth(1).unwrap_or_default();
        if Path::new(place).starts_with(scratch()) {
            run::tool(&["umount", "-l", place]);
        }
    }
    run::ublk(&["del", "--all", "--force"]);
    for name in Traces::now().nodes.difference(&before.nodes) {
        if let Some(id) = name.strip_prefix("ublkc") {
            run::ublk(&["del", "--force", id]);
        }
    }
    for pid in servers().difference(&before.servers) {
        crate::ioctl::signal(*pid, libc::SIGKILL);
    }
    for name in names("/dev/shm", "ublk-device-tests").difference(&before.shm) {
        let _ = fs::remove_file(Path::new("/dev/shm").join(name));
    }
    let _ = fs::remove_dir_all(run_dir());
}
