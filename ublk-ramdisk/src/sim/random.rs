// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pseudo-random numbers, the same for the same seed on every machine.

/// SplitMix64: small, quick, and good enough to choose blocks by.
///
/// The state only counts on; `scatter` makes a number of it.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

/// Turns numbers that differ in few bits into numbers that differ in many.
pub(super) fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// The stream of one user. Users of the same seed have different streams.
    pub(super) fn new(seed: u64, user: u64) -> Self {
        Self(scatter(seed ^ scatter(user)))
    }

    pub(super) fn next(&mut self) -> u64 {
        let now = self.0;
        self.0 = now.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scatter(now)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        // The high half of a product: no division, and nearly even for any `end`.
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// True in `share` per cent of all cases.
    pub(super) fn per_cent(&mut self, share: u8) -> bool {
        share > 0 && self.below(100) < u64::from(share)
    }

    /// A number above 0 and up to 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -self.unit().ln() * mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_users_differ() {
        let some = |seed, user| {
            let mut random = Random::new(seed, user);
            [random.next(), random.below(1000), random.next()]
        };
        assert_eq!(some(1, 2), some(1, 2));
        assert_ne!(some(1, 2), some(1, 3));
        assert_ne!(some(1, 2), some(2, 2));
    }

    #[test]
    fn shares_and_means_are_met_nearly() {
        let mut random = Random::new(7, 0);
        let hits = (0..100_000).filter(|_| random.per_cent(30)).count();
        assert!(hits.abs_diff(30_000) < 1000, "{hits}");
        let sum: f64 = (0..100_000).map(|_| random.exponential(5.0)).sum();
        assert!((sum / 100_000.0 - 5.0).abs() < 0.1, "{sum}");
        assert!((0..1000).all(|_| random.below(7) < 7));
    }
}
