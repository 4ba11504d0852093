// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver: turns requests into ranges of the store. The only part that knows
//! where the bytes are. What takes a system call is not done here but by `space`, on workqueues: a
//! write whose memory is not there yet is refused and comes back when it is (E8).

mod budget;

mod held;

mod no_space;

mod page_state;

mod parked;

mod words;

pub mod space;

pub mod store;

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use workqueue::{AllocError, Runtime};

use crate::mq::{
    Answer, Data, Disk, Hctx, Issued, Op, Operations, Queue, Request, Run, Source, Status,
};
pub use no_space::{Mode, Patience, DEFAULT_PATIENCE};
use parked::Told;
use space::{Space, SpaceOptions, SpaceStats, SpaceWorks};
use store::{Readable, Store, StoreError};

/// A disk in memory.
#[derive(Debug)]
pub struct Ramdisk {
    store: Store,
    options: SpaceOptions,
    space: OnceLock<Space>,
}

/// So many bytes are cleared within queue_rq at most: a few microseconds.
const CLEARED_AT_ONCE: u64 = 64 << 10;

/// Why a request cannot have its memory.
#[derive(Clone, Copy, Debug)]
enum Lack {
    /// It is being made, or waited for.
    Now,
    /// There is none.
    ForGood,
    /// The disk ends before it.
    Gone,
}

impl Ramdisk {
    /// Serves what is in `store`.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            options: SpaceOptions::default(),
            space: OnceLock::new(),
        }
    }

    /// The same, making and taking back memory as these say.
    #[must_use]
    pub fn with_space(self, options: SpaceOptions) -> Self {
        Self { options, ..self }
    }

    /// The bytes behind the disk.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Starts making memory for the requests of `queue`, on workqueues in `runtime`. Until then
    /// every write that needs some is refused. Once in the life of a ramdisk.
    pub fn start(
        self: &Arc<Self>,
        runtime: &Runtime,
        queue: &Queue,
    ) -> Result<SpaceWorks, AllocError> {
        SpaceWorks::start(self, runtime, queue, self.options)
    }

    fn put_to_work(self: &Arc<Self>, space: Space) {
        let before = self.space.set(space);
        debug_assert!(before.is_ok(), "a ramdisk is started once");
        let ramdisk = Arc::downgrade(self);
        self.store.on_freed(move || {
            if let Some(ramdisk) = ramdisk.upgrade() {
                ramdisk.space.get().into_iter().for_each(Space::freed);
            }
        });
        self.space.get().into_iter().for_each(Space::scan_later);
    }

    #[inline]
    fn space(&self) -> Option<&Space> {
        self.space.get()
    }

    /// How long requests wait from now on when there is no memory.
    pub fn set_patience(&self, patience: Patience) {
        self.space()
            .into_iter()
            .for_each(|space| space.set_patience(patience));
    }

    /// Are pages of zeros looked for from now on when memory is short?
    pub fn set_reclaim(&self, reclaim: bool) {
        self.space()
            .into_iter()
            .for_each(|space| space.set_reclaim(reclaim));
    }

    /// What the store has and lacks.
    pub fn space_stats(&self) -> SpaceStats {
        self.space()
            .map_or_else(SpaceStats::default, |space| space.stats(&self.store))
    }

    /// [`Store::grow`], after what was made for the disk when it was larger has gone.
    pub fn grow(&self, size: u64) -> Result<(), StoreError> {
        self.space().iter().for_each(|space| space.settle());
        self.store.grow(size)
    }

    /// [`Store::shrink`], and those that wait for memory beyond the new end are ended.
    pub fn shrink(&self, size: u64) {
        self.store.shrink(size);
        self.space()
            .iter()
            .for_each(|space| space.shrunk(&self.store));
    }

    #[inline]
    fn serve<'q>(&self, hctx: u16, rq: Issued<'q>) -> Answer<'q> {
        let (op, range) = (rq.request().op(), range(rq.request()));
        match op {
            Op::Read => Answer::Ok(rq.transfer(match self.store.pin_for_read(range) {
                Readable::Memory(address) => Data::Contiguous(address),
                Readable::Hole => Data::Zeros,
                Readable::Mixed => Data::Scattered,
            })),
            Op::Write => match self.memory(hctx, rq.request(), &range) {
                Ok(address) => Answer::Ok(rq.transfer(Data::Contiguous(address))),
                Err(lack) => refuse(rq, lack),
            },
            // Every write is in the store when it is committed (C34).
            Op::Flush => Answer::Ok(rq.end(Ok(()))),
            Op::Discard | Op::WriteZeroes { unmap: true } => self.discard(rq),
            Op::WriteZeroes { unmap: false } if range.is_empty() => Answer::Ok(rq.end(Ok(()))),
            Op::WriteZeroes { unmap: false } => match self.memory(hctx, rq.request(), &range) {
                Ok(_) => self.clear(rq, range),
                Err(lack) => refuse(rq, lack),
            },
        }
    }

    /// Address of a request's memory, all of it there and pinned. Without a call: the way of every write.
    #[inline(always)]
    fn memory(
        &self,
        hctx: u16,
        request: &Request,
        range: &Range<u64>,
    ) -> Result<NonNull<u8>, Lack> {
        let Some(space) = self.space() else {
            return self.store.pin_for_write(range.clone()).ok_or(Lack::Now);
        };
        if !space.parked.any() {
            if let Some(address) = self.store.pin_for_write(range.clone()) {
                return Ok(address);
            }
        }
        self.memory_of_parked(space, (hctx, request.tag()), range)
    }

    /// The same for a request that may have a place among the parked, or needs one.
    #[cold]
    fn memory_of_parked(
        &self,
        space: &Space,
        of: (u16, u16),
        range: &Range<u64>,
    ) -> Result<NonNull<u8>, Lack> {
        let ask = |join| {
            let unpin = |range| self.store.unpin(range);
            space.parked.ask(of, range, join, space.cap(), unpin)
        };
        // The disk has become smaller (H8): memory would be made that nobody frees.
        if range.end > self.store.size() {
            return match ask(false) {
                Told::Waits if !space.parked.leave(of) => Err(Lack::Now),
                Told::Granted => {
                    self.store.unpin(range.clone());
                    Err(Lack::Gone)
                }
                _ => Err(Lack::Gone),
            };
        }
        match ask(false) {
            Told::Granted => return Ok(self.store.pinned(range)),
            Told::Denied => return self.store.pin_for_write(range.clone()).ok_or(Lack::ForGood),
            // What it waits for may have been made for another (E9).
            Told::Waits if !self.store.is_present(range) || !space.parked.leave(of) => {
                return Err(Lack::Now)
            }
            Told::Waits | Told::Unknown | Told::Joined | Told::TooMany => {}
        }
        if let Some(address) = self.store.pin_for_write(range.clone()) {
            return Ok(address);
        }
        if space.denies() {
            space.count_denied();
            return Err(Lack::ForGood);
        }
        match ask(true) {
            Told::TooMany => {
                space.count_above_cap();
                Err(Lack::ForGood)
            }
            _ => {
                space.kick();
                Err(Lack::Now)
            }
        }
    }

    /// Clears pinned memory: here if that takes no time, else on the store workqueue.
    fn clear<'q>(&self, rq: Issued<'q>, range: Range<u64>) -> Answer<'q> {
        match self.space() {
            Some(space) if range.end - range.start > CLEARED_AT_ONCE => {
                let request = *rq.request();
                let (token, accepted) = rq.hold();
                space.take_clear(token, request);
                Answer::Ok(accepted)
            }
            _ => {
                self.store.clear_pinned(range.clone());
                self.store.unpin(range);
                Answer::Ok(rq.end(Ok(())))
            }
        }
    }

    /// To give memory back takes system calls: the store workqueue's to do.
    fn discard<'q>(&self, rq: Issued<'q>) -> Answer<'q> {
        let request = *rq.request();
        let Some(space) = self.space() else {
            return rq.busy_skippable(Source::Memory);
        };
        if request.is_empty() {
            return Answer::Ok(rq.end(Ok(())));
        }
        let (token, accepted) = rq.hold();
        space.take_discard(token, request);
        Answer::Ok(accepted)
    }
}

fn refuse(rq: Issued<'_>, lack: Lack) -> Answer<'_> {
    match lack {
        Lack::Now => rq.busy_skippable(Source::Memory),
        // ENOMEM and EAGAIN are never committed (B6).
        Lack::ForGood => Answer::Error(rq, Status::NoSpc),
        Lack::Gone => Answer::Error(rq, Status::IoErr),
    }
}

fn range(request: &Request) -> Range<u64> {
    request.offset()..request.offset() + request.len()
}

impl Disk for Ramdisk {
    #[inline]
    fn capacity(&self) -> u64 {
        self.store.size()
    }

    fn needs_memory(&self, request: &Request) -> bool {
        let allocates = matches!(request.op(), Op::Write | Op::WriteZeroes { unmap: false });
        allocates && !self.store.is_present(&range(request))
    }
}

impl Operations for Ramdisk {
    #[inline]
    fn queue_rq<'q>(&self, hctx: Hctx<'_>, rq: Issued<'q>, _last: bool) -> Answer<'q> {
        self.serve(hctx.index(), rq)
    }

    /// Whatever needs no memory, and a write that need not wait for it any more, or has not been
    /// offered yet (E9, E10).
    fn overtakes(&self, hctx: Hctx<'_>, request: &Request) -> bool {
        let (Op::Write | Op::WriteZeroes { unmap: false }, Some(space)) =
            (request.op(), self.space())
        else {
            return true;
        };
        let range = range(request);
        !space.parked.waits((hctx.index(), request.tag()), &range) || self.store.is_present(&range)
    }

    fn runs(&self, request: &Request, each: &mut dyn FnMut(Run)) {
        self.store.runs(range(request), each);
    }

    #[inline]
    fn complete(&self, _hctx: Hctx<'_>, request: &Request) {
        if request.op().has_data() {
            self.store.unpin(range(request));
        }
    }
}
