// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace as a page that shows it: one file, which needs no other and no network.
//!
//! The page is `page.html`: what is drawn, and in which words a request's story is told, is decided
//! there. Here it gets its data: the time line as one list of numbers, nine to an event, and the texts
//! that the numbers name, each once. So an event takes some 30 bytes.

use std::collections::HashMap;
use std::io::{self, Write};

use serde_json::json;
use workqueue::trace::{Phase, Record, Value};

use super::event::{Event, Kind};
use super::timeline::Entry;
use super::Trace;

const PAGE: &str = include_str!("page.html");
/// Where the page has its data.
const DATA: &str = "/*DATA*/";
/// The kinds of a work item's records, after those of [`Kind`].
const WORK: [&str; 3] = ["work_begin", "work_end", "work"];

/// The texts of a page, and the number of each.
#[derive(Default)]
struct Texts {
    all: Vec<String>,
    number: HashMap<String, usize>,
}

impl Texts {
    fn of(&mut self, text: String) -> usize {
        let (all, next) = (&mut self.all, self.number.len());
        *self.number.entry(text).or_insert_with_key(|text| {
            all.push(text.clone());
            next
        })
    }
}

impl Trace {
    /// Writes the page. Its last line but one says how many events it has, and how many are lost.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_html(&self, out: &mut impl Write) -> io::Result<()> {
        let (head, tail) = PAGE
            .split_once(DATA)
            .expect("the page has a place for data");
        let (end, tail) = tail.rsplit_once("</html>").expect("the page has an end");
        let kinds = Kind::ALL.iter().map(|kind| kind.name()).chain(WORK);
        let threads = self.threads();
        let thread: HashMap<i32, usize> = threads.iter().map(|(tid, _)| *tid).zip(0..).collect();
        let names: Vec<_> = threads.iter().map(|(_, name)| name).collect();
        write!(
            out,
            "{head}{{\"kinds\":{},",
            json!(kinds.collect::<Vec<_>>())
        )?;
        write!(
            out,
            "\"threads\":{},\"events\":[",
            markup_free(&json!(names))
        )?;
        let (mut texts, mut before, mut comma) = (Texts::default(), self.from, "");
        for (tid, entry) in self.timeline() {
            let numbers = match entry {
                Entry::Block(event) => self.block_numbers(event, &mut texts),
                Entry::Work(record) => work_numbers(record, &mut texts),
            };
            // Relative to the event before. A ring may hold one from before the recording.
            let since = entry.time() as i64 - before as i64;
            before = entry.time();
            let thread = thread.get(&tid).copied().unwrap_or(0);
            write!(out, "{comma}{since},{thread}")?;
            numbers
                .iter()
                .try_for_each(|number| write!(out, ",{number}"))?;
            comma = ",\n";
        }
        let (all, lost) = (markup_free(&json!(texts.all)), self.lost());
        write!(out, "],\"texts\":{all},\"lost\":{lost}}}{end}")?;
        write!(
            out,
            "<!-- {} events, {lost} lost -->\n</html>{tail}",
            self.len()
        )
    }

    /// Kind, place, tag, operation as blktrace writes it, sector, sectors, detail.
    fn block_numbers(&self, event: &Event, texts: &mut Texts) -> [i64; 7] {
        let device = self.device(event.device);
        let device = device.map_or_else(|| event.device.to_string(), |is| is.name.clone());
        let place = match event.hctx() {
            Some(hctx) => format!("{device} hctx {hctx}"),
            None => device,
        };
        [
            event.kind as i64,
            texts.of(place) as i64,
            event.tag().map_or(-1, i64::from),
            texts.of(event.rwbs().to_owned()) as i64,
            event.sector as i64,
            event.sectors.into(),
            texts.of(event.detail()) as i64,
        ]
    }
}

/// As those of a block event: kind, item, none, function, none, none, the other arguments.
fn work_numbers(record: &Record, texts: &mut Texts) -> [i64; 7] {
    let kind = Kind::ALL.len() as i64
        + match record.phase() {
            Phase::Begin => 0,
            Phase::End => 1,
            Phase::Instant => 2,
        };
    let (mut item, mut rest) = (0, Vec::new());
    for (name, value) in record.args() {
        match value {
            Value::Address(address) => item = address,
            // Texts without JSON's quotes.
            other => rest.push(format!("{name} {}", other.to_string().trim_matches('"'))),
        }
    }
    let item = texts.of(format!("{item:x}")) as i64;
    let (name, rest) = (record.name().to_owned(), rest.join(", "));
    [
        kind,
        item,
        -1,
        texts.of(name) as i64,
        0,
        0,
        texts.of(rest) as i64,
    ]
}

/// JSON that can stand in a page: no text of it ends the script.
fn markup_free(json: &serde_json::Value) -> String {
    json.to_string().replace('<', "\\u003c")
}
