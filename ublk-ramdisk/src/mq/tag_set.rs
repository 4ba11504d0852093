// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shape of a device's queues, and its checks. Kernel counterpart: `struct blk_mq_tag_set` with
//! the checks of `blk_mq_alloc_tag_set`.

use super::status::Status;
use std::io;
use std::time::Duration;
use workqueue::CpuSet;

/// The deepest queue that ublk has.
pub const MAX_DEPTH: u16 = 4096;
/// The most software queues of one hardware queue: the map of them is one word.
const MAX_CTXS: u16 = 64;

/// The shape of a device's queues. The kernel may give a device fewer queues than were asked for:
/// fill this from what ADD_DEV hands back (A2).
#[derive(Clone, Debug)]
pub struct TagSet {
    /// Hardware queues, at least 1.
    pub nr_hw_queues: u16,
    /// Tags of each, 1 to [`MAX_DEPTH`].
    pub queue_depth: u16,
    /// Tags at the low end of each queue that its users keep for themselves; fewer than the depth.
    pub reserved_tags: u16,
    /// How long a driver may keep a request before it is asked about it.
    pub timeout: Duration,
    /// Software queues of each hardware queue: threads that take requests in, 1 to 64.
    pub nr_ctxs: u16,
    /// How soon a queue is run again after RESOURCE, from the second time on
    /// (`BLK_MQ_RESOURCE_DELAY`).
    pub rerun_delay: Duration,
    /// Which kernel's rules the queues follow.
    pub rules: Rules,
    /// A request whose queue_rq panics ends with IOERR, and the others are served (C25). Else the panic
    /// goes on in the thread that issued it, and the request never ends.
    pub catch_panics: bool,
    /// By hardware queue, the CPUs whose requests it gets. An empty set, or none at all, stands for
    /// any CPU.
    pub cpus: Vec<CpuSet>,
}

/// Which kernel's rules a hardware queue follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rules {
    /// Those of 7.2: C1 to C20.
    #[default]
    Linux7,
    /// Those of the first multi-queue kernels: M1 to M3.
    Linux3,
}

impl TagSet {
    /// Makes a set of `nr_hw_queues` queues of `queue_depth` tags, with a timeout of 30 s, one ctx and
    /// a rerun delay of 3 ms.
    pub fn new(nr_hw_queues: u16, queue_depth: u16) -> Self {
        Self {
            nr_hw_queues,
            queue_depth,
            reserved_tags: 0,
            timeout: Duration::from_secs(30),
            nr_ctxs: 1,
            rerun_delay: Duration::from_millis(3),
            rules: Rules::Linux7,
            catch_panics: false,
            cpus: Vec::new(),
        }
    }

    /// Returns the first reason why no queues can be made from it (A1).
    pub fn check(&self) -> Result<(), TagSetError> {
        if self.nr_hw_queues == 0 {
            return Err(TagSetError::NoQueues);
        }
        if !(1..=MAX_DEPTH).contains(&self.queue_depth) {
            return Err(TagSetError::Depth(self.queue_depth));
        }
        if self.reserved_tags >= self.queue_depth {
            return Err(TagSetError::Reserved {
                reserved: self.reserved_tags,
                depth: self.queue_depth,
            });
        }
        if !(1..=MAX_CTXS).contains(&self.nr_ctxs) {
            return Err(TagSetError::Ctxs(self.nr_ctxs));
        }
        Ok(())
    }
}

/// Why a tag set cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagSetError {
    /// No hardware queue.
    #[error("a device needs at least one hardware queue")]
    NoQueues,
    /// The depth is out of range.
    #[error("queue depth {0} is outside 1..=4096")]
    Depth(u16),
    /// No tag is left.
    #[error("{reserved} reserved tags leave none of {depth}")]
    Reserved {
        /// Tags to be reserved.
        reserved: u16,
        /// Tags there are.
        depth: u16,
    },
    /// The number of software queues is out of range.
    #[error("{0} software queues per hardware queue are outside 1..=64")]
    Ctxs(u16),
    /// The driver could not set up a hardware queue; those set up before have been undone.
    #[error("the driver could not set up hardware queue {hctx}: {status}")]
    Init {
        /// Which.
        hctx: u16,
        /// Its error.
        status: Status,
    },
}

impl From<TagSetError> for io::Error {
    fn from(error: TagSetError) -> Self {
        let kind = match error {
            TagSetError::Init { .. } => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a01_what_cannot_be_is_refused_as_invalid_input() {
        let good = TagSet::new(1, 4096);
        assert_eq!(good.check(), Ok(()));
        let bad = [
            TagSet::new(0, 1),
            TagSet::new(1, 0),
            TagSet::new(1, 4097),
            TagSet {
                reserved_tags: 1,
                ..TagSet::new(1, 1)
            },
            TagSet {
                nr_ctxs: 0,
                ..good.clone()
            },
            TagSet {
                nr_ctxs: 65,
                ..good
            },
        ];
        for set in bad {
            let error = set.check().unwrap_err();
            assert_eq!(
                io::Error::from(error).kind(),
                io::ErrorKind::InvalidInput,
                "{set:?}"
            );
        }
    }
}
