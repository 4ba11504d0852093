// SPDX-License-Identifier: MIT OR Apache-2.0
//! Closures as items: one that nobody waits for, one with a handle, and those of a scope.
//!
//! A closure becomes an item of its own, is enqueued as any other and dropped after its run. The
//! item of a [`JoinHandle`] holds the closure until a run or a cancel takes it; its drop tells the
//! handle. The queue has the only lasting pointer to it, so no item ends unseen. Kernel counterpart:
//! `ClosureWork` of its Rust bindings; handles and scopes are those of `std::thread`.

use super::attrs::Flags;
use super::queue::QueueInner;
use super::Queue;
use crate::enqueue;
use crate::error::{EnqueueError, JoinError, PanicPayload, Refusal, WaitError};
use crate::pool::context::{self, blocking};
use crate::sys::sync::{Completion, Mutex};
use crate::work::delayed::{self, DelayedWork};
use crate::work::pointer::WorkItem;
use crate::work::Work;
use crate::{impl_has_delayed_work, impl_has_work};
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{fmt, mem, thread};

impl Queue {
    /// Runs a closure that nobody waits for. A refusal gives the closure back. See
    /// [`Queue::spawn`] for one with a result.
    pub fn try_spawn<F>(&self, f: F) -> Result<(), EnqueueError<F>>
    where
        F: FnOnce() + Send + 'static,
    {
        // SAFETY: the closure borrows nothing.
        unsafe { self.spawn_borrowing(f) }
    }

    /// As [`Queue::try_spawn`], for a closure that may borrow.
    /// # Safety
    /// What the closure borrows outlives its run, or its drop if it is not run.
    unsafe fn spawn_borrowing<F>(&self, f: F) -> Result<(), EnqueueError<F>>
    where
        F: FnOnce() + Send,
    {
        let work = Work::new("");
        enqueue::enqueue(&self.inner, None, Box::pin(ClosureWork { work, f }))
            .map_err(|e| e.map(|item| Pin::into_inner(item).f))
    }

    /// Runs a closure near the calling CPU and returns a handle to its result.
    ///
    /// ```
    /// let queue = workqueue::system_dfl();
    /// let sums: Vec<_> = (1..=4u64)
    ///     .map(|n| queue.spawn(move || (1..=n).sum::<u64>()))
    ///     .collect::<Result<_, _>>()?;
    /// let sums: Vec<u64> = sums.into_iter().map(|s| s.join()).collect::<Result<_, _>>()?;
    /// assert_eq!(sums, [1, 3, 6, 10]);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn spawn<F, T>(&self, f: F) -> Result<JoinHandle<T>, Refusal>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.spawn_task(None, Duration::ZERO, f)
    }

    /// As [`Queue::spawn`], for a CPU. On an unbound queue the CPU selects the pool only.
    pub fn spawn_on<F, T>(&self, cpu: usize, f: F) -> Result<JoinHandle<T>, Refusal>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.spawn_task(Some(cpu), Duration::ZERO, f)
    }

    /// As [`Queue::spawn`], once the time has passed.
    pub fn spawn_delayed<F, T>(&self, delay: Duration, f: F) -> Result<JoinHandle<T>, Refusal>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.spawn_task(None, delay, f)
    }

    fn spawn_task<F, T>(
        &self,
        cpu: Option<usize>,
        delay: Duration,
        f: F,
    ) -> Result<JoinHandle<T>, Refusal>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let outcome = Arc::new(Outcome::new());
        let task = Arc::new(Task {
            work: DelayedWork::new(""),
            body: Mutex::new(Some(f)),
            outcome: outcome.clone(),
        });
        let handle = JoinHandle {
            outcome,
            task: Arc::downgrade(&task) as Weak<dyn Taken>,
            queue: self.inner.clone(),
        };
        delayed::enqueue(&self.inner, cpu, delay, task).map_err(|e| e.reason())?;
        Ok(handle)
    }

    /// Calls `f` with a scope whose closures may borrow from the caller, and returns when all of
    /// them have run.
    ///
    /// Refused if nothing runs yet ([`WaitError::NotOnline`]), or in a run of this queue if it has
    /// one active item at most ([`WaitError::WouldDeadlock`]). What is not seen: as many runs of the
    /// queue that wait in scopes as it may have active items. They wait for ever.
    ///
    /// # Panics
    /// If `f` or a closure of the scope panics, once all have ended.
    ///
    /// ```
    /// let mut halves = [0u64; 2];
    /// let [low, high] = &mut halves;
    /// workqueue::system_dfl().scope(|scope| {
    ///     scope.spawn(|| *low = (0..500).sum())?;
    ///     scope.spawn(|| *high = (500..1000).sum())
    /// })??;
    /// assert_eq!(halves.iter().sum::<u64>(), 499_500);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn scope<'env, F, R>(&self, f: F) -> Result<R, WaitError>
    where
        F: for<'scope> FnOnce(&'scope SpawnScope<'scope, 'env>) -> R,
    {
        self.inner.may_wait_for_spawned()?;
        let scope = SpawnScope {
            queue: self.clone(),
            count: Arc::new(ScopeCount {
                left: AtomicUsize::new(1),
                panicked: AtomicBool::new(false),
                done: Completion::new(),
            }),
            scope: PhantomData,
            env: PhantomData,
        };
        let result = catch_unwind(AssertUnwindSafe(|| f(&scope)));
        scope.count.end_one();
        if !scope.count.done.is_done() {
            blocking(|| scope.count.done.wait());
        }
        match result {
            Err(panic) => resume_unwind(panic),
            // Relaxed: ordered by `done`.
            Ok(_) if scope.count.panicked.load(Ordering::Relaxed) => {
                panic!("a closure of a scope has panicked")
            }
            Ok(result) => Ok(result),
        }
    }
}

impl QueueInner {
    /// Tests if the caller may wait for a closure that it has given to this queue.
    fn may_wait_for_spawned(&self) -> Result<(), WaitError> {
        self.env.require_online()?;
        let one_at_a_time = || self.state.lock().saved_max == 1;
        // A BH thread runs one item after the other, of all queues of its kind.
        let in_bh = || context::with_run(|_, run| run.pwq.queue.flags.contains(Flags::BH));
        if self.flags.contains(Flags::BH) && in_bh() == Some(true)
            || context::in_run_of(self) && one_at_a_time()
        {
            return Err(WaitError::WouldDeadlock);
        }
        Ok(())
    }
}

/// A closure that nobody waits for. The queue owns it alone.
pub(super) struct ClosureWork<F> {
    pub(super) work: Work<Self>,
    pub(super) f: F,
}

// The closure is not pinned by the box: it is moved out before it is called.
impl<F> Unpin for ClosureWork<F> {}

impl_has_work! {
    impl{F: FnOnce() + Send} HasWork<Self> for ClosureWork<F> { self.work }
}

impl<F: FnOnce() + Send> WorkItem for ClosureWork<F> {
    type Pointer = Pin<Box<Self>>;

    fn run(this: Pin<Box<Self>>) {
        (Pin::into_inner(this).f)();
    }
}

/// A closure with a handle.
struct Task<F: FnOnce() -> T + Send + 'static, T: Send + 'static> {
    work: DelayedWork<Self>,
    /// Until it runs.
    body: Mutex<Option<F>>,
    outcome: Arc<Outcome<T>>,
}

impl_has_delayed_work! {
    impl{F: FnOnce() -> T + Send + 'static, T: Send + 'static}
        HasDelayedWork<Self> for Task<F, T> { self.work }
}

impl<F: FnOnce() -> T + Send + 'static, T: Send + 'static> WorkItem for Task<F, T> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let body = this.body.lock().take();
        let body = body.expect("a closure is enqueued once");
        let result = catch_unwind(AssertUnwindSafe(body))
            .map_err(|panic| JoinError::Panicked(PanicPayload::new(panic)));
        // A panic that no handle waits for is the runtime's, as that of any item.
        if let Err(Err(JoinError::Panicked(panic))) = this.outcome.set(result) {
            drop(this);
            resume_unwind(panic.into_inner());
        }
    }
}

impl<F: FnOnce() -> T + Send + 'static, T: Send + 'static> Drop for Task<F, T> {
    /// The closure has run, or it will not.
    fn drop(&mut self) {
        // Told also if what the closure has captured panics in its drop.
        let _told = CancelledAtLast(&self.outcome);
        drop(self.body.lock().take());
    }
}

/// Tells a handle, when dropped, that there will be no result, unless there is one.
struct CancelledAtLast<'a, T>(&'a Outcome<T>);

impl<T> Drop for CancelledAtLast<'_, T> {
    fn drop(&mut self) {
        let _known_already = self.0.set(Err(JoinError::Cancelled));
    }
}

/// What a handle can do with its item.
trait Taken: Send + Sync {
    /// Takes the closure back; false if it runs already.
    fn cancel(&self) -> bool;

    /// Is the caller its run?
    fn is_own_run(&self) -> bool;
}

impl<F: FnOnce() -> T + Send + 'static, T: Send + 'static> Taken for Task<F, T> {
    fn cancel(&self) -> bool {
        self.work.cancel().is_some()
    }

    fn is_own_run(&self) -> bool {
        context::in_run_of_item(self.work.identity())
    }
}

/// What becomes of a closure.
struct Outcome<T> {
    state: Mutex<State<T>>,
    /// Completed when the state is `Done`.
    done: Completion,
}

enum State<T> {
    /// Not known yet. Whom to wake.
    Open(Option<Waker>),
    Done(Result<T, JoinError>),
    /// Taken by the handle, or the handle is gone.
    Closed,
}

impl<T> Outcome<T> {
    fn new() -> Self {
        Self {
            state: Mutex::new(State::Open(None)),
            done: Completion::new(),
        }
    }

    /// Stores the first result while there is a handle; returns any other.
    fn set(&self, result: Result<T, JoinError>) -> Result<(), Result<T, JoinError>> {
        let mut state = self.state.lock();
        let State::Open(waker) = &mut *state else {
            return Err(result);
        };
        let waker = waker.take();
        *state = State::Done(result);
        drop(state);
        self.done.complete();
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

/// A handle to a closure that a queue runs. Dropping it lets the closure go on unseen; a panic of
/// it is then treated as that of any item. As a future it gives what [`JoinHandle::join`] returns.
#[must_use = "without its handle a closure cannot be waited for or cancelled"]
pub struct JoinHandle<T> {
    outcome: Arc<Outcome<T>>,
    task: Weak<dyn Taken>,
    queue: Arc<QueueInner>,
}

impl<T> JoinHandle<T> {
    /// Waits for the closure and returns its result. In a run, the wait counts as sleeping.
    ///
    /// A closure whose delay has not passed is waited for. One that was cancelled, or refused when
    /// its delay had passed, gives [`JoinError::Cancelled`]. Where the wait could never end, as far as
    /// that can be seen (see [`Queue::scope`]), the error is [`JoinError::Wait`], and the closure goes on unseen: nothing runs yet, or the caller
    /// is the closure itself, or a run of its queue, which has one active item at most.
    pub fn join(self) -> Result<T, JoinError> {
        if !self.is_finished() {
            self.queue.may_wait_for_spawned()?;
            if self.task.upgrade().is_some_and(|task| task.is_own_run()) {
                return Err(WaitError::WouldDeadlock.into());
            }
            blocking(|| self.outcome.done.wait());
        }
        let state = mem::replace(&mut *self.outcome.state.lock(), State::Closed);
        match state {
            State::Done(result) => result,
            State::Open(_) | State::Closed => panic!("the result was taken as that of the future"),
        }
    }

    /// Takes the closure back, unless it runs or has run; it is dropped then, and
    /// [`JoinHandle::join`] gives [`JoinError::Cancelled`]. True if it was taken back.
    pub fn cancel(&self) -> bool {
        self.task.upgrade().is_some_and(|task| task.cancel())
    }

    /// Is the result there?
    pub fn is_finished(&self) -> bool {
        self.outcome.done.is_done()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// If the result has been taken before.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.outcome.state.lock();
        match &mut *state {
            State::Open(waker) => {
                // The former one is dropped after the lock, as it may be code of the program.
                let former = waker.replace(context.waker().clone());
                drop(state);
                drop(former);
                Poll::Pending
            }
            State::Done(_) => match mem::replace(&mut *state, State::Closed) {
                State::Done(result) => Poll::Ready(result),
                State::Open(_) | State::Closed => unreachable!("seen just now, under the lock"),
            },
            State::Closed => panic!("the result was taken before"),
        }
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let state = mem::replace(&mut *self.outcome.state.lock(), State::Closed);
        // Its drop is code of the program.
        drop(state);
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

/// Where closures are spawned that borrow from the caller of [`Queue::scope`].
pub struct SpawnScope<'scope, 'env: 'scope> {
    queue: Queue,
    count: Arc<ScopeCount>,
    // Invariant, as in the scopes of std: neither may be shortened or lengthened.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl<'scope> SpawnScope<'scope, '_> {
    /// Runs a closure near the calling CPU before the scope ends. A refused one is dropped.
    pub fn spawn<F>(&'scope self, f: F) -> Result<(), Refusal>
    where
        F: FnOnce() + Send + 'scope,
    {
        // Relaxed: the caller's own count is in, so it cannot have come to 0.
        self.count.left.fetch_add(1, Ordering::Relaxed);
        let counted = Counted {
            f,
            last: CountOut(self.count.clone()),
        };
        // SAFETY: the scope waits until each of its closures has run or was dropped: a `Counted`
        // counts out after its closure is gone.
        unsafe { self.queue.spawn_borrowing(move || counted.run()) }.map_err(|e| e.reason())
    }
}

impl fmt::Debug for SpawnScope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpawnScope")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

/// A closure of a scope. The order of the fields is that of their drops.
struct Counted<F> {
    f: F,
    last: CountOut,
}

impl<F: FnOnce()> Counted<F> {
    fn run(self) {
        let Self { f, last } = self;
        f();
        drop(last);
    }
}

/// Counts one closure of a scope out when it is dropped.
struct CountOut(Arc<ScopeCount>);

impl Drop for CountOut {
    fn drop(&mut self) {
        if thread::panicking() {
            // Relaxed: ordered by `done`.
            self.0.panicked.store(true, Ordering::Relaxed);
        }
        self.0.end_one();
    }
}

/// The closures of a scope.
struct ScopeCount {
    /// Those that have not ended, and the body of the scope.
    left: AtomicUsize,
    panicked: AtomicBool,
    done: Completion,
}

impl ScopeCount {
    fn end_one(&self) {
        // AcqRel: the last one sees what the others did, and hands it on.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.complete();
        }
    }
}
