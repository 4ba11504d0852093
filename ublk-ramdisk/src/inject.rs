// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults on purpose (E5, E16): which calls of the driver are struck, and what they are answered.
//!
//! `--inject` hands in a [`FaultAttr`]; [`crate::pressure`] asks before it looks at a request.
//! Kernel counterpart: null_blk's `requeue` attribute, whose four numbers these are.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which calls are struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultAttr {
    /// Only each so-many-th call may be struck, at least 1.
    pub interval: u64,
    /// And of those so many per cent are.
    pub probability: u8,
    /// So many calls are let through before any is looked at.
    pub space: u64,
    /// So many are struck at most; none means without end.
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
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let whole = |text: &str| -> Result<u64, String> {
            let number = text.parse().ok().filter(|_| digits(text));
            number.ok_or_else(|| FORM.to_owned())
        };
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
    /// Does it leave no call alone, for ever?
    pub(crate) fn strikes_for_ever(&self) -> bool {
        self.interval == 1 && self.probability == 100 && self.times.is_none()
    }
}

/// Calls as they are counted and struck. The same calls are struck in each run. May be changed while
/// it is asked: a call or two may then be judged by a mixture of old and new.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// 0: none is struck.
    interval: AtomicU64,
    probability: AtomicU64,
    space: AtomicU64,
    calls: AtomicU64,
    left: AtomicU64,
}

impl Faults {
    pub(crate) fn new(attr: Option<FaultAttr>) -> Self {
        let faults = Self::default();
        faults.set(attr);
        faults
    }

    /// Begins anew with this, or strikes no more.
    pub(crate) fn set(&self, attr: Option<FaultAttr>) {
        self.interval.store(0, Relaxed);
        if let Some(attr) = attr {
            self.probability.store(attr.probability.into(), Relaxed);
            self.space.store(attr.space, Relaxed);
            self.calls.store(0, Relaxed);
            self.left.store(attr.times.unwrap_or(u64::MAX), Relaxed);
            self.interval.store(attr.interval, Relaxed);
        }
    }

    /// Asked once per call: is it struck?
    pub(crate) fn strike(&self) -> bool {
        let interval = self.interval.load(Relaxed);
        if interval == 0 {
            return false;
        }
        let call = self.calls.fetch_add(1, Relaxed);
        let Some(looked_at) = call.checked_sub(self.space.load(Relaxed)) else {
            return false;
        };
        if !(looked_at + 1).is_multiple_of(interval)
            || scatter(call) % 100 >= self.probability.load(Relaxed)
        {
            return false;
        }
        let one_less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Relaxed, Relaxed, one_less).is_ok()
    }
}

/// A number that looks random, from one that does not (SplitMix64's last steps).
fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a call that was struck is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// RESOURCE: the mirror tries again by itself.
    Resource,
    /// Accepted, and put on the requeue list with a kick after this time.
    Requeue(Duration),
}

/// How soon a request is tried again that is given back once more: as after RESOURCE (C17).
const KICK_DELAY: Duration = Duration::from_millis(3);

/// The `requeue` fault of a device: calls of queue_rq that are struck are refused, of each hardware
/// queue in turn with RESOURCE and by a requeue.
///
/// As with RESOURCE (C18) the first time is followed by another try at once, and the next ones by
/// one after 3 ms, until the request gets through: with every call struck nothing is busy-waited.
#[derive(Debug)]
pub struct Requeues {
    faults: Faults,
    depth: u16,
    turns: Box<[AtomicBool]>,
    /// By request: has it been given back since it last got through?
    given_back: Box<[AtomicBool]>,
}

impl Requeues {
    /// For a device of so many hardware queues of this depth.
    pub fn new(attr: Option<FaultAttr>, nr_hw_queues: u16, depth: u16) -> Self {
        let queues = usize::from(nr_hw_queues);
        let all_false = |count: usize| (0..count).map(|_| AtomicBool::new(false)).collect();
        Self {
            faults: Faults::new(attr),
            depth,
            turns: all_false(queues),
            given_back: all_false(queues * usize::from(depth)),
        }
    }

    /// Begins anew with this, or refuses no more.
    pub fn set(&self, attr: Option<FaultAttr>) {
        self.faults.set(attr);
    }

    /// Asked by queue_rq: is this call refused, and how? Allocates nothing and takes no lock.
    pub fn refuse(&self, hctx: u16, tag: u16) -> Option<Refusal> {
        let hctx = usize::from(hctx);
        let given_back = &self.given_back[hctx * usize::from(self.depth) + usize::from(tag)];
        if !self.faults.strike() {
            given_back.store(false, Relaxed);
            return None;
        }
        if !self.turns[hctx].fetch_not(Relaxed) {
            return Some(Refusal::Resource);
        }
        Some(Refusal::Requeue(match given_back.swap(true, Relaxed) {
            false => Duration::ZERO,
            true => KICK_DELAY,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn struck(attr: &str, calls: usize) -> Vec<usize> {
        let faults = Faults::new(Some(attr.parse().expect(attr)));
        (0..calls).filter(|_| faults.strike()).collect()
    }

    #[test]
    fn e16_interval_space_and_times_are_exact() {
        assert_eq!(struck("3,100,0,-1", 9), [2, 5, 8]);
        assert_eq!(struck("3,100,0,2", 100), [2, 5]);
        assert_eq!(struck("1,100,4,3", 100), [4, 5, 6]);
        assert_eq!(struck("2,100,5,-1", 12), [6, 8, 10]);
        assert!(struck("1,0,0,-1", 100).is_empty());
        assert!(struck("1,100,0,0", 100).is_empty());
    }

    #[test]
    fn e16_the_probability_is_met_nearly() {
        for per_cent in [1, 10, 50, 90] {
            let found = struck(&format!("1,{per_cent},0,-1"), 100_000).len();
            let wanted = per_cent * 1000;
            assert!(found.abs_diff(wanted) < 1000, "{per_cent} %: {found}");
        }
    }

    #[test]
    fn e05_each_hardware_queue_has_turns_of_its_own() {
        let requeues = Requeues::new(Some("1,100,0,1000".parse().expect("a form")), 2, 4);
        let calls = [0, 0, 1, 0].into_iter().zip(0..4);
        let order = calls.map(|(hctx, tag)| requeues.refuse(hctx, tag).expect("struck"));
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
        assert!(for_ever.strikes_for_ever());
        let attr: FaultAttr = "7,50,3,-1".parse().expect("a form");
        assert_eq!(attr.to_string(), "7,50,3,-1");
    }
}
