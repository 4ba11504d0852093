// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 12.9 and 12.10: the programs wq-monitor and wq-dump, looking at the example watch_me.
//!
//! The example runs as a process of its own: this test program started once more, so that nothing
//! need be built beforehand.

#[path = "../examples/watch_me.rs"]
mod watch_me;

mod common;
use common::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

const MONITOR: &str = env!("CARGO_BIN_EXE_wq-monitor");
const DUMP: &str = env!("CARGO_BIN_EXE_wq-dump");

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let name = format!("workqueue-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The example, until dropped.
struct Watched {
    child: Child,
    folder: Folder,
}

impl Watched {
    fn start(test: &str) -> Self {
        let folder = Folder::new(test);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_example", "--nocapture"])
            .env("WORKQUEUE_TEST_EXAMPLE", folder.socket())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|l| l.unwrap().contains("watch me at ")));
        Self { child, folder }
    }

    fn ask(&self, program: &str, words: &[&str]) -> Output {
        run(program, &self.folder.socket(), words)
    }

    /// Standard output of a program that succeeds.
    fn text(&self, program: &str, words: &[&str]) -> String {
        let output = self.ask(program, words);
        assert_eq!(
            (output.status.code(), said(&output)),
            (Some(0), String::new())
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Not a test of its own: what `Watched::start` runs.
#[test]
fn the_example() {
    if let Some(path) = std::env::var_os("WORKQUEUE_TEST_EXAMPLE") {
        watch_me::live(Path::new(&path), None).unwrap();
    }
}

fn command(program: &str, socket: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--socket").arg(socket).env_remove("WQ_SOCKET");
    command
}

fn run(program: &str, socket: &Path, words: &[&str]) -> Output {
    command(program, socket).args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The program ends with this status and one line that holds all words, and prints nothing.
fn refuses(output: &Output, status: i32, words: &[&str]) {
    let line = said(output);
    assert_eq!(output.status.code(), Some(status), "{line}");
    assert_eq!(
        (line.lines().count(), output.stdout.len()),
        (1, 0),
        "{line}"
    );
    for word in words {
        assert!(line.contains(word), "{word} is missing in: {line}");
    }
}

/// The cells of a table's row.
fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let rows = table
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>());
    let mut rows = rows.filter(|cells| cells.first() == Some(&name));
    rows.next()
        .unwrap_or_else(|| panic!("no row {name} in:\n{table}"))
}

/// Waits until a queue's counters, as the monitor has them, satisfy a condition.
fn wait_for(watched: &Watched, queue: &str, condition: impl Fn(&Value) -> bool) {
    until(queue, || {
        let line = watched.text(MONITOR, &["-i", "0", "-j", queue]);
        condition(&serde_json::from_str(&line).unwrap())
    });
}

#[test]
fn s12_09_the_monitor_shows_what_the_example_does() {
    let watched = Watched::start("monitor");
    let figure = |v: &Value, key: &str| v[key].as_u64().unwrap();
    wait_for(&watched, "fetch", |v| figure(v, "cm_wakeup") > 0);
    // 0.1 s, so that the text shows it too.
    wait_for(&watched, "render", |v| {
        figure(v, "cpu_intensive") > 0 && figure(v, "cpu_time") >= 100_000
    });
    for queue in ["events", "tidy", "journal", "writeback"] {
        wait_for(&watched, queue, |v| figure(v, "completed") > 1);
    }

    let text = watched.text(MONITOR, &["--interval", "0"]);
    let titles: Vec<_> = text.lines().next().unwrap().split_whitespace().collect();
    let columns = [
        "total", "infl", "CPUtime", "CPUitsv", "CMW/RPR", "mayday", "rescued",
    ];
    assert_eq!(titles, columns);
    for (queue, itsv, rescuer) in [
        ("events", true, false),
        ("fetch", true, false),
        ("render", true, false),
        ("tidy", false, false),
        ("journal", false, false),
        ("writeback", true, true),
    ] {
        let cells = row(&text, queue);
        assert_eq!(cells.len(), 8, "{cells:?}");
        assert!(cells[1].parse::<u64>().unwrap() > 0);
        assert_eq!(cells[4] != "-", itsv, "{cells:?}");
        assert_eq!(cells[6] != "-", rescuer, "{cells:?}");
        assert_eq!(cells[7] != "-", rescuer, "{cells:?}");
    }
    let render = row(&text, "render");
    assert!(
        render[3].parse::<f64>().unwrap() >= 0.1 && render[4] != "0",
        "{render:?}"
    );
}

#[test]
fn s12_09_json_interval_and_patterns() {
    let watched = Watched::start("json");
    let mut monitor = command(MONITOR, &watched.folder.socket())
        .args(["--json", "--interval", "0.01", "f*h", "writebac?"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<Value> = BufReader::new(monitor.stdout.as_mut().unwrap())
        .lines()
        .take(10)
        .map(|l| serde_json::from_str(&l.unwrap()).unwrap())
        .collect();
    let keys = [
        "cm_wakeup",
        "completed",
        "cpu_intensive",
        "cpu_time",
        "mayday",
        "mem_reclaim",
        "name",
        "repatriated",
        "rescued",
        "started",
        "timestamp",
        "unbound",
    ];
    for (n, line) in lines.iter().enumerate() {
        let object = line.as_object().unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), keys);
        assert_eq!(line["name"], ["fetch", "writeback"][n % 2]);
        assert_eq!(line["mem_reclaim"], n % 2 == 1);
        assert!(line["unbound"] == false && line["timestamp"].as_f64().unwrap() > 1.7e9);
    }
    for pair in lines.iter().step_by(2).collect::<Vec<_>>().windows(2) {
        assert!(pair[0]["timestamp"].as_f64() < pair[1]["timestamp"].as_f64());
        assert!(pair[0]["started"].as_u64() <= pair[1]["started"].as_u64());
    }
    // A reader that has had enough ends the program, and that is no error.
    drop(monitor.stdout.take());
    let output = monitor.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), said(&output)),
        (Some(0), String::new())
    );
}

#[test]
fn s12_10_the_dump_shows_pools_queues_and_rescuers() {
    let watched = Watched::start("dump");
    let mut rescuer = 0;
    until("the rescuer has begun", || {
        rescuer = row(
            watched.text(DUMP, &[]).split("Rescuers").nth(1).unwrap(),
            "writeback",
        )[1]
        .parse()
        .unwrap();
        rescuer != 0
    });
    let dump: Value = serde_json::from_str(&watched.text(DUMP, &["--json"])).unwrap();
    let list = |v: &Value| v.as_array().unwrap().clone();

    let cpus = dump["unbound_cpumask"].as_str().unwrap();
    let scopes = list(&dump["scopes"]);
    let names: Vec<_> = scopes.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["cpu", "smt", "cache", "cache_shard", "numa", "system"]
    );
    for scope in &scopes {
        assert_eq!(scope["default"], scope["name"] == "cache_shard");
        let pods = list(&scope["pod_cpus"]).len();
        assert_eq!(
            (scope["nr_pods"].as_u64(), list(&scope["pod_node"]).len()),
            (Some(pods as u64), pods)
        );
    }
    assert_eq!(scopes[5]["pod_cpus"], serde_json::json!([cpus]));

    let pools = list(&dump["pools"]);
    let pool = |id: &Value| pools.iter().find(|p| p["id"] == *id).unwrap();
    let queues = list(&dump["workqueues"]);
    let queue = |name: &str| queues.iter().find(|q| q["name"] == name).unwrap();
    for (name, kind) in [
        ("events", "percpu"),
        ("events_bh", "bh"),
        ("writeback", "percpu"),
        ("tidy", "unbound"),
        ("journal", "ordered"),
    ] {
        let q = queue(name);
        assert_eq!(q["type"], kind);
        for (cpu, id) in q["pools"].as_object().unwrap() {
            let of_cpu = pool(id)["cpu"].as_u64().map(|c| c.to_string());
            assert_eq!(
                of_cpu,
                (!["unbound", "ordered"].contains(&kind)).then(|| cpu.clone())
            );
        }
        assert!(q["pools"]
            .as_object()
            .unwrap()
            .values()
            .all(|id| pool(id)["bh"] == (kind == "bh")));
        if ["unbound", "ordered"].contains(&kind) {
            let dfl = pool(&q["dfl"]);
            assert!(dfl["cpus"] == cpus && dfl["ref"].as_u64() > Some(0) && dfl["bh"] == false);
            assert!(dfl["idle"].as_u64() <= dfl["workers"].as_u64());
        }
    }
    let limits = |q: &Value| -> Vec<u64> {
        list(&q["nodes"])
            .iter()
            .map(|n| n["max"].as_u64().unwrap())
            .collect()
    };
    assert!(limits(queue("tidy")).iter().all(|&max| max > 0));
    assert_eq!(limits(queue("journal")).last(), Some(&1));

    assert_eq!(dump["rescuers"].as_array().unwrap().len(), 1);
    let comm = format!("/proc/{}/task/{rescuer}/comm", watched.child.id());
    assert_eq!(std::fs::read_to_string(comm).unwrap(), "kworker/R-write\n");
    // While it helps a per-CPU pool out, as on a busy machine, it is on that pool's CPU.
    until("the rescuer is where it belongs", || {
        let dump: Value = serde_json::from_str(&watched.text(DUMP, &["--json"])).unwrap();
        dump["rescuers"][0]["cpus"] == cpus
    });
}

#[test]
fn s12_10_the_dump_as_text() {
    let watched = Watched::start("text");
    let text = watched.text(DUMP, &["tidy", "writeback"]);
    let titles: Vec<_> = text
        .split("\n\n")
        .map(|section| section.lines().next().unwrap())
        .collect();
    let expected = [
        "Unbound mask",
        "Affinity scopes",
        "Pools",
        "Queues and pools",
        "Rescuers",
        "Nodes",
    ];
    assert_eq!(titles, expected);
    assert!(
        text.contains("\ncache_shard (default)\n  nr_pods  "),
        "{text}"
    );
    let pool = text.lines().find(|l| l.starts_with("pool[00] ")).unwrap();
    let keys: Vec<_> = pool
        .split(' ')
        .skip(1)
        .map(|w| w.split('=').next().unwrap())
        .collect();
    assert_eq!(
        keys,
        ["flags", "ref", "nice", "idle/workers", "cpu"],
        "{pool}"
    );
    let table = text.split("Queues and pools").nth(1).unwrap();
    assert_eq!(row(table, "tidy")[1], "unbound");
    assert_eq!(row(table, "writeback")[1], "percpu");
    assert!(!text.contains("journal") && !text.contains("events"));
}

#[test]
fn s12_09_s12_10_without_a_process_to_ask_the_status_is_3() {
    let folder = Folder::new("nobody");
    let missing = folder.0.join("missing");
    let stale = folder.socket();
    drop(UnixListener::bind(&stale).unwrap());
    let file = folder.0.join("file");
    std::fs::write(&file, "").unwrap();
    for program in [MONITOR, DUMP] {
        refuses(&run(program, &missing, &[]), 3, &["there is no socket"]);
        refuses(&run(program, &stale, &[]), 3, &["no process listens at"]);
        refuses(&run(program, &file, &[]), 3, &[file.to_str().unwrap()]);
        let long = PathBuf::from("/".to_owned() + &"x".repeat(200));
        refuses(&run(program, &long, &[]), 3, &["cannot connect to"]);
    }
}

#[test]
fn s12_09_s12_10_bad_usage() {
    let nowhere = Path::new("/nowhere");
    for program in [MONITOR, DUMP] {
        refuses(&run(program, nowhere, &["--jsn"]), 2, &["--jsn", "--help"]);
        let bare = Command::new(program).env_remove("WQ_SOCKET").output();
        refuses(&bare.unwrap(), 2, &["--socket"]);
        let elsewhere = Command::new(program).env("WQ_SOCKET", nowhere).output();
        refuses(&elsewhere.unwrap(), 3, &["there is no socket /nowhere"]);
        let help = Command::new(program).arg("--help").output().unwrap();
        assert_eq!(help.status.code(), Some(0));
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(
            help.contains("Exit status:") && help.contains("PATTERN"),
            "{help}"
        );
    }
    for bad in ["-1", "x", ""] {
        let word = format!("--interval={bad}");
        refuses(&run(MONITOR, nowhere, &[&word]), 2, &["--interval"]);
    }
}

/// A monitor that has printed its first line.
fn watching(watched: &Watched) -> (Child, BufReader<ChildStdout>) {
    let mut monitor = command(MONITOR, &watched.folder.socket())
        .args(["-j", "-i", "0.01", "events"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(monitor.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    (monitor, out)
}

#[test]
fn s12_09_the_monitor_ends_when_the_process_does() {
    let mut watched = Watched::start("gone");
    let (monitor, mut out) = watching(&watched);
    watched.kill();
    out.read_to_end(&mut Vec::new()).unwrap();
    let output = monitor.wait_with_output().unwrap();
    // Between two readings, or in the middle of one.
    refuses(&output, 1, &["the process behind"]);
    assert!(said(&output).contains("has ended") || said(&output).contains("gave no answer"));
    // The socket that is left behind is told from one that was never there.
    refuses(&watched.ask(MONITOR, &[]), 3, &["no process listens at"]);
}

/// A server that sends these bytes to every client.
fn answering(folder: &Folder, answer: &'static [u8]) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(folder.socket()).unwrap();
    std::thread::spawn(move || {
        for _ in 0..2 {
            let (caller, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&caller).read_line(&mut request).unwrap();
            (&caller).write_all(answer).unwrap();
        }
    })
}

#[test]
fn s12_09_s12_10_a_wrong_reply_is_an_error() {
    for (answer, words) in [
        (&b""[..], "it closed the connection"),
        (b"hello\n", "gave no answer"),
        (b"{\"error\":\"not today\"}\n", "not today"),
        (
            b"{\"sample\":{\"timestamp\":1,\"queues\":",
            "it closed the connection",
        ),
    ] {
        let folder = Folder::new("nonsense");
        let other = answering(&folder, answer);
        for program in [MONITOR, DUMP] {
            refuses(&run(program, &folder.socket(), &[]), 1, &[words]);
        }
        other.join().unwrap();
    }
    let folder = Folder::new("other");
    let sample = b"{\"sample\":{\"timestamp\":1,\"queues\":[]}}\n";
    let other = answering(&folder, sample);
    refuses(&run(DUMP, &folder.socket(), &[]), 1, &["another question"]);
    let once = run(MONITOR, &folder.socket(), &["-i", "0"]);
    assert_eq!(once.status.code(), Some(0));
    other.join().unwrap();
}
