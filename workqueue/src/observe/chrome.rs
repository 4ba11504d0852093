// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes what was recorded as a trace file for Perfetto (ui.perfetto.dev) and chrome://tracing.
//!
//! Takes over from [`super::ring`]. The format is the "JSON object format" of Chrome's trace
//! viewer: times in microseconds, one object per event, the names of threads as metadata.

use super::ring::{drain, Phase, Record, Recording, Value};
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
    write(out, &recording)?;
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

fn write(out: &mut impl Write, recording: &Recording) -> io::Result<()> {
    let pid = std::process::id();
    write!(out, "{{\"displayTimeUnit\":\"ns\",")?;
    write!(
        out,
        "\"otherData\":{{\"lost_records\":{}}},",
        recording.lost
    )?;
    write!(out, "\"traceEvents\":[")?;
    let mut between = "\n";
    for (tid, name) in &recording.threads {
        let name = Quoted(name);
        write!(
            out,
            "{between}{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":{pid},\"tid\":{tid},\"args\":{{\"name\":{name}}}}}"
        )?;
        between = ",\n";
    }
    for (tid, record) in &recording.records {
        out.write_all(between.as_bytes())?;
        write_record(out, pid, *tid, record)?;
        between = ",\n";
    }
    out.write_all(b"\n]}\n")
}

fn write_record(out: &mut impl Write, pid: u32, tid: i32, record: &Record) -> io::Result<()> {
    let phase = match record.phase {
        Phase::Begin => "\"B\"",
        Phase::End => "\"E\"",
        // A mark on its thread's line, not across all of them.
        Phase::Instant => "\"i\",\"s\":\"t\"",
    };
    let (micros, nanos) = (record.time / 1000, record.time % 1000);
    let (name, category) = (Quoted(record.name), Quoted(record.category));
    write!(
        out,
        "{{\"name\":{name},\"cat\":{category},\"ph\":{phase},\"ts\":{micros}.{nanos:03},\"pid\":{pid},\"tid\":{tid},\"args\":{{"
    )?;
    for (n, (key, value)) in record.args.iter().flatten().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        write!(out, "{comma}{}:{value}", Quoted(key))?;
    }
    out.write_all(b"}}")
}
