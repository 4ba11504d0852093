// SPDX-License-Identifier: MIT OR Apache-2.0
//! Config: the options of a device, from the command line to the driver.
//!
//! Owns the rules a device must keep before anything is created: every number the kernel or the
//! store would refuse is refused here, with the value and the accepted range. Pure: facts about
//! the machine come in as [`Surroundings`]. Each group of options is one struct: read by the
//! command line, judged here, sent to a server, and in force.
//!
//! | options | read as | judged by | in force as |
//! |---|---|---|---|
//! | of `add` and `sim` | [`DeviceConfig`] | [`DeviceConfig::checked`] | the same, with size, pressure and memory filled in |
//! | for memory | [`space::MemoryOptions`] | [`space::SpaceConfig::check`], on a running disk `applied_to` | [`space::SpaceConfig`] |
//! | for pressure | [`PressureOptions`] | [`DeviceConfig::check_rules`] | [`Settings`] |
//! | of `set` | [`set::SetOptions`] | the two above | [`set::InForce`] |

pub mod image;
pub mod set;
pub mod space;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, FromArgMatches};
use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::mq::{LEAST_TIMED_OF, TIMED_OF};
use crate::pressure::{PressureOptions, Settings};
use crate::study_options::KblockdFlags;
use crate::units::{number, on_or_off, size, whole_seconds, Size};
use image::Image;
use space::{NewMemoryOptions, SpaceConfig};

pub use crate::units::MAX_SIZE;

/// Largest I/O buffer of one request, in bytes.
pub const MAX_IO_BUFFER: u64 = 32 << 20;
/// Largest physical block size, in bytes.
pub const MAX_PHYSICAL_BLOCK: u64 = 256 << 20;
/// Largest device id: the ids share twenty bits of minor numbers.
pub const MAX_ID: u64 = (1 << 20) - 1;
/// Longest time until a request counts as late, in seconds.
pub const MAX_TIMEOUT: u64 = 3600;
/// Longest time that clients wait for a new server, in seconds.
pub const MAX_RECOVERY_TIMEOUT: u64 = 24 * 3600;
/// Longest name of a disk, in bytes.
pub const MAX_NAME: usize = 32;
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
    /// One command per request. The kernel copies to and from a buffer of the tag, the server between that
    /// and the store.
    Buffer,
    /// Batched commands, and copies as with `Buffer`.
    BatchBuffer,
}

impl DataPath {
    /// True if the kernel copies to and from a buffer of each tag.
    pub fn has_buffers(self) -> bool {
        matches!(self, DataPath::Buffer | DataPath::BatchBuffer)
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DataPath::Batch => "batch",
            DataPath::UserCopy => "user-copy",
            DataPath::Buffer => "buffer",
            DataPath::BatchBuffer => "batch-buffer",
        })
    }
}

/// Where the bytes of the disk live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// A file on a tmpfs of the program's own, in this folder, which `add` fills in; its contents
    /// outlive the server and go with the disk.
    Private(PathBuf),
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
            Backing::Private(_) => f.write_str("private"),
            Backing::Memfd => f.write_str("memfd"),
            Backing::Tmpfs(path) => write!(f, "tmpfs:{}", path.display()),
            Backing::Hugetlb => f.write_str("hugetlb"),
        }
    }
}

impl Backing {
    /// The file that holds the contents of device `id`, whether or not it has a server.
    pub fn file(&self, id: u32) -> Option<PathBuf> {
        match self {
            Backing::Private(folder) => Some(folder.join(id.to_string())),
            Backing::Tmpfs(path) => Some(path.clone()),
            Backing::Memfd | Backing::Hugetlb => None,
        }
    }

    /// True if the contents are still there when the server has died.
    pub fn outlives_server(&self) -> bool {
        self.file(0).is_some()
    }
}

/// What becomes of a disk's contents when its server dies, in words.
pub fn fate_of_contents(outlives_server: bool) -> &'static str {
    match outlives_server {
        true => "outlives its server",
        false => "goes with its server",
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

/// A device: the options of `add`, which `sim` shares. [`DeviceConfig::checked`] judges them.
///
/// In a state file an option that is missing has its default: an earlier program did not have it.
#[derive(Args, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceConfig {
    /// Number N of /dev/ublkbN, 0 to 1048575 [default: the first free one]
    #[arg(short = 'n', long, value_name = "N", value_parser = number::<u32>(0, MAX_ID),
        allow_hyphen_values = true)]
    pub id: Option<u32>,
    /// Name of the disk, which commands take in place of its id
    ///
    /// Up to 32 letters, digits, `.`, `_` and `-`, the first a letter or a digit; nothing that reads as an id,
    /// or ends in `-partN`.
    /// No other disk of this program on this machine has it. With the package's udev rule
    /// /dev/ublk-ramdisk/NAME leads to the disk.
    #[arg(long, value_name = "NAME", value_parser = disk_name)]
    pub name: Option<String>,
    /// Size of the disk, a multiple of the block size, such as 512M or 1.5G
    ///
    /// Memory is taken as it is written, not in advance (but see --backing hugetlb). May be left
    /// out when --backing names an existing file, or with --base: its length is the size.
    #[arg(short, long, value_name = "SIZE", default_value = "0", hide_default_value = true,
        value_parser = size, allow_hyphen_values = true)]
    pub size: u64,
    /// Hardware queues, 1 to 4096, each served by a thread of its own
    ///
    /// The kernel lowers the number to its CPUs; that is said on standard error.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = number::<u16>(1, 4096),
        allow_hyphen_values = true)]
    pub queues: u16,
    /// Requests in flight per queue, 1 to 4096
    #[arg(short, long, value_name = "N", default_value_t = 128,
        value_parser = number::<u16>(1, 4096), allow_hyphen_values = true)]
    pub depth: u16,
    /// Logical block size: 512, 1024, 2048 or 4096 bytes
    #[arg(long, value_name = "SIZE", default_value = "512", value_parser = block_size,
        allow_hyphen_values = true)]
    pub block_size: u32,
    /// Physical block size, a power of two from the logical one to 256M
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = physical_block_size,
        allow_hyphen_values = true)]
    pub physical_block_size: u32,
    /// Largest single request, whole pages up to 32M
    #[arg(long, value_name = "SIZE", default_value = "512K", value_parser = io_buffer,
        allow_hyphen_values = true)]
    pub io_buffer: u32,
    /// Refuse every write
    #[arg(long)]
    pub read_only: bool,
    /// Announce a spinning disk; changes a flag in sysfs and nothing else
    #[arg(long)]
    pub rotational: bool,
    /// Announce a volatile write cache: what is not flushed is lost in a `power-cut`
    ///
    /// Flushes then reach the server. What a write overwrites is kept until the next flush, in memory
    /// that counts as used: as much again as is written between two flushes. With --backing memfd and
    /// hugetlb the death of the server ends the disk, with all of that.
    #[arg(long)]
    pub volatile_cache: bool,
    /// Do not look for a partition table
    ///
    /// Kernels before 7.0 look all the same.
    #[arg(long = "no-partition-scan", action = ArgAction::SetFalse)]
    pub partition_scan: bool,
    /// How data travels between kernel and disk memory: auto, batch, user-copy, buffer or
    /// batch-buffer
    ///
    /// batch: batched commands, and copies by the server (Linux 7.0). user-copy: one command per
    /// request, and copies by the server (Linux 6.5). buffer: one command per request; the kernel
    /// copies to a buffer, the server copies on. batch-buffer: batched commands, and copies as with
    /// buffer: quicker than batch for small requests, slower for large ones. A path that is asked for
    /// by name and not there ends with status 3; `auto` takes the best one there is. `features` shows
    /// what this kernel offers.
    #[arg(long, value_name = "PATH", default_value = "auto", value_parser = data_path)]
    pub data_path: ::std::option::Option<DataPath>,
    /// Where the contents live: private, memfd, tmpfs:PATH or hugetlb [default: private, or memfd
    /// where that cannot be had]
    ///
    /// private: a file on a tmpfs that `add` mounts beside the run directory. It outlives the
    /// server, however that dies, is never swapped out where Linux can promise it (6.4), and goes
    /// with `del`. It needs root in the mount namespace of process 1. memfd: anonymous memory, gone
    /// with the server. tmpfs:PATH: a file on a tmpfs such as /dev/shm, made if it does
    /// not exist (and then --size is needed), else opened with its contents; it outlives the server
    /// and is kept when the disk is deleted. Only you may be able to open it: it must be yours,
    /// with mode 0600, and neither a link nor a file with several names. hugetlb: 2 MiB pages from
    /// the kernel's pool (vm.nr_hugepages), gone with the server, all reserved at once unless
    /// --memory-limit allows fewer, and made as they are written; the size must be a multiple of 2M.
    #[arg(long, value_name = "KIND")]
    pub backing: Option<Backing>,
    /// An image that the disk begins with, a file of raw bytes that is only read; `reset` goes back to it
    ///
    /// What is not written is read from the image, so the disk takes memory for what is written to it
    /// alone. The data of the image is kept in the page cache, once for all disks. Nobody may change
    /// the file while there is a disk on it: a new server refuses one that has changed. It must not
    /// lie on the disk itself. The disk may be larger than the image. For --backing private and memfd,
    /// without huge pages; a discard of what the image holds writes zeros, and so takes memory.
    #[arg(long, value_name = "FILE")]
    pub base: Option<Image>,
    /// Transparent huge pages for private, memfd and tmpfs [default: on, as far as the machine has
    /// them for shared memory]
    ///
    /// /sys/kernel/mm/transparent_hugepage/shmem_enabled says when shared memory gets them. A private
    /// disk follows it by default; with `on` it gets them wherever the kernel has any. They are
    /// quicker, and 4 KiB that are written may take 2 MiB.
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    pub thp: Option<bool>,
    /// Make a disk to swap to: all memory is taken before, and nothing that could make a write wait is
    /// allowed
    ///
    /// Swap is written when the machine has no memory left, so such a disk must need none: it takes all
    /// of it at the start, as with --preallocate, and announces no discards, which would give some of
    /// it back. --memory-limit, --reclaim, --rule, --inject, --slots, --mbps, --psi and --data-path buffer are
    /// refused, now and with `set`, and so is --volatile-cache; the contents are in a private store or in hugetlb.
    #[arg(long)]
    pub swap: bool,
    /// Time until a request that the driver keeps counts as late, 1s to 1h
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout,
        allow_hyphen_values = true)]
    pub timeout: u32,
    /// How long clients wait for a new server when one has died, `0` for ever
    ///
    /// With --backing private and tmpfs:PATH a server that dies, whatever it dies of, is started anew;
    /// clients wait, and see no error. After this time the disk is stopped: clients get errors, the
    /// contents are kept. On Linux 6.12, with one queue only, and but for a second crash during
    /// recovery: then `recover` makes the disk anew with its contents.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = recovery_timeout,
        allow_hyphen_values = true)]
    pub recovery_timeout: u32,
    /// Flags of the workqueue that tries refused requests again; for studies
    #[arg(long, value_name = "FLAGS", default_value_t, hide = true)]
    pub kblockd_flags: KblockdFlags,
    /// Time one of N requests, for the latencies in `stats`: a power of two up to 65536, or `off`
    ///
    /// A request that is timed costs two looks at the clock; those that are not are counted all the
    /// same.
    #[arg(long, value_name = "N|off", default_value_t = TIMED_OF, value_parser = latency_sample,
        allow_hyphen_values = true, help_heading = "Seeing it")]
    pub latency_sample: u32,
    /// What refuses, slows down or fails requests.
    #[arg(skip)]
    pub pressure: Settings,
    /// How its memory is made, limited and taken back.
    #[arg(skip)]
    pub space: SpaceConfig,
    /// The folder of the file in which the flushed content of unflushed pages outlives the server; none:
    /// it does not.
    #[arg(skip)]
    pub undo_dir: Option<PathBuf>,
    /// The folder in which what the rules have done outlives the server; none: it does not.
    #[arg(skip)]
    #[serde(skip)]
    pub rules_dir: Option<PathBuf>,
}

impl Default for DeviceConfig {
    /// The defaults of the command line, with no size.
    fn default() -> Self {
        let command =
            DeviceConfig::augment_args(clap::Command::new("defaults").no_binary_name(true));
        let no_words: [&str; 0] = [];
        let parsed = command.try_get_matches_from(no_words);
        let parsed = parsed.and_then(|defaults| DeviceConfig::from_arg_matches(&defaults));
        parsed.expect("every option has a default, or may be left out")
    }
}

// The readers below judge one value alone. Rules between options are in `DeviceConfig::checked`.
fn block_size(text: &str) -> Result<u32, String> {
    match size(text)? {
        bytes @ (512 | 1024 | 2048 | 4096) => Ok(bytes as u32),
        _ => Err("expected 512, 1024, 2048 or 4096".to_owned()),
    }
}

/// Reads the name of a disk.
pub fn disk_name(text: &str) -> Result<String, String> {
    let is_known = |letter: u8| letter.is_ascii_alphanumeric() || b"._-".contains(&letter);
    let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    let number = ["ublkb", "ublkc"]
        .iter()
        .find_map(|node| text.strip_prefix(node));
    let is_id = number
        .unwrap_or(text)
        .bytes()
        .all(|letter| letter.is_ascii_digit());
    // Links to partitions are called so.
    let part = text.rsplit_once("-part");
    let is_part = part.is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if is_part {
        return Err("a name that ends in -partN would be that of a partition".to_owned());
    }
    if begins_well && text.bytes().all(is_known) && text.len() <= MAX_NAME && !is_id {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected up to {MAX_NAME} letters, digits, '.', '_' and '-', the first a letter or a digit, and \
         no id such as 7 or ublkb7"
    ))
}

fn physical_block_size(text: &str) -> Result<u32, String> {
    match size(text)? {
        bytes if bytes.is_power_of_two() && bytes <= MAX_PHYSICAL_BLOCK => Ok(bytes as u32),
        _ => Err("expected a power of two up to 256M".to_owned()),
    }
}

fn io_buffer(text: &str) -> Result<u32, String> {
    match size(text)? {
        // Whole pages are checked later: the page size is a fact of the machine.
        bytes @ 1..=MAX_IO_BUFFER => Ok(bytes as u32),
        _ => Err("expected whole pages, up to 32M".to_owned()),
    }
}

fn data_path(text: &str) -> Result<Option<DataPath>, String> {
    match text {
        "auto" => Ok(None),
        "batch" => Ok(Some(DataPath::Batch)),
        "user-copy" => Ok(Some(DataPath::UserCopy)),
        "buffer" => Ok(Some(DataPath::Buffer)),
        "batch-buffer" => Ok(Some(DataPath::BatchBuffer)),
        // Names of earlier versions: told what to use instead (L1).
        "plain" => Err("plain is called buffer".to_owned()),
        "get-data" => Err("get-data is gone, use user-copy".to_owned()),
        _ => Err("expected auto, batch, user-copy, buffer or batch-buffer".to_owned()),
    }
}

fn timeout(text: &str) -> Result<u32, String> {
    match whole_seconds(text)? {
        seconds @ 1..=MAX_TIMEOUT => Ok(seconds as u32),
        _ => Err(format!("expected 1s to {MAX_TIMEOUT}s")),
    }
}

fn recovery_timeout(text: &str) -> Result<u32, String> {
    match whole_seconds(text)? {
        seconds @ 0..=MAX_RECOVERY_TIMEOUT => Ok(seconds as u32),
        _ => Err(format!("expected 0 to {MAX_RECOVERY_TIMEOUT}s")),
    }
}

/// Reads `--latency-sample`; 0 stands for off.
pub fn latency_sample(text: &str) -> Result<u32, String> {
    if text == "off" {
        return Ok(0);
    }
    number(0, LEAST_TIMED_OF.into())(text)
        .ok()
        .filter(|&of: &u32| of == 0 || of.is_power_of_two())
        .ok_or_else(|| {
            format!("expected a power of two up to {LEAST_TIMED_OF}, 1 for every request, or off")
        })
}

impl FromStr for Backing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            // The folder is known once the run directory is.
            None if text == "private" => Ok(Backing::Private(PathBuf::new())),
            None if text == "memfd" => Ok(Backing::Memfd),
            None if text == "hugetlb" => Ok(Backing::Hugetlb),
            Some(("tmpfs", path)) if !path.is_empty() => Ok(Backing::Tmpfs(path.into())),
            _ => Err("expected private, memfd, tmpfs:PATH or hugetlb".to_owned()),
        }
    }
}

impl DeviceConfig {
    /// Judges what was asked for as a whole; the first rule broken names its options and values.
    pub fn checked(
        self,
        memory: &NewMemoryOptions,
        pressure: &PressureOptions,
        around: Surroundings,
    ) -> Result<DeviceConfig, Failure> {
        self.check_blocks(around.page_size)?;
        if *self.backing() == Backing::Hugetlb && self.thp == Some(true) {
            return Err(Failure::usage(
                "--thp on contradicts --backing hugetlb, whose pages are explicit ones",
            ));
        }
        let size = self.checked_size(around)?;
        let memory = NewMemoryOptions {
            preallocate: memory.preallocate || self.swap,
            ..memory.clone()
        };
        self.check_base(size, memory.preallocate, around.page_size)?;
        let config = DeviceConfig {
            size,
            // As with other large pages.
            thp: self.thp.or(self.base.is_some().then_some(false)),
            space: SpaceConfig::check(&memory, size, self.backing())?,
            pressure: pressure.applied_to(&Settings::default()),
            ..self
        };
        config.check_rules()?;
        Ok(config)
    }

    /// Checks that what is in force, or is going to be, does not contradict itself, for `add`, `set` and
    /// the server.
    pub fn check_rules(&self) -> Result<(), Failure> {
        let settings = &self.pressure;
        settings.check()?;
        if !self.swap {
            return Ok(());
        }
        let option = if *settings != Settings::default() {
            format!("pressure ({settings})")
        } else if self.volatile_cache {
            "--volatile-cache, which keeps what is overwritten,".to_owned()
        } else if self.space.memory_limit > 0 {
            format!("--memory-limit {}", self.space.memory_limit)
        } else if let Some(path) = self.data_path.filter(|path| path.has_buffers()) {
            format!("--data-path {path}, whose buffers take memory when they are used,")
        } else if !matches!(
            self.backing,
            None | Some(Backing::Private(_) | Backing::Hugetlb)
        ) {
            format!("--backing {}, which may be swapped,", self.backing())
        } else {
            return Ok(());
        };
        Err(Failure::usage(format!(
            "{option} contradicts --swap: a disk to swap to must never wait for memory"
        )))
    }

    /// Where the contents live. What is left open is memfd: `add` takes a private store if it can.
    pub fn backing(&self) -> &Backing {
        self.backing.as_ref().unwrap_or(&Backing::Memfd)
    }

    /// True if the memory is to be in transparent huge pages.
    pub fn huge_pages(&self) -> bool {
        self.thp.unwrap_or(*self.backing() != Backing::Hugetlb)
    }

    /// A store over an image holds what was written, and nothing else.
    fn check_base(&self, size: u64, preallocate: bool, page: u64) -> Result<(), Failure> {
        let Some(base) = &self.base else {
            return Ok(());
        };
        // A larger page that is made for a part of it would hide what the image has for the rest.
        if page != 4096 {
            return Err(Failure::environment(format!(
                "--base needs pages of 4096 bytes, and this machine has pages of {page}"
            )));
        }
        let option = match self.backing() {
            Backing::Tmpfs(_) | Backing::Hugetlb => format!("--backing {}", self.backing()),
            _ if self.swap => "--swap".to_owned(),
            _ if preallocate => "--preallocate".to_owned(),
            _ if self.thp == Some(true) => "--thp on".to_owned(),
            _ => return check_over(base, size),
        };
        Err(Failure::usage(format!(
            "{option} contradicts --base, whose disk has memory for what is written to it alone: leave \
             one of them out"
        )))
    }

    /// `page` is that of the machine, in bytes.
    fn check_blocks(&self, page: u64) -> Result<(), Failure> {
        if self.physical_block_size < self.block_size {
            return Err(Failure::usage(format!(
                "--physical-block-size {} is smaller than --block-size {}",
                self.physical_block_size, self.block_size
            )));
        }
        if !u64::from(self.io_buffer).is_multiple_of(page) {
            return Err(Failure::usage(format!(
                "--io-buffer {} is not a multiple of the page size, {page} bytes",
                self.io_buffer
            )));
        }
        Ok(())
    }

    /// The size in bytes: as typed, or that of a backing file, which must not be changed by the way.
    fn checked_size(&self, around: Surroundings) -> Result<u64, Failure> {
        let of_image = |base: &Image| base.length().next_multiple_of(self.block_size.into());
        let size = match (self.size, around.backing_length) {
            (0, None) if self.base.is_some() => self.base.as_ref().map_or(0, of_image),
            (0, Some(length)) => length,
            (0, None) => {
                return Err(Failure::usage(
                    "--size is missing, or 0: give the size of the disk, such as --size 1G",
                ))
            }
            (size, Some(length)) if size != length => {
                return Err(Failure::usage(format!(
                    "--size {size} differs from the length of {}, {length} bytes; leave --size out \
                     to use the file as it is",
                    self.backing()
                )))
            }
            (size, _) => size,
        };
        // A complaint names what the size came from.
        let named = match self.size {
            0 => format!("the length of {},", self.backing()),
            _ => "--size".to_owned(),
        };
        check_bytes(&named, size, self.block_size.into())?;
        if *self.backing() == Backing::Hugetlb && !size.is_multiple_of(HUGE_PAGE) {
            return Err(Failure::usage(format!(
                "--size {size} is not a multiple of {HUGE_PAGE} bytes (2 MiB), as --backing \
                 hugetlb needs"
            )));
        }
        Ok(size)
    }
}

/// Checks that a disk of this size has room for its image, for `add` and `resize`.
pub fn check_over(base: &Image, size: u64) -> Result<(), Failure> {
    if size >= base.length() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "a disk of {} is smaller than its image {}, {} bytes",
        Size(size),
        base.path.display(),
        base.length()
    )))
}

/// Checks the size of a disk with this block size, for `add` and `resize`.
pub fn check_bytes(option: &str, bytes: u64, block_size: u64) -> Result<u64, Failure> {
    if bytes == 0 {
        return Err(Failure::usage(format!(
            "{option} 0: a disk needs at least one block of {block_size} bytes"
        )));
    }
    if bytes > MAX_SIZE {
        return Err(Failure::usage(format!(
            "{option} {bytes} is 2^63 bytes (8 EiB) or more: no file is that long"
        )));
    }
    if !bytes.is_multiple_of(block_size) {
        return Err(Failure::usage(format!(
            "{option} {bytes} is not a multiple of the block size, {block_size} bytes"
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
