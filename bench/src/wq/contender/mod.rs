// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contenders, one file each, and the trait that they implement.
//!
//! To be kind to the rivals, what an item does is borrowed for ever: their closures are two words
//! and share no reference count.

pub mod channel;

pub mod legacy;

pub mod ours;

pub mod rayon;

pub mod threadpool;

pub mod tokio;

/// What an item does; it gets the item's number.
pub type Body = &'static (dyn Fn(usize) + Sync);

/// Something that runs items on threads of its own.
pub trait Contender: Sync {
    /// The name in the tables.
    fn name(&self) -> &'static str;

    /// Prepares what one producer will submit again and again: `items` items of this body.
    fn load(&self, items: usize, body: Body) -> Box<dyn Load>;
}

/// The items of one producer.
pub trait Load: Send {
    /// Submits each item once. Those submitted before have run.
    fn submit(&mut self);
}

/// A contender whose items are closures made anew for each submission.
struct Closures<F> {
    items: usize,
    body: Body,
    spawn: F,
}

impl<F: FnMut(Body, usize) + Send> Load for Closures<F> {
    fn submit(&mut self) {
        for number in 0..self.items {
            (self.spawn)(self.body, number);
        }
    }
}

fn closures(
    items: usize,
    body: Body,
    spawn: impl FnMut(Body, usize) + Send + 'static,
) -> Box<dyn Load> {
    Box::new(Closures { items, body, spawn })
}

/// Whom our queues are compared with.
pub const RIVALS: [&str; 6] = [
    rayon::NAME,
    tokio::SPAWN,
    tokio::BLOCKING,
    threadpool::NAME,
    channel::BOXED,
    channel::SHARED,
];

/// Ours, in the order of the tables.
pub const OURS: [&str; 4] = [
    ours::PERCPU,
    ours::UNBOUND,
    ours::PERCPU_SPAWN,
    ours::UNBOUND_SPAWN,
];

/// All contenders, each with this number of threads; ours have theirs per CPU and make more when items
/// wait.
pub fn all(threads: usize, runtime: &workqueue::Runtime) -> Vec<Box<dyn Contender>> {
    let mut all = ours::all(runtime);
    all.push(Box::<legacy::Legacy>::default());
    all.push(Box::new(rayon::Rayon::new(threads)));
    all.push(Box::new(tokio::Tokio::new(threads, tokio::SPAWN)));
    all.push(Box::new(tokio::Tokio::new(threads, tokio::BLOCKING)));
    all.push(Box::new(threadpool::Pool::new(threads)));
    all.push(Box::new(channel::Boxed::new(threads)));
    all.push(Box::new(channel::Shared::new(threads)));
    all
}
