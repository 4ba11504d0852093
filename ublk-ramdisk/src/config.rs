// SPDX-License-Identifier: MIT OR Apache-2.0
//! Config: what was checked.
//!
//! Owns the rules a device must keep before anything is created: every number the kernel or the
//! store would refuse is refused here, with the value and the accepted range. Pure: facts about
//! the machine come in as [`Surroundings`]. The command line (`cli.rs`) hands in what was typed as
//! a [`DeviceRequest`]; `ublk/device.rs` takes over with a [`DeviceConfig`].

pub mod size;
pub mod space;
pub mod space_changes;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::mq::TIMED_OF;
use crate::pressure::Settings;
use crate::tuning::KblockdFlags;
use space::{SpaceConfig, SpaceRequest};

/// Most hardware queues of one ublk device, and most tags of one queue.
pub const MAX_QUEUES: u64 = 4096;
/// Most tags of one queue.
pub const MAX_DEPTH: u64 = 4096;
/// Largest I/O buffer of one request, in bytes.
pub const MAX_IO_BUFFER: u64 = 32 << 20;
/// Largest physical block size, in bytes.
pub const MAX_PHYSICAL_BLOCK: u64 = 256 << 20;
/// Largest device id: the ids share twenty bits of minor numbers.
pub const MAX_ID: u64 = (1 << 20) - 1;
/// Largest size of a device, in bytes.
pub const MAX_SIZE: u64 = 1 << 63;
/// Longest time until a request counts as late, in seconds.
pub const MAX_TIMEOUT: u64 = 3600;
/// Page size of the hugetlb store, in bytes.
pub const HUGE_PAGE: u64 = 2 << 20;

/// How the bytes of a request travel between the kernel and the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataPath {
    /// Batched commands, and pread/pwrite on the character device at the store.
    Batch,
    /// One command per request, and pread/pwrite on the character device at the store.
    UserCopy,
    /// The kernel copies to and from a buffer of the tag, the server between that and the store.
    Buffer,
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DataPath::Batch => "batch",
            DataPath::UserCopy => "user-copy",
            DataPath::Buffer => "buffer",
        })
    }
}

/// Where the bytes of the disk live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// An anonymous shared memory file; gone with the server.
    Memfd,
    /// A named file on a tmpfs; its contents outlive the server.
    Tmpfs(PathBuf),
    /// An anonymous shared memory file of explicit 2 MiB pages.
    Hugetlb,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backing::Memfd => f.write_str("memfd"),
            Backing::Tmpfs(path) => write!(f, "tmpfs:{}", path.display()),
            Backing::Hugetlb => f.write_str("hugetlb"),
        }
    }
}

/// A device as asked for: numbers are read, but not yet judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRequest {
    /// Wanted id, or the first free one.
    pub id: Option<u64>,
    /// Size in bytes; may be left out where the backing file has one.
    pub size: Option<u64>,
    /// Hardware queues.
    pub queues: u64,
    /// Tags per queue.
    pub depth: u64,
    /// Logical block size in bytes.
    pub block_size: u64,
    /// Physical block size in bytes.
    pub physical_block_size: u64,
    /// Largest request in bytes.
    pub io_buffer: u64,
    /// Refuse writes.
    pub read_only: bool,
    /// Announce a spinning disk.
    pub rotational: bool,
    /// Announce a volatile write cache, so that FLUSH and FUA arrive.
    pub volatile_cache: bool,
    /// Let the kernel look for a partition table.
    pub partition_scan: bool,
    /// Wanted data path; none means the best one the kernel has.
    pub data_path: Option<DataPath>,
    /// Where the bytes live.
    pub backing: Backing,
    /// Transparent huge pages; none means the default, on.
    pub huge_pages: Option<bool>,
    /// What refuses, slows down or fails requests.
    pub pressure: Settings,
    /// Seconds until a request that the driver keeps counts as late.
    pub timeout: u64,
    /// How its memory is made, limited and taken back.
    pub space: SpaceRequest,
    /// kblockd's flags.
    pub kblockd_flags: KblockdFlags,
    /// Of so many requests one is timed, 0 for none.
    pub latency_sample: u32,
}

impl Default for DeviceRequest {
    /// The defaults of the command line, with no size.
    fn default() -> Self {
        DeviceRequest {
            id: None,
            size: None,
            queues: 1,
            depth: 128,
            block_size: 512,
            physical_block_size: 4096,
            io_buffer: 512 << 10,
            read_only: false,
            rotational: false,
            volatile_cache: false,
            partition_scan: true,
            data_path: None,
            backing: Backing::Memfd,
            huge_pages: None,
            pressure: Settings::default(),
            timeout: 30,
            space: SpaceRequest::default(),
            kblockd_flags: KblockdFlags::default(),
            latency_sample: TIMED_OF,
        }
    }
}

/// Facts of the machine the rules depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// Size of a page, in bytes.
    pub page_size: u64,
    /// Length of the backing file, where it is named and exists.
    pub backing_length: Option<u64>,
}

/// A device whose every number has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// Wanted id, or the first free one.
    pub id: Option<u32>,
    /// Size in bytes, a multiple of the block size.
    pub size: u64,
    /// Hardware queues; the kernel may lower the number to its CPUs.
    pub queues: u16,
    /// Tags per queue.
    pub depth: u16,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Physical block size in bytes.
    pub physical_block_size: u32,
    /// Largest request in bytes, a multiple of the page size.
    pub io_buffer: u32,
    /// Refuse writes.
    pub read_only: bool,
    /// Announce a spinning disk.
    pub rotational: bool,
    /// Announce a volatile write cache, so that FLUSH and FUA arrive.
    pub volatile_cache: bool,
    /// Let the kernel look for a partition table.
    pub partition_scan: bool,
    /// Wanted data path; none means the best one the kernel has.
    pub data_path: Option<DataPath>,
    /// Where the bytes live.
    pub backing: Backing,
    /// Transparent huge pages, where the backing can have them.
    pub huge_pages: bool,
    /// What refuses, slows down or fails requests.
    pub pressure: Settings,
    /// Seconds until a request that the driver keeps counts as late.
    pub timeout: u32,
    /// How its memory is made, limited and taken back.
    #[serde(default)]
    pub space: SpaceConfig,
    /// kblockd's flags.
    pub kblockd_flags: KblockdFlags,
    /// Of so many requests one is timed, 0 for none.
    pub latency_sample: u32,
}

impl DeviceConfig {
    /// Judges what was asked for; the first rule broken names its option, value and range.
    pub fn check(asked: DeviceRequest, around: Surroundings) -> Result<DeviceConfig, Failure> {
        let id = match asked.id {
            Some(id) => Some(in_range("--id", id, 0, MAX_ID)? as u32),
            None => None,
        };
        let queues = in_range("--queues", asked.queues, 1, MAX_QUEUES)? as u16;
        let depth = in_range("--depth", asked.depth, 1, MAX_DEPTH)? as u16;
        let block_size = check_block_size(asked.block_size)?;
        let physical_block_size =
            check_physical_block_size(asked.physical_block_size, asked.block_size)?;
        let io_buffer = check_io_buffer(asked.io_buffer, around.page_size)?;
        let size = check_size(&asked, around)?;
        let huge_pages = check_huge_pages(&asked)?;
        check_pressure(&asked.pressure)?;
        let timeout = in_range("--timeout", asked.timeout, 1, MAX_TIMEOUT)? as u32;
        let space = SpaceConfig::check(&asked.space, size, &asked.backing)?;
        Ok(DeviceConfig {
            id,
            size,
            queues,
            depth,
            block_size,
            physical_block_size,
            io_buffer,
            read_only: asked.read_only,
            rotational: asked.rotational,
            volatile_cache: asked.volatile_cache,
            partition_scan: asked.partition_scan,
            data_path: asked.data_path,
            backing: asked.backing,
            huge_pages,
            pressure: asked.pressure,
            timeout,
            space,
            kblockd_flags: asked.kblockd_flags,
            latency_sample: asked.latency_sample,
        })
    }
}

fn in_range(option: &str, value: u64, least: u64, most: u64) -> Result<u64, Failure> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Failure::usage(format!(
            "{option} {value} is outside {least}..={most}"
        )))
    }
}

fn check_block_size(bytes: u64) -> Result<u32, Failure> {
    if bytes.is_power_of_two() && (512..=4096).contains(&bytes) {
        Ok(bytes as u32)
    } else {
        Err(Failure::usage(format!(
            "--block-size {bytes} is none of 512, 1024, 2048, 4096"
        )))
    }
}

fn check_physical_block_size(bytes: u64, logical: u64) -> Result<u32, Failure> {
    if bytes < logical {
        return Err(Failure::usage(format!(
            "--physical-block-size {bytes} is smaller than --block-size {logical}"
        )));
    }
    if bytes > MAX_PHYSICAL_BLOCK {
        return Err(Failure::usage(format!(
            "--physical-block-size {bytes} is larger than {MAX_PHYSICAL_BLOCK} (256 MiB)"
        )));
    }
    if !bytes.is_power_of_two() {
        return Err(Failure::usage(format!(
            "--physical-block-size {bytes} is not a power of two"
        )));
    }
    Ok(bytes as u32)
}

fn check_io_buffer(bytes: u64, page: u64) -> Result<u32, Failure> {
    if !(page..=MAX_IO_BUFFER).contains(&bytes) {
        return Err(Failure::usage(format!(
            "--io-buffer {bytes} is outside {page}..={MAX_IO_BUFFER} bytes (one page to 32 MiB)"
        )));
    }
    if !bytes.is_multiple_of(page) {
        return Err(Failure::usage(format!(
            "--io-buffer {bytes} is not a multiple of the page size, {page} bytes"
        )));
    }
    Ok(bytes as u32)
}

/// Asked by `add` and by `resize`: may a disk of this block size have this many bytes?
pub fn check_bytes(option: &str, bytes: u64, block_size: u64) -> Result<u64, Failure> {
    if bytes == 0 {
        return Err(Failure::usage(format!(
            "{option} 0: a disk needs at least one block of {block_size} bytes"
        )));
    }
    if bytes > MAX_SIZE {
        return Err(Failure::usage(format!(
            "{option} {bytes} is larger than 2^63 bytes (8 EiB)"
        )));
    }
    if !bytes.is_multiple_of(block_size) {
        return Err(Failure::usage(format!(
            "{option} {bytes} is not a multiple of the block size, {block_size} bytes"
        )));
    }
    Ok(bytes)
}

fn check_size(asked: &DeviceRequest, around: Surroundings) -> Result<u64, Failure> {
    let size = match (asked.size, around.backing_length) {
        (Some(size), Some(length)) if size != length => {
            return Err(Failure::usage(format!(
                "--size {size} differs from the length of {}, {length} bytes; leave --size out to \
                 use the file as it is",
                asked.backing
            )))
        }
        (Some(size), _) => size,
        (None, Some(length)) => length,
        (None, None) => {
            return Err(Failure::usage(
                "--size is missing: give the size of the disk, such as --size 1G",
            ))
        }
    };
    let named = if asked.size.is_some() {
        "--size".to_owned()
    } else {
        format!("the length of {},", asked.backing)
    };
    check_bytes(&named, size, asked.block_size)?;
    if asked.backing == Backing::Hugetlb && !size.is_multiple_of(HUGE_PAGE) {
        return Err(Failure::usage(format!(
            "--size {size} is not a multiple of {HUGE_PAGE} bytes (2 MiB), as --backing hugetlb \
             needs"
        )));
    }
    Ok(size)
}

/// Asked by `add`, `set` and the server: can there be such pressure?
pub fn check_pressure(settings: &Settings) -> Result<(), Failure> {
    for (option, value) in [("--slots", settings.slots), ("--mbps", settings.mbps)] {
        if value == Some(0) {
            return Err(Failure::usage(format!(
                "{option} 0: no request would ever be served; give 1 or more, or off"
            )));
        }
    }
    if settings.delay_ns.is_some() && settings.timeout.is_some_and(|attr| attr.fails_always()) {
        return Err(Failure::usage(
            "--inject delay contradicts --inject timeout for every request: none would be left to \
             be delayed",
        ));
    }
    Ok(())
}

fn check_huge_pages(asked: &DeviceRequest) -> Result<bool, Failure> {
    match (&asked.backing, asked.huge_pages) {
        (Backing::Hugetlb, Some(true)) => Err(Failure::usage(
            "--thp on contradicts --backing hugetlb, whose pages are explicit ones",
        )),
        (Backing::Hugetlb, _) => Ok(false),
        (_, choice) => Ok(choice.unwrap_or(true)),
    }
}

#[cfg(test)]
mod tests;
