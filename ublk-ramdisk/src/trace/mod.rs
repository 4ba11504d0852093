// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happened to each request, and when (K3).
//!
//! While a [`Recording`] lives, every thread writes the events of [`event`] into a ring of its own (the
//! workqueue crate's). A ring has a fixed size and is made beforehand, so that a request allocates
//! nothing. A full ring keeps its newest events and counts the others. Without a recording an event
//! costs one relaxed load. The workqueue's own events are recorded beside them, on the same clock.
//! A [`Trace`] is written as a page that shows it, as a file for Perfetto, or as lines like blktrace's.
//!
//! `event` says what is recorded. `timeline` merges both kinds of records, `visits` finds the way of
//! each request through the threads, `chrome`, `html` and `text` write. `source_state` keeps what refuses
//! requests now.
//!
//! ```
//! use ublk_ramdisk::trace;
//! let recording = trace::start(trace::Options::default())?;
//! // ... serve requests ...
//! let trace = recording.finish();
//! let mut file = Vec::new();
//! trace.write_chrome(&mut file)?;
//! # assert!(file.starts_with(b"{"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod event;

mod source_state;

mod timeline;

mod visits;

mod chrome;

mod html;

mod text;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use workqueue::trace::{self as rings, Own, Recorder};
use workqueue::VirtualClock;

use crate::mq::{Request, Source};
use crate::sys::lock::Lock;
pub use event::{Event, Kind, Pressing, Reclaimed};
pub(crate) use source_state::SourceState;

/// Does a recording go on? Relaxed everywhere: a thread that reads a stale value records one event too
/// many or too few.
static ON: AtomicBool = AtomicBool::new(false);
/// Does a [`Recording`] exist? There is one at a time.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// The block events of all threads. The workqueue crate has a recorder of its own for its events.
static RECORDER: Recorder<Event> = Recorder::new();

// The ring of this thread: only this thread writes to it.
thread_local! {
    static OWN: Own<Event> = const { Own::new() };
}

/// How to record.
#[derive(Clone, Debug)]
pub struct Options {
    /// Events of 48 bytes that each thread keeps, and an eighth as many of the workqueue's, which are
    /// larger.
    pub records: usize,
    /// The virtual clock that times are taken from; none for the machine's.
    pub clock: Option<Arc<VirtualClock>>,
}

/// Upper limit of [`Options::records`]: 48 MiB for each thread.
pub const MOST_RECORDS: usize = 1 << 20;
/// Default of [`Options::records`].
pub const RECORDS: usize = 1 << 16;

impl Default for Options {
    fn default() -> Self {
        Self {
            records: RECORDS,
            clock: None,
        }
    }
}

/// Why nothing is recorded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotRecord {
    /// There is a recording already.
    #[error("a trace is being recorded already; wait for its end")]
    Taken,
    /// There is no memory for the events.
    #[error("there is no memory for the events of each thread: lower --records")]
    NoMemory,
}

#[cfg(not(loom))]
impl From<CannotRecord> for crate::error::Failure {
    fn from(why: CannotRecord) -> Self {
        match why {
            CannotRecord::Taken => Self::in_use(why.to_string()),
            CannotRecord::NoMemory => Self::environment(why.to_string()),
        }
    }
}

/// Begins to record what all threads of this process do.
///
/// # Errors
/// Another recording goes on, or there is no memory for the rings.
pub fn start(options: Options) -> Result<Recording, CannotRecord> {
    if TAKEN.swap(true, Ordering::Acquire) {
        return Err(CannotRecord::Taken);
    }
    let records = options.records.clamp(1, MOST_RECORDS);
    // Dropped on an error, it ends what has begun.
    let mut recording = Recording {
        from: 0,
        is_virtual: options.clock.is_some(),
    };
    // First the workqueue's, which sets the clock of both.
    rings::start_on((records / 8).max(64), options.clock)
        .and_then(|()| RECORDER.start(records))
        .map_err(|_| CannotRecord::NoMemory)?;
    ON.store(true, Ordering::Relaxed);
    recording.from = rings::now();
    Ok(recording)
}

/// A recording that goes on. If it is dropped, it ends and nothing is kept.
#[derive(Debug)]
pub struct Recording {
    /// When it began, in nanoseconds of its clock.
    from: u64,
    is_virtual: bool,
}

impl Recording {
    /// Ends it and collects the records of all threads. On a virtual clock equal runs have equal
    /// traces: the numbers of threads and the addresses of items become 1, 2, 3 and so on.
    pub fn finish(self) -> Trace {
        self.stop();
        let mut trace = Trace {
            from: self.from,
            events: RECORDER.drain(false),
            works: rings::drain(),
            devices: Vec::new(),
            is_virtual: self.is_virtual,
        };
        if self.is_virtual {
            trace.renumber();
        }
        trace
    }

    /// From here on nothing new is recorded; what was stays in the rings.
    fn stop(&self) {
        ON.store(false, Ordering::Relaxed);
        rings::stop();
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.stop();
        // Frees the records, if `finish` has not taken them.
        let _unwanted = (RECORDER.drain(false), rings::drain());
        // Release pairs with the Acquire in `start`: the next one finds the rings at rest.
        TAKEN.store(false, Ordering::Release);
    }
}

/// What was recorded.
#[derive(Debug)]
pub struct Trace {
    /// When the recording began: texts count from there.
    from: u64,
    /// What the mirror, the store and the sources of pressure did.
    events: rings::Recording<Event>,
    /// What the workqueues did, kblockd's among them.
    works: rings::Recording<rings::Record>,
    /// Those that were named. Others are written under their label.
    devices: Vec<Device>,
    /// Equal runs must give equal files: process and thread numbers are hidden.
    is_virtual: bool,
}

/// Numbers and name of a device.
#[derive(Clone, Debug)]
struct Device {
    label: u32,
    major: u32,
    minor: u32,
    name: String,
}

/// What a trace is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A file for Perfetto and chrome://tracing.
    Chrome,
    /// A page that shows it.
    Html,
    /// Lines in the columns of blkparse.
    Text,
}

impl Trace {
    /// Writes it.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Chrome => self.write_chrome(out),
            Format::Html => self.write_html(out),
            Format::Text => self.write_text(out),
        }
    }

    /// Gives the device with this [`crate::mq::Queue::label`] its numbers and its name.
    pub fn name_device(&mut self, label: u32, (major, minor): (u32, u32), name: &str) {
        self.devices.push(Device {
            label,
            major,
            minor,
            name: name.to_owned(),
        });
    }

    /// The block events in the order of time.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.records.iter().map(|(_, event)| event)
    }

    /// The number of records, of both kinds.
    pub fn len(&self) -> usize {
        self.events.records.len() + self.works.records.len()
    }

    /// True if there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of records that were overwritten by newer ones.
    pub fn lost(&self) -> u64 {
        self.events.lost + self.works.lost
    }

    fn device(&self, label: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.label == label)
    }

    /// Major and minor number; 0 and the label for a device without a node.
    fn numbers(&self, label: u32) -> (u32, u32) {
        self.device(label)
            .map_or((0, label), |device| (device.major, device.minor))
    }

    /// The names of all threads, each once.
    fn threads(&self) -> Vec<(i32, &str)> {
        let all = self.events.threads.iter().chain(&self.works.threads);
        let mut threads: Vec<_> = all.map(|(tid, name)| (*tid, name.as_str())).collect();
        threads.sort_unstable();
        threads.dedup_by_key(|(tid, _)| *tid);
        threads
    }
}

/// Are events recorded? Called for each event.
#[inline]
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Records an event, and fills in its time, order and CPU. Called only if [`is_on`].
///
/// Cold: nearly always there is no recording, and then the caller's path stays short.
#[cold]
pub(crate) fn record(event: Event) {
    let moment = rings::moment();
    let event = Event {
        time: moment.time,
        order: moment.order,
        cpu: moment.cpu as u16,
        ..event
    };
    RECORDER.record(&OWN, event);
}

/// An event of the device with this label.
fn of_device(kind: Kind, device: u32) -> Event {
    Event {
        time: 0,
        order: 0,
        sector: 0,
        value: 0,
        device,
        sectors: 0,
        hctx: event::NO_HCTX,
        tag: event::NO_TAG,
        cpu: 0,
        how: 0,
        source: None,
        op: None,
        fua: false,
        kind,
    }
}

/// An event of a hardware queue.
pub(crate) fn of_hctx(kind: Kind, device: u32, hctx: u16) -> Event {
    Event {
        hctx,
        ..of_device(kind, device)
    }
}

/// An event of a request.
pub(crate) fn of_request(kind: Kind, device: u32, hctx: u16, request: &Request) -> Event {
    Event {
        sector: request.offset() >> 9,
        sectors: u32::try_from(request.len() >> 9).unwrap_or(u32::MAX),
        op: Some(request.op()),
        fua: request.is_fua(),
        tag: request.tag(),
        ..of_hctx(kind, device, hctx)
    }
}

/// Records that `bytes` bytes of a store were given back. `device` is a [`crate::mq::Queue::label`].
#[inline]
pub fn reclaim(device: u32, what: Reclaimed, bytes: u64) {
    if is_on() {
        record(Event {
            how: what as u16,
            value: i64::try_from(bytes).unwrap_or(i64::MAX),
            ..of_device(Kind::Reclaim, device)
        });
    }
}

/// Records that a store uses `used` bytes from now on. `device` is a [`crate::mq::Queue::label`].
#[inline]
pub fn memory(device: u32, used: u64) {
    if is_on() {
        record(Event {
            value: i64::try_from(used).unwrap_or(i64::MAX),
            ..of_device(Kind::Memory, device)
        });
    }
}

/// The names of rules, by the label of the device and the slot.
static RULES: Lock<BTreeMap<(u32, u16), String>> = Lock::new(BTreeMap::new());

/// Names the rules of a device, as its traces show them. A name stays until the slot has another.
pub(crate) fn name_rules(device: u32, names: Vec<(u16, String)>) {
    let mut rules = RULES.lock();
    rules.extend(names.into_iter().map(|(slot, name)| ((device, slot), name)));
}

fn name_of_rule(device: u32, slot: u16) -> String {
    let rules = RULES.lock();
    rules.get(&(device, slot)).cloned().unwrap_or_default()
}

/// Records that the rule in this slot did something to a request. Called only if [`is_on`].
#[cold]
pub(crate) fn rule(device: u32, hctx: u16, request: &Request, slot: u16) {
    record(Event {
        how: slot,
        ..of_request(Kind::Rule, device, hctx, request)
    });
}

/// Records that a source of BUSY begins or ceases to refuse requests. `device` is a [`crate::mq::Queue::label`].
#[inline]
pub fn pressure(device: u32, source: Source, state: Pressing) {
    if is_on() {
        record(Event {
            source: Some(source),
            how: state as u16,
            value: (state != Pressing::Ceased).into(),
            ..of_device(Kind::Pressure, device)
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn k03_the_store_and_the_sources_have_events_of_their_own() {
        // Other tests of this program may have devices, which are counted from 0.
        const OWN: u32 = u32::MAX;
        pressure(OWN, Source::Psi, Pressing::Began);
        let recording = start(Options::default()).expect("nobody else records");
        assert_eq!(start(Options::default()).err(), Some(CannotRecord::Taken));
        pressure(OWN, Source::Psi, Pressing::Began);
        reclaim(OWN, Reclaimed::Zeros, 4096);
        let mut trace = recording.finish();
        trace.name_device(OWN, (259, 3), "ublkb0");
        let own = trace.events().filter(|event| event.device == OWN);
        let seen: Vec<_> = own.map(Event::detail).collect();
        assert_eq!(seen, ["psi began", "zeros 4096"]);
        let mut text = Vec::new();
        trace.write_text(&mut text).expect("memory");
        let text = String::from_utf8(text).expect("text");
        let line = text
            .lines()
            .find(|line| line.contains("259,3") && line.contains(" reclaim "))
            .expect("a line");
        assert!(line.ends_with("zeros 4096"), "{line}");
        drop(start(Options::default()).expect("it has ended"));
    }
}
