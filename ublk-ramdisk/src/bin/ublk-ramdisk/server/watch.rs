// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that hears signals and the death of the device, even while the main thread is busy
//! stopping a disk.
//!
//! It turns each event into an order and wakes the main loop. The first signal asks for an orderly
//! end, the second for a forced one; if the main thread cannot even do that, the process exits and
//! the kernel takes the disk away with it.
//!
//! | event | order | the main loop |
//! |---|---|---|
//! | first signal | terminate | stops the disk as soon as nobody uses it, and deletes it |
//! | second signal | force | deletes the disk though it is used; has ten seconds for that |
//! | a queue thread has ended | died | deletes what is left, status 1 |

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use log::{error, info};

use super::signals::{wait_readable, EndSignals};
use crate::logger;

/// After a second signal the main thread has this many times [`A_WHILE`] to end: ten seconds. Counted
/// in parts, so that time in which the whole process is stopped does not count.
const FORCED_END: u32 = 100;
/// Milliseconds.
const A_WHILE: u16 = 100;

/// What the main thread is to do. Each flag is set once and never cleared.
/// Relaxed: the channel behind `wake` orders a flag before the main thread's look at it.
#[derive(Default)]
pub struct Orders {
    terminate: AtomicBool,
    force: AtomicBool,
    died: AtomicBool,
}

impl Orders {
    /// Has a first signal arrived?
    pub fn terminate(&self) -> bool {
        self.terminate.load(Ordering::Relaxed)
    }

    /// Has a second signal arrived?
    pub fn force(&self) -> bool {
        self.force.load(Ordering::Relaxed)
    }

    /// Has the device stopped being served?
    pub fn died(&self) -> bool {
        self.died.load(Ordering::Relaxed)
    }
}

impl Orders {
    /// Starts the thread. It calls `wake` when there is a new order, until that returns false.
    ///
    /// `signals` must be blocked in every thread; `death` is readable once a queue thread has ended.
    pub fn follow(
        signals: EndSignals,
        death: OwnedFd,
        wake: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Arc<Orders>> {
        let orders = Arc::new(Orders::default());
        let shared = Arc::clone(&orders);
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watch(&signals, &death, &shared, wake))?;
        Ok(orders)
    }
}

/// The thread: returns when the main loop is gone, or nothing can be waited for any more.
fn watch(signals: &EndSignals, death: &OwnedFd, orders: &Orders, wake: impl Fn() -> bool) {
    let mut left = FORCED_END;
    loop {
        let all = [signals.as_fd(), death.as_fd()];
        // A dead device stays readable, so it is watched only until it died.
        let files = if orders.died() { &all[..1] } else { &all[..] };
        // A limit only after the second signal: then the parts are counted.
        let ready = match wait_readable(files, orders.force().then_some(A_WHILE)) {
            Ok(ready) => ready,
            Err(error) => {
                error!("waiting for signals: {error}");
                orders.died.store(true, Ordering::Relaxed);
                wake();
                return;
            }
        };
        if orders.force() && !ready.contains(&true) {
            left -= 1;
            if left == 0 {
                error!("the disk does not stop; ending without it");
                logger::flush();
                std::process::exit(1);
            }
            continue;
        }
        if ready[0] {
            // All at once: two signals before one look are a first and a second.
            while let Some(signal) = signals.take() {
                info!("{signal}");
                if orders.terminate.swap(true, Ordering::Relaxed) {
                    orders.force.store(true, Ordering::Relaxed);
                }
            }
        }
        if ready.get(1) == Some(&true) {
            orders.died.store(true, Ordering::Relaxed);
        }
        if !wake() {
            return;
        }
    }
}
