// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pressure: a driver in front of the disk's driver. It refuses, slows down, fails or loses requests
//! as its settings say (E1, E3 to E5, E12 to E17). The settings can be changed while the disk lives.
//!
//! The mirror calls it, and it passes requests on to the disk. With no pressure in force that costs one
//! load of a word. A request meets the sources in this order:
//!
//! ```text
//!   slots       the mirror's budget: without a slot queue_rq is not called         E1
//!   requeue     this call fails: RESOURCE, or accepted and requeued                E5
//!   badblocks   the range has a bad block: IOERR, or only what lies before it      E17
//!   timeout     this call fails: accepted and lost, until its timeout              E16
//!   mbps        no token: all hardware queues are stopped, DEV_RESOURCE            E4
//!   psi         memory is short, and the request needs some: RESOURCE              E3
//!   the disk    may refuse as its own memory is short; tokens are refunded         E2
//!   delay       accepted: goes on only after a time, holding its slot              E16
//! ```
//!
//! Kernel counterparts: null_blk's `queue_mode`, `mbps`, `requeue`, `timeout`, `badblocks` and
//! `completion_nsec`; `scsi_mq_get_budget`.

mod badblocks;
mod control;
mod delay;
mod faults;
mod psi;
mod psi_monitor;
mod settings;
mod slots;
mod throttle;
mod timers;

use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::mq::{
    Answer, Budget, Busy, Deferred, Disk, Hctx, Issued, Operations, Queue, Request, RequestRef,
    Requeue, Run, Source, Status, TimeoutAnswer,
};
use crate::trace::SourceState;
pub use badblocks::BadBlocks;
use badblocks::Ranges;
pub use control::Control;
use delay::DelayLine;
pub use faults::FaultAttr;
use faults::{Faults, Refusal, Requeues};
use psi::Psi;
pub use psi_monitor::{PsiError, PsiScope, PsiTrigger};
pub use settings::{Injection, Injections, PressureOptions, Settings};
use slots::Slots;
use throttle::Throttle;

// Bits of `Pressured::active`: the sources in force. The mirror knows of slots itself.
const REQUEUE: u32 = 1;
const BADBLOCKS: u32 = 1 << 1;
const TIMEOUT: u32 = 1 << 2;
const MBPS: u32 = 1 << 3;
const PSI: u32 = 1 << 4;
const DELAY: u32 = 1 << 5;
/// Slots have been in force, so a request may hold one.
const SLOTS: u32 = 1 << 6;
/// Requests have been lost on purpose.
const LOST: u32 = 1 << 7;

/// A disk under pressure.
#[derive(Debug)]
pub struct Pressured<D> {
    disk: Arc<D>,
    depth: u16,
    active: AtomicU32,
    slots: Arc<Slots>,
    requeues: Requeues,
    bad: Ranges,
    timeouts: Faults,
    /// By request: was it accepted and lost?
    lost: Box<[AtomicBool]>,
    init_failures: Faults,
    throttle: Arc<Throttle>,
    psi: Psi,
    delays: Arc<DelayLine>,
    settings: Mutex<Settings>,
}

impl<D: Disk> Pressured<D> {
    /// Puts this pressure on a disk with `nr_hw_queues` hardware queues of this depth. Timers and PSI
    /// are started by [`Control::start`].
    pub fn new(disk: Arc<D>, settings: Settings, nr_hw_queues: u16, depth: u16) -> Self {
        let requests = usize::from(nr_hw_queues) * usize::from(depth);
        let slots = Arc::new(Slots::new(nr_hw_queues));
        let this = Self {
            disk,
            depth,
            active: AtomicU32::new(0),
            slots: slots.clone(),
            requeues: Requeues::new(None, nr_hw_queues, depth),
            bad: Ranges::default(),
            timeouts: Faults::new(None),
            lost: (0..requests).map(|_| AtomicBool::new(false)).collect(),
            init_failures: Faults::new(settings.init_hctx),
            throttle: Arc::new(Throttle::new()),
            psi: Psi::new(requests),
            delays: Arc::new(DelayLine::new(requests, slots)),
            settings: Mutex::new(Settings::default()),
        };
        this.put_in_force(&settings, None);
        this
    }

    /// The disk behind it.
    pub fn disk(&self) -> &Arc<D> {
        &self.disk
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.lock_settings().clone()
    }

    /// Locks the settings. The lock is not held across a call of the mirror or the disk.
    fn lock_settings(&self) -> std::sync::MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts these settings in force. `queue` is run: what its requests waited for may be gone.
    fn put_in_force(&self, new: &Settings, queue: Option<&Queue>) {
        let mut old = self.lock_settings();
        let set = |bit: u32, on: bool| match on {
            true => self.active.fetch_or(bit, Release),
            false => self.active.fetch_and(!bit, Release),
        };
        if new.slots.is_some() {
            set(SLOTS, true);
        }
        self.slots.set(new.slots, queue);
        if new.requeue != old.requeue {
            self.requeues.set(new.requeue);
            set(REQUEUE, new.requeue.is_some());
        }
        if new.badblocks != old.badblocks {
            self.bad.set(new.badblocks.clone());
            set(BADBLOCKS, new.badblocks.is_some());
        }
        if new.timeout != old.timeout {
            if new.timeout.is_some() {
                set(LOST, true);
            }
            self.timeouts.set(new.timeout);
            set(TIMEOUT, new.timeout.is_some());
        }
        self.throttle.set(new.mbps);
        set(MBPS, new.mbps.is_some());
        if new.psi.is_some() && old.psi.is_none() {
            self.psi.forget_all();
        }
        set(PSI, new.psi.is_some());
        if new.psi.is_none() {
            self.psi.set_pressure(false);
        }
        self.delays.set(new.delay_ns.unwrap_or(0));
        set(DELAY, new.delay_ns.is_some());
        *old = new.clone();
        drop(old);
        if let Some(queue) = queue {
            queue.use_budget(new.slots.is_some());
            queue.start_stopped_hw_queues(true);
        }
    }

    /// Has the faults that `options` names count from the beginning, even if they are the same as
    /// before.
    fn restart_faults(&self, options: &PressureOptions) {
        for injection in options.injections() {
            match injection {
                Injection::Requeue(attr) => self.requeues.set(*attr),
                Injection::Timeout(attr) => self.timeouts.set(*attr),
                Injection::BadBlocks(bad) => self.bad.set(bad.clone()),
                Injection::InitHctx(_) | Injection::Delay(_) => {}
            }
        }
    }

    /// The requests that were lost and have not ended yet: hardware queue and tag.
    fn lost(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        let depth = usize::from(self.depth);
        let lost = self.lost.iter().enumerate();
        let lost = lost.filter(|(_, lost)| lost.load(Relaxed));
        lost.map(move |(index, _)| ((index / depth) as u16, (index % depth) as u16))
    }

    /// Memory pressure begins or ends. Called by the monitor of PSI, and by tests and the simulation,
    /// which have no monitor.
    pub fn set_pressure(&self, on: bool) {
        self.psi.set_pressure(on);
    }

    /// As [`Pressured::set_pressure`]; when pressure ends, the hardware queues are run.
    pub fn tell_pressure(&self, on: bool, queue: &Queue) {
        self.set_pressure(on);
        if !on {
            queue.run_hw_queues(true);
        }
    }

    /// The figures as they are now.
    pub fn stats(&self) -> PressureStats {
        PressureStats {
            settings: self.settings(),
            slots_free: self.slots.free(),
            slots_exhausted: self.slots.state.refuses(),
            tokens: self.throttle.balance(),
            throttled: self.throttle.state.refuses(),
            under_pressure: self.psi.is_pressed(),
            delayed: self.delays.len(),
            lost: self.lost.iter().filter(|lost| lost.load(Relaxed)).count() as u64,
        }
    }

    /// The sources whose begin and end of refusing are recorded in a trace.
    fn source_states(&self) -> [&SourceState; 3] {
        [&self.slots.state, &self.throttle.state, &self.psi.state]
    }

    /// The place of a request in the tables that have one for each tag of the device.
    fn index(&self, hctx: u16, tag: u16) -> usize {
        usize::from(hctx) * usize::from(self.depth) + usize::from(tag)
    }

    /// queue_rq with at least one source in force; `active` are their bits. It gives the slot of a
    /// request back that does not stay with the disk.
    #[cold]
    #[inline(never)]
    fn queue_rq_under_pressure<'q>(
        &self,
        hctx: Hctx<'_>,
        rq: Issued<'q>,
        last: bool,
        active: u32,
    ) -> Answer<'q> {
        let tag = rq.request().tag();
        let answer = match self.decide(hctx, rq, last, active) {
            Answer::Ok(accepted) if active & DELAY != 0 => Answer::Ok(accepted.defer()),
            answer => answer,
        };
        if active & PSI != 0 && !matches!(answer, Answer::Busy(..)) {
            self.psi.forget(self.index(hctx.index(), tag));
        }
        // A request that goes on holds its slot until it completes or its delay is over.
        if !matches!(&answer, Answer::Ok(accepted) if accepted.goes_on()) {
            self.give_slot_back(hctx, tag);
        }
        answer
    }

    /// Takes a request past the sources in their order, up to the first that does not let it pass.
    fn decide<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, last: bool, active: u32) -> Answer<'q> {
        let request = *rq.request();
        let (queue, tag) = (hctx.index(), request.tag());
        if active & REQUEUE != 0 {
            match self.requeues.refuse(queue, tag) {
                None => {}
                Some(Refusal::Resource) => return rq.busy_for(Busy::Resource, Source::Injection),
                Some(Refusal::Requeue(delay)) => {
                    return Answer::Ok(rq.requeue(Requeue {
                        kick: Some(delay),
                        prepared: false,
                    }))
                }
            }
        }
        let mut cut = None;
        if active & BADBLOCKS != 0 && request.op().has_data() {
            while let Some(hit) = self.bad.find(request.offset(), request.len()) {
                if hit.before > 0 {
                    cut = Some(hit);
                    break;
                }
                if self.bad.meet(hit) {
                    return Answer::Error(rq, Status::IoErr);
                }
            }
        }
        if active & TIMEOUT != 0 && self.timeouts.should_fail() {
            self.lost[self.index(queue, tag)].store(true, Relaxed);
            let (_lost, accepted) = rq.hold();
            return Answer::Ok(accepted);
        }
        let metered = active & MBPS != 0 && request.op().has_data();
        if metered && !self.throttle.admit(request.len()) {
            self.throttle.stop(hctx.queue());
            return rq.busy_for(Busy::DevResource, Source::Bandwidth);
        }
        if active & PSI != 0
            && self.psi.is_pressed()
            && self.disk.needs_memory(&request)
            && self
                .psi
                .refuses(self.index(queue, tag), self.throttle.now())
        {
            self.refund(metered, &request);
            // Each waits for its own second and holds back no request behind it (E10).
            return rq.busy_skippable(Source::Psi);
        }
        let answer = self.disk.queue_rq(hctx, rq, last);
        match answer {
            Answer::Busy(..) => {
                self.refund(metered, &request);
                answer
            }
            // A try that was refused leaves the bad range as it was: this one meets it.
            Answer::Ok(accepted) => Answer::Ok(match cut {
                Some(hit) if self.bad.meet(hit) => accepted.cut_short(hit.before),
                _ => accepted,
            }),
            Answer::Error(..) => answer,
        }
    }

    /// Gives back the tokens of a request that moves no bytes now.
    fn refund(&self, metered: bool, request: &Request) {
        if metered {
            self.throttle.refund(request.len());
        }
    }

    /// Gives a request's slot back, if it holds one, and runs the queues that wait for slots.
    fn give_slot_back(&self, hctx: Hctx<'_>, tag: u16) {
        if hctx.take_token(tag) != 0 {
            self.slots.release(hctx);
        }
    }

    /// A request ends. True if the disk has it, false if it was lost before it came there.
    #[cold]
    #[inline(never)]
    fn ends(&self, hctx: Hctx<'_>, request: &Request) -> bool {
        self.give_slot_back(hctx, request.tag());
        let lost = &self.lost[self.index(hctx.index(), request.tag())];
        !(lost.load(Relaxed) && lost.swap(false, Relaxed))
    }
}

impl<D: Disk> Disk for Pressured<D> {
    #[inline]
    fn capacity(&self) -> u64 {
        self.disk.capacity()
    }

    fn needs_memory(&self, request: &Request) -> bool {
        self.disk.needs_memory(request)
    }

    fn can_be_cut(&self) -> bool {
        self.disk.can_be_cut()
    }

    fn copy_failed(&self) {
        self.disk.copy_failed();
    }
}

impl<D: Disk> Operations for Pressured<D> {
    #[inline]
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, last: bool) -> Answer<'q> {
        match self.active.load(Acquire) {
            0 => self.disk.queue_rq(hctx, rq, last),
            active => self.queue_rq_under_pressure(hctx, rq, last, active),
        }
    }

    fn commit_rqs(&self, hctx: Hctx<'_>) {
        self.disk.commit_rqs(hctx);
    }

    fn deferred(&self, hctx: Hctx<'_>, request: &Request, deferred: Deferred) {
        self.delays.put(hctx, request.tag(), deferred);
    }

    fn overtakes(&self, hctx: Hctx<'_>, request: &Request) -> bool {
        let place = self.index(hctx.index(), request.tag());
        let held = self.active.load(Relaxed) & PSI != 0
            && self.psi.is_pressed()
            && self.psi.holds(place, self.throttle.now())
            && self.disk.needs_memory(request);
        !held && self.disk.overtakes(hctx, request)
    }

    #[inline]
    fn complete(&self, hctx: Hctx<'_>, request: &Request) {
        let marked = self.active.load(Acquire) & (SLOTS | LOST) != 0;
        if !marked || self.ends(hctx, request) {
            self.disk.complete(hctx, request);
        }
    }

    #[inline]
    fn runs(&self, request: &Request, each: &mut dyn FnMut(Run)) {
        self.disk.runs(request, each);
    }

    fn budget(&self) -> Option<&dyn Budget> {
        Some(&*self.slots)
    }

    fn has_waker(&self, hctx: u16) -> bool {
        self.throttle.is_armed() || self.disk.has_waker(hctx)
    }

    fn timeout(&self, hctx: Hctx<'_>, expired: &RequestRef) -> TimeoutAnswer {
        let lost = &self.lost[self.index(hctx.index(), expired.request().tag())];
        if lost.load(Relaxed) {
            expired.complete(Status::Timeout);
            return TimeoutAnswer::Done;
        }
        self.disk.timeout(hctx, expired)
    }

    fn init_hctx(&self, hctx: u16) -> Result<(), Status> {
        if self.init_failures.should_fail() {
            return Err(Status::IoErr);
        }
        self.disk.init_hctx(hctx)
    }

    fn exit_hctx(&self, hctx: u16) {
        self.disk.exit_hctx(hctx);
    }
}

/// A disk's pressure at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PressureStats {
    /// The settings in force.
    pub settings: Settings,
    /// Slots that are free; none without a limit.
    pub slots_free: Option<u32>,
    /// Did a request find no slot, and has no slot come back since that nothing waited for?
    pub slots_exhausted: bool,
    /// Bytes that may still pass in this tick, below 0 if some are owed; none without a limit.
    pub tokens: Option<i64>,
    /// Are the hardware queues stopped until there are tokens again?
    pub throttled: bool,
    /// Does PSI say that the machine or the cgroup is short of memory?
    pub under_pressure: bool,
    /// Requests held back by the delay.
    pub delayed: u64,
    /// Requests lost on purpose that wait for their timeout.
    pub lost: u64,
}
