// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for items and queues, and taking items back.
//!
//! Here is the one place that decides if an item is idle, and where it is if not: every wait for an
//! item and every cancel goes through [`find`]. An item may be pending and in no place: another
//! thread has claimed it and not listed it yet, has taken it from its timer, takes it to another
//! pool, or takes it back. Such an item is looked for again until it is in a place or idle. Models:
//! `loom_tests/find.rs`.

pub(crate) mod item;

pub(crate) mod flush;

use crate::sys::sync::modelled::back_off;
use crate::work::state::WorkState;

/// Where one item can be: in the crate's pools and on its timer, or in those of a model.
pub(crate) trait Places {
    /// A pool's lock, held.
    type Pool<'a>;
    /// A run of the item.
    type Run;

    /// Calls `then` with this pool locked, and the items of its inbox listed.
    fn lock<R>(&self, pool: u32, then: impl FnOnce(Self::Pool<'_>) -> R) -> Result<R, NoPool>;

    /// The run of the item that goes on in this pool.
    fn run_in(&self, pool: &Self::Pool<'_>) -> Option<Self::Run>;

    /// True if the item's timer is armed. A hint: the caller disarms it, or looks again.
    fn is_armed(&self) -> bool;
}

/// Why a pool cannot be locked.
#[derive(Debug)]
pub(crate) enum NoPool {
    /// It has been taken down.
    Gone,
    /// It belongs to a runtime of this process's parent.
    Forked,
}

/// Where an item is, with the lock that keeps it there.
#[derive(Debug)]
pub(crate) enum Place<P, R> {
    /// Neither pending nor running. True if it was pending at an earlier look.
    Idle(bool),
    /// It seems to be with its timer.
    Armed,
    /// On a list of this pool.
    Queued(P),
    /// Not pending, and running in this pool.
    Running(P, R),
    /// It is pending, or was last, in this process's parent.
    Forked,
}

/// Looks for an item until `then` accepts the place where it is; None means: look again.
/// # Context: no lock of the crate held.
pub(crate) fn find<P: Places, R>(
    state: &WorkState,
    places: &P,
    mut then: impl FnMut(Place<P::Pool<'_>, P::Run>) -> Option<R>,
) -> R {
    let mut looks = 0;
    loop {
        if let Some(found) = look(state, places, looks > 0, &mut then) {
            return found;
        }
        back_off(looks);
        looks = looks.saturating_add(1);
    }
}

/// One look of [`find`]; None if the item was in no place, or `then` did not accept it.
/// # Context: no lock behind S held.
pub(crate) fn look<P: Places, R>(
    state: &WorkState,
    places: &P,
    was_pending: bool,
    then: &mut impl FnMut(Place<P::Pool<'_>, P::Run>) -> Option<R>,
) -> Option<R> {
    let seen = state.load();
    // guard: s01_13_parent
    if seen.is_pending_in_parent() {
        return then(Place::Forked);
    }
    let Some(number) = seen.pool().filter(|_| seen.with_pool() || !seen.pending()) else {
        return match (seen.pending(), places.is_armed()) {
            (false, _) => then(Place::Idle(was_pending)),
            (true, true) => then(Place::Armed),
            // guard: s10_06_no_place
            (true, false) => None,
        };
    };
    let found = places.lock(number, |pool| {
        let now = state.load();
        // guard: s10_06_other_pool
        if now.pool() != Some(number) {
            return None;
        }
        if now.queued() {
            return then(Place::Queued(pool));
        }
        // guard: s10_06_inbox
        if now.pending() {
            return None;
        }
        match places.run_in(&pool) {
            Some(run) => then(Place::Running(pool, run)),
            None => then(Place::Idle(was_pending)),
        }
    });
    match found {
        Ok(found) => found,
        Err(NoPool::Forked) => then(Place::Forked),
        Err(NoPool::Gone) if seen.pending() => None,
        Err(NoPool::Gone) => then(Place::Idle(was_pending)),
    }
}
