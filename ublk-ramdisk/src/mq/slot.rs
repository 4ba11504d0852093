// SPDX-License-Identifier: MIT OR Apache-2.0
//! The preallocated slots, one per (queue, tag), and the lists they are threaded on.
//!
//! A slot is made with the device and stays for its life (A3). It holds the request as it was
//! checked, the word of [`super::request_state`], and one link: a request is on one list at most,
//! so neither a list nor a move between lists ever allocates. Kernel counterparts: `struct
//! request` with its `queuelist`, `struct list_head`.

use super::request::{Op, Request};
use super::request_state::RequestState;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A request's number within its device: queue times depth plus tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rq(pub(super) u32);

/// No request.
const NIL: u32 = u32::MAX;

/// Bits of [`Slot::kind`] beside the operation.
const FUA: u32 = 1 << 8;
/// The project's own control request, which never goes through a ctx (C4).
pub(super) const PASSTHROUGH: u32 = 1 << 9;
/// A driver has begun with it before and keeps things for it (`RQF_DONTPREP`).
pub(super) const PREPARED: u32 = 1 << 10;
/// Goes in front (passthrough, for the first insertion only).
pub(super) const AT_HEAD: u32 = 1 << 11;
/// It was refused and has not been tried again.
pub(super) const PARKED: u32 = 1 << 13;
/// Not all of its bytes are moved: it ends with IOERR.
pub(super) const CUT: u32 = 1 << 14;
/// A panic has ended the section in which it was issued: nobody may have its token.
pub(super) const ABANDONED: u32 = 1 << 15;
/// The outcome in the slot goes through the driver's `complete`.
const VIA_DRIVER: u32 = 1 << 12;

/// The deadline of a request that nobody has kept yet.
pub(super) const UNTIMED: u64 = u64::MAX;

/// One slot. All fields but the state are written by the request's owner alone and reach the next
/// owner through the state word or the lock of the list it comes from; hence Relaxed.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Slot {
    pub(super) state: RequestState, // A
    next: AtomicU32,                // the lock of the list it is on
    kind: AtomicU32,                // O: operation and flags
    offset: AtomicU64,              // O
    len: AtomicU64,                 // O
    deadline: AtomicU64,            // O: nanoseconds, set when it is kept
    result: AtomicI32,              // O: of a completed request that somebody still looks at
    ctx: AtomicU32,                 // O: the software queue it came by
    token: AtomicU32,               // O: its budget token
    arrived: AtomicU64,             // O: nanoseconds, 0 if it is not timed
}

const _: () = assert!(cfg!(loom) || size_of::<Slot>() == 64);

impl Slot {
    fn new() -> Self {
        Self {
            state: RequestState::new(),
            next: AtomicU32::new(NIL),
            kind: AtomicU32::new(0),
            offset: AtomicU64::new(0),
            len: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            result: AtomicI32::new(0),
            ctx: AtomicU32::new(0),
            token: AtomicU32::new(0),
            arrived: AtomicU64::new(0),
        }
    }

    /// Stores a request that has arrived.
    #[inline]
    pub(super) fn fill(&self, request: &Request, ctx: u16, flags: u32, arrived: u64) {
        let fua = if request.is_fua() { FUA } else { 0 };
        self.kind.store(encode(request.op()) | fua | flags, Relaxed);
        self.offset.store(request.offset(), Relaxed);
        self.len.store(request.len(), Relaxed);
        self.ctx.store(u32::from(ctx), Relaxed);
        self.arrived.store(arrived, Relaxed);
    }

    /// Returns the stored request.
    #[inline]
    pub(super) fn request(&self, tag: u16) -> Request {
        let kind = self.kind.load(Relaxed);
        Request::from_parts(
            tag,
            decode(kind),
            self.offset.load(Relaxed),
            self.len.load(Relaxed),
            kind & FUA != 0,
        )
    }

    pub(super) fn ctx(&self) -> u16 {
        self.ctx.load(Relaxed) as u16
    }

    #[inline]
    pub(super) fn has(&self, flags: u32) -> bool {
        self.kind.load(Relaxed) & flags != 0
    }

    pub(super) fn set(&self, flags: u32) {
        self.kind.store(self.kind.load(Relaxed) | flags, Relaxed);
    }

    pub(super) fn clear(&self, flags: u32) {
        self.kind.store(self.kind.load(Relaxed) & !flags, Relaxed);
    }

    pub(super) fn deadline(&self) -> u64 {
        self.deadline.load(Relaxed)
    }

    #[inline]
    pub(super) fn set_deadline(&self, deadline: u64) {
        self.deadline.store(deadline, Relaxed);
    }

    /// As `set_deadline`, by a thread that does not own the request: a deadline of its owner stays.
    pub(super) fn set_deadline_if_untimed(&self, deadline: u64) {
        let set = self
            .deadline
            .compare_exchange(UNTIMED, deadline, Relaxed, Relaxed);
        let _timed_already = set;
    }

    #[inline]
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Relaxed)
    }

    #[inline]
    pub(super) fn token(&self) -> u32 {
        self.token.load(Relaxed)
    }

    pub(super) fn set_token(&self, token: u32) {
        self.token.store(token, Relaxed);
    }

    /// Stores the outcome for the thread that drops the last reference.
    pub(super) fn publish(&self, result: i32, via_driver: bool) {
        self.result.store(result, Relaxed);
        if via_driver {
            self.set(VIA_DRIVER);
        } else {
            self.clear(VIA_DRIVER);
        }
    }

    /// Returns the stored result, and true if the driver's `complete` is to be called.
    pub(super) fn published(&self) -> (i32, bool) {
        (self.result.load(Relaxed), self.has(VIA_DRIVER))
    }
}

fn encode(op: Op) -> u32 {
    op.index() as u32 + u32::from(op == Op::WriteZeroes { unmap: true })
}

fn decode(kind: u32) -> Op {
    match kind & 0xff {
        0 => Op::Read,
        1 => Op::Write,
        2 => Op::Flush,
        3 => Op::Discard,
        4 => Op::WriteZeroes { unmap: false },
        _ => Op::WriteZeroes { unmap: true },
    }
}

/// All slots of a device.
#[derive(Debug)]
pub(super) struct Slots(Box<[Slot]>);

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Slot::new()).collect())
    }

    #[inline]
    pub(super) fn get(&self, rq: Rq) -> &Slot {
        &self.0[rq.0 as usize]
    }
}

/// A FIFO of requests, linked through their slots.
#[derive(Debug)]
pub(super) struct RqList {
    head: u32,
    tail: u32,
    len: u32,
}

impl RqList {
    pub(super) const fn new() -> Self {
        Self {
            head: NIL,
            tail: NIL,
            len: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn push_back(&mut self, slots: &Slots, rq: Rq) {
        slots.get(rq).next.store(NIL, Relaxed);
        if self.tail == NIL {
            self.head = rq.0;
        } else {
            slots.get(Rq(self.tail)).next.store(rq.0, Relaxed);
        }
        self.tail = rq.0;
        self.len += 1;
    }

    pub(super) fn push_front(&mut self, slots: &Slots, rq: Rq) {
        slots.get(rq).next.store(self.head, Relaxed);
        if self.tail == NIL {
            self.tail = rq.0;
        }
        self.head = rq.0;
        self.len += 1;
    }

    pub(super) fn pop_front(&mut self, slots: &Slots) -> Option<Rq> {
        if self.head == NIL {
            return None;
        }
        let rq = Rq(self.head);
        self.head = slots.get(rq).next.load(Relaxed);
        if self.head == NIL {
            self.tail = NIL;
        }
        self.len -= 1;
        Some(rq)
    }

    /// Puts all of `other` behind, in order; `other` is empty then.
    pub(super) fn append(&mut self, slots: &Slots, other: &mut Self) {
        let other = other.take();
        if other.is_empty() {
            return;
        }
        if self.tail == NIL {
            self.head = other.head;
        } else {
            slots.get(Rq(self.tail)).next.store(other.head, Relaxed);
        }
        self.tail = other.tail;
        self.len += other.len;
    }

    /// Takes the whole list out.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new())
    }

    /// Lists the requests in order, as far as there is room: never allocates.
    pub(super) fn list_into(&self, slots: &Slots, out: &mut Vec<Rq>) {
        let room = out.capacity() - out.len();
        out.extend(self.iter(slots).take(room));
    }

    /// The requests in order. The caller keeps others from changing the list.
    pub(super) fn iter<'a>(&self, slots: &'a Slots) -> impl Iterator<Item = Rq> + use<'a> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let rq = (at != NIL).then_some(Rq(at))?;
            at = slots.get(rq).next.load(Relaxed);
            Some(rq)
        })
    }
}

/// Requests that wait for requeue_work.
#[derive(Debug)]
pub(super) struct RequeueLists {
    pub(super) requests: RqList,
    pub(super) flushes: RqList,
}

impl RequeueLists {
    pub(super) fn new() -> Self {
        Self {
            requests: RqList::new(),
            flushes: RqList::new(),
        }
    }

    /// Lists those that wait, as far as there is room.
    pub(super) fn list_into(&self, slots: &Slots, out: &mut Vec<Rq>) {
        self.requests.list_into(slots, out);
        self.flushes.list_into(slots, out);
    }

    pub(super) fn len(&self) -> u32 {
        self.requests.len() + self.flushes.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn numbers(slots: &Slots, list: &RqList) -> Vec<u32> {
        list.iter(slots).map(|rq| rq.0).collect()
    }

    #[test]
    fn a3_lists_keep_their_order_through_every_move() {
        let slots = Slots::new(8);
        let mut list = RqList::new();
        for n in [1, 2, 3] {
            list.push_back(&slots, Rq(n));
        }
        list.push_front(&slots, Rq(0));
        let mut more = RqList::new();
        more.append(&slots, &mut list);
        assert!(list.is_empty() && list.pop_front(&slots).is_none());
        list.push_back(&slots, Rq(7));
        more.append(&slots, &mut list);
        assert_eq!(numbers(&slots, &more), [0, 1, 2, 3, 7]);
        assert_eq!(more.len(), 5);
        assert_eq!(more.pop_front(&slots), Some(Rq(0)));
        more.push_front(&slots, Rq(5));
        assert_eq!(numbers(&slots, &more.take()), [5, 1, 2, 3, 7]);
        assert!(more.is_empty());
    }

    #[test]
    fn a3_a_slot_gives_back_the_request_it_was_given() {
        let slot = Slot::new();
        let ops = [
            Op::Read,
            Op::Write,
            Op::Flush,
            Op::Discard,
            Op::WriteZeroes { unmap: false },
            Op::WriteZeroes { unmap: true },
        ];
        for op in ops {
            for fua in [false, true] {
                let request = Request::from_parts(3, op, 1 << 40, 512, fua);
                slot.fill(&request, 2, 0, 0);
                assert_eq!(slot.request(3), request);
                assert!(slot.ctx() == 2 && !slot.has(PASSTHROUGH));
            }
        }
    }
}
