// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: items that call a closure, gates to wait at, machines to run on.
#![allow(dead_code)] // each test file uses its own part

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use workqueue::*;

/// Does a skipped test count as a failure here?
pub fn must_run() -> bool {
    std::env::var("CI").is_ok_and(|v| v == "1" || v == "true")
}

/// The first two CPUs of this machine; None, said where it is seen, if there is only one.
pub fn two_cpus(test: &str, rt: &Runtime) -> Option<(usize, usize)> {
    let topology = rt.topology();
    let mut all = topology.possible().iter();
    if let (Some(a), Some(b)) = (all.next(), all.next()) {
        return Some((a, b));
    }
    // Not by a macro that the harness swallows when the test passes.
    let _unread = writeln!(std::io::stderr(), "SKIP {test}: only one CPU");
    assert!(!must_run(), "CI must not skip");
    None
}

/// How long a test waits for a sign before it is called hung. Nothing is timed by it.
pub const HUNG: Duration = Duration::from_secs(60);

/// What an item calls with itself.
type Body<T> = Box<dyn Fn(&Arc<T>) + Send + Sync>;

/// An item that calls a closure with itself.
pub struct Call {
    pub work: Work<Call>,
    runs: AtomicUsize,
    f: Body<Call>,
}

impl_has_work! {
    impl HasWork<Self> for Call { self.work }
}

impl WorkItem for Call {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.runs.fetch_add(1, Ordering::SeqCst);
        (this.f)(&this);
    }
}

impl Call {
    pub fn new(f: impl Fn(&Arc<Self>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            work: new_work!("call"),
            runs: AtomicUsize::new(0),
            f: Box::new(f),
        })
    }

    pub fn noop() -> Arc<Self> {
        Self::new(|_| {})
    }

    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

/// A delayed item that calls a closure with itself.
pub struct Later {
    pub work: DelayedWork<Later>,
    runs: AtomicUsize,
    f: Body<Later>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Later { self.work }
}

impl WorkItem for Later {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.runs.fetch_add(1, Ordering::SeqCst);
        (this.f)(&this);
    }
}

impl Later {
    pub fn new(f: impl Fn(&Arc<Self>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            work: new_delayed_work!("later"),
            runs: AtomicUsize::new(0),
            f: Box::new(f),
        })
    }

    pub fn noop() -> Arc<Self> {
        Self::new(|_| {})
    }

    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

/// A door that is shut until opened, and a count of those who have come to it.
#[derive(Default)]
pub struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Arrives and waits until the gate is open, without telling the crate.
    pub fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        while !state.0 {
            let (s, t) = self.changed.wait_timeout(state, HUNG).unwrap();
            assert!(!t.timed_out(), "a gate was never opened");
            state = s;
        }
    }

    pub fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    /// Waits until `n` have arrived.
    pub fn wait_for(&self, n: usize) {
        let mut state = self.state.lock().unwrap();
        while state.1 < n {
            let (s, t) = self.changed.wait_timeout(state, HUNG).unwrap();
            assert!(!t.timed_out(), "only {} of {n} came to a gate", s.1);
            state = s;
        }
    }

    pub fn arrived(&self) -> usize {
        self.state.lock().unwrap().1
    }
}

/// Waits until the condition holds; for signs that come without a notification.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < HUNG, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// CPU time the calling thread has used.
pub fn cpu_time() -> Duration {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut ts) };
    Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32)
}

/// The threads of this process, all of them: while some end, /proc may leave out others.
fn tasks() -> Vec<std::fs::DirEntry> {
    let count = || -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("Threads:"));
        line.unwrap().trim().parse().unwrap()
    };
    let mut found = Vec::new();
    until("a whole list of the threads", || {
        let before = count();
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        found = tasks.flatten().collect();
        found.len() == before && count() == before
    });
    found
}

/// The threads of this process whose names begin so, by number. One that has been joined may
/// still be in it for a moment: wait with [`no_thread_named`].
pub fn threads(prefix: &str) -> BTreeMap<i32, String> {
    let named = |t: std::fs::DirEntry| {
        let name = std::fs::read_to_string(t.path().join("comm")).ok()?;
        let name = name.trim_end();
        let tid = t.file_name().to_str()?.parse().ok()?;
        name.starts_with(prefix).then(|| (tid, name.to_owned()))
    };
    tasks().into_iter().filter_map(named).collect()
}

/// Their names, sorted.
pub fn threads_named(prefix: &str) -> Vec<String> {
    let mut names: Vec<_> = threads(prefix).into_values().collect();
    names.sort_unstable();
    names
}

/// Waits until no thread has such a name.
pub fn no_thread_named(prefix: &str) {
    until(&format!("no thread is named {prefix}"), || {
        threads(prefix).is_empty()
    });
}

/// How often the helper threads of this process's runtimes have slept, in all.
pub fn sleeps_of_monitors() -> u64 {
    let sleeps = |tid: i32| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).ok()?;
        let line = text.lines().find(|l| l.starts_with("voluntary"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let monitors = threads("wq/monitor").into_keys();
    monitors.filter_map(sleeps).sum()
}

/// A log that several runs write to.
#[derive(Clone, Default)]
pub struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T: Clone> Log<T> {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn add(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    pub fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}

/// A machine of four CPUs on a virtual clock, and where the items of its queue "q" were queued:
/// the CPU asked for and the CPU taken.
pub fn four_cpus_watched() -> (Runtime, Arc<VirtualClock>, Log<(i32, i32)>) {
    let events = Log::new();
    let (sink, clock) = (events.clone(), VirtualClock::new());
    let builder = quiet().topology(machine(4, 1)).virtual_clock(clock.clone());
    let watched = builder.trace_sink(move |e| {
        if let TraceEvent::Queue {
            req_cpu,
            cpu,
            workqueue: "q",
            ..
        } = *e
        {
            sink.add((req_cpu, cpu));
        }
    });
    (watched.start().unwrap(), clock, events)
}

/// A simulated machine with these numbers of CPUs and nodes, each node one cache.
pub fn machine(cpus: usize, nodes: usize) -> Topology {
    Topology::simulated_nodes(cpus, nodes)
}

/// A runtime without the sampler: in most tests a wait stands for using the CPU.
pub fn quiet() -> RuntimeBuilder {
    Runtime::builder().sample_period(Duration::ZERO)
}

/// A started runtime on a made-up machine.
pub fn runtime(cpus: usize) -> Runtime {
    quiet()
        .topology(machine(cpus, 1))
        .start()
        .expect("threads can be made")
}

/// The same on a virtual clock, so that no stop of the machine passes for time in a run.
pub fn virtual_runtime(cpus: usize) -> (Arc<VirtualClock>, Runtime) {
    let clock = VirtualClock::new();
    let builder = quiet().topology(machine(cpus, 1));
    let rt = builder.virtual_clock(clock.clone()).start();
    (clock, rt.expect("threads can be made"))
}

/// A run, on this CPU if one is given, that stands at the gate until it is opened, without telling
/// the crate.
pub fn stand(q: &Queue, cpu: impl Into<Option<usize>>) -> Arc<Gate> {
    let gate = Gate::new();
    let g = gate.clone();
    let item = Call::new(move |_| g.pass());
    match cpu.into() {
        Some(cpu) => q.enqueue_on(cpu, item),
        None => q.enqueue(item),
    }
    .unwrap();
    gate.wait_for(1);
    gate
}

/// The word behind `key` in the dump of a queue that runs an item.
pub fn in_dump(rt: &Runtime, q: &Queue, cpu: impl Into<Option<usize>>, key: &str) -> String {
    let gate = stand(q, cpu);
    let dump = rt.dump_queue(q);
    gate.open();
    q.flush().unwrap();
    let at = dump.find(key).expect("a busy pwq") + key.len();
    dump[at..].split([' ', ':']).next().unwrap().to_owned()
}

/// The pool an item of the queue runs on.
pub fn pool_of(rt: &Runtime, q: &Queue, cpu: impl Into<Option<usize>>) -> String {
    in_dump(rt, q, cpu, "pwq of pool ")
}

/// Lets every creation of a thread fail while the switch is on.
pub fn fails_while(
    on: &Arc<AtomicBool>,
) -> impl Fn(&CreateAttempt) -> Result<(), i32> + Send + Sync + 'static {
    let on = on.clone();
    move |_| {
        if on.load(Ordering::SeqCst) {
            Err(libc::EAGAIN)
        } else {
            Ok(())
        }
    }
}

pub const PERCPU: Flags = Flags::PERCPU;
pub const UNBOUND: Flags = Flags::UNBOUND;
