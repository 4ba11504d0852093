// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all tests without a kernel share: the client's side of a device, and how a test waits.

#![allow(dead_code)] // Each test program uses a part of it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ublk_ramdisk::mq::*;

/// How long a test waits for a sign before it is called hung. Nothing is timed by it.
pub const HUNG: Duration = Duration::from_secs(60);

/// Waits until the condition holds.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < HUNG, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// The front end: fills what is written with one byte, and collects the results.
#[derive(Default)]
pub struct Wire {
    /// Queue, tag and result of each request that has ended.
    pub ends: Mutex<Vec<(u16, u16, i32)>>,
    /// Written wherever the driver has memory.
    pub byte: AtomicU8,
    /// Keeps requests in flight instead of moving their bytes.
    pub keep: AtomicBool,
    pub kept: Mutex<Vec<(u16, InFlight)>>,
}

impl Wire {
    /// How many have ended.
    pub fn count(&self) -> usize {
        self.ends.lock().unwrap().len()
    }

    pub fn tags(&self) -> Vec<u16> {
        self.ends.lock().unwrap().iter().map(|end| end.1).collect()
    }
}

impl FrontEnd for Wire {
    fn transfer<'m>(&self, transfer: DataTransfer<'m>) -> TransferAnswer<'m> {
        let request = *transfer.request();
        if self.keep.load(Ordering::SeqCst) {
            let (token, answer) = transfer.keep();
            self.kept.lock().unwrap().push((request.tag(), token));
            return answer;
        }
        if let (Op::Write, Data::Contiguous(to)) = (request.op(), transfer.data()) {
            let byte = self.byte.load(Ordering::SeqCst);
            // SAFETY: the driver has pinned the request's range for the transfer.
            unsafe { to.as_ptr().write_bytes(byte, request.len() as usize) };
        }
        transfer.done(Ok(request.len()))
    }

    fn end(&self, queue: u16, request: &Request, result: i32) {
        let end = (queue, request.tag(), result);
        self.ends.lock().unwrap().push(end);
    }
}

/// The wire as the thread that inserts requests of this hardware queue sees it.
pub fn at(wire: &Wire, hctx: u16) -> ViaFrontEnd<'_> {
    ViaFrontEnd::new(wire, hctx)
}
