// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where log lines go: standard error, syslog or a file.
//!
//! Owns the sink behind the `log` crate. A line is cut to a fixed size. In a server it is put into a
//! bounded queue and written by one thread; the caller neither allocates for the queue nor waits.
//! When the queue is full the line is dropped and counted, and the count is the next thing written.
//! A process that has no such thread, as the supervisor, writes its lines itself.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, SyncSender, TrySendError};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record};
use ublk_ramdisk::error::Failure;
use ublk_ramdisk::sys::lock::Lock;
use ublk_ramdisk::sys::privilege::{self, Kind};

use crate::server::protocol::LogTarget;

/// A longer line is cut. Every entry of the queue has this much room, so none is allocated.
const LINE_BYTES: usize = 480;
/// Lines that may wait for the writing thread before the next is dropped (J10).
const QUEUED_LINES: usize = 256;
/// How long a flush waits for the log.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Where the lines end up.
pub enum Sink {
    /// Standard error of a server in the foreground.
    Stderr,
    /// The system's log, through /dev/log.
    Syslog,
    /// A file, appended to.
    File(File),
}

impl Sink {
    /// Opens what `--log` names; none is standard error.
    pub fn of(log: Option<&LogTarget>) -> Result<Sink, Failure> {
        match log {
            None => Ok(Sink::Stderr),
            Some(LogTarget::Syslog) => Ok(Sink::Syslog),
            Some(LogTarget::File(path)) => Sink::file(path).map_err(|error| {
                Failure::environment(format!("--log {}: {error}", path.display()))
            }),
        }
    }

    /// Opens a log file for appending; made readable by its owner alone. A FIFO must have
    /// a reader, and lines that it has no room for are lost: the server does not wait for its log.
    pub fn file(path: &Path) -> io::Result<Sink> {
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        opened.map(Sink::File).map_err(|error| {
            if error.raw_os_error() == Some(libc::ENXIO) {
                return io::Error::new(error.kind(), "nobody reads this FIFO");
            }
            error
        })
    }
}

/// A line to write, or the marker of a flush.
struct Entry {
    line: Line,
    /// Told when the writing thread has come to this entry; its line is not written.
    reached: Option<SyncSender<()>>,
}

/// One line in a buffer of its own, made on the stack of the thread that logs.
struct Line {
    level: Level,
    used: usize,
    bytes: [u8; LINE_BYTES],
}

impl Line {
    fn new(level: Level) -> Line {
        Line {
            level,
            used: 0,
            bytes: [0; LINE_BYTES],
        }
    }

    fn text(&self) -> &str {
        let bytes = &self.bytes[..self.used];
        match std::str::from_utf8(bytes) {
            Ok(text) => text,
            // The cut fell inside a character.
            Err(cut) => std::str::from_utf8(&bytes[..cut.valid_up_to()]).unwrap_or_default(),
        }
    }
}

impl fmt::Write for Line {
    /// Takes what still fits; the rest of a long line is cut off. Line ends become spaces.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LINE_BYTES - self.used;
        let taken = &text.as_bytes()[..text.len().min(room)];
        for byte in taken {
            self.bytes[self.used] = if *byte == b'\n' { b' ' } else { *byte };
            self.used += 1;
        }
        Ok(())
    }
}

struct Logger {
    /// Writes on the thread that logs, until the writing thread has it.
    writer: Lock<Option<Writer>>,
    /// Bounded. Queue threads only try to send, and never wait (F21).
    queue: OnceLock<SyncSender<Entry>>,
    /// Lines that found the queue full since the last one was written.
    dropped: AtomicU64,
}

static LOGGER: Logger = Logger {
    writer: Lock::new(None),
    queue: OnceLock::new(),
    dropped: AtomicU64::new(0),
};

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = Line::new(record.level());
        let _ = write!(line, "{}", record.args());
        let Some(queue) = self.queue.get() else {
            if let Some(writer) = &mut *self.writer.lock() {
                writer.write(line.level, line.text());
            }
            return;
        };
        let reached = None;
        if let Err(TrySendError::Full(_)) = queue.try_send(Entry { line, reached }) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let Some(queue) = self.queue.get() else {
            return;
        };
        let (done, wait) = sync_channel(1);
        let marker = Entry {
            line: Line::new(Level::Trace),
            reached: Some(done),
        };
        // Bounded: a log that takes nothing must not keep the server from ending.
        let deadline = Instant::now() + TIMEOUT;
        if send_until(queue, deadline, marker) {
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = wait.recv_timeout(left);
        }
    }
}

/// Waits for room in the queue. False if there was none in time.
fn send_until(queue: &SyncSender<Entry>, deadline: Instant, mut entry: Entry) -> bool {
    loop {
        entry = match queue.try_send(entry) {
            Ok(()) => return true,
            Err(TrySendError::Full(entry)) if Instant::now() < deadline => entry,
            Err(_) => return false,
        };
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends all log lines to `sink`. Until [`start_thread`] the thread that logs writes its lines. Called
/// once, after the fork of a daemon.
pub fn open(sink: Sink) {
    *LOGGER.writer.lock() = Some(Writer { sink, syslog: None });
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Starts the writing thread of a server. Called once, after the fork from its supervisor.
pub fn start_thread() -> io::Result<()> {
    let Some(writer) = LOGGER.writer.lock().take() else {
        return Ok(());
    };
    let (queue, lines) = sync_channel(QUEUED_LINES);
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            privilege::confine(Kind::Helper);
            write_lines(&lines, writer);
        })?;
    let _the_first = LOGGER.queue.set(queue);
    Ok(())
}

/// Waits until what was logged so far is written, for a second at most.
pub fn flush() {
    LOGGER.flush();
}

/// The thread `log`: no other writes to the sink.
fn write_lines(lines: &Receiver<Entry>, mut writer: Writer) {
    while let Ok(entry) = lines.recv() {
        let dropped = LOGGER.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            writer.write(
                Level::Warn,
                &format!("{dropped} log lines dropped: the log was too slow"),
            );
        }
        match entry.reached {
            None => writer.write(entry.line.level, entry.line.text()),
            // The caller of `flush` may have stopped waiting.
            Some(reached) => drop(reached.try_send(())),
        }
    }
}

struct Writer {
    sink: Sink,
    /// Connected at the first line, and again after a failure.
    syslog: Option<UnixDatagram>,
}

impl Writer {
    /// Writes one line. A failure is ignored: there is no other place to report it.
    fn write(&mut self, level: Level, text: &str) {
        let (prefix, priority) = marks(level);
        let line = format!("ublk-ramdisk[{}]: {prefix}{text}", std::process::id());
        match &mut self.sink {
            Sink::Stderr => {
                let _ = writeln!(io::stderr(), "ublk-ramdisk: {prefix}{text}");
            }
            Sink::File(file) => {
                let now = humantime::format_rfc3339_seconds(SystemTime::now());
                let _ = file.write_all(format!("{now} {line}\n").as_bytes());
            }
            Sink::Syslog => self.send(&format!("<{priority}>{line}")),
        }
    }

    /// Sends to /dev/log and, when the log daemon was restarted, once more on a new socket.
    fn send(&mut self, packet: &str) {
        for _ in 0..2 {
            if self.syslog.is_none() {
                self.syslog = connect_syslog().ok();
            }
            let sent = self.syslog.as_ref().map(|to| to.send(packet.as_bytes()));
            match sent {
                Some(Ok(_)) => return,
                _ => self.syslog = None,
            }
        }
    }
}

fn connect_syslog() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect("/dev/log")?;
    // A log daemon that reads nothing costs lines, not the end of the server.
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

/// What a line begins with, and its priority in the system's log: facility daemon (3), severity by
/// level.
fn marks(level: Level) -> (&'static str, u8) {
    let (prefix, severity) = match level {
        Level::Error => ("error: ", 3),
        Level::Warn => ("warning: ", 4),
        Level::Info => ("", 6),
        Level::Debug | Level::Trace => ("", 7),
    };
    (prefix, 3 * 8 + severity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j10_a_line_is_cut_to_its_bound_and_stays_text() {
        let mut line = Line::new(Level::Info);
        write!(line, "{}", "a".repeat(LINE_BYTES - 1)).expect("room");
        write!(line, "ä and more\nlines").expect("cut");
        assert_eq!(line.used, LINE_BYTES);
        assert_eq!(line.text(), "a".repeat(LINE_BYTES - 1));
        let mut short = Line::new(Level::Info);
        write!(short, "one\ntwo").expect("room");
        assert_eq!(short.text(), "one two");
    }

    #[test]
    fn j10_a_full_queue_drops_and_counts() {
        let (queue, lines) = sync_channel(2);
        let logger = Logger {
            writer: Lock::new(None),
            queue: OnceLock::from(queue),
            dropped: AtomicU64::new(0),
        };
        log::set_max_level(LevelFilter::Info);
        for _ in 0..5 {
            logger.log(
                &Record::builder()
                    .level(Level::Info)
                    .args(format_args!("x"))
                    .build(),
            );
        }
        assert_eq!(logger.dropped.load(Ordering::Relaxed), 3);
        assert_eq!(lines.try_iter().count(), 2);
    }

    #[test]
    fn l1_a_log_file_is_made_for_its_owner_and_group() {
        use std::os::unix::fs::MetadataExt;
        let path = std::env::temp_dir().join(format!("ublk-log-mode-{}", std::process::id()));
        assert!(Sink::file(&path).is_ok());
        let mode = std::fs::metadata(&path).expect("made").mode();
        std::fs::remove_file(&path).expect("ours");
        assert_eq!(mode & 0o137, 0, "{mode:o}");
    }

    #[test]
    fn l1_a_fifo_without_a_reader_is_no_log() {
        let fifo = std::env::temp_dir().join(format!("ublk-log-fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let refused = Sink::file(&fifo).map(|_| ()).expect_err("no reader");
        assert!(refused.to_string().contains("nobody reads"), "{refused}");
        std::fs::remove_file(&fifo).expect("still there");
    }

    #[test]
    fn syslog_priorities_are_those_of_a_daemon() {
        assert_eq!(marks(Level::Error), ("error: ", 27));
        assert_eq!(marks(Level::Info), ("", 30));
    }
}
