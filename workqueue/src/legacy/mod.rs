// SPDX-License-Identifier: MIT OR Apache-2.0
//! The workqueue design of Linux 2.6.35 and before, for comparison with the rest of this crate.
//!
//! One thread per CPU and queue, each with a list of its own, which it works off strictly in order
//! and one item at a time. Nothing here is shared with the other design but locks and thread
//! matters, and nothing else in the crate uses it. It is here to be measured and to show why it
//! was replaced; its limits are kept on purpose and documented where they are.
//!
//! | 2.6.35 | here | difference |
//! |---|---|---|
//! | the machine, `cpu_online_map` | [`Machine`] | an object, so that tests can make one up |
//! | `create_workqueue` and its three siblings | methods of [`Machine`] | |
//! | `struct workqueue_struct` | [`Workqueue`] | dropping it destroys the queue |
//! | `struct work_struct` | [`Work`], in an `Arc` | calls a closure; a listed item is kept alive |
//! | `struct cpu_workqueue_struct` | internal | its list holds pointers, not links |
//! | `queue_work`, `queue_work_on`, `flush_workqueue` | methods of [`Workqueue`] | [`Workqueue::queue_work_on`] refuses a CPU that is offline |
//! | `flush_work`, `cancel_work_sync` | methods of [`Work`] | an item that waits for itself gets an error instead of hanging |
//! | `trace_workqueue_creation` and its three siblings | [`Event`] | |
//!
//! ```
//! use workqueue::legacy::{Machine, Work};
//!
//! let machine = Machine::builder().build();
//! let queue = machine.create_workqueue("old")?;    // as many threads as there are CPUs
//! let item = Work::new("hello", |_| println!("hello from a thread of my own"));
//! assert!(queue.queue_work(&item));
//! queue.flush_workqueue()?;
//! queue.destroy_workqueue()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod machine;

mod workqueue;

mod work;

mod cpu_workqueue;

pub use machine::{Era, Event, Machine, MachineBuilder};
pub use work::Work;
pub use workqueue::Workqueue;
