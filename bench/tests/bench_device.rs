// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bench_device` and the scripts around it, without a driver and without a
//! guest: bad input, a run with a stand-in for fio, what is left when it is
//! interrupted, and how it goes on.
//!
//! The disks are block device nodes that no driver stands behind; making them
//! takes root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bench_device");

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Another process writes the program: what this one has open for writing, a child that another test
/// has just made has open too, and such a file cannot be started.
fn make_program(path: &Path, text: &str) {
    let written = path.with_extension("text");
    fs::write(&written, text).unwrap();
    let made = Command::new("install").arg(&written).arg(path).status();
    assert!(made.unwrap().success());
}

/// Exit status and the only line of standard error.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{command:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{command:?}: {error}");
    error
}

#[test]
fn bad_input_is_refused_in_one_line_that_names_it() {
    for (words, named) in [
        ("--rw=randread,scan", "scan"),
        ("--rw=", "--rw"),
        ("--bs=3k,5", "'5'"),
        ("--bs=2m", "2m"),
        ("--iodepth=0", "0"),
        ("--iodepth=4096", "4096"),
        ("--numjobs=many", "many"),
        ("--direct=maybe", "maybe"),
        ("--verify=2", "2"),
        ("--latency-target=5", "5"),
        ("--rw=randread --verify=on", "combination"),
        ("--preset=huge", "huge"),
        ("--preset=full --bs=4k", "not both"),
        ("--only=randread-4k", "randread-4k"),
        ("--preset=verify --only=randread-4k-qd1", "none of these"),
        ("--contenders=batch,brdd", "brdd"),
        ("--bed=moon", "moon"),
        ("--repeat=0", "0"),
        ("--size=1", "1"),
        ("--size=16 --numjobs=32", "32"),
        ("--queues=65", "65"),
        ("--scale=x", "x"),
        ("--cross-check=perhaps", "perhaps"),
        ("--frobnicate", "frobnicate"),
        ("--resume", "--out"),
        ("--resume --out=/nonexistent", "/nonexistent/plan"),
    ] {
        let error = refused(Command::new(PROGRAM).arg("plan").args(words.split(' ')));
        assert!(error.contains(named), "{words}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn the_script_refuses_before_it_builds_or_makes_anything() {
    let script = project("scripts/bench-device");
    for (words, named) in [
        (&["--frobnicate"][..], "--frobnicate"),
        (&["--repeat"], "--repeat needs a value"),
        (&["--bed", "moon"], "moon"),
        (&["--resume", "/nonexistent"], "no run was begun"),
        (&["--resume", "/tmp", "--out", "/tmp"], "leave out --out"),
        (
            &["--bed", "host", "--contenders", "mine:/dev/null"],
            "/dev/null is not a block device",
        ),
        (
            &["--contenders", "batch,mine:/dev/nonexistent"],
            "/dev/nonexistent is not a block device",
        ),
    ] {
        let error = refused(Command::new(&script).args(words));
        assert!(error.contains(named), "{words:?}: {error}");
    }
    assert!(!Path::new("/dev/nonexistent").exists());
}

/// The script up to the plan, with a stand-in for cargo, for each way to say where the run is kept.
#[test]
fn the_script_says_what_it_would_measure() {
    let name = "the_script_says_what_it_would_measure";
    let place = std::env::temp_dir().join(format!("bench-device-dry-{}", std::process::id()));
    let (bin, target) = (place.join("bin"), place.join("target"));
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(target.join("release")).unwrap();
    make_program(&bin.join("cargo"), "#!/bin/sh\n");
    std::os::unix::fs::symlink(PROGRAM, target.join("release/bench_device")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let inside = project("bench-device-dry");
    for words in [None, Some(place.join("run")), Some(inside.clone())] {
        let mut script = Command::new(project("scripts/bench-device"));
        script.args(["--bed", "icount", "--contenders", "batch", "--dry-run"]);
        script.args(words.iter().flat_map(|out| [Path::new("--out"), out]));
        let output = script
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("CARGO_TARGET_DIR", &target)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.code() == Some(3) {
            assert!(std::env::var_os("CI").is_none(), "{output:?}");
            println!("SKIP {name}: this machine lacks what the script needs");
            break;
        }
        assert!(output.status.success(), "{words:?}: {output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            said.contains("of 6 jobs on 1 contenders in 2 rounds"),
            "{said}"
        );
    }
    assert!(!inside.exists(), "nothing was begun");
    fs::remove_dir_all(&place).unwrap();
}

/// A folder with two disks, a stand-in for fio, and a run.
struct Bench(PathBuf);

impl Bench {
    /// None if this machine does not let us make block device nodes.
    fn new(name: &str) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("bench-device-{name}-{}", std::process::id()));
        let bench = Self(path);
        fs::create_dir_all(bench.at("bin")).unwrap();
        for disk in ["one", "two"] {
            let made = Command::new("mknod")
                .arg(bench.at(disk))
                .args(["b", "240", "200"])
                .output();
            if !made.is_ok_and(|output| output.status.success()) {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "mknod is refused under CI"
                );
                println!("SKIP {name}: block device nodes cannot be made here");
                return None;
            }
        }
        bench.program("ours", "echo ours 1.0");
        bench.program(
            "fio",
            &format!(
                r#"[[ $1 != --version ]] || {{ echo fio-3.33; exit; }}
                for word; do
                    [[ $word != --output=* ]] || out=${{word#*=}}
                    job=${{word##*/}}
                done
                [[ -b $DISK ]] || {{ echo "no block device" >>{log}; exit 1; }}
                echo "$(basename "$DISK") $job" >>{log}
                . {behaviour}
                cp {kept} "$out""#,
                log = bench.at("log").display(),
                behaviour = bench.at("behaviour").display(),
                kept = project("bench/tests/fio/trimmix.json").display(),
            ),
        );
        bench.behave("");
        Some(bench)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let text = format!("#!/usr/bin/env bash\n{text}\n");
        make_program(&self.at("bin").join(name), &text);
    }

    /// What the stand-in does beside being there.
    fn behave(&self, text: &str) {
        fs::write(self.at("behaviour"), text).unwrap();
    }

    fn plan(&self, words: &[&str]) -> Command {
        let (one, two) = (self.at("one"), self.at("two"));
        let mut command = Command::new(PROGRAM);
        command
            .args(["plan", "--bed=host", "--repeat=2", "--commit=abc"])
            .arg("--only=randread-4k-qd1,write-64k-qd8")
            .arg(format!(
                "--contenders=one:{},two:{}",
                one.display(),
                two.display()
            ))
            .arg(format!("--out={}", self.at("run").display()))
            .args(words);
        command
    }

    fn planned(&self, words: &[&str]) {
        assert!(self.plan(words).status().unwrap().success());
    }

    fn runner(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        let path = std::env::var("PATH").unwrap();
        command
            .arg("run")
            .arg(self.at("run"))
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .arg(format!("--ours={}", self.at("bin/ours").display()))
            .arg("--libublk=none")
            .stdin(Stdio::null());
        command
    }

    fn run(&self) -> Output {
        self.runner().output().unwrap()
    }

    fn report(&self) -> (Option<i32>, String) {
        let run = self.at("run");
        let output = Command::new(PROGRAM)
            .arg("report")
            .arg(run)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    }

    /// The measured jobs that the stand-in was started for.
    fn started(&self) -> Vec<String> {
        let log = fs::read_to_string(self.at("log")).unwrap_or_default();
        let measured = |line: &&str| !line.contains("bench-fill") && !line.contains("cross-check");
        log.lines().filter(measured).map(str::to_owned).collect()
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.at("run").join(name)).unwrap_or_default()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_sample_is_taken_on_a_block_device_and_kept() {
    let Some(bench) = Bench::new("whole") else {
        return;
    };
    let fills = bench.at("fills");
    bench.behave(&format!(
        "[[ $job != bench-fill.fio ]] || echo \"$SIZE\" >>{}",
        fills.display()
    ));
    bench.planned(&["--size=64"]);
    let output = bench.run();
    assert!(output.status.success(), "{output:?}");
    // Not the whole of a disk that may have no end, as rublk's null target.
    assert_eq!(fs::read_to_string(fills).unwrap(), "64m\n64m\n");
    let job = fs::read_to_string(project("scripts/fio/bench-fill.fio")).unwrap();
    assert!(job.contains("\nsize=${SIZE}\n"), "{job}");
    let mut started = bench.started();
    assert_eq!(started.len(), 8, "{started:?}");
    started.sort();
    started.dedup();
    assert_eq!(started.len(), 4, "two disks, two jobs: {started:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("8 of 8: "), "{error}");
    let (status, text) = bench.report();
    assert_eq!(status, Some(0), "{text}");
    for part in [
        "set up        one: it was there",
        "fio           fio-3.33",
        "spread of 2, %",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("INCOMPLETE"), "{text}");
}

#[test]
fn a_disk_that_is_none_any_more_is_not_measured() {
    let Some(bench) = Bench::new("gone") else {
        return;
    };
    bench.planned(&[]);
    // What fio itself would do where there is no disk: make a plain file.
    let one = bench.at("one");
    bench.behave(&format!(
        "if [[ $DISK == {one} && $job == *.fio && $job != bench-* && $job != cross-* ]]; then rm {one}; : >{one}; fi",
        one = one.display()
    ));
    let output = bench.run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let log = fs::read_to_string(bench.at("log")).unwrap();
    assert!(
        !log.contains("no block device"),
        "fio was never started on it"
    );
    let on = |disk: &str| {
        bench
            .started()
            .iter()
            .filter(|line| line.starts_with(disk))
            .count()
    };
    assert_eq!((on("one"), on("two")), (1, 4));
    assert!(bench
        .file("failed")
        .contains("is not a block device (any more)"));
    let (status, text) = bench.report();
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("FAILED        one: "), "{text}");
}

#[test]
fn what_was_never_a_disk_is_absent_with_the_reason() {
    let Some(bench) = Bench::new("plain") else {
        return;
    };
    bench.planned(&[]);
    fs::remove_file(bench.at("two")).unwrap();
    fs::write(bench.at("two"), "").unwrap();
    assert!(bench.run().status.success());
    assert!(
        bench.file("absent").contains("two\t"),
        "{}",
        bench.file("absent")
    );
    assert_eq!(bench.started().len(), 4);
    assert_eq!(fs::read(bench.at("two")).unwrap(), b"");
    let (status, text) = bench.report();
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("absent        two: "), "{text}");
}

#[test]
fn a_sample_that_fails_is_named_and_the_others_are_taken() {
    let Some(bench) = Bench::new("failing") else {
        return;
    };
    bench.planned(&[]);
    bench.behave("[[ $DISK$job != *two*write-64k* ]] || { echo 'fio: no such luck' >&2; exit 7; }");
    assert_eq!(bench.run().status.code(), Some(1));
    let failed = bench.file("failed");
    assert_eq!(failed.lines().count(), 2, "{failed}");
    assert!(failed.contains("write-64k-qd8, round 1: fio ended with status 7: fio: no such luck"));
    let (status, text) = bench.report();
    assert_eq!(status, Some(1));
    assert!(
        text.contains("INCOMPLETE    6 samples, 2 missing"),
        "{text}"
    );
}

#[test]
fn an_interrupted_run_keeps_its_samples_and_goes_on() {
    let Some(bench) = Bench::new("interrupted") else {
        return;
    };
    bench.planned(&[]);
    // The fourth sample hangs until it is ended.
    let sign = bench.at("sign");
    bench.behave(&format!(
        "if [[ $(grep -vc -e bench-fill -e cross-check {log}) == 4 ]]; then echo $$ >{sign}; exec sleep 1000; fi",
        log = bench.at("log").display(),
        sign = sign.display()
    ));
    let mut child = bench.runner().stderr(Stdio::null()).spawn().unwrap();
    let pid = loop {
        match fs::read_to_string(&sign)
            .unwrap_or_default()
            .trim()
            .parse::<u32>()
        {
            Ok(pid) => break pid,
            Err(_) => sleep(Duration::from_millis(10)),
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
    };
    let ended = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(ended.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "its fio has ended"
    );

    let (status, text) = bench.report();
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("INCOMPLETE    3 samples, 5 missing"),
        "{text}"
    );

    // Another matrix, commit or machine is another run.
    let error = refused(&mut bench.plan(&["--resume", "--cross-check=off"]));
    assert!(error.contains("cross-check"), "{error}");
    let mut other = bench.plan(&["--resume"]);
    let error = refused(other.arg("--scale=3"));
    assert!(error.contains("scale 40, not 3"), "{error}");
    let mut without = Command::new(PROGRAM);
    let run = format!("--out={}", bench.at("run").display());
    let error = refused(without.args(["plan", "--commit=def", "--resume", &run]));
    assert!(error.contains("commit abc, not def"), "{error}");
    let error = refused(Command::new(PROGRAM).args(["plan", &run]));
    assert!(error.contains("already holds a run"), "{error}");

    // Without any option it is the same run.
    let mut again = Command::new(PROGRAM);
    again.args(["plan", "--commit=abc", "--resume", &run]);
    assert!(again.status().unwrap().success());
    bench.behave("");
    fs::remove_file(bench.at("log")).unwrap();
    assert!(bench.run().status.success());
    assert_eq!(bench.started().len(), 5);
    let (status, text) = bench.report();
    assert_eq!(status, Some(0), "{text}");
    assert!(!text.contains("INCOMPLETE"), "{text}");

    bench.program("fio", "echo fio-9.9");
    let output = bench.run();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("fio fio-3.33, here it is fio-9.9"),
        "{error}"
    );
}
