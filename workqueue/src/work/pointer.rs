// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a user's pointer becomes a queued item and comes back.
//!
//! A caller hands in an `Arc<T>` or a `Pin<Box<T>>`; [`offer`] takes over the address of the
//! embedded [`RawWork`], claims the item and hands it on to [`crate::enqueue`]. A refusal gives the
//! pointer back. Counterpart: the traits of the same names in the kernel's Rust bindings; their
//! enqueue closure is replaced by two conversions, because here a refusal gives the pointer back.

use super::state::{Claim, WorkState};
use super::{Item, RawWork, Returned, VTable, Work};
use crate::error::{EnqueueError, Refusal};
use std::any::type_name;
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::Arc;

/// A type that can be queued: it says which pointer to it the queue holds and what to run.
///
/// `ID` tells several [`Work`] fields of one type apart.
pub trait WorkItem<const ID: u64 = 0>: Sized {
    /// The pointer that is given to the queue and comes back in [`WorkItem::run`]: `Arc<Self>` or
    /// `Pin<Box<Self>>`.
    type Pointer: WorkItemPointer<ID>;

    /// The work itself. It may drop the last reference, queue the item again, or block.
    fn run(this: Self::Pointer);
}

/// A type with a [`Work`] field. Implemented by [`crate::impl_has_work!`].
///
/// # Safety
/// The two functions are inverse to each other, and the field belongs to the value.
pub unsafe trait HasWork<T, const ID: u64 = 0> {
    /// The address of the field.
    /// # Safety
    /// `this` points to a value that is alive.
    unsafe fn raw_get_work(this: *mut Self) -> *mut Work<T, ID>;

    /// The value the field belongs to.
    /// # Safety
    /// `work` is the address of the field in a value of this type that is alive, made by
    /// [`HasWork::raw_get_work`].
    unsafe fn work_container_of(work: *mut Work<T, ID>) -> *mut Self;
}

/// A pointer that owns an item and can be turned into the item's core and back.
///
/// # Safety
/// `from_raw_work` gives back what `into_raw_work` took; in between the item stays alive and
/// where it is.
pub unsafe trait RawWorkItem<const ID: u64>: Sized {
    /// Gives the pointer away.
    fn into_raw_work(self) -> NonNull<RawWork>;

    /// Takes it back.
    /// # Safety
    /// `raw` comes from `into_raw_work` of the same type and is taken back once.
    unsafe fn from_raw_work(raw: NonNull<RawWork>) -> Self;
}

/// A pointer type that an item may name as its [`WorkItem::Pointer`].
///
/// # Safety
/// `run` takes the pointer back as [`RawWorkItem::from_raw_work`] does.
pub unsafe trait WorkItemPointer<const ID: u64>: RawWorkItem<ID> {
    /// Takes the pointer back and runs the item.
    /// # Safety
    /// As for [`RawWorkItem::from_raw_work`].
    unsafe fn run(raw: NonNull<RawWork>);
}

/// A pointer to an item whose work field is a [`crate::DelayedWork`].
///
/// # Safety
/// The core that `into_raw_work` gives is the beginning of a `DelayedWork`.
pub unsafe trait RawDelayedWorkItem<const ID: u64>: RawWorkItem<ID> {}

/// A type with a [`crate::DelayedWork`] field. Implemented by [`crate::impl_has_delayed_work!`].
///
/// # Safety
/// The field that `HasWork` of the same `ID` names is the inner item of a `DelayedWork`.
pub unsafe trait HasDelayedWork<T, const ID: u64 = 0>: HasWork<T, ID> {}

// SAFETY: Arc::into_raw and from_raw are inverse, and the count given away keeps the item alive;
// a value inside an Arc does not move.
unsafe impl<T, const ID: u64> RawWorkItem<ID> for Arc<T>
where
    T: WorkItem<ID, Pointer = Self> + HasWork<T, ID>,
{
    fn into_raw_work(self) -> NonNull<RawWork> {
        let value = Arc::into_raw(self).cast_mut();
        // SAFETY: the value is alive: we own a count of it.
        let work = unsafe { T::raw_get_work(value) };
        NonNull::new(work.cast()).expect("a field of a live value has an address")
    }

    unsafe fn from_raw_work(raw: NonNull<RawWork>) -> Self {
        // SAFETY: made by `into_raw_work` above, says the caller.
        unsafe { Arc::from_raw(T::work_container_of(raw.as_ptr().cast())) }
    }
}

// SAFETY: `run` goes through `from_raw_work`.
unsafe impl<T, const ID: u64> WorkItemPointer<ID> for Arc<T>
where
    T: WorkItem<ID, Pointer = Self> + HasWork<T, ID>,
{
    unsafe fn run(raw: NonNull<RawWork>) {
        // SAFETY: passed on from the caller.
        T::run(unsafe { Self::from_raw_work(raw) });
    }
}

// SAFETY: HasDelayedWork says that the field is a DelayedWork.
unsafe impl<T, const ID: u64> RawDelayedWorkItem<ID> for Arc<T> where
    T: WorkItem<ID, Pointer = Self> + HasDelayedWork<T, ID>
{
}

// SAFETY: Box::into_raw and from_raw are inverse, and a pinned value does not move.
unsafe impl<T, const ID: u64> RawWorkItem<ID> for Pin<Box<T>>
where
    T: WorkItem<ID, Pointer = Self> + HasWork<T, ID>,
{
    fn into_raw_work(self) -> NonNull<RawWork> {
        // SAFETY: the value is not moved out of the box, and comes back pinned.
        let value = Box::into_raw(unsafe { Pin::into_inner_unchecked(self) });
        // SAFETY: the value is alive: we own it.
        let work = unsafe { T::raw_get_work(value) };
        NonNull::new(work.cast()).expect("a field of a live value has an address")
    }

    unsafe fn from_raw_work(raw: NonNull<RawWork>) -> Self {
        // SAFETY: made by `into_raw_work` above, says the caller.
        Box::into_pin(unsafe { Box::from_raw(T::work_container_of(raw.as_ptr().cast())) })
    }
}

// SAFETY: `run` goes through `from_raw_work`.
unsafe impl<T, const ID: u64> WorkItemPointer<ID> for Pin<Box<T>>
where
    T: WorkItem<ID, Pointer = Self> + HasWork<T, ID>,
{
    unsafe fn run(raw: NonNull<RawWork>) {
        // SAFETY: passed on from the caller.
        T::run(unsafe { Self::from_raw_work(raw) });
    }
}

// SAFETY: HasDelayedWork says that the field is a DelayedWork.
unsafe impl<T, const ID: u64> RawDelayedWorkItem<ID> for Pin<Box<T>> where
    T: WorkItem<ID, Pointer = Self> + HasDelayedWork<T, ID>
{
}

/// Makes the table of one item type.
pub(crate) struct TableOf<T, const ID: u64>(PhantomData<T>);

impl<T: WorkItem<ID>, const ID: u64> TableOf<T, ID> {
    pub(crate) const TABLE: &'static VTable = &VTable {
        run: <T::Pointer as WorkItemPointer<ID>>::run,
        release: release::<T::Pointer, ID>,
        function: type_name::<T>,
        barrier: false,
    };
}

/// # Safety
/// As for [`RawWorkItem::from_raw_work`].
pub(crate) unsafe fn release<P: RawWorkItem<ID>, const ID: u64>(raw: NonNull<RawWork>) {
    // SAFETY: passed on from the caller.
    drop(unsafe { P::from_raw_work(raw) });
}

/// Calls `look` with the core of an item and returns the pointer. The core is alive during the
/// call and good for all that the pointer is good for.
pub(crate) fn with_raw<W, R, const ID: u64>(
    work: W,
    look: impl FnOnce(NonNull<RawWork>) -> R,
) -> (R, W)
where
    W: RawWorkItem<ID>,
{
    let raw = work.into_raw_work();
    let seen = look(raw);
    // SAFETY: taken just now and not taken back yet.
    (seen, unsafe { W::from_raw_work(raw) })
}

/// Claims an item and hands it on to `place`, with the outcome of `claim`. The pointer of an item
/// that cannot be claimed comes back.
#[inline]
pub(crate) fn offer<W, C, const ID: u64>(
    work: W,
    claim: impl FnOnce(&WorkState) -> Result<C, Refusal>,
    place: impl FnOnce(Item, C),
) -> Result<(), EnqueueError<W>>
where
    W: RawWorkItem<ID>,
{
    let raw = work.into_raw_work();
    // SAFETY: the pointer we own keeps the item alive.
    match claim(unsafe { &raw.as_ref().state }) {
        Ok(claimed) => {
            // SAFETY: `raw` comes from the pointer type the item was made for, and the claim is
            // ours.
            place(unsafe { Item::from_raw(raw) }, claimed);
            Ok(())
        }
        // SAFETY: taken just now, and no item stands for it.
        Err(refusal) => Err(EnqueueError::new(refusal, unsafe { W::from_raw_work(raw) })),
    }
}

/// Claims an item, wherever it will go.
pub(crate) fn claim(state: &WorkState) -> Result<(), Refusal> {
    match state.claim() {
        Claim::AlreadyPending => Err(Refusal::AlreadyPending),
        Claim::Disabled => Err(Refusal::Disabled),
        Claim::Ours | Claim::Elsewhere => Ok(()),
    }
}

/// Claims an item for the inbox of a pool. False if it may still run on another pool: then it is
/// claimed without a place.
#[inline]
pub(crate) fn claim_for(state: &WorkState, pool: u32) -> Result<bool, Refusal> {
    match state.claim_for(pool) {
        Claim::Ours => Ok(true),
        Claim::Elsewhere => claim(state).map(|()| false),
        Claim::AlreadyPending => Err(Refusal::AlreadyPending),
        Claim::Disabled => Err(Refusal::Disabled),
    }
}

/// Turns the token of a cancelled item back into the caller's pointer.
/// # Safety
/// The item was made from a `W` of this `ID`.
pub(crate) unsafe fn give_back<W, const ID: u64>(returned: Returned) -> W
where
    W: RawWorkItem<ID>,
{
    // SAFETY: the token stood for the pointer, and the type is the caller's word.
    unsafe { W::from_raw_work(returned.into_raw()) }
}

/// Says which field of a type is its [`Work`].
///
/// ```
/// use workqueue::{impl_has_work, new_work, Work, WorkItem};
/// use std::sync::Arc;
///
/// struct Greeter { name: String, work: Work<Greeter> }
///
/// impl_has_work! {
///     impl HasWork<Self> for Greeter { self.work }
/// }
///
/// impl WorkItem for Greeter {
///     type Pointer = Arc<Self>;
///     fn run(this: Arc<Self>) { println!("hello {}", this.name); }
/// }
///
/// let runtime = workqueue::Runtime::builder().start()?;
/// let greeter = Arc::new(Greeter { name: "world".into(), work: new_work!("greet") });
/// runtime.system_percpu().enqueue(greeter.clone()).expect("not pending yet");
/// greeter.work.flush()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Several fields
///
/// Each field of one type has a number of its own, and what belongs to a number is checked when
/// the program is compiled. The item may also live in a box, which the queue then owns alone:
///
/// ```
/// use workqueue::{impl_has_work, new_work, Flags, Runtime, Work, WorkItem};
/// use std::{pin::Pin, sync::Arc};
///
/// struct Disk { read: Work<Disk, 1>, write: Work<Disk, 2> }
/// impl_has_work! {
///     impl HasWork<Self, 1> for Disk { self.read }
///     impl HasWork<Self, 2> for Disk { self.write }
/// }
/// impl WorkItem<1> for Disk { type Pointer = Arc<Self>; fn run(_: Arc<Self>) {} }
/// impl WorkItem<2> for Disk { type Pointer = Arc<Self>; fn run(_: Arc<Self>) {} }
///
/// /// An item with a parameter, owned by whoever runs it.
/// struct Letter<T: Send + 'static> { text: T, work: Work<Letter<T>> }
/// impl_has_work! {
///     impl{T: Send + 'static} HasWork<Self> for Letter<T> { self.work }
/// }
/// impl<T: Send + 'static> WorkItem for Letter<T> {
///     type Pointer = Pin<Box<Self>>;
///     fn run(this: Pin<Box<Self>>) { drop(this); }
/// }
///
/// let runtime = Runtime::builder().start()?;
/// let queue = runtime.queue("letters").flags(Flags::UNBOUND).build()?;
/// let disk = Arc::new(Disk { read: new_work!(), write: new_work!() });
/// queue.enqueue::<_, 1>(disk.clone())?;
/// queue.enqueue::<_, 2>(disk.clone())?;       // both may be queued at once
/// queue.enqueue(Box::pin(Letter { text: "hello", work: new_work!() }))?;
/// queue.try_spawn(move || println!("the disk is held by {}", Arc::strong_count(&disk)))?;
/// queue.flush()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A number that names another field than the type says:
///
/// ```compile_fail,E0308
/// # use workqueue::{impl_has_work, Work, WorkItem};
/// # use std::sync::Arc;
/// struct Disk { read: Work<Disk, 1> }
/// impl_has_work! { impl HasWork<Self, 2> for Disk { self.read } }
/// ```
///
/// A number that is used twice:
///
/// ```compile_fail,E0119
/// # use workqueue::{impl_has_work, Work, WorkItem};
/// struct Disk { read: Work<Disk, 1>, write: Work<Disk, 1> }
/// impl_has_work! {
///     impl HasWork<Self, 1> for Disk { self.read }
///     impl HasWork<Self, 1> for Disk { self.write }
/// }
/// ```
///
/// A number without an item of its own:
///
/// ```compile_fail,E0277
/// # use workqueue::{impl_has_work, new_work, Work, WorkItem};
/// # use std::sync::Arc;
/// struct Disk { read: Work<Disk, 1> }
/// impl_has_work! { impl HasWork<Self, 1> for Disk { self.read } }
/// impl WorkItem<1> for Disk { type Pointer = Arc<Self>; fn run(_: Arc<Self>) {} }
/// let disk = Arc::new(Disk { read: new_work!() });
/// workqueue::schedule::<_, 2>(disk);
/// ```
///
/// A queue takes the pointer type that the item names and no other:
///
/// ```compile_fail,E0271
/// # use workqueue::{impl_has_work, new_work, Work, WorkItem};
/// # use std::sync::Arc;
/// struct Disk { read: Work<Disk> }
/// impl_has_work! { impl HasWork<Self> for Disk { self.read } }
/// impl WorkItem for Disk { type Pointer = Arc<Self>; fn run(_: Arc<Self>) {} }
/// workqueue::schedule(Box::pin(Disk { read: new_work!() }));
/// ```
///
/// A queue takes no pointer that must not leave its thread:
///
/// ```compile_fail,E0277
/// # use workqueue::{impl_has_work, new_work, Work, WorkItem};
/// # use std::{pin::Pin, rc::Rc};
/// struct Local { work: Work<Local>, shared: Rc<u32> }
/// impl_has_work! { impl HasWork<Self> for Local { self.work } }
/// impl WorkItem for Local { type Pointer = Pin<Box<Self>>; fn run(_: Pin<Box<Self>>) {} }
/// workqueue::schedule(Box::pin(Local { work: new_work!(), shared: Rc::new(1) }));
/// ```
///
/// A packed struct, where the field would not be aligned, also if only a type parameter adds the
/// field:
///
/// ```compile_fail,E0793
/// # use workqueue::{impl_has_work, Work};
/// trait Kind { type Field; }
/// #[repr(packed)]
/// struct Packed<K: Kind> { number: u8, work: K::Field }
/// struct Mine;
/// impl Kind for Mine { type Field = Work<Packed<Mine>>; }
/// impl_has_work! { impl HasWork<Self> for Packed<Mine> { self.work } }
/// ```
#[macro_export]
macro_rules! impl_has_work {
    ($(impl$({$($generics:tt)*})? HasWork<$item:ty $(, $id:literal)?> for $this:ty { self.$field:ident })*) => {$(
        // SAFETY: both directions use the same field of the same type.
        unsafe impl$(<$($generics)*>)? $crate::HasWork<$item $(, $id)?> for $this {
            unsafe fn raw_get_work(this: *mut Self) -> *mut $crate::Work<$item $(, $id)?> {
                // Does not compile for a packed struct, where the field may be misaligned.
                let _in_its_place = |this: &Self| {
                    let _field: &$crate::Work<$item $(, $id)?> = &this.$field;
                };
                // SAFETY: `this` is alive, says the caller.
                unsafe { ::core::ptr::addr_of_mut!((*this).$field) }
            }

            unsafe fn work_container_of(work: *mut $crate::Work<$item $(, $id)?>) -> *mut Self {
                // SAFETY: `work` is the field of a live value, says the caller.
                unsafe { work.byte_sub(::core::mem::offset_of!(Self, $field)).cast() }
            }
        }
    )*};
}

/// A [`Work`] field's initial value, with an optional name for dumps.
#[macro_export]
macro_rules! new_work {
    () => {
        $crate::Work::new("")
    };
    ($name:literal) => {
        $crate::Work::new($name)
    };
}
