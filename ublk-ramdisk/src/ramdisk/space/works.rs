// SPDX-License-Identifier: MIT OR Apache-2.0
//! Setting a device's memory work up, and taking it down.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Instant;

use workqueue::{new_delayed_work, AllocError, Flags, OwnedQueue, Runtime};

use super::{Duty, Item, Space, SpaceOptions};
use crate::mq::Queue;
use crate::ramdisk::held::Held;
use crate::ramdisk::no_space::NoSpace;
use crate::ramdisk::parked::Parked;
use crate::ramdisk::Ramdisk;

/// The owner of a device's memory work. Dropping it cancels the work and waits for it; to be
/// dropped before the request queue, when no request is left.
#[derive(Debug)]
pub struct SpaceWorks {
    ramdisk: Arc<Ramdisk>,
    _queues: [OwnedQueue; 2],
}

impl SpaceWorks {
    /// Has `ramdisk` make memory for the requests of `queue`, in `runtime`. Once in the life of a
    /// ramdisk.
    pub(in crate::ramdisk) fn start(
        ramdisk: &Arc<Ramdisk>,
        runtime: &Runtime,
        queue: &Queue,
        options: SpaceOptions,
    ) -> Result<Self, AllocError> {
        let flags = Flags::MEM_RECLAIM | Flags::UNBOUND;
        let store_queue = runtime.queue("store").flags(flags).build()?;
        let flags = flags | Flags::CPU_INTENSIVE;
        let reclaim_queue = runtime.queue("reclaim").flags(flags).build()?;
        let item = |work, duty| {
            let ramdisk = Arc::downgrade(ramdisk);
            Arc::new(Item {
                work,
                ramdisk,
                duty,
            })
        };
        let (queues, depth) = (queue.tag_set().nr_hw_queues, queue.tag_set().queue_depth);
        let space = Space {
            parked: Parked::new(queues, depth),
            no_space: NoSpace::new(options.patience),
            discards: Held::new(usize::from(queues) * usize::from(depth)),
            clears: Held::new(usize::from(queues) * usize::from(depth)),
            options,
            queue: queue.downgrade(),
            store_queue: store_queue.handle(),
            reclaim_queue: reclaim_queue.handle(),
            populate: item(new_delayed_work!("populate"), Duty::Populate),
            discard: item(new_delayed_work!("discard"), Duty::Discard),
            clear: item(new_delayed_work!("clear"), Duty::Clear),
            timer: item(new_delayed_work!("no_space"), Duty::NoSpace),
            reclaim: item(new_delayed_work!("reclaim"), Duty::Reclaim),
            scan: item(new_delayed_work!("scan"), Duty::Scan),
            clock: runtime.virtual_clock().cloned(),
            begun: Instant::now(),
            ending: AtomicBool::new(false),
            cap: u32::from(depth - (depth / 8).max(1)),
            failed_at: Default::default(),
            frees_seen: AtomicU64::new(0),
            reclaims: AtomicBool::new(options.reclaim),
            zeros_freed: AtomicU64::new(0),
            populated: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            above_cap: AtomicU64::new(0),
        };
        space.no_space.state.set_device(queue.label());
        ramdisk.put_to_work(space);
        Ok(Self {
            ramdisk: ramdisk.clone(),
            _queues: [store_queue, reclaim_queue],
        })
    }
}

impl Drop for SpaceWorks {
    fn drop(&mut self) {
        let Some(space) = self.ramdisk.space() else {
            return;
        };
        space.ending.store(true, Relaxed);
        let items = [
            &space.populate,
            &space.discard,
            &space.clear,
            &space.timer,
            &space.reclaim,
            &space.scan,
        ];
        for item in items {
            if let Err(error) = item.work.disable_sync() {
                log::error!("store: {:?} cannot be waited for: {error:?}", item.duty);
            }
        }
    }
}
