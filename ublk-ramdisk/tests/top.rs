// SPDX-License-Identifier: MIT OR Apache-2.0
//! `top` on a pseudo-terminal, and `stats --watch`, fed by a server of the test's own: no driver, no
//! root.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ublk_ramdisk::stats::{DeviceStats, KblockdStats, PoolStats, QueueStats};

const HUNG: Duration = Duration::from_secs(60);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < HUNG, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A run directory with one server in it, whose disk writes 1000 requests between two questions.
/// Others may be beside it.
struct Server {
    dir: PathBuf,
    lock: Option<File>,
    asked: Arc<AtomicU64>,
    /// Held by whoever wants no question to be answered.
    mute: Arc<Mutex<()>>,
}

impl Server {
    fn start(name: &str) -> Server {
        let dir = std::env::temp_dir().join(format!("ublk-top-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let lock = File::create(dir.join("5.lock")).expect("a file");
        lock.lock().expect("locked");
        fs::write(dir.join("5.json"), "{}").expect("a state file");
        let listener = UnixListener::bind(dir.join("5.sock")).expect("bound");
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        let mute = Arc::new(Mutex::new(()));
        let muted = mute.clone();
        std::thread::spawn(move || {
            for call in listener.incoming() {
                let mut call = call.expect("a call");
                let mut line = String::new();
                let heard = BufReader::new(&call).read_line(&mut line);
                assert!(heard.is_ok() && line.contains("\"stats\""), "{line}");
                drop(muted.lock());
                let stats = figures(count.fetch_add(1, Ordering::SeqCst));
                let answer = serde_json::json!({ "stats": stats });
                // Whoever asked may have gone.
                let _ = writeln!(call, "{answer}");
            }
        });
        Server {
            dir,
            lock: Some(lock),
            asked,
            mute,
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-ramdisk"));
        command
            .args(words)
            .env("UBLK_RAMDISK_RUN_DIR", &self.dir)
            .env("TERM", "xterm-256color");
        command
    }

    /// The lock is what says that a server lives.
    fn go_away(&mut self) {
        self.lock = None;
    }

    /// Another server beside it, which has no time for any question: it hangs up.
    fn beside(&self, id: u32) -> Busy {
        let lock = File::create(self.dir.join(format!("{id}.lock"))).expect("a file");
        lock.lock().expect("locked");
        fs::write(self.dir.join(format!("{id}.json")), "{}").expect("a state file");
        let listener = UnixListener::bind(self.dir.join(format!("{id}.sock"))).expect("bound");
        let calls = Arc::new(AtomicU64::new(0));
        let count = calls.clone();
        std::thread::spawn(move || {
            for call in listener.incoming() {
                drop(call);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Busy { _lock: lock, calls }
    }
}

struct Busy {
    _lock: File,
    calls: Arc<AtomicU64>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn figures(asked: u64) -> DeviceStats {
    let mut queue = QueueStats::default();
    queue.write.requests = asked * 1000;
    queue.write.bytes = asked * 4_096_000;
    queue.hctx.refused_by.psi = asked * 17;
    queue.hctx.refused_resource = asked * 17;
    queue.now.parked = 42;
    queue.now.ctx_lens = vec![1];
    DeviceStats {
        id: 5,
        name: None,
        size: 1 << 30,
        allocated: 1 << 20,
        data_path: "buffer".to_owned(),
        backing: "private".to_owned(),
        outlives_server: true,
        restarts: 0,
        since: None,
        pressure: Default::default(),
        space: Default::default(),
        latency_sample: 16,
        queues: vec![queue],
        kblockd: KblockdStats {
            pools: vec![PoolStats {
                cpu: Some(1),
                nice: -20,
                workers: 3,
                idle: 2,
            }],
            ..KblockdStats::default()
        },
    }
}

/// A terminal: what the program writes to it is collected.
struct Terminal {
    master: File,
    slave: OwnedFd,
    written: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(columns: u16, lines: u16) -> Terminal {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize {
            ws_row: lines,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let null = std::ptr::null_mut();
        // SAFETY: both numbers and the size outlive the call; no name and no settings are asked for.
        let made = unsafe { libc::openpty(&mut master, &mut slave, null, null.cast(), &size) };
        assert_eq!(made, 0, "a pseudo-terminal");
        // SAFETY: openpty has made both for us alone.
        let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        let written = Arc::new(Mutex::new(String::new()));
        let (mut source, sink) = (master.try_clone().expect("a file"), written.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = source.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]);
                sink.lock().expect("no panic").push_str(&text);
            }
        });
        Terminal {
            master,
            slave,
            written,
        }
    }

    fn run(&self, mut command: Command) -> Child {
        let end = || Stdio::from(self.slave.try_clone().expect("a file"));
        let command = command.stdin(end()).stdout(end()).stderr(end());
        command.spawn().expect("it starts")
    }

    fn shows(&self, text: &str) -> bool {
        self.written.lock().expect("no panic").contains(text)
    }

    fn forget(&self) {
        self.written.lock().expect("no panic").clear();
    }

    fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("typed");
    }

    fn stty(&self, words: &[&str]) -> String {
        let name = fs::read_link(format!("/proc/self/fd/{}", self.slave.as_raw_fd()));
        let output = Command::new("stty")
            .arg("-F")
            .arg(name.expect("a name"))
            .args(words)
            .output()
            .expect("coreutils have stty");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Has it ended, without waiting for it?
fn is_over(child: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()));
    stat.is_ok_and(|stat| stat.contains(") Z "))
}

fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("the program's end", || {
        status = child.try_wait().expect("a child");
        status.is_some()
    });
    status.expect("it has ended")
}

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// Runs `top`, has it draw, does `end`, and looks whether the terminal is as it was.
fn top_ends(
    name: &str,
    end: impl FnOnce(&mut Terminal, &Child, &mut Server),
) -> (ExitStatus, Terminal) {
    let mut server = Server::start(name);
    let mut terminal = Terminal::open(80, 24);
    let before = terminal.stty(&["-g"]);
    let words = ["top", "--id", "5", "--interval", "0.1"];
    let mut child = terminal.run(server.command(&words));
    until("the first picture", || terminal.shows("ublkb5"));
    assert!(terminal.shows(ENTER));
    assert_ne!(terminal.stty(&["-g"]), before, "raw mode");
    until("rates", || server.asked.load(Ordering::SeqCst) > 3);
    end(&mut terminal, &child, &mut server);
    let status = ended(&mut child);
    until("the old screen", || {
        terminal.shows(LEAVE) && terminal.shows(SHOW_CURSOR)
    });
    assert_eq!(terminal.stty(&["-g"]), before, "the terminal is as it was");
    (status, terminal)
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: it is our own child, and not yet waited for.
    let sent = unsafe { libc::kill(child.id() as i32, signal) };
    assert_eq!(sent, 0);
}

#[test]
fn k05_top_shows_the_disk_and_ends_with_q() {
    let (status, _) = top_ends("q", |terminal, _, _| {
        for part in ["42", "psi", "kblockd", "cpu1:1/3", "rescuer", "latency"] {
            until(part, || terminal.shows(part));
        }
        terminal.type_in("jk q");
    });
    assert_eq!(status.code(), Some(0));
}

#[test]
fn k05_top_follows_the_size_of_its_terminal() {
    let (status, _) = top_ends("size", |terminal, child, _| {
        // Before the size changes: the next picture, which comes by itself, may be the whole one.
        terminal.forget();
        terminal.stty(&["rows", "10", "cols", "40"]);
        signal(child, libc::SIGWINCH);
        // The whole picture is drawn anew.
        until("another picture", || terminal.shows("ublk-ramdisk top"));
        // The picture may be an earlier one's, and a key that comes together with the signal be lost
        // to it: who sits there presses it again.
        until("an end", || {
            terminal.type_in("\x1b");
            is_over(child)
        });
    });
    assert_eq!(status.code(), Some(0));
}

/// As a serial line does.
#[test]
fn k05_top_draws_on_a_terminal_without_a_size() {
    let server = Server::start("no-size");
    let mut terminal = Terminal::open(0, 0);
    let mut child = terminal.run(server.command(&["top", "--id", "5"]));
    until("the first picture", || terminal.shows("ublkb5"));
    terminal.type_in("q");
    assert_eq!(ended(&mut child).code(), Some(0));
}

#[test]
fn k05_the_terminal_is_given_back_after_a_signal() {
    for (name, number) in [
        ("term", libc::SIGTERM),
        ("hup", libc::SIGHUP),
        ("int", libc::SIGINT),
    ] {
        let (status, _) = top_ends(name, |_, child, _| signal(child, number));
        assert_eq!(status.code(), Some(0), "{name}");
    }
}

#[test]
fn k05_the_terminal_is_given_back_when_the_server_goes_away() {
    let (status, terminal) = top_ends("gone", |_, _, server| server.go_away());
    assert_ne!(status.code(), Some(0));
    until("a word about it", || terminal.shows("ublk-ramdisk: "));
}

#[test]
fn k05_a_server_that_gives_no_answer_is_told_and_the_keys_work() {
    let (status, _) = top_ends("mute", |terminal, _, server| {
        let mute = server.mute.clone();
        let held = mute.lock().expect("no panic");
        until("the missing answer", || terminal.shows("NO ANSWER for"));
        terminal.forget();
        drop(held);
        until("an answer", || terminal.shows("per second"));
        let _held = mute.lock().expect("no panic");
        terminal.type_in("q");
        // It ends though its last question has no answer.
        let left = || terminal.shows(LEAVE);
        until("the old screen", left);
    });
    assert_eq!(status.code(), Some(0));
}

#[test]
fn k05_a_terminal_that_cannot_place_text_is_not_written_on() {
    let server = Server::start("dumb");
    for kind in ["dumb", ""] {
        let terminal = Terminal::open(80, 24);
        let mut command = server.command(&["top"]);
        command.env("TERM", kind);
        let mut child = terminal.run(command);
        assert_eq!(ended(&mut child).code(), Some(2), "TERM={kind}");
        until("what to do", || terminal.shows("stats --watch"));
        assert!(!terminal.shows(ENTER));
    }
}

#[test]
fn k05_without_a_terminal_top_says_what_to_do() {
    let server = Server::start("pipe");
    let output = server.command(&["top"]).stdin(Stdio::null()).output();
    let output = output.expect("it starts");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("stats --watch") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn k02_stats_watch_shows_rates_and_ends_when_nobody_reads() {
    let server = Server::start("watch");
    let words = ["stats", "5", "--watch", "0.1"];
    let mut child = server
        .command(&words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = |part: &str| {
        let mut lines = lines.by_ref().map(|line| line.expect("a line"));
        lines.find(|line| line.contains(part)).expect("a line")
    };
    // How long it was is the machine's to say.
    assert!(next("per second").starts_with("per second, over "));
    let written = next("write ");
    let rate: u64 = written
        .split_whitespace()
        .nth(2)
        .and_then(|n| n.parse().ok())
        .expect("a rate");
    assert!(
        (1..=10_000).contains(&rate),
        "1000 in 0.1 s or more: {written}"
    );
    assert!(!next("BUSY-PSI").contains("BUSY-MEMORY"), "what is zero");
    drop(lines);
    assert_eq!(ended(&mut child).code(), Some(0));
}

/// Whatever a disk does, its tables fit a terminal; what is zero is left out.
#[test]
fn k02_the_tables_of_stats() {
    let server = Server::start("tables");
    // The first answer has only zeros.
    for (name, words) in [
        ("stats_of_an_idle_disk", "stats 5"),
        ("stats", "stats 5"),
        ("stats_all", "stats 5 --all"),
        ("stats_columns", "stats 5 -o busy,Parked,P99"),
        ("stats_unknown_column", "stats 5 -o dance"),
    ] {
        let words: Vec<_> = words.split(' ').collect();
        let output = server.command(&words).output().expect("it starts");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
        if output.status.success() {
            assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        }
        insta::with_settings!({ omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }
}

/// The lines of a program's stdout and stderr as they come.
fn watching(server: &Server, words: &[&str]) -> (Child, impl FnMut(&str), Arc<Mutex<String>>) {
    let mut child = server
        .command(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut errors = child.stderr.take().expect("a pipe");
    let said = Arc::new(Mutex::new(String::new()));
    let sink = said.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = errors.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..read]);
            sink.lock().expect("no panic").push_str(&text);
        }
    });
    let next = move |part: &str| {
        let mut lines = lines.by_ref().map(|line| line.expect("a line"));
        assert!(lines.any(|line| line.contains(part)), "it ended: {part}");
    };
    (child, next, said)
}

#[test]
fn k02_stats_watch_goes_on_when_one_of_several_is_silent_or_goes_away() {
    let server = Server::start("several");
    let busy = server.beside(7);
    let (mut child, mut next, said) = watching(&server, &["stats", "--watch", "0.1"]);
    until("several pictures", || busy.calls.load(Ordering::SeqCst) > 3);
    next("ublkb5");
    let told = || said.lock().expect("no panic").clone();
    until("a word about it", || told().contains("device 7"));
    drop(busy);
    // What it has asked since then it asked of one disk.
    let before = server.asked.load(Ordering::SeqCst);
    until("more pictures", || {
        server.asked.load(Ordering::SeqCst) > before + 2
    });
    next("ublkb5");
    assert!(child.try_wait().expect("a child").is_none(), "{}", told());
    assert_eq!(told().lines().count(), 1, "said once: {}", told());
    child.kill().expect("ours");
    child.wait().expect("it has ended");
}

#[test]
fn k02_stats_watch_of_one_disk_ends_with_it() {
    let mut server = Server::start("one");
    let (mut child, mut next, said) = watching(&server, &["stats", "5", "--watch", "0.1"]);
    next("ublkb5");
    server.go_away();
    assert!(matches!(ended(&mut child).code(), Some(1 | 3)));
    let told = || said.lock().expect("no panic").clone();
    until("a word about it", || told().contains("ublk-ramdisk: "));
}

#[test]
fn k02_stats_shows_the_others_of_one_that_is_silent() {
    let server = Server::start("silent");
    let _busy = server.beside(7);
    for words in [&["stats"][..], &["stats", "--json"]] {
        let output = server.command(words).output().expect("it starts");
        let (shown, said) = (output.stdout, String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("7.sock") && said.lines().count() == 1,
            "{said}"
        );
        let shown = String::from_utf8(shown).expect("text");
        assert!(
            shown.contains("ublkb5") || shown.contains("\"id\": 5"),
            "{shown}"
        );
    }
}
