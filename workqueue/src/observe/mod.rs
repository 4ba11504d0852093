// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be seen of a running system: events, counters, dumps.
//!
//! Here are the events of the workqueue, and where they go: to a callback, or into the records of
//! each thread. Emitted by [`crate::enqueue`], [`crate::pwq`] and [`crate::pool::run`]. The records
//! are kept by [`recorder`]; a program adds its own through [`emit`], to see both on one time line;
//! [`chrome`] writes them to a file. Kernel counterparts: the `workqueue` trace events, with the
//! same names and fields, and ftrace.

pub(crate) mod recorder;

pub(crate) mod chrome;

pub(crate) mod snapshot;

pub(crate) mod dump;

pub(crate) mod watchdog;

#[cfg(feature = "control-socket")]
pub(crate) mod control_socket;

use crate::sys::clock::VirtualClock;
pub use crate::sys::ShortText as Text;
use recorder::{moment, set_clock, Own, Recorder, Recording, Timed};
use std::collections::TryReserveError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

/// One event. `work` is the item's address: it tells items apart and must not be used as a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceEvent<'a> {
    /// `workqueue_queue_work`: a queueing call succeeded.
    Queue {
        /// The item.
        work: usize,
        /// Its function.
        function: &'static str,
        /// The queue's name.
        workqueue: &'a str,
        /// The CPU asked for, -1 for any.
        req_cpu: i32,
        /// The CPU of the pool it went to, -1 for unbound pools.
        cpu: i32,
    },
    /// `workqueue_activate_work`: the item went onto a worklist.
    Activate {
        /// The item.
        work: usize,
        /// Its function.
        function: &'static str,
    },
    /// `workqueue_execute_start`: the function is about to be entered.
    ExecuteStart {
        /// The item.
        work: usize,
        /// Its function.
        function: &'static str,
    },
    /// `workqueue_execute_end`: the function has returned. The item may be gone.
    ExecuteEnd {
        /// The item.
        work: usize,
        /// Its function.
        function: &'static str,
    },
}

impl TraceEvent<'_> {
    /// The event's name in the kernel.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queue { .. } => "workqueue_queue_work",
            Self::Activate { .. } => "workqueue_activate_work",
            Self::ExecuteStart { .. } => "workqueue_execute_start",
            Self::ExecuteEnd { .. } => "workqueue_execute_end",
        }
    }

    /// The item's address and function.
    pub(crate) fn item(&self) -> (usize, &'static str) {
        match *self {
            Self::Queue { work, function, .. }
            | Self::Activate { work, function }
            | Self::ExecuteStart { work, function }
            | Self::ExecuteEnd { work, function } => (work, function),
        }
    }
}

/// The callback for events. It is called with locks held: it must not call the crate or block.
pub(crate) type Sink = Box<dyn Fn(&TraceEvent<'_>) + Send + Sync>;

/// How many arguments a record keeps; more are dropped.
pub const MAX_ARGS: usize = 6;

/// Records go into the rings.
const RING: u32 = 1 << 0;

/// Some runtime of this process has a callback.
const CALLBACK: u32 = 1 << 1;

/// Who wants events in this process. Relaxed everywhere: a stale value costs one event too many or
/// too few.
static SINKS: AtomicU32 = AtomicU32::new(0); // A

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

impl Record {
    /// How it stands on the time line.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The group of events that viewers show or hide together.
    pub fn category(&self) -> &'static str {
        self.category
    }

    /// What happened.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Arguments, by name.
    pub fn args(&self) -> impl Iterator<Item = (&'static str, Value)> + '_ {
        self.args.iter().flatten().copied()
    }

    /// The same record with other values, to hide what differs from one run to the next.
    #[must_use]
    pub fn map_values(mut self, mut map: impl FnMut(Value) -> Value) -> Self {
        for (_, value) in self.args.iter_mut().flatten() {
            *value = map(*value);
        }
        self
    }
}

impl Timed for Record {
    fn time(&self) -> u64 {
        self.time
    }

    fn order(&self) -> u32 {
        self.order
    }
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

impl Value {
    /// A text that is copied: its first 31 bytes.
    pub fn text(text: &str) -> Self {
        Self::Text(Text::new(text))
    }
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub(super) time: u64,
    pub(super) order: u32,
    pub(super) phase: Phase,
    pub(super) category: &'static str,
    pub(super) name: &'static str,
    pub(super) args: [Option<(&'static str, Value)>; MAX_ARGS],
}

static RECORDER: Recorder<Record> = Recorder::new();

thread_local! {
    static OWN: Own<Record> = const { Own::new() };
}

/// True if an event is wanted. Tested for each event.
pub(crate) fn anyone_listens() -> bool {
    SINKS.load(Ordering::Relaxed) != 0
}

/// A runtime with a callback has been made.
pub(crate) fn add_callback() {
    SINKS.fetch_or(CALLBACK, Ordering::Relaxed);
}

/// Begins to record, in all threads of this process; what was recorded before is dropped. Each
/// thread keeps its last `records_per_thread` records, of about 400 bytes, in memory that is taken
/// now; threads made later get a ring as long as some are left. Items on their way at this moment
/// may lack their first events. While it is on, every enqueue takes the lock of its pool. A process
/// that was forked after its parent made a runtime records nothing.
pub fn start(records_per_thread: usize) {
    // Without memory nothing is recorded; `start_on` returns that error.
    let _ignored = start_on(records_per_thread, None);
}

/// As [`start`], perhaps with the times of a virtual clock.
///
/// # Errors
/// There is no memory for the records: nothing is recorded.
pub fn start_on(
    records_per_thread: usize,
    clock: Option<Arc<VirtualClock>>,
) -> Result<(), TryReserveError> {
    SINKS.fetch_and(!RING, Ordering::Relaxed);
    set_clock(clock);
    RECORDER.start(records_per_thread)?;
    SINKS.fetch_or(RING, Ordering::Relaxed);
    Ok(())
}

/// Ends recording. What was recorded is kept until it is written or recording begins again.
pub fn stop() {
    SINKS.fetch_and(!RING, Ordering::Relaxed);
}

/// True while events are recorded. For programs whose arguments are costly to make.
pub fn is_on() -> bool {
    SINKS.load(Ordering::Relaxed) & RING != 0
}

/// Records something of the program's own, on the calling thread. Costs one relaxed load while
/// nothing is recorded, and allocates nothing.
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
    if !is_on() {
        return;
    }
    let mut kept = [None; MAX_ARGS];
    for (place, arg) in kept.iter_mut().zip(args) {
        *place = Some(*arg);
    }
    let moment = moment();
    let record = Record {
        time: moment.time,
        order: moment.order,
        phase,
        category,
        name,
        args: kept,
    };
    RECORDER.record(&OWN, record);
}

/// Empties all rings; see [`crate::trace::write_chrome`].
pub fn drain() -> Recording<Record> {
    RECORDER.drain(is_on())
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
            let args = [
                item[0],
                item[1],
                ("workqueue", Value::text(workqueue)),
                ("req_cpu", Value::Int(req_cpu.into())),
                ("cpu", Value::Int(cpu.into())),
            ];
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

/// Records what a pool does beside items: `mayday` (a rescuer is called), `create_failed` (no worker could
/// be created) or `rescue` (a rescuer begins to serve the pool). `of` is the queue's or the thread's name.
pub(crate) fn record_pool(name: &'static str, of: &str, cpu: i32) {
    let args = [("of", Value::text(of)), ("cpu", Value::Int(cpu.into()))];
    emit(Phase::Instant, "workqueue", name, &args);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Runtime;

    #[test]
    fn s12_08_with_no_sink_an_event_is_not_even_made() {
        // No test of this program records or has a callback. One load then decides.
        assert!(!anyone_listens());
        let rt = Runtime::builder().build_early();
        rt.inner.env.trace(|| panic!("made for nobody"));
        assert!(!rt.inner.env.is_traced());
    }
}
