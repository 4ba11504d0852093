// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options for studies, which `add --help` does not list: they show what the usual choice is good
//! for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use workqueue::Flags;

/// kblockd's flags: names with commas between them (`mem_reclaim`, `highpri`, `percpu`, `unbound`,
/// `cpu_intensive`), or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KblockdFlags(Flags);

/// The flags that make a difference to kblockd, and their names.
const NAMES: [(&str, Flags); 5] = [
    ("mem_reclaim", Flags::MEM_RECLAIM),
    ("highpri", Flags::HIGHPRI),
    ("percpu", Flags::PERCPU),
    ("unbound", Flags::UNBOUND),
    ("cpu_intensive", Flags::CPU_INTENSIVE),
];

impl KblockdFlags {
    /// As the workqueue takes them.
    pub fn flags(self) -> Flags {
        self.0
    }
}

impl Default for KblockdFlags {
    fn default() -> Self {
        Self(Flags::MEM_RECLAIM | Flags::HIGHPRI | Flags::PERCPU)
    }
}

impl FromStr for KblockdFlags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut flags = Flags::empty();
        for word in text.split(',').filter(|_| text != "none") {
            let known = NAMES.iter().find(|(name, _)| *name == word);
            let (_, flag) = known.ok_or(
                "expected none, or mem_reclaim, highpri, cpu_intensive and percpu or unbound, with \
                 commas between",
            )?;
            flags |= *flag;
        }
        if flags.contains(Flags::PERCPU | Flags::UNBOUND) {
            return Err("percpu and unbound exclude each other".to_owned());
        }
        Ok(Self(flags))
    }
}

impl TryFrom<String> for KblockdFlags {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for KblockdFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set: Vec<_> = NAMES
            .iter()
            .filter(|(_, flag)| self.0.contains(*flag))
            .map(|(name, _)| *name)
            .collect();
        match set.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&set.join(",")),
        }
    }
}

impl From<KblockdFlags> for String {
    fn from(flags: KblockdFlags) -> String {
        flags.to_string()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn d1_the_flags_are_read_as_they_are_written() {
        assert_eq!(KblockdFlags::default().flags(), crate::mq::Kblockd::FLAGS);
        assert_eq!(
            KblockdFlags::default().to_string(),
            "mem_reclaim,highpri,percpu"
        );
        for text in [
            "none",
            "highpri",
            "mem_reclaim,unbound",
            "mem_reclaim,highpri,percpu",
        ] {
            let flags: KblockdFlags = text.parse().expect(text);
            assert_eq!(flags.to_string(), text);
        }
        for (bad, why) in [
            ("", "expected none"),
            ("mem_reclaim,", "expected none"),
            ("bh", "expected none"),
            ("percpu,unbound", "exclude"),
        ] {
            let found = bad.parse::<KblockdFlags>().expect_err(bad);
            assert!(found.contains(why), "{bad}: {found}");
        }
    }
}
