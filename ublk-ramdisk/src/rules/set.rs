// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules in force on a disk, in their order.
//!
//! A request is looked up under a lock: its counts are exact, whichever thread it is on. Nothing is
//! allocated meanwhile. [`RuleSet::look`] counts; if the request is turned away after that for another
//! cause, [`RuleSet::undo`] takes the counts back, so that no rule is used up by a try that came to
//! nothing.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use super::kept::Cells;
use super::kept::{Held, Kept, DUE, HITS, RULE, SEEN, SINCE, SLOTS, SPENT};
use super::{Action, Rule, Selectors, PER_CENT};
use crate::mq::{Request, Status};
use crate::random::{nth, scatter, Random};
use crate::sys::lock::Lock;

/// How long a new server waits for the requests that the former one held, in nanoseconds.
const HELD_AGAIN_WITHIN: u64 = 30_000_000_000;

/// A rule and what it has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStats {
    /// The rule.
    pub rule: Rule,
    /// Requests that it did something to.
    pub hits: u64,
    /// Requests that it may still do something to, if that is limited.
    pub left: Option<u64>,
    /// Requests that it holds now.
    pub held: u64,
}

/// How far a request comes in a rule: it does not fit or the rule is used up, it is counted, its turn has
/// come, it is chosen.
const OUT: usize = 0;
const COUNTED: usize = 1;
const ITS_TURN: usize = 2;
const CHOSEN: usize = 3;
/// The cells that the steps from `COUNTED` on raise.
const STEPS: [usize; CHOSEN] = [SEEN, DUE, HITS];

fn add(cell: &AtomicU64) -> u64 {
    cell.fetch_add(1, Relaxed) + 1
}

impl Selectors {
    /// Counts a request that fits. Returns how far it comes.
    fn count(&self, cells: &Cells, seed: u64) -> usize {
        if self
            .times
            .is_some_and(|times| cells[HITS].load(Relaxed) >= times)
        {
            return OUT;
        }
        let seen = add(&cells[SEEN]);
        let number = seen.saturating_sub(self.after);
        let is_past = self.next.is_some_and(|next| number > next);
        if is_past || number / self.every <= cells[DUE].load(Relaxed) {
            return COUNTED;
        }
        add(&cells[DUE]);
        // Whole per cents first, as null_blk's were always drawn here.
        let draw = nth(seed, seen - 1);
        if draw % 100 * PER_CENT + draw / 100 % PER_CENT >= self.share {
            return ITS_TURN;
        }
        add(&cells[HITS]);
        CHOSEN
    }

    /// Counts something that has no operation, size or place. Is it chosen?
    pub(crate) fn choose(&self, cells: &Cells) -> bool {
        self.count(cells, 0) == CHOSEN
    }

    /// How many requests may still be chosen, if that is limited.
    fn left(&self, cells: &Cells) -> Option<u64> {
        let left = |most: u64, cell: usize| most.saturating_sub(cells[cell].load(Relaxed));
        let times = self.times.map(|times| left(times, HITS));
        let next = self
            .next
            .map(|next| left(next.saturating_add(self.after), SEEN));
        times.into_iter().chain(next).min()
    }
}

/// What the rules do with a request.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// By step, the slots of the rules in which it came so far.
    steps: [u128; CHOSEN],
    /// The rule that does not let it through, and what that does.
    pub(crate) end: Option<(usize, Action)>,
    /// Nanoseconds that it takes at least.
    pub(crate) delay: u64,
    /// Is it stored wrong?
    pub(crate) corrupt: bool,
    /// It fails after this many bytes; 0 for a request that does not.
    pub(crate) cut: u64,
}

impl Found {
    /// The slots of the rules that did something to it.
    pub(crate) fn hits(&self) -> impl Iterator<Item = usize> + '_ {
        (0..SLOTS).filter(|slot| self.steps[CHOSEN - 1] >> slot & 1 != 0)
    }
}

/// A rule in force.
#[derive(Debug)]
struct Entry {
    rule: Rule,
    slot: usize,
    /// Of its random numbers.
    seed: u64,
}

impl Entry {
    /// False once its time is over.
    fn is_in_time(&self, cells: &Cells, now: &dyn Fn() -> u64) -> bool {
        self.rule.selectors.window.is_none_or(|window| {
            let spent = now().wrapping_sub(cells[SINCE].load(Relaxed));
            cells[SPENT].store(spent, Relaxed);
            u128::from(spent) < window.as_nanos()
        })
    }
}

/// Its time goes on from here. The clock may not have run for as long as the rule has been in force under
/// former servers, so the difference wraps.
fn begin(cells: &Cells, now: u64) {
    cells[SINCE].store(now.wrapping_sub(cells[SPENT].load(Relaxed)), Relaxed);
}

fn slots_of(entries: &[Arc<Entry>]) -> u128 {
    entries.iter().fold(0, |all, entry| all | 1 << entry.slot)
}

/// A number that differs from text to text, and is never 0.
fn number_of(text: &str) -> u64 {
    let mix = |number, byte| scatter(number ^ u64::from(byte));
    text.bytes().fold(1, mix).max(1)
}

#[derive(Debug, Default)]
struct State {
    rules: Arc<[Arc<Entry>]>,
    /// The slot that was taken last.
    last: usize,
    kept: Option<Arc<Kept>>,
    /// What the former server held and has not come again, and how long it is waited for.
    again: Vec<Held>,
    again_until: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct RuleSet {
    file: Option<PathBuf>,
    state: Lock<State>,
}

impl RuleSet {
    /// With counts that outlive the server in `file`, which is made with the first rule.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        let state = Lock::default();
        Self { file, state }
    }

    /// Opens what is kept. Without the file the disk is served all the same.
    fn open(&self) -> Option<Arc<Kept>> {
        let kept = Kept::open(self.file.as_deref()).or_else(|error| {
            log::warn!("rules: {error}; what is used up is forgotten when the server ends");
            Kept::open(None)
        });
        let kept = kept.inspect_err(|error| log::error!("no rule is in force: {error}"));
        kept.ok().map(Arc::new)
    }

    /// Puts these rules in force. A rule that was there before goes on, unless `begins_anew` says
    /// otherwise of its name. Returns the slots of those that are gone. Called by one thread at a time.
    pub(crate) fn set(&self, rules: &[Rule], begins_anew: &dyn Fn(&str) -> bool, now: u64) -> u128 {
        let state = self.state.lock();
        let (old, kept, mut last) = (state.rules.clone(), state.kept.clone(), state.last);
        // Memory is allocated and freed outside the lock, which queue_rq takes.
        drop(state);
        let is_first = kept.is_none();
        if is_first && rules.is_empty() {
            return 0;
        }
        let Some(kept) = kept.or_else(|| self.open()) else {
            return 0;
        };
        let mut taken = slots_of(&old);
        let mut entry_of = |rule: &Rule| {
            let goes_on = |entry: &&Arc<Entry>| entry.rule == *rule && !begins_anew(&rule.name);
            if let Some(entry) = old.iter().find(goes_on) {
                return entry.clone();
            }
            let id = number_of(&rule.to_string());
            let in_turn = || (1..=SLOTS).map(|n| (last + n) % SLOTS);
            // The slots of the former server's rules are left to these.
            let is_of = |slot: usize, id: u64| kept.cells(slot)[RULE].load(Relaxed) == id;
            let is_free = |slot: &usize| taken >> slot & 1 == 0 && (!is_first || is_of(*slot, 0));
            let its = in_turn().find(|slot| is_first && taken >> slot & 1 == 0 && is_of(*slot, id));
            let slot = its.or_else(|| in_turn().find(is_free));
            let slot = slot.expect("there are more slots than rules");
            let cells = kept.cells(slot);
            if its.is_none() {
                cells.iter().for_each(|cell| cell.store(0, Relaxed));
                cells[RULE].store(id, Relaxed);
            }
            begin(cells, now);
            (last, taken) = (slot, taken | 1 << slot);
            Arc::new(Entry {
                seed: match &rule.name[..] {
                    // null_blk's have no stream of their own.
                    "requeue" | "timeout" => 0,
                    name => number_of(name),
                },
                rule: rule.clone(),
                slot,
            })
        };
        let new: Arc<[_]> = rules.iter().map(&mut entry_of).collect();
        let used = slots_of(&new);
        for slot in (0..SLOTS).filter(|slot| used >> slot & 1 == 0) {
            kept.cells(slot)[RULE].store(0, Relaxed);
        }
        let again = if is_first {
            kept.take_held()
        } else {
            Vec::new()
        };
        let mut state = self.state.lock();
        (state.rules, state.last) = (new, last);
        state.kept = Some(kept);
        state.again.extend(again);
        state.again.retain(|held| used >> held.slot & 1 != 0);
        slots_of(&old) & !used
    }

    /// No rule is in force from now on, and what is kept stays as it is for the next server; without
    /// `with_held` it waits for no request that is held now.
    pub(crate) fn close(&self, with_held: bool) {
        let State { kept, .. } = std::mem::take(&mut *self.state.lock());
        if let Some(kept) = kept.filter(|_| !with_held) {
            kept.take_held();
        }
    }

    /// The clock runs: time windows begin, and the former server's requests are waited for.
    pub(crate) fn start(&self, now: u64) {
        let mut state = self.state.lock();
        if let Some(kept) = &state.kept {
            let rules = state.rules.iter();
            rules.for_each(|entry| begin(kept.cells(entry.slot), now));
        }
        state.again_until = now.saturating_add(HELD_AGAIN_WITHIN);
    }

    /// Finds what the rules do with a request, and counts it. `place` tells it from the others of the
    /// device. The time is asked for once, and only if a rule needs it: the clock has a lock.
    pub(crate) fn look(
        &self,
        request: &Request,
        place: usize,
        now: &dyn Fn() -> u64,
        in_flight: &dyn Fn() -> u64,
    ) -> Found {
        let mut found = Found::default();
        let known = OnceCell::new();
        let now = &|| *known.get_or_init(now);
        let mut state = self.state.lock();
        let State {
            rules,
            kept: Some(kept),
            again,
            again_until,
            ..
        } = &mut *state
        else {
            return found;
        };
        if !again.is_empty() && now() > *again_until {
            again.clear();
        }
        if let Some(n) = again.iter().position(|held| held.is(request)) {
            let slot = again.swap_remove(n).slot;
            kept.hold(slot, place, request);
            found.end = Some((slot, Action::Hang));
            return found;
        }
        for entry in rules.iter() {
            let selectors = &entry.rule.selectors;
            let cells = kept.cells(entry.slot);
            if !selectors.fit(request)
                || !entry.is_in_time(cells, now)
                || selectors.in_flight.is_some_and(|most| in_flight() <= most)
            {
                continue;
            }
            let step = selectors.count(cells, entry.seed);
            found.steps[..step]
                .iter_mut()
                .for_each(|slots| *slots |= 1 << entry.slot);
            if step < CHOSEN {
                continue;
            }
            match &entry.rule.action {
                Action::Delay(delay) => {
                    let hit = cells[HITS].load(Relaxed) - 1;
                    let random = &mut Random::new(entry.seed, hit);
                    found.delay = found.delay.saturating_add(delay.draw(random, hit));
                    continue;
                }
                Action::Corrupt => {
                    found.corrupt = true;
                    continue;
                }
                Action::Error(_, true) => {
                    found.cut = before_place(selectors, request);
                    if found.cut == 0 {
                        found.end = Some((entry.slot, Action::Error(Status::IoErr, false)));
                    }
                }
                action => found.end = Some((entry.slot, action.clone())),
            }
            if found.end == Some((entry.slot, Action::Hang)) {
                kept.hold(entry.slot, place, request);
            }
            break;
        }
        found
    }

    /// The request was turned away: what was counted is not, but for the rule in `but`, which did it.
    pub(crate) fn undo(&self, found: &Found, but: Option<usize>) {
        let state = self.state.lock();
        let Some(kept) = &state.kept else { return };
        let others = |entry: &&Arc<Entry>| Some(entry.slot) != but;
        for entry in state.rules.iter().filter(others) {
            let cells = kept.cells(entry.slot);
            for (cell, slots) in STEPS.into_iter().zip(found.steps) {
                let less = |n: u64| n.checked_sub((slots >> entry.slot & 1) as u64);
                let _at_least_0 = cells[cell].fetch_update(Relaxed, Relaxed, less);
            }
        }
    }

    /// The request in this place is held no more.
    pub(crate) fn let_go(&self, place: usize) {
        if let Some(kept) = &self.state.lock().kept {
            kept.let_go(place);
        }
    }

    /// The slot of the rule of this name. What the former server held for it is not waited for any
    /// more.
    pub(crate) fn release(&self, name: &str) -> Option<usize> {
        let mut state = self.state.lock();
        let slot = state
            .rules
            .iter()
            .find(|entry| entry.rule.name == name)?
            .slot;
        state.again.retain(|held| held.slot != slot);
        Some(slot)
    }

    /// What each rule has done, with its slot.
    pub(crate) fn stats(&self) -> Vec<(usize, RuleStats)> {
        let state = self.state.lock();
        let (entries, kept) = (state.rules.clone(), state.kept.clone());
        drop(state);
        let stats = |entry: &Arc<Entry>| {
            let cells = kept.as_ref()?.cells(entry.slot);
            let stats = RuleStats {
                hits: cells[HITS].load(Relaxed),
                left: entry.rule.selectors.left(cells),
                held: 0,
                rule: entry.rule.clone(),
            };
            Some((entry.slot, stats))
        };
        entries.iter().filter_map(stats).collect()
    }
}

/// Bytes of a READ or WRITE before the place of a rule, or its first half if the rule has no place: whole
/// blocks of 4 KiB, the largest logical ones.
fn before_place(selectors: &Selectors, request: &Request) -> u64 {
    if !request.op().has_data() {
        return 0;
    }
    let before = match selectors.place {
        Some((start, _)) => start.saturating_sub(request.offset()),
        None => request.len() / 2,
    };
    before & !4095
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mq::{Limits, Op};
    use std::cell::Cell;

    /// Who asks for the time may have to wait for another thread, and each request comes here.
    #[test]
    fn j03_the_time_is_asked_for_once_and_only_for_rules_that_end_with_time() {
        let limits = Limits {
            size: 1 << 20,
            block_size: 512,
            max_data: 1 << 20,
            read_only: false,
        };
        let request = Request::check(0, Op::Read, 0, 8, &limits).expect("a request");
        for (texts, expected) in [
            (&["a: read 0..4K: delay 1ms", "b: any: delay 1ms"][..], 0),
            (
                &["a: read for 1h: delay 1ms", "b: any for 1h: delay 1ms"],
                1,
            ),
        ] {
            let rules: Vec<Rule> = texts
                .iter()
                .map(|text| text.parse().expect("a rule"))
                .collect();
            let set = RuleSet::new(None);
            set.set(&rules, &|_| true, 0);
            let asked = Cell::new(0);
            let now = || {
                asked.set(asked.get() + 1);
                7
            };
            let found = set.look(&request, 0, &now, &|| 1);
            assert!(found.delay > 0, "{texts:?}");
            assert_eq!(asked.get(), expected, "{texts:?}");
        }
    }
}
