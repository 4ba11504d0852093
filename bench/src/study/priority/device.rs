// SPDX-License-Identifier: MIT OR Apache-2.0
//! Study e on the device: kblockd of high and of normal priority, bound and unbound, beside CPU hogs.

use crate::study::device::act::{load_as, Guest, Rank};
use crate::study::hogs::{allowed, Hogs};
use crate::study::settings::StudyError;
use crate::study::table::Block;

/// Makes the experiments. Client and queue threads have the highest priority, so that what hogs delay is kblockd.
pub fn act(guest: &Guest, blocks: &[Block]) -> Result<(), StudyError> {
    guest.each(blocks, |words, options, job| {
        let disk = guest.disk(options)?;
        disk.favor_queue_threads()?;
        let each = words[0].strip_prefix("hogs|");
        let each = each.and_then(|each| each.parse().ok());
        let _hogs = Hogs::start(allowed().possible(), each.unwrap_or(0))?;
        load_as(Rank::First, &disk, job)
    })
}
