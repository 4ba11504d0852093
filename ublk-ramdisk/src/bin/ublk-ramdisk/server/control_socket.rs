// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: how commands talk to a server.
//!
//! Owns both ends. A connection carries one request line and one reply line. A thread reads the
//! requests of all callers, so that a caller who sends nothing holds up nobody: each has a few
//! seconds for its whole request. The connection of a command that stops the disk stays open until
//! the process is gone, so the command knows when it may say "done".
//!
//! ```text
//! command   {"op":"resize","bytes":1073741824}
//! server    "done"
//! ```

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use log::warn;
use ublk_ramdisk::error::Failure;
use ublk_ramdisk::sys::privilege::{self, Kind};

use super::protocol::{Reply, Request};
use super::signals::wait_readable;

/// Most bytes of a request. One may name many bad blocks.
const LONGEST_REQUEST: usize = 1 << 20;
/// Most bytes of a reply; one may have a line for each request of each queue.
const LONGEST_REPLY: u64 = 1 << 30;
/// Callers whose requests are read at the same time. More wait to be accepted.
const MOST_CALLERS: usize = 64;
/// Time for a whole request, and for a whole reply: both ends are on this machine.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// The main thread may be at a large resize.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a request is sent to servers that end before they reply, and how soon again.
const TRIES: u32 = 5;
const NEXT_TRY: Duration = Duration::from_millis(20);
/// Pause after a connection could not be accepted, as without a free descriptor.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The server's end.
pub struct Listener(UnixListener);

impl Listener {
    /// Listens at `path`, for the owner alone.
    pub fn bind(path: &Path) -> io::Result<Listener> {
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Listener(listener))
    }

    /// Starts the thread that reads requests and passes each whole one to `each`, until that
    /// returns false. A caller that makes no sense is told so and dropped.
    pub fn start(
        self,
        each: impl FnMut(Caller, Request) -> bool + Send + 'static,
    ) -> io::Result<()> {
        let thread = std::thread::Builder::new().name("control".to_owned());
        let read = move || {
            privilege::confine(Kind::Helper);
            self.read_all(each);
        };
        thread.spawn(read).map(drop)
    }

    /// One turn: wait, read what has come, accept one caller more.
    fn read_all(self, mut each: impl FnMut(Caller, Request) -> bool) {
        let mut callers: Vec<Incoming> = Vec::new();
        loop {
            if let Err(error) = self.wait(&callers) {
                warn!("waiting for commands: {error}");
                std::thread::sleep(BACK_OFF);
            }
            for mut caller in std::mem::take(&mut callers) {
                match caller.read() {
                    Ok(None) => callers.push(caller),
                    Ok(Some(request)) => {
                        if !each(Caller(caller.stream), request) {
                            return;
                        }
                    }
                    Err(error) => Caller(caller.stream).refuse(&error),
                }
            }
            if callers.len() < MOST_CALLERS {
                callers.extend(self.accept());
            }
        }
    }

    /// Waits until a caller has sent something, there is a new one, or the time of one is over.
    fn wait(&self, callers: &[Incoming]) -> io::Result<()> {
        let mut files: Vec<_> = callers.iter().map(|caller| caller.stream.as_fd()).collect();
        if callers.len() < MOST_CALLERS {
            files.push(self.0.as_fd());
        }
        let first = callers.iter().map(|caller| caller.deadline).min();
        let left = first.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up, or the wait would end before the deadline.
        wait_readable(&files, left.map(|left| left.as_millis() as u16 + 1)).map(drop)
    }

    /// Takes one new caller, if there is one.
    fn accept(&self) -> Option<Incoming> {
        match self
            .0
            .accept()
            .and_then(|(stream, _)| Incoming::new(stream))
        {
            Ok(caller) => Some(caller),
            Err(error) => {
                // The caller may have gone; without a free descriptor it is still there, and the
                // next look finds it at once.
                if error.kind() != ErrorKind::WouldBlock {
                    warn!("a command is not heard: {error}");
                    std::thread::sleep(BACK_OFF);
                }
                None
            }
        }
    }
}

/// A caller whose request has not come yet, or not all of it.
struct Incoming {
    /// Not blocking until its request is whole.
    stream: UnixStream,
    /// What has come so far, up to [`LONGEST_REQUEST`].
    line: Vec<u8>,
    /// For the whole request, however many parts it has.
    deadline: Instant,
}

impl Incoming {
    fn new(stream: UnixStream) -> io::Result<Incoming> {
        stream.set_nonblocking(true)?;
        Ok(Incoming {
            stream,
            line: Vec::new(),
            deadline: Instant::now() + TIMEOUT,
        })
    }

    /// Takes what is there. None while the line is not whole.
    fn read(&mut self) -> io::Result<Option<Request>> {
        let mut part = [0; 4096];
        // Before the time is looked at: the process may have been stopped meanwhile.
        loop {
            let count = match self.stream.read(&mut part) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            self.line.extend_from_slice(&part[..count]);
            if part[..count].contains(&b'\n') {
                // Whatever follows the line makes it unreadable: a connection carries one request.
                return Ok(Some(serde_json::from_slice(&self.line)?));
            }
            if self.line.len() > LONGEST_REQUEST {
                let why = format!("it is longer than {LONGEST_REQUEST} bytes");
                return Err(io::Error::other(why));
            }
        }
        if Instant::now() < self.deadline {
            return Ok(None);
        }
        let why = format!("it was not whole within {} s", TIMEOUT.as_secs());
        Err(io::Error::other(why))
    }
}

/// One command that waits for an answer.
pub struct Caller(UnixStream);

impl Caller {
    /// Tells the caller that its request cannot be read.
    fn refuse(&self, error: &io::Error) {
        self.answer(&Reply::Failed(Failure::runtime(format!(
            "the server does not understand the request: {error}"
        ))));
    }

    /// Sends the reply. A caller that is gone, or does not read, does not matter to the server.
    /// Most replies come from the main thread. A caller that reads slowly holds that up for `TIMEOUT`
    /// at most.
    pub fn answer(&self, reply: &Reply) {
        let sent = self.0.set_nonblocking(false);
        let _ = sent.and_then(|()| write_line(&self.0, reply));
    }

    /// The connection itself, for what is more than a reply.
    pub fn into_stream(self) -> UnixStream {
        self.0
    }

    /// Is the caller still there? It sends nothing more.
    pub fn is_connected(&self) -> bool {
        let read = self
            .0
            .set_nonblocking(true)
            .and_then(|()| (&self.0).read(&mut [0]));
        read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// Asks the server behind `path`. None means that no server listens there. If it ends before it replies,
/// its successor is asked the same, where that does no harm.
pub fn ask(path: &Path, request: Request) -> Option<Result<Reply, Failure>> {
    Some(ask_for_more(path, request, REPLY_TIMEOUT)?.map(|(reply, _)| reply))
}

/// Is that how the end of the other process shows?
fn has_ended(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(kind, UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// The stream after a reply; its beginning may have been read together with the reply.
pub type More = BufReader<UnixStream>;

/// As [`ask`], for a reply that comes within `timeout`, and with what comes after it.
pub fn ask_for_more(
    path: &Path,
    request: Request,
    timeout: Duration,
) -> Option<Result<(Reply, More), Failure>> {
    let mut tries = if request.may_be_repeated() { TRIES } else { 1 };
    loop {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Some(Err(Failure::environment(format!(
                    "the server's socket {} may not be used: {error}; run as the user who added \
                     the device",
                    path.display()
                ))))
            }
            // No socket, or one that a dead server has left.
            Err(_) => return None,
        };
        tries -= 1;
        let error = match converse(stream, &request, timeout) {
            Ok((Reply::Failed(failure), _)) => return Some(Err(failure)),
            Ok(answer) => return Some(Ok(answer)),
            // Another may listen already: a look for a server would not tell that this one has ended.
            Err(error) if tries > 0 && has_ended(error.kind()) => {
                std::thread::sleep(NEXT_TRY);
                continue;
            }
            Err(error) => error,
        };
        return Some(Err(Failure::runtime(format!(
            "the server behind {} did not answer{}",
            path.display(),
            match error.kind() {
                // How a socket reports the end of its timeout, too.
                ErrorKind::WouldBlock | ErrorKind::TimedOut => " in time".to_owned(),
                _ => format!(": {error}"),
            }
        ))));
    }
}

/// Waits for the end of a server that has replied to [`Request::Stop`] or [`Request::HandOver`], for
/// `timeout` at most: then its lock is free and its log is written. A server that lingers is not an
/// error.
pub fn wait_for_end(mut more: More, timeout: Duration) {
    if more.get_ref().set_read_timeout(Some(timeout)).is_ok() {
        let _ = io::copy(&mut more, &mut io::sink());
    }
}

/// Sends the request and reads the reply.
fn converse(stream: UnixStream, request: &Request, timeout: Duration) -> io::Result<(Reply, More)> {
    stream.set_read_timeout(Some(timeout))?;
    write_line(&stream, request)?;
    let mut more = BufReader::new(stream);
    let mut line = String::new();
    (&mut more).take(LONGEST_REPLY).read_line(&mut line)?;
    if line.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_str(&line)?, more))
}

/// Sends a line within [`TIMEOUT`], however slowly the other end reads.
fn write_line(mut stream: &UnixStream, message: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let deadline = Instant::now() + TIMEOUT;
    let mut sent = 0;
    while sent < line.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        // In parts: the kernel waits so long for each packet that it makes of a write.
        let end = line.len().min(sent + (16 << 10));
        sent += stream.write(&line[sent..end])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::sync::mpsc::{channel, Receiver};

    use ublk_ramdisk::trace::Format;

    /// A server's end that passes on what it hears.
    struct Heard {
        path: PathBuf,
        requests: Receiver<(Caller, Request)>,
    }

    impl Heard {
        fn at(name: &str) -> Heard {
            let path = std::env::temp_dir().join(format!("ublk-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            let listener = Listener::bind(&path).expect("bound");
            let (sender, requests) = channel();
            let each = move |caller, request| sender.send((caller, request)).is_ok();
            listener.start(each).expect("a thread");
            Heard { path, requests }
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(&self.path).expect("connected")
        }
    }

    impl Drop for Heard {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn refusal(stream: &UnixStream) -> String {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("a line");
        match serde_json::from_str(&line) {
            Ok(Reply::Failed(failure)) => failure.message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn l1_a_request_is_answered_and_nonsense_is_too() {
        let nowhere = Path::new("/nonexistent/socket");
        assert!(ask(nowhere, Request::Stats).is_none(), "nobody listens");
        let server = Heard::at("socket");
        let mode = std::fs::metadata(&server.path).expect("a socket").mode();
        assert_eq!(mode & 0o777, 0o600, "others may not talk to the server");

        let long = vec![b'x'; LONGEST_REQUEST + 1];
        for (sent, why) in [
            (&b"{\"op\":\"dance\"}\n"[..], "dance"),
            (&long, "longer than"),
        ] {
            let nonsense = server.connect();
            (&nonsense).write_all(sent).expect("sent");
            let refused = refusal(&nonsense);
            assert!(refused.contains("does not understand"), "{refused}");
            assert!(refused.contains(why), "{refused}");
        }

        let path = server.path.clone();
        let asked = std::thread::spawn(move || ask(&path, Request::Stop));
        let (caller, request) = server.requests.recv().expect("a request");
        assert_eq!(request, Request::Stop);
        assert!(caller.is_connected());
        caller.answer(&Reply::Failed(Failure::in_use("busy")));
        let answer = asked.join().expect("no panic").expect("a server");
        assert_eq!(answer.expect_err("refused").message, "busy");
        assert!(!caller.is_connected(), "it has its answer");
    }

    #[test]
    fn l1_when_a_server_ends_before_it_replies_its_successor_is_asked() {
        let server = Heard::at("ends");
        let path = server.path.clone();
        let asked = std::thread::spawn(move || ask(&path, Request::Stats));
        drop(server.requests.recv().expect("a request"));
        let (next, _) = server.requests.recv().expect("the same again");
        next.answer(&Reply::Done);
        let answer = asked.join().expect("no panic").expect("a server");
        assert!(matches!(answer, Ok(Reply::Done)), "{answer:?}");
    }

    #[test]
    fn l1_callers_who_send_no_whole_request_hold_up_nobody() {
        let server = Heard::at("slow");
        let silent: Vec<_> = (0..3).map(|_| server.connect()).collect();
        (&silent[1]).write_all(b"{").expect("sent");
        let quick = server.connect();
        write_line(&quick, &Request::Stats).expect("sent");
        let (_, request) = server.requests.recv().expect("a request");
        assert_eq!(request, Request::Stats);
        // One goes on in time, one ends, and the others are told at the end of their time.
        (&silent[1])
            .write_all(b"\"op\":\"stats\"}\n")
            .expect("sent");
        let (_, request) = server.requests.recv().expect("a request");
        assert_eq!(request, Request::Stats);
        silent[2].shutdown(std::net::Shutdown::Write).expect("open");
        assert!(refusal(&silent[2]).contains("end of file"));
        assert!(refusal(&silent[0]).contains("not whole within 5 s"));
    }

    #[test]
    fn k03_what_comes_with_a_reply_is_not_lost() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut sent = serde_json::to_vec(&Reply::Done).expect("JSON");
        let trace = "a trace\n".repeat(10_000);
        sent.extend_from_slice(b"\n");
        sent.extend_from_slice(trace.as_bytes());
        let server = std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(&theirs).read_line(&mut line)?;
            (&theirs).write_all(&sent)
        });
        let request = Request::Trace {
            millis: 1,
            records: 1,
            format: Format::Text,
        };
        let (reply, mut more) = converse(ours, &request, TIMEOUT).expect("an answer");
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        let mut found = String::new();
        more.read_to_string(&mut found).expect("text");
        assert!(found == trace, "{} bytes of {}", found.len(), trace.len());
        server.join().expect("no panic").expect("sent");
    }
}
