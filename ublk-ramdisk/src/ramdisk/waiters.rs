// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that wait for memory: an entry for each tag, and a list of those that wait, the oldest
//! first.
//!
//! ```text
//!           decide         take_oldest        grant            decide
//!   FREE --------> WAITING -----> TAKEN -----------> GRANTED -----> FREE: the request has its memory
//!                   |   ^           |
//!              deny |   +-----------+ put_back, in front
//!                   v      decide
//!                 DENIED ---------> FREE: the request ends with NOSPC
//! ```
//!
//! The request itself is on a dispatch list of the mirror meanwhile. It comes back with another
//! queue_rq, which calls `decide`. The memory of a GRANTED entry is pinned, so it is still there
//! then. The populate work, the no-space timer and a queue_rq change an entry under the lock of the
//! list, so only one of them moves it on (W15): a TAKEN entry is not denied, a DENIED one is not
//! granted, and an entry becomes free once.
//!
//! Nothing here allocates after it is made, and the lock is held for a few steps only.

use std::ops::Range;

use super::sync::{lock, AtomicU32, Mutex, Ordering};

const NIL: u32 = u32::MAX;

/// Where a request is on its way to memory; see the diagram above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Waiting,
    Taken,
    Granted,
    Denied,
    /// As taken, but the request is gone.
    Abandoned,
}

/// The entry of a tag.
#[derive(Clone, Debug)]
struct Entry {
    state: State,
    range: Range<u64>,
    prev: u32,
    next: u32,
}

/// What becomes of a request that lacks memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum AllocDecision {
    /// Its range is present and pinned.
    Granted,
    /// It gets no memory.
    Denied,
    /// It begins to wait: the caller kicks the populate work.
    Queued,
    /// It waits already.
    Waiting,
    /// It does not wait, and was not to begin.
    NotQueued,
    /// It may not wait: too many of its queue do.
    AboveCap,
}

/// An entry that the populate work has taken.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Taken {
    pub(super) entry: u32,
    pub(super) range: Range<u64>,
}

/// The entries of a device.
#[derive(Debug)]
pub(super) struct Waiters {
    list: Mutex<List>,
    /// Entries that are not free, to be read without the lock.
    occupied: AtomicU32,
    depth: u32,
}

#[derive(Debug)]
struct List {
    entries: Box<[Entry]>,
    first: u32,
    last: u32,
    /// Entries that are waiting or taken, by hardware queue.
    waiting: Box<[u32]>,
}

impl List {
    /// Takes an entry out of the list. Its links are left as they were.
    fn unlink(&mut self, at: u32) {
        let Entry { prev, next, .. } = self.entries[at as usize];
        match prev {
            NIL => self.first = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NIL => self.last = prev,
            next => self.entries[next as usize].prev = prev,
        }
    }

    /// Puts an entry at the end of the list, or at its beginning.
    fn link(&mut self, at: u32, in_front: bool) {
        let (prev, next) = match in_front {
            true => (NIL, self.first),
            false => (self.last, NIL),
        };
        let entry = &mut self.entries[at as usize];
        (entry.prev, entry.next) = (prev, next);
        match prev {
            NIL => self.first = at,
            prev => self.entries[prev as usize].next = at,
        }
        match next {
            NIL => self.last = at,
            next => self.entries[next as usize].prev = at,
        }
    }
}

impl Waiters {
    /// Makes the entries of a device with `nr_hw_queues` queues of `depth` tags.
    pub(super) fn new(nr_hw_queues: u16, depth: u16) -> Self {
        let entries = usize::from(nr_hw_queues) * usize::from(depth);
        let free = Entry {
            state: State::Free,
            range: 0..0,
            prev: NIL,
            next: NIL,
        };
        Self {
            list: Mutex::new(List {
                entries: vec![free; entries].into(),
                first: NIL,
                last: NIL,
                waiting: vec![0; usize::from(nr_hw_queues)].into(),
            }),
            occupied: AtomicU32::new(0),
            depth: u32::from(depth),
        }
    }

    /// The number of a tag's entry.
    fn at(&self, hctx: u16, tag: u16) -> u32 {
        u32::from(hctx) * self.depth + u32::from(tag)
    }

    /// The hardware queue of an entry.
    fn hctx(&self, at: u32) -> usize {
        (at / self.depth) as usize
    }

    /// True if any entry is in use. True for a request that has one: it was made on the request's own
    /// way here.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.occupied.load(Ordering::Relaxed) != 0
    }

    /// Frees an entry that is not in the list.
    fn free(&self, list: &mut List, at: u32) {
        list.entries[at as usize].state = State::Free;
        self.occupied.fetch_sub(1, Ordering::Relaxed);
    }

    /// Decides about a request that is issued again, or lacks memory. With `join` a request that does
    /// not wait yet begins to, if fewer than `cap` of its queue do.
    ///
    /// The entry may still be that of an earlier request of the tag, which ended in another way. It is
    /// freed then, and memory it was granted goes to `unpin`.
    pub(super) fn decide(
        &self,
        (hctx, tag): (u16, u16),
        range: &Range<u64>,
        join: bool,
        cap: Option<u32>,
        unpin: impl FnOnce(Range<u64>),
    ) -> AllocDecision {
        let at = self.at(hctx, tag);
        let list = &mut *lock(&self.list);
        let entry = &mut list.entries[at as usize];
        let ours = entry.range == *range;
        match entry.state {
            State::Granted | State::Denied if ours => {
                let granted = entry.state == State::Granted;
                self.free(list, at);
                return if granted {
                    AllocDecision::Granted
                } else {
                    AllocDecision::Denied
                };
            }
            State::Waiting | State::Taken if ours => return AllocDecision::Waiting,
            State::Free => {}
            State::Denied => self.free(list, at),
            State::Granted => {
                unpin(entry.range.clone());
                self.free(list, at);
            }
            State::Waiting => {
                list.unlink(at);
                list.waiting[usize::from(hctx)] -= 1;
                self.free(list, at);
            }
            State::Taken | State::Abandoned => {
                entry.state = State::Abandoned;
                return AllocDecision::Waiting;
            }
        }
        if !join {
            return AllocDecision::NotQueued;
        }
        if cap.is_some_and(|cap| list.waiting[usize::from(hctx)] >= cap) {
            return AllocDecision::AboveCap;
        }
        let entry = &mut list.entries[at as usize];
        (entry.state, entry.range) = (State::Waiting, range.clone());
        list.link(at, false);
        list.waiting[usize::from(hctx)] += 1;
        self.occupied.fetch_add(1, Ordering::Relaxed);
        AllocDecision::Queued
    }

    /// Frees the entry of a request that waits. False if the populate work has taken it.
    pub(super) fn remove(&self, (hctx, tag): (u16, u16)) -> bool {
        let at = self.at(hctx, tag);
        let list = &mut *lock(&self.list);
        if list.entries[at as usize].state != State::Waiting {
            return false;
        }
        list.unlink(at);
        list.waiting[usize::from(hctx)] -= 1;
        self.free(list, at);
        true
    }

    /// True if this request waits, so that it would be refused again.
    pub(super) fn is_waiting(&self, (hctx, tag): (u16, u16), range: &Range<u64>) -> bool {
        let list = lock(&self.list);
        let entry = &list.entries[self.at(hctx, tag) as usize];
        matches!(entry.state, State::Waiting | State::Taken) && entry.range == *range
    }

    /// Requests of all queues that wait.
    pub(super) fn waiting(&self) -> u64 {
        let list = lock(&self.list);
        list.waiting.iter().map(|&n| u64::from(n)).sum()
    }

    /// Takes the oldest entry out of the list.
    pub(super) fn take_oldest(&self) -> Option<Taken> {
        let list = &mut *lock(&self.list);
        let at = list.first;
        if at == NIL {
            return None;
        }
        // guard: w15_unlink
        list.unlink(at);
        let entry = &mut list.entries[at as usize];
        entry.state = State::Taken;
        Some(Taken {
            entry: at,
            range: entry.range.clone(),
        })
    }

    /// Grants a taken entry its range, which is present and pinned. Returns the hardware queue to be
    /// run. None if the request is gone: the pins are the caller's then.
    pub(super) fn grant(&self, taken: &Taken) -> Option<u16> {
        self.finish(taken, State::Granted)
    }

    /// Denies a taken entry its memory. Returns as `grant` does.
    pub(super) fn deny(&self, taken: &Taken) -> Option<u16> {
        self.finish(taken, State::Denied)
    }

    /// Puts a taken entry back in front of the list: there is no memory for it yet.
    pub(super) fn put_back(&self, taken: &Taken) {
        let list = &mut *lock(&self.list);
        let hctx = self.hctx(taken.entry);
        let entry = &mut list.entries[taken.entry as usize];
        if entry.state == State::Abandoned {
            list.waiting[hctx] -= 1;
            return self.free(list, taken.entry);
        }
        debug_assert_eq!(entry.state, State::Taken);
        entry.state = State::Waiting;
        list.link(taken.entry, true);
    }

    /// Moves a taken entry on. None if its request is gone.
    fn finish(&self, taken: &Taken, to: State) -> Option<u16> {
        let list = &mut *lock(&self.list);
        let hctx = self.hctx(taken.entry);
        list.waiting[hctx] -= 1;
        let entry = &mut list.entries[taken.entry as usize];
        if entry.state == State::Abandoned {
            self.free(list, taken.entry);
            return None;
        }
        debug_assert_eq!(entry.state, State::Taken);
        entry.state = to;
        Some(hctx as u16)
    }

    /// Denies all that wait their memory. Returns their number.
    pub(super) fn deny_all(&self) -> u64 {
        self.deny_above(0)
    }

    /// Denies the newest of each queue, until at most `cap` wait. Returns their number.
    pub(super) fn deny_above(&self, cap: u32) -> u64 {
        self.deny_each(|waiting, _| waiting > cap)
    }

    /// Denies those whose range ends beyond `size`. Returns their number.
    pub(super) fn deny_beyond(&self, size: u64) -> u64 {
        self.deny_each(|_, range| range.end > size)
    }

    /// Denies those for which `denies` returns true, the newest first. It is called with the number of
    /// requests of the queue that wait, and the range.
    fn deny_each(&self, denies: impl Fn(u32, &Range<u64>) -> bool) -> u64 {
        let list = &mut *lock(&self.list);
        let (mut at, mut denied) = (list.last, 0);
        while at != NIL {
            let (hctx, before) = (self.hctx(at), list.entries[at as usize].prev);
            if denies(list.waiting[hctx], &list.entries[at as usize].range) {
                list.unlink(at);
                list.waiting[hctx] -= 1;
                list.entries[at as usize].state = State::Denied;
                denied += 1;
            }
            at = before;
        }
        denied
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn ask(waiters: &Waiters, tag: u16) -> AllocDecision {
        let range = u64::from(tag) * 10..u64::from(tag) * 10 + 10;
        waiters.decide((tag / 8, tag % 8), &range, true, None, |_| panic!("pinned"))
    }

    #[test]
    fn w14_the_oldest_entry_is_first_and_so_is_one_that_was_put_back() {
        let waiters = Waiters::new(2, 8);
        assert!(!waiters.any() && waiters.take_oldest().is_none());
        for tag in [3, 9, 1] {
            assert_eq!(ask(&waiters, tag), AllocDecision::Queued);
            assert_eq!(ask(&waiters, tag), AllocDecision::Waiting);
        }
        assert_eq!(waiters.waiting(), 3);
        let first = waiters.take_oldest().unwrap();
        assert_eq!((first.entry, first.range.clone()), (3, 30..40));
        waiters.put_back(&first);
        let first = waiters.take_oldest().unwrap();
        assert_eq!(waiters.grant(&first), Some(0));
        assert!(!waiters.is_waiting((0, 3), &(30..40)) && waiters.is_waiting((1, 1), &(90..100)));
        assert_eq!(ask(&waiters, 3), AllocDecision::Granted);
        let second = waiters.take_oldest().unwrap();
        assert_eq!(waiters.grant(&second), Some(1));
        assert_eq!(waiters.waiting(), 1);
    }

    #[test]
    fn e11_the_newest_above_the_cap_are_denied() {
        let waiters = Waiters::new(2, 8);
        for tag in [0, 8, 1, 2, 9, 3] {
            assert_eq!(ask(&waiters, tag), AllocDecision::Queued);
        }
        assert_eq!(waiters.deny_above(2), 2);
        assert_eq!(
            [2, 3].map(|tag| ask(&waiters, tag)),
            [AllocDecision::Denied; 2]
        );
        assert_eq!(
            [0, 1, 8, 9].map(|tag| ask(&waiters, tag)),
            [AllocDecision::Waiting; 4]
        );
        let told = waiters.decide((0, 4), &(40..50), true, Some(2), |_| ());
        assert_eq!(told, AllocDecision::AboveCap);
        assert_eq!(waiters.deny_all(), 4);
        assert_eq!(
            [0, 1, 8, 9].map(|tag| ask(&waiters, tag)),
            [AllocDecision::Denied; 4]
        );
        assert!(!waiters.any());
    }

    #[test]
    fn w15_a_taken_entry_is_not_denied_and_a_denied_one_not_taken() {
        let waiters = Waiters::new(1, 8);
        let (_, _) = (ask(&waiters, 0), ask(&waiters, 1));
        let taken = waiters.take_oldest().unwrap();
        assert_eq!(waiters.deny_all(), 1);
        assert_eq!(waiters.grant(&taken), Some(0));
        assert!(waiters.take_oldest().is_none());
        assert_eq!(ask(&waiters, 0), AllocDecision::Granted);
        assert_eq!(ask(&waiters, 1), AllocDecision::Denied);
        assert!(!waiters.any());
    }

    #[test]
    fn e07_the_entry_of_an_ended_request_gives_its_memory_back() {
        let waiters = Waiters::new(1, 8);
        assert_eq!(ask(&waiters, 0), AllocDecision::Queued);
        let other = |unpinned: &mut Option<Range<u64>>| {
            waiters.decide((0, 0), &(70..80), true, None, |range| {
                *unpinned = Some(range)
            })
        };
        let mut unpinned = None;
        let taken = waiters.take_oldest().unwrap();
        assert_eq!(
            other(&mut unpinned),
            AllocDecision::Waiting,
            "somebody works for the old one"
        );
        assert_eq!(waiters.grant(&taken), None, "and keeps what it has made");
        assert_eq!(other(&mut unpinned), AllocDecision::Queued);
        let taken = waiters.take_oldest().unwrap();
        assert_eq!(waiters.grant(&taken), Some(0));
        assert_eq!(unpinned, None);
        let told = waiters.decide((0, 0), &(0..5), false, None, |range| unpinned = Some(range));
        assert_eq!((told, unpinned), (AllocDecision::NotQueued, Some(70..80)));
        assert!(!waiters.any());
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc;

    /// The no-space timer fires while the populate work gives the request its memory: the request
    /// hears one of the two, once, and the memory is pinned if and only if it was granted.
    #[test]
    fn loom_w15_a_request_is_granted_or_denied_never_both() {
        loom::model(|| {
            let waiters = Arc::new(Waiters::new(1, 2));
            let ask = |p: &Waiters| p.decide((0, 0), &(0..10), true, None, |_| ());
            assert_eq!(ask(&waiters), AllocDecision::Queued);
            let other = waiters.clone();
            let timer = loom::thread::spawn(move || other.deny_all());
            let granted = match waiters.take_oldest() {
                Some(taken) => waiters.grant(&taken).is_some(),
                None => false,
            };
            let denied = timer.join().unwrap() == 1;
            assert!(granted != denied, "granted {granted}, denied {denied}");
            let expected = if granted {
                AllocDecision::Granted
            } else {
                AllocDecision::Denied
            };
            assert_eq!(ask(&waiters), expected);
            assert!(
                !waiters.any() && waiters.take_oldest().is_none(),
                "left once"
            );
        });
    }
}
