// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `top` knows: the figures of each disk, the rates since the last time, and what was chosen.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ublk_ramdisk::error::Failure;
use ublk_ramdisk::stats::DeviceStats;

use super::Answer;
use crate::commands::stats::Asked;

/// An answer that takes longer than the interval and this time is said to be missing.
const PATIENCE: Duration = Duration::from_secs(2);
/// How far back the history goes.
const MINUTE: Duration = Duration::from_secs(60);
/// The longest time between two looks that counts as silence. `top` looks ten times a second: if it
/// did not, it was stopped itself (Ctrl-Z), and no server is to blame.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// What is shown, and how it was chosen with the keys.
pub struct Model {
    /// Time between two pictures.
    pub interval: Duration,
    /// The disks as they are, lowest id first.
    pub disks: Vec<DeviceStats>,
    /// What they do per second, in the same order.
    pub rates: Vec<DeviceStats>,
    /// The rates of the last minute by disk, oldest first.
    pub past: BTreeMap<u32, VecDeque<DeviceStats>>,
    /// Which of them is looked at: a place in `disks`.
    pub chosen: usize,
    /// How many of its hardware queues stand above the screen.
    pub scrolled: usize,
    /// What is wrong with those that do not answer; their figures stay as they were.
    pub trouble: Option<String>,
    /// When the last answer came.
    taken: Option<Instant>,
    /// When [`Model::silence`] was called last, and how long there has been no answer by then.
    looked: Instant,
    silent: Duration,
}

impl Model {
    /// Knows nothing yet.
    pub fn new(interval: Duration) -> Model {
        Model {
            interval,
            disks: Vec::new(),
            rates: Vec::new(),
            past: BTreeMap::new(),
            chosen: 0,
            scrolled: 0,
            trouble: None,
            taken: None,
            looked: Instant::now(),
            silent: Duration::ZERO,
        }
    }

    /// Takes what the servers have said at a moment, and makes rates of it and what they said before.
    ///
    /// # Errors
    /// The one disk that was named is gone.
    pub fn take(&mut self, (when, answer): Answer) -> Result<(), Failure> {
        let Asked { mut disks, silent } = answer?;
        // A disk whose server lives but did not answer stays on the screen with its last figures.
        let kept = |disk: &&DeviceStats| silent.iter().any(|(id, _)| *id == disk.id);
        disks.extend(self.disks.iter().filter(kept).cloned());
        disks.sort_by_key(|disk| disk.id);
        self.trouble = silent.first().map(|(_, failure)| failure.to_string());
        let seconds = self
            .taken
            .map_or(0.0, |taken| when.duration_since(taken).as_secs_f64());
        let rates = disks.iter().map(|now| {
            let earlier = self.disks.iter().find(|before| before.id == now.id);
            // A disk that has just come has done nothing yet.
            now.per_second(earlier.unwrap_or(now), seconds)
        });
        self.rates = rates.collect();
        self.remember();
        let chosen_id = self.disks.get(self.chosen).map(|disk| disk.id);
        // Disks come and go; the one that is looked at stays.
        let place = disks.iter().position(|disk| Some(disk.id) == chosen_id);
        self.chosen = place.unwrap_or(0);
        self.disks = disks;
        self.taken = Some(when);
        (self.looked, self.silent) = (when, Duration::ZERO);
        Ok(())
    }

    /// Adds the rates to those of the last minute, and forgets disks that are gone.
    fn remember(&mut self) {
        let most = (MINUTE.as_secs_f64() / self.interval.as_secs_f64()).ceil() as usize;
        let rates = &self.rates;
        self.past
            .retain(|id, _| rates.iter().any(|disk| disk.id == *id));
        for disk in rates {
            let past = self.past.entry(disk.id).or_default();
            past.push_back(disk.clone());
            past.drain(..past.len().saturating_sub(most));
        }
    }

    /// Seconds without an answer, if that is longer than it should be.
    pub fn silence(&mut self, now: Instant) -> Option<u64> {
        self.silent += now.duration_since(self.looked).min(LONGEST_LOOK);
        self.looked = now;
        (self.silent > self.interval + PATIENCE).then_some(self.silent.as_secs())
    }

    /// Looks at the next disk, if there is one.
    pub fn choose_next(&mut self) {
        if self.chosen + 1 < self.disks.len() {
            (self.chosen, self.scrolled) = (self.chosen + 1, 0);
        }
    }

    /// Looks at the disk before, if there is one.
    pub fn choose_previous(&mut self) {
        if self.chosen > 0 {
            (self.chosen, self.scrolled) = (self.chosen - 1, 0);
        }
    }

    /// Shows hardware queues further down.
    pub fn scroll_down(&mut self) {
        let queues = self.disks.get(self.chosen).map_or(0, |d| d.queues.len());
        self.scrolled = (self.scrolled + 4).min(queues.saturating_sub(1));
    }

    /// Shows hardware queues further up.
    pub fn scroll_up(&mut self) {
        self.scrolled = self.scrolled.saturating_sub(4);
    }
}
