// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every case goes through: no thread can be created, a MEM_RECLAIM queue goes on by its
//! rescuer, one without is stuck, and goes on when threads can be created again.

use super::common::*;
use super::limit::{Limit, STACK};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use workqueue::*;

/// What the C library makes of every cause.
const EAGAIN: i32 = 11;

/// Keeps the warnings about failed creations.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        if text.contains("cannot create worker") {
            self.0.lock().unwrap().push(text);
        }
    }

    fn flush(&self) {}
}

/// The runtime under test, and how often it has tried to create a thread.
fn start() -> (Runtime, Arc<AtomicUsize>) {
    log::set_logger(&WARNINGS).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let attempts = Arc::new(AtomicUsize::new(0));
    let a = attempts.clone();
    let rt = quiet()
        .topology(machine(1, 1))
        .stack_size(STACK)
        .create_cooldown(Duration::from_millis(10))
        // Only counts: the failures are the system's own.
        .threads_by(move |_| {
            a.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .start()
        .unwrap();
    (rt, attempts)
}

/// Can a thread be created? The error number if not.
fn try_thread() -> Result<(), i32> {
    let made = std::thread::Builder::new().stack_size(STACK).spawn(|| ());
    made.map(|t| t.join().unwrap())
        .map_err(|e| e.raw_os_error().unwrap_or(0))
}

/// An item of a queue without rescuer, and the queues of one kind.
struct Pair {
    reclaim: OwnedQueue,
    plain: OwnedQueue,
    stuck: Arc<Call>,
}

fn pairs(rt: &Runtime) -> Vec<Pair> {
    let pair = |flags: Flags| Pair {
        reclaim: rt
            .queue("reclaim")
            .flags(flags | Flags::MEM_RECLAIM)
            .build()
            .unwrap(),
        plain: rt.queue("plain").flags(flags).build().unwrap(),
        stuck: Call::noop(),
    };
    [PERCPU, UNBOUND].map(pair).into()
}

/// 7.11: items of the queue with a rescuer run, on it; 7.12: those of the other wait.
fn only_the_rescuer_works(p: &Pair, attempts: &AtomicUsize) {
    let before = attempts.load(Ordering::SeqCst);
    p.plain.enqueue(p.stuck.clone()).unwrap();
    // 6.5: the manager goes on trying.
    until("creation was tried again", || {
        attempts.load(Ordering::SeqCst) >= before + 2
    });
    let by_rescuer = Arc::new(AtomicUsize::new(0));
    let items: Vec<_> = (0..50)
        .map(|_| {
            let r = by_rescuer.clone();
            Call::new(move |_| {
                r.fetch_add(usize::from(is_rescuer()), Ordering::SeqCst);
            })
        })
        .collect();
    items
        .iter()
        .for_each(|i| p.reclaim.enqueue(i.clone()).unwrap());
    p.reclaim.flush().unwrap();
    assert!(items.iter().all(|i| i.runs() == 1));
    let stats = p.reclaim.stats();
    assert_eq!((by_rescuer.load(Ordering::SeqCst), stats.rescued), (50, 50));
    assert!(stats.mayday >= 1);
    assert_eq!((p.stuck.runs(), p.plain.stats().started), (0, 0));
    assert!(p.stuck.work.is_pending());
}

/// The whole of it. An error says why the limit has no effect here.
pub fn tell(limit: &dyn Limit) -> Result<(), String> {
    let (rt, attempts) = start();
    let pairs = pairs(&rt);
    limit.impose();
    match try_thread() {
        Ok(()) => return Err("threads can be created in spite of the limit".into()),
        Err(errno) => assert_eq!(errno, EAGAIN),
    }
    pairs
        .iter()
        .for_each(|p| only_the_rescuer_works(p, &attempts));
    // 7.1, 4.14: what needs a thread now is refused with the error number.
    let spawn = |name: &str| AllocError::Spawn {
        name: name.into(),
        errno: EAGAIN,
    };
    let no_rescuer = rt.queue("r").flags(PERCPU | Flags::MEM_RECLAIM).build();
    assert_eq!(no_rescuer.map(drop), Err(spawn("r")));
    let attrs = Attrs {
        nice: 7,
        ..Attrs::new()
    };
    let no_worker = rt.queue("u").flags(UNBOUND).attrs(attrs.clone()).build();
    assert_eq!(no_worker.map(drop), Err(spawn("u")));
    assert_eq!(
        pairs[1].plain.apply_attrs(attrs),
        Err(AttrError::Spawn(EAGAIN))
    );
    // 6.5: said once, however often it failed.
    assert_eq!(WARNINGS.0.lock().unwrap().len(), 1, "{:?}", WARNINGS.0);
    limit.lift();
    assert_eq!(try_thread(), Ok(()));
    for p in &pairs {
        p.plain.flush().unwrap();
        assert_eq!(p.stuck.runs(), 1);
        let stats = p.plain.stats();
        assert_eq!((stats.completed, stats.mayday, stats.rescued), (1, 0, 0));
    }
    drop(pairs);
    rt.shutdown().unwrap();
    Ok(())
}
