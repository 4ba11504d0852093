// SPDX-License-Identifier: MIT OR Apache-2.0
//! The features a ublk driver can offer, by bit, and what each is worth to a
//! RAM disk. Which are there is always asked of the driver (`GET_FEATURES`),
//! never concluded from a version number; the versions here are for messages.

/// A set of feature bits, as `GET_FEATURES` and `ADD_DEV` return it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

/// One feature of the driver.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// Bit number in the feature word.
    pub bit: u8,
    /// Kernel name without `UBLK_F_`.
    pub name: &'static str,
    /// First kernel that has it, for messages only.
    pub since: &'static str,
    /// What it gives a RAM disk.
    pub gives: &'static str,
}

impl Features {
    /// Any thread copies by pread and pwrite on /dev/ublkcN.
    pub const USER_COPY: u64 = 1 << 7;
    /// The disk can be resized while it is used.
    pub const UPDATE_SIZE: u64 = 1 << 10;
    /// One command fetches or commits many tags, from any task.
    pub const BATCH_IO: u64 = 1 << 15;
    /// `TRY_STOP_DEV`: stop only what nobody has opened.
    pub const SAFE_STOP_DEV: u64 = 1 << 17;
    /// No partition scan when the disk appears.
    pub const NO_AUTO_PART_SCAN: u64 = 1 << 18;
    /// Commands are ioctl-encoded. Set by every driver this server talks to.
    pub const CMD_IOCTL_ENCODE: u64 = 1 << 6;

    /// Are all of `bits` in the set?
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }
}

/// Every feature known to this program, lowest bit first.
pub const FEATURES: &[Feature] = &[
    feature(
        0,
        "SUPPORT_ZERO_COPY",
        "6.15",
        "request pages as a fixed buffer; not used: the data must land in the store once",
    ),
    feature(
        1,
        "URING_CMD_COMP_IN_TASK",
        "6.0",
        "nothing; always on in new kernels",
    ),
    feature(
        2,
        "NEED_GET_DATA",
        "6.0",
        "the server names late where a WRITE's data goes; not used",
    ),
    feature(
        3,
        "USER_RECOVERY",
        "6.1",
        "the disk survives its server; not used yet",
    ),
    feature(
        4,
        "USER_RECOVERY_REISSUE",
        "6.1",
        "in-flight I/O survives too; not used yet",
    ),
    feature(
        5,
        "UNPRIVILEGED_DEV",
        "6.3",
        "devices without root; not used yet",
    ),
    feature(
        6,
        "CMD_IOCTL_ENCODE",
        "6.4",
        "the command form this program speaks",
    ),
    feature(
        7,
        "USER_COPY",
        "6.5",
        "data path user-copy: one copy by any thread, scattered",
    ),
    feature(8, "ZONED", "6.6", "zoned disks; not used"),
    feature(
        9,
        "USER_RECOVERY_FAIL_IO",
        "6.13",
        "errors instead of hangs while the server is gone; not used yet",
    ),
    feature(10, "UPDATE_SIZE", "6.16", "resize while the disk is used"),
    feature(
        11,
        "AUTO_BUF_REG",
        "6.16",
        "as SUPPORT_ZERO_COPY with fewer commands; not used",
    ),
    feature(
        12,
        "QUIESCE",
        "6.16",
        "clean hand-over to a new server; not used yet",
    ),
    feature(
        13,
        "PER_IO_DAEMON",
        "6.16",
        "tags of one queue spread over threads; not used",
    ),
    feature(
        14,
        "BUF_REG_OFF_DAEMON",
        "6.17",
        "buffer registration by other threads; not used",
    ),
    feature(
        15,
        "BATCH_IO",
        "7.0",
        "data path batch: many requests per command",
    ),
    feature(16, "INTEGRITY", "7.0", "metadata per block; not used"),
    feature(
        17,
        "SAFE_STOP_DEV",
        "7.0",
        "stop only what nobody has opened, without a race",
    ),
    feature(18, "NO_AUTO_PART_SCAN", "7.0", "--no-partition-scan"),
    feature(
        19,
        "SHMEM_ZC",
        "7.1",
        "no kernel copy for cooperating clients; not used",
    ),
];

const fn feature(bit: u8, name: &'static str, since: &'static str, gives: &'static str) -> Feature {
    Feature {
        bit,
        name,
        since,
        gives,
    }
}
