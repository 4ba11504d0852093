// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holding a device still: quiesce, after which no queue_rq runs, and freeze, after which there is
//! no request at all (C25, C26). Both nest. Kernel counterparts: `blk_mq_quiesce_queue`,
//! `blk_mq_freeze_queue`.

use super::hctx_state::{Bit, FROZEN, QUIESCED, STOPPED};
use super::queue::Queue;

/// A freeze that could not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hctx {hctx} has requests waiting and may not run: a freeze would wait for ever; unquiesce or start it first")]
pub struct WouldDeadlock {
    /// The hardware queue.
    pub hctx: u16,
}

impl Queue {
    fn set_all(&self, bit: Bit) {
        for hctx in self.hctxs() {
            hctx.state.set(bit);
        }
    }

    fn clear_all(&self, bit: Bit) {
        for hctx in self.hctxs() {
            hctx.state.clear(bit);
        }
    }

    /// Returns when every queue_rq in progress has returned; from then until it is undone as often,
    /// none is called. Completions go on. Not to be called from queue_rq.
    pub fn quiesce(&self) {
        {
            let mut depths = self.inner.depths.lock();
            depths.quiesce += 1;
            if depths.quiesce == 1 {
                self.set_all(QUIESCED);
            }
        }
        let silent = || self.hctxs().iter().all(|hctx| hctx.state.issuing() == 0);
        // guard: c25_wait
        self.inner.changed.wait_until(silent);
    }

    /// Undoes one [`Queue::quiesce`]; the last one runs every hardware queue.
    pub fn unquiesce(&self) {
        {
            let mut depths = self.inner.depths.lock();
            assert!(depths.quiesce > 0, "a queue that is not quiesced");
            depths.quiesce -= 1;
            if depths.quiesce > 0 {
                return;
            }
            self.clear_all(QUIESCED);
        }
        self.run_hw_queues(true);
    }

    /// Takes no arrival in any more, and returns when every request has ended, also those that wait
    /// on any list. Arrivals wait outside. Refused if something waits that may not run.
    pub fn freeze(&self) -> Result<(), WouldDeadlock> {
        {
            let mut depths = self.inner.depths.lock();
            if let Some(hctx) = self.find_stuck(depths.quiesce > 0) {
                return Err(WouldDeadlock { hctx });
            }
            depths.freeze += 1;
            if depths.freeze == 1 {
                self.set_all(FROZEN);
            }
        }
        // No arrival will run what is listed any more (W20).
        // guard: w20_run
        self.kick_requeue_list();
        self.run_hw_queues(false);
        let empty = || self.hctxs().iter().all(|hctx| hctx.state.usage() == 0);
        self.inner.changed.wait_until(empty);
        Ok(())
    }

    /// Returns a queue whose requests wait and may not run: a freeze would never end.
    fn find_stuck(&self, quiesced: bool) -> Option<u16> {
        let requeued = self.inner.requeue.lock().len() > 0;
        let stuck = self.hctxs().iter().find(|hctx| {
            let waiting = hctx.has_pending() || (requeued && hctx.state.usage() > 0);
            waiting && (quiesced || hctx.state.has(STOPPED))
        });
        stuck.map(|hctx| hctx.index)
    }

    /// Undoes one [`Queue::freeze`]; the last one lets in who waits outside.
    pub fn unfreeze(&self) {
        {
            let mut depths = self.inner.depths.lock();
            assert!(depths.freeze > 0, "a queue that is not frozen");
            depths.freeze -= 1;
            if depths.freeze > 0 {
                return;
            }
            self.clear_all(FROZEN);
        }
        for hctx in self.hctxs() {
            self.admit_thawed(hctx);
        }
    }
}
