// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a request can end. Kernel counterpart: `blk_status_t` and its errno map.

/// The outcome of a request that did not succeed (B1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Unknown operation.
    NotSupp,
    /// No room, and none to be expected.
    NoSpc,
    /// Out of range, write to a read-only disk, or the copy failed.
    IoErr,
    /// Not a multiple of the logical block, or larger than the limit.
    Inval,
}

impl Status {
    /// The positive errno that the client gets.
    pub fn errno(self) -> i32 {
        match self {
            Status::NotSupp => libc::EOPNOTSUPP,
            Status::NoSpc => libc::ENOSPC,
            Status::IoErr => libc::EIO,
            Status::Inval => libc::EINVAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn b1_every_status_has_the_errno_of_the_block_layer() {
        let pairs = [
            (Status::NotSupp, 95),
            (Status::NoSpc, 28),
            (Status::IoErr, 5),
            (Status::Inval, 22),
        ];
        for (status, errno) in pairs {
            assert_eq!(status.errno(), errno, "{status:?}");
        }
    }

    #[test]
    fn b6_no_status_maps_to_a_busy_errno() {
        for status in [Status::NotSupp, Status::NoSpc, Status::IoErr, Status::Inval] {
            assert!(![libc::ENOMEM, libc::EBUSY, libc::EAGAIN].contains(&status.errno()));
        }
    }
}
