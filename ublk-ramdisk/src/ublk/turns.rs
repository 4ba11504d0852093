// SPDX-License-Identifier: MIT OR Apache-2.0
//! Something that workers use in turn, until it is closed (F20): whoever finds it in use or closed
//! does without, and nobody waits but the one who closes.
//!
//! ```text
//!   worker                                    queue thread, when its disk goes away
//!   try the lock; taken? do without           take the lock
//!   closed? do without                        close; read what has been settled
//!   commit, settle so many, give it back      wait for letters about all the rest
//! ```
//!
//! Settled are requests that the queue's thread need not hear of. It waits for those that it has
//! taken in and that are not settled: one settled after the closing it would wait for for ever. That
//! cannot be, as both happen under the lock.

use std::sync::{PoisonError, TryLockError};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

#[derive(Debug)]
struct Inside<T> {
    what: T,
    is_open: bool,
    settled: u64,
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Turns<T>(Mutex<Inside<T>>);

/// A turn, until it is dropped.
pub(super) struct Turn<'a, T>(MutexGuard<'a, Inside<T>>);

impl<T> Turns<T> {
    /// Open, with nothing settled.
    pub(super) fn new(what: T) -> Self {
        Self(Mutex::new(Inside {
            what,
            is_open: true,
            settled: 0,
        }))
    }

    /// A turn, if nobody else has one and there are any. Never waits.
    pub(super) fn take(&self) -> Option<Turn<'_, T>> {
        let inside = match self.0.try_lock() {
            Ok(inside) => inside,
            // What it guards is whole after every step.
            Err(TryLockError::Poisoned(inside)) => inside.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        inside.is_open.then_some(Turn(inside))
    }

    /// Waits for the one that has a turn, and gives no more. Answers how many requests have been
    /// settled, which is final.
    pub(super) fn close(&self) -> u64 {
        let mut inside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inside.is_open = false;
        inside.settled
    }
}

impl<T> Turn<'_, T> {
    /// What is used in turn.
    pub(super) fn what(&mut self) -> &mut T {
        &mut self.0.what
    }

    /// So many requests more are settled.
    pub(super) fn settle(&mut self, requests: u64) {
        self.0.settled += requests;
    }

    /// It is of no use: this is the last turn.
    pub(super) fn be_the_last(&mut self) {
        self.0.is_open = false;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn f20_one_has_a_turn_and_the_others_do_without() {
        let turns = Turns::new(7);
        let mut mine = turns.take().expect("nobody has one");
        assert_eq!(*mine.what(), 7);
        assert!(turns.take().is_none());
        mine.settle(3);
        drop(mine);
        turns.take().expect("it is free again").settle(2);
        assert_eq!(turns.close(), 5);
        assert!(turns.take().is_none(), "it is closed");
        assert_eq!(turns.close(), 5);
    }

    #[test]
    fn f20_what_is_of_no_use_is_not_taken_again() {
        let turns = Turns::new(());
        let mut mine = turns.take().expect("nobody has one");
        mine.settle(1);
        mine.be_the_last();
        drop(mine);
        assert!(turns.take().is_none());
        assert_eq!(turns.close(), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::super::mailbox::{Bell, Mailbox};
    use super::*;
    use loom::sync::{Arc, Condvar, Mutex as Lock};
    use loom::thread;

    struct Gong(Lock<bool>, Condvar);

    impl Bell for Gong {
        fn ring(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_one();
        }
    }

    impl Gong {
        fn wait(&self) {
            let mut rung = self.0.lock().unwrap();
            while !*rung {
                rung = self.1.wait(rung).unwrap();
            }
            *rung = false;
        }
    }

    struct Queue {
        turns: Turns<u64>,
        letters: Mailbox<(), Gong>,
    }

    /// A worker with a result: commits it, or leaves a letter.
    fn end(queue: &Queue, tag: u16) {
        match queue.turns.take() {
            Some(mut turn) => {
                *turn.what() += 1;
                turn.settle(1);
            }
            None => queue.letters.post(tag, ()),
        }
    }

    /// The disk goes away while workers end requests: the queue's thread hears of each that was not
    /// committed, and waits for no other. A request too much to wait for ends in a deadlock.
    #[test]
    fn loom_f20_a_closing_queue_hears_of_all_that_is_not_committed() {
        loom::model(|| {
            const TAKEN_IN: u64 = 2;
            let queue = Arc::new(Queue {
                turns: Turns::new(0),
                letters: Mailbox::new(2, Gong(Lock::new(false), Condvar::new())),
            });
            let workers: Vec<_> = (0..TAKEN_IN as u16)
                .map(|tag| {
                    let queue = queue.clone();
                    thread::spawn(move || end(&queue, tag))
                })
                .collect();
            let mut left = TAKEN_IN - queue.turns.close();
            let expected = left;
            let mut letters = 0;
            while left > 0 {
                if queue.letters.arm() {
                    queue.letters.bell().wait();
                }
                queue.letters.disarm();
                queue.letters.take(|_, ()| {
                    left -= 1;
                    letters += 1;
                });
            }
            workers.into_iter().for_each(|w| w.join().unwrap());
            assert_eq!(letters, expected);
        });
    }
}
