// SPDX-License-Identifier: MIT OR Apache-2.0
//! Committing by batch (F14): the elements of a COMMIT, for whoever sends it, and the way of a
//! worker to commit what it has ended by itself (F20), without a word to the queue's thread.
//!
//! A worker of kblockd that may ([`super::ring::has_entered`]) has a ring for it, one per queue, made
//! before the disk is there (J4): workers take it in turn ([`super::turns`]), and who finds it taken leaves its results in the mailbox. So
//! does who finds it closed: the thread of a queue that is about to end has to hear of everything
//! that is still under way.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use super::abi::BatchElem;
use super::ring::WorkerRing;
use super::turns::{Turn, Turns};
use crate::mq::Request;
use crate::stats::QueueCounters;

/// The elements of one COMMIT, in place until it has completed.
#[derive(Debug)]
pub(super) struct Commit {
    elements: Box<[BatchElem]>,
    len: usize,
    done: usize,
}

impl Commit {
    /// Room for so many, none of which is in use.
    pub(super) fn new(most: u16) -> Self {
        Self {
            elements: vec![BatchElem::default(); usize::from(most)].into(),
            len: 0,
            done: 0,
        }
    }

    /// Is nothing of it under way?
    pub(super) fn is_free(&self) -> bool {
        self.len == 0
    }

    /// Takes results up, no more than there is room for.
    pub(super) fn fill(&mut self, results: impl Iterator<Item = BatchElem>) {
        debug_assert!(self.is_free());
        for element in results {
            self.elements[self.len] = element;
            self.len += 1;
        }
    }

    /// What the driver has not taken yet.
    pub(super) fn rest(&self) -> &[BatchElem] {
        &self.elements[self.done..self.len]
    }

    /// The driver's answer: it has taken some of them, the first ones, or none and says why. True if
    /// there is no rest; else it is to be sent again.
    pub(super) fn answered(&mut self, result: i32) -> Result<bool, i32> {
        match result {
            bytes if bytes > 0 => self.done += bytes as usize / size_of::<BatchElem>(),
            // The disk is gone, and with it the requests.
            gone if gone == -libc::ENODEV => self.done = self.len,
            refused => return Err(-refused),
        }
        let all = self.done >= self.len;
        if all {
            (self.len, self.done) = (0, 0);
        }
        Ok(all)
    }

    /// Forgets what is left of it; answers how much.
    fn give_up(&mut self) -> usize {
        let left = self.rest().len();
        (self.len, self.done) = (0, 0);
        left
    }
}

/// One result, as the driver takes it.
#[inline]
pub(super) fn element(tag: u16, result: i32) -> BatchElem {
    BatchElem {
        tag,
        buf_index: 0,
        result,
    }
}

/// How COMMITs are sent. Answers the driver's result.
pub(super) trait Sends {
    /// Returns when the driver has answered. An error: it has not been asked, and will not be.
    fn send(&mut self, elements: &[BatchElem]) -> io::Result<i32>;
}

/// What became of results that a worker wanted to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Committed {
    /// All of them.
    All,
    /// None, and none has been counted: somebody else commits, or nobody may any more.
    None,
    /// Those from this one on are for the queue's thread to commit. They have been counted.
    Before(usize),
}

/// What a worker needs for a COMMIT.
#[derive(Debug)]
struct Way<S> {
    ring: S,
    commit: Commit,
}

/// The way of all workers of a queue.
#[derive(Debug)]
pub(super) struct Committer<S = WorkerRing> {
    turns: Turns<Way<S>>,
    /// Raised by whoever has a turn.
    counters: QueueCounters,
    commands: AtomicU64,
    results: AtomicU64,
}

/// Elements of one COMMIT of a worker; more results need several.
const MOST: u16 = 32;

impl Committer {
    /// A ring for the workers of this queue.
    pub(super) fn new(char_device: Arc<File>, queue: u16) -> io::Result<Self> {
        Ok(Self::over(WorkerRing::new(char_device, queue)?))
    }
}

impl<S: Sends> Committer<S> {
    fn over(ring: S) -> Self {
        let commit = Commit::new(MOST);
        Self {
            turns: Turns::new(Way { ring, commit }),
            counters: QueueCounters::default(),
            commands: AtomicU64::new(0),
            results: AtomicU64::new(0),
        }
    }

    /// Commits results on the calling thread, which is a worker's, unless another one is at it.
    pub(super) fn commit(&self, results: &[(Request, i32)]) -> Committed {
        let Some(mut turn) = self.turns.take() else {
            return Committed::None;
        };
        // Before a client can see its result.
        for (request, result) in results {
            self.counters.ended(request, *result);
        }
        let mut from = 0;
        for some in results.chunks(usize::from(MOST)) {
            let taken = self.send(&mut turn, some);
            from += taken;
            if taken < some.len() {
                return Committed::Before(from);
            }
        }
        Committed::All
    }

    /// Answers how many of them the driver has, or has given up.
    fn send(&self, turn: &mut Turn<'_, Way<S>>, results: &[(Request, i32)]) -> usize {
        let Way { ring, commit } = turn.what();
        commit.fill(
            results
                .iter()
                .map(|(of, result)| element(of.tag(), *result)),
        );
        let mut lost = None;
        while !commit.is_free() {
            self.commands.fetch_add(1, Relaxed);
            match ring.send(commit.rest()) {
                Ok(result) => match commit.answered(result) {
                    Ok(_) => {}
                    // The queue's thread asks again, and says it.
                    Err(_) => break,
                },
                Err(error) => {
                    lost = Some(error);
                    break;
                }
            }
        }
        let taken = results.len() - commit.give_up();
        if let Some(error) = lost {
            log::warn!("workers cannot commit: {error}; the queue's thread does");
            turn.be_the_last();
        }
        self.results.fetch_add(taken as u64, Relaxed);
        turn.settle(taken as u64);
        taken
    }

    /// For the queue's thread: nobody commits from now on but it, and nobody is at it. Answers how
    /// many requests it will never hear of.
    pub(super) fn close(&self) -> u64 {
        self.turns.close()
    }

    /// What workers have counted beside the queue's thread.
    pub(super) fn counters(&self) -> &QueueCounters {
        &self.counters
    }

    /// COMMITs sent, and results that they took.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.commands.load(Relaxed), self.results.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mq::{Limits, Op};
    use std::sync::Mutex;

    fn read(tag: u16) -> (Request, i32) {
        let limits = Limits {
            size: 1 << 20,
            block_size: 512,
            max_data: 4096,
            read_only: false,
        };
        let request = Request::check(tag, Op::Read, 0, 8, &limits).expect("a good one");
        (request, 4096)
    }

    /// A driver: by command the answer that it gives, and the tags that it was sent.
    #[derive(Default)]
    struct Driver {
        answers: Vec<io::Result<i32>>,
        sent: Arc<Mutex<Vec<Vec<u16>>>>,
    }

    impl Sends for Driver {
        fn send(&mut self, elements: &[BatchElem]) -> io::Result<i32> {
            let tags = elements.iter().map(|element| element.tag).collect();
            self.sent.lock().expect("nobody panics").push(tags);
            match self.answers.is_empty() {
                true => Ok(size_of_val(elements) as i32),
                false => self.answers.remove(0),
            }
        }
    }

    /// A committer over these answers, and what it sends.
    fn over(
        answers: impl IntoIterator<Item = io::Result<i32>>,
    ) -> (Committer<Driver>, impl Fn() -> Vec<Vec<u16>>) {
        let driver = Driver {
            answers: answers.into_iter().collect(),
            ..Driver::default()
        };
        let sent = driver.sent.clone();
        let sent = move || std::mem::take(&mut *sent.lock().expect("nobody panics"));
        (Committer::over(driver), sent)
    }

    #[test]
    fn f14_what_was_not_taken_is_sent_again() {
        let (committer, sent) = over([Ok(8), Ok(16)]);
        let results = [0, 1, 2, 3].map(read);
        assert_eq!(committer.commit(&results), Committed::All);
        assert_eq!(sent(), [vec![0, 1, 2, 3], vec![1, 2, 3], vec![3]]);
        assert_eq!(committer.counts(), (3, 4));
        assert_eq!(committer.close(), 4);
    }

    #[test]
    fn f14_a_refusal_leaves_the_rest_to_the_thread() {
        let (committer, sent) = over([Ok(8), Err(io::ErrorKind::OutOfMemory.into())]);
        let results = [0, 1, 2].map(read);
        assert_eq!(committer.commit(&results), Committed::Before(1));
        assert_eq!(sent().len(), 2);
        // Its ring may hold a command that nobody must send.
        assert_eq!(committer.commit(&results), Committed::None);
        assert_eq!(committer.close(), 1);

        let (committer, _) = over([Ok(-libc::EBUSY)]);
        assert_eq!(committer.commit(&results), Committed::Before(0));
        assert_eq!(committer.close(), 0);
    }

    #[test]
    fn f14_a_disk_that_is_gone_takes_all_with_it() {
        let (committer, _) = over([Ok(-libc::ENODEV)]);
        assert_eq!(committer.commit(&[read(0), read(1)]), Committed::All);
        assert_eq!(committer.close(), 2);
    }

    #[test]
    fn f20_many_results_go_in_several_commands() {
        let (committer, sent) = over([]);
        let results: Vec<_> = (0..70).map(read).collect();
        assert_eq!(committer.commit(&results), Committed::All);
        let lens: Vec<_> = sent().iter().map(Vec::len).collect();
        assert_eq!(lens, [32, 32, 6]);
    }

    #[test]
    fn k05_what_a_worker_commits_is_counted_once() {
        let (committer, _) = over([Ok(8), Ok(-libc::EBUSY)]);
        let failed = (read(2).0, -libc::EIO);
        let results = [read(0), read(1), failed];
        assert_eq!(committer.commit(&results), Committed::Before(1));
        let counted = committer.counters().snapshot(0);
        assert_eq!((counted.ended, counted.errors), (2, 1), "the rest too");
        assert_eq!((counted.read.requests, counted.read.bytes), (2, 8192));
    }

    #[test]
    fn f20_a_closed_queue_is_not_committed_to() {
        let (committer, sent) = over([]);
        assert_eq!(committer.commit(&[read(0)]), Committed::All);
        assert_eq!(committer.close(), 1);
        assert_eq!(committer.commit(&[read(1)]), Committed::None);
        assert_eq!(sent(), [[0]]);
        let counted = committer.counters().snapshot(0).ended;
        assert_eq!(counted, 1, "the thread counts it");
    }
}
