// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every numbered statement of the specification is held by a test that is named after it, or
//! stands in the README among those that are not, with the reason. Never in both.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

type Statement = (u32, u32);

/// How many statements each section has.
const SECTIONS: [(u32, u32); 14] = [
    (1, 13),
    (2, 22),
    (3, 10),
    (4, 18),
    (5, 27),
    (6, 12),
    (7, 17),
    (8, 10),
    (9, 10),
    (10, 17),
    (11, 13),
    (12, 10),
    (13, 13),
    (14, 3),
];

fn all() -> BTreeSet<Statement> {
    let of = |(section, last)| (1..=last).map(move |number| (section, number));
    SECTIONS.into_iter().flat_map(of).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The statements at the head of a test's name: `s03_02_to_s03_06_...`, `s04_13_s04_14_...`.
fn named(name: &str) -> Vec<Statement> {
    let mut words = name.split('_').peekable();
    let mut found: Vec<Statement> = Vec::new();
    let mut until = false;
    loop {
        if words.next_if_eq(&"to").is_some() {
            until = true;
        }
        let section = words
            .peek()
            .and_then(|word| number(word.strip_prefix('s')?));
        let Some(section) = section else { break };
        words.next();
        let Some(statement) = words.next().and_then(number) else {
            break;
        };
        let from = match found.last() {
            Some(&(_, last)) if until => last + 1,
            _ => statement,
        };
        until = false;
        found.extend((from..=statement).map(|number| (section, number)));
    }
    found
}

fn number(word: &str) -> Option<u32> {
    (word.len() == 2).then(|| word.parse().ok()).flatten()
}

/// What the names of the tests say.
fn tested() -> BTreeSet<Statement> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        sources(&root.join(folder), &mut files);
    }
    let mut tested = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        let names = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        tested.extend(names.flat_map(named));
    }
    tested
}

/// The README's list: `* 2.1, 5.1 - 5.3: the reason`.
fn excused() -> BTreeSet<Statement> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(readme).expect("the README");
    let (_, section) = text
        .split_once("\n## Statements without a test of their own\n")
        .expect("the README has the section");
    let section = section.split("\n## ").next().expect("a first part");
    let mut excused = BTreeSet::new();
    for line in section.lines().filter_map(|line| line.strip_prefix("* ")) {
        let (numbers, reason) = line.split_once(": ").expect("numbers, then the reason");
        assert!(!reason.trim().is_empty(), "{line}");
        for part in numbers.split(", ") {
            let (from, to) = part.split_once(" - ").unwrap_or((part, part));
            let (from, to) = (statement(from), statement(to));
            assert_eq!(from.0, to.0, "a range within one section: {line}");
            for number in from.1..=to.1 {
                assert!(excused.insert((from.0, number)), "named twice: {part}");
            }
        }
    }
    excused
}

fn statement(text: &str) -> Statement {
    let (section, number) = text.split_once('.').expect("section.number");
    let parse = |part: &str| part.parse().unwrap_or_else(|_| panic!("{text}"));
    (parse(section), parse(number))
}

#[test]
fn every_statement_is_tested_or_excused() {
    let (all, tested, excused) = (all(), tested(), excused());
    let strange: Vec<_> = tested
        .union(&excused)
        .filter(|s| !all.contains(s))
        .collect();
    assert!(strange.is_empty(), "no such statements: {strange:?}");
    let missing: Vec<_> = all
        .iter()
        .filter(|s| !tested.contains(s) && !excused.contains(s))
        .collect();
    assert!(
        missing.is_empty(),
        "neither tested nor in the README's list: {missing:?}"
    );
    let both: Vec<_> = tested.intersection(&excused).collect();
    assert!(
        both.is_empty(),
        "tested, and still in the README's list: {both:?}"
    );
}

#[test]
fn names_are_read_as_they_are_written() {
    assert_eq!(named("s04_13_s04_14_a_change"), [(4, 13), (4, 14)]);
    assert_eq!(
        named("s03_02_to_s03_04_bad_flags"),
        [(3, 2), (3, 3), (3, 4)]
    );
    assert_eq!(named("start_names"), []);
    assert_eq!(named("s5_is_no_name"), []);
}
