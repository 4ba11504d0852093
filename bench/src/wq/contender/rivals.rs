// SPDX-License-Identifier: MIT OR Apache-2.0
//! What our queues are compared with: rayon, tokio, the `threadpool` crate, and threads that receive from a channel or
//! a locked list. Each has threads of its own. None of them keeps an order, cancels or flushes.

use super::{Body, Contender};
use crossbeam_channel::{unbounded, Receiver, Sender};
use std::collections::VecDeque;
use std::sync::{mpsc, Arc, Condvar, Mutex};
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
/// The same with one thread that receives.
const ONE: &str = "channel, one receiver";
/// The same with a channel and a thread per CPU; an item goes to the producer's CPU.
const PER_CPU: &str = "channel per CPU";
/// The channel of the standard library, with one thread.
const MPSC: &str = "std::mpsc";
/// A locked list and one thread, which takes all that is there at a time.
const SWAPPED: &str = "list, swapped";

/// Those with several threads that take closures.
pub const POOLS: [&str; 4] = [RAYON, TOKIO, TOKIO_BLOCKING, THREADPOOL];

/// The rivals, in the order of the tables.
pub const RIVALS: [&str; 10] = [
    RAYON,
    TOKIO,
    TOKIO_BLOCKING,
    THREADPOOL,
    BOXED,
    SHARED,
    ONE,
    PER_CPU,
    MPSC,
    SWAPPED,
];

/// An item that is there already.
type Item = Arc<dyn Fn() + Send + Sync>;

/// Makes the rivals, each with this number of threads.
pub fn all(threads: usize) -> Vec<Contender> {
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let rayon = Arc::new(rayon.expect("a few threads can be made"));
    let tasks = tokio(threads, threads);
    let blocking = tokio(1, threads);
    let pool = ThreadPool::new(threads);
    let boxed = channel(threads, |job: Box<dyn FnOnce() + Send>| job());
    let [shared, one] = [threads, 1].map(|threads| channel(threads, |item: Item| item()));
    let each: Vec<_> = (0..threads)
        .map(|_| channel(1, |item: Item| item()))
        .collect();
    let (std_sender, items) = mpsc::channel::<Item>();
    thread::spawn(move || items.into_iter().for_each(|item| item()));
    let list = swapped();
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
        sending(SHARED, move |item| shared.send(item).is_ok()),
        sending(ONE, move |item| one.send(item).is_ok()),
        sending(PER_CPU, move |item| {
            // SAFETY: takes no argument and writes nothing.
            let cpu = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0);
            each[cpu % each.len()].send(item).is_ok()
        }),
        sending(MPSC, move |item| std_sender.send(item).is_ok()),
        sending(SWAPPED, move |item| {
            let mut items = list.0.lock().expect("no panic under this lock");
            items.push_back(item);
            // The thread sleeps only beside an empty list. A call of the system each time would be no kindness.
            if items.len() == 1 {
                list.1.notify_one();
            }
            true
        }),
    ]
}

/// A contender that is handed items that are there already.
fn sending(name: &'static str, send: impl Fn(Item) -> bool + Clone + Send + 'static) -> Contender {
    let item = |body: Body, n| Arc::new(move || body(n)) as Item;
    Contender::reusing(name, item, move |items: &[Item]| {
        let mut sent = items.iter().map(|item| send(item.clone()));
        assert!(sent.all(|sent| sent), "the receivers live for ever");
    })
}

/// A list with a thread that runs what it finds there. The thread ends with the process.
fn swapped() -> Arc<(Mutex<VecDeque<Item>>, Condvar)> {
    let list = Arc::new((Mutex::new(VecDeque::new()), Condvar::new()));
    let own: Arc<(Mutex<VecDeque<Item>>, Condvar)> = list.clone();
    thread::spawn(move || loop {
        let items = own.0.lock().expect("no panic under this lock");
        let items = own.1.wait_while(items, |items| items.is_empty());
        let found = std::mem::take(&mut *items.expect("no panic under this lock"));
        found.into_iter().for_each(|item| item());
    });
    list
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
