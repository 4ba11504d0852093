// SPDX-License-Identifier: MIT OR Apache-2.0
//! The notes: which kind was taken while which was held, and whether that can deadlock.
//!
//! Filled by [`super::on`].

use std::collections::{BTreeSet, HashMap};
use std::panic::Location;

/// One kind of thing that can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// The locks made at one place of a program.
    Lock(&'static Location<'static>),
    /// One queue.
    Queue(u64),
    /// The items of one function: its name and its address, as closures share names.
    Function(&'static str, usize),
}

#[derive(Debug, Default)]
pub(super) struct Orders {
    numbers: HashMap<Class, usize>,
    names: Vec<String>,
    /// By number: what was taken while this was held.
    after: Vec<BTreeSet<usize>>,
    reported: BTreeSet<(usize, usize)>,
    reports: Vec<String>,
}

impl Orders {
    /// The number of a class; `name` is asked for the first time only.
    pub(super) fn number(&mut self, class: Class, name: impl FnOnce() -> String) -> usize {
        let next = self.names.len();
        let number = *self.numbers.entry(class).or_insert(next);
        if number == next {
            self.names.push(name());
            self.after.push(BTreeSet::new());
        }
        number
    }

    /// `taken` is about to be waited for while all of `held` is held. The report, if that is new
    /// and contradicts what is known. One is enough: the rest of what is held, such as the function
    /// of a run beside its queue, would tell the same.
    pub(super) fn take(&mut self, held: &[usize], taken: usize) -> Option<String> {
        let mut report = None;
        for &held in held {
            let found = self.note(held, taken);
            report = report.or(found);
        }
        self.reports.extend(report.clone());
        report
    }

    fn note(&mut self, held: usize, taken: usize) -> Option<String> {
        if held == taken || !self.after[held].insert(taken) {
            return None;
        }
        let back = self.path(taken, held)?;
        if !self.reported.insert((held.min(taken), held.max(taken))) {
            return None;
        }
        let known: Vec<&str> = back.iter().map(|&n| self.names[n].as_str()).collect();
        Some(format!(
            "possible deadlock: {} is waited for with {} held, but elsewhere the order is {}",
            self.names[taken],
            self.names[held],
            known.join(", then ")
        ))
    }

    pub(super) fn reports(&self) -> &[String] {
        &self.reports
    }

    /// A chain of notes from one kind to another.
    fn path(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        let mut came_from = HashMap::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            if at == to {
                let mut path = vec![to];
                let mut at = to;
                while at != from {
                    at = came_from[&at];
                    path.push(at);
                }
                path.reverse();
                return Some(path);
            }
            for &next in &self.after[at] {
                if next != from && !came_from.contains_key(&next) {
                    came_from.insert(next, at);
                    open.push(next);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(orders: &mut Orders, n: u64) -> Vec<usize> {
        (0..n)
            .map(|q| orders.number(Class::Queue(q), || format!("q{q}")))
            .collect()
    }

    #[test]
    fn s10_15_a_cycle_of_three_is_found_once() {
        let mut orders = Orders::default();
        let n = numbers(&mut orders, 4);
        assert_eq!(orders.take(&[n[0]], n[1]), None);
        assert_eq!(orders.take(&[n[1]], n[2]), None);
        assert_eq!(orders.take(&[n[1]], n[3]), None);
        let report = orders.take(&[n[2]], n[0]).expect("a cycle");
        assert!(report.ends_with("q0, then q1, then q2"), "{report}");
        assert_eq!(orders.take(&[n[2]], n[0]), None);
        assert_eq!(orders.take(&[n[0]], n[0]), None);
        assert_eq!(orders.take(&[], n[0]), None);
        assert_eq!(orders.reports().len(), 1);
        assert_eq!(numbers(&mut orders, 4), n);
    }
}
