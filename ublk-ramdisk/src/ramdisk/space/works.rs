// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts the work items of a device's memory, and stops them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use workqueue::{new_delayed_work, AllocError, Flags, OwnedQueue, Runtime};

use super::{Duty, Item, Space, SpaceOptions, REMOVAL_LOOK};
use crate::mq::Queue;
use crate::ramdisk::disk::Ramdisk;
use crate::ramdisk::no_space::NoSpace;
use crate::ramdisk::pending_ring::PendingRing;
use crate::ramdisk::waiters::Waiters;

/// Owns the work items of a device's memory. Dropping it cancels them and waits for them. It is dropped
/// before the request queue, when no request is left.
#[derive(Debug)]
pub struct SpaceWorks {
    ramdisk: Arc<Ramdisk>,
    _queues: [OwnedQueue; 2],
}

impl SpaceWorks {
    /// Starts the work items that make memory for the requests of `queue`, in `runtime`. Called once in
    /// the life of a disk.
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
            waiters: Waiters::new(queues, depth),
            no_space: NoSpace::new(options.no_space_timeout),
            discards: PendingRing::new(usize::from(queues) * usize::from(depth)),
            clears: PendingRing::new(usize::from(queues) * usize::from(depth)),
            options,
            queue: queue.downgrade(),
            label: queue.label(),
            store_queue: store_queue.handle(),
            reclaim_queue: reclaim_queue.handle(),
            populate: item(new_delayed_work!("populate"), Duty::Populate),
            discard: item(new_delayed_work!("discard"), Duty::Discard),
            clear: item(new_delayed_work!("clear"), Duty::Clear),
            timer: item(new_delayed_work!("no_space"), Duty::NoSpace),
            reclaim: item(new_delayed_work!("reclaim"), Duty::Reclaim),
            scan: item(new_delayed_work!("scan"), Duty::Scan),
            release: item(new_delayed_work!("release"), Duty::Release),
            clock: runtime.run_clock().clone(),
            ending: AtomicBool::new(false),
            headroom: ramdisk.headroom(),
            removal_look: ramdisk.notices_removal().then_some(REMOVAL_LOOK),
            began: (0..usize::from(queues) * usize::from(depth))
                .map(|_| AtomicU64::new(0))
                .collect(),
            depth: depth.into(),
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
        ramdisk.set_space(space);
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
            &space.release,
        ];
        for item in items {
            if let Err(error) = item.work.disable_sync() {
                log::error!("store: {:?} cannot be waited for: {error:?}", item.duty);
            }
        }
    }
}
