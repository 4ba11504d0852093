// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections 11.1 to 11.8 and 14.2: destroying, shutting down, freezing, and what comes back.

mod common;
use common::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, OnceLock};
use std::time::Duration;
use workqueue::*;

#[test]
fn s11_01_destroy_runs_everything_and_refuses_the_rest() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(PERCPU).max_active(1).build().unwrap();
    let items: Vec<_> = (0..100).map(|_| Call::noop()).collect();
    items.iter().for_each(|i| q.enqueue(i.clone()).unwrap());
    let handle = q.handle();
    q.destroy().unwrap();
    assert!(items
        .iter()
        .all(|i| i.runs() == 1 && Arc::strong_count(i) == 1));
    assert_eq!(
        handle.enqueue(items[0].clone()).unwrap_err().reason(),
        Refusal::Destroyed
    );
    assert_eq!(handle.flush(), Err(WaitError::Destroyed));
    assert_eq!(handle.set_max_active(3), Err(AttrError::Destroyed));
}

#[test]
fn s11_01_destroy_against_racing_enqueues_loses_nothing() {
    let rt = runtime(2);
    for flags in [PERCPU, UNBOUND, UNBOUND | Flags::MEM_RECLAIM] {
        for _ in 0..20 {
            let q = rt.queue("q").flags(flags).build().unwrap();
            let (handle, ran) = (q.handle(), Arc::new(AtomicUsize::new(0)));
            let r = ran.clone();
            let (begun, begin) = mpsc::channel();
            let racer = std::thread::spawn(move || {
                let mut taken = 0;
                for n in 0.. {
                    let r = r.clone();
                    let count = move || {
                        r.fetch_add(1, Ordering::SeqCst);
                    };
                    match handle.try_spawn(count) {
                        Ok(()) => taken += 1,
                        Err(e) => {
                            assert_eq!(e.reason(), Refusal::Destroyed);
                            return taken;
                        }
                    }
                    if n == 10 {
                        begun.send(()).unwrap();
                    }
                }
                unreachable!()
            });
            begin.recv_timeout(HUNG).unwrap();
            q.destroy().unwrap();
            assert_eq!(racer.join().unwrap(), ran.load(Ordering::SeqCst));
        }
    }
}

#[test]
fn s11_04_the_owner_may_be_dropped_in_a_run_of_the_queue() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let handle = q.handle();
    handle.try_spawn(move || drop(q)).unwrap();
    until("the queue is gone", || {
        handle.flush() == Err(WaitError::Destroyed)
    });
}

/// Does this on a thread of its own, so that a hang is a failure.
fn does_not_hang(what: &str, f: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        f();
        done.send(()).unwrap();
    });
    let ended = ended.recv_timeout(HUNG);
    assert!(ended.is_ok(), "{what}: failed or hangs");
}

#[test]
fn s11_04_an_item_behind_new_attributes_ends_a_queue_dropped_in_a_run() {
    does_not_hang("the end of the queue", || {
        let rt = runtime(1);
        let q = rt.ordered("q", Flags::default()).unwrap();
        let (handle, gate, last) = (q.handle(), Gate::new(), Call::noop());
        let g = gate.clone();
        let owner = move || {
            g.pass();
            drop(q);
        };
        handle.try_spawn(owner).unwrap();
        gate.wait_for(1);
        // The second item waits until the monitor has released what the first one ran on.
        let attrs = Attrs {
            nice: 5,
            ..Attrs::new()
        };
        handle.apply_attrs(attrs).unwrap();
        handle.enqueue(last.clone()).unwrap();
        gate.open();
        until("the second item has run", || last.runs() == 1);
        rt.shutdown().unwrap();
    });
}

#[test]
fn s11_04_a_run_may_drop_its_queue_and_wait_for_a_look_at_the_cpus() {
    does_not_hang("the run", || {
        let rt = Arc::new(runtime(1));
        let q = rt.queue("q").flags(PERCPU).build().unwrap();
        let (handle, (back, returned)) = (q.handle(), mpsc::channel());
        let run_rt = rt.clone();
        let owner = move || {
            drop(q);
            run_rt.refresh_cpus();
            back.send(run_rt).unwrap();
        };
        handle.try_spawn(owner).unwrap();
        drop(returned.recv().unwrap());
        Arc::into_inner(rt).unwrap().shutdown().unwrap();
        assert_eq!(
            handle.try_spawn(|| ()).map_err(|e| e.reason()),
            Err(Refusal::Destroyed)
        );
    });
}

#[test]
fn s11_04_a_queue_dropped_in_a_run_takes_what_its_runs_enqueue() {
    does_not_hang("the end of the queue", || {
        let rt = runtime(2);
        for flags in [PERCPU, UNBOUND, UNBOUND | Flags::MEM_RECLAIM] {
            let q = rt.queue("q").flags(flags).build().unwrap();
            let (handle, own) = (q.handle(), q.handle());
            let chain = Call::new(move |me| {
                if me.runs() < 50 {
                    own.enqueue(me.clone()).unwrap();
                }
            });
            let (own, first) = (q.handle(), chain.clone());
            let owner = move || {
                drop(q);
                own.enqueue(first).unwrap();
            };
            handle.try_spawn(owner).unwrap();
            until("the queue is gone", || {
                handle.flush() == Err(WaitError::Destroyed)
            });
            assert_eq!(chain.runs(), 50);
        }
    });
}

/// Called as the thread that keeps it ends.
#[derive(Default)]
struct AtThreadEnd(Option<Box<dyn FnOnce()>>);

impl Drop for AtThreadEnd {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

thread_local! {
    static AT_END: RefCell<AtThreadEnd> = RefCell::default();
}

/// Calls of all kinds.
fn use_the_crate(rt: &Runtime, q: &Queue, item: &Arc<Call>) {
    q.enqueue(item.clone()).unwrap();
    item.work.flush().unwrap();
    item.work.cancel_sync().unwrap();
    q.flush().unwrap();
    q.drain().unwrap();
    assert_eq!(rt.work_on_cpu(0, || blocking(|| 7)), Ok(7));
    trace::emit(trace::Phase::Instant, "test", "unheard", &[]);
    drop((reclaim_scope(), current()));
    let old = legacy::Machine::builder().topology(machine(1, 1)).build();
    let old_queue = old.create_workqueue("old").unwrap();
    assert!(old_queue.queue_work(&legacy::Work::new("item", |_| ())));
    old_queue.flush_workqueue().unwrap();
}

#[test]
fn s14_04_a_thread_local_value_may_use_the_crate_as_its_thread_ends() {
    does_not_hang("the end of the thread", || {
        let item = Call::noop();
        let seen = item.clone();
        let user = std::thread::spawn(move || {
            // The first use of a thread-local value: the crate's own are dropped before this one.
            AT_END.with_borrow_mut(|at_end| at_end.0 = None);
            let rt = runtime(2);
            let flags = PERCPU | Flags::MEM_RECLAIM;
            let q = rt.queue("q").flags(flags).build().unwrap();
            use_the_crate(&rt, &q, &item);
            let at_end = move || {
                use_the_crate(&rt, &q, &item);
                VirtualClock::in_turns().settle();
                drop(q);
                rt.shutdown().unwrap();
            };
            AT_END.with_borrow_mut(|place| place.0 = Some(Box::new(at_end)));
        });
        user.join().unwrap();
        assert_eq!(seen.runs(), 2);
    });
}

static AT_EXIT: OnceLock<(Runtime, OwnedQueue, Arc<Call>)> = OnceLock::new();

extern "C" fn use_the_crate_at_exit() {
    let (rt, q, item) = AT_EXIT.get().unwrap();
    use_the_crate(rt, q, item);
    // SAFETY: ends the process; what is left to be done at its end is the harness's.
    unsafe { libc::_exit(i32::from(item.runs() != 2)) };
}

#[test]
fn s14_04_an_atexit_handler_may_use_the_crate() {
    // SAFETY: the child uses a runtime of its own, and ends by exit or its alarm.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe { libc::alarm(HUNG.as_secs() as u32) };
        let rt = runtime(1);
        let q = rt.queue("q").flags(PERCPU).build().unwrap();
        let (rt, q, item) = AT_EXIT.get_or_init(|| (rt, q, Call::noop()));
        use_the_crate(rt, q, item);
        // SAFETY: the handler is a plain function; exit drops this thread's thread-local values
        // before it calls the handler.
        unsafe {
            libc::atexit(use_the_crate_at_exit);
            libc::exit(7);
        }
    }
    let mut status = 0;
    // SAFETY: `status` is valid for writing; the child is ours.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!((waited, status), (child, 0));
}

#[test]
fn s11_05_shutdown_ends_all_threads() {
    let place = |cpu| CpuPlace {
        cpu,
        core: cpu,
        cache: 0,
        node: 0,
    };
    let rt = Runtime::builder()
        .topology(Topology::simulated(vec![place(77)]))
        .start()
        .unwrap();
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Call::noop();
    q.enqueue(item.clone()).unwrap();
    // Other tests of this process have runtimes of their own, on fewer CPUs.
    until("the workers are there", || threads("kworker/77").len() >= 2);
    rt.shutdown().unwrap();
    assert_eq!(item.runs(), 1);
    no_thread_named("kworker/77");
    assert_eq!(q.enqueue(item).unwrap_err().reason(), Refusal::Destroyed);
}

#[test]
fn s11_06_to_s11_08_frozen_queues_hold_new_items_until_thaw() {
    for flags in [PERCPU, UNBOUND] {
        let rt = runtime(1);
        let q = rt
            .queue("f")
            .flags(flags | Flags::FREEZABLE)
            .build()
            .unwrap();
        let free = rt.queue("n").flags(flags).build().unwrap();
        let gate = Gate::new();
        let g = gate.clone();
        q.enqueue(Call::new(move |_| blocking(|| g.pass())))
            .unwrap();
        gate.wait_for(1);
        rt.freeze_begin();
        assert!(rt.freeze_busy());
        let born_frozen = rt
            .queue("b")
            .flags(flags | Flags::FREEZABLE)
            .build()
            .unwrap();
        let (held, also_held, unaffected) = (Call::noop(), Call::noop(), Call::noop());
        q.enqueue(held.clone()).unwrap();
        born_frozen.enqueue(also_held.clone()).unwrap();
        free.enqueue(unaffected.clone()).unwrap();
        free.flush().unwrap();
        q.set_max_active(7).unwrap();
        gate.open();
        until("the running item has ended", || !rt.freeze_busy());
        q.enqueue(Call::noop()).unwrap();
        assert!(!rt.freeze_busy(), "it never becomes true again");
        assert_eq!(
            (held.runs(), also_held.runs(), unaffected.runs()),
            (0, 0, 1)
        );
        rt.thaw();
        q.flush().unwrap();
        born_frozen.flush().unwrap();
        assert_eq!((held.runs(), also_held.runs()), (1, 1));
        rt.thaw();
        assert_eq!(q.max_active(), 7);
    }
}

#[test]
fn s14_02_pointers_come_back_exactly_once_on_every_path() {
    let rt = runtime(2);
    let q = rt.queue("q").flags(PERCPU).max_active(2).build().unwrap();
    let long = Duration::from_secs(3600);
    for _ in 0..200 {
        let (a, b) = (Call::noop(), Later::noop());
        let _ = q.enqueue(a.clone());
        let _ = q.enqueue(a.clone());
        drop(a.work.cancel());
        let _ = q.enqueue(a.clone());
        drop(a.work.disable());
        let _ = q.enqueue(a.clone());
        let _ = q.enable_and_enqueue(a.clone());
        a.work.flush().unwrap();
        q.enqueue_delayed(long, b.clone()).unwrap();
        drop(q.mod_delayed(long * 2, b.clone()).unwrap());
        drop(q.mod_delayed(Duration::ZERO, b.clone()).unwrap());
        drop(q.mod_delayed(long, b.clone()).unwrap());
        drop(b.work.cancel_sync().unwrap());
        q.flush().unwrap();
        assert_eq!((Arc::strong_count(&a), Arc::strong_count(&b)), (1, 1));
    }
}

#[test]
fn s11_05_s11_06_the_end_of_a_frozen_runtime_thaws_it() {
    type End = fn(Runtime);
    let ends: [End; 2] = [|rt| rt.shutdown().unwrap(), drop];
    for end in ends {
        let rt = runtime(1);
        let q = rt.queue("q").flags(PERCPU | Flags::FREEZABLE);
        let q = q.build().unwrap();
        rt.freeze_begin();
        let item = Call::noop();
        q.enqueue(item.clone()).unwrap();
        let (told, ended) = mpsc::channel();
        std::thread::spawn(move || {
            end(rt);
            told.send(()).unwrap();
        });
        assert_eq!(ended.recv_timeout(HUNG), Ok(()));
        assert_eq!(item.runs(), 1);
    }
}

/// A runtime that is about to be owned by an item, and a sign of its end: it lets go of its hooks.
fn watched(builder: RuntimeBuilder) -> (Arc<Runtime>, Arc<()>) {
    let sign = Arc::new(());
    let held = sign.clone();
    let builder = builder.on_panic(move |_| assert_eq!(*held, ()));
    (Arc::new(builder.start().unwrap()), sign)
}

#[test]
fn s11_05_a_runtime_whose_last_owner_goes_in_its_run_ends() {
    for flags in [PERCPU, UNBOUND, PERCPU | Flags::MEM_RECLAIM] {
        let (rt, sign) = watched(quiet().topology(machine(2, 1)));
        let q = rt.queue("q").flags(flags).build().unwrap();
        let later = Later::noop();
        q.enqueue_delayed(HUNG, later.clone()).unwrap();
        let (gate, ran) = (Gate::new(), Call::noop());
        let (g, handle, chained) = (gate.clone(), q.handle(), ran.clone());
        let own = rt.clone();
        q.try_spawn(move || {
            g.pass();
            handle.enqueue(chained).unwrap();
            drop(own);
        })
        .unwrap();
        gate.wait_for(1);
        drop(rt);
        gate.open();
        until("what is armed is dropped", || {
            Arc::strong_count(&later) == 1
        });
        assert_eq!(ran.runs(), 1, "what was queued before has run");
        assert!(!later.work.is_pending() && later.runs() == 0);
        // The owner of the queue is left, and has nothing to do.
        drop(q);
        until("the runtime has ended", || Arc::strong_count(&sign) == 1);
    }
}

#[test]
fn s11_05_a_runtime_whose_last_owner_is_an_item_refused_at_expiry_ends() {
    struct Owner {
        work: DelayedWork<Owner>,
        _rt: Arc<Runtime>,
    }
    impl_has_delayed_work! {
        impl HasDelayedWork<Self> for Owner { self.work }
    }
    impl WorkItem for Owner {
        type Pointer = Arc<Self>;
        fn run(_: Arc<Self>) {}
    }
    let clock = VirtualClock::new();
    let builder = quiet().topology(machine(1, 1)).virtual_clock(clock.clone());
    let (rt, sign) = watched(builder);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let item = Arc::new(Owner {
        work: new_delayed_work!(),
        _rt: rt.clone(),
    });
    let delay = Duration::from_millis(1);
    q.enqueue_delayed(delay, item).unwrap();
    q.destroy().unwrap();
    drop(rt);
    clock.advance(delay);
    until("the runtime has ended", || Arc::strong_count(&sign) == 1);
}

#[test]
fn s11_05_a_drop_at_the_end_may_cancel_another_item_and_panic() {
    struct Pair {
        work: DelayedWork<Pair>,
        other: Option<Arc<Pair>>,
    }
    impl_has_delayed_work! {
        impl HasDelayedWork<Self> for Pair { self.work }
    }
    impl WorkItem for Pair {
        type Pointer = Arc<Self>;
        fn run(_: Arc<Self>) {}
    }
    impl Drop for Pair {
        fn drop(&mut self) {
            if let Some(other) = self.other.take() {
                assert!(other.work.cancel().is_none(), "ended as well");
                panic!("on purpose");
            }
        }
    }
    let rt = runtime(1);
    let q = rt.system_percpu();
    let pair = |other| {
        let work = new_delayed_work!();
        Arc::new(Pair { work, other })
    };
    let other = pair(None);
    q.enqueue_delayed(HUNG, pair(Some(other.clone()))).unwrap();
    q.enqueue_delayed(HUNG, other).unwrap();
    assert_eq!(rt.shutdown(), Ok(()));
}
