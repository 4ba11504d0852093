// SPDX-License-Identifier: MIT OR Apache-2.0
//! The step from a caller's pointer to an owned item, and back if it is refused.
//!
//! Used by every call that takes an item: [`crate::enqueue`], [`super::delayed`].

use super::pointer::RawWorkItem;
use super::raw::{Item, RawWork, Returned};
use super::state::{Claim, InboxClaim, WorkState};
use crate::error::{EnqueueError, Refusal};

/// Looks at the core of an item without giving the pointer away.
pub(crate) fn with_raw<W, R, const ID: u64>(work: W, look: impl FnOnce(&RawWork) -> R) -> (R, W)
where
    W: RawWorkItem<ID>,
{
    let raw = work.into_raw_work();
    // SAFETY: the pointer we own keeps the item alive.
    let seen = look(unsafe { raw.as_ref() });
    // SAFETY: taken just now and not taken back yet.
    (seen, unsafe { W::from_raw_work(raw) })
}

/// Claims the item and hands it to `place`. Whatever refuses it, the pointer comes back.
pub(crate) fn offer<W, const ID: u64>(
    work: W,
    place: impl FnOnce(Item) -> Result<(), (Refusal, Item)>,
) -> Result<(), EnqueueError<W>>
where
    W: RawWorkItem<ID>,
{
    offer_claimed(work, claim, |item, ()| place(item))
}

/// As [`offer`], with a claim of the caller's, whose outcome `place` learns.
pub(crate) fn offer_claimed<W, C, const ID: u64>(
    work: W,
    claim: impl FnOnce(&WorkState) -> Result<C, Refusal>,
    place: impl FnOnce(Item, C) -> Result<(), (Refusal, Item)>,
) -> Result<(), EnqueueError<W>>
where
    W: RawWorkItem<ID>,
{
    let raw = work.into_raw_work();
    // SAFETY: the pointer we own keeps the item alive.
    let refusal = match claim(unsafe { &raw.as_ref().state }) {
        Ok(claimed) => {
            // SAFETY: `raw` comes from the pointer type the item was made for, and the claim is ours.
            let item = unsafe { Item::from_raw(raw) };
            match place(item, claimed) {
                Ok(()) => return Ok(()),
                Err((refusal, item)) => {
                    let back = item.end().into_raw();
                    debug_assert_eq!(
                        back, raw,
                        "the item that comes back is the one that was offered"
                    );
                    refusal
                }
            }
        }
        Err(refusal) => refusal,
    };
    // SAFETY: taken at the top, and no item stands for it any more.
    Err(EnqueueError::new(refusal, unsafe { W::from_raw_work(raw) }))
}

/// Claims an item for whatever place is found.
pub(crate) fn claim(state: &WorkState) -> Result<(), Refusal> {
    match state.claim() {
        Claim::Ours(_) => Ok(()),
        Claim::AlreadyPending => Err(Refusal::AlreadyPending),
        Claim::Disabled => Err(Refusal::Disabled),
    }
}

/// Claims an item for the inbox of a pool; false if it may still run on another one, so that its
/// place has to be looked for.
pub(crate) fn claim_for(state: &WorkState, pool: u32) -> Result<bool, Refusal> {
    match state.claim_for(pool) {
        InboxClaim::Ours => Ok(true),
        InboxClaim::Elsewhere => claim(state).map(|()| false),
        InboxClaim::AlreadyPending => Err(Refusal::AlreadyPending),
        InboxClaim::Disabled => Err(Refusal::Disabled),
    }
}

/// Turns what a cancelled item left back into the caller's pointer.
/// # Safety
/// The item was made from a `W` of this `ID`.
pub(crate) unsafe fn give_back<W, const ID: u64>(returned: Returned) -> W
where
    W: RawWorkItem<ID>,
{
    // SAFETY: the token stood for the pointer, and the type is the caller's word.
    unsafe { W::from_raw_work(returned.into_raw()) }
}
