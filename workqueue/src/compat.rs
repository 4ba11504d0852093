// SPDX-License-Identifier: MIT OR Apache-2.0
//! For code that comes from the kernel: its oldest constructors, and where each name has gone.
//!
//! The three functions here make queues of today's design with the settings that the kernel gives
//! them, and with its legacy mark: such a queue takes no part in the warnings about waiting for a
//! queue without a rescuer, since its users never chose to have one. Kernel counterparts: the
//! macros `create_workqueue`, `create_freezable_workqueue`, `create_singlethread_workqueue`. The
//! design these names once stood for is in [`crate::legacy`].
//!
//! # Making a queue
//!
//! | kernel | here |
//! |---|---|
//! | `alloc_workqueue("n", WQ_UNBOUND, 3)` | `runtime.queue("n").flags(Flags::UNBOUND).max_active(3).build()` |
//! | `alloc_ordered_workqueue("n", 0)` | `runtime.ordered("n", Flags::empty())` |
//! | `system_percpu_wq`, `system_dfl_wq`, ... | [`system_percpu()`](crate::system_percpu), [`system_dfl()`](crate::system_dfl), ... |
//! | `apply_workqueue_attrs(wq, attrs)` | [`Queue::apply_attrs`](crate::Queue::apply_attrs) |
//! | `workqueue_set_max_active(wq, n)` | [`Queue::set_max_active`](crate::Queue::set_max_active) |
//! | `workqueue_congested(cpu, wq)` | [`Queue::congested`](crate::Queue::congested) |
//! | `destroy_workqueue(wq)` | [`OwnedQueue::destroy`], or the drop of the owner |
//!
//! ```
//! use workqueue::{Attrs, Flags, Runtime, Scope};
//!
//! let runtime = Runtime::builder().start()?;
//! let queue = runtime.queue("events_of_mine").flags(Flags::UNBOUND).max_active(3).build()?;
//! queue.apply_attrs(Attrs { nice: 5, scope: Some(Scope::Numa), ..Attrs::new() })?;
//! queue.set_max_active(16)?;
//! assert!(queue.max_active() == 16 && !queue.congested(0));
//! let in_order = runtime.ordered("one_by_one", Flags::MEM_RECLAIM)?;
//! in_order.destroy()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Items
//!
//! | kernel | here |
//! |---|---|
//! | `struct work_struct`, `INIT_WORK` | a field [`Work`](crate::Work), [`new_work!`](crate::new_work) |
//! | `struct delayed_work`, `INIT_DELAYED_WORK`, `INIT_DEFERRABLE_WORK` | a field [`DelayedWork`](crate::DelayedWork), [`new_delayed_work!`](crate::new_delayed_work) |
//! | `container_of`, `to_delayed_work`, `from_work` | [`impl_has_work!`](crate::impl_has_work), [`impl_has_delayed_work!`](crate::impl_has_delayed_work) |
//! | `queue_work`, `queue_work_on`, `queue_work_node` | [`enqueue`](crate::Queue::enqueue), [`enqueue_on`](crate::Queue::enqueue_on), [`enqueue_node`](crate::Queue::enqueue_node) |
//! | `queue_delayed_work`, `mod_delayed_work` | [`enqueue_delayed`](crate::Queue::enqueue_delayed), [`mod_delayed`](crate::Queue::mod_delayed) |
//! | `schedule_work`, `schedule_delayed_work` | [`schedule`](crate::schedule), [`schedule_delayed`](crate::schedule_delayed) |
//! | `work_pending`, `work_busy` | [`Work::is_pending`](crate::Work::is_pending), [`Work::busy`](crate::Work::busy) |
//! | `Queue::try_spawn` of the Rust bindings | [`Queue::try_spawn`](crate::Queue::try_spawn) |
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use workqueue::*;
//!
//! /// A driver with an interrupt handler's bottom half and a poll every now and then.
//! struct Driver { bottom_half: Work<Driver, 1>, poll: DelayedWork<Driver, 2> }
//!
//! impl_has_work! { impl HasWork<Self, 1> for Driver { self.bottom_half } }
//! impl_has_delayed_work! { impl HasDelayedWork<Self, 2> for Driver { self.poll } }
//!
//! impl WorkItem<1> for Driver {
//!     type Pointer = Arc<Self>;
//!     fn run(this: Arc<Self>) {
//!         // The event is handled. Look again soon, also if a poll is pending already.
//!         let _either_way = system_percpu().mod_delayed::<_, 2>(Duration::from_millis(1), this);
//!     }
//! }
//!
//! impl WorkItem<2> for Driver {
//!     type Pointer = Arc<Self>;
//!     fn run(_: Arc<Self>) { println!("polled"); }
//! }
//!
//! let driver = Arc::new(Driver { bottom_half: new_work!(), poll: new_delayed_work!("poll") });
//! system_highpri().enqueue_on::<_, 1>(0, driver.clone())?;
//! driver.bottom_half.flush()?;        // flush_work
//! driver.poll.flush()?;               // flush_delayed_work: does not wait for the time
//! assert!(!driver.poll.is_pending());
//! schedule_delayed::<_, 2>(Duration::from_secs(3600), driver.clone())?;
//! let pointer = driver.poll.cancel_sync()?;       // cancel_delayed_work_sync
//! assert!(pointer.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Waiting, taking back, keeping out
//!
//! | kernel | here |
//! |---|---|
//! | `flush_workqueue`, `drain_workqueue` | [`Queue::flush`](crate::Queue::flush), [`Queue::drain`](crate::Queue::drain) |
//! | `flush_work`, `flush_delayed_work` | [`Work::flush`](crate::Work::flush), [`DelayedWork::flush`](crate::DelayedWork::flush) |
//! | `cancel_work`, `cancel_work_sync` and the delayed ones | `cancel`, `cancel_sync`: the pointer comes back |
//! | `disable_work`, `disable_work_sync`, `enable_work` and the delayed ones | `disable`, `disable_sync`, `enable` |
//! | `enable_and_queue_work` | [`Queue::enable_and_enqueue`](crate::Queue::enable_and_enqueue) |
//! | `work_on_cpu`, `schedule_on_each_cpu` | [`work_on_cpu`](crate::work_on_cpu), [`schedule_on_each_cpu`](crate::schedule_on_each_cpu) |
//! | `current_work`, `current_is_workqueue_rescuer`, `set_worker_desc` | [`current`](crate::current), [`is_rescuer`](crate::is_rescuer), [`set_worker_desc`](crate::set_worker_desc) |
//! | `freeze_workqueues_begin`, `freeze_workqueues_busy`, `thaw_workqueues` | [`Runtime::freeze_begin`], [`Runtime::freeze_busy`], [`Runtime::thaw`] |
//!
//! ```
//! use std::sync::Arc;
//! use workqueue::*;
//!
//! struct Item { work: Work<Item> }
//! impl_has_work! { impl HasWork<Self> for Item { self.work } }
//! impl WorkItem for Item {
//!     type Pointer = Arc<Self>;
//!     fn run(_: Arc<Self>) {
//!         set_worker_desc("about to wait");
//!         assert_eq!(current().expect("inside a run").workqueue, "frozen_at_times");
//!         assert!(!is_rescuer());
//!     }
//! }
//!
//! let runtime = Runtime::builder().start()?;
//! let queue = runtime.queue("frozen_at_times").flags(Flags::PERCPU | Flags::FREEZABLE).build()?;
//! let item = Arc::new(Item { work: new_work!() });
//!
//! runtime.freeze_begin();
//! queue.enqueue(item.clone())?;
//! assert!(!runtime.freeze_busy());            // nothing runs from before the freeze
//! assert!(item.work.disable()?.is_some());    // it was pending, and its pointer is back
//! runtime.thaw();
//! assert_eq!(queue.enqueue(item.clone()).unwrap_err().reason(), Refusal::Disabled);
//! queue.enable_and_enqueue(item.clone())?;
//! queue.drain()?;
//! assert_eq!(runtime.work_on_cpu(0, || 6 * 7)?, 42);
//! runtime.schedule_on_each_cpu(|| println!("on every CPU"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::error::AllocError;
use crate::runtime::Runtime;
use crate::wq::attrs::Flags;
use crate::wq::builder::QueueBuilder;
use crate::wq::OwnedQueue;

impl Runtime {
    /// See [`create_workqueue`].
    ///
    /// # Errors
    /// As [`QueueBuilder::build`].
    pub fn create_workqueue(&self, name: &str) -> Result<OwnedQueue, AllocError> {
        self.legacy_queue(name, Flags::PERCPU).build()
    }

    /// See [`create_freezable_workqueue`].
    ///
    /// # Errors
    /// As [`QueueBuilder::build`].
    pub fn create_freezable_workqueue(&self, name: &str) -> Result<OwnedQueue, AllocError> {
        self.legacy_queue(name, Flags::FREEZABLE | Flags::UNBOUND)
            .build()
    }

    /// See [`create_singlethread_workqueue`].
    ///
    /// # Errors
    /// As [`QueueBuilder::build`].
    pub fn create_singlethread_workqueue(&self, name: &str) -> Result<OwnedQueue, AllocError> {
        self.legacy_queue(name, Flags::empty()).ordered().build()
    }

    fn legacy_queue(&self, name: &str, flags: Flags) -> QueueBuilder {
        self.queue(name)
            .flags(flags | Flags::MEM_RECLAIM)
            .max_active(1)
            .legacy()
    }
}

/// A per-CPU queue of the process's runtime that runs one item per CPU at a time and has a
/// rescuer.
///
/// ```
/// let queue = workqueue::compat::create_workqueue("old_driver")?;
/// queue.try_spawn(|| println!("as ever"))?;
/// queue.destroy()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`QueueBuilder::build`].
pub fn create_workqueue(name: &str) -> Result<OwnedQueue, AllocError> {
    Runtime::global().create_workqueue(name)
}

/// An unbound queue of the process's runtime that runs one item at a time, has a rescuer and is
/// frozen with the runtime. Items of different CPUs keep no order.
///
/// # Errors
/// As [`QueueBuilder::build`].
pub fn create_freezable_workqueue(name: &str) -> Result<OwnedQueue, AllocError> {
    Runtime::global().create_freezable_workqueue(name)
}

/// An ordered queue of the process's runtime with a rescuer: one item at a time, in the order of
/// their enqueueing over all CPUs.
///
/// # Errors
/// As [`QueueBuilder::build`].
pub fn create_singlethread_workqueue(name: &str) -> Result<OwnedQueue, AllocError> {
    Runtime::global().create_singlethread_workqueue(name)
}
