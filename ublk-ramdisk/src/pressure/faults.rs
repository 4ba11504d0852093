// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults on purpose (E5, E16): which calls of the driver fail, and how.
//!
//! Kernel counterpart: the fault-injection framework, as null_blk uses it for its attributes `requeue`
//! and `timeout`. The four numbers are the same.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::number;

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultAttr {
    /// Only every `interval`-th call may fail; at least 1.
    pub interval: u64,
    /// The share of those that fail, in per cent.
    pub probability: u8,
    /// Calls at the beginning that never fail.
    pub space: u64,
    /// Calls that fail at most; none for no end.
    pub times: Option<u64>,
}

const FORM: &str = "expected INTERVAL,PROBABILITY,SPACE,TIMES: an interval from 1, a probability \
                    from 0 to 100, and TIMES -1 for no end";

impl FromStr for FaultAttr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').collect();
        let &[interval, probability, space, times] = &parts[..] else {
            return Err(FORM.to_owned());
        };
        let whole = |text| number(0, u64::MAX)(text).map_err(|_| FORM);
        let attr = Self {
            interval: whole(interval)?,
            probability: u8::try_from(whole(probability)?).map_err(|_| FORM)?,
            space: whole(space)?,
            times: match times {
                "-1" => None,
                some => Some(whole(some)?),
            },
        };
        if attr.interval == 0 || attr.probability > 100 {
            return Err(FORM.to_owned());
        }
        Ok(attr)
    }
}

impl fmt::Display for FaultAttr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (interval, probability, space) = (self.interval, self.probability, self.space);
        let times = self
            .times
            .map_or("-1".to_owned(), |times| times.to_string());
        write!(f, "{interval},{probability},{space},{times}")
    }
}

impl FaultAttr {
    /// Does every call fail, without end?
    pub(crate) fn fails_always(&self) -> bool {
        self.interval == 1 && self.probability == 100 && self.times.is_none()
    }
}

/// Counts calls and tells which of them fail, the same ones in each run. If the settings are changed
/// meanwhile, a call or two may be judged by a mixture of old and new.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// 0: none fails.
    interval: AtomicU64,
    probability: AtomicU64,
    space: AtomicU64,
    calls: AtomicU64,
    left: AtomicU64,
}

impl Faults {
    pub(super) fn new(attr: Option<FaultAttr>) -> Self {
        let faults = Self::default();
        faults.set(attr);
        faults
    }

    /// Counts from the beginning with these settings; with none, no call fails.
    pub(super) fn set(&self, attr: Option<FaultAttr>) {
        self.interval.store(0, Relaxed);
        if let Some(attr) = attr {
            self.probability.store(attr.probability.into(), Relaxed);
            self.space.store(attr.space, Relaxed);
            self.calls.store(0, Relaxed);
            self.left.store(attr.times.unwrap_or(u64::MAX), Relaxed);
            self.interval.store(attr.interval, Relaxed);
        }
    }

    /// Counts a call. Does it fail?
    pub(super) fn should_fail(&self) -> bool {
        let interval = self.interval.load(Relaxed);
        if interval == 0 {
            return false;
        }
        let call = self.calls.fetch_add(1, Relaxed);
        let Some(after_space) = call.checked_sub(self.space.load(Relaxed)) else {
            return false;
        };
        if !(after_space + 1).is_multiple_of(interval)
            || scatter(call) % 100 >= self.probability.load(Relaxed)
        {
            return false;
        }
        let one_less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Relaxed, Relaxed, one_less).is_ok()
    }
}

/// Turns numbers that differ in few bits into numbers that differ in many (SplitMix64).
fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// RESOURCE: the mirror tries again by itself.
    Resource,
    /// Accepted, and put on the requeue list with a kick after this time.
    Requeue(Duration),
}

/// When a request is tried again that is requeued a second time: as after RESOURCE (C17).
const KICK_DELAY: Duration = Duration::from_millis(3);

/// The `requeue` fault of a device. The calls of queue_rq that fail are refused with RESOURCE and
/// requeued in turn, for each hardware queue on its own.
///
/// A request that is requeued is tried again at once the first time, and after 3 ms from then on, until
/// it is accepted. RESOURCE does the same (C18), so nothing spins if every call fails.
#[derive(Debug)]
pub(super) struct Requeues {
    faults: Faults,
    depth: u16,
    /// By hardware queue: is its next call that fails requeued?
    requeues_next: Box<[AtomicBool]>,
    /// By request: has it been requeued since it was last accepted?
    requeued: Box<[AtomicBool]>,
}

impl Requeues {
    /// For a device of `nr_hw_queues` hardware queues of this depth.
    pub(super) fn new(attr: Option<FaultAttr>, nr_hw_queues: u16, depth: u16) -> Self {
        let queues = usize::from(nr_hw_queues);
        let all_false = |count: usize| (0..count).map(|_| AtomicBool::new(false)).collect();
        Self {
            faults: Faults::new(attr),
            depth,
            requeues_next: all_false(queues),
            requeued: all_false(queues * usize::from(depth)),
        }
    }

    /// Counts from the beginning with these settings; with none, no call is refused.
    pub(super) fn set(&self, attr: Option<FaultAttr>) {
        self.faults.set(attr);
    }

    /// Counts a call of queue_rq. Returns how it is refused, if it is. Allocates nothing and takes no
    /// lock.
    pub(super) fn refuse(&self, hctx: u16, tag: u16) -> Option<Refusal> {
        let hctx = usize::from(hctx);
        let requeued = &self.requeued[hctx * usize::from(self.depth) + usize::from(tag)];
        if !self.faults.should_fail() {
            requeued.store(false, Relaxed);
            return None;
        }
        if !self.requeues_next[hctx].fetch_not(Relaxed) {
            return Some(Refusal::Resource);
        }
        Some(Refusal::Requeue(match requeued.swap(true, Relaxed) {
            false => Duration::ZERO,
            true => KICK_DELAY,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(attr: &str, calls: usize) -> Vec<usize> {
        let faults = Faults::new(Some(attr.parse().expect(attr)));
        (0..calls).filter(|_| faults.should_fail()).collect()
    }

    #[test]
    fn e16_interval_space_and_times_are_exact() {
        assert_eq!(failing("3,100,0,-1", 9), [2, 5, 8]);
        assert_eq!(failing("3,100,0,2", 100), [2, 5]);
        assert_eq!(failing("1,100,4,3", 100), [4, 5, 6]);
        assert_eq!(failing("2,100,5,-1", 12), [6, 8, 10]);
        assert!(failing("1,0,0,-1", 100).is_empty());
        assert!(failing("1,100,0,0", 100).is_empty());
    }

    #[test]
    fn e16_the_probability_is_met_nearly() {
        for per_cent in [1, 10, 50, 90] {
            let found = failing(&format!("1,{per_cent},0,-1"), 100_000).len();
            let wanted = per_cent * 1000;
            assert!(found.abs_diff(wanted) < 1000, "{per_cent} %: {found}");
        }
    }

    #[test]
    fn e05_each_hardware_queue_has_turns_of_its_own() {
        let requeues = Requeues::new(Some("1,100,0,1000".parse().expect("a form")), 2, 4);
        let calls = [0, 0, 1, 0].into_iter().zip(0..4);
        let order = calls.map(|(hctx, tag)| requeues.refuse(hctx, tag).expect("it fails"));
        use Refusal::{Requeue, Resource};
        let at_once = Requeue(Duration::ZERO);
        let wanted = [Resource, at_once, Resource, Resource];
        assert_eq!(order.collect::<Vec<_>>(), wanted);
        assert_eq!(requeues.refuse(0, 3), Some(at_once));
        assert_eq!(requeues.refuse(1, 3), Some(at_once));
    }

    #[test]
    fn e05_only_the_first_requeue_of_a_request_is_kicked_at_once() {
        let requeues = Requeues::new(Some("1,100,0,6".parse().expect("a form")), 1, 2);
        use Refusal::{Requeue, Resource};
        let calls = |tag| [(); 2].map(|()| requeues.refuse(0, tag));
        let first = [Some(Resource), Some(Requeue(Duration::ZERO))];
        let again = [Some(Resource), Some(Requeue(KICK_DELAY))];
        assert_eq!([calls(0), calls(0), calls(1)], [first, again, first]);
        assert_eq!(calls(0), [None; 2]);
        requeues.set(Some("1,100,0,4".parse().expect("a form")));
        assert_eq!([calls(0), calls(1)], [first, again]);
    }

    #[test]
    fn l1_what_cannot_be_read_is_refused() {
        for bad in [
            "",
            "1",
            "1,2,3",
            "1,2,3,4,5",
            "0,50,0,-1",
            "1,101,0,-1",
            "1,-1,0,-1",
            "1,50,0,-2",
            "1, 50,0,-1",
            "+1,50,0,-1",
            "a,b,c,d",
            "1,50,0,",
        ] {
            let why = bad.parse::<FaultAttr>().expect_err(bad);
            assert!(
                why.contains("INTERVAL,PROBABILITY,SPACE,TIMES"),
                "{bad}: {why}"
            );
        }
        let for_ever: FaultAttr = "1,100,5,-1".parse().expect("a form");
        assert!(for_ever.fails_always());
        let attr: FaultAttr = "7,50,3,-1".parse().expect("a form");
        assert_eq!(attr.to_string(), "7,50,3,-1");
    }
}
