// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random numbers that a seed repeats (splitmix64).

use std::ops::Range;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of random numbers.
pub struct Rng(u64);

impl Rng {
    /// The seed of this run: `UBLK_TEST_SEED`, or the clock.
    pub fn seed_of_run() -> u64 {
        static SEED: OnceLock<u64> = OnceLock::new();
        *SEED.get_or_init(|| match std::env::var("UBLK_TEST_SEED") {
            Ok(text) => text.parse().expect("UBLK_TEST_SEED is a whole number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |now| now.as_nanos() as u64 >> 10),
        })
    }

    /// A source that gives the same numbers in every run.
    #[allow(dead_code)] // Not by every program that uses this file.
    pub fn of(seed: u64) -> Rng {
        Rng(seed)
    }

    /// A source of its own for each `stream` of the run.
    pub fn of_run(stream: u64) -> Rng {
        let mut rng = Rng(Rng::seed_of_run() ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93));
        rng.next();
        rng
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number of the range.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// Fills bytes that no other call gives.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            word.copy_from_slice(&number[..word.len()]);
        }
    }
}
