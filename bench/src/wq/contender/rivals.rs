// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom our queues are compared with: rayon, tokio, the `threadpool` crate, and threads that receive from a crossbeam
//! channel. Each has a pool of its own.

use super::Contender;
use crossbeam_channel::{unbounded, Receiver, Sender};
use std::sync::Arc;
use std::thread;
use threadpool::ThreadPool;
use tokio::runtime::{Builder, Runtime};

/// `rayon::spawn`.
pub const RAYON: &str = "rayon::spawn";
/// A task that never waits.
const TOKIO: &str = "tokio::spawn";
/// A closure for tokio's threads that may block.
const TOKIO_BLOCKING: &str = "tokio::spawn_blocking";
/// The crate `threadpool`.
const THREADPOOL: &str = "threadpool";
/// A boxed closure for each item, which is how such a pool is mostly written.
const BOXED: &str = "channel, boxed";
/// Items that are there already, which is the least it can do: no allocation per item but the channel's.
const SHARED: &str = "channel, shared";

/// The rivals, in the order of the tables.
pub const RIVALS: [&str; 6] = [RAYON, TOKIO, TOKIO_BLOCKING, THREADPOOL, BOXED, SHARED];

/// Makes the rivals, each with this number of threads.
pub fn all(threads: usize) -> Vec<Contender> {
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let rayon = Arc::new(rayon.expect("a few threads can be made"));
    let tasks = tokio(threads, threads);
    let blocking = tokio(1, threads);
    let pool = ThreadPool::new(threads);
    let boxed = channel(threads, |job: Box<dyn FnOnce() + Send>| job());
    let shared = channel(threads, |item: Arc<dyn Fn() + Send + Sync>| item());
    vec![
        Contender::spawning(RAYON, move |body, n| rayon.spawn(move || body(n))),
        Contender::spawning(TOKIO, move |body, n| {
            tasks.spawn(async move { body(n) });
        }),
        Contender::spawning(TOKIO_BLOCKING, move |body, n| {
            blocking.spawn_blocking(move || body(n));
        }),
        Contender::spawning(THREADPOOL, move |body, n| pool.execute(move || body(n))),
        Contender::spawning(BOXED, move |body, n| {
            let sent = boxed.send(Box::new(move || body(n)));
            assert!(sent.is_ok(), "the receivers live for ever");
        }),
        Contender::reusing(
            SHARED,
            |body, n| Arc::new(move || body(n)) as Arc<dyn Fn() + Send + Sync>,
            move |item| {
                let sent = shared.send(item.clone());
                assert!(sent.is_ok(), "the receivers live for ever");
            },
        ),
    ]
}

/// A runtime that runs tasks on `workers` threads and blocking closures on `blocking`. Producers are outside of it.
fn tokio(workers: usize, blocking: usize) -> Arc<Runtime> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(blocking)
        .build();
    Arc::new(runtime.expect("a few threads can be made"))
}

/// A channel to threads that run what they receive. They end with the process.
fn channel<T: Send + 'static>(threads: usize, run: fn(T)) -> Sender<T> {
    let (sender, receiver) = unbounded::<T>();
    for _ in 0..threads {
        let items: Receiver<T> = receiver.clone();
        thread::spawn(move || items.iter().for_each(run));
    }
    sender
}
