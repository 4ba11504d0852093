// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a rule delays requests.

use std::time::Duration;

use crate::random::{exp, Random};

/// The longest delay.
pub const MAX_DELAY: Duration = Duration::from_secs(20);

/// A delay, in nanoseconds. What is drawn beyond [`MAX_DELAY`] is cut to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Always this.
    Constant(u64),
    /// Every value from the first to the second alike.
    Uniform(u64, u64),
    /// Exponential, with this mean.
    Exponential(u64),
    /// Log-normal: the median, and the deviation of the logarithm in parts of a billion.
    LogNormal(u64, u64),
    /// These one after the other, and again from the beginning.
    List(Vec<u64>),
}

impl Distribution {
    /// The delay of the `n`-th request. Equal numbers of `random` give equal delays.
    pub(super) fn draw(&self, random: &mut Random, n: u64) -> u64 {
        let delay = match self {
            Self::Constant(ns) => *ns,
            Self::Uniform(least, most) => least + random.below(most - least + 1),
            Self::Exponential(mean) => random.exponential(*mean as f64) as u64,
            Self::LogNormal(median, sigma) => {
                let sigma = *sigma as f64 / 1e9;
                (*median as f64 * exp(sigma * random.normal())) as u64
            }
            Self::List(delays) => delays[(n % delays.len() as u64) as usize],
        };
        delay.min(MAX_DELAY.as_nanos() as u64)
    }
}
