// SPDX-License-Identifier: MIT OR Apache-2.0
//! The side that faces the kernel: a device's life ([`device`]), its control
//! commands ([`ctrl`]), and per queue the thread that takes requests in and
//! commits their results (`queue`). Between the two a request is in the mirror of
//! blk-mq ([`crate::backend`]), which calls back through `front_end`. The only part that
//! knows the ublk ABI.
//!
//! What is used by which threads:
//!
//! | part | threads |
//! |---|---|
//! | `QueueRing`, `PerTag`, `Batch`, `Submitter` | the queue's own; dropped once all queue threads have ended |
//! | `QueueShared`: buffers, mailbox | the queue's own, and workers of kblockd that run its hardware queue |
//! | `QueueShared`: binding | the queue's own, and the one that watches the CPUs |
//! | `QueueCounters` | written by the queue's own, read by anyone |
//! | `Deaths` | written by each queue's, read by the owner of the device |
//! | `Control`, `Device` | the owner of the device: the server's main thread |
//!
//! Where the commands of the driver are sent from:
//!
//! | command | file |
//! |---|---|
//! | ADD_DEV, SET_PARAMS, START_DEV | `device/bring_up.rs`, with the values of `params.rs` |
//! | FETCH, COMMIT_AND_FETCH | `per_tag.rs` |
//! | PREP, FETCH and COMMIT of BATCH_IO | `batch.rs` |
//! | UPDATE_SIZE | `device.rs` |
//! | STOP_DEV, TRY_STOP_DEV | `device.rs`, and `openers.rs` for a disk that nobody uses |
//! | DEL_DEV_ASYNC, or DEL_DEV where that is unknown | `ctrl.rs` |

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

pub mod device;

pub mod export;

pub mod ctrl;

pub mod params;

mod thread;

mod queue;

#[doc(hidden)] // For the fuzzer of descriptors in tests/.
pub use queue::operation;

mod front_end;

mod mailbox;

mod client_data;

mod per_tag;

mod batch;

mod commit;

mod ring;

pub mod abi;

pub mod features;

pub mod openers;

/// The ids of all ublk devices, from their nodes, lowest first.
/// In sysfs and in /dev, whichever there is.
pub fn device_ids() -> Vec<u32> {
    ids_in(&[Path::new("/sys/class/ublk-char"), Path::new("/dev")])
}

fn ids_in(places: &[&Path]) -> Vec<u32> {
    let mut ids = BTreeSet::new();
    for entries in places.iter().filter_map(|place| fs::read_dir(place).ok()) {
        ids.extend(entries.flatten().filter_map(|node| {
            let name = node.file_name();
            name.to_str()?.strip_prefix("ublkc")?.parse::<u32>().ok()
        }));
    }
    ids.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_nodes_once_and_in_order() {
        let place = std::env::temp_dir().join(format!("ublk-ids-{}", std::process::id()));
        fs::create_dir_all(&place).expect("made");
        for name in ["ublkc10", "ublkc2", "ublkb3", "ublkcx", "ublk-control"] {
            fs::write(place.join(name), "").expect("made");
        }
        let places: [&Path; 3] = [&place, &place, Path::new("/nonexistent")];
        assert_eq!(ids_in(&places), [2, 10]);
        fs::remove_dir_all(&place).expect("removed");
    }
}
