// SPDX-License-Identifier: MIT OR Apache-2.0
//! 13.14: the shared queue, delayed items, functions on a CPU.

use super::common::*;
use super::*;
use std::time::Instant;

#[test]
fn s13_14_all_share_the_threads_of_events() {
    let (m, events) = watched(2);
    let item = Work::new("shared", |_| ());
    assert!(events.all().is_empty(), "no thread before the first use");
    m.flush_scheduled_work().unwrap();
    for _ in 0..2 {
        assert_eq!(m.schedule_work(&item), Ok(true));
        m.flush_scheduled_work().unwrap();
    }
    let all = events.all();
    let count = |e: fn(&&Seen) -> bool| all.iter().filter(e).count();
    assert_eq!(count(|e| matches!(e, Seen::Creation(..))), 2);
    let ran = |e: &&Seen| matches!(e, Seen::Execution(t, "shared") if t.starts_with("events/"));
    assert_eq!(all.iter().filter(ran).count(), 2);
}

#[test]
fn s13_14_a_delayed_item_is_listed_when_its_time_has_passed() {
    let m = on(2).build();
    let q = m.create_workqueue("lgt").unwrap();
    let (log, begun) = (Log::new(), Instant::now());
    let seen = log.clone();
    let item = Work::new("late", move |_| seen.add(begun.elapsed()));
    assert_eq!(q.queue_delayed_work_on(1, &item, 20 * MS), Ok(true));
    assert!(item.is_pending());
    assert_eq!(q.queue_delayed_work(&item, MS), Ok(false));
    assert!(!q.queue_work(&item), "it is pending");
    until("it has run", || log.all().len() == 1);
    assert!(log.all()[0] >= 20 * MS);
    assert_eq!(m.schedule_delayed_work(&item, MS), Ok(true));
    until("it has run on events", || log.all().len() == 2);
}

#[test]
fn s13_14_a_timer_can_be_stopped_and_goes_with_its_machine() {
    let hour = Duration::from_secs(3600);
    let m = on(1).build();
    let q = m.create_workqueue("lgs").unwrap();
    let item = Work::new("never", |_| panic!("it was cancelled"));
    q.queue_delayed_work(&item, hour).unwrap();
    assert!(item.cancel_delayed_work() && !item.is_pending());
    assert!(!item.cancel_delayed_work());
    q.queue_delayed_work(&item, hour).unwrap();
    assert_eq!(item.cancel_work_sync(), Ok(true));
    assert!(!item.is_pending());
    q.queue_delayed_work(&item, hour).unwrap();
    drop((q, m));
    assert!(!item.is_pending());
    until("no owner is left", || Arc::strong_count(&item) == 1);
}

#[test]
fn s13_14_a_function_runs_on_each_cpu_or_on_one() {
    let m = Arc::new(on(3).build());
    let threads = Log::new();
    let name = || std::thread::current().name().unwrap().to_owned();
    let seen = threads.clone();
    m.schedule_on_each_cpu(move || seen.add(name())).unwrap();
    let mut ran = threads.all();
    ran.sort();
    assert_eq!(ran, ["events/0", "events/1", "events/2"]);
    // In a run of events, which could not wait for an item of its own CPU.
    let (inner, seen) = (m.clone(), threads.clone());
    let item = Work::new("nested", move |_| {
        let seen = seen.clone();
        inner
            .schedule_on_each_cpu(move || seen.add(name()))
            .unwrap();
    });
    m.schedule_work(&item).unwrap();
    item.flush_work().unwrap();
    assert_eq!(threads.all().len(), 6);
    drop(item);
    assert_eq!(m.work_on_cpu(2, name).unwrap(), "work_for_cpu");
    let offline = m.work_on_cpu(9, || ()).unwrap_err();
    assert_eq!(offline.kind(), std::io::ErrorKind::InvalidInput);
}
