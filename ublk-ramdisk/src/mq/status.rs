// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a request can end, and why a driver may refuse it. Kernel counterpart: `blk_status_t` with
//! its table of errnos and names. OK is Rust's `Ok`; only what is not OK is a [`Status`].

use std::fmt;
use std::str::FromStr;

/// What is not OK (B1). The number is the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// Unknown operation.
    NotSupp = 1,
    /// The timeout handler gave up.
    Timeout = 2,
    /// No room, and none to be expected.
    NoSpc = 3,
    /// The way to the medium is broken.
    Transport = 4,
    /// The medium's controller failed.
    Target = 5,
    /// Reserved by another initiator.
    ResvConflict = 6,
    /// The medium failed.
    Medium = 7,
    /// The data does not match its integrity metadata.
    Protection = 8,
    /// Not now: lacks something that no end of a request gives back. The mirror runs the queue
    /// again. Never a final result (B6).
    Resource = 9,
    /// Out of range, write to a read-only disk, or the copy failed.
    IoErr = 10,
    /// Would have to wait, and must not. Never a final result (B6).
    Again = 12,
    /// Not now: lacks something that the driver gives back, which owes the re-run. Never a final
    /// result (B6).
    DevResource = 13,
    /// Too many open zones.
    ZoneOpen = 14,
    /// Too many active zones.
    ZoneActive = 15,
    /// The device is going away.
    Offline = 16,
    /// The request's own time limit has passed.
    DurationLimit = 17,
    /// Not a multiple of the logical block, or larger than the limit.
    Inval = 19,
}

/// Number, name and errno of each, in the order of the numbers.
const TABLE: &[(Status, &str, i32)] = &[
    (Status::NotSupp, "NOTSUPP", libc::EOPNOTSUPP),
    (Status::Timeout, "TIMEOUT", libc::ETIMEDOUT),
    (Status::NoSpc, "NOSPC", libc::ENOSPC),
    (Status::Transport, "TRANSPORT", libc::ENOLINK),
    (Status::Target, "TARGET", libc::EREMOTEIO),
    (Status::ResvConflict, "RESV_CONFLICT", libc::EBADE),
    (Status::Medium, "MEDIUM", libc::ENODATA),
    (Status::Protection, "PROTECTION", libc::EILSEQ),
    (Status::Resource, "RESOURCE", libc::ENOMEM),
    (Status::IoErr, "IOERR", libc::EIO),
    (Status::Again, "AGAIN", libc::EAGAIN),
    (Status::DevResource, "DEV_RESOURCE", libc::EBUSY),
    (Status::ZoneOpen, "ZONE_OPEN", libc::ETOOMANYREFS),
    (Status::ZoneActive, "ZONE_ACTIVE", libc::EOVERFLOW),
    (Status::Offline, "OFFLINE", libc::ENODEV),
    (Status::DurationLimit, "DURATION_LIMIT", libc::ETIME),
    (Status::Inval, "INVAL", libc::EINVAL),
];

impl Status {
    /// All of them, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Status> {
        TABLE.iter().map(|&(status, ..)| status)
    }

    /// The kernel's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The positive errno the block layer knows it by.
    pub fn errno(self) -> i32 {
        self.row().2
    }

    /// The name, without the kernel's prefix.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// True if a client may be given it as the result of a request. The block layer retries none of
    /// the others: the application would get the errno after one try (B6).
    pub fn may_be_final(self) -> bool {
        !matches!(self, Self::Resource | Self::DevResource | Self::Again)
    }

    fn row(self) -> &'static (Status, &'static str, i32) {
        let found = TABLE.iter().find(|row| row.0 == self);
        found.expect("every status has a row: see the test below")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no status.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a block status; the names are those of the kernel without the prefix, such as IOERR")]
pub struct UnknownStatus(String);

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        let row = TABLE.iter().find(|row| row.1 == text);
        row.map(|row| row.0)
            .ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_every_status_has_the_number_and_errno_of_the_block_layer() {
        let expected = [
            (1, 95),
            (2, 110),
            (3, 28),
            (4, 67),
            (5, 121),
            (6, 52),
            (7, 61),
            (8, 84),
            (9, 12),
            (10, 5),
            (12, 11),
            (13, 16),
            (14, 109),
            (15, 75),
            (16, 19),
            (17, 62),
            (19, 22),
        ];
        let found: Vec<_> = Status::all().map(|s| (s.number(), s.errno())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn b1_names_are_printed_and_accepted() {
        for status in Status::all() {
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        assert_eq!(Status::DevResource.to_string(), "DEV_RESOURCE");
        assert_eq!("IOERR".parse(), Ok(Status::IoErr));
        for wrong in ["BLK_STS_IOERR", "ioerr", ""] {
            assert!(wrong.parse::<Status>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn b6_what_may_be_final_never_has_a_busy_errno() {
        for status in Status::all().filter(|s| s.may_be_final()) {
            assert!(![libc::ENOMEM, libc::EBUSY, libc::EAGAIN].contains(&status.errno()));
        }
        assert_eq!(Status::all().filter(|s| !s.may_be_final()).count(), 3);
    }
}
