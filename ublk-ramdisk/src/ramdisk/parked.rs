// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that wait for memory: a place for each tag, and a line of those that nobody has looked
//! at yet, the oldest first.
//!
//! ```text
//!           ask            take             grant             ask
//!   FREE --------> WAITING -----> TAKEN -----------> GRANTED -----> FREE: the request has its memory
//!                   |   ^           |
//!              deny |   +-----------+ put back, in front
//!                   v        ask
//!                 DENIED ---------> FREE: the request ends with NOSPC
//! ```
//!
//! The request itself is the mirror's meanwhile, on a dispatch list, and comes back with another
//! queue_rq; that is the `ask`. The memory of a GRANTED place is pinned, so nothing takes it away
//! before the request is back. Of the populate work, the no-space timer and the request that is
//! being offered again only one moves a place on, under the lock of the line (W15): what is TAKEN
//! is not denied, what is DENIED is not granted, and a place is left once.
//!
//! Nothing here allocates after it is made, and the lock is held for a few steps only.

use std::ops::Range;

use super::words::{lock, AtomicU32, Mutex, Ordering};

const NIL: u32 = u32::MAX;

/// Where a request is on its way to memory.
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

/// One tag's.
#[derive(Clone, Debug)]
struct Place {
    state: State,
    range: Range<u64>,
    prev: u32,
    next: u32,
}

/// What a request that lacks memory is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Told {
    /// Its range is present and pinned.
    Granted,
    /// There will be none.
    Denied,
    /// It has a place now: the populate work has to be told.
    Joined,
    /// It has one.
    Waits,
    /// It has none, and did not ask for one.
    Unknown,
    /// There are too many that wait.
    TooMany,
}

/// A place that the populate work has taken.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Taken {
    pub(super) place: u32,
    pub(super) range: Range<u64>,
}

/// All places of a device.
#[derive(Debug)]
pub(super) struct Parked {
    line: Mutex<Line>,
    /// Places that are not free: asked without the lock.
    occupied: AtomicU32,
    depth: u32,
}

#[derive(Debug)]
struct Line {
    places: Box<[Place]>,
    first: u32,
    last: u32,
    /// By hardware queue, those that wait or are taken.
    waiting: Box<[u32]>,
}

impl Line {
    fn unlink(&mut self, at: u32) {
        let Place { prev, next, .. } = self.places[at as usize];
        match prev {
            NIL => self.first = next,
            prev => self.places[prev as usize].next = next,
        }
        match next {
            NIL => self.last = prev,
            next => self.places[next as usize].prev = prev,
        }
    }

    fn link(&mut self, at: u32, in_front: bool) {
        let (prev, next) = match in_front {
            true => (NIL, self.first),
            false => (self.last, NIL),
        };
        let place = &mut self.places[at as usize];
        (place.prev, place.next) = (prev, next);
        match prev {
            NIL => self.first = at,
            prev => self.places[prev as usize].next = at,
        }
        match next {
            NIL => self.last = at,
            next => self.places[next as usize].prev = at,
        }
    }
}

impl Parked {
    /// For a device of so many hardware queues and tags.
    pub(super) fn new(nr_hw_queues: u16, depth: u16) -> Self {
        let places = usize::from(nr_hw_queues) * usize::from(depth);
        let free = Place {
            state: State::Free,
            range: 0..0,
            prev: NIL,
            next: NIL,
        };
        Self {
            line: Mutex::new(Line {
                places: vec![free; places].into(),
                first: NIL,
                last: NIL,
                waiting: vec![0; usize::from(nr_hw_queues)].into(),
            }),
            occupied: AtomicU32::new(0),
            depth: u32::from(depth),
        }
    }

    fn at(&self, hctx: u16, tag: u16) -> u32 {
        u32::from(hctx) * self.depth + u32::from(tag)
    }

    fn hctx(&self, at: u32) -> usize {
        (at / self.depth) as usize
    }

    /// Has any request a place? A request that has one itself is told yes: it got it on its way
    /// here.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.occupied.load(Ordering::Relaxed) != 0
    }

    /// Frees a place that is in no line.
    fn free(&self, line: &mut Line, at: u32) {
        line.places[at as usize].state = State::Free;
        self.occupied.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request is offered again, or lacks memory. It gets a place if it has none, `join` is
    /// asked for, and at most `cap` of its queue wait.
    /// A place that was left by an earlier request of the tag, which has ended on another way, is
    /// taken from it; the memory it was granted goes to `unpin`.
    pub(super) fn ask(
        &self,
        (hctx, tag): (u16, u16),
        range: &Range<u64>,
        join: bool,
        cap: Option<u32>,
        unpin: impl FnOnce(Range<u64>),
    ) -> Told {
        let at = self.at(hctx, tag);
        let line = &mut *lock(&self.line);
        let place = &mut line.places[at as usize];
        let ours = place.range == *range;
        match place.state {
            State::Granted | State::Denied if ours => {
                let granted = place.state == State::Granted;
                self.free(line, at);
                return if granted { Told::Granted } else { Told::Denied };
            }
            State::Waiting | State::Taken if ours => return Told::Waits,
            State::Free => {}
            State::Denied => self.free(line, at),
            State::Granted => {
                unpin(place.range.clone());
                self.free(line, at);
            }
            State::Waiting => {
                line.unlink(at);
                line.waiting[usize::from(hctx)] -= 1;
                self.free(line, at);
            }
            State::Taken | State::Abandoned => {
                place.state = State::Abandoned;
                return Told::Waits;
            }
        }
        if !join {
            return Told::Unknown;
        }
        if cap.is_some_and(|cap| line.waiting[usize::from(hctx)] >= cap) {
            return Told::TooMany;
        }
        let place = &mut line.places[at as usize];
        (place.state, place.range) = (State::Waiting, range.clone());
        line.link(at, false);
        line.waiting[usize::from(hctx)] += 1;
        self.occupied.fetch_add(1, Ordering::Relaxed);
        Told::Joined
    }

    /// The memory of a request that waits has come by itself: it leaves its place, unless somebody
    /// works for it just now. Answers whether it has.
    pub(super) fn leave(&self, (hctx, tag): (u16, u16)) -> bool {
        let at = self.at(hctx, tag);
        let line = &mut *lock(&self.line);
        if line.places[at as usize].state != State::Waiting {
            return false;
        }
        line.unlink(at);
        line.waiting[usize::from(hctx)] -= 1;
        self.free(line, at);
        true
    }

    /// Does this request wait, so that to offer it again would be in vain?
    pub(super) fn waits(&self, (hctx, tag): (u16, u16), range: &Range<u64>) -> bool {
        let line = lock(&self.line);
        let place = &line.places[self.at(hctx, tag) as usize];
        matches!(place.state, State::Waiting | State::Taken) && place.range == *range
    }

    /// How many wait, in all queues.
    pub(super) fn waiting(&self) -> u64 {
        let line = lock(&self.line);
        line.waiting.iter().map(|&n| u64::from(n)).sum()
    }

    /// Takes the oldest out of the line.
    pub(super) fn take(&self) -> Option<Taken> {
        let line = &mut *lock(&self.line);
        let at = line.first;
        if at == NIL {
            return None;
        }
        // guard: w15_unlink
        line.unlink(at);
        let place = &mut line.places[at as usize];
        place.state = State::Taken;
        Some(Taken {
            place: at,
            range: place.range.clone(),
        })
    }

    /// The range of what was taken is present and pinned. Answers the queue to be run; None if the
    /// request is gone, and the range is the caller's.
    pub(super) fn grant(&self, taken: &Taken) -> Option<u16> {
        self.settle(taken, State::Granted)
    }

    /// What was taken gets no memory. Answers as `grant` does.
    pub(super) fn deny(&self, taken: &Taken) -> Option<u16> {
        self.settle(taken, State::Denied)
    }

    /// There is no memory for what was taken: it is the first in the line again.
    pub(super) fn put_back(&self, taken: &Taken) {
        let line = &mut *lock(&self.line);
        let hctx = self.hctx(taken.place);
        let place = &mut line.places[taken.place as usize];
        if place.state == State::Abandoned {
            line.waiting[hctx] -= 1;
            return self.free(line, taken.place);
        }
        debug_assert_eq!(place.state, State::Taken);
        place.state = State::Waiting;
        line.link(taken.place, true);
    }

    fn settle(&self, taken: &Taken, to: State) -> Option<u16> {
        let line = &mut *lock(&self.line);
        let hctx = self.hctx(taken.place);
        line.waiting[hctx] -= 1;
        let place = &mut line.places[taken.place as usize];
        if place.state == State::Abandoned {
            self.free(line, taken.place);
            return None;
        }
        debug_assert_eq!(place.state, State::Taken);
        place.state = to;
        Some(hctx as u16)
    }

    /// All that wait get no memory. Answers how many.
    pub(super) fn deny_all(&self) -> u64 {
        self.deny_above(0)
    }

    /// Of each queue the newest get no memory, until at most `cap` wait. Answers how many.
    pub(super) fn deny_above(&self, cap: u32) -> u64 {
        self.deny_each(|waiting, _| waiting > cap)
    }

    /// Those get no memory whose range ends beyond `size`. Answers how many.
    pub(super) fn deny_beyond(&self, size: u64) -> u64 {
        self.deny_each(|_, range| range.end > size)
    }

    /// Asks of each that waits, the newest first, with how many of its queue wait.
    fn deny_each(&self, denies: impl Fn(u32, &Range<u64>) -> bool) -> u64 {
        let line = &mut *lock(&self.line);
        let (mut at, mut denied) = (line.last, 0);
        while at != NIL {
            let (hctx, before) = (self.hctx(at), line.places[at as usize].prev);
            if denies(line.waiting[hctx], &line.places[at as usize].range) {
                line.unlink(at);
                line.waiting[hctx] -= 1;
                line.places[at as usize].state = State::Denied;
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

    fn ask(parked: &Parked, tag: u16) -> Told {
        let range = u64::from(tag) * 10..u64::from(tag) * 10 + 10;
        parked.ask((tag / 8, tag % 8), &range, true, None, |_| panic!("pinned"))
    }

    #[test]
    fn w14_the_oldest_is_first_and_what_is_put_back_too() {
        let parked = Parked::new(2, 8);
        assert!(!parked.any() && parked.take().is_none());
        for tag in [3, 9, 1] {
            assert_eq!(ask(&parked, tag), Told::Joined);
            assert_eq!(ask(&parked, tag), Told::Waits);
        }
        assert_eq!(parked.waiting(), 3);
        let first = parked.take().unwrap();
        assert_eq!((first.place, first.range.clone()), (3, 30..40));
        parked.put_back(&first);
        let first = parked.take().unwrap();
        assert_eq!(parked.grant(&first), Some(0));
        assert!(!parked.waits((0, 3), &(30..40)) && parked.waits((1, 1), &(90..100)));
        assert_eq!(ask(&parked, 3), Told::Granted);
        let second = parked.take().unwrap();
        assert_eq!(parked.grant(&second), Some(1));
        assert_eq!(parked.waiting(), 1);
    }

    #[test]
    fn e11_the_newest_above_the_cap_are_denied() {
        let parked = Parked::new(2, 8);
        for tag in [0, 8, 1, 2, 9, 3] {
            assert_eq!(ask(&parked, tag), Told::Joined);
        }
        assert_eq!(parked.deny_above(2), 2);
        assert_eq!([2, 3].map(|tag| ask(&parked, tag)), [Told::Denied; 2]);
        assert_eq!([0, 1, 8, 9].map(|tag| ask(&parked, tag)), [Told::Waits; 4]);
        let told = parked.ask((0, 4), &(40..50), true, Some(2), |_| ());
        assert_eq!(told, Told::TooMany);
        assert_eq!(parked.deny_all(), 4);
        assert_eq!([0, 1, 8, 9].map(|tag| ask(&parked, tag)), [Told::Denied; 4]);
        assert!(!parked.any());
    }

    #[test]
    fn w15_what_is_taken_is_not_denied_and_what_is_denied_is_not_taken() {
        let parked = Parked::new(1, 8);
        let (_, _) = (ask(&parked, 0), ask(&parked, 1));
        let taken = parked.take().unwrap();
        assert_eq!(parked.deny_all(), 1);
        assert_eq!(parked.grant(&taken), Some(0));
        assert!(parked.take().is_none());
        assert_eq!(ask(&parked, 0), Told::Granted);
        assert_eq!(ask(&parked, 1), Told::Denied);
        assert!(!parked.any());
    }

    #[test]
    fn e07_a_place_that_an_ended_request_has_left_gives_its_memory_back() {
        let parked = Parked::new(1, 8);
        assert_eq!(ask(&parked, 0), Told::Joined);
        let other = |unpinned: &mut Option<Range<u64>>| {
            parked.ask((0, 0), &(70..80), true, None, |range| {
                *unpinned = Some(range)
            })
        };
        let mut unpinned = None;
        let taken = parked.take().unwrap();
        assert_eq!(
            other(&mut unpinned),
            Told::Waits,
            "somebody works for the old one"
        );
        assert_eq!(parked.grant(&taken), None, "and keeps what it has made");
        assert_eq!(other(&mut unpinned), Told::Joined);
        let taken = parked.take().unwrap();
        assert_eq!(parked.grant(&taken), Some(0));
        assert_eq!(unpinned, None);
        let told = parked.ask((0, 0), &(0..5), false, None, |range| unpinned = Some(range));
        assert_eq!((told, unpinned), (Told::Unknown, Some(70..80)));
        assert!(!parked.any());
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
            let parked = Arc::new(Parked::new(1, 2));
            let ask = |p: &Parked| p.ask((0, 0), &(0..10), true, None, |_| ());
            assert_eq!(ask(&parked), Told::Joined);
            let other = parked.clone();
            let timer = loom::thread::spawn(move || other.deny_all());
            let granted = match parked.take() {
                Some(taken) => parked.grant(&taken).is_some(),
                None => false,
            };
            let denied = timer.join().unwrap() == 1;
            assert!(granted != denied, "granted {granted}, denied {denied}");
            let expected = if granted { Told::Granted } else { Told::Denied };
            assert_eq!(ask(&parked), expected);
            assert!(!parked.any() && parked.take().is_none(), "left once");
        });
    }
}
