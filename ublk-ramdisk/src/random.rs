// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pseudo-random numbers, the same for the same seed on every machine and for ever: logarithm and
//! exponential are made of steps that IEEE 754 rounds in one way only.

/// SplitMix64: small, quick, and good enough to choose blocks by.
///
/// The state only counts on; `scatter` makes a number of it.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

/// Turns numbers that differ in few bits into numbers that differ in many.
pub(crate) fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The number in the `n`-th place of a stream.
pub(crate) fn nth(stream: u64, n: u64) -> u64 {
    scatter(stream.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

impl Random {
    /// The stream of one user. Users of the same seed have different streams.
    pub(crate) fn new(seed: u64, user: u64) -> Self {
        Self(scatter(seed ^ scatter(user)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        let now = self.0;
        self.0 = now.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scatter(now)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // The high half of a product: no division, and nearly even for any `end`.
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// True in `share` per cent of all cases.
    pub(crate) fn per_cent(&mut self, share: u8) -> bool {
        share > 0 && self.below(100) < u64::from(share)
    }

    /// A number above 0 and up to 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Exponentially distributed.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -ln(self.unit()) * mean
    }

    /// Normally distributed around 0 with deviation 1 (Marsaglia's polar method).
    pub(crate) fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                return x * (-2.0 * ln(square) / square).sqrt();
            }
        }
    }
}

/// Natural logarithm of a normal number above 0: ln(2^e m), with m around 1 by the series of artanh.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as f64 - 1023.0;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        (m, exponent) = (m / 2.0, exponent + 1.0);
    }
    let s = (m - 1.0) / (m + 1.0);
    let terms = (0..12).rev().map(|n| 1.0 / f64::from(2 * n + 1));
    let series = terms.fold(0.0, |sum, term| sum * s * s + term);
    exponent * std::f64::consts::LN_2 + 2.0 * s * series
}

/// e to the power of a number from -700 to 700: the series around 0, then a power of two.
pub(crate) fn exp(x: f64) -> f64 {
    let x = x.clamp(-700.0, 700.0);
    let twos = (x / std::f64::consts::LN_2).round();
    let r = x - twos * std::f64::consts::LN_2;
    let series = (1..16)
        .rev()
        .fold(1.0, |sum, n| 1.0 + r / f64::from(n) * sum);
    series * f64::from_bits(((twos as i64 + 1023) as u64) << 52)
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
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..100_000 {
            let z = random.normal();
            (sum, squares) = (sum + z, squares + z * z);
        }
        assert!((sum / 1e5).abs() < 0.02 && (squares / 1e5 - 1.0).abs() < 0.02);
        for x in [1e-9, 0.3, 1.0, 2.7, 1e9] {
            assert!(
                (ln(x) - x.ln()).abs() < 1e-14 * x.ln().abs().max(1.0),
                "{x}"
            );
            assert!((exp(x.ln()) / x - 1.0).abs() < 1e-13, "{x}");
        }
    }
}
