// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line as its users meet it: exit status, one line on standard error, nothing on
//! standard output. These rows of L1 need no driver, for they are refused before it is asked.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// As insta's macro, without the expression: it is long, and says nothing.
macro_rules! snapshot {
    ($($what:expr),+ $(,)?) => {
        insta::with_settings!({ omit_expression => true }, {
            insta::assert_snapshot!($($what),+);
        })
    };
}

/// Runs the built program with a run directory of its own, which must not exist afterwards.
fn run(words: &[&str]) -> Output {
    let run_dir = std::env::temp_dir().join(format!(
        "ublk-cli-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let output = Command::new(env!("CARGO_BIN_EXE_ublk-ramdisk"))
        .args(words)
        .env("UBLK_RAMDISK_RUN_DIR", &run_dir)
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    assert!(!run_dir.exists(), "{words:?} left {run_dir:?} behind");
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// The words are refused with the status, and the one line, which is returned, holds every part.
fn refused(words: &[&str], status: i32, parts: &[&str]) -> String {
    let output = run(words);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{words:?}: {line}");
    assert_eq!(text(&output.stdout), "", "{words:?}");
    assert_eq!(line.lines().count(), 1, "{words:?}: {line:?}");
    assert!(line.starts_with("ublk-ramdisk: "), "{words:?}: {line:?}");
    assert!(
        !line.contains("panicked") && !line.contains("RUST_BACKTRACE"),
        "{line:?}"
    );
    for part in parts {
        assert!(line.contains(part), "{words:?}: {line:?} lacks {part:?}");
    }
    line.to_owned()
}

/// What each line is answered: refused as bad usage, in one line.
fn refusals(lines: &[&str]) -> String {
    let mut all = String::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = refused(&words, 2, &[]);
        all += &format!("{line}\n    {said}");
    }
    all
}

#[test]
fn l1_unknown_words() {
    snapshot!(refusals(&[
        "",
        "dance",
        "ad",
        "--dance",
        "add --size 1G --colour",
        "add --size 1G extra",
        "add --size 1G --size 2G",
        "del",
        "del nine/ten",
        "del --all 1",
        "stop",
        "resize 0",
        "completions",
        "completions tcsh",
        "debugfs 0 state=dance",
        "explain nonsense",
    ]));
}

#[test]
fn l1_what_was_removed_names_what_to_use() {
    snapshot!(refusals(&[
        "add --size 1M --data-path plain",
        "add --size 1M --data-path get-data",
        "add --size 1M --reclaim compress",
        "set 0 --reclaim compress",
        "sim --reclaim compress",
    ]));
}

#[test]
fn l1_sizes() {
    snapshot!(refusals(&[
        "add",
        "add --size",
        "add --size 0",
        "add --size 511",
        "add --size 4608 --block-size 4K",
        "add --size -1G",
        "add --size 1.5",
        "add --size 1Q",
        "add --size much",
        "add --size 9E",
        "add --size 9223372036854776320",
        "resize 0 0",
        "resize 0 100",
        "resize 0 -4K",
        "add --size 1M --io-buffer 0",
        "add --size 1M --io-buffer 2K",
        "add --size 1M --io-buffer 100001",
        "add --size 1M --io-buffer 33M",
        "add --size 1M --block-size 0",
        "add --size 1M --block-size 1000",
        "add --size 1M --block-size 8K",
        "add --size 1M --block-size 4K --physical-block-size 512",
        "add --size 1M --physical-block-size 512M",
        "add --size 3M --backing hugetlb",
    ]));
}

#[test]
fn l1_numbers_and_times() {
    snapshot!(refusals(&[
        "add --size 1M --queues 0",
        "add --size 1M --queues 4097",
        "add --size 1M --queues -1",
        "add --size 1M --queues 99999999999999999999",
        "add --size 1M --depth 0",
        "add --size 1M --depth x",
        "add --size 1M --id 1048576",
        "del 1048576",
        "list -1",
        "add --size 1M --timeout 0",
        "add --size 1M --timeout 3601",
        "add --size 1M --timeout 500ms",
        "add --size 1M --latency-sample 3",
        "set 0 --latency-sample 131072",
        "trace 0 --text --duration 2",
        "trace 0 --text --duration 1h",
        "trace 0 --text --records 63",
        "stats --watch 10ms",
        "top --interval 2h",
    ]));
}

#[test]
fn l1_pressure_and_faults() {
    snapshot!(refusals(&[
        "add --size 1M --slots x",
        "add --size 1M --slots 0",
        "set 0 --mbps 4294967296",
        "add --size 1M --psi some",
        "add --size 1M --psi some_1_1000000",
        "add --size 1M --rule reed:_hang",
        "set 0 --rule read:_error_EAGAIN",
        "rules 0 add read:_hang_5s",
        "add --size 1M --rules /nowhere",
        "rules 0 del",
        "rules 0 dance",
        "add --size 1M --rule a:any:hang --rule a:any:busy",
        "add --size 1M --inject requeue",
        "add --size 1M --inject requeue=",
        "add --size 1M --inject requeue=1,2,3",
        "add --size 1M --inject requeue=1,101,0,-1",
        "add --size 1M --inject requeue=1,100,0,-1",
        "add --size 1M --inject timeout=1,1,1",
        "add --size 1M --inject init_hctx=x",
        "add --size 1M --inject explode=1",
        "add --size 1M --inject delay=21s",
        "add --size 1M --inject delay=5",
        "add --size 1M --inject badblocks=9-8",
        "add --size 1M --inject delay=5us,badblocks=",
        "add --size 1M --inject timeout=1,100,0,-1,delay=5us",
        "set 0 --inject init_hctx=1,100,0,1",
    ]));
}

#[test]
fn l1_memory() {
    snapshot!(refusals(&[
        "set 0 --memory-limit 1X",
        "set 0 --no-space-timeout 121",
        "set 0 --no-space-timeout 31536001 --force",
        "set 0 --no-space-timeout 5 --error-if-no-space",
        "set 0 --no-space-timeout x",
        "add --size 1M --memory-limit 4K",
        "add --size 1M --preallocate --memory-limit 512K",
        "add --size 1M --preallocate --reclaim zero",
        "add --size 1M --reclaim on",
        "add --size 1M --reclaim off --reclaim-every 5s",
        "add --size 1M --reclaim-every 0",
    ]));
}

#[test]
fn l1_values_and_contradictions() {
    snapshot!(refusals(&[
        "add --size 1M --data-path fast",
        "add --size 1M --backing disk",
        "add --size 1M --backing tmpfs:",
        "add --size 1M --thp 1",
        "add --size 4M --backing hugetlb --thp on",
        "add --size 1M --foreground --log x",
        "add --size 1M --name ublkb7",
        "sim --id 5",
        "sim --name x",
        "sim --data-path batch",
        "add --size 1M --swap --slots 2",
        "add --size 1M --swap --rule any:hang",
        "add --size 1M --swap --memory-limit 2M",
        "add --size 1M --swap --reclaim zero",
        "add --size 1M --swap --backing memfd",
        "add --size 1M --swap --data-path buffer",
        "add --size 1M --swap --volatile-cache",
        "sim --swap",
        "add --base Cargo.toml --swap",
        "add --base src",
        "sim --base Cargo.toml",
        "power-cut 0 --on --keep all",
        "power-cut 0 --off --on",
        "power-cut 0 --keep some",
        "power-cut 0 --torn 300",
        "power-cut 0 --seed -1",
    ]));
}

#[test]
fn the_help_of_every_command() {
    for command in [
        "",
        "add",
        "del",
        "list",
        "stop",
        "recover",
        "upgrade",
        "serve",
        "resize",
        "reset",
        "save",
        "rules",
        "export",
        "unexport",
        "power-cut",
        "set",
        "stats",
        "top",
        "trace",
        "debugfs",
        "explain",
        "features",
        "doctor",
        "sim",
        "completions",
    ] {
        let words = [command, "--help"];
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let output = run(&words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert_eq!(text(&output.stderr), "", "{words:?}");
        let name = match command {
            "" => "help".to_owned(),
            command => format!("help_{command}"),
        };
        snapshot!(name, text(&output.stdout));
    }
}

#[test]
fn l1_a_backing_file_keeps_its_size() {
    let path = std::env::temp_dir().join(format!("ublk-cli-backing-{}", std::process::id()));
    let backing = format!("tmpfs:{}", path.display());
    std::fs::write(&path, vec![0; 8192]).expect("written");
    refused(
        &["add", "--size", "4096", "--backing", &backing],
        2,
        &["--size 4096", "8192"],
    );
    std::fs::write(&path, [0; 100]).expect("written");
    refused(&["add", "--backing", &backing], 2, &["100", "512"]);
    std::fs::remove_file(&path).expect("removed");
    refused(&["add", "--backing", &backing], 2, &["--size"]);
    assert!(!path.exists());
    refused(&["add", "--backing", "tmpfs:/"], 2, &["not a regular file"]);
}

#[test]
fn l1_an_absent_driver_names_module_and_option() {
    if std::path::Path::new("/dev/ublk-control").exists() {
        let ci = std::env::var("CI").unwrap_or_default();
        assert!(ci != "true" && ci != "1", "this machine has the driver");
        eprintln!("SKIP l1_an_absent_driver_names_module_and_option: the driver is here");
        return;
    }
    let parts = ["modprobe ublk_drv", "CONFIG_BLK_DEV_UBLK"];
    for line in [
        "add --size 1M",
        "add --size 1M --foreground",
        "add --size 1M --id 7",
        "del 0",
        "del --all",
        "list",
        "stop 0",
        "resize 0 1M",
        "stats 0",
        "features",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        refused(&words, 3, &parts);
    }
    let doctor = run(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(3));
    assert!(text(&doctor.stdout).contains("MISSING  driver"));
    let doctor = run(&["doctor", "--json"]);
    assert_eq!(doctor.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    assert_eq!(report["able"], false);
}

#[test]
fn help_is_on_standard_output() {
    for words in [&["-h"][..], &["--version"], &["help"], &["help", "resize"]] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert_eq!(text(&output.stderr), "", "{words:?}");
        assert!(!output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("ublk-ramdisk"), "{shell}");
    }
}

/// A folder of this test's own, gone with it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("ublk-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Place(path)
    }

    fn sim(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-ramdisk"));
        command.arg("sim").args(words).current_dir(&self.0);
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn l1_a_trace_into_a_pipe_is_written_as_a_stream() {
    let place = Place::new("stream");
    let link = place.0.join("so");
    std::os::unix::fs::symlink("/proc/self/fd/1", &link).expect("a link");
    for option in ["--trace", "--trace-text"] {
        let mut child = place
            .sim(&["--ops", "3000", option, "so"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut begin = [0; 5];
        let mut out = child.stdout.take().expect("a pipe");
        out.read_exact(&mut begin).expect("a trace");
        // The reader goes away in the middle.
        drop(out);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(text(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
        assert!(link.is_symlink(), "{option}");
    }
}

#[test]
fn l1_a_trace_into_a_fifo_ends_and_is_whole() {
    let place = Place::new("fifo");
    let fifo = place.0.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let mut child = place
        .sim(&["--ops", "100", "--trace", "fifo"])
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let trace = std::fs::read_to_string(&fifo).expect("a trace");
    assert!(trace.starts_with('{') && trace.ends_with("\n]}\n"));
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(fifo.exists());
}

#[test]
fn l1_a_link_to_nothing_is_refused_and_stays() {
    let place = Place::new("dangling");
    let link = place.0.join("link");
    std::os::unix::fs::symlink("nothing", &link).expect("a link");
    let output = place.sim(&["--ops", "10", "--trace", "link"]).output();
    let output = output.expect("the program starts");
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(
        line.contains("link to a file that does not exist"),
        "{line}"
    );
    assert!(link.is_symlink() && !place.0.join("nothing").exists());
}

/// The limit is 100 blocks of 512 or 1024 bytes, as the shell has it.
#[test]
fn l1_a_limit_on_file_sizes_is_an_error_and_no_signal() {
    let place = Place::new("limit");
    let program = env!("CARGO_BIN_EXE_ublk-ramdisk");
    for (words, status) in [
        ("--size 1M --ops 10", 3),
        ("--size 32K --ops 9000 --trace trace", 1),
    ] {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -f 100; exec {program} sim {words}"))
            .current_dir(&place.0)
            .output()
            .expect("a shell");
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{words}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains("File too large"), "{line}");
        assert!(!place.0.join("trace").exists());
    }
}

#[test]
fn l3_a_closed_pipe_is_no_panic() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_ublk-ramdisk"))
        .args(["completions", "bash"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("the program starts");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_full_disk_is_said() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_ublk-ramdisk"))
        .args(["completions", "bash"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr).lines().count(), 1);
}
