// SPDX-License-Identifier: MIT OR Apache-2.0
//! Brings a woken worker back into its pod.
//!
//! The workers of an unbound pool that is not strict may run anywhere in the queue's mask, yet
//! should begin inside the pod. User space cannot tell the scheduler where to wake a thread, so the
//! woken thread looks where it is and moves itself ([`super::worker`] calls). Kernel counterpart:
//! the repatriation in `kick_pool`.

use super::{Pool, PoolKind, PoolState};
use crate::sys::cpu;

/// Asked by a worker that was woken: did I wake outside my pod? If so it is inside now, at least
/// for the moment, and may go anywhere in the mask from here on.
/// # Context: no lock of the crate held; on a worker of the pool.
pub(crate) fn return_to_pod(pool: &Pool) -> bool {
    let PoolKind::Unbound { key, .. } = &pool.kind else {
        return false;
    };
    // Made-up CPUs bind nobody, so nobody is outside.
    if key.strict || pool.rt.cpus.is_simulated() || key.pod.contains(cpu::current_cpu()) {
        return false;
    }
    // Refused if none of the pod's CPUs may be used at present: then there is no way back.
    let moved = pool.rt.try_bind_current(&key.pod);
    pool.rt.bind_current(&pool.affinity);
    moved
}

/// The worker has returned to its pod and is about to take the first item.
/// # Context: the pool's lock held.
pub(crate) fn count_return(st: &mut PoolState) {
    let first = st.worklist.front().map(|work| work.pwq());
    if let Some(number) = first {
        st.pwqs.get_mut(number).stats.repatriated += 1;
    }
}
