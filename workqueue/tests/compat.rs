// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 14: the kernel's oldest constructors, and what the types promise.

mod common;
use common::*;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use workqueue::*;

#[test]
fn s14_compat_the_old_constructors_make_todays_queues() {
    let rt = runtime(2);
    let cases = [
        (rt.create_workqueue("w").unwrap(), PERCPU),
        (
            rt.create_freezable_workqueue("f").unwrap(),
            UNBOUND | Flags::FREEZABLE,
        ),
        (rt.create_singlethread_workqueue("s").unwrap(), UNBOUND),
    ];
    for (q, flags) in &cases {
        assert_eq!(q.flags(), *flags | Flags::MEM_RECLAIM, "{}", q.name());
        assert_eq!((q.max_active(), q.is_legacy()), (1, true), "{}", q.name());
    }
    // The last one is ordered, the second only looks like it.
    assert_eq!(cases[2].0.set_max_active(2), Err(AttrError::NotAdjustable));
    assert_eq!(cases[1].0.set_max_active(2), Ok(()));
    assert!(!rt.queue("q").flags(PERCPU).build().unwrap().is_legacy());
    assert!(matches!(
        rt.create_workqueue(""),
        Err(AllocError::BadName(_))
    ));
}

#[test]
fn s14_compat_one_item_per_cpu_and_queue() {
    let rt = runtime(2);
    let q = rt.create_workqueue("w").unwrap();
    let gates = [Gate::new(), Gate::new()];
    for (cpu, gate) in gates.iter().enumerate() {
        for _ in 0..2 {
            let g = gate.clone();
            q.enqueue_on(cpu, Call::new(move |_| blocking(|| g.pass())))
                .unwrap();
        }
        gate.wait_for(1);
        assert!(q.congested(cpu));
    }
    assert_eq!(q.stats().started, 2);
    gates.iter().for_each(|g| g.open());
    q.flush().unwrap();
    assert_eq!(q.stats().completed, 4);
}

#[test]
fn s14_compat_a_singlethread_queue_keeps_the_order_over_all_cpus() {
    let rt = runtime(4);
    let q = rt.create_singlethread_workqueue("s").unwrap();
    let log = Log::new();
    for n in 0..100 {
        let l = log.clone();
        q.enqueue_on(n % 4, Call::new(move |_| l.add(n))).unwrap();
    }
    q.flush().unwrap();
    assert_eq!(log.all(), (0..100).collect::<Vec<_>>());
}

#[test]
fn s14_compat_the_processs_own_runtime_has_them_too() {
    let ran = Arc::new(AtomicUsize::new(0));
    for make in [
        compat::create_workqueue,
        compat::create_freezable_workqueue,
        compat::create_singlethread_workqueue,
    ] {
        let (q, r) = (make("own").unwrap(), ran.clone());
        q.try_spawn(move || {
            r.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        q.destroy().unwrap();
    }
    assert_eq!(ran.load(Ordering::SeqCst), 3);
}

#[test]
fn s14_03_handles_and_fields_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Queue>();
    shared::<OwnedQueue>();
    shared::<Runtime>();
    shared::<Work<Call>>();
    shared::<DelayedWork<Later>>();
    shared::<legacy::Work>();
    shared::<legacy::Workqueue>();
    // Errors can be sent on and shown.
    shared::<AllocError>();
    shared::<EnqueueError<Arc<Call>>>();
    shared::<WaitError>();
}

/// An item with a parameter and two fields of both kinds, in a box.
struct Parcel<T: Send + 'static> {
    soon: Work<Parcel<T>, 1>,
    later: DelayedWork<Parcel<T>, 2>,
    inside: T,
    log: Log<(u64, T)>,
}

impl_has_work! {
    impl{T: Clone + Send + 'static} HasWork<Self, 1> for Parcel<T> { self.soon }
}

impl_has_delayed_work! {
    impl{T: Clone + Send + 'static} HasDelayedWork<Self, 2> for Parcel<T> { self.later }
}

impl<T: Clone + Send + 'static> WorkItem<1> for Parcel<T> {
    type Pointer = Pin<Box<Self>>;

    fn run(this: Self::Pointer) {
        this.log.add((1, this.inside.clone()));
    }
}

impl<T: Clone + Send + 'static> WorkItem<2> for Parcel<T> {
    type Pointer = Pin<Box<Self>>;

    fn run(this: Self::Pointer) {
        this.log.add((2, this.inside.clone()));
    }
}

#[test]
fn s14_01_a_boxed_item_with_a_parameter_and_two_kinds_of_fields() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let log = Log::new();
    let parcel = |inside: &str| {
        Box::pin(Parcel {
            soon: new_work!("soon"),
            later: new_delayed_work!("later"),
            inside: inside.to_owned(),
            log: log.clone(),
        })
    };
    q.enqueue::<_, 1>(parcel("a")).unwrap();
    q.flush().unwrap();
    q.enqueue_delayed::<_, 2>(std::time::Duration::ZERO, parcel("b"))
        .unwrap();
    q.flush().unwrap();
    assert_eq!(log.all(), [(1, "a".to_owned()), (2, "b".to_owned())]);
    // Refused, both come back whole.
    let handle = q.handle();
    q.destroy().unwrap();
    let back = handle
        .enqueue::<_, 1>(parcel("c"))
        .unwrap_err()
        .into_inner();
    let back = handle
        .enqueue_delayed::<_, 2>(std::time::Duration::ZERO, back)
        .unwrap_err();
    assert_eq!(
        (back.reason(), &*back.into_inner().inside),
        (Refusal::Destroyed, "c")
    );
}
