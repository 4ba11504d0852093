// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes what was recorded as a trace file for Perfetto (ui.perfetto.dev) and chrome://tracing.
//!
//! Takes over from [`super::drain`]. The format is the "JSON object format" of Chrome's trace
//! viewer: times in microseconds, one object per event, the names of threads as metadata.

use super::recorder::Recording;
use super::{drain, Phase, Record, Value};
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// A text as a JSON string.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Address(a) => write!(f, "\"{a:#x}\""),
            Self::Name(text) => Quoted(text).fmt(f),
            Self::Text(text) => Quoted(text.as_str()).fmt(f),
        }
    }
}

/// Writes what all threads of this process have recorded, and forgets it. Returns how many records
/// were written. Records that were overwritten before are counted in `otherData`.
///
/// # Errors
/// Those of the writer. What was recorded is forgotten all the same.
pub fn write_chrome(out: &mut impl Write) -> io::Result<usize> {
    let recording = drain();
    let mut writer = ChromeWriter::new(out, recording.lost)?;
    writer.recording(&recording)?;
    writer.finish()?;
    Ok(recording.records.len())
}

/// As [`write_chrome`], into a file, which is replaced.
///
/// # Errors
/// Those of the file system. Nothing is forgotten if the file cannot be made.
pub fn save_chrome(path: impl AsRef<Path>) -> io::Result<usize> {
    let mut file = BufWriter::new(File::create(path)?);
    let written = write_chrome(&mut file)?;
    file.flush()?;
    Ok(written)
}

/// Writes a trace file event by event, for programs that have records of their own. Events may come
/// in any order. All methods fail with the errors of the writer below.
#[derive(Debug)]
pub struct ChromeWriter<W> {
    out: W,
    pid: u32,
    is_first: bool,
}

/// One event of a trace file.
#[derive(Clone, Copy, Debug)]
pub struct ChromeEvent<'a> {
    /// Nanoseconds, as [`super::recorder::now`] counts them.
    pub time: u64,
    /// Beginning, end or moment.
    pub phase: Phase,
    /// The thread it happened on.
    pub tid: i32,
    /// With an id the event is drawn on the line of that id, not on its thread's. One request, say,
    /// has one line, whatever thread serves it.
    pub id: Option<u64>,
    /// The group of events that viewers show or hide together.
    pub category: &'a str,
    /// The text on it.
    pub name: &'a str,
    /// Arguments, by name.
    pub args: &'a [(&'static str, Value)],
}

impl<'a> ChromeEvent<'a> {
    /// An event on its thread's line, without arguments.
    pub fn new(
        (tid, time): (i32, u64),
        phase: Phase,
        category: &'a str,
        name: &'a str,
    ) -> ChromeEvent<'a> {
        Self {
            time,
            phase,
            tid,
            id: None,
            category,
            name,
            args: &[],
        }
    }
}

/// A step of something that goes from thread to thread: viewers draw arrows from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The first.
    Start,
    /// One in between.
    Step,
    /// The last.
    End,
}

impl<W: Write> ChromeWriter<W> {
    /// Begins a file, which says that `lost` records are missing.
    pub fn new(mut out: W, lost: u64) -> io::Result<Self> {
        write!(out, "{{\"displayTimeUnit\":\"ns\",")?;
        write!(out, "\"otherData\":{{\"lost_records\":{lost}}},")?;
        write!(out, "\"traceEvents\":[")?;
        Ok(Self {
            out,
            pid: std::process::id(),
            is_first: true,
        })
    }

    /// Writes this process number instead of the real one, for files that are to be the same in
    /// each run.
    #[must_use]
    pub fn with_pid(self, pid: u32) -> Self {
        Self { pid, ..self }
    }

    fn next(&mut self) -> io::Result<()> {
        let is_first = std::mem::take(&mut self.is_first);
        self.out.write_all(if is_first { b"\n" } else { b",\n" })
    }

    /// Names the process.
    pub fn process(&mut self, name: &str) -> io::Result<()> {
        self.metadata("process_name", "", name)
    }

    /// Names a thread.
    pub fn thread(&mut self, tid: i32, name: &str) -> io::Result<()> {
        self.metadata("thread_name", &format!(",\"tid\":{tid}"), name)
    }

    fn metadata(&mut self, what: &str, tid: &str, name: &str) -> io::Result<()> {
        self.next()?;
        let (pid, name) = (self.pid, Quoted(name));
        write!(
            self.out,
            "{{\"name\":\"{what}\",\"ph\":\"M\",\"pid\":{pid}{tid},\"args\":{{\"name\":{name}}}}}"
        )
    }

    /// Writes one event.
    pub fn event(&mut self, event: &ChromeEvent<'_>) -> io::Result<()> {
        let phase = match (event.phase, event.id) {
            (Phase::Begin, None) => "\"B\"",
            (Phase::End, None) => "\"E\"",
            // A mark on its thread's line, not across all of them.
            (Phase::Instant, None) => "\"i\",\"s\":\"t\"",
            (Phase::Begin, Some(_)) => "\"b\"",
            (Phase::End, Some(_)) => "\"e\"",
            (Phase::Instant, Some(_)) => "\"n\"",
        };
        self.head(event, phase)?;
        if let Some(id) = event.id {
            write!(self.out, ",\"id\":\"{id:#x}\"")?;
        }
        self.args(event)
    }

    /// Writes the values that the arguments of `event` have from now on: viewers draw a course of each. Its
    /// phase and id are ignored.
    pub fn counter(&mut self, event: &ChromeEvent<'_>) -> io::Result<()> {
        self.head(event, "\"C\"")?;
        self.args(event)
    }

    /// The arguments, and the end of the object.
    fn args(&mut self, event: &ChromeEvent<'_>) -> io::Result<()> {
        self.out.write_all(b",\"args\":{")?;
        for (n, (key, value)) in event.args.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(self.out, "{comma}{}:{value}", Quoted(key))?;
        }
        self.out.write_all(b"}}")
    }

    /// Writes a step of the flow with this id, at the thread and time of `event`. The step belongs
    /// to the bar that is open there: write it between the bar's beginning and its end. All steps
    /// of a flow have the same category and name. Phase, id and arguments of `event` are ignored.
    pub fn flow(&mut self, step: Flow, id: u64, event: &ChromeEvent<'_>) -> io::Result<()> {
        let phase = match step {
            Flow::Start => "\"s\"",
            Flow::Step => "\"t\"",
            // To the bar it lies in, not to the next one that begins.
            Flow::End => "\"f\",\"bp\":\"e\"",
        };
        self.head(event, phase)?;
        write!(self.out, ",\"id\":\"{id:#x}\"}}")
    }

    /// What all events have. The object stays open.
    fn head(&mut self, event: &ChromeEvent<'_>, phase: &str) -> io::Result<()> {
        self.next()?;
        let (micros, nanos) = (event.time / 1000, event.time % 1000);
        let (name, category) = (Quoted(event.name), Quoted(event.category));
        let (pid, tid) = (self.pid, event.tid);
        write!(
            self.out,
            "{{\"name\":{name},\"cat\":{category},\"ph\":{phase},\"ts\":{micros}.{nanos:03},\"pid\":{pid},\"tid\":{tid}"
        )
    }

    /// Writes what [`super::drain`] has found, with the names of the threads.
    pub fn recording(&mut self, recording: &Recording<Record>) -> io::Result<()> {
        for (tid, name) in &recording.threads {
            self.thread(*tid, name)?;
        }
        for (tid, record) in &recording.records {
            self.record(*tid, record)?;
        }
        Ok(())
    }

    /// Writes one record of them.
    pub fn record(&mut self, tid: i32, record: &Record) -> io::Result<()> {
        let args: Vec<_> = record.args().collect();
        self.event(&ChromeEvent {
            args: &args,
            ..ChromeEvent::new(
                (tid, record.time),
                record.phase,
                record.category,
                record.name,
            )
        })
    }

    /// Ends the file and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()?;
        Ok(self.out)
    }
}
