// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line as its users meet it: exit status, one line on standard error, nothing on
//! standard output. These rows of L1 need no driver, for they are refused before it is asked.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

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
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    assert!(!run_dir.exists(), "{words:?} left {run_dir:?} behind");
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// The words are refused with the status, and the one line holds every part.
fn refused(words: &[&str], status: i32, parts: &[&str]) {
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
}

fn bad_usage(line: &str, parts: &[&str]) {
    let words: Vec<&str> = line.split_whitespace().collect();
    refused(&words, 2, parts);
}

#[test]
fn l1_unknown_words() {
    bad_usage("", &["add", "doctor"]);
    bad_usage("dance", &["dance"]);
    bad_usage("ad", &["ad"]);
    bad_usage("--dance", &["--dance"]);
    bad_usage("add --size 1G --colour", &["--colour"]);
    bad_usage("add --size 1G extra", &["extra"]);
    bad_usage("add --size 1G --size 2G", &["--size"]);
    bad_usage("del", &["ID"]);
    bad_usage("del nine", &["nine", "/dev/ublkbN"]);
    bad_usage("stop", &["ID"]);
    bad_usage("resize 0", &["SIZE"]);
    bad_usage("completions", &["SHELL"]);
    bad_usage("poke 0 run", &["poke", "debugfs ID state=run"]);
    bad_usage("debugfs 0 state=dance", &["state=dance", "state=kick"]);
    bad_usage("explain nonsense", &["nonsense", "explain"]);
}

#[test]
fn l1_sizes() {
    bad_usage("add", &["--size"]);
    bad_usage("add --size", &["--size"]);
    bad_usage("add --size 0", &["--size 0"]);
    bad_usage("add --size 511", &["--size 511", "512"]);
    bad_usage("add --size 4608 --block-size 4K", &["--size 4608", "4096"]);
    bad_usage("add --size -1G", &["--size", "-1G", "512M"]);
    bad_usage("add --size 1.5G", &["--size", "1.5G", "512M"]);
    bad_usage("add --size 1GB", &["--size", "1GB", "512M"]);
    bad_usage("add --size 1Q", &["--size", "1Q", "512M"]);
    bad_usage("add --size much", &["--size", "much", "512M"]);
    bad_usage("add --size 9E", &["--size", "2^63"]);
    bad_usage("add --size 9223372036854776320", &["--size", "2^63"]);
    bad_usage("resize 0 0", &["SIZE 0"]);
    bad_usage("resize 0 100", &["SIZE 100", "512"]);
    bad_usage("resize 0 -4K", &["SIZE", "-4K", "512M"]);
}

#[test]
fn l1_counts() {
    bad_usage("add --size 1M --queues 0", &["--queues 0", "1..=4096"]);
    bad_usage(
        "add --size 1M --queues 4097",
        &["--queues 4097", "1..=4096"],
    );
    bad_usage(
        "add --size 1M --queues -1",
        &["--queues", "-1", "whole number"],
    );
    bad_usage("add --size 1M --queues 65537", &["--queues 65537"]);
    bad_usage("add --size 1M --depth 0", &["--depth 0", "1..=4096"]);
    bad_usage("add --size 1M --depth 4097", &["--depth 4097", "1..=4096"]);
    bad_usage("add --size 1M --depth x", &["--depth", "x", "whole number"]);
}

#[test]
fn l1_buffers_and_blocks() {
    bad_usage("add --size 1M --io-buffer 0", &["--io-buffer 0"]);
    bad_usage("add --size 1M --io-buffer 2K", &["--io-buffer 2048"]);
    bad_usage("add --size 1M --io-buffer 100001", &["--io-buffer 100001"]);
    bad_usage("add --size 1M --io-buffer 33M", &["--io-buffer", "32 MiB"]);
    for size in ["0", "256", "1000", "8K"] {
        bad_usage(
            &format!("add --size 1M --block-size {size}"),
            &["--block-size", "4096"],
        );
    }
    bad_usage(
        "add --size 1M --block-size 4K --physical-block-size 512",
        &["--physical-block-size 512", "--block-size 4096"],
    );
    bad_usage(
        "add --size 1M --physical-block-size 512M",
        &["--physical-block-size", "256 MiB"],
    );
}

#[test]
fn l1_injection() {
    for fault in ["requeue=", "requeue=1,2,3", "timeout=1,1,1", "init_hctx=x"] {
        bad_usage(
            &format!("add --size 1M --inject {fault}"),
            &["--inject", fault, "INTERVAL,PROBABILITY,SPACE,TIMES"],
        );
    }
    for (fault, words) in [
        ("requeue", "requeue=, timeout="),
        ("explode=1", "requeue=, timeout="),
        ("requeue=1,101,0,-1", "0 to 100"),
        ("requeue=1,100,0,-1", "no request would ever be served"),
        ("delay=21s", "up to 20s"),
        ("delay=5m", "nanoseconds"),
        ("badblocks=9-8", "START-END"),
        ("delay=5us,badblocks=", "START-END"),
    ] {
        bad_usage(
            &format!("add --size 1M --inject {fault}"),
            &["--inject", words],
        );
    }
    bad_usage(
        "add --size 1M --inject timeout=1,100,0,-1,delay=5us",
        &["--inject delay", "--inject timeout"],
    );
    bad_usage(
        "set 0 --inject init_hctx=1,100,0,1",
        &["--inject init_hctx", "running disk", "add"],
    );
}

#[test]
fn l1_pressure() {
    for option in ["--slots", "--mbps"] {
        for value in ["x", "-1", "4294967296"] {
            bad_usage(
                &format!("add --size 1M {option} {value}"),
                &[option, value, "or off"],
            );
        }
        for verb in ["add --size 1M", "set 0"] {
            bad_usage(
                &format!("{verb} {option} 0"),
                &[option, "no request would ever be served"],
            );
        }
    }
    for trigger in ["some", "some:1:2", "some_1_1000000"] {
        bad_usage(
            &format!("add --size 1M --psi {trigger}"),
            &["--psi", trigger, "STALL WINDOW"],
        );
    }
    for seconds in ["0", "3601"] {
        bad_usage(
            &format!("add --size 1M --timeout {seconds}"),
            &["--timeout", seconds, "1..=3600"],
        );
    }
}

#[test]
fn l1_timed_requests() {
    for verb in ["add --size 1M", "set 0"] {
        for value in ["3", "-1", "131072", "x"] {
            bad_usage(
                &format!("{verb} --latency-sample {value}"),
                &["--latency-sample", value, "power of two up to 65536"],
            );
        }
    }
}

#[test]
fn l1_memory_of_a_running_disk() {
    for value in ["x", "-1", "1X"] {
        bad_usage(
            &format!("set 0 --memory-limit {value}"),
            &["--memory-limit", value, "or off"],
        );
    }
    bad_usage(
        "set 0 --no-space-timeout 121",
        &["--no-space-timeout 121", "--force"],
    );
    bad_usage(
        "set 0 --no-space-timeout 31536001 --force",
        &["--no-space-timeout", "a year"],
    );
    bad_usage(
        "set 0 --no-space-timeout 5 --error-if-no-space",
        &["--no-space-timeout 5", "--error-if-no-space"],
    );
    bad_usage("set 0 --no-space-timeout x", &["--no-space-timeout", "x"]);
}

#[test]
fn l1_compression_is_gone_and_names_zram() {
    for command in ["add --size 1M", "set 0", "sim"] {
        bad_usage(
            &format!("{command} --reclaim compress"),
            &["--reclaim", "removed", "zram"],
        );
        for idle in ["--compress-idle 5s", "--compress-idle"] {
            let parts = ["--compress-idle", "removed", "zram"];
            bad_usage(&format!("{command} {idle}"), &parts);
        }
    }
    refused(
        &["sim", "--at", "1s:set reclaim=compress"],
        2,
        &["removed", "zram"],
    );
    bad_usage(
        "add --size 1M --reclaim on",
        &["--reclaim", "on", "off or zero"],
    );
}

#[test]
fn l1_ids() {
    bad_usage("add --size 1M --id 1048576", &["--id 1048576", "1048575"]);
    bad_usage("del 1048576", &["1048576", "1048575"]);
    bad_usage("list -1", &["-1"]);
}

#[test]
fn l1_contradictions_name_both() {
    bad_usage(
        "add --size 4M --backing hugetlb --thp on",
        &["--backing hugetlb", "--thp on"],
    );
    bad_usage(
        "add --size 3M --backing hugetlb",
        &["--backing hugetlb", "2 MiB"],
    );
    bad_usage(
        "add --size 1M --foreground --log x",
        &["--foreground", "--log"],
    );
    bad_usage("del --all 1", &["--all"]);
}

#[test]
fn l1_values_outside_a_list() {
    bad_usage(
        "add --size 1M --data-path fast",
        &["--data-path", "fast", "batch"],
    );
    bad_usage(
        "add --size 1M --backing disk",
        &["--backing", "disk", "tmpfs:PATH"],
    );
    bad_usage("add --size 1M --thp 1", &["--thp", "on or off"]);
    bad_usage("completions tcsh", &["tcsh", "bash"]);
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
    for words in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["help"],
        &["add", "--help"],
        &["help", "resize"],
    ] {
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
