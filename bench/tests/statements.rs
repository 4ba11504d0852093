// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holds the code to the numbered statements of `workqueue/doc/semantics.md` and
//! `ublk-ramdisk/doc/semantics.md`, in all three crates.
//!
//! Every code that a comment, a test name, a script or a document cites is defined there, and code
//! cites none that has been withdrawn. Every other statement is in the name of a test, or in the
//! list at the end of its file with a reason, and never in both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A statement of the workqueue (2.13) or of the disk (C16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Code {
    Workqueue(u32, u32),
    Disk(char, u32),
}

impl Code {
    /// Reads `2.13` or `C16`, and nothing else.
    fn parse(word: &str) -> Option<Self> {
        if let Some((section, number)) = word.split_once('.') {
            return Some(Self::Workqueue(digits(section)?, digits(number)?));
        }
        let letter = word
            .chars()
            .next()
            .filter(|c| matches!(c, 'A'..='M' | 'W'))?;
        Some(Self::Disk(letter, digits(&word[1..])?))
    }

    /// The part before the number, which both ends of a range share.
    fn section(self) -> Code {
        match self {
            Self::Workqueue(section, _) => Self::Workqueue(section, 0),
            Self::Disk(letter, _) => Self::Disk(letter, 0),
        }
    }

    fn number(self) -> u32 {
        let (Self::Workqueue(_, number) | Self::Disk(_, number)) = self;
        number
    }

    fn with_number(self, number: u32) -> Self {
        match self {
            Self::Workqueue(section, _) => Self::Workqueue(section, number),
            Self::Disk(letter, _) => Self::Disk(letter, number),
        }
    }

    /// All codes from `self` to `last` of the same section.
    fn to(self, last: Self) -> impl Iterator<Item = Self> {
        assert_eq!(self.section(), last.section(), "a range in one section");
        (self.number()..=last.number()).map(move |number| self.with_number(number))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workqueue(section, number) => write!(f, "{section}.{number}"),
            Self::Disk(letter, number) => write!(f, "{letter}{number}"),
        }
    }
}

/// One or two digits.
fn digits(text: &str) -> Option<u32> {
    let fits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
}

/// What a `semantics.md` says.
#[derive(Default)]
struct Specification {
    /// Each statement, and if it has been withdrawn as a whole.
    defined: BTreeMap<Code, bool>,
    /// Statements without a test.
    untested: BTreeSet<Code>,
}

impl Specification {
    fn read(&mut self, file: &str) {
        let text = fs::read_to_string(root().join(file)).expect(file);
        let (statements, list) = text
            .split_once("Statements without a test\n\n")
            .expect("a list of statements without a test");
        for line in statements.lines() {
            let Some((code, rest)) = definition(line) else {
                continue;
            };
            let withdrawn = rest.starts_with("~~") && rest.contains("~~ Withdrawn");
            let again = self.defined.insert(code, withdrawn);
            assert!(again.is_none(), "{file} defines {code} twice");
        }
        for line in list.lines().filter_map(|line| line.strip_prefix("* ")) {
            self.read_untested(line);
        }
    }

    /// Reads `2.1, 5.1 - 5.3: the reason`.
    fn read_untested(&mut self, line: &str) {
        let (codes, reason) = line.split_once(": ").expect(line);
        for part in codes.split(", ") {
            let (first, last) = part.split_once(" - ").unwrap_or((part, part));
            let (Some(first), Some(last)) = (Code::parse(first), Code::parse(last)) else {
                panic!("no list of statements: {line}");
            };
            assert!(reason.len() > 10, "a reason: {line}");
            for code in first.to(last) {
                assert!(self.untested.insert(code), "listed twice: {code}");
            }
        }
    }
}

/// The statement that a line of a `semantics.md` begins: `**2.13** ...` or `| W4 | ...`.
fn definition(line: &str) -> Option<(Code, &str)> {
    let paragraph = line.strip_prefix("**").and_then(|l| l.split_once("** "));
    let row = line.strip_prefix("| ").and_then(|l| l.split_once(" | "));
    let (code, rest) = paragraph.or(row)?;
    Some((Code::parse(code)?, rest))
}

fn specification() -> Specification {
    let mut all = Specification::default();
    all.read("workqueue/doc/semantics.md");
    all.read("ublk-ramdisk/doc/semantics.md");
    all
}

/// The statements in a test's name, which goes on after them: `s03_02_to_s03_06_...`,
/// `c10_c11_...`, `loom_w01_...`, `h3_a_discard_is_legal_and_f13_a_read_is_not`.
fn in_name(name: &str) -> Vec<Code> {
    let mut words = name.strip_prefix("loom_").unwrap_or(name).split('_');
    let mut found: Vec<Code> = Vec::new();
    let mut before = "and";
    while let Some(word) = words.next() {
        let code = match word.split_at_checked(1) {
            Some(("s", section)) => digits(section)
                .zip(words.clone().next().and_then(digits))
                .map(|(section, number)| Code::Workqueue(section, number)),
            Some((letter, _)) if letter.as_bytes()[0].is_ascii_lowercase() => {
                Code::parse(&word.to_ascii_uppercase())
            }
            _ => None,
        };
        let Some(code) = code.filter(|_| matches!(before, "and" | "to" | "code")) else {
            before = word;
            continue;
        };
        if matches!(code, Code::Workqueue(..)) {
            words.next();
        }
        match found.last() {
            Some(&first) if before == "to" => found.extend(first.to(code).skip(1)),
            _ => found.push(code),
        }
        before = "code";
    }
    if before == "code" {
        found.clear();
    }
    found
}

/// The names of tests in a source file: functions, and the names that the programs with a runner
/// of their own give their tests.
fn test_names(text: &str) -> impl Iterator<Item = &str> {
    let name_after = |rest: &'_ str| {
        rest.bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
            .count()
    };
    let after = move |mark: &'static str| {
        text.split(mark)
            .skip(1)
            .map(move |rest| &rest[..name_after(rest)])
    };
    after("fn ").chain(after("\""))
}

/// Units of numbers that look like a statement of the workqueue.
const UNITS: [&str; 12] = [
    "s", "ms", "us", "ns", "GHz", "%", "GiB", "MiB", "KiB", "times", "per", "million",
];

/// The codes that a line of prose cites. `disk` tells C16 from 2.13.
fn cited(line: &str, disk: bool) -> Vec<Code> {
    let mut found = Vec::new();
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || "._%".contains(c)));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    for (at, word) in words.iter().enumerate() {
        let word = word.trim_end_matches('.');
        let Some(code) = Code::parse(word) else {
            continue;
        };
        let is_version = at > 0 && ["Linux", "kernel", "Kernel"].contains(&words[at - 1]);
        let is_amount = words.get(at + 1).is_some_and(|next| UNITS.contains(next));
        match code {
            Code::Disk(..) if disk => found.push(code),
            Code::Workqueue(..) if !disk && !is_version && !is_amount => found.push(code),
            _ => {}
        }
    }
    found
}

/// All files below a folder, but for what is built, kept or hidden.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "runs" {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// The part of a line that may cite: a comment, or a line of Markdown without the code it defines.
fn prose(path: &Path, line: &str) -> Option<String> {
    let kind = path.extension().and_then(|kind| kind.to_str());
    let text = match kind {
        Some("rs") => line.split_once("//")?.1,
        Some("md") => definition(line).map_or(line, |(_, rest)| rest),
        None | Some("sh" | "py" | "fio") => line.split_once('#')?.1,
        _ => return None,
    };
    let licence = text.contains("SPDX-License-Identifier");
    (!licence).then(|| text.to_owned())
}

#[derive(Default)]
struct Repository {
    tested: BTreeMap<Code, String>,
    /// Each citation, with its place.
    cited: Vec<(Code, String)>,
}

impl Repository {
    fn read() -> Self {
        let mut all = Vec::new();
        for folder in ["workqueue", "ublk-ramdisk", "bench", "scripts", "doc"] {
            files(&root().join(folder), &mut all);
        }
        all.push(root().join("README.md"));
        let mut repository = Self::default();
        for path in all {
            // This file cites codes as examples.
            if !path.ends_with(file!()) {
                repository.read_file(&path);
            }
        }
        repository
    }

    fn read_file(&mut self, path: &Path) {
        let Ok(text) = fs::read_to_string(path) else {
            return;
        };
        let place = path.strip_prefix(root()).expect("a file of the workspace");
        let disk = !place.starts_with("workqueue");
        let is_markdown = path.extension().is_some_and(|kind| kind == "md");
        let mut in_fence = false;
        for (number, line) in text.lines().enumerate() {
            in_fence ^= is_markdown && line.trim_start().starts_with("```");
            let Some(prose) = prose(path, line).filter(|_| !in_fence) else {
                continue;
            };
            let place = format!("{}:{}", place.display(), number + 1);
            let codes = cited(&prose, disk).into_iter();
            self.cited.extend(codes.map(|code| (code, place.clone())));
        }
        if path.extension().is_some_and(|kind| kind == "rs") {
            for name in test_names(&text) {
                let place = format!("{}: {name}", place.display());
                let codes = in_name(name).into_iter();
                for code in codes.filter(|code| matches!(code, Code::Disk(..)) == disk) {
                    self.cited.push((code, place.clone()));
                    self.tested.insert(code, place.clone());
                }
            }
        }
    }
}

#[test]
fn every_cited_statement_is_defined() {
    let specification = specification();
    let mut wrong = Vec::new();
    for (code, place) in Repository::read().cited {
        match specification.defined.get(&code) {
            None => wrong.push(format!("{place}: {code} is not defined")),
            Some(true) if !place.contains(".md:") => {
                wrong.push(format!("{place}: {code} has been withdrawn"));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_statement_is_tested_or_listed() {
    let specification = specification();
    let tested = Repository::read().tested;
    let mut wrong = Vec::new();
    for (&code, &withdrawn) in &specification.defined {
        let listed = specification.untested.contains(&code);
        match (tested.get(&code), listed) {
            (None, false) if !withdrawn => wrong.push(format!("{code} has no test and no reason")),
            (Some(test), true) => wrong.push(format!("{code} is listed, and tested by {test}")),
            (None, true) if withdrawn => wrong.push(format!("{code} is withdrawn and listed")),
            _ => {}
        }
    }
    for code in &specification.untested {
        if !specification.defined.contains_key(code) {
            wrong.push(format!("{code} is listed and not defined"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_and_prose_are_read_as_they_are_written() {
    let codes = |text: &str| -> Vec<Code> {
        text.split(' ')
            .map(|code| Code::parse(code).expect(code))
            .collect()
    };
    for (name, expected) in [
        ("s04_13_s04_14_a_change", "4.13 4.14"),
        ("s03_02_to_s03_04_bad_flags", "3.2 3.3 3.4"),
        ("loom_w20_c26_a_freeze_meets_an_arrival", "W20 C26"),
        ("h3_a_discard_is_legal_and_f13_a_read_is_not", "H3 F13"),
        ("g15_h12_fio_verifies_on_", "G15 H12"),
    ] {
        assert_eq!(in_name(name), codes(expected), "{name}");
    }
    for name in [
        "start_names",
        "s5_is_no_name",
        "a_run_of_w1",
        "the_b6_status",
        "w0",
    ] {
        assert_eq!(in_name(name), [], "{name}");
    }
    let line = " As W4 and C16-C18 say (E10); not 0xA1, E0382, G100 or Linux 6.1. 2.13.";
    assert_eq!(cited(line, true), codes("W4 C16 C18 E10"));
    let line = " 2.13, 5.1: not 2.6.35, 0.5 ms, 1.005 or Linux 6.99; C16.";
    assert_eq!(cited(line, false), codes("2.13 5.1"));
}
