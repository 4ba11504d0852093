// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set of CPU numbers, with the kernel's text forms: `0-3,8` to read lists, a hex mask to show.
//!
//! Made by callers and by [`crate::env::topology`]; pools bind threads to it through
//! [`crate::sys::cpu`]. Kernel counterpart: `struct cpumask`.

use std::fmt;

/// A set of CPUs by number. It holds numbers below 8192; others are never in it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct CpuSet {
    // No trailing zero word, so that equal sets are equal values.
    words: Vec<u64>,
}

impl CpuSet {
    /// The set without any CPU.
    pub fn new() -> Self {
        Self::default()
    }

    /// The CPUs `0..n`.
    pub fn first(n: usize) -> Self {
        (0..n.min(MAX_CPUS)).collect()
    }

    /// The set of one CPU.
    pub fn single(cpu: usize) -> Self {
        std::iter::once(cpu).collect()
    }

    /// Adds a CPU; false if it was in the set, or if its number is 8192 or higher.
    pub fn insert(&mut self, cpu: usize) -> bool {
        if cpu >= MAX_CPUS {
            return false;
        }
        let (word, bit) = (cpu / 64, 1u64 << (cpu % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        fresh
    }

    /// Takes a CPU out; true if it was in the set.
    pub fn remove(&mut self, cpu: usize) -> bool {
        let had = self.contains(cpu);
        if had {
            self.words[cpu / 64] &= !(1u64 << (cpu % 64));
            self.trim();
        }
        had
    }

    /// True if this CPU is in the set.
    pub fn contains(&self, cpu: usize) -> bool {
        self.words
            .get(cpu / 64)
            .is_some_and(|w| w & (1u64 << (cpu % 64)) != 0)
    }

    /// How many CPUs the set has.
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// True if there is no CPU in the set.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The CPUs in rising order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &w)| {
            let mut rest = w;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                Some(i * 64 + bit)
            })
        })
    }

    /// The lowest CPU.
    pub fn lowest(&self) -> Option<usize> {
        self.iter().next()
    }

    /// The next CPU after `cpu`, starting over at the lowest.
    pub fn next_after(&self, cpu: usize) -> Option<usize> {
        self.iter().find(|&c| c > cpu).or_else(|| self.lowest())
    }

    /// The CPUs in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut out = Self {
            words: self
                .words
                .iter()
                .zip(&other.words)
                .map(|(a, b)| a & b)
                .collect(),
        };
        out.trim();
        out
    }

    /// The CPUs in either set.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.extend(other.iter());
        out
    }

    /// True if all CPUs of this set are in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.iter().all(|c| other.contains(c))
    }

    /// True if the two sets share a CPU.
    pub fn intersects(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// Reads the kernel's list form: `0-3,8`. An empty text is the empty set.
    pub fn parse_list(text: &str) -> Option<Self> {
        let mut set = Self::new();
        for part in text
            .trim()
            .split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty())
        {
            let (low, high) = match part.split_once('-') {
                Some((a, b)) => (a.parse().ok()?, b.parse().ok()?),
                None => (part.parse().ok()?, part.parse::<usize>().ok()?),
            };
            if low > high || high >= MAX_CPUS {
                return None;
            }
            set.extend(low..=high);
        }
        Some(set)
    }

    /// The list form: `0-3,8`.
    pub fn to_list(&self) -> String {
        let mut out = String::new();
        let mut cpus = self.iter().peekable();
        while let Some(low) = cpus.next() {
            let mut high = low;
            while cpus.peek() == Some(&(high + 1)) {
                high += 1;
                cpus.next();
            }
            if !out.is_empty() {
                out.push(',');
            }
            out.push_str(&if low == high {
                low.to_string()
            } else {
                format!("{low}-{high}")
            });
        }
        out
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

/// Highest CPU number the crate accepts, plus one.
pub(crate) const MAX_CPUS: usize = 8192;

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        let mut set = Self::new();
        set.extend(cpus);
        set
    }
}

impl Extend<usize> for CpuSet {
    fn extend<I: IntoIterator<Item = usize>>(&mut self, cpus: I) {
        for cpu in cpus {
            self.insert(cpu);
        }
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet({})", self.to_list())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        let set = CpuSet::parse_list("0-3,8, 64-65").expect("a good list");
        assert_eq!(set.to_list(), "0-3,8,64-65");
        assert_eq!(set.len(), 7);
        assert!(CpuSet::parse_list("3-1").is_none());
        assert!(CpuSet::parse_list("x").is_none());
        assert!(CpuSet::parse_list("0-99999999999").is_none());
    }

    #[test]
    fn sets_behave_as_sets() {
        let (a, b) = (
            CpuSet::first(4),
            CpuSet::parse_list("2-5").expect("a good list"),
        );
        assert_eq!(a.and(&b).to_list(), "2-3");
        assert_eq!(a.or(&b).to_list(), "0-5");
        assert!(CpuSet::single(2).is_subset(&a) && !b.is_subset(&a) && a.intersects(&b));
        assert_eq!(a.next_after(3), Some(0));
        let mut c = CpuSet::single(70);
        assert!(c.remove(70) && !c.remove(70) && c.is_empty());
        assert_eq!(c, CpuSet::new());
        assert!(!c.insert(1 << 40) && CpuSet::single(usize::MAX).is_empty());
        assert_eq!(CpuSet::first(1 << 40).len(), MAX_CPUS);
    }
}
