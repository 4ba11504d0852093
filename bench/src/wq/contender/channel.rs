// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that receive from a crossbeam channel and call what they get: a boxed closure, which is
//! how such a pool is mostly written, or a shared item that is there already, which is the least
//! it can do.

use super::{closures, Body, Contender, Load};
use crossbeam_channel::{unbounded, Sender};
use std::sync::Arc;
use std::thread;

/// The name in the tables: a box for each item.
pub const BOXED: &str = "channel, boxed";

/// The name in the tables: reused items behind an Arc, no allocation per item but the channel's.
pub const SHARED: &str = "channel, shared";

type Job = Box<dyn FnOnce() + Send>;

/// See the module.
pub struct Boxed(Sender<Job>);

impl Boxed {
    /// Makes the threads. They end with the process.
    pub fn new(threads: usize) -> Self {
        let (sender, jobs) = unbounded::<Job>();
        for _ in 0..threads {
            let jobs = jobs.clone();
            thread::spawn(move || jobs.iter().for_each(|job| job()));
        }
        Self(sender)
    }
}

impl Contender for Boxed {
    fn name(&self) -> &'static str {
        BOXED
    }

    fn load(&self, items: usize, body: Body) -> Box<dyn Load> {
        let sender = self.0.clone();
        closures(items, body, move |body, n| {
            let sent = sender.send(Box::new(move || body(n)));
            assert!(sent.is_ok(), "the receivers live for ever");
        })
    }
}

type Item = Arc<dyn Fn() + Send + Sync>;

/// See the module.
pub struct Shared(Sender<Item>);

impl Shared {
    /// Makes the threads. They end with the process.
    pub fn new(threads: usize) -> Self {
        let (sender, items) = unbounded::<Item>();
        for _ in 0..threads {
            let items = items.clone();
            thread::spawn(move || items.iter().for_each(|item| item()));
        }
        Self(sender)
    }
}

struct SharedLoad {
    sender: Sender<Item>,
    items: Vec<Item>,
}

impl Load for SharedLoad {
    fn submit(&mut self) {
        for item in &self.items {
            let sent = self.sender.send(item.clone());
            assert!(sent.is_ok(), "the receivers live for ever");
        }
    }
}

impl Contender for Shared {
    fn name(&self) -> &'static str {
        SHARED
    }

    fn load(&self, items: usize, body: Body) -> Box<dyn Load> {
        let item = |n| Arc::new(move || body(n)) as Item;
        Box::new(SharedLoad {
            sender: self.0.clone(),
            items: (0..items).map(item).collect(),
        })
    }
}
