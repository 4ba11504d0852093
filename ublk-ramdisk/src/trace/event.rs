// SPDX-License-Identifier: MIT OR Apache-2.0
//! The events (K3): their names, meanings and fields.
//!
//! [`crate::mq`] emits most of them, the store and the sources of pressure the rest. Events that the
//! kernel's block layer also has bear its names and have its order of fields: device, operation,
//! sector, count. They are events of this server: the kernel's own, on /dev/ublkbN, never show a
//! request that is refused here (A13).

use crate::mq::{Op, Source};
use workqueue::trace::Timed;

/// Makes the enum and its two names from one table: variant, short form, tracepoint, meaning.
macro_rules! kinds {
    ($($name:ident $act:literal $event:literal $text:literal)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $(#[doc = $text] $name,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The short form, blktrace's letter where there is one.
            pub const fn act(self) -> &'static str {
                match self { $(Kind::$name => $act,)* }
            }

            /// The name, the tracepoint's where there is one.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$name => $event,)* }
            }
        }
    };
}

kinds! {
    IoStart "Q" "block_io_start"
        "A request has arrived and belongs to the server from now on."
    Insert "I" "block_rq_insert"
        "A request was put on a list to wait for a run: its software queue, or the dispatch list if \
         it is a flush or a control request. A request that is issued at once is never inserted."
    Issue "D" "block_rq_issue"
        "A request was started and offered to the driver (queue_rq)."
    Requeue "R" "block_rq_requeue"
        "A request came back from the driver: refused (BUSY), or given back after it was accepted."
    Complete "C" "block_rq_complete"
        "A request ended. The value: bytes, 0 for requests without data, or minus errno."
    Error "E" "block_rq_error"
        "A request ended with an error; follows its block_rq_complete."
    TagWait "S" "block_rq_tag_wait"
        "No slot was free (--slots): the hardware queue waits in line for one."
    Plug "P" "block_plug"
        "Several requests arrived together and are issued as a batch."
    Unplug "U" "block_unplug"
        "The batch has been taken in and is issued. The value: its requests."
    IoDone "X" "block_io_done"
        "The result of a request is handed out, to be committed to the kernel."
    Run "run" "mq_run"
        "A hardware queue is run: sync on the calling thread, async on kblockd at once, delayed on \
         kblockd after the given nanoseconds."
    Refuse "refuse" "mq_refuse"
        "The driver or a limit said BUSY, and the source says why. With RESOURCE the queue is run \
         again after 3 ms at most, with DEV_RESOURCE when what was lacking comes back. With \
         NO_BUDGET queue_rq was not called."
    Park "park" "mq_park"
        "A refused request waits for its next try."
    Unpark "unpark" "mq_unpark"
        "A request that was refused is tried again."
    Restart "restart" "mq_restart"
        "A request ended that others had waited for: the hardware queue is run."
    Reclaim "reclaim" "mq_reclaim"
        "Memory of the store was given back, as it was discarded or held only zeros. The value: \
         bytes."
    Memory "memory" "mq_memory"
        "Memory of the store was made or given back. The value: bytes that its pages and tables use \
         now."
    Rule "rule" "mq_rule"
        "A rule did something to a request: its name."
    Pressure "pressure" "mq_pressure"
        "A source of BUSY began or ceased to refuse requests. Memory begins when nothing can be \
         freed; enospc follows when the writes that wait for it are ended."
}

/// What memory held that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaimed {
    /// Data that a client had discarded.
    Discarded,
    /// Nothing but zeros.
    Zeros,
}

impl Reclaimed {
    const ALL: [Reclaimed; 2] = [Self::Discarded, Self::Zeros];

    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discarded => "discarded",
            Self::Zeros => "zeros",
        }
    }
}

/// What a source of BUSY does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressing {
    /// It refuses nothing any more.
    Ceased,
    /// It refuses requests from now on.
    Began,
    /// It has refused them for so long that they end with NOSPC from now on (E22).
    Enospc,
}

impl Pressing {
    const ALL: [Pressing; 3] = [Self::Ceased, Self::Began, Self::Enospc];

    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ceased => "ceased",
            Self::Began => "began",
            Self::Enospc => "enospc",
        }
    }
}

/// Values of `how` in a refusal: the status, or that queue_rq was not called.
pub(crate) const RESOURCE: u16 = 9;
pub(crate) const DEV_RESOURCE: u16 = 13;
pub(crate) const NO_BUDGET: u16 = 0;

/// Values of `how` in a run.
pub(crate) const RUN_SYNC: u16 = 0;
pub(crate) const RUN_ASYNC: u16 = 1;
pub(crate) const RUN_DELAYED: u16 = 2;

/// No request: the event is about a hardware queue.
pub(crate) const NO_TAG: u16 = u16::MAX;
/// No hardware queue: the event is about the device.
pub(crate) const NO_HCTX: u16 = u16::MAX;

/// One event. Kept small, as there are hundreds of thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of the trace's clock.
    pub time: u64,
    /// Orders events of one time: those of a thread, and on a virtual clock those of all threads.
    pub(crate) order: u32,
    /// First sector of the request, of 512 bytes.
    pub(crate) sector: u64,
    /// Bytes, minus errno, a count, nanoseconds: what the [`Kind`] says.
    pub value: i64,
    /// A [`crate::mq::Queue::label`]: numbers and name are known only at the end.
    pub device: u32,
    pub(crate) sectors: u32,
    /// [`NO_HCTX`] if it is about the device.
    pub(crate) hctx: u16,
    /// [`NO_TAG`] if it is about a hardware queue or the device.
    pub(crate) tag: u16,
    pub(crate) cpu: u16,
    /// What the kind makes of it: one of the constants above, where a request was inserted, who
    /// gave it back, what was reclaimed, what a source does, or the slot of a rule.
    pub(crate) how: u16,
    /// The source of BUSY, for `refuse`, `block_rq_tag_wait` and `pressure`.
    pub source: Option<Source>,
    /// None if it is about no request.
    pub(crate) op: Option<Op>,
    pub(crate) fua: bool,
    /// What happened.
    pub kind: Kind,
}

// `trace::Options::records` counts in events of this size.
const _: () = assert!(size_of::<Event>() <= 48);

impl Timed for Event {
    fn time(&self) -> u64 {
        self.time
    }

    fn order(&self) -> u32 {
        self.order
    }
}

impl Event {
    /// The hardware queue it is about, if it is about one.
    pub fn hctx(&self) -> Option<u16> {
        (self.hctx != NO_HCTX).then_some(self.hctx)
    }

    /// The request it is about, if it is about one.
    pub fn tag(&self) -> Option<u16> {
        (self.tag != NO_TAG).then_some(self.tag)
    }

    /// The operation as blktrace writes it: R, W, D (discard), F (flush) or N (none of these: write
    /// zeroes), and F behind it for FUA. "-" if there is no request.
    pub fn rwbs(&self) -> &'static str {
        match (self.op, self.fua) {
            (None, _) => "-",
            (Some(Op::Read), false) => "R",
            (Some(Op::Read), true) => "RF",
            (Some(Op::Write), false) => "W",
            (Some(Op::Write), true) => "WF",
            (Some(Op::Flush), _) => "F",
            (Some(Op::Discard), _) => "D",
            (Some(Op::WriteZeroes { .. }), false) => "N",
            (Some(Op::WriteZeroes { .. }), true) => "NF",
        }
    }

    /// What it carries beside the request, as text; empty if nothing.
    pub fn detail(&self) -> String {
        let source = self.source.map_or("", Source::name);
        match self.kind {
            Kind::IoStart
            | Kind::Issue
            | Kind::Park
            | Kind::Unpark
            | Kind::Restart
            | Kind::Plug => String::new(),
            Kind::Insert => match self.how {
                0 => format!("ctx {}", self.value),
                _ => "dispatch".to_owned(),
            },
            Kind::Requeue => match self.how {
                0 => "busy".to_owned(),
                _ => "by the driver".to_owned(),
            },
            Kind::Complete | Kind::Error | Kind::IoDone => format!("[{}]", self.value),
            Kind::TagWait => source.to_owned(),
            Kind::Unplug | Kind::Memory => self.value.to_string(),
            Kind::Run => match self.how {
                RUN_SYNC => "sync".to_owned(),
                RUN_ASYNC => "async".to_owned(),
                _ => format!("delayed {} us", self.value / 1000),
            },
            Kind::Refuse => format!("{} {source}", self.answer()),
            Kind::Reclaim => {
                let what = Reclaimed::ALL.get(usize::from(self.how));
                format!("{} {}", what.map_or("", |what| what.name()), self.value)
            }
            Kind::Rule => super::name_of_rule(self.device, self.how),
            Kind::Pressure => {
                let state = Pressing::ALL.get(usize::from(self.how));
                format!("{source} {}", state.map_or("", |state| state.name()))
            }
        }
    }

    /// What the request was answered with, of a refusal.
    fn answer(&self) -> &'static str {
        match self.how {
            RESOURCE => "RESOURCE",
            DEV_RESOURCE => "DEV_RESOURCE",
            _ => "NO_BUDGET",
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn k03_each_event_has_names_of_its_own_and_a_meaning() {
        let mut seen = HashSet::new();
        for kind in Kind::ALL {
            assert!(
                seen.insert(kind.act()) && seen.insert(kind.name()),
                "{kind:?}"
            );
        }
    }
}
