// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that hears signals and the death of the device, even while the main thread is busy
//! stopping a disk.
//!
//! It turns what it hears into orders and rings a bell, a pipe that the main loop polls. The first
//! signal asks for an orderly end, the second for a forced one; if the main thread cannot even do
//! that, the process exits and the kernel takes the disk away with it.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use log::{error, info};

use super::signals::{wait_readable, EndSignals};
use crate::logger;

/// After a second signal the main thread gets this long to end in good order.
const LAST_PATIENCE_MILLIS: u16 = 10_000;

/// What the main thread shall do. Each flag goes up once and never down.
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

/// The main thread's side: the orders and the bell.
pub struct Watch {
    orders: Arc<Orders>,
    bell: PipeReader,
}

impl Watch {
    /// Starts the thread.
    pub fn start(signals: EndSignals, death: OwnedFd) -> io::Result<Watch> {
        let (bell, rope) = io::pipe()?;
        let orders = Arc::new(Orders::default());
        let shared = Arc::clone(&orders);
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watch(&signals, &death, &shared, rope))?;
        Ok(Watch { orders, bell })
    }

    /// What is to be done.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Silences the bell; called when it can be read.
    pub fn hear(&mut self) {
        let _ = self.bell.read(&mut [0; 16]);
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

fn watch(signals: &EndSignals, death: &OwnedFd, orders: &Orders, mut rope: PipeWriter) {
    loop {
        let all = [signals.as_fd(), death.as_fd()];
        // A dead device stays readable, so it is watched only until it died.
        let files = if orders.died() { &all[..1] } else { &all[..] };
        let patience = orders.force().then_some(LAST_PATIENCE_MILLIS);
        let ready = match wait_readable(files, patience) {
            Ok(ready) => ready,
            Err(error) => {
                error!("waiting for signals: {error}");
                orders.died.store(true, Ordering::Relaxed);
                let _ = rope.write(b"!");
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
        if rope.write(b"!").is_err() {
            return;
        }
    }
}
