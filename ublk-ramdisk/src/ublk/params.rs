// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the disk tells the block layer about itself (H1, H2, H5, H6), and which
//! features its driver is asked for.
//!
//! | feature | asked for | without it |
//! |---|---|---|
//! | USER_COPY, BATCH_IO | by the data path | the next path; status 3 if the path was named |
//! | UPDATE_SIZE | wherever offered | `resize` is refused |
//! | SAFE_STOP_DEV | wherever offered | users are looked for, then an exclusive open: see `openers` |
//! | USER_RECOVERY, its REISSUE | where the bytes outlive the server | the disk ends with its server |
//! | NO_AUTO_PART_SCAN | with --no-partition-scan | one warning, and the kernel scans |

use super::abi::{self, DeviceInfo, ParamBasic, ParamDiscard, Params};
use super::features::{features, Features};
use crate::config::{DataPath, DeviceConfig};
use crate::error::Failure;

/// A DISCARD or WRITE_ZEROES of one request covers at most this much: the store's
/// workqueue is busy with it until it is done.
const MAX_DISCARD: u32 = 64 << 20;
/// The same over an image, where a discard may have to write zeros.
const MAX_DISCARD_OVER_IMAGE: u32 = 1 << 20;

/// The driver keeps the tags of a batch in a queue of its own, which has no room for only one: it
/// refuses the device with EINVAL.
const MIN_BATCH_DEPTH: u16 = 2;

/// The data path for what the driver offers (G14), or the one asked for.
///
/// # Errors
/// Status 2 if `depth` is too small for the path asked for, 3 if the driver lacks a feature of it.
pub fn choose_path(
    asked: Option<DataPath>,
    depth: u16,
    offered: Features,
) -> Result<DataPath, Failure> {
    let is_batch = |path: DataPath| needed_features(path) & Features::BATCH_IO != 0;
    let too_shallow = |path: DataPath| is_batch(path) && depth < MIN_BATCH_DEPTH;
    let possible = |path: &DataPath| offered.has(needed_features(*path)) && !too_shallow(*path);
    // One copy before two, and of the two paths with one copy the one with fewer commands first (G1).
    let preferred = [
        DataPath::Batch,
        DataPath::UserCopy,
        DataPath::BatchBuffer,
        DataPath::Buffer,
    ];
    match asked {
        Some(path) if too_shallow(path) => Err(Failure::usage(format!(
            "--data-path {path} contradicts --depth {depth}: it needs {MIN_BATCH_DEPTH} or more"
        ))),
        Some(path) if possible(&path) => Ok(path),
        Some(path) => Err(path_missing(path, offered)),
        None => Ok(preferred
            .into_iter()
            .find(possible)
            .unwrap_or(DataPath::Buffer)),
    }
}

/// The feature bits without which `path` does not work; 0 for a path that every driver has.
pub fn needed_features(path: DataPath) -> u64 {
    match path {
        DataPath::Batch => Features::BATCH_IO | Features::USER_COPY,
        DataPath::UserCopy => Features::USER_COPY,
        DataPath::BatchBuffer => Features::BATCH_IO,
        DataPath::Buffer => 0,
    }
}

/// Says which bit `path` lacks and which kernel has it.
pub(super) fn path_missing(path: DataPath, offered: Features) -> Failure {
    let missing = needed_features(path) & !offered.0;
    let bit = missing.trailing_zeros() as u8;
    let (name, since) = features()
        .find(|feature| feature.bit == bit)
        .map_or(("?", "?"), |feature| (feature.name, feature.since));
    Failure::environment(format!(
        "--data-path {path} needs UBLK_F_{name} (bit {bit}), which this kernel's driver does not \
         offer; the first kernel with it is {since}, or use --data-path auto"
    ))
}

/// What a disk needs that outlives its server.
pub(super) const RECOVERY: u64 = Features::USER_RECOVERY | Features::USER_RECOVERY_REISSUE;

/// Can a new server take up the disk of one that has died? A driver without QUIESCE crashes if a server
/// with several queues dies while it takes one up.
pub(super) fn can_recover(config: &DeviceConfig, offered: Features) -> bool {
    config.backing().outlives_server()
        && offered.has(RECOVERY)
        && (config.queues == 1 || offered.has(Features::QUIESCE))
}

/// What ADD_DEV is asked for: the features of the path, and those that are of use on every path as
/// far as they are offered. What is granted may be less (A2, F8).
pub(super) fn wanted_info(config: &DeviceConfig, path: DataPath, offered: Features) -> DeviceInfo {
    let always = Features::CMD_IOCTL_ENCODE | Features::UPDATE_SIZE | Features::SAFE_STOP_DEV;
    let mut flags = needed_features(path) | always & offered.0;
    if can_recover(config, offered) {
        flags |= RECOVERY | Features::QUIESCE & offered.0;
    }
    if !config.partition_scan {
        flags |= Features::NO_AUTO_PART_SCAN & offered.0;
    }
    DeviceInfo {
        nr_hw_queues: config.queues,
        queue_depth: config.depth,
        max_io_buf_bytes: config.io_buffer,
        // `u32::MAX` lets the driver choose.
        dev_id: config.id.unwrap_or(u32::MAX),
        ublksrv_pid: -1,
        flags,
        ..DeviceInfo::default()
    }
}

/// The parameters for SET_PARAMS. `io_buffer` is what ADD_DEV made of it, `page`
/// what the store gives memory back by.
pub(super) fn params(config: &DeviceConfig, size: u64, io_buffer: u32, page: u64) -> Params {
    let shift = |bytes: u64| bytes.trailing_zeros() as u8;
    let physical = u64::from(config.physical_block_size);
    let attr = |on: bool, bit: u32| if on { bit } else { 0 };
    // FUA is announced with the cache alone: without one the kernel strips it.
    let cache = abi::ATTR_VOLATILE_CACHE | abi::ATTR_FUA;
    let basic = ParamBasic {
        attrs: attr(config.read_only, abi::ATTR_READ_ONLY)
            | attr(config.rotational, abi::ATTR_ROTATIONAL)
            | attr(config.volatile_cache, cache),
        logical_bs_shift: shift(config.block_size.into()),
        physical_bs_shift: shift(physical),
        io_opt_shift: shift(page.max(physical)),
        io_min_shift: shift(physical),
        // A request is never longer than the buffer of its tag.
        max_sectors: io_buffer >> 9,
        dev_sectors: size >> 9,
        ..ParamBasic::default()
    };
    // A disk for swap keeps the memory that it has (J8).
    let max_discard_sectors = match config.base {
        _ if config.swap => 0,
        Some(_) => MAX_DISCARD_OVER_IMAGE >> 9,
        None => MAX_DISCARD >> 9,
    };
    let discard = ParamDiscard {
        // Smaller parts are zeroed in place and give no memory back (E18).
        discard_granularity: page as u32,
        max_discard_sectors,
        max_write_zeroes_sectors: max_discard_sectors,
        max_discard_segments: 1,
        ..ParamDiscard::default()
    };
    let types = abi::PARAM_BASIC | abi::PARAM_DISCARD | abi::PARAM_DMA_ALIGN;
    // The alignment is a mask: buffers at multiples of 4 bytes are fine.
    Params {
        types,
        basic,
        discard,
        dma_align: [3, 0],
        ..Params::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g14_auto_takes_the_best_path_that_is_offered() {
        let user_copy = Features::USER_COPY;
        let auto = |bits| choose_path(None, 128, Features(bits)).unwrap();
        assert_eq!(auto(user_copy | Features::BATCH_IO), DataPath::Batch);
        assert_eq!(auto(user_copy), DataPath::UserCopy);
        assert_eq!(auto(Features::BATCH_IO), DataPath::BatchBuffer);
        assert_eq!(auto(0), DataPath::Buffer);
    }

    #[test]
    fn l1_a_path_that_is_not_offered_names_bit_and_kernel() {
        let failure =
            choose_path(Some(DataPath::Batch), 128, Features(Features::USER_COPY)).unwrap_err();
        assert_eq!(failure.exit, crate::error::Exit::Environment);
        for part in ["batch", "UBLK_F_BATCH_IO", "bit 15", "7.0"] {
            assert!(failure.message.contains(part), "{part}: {failure}");
        }
    }

    #[test]
    fn a2_a_batch_of_one_tag_is_refused_and_auto_avoids_it() {
        let all = Features(Features::USER_COPY | Features::BATCH_IO);
        let failure = choose_path(Some(DataPath::Batch), 1, all).unwrap_err();
        assert_eq!(failure.exit, crate::error::Exit::Usage);
        for part in ["--data-path batch", "--depth 1"] {
            assert!(failure.message.contains(part), "{part}: {failure}");
        }
        assert_eq!(choose_path(None, 1, all).unwrap(), DataPath::UserCopy);
        assert_eq!(choose_path(None, 2, all).unwrap(), DataPath::Batch);
    }
}
