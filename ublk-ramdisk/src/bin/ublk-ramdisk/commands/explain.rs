// SPDX-License-Identifier: MIT OR Apache-2.0
//! `explain`: the glossary, by word. `doc/glossary.md` is its only source.

use serde::Serialize;
use ublk_ramdisk::error::{Exit, Failure};

use super::output;
use crate::cli::ExplainArgs;

/// Part of the program, so that it also explains where no source is.
const GLOSSARY: &str = include_str!("../../../../doc/glossary.md");

/// A term and what it means.
#[derive(Debug, Serialize)]
struct Entry {
    term: &'static str,
    /// Another name of the same.
    also: Option<&'static str>,
    meaning: &'static str,
}

/// Explains the words, or lists all terms.
pub fn run(args: &ExplainArgs) -> Result<Exit, Failure> {
    let found = if args.words.is_empty() {
        entries()
    } else {
        wanted(&args.words)?
    };
    output::show(args.json, &found, |found| as_text(found))
}

/// A paragraph is `**term (other name)**: meaning`; the title and the introduction are none.
fn entries() -> Vec<Entry> {
    let entry = |paragraph: &'static str| {
        let (head, meaning) = paragraph.trim().strip_prefix("**")?.split_once("**: ")?;
        let (term, also) = match head.split_once(" (") {
            Some((term, also)) => (term, also.strip_suffix(')')),
            None => (head, None),
        };
        Some(Entry {
            term,
            also,
            meaning,
        })
    };
    GLOSSARY.split("\n\n").filter_map(entry).collect()
}

/// All words together may be one term, such as `dispatch list`.
fn wanted(words: &[String]) -> Result<Vec<Entry>, Failure> {
    if let Some(entry) = find(&words.join(" ")) {
        return Ok(vec![entry]);
    }
    let entry = |word: &String| {
        find(word).ok_or_else(|| {
            Failure::usage(format!(
                "the glossary has no {word:?}; `ublk-ramdisk explain` prints all of it"
            ))
        })
    };
    words.iter().map(entry).collect()
}

/// By its term or its other name; capitals do not matter, nor how two words are joined.
fn find(word: &str) -> Option<Entry> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], " ");
    let is = |text: &str| plain(text) == plain(word);
    let mut entries = entries().into_iter();
    entries.find(|entry| is(entry.term) || entry.also.is_some_and(is))
}

fn as_text(entries: &[Entry]) -> String {
    let paragraphs: Vec<String> = entries
        .iter()
        .map(|entry| {
            let also = entry
                .also
                .map_or(String::new(), |also| format!(" ({also})"));
            let meaning = output::wrapped(entry.meaning, 76, "    ");
            format!("{}{also}\n{meaning}", entry.term)
        })
        .collect();
    paragraphs.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k04_every_paragraph_of_the_glossary_is_an_entry() {
        let bold = GLOSSARY.lines().filter(|line| line.starts_with("**"));
        let entries = entries();
        assert_eq!(entries.len(), bold.count());
        assert!(entries.len() > 20);
        for entry in &entries {
            assert!(find(entry.term).is_some_and(|found| found.term == entry.term));
            assert!(entry.meaning.ends_with('.'), "{entry:?}");
        }
        assert!(as_text(&entries).lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn k04_a_word_is_found_by_both_its_names_however_it_is_typed() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for word in ["dispatch list", "dispatch-list", "Dispatch_List"] {
            let found = wanted(&words(word)).expect(word);
            assert_eq!(found[0].term, "dispatch list");
        }
        assert_eq!(
            wanted(&words("hctx")).expect("known")[0].term,
            "hardware queue"
        );
        assert_eq!(wanted(&words("busy parked")).expect("known").len(), 2);
        let refused = wanted(&words("busy nonsense")).expect_err("unknown");
        assert!(refused.message.contains("nonsense"));
    }
}
