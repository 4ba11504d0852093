// SPDX-License-Identifier: MIT OR Apache-2.0
//! The features a ublk driver can offer, by bit, and what each gives a RAM disk. The driver is always
//! asked which it has (`GET_FEATURES`): nothing is concluded from a version number. The versions here
//! are for messages.

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
    /// The disk waits for a new server when its server is gone.
    pub const USER_RECOVERY: u64 = 1 << 3;
    /// So do the requests that were with the server.
    pub const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    /// A clean hand-over to a new server. A driver that has it can also be recovered on several queues.
    pub const QUIESCE: u64 = 1 << 12;
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

/// By bit from 0 on: the kernel's name, the first kernel with it, and what it gives.
const TABLE: &str = "\
SUPPORT_ZERO_COPY       6.15  request pages as a fixed buffer; not used: the data must be kept
URING_CMD_COMP_IN_TASK  6.0   nothing; always on in new kernels
NEED_GET_DATA           6.0   the server names late where a WRITE's data goes; not used
USER_RECOVERY           6.1   the disk survives its server
USER_RECOVERY_REISSUE   6.1   in-flight I/O survives too
UNPRIVILEGED_DEV        6.3   devices without root; not used yet
CMD_IOCTL_ENCODE        6.4   the command form this program speaks
USER_COPY               6.5   data path user-copy: one copy by any thread, scattered
ZONED                   6.6   zoned disks; not used
USER_RECOVERY_FAIL_IO   6.13  errors instead of hangs while the server is gone; not used yet
UPDATE_SIZE             6.16  resize while the disk is used
AUTO_BUF_REG            6.16  as SUPPORT_ZERO_COPY with fewer commands; not used
QUIESCE                 6.16  sign that several queues can be recovered; no use otherwise
PER_IO_DAEMON           6.16  tags of one queue spread over threads; not used
BUF_REG_OFF_DAEMON      6.17  buffer registration by other threads; not used
BATCH_IO                7.0   data paths batch and batch-buffer: many requests per command
INTEGRITY               7.0   metadata per block; not used
SAFE_STOP_DEV           7.0   stop only what nobody has opened, without a race
NO_AUTO_PART_SCAN       7.0   --no-partition-scan
SHMEM_ZC                7.1   no kernel copy for cooperating clients; not used";

/// Every feature known to this program, lowest bit first.
pub fn features() -> impl Iterator<Item = Feature> {
    TABLE.lines().zip(0..).filter_map(|(line, bit)| {
        let (name, rest) = line.split_once(' ')?;
        let (since, gives) = rest.trim_start().split_once(' ')?;
        Some(Feature {
            bit,
            name,
            since,
            gives: gives.trim_start(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_that_is_used_has_its_name_in_the_table() {
        assert_eq!(features().count(), TABLE.lines().count());
        for (name, bits) in [
            ("CMD_IOCTL_ENCODE", Features::CMD_IOCTL_ENCODE),
            ("USER_RECOVERY", Features::USER_RECOVERY),
            ("USER_RECOVERY_REISSUE", Features::USER_RECOVERY_REISSUE),
            ("QUIESCE", Features::QUIESCE),
            ("USER_COPY", Features::USER_COPY),
            ("UPDATE_SIZE", Features::UPDATE_SIZE),
            ("BATCH_IO", Features::BATCH_IO),
            ("SAFE_STOP_DEV", Features::SAFE_STOP_DEV),
            ("NO_AUTO_PART_SCAN", Features::NO_AUTO_PART_SCAN),
        ] {
            let found = features().find(|feature| feature.name == name);
            assert_eq!(found.map(|feature| 1 << feature.bit), Some(bits), "{name}");
        }
    }
}
