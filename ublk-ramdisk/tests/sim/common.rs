// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs `ublk-ramdisk sim` and reads what it prints.

use serde_json::Value;
use std::process::{Command, Output};

/// Splits at blanks, except between single quotes.
fn words(line: &str) -> Vec<String> {
    let quoted = |(n, piece): (usize, &str)| match n % 2 {
        0 => piece.split_whitespace().map(str::to_owned).collect(),
        _ => vec![piece.to_owned()],
    };
    line.split('\'').enumerate().flat_map(quoted).collect()
}

pub fn sim(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ublk-ramdisk"));
    command.arg("sim").args(words(line));
    command.output().expect("the program starts")
}

/// What a run with `--json` has printed.
#[track_caller]
pub fn figures(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one object")
}

/// Runs a simulation that ends well, and returns its figures.
#[track_caller]
pub fn run(line: &str) -> Value {
    let output = sim(&format!("{line} --json"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &said[..]), (Some(0), ""), "{line}");
    figures(&output)
}

#[track_caller]
pub fn number(value: &Value, path: &str) -> u64 {
    let found = value.pointer(path).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no number at {path} of {value}"))
}

/// The line is refused as bad usage, in one line that holds all `expected` words.
#[track_caller]
pub fn refused(line: &str, expected: &str) {
    let output = sim(line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(output.stdout.is_empty(), "{line}");
    for word in words(expected) {
        assert!(said.contains(&word), "{line}: {said:?} lacks {word:?}");
    }
}
