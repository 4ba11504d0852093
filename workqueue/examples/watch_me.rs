// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program to be watched: a few queues, each with a habit that shows in its counters.
//!
//! ```sh
//! cargo run -p cmwq --features tools --example watch_me -- /tmp/watch-me.sock
//! cargo run -p cmwq --features tools --bin wq-monitor -- --socket /tmp/watch-me.sock
//! cargo run -p cmwq --features tools --bin wq-dump -- --socket /tmp/watch-me.sock
//! ```
//!
//! What to look for:
//!
//! * `fetch` waits inside `blocking`: every wait lets the next item of its CPU begin, which counts
//!   in CMW/RPR, and its CPU time stays near 0.
//! * `render` burns well over 10 ms of CPU at a time while `events` has items behind it: after 10 ms it
//!   is set aside, which counts in CPUitsv.
//! * `tidy` is unbound and queues itself again after a delay: its total rises slowly, and there is
//!   never a run in flight for long.
//! * `journal` is ordered: one run at a time, however many are queued; infl is 0 or 1.
//! * `writeback` is MEM_RECLAIM: it has a rescuer, listed by wq-dump, and mayday and rescued are
//!   numbers instead of `-`. They stay 0 as long as threads can be made.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use workqueue::{
    blocking, impl_has_delayed_work, new_delayed_work, DelayedWork, Flags, Queue, Runtime, WorkItem,
};

/// An item that does something and queues itself again.
struct Habit {
    work: DelayedWork<Habit>,
    queue: Queue,
    pause: Duration,
    act: fn(),
}

impl_has_delayed_work! { impl HasDelayedWork<Self> for Habit { self.work } }

impl WorkItem for Habit {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        (this.act)();
        let (queue, pause) = (this.queue.clone(), this.pause);
        // Refused once the queue is drained: then the habit ends.
        let _refused = queue.enqueue_delayed(pause, this);
    }
}

/// Begins a habit on a queue, on one CPU for all of them: a per-CPU item stays where it is, and
/// these shall meet.
fn begin(queue: &Queue, cpu: usize, pause: Duration, act: fn()) -> Result<(), Box<dyn Error>> {
    let habit = Arc::new(Habit {
        work: new_delayed_work!(),
        queue: queue.clone(),
        pause,
        act,
    });
    queue.enqueue_delayed_on(cpu, Duration::ZERO, habit)?;
    Ok(())
}

fn wait() {
    blocking(|| std::thread::sleep(Duration::from_millis(5)));
}

/// So many steps that each needs the one before: far more than 10 ms on any machine of today.
fn burn() {
    let steps = 20_000_000;
    std::hint::black_box(
        (0..steps).fold(1u64, |x, n| x.rotate_left(5).wrapping_mul(0x9E37_79B9) ^ n),
    );
}

fn little() {
    std::hint::black_box(0);
}

/// Lives until the runtime's socket at `path` has been there for `time`, or for ever.
pub fn live(path: &Path, time: Option<Duration>) -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::builder().start()?;
    let queue = |name: &str, flags: Flags| runtime.queue(name).flags(flags).build();
    let fetch = queue("fetch", Flags::PERCPU)?;
    let render = queue("render", Flags::PERCPU)?;
    let tidy = queue("tidy", Flags::UNBOUND)?;
    let writeback = queue("writeback", Flags::PERCPU | Flags::MEM_RECLAIM)?;
    let journal = runtime.ordered("journal", Flags::empty())?;

    let socket = runtime.open_control_socket(path)?;
    let cpu = runtime.online_cpus().lowest().unwrap_or(0);
    println!("watch me at {}", socket.path().display());
    for _ in 0..4 {
        begin(&fetch, cpu, Duration::from_millis(10), wait)?;
        begin(&journal, cpu, Duration::from_millis(20), wait)?;
    }
    begin(&render, cpu, Duration::from_millis(50), burn)?;
    begin(
        runtime.system_percpu(),
        cpu,
        Duration::from_millis(5),
        little,
    )?;
    begin(&tidy, cpu, Duration::from_millis(200), little)?;
    begin(&writeback, cpu, Duration::from_millis(100), wait)?;

    match time {
        Some(time) => std::thread::sleep(time),
        None => loop {
            std::thread::park();
        },
    }
    runtime.shutdown()?;
    Ok(())
}

/// `watch_me PATH [SECONDS]`
#[cfg_attr(test, allow(dead_code))] // the tests call `live`
fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let path = words.next().ok_or("usage: watch_me PATH [SECONDS]")?;
    let seconds = words.next().map(|w| w.to_string_lossy().parse());
    live(
        Path::new(&path),
        seconds.transpose()?.map(Duration::from_secs),
    )
}
