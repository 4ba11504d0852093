// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding pools: by the number in an item's state word, and by what an unbound queue asks for.
//!
//! Kernel counterparts: `worker_pool_idr`, `unbound_pool_hash`, `get_unbound_pool`.

use super::worker::create_worker;
use super::{manager, Pool, PoolKey, PoolKind};
use crate::runtime::RuntimeInner;
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::Mutex;
use crate::wq::attrs::Attrs;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Once, PoisonError, RwLock, RwLockWriteGuard};

/// All pools of the process by number. Numbers of pools that are gone are used again; an item that
/// still names one finds a pool that knows nothing of it, or none.
static POOLS: RwLock<Vec<Option<Arc<Pool>>>> = RwLock::new(Vec::new());

type Table = RwLockWriteGuard<'static, Vec<Option<Arc<Pool>>>>;

thread_local! {
    /// The table, while the thread forks: a child must not find it held by a thread it has not.
    static FORKING: RefCell<Option<Table>> = const { RefCell::new(None) };
}

/// Takes the table to change it. Short: forks wait for it.
pub(crate) fn hold() -> Table {
    POOLS.write().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn before_fork() {
    // A thread that is being torn down takes the risk.
    let _torn_down = FORKING.try_with(|table| *table.borrow_mut() = Some(hold()));
}

extern "C" fn after_fork() {
    let _torn_down = FORKING.try_with(|table| *table.borrow_mut() = None);
}

/// The pool of this number.
pub(crate) fn lookup(id: u32) -> Option<Arc<Pool>> {
    POOLS
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(id as usize)?
        .clone()
}

/// Makes a pool under the lowest free number.
pub(crate) fn create(kind: PoolKind, nice: i32, rt: &Arc<RuntimeInner>) -> Arc<Pool> {
    static WATCH_FORKS: Once = Once::new();
    WATCH_FORKS.call_once(|| cpu::around_forks(before_fork, after_fork));
    let mut pools = hold();
    let at = pools
        .iter()
        .position(Option::is_none)
        .unwrap_or(pools.len());
    let id = u32::try_from(at).expect("fewer pools than memory could hold");
    let pool = Arc::new(Pool::new(id, kind, nice, rt.clone()));
    if at == pools.len() {
        pools.push(Some(pool.clone()));
    } else {
        pools[at] = Some(pool.clone());
    }
    pool
}

/// Gives a pool's number up. Its threads have gone.
pub(crate) fn forget(pool: &Pool) {
    let gone = hold()[pool.id as usize].take();
    drop(gone);
}

/// The unbound pools of a runtime, each with the number of pwqs that use it.
#[derive(Debug, Default)]
pub(crate) struct UnboundPools {
    by_key: Mutex<HashMap<PoolKey, (Arc<Pool>, usize)>>, // P
}

impl UnboundPools {
    /// A pool for `key`, shared with whoever asks for the same. A new pool gets its first worker
    /// if the runtime is started. The caller owes a `put`.
    pub(crate) fn get(&self, rt: &Arc<RuntimeInner>, key: PoolKey) -> Result<Arc<Pool>, i32> {
        let mut by_key = self.by_key.lock();
        if let Some((pool, users)) = by_key.get_mut(&key) {
            *users += 1;
            return Ok(pool.clone());
        }
        let node = rt.topology().node_of_all(&key.pod);
        let pool = create(
            PoolKind::Unbound {
                key: key.clone(),
                node,
            },
            key.nice,
            rt,
        );
        if rt.is_online() {
            if let Err(e) = create_worker(&pool, 1) {
                forget(&pool);
                return Err(e.errno());
            }
        }
        by_key.insert(key, (pool.clone(), 1));
        Ok(pool)
    }

    /// One user less; the last one stops the pool's threads.
    /// # Context: no lock of the crate held, not on a worker of this pool.
    pub(crate) fn put(&self, pool: &Arc<Pool>) {
        let PoolKind::Unbound { key, .. } = &pool.kind else {
            return;
        };
        {
            let mut by_key = self.by_key.lock();
            let (_, users) = by_key.get_mut(key).expect("a pool in use is registered");
            *users -= 1;
            if *users > 0 {
                return;
            }
            by_key.remove(key);
        }
        manager::stop(pool);
        forget(pool);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Pool>> {
        let pools = self.all_with_users().into_iter();
        pools.map(|(pool, _)| pool).collect()
    }

    /// All pools by number, each with how many pwqs use it.
    pub(crate) fn all_with_users(&self) -> Vec<(Arc<Pool>, usize)> {
        let mut pools: Vec<_> = self.by_key.lock().values().cloned().collect();
        pools.sort_by_key(|(pool, _)| pool.id);
        pools
    }
}

/// What `attrs` ask for on `cpu`, or for the default pwq if None, while unbound queues may use
/// `unbound` and `online` are the CPUs in use.
pub(crate) fn key_for(
    rt: &RuntimeInner,
    attrs: &Attrs,
    cpu: Option<usize>,
    unbound: &CpuSet,
    online: &CpuSet,
) -> PoolKey {
    let mask = attrs.effective_mask(unbound);
    let scope = attrs.scope.unwrap_or_else(|| rt.default_scope());
    let pod = cpu
        .map(|c| rt.topology().pod_of(c, scope).and(&mask))
        .filter(|pod| pod.intersects(online));
    let pod = pod.unwrap_or_else(|| mask.clone());
    let mask = if attrs.strict { pod.clone() } else { mask };
    PoolKey {
        nice: attrs.nice,
        strict: attrs.strict,
        pod,
        mask,
    }
}
