// SPDX-License-Identifier: MIT OR Apache-2.0
//! One item, queued and waited for, each time a line comes in: the shortest way through the crate,
//! to follow with a debugger or a profiler.
//!
//! ```sh
//! cargo run -p cmwq --example one_item
//! ```
//!
//! `scripts/journeys` counts what runs for each.

use std::error::Error;
use std::io::{stdin, BufRead};
use std::sync::Arc;

use workqueue::{impl_has_work, new_work, Runtime, Work, WorkItem};

struct Greeting {
    work: Work<Greeting>,
}

impl_has_work! { impl HasWork<Self> for Greeting { self.work } }

impl WorkItem for Greeting {
    type Pointer = Arc<Greeting>;

    fn run(_: Arc<Greeting>) {
        println!("hello from {:?}", std::thread::current().name());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::builder().start()?;
    let queue = runtime.queue("greetings").build()?;
    let greeting = Arc::new(Greeting { work: new_work!() });
    println!("one item for each line");
    for line in stdin().lock().lines() {
        line?;
        queue
            .enqueue(greeting.clone())
            .map_err(|refused| refused.to_string())?;
        greeting.work.flush()?;
    }
    Ok(())
}
