// SPDX-License-Identifier: MIT OR Apache-2.0
//! A job that is done again and again until it is cancelled.
//!
//! ```sh
//! cargo run -p cmwq --example periodic
//! ```
//!
//! The item arms its own timer at the end of each run, so runs never pile up. `disable_sync` takes
//! it off its timer or waits for the present run, and keeps that run from arming it once more.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;
use workqueue::{
    impl_has_delayed_work, new_delayed_work, DelayedWork, Flags, Queue, Refusal, Runtime, WorkItem,
};

struct Heartbeat {
    beats: AtomicU32,
    period: Duration,
    queue: Queue,
    work: DelayedWork<Heartbeat>,
}

impl_has_delayed_work! { impl HasDelayedWork<Self> for Heartbeat { self.work } }

impl WorkItem for Heartbeat {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        println!("beat {}", this.beats.fetch_add(1, Relaxed) + 1);
        let (queue, period) = (this.queue.clone(), this.period);
        match queue.enqueue_delayed(period, this) {
            Ok(()) => {}
            Err(e) if e.reason() == Refusal::Disabled => println!("cancelled during a beat"),
            Err(e) => println!("no further beat: {e}"),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::builder().start()?;
    let queue = runtime.queue("heartbeat").flags(Flags::PERCPU).build()?;
    let heartbeat = Arc::new(Heartbeat {
        beats: AtomicU32::new(0),
        period: Duration::from_millis(50),
        queue: queue.handle(),
        work: new_delayed_work!("beat"),
    });
    queue.enqueue(heartbeat.clone())?;
    std::thread::sleep(Duration::from_millis(220));
    let was_pending = heartbeat.work.disable_sync()?.is_some();
    println!("cancelled, pending: {was_pending}");
    Ok(())
}
