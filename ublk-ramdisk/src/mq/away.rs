// SPDX-License-Identifier: MIT OR Apache-2.0
//! The home of threads that have none: what a call on a worker's thread ends goes to the
//! [`Transport`], one by one, or together at the end of a run.
//!
//! Telling the client may cost a system call however many results there are. So where the transport
//! likes it ([`Transport::gathers`]) a run of a hardware queue keeps its results until it is over,
//! on the stack of whoever runs it: no lock, no memory. They count as handed out meanwhile. A run
//! that has ended much hands out before its end: its first client has waited long enough.

use super::custody::{Moved, Moving};
use super::operations::{Home, Transport};
use super::request::Request;

/// Results that a run keeps at most.
const MOST: usize = 32;
/// The most bytes that the requests behind them have asked for.
const BYTES: u64 = 256 << 10;

/// Results on their way.
struct Gathered {
    results: [(Request, i32); MOST],
    len: usize,
    bytes: u64,
}

impl Gathered {
    /// Room, filled with anything.
    fn room_for(request: &Request, result: i32) -> Self {
        Self {
            results: [(*request, result); MOST],
            len: 0,
            bytes: 0,
        }
    }
}

/// See the file's header.
pub(super) struct Away<'a> {
    transport: &'a dyn Transport,
    queue: u16,
    is_run: bool,
    gathered: Option<Gathered>,
}

impl<'a> Away<'a> {
    /// For a call that ends one request.
    pub(super) fn one(transport: &'a dyn Transport, queue: u16) -> Self {
        Self {
            transport,
            queue,
            is_run: false,
            gathered: None,
        }
    }

    /// For a run of a hardware queue. It is over when this is dropped.
    pub(super) fn run(transport: &'a dyn Transport, queue: u16) -> Self {
        let mut away = Self::one(transport, queue);
        away.is_run = true;
        away
    }

    fn gather(&mut self, request: &Request, result: i32) {
        // Not made before there is something: most runs end nothing here.
        let gathered = self
            .gathered
            .get_or_insert_with(|| Gathered::room_for(request, result));
        gathered.results[gathered.len] = (*request, result);
        gathered.len += 1;
        if request.op().has_data() {
            gathered.bytes += request.len();
        }
        if gathered.len == MOST || gathered.bytes >= BYTES {
            self.hand_out();
        }
    }

    fn hand_out(&mut self) {
        let Some(gathered) = self.gathered.as_mut().filter(|all| all.len > 0) else {
            return;
        };
        let len = std::mem::take(&mut gathered.len);
        gathered.bytes = 0;
        let results = &gathered.results[..len];
        self.transport.end_together(self.queue, results);
    }
}

impl Home for Away<'_> {
    fn transfer<'m>(&mut self, moving: Moving<'m>) -> Moved<'m> {
        self.transport.transfer(moving)
    }

    fn end(&mut self, request: &Request, result: i32) {
        if self.is_run && self.transport.gathers(self.queue) {
            return self.gather(request, result);
        }
        self.hand_out();
        self.transport.end(self.queue, request, result);
    }
}

/// Also when the driver's panic ends the run: what has ended has ended.
impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.hand_out();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mq::{Limits, Op};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::Mutex;

    /// Writes down which tags came together.
    #[derive(Default)]
    struct Seen {
        gathers: AtomicBool,
        groups: Mutex<Vec<Vec<u16>>>,
    }

    impl Seen {
        fn groups(&self) -> Vec<Vec<u16>> {
            std::mem::take(&mut self.groups.lock().expect("nobody panics"))
        }
    }

    impl Transport for Seen {
        fn transfer<'m>(&self, _: Moving<'m>) -> Moved<'m> {
            unreachable!("nothing to move")
        }

        fn end(&self, queue: u16, request: &Request, result: i32) {
            self.end_together(queue, &[(*request, result)]);
        }

        fn gathers(&self, _: u16) -> bool {
            self.gathers.load(Relaxed)
        }

        fn end_together(&self, _: u16, results: &[(Request, i32)]) {
            let tags = results.iter().map(|(request, _)| request.tag()).collect();
            self.groups.lock().expect("nobody panics").push(tags);
        }
    }

    fn read(tag: u16, sectors: u32) -> Request {
        let limits = Limits {
            size: 1 << 30,
            block_size: 512,
            max_data: 1 << 20,
            read_only: false,
        };
        Request::check(tag, Op::Read, 0, sectors, &limits).expect("a good one")
    }

    #[test]
    fn f20_a_run_hands_its_results_out_together() {
        let seen = Seen::default();
        seen.gathers.store(true, Relaxed);
        let mut away = Away::run(&seen, 0);
        for tag in 0..3 {
            away.end(&read(tag, 8), 4096);
        }
        assert!(seen.groups().is_empty(), "the run is not over");
        drop(away);
        assert_eq!(seen.groups(), [[0, 1, 2]]);
    }

    #[test]
    fn f20_much_goes_out_before_the_end() {
        let seen = Seen::default();
        seen.gathers.store(true, Relaxed);
        let mut away = Away::run(&seen, 0);
        for tag in 0..MOST as u16 + 1 {
            away.end(&read(tag, 8), 4096);
        }
        let first: Vec<_> = (0..MOST as u16).collect();
        assert_eq!(seen.groups(), [first]);
        away.end(&read(40, 512), 256 << 10);
        assert_eq!(seen.groups(), [[MOST as u16, 40]], "many bytes");
        drop(away);
        assert!(seen.groups().is_empty(), "nothing is left");
    }

    #[test]
    fn f20_nothing_waits_where_nobody_gathers() {
        let seen = Seen::default();
        let mut away = Away::run(&seen, 0);
        away.end(&read(0, 8), 4096);
        assert_eq!(seen.groups(), [[0]]);
        seen.gathers.store(true, Relaxed);
        away.end(&read(1, 8), 4096);
        seen.gathers.store(false, Relaxed);
        away.end(&read(2, 8), 4096);
        assert_eq!(seen.groups(), [[1], [2]], "what waited goes first");
        seen.gathers.store(true, Relaxed);
        Away::one(&seen, 0).end(&read(3, 8), 4096);
        assert_eq!(seen.groups(), [[3]], "one that is no run's");
    }
}
