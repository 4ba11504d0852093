// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker's message to a queue thread (F20). A result that a kblockd worker has is left here
//! under its tag. The thread is woken if it sleeps, by one write of 8 bytes per sleep.
//!
//! ```text
//!   worker                                  queue thread
//!   put the message under its tag           armed = true
//!   link the tag to the list                fence
//!   fence                                   list empty?  yes: sleep until woken
//!   armed? then clear it, wake the thread                no:  armed = false, take the list
//! ```
//!
//! The fences pair (W13): of the worker's link and the thread's `armed` at least one is seen by the
//! other side, so a message never lies beside a sleeping thread. A tag has one message at most: it
//! is linked again only after it has been taken. Of the workers that find `armed` set one clears it
//! and wakes; the messages of the others are linked by then and taken with its own.

use std::sync::atomic::{AtomicU64 as PlainU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

#[cfg(loom)]
use loom::sync::atomic::{fence, AtomicBool, AtomicU32, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{fence, AtomicBool, AtomicU32, Ordering};

/// What wakes the thread.
pub(super) trait Waker {
    /// Wakes the thread, which sleeps or is about to. Called once per time that it armed the
    /// mailbox.
    fn wake(&self);
}

const NONE: u32 = 0;

/// The mailbox of one queue: a list of tags that many threads link to and one takes, and a place for
/// a message under each tag.
#[derive(Debug)]
pub(super) struct Mailbox<T, W> {
    /// The last tag that was linked, plus one.
    newest: AtomicU32,
    /// By tag: the one linked before it, plus one.
    before: Box<[AtomicU32]>,
    /// By tag. No two threads want one lock at once: the sender fills it before it links the tag, the
    /// queue thread empties it after that.
    messages: Box<[Mutex<Option<T>>]>,
    /// Changed by read-modify-writes alone: each clears what it finds, so a wake-up that is under
    /// way is never taken for one that has come.
    armed: AtomicBool,
    waker: W,
    /// Counts for `stats`. They order nothing, so loom need not know them.
    posted: PlainU64,
    woken: PlainU64,
}

/// How often messages were left, and how often the thread had to be woken for one.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Post {
    /// Messages.
    pub(super) posted: u64,
    /// Times that the thread had to be woken for one.
    pub(super) woken: u64,
}

impl<T, W: Waker> Mailbox<T, W> {
    /// An empty mailbox for tags below `depth`.
    pub(super) fn new(depth: u16, waker: W) -> Self {
        Self {
            newest: AtomicU32::new(NONE),
            before: (0..depth).map(|_| AtomicU32::new(NONE)).collect(),
            messages: (0..depth).map(|_| Mutex::new(None)).collect(),
            armed: AtomicBool::new(false),
            waker,
            posted: PlainU64::new(0),
            woken: PlainU64::new(0),
        }
    }

    /// Its counts so far; a message and its wake-up may be counted one after the other.
    #[cfg(not(loom))]
    pub(super) fn counts(&self) -> Post {
        Post {
            posted: self.posted.load(Relaxed),
            woken: self.woken.load(Relaxed),
        }
    }

    /// What wakes the thread, for the thread to poll.
    pub(super) fn waker(&self) -> &W {
        &self.waker
    }

    /// Leaves a message for the thread. From any thread; allocates nothing.
    ///
    /// # Panics
    /// There is an unread message under `tag`: its request has ended twice.
    pub(super) fn post(&self, tag: u16, message: T) {
        let unread = self.lock(tag).replace(message);
        assert!(unread.is_none(), "two messages under tag {tag}");
        self.posted.fetch_add(1, Relaxed);
        let link = &self.before[usize::from(tag)];
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            link.store(newest, Ordering::Relaxed);
            // Release pairs with the Acquire in `take`: who finds the tag finds its link.
            match self.newest.compare_exchange_weak(
                newest,
                u32::from(tag) + 1,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(other) => newest = other,
            }
        }
        // Pairs with the fence in `arm`.
        // guard: w13_post
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::Relaxed) {
            self.woken.fetch_add(1, Relaxed);
            self.waker.wake();
        }
    }

    /// Called by the thread before it sleeps. True if it may: then the next message wakes it. False
    /// if there are messages to take.
    pub(super) fn arm(&self) -> bool {
        self.armed.swap(true, Ordering::Relaxed);
        // Pairs with the fence in `post`.
        // guard: w13_arm
        fence(Ordering::SeqCst);
        // guard: w13_recheck
        if self.newest.load(Ordering::Relaxed) == NONE {
            return true;
        }
        self.disarm();
        false
    }

    /// The thread is awake: nobody need wake it.
    pub(super) fn disarm(&self) {
        // Relaxed: a wake-up for nothing costs one look at an empty mailbox.
        self.armed.swap(false, Ordering::Relaxed);
    }

    /// Passes every message to `each`, the oldest first. Called by the thread alone.
    pub(super) fn take(&self, mut each: impl FnMut(u16, T)) {
        if self.newest.load(Ordering::Relaxed) == NONE {
            return;
        }
        // Acquire pairs with the Release in `post`.
        let mut next = self.reversed(self.newest.swap(NONE, Ordering::Acquire));
        while next != NONE {
            let tag = (next - 1) as u16;
            // Read before the message is taken: its tag may be linked again from then on.
            next = self.before[usize::from(tag)].load(Ordering::Relaxed);
            let message = self.lock(tag).take();
            if let Some(message) = message {
                each(tag, message);
            }
        }
    }

    /// Reverses the links of a taken list; returns its oldest tag, plus one.
    fn reversed(&self, newest: u32) -> u32 {
        let (mut after, mut at) = (NONE, newest);
        while at != NONE {
            let link = &self.before[at as usize - 1];
            let older = link.load(Ordering::Relaxed);
            link.store(after, Ordering::Relaxed);
            (after, at) = (at, older);
        }
        after
    }

    fn lock(&self, tag: u16) -> std::sync::MutexGuard<'_, Option<T>> {
        self.messages[usize::from(tag)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Waker for Woken {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn woken(messages: &Mailbox<u32, Woken>) -> usize {
        messages.waker().0.load(Ordering::Relaxed)
    }

    fn taken(messages: &Mailbox<u32, Woken>) -> Vec<(u16, u32)> {
        let mut found = Vec::new();
        messages.take(|tag, message| found.push((tag, message)));
        found
    }

    #[test]
    fn f20_messages_come_out_in_order_and_once() {
        let messages = Mailbox::new(4, Woken::default());
        for round in 0..3 {
            for tag in [2, 0, 3] {
                messages.post(tag, 10 * round + u32::from(tag));
            }
            let of = |tag: u16| (tag, 10 * round + u32::from(tag));
            assert_eq!(taken(&messages), [of(2), of(0), of(3)]);
            assert_eq!(taken(&messages), []);
        }
        assert_eq!(woken(&messages), 0, "nobody slept");
    }

    #[test]
    fn f20_the_thread_is_woken_once_per_sleep() {
        let messages = Mailbox::new(4, Woken::default());
        assert!(messages.arm());
        messages.post(0, 0);
        messages.post(1, 0);
        assert_eq!(woken(&messages), 1);
        messages.disarm();
        messages.post(2, 0);
        assert!(!messages.arm(), "there is something to take");
        messages.post(3, 0);
        assert_eq!(woken(&messages), 1);
        let counts = messages.counts();
        assert_eq!((counts.posted, counts.woken), (4, 1));
        assert_eq!(taken(&messages).len(), 4);
        assert!(messages.arm());
    }

    /// A message may be posted under a tag whose message is just being read.
    #[test]
    fn f20_a_tag_can_be_used_again_from_within() {
        let messages = Mailbox::new(2, Woken::default());
        messages.post(0, 1);
        messages.post(1, 2);
        let mut found = Vec::new();
        messages.take(|tag, message| {
            found.push(message);
            if message < 3 {
                messages.post(tag, message + 10);
            }
        });
        assert_eq!(found, [1, 2]);
        assert_eq!(taken(&messages), [(0, 11), (1, 12)]);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::{Arc, Condvar, Mutex as Lock};
    use loom::thread;

    /// An eventfd: once written it stays readable until somebody waits for it.
    struct Event(Lock<bool>, Condvar);

    impl Event {
        fn new() -> Self {
            Self(Lock::new(false), Condvar::new())
        }

        fn wait(&self) {
            let mut woken = self.0.lock().unwrap();
            while !*woken {
                woken = self.1.wait(woken).unwrap();
            }
            *woken = false;
        }
    }

    impl Waker for Event {
        fn wake(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_one();
        }
    }

    /// As a queue's thread: sleeps only when the box says it may.
    fn read(messages: &Mailbox<u32, Event>, wanted: usize) -> Vec<(u16, u32)> {
        let mut found = Vec::new();
        while found.len() < wanted {
            if messages.arm() {
                messages.waker().wait();
            }
            messages.disarm();
            messages.take(|tag, message| found.push((tag, message)));
        }
        found
    }

    /// W13: a message and a thread that is about to sleep. A lost wake-up ends in a deadlock.
    #[test]
    fn loom_w13_a_message_never_lies_beside_a_sleeping_thread() {
        loom::model(|| {
            let messages = Arc::new(Mailbox::new(1, Event::new()));
            let there = messages.clone();
            let worker = thread::spawn(move || there.post(0, 7));
            assert_eq!(read(&messages, 1), [(0, 7)]);
            worker.join().unwrap();
        });
    }

    /// W13: the same with two workers at once.
    #[test]
    fn loom_w13_two_workers_post_at_once() {
        loom::model(|| {
            let messages = Arc::new(Mailbox::new(2, Event::new()));
            let workers: Vec<_> = (0..2)
                .map(|tag| {
                    let there = messages.clone();
                    thread::spawn(move || there.post(tag, u32::from(tag)))
                })
                .collect();
            let mut found = read(&messages, 2);
            found.sort_unstable();
            assert_eq!(found, [(0, 0), (1, 1)]);
            workers.into_iter().for_each(|w| w.join().unwrap());
        });
    }
}
