// SPDX-License-Identifier: MIT OR Apache-2.0
//! An asynchronous program that hands computing to a queue and awaits the results.
//!
//! ```sh
//! cargo run -p cmwq --example from_tokio
//! ```
//!
//! A handle is a future, so the only thread of the executor goes on serving the other tasks. A task
//! that is dropped while it waits drops the handle; the closure then goes on unseen.

use std::error::Error;
use workqueue::{Flags, JoinError, JoinHandle, Runtime};

/// Something that would hold up the executor.
fn count_primes(below: u32) -> usize {
    (2..below)
        .filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0))
        .count()
}

async fn answer(below: u32, counted: JoinHandle<usize>) -> Result<(), JoinError> {
    println!("{} primes below {below}", counted.await?);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = Runtime::builder().start()?;
    let queue = runtime.queue("primes").flags(Flags::UNBOUND).build()?;
    let executor = tokio::runtime::Builder::new_current_thread().build()?;
    executor.block_on(async {
        let mut tasks = Vec::new();
        for below in [100_000, 10_000, 1000, 100] {
            let counted = queue.spawn(move || count_primes(below))?;
            tasks.push(tokio::spawn(answer(below, counted)));
        }
        for task in tasks {
            task.await??;
        }
        Ok(())
    })
}
