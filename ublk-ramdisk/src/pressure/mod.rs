// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pressure: a driver in front of the disk's driver. It refuses, slows down, fails or loses requests
//! as its settings say (E1, E3 to E5, E12 to E17). The settings can be changed while the disk lives.
//!
//! The mirror calls it, and it passes requests on to the disk. With no pressure in force that costs one
//! load of a word. A request meets the sources in this order:
//!
//! ```text
//!   slots       the mirror's budget: without a slot queue_rq is not called         E1
//!   rules       that fail, refuse, hold, lose or ignore the request                E29
//!   mbps        no token: all hardware queues are stopped, DEV_RESOURCE            E4
//!   psi         memory is short, and the request needs some: RESOURCE              E3
//!   the disk    may refuse as its own memory is short; tokens are refunded         E2
//!   rules       that delay the request, which holds its slot, or have it stored
//!               wrong or in part                                                   E30
//! ```
//!
//! Kernel counterparts: null_blk's `queue_mode`, `mbps`, `requeue`, `timeout`, `badblocks` and
//! `completion_nsec`; `scsi_mq_get_budget`.

mod control;
mod inject;
mod marks;
mod psi;
mod psi_monitor;
mod settings;
mod slots;
mod throttle;
mod timers;
mod waiting;

use std::path::PathBuf;
use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::mq::{
    Answer, Budget, Busy, Deferred, Disk, Hctx, Issued, Op, Operations, Queue, Request, RequestRef,
    Requeue, Run, Source, Status, TimeoutAnswer,
};
use crate::rules::{Action, Cells, Found, RuleSet, RuleStats};
use crate::sys::lock::Lock;
use crate::trace::{self, SourceState};
pub use control::Control;
pub use inject::{FaultAttr, Injection, Injections};
use marks::{Marks, CORRUPT, LOST, PASSED, REQUEUED};
use psi::Psi;
pub use psi_monitor::{PsiError, PsiScope, PsiTrigger};
pub use settings::{PressureOptions, Settings};
use slots::Slots;
use throttle::Throttle;
use waiting::{Waiting, What};

// Bits of `Pressured::active`: the sources in force. The mirror knows of slots itself.
const RULES: u32 = 1;
const MBPS: u32 = 1 << 1;
const PSI: u32 = 1 << 2;
/// Slots have been in force, so a request may hold one.
const SLOTS: u32 = 1 << 3;
/// Rules have been in force, so a request may be marked.
const MARKS: u32 = 1 << 4;

/// When a request is tried again that a rule has requeued a second time: as after RESOURCE (C17).
const KICK_DELAY: Duration = Duration::from_millis(3);

/// A disk under pressure.
#[derive(Debug)]
pub struct Pressured<D> {
    disk: Arc<D>,
    active: AtomicU32,
    slots: Arc<Slots>,
    /// By hardware queue: is the next request that `busy or requeue` is about requeued?
    requeues_next: Box<[AtomicBool]>,
    init_cells: Cells,
    throttle: Arc<Throttle>,
    psi: Psi,
    waiting: Arc<Waiting>,
    /// Not locked across a call of the mirror or the disk.
    settings: Lock<Settings>,
}

impl<D: Disk> Pressured<D> {
    /// Puts this pressure on a disk with `nr_hw_queues` hardware queues of this depth. Timers and PSI are
    /// started by [`Control::start`].
    pub fn new(disk: Arc<D>, settings: Settings, nr_hw_queues: u16, depth: u16) -> Self {
        Self::with_rules_file(disk, settings, nr_hw_queues, depth, None)
    }

    /// The same. What the rules have done is kept in `rules_file`, for the next server.
    pub fn with_rules_file(
        disk: Arc<D>,
        settings: Settings,
        nr_hw_queues: u16,
        depth: u16,
        rules_file: Option<PathBuf>,
    ) -> Self {
        let slots = Arc::new(Slots::new(nr_hw_queues));
        let marks = Marks::new(nr_hw_queues, depth);
        let this = Self {
            disk,
            active: AtomicU32::new(0),
            slots: slots.clone(),
            requeues_next: (0..nr_hw_queues).map(|_| AtomicBool::new(false)).collect(),
            init_cells: Cells::default(),
            throttle: Arc::new(Throttle::new()),
            psi: Psi::new(marks.len()),
            waiting: Arc::new(Waiting::new(marks, slots, RuleSet::new(rules_file))),
            settings: Lock::new(Settings::default()),
        };
        this.put_in_force(&settings, None, &|_| false);
        this
    }

    /// The disk behind it.
    pub fn disk(&self) -> &Arc<D> {
        &self.disk
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.settings.lock().clone()
    }

    /// Puts these settings in force. `queue` is run: what its requests waited for may be gone.
    /// Rules of which `begins_anew` is true count from the beginning.
    fn put_in_force(
        &self,
        new: &Settings,
        queue: Option<&Queue>,
        begins_anew: &dyn Fn(&str) -> bool,
    ) {
        let mut old = self.settings.lock();
        let set = |bit: u32, on: bool| match on {
            true => self.active.fetch_or(bit, Release),
            false => self.active.fetch_and(!bit, Release),
        };
        if new.slots.is_some() {
            set(SLOTS, true);
        }
        self.slots.set(new.slots, queue);
        if !new.rules.is_empty() {
            set(MARKS, true);
            if old.rules.is_empty() {
                let marks = &self.waiting.marks;
                for (hctx, tag) in marks.all(PASSED | REQUEUED) {
                    marks.take(hctx, tag, PASSED | REQUEUED);
                }
            }
        }
        let rules = &self.waiting.rules;
        let gone = rules.set(&new.rules, begins_anew, self.throttle.now());
        set(RULES, !new.rules.is_empty());
        self.waiting.release(Some(!gone), gone);
        self.throttle.set(new.mbps);
        set(MBPS, new.mbps.is_some());
        if new.psi.is_some() && old.psi.is_none() {
            self.psi.forget_all();
        }
        set(PSI, new.psi.is_some());
        if new.psi.is_none() {
            self.psi.set_pressure(false);
        }
        *old = new.clone();
        drop(old);
        if let Some(queue) = queue {
            queue.use_budget(new.slots.is_some());
            if new.rules.is_empty() {
                self.rest(queue, new.slots.is_none());
            }
            queue.start_stopped_hw_queues(true);
        }
    }

    /// No rule is in force any more: the look at a request is one load again, unless one in flight is
    /// marked, or holds a slot. Then that stays until the next call. Called by one thread at a time.
    fn rest(&self, queue: &Queue, no_slots: bool) {
        // A queue_rq that began before may still mark its request, or take a slot.
        queue.quiesce();
        let of_flight = self.waiting.marks.all(LOST | CORRUPT).next().is_some();
        let marks = if of_flight { 0 } else { MARKS };
        let slots = if no_slots && self.slots.is_at_rest() {
            SLOTS
        } else {
            0
        };
        self.active.fetch_and(!(marks | slots), Release);
        queue.unquiesce();
    }

    /// True if the look at a request is one load.
    #[cfg(test)]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.active.load(Acquire) == 0
    }

    /// Has the requests go on that the rule of this name holds.
    pub fn release(&self, name: &str) -> Result<(), Failure> {
        let slot = self.waiting.rules.release(name);
        let slot = slot.ok_or_else(|| settings::no_rule(name))?;
        self.waiting.release(None, 1 << slot);
        Ok(())
    }

    /// Has all requests go on that rules hold, as the disk is without power.
    pub fn release_all(&self) {
        self.waiting.release(None, u128::MAX);
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
            delayed: self.waiting.len(),
            lost: self.waiting.marks.all(LOST).count() as u64,
            rules: self.rules(),
        }
    }

    /// Tells a trace the names of the rules.
    fn name_rules(&self, queue: &Queue) {
        let rules = self.waiting.rules.stats().into_iter();
        let names = rules.map(|(slot, stats)| (slot as u16, stats.rule.name));
        trace::name_rules(queue.label(), names.collect());
    }

    /// What each rule has done.
    fn rules(&self) -> Vec<RuleStats> {
        let stats = self.waiting.rules.stats().into_iter();
        let with_held = stats.map(|(slot, stats)| RuleStats {
            held: self.waiting.held(1 << slot),
            ..stats
        });
        with_held.collect()
    }

    /// The sources whose begin and end of refusing are recorded in a trace.
    fn source_states(&self) -> [&SourceState; 3] {
        [&self.slots.state, &self.throttle.state, &self.psi.state]
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
        let (request, queue, marks) = (*rq.request(), hctx.index(), &self.waiting.marks);
        let tag = request.tag();
        let marked = marks.take(queue, tag, PASSED);
        // A disk without power answers at once.
        let is_asked = active & RULES != 0 && marked & PASSED == 0 && !self.disk.is_off();
        let found = match is_asked {
            true => self.look(hctx, &request),
            false => Found::default(),
        };
        let answer = match &found.end {
            None => self.decide(hctx, rq, last, active, &found),
            Some((slot, action)) => self.act(hctx, rq, *slot, action, found.delay),
        };
        let is_turned_away = match &answer {
            Answer::Busy(..) => true,
            Answer::Ok(accepted) => accepted.is_requeued(),
            Answer::Error(..) => false,
        };
        if is_turned_away && marked & PASSED != 0 {
            marks.set(queue, tag, PASSED);
        }
        if active & RULES != 0 {
            self.count(hctx, &request, &found, is_turned_away);
        }
        let answer = match answer {
            Answer::Ok(accepted) if found.delay > 0 => {
                marks.set_delay(queue, tag, found.delay);
                Answer::Ok(accepted.defer())
            }
            answer => answer,
        };
        if active & PSI != 0 && !matches!(answer, Answer::Busy(..)) {
            self.psi.forget(self.waiting.marks.index(queue, tag));
        }
        // A request that goes on holds its slot until it completes or its delay is over.
        if !matches!(&answer, Answer::Ok(accepted) if accepted.goes_on()) {
            self.give_slot_back(hctx, tag);
        }
        answer
    }

    /// What the rules do with a request.
    fn look(&self, hctx: Hctx<'_>, request: &Request) -> Found {
        let place = self.waiting.marks.index(hctx.index(), request.tag());
        let queues = 0..self.requeues_next.len() as u16;
        let of = |queue| hctx.queue().count_kept(queue);
        let in_flight = || queues.clone().map(of).sum();
        let now = || self.throttle.now();
        self.waiting.rules.look(request, place, &now, &in_flight)
    }

    /// Keeps what the rules have counted, and records it in a trace. If the request was turned away,
    /// only that of the rule which did it.
    fn count(&self, hctx: Hctx<'_>, request: &Request, found: &Found, is_turned_away: bool) {
        let end = found.end.as_ref().map(|(slot, _)| *slot);
        if is_turned_away {
            self.waiting.rules.undo(found, end);
        }
        if trace::is_on() {
            let its = |slot: &usize| !is_turned_away || Some(*slot) == end;
            let hits = found.hits().filter(its);
            hits.for_each(|slot| {
                trace::rule(hctx.queue().label(), hctx.index(), request, slot as u16)
            });
        }
    }

    /// Carries out a rule that does not let the request through.
    fn act<'q>(
        &self,
        hctx: Hctx<'_>,
        rq: Issued<'q>,
        slot: usize,
        action: &Action,
        delay: u64,
    ) -> Answer<'q> {
        let (queue, tag, marks) = (hctx.index(), rq.request().tag(), &self.waiting.marks);
        let requeues = |turn: &AtomicBool| turn.fetch_not(Relaxed);
        match action {
            Action::Error(status, _) if delay == 0 => Answer::Error(rq, *status),
            Action::Error(status, _) => Answer::Ok(rq.end(Err(*status))),
            Action::Ignore => Answer::Ok(rq.end(Ok(()))),
            Action::Hang => {
                let (token, accepted) = rq.hold();
                self.waiting.put(hctx, tag, What::Held(token, slot), 0);
                Answer::Ok(accepted)
            }
            Action::Timeout => {
                marks.set(queue, tag, LOST);
                let (_lost, accepted) = rq.hold();
                Answer::Ok(accepted)
            }
            // The end of a request that is kept runs the queue again (B3).
            Action::BusyDev
                if hctx.queue().count_kept(queue) > 0 && self.waiting.held(u128::MAX) == 0 =>
            {
                rq.busy_for(Busy::DevResource, Source::Injection)
            }
            Action::BusyOrRequeue if !requeues(&self.requeues_next[usize::from(queue)]) => {
                rq.busy_for(Busy::Resource, Source::Injection)
            }
            Action::Requeue | Action::BusyOrRequeue => {
                // Only the first kick is immediate: a disk that refuses everything is not busy-waited for.
                let again = marks.has(queue, tag, REQUEUED);
                marks.set(queue, tag, REQUEUED);
                Answer::Ok(rq.requeue(Requeue {
                    kick: Some(if again { KICK_DELAY } else { Duration::ZERO }),
                    prepared: false,
                }))
            }
            Action::Busy | Action::BusyDev | Action::Delay(_) | Action::Corrupt => {
                rq.busy_for(Busy::Resource, Source::Injection)
            }
        }
    }

    /// Takes a request past the sources behind the rules, up to the first that does not let it pass.
    fn decide<'q>(
        &self,
        hctx: Hctx<'_>,
        rq: Issued<'q>,
        last: bool,
        active: u32,
        found: &Found,
    ) -> Answer<'q> {
        let request = *rq.request();
        let (queue, tag) = (hctx.index(), request.tag());
        if active & RULES != 0 {
            self.waiting.marks.take(queue, tag, REQUEUED);
        }
        if found.delay > 0 && matches!(request.op(), Op::Discard | Op::WriteZeroes { .. }) {
            // The disk would keep it, so it waits before.
            let (token, accepted) = rq.hold();
            self.waiting
                .put(hctx, tag, What::Before(token), found.delay);
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
                .refuses(self.waiting.marks.index(queue, tag), self.throttle.now())
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
            Answer::Ok(accepted) => {
                if found.corrupt {
                    self.waiting.marks.set(queue, tag, CORRUPT);
                }
                Answer::Ok(match found.cut {
                    0 => accepted,
                    bytes => accepted.cut_short(bytes),
                })
            }
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
        let marks = &self.waiting.marks;
        let marked = marks.take(hctx.index(), request.tag(), LOST | CORRUPT);
        if marked & CORRUPT != 0 {
            self.disk.corrupt(request);
        }
        marked & LOST == 0
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

    fn is_off(&self) -> bool {
        self.disk.is_off()
    }

    fn can_be_cut(&self) -> bool {
        self.disk.can_be_cut()
    }

    fn copy_failed(&self) {
        self.disk.copy_failed();
    }

    fn corrupt(&self, request: &Request) {
        self.disk.corrupt(request);
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
        let delay = self.waiting.marks.delay(hctx.index(), request.tag());
        let what = What::Accepted(deferred);
        self.waiting.put(hctx, request.tag(), what, delay);
    }

    fn overtakes(&self, hctx: Hctx<'_>, request: &Request) -> bool {
        let place = self.waiting.marks.index(hctx.index(), request.tag());
        let held = self.active.load(Relaxed) & PSI != 0
            && self.psi.is_pressed()
            && self.psi.holds(place, self.throttle.now())
            && self.disk.needs_memory(request);
        !held && self.disk.overtakes(hctx, request)
    }

    #[inline]
    fn complete(&self, hctx: Hctx<'_>, request: &Request) {
        let marked = self.active.load(Acquire) & (SLOTS | MARKS) != 0;
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
        let tag = expired.request().tag();
        if self.waiting.marks.has(hctx.index(), tag, LOST) {
            expired.complete(Status::Timeout);
            return TimeoutAnswer::Done;
        }
        self.disk.timeout(hctx, expired)
    }

    fn init_hctx(&self, hctx: u16) -> Result<(), Status> {
        let fails = self.settings.lock().init_hctx.map(|attr| attr.selectors());
        if fails.is_some_and(|fails| fails.choose(&self.init_cells)) {
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
    /// Requests held back by a delay.
    pub delayed: u64,
    /// Requests lost on purpose that wait for their timeout.
    pub lost: u64,
    /// What each rule has done.
    pub rules: Vec<RuleStats>,
}
