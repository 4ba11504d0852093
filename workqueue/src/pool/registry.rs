// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding pools: by the number in an item's state word, and by what an unbound queue asks for.
//!
//! Kernel counterparts: `worker_pool_idr`, `unbound_pool_hash`, `get_unbound_pool`.

use super::worker::create_worker;
use super::{manager, Pool, PoolKey, PoolKind};
use crate::env::Env;
use crate::runtime::directory::Directory;
use crate::sys::cpu;
use crate::sys::cpuset::CpuSet;
use crate::sys::sync::Mutex;
use crate::wq::attrs::Attrs;
use std::cell::RefCell;
use std::sync::{Arc, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// All pools of the process by number. Numbers of removed pools are used again. An item that still
/// names one finds a pool without that item, or none.
static POOLS: RwLock<Vec<Option<Arc<Pool>>>> = RwLock::new(Vec::new());

/// Held while the process's runtime is made.
static MAKING: Mutex<()> = Mutex::new(());

type Table = RwLockWriteGuard<'static, Vec<Option<Arc<Pool>>>>;

thread_local! {
    /// What the thread that forks holds: in the child no other thread exists to release it.
    static FORKING: RefCell<Option<(MutexGuard<'static, ()>, Table)>> =
        const { RefCell::new(None) };
}

/// Locks the table to change it. Held for a short time only, as forks wait for it.
pub(crate) fn lock_table() -> Table {
    POOLS.write().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn before_fork() {
    // A thread that is being torn down forks without the lock.
    let _ignored = FORKING.try_with(|held| held.replace(Some((MAKING.lock(), lock_table()))));
}

extern "C" fn after_fork() {
    let _ignored = FORKING.try_with(|held| drop(held.take()));
}

fn watch_forks() {
    static WATCH_FORKS: Once = Once::new();
    WATCH_FORKS.call_once(|| cpu::around_forks(before_fork, after_fork));
}

/// Calls `make`, for which forks wait: what a child finds half made would stay so.
pub(crate) fn while_forks_wait<R>(make: impl FnOnce() -> R) -> R {
    watch_forks();
    let _making = MAKING.lock();
    make()
}

/// Forks wait while this is held, as do changes of the table.
/// # Context: no pool is looked up, made or given up meanwhile.
pub(crate) fn hold_forks() -> RwLockReadGuard<'static, Vec<Option<Arc<Pool>>>> {
    POOLS.read().unwrap_or_else(PoisonError::into_inner)
}

/// The pool of this number.
pub(crate) fn lookup(id: u32) -> Option<Arc<Pool>> {
    hold_forks().get(id as usize)?.clone()
}

/// Makes a pool under the lowest free number.
pub(crate) fn create(kind: PoolKind, nice: i32, env: &Arc<Env>) -> Arc<Pool> {
    watch_forks();
    let mut pools = lock_table();
    let at = pools
        .iter()
        .position(Option::is_none)
        .unwrap_or(pools.len());
    let id = u32::try_from(at).expect("fewer pools than memory could hold");
    let pool = Arc::new(Pool::new(id, kind, nice, env.clone()));
    if at == pools.len() {
        pools.push(Some(pool.clone()));
    } else {
        pools[at] = Some(pool.clone());
    }
    pool
}

/// Gives a pool's number up. Its threads have gone.
pub(crate) fn forget(pool: &Pool) {
    let gone = lock_table()[pool.id as usize].take();
    drop(gone);
}

impl Directory {
    /// Returns the pool for `key`, shared by all users of the same key. A new pool gets its first
    /// worker if the runtime is started. The caller calls `put_unbound_pool` in the end.
    pub(crate) fn get_unbound_pool(&self, key: PoolKey) -> Result<Arc<Pool>, i32> {
        let mut by_key = self.unbound.lock();
        if let Some((pool, users)) = by_key.get_mut(&key) {
            *users += 1;
            return Ok(pool.clone());
        }
        let node = self.env.topology().node_of_all(&key.pod);
        let pool = create(
            PoolKind::Unbound {
                key: key.clone(),
                node,
            },
            key.nice,
            &self.env,
        );
        if self.env.is_online() {
            if let Err(e) = create_worker(&pool, 1) {
                forget(&pool);
                return Err(e.errno());
            }
        }
        by_key.insert(key, (pool.clone(), 1));
        Ok(pool)
    }

    /// Drops one user; the last one stops the pool's threads.
    /// # Context: no lock of the crate held, not on a worker of this pool.
    pub(crate) fn put_unbound_pool(&self, pool: &Arc<Pool>) {
        let PoolKind::Unbound { key, .. } = &pool.kind else {
            return;
        };
        {
            let mut by_key = self.unbound.lock();
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

    pub(crate) fn unbound_pools(&self) -> Vec<Arc<Pool>> {
        let pools = self.unbound_pools_with_users().into_iter();
        pools.map(|(pool, _)| pool).collect()
    }

    /// All pools by number, each with how many pwqs use it.
    pub(crate) fn unbound_pools_with_users(&self) -> Vec<(Arc<Pool>, usize)> {
        let mut pools: Vec<_> = self.unbound.lock().values().cloned().collect();
        pools.sort_by_key(|(pool, _)| pool.id);
        pools
    }
}

/// The pool that `attrs` ask for on `cpu`, or for the default pwq if None. `unbound` is the unbound
/// mask, `online` the CPUs in use.
pub(crate) fn key_for(
    env: &Env,
    attrs: &Attrs,
    cpu: Option<usize>,
    unbound: &CpuSet,
    online: &CpuSet,
) -> PoolKey {
    let mask = attrs.effective_mask(unbound);
    let scope = attrs.scope.unwrap_or_else(|| env.default_scope());
    let pod = cpu
        .map(|c| env.topology().pod_of(c, scope).and(&mask))
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

#[cfg(test)]
mod fork_tests {
    use crate::pool::registry;
    use crate::sys::cpu;
    use crate::{DelayedWork, Runtime, WorkItem};
    use std::sync::{mpsc, Arc};
    use std::time::{Duration, Instant};

    /// True in a child that is forked while another thread is in `hold`, which calls what it is given.
    fn is_true_in_child_beside(
        hold: impl FnOnce(&dyn Fn()) + Send,
        child: impl FnOnce() -> bool,
    ) -> bool {
        let me = std::fs::read_link("/proc/thread-self").unwrap();
        let stat = std::path::Path::new("/proc").join(me).join("stat");
        let (held, is_held) = mpsc::channel();
        let until_it_forks = move || {
            held.send(()).unwrap();
            // Until the thread that forks sleeps: for what is held, or else for its child.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(60)
                && !std::fs::read_to_string(&stat)
                    .is_ok_and(|s| s.rsplit_once(')').is_some_and(|s| s.1.starts_with(" S")))
            {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(move || hold(&until_it_forks));
            while is_held.try_recv().is_err() {
                std::thread::yield_now();
            }
            cpu::is_true_in_child(child)
        })
    }

    #[test]
    fn s01_13_a_child_finds_nothing_half_made() {
        let rt = Runtime::builder().build_early();
        let pool = rt.inner.percpu_pools()[0].id;
        let hold = |until_it_forks: &dyn Fn()| {
            registry::while_forks_wait(|| {
                let _table = registry::lock_table();
                until_it_forks();
            });
        };
        assert!(is_true_in_child_beside(hold, || {
            registry::while_forks_wait(|| registry::lookup(pool).is_some())
        }));
    }

    struct Late {
        delayed: DelayedWork<Self>,
    }

    crate::impl_has_delayed_work! { impl HasDelayedWork<Self> for Late { self.delayed } }

    impl WorkItem for Late {
        type Pointer = Arc<Self>;
        fn run(_: Arc<Self>) {}
    }

    /// A cancel may look at an item's timer that has just gone off: in a child the item is idle then,
    /// and a runtime of the child's own can have it.
    #[test]
    fn s01_13_a_child_finds_no_timer_locked() {
        let (rt, delay) = (Runtime::builder().start().unwrap(), Duration::from_secs(60));
        let item = Arc::new(Late {
            delayed: DelayedWork::new(""),
        });
        let queued = rt.system_percpu().enqueue_delayed(delay, item.clone());
        queued.map_err(|e| e.reason()).unwrap();
        let hold = |until_it_forks: &dyn Fn()| {
            let look = |_: &_| {
                until_it_forks();
                Err(())
            };
            assert!(matches!(item.delayed.timer.disarm_if(look), Err(())));
        };
        assert!(is_true_in_child_beside(hold, || {
            item.delayed.timer.disarm_if(|_| Err(())).is_err()
        }));
        assert!(item.delayed.cancel().is_some());
    }
}
