// SPDX-License-Identifier: MIT OR Apache-2.0
//! `explain`: what a figure, an event or a file means, and which side it belongs to.

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::explain::{entries, find, Entry, Side, Sort};

use super::output;
use crate::cli::ExplainArgs;

const SIDES: &str = "\
Figures, events and files of ublk-ramdisk are the server's: of what happens to a request behind the
ublk driver, after the kernel has handed it out and before its result is committed. What the kernel
counts for /dev/ublkbN (iostat, blktrace, /sys/block/ublkbN, debugfs) is the same request from
outside. ublk has no answer for \"not now\": a request that is refused here, and tried again, is to
the kernel one that takes longer.
";

/// Explains the words, or lists all there is to explain.
pub fn run(args: &ExplainArgs) -> Result<Exit, Failure> {
    let found = if args.words.is_empty() {
        entries()
    } else {
        let mut found = Vec::new();
        for word in &args.words {
            let of_word = find(word);
            if of_word.is_empty() {
                return Err(Failure::usage(format!(
                    "nothing is called {word:?}; `ublk-ramdisk explain` lists every name"
                )));
            }
            found.extend(of_word);
        }
        found
    };
    if args.json {
        output::print_json(&found)?;
    } else if args.words.is_empty() {
        output::print(&format!("{SIDES}\n{}", as_text(&found)))?;
    } else {
        output::print(&as_text(&found))?;
    }
    Ok(Exit::Done)
}

fn as_text(found: &[Entry]) -> String {
    let titles = [
        (Side::Server, Sort::Figure, "In `stats --json`"),
        (Side::Server, Sort::Column, "In the tables of `stats`"),
        (Side::Server, Sort::Event, "In `trace`"),
        (Side::Server, Sort::File, "In `debugfs`"),
        (
            Side::Kernel,
            Sort::File,
            "The kernel's, for /dev/ublkbN: files",
        ),
        (
            Side::Kernel,
            Sort::Event,
            "The kernel's, for /dev/ublkbN: events",
        ),
    ];
    let mut parts = Vec::new();
    for (side, sort, title) in titles {
        let of_kind = found.iter().filter(|e| e.side == side && e.sort == sort);
        let lines: String = of_kind.map(line).collect();
        if !lines.is_empty() {
            parts.push(format!("{title}:\n{lines}"));
        }
    }
    parts.join("\n")
}

fn line(entry: &Entry) -> String {
    let also = match entry.also.as_str() {
        "" => String::new(),
        also => format!(" ({also})"),
    };
    let text = wrapped(&entry.text, 92, "      ");
    format!("  {}{also}\n{text}", entry.place)
}

/// Breaks a text into lines of at most so many characters.
fn wrapped(text: &str, width: usize, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines += &format!("{indent}{line}\n");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &format!("{indent}{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k04_each_name_says_whose_it_is() {
        let text = as_text(&find("dispatch_busy"));
        let ours = text.find("In `debugfs`").expect("ours");
        let theirs = text.find("The kernel's").expect("the kernel's");
        assert!(ours < theirs, "{text}");
        assert!(text.contains("Stays 0 however often"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        let refuse = as_text(&find("refuse"));
        assert!(refuse.contains("mq_refuse (refuse)"), "{refuse}");
    }
}
