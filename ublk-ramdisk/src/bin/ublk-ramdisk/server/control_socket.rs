// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: how commands talk to a server.
//!
//! Owns both ends. A connection carries one request line and one reply line. After a request that
//! ends the server the connection stays open until the process is gone, so the command that asked
//! knows when it may say "done".

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use ublk_ramdisk::error::Failure;

use super::protocol::{Reply, Request};

/// No request is longer: a stray client cannot make a server read for ever.
const LONGEST_REQUEST: u64 = 1 << 20;
/// No reply is longer; one may have a line for each request of each queue.
const LONGEST_REPLY: u64 = 1 << 30;
/// A local peer that sends nothing for this long is broken.
const TIMEOUT: Duration = Duration::from_secs(5);
/// STOP_DEV writes dirty data back first, which may take long.
const REPLY_TIMEOUT: Duration = Duration::from_secs(120);

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

    /// Takes the next caller and its request, if one is there. A caller that makes no sense is
    /// told so and dropped.
    pub fn take(&self) -> Option<(Caller, Request)> {
        let (stream, _) = self.0.accept().ok()?;
        let caller = Caller(stream);
        match caller.read() {
            Ok(request) => Some((caller, request)),
            Err(error) => {
                caller.answer(&Reply::Failed(Failure::runtime(format!(
                    "the server does not understand the request: {error}"
                ))));
                None
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One command that waits for an answer.
pub struct Caller(UnixStream);

impl Caller {
    fn read(&self) -> io::Result<Request> {
        self.0.set_nonblocking(false)?;
        self.0.set_read_timeout(Some(TIMEOUT))?;
        self.0.set_write_timeout(Some(TIMEOUT))?;
        read_line(&mut BufReader::new(&self.0), LONGEST_REQUEST)
    }

    /// Sends the reply. A caller that is gone does not matter to the server.
    pub fn answer(&self, reply: &Reply) {
        let _ = write_line(&self.0, reply);
    }

    /// The connection itself, for what is more than a reply.
    pub fn into_stream(self) -> UnixStream {
        self.0
    }
}

/// Asks the server behind `path`. None means that no server listens there.
pub fn ask(path: &Path, request: Request) -> Option<Result<Reply, Failure>> {
    Some(ask_for_more(path, request)?.map(|(reply, _)| reply))
}

/// The stream after a reply; its beginning may have been read together with the reply.
pub type More = BufReader<UnixStream>;

/// As [`ask`], with what comes after the reply.
pub fn ask_for_more(path: &Path, request: Request) -> Option<Result<(Reply, More), Failure>> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Some(Err(Failure::environment(format!(
                "the server's socket {} may not be used: {error}; run as the user who added the \
                 device",
                path.display()
            ))))
        }
        Err(_) => return None,
    };
    Some(converse(stream, request).map_err(|error| {
        Failure::runtime(format!(
            "the server behind {} did not answer: {error}",
            path.display()
        ))
    }))
}

fn converse(stream: UnixStream, request: Request) -> io::Result<(Reply, More)> {
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    write_line(&stream, &request)?;
    let mut more = BufReader::new(stream);
    let reply = read_line(&mut more, LONGEST_REPLY)?;
    if matches!(request, Request::Stop { .. } | Request::Delete { .. })
        && matches!(reply, Reply::Done)
    {
        more.get_ref().set_read_timeout(Some(TIMEOUT))?;
        // Ends when the server does; a server that lingers is not an error of this request.
        let _ = io::copy(&mut more, &mut io::sink());
    }
    Ok((reply, more))
}

fn write_line(mut stream: &UnixStream, message: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Takes a line and nothing that is behind it.
fn read_line<T: serde::de::DeserializeOwned>(
    from: &mut impl BufRead,
    longest: u64,
) -> io::Result<T> {
    let mut line = String::new();
    from.take(longest).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(stream: &UnixStream) -> Failure {
        match read_line(&mut BufReader::new(stream), LONGEST_REPLY) {
            Ok(Reply::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_answered_and_nonsense_is_too() {
        let path = std::env::temp_dir().join(format!("ublk-socket-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        assert!(ask(&path, Request::Stats).is_none(), "nobody listens yet");
        let listener = Listener::bind(&path).expect("bound");
        assert!(listener.take().is_none(), "nobody called yet");

        let nonsense = UnixStream::connect(&path).expect("connected");
        (&nonsense)
            .write_all(b"{\"op\":\"dance\"}\n")
            .expect("sent");
        assert!(listener.take().is_none());
        assert!(answered(&nonsense).message.contains("does not understand"));

        let call = UnixStream::connect(&path).expect("connected");
        write_line(&call, &Request::Stop { force: true }).expect("sent");
        let (caller, request) = listener.take().expect("a request");
        assert_eq!(request, Request::Stop { force: true });
        caller.answer(&Reply::Failed(Failure::in_use("busy")));
        assert_eq!(answered(&call).message, "busy");
        std::fs::remove_file(&path).expect("removed");
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
            text: true,
        };
        let (reply, mut more) = converse(ours, request).expect("an answer");
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        let mut found = String::new();
        more.read_to_string(&mut found).expect("text");
        assert!(found == trace, "{} bytes of {}", found.len(), trace.len());
        server.join().expect("no panic").expect("sent");
    }
}
