// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the timers of pressure share while a device lives.

use std::sync::Arc;

use workqueue::OwnedQueue;

use super::clock::Clock;
use crate::mq::{Queue, WeakQueue};

/// What a timer of pressure needs. Given to it when the device starts.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) wq: Arc<OwnedQueue>,
    pub(super) clock: Clock,
    pub(super) queue: WeakQueue,
}

impl Life {
    pub(super) fn new(wq: &Arc<OwnedQueue>, clock: Clock, queue: &Queue) -> Self {
        Self {
            wq: wq.clone(),
            clock,
            queue: queue.downgrade(),
        }
    }
}
