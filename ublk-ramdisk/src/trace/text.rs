// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace as lines, in the columns of blkparse: device, CPU, sequence number, seconds, thread,
//! action, operation, sector + count, and what else there is to say.

use std::io::{self, Write};

use workqueue::trace::{Phase, Record, Value};

use super::event::Event;
use super::timeline::Entry;
use super::Trace;

impl Trace {
    /// Writes one line per event, in the order of time. Seconds count from the recording's
    /// beginning.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "# {:>6} {:>3} {:>8} {:>13} {:>7} {:<8} {:<4} SECTOR + COUNT",
            "DEV", "CPU", "SEQ", "SECONDS", "TID", "ACTION", "RWBS"
        )?;
        for ((tid, entry), number) in self.timeline().iter().zip(1u64..) {
            let nanos = entry.time().saturating_sub(self.from);
            let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            let at = format!("{seconds}.{nanos:09}");
            let (dev, cpu, act, rwbs) = match entry {
                Entry::Block(event) => {
                    let (major, minor) = self.numbers(event.device);
                    let (dev, cpu) = (format!("{major},{minor}"), event.cpu.to_string());
                    (dev, cpu, event.kind.act(), event.rwbs())
                }
                Entry::Work(_) => ("-".to_owned(), "-".to_owned(), "wq", "-"),
            };
            write!(
                out,
                "{dev:>8} {cpu:>3} {number:>8} {at:>13} {tid:>7} {act:<8} {rwbs:<4} "
            )?;
            let thread = self.thread_name(*tid);
            match entry {
                Entry::Block(event) => write_event(out, thread, event)?,
                Entry::Work(record) => write_work(out, thread, record)?,
            }
        }
        writeln!(out, "# {} events, {} lost", self.len(), self.lost())
    }

    fn thread_name(&self, tid: i32) -> &str {
        let all = self.events.threads.iter().chain(&self.works.threads);
        let mut named = all.filter(|(of, _)| *of == tid);
        named.next().map_or("", |(_, name)| name)
    }
}

fn write_event(out: &mut impl Write, thread: &str, event: &Event) -> io::Result<()> {
    if event.tag().is_some() {
        write!(out, "{} + {} ", event.sector, event.sectors)?;
    }
    write!(out, "[{thread}]")?;
    if let Some(hctx) = event.hctx() {
        write!(out, " hctx {hctx}")?;
    }
    if let Some(tag) = event.tag() {
        write!(out, " tag {tag}")?;
    }
    match event.detail() {
        detail if detail.is_empty() => writeln!(out),
        detail => writeln!(out, " {detail}"),
    }
}

fn write_work(out: &mut impl Write, thread: &str, record: &Record) -> io::Result<()> {
    // A bar's name is the function's: the event's own stands among the arguments.
    let is_event = |(key, _): &(&str, Value)| *key == "event";
    let name = match (record.phase(), record.args().find(is_event)) {
        (Phase::Begin | Phase::End, Some((_, Value::Name(event)))) => event,
        _ => record.name(),
    };
    let short = name.strip_prefix("workqueue_").unwrap_or(name);
    write!(out, "[{thread}] {short}")?;
    for (key, value) in record.args().filter(|arg| !is_event(arg)) {
        // Numbers as they are, texts without JSON's quotes.
        write!(out, " {key}={}", value.to_string().trim_matches('"'))?;
    }
    writeln!(out)
}
