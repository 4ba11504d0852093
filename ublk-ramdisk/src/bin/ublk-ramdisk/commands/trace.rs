// SPDX-License-Identifier: MIT OR Apache-2.0
//! `trace`: what happened to each request, recorded by the server and fetched from it.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

use ublk_ramdisk::error::{Exit, Failure};
use ublk_ramdisk::trace::Format;

use super::output_file::OutputFile;
use super::{machine, output};
use crate::cli::TraceArgs;
use crate::server::control_socket::{ask_for_more, More, REPLY_TIMEOUT};
use crate::server::protocol::{Reply, Request};
use crate::server::run_dir::RunDir;

/// Time after the recording's end in which the server has to begin sending.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes kept of the beginning and of the end, to tell a whole trace from a part.
const ENDS: usize = 256;

/// Has the server record for a while, then copies what it sends to the file or to standard output.
pub fn run(args: &TraceArgs) -> Result<Exit, Failure> {
    // Before the recording: a name that cannot be written is found out now.
    let path = args.file();
    let file = path.as_deref().map(OutputFile::check).transpose()?;
    let request = Request::Trace {
        millis: u32::try_from(args.duration.as_millis()).unwrap_or(u32::MAX),
        records: args.records,
        format: args.format(),
    };
    let run_dir = RunDir::of_this_machine()?;
    let ask = || {
        let socket = run_dir
            .has_server(args.id)
            .then(|| run_dir.socket(args.id))?;
        ask_for_more(&socket, request.clone(), REPLY_TIMEOUT)
    };
    let (Reply::Done, mut trace) = machine::served(&run_dir, args.id, ask)? else {
        return Err(machine::another_question());
    };
    trace
        .get_ref()
        // Nothing comes while the server records.
        .set_read_timeout(Some(args.duration + SEND_TIMEOUT))
        .map_err(|error| Failure::runtime(format!("the server's socket: {error}")))?;
    match (file, &path) {
        (Some(file), Some(path)) => to_file(&mut trace, file, path, args.format()),
        _ => to_stdout(&mut trace),
    }
}

/// The beginning and the end of a trace that was copied: they tell if the server has sent all of it,
/// and how many events it has lost. The connection ends in the same way if the server ends early.
struct Copied {
    head: Vec<u8>,
    tail: Vec<u8>,
    bytes: u64,
}

impl Copied {
    /// Copies until the end of `from`.
    fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<Copied> {
        let mut copied = Copied {
            head: Vec::new(),
            tail: Vec::new(),
            bytes: 0,
        };
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match from.read(&mut buffer)? {
                0 => return Ok(copied),
                read => &buffer[..read],
            };
            to.write_all(read)?;
            copied.bytes += read.len() as u64;
            let missing = ENDS.saturating_sub(copied.head.len()).min(read.len());
            copied.head.extend_from_slice(&read[..missing]);
            copied.tail.extend_from_slice(read);
            let older = copied.tail.len().saturating_sub(ENDS);
            // The last `ENDS` bytes stay.
            copied.tail.drain(..older);
        }
    }

    /// False if the server ended while it was sending.
    fn is_whole(&self) -> bool {
        if self.head.starts_with(b"{") {
            return self.tail.ends_with(b"\n]}\n");
        }
        if self.head.starts_with(b"<!doctype html>") {
            return self.tail.ends_with(b" lost -->\n</html>\n");
        }
        // Text ends with `# N events, M lost`, which no event's line begins like.
        let last_line = self.tail[..self.tail.len().saturating_sub(1)]
            .rsplit(|byte| *byte == b'\n')
            .next();
        self.head.starts_with(b"# ")
            && self.tail.ends_with(b" lost\n")
            && last_line.is_some_and(|line| line.starts_with(b"# "))
    }

    /// Events that were overwritten: the number in the head of a file for Perfetto, or in the last
    /// line of a text or page.
    fn lost(&self) -> u64 {
        let head = String::from_utf8_lossy(&self.head);
        let tail = String::from_utf8_lossy(&self.tail);
        let in_file = head.split("\"lost_records\":").nth(1);
        let in_lines = tail.trim_end().trim_end_matches(" -->\n</html>");
        let in_lines = in_lines.strip_suffix(" lost");
        let in_lines = in_lines.and_then(|text| text.rsplit(' ').next());
        let number = in_file.or(in_lines).unwrap_or_default();
        let digits = number.find(|c: char| !c.is_ascii_digit());
        number[..digits.unwrap_or(number.len())]
            .parse()
            .unwrap_or(0)
    }

    fn check(&self) -> Result<(), Failure> {
        if !self.is_whole() {
            return Err(cut_off());
        }
        if self.lost() > 0 {
            output::warn(&format!(
                "{} older events were overwritten: record for a shorter time, or give a larger \
                 --records",
                self.lost()
            ));
        }
        Ok(())
    }
}

fn cut_off() -> Failure {
    Failure::runtime(
        "the trace is cut off: the server has ended, or this command read too slowly for it",
    )
}

fn to_file(
    trace: &mut More,
    file: OutputFile,
    path: &Path,
    format: Format,
) -> Result<Exit, Failure> {
    // The file is replaced when there is something to put in: a recording may be given up.
    let begun = trace.fill_buf().is_ok_and(|begin| !begin.is_empty());
    if !begun {
        return Err(cut_off());
    }
    let mut writing = file.begin()?;
    let copied = Copied::copy(trace, &mut writing).map_err(|error| writing.failed(&error))?;
    // Before `finish`: a part of a trace is not kept.
    copied.check()?;
    writing.finish()?;
    let how = match format {
        Format::Html => "; open it in a browser",
        Format::Chrome => "; open it in https://ui.perfetto.dev",
        Format::Text => "",
    };
    output::print(&format!(
        "{}: {} bytes{how}\n",
        path.display(),
        copied.bytes
    ))?;
    Ok(Exit::Done)
}

fn to_stdout(trace: &mut More) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    match Copied::copy(trace, &mut out).and_then(|copied| out.flush().map(|()| copied)) {
        Ok(copied) => copied.check().map(|()| Exit::Done),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(error) => Err(Failure::runtime(format!("the trace: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(text: &str) -> Copied {
        // In pieces.
        let (head, tail) = text.as_bytes().split_at(text.len() / 3);
        Copied::copy(&mut head.chain(tail), &mut io::sink()).expect("copied")
    }

    #[test]
    fn k03_a_trace_that_was_cut_off_is_told_from_a_whole_one() {
        let file = "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"lost_records\":12},\
                    \"traceEvents\":[\n{}\n]}\n";
        let whole = copied(file);
        assert!(whole.is_whole());
        assert_eq!((whole.lost(), whole.bytes), (12, file.len() as u64));
        assert!(!copied(&file[..file.len() - 4]).is_whole());
        assert!(!copied(&file[1..]).is_whole(), "its head is missing");
        assert!(!copied("").is_whole());
        let page = "<!doctype html>\n...<script>\n</script>\n<!-- 7 events, 4 lost -->\n</html>\n";
        assert!(copied(page).is_whole());
        assert_eq!(copied(page).lost(), 4);
        assert!(!copied(&page[..page.len() - 9]).is_whole());
        let lines = format!("# DEV\n{}# 7 events, 3 lost\n", "259,0 ...\n".repeat(1000));
        assert!(copied(&lines).is_whole());
        assert_eq!(copied(&lines).lost(), 3);
        assert!(!copied(&lines[6..]).is_whole());
        assert!(!copied("# DEV\n259,0 lost\n").is_whole());
    }
}
