// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes what was recorded as a trace file for Perfetto (ui.perfetto.dev) and chrome://tracing.
//!
//! Takes over from [`super::ring`]. The format is the "JSON object format" of Chrome's trace
//! viewer: times in microseconds, one object per event, the names of threads as metadata.

use super::recorder::Recording;
use super::ring::{drain, Phase, Record, Value, MAX_ARGS};
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// A text as JSON has it.
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
/// Those of the writer; what was recorded is gone then too.
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
/// Those of the file system; nothing is forgotten if the file cannot be made.
pub fn save_chrome(path: impl AsRef<Path>) -> io::Result<usize> {
    let mut file = BufWriter::new(File::create(path)?);
    let written = write_chrome(&mut file)?;
    file.flush()?;
    Ok(written)
}

/// Writes a trace file event by event: for programs that have records of their own, beside the
/// workqueue's or instead of them. Events may come in any order.
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
    /// With an id it stands on the line of that id and not on its thread's: what belongs to one
    /// request, say, wherever it went.
    pub id: Option<u64>,
    /// What can be switched off together.
    pub category: &'a str,
    /// What is written on it.
    pub name: &'a str,
    /// More, by name.
    pub args: &'a [(&'static str, Value)],
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
    /// Begins a file. `lost` records are said to be missing.
    ///
    /// # Errors
    /// Those of the writer.
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

    /// Has the file say another process number than this process's, for files that are to be the
    /// same in each run.
    #[must_use]
    pub fn with_pid(self, pid: u32) -> Self {
        Self { pid, ..self }
    }

    fn next(&mut self) -> io::Result<()> {
        let is_first = std::mem::take(&mut self.is_first);
        self.out.write_all(if is_first { b"\n" } else { b",\n" })
    }

    /// Names the process.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn process(&mut self, name: &str) -> io::Result<()> {
        self.next()?;
        let (pid, name) = (self.pid, Quoted(name));
        write!(
            self.out,
            "{{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":{pid},\"args\":{{\"name\":{name}}}}}"
        )
    }

    /// Names a thread.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn thread(&mut self, tid: i32, name: &str) -> io::Result<()> {
        self.next()?;
        let (pid, name) = (self.pid, Quoted(name));
        write!(
            self.out,
            "{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":{pid},\"tid\":{tid},\"args\":{{\"name\":{name}}}}}"
        )
    }

    /// Writes one event.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn event(&mut self, event: &ChromeEvent<'_>) -> io::Result<()> {
        self.next()?;
        let phase = match (event.phase, event.id) {
            (Phase::Begin, None) => "\"B\"",
            (Phase::End, None) => "\"E\"",
            // A mark on its thread's line, not across all of them.
            (Phase::Instant, None) => "\"i\",\"s\":\"t\"",
            (Phase::Begin, Some(_)) => "\"b\"",
            (Phase::End, Some(_)) => "\"e\"",
            (Phase::Instant, Some(_)) => "\"n\"",
        };
        let (micros, nanos) = (event.time / 1000, event.time % 1000);
        let (name, category) = (Quoted(event.name), Quoted(event.category));
        let (pid, tid) = (self.pid, event.tid);
        write!(
            self.out,
            "{{\"name\":{name},\"cat\":{category},\"ph\":{phase},\"ts\":{micros}.{nanos:03},\"pid\":{pid},\"tid\":{tid},"
        )?;
        if let Some(id) = event.id {
            write!(self.out, "\"id\":\"{id:#x}\",")?;
        }
        self.out.write_all(b"\"args\":{")?;
        for (n, (key, value)) in event.args.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(self.out, "{comma}{}:{value}", Quoted(key))?;
        }
        self.out.write_all(b"}}")
    }

    /// Writes a step of the flow with this id. It belongs to the bar that is open on its thread at
    /// its time: to be written between that bar's beginning and its end. All steps of a flow have
    /// the same category and name.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn flow(
        &mut self,
        step: Flow,
        id: u64,
        (tid, time): (i32, u64),
        (category, name): (&str, &str),
    ) -> io::Result<()> {
        self.next()?;
        let phase = match step {
            Flow::Start => "\"s\"",
            Flow::Step => "\"t\"",
            // To the bar it lies in, not to the next one that begins.
            Flow::End => "\"f\",\"bp\":\"e\"",
        };
        let (micros, nanos) = (time / 1000, time % 1000);
        let (name, category) = (Quoted(name), Quoted(category));
        let pid = self.pid;
        write!(
            self.out,
            "{{\"name\":{name},\"cat\":{category},\"ph\":{phase},\"ts\":{micros}.{nanos:03},\"pid\":{pid},\"tid\":{tid},\"id\":\"{id:#x}\"}}"
        )
    }

    /// Writes what [`super::ring::drain`] has found, with the names of the threads.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn recording(&mut self, recording: &Recording<Record>) -> io::Result<()> {
        for (tid, name) in &recording.threads {
            self.thread(*tid, name)?;
        }
        for (tid, record) in &recording.records {
            self.record(*tid, record)?;
        }
        Ok(())
    }

    /// Writes one of those.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn record(&mut self, tid: i32, record: &Record) -> io::Result<()> {
        let mut args = [("", Value::Int(0)); MAX_ARGS];
        let mut count = 0;
        for (place, arg) in args.iter_mut().zip(record.args()) {
            *place = arg;
            count += 1;
        }
        self.event(&ChromeEvent {
            time: record.time,
            phase: record.phase,
            tid,
            id: None,
            category: record.category,
            name: record.name,
            args: &args[..count],
        })
    }

    /// Ends the file and gives the writer back.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()?;
        Ok(self.out)
    }
}
