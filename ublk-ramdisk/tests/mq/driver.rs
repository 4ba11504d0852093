// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver that answers what a test tells it to.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex};

use ublk_ramdisk::mq::*;

use super::{until, HUNG};

/// What the driver answers to one request.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    End(Result<(), Status>),
    Hold,
    NotNow(Busy),
    BusyFor(Busy, Source),
    Error(Status),
    Again(Requeue),
    Transfer,
    Defer,
}
pub use Reply::*;

pub const OK: Reply = Reply::End(Ok(()));
pub const RESOURCE: Reply = Reply::NotNow(Busy::Resource);
pub const DEV_RESOURCE: Reply = Reply::NotNow(Busy::DevResource);

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    QueueRq { hctx: u16, tag: u16, last: bool },
    CommitRqs(u16),
    Complete(u16),
    Timeout(u16),
}

/// A gate in queue_rq: shut or open.
#[derive(Default)]
pub struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    pub fn shut(&self) {
        *self.state.lock().unwrap() = (true, 0);
    }

    pub fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }

    pub fn wait_for(&self, n: usize) {
        until("a call at the gate", || self.state.lock().unwrap().1 >= n);
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        while state.0 {
            let (next, timeout) = self.changed.wait_timeout(state, HUNG).unwrap();
            assert!(!timeout.timed_out(), "a gate was never opened");
            state = next;
        }
    }
}

type Hook = Box<dyn FnMut(u16) + Send>;
type TimeoutFn = Box<dyn Fn(&Driver, &RequestRef) -> TimeoutAnswer + Send + Sync>;

/// The driver.
pub struct Driver {
    pub replies: Mutex<VecDeque<Reply>>,
    pub otherwise: Mutex<Reply>,
    pub calls: Mutex<Vec<Call>>,
    pub held: Mutex<Vec<(u16, InFlight)>>,
    pub put_off: Mutex<Vec<Deferred>>,
    pub gate: Gate,
    /// Called by queue_rq with the tag, not within itself.
    pub hook: Mutex<Option<Hook>>,
    pub slots: Option<DeviceSlots>,
    pub waker: std::sync::atomic::AtomicBool,
    pub on_timeout: Mutex<Option<TimeoutFn>>,
    pub fail_init: Option<u16>,
    pub inits: Mutex<Vec<i32>>,
}

impl Driver {
    pub fn new() -> Self {
        Self {
            replies: Mutex::default(),
            otherwise: Mutex::new(OK),
            calls: Mutex::default(),
            held: Mutex::default(),
            put_off: Mutex::default(),
            gate: Gate::default(),
            hook: Mutex::new(None),
            slots: None,
            waker: Default::default(),
            on_timeout: Mutex::new(None),
            fail_init: None,
            inits: Mutex::default(),
        }
    }

    pub fn reply(&self, replies: &[Reply]) {
        self.replies.lock().unwrap().extend(replies);
    }

    pub fn always(&self, reply: Reply) {
        self.replies.lock().unwrap().clear();
        *self.otherwise.lock().unwrap() = reply;
    }

    /// The tags given to queue_rq so far, in order.
    pub fn tags(&self) -> Vec<u16> {
        let calls = self.calls.lock().unwrap();
        let tag = |call: &Call| match *call {
            Call::QueueRq { tag, .. } => Some(tag),
            _ => None,
        };
        calls.iter().filter_map(tag).collect()
    }

    /// What was called since the last time.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    pub fn take_held(&self, tag: u16) -> InFlight {
        let mut held = self.held.lock().unwrap();
        let at = held.iter().position(|(t, _)| *t == tag);
        held.swap_remove(at.expect("the driver holds it")).1
    }

    fn log(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Operations for Driver {
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, last: bool) -> Answer<'q> {
        let tag = rq.request().tag();
        self.log(Call::QueueRq {
            hctx: hctx.index(),
            tag,
            last,
        });
        let hook = self.hook.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook(tag);
            *self.hook.lock().unwrap() = Some(hook);
        }
        self.gate.pass();
        let next = self.replies.lock().unwrap().pop_front();
        let reply = next.unwrap_or(*self.otherwise.lock().unwrap());
        let gives_back = matches!(
            reply,
            Reply::NotNow(_) | Reply::BusyFor(..) | Reply::Error(_) | Reply::End(_)
        );
        if let (Some(slots), true) = (&self.slots, gives_back) {
            slots.release(hctx);
        }
        match reply {
            Reply::End(outcome) => Answer::Ok(rq.end(outcome)),
            Reply::NotNow(kind) => rq.busy(kind),
            Reply::BusyFor(kind, source) => rq.busy_for(kind, source),
            Reply::Error(status) => Answer::Error(rq, status),
            Reply::Again(how) => Answer::Ok(rq.requeue(how)),
            Reply::Transfer => Answer::Ok(rq.transfer(Data::Zeros)),
            Reply::Defer => Answer::Ok(rq.end(Ok(())).defer()),
            Reply::Hold => {
                let (token, accepted) = rq.hold();
                self.held.lock().unwrap().push((tag, token));
                Answer::Ok(accepted)
            }
        }
    }

    fn commit_rqs(&self, hctx: Hctx<'_>) {
        self.log(Call::CommitRqs(hctx.index()));
    }

    fn complete(&self, hctx: Hctx<'_>, request: &Request) {
        self.log(Call::Complete(request.tag()));
        if let Some(slots) = &self.slots {
            slots.release(hctx);
        }
    }

    fn deferred(&self, _: Hctx<'_>, _: &Request, deferred: Deferred) {
        self.put_off.lock().unwrap().push(deferred);
    }

    fn budget(&self) -> Option<&dyn Budget> {
        self.slots.as_ref().map(|slots| slots as &dyn Budget)
    }

    fn has_waker(&self, _: u16) -> bool {
        self.waker.load(Ordering::SeqCst)
    }

    fn timeout(&self, _: Hctx<'_>, expired: &RequestRef) -> TimeoutAnswer {
        self.log(Call::Timeout(expired.request().tag()));
        match &*self.on_timeout.lock().unwrap() {
            Some(answer) => answer(self, expired),
            None => TimeoutAnswer::ResetTimer,
        }
    }

    fn init_hctx(&self, hctx: u16) -> Result<(), Status> {
        if self.fail_init == Some(hctx) {
            return Err(Status::IoErr);
        }
        self.inits.lock().unwrap().push(i32::from(hctx) + 1);
        Ok(())
    }

    fn exit_hctx(&self, hctx: u16) {
        self.inits.lock().unwrap().push(-(i32::from(hctx) + 1));
    }
}
