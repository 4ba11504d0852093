// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that take turns, so that what they do is the same in every run.
//!
//! A runtime on a clock from [`crate::VirtualClock::in_turns`] gives each of its threads a seat.
//! One seat has the turn; its thread runs until it has to wait, then the turn goes to the seat that
//! has been ready longest. When none is ready the conductor has the turn, the thread that made the
//! clock: all others wait for a wake-up or for the clock. Waking a thread only makes its seat
//! ready, so nothing depends on how quickly the system wakes it.
//!
//! Used where the crate's own threads wait: [`super::sync::Parker`], [`super::clock`], and with
//! [`poll_until`] where threads wait for each other.

use super::cpu;
use super::sync::{Condvar, Mutex};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard};

/// The state of a seat's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ThreadState {
    /// It has the turn.
    Running,
    /// It waits for the turn.
    Ready,
    /// It waits for something else.
    Blocked,
    /// It tests a condition again after others have had their turn.
    Polling,
    /// The conductor: it waits until no seat is ready.
    Conducting,
    /// It waits for something that the scheduler does not know.
    Outside,
    /// It has ended, or was never made.
    Gone,
}

#[derive(Debug)]
struct SeatState {
    state: ThreadState,
    /// Made ready while it had the turn.
    wake_pending: bool,
    /// Notified when its thread gets the turn.
    turn: Arc<Condvar>,
}

impl SeatState {
    fn new(state: ThreadState) -> Self {
        Self {
            state,
            wake_pending: false,
            turn: Arc::default(),
        }
    }
}

#[derive(Debug)]
struct Table {
    seats: Vec<SeatState>,
    ready: VecDeque<usize>,
    /// Something has changed since the threads that poll looked last.
    changed: bool,
    /// All threads run freely.
    disbanded: bool,
}

/// The scheduler of the threads of one clock.
#[derive(Debug)]
pub(crate) struct TurnScheduler {
    table: Mutex<Table>,
    forks: u32, // I: the fork generation of its threads
}

/// A thread's place.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    turns: Arc<TurnScheduler>,
    number: usize,
    turn: Arc<Condvar>,
}

/// The number of the conductor's seat.
const CONDUCTOR: usize = 0;

/// The seat of a thread, dropped as the thread ends.
#[derive(Debug)]
struct OwnSeat(RefCell<Option<Seat>>);

impl Drop for OwnSeat {
    fn drop(&mut self) {
        let conducts = |seat: &Seat| seat.number == CONDUCTOR && seat.turns.is_of_this_process();
        if let Some(seat) = self.0.take().filter(conducts) {
            // Without a conductor the others would wait for their turns for ever.
            seat.turns.disband();
        }
    }
}

thread_local! {
    static OWN: OwnSeat = const { OwnSeat(RefCell::new(None)) };
}

/// The calling thread's seat, if it has one. None while its thread-local values are dropped.
pub(crate) fn current() -> Option<Seat> {
    let own = OWN.try_with(|own| own.0.borrow().clone()).ok().flatten();
    own.filter(|seat| seat.turns.is_of_this_process())
}

/// Gives the calling thread a seat, or none. False while its thread-local values are dropped.
fn set_current(seat: Option<Seat>) -> bool {
    OWN.try_with(|own| own.0.replace(seat)).is_ok()
}

/// Lets others have their turn until `is_true`. False if the thread has no seat: the caller then
/// waits in another way. A thread that makes the condition true calls [`note_change`] afterwards.
pub(crate) fn poll_until(mut is_true: impl FnMut() -> bool) -> bool {
    let Some(seat) = current() else {
        return false;
    };
    while !is_true() {
        if !seat.wait_as(ThreadState::Polling) {
            return false;
        }
    }
    true
}

/// Waits for something that the scheduler does not know, such as the end of a thread. Others have
/// their turns meanwhile; when this thread has its next turn depends on the system.
pub(crate) fn run_outside<R>(wait: impl FnOnce() -> R) -> R {
    let Some(seat) = current() else {
        return wait();
    };
    seat.go_outside();
    let result = wait();
    seat.come_back();
    result
}

/// Notes that a condition of [`poll_until`] may have changed.
pub(crate) fn note_change() {
    if let Some(seat) = current() {
        seat.turns.table.lock().changed = true;
    }
}

impl TurnScheduler {
    /// A scheduler with the calling thread as the conductor, which has the turn.
    pub(crate) fn new() -> Arc<Self> {
        let turns = Arc::new(Self {
            table: Mutex::new(Table {
                seats: Vec::new(),
                ready: VecDeque::new(),
                changed: false,
                disbanded: false,
            }),
            forks: cpu::fork_generation(),
        });
        let seat = turns.seat(&mut turns.table.lock(), ThreadState::Running);
        if !set_current(Some(seat)) {
            turns.disband();
        }
        turns
    }

    #[cfg(test)]
    pub(super) fn hold_lock(&self) -> impl Sized + '_ {
        self.table.lock()
    }

    /// False in the child of a fork, which has none of the threads.
    pub(crate) fn is_of_this_process(&self) -> bool {
        cpu::fork_generation() == self.forks
    }

    fn seat(self: &Arc<Self>, table: &mut Table, state: ThreadState) -> Seat {
        let place = SeatState::new(state);
        let seat = Seat {
            turns: self.clone(),
            number: table.seats.len(),
            turn: place.turn.clone(),
        };
        table.seats.push(place);
        seat
    }

    /// A seat for a thread that is about to be made; it is ready.
    pub(crate) fn invite(self: &Arc<Self>) -> Invitation {
        let mut table = self.table.lock();
        let seat = self.seat(&mut table, ThreadState::Ready);
        table.ready.push_back(seat.number);
        Invitation(Some(seat))
    }

    /// Lets all others have their turns until none of them is ready.
    pub(crate) fn settle(&self) {
        if let Some(seat) = current().filter(|own| std::ptr::eq(&*own.turns, self)) {
            seat.turns.table.lock().changed = true;
            let _ignored = seat.wait_as(ThreadState::Conducting);
        }
    }

    /// Lets all threads run freely from now on.
    pub(crate) fn disband(&self) {
        let mut table = self.table.lock();
        table.disbanded = true;
        table.seats.iter().for_each(|place| place.turn.notify_all());
    }
}

impl Table {
    /// Passes the turn on.
    /// # Context: no seat has the turn.
    fn pass(&mut self) {
        if self.ready.is_empty() && std::mem::take(&mut self.changed) {
            for number in 0..self.seats.len() {
                if self.seats[number].state == ThreadState::Polling {
                    self.seats[number].state = ThreadState::Ready;
                    self.ready.push_back(number);
                }
            }
        }
        let next = self.ready.pop_front();
        let conductor =
            || (self.seats[CONDUCTOR].state == ThreadState::Conducting).then_some(CONDUCTOR);
        if let Some(next) = next.or_else(conductor) {
            self.seats[next].state = ThreadState::Running;
            self.seats[next].turn.notify_all();
        }
    }
}

impl Seat {
    /// Passes the turn on until the seat is made ready and has it again. False if the threads run
    /// freely.
    pub(crate) fn block(&self) -> bool {
        self.wait_as(ThreadState::Blocked)
    }

    fn wait_as(&self, state: ThreadState) -> bool {
        let mut table = self.turns.table.lock();
        if table.disbanded {
            return false;
        }
        if state == ThreadState::Blocked {
            table.changed = true;
            if std::mem::take(&mut table.seats[self.number].wake_pending) {
                return true;
            }
        }
        table.seats[self.number].state = state;
        table.pass();
        self.wait_for_turn(table)
    }

    fn wait_for_turn(&self, mut table: MutexGuard<'_, Table>) -> bool {
        while table.seats[self.number].state != ThreadState::Running && !table.disbanded {
            table = self.turn.wait(table);
        }
        !table.disbanded
    }

    /// Makes the seat ready; if it has the turn, its next block returns at once. False if the
    /// threads run freely: the thread has to be woken in another way.
    pub(crate) fn wake(&self) -> bool {
        let mut table = self.turns.table.lock();
        let place = &mut table.seats[self.number];
        if place.state == ThreadState::Blocked {
            place.state = ThreadState::Ready;
            table.ready.push_back(self.number);
        } else {
            place.wake_pending = true;
        }
        !table.disbanded
    }

    fn go_outside(&self) {
        let mut table = self.turns.table.lock();
        table.seats[self.number].state = ThreadState::Outside;
        table.changed = true;
        table.pass();
    }

    fn come_back(&self) {
        let mut table = self.turns.table.lock();
        table.seats[self.number].state = ThreadState::Ready;
        table.ready.push_back(self.number);
        if table
            .seats
            .iter()
            .all(|seat| seat.state != ThreadState::Running)
        {
            table.pass();
        }
        let _ignored = self.wait_for_turn(table);
    }

    fn give_up(&self) {
        let mut table = self.turns.table.lock();
        let had_it = table.seats[self.number].state == ThreadState::Running;
        table.seats[self.number].state = ThreadState::Gone;
        table.ready.retain(|&other| other != self.number);
        table.changed = true;
        if had_it {
            table.pass();
        }
    }
}

/// A seat for a thread that is about to be made. Dropped if the thread is never made.
#[derive(Debug)]
pub(crate) struct Invitation(Option<Seat>);

impl Invitation {
    /// The calling thread takes the seat, and waits for its turn.
    pub(crate) fn accept(mut self) -> Seated {
        let seat = self.0.take().expect("accepted once");
        let table = seat.turns.table.lock();
        let _ignored = seat.wait_for_turn(table);
        let _ignored = set_current(Some(seat.clone()));
        Seated(seat)
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        if let Some(seat) = self.0.take() {
            seat.give_up();
        }
    }
}

/// Held by a thread that has a seat, until it ends.
#[derive(Debug)]
pub(crate) struct Seated(Seat);

impl Drop for Seated {
    fn drop(&mut self) {
        let _ignored = set_current(None);
        self.0.give_up();
    }
}
