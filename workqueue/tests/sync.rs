// SPDX-License-Identifier: MIT OR Apache-2.0
//! Section 5.16: the wrappers tell the pool of each wait, and of nothing else.
//!
//! No test's runtime looks whether runs sleep, so the item behind a run starts only if the run has
//! told that it waits.

mod common;
use common::*;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex as StdMutex};
use std::thread;
use std::time::Duration;
use workqueue::sync::*;
use workqueue::*;

/// Two items of one CPU: the first calls `body` when the second is enqueued behind it. What comes
/// back: the second's, the queue and what keeps its threads.
fn one_behind_the_other(body: impl FnOnce() + Send + 'static) -> (Arc<Call>, OwnedQueue, Runtime) {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let (gate, body) = (Gate::new(), StdMutex::new(Some(body)));
    let g = gate.clone();
    q.enqueue(Call::new(move |_| {
        g.pass();
        let body = body.lock().unwrap().take();
        body.expect("it runs once")();
    }))
    .unwrap();
    gate.wait_for(1);
    let next = Call::noop();
    q.enqueue(next.clone()).unwrap();
    gate.open();
    (next, q, rt)
}

/// `wait` waits until `release` is called: meanwhile the next item runs.
fn lets_the_next_begin(wait: impl FnOnce() + Send + 'static, release: impl FnOnce()) {
    let (next, q, _rt) = one_behind_the_other(wait);
    until("the next item has run", || next.runs() == 1);
    release();
    q.flush().unwrap();
    let stats = q.stats();
    assert_eq!((stats.cm_wakeup, stats.panicked), (1, 0));
}

/// `body` need not wait: nothing else of the CPU begins before it ends.
fn keeps_the_cpu(body: impl FnOnce() + Send + 'static) {
    let (next, q, _rt) = one_behind_the_other(body);
    q.flush().unwrap();
    let stats = q.stats();
    assert_eq!((next.runs(), stats.cm_wakeup, stats.panicked), (1, 0, 0));
}

#[test]
fn s05_16_mutex() {
    let lock = Arc::new(Mutex::new(0));
    let (own, here) = (lock.clone(), lock.clone());
    let guard = here.lock();
    assert!(here.try_lock().is_none());
    lets_the_next_begin(move || *own.lock() += 1, || drop(guard));
    let own = lock.clone();
    keeps_the_cpu(move || (0..100).for_each(|_| *own.lock() += 1));
    assert_eq!(*lock.lock(), 101);
}

#[test]
fn s05_16_a_mutex_outlives_a_panic() {
    let lock = Arc::new(Mutex::new(1));
    let own = lock.clone();
    let panicked = thread::spawn(move || {
        let _guard = own.lock();
        panic!("on purpose");
    })
    .join();
    assert!(panicked.is_err());
    assert_eq!(*lock.lock(), 1);
}

#[test]
fn s05_16_rwlock() {
    let lock = Arc::new(RwLock::new(0));
    for write in [true, false] {
        let (own, here) = (lock.clone(), lock.clone());
        let guard = here.write();
        assert!(here.try_read().is_none() && here.try_write().is_none());
        lets_the_next_begin(
            move || {
                if write {
                    *own.write() += 1;
                } else {
                    assert_eq!(*own.read(), 1);
                }
            },
            || drop(guard),
        );
    }
    let (own, here) = (lock.clone(), lock.clone());
    let reader = here.read();
    keeps_the_cpu(move || assert_eq!(*own.read(), 1));
    let own = lock.clone();
    lets_the_next_begin(move || *own.write() += 1, || drop(reader));
    keeps_the_cpu(move || *lock.write() += 1);
    assert_eq!(*here.read(), 3);
}

#[test]
fn s05_16_condvar() {
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let own = pair.clone();
    lets_the_next_begin(
        move || drop(own.1.wait_while(own.0.lock(), |ready| !*ready)),
        || {
            *pair.0.lock() = true;
            pair.1.notify_all();
        },
    );
    let own = pair.clone();
    keeps_the_cpu(move || {
        drop(own.1.wait_while(own.0.lock(), |ready| !*ready));
        let limit = Duration::ZERO;
        let timed_out = own
            .1
            .wait_timeout_while(own.0.lock(), limit, |ready| *ready)
            .1;
        assert!(timed_out);
    });
}

#[test]
fn s05_16_semaphore() {
    let places = Arc::new(Semaphore::new(0));
    let own = places.clone();
    lets_the_next_begin(move || own.acquire(), || places.release());
    (0..3).for_each(|_| places.release());
    let own = places.clone();
    keeps_the_cpu(move || {
        own.acquire();
        assert!(own.acquire_timeout(HUNG) && own.try_acquire());
        assert!(!own.try_acquire() && !own.acquire_timeout(Duration::ZERO));
    });
    assert_eq!(places.available(), 0);
}

#[test]
fn s05_16_completion() {
    let done = Arc::new(Completion::new());
    let own = done.clone();
    lets_the_next_begin(move || own.wait(), || done.complete());
    done.complete();
    let own = done.clone();
    keeps_the_cpu(move || own.wait());
    assert!(!done.is_done() && !done.try_wait());
    done.complete_all();
    done.complete();
    let own = done.clone();
    keeps_the_cpu(move || (0..9).for_each(|_| assert!(own.wait_timeout(HUNG))));
    done.reinit();
    assert!(!done.is_done());
}

#[test]
fn s05_16_barrier() {
    let meeting = Arc::new(Barrier::new(2));
    let own = meeting.clone();
    lets_the_next_begin(
        move || assert!(!own.wait()),
        || assert!(meeting.wait(), "the last one does not wait"),
    );
    let (own, other) = (meeting.clone(), meeting.clone());
    let first = thread::spawn(move || other.wait());
    // The other one may come first or last, so only one of the two outcomes waits.
    let (next, q, _rt) = one_behind_the_other(move || {
        own.wait();
    });
    q.flush().unwrap();
    first.join().unwrap();
    assert_eq!((next.runs(), q.stats().panicked), (1, 0));
    keeps_the_cpu(|| assert!(Barrier::new(1).wait()));
}

#[test]
fn s05_16_items_of_one_cpu_meet_at_a_barrier() {
    let rt = runtime(1);
    let q = rt.queue("q").flags(PERCPU).build().unwrap();
    let meeting = Arc::new(Barrier::new(5));
    for _ in 0..5 {
        let m = meeting.clone();
        q.enqueue(Call::new(move |_| {
            m.wait();
        }))
        .unwrap();
    }
    q.flush().unwrap();
}

#[test]
fn s05_16_channel() {
    let (sender, receiver) = channel();
    let receiver = Arc::new(StdMutex::new(receiver));
    let own = receiver.clone();
    lets_the_next_begin(
        move || assert_eq!(own.lock().unwrap().recv(), Ok(1)),
        || sender.send(1).unwrap(),
    );
    sender.send(2).unwrap();
    drop(sender);
    keeps_the_cpu(move || {
        let receiver = receiver.lock().unwrap();
        assert_eq!(receiver.recv_timeout(HUNG), Ok(2));
        assert!(receiver.recv().is_err() && receiver.try_recv().is_err());
        assert_eq!(receiver.iter().count(), 0);
    });
}

#[test]
fn s05_16_bounded_send() {
    let (sender, receiver) = sync_channel(1);
    let own = sender.clone();
    sender.send(0).unwrap();
    lets_the_next_begin(
        move || own.send(1).unwrap(),
        || assert_eq!(receiver.recv(), Ok(0)),
    );
    assert_eq!(receiver.recv(), Ok(1));
    let own = sender.clone();
    keeps_the_cpu(move || own.send(2).unwrap());
    assert!(sender.try_send(3).is_err());
    assert_eq!(receiver.recv(), Ok(2));
    drop(receiver);
    keeps_the_cpu(move || assert!(sender.send(4).is_err()));
}

#[test]
fn s05_16_sleep_park_and_join() {
    // A sleep ends by itself, so the next item is what ends the outer loop.
    let over = Arc::new(Semaphore::new(0));
    let o = over.clone();
    let (next, q, _rt) = one_behind_the_other(move || {
        while !o.try_acquire() {
            sleep(Duration::from_millis(1));
        }
    });
    until("the next item has run", || next.runs() == 1);
    over.release();
    q.flush().unwrap();
    keeps_the_cpu(|| sleep(Duration::ZERO));

    let parker = Parker::new();
    let unparker = parker.unparker();
    lets_the_next_begin(move || parker.park(), || unparker.unpark());
    let parker = Parker::new();
    let unparker = parker.unparker();
    unparker.unpark();
    unparker.unpark();
    keeps_the_cpu(move || {
        parker.park();
        assert!(!parker.park_timeout(Duration::ZERO));
    });

    let (tell, told) = channel();
    let thread_of_run = move || {
        tell.send(thread::current()).unwrap();
        park();
    };
    lets_the_next_begin(thread_of_run, || told.recv().unwrap().unpark());

    let gate = Gate::new();
    let g = gate.clone();
    let other = thread::spawn(move || g.pass());
    lets_the_next_begin(move || join(other).unwrap(), || gate.open());
    let ended = thread::spawn(|| 5);
    until("it has ended", || ended.is_finished());
    keeps_the_cpu(move || assert_eq!(join(ended).unwrap(), 5));
}

#[test]
fn s05_16_poll_and_epoll() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let reader = Arc::new(reader);
    let own = reader.clone();
    lets_the_next_begin(
        move || {
            let mut files = [PollFd::new(&*own, libc::POLLIN)];
            assert_eq!(poll(&mut files, None).unwrap(), 1);
            assert_eq!(files[0].ready(), libc::POLLIN);
        },
        || writer.write_all(b"x").unwrap(),
    );
    let own = reader.clone();
    keeps_the_cpu(move || {
        let mut files = [PollFd::new(&*own, libc::POLLIN)];
        assert_eq!(poll(&mut files, Some(HUNG)).unwrap(), 1);
        (&*own).read_exact(&mut [0]).unwrap();
        assert_eq!(poll(&mut files, Some(Duration::ZERO)).unwrap(), 0);
    });

    // SAFETY: takes a number and gives a descriptor that nobody else owns.
    let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
    let mut event = libc::epoll_event {
        events: libc::EPOLLIN as u32,
        u64: 7,
    };
    let (list, fd) = (epoll.as_raw_fd(), reader.as_raw_fd());
    // SAFETY: both descriptors are open, and `event` is only read.
    let rc = unsafe { libc::epoll_ctl(list, libc::EPOLL_CTL_ADD, fd, &mut event) };
    assert_eq!(rc, 0);
    let epoll = Arc::new(epoll);
    let own = epoll.clone();
    lets_the_next_begin(
        move || {
            let mut events = [EpollEvent::EMPTY; 4];
            assert_eq!(epoll_wait(own.as_fd(), &mut events, None).unwrap(), 1);
            assert_eq!((events[0].data(), events[0].events()), (7, 1));
        },
        || writer.write_all(b"y").unwrap(),
    );
    keeps_the_cpu(move || {
        let mut events = [EpollEvent::EMPTY; 4];
        let limit = Some(Duration::ZERO);
        assert_eq!(epoll_wait(epoll.as_fd(), &mut events, limit).unwrap(), 1);
    });
}

#[test]
fn s05_16_read_write_and_seek() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    lets_the_next_begin(
        move || Declared(reader).read_exact(&mut [0]).unwrap(),
        || writer.write_all(b"x").unwrap(),
    );
    // What lies in memory never waits, yet cannot say so: each call is a section.
    let mut memory = Declared(std::io::Cursor::new(Vec::new()));
    memory.write_all(b"hello").unwrap();
    memory.flush().unwrap();
    assert_eq!(memory.seek(SeekFrom::Start(1)).unwrap(), 1);
    let mut text = String::new();
    memory.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ello");
}

#[test]
fn s05_16_any_wait_with_an_attempt_before_it() {
    // Stands for a ring of io_uring, whose wait is the caller's own call.
    let gate = Gate::new();
    let g = gate.clone();
    lets_the_next_begin(move || try_then_wait(|| None, || g.pass()), || gate.open());
    keeps_the_cpu(|| {
        let at_once = try_then_wait(|| Some(1), || unreachable!("there was something"));
        assert_eq!(at_once, 1);
    });
}
