// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be asked of a server about its queues beside the counters: a trace, the files of
//! debugfs, and to run the queues by hand.
//!
//! A trace is recorded by the threads that serve; the thread made here only waits for its end, and
//! for the client: one that goes away ends the recording, and nothing is left of it.

use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use log::{info, warn};
use nix::sys::stat::{major, minor};
use ublk_ramdisk::error::Failure;
use ublk_ramdisk::mq::debugfs::DebugfsFile;
use ublk_ramdisk::mq::Queue;
use ublk_ramdisk::trace::{self, Format, Options, Recording};
use ublk_ramdisk::ublk::device::Device;

use super::control_socket::Caller;
use super::protocol::{Reply, Request, Served, StateVerb};
use super::run_dir::DeviceLock;
use super::signals::wait_readable;

/// A client that reads nothing for this long is broken.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that `poll` waits at a time.
const LONGEST_WAIT: u32 = 60_000;

/// Replies to a request that looks at the queues, or runs them.
pub fn answer(
    caller: Caller,
    request: Request,
    served: &Served,
    lock: &DeviceLock,
    device: &Device,
) {
    let Some(queue) = device.queue() else {
        return caller.answer(&Reply::Failed(Failure::runtime("the disk is stopped")));
    };
    match request {
        Request::Trace {
            millis,
            records,
            format,
        } => {
            begin_trace(caller, (millis, records, format), queue.label(), served);
            // The counter of memory begins here; from then on it follows what changes.
            device.trace_memory();
        }
        Request::Debugfs { files: false } => {
            caller.answer(&Reply::Debugfs(all_files(device, queue)));
        }
        Request::Debugfs { files: true } => {
            let place = lock.write_files(&all_files(device, queue));
            let place = place.map(|place| Reply::Written(place.display().to_string()));
            caller.answer(&place.unwrap_or_else(Reply::Failed));
        }
        Request::WriteState { verb } => {
            match verb {
                StateVerb::Run => queue.run_hw_queues(true),
                StateVerb::Start => queue.start_stopped_hw_queues(true),
                StateVerb::Kick => queue.kick_requeue_list(),
            }
            caller.answer(&Reply::Done);
        }
        // The main loop passes no other.
        _ => caller.answer(&Reply::Failed(Failure::runtime("not a question"))),
    }
}

/// The mirror's files, and those of what is around it.
fn all_files(device: &Device, queue: &Queue) -> Vec<DebugfsFile> {
    let mut files = queue.debugfs();
    files.extend(device.stats().files());
    files
}

/// What was asked for, and the device it is of.
struct Wanted {
    millis: u32,
    format: Format,
    /// By which the recorded events name the device: [`Queue::label`].
    label: u32,
    /// Major and minor of /dev/ublkbN, 0 if the node cannot be looked at.
    numbers: (u32, u32),
    name: String,
}

/// Starts the recording and the thread that waits for its end. The reply comes at once: with it the
/// client knows that requests are recorded from now on.
fn begin_trace(
    caller: Caller,
    (millis, records, format): (u32, u32, Format),
    label: u32,
    served: &Served,
) {
    let options = Options {
        records: records as usize,
        clock: None,
    };
    let recording = match trace::start(options) {
        Ok(recording) => recording,
        Err(why) => return caller.answer(&Reply::Failed(why.into())),
    };
    let node = std::fs::metadata(&served.path).map_or(0, |node| node.rdev());
    let wanted = Wanted {
        millis,
        format,
        label,
        numbers: (major(node) as u32, minor(node) as u32),
        name: format!("ublkb{}", served.id),
    };
    caller.answer(&Reply::Done);
    let stream = caller.into_stream();
    let name = "trace".to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        match follow(recording, &wanted, &stream) {
            Ok(events) => info!("trace of {}: {events} events", wanted.name),
            Err(error) => info!("trace of {} given up: {error}", wanted.name),
        }
    });
    if let Err(error) = thread {
        // The recording went with the closure, and the connection with it.
        warn!("no thread for a trace: {error}");
    }
}

/// Waits for the end of a recording and sends it.
fn follow(recording: Recording, wanted: &Wanted, stream: &UnixStream) -> io::Result<usize> {
    let mut left = wanted.millis;
    while left > 0 {
        let now = left.min(LONGEST_WAIT);
        // A client has nothing more to say: what can be read is its end.
        if wait_readable(&[stream.as_fd()], Some(now as u16))?[0] {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        left -= now;
    }
    let mut trace = recording.finish();
    // Events carry a label only; the device has its numbers and its name from here.
    trace.name_device(wanted.label, wanted.numbers, &wanted.name);
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut out = BufWriter::with_capacity(1 << 16, stream);
    trace.write(wanted.format, &mut out)?;
    out.flush()?;
    Ok(trace.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn wanted(millis: u32) -> Wanted {
        Wanted {
            millis,
            format: Format::Chrome,
            label: 0,
            numbers: (259, 0),
            name: "ublkb0".to_owned(),
        }
    }

    fn start() -> Recording {
        trace::start(Options::default()).expect("nobody else records")
    }

    #[test]
    fn k03_a_trace_is_sent_when_its_time_is_over_and_dropped_when_nobody_waits() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        follow(start(), &wanted(1), &ours).expect("sent");
        drop(ours);
        let mut text = String::new();
        (&theirs)
            .read_to_string(&mut text)
            .expect("the whole of it");
        assert!(text.ends_with("\n]}\n"), "{text}");

        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let recording = start();
        drop(theirs);
        let given_up = follow(recording, &wanted(600_000), &ours).expect_err("nobody there");
        assert_eq!(given_up.kind(), io::ErrorKind::BrokenPipe);
        drop(start());
    }
}
