// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that hears signals and the death of the device, even while the main thread is busy
//! stopping a disk.
//!
//! It turns each event into an order and wakes the main loop, which polls a pipe. The first
//! signal asks for an orderly end, the second for a forced one; if the main thread cannot even do
//! that, the process exits and the kernel takes the disk away with it.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use log::{error, info};

use super::signals::{wait_readable, EndSignals};
use crate::logger;

/// How long the main thread may take to end after a second signal.
const FORCED_END_MILLIS: u16 = 10_000;

/// What the main thread is to do. Each flag is set once and never cleared.
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

/// The main thread's side: the orders, and the pipe that wakes it.
pub struct Watch {
    orders: Arc<Orders>,
    wake_ups: PipeReader,
}

impl Watch {
    /// Starts the thread.
    pub fn start(signals: EndSignals, death: OwnedFd) -> io::Result<Watch> {
        let (wake_ups, waker) = io::pipe()?;
        let orders = Arc::new(Orders::default());
        let shared = Arc::clone(&orders);
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watch(&signals, &death, &shared, waker))?;
        Ok(Watch { orders, wake_ups })
    }

    /// What is to be done.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Takes the wake-ups so far; called when there are some.
    pub fn take_wake_ups(&mut self) {
        let _ = self.wake_ups.read(&mut [0; 16]);
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_ups.as_fd()
    }
}

fn watch(signals: &EndSignals, death: &OwnedFd, orders: &Orders, mut waker: PipeWriter) {
    loop {
        let all = [signals.as_fd(), death.as_fd()];
        // A dead device stays readable, so it is watched only until it died.
        let files = if orders.died() { &all[..1] } else { &all[..] };
        let timeout = orders.force().then_some(FORCED_END_MILLIS);
        let ready = match wait_readable(files, timeout) {
            Ok(ready) => ready,
            Err(error) => {
                error!("waiting for signals: {error}");
                orders.died.store(true, Ordering::Relaxed);
                let _ = waker.write(b"!");
                return;
            }
        };
        if !ready.contains(&true) && orders.force() {
            error!("the disk does not stop; ending without it");
            logger::flush();
            std::process::exit(1);
        }
        if ready[0] {
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
        if waker.write(b"!").is_err() {
            return;
        }
    }
}
