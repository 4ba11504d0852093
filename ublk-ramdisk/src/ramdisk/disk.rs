// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk that the mirror of blk-mq drives: each request is a range of the store.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use workqueue::{AllocError, Runtime};

use super::no_space::NoSpaceTimeout;
use super::space::{Space, SpaceOptions, SpaceStats, SpaceWorks};
use super::store::{Loss, Readable, Store, StoreError};
use super::waiters::AllocDecision;
use crate::mq::{
    Answer, Data, Disk, Hctx, Issued, Op, Operations, Queue, Request, Run, Source, Status,
};
use crate::random::scatter;
use crate::sys::memory::Headroom;

/// A disk in memory.
#[derive(Debug)]
pub struct Ramdisk {
    store: Store,
    options: SpaceOptions,
    space: OnceLock<Space>,
    is_removed: OnceLock<RemovalCheck>,
    headroom: OnceLock<Arc<Headroom>>,
}

/// Returns true once the disk is being removed.
struct RemovalCheck(Box<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for RemovalCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RemovalCheck")
    }
}

/// Bytes that are cleared within queue_rq at most, which takes a few microseconds.
const CLEARED_INLINE: u64 = 64 << 10;

/// Why a request cannot have its memory.
#[derive(Clone, Copy, Debug)]
enum NoMemory {
    /// It is being made, or waited for.
    NotYet,
    /// There is none.
    NoSpace,
    /// The disk ends before it, or has no power.
    BeyondEnd,
}

impl Ramdisk {
    /// Makes a disk of what is in `store`.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            options: SpaceOptions::default(),
            space: OnceLock::new(),
            is_removed: OnceLock::new(),
            headroom: OnceLock::new(),
        }
    }

    /// Sets a check that returns true once somebody removes the disk. While requests wait for memory
    /// it is called twice a second, and ends them when it returns true: a removal waits for them
    /// (E22). Only the first one is kept.
    pub fn on_removal(&self, is_removed: impl Fn() -> bool + Send + Sync + 'static) {
        let check = RemovalCheck(Box::new(is_removed));
        let _only_the_first = self.is_removed.set(check);
    }

    /// Sets what is asked before memory for the disk is (E27). Without it there is no such look. Only
    /// the first one before [`Ramdisk::start`] counts.
    pub fn watch_memory(&self, headroom: Headroom) {
        let _only_the_first = self.headroom.set(Arc::new(headroom));
    }

    /// What is asked before memory for the disk is.
    pub(super) fn headroom(&self) -> Option<Arc<Headroom>> {
        self.headroom.get().cloned()
    }

    /// True if a removal can be noticed.
    pub(super) fn notices_removal(&self) -> bool {
        self.is_removed.get().is_some()
    }

    /// True if somebody removes the disk.
    pub(super) fn is_removed(&self) -> bool {
        self.is_removed.get().is_some_and(|check| (check.0)())
    }

    /// Sets how memory is made and taken back.
    #[must_use]
    pub fn with_space(self, options: SpaceOptions) -> Self {
        Self { options, ..self }
    }

    /// The bytes behind the disk.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Starts making memory for the requests of `queue`, on workqueues in `runtime`. Until then
    /// every write that needs some is refused. Called once in the life of a disk.
    pub fn start(
        self: &Arc<Self>,
        runtime: &Runtime,
        queue: &Queue,
    ) -> Result<SpaceWorks, AllocError> {
        SpaceWorks::start(self, runtime, queue, self.options)
    }

    /// Begins to make memory, and has the store tell when it has some again.
    pub(super) fn set_space(self: &Arc<Self>, space: Space) {
        let before = self.space.set(space);
        debug_assert!(before.is_ok(), "a disk is started once");
        let ramdisk = Arc::downgrade(self);
        self.store.on_freed(move || {
            if let Some(ramdisk) = ramdisk.upgrade() {
                ramdisk.space.get().into_iter().for_each(Space::freed);
            }
        });
        self.space.get().into_iter().for_each(Space::scan_later);
    }

    #[inline]
    pub(super) fn space(&self) -> Option<&Space> {
        self.space.get()
    }

    /// Sets how long requests wait from now on when there is no memory.
    pub fn set_no_space_timeout(&self, timeout: NoSpaceTimeout) {
        self.space()
            .into_iter()
            .for_each(|space| space.set_no_space_timeout(timeout));
    }

    /// Sets if pages of zeros are taken back from now on when memory is short.
    pub fn set_reclaim(&self, reclaim: bool) {
        self.space()
            .into_iter()
            .for_each(|space| space.set_reclaim(reclaim));
    }

    /// Memory used, and requests that lack some.
    pub fn space_stats(&self) -> SpaceStats {
        self.space()
            .map_or_else(SpaceStats::default, |space| space.stats(&self.store))
    }

    /// Makes the disk larger, as [`Store::grow`]. First waits for the populate work, which may still
    /// make memory beyond the end for a time when the disk was larger.
    pub fn grow(&self, size: u64) -> Result<(), StoreError> {
        self.space().iter().for_each(|space| space.flush_populate());
        self.store.grow(size)
    }

    /// Makes the disk smaller, as [`Store::shrink`], and ends the writes that wait for memory beyond
    /// the new end. When this returns no memory is made there any more.
    pub fn shrink(&self, size: u64) {
        self.store.shrink(size);
        if let Some(space) = self.space() {
            space.shrunk(&self.store);
            // A run of the populate work, or a write, that began later reads the new size.
            space.flush_populate();
            self.store.wait_for_makers();
        }
    }

    /// Gives back all memory of the disk, as [`Store::reset`], once the works have ended.
    pub fn reset(&self, wait: &mut dyn FnMut() -> bool) -> Option<u64> {
        self.space().iter().for_each(|space| space.flush_works());
        self.store.reset(wait)
    }

    /// Loses what is not flushed, once nobody makes memory or works off requests that saw the power on
    /// (H15). None if requests still use some of it.
    pub fn lose_unflushed(&self) -> Option<Loss> {
        self.space().iter().for_each(|space| space.flush_works());
        self.store.lose_unflushed()
    }

    /// Serves one request. Makes no system call (J3) but to make memory where there is plenty (E8).
    #[inline]
    fn serve<'q>(&self, hctx: u16, rq: Issued<'q>) -> Answer<'q> {
        let (op, range) = (rq.request().op(), range(rq.request()));
        if let (true, Some(space)) = (self.store.keeps_flushed(), self.space()) {
            let tag = rq.request().tag();
            if self.store.is_off() {
                return refuse(rq, self.forget(space, (hctx, tag), &range));
            }
            let began = space.began(hctx, tag);
            began.store(self.store.epoch(), Relaxed);
        }
        match op {
            Op::Read => Answer::Ok(rq.transfer(match self.store.pin_for_read(range) {
                Readable::Memory(address) => Data::Contiguous(address),
                Readable::Hole => Data::Zeros,
                Readable::Mixed => Data::Scattered,
            })),
            Op::Write => match self.memory(hctx, rq.request(), &range) {
                Ok(address) => Answer::Ok(rq.transfer(Data::Contiguous(address))),
                Err(why) => refuse(rq, why),
            },
            // Every write is in the store when it is committed (C34).
            Op::Flush => {
                let has_freed = self.store.flush();
                if let (Some(has_freed), Some(space)) = (has_freed, self.space()) {
                    space.flushed(has_freed);
                }
                Answer::Ok(rq.end(Ok(())))
            }
            Op::Discard | Op::WriteZeroes { .. } if range.is_empty() => Answer::Ok(rq.end(Ok(()))),
            Op::Discard | Op::WriteZeroes { .. } if !self.writes(op, &range) => {
                self.discard(hctx, rq)
            }
            Op::Discard | Op::WriteZeroes { .. } => match self.memory(hctx, rq.request(), &range) {
                Ok(_) => self.clear(hctx, rq, range),
                Err(why) => refuse(rq, why),
            },
        }
    }

    /// True if a request changes pages that have to be there: a write, and what makes zeros where the image
    /// has something else (H18).
    fn writes(&self, op: Op, range: &Range<u64>) -> bool {
        match op {
            Op::Write | Op::WriteZeroes { unmap: false } => true,
            Op::Discard | Op::WriteZeroes { unmap: true } => self.store.has_base(range),
            Op::Read | Op::Flush => false,
        }
    }

    /// Pins the range of a request and returns its address. Inlined: every write comes here.
    #[inline(always)]
    fn memory(
        &self,
        hctx: u16,
        request: &Request,
        range: &Range<u64>,
    ) -> Result<NonNull<u8>, NoMemory> {
        let Some(space) = self.space() else {
            return self
                .store
                .pin_for_write(range.clone())
                .ok_or(NoMemory::NotYet);
        };
        if !space.waiters.any() {
            if let Some(address) = self.store.pin_for_write(range.clone()) {
                return Ok(address);
            }
            if space.make_at_once(&self.store, range) {
                return Ok(self.store.address_of(range));
            }
        }
        self.memory_of_waiter(space, (hctx, request.tag()), range)
    }

    /// The same for a request that waits for memory, or has to begin to.
    #[cold]
    fn memory_of_waiter(
        &self,
        space: &Space,
        of: (u16, u16),
        range: &Range<u64>,
    ) -> Result<NonNull<u8>, NoMemory> {
        // The disk has become smaller (H8). Nobody would free memory beyond its end.
        if range.end > self.store.size() {
            return Err(self.forget(space, of, range));
        }
        match self.decide(space, of, range, false) {
            AllocDecision::Granted if self.store.save(range) => {
                return Ok(self.store.address_of(range))
            }
            // A FLUSH came in between: what it overwrites now has to be kept anew.
            AllocDecision::Granted => self.store.unpin(range.clone()),
            AllocDecision::Denied => {
                return self
                    .store
                    .pin_for_write(range.clone())
                    .ok_or(NoMemory::NoSpace)
            }
            // Its memory may have been made for another request (E9).
            AllocDecision::Waiting
                if !self.store.is_present(range) || !space.waiters.remove(of) =>
            {
                return Err(NoMemory::NotYet)
            }
            _ => {}
        }
        if let Some(address) = self.store.pin_for_write(range.clone()) {
            return Ok(address);
        }
        if space.denies() {
            space.count_denied();
            return Err(NoMemory::NoSpace);
        }
        match self.decide(space, of, range, true) {
            AllocDecision::AboveCap => {
                space.count_above_cap();
                Err(NoMemory::NoSpace)
            }
            _ => {
                space.kick();
                Err(NoMemory::NotYet)
            }
        }
    }

    fn decide(
        &self,
        space: &Space,
        of: (u16, u16),
        range: &Range<u64>,
        join: bool,
    ) -> AllocDecision {
        let unpin = |range| self.store.unpin(range);
        space.waiters.decide(of, range, join, space.cap(), unpin)
    }

    /// A request that gets no memory any more waits for none, and gives back what it was granted.
    #[cold]
    fn forget(&self, space: &Space, of: (u16, u16), range: &Range<u64>) -> NoMemory {
        match self.decide(space, of, range, false) {
            AllocDecision::Waiting if !space.waiters.remove(of) => return NoMemory::NotYet,
            AllocDecision::Granted => self.store.unpin(range.clone()),
            _ => {}
        }
        NoMemory::BeyondEnd
    }

    /// Ends the use of a request's memory.
    #[inline]
    pub(super) fn finish(&self, hctx: u16, request: &Request) {
        let range = range(request);
        if request.op() != Op::Read && self.store.keeps_flushed() {
            if let Some(space) = self.space() {
                let began = space.began(hctx, request.tag()).load(Relaxed);
                self.store.end_write(&range, began, request.is_fua());
            }
        }
        self.store.unpin(range);
    }

    /// Clears pinned memory: here if that is quick, else on the store workqueue.
    fn clear<'q>(&self, hctx: u16, rq: Issued<'q>, range: Range<u64>) -> Answer<'q> {
        match self.space() {
            Some(space) if range.end - range.start > CLEARED_INLINE => {
                let request = *rq.request();
                let (token, accepted) = rq.hold();
                space.queue_clear(token, hctx, request);
                Answer::Ok(accepted)
            }
            _ => {
                let zeroed = self.store.zero_pinned(range);
                self.finish(hctx, rq.request());
                Answer::Ok(rq.end(zeroed.map_err(|_| Status::IoErr)))
            }
        }
    }

    /// Gives memory back on the store workqueue, as that takes system calls.
    fn discard<'q>(&self, hctx: u16, rq: Issued<'q>) -> Answer<'q> {
        let request = *rq.request();
        let Some(space) = self.space() else {
            return rq.busy_skippable(Source::Memory);
        };
        let (token, accepted) = rq.hold();
        space.queue_discard(token, hctx, request);
        Answer::Ok(accepted)
    }
}

/// The answer for a request without memory.
fn refuse(rq: Issued<'_>, why: NoMemory) -> Answer<'_> {
    match why {
        NoMemory::NotYet => rq.busy_skippable(Source::Memory),
        // ENOMEM and EAGAIN are never committed (B6).
        NoMemory::NoSpace => Answer::Error(rq, Status::NoSpc),
        NoMemory::BeyondEnd => Answer::Error(rq, Status::IoErr),
    }
}

/// The bytes of the disk that a request covers.
fn range(request: &Request) -> Range<u64> {
    request.offset()..request.offset() + request.len()
}

impl Disk for Ramdisk {
    #[inline]
    fn capacity(&self) -> u64 {
        self.store.size()
    }

    fn can_be_cut(&self) -> bool {
        self.store.can_be_cut()
    }

    fn is_off(&self) -> bool {
        self.store.is_off()
    }

    fn copy_failed(&self) {
        self.store.report_cut();
    }

    fn corrupt(&self, request: &Request) {
        // Anywhere in it, and the same place in each run.
        let bit = scatter(request.offset()) % (request.len() << 3);
        self.store
            .flip_bit(request.offset() + bit / 8, (bit % 8) as u8);
    }

    fn needs_memory(&self, request: &Request) -> bool {
        let range = range(request);
        self.writes(request.op(), &range) && !self.store.is_off() && !self.store.is_present(&range)
    }
}

impl Operations for Ramdisk {
    #[inline]
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, _last: bool) -> Answer<'q> {
        self.serve(hctx.index(), rq)
    }

    /// True for what needs no memory, for a write that has not been issued yet, and for one whose
    /// memory is there by now (E9, E10).
    fn overtakes(&self, hctx: Hctx<'_>, request: &Request) -> bool {
        let (of, range) = ((hctx.index(), request.tag()), range(request));
        let Some(space) = self.space().filter(|_| self.writes(request.op(), &range)) else {
            return true;
        };
        !space.waiters.is_waiting(of, &range) || self.store.is_present(&range)
    }

    fn runs(&self, request: &Request, each: &mut dyn FnMut(Run)) {
        self.store.runs(range(request), each);
    }

    #[inline]
    fn complete(&self, hctx: Hctx<'_>, request: &Request) {
        if request.op().has_data() {
            self.finish(hctx.index(), request);
        }
    }
}
