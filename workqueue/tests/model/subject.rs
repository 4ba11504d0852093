// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real items and flushers, and what a dump says about them.

use crate::sequential::ItemView;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use workqueue::*;

const NAMES: [&str; crate::ITEMS] = [
    "i0", "i1", "i2", "i3", "i4", "i5", "i6", "i7", "i8", "i9", "i10", "i11",
];

/// An item whose runs sleep until they are let go, one after the other.
pub(crate) struct Subject {
    pub(crate) work: DelayedWork<Subject>,
    started: AtomicUsize,
    let_go: Mutex<usize>,
    changed: Condvar,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Subject { self.work }
}

impl WorkItem for Subject {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let run = this.started.fetch_add(1, Ordering::SeqCst) + 1;
        blocking(|| {
            let mut let_go = this.let_go.lock().unwrap();
            while *let_go < run {
                let_go = this.changed.wait(let_go).unwrap();
            }
        });
    }
}

impl Subject {
    pub(crate) fn new(number: usize) -> Arc<Self> {
        Arc::new(Self {
            work: DelayedWork::new(NAMES[number]),
            started: AtomicUsize::new(0),
            let_go: Mutex::new(0),
            changed: Condvar::new(),
        })
    }

    /// Lets the present run end.
    pub(crate) fn finish(&self) {
        *self.let_go.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    pub(crate) fn view(&self) -> ItemView {
        let busy = self.work.busy();
        ItemView {
            started: self.started.load(Ordering::SeqCst),
            pending: busy.pending,
            running: busy.running,
        }
    }
}

/// A flush in a thread of its own.
pub(crate) struct Flusher(JoinHandle<()>);

impl Flusher {
    pub(crate) fn new(item: &Arc<Subject>) -> Self {
        let item = item.clone();
        Self(std::thread::spawn(move || {
            item.work.flush().unwrap();
        }))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|n| *n == name)
}

/// The items held back in each of a queue's pwqs that has any, as its dump shows them.
pub(crate) fn held_back(dump: &str) -> Vec<Vec<usize>> {
    let lists = dump
        .lines()
        .filter_map(|l| l.trim_start().strip_prefix("inactive: "));
    lists
        .map(|l| l.split(", ").filter_map(number).collect())
        .collect()
}

/// The active items behind their own runs, in brackets there. What is still on the worklist will
/// be: until then a barrier behind it would not stay when the item is taken off.
pub(crate) fn following(dump: &str) -> Vec<usize> {
    let behind = dump
        .split('[')
        .skip(1)
        .filter_map(|rest| rest.split(']').next());
    behind
        .flat_map(|l| l.split(", "))
        .filter_map(number)
        .collect()
}

/// How many barriers a dump shows; equal ones in a row are folded as `n*BAR`.
pub(crate) fn barriers(dump: &str) -> usize {
    let words = dump.split([',', ' ', '[', ']', '\n']);
    let count = |word: &str| match word.strip_suffix("BAR")? {
        "" => Some(1),
        n => n.strip_suffix('*')?.parse().ok(),
    };
    words.filter_map(count).sum()
}
