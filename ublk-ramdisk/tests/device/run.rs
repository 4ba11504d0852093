// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other programs: the one under test and those that put it to the test.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use crate::machine;
use crate::runner::Skip;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ublk-ramdisk");

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    fn from(output: Output) -> Said {
        Said {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The program ended well.
    #[track_caller]
    pub fn well(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.out
    }

    /// It was refused with this status by one line that holds every part (L1).
    #[track_caller]
    pub fn refused(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        self.has_one_line();
        assert_eq!(self.out, "", "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
    }

    /// One line on standard error that is no panic (L1, L3).
    #[track_caller]
    pub fn has_one_line(&self) {
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("ublk-ramdisk: "), "{self:?}");
        for word in ["panicked", "internal error"] {
            assert!(!self.err.contains(word), "{self:?}");
        }
    }
}

/// A command without input, in the scratch folder.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .current_dir(machine::scratch())
        .env("UBLK_RAMDISK_RUN_DIR", machine::run_dir())
        .env("LC_ALL", "C");
    // A call that a filter does not know ends the server (J14), and so the test.
    if std::env::var_os("UBLK_RAMDISK_SECCOMP").is_none() {
        command.env("UBLK_RAMDISK_SECCOMP", "kill");
    }
    command
}

/// Runs the program under test with these words.
#[track_caller]
pub fn ublk(words: &[&str]) -> Said {
    Said::from(command(PROGRAM).args(words).output().expect("it starts"))
}

/// Runs any program with these words.
#[track_caller]
pub fn tool(words: &[&str]) -> Said {
    let output = command(words[0]).args(&words[1..]).output();
    Said::from(output.unwrap_or_else(|error| panic!("{}: {error}", words[0])))
}

/// Gives a program its input.
#[track_caller]
pub fn tool_with_input(words: &[&str], input: &str) -> Said {
    let file = machine::scratch().join("input");
    std::fs::write(&file, input).expect("written");
    let output = command(words[0])
        .args(&words[1..])
        .stdin(std::fs::File::open(&file).expect("opened"))
        .output();
    Said::from(output.unwrap_or_else(|error| panic!("{}: {error}", words[0])))
}

/// Is every one of the programs installed?
pub fn need(programs: &[&str]) -> Result<(), Skip> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<_> = std::env::split_paths(&path).collect();
    for program in programs {
        if !places.iter().any(|place| place.join(program).exists()) {
            return Err(Skip(format!("{program} is not installed")));
        }
    }
    Ok(())
}
