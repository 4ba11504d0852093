// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was lacking when a request was refused: the sources of BUSY (E1 to E5).
//!
//! A driver names one with [`super::Issued::busy_for`], a budget by [`super::Budget::source`]; the
//! mirror counts by it and does nothing else with it: who owes the re-run is said by
//! [`super::Busy`] alone. The kernel has no counterpart; its drivers answer without a reason.

use super::sync::Count;
use serde::{Deserialize, Serialize};

macro_rules! sources {
    ($($(#[doc = $doc:literal])* $name:ident $field:ident $text:literal)*) => {
        /// What was lacking.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Source {
            $($(#[doc = $doc])* $name,)*
        }

        impl Source {
            /// All of them, in the order of their numbers.
            pub const ALL: [Source; Source::COUNT] = [$(Source::$name),*];
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// As it is printed, and as the field of [`BySource`] is called.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Source::$name => $text,)*
                }
            }
        }

        /// One number for each source.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct BySource {
            $($(#[doc = $doc])* pub $field: u64,)*
        }

        impl BySource {
            /// The number of one source.
            pub const fn of(&self, source: Source) -> u64 {
                match source {
                    $(Source::$name => self.$field,)*
                }
            }
        }

        impl Counts {
            pub(super) fn snapshot(&self) -> BySource {
                BySource {
                    $($field: self.0[Source::$name as usize].get(),)*
                }
            }
        }
    };
}

sources! {
    /// E1: a device-wide limit on requests in flight, taken as a budget.
    Slots slots "slots"
    /// E2: the memory budget of the thin store, or memory that is being made.
    Memory memory "memory"
    /// E3: the machine or the cgroup is short of memory, CPU or I/O (PSI).
    Psi psi "psi"
    /// E4: bandwidth tokens.
    Bandwidth bandwidth "bandwidth"
    /// E5: refused on purpose.
    Injection injection "injection"
    /// The driver gave no source.
    Driver driver "driver"
}

impl BySource {
    /// Each number combined with another's.
    pub(crate) fn with(&self, other: &Self, how: &dyn Fn(u64, u64) -> u64) -> Self {
        Self {
            slots: how(self.slots, other.slots),
            memory: how(self.memory, other.memory),
            psi: how(self.psi, other.psi),
            bandwidth: how(self.bandwidth, other.bandwidth),
            injection: how(self.injection, other.injection),
            driver: how(self.driver, other.driver),
        }
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        Source::ALL.iter().map(|source| self.of(*source)).sum()
    }
}

/// The numbers as they are raised.
#[derive(Debug, Default)]
pub(super) struct Counts([Count; Source::COUNT]);

impl Counts {
    pub(super) fn add(&self, source: Source) {
        self.0[source as usize].add(1);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn k02_each_source_has_a_number_under_its_name() {
        let counts = Counts::default();
        for (n, source) in Source::ALL.into_iter().enumerate() {
            (0..=n).for_each(|_| counts.add(source));
        }
        let seen = counts.snapshot();
        let json = serde_json::to_value(seen).expect("numbers");
        for (n, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(seen.of(source), n as u64 + 1);
            assert_eq!(json[source.name()], n as u64 + 1, "{source:?}");
            let name = serde_json::to_value(source).expect("a name");
            assert_eq!(name, source.name());
        }
        assert_eq!(seen.total(), (1..=6).sum::<u64>());
    }
}
