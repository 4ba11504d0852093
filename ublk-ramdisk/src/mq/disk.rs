// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a transport asks of a disk apart from its requests. The driver below the mirror answers.
//! Kernel counterpart: `struct gendisk` with `get_capacity`.

use super::operations::Operations;
use super::request::Request;

/// A driver whose requests have offsets.
pub trait Disk: Operations {
    /// Size of the disk in bytes, as it is now.
    fn capacity(&self) -> u64;

    /// Would this request have to wait for memory that the disk does not hold yet? An answer of the
    /// moment.
    fn needs_memory(&self, _request: &Request) -> bool {
        false
    }
}
