// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statements 14.5 to 14.10: closures with a handle, closures of a scope, the process's runtime.

mod common;
use common::*;
use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{mpsc, Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;
use workqueue::*;

/// Counts its drops.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("in a drop");
    }
}

fn counter() -> (Arc<AtomicUsize>, impl Fn() -> Dropped) {
    let drops = Arc::new(AtomicUsize::new(0));
    let d = drops.clone();
    (drops, move || Dropped(d.clone()))
}

/// Wakes a thread that polls.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(HUNG),
        }
    }
}

fn queue(rt: &Runtime) -> OwnedQueue {
    rt.queue("q").flags(PERCPU).build().unwrap()
}

#[test]
fn s14_05_a_handle_gives_what_the_closure_returned() {
    let rt = runtime(2);
    let q = queue(&rt);
    assert_eq!(q.spawn(|| 7).unwrap().join().unwrap(), 7);
    let where_it_ran = q.spawn_on(1, || (current().unwrap().workqueue, thread::current().id()));
    let (name, id) = where_it_ran.unwrap().join().unwrap();
    assert!(name == "q" && id != thread::current().id());
    assert_eq!(q.spawn_on(9, || ()).unwrap_err(), Refusal::InvalidCpu);
    // As a future: before the run, and after it.
    let gate = Gate::new();
    let g = gate.clone();
    let handle = q.spawn(move || g.pass()).unwrap();
    gate.wait_for(1);
    assert!(!handle.is_finished());
    let opener = thread::spawn(move || gate.open());
    block_on(handle).unwrap();
    opener.join().unwrap();
    let handle = q.spawn(|| "done").unwrap();
    until("it is done", || handle.is_finished());
    assert_eq!(block_on(handle).unwrap(), "done");
}

#[test]
fn s14_05_a_run_that_joins_lets_the_next_one_begin() {
    let rt = runtime(1);
    let q = queue(&rt);
    let handle = q.handle();
    // Both on one CPU: the second begins only if the first counts as asleep.
    let outer = q.spawn(move || handle.spawn(|| 1).unwrap().join().unwrap() + 1);
    assert_eq!(outer.unwrap().join().unwrap(), 2);
}

#[test]
fn s14_05_a_closure_with_a_delay_runs_when_it_has_passed() {
    let (clock, rt) = virtual_runtime(1);
    let q = queue(&rt);
    let handle = q.spawn_delayed(Duration::from_millis(5), || 5).unwrap();
    q.flush().unwrap();
    clock.advance(Duration::from_millis(4));
    assert!(!handle.is_finished());
    clock.advance(Duration::from_millis(1));
    assert_eq!(handle.join().unwrap(), 5);
}

#[test]
fn s14_05_without_its_handle_a_closure_runs_and_its_result_is_dropped() {
    let rt = runtime(1);
    let q = queue(&rt);
    let (drops, dropped) = counter();
    let (gate, result) = (Gate::new(), dropped());
    let g = gate.clone();
    drop(q.spawn(move || {
        g.pass();
        result
    }));
    gate.open();
    q.flush().unwrap();
    assert_eq!(drops.load(SeqCst), 1);
    // Dropped with its handle, after the run.
    let result = dropped();
    let handle = q.spawn(move || result).unwrap();
    q.flush().unwrap();
    assert_eq!(drops.load(SeqCst), 1);
    drop(handle);
    assert_eq!(drops.load(SeqCst), 2);
}

#[test]
fn s14_06_a_closure_that_has_not_begun_can_be_cancelled() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    let gate = Gate::new();
    let g = gate.clone();
    let running = q.spawn(move || g.pass()).unwrap();
    gate.wait_for(1);
    let (drops, dropped) = counter();
    let held = dropped();
    let waiting = q.spawn(move || drop(held)).unwrap();
    assert!(!running.cancel());
    assert!(waiting.cancel() && drops.load(SeqCst) == 1);
    assert!(!waiting.cancel());
    assert!(matches!(waiting.join(), Err(JoinError::Cancelled)));
    // Also if what it has captured panics in its drop.
    let captured = PanicsInDrop;
    let late = q.spawn_delayed(HUNG, move || drop(captured)).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| late.cancel())).is_err());
    assert!(matches!(late.join(), Err(JoinError::Cancelled)));
    let late = q.spawn_delayed(HUNG, || ()).unwrap();
    assert!(late.cancel());
    assert!(matches!(block_on(late), Err(JoinError::Cancelled)));
    gate.open();
    running.join().unwrap();
}

#[test]
fn s14_06_a_closure_that_is_refused_later_ends_as_a_cancelled_one() {
    let (clock, rt) = virtual_runtime(1);
    let q = queue(&rt);
    let (drops, dropped) = counter();
    let held = dropped();
    let handle = q.spawn_delayed(Duration::from_millis(1), move || drop(held));
    let handle = handle.unwrap();
    let closed = q.handle();
    q.destroy().unwrap();
    assert_eq!(closed.spawn(|| ()).unwrap_err(), Refusal::Destroyed);
    clock.advance(Duration::from_millis(1));
    assert!(matches!(handle.join(), Err(JoinError::Cancelled)));
    assert_eq!(drops.load(SeqCst), 1);
    let never = rt.system_percpu().spawn_delayed(HUNG, || ()).unwrap();
    drop(rt);
    assert!(matches!(never.join(), Err(JoinError::Cancelled)));
}

#[test]
fn s14_07_a_panic_is_the_result_of_a_closure_with_a_handle() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let s = seen.clone();
    let rt = Runtime::builder().on_panic(move |p| s.lock().unwrap().push(p.workqueue.to_owned()));
    let rt = rt.start().unwrap();
    let q = queue(&rt);
    let e = q.spawn(|| panic!("of mine")).unwrap().join();
    let e = e.unwrap_err();
    assert_eq!(e.to_string(), "the closure panicked: of mine");
    let JoinError::Panicked(panic) = e else {
        panic!("{e}")
    };
    let payload = panic.into_inner();
    assert_eq!(payload.downcast_ref::<&str>().unwrap(), &"of mine");
    assert_eq!((seen.lock().unwrap().len(), q.stats().panicked), (0, 0));
    // As anyhow and others want their errors.
    let _boxed: Box<dyn std::error::Error + Send + Sync> = JoinError::Cancelled.into();
    let gate = Gate::new();
    let g = gate.clone();
    drop(q.spawn(move || {
        g.pass();
        panic!("unseen");
    }));
    gate.open();
    q.flush().unwrap();
    assert_eq!(*seen.lock().unwrap(), ["q"]);
    assert_eq!(q.stats().panicked, 1);
}

#[test]
fn s14_08_a_scope_ends_after_all_its_closures() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(UNBOUND).build().unwrap();
    for _ in 0..100 {
        let mut numbers = [0; 8];
        let count = AtomicUsize::new(0);
        let returned = q.scope(|scope| {
            for (n, number) in numbers.iter_mut().enumerate() {
                let count = &count;
                let count_in = || {
                    count.fetch_add(1, SeqCst);
                };
                let body = move || {
                    *number = n;
                    // From inside a closure of the scope, too.
                    scope.spawn(count_in).unwrap();
                };
                scope.spawn(body).unwrap();
            }
            "all"
        });
        assert_eq!(returned, Ok("all"));
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(count.into_inner(), 8);
    }
}

#[test]
fn s14_08_a_scope_panics_after_all_its_closures() {
    let rt = runtime(1);
    let q = queue(&rt);
    let ran = AtomicUsize::new(0);
    let scope = |body_panics: bool| {
        q.scope(|scope| {
            scope.spawn(|| panic!("in a scope")).unwrap();
            let count_in = || {
                ran.fetch_add(1, SeqCst);
            };
            scope.spawn(count_in).unwrap();
            assert!(!body_panics, "in the body");
        })
    };
    for (n, body_panics) in [false, true].into_iter().enumerate() {
        let panicked = catch_unwind(AssertUnwindSafe(|| scope(body_panics)));
        let payload = panicked.unwrap_err();
        let text = payload.downcast_ref::<&str>().unwrap();
        assert_eq!(*text == "in the body", body_panics);
        assert_eq!(ran.load(SeqCst), n + 1);
    }
    // What is refused is dropped, and not waited for.
    let closed = q.handle();
    q.destroy().unwrap();
    let (drops, dropped) = counter();
    let refused = closed.scope(|scope| scope.spawn(move || drop(dropped())));
    assert_eq!(refused, Ok(Err(Refusal::Destroyed)));
    assert_eq!(drops.load(SeqCst), 0);
}

#[test]
fn s14_09_waits_that_could_never_end_are_refused() {
    let early = Runtime::builder().build_early();
    let handle = early.system_percpu().spawn(|| ()).unwrap();
    let scope = early.system_percpu().scope(|_| ());
    assert_eq!(scope, Err(WaitError::NotOnline));
    let never = |joined| matches!(joined, Err(JoinError::Wait(WaitError::WouldDeadlock)));
    assert!(matches!(
        handle.join(),
        Err(JoinError::Wait(WaitError::NotOnline))
    ));
    let rt = runtime(1);
    // The closure itself.
    let (send, receive) = mpsc::channel::<JoinHandle<()>>();
    let (tell, told) = mpsc::channel();
    let own = rt.system_percpu().spawn(move || {
        let own = receive.recv().unwrap();
        tell.send(own.join()).unwrap();
    });
    send.send(own.unwrap()).unwrap();
    assert!(never(told.recv_timeout(HUNG).unwrap()));
    // A run of a queue that has one active item at most, and a BH thread, which has one run at a time.
    let q = rt.queue("one").flags(PERCPU).max_active(1).build().unwrap();
    let ordered = rt.ordered("ordered", Flags::empty()).unwrap();
    let bh = rt.queue("bh").flags(Flags::BH).build().unwrap();
    for handle in [q.handle(), ordered.handle(), bh.handle()] {
        let inside = handle.clone();
        let ended = handle.spawn(move || {
            let scope = inside.scope(|_| ());
            assert_eq!(scope, Err(WaitError::WouldDeadlock));
            inside.spawn(|| ()).unwrap().join()
        });
        assert!(never(ended.unwrap().join().unwrap()));
    }
}

#[test]
fn s14_10_the_process_s_runtime_takes_settings_before_its_first_use() {
    let wanted = Duration::from_millis(77);
    let builder = || Runtime::builder().cpu_intensive_thresh(wanted);
    let runtime = builder().start_global().unwrap();
    assert_eq!(Runtime::global().cpu_intensive_thresh(), wanted);
    assert_eq!(system_percpu().spawn(|| 1).unwrap().join().unwrap(), 1);
    let again = builder().start_global().unwrap_err();
    assert_eq!(again, StartError::AlreadyStarted);
    assert!(std::ptr::eq(runtime, Runtime::global()));
}
