// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records of what happened when, kept per thread until somebody wants them.
//!
//! Every thread that has something to record writes into a ring of its own; [`super::chrome`]
//! empties the rings into a file. The workqueue's events come from [`super::trace`]; a program adds
//! its own through [`emit`], to see both on one time line. Kernel counterpart: the ring buffers of
//! ftrace, one per CPU there.

use super::trace::TraceEvent;
use crate::sys::cpu;
use crate::sys::short_text::ShortText;
use crate::sys::sync::Mutex;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::Arc;
use std::{fs, mem};

/// How many arguments a record keeps; more are dropped.
pub const MAX_ARGS: usize = 6;

/// Records go into the rings.
const RING: u32 = 1 << 0;
/// Some runtime of this process has a callback.
const CALLBACK: u32 = 1 << 1;

/// Who wants events in this process. Relaxed everywhere: whoever reads a stale value records one
/// event too many or too few.
static SINKS: AtomicU32 = AtomicU32::new(0); // A
static CAPACITY: AtomicUsize = AtomicUsize::new(0); // A
static RINGS: Mutex<Vec<Arc<Ring>>> = Mutex::new(Vec::new()); // V

/// How a record stands on the time line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Something begins on this thread. What begins inside it ends before it.
    Begin,
    /// What began last on this thread ends.
    End,
    /// A moment.
    Instant,
}

/// The value of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// A number.
    Int(i64),
    /// An address, shown in hex.
    Address(usize),
    /// A text that lives for ever.
    Name(&'static str),
    /// A short text; made by [`Value::text`].
    Text(Text),
}

/// A text of at most 31 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text(ShortText);

impl Value {
    /// A text that is copied: its first 31 bytes.
    pub fn text(text: &str) -> Self {
        Self::Text(Text(ShortText::new(text)))
    }
}

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// CLOCK_MONOTONIC in nanoseconds.
    pub(crate) time: u64,
    pub(crate) phase: Phase,
    pub(crate) category: &'static str,
    pub(crate) name: &'static str,
    pub(crate) args: [Option<(&'static str, Value)>; MAX_ARGS],
}

/// What one thread has recorded.
#[derive(Debug)]
struct Ring {
    tid: i32,                // I
    name: String,            // I
    records: Mutex<Records>, // V
}

#[derive(Debug, Default)]
struct Records {
    kept: VecDeque<Record>,
    /// How many were overwritten.
    lost: u64,
}

thread_local! {
    static OWN: RefCell<Option<Arc<Ring>>> = const { RefCell::new(None) };
}

/// Asked for each event: does anybody want it?
pub(crate) fn anyone_listens() -> bool {
    SINKS.load(Ordering::Relaxed) != 0
}

/// A runtime with a callback has been made.
pub(crate) fn add_callback() {
    SINKS.fetch_or(CALLBACK, Ordering::Relaxed);
}

/// Begins to record, in all threads of this process; what was recorded before is dropped. Each
/// thread keeps its last `records_per_thread` records, of about 400 bytes. Items on their way at
/// this moment may lack their first events. While it is on, every enqueue takes the lock of its
/// pool. A process that was forked after its parent made a runtime records nothing.
pub fn start(records_per_thread: usize) {
    if is_forked_child() {
        return;
    }
    let _dropped = drain();
    CAPACITY.store(records_per_thread.max(1), Ordering::Relaxed);
    SINKS.fetch_or(RING, Ordering::Relaxed);
}

/// Ends recording. What was recorded is kept until it is written or recording begins anew.
pub fn stop() {
    SINKS.fetch_and(!RING, Ordering::Relaxed);
}

/// Asked before a lock is taken: do the rings belong to the process this one was forked from? Their
/// locks may be held for ever then.
fn is_forked_child() -> bool {
    cpu::fork_generation() != 0
}

/// Is anything recorded? To be asked by programs whose arguments are costly to make.
pub fn is_on() -> bool {
    SINKS.load(Ordering::Relaxed) & RING != 0
}

/// Records something of the program's own, on the calling thread. Costs one relaxed load while
/// nothing is recorded. The first record of a thread allocates its ring.
///
/// ```
/// use workqueue::trace::{self, Phase, Value};
/// trace::start(1024);
/// trace::emit(Phase::Begin, "disk", "read", &[("sector", Value::Int(8))]);
/// trace::emit(Phase::End, "disk", "read", &[]);
/// trace::stop();
/// let mut json = Vec::new();
/// trace::write_chrome(&mut json)?;
/// # assert!(String::from_utf8_lossy(&json).contains("\"sector\":8"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn emit(
    phase: Phase,
    category: &'static str,
    name: &'static str,
    args: &[(&'static str, Value)],
) {
    if !is_on() || is_forked_child() {
        return;
    }
    let mut kept = [None; MAX_ARGS];
    for (place, arg) in kept.iter_mut().zip(args) {
        *place = Some(*arg);
    }
    let record = Record {
        time: cpu::monotonic_ns(),
        phase,
        category,
        name,
        args: kept,
    };
    // A thread that is being torn down records nothing any more.
    let _torn_down = OWN.try_with(|own| {
        let mut own = own.borrow_mut();
        own.get_or_insert_with(Ring::of_current).push(record);
    });
}

impl Ring {
    fn of_current() -> Arc<Self> {
        let tid = cpu::current_tid();
        // The name `ps -L` shows; threads may change theirs.
        let name = fs::read_to_string(format!("/proc/self/task/{tid}/comm"));
        let ring = Arc::new(Self {
            tid,
            name: name.unwrap_or_default().trim_end().to_owned(),
            records: Mutex::default(),
        });
        RINGS.lock().push(ring.clone());
        ring
    }

    fn push(&self, record: Record) {
        let mut records = self.records.lock();
        while records.kept.len() >= CAPACITY.load(Ordering::Relaxed) {
            records.kept.pop_front();
            records.lost += 1;
        }
        records.kept.push_back(record);
    }
}

/// What the threads have recorded.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    /// Each thread that has recorded something, with the name it had then.
    pub(crate) threads: Vec<(i32, String)>,
    /// By time; records of one moment and thread in their order.
    pub(crate) records: Vec<(i32, Record)>,
    pub(crate) lost: u64,
}

/// Empties all rings.
pub(crate) fn drain() -> Recording {
    let mut all = Recording::default();
    if is_forked_child() {
        return all;
    }
    let mut rings = RINGS.lock();
    for ring in rings.iter() {
        let records = mem::take(&mut *ring.records.lock());
        all.lost += records.lost;
        if !records.kept.is_empty() {
            all.threads.push((ring.tid, ring.name.clone()));
        }
        let kept = records.kept.into_iter();
        all.records.extend(kept.map(|record| (ring.tid, record)));
    }
    // The thread that could still write has gone.
    rings.retain(|ring| Arc::strong_count(ring) > 1);
    drop(rings);
    all.records.sort_by_key(|(_, record)| record.time);
    all
}

/// Records an event of the workqueue.
pub(crate) fn record_event(event: &TraceEvent<'_>) {
    if !is_on() {
        return;
    }
    let category = "workqueue";
    let (work, function) = event.item();
    let item = [
        ("work", Value::Address(work)),
        ("function", Value::Name(function)),
    ];
    match *event {
        TraceEvent::Queue {
            workqueue,
            req_cpu,
            cpu,
            ..
        } => {
            let more = [
                ("workqueue", Value::text(workqueue)),
                ("req_cpu", Value::Int(req_cpu.into())),
                ("cpu", Value::Int(cpu.into())),
            ];
            let args = [&item[..], &more[..]].concat();
            emit(Phase::Instant, category, event.name(), &args);
        }
        TraceEvent::Activate { .. } => emit(Phase::Instant, category, event.name(), &item),
        // The two ends of a run make a bar with the function's name on it.
        TraceEvent::ExecuteStart { .. } | TraceEvent::ExecuteEnd { .. } => {
            let phase = match event {
                TraceEvent::ExecuteStart { .. } => Phase::Begin,
                _ => Phase::End,
            };
            let event = ("event", Value::Name(event.name()));
            emit(phase, category, function, &[item[0], item[1], event]);
        }
    }
}
